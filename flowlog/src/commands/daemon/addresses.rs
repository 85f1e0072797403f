//! The addresses of a watched namespace: what the kernel tells of them, with the times that it does not tell.

use std::io;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::time::ClockId;
use tracing::warn;

use super::clock::now_ns;
use super::said::Doubling;
use crate::attribution::addresses::{Addresses, Window};
use crate::attribution::rtnetlink::{Change, Read, Watcher};
use crate::causes::one_line;
use crate::host::namespace::Namespace;

/// The addresses of a namespace, now and before.
#[derive(Default)]
pub(super) struct LocalAddresses {
    addresses: Addresses,
    /// None where the kernel refuses a socket at the start: then the addresses are not known, and it is tried again.
    watcher: Option<Watcher>,
    /// `CLOCK_MONOTONIC` until which all changes are known.
    complete_ns: u64,
    /// Changes were lost: the list of all is needed, after what is still to be read.
    has_lost: bool,
    /// It was said that they are not known.
    has_said: bool,
    /// Addresses that were said to be forgotten.
    said_forgotten: Doubling,
}

impl LocalAddresses {
    /// Subscribes in the namespace. `epoll` tells of changes: the sooner one is read, the better its time is known.
    pub(super) fn open(namespace: &Namespace, epoll: &Epoll) -> Self {
        let mut local = Self::default();
        local.subscribe(namespace);
        if let Some(watcher) = &local.watcher
            && let Err(error) = epoll.add(watcher, EpollEvent::new(EpollFlags::EPOLLIN, namespace.inode()))
        {
            warn!(
                "flowlog sees changes of addresses late, so flows that begin at that moment may have the wrong direction: \
                 cannot watch the netlink socket: {error}"
            );
        }
        local
    }

    /// What is known.
    pub(super) fn known(&self) -> &Addresses {
        &self.addresses
    }

    /// Takes in the changes that are there. To be called before flows are joined.
    pub(super) fn read(&mut self, namespace: Option<&str>) {
        let Self { addresses, watcher: Some(watcher), complete_ns, has_lost, .. } = self else { return };
        let before_ns = now_ns(ClockId::CLOCK_MONOTONIC);
        let after_ns = *complete_ns;
        let read = watcher.read(|change| {
            let when = Window { after_ns, by_ns: now_ns(ClockId::CLOCK_MONOTONIC) };
            match change {
                Change::Came(prefix, holder) => addresses.add(prefix, holder, when),
                Change::Gone(prefix, holder) => addresses.remove(prefix, holder, when),
            }
        });
        match read {
            Ok(Read::All) if *has_lost => self.list(namespace),
            Ok(Read::All) => *complete_ns = before_ns,
            Ok(Read::More) => {}
            // What was queued before comes first: the next read, and a tick at the latest, gets to the list.
            Ok(Read::Overrun) => *has_lost = true,
            Err(error) => self.failed(namespace, &error),
        }
    }

    /// No change waits to be read, as of this time of `CLOCK_MONOTONIC`.
    pub(super) fn are_complete(&mut self, at_ns: u64) {
        if self.watcher.is_some() && !self.has_lost {
            self.complete_ns = at_ns;
        }
    }

    /// Lists all addresses, as a check on what was told: of some routes that go with their interface, the kernel tells
    /// nothing.
    pub(super) fn refresh(&mut self, namespace: &Namespace) {
        if self.watcher.is_none() {
            self.subscribe(namespace);
        }
        self.read(namespace.name());
        self.list(namespace.name());
        self.addresses.expire(now_ns(ClockId::CLOCK_MONOTONIC));
        let forgotten = self.addresses.forgotten();
        if self.said_forgotten.is_due(forgotten) {
            warn!(
                "forgot {forgotten} addresses that are gone, because too many come and go: flows that began while they \
                 were there may have the wrong direction, and no process for datagram servers"
            );
        }
    }

    fn list(&mut self, namespace: Option<&str>) {
        let Self { addresses, watcher: Some(watcher), complete_ns, has_lost, .. } = self else { return };
        let before_ns = now_ns(ClockId::CLOCK_MONOTONIC);
        match watcher.list() {
            Ok(all) => {
                // What is there at the start may have been there ever since.
                let by_ns = if *complete_ns == 0 { 0 } else { now_ns(ClockId::CLOCK_MONOTONIC) };
                addresses.replace(&all, Window { after_ns: *complete_ns, by_ns });
                *complete_ns = before_ns;
                *has_lost = false;
                self.has_said = false;
            }
            Err(error) => self.failed(namespace, &error),
        }
    }

    fn subscribe(&mut self, namespace: &Namespace) {
        match namespace.run(Watcher::open) {
            Ok(Ok(watcher)) => {
                self.watcher = Some(watcher);
                // Before changes are taken in, of which some are in the list already.
                self.list(namespace.name());
            }
            Ok(Err(error)) => self.failed(namespace.name(), &error),
            Err(error) => warn!("{}", one_line(&error)),
        }
    }

    /// A list is needed.
    fn failed(&mut self, namespace: Option<&str>, error: &io::Error) {
        self.has_lost = true;
        if !std::mem::replace(&mut self.has_said, true) {
            warn!(
                "cannot read the addresses of the network namespace `{}`, flowlog keeps trying: {error}; flows of \
                 addresses that come or go meanwhile may have the wrong direction, and no process for datagram servers",
                namespace.unwrap_or("own")
            );
        }
    }
}
