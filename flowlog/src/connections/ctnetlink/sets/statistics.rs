//! Numbers about connection tracking as a whole.

use super::super::nla::{Attributes, DecodeError};
use super::super::uapi::*;
use super::value::{Value, set};

set! {
    /// `enum ctattr_stats_global`
    GlobalStatistics {
        CTA_STATS_GLOBAL_ENTRIES => entries: u32,
        CTA_STATS_GLOBAL_MAX_ENTRIES => max_entries: u32,
    }

    /// `enum ctattr_stats_cpu`: counters of one CPU. Kernels send only those that they still use.
    CpuStatistics {
        CTA_STATS_SEARCHED => searched: u32,
        CTA_STATS_FOUND => found: u32,
        CTA_STATS_NEW => new: u32,
        CTA_STATS_INVALID => invalid: u32,
        CTA_STATS_IGNORE => ignore: u32,
        CTA_STATS_DELETE => delete: u32,
        CTA_STATS_DELETE_LIST => delete_list: u32,
        CTA_STATS_INSERT => insert: u32,
        CTA_STATS_INSERT_FAILED => insert_failed: u32,
        CTA_STATS_DROP => drop: u32,
        CTA_STATS_EARLY_DROP => early_drop: u32,
        CTA_STATS_ERROR => error: u32,
        CTA_STATS_SEARCH_RESTART => search_restart: u32,
        CTA_STATS_CLASH_RESOLVE => clash_resolve: u32,
        CTA_STATS_CHAIN_TOOLONG => chain_toolong: u32,
    }

    /// `enum ctattr_expect_stats`: counters of one CPU.
    ExpectationStatistics {
        CTA_STATS_EXP_NEW => new: u32,
        CTA_STATS_EXP_CREATE => create: u32,
        CTA_STATS_EXP_DELETE => delete: u32,
    }
}
