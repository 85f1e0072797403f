//! `cargo xtask dist --check`: whether what was made is what somebody can install.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::machine::{Linkage, Machine};
use super::{Release, SUMS, image, manual, program, rpm_root};
use crate::{sh, workspace};

/// The newest C library that a package may ask for: that of RHEL 9. `flowlog/Cargo.toml` says so in both packages.
const C_LIBRARY: (u32, u32) = (2, 34);

/// What is in each package, where the tools put it in the same place.
const FILES: [&str; 12] = [
    "usr/bin/flowlog",
    "usr/lib/systemd/system/flowlog.service",
    "usr/lib/sysusers.d/flowlog.conf",
    "usr/share/bash-completion/completions/flowlog",
    "usr/share/doc/flowlog/README.md",
    "usr/share/doc/flowlog/docs/service.md",
    "usr/share/fish/vendor_completions.d/flowlog.fish",
    "usr/share/man/man1/flowlog.1.gz",
    "usr/share/man/man1/flowlog-conntrack.1.gz",
    "usr/share/man/man1/flowlog-doctor.1.gz",
    "usr/share/man/man1/flowlog-run.1.gz",
    "usr/share/man/man1/flowlog-verify.1.gz",
];

/// Checks everything in `target/dist`.
///
/// # Errors
///
/// With the first thing that is not as it should be.
pub(super) fn all(release: &Release, machines: &[Machine]) -> Result<()> {
    check_names(release, machines)?;
    sh::output(
        Command::new("sha256sum").args(["--check", "--strict", SUMS]).current_dir(&release.directory),
    )?;
    manual::check(&workspace::target_dir().join("tmp/manual"))?;
    for machine in machines {
        println!("dist: checking what is for {}", machine.name());
        deb(release, *machine)?;
        rpm(release, *machine)?;
        tarball(release, *machine)?;
        check_image(release, *machine)?;
    }
    println!("dist: all checks passed");
    Ok(())
}

fn check_names(release: &Release, machines: &[Machine]) -> Result<()> {
    let mut expected = vec![release.directory.join(SUMS)];
    for machine in machines {
        expected.extend([release.deb(*machine), release.rpm(*machine), release.tarball(*machine)]);
        expected.push(release.image(*machine));
        expected.extend([Linkage::Gnu, Linkage::Static].map(|linkage| release.debug_file(*machine, linkage)));
    }
    let expected: BTreeSet<PathBuf> = expected.into_iter().collect();
    let found = release.files()?.iter().map(|name| release.directory.join(name)).collect();
    ensure!(expected == found, "found in target/dist: {found:?}, expected {expected:?}");
    Ok(())
}

/// The files below a directory, by their path from there. What a package has in two places under one name is left out.
fn files(root: &Path) -> Result<BTreeSet<String>> {
    let list = sh::output(Command::new("find").arg(".").args(["-type", "f"]).current_dir(root))?;
    Ok(list.lines().filter_map(|line| Some(line.strip_prefix("./")?.to_owned())).collect())
}

fn check_files(root: &Path, others: &[&str]) -> Result<()> {
    let found = files(root)?;
    for file in FILES.iter().chain(others) {
        ensure!(found.contains(*file), "`{}` has no `{file}`", root.display());
        let mode = fs::metadata(root.join(file))?.permissions().mode() & 0o7777;
        let expected = if file.starts_with("usr/bin/") { 0o755 } else { 0o644 };
        ensure!(mode == expected, "`{file}` has mode {mode:o}, expected {expected:o}");
    }
    Ok(())
}

fn unpacked(name: &str) -> Result<PathBuf> {
    let directory = workspace::target_dir().join("tmp/unpacked").join(name);
    workspace::make_empty(&directory)?;
    Ok(directory)
}

fn deb(release: &Release, machine: Machine) -> Result<()> {
    let deb = release.deb(machine);
    let said = sh::output(Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).arg(&deb))?;
    print!("{said}");
    let root = unpacked("deb")?;
    sh::output(Command::new("dpkg-deb").arg("--extract").args([&deb, &root]))?;
    check_files(
        &root,
        &[
            "etc/flowlog/flowlog.toml",
            "usr/share/doc/flowlog/copyright",
            "usr/share/doc/flowlog/THIRD-PARTY-LICENSES",
            "usr/share/zsh/vendor-completions/_flowlog",
        ],
    )?;
    let control = unpacked("control")?;
    sh::output(Command::new("dpkg-deb").arg("--control").args([&deb, &control]))?;
    for script in ["postinst", "prerm", "postrm"] {
        sh::output(Command::new("sh").arg("-n").arg(control.join(script)))?;
    }
    let postinst = fs::read_to_string(control.join("postinst")).context("the deb has no postinst")?;
    // In this order: the service runs as the user.
    let places = ["systemd-sysusers", "deb-systemd-helper enable", "_dh_action=restart", "_dh_action=start"]
        .map(|words| postinst.find(words));
    ensure!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "the deb's postinst is not as expected"
    );
    check_program(release, machine, Linkage::Gnu, &root.join("usr/bin/flowlog"))
}

