//! The kernel, the disk and the daemon, and what the steps do to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use flowlog::connections::ctnetlink::{Buffers, Delivery, Filter, Listener, Received, Requests};
use flowlog::connections::filter::FlowFilter;
use flowlog::flow::Tuple;
use nix::sys::signal::Signal;

use super::reference::{Reference, Window};
use super::steps::{Start, Step};
use crate::crash::{Rows, check_published, note_rows_on_disk};
use crate::faults::{WRITER, check_verified};
use crate::harness::daemon::{Daemon, run_command};
use crate::harness::entries::{make, make_for};
use crate::harness::fault::Fault;
use crate::harness::namespace::Namespace;
use crate::harness::tally::{Tally, now_us};
use crate::harness::volume::Volume;
use crate::harness::wait::wait_for;

/// How long entries live that expire.
const LIFE_S: u32 = 1;

/// The kernel counts timeouts in ticks, which begin a little earlier or later.
const TICK_US: i64 = 50_000;

const EVENTS: &str = "net/netfilter/nf_conntrack_events";

/// What a schedule is about.
pub(super) struct World {
    seed: u64,
    steps: Vec<String>,
    reference: Reference,
    /// Entries that stay until they are removed.
    entries: Vec<(u32, Tuple)>,
    /// Entries that expire, and when.
    expiring: Vec<(u32, Window)>,
    made: u32,
    /// Files that were looked at, and the rows that were seen in them or in the write-ahead log.
    files: BTreeSet<PathBuf>,
    seen: Rows,
    up: Option<Up>,
    is_full: bool,
    other: Option<Listener>,
    requests: Requests,
    namespace: Namespace,
    volume: Volume,
}

/// A daemon that runs.
struct Up {
    daemon: Daemon,
    ready_us: i64,
    /// When it was last seen that all is published.
    settled_us: Option<i64>,
    has_small_buffer: bool,
    is_frozen: bool,
    fault: Option<Fault>,
}

