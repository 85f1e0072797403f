//! What the kernel counted as lost of connection tracking, for each processor: the counters of `conntrack -S`.
//!
//! What they count (`net/netfilter/nf_conntrack_core.c`):
//!
//! | counter | counts | here |
//! |---|---|---|
//! | `drop` | packets that were dropped: no entry could be made for them, as the table was full or memory short (`nf_conntrack_in`), or they are in `insert_failed`, too | [`Cause::ConntrackFull`], less those |
//! | `insert_failed` | packets that were dropped, since their new entry could not be put into the table: another one has its tuple (`nf_ct_resolve_clash`, also in `drop`), or its chain was too long | [`Cause::InsertFailed`] |
//! | `early_drop` | entries that were removed to make room (`early_drop`): their flows have rows | a warning |
//! | `error` | packets of ICMP that were malformed: no connection | a metric |
//! | `search_restart` | lookups that began again | a metric |
//!
//! A packet that was sent again is counted again: the numbers are attempts. Pure: counters are handed in.

use flowlog_reader::gaps::{Cause, Gap, Stage};
use hashbrown::HashMap;

use crate::connections::ctnetlink::sets::CpuStatistics;

/// What the counters were that are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    drop: u32,
    early_drop: u32,
    insert_failed: u32,
    chain_toolong: u32,
    error: u32,
    search_restart: u32,
}

/// What was counted, in all or since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets that were dropped.
    pub drop: u64,
    /// Entries that were removed to make room.
    pub early_drop: u64,
    /// Entries that could not be put into the table.
    pub insert_failed: u64,
    /// Those of them whose chain was too long, which `drop` does not have.
    pub chain_toolong: u64,
    /// Packets that were malformed.
    pub error: u64,
    /// Lookups that began again.
    pub search_restart: u64,
}

impl Counted {
    /// Each counter with its kernel name, for metrics.
    pub fn by_name(&self) -> [(&'static str, u64); 5] {
        [
            ("drop", self.drop),
            ("early_drop", self.early_drop),
            ("insert_failed", self.insert_failed),
            ("error", self.error),
            ("search_restart", self.search_restart),
        ]
    }

    /// Packets that were dropped because no entry could be made for them.
    pub fn refused(&self) -> u64 {
        self.drop.saturating_sub(self.insert_failed.saturating_sub(self.chain_toolong))
    }

    /// The losses in it.
    pub fn gaps(&self, netns: &str, table_max: u32, from_us: i64, to_us: i64) -> impl Iterator<Item = Gap> {
        let full = format!(
            "network namespace `{netns}`: the kernel dropped packets of new connections, because it could make no entry \
             for them (nf_conntrack_max is {table_max})"
        );
        let failed = format!(
            "network namespace `{netns}`: the kernel dropped packets of new connections, because it could not put their \
             entry into its table"
        );
        [(Cause::ConntrackFull, self.refused(), full), (Cause::InsertFailed, self.insert_failed, failed)]
            .into_iter()
            .filter(|(_, lost, _)| *lost > 0)
            .map(move |(cause, lost, detail)| Gap {
                lost_flows: Some(lost),
                detail: Some(detail),
                ..Gap::new(cause, Stage::Kernel, from_us.min(to_us), to_us)
            })
    }

    fn add(&mut self, before: Counters, now: Counters) {
        // The kernel's are of 32 bits and go round.
        let new = |before: u32, now: u32| u64::from(now.wrapping_sub(before));
        self.drop += new(before.drop, now.drop);
        self.early_drop += new(before.early_drop, now.early_drop);
        self.insert_failed += new(before.insert_failed, now.insert_failed);
        self.chain_toolong += new(before.chain_toolong, now.chain_toolong);
        self.error += new(before.error, now.error);
        self.search_restart += new(before.search_restart, now.search_restart);
    }
}

/// The counters of all processors, from one reading to the next.
#[derive(Debug, Default)]
pub struct KernelLosses {
    before: HashMap<u16, Counters, foldhash::fast::RandomState>,
    /// The first reading is what others count from.
    has_begun: bool,
    /// What was read last; before the first reading, what an earlier process had read.
    sums: Sums,
    /// The first reading counts from that.
    goes_on: bool,
    total: Counted,
}

/// The counters that losses are made of, of all processors together: `drop`, `insert_failed` and `chain_toolong`. They go
/// round.
pub type Sums = [u32; 3];

impl KernelLosses {
    /// What was counted before the first reading counts, too.
    pub fn from_zero() -> Self {
        Self { has_begun: true, ..Self::default() }
    }

    /// What was counted since an earlier process read these counts, too.
    pub fn from_earlier(sums: Sums) -> Self {
        Self { sums, goes_on: true, ..Self::default() }
    }

