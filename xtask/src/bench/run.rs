//! One reader that runs in a namespace of its own, from its start to what it has kept.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};

use super::Options;
use super::figures::figure;
use super::load::{Load, Made};
use super::output::Output;
use super::reader::{Kept, Reader};
use super::table::{self, Listeners};
use super::usage::{self, Usage};
use crate::background::Background;
use crate::interrupt::Interrupt;
use crate::namespace::Namespace;
use crate::sh;

/// Rules that make the kernel track connections.
pub(super) const TRACK: &str = "add table inet bench; add chain inet bench out { type filter hook output priority 0; }; \
                     add rule inet bench out ct state new counter";

/// How long a reader may take to subscribe, and to write what it has and end.
const READER_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to read what the kernel has for it.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// A reader has received all when nothing waits for it. The kernel (6.18) miscounts what waits for a socket
/// that overran: then it has when it has done nothing for so long.
const QUIET: Duration = Duration::from_secs(1);

/// What every run needs.
pub(super) struct Tools<'a> {
    pub(super) flowlog: PathBuf,
    pub(super) load: Load,
    pub(super) interrupt: &'a Interrupt,
}

impl<'a> Tools<'a> {
    /// Builds the programs.
    ///
    /// # Errors
    ///
    /// When a build fails.
    pub(super) fn build(options: &Options, interrupt: &'a Interrupt) -> Result<Self> {
        Ok(Self { flowlog: options.flowlog()?, load: Load::build()?, interrupt })
    }
}

/// A reader that listens.
pub(super) struct Run<'a> {
    // In the order in which they go.
    process: Background,
    namespace: Namespace,
    output: Output,
    reader: Reader,
    tools: &'a Tools<'a>,
    /// What it took to start.
    before: Usage,
}

/// What a run came to.
pub(super) struct Outcome {
    pub(super) kept: Kept,
    /// From the subscription to the end.
    pub(super) cpu: Duration,
    pub(super) peak_mib: f64,
    /// From the first removal of an entry to the end: then all is written.
    pub(super) took: Duration,
    /// Messages that did not fit into the receive buffer.
    pub(super) refused: u64,
}

impl Outcome {
    pub(super) fn cpu_us_per_flow(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / figure(self.kept.flows)
    }

    pub(super) fn bytes_per_flow(&self) -> f64 {
        figure(self.kept.bytes) / figure(self.kept.flows)
    }
}

impl<'a> Run<'a> {
    /// Starts `reader` and waits until the kernel knows that it listens.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn start(reader: Reader, tools: &'a Tools<'a>) -> Result<Self> {
        let namespace = Namespace::new("bench", "events")?;
        // Whoever reads, the messages are the same.
        for sysctl in ["nf_conntrack_acct", "nf_conntrack_timestamp"] {
            namespace.sysctl(&format!("netfilter/{sysctl}"), "1")?;
        }
        // A namespace that does not track is a gap of flowlog's.
        sh::output(namespace.command("nft").arg(TRACK))?;
        let output = Output::new()?;
        let command = reader.command(&tools.flowlog, &tools.load, &namespace, &output.path().join("data"))?;
        let mut process = Background::start(command, &output.path().join("log"))?;
        tools.interrupt.wait_for("a reader to listen", READER_LIMIT, || {
            let has_started = process.has_said(if reader.is_flowlog() { "ready" } else { "" })?;
            Ok(has_started && Listeners::of(&namespace)?.count > 0)
        })?;
        let before = Usage::of(process.pid())?;
        Ok(Self { process, namespace, output, reader, tools, before })
    }

    /// Makes entries and removes them, and waits until the reader has received what it will.
    ///
    /// # Errors
    ///
    /// When that fails, and when the reader has ended.
    pub(super) fn burst(&mut self, count: u32, at_once: u32, per_second: Option<u32>) -> Result<Made> {
        let made = self.tools.load.make(&self.namespace, count, at_once, per_second)?;
        let mut seen = None;
        let mut quiet_since = Instant::now();
        self.tools.interrupt.wait_for("a reader to receive all events", DRAIN_LIMIT, || {
            self.process.has_said("")?;
            let is_held = table::entries(&self.namespace)? > 0;
            let listeners = Listeners::of(&self.namespace)?;
            if !is_held && listeners.queued_bytes == 0 {
                return Ok(true);
            }
            let now = Some((listeners, self.usage()?.cpu));
            if is_held || now != seen {
                (seen, quiet_since) = (now, Instant::now());
            }
            Ok(quiet_since.elapsed() > QUIET)
        })?;
        Ok(made)
    }

    /// What it has used so far, its start included.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.process.pid())
    }

    /// Ends it, which makes it write all that it has, and reads what that is.
    ///
    /// # Errors
    ///
    /// When it fails, or has not even one flow.
    pub(super) fn stop(mut self, made: &Made) -> Result<Outcome> {
        let refused = Listeners::of(&self.namespace)?.refused;
        self.process.terminate()?;
        // Since here, the reader is the only child that is waited for.
        let ended = usage::cpu_of_ended_children()?;
        let mut peak_mib = self.before.peak_mib;
        self.tools.interrupt.wait_for("a reader to end", READER_LIMIT, || {
            if let Ok(usage) = Usage::of(self.process.pid()) {
                peak_mib = usage.peak_mib;
            }
            self.process.has_succeeded()
        })?;
        let took = SystemTime::now().duration_since(made.first_removed).unwrap_or_default();
        let cpu = usage::cpu_of_ended_children()?.saturating_sub(ended).saturating_sub(self.before.cpu);
        let (data, log): (PathBuf, PathBuf) =
            (self.output.path().join("data"), self.output.path().join("log"));
        let kept = self.reader.kept(&self.tools.load, &data, &log, made)?;
        ensure!(kept.flows > 0, "`{}` has kept no flow at all", self.reader.name());
        Ok(Outcome { kept, cpu, peak_mib, took, refused })
    }
}
