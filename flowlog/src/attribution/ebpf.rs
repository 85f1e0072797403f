//! Loads and attaches the eBPF programs and reads their events. The only user of aya.
//!
//! It owns the programs, which are detached when it is dropped. It does not know what events mean:
//! [`Ebpf::read`] hands them on in the order of the ring buffer.

mod formats;
mod kernel_types;
mod links;
mod losses;
mod mounts;
mod raw_table;
mod refused;

use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Instant;

use aya::maps::{Map, MapData, MapError, PerCpuArray, RingBuf, SkStorage};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program, ProgramError,
    RawTracePoint, SockOps, TracePoint,
};
use flowlog_common::{
    CgroupLayout, CgroupMade, CgroupRemoved, EndpointOpen, Owner, OwnerLayout, ProcessExec, ProcessExit,
    ProcessFork, RawSend, SocketRelease, SocketState, TaskLayout, TcpClose, TcpConnect, TcpOpen, kind,
};
use rustix::event::{PollFd, PollFlags, Timespec};

pub use kernel_types::Layouts;
pub use mounts::{CgroupRoot, cgroup2_root};

use self::links::Links;
use self::losses::{Fullness, Skipped};
use self::raw_table::RawTable;
use crate::attribution::clocks::read::is_in_time_namespace;

/// The programs, built by `build.rs`; empty where that was told to leave them out.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flowlog-ebpf.o"));

/// The kernel's types in the format BTF.
pub const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// `BPF_NOEXIST` of `linux/bpf.h`: do not write over a value.
const BPF_NOEXIST: u64 = 1;

/// What the smallest event takes in the ring buffer, with the kernel's 8 bytes in front of each.
const MIN_EVENT_BYTES: usize = size_of::<ProcessExit>() + 8;

/// How many events are read at once.
pub const HANDFUL: usize = 256;

/// What follows where [`Ebpf::tells_syscalls`] is false.
pub const ONLY_RELATIVES: &str = "this kernel does not show programs the current system call (that takes Linux 5.15 \
     and BTF): `closer` is only the process that made the listener, or its child";

/// What follows from [`Ebpf::is_on_branch`], and what to do about it.
pub const ON_BRANCH: &str =
    "flowlog runs in a cgroup namespace of its own: flows of processes outside of it have no process";
/// See [`ON_BRANCH`].
pub const HOST_CGROUPS: &str = "run it in the host's cgroup namespace, as `docker run --cgroupns=host` does";

/// The program that takes the place of `process_exec` where [`has_room_for_paths`] says no.
const RAW_EXEC: (&str, &str) = ("process_exec_raw", "sched_process_exec");

/// Tracepoints by the name of their program.
const TRACEPOINTS: [(&str, &str, &str); 5] = [
    ("cgroup_made", "cgroup", "cgroup_mkdir"),
    ("cgroup_removed", "cgroup", "cgroup_rmdir"),
    ("process_fork", "task", "task_newtask"),
    ("process_exec", "sched", "sched_process_exec"),
    ("process_exit", "sched", "sched_process_exit"),
];

