//! Takes in the sockets that are older than the programs.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::Result;
use nix::time::ClockId;
use tracing::{debug, warn};

use super::clock::now_ns;
use super::local::{Local, is_initial_pid_namespace};
use super::watched::Watched;
use crate::attribution::seed::{Missed, Older, Role, Waiting, sockets_tell_namespaces, waiting, walk};

impl Local {
    /// Finds the sockets that are older than the programs, writes their owners into them and takes them
    /// into the tables. The processes are there already. `is_again`: events were lost, and the programs do not tell again
    /// of what they told of before.
    pub(super) fn seed_sockets(&mut self, watched: &[Watched], is_again: bool) -> Result<()> {
        if self.ebpf.is_none() {
            return Ok(());
        }
        // The numbers in /proc would be of other processes.
        if !is_initial_pid_namespace() {
            return Ok(());
        }
        if !sockets_tell_namespaces() {
            warn!(
                "sockets that are older than flowlog have no process: finding their network namespace takes Linux 5.14"
            );
            return Ok(());
        }
        // Before the walk: what is accepted meanwhile is found in its process.
        let waiting: Vec<_> = watched.iter().filter_map(waiting_in).collect();
        let mut found = Vec::new();
        let mut refused = None;
        let monotonic_ns = || now_ns(ClockId::CLOCK_MONOTONIC);
        let mut drained = Instant::now();
        let walked = walk(monotonic_ns, |socket, older| {
            // The walk takes seconds where there are a hundred thousand sockets.
            let adopted = self.adopt(socket, &older).and_then(|is_older| {
                self.drain_now_and_then(&mut drained)?;
                Ok(is_older)
            });
            match adopted {
                Ok(true) => found.push(older),
                Ok(false) if is_again => self.take_again(socket, older),
                // The programs tell of it.
                Ok(false) => {}
                Err(error) => refused = Some(error),
            }
        });
        match walked {
            Ok(Missed { processes, sockets }) => debug!(
                "found {} sockets that are older than flowlog; {processes} processes and {sockets} sockets could not be read",
                found.len()
            ),
            Err(error) => {
                warn!("sockets that are older than flowlog have no process: cannot read /proc: {error}");
            }
        }
        if let Some(error) = refused {
            warn!("some sockets that are older than flowlog have no process: {error:#}");
        }
        self.drain()?;
        let Self { tables, origins, .. } = self;
        for older in &found {
            tables.seed(older, |owner| origins.resolve(owner));
        }
        for (netns_cookie, found_ns, waiting) in waiting {
            for waiting in waiting {
                tables.seed_waiting(waiting, netns_cookie, found_ns);
            }
        }
        Ok(())
    }

    /// Takes a socket into the tables whose owner the programs know.
    fn take_again(&mut self, socket: &OwnedFd, older: Older) {
        let Self { ebpf: Some(ebpf), tables, origins, .. } = self else { return };
        if let Some(owner) = ebpf.owner(socket) {
            let found_ns = older.owner.time_ns;
            tables.seed_again(&Older { owner, ..older }, found_ns, |owner| origins.resolve(owner));
        }
    }

    /// Writes the owner into a socket and takes it into the tables. Says `false` where the programs know its
    /// owner.
    fn adopt(&mut self, socket: &OwnedFd, older: &Older) -> Result<bool> {
        let Some(ebpf) = &mut self.ebpf else { return Ok(false) };
        if older.owner.time_ns == 0 {
            return Ok(true);
        }
        if !ebpf.adopt(socket, older.owner, older.role.flags())? {
            return Ok(false);
        }
        // One that connected since the programs run has no state to tell it from an older one, but its event
        // came before. Its release can only come after: `socket` keeps it open.
        if matches!(older.role, Role::Connection(_)) {
            self.drain()?;
        }
        let Self { tables, origins, .. } = self;
        tables.seed(older, |owner| origins.resolve(owner));
        Ok(true)
    }
}

/// The connections in a namespace that wait to be accepted, with its cookie and when they were found
/// (`CLOCK_MONOTONIC`).
fn waiting_in(watched: &Watched) -> Option<(u64, u64, Vec<Waiting>)> {
    let netns_cookie = watched.place.netns_cookie?;
    let found_ns = now_ns(ClockId::CLOCK_MONOTONIC);
    match watched.namespace.run(waiting).map_err(io::Error::other).flatten() {
        Ok(waiting) => Some((netns_cookie, found_ns, waiting)),
        Err(error) => {
            warn!(
                "connections that wait to be accepted in the network namespace `{}` have no process: cannot list sockets: \
                 {error}; load the module tcp_diag",
                watched.name()
            );
            None
        }
    }
}
