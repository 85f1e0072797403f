//! What is waited for: the sockets of all network namespaces.

use std::collections::HashSet;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::turns::FEW;

/// What all sockets of all namespaces are waited for with.
pub(super) struct Sockets {
    /// Readable when any of them is.
    pub(super) readable: Epoll,
    /// Readable when one with changes of addresses is.
    pub(super) changes: Epoll,
}

impl Sockets {
    pub(super) fn new() -> Result<Self> {
        const WHAT: &str = "cannot make an epoll instance";
        let [readable, changes] = [(); 2].map(|()| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(WHAT));
        let (readable, changes) = (readable?, changes?);
        readable
            .add(&changes.0, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .context("cannot watch epoll instances")?;
        Ok(Self { readable, changes })
    }

    /// The network namespaces whose events, and whose changes of addresses, wait to be read, of so many; `None` where they
    /// are so few that to read each costs less than to ask.
    pub(super) fn ready(&self, watched: usize) -> Option<Ready> {
        if watched <= FEW {
            return None;
        }
        let addresses = waiting(&self.changes, watched)?;
        Some(Ready { events: waiting(&self.readable, watched + 1)?, addresses })
    }
}

/// Network namespaces of which something waits to be read, by inode.
pub(super) struct Ready {
    pub(super) events: HashSet<u64>,
    pub(super) addresses: HashSet<u64>,
}

fn waiting(epoll: &Epoll, most: usize) -> Option<HashSet<u64>> {
    let mut events = vec![EpollEvent::empty(); most];
    let count = epoll.wait(&mut events, EpollTimeout::ZERO).ok()?;
    Some(events.iter().take(count).map(EpollEvent::data).collect())
}
