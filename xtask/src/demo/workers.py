"""A server whose workers accept, as web servers do: `workers.py ADDRESS PORT`. Answers each line with one."""

import ctypes
import os
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1
WORKERS = 2

address, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server((address, port), family=socket.AF_INET6, dualstack_ipv6=True)
parent = os.getpid()
for _ in range(WORKERS):
    if os.fork() == 0:
        # The demo ends the parent only.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        while os.getppid() == parent:
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as lines:
                lines.readline()
                lines.write(b"%d\n" % os.getpid())
signal.pause()
