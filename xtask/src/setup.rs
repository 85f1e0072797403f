//! `cargo xtask setup`: installs what is missing, and nothing where nothing is.
//!
//! Each command calls the part that it needs. A part looks first, says what it is about to install,
//! and looks again afterwards: an installation that does not help is an error.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::dist::Machine;
use crate::ebpf_toolchain::{self, BPF_LINKER_VERSION};
use crate::{debian, python, sh, workspace};

/// The Debian packages with a compiler that is recent enough, and with the sources of `core`.
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Programs that the tests, the demo and the measurements call, and the Debian packages they come from.
const TRAFFIC_TOOLS: [(&str, &str); 10] = [
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("strace", "strace"),
    ("bpftool", "bpftool"),
    ("faketime", "faketime"),
    ("nmap", "nmap"),
];

/// What else the tests look at: programs as people run them.
const REAL_PROGRAMS: [(&str, &str); 2] = [("go", "golang-go"), ("systemd-analyze", "systemd")];

/// What people use today, and what flowlog is compared with.
const PEERS: [&str; 2] = ["ulogd2", "ulogd2-json"];

/// The version of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Programs that make what virtual machines boot, and the Debian packages they come from. The emulator itself is not
/// installed (`vm_test::qemu`).
const MACHINE_TOOLS: [(&str, &str); 5] = [
    ("depmod", "kmod"),
    ("cpio", "cpio"),
    ("strip", "binutils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("fsfreeze", "util-linux"),
];

/// The tools of cargo that make packages, with their versions and features. They are installed below the target directory.
const PACKAGE_TOOLS: [(&str, &str, &str); 3] =
    [("cargo-deb", "3.8.0", ""), ("cargo-generate-rpm", "0.21.1", ""), ("cargo-about", "0.9.3", "cli")];

/// What shows man pages, and the shells that have completions.
const MANUAL_TOOLS: [(&str, &str); 3] = [("mandoc", "mandoc"), ("zsh", "zsh"), ("fish", "fish")];

/// Programs that make packages.
const DIST_TOOLS: [(&str, &str); 4] =
    [("git", "git"), ("dpkg-deb", "dpkg"), ("gzip", "gzip"), ("buildah", "buildah")];

/// Programs that check packages.
const DIST_CHECKS: [(&str, &str); 4] =
    [("lintian", "lintian"), ("rpm", "rpm"), ("rpm2cpio", "rpm2cpio"), ("cpio", "cpio")];

/// How long rustup may try, in seconds, before another way is taken: it fetches 4 MB, and may be
/// cut off from its server without an error.
const RUSTUP_SECONDS: &str = "60";

/// Everything that any command needs.
///
/// # Errors
///
/// Like all of this module: when something is missing and cannot be installed.
pub(crate) fn all() -> Result<()> {
    for_build()?;
    for_lints()?;
    for_traffic()?;
    eprintln!("setup: nothing is missing");
    Ok(())
}

/// A compiler for the eBPF programs, and their linker.
pub(crate) fn for_build() -> Result<()> {
    compiler()?;
    bpf_linker()
}

/// rustfmt, and clippy for both sides.
pub(crate) fn for_lints() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if sh::output(sh::cargo(subcommand).arg("--version")).is_err() {
            add_component(component, None)?;
        }
    }
    let sysroot = ebpf_toolchain::compiler()?;
    if sysroot.join("bin/cargo-clippy").is_file() {
        return Ok(());
    }
    if sysroot == Path::new("/usr") {
        return debian::install(&["rust-web-clippy"], "the lints of the eBPF programs");
    }
    // The directory of a rustup toolchain has the toolchain's full name.
    add_component("clippy", sysroot.file_name().and_then(|name| name.to_str()))
}

/// What makes, watches and reads real traffic: network tools and the Python readers.
pub(crate) fn for_traffic() -> Result<()> {
    for_network()?;
    programs(&REAL_PROGRAMS, "the tests")?;
    python::setup()
}

