//! `-E`: events as they come, until SIGINT or SIGTERM.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::commands::Command;
use super::failure::{Failure, PREFIX, say};
use super::matching::Matcher;
use super::parse::Invocation;
use super::printer::Printer;
use super::requester::Requester;
use super::values::EventMask;
use crate::connections::ctnetlink::decode::{self, EventKind, Message};
use crate::connections::ctnetlink::{Buffers, Delivery, Group, Listener, Received};

/// Prints events of entries.
pub(super) fn entries(line: &Invocation) -> Result<u64, Failure> {
    let matcher = Matcher::new(line)?;
    let EventMask { new, update, destroy } = line.events.unwrap_or(EventMask::ALL);
    let groups = [(new, Group::New), (update, Group::Update), (destroy, Group::Destroy)];
    let groups: Vec<Group> = groups.into_iter().filter(|(on, _)| *on).map(|(_, group)| group).collect();
    let mut printer = Printer::new(line, Some("conntrack"))?;
    watch(line, Command::Event, &groups, &mut printer, |printer, requester, message| {
        let event = message.event();
        let entry = match decode::entry(message.payload) {
            Ok(entry) if event != EventKind::Other && matcher.fits(&entry) => entry,
            _ => return Ok(0),
        };
        printer.event(&entry, event, &requester.cause(message.port_id))?;
        Ok(1)
    })
}

/// Prints events of expectations.
pub(super) fn expectations(line: &Invocation) -> Result<u64, Failure> {
    let groups = [Group::ExpectationNew, Group::ExpectationUpdate, Group::ExpectationDestroy];
    let mut printer = Printer::new(line, Some("expect"))?;
    watch(line, Command::ExpEvent, &groups, &mut printer, |printer, _, message| {
        let event = message.expectation_event();
        let expectation = match decode::expectation(message.payload) {
            Ok(expectation) if event != EventKind::Other => expectation,
            _ => return Ok(0),
        };
        printer.expectation(&expectation, event)?;
        printer.flush()?;
        Ok(1)
    })
}

/// Calls `each` with the messages of events, until a signal ends it.
fn watch(
    line: &Invocation,
    command: Command,
    groups: &[Group],
    printer: &mut Printer,
    mut each: impl FnMut(&mut Printer, &Requester, &Message<'_>) -> Result<u64, Failure>,
) -> Result<u64, Failure> {
    let request = |error| Failure::request(command, &error);
    let system = |what: &str, errno: nix::Error| Failure::failed(format!("cannot {what}: {}", errno.desc()));
    // Before the first event: what is then sent to the process ends it in order.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    ends.thread_block().map_err(|errno| system("block signals", errno))?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| system("listen to signals", errno))?;

    let mut listener =
        Listener::subscribe(groups, line.buffer_bytes, Delivery::BestEffort).map_err(request)?;
    if line.buffer_bytes.is_some() {
        let bytes = listener.receive_buffer_bytes().map_err(request)?;
        say(&format!("NOTICE: Netlink socket buffer size has been set to {bytes} bytes."));
    }
    let mut buffers = Buffers::default();
    let mut requester = Requester::default();
    let mut shown = 0;
    loop {
        let mut ready = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(system("wait for events", errno)),
        }
        let [_, signal] = ready;
        let is_end = signal.any().unwrap_or(false);
        // What came before the signal is still told.
        loop {
            match listener.recv(&mut buffers).map_err(request)? {
                Received::WouldBlock => break,
                Received::Overrun => say(
                    "WARNING: We have hit ENOBUFS! We are losing events: the socket buffer is too small, \
                     see --buffer-size.",
                ),
                Received::Datagrams(datagrams) => {
                    let messages = || datagrams.iter().flat_map(decode::messages).flatten();
                    // First of all: who asked for a change may end at any moment.
                    if command == Command::Event {
                        requester.look(messages().map(|message| message.port_id));
                    }
                    for message in messages() {
                        shown += each(printer, &requester, &message)?;
                    }
                }
            }
            if is_end {
                break;
            }
        }
        if is_end {
            printer.finish()?;
            say(&format!("{PREFIX}: {shown} {}", command.summary().unwrap_or_default()));
            return Ok(shown);
        }
    }
}
