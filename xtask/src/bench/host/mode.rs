//! What watches a host while it works: nothing, flowlog in several ways, or what people use today.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::place::Place;
use crate::background::Background;
use crate::bench::programs::{self, Runs};
use crate::bench::run::Tools;
use crate::bench::table::{self, Listeners};
use crate::bench::usage::{self, Usage};
use crate::{setup, sh};

/// How long a watcher may take to load its programs and subscribe, and to publish and exit.
const WATCHER_LIMIT: Duration = Duration::from_secs(60);

/// How long a daemon may take to read what the kernel has for it.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// A daemon has received all when nothing waits for it. The kernel (6.18) miscounts what waits for a socket that
/// overran: then it has when it has done nothing for so long.
const QUIET: Duration = Duration::from_secs(1);

/// How a host is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Mode {
    /// Connection tracking is on, as for all others, and nobody listens.
    Without,
    /// flowlog without processes.
    NoEbpf,
    /// flowlog's programs are attached, and the daemon is stopped: what they cost by themselves.
    Stopped,
    /// flowlog with its default settings.
    Whole,
    /// `tcplife` of libbpf-tools, which prints a line for each TCP connection.
    Tcplife,
}

impl Mode {
    pub(in crate::bench) const ALL: [Self; 5] =
        [Self::Without, Self::NoEbpf, Self::Stopped, Self::Whole, Self::Tcplife];

    /// Its name on the command line and in tables.
    pub(in crate::bench) fn name(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::NoEbpf => "no-ebpf",
            Self::Stopped => "stopped",
            Self::Whole => "whole",
            Self::Tcplife => "tcplife",
        }
    }

    /// Those that a list names, separated by commas.
    ///
    /// # Errors
    ///
    /// When it names something else.
    pub(in crate::bench) fn parse_list(list: &str) -> Result<Vec<Self>> {
        let parse = |name: &str| {
            let mode = Self::ALL.into_iter().find(|mode| mode.name() == name);
            let names = || Self::ALL.map(Self::name).join(", ");
            mode.with_context(|| format!("`{name}` is no mode, expected one of {}", names()))
        };
        list.split(',').map(parse).collect()
    }

    /// Whether it can be measured here. Installs what it needs.
    pub(super) fn is_possible(self) -> bool {
        self != Self::Tcplife || sh::find("tcplife").is_some() || setup::for_peer("tcplife", "libbpf-tools")
    }

    /// Whether it writes rows.
    pub(super) fn has_rows(self) -> bool {
        matches!(self, Self::NoEbpf | Self::Whole)
    }

    /// Whether it is flowlog, for which the kernel holds events that are not read in time.
    pub(super) fn is_flowlog(self) -> bool {
        matches!(self, Self::NoEbpf | Self::Stopped | Self::Whole)
    }
}

/// What watches, and what it had used when the work began.
pub(super) struct Watcher<'a> {
    process: Option<Background>,
    mode: Mode,
    tools: &'a Tools<'a>,
    log: PathBuf,
    before: Duration,
    loaded_mib: Option<f64>,
    threads_before: BTreeMap<String, Duration>,
    runs_before: Option<BTreeMap<String, Runs>>,
}

/// What a watcher came to.
#[derive(Default)]
pub(super) struct Watched {
    /// What it had used when the work began.
    pub(super) before: Duration,
    /// From the begin of the work to its own end.
    pub(super) cpu: Option<Duration>,
    /// The same by thread, and what it did at its end.
    pub(super) parts: BTreeMap<String, Duration>,
    /// The memory that it takes when the load is made: open connections are open, and ended ones may wait.
    pub(super) loaded_mib: Option<f64>,
    pub(super) peak_mib: Option<f64>,
    /// Of the eBPF programs, if they are counted.
    pub(super) runs: BTreeMap<String, Runs>,
    pub(super) evicted_sockets: Option<u64>,
    pub(super) lost_events: Option<u64>,
}

