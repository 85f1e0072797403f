//! Values for the tests of several modules. Each is one of which nothing is special: a test says what it is about with
//! `..`, as in `Flow { mark: Some(1), ..testing::flow(1) }`.

#![cfg_attr(not(test), allow(dead_code, reason = "the fuzzer needs fewer of them"))]
#![expect(clippy::unwrap_used, reason = "for tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flowlog_common::{EventHeader, ProcessExec, kind, path};
use flowlog_reader::ledger::Started;
use flowlog_reader::run::{RunContext, RunFacts};
use tempfile::TempDir;
use uuid::Uuid;

use crate::attribution::ebpf::RingEvent;
use crate::flow::{Flow, L4, Protocol, Tuple};
use crate::log::retention::RetentionLimits;
use crate::log::store::{OpenError, Store, StoreConfig};
use crate::log::wal::WalSync;
use crate::log::writer::{Compatibility, Directory, Rotation};
use crate::record::{FlowRecord, Sighting};
use crate::time::us_since_1970;

/// One direction between two addresses.
pub(crate) fn tuple(src: &str, dst: &str, proto: Protocol, l4: L4) -> Tuple {
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), proto, l4, zone: None }
}

/// A connection of TCP from this port of the host to its port 80, without NAT, of which nothing else is known.
pub(crate) fn flow(port: u16) -> Flow {
    let tuple = |src, dst| tuple("127.0.0.1", "127.0.0.1", Protocol::TCP, L4::Ports { src, dst });
    Flow::new(tuple(port, 80), tuple(80, port))
}

/// A process begins to run the program of this path, without arguments.
pub(crate) fn executes(tgid: u32, exe: &str, time_ns: u64) -> RingEvent {
    let names = exe.rsplit('/').filter(|name| !name.is_empty());
    let text: Vec<u8> = names.flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
    let exec = ProcessExec {
        header: EventHeader { kind: kind::PROCESS_EXEC, pad: 0, time_ns },
        tgid,
        login_uid: u32::MAX,
        args_len: 0,
        path_len: u32::try_from(text.len()).unwrap(),
        path: path::RESOLVED,
        path_flags: 0,
        cgroup_id: 0,
        uid: 0,
        pad: 0,
    };
    RingEvent::ProcessExec(exec, text.into())
}

/// The record of a flow that the kernel said has ended, without processes.
pub(crate) fn record(flow: &Flow) -> FlowRecord<'_> {
    FlowRecord {
        flow,
        sighting: Sighting::Destroyed,
        received_ns: 0,
        counters_final: true,
        observer_netns: 1,
        observer_netns_name: None,
        last_seen_ns: None,
        direction: None,
        src: None,
        dst: None,
    }
}

/// A run on a host.
pub(crate) fn run(run_id: Uuid) -> RunContext {
    RunContext { run_id, host_id: "8f2c".into(), host_name: "web-1".into(), boot_id: None }
}

/// A run that records all flows.
pub(crate) fn facts(run_id: Uuid) -> RunFacts {
    RunFacts {
        run: run(run_id),
        kernel: "6.18.5".into(),
        acct: Some(true),
        timestamp: Some(true),
        filter: None,
    }
}

/// A run that begins, and watches one namespace.
pub(crate) fn started() -> Started {
    let RunFacts { run: RunContext { run_id: _, host_id, host_name, boot_id }, kernel, .. } =
        facts(Uuid::nil());
    Started {
        version: "0.1.0".into(),
        host_id,
        host_name,
        boot_id,
        kernel,
        delivery: "reliable".into(),
        netns: vec![1],
        filter: None,
        wal_sync: "off".into(),
        unwatched_since_us: None,
        restart: None,
        torn_bytes: None,
    }
}

/// The store of a run that begins now. It watches from now on, if it watches anything.
#[track_caller]
pub(crate) fn store(output: &Path, facts: RunFacts, netns: Vec<u64>, now: SystemTime) -> Store {
    try_store(output, facts, netns, now).unwrap()
}

/// The same, or why it cannot be opened.
pub(crate) fn try_store(
    output: &Path,
    facts: RunFacts,
    netns: Vec<u64>,
    now: SystemTime,
) -> Result<Store, OpenError> {
    let watched_since_us = (!netns.is_empty()).then(|| us_since_1970(now));
    let config = StoreConfig {
        directory: Directory::open(output).unwrap(),
        rotation: Rotation::default(),
        compatibility: Compatibility::default(),
        wal_sync: WalSync::Off,
        retention: RetentionLimits::default(),
        facts,
        delivery: "reliable",
        netns,
        watched_since_us,
        kept: None,
        in_flight: None,
    };
    Store::open(config, now)
}

/// An output directory, in memory where that can be: syncs cost nothing there.
pub(crate) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// All files below a directory, in their order; none where it is not there.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.sort();
    files
}
