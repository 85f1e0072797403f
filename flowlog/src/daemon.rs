//! `flowlog run`: the only place with threads, channels, select and signals.
//!
//! The receiving side is the main thread, on a current-thread runtime: it reads netlink and the ring
//! buffer, joins, and fills batches. It never touches the disk. The writing side is a thread of its
//! own that never touches netlink. Between them is one bounded channel, in one direction.

mod clock;
mod local;
mod older;
mod output;
mod watched;

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::time::ClockId;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use self::clock::now_ns;
use self::local::Local;
use self::output::{Output, ToWriter, Written};
use self::watched::{REFRESH_INTERVAL, Watched};
use crate::attribute::{Observer, Sighting, Tables, attribute};
use crate::config::Config;
use crate::ctnetlink::{Buffers, Listener, Received, Requests, decode};
use crate::doctor::{Settings, read_settings};
use crate::host::Host;
use crate::schema::{FlowBatch, RunContext};
use crate::timeouts::Timeouts;
use crate::writer::{Writer, WriterConfig};

/// Rows after which a batch goes to the writing side. More make this side hold more memory, fewer
/// make the other side slower.
const BATCH_ROWS: usize = 8192;

/// How often the ring buffer is read where no flow ends: it must not fill up in between.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Reads of one listener before signals, ticks and the other listeners get their turn.
const READS_PER_TURN: usize = 16;

/// How long the last events may take at the stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Logs flows until SIGTERM or SIGINT, then publishes what is there.
///
/// # Errors
///
/// Where something that is needed is missing at the start, and where flows were lost because they
/// could not be written.
pub fn run(config: Config) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "flowlog run has to be root, to read connection tracking and load eBPF; run it with sudo or as a system service"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // First: a signal that comes while the daemon starts must not end it half-way.
        let signals = Signals::handle()?;
        Daemon::start(config)?.run(signals).await
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
}

/// The receiving side.
struct Daemon {
    watched: Vec<Watched>,
    /// Readable when any listener is.
    readable: AsyncFd<OwnedFd>,
    buffers: Buffers,
    local: Local,
    output: Output,
    counts: Counts,
}

/// What happened to messages, for the last line of the log.
#[derive(Debug, Default)]
struct Counts {
    undecodable: u64,
    unknown_attributes: u64,
}

