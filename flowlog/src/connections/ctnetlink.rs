//! The kernel's connection tracking over netlink: what it reports, and requests to it.
//!
//! | module | what it does |
//! |---|---|
//! | [`uapi`] | numbers with the kernel's names |
//! | [`nla`] | the walk over attributes, and how they are appended |
//! | [`decode`] | bytes to [`Flow`](crate::flow::Flow), or to a whole [`Entry`]; no IO |
//! | [`sets`] | all that a message may hold, as values, in both directions; no IO |
//! | [`encode`] | requests to bytes; no IO |
//! | `table` | the rules of nftables that make the kernel track, as a request; no IO |
//! | [`socket_filter`] | which events a listener wants, as a program for the kernel; no IO |
//! | [`Listener`] | receives events of entries and expectations |
//! | [`Requests`] | lists, finds, makes, changes, removes and counts entries and expectations |
//!
//! A socket belongs to the network namespace in which the calling thread is when it opens the socket,
//! and stays there. To watch another namespace, a thread enters it, opens, and goes back; a
//! [`Listener`] and a [`Requests`] can be sent to another thread.
//!
//! # Examples
//!
//! All connections over TCP to port 443, listed with the kernel's filter, and their mark set:
//!
//! ```no_run
//! use flowlog::connections::ctnetlink::sets::{L4Attributes, TupleAttributes};
//! use flowlog::connections::ctnetlink::{Filter, Requests, uapi};
//! use flowlog::flow::Tuple;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut requests = Requests::open()?;
//! let proto = L4Attributes { number: Some(6), dst_port: Some(443), ..L4Attributes::default() };
//! let to_https = TupleAttributes { proto: Some(proto), ..TupleAttributes::default() };
//! let filter = Filter { family: Some(uapi::AF_INET), orig: Some(to_https), ..Filter::default() };
//! let mut tuples = Vec::new();
//! requests.list(&filter, |entry| {
//!     if let Some(Ok(tuple)) = entry.ok().and_then(|entry| Some(Tuple::try_from(&entry.orig?))) {
//!         tuples.push(tuple);
//!     }
//! })?;
//! for tuple in &tuples {
//!     requests.update_mark(tuple, None, (0x10, 0xf0))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Setting the labels 0 and 9 of an entry; then everything is removed:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut requests = flowlog::connections::ctnetlink::Requests::open()?;
//! # let flow: flowlog::flow::Flow = todo!();
//! let mut labels = [0; 16];
//! labels[0] = 1 << 0;
//! labels[1] = 1 << 1;
//! requests.update_labels(&flow.orig, flow.zone, (labels, labels))?;
//! requests.flush()?;
//! # Ok(())
//! # }
//! ```
//!
//! Events:
//!
//! ```no_run
//! use flowlog::connections::ctnetlink::{Buffers, Delivery, Group, Listener, Received, decode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut listener = Listener::subscribe(&[Group::New, Group::Destroy], None, Delivery::BestEffort)?;
//! let mut buffers = Buffers::default();
//! match listener.recv(&mut buffers)? {
//!     Received::Datagrams(datagrams) => {
//!         for message in datagrams.iter().flat_map(decode::messages) {
//!             let message = message?;
//!             println!("{:?}: {:?}", message.event(), decode::entry(message.payload)?);
//!         }
//!     }
//!     Received::WouldBlock => {} // wait until the descriptor is readable
//!     Received::Overrun => {}    // events were lost
//! }
//! # Ok(())
//! # }
//! ```

pub mod decode;
pub mod encode;
mod listener;
pub mod nla;
#[cfg(test)]
pub(crate) mod properties;
mod requests;
pub mod sets;
mod socket;
pub mod socket_filter;
mod table;
pub mod uapi;

pub use listener::{
    Buffers, DATAGRAMS, Datagrams, Delivery, Group, Headers, Listener, ListenerLosses, Received, Slots,
};
pub use requests::{Filter, Listed, Requests};
pub use sets::{Entry, Expectation};
pub use socket::Error;
