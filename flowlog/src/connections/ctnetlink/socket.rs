//! The socket through which the kernel is asked and listened to, and why it cannot be.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::nla::DecodeError;

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
    #[error("cannot read the kernel's answer to the request to {request}")]
    Answer {
        /// What was asked.
        request: &'static str,
        /// What is wrong with it.
        source: DecodeError,
    },
}

impl Error {
    pub(super) fn io(request: &'static str, source: io::Error) -> Self {
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
pub(super) fn is_unknown_request(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32)
}

/// A bound netlink socket of the netfilter family, in the thread's network namespace.
pub(super) fn open_socket() -> Result<Socket, Error> {
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
