//! A network namespace that is watched: its listener, and what has to be known of it.

use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tracing::warn;

use super::one_line;
use crate::ctnetlink::Listener;
use crate::namespace::Namespace;
use crate::sockets::mapped;
use crate::timeouts::Timeouts;

/// How often addresses and timeouts of the namespaces are read. A server on an address that is newer has
/// no process until then.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// One network namespace.
pub(super) struct Watched {
    pub(super) namespace: Namespace,
    /// Its cookie, as sockets have it.
    pub(super) netns_cookie: Option<u64>,
    pub(super) local_addrs: Vec<[u8; 16]>,
    pub(super) timeouts: Timeouts,
    pub(super) listener: Listener,
}

impl Watched {
    /// Its name for messages.
    pub(super) fn name(&self) -> &str {
        self.namespace.name().unwrap_or("own")
    }

    /// Reads addresses and timeouts again. Where that fails the old ones are kept.
    pub(super) fn refresh(&mut self) {
        match self.namespace.run(|| (local_addrs(), Timeouts::read())) {
            Ok((Ok(local_addrs), timeouts)) => {
                self.local_addrs = local_addrs;
                self.timeouts = timeouts;
            }
            Ok((Err(error), _)) => warn!("cannot read the addresses of `{}`: {error}", self.name()),
            Err(error) => warn!("{}", one_line(&error)),
        }
    }
}

/// The addresses of the interfaces in the namespace of this thread, as v4-mapped; sorted.
fn local_addrs() -> nix::Result<Vec<[u8; 16]>> {
    let mut addrs: Vec<[u8; 16]> = getifaddrs()?
        .filter_map(|interface| {
            let addr = interface.address?;
            let v4 = addr.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
            v4.or_else(|| addr.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip()))).map(mapped)
        })
        .collect();
    addrs.sort_unstable();
    addrs.dedup();
    Ok(addrs)
}
