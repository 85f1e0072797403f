//! Messages of the kernel: what is decoded is encoded again, and both decoders say the same.

use crate::ctnetlink::decode::{self, Decoded};
use crate::ctnetlink::{encode, uapi};
use crate::flow::Flow;

/// A datagram, and the same bytes as the payload of one message.
pub fn decode(bytes: &[u8]) {
    for message in decode::messages(bytes).map_while(Result::ok) {
        let _ = (message.event(), message.expectation_event());
        payload(message.payload);
    }
    payload(bytes);
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

fn only_payload(buffer: &[u8]) -> &[u8] {
    let messages: Vec<_> = decode::messages(buffer).map(Result::unwrap).collect();
    let [message] = messages[..] else { panic!("{} messages", messages.len()) };
    message.payload
}