/// Why there are no events from eBPF.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The binary was built with `AYA_BUILD_SKIP=1`.
    #[error("this binary was built without eBPF; build it with `cargo xtask build`")]
    NotBuilt,
    /// Events would have times of another clock than flows.
    #[error(
        "flowlog runs in a time namespace of its own, where CLOCK_MONOTONIC differs from that of eBPF programs; run it \
         in the host's time namespace"
    )]
    TimeNamespace,
    /// The kernel refused the programs or maps.
    #[error("the kernel refused an eBPF program or map")]
    Load(#[from] aya::EbpfError),
    /// The kernel refused one program.
    #[error("the kernel refused the eBPF program `{program}`")]
    Program {
        /// Its name.
        program: String,
        /// The kernel's answer, with the verifier's log.
        source: Box<ProgramError>,
    },
    /// A map is missing or of another kind.
    #[error("the eBPF object has no map `{map}` of the expected kind")]
    Map {
        /// Its name.
        map: &'static str,
        /// What aya said.
        source: Option<aya::maps::MapError>,
    },
    /// Something else that is needed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// What the programs tell, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum RingEvent {
    /// A process connects a TCP socket.
    TcpConnect(TcpConnect),
    /// A TCP socket has its tuple.
    TcpOpen(TcpOpen),
    /// A TCP socket went to the state CLOSE.
    TcpClose(TcpClose),
    /// A socket without a connection has a port.
    EndpointOpen(EndpointOpen),
    /// A raw socket sends packets of its own making.
    RawSend(RawSend),
    /// The last descriptor of a socket was closed.
    SocketRelease(SocketRelease),
    /// A new process.
    ProcessFork(ProcessFork),
    /// A process runs another program, with its path and as much of its arguments as was sent.
    ProcessExec(ProcessExec, Box<[u8]>),
    /// A process is gone.
    ProcessExit(ProcessExit),
    /// A cgroup was made, with its path.
    CgroupMade(CgroupMade, Box<[u8]>),
    /// A cgroup was removed.
    CgroupRemoved(CgroupRemoved),
}

impl RingEvent {
    /// When it happened, in `CLOCK_MONOTONIC` nanoseconds.
    pub fn time_ns(&self) -> u64 {
        let header = match self {
            Self::TcpConnect(event) => &event.header,
            Self::TcpOpen(event) => &event.header,
            Self::TcpClose(event) => &event.header,
            Self::EndpointOpen(event) => &event.header,
            Self::RawSend(event) => &event.header,
            Self::SocketRelease(event) => &event.header,
            Self::ProcessFork(event) => &event.header,
            Self::ProcessExec(event, _) => &event.header,
            Self::ProcessExit(event) => &event.header,
            Self::CgroupMade(event, _) => &event.header,
            Self::CgroupRemoved(event) => &event.header,
        };
        header.time_ns
    }
}

/// What the programs could not tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untold {
    /// Events that did not fit into the ring buffer.
    pub lost: u64,
    /// Forks, execs and exits for which the kernel skipped the program.
    pub skipped: u64,
    /// Whether that is all until now. Where no event was read, only some calls ask how many were skipped.
    pub is_all: bool,
}

/// The loaded and attached programs with their maps.
pub struct Ebpf {
    /// Keeps programs and links alive.
    object: aya::Ebpf,
    /// Where they are attached.
    cgroup: File,
    links: Links,
    events: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
    fullness: Fullness,
    skipped: Skipped,
    capacity: usize,
    sockets: SkStorage<MapData, SocketState>,
    raw_sent: Option<RawTable>,
    is_on_branch: bool,
    tells_syscalls: bool,
    #[cfg(feature = "ebpf-log")]
    log: aya_log::EbpfLogger<&'static dyn log::Log>,
}

impl Ebpf {
    /// Loads all programs and attaches them at the root of cgroup v2 and to the tracepoints. The size of
    /// the ring buffer is a power of two of whole pages; `layouts` are of [`layouts()`].
    ///
    /// # Errors
    ///
    /// Where the kernel refuses any of it: a part of the events would name wrong processes.
    pub fn load(ring_buffer_bytes: u32, layouts: &Layouts) -> Result<Self, EbpfError> {
        if OBJECT.is_empty() {
            return Err(EbpfError::NotBuilt);
        }
        if is_in_time_namespace() {
            return Err(EbpfError::TimeNamespace);
        }
        match Self::load_with(ring_buffer_bytes, layouts) {
            // Before Linux 5.15 programs cannot read the number of the system call, nor `sock_ops` the network namespace.
            Err(EbpfError::Program { .. })
                if layouts.tasks.syscall != 0 || layouts.owners != OwnerLayout::default() =>
            {
                let tasks = TaskLayout { syscall: 0, ..layouts.tasks };
                let owners = OwnerLayout::default();
                Self::load_with(ring_buffer_bytes, &Layouts { tasks, owners, ..*layouts })
            }
            loaded => loaded,
        }
    }

