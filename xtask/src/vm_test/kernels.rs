//! The kernels: which Debian has, and what is needed to boot them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::archive::Archive;
use super::image;
use crate::{sh, workspace};

/// What the kernels of Debian are called after the version, with the package that needs the newest one.
const FLAVOURS: [(&str, &str); 2] =
    [("amd64", "linux-image-amd64"), ("cloud-amd64", "linux-image-cloud-amd64")];

/// Of no release yet.
const NEWEST: &str = "newest";

/// Versions, oldest first, with the suites that have them.
const VERSIONS: [(&str, &[&str]); 4] = [
    ("5.10", &["bullseye", "bullseye-security"]),
    ("6.1", &["bookworm", "bookworm-security"]),
    ("6.12", &["trixie", "trixie-security"]),
    // Not experimental: that has kernels before their release.
    (NEWEST, &["sid", "trixie-backports"]),
];

/// Modules that the tests and what they need may ask for; with all modules that these use.
const MODULES: [&str; 10] = [
    "kernel/net/netfilter/",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/",
    "kernel/net/sctp/",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/block/loop.ko",
    "kernel/fs/ext4/",
    "kernel/fs/overlayfs/",
    // Asked for by name where they are modules: no list of symbols shows it.
    "kernel/crypto/crc32c",
    "kernel/arch/x86/crypto/crc32c",
];

/// A kernel that can be asked for.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    version: &'static str,
    suites: &'static [&'static str],
    flavour: &'static str,
    package: &'static str,
}

/// A kernel that can be booted.
pub(super) struct Bootable {
    /// As `uname -r` tells it.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// An archive for the initial file system.
    pub(super) modules: PathBuf,
}

/// All kernels, oldest first.
pub(super) fn all() -> Vec<Kernel> {
    let of =
        |(version, suites)| FLAVOURS.map(|(flavour, package)| Kernel { version, suites, flavour, package });
    VERSIONS.into_iter().flat_map(of).collect()
}

/// Those that `names` name, in their order.
///
/// # Errors
///
/// For a name that is not of any kernel.
pub(super) fn named(names: &[&str]) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for name in names {
        let before = kernels.len();
        kernels.extend(all().into_iter().filter(|kernel| {
            let rest = kernel.name();
            rest.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest == format!("-{}", kernel.flavour))
        }));
        if kernels.len() == before {
            let known: Vec<String> = all().iter().map(Kernel::name).collect();
            bail!(
                "no kernel `{name}`; expected a version, with or without its flavour, of {}",
                known.join(", ")
            );
        }
    }
    Ok(kernels)
}

impl Kernel {
    /// Version and flavour.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.version, self.flavour)
    }

    /// Whether it is made for virtual machines: it is smaller, and starts faster.
    pub(super) fn is_cloud(&self) -> bool {
        self.flavour == "cloud-amd64"
    }

    /// Fetches it into `directory`, where it is not there yet.
    ///
    /// # Errors
    ///
    /// When the package is gone, or is not as expected.
    pub(super) fn fetch(&self, directory: &Path) -> Result<Bootable> {
        let archive = Archive::open(&directory.join("apt"), self.suites)?;
        let release = archive
            .dependencies(self.package)?
            .iter()
            .find_map(|name| name.strip_prefix("linux-image-").map(str::to_owned))
            .with_context(|| format!("`{}` needs no kernel", self.package))?;
        let kept = directory.join("kernels").join(&release);
        let bootable = Bootable { release, image: kept.join("vmlinuz"), modules: kept.join("modules.cpio") };
        // Written last: without it, or with another list, the rest is not as it has to be.
        let complete = kept.join("modules.txt");
        let wanted = MODULES.join("\n");
        if fs::read_to_string(&complete).is_ok_and(|kept| kept == wanted) {
            return Ok(bootable);
        }

        println!("vm-test: fetching Linux {}", bootable.release);
        let unpacked = directory.join("unpacked");
        workspace::make_empty(&unpacked)?;
        workspace::make_empty(&kept)?;
        let package = format!("linux-image-{}", bootable.release);
        // Newer kernels are several packages.
        let mut packages =
            vec![format!("linux-binary-{}", bootable.release), format!("linux-modules-{}", bootable.release)];
        let needed = archive.dependencies(&package)?;
        packages.retain(|name| needed.contains(name));
        packages.push(package);
        archive.unpack(&packages, &unpacked)?;

        let kernel = [
            format!("boot/vmlinuz-{}", bootable.release),
            format!("usr/lib/modules/{}/vmlinuz", bootable.release),
        ]
        .map(|path| unpacked.join(path))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{packages:?} have no kernel"))?;
        fs::copy(kernel, &bootable.image).context("cannot keep a kernel")?;
        let tree = directory.join("modules");
        workspace::make_empty(&tree)?;
        copy_modules(&unpacked, &bootable.release, &tree)?;
        image::pack(&tree, &bootable.modules)?;
        for rest in [tree, unpacked] {
            fs::remove_dir_all(rest).context("cannot remove what was unpacked")?;
        }
        fs::write(complete, wanted).context("cannot keep a kernel")?;
        Ok(bootable)
    }
}

