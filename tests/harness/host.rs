//! Hosts that are set up in another way: other file systems are mounted, or root may do less.
//!
//! Each is a thread of its own and what that starts. The machine itself stays as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::thread::on_a_thread;

const NONE: Option<&str> = None;

/// Runs `work` where nobody else sees what it mounts and unmounts.
pub(crate) fn with_own_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
        work()
    })
}

/// Unmounts all file systems of a type.
#[track_caller]
pub(crate) fn unmount_all(fs_type: &str) {
    // From the last one on: others may be mounted in them.
    for mounted in mounted("self").iter().rev().filter(|mounted| mounted.fs_type == fs_type) {
        umount2(Path::new(&mounted.at), MntFlags::MNT_DETACH).unwrap();
    }
}

/// Mounts tracefs, if nobody has.
#[track_caller]
pub(crate) fn mount_tracefs() {
    const TRACEFS: &str = "/sys/kernel/tracing";
    if !Path::new(TRACEFS).join("events").exists() {
        mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), NONE).unwrap();
    }
}

/// Puts an empty directory in the place of another.
#[track_caller]
pub(crate) fn cover(directory: &str) {
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
}

/// A file system that a process sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) at: String,
    pub(crate) fs_type: String,
}

/// All that a process sees, in the order in which they were mounted.
#[track_caller]
fn mounted(process: &str) -> Vec<Mounted> {
    let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    let parse = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let (at, fs_type) = (mount.split(' ').nth(4)?, file_system.split(' ').next()?);
        Some(Mounted { at: at.to_owned(), fs_type: fs_type.to_owned() })
    };
    text.lines().map(|line| parse(line).unwrap()).collect()
}

/// Of what a process sees, the kinds that flowlog has a use for: other tests mount and unmount other ones.
#[track_caller]
pub(crate) fn mounted_for_ebpf(process: &str) -> Vec<Mounted> {
    let mut mounted = mounted(process);
    mounted.retain(|mounted| ["bpf", "cgroup2", "tracefs", "debugfs"].contains(&&*mounted.fs_type));
    mounted
}

/// The user and group `nobody`.
pub(crate) const NOBODY: u32 = 65_534;

/// The same command as another user than root, with these capabilities only.
pub(crate) fn as_nobody(command: &Command, capabilities: &[Capability]) -> Command {
    let names =
        capabilities.iter().map(|capability| capability.to_string().to_lowercase().replace("cap_", "+"));
    let list = ["-all".to_owned()].into_iter().chain(names).collect::<Vec<_>>().join(",");
    let mut as_nobody = Command::new("setpriv");
    as_nobody.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups");
    as_nobody.arg(format!("--inh-caps={list}")).arg(format!("--ambient-caps={list}"));
    as_nobody.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => as_nobody.env(name, value),
            None => as_nobody.env_remove(name),
        };
    }
    as_nobody
}

/// Runs `work` where programs have these capabilities only, also those of root.
pub(crate) fn with_capabilities<T: Send>(kept: &[Capability], work: impl FnOnce() -> T + Send) -> T {
    on_a_thread(|| {
        for capability in caps::runtime::thread_all_supported() {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).unwrap();
            }
        }
        work()
    })
}
