//! The traffic of measurements: as many short connections as two threads can make over loopback.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::time::{ClockId, clock_gettime};

/// What goes each way: as much as fits into one packet, so that a connection is as cheap as it can be.
const MESSAGE: [u8; 100] = [b'.'; 100];

/// A side that waits for longer has lost the other one.
const LIMIT: Duration = Duration::from_secs(10);

/// What traffic took.
#[derive(Clone, Copy)]
pub(super) struct Took {
    /// By the clock on the wall.
    pub(super) elapsed: Duration,
    /// Of the processors, on both sides. Loopback does the work of the network in the sender's time.
    pub(super) cpu: Duration,
}

/// Makes `count` connections of TCP, one after the other: request, answer, and the client closes.
///
/// # Errors
///
/// When the kernel refuses a socket or a connection.
pub(super) fn tcp(count: u32) -> Result<Took> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot listen")?;
    // For `accept`, and inherited by what it gives.
    setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::seconds(LIMIT.as_secs().try_into()?))?;
    let port = listener.local_addr()?.port();
    let serve = move || {
        let mut message = MESSAGE;
        for _ in 0..count {
            let (mut stream, _) = listener.accept()?;
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
            ensure!(stream.read(&mut message)? == 0, "more than one request came");
        }
        Ok(())
    };
    both(serve, || {
        let mut message = MESSAGE;
        for number in 0..count {
            let mut stream = TcpStream::connect_timeout(&server(number, port), LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
        }
        Ok(())
    })
}

/// Sends `count` datagrams, each from a connected socket of its own, to a server that answers them.
///
/// # Errors
///
/// When the kernel refuses a socket, or an answer does not come.
pub(super) fn udp(count: u32) -> Result<Took> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot bind a UDP socket")?;
    socket.set_read_timeout(Some(LIMIT))?;
    let port = socket.local_addr()?.port();
    let serve = move || {
        let mut message = MESSAGE;
        for _ in 0..count {
            let (_, client) = socket.recv_from(&mut message)?;
            socket.send_to(&message, client)?;
        }
        Ok(())
    };
    both(serve, || {
        let mut message = MESSAGE;
        for _ in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect((Ipv4Addr::LOCALHOST, port))?;
            socket.set_read_timeout(Some(LIMIT))?;
            socket.send(&message)?;
            socket.recv(&mut message)?;
        }
        Ok(())
    })
}

/// Runs `count` programs that end at once, one after the other.
///
/// # Errors
///
/// When there is no `true` to run.
pub(super) fn processes(count: u32) -> Result<()> {
    for _ in 0..count {
        let status = Command::new("true").stdin(Stdio::null()).status().context("cannot run `true`")?;
        ensure!(status.success(), "`true` ended with {status}");
    }
    Ok(())
}

/// Another address for each connection: the ports of one would be used up, since the kernel keeps those of
/// connections that have ended for a minute.
fn server(number: u32, port: u16) -> SocketAddr {
    let [_, _, high, low] = (number % 60_000).to_be_bytes();
    SocketAddr::from(([127, 1, high, low], port))
}

/// Runs both sides to their end, each on a thread of its own.
fn both(serve: impl FnOnce() -> Result<()> + Send, ask: impl FnOnce() -> Result<()> + Send) -> Result<Took> {
    let start = Instant::now();
    thread::scope(|scope| {
        let threads = [scope.spawn(|| with_cpu_time(serve)), scope.spawn(|| with_cpu_time(ask))];
        let [server, client] =
            threads.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // Where the client fails, the server waits in vain: that is not the cause.
        let cpu = client.context("the client failed")? + server.context("the server failed")?;
        Ok(Took { elapsed: start.elapsed(), cpu })
    })
}

fn with_cpu_time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    work()?;
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