    // Long, since what is found in the object and in the kernel depends on what was found before.
    fn load_with(ring_buffer_bytes: u32, layouts: &Layouts) -> Result<Self, EbpfError> {
        let cgroup = CgroupRoot::open().and_then(|root| root.directory()).map_err(|source| EbpfError::Io {
            what: "cannot open the root of cgroup v2; mount it on an empty directory with `mount -t cgroup2 none DIR`"
                .to_owned(),
            source,
        })?;
        let cgroups = formats::cgroup_layout();

        // Nobody else knows it, so that nobody makes tuples that the table takes for each other.
        let raw_seed = RandomState::new().build_hasher().finish();
        // Without the kernel's types, which aya would read for relocations: there are none in the object.
        let mut object = aya::EbpfLoader::new()
            .btf(None)
            .map_max_entries("EVENTS", ring_buffer_bytes)
            .override_global("TASK_LAYOUT", &layouts.tasks, true)
            .override_global("OWNER_LAYOUT", &layouts.owners, true)
            .override_global("PATH_LAYOUT", &layouts.paths, true)
            .override_global("CGROUP_LAYOUT", cgroups.as_ref().unwrap_or(&CgroupLayout::default()), true)
            .override_global("RAW_SEED", &raw_seed, true)
            .load(OBJECT)?;
        // Where programs are refused, that is said first.
        cgroups.map_err(|source| EbpfError::Io {
            what: format!(
                "cannot read the format of the tracepoint cgroup_mkdir; {}",
                formats::advice(&source)
            ),
            source,
        })?;
        // Processes first: a socket event then finds the program of its owner.
        attach_tracepoints(&mut object, layouts.paths.given == 0 || has_room_for_paths())?;
        for (name, program) in object.programs_mut() {
            attach_to_cgroup(program, &cgroup).map_err(|source| EbpfError::Program {
                program: name.to_owned(),
                source: Box::new(source),
            })?;
        }

        #[cfg(feature = "ebpf-log")]
        let log = aya_log::EbpfLogger::init(&mut object).map_err(|error| EbpfError::Io {
            what: "cannot read the log of the eBPF programs".to_owned(),
            source: io::Error::other(error),
        })?;
        let mut map = |name| object.take_map(name).ok_or(EbpfError::Map { map: name, source: None });
        let broken = |map| move |source| EbpfError::Map { map, source: Some(source) };
        let events = RingBuf::try_from(map("EVENTS")?).map_err(broken("EVENTS"))?;
        let lost = PerCpuArray::try_from(map("LOST")?).map_err(broken("LOST"))?;
        let sockets = SkStorage::try_from(map("SOCKETS")?).map_err(broken("SOCKETS"))?;
        let Map::Array(raw_sent) = map("RAW_SENT")? else {
            return Err(EbpfError::Map { map: "RAW_SENT", source: None });
        };
        let raw_sent = RawTable::new(raw_sent.fd().as_fd(), raw_seed).map_err(|source| EbpfError::Io {
            what: "cannot copy the descriptor of the table of what raw sockets sent".to_owned(),
            source,
        })?;
        let ring_buffer_bytes = usize::try_from(ring_buffer_bytes).unwrap_or(usize::MAX);
        let skipped = Skipped::of(tracepoint_programs(&object)).map_err(|source| EbpfError::Io {
            what: "cannot find the eBPF programs in /proc".to_owned(),
            source,
        })?;
        let links = Links::find().map_err(|source| EbpfError::Io {
            what: "cannot find the links of the eBPF programs in /proc".to_owned(),
            source,
        })?;
        let is_on_branch = mounts::is_branch(&cgroup);
        Ok(Self {
            object,
            cgroup,
            links,
            events,
            lost,
            lost_before: 0,
            fullness: Fullness::new(ring_buffer_bytes),
            skipped,
            capacity: ring_buffer_bytes / MIN_EVENT_BYTES,
            sockets,
            raw_sent: Some(raw_sent),
            is_on_branch,
            tells_syscalls: layouts.tasks.syscall != 0,
            #[cfg(feature = "ebpf-log")]
            log,
        })
    }

