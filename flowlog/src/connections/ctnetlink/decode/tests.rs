//! Each attribute: its value, a wrong size, unknown children. Messages are made here byte by byte, so
//! that they can be wrong in ways in which those of [`encode`](crate::connections::ctnetlink::encode) cannot.

use super::*;

/// An attribute, padded.
fn nla(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(NLA_HDRLEN + payload.len()).unwrap();
    let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), payload].concat();
    bytes.resize(bytes.len() + padding(payload.len()), 0);
    bytes
}

fn nest(kind: u16, children: &[Vec<u8>]) -> Vec<u8> {
    nla(kind | NLA_F_NESTED, &children.concat())
}

const SRC: [u8; 4] = [192, 0, 2, 1];
const DST: [u8; 4] = [198, 51, 100, 2];

fn v4() -> Vec<u8> {
    nest(CTA_TUPLE_IP, &[nla(CTA_IP_V4_SRC, &SRC), nla(CTA_IP_V4_DST, &DST)])
}

fn udp() -> Vec<u8> {
    let number = nla(CTA_PROTO_NUM, &[17]);
    nest(CTA_TUPLE_PROTO, &[number, nla(CTA_PROTO_SRC_PORT, &[4, 0]), nla(CTA_PROTO_DST_PORT, &[0, 53])])
}

/// The tuple of [`v4`] and [`udp`].
fn udp_tuple() -> Tuple {
    Tuple {
        src: SRC.into(),
        dst: DST.into(),
        proto: Protocol::UDP,
        l4: L4::Ports { src: 1024, dst: 53 },
        zone: None,
    }
}

fn decode(attributes: &[Vec<u8>]) -> Result<Decoded, DecodeError> {
    flow(&[&[2, 0, 0, 0], &attributes.concat()[..]].concat())
}

/// Decodes a message with two good tuples and `extra`.
fn decode_with(extra: Vec<u8>) -> Result<Decoded, DecodeError> {
    decode(&[nest(CTA_TUPLE_ORIG, &[v4(), udp()]), nest(CTA_TUPLE_REPLY, &[v4(), udp()]), extra])
}

/// `extra` makes the change to the flow that `change` makes, and has so many unknown attributes.
#[track_caller]
fn check(extra: Vec<u8>, unknown_attributes: u32, change: impl FnOnce(&mut Flow)) {
    let mut flow = Flow::new(udp_tuple(), udp_tuple());
    change(&mut flow);
    assert_eq!(decode_with(extra), Ok(Decoded { flow, unknown_attributes }));
}

/// As `check`, for what stands in the original tuple.
#[track_caller]
fn check_tuple(children: &[Vec<u8>], unknown_attributes: u32, change: impl FnOnce(&mut Tuple)) {
    let mut flow = Flow::new(udp_tuple(), udp_tuple());
    change(&mut flow.orig);
    let reply = nest(CTA_TUPLE_REPLY, &[v4(), udp()]);
    let decoded = decode(&[nest(CTA_TUPLE_ORIG, children), reply]);
    assert_eq!(decoded, Ok(Decoded { flow, unknown_attributes }));
}

#[track_caller]
fn check_error(extra: Vec<u8>, text: &str) {
    assert_eq!(decode_with(extra).unwrap_err().to_string(), text);
}

/// `attribute` makes an attribute of this payload, whose child `name` must have `size` bytes.
#[track_caller]
fn check_size(name: &'static str, expected: usize, attribute: impl Fn(&[u8]) -> Vec<u8>) {
    assert!(decode_with(attribute(&vec![0; expected])).is_ok(), "{name}");
    for found in (0..20).filter(|len| *len != expected) {
        let error = DecodeError::Size { attribute: name, expected, found };
        assert_eq!(decode_with(attribute(&vec![0; found])), Err(error));
    }
}

