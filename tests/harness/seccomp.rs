//! Hosts that refuse a system call, as some containers and hardened kernels do.
//!
//! A filter cannot be taken away, so each applies to a thread of its own and to what that starts.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::thread::on_a_thread;

/// Runs `work` where bpf(2) fails with `EPERM`.
pub(crate) fn without_bpf<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    refusing(libc::SYS_bpf, Vec::new(), libc::EPERM, work)
}

/// Runs `work` where the kernel has no Landlock.
pub(crate) fn without_landlock<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    refusing(libc::SYS_landlock_create_ruleset, Vec::new(), libc::ENOSYS, work)
}

/// Runs `work` where the kernel has no netfilter netlink: socket(2) fails with `EPROTONOSUPPORT`.
pub(crate) fn without_ctnetlink<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let domain = is(0, libc::AF_NETLINK);
    let protocol = is(2, libc::NETLINK_NETFILTER);
    let rule = SeccompRule::new(vec![domain, protocol]).unwrap();
    refusing(libc::SYS_socket, vec![rule], libc::EPROTONOSUPPORT, work)
}

/// A condition on an `int` argument.
fn is(argument: u8, value: i32) -> SeccompCondition {
    let value = u64::try_from(value).unwrap();
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
}

/// Runs `work` on a thread where a system call fails, where one of the rules matches; always
/// without rules.
fn refusing<T: Send>(call: i64, rules: Vec<SeccompRule>, errno: i32, work: impl FnOnce() -> T + Send) -> T {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    on_a_thread(move || {
        seccompiler::apply_filter(&program).unwrap();
        work()
    })
}