    /// Whether flowlog is in a cgroup namespace of its own: sockets of processes outside are not seen.
    pub fn is_on_branch(&self) -> bool {
        self.is_on_branch
    }

    /// Whether the release of a socket tells in which system call it happens.
    pub fn tells_syscalls(&self) -> bool {
        self.tells_syscalls
    }

    /// Whether all programs are attached: others on the host may detach them. It asks /proc, which costs some
    /// microseconds.
    ///
    /// # Errors
    ///
    /// Where /proc does not tell.
    pub fn is_attached(&self) -> io::Result<bool> {
        self.links.detached().map(|detached| detached.is_empty())
    }

    /// Attaches again what somebody detached. These are BPF system calls: what the kernel skips meanwhile is counted
    /// as lost events.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses it.
    pub fn attach_again(&mut self) -> Result<(), EbpfError> {
        const WHAT: &str = "cannot find the links of the eBPF programs in /proc";
        let unknown = |source| EbpfError::Io { what: WHAT.to_owned(), source };
        let Self { object, cgroup, links, .. } = self;
        let detached = links.detached().map_err(unknown)?;
        for (name, program) in object.programs_mut() {
            let Ok(descriptor) = program.fd().map(|fd| fd.as_fd().as_raw_fd()) else { continue };
            let id = links::program_id(descriptor).map_err(unknown)?;
            if id.is_some_and(|id| detached.contains(&id)) {
                attach_to_cgroup(program, cgroup).map_err(|source| EbpfError::Program {
                    program: name.to_owned(),
                    source: Box::new(source),
                })?;
            }
        }
        links.find_again().map_err(unknown)
    }

    /// Gives, once, the table of what raw sockets sent, to be read.
    pub fn take_raw_sent(&mut self) -> Option<RawTable> {
        self.raw_sent.take()
    }

    /// How many events the ring buffer holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Reads the next events into `events`: at most [`HANDFUL`], and fewer where there are no more. Says how
    /// many are missing since the last call: what was lost before an event of this handful was sent is known
    /// by now.
    ///
    /// # Errors
    ///
    /// Where the kernel does not give its counts; then nothing can be trusted.
    pub fn read(&mut self, events: &mut Vec<RingEvent>) -> Result<Untold, EbpfError> {
        events.clear();
        while events.len() < HANDFUL
            && let Some(item) = self.events.next()
        {
            self.fullness.read(item.len());
            // What cannot be parsed would be a fault of the build: both sides are of one commit.
            events.extend(parse(&item));
        }
        #[cfg(feature = "ebpf-log")]
        self.log.flush();
        // A loss is counted before anything that comes after it is sent.
        let now = Instant::now();
        let is_all = self.skipped.must_ask(!events.is_empty(), now);
        let skipped = if is_all { self.newly_skipped()? } else { 0 };
        let lost = if self.fullness.must_ask(now) { self.newly_lost()? } else { 0 };
        Ok(Untold { lost, skipped, is_all })
    }

