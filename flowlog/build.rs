//! Builds the eBPF programs, so that the library can embed them as `$OUT_DIR/flowlog-ebpf.o`.
//!
//! With `AYA_BUILD_SKIP=1` the embedded object is empty, and the daemon says that it was built
//! without eBPF. Any other build without the programs fails: it must not happen unnoticed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

#[path = "../xtask/src/ebpf_toolchain.rs"]
mod ebpf_toolchain;

use ebpf_toolchain::EbpfToolchain;

fn main() -> ExitCode {
    match embed_programs() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=cannot build the eBPF programs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn embed_programs() -> Result<()> {
    println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
    for input in ["../flowlog-ebpf", "../flowlog-common", "../Cargo.toml", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={input}");
    }

    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let object = out_dir.join("flowlog-ebpf.o");
    if env::var("AYA_BUILD_SKIP").is_ok_and(|skip| skip == "1" || skip == "true") {
        return fs::write(&object, []).with_context(|| format!("cannot write `{}`", object.display()));
    }

    let target_dir = shared_target_dir(&out_dir);
    let endian = variable("CARGO_CFG_TARGET_ENDIAN")?;
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.arg("build");
    if env::var_os("CARGO_FEATURE_EBPF_LOG").is_some() {
        // Its debug information has a union `MaybeUninit<u8>`: the kernel refuses BTF with such a name.
        cargo.args(["--features=log", "--config=profile.release.package.aya-log-ebpf.debug=false"]);
    }
    EbpfToolchain::find()?.complete(&mut cargo, &variable("CARGO_CFG_TARGET_ARCH")?, &endian, &target_dir)?;
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo ended with {status}, its output is below");

    let built = target_dir.join(ebpf_toolchain::target(&endian)?).join("release/flowlog-ebpf");
    fs::copy(&built, &object).with_context(|| format!("cannot copy `{}`", built.display()))?;
    Ok(())
}

/// `ebpf` in the target directory of the build: the programs are the same for every profile and
/// for clippy, and building `core` for each of them would take half a minute every time.
///
/// Cargo does not say where its target directory is, but it marks it with a tag for backup tools.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    let tagged = out_dir.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    tagged.unwrap_or(out_dir).join("ebpf")
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo did not set {name}"))
}
