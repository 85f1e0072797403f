//! Which program asked the kernel for a change.
//!
//! An event has the port id of the netlink socket that the request came from. That socket, and with it its
//! program, may be gone within a millisecond: `conntrack -D` ends when it has its answer. So this is looked at
//! before anything else is done with the events that were read, and in the order in which it is most likely found.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Sockets of netlink in the namespace of this process.
const SOCKETS: &str = "/proc/net/netlink";

/// `NETLINK_NETFILTER`, as [`SOCKETS`] writes it.
const NETFILTER: &str = "12";

/// Ends with the number of the process that was made last.
const LOAD: &str = "/proc/loadavg";

/// How many of the last processes are looked at before all others.
const NEWEST: u32 = 32;

/// How long a name is kept after the last event of its port id: the events of a large change are read when
/// the program has ended. The kernel gives the same number to another socket only much later.
const KEPT: Duration = Duration::from_secs(10);

/// What is read of [`SOCKETS`] at once: more than the kernel gives.
const AT_ONCE: usize = 8 * 1024;

/// The programs behind the last port ids.
#[derive(Default)]
pub(super) struct Requester {
    known: HashMap<u32, Known>,
    /// [`SOCKETS`], which stays open: to open it would take as long as to read it.
    file: Option<File>,
    sockets: Vec<u8>,
}

/// The socket with a port id.
struct Known {
    inode: u64,
    program: Option<String>,
    /// When there was an event of it.
    used: Instant,
}

impl Requester {
    /// Looks for the programs with these port ids. To be called first when events were read, with those of all of them.
    pub(super) fn look(&mut self, port_ids: impl Iterator<Item = u32>) {
        let port_ids: HashSet<u32> = port_ids.filter(|port_id| *port_id != 0).collect();
        if port_ids.is_empty() {
            return;
        }
        let Self { known, file, sockets } = self;
        if file.is_none() {
            *file = File::open(SOCKETS).ok();
        }
        // Without the list nobody is named.
        let sockets = file.as_ref().and_then(|file| read(file, sockets)).unwrap_or_default();
        let now = Instant::now();
        for (port_id, inode) in netfilter(sockets).filter(|(port_id, _)| port_ids.contains(port_id)) {
            if known.get(&port_id).is_none_or(|known| known.inode != inode) {
                let program = program(inode, sockets);
                known.insert(port_id, Known { inode, program, used: now });
            }
        }
        for (_, known) in known.iter_mut().filter(|(port_id, _)| port_ids.contains(port_id)) {
            known.used = now;
        }
        known.retain(|_, known| now.duration_since(known.used) < KEPT);
    }

    /// What is added to an event: nothing where the kernel did it by itself.
    pub(super) fn cause(&self, port_id: u32) -> String {
        if port_id == 0 {
            return String::new();
        }
        match self.known.get(&port_id).and_then(|known| known.program.as_deref()) {
            Some(program) => format!(" [USERSPACE] portid={port_id} progname={program}"),
            None => format!(" [USERSPACE] portid={port_id}"),
        }
    }
}

/// Reads a file of /proc from its beginning.
fn read<'b>(file: &File, buffer: &'b mut Vec<u8>) -> Option<&'b str> {
    let mut length = 0;
    loop {
        buffer.resize(length + AT_ONCE, 0);
        match file.read_at(buffer.get_mut(length..)?, length as u64).ok()? {
            0 => break,
            more => length += more,
        }
    }
    std::str::from_utf8(buffer.get(..length)?).ok()
}

/// Port id and inode of each socket of netfilter. The columns are: socket, protocol, port id, …, inode.
fn netfilter(sockets: &str) -> impl Iterator<Item = (u32, u64)> {
    sockets.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next().filter(|protocol| *protocol == NETFILTER)?;
        Some((words.next()?.parse().ok()?, words.last()?.parse().ok()?))
    })
}

/// The name of a process that has this socket.
fn program(inode: u64, sockets: &str) -> Option<String> {
    let mut looked_at = HashSet::new();
    let mut look = |pid: u32| looked_at.insert(pid).then(|| name(pid, inode)).flatten();
    // The first netlink socket of a process has its number as port id, and whoever changes entries often has several.
    let mut by_port: Vec<u32> = netfilter(sockets).map(|(port_id, _)| port_id).collect();
    // The newest ones are most likely those that end soon.
    by_port.sort_unstable_by(|one, other| other.cmp(one));
    if let Some(name) = by_port.into_iter().filter_map(&mut look).next() {
        return Some(name);
    }
    let load = fs::read_to_string(LOAD).unwrap_or_default();
    let newest: u32 = load.split_ascii_whitespace().next_back().and_then(|pid| pid.parse().ok()).unwrap_or(0);
    if let Some(name) = (newest.saturating_sub(NEWEST)..=newest).rev().filter_map(&mut look).next() {
        return Some(name);
    }
    let all = fs::read_dir("/proc").ok()?.flatten();
    all.filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).next()
}

/// The name of this process, where it has the socket.
fn name(pid: u32, inode: u64) -> Option<String> {
    let process = format!("/proc/{pid}");
    let socket = format!("socket:[{inode}]");
    let mut files = fs::read_dir(format!("{process}/fd")).ok()?.flatten();
    let is_socket = |link: &Path| link.as_os_str() == socket.as_str();
    files.find(|file| fs::read_link(file.path()).is_ok_and(|link| is_socket(&link)))?;
    // Not before: it is the process with this socket whose name is read, as long as it does not end just now.
    let name = fs::read(format!("{process}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}
