//! What outlives the process, if a service manager keeps it.

use std::fmt;

use serde_json::Value;
use uuid::Uuid;

use crate::log::ledger::History;

/// What [`Started::netns`](flowlog_reader::ledger::Started::netns) has where none is there yet.
pub const NONE_YET: u64 = 0;

/// Memory that has what was received until its rows are in the write-ahead log.
pub struct InFlight {
    /// What tells it from other memory.
    pub id: Uuid,
    /// Is told up to which round ([`Head::round`](flowlog_reader::segments::Head::round)) the write-ahead log has all rows,
    /// before it may lose them again.
    pub has_round: Box<dyn Fn(u64) + Send>,
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a service manager kept of an earlier run.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Which run it may have been.
    pub runs: Vec<Uuid>,
    /// Inodes of the network namespaces whose sockets there are.
    pub netns: Vec<u64>,
    /// See [`Restart::attribution`](flowlog_reader::ledger::Restart::attribution).
    pub attribution: &'static str,
}

impl Kept {
    /// Whether nobody missed anything since the last run of the history: it is that run's, all of its namespaces that are
    /// still wanted are there, and it recorded all that is recorded now.
    pub(super) fn is_all_since(&self, history: &History, wanted: &[u64], filter: Option<&Value>) -> bool {
        let (Some(last), Some(started)) = (&history.last, &history.started) else { return false };
        self.runs.contains(&last.run_id)
            && started
                .netns
                .iter()
                .all(|netns| *netns == NONE_YET || !wanted.contains(netns) || self.netns.contains(netns))
            && started.filter.as_ref().is_none_or(|before| Some(before) == filter)
    }
}
