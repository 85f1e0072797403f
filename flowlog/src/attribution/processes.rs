//! Which program a process number stood for at a given time.
//!
//! [`ProcessTable`] is a pure data structure: it learns of forks, execs and exits in the order of the
//! kernel's ring buffer, and of what ran before from [`walk()`]. Times are `CLOCK_MONOTONIC` nanoseconds.
//!
//! Invariant: [`ProcessTable::at`] never names a program that the process did not run at that time.
//! What is not known, for example after events were lost, is `None`.

mod ended;
mod exe;
mod walk;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

pub use self::ended::Group;
use self::ended::{Ended, EndedImages};
pub use self::exe::executed;
pub use self::walk::walk;
use crate::record::{CommandLine, Kept, Process};

/// The part of the memory that ended images may take. They matter for sockets that outlive the process which made
/// them: a listener that a parent left to its children. Of 256 MiB this is enough for about 50 000 of usual size.
const ENDED_PART: usize = 10;

/// The part that command lines may take.
const CMDLINES_PART: usize = 4;

/// What an image takes without its texts, with all that keeps it: measured for a process that only forks.
const IMAGE_BYTES: usize = 430;

/// The kernel thread that makes all others.
const KTHREADD: u32 = 2;

/// What a fork tells.
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    /// The new process.
    pub tgid: u32,
    /// The process that made it, whose program it runs.
    pub maker_tgid: u32,
    /// Its parent, usually the same.
    pub ppid: Option<u32>,
    /// Audit login uid.
    pub login_uid: Option<u32>,
    /// When it began, in `CLOCK_REALTIME` nanoseconds.
    pub start_ns: u64,
    /// Whose it is: of its maker.
    pub group: Group,
}

/// What an exec tells.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// The process.
    pub tgid: u32,
    /// Path of its new program.
    pub exe: Option<Arc<str>>,
    /// The command line.
    pub cmdline: Option<CommandLine>,
    /// Audit login uid.
    pub login_uid: Option<u32>,
    /// Whose it is.
    pub group: Group,
}

/// A [`Process`] with the time in which it was that.
#[derive(Debug)]
struct Image {
    from_ns: u64,
    until_ns: u64,
    /// The process exited at `until_ns`, and its number was not seen to be used again.
    exited: bool,
    /// It was the owner of a socket since it ended, or since it was last to be forgotten.
    is_asked_for: bool,
    group: Group,
    process: Arc<Process>,
}

/// How much memory all that is known of sockets and processes takes if nobody says, in bytes.
pub const MEMORY_BYTES: usize = 256 << 20;

/// All processes that were seen, by thread group id.
#[derive(Debug)]
pub struct ProcessTable {
    /// Images of one number are in the order of their times and do not overlap.
    images: HashMap<u32, VecDeque<Image>, foldhash::fast::RandomState>,
    ended: EndedImages,
    max_ended_bytes: usize,
    cmdlines: Kept,
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new(MEMORY_BYTES)
    }
}

