//! Others change the host while flowlog runs: what is missing then is said, declared, and set right where that is
//! asked for.

mod programs;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flowlog::connections::ctnetlink::Requests;

use crate::harness::daemon::{Daemon, flowlog, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::entries::make;
use crate::harness::kernel;
use crate::harness::namespace::Namespace;
use crate::harness::tally::{GapRow, gaps, now_us};
use crate::harness::wait::wait_for;

/// Rules that make the kernel track, as somebody else has them.
const RULES: &str = "table inet track {
    chain in { type filter hook prerouting priority -200; ct state new counter; }
    chain out { type filter hook output priority -200; ct state new counter; }
}";

/// Connections that a test makes at once.
const SOME: u16 = 10;

/// A connection that was made.
#[derive(Debug)]
struct Made {
    netns: i64,
    port: u16,
    at_us: i64,
}

/// Makes connections to ports from this one on, over UDP: each is a datagram.
#[track_caller]
fn connect(namespace: &Namespace, first_port: u16, made: &mut Vec<Made>) {
    let netns = namespace.inode();
    namespace.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in first_port..first_port + SOME {
            let receiver = UdpSocket::bind(("127.0.0.1", port)).unwrap();
            let at_us = now_us();
            socket.send_to(b"request", receiver.local_addr().unwrap()).unwrap();
            made.push(Made { netns, port, at_us });
        }
    });
}

/// Ends all connections.
#[track_caller]
fn flush(namespace: &Namespace) {
    namespace.inside(Requests::open).unwrap().flush().unwrap();
}

/// Two namespaces that are watched by one daemon.
struct Two {
    one: Namespace,
    other: Namespace,
    output: tempfile::TempDir,
    made: Vec<Made>,
}

impl Two {
    #[track_caller]
    fn new() -> Self {
        let [one, other] = [(); 2].map(|()| {
            let namespace = Namespace::tracked();
            namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
            namespace
        });
        Self { one, other, output: tempfile::tempdir().unwrap(), made: Vec::new() }
    }

    #[track_caller]
    fn start(&self, keep: bool) -> Daemon {
        let mut command = run_command(self.output.path(), &[&self.one, &self.other]);
        command.arg("--no-ebpf").env("FLOWLOG__DUMP_INTERVAL", "200ms").env("FLOWLOG_LOG", "debug");
        if keep {
            command.env("FLOWLOG__HOST__KEEP", "true");
        }
        Daemon::spawn(command)
    }

    /// In both.
    #[track_caller]
    fn connect(&mut self, first_port: u16) {
        connect(&self.one, first_port, &mut self.made);
        connect(&self.other, first_port, &mut self.made);
    }

    /// All that was made is a row, once, or a gap of this cause that names the namespace covers it. Gives how many
    /// are not rows, and the gaps of the cause.
    #[track_caller]
    fn check(&self, cause: &str) -> (usize, Vec<GapRow>) {
        let dataset = Dataset::read(self.output.path());
        let gaps = gaps(self.output.path());
        let rows = dataset.rows();
        let mut missing = 0;
        for made in &self.made {
            let found = rows.iter().filter(|row| {
                row.int("observer_netns") == Some(made.netns) && row.int("dst_port") == Some(made.port.into())
            });
            match found.count() {
                1 => {}
                0 => {
                    missing += 1;
                    assert_eq!(made.netns, self.one.inode(), "nothing happened to the other one: {made:?}");
                    let covers = |gap: &&GapRow| {
                        (gap.from_us..=gap.to_us).contains(&made.at_us)
                            && gap.cause == cause
                            && gap.lost_flows.is_none()
                            && gap.detail.contains(self.one.name())
                    };
                    assert!(
                        gaps.iter().any(|gap| covers(&gap)),
                        "{made:?} is missing without a word: {gaps:#?}"
                    );
                }
                found => panic!("{found} rows of {made:?}"),
            }
        }
        verify(self.output.path());
        let other = self.other.name();
        assert!(!gaps.iter().any(|gap| gap.detail.contains(other)), "nothing happened to {other}: {gaps:#?}");
        (missing, gaps.into_iter().filter(|gap| gap.cause == cause).collect())
    }
}

