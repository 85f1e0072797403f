//! Printing and parsing together: what is read from a line is written as the same line, and no text makes
//! the parser panic.

use jiff::tz::TimeZone;
use proptest::option;
use proptest::prelude::*;

use super::LabelNames;
use super::parse::{self, Context};
use super::print::{self, Style};
use super::round_trip::{MAX_TIME_S, names, parse, print_as};
use crate::connections::ctnetlink::Entry;
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::ctnetlink::sets::{
    CounterAttributes, Helper, L4Attributes, SecurityContext, Timestamps, TupleAttributes,
};
use crate::flow::{DccpState, ProtoState, SctpState, TcpState};
use crate::time::NS_PER_S;

/// Lines of each kind: of this kernel, of older ones, and of several versions of conntrack(8).
const LINES: [&str; 18] = [
    "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=2000 dport=80 packets=5 bytes=270 src=10.0.0.2 dst=192.0.2.1 sport=80 dport=12000 packets=3 bytes=164 [ASSURED] mark=0 secctx=system_u:object_r:unlabeled_t:s0 zone=0 delta-time=7 use=2",
    "ipv6     10 icmpv6   58 29 src=fd00:0000:0000:0000:0000:0000:0000:0001 dst=fd00:0000:0000:0000:0000:0000:0000:0002 type=128 code=0 id=7 src=fd00:0000:0000:0000:0000:0000:0000:0002 dst=fd00:0000:0000:0000:0000:0000:0000:0001 type=129 code=0 id=7 mark=0 use=1",
    "ipv4     2 icmp     1 3 src=1.1.1.2 dst=1.1.1.1 type=8 code=0 id=32354 src=1.1.1.1 dst=1.1.1.2 type=0 code=0 id=32354 mark=0 use=2",
    "tcp      6 117 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=3 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=3 use=1",
    "udp      17 19 src=10.0.0.1 dst=10.0.0.2 sport=53 dport=53 packets=1 bytes=60 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=53 dport=53 packets=0 bytes=0 mark=1 secmark=2 use=1",
    "ipv4     2 tcp      6 src=10.0.0.1 dst=10.0.0.2 sport=3 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=3 [OFFLOAD] mark=0 use=2",
    "ipv4     2 tcp      6 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=3 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=3 [HW_OFFLOAD] mark=0 use=2",
    "ipv4     2 unknown  89 599 src=10.0.0.1 dst=10.0.0.2 src=10.0.0.2 dst=10.0.0.1 mark=0 use=1",
    "gre      47 179 src=10.0.0.1 dst=10.0.0.2 srckey=0x10 dstkey=0xffff src=10.0.0.2 dst=10.0.0.1 srckey=0xffff dstkey=0x10 [ASSURED] mark=0 use=1",
    "sctp     132 9 COOKIE_WAIT src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 zone-orig=6 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 zone-reply=7 mark=0 use=1",
    "dccp     33 9 TIMEWAIT src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 mark=0 helper=ftp use=1 labels=red,blue",
    "    [NEW] udplite  136 30 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1",
    " [UPDATE] tcp      6 60 SYN_RECV src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1",
    "[DESTROY] tcp      6 119 TIME_WAIT src=127.0.0.1 dst=127.0.0.1 sport=36240 dport=5000 packets=5 bytes=270 src=127.0.0.1 dst=127.0.0.1 sport=5000 dport=36240 packets=3 bytes=164 [ASSURED] mark=7 delta-time=2 [start=Sat Nov 21 08:23:02 2026] [stop=Sat Nov 21 08:23:04 2026] id=540090596",
    "[DESTROY] ipv4     2 tcp      6 CLOSE src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 delta-time=5 [start=Sun Nov  1 00:00:09 2026]",
    "tcp      6 9 SYN_SENT2 src=::1 dst=::ffff:1.2.3.4 sport=1 dport=2 src=::0.2.0.3 dst=::1 sport=2 dport=1",
    "ipv4     2 unknown  136 599 src=10.0.0.1 dst=10.0.0.2 packets=0 bytes=0 src=10.0.0.2 dst=10.0.0.1 packets=0 bytes=0 mark=0 use=1",
    "ipv4     2 gre      47 29 timeout=30, stream_timeout=180 src=10.0.0.1 dst=10.0.0.2 srckey=0x0 dstkey=0x1 src=10.0.0.2 dst=10.0.0.1 srckey=0x1 dstkey=0x0 mark=0 use=1",
];

