//! The path of the program that the current process runs, as `/proc/PID/exe` tells it.
//!
//! The kernel has the path of a file nowhere as text. It goes from the directory entry (`struct dentry`) of the file
//! up to the root, over the places where file systems are mounted (`prepend_path` in `fs/d_path.c`), and so does this.
//! Names stand in the buffer in the order in which they are met, from the file up: user space turns them round.
//!
//! Names and directories may change meanwhile, and no lock is taken. So the way is gone twice. The kernel counts the
//! changes of each entry (`d_seq`): where all entries and mounts are the same in both goes, there was a moment
//! between the two at which all of them held, and the path is what it was then. Else it is not known.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::macros::btf_map;
use flowlog_common::{ARGS_LEN, NAME_LEN, PATH_LEN, PathLayout, ProcessExec, path, path_flags};

use crate::task;

/// Written by user space before the programs are loaded.
#[unsafe(no_mangle)]
static PATH_LAYOUT: PathLayout = PathLayout {
    exe_file: 0,
    file_mnt: 0,
    file_dentry: 0,
    mount_mnt: 0,
    mount_root: 0,
    mount_parent: 0,
    mount_point: 0,
    dentry_seq: 0,
    dentry_parent: 0,
    dentry_name: 0,
    dentry_name_len: 0,
    dentry_hashed: 0,
    given: 0,
};

/// How many names and mounts there may be on both ways together: a path of [`PATH_LEN`] has 2048 names at most. What is
/// above is not known. The verifier keeps a note for each step, of which it has 8192.
const MAX_STEPS: u32 = 4096 + 256;

/// How often both ways are gone where something changes meanwhile.
const MAX_TRIES: u32 = 4;

/// How much space the names need, a power of two: a path, and the name by which it is found to be too long.
pub(crate) const SPACE: usize = 2 * PATH_LEN;
const _: () = assert!(SPACE >= PATH_LEN + NAME_LEN && SPACE.is_power_of_two());

/// A path in the buffer: fields of [`flowlog_common::ProcessExec`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Path {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) flags: u32,
}

impl Path {
    /// Nothing is known.
    pub(crate) const NONE: Self = Self { len: 0, kind: path::AS_GIVEN, flags: 0 };
}

/// How far it has come. It is in the map with the event: the verifier would look at each step for each of the places
/// where the one before can have led to.
#[repr(C)]
pub(crate) struct Climb {
    /// Where both ways begin: `struct dentry` and `struct mount`.
    from: [u64; 2],
    /// Where it is.
    dentry: u64,
    mount: u64,
    /// The top of this mount.
    root: u64,
    /// Stands for all that was met on this way.
    mark: u64,
    /// The mark of the first way; zero while that is gone.
    first_mark: u64,
    /// How often something had changed meanwhile.
    tries: u32,
    /// What is left of this way. Only the first finds out how long it is.
    left: u32,
    path: Path,
}

/// An exec event with all the space that its path and arguments may take, and with what it takes to find the path.
#[repr(C)]
pub(crate) struct WholeExec {
    pub(crate) exec: ProcessExec,
    pub(crate) texts: [u8; SPACE + ARGS_LEN],
    pub(crate) climb: Climb,
}

/// Where the event is put together: it is too large for the stack. Nothing interrupts a program of a
/// tracepoint on its CPU that would run one of these: the kernel does not preempt them, unlike those of raw
/// tracepoints since Linux 7.0.
#[btf_map]
pub(crate) static EXEC: PerCpuArray<WholeExec, 1> = PerCpuArray::new();

/// What a step led to.
mod step {
    /// There is more to do.
    pub(super) const GO_ON: u32 = 0;
    /// Both ways were the same.
    pub(super) const KNOWN: u32 = 1;
    /// The path cannot be known.
    pub(super) const UNKNOWN: u32 = 2;
}

#[inline(always)]
fn layout() -> PathLayout {
    // SAFETY: a static of this program. Volatile: the compiler knows only the zeros above.
    unsafe { (&raw const PATH_LAYOUT).read_volatile() }
}

