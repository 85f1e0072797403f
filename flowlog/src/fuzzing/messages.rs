//! Messages of the kernel: what is decoded is encoded again, both decoders say the same, and so do both filters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::connections::ctnetlink::decode::{self, Decoded, Message};
use crate::connections::ctnetlink::socket_filter::{compile, interpreter::takes};
use crate::connections::ctnetlink::{encode, uapi};
use crate::connections::filter::{FlowFilter, Mark};
use crate::flow::{Flow, Protocol};
use crate::host::nft_rules::Rules;

/// A datagram, and the same bytes as the payload of one message: of a flow, and of a rule that comes, goes and ends
/// its transaction.
pub fn decode(bytes: &[u8]) {
    let mut rules = Rules::default();
    for message in decode::messages(bytes).map_while(Result::ok) {
        let _ = (message.event(), message.expectation_event());
        let _ = rules.apply(&message);
        payload(message.payload);
    }
    payload(bytes);
    rules.clear();
    rules.listed(None);
    for kind in [uapi::NFT_MSG_NEWRULE, uapi::NFT_MSG_DELRULE, uapi::NFT_MSG_NEWGEN] {
        let message_type = u16::from_be_bytes([uapi::NFNL_SUBSYS_NFTABLES, kind]);
        let message = Message { message_type, flags: 0, sequence: 0, port_id: 0, payload: bytes };
        let _ = rules.apply(&message);
    }
    assert!(![false, true].map(|is_ipv6| rules.track(is_ipv6)).contains(&true), "what went is gone");
}

/// The log's decoder against the one that takes everything.
fn payload(bytes: &[u8]) {
    let fast = decode::flow(bytes);
    let Ok(entry) = decode::entry(bytes) else { return };
    match (fast, Flow::try_from(&entry)) {
        // A message has one protocol; of several, the fast way takes the last and the other the first.
        (Ok(Decoded { flow, .. }), Ok(whole)) => {
            assert_eq!(Flow { state: None, ..flow }, Flow { state: None, ..whole });
        }
        // An attribute that comes twice counts once there, and is looked at each time here.
        (Err(_), _) => {}
        (Ok(fast), Err(error)) => panic!("{error}, which the log's decoder does not say: {fast:?}"),
    }
}

/// The payload of a message: what it says comes out again, in a message of its own.
pub fn encode(bytes: &[u8]) {
    if let Ok(entry) = decode::entry(bytes) {
        let mut buffer = Vec::new();
        encode::entry(&mut buffer, uapi::IPCTNL_MSG_CT_NEW, 1, 0, &entry);
        assert_eq!(decode::entry(only_payload(&buffer)), Ok(entry));
    }
    if let Ok(expectation) = decode::expectation(bytes) {
        let mut buffer = Vec::new();
        encode::expectation(&mut buffer, uapi::IPCTNL_MSG_EXP_NEW, 1, 0, &expectation);
        assert_eq!(decode::expectation(only_payload(&buffer)), Ok(expectation));
    }
}

/// The number of conditions of a filter, 8 bytes for each, and the payload of a message: the kernel's program takes
/// the message where the flow is recorded, and ends whatever else it gets.
pub fn filter(bytes: &[u8]) {
    let Some((conditions, rest)) = bytes.split_first() else { return };
    let (conditions, payload) = rest.split_at(rest.len().min(usize::from(*conditions) * 8));
    let Ok(Decoded { flow, .. }) = decode::flow(payload) else { return };
    let mut filter = FlowFilter::default();
    for condition in conditions.as_chunks().0 {
        add_condition(&mut filter, &flow, *condition);
    }
    let program = compile(&filter);
    let mut buffer = Vec::new();
    encode::create(&mut buffer, 1, 0, &flow);
    let flow = decode::flow(only_payload(&buffer)).unwrap().flow;
    assert_eq!(takes(&program, &buffer), Some(filter.records(&flow)), "{filter:?}");
    let _ = takes(&program, bytes);
}

/// What a condition is about, which list it is for, and how far from the flow it is: nought is what the flow has.
fn add_condition(filter: &mut FlowFilter, flow: &Flow, [about, place, length, _, distance @ ..]: [u8; 8]) {
    let conditions = if place & 1 == 0 { &mut filter.only } else { &mut filter.except };
    let distance = u32::from_be_bytes(distance);
    let [.., high, low] = distance.to_be_bytes();
    match about % 4 {
        0 => conditions.protocol.push(Protocol(flow.orig.proto.0 ^ low)),
        1 => conditions.zone.push(flow.zone.unwrap_or(0) ^ u16::from_be_bytes([high, low])),
        2 => {
            let mask = u32::MAX << (length % 32);
            conditions.mark.push(Mark { value: (flow.mark.unwrap_or(0) ^ distance) & mask, mask });
        }
        _ => {
            let addresses = [flow.orig.src, flow.orig.dst, flow.reply.src, flow.reply.dst];
            let network = match addresses[usize::from(place >> 1) % 4] {
                IpAddr::V4(address) => {
                    IpNet::new(Ipv4Addr::from_bits(address.to_bits() ^ distance).into(), length % 33)
                }
                IpAddr::V6(address) => {
                    let distance = u128::from(distance).rotate_right(length.into());
                    IpNet::new(Ipv6Addr::from_bits(address.to_bits() ^ distance).into(), length % 129)
                }
            };
            conditions.address.push(network.unwrap());
        }
    }
}

fn only_payload(buffer: &[u8]) -> &[u8] {
    let messages: Vec<_> = decode::messages(buffer).map(Result::unwrap).collect();
    let [message] = messages[..] else { panic!("{} messages", messages.len()) };
    message.payload
}
