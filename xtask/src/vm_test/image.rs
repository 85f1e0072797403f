//! The file system of the virtual machines, as archives that a kernel unpacks into memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{sh, workspace};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// What the first process, the kernel and the tests call, from this machine, with the libraries of each.
const PROGRAMS: [&str; 31] = [
    // The first process and the kernel.
    "sh",
    "mkdir",
    "mount",
    "modprobe",
    "cat",
    "sleep",
    "ip",
    // The tests.
    "bash",
    "bpftool",
    "chroot",
    "conntrack",
    "cp",
    "curl",
    "env",
    "fsfreeze",
    "ls",
    "mkdir",
    "mkfs.ext4",
    "nft",
    "nmap",
    "ping",
    "rm",
    "rmdir",
    "seq",
    "setpriv",
    "strace",
    "touch",
    "true",
    "umount",
    "unshare",
    "losetup",
];

/// Files of this machine that programs read, where it has them.
const FILES: [&str; 7] = [
    "/etc/protocols",
    "/etc/services",
    "/etc/mke2fs.conf",
    "/etc/ld.so.cache",
    "/usr/share/nmap/nmap-payloads",
    "/usr/share/nmap/nmap-protocols",
    "/usr/share/nmap/nmap-services",
];

/// Directories that something is mounted at or written to.
const DIRECTORIES: [&str; 13] = [
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/sbin",
    "var/log",
    "var/tmp",
];

/// Where the programs are in the tree, beside links as Debian has them.
const MERGED: [(&str, &str); 4] =
    [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// Makes an archive with `binaries`, as pairs of a name and a file, and with what they call; `more` are pairs of a
/// place below the root and a file. The tests get `arguments`.
///
/// # Errors
///
/// When this machine lacks a program, or the disk refuses something.
pub(super) fn make(
    tree: &Path,
    binaries: &[(&str, &Path)],
    more: &[(PathBuf, PathBuf)],
    arguments: &[String],
    archive: &Path,
) -> Result<()> {
    workspace::make_empty(tree)?;
    for directory in DIRECTORIES {
        fs::create_dir_all(tree.join(directory)).context("cannot make a directory")?;
    }
    for (link, target) in MERGED {
        symlink(target, tree.join(link)).context("cannot make a link")?;
    }
    let mut files: BTreeSet<PathBuf> = FILES.iter().map(PathBuf::from).filter(|file| file.exists()).collect();
    for name in PROGRAMS {
        let program = sh::find(name).with_context(|| format!("`{name}` is not on PATH"))?;
        files.extend(libraries(&program));
        files.insert(program);
    }
    files.extend(binaries.iter().flat_map(|(_, binary)| libraries(binary)));
    for (place, file) in more {
        // Of libraries that it brings itself, the machine has none.
        files.extend(libraries(file).into_iter().filter(|library| library.exists()));
        let to = tree.join(place);
        fs::create_dir_all(to.parent().unwrap_or(tree)).context("cannot make a directory")?;
        fs::copy(file, &to).with_context(|| format!("cannot copy `{}`", file.display()))?;
    }
    for file in files {
        let to = tree.join(file.strip_prefix("/").unwrap_or(&file));
        fs::create_dir_all(to.parent().unwrap_or(tree)).context("cannot make a directory")?;
        fs::copy(&file, &to).with_context(|| format!("cannot copy `{}`", file.display()))?;
    }
    for (name, binary) in binaries {
        // What is for debuggers is most of it.
        sh::output(Command::new("strip").arg("-o").arg(tree.join("usr/bin").join(name)).arg(binary))?;
    }
    write(tree, "arguments", &arguments.join("\n"))?;
    write(tree, "init", INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))
        .context("cannot write `init`")?;
    write(tree, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
    write(tree, "etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    write(tree, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
    pack(tree, archive)
}

/// The libraries of a program; none where it is linked statically.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let text = sh::output(Command::new("ldd").arg(program)).unwrap_or_default();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Packs a tree into an archive as kernels read it.
///
/// # Errors
///
/// When it cannot be read, or the archive not be written.
pub(super) fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let script = "find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet > \"$1\"";
    sh::output(Command::new("sh").args(["-c", script, "sh"]).arg(archive).current_dir(tree))?;
    Ok(())
}

fn write(tree: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(tree.join(name), text).with_context(|| format!("cannot write `{name}`"))
}
