//! Checks of the host: privileges, eBPF, the output directory.

use std::fs;
use std::path::Path;

use caps::{CapSet, Capability};

use super::{Finding, Level};
use crate::attribution::clocks::read::{SLOW_NS, compare};
use crate::attribution::ebpf::{
    Ebpf, HOST_CGROUPS, KERNEL_TYPES, ON_BRANCH, ONLY_RELATIVES, cgroup2_root, layouts,
};
use crate::attribution::seed::sockets_tell_namespaces;
use crate::causes::one_line;
use crate::host::confinement::{has_filters, landlock};
use crate::host::rights::{RIGHTS, Right};

/// What `CAP_SYS_ADMIN` contains.
const ADMINISTRATOR: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

/// Where the kernel tells which clock it reads.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Free space below which the output directory is reported.
const LOW_SPACE_BYTES: u64 = 1 << 30;

/// Enough for a check that reads no events.
const RING_BUFFER_BYTES: u32 = 64 << 10;

/// Checks what does not belong to a network namespace.
pub fn check_host(output: &Path) -> Vec<Finding> {
    vec![
        capabilities(),
        confinement(),
        clocks(),
        older_sockets(),
        cgroup2(),
        btf(),
        programs(),
        output_directory(output),
    ]
}

fn capabilities() -> Finding {
    let held = match caps::read(None, CapSet::Effective) {
        Ok(held) => held,
        Err(error) => {
            return Finding::bad(
                "capabilities",
                Level::Problem,
                format!("cannot read the capabilities of this process: {error}"),
                "mount /proc",
            );
        }
    };
    // What is missing without CAP_SYS_PTRACE, the check of older sockets tells.
    let missing: Vec<String> = RIGHTS
        .iter()
        .filter(|right| right.capability != Capability::CAP_SYS_PTRACE)
        .filter(|right| !held.contains(&right.capability) && !is_of_root(right.capability))
        .filter(|right| {
            !(ADMINISTRATOR.contains(&right.capability) && held.contains(&Capability::CAP_SYS_ADMIN))
        })
        .map(|Right { capability, purpose, without, .. }| format!("{capability} ({purpose}): {without}"))
        .collect();
    if missing.is_empty() {
        Finding::ok("capabilities", "has all that flowlog needs")
    } else {
        Finding::bad(
            "capabilities",
            Level::Problem,
            format!("missing {}", missing.join("; ")),
            "run as root, or with these capabilities",
        )
    }
}

/// What `run` can forbid itself once it has started. Without it flows are the same, so nothing of this is a warning.
fn confinement() -> Finding {
    let files = match landlock() {
        Some(version) => format!("can write only below its output directory (Landlock {version})"),
        None => "cannot limit where it writes: this kernel has no Landlock that flowlog can use (Linux 5.19 or newer, \
                 with `landlock` among `lsm=`)"
            .to_owned(),
    };
    let calls = if has_filters() {
        "can refuse itself programs and new connections (seccomp)"
    } else {
        "cannot refuse itself programs and new connections: this kernel has no CONFIG_SECCOMP_FILTER"
    };
    Finding::ok("confinement", format!("flowlog {files}, and {calls}"))
}

/// Whether root may do so anyhow, since the files are its own.
fn is_of_root(capability: Capability) -> bool {
    capability == Capability::CAP_DAC_READ_SEARCH && nix::unistd::geteuid().is_root()
}

/// How well sockets and flows can be joined by time.
fn clocks() -> Finding {
    const CHECK: &str = "clocks";
    let source = fs::read_to_string(CLOCK_SOURCE).unwrap_or_default();
    let source = source.trim();
    let source = if source.is_empty() { "not known" } else { source };
    let (clocks, _) = compare();
    let error_ns = clocks.error_ns();
    let found = format!("can be compared to within {} us (clock source: {source})", error_ns.div_ceil(1000));
    if error_ns > SLOW_NS {
        let found =
            format!("{found}: connections that reuse a port within this time have `ambiguous` processes");
        return Finding::bad(CHECK, Level::Warning, found, "use a faster clock source, such as tsc");
    }
    Finding::ok(CHECK, found)
}

