//! Lines of the real kernel and of conntrack(8): all of them are read, written again as they were, and
//! become rows.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use flowlog::connections::ctnetlink::sets::{Helper, NatRange, SeqAdj, Timestamps};
use flowlog::connections::ctnetlink::{Entry, Requests};
use flowlog::connections::proc_net::LabelNames;
use flowlog::connections::proc_net::parse::{self, Context, Line};
use flowlog::connections::proc_net::print::{self, Style};
use flowlog::flow::{Flow, L4, ProtoState, Protocol, SctpState, Status, TcpState, Tuple};
use jiff::tz::TimeZone;
use nix::sys::signal::Signal;

use crate::conntrack_cli::with_labels;
use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, binary, flowlog};
use crate::harness::dataset::Dataset;
use crate::harness::entries::make_and_flush;
use crate::harness::kernel::{ENDS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::process::{Finished, Process};
use crate::harness::wait::wait_for;

const NANOS: u64 = 1_000_000_000;

/// Names of labels.
const LABELS: &str = "/etc/xtables/connlabel.conf";

/// Bits of an entry whose packets went both ways.
const SEEN: u32 = Status::CONFIRMED.0 | Status::SEEN_REPLY.0;

/// Entries of as many kinds as requests can make.
fn kinds() -> Vec<Entry> {
    let ports = |proto, v6: bool, number: u16| {
        let address = |last: u16| -> IpAddr {
            let text = if v6 { format!("fd00::{last}") } else { format!("10.0.0.{last}") };
            text.parse().unwrap()
        };
        let tuple = |src, dst, l4| Tuple { src, dst, proto, l4, zone: None };
        let l4 = |src, dst| match proto {
            Protocol::ICMP => L4::Icmp { icmp_type: if src == 80 { 0 } else { 8 }, code: 0, id: number },
            Protocol::ICMPV6 => {
                L4::Icmp { icmp_type: if src == 80 { 129 } else { 128 }, code: 0, id: number }
            }
            Protocol::OSPF | Protocol::ESP => L4::None,
            _ => L4::Ports { src, dst },
        };
        let flow = Flow::new(
            tuple(address(1), address(2), l4(number, 80)),
            tuple(address(2), address(1), l4(80, number)),
        );
        Flow { timeout_s: Some(1000), status: Some(Status(SEEN)), ..flow }
    };
    let mut entries = Vec::new();
    for v6 in [false, true] {
        for number in 1..=8 {
            let state = Some(ProtoState::Tcp(TcpState(u8::try_from(number).unwrap())));
            let status = if number < 3 { Status::CONFIRMED.0 } else { SEEN | Status::ASSURED.0 };
            let flow = Flow { state, status: Some(Status(status)), ..ports(Protocol::TCP, v6, number) };
            entries.push((&flow).into());
        }
        let icmp = if v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
        for proto in [Protocol::UDP, Protocol::UDPLITE, icmp, Protocol::GRE, Protocol::OSPF, Protocol::ESP] {
            entries.push((&ports(proto, v6, 7)).into());
        }
        for number in [1, 4, 7] {
            let state = Some(ProtoState::Sctp(SctpState(u8::try_from(number).unwrap())));
            entries.push((&Flow { state, ..ports(Protocol::SCTP, v6, number) }).into());
        }
    }
    let udp = |number| Entry::from(&ports(Protocol::UDP, false, number));
    let mut labels = [0; 16];
    labels[0] = 0b10_0001;
    let one_zone = |number, orig: Option<u16>, reply: Option<u16>| {
        let flow = ports(Protocol::UDP, false, number);
        let orig = Tuple { zone: orig, ..flow.orig };
        Entry::from(&Flow { orig, reply: Tuple { zone: reply, ..flow.reply }, ..flow })
    };
    let tcp =
        Flow { state: Some(ProtoState::Tcp(TcpState::ESTABLISHED)), ..ports(Protocol::TCP, false, 1000) };
    let to = |last| Some(Ipv4Addr::new(192, 0, 2, last));
    entries.extend([
        Entry { mark: Some(0xffff_ffff), ..udp(100) },
        Entry { zone: Some(5), ..udp(101) },
        one_zone(102, Some(6), None),
        one_zone(103, None, Some(7)),
        Entry { labels: Some(labels), ..udp(104) },
        Entry {
            nat_src: Some(NatRange { v4_min: to(1), ..NatRange::default() }),
            nat_dst: Some(NatRange { v4_min: to(2), ..NatRange::default() }),
            ..udp(105)
        },
        Entry {
            helper: Some(Helper { name: Some("ftp".into()), ..Helper::default() }),
            orig_seq_adj: Some(SeqAdj {
                correction_pos: Some(7),
                offset_before: Some(0),
                offset_after: Some(3),
                ..SeqAdj::default()
            }),
            ..(&tcp).into()
        },
    ]);
    entries
}

/// A namespace that has an entry of each kind, and how many these are.
fn with_kinds() -> (Namespace, usize) {
    let namespace = Namespace::tracked();
    namespace.nft(
        "table inet labels { chain c { type filter hook output priority 0; udp dport 9 ct label set 1; }; }",
    );
    let mut requests = namespace.inside(Requests::open).unwrap();
    let kinds = kinds();
    for kind in &kinds {
        requests.make(kind).unwrap_or_else(|err| panic!("{kind:?}: {err:?}"));
    }
    // Real packets, which have counters.
    let mut ping = Command::new("ping");
    ping.args(["-c", "2", "-i", "0.01", "-q", "127.0.0.1"]);
    namespace.exec(ping);
    (namespace, kinds.len() + 1)
}

fn conntrack(namespace: &Namespace, args: &str) -> String {
    let mut command = Command::new("conntrack");
    command.args(args.split_whitespace()).env("TZ", "UTC").env("LC_ALL", "C");
    namespace.exec(command)
}

/// Reads each line and writes it again, which gives the same; what a line leaves open is in the style.
#[track_caller]
fn check_lines(text: &str, style: &Style<'_>) -> usize {
    let names = LabelNames::parse(&fs::read_to_string(LABELS).unwrap());
    let context = Context { time_zone: &TimeZone::UTC, labels: Some(&names), ignore_unknown: false };
    for text in text.lines() {
        let Line { event, mut entry, age_s, gre_timeouts_s, .. } = parse::line(text, &context)
            .unwrap_or_else(|error| panic!("column {}: {error}: {text}", error.column));
        let mut now_s = 2_000_000_000;
        if let Some(age_s) = age_s {
            // Of a line with the start it is the age at the time of the list; else the start is made up.
            let times = entry.timestamps.get_or_insert_with(Timestamps::default);
            let start_ns = *times.start_ns.get_or_insert((now_s - age_s) * NANOS);
            now_s = start_ns / NANOS + age_s;
        }
        let mut out = Vec::new();
        print::entry(
            &mut out,
            &entry,
            event,
            &Style { labels: Some(&names), gre_timeouts_s, now_s, ..style.clone() },
        );
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
    text.lines().count()
}

fn style(layer3: bool, of_kernel: bool, timestamps: bool) -> Style<'static> {
    static UTC: TimeZone = TimeZone::UTC;
    Style {
        layer3,
        of_kernel,
        gre_timeouts_s: None,
        id: true,
        timestamps,
        labels: None,
        when: false,
        now_s: 0,
        time_zone: &UTC,
    }
}

#[test]
fn each_line_of_the_kernel_and_of_conntrack_is_read_and_written_as_it_was() {
    let (namespace, count) = with_kinds();
    let kernel = namespace.inside(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack")).unwrap();
    let checked = with_labels(&namespace, || check_lines(&kernel, &style(true, true, false)));
    assert_eq!(checked, count, "{kernel}");
    for (args, layer3, timestamps) in [
        ("-L", false, false),
        ("-L -o extended", true, false),
        ("-L -o extended,id,ktimestamp,labels", true, true),
        ("-L -o id,timestamp,labels", false, false),
    ] {
        let lines = with_labels(&namespace, || {
            let lines = conntrack(&namespace, args);
            assert_eq!(check_lines(&lines, &style(layer3, false, timestamps)), count, "{args}: {lines}");
            lines
        });
        assert_eq!(lines.contains("labels=red,blue"), args.contains("labels"), "{lines}");
    }
}

/// Imports, and checks that what came of it is clean.
#[track_caller]
fn import(output: &Path, args: &[&str]) -> Finished {
    let output = output.to_str().unwrap();
    let finished = flowlog(&[&["import", "--output", output], args].concat());
    if Path::new(output).exists() {
        let verified = flowlog(&["verify", output]);
        assert_eq!(verified.status.code(), Some(0), "{verified}");
        assert!(verified.stdout.lines().any(|line| line == "clean"), "{verified}");
    }
    finished
}

#[test]
fn a_list_becomes_rows_that_are_snapshots() {
    let (namespace, count) = with_kinds();
    let directory = tempfile::tempdir().unwrap();
    let (list, output) = (directory.path().join("list"), directory.path().join("log"));
    let labels = directory.path().join("labels");
    with_labels(&namespace, || {
        fs::copy(LABELS, &labels).unwrap();
        fs::write(&list, conntrack(&namespace, "-L -o extended,id,ktimestamp,labels")).unwrap();
    });
    let kernel = namespace.inside(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack")).unwrap();
    let proc = directory.path().join("nf_conntrack");
    fs::write(&proc, &kernel).unwrap();
    let [list, proc, labels] = [&list, &proc, &labels].map(|path| path.to_str().unwrap());
    import(&output, &["--format", "nf_conntrack", "--host", "router-1", proc]).success();
    let dataset = Dataset::read(&output);
    let rows = dataset.rows();
    assert_eq!(rows.len(), count);
    for row in &rows {
        let texts = ["record_type", "end_source", "time_source", "host_name"].map(|column| row.text(column));
        assert_eq!(texts, ["end", "import", "receive", "router-1"].map(Some), "{row:?}");
        assert_eq!((row.bool("counters_final"), row.int("ct_status")), (Some(false), None), "{row:?}");
        assert_eq!((row.int("observer_netns"), row.text("boot_id")), (Some(0), None), "{row:?}");
        assert!(row.of_process("src").is_empty() && row.of_process("dst").is_empty(), "{row:?}");
    }
    let nat = rows.iter().find(|row| row.int("src_port") == Some(105)).unwrap();
    assert_eq!(
        ["nat_src_ip", "nat_dst_ip"].map(|column| nat.text(column)),
        ["192.0.2.1", "192.0.2.2"].map(Some)
    );
    let ping = rows.iter().find(|row| row.text("src_ip") == Some("127.0.0.1")).unwrap();
    assert_eq!(["orig_packets", "orig_bytes"].map(|column| ping.int(column)), [Some(2), Some(168)]);

    // With the start of an entry, a line tells when it was listed.
    let output = directory.path().join("dated");
    import(&output, &["--format", "nf_conntrack", "--labels", labels, list]).success();
    let dataset = Dataset::read(&output);
    let rows = dataset.rows();
    assert_eq!(rows.len(), count);
    let labelled: Vec<_> = rows.iter().filter_map(|row| row.text("ct_labels")).collect();
    assert_eq!(labelled, ["21000000000000000000000000000000"]);
    for row in rows {
        assert_eq!(row.text("time_source"), Some("dump"), "{row:?}");
        assert!(row.time("start_time") <= row.time("end_time"), "{row:?}");
    }
}

/// A daemon and conntrack(8) see the same ends; the events of the latter become the rows of the former, but
/// for what text does not have.
#[test]
fn events_become_the_rows_that_a_daemon_has() {
    let namespace = Namespace::tracked();
    let directory = tempfile::tempdir().unwrap();
    let (logged, imported) = (directory.path().join("logged"), directory.path().join("imported"));
    let daemon = Daemon::start(&logged, &[&namespace], &["--no-ebpf"]);
    let mut command = Command::new("conntrack");
    command.args(["-E", "-o", "timestamp,ktimestamp,id"]).env("TZ", "UTC");
    let listener = namespace.inside(|| Process::spawn(command));
    // The daemon's, and that of conntrack.
    wait_for("both to listen", || (conntrack::listeners(&namespace) >= 2).then_some(()));
    make_and_flush(&namespace, 0..20);
    let mut ping = Command::new("ping");
    ping.args(["-c", "1", "-q", "127.0.0.1"]);
    namespace.exec(ping);
    namespace.inside(Requests::open).unwrap().flush().unwrap();
    let ends = || listener.stdout().matches("[DESTROY]").count();
    wait_for("conntrack to see the ends", || (ends() >= 21).then_some(()));
    daemon.stop();
    listener.signal(Signal::SIGINT);
    let events = listener.finish().stdout;

    let mut command = Command::new(binary());
    command.args(["import", "--format", "conntrack-events", "-", "--output"]).arg(&imported).env("TZ", "UTC");
    let mut process = Process::spawn(command);
    events.lines().for_each(|line| process.send_line(line));
    let out = process.finish().success();
    assert!(out.contains(" 21 rows,") && out.contains(" events of connections that went on"), "{out}");

    let (logged, imported) = (Dataset::read(&logged), Dataset::read(&imported));
    assert_eq!(imported.rows().len(), 21);
    for row in imported.rows() {
        let same = |other: &&&crate::harness::dataset::Row| other.int("ct_id") == row.int("ct_id");
        let rows = logged.rows();
        let daemons = rows.iter().find(same).unwrap();
        // Before Linux 5.11 the daemon does not know why a connection ended, while the text says that a program asked.
        if !lacks(ENDS) {
            assert_eq!(row.text("end_reason"), daemons.text("end_reason"), "{row:?}\n{daemons:?}");
        }
        for column in ["src_ip", "dst_ip", "ct_state", "proto_name", "nat_src_ip", "time_source"] {
            assert_eq!(row.text(column), daemons.text(column), "{column}: {row:?}\n{daemons:?}");
        }
        for column in ["src_port", "dst_port", "icmp_id", "orig_packets", "reply_bytes", "ct_mark", "ct_zone"]
        {
            assert_eq!(row.int(column), daemons.int(column), "{column}: {row:?}\n{daemons:?}");
        }
        for column in ["counters_final", "seen_reply", "assured", "offloaded"] {
            assert_eq!(row.bool(column), daemons.bool(column), "{column}: {row:?}\n{daemons:?}");
        }
        for column in ["start_time", "end_time"] {
            // conntrack(8) has whole seconds.
            let seconds = |micros: Option<i64>| micros.unwrap().div_euclid(1_000_000);
            assert_eq!(seconds(row.time(column)), seconds(daemons.time(column)), "{column}: {row:?}");
        }
        assert_eq!(row.text("end_source"), Some("import"), "{row:?}");
    }
}

/// Many events, one a second from this second on.
fn events(count: usize) -> String {
    let line = |number: usize| {
        format!(
            "[{}.000000]\t[DESTROY] udp      17 src=10.0.0.1 dst=10.0.0.2 sport={} dport=53 packets=1 bytes=60 \
             [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=53 dport=9 packets=0 bytes=0\n",
            1_700_000_000 + number,
            number % 60_000,
        )
    };
    (0..count).map(line).collect()
}

#[test]
fn a_bad_line_keeps_everything_out_or_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let (file, output) = (directory.path().join("events"), directory.path().join("log"));
    let mut text = events(20_000).into_bytes();
    text.extend_from_slice(b"\n   [NEW] udp 17 nonsense\nevent \xff\n");
    text.extend_from_slice(&[b'x'; 100_000]);
    text.extend_from_slice(b"\n");
    for _ in 0..30 {
        text.extend_from_slice(b"ipv4 2 udp 17 src=\n");
    }
    text.extend_from_slice(events(10).as_bytes());
    fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap();

    let finished = import(&output, &["--format", "conntrack-events", name]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    let expected = format!(
        "flowlog: {name}:20002:17: found `nonsense`, expected the source address `src=`; nothing was imported"
    );
    assert!(finished.stderr.contains(&expected), "{finished}");
    assert!(!output.exists());

    let finished = import(&output, &["--format", "conntrack-events", "--keep-going", name]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(
        finished.stdout.contains(" 20010 rows,") && finished.stdout.contains(": 33 bad lines"),
        "{finished}"
    );
    let told = finished.stderr.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(told, 20, "{finished}");
    for text in [
        ":20003:7: found bytes that are not UTF-8, expected text",
        ":20004:1: found a line of 100001 bytes, expected no more than 65536",
        ":20005:19: found the end of the line, expected the source address `src=`",
    ] {
        assert!(finished.stderr.contains(&format!("{name}{text}")), "{text}: {finished}");
    }
    let dataset = Dataset::read(&output);
    assert_eq!(dataset.rows().len(), 20_010);
    // Each hour has its file.
    assert!(dataset.files.len() >= 6, "{}", dataset.files.len());
    let row = dataset.rows()[7];
    assert_eq!(row.time("end_time"), Some(1_700_000_007_000_000));
    let texts = ["time_source", "end_reason"].map(|column| row.text(column));
    assert_eq!((texts, row.bool("counters_final")), (["event", "timeout"].map(Some), Some(true)));

    // The other format, a file that is not there, and no labels file.
    let mistaken = import(&output, &["--format", "nf_conntrack", name]);
    assert!(mistaken.stderr.contains(":1:1: found an event, expected an entry of a list"), "{mistaken}");
    let missing = import(&output, &["--format", "nf_conntrack", name, "/does/not/exist"]);
    assert!(missing.stderr.contains("cannot read `/does/not/exist`"), "{missing}");
    assert_eq!(Dataset::read(&output).rows().len(), 20_010);
}

#[test]
fn a_time_zone_that_cannot_be_used_is_no_silent_utc() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events");
    // Both in summer, when it is two hours later in Berlin.
    let line = "[DESTROY] udp 17 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=53 src=10.0.0.2 dst=10.0.0.1 sport=53 dport=1 \
                [start=Tue Jul 21 08:23:02 2026] [stop=Tue Jul 21 08:23:04 2026]\n";
    fs::write(&file, line).unwrap();
    let with = |zone: &str| {
        let output = directory.path().join(format!("log-{}", zone.replace('/', "-")));
        let mut command = Command::new(binary());
        command.args(["import", "--format", "conntrack-events", "--output"]).arg(&output).arg(&file);
        (
            output,
            Process::spawn({
                command.env("TZ", zone);
                command
            })
            .finish(),
        )
    };
    for zone in ["Europe/Berln", "CEST", "CET-1CEST", "Europe/Berlin ", "+2", "/etc/passwd"] {
        let (output, finished) = with(zone);
        assert_eq!(finished.status.code(), Some(2), "{zone}: {finished}");
        assert!(finished.stderr.contains(&format!("found TZ={zone:?}, expected a file below")), "{finished}");
        assert!(!output.exists());
    }
    for (zone, hour) in [
        ("Europe/Berlin", 6),
        (":Europe/Berlin", 6),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 6),
        ("posix/Europe/Berlin", 6),
        ("UTC", 8),
        ("", 8),
        ("EST5EDT,M3.2.0,M11.1.0", 12),
    ] {
        let (output, finished) = with(zone);
        if zone.contains("Europe") && !Path::new("/usr/share/zoneinfo/Europe/Berlin").exists() {
            // A host without zone files.
            assert_eq!(finished.status.code(), Some(2), "{zone}: {finished}");
            continue;
        }
        finished.success();
        let dataset = Dataset::read(&output);
        let end = jiff::Timestamp::from_microsecond(dataset.rows()[0].time("end_time").unwrap()).unwrap();
        assert_eq!(end.to_string(), format!("2026-07-21T{hour:02}:23:04Z"), "{zone}");
    }
    // conntrack(8) prints these times.
    let mut command = Command::new(binary());
    command.args(["conntrack", "-L", "-o", "ktimestamp"]).env("TZ", "Europe/Berln");
    let finished = Process::spawn(command).finish();
    assert_eq!(finished.status.code(), Some(2), "{finished}");
}

#[test]
fn what_saved_text_has_besides_whole_entries_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        (file.to_str().unwrap().to_owned(), directory.path().join(format!("{name}-log")))
    };
    let tuples = "src=192.0.2.33 dst=198.51.100.10 sport=1 dport=2 packets=9 bytes=1200 src=198.51.100.10 dst=192.0.2.33 \
                  sport=2 dport=1 packets=7 bytes=90";

    // Cut inside a number: 900.
    let (cut, output) = at("cut", &format!("[DESTROY] udp 17 {tuples}\n[DESTROY] udp 17 {tuples}"));
    let finished = import(&output, &["--format", "conntrack-events", &cut]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains(&format!("{cut}:2:")), "{finished}");
    assert!(finished.stderr.contains("found a last line that has no end"), "{finished}");
    let finished = import(&output, &["--format", "conntrack-events", "--keep-going", &cut]);
    assert!(finished.stdout.contains(" 1 rows,"), "{finished}");

    // What a program did is no timeout, also where the line says nothing else of it.
    let (removed, output) = at(
        "removed",
        &format!("[DESTROY] udp 17 {tuples}\n[DESTROY] udp 17 {tuples} [USERSPACE] portid=7 progname=a b\n"),
    );
    import(&output, &["--format", "conntrack-events", &removed]).success();
    let dataset = Dataset::read(&output);
    let reasons: Vec<_> = dataset.rows().iter().map(|row| row.text("end_reason").unwrap()).collect();
    assert_eq!(reasons, ["timeout", "deleted"]);

    let said = "conntrack v1.4.7 (conntrack-tools): 1 flow entries have been shown.";
    let lost = "WARNING: We have hit ENOBUFS! We are losing events.";
    let (noted, output) = at("noted", &format!("\u{feff}[DESTROY] udp 17 {tuples}\n{lost}\n{said}"));
    let finished = import(&output, &["--format", "conntrack-events", &noted]);
    assert!(finished.status.success(), "{finished}");
    assert!(
        finished.stdout.contains(" 1 rows,") && finished.stdout.contains("left out: 3 lines"),
        "{finished}"
    );
    assert!(
        finished.stderr.contains(&format!("{noted}:2: conntrack says that it lost events")),
        "{finished}"
    );

    let of_router = "ipv4 2 tcp 6 1188 ESTABLISHED src=192.0.2.33 dst=198.51.100.7 sport=51032 dport=443 [FASTNAT] packets=9 \
        bytes=1200 src=198.51.100.7 dst=203.0.113.5 sport=443 dport=51032 packets=7 bytes=900 [ASSURED] [RTCACHE o33/r11] \
        mark=0 nmark=0 ifw=ppp0 mac=00:00:5e:00:53:01 slan use=2\n";
    let (router, output) = at("router", &of_router.repeat(2));
    let finished = import(&output, &["--format", "nf_conntrack", &router]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(
        finished.stderr.contains("found `[FASTNAT]`") && finished.stderr.contains("--ignore-unknown"),
        "{finished}"
    );
    let finished = import(&output, &["--format", "nf_conntrack", "--ignore-unknown", &router]);
    assert!(finished.status.success(), "{finished}");
    for told in ["2 [FASTNAT]", "2 [RTCACHE]", "2 ifw", "2 mac", "2 nmark", "2 slan"] {
        assert!(finished.stdout.contains(told), "{told}: {finished}");
    }
    let dataset = Dataset::read(&output);
    let row = dataset.rows()[0];
    assert_eq!(["orig_bytes", "reply_bytes"].map(|column| row.int(column)), [1200, 900].map(Some));
    assert_eq!((row.bool("assured"), row.text("nat_src_ip")), (Some(true), Some("203.0.113.5")));
}

#[test]
fn an_import_next_to_a_daemon_is_refused_and_leaves_no_gap() {
    let namespace = Namespace::tracked();
    let directory = tempfile::tempdir().unwrap();
    let (file, output) = (directory.path().join("events"), directory.path().join("log"));
    fs::write(&file, events(10)).unwrap();
    let args = ["--format", "conntrack-events", file.to_str().unwrap()];
    let daemon = Daemon::start(&output, &[&namespace], &["--no-ebpf"]);
    let refused = flowlog(&[&["import", "--output", output.to_str().unwrap()], &args[..]].concat());
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("in use"), "{refused}");
    daemon.stop();

    import(&output, &args).success();
    assert_eq!(Dataset::read(&output).rows().len(), 10);
    assert_eq!(declared(&output), 0);
    Daemon::start(&output, &[&namespace], &["--no-ebpf"]).stop();
    assert_eq!(declared(&output), 1, "the time between the two daemons");
}

/// How many gaps the ledger has.
fn declared(output: &Path) -> usize {
    let ledger = fs::read_to_string(output.join("_flowlog/ledger.jsonl")).unwrap();
    ledger.lines().filter(|line| line.contains(r#""event":"gap""#)).count()
}
