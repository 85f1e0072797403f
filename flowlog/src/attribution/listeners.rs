//! Listeners that are older than the programs. A socket that one of them accepts inherits its owner in the kernel, but
//! for two kinds: one that was accepted or waited for that before the programs ran, and one of a listener of MPTCP, which
//! consists of a socket that the process has, and of a socket of TCP within it that only the kernel reaches. A pure data
//! structure: no clock, no IO.

use std::net::IpAddr;

use crate::record::Holder;

/// A listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// `SO_COOKIE` of the socket that the process has.
    pub cookie: u64,
    /// Who has it; the owner may not be known.
    pub holder: Holder,
    /// The address that it is bound to; one of the two zero addresses if it is bound to none.
    pub bound_addr: [u8; 16],
    /// Its port.
    pub port: u16,
    /// Bound to no address of IPv6, it takes connections over IPv4, too (`IPV6_V6ONLY` is off).
    pub takes_v4: bool,
}

impl Listener {
    /// Whether it would accept a connection to this address.
    fn takes(&self, local_addr: [u8; 16]) -> bool {
        let [bound, local] = [self.bound_addr, local_addr].map(|addr| IpAddr::from(addr).to_canonical());
        match bound {
            IpAddr::V4(bound) => local == bound || bound.is_unspecified() && local.is_ipv4(),
            IpAddr::V6(bound) => {
                local == bound || bound.is_unspecified() && (local.is_ipv6() || self.takes_v4)
            }
        }
    }
}

/// The listeners that are known. There are few, since a walk through /proc found them and no more come, and they are looked
/// through for few sockets.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Remembers a listener.
    pub fn insert(&mut self, listener: Listener) {
        self.remove(listener.cookie);
        self.0.push(listener);
    }

    /// The listener is closed.
    pub fn remove(&mut self, cookie: u64) {
        self.0.retain(|listener| listener.cookie != cookie);
    }

    /// Events were lost, and with them perhaps ends of listeners.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Who has the listener that accepted a connection to this address and port in this namespace; `None` also if it may
    /// be one of several.
    pub fn find(&self, netns_cookie: u64, local_addr: [u8; 16], port: u16) -> Option<&Holder> {
        let mut found = self.0.iter().filter(|listener| {
            listener.port == port
                && listener.holder.owner.netns_cookie == netns_cookie
                && listener.takes(local_addr)
        });
        let first = found.next()?;
        let is_known = first.holder.owner.time_ns != 0;
        (found.next().is_none() && is_known).then_some(&first.holder)
    }
}

#[cfg(test)]
mod tests {
    use flowlog_common::Owner;

    use super::*;
    use crate::attribution::sockets::mapped;
    use crate::record::Origin;
    const HOST: u64 = 1;

    fn addr(text: &str) -> [u8; 16] {
        mapped(text.parse().unwrap())
    }

    fn listener(cookie: u64, bound: &str, takes_v4: bool) -> Listener {
        let tgid = u32::try_from(cookie).unwrap();
        let owner = Owner { tgid, netns_cookie: HOST, time_ns: 1, ..Owner::UNKNOWN };
        let holder = Holder { owner, process: None, origin: Origin::default(), is_seeded: false };
        Listener { cookie, holder, bound_addr: addr(bound), port: 80, takes_v4 }
    }

    fn found(listeners: &[Listener], local: &str) -> Option<u32> {
        let mut all = Listeners::default();
        listeners.iter().for_each(|listener| all.insert(listener.clone()));
        all.find(HOST, addr(local), 80).map(|holder| holder.owner.tgid)
    }

    #[test]
    fn a_listener_takes_what_is_for_its_address() {
        assert_eq!(found(&[listener(1, "0.0.0.0", false)], "10.0.0.1"), Some(1));
        assert_eq!(found(&[listener(1, "0.0.0.0", false)], "fd00::1"), None);
        assert_eq!(found(&[listener(1, "::", true)], "10.0.0.1"), Some(1));
        assert_eq!(found(&[listener(1, "::", false)], "10.0.0.1"), None);
        assert_eq!(found(&[listener(1, "::", false)], "fd00::1"), Some(1));
        assert_eq!(found(&[listener(1, "10.0.0.1", false)], "10.0.0.1"), Some(1));
        assert_eq!(found(&[listener(1, "10.0.0.1", false)], "10.0.0.2"), None);
    }

    #[test]
    fn of_several_none_is_named() {
        let both = [listener(1, "0.0.0.0", false), listener(2, "10.0.0.1", false)];
        assert_eq!(found(&both, "10.0.0.1"), None, "the kernel takes the second, if it still listens");
        assert_eq!(found(&both, "10.0.0.2"), Some(1));
        let mut shared = listener(2, "0.0.0.0", false);
        shared.holder.owner.time_ns = 0;
        assert_eq!(found(&[listener(1, "10.0.0.1", false), shared.clone()], "10.0.0.1"), None);
        assert_eq!(found(&[shared], "10.0.0.1"), None, "several processes have it");
    }

    #[test]
    fn a_listener_counts_until_it_is_closed_and_where_it_is() {
        let mut listeners = Listeners::default();
        listeners.insert(listener(1, "0.0.0.0", false));
        listeners.insert(listener(1, "0.0.0.0", false));
        let is_found =
            |listeners: &Listeners, netns, port| listeners.find(netns, addr("10.0.0.1"), port).is_some();
        assert!(is_found(&listeners, HOST, 80));
        assert!(!is_found(&listeners, HOST + 1, 80) && !is_found(&listeners, HOST, 81));
        listeners.remove(1);
        assert!(!is_found(&listeners, HOST, 80));
    }
}