/// Lines that are read, and which are written in another way today.
const OLD_LINES: [(&str, &str); 3] = [
    (
        "tcp 6 9 LISTEN src=1.1.1.1 dst=1.1.1.2 sport=1 dport=2 src=1.1.1.2 dst=1.1.1.1 sport=2 dport=1 use=1",
        "tcp      6 9 SYN_SENT2 src=",
    ),
    (
        "[1795249382.437389]\t[DESTROY] udp 17 src=1.1.1.1 dst=1.1.1.2 sport=1 dport=2 src=1.1.1.2 dst=1.1.1.1 sport=2 dport=1 [USERSPACE] portid=7 progname=a b",
        "[DESTROY] udp      17 src=",
    ),
    (
        "ipv6-icmp 58 9 src=::1 dst=::2 type=128 code=0 id=1 src=::2 dst=::1 type=129 code=0 id=1",
        "icmpv6   58 9 src=",
    ),
];

#[test]
fn lines_are_read_and_written_as_they_were() {
    for text in LINES {
        let line = parse(text).unwrap_or_else(|error| panic!("column {}: {error}: {text}", error.column));
        assert_eq!(print_as(text, &line), text);
    }
    for (text, expected) in OLD_LINES {
        let line = parse(text).unwrap_or_else(|error| panic!("column {}: {error}: {text}", error.column));
        assert!(print_as(text, &line).starts_with(expected), "{text}: {line:?}");
    }
}

