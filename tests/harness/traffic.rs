//! Connections of every kind between two namespaces, each bounded in time.
//!
//! The server binds to `at`; the client sends to `to`, which differs where NAT is on the way.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::namespace::Namespace;
use super::wait::LIMIT;

/// Client and server of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a Namespace,
    pub(crate) server: &'a Namespace,
}

impl Ends<'_> {
    /// TCP: both sides send, the client closes first.
    #[track_caller]
    pub(crate) fn tcp_closed(self, at: SocketAddr, to: SocketAddr) {
        let (mut client, mut server) = self.tcp_open(at, to);
        client.write_all(b"request").unwrap();
        let mut request = [0; 7];
        server.read_exact(&mut request).unwrap();
        server.write_all(b"a longer answer").unwrap();
        let mut answer = [0; 15];
        client.read_exact(&mut answer).unwrap();
        drop(client);
        // The end of the stream: the server closes after it has seen the client's FIN.
        assert_eq!(server.read(&mut request).unwrap(), 0);
    }

    /// TCP: the client resets the connection.
    #[track_caller]
    pub(crate) fn tcp_reset(self, at: SocketAddr, to: SocketAddr) {
        let (mut client, mut server) = self.tcp_open(at, to);
        client.write_all(b"request").unwrap();
        let mut request = [0; 7];
        server.read_exact(&mut request).unwrap();
        reset_on_close(&client);
        drop(client);
        assert_eq!(server.read(&mut request).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    /// TCP: nobody listens at the server's address.
    #[track_caller]
    pub(crate) fn tcp_refused(self, to: SocketAddr) {
        let refused = self.client.inside(|| TcpStream::connect_timeout(&to, LIMIT));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    /// TCP: one SYN that is never answered; rules of the server must drop it.
    #[track_caller]
    pub(crate) fn tcp_half_open(self, to: SocketAddr) {
        // Shorter than the second after which a SYN is sent again.
        let timeout = Duration::from_millis(200);
        let unanswered = self.client.inside(|| TcpStream::connect_timeout(&to, timeout));
        assert_eq!(unanswered.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    /// TCP: a connection that stays open as long as both streams live.
    #[track_caller]
    pub(crate) fn tcp_open(self, at: SocketAddr, to: SocketAddr) -> (TcpStream, TcpStream) {
        let listener = self.server.inside(|| TcpListener::bind(at)).unwrap();
        let client = self.client.inside(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        (client, server)
    }

    /// UDP: one datagram and its answer.
    #[track_caller]
    pub(crate) fn udp_answered(self, at: SocketAddr, to: SocketAddr) {
        let (client, server) = self.udp_request(at, to);
        let mut request = [0; 64];
        let (_, from) = server.recv_from(&mut request).unwrap();
        server.send_to(b"a longer answer", from).unwrap();
        let mut answer = [0; 64];
        assert_eq!(client.recv_from(&mut answer).unwrap(), (15, to));
    }

    /// UDP: a datagram that arrives and gets no answer.
    #[track_caller]
    pub(crate) fn udp_unanswered(self, at: SocketAddr, to: SocketAddr) {
        let (_client, server) = self.udp_request(at, to);
        server.recv_from(&mut [0; 64]).unwrap();
    }

    /// ICMP or ICMPv6: one echo request and its reply.
    #[track_caller]
    pub(crate) fn ping(self, to: IpAddr) {
        let mut command = Command::new("ping");
        command.args(["-c", "1", "-W", "10", &to.to_string()]);
        self.client.exec(command);
    }

    fn udp_request(self, at: SocketAddr, to: SocketAddr) -> (UdpSocket, UdpSocket) {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let server = self.server.inside(|| UdpSocket::bind(at)).unwrap();
        let client = self.client.inside(|| UdpSocket::bind((any, 0))).unwrap();
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
        }
        client.send_to(b"request", to).unwrap();
        (client, server)
    }
}

/// Makes the close of a stream send RST and forget the connection at once.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}