fn rpm(release: &Release, machine: Machine) -> Result<()> {
    let rpm = release.rpm(machine);
    let root = unpacked("rpm")?;
    let mut unpack = Command::new("sh");
    unpack.args(["-c", r#"rpm2cpio "$1" | cpio --quiet --extract --make-directories"#, "sh"]).arg(&rpm);
    sh::output(unpack.current_dir(&root))?;
    check_files(
        &root,
        &[
            "etc/flowlog/flowlog.toml",
            "usr/share/licenses/flowlog/LICENSE-MIT",
            "usr/share/licenses/flowlog/THIRD-PARTY-LICENSES",
            "usr/share/zsh/site-functions/_flowlog",
        ],
    )?;
    let changed = sh::output(Command::new("rpm").args(["--query", "--configfiles", "--package"]).arg(&rpm))?;
    ensure!(changed.trim() == "/etc/flowlog/flowlog.toml", "configuration in the rpm: {changed}");
    check_program(release, machine, Linkage::Gnu, &root.join("usr/bin/flowlog"))?;
    rpm_root::check(&rpm)
}

fn tarball(release: &Release, machine: Machine) -> Result<()> {
    let root = unpacked("tarball")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--strip-components=1", "--file"])
        .arg(release.tarball(machine));
    sh::output(tar.current_dir(&root))?;
    let documents = "usr/share/doc/flowlog";
    let others = ["THIRD-PARTY-LICENSES", "LICENSE-MIT", "LICENSE-APACHE", "flowlog.toml"]
        .map(|name| format!("{documents}/{name}"));
    let mut others: Vec<&str> = others.iter().map(String::as_str).collect();
    others.push("usr/share/zsh/site-functions/_flowlog");
    check_files(&root, &others)?;
    check_program(release, machine, Linkage::Static, &root.join("usr/bin/flowlog"))
}

/// The image, as an engine takes it.
fn check_image(release: &Release, machine: Machine) -> Result<()> {
    let directory = unpacked("image")?;
    let layout = directory.join("layout");
    fs::create_dir(&layout)?;
    let mut tar = Command::new("tar");
    sh::output(tar.arg("--extract").arg("--file").arg(release.image(machine)).current_dir(&layout))?;
    let buildah = || image::buildah(&directory);
    let archive = format!("oci-archive:{}", release.image(machine).display());
    let container = sh::output(buildah().args(["from", "--quiet", "--arch", machine.debian(), &archive]))?;
    let inspected = sh::output(buildah().args(["inspect", container.trim()]))?;
    let inspected: serde_json::Value =
        serde_json::from_str(&inspected).context("buildah's answer is not JSON")?;
    let entry = inspected.pointer("/OCIv1/config/Entrypoint").context("the image has no entry point")?;
    ensure!(*entry == serde_json::json!(["/flowlog"]), "the image's entry point is {entry}");
    let found = inspected.pointer("/OCIv1/architecture").context("the image has no architecture")?;
    ensure!(*found == machine.debian(), "the image is for {found}");
    let mounted = sh::output(buildah().args(["mount", container.trim()]))?;
    let root = Path::new(mounted.trim());
    let expected =
        ["flowlog", "licenses/LICENSE-APACHE", "licenses/LICENSE-MIT", "licenses/THIRD-PARTY-LICENSES"];
    let found = files(root)?;
    ensure!(found.iter().eq(&expected), "the image has {found:?}, expected {expected:?}");
    check_program(release, machine, Linkage::Static, &root.join("flowlog"))?;
    sh::output(buildah().args(["umount", container.trim()]))?;
    Ok(())
}

/// It runs, needs no newer library than expected, names no place of this machine, and its debug file belongs to it.
fn check_program(release: &Release, machine: Machine, linkage: Linkage, program: &Path) -> Result<()> {
    let version = program::run(machine, program, "--version")?;
    ensure!(version.trim() == format!("flowlog {}", release.version), "`--version` prints `{version}`");
    let readelf =
        |option: &str, file: &Path| sh::output(Command::new("readelf").args(["--wide", option]).arg(file));
    match linkage {
        Linkage::Static => {
            let segments = readelf("--program-headers", program)?;
            ensure!(!segments.contains("INTERP"), "`{}` is not static", program.display());
        }
        Linkage::Gnu => {
            let versions = readelf("--version-info", program)?;
            let newest = versions.split("GLIBC_").skip(1).filter_map(glibc).max();
            ensure!(
                newest == Some(C_LIBRARY),
                "the newest glibc that is needed is {newest:?}, expected {C_LIBRARY:?}"
            );
        }
    }
    let bytes = fs::read(program).with_context(|| format!("cannot read `{}`", program.display()))?;
    for place in program::places()? {
        let has = bytes.windows(place.0.len()).any(|window| window == place.0.as_bytes());
        ensure!(!has, "`{}` has the path `{}` of this machine", program.display(), place.0);
    }
    let debug = release.debug_file(machine, linkage);
    let build_id = |file| {
        readelf("--notes", file).map(|notes| notes.split("Build ID: ").nth(1).map(|id| id[..40].to_owned()))
    };
    let (own, other) = (build_id(program)?, build_id(&debug)?);
    ensure!(
        own.is_some() && own == other,
        "`{}` does not belong to `{}`",
        debug.display(),
        program.display()
    );
    Ok(())
}

/// The version at the beginning, such as `2.34)`.
fn glibc(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
