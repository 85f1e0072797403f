//! Random histories of a host against what the table says of them.
//!
//! A model host runs processes under few numbers, so that these are used again all the time. Its events
//! reach the table late, seeds in between are read ahead of them, and some are lost. Whatever a process
//! does is asked for when the table has got so far: what it answers must be that process, or nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// So few that most are used again. The second process is of the kernel.
const NUMBERS: [u32; 3] = [1, 3, 4];

/// Room for three images that have ended.
const FEW_BYTES: usize = 4 * (IMAGE_BYTES + 50) * ENDED_PART;

/// What happens next on the host. Numbers are of processes, where there are none nothing happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fork {
        maker: u32,
        child: u32,
        is_sibling: bool,
    },
    Exec(u32),
    /// The first thread ends; another goes on.
    ExitOfLeader(u32),
    Exit(u32),
    /// A process uses a socket: is it named right?
    Act(u32),
    /// /proc is read, before the events that wait.
    Seed,
    /// All events that wait are read.
    Drain,
    /// The buffer was full: what waits, and what comes until the loss is seen, is not all there.
    Lose,
    /// The clock goes on; else what follows happens at the same time.
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let number = || proptest::sample::select(NUMBERS.as_slice());
    prop_oneof![
        4 => (number(), number(), any::<bool>())
            .prop_map(|(maker, child, is_sibling)| Step::Fork { maker, child, is_sibling }),
        3 => number().prop_map(Step::Exec),
        2 => number().prop_map(Step::ExitOfLeader),
        3 => number().prop_map(Step::Exit),
        6 => number().prop_map(Step::Act),
        3 => Just(Step::Seed),
        3 => Just(Step::Drain),
        1 => Just(Step::Lose),
        6 => Just(Step::Tick),
    ]
}

/// A process as the host knows it.
#[derive(Clone, Debug)]
struct Real {
    is_leaderless: bool,
    process: Process,
}

enum Notice {
    Fork(Fork),
    Exec(Exec),
    Exit(u32),
    /// What is true now of the one that acts.
    Act(Process),
}

#[derive(Default)]
struct Host {
    now_ns: u64,
    programs: u32,
    running: BTreeMap<u32, Real>,
    /// Events that are not read yet.
    waiting: Vec<(u64, Notice)>,
    table: ProcessTable,
    named: usize,
}

impl Host {
    fn step(&mut self, step: Step) {
        match step {
            Step::Tick => self.now_ns += 1,
            Step::Fork { maker, child, is_sibling } => self.fork(maker, child, is_sibling),
            Step::Exec(tgid) => {
                self.programs += 1;
                let exe: Arc<str> = format!("/bin/{}", self.programs).into();
                let Some(real) = self.running.get_mut(&tgid) else { return };
                let cmdline = Some(CommandLine::from(exe.clone()));
                let login_uid = Some(self.programs % 3);
                real.is_leaderless = false;
                real.process = Process {
                    exe: Some(exe.clone()),
                    cmdline: cmdline.clone(),
                    login_uid,
                    ..real.process.clone()
                };
                self.send(Notice::Exec(Exec {
                    tgid,
                    exe: Some(exe),
                    cmdline,
                    login_uid,
                    group: group(tgid),
                }));
            }
            Step::ExitOfLeader(tgid) => {
                let Some(real) = self.running.get_mut(&tgid) else { return };
                if !std::mem::replace(&mut real.is_leaderless, true) {
                    self.send(Notice::Exit(tgid));
                }
            }
            Step::Exit(tgid) => {
                if self.running.remove(&tgid).is_some_and(|real| !real.is_leaderless) {
                    self.send(Notice::Exit(tgid));
                }
            }
            Step::Act(tgid) => {
                let Some(real) = self.running.get(&tgid) else { return };
                self.send(Notice::Act(real.process.clone()));
            }
            Step::Seed => {
                // Reading takes longer than the clock needs to tell it from what was before.
                self.now_ns += 1;
                for real in self.running.values().filter(|real| !real.is_leaderless) {
                    self.table.seed(real.process.clone(), self.now_ns);
                }
            }
            Step::Drain => self.drain(),
            Step::Lose => {
                // The caller leaves out what comes between, and says since when nothing is sure.
                let since_ns = self.waiting.first().map_or(self.now_ns, |(at_ns, _)| *at_ns);
                self.waiting.clear();
                self.table.lost_events(since_ns);
                self.now_ns += 1;
            }
        }
    }

