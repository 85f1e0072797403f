#!/bin/sh
# The first process of a virtual machine of `cargo xtask vm-test`. Its console has what the kernel says, the
# second serial line what this script and the tests say.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root FLOWLOG_BIN=/usr/bin/flowlog FLOWLOG_VM=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec >/dev/ttyS1 2>&1
echo vm > /proc/sys/kernel/hostname
ip link set lo up
# What firewalls, and a system that mounts images, would have loaded.
modprobe -a nf_conntrack_netlink nf_synproxy_core loop
# The default depends on the memory, and the tests make 60000 entries at once.
echo 524288 > /proc/sys/net/netfilter/nf_conntrack_max
cd /tmp || exit

echo "== kernel $(cat /proc/sys/kernel/osrelease)"
echo "== clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
# Two that never rest, beside which the tests have to pass.
case "$(cat /proc/cmdline)" in *flowlog_load*)
    echo "== load"
    for _ in 1 2; do
        while :; do :; done &
    done
    ;;
esac
echo "== doctor"
flowlog doctor --fix --json --output /tmp/flowlog
echo "== tests"
# One argument a line.
IFS='
'
# shellcheck disable=SC2046 # Split on purpose.
e2e $(cat /arguments)
echo "== end $?"
echo o > /proc/sysrq-trigger
# The first process must not end: the kernel switches off in its own time.
while :; do sleep 1; done
