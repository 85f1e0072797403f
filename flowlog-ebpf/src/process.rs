//! Processes: fork, exec and exit, so that user space knows what a thread group id stood for when.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use flowlog_common::{FILENAME_LEN, ProcessExec, ProcessExit, ProcessFork, kind};

use crate::events;
use crate::owner::current_tgid;

/// `CLONE_THREAD` of `linux/sched.h`: the new task belongs to the process of its maker.
const CLONE_THREAD: u64 = 0x0001_0000;

/// `events/task/task_newtask/format`: `pid_t pid` at 8, `char comm[16]` at 12, `unsigned long
/// clone_flags` at 32. Runs in the parent.
#[tracepoint(name = "task_newtask", category = "task")]
pub(crate) fn process_fork(ctx: TracePointContext) -> u32 {
    // SAFETY: the offsets are those of the format above.
    let (pid, clone_flags) = unsafe { (ctx.read_at::<u32>(8), ctx.read_at::<u64>(32)) };
    if let (Ok(tgid), Ok(clone_flags)) = (pid, clone_flags)
        && clone_flags & CLONE_THREAD == 0
    {
        events::send(ProcessFork {
            header: events::header(kind::PROCESS_FORK),
            tgid,
            parent_tgid: current_tgid(),
        });
    }
    0
}

/// `events/sched/sched_process_exec/format`: `__data_loc char[] filename` at 8: the offset in the
/// lower half, the length with its terminating zero byte in the upper. Runs in the process.
#[tracepoint(name = "sched_process_exec", category = "sched")]
pub(crate) fn process_exec(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset is the one of the format above.
    let Ok(location) = (unsafe { ctx.read_at::<u32>(8) }) else { return 0 };
    let (offset, len) = ((location & 0xffff) as usize, location >> 16);
    // SAFETY: all fields are written, the path and what is left of its array included.
    unsafe {
        events::send_in_place(|event: *mut ProcessExec| {
            (*event).header = events::header(kind::PROCESS_EXEC);
            (*event).tgid = current_tgid();
            (*event).filename_len = len.saturating_sub(1);
            (*event).filename = [0; FILENAME_LEN];
            // A failed read leaves an empty path: not known.
            bpf_probe_read_kernel_str(
                (&raw mut (*event).filename).cast(),
                FILENAME_LEN as u32,
                ctx.as_ptr().add(offset),
            );
        });
    }
    0
}

/// `events/sched/sched_process_exit`: only its time counts. Runs in each thread that exits; the one
/// that carries the number of the process is its leader.
#[tracepoint(name = "sched_process_exit", category = "sched")]
pub(crate) fn process_exit(_ctx: TracePointContext) -> u32 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let (tgid, pid) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
    if tgid == pid {
        events::send(ProcessExit { header: events::header(kind::PROCESS_EXIT), tgid, pad: 0 });
    }
    0
}
