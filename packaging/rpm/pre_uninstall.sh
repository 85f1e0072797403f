# $1: 0 when it is removed, 1 when it is upgraded.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now flowlog.service >/dev/null || :
    else
        systemctl --no-reload disable flowlog.service >/dev/null 2>&1 || :
    fi
fi
