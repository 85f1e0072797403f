//! Cgroups, when they are made and removed: the path of one is not to be had any more when it lived for a millisecond.
//!
//! The kernel sends these events before a process can be in the cgroup, and when none is any more.

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::{btf_map, tracepoint};
use aya_ebpf::programs::TracePointContext;
use flowlog_common::{CGROUP_PATH_LEN, CgroupLayout, CgroupMade, CgroupRemoved, kind};

use crate::events;

/// Written by user space before the programs are loaded: the places in the context changed with Linux 5.16.
#[unsafe(no_mangle)]
static CGROUP_LAYOUT: CgroupLayout = CgroupLayout { root: 0, level: 0, id: 0, id_bytes: 0, path: 0 };

/// The hierarchy of version 2. Others are numbered from 1.
const VERSION_2: u32 = 0;

/// An event with all the space that its path may take.
#[repr(C)]
struct WholeMade {
    made: CgroupMade,
    path: [u8; CGROUP_PATH_LEN],
}

/// Where the event is put together, as the one of an exec.
#[btf_map]
static MADE: PerCpuArray<WholeMade, 1> = PerCpuArray::new();

#[inline(always)]
fn layout() -> CgroupLayout {
    // SAFETY: a static of this program. Volatile: the compiler knows only the zeros above.
    unsafe { (&raw const CGROUP_LAYOUT).read_volatile() }
}

/// The id of the cgroup that the context is about, where it is one of version 2. Before Linux 5.16 it is the lower half.
#[inline(always)]
fn id_of(ctx: &TracePointContext, layout: &CgroupLayout) -> Option<u64> {
    // SAFETY: the places are those of the format, which user space has read.
    unsafe {
        if ctx.read_at::<u32>(layout.root as usize).ok()? != VERSION_2 {
            return None;
        }
        if layout.id_bytes == 8 {
            ctx.read_at::<u64>(layout.id as usize).ok()
        } else {
            ctx.read_at::<u32>(layout.id as usize).ok().map(u64::from)
        }
    }
}

/// `events/cgroup/cgroup_mkdir/format`: `root`, `level`, `id`, and `__data_loc char[] path`, as in
/// `sched_process_exec`.
#[tracepoint(name = "cgroup_mkdir", category = "cgroup")]
pub(crate) fn cgroup_made(ctx: TracePointContext) -> u32 {
    let layout = layout();
    let Some(id) = id_of(&ctx, &layout) else { return 0 };
    // SAFETY: as above.
    let Ok(location) = (unsafe { ctx.read_at::<u32>(layout.path as usize) }) else { return 0 };
    // SAFETY: as above.
    let level = unsafe { ctx.read_at::<u32>(layout.level as usize) }.unwrap_or(u32::MAX);
    let Some(event) = MADE.get_ptr_mut(0) else { return 0 };
    // SAFETY: the slot of this CPU, which nobody else uses now; all that is sent is written. The helper checks where it
    // reads, and gives a length with the terminating zero byte.
    unsafe {
        let path = ctx.as_ptr().cast::<u8>().add((location & 0xffff) as usize);
        let copied =
            bpf_probe_read_kernel_str((&raw mut (*event).path).cast(), CGROUP_PATH_LEN as u32, path.cast());
        let path_len = if copied > 0 { copied.cast_unsigned() as usize } else { 0 };
        (*event).made.header = events::header(kind::CGROUP_MADE);
        (*event).made.id = id;
        (*event).made.level = level;
        (*event).made.pad = 0;
        // For the verifier of old kernels, which forgets what it knew of the length.
        let path_len = if path_len < CGROUP_PATH_LEN { path_len } else { CGROUP_PATH_LEN };
        events::send_bytes(event.cast(), size_of::<CgroupMade>() + path_len);
    }
    0
}

/// `events/cgroup/cgroup_rmdir/format`: the same.
#[tracepoint(name = "cgroup_rmdir", category = "cgroup")]
pub(crate) fn cgroup_removed(ctx: TracePointContext) -> u32 {
    if let Some(id) = id_of(&ctx, &layout()) {
        // SAFETY: all fields are written.
        unsafe {
            events::send(|event: *mut CgroupRemoved| {
                (*event).header = events::header(kind::CGROUP_REMOVED);
                (*event).id = id;
            });
        }
    }
    0
}
