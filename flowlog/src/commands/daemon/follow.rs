//! Network namespaces that come and go.
//!
//! The kernel does not tell of them, so it is looked for their names with each tick, which costs one call if nothing has
//! changed. One that came is watched at once. One that has no name any more, and no process in it, lives on only because
//! flowlog has it open: what is left to be read is read, what is open in its table becomes rows, since the kernel drops that
//! without a message, and all of it is closed.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::ledger::{NamespaceChange, Presence};
use nix::time::ClockId;
use tracing::{error, info, warn};

use super::Daemon;
use super::clock::{now_ns, now_us};
use super::counts;
use super::manager::Kept;
use super::takeover::socket_name;
use super::watched::{Dump, Leaving, Watch, Watched};
use crate::host::namespace::{Found, Namespace, NamespaceError, Wanted, with_processes};

/// How long new namespaces are opened in one turn: events of the others must not wait.
const OPEN_FOR: Duration = Duration::from_millis(50);

/// How often it is looked for processes in namespaces without a name: that takes longer the more processes there are.
const LOOK_FOR_PROCESSES: Duration = Duration::from_millis(250);

/// How long events that the kernel holds back are waited for, once a namespace is to go.
const HELD_BACK_FOR: Duration = Duration::from_secs(10);

/// Which network namespaces are followed, and how.
pub(super) struct Following {
    wanted: Wanted,
    pub(super) watch: Watch,
    /// What the service manager keeps.
    kept: Kept,
    /// Those that there were at the last look.
    found: Found,
    /// Those that could not be opened, as it was said.
    refused: HashSet<u64>,
    /// Those that have a process and no name, as it was said.
    nameless: HashSet<u64>,
    looked_for_processes: Option<Instant>,
    /// All of them had been read until then, and a limit of the time of one turn was hit.
    has_more: bool,
    /// What listeners of those that are gone had counted.
    pub(super) gone: counts::Gone,
}

impl Following {
    pub(super) fn new(wanted: Wanted, watch: Watch, kept: Kept) -> Self {
        Self {
            wanted,
            watch,
            kept,
            found: Found::new(),
            refused: HashSet::new(),
            nameless: HashSet::new(),
            looked_for_processes: None,
            has_more: false,
            gone: counts::Gone::default(),
        }
    }
}

/// Looks which network namespaces came and went.
pub(super) fn follow(daemon: &mut Daemon) -> Result<()> {
    if !daemon.following.wanted.can_change() {
        return Ok(());
    }
    let now = Instant::now();
    match daemon.following.wanted.look(now) {
        Some(found) => daemon.following.found = found,
        None if daemon.following.has_more => {}
        None => return let_go(daemon, now),
    }
    let Daemon { watched, following, .. } = daemon;
    for watched in watched.iter_mut().filter(|watched| watched.namespace.name().is_some()) {
        let is_there = following.found.contains_key(&watched.namespace.inode());
        match watched.leaving {
            None if !is_there => watched.leaving = Some(Leaving { since: now, open_flows: None }),
            // It was only named anew.
            Some(Leaving { open_flows: None, .. }) if is_there => {
                following.nameless.remove(&watched.namespace.inode());
                watched.leaving = None;
            }
            _ => {}
        }
    }
    let known: HashSet<u64> = daemon.watched.iter().map(|watched| watched.namespace.inode()).collect();
    let found = &daemon.following.found;
    let came = found.iter().filter(|(inode, _)| !known.contains(inode));
    let came: Vec<(u64, String)> = came.map(|(inode, name)| (*inode, name.clone())).collect();
    daemon.following.refused.retain(|inode| daemon.following.found.contains_key(inode));
    daemon.following.has_more = false;
    for (inode, name) in came {
        if now.elapsed() > OPEN_FOR {
            daemon.following.has_more = true;
            break;
        }
        if let Err(error) = watch(daemon, inode, &name)?
            && daemon.following.refused.insert(inode)
        {
            error!("the network namespace `{name}` came, and flowlog cannot watch it: {error:#}");
        }
    }
    let_go(daemon, now)
}

/// Watches a network namespace that came. The inner error is of this one only.
fn watch(daemon: &mut Daemon, inode: u64, name: &str) -> Result<Result<()>> {
    let namespace = match Namespace::open(name) {
        Ok(namespace) if namespace.inode() == inode => namespace,
        // It is gone already, or is another one by now: the next look tells.
        Ok(_) | Err(NamespaceError::Open { .. } | NamespaceError::NotANamespace { .. }) => {
            return Ok(Ok(()));
        }
        Err(error) => return Ok(Err(error.into())),
    };
    let Daemon { watched, following, memory, local, output, sockets, .. } = daemon;
    let watch = &following.watch;
    let mut came = match Watched::open(namespace, None, watch, local, sockets) {
        Ok((came, _)) => came,
        Err(error) => return Ok(Err(error)),
    };
    following.refused.remove(&inode);
    // After the subscription: what ends from now on is either in the dump or sends a message.
    came.dump(local, Dump::Due)?;
    came.is_new = true;
    let at_us = now_us();
    memory.in_flight.keep(came.subscription());
    following.kept.keep(&socket_name(inode), &came.listener);
    watched.push(came);
    info!("the network namespace `{name}` came, and is watched");
    let change = NamespaceChange {
        netns: inode,
        name: name.to_owned(),
        change: Presence::Came,
        at_us,
        open_flows: None,
    };
    Ok(Ok(output.namespace(change)?))
}

