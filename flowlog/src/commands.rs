//! What a user starts.
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`config`] | what `run` was told: file, environment, flags | yes |
//! | [`metrics`] | what flowlog says about itself to Prometheus | no |
//! | [`doctor`] | checks and fixes of the host and of namespaces | yes |
//! | [`import`] | saved text = rows of the flow log | yes |
//! | [`conntrack`] | `flowlog conntrack`: conntrack(8) | yes |
//! | [`daemon`] | threads, channel, signals: wires all of the above | yes |
//! | [`cli`] | the command line | yes |

pub mod config;

pub mod metrics;

pub mod doctor;

pub mod import;

pub mod conntrack;

pub mod daemon;

pub mod cli;
