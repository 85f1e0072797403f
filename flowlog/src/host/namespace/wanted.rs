//! Which network namespaces are wanted: names, paths, patterns of them, or all. They come and go.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use glob::Pattern;

use super::{NAMED, Namespace, NamespaceError, OWN};

/// The word for all that have a name, and the own one.
const ALL: &str = "all";

/// How long a directory that has not changed is not read again: something may be mounted over a file without a trace.
const LOOK_ANYHOW: Duration = Duration::from_secs(1);

/// How long after a change a directory is read with each look: the kernel's times of files are coarse.
const IS_FRESH: Duration = Duration::from_millis(200);

/// What was asked for.
#[derive(Debug)]
struct Want {
    /// As it was given, for what is one namespace.
    name: String,
    directory: PathBuf,
    /// Those that fit; `None` for one file, which is `directory` joined with the name.
    pattern: Option<Pattern>,
    /// They are called by their path.
    has_path: bool,
}

/// Which network namespaces are wanted.
#[derive(Debug)]
pub struct Wanted {
    wants: Vec<Want>,
    has_own: bool,
    /// When directories were changed, as of the last look.
    changed: Vec<Option<SystemTime>>,
    looked: Option<Instant>,
    fresh_until: Option<Instant>,
}

/// Network namespaces that are there: their names, by inode.
pub type Found = BTreeMap<u64, String>;

impl Wanted {
    /// Those with these names or paths, where `all`, `*`, `?` and `[` stand for more than one; the own one if there are
    /// none.
    ///
    /// # Errors
    ///
    /// A pattern is none.
    pub fn new(names: &[String]) -> Result<Self, NamespaceError> {
        let mut wants = Vec::new();
        let mut has_own = names.is_empty();
        for name in names {
            has_own |= name == ALL;
            wants.push(want(name)?);
        }
        Ok(Self { wants, has_own, changed: Vec::new(), looked: None, fresh_until: None })
    }

    /// All that have a name in `ip netns`.
    pub fn all_named() -> Found {
        Self::new(&[ALL.to_owned()]).map(|all| all.find().0).unwrap_or_default()
    }

    /// Whether they can come and go.
    pub fn can_change(&self) -> bool {
        !self.wants.is_empty()
    }

    /// Whether there is one and never another.
    pub fn is_one(&self) -> bool {
        match self.wants.as_slice() {
            [] => true,
            [want] => want.pattern.is_none(),
            _ => false,
        }
    }

    /// Whether it was asked for by this name, and not by a pattern.
    pub fn names(&self, name: &str) -> bool {
        self.wants.iter().any(|want| want.pattern.is_none() && want.name == name)
    }

    /// Opens those that are there.
    ///
    /// # Errors
    ///
    /// There is none of a name that is no pattern.
    pub fn open(&self) -> Result<Vec<Namespace>, NamespaceError> {
        let mut namespaces: Vec<Namespace> = Vec::new();
        if self.has_own {
            namespaces.push(Namespace::own()?);
        }
        for want in self.wants.iter().filter(|want| want.pattern.is_none()) {
            let namespace = Namespace::open(&want.name)?;
            // Watched twice, each of its flows would be two rows.
            if namespaces.iter().any(|known| known.inode == namespace.inode) {
                tracing::warn!(
                    "the network namespace `{}` was given twice, flowlog watches it once",
                    want.name
                );
            } else {
                namespaces.push(namespace);
            }
        }
        for (inode, name) in self.find().0 {
            // It may be gone by now.
            if !namespaces.iter().any(|known| known.inode == inode)
                && let Ok(namespace) = Namespace::open(&name)
                && namespace.inode == inode
            {
                namespaces.push(namespace);
            }
        }
        Ok(namespaces)
    }

    /// Those that are there, if that may have changed since the last look. The own one is not among them.
    pub fn look(&mut self, now: Instant) -> Option<Found> {
        let changed: Vec<_> = self.wants.iter().map(|want| modified(&want.directory)).collect();
        let has_changed = changed != self.changed;
        let is_fresh = self.fresh_until.is_some_and(|until| now < until);
        let is_due = self.looked.is_none_or(|looked| now >= looked + LOOK_ANYHOW);
        if !(has_changed || is_fresh || is_due) {
            return None;
        }
        self.looked = Some(now);
        let (found, is_half) = self.find();
        if has_changed || is_half {
            self.fresh_until = Some(now + IS_FRESH);
        }
        self.changed = changed;
        Some(found)
    }

    /// Those that are there; says whether some are being made.
    fn find(&self) -> (Found, bool) {
        let mut found = Found::new();
        let mut is_half = false;
        let Ok(of_namespaces) = fs::metadata(OWN).map(|own| own.dev()) else { return (found, false) };
        let mut take = |path: &Path, name: String| match fs::metadata(path) {
            Ok(file) if file.dev() == of_namespaces => {
                found.entry(file.ino()).or_insert(name);
            }
            // First there is a file, then the namespace is mounted over it.
            Ok(_) => is_half = true,
            Err(_) => {}
        };
        for want in &self.wants {
            let Some(pattern) = &want.pattern else {
                take(&path_of(&want.name), want.name.clone());
                continue;
            };
            for entry in fs::read_dir(&want.directory).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                if pattern.matches(&name) {
                    let path = entry.path();
                    let name = if want.has_path { path.display().to_string() } else { name };
                    take(&path, name);
                }
            }
        }
        (found, is_half)
    }
}

/// Where the file of a namespace is: whatever has a slash is a path.
pub(super) fn path_of(name_or_path: &str) -> PathBuf {
    if name_or_path.contains('/') { PathBuf::from(name_or_path) } else { Path::new(NAMED).join(name_or_path) }
}

fn want(given: &str) -> Result<Want, NamespaceError> {
    let path = path_of(given);
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let pattern = match file {
        ALL if !given.contains('/') => Some("*"),
        file if file.contains(['*', '?', '[']) => Some(file),
        _ => None,
    };
    let pattern = pattern.map(Pattern::new).transpose();
    let pattern = pattern.map_err(|source| NamespaceError::Pattern { pattern: given.to_owned(), source })?;
    Ok(Want { name: given.to_owned(), directory, pattern, has_path: given.contains('/') })
}

fn modified(directory: &Path) -> Option<SystemTime> {
    fs::metadata(directory).and_then(|directory| directory.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_told_from_names() {
        let is_pattern = |given: &str| want(given).unwrap().pattern.is_some();
        assert!(is_pattern("all") && is_pattern("qrouter-*") && is_pattern("/run/docker/netns/*"));
        assert!(!is_pattern("qrouter-1") && !is_pattern("/run/netns/all"));
        assert!(want("a[").is_err());
    }

    #[test]
    fn only_one_name_is_one() {
        let wanted = |names: &[&str]| {
            Wanted::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        assert!(wanted(&[]).is_one() && !wanted(&[]).can_change());
        assert!(wanted(&["a"]).is_one() && wanted(&["a"]).can_change());
        assert!(!wanted(&["all"]).is_one() && !wanted(&["a", "b"]).is_one());
    }
}