    /// What was read last, for a later process. Before the first reading, what the earlier one had read.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// Takes in a reading; gives what was counted since the last one.
    pub fn read(&mut self, processors: impl IntoIterator<Item = (u16, CpuStatistics)>) -> Counted {
        let mut new = Counted::default();
        for (processor, statistics) in processors {
            let now = Counters {
                drop: statistics.drop.unwrap_or_default(),
                early_drop: statistics.early_drop.unwrap_or_default(),
                insert_failed: statistics.insert_failed.unwrap_or_default(),
                chain_toolong: statistics.chain_toolong.unwrap_or_default(),
                error: statistics.error.unwrap_or_default(),
                search_restart: statistics.search_restart.unwrap_or_default(),
            };
            match self.before.insert(processor, now) {
                Some(before) => new.add(before, now),
                // A processor that was added later had counted nothing.
                None if self.has_begun => new.add(Counters::default(), now),
                None => {}
            }
        }
        self.has_begun = true;
        let sums =
            self.before.values().fold(Sums::default(), |[drop, insert_failed, chain_toolong], counters| {
                [
                    drop.wrapping_add(counters.drop),
                    insert_failed.wrapping_add(counters.insert_failed),
                    chain_toolong.wrapping_add(counters.chain_toolong),
                ]
            });
        let before = std::mem::replace(&mut self.sums, sums);
        if std::mem::take(&mut self.goes_on) {
            let [before, now] = [before, sums].map(|[drop, insert_failed, chain_toolong]| Counters {
                drop,
                insert_failed,
                chain_toolong,
                ..Counters::default()
            });
            new.add(before, now);
        }
        let Counted { drop, early_drop, insert_failed, chain_toolong, error, search_restart } = new;
        self.total.drop += drop;
        self.total.early_drop += early_drop;
        self.total.insert_failed += insert_failed;
        self.total.chain_toolong += chain_toolong;
        self.total.error += error;
        self.total.search_restart += search_restart;
        new
    }

    /// What was counted since the first reading.
    pub fn total(&self) -> Counted {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(drop: u32, insert_failed: u32, chain_toolong: Option<u32>) -> CpuStatistics {
        CpuStatistics {
            drop: Some(drop),
            insert_failed: Some(insert_failed),
            chain_toolong,
            early_drop: Some(1),
            ..CpuStatistics::default()
        }
    }

    #[test]
    fn what_was_counted_before_is_nobodys_loss() {
        let mut losses = KernelLosses::default();
        assert_eq!(
            losses.read([(0, statistics(7, 1, None)), (1, statistics(9, 0, None))]),
            Counted::default()
        );
        let new = losses.read([
            (0, statistics(8, 1, None)),
            (1, statistics(12, 0, None)),
            (2, statistics(5, 0, None)),
        ]);
        assert_eq!((new.drop, new.early_drop), (1 + 3 + 5, 1));
        assert_eq!(losses.read([(0, statistics(8, 1, None))]), Counted::default());
        assert_eq!(losses.total().drop, 9);
    }

    #[test]
    fn counters_go_round() {
        let mut losses = KernelLosses::default();
        losses.read([(0, statistics(u32::MAX - 1, 0, None))]);
        assert_eq!(losses.read([(0, statistics(3, 0, None))]).drop, 5);
    }

    #[test]
    fn what_was_counted_since_an_earlier_process_read_counts() {
        let mut earlier = KernelLosses::default();
        earlier.read([(0, statistics(u32::MAX, 1, None)), (1, statistics(9, 0, None))]);
        let mut later = KernelLosses::from_earlier(earlier.sums());
        assert_eq!(later.sums(), earlier.sums());
        let new = later.read([(0, statistics(1, 3, None)), (1, statistics(9, 0, None))]);
        assert_eq!((new.drop, new.insert_failed), (2, 2));
        assert_eq!(later.read([(0, statistics(2, 3, None))]).drop, 1);
    }

    #[test]
    fn what_is_in_two_counters_is_lost_once() {
        let mut losses = KernelLosses::default();
        losses.read([(0, statistics(0, 0, Some(0)))]);
        // Two clashes and a chain that was too long; three for which there was no room.
        let new = losses.read([(0, statistics(5, 3, Some(1)))]);
        assert_eq!(new.refused(), 3);
        let gaps: Vec<_> = new.gaps("blue", 100, 5, 9).map(|gap| (gap.cause, gap.lost_flows)).collect();
        assert_eq!(gaps, [(Cause::ConntrackFull, Some(3)), (Cause::InsertFailed, Some(3))]);
        assert_eq!(Counted::default().gaps("blue", 100, 5, 9).count(), 0);
    }
}
