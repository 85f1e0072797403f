//! Sockets that are older than the programs: which process has them, from /proc.
//!
//! [`walk`] takes a copy of each descriptor of an inet socket (`pidfd_getfd`, which the process does not
//! notice) and asks the socket itself what it is. Its caller writes the owner into the socket, from
//! where accepted sockets inherit it in the kernel.
//!
//! Invariant: a socket that several processes have gets the owner that made it, or none.

mod waiting;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use flowlog_common::{COMM_LEN, Owner, flags};
use hashbrown::HashMap;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt::GetStruct};
use procfs::process::{FDTarget, Process, all_processes};
use procfs::{ProcError, ProcResult};
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::attribution::ebpf::cgroup2_root;
use crate::attribution::endpoints::Port;
use crate::attribution::sockets::{Ends, mapped};
use crate::flow::Protocol;
use crate::host::rights::Raised;

pub use self::waiting::{Waiting, waiting};

/// `SO_NETNS_COOKIE`, since Linux 5.14: the socket's own namespace, which need not be the one that its
/// process is in.
#[derive(Clone, Copy)]
struct NetnsCookie;
nix::getsockopt_impl!(NetnsCookie, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, u64, GetStruct<u64>);

/// Whether sockets tell their network namespace, without which none is found.
pub fn sockets_tell_namespaces() -> bool {
    netns_cookie().is_some()
}

/// The cookie of the network namespace of the calling thread; `None` before Linux 5.14.
pub fn netns_cookie() -> Option<u64> {
    getsockopt(&UnixDatagram::unbound().ok()?, NetnsCookie).ok()
}

/// A socket that was there when /proc was read.
#[derive(Clone, Debug)]
pub struct Older {
    /// `SO_COOKIE`, unique until the next boot.
    pub cookie: u64,
    /// The process that has it, at the time when /proc was read.
    pub owner: Owner,
    /// What it is.
    pub role: Role,
}

/// What a socket is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A connection of TCP.
    Connection(Ends),
    /// A datagram socket with a port or an echo id.
    Endpoint {
        /// Protocol and port.
        port: Port,
        /// The address that it is bound to; one of the two zero addresses where it is bound to none.
        bound_addr: [u8; 16],
        /// Address and port of the peer, where it is connected.
        peer: Option<([u8; 16], u16)>,
    },
    /// A listener of TCP or MPTCP.
    Listener {
        /// As for a datagram socket.
        bound_addr: [u8; 16],
        /// Its port.
        port: u16,
        /// Whether it takes connections over IPv4, if it is bound to no address of IPv6.
        takes_v4: bool,
    },
    /// A raw socket, or one without a port: the programs tell what becomes of it.
    Other,
}

impl Role {
    /// What the programs are to know of such a socket, see [`flags`].
    pub fn flags(self) -> u32 {
        match self {
            Self::Connection(_) | Self::Listener { .. } => flags::SEEDED,
            // Not `USED`: whoever uses it is told.
            Self::Endpoint { .. } => flags::ANNOUNCED,
            Self::Other => 0,
        }
    }
}

/// What [`walk`] could not look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Processes whose descriptors cannot be listed.
    pub processes: u64,
    /// Sockets of which no copy can be taken, or that cannot be asked.
    pub sockets: u64,
}

