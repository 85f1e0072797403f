//! conntrack(8) as a second witness of what the kernel tells.
//!
//! Its text has every field, but times in whole seconds; its XML has the times as the kernel sends
//! them, but not the keys of ICMP. So both run side by side and are joined in the order of the events:
//! an id can come back when its tuple does.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::entries::count;
use super::namespace::Namespace;
use super::process::Process;
use super::wait::wait_for;

/// Bit of `NFNLGRP_CONNTRACK_DESTROY` among the groups of a netlink socket.
const DESTROY_GROUP: u32 = 1 << 2;

/// `NETLINK_NETFILTER` as `/proc/net/netlink` writes it.
const NETFILTER: &str = "12";

/// Of the receive buffer: what does not fit is not told.
const BUFFER_BYTES: usize = 8 << 20;

/// Two running `conntrack -E -e DESTROY`.
pub(crate) struct Conntrack {
    text: Process,
    xml: Process,
}

/// A destroyed entry, in terms that a row has too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Destroyed {
    pub(crate) id: i64,
    pub(crate) proto: i64,
    pub(crate) proto_name: String,
    pub(crate) orig: Tuple,
    /// After NAT.
    pub(crate) reply: Tuple,
    /// Type, code and id of the first ICMP packet.
    pub(crate) icmp: Option<[i64; 3]>,
    /// In lower case.
    pub(crate) state: Option<String>,
    pub(crate) seen_reply: bool,
    pub(crate) assured: bool,
    /// As the column `end_reason` has it.
    pub(crate) end_reason: String,
    /// Packets and bytes.
    pub(crate) orig_counters: [Option<i64>; 2],
    pub(crate) reply_counters: [Option<i64>; 2],
    pub(crate) mark: Option<i64>,
    pub(crate) zone: Option<i64>,
    /// Microseconds since 1970 UTC.
    pub(crate) start: Option<i64>,
    pub(crate) stop: Option<i64>,
}

/// Addresses and ports of one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) src: IpAddr,
    pub(crate) src_port: Option<i64>,
    pub(crate) dst: IpAddr,
    pub(crate) dst_port: Option<i64>,
}

impl Conntrack {
    /// Starts both and waits until the kernel knows that they listen.
    #[track_caller]
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let before = listeners(namespace);
        let listen = |format: &str| {
            let mut command = Command::new("conntrack");
            command.args(["-E", "-e", "DESTROY", "-o", format]);
            namespace.inside(|| Process::spawn(command))
        };
        let both = Self { text: listen("id,timestamp,ktimestamp"), xml: listen("xml,id,ktimestamp") };
        wait_for("conntrack to listen", || (listeners(namespace) == before + 2).then_some(()));
        enlarge_buffer(namespace, &both.text);
        enlarge_buffer(namespace, &both.xml);
        both
    }

    /// Waits until both have told of the flow to `last_port`, which must be destroyed after all
    /// others, and gives everything that was destroyed.
    #[track_caller]
    pub(crate) fn stop(self, last_port: u16) -> Vec<Destroyed> {
        let in_text = format!(" dport={last_port} ");
        let in_xml = format!("<dport>{last_port}</dport>");
        wait_for("conntrack to tell of the last flow", || {
            (self.text.stdout().contains(&in_text) && self.xml.stdout().contains(&in_xml)).then_some(())
        });
        let [text, xml] = [self.text, self.xml].map(|process| {
            process.signal(Signal::SIGTERM);
            process.finish().stdout
        });
        let mut destroyed: Vec<Destroyed> = text.lines().map(parse_line).collect();
        let times: Vec<_> = xml.lines().filter(|line| line.starts_with("<flow")).map(parse_times).collect();
        assert_eq!(destroyed.len(), times.len(), "both formats tell of the same entries");
        for (entry, (id, [start, stop])) in destroyed.iter_mut().zip(times) {
            assert_eq!(entry.id, id, "both formats tell of the entries in the same order");
            (entry.start, entry.stop) = (start, stop);
        }
        destroyed
    }
}

