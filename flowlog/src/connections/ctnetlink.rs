//! The kernel's connection tracking over netlink: what it reports, and requests to it.
//!
//! | module | what it does |
//! |---|---|
//! | [`uapi`] | numbers with the kernel's names |
//! | [`nla`] | the walk over attributes |
//! | [`decode`] | bytes to [`Flow`](crate::flow::Flow), or to a whole [`Entry`]; no IO |
//! | [`sets`] | all that a message may hold, as values, in both directions; no IO |
//! | [`encode`] | requests to bytes; no IO |
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
pub mod socket_filter;
pub mod uapi;

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

pub use listener::{Buffers, DATAGRAMS, Datagrams, Delivery, Group, Listener, Losses, Received};
pub use requests::{Filter, Listed, Requests};
pub use sets::{Entry, Expectation};

/// Why connection tracking cannot be asked or listened to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module `nf_conntrack_netlink` (or `nfnetlink` below it) is not there.
    #[error("this kernel has no ctnetlink; load it with `modprobe nf_conntrack_netlink`")]
    NoCtnetlink(#[source] io::Error),
    /// `EPERM`
    #[error("no permission to {request}, expected CAP_NET_ADMIN; run as root or grant it")]
    NotPermitted {
        /// What was tried.
        request: &'static str,
    },
    /// A system call or the kernel's answer to a request failed.
    #[error("cannot {request}")]
    Io {
        /// What was tried.
        request: &'static str,
        /// The error of the system call, or the one in the answer.
        source: io::Error,
    },
    /// An answer of the kernel cannot be read.
    #[error("cannot read the kernel's answer to the request to {request}")]
    Answer {
        /// What was asked.
        request: &'static str,
        /// What is wrong with it.
        source: decode::DecodeError,
    },
}

impl Error {
    fn io(request: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { request },
            _ => Self::Io { request, source },
        }
    }

    /// Whether what was to be listed changed meanwhile.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::Interrupted)
    }

    /// Whether the kernel has nothing that answers such a request.
    pub fn is_unknown_request(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_unknown_request(source))
    }
}

/// `nfnetlink_rcv_msg`: there is no such subsystem, and no module to load for it.
fn is_unknown_request(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32)
}

/// A bound netlink socket of the netfilter family, in the thread's network namespace.
fn open_socket() -> Result<Socket, Error> {
    const REQUEST: &str = "open a netlink socket";
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|error| {
        // EPROTONOSUPPORT: `CONFIG_NETFILTER_NETLINK` is off, or its module is not loaded.
        match nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            nix::errno::Errno::EPROTONOSUPPORT => Error::NoCtnetlink(error),
            _ => Error::io(REQUEST, error),
        }
    })?;
    socket.bind_auto().map_err(|error| Error::io(REQUEST, error))?;
    Ok(socket)
}
