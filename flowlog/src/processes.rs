//! Which program a process number stood for at a given time.
//!
//! [`ProcessTable`] is a pure data structure: it learns of forks, execs and exits in the order of the
//! kernel's ring buffer, and of what ran before from [`walk_proc`]. Times are `CLOCK_MONOTONIC`
//! nanoseconds.
//!
//! Invariant: [`ProcessTable::at`] never names a program that the process did not run at that time.
//! What is not known, for example after events were lost, is `None`.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

/// How many ended images are remembered. They matter for sockets that outlive the process which
/// made them: a listener that a parent left to its children. One takes about 100 bytes.
const ENDED_IMAGES: usize = 65_536;

/// A process while it runs one program.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// When the process began, in `CLOCK_REALTIME` nanoseconds: with the number it names one process.
    pub start_ns: Option<u64>,
    /// The process that made it.
    pub ppid: Option<u32>,
    /// Audit login uid: who logged in.
    pub login_uid: Option<u32>,
    /// Path of the program as it was executed; for a process older than the daemon the target of
    /// `/proc/PID/exe`.
    pub exe: Option<Arc<str>>,
    /// The command line, arguments separated by spaces, with secrets masked as configured.
    pub cmdline: Option<Arc<str>>,
    /// Program of the process that made it, when it did.
    pub parent_exe: Option<Arc<str>>,
}

/// A [`Process`] with the time in which it was that.
#[derive(Debug)]
struct Image {
    from_ns: u64,
    until_ns: u64,
    /// The process exited at `until_ns`, and its number was not seen to be used again.
    exited: bool,
    process: Arc<Process>,
}

/// All processes that were seen, by thread group id.
#[derive(Debug, Default)]
pub struct ProcessTable {
    /// Images of one number are in the order of their times and do not overlap.
    images: HashMap<u32, VecDeque<Image>, foldhash::fast::RandomState>,
    /// Numbers of ended images, oldest first.
    ended: VecDeque<u32>,
}

impl ProcessTable {
    /// What ran as `tgid` at the time `at_ns`.
    pub fn at(&self, tgid: u32, at_ns: u64) -> Option<&Arc<Process>> {
        let images = self.images.get(&tgid)?;
        let image = images.iter().rev().find(|image| image.from_ns <= at_ns)?;
        (at_ns < image.until_ns).then_some(&image.process)
    }

    /// What closes a descriptor as `tgid` at the time `at_ns`: a process closes what it left open after the
    /// event of its exit.
    pub fn closing(&self, tgid: u32, at_ns: u64) -> Option<&Arc<Process>> {
        let exiting = || {
            let last = self.images.get(&tgid)?.back()?;
            (last.exited && last.until_ns <= at_ns).then_some(&last.process)
        };
        self.at(tgid, at_ns).or_else(exiting)
    }

    /// A process of which /proc told before `read_ns`, where no event did.
    pub fn seed(&mut self, tgid: u32, exe: Option<&str>, read_ns: u64) {
        if self.images.get(&tgid).is_none_or(|images| images.iter().all(|image| image.until_ns < read_ns)) {
            let exe = exe.map(Arc::from);
            self.push(tgid, read_ns, exe);
        }
    }

    /// `parent_tgid` made the process `tgid`, which runs the same program.
    pub fn fork(&mut self, tgid: u32, parent_tgid: u32, at_ns: u64) {
        let seeded_since = self
            .images
            .get(&tgid)
            .and_then(VecDeque::back)
            .is_some_and(|image| image.until_ns == u64::MAX && image.from_ns > at_ns);
        if seeded_since {
            return;
        }
        let exe = self.at(parent_tgid, at_ns).and_then(|parent| parent.exe.clone());
        self.end(tgid, at_ns);
        self.push(tgid, at_ns, exe);
    }

    /// `tgid` runs another program from now on.
    pub fn exec(&mut self, tgid: u32, exe: Option<&str>, at_ns: u64) {
        self.end(tgid, at_ns);
        self.push(tgid, at_ns, exe.map(Arc::from));
    }

    /// `tgid` is gone.
    pub fn exit(&mut self, tgid: u32, at_ns: u64) {
        self.end(tgid, at_ns);
        if let Some(image) = self.images.get_mut(&tgid).and_then(VecDeque::back_mut) {
            image.exited = image.until_ns == at_ns;
        }
    }

    /// Events were lost: from `at_ns` on any process may run anything. The caller seeds again.
    pub fn lost_events(&mut self, at_ns: u64) {
        let running: Vec<u32> = self.images.keys().copied().collect();
        for tgid in running {
            self.end(tgid, at_ns);
        }
        for image in self.images.values_mut().flatten() {
            image.exited = false;
        }
    }

    fn push(&mut self, tgid: u32, from_ns: u64, exe: Option<Arc<str>>) {
        let process = Arc::new(Process { tgid, exe, ..Process::default() });
        self.images.entry(tgid).or_default().push_back(Image {
            from_ns,
            until_ns: u64::MAX,
            exited: false,
            process,
        });
    }

