//! A systemd of its own: the real one, as the first process of a pid namespace, in a cgroup of its own, with the file system
//! of this machine below a layer that nobody else sees. So services are tested without a virtual machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::process::{Finished, Process, run};
use super::wait::wait_for;

const SYSTEMD: &str = "/lib/systemd/systemd";

/// Takes a cgroup of its own, which it prints, and makes namespaces below it.
const UNSHARE: &str = r#"set -e
cgroup=$(findmnt --noheadings --output TARGET --types cgroup2 | head -n 1)/flowlog-test-$$
mkdir "$cgroup"
echo $$ > "$cgroup/cgroup.procs"
echo "$cgroup"
exec unshare --pid --fork --kill-child --mount --cgroup --net --uts --ipc sh -c "$@"
"#;

/// Makes the file system and becomes systemd. The arguments are an empty directory, and pairs of a file and its place.
/// Services that would set up the machine are masked.
const BOOT: &str = r#"set -e
new=$1
shift
mount --make-rprivate /
mount -t tmpfs none "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$new/upper,workdir=$new/work" "$new/root"
root=$new/root
units=$root/etc/systemd/system
rm -rf "$units"/*.wants
for unit in systemd-sysctl systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-modules-load systemd-binfmt \
    systemd-random-seed systemd-udevd systemd-udev-trigger systemd-hwdb-update systemd-machine-id-commit \
    systemd-remount-fs systemd-update-utmp kmod-static-nodes ldconfig
do
    ln -sf /dev/null "$units/$unit.service"
done
for unit in systemd-udevd-control.socket systemd-udevd-kernel.socket proc-sys-fs-binfmt_misc.automount \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
do
    ln -sf /dev/null "$units/$unit"
done
while [ $# -gt 0 ]; do
    mkdir -p "$root${2%/*}"
    cp "$1" "$root$2"
    shift 2
done
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 none "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount --rbind /sys "$root/sys"
umount -R "$root/sys/fs/cgroup"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/tmp"
ip link set lo up
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
systemd-sysusers
export container=other
exec /lib/systemd/systemd --system --unit=basic.target
"#;

/// It ends when this is dropped, and all its services with it.
pub(crate) struct Systemd {
    /// Ends it with itself.
    unshare: Process,
    /// Its process id here.
    pid: i32,
    cgroup: PathBuf,
    _root: TempDir,
}

impl Systemd {
    /// Boots it with these files at their places, in a network namespace of its own. `None` where it is not installed, which
    /// is said.
    #[track_caller]
    pub(crate) fn boot(files: &[(&Path, &str)]) -> Option<Self> {
        if !Path::new(SYSTEMD).exists() {
            println!("this machine lacks systemd");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", UNSHARE, "sh", BOOT, "sh"]).arg(root.path());
        for (file, place) in files {
            command.arg(file).arg(place);
        }
        let mut unshare = Process::spawn(command);
        let pid = wait_for("the first process of systemd", || {
            assert!(unshare.is_running(), "{}", unshare.stderr());
            let parent = unshare.pid();
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
            let pid: i32 = children.split_whitespace().next()?.parse().ok()?;
            (fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "systemd").then_some(pid)
        });
        let cgroup = PathBuf::from(unshare.stdout().trim());
        let systemd = Self { unshare, pid, cgroup, _root: root };
        wait_for("systemd to have booted", || {
            let state = systemd.run(&["systemctl", "is-system-running"]).stdout;
            ["running", "degraded"].contains(&state.trim()).then_some(())
        });
        Some(systemd)
    }

    /// Runs a command in its namespaces.
    #[track_caller]
    pub(crate) fn run(&self, command: &[&str]) -> Finished {
        let mut inside = Command::new("nsenter");
        inside.args(["--pid", "--mount", "--cgroup", "--net", "--uts", "--ipc"]);
        inside.arg("--target").arg(self.pid.to_string()).args(command);
        run(inside)
    }

    /// The number that a process of it has here.
    #[track_caller]
    pub(crate) fn host_pid(&self, inside: u32) -> i32 {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.pid)).unwrap();
        let numbers = fs::read_dir("/proc").unwrap().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_it = |pid: &i32| {
            let is_of_it = fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|of| of == namespace);
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let last = numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok());
            is_of_it && last == Some(inside)
        };
        numbers.into_iter().find(is_it).unwrap()
    }

    /// A path of it, as it is to be read from here.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("/proc/{}/root{path}", self.pid)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With it all of its pid namespace ends.
        self.unshare.signal(Signal::SIGKILL);
        wait_for("the cgroups of systemd to be empty", || remove_all(&self.cgroup).ok());
    }
}

/// Removes a cgroup with those below it, where nobody is in them any more.
fn remove_all(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