/// Makes room for all events of a test. There is `--buffer-size` for it, which conntrack(8) 1.4.7 sets on the socket
/// of its requests and not on this one.
#[track_caller]
fn enlarge_buffer(namespace: &Namespace, process: &Process) {
    let listeners: Vec<String> =
        sockets(namespace).into_iter().map(|socket| format!("socket:[{}]", socket.inode)).collect();
    let pid = process.pid();
    let mut files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let listens = |link: &Path| listeners.iter().any(|listener| link == Path::new(listener));
    let file = files.find(|file| listens(&file.path().read_link().unwrap())).expect("a socket that listens");
    let number = file.file_name().to_str().unwrap().parse().unwrap();
    let process = pidfd_open(rustix::process::Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    let socket = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).unwrap();
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES).unwrap();
}

/// Removes all entries of a namespace, as `conntrack -F` does.
#[track_caller]
pub(crate) fn flush(namespace: &Namespace) {
    let mut command = Command::new("conntrack");
    command.arg("-F");
    namespace.exec(command);
}

/// Removes all entries once their TCP connections are closed: what a connection sends after its entry
/// is gone would make another one.
#[track_caller]
pub(crate) fn flush_closed(namespace: &Namespace) {
    wait_for("connections to be closed", || {
        let entries = list(namespace);
        let is_closed = |line: &str| line.contains("TIME_WAIT") || line.contains(" CLOSE ");
        entries.lines().filter(|line| line.starts_with("tcp")).all(is_closed).then_some(())
    });
    flush(namespace);
}

/// The entries of a namespace as lines. The kernel removes those that have expired on this occasion,
/// which its own garbage collection does only minutes later.
#[track_caller]
pub(crate) fn list(namespace: &Namespace) -> String {
    let mut command = Command::new("conntrack");
    command.arg("-L");
    namespace.exec(command)
}

/// How many sockets of a namespace receive DESTROY events.
pub(crate) fn listeners(namespace: &Namespace) -> usize {
    sockets(namespace).len()
}

/// Waits until the kernel has no DESTROY event that is not read, neither held nor in a receive buffer.
#[track_caller]
pub(crate) fn wait_until_read(namespace: &Namespace) {
    wait_for("all events to be read", || {
        (count(namespace) == 0 && sockets(namespace).iter().all(|socket| socket.unread == 0)).then_some(())
    });
}

/// A socket that receives DESTROY events.
struct Listener {
    inode: u64,
    /// What lies in its receive buffer, in bytes.
    unread: u64,
}

fn sockets(namespace: &Namespace) -> Vec<Listener> {
    let sockets = namespace.inside(|| fs::read_to_string("/proc/thread-self/net/netlink")).unwrap();
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens =
            fields[1] == NETFILTER && u32::from_str_radix(fields[3], 16).unwrap() & DESTROY_GROUP != 0;
        listens.then(|| Listener { inode: fields[9].parse().unwrap(), unread: fields[4].parse().unwrap() })
    };
    sockets.lines().skip(1).filter_map(listener).collect()
}

/// Parses, for example:
/// ```text
/// [1795249382.437389] [DESTROY] tcp      6 119 TIME_WAIT src=127.0.0.1 dst=127.0.0.1 sport=36240
/// dport=5000 packets=5 bytes=270 src=127.0.0.1 dst=127.0.0.1 sport=5000 dport=36240 packets=3
/// bytes=164 [ASSURED] mark=7 delta-time=0 [start=…] [stop=…] id=540090596 [USERSPACE] portid=10634
/// ```
#[track_caller]
fn parse_line(line: &str) -> Destroyed {
    let (_, entry) = line.split_once("[DESTROY]").unwrap_or_else(|| panic!("not an event: {line}"));
    let (before_tuples, _) = entry.split_once("src=").unwrap();
    let mut head = before_tuples.split_whitespace().peekable();
    let proto_name = head.next().unwrap().to_owned();
    let proto = head.next().unwrap().parse().unwrap();
    // Time is left where somebody or something removed the entry before it expired.
    let removed = head.next_if(|word| word.parse::<u32>().is_ok()).is_some();
    let state = head.next().map(str::to_lowercase);
    let end_reason = match state.as_deref() {
        Some("time_wait") => "closed",
        Some("close") => "reset",
        _ if removed => "deleted",
        // Older kernels do not tell.
        None if proto == 6 => "unknown",
        _ => "timeout",
    };

    // What occurs once in each direction occurs in the order of the directions.
    let mut values: HashMap<&str, Vec<&str>> = HashMap::new();
    for (key, value) in entry.split_whitespace().filter_map(|word| word.split_once('=')) {
        values.entry(key).or_default().push(value);
    }
    let number = |key: &str, direction: usize| -> Option<i64> {
        Some(values.get(key)?.get(direction)?.parse().unwrap())
    };
    let tuple = |direction: usize| Tuple {
        src: values["src"][direction].parse().unwrap(),
        src_port: number("sport", direction),
        dst: values["dst"][direction].parse().unwrap(),
        dst_port: number("dport", direction),
    };
    // The id of the entry is the last one, behind those of ICMP.
    let id = values["id"].len() - 1;

    Destroyed {
        id: number("id", id).unwrap(),
        proto,
        proto_name,
        orig: tuple(0),
        reply: tuple(1),
        icmp: number("type", 0)
            .map(|icmp_type| [icmp_type, number("code", 0).unwrap(), number("id", 0).unwrap()]),
        state,
        end_reason: end_reason.to_owned(),
        seen_reply: !entry.contains("[UNREPLIED]"),
        assured: entry.contains("[ASSURED]"),
        orig_counters: [number("packets", 0), number("bytes", 0)],
        reply_counters: [number("packets", 1), number("bytes", 1)],
        mark: number("mark", 0),
        zone: number("zone", 0),
        start: None,
        stop: None,
    }
}