/// Calls `each` with a copy of the descriptor and the owner of every inet socket of other processes.
/// Sockets whose owner is ambiguous are left out, but for listeners, whose owner is [`Owner::UNKNOWN`] then. `now_ns` reads `CLOCK_MONOTONIC`.
///
/// Takes a few microseconds for each descriptor of the host.
///
/// # Errors
///
/// Where /proc cannot be listed.
pub fn walk(now_ns: impl Fn() -> u64, mut each: impl FnMut(&OwnedFd, Older)) -> ProcResult<Missed> {
    let _raised = Raised::to_look_into();
    let mut missed = Missed::default();
    let Listing { sockets, parents, flowlogs } = list(&mut missed)?;

    let mut by_owner: HashMap<i32, Vec<Wanted>> = HashMap::new();
    for (inode, mut holders) in sockets {
        leave_out_copies(&mut holders, &flowlogs);
        let pids: Vec<i32> = holders.iter().map(|&(pid, _)| pid).collect();
        let maker = maker(&pids, |pid| parents.get(&pid).copied());
        let of_maker = holders.iter().find(|&&(pid, _)| Some(pid) == maker);
        let (is_shared, is_known) = (holders.len() > 1, of_maker.is_some());
        if let Some(&(pid, fd)) = of_maker.or(holders.first()) {
            by_owner.entry(pid).or_default().push(Wanted { fd, inode, is_shared, is_known });
        }
    }

    let cgroup_root = cgroup2_root();
    for (pid, wanted) in by_owner {
        // Gone meanwhile, and its sockets with it.
        let Ok((owner, pidfd)) = process(pid, cgroup_root.as_deref(), &now_ns) else { continue };
        for wanted in wanted {
            match fetch(&pidfd, &wanted) {
                Ok(Some((socket, told))) => {
                    let Told { cookie, netns_cookie, role } = told;
                    let is_listener = matches!(role, Role::Listener { .. });
                    let owner = match wanted.is_known {
                        true => Owner { netns_cookie, ..owner },
                        // What it accepts is not of another listener.
                        false if is_listener => Owner { netns_cookie, ..Owner::UNKNOWN },
                        false => continue,
                    };
                    each(&socket, Older { cookie, owner, role });
                }
                Ok(None) => {}
                Err(Errno::EBADF | Errno::ESRCH) => {}
                Err(_) => missed.sockets += 1,
            }
        }
    }
    Ok(missed)
}

/// All sockets of all kinds, by inode, with the processes that have them.
struct Listing {
    /// One descriptor for each process.
    sockets: HashMap<u64, Vec<(i32, RawFd)>>,
    /// Parents of these processes.
    parents: HashMap<i32, i32>,
    /// Those of these processes that have the name of this one.
    flowlogs: Vec<i32>,
}

fn list(missed: &mut Missed) -> ProcResult<Listing> {
    let own_pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let mut sockets: HashMap<u64, Vec<(i32, RawFd)>> = HashMap::new();
    let mut parents = HashMap::new();
    let mut flowlogs = Vec::new();
    let own_comm = Process::myself().and_then(|process| process.stat()).map(|stat| stat.comm).ok();
    for process in all_processes()?.flatten().filter(|process| process.pid != own_pid) {
        let descriptors = match process.fd() {
            Ok(descriptors) => descriptors,
            Err(ProcError::PermissionDenied(_)) => {
                missed.processes += 1;
                continue;
            }
            Err(_) => continue,
        };
        let mut has_sockets = false;
        for descriptor in descriptors.flatten() {
            let FDTarget::Socket(inode) = descriptor.target else { continue };
            has_sockets = true;
            let holders = sockets.entry(inode).or_default();
            if holders.last().is_none_or(|&(pid, _)| pid != process.pid) {
                holders.push((process.pid, descriptor.fd));
            }
        }
        if has_sockets && let Ok(stat) = process.stat() {
            parents.insert(process.pid, stat.ppid);
            if own_comm.as_ref() == Some(&stat.comm) {
                flowlogs.push(process.pid);
            }
        }
    }
    Ok(Listing { sockets, parents, flowlogs })
}

/// Leaves out the flowlogs among those that have a socket, unless it is their own: another one that starts just
/// now has a copy of each for a moment.
fn leave_out_copies(holders: &mut Vec<(i32, RawFd)>, flowlogs: &[i32]) {
    if holders.iter().any(|(pid, _)| !flowlogs.contains(pid)) {
        holders.retain(|(pid, _)| !flowlogs.contains(pid));
    }
}

/// Which of the processes that have a socket made it: the one from which all others descend. Children
/// inherit descriptors, and what was passed on in another way does not tell where it came from.
fn maker(holders: &[i32], parent_of: impl Fn(i32) -> Option<i32>) -> Option<i32> {
    let mut without_parent = holders
        .iter()
        .copied()
        .filter(|&pid| !parent_of(pid).is_some_and(|parent| holders.contains(&parent)));
    let first = without_parent.next()?;
    without_parent.next().is_none().then_some(first)
}

