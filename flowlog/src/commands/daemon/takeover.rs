//! What an earlier process left, if a service manager kept it: sockets in which events wait, and memory with what was received
//! and is not in the write-ahead log.

use anyhow::{Context as _, Result};
use flowlog_reader::gaps::{Cause, Gap, Stage};
use nix::time::ClockId;
use tracing::{info, warn};

use super::Local;
use super::clock::{now_ns, now_us};
use super::in_flight::{InFlight, Left};
use super::manager::Kept;
use super::output::Output;
use super::watched::{Taken, Watched};
use crate::connections::ctnetlink::{Datagrams, Headers, Listener, Received};
use crate::connections::duplicates::identity_while_open;
use crate::host::namespace::{Namespace, Wanted};
use crate::log::store;
use crate::record::Sink as _;

/// How the service manager calls the memory.
const IN_FLIGHT: &str = "in-flight";

/// What its names for sockets begin with.
const SOCKETS: &str = "events-";

/// Where events are received.
pub(super) struct ReceiveMemory {
    pub(super) in_flight: InFlight,
    pub(super) headers: Headers,
    /// A service manager keeps it, and the sockets.
    pub(super) is_kept: bool,
}

impl ReceiveMemory {
    /// Receives events of a network namespace; `None` if the writing side has to come first.
    ///
    /// # Errors
    ///
    /// The socket is of no use, or the writing side has ended.
    pub(super) fn receive(
        &mut self,
        listener: &mut Listener,
        netns: u64,
        output: &mut Output,
    ) -> Result<Option<Received<'_>>> {
        let Self { in_flight, headers, .. } = self;
        let mut room = in_flight.room(netns, output.round(), output.settled_round());
        if room.is_none() {
            output.end_round()?;
            room = in_flight.room(netns, output.round(), output.settled_round());
        }
        Ok(room.map(|room| listener.recv_into(in_flight.slots(room), headers)).transpose()?)
    }

    /// Notes the connections that may end without an event, after each dump: if the process is killed, the next one can tell
    /// whether one of them has ended meanwhile.
    pub(super) fn note_silent(&mut self, watched: &mut [Watched], output: &Output) {
        let dumps = |watched: &Watched| watched.observed.dumps.dumps();
        let is_due = |watched: &Watched| watched.noted_dump != dumps(watched);
        // What a dump told is not in a round yet, or what an earlier process knew is still needed.
        let must_wait =
            |watched: &Watched| watched.observed.dumps.has_records() || !watched.unsure.is_empty();
        if !watched.iter().any(is_due) || watched.iter().any(must_wait) {
            return;
        }
        let silent = watched.iter().flat_map(|watched| {
            let (netns, filter) = (watched.namespace.inode(), &watched.observed.filter);
            // Whether one that is not recorded has ended is not known later.
            let silent = watched.observed.dumps.silent().filter(|flow| filter.records(flow));
            silent.map(move |flow| (netns, identity_while_open(flow)))
        });
        if !self.in_flight.note_silent(output.last_round(), output.settled_round(), silent) {
            return;
        }
        watched.iter_mut().for_each(|watched| watched.noted_dump = watched.observed.dumps.dumps());
    }
}

/// What was kept, while it is taken over.
pub(super) struct Takeover {
    kept: Kept,
    left: Option<Left>,
    /// How many network namespaces it had a socket of, and that have no name any more.
    deleted: usize,
}