#[test]
fn scalars() {
    check(nla(CTA_ID, &[0xff, 0, 0, 1]), 0, |flow| flow.id = Some(0xff00_0001));
    check(nla(CTA_STATUS, &[0x80, 0, 0, 0x0e]), 0, |flow| flow.status = Some(Status(0x8000_000e)));
    check(nla(CTA_TIMEOUT, &[0, 0, 0, 0]), 0, |flow| flow.timeout_s = Some(0));
    check(nla(CTA_MARK, &[0, 0, 1, 0]), 0, |flow| flow.mark = Some(256));
    check(nla(CTA_ZONE, &[1, 2]), 0, |flow| flow.zone = Some(0x0102));
    check(nla(CTA_TIMESTAMP_EVENT, &[0, 0, 0, 0, 0, 0, 1, 1]), 0, |flow| flow.event_ns = Some(257));
    let labels: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x80];
    check(nla(CTA_LABELS, &labels), 0, |flow| flow.labels = Some(labels));
    // Flags in the type do not matter.
    check(nla(CTA_ID | 0x4000, &[0, 0, 0, 1]), 0, |flow| flow.id = Some(1));
}

#[test]
fn counters_in_64_and_32_bits() {
    let packets = || nla(CTA_COUNTERS_PACKETS, &[0, 0, 0, 1, 0, 0, 0, 0]);
    let bytes = || nla(CTA_COUNTERS_BYTES, &[0xff; 8]);
    let expected = Some(Counters { packets: 1 << 32, bytes: u64::MAX });
    check(nest(CTA_COUNTERS_ORIG, &[packets(), bytes()]), 0, |flow| flow.orig_counters = expected);
    check(nest(CTA_COUNTERS_REPLY, &[bytes(), nla(CTA_COUNTERS_PAD, &[]), packets()]), 0, |flow| {
        flow.reply_counters = expected;
    });
    let old = [nla(CTA_COUNTERS32_PACKETS, &[0, 0, 0, 1]), nla(CTA_COUNTERS32_BYTES, &[0xff; 4])];
    check(nest(CTA_COUNTERS_ORIG, &old), 0, |flow| {
        flow.orig_counters = Some(Counters { packets: 1, bytes: u32::MAX.into() });
    });
    // A part of them is not zero for the rest.
    check(nest(CTA_COUNTERS_ORIG, &[packets()]), 0, |_| {});
    check(nest(CTA_COUNTERS_ORIG, &[]), 0, |_| {});
    check(nest(CTA_COUNTERS_ORIG, &[packets(), nla(6, &[1]), bytes()]), 1, |flow| {
        flow.orig_counters = expected;
    });
}

#[test]
fn times() {
    let start = || nla(CTA_TIMESTAMP_START, &[0, 0, 0, 0, 0, 0, 0, 1]);
    let stop = || nla(CTA_TIMESTAMP_STOP, &[0, 0, 0, 0, 0, 0, 0, 2]);
    let unknown = || nla(9, &[]);
    check(nest(CTA_TIMESTAMP, &[start()]), 0, |flow| flow.start_ns = Some(1));
    check(nest(CTA_TIMESTAMP, &[unknown(), start(), nla(CTA_TIMESTAMP_PAD, &[]), stop()]), 1, |flow| {
        (flow.start_ns, flow.stop_ns) = (Some(1), Some(2));
    });
}

#[test]
fn states() {
    let state = |protocol, children: &[Vec<u8>]| nest(CTA_PROTOINFO, &[nest(protocol, children)]);
    check(state(CTA_PROTOINFO_TCP, &[nla(CTA_PROTOINFO_TCP_STATE, &[7])]), 0, |flow| {
        flow.state = Some(ProtoState::Tcp(TcpState::TIME_WAIT));
    });
    check(state(CTA_PROTOINFO_SCTP, &[nla(CTA_PROTOINFO_SCTP_STATE, &[4])]), 0, |flow| {
        flow.state = Some(ProtoState::Sctp(SctpState::ESTABLISHED));
    });
    check(state(CTA_PROTOINFO_DCCP, &[nla(CTA_PROTOINFO_DCCP_STATE, &[7])]), 0, |flow| {
        flow.state = Some(ProtoState::Dccp(DccpState::TIMEWAIT));
    });
    // A number without a name is kept.
    check(state(CTA_PROTOINFO_TCP, &[nla(CTA_PROTOINFO_TCP_STATE, &[200])]), 0, |flow| {
        flow.state = Some(ProtoState::Tcp(TcpState(200)));
    });
    // All that is sent beside the state, and one more.
    for (protocol, siblings) in
        [(CTA_PROTOINFO_TCP, 2..=5), (CTA_PROTOINFO_SCTP, 2..=3), (CTA_PROTOINFO_DCCP, 2..=4)]
    {
        let next = siblings.end() + 1;
        let children: Vec<_> = siblings.map(|kind| nla(kind, &[1, 2])).collect();
        check(state(protocol, &children), 0, |_| {});
        check(state(protocol, &[nla(next, &[])]), 1, |_| {});
    }
    check(state(4, &[nla(1, &[1])]), 1, |_| {});
}

