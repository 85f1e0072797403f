//! Which compiler and which linker build the eBPF programs, and how cargo is called with them.
//!
//! The one place that knows it: `flowlog/build.rs` includes this file by its path, so that a build,
//! `cargo xtask setup` and the lints always agree. It only looks; nothing is installed from here.
//! It uses `std` and `anyhow` only, because every build of flowlog compiles it.
//!
//! A compiler is a sysroot: a directory with `bin/rustc` and the sources of `core`, from which cargo
//! builds `core` for the BPF target. That covers toolchains of rustup and the packages of a
//! distribution alike. `aya-build` is not used, because it can call a compiler only as `rustup run
//! TOOLCHAIN cargo`, removes `RUSTC` and keeps a stable compiler from building `core`; where neither
//! a nightly nor its sources can be had, it has no way to build.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The release of bpf-linker that is expected and installed.
pub(crate) const BPF_LINKER_VERSION: &str = "0.10.1";

/// The LLVM that this bpf-linker is built for: it reads bitcode up to this version, and the
/// `libLLVM` that it loads has to be of this version.
const LLVM_MAJOR: u32 = 22;

/// Cargo refuses to build the workspace with a compiler that is older than its `rust-version`.
/// Debian 12's plain `rustc` is 1.63.
const RUST_VERSION: &str = env!("CARGO_PKG_RUST_VERSION");

/// All that is needed to build the eBPF programs.
pub(crate) struct EbpfToolchain {
    /// The compiler: a directory with `bin/rustc` and the sources of `core`.
    pub(crate) sysroot: PathBuf,
    bpf_linker: PathBuf,
    llvm_library: PathBuf,
}

impl EbpfToolchain {
    /// Looks for the toolchain on this machine.
    ///
    /// # Errors
    ///
    /// Names what is missing, and `cargo xtask setup`, which installs it.
    pub(crate) fn find() -> Result<Self> {
        let find =
            || Ok(Self { sysroot: compiler()?, bpf_linker: bpf_linker()?, llvm_library: llvm_library()? });
        find().map_err(|error: anyhow::Error| error.context("run `cargo xtask setup`"))
    }

    /// Completes `command`, a call of cargo with a subcommand, so that it treats the eBPF programs.
    ///
    /// `arch` and `endian` are those of the machine that will run the programs, as in
    /// `CARGO_CFG_TARGET_ARCH` and `CARGO_CFG_TARGET_ENDIAN`. `target_dir` must not be the one of
    /// the cargo that is running: cargo would wait for its own lock.
    ///
    /// # Errors
    ///
    /// When `target_dir` cannot be written.
    pub(crate) fn complete(
        &self,
        command: &mut Command,
        arch: &str,
        endian: &str,
        target_dir: &Path,
    ) -> Result<()> {
        command
            .args(["--package=flowlog-ebpf", "--release", "-Zbuild-std=core"])
            // Debug information, from which the linker makes the BTF. Not a flag for the compiler: a caller
            // may want a package to have none.
            .arg("--config=profile.release.debug=2")
            .arg(format!("--target={}", target(endian)?))
            .arg("--target-dir")
            .arg(target_dir)
            .env("RUSTC", self.sysroot.join("bin/rustc"))
            // Lets a compiler that is not a nightly use `-Z` and the unstable features of aya-ebpf.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(arch))
            // Wrappers belong to the outer build: clippy's driver, for one, is that of another compiler.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("PATH", path_with(self.bpf_linker.parent())?)
            .env("LD_LIBRARY_PATH", self.llvm_directory(target_dir)?);
        Ok(())
    }

    /// Flags for the compiler, separated as `CARGO_ENCODED_RUSTFLAGS` wants them: which registers hold
    /// the arguments (for aya-ebpf), that the linker makes BTF, and that no path of this machine is in it.
    fn rustflags(&self, arch: &str) -> String {
        let mut flags = vec![format!("--cfg=bpf_target_arch=\"{arch}\""), "-Clink-arg=--btf".to_owned()];
        let places =
            [(cargo_home(), "/cargo"), (Some(self.sysroot.clone()), "/rust"), (workspace(), "/flowlog")];
        for (place, name) in places {
            flags.extend(place.map(|place| format!("--remap-path-prefix={}={name}", place.display())));
        }
        flags.join("\x1f")
    }

