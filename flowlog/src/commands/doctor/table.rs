//! Whether the connection tracking table of a network namespace has room, and had it: from the kernel's counters, and
//! from what flowlog declared in its ledger.

use std::path::Path;

use flowlog_reader::gaps::{Cause, Gap};
use flowlog_reader::layout;
use flowlog_reader::ledger::{Entry, Event, Line};
use jiff::{Timestamp, Unit};

use super::{Finding, Level};
use crate::connections::ctnetlink::Requests;
use crate::host::kernel_losses::{Counted, KernelLosses};

const CHECK: &str = "connection tracking table";

/// How long an entry lives: most are closed TCP connections, which stay for two minutes
/// (`nf_conntrack_tcp_timeout_time_wait`).
const LIFE_US: i64 = 120_000_000;

/// Above this part of its limit the table is nearly full.
const NEARLY_FULL_PERCENT: u64 = 90;

/// Checks the table of the namespace of the calling thread, which flowlog calls `netns`; `output` is the directory of
/// the flow log.
pub fn check_table(netns: &str, output: &Path) -> Finding {
    let (entries, max, counted) = match counts() {
        Ok(counts) => counts,
        Err(error) => {
            let found = format!("cannot be read: {}", crate::causes::one_line(&error));
            return Finding::bad(CHECK, Level::Warning, found, "run as root");
        }
    };
    let full = Full::of_ledger(netns, output);
    // A limit of 0 is none.
    if max == 0 {
        return Finding::ok(CHECK, format!("{entries} entries, without a limit"));
    }
    let mut found = format!("{entries} of {max} entries");
    if let Some(last) = full.last_us.and_then(|us| Timestamp::from_microsecond(us).ok()) {
        let last = last.round(Unit::Second).unwrap_or(last);
        found += &format!(", last full at {last} ({} packets of new connections dropped in all)", full.lost);
    } else if counted.refused() > 0 {
        found += &format!(", {} packets of new connections dropped since boot", counted.refused());
    }
    if counted.early_drop > 0 {
        found += &format!(", {} entries removed early since boot", counted.early_drop);
    }
    let is_nearly_full = u64::from(entries) * 100 >= u64::from(max) * NEARLY_FULL_PERCENT;
    if full.last_us.is_none() && counted.refused() + counted.early_drop == 0 && !is_nearly_full {
        return Finding::ok(CHECK, found);
    }
    let size = size(max, full.worst);
    // An entry takes 256 to 320 bytes, and a bucket for each of them 8 (`nf_conntrack_init_start`).
    let memory_mib = (u64::from(size) * 328) >> 20;
    let advice = format!(
        "sysctl -w net.netfilter.nf_conntrack_max={size}, which takes {memory_mib} MiB when it is full"
    );
    Finding::bad(CHECK, Level::Warning, found, advice)
}

fn counts() -> Result<(u32, u32, Counted), crate::connections::ctnetlink::Error> {
    let mut requests = Requests::open()?;
    let entries = requests.count()?;
    let max = super::tracking::read_number("nf_conntrack_max").map_err(|source| {
        crate::connections::ctnetlink::Error::Io { request: "read the sysctl nf_conntrack_max", source }
    })?;
    let mut processors = Vec::new();
    requests.cpu_statistics(|cpu, statistics| processors.push((cpu, statistics)))?;
    Ok((entries, max, KernelLosses::from_zero().read(processors)))
}

/// The size that had been enough: for what was dropped while an entry lived, too, and at least twice as many.
fn size(max: u32, dropped: u64) -> u32 {
    let wanted = u64::from(max).saturating_add(dropped).max(u64::from(max).saturating_mul(2));
    u32::try_from(wanted.next_power_of_two()).unwrap_or(1 << 31)
}

/// When the table was full, as flowlog declared it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Full {
    last_us: Option<i64>,
    lost: u64,
    /// The most that was dropped in the life of an entry.
    worst: u64,
}

impl Full {
    /// Where there is no ledger, nothing is known.
    fn of_ledger(netns: &str, output: &Path) -> Self {
        let Ok(lines) = flowlog_reader::ledger::lines(&output.join(layout::LEDGER)) else {
            return Self::default();
        };
        let gaps = lines.filter_map(|entry| match entry {
            Ok(Entry { line: Ok(Line { event: Event::Gap(declared), .. }), .. }) => Some(declared.loss),
            _ => None,
        });
        Self::of(netns, gaps)
    }

    fn of(netns: &str, gaps: impl Iterator<Item = Gap>) -> Self {
        let place = format!("network namespace `{netns}`:");
        let mut full = Self::default();
        let mut recent = std::collections::VecDeque::new();
        let mut in_recent = 0_u64;
        for gap in gaps {
            let is_here = gap.detail.as_ref().is_some_and(|detail| detail.starts_with(&place));
            if gap.cause != Cause::ConntrackFull || !is_here {
                continue;
            }
            let lost = gap.lost_flows.unwrap_or_default();
            full.last_us = full.last_us.max(Some(gap.to_us));
            full.lost = full.lost.saturating_add(lost);
            recent.push_back((gap.to_us, lost));
            in_recent = in_recent.saturating_add(lost);
            while let Some(&(to_us, lost)) = recent.front()
                && to_us < gap.to_us.saturating_sub(LIFE_US)
            {
                recent.pop_front();
                in_recent = in_recent.saturating_sub(lost);
            }
            full.worst = full.worst.max(in_recent);
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowlog_reader::gaps::Stage;

    #[test]
    fn the_worst_time_of_the_namespace_counts() {
        let gap = |netns: &str, at_s: i64, lost| Gap {
            lost_flows: Some(lost),
            detail: Some(format!("network namespace `{netns}`: full")),
            ..Gap::new(Cause::ConntrackFull, Stage::Kernel, at_s * 1_000_000, at_s * 1_000_000)
        };
        let gaps = [gap("blue", 10, 5), gap("blue", 100, 7), gap("red", 100, 900), gap("blue", 500, 3)];
        let expected = Full { last_us: Some(500_000_000), lost: 15, worst: 12 };
        assert_eq!(Full::of("blue", gaps.into_iter()), expected);
    }

    #[test]
    fn a_size_is_at_least_twice_as_large() {
        assert_eq!(
            [size(1000, 0), size(1024, 5), size(1024, 9000), size(u32::MAX, 7)],
            [2048, 2048, 16384, 1 << 31]
        );
    }
}
