//! What flowlog forbids itself, so that a fault in it does less harm: where it writes (Landlock), and what it asks the
//! kernel for (seccomp).
//!
//! Landlock would forbid the receiving side to look at processes that are not its own, whatever the rules: which
//! programs and sockets older processes have. So only the writing side has it, and may write below one directory
//! ([`write_only_below`]). The receiving side writes no file, so it opens none for writing, wherever ([`open_only_to_read`]).
//!
//! What is refused fails with `EPERM`. A list of all calls that flowlog makes would be shorter, but another C library,
//! or a new one, makes other calls, and the log of a host must not end for that. So calls that flowlog has no use for
//! are named, and a call that is not known is not refused.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope, make_bitflags,
};
use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// The newest version of Landlock of which everything is used. The rest is tried as far as the kernel has it.
const NEWEST: ABI = ABI::V6;

/// Since this one (Linux 5.19), a file can be moved to another directory, as it is when it is published.
const OLDEST: ABI = ABI::V2;

/// The kernel's answer on whether there are filters of system calls.
const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";

/// Why flowlog is not confined in one way.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// This kernel has no Landlock, or an older one.
    #[error(
        "this kernel has no Landlock that flowlog can use (Linux 5.19 or newer, with `landlock` among `lsm=`)"
    )]
    NoLandlock,
    /// Landlock refused.
    #[error("cannot use Landlock")]
    Landlock(#[from] RulesetError),
    /// The directory cannot be opened.
    #[error("cannot open `{path}` for Landlock")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: landlock::PathFdError,
    },
    /// The filter is wrong, or made for another processor.
    #[error("cannot make a filter of system calls")]
    Filter(#[from] BackendError),
    /// The kernel does not take filters.
    #[error("this kernel takes no filter of system calls (CONFIG_SECCOMP_FILTER)")]
    Seccomp(#[from] seccompiler::Error),
}

/// The version of Landlock that this kernel has, as far as flowlog knows it; `None` where there is none that it can use.
pub fn landlock() -> Option<u8> {
    [(ABI::V6, 6), (ABI::V5, 5), (ABI::V4, 4), (ABI::V3, 3), (ABI::V2, 2)]
        .into_iter()
        .find(|(abi, _)| has_landlock(*abi))
        .map(|(_, number)| number)
}

fn has_landlock(abi: ABI) -> bool {
    let make = || {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let mut ruleset = ruleset.handle_access(AccessFs::from_all(abi))?;
        let (net, scope) = (AccessNet::from_all(abi), Scope::from_all(abi));
        if !net.is_empty() {
            ruleset = ruleset.handle_access(net)?;
        }
        if !scope.is_empty() {
            ruleset = ruleset.scope(scope)?;
        }
        ruleset.create()
    };
    make().is_ok()
}

/// Whether this kernel takes filters of system calls.
pub fn has_filters() -> bool {
    std::fs::read_to_string(ACTIONS).is_ok_and(|actions| actions.split_whitespace().any(|one| one == "errno"))
}

/// From now on the calling thread, and those that it starts, reads and writes files below this directory, or one that a
/// link in it leads to, and no other ones; executes nothing, neither binds nor connects a socket of TCP, and reaches no
/// other process. What is open stays so.
///
/// # Errors
///
/// Where the kernel has no Landlock, or one that cannot move files between directories.
pub fn write_only_below(directory: &Path) -> Result<(), ConfinementError> {
    if !has_landlock(OLDEST) {
        return Err(ConfinementError::NoLandlock);
    }
    let below = make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
    });
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for root in [directory.to_owned()].into_iter().chain(linked_from(directory)) {
        let opened = PathFd::new(&root);
        let opened = opened
            .map_err(|source| ConfinementError::Directory { path: root.display().to_string(), source })?;
        ruleset = ruleset.add_rule(PathBeneath::new(opened, below))?;
    }
    ruleset.restrict_self()?;
    Ok(())
}

/// Links in the directory that lead to others: somebody may keep what is below it elsewhere.
fn linked_from(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    links.map(|link| link.path()).filter(|link| link.is_dir())
}

/// Which calls are refused.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// From now on all threads are refused what flowlog has no use for once it has started: to execute programs, to open
/// connections, to look into other processes, to mount, to load eBPF programs and modules, and whatever is for those
/// who run the machine. `enters_namespaces`: network namespaces may be entered.
///
/// # Errors
///
/// Where the kernel takes no filters.
pub fn refuse_what_is_not_needed(enters_namespaces: bool) -> Result<(), ConfinementError> {
    Ok(seccompiler::apply_filter_all_threads(&filter(not_needed(enters_namespaces)?)?)?)
}

/// From now on the calling thread, and those that it starts, opens no file for writing, and makes, moves and removes
/// none. What is open stays so.
///
/// # Errors
///
/// Where the kernel takes no filters.
pub fn open_only_to_read() -> Result<(), ConfinementError> {
    Ok(seccompiler::apply_filter(&filter(writing()?)?)?)
}

/// The calls, as a program for the kernel.
fn filter(calls: Calls) -> Result<BpfProgram, ConfinementError> {
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter =
        SeccompFilter::new(calls, SeccompAction::Allow, refuse.clone(), TargetArch::try_from(ARCH)?)?;
    let program: BpfProgram = filter.try_into()?;
    // x86_64 has each call a second time, with other numbers (x32).
    let load = sock_filter { code: op::LOAD, jt: 0, jf: 0, k: 0 };
    let is_x32 = sock_filter { code: op::JUMP_AT_LEAST, jt: 0, jf: 1, k: X32 };
    let refused = sock_filter { code: op::RETURN, jt: 0, jf: 0, k: u32::from(refuse) };
    Ok([load, is_x32, refused].into_iter().chain(program).collect())
}

