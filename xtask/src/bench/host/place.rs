//! Where it happens: two network namespaces with a cable between them.

use std::time::Duration;

use anyhow::Result;

use crate::bench::run::TRACK;
use crate::bench::table;
use crate::interrupt::Interrupt;
use crate::namespace::Namespace;
use crate::sh;

/// Where servers listen, for clients on the other side.
pub(super) const SERVER: &str = "10.79.0.1";

const CLIENT: &str = "10.79.0.2";

/// How long the kernel may take to remove what it tracks.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);

/// Two namespaces. That of the server tracks, and is watched.
pub(super) struct Place {
    pub(super) server: Namespace,
    pub(super) client: Namespace,
}

impl Place {
    /// # Errors
    ///
    /// When the kernel refuses something.
    pub(super) fn new() -> Result<Self> {
        let place =
            Self { server: Namespace::new("bench", "server")?, client: Namespace::new("bench", "client")? };
        let (server, client) = (&place.server, &place.client);
        server.ip(["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &client.name])?;
        for (namespace, address) in [(server, SERVER), (client, CLIENT)] {
            namespace.ip(["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            namespace.ip(["link", "set", "eth0", "up"])?;
        }
        // However it is watched, the kernel does the same.
        for sysctl in ["nf_conntrack_acct", "nf_conntrack_timestamp"] {
            server.sysctl(&format!("netfilter/{sysctl}"), "1")?;
        }
        sh::output(server.command("nft").arg(TRACK))?;
        Ok(place)
    }

    /// Removes what the kernel tracks: so flows end that would wait for their timeouts. Without someone who has
    /// events held, waits until they are gone.
    ///
    /// # Errors
    ///
    /// When that fails.
    pub(super) fn flush(&self, is_held: bool, interrupt: &Interrupt) -> Result<()> {
        interrupt.wait_for("the kernel to remove entries", FLUSH_LIMIT, || {
            sh::output(self.server.command("conntrack").arg("--flush"))?;
            Ok(is_held || table::entries(&self.server)? == 0)
        })
    }
}
