//! What the kernel has of eBPF: the parts that a process holds, and programs of somebody else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, available_parallelism};

use aya::Ebpf;
use aya::maps::{MapType, PerCpuArray, loaded_maps};
use aya::programs::{CgroupAttachMode, CgroupSock, loaded_links, loaded_programs};
use flowlog::attribution::ebpf::cgroup2_root;
use nix::errno::Errno;
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};
use socket2::{Domain, Protocol, Socket, Type};

use super::process::run;

/// Ids of programs, links and maps, which the kernel does not use again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Parts {
    /// What a process holds now.
    #[track_caller]
    pub(crate) fn of(pid: i32) -> Self {
        let mut parts = Self { programs: BTreeSet::new(), links: BTreeSet::new(), maps: BTreeSet::new() };
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
            // Of a link, this also names its program.
            for line in fs::read_to_string(file.unwrap().path()).unwrap_or_default().lines() {
                let Some((key, id)) = line.split_once(':') else { continue };
                let ids = match key {
                    "prog_id" => &mut parts.programs,
                    "link_id" => &mut parts.links,
                    "map_id" => &mut parts.maps,
                    _ => continue,
                };
                ids.insert(id.trim().parse().unwrap());
            }
        }
        parts
    }

    /// Those that the kernel still has.
    #[track_caller]
    pub(crate) fn left(&self) -> Self {
        // What ends while it is listed is an error.
        let programs = loaded_programs().flatten().map(|program| program.id());
        let links = loaded_links().flatten().map(|link| link.id());
        let maps = loaded_maps().flatten().map(|map| map.id());
        Self {
            programs: programs.filter(|id| self.programs.contains(id)).collect(),
            links: links.filter(|id| self.links.contains(id)).collect(),
            maps: maps.filter(|id| self.maps.contains(id)).collect(),
        }
    }

    /// Whether a program is attached.
    pub(crate) fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { programs, links, maps } = self;
        programs.is_empty() && links.is_empty() && maps.is_empty()
    }
}

/// The ids of the links that attach programs of a process to cgroups.
#[track_caller]
pub(crate) fn attached_links(pid: i32) -> Vec<String> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let infos = infos.map(|file| fs::read_to_string(file.unwrap().path()).unwrap_or_default());
    let line = |info: &str, name: &str| {
        Some(info.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned())
    };
    // A link that was detached is of no cgroup.
    let is_attached = |info: &String| line(info, "cgroup_id:").is_some_and(|cgroup| cgroup != "0");
    infos.filter(is_attached).filter_map(|info| line(&info, "link_id:")).collect()
}

/// Detaches all links of a process to cgroups, as somebody does who takes them for leftovers. Gives how many.
#[track_caller]
pub(crate) fn detach_links(pid: i32) -> usize {
    let links = attached_links(pid);
    for link in &links {
        let mut command = Command::new("bpftool");
        command.args(["link", "detach", "id", link]);
        run(command).success();
    }
    links.len()
}

/// A program of somebody else at the root of cgroup v2, until it is dropped: nobody on the host can make a
/// socket of its protocol, which no other test uses.
pub(crate) struct Guard {
    _program: Ebpf,
    protocol: i32,
}

impl Guard {
    /// Attaches it.
    #[track_caller]
    pub(crate) fn attach(protocol: i32) -> Self {
        let mut object = Ebpf::load(&refusing(protocol)).unwrap();
        let program: &mut CgroupSock = object.program_mut("refuse").unwrap().try_into().unwrap();
        program.load().unwrap();
        let root = File::open(cgroup2_root().unwrap()).unwrap();
        // As a link, which always lets others attach beside it.
        program.attach(root, CgroupAttachMode::Single).unwrap();
        Self { _program: object, protocol }
    }

    /// Whether the kernel runs it.
    #[track_caller]
    pub(crate) fn runs(&self) -> bool {
        match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(self.protocol))) {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32), "{error}");
                true
            }
        }
    }
}

/// An object file with a program for `cgroup/sock_create`:
///
/// ```c
/// int refuse(struct bpf_sock *socket) { return socket->protocol == protocol ? 0 : 1; }
/// ```
fn refusing(protocol: i32) -> Vec<u8> {
    let [a, b, c, d] = protocol.to_le_bytes();
    let code = [
        // r1 = *(u32 *)(r1 + offsetof(struct bpf_sock, protocol))
        [0x61, 0x11, 12, 0, 0, 0, 0, 0],
        // r0 = 1
        [0xb7, 0, 0, 0, 1, 0, 0, 0],
        // if r1 != protocol goto the end
        [0x55, 1, 1, 0, a, b, c, d],
        // r0 = 0
        [0xb7, 0, 0, 0, 0, 0, 0, 0],
        // exit
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    object_file("cgroup/sock_create", SectionKind::Text, "refuse", SymbolKind::Text, code.as_flattened())
}

/// Somebody who looks things up in a large map of eBPF without a pause, in as many threads as there are processors,
/// until it is dropped. A kernel that preempts these system calls skips programs of tracepoints meanwhile.
pub(crate) struct Lookups {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Lookups {
    /// Begins.
    #[track_caller]
    pub(crate) fn start() -> Self {
        /// What fits into one value of such a map.
        const VALUE_BYTES: usize = 32_000;
        let definition = [MapType::PerCpuArray as usize, size_of::<u32>(), VALUE_BYTES, 1, 0];
        let definition = definition.map(|number| u32::try_from(number).unwrap().to_le_bytes());
        let object =
            object_file("maps", SectionKind::Data, "LARGE", SymbolKind::Data, definition.as_flattened());
        let is_over = Arc::new(AtomicBool::new(false));
        let lookups = || {
            let large = Ebpf::load(&object).unwrap().take_map("LARGE").unwrap();
            let large = PerCpuArray::<_, [u8; VALUE_BYTES]>::try_from(large).unwrap();
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    large.get(&0, 0).unwrap();
                }
            })
        };
        let threads = (0..available_parallelism().unwrap().get()).map(|_| lookups()).collect();
        Self { is_over, threads }
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// An object file with one section besides its license, and one symbol for all of it.
fn object_file(
    section: &str,
    section_kind: SectionKind,
    symbol: &str,
    symbol_kind: SymbolKind,
    data: &[u8],
) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), section.into(), section_kind);
    let symbol = object.add_symbol(Symbol {
        name: symbol.into(),
        value: 0,
        size: 0,
        kind: symbol_kind,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    object.add_symbol_data(symbol, section, data, 8);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    object.write().unwrap()
}