/// The files are what was written, and the causes of all gaps are known.
#[track_caller]
fn verify(output: &Path) {
    flowlog(&["verify", output.to_str().unwrap()]).success();
}

#[track_caller]
fn wait_for_log(daemon: &Daemon, words: &str) {
    wait_for(words, || daemon.log().contains(words).then_some(()));
}

/// Waits until the table was looked at twice from now on: one of them may have begun before.
#[track_caller]
fn wait_for_list(daemon: &Daemon, namespace: &Namespace) {
    let words = format!("the table of `{}`: ", namespace.name());
    let before = count(daemon, &words);
    wait_for("a list of the table", || (count(daemon, &words) >= before + 2).then_some(()));
}

/// How often the log has these words.
fn count(daemon: &Daemon, words: &str) -> usize {
    daemon.log().matches(words).count()
}

#[test]
fn rules_that_somebody_removes_are_noticed_and_declared() {
    let mut two = Two::new();
    let daemon = two.start(false);
    two.connect(5000);
    let removed = Instant::now();
    two.one.nft("flush ruleset");
    wait_for_log(&daemon, "no rule makes the kernel track connections over IPv6");
    assert!(removed.elapsed() < Duration::from_secs(10), "noticed after {:?}", removed.elapsed());
    two.connect(5100);
    two.one.nft(RULES);
    wait_for("both versions to be tracked again", || (count(&daemon, "resolved after") == 2).then_some(()));
    two.connect(5200);
    flush(&two.one);
    flush(&two.other);
    let log = daemon.stop();
    let error = log.lines().find(|line| line.contains("ERROR")).unwrap_or_else(|| panic!("no error:\n{log}"));
    for words in [two.one.name(), "they are not recorded", "flowlog doctor --fix --netns", "host.keep = true"]
    {
        assert!(error.contains(words), "does not say `{words}`: {error}");
    }
    let (missing, gaps) = two.check("not_tracked");
    assert_eq!(missing, usize::from(SOME), "those that were made without rules");
    assert!(gaps.iter().any(|gap| gap.detail.contains("IPv4, resolved after")), "{gaps:#?}");
    assert!(gaps.iter().any(|gap| gap.detail.contains("IPv6, resolved after")), "{gaps:#?}");
    assert!(gaps.iter().all(|gap| gap.stage == "kernel"), "{gaps:#?}");
}

#[test]
fn rules_that_somebody_removes_are_set_right() {
    let mut two = Two::new();
    let daemon = two.start(true);
    two.connect(5000);
    two.one.nft("flush ruleset");
    two.connect(5100);
    wait_for("both versions to be tracked again", || (count(&daemon, "resolved after") == 2).then_some(()));
    two.connect(5200);
    flush(&two.one);
    flush(&two.other);
    let log = daemon.stop();
    assert!(log.contains("undo: nft delete table inet flowlog"), "{log}");
    let (missing, gaps) = two.check("not_tracked");
    assert!(missing <= usize::from(SOME), "{missing} are missing");
    assert!(gaps.iter().any(|gap| gap.detail.contains("resolved by flowlog after")), "{gaps:#?}");
}

/// As the service of nftables is restarted: its stop removes all rules, and its start loads them.
#[test]
fn rules_that_go_and_come_back_are_noticed() {
    let mut two = Two::new();
    let daemon = two.start(false);
    let mut port = 5000;
    let mut reload = |two: &mut Two| {
        two.connect(port);
        two.one.nft("flush ruleset");
        connect(&two.one, port + 2 * SOME, &mut two.made);
        two.one.nft(RULES);
        connect(&two.one, port + 3 * SOME, &mut two.made);
        port += 100;
    };
    for _ in 0..5 {
        reload(&mut two);
    }
    flush(&two.one);
    flush(&two.other);
    daemon.stop();
    let (_, gaps) = two.check("not_tracked");
    assert!(!gaps.is_empty());
}