    /// Whether the ring buffer has something that [`Ebpf::read`] did not give: an event that came since, or one that a
    /// program has begun and not finished, before which none of the later ones can be read. A kernel that preempts itself
    /// may let such a program wait for its processor.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn has_more(&self) -> Result<bool, EbpfError> {
        let mut polled = [PollFd::new(&self.events, PollFlags::IN)];
        let ready = rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        match ready {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(EbpfError::Io {
                what: "cannot poll the ring buffer of the eBPF programs".to_owned(),
                source: error.into(),
            }),
        }
    }

    /// How often programs were skipped since the last call.
    fn newly_skipped(&mut self) -> Result<u64, EbpfError> {
        self.skipped.new_ones().map_err(|source| EbpfError::Io {
            what: "cannot read in /proc how often eBPF programs were skipped".to_owned(),
            source,
        })
    }

    /// How many events did not fit into the ring buffer since the last call.
    ///
    /// # Errors
    ///
    /// Where the kernel does not give the counter; then nothing can be trusted.
    fn newly_lost(&mut self) -> Result<u64, EbpfError> {
        let per_cpu =
            self.lost.get(&0, 0).map_err(|source| EbpfError::Map { map: "LOST", source: Some(source) })?;
        let total: u64 = per_cpu.iter().sum();
        // Any change is a loss: counts of programs that interrupted each other may be missing.
        let new = if total == self.lost_before { 0 } else { total.saturating_sub(self.lost_before).max(1) };
        self.lost_before = total;
        Ok(new)
    }

    /// Cookie of the network namespace of an inet socket that was made after [`Ebpf::load`]; `None`
    /// where the programs did not see it made.
    ///
    /// It is read from the socket's storage: `SO_NETNS_COOKIE` would need Linux 5.14.
    pub fn netns_cookie(&self, socket: &impl AsRawFd) -> Option<u64> {
        self.sockets.get(socket, 0).ok().map(|state| state.owner.netns_cookie)
    }

    /// Who owns a socket, as the programs wrote it into the socket's storage; `None` if they do not know.
    pub fn owner(&self, socket: &impl AsRawFd) -> Option<Owner> {
        self.sockets.get(socket, 0).ok().map(|state| state.owner).filter(|owner| owner.time_ns != 0)
    }

    /// Writes the owner into a socket that has none, with [`flags`](flowlog_common::flags). Says `false`
    /// where the programs know its owner.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses it.
    pub fn adopt(&mut self, socket: &impl AsRawFd, owner: Owner, flags: u32) -> Result<bool, EbpfError> {
        let state = SocketState {
            owner,
            user: 0,
            user_since_ns: 0,
            user_changes: 0,
            flags,
            announced_id: 0,
            announced_addr: [0; 4],
            raw_told: 0,
        };
        match self.sockets.insert(socket, state, BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(source) => Err(EbpfError::Map { map: "SOCKETS", source: Some(source) }),
        }
    }
}

/// The event in the bytes of one entry of the ring buffer.
pub(crate) fn parse(bytes: &[u8]) -> Option<RingEvent> {
    fn read<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<T> {
        bytemuck::try_pod_read_unaligned(bytes.get(..size_of::<T>())?).ok()
    }
    match read::<u32>(bytes)? {
        kind::TCP_CONNECT => read(bytes).map(RingEvent::TcpConnect),
        kind::TCP_OPEN => read(bytes).map(RingEvent::TcpOpen),
        kind::TCP_CLOSE => read(bytes).map(RingEvent::TcpClose),
        kind::RAW_SEND => read(bytes).map(RingEvent::RawSend),
        kind::ENDPOINT_OPEN => read(bytes).map(RingEvent::EndpointOpen),
        kind::SOCKET_RELEASE => read(bytes).map(RingEvent::SocketRelease),
        kind::PROCESS_FORK => read(bytes).map(RingEvent::ProcessFork),
        kind::PROCESS_EXEC => {
            let texts = bytes.get(size_of::<ProcessExec>()..)?;
            read(bytes).map(|exec| RingEvent::ProcessExec(exec, texts.into()))
        }
        kind::PROCESS_EXIT => read(bytes).map(RingEvent::ProcessExit),
        kind::CGROUP_MADE => {
            let path = bytes.get(size_of::<CgroupMade>()..)?;
            read(bytes).map(|made| RingEvent::CgroupMade(made, path.into()))
        }
        kind::CGROUP_REMOVED => read(bytes).map(RingEvent::CgroupRemoved),
        _ => None,
    }
}