#[test]
fn times_are_of_the_zone_and_of_the_event() {
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    let text = LINES[13];
    let at = |text: &str| {
        parse::line(text, &Context { time_zone: &zone, labels: None, ignore_unknown: false }).unwrap()
    };
    let line = at(&format!("[1795249382.7     ]\t{text}"));
    let times = line.entry.timestamps.unwrap();
    let start_ns = 1_795_242_182 * NS_PER_S;
    assert_eq!((times.start_ns, times.stop_ns), (Some(start_ns), Some(start_ns + 2 * NS_PER_S)));
    assert_eq!((line.entry.event_ns, line.age_s), (Some(1_795_249_382_000_007_000), Some(2)));
    assert_eq!(at(&format!("[1795249382.437389]\t{text}")).entry.event_ns, Some(1_795_249_382_437_389_000));
    // Without names, labels are left out.
    assert_eq!(at(LINES[10]).entry.labels, None);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let tuple = "src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1";
    for (text, column, found, expected) in [
        ("", 1, "the end of the line", "the name of a protocol"),
        ("é", 1, "`é`", "the name of a protocol"),
        (
            "conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.",
            11,
            "`v1.4.7`",
            "the number of the protocol",
        ),
        ("tcp 17 src=", 1, "`tcp`", "a name of the protocol with that number"),
        ("tcp 256", 5, "`256`", "the number of the protocol"),
        ("tcp 6 99999999999", 7, "`99999999999`", "the timeout in seconds"),
        ("tcp 6 -x", 7, "`-x`", "the source address `src=`"),
        ("tcp 6 9 OPEN src=", 9, "`OPEN`", "a state of the protocol"),
        ("udp 17 9 NONE src=", 10, "`NONE`", "a state of the protocol"),
        ("tcp 6 9 é src=", 9, "`é`", "the source address `src=`"),
        ("tcp 6 9 src=10.0.0 dst=", 13, "`10.0.0`", "the source address `src=`"),
        ("tcp 6 9 src= dst=", 13, "a space", "the source address `src=`"),
        ("tcp 6 src=10.0.0.1 dst=::1", 20, "`dst=::1`", "an address of the same family as the one before"),
        ("tcp 6 src=10.0.0.1 dst=10.0.0.2 sport=+1", 39, "`+1`", "the source port `sport=`"),
        (
            "tcp 6 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=65536",
            47,
            "`65536`",
            "the destination port `dport=`",
        ),
        ("gre 47 src=10.0.0.1 dst=10.0.0.2 srckey=0x+1", 41, "`0x+1`", "the source key `srckey=0x`"),
        (
            "tcp 6 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2",
            48,
            "the end of the line",
            "the source address `src=`",
        ),
        ("ipv4 10 tcp 6 9 NONE src=", 1, "`ipv4`", "`ipv4 2` or `ipv6 10`"),
        (
            &format!("ipv6 10 tcp 6 {tuple}"),
            15,
            "`src=10.0.0.1`",
            "addresses of the family at the beginning of the line",
        ),
        (
            &format!("tcp 6 {tuple} nonsense=5"),
            91,
            "`nonsense=5`",
            "a field such as `mark=`, or the end of the line",
        ),
        (&format!("tcp 6 {tuple} mark=0x5"), 96, "`0x5`", "a mark"),
        (&format!("tcp 6 {tuple} mark=5 mark=6"), 98, "`mark=6`", "each field once"),
        (
            &format!("tcp 6 {tuple} [ASSURED] [OFFLOAD]"),
            101,
            "`[OFFLOAD]`",
            "one of ASSURED, OFFLOAD, HW_OFFLOAD",
        ),
        (&format!("tcp 6 {tuple} labels=red,green"), 98, "`red,green`", "names of labels that are known"),
        (
            &format!("tcp 6 {tuple} [start=yesterday]"),
            91,
            "`[start=yesterday]`",
            "a time such as `Sat Nov 21 08:23:02 2026]`",
        ),
        (
            &format!("tcp 6 {tuple} [start=Sat Nov 21"),
            91,
            "`[start=Sat`",
            "a time such as `Sat Nov 21 08:23:02 2026]`",
        ),
        ("[17.1000000] [DESTROY]", 1, "`[17.1000000]`", "a time such as `[1795249382.437389]`"),
        ("[DELETE] tcp", 1, "`[DELETE]`", "the name of a protocol"),
        ("\u{1b}[31m", 1, "`\\u{1b}[31m`", "the name of a protocol"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.column, error.found.as_str(), error.expected), (column, found, expected), "{text}");
    }
}

/// The line with these words before its tuples, between them and behind them.
fn around(before: &str, between: &str, behind: &str) -> String {
    format!(
        "{before} src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 {between} src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 {behind}"
    )
}

