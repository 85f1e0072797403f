//! How the memory is laid out.
//!
//! ```text
//! page 0   Head: written by system calls, since both sides do it
//! Facts    runs, losses, where the list of ended flows goes on
//! Subscription    of each network namespace
//! Round    the last rounds: from where on the ended flows are theirs
//! Label    of each chunk
//! Ended    flows that ended last, a ring
//! Silent   connections that may end without an event, twice
//! chunks   slots of datagrams
//! ```

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use bytemuck::{Pod, Zeroable};
use flowlog_common::shared::{self, MmapMut};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use uuid::Uuid;

/// What a datagram takes. A DESTROY message has 140 to 330 bytes, alone in its datagram, and no part of it has a variable
/// length, so this leaves room for what newer kernels add.
pub(super) const SLOT_BYTES: usize = 512;

/// Slots of a chunk.
pub(super) const CHUNK_SLOTS: usize = 128;

const CHUNK_BYTES: usize = SLOT_BYTES * CHUNK_SLOTS;

/// Half a million datagrams: several times as many as there are rows between the two sides. What was never used takes no
/// memory.
const CHUNKS: usize = 4096;

/// Network namespaces of which something is kept.
const SUBSCRIPTIONS: usize = 4096;

/// Rounds whose beginnings are known: several times as many as wait for the writing side.
const ROUNDS: usize = 64;

/// Ended flows that are kept at most, as many as are remembered of a namespace.
const ENDED: usize = 1 << 20;

/// Connections that may end without an event, and are kept.
const SILENT: usize = 1 << 16;

/// Runs that did not come to say whether they are in the ledger.
const RUNS: usize = 64;

const MAGIC: [u8; 8] = *b"flowlogF";

/// To be raised with each change of this layout.
const VERSION: u64 = 1;

/// The first page. Not mapped.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Head {
    magic: [u8; 8],
    version: u64,
    /// Up to which round the write-ahead log has all rows.
    durable: u64,
    id: [u8; 16],
}

impl Head {
    const BYTES: u64 = 4096;

    /// Where `durable` is.
    pub(super) const DURABLE_AT: u64 = 16;
}

/// What is known of the process that uses it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Facts {
    /// The run that uses it, and before it those that may have: a start that ends early may or may not be in the ledger.
    pub(super) runs: [[u8; 16]; RUNS],
    /// Not 0: losses are not in the ledger yet.
    pub(super) undeclared: u64,
    /// Up to which round nothing is needed, as far as the receiving side knows: not all rounds have rows.
    pub(super) settled: u64,
    /// How many ended flows were noted in all.
    ended: u64,
    /// The first of them that is there: later ones have taken the places of those before.
    ended_from: u64,
    /// How many are kept now.
    ended_max: u64,
}

/// What is known of a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(in super::super) struct Subscription {
    /// Its inode; 0: of none.
    pub(in super::super) netns: u64,
    /// When its events were subscribed to, by the monotonic clock and by the other one.
    pub(in super::super) since_monotonic_ns: u64,
    pub(in super::super) since_ns: u64,
    /// Messages that were dropped and are declared.
    pub(in super::super) dropped: u64,
    /// What the kernel had counted as lost, and when that was read: what is above is not declared yet.
    pub(in super::super) counted: [u32; 3],
    /// Whether the kernel sends again what had no room: 1, or 0.
    pub(in super::super) is_reliable: u32,
    pub(in super::super) counted_us: i64,
}

/// The beginning of a round.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Round {
    /// 0: of none.
    round: u64,
    /// How many ended flows were noted before.
    ended: u64,
}

/// What a chunk has.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Label {
    /// 0: nothing.
    pub(super) round: u64,
    pub(super) netns: u64,
}

/// What stands before a list of connections that may end without an event.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SilentHead {
    /// The rows of those that had ended before are in this round or in earlier ones.
    round: u64,
    /// How many there are, if that is not more than there is room for.
    len: u64,
}

/// A flow that ended, or may.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Ended {
    pub(super) identity: u64,
    pub(super) netns: u64,
}

