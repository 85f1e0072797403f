//! The least that a reader can do: receive, count, forget. What flowlog costs beyond this is its own.
//!
//! One datagram a call: with several (`recvmmsg`) it costs the same. What counts is how often the reader
//! waits, since each time it has to be woken: so there is a pause, as an option.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use flowlog::connections::ctnetlink::{Delivery, Listener};
use flowlog::connections::filter::FlowFilter;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv};
use serde_json::{Value, json};

/// Room for one datagram, which has some hundred bytes.
const DATAGRAM_BYTES: usize = 8192;

/// Arguments of `load receive`.
#[derive(clap::Args)]
pub(crate) struct Receive {
    /// Size of the receive buffer in bytes
    #[arg(long)]
    buffer: usize,
    /// How long it sleeps, in microseconds, whenever nothing is there
    #[arg(long)]
    pause: Option<u64>,
}

impl Receive {
    pub(crate) fn run(&self) -> Result<Value> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        let listener = Listener::open(self.buffer, Delivery::Reliable, &FlowFilter::default())?;
        let mut datagram = [0; DATAGRAM_BYTES];
        let mut received = 0_u64;
        loop {
            match recv(listener.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Ok(_) => received += 1,
                Err(Errno::EAGAIN) => {
                    if let Some(pause) = self.pause {
                        thread::sleep(Duration::from_micros(pause));
                    }
                    let mut wanted =
                        [listener.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                    poll(&mut wanted, PollTimeout::NONE).context("cannot wait for events")?;
                    let [events, stop] = wanted.map(|fd| fd.any().unwrap_or(true));
                    if stop && !events {
                        return Ok(json!({ "received": received }));
                    }
                }
                // The kernel sends again what did not fit.
                Err(Errno::ENOBUFS) => {}
                Err(error) => bail!("cannot receive events: {error}"),
            }
        }
    }
}
