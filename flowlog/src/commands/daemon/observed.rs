//! From messages to records: what is known of the flows of one network namespace. Without sockets and clocks, which the
//! caller has.

use std::sync::Arc;

use anyhow::{Result, bail};
use flowlog_reader::gaps::{Cause, Gap, Stage};
use serde_json::Value;
use tracing::{debug, error};

use super::said::Doubling;
use crate::attribution::join::{Joined, Observer, Tables, attribute};
use crate::connections::ctnetlink::decode;
use crate::connections::dumps::{Destroyed, Dumps, Record};
use crate::connections::duplicates::Seen;
use crate::connections::filter::FlowFilter;
use crate::flow::Flow;
use crate::record::{FlowRecord, Sighting, Sink};
use crate::time::to_us;

/// How long a filter may be. Each file and each segment of the write-ahead log says it, and a line of the ledger,
/// which must not be longer than 256 KiB.
const MAX_FILTER_BYTES: usize = 128 << 10;

/// What files, ledger and write-ahead log say of the filter.
pub(super) fn recorded(filter: &FlowFilter) -> Result<Option<Value>> {
    if filter.is_empty() {
        return Ok(None);
    }
    let json = serde_json::to_value(filter)?;
    let bytes = json.to_string().len();
    if bytes > MAX_FILTER_BYTES {
        bail!(
            "the filter takes {bytes} bytes as JSON, expected at most {MAX_FILTER_BYTES}, because each file repeats it; \
             make its lists shorter"
        );
    }
    Ok(Some(json))
}

/// The flows of one network namespace.
pub(super) struct Observed {
    /// Which of them are recorded. The listener sends no others where the kernel can tell.
    pub(super) filter: FlowFilter,
    /// Those that have ended.
    pub(super) seen: Seen,
    /// Those that go on.
    pub(super) dumps: Dumps,
    /// What the namespace is called in rows.
    pub(super) netns_name: Option<Arc<str>>,
    /// Those of one read.
    flows: Vec<Flow>,
    undecodable: u64,
    said_undecodable: Doubling,
}

/// What is known when messages are taken.
pub(super) struct Known<'a> {
    /// When they were received; `CLOCK_REALTIME` in nanoseconds.
    pub(super) received_ns: u64,
    /// What ended before is none of this run's.
    pub(super) since_ns: u64,
    pub(super) observer: Observer<'a>,
    /// How many flows are remembered to recognise duplicates.
    pub(super) seen_max: usize,
    /// Why flows are counted and dropped; `None` where there is room for them.
    pub(super) shedding: Option<Cause>,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) flows: u64,
    pub(super) undecodable: u64,
    pub(super) unknown_attributes: u64,
    /// Flows that were ended before: the kernel repeats events.
    pub(super) duplicates: u64,
    /// Flows that were read and dropped, because the host comes first, and those that could not be read.
    pub(super) lost: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { flows, undecodable, unknown_attributes, duplicates, lost } = other;
        self.flows += flows;
        self.undecodable += undecodable;
        self.unknown_attributes += unknown_attributes;
        self.duplicates += duplicates;
        self.lost += lost;
    }
}

impl Observed {
    pub(super) fn new(filter: FlowFilter, seen: Seen, dumps: Dumps) -> Self {
        let said_undecodable = Doubling::default();
        Self { filter, seen, dumps, netns_name: None, flows: Vec::new(), undecodable: 0, said_undecodable }
    }