impl<'a> Watcher<'a> {
    /// Starts what `mode` has, and waits until it watches `place`.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn start(mode: Mode, tools: &'a Tools<'a>, place: &Place, directory: &Path) -> Result<Self> {
        let log = directory.join("log");
        let command = match mode {
            Mode::Without => None,
            Mode::NoEbpf | Mode::Stopped | Mode::Whole => {
                let mut command = Command::new(&tools.flowlog);
                command.arg("run").arg("--output").arg(directory.join("data"));
                command.args(["--netns", &place.server.name, "--rotate-interval", "1h"]);
                command.args((mode == Mode::NoEbpf).then_some("--no-ebpf"));
                Some(command)
            }
            Mode::Tcplife => Some(tcplife()),
        };
        let process = command.map(|command| Background::start(command, &log)).transpose()?;
        let mut watcher = Self {
            process,
            mode,
            tools,
            log,
            before: Duration::ZERO,
            loaded_mib: None,
            threads_before: BTreeMap::new(),
            runs_before: None,
        };
        if let Some(process) = &mut watcher.process {
            let is_flowlog = mode.is_flowlog();
            tools.interrupt.wait_for("a watcher to be ready", WATCHER_LIMIT, || {
                if is_flowlog {
                    return process.has_said("ready");
                }
                // It prints nothing before its buffer is full. When it sleeps, it waits for events.
                process.has_said("")?;
                Ok(programs::runs(process.pid()).is_ok() && sleeps(process.pid()))
            })?;
        }
        Ok(watcher)
    }

    /// The work is about to begin. With `counting`, the runs of its programs are counted.
    ///
    /// # Errors
    ///
    /// When the watcher has ended.
    pub(super) fn begin(&mut self, counting: bool) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        if self.mode == Mode::Stopped {
            sh::output(Command::new("kill").args(["-STOP", &process.pid().to_string()]))?;
        }
        if counting {
            self.runs_before = Some(programs::runs(process.pid())?);
        }
        self.before = usage::cpu_of_process(process.pid())?;
        self.threads_before = usage::cpu_of_threads(process.pid())?;
        Ok(())
    }

    /// The load is made, and its programs still run.
    ///
    /// # Errors
    ///
    /// When the watcher has ended.
    pub(super) fn loaded(&mut self) -> Result<()> {
        if let Some(process) = &self.process {
            self.loaded_mib = Some(Usage::of(process.pid())?.rss_mib);
        }
        Ok(())
    }

    /// The work is done: ends the watcher, once it has received what the kernel has for it.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub(super) fn end(mut self, place: &Place) -> Result<Watched> {
        let Some(mut process) = self.process.take() else { return Ok(Watched::default()) };
        let pid = process.pid();
        if self.mode.has_rows() {
            self.drain(&mut process, place)?;
        }
        let mut watched = Watched { before: self.before, loaded_mib: self.loaded_mib, ..Watched::default() };
        if let Some(before) = &self.runs_before {
            watched.runs = programs::runs_since(pid, before)?;
        }
        watched.peak_mib = Some(Usage::of(pid)?.peak_mib);
        for (name, cpu) in usage::cpu_of_threads(pid)? {
            let before = self.threads_before.get(&name).copied().unwrap_or_default();
            watched.parts.insert(name, cpu.saturating_sub(before));
        }
        let cpu = usage::cpu_of_process(pid)?.saturating_sub(self.before);
        if !self.mode.has_rows() {
            // Nothing is to be written any more.
            watched.cpu = Some(cpu);
            return Ok(watched);
        }
        // From here on, the watcher is the only child that is waited for.
        let (ended, before_end) = (usage::cpu_of_ended_children()?, cpu + self.before);
        // SIGTERM is sent by a program, whose own time is too short to matter.
        process.terminate()?;
        self.tools.interrupt.wait_for("a watcher to end", WATCHER_LIMIT, || {
            if let Ok(usage) = Usage::of(pid) {
                watched.peak_mib = Some(usage.peak_mib);
            }
            process.has_succeeded()
        })?;
        let at_end = usage::cpu_of_ended_children()?.saturating_sub(ended).saturating_sub(before_end);
        watched.parts.insert("at the end".to_owned(), at_end);
        watched.cpu = Some(cpu + at_end);
        let log =
            fs::read_to_string(&self.log).with_context(|| format!("cannot read `{}`", self.log.display()))?;
        watched.evicted_sockets = counted(&log, "evicted_sockets");
        watched.lost_events = counted(&log, "lost_events");
        Ok(watched)
    }

    fn drain(&self, process: &mut Background, place: &Place) -> Result<()> {
        let mut seen = None;
        let mut quiet_since = Instant::now();
        self.tools.interrupt.wait_for("a daemon to receive all events", DRAIN_LIMIT, || {
            process.has_said("")?;
            let is_held = table::entries(&place.server)? > 0;
            let listeners = Listeners::of(&place.server)?;
            if !is_held && listeners.queued_bytes == 0 {
                return Ok(true);
            }
            let now = Some((listeners, Usage::of(process.pid())?.cpu));
            if is_held || now != seen {
                (seen, quiet_since) = (now, Instant::now());
            }
            Ok(quiet_since.elapsed() > QUIET)
        })
    }
}

/// It needs tracefs, which is not mounted everywhere: it gets one of its own. Older ones look for it below debugfs.
fn tcplife() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]).arg(
        "mount -t debugfs none /sys/kernel/debug; mount -t tracefs none /sys/kernel/tracing; exec tcplife",
    );
    command
}

/// Whether a process waits for something.
fn sleeps(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// A number in what a daemon says when it has stopped: `name=12`.
fn counted(log: &str, name: &str) -> Option<u64> {
    let line = log.lines().rfind(|line| line.contains(" stopped "))?;
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_in_the_last_words_of_a_daemon() {
        let log = "2026-11-29T17:08:27Z  INFO stopping: reading what the kernel has queued, and publishing\n\
                   2026-11-29T17:08:28Z  INFO stopped rows=7 files=1 lost_events=0 evicted_sockets=12\n";
        assert_eq!(counted(log, "evicted_sockets"), Some(12));
        assert_eq!(counted(log, "lost_events"), Some(0));
        assert_eq!(counted(log, "events"), None);
        assert_eq!(counted("", "lost_events"), None);
    }

    #[test]
    fn modes_are_chosen_by_name() {
        assert_eq!(Mode::parse_list("whole,without").unwrap(), [Mode::Whole, Mode::Without]);
        assert_eq!(
            Mode::parse_list("half").unwrap_err().to_string(),
            "`half` is no mode, expected one of without, no-ebpf, stopped, whole, tcplife"
        );
    }
}