/// Lets go of network namespaces that have no name any more, as far as nobody is in them.
fn let_go(daemon: &mut Daemon, now: Instant) -> Result<()> {
    let leaving = |watched: &&Watched| watched.leaving.is_some_and(|leaving| leaving.open_flows.is_none());
    let leaving: HashSet<u64> =
        daemon.watched.iter().filter(leaving).map(|watched| watched.namespace.inode()).collect();
    if !leaving.is_empty() {
        let Following { looked_for_processes, nameless, .. } = &mut daemon.following;
        if looked_for_processes.is_some_and(|looked| now < looked + LOOK_FOR_PROCESSES) {
            return close_those_that_ended(daemon);
        }
        *looked_for_processes = Some(now);
        let in_use = with_processes(&leaving);
        for watched in &daemon.watched {
            if in_use.contains(&watched.namespace.inode()) && nameless.insert(watched.namespace.inode()) {
                info!(
                    "the network namespace `{}` has no name any more: flowlog watches it until its last process ends",
                    watched.name()
                );
            }
        }
        let ended: HashSet<u64> = leaving.difference(&in_use).copied().collect();
        if !ended.is_empty() {
            record_open(daemon, &ended, now)?;
        }
    }
    close_those_that_ended(daemon)
}

/// Reads the rest of network namespaces, and makes rows of what is open in their tables.
fn record_open(daemon: &mut Daemon, ended: &HashSet<u64>, now: Instant) -> Result<()> {
    // What waits may tell of what a list would miss. If there is no room for it, the next tick tries again.
    if !daemon.read_waiting()? {
        return Ok(());
    }
    let mut listed = HashMap::new();
    let is_to_go = |watched: &Watched| ended.contains(&watched.namespace.inode());
    for watched in daemon.watched.iter_mut().filter(|watched| is_to_go(watched)) {
        let is_late = watched.leaving.is_some_and(|leaving| now > leaving.since + HELD_BACK_FOR);
        if watched.is_held && watched.has_undelivered() && !is_late || watched.observed.dumps.has_records() {
            continue;
        }
        let lists = watched.observed.dumps.dumps();
        watched.dump(&mut daemon.local, Dump::Deleted)?;
        listed.insert(watched.namespace.inode(), watched.observed.dumps.dumps() > lists);
    }
    // A message that came meanwhile wins over what the list has.
    if listed.is_empty() || !daemon.read_waiting()? {
        for watched in
            daemon.watched.iter_mut().filter(|watched| listed.contains_key(&watched.namespace.inode()))
        {
            watched.observed.dumps.end(now_ns(ClockId::CLOCK_REALTIME));
        }
        return Ok(());
    }
    let Daemon { watched, output, .. } = daemon;
    for watched in watched {
        let Some(was_listed) = listed.get(&watched.namespace.inode()) else { continue };
        watched.declare_dropped(&mut output.gaps);
        watched.read_losses(&mut output.gaps);
        watched.needed.declare(&mut output.gaps, true);
        let left_out = watched.observed.dumps.left_out();
        let open_flows = watched.observed.dumps.end_deleted(now_ns(ClockId::CLOCK_REALTIME));
        watched.leaving = watched.leaving.map(|leaving| Leaving { open_flows: Some(open_flows), ..leaving });
        let mut lost = (*was_listed && left_out == 0).then_some(0);
        if watched.is_held {
            let mut held = 0;
            let counted = watched.requests.dying(|_| held += 1);
            lost = lost.filter(|_| counted.is_ok()).map(|lost| lost + held);
        }
        if lost != Some(0) {
            let detail = format!(
                "network namespace `{}`: connections that were not known when it was deleted",
                watched.name()
            );
            let gap = Gap::new(Cause::Overrun, Stage::Kernel, watched.read_until_us, now_us());
            output.gaps.add(Gap { lost_flows: lost, detail: Some(detail), ..gap });
        }
    }
    Ok(())
}

/// Closes network namespaces of which all is recorded.
fn close_those_that_ended(daemon: &mut Daemon) -> Result<()> {
    let ended = |watched: &Watched| watched.leaving.and_then(|leaving| leaving.open_flows);
    if !daemon.watched.iter().any(|watched| ended(watched).is_some()) {
        return Ok(());
    }
    daemon.record_dumps()?;
    let mut index = 0;
    while let Some(watched) = daemon.watched.get(index) {
        let open_flows = ended(watched);
        if open_flows.is_none() || watched.observed.dumps.has_records() {
            index += 1;
            continue;
        }
        let watched = daemon.watched.swap_remove(index);
        close(daemon, watched, open_flows)?;
    }
    let netns: Vec<u64> = daemon.watched.iter().map(|watched| watched.namespace.inode()).collect();
    daemon.memory.in_flight.keep_only(&netns);
    Ok(())
}

fn close(daemon: &mut Daemon, watched: Watched, open_flows: Option<u64>) -> Result<()> {
    let Daemon { following, output, sockets, metrics, .. } = daemon;
    let inode = watched.namespace.inode();
    following.nameless.remove(&inode);
    following.gone.add(&watched);
    counts::forget(metrics, &watched);
    // The service manager may have it open still.
    if let Err(error) = sockets.readable.delete(&watched.listener) {
        warn!("cannot close the netlink socket of the network namespace `{}`: {error}", watched.name());
    }
    following.kept.forget(&socket_name(inode));
    info!(
        "the network namespace `{}` is deleted, and is watched no more: {} connections were open",
        watched.name(),
        open_flows.unwrap_or_default()
    );
    output.namespace(NamespaceChange {
        netns: inode,
        name: watched.name().to_owned(),
        change: Presence::Gone,
        at_us: now_us(),
        open_flows,
    })
}
