//! What a user starts: the commands, and what they are made of.
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`arguments`] | arguments that several commands have | no |
//! | [`terminal`] | tables and progress on a terminal | yes |
//! | [`config`] | what `run` was told: file, environment, flags | yes |
//! | [`metrics`] | what flowlog says about itself to Prometheus | no |
//! | [`schema`] | `flowlog schema` | yes |
//! | [`verify`] | `flowlog verify` | yes |
//! | [`import`] | `flowlog import`: saved text = rows of the flow log | yes |
//! | [`conntrack`] | `flowlog conntrack`: conntrack(8) | yes |
//! | [`doctor`] | `flowlog doctor`: checks and fixes of the host and of namespaces | yes |
//! | [`external`] | commands that are programs of their own: `flowlog NAME` executes `flowlog-NAME` | yes |
//! | [`daemon`] | threads, channel, signals: wires all of the above | yes |
//! | [`run`] | `flowlog run`: the start of the daemon | yes |
//! | [`cli`] | the command line | yes |

pub mod arguments;

pub mod terminal;

pub mod config;

pub mod metrics;

pub mod schema;

pub mod verify;

pub mod import;

pub mod conntrack;

pub mod doctor;

pub mod external;

pub mod daemon;

pub mod run;

pub mod cli;