impl Takeover {
    /// Takes the memory of the earlier process, or makes a new one.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn begin(mut kept: Kept) -> Result<(Self, ReceiveMemory)> {
        let adopted = kept.take(IN_FLIGHT).and_then(|memory| match InFlight::adopt(memory) {
            Ok(adopted) => Some(adopted),
            Err(error) => {
                warn!(
                    "this start is a gap: the service manager kept memory of an earlier flowlog that this one cannot use: \
                     {error}"
                );
                None
            }
        });
        let (in_flight, left) = match adopted {
            Some((in_flight, left)) => (in_flight, Some(left)),
            None => {
                let in_flight = InFlight::create().context("cannot make memory to receive events")?;
                kept.keep(IN_FLIGHT, &in_flight);
                (in_flight, None)
            }
        };
        let memory = ReceiveMemory { in_flight, headers: Headers::default(), is_kept: kept.is_proved() };
        Ok((Self { kept, left, deleted: 0 }, memory))
    }

    /// The socket of a network namespace.
    pub(super) fn take(&mut self, namespace: &Namespace) -> Option<Taken> {
        let netns = namespace.inode();
        let subscription = self.left.as_ref()?.subscription(netns)?;
        Some(Taken { socket: self.kept.take(&socket_name(netns))?, subscription })
    }

    /// Lets the service manager keep the sockets that it does not have, and no others.
    pub(super) fn keep(&mut self, watched: &[Watched], in_flight: &mut InFlight) {
        let there = Wanted::all_named();
        let rest = self.kept.rest().filter_map(|name| name.strip_prefix(SOCKETS)?.parse().ok());
        self.deleted = rest.filter(|netns| !there.contains_key(netns)).count();
        if self.deleted > 0 {
            // Until what follows of it is in the ledger.
            in_flight.set_undeclared(true);
        }
        self.kept.forget_rest();
        let netns: Vec<u64> = watched.iter().map(|watched| watched.namespace.inode()).collect();
        in_flight.keep_only(&netns);
        for watched in watched {
            in_flight.keep(watched.subscription());
            if !watched.is_taken {
                self.kept.keep(&socket_name(watched.namespace.inode()), &watched.listener);
            }
        }
    }

    /// What the flow log has to know of it.
    pub(super) fn facts(&self, watched: &[Watched]) -> Option<store::Kept> {
        let Left { runs, .. } = self.left.as_ref()?;
        let netns =
            watched.iter().filter(|watched| watched.is_taken).map(|watched| watched.namespace.inode());
        Some(store::Kept { runs: runs.clone(), netns: netns.collect(), attribution: "rebuilt" })
    }

    /// Makes rows of what was received and is not in the write-ahead log, which has all rows up to the round `durable`.
    ///
    /// # Errors
    ///
    /// The writing side has ended.
    pub(super) fn finish(
        self,
        durable: u64,
        watched: &mut [Watched],
        memory: &mut ReceiveMemory,
        local: &mut Local,
        output: &mut Output,
    ) -> Result<Kept> {
        let Self { kept, left: Some(left), deleted } = self else { return Ok(self.kept) };
        let ReceiveMemory { in_flight, headers, .. } = memory;
        let now_ns = now_ns(ClockId::CLOCK_REALTIME);
        for (netns, identity) in in_flight.settle(durable) {
            if let Some(watched) = of_netns(watched, netns) {
                watched.observed.seen.remember(identity, now_ns);
            }
        }
        let silent = in_flight.silent(durable);
        for (netns, identity) in silent.iter().flatten() {
            if let Some(watched) = of_netns(watched, *netns) {
                watched.unsure.push(*identity);
            }
        }
        let (mut datagrams, mut unwanted) = (0, 0);
        let next_round = output.round();
        // Each round again by itself, so that whoever finds this process killed knows which ones are in the write-ahead log.
        for (round, chunks) in in_flight.left() {
            output.set_round(round)?;
            for (chunk, netns) in chunks {
                let left = Datagrams::left(in_flight.again(chunk, round), headers);
                let received = u64::from(left.received());
                let Some(watched) = of_netns(watched, netns) else {
                    unwanted += received;
                    continue;
                };
                datagrams += received;
                watched.take_left(&left, local, output);
                let max = watched.seen_max();
                in_flight.note(netns, watched.observed.seen.take_new(), max);
            }
        }
        output.set_round(next_round)?;
        in_flight.begin(next_round);
        if datagrams > 0 {
            info!("read {datagrams} events that an earlier flowlog had received, and not logged");
        }
        let now_us = now_us();
        let gap = Gap::new(Cause::DaemonDown, Stage::Receive, output.complete_until_us.min(now_us), now_us);
        if unwanted > 0 {
            let detail = "events of a network namespace that is not watched any more".to_owned();
            output.lose(Gap { lost_flows: Some(unwanted), detail: Some(detail), ..gap.clone() });
        }
        if left.has_undeclared {
            let detail = "losses that an earlier flowlog noticed, and could not declare before it was killed"
                .to_owned();
            output.lose(Gap { lost_flows: None, detail: Some(detail), ..gap.clone() });
        }
        if local.ebpf.is_some() {
            let detail =
                "flowlog was restarted: flows of sockets that were closed before may have no process"
                    .to_owned();
            let detached = Gap { cause: Cause::ProgramsDetached, stage: Stage::Attribute, ..gap.clone() };
            output.lose(Gap { lost_flows: Some(0), detail: Some(detail), ..detached });
        }
        if deleted > 0 {
            let detail = format!("{deleted} network namespaces were deleted while no flowlog ran");
            output.lose(Gap { lost_flows: None, detail: Some(detail), ..gap.clone() });
        }
        if silent.is_none() {
            let detail = "more connections than flowlog remembers may have ended without an event".to_owned();
            output.lose(Gap { lost_flows: None, detail: Some(detail), ..gap });
        }
        Ok(kept)
    }
}

/// Declares connections that ended without an event while nobody looked, when that is known.
pub(super) fn look_for_unseen(watched: &mut [Watched], output: &mut Output) {
    for watched in watched {
        if let Some(lost) = watched.ended_unseen().filter(|lost| *lost > 0) {
            let detail = format!(
                "network namespace `{}`: connections that ended without an event while flowlog was restarted",
                watched.name()
            );
            let gap = Gap::new(Cause::DaemonDown, Stage::Receive, output.began_us, output.began_us);
            output.lose(Gap { lost_flows: Some(lost), detail: Some(detail), ..gap });
        }
    }
}

fn of_netns(watched: &mut [Watched], netns: u64) -> Option<&mut Watched> {
    watched.iter_mut().find(|watched| watched.namespace.inode() == netns)
}

/// How the service manager calls the socket of a network namespace.
pub(super) fn socket_name(netns: u64) -> String {
    format!("{SOCKETS}{netns}")
}