/// Other things than rules make the kernel track, too, and come and go without a word that flowlog knows: here objects
/// of nftables, elsewhere rules of iptables-legacy.
#[test]
fn what_tracks_without_a_rule_that_is_known_is_asked_for() {
    let objects = "table ip objects {
        ct expectation e { protocol udp; dport 9876; timeout 2m; size 12; l3proto ip; };
    }";
    let mut two = Two::new();
    two.one.nft(&format!("flush ruleset; {objects}"));
    let daemon = two.start(false);
    assert_eq!(count(&daemon, "IPv4"), 0, "it is tracked:\n{}", daemon.log());
    assert_eq!(count(&daemon, "IPv6"), 1, "it is not:\n{}", daemon.log());
    two.connect(5000);
    two.one.nft("delete table ip objects");
    wait_for_log(&daemon, "no rule makes the kernel track connections over IPv4");
    two.connect(5100);
    two.one.nft(objects);
    wait_for_log(&daemon, "resolved after");
    two.connect(5200);
    flush(&two.one);
    flush(&two.other);
    daemon.stop();
    let (missing, _) = two.check("not_tracked");
    assert_eq!(missing, usize::from(SOME), "those that were made without anything that tracks");
}

/// In one transaction, no moment is without rules, and nothing is declared.
#[test]
fn a_reload_in_one_transaction_loses_nothing() {
    let mut two = Two::new();
    let daemon = two.start(false);
    for number in 0..10 {
        two.one.nft(&format!("flush ruleset; {RULES}"));
        two.connect(5000 + number * SOME);
    }
    flush(&two.one);
    flush(&two.other);
    daemon.stop();
    let (missing, gaps) = two.check("not_tracked");
    assert_eq!((missing, gaps.len()), (0, 0), "{gaps:#?}");
}

/// Each sysctl in turn: what it costs is a gap as long as it lasts.
#[test]
fn sysctls_that_somebody_sets_are_noticed_and_declared() {
    for (sysctl, cause, lost) in [
        ("nf_conntrack_events", "events_off", None),
        ("nf_conntrack_acct", "accounting_off", Some(0)),
        ("nf_conntrack_timestamp", "timestamps_off", Some(0)),
    ] {
        let mut two = Two::new();
        let daemon = two.start(false);
        let path = format!("net/netfilter/{sysctl}");
        two.connect(5000);
        two.one.sysctl(&path, "0");
        wait_for_log(&daemon, &format!("{sysctl} is 0"));
        two.connect(5100);
        if lost.is_none() {
            // They end without an event, and nobody has listed them.
            flush(&two.one);
        }
        two.one.sysctl(&path, "1");
        wait_for_log(&daemon, "resolved after");
        two.connect(5200);
        flush(&two.one);
        flush(&two.other);
        daemon.stop();
        let (missing, gaps) = two.check(cause);
        assert_eq!(missing, if lost.is_none() { usize::from(SOME) } else { 0 }, "{sysctl}");
        assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap.lost_flows == lost), "{sysctl}: {gaps:#?}");
        let dataset = Dataset::read(two.output.path());
        for made in &two.made {
            let is_affected = made.netns == two.one.inode() && (5100..5200).contains(&made.port);
            let covers = gaps.iter().any(|gap| (gap.from_us..=gap.to_us).contains(&made.at_us));
            assert!(!is_affected || covers, "{sysctl}: no gap covers {made:?}: {gaps:#?}");
            let Some(row) = dataset.rows().into_iter().find(|row| {
                row.int("observer_netns") == Some(made.netns) && row.int("dst_port") == Some(made.port.into())
            }) else {
                continue;
            };
            let is_null = match cause {
                "accounting_off" => row.int("orig_bytes").is_none(),
                "timestamps_off" => row.time("start_time").is_none(),
                _ => false,
            };
            assert_eq!(is_null, is_affected && lost.is_some(), "{sysctl}: {row:?}");
        }
    }
}