impl Daemon {
    fn start(config: Config) -> Result<Self> {
        let Config {
            output,
            namespaces,
            ebpf,
            delivery,
            rotation,
            receive_buffer_bytes,
            ring_buffer_bytes,
            sockets,
            ..
        } = config;
        let mut local = Local::start(ebpf, ring_buffer_bytes, sockets);

        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll instance")?;
        let mut watched = Vec::new();
        let mut settings = Vec::new();
        for namespace in namespaces {
            let (listener, probe, found) = namespace.run(|| {
                // Subscribing succeeds also where nothing will ever come.
                let listener = Requests::open()
                    .and_then(|mut requests| requests.count())
                    .and_then(|_| Listener::open(receive_buffer_bytes, delivery));
                (listener, UdpSocket::bind("0.0.0.0:0"), read_settings())
            })?;
            let listener = listener?;
            epoll
                .add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))
                .context("cannot watch the netlink socket")?;
            let netns_cookie = probe.ok().and_then(|probe| local.ebpf.as_ref()?.netns_cookie(&probe));
            if local.ebpf.is_some() && netns_cookie.is_none() {
                warn!(
                    "the eBPF programs do not see sockets of the network namespace `{}`: its flows may have no process",
                    namespace.name().unwrap_or("own")
                );
            }
            let mut namespace = Watched {
                namespace,
                netns_cookie,
                local_addrs: Vec::new(),
                timeouts: Timeouts::default(),
                listener,
            };
            namespace.refresh();
            watched.push(namespace);
            settings.push(found);
        }

        let host = Host::this();
        let context = RunContext {
            run_id: Uuid::now_v7(),
            host_id: host.id,
            host_name: host.name,
            boot_id: host.boot_id,
        };
        let writer = Writer::open(WriterConfig {
            output: output.clone(),
            rotation,
            run: context.clone(),
            kernel: host.kernel,
            acct: in_all(&settings, |settings| settings.acct),
            timestamp: in_all(&settings, |settings| settings.timestamp),
        })?;
        local.drain()?;
        local.seed();
        local.seed_sockets()?;
        info!(
            "ready: run {}, {} network namespace(s), {}, writing to `{}`",
            context.run_id,
            watched.len(),
            if local.ebpf.is_some() { "processes from eBPF" } else { "no processes" },
            output.display(),
        );
        Ok(Self {
            watched,
            readable: async_fd(epoll.0)?,
            buffers: Buffers::default(),
            local,
            output: Output::start(FlowBatch::new(&context), writer)?,
            counts: Counts::default(),
        })
    }

    /// Works until a signal asks to stop, or something fails for good; publishes in both cases.
    async fn run(mut self, signals: Signals) -> Result<()> {
        let worked = self.work(signals).await;
        if let Err(error) = &worked {
            error!("stopping, because flows cannot be read any more: {error:#}");
        }
        let stopped = self.stop(worked.is_ok()).await;
        worked.and(stopped)
    }

    async fn work(&mut self, signals: Signals) -> Result<()> {
        let Signals { mut terminate, mut interrupt, mut hangup } = signals;
        let mut drain = tokio::time::interval(DRAIN_INTERVAL);
        drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Does nothing where no service manager waits for it.
        if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
            warn!("cannot tell the service manager that flowlog is ready: {error}");
        }

        // Whether the sockets were not read to their end in the last turn.
        let mut more = false;
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => {
                    self.output.flush(&mut self.local).await?;
                    self.output.send(ToWriter::Rotate, &mut self.local).await?;
                }
                _ = refresh.tick() => self.watched.iter_mut().for_each(Watched::refresh),
                _ = drain.tick() => {
                    self.local.drain()?;
                    self.output.tick(&mut self.local).await?;
                }
                ready = ready_to_receive(&self.readable, more) => {
                    ready.context("cannot wait for the netlink sockets")?;
                    more = self.receive().await?;
                }
            }
        }
    }

    /// Reads each listener for a while. Says whether there may be more.
    async fn receive(&mut self) -> Result<bool> {
        let Self { watched, buffers, local, output, counts, .. } = self;
        let mut more = false;
        for Watched { namespace, netns_cookie, local_addrs, timeouts, listener } in watched {
            let name = namespace.name().unwrap_or("own");
            let observer =
                Observer { netns: namespace.inode(), netns_cookie: *netns_cookie, local_addrs, timeouts };
            for read in 1.. {
                let received = listener.recv(buffers)?;
                // Then the events: what a socket did before its flow ended is now in the tables. A refused
                // connection has all of its life within microseconds.
                local.drain()?;
                match received {
                    Received::WouldBlock => break,
                    // How many is not known.
                    Received::Overrun => {
                        error!(
                            "flows of the network namespace `{name}` were lost: the socket buffer was full"
                        );
                    }
                    Received::Datagrams(datagrams) => {
                        if datagrams.truncated() > 0 {
                            let truncated = datagrams.truncated();
                            error!(
                                "{truncated} flows of the network namespace `{name}` were lost: found messages larger than the buffer"
                            );
                        }
                        let received_ns = now_ns(ClockId::CLOCK_REALTIME);
                        for datagram in datagrams.iter() {
                            record(datagram, received_ns, observer, &local.tables, &mut output.batch, counts);
                        }
                    }
                }
                if output.batch.len() >= BATCH_ROWS {
                    output.flush(local).await?;
                }
                if read == READS_PER_TURN {
                    more = true;
                    break;
                }
            }
        }
        Ok(more)
    }

    /// Reads what the kernel had queued, where it `can_read`, publishes, and says what there was.
    async fn stop(mut self, can_read: bool) -> Result<()> {
        info!("stopping: reading what the kernel has queued, and publishing");
        let deadline = Instant::now() + STOP_DEADLINE;
        while can_read && self.receive().await? {
            if Instant::now() > deadline {
                error!("flows end faster than they are read: what comes from now on is lost");
                break;
            }
        }
        let Self { watched, mut local, mut output, counts, .. } = self;
        output.flush(&mut local).await?;
        let Written { published, lost_rows } = output.finish();
        let Counts { undecodable, unknown_attributes } = counts;
        info!(
            rows = published.rows,
            files = published.files,
            lost_rows,
            overruns = watched.iter().map(|watched| watched.listener.losses().overruns).sum::<u64>(),
            truncated = watched.iter().map(|watched| watched.listener.losses().truncated).sum::<u64>(),
            undecodable,
            unknown_attributes,
            lost_events = local.lost,
            evicted_sockets = local.tables.evicted(),
            "stopped"
        );
        if lost_rows > 0 {
            bail!("{lost_rows} flows could not be written; the lines above say why");
        }
        Ok(())
    }
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

/// Decodes the messages of one datagram, joins them and appends the rows.
fn record(
    datagram: &[u8],
    received_ns: u64,
    observer: Observer<'_>,
    tables: &Tables,
    batch: &mut FlowBatch,
    counts: &mut Counts,
) {
    for message in decode::messages(datagram) {
        let decoded = message.and_then(|message| match message.event() {
            decode::Event::Destroy => decode::flow(message.payload).map(Some),
            _ => Ok(None),
        });
        match decoded {
            Ok(Some(decode::Decoded { flow, unknown_attributes })) => {
                counts.unknown_attributes += u64::from(unknown_attributes);
                batch.append(&attribute(&flow, Sighting::Destroyed, received_ns, observer, tables));
            }
            Ok(None) => {}
            Err(error) => {
                // A stream of them would fill the log with nothing new.
                if counts.undecodable.is_power_of_two() || counts.undecodable == 0 {
                    error!("a flow was lost: {error}, in a message of the kernel");
                }
                debug!("cannot be decoded: {error}: {datagram:02x?}");
                counts.undecodable += 1;
            }
        }
    }
}

/// Whether a sysctl is on in all namespaces; `None` where that differs or is not known.
fn in_all(settings: &[Settings], sysctl: impl Fn(&Settings) -> Option<u8>) -> Option<bool> {
    let mut values = settings.iter().map(|settings| sysctl(settings).map(|value| value != 0));
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)?
}

/// An error with its causes on one line: the kernel's verifier answers with many.
fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let lines: Vec<String> =
        causes.filter_map(|cause| cause.to_string().lines().next().map(str::to_owned)).collect();
    lines.join(": ")
}
