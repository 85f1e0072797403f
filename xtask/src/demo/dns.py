"""A name server that knows no name, and a client for it: `serve ADDRESS` or `ask ADDRESS`."""

import socket
import sys

PORT = 53
# Header (id, recursion desired, one question), then the question: example.org, type A, class IN.
QUESTION = bytes.fromhex("464c 0100 0001 0000 0000 0000 076578616d706c65 036f7267 00 0001 0001")

action, address = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    if action == "serve":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, PORT))
        while True:
            question, client = sock.recvfrom(512)
            # The same question as an answer: no such name.
            sock.sendto(question[:2] + b"\x81\x83" + question[4:], client)
    sock.settimeout(5)
    sock.connect((address, PORT))
    sock.send(QUESTION)
    answer = sock.recv(512)
    if answer[:2] != QUESTION[:2]:
        sys.exit("the answer is to another question")
