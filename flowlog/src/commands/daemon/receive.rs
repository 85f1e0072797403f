//! From datagrams to rows: what the receiving side does with a flow.

use std::time::{Duration, Instant};

use flowlog_reader::gaps::{Cause, Gap, Stage, unnoticed_since_us};
use nix::time::ClockId;
use tracing::{debug, error};

use super::clock::{now_ns, now_us};
use super::counts::Counts;
use super::output::Output;
use super::watched::{Dump, Watched};
use super::{Daemon, Local};
use crate::attribution::join::attribute;
use crate::connections::ctnetlink::{Datagrams, Delivery, Received, decode};
use crate::connections::dumps::{Destroyed, Record};
use crate::connections::filter::FlowFilter;
use crate::flow::Flow;
use crate::record::{FlowRecord, Sighting};
use crate::time::to_us;

/// Reads of one listener before signals, ticks and the other listeners get their turn.
const READS_PER_TURN: usize = 16;

/// How long this side sleeps when it has read what was there. To be woken, and to look at the tables and clocks
/// once per read, costs as much as some messages do, and the sender pays, too: after a nap there are many.
/// Signals and ticks are late by as much, and the receive buffer has to hold what comes meanwhile.
const NAP: Duration = Duration::from_millis(1);

/// How long nothing has to come after an overrun until the kernel has nothing left that it held: it tries again a
/// second after there was no room, and then each tenth of a second (`nf_conntrack_ecache_work`).
const HELD: Duration = Duration::from_millis(1500);

impl Daemon {
    /// Whether flows can be taken, or have to be dropped.
    pub(super) fn can_receive(&self) -> bool {
        !self.output.is_blocked() || self.watched.iter().any(|watched| watched.is_shedding)
    }

    /// Sees where the kernel holds more entries than it should while the writing side is behind.
    /// Says whether some have to be read for that from now on.
    pub(super) fn check_hold(&mut self) -> bool {
        let Self { watched, output, table_share_percent, .. } = self;
        let mut begins = false;
        for watched in watched {
            if !output.is_blocked() {
                watched.is_shedding = false;
                continue;
            }
            let was_shedding = watched.is_shedding;
            watched.check_hold(*table_share_percent);
            if watched.is_shedding && !was_shedding {
                begins = true;
                error!(
                    "flows of the network namespace `{}` are being lost: writing is behind, and the kernel already \
                     holds as many entries as it may (`hold.table_share`)",
                    watched.name()
                );
            }
        }
        begins
    }