#[test]
fn addresses() {
    let (src, dst) = ([0x20; 16], [0x30; 16]);
    let v6 = nest(CTA_TUPLE_IP, &[nla(CTA_IP_V6_DST, &dst), nla(CTA_IP_V6_SRC, &src)]);
    check_tuple(&[v6, udp()], 0, |tuple| (tuple.src, tuple.dst) = (src.into(), dst.into()));
    let with_unknown = nest(CTA_TUPLE_IP, &[nla(CTA_IP_V4_DST, &DST), nla(5, &[]), nla(CTA_IP_V4_SRC, &SRC)]);
    check_tuple(&[udp(), with_unknown], 1, |_| {});
    check_tuple(&[v4(), nla(CTA_TUPLE_ZONE, &[0, 9]), udp(), nla(4, &[])], 1, |tuple| tuple.zone = Some(9));
}

#[test]
fn protocol_keys() {
    let protocol = |children: &[Vec<u8>]| [v4(), nest(CTA_TUPLE_PROTO, children)];
    let number = |number| nla(CTA_PROTO_NUM, &[number]);
    let ports = [nla(CTA_PROTO_SRC_PORT, &[0x12, 0x34]), nla(CTA_PROTO_DST_PORT, &[0xab, 0xcd])];
    let [src_port, dst_port] = ports.clone();
    for with_ports in [6, 17, 33, 47, 132, 136, 250] {
        check_tuple(&protocol(&[number(with_ports), ports.concat()]), 0, |tuple| {
            tuple.proto = Protocol(with_ports);
            tuple.l4 = L4::Ports { src: 0x1234, dst: 0xabcd };
        });
    }
    for (proto, id, icmp_type, code) in [
        (1, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE),
        (58, CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE),
    ] {
        let keys = [nla(id, &[0x12, 0x34]), nla(icmp_type, &[8]), nla(code, &[3])];
        check_tuple(&protocol(&[number(proto), keys.concat()]), 0, |tuple| {
            tuple.proto = Protocol(proto);
            tuple.l4 = L4::Icmp { icmp_type: 8, code: 3, id: 0x1234 };
        });
        // Each of the three may be missing; none is made up.
        for missing in 0..3 {
            let mut keys = keys.to_vec();
            keys.remove(missing);
            check_tuple(&protocol(&[number(proto), keys.concat()]), 0, |tuple| {
                tuple.proto = Protocol(proto);
                tuple.l4 = L4::None;
            });
        }
    }
    for one_port in [src_port, dst_port] {
        check_tuple(&protocol(&[number(17), one_port]), 0, |tuple| tuple.l4 = L4::None);
    }
    check_tuple(&protocol(&[nla(10, &[1]), number(50), nla(11, &[])]), 2, |tuple| {
        tuple.proto = Protocol::ESP;
        tuple.l4 = L4::None;
    });
}

#[test]
fn unknown_is_counted_and_known_is_skipped() {
    for kind in [0, 28, 100, NLA_TYPE_MASK] {
        check(nla(kind, &[1, 2, 3]), 1, |_| {});
        check(nest(kind, &[nla(1, &[]), nla(2, &[])]), 1, |_| {});
    }
    // Every other attribute of `enum ctattr_type`, whatever is in it.
    for kind in [5, 6, 11, 13, 14, 15, 16, 17, 19, 21, 23, 24, 25, 26] {
        check(nla(kind, &[1, 2, 3]), 0, |_| {});
    }
}

