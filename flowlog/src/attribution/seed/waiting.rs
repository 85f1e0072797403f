//! Connections that wait to be accepted: no process has a descriptor of them yet, so /proc does not show whose they are.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

use crate::attribution::sockets::Ends;

/// Room for one datagram of an answer: the kernel sends at most 32 KiB at once (`netlink_dump`).
const ANSWER_BYTES: usize = 64 << 10;

/// A connection that waits to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `SO_COOKIE`, unique until the next boot.
    pub cookie: u64,
    /// Its tuple.
    pub ends: Ends,
}

/// All connections in the network namespace of the calling thread that wait to be accepted (`sock_diag(7)`).
///
/// # Errors
///
/// If the kernel does not list sockets, for example since it has no `tcp_diag`.
pub fn waiting() -> io::Result<Vec<Waiting>> {
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        list(family, &mut all)?;
    }
    Ok(all)
}

fn list(family: u8, all: &mut Vec<Waiting>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        // The peer may have closed it already.
        states: StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answer = vec![0; ANSWER_BYTES];
    loop {
        let len = match socket.recv(&mut answer.as_mut_slice(), 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        let mut rest = answer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                // The kernel tells here that there is no `tcp_diag`.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    all.extend(without_process(&response));
                }
                _ => {}
            }
            let len = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

/// The connection, if no process has it. Only then has it no inode.
fn without_process(response: &InetResponse) -> Option<Waiting> {
    let InetResponse { header, .. } = response;
    let SocketId { source_port, destination_port, source_address, destination_address, cookie, .. } =
        header.socket_id;
    (header.inode == 0).then(|| Waiting {
        cookie: u64::from_ne_bytes(cookie),
        ends: Ends::new(source_address, source_port, destination_address, destination_port),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn is_waiting(client: &TcpStream) -> bool {
        let (local, remote): (SocketAddr, SocketAddr) =
            (client.peer_addr().unwrap(), client.local_addr().unwrap());
        let ends = Ends::new(local.ip(), local.port(), remote.ip(), remote.port());
        waiting().unwrap().into_iter().any(|waiting| waiting.ends == ends)
    }

    #[test]
    fn a_connection_waits_until_it_is_accepted() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert!(is_waiting(&client), "{at}");
            let _accepted = listener.accept().unwrap();
            assert!(!is_waiting(&client), "{at}");
        }
    }
}
