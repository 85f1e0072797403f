//! The processes that /proc shows now.

use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use flowlog_common::ARGS_LEN;
use procfs::process::{Process as Directory, StatFlags, all_processes};
use procfs::{ProcResult, ticks_per_second};

use super::exe::resolved;
use crate::attribution::cmdline::{self, Mode};
use crate::host::rights::Raised;
use crate::record::{CommandLine, Process};
use crate::time::NS_PER_S;

/// The login uid where it is not set: `AUDIT_UID_UNSET` of `linux/audit.h`.
const UNSET: u32 = u32::MAX;

/// Calls `each` with every process. Programs of kernel threads are not known, and processes that end
/// meanwhile are left out. `boot_ns` is when the host began to run, in `CLOCK_REALTIME`.
///
/// # Errors
///
/// Where /proc cannot be listed.
pub fn walk(boot_ns: u64, mode: Mode, mut each: impl FnMut(Process)) -> ProcResult<()> {
    let _raised = Raised::to_look_into();
    for directory in all_processes()?.flatten() {
        if let Ok(Some(process)) = read(&directory, boot_ns, mode) {
            each(process);
        }
    }
    Ok(())
}

/// All is read below one open directory: it is of one process, also where the number is used again. Where
/// it runs another program meanwhile, an event tells of that.
fn read(directory: &Directory, boot_ns: u64, mode: Mode) -> ProcResult<Option<Process>> {
    let stat = directory.stat()?;
    let Ok(tgid) = u32::try_from(stat.pid) else { return Ok(None) };
    // It has ended, and waits for its parent.
    if matches!(stat.state, 'Z' | 'X') {
        return Ok(None);
    }
    let parent_exe = Directory::new(stat.ppid).and_then(|parent| parent.exe());
    // While a process has the same parent, that one lives, and its number is its own.
    let parent_exe = parent_exe.ok().filter(|_| directory.stat().is_ok_and(|now| now.ppid == stat.ppid));
    let start_ns = stat.starttime.checked_mul(NS_PER_S).map(|ticks| ticks / ticks_per_second());
    Ok(Some(Process {
        tgid,
        start_ns: start_ns.and_then(|start| boot_ns.checked_add(start)),
        // Zero: the first process and the first kernel thread have none.
        ppid: u32::try_from(stat.ppid).ok().filter(|ppid| *ppid != 0),
        login_uid: directory.loginuid().ok().filter(|uid| *uid != UNSET),
        exe: text(directory.exe().ok().as_deref()),
        cmdline: cmdline(directory, mode).ok().flatten().map(CommandLine::from),
        parent_exe: text(parent_exe.as_deref()),
        is_kernel: StatFlags::from_bits_retain(stat.flags).contains(StatFlags::PF_KTHREAD),
    }))
}

fn text(path: Option<&Path>) -> Option<Arc<str>> {
    path.and_then(|path| resolved(path.as_os_str().as_bytes()))
}

fn cmdline(directory: &Directory, mode: Mode) -> ProcResult<Option<String>> {
    if mode == Mode::Off {
        return Ok(None);
    }
    let mut args = Vec::new();
    // One more tells whether there are more.
    let limit = u64::try_from(ARGS_LEN).unwrap_or(u64::MAX);
    directory.open_relative("cmdline")?.take(limit.saturating_add(1)).read_to_end(&mut args)?;
    let is_cut = args.len() > ARGS_LEN;
    args.truncate(ARGS_LEN);
    Ok(cmdline::text(&args, is_cut, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there() {
        let me = Directory::myself().unwrap();
        let mut found = None;
        let mut is_second_kernel = false;
        let own = u32::try_from(me.pid).unwrap();
        walk(0, Mode::Full, |process| {
            assert!(!process.is_kernel || process.exe.is_none(), "runs a program: {process:?}");
            is_second_kernel |= process.tgid == 2 && process.is_kernel;
            if process.tgid == own {
                found = Some(process);
            }
        })
        .unwrap();
        // Not in a container.
        let second = std::fs::read_to_string("/proc/2/comm").unwrap_or_default();
        assert_eq!(is_second_kernel, second == "kthreadd\n");
        let found = found.unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(found.exe.as_deref(), exe.to_str());
        assert_eq!(found.ppid, Some(std::os::unix::process::parent_id()));
        let args: Vec<String> = std::env::args().collect();
        assert_eq!(found.cmdline, Some(args.join(" ").into()));
        assert!(found.start_ns.unwrap() > 0 && found.parent_exe.is_some());
    }
}
