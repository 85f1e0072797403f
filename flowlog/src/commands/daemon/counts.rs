//! What the receiving side counts, and how it becomes metrics.

use std::ops::Range;

use super::Daemon;
use super::observed::Tally;
use super::watched::Watched;
use crate::commands::metrics::{Metrics, RowCounts, set};
use crate::connections::ctnetlink::ListenerLosses;

/// What happened to messages and flows: plain integers, for the path of each flow.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) tally: Tally,
    pub(super) rows: RowCounts,
}

/// What was counted of network namespaces that are watched no more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gone {
    losses: ListenerLosses,
    pub(super) zeroed: u64,
}

impl Gone {
    pub(super) fn add(&mut self, watched: &Watched) {
        self.losses = sum(self.losses, watched.listener.losses());
        self.zeroed += watched.observed.dumps.zeroed();
    }
}

/// Forgets what is told of a network namespace that is gone.
pub(super) fn forget(metrics: &Metrics, watched: &Watched) {
    let netns = [("netns", watched.name().to_owned())];
    metrics.conntrack_entries.remove(&netns);
    metrics.conntrack_entries_max.remove(&netns);
    metrics.conntrack_lists.remove(&netns);
    metrics.conntrack_entries_asked.remove(&netns);
    let [netns] = netns;
    for (counter, _) in watched.needed.counted().by_name() {
        metrics.conntrack_statistics.remove(&[("counter", counter.to_owned()), netns.clone()]);
    }
    for (need, _) in watched.needed.each() {
        metrics.needs_unmet.remove(&[("need", need.name().to_owned()), netns.clone()]);
    }
}

/// What all listeners have lost.
pub(super) fn losses(watched: &[Watched], gone: &Gone) -> ListenerLosses {
    watched.iter().map(|watched| watched.listener.losses()).fold(gone.losses, sum)
}

fn sum(one: ListenerLosses, other: ListenerLosses) -> ListenerLosses {
    ListenerLosses { overruns: one.overruns + other.overruns, truncated: one.truncated + other.truncated }
}

/// Copies the counts to the metrics: those of all, and of some network namespaces.
pub(super) fn update_metrics(daemon: &Daemon, few: Range<usize>) {
    let Daemon { watched, local, programs, output, metrics, following, .. } = daemon;
    let Counts { tally, rows } = &output.counts;
    let Tally { flows, undecodable, unknown_attributes, duplicates, lost: _ } = tally;
    let ListenerLosses { overruns, truncated } = losses(watched, &following.gone);
    metrics.set_rows(rows);
    set(&metrics.flows_received, *flows);
    set(&metrics.duplicates, *duplicates);
    set(&metrics.events_undecodable, *undecodable);
    set(&metrics.attributes_unknown, *unknown_attributes);
    set(&metrics.receive_overruns, overruns);
    set(&metrics.events_truncated, truncated);
    set(&metrics.ebpf_events_lost, local.lost);
    metrics.clock_error_ns.set(local.clock.clocks.error_ns());
    set(&metrics.clock_sets, local.clock.clocks.sets());
    set(&metrics.sockets_evicted, local.tables.evicted());
    let (waiting, max) = output.queue();
    metrics.queue_messages.set(waiting);
    metrics.queue_messages_max.set(max);
    for (need, is_met) in programs.each() {
        let labels = [("need", need.name().to_owned()), ("netns", "host".to_owned())];
        metrics.needs_unmet.get_or_create(&labels).set(u64::from(!is_met));
    }
    for watched in watched.get(few).into_iter().flatten() {
        let netns = [("netns", watched.name().to_owned())];
        metrics.conntrack_entries.get_or_create(&netns).set(watched.entries.into());
        metrics.conntrack_entries_max.get_or_create(&netns).set(watched.table_max.into());
        set(&metrics.conntrack_lists.get_or_create(&netns), watched.lists);
        set(&metrics.conntrack_entries_asked.get_or_create(&netns), watched.asked);
        let [netns] = netns;
        for (counter, count) in watched.needed.counted().by_name() {
            let labels = [("counter", counter.to_owned()), netns.clone()];
            set(&metrics.conntrack_statistics.get_or_create(&labels), count);
        }
        for (need, is_met) in watched.needed.each() {
            let labels = [("need", need.name().to_owned()), netns.clone()];
            metrics.needs_unmet.get_or_create(&labels).set(u64::from(!is_met));
        }
    }
}