/// Where the path that was given to `execve` is in `struct linux_binprm`; zero where that is not known.
#[inline(always)]
pub(crate) fn given() -> u32 {
    layout().given
}

/// The address of a field.
#[inline(always)]
fn at(address: u64, offset: u32) -> u64 {
    address.wrapping_add(u64::from(offset))
}

/// A word at this address; zero where nothing is there.
#[inline(always)]
fn word(address: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: the helper checks the address, and writes zeros where nothing is there.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), size_of::<u64>() as u32, address as *const _) };
    word
}

#[inline(always)]
fn half_word(address: u64) -> u32 {
    let mut word = 0_u32;
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), size_of::<u32>() as u32, address as *const _) };
    word
}

/// Copies the path of the file that the current process runs into the space of [`EXEC`]. `None` where it cannot be known.
#[inline(always)]
pub(crate) fn copy_exe(climb: *mut Climb) -> Option<Path> {
    let layout = layout();
    if layout.exe_file == 0 {
        return None;
    }
    let file = word(at(task::memory()?, layout.exe_file));
    let dentry = word(at(file, layout.file_dentry));
    let mount = word(at(file, layout.file_mnt)).wrapping_sub(u64::from(layout.mount_mnt));
    // SAFETY: it may be written, and all of it is.
    unsafe {
        (&raw mut (*climb).from).write_volatile([dentry, mount]);
        (*climb).tries = 0;
        begin_first(climb, &layout);
    }
    let mut steps = 0;
    loop {
        match path_step() {
            step::GO_ON => {}
            // SAFETY: as above.
            step::KNOWN => return Some(unsafe { (*climb).path }),
            _ => return None,
        }
        steps += 1;
        if steps == MAX_STEPS {
            return None;
        }
    }
}

/// Copies the path that was given to `execve`.
///
/// # Safety
///
/// `to` points to [`SPACE`] bytes of a map.
#[inline(always)]
pub(crate) unsafe fn copy_given(to: *mut u8, given: *const u8) -> Path {
    // SAFETY: as for this function; the helper checks the address.
    let copied = unsafe { bpf_probe_read_kernel_str(to.cast(), PATH_LEN as u32, given.cast()) };
    // A failed read leaves an empty path: not known.
    let len = if copied > 0 { copied.cast_unsigned() as u32 } else { 0 };
    Path { len, ..Path::NONE }
}

/// Begins the first way.
///
/// # Safety
///
/// `climb` may be read and written.
#[inline(always)]
unsafe fn begin_first(climb: *mut Climb, layout: &PathLayout) {
    // SAFETY: as for this function.
    unsafe {
        let [dentry, _] = (&raw const (*climb).from).read_volatile();
        let is_removed =
            word(at(dentry, layout.dentry_hashed)) == 0 && word(at(dentry, layout.dentry_parent)) != dentry;
        let flags = if is_removed { path_flags::DELETED } else { 0 };
        (*climb).path = Path { len: 0, kind: path::RESOLVED, flags };
        (*climb).first_mark = 0;
        (*climb).left = u32::MAX;
        begin(climb, layout);
    }
}

/// Begins a way.
///
/// # Safety
///
/// `climb` may be read and written.
#[inline(always)]
unsafe fn begin(climb: *mut Climb, layout: &PathLayout) {
    // SAFETY: as for this function.
    unsafe {
        let [dentry, mount] = (&raw const (*climb).from).read_volatile();
        let root = word(at(mount, layout.mount_root));
        (*climb).dentry = dentry;
        (*climb).mount = mount;
        (*climb).root = root;
        (*climb).mark = mix(mix(mix(1, dentry), mount), root);
    }
}

