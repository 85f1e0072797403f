//! Events that were received and are not in the write-ahead log yet: they are in memory that outlives the process.
//!
//! The kernel writes them there (`recvmmsg`), so nothing is copied. If a service manager keeps the memory, the next start
//! reads what no row of the write-ahead log has, wherever this process was killed.
//!
//! Time is divided into rounds: one ends when its rows are handed to the writing side. The memory is divided into chunks of
//! slots, one datagram each; a chunk has what came of one network namespace in one round, and says so before it is used.
//! Each frame of the write-ahead log says up to which round it has all rows ([`Head::round`]), and so does the first page of
//! the memory, since segments are removed. A slot was used if its message has a length.
//!
//! Beside them it has what else the next start has to know of a namespace, and which flows ended last, so that events that
//! the kernel repeats are recognised.
//!
//! [`Head::round`]: flowlog_reader::segments::Head::round

mod layout;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use hashbrown::HashMap;
use tracing::warn;
use uuid::Uuid;

pub(super) use self::layout::Subscription;
use self::layout::{CHUNK_SLOTS, Ended, Head, Memory, SLOT_BYTES};
use crate::connections::ctnetlink::{DATAGRAMS, Slots};

/// A chunk with less room is full: receiving a few datagrams at a time costs a system call each time.
const MIN_SLOTS: usize = 16;

/// The memory, and what is free of it.
pub(super) struct InFlight {
    memory: Memory,
    /// The one that is filled now.
    round: u64,
    /// Chunks that can be used, the one that was used last at the end: it is in the cache.
    free: Vec<u32>,
    /// Chunks whose rows may not be in the write-ahead log, by their round, oldest first.
    used: VecDeque<(u64, u32)>,
    /// Where the next datagrams of a network namespace go in this round.
    filled: HashMap<u64, Filled, foldhash::fast::RandomState>,
}

/// A chunk that is being filled, and how many of its slots are.
#[derive(Clone, Copy)]
pub(super) struct Filled {
    chunk: u32,
    slots: usize,
}

/// What an earlier process left in the memory.
pub(super) struct Left {
    /// The runs that may have used it last.
    pub(super) runs: Vec<Uuid>,
    /// What was known of network namespaces.
    subscriptions: Vec<Subscription>,
    /// Losses were not declared yet.
    pub(super) has_undeclared: bool,
}

impl Left {
    /// What was known of a network namespace.
    pub(super) fn subscription(&self, netns: u64) -> Option<Subscription> {
        self.subscriptions.iter().find(|found| found.netns == netns).copied()
    }
}

/// Where the writing side says which rounds are in the write-ahead log.
#[derive(Clone, Debug)]
pub(super) struct Durable(Arc<File>);

impl Durable {
    /// Says that all rows up to this round are in the write-ahead log, from where they may be removed from now on.
    pub(super) fn set(&self, round: u64) {
        if let Err(error) = self.0.write_all_at(&round.to_ne_bytes(), Head::DURABLE_AT) {
            warn!("a restart may log flows twice: cannot write to the memory of received events: {error}");
        }
    }
}

