//! From datagrams to rows: what the receiving side does with a flow.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use flowlog_reader::gaps::{Cause, Gap, Stage, unnoticed_since_us};
use nix::time::ClockId;
use tracing::error;

use super::clock::{now_ns, now_us};
use super::in_flight::InFlight;
use super::observed::{Known, unreadable};
use super::output::Output;
use super::pace::nap;
use super::takeover::ReceiveMemory;
use super::waiting::Ready;
use super::watched::{Dump, Watched};
use super::{Daemon, Local};
use crate::connections::ctnetlink::{Datagrams, Delivery, Received};
use crate::record::Sink as _;
use crate::time::to_us;

/// Reads of one listener before signals, ticks and the other listeners get their turn.
const READS_PER_TURN: usize = 16;

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
                     holds as many entries as it may (`hold.table_share`); check whether the disk is full or slow",
                    watched.name()
                );
            }
        }
        begins
    }

    /// What is due each second.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        let Self { watched, local, output, programs, memory, .. } = self;
        for watched in &mut *watched {
            watched.declare_dropped(&mut output.gaps);
            watched.needed.declare(&mut output.gaps, false);
        }
        super::takeover::look_for_unseen(watched, output);
        // Before what was lost is noted as told: if the process is killed in between, it is declared once more.
        memory.in_flight.set_undeclared(output.has_undeclared());
        memory.note_silent(watched, output);
        for watched in &mut *watched {
            let subscription = watched.subscription();
            if watched.kept != subscription {
                watched.kept = subscription;
                memory.in_flight.keep(subscription);
            }
        }
        programs.declare(&mut output.gaps, false);
        local.declare_lost(&mut output.gaps);
        local.expire();
        let complete_until_us = |watched: &Watched| {
            let silent_us = watched.observed.dumps.complete_until_ns().map_or(i64::MAX, to_us);
            watched.read_until_us.min(silent_us)
        };
        // Where there is nothing to watch, nothing is missed.
        output.complete_until_us = watched.iter().map(complete_until_us).min().unwrap_or_else(now_us);
        output.tick()
    }

    /// Makes rows of what dumps told, as far as there is room for them.
    pub(super) fn record_dumps(&mut self) -> anyhow::Result<()> {
        self.read_addresses();
        let Self { watched, local, output, memory, .. } = self;
        for watched in watched {
            while !output.is_blocked() && watched.take_dumped(local, output) {
                // In the round of the row: an event of it may still come.
                let (netns, max) = (watched.namespace.inode(), watched.seen_max());
                memory.in_flight.begin(output.round());
                memory.in_flight.note(netns, watched.observed.seen.take_new(), max);
                output.flush_if_full()?;
            }
        }
        Ok(())
    }

    /// Takes in what changed of addresses.
    fn read_addresses(&mut self) {
        let at_ns = now_ns(ClockId::CLOCK_MONOTONIC);
        let ready = self.sockets.ready(self.watched.len());
        for watched in &mut self.watched {
            if ready.as_ref().is_none_or(|ready| ready.addresses.contains(&watched.namespace.inode())) {
                watched.read_addresses();
            } else {
                watched.has_no_new_addresses(at_ns);
            }
        }
    }

    /// Reads each listener for a while; where there are many, those that have something.
    pub(super) fn receive(&mut self) -> anyhow::Result<Turn> {
        let (before_us, before_ns) = (now_us(), now_ns(ClockId::CLOCK_MONOTONIC));
        let ready = self.sockets.ready(self.watched.len());
        let Self { watched, memory, local, output, .. } = self;
        let mut turn = Turn::default();
        for watched in watched {
            let netns = watched.namespace.inode();
            let (is_ready, has_changes) = match &ready {
                Some(Ready { events, addresses }) => (events.contains(&netns), addresses.contains(&netns)),
                None => (true, false),
            };
            if has_changes {
                watched.read_addresses();
            }
            if is_ready {
                turn = turn.and(watched.read(memory, local, output)?);
            } else {
                if !has_changes {
                    watched.has_no_new_addresses(before_ns);
                }
                watched.has_read_all(before_us);
            }
        }
        Ok(turn)
    }

    /// Reads each listener for a while, and sleeps until it is worth to read again. Says whether there may be more.
    pub(super) fn receive_and_nap(&mut self) -> anyhow::Result<bool> {
        let turn = self.receive()?;
        if turn.has_received && turn.rest < Rest::Much {
            let Self { watched, local, sockets, pace, .. } = self;
            let messages =
                watched.iter_mut().map(|watched| (watched.room, std::mem::take(&mut watched.came)));
            let length = pace.next_nap(Instant::now(), messages.chain(local.take_read()));
            nap(length, sockets.changes.0.as_fd());
        }
        Ok(turn.rest > Rest::Nothing)
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
            watched.observed.dumps.end_last(now_ns(ClockId::CLOCK_REALTIME));
        }
        self.read_queued(can_read).await
    }

    /// Reads all that is there, and what the kernel holds. Says whether that could be done.
    async fn read_queued(&mut self, can_read: bool) -> anyhow::Result<bool> {
        loop {
            let more = can_read && self.receive_and_nap()?;
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

/// How reading a listener for a while ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    has_received: bool,
    pub(super) rest: Rest,
}

/// How much is left to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rest {
    /// Nothing, or nothing can be taken.
    #[default]
    Nothing,
    /// Little, or an overrun that waits to be told.
    Perhaps,
    /// More than one turn reads.
    Much,
}

