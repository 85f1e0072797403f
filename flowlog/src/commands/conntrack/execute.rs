//! Does what a command line says.

use super::commands::{Command, Table};
use super::failure::{Failure, PREFIX, say};
use super::matching::Matcher;
use super::options::Opt;
use super::parse::Invocation;
use super::printer::Printer;
use super::refusal::explain;
use super::tuples;
use super::{events, help, statistics};
use crate::connections::ctnetlink::decode::{DecodeError, EventKind};
use crate::connections::ctnetlink::{Entry, Error, Expectation, Requests};

/// The sockets of a run; opened when they are needed.
#[derive(Default)]
pub(super) struct Session {
    requests: Option<Requests>,
    /// For changes while a list is read.
    modifier: Option<Requests>,
}

impl Session {
    pub(super) fn requests(&mut self, command: Command) -> Result<&mut Requests, Failure> {
        open(&mut self.requests, command)
    }
}

fn open(slot: &mut Option<Requests>, command: Command) -> Result<&mut Requests, Failure> {
    match slot {
        Some(requests) => Ok(requests),
        None => Ok(slot.insert(Requests::open().map_err(|error| Failure::request(command, &error))?)),
    }
}

/// Runs a command; gives how many entries or expectations it was about.
// Long, since each command is a few lines.
pub(super) fn execute(line: &Invocation, session: &mut Session) -> Result<u64, Failure> {
    let Some(command) = line.command else {
        help::print(None)?;
        return Ok(0);
    };
    let request = |error: Error| Failure::request(command, &error);
    match command {
        Command::List => list(line, session.requests(command)?),
        Command::Create | Command::Add => {
            let entry = tuples::to_make(line);
            match session.requests(command)?.make(&entry) {
                // It is there already, which is what was wanted.
                Err(Error::Io { source, .. })
                    if command == Command::Add && source.kind() == std::io::ErrorKind::AlreadyExists =>
                {
                    Ok(0)
                }
                result => result.map(|()| 1).map_err(request),
            }
        }
        Command::Update => update(line, session),
        Command::Delete => delete(line, session),
        Command::Get => get(line, session.requests(command)?),
        Command::Flush => {
            let requests = session.requests(command)?;
            let flushed = match line.family {
                Some(family) => requests.flush_family(family),
                None => requests.flush(),
            };
            // conntrack(8) says so before it looks at the result.
            say(&format!("{PREFIX}: connection tracking table has been emptied."));
            flushed.map(|()| 0).map_err(request)
        }
        Command::Event => events::entries(line),
        Command::ExpEvent => events::expectations(line),
        Command::Count => statistics::count(session.requests(command)?),
        Command::Stats => statistics::cpus(session.requests(command)?),
        Command::ExpStats => statistics::expectations(session.requests(command)?),
        Command::Version => {
            print_line(line, PREFIX)?;
            Ok(0)
        }
        Command::Help => {
            help::print(line.entry.protocol())?;
            Ok(0)
        }
        Command::ExpList => {
            let mut printer = Printer::new(line, Some("expect"))?;
            let shown = expectations(line, session.requests(command)?, |expectation| {
                printer.expectation(expectation, EventKind::Other)
            })?;
            printer.finish()?;
            Ok(shown)
        }
        Command::ExpCount => {
            let count = expectations(line, session.requests(command)?, |_| Ok(()))?;
            print_line(line, &count.to_string())?;
            Ok(0)
        }
        Command::ExpCreate => {
            let made = session.requests(command)?.make_expectation(&tuples::expectation(line));
            made.map(|()| 0).map_err(request)
        }
        Command::ExpDelete => {
            let expectation = Expectation { tuple: line.entry.orig.clone(), ..Expectation::default() };
            match session.requests(command)?.remove_expectation(&expectation).map_err(request)? {
                true => Ok(0),
                false => Err(Failure::not_found(command)),
            }
        }
        Command::ExpGet => {
            let expectation = Expectation { master: line.entry.orig.clone(), ..Expectation::default() };
            let found = session.requests(command)?.find_expectation(&expectation).map_err(request)?;
            let mut printer = Printer::new(line, None)?;
            printer.expectation(&found.ok_or_else(|| Failure::not_found(command))?, EventKind::Other)?;
            printer.finish()?;
            Ok(0)
        }
        Command::ExpFlush => {
            let flushed = session.requests(command)?.flush_expectations();
            say(&format!("{PREFIX}: expectation table has been emptied."));
            flushed.map(|()| 0).map_err(request)
        }
    }
}

fn print_line(line: &Invocation, text: &str) -> Result<(), Failure> {
    let mut printer = Printer::new(line, None)?;
    printer.text(text)?;
    printer.finish()
}