    /// A directory in which the wanted `libLLVM` is the only one.
    ///
    /// bpf-linker opens the first file named `libLLVM*` that it meets, first in `LD_LIBRARY_PATH`.
    /// Distributions keep several versions in one directory, and with another version it crashes.
    fn llvm_directory(&self, target_dir: &Path) -> Result<PathBuf> {
        let directory = target_dir.join("llvm");
        let link = directory.join("libLLVM.so");
        if fs::read_link(&link).is_ok_and(|linked| linked == self.llvm_library) {
            return Ok(directory);
        }
        fs::create_dir_all(&directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
        // Renamed into its place, because another build may be linking.
        let new = directory.join(format!("new-{}", std::process::id()));
        symlink(&self.llvm_library, &new)
            .and_then(|()| fs::rename(&new, &link))
            .with_context(|| format!("cannot make the link `{}`", link.display()))?;
        Ok(directory)
    }
}

/// The sysroot of a compiler that can build the programs: the first usable one of [`sysroots`].
///
/// # Errors
///
/// Names each candidate and what it lacks.
pub(crate) fn compiler() -> Result<PathBuf> {
    let mut found = String::new();
    for sysroot in sysroots() {
        match check_compiler(&sysroot) {
            Ok(()) => return Ok(sysroot),
            Err(reason) => write!(found, "; `{}`: {reason:#}", sysroot.display())?,
        }
    }
    bail!("no compiler for the eBPF programs{found}")
}

/// Where bpf-linker is: on PATH, or where `cargo install` puts it.
///
/// # Errors
///
/// When there is none of the expected version.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let cargo_bin = cargo_home().map(|cargo_home| cargo_home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let expected = format!("bpf-linker {BPF_LINKER_VERSION}");
    env::split_paths(&path)
        .chain(cargo_bin)
        .map(|directory| directory.join("bpf-linker"))
        .find(|file| output(Command::new(file).arg("--version")).is_some_and(|found| found == expected))
        .with_context(|| format!("no `{expected}` in PATH or cargo's bin directory"))
}

/// Where cargo keeps what it fetches and installs.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

/// The root of the workspace, from either of the packages that this file is part of.
fn workspace() -> Option<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map(Path::to_path_buf)
}

/// Where compilers are looked for, best first: rustup's nightly, the toolchain that builds the
/// workspace, and the distribution's packages (Debian: `rustc-web` and `rust-web-src`).
fn sysroots() -> Vec<PathBuf> {
    // A missing nightly is not to be downloaded: `cargo xtask setup` decides what is installed.
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc", "--print=sysroot"]).env("RUSTUP_AUTO_INSTALL", "0");
    let mut active = Command::new("rustc");
    active.arg("--print=sysroot");

    let mut sysroots = Vec::new();
    for sysroot in [output(&mut nightly), output(&mut active), Some("/usr".into())].into_iter().flatten() {
        let sysroot = PathBuf::from(sysroot);
        if !sysroots.contains(&sysroot) {
            sysroots.push(sysroot);
        }
    }
    sysroots
}

fn check_compiler(sysroot: &Path) -> Result<()> {
    let version = output(Command::new(sysroot.join("bin/rustc")).arg("-vV")).context("no bin/rustc")?;
    let field = |name| version.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");

    let release = field("release: ");
    ensure!(
        major_minor(release) >= major_minor(RUST_VERSION),
        "rustc {release}, expected {RUST_VERSION} or newer"
    );
    let llvm = field("LLVM version: ");
    ensure!(
        major_minor(llvm).is_some_and(|(major, _)| major <= LLVM_MAJOR),
        "LLVM {llvm}, expected {LLVM_MAJOR} or older, which bpf-linker reads"
    );
    let core = sysroot.join("lib/rustlib/src/rust/library/core");
    ensure!(core.is_dir(), "rustc {release} without the sources of core");
    Ok(())
}

/// The shared library that bpf-linker loads: the compilers bring it along.
fn llvm_library() -> Result<PathBuf> {
    let prefix = format!("libLLVM.so.{LLVM_MAJOR}");
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    sysroots()
        .iter()
        .flat_map(|sysroot| [sysroot.join("lib"), sysroot.join(&multiarch)])
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .with_context(|| format!("no `{prefix}*` beside any compiler: bpf-linker needs it"))
}

/// The BPF target for a byte order.
///
/// # Errors
///
/// When `endian` is neither `little` nor `big`.
pub(crate) fn target(endian: &str) -> Result<&'static str> {
    match endian {
        "little" => Ok("bpfel-unknown-none"),
        "big" => Ok("bpfeb-unknown-none"),
        _ => bail!("unknown byte order `{endian}`, expected `little` or `big`"),
    }
}

/// PATH with `first` before all others, since rustc looks for its linker there.
fn path_with(first: Option<&Path>) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = first.map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
    env::join_paths(directories).context("PATH cannot be extended")
}

/// What `command` prints, without the newline at its end; nothing where it fails or is not there.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The first two numbers of a version, `None` where it has no such form.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