#[test]
fn sizes() {
    for (kind, name, size) in [
        (CTA_STATUS, "CTA_STATUS", 4),
        (CTA_TIMEOUT, "CTA_TIMEOUT", 4),
        (CTA_MARK, "CTA_MARK", 4),
        (CTA_ID, "CTA_ID", 4),
        (CTA_ZONE, "CTA_ZONE", 2),
        (CTA_LABELS, "CTA_LABELS", 16),
        (CTA_TIMESTAMP_EVENT, "CTA_TIMESTAMP_EVENT", 8),
    ] {
        check_size(name, size, |payload| nla(kind, payload));
    }
    for (parent, kind, name, size) in [
        (CTA_COUNTERS_ORIG, CTA_COUNTERS_PACKETS, "CTA_COUNTERS_PACKETS", 8),
        (CTA_COUNTERS_REPLY, CTA_COUNTERS_BYTES, "CTA_COUNTERS_BYTES", 8),
        (CTA_COUNTERS_ORIG, CTA_COUNTERS32_PACKETS, "CTA_COUNTERS32_PACKETS", 4),
        (CTA_COUNTERS_REPLY, CTA_COUNTERS32_BYTES, "CTA_COUNTERS32_BYTES", 4),
        (CTA_TIMESTAMP, CTA_TIMESTAMP_START, "CTA_TIMESTAMP_START", 8),
        (CTA_TIMESTAMP, CTA_TIMESTAMP_STOP, "CTA_TIMESTAMP_STOP", 8),
    ] {
        check_size(name, size, |payload| nest(parent, &[nla(kind, payload)]));
    }
    for (protocol, name) in [
        (CTA_PROTOINFO_TCP, "CTA_PROTOINFO_TCP_STATE"),
        (CTA_PROTOINFO_DCCP, "CTA_PROTOINFO_DCCP_STATE"),
        (CTA_PROTOINFO_SCTP, "CTA_PROTOINFO_SCTP_STATE"),
    ] {
        check_size(name, 1, |payload| nest(CTA_PROTOINFO, &[nest(protocol, &[nla(1, payload)])]));
    }
    for (kind, name, size) in [
        (CTA_IP_V4_SRC, "CTA_IP_V4_SRC", 4),
        (CTA_IP_V4_DST, "CTA_IP_V4_DST", 4),
        (CTA_IP_V6_SRC, "CTA_IP_V6_SRC", 16),
        (CTA_IP_V6_DST, "CTA_IP_V6_DST", 16),
    ] {
        let v4 = [nla(CTA_IP_V4_SRC, &SRC), nla(CTA_IP_V4_DST, &DST)].concat();
        check_size(name, size, |payload| {
            let ip = nest(CTA_TUPLE_IP, &[v4.clone(), nla(kind, payload)]);
            nest(CTA_TUPLE_ORIG, &[ip, udp()])
        });
    }
    for (kind, name, size) in [
        (CTA_PROTO_NUM, "CTA_PROTO_NUM", 1),
        (CTA_PROTO_SRC_PORT, "CTA_PROTO_SRC_PORT", 2),
        (CTA_PROTO_DST_PORT, "CTA_PROTO_DST_PORT", 2),
        (CTA_PROTO_ICMP_ID, "CTA_PROTO_ICMP_ID", 2),
        (CTA_PROTO_ICMP_TYPE, "CTA_PROTO_ICMP_TYPE", 1),
        (CTA_PROTO_ICMP_CODE, "CTA_PROTO_ICMP_CODE", 1),
        (CTA_PROTO_ICMPV6_ID, "CTA_PROTO_ICMPV6_ID", 2),
        (CTA_PROTO_ICMPV6_TYPE, "CTA_PROTO_ICMPV6_TYPE", 1),
        (CTA_PROTO_ICMPV6_CODE, "CTA_PROTO_ICMPV6_CODE", 1),
    ] {
        check_size(name, size, |payload| {
            let proto = nest(CTA_TUPLE_PROTO, &[nla(CTA_PROTO_NUM, &[1]), nla(kind, payload)]);
            nest(CTA_TUPLE_REPLY, &[v4(), proto])
        });
    }
    check_size("CTA_TUPLE_ZONE", 2, |payload| {
        nest(CTA_TUPLE_ORIG, &[v4(), udp(), nla(CTA_TUPLE_ZONE, payload)])
    });
}