const SUBSCRIPTIONS_AT: usize = size_of::<Facts>();
const ROUNDS_AT: usize = SUBSCRIPTIONS_AT + SUBSCRIPTIONS * size_of::<Subscription>();
const LABELS_AT: usize = ROUNDS_AT + ROUNDS * size_of::<Round>();
const ENDED_AT: usize = LABELS_AT + CHUNKS * size_of::<Label>();
const SILENT_AT: usize = ENDED_AT + ENDED * size_of::<Ended>();
const SILENT_BYTES: usize = size_of::<SilentHead>() + SILENT * size_of::<Ended>();
/// Chunks begin at a page.
const CHUNKS_AT: usize = (SILENT_AT + 2 * SILENT_BYTES).next_multiple_of(4096);
const BYTES: usize = CHUNKS_AT + CHUNKS * CHUNK_BYTES;

/// The memory.
pub(super) struct Memory {
    file: Arc<File>,
    id: Uuid,
    bytes: MmapMut,
}

impl Memory {
    pub(super) fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("flowlog-in-flight", flags)?);
        ftruncate(&file, Head::BYTES + u64::try_from(BYTES).unwrap_or(u64::MAX))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let id = Uuid::now_v7();
        let head = Head { magic: MAGIC, version: VERSION, durable: 0, id: id.into_bytes() };
        file.write_all_at(bytemuck::bytes_of(&head), 0)?;
        Self::map(file, id)
    }

    pub(super) fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let Head { magic, version, durable: _, id } = head(&file)?;
        if magic != MAGIC {
            return Err(io::Error::other("found something else"));
        }
        if version != VERSION {
            return Err(io::Error::other(format!("found version {version}, expected {VERSION}")));
        }
        Self::map(file, Uuid::from_bytes(id))
    }

    fn map(file: File, id: Uuid) -> io::Result<Self> {
        let bytes = shared::map(&file, Head::BYTES, BYTES)?;
        Ok(Self { file: Arc::new(file), id, bytes })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn durable(&self) -> io::Result<u64> {
        Ok(head(&self.file)?.durable)
    }

    pub(super) fn facts(&mut self) -> &mut Facts {
        bytemuck::from_bytes_mut(self.part(0, size_of::<Facts>()))
    }

    pub(super) fn subscriptions(&mut self) -> &mut [Subscription] {
        bytemuck::cast_slice_mut(self.part(SUBSCRIPTIONS_AT, SUBSCRIPTIONS * size_of::<Subscription>()))
    }

    pub(super) fn labels(&mut self) -> &mut [Label] {
        bytemuck::cast_slice_mut(self.part(LABELS_AT, CHUNKS * size_of::<Label>()))
    }

    pub(super) fn chunk(&mut self, chunk: u32) -> &mut [u8] {
        let chunk = usize::try_from(chunk).unwrap_or(usize::MAX);
        self.part(CHUNKS_AT + chunk.min(CHUNKS - 1) * CHUNK_BYTES, CHUNK_BYTES)
    }

    /// Notes flows that have ended; `max` of them are kept.
    pub(super) fn note(&mut self, netns: u64, identities: impl Iterator<Item = u64>, max: usize) {
        let wanted = u64::try_from(max.clamp(1, ENDED)).unwrap_or(1);
        let facts = self.facts();
        if facts.ended_max < wanted {
            // What another size has put elsewhere is not found again.
            (facts.ended_max, facts.ended, facts.ended_from) = (wanted, 0, 0);
            self.rounds().iter_mut().for_each(|round| round.ended = 0);
        }
        let Facts { ended: first, ended_max: kept, .. } = *self.facts();
        let max = usize::try_from(kept).unwrap_or(ENDED);
        let mut index = index(first, kept);
        let mut noted = 0;
        let ring = self.ring();
        for identity in identities {
            if let Some(place) = ring.get_mut(index) {
                *place = Ended { identity, netns };
            }
            index = if index + 1 == max { 0 } else { index + 1 };
            noted += 1;
        }
        self.facts().ended = first + noted;
    }

    /// The flows that had ended in the rounds up to this one, as far as they are kept. Those of later ones are forgotten.
    pub(super) fn ended(&mut self, round: u64) -> Vec<Ended> {
        let Facts { ended: noted, ended_from, ended_max: kept, .. } = *self.facts();
        let later = self.rounds().iter().filter(|later| later.round > round);
        let end = later.map(|later| later.ended).min().unwrap_or(noted).min(noted);
        let from = ended_from.max(noted.saturating_sub(kept)).min(end);
        self.facts().ended_from = from;
        compiler_fence(Ordering::SeqCst);
        self.facts().ended = end;
        self.rounds()
            .iter_mut()
            .filter(|later| later.round > round)
            .for_each(|later| *later = Round::zeroed());
        let ring = self.ring();
        (from..end).filter_map(|number| ring.get(index(number, kept)).copied()).collect()
    }

    /// Notes the connections that may end without an event, in place of the older list, if the other one is valid for what is
    /// settled. Says whether that was done.
    pub(super) fn note_silent(
        &mut self,
        round: u64,
        settled: u64,
        silent: impl Iterator<Item = Ended>,
    ) -> bool {
        let [first, second] = [0, 1].map(|list| self.silent_list(list).0.round);
        let is_pending = |round: u64| round > settled && round != u64::MAX;
        if is_pending(first) || is_pending(second) {
            return false;
        }
        let (head, places) = self.silent_list(usize::from(second <= first));
        // Not valid while it is written.
        *head = SilentHead { round: u64::MAX, len: 0 };
        compiler_fence(Ordering::SeqCst);
        let mut len = 0;
        for found in silent {
            if let Some(place) = places.get_mut(len) {
                *place = found;
            }
            len += 1;
        }
        head.len = u64::try_from(len).unwrap_or(u64::MAX);
        compiler_fence(Ordering::SeqCst);
        head.round = round;
        true
    }

    /// The connections that might have ended without an event since what has its rows up to this round; `None` if there were
    /// too many.
    pub(super) fn silent(&mut self, durable: u64) -> Option<Vec<Ended>> {
        let rounds = [0, 1].map(|list| self.silent_list(list).0.round);
        let valid = rounds.iter().zip(0..).filter(|(round, _)| **round <= durable);
        let (_, list) = valid.max().or_else(|| rounds.iter().zip(0..).min())?;
        let (head, places) = self.silent_list(list);
        let len = usize::try_from(head.len).ok()?;
        places.get(..len).map(<[Ended]>::to_vec)
    }

    fn silent_list(&mut self, list: usize) -> (&mut SilentHead, &mut [Ended]) {
        let bytes = self.part(SILENT_AT + list * SILENT_BYTES, SILENT_BYTES);
        let (head, places) = bytes.split_at_mut(size_of::<SilentHead>());
        (bytemuck::from_bytes_mut(head), bytemuck::cast_slice_mut(places))
    }

    /// Notes that the flows that are noted from now on are of this round or of later ones.
    pub(super) fn begin_round(&mut self, round: u64) {
        let ended = self.facts().ended;
        let rounds = self.rounds();
        let kept = u64::try_from(rounds.len()).unwrap_or(u64::MAX);
        if let Some(place) = rounds.get_mut(index(round, kept)) {
            *place = Round { round, ended };
        }
    }

    fn rounds(&mut self) -> &mut [Round] {
        bytemuck::cast_slice_mut(self.part(ROUNDS_AT, ROUNDS * size_of::<Round>()))
    }

    fn ring(&mut self) -> &mut [Ended] {
        bytemuck::cast_slice_mut(self.part(ENDED_AT, ENDED * size_of::<Ended>()))
    }

    fn part(&mut self, at: usize, bytes: usize) -> &mut [u8] {
        self.bytes.get_mut(at..at + bytes).unwrap_or_default()
    }
}

/// Where a number is in a ring.
fn index(number: u64, kept: u64) -> usize {
    usize::try_from(number % kept.max(1)).unwrap_or(usize::MAX)
}

fn head(file: &File) -> io::Result<Head> {
    let mut head = Head::zeroed();
    file.read_exact_at(bytemuck::bytes_of_mut(&mut head), 0)?;
    Ok(head)
}
