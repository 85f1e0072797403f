//! What the receiving side counts, and how it becomes metrics.

use super::Daemon;
use crate::commands::metrics::{RowCounts, set};
use crate::connections::ctnetlink::ListenerLosses;

/// What happened to messages and flows: plain integers, for the path of each flow.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) flows: u64,
    pub(super) undecodable: u64,
    pub(super) unknown_attributes: u64,
    /// Flows that were ended before: the kernel repeats events.
    pub(super) duplicates: u64,
    /// Flows that were read and dropped, because the host comes first, and those that could not be read.
    pub(super) lost: u64,
    pub(super) rows: RowCounts,
}

impl Daemon {
    /// What all listeners have lost.
    pub(super) fn losses(&self) -> ListenerLosses {
        let of_all = self.watched.iter().map(|watched| watched.listener.losses());
        of_all.fold(ListenerLosses::default(), |sum, ListenerLosses { overruns, truncated }| ListenerLosses {
            overruns: sum.overruns + overruns,
            truncated: sum.truncated + truncated,
        })
    }

    /// Copies the counts to the metrics.
    pub(super) fn update_metrics(&self) {
        let Counts { flows, undecodable, unknown_attributes, duplicates, lost: _, rows } = &self.counts;
        let ListenerLosses { overruns, truncated } = self.losses();
        let metrics = &self.metrics;
        metrics.set_rows(rows);
        set(&metrics.flows_received, *flows);
        set(&metrics.duplicates, *duplicates);
        set(&metrics.events_undecodable, *undecodable);
        set(&metrics.attributes_unknown, *unknown_attributes);
        set(&metrics.receive_overruns, overruns);
        set(&metrics.events_truncated, truncated);
        set(&metrics.ebpf_events_lost, self.local.lost);
        metrics.clock_error_ns.set(self.local.clock.clocks.error_ns());
        set(&metrics.clock_sets, self.local.clock.clocks.sets());
        set(&metrics.sockets_evicted, self.local.tables.evicted());
        let (waiting, max) = self.output.queue();
        metrics.queue_messages.set(waiting);
        metrics.queue_messages_max.set(max);
        for (need, is_met) in self.programs.each() {
            let labels = [("need", need.name().to_owned()), ("netns", "host".to_owned())];
            metrics.needs_unmet.get_or_create(&labels).set(u64::from(!is_met));
        }
        for watched in &self.watched {
            let netns = [("netns", watched.name().to_owned())];
            metrics.conntrack_entries.get_or_create(&netns).set(watched.entries.into());
            metrics.conntrack_entries_max.get_or_create(&netns).set(watched.table_max.into());
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
}
