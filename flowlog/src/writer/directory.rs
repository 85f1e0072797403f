//! The directories of the output: making them, taking them for one process, publishing into them.
//!
//! ```text
//! <output>/flows/v1/<partition>/<name>.parquet     complete files
//! <output>/_flowlog/lock                           held while a writer lives
//! <output>/_flowlog/staging/<name>.parquet         unfinished files; engines skip names with `_`
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::error::OpenError;

/// Files: the service writes, its group reads.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

/// Name of the empty file that is published once, to see that it can be done.
const PROBE: &str = "_probe";

/// The output directory, taken for this process until it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    flows: PathBuf,
    staging: PathBuf,
    /// The kernel lets go of the lock when the file is closed, also by the death of the process.
    _lock: File,
}

impl Directory {
    pub(super) fn open(output: &Path) -> Result<Self, OpenError> {
        let flows = output.join("flows/v1");
        let internal = output.join("_flowlog");
        let staging = internal.join("staging");
        for directory in [&flows, &staging] {
            create_directories(directory).map_err(not_writable(directory))?;
        }

        let lock_path = internal.join("lock");
        let lock = create_file(&lock_path).map_err(not_writable(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: output.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(not_writable(&lock_path)(error)),
        }

        let directory = Self { flows, staging, _lock: lock };
        directory.remove_orphans().map_err(not_writable(&directory.staging))?;
        directory.probe().map_err(not_writable(&directory.flows))?;
        Ok(directory)
    }

    /// Where unfinished files are.
    pub(super) fn staging(&self) -> &Path {
        &self.staging
    }

    /// Creates a file in staging.
    pub(super) fn stage(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let path = self.staging.join(name);
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

    /// Moves a finished and synced file to its partition, and returns its path there.
    pub(super) fn publish(&self, staged: &Path, partition: &Path, name: &str) -> io::Result<PathBuf> {
        let directory = self.flows.join(partition);
        create_directories(&directory)?;
        let path = directory.join(name);
        fs::rename(staged, &path)?;
        // The rows are visible from here on, so a failure is not a loss of rows.
        if let Err(error) = sync(&directory) {
            let path = path.display();
            tracing::warn!(%path, %error, "published, but a power failure now may undo it");
        }
        Ok(path)
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
            tracing::warn!(path = %path.display(), bytes, "removed an unfinished file of an earlier run");
        }
        Ok(())
    }

    /// Publishes an empty file and removes it: this fails now where the rows of the first file would
    /// be lost later, for lack of rights or because `flows` is on another file system than staging.
    fn probe(&self) -> io::Result<()> {
        let (staged, _) = self.stage(PROBE)?;
        let published = self.flows.join(PROBE);
        fs::rename(staged, &published)?;
        fs::remove_file(published)
    }
}

fn not_writable(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::NotWritable { path: path.to_owned(), source }
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
        Ok(()) => sync(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}
