//! The file systems by which programs are attached, also where the host has not mounted them.
//!
//! What is not mounted is mounted for a moment, in a mount namespace that a thread of its own has and that ends
//! with it: the host does not see it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, faccessat};

/// Where tracefs belongs; the first place where aya looks for it.
pub(super) const TRACEFS: &str = "/sys/kernel/tracing";

/// Where cgroups belong. The directory is always there.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid hosts; `None` on hosts
/// that have v1 only.
pub fn cgroup2_root() -> Option<PathBuf> {
    let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo()).ok()?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2" && mount.root == "/")
        .map(|mount| mount.mount_point)
}

/// The root of cgroup v2. The kernel has it also where nobody has mounted it, and where `ip netns exec` or a container
/// hides it: then this mounts it, where nobody else sees it, for as long as it lives.
#[derive(Debug)]
pub struct CgroupRoot {
    path: PathBuf,
    /// The mount that has no other name.
    _own: Option<File>,
}

impl CgroupRoot {
    /// # Errors
    ///
    /// Where it is mounted nowhere, and may not be mounted.
    pub fn open() -> io::Result<Self> {
        // Something else may be mounted over it.
        if let Some(path) = cgroup2_root().filter(|path| is_cgroup2(path)) {
            return Ok(Self { path, _own: None });
        }
        let own = with_mount("cgroup2", CGROUPS, || File::open(CGROUPS))??;
        Ok(Self { path: format!("/proc/self/fd/{}", own.as_raw_fd()).into(), _own: Some(own) })
    }

    /// Where it is for this process.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory.
    pub(super) fn directory(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|file_system| file_system.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Whether this is a branch of cgroup v2, as its root looks from a cgroup namespace. Only the root of all has no
/// such file.
pub(super) fn is_branch(cgroup: &File) -> bool {
    faccessat(cgroup, "cgroup.events", AccessFlags::F_OK, AtFlags::empty()).is_ok()
}

/// Does `work` where tracefs is mounted.
pub(super) fn with_tracefs<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    // Mounted, but for root alone: to mount it once more would not help.
    if Path::new(TRACEFS).join("events").try_exists()? {
        return Ok(work());
    }
    with_mount("tracefs", TRACEFS, work)
}

/// Does `work` on a thread that has mounted a file system for itself.
fn with_mount<T: Send>(fs_type: &str, at: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let none: Option<&str> = None;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some(fs_type), at, Some(fs_type), MsFlags::empty(), none)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