    /// What is due each second.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        let Self { watched, local, output, programs, .. } = self;
        for watched in &mut *watched {
            watched.declare_dropped(&mut output.gaps);
            watched.needed.declare(&mut output.gaps, false);
        }
        programs.declare(&mut output.gaps, false);
        local.declare_lost(&mut output.gaps);
        local.expire();
        let complete_until_us = |watched: &Watched| {
            let silent_us = watched.dumps.complete_until_ns().map_or(i64::MAX, to_us);
            watched.read_until_us.min(silent_us)
        };
        output.complete_until_us = watched.iter().map(complete_until_us).min().unwrap_or(i64::MIN);
        output.tick()
    }

    /// Makes rows of what dumps told, as far as there is room for them.
    pub(super) fn record_dumps(&mut self) -> anyhow::Result<()> {
        let Self { watched, local, output, counts, .. } = self;
        for watched in watched {
            watched.read_addresses();
            while !output.is_blocked()
                && let Some(Record { flow, sighting, at_ns }) = watched.dumps.take_record()
            {
                // Not before: what the filter asks for may change while dumps follow the entry.
                if !watched.filter.records(&flow) {
                    continue;
                }
                let record =
                    attribute(&flow, sighting, at_ns, watched.observer(&local.clock.clocks), &local.tables);
                counts.rows.add(&record);
                output.batch.append(&record);
                output.flush_if_full()?;
            }
        }
        Ok(())
    }

    /// Reads each listener for a while. Says whether there may be more.
    pub(super) fn receive(&mut self) -> anyhow::Result<bool> {
        let Self { watched, buffers, flows, local, output, counts, .. } = self;
        let (mut more, mut has_received, mut is_behind) = (false, false, false);
        for watched in watched {
            for read in 1.. {
                // It goes on when there is room, or too much is held.
                if output.is_blocked() && !watched.is_shedding {
                    break;
                }
                let mut has_rest = true;
                let before_us = now_us();
                let received = watched.listener.recv(buffers)?;
                // Then the events: what a socket did before its flow ended is now in the tables. A refused
                // connection has all of its life within microseconds.
                local.drain()?;
                // And the addresses: one that came before the flow may have gone before its end.
                watched.read_addresses();
                match received {
                    Received::WouldBlock => {
                        watched.has_read_all(before_us);
                        break;
                    }
                    Received::Overrun => watched.has_overrun(),
                    Received::Datagrams(datagrams) => {
                        has_received = true;
                        has_rest = datagrams.is_full();
                        watched.received = Instant::now();
                        if datagrams.truncated() > 0 {
                            let detail = "messages that are larger than the buffer";
                            lose_messages(datagrams.truncated() as u64, detail, output, counts);
                        }
                        let received_ns = now_ns(ClockId::CLOCK_REALTIME);
                        let since_ns = watched.since_ns(received_ns);
                        decode_flows(&datagrams, &watched.filter, flows, output, counts);
                        let (found, max) = (flows.len(), watched.seen_max());
                        // All at once: each waits for memory, and so they wait together.
                        flows.retain(|flow| {
                            let is_older = flow.stop_ns.is_some_and(|stop_ns| stop_ns < since_ns);
                            !is_older && watched.seen.note(flow, received_ns, max)
                        });
                        counts.duplicates += (found - flows.len()) as u64;
                        for flow in flows.drain(..) {
                            record(&flow, received_ns, watched, local, output, counts);
                        }
                    }
                }
                output.flush_if_full()?;
                // Only `WouldBlock` says that nothing is left: an overrun may wait to be told.
                if !has_rest || read == READS_PER_TURN {
                    more = true;
                    is_behind |= has_rest;
                    break;
                }
            }
        }
        if has_received && !is_behind {
            std::thread::sleep(NAP);
        }
        Ok(more)
    }

    /// Reads all that is there, and sees what has ended without a message. Says whether that could be done.
    pub(super) async fn read_rest(&mut self, can_read: bool) -> anyhow::Result<bool> {
        if !self.read_queued(can_read).await? {
            return Ok(false);
        }
        for watched in &mut self.watched {
            watched.dump(&mut self.local, Dump::Last)?;
        }
        // A message that came meanwhile wins over what the dump does not have.
        self.read_queued(can_read).await?;
        for watched in &mut self.watched {
            watched.dumps.end_last(now_ns(ClockId::CLOCK_REALTIME));
        }
        self.read_queued(can_read).await
    }

    /// Reads all that is there, and what the kernel holds. Says whether that could be done.
    async fn read_queued(&mut self, can_read: bool) -> anyhow::Result<bool> {
        loop {
            let more = can_read && self.receive()?;
            self.record_dumps()?;
            if self.output.is_blocked() {
                let room = tokio::time::timeout(super::DRAIN_INTERVAL, self.output.room()).await;
                room.unwrap_or(Ok(()))?;
                self.output.send_waiting()?;
                self.local.drain()?;
                self.check_hold();
            } else if !can_read || !self.watched.iter().any(|watched| watched.is_held) && !more {
                return Ok(can_read);
            } else if more {
                // Signals and the deadline get their turn.
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(super::DRAIN_INTERVAL).await;
            }
        }
    }

    /// Declares that there was more to be read.
    pub(super) fn declare_unread(&mut self) {
        error!("stopped before all queued events were read: an unknown number of flows is lost");
        let Output { began_us, complete_until_us, .. } = self.output;
        // Without the last dump nobody sees what had expired, and the kernel had not noticed yet.
        let from_us = unnoticed_since_us(complete_until_us, began_us);
        let gap = Gap::new(Cause::Overload, Stage::Receive, from_us, now_us().max(from_us));
        self.output.gaps.add(Gap { lost_flows: None, ..gap });
    }

    /// Hands over the last rows and losses.
    pub(super) async fn hand_over(&mut self) -> anyhow::Result<()> {
        for watched in &mut self.watched {
            watched.look(&mut self.buffers, &mut self.output.gaps);
            watched.read_losses(&mut self.output.gaps);
            watched.needed.declare(&mut self.output.gaps, true);
        }
        self.programs.look_now(&mut self.local, &mut self.output.gaps)?;
        self.programs.declare(&mut self.output.gaps, true);
        self.tick()?;
        self.output.flush_last()?;
        while self.output.is_blocked() {
            self.output.room().await?;
            self.output.send_waiting()?;
        }
        Ok(())
    }
}