    /// Makes records of the flows that ended, and hands them to the sink.
    pub(super) fn take<'d>(
        &mut self,
        datagrams: impl Iterator<Item = &'d [u8]>,
        known: &Known<'_>,
        tables: &mut Tables,
        sink: &mut impl Sink,
    ) -> Tally {
        let mut tally = self.decode(datagrams, known.received_ns, sink);
        let found = self.flows.len();
        let Self { flows, seen, .. } = self;
        // All at once: each waits for memory, and so they wait together.
        flows.retain(|flow| {
            let is_older = flow.stop_ns.is_some_and(|stop_ns| stop_ns < known.since_ns);
            !is_older && seen.note(flow, known.received_ns, known.seen_max)
        });
        tally.duplicates += (found - flows.len()) as u64;
        tables.look_ahead_flows(flows);
        for flow in flows.drain(..) {
            let Destroyed::First { counters_final } = self.dumps.destroyed(&flow) else {
                tally.duplicates += 1;
                continue;
            };
            if let Some(cause) = known.shedding {
                tally.lost += 1;
                sink.lose(shed(&flow, known.received_ns, cause));
                continue;
            }
            let Known { received_ns, observer, .. } = *known;
            let Joined { record, spent } =
                attribute(&flow, Sighting::Destroyed, received_ns, observer, tables);
            let observer_netns_name = self.netns_name.as_ref();
            sink.record(&FlowRecord { counters_final, observer_netns_name, ..record });
            // What dumps told of it may still have to be joined.
            if !self.dumps.has_records() {
                tables.forget(spent);
            }
        }
        tally
    }

    /// Makes the next record of what dumps told. Says whether there was something.
    pub(super) fn take_dumped(
        &mut self,
        observer: Observer<'_>,
        tables: &Tables,
        sink: &mut impl Sink,
    ) -> bool {
        let Some(Record { flow, sighting, at_ns }) = self.dumps.take_record() else { return false };
        // Not before: what the filter asks for may change while dumps follow the entry.
        if self.filter.records(&flow) {
            if sighting == Sighting::Vanished {
                // A later process does not know what dumps told of it, should a message come after all.
                self.seen.note(&flow, at_ns, usize::MAX);
            }
            let record = attribute(&flow, sighting, at_ns, observer, tables).record;
            sink.record(&FlowRecord { observer_netns_name: self.netns_name.as_ref(), ..record });
        }
        true
    }

    /// Decodes the flows that ended and are recorded.
    fn decode<'d>(
        &mut self,
        datagrams: impl Iterator<Item = &'d [u8]>,
        received_ns: u64,
        sink: &mut impl Sink,
    ) -> Tally {
        let mut tally = Tally::default();
        let messages =
            datagrams.flat_map(|datagram| decode::messages(datagram).map(move |message| (message, datagram)));
        for (message, datagram) in messages {
            let decoded = message.and_then(|message| match message.event() {
                decode::EventKind::Destroy => decode::flow(message.payload).map(Some),
                _ => Ok(None),
            });
            match decoded {
                Ok(Some(decode::Decoded { flow, unknown_attributes })) if self.filter.records(&flow) => {
                    tally.flows += 1;
                    tally.unknown_attributes += u64::from(unknown_attributes);
                    self.flows.push(flow);
                }
                Ok(Some(_) | None) => {}
                Err(error) => {
                    self.undecodable += 1;
                    // A stream of them would fill the log with nothing new.
                    if self.said_undecodable.is_due(self.undecodable) {
                        error!("lost a flow: cannot decode the kernel's message: {error}");
                    }
                    debug!("cannot decode the kernel's message: {error}: {datagram:02x?}");
                    tally.undecodable += 1;
                    tally.lost += 1;
                    sink.lose(unreadable(1, "messages that cannot be decoded", received_ns));
                }
            }
        }
        tally
    }
}

/// A flow that is dropped because the writing side is behind.
fn shed(flow: &Flow, received_ns: u64, cause: Cause) -> Gap {
    let end_us = to_us(flow.stop_ns.or(flow.event_ns).unwrap_or(received_ns));
    Gap {
        lost_flows: Some(1),
        lost_orig_bytes: flow.orig_counters.map(|counters| counters.bytes),
        lost_reply_bytes: flow.reply_counters.map(|counters| counters.bytes),
        ..Gap::new(cause, Stage::Write, end_us, end_us)
    }
}

/// Messages that cannot become rows; each was a flow.
pub(super) fn unreadable(messages: u64, detail: &str, received_ns: u64) -> Gap {
    let at_us = to_us(received_ns);
    Gap {
        lost_flows: Some(messages),
        detail: Some(detail.to_owned()),
        ..Gap::new(Cause::DecodeError, Stage::Receive, at_us, at_us)
    }
}

#[cfg(test)]
mod tests;