fn older_sockets() -> Finding {
    const CHECK: &str = "older sockets";
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_PTRACE).unwrap_or(false) {
        return Finding::bad(
            CHECK,
            Level::Warning,
            "missing CAP_SYS_PTRACE: sockets that are older than flowlog have no process",
            "run as root, or give the service this capability",
        );
    }
    if !sockets_tell_namespaces() {
        return Finding::bad(
            CHECK,
            Level::Warning,
            "this kernel does not show the network namespace of a socket: sockets that are older than flowlog have no \
             process",
            "use Linux 5.14 or newer, or start flowlog before the programs that it is to name",
        );
    }
    Finding::ok(CHECK, "flowlog can find their processes")
}

fn cgroup2() -> Finding {
    match cgroup2_root() {
        Some(root) => Finding::ok("cgroup v2", format!("mounted at {}", root.display())),
        None => Finding::ok("cgroup v2", "not mounted: flowlog mounts it where nobody else sees it"),
    }
}

fn btf() -> Finding {
    match layouts() {
        Ok(_) => Finding::ok("BTF", KERNEL_TYPES),
        Err(error) => Finding::bad(
            "BTF",
            Level::Warning,
            format!(
                "cannot use {KERNEL_TYPES}: {error}; new processes have no command line and no login user, and their \
                 `exe` is what was given to `execve`"
            ),
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}

/// Nothing tells what a kernel takes but trying: the programs are attached for a moment, and see what they
/// would see in `run`.
fn programs() -> Finding {
    const CHECK: &str = "eBPF programs";
    // What is missing without the kernel's types, the check of BTF tells.
    match Ebpf::load(RING_BUFFER_BYTES, &layouts().unwrap_or_default()) {
        Ok(ebpf) if ebpf.is_on_branch() => Finding::bad(CHECK, Level::Warning, ON_BRANCH, HOST_CGROUPS),
        Ok(ebpf) if !ebpf.tells_syscalls() => Finding::ok(CHECK, ONLY_RELATIVES),
        Ok(_) => Finding::ok(CHECK, "the kernel accepts all of them"),
        Err(error) => Finding::bad(
            CHECK,
            Level::Warning,
            format!("{}; flows are logged without processes", one_line(&error)),
            error.advice().unwrap_or("run as root, on Linux 5.10 or newer"),
        ),
    }
}

fn output_directory(output: &Path) -> Finding {
    const CHECK: &str = "output directory";
    let bad = |found: String, advice: &str| Finding::bad(CHECK, Level::Problem, found, advice);
    // `run` makes the directory: then the nearest parent that exists has to take it.
    let absolute = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
    let Some(existing) = absolute.ancestors().find(|path| path.exists()) else {
        return bad(format!("`{}` has no parent that exists", output.display()), "give an absolute path");
    };
    if !existing.is_dir() {
        return bad(
            format!("`{}` is not a directory", existing.display()),
            "choose another one with --output",
        );
    }
    if let Err(error) = tempfile_in(existing) {
        return bad(
            format!("cannot write to `{}`: {error}", existing.display()),
            "choose another one with --output, or mount it writable",
        );
    }
    let free_bytes = match nix::sys::statvfs::statvfs(existing) {
        Ok(stat) => stat.blocks_available().saturating_mul(stat.fragment_size()),
        Err(errno) => {
            return bad(
                format!("cannot read the free space of `{}`: {errno}", existing.display()),
                "check that its file system is mounted and works",
            );
        }
    };
    let found = format!("`{}`, {} MiB free", output.display(), free_bytes >> 20);
    if free_bytes < LOW_SPACE_BYTES {
        return Finding::bad(CHECK, Level::Warning, found, "make room, or choose another one with --output");
    }
    Finding::ok(CHECK, found)
}

/// Makes and removes a file: permission bits say nothing of read-only mounts, quotas and root.
fn tempfile_in(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(format!(".flowlog-doctor-{}", std::process::id()));
    fs::File::create_new(&path)?;
    fs::remove_file(&path)
}
