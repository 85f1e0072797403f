//! The receiving side from bytes to rows: events of the programs and messages of the kernel.

use crate::attribution::addresses::Addresses;
use crate::attribution::clocks::Clocks;
use crate::attribution::cmdline::Mode;
use crate::attribution::ebpf;
use crate::attribution::join::{Observer, Tables, attribute};
use crate::connections::ctnetlink::decode;
use crate::connections::duplicates::Seen;
use crate::connections::timeouts::Timeouts;
use crate::log::schema::FlowBatch;
use crate::record::{Origin, Sighting};
use crate::testing;

/// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`.
const OFFSET_NS: u64 = 1_795_000_000_000_000_000;

/// So little that some are forgotten.
const MEMORY_BYTES: usize = 36 << 10;

/// Items with their lengths before them, as 16 bits: each is an event where its first word is the number of
/// one, else the payload of a message about a flow that ended.
pub fn events(mut bytes: &[u8]) {
    let mut tables = Tables::new(MEMORY_BYTES, Mode::Masked);
    let mut batch = FlowBatch::new(&testing::run(uuid::Uuid::nil()));
    let mut seen = Seen::new(0);
    let timeouts = Timeouts::default();
    let addresses = Addresses::always([[10, 0, 0, 1].into()]);
    let clocks = Clocks::fixed(OFFSET_NS);
    let observer = Observer {
        netns: 1,
        netns_cookie: Some(1),
        is_only: true,
        addresses: &addresses,
        timeouts: &timeouts,
        clocks: &clocks,
    };

    let mut rows = 0;
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (item, rest) = rest.split_at(length);
        bytes = rest;
        if let Some(event) = ebpf::parse(item) {
            tables.apply(&event, &clocks, |_| Origin::default());
        } else if let Ok(decoded) = decode::flow(item)
            && seen.note(&decoded.flow, OFFSET_NS, 4)
        {
            let joined = attribute(&decoded.flow, Sighting::Destroyed, OFFSET_NS, observer, &tables);
            batch.append(&joined.record);
            let spent = joined.spent;
            tables.forget(spent);
            rows += 1;
        }
        let ends = decode::flow(item).ok().and_then(|decoded| decoded.flow.stop_ns);
        tables.expire(ends.unwrap_or(OFFSET_NS).saturating_sub(OFFSET_NS));
    }
    assert_eq!(batch.finish().num_rows(), rows);
}