    fn end(&mut self, tgid: u32, at_ns: u64) {
        let Some(image) = self.images.get_mut(&tgid).and_then(VecDeque::back_mut) else { return };
        if image.until_ns != u64::MAX {
            return;
        }
        image.until_ns = at_ns;
        self.ended.push_back(tgid);
        if self.ended.len() > ENDED_IMAGES
            && let Some(oldest) = self.ended.pop_front()
            && let Some(images) = self.images.get_mut(&oldest)
        {
            images.pop_front();
            if images.is_empty() {
                self.images.remove(&oldest);
            }
        }
    }
}

/// Calls `each` with the number and the program of every process that /proc shows now. Programs of
/// kernel threads and of processes that end meanwhile are not known.
///
/// # Errors
///
/// Where /proc cannot be listed.
pub fn walk_proc(mut each: impl FnMut(u32, Option<&str>)) -> procfs::ProcResult<()> {
    for process in procfs::process::all_processes()?.flatten() {
        let Ok(tgid) = u32::try_from(process.pid) else { continue };
        let exe = process.exe().ok();
        each(tgid, exe.as_deref().and_then(std::path::Path::to_str));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exe(table: &ProcessTable, tgid: u32, at_ns: u64) -> Option<&str> {
        table.at(tgid, at_ns)?.exe.as_deref()
    }

    #[test]
    fn exec_and_exit_bound_the_time_of_an_image() {
        let mut table = ProcessTable::default();
        table.seed(1, Some("/sbin/init"), 10);
        table.fork(2, 1, 100);
        table.exec(2, Some("/bin/sh"), 200);
        table.exit(2, 300);

        assert_eq!(exe(&table, 2, 99), None);
        assert_eq!(exe(&table, 2, 100), Some("/sbin/init"));
        assert_eq!(exe(&table, 2, 199), Some("/sbin/init"));
        assert_eq!(exe(&table, 2, 200), Some("/bin/sh"));
        assert_eq!(exe(&table, 2, 300), None);
    }

    #[test]
    fn a_process_closes_what_it_left_open_after_its_exit() {
        let mut table = ProcessTable::default();
        let closing = |table: &ProcessTable, at_ns| table.closing(7, at_ns).and_then(|one| one.exe.clone());
        table.exec(7, Some("/bin/old"), 100);
        assert_eq!(closing(&table, 150).as_deref(), Some("/bin/old"));
        table.exit(7, 200);
        assert_eq!(closing(&table, 210).as_deref(), Some("/bin/old"));
        table.fork(7, 1, 300);
        assert_eq!(closing(&table, 310), None, "another process");
        table.exit(7, 320);
        table.lost_events(330);
        assert_eq!(closing(&table, 340), None, "the number may be used again");
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let mut table = ProcessTable::default();
        table.exec(7, Some("/bin/old"), 100);
        table.exit(7, 200);
        table.fork(7, 1, 300);
        table.exec(7, Some("/bin/new"), 310);

        assert_eq!(exe(&table, 7, 150), Some("/bin/old"));
        assert_eq!(exe(&table, 7, 250), None);
        assert_eq!(exe(&table, 7, 305), None, "forked from a process that is not known");
        assert_eq!(exe(&table, 7, 400), Some("/bin/new"));
    }

    #[test]
    fn events_win_over_the_seed() {
        let mut table = ProcessTable::default();
        table.exec(7, Some("/bin/event"), 100);
        table.seed(7, Some("/bin/seed"), 90);
        table.seed(7, Some("/bin/seed"), 110);
        assert_eq!(exe(&table, 7, 120), Some("/bin/event"));
    }

    #[test]
    fn events_from_before_the_seed_that_are_read_after_it_take_nothing_away() {
        let mut table = ProcessTable::default();
        table.seed(7, Some("/bin/forked"), 110);
        table.fork(7, 1, 100);
        assert_eq!(exe(&table, 7, 120), Some("/bin/forked"));
        table.exec(7, Some("/bin/executed"), 105);
        assert_eq!(exe(&table, 7, 105), Some("/bin/executed"));
        assert_eq!(exe(&table, 7, 120), Some("/bin/executed"));
    }

    #[test]
    fn nothing_is_known_between_a_loss_and_the_next_seed() {
        let mut table = ProcessTable::default();
        table.seed(7, Some("/bin/before"), 10);
        table.lost_events(100);
        assert_eq!(exe(&table, 7, 99), Some("/bin/before"));
        assert_eq!(exe(&table, 7, 100), None);
        table.seed(7, Some("/bin/after"), 150);
        assert_eq!(exe(&table, 7, 149), None);
        assert_eq!(exe(&table, 7, 150), Some("/bin/after"));
    }

    #[test]
    fn ended_images_are_bounded() {
        let mut table = ProcessTable::default();
        let count = u32::try_from(ENDED_IMAGES).unwrap() + 10;
        for tgid in 0..count {
            table.exec(tgid, None, 100);
            table.exit(tgid, 200);
        }
        assert_eq!(table.images.len(), ENDED_IMAGES);
        assert!(table.at(9, 150).is_none());
        assert!(table.at(10, 150).is_some());
    }
}
