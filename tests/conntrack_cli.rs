//! `flowlog conntrack` beside conntrack(8): the same command lines in two namespaces.
//!
//! What is different on purpose is not in the table of command lines, but in cases of its own, and in
//! `flowlog/docs/conntrack.md`.

mod lines;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::process::Command;

use flowlog::connections::ctnetlink::sets::Helper;
use flowlog::connections::ctnetlink::{Entry, Requests};
use flowlog::flow::{Flow, L4, Protocol, Tuple};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::harness::conntrack;
use crate::harness::daemon::binary;
use crate::harness::kernel::{STATUS_FILTERS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::process::Process;
use crate::harness::wait::wait_for;
use lines::LINES;

/// Which program drives a namespace.
#[derive(Clone, Copy)]
enum Program {
    Conntrack,
    Flowlog,
}

impl Program {
    fn command(self, line: &str) -> Command {
        let mut command = match self {
            Self::Conntrack => Command::new("/usr/sbin/conntrack"),
            Self::Flowlog => {
                let mut command = Command::new(binary());
                command.arg("conntrack");
                command
            }
        };
        command.args(line.split_whitespace()).env("TZ", "UTC").env("LC_ALL", "C");
        command
    }
}

/// What a command line did.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// What conntrack(8) then lists, where the line may have changed it.
    table: Vec<String>,
}

impl Outcome {
    /// Runs a line inside the calling thread's namespace.
    fn of(program: Program, line: &str) -> Self {
        let output = program.command(line).output().unwrap();
        let changes = ["-I", "-A", "-U", "-D", "-F", "-R", "--create"];
        let mut table = Vec::new();
        if changes.iter().any(|command| line.split_whitespace().any(|word| word == *command)) {
            for list in ["-L -o extended,labels", "-L expect"] {
                let listed = Program::Conntrack.command(list).output().unwrap();
                table.extend(masked(&listed.stdout));
            }
        }
        let stderr = masked(&output.stderr);
        Self { code: output.status.code(), stdout: masked(&output.stdout), stderr, table }
    }
}

/// Where two outcomes differ: what only conntrack(8) has, and what only flowlog has.
fn differences(expected: &Outcome, found: &Outcome) -> String {
    let mut text = String::new();
    if expected.code != found.code {
        text.push_str(&format!("  code {:?}, {:?}\n", expected.code, found.code));
    }
    for (name, expected, found) in [
        ("stdout", &expected.stdout, &found.stdout),
        ("stderr", &expected.stderr, &found.stderr),
        ("table", &expected.table, &found.table),
    ] {
        let missing = expected.iter().filter(|line| !found.contains(line));
        let more = found.iter().filter(|line| !expected.contains(line));
        let lines = missing.map(|line| ("conntrack", line)).chain(more.map(|line| ("flowlog", line)));
        lines.for_each(|(program, line)| text.push_str(&format!("  {name} of {program}: {line}\n")));
        if text.is_empty() && expected != found {
            text.push_str(&format!("  {name}: lines that come several times\n"));
        }
    }
    text
}

/// The lines of an output, without what is different in each namespace and at each time, and in the
/// order of the alphabet: the one of the kernel is random.
fn masked(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let mut lines: Vec<String> = text.lines().map(mask).collect();
    lines.sort();
    lines
}

