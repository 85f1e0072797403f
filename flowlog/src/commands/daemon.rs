//! `flowlog run`: the only place with threads, channels, select and signals.
//!
//! The receiving side is the main thread, on a current-thread runtime: it reads netlink and the ring
//! buffer, joins, and fills batches. It never touches the disk. The writing side is a thread of its
//! own that never touches netlink. Between them is one bounded channel, in one direction.
//!
//! | module | owns |
//! |---|---|
//! | `receive` | reading: which sockets, how long, what happens while writing is behind; the stop |
//! | `in_flight`, `takeover` | where events are until the write-ahead log has their rows; what an earlier process left |
//! | `pace`, `ticker`, `turns` | how long it sleeps between two reads; what wakes it when nothing comes; whose turn it is |
//! | `follow` | network namespaces that come and go |
//! | `waiting` | what all sockets are waited for with |
//! | `watched` | a network namespace: its sockets, dumps, room in its table |
//! | `observed` | messages and dumps = records, handed to a sink; without sockets, so its tests join messages with events |
//! | `local` | the tables of sockets and processes, fed from the ring buffer |
//! | `older` | sockets and processes that are older than the programs |
//! | `addresses`, `clock` | the addresses of a namespace; how the clocks stand to each other |
//! | `needed`, `programs` | what others take away from the host or detach: noticed, logged, declared as a gap, restored |
//! | `said` | logging the same not too often |
//! | `output` | the sink: batch, channel, and what waits for room. Whoever else wants records gets them here |
//! | `writing` | the writing side, and what it does while the disk refuses |
//! | `confined` | what is given up after the start: capabilities, files, programs, connections |
//! | `counts`, `scrape` | counters, and the answers to Prometheus |

mod addresses;
mod clock;
mod confined;
mod counts;
mod follow;
mod in_flight;
mod local;
mod manager;
mod needed;
mod observed;
mod older;
mod output;
mod pace;
mod programs;
mod receive;
mod said;
mod scrape;
mod takeover;
mod ticker;
mod turns;
mod waiting;
mod watched;
mod writing;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use flowlog_common::heap;
use flowlog_reader::gaps::Pending;
use flowlog_reader::run::RunFacts;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use self::clock::now_us;
use self::follow::Following;
use self::local::Local;
pub use self::manager::Kept;
use self::manager::ServiceManager;
use self::observed::Tally;
use self::output::Output;
use self::pace::Pace;
use self::programs::Programs;
use self::receive::Rest;
use self::takeover::{ReceiveMemory, Takeover};
use self::ticker::Ticker;
use self::turns::{FEW, LOOK_FOR, Turns};
use self::waiting::Sockets;
use self::watched::{Dump, REFRESH_INTERVAL, Watch, Watched};
use self::writing::Written;
use crate::attribution::join::Linger;
use crate::commands::config::Config;
use crate::commands::doctor::Settings;
use crate::commands::metrics::Metrics;
use crate::connections::ctnetlink::{Buffers, ListenerLosses};
use crate::host::identity::Host;
use crate::host::namespace::Namespace;
use crate::host::needs::Need;
use crate::log::schema::FlowBatch;
use crate::log::store::{InFlight, NONE_YET, Store, StoreConfig};
use crate::log::writer::Directory;

/// How often the ring buffer is read where no flow ends: it must not fill up in between.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// The interval of what is turned off.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// How long the last events may take at the stop.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// How often the sockets are read until nothing waits: each turn takes some thousand events.
const MAX_TURNS: u32 = 100;

/// How long the last files may take at the stop. What is not published then is in the write-ahead log.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(40);

/// How long the write-ahead log may take to have the last rows.
const WAL_DEADLINE: Duration = Duration::from_secs(10);

/// Logs flows to the directory until SIGTERM or SIGINT, then publishes what is there.
///
/// # Errors
///
/// Where something that is needed is missing at the start, and where flows were lost because they
/// could not be written.
pub fn run(config: Config, directory: Directory, kept: Kept) -> Result<()> {
    confined::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // First: a signal that comes while the daemon starts must not end it half-way.
        let mut signals = Signals::handle()?;
        Daemon::start(config, directory, kept)?.run(&mut signals).await
    })
}

