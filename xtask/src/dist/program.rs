//! The program itself: built without a path of this machine in it, so that two builds are the same, and stripped. What a
//! debugger needs is in a file of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Release;
use super::machine::{Linkage, Machine};
use crate::{ebpf_toolchain, sh, workspace};

/// Builds `flowlog`. It is stripped to `package/flowlog` of [`directory`]; its debug file goes to `release.directory`.
///
/// # Errors
///
/// When it does not build.
pub(super) fn build(release: &Release, machine: Machine, linkage: Linkage) -> Result<()> {
    let triple = machine.triple(linkage);
    println!("dist: building flowlog for {triple}");
    let mut cargo = sh::cargo("build");
    cargo.args(["--release", "--locked", "--package=flowlog", "--target", &triple]);
    let places = places()?;
    let mut flags: Vec<String> =
        places.iter().map(|(place, name)| format!("--remap-path-prefix={place}={name}")).collect();
    // By which a debugger finds the debug file; not all compilers ask their linker for it.
    flags.push("-Clink-arg=-Wl,--build-id=sha1".to_owned());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let c_flags: Vec<String> =
        places.iter().map(|(place, name)| format!("-ffile-prefix-map={place}={name}")).collect();
    let variable = triple.replace('-', "_");
    cargo.env(format!("CFLAGS_{variable}"), c_flags.join(" "));
    // For this machine, the compiler knows. A linker that is set for one of the builds only would have cargo build again
    // what runs here.
    if machine.emulator().is_some() || linkage == Linkage::Static {
        // For the static one, too: what is compiled of C (zstd) needs no header that differs, and Rust brings the rest.
        cargo.env(format!("CC_{variable}"), machine.gnu_tool("gcc"));
        cargo.env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), machine.gnu_tool("gcc"));
    }
    sh::run(&mut cargo)?;
    strip(release, machine, linkage)
}

/// Where what is built for a target is.
pub(super) fn directory(machine: Machine, linkage: Linkage) -> PathBuf {
    workspace::target_dir().join(machine.triple(linkage)).join("release")
}

/// Places of this machine, and what is written in their stead. Of those that match, the last one counts.
pub(super) fn places() -> Result<Vec<(String, &'static str)>> {
    let sysroot = sh::output(Command::new("rustc").arg("--print=sysroot"))?;
    let cargo_home = ebpf_toolchain::cargo_home().context("neither CARGO_HOME nor HOME is set")?;
    let places: [(&Path, _); 4] = [
        (&cargo_home, "/cargo"),
        (Path::new(sysroot.trim_end()), "/rust"),
        (workspace::root(), "/flowlog"),
        (&workspace::target_dir(), "/target"),
    ];
    Ok(places.into_iter().map(|(place, name)| (place.display().to_string(), name)).collect())
}

fn strip(release: &Release, machine: Machine, linkage: Linkage) -> Result<()> {
    let directory = directory(machine, linkage);
    let built = directory.join("flowlog");
    let package = directory.join("package");
    fs::create_dir_all(&package).with_context(|| format!("cannot make `{}`", package.display()))?;
    let debug = release.debug_file(machine, linkage);
    let objcopy = || Command::new(machine.gnu_tool("objcopy"));
    sh::run(objcopy().args(["--only-keep-debug", "--compress-debug-sections"]).arg(&built).arg(&debug))?;
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(&debug);
    sh::run(objcopy().arg("--strip-all").arg(link).arg(&built).arg(package.join("flowlog")))
}

/// Runs a program that was built for a machine, and returns what it prints.
///
/// # Errors
///
/// When it fails.
pub(super) fn run(machine: Machine, program: &Path, argument: &str) -> Result<String> {
    let mut command = match machine.emulator() {
        None => Command::new(program),
        Some((emulator, _)) => {
            let mut command = Command::new(emulator);
            // Where Debian's packages for other machines have the C library.
            command.env("QEMU_LD_PREFIX", format!("/usr/{}-linux-gnu", machine.name())).arg(program);
            command
        }
    };
    sh::output(command.arg(argument))
}