/// Where what the programs read is in the running kernel, from its own description of its types.
///
/// # Errors
///
/// Where the kernel has no such description, or one without these fields.
pub fn layouts() -> io::Result<Layouts> {
    let types = std::fs::read(KERNEL_TYPES)?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "found no fields of tasks in it");
    kernel_types::layouts(&types).ok_or_else(missing)
}

/// Loads a program, where it is not loaded yet, and attaches it.
fn attach_to_cgroup(program: &mut Program, cgroup: &File) -> Result<(), ProgramError> {
    // A link (since Linux 5.7) takes no flags and always lets others attach beside it.
    let mode = CgroupAttachMode::Single;
    let is_loaded = program.fd().is_ok();
    macro_rules! attach {
        ($program:ident: $Program:ty $(, $kind:expr)?) => {{
            let program: &mut $Program = $program;
            if !is_loaded {
                program.load()?;
            }
            program.attach(cgroup, $($kind,)? mode)?;
        }};
    }
    match program {
        Program::CgroupSock(program) => attach!(program: CgroupSock),
        Program::CgroupSockAddr(program) => attach!(program: CgroupSockAddr),
        Program::CgroupSkb(program) => attach!(program: CgroupSkb, CgroupSkbAttachType::Egress),
        Program::SockOps(program) => attach!(program: SockOps),
        // Attached before.
        _ => {}
    }
    Ok(())
}

/// Whether the kernel runs the program of a tracepoint that tells a path of 4096 bytes: since Linux 5.16 there is room
/// for that (`PERF_MAX_TRACE_SIZE`). Before, it warns and skips the program.
fn has_room_for_paths() -> bool {
    let release = nix::sys::utsname::uname().ok();
    let release = release.as_ref().and_then(|uname| uname.release().to_str());
    let mut numbers = release.unwrap_or_default().split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 16),
        _ => true,
    }
}

/// Attaches the tracepoints, for which aya reads their numbers from tracefs.
fn attach_tracepoints(object: &mut aya::Ebpf, has_room_for_paths: bool) -> Result<(), EbpfError> {
    let refused = |name: &str, source| EbpfError::Program { program: name.to_owned(), source };
    let attached = mounts::with_tracefs(|| {
        for (name, category, tracepoint) in TRACEPOINTS {
            let (name, attached) = if name == "process_exec" && !has_room_for_paths {
                (RAW_EXEC.0, attach_raw(object))
            } else {
                (name, attach_tracepoint(object, name, category, tracepoint))
            };
            attached.map_err(|source| refused(name, Box::new(source)))?;
        }
        Ok(())
    });
    attached.unwrap_or_else(|source| {
        let what = format!("cannot mount tracefs; mount it with `mount -t tracefs none {}`", mounts::TRACEFS);
        Err(EbpfError::Io { what, source })
    })
}

fn attach_tracepoint(
    object: &mut aya::Ebpf,
    name: &str,
    category: &str,
    tracepoint: &str,
) -> Result<(), ProgramError> {
    let Some(Program::TracePoint(program)) = object.program_mut(name) else { return Ok(()) };
    let program: &mut TracePoint = program;
    program.load()?;
    program.attach(category, tracepoint).map(drop)
}

fn attach_raw(object: &mut aya::Ebpf) -> Result<(), ProgramError> {
    let (name, tracepoint) = RAW_EXEC;
    let Some(Program::RawTracePoint(program)) = object.program_mut(name) else { return Ok(()) };
    let program: &mut RawTracePoint = program;
    program.load()?;
    program.attach(tracepoint).map(drop)
}

/// The descriptors of their programs, which are loaded.
fn tracepoint_programs(object: &aya::Ebpf) -> impl Iterator<Item = RawFd> {
    let programs = TRACEPOINTS.iter().filter_map(|(name, ..)| object.program(name));
    programs.filter_map(|program| program.fd().ok()).map(|program| program.as_fd().as_raw_fd())
}