/// The bit of numbers of x32 (`__X32_SYSCALL_BIT`). No other processor has numbers as high as this.
const X32: u32 = 0x4000_0000;

/// Instructions of classic BPF, `linux/bpf_common.h`.
mod op {
    /// `BPF_LD | BPF_W | BPF_ABS`: of `struct seccomp_data`, which begins with the number of the call.
    pub(super) const LOAD: u16 = 0x20;
    /// `BPF_JMP | BPF_JGE | BPF_K`
    pub(super) const JUMP_AT_LEAST: u16 = 0x35;
    /// `BPF_RET | BPF_K`
    pub(super) const RETURN: u16 = 0x06;
}

/// Calls that no thread has a use for once flowlog has started.
fn not_needed(enters_namespaces: bool) -> Result<Calls, BackendError> {
    let mut calls: Calls = NOT_NEEDED.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt].map(|call| (call, Vec::new())));
    // Sockets of IP: so nothing can be connected.
    let others = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET].map(|family| is_not(0, family));
    calls.insert(libc::SYS_socket, vec![SeccompRule::new(others.into_iter().collect::<Result<_, _>>()?)?]);
    let commands = BPF_COMMANDS.into_iter().map(|command| SeccompRule::new(vec![is(0, command)?]));
    calls.insert(libc::SYS_bpf, commands.collect::<Result<_, _>>()?);
    let other_kinds = if enters_namespaces {
        vec![SeccompRule::new(vec![is_not(1, libc::CLONE_NEWNET)?])?]
    } else {
        Vec::new()
    };
    calls.insert(libc::SYS_setns, other_kinds);
    Ok(calls)
}

/// Those that are refused whatever their arguments. The last ones are too new for all C libraries to know, and have the
/// same number on each processor.
const NOT_NEEDED: [i64; 48] = [
    // Programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes. `pidfd_getfd` is needed, for their sockets.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    // File systems and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_mknodat,
    // The kernel, and who runs the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    // Keys, and what has had many faults.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    // Programs are attached at the start.
    libc::SYS_perf_event_open,
    // `io_uring_*`: it does all of this without a call.
    425,
    426,
    427,
    // `open_tree`, `move_mount`, `fsopen`, `fsconfig`, `fsmount`, `fspick`
    428,
    429,
    430,
    431,
    432,
    433,
    // `mount_setattr`, `quotactl_fd`
    442,
    443,
];

#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: i64 = 320;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: i64 = 294;

/// Commands of bpf(2) that make, find, pin or load something. What is there is read, changed and attached again.
const BPF_COMMANDS: [i32; 14] = [
    0,  // BPF_MAP_CREATE
    5,  // BPF_PROG_LOAD
    6,  // BPF_OBJ_PIN
    7,  // BPF_OBJ_GET
    10, // BPF_PROG_TEST_RUN
    11, // BPF_PROG_GET_NEXT_ID
    12, // BPF_MAP_GET_NEXT_ID
    13, // BPF_PROG_GET_FD_BY_ID
    14, // BPF_MAP_GET_FD_BY_ID
    17, // BPF_RAW_TRACEPOINT_OPEN
    18, // BPF_BTF_LOAD
    20, // BPF_TASK_FD_QUERY
    30, // BPF_LINK_GET_FD_BY_ID
    33, // BPF_ITER_CREATE
];

/// Calls that write to a file that is not open yet, or change its name, its owner or its mode.
fn writing() -> Result<Calls, BackendError> {
    let mut calls: Calls = CHANGES.iter().map(|call| (*call, Vec::new())).collect();
    calls.insert(libc::SYS_openat, opens_to_write(2)?);
    // What it would do is in memory, where a filter does not look. C libraries do not use it.
    calls.insert(libc::SYS_openat2, Vec::new());
    #[cfg(target_arch = "x86_64")]
    {
        calls.insert(libc::SYS_open, opens_to_write(1)?);
        calls.extend(OLD_CHANGES.iter().map(|call| (*call, Vec::new())));
    }
    Ok(calls)
}

/// Whether the flags in this argument open a file for more than reading.
fn opens_to_write(argument: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let with = |flag: i32, mask: i32| {
        let [flag, mask] = [flag, mask].map(|flags| u64::from(flags.unsigned_abs()));
        let is_set = SeccompCmpOp::MaskedEq(mask);
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is_set, flag)?])
    };
    Ok(vec![
        with(libc::O_WRONLY, libc::O_WRONLY)?,
        with(libc::O_RDWR, libc::O_RDWR)?,
        with(libc::O_CREAT, libc::O_CREAT)?,
        with(libc::O_TRUNC, libc::O_TRUNC)?,
    ])
}

const CHANGES: [i64; 21] = [
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    RENAMEAT,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    // `fchmodat2`, `setxattrat`, `removexattrat`
    452,
    463,
    466,
];

/// Which some C libraries do not name on new processors, that have only its successor.
#[cfg(target_arch = "x86_64")]
const RENAMEAT: i64 = libc::SYS_renameat;
#[cfg(not(target_arch = "x86_64"))]
const RENAMEAT: i64 = 38;

/// What newer processors do not have.
#[cfg(target_arch = "x86_64")]
const OLD_CHANGES: [i64; 14] = [
    libc::SYS_creat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];

fn is(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Ne, value)
}

/// A condition on an `int` argument.
fn condition(argument: u8, operator: SeccompCmpOp, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value.unsigned_abs()))
}