fn mask(line: &str) -> String {
    let mut line = line.to_owned();
    for element in ["id", "timeout", "start", "stop", "deltatime", "hour", "min", "sec"] {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        if let Some((before, rest)) = line.split_once(&open)
            && let Some((_, after)) = rest.split_once(&close)
        {
            line = format!("{before}{open}*{close}{after}");
        }
    }
    for time in ["[start=", "[stop="] {
        if let Some((before, rest)) = line.split_once(time)
            && let Some((_, after)) = rest.split_once(']')
        {
            line = format!("{before}{time}*]{after}");
        }
    }
    if line.starts_with("cpu=") {
        // Which CPU counts is chance.
        return line.chars().filter(|c| !c.is_ascii_digit()).collect();
    }
    let mut previous = "";
    let words: Vec<String> = line
        .split(' ')
        .map(|word| {
            let is_number = |word: &str| word.parse::<u64>().is_ok();
            // The timeout follows the number of the protocol, the option of a saved entry, or begins
            // the line of an expectation.
            let is_timeout = is_number(word)
                && (is_number(previous)
                    || previous == "-t"
                    || previous.ends_with(']')
                    || line.starts_with(word));
            // Not the id of ICMP, which follows its code: it is the same for both programs.
            let is_id = word.starts_with("id=") && !previous.starts_with("code=");
            let is_age = word.starts_with("delta-time=");
            let masked = if is_timeout {
                "*".to_owned()
            } else if word.starts_with("progname=") {
                // The program may have ended before its name was read.
                String::new()
            } else if is_id || is_age || word.starts_with("portid=") {
                format!("{}=*", word.split('=').next().unwrap())
            } else if word.starts_with('[') && word.contains('\t') {
                // The time of an event, and what follows it without a space.
                format!("[time]{}", word.split('\t').next_back().unwrap())
            } else {
                word.to_owned()
            };
            if !word.is_empty() {
                previous = word;
            }
            masked
        })
        .collect();
    words.join(" ").trim_end().to_owned()
}

/// A namespace that counts, takes times and has labels, with the masters of expectations.
fn twin() -> Namespace {
    let namespace = Namespace::tracked();
    namespace.nft(
        "table inet labels { chain c { type filter hook output priority 0; udp dport 9 ct label set 1; }; }",
    );
    let mut requests = namespace.inside(Requests::open).unwrap();
    for (src, dst, proto, ports, helper) in [
        ("10.9.0.1", "10.9.0.2", Protocol::TCP, (2121, 21), "ftp"),
        ("10.9.0.3", "10.9.0.4", Protocol::UDP, (6969, 69), "tftp"),
    ] {
        let tuple = |src: &str, dst: &str, src_port, dst_port| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            proto,
            l4: L4::Ports { src: src_port, dst: dst_port },
            zone: None,
        };
        let flow = Flow::new(tuple(src, dst, ports.0, ports.1), tuple(dst, src, ports.1, ports.0));
        let helper = Helper { name: Some(helper.into()), ..Helper::default() };
        let entry = Entry { timeout_s: Some(2000), helper: Some(helper), ..(&flow).into() };
        requests.make(&entry).unwrap();
    }
    namespace
}

/// Runs `work` on a thread inside, which sees an `/etc` of its own: with names of labels.
pub(crate) fn with_labels<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let etc = tempfile::tempdir().unwrap();
    fs::copy("/etc/protocols", etc.path().join("protocols")).unwrap();
    fs::create_dir(etc.path().join("xtables")).unwrap();
    let names = "# names of labels\n0 red\n5\tblue\n\n6 green\n127 last\n";
    fs::write(etc.path().join("xtables/connlabel.conf"), names).unwrap();
    namespace.inside(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some(etc.path()), "/etc", none, MsFlags::MS_BIND, none).unwrap();
        work()
    })
}

#[test]
fn the_same_lines_do_the_same() {
    let run_all = |program| {
        with_labels(&twin(), || {
            let lines = LINES.iter().map(|line| line.trim_start_matches(['~', '>']));
            lines.map(|line| Outcome::of(program, line)).collect::<Vec<_>>()
        })
    };
    let (expected, found) = (run_all(Program::Conntrack), run_all(Program::Flowlog));
    let (mut text, mut before) = (String::new(), String::new());
    for ((line, mut expected), mut found) in LINES.iter().zip(expected).zip(found) {
        // conntrack(8) numbers its requests by the second, and says this where the answer comes in the next one.
        expected.stderr.retain(|line| line != "Operation failed: Protocol error");
        // There conntrack(8) shows what was to be left out.
        if line.contains(" -u ") && line.contains("-L") && lacks(STATUS_FILTERS) {
            continue;
        }
        if line.starts_with('~') {
            expected.stderr.clear();
            found.stderr.clear();
        }
        if line.starts_with('>') {
            expected.stdout.clear();
            found.stdout.clear();
        }
        let now = differences(&expected, &found);
        // What an earlier line did to the table is told with that one.
        let new: String =
            now.lines().filter(|line| !before.contains(line)).map(|line| format!("{line}\n")).collect();
        if !new.is_empty() {
            text.push_str(&format!("{line}\n{new}"));
        }
        if !expected.table.is_empty() {
            before = now;
        }
    }
    assert!(text.is_empty(), "{text}");
    assert!(LINES.len() >= 150, "only {} lines", LINES.len());
}