/// The id and the times of one entry, from `<timestamp><start>1795249534503562585</start>…`.
#[track_caller]
fn parse_times(line: &str) -> (i64, [Option<i64>; 2]) {
    let number = |element: &str| -> Option<i64> {
        let (_, rest) = line.split_once(&format!("<{element}>"))?;
        let (value, _) = rest.split_once('<')?;
        Some(value.parse().unwrap())
    };
    let micros = |element: &str| number(element).map(|nanos| nanos / 1000);
    (number("id").unwrap(), [micros("start"), micros("stop")])
}

#[test]
fn a_line_is_parsed() {
    let line = "[1795249382.437389]\t[DESTROY] tcp      6 119 TIME_WAIT src=10.0.0.1 dst=10.0.0.2 \
                sport=36240 dport=80 packets=5 bytes=270 src=10.0.0.3 dst=10.0.0.4 sport=8080 \
                dport=36241 packets=3 bytes=164 [ASSURED] mark=7 zone=9 delta-time=0 \
                [start=Sat Nov 21 08:23:02 2026] [stop=Sat Nov 21 08:23:02 2026] id=540090596 \
                [USERSPACE] portid=10634";
    let tuple = |src: &str, src_port, dst: &str, dst_port| Tuple {
        src: src.parse().unwrap(),
        src_port: Some(src_port),
        dst: dst.parse().unwrap(),
        dst_port: Some(dst_port),
    };
    let expected = Destroyed {
        id: 540_090_596,
        proto: 6,
        proto_name: "tcp".to_owned(),
        orig: tuple("10.0.0.1", 36240, "10.0.0.2", 80),
        reply: tuple("10.0.0.3", 8080, "10.0.0.4", 36241),
        icmp: None,
        state: Some("time_wait".to_owned()),
        end_reason: "closed".to_owned(),
        seen_reply: true,
        assured: true,
        orig_counters: [Some(5), Some(270)],
        reply_counters: [Some(3), Some(164)],
        mark: Some(7),
        zone: Some(9),
        start: None,
        stop: None,
    };
    assert_eq!(parse_line(line), expected);

    let line = "[1795249565.1]\t[DESTROY] icmp     1 src=127.0.0.1 dst=127.0.0.2 type=8 code=0 id=77 \
                packets=1 bytes=84 [UNREPLIED] src=127.0.0.2 dst=127.0.0.1 type=0 code=0 id=77 \
                packets=0 bytes=0 delta-time=1 id=3383533925";
    let parsed = parse_line(line);
    assert_eq!((parsed.id, parsed.icmp), (3_383_533_925, Some([8, 0, 77])));
    assert_eq!((parsed.end_reason.as_str(), parsed.seen_reply, parsed.state), ("timeout", false, None));
}

#[test]
fn times_are_parsed() {
    let line = "<flow type=\"destroy\"><meta direction=\"independent\"><id>3383533925</id><timestamp>\
                <start>1795249565233935983</start><stop>1795249566230706056</stop></timestamp></flow>";
    let times = [Some(1_795_249_565_233_935), Some(1_795_249_566_230_706)];
    assert_eq!(parse_times(line), (3_383_533_925, times));
}