/// Copies [`MODULES`] from what was unpacked into the tree of a file system.
fn copy_modules(unpacked: &Path, release: &str, tree: &Path) -> Result<()> {
    let source = ["usr/lib/modules", "lib/modules"]
        .map(|path| unpacked.join(path).join(release))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("the packages of {release} have no modules"))?;
    // For depmod, which looks below `lib` only.
    let base = tree.join("base");
    fs::create_dir_all(base.join("lib/modules")).context("cannot make a directory")?;
    let moved = base.join("lib/modules").join(release);
    fs::rename(&source, &moved).context("cannot move the modules")?;
    sh::output(Command::new("depmod").arg("--basedir").arg(&base).arg(release))?;

    let target = tree.join("usr/lib/modules").join(release);
    let list = fs::read_to_string(moved.join("modules.dep")).context("cannot read what modules need")?;
    let files = wanted(&list);
    ensure!(!files.is_empty(), "Linux {release} has none of the modules that the tests need");
    for file in files {
        let to = target.join(file);
        fs::create_dir_all(to.parent().unwrap_or(&target)).context("cannot make a directory")?;
        fs::copy(moved.join(file), &to).with_context(|| format!("cannot copy `{file}`"))?;
    }
    for entry in fs::read_dir(&moved).context("cannot read the modules")? {
        let file = entry.context("cannot read the modules")?.path();
        if file.is_file()
            && let Some(name) = file.file_name().and_then(OsStr::to_str)
            && name.starts_with("modules.")
        {
            fs::copy(&file, target.join(name)).with_context(|| format!("cannot copy `{name}`"))?;
        }
    }
    fs::remove_dir_all(base).context("cannot remove what was unpacked")
}

/// The files of [`MODULES`] and of what they need, of lines as `kernel/a.ko: kernel/b.ko kernel/c.ko`.
fn wanted(list: &str) -> BTreeSet<&str> {
    let lines = list.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(module, _)| MODULES.iter().any(|wanted| module.starts_with(wanted)))
        .flat_map(|(module, needed)| [module].into_iter().chain(needed.split_whitespace()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_named_by_version_with_or_without_flavour() {
        let names =
            |names: &[&str]| -> Vec<String> { named(names).unwrap().iter().map(Kernel::name).collect() };
        assert_eq!(names(&["6.1"]), ["6.1-amd64", "6.1-cloud-amd64"]);
        assert_eq!(names(&["newest-cloud-amd64", "5.10-amd64"]), ["newest-cloud-amd64", "5.10-amd64"]);
        for unknown in ["6", "6.1-", "4.19", ""] {
            assert!(named(&[unknown]).is_err(), "{unknown}");
        }
    }

    #[test]
    fn modules_come_with_what_they_need() {
        let list = "kernel/net/netfilter/nft_ct.ko.xz: kernel/net/netfilter/nf_conntrack.ko.xz kernel/lib/libcrc32c.ko.xz\n\
                    kernel/drivers/gpu/drm/drm.ko.xz: kernel/lib/iosys.ko.xz\n\
                    kernel/drivers/net/veth.ko.xz:\n";
        let expected = [
            "kernel/drivers/net/veth.ko.xz",
            "kernel/lib/libcrc32c.ko.xz",
            "kernel/net/netfilter/nf_conntrack.ko.xz",
            "kernel/net/netfilter/nft_ct.ko.xz",
        ];
        assert_eq!(wanted(list).into_iter().collect::<Vec<_>>(), expected);
    }
}