    fn fork(&mut self, maker: u32, child: u32, is_sibling: bool) {
        let Some(Real { process, .. }) = self.running.get(&maker).cloned() else { return };
        if self.running.contains_key(&child) {
            return;
        }
        // The parent of a sibling may have ended; then the kernel names another, here none.
        let parent = if is_sibling {
            process.ppid.filter(|ppid| self.running.contains_key(ppid))
        } else {
            Some(maker)
        };
        let parent_exe = parent.and_then(|parent| self.running.get(&parent)?.process.exe.clone());
        let child_process =
            Process { tgid: child, start_ns: Some(self.now_ns), ppid: parent, parent_exe, ..process };
        let Process { login_uid, ppid, .. } = child_process;
        self.running.insert(child, Real { is_leaderless: false, process: child_process });
        self.send(Notice::Fork(Fork {
            tgid: child,
            maker_tgid: maker,
            ppid,
            login_uid,
            start_ns: self.now_ns,
            group: group(child),
        }));
    }

    fn send(&mut self, event: Notice) {
        self.waiting.push((self.now_ns, event));
    }

    fn drain(&mut self) {
        for (at_ns, event) in std::mem::take(&mut self.waiting) {
            match event {
                Notice::Fork(fork) => self.table.fork(fork, at_ns),
                Notice::Exec(exec) => self.table.exec(exec, at_ns),
                Notice::Exit(tgid) => self.table.exit(tgid, at_ns),
                Notice::Act(truth) => {
                    let owner = self.table.owner(truth.tgid, at_ns).cloned();
                    assert_eq!(owner.as_ref(), self.table.at(truth.tgid, at_ns));
                    let named = [owner.as_ref(), self.table.acting(truth.tgid, at_ns)];
                    self.named += named.iter().flatten().count();
                    for named in named.into_iter().flatten() {
                        assert_true(named, &truth);
                    }
                }
            }
        }
        self.assert_bounded();
    }

    /// What is kept is what the queue of ended images knows of, and one image for each number that runs.
    fn assert_bounded(&self) {
        let images = self.table.images.values().flatten();
        let ended = images.clone().filter(|image| image.until_ns != u64::MAX);
        let groups = self.table.ended.groups_bytes();
        let bytes: usize = ended.clone().map(|image| image_bytes(&image.process)).sum();
        assert_eq!((ended.count(), bytes), (self.table.ended.len(), self.table.ended.bytes() - groups));
        assert!(self.table.ended.bytes() <= self.table.max_ended_bytes);
        for images in self.table.images.values() {
            assert!(images.iter().filter(|image| image.until_ns == u64::MAX).count() <= 1);
        }
    }
}

/// Each value is true or not known.
#[track_caller]
fn assert_true(named: &Process, truth: &Process) {
    fn is_true<T: PartialEq>(named: &Option<T>, truth: &Option<T>) -> bool {
        named.is_none() || named == truth
    }
    let Process { tgid, start_ns, ppid, login_uid, exe, cmdline, parent_exe, is_kernel } = named;
    let is_right = *tgid == truth.tgid
        && is_true(start_ns, &truth.start_ns)
        && is_true(ppid, &truth.ppid)
        && is_true(login_uid, &truth.login_uid)
        && is_true(exe, &truth.exe)
        && is_true(cmdline, &truth.cmdline)
        && is_true(parent_exe, &truth.parent_exe)
        && *is_kernel == truth.is_kernel;
    assert!(is_right, "named {named:?}, but it was {truth:?}");
}

/// Half of the processes are of another user.
fn group(tgid: u32) -> Group {
    Group { cgroup_id: 5, uid: tgid % 2 }
}

fn run(steps: &[Step], memory_bytes: usize) -> Host {
    let init = Process { tgid: 1, start_ns: Some(0), exe: Some("/sbin/init".into()), ..Process::default() };
    let mut host = Host { table: ProcessTable::new(memory_bytes), ..Host::default() };
    host.running.insert(1, Real { is_leaderless: false, process: init });
    for step in steps {
        host.step(*step);
    }
    host.drain();
    host
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn no_process_is_named_for_another(
        steps in proptest::collection::vec(step(), 0..120),
        memory_bytes in prop_oneof![Just(MEMORY_BYTES), Just(FEW_BYTES)],
    ) {
        run(&steps, memory_bytes);
    }
}

/// The test above would also pass if nothing was ever named.
#[test]
fn processes_are_named() {
    let steps = [
        Step::Seed,
        Step::Tick,
        Step::Fork { maker: 1, child: 3, is_sibling: false },
        Step::Tick,
        Step::Act(3),
        Step::Exec(3),
        Step::Act(3),
        Step::Act(1),
    ];
    assert_eq!(run(&steps, MEMORY_BYTES).named, 6);
}
