//! Whether the programs are still attached, as /proc tells it: no BPF system call is made while flowlog runs.
//!
//! Anybody with the right to may detach a link (`bpftool link detach`). Its descriptor stays, and shows no cgroup any
//! more (`bpf_cgroup_link_show_fdinfo`). Links of tracepoints cannot be detached.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What the name of the descriptor of a link is.
const LINK: &str = "anon_inode:bpf_link";

/// What /proc tells of a link, or of a program.
const FDINFO_BYTES: usize = 1024;

/// The links to cgroups that this process holds, by the number of their program.
#[derive(Debug)]
pub(super) struct Links(BTreeMap<u32, File>);

impl Links {
    /// All that are attached.
    ///
    /// # Errors
    ///
    /// Where /proc does not have them.
    pub(super) fn find() -> io::Result<Self> {
        let mut links = BTreeMap::new();
        for descriptor in fs::read_dir("/proc/self/fd")? {
            let descriptor = descriptor?;
            // One that was closed meanwhile is none of ours.
            let is_link = fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new(LINK));
            if !is_link {
                continue;
            }
            let file = File::open(Path::new("/proc/self/fdinfo").join(descriptor.file_name()))?;
            let info = read(&file)?;
            if let (Some(program), Some(1..)) = (number(&info, "prog_id"), number(&info, "cgroup_id"))
                && let Ok(program) = u32::try_from(program)
            {
                links.insert(program, file);
            }
        }
        Ok(Self(links))
    }

    /// Takes the links of what was attached again. One that somebody has detached meanwhile stays among the detached.
    ///
    /// # Errors
    ///
    /// Where /proc does not have them.
    pub(super) fn find_again(&mut self) -> io::Result<()> {
        self.0.extend(Self::find()?.0);
        Ok(())
    }

    /// The programs that are not attached any more.
    ///
    /// # Errors
    ///
    /// Where /proc does not tell.
    pub(super) fn detached(&self) -> io::Result<Vec<u32>> {
        let mut detached = Vec::new();
        for (program, file) in &self.0 {
            let info = read(file)?;
            let is_same = number(&info, "prog_id") == Some(u64::from(*program));
            if !is_same || number(&info, "cgroup_id") == Some(0) {
                detached.push(*program);
            }
        }
        Ok(detached)
    }
}

/// The number of a program, by its descriptor.
pub(super) fn program_id(descriptor: RawFd) -> io::Result<Option<u32>> {
    let info = read(&File::open(format!("/proc/self/fdinfo/{descriptor}"))?)?;
    Ok(number(&info, "prog_id").and_then(|id| u32::try_from(id).ok()))
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FDINFO_BYTES];
    let len = file.read_at(&mut bytes, 0)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// The number on the line with this name.
fn number(info: &[u8], name: &str) -> Option<u64> {
    let info = str::from_utf8(info).ok()?;
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found() {
        let info =
            b"pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\nprog_id:\t31\ncgroup_id:\t1\nattach_type:\t2\n";
        assert_eq!([number(info, "prog_id"), number(info, "cgroup_id")], [Some(31), Some(1)]);
        assert_eq!(number(b"link_type:\tperf\nprog_id:\t5\n", "cgroup_id"), None);
    }
}
