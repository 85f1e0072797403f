//! Network namespaces: named as `ip netns` does, by path, or the one that flowlog runs in.
//!
//! A namespace belongs to a thread. [`Namespace::run`] therefore does its work on a thread of its own,
//! so that no other code of the process is ever in the wrong one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};

use crate::host::rights::Raised;

mod wanted;

pub use wanted::{Found, Wanted};

/// Where `ip netns add NAME` leaves the file of a namespace.
const NAMED: &str = "/run/netns";

/// The network namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why there is no such namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Nothing there.
    #[error("no network namespace `{name}`: cannot open `{}`; `ip netns list` shows those with a name", path.display())]
    Open {
        /// As it was given.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// Why it could not be opened.
        source: io::Error,
    },
    /// A file, but not of a network namespace.
    #[error("`{}` is not a network namespace; give a name of `ip netns list` or a path such as /proc/PID/ns/net", path.display())]
    NotANamespace {
        /// What was opened.
        path: PathBuf,
    },
    /// A pattern that means nothing.
    #[error("`{pattern}` is not a pattern of network namespaces: {source}; give one such as \"qrouter-*\"")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// Why not.
        source: glob::PatternError,
    },
    /// It cannot be entered.
    #[error(
        "cannot enter `{name}` as a network namespace; give the name or path of one, and run as root (CAP_SYS_ADMIN)"
    )]
    Enter {
        /// As it was given.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

/// A network namespace that is kept open, and so alive.
#[derive(Debug)]
pub struct Namespace {
    name: Option<String>,
    file: File,
    inode: u64,
}

impl Namespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// Where /proc is not mounted.
    pub fn own() -> Result<Self, NamespaceError> {
        Self::open_path(None, Path::new(OWN))
    }

    /// The namespace that `ip netns` knows by this name, or the one at this path: whatever has a
    /// slash is a path.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub fn open(name_or_path: &str) -> Result<Self, NamespaceError> {
        let path = wanted::path_of(name_or_path);
        Self::open_path(Some(name_or_path), &path)
    }

    fn open_path(name: Option<&str>, path: &Path) -> Result<Self, NamespaceError> {
        let open = || {
            // Without waiting for a writer, where the path is a pipe.
            let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
            let inode = file.metadata()?.ino();
            Ok((file, inode))
        };
        let (file, inode) = open().map_err(|source| NamespaceError::Open {
            name: name.unwrap_or("of this process").to_owned(),
            path: path.to_owned(),
            source,
        })?;
        // Without this, setns would say no more than EINVAL, and only later.
        let is_namespace = nix::sys::statfs::fstatfs(&file).is_ok_and(|fs| {
            fs.filesystem_type() == nix::sys::statfs::FsType(0x6e73_6673 /* NSFS_MAGIC */)
        });
        if !is_namespace {
            return Err(NamespaceError::NotANamespace { path: path.to_owned() });
        }
        Ok(Self { name: name.map(str::to_owned), file, inode })
    }

    /// The name or path that it was opened with; `None` for the own one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it is called in messages: its name, or `own`.
    pub fn label(&self) -> &str {
        self.name().unwrap_or("own")
    }

    /// Inode number: what `ls -l /proc/PID/ns/net` shows.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Does `work` inside this namespace and waits for it.
    ///
    /// # Errors
    ///
    /// Where it cannot be entered; `work` was not called then.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // Entering takes a right that is not needed where the thread is there already. Where /proc does not
                // tell, it is entered.
                let is_there = Self::own().is_ok_and(|own| own.inode == self.inode);
                if !is_there {
                    let _raised = Raised::to_enter();
                    setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError::Enter {
                        name: self.label().to_owned(),
                        source: errno.into(),
                    })?;
                }
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Which of these network namespaces, by inode, have a process in them. Those of processes that this one may not look into
/// are not known.
pub fn with_processes(inodes: &HashSet<u64>) -> HashSet<u64> {
    let _raised = Raised::to_look_into();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes = processes.filter(|entry| is_process(&entry.file_name()));
    let namespaces = processes.filter_map(|entry| fs::metadata(entry.path().join("ns/net")).ok());
    namespaces.map(|namespace| namespace.ino()).filter(|inode| inodes.contains(inode)).collect()
}
