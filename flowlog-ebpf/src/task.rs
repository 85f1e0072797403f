//! The current task. The places of the fields that no helper gives differ from kernel to kernel: user space finds
//! them in the kernel's type information, and says so before the programs are loaded.

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel_str, bpf_probe_read_user,
    bpf_task_pt_regs,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use flowlog_common::{ARGS_LEN, COMM_LEN, Owner, OwnerLayout, SYSCALL_UNKNOWN, TaskLayout};

use crate::words;

/// Written by user space before the programs are loaded.
#[unsafe(no_mangle)]
static TASK_LAYOUT: TaskLayout = TaskLayout {
    mm: 0,
    arg_start: 0,
    arg_end: 0,
    real_parent: 0,
    tgid: 0,
    loginuid: 0,
    flags: 0,
    syscall: 0,
};

/// Written by user space before the programs are loaded.
#[unsafe(no_mangle)]
static OWNER_LAYOUT: OwnerLayout =
    OwnerLayout { cred: 0, uid: 0, cgroups: 0, cgroup: 0, node: 0, id: 0, comm: 0 };

/// The login uid where it is not set: `AUDIT_UID_UNSET` of `linux/audit.h`.
const UNSET: u32 = u32::MAX;

/// `PF_EXITING` of `linux/sched.h`
const EXITING: u32 = 4;

#[inline(always)]
fn layout() -> TaskLayout {
    // SAFETY: a static of this program. Volatile: the compiler knows only the zeros above.
    unsafe { (&raw const TASK_LAYOUT).read_volatile() }
}

/// The field at `offset` of the structure at `address`.
#[inline(always)]
pub(crate) fn field<T>(address: u64, offset: u32) -> Option<T> {
    let field = address.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address, and fails where nothing is there.
    unsafe { bpf_probe_read_kernel(field).ok() }
}

#[inline(always)]
fn current() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_get_current_task() }
}

/// Thread group id of the current process.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Audit login uid of the current process; [`UNSET`] also where it is not known.
#[inline(always)]
pub(crate) fn login_uid() -> u32 {
    match layout().loginuid {
        0 => UNSET,
        offset => field(current(), offset).unwrap_or(UNSET),
    }
}

/// Thread group id of the current process where no helper gives it: programs of packets have that one since
/// Linux 6.10 only. Zero where it is not known.
#[inline(always)]
pub(crate) fn tgid() -> u32 {
    match layout().tgid {
        0 => 0,
        offset => field(current(), offset).unwrap_or(0),
    }
}

#[inline(always)]
fn owner_layout() -> OwnerLayout {
    // SAFETY: a static of this program. Volatile: the compiler knows only the zeros above.
    unsafe { (&raw const OWNER_LAYOUT).read_volatile() }
}

/// Whether the current process can be taken for an owner where no helper tells who it is, see [`write_owner`].
#[inline(always)]
pub(crate) fn tells_owner() -> bool {
    owner_layout().comm != 0
}

/// Writes who the current process is, as the helpers would tell it, but not in which network namespace the socket is.
/// What cannot be read leaves the owner unknown.
///
/// # Safety
///
/// `owner` may be written.
#[inline(always)]
pub(crate) unsafe fn write_owner(owner: *mut Owner, time_ns: u64) {
    let OwnerLayout { cred, uid, cgroups, cgroup, node, id, comm } = owner_layout();
    let task = current();
    let user = || field::<u64>(task, cred).and_then(|cred| field::<u32>(cred, uid));
    let cgroup_id = || {
        let cgroups = field::<u64>(task, cgroups)?;
        let node = field::<u64>(cgroups, cgroup).and_then(|cgroup| field::<u64>(cgroup, node))?;
        field::<u64>(node, id)
    };
    // SAFETY: as for this function; the helper checks the address of the name, and writes as much as there is room for.
    unsafe {
        words::clear(owner);
        if let Some(user) = user()
            && let Some(cgroup_id) = cgroup_id()
        {
            (*owner).time_ns = time_ns;
            (*owner).tgid = tgid();
            (*owner).uid = user;
            (*owner).cgroup_id = cgroup_id;
            let name = task.wrapping_add(u64::from(comm)) as *const _;
            bpf_probe_read_kernel_str((&raw mut (*owner).comm).cast(), COMM_LEN as u32, name);
        }
    }
}

/// Thread group id of the parent of the current process; zero where it is not known.
#[inline(always)]
pub(crate) fn parent_tgid() -> u32 {
    let TaskLayout { real_parent, tgid, .. } = layout();
    if real_parent == 0 {
        return 0;
    }
    field(current(), real_parent).and_then(|parent: u64| field(parent, tgid)).unwrap_or(0)
}

/// Whether the kernel tells in which system call a process is.
#[inline(always)]
pub(crate) fn tells_syscalls() -> bool {
    layout().syscall != 0
}

/// Number of the system call that the current process is in.
#[inline(always)]
pub(crate) fn syscall() -> u32 {
    match layout().syscall {
        // Not every kernel has the helper: what is never reached need not be there.
        0 => SYSCALL_UNKNOWN,
        // SAFETY: the helpers take the current task, which is there.
        offset => field(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) }.cast_unsigned(), offset)
            .unwrap_or(SYSCALL_UNKNOWN),
    }
}

/// Not zero where the current process is ending.
#[inline(always)]
pub(crate) fn exiting() -> u32 {
    match layout().flags {
        0 => 0,
        offset => field(current(), offset).map_or(0, |flags: u32| flags & EXITING),
    }
}

/// `struct mm_struct` of the current process; `None` where it has none, or that is not known.
#[inline(always)]
pub(crate) fn memory() -> Option<u64> {
    match layout().mm {
        0 => None,
        offset => field(current(), offset),
    }
}

/// Copies the arguments of the current process, which has just begun to run its program: as much of them
/// as there is space for. The result is their full length, zero where they are not known.
///
/// The kernel has written them to the new stack, from `arg_start` to `arg_end`: the pages are there, and no
/// thread can have changed them yet.
///
/// # Safety
///
/// `to` points to [`ARGS_LEN`] bytes of a map.
#[inline(always)]
pub(crate) unsafe fn copy_args(to: *mut u8) -> u64 {
    let TaskLayout { arg_start, arg_end, .. } = layout();
    if arg_start == 0 {
        return 0;
    }
    let Some(mm) = memory() else { return 0 };
    let (Some(start), Some(end)) = (field::<u64>(mm, arg_start), field::<u64>(mm, arg_end)) else { return 0 };
    let len = end.saturating_sub(start);
    let copied = if len < ARGS_LEN as u64 { len } else { ARGS_LEN as u64 };
    // SAFETY: the caller vouches for the space; the helper checks the address.
    let result = unsafe { bpf_probe_read_user(to.cast(), copied as u32, start as *const _) };
    if result == 0 { len } else { 0 }
}
