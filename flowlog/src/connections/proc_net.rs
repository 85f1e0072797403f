//! The text formats of connection tracking: `/proc/net/nf_conntrack`, and what conntrack(8) prints.
//!
//! No IO and no clock: values become text, and lines become values again.

pub mod labels;
pub mod parse;
pub mod print;
#[cfg(any(test, fuzzing))]
pub(crate) mod round_trip;
mod text;
mod words;
pub mod xml;

pub use labels::LabelNames;
pub use words::ParseError;

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