#[test]
fn a_flow_needs_its_tuples() {
    let orig = || nest(CTA_TUPLE_ORIG, &[v4(), udp()]);
    let reply = || nest(CTA_TUPLE_REPLY, &[v4(), udp()]);
    for (attributes, missing) in [
        (vec![], "CTA_TUPLE_ORIG is missing in the conntrack message"),
        (vec![reply()], "CTA_TUPLE_ORIG is missing in the conntrack message"),
        (vec![orig()], "CTA_TUPLE_REPLY is missing in the conntrack message"),
    ] {
        assert_eq!(decode(&attributes).unwrap_err().to_string(), missing);
    }
    check_error(nest(CTA_TUPLE_REPLY, &[udp()]), "CTA_TUPLE_IP is missing in a tuple");
    check_error(nest(CTA_TUPLE_REPLY, &[v4()]), "CTA_TUPLE_PROTO is missing in a tuple");
    check_error(
        nest(CTA_TUPLE_ORIG, &[v4(), nest(CTA_TUPLE_PROTO, &[])]),
        "CTA_PROTO_NUM is missing in CTA_TUPLE_PROTO",
    );
    let both_families = [nla(CTA_IP_V4_SRC, &SRC), nla(CTA_IP_V6_DST, &[0; 16])];
    check_error(
        nest(CTA_TUPLE_ORIG, &[nest(CTA_TUPLE_IP, &both_families), udp()]),
        "source or destination (CTA_IP_V4_SRC and _DST, or CTA_IP_V6_SRC and _DST) is missing in CTA_TUPLE_IP",
    );
    check_error(
        nla(CTA_TIMESTAMP, &[1, 2]),
        "attributes of CTA_TIMESTAMP: found 2 bytes at the end, expected a header of 4",
    );
    check_error(
        nla(CTA_PROTOINFO, &nla(CTA_PROTOINFO_TCP, &[99, 0, 1, 0])),
        "attributes of CTA_PROTOINFO_TCP: found a length of 99 in a header, expected 4 to 4",
    );
    assert_eq!(flow(&[2, 0, 0]).unwrap_err().to_string(), "struct nfgenmsg: found 3 bytes, expected 4");
}

fn header(len: u32, message_type: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let start = [&len.to_ne_bytes()[..], &message_type.to_ne_bytes(), &flags.to_ne_bytes()].concat();
    [&start[..], &7_u32.to_ne_bytes(), &9_u32.to_ne_bytes(), payload].concat()
}

#[test]
fn messages_of_a_datagram() {
    let message =
        |message_type, payload| Message { message_type, flags: 0x0201, sequence: 7, port_id: 9, payload };
    // Three in one datagram; the second is padded, the last is not.
    let datagram =
        [header(16, 2, 0x0201, &[]), header(17, 3, 0x0201, &[1, 0, 0, 0]), header(18, 4, 0x0201, &[1, 2])]
            .concat();
    let found: Vec<_> = messages(&datagram).map(Result::unwrap).collect();
    assert_eq!(found, [message(2, &[]), message(3, &[1]), message(4, &[1, 2])]);

    assert_eq!(messages(&[]).next(), None);
    for (claimed, cut) in [(15, 18), (0, 18), (19, 18), (u32::MAX, 18), (18, 17)] {
        let bytes = header(claimed, 1, 0, &[1, 2]);
        let error = DecodeError::MessageLength { claimed, left: cut };
        assert_eq!(messages(&bytes[..cut]).collect::<Vec<_>>(), [Err(error)]);
    }
    let bytes = header(16, 1, 0, &[1, 2, 3]);
    let error = DecodeError::MessageHeader { found: 3 };
    assert_eq!(messages(&bytes).skip(1).collect::<Vec<_>>(), [Err(error)]);
}

#[test]
fn events() {
    for (message_type, flags, expected) in [
        (0x0100, NLM_F_CREATE | NLM_F_EXCL, EventKind::New),
        (0x0100, 0, EventKind::Update),
        (0x0100, NLM_F_CREATE, EventKind::Update),
        (0x0102, 0, EventKind::Destroy),
        (0x0101, 0, EventKind::Other),
        (0x0200, NLM_F_CREATE | NLM_F_EXCL, EventKind::Other),
        (0x0202, 0, EventKind::Other),
        (NLMSG_ERROR, 0, EventKind::Other),
        (NLMSG_DONE, 0, EventKind::Other),
    ] {
        let message = Message { message_type, flags, sequence: 0, port_id: 0, payload: &[] };
        assert_eq!(message.event(), expected, "{message_type:#x} {flags:#x}");
    }
}
