//! What the eBPF programs cost: time of each per connection, and the rate of connections with and without.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::Options;
use super::figures::{Cell, Report, Samples, Section};
use super::loopback::{self, Took};
use super::output::Output;
use super::programs::{self, Counting, Runs};
use crate::background::Background;
use crate::interrupt::Interrupt;
use crate::namespace::Namespace;

const DEFAULT_COUNT: u32 = 20_000;
const DEFAULT_ROUNDS: u32 = 10;

/// How long a daemon may take to load its programs and subscribe, and to publish and exit.
const DAEMON_LIMIT: Duration = Duration::from_secs(30);

/// Programs that run for every process of the host, and not for a socket.
const OF_PROCESSES: &str = "process_";

/// A process costs the machine about as much as twenty connections.
const CONNECTIONS_PER_PROCESS: u32 = 20;

/// Measures flowlog's programs.
///
/// # Errors
///
/// When a daemon or the traffic fails, and when a signal came.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let binary = options.flowlog()?;
    let count = options.count.unwrap_or(DEFAULT_COUNT);
    let rounds = options.rounds.unwrap_or(DEFAULT_ROUNDS);
    let mut sections = costs(&binary, count, interrupt)?;
    sections.push(rates(&binary, count, rounds, interrupt)?);
    Ok(Report { name: "ebpf", sections })
}

/// Lets the kernel count the time of the programs, which itself takes time.
fn costs(binary: &Path, count: u32, interrupt: &Interrupt) -> Result<Vec<Section>> {
    let watched = Watched::start(binary, &[], interrupt)?;
    let _counting = Counting::start()?;
    let process_count = count.div_ceil(CONNECTIONS_PER_PROCESS);
    // Once before: the first connections fill caches.
    watched.namespace.inside(|| loopback::tcp(count.div_ceil(10)))?;
    println!("== programs: {count} connections");
    let mut tcp = watched.runs_during(|| loopback::tcp(count).map(drop))?;
    println!("== programs: {count} datagrams and answers");
    let mut udp = watched.runs_during(|| loopback::udp(count).map(drop))?;
    println!("== programs: {process_count} processes");
    let mut process = watched.runs_during(|| loopback::processes(process_count))?;
    watched.stop(interrupt)?;

    let of_processes = |name: &String| name.starts_with(OF_PROCESSES);
    tcp.retain(|name, _| !of_processes(name));
    udp.retain(|name, _| !of_processes(name));
    process.retain(|name, _| of_processes(name));
    Ok(vec![
        programs::section("tcp".into(), "TCP, per connection: a side is half of it", tcp, count.into()),
        programs::section(
            "udp".into(),
            "UDP, per socket that sends a datagram and gets an answer",
            udp,
            count.into(),
        ),
        programs::section(
            "process".into(),
            "Processes, per fork, exec and exit",
            process,
            process_count.into(),
        ),
    ])
}

/// Makes connections with and without the programs, in turns and in other respects the same.
fn rates(binary: &Path, count: u32, rounds: u32, interrupt: &Interrupt) -> Result<Section> {
    let mut rate = Compared::default();
    let mut cpu = Compared::default();
    for round in 1..=rounds {
        println!("== rate: round {round} of {rounds}");
        let one = |arguments: &[&str]| -> Result<Took> {
            let watched = Watched::start(binary, arguments, interrupt)?;
            watched.namespace.inside(|| loopback::tcp(count.div_ceil(10)))?;
            let took = watched.namespace.inside(|| loopback::tcp(count))?;
            watched.stop(interrupt)?;
            Ok(took)
        };
        // Whatever drifts meets both alike.
        let (with, without) = if round % 2 == 0 {
            let with = one(&[])?;
            (with, one(&["--no-ebpf"])?)
        } else {
            let without = one(&["--no-ebpf"])?;
            (one(&[])?, without)
        };
        let connections = f64::from(count);
        rate.add([with, without].map(|took| connections / took.elapsed.as_secs_f64()));
        cpu.add([with, without].map(|took| took.cpu.as_secs_f64() * 1e6 / connections));
    }
    let rows = vec![rate.row("connections per s", 0), cpu.row("CPU us per connection, both sides", 2)];
    Ok(Section {
        title: format!("TCP with and without the programs: {rounds} rounds, medians and quartiles"),
        key: "rate".into(),
        columns: &[
            "figure",
            "with",
            "without",
            "difference_percent",
            "lower_quartile_percent",
            "upper_quartile_percent",
        ],
        rows,
    })
}

/// One figure, with and without the programs.
#[derive(Default)]
struct Compared {
    with: Samples,
    without: Samples,
    /// Of each round on its own: what runs beside it disturbs both alike.
    difference_percent: Samples,
}

impl Compared {
    fn add(&mut self, [with, without]: [f64; 2]) {
        self.with.push(with);
        self.without.push(without);
        self.difference_percent.push((with / without - 1.0) * 100.0);
    }

    fn row(&self, name: &str, decimals: usize) -> Vec<Cell> {
        let [low, middle, high] = self.difference_percent.quartiles().unwrap_or([f64::NAN; 3]);
        let medians = [&self.with, &self.without].map(|samples| Cell::Figure(samples.median(), decimals));
        let percent = [middle, low, high].map(|percent| Cell::Figure(percent, 1));
        [Cell::Text(name.to_owned())].into_iter().chain(medians).chain(percent).collect()
    }
}

/// A namespace, and a daemon that watches it.
struct Watched {
    // In the order in which they go.
    daemon: Background,
    namespace: Namespace,
    _output: Output,
}

impl Watched {
    fn start(binary: &Path, arguments: &[&str], interrupt: &Interrupt) -> Result<Self> {
        let namespace = Namespace::new("bench", "loopback")?;
        let output = Output::new()?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--output").arg(output.path().join("data")).args(["--netns", &namespace.name]);
        command.args(["--fix", "--rotate-interval", "1h"]).args(arguments);
        let daemon = Background::start(command, &output.path().join("log"))?;
        let mut watched = Self { daemon, namespace, _output: output };
        interrupt.wait_for("the daemon to be ready", DAEMON_LIMIT, || watched.daemon.has_said("ready"))?;
        Ok(watched)
    }

    /// What its programs do while `work` makes traffic.
    fn runs_during(&self, work: impl FnOnce() -> Result<()> + Send) -> Result<BTreeMap<String, Runs>> {
        let before = programs::runs(self.daemon.pid())?;
        self.namespace.inside(work)?;
        programs::runs_since(self.daemon.pid(), &before)
    }

    fn stop(mut self, interrupt: &Interrupt) -> Result<()> {
        self.daemon.terminate()?;
        interrupt.wait_for("the daemon to exit", DAEMON_LIMIT, || self.daemon.has_succeeded())
    }
}