impl InFlight {
    /// New memory, for a run.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(super) fn create() -> io::Result<Self> {
        let mut memory = Memory::create()?;
        memory.begin_round(1);
        Ok(Self::of(memory, 1, []))
    }

    /// Memory that an earlier process left.
    ///
    /// # Errors
    ///
    /// It is something else, or of another version.
    pub(super) fn adopt(descriptor: OwnedFd) -> io::Result<(Self, Left)> {
        let mut memory = Memory::adopt(descriptor)?;
        let facts = memory.facts();
        let runs = facts.runs.map(Uuid::from_bytes).into_iter().filter(|run| !run.is_nil()).collect();
        let has_undeclared = facts.undeclared != 0;
        let subscriptions = memory.subscriptions().iter().filter(|found| found.netns != 0).copied().collect();
        let labels = memory.labels();
        let mut used: Vec<(u64, u32)> =
            labels.iter().zip(0..).map(|(label, chunk)| (label.round, chunk)).collect();
        used.retain(|(round, _)| *round > 0);
        used.sort_unstable();
        let round =
            used.last().map_or(0, |(round, _)| *round).max(memory.durable()?).max(memory.facts().settled) + 1;
        Ok((Self::of(memory, round, used), Left { runs, subscriptions, has_undeclared }))
    }

    fn of(mut memory: Memory, round: u64, used: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let used: VecDeque<_> = used.into_iter().collect();
        // The lowest ones are used first, so that memory that was never used stays so.
        let is_free = |chunk: &u32| !used.iter().any(|(_, used)| used == chunk);
        let mut free: Vec<u32> = (0_u32..).take(memory.labels().len()).filter(is_free).collect();
        free.reverse();
        Self { memory, round, free, used, filled: HashMap::default() }
    }

    /// The round that begins.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// What tells it from other memory.
    pub(super) fn id(&self) -> Uuid {
        self.memory.id()
    }

    /// Notes the run that uses it from now on, before the ledger has it.
    pub(super) fn begin_run(&mut self, run: Uuid) {
        let runs = &mut self.memory.facts().runs;
        runs.rotate_right(1);
        if let Some(first) = runs.first_mut() {
            *first = run.into_bytes();
        }
    }

    /// The ledger has the run that uses it: no other may have used it last.
    pub(super) fn has_begun(&mut self) {
        self.memory.facts().runs.iter_mut().skip(1).for_each(|run| *run = Uuid::nil().into_bytes());
    }

    /// For the writing side.
    pub(super) fn durable(&self) -> Durable {
        Durable(Arc::clone(self.memory.file()))
    }

    /// Room for datagrams of a network namespace; `None` if all of it has datagrams whose rows are not in the write-ahead log.
    /// The `round` is the one that its rows will be in, and of those up to `settled` nothing is needed any more.
    pub(super) fn room(&mut self, netns: u64, round: u64, settled: u64) -> Option<Filled> {
        self.begin(round);
        self.release(settled);
        match self.filled.get(&netns).filter(|filled| filled.slots + MIN_SLOTS <= CHUNK_SLOTS) {
            Some(filled) => Some(*filled),
            None => self.take_chunk(netns),
        }
    }

    /// The slots of the room.
    pub(super) fn slots(&mut self, room: Filled) -> Slots<'_> {
        let bytes = self.memory.chunk(room.chunk).get_mut(room.slots * SLOT_BYTES..).unwrap_or_default();
        let end = bytes.len().min(DATAGRAMS * SLOT_BYTES);
        Slots { bytes: bytes.get_mut(..end).unwrap_or_default(), slot_bytes: SLOT_BYTES }
    }

    /// So many datagrams of a network namespace were received into the room.
    pub(super) fn received(&mut self, netns: u64, datagrams: usize) {
        if let Some(filled) = self.filled.get_mut(&netns) {
            filled.slots = (filled.slots + datagrams).min(CHUNK_SLOTS);
        }
    }

    /// So many datagrams were received into the room, and none will be a row: they are overwritten by the next ones.
    pub(super) fn dropped(&mut self, netns: u64, datagrams: usize) {
        if let Some(&Filled { chunk, slots }) = self.filled.get(&netns) {
            let slots = self.memory.chunk(chunk).chunks_exact_mut(SLOT_BYTES).skip(slots).take(datagrams);
            slots.for_each(clear);
        }
    }

    /// Notes flows of a network namespace that have ended, in this round.
    pub(super) fn note(&mut self, netns: u64, identities: impl Iterator<Item = u64>, max: usize) {
        self.memory.note(netns, identities, max);
    }

    /// Forgets what an earlier process left and has its rows in the write-ahead log, up to the round `durable`. Gives the
    /// network namespaces and identities of the flows that had ended until then.
    pub(super) fn settle(&mut self, durable: u64) -> Vec<(u64, u64)> {
        self.release(durable);
        let ended = self.memory.ended(durable).into_iter();
        let ended = ended.map(|ended| (ended.netns, ended.identity)).collect();
        self.memory.begin_round(self.round);
        ended
    }

    /// Notes what is known of a network namespace. If there is no room, a restart will be a gap for it.
    pub(super) fn keep(&mut self, subscription: Subscription) {
        let known = self.memory.subscriptions();
        let index = known.iter().position(|known| known.netns == subscription.netns);
        let index = index.or_else(|| known.iter().position(|known| known.netns == 0));
        if let Some(place) = index.and_then(|index| known.get_mut(index)) {
            *place = subscription;
        }
    }

    /// Forgets network namespaces that are not among these.
    pub(super) fn keep_only(&mut self, netns: &[u64]) {
        let known = self.memory.subscriptions().iter_mut();
        known
            .filter(|known| !netns.contains(&known.netns))
            .for_each(|known| *known = Subscription::default());
    }

    /// Notes the connections that may end without an event: of network namespaces. The rows of those that have ended are in
    /// this round or in earlier ones.
    ///
    /// Says whether that was done: not before the list that would be left is of rows that are in the write-ahead log, which has
    /// those up to the round `settled`.
    pub(super) fn note_silent(
        &mut self,
        round: u64,
        settled: u64,
        silent: impl Iterator<Item = (u64, u64)>,
    ) -> bool {
        self.memory.note_silent(round, settled, silent.map(|(netns, identity)| Ended { identity, netns }))
    }

    /// Those that an earlier process noted, when it had all rows up to the round `durable` in the write-ahead log; `None` if
    /// there were more than there is room for.
    pub(super) fn silent(&mut self, durable: u64) -> Option<Vec<(u64, u64)>> {
        let silent = self.memory.silent(durable)?.into_iter();
        Some(silent.map(|silent| (silent.netns, silent.identity)).collect())
    }

    /// Notes whether losses are not declared yet.
    pub(super) fn set_undeclared(&mut self, has_undeclared: bool) {
        self.memory.facts().undeclared = u64::from(has_undeclared);
    }

    /// Up to which round the rows are in the write-ahead log: as far as this itself says, which is noted, or the memory knows.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) fn durable_round(&mut self, logged: u64) -> io::Result<u64> {
        let round = self.memory.durable()?.max(self.memory.facts().settled).max(logged);
        self.durable().set(round);
        Ok(round)
    }

    /// The chunks that an earlier process filled, and their network namespaces, by their rounds, the oldest first.
    pub(super) fn left(&mut self) -> BTreeMap<u64, Vec<(u32, u64)>> {
        let labels = self.memory.labels();
        let mut rounds: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
        for &(round, chunk) in &self.used {
            if let Some(label) = usize::try_from(chunk).ok().and_then(|chunk| labels.get(chunk)) {
                rounds.entry(round).or_default().push((chunk, label.netns));
            }
        }
        rounds
    }

    /// The slots of a chunk that an earlier process filled in this round.
    pub(super) fn again(&mut self, chunk: u32, round: u64) -> Slots<'_> {
        self.begin(round);
        Slots { bytes: self.memory.chunk(chunk), slot_bytes: SLOT_BYTES }
    }

    /// From here on, rows are of this round.
    pub(super) fn begin(&mut self, round: u64) {
        if round == self.round {
            return;
        }
        self.round = round;
        self.memory.begin_round(round);
        self.filled.clear();
    }

    /// The chunks up to this round can be used again.
    fn release(&mut self, settled: u64) {
        let facts = self.memory.facts();
        // A process that has just begun knows of none yet.
        facts.settled = facts.settled.max(settled);
        while let Some(&(round, chunk)) = self.used.front()
            && round <= settled
        {
            self.used.pop_front();
            self.free.push(chunk);
        }
    }

    /// A chunk for the next datagrams of a network namespace.
    fn take_chunk(&mut self, netns: u64) -> Option<Filled> {
        let chunk = self.free.pop()?;
        // Before the label says that it has datagrams: none of its slots does.
        self.label(chunk, 0, 0);
        compiler_fence(Ordering::SeqCst);
        self.memory.chunk(chunk).chunks_exact_mut(SLOT_BYTES).for_each(clear);
        compiler_fence(Ordering::SeqCst);
        self.label(chunk, self.round, netns);
        self.used.push_back((self.round, chunk));
        let filled = Filled { chunk, slots: 0 };
        self.filled.insert(netns, filled);
        Some(filled)
    }

    fn label(&mut self, chunk: u32, round: u64, netns: u64) {
        if let Some(label) = usize::try_from(chunk).ok().and_then(|chunk| self.memory.labels().get_mut(chunk))
        {
            label.netns = netns;
            compiler_fence(Ordering::SeqCst);
            label.round = round;
        }
    }
}

/// The slot has no datagram.
fn clear(slot: &mut [u8]) {
    if let Some(length) = slot.first_chunk_mut::<4>() {
        *length = [0; 4];
    }
}

impl AsFd for InFlight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.file().as_fd()
    }
}

#[cfg(test)]
mod tests;
