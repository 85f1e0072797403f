//! Restarts with a service manager that keeps sockets and memory: nothing is lost, nothing comes twice, and nothing is
//! declared as lost.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, flowlog, run_command};
use crate::harness::entries::{make, make_and_flush};
use crate::harness::manager::Manager;
use crate::harness::namespace::Namespace;
use crate::harness::process::Process;
use crate::harness::tally::Tally;
use crate::harness::traffic::Ends;
use crate::harness::wait::wait_for;

/// How often the daemon is killed; `FLOWLOG_KILLS` sets another number.
const KILLS: u32 = 40;

fn command(output: &Path, namespaces: &[&Namespace]) -> Command {
    let mut command = run_command(output, namespaces);
    command.arg("--no-ebpf").env("FLOWLOG__HOLD__RECEIVE_BUFFER", "4MiB");
    command
}

/// All flows are rows, each once; nothing is declared as lost, and `verify` finds nothing.
#[track_caller]
fn check_all(output: &Path, made: u32, others: u32) {
    let tally = Tally::read(output);
    tally.check_each_once();
    assert_eq!(tally.gaps, [], "nothing is lost");
    let missing: Vec<u32> = (0..made).filter(|number| !tally.rows.contains_key(number)).collect();
    let ranges = missing.chunk_by(|one, next| one + 1 == *next).map(|range| (range[0], range.len()));
    let first: Vec<_> = ranges.take(10).collect();
    assert!(
        missing.is_empty(),
        "of {made} flows {} are missing: first and number of {first:?}",
        missing.len()
    );
    assert_eq!((tally.rows.len(), tally.others), (usize::try_from(made).unwrap(), others));
    let verified = flowlog(&["verify", output.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified}");
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_loses_nothing() {
    let kills = env::var("FLOWLOG_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    // The entries are removed all at once, which would make two of a connection that is still open.
    let [namespace, connected] = [(); 2].map(|()| Namespace::tracked());
    let output = tempfile::tempdir().unwrap();
    let manager = Manager::new();
    let (made, others, stop) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let command = command(output.path(), &[&namespace, &connected]);
    // Before there is anything to be missed.
    Daemon::spawn(manager.command(&command)).kill();
    let mut random: u64 = 0x5eed;
    let daemon = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let first = made.fetch_add(2000, Ordering::Relaxed);
                make_and_flush(&namespace, first..first + 2000);
                // 20 000 a second, if the machine can.
                thread::sleep(Duration::from_millis(100).saturating_sub(began.elapsed()));
            }
        });
        scope.spawn(|| {
            let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
            let ends = Ends { client: &connected, server: &connected };
            while !stop.load(Ordering::Relaxed) {
                ends.tcp_closed(at, at);
                others.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        for _ in 0..kills {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Some are killed while they start.
            let process = Process::spawn(manager.command(&command));
            thread::sleep(Duration::from_millis((random >> 33) % 700));
            process.signal(Signal::SIGKILL);
            process.finish();
        }
        stop.store(true, Ordering::Relaxed);
        // The one who makes flows may wait for room.
        Daemon::spawn(manager.command(&command))
    });
    conntrack::flush(&connected);
    daemon.stop();

    let (made, others) = (made.into_inner(), others.into_inner());
    assert!(made > 100 * kills, "the case is too small: {made} flows");
    println!("{made} flows and {others} connections over {kills} kills");
    check_all(output.path(), made, others);
}

#[test]
fn what_ends_while_nobody_runs_is_recorded_by_the_next_start() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let manager = Manager::new();
    let command = command(output.path(), &[&namespace]);
    Daemon::spawn(manager.command(&command)).stop();
    make_and_flush(&namespace, 0..1000);
    let log = Daemon::spawn(manager.command(&command)).stop();
    assert!(log.contains("goes on where run"), "{log}");
    make(&namespace, 1000..1010);
    make_and_flush(&namespace, 1010..2000);
    Daemon::spawn(manager.command(&command)).stop();
    check_all(output.path(), 2000, 0);
    assert_eq!(manager.names(), [format!("events-{}", namespace.inode()), "in-flight".to_owned()]);
}

/// Runs of the daemon with a manager: each makes flows and is stopped; between the runs more flows are made.
struct Service {
    namespace: Namespace,
    output: TempDir,
    manager: Manager,
    made: u32,
}

impl Service {
    fn new() -> Self {
        let (namespace, output) = (Namespace::tracked(), tempfile::tempdir().unwrap());
        Self { namespace, output, manager: Manager::new(), made: 0 }
    }

    fn start(&self, args: &[&str]) -> Daemon {
        let mut command = command(self.output.path(), &[&self.namespace]);
        command.args(args);
        Daemon::spawn(self.manager.command(&command))
    }

    fn make(&mut self, flows: u32) {
        make_and_flush(&self.namespace, self.made..self.made + flows);
        self.made += flows;
    }

