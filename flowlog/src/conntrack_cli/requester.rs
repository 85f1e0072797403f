//! Which program asked the kernel for a change.

use std::fs;

use procfs::process::{FDTarget, all_processes};

/// `NETLINK_NETFILTER`, as /proc/net/netlink writes it.
const NETFILTER: &str = "12";

/// Remembers the last one: changes come in groups.
#[derive(Default)]
pub(super) struct Requester {
    last: Option<(u32, String)>,
}

impl Requester {
    /// What is added to an event: nothing where the kernel did it by itself.
    pub(super) fn cause(&mut self, port_id: u32) -> String {
        if port_id == 0 {
            return String::new();
        }
        match &self.last {
            Some((last, cause)) if *last == port_id => cause.clone(),
            _ => {
                let name = socket_inode(port_id).and_then(program);
                let name = name.map(|name| format!(" progname={name}")).unwrap_or_default();
                let cause = format!(" [USERSPACE] portid={port_id}{name}");
                self.last = Some((port_id, cause.clone()));
                cause
            }
        }
    }
}

/// The inode of a netlink socket. The columns are: socket, protocol, port id, …, inode.
fn socket_inode(port_id: u32) -> Option<u64> {
    let port_id = port_id.to_string();
    fs::read_to_string("/proc/net/netlink").ok()?.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_it = words.next() == Some(NETFILTER) && words.next() == Some(port_id.as_str());
        words.last().filter(|_| is_it)?.parse().ok()
    })
}

/// The name of a process that has this socket.
fn program(inode: u64) -> Option<String> {
    all_processes().ok()?.flatten().find_map(|process| {
        let is_socket = |target: FDTarget| matches!(target, FDTarget::Socket(other) if other == inode);
        let has = process.fd().ok()?.flatten().any(|fd| is_socket(fd.target));
        process.stat().ok().filter(|_| has).map(|stat| stat.comm)
    })
}