/// Decodes the flows that ended and are recorded.
fn decode_flows(
    datagrams: &Datagrams<'_>,
    filter: &FlowFilter,
    flows: &mut Vec<Flow>,
    output: &mut Output,
    counts: &mut Counts,
) {
    let messages = datagrams
        .iter()
        .flat_map(|datagram| decode::messages(datagram).map(move |message| (message, datagram)));
    for (message, datagram) in messages {
        let decoded = message.and_then(|message| match message.event() {
            decode::EventKind::Destroy => decode::flow(message.payload).map(Some),
            _ => Ok(None),
        });
        match decoded {
            Ok(Some(decode::Decoded { flow, unknown_attributes })) if filter.records(&flow) => {
                counts.flows += 1;
                counts.unknown_attributes += u64::from(unknown_attributes);
                flows.push(flow);
            }
            Ok(Some(_) | None) => {}
            Err(error) => {
                // A stream of them would fill the log with nothing new.
                if counts.undecodable.is_power_of_two() || counts.undecodable == 0 {
                    error!("lost a flow: cannot decode the kernel's message: {error}");
                }
                debug!("cannot decode the kernel's message: {error}: {datagram:02x?}");
                counts.undecodable += 1;
                lose_messages(1, "messages that cannot be decoded", output, counts);
            }
        }
    }
}

/// Joins a flow that was not seen before with its processes, and appends the row.
fn record(
    flow: &Flow,
    received_ns: u64,
    watched: &mut Watched,
    local: &Local,
    output: &mut Output,
    counts: &mut Counts,
) {
    let Destroyed::First { counters_final } = watched.dumps.destroyed(flow) else {
        counts.duplicates += 1;
        return;
    };
    if watched.is_shedding {
        return lose_flow(flow, received_ns, output, counts);
    }
    let record = attribute(
        flow,
        Sighting::Destroyed,
        received_ns,
        watched.observer(&local.clock.clocks),
        &local.tables,
    );
    let record = FlowRecord { counters_final, ..record };
    counts.rows.add(&record);
    output.batch.append(&record);
}

/// Counts a flow that is dropped because the writing side is behind.
fn lose_flow(flow: &Flow, received_ns: u64, output: &mut Output, counts: &mut Counts) {
    let end_ns = flow.stop_ns.or(flow.event_ns).unwrap_or(received_ns);
    let end_us = to_us(end_ns);
    counts.lost += 1;
    output.gaps.add(Gap {
        lost_flows: Some(1),
        lost_orig_bytes: flow.orig_counters.map(|counters| counters.bytes),
        lost_reply_bytes: flow.reply_counters.map(|counters| counters.bytes),
        ..Gap::new(output.status.cause().unwrap_or(Cause::Overload), Stage::Write, end_us, end_us)
    });
}

/// Counts messages that cannot become rows; each was a flow.
fn lose_messages(messages: u64, detail: &str, output: &mut Output, counts: &mut Counts) {
    counts.lost += messages;
    let now_us = now_us();
    output.gaps.add(Gap {
        lost_flows: Some(messages),
        detail: Some(detail.to_owned()),
        ..Gap::new(Cause::DecodeError, Stage::Receive, now_us, now_us)
    });
}

impl Watched {
    /// Nothing was left to be read at this time.
    fn has_read_all(&mut self, at_us: i64) {
        if self.is_held && self.received.elapsed() > HELD {
            self.is_held = self.has_undelivered();
        }
        if !self.is_held {
            self.read_until_us = at_us;
        }
    }

    /// Whether the kernel has events that it could not deliver: on a busy machine it tries again later than it wants
    /// to. Where it does not tell, the time that has passed must do.
    fn has_undelivered(&mut self) -> bool {
        let mut found = false;
        let listed = self.requests.dying(|_| found = true);
        found && listed.is_ok()
    }

    /// The socket had no room for a message.
    fn has_overrun(&mut self) {
        self.received = Instant::now();
        match self.listener.delivery() {
            Delivery::Reliable => self.is_held = true,
            Delivery::BestEffort => self.has_dropped = true,
        }
    }
}
