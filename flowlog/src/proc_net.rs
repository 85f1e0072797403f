//! The text formats of connection tracking: `/proc/net/nf_conntrack`, and what conntrack(8) prints.
//!
//! No IO and no clock: values become text.

pub mod labels;
pub mod print;
mod text;
pub mod xml;

pub use labels::LabelNames;

#[cfg(test)]
mod tests;