/// The process as the owner of its sockets, and a handle of it.
fn process(pid: i32, cgroup_root: Option<&Path>, now_ns: impl Fn() -> u64) -> ProcResult<(Owner, OwnedFd)> {
    // Opening the directory, then the handle, then reading in the directory: all are of one process,
    // also where the number is used again meanwhile, and it lived at `time_ns`.
    let process = Process::new(pid)?;
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(Errno::ESRCH))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
    let time_ns = now_ns();
    let status = process.status()?;
    let mut comm = [0; COMM_LEN];
    // One byte less: it ends with a zero byte.
    for (to, from) in comm.iter_mut().zip(process.stat()?.comm.bytes().take(COMM_LEN - 1)) {
        *to = from;
    }
    let owner = Owner {
        time_ns,
        tgid: u32::try_from(status.tgid).map_err(io::Error::other)?,
        uid: status.ruid,
        cgroup_id: cgroup_root.and_then(|root| cgroup_id(&process, root)).unwrap_or(0),
        netns_cookie: 0,
        comm,
    };
    Ok((owner, pidfd))
}

/// The inode of the process's directory in cgroup v2.
fn cgroup_id(process: &Process, root: &Path) -> Option<u64> {
    let cgroups = process.cgroups().ok()?;
    let cgroup = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0)?;
    let path = Path::new(cgroup.pathname.strip_prefix('/')?);
    // Seen from a cgroup namespace, what is outside of it begins with `..`.
    let is_inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    Some(fs::metadata(root.join(path)).ok().filter(|_| is_inside)?.ino())
}

/// A descriptor that was seen, and what it stood for.
struct Wanted {
    fd: RawFd,
    inode: u64,
    /// Other processes have the socket too.
    is_shared: bool,
    /// It is of this process.
    is_known: bool,
}

/// What an inet socket says of itself.
struct Told {
    cookie: u64,
    netns_cookie: u64,
    role: Role,
}

/// A copy of the descriptor, `None` where it is not of an inet socket, or of one whose owner is not known.
fn fetch(pidfd: &OwnedFd, wanted: &Wanted) -> nix::Result<Option<(OwnedFd, Told)>> {
    let socket = pidfd_getfd(pidfd, wanted.fd, PidfdGetfdFlags::empty()).map_err(errno)?;
    // The number may stand for another file by now.
    if nix::sys::stat::fstat(&socket)?.st_ino != wanted.inode {
        return Ok(None);
    }
    let domain = sockopt::socket_domain(&socket).map_err(errno)?;
    if domain != AddressFamily::INET && domain != AddressFamily::INET6 {
        return Ok(None);
    }
    let protocol = sockopt::socket_protocol(&socket).map_err(errno)?;
    // One process may have bound a datagram socket for another to use, and the programs tell who does.
    let is_raw = sockopt::socket_type(&socket).map_err(errno)? == SocketType::RAW;
    if wanted.is_shared && (is_raw || !matches!(protocol, Some(ipproto::TCP | ipproto::MPTCP))) {
        return Ok(None);
    }
    let told = Told {
        cookie: sockopt::socket_cookie(&socket).map_err(errno)?,
        netns_cookie: getsockopt(&socket, NetnsCookie)?,
        role: role(&socket).map_err(errno)?,
    };
    Ok(Some((socket, told)))
}