    fn events(&self) -> String {
        format!("events-{}", self.namespace.inode())
    }

    /// What was lost, by its causes.
    #[track_caller]
    fn gaps(&self) -> Vec<String> {
        let tally = Tally::read(self.output.path());
        tally.check_each_once();
        let verified = flowlog(&["verify", self.output.path().to_str().unwrap()]);
        assert!(verified.status.success(), "{verified}");
        tally.causes().into_iter().map(str::to_owned).collect()
    }
}

#[test]
fn what_the_manager_does_not_keep_or_keeps_wrongly_is_a_gap() {
    let other = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    type Replace = fn(&Service, fn() -> OwnedFd);
    let cases: [(&str, Replace); 5] = [
        ("", |service, _| service.manager.replace(&service.events(), None)),
        ("", |service, _| service.manager.replace("in-flight", None)),
        ("kept a socket of the network namespace", |service, other| {
            service.manager.replace(&service.events(), Some(other()));
        }),
        ("kept memory of an earlier flowlog that this one cannot use", |service, other| {
            service.manager.replace("in-flight", Some(other()));
        }),
        ("kept `what`, which is not needed any more", |service, other| {
            service.manager.replace(&service.events(), None);
            service.manager.add("what", other());
        }),
    ];
    for (line, replace) in cases {
        let mut service = Service::new();
        let daemon = service.start(&[]);
        service.make(10);
        daemon.kill();
        replace(&service, other);
        let daemon = service.start(&[]);
        service.make(10);
        let log = daemon.stop();
        assert!(log.contains(line) && !log.contains("goes on where run"), "{line}: {log}");
        assert_eq!(service.gaps(), ["daemon_down"], "{line}");
        // From here on it is kept.
        service.make(10);
        let log = service.start(&[]).stop();
        assert!(log.contains("goes on where run"), "{log}");
        let names = [service.events(), "in-flight".to_owned()];
        assert_eq!(service.manager.names(), names);
        assert_eq!(service.gaps(), ["daemon_down"]);
    }
}

#[test]
fn what_a_full_socket_could_not_take_is_held_or_declared() {
    for (delivery, lost) in [("reliable", false), ("best-effort", true)] {
        let mut service = Service::new();
        let args = ["--delivery", delivery];
        service.start(&args).kill();
        service.make(30_000);
        let daemon = service.start(&args);
        service.make(10);
        daemon.stop();
        let tally = Tally::read(service.output.path());
        assert_eq!(tally.check_exact(service.made) > 0, lost, "{delivery}: {:?}", tally.gaps);
        assert!(tally.causes().iter().all(|cause| *cause == "overrun"), "{:?}", tally.gaps);
        service.gaps();
    }
}

#[test]
fn another_filter_is_a_gap_only_if_more_is_recorded_than_before() {
    let mut service = Service::new();
    let settings = service.output.path().with_extension("toml");
    fs::write(&settings, "filter.except.address = ['192.0.2.7']\n").unwrap();
    let filtered = ["--config", settings.to_str().unwrap()];
    service.start(&[]).stop();
    service.make(10);
    service.start(&filtered).stop();
    assert_eq!(service.gaps(), [""; 0]);
    service.make(10);
    service.start(&filtered).stop();
    assert_eq!(service.gaps(), [""; 0]);
    service.start(&[]).stop();
    assert_eq!(service.gaps(), ["daemon_down"]);
    fs::remove_file(settings).unwrap();
}

#[test]
fn what_ends_without_an_event_while_nobody_runs_is_declared_with_its_number() {
    for (end_meanwhile, lost) in [(true, 10), (false, 0)] {
        let service = Service::new();
        // Entries that are made while events are off send none.
        service.namespace.sysctl("net/netfilter/nf_conntrack_events", "0");
        make(&service.namespace, 0..10);
        service.namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
        let mut daemon = service.start(&[]);
        // When it has a row, it has also noted what its first list of the table had.
        let one = make(&service.namespace, 10..11).remove(0);
        let mut delete = Command::new("conntrack");
        delete.args(["--delete", "--orig-src", &one.src.to_string()]);
        service.namespace.exec(delete);
        wait_for("the row", || {
            daemon.rotate();
            (Tally::read(service.output.path()).rows.len() == 1).then_some(())
        });
        daemon.kill();
        if end_meanwhile {
            conntrack::flush(&service.namespace);
        }
        let daemon = service.start(&[]);
        if !end_meanwhile {
            conntrack::flush(&service.namespace);
        }
        daemon.stop();
        let tally = Tally::read(service.output.path());
        assert_eq!(tally.check_exact(11), lost, "{:?}", tally.gaps);
    }
}

#[test]
fn starts_that_are_killed_as_soon_as_they_are_ready_declare_nothing() {
    let mut service = Service::new();
    for _ in 0..10 {
        service.start(&[]).kill();
        service.make(10);
    }
    service.start(&[]).stop();
    check_all(service.output.path(), service.made, 0);
}
