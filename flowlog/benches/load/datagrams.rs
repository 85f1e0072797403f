//! A program that asks and never listens long: a socket for each datagram, as resolvers have it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, connect, send, socket};
use serde_json::{Value, json};

/// As long as a short question.
const MESSAGE: [u8; 40] = [b'.'; 40];

/// Arguments of `load datagrams`.
#[derive(clap::Args)]
pub(crate) struct Datagrams {
    /// Port on loopback that they go to
    #[arg(long)]
    port: u16,
    /// For how long
    #[arg(long)]
    seconds: u64,
}

impl Datagrams {
    pub(crate) fn run(&self) -> Result<Value> {
        let server = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port));
        let (start, wanted) = (Instant::now(), Duration::from_secs(self.seconds));
        let mut sent = 0_u64;
        while start.elapsed() < wanted {
            let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
                .context("cannot make a UDP socket")?;
            connect(socket.as_raw_fd(), &server).context("cannot connect a UDP socket")?;
            send(socket.as_raw_fd(), &MESSAGE, MsgFlags::empty()).context("cannot send a datagram")?;
            sent += 1;
        }
        Ok(json!({ "sent": sent, "seconds": start.elapsed().as_secs_f64() }))
    }
}