#[test]
fn what_kernels_and_security_modules_print_is_read_whatever_their_version() {
    let timeout_s = |text: &str| parse(&around(text, "", "use=1 ")).unwrap().entry.timeout_s;
    for (timeout, expected) in
        [("-1", Some(0)), ("184467440737095516", Some(0)), ("18446744073709551", Some(0)), ("9", Some(9))]
    {
        assert_eq!(timeout_s(&format!("udp 17 {timeout}")), expected, "{timeout}");
    }
    let mark = |text: &str| {
        parse(&around("udp 17 9", "", &format!("use=1 mark={text} "))).map(|line| line.entry.mark)
    };
    for (text, expected) in [
        ("-1", Some(u32::MAX)),
        ("-2147483648", Some(1 << 31)),
        ("18446744073709551615", Some(u32::MAX)),
        ("4294967295", Some(u32::MAX)),
    ] {
        assert_eq!(mark(text), Ok(expected), "{text}");
    }
    for text in ["4294967296", "-2147483649", "-", "--1", "0x1"] {
        assert!(mark(text).is_err(), "{text}");
    }

    let behind = |text: &str| {
        parse(&around("tcp 6 9 CLOSE", "", text)).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    for (text, expected) in [
        ("secctx=/opt/some app (enforce) zone=7 use=1", "/opt/some app (enforce)"),
        ("[ASSURED] mark=0 secctx=a//&:ns:b (mixed)", "a//&:ns:b (mixed)"),
        ("secctx=unconfined use=1", "unconfined"),
        (
            "secctx=system_u:object_r:unlabeled_t:s0-s0:c0.c1023 [start=Sat Nov 21 08:23:02 2026]",
            "system_u:object_r:unlabeled_t:s0-s0:c0.c1023",
        ),
    ] {
        let name = behind(text).entry.security_context.unwrap().name.unwrap();
        assert_eq!(String::from_utf8_lossy(&name.0), expected);
    }
    assert_eq!(behind("secctx=/opt/some app (enforce) zone=7 use=1").entry.zone, Some(7));
    let names = LabelNames::parse("3 guest wifi\n4 red\n");
    let context = Context { time_zone: &TimeZone::UTC, labels: Some(&names), ignore_unknown: false };
    let labels = |text: &str| {
        parse::line(&around("udp 17", "", text), &context).unwrap().entry.labels.map(|labels| labels[0])
    };
    assert_eq!(labels("labels=guest wifi,red use=1"), Some(0b1_1000));
    assert_eq!(labels("use=1 labels [USERSPACE] portid=3"), None);
    // The clock was set back meanwhile.
    assert_eq!(behind("delta-time=18446744073709551615 use=1").age_s, None);
    assert_eq!(behind("[UNCONFIRMED] use=1").entry.use_count, Some(1));
    assert!(behind("use=1 [USERSPACE] portid=7 progname=a b").by_program && !behind("use=1").by_program);

    let dccp = |text: &str| parse(&around(text, "", "")).unwrap().entry.state();
    assert_eq!(dccp("dccp 33 43199 ESTABLISHED"), Some(ProtoState::Dccp(DccpState(4))));
    assert_eq!(dccp("dccp 33 43199 OPEN"), Some(ProtoState::Dccp(DccpState(4))));
    assert_eq!(parse(&around("[UNKNOWN] tcp 6", "", "")).unwrap().event, EventKind::Update);
    let line = parse("gre 47 9 timeout=600, stream_timeout=18000 src=10.0.0.1 dst=10.0.0.2 version=1 protocol=0x880b srckey=0x40 dstkey=0x1 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 version=1 protocol=0x880b srckey=0x1 dstkey=0x40 use=1 ").unwrap();
    assert_eq!((line.gre_timeouts_s, line.entry.use_count), (Some((600, 18000)), Some(1)));
}

#[test]
fn unknown_fields_and_flags_are_left_out_where_that_is_asked_for() {
    let zone = TimeZone::UTC;
    let read = |text: &str, ignore_unknown| {
        parse::line(text, &Context { time_zone: &zone, labels: None, ignore_unknown })
    };
    let tuples = ["ipv4 2 tcp 6 1188 ESTABLISHED", "[FASTNAT] packets=9 bytes=1200"];
    for (behind, expected) in [
        (
            "packets=7 bytes=900 [ASSURED] [RTCACHE o33/r11] mark=5 nmark=0 ifw=ppp0 mac=00:00:5e:00:53:01 slan attrs= use=2",
            vec!["[FASTNAT]", "[RTCACHE]", "nmark", "ifw", "mac", "slan", "attrs"],
        ),
        ("packets=7 bytes=900 mark=5 use=2", vec!["[FASTNAT]"]),
        ("use=2 mark=5 l7proto=ssh", vec!["[FASTNAT]", "l7proto"]),
        (
            "[PERMANENT] fp[0]={if=3 mark=0x1 iif=4} fp[1]={if=3 mark=0x1 iif=4} mark=5 use=2",
            vec!["[FASTNAT]", "[PERMANENT]", "fp", "fp"],
        ),
        ("mark=5 use=2 [active since 536s]", vec!["[FASTNAT]", "[active]"]),
    ] {
        let text = around(tuples[0], tuples[1], behind);
        let error = read(&text, false).unwrap_err();
        assert_eq!(error.found, "`[FASTNAT]`", "{text}");
        let line = read(&text, true).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(line.unknown, expected, "{text}");
        // Nothing that is known is left out.
        assert_eq!((line.entry.mark, line.entry.use_count), (Some(5), Some(2)), "{text}");
        assert_eq!(line.entry.orig_counters.unwrap().bytes, Some(1200));
    }
    // Where a line is mangled it stays bad.
    let long = format!("{}=1", "x".repeat(100));
    for behind in [
        "use=2 tcp 6 9 src=10.0.0.1",
        "sport=9",
        "mark=5 mark=6",
        "mark=x",
        "nmark= =7",
        "[FASTNAT use=2",
        "[FASTNAT mark=5 [ASSURED] use=1",
        "[ASSURED]mark=5",
        "[FASTNAT]mark=5",
        "[A\u{1b}[2J]",
        "fp[0]={if=3 [ASSURED] use=2 mark=5 x}",
        "packets=7 bytes=900 bytes=3",
        "packets=7 pkts=7 bytes=900",
        "secctx=u:o:t:s0 12 # x",
        &long,
    ] {
        assert!(read(&around("tcp 6 9", "", behind), true).is_err(), "{behind}");
    }
    for between in ["[UNREPLIED]src=10.0.0.2", "pkts=7 bytes=9"] {
        assert!(read(&around("tcp 6 9", between, "use=1"), true).is_err(), "{between}");
    }
    let line = read(&around("tcp 6 9", "", "use=1 mark=0 l7proto=unknown bytes=7"), true).unwrap();
    assert_eq!(line.unknown, ["l7proto", "bytes"]);
}

/// A tuple of this protocol.
fn tuple(protocol: u8) -> impl Strategy<Value = TupleAttributes> {
    (crate::connections::ctnetlink::properties::tuple(), any::<(u16, u16, u8, u8)>()).prop_map(
        move |(tuple, keys)| {
            let (first, second, icmp_type, code) = keys;
            let proto = L4Attributes {
                number: Some(protocol),
                src_port: Some(first),
                dst_port: Some(second),
                icmp_id: Some(first),
                icmp_type: Some(icmp_type),
                icmp_code: Some(code),
                ..L4Attributes::default()
            };
            TupleAttributes { proto: Some(proto), ..(&tuple).into() }
        },
    )
}

fn counters() -> impl Strategy<Value = Option<CounterAttributes>> {
    option::of(any::<(u64, u64)>().prop_map(|(packets, bytes)| CounterAttributes {
        packets: Some(packets),
        bytes: Some(bytes),
        ..CounterAttributes::default()
    }))
}

fn state(protocol: u8, number: u8) -> Option<ProtoState> {
    match protocol {
        6 => Some(ProtoState::Tcp(TcpState(number))),
        33 => Some(ProtoState::Dccp(DccpState(number))),
        132 => Some(ProtoState::Sctp(SctpState(number))),
        _ => None,
    }
}

/// What a line can say.
fn entry() -> impl Strategy<Value = Entry> {
    let protocol = prop_oneof![
        Just(1_u8),
        Just(6),
        Just(17),
        Just(33),
        Just(47),
        Just(58),
        Just(132),
        Just(136),
        any::<u8>()
    ];
    protocol.prop_flat_map(|protocol| {
        let words = option::of("[!-~]{1,20}");
        let numbers =
            any::<(u32, Option<u32>, Option<u32>, Option<u32>, Option<u16>, Option<u32>, Option<u32>)>();
        let times = option::of((option::of(0..MAX_TIME_S), option::of(0..MAX_TIME_S)));
        (
            tuple(protocol),
            tuple(protocol),
            counters(),
            counters(),
            numbers,
            (words.clone(), words),
            times,
            0..12_u8,
            any::<u8>(),
        )
            .prop_map(
                move |(orig, reply, orig_counters, reply_counters, numbers, words, times, number, labels)| {
                    let (status, timeout_s, mark, secmark, zone, use_count, id) = numbers;
                    let (context, helper) = words;
                    let name = |word: String| Some(word.as_str().into());
                    let mut label_bits = [0; 16];
                    (label_bits[0], label_bits[1], label_bits[15]) = (labels & 1, labels & 2, labels & 128);
                    Entry {
                        orig: Some(orig),
                        reply: Some(reply),
                        orig_counters,
                        reply_counters,
                        status: Some(status),
                        timeout_s,
                        mark,
                        secmark,
                        zone,
                        use_count,
                        id,
                        proto_info: state(protocol, number).filter(|_| labels & 4 == 0).map(Into::into),
                        security_context: context
                            .map(|word| SecurityContext { name: name(word), ..SecurityContext::default() }),
                        helper: helper.map(|word| Helper { name: name(word), ..Helper::default() }),
                        timestamps: times.map(|(start_s, stop_s)| Timestamps {
                            start_ns: start_s.map(|start_s| start_s.saturating_mul(NS_PER_S)),
                            stop_ns: stop_s.map(|stop_s| stop_s.saturating_mul(NS_PER_S)),
                            ..Timestamps::default()
                        }),
                        labels: Some(label_bits),
                        ..Entry::default()
                    }
                },
            )
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_parsed_and_printed_again(
        entry in entry(),
        event in prop_oneof![
            Just(EventKind::Other), Just(EventKind::New), Just(EventKind::Update), Just(EventKind::Destroy)
        ],
        (layer3, of_kernel, id, timestamps) in any::<(bool, bool, bool, bool)>(),
    ) {
        let names = names();
        let zone = TimeZone::UTC;
        let style = Style {
            layer3, gre_timeouts_s: None, of_kernel, id, timestamps,
            labels: Some(&names), when: false, now_s: MAX_TIME_S, time_zone: &zone,
        };
        let print = |entry: &Entry| {
            let mut out = Vec::new();
            print::entry(&mut out, entry, event, &style);
            String::from_utf8(out).unwrap()
        };
        let text = print(&entry);
        let mut line = match parse(&text) {
            Ok(line) => line,
            Err(error) => return Err(TestCaseError::fail(format!("column {}: {error}: {text}", error.column))),
        };
        prop_assert_eq!(line.event, event);
        if let Some(age_s) = line.age_s {
            // Where a line has no start, it has the age; both are of the time of the stop, or now.
            let times = line.entry.timestamps.get_or_insert_default();
            times.start_ns.get_or_insert((MAX_TIME_S - age_s) * NS_PER_S);
        }
        let again = print(&line.entry);
        prop_assert_eq!(again, text);
    }

    #[test]
    fn no_text_makes_it_panic(text: String) {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_makes_it_panic(
        line in 0..LINES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..6),
        cut: prop::sample::Index,
    ) {
        let mut text: Vec<char> = LINES[line].chars().collect();
        for (at, char) in damage {
            let at = at.index(text.len());
            text[at] = char;
        }
        text.truncate(cut.index(text.len() + 1));
        let text = String::from_iter(text);
        if let Ok(line) = parse(&text) {
            // What is taken comes out the same when it went through once more.
            let printed = print_as(&text, &line);
            let again = parse(&printed).map_err(|error| TestCaseError::fail(format!("{error}: {printed}")))?;
            prop_assert_eq!(print_as(&printed, &again), printed);
        }
    }
}