/// Goes up by one name or mount, and says what that led to.
///
/// It is a function of its own also for the verifier, which looks at it once and not for each step. For that it must be
/// visible outside, and may have no pointers as arguments.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn path_step() -> u32 {
    let layout = layout();
    let Some(event) = EXEC.get_ptr_mut(0) else { return step::UNKNOWN };
    // SAFETY: the slot of this CPU, which nobody else uses now.
    let (climb, to) = unsafe { (&raw mut (*event).climb, (&raw mut (*event).texts).cast::<u8>()) };
    // SAFETY: as above, also for all that follows.
    unsafe {
        (*climb).left = (*climb).left.wrapping_sub(1);
        let is_first = (*climb).first_mark == 0;
        let is_end = if (*climb).dentry == (*climb).root {
            leave_mount(climb, &layout)
        } else {
            pass_name(climb, &layout, to, is_first)
        };
        let mark = (*climb).mark;
        match is_end.map(|is_end| is_end || (!is_first && (*climb).left == 0)) {
            Some(false) => return step::GO_ON,
            Some(true) if is_first => {
                (*climb).first_mark = mark;
                // It began at the largest number.
                (*climb).left = !(*climb).left;
                begin(climb, &layout);
                return step::GO_ON;
            }
            Some(true) if mark == (*climb).first_mark => return step::KNOWN,
            _ => {}
        }
        // Something has changed meanwhile, or the path cannot be known, which is rare.
        (*climb).tries += 1;
        if (*climb).tries == MAX_TRIES {
            return step::UNKNOWN;
        }
        begin_first(climb, &layout);
    }
    step::GO_ON
}

/// From the top of what is mounted to the place where that is. Says whether there is none above; `None` where that is not
/// known.
///
/// # Safety
///
/// `climb` may be read and written.
#[inline(always)]
unsafe fn leave_mount(climb: *mut Climb, layout: &PathLayout) -> Option<bool> {
    // SAFETY: as for this function.
    unsafe {
        let Climb { mount, root, mark, .. } = *climb;
        if root == 0 {
            return None;
        }
        let parent = word(at(mount, layout.mount_parent));
        let mark = mix(mark, parent);
        (*climb).mark = mark;
        if parent == mount {
            return Some(true);
        }
        let dentry = word(at(mount, layout.mount_point));
        let root = word(at(parent, layout.mount_root));
        (*climb).dentry = dentry;
        (*climb).mount = parent;
        (*climb).root = root;
        (*climb).mark = mix(mix(mark, dentry), root);
    }
    Some(false)
}

/// From a name to the directory that it is in. As [`leave_mount`].
///
/// # Safety
///
/// `climb` may be read and written, and `to` points to [`SPACE`] bytes of a map.
#[inline(always)]
unsafe fn pass_name(climb: *mut Climb, layout: &PathLayout, to: *mut u8, is_first: bool) -> Option<bool> {
    // SAFETY: as for this function.
    unsafe {
        let Climb { dentry, mark, .. } = *climb;
        let seq = half_word(at(dentry, layout.dentry_seq));
        let parent = word(at(dentry, layout.dentry_parent));
        (*climb).mark = mix(mix(mark, u64::from(seq)), parent);
        (*climb).dentry = parent;
        let is_top = parent == dentry;
        // One that is being changed.
        if seq & 1 != 0 || parent == 0 {
            return None;
        }
        if !is_first {
            return Some(is_top);
        }
        if is_top {
            // Else it is a directory that was moved out of what is mounted there.
            let [file, _] = (&raw const (*climb).from).read_volatile();
            if dentry != file {
                return None;
            }
            (*climb).path.kind = path::NAMELESS;
        }
        let name = word(at(dentry, layout.dentry_name));
        let name_len = half_word(at(dentry, layout.dentry_name_len));
        // The mask is for the verifier: longer ones end below.
        let len = (*climb).path.len & (PATH_LEN as u32 - 1);
        let copied =
            bpf_probe_read_kernel_str(to.add(len as usize).cast(), NAME_LEN as u32, name as *const _);
        // Otherwise the name is longer than names are, or was changed.
        if copied != i64::from(name_len) + 1 {
            return None;
        }
        let len = len + copied.cast_unsigned() as u32;
        (*climb).path.len = len;
        let is_long = len >= PATH_LEN as u32;
        if is_long && !is_top {
            (*climb).path.flags |= path_flags::CUT;
        }
        Some(is_top || is_long)
    }
}

/// Takes one more value into a mark. Each value matters, and so does its place.
#[inline(always)]
fn mix(mark: u64, value: u64) -> u64 {
    (mark ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}