#[test]
fn sysctls_that_somebody_sets_are_set_right() {
    for (sysctl, cause) in [
        ("nf_conntrack_events", "events_off"),
        ("nf_conntrack_acct", "accounting_off"),
        ("nf_conntrack_timestamp", "timestamps_off"),
    ] {
        let mut two = Two::new();
        let daemon = two.start(true);
        let path = format!("net/netfilter/{sysctl}");
        two.connect(5000);
        two.one.sysctl(&path, "0");
        wait_for_log(&daemon, "resolved after");
        assert_eq!(two.one.read_sysctl(&path), "1");
        two.connect(5100);
        flush(&two.one);
        flush(&two.other);
        daemon.stop();
        let (missing, gaps) = two.check(cause);
        assert_eq!((missing, gaps.len()), (0, 1), "{sysctl}: {gaps:#?}");
        assert!(gaps[0].detail.contains("resolved by flowlog after"), "{sysctl}: {gaps:#?}");
        assert!(gaps[0].to_us - gaps[0].from_us < 5_000_000, "{sysctl}: {gaps:#?}");
    }
}

#[test]
fn a_start_on_a_host_that_does_not_track_is_a_gap() {
    let namespace = Namespace::bare();
    let output = tempfile::tempdir().unwrap();
    let mut command = run_command(output.path(), &[&namespace]);
    command.arg("--no-ebpf");
    let daemon = Daemon::spawn(command);
    let at_us = now_us();
    daemon.stop();
    let gaps = gaps(output.path());
    for version in ["IPv4", "IPv6"] {
        let covers = |gap: &&GapRow| {
            gap.cause == "not_tracked"
                && gap.detail.contains(version)
                && gap.lost_flows.is_none()
                && (gap.from_us..=gap.to_us).contains(&at_us)
        };
        assert!(gaps.iter().any(|gap| covers(&gap)), "{version}: {gaps:#?}");
    }
    assert!(gaps.iter().any(|gap| gap.cause == "accounting_off"), "{gaps:#?}");
    verify(output.path());
}

/// Ten reloads a second do not make the daemon busy.
#[test]
fn reloads_all_the_time_cost_little() {
    let two = Two::new();
    let daemon = two.start(true);
    let before = processor_time(daemon.pid());
    let began = Instant::now();
    for number in 0..50 {
        let next = began + Duration::from_millis(100) * number;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        two.one.nft(&format!("flush ruleset; {RULES}"));
    }
    let took = began.elapsed();
    let share = (processor_time(daemon.pid()) - before).as_secs_f64() / took.as_secs_f64();
    println!("ten reloads a second cost {:.1} % of a processor", share * 100.0);
    // Some 1 %, also of a debug build; an emulated processor takes many times longer.
    assert!(share < 0.25 || kernel::is_virtual_machine(), "{:.1} %", share * 100.0);
    daemon.stop();
    assert_eq!(gaps(two.output.path()), []);
}

/// User and system time of a process.
#[track_caller]
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// The probe leaves no entry, and no packet that others see as a connection.
#[test]
fn nothing_is_left_of_the_question_whether_connections_are_tracked() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let mut doctor = Command::new(crate::harness::daemon::binary());
    doctor.args(["doctor", "--netns", namespace.name(), "--output"]).arg(output.path());
    let mut command = run_command(output.path(), &[&namespace]);
    command.arg("--no-ebpf");
    let daemon = Daemon::spawn(command);
    crate::harness::process::run(doctor).success();
    let socket = namespace.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    socket.send_to(b"the only one", at).unwrap();
    flush(&namespace);
    daemon.stop();
    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    assert_eq!(dataset.rows().len(), 1, "{row:?}");
}

/// Entries that were made while events were off end without an event, also after that: a list finds them.
#[test]
fn what_was_made_while_events_were_off_is_recorded_when_it_ends() {
    let mut two = Two::new();
    let daemon = two.start(false);
    let path = "net/netfilter/nf_conntrack_events";
    two.one.sysctl(path, "0");
    wait_for_log(&daemon, "nf_conntrack_events is 0");
    two.connect(5000);
    two.one.sysctl(path, "1");
    wait_for_log(&daemon, "resolved after");
    two.connect(5100);
    wait_for_list(&daemon, &two.one);
    flush(&two.one);
    flush(&two.other);
    daemon.stop();
    let (missing, _) = two.check("events_off");
    assert_eq!(missing, 0);
    let dataset = Dataset::read(two.output.path());
    for row in dataset.rows() {
        let is_silent =
            row.int("observer_netns") == Some(two.one.inode()) && row.int("dst_port") < Some(5100);
        let source = if is_silent { "reconcile" } else { "destroy" };
        assert_eq!(row.text("end_source"), Some(source), "{row:?}");
    }
}