/// What makes and watches networks.
pub(crate) fn for_network() -> Result<()> {
    programs(&TRAFFIC_TOOLS, "the tests, the demo and the measurements")
}

/// What makes virtual machines.
pub(crate) fn for_machines() -> Result<()> {
    for_network()?;
    programs(&MACHINE_TOOLS, "virtual machines")
}

/// What checks man pages and completions.
pub(crate) fn for_manual() -> Result<()> {
    programs(&MANUAL_TOOLS, "man pages and completions")
}

/// What makes packages for these machines.
pub(crate) fn for_dist(machines: &[Machine]) -> Result<()> {
    programs(&DIST_TOOLS, "packages")?;
    for machine in machines {
        let compiler = machine.gnu_tool("gcc");
        if sh::find(&compiler).is_none() {
            debian::install(&machine.compiler_packages(), &format!("programs for {}", machine.name()))?;
        }
        for triple in machine.triples() {
            target(&triple)?;
        }
    }
    for (name, version, features) in PACKAGE_TOOLS {
        package_tool(name, version, features)?;
    }
    Ok(())
}

/// What checks packages for these machines.
pub(crate) fn for_dist_check(machines: &[Machine]) -> Result<()> {
    programs(&DIST_CHECKS, "the checks of packages")?;
    let emulators: Vec<_> = machines.iter().filter_map(|machine| machine.emulator()).collect();
    programs(&emulators, "programs for other machines")
}

/// Where a tool is that makes packages.
pub(crate) fn cargo_tool(name: &str) -> PathBuf {
    workspace::target_dir().join("tools/bin").join(name)
}

fn package_tool(name: &str, version: &str, features: &str) -> Result<()> {
    let is_there = || {
        let found = sh::output(Command::new(cargo_tool(name)).arg("--version"));
        found.is_ok_and(|found| found.split_whitespace().any(|word| word == version))
    };
    if is_there() {
        return Ok(());
    }
    eprintln!("setup: installing {name} {version} with cargo (some minutes)");
    let mut install = sh::cargo("install");
    install.args(["--quiet", "--locked", name, "--version", version, "--features", features, "--root"]);
    install.arg(workspace::target_dir().join("tools")).env_remove("CARGO_TARGET_DIR");
    sh::run(&mut install)?;
    if !is_there() {
        bail!("{name} {version} was installed, but does not run");
    }
    Ok(())
}

/// The standard library for a target of the compiler.
fn target(triple: &str) -> Result<()> {
    let mut rustc = Command::new("rustc");
    let directory = sh::output(rustc.args(["--print=target-libdir", "--target", triple]))?;
    if Path::new(directory.trim_end()).is_dir() {
        return Ok(());
    }
    eprintln!("setup: adding the target {triple} with rustup");
    let mut rustup = Command::new("timeout");
    rustup.args([RUSTUP_SECONDS, "rustup", "target", "add", triple]);
    sh::output(&mut rustup).with_context(|| format!("cannot add the target {triple}"))?;
    Ok(())
}

/// Installs the packages of programs that are not there.
fn programs(wanted: &[(&str, &str)], purpose: &str) -> Result<()> {
    let missing = || wanted.iter().filter(|(program, _)| sh::find(program).is_none());
    let packages: Vec<&str> = missing().map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        debian::install(&packages, purpose)?;
    }
    if let Some((program, package)) = missing().next() {
        bail!("`{program}` is not on PATH after installing `{package}`; add the directory to PATH");
    }
    Ok(())
}

/// What flowlog is compared with, besides conntrack(8). What cannot be installed is left out by who needs it.
pub(crate) fn for_comparison() {
    if !has_ulogd()
        && let Err(error) = debian::install(&PEERS, "the comparison with ulogd2")
    {
        eprintln!("setup: {error:#}");
    }
}

