//! Real messages of `testdata/ctnetlink`, each with what it was made from in the lines above its bytes.
#![cfg(target_endian = "little")]

use std::path::Path;

use super::*;
use crate::testing::tuple;

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ctnetlink")
}

fn read(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(directory().join(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// An entry between two addresses without NAT, with ports.
fn with_ports(proto: Protocol, (src, src_port): (&str, u16), (dst, dst_port): (&str, u16)) -> Flow {
    Flow::new(
        tuple(src, dst, proto, L4::Ports { src: src_port, dst: dst_port }),
        tuple(dst, src, proto, L4::Ports { src: dst_port, dst: src_port }),
    )
}

/// A ping without NAT.
fn ping(proto: Protocol, src: &str, dst: &str, (request, reply): (u8, u8), id: u16) -> Flow {
    let key = |icmp_type| L4::Icmp { icmp_type, code: 0, id };
    Flow::new(tuple(src, dst, proto, key(request)), tuple(dst, src, proto, key(reply)))
}

fn without_keys(proto: Protocol, src: &str, dst: &str) -> Flow {
    Flow::new(tuple(src, dst, proto, L4::None), tuple(dst, src, proto, L4::None))
}

/// Adds id, status, packets and bytes of each direction, start, stop and event.
fn ended(flow: Flow, id: u32, status: u32, counters: [u64; 4], times: [u64; 3]) -> Flow {
    let [orig_packets, orig_bytes, reply_packets, reply_bytes] = counters;
    let [start_ns, stop_ns, event_ns] = times.map(Some);
    Flow {
        id: Some(id),
        status: Some(Status(status)),
        orig_counters: Some(Counters { packets: orig_packets, bytes: orig_bytes }),
        reply_counters: Some(Counters { packets: reply_packets, bytes: reply_bytes }),
        start_ns,
        stop_ns,
        event_ns,
        ..flow
    }
}

// Long, since each message has all its values here.
fn expected() -> Vec<(&'static str, Flow)> {
    const V4: (&str, &str) = ("198.51.100.1", "203.0.113.9");
    const V6: (&str, &str) = ("2001:db8::1", "2001:db8:ffff::9");
    let tcp = |state| Some(ProtoState::Tcp(state));
    let mut zoned = with_ports(Protocol::UDP, (V4.0, 1000), (V4.1, 53));
    zoned.orig.zone = Some(9);
    vec![
        (
            "tcp_closed.hex",
            Flow {
                state: tcp(TcpState::TIME_WAIT),
                ..ended(
                    with_ports(Protocol::TCP, ("127.0.0.1", 54014), ("127.0.0.1", 9000)),
                    193_818_973,
                    0x38e,
                    [5, 273, 5, 5268],
                    [1_795_250_749_991_813_650, 1_795_250_750_992_233_711, 1_795_250_756_996_233_842],
                )
            },
        ),
        (
            "tcp_closed_v6.hex",
            Flow {
                state: tcp(TcpState::TIME_WAIT),
                ..ended(
                    with_ports(Protocol::TCP, ("::1", 33388), ("::1", 9001)),
                    3_078_558_013,
                    0x38e,
                    [5, 373, 5, 5368],
                    [1_795_250_749_994_678_966, 1_795_250_750_994_854_943, 1_795_250_756_994_855_614],
                )
            },
        ),
        (
            "tcp_refused.hex",
            Flow {
                timeout_s: Some(120),
                state: tcp(TcpState::CLOSE),
                ..ended(
                    with_ports(Protocol::TCP, ("127.0.0.1", 40758), ("127.0.0.1", 9999)),
                    107_569_494,
                    0x388,
                    [1, 60, 1, 40],
                    [1_795_250_749_999_247_332, 1_795_250_749_999_274_993, 1_795_250_749_999_275_053],
                )
            },
        ),
        (
            "tcp_dnat.hex",
            Flow {
                state: tcp(TcpState::TIME_WAIT),
                ..ended(
                    Flow::new(
                        tuple("192.0.2.81", "192.0.2.80", Protocol::TCP, L4::Ports { src: 48062, dst: 80 }),
                        tuple("127.0.0.1", "192.0.2.81", Protocol::TCP, L4::Ports { src: 8080, dst: 48062 }),
                    ),
                    4_150_778_199,
                    0x3ae,
                    [5, 273, 5, 5268],
                    [1_795_250_749_998_811_945, 1_795_250_751_001_064_365, 1_795_250_756_997_064_415],
                )
            },
        ),
        (
            "tcp_mark_zone_v6.hex",
            Flow {
                timeout_s: Some(600),
                mark: Some(0xdead_beef),
                zone: Some(7),
                state: tcp(TcpState::FIN_WAIT),
                ..ended(
                    with_ports(Protocol::TCP, (V6.0, 50000), (V6.1, 22)),
                    2_508_022_298,
                    0x20e,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_386_206, 1_795_250_750_057_699_732, 1_795_250_750_057_699_792],
                )
            },
        ),
        (
            "udp_v6.hex",
            ended(
                with_ports(Protocol::UDP, ("::1", 38937), ("::1", 5354)),
                2_536_518_981,
                0x38a,
                [1, 49, 1, 51],
                [1_795_250_749_999_991_497, 1_795_250_750_999_699_458, 1_795_250_756_995_699_818],
            ),
        ),
        (
            "udp_mark.hex",
            Flow {
                mark: Some(0x2a),
                ..ended(
                    with_ports(Protocol::UDP, ("127.0.0.1", 51140), ("127.0.0.1", 5353)),
                    2_276_638_398,
                    0x388,
                    [1, 29, 0, 0],
                    [1_795_250_749_999_703_289, 1_795_250_751_000_584_633, 1_795_250_756_996_584_813],
                )
            },
        ),
        (
            "udp_no_accounting.hex",
            Flow {
                id: Some(1_332_216_196),
                status: Some(Status(0x388)),
                ..with_ports(Protocol::UDP, ("127.0.0.1", 34276), ("127.0.0.1", 5355))
            },
        ),
        (
            "udp_tuple_zone.hex",
            Flow {
                timeout_s: Some(600),
                ..ended(
                    zoned,
                    2_463_060_705,
                    0x208,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_404_483, 1_795_250_750_057_747_312, 1_795_250_750_057_747_372],
                )
            },
        ),
        (
            "udplite_v6.hex",
            Flow {
                timeout_s: Some(600),
                ..ended(
                    with_ports(Protocol::UDPLITE, (V6.0, 5004), (V6.1, 5005)),
                    4_287_499_864,
                    0x208,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_312_887, 1_795_250_750_057_586_293, 1_795_250_750_057_586_343],
                )
            },
        ),
        (
            "icmp.hex",
            ended(
                ping(Protocol::ICMP, "127.0.0.1", "127.0.0.1", (8, 0), 27541),
                1_609_354_640,
                0x38a,
                [1, 84, 1, 84],
                [1_795_250_750_042_460_256, 1_795_250_751_046_157_078, 1_795_250_756_998_157_128],
            ),
        ),
        (
            "icmpv6.hex",
            ended(
                ping(Protocol::ICMPV6, "::1", "::1", (128, 129), 27543),
                3_589_593_365,
                0x38a,
                [1, 104, 1, 104],
                [1_795_250_750_049_421_065, 1_795_250_751_049_859_406, 1_795_250_756_997_859_526],
            ),
        ),
        (
            "icmpv6_deleted.hex",
            Flow {
                timeout_s: Some(600),
                ..ended(
                    ping(Protocol::ICMPV6, V6.0, V6.1, (128, 129), 77),
                    1_545_488_617,
                    0x208,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_432_475, 1_795_250_750_057_783_867, 1_795_250_750_057_783_927],
                )
            },
        ),
        (
            "sctp.hex",
            Flow {
                timeout_s: Some(600),
                state: Some(ProtoState::Sctp(SctpState::ESTABLISHED)),
                ..ended(
                    with_ports(Protocol::SCTP, (V4.0, 40000), (V4.1, 3868)),
                    2_283_790_504,
                    0x20e,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_239_368, 1_795_250_750_057_449_019, 1_795_250_750_057_449_089],
                )
            },
        ),
        (
            "gre.hex",
            Flow {
                timeout_s: Some(600),
                ..ended(
                    with_ports(Protocol::GRE, (V4.0, 0x1234), (V4.1, 0x5678)),
                    1_403_134_066,
                    0x208,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_294_620, 1_795_250_750_057_542_779, 1_795_250_750_057_542_839],
                )
            },
        ),
        (
            "esp.hex",
            Flow {
                timeout_s: Some(600),
                ..ended(
                    without_keys(Protocol::ESP, V4.0, V4.1),
                    3_533_446_700,
                    0x208,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_353_528, 1_795_250_750_057_629_738, 1_795_250_750_057_629_798],
                )
            },
        ),
        (
            "dccp.hex",
            Flow {
                timeout_s: Some(600),
                ..ended(
                    without_keys(Protocol::DCCP, V4.0, V4.1),
                    1_826_694_923,
                    0x208,
                    [0, 0, 0, 0],
                    [1_795_250_750_057_369_802, 1_795_250_750_057_663_919, 1_795_250_750_057_663_969],
                )
            },
        ),
        (
            "get_answer_labels.hex",
            Flow {
                id: Some(0xa6f1_d20c),
                status: Some(Status::CONFIRMED),
                timeout_s: Some(300),
                mark: Some(0x2a),
                orig_counters: Some(Counters { packets: 0, bytes: 0 }),
                reply_counters: Some(Counters { packets: 0, bytes: 0 }),
                start_ns: Some(1_795_250_861_303_566_250),
                state: tcp(TcpState::ESTABLISHED),
                labels: Some([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]),
                ..with_ports(Protocol::TCP, ("10.0.0.0", 1031), ("203.0.113.9", 443))
            },
        ),
    ]
}

