//! Why a host refuses programs that its kernel would take, and what to do about it. The kernel itself says no more
//! than a number.

use std::error::Error;
use std::fs;
use std::io;

use aya::programs::ProgramError;

use super::EbpfError;

/// How much the kernel keeps to itself, as `none [integrity] confidentiality`, where securityfs is mounted.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// `1` where SELinux refuses what its rules do not allow, `0` where it only logs that.
const SELINUX: &str = "/sys/fs/selinux/enforce";

impl EbpfError {
    /// What to do where the host is set up to refuse programs; `None` where the error itself says it, or where the
    /// kernel is not able to do it.
    pub fn advice(&self) -> Option<&'static str> {
        if !matches!(self, Self::Load(_) | Self::Program { .. }) {
            return None;
        }
        // The kernel says that it does not know the function.
        if says(LOCKDOWN, "[confidentiality]") {
            return Some(
                "the kernel is locked down, and no program may read its memory: boot with lockdown=integrity, or without",
            );
        }
        if !is_permission(self) {
            return None;
        }
        Some(if self.is_of_attaching() {
            "another program has the root cgroup for itself alone: look for one without `multi` in `bpftool cgroup tree`"
        } else if says(SELINUX, "1") {
            "SELinux is enforcing: check whether `ausearch -m avc -c flowlog` shows that it refused bpf, and allow that"
        } else {
            "run with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and in a container with a seccomp profile that allows bpf(2)"
        })
    }

    /// Whether the program was taken, but not its place at the root cgroup.
    fn is_of_attaching(&self) -> bool {
        let Self::Program { source, .. } = self else { return false };
        matches!(&**source, ProgramError::SyscallError(error) if error.call == "bpf_link_create")
    }
}

fn says(file: &str, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|said| said == word))
}

/// Whether the last cause is that something is not permitted.
fn is_permission(error: &EbpfError) -> bool {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::PermissionDenied)
}