/// Whether ulogd2 is there, with what writes JSON: a package of its own in Debian.
pub(crate) fn has_ulogd() -> bool {
    let has_json = |directory: &Path| directory.join("ulogd/ulogd_output_JSON.so").is_file();
    // Debian has a directory for each architecture, others have none.
    let architectures =
        std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let libraries = ["/usr/lib", "/usr/lib64"].map(Into::into);
    sh::find("ulogd").is_some() && libraries.into_iter().chain(architectures).any(|path| has_json(&path))
}

/// The programs of a measurement, and the Debian packages they come from. Debian starts the services among them, which
/// a host for measurements need not have: that is reported.
pub(crate) fn for_measurement(wanted: &[(&str, &str)]) -> Result<()> {
    let services: Vec<&str> =
        wanted.iter().map(|(program, _)| *program).filter(|program| sh::find(program).is_none()).collect();
    programs(wanted, "the measurement")?;
    if !services.is_empty() {
        eprintln!(
            "setup: installed {}; if the system has started services of these, stop them",
            services.join(", ")
        );
    }
    Ok(())
}

/// Installs a program that a measurement can do without. `false`: it cannot be had, which is reported.
pub(crate) fn for_peer(program: &str, package: &str) -> bool {
    match programs(&[(program, package)], "a comparison") {
        Ok(()) => true,
        Err(error) => {
            eprintln!("setup: {error:#}");
            false
        }
    }
}

/// cargo-fuzz, and the compiler that its library needs.
pub(crate) fn for_fuzzing() -> Result<()> {
    if sh::find("c++").is_none() {
        debian::install(&["g++"], "fuzzing")?;
    }
    if sh::find("cargo-fuzz").is_some() {
        return Ok(());
    }
    eprintln!("setup: installing cargo-fuzz {CARGO_FUZZ_VERSION} with cargo (about a minute)");
    let mut install = sh::cargo("install");
    install.args(["--quiet", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION]);
    install.env_remove("CARGO_TARGET_DIR");
    sh::run(&mut install)
}

/// Prefers rustup, which changes the least; its server is not reachable from everywhere.
fn compiler() -> Result<()> {
    if ebpf_toolchain::compiler().is_ok() {
        return Ok(());
    }
    if sh::find("rustup").is_some() {
        for toolchain in [Some("nightly"), None] {
            match add_component("rust-src", toolchain) {
                Ok(()) if ebpf_toolchain::compiler().is_ok() => return Ok(()),
                Ok(()) => {}
                Err(error) => eprintln!("setup: {error:#}"),
            }
        }
    }
    debian::install(&DEBIAN_COMPILER, "the compiler of the eBPF programs")?;
    ebpf_toolchain::compiler()?;
    Ok(())
}

fn bpf_linker() -> Result<()> {
    if ebpf_toolchain::bpf_linker().is_ok() {
        return Ok(());
    }
    eprintln!("setup: installing bpf-linker {BPF_LINKER_VERSION} with cargo (one to two minutes)");
    let mut install = sh::cargo("install");
    install.args(["--quiet", "--locked", "bpf-linker", "--version", BPF_LINKER_VERSION]);
    // Its build takes 300 MB that nobody needs afterwards: cargo takes a temporary directory.
    install.env_remove("CARGO_TARGET_DIR");
    sh::run(&mut install)?;
    ebpf_toolchain::bpf_linker()?;
    Ok(())
}

/// Adds a component to a toolchain of rustup, by default to the one that is running.
fn add_component(component: &str, toolchain: Option<&str>) -> Result<()> {
    let name = toolchain.unwrap_or("the active toolchain");
    eprintln!("setup: adding {component} to {name} with rustup");
    let mut rustup = Command::new("timeout");
    rustup.args([RUSTUP_SECONDS, "rustup", "component", "add", component]);
    rustup.args(toolchain.map(|toolchain| format!("--toolchain={toolchain}")));
    // A nightly that is not there is 300 MB: not a thing to fetch unasked.
    rustup.env("RUSTUP_AUTO_INSTALL", "0").env("RUST_BACKTRACE", "0");
    sh::output(&mut rustup).with_context(|| format!("cannot add {component} to {name}"))?;
    Ok(())
}