#[test]
fn all_captured_messages() {
    let expected = expected();
    for (name, flow) in &expected {
        let datagram = read(name);
        let found: Vec<_> = messages(&datagram).map(Result::unwrap).collect();
        let [message] = found[..] else { panic!("{name}: {} messages", found.len()) };
        let answer = name.starts_with("get_answer");
        assert_eq!(message.event(), if answer { EventKind::Update } else { EventKind::Destroy }, "{name}");
        let decoded = super::flow(message.payload).unwrap();
        assert_eq!(decoded, Decoded { flow: flow.clone(), unknown_attributes: 0 }, "{name}");
    }
    assert_eq!(std::fs::read_dir(directory()).unwrap().count(), expected.len(), "files without a test");
}

#[test]
fn every_prefix_of_a_message_is_an_error_or_a_flow() {
    for (name, whole) in expected() {
        let datagram = read(name);
        for len in 0..datagram.len() {
            // The header tells that something is missing.
            assert!(messages(&datagram[..len]).all(|message| message.is_err()), "{name} {len}");
        }
        let payload = &datagram[NLMSG_HDRLEN..];
        let mut flows = 0;
        for len in 0..payload.len() {
            // Cut between two attributes it is the message of a kernel that says less.
            if let Ok(Decoded { flow, .. }) = super::flow(&payload[..len]) {
                assert_eq!((flow.orig, flow.reply), (whole.orig, whole.reply), "{name} {len}");
                flows += 1;
            }
        }
        assert!((1..payload.len() / 8).contains(&flows), "{name}: {flows} flows");
    }
}

/// Everything in them has a place, and goes out again as it came in.
#[test]
fn whole_entries_go_through() {
    for (name, flow) in expected() {
        for message in messages(&read(name)) {
            let payload = message.unwrap().payload;
            let entry = entry(payload).unwrap();
            assert!(entry.unknown.is_empty(), "{name}: {entry:?}");
            assert_eq!(Flow::try_from(&entry).as_ref(), Ok(&flow), "{name}");
            let mut again = payload[..NFGENMSG_LEN].to_vec();
            entry.encode_all(&mut again);
            assert_eq!(super::entry(&again), Ok(entry), "{name}");
            assert_eq!(again.len(), payload.len(), "{name}");
        }
    }
}
