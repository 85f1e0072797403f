//! File systems that vanish with their test: small ones, and ones that hang.

use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::process::run;

/// A mounted file system.
pub(crate) struct Volume {
    directory: TempDir,
    _image: Option<TempDir>,
}

impl Volume {
    /// In memory, with room for so many bytes.
    #[track_caller]
    pub(crate) fn small(bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(&*options)).unwrap();
        Self { directory, _image: None }
    }

    /// Gives it another size.
    #[track_caller]
    pub(crate) fn resize(&self, bytes: u64) {
        let (none, options) = (None::<&str>, format!("size={bytes}"));
        mount(none, self.path(), none, MsFlags::MS_REMOUNT, Some(&*options)).unwrap();
    }

    /// On a disk of its own, which can be made to hang.
    #[track_caller]
    pub(crate) fn disk(mib: u32) -> Self {
        let (directory, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = image.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(u64::from(mib) << 20).unwrap();
        command("mkfs.ext4", &[Path::new("-q"), &file]);
        command("mount", &[Path::new("-o"), Path::new("loop"), &file, directory.path()]);
        Self { directory, _image: Some(image) }
    }

    /// Until the guard is dropped, whoever writes waits.
    #[track_caller]
    pub(crate) fn hang(&self) -> Hanging<'_> {
        command("fsfreeze", &[Path::new("--freeze"), self.path()]);
        Hanging(self)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// A file system that hangs.
pub(crate) struct Hanging<'a>(&'a Volume);

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        // Not through `run`: a second panic while a test fails would hide the first one.
        let thawed = Command::new("fsfreeze").arg("--unfreeze").arg(self.0.path()).status();
        if !thawed.is_ok_and(|status| status.success()) {
            eprintln!("{} still hangs; use `fsfreeze --unfreeze`", self.0.path().display());
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a program that was killed may still have a file open.
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("{} is left mounted: {error}", self.path().display());
        }
    }
}

#[track_caller]
fn command(program: &str, args: &[&Path]) {
    let mut command = Command::new(program);
    command.args(args);
    run(command).success();
}