impl Turn {
    /// Both turns.
    fn and(self, other: Self) -> Self {
        Self { has_received: self.has_received || other.has_received, rest: self.rest.max(other.rest) }
    }
}

impl Watched {
    /// Reads the listener for a while.
    fn read(
        &mut self,
        memory: &mut ReceiveMemory,
        local: &mut Local,
        output: &mut Output,
    ) -> anyhow::Result<Turn> {
        let mut turn = Turn::default();
        let netns = self.namespace.inode();
        // What is in its table is recorded as ended.
        if self.leaving.is_some_and(|leaving| leaving.open_flows.is_some()) {
            return Ok(turn);
        }
        for read in 1.. {
            // It goes on when there is room, or too much is held.
            if output.is_blocked() && !self.is_shedding {
                break;
            }
            let before_us = now_us();
            let Some(received) = memory.receive(&mut self.listener, netns, output)? else {
                // The writing side has to come first: after a nap.
                (turn.has_received, turn.rest) = (true, Rest::Perhaps);
                break;
            };
            // Then the events: what a socket did before its flow ended is now in the tables. A refused
            // connection has all of its life within microseconds.
            local.drain()?;
            // And the addresses: one that came before the flow may have gone before its end.
            self.read_addresses();
            let has_rest = match received {
                Received::WouldBlock => {
                    self.has_read_all(before_us);
                    break;
                }
                Received::Overrun => {
                    self.has_overrun();
                    true
                }
                Received::Datagrams(datagrams) => {
                    turn.has_received = true;
                    let (received, is_full) = (datagrams.received(), datagrams.is_full());
                    self.came = self.came.saturating_add(received);
                    self.received = Instant::now();
                    self.take(&datagrams, local, output);
                    self.has_taken(received, &mut memory.in_flight, output);
                    is_full
                }
            };
            output.flush_if_full()?;
            // Only `WouldBlock` says that nothing is left.
            if !has_rest || read == READS_PER_TURN {
                turn.rest = if has_rest { Rest::Much } else { Rest::Perhaps };
                break;
            }
        }
        Ok(turn)
    }

    /// So many datagrams were taken.
    fn has_taken(&mut self, received: u32, in_flight: &mut InFlight, output: &Output) {
        let (netns, max) = (self.namespace.inode(), self.seen_max());
        let received = usize::try_from(received).unwrap_or(usize::MAX);
        in_flight.note(netns, self.observed.seen.take_new(), max);
        if output.gaps.loses_flows() {
            in_flight.set_undeclared(true);
        }
        if self.is_shedding {
            in_flight.dropped(netns, received);
        } else {
            in_flight.received(netns, received);
        }
    }

    /// Makes rows of datagrams that an earlier process has received, whenever it subscribed.
    pub(super) fn take_left(&mut self, datagrams: &Datagrams<'_>, local: &mut Local, output: &mut Output) {
        self.take_since(0, datagrams, local, output);
    }

    /// Makes rows of datagrams.
    fn take(&mut self, datagrams: &Datagrams<'_>, local: &mut Local, output: &mut Output) {
        self.take_since(self.since_ns(now_ns(ClockId::CLOCK_REALTIME)), datagrams, local, output);
    }

    /// Makes rows of datagrams, but for flows that ended before `since_ns`.
    fn take_since(
        &mut self,
        since_ns: u64,
        datagrams: &Datagrams<'_>,
        local: &mut Local,
        output: &mut Output,
    ) {
        let received_ns = now_ns(ClockId::CLOCK_REALTIME);
        let truncated = datagrams.truncated() as u64;
        if truncated > 0 {
            output.counts.tally.lost += truncated;
            output.lose(unreadable(truncated, "messages that are larger than the buffer", received_ns));
        }
        let seen_max = self.seen_max();
        let shedding = self.is_shedding.then(|| output.status.cause().unwrap_or(Cause::Overload));
        let observer = self.place.observer(&local.clock.clocks);
        let known = Known { received_ns, since_ns, observer, seen_max, shedding };
        let tally = self.observed.take(datagrams.iter(), &known, &mut local.tables, output);
        output.counts.tally += tally;
    }

    /// Makes a row of what dumps told. Says whether there was something.
    fn take_dumped(&mut self, local: &Local, output: &mut Output) -> bool {
        let observer = self.place.observer(&local.clock.clocks);
        self.observed.take_dumped(observer, &local.tables, output)
    }

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
    pub(super) fn has_undelivered(&mut self) -> bool {
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