impl ProcessTable {
    /// Knows nothing yet, and takes a part of this memory.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            images: HashMap::default(),
            ended: EndedImages::default(),
            max_ended_bytes: memory_bytes / ENDED_PART,
            cmdlines: Kept::new(memory_bytes / CMDLINES_PART),
        }
    }

    /// What processes that have ended, and command lines, take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.ended.bytes() + self.cmdlines.bytes()
    }

    /// What ran as `tgid` at the time `at_ns`.
    pub fn at(&self, tgid: u32, at_ns: u64) -> Option<&Arc<Process>> {
        let images = self.images.get(&tgid)?;
        let image = images.iter().rev().find(|image| image.from_ns <= at_ns)?;
        (at_ns < image.until_ns).then_some(&image.process)
    }

    /// The same, of the owner of a socket: if it has ended, it is remembered for longer, since all that a listener accepts
    /// have that owner.
    pub fn owner(&mut self, tgid: u32, at_ns: u64) -> Option<&Arc<Process>> {
        let images = self.images.get_mut(&tgid)?;
        let image = images.iter_mut().rev().find(|image| image.from_ns <= at_ns)?;
        if at_ns >= image.until_ns {
            return None;
        }
        image.is_asked_for |= image.until_ns != u64::MAX;
        Some(&image.process)
    }

    /// What `process` runs at the time `at_ns`, or ran last; `None` where that is not known.
    pub fn going_on<'a>(&'a self, process: &'a Arc<Process>, at_ns: u64) -> Option<&'a Arc<Process>> {
        let now = self.acting(process.tgid, at_ns)?;
        match (now.start_ns, process.start_ns) {
            (Some(start_ns), Some(before_ns)) if start_ns == before_ns => Some(now),
            // It may be the same process, of which /proc told; or another one has the number, and the former
            // may have run another program in the end.
            _ => Arc::ptr_eq(now, process).then_some(now),
        }
    }

    /// What does something as `tgid` at the time `at_ns`, also after the event of its exit: other threads go
    /// on when the first has ended, and may run another program; and what was left open is closed last.
    pub fn acting(&self, tgid: u32, at_ns: u64) -> Option<&Arc<Process>> {
        let exiting = || {
            let last = self.images.get(&tgid)?.back()?;
            (last.exited && last.until_ns <= at_ns).then_some(&last.process)
        };
        self.at(tgid, at_ns).or_else(exiting)
    }

    /// A process of which /proc told before `read_ns`, where no event did.
    pub fn seed(&mut self, process: Process, read_ns: u64) {
        let images = self.images.get(&process.tgid);
        if images.is_none_or(|images| images.iter().all(|image| image.until_ns < read_ns)) {
            let cmdline = process.cmdline.and_then(|line| self.cmdlines.keep(line));
            self.push(Process { cmdline, ..process }, Group::default(), read_ns);
        }
    }

    /// A process begins, with the program of its maker.
    pub fn fork(&mut self, fork: Fork, at_ns: u64) {
        let Fork { tgid, maker_tgid, ppid, login_uid, start_ns, group } = fork;
        if self.seeded_after(tgid, at_ns) {
            return;
        }
        let maker = self.acting(maker_tgid, at_ns);
        let (exe, cmdline) =
            maker.map(|maker| (maker.exe.clone(), maker.cmdline.clone())).unwrap_or_default();
        // A kernel thread also makes the processes in which the kernel runs programs: until their exec.
        let is_kernel = maker_tgid == KTHREADD || maker.is_some_and(|maker| maker.is_kernel);
        let parent = ppid.and_then(|ppid| self.acting(ppid, at_ns));
        let parent_exe = parent.and_then(|parent| parent.exe.clone());
        self.end(tgid, at_ns, false);
        let start_ns = Some(start_ns);
        let process = Process { tgid, start_ns, ppid, login_uid, exe, cmdline, parent_exe, is_kernel };
        self.push(process, group, at_ns);
    }

    /// A process runs another program from now on.
    pub fn exec(&mut self, exec: Exec, at_ns: u64) {
        let Exec { tgid, exe, cmdline, login_uid, group } = exec;
        self.forget_seeded_after(tgid, at_ns);
        let Process { start_ns, ppid, parent_exe, .. } =
            self.acting(tgid, at_ns).map(|before| (**before).clone()).unwrap_or_default();
        self.end(tgid, at_ns, false);
        let cmdline = cmdline.and_then(|line| self.cmdlines.keep(line));
        let is_kernel = false;
        let process = Process { tgid, start_ns, ppid, login_uid, exe, cmdline, parent_exe, is_kernel };
        self.push(process, group, at_ns);
    }

    /// `tgid` is gone.
    pub fn exit(&mut self, tgid: u32, at_ns: u64) {
        self.forget_seeded_after(tgid, at_ns);
        // What ended before was not this process, also where it ended at the same time.
        self.end(tgid, at_ns, true);
    }

    /// Events were lost: from `at_ns` on any process may run anything. The caller seeds again.
    pub fn lost_events(&mut self, at_ns: u64) {
        let running: Vec<u32> = self.images.keys().copied().collect();
        for tgid in running {
            self.end(tgid, at_ns, false);
        }
        for image in self.images.values_mut().flatten() {
            image.exited = false;
        }
    }

    /// How many command lines are not known, because those that are take all the room.
    pub fn refused_cmdlines(&self) -> u64 {
        self.cmdlines.refused
    }

    /// Whether /proc told of this process, or of another one with its number, after `at_ns`.
    fn seeded_after(&self, tgid: u32, at_ns: u64) -> bool {
        let last = self.images.get(&tgid).and_then(VecDeque::back);
        last.is_some_and(|image| image.until_ns == u64::MAX && image.from_ns > at_ns)
    }

    /// An event is read after /proc and older than that. What /proc told may be from before the event, or of
    /// a later process: the events that follow say which.
    fn forget_seeded_after(&mut self, tgid: u32, at_ns: u64) {
        if self.seeded_after(tgid, at_ns)
            && let Some(images) = self.images.get_mut(&tgid)
        {
            images.pop_back();
            if images.is_empty() {
                self.images.remove(&tgid);
            }
        }
    }

    fn push(&mut self, process: Process, group: Group, from_ns: u64) {
        let images = self.images.entry(process.tgid).or_default();
        if let Some(before) = images.back_mut() {
            before.exited = false;
        }
        let process = Arc::new(process);
        let (until_ns, exited, is_asked_for) = (u64::MAX, false, false);
        images.push_back(Image { from_ns, until_ns, exited, is_asked_for, group, process });
    }

    /// The image that has not ended does, if there is one.
    fn end(&mut self, tgid: u32, at_ns: u64, exited: bool) {
        let Some(image) = self.images.get_mut(&tgid).and_then(VecDeque::back_mut) else { return };
        if image.until_ns != u64::MAX {
            return;
        }
        image.until_ns = at_ns;
        image.exited = exited;
        let ended = Ended { tgid, until_ns: at_ns, bytes: image_bytes(&image.process) };
        self.ended.push(image.group, ended);
        let Self { images, ended, max_ended_bytes, .. } = self;
        ended.make_room(*max_ended_bytes, |ended| forget(images, ended));
    }
}

/// Forgets an image that has ended, unless it was asked for.
fn forget(
    all: &mut HashMap<u32, VecDeque<Image>, foldhash::fast::RandomState>,
    Ended { tgid, until_ns, bytes }: Ended,
) -> bool {
    let Some(images) = all.get_mut(&tgid) else { return true };
    let is_it = |image: &Image| image.until_ns == until_ns && image_bytes(&image.process) == bytes;
    let Some(at) = images.iter().position(is_it) else { return true };
    if images.get_mut(at).is_some_and(|image| std::mem::take(&mut image.is_asked_for)) {
        return false;
    }
    images.remove(at);
    if images.is_empty() {
        all.remove(&tgid);
    }
    true
}

/// What an image takes. Forked processes share their texts; that is not counted.
fn image_bytes(process: &Process) -> usize {
    let Process { exe, cmdline, parent_exe: _, .. } = process;
    let texts = [exe.as_ref(), cmdline.as_ref().map(CommandLine::text)];
    IMAGE_BYTES + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
}

#[cfg(test)]
use self::ended::GROUP_BYTES;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
