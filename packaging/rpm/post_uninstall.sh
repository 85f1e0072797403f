# $1: 0 when it is removed, 1 when it is upgraded.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null || :
    if [ "$1" -ge 1 ]; then
        # Not stop and start: so systemd keeps what flowlog has given to it.
        systemctl try-restart flowlog.service >/dev/null || :
    fi
fi
if [ "$1" -eq 0 ]; then
    # What flowlog adds to make the kernel track connections.
    nft delete table inet flowlog 2>/dev/null || :
    # The tool that makes the rpm does not list directories.
    rmdir /usr/share/doc/flowlog/docs /usr/share/doc/flowlog /usr/share/licenses/flowlog /etc/flowlog 2>/dev/null || :
fi
