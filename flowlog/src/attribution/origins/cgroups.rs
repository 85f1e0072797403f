//! The cgroups of version 2 that are there, and those that were.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::attribution::containers::{container_id, pod_uid, unit};
use crate::attribution::ebpf::CgroupRoot;
use crate::record::Cgroup;

/// How much memory cgroups may take, those that are gone included: about 40 000 of which only the path is kept, since no
/// process of them had a socket, or 10 000 others.
const MAX_BYTES: usize = 6 << 20;

/// What a cgroup takes without its texts: measured.
const PATH_BYTES: usize = 80;

/// What the parts of a path take that are kept apart, without their texts: measured.
const PARSED_BYTES: usize = 320;

/// The share of all that is forgotten at once where none is known to be removed: to look for the oldest takes a look at
/// each.
const FORGOTTEN_SHARE: usize = 8;

/// What is known of a cgroup.
#[derive(Debug)]
enum Known {
    /// Its path, of which nothing was asked.
    Path(Box<str>),
    Parsed(Arc<Cgroup>),
    /// Nobody told of it, and it was not found.
    Gone,
}

impl Known {
    fn bytes(&self) -> usize {
        match self {
            Self::Path(path) => PATH_BYTES + path.len(),
            Self::Parsed(cgroup) => {
                let Cgroup { path, unit, container_id, pod_uid } = &**cgroup;
                let texts = [path, unit, container_id, pod_uid].into_iter().flatten();
                PARSED_BYTES + texts.map(|text| text.len()).sum::<usize>()
            }
            Self::Gone => PATH_BYTES,
        }
    }
}

/// Cgroups by id. Kernfs counts ids up and uses none again, and directories of v2 cannot be renamed, so what is known stays
/// true. Where there are too many, those are forgotten that were removed first, then the oldest.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    known: HashMap<u64, Known, foldhash::fast::RandomState>,
    /// What is gone, oldest first. May have ids that are forgotten.
    removed: VecDeque<u64>,
    bytes: usize,
}

impl Cgroups {
    /// There is a cgroup with this path.
    pub(super) fn add(&mut self, id: u64, path: &str) {
        if matches!(self.known.get(&id), None | Some(Known::Gone)) {
            self.put(id, Known::Path(path.into()));
        }
    }

    /// It is not there any more. Sockets of it may be told of later: a listener that was handed to others.
    pub(super) fn remove(&mut self, id: u64) {
        if self.known.contains_key(&id) {
            self.removed.push_back(id);
        }
    }

    /// It was looked for in vain.
    pub(super) fn give_up(&mut self, id: u64) {
        self.put(id, Known::Gone);
        self.removed.push_back(id);
    }

    /// What is known of it: `Some(None)` where it need not be looked for again.
    pub(super) fn get(&mut self, id: u64) -> Option<Option<Arc<Cgroup>>> {
        let cgroup = match self.known.get(&id)? {
            Known::Parsed(cgroup) => return Some(Some(Arc::clone(cgroup))),
            Known::Gone => return Some(None),
            Known::Path(path) => Arc::new(parse(path)),
        };
        self.put(id, Known::Parsed(Arc::clone(&cgroup)));
        Some(Some(cgroup))
    }

    fn put(&mut self, id: u64, known: Known) {
        self.bytes += known.bytes();
        if let Some(before) = self.known.insert(id, known) {
            self.bytes -= before.bytes();
        }
        while self.bytes > MAX_BYTES {
            match self.removed.pop_front() {
                Some(gone) => self.forget(gone),
                None => self.forget_oldest(),
            }
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(known) = self.known.remove(&id) {
            self.bytes -= known.bytes();
        }
    }

    fn forget_oldest(&mut self) {
        let mut ids: Vec<u64> = self.known.keys().copied().collect();
        ids.sort_unstable();
        ids.truncate(ids.len().div_ceil(FORGOTTEN_SHARE));
        for id in ids {
            self.forget(id);
        }
    }
}

/// What a path tells.
pub(super) fn parse(path: &str) -> Cgroup {
    Cgroup {
        path: Some(path.into()),
        unit: unit(path).map(Arc::from),
        container_id: container_id(path).map(Arc::from),
        pod_uid: pod_uid(path).map(Arc::from),
    }
}

/// The path that the kernel tells of a cgroup that is made; `None` where it has no room for all of it, or where it is no
/// text.
pub(super) fn told(path: &[u8], level: u32) -> Option<&str> {
    let path = path.strip_suffix(b"\0")?;
    // One that was cut may have all its names, but then it is as long as can be.
    let is_whole = path.len() + 2 < flowlog_common::CGROUP_PATH_LEN;
    let names = path.iter().filter(|byte| **byte == b'/').count();
    let path = std::str::from_utf8(path).ok()?;
    (is_whole && usize::try_from(level) == Ok(names)).then_some(path)
}

/// The directories of cgroup v2.
#[derive(Debug)]
pub(super) struct Hierarchy {
    root: PathBuf,
    /// Keeps it there.
    _mount: Option<CgroupRoot>,
    id: u64,
    device: u64,
}

impl Hierarchy {
    /// The one of this host.
    ///
    /// # Errors
    ///
    /// Where it can neither be seen nor mounted.
    pub(super) fn open() -> io::Result<Self> {
        let mount = CgroupRoot::open()?;
        let hierarchy = Self::at(mount.path().to_owned())?;
        Ok(Self { _mount: Some(mount), ..hierarchy })
    }

