# $1: 1 when it is installed, 2 when it is upgraded.
systemd-sysusers flowlog.conf >/dev/null || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null || :
fi
if [ "$1" -eq 1 ]; then
    # Whether it is enabled is for the distribution's presets and for the operator.
    systemctl --no-reload preset flowlog.service >/dev/null 2>&1 || :
fi