fn role(socket: impl AsFd) -> rustix::io::Result<Role> {
    let addr = |addr: SocketAddr| (mapped(addr.ip()), addr.port());
    let Some(protocol) = sockopt::socket_protocol(&socket)? else { return Ok(Role::Other) };
    let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    let peer = match rustix::net::getpeername(&socket) {
        Ok(Some(peer)) => Some(SocketAddr::try_from(peer)?),
        Ok(None) | Err(rustix::io::Errno::NOTCONN) => None,
        Err(error) => return Err(error),
    };
    let socket_type = sockopt::socket_type(&socket)?;
    if socket_type == SocketType::RAW {
        return Ok(Role::Other);
    }
    let (bound_addr, number) = addr(local);
    if matches!(protocol, ipproto::TCP | ipproto::MPTCP) {
        // Of a connection of MPTCP these are the ends of its first subflow.
        if let Some(peer) = peer {
            return Ok(Role::Connection(Ends::new(local.ip(), number, peer.ip(), peer.port())));
        }
        if sockopt::socket_acceptconn(&socket)? {
            let takes_v4 = local.is_ipv6() && !sockopt::ipv6_v6only(&socket)?;
            return Ok(Role::Listener { bound_addr, port: number, takes_v4 });
        }
        return Ok(Role::Other);
    }
    let is_datagram = socket_type == SocketType::DGRAM;
    match u8::try_from(protocol.as_raw().get()) {
        Ok(protocol) if is_datagram && number != 0 => Ok(Role::Endpoint {
            port: Port { protocol: Protocol(protocol), number },
            bound_addr,
            peer: peer.map(addr),
        }),
        _ => Ok(Role::Other),
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    /// `family` lists processes with their parents.
    fn maker_of(holders: &[i32], family: &[(i32, i32)]) -> Option<i32> {
        maker(holders, |pid| family.iter().find(|(child, _)| *child == pid).map(|&(_, parent)| parent))
    }

    #[test]
    fn a_socket_of_one_process_is_its_own() {
        assert_eq!(maker_of(&[10], &[(10, 1)]), Some(10));
        assert_eq!(maker_of(&[10], &[]), Some(10), "its parent could not be read");
    }

    #[test]
    fn a_shared_socket_belongs_to_the_parent_of_all_others() {
        let workers = [(10, 1), (11, 10), (12, 10), (13, 12)];
        assert_eq!(maker_of(&[11, 10, 12], &workers), Some(10));
        assert_eq!(maker_of(&[10, 12, 13], &workers), Some(10), "a child of a child");
        assert_eq!(maker_of(&[10, 13], &workers), None, "not known how it came there");
    }

    #[test]
    fn a_socket_of_siblings_or_strangers_is_nobodys() {
        assert_eq!(maker_of(&[11, 12], &[(11, 10), (12, 10)]), None, "their parent has closed it");
        assert_eq!(maker_of(&[11, 22], &[(11, 10), (22, 20)]), None);
        assert_eq!(maker_of(&[11, 12], &[(11, 10)]), None, "one parent could not be read");
        assert_eq!(maker_of(&[], &[]), None);
    }

    #[test]
    fn a_copy_that_another_flowlog_has_is_no_owner() {
        let left = |holders: &[i32], flowlogs: &[i32]| {
            let mut holders = holders.iter().map(|&pid| (pid, 3)).collect();
            leave_out_copies(&mut holders, flowlogs);
            holders.into_iter().map(|(pid, _)| pid).collect::<Vec<_>>()
        };
        assert_eq!(left(&[10, 20, 21], &[20, 21]), [10]);
        assert_eq!(left(&[10, 11], &[20]), [10, 11]);
        assert_eq!(left(&[20], &[20, 21]), [20], "its own");
    }

    #[test]
    fn a_socket_says_what_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let own = client.local_addr().unwrap();
        let ends = Ends::new(own.ip(), own.port(), server.ip(), server.port());
        assert_eq!(role(&client), Ok(Role::Connection(ends)));
        let role_of_listener =
            Role::Listener { bound_addr: mapped(server.ip()), port: server.port(), takes_v4: false };
        assert_eq!(role(&listener), Ok(role_of_listener));

        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = |socket: &UdpSocket| Port {
            protocol: Protocol::UDP,
            number: socket.local_addr().unwrap().port(),
        };
        let bound_addr = mapped("127.0.0.1".parse().unwrap());
        let expected = Role::Endpoint { port: port(&bound), bound_addr, peer: None };
        assert_eq!(role(&bound), Ok(expected));
        bound.connect(server).unwrap();
        let peer = Some((bound_addr, server.port()));
        assert_eq!(role(&bound), Ok(Role::Endpoint { port: port(&bound), bound_addr, peer }));
    }
}
