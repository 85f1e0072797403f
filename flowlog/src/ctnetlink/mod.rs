//! The kernel's connection tracking over netlink: what it reports, and requests to it.
//!
//! | module | what it does |
//! |---|---|
//! | [`uapi`] | numbers with the kernel's names |
//! | [`nla`] | the walk over attributes |
//! | [`decode`] | bytes to [`Flow`](crate::flow::Flow); no IO |
//! | [`encode`] | requests to bytes; no IO |
//! | [`Listener`] | receives the events of destroyed entries |
//! | [`Requests`] | makes, finds, counts and removes entries |
//!
//! A socket belongs to the network namespace in which the calling thread is when it opens the socket,
//! and stays there. To watch another namespace, a thread enters it, opens, and goes back; a
//! [`Listener`] and a [`Requests`] can be sent to another thread.

pub mod decode;
pub mod encode;
mod listener;
pub mod nla;
#[cfg(test)]
mod properties;
mod requests;
pub mod uapi;

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

pub use listener::{Buffers, Datagrams, Delivery, Listener, Losses, Received};
pub use requests::Requests;

/// Why connection tracking cannot be asked or listened to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module `nf_conntrack_netlink` (or `nfnetlink` below it) is not there.
    #[error("this kernel has no ctnetlink; load it with `modprobe nf_conntrack_netlink`")]
    NoCtnetlink(#[source] io::Error),
    /// `EPERM`
    #[error("found no permission to {request}, expected CAP_NET_ADMIN; run as root or grant it")]
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
    #[error("found an answer that cannot be read to: {request}")]
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
