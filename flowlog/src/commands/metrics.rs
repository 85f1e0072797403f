//! What flowlog says about itself to Prometheus: the metrics, their meaning, their text.
//!
//! The receiving side counts in plain integers ([`RowCounts`] and its own), and copies them to the atomic
//! ones here on its ticks. So a metric is at most a tick behind, and a flow costs no more for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use flowlog_reader::gaps::{Cause, Declared};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::flow::Counters;
use crate::log::schema::attribution_name;
use crate::record::{Attribution, FlowRecord, Method, Sighting};

/// A number that goes up and down, but not below zero.
pub type Level = Gauge<u64, AtomicU64>;

/// Labels of one metric: names and values.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Defines the metrics. The name of a field is the name of its metric, its documentation the help text.
macro_rules! metrics {
    ($(#[$of_struct:meta])* $Metrics:ident { $($(#[doc = $help:literal])+ $name:ident: $Type:ty,)+ }) => {
        $(#[$of_struct])*
        #[derive(Clone, Debug, Default)]
        pub struct $Metrics {
            $($(#[doc = $help])+ pub $name: $Type,)+
        }

        impl $Metrics {
            fn register(&self, registry: &mut Registry) {
                $(registry.register(stringify!($name), help(concat!($($help),+)), self.$name.clone());)+
            }
        }
    };
}

/// A help text without the full stop, which the registry adds.
fn help(text: &'static str) -> &'static str {
    text.trim().trim_end_matches('.')
}

metrics! {
    /// All metrics. A clone is another handle of the same.
    Metrics {
        /// Ended flows that were received and that the filter lets through.
        flows_received: Counter,
        /// Events of flows that had ended before: the kernel repeats them.
        duplicates: Counter,
        /// Rows that were made from flows.
        rows: Counter,
        /// Bytes of ended flows in rows, by direction (orig, reply).
        flow_bytes: Family<Labels<1>, Counter>,
        /// Ends of flows in rows, by end (src, dst) and method: how the local process is known, none if it is
        /// not.
        attributions: Family<Labels<2>, Counter>,
        /// How often the receive buffer of the netlink socket was full.
        receive_overruns: Counter,
        /// Events that were lost because they were larger than the buffer for one.
        events_truncated: Counter,
        /// Events that were lost because they could not be decoded.
        events_undecodable: Counter,
        /// Attributes of events that this version does not know; nothing is lost.
        attributes_unknown: Counter,
        /// Events of sockets and processes that did not fit into the ring buffer of the eBPF programs.
        ebpf_events_lost: Counter,
        /// How wrong a comparison of CLOCK_REALTIME and CLOCK_MONOTONIC can be, in nanoseconds.
        clock_error_ns: Level,
        /// How often somebody set the clock.
        clock_sets: Counter,
        /// Sockets that were forgotten early, because there were too many.
        sockets_evicted: Counter,
        /// Batches and other messages that wait for the writing side.
        queue_messages: Level,
        /// How many batches and other messages can wait for the writing side; beyond that the kernel holds the
        /// flows.
        queue_messages_max: Level,
        /// Files of this run that were published.
        files_published: Counter,
        /// Rows in files of this run that were published.
        rows_published: Counter,
        /// Bytes of files of this run that were published.
        bytes_published: Counter,
        /// Bytes in the write-ahead log of this run.
        wal_bytes: Level,
        /// Losses that this run declared, by cause.
        gaps: Family<Labels<1>, Counter>,
        /// Flows in declared losses whose number is known, by cause.
        lost_flows: Family<Labels<1>, Counter>,
        /// Entries of the connection tracking table, by network namespace (netns).
        conntrack_entries: Family<[(&'static str, String); 1], Level>,
        /// Entries that the connection tracking table can have, by network namespace (netns).
        conntrack_entries_max: Family<[(&'static str, String); 1], Level>,
        /// How often the whole connection tracking table was listed, by network namespace (netns): at the start,
        /// for audits and for records of connections that go on.
        conntrack_lists: Family<[(&'static str, String); 1], Counter>,
        /// Entries of the connection tracking table that were asked for one by one, in place of a list, by network
        /// namespace (netns): connections that are older than flowlog.
        conntrack_entries_asked: Family<[(&'static str, String); 1], Counter>,
        /// What the kernel's connection tracking counted since flowlog started, by network namespace (netns) and
        /// counter (drop, early_drop, insert_failed, error, search_restart).
        conntrack_statistics: Family<[(&'static str, String); 2], Counter>,
        /// Whether something that flowlog needs is missing (1) or not (0), by what it is (need) and by network
        /// namespace (netns, host if it concerns the whole host).
        needs_unmet: Family<[(&'static str, String); 2], Level>,
    }
}

impl Metrics {
    /// The text of all metrics, in the format of OpenMetrics.
    pub fn exposition(&self) -> Exposition {
        let mut registry = Registry::with_prefix("flowlog");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of flowlog", version);
        self.register(&mut registry);
        Exposition(registry)
    }

    /// Copies the counts of rows.
    pub fn set_rows(&self, counts: &RowCounts) {
        let RowCounts { rows, orig_bytes, reply_bytes, src, dst } = counts;
        set(&self.rows, *rows);
        for (direction, bytes) in [("orig", *orig_bytes), ("reply", *reply_bytes)] {
            set(&self.flow_bytes.get_or_create(&[("direction", direction)]), bytes);
        }
        for (end, methods) in [("src", src), ("dst", dst)] {
            for (method, count) in methods.by_name() {
                set(&self.attributions.get_or_create(&[("end", end), ("method", method)]), count);
            }
        }
    }

    /// Copies what was declared; causes of which nothing was are zero.
    pub fn set_losses(&self, by_cause: &BTreeMap<Cause, Declared>) {
        for cause in Cause::ALL {
            let Declared { gaps, lost_flows } = by_cause.get(&cause).copied().unwrap_or_default();
            let label = [("cause", cause.name())];
            set(&self.gaps.get_or_create(&label), gaps);
            set(&self.lost_flows.get_or_create(&label), lost_flows);
        }
    }
}

/// Copies a total that is counted elsewhere.
pub fn set(counter: &Counter, total: u64) {
    counter.inner().store(total, Ordering::Relaxed);
}

/// Makes the text of the metrics.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Exposition {
    /// What the text is, for the reader.
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The text as it is now.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = text::encode(&mut text, &self.0);
        text
    }
}

/// What is counted of each row: plain integers.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowCounts {
    rows: u64,
    orig_bytes: u64,
    reply_bytes: u64,
    src: Methods,
    dst: Methods,
}

impl RowCounts {
    /// Counts a row.
    pub fn add(&mut self, record: &FlowRecord<'_>) {
        self.rows += 1;
        // The bytes of a flow that goes on come again with its next row.
        if record.sighting != Sighting::Alive {
            let bytes = |counters: Option<Counters>| counters.map_or(0, |counters| counters.bytes);
            self.orig_bytes = self.orig_bytes.wrapping_add(bytes(record.flow.orig_counters));
            self.reply_bytes = self.reply_bytes.wrapping_add(bytes(record.flow.reply_counters));
        }
        self.src.add(record.src);
        self.dst.add(record.dst);
    }
}

/// Ends of rows by how their process is known.
#[derive(Clone, Copy, Debug, Default)]
struct Methods {
    socket: u64,
    endpoint: u64,
    inherited: u64,
    closer: u64,
    seed: u64,
    raw: u64,
    program: u64,
    ambiguous: u64,
    none: u64,
}

impl Methods {
    fn add(&mut self, attribution: Option<Attribution<'_>>) {
        let count = match attribution.map(|attribution| attribution.method) {
            Some(Method::Socket) => &mut self.socket,
            Some(Method::Endpoint) => &mut self.endpoint,
            Some(Method::Inherited) => &mut self.inherited,
            Some(Method::Closer) => &mut self.closer,
            Some(Method::Seed) => &mut self.seed,
            Some(Method::Raw) => &mut self.raw,
            Some(Method::Program) => &mut self.program,
            Some(Method::Ambiguous) => &mut self.ambiguous,
            None => &mut self.none,
        };
        *count += 1;
    }

    fn by_name(&self) -> [(&'static str, u64); 9] {
        let Self { socket, endpoint, inherited, closer, seed, raw, program, ambiguous, none } = *self;
        [
            (attribution_name(Method::Socket), socket),
            (attribution_name(Method::Endpoint), endpoint),
            (attribution_name(Method::Inherited), inherited),
            (attribution_name(Method::Closer), closer),
            (attribution_name(Method::Seed), seed),
            (attribution_name(Method::Raw), raw),
            (attribution_name(Method::Program), program),
            (attribution_name(Method::Ambiguous), ambiguous),
            ("none", none),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/metrics.md");

    /// Metrics that have all their labels.
    fn metrics() -> Metrics {
        let metrics = Metrics::default();
        metrics.set_rows(&RowCounts::default());
        let lost = Declared { gaps: 2, lost_flows: 30 };
        metrics.set_losses(&BTreeMap::from([(Cause::Overload, lost)]));
        let netns = [("netns", "own".to_owned())];
        metrics.conntrack_entries.get_or_create(&netns).set(7);
        metrics.conntrack_entries_max.get_or_create(&netns).set(9);
        set(&metrics.conntrack_lists.get_or_create(&netns), 4);
        set(&metrics.conntrack_entries_asked.get_or_create(&netns), 6);
        let [netns] = netns;
        let counter = [("counter", "drop".to_owned()), netns.clone()];
        set(&metrics.conntrack_statistics.get_or_create(&counter), 3);
        metrics.needs_unmet.get_or_create(&[("need", "events".to_owned()), netns]).set(1);
        metrics
    }

    #[test]
    fn the_text_has_the_values() {
        let metrics = metrics();
        let exposition = metrics.exposition();
        set(&metrics.flows_received, 3);
        set(&metrics.flows_received, 5);
        metrics.queue_messages.set(2);
        let text = exposition.text();
        for line in [
            "# HELP flowlog_flows_received Ended flows that were received and that the filter lets through.",
            "# TYPE flowlog_flows_received counter",
            "flowlog_flows_received_total 5",
            "flowlog_queue_messages 2",
            "flowlog_gaps_total{cause=\"overload\"} 2",
            "flowlog_lost_flows_total{cause=\"overload\"} 30",
            "flowlog_lost_flows_total{cause=\"daemon_down\"} 0",
            "flowlog_flow_bytes_total{direction=\"reply\"} 0",
            "flowlog_attributions_total{end=\"dst\",method=\"none\"} 0",
            "flowlog_conntrack_entries{netns=\"own\"} 7",
            concat!("flowlog_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_document_has_all_metrics_and_no_other() {
        let text = metrics().exposition().text();
        let mut rows = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap();
            let of_type = format!("# TYPE {name} ");
            let kind = text.lines().find_map(|line| line.strip_prefix(&of_type)).unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            rows.push(format!("| `{name}{suffix}` | {kind} | {} |", help.trim_end_matches('.')));
        }
        let documented: Vec<_> = DOCUMENT.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(rows == documented, "docs/metrics.md should have:\n{}", rows.join("\n"));
    }
}
