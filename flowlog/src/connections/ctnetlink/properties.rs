//! Properties of decoding and encoding together: no bytes make it panic, and what was encoded is what
//! is decoded.

use std::net::IpAddr;

use proptest::option;
use proptest::prelude::*;

use super::decode::{self, Decoded, EventKind, messages};
use super::encode;
use crate::flow::{DccpState, Flow, L4, ProtoState, Protocol, SctpState, Status, TcpState, Tuple};

fn address_pair() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(src, dst)| (src.into(), dst.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(src, dst)| (src.into(), dst.into())),
    ]
}

fn protocol() -> impl Strategy<Value = (Protocol, L4)> {
    let ports =
        any::<(u8, u16, u16)>().prop_map(|(proto, src, dst)| (Protocol(proto), L4::Ports { src, dst }));
    let icmp = any::<(bool, u8, u8, u16)>().prop_map(|(v6, icmp_type, code, id)| {
        (if v6 { Protocol::ICMPV6 } else { Protocol::ICMP }, L4::Icmp { icmp_type, code, id })
    });
    prop_oneof![ports, icmp, any::<u8>().prop_map(|proto| (Protocol(proto), L4::None))]
}

pub(crate) fn tuple() -> impl Strategy<Value = Tuple> {
    (address_pair(), protocol(), option::of(any::<u16>())).prop_map(|((src, dst), (proto, l4), zone)| Tuple {
        src,
        dst,
        proto,
        l4,
        zone,
    })
}

fn state() -> impl Strategy<Value = ProtoState> {
    (0..3, any::<u8>()).prop_map(|(protocol, number)| match protocol {
        0 => ProtoState::Tcp(TcpState(number)),
        1 => ProtoState::Sctp(SctpState(number)),
        _ => ProtoState::Dccp(DccpState(number)),
    })
}

/// All that [`encode::create`] encodes.
pub(crate) fn flow() -> impl Strategy<Value = Flow> {
    let numbers = any::<(Option<u32>, Option<u32>, Option<u32>, Option<u16>, Option<[u8; 16]>)>();
    (tuple(), tuple(), numbers, option::of(state())).prop_map(|(orig, reply, numbers, state)| {
        let (status, timeout_s, mark, zone, labels) = numbers;
        Flow { status: status.map(Status), timeout_s, mark, zone, labels, state, ..Flow::new(orig, reply) }
    })
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(flows in prop::collection::vec(flow(), 1..4), first: u32) {
        let mut buffer = Vec::new();
        for (flow, sequence) in flows.iter().zip(first..) {
            encode::create(&mut buffer, sequence, 0, flow);
        }
        prop_assert_eq!(buffer.len() % 4, 0);
        let found: Vec<_> = messages(&buffer).map(Result::unwrap).collect();
        prop_assert_eq!(found.len(), flows.len());
        for ((message, flow), sequence) in found.into_iter().zip(flows).zip(first..) {
            prop_assert_eq!(message.event(), EventKind::New);
            prop_assert_eq!(message.sequence, sequence);
            prop_assert_eq!(decode::flow(message.payload), Ok(Decoded { flow, unknown_attributes: 0 }));
        }
    }

    #[test]
    fn random_bytes_do_not_panic(bytes: Vec<u8>) {
        let _ = decode::flow(&bytes);
        for message in messages(&bytes).flatten() {
            let _ = decode::flow(message.payload);
        }
    }

    #[test]
    fn a_damaged_message_does_not_panic(
        flow in flow(),
        damage in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..8),
        cut: prop::sample::Index,
    ) {
        let mut buffer = Vec::new();
        encode::create(&mut buffer, 1, 0, &flow);
        for (at, byte) in damage {
            let at = at.index(buffer.len());
            buffer[at] = byte;
        }
        buffer.truncate(cut.index(buffer.len() + 1));
        for message in messages(&buffer).flatten() {
            let _ = decode::flow(message.payload);
        }
        // Damage of the first header must not hide the rest.
        let _ = decode::flow(buffer.get(16..).unwrap_or_default());
    }
}
