//! Every attribute set of ctnetlink as a plain value: what a message may hold, all of it optional.
//!
//! [`decode::flow`](super::decode::flow) takes from a message what the log needs, and as cheaply as
//! possible. These take everything, in both directions: what was decoded is encoded again, with what
//! this version does not know ([`Unknown`]). So they serve requests too, where a part of a tuple is a
//! filter, and a tuple of ones and zeros is a mask.
//!
//! A set is a list of `kernel name => field: type`, which `set!` turns into a struct with its
//! decoding and encoding; `flowlog/docs/ctnetlink.md` lists them all. No IO. Numbers are in host order.

mod convert;
mod entry;
mod expectation;
mod statistics;
mod tuple;
mod value;

pub use entry::{
    CounterAttributes, DccpInfo, Entry, FilterFlags, Helper, NatProto, NatRange, ProtoInfo, SctpInfo,
    SecurityContext, SeqAdj, SynProxy, TcpFlags, TcpInfo, Timestamps, TupleFlags,
};
pub use expectation::{Expectation, ExpectationFlags, ExpectationNat};
pub use statistics::{CpuStatistics, ExpectationStatistics, GlobalStatistics};
pub use tuple::{IpAttributes, L4Attributes, TupleAttributes};
pub(super) use value::Set;
pub use value::{Name, Unknown};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod specification;
#[cfg(test)]
mod tests;
