//! Processes: fork, exec and exit, so that user space knows what a thread group id stood for when.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::macros::{btf_map, raw_tracepoint, tracepoint};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use flowlog_common::{ARGS_LEN, ProcessExec, ProcessExit, ProcessFork, kind};

use crate::path::{self, EXEC, Path};
use crate::task::current_tgid;
use crate::{events, task};

/// `CLONE_THREAD` of `linux/sched.h`: the new task belongs to the process of its maker.
const CLONE_THREAD: u64 = 0x0001_0000;

/// `CLONE_PARENT`: the new process is a sibling of its maker.
const CLONE_PARENT: u64 = 0x0000_8000;

/// `events/task/task_newtask/format`: `pid_t pid` at 8, `char comm[16]` at 12, `unsigned long
/// clone_flags` at 32. Runs in the parent.
#[tracepoint(name = "task_newtask", category = "task")]
pub(crate) fn process_fork(ctx: TracePointContext) -> u32 {
    // SAFETY: the offsets are those of the format above.
    let (pid, clone_flags) = unsafe { (ctx.read_at::<u32>(8), ctx.read_at::<u64>(32)) };
    if let (Ok(tgid), Ok(clone_flags)) = (pid, clone_flags)
        && clone_flags & CLONE_THREAD == 0
    {
        // SAFETY: all fields are written.
        unsafe {
            events::send(|event: *mut ProcessFork| {
                (*event).header = events::header(kind::PROCESS_FORK);
                (*event).tgid = tgid;
                (*event).maker_tgid = current_tgid();
                (*event).ppid =
                    if clone_flags & CLONE_PARENT == 0 { current_tgid() } else { task::parent_tgid() };
                (*event).login_uid = task::login_uid();
                (*event).cgroup_id = bpf_get_current_cgroup_id();
                (*event).uid = bpf_get_current_uid_gid() as u32;
                (*event).pad = 0;
            });
        }
    }
    0
}

/// How many processes of those that executed last are remembered: one that goes on with a socket uses it
/// soon.
const MAX_EXECUTED: usize = 16_384;

/// When a process ran another program last, by thread group id; in `CLOCK_MONOTONIC` nanoseconds.
#[btf_map]
static EXECUTED: LruHashMap<u32, u64, MAX_EXECUTED> = LruHashMap::new();

/// Whether the process runs another program than at the time `since_ns`.
#[inline(always)]
pub(crate) fn has_executed_since(tgid: u32, since_ns: u64) -> bool {
    // SAFETY: the value is one word.
    EXECUTED.get_ptr(tgid).is_some_and(|at_ns| unsafe { *at_ns } >= since_ns)
}

/// `events/sched/sched_process_exec/format`: `__data_loc char[] filename` at 8: the offset in the
/// lower half, the length with its terminating zero byte in the upper. Runs in the process.
#[tracepoint(name = "sched_process_exec", category = "sched")]
pub(crate) fn process_exec(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset is the one of the format above.
    let Ok(location) = (unsafe { ctx.read_at::<u32>(8) }) else { return 0 };
    // SAFETY: where the path is in the context, which is that of the running program.
    unsafe { tell_exec(ctx.as_ptr().cast::<u8>().add((location & 0xffff) as usize)) };
    0
}

/// The same before Linux 5.16: the kernel has no room there for the contexts of tracepoints with a path of 2 KB, and
/// then runs no program. `struct linux_binprm *` is the third argument.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn process_exec_raw(ctx: RawTracePointContext) -> i32 {
    let given = task::field::<u64>(ctx.arg(2), path::given()).unwrap_or(0);
    // SAFETY: the kernel's own pointer.
    unsafe { tell_exec(given as *const u8) };
    0
}

/// The current process has begun to run a program that was given to `execve` by this path.
///
/// # Safety
///
/// The address is one of the kernel.
#[inline(always)]
unsafe fn tell_exec(given: *const u8) {
    let Some(event) = EXEC.get_ptr_mut(0) else { return };
    // SAFETY: the slot of this CPU, which nobody else uses now. All that is sent is written: as much of the path and
    // of the arguments as was copied.
    unsafe {
        let exec = &raw mut (*event).exec;
        let texts: *mut u8 = (&raw mut (*event).texts).cast();
        (*exec).header = events::header(kind::PROCESS_EXEC);
        (*exec).tgid = current_tgid();
        (*exec).login_uid = task::login_uid();
        (*exec).cgroup_id = bpf_get_current_cgroup_id();
        (*exec).uid = bpf_get_current_uid_gid() as u32;
        (*exec).pad = 0;
        let Path { len, kind, flags } =
            path::copy_exe(&raw mut (*event).climb).unwrap_or_else(|| path::copy_given(texts, given));
        (*exec).path_len = len;
        (*exec).path = kind;
        (*exec).path_flags = flags;
        // For the verifier: it does not know how long the names are together.
        let path_len = (&raw const (*exec).path_len).read_volatile() as usize & (path::SPACE - 1);
        let args_len = task::copy_args(texts.add(path_len));
        // More than this cannot be given to `execve`.
        (*exec).args_len = args_len as u32;
        let sent_args = if args_len < ARGS_LEN as u64 { args_len as usize } else { ARGS_LEN };
        if EXECUTED.insert((*exec).tgid, (*exec).header.time_ns, u64::from(BPF_ANY)).is_err() {
            debug!("no room for the exec of process {}", (*exec).tgid);
        }
        events::send_bytes(event.cast(), size_of::<ProcessExec>() + path_len + sent_args);
    }
}

/// `events/sched/sched_process_exit`: only its time counts. Runs in each thread that exits; the one
/// that carries the number of the process is its leader.
#[tracepoint(name = "sched_process_exit", category = "sched")]
pub(crate) fn process_exit(_ctx: TracePointContext) -> u32 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let (tgid, pid) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
    if tgid == pid {
        // SAFETY: all fields are written.
        unsafe {
            events::send(|event: *mut ProcessExit| {
                (*event).header = events::header(kind::PROCESS_EXIT);
                (*event).tgid = tgid;
                (*event).pad = 0;
            });
        }
    }
    0
}