/// A rule leaves out the event of the end (`ct event set`, `--ctevents`): an audit finds these connections.
#[test]
fn what_a_rule_keeps_from_sending_events_is_found_by_an_audit() {
    let namespace = Namespace::tracked();
    namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    namespace.nft(
        "table ip quiet { chain out { type filter hook output priority -150; udp dport < 5100 ct event set new; }; }",
    );
    let output = tempfile::tempdir().unwrap();
    let mut command = run_command(output.path(), &[&namespace]);
    command.arg("--no-ebpf").env("FLOWLOG__DUMP_INTERVAL", "100ms").env("FLOWLOG__AUDIT_INTERVAL", "200ms");
    command.env("FLOWLOG_LOG", "debug");
    let mut daemon = Daemon::spawn(command);
    let mut made = Vec::new();
    connect(&namespace, 5000, &mut made);
    connect(&namespace, 5100, &mut made);
    wait_for_list(&daemon, &namespace);
    flush(&namespace);
    wait_for("rows of all", || {
        daemon.rotate();
        (Dataset::read(output.path()).rows().len() >= made.len()).then_some(())
    });
    daemon.stop();
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), made.len());
    for made in made {
        let row = dataset.row_to(made.port);
        let source = if made.port < 5100 { "reconcile" } else { "destroy" };
        assert_eq!(row.text("end_source"), Some(source), "{row:?}");
    }
}

/// The limit is one for the whole host, so only a virtual machine is filled.
#[test]
fn a_full_table_is_declared_with_the_numbers_of_the_kernel() {
    const MAX: u32 = 1000;
    if !kernel::is_virtual_machine() {
        return;
    }
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let limit = "net/netfilter/nf_conntrack_max";
    let before = fs::read_to_string(format!("/proc/sys/{limit}")).unwrap();
    let mut command = run_command(output.path(), &[&namespace]);
    command.arg("--no-ebpf");
    let daemon = Daemon::spawn(command);
    fs::write(format!("/proc/sys/{limit}"), MAX.to_string()).unwrap();
    // Assured, so the kernel does not remove them to make room.
    make(&namespace, 0..MAX - 1);
    let refused = namespace.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sent = (5000..5100).filter(|port| {
            // The kernel says EPERM for a packet that it drops on its way out.
            socket.send_to(b"request", ("127.0.0.1", *port)).is_err()
        });
        u64::try_from(sent.count()).unwrap()
    });
    assert!(refused > 50, "only {refused} were refused");
    daemon.stop();
    fs::write(format!("/proc/sys/{limit}"), before.trim()).unwrap();
    let mut drop = 0;
    namespace
        .inside(Requests::open)
        .unwrap()
        .cpu_statistics(|_, counters| drop += u64::from(counters.drop.unwrap_or_default()))
        .unwrap();
    assert_eq!(drop, refused, "what the kernel counts is what it refused");
    let gaps = gaps(output.path());
    let lost: i64 =
        gaps.iter().filter(|gap| gap.cause == "conntrack_full").filter_map(|gap| gap.lost_flows).sum();
    assert_eq!(u64::try_from(lost).unwrap(), drop, "{gaps:#?}");
    assert!(
        gaps.iter().all(|gap| gap.stage == "kernel" && gap.detail.contains(namespace.name())),
        "{gaps:#?}"
    );
    let mut doctor = Command::new(crate::harness::daemon::binary());
    doctor.args(["doctor", "--netns", namespace.name(), "--output"]).arg(output.path());
    let told = crate::harness::process::run(doctor).stdout;
    assert!(told.contains("last full at") && told.contains("nf_conntrack_max="), "{told}");
    verify(output.path());
}