/// Lines that make events, for [`events`].
const CHANGES: [&str; 5] = [
    "-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 -t 1000 -m 5",
    "-I -p tcp -s fd00::1 -d fd00::2 --sport 1 --dport 2 -t 1000 --state ESTABLISHED",
    "-U -s 10.0.0.1 -m 6",
    "-D -s 10.0.0.1",
    "-D -s fd00::1",
];

#[test]
fn the_same_events_are_told() {
    for (line, count) in [
        ("-E", 5),
        ("-E -o extended,id,timestamp", 5),
        ("-E -e NEW,DESTROY -o ktimestamp", 4),
        ("-E -e UPDATES", 1),
        ("-E -f ipv6 -o extended", 2),
        ("-E -p udp --sport 1 -m 6 -b 100000", 2),
        ("-E -s 10.0.0.0/8 -o save", 3),
        ("-E -o xml,timestamp", 5),
    ] {
        let [expected, found] = [Program::Conntrack, Program::Flowlog].map(|program| {
            events(&Namespace::tracked(), program, line, count, |namespace| {
                for change in CHANGES {
                    namespace.exec(Program::Conntrack.command(change));
                }
            })
        });
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn the_same_expectations_are_told() {
    // Only masters that packets made tell of their expectations.
    const HELPER: &str = "table inet helper {
        ct helper tftp-helper { type \"tftp\" protocol udp; }
        chain c { type filter hook output priority 0; udp dport 69 ct helper set \"tftp-helper\"; }
    }";
    let changes = [
        "-I expect -p udp -s 127.0.0.1 -d 127.0.0.1 --sport 6969 --dport 69 --tuple-src 127.0.0.1 \
         --tuple-dst 127.0.0.2 --mask-src 255.255.255.255 --mask-dst 255.255.255.0 --tuple-port-src 5 \
         --tuple-port-dst 6 --mask-port-src 0 --mask-port-dst 65535 -t 900",
        "-F expect",
    ];
    for line in ["-E expect", "-E expect -o xml"] {
        let [expected, found] = [Program::Conntrack, Program::Flowlog].map(|program| {
            let namespace = Namespace::tracked();
            namespace.nft(HELPER);
            events(&namespace, program, line, 2, |namespace| {
                let socket = namespace.inside(|| UdpSocket::bind("127.0.0.1:6969")).unwrap();
                socket.send_to(b"not TFTP", "127.0.0.1:69").unwrap();
                for change in changes {
                    namespace.exec(Program::Conntrack.command(change));
                }
            })
        });
        assert_eq!(found, expected, "{line}");
    }
}

/// What a program that shows events has told when the changes have been made and it was interrupted.
#[track_caller]
fn events(
    namespace: &Namespace,
    program: Program,
    line: &str,
    count: usize,
    change: impl FnOnce(&Namespace),
) -> Outcome {
    let process = namespace.inside(|| Process::spawn(program.command(line)));
    wait_for("the subscription", || {
        let sockets = namespace.inside(|| fs::read_to_string("/proc/thread-self/net/netlink")).unwrap();
        // Protocol 12 is netfilter, the fourth column has the groups.
        let subscribed = sockets.lines().any(|socket| {
            let words: Vec<&str> = socket.split_whitespace().collect();
            words[1] == "12" && words[3] != "00000000"
        });
        subscribed.then_some(())
    });
    change(namespace);
    // The kernel may send an event twice, when any listener of the host asks it to be reliable.
    let once = |text: &str| {
        let mut lines = masked(text.as_bytes());
        lines.dedup();
        lines
    };
    wait_for("the events", || {
        let is_head = |line: &String| line.starts_with("<?") || *line == "<conntrack>" || *line == "<expect>";
        let lines = once(&process.stdout());
        (lines.iter().filter(|line| !is_head(line)).count() >= count).then_some(())
    });
    process.signal(Signal::SIGINT);
    let finished = process.finish();
    let (stdout, mut stderr) = (once(&finished.stdout), once(&finished.stderr));
    // The size of a buffer is told of another socket by conntrack(8).
    stderr.retain(|line| !line.starts_with("NOTICE"));
    for line in &mut stderr {
        *line = line.replace(|c: char| c.is_ascii_digit(), "");
    }
    Outcome { code: finished.status.code(), stdout, stderr, table: Vec::new() }
}

/// Programs that change an entry and end at once: who reads /proc late finds nothing of them. Both programs listen at the
/// same time, and take turns in who began, since the kernel wakes them one after the other.
#[test]
fn programs_that_live_shortly_are_named() {
    const ROUNDS: usize = 4;
    const REMOVED: usize = 40;
    let mut named = [0, 0];
    for round in 0..ROUNDS {
        let namespace = Namespace::tracked();
        let mut programs = [Program::Conntrack, Program::Flowlog].into_iter().enumerate().collect::<Vec<_>>();
        programs.rotate_left(round % 2);
        let listeners: Vec<(usize, Process)> = programs
            .into_iter()
            .map(|(number, program)| {
                let before = conntrack::listeners(&namespace);
                let line = "-E -e DESTROY -o userspace";
                let process = namespace.inside(|| Process::spawn(program.command(line)));
                wait_for("the subscription", || (conntrack::listeners(&namespace) > before).then_some(()));
                (number, process)
            })
            .collect();
        for port in 1..=REMOVED {
            let entry = format!("-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport {port} --dport 2 -t 1000");
            namespace.exec(Program::Conntrack.command(&entry));
            namespace.exec(Program::Conntrack.command(&format!("-D -p udp --sport {port}")));
        }
        for (number, process) in listeners {
            let last = format!("sport={REMOVED} ");
            wait_for("the last event", || process.stdout().contains(&last).then_some(()));
            process.signal(Signal::SIGINT);
            let told = process.finish().stdout;
            let requested: Vec<&str> = told.lines().filter(|line| line.contains("portid=")).collect();
            let of_name = |line: &&&str| line.contains("progname=");
            assert_eq!(requested.len(), REMOVED, "{told}");
            assert!(
                requested.iter().filter(of_name).all(|line| line.ends_with("progname=conntrack")),
                "{told}"
            );
            named[number] += requested.iter().filter(of_name).count();
        }
    }
    let [by_conntrack, by_flowlog] = named;
    println!("of {} programs, conntrack(8) named {by_conntrack}, flowlog {by_flowlog}", ROUNDS * REMOVED);
    // Which of them the kernel wakes first is chance, a little of which is left where both name few.
    assert!(by_flowlog + ROUNDS * REMOVED / 20 >= by_conntrack, "{named:?}");
}

#[test]
fn each_loads_what_the_other_saved() {
    let entries = [
        "-I -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 80 --state ESTABLISHED -t 1000 -u SEEN_REPLY,ASSURED",
        "-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 2 --dport 53 -t 1000 -n 192.0.2.1:4000",
        "-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 3 --dport 53 -t 1000 -g 192.0.2.2",
        "-I -p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 7 -t 1000",
        "-I -p sctp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 5 --reply-vtag 6 -t 1000",
        "-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 4 --dport 53 -t 1000 -w 5",
        "-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 5 --dport 53 -t 1000 --orig-zone 6",
        "-I -p tcp -s fd00::1 -d fd00::2 --sport 1 --dport 80 --state TIME_WAIT -t 1000",
        "-I -p icmpv6 -s fd00::1 -d fd00::2 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 7 -t 1000",
        "-I -p 89 -s 10.0.0.1 -d 10.0.0.2 -t 1000",
    ];
    let from = Namespace::tracked();
    for line in entries {
        from.exec(Program::Conntrack.command(line));
    }
    let directory = tempfile::tempdir().unwrap();
    let list = |namespace: &Namespace| {
        masked(namespace.exec(Program::Conntrack.command("-L -o extended")).as_bytes())
    };
    let expected = list(&from);
    assert_eq!(expected.len(), entries.len());
    for (saves, loads) in [(Program::Conntrack, Program::Flowlog), (Program::Flowlog, Program::Conntrack)] {
        let saved = directory.path().join("saved");
        fs::write(&saved, from.exec(saves.command("-L -o save"))).unwrap();
        let to = Namespace::tracked();
        to.exec(loads.command(&format!("-R {}", saved.display())));
        assert_eq!(list(&to), expected);
    }
}

#[test]
fn a_file_is_loaded_as_a_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let made = "# a comment\n\n  -A -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 -t 1000\n";
    for (text, count) in [
        (made.to_owned(), "1"),
        (format!("{made}-A -p udp -s 10.0.0.3 -d \"10.0.0.2\" --sport 1 --dport 2 -t 1000"), "2"),
        (format!("{made}-D -p udp\n"), "0"),
        (format!("{made}-F\n"), "0"),
        (format!("{made}-L\n"), "0"),
        (format!("{made}-C expect\n"), "0"),
        (format!("{made}-A -p udp\n"), "0"),
        (format!("{made}{made}"), "1"),
    ] {
        let file = directory.path().join("file");
        fs::write(&file, &text).unwrap();
        let line = format!("-R {}", file.display());
        let [expected, found] = [Program::Conntrack, Program::Flowlog].map(|program| {
            let namespace = Namespace::tracked();
            let outcome = namespace.inside(|| Outcome::of(program, &line));
            assert_eq!(namespace.exec(Program::Conntrack.command("-C")).trim(), count, "{text}");
            outcome
        });
        assert_eq!(found, expected, "{text}");
    }
}

/// What `flowlog conntrack` does, where conntrack(8) does something else: `flowlog/docs/conntrack.md` says what.
struct Difference {
    line: &'static str,
    code: i32,
    /// Lines of stdout by how they begin, or all of stderr where it fails.
    told: &'static [&'static str],
    /// How many entries there are then.
    left: &'static str,
}

#[test]
fn what_is_different_on_purpose() {
    const ENTRIES: [&str; 7] = [
        "-I -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 80 --state ESTABLISHED -t 1000 -u SEEN_REPLY,ASSURED",
        "-I -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 2 --dport 80 --state SYN_SENT -t 1000",
        "-I -p sctp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 5 --reply-vtag 6 -t 1000",
        "-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 4 --dport 53 -t 1000 -w 5",
        "-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 4 --dport 53 -t 1000 -w 6",
        "-I -p udp -s fd00::1 -d fd00::2 --sport 4 --dport 53 -t 1000 -n fd00::7",
        "-I -p udp -s fd00::1 -d fd00::2 --sport 5 --dport 53 -t 1000 -n fd00::8",
    ];
    const BAD: &str = "conntrack v1.4.7 (conntrack-tools): Bad parameter";
    const SCTP: &str = "<flow><meta direction=\"original\"><layer3 protonum=\"2\" protoname=\"ipv4\"><src>10.0.0.1</src>\
                <dst>10.0.0.2</dst></layer3><layer4 protonum=\"132\" protoname=\"sctp\">";
    let all = |line, told, left| Difference { line, code: 0, told, left };
    let wrong = |line, told| Difference { line, code: 2, told, left: "7" };
    let differences = [
        all("-h -p tcp", &["Lists, changes and watches"], "7"),
        // Changes reach entries of any family and zone, and each is printed.
        all("-U -m 7", &["sctp", "tcp", "tcp", "udp", "udp", "udp", "udp"], "7"),
        all("-U -p udp --dport 53 -d 10.0.0.2 -m 9", &["udp", "udp"], "7"),
        all("-U -n fd00::7 -m 9", &["udp      17 * src=fd00::1 dst=fd00::2 sport=4"], "7"),
        // Filters that conntrack(8) takes and does not look at.
        all("-D -u !ASSURED -p tcp", &["tcp      6 * SYN_SENT"], "6"),
        all("-D -u UNREPLIED -p tcp", &["tcp      6 * SYN_SENT"], "6"),
        Difference { line: "-D -t 5", code: 1, told: &[], left: "7" },
        all("-L -u SEEN_REPLY,!EXPECTED", &["tcp      6 * ESTABLISHED"], "7"),
        all("-L -p tcp -u UNSET", &["tcp", "tcp"], "7"),
        all("-L -n fd00::7", &["udp      17 * src=fd00::1 dst=fd00::2 sport=4"], "7"),
        // Only the family that was named.
        all("-F -f ipv6", &[], "5"),
        // Values that were written together with their option.
        all("-Lexpect", &[], "7"),
        all("-L --src-nat=fd00::8", &["udp      17 * src=fd00::1 dst=fd00::2 sport=5"], "7"),
        // What is not a number or an address is an error.
        wrong("-L -p tcp --dport http", &[BAD]),
        wrong("-L -p tcp --dport 65537", &[BAD]),
        wrong("-L -m 7x", &[BAD]),
        wrong("-D -w five", &[BAD]),
        wrong("-D -s 10.1", &["conntrack v1.4.7 (conntrack-tools): Invalid IP address `10.1'"]),
        all(
            "-G -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 2 --dport 80 -o xml",
            &["<?xml", "<conn", "<flow>", "</conn"],
            "7",
        ),
        // The state of SCTP, not the one of TCP with its number.
        all("-L -p sctp -o xml", &["</conntrack>", "<?xml", "<conntrack>", SCTP], "7"),
    ];
    for Difference { line, code, told, left } in differences {
        let namespace = Namespace::tracked();
        for entry in ENTRIES {
            namespace.exec(Program::Conntrack.command(entry));
        }
        let outcome = namespace.inside(|| Outcome::of(Program::Flowlog, line));
        assert_eq!(outcome.code, Some(code), "{line}: {outcome:#?}");
        let lines = if code == 2 { &outcome.stderr } else { &outcome.stdout };
        let is_told = told.iter().all(|told| lines.iter().any(|line| line.starts_with(told)));
        let whole = code == 2 || line.starts_with("-h") || lines.len() == told.len();
        assert!(is_told && whole, "{line}: {outcome:#?}");
        assert_eq!(namespace.exec(Program::Conntrack.command("-C")).trim(), left, "{line}");
        if line.contains("sctp") {
            assert!(lines.concat().contains("<state>ESTABLISHED</state>"), "{lines:?}");
        }
    }
}

#[test]
fn an_expectation_of_tcp_is_made() {
    let namespace = twin();
    let line = "-I expect -p tcp -s 10.9.0.1 -d 10.9.0.2 --sport 2121 --dport 21 --tuple-src 10.9.0.2 --tuple-dst \
                10.9.0.1 --mask-src 255.255.255.255 --mask-dst 255.255.255.255 --tuple-port-src 20 \
                --tuple-port-dst 4000 --mask-port-src 0 --mask-port-dst 65535 -t 900";
    namespace.exec(Program::Flowlog.command(line));
    let listed = namespace.exec(Program::Conntrack.command("-L expect"));
    assert!(listed.contains("proto=6 src=10.9.0.2 dst=10.9.0.1 sport=20 dport=4000"), "{listed}");
}

#[test]
fn a_link_with_the_name_stands_in() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("conntrack");
    symlink(binary(), &link).unwrap();
    let namespace = Namespace::tracked();
    let run = |line: &str| {
        let mut command = Command::new(&link);
        command.args(line.split(' '));
        namespace.exec(command)
    };
    run("-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 -t 1000");
    assert_eq!(run("-C"), "1\n");
    assert!(run("-L").starts_with("udp      17 "));
}