fn list(line: &Invocation, requests: &mut Requests) -> Result<u64, Failure> {
    let filters = [
        Opt::Src,
        Opt::Dst,
        Opt::ReplySrc,
        Opt::ReplyDst,
        Opt::Proto,
        Opt::Mark,
        Opt::Secmark,
        Opt::Status,
        Opt::Zone,
        Opt::Label,
        Opt::OrigZone,
        Opt::ReplyZone,
    ];
    if line.zero && filters.iter().any(|opt| line.has(*opt)) {
        return Err(Failure::usage("Can't use -z with filtering parameters"));
    }
    let matcher = Matcher::new(line)?;
    let mut printer = Printer::new(line, Some("conntrack"))?;
    let mut shown = Each::default();
    let filter = matcher.kernel_filter();
    let each = |entry| {
        shown.one(entry, |entry| match matcher.fits(&entry) {
            true => printer.entry(&entry).map(|()| 1),
            false => Ok(0),
        });
    };
    let listed = match line.table {
        Some(Table::Dying) => requests.dying(each),
        Some(Table::Unconfirmed) => requests.unconfirmed(each),
        _ if line.zero => requests.list_and_zero(&filter, each),
        _ => requests.list(&filter, each),
    };
    let shown = shown.finish(Command::List, listed)?;
    printer.finish()?;
    Ok(shown)
}

fn delete(line: &Invocation, session: &mut Session) -> Result<u64, Failure> {
    let command = Command::Delete;
    each_that_fits(line, session, command, |entry, modifier, printer| {
        let Entry { orig, id, zone, .. } = entry;
        let key = Entry { orig: orig.clone(), id: *id, zone: *zone, ..Entry::default() };
        match modifier.remove(&key) {
            Ok(true) => printer.removed(entry).map(|()| 1),
            // It ended by itself meanwhile.
            Ok(false) => Ok(0),
            Err(error) => Err(Failure::request(command, &error)),
        }
    })
}

fn update(line: &Invocation, session: &mut Session) -> Result<u64, Failure> {
    let command = Command::Update;
    each_that_fits(line, session, command, |entry, modifier, printer| {
        let Some(change) = tuples::to_change(line, entry) else { return Ok(0) };
        if let Err(error) = modifier.change(&change) {
            say(&format!("Operation failed: {}", explain(command, &error)));
        }
        let key = Entry { orig: entry.orig.clone(), zone: entry.zone, ..Entry::default() };
        match modifier.find(&key) {
            Ok(Some(entry)) => printer.changed(&entry).map(|()| 1),
            // It ended by itself meanwhile.
            Ok(None) => Ok(0),
            Err(error) => Err(Failure::request(command, &error)),
        }
    })
}

/// Calls `work` with each entry that fits, and with a second socket: the first one is busy with the list.
fn each_that_fits(
    line: &Invocation,
    session: &mut Session,
    command: Command,
    mut work: impl FnMut(&Entry, &mut Requests, &mut Printer) -> Result<u64, Failure>,
) -> Result<u64, Failure> {
    let matcher = Matcher::new(line)?;
    let mut printer = Printer::new(line, None)?;
    let mut worked_on = Each::default();
    let modifier = open(&mut session.modifier, command)?;
    let requests = open(&mut session.requests, command)?;
    let listed = requests.list(&matcher.kernel_filter(), |entry| {
        worked_on.one(entry, |entry| match matcher.fits(&entry) {
            true => work(&entry, modifier, &mut printer),
            false => Ok(0),
        });
    });
    // What was done is told also where something else failed.
    printer.finish()?;
    worked_on.finish(command, listed)
}

fn get(line: &Invocation, requests: &mut Requests) -> Result<u64, Failure> {
    let command = Command::Get;
    let found = requests.find(&tuples::to_find(line)).map_err(|error| Failure::request(command, &error))?;
    let entry = found.ok_or_else(|| Failure::not_found(command))?;
    if !Matcher::new(line)?.fits(&entry) {
        return Ok(0);
    }
    let mut printer = Printer::new(line, Some("conntrack"))?;
    printer.entry(&entry)?;
    printer.finish()?;
    Ok(1)
}

fn expectations(
    line: &Invocation,
    requests: &mut Requests,
    mut each: impl FnMut(&Expectation) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    // IPv4 is what conntrack(8) lists and counts where nothing is said.
    let family = line.family.unwrap_or(crate::connections::ctnetlink::uapi::AF_INET);
    let mut shown = Each::default();
    let listed = requests.expectations(Some(family), |expectation| {
        shown.one(expectation, |expectation| each(&expectation).map(|()| 1));
    });
    shown.finish(Command::ExpList, listed)
}

/// Goes through a list up to the first failure; the kernel sends the rest all the same.
#[derive(Default)]
struct Each {
    count: u64,
    failure: Option<Failure>,
}

impl Each {
    fn one<T>(&mut self, item: Result<T, DecodeError>, work: impl FnOnce(T) -> Result<u64, Failure>) {
        if self.failure.is_some() {
            return;
        }
        match item {
            Ok(item) => match work(item) {
                Ok(count) => self.count += count,
                Err(failure) => self.failure = Some(failure),
            },
            // It costs this one only.
            Err(error) => say(&format!("{PREFIX}: cannot read an entry: {error}")),
        }
    }

    fn finish(self, command: Command, listed: Result<(), Error>) -> Result<u64, Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None => listed.map(|()| self.count).map_err(|error| Failure::request(command, &error)),
        }
    }
}
