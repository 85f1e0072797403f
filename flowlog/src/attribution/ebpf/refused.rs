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

/// How little of perf_event_open(2) is for programs without rights.
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

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
        Some(if self.is_of("perf_event_open_trace_point") && is_above(PARANOID, 2) {
            "the sysctl kernel.perf_event_paranoid is above 2, where kernels of Ubuntu and Debian may ask for more than \
             CAP_PERFMON: run with CAP_SYS_ADMIN"
        } else if self.is_of("bpf_link_create") {
            "another program has the root cgroup for itself alone: look for one without `multi` in `bpftool cgroup tree`"
        } else if says(SELINUX, "1") {
            "SELinux is enforcing: check whether `ausearch -m avc -c flowlog` shows that it refused bpf, and allow that"
        } else {
            "run with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and in a container with a seccomp profile that allows bpf(2)"
        })
    }

    /// Whether the program was taken, but not its place, for which aya names this call: `bpf_link_create` for one at the
    /// root cgroup, `perf_event_open_trace_point` for one at a tracepoint.
    fn is_of(&self, call: &str) -> bool {
        let Self::Program { source, .. } = self else { return false };
        matches!(&**source, ProgramError::SyscallError(error) if error.call == call)
    }
}

fn is_above(file: &str, number: i32) -> bool {
    let found = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    found.is_some_and(|found| found > number)
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