/// The signals that are requests.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn handle() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot handle SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("cannot handle SIGHUP")?,
        })
    }

    /// Waits for a signal that asks to stop.
    async fn stop(&mut self) {
        let Self { terminate, interrupt, hangup: _ } = self;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// The receiving side.
struct Daemon {
    watched: Vec<Watched>,
    /// Readable when any listener is, and when `changes` is.
    readable: AsyncFd<OwnedFd>,
    /// What tells which of them, and of changes of addresses: those do not wait for the end of a nap.
    sockets: Sockets,
    following: Following,
    pace: Pace,
    buffers: Buffers,
    memory: ReceiveMemory,
    local: Local,
    programs: Programs,
    output: Output,
    turns: Turns,
    table_share_percent: u8,
    dump_interval: Duration,
    audit_interval: Option<Duration>,
    metrics: Metrics,
}

impl Daemon {
    // Long, since what begins here depends on what has begun before.
    fn start(config: Config, directory: Directory, kept: Kept) -> Result<Self> {
        let Config {
            output: directory_name,
            namespaces,
            wanted,
            ebpf,
            delivery,
            dump_interval,
            audit_interval,
            active_interval,
            rotation,
            compatibility,
            wal_sync,
            table_share_percent,
            receive_buffer_bytes,
            ring_buffer_bytes,
            memory_bytes,
            retention,
            metrics: metrics_address,
            cmdline,
            filter,
            keep,
        } = config;
        let recorded = observed::recorded(&filter)?;
        let watch = Watch {
            delivery,
            receive_buffer_bytes,
            active_interval,
            filter: filter.clone(),
            keep,
            is_only: wanted.is_one(),
        };
        let metrics = Metrics::default();
        if let Some(address) = metrics_address {
            scrape::serve(address, metrics.exposition())?;
        }
        let (mut takeover, mut memory) = Takeover::begin(kept)?;
        let mut local = Local::start(ebpf, ring_buffer_bytes, memory_bytes, cmdline)?;

        let programs = Programs::new(keep);
        let (mut watched, settings, sockets) = open_all(namespaces, &watch, &local, &mut takeover)?;
        takeover.keep(&watched, &mut memory.in_flight);
        // After the subscription: what ends from now on is either in the dump or sends a message.
        for watched in &mut watched {
            watched.dump(&mut local, Dump::Due)?;
        }
        let watched_since_us = now_us();
        let (mut buffers, mut gaps) = (Buffers::default(), Pending::default());
        for watched in &mut watched {
            let was_checked = watched.namespace.name().is_none_or(|name| wanted.names(name));
            // Of a pattern there may be hundreds: each gets its first look soon.
            if was_checked {
                watched.look(&mut buffers, &mut gaps);
            } else {
                watched.is_new = true;
            }
        }

        let facts = RunFacts {
            acct: in_all(&settings, |settings| settings.acct),
            timestamp: in_all(&settings, |settings| settings.timestamp),
            filter: recorded,
            ..Host::this().begin_run()
        };
        let run = facts.run.clone();
        if let Some(filter) = &facts.filter {
            info!("not all flows are recorded: the filter is {filter}");
        }
        memory.in_flight.begin_run(run.run_id);
        let durable = memory.in_flight.durable();
        let store = StoreConfig {
            directory,
            rotation,
            compatibility,
            wal_sync,
            retention,
            facts,
            delivery: delivery.name(),
            netns: if watched.is_empty() {
                vec![NONE_YET]
            } else {
                watched.iter().map(|watched| watched.namespace.inode()).collect()
            },
            watched_since_us: Some(watched_since_us),
            kept: takeover.facts(&watched),
            in_flight: Some(InFlight {
                id: memory.in_flight.id(),
                has_round: Box::new(move |round| durable.set(round)),
            }),
        };
        let store = Store::open(store, SystemTime::now())?;
        memory.in_flight.has_begun();
        if let Some(restart) = store.restart() {
            info!("goes on where run {} ended", restart.of_run);
            for watched in watched.iter_mut().filter(|watched| watched.is_taken) {
                watched.read_until_us = restart.since_us;
            }
        }
        // Before the writing side removes what says so.
        let durable = memory.in_flight.durable_round(store.round());
        let durable = durable.context("cannot read the memory of received events")?;
        local.drain()?;
        local.seed();
        local.seed_sockets(&watched, false)?;
        heap::give_back();
        info!(
            "ready: run {}, {} network namespace(s), {}, writing to `{}`",
            run.run_id,
            watched.len(),
            if local.ebpf.is_some() { "processes from eBPF" } else { "no processes" },
            directory_name.display(),
        );
        let first_round = memory.in_flight.round();
        let (mut output, writing) =
            Output::start(FlowBatch::new(&run), store, directory_name.clone(), metrics.clone(), first_round)?;
        let kept = takeover.finish(durable, &mut watched, &mut memory, &mut local, &mut output)?;
        gaps.take().into_iter().for_each(|gap| output.gaps.add(gap));
        let needs =
            confined::StillNeeded { namespaces: wanted.can_change(), writes: wanted.can_change() && keep };
        confined::receiving_side(&watched, needs, &directory_name, writing);
        Ok(Self {
            watched,
            readable: async_fd(sockets.readable.0.try_clone().context("cannot watch the netlink sockets")?)?,
            sockets,
            following: Following::new(wanted, watch, kept),
            pace: Pace::new(Instant::now()),
            buffers,
            memory,
            local,
            programs,
            output,
            turns: Turns::default(),
            table_share_percent,
            dump_interval,
            audit_interval,
            metrics,
        })
    }

    /// Works until a signal asks to stop, or something fails for good; publishes in both cases.
    async fn run(mut self, signals: &mut Signals) -> Result<()> {
        let mut manager = ServiceManager::of_environment();
        let worked = self.work(signals, &mut manager).await;
        manager.is_stopping();
        if let Err(error) = &worked {
            error!("stopping, because flowlog cannot read flows any more: {error:#}");
        }
        let stopped = self.stop(worked.is_ok(), signals).await;
        worked.and(stopped)
    }

    async fn work(&mut self, signals: &mut Signals, manager: &mut ServiceManager) -> Result<()> {
        let drain = Ticker::start(DRAIN_INTERVAL)?;
        let mut refresh = interval(REFRESH_INTERVAL);
        let mut dump = interval(self.dump_interval);
        dump.reset();
        let mut audit = interval(self.audit_interval.unwrap_or(NEVER));
        audit.reset();
        manager.is_ready();

        // Whether the sockets were not read to their end in the last turn.
        let mut more = false;
        loop {
            tokio::select! {
                biased;
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.hangup.recv() => {
                    // What ended before the signal is in the file.
                    self.read_waiting()?;
                    self.output.rotate()?;
                }
                // On a slow host, what is done now and then may take longer than its interval: that must leave time for
                // events, so each interval begins when the work is done.
                _ = refresh.tick() => {
                    if self.watched.len() <= FEW {
                        self.refresh(0..self.watched.len());
                    }
                    refresh.reset();
                }
                ticked = drain.tick() => {
                    ticked?;
                    manager.goes_on();
                    self.local.drain()?;
                    more |= self.check_hold();
                    self.record_dumps()?;
                    follow::follow(self)?;
                    let all = self.watched.len();
                    let few = self.turns.next_to_look_at(all);
                    self.look(few.clone())?;
                    let some = self.turns.next_to_refresh(all);
                    self.refresh(some);
                    self.tick()?;
                    counts::update_metrics(self, few);
                    drain.reset()?;
                    self.pace.is_due_at(Instant::now() + DRAIN_INTERVAL);
                }
                // While nothing can be taken, events wait that may tell of what a dump would miss.
                _ = dump.tick(), if !self.output.is_blocked() => {
                    self.dump(Dump::Due)?;
                    dump.reset();
                }
                _ = audit.tick(), if self.audit_interval.is_some() && !self.output.is_blocked() => {
                    self.dump(Dump::Audit)?;
                    audit.reset();
                }
                room = self.output.room(), if self.output.is_blocked() => {
                    room?;
                    self.output.send_waiting()?;
                    self.check_hold();
                    more = true;
                }
                ready = ready_to_receive(&self.readable, more), if self.can_receive() => {
                    ready.context("cannot wait for the netlink sockets")?;
                    more = self.receive_and_nap()?;
                }
            }
        }
    }

    /// Reads again what changes rarely, and what the kernel has lost, of some.
    fn refresh(&mut self, which: Range<usize>) {
        for watched in self.watched.get_mut(which).into_iter().flatten() {
            watched.refresh();
            watched.read_losses(&mut self.output.gaps);
        }
        let lingers = self.watched.iter().map(|watched| watched.place.linger());
        if let Some(linger) = lingers.reduce(Linger::or) {
            self.local.tables.set_linger(linger);
        }
    }

    /// Looks at what flowlog needs of the host, and of some network namespaces. Where events were off until now, what was
    /// made meanwhile is listed.
    fn look(&mut self, few: Range<usize>) -> Result<()> {
        let Self { watched, buffers, output, local, programs, following, .. } = self;
        programs.look(local, &mut output.gaps)?;
        local.look_again(watched)?;
        // Where no rule shows that connections are tracked, a look may take some hundredths of a second.
        let (begun, has_many) = (Instant::now(), watched.len() > FEW);
        let has_time = || !has_many || begun.elapsed() < LOOK_FOR;
        for watched in watched.iter_mut().filter(|watched| watched.is_new).take_while(|_| has_time()) {
            watched.look_first(following.watch.keep, buffers, &mut output.gaps);
        }
        for index in few {
            if !has_time() {
                self.turns.looked_until(index);
                break;
            }
            if let Some(watched) = watched.get_mut(index) {
                watched.look(buffers, &mut output.gaps);
            }
        }
        let is_due = |watched: &Watched| watched.has_silent && watched.needed.is_met(Need::Events);
        if self.watched.iter().any(is_due) && self.read_waiting()? {
            let Self { watched, local, .. } = self;
            watched
                .iter_mut()
                .filter(|watched| is_due(watched))
                .try_for_each(|watched| watched.dump(local, Dump::Audit))?;
        }
        Ok(())
    }

    /// Reads all events that wait. Before a list: what ended since the last one must not be missing in this one, too,
    /// before its event is read. Says whether that could be done.
    fn read_waiting(&mut self) -> Result<bool> {
        for _ in 0..MAX_TURNS {
            if self.output.is_blocked() {
                return Ok(false);
            }
            if self.receive()?.rest == Rest::Nothing {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lists the tables, unless there are too many events that were not read: then the next time.
    fn dump(&mut self, why: Dump) -> Result<()> {
        if !self.read_waiting()? {
            return Ok(());
        }
        self.watched.iter_mut().try_for_each(|watched| watched.dump(&mut self.local, why))
    }

    /// Reads what the kernel had queued, where it `can_read`, publishes, and says what there was. Another
    /// signal makes it leave the rows in the write-ahead log.
    async fn stop(mut self, can_read: bool, signals: &mut Signals) -> Result<()> {
        info!("stopping: reading what the kernel has queued, and publishing");
        let read = tokio::select! {
            read = tokio::time::timeout(READ_DEADLINE, self.read_rest(can_read)) => read.unwrap_or(Ok(false)),
            () = signals.stop() => {
                self.output.status.give_up();
                Ok(false)
            }
        };
        if !matches!(read, Ok(true)) {
            if self.memory.is_kept {
                info!("events that were not read wait for the next start");
            } else {
                self.declare_unread();
            }
        }
        let handed_over = tokio::time::timeout(WAL_DEADLINE, self.hand_over()).await;
        let handed_over = handed_over
            .context("the disk does not answer: flows that are not in the write-ahead log are lost")
            .flatten();
        let ListenerLosses { overruns, truncated } = counts::losses(&self.watched, &self.following.gone);
        let Self { watched, local, output, following, .. } = self;
        let Tally { flows: _, undecodable, unknown_attributes, duplicates, lost } = output.counts.tally;
        let status = std::sync::Arc::clone(&output.status);
        let mut written = output.close();
        let stopped_by = tokio::select! {
            biased;
            written = &mut written => Some(written),
            () = signals.stop() => None,
            () = tokio::time::sleep(PUBLISH_DEADLINE) => None,
        };
        let written = match stopped_by {
            Some(written) => written,
            None => {
                warn!(
                    "stopping without publishing: the rows stay in the write-ahead log, and the next start publishes them"
                );
                status.give_up();
                tokio::time::timeout(WAL_DEADLINE, written)
                    .await
                    .context("the disk does not answer: flows that are not in the write-ahead log are lost")?
            }
        };
        let Written { published, lost_rows, is_complete } =
            written.context("the writing thread ended unexpectedly")?;
        info!(
            rows = published.rows,
            files = published.files,
            is_complete,
            lost_rows,
            lost_flows = lost,
            duplicates,
            overruns,
            truncated,
            undecodable,
            unknown_attributes,
            zeroed = watched.iter().map(|watched| watched.observed.dumps.zeroed()).sum::<u64>()
                + following.gone.zeroed,
            lost_events = local.lost,
            evicted_sockets = local.tables.evicted(),
            "stopped"
        );
        if lost_rows > 0 {
            bail!("lost {lost_rows} flows that could not be written; the errors above show why");
        }
        read.and(handed_over)
    }
}

/// Subscribes in each namespace; gives also the settings that were found there, and what waits for all sockets.
fn open_all(
    namespaces: Vec<Namespace>,
    watch: &Watch,
    local: &Local,
    takeover: &mut Takeover,
) -> Result<(Vec<Watched>, Vec<Settings>, Sockets)> {
    let sockets = Sockets::new()?;
    let opened = namespaces.into_iter().map(|namespace| {
        let taken = takeover.take(&namespace);
        Watched::open(namespace, taken, watch, local, &sockets)
    });
    let (watched, settings) = opened.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    Ok((watched, settings, sockets))
}

/// The interval, which does not catch up on what it missed.
fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that may close their descriptor early; this one owns it"
)]
fn async_fd(epoll: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(epoll).context("cannot watch the netlink sockets")
}

/// Waits until a listener can be read; does not wait where the last turn left something.
async fn ready_to_receive(readable: &AsyncFd<OwnedFd>, more: bool) -> std::io::Result<()> {
    if more {
        tokio::task::yield_now().await;
    } else {
        // Cleared before the sockets are read: what arrives meanwhile makes it ready again.
        readable.readable().await?.clear_ready();
    }
    Ok(())
}

/// Whether a sysctl is on in all namespaces; `None` where that differs or is not known.
fn in_all(settings: &[Settings], sysctl: impl Fn(&Settings) -> Option<u8>) -> Option<bool> {
    let mut values = settings.iter().map(|settings| sysctl(settings).map(|value| value != 0));
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)?
}