    fn at(root: PathBuf) -> io::Result<Self> {
        let metadata = fs::metadata(&root)?;
        Ok(Self { root, _mount: None, id: metadata.ino(), device: metadata.dev() })
    }

    /// Whether the cgroup at this path has this id. In a cgroup namespace /proc may name other paths.
    pub(super) fn is_at(&self, path: &str, id: u64) -> bool {
        path.split('/').all(|name| name != "..")
            && fs::metadata(self.dir(path))
                .is_ok_and(|metadata| metadata.ino() == id && metadata.dev() == self.device)
    }

    fn dir(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Calls `each` with id and path of at most `max` cgroups. Says whether these are all.
    pub(super) fn walk(&self, max: usize, mut each: impl FnMut(u64, &str)) -> bool {
        each(self.id, "/");
        let mut visited = 1;
        let mut pending = vec![String::new()];
        while let Some(path) = pending.pop() {
            let entries = match fs::read_dir(self.dir(&path)) {
                Ok(entries) => entries,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => return false,
            };
            for entry in entries.flatten() {
                // A name that is no text has no place in a text column.
                let Ok(name) = entry.file_name().into_string() else { continue };
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                visited += 1;
                if visited > max {
                    return false;
                }
                let path = format!("{path}/{name}");
                each(entry.ino(), &path);
                pending.push(path);
            }
        }
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ID: &str = "3f4b1c0d9e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c";

    /// Stands in for a hierarchy with the cgroup of a container: ids are inodes of directories there too.
    pub(in crate::attribution::origins) fn hierarchy() -> (tempfile::TempDir, Hierarchy, u64) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("docker").join(ID);
        fs::create_dir_all(&directory).unwrap();
        let id = fs::metadata(directory).unwrap().ino();
        let hierarchy = Hierarchy::at(root.path().to_owned()).unwrap();
        (root, hierarchy, id)
    }

    #[test]
    fn a_path_counts_where_it_has_the_id() {
        let (_root, hierarchy, id) = hierarchy();
        let path = format!("/docker/{ID}");
        assert!(hierarchy.is_at(&path, id));
        assert!(!hierarchy.is_at(&path, id + 1));
        assert!(!hierarchy.is_at("/", id));
        assert!(!hierarchy.is_at(&format!("/docker/../docker/{ID}"), id));
    }

    #[test]
    fn a_walk_is_bounded() {
        let (_root, hierarchy, id) = hierarchy();
        let mut found = Vec::new();
        assert!(!hierarchy.walk(2, |id, _| found.push(id)));
        assert_eq!(found.len(), 2);
        assert!(!found.contains(&id));
    }

    #[test]
    fn what_the_kernel_tells_counts_where_it_is_whole() {
        assert_eq!(told(b"/docker/a\0", 2), Some("/docker/a"));
        assert_eq!(told(b"/docker/a\0", 3), None, "there are names that are missing");
        let long = format!("/{}\0", "x".repeat(1022));
        assert_eq!(told(long.as_bytes(), 1), None, "the end may be missing");
        assert_eq!(told(b"/\xff\0", 1), None);
        assert_eq!(told(b"", 0), None);
    }

    #[test]
    fn what_was_removed_is_forgotten_first_and_not_before_there_is_too_much() {
        let mut cgroups = Cgroups::default();
        let path = |id: u64| format!("/docker/{id:064x}");
        cgroups.add(1, "/old");
        let many = 100_000;
        for id in 2..many {
            cgroups.add(id, &path(id));
            if id % 2 == 0 {
                assert_eq!(cgroups.get(id).unwrap().unwrap().path.as_deref(), Some(&*path(id)));
            }
            cgroups.remove(id);
        }
        assert!(cgroups.bytes <= MAX_BYTES);
        assert!(cgroups.known.len() > 10_000);
        assert!(cgroups.removed.len() <= cgroups.known.len());
        assert_eq!(cgroups.get(1).unwrap().unwrap().path.as_deref(), Some("/old"));
        assert!(cgroups.get(2).is_none());
        assert!(cgroups.get(many - 1).is_some());
        let counted: usize = cgroups.known.values().map(Known::bytes).sum();
        assert_eq!(counted, cgroups.bytes);
    }

    #[test]
    fn of_those_that_are_there_the_oldest_are_forgotten() {
        let mut cgroups = Cgroups::default();
        for id in 1..100_000 {
            cgroups.add(id, "/a");
        }
        assert!(cgroups.bytes <= MAX_BYTES && cgroups.known.len() > 10_000);
        assert!(cgroups.get(1).is_none() && cgroups.get(99_999).is_some());
    }

    /// What is told late is of the same cgroup.
    #[test]
    fn what_is_known_stays() {
        let mut cgroups = Cgroups::default();
        cgroups.give_up(7);
        assert_eq!(cgroups.get(7), Some(None));
        cgroups.add(7, "/a");
        cgroups.add(7, "/b");
        assert_eq!(cgroups.get(7).unwrap().unwrap().path.as_deref(), Some("/a"));
    }
}