impl World {
    /// Nothing runs, and nothing has happened.
    #[track_caller]
    pub(super) fn new(seed: u64) -> Self {
        let namespace = Namespace::tracked();
        // Always: else it depends on who listens on this host.
        namespace.sysctl(EVENTS, "1");
        Self {
            seed,
            steps: Vec::new(),
            reference: Reference::default(),
            entries: Vec::new(),
            expiring: Vec::new(),
            made: 0,
            files: BTreeSet::new(),
            seen: BTreeMap::new(),
            up: None,
            is_full: false,
            other: None,
            requests: namespace.inside(Requests::open).unwrap(),
            namespace,
            volume: Volume::small(32 << 20),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.up.as_ref().is_some_and(|up| up.is_frozen)
    }

    pub(super) fn has_fault(&self) -> bool {
        self.up.as_ref().is_some_and(|up| up.fault.is_some())
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn has_other(&self) -> bool {
        self.other.is_some()
    }

    pub(super) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    pub(super) fn has_expiring(&self) -> bool {
        !self.expiring.is_empty()
    }

    #[track_caller]
    pub(super) fn take(&mut self, step: Step) {
        self.steps.push(format!("{} {step:?}", now_us()));
        match step {
            Step::Make { entries, expire, silent } => self.make(entries, expire, silent),
            Step::Remove(entries) => self.remove(entries),
            Step::Flush => self.flush(),
            Step::Expire { noticed } => self.expire(noticed),
            Step::Zero => self.zero(),
            Step::Rotate => self.up().daemon.rotate(),
            Step::Freeze => self.freeze(),
            Step::Thaw => self.thaw(),
            Step::Lag => {
                let open = || Listener::open(4 << 10, Delivery::Reliable, &FlowFilter::default());
                self.other = Some(self.namespace.inside(open).unwrap());
            }
            Step::Read => {
                let (other, mut buffers) = (self.other.as_mut().unwrap(), Buffers::default());
                while !matches!(other.recv(&mut buffers).unwrap(), Received::WouldBlock) {}
            }
            Step::Leave => self.other = None,
            Step::Fail(injection) => {
                let up = self.up();
                up.fault = Some(Fault::begin(&up.daemon, WRITER, injection));
            }
            Step::Mend => self.mend(),
            Step::FillDisk => self.fill_disk(),
            Step::FreeDisk => self.free_disk(),
            Step::Settle => self.settle(),
            Step::Kill => self.kill(),
            Step::KillAt { call, when } => self.kill_at(call, when),
            Step::Stop => self.stop(),
            Step::Start(start) => self.start(start),
        }
    }

    /// Ends all, and checks what was recorded.
    #[track_caller]
    pub(super) fn finish(mut self) {
        self.take(Step::Leave);
        if self.is_up() {
            self.take(Step::Thaw);
            self.take(Step::Mend);
            self.take(Step::FreeDisk);
        } else {
            self.take(Step::Start(Start::default()));
        }
        self.take(Step::Flush);
        self.take(Step::Stop);
        // What this one could not publish the next one does.
        self.take(Step::Start(Start::default()));
        self.take(Step::Stop);
        let output = self.output();
        let tally = Tally::read(&output);
        self.reference.check(&tally);
        check_published(&tally, &self.seen);
        check_verified(&output);
    }

    fn output(&self) -> PathBuf {
        self.volume.path().join("log")
    }

    fn up(&mut self) -> &mut Up {
        self.up.as_mut().unwrap()
    }

    #[track_caller]
    fn make(&mut self, entries: u32, expire: bool, silent: bool) {
        let numbers = self.made..self.made + entries;
        self.made += entries;
        if silent {
            self.namespace.sysctl(EVENTS, "0");
        }
        if expire {
            let before_us = now_us();
            make_for(&self.namespace, numbers.clone(), LIFE_S);
            let life_us = i64::from(LIFE_S) * 1_000_000;
            let window = before_us + life_us - TICK_US..=now_us() + life_us + TICK_US;
            self.expiring.extend(numbers.map(|number| (number, window.clone())));
        } else {
            self.entries.extend(numbers.clone().zip(make(&self.namespace, numbers)));
        }
        if silent {
            self.namespace.sysctl(EVENTS, "1");
        }
    }

    /// Removes entries one by one, the oldest first.
    #[track_caller]
    fn remove(&mut self, entries: usize) {
        for (number, tuple) in self.entries.drain(..entries.min(self.entries.len())) {
            let before_us = now_us();
            assert!(self.requests.delete(&tuple, None).unwrap(), "entry {number} was not there");
            self.reference.ended(number, before_us..=now_us());
        }
    }

    #[track_caller]
    fn flush(&mut self) {
        let before_us = now_us();
        self.requests.flush().unwrap();
        let flushed = before_us..=now_us();
        for (number, _) in self.entries.drain(..) {
            self.reference.ended(number, flushed.clone());
        }
        // What had expired has ended then, also where the kernel notices only now.
        for (number, expired) in self.expiring.drain(..) {
            let window = if flushed.end() < expired.start() {
                flushed.clone()
            } else if expired.end() < flushed.start() {
                expired
            } else {
                *expired.start().min(flushed.start())..=*expired.end().max(flushed.end())
            };
            self.reference.expired(number, window);
        }
    }

    #[track_caller]
    fn expire(&mut self, noticed: bool) {
        let last_us = self.expiring.iter().map(|(_, expired)| *expired.end()).max().unwrap();
        wait_for("entries to expire", || (now_us() > last_us).then_some(()));
        for (number, expired) in self.expiring.drain(..) {
            self.reference.expired(number, expired);
        }
        if noticed {
            self.zero();
        }
    }

    /// The kernel removes what has expired on this occasion.
    #[track_caller]
    fn zero(&mut self) {
        self.requests.list_and_zero(&Filter::default(), |_| {}).unwrap();
    }

    fn freeze(&mut self) {
        let up = self.up();
        up.daemon.signal(Signal::SIGSTOP);
        up.is_frozen = true;
    }

    fn thaw(&mut self) {
        let up = self.up();
        up.daemon.signal(Signal::SIGCONT);
        up.is_frozen = false;
    }

    fn mend(&mut self) {
        if let Some(fault) = self.up().fault.take() {
            fault.end();
        }
    }

    fn fill_disk(&mut self) {
        let mut filler = File::create(self.volume.path().join("filler")).unwrap();
        while filler.write(&[1; 4096]).is_ok() {}
        self.is_full = true;
    }

    fn free_disk(&mut self) {
        if self.is_full {
            fs::remove_file(self.volume.path().join("filler")).unwrap();
            self.is_full = false;
        }
    }

    /// From here on the daemon can take all that the kernel has for it.
    fn let_go(&mut self) {
        self.thaw();
        self.free_disk();
        // An event that one listener has no room for keeps those back that the kernel holds for another one.
        if self.up().has_small_buffer {
            self.other = None;
        }
    }

    #[track_caller]
    fn settle(&mut self) {
        self.let_go();
        self.mend();
        let at_us = now_us();
        // So that the kernel tells of what has expired.
        self.zero();
        let output = self.output();
        let up = self.up.as_mut().unwrap();
        let required: Vec<u32> = self.reference.required(&(up.ready_us..=at_us)).collect();
        wait_for("all that ended to be published", || {
            up.daemon.rotate();
            let tally = Tally::read(&output);
            required.iter().all(|number| tally.rows.contains_key(number)).then_some(())
        });
        up.settled_us = Some(at_us);
    }

    #[track_caller]
    fn kill(&mut self) {
        let Up { daemon, ready_us, settled_us, fault, .. } = self.up.take().unwrap();
        self.steps.push(daemon.log());
        daemon.kill();
        if let Some(fault) = fault {
            fault.end();
        }
        if let Some(settled_us) = settled_us {
            self.reference.kept(ready_us..=settled_us);
        }
        let output = self.output();
        if let Some(logged_us) = note_rows_on_disk(&output, &mut self.files, &mut self.seen) {
            self.reference.logged(ready_us..=logged_us);
        }
    }

    #[track_caller]
    fn kill_at(&mut self, call: &str, when: u32) {
        let up = self.up();
        let fault = Fault::begin(&up.daemon, WRITER, &format!("{call}:signal=SIGKILL:when={when}"));
        up.daemon.signal(Signal::SIGHUP);
        // The call may not come so often: then it is killed a little later.
        let deadline = Instant::now() + Duration::from_millis(1500);
        while fault.met() == 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        up.fault = Some(fault);
        self.kill();
    }

    #[track_caller]
    fn stop(&mut self) {
        self.let_go();
        let Up { daemon, ready_us, fault, .. } = self.up.take().unwrap();
        let until_us = now_us();
        let log = daemon.stop();
        if let Some(fault) = fault {
            fault.end();
        }
        self.reference.kept(ready_us..=until_us);
        if log.contains("is_complete=true") {
            self.reference.complete(ready_us..=until_us);
        }
        self.steps.push(log);
    }

    #[track_caller]
    fn start(&mut self, start: Start) {
        // No daemon starts on a full disk.
        self.free_disk();
        let Start { small_buffer, small_files, removed_meanwhile } = start;
        let mut command = run_command(&self.output(), &[&self.namespace]);
        command.arg("--no-ebpf").env("FLOWLOG__DUMP_INTERVAL", "150ms");
        if small_buffer {
            command.env("FLOWLOG__HOLD__RECEIVE_BUFFER", "64KiB");
        }
        if small_files {
            command.args(["--rotate-rows", "150"]);
        }
        // Nobody declares what was before the first one.
        let removed = if self.reference.has_begun() { removed_meanwhile } else { 0 };
        let daemon = thread::scope(|scope| {
            let starting = scope.spawn(|| Daemon::spawn(command));
            for _ in 0..removed {
                self.remove(1);
                thread::sleep(Duration::from_millis(3));
            }
            starting.join().unwrap()
        });
        let ready_us = now_us();
        self.reference.ready(ready_us);
        let up = Up {
            daemon,
            ready_us,
            settled_us: None,
            has_small_buffer: small_buffer,
            is_frozen: false,
            fault: None,
        };
        self.up = Some(up);
    }
}

/// Says what led to a failure.
impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.up.as_ref().map(|up| up.daemon.log()).unwrap_or_default();
            eprintln!("FLOWLOG_MODEL_SEED={} failed after:\n{}\n{log}", self.seed, self.steps.join("\n"));
        }
    }
}
