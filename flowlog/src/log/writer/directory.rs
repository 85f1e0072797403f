//! The output directory: making it, taking it for one process, publishing into it. What is where says
//! [`layout`].

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use flowlog_reader::layout;
use nix::fcntl::OFlag;

use super::error::OutputError;
use crate::log::disk::{DIRECTORY_MODE, FILE_MODE, is_full, sync_directory};

/// Name of the empty file that is published once, to see that it can be done.
const PROBE: &str = "_probe";

/// How often the lock is tried before somebody else is said to have the directory, and how long after
/// another.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// The output directory, taken for this process until it is dropped.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    staging: PathBuf,
    /// The kernel lets go of the lock when the file is closed, also by the death of the process.
    _lock: File,
}

impl Directory {
    /// Makes the output directory ready and takes it for this process.
    ///
    /// # Errors
    ///
    /// Another process has it, or files cannot be published in it.
    pub fn open(output: &Path) -> Result<Self, OutputError> {
        let [flows, staging, wal] =
            [layout::FLOWS, layout::STAGING, layout::WAL].map(|path| output.join(path));
        for directory in [&flows, &staging, &wal] {
            create_directories(directory).map_err(not_writable(directory))?;
        }

        let lock_path = output.join(layout::LOCK);
        let lock = create_file(&lock_path).map_err(not_writable(&lock_path))?;
        match take(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutputError::InUse { path: output.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(not_writable(&lock_path)(error)),
        }

        let directory = Self { root: output.to_owned(), staging, _lock: lock };
        directory.remove_orphans().map_err(not_writable(&directory.staging))?;
        match directory.probe() {
            // What is there is taken in all the same, and there may be room again.
            Err(error) if is_full(&error) => {}
            result => result.map_err(not_writable(&flows))?,
        }
        Ok(directory)
    }

    /// The output directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The ledger.
    pub fn ledger(&self) -> PathBuf {
        self.root.join(layout::LEDGER)
    }

    /// Where the write-ahead log is.
    pub fn wal(&self) -> PathBuf {
        self.root.join(layout::WAL)
    }

    /// Where unfinished files are.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Creates a file in staging, to be published with this name.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub fn stage(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let path = self.staging.join(layout::unfinished(name));
        let file = match create_file(&path) {
            // Somebody removed the directory: that must not end the log.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_directories(&self.staging)?;
                create_file(&path)?
            }
            result => result?,
        };
        Ok((path, file))
    }

    /// Moves a finished and synced file to `to`, which is below the output directory.
    ///
    /// # Errors
    ///
    /// Of the file system; also where there is a file of this name.
    pub fn publish(&self, staged: &Path, to: &Path) -> io::Result<()> {
        let path = self.root.join(to);
        let directory = path.parent().unwrap_or(&self.root);
        create_directories(directory)?;
        // Nobody else makes names here, as long as the lock is held.
        if path.try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(staged, &path)?;
        // The rows are visible from here on, so a failure is not a loss of rows.
        if let Err(error) = sync_directory(directory) {
            let path = path.display();
            tracing::warn!(%path, %error, "published a file, but cannot sync its directory: a power failure may undo it");
        }
        Ok(())
    }

    /// Files that a killed process left. They have no footer and cannot be read.
    fn remove_orphans(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.staging)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                continue;
            }
            let bytes = metadata.len();
            fs::remove_file(&path)?;
            tracing::warn!(
                path = %path.display(),
                bytes,
                "removed an unfinished file of an earlier run; nothing is lost by that"
            );
        }
        Ok(())
    }

    /// Publishes an empty file and removes it: this fails now where the rows of the first file would
    /// be lost later, for lack of rights or because `flows` is on another file system than staging.
    fn probe(&self) -> io::Result<()> {
        let (staged, _) = self.stage(PROBE)?;
        let published = self.root.join(layout::FLOWS).join(PROBE);
        fs::rename(staged, &published)?;
        fs::remove_file(published)
    }
}

/// Takes the lock. `flowlog verify` has it for a moment, to see whether a daemon does.
fn take(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_ATTEMPTS {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_INTERVAL),
            taken => return taken,
        }
    }
    lock.try_lock()
}

fn not_writable(path: &Path) -> impl Fn(io::Error) -> OutputError {
    move |source| OutputError::NotWritable { path: path.to_owned(), source }
}

/// Creates or empties a file, with its mode whatever the umask of the process.
fn create_file(path: &Path) -> io::Result<File> {
    // Where others may write to the directory, a link of theirs must not lead to another file.
    let flags = OFlag::O_NOFOLLOW.bits();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .custom_flags(flags)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Creates what is missing of a path, and syncs the directory above each directory that it made, so
/// that a file which is synced in it is also found after a power failure.
fn create_directories(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    create_directories(parent)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => sync_directory(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}
