//! The network of the demo: three namespaces in a row, with NAT in the middle one.
//!
//! ```text
//! client 10.77.1.2 ---- 10.77.1.1 router 198.51.100.1 ---- 198.51.100.2 server
//!        fd77::2        fd77::1          2001:db8::1       2001:db8::2
//! ```
//!
//! Towards the server the router puts its own address in place of the client's (the server has no
//! route to the client), and its port 8080 is the server's port 80. All settings are made inside of
//! the namespaces: the host's own network is left alone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::interrupt::Interrupt;
use crate::namespace::Namespace;
use crate::sh;

/// The router as the client reaches it.
pub(super) const ROUTER: (&str, &str) = ("10.77.1.1", "fd77::1");

/// The server.
pub(super) const SERVER: (&str, &str) = ("198.51.100.2", "2001:db8::2");

const NAT: &str = "\
table inet demo {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        iifname client meta nfproto ipv4 tcp dport 8080 dnat ip to 198.51.100.2:80
        iifname client meta nfproto ipv6 tcp dport 8080 dnat ip6 to [2001:db8::2]:80
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname server meta nfproto ipv4 snat ip to 198.51.100.1
        oifname server meta nfproto ipv6 snat ip6 to 2001:db8::1
    }
}";

/// Names below `/proc/sys/net/netfilter/nf_conntrack_` of the timeouts of what has ended. They are
/// up to two minutes; the demo sets one second.
const TIMEOUTS: [&str; 8] = [
    "tcp_timeout_time_wait",
    "tcp_timeout_close",
    "tcp_timeout_close_wait",
    "tcp_timeout_last_ack",
    "udp_timeout",
    "udp_timeout_stream",
    "icmp_timeout",
    "icmpv6_timeout",
];

/// How long connections may take to end after the traffic. The rest is removed by hand.
const EMPTY_LIMIT: Duration = Duration::from_secs(8);

/// The three namespaces. Dropping them removes them, with all that is in them.
pub(super) struct Network {
    /// Makes the connections.
    pub(super) client: Namespace,
    /// Forwards them, with NAT.
    pub(super) router: Namespace,
    /// Answers them.
    pub(super) server: Namespace,
}

impl Network {
    /// Makes the network.
    ///
    /// # Errors
    ///
    /// When the kernel or one of the tools refuses any part of it.
    pub(super) fn new() -> Result<Self> {
        let client = Namespace::new("demo", "client")?;
        let router = Namespace::new("demo", "router")?;
        let server = Namespace::new("demo", "server")?;

        for host in [&client, &server] {
            // Both ends are made where they belong, so that they never appear in the host's network.
            let peer = ["peer", "name", "uplink", "netns", &host.name];
            router.ip(["link", "add", "name", host.role, "type", "veth"].into_iter().chain(peer))?;
            host.ip(["link", "set", "uplink", "up"])?;
            router.ip(["link", "set", host.role, "up"])?;
        }

        address(&client, "10.77.1.2/24", "fd77::2/64", "uplink")?;
        address(&router, "10.77.1.1/24", "fd77::1/64", "client")?;
        address(&router, "198.51.100.1/24", "2001:db8::1/64", "server")?;
        address(&server, "198.51.100.2/24", "2001:db8::2/64", "uplink")?;
        client.ip(["route", "add", "default", "via", ROUTER.0])?;
        client.ip(["route", "add", "default", "via", ROUTER.1])?;

        router.sysctl("ipv4/ip_forward", "1")?;
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
        sh::output(router.command("nft").arg(NAT))?;
        Ok(Self { client, router, server })
    }
}

/// Makes conntrack forget what has ended after a second, rather than after minutes.
///
/// # Errors
///
/// When a timeout cannot be set: the namespace does not track connections.
pub(super) fn shorten_conntrack_timeouts(namespace: &Namespace) -> Result<()> {
    for timeout in TIMEOUTS {
        namespace.sysctl(&format!("netfilter/nf_conntrack_{timeout}"), "1")?;
    }
    Ok(())
}

/// Waits until conntrack has let all connections of the namespace go, and removes what is left.
///
/// # Errors
///
/// When conntrack cannot be asked, or a signal came.
pub(super) fn empty_conntrack(namespace: &Namespace, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    interrupt.wait_for("conntrack to be empty", EMPTY_LIMIT * 2, || {
        // Listing removes what has expired: the kernel's own collector may take a minute.
        for family in ["ipv4", "ipv6"] {
            sh::output(namespace.command("conntrack").args(["-L", "-f", family]))?;
        }
        if start.elapsed() > EMPTY_LIMIT {
            sh::output(namespace.command("conntrack").arg("-F"))?;
        }
        let count = sh::output(namespace.command("conntrack").arg("-C"))?;
        Ok(count.trim().parse::<u64>().context("conntrack -C printed no number")? == 0)
    })
}

/// Without duplicate detection, which takes seconds and has nobody to ask here.
fn address(namespace: &Namespace, ipv4: &str, ipv6: &str, device: &str) -> Result<()> {
    namespace.ip(["address", "add", ipv4, "dev", device])?;
    namespace.ip(["address", "add", ipv6, "dev", device, "nodad"])
}
