//! Names for the numbers of an owner: of its user, of its cgroup, and what the path of that tells.
//!
//! The kernel side takes numbers only. The names are looked for here when the event is read, which is
//! at most some 50 ms later, and what cannot be proven by then is `None`:
//!
//! * The id of a cgroup is the inode of its directory (on 64-bit kernels). The programs tell of each that is made, before
//!   a process can be in it, and those that are older are walked at the start. Where events were lost, there is another
//!   walk; and the path that /proc names for the owner counts where that directory has this id.
//! * On hosts that also have hierarchies of v1, an engine may put its containers there only. The kernel
//!   has no id for that, so it is what /proc says of the process that owned the socket, provided that
//!   it still runs and began before.
//! * Users are those of /etc/passwd. NSS could know more (LDAP, SSSD), but may ask the network for it.
//!
//! All caches are bounded, and so is the time that looking takes.

mod cgroups;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowlog_common::Owner;
use hashbrown::HashMap;
use nix::time::ClockId;
use procfs::process::Process;
use procfs::{ProcessCGroup, ProcessCGroups};
use tracing::warn;

use self::cgroups::{Cgroups, Hierarchy, told};
use crate::attribution::clocks::read::now_ns;
use crate::attribution::containers::{container_id, pod_uid, unit};
use crate::attribution::recent::Recent;
use crate::host::rights::Raised;
use crate::record::{Cgroup, Origin};
use crate::time::NS_PER_S;

/// How many processes are remembered for what /proc said of them. One takes about 500 bytes.
const MAX_PROCESSES: usize = 4096;

/// How many cgroups a walk visits. Each takes some 20 us, most of it for the files beside the directories.
const MAX_WALKED: usize = 16_384;

/// After a walk there is none for so many times the time that it took: at most 5 % of a core, and on a
/// host with few cgroups a new one is found while its process may be gone already.
const WALK_PAUSE: u32 = 20;

/// How many processes are looked up in /proc each second. Each takes 20 to 60 us.
const MAX_LOOKUPS: u32 = 1000;

/// How often is looked whether the list of users changed.
const USERS_INTERVAL: Duration = Duration::from_secs(10);

/// The list of users.
const USERS: &str = "/etc/passwd";

/// A longer list of users is not read.
const MAX_USERS_BYTES: u64 = 16 << 20;

/// A longer jump of `CLOCK_BOOTTIME` against `CLOCK_MONOTONIC` is a suspend of the host.
const SUSPEND_NS: u64 = 1_000_000;

/// Looks up owners.
#[derive(Debug)]
pub struct Origins {
    hierarchy: Option<Hierarchy>,
    /// Whether there are hierarchies of v1.
    has_v1: bool,
    cgroups: Cgroups,
    /// What v1 told, by thread group id.
    processes: Recent<u32, ProcessCgroup>,
    users: Users,
    /// When there may be a walk again.
    next_walk: Instant,
    lookups: Lookups,
    /// `CLOCK_BOOTTIME` less `CLOCK_MONOTONIC`: for how long the host was suspended.
    suspended_ns: u64,
}

/// What /proc said of a process about its owners with times between these.
#[derive(Debug)]
struct ProcessCgroup {
    /// `CLOCK_MONOTONIC`, the process had begun.
    from_ns: u64,
    /// `CLOCK_MONOTONIC`, the process had not ended.
    until_ns: u64,
    cgroup_id: u64,
    cgroup: Arc<Cgroup>,
}

impl Origins {
    /// Knows nothing yet. Without eBPF nobody asks for a cgroup (`wanted`).
    pub fn open(wanted: bool) -> Self {
        let own = Process::myself().and_then(|own| own.cgroups()).ok();
        let has_v1 = own.is_some_and(|own| own.0.iter().any(is_v1));
        let hierarchy = wanted.then(Hierarchy::open).and_then(|opened| {
            let unknown =
                "rows of cgroups that are older than flowlog may have no `cgroup`, `unit` and `container_id`";
            opened.inspect_err(|error| warn!("{unknown}: cannot open the root of cgroup v2: {error}")).ok()
        });
        Self::new(hierarchy, has_v1)
    }

    fn new(hierarchy: Option<Hierarchy>, has_v1: bool) -> Self {
        Self {
            hierarchy,
            has_v1,
            cgroups: Cgroups::default(),
            processes: Recent::new(MAX_PROCESSES),
            users: Users::default(),
            next_walk: Instant::now(),
            lookups: Lookups { since: Instant::now(), done: 0 },
            suspended_ns: suspended_ns(),
        }
    }

    /// The kernel told of a cgroup that it made, with as much of its path as it tells.
    pub fn made(&mut self, id: u64, level: u32, path: &[u8]) {
        if let Some(path) = told(path, level) {
            self.cgroups.add(id, path);
        }
    }

    /// A cgroup was removed.
    pub fn removed(&mut self, id: u64) {
        self.cgroups.remove(id);
    }

    /// The names of an owner who was seen just now.
    pub fn resolve(&mut self, owner: &Owner) -> Origin {
        let known = match self.cgroups.get(owner.cgroup_id) {
            Some(known) => known,
            None => self.look_for(owner),
        };
        let in_container = known.as_ref().is_some_and(|cgroup| cgroup.container_id.is_some());
        let cgroup = if self.has_v1 && !in_container { self.with_v1(owner, known) } else { known };
        Origin { user: self.users.name(owner.uid), cgroup }
    }

    /// Looks for a cgroup that is not known.
    fn look_for(&mut self, owner: &Owner) -> Option<Arc<Cgroup>> {
        let hierarchy = self.hierarchy.as_ref()?;
        if self.lookups.take()
            && let Some(path) = in_proc(|| path_of(owner.tgid))
            && hierarchy.is_at(&path, owner.cgroup_id)
        {
            self.cgroups.add(owner.cgroup_id, &path);
            return self.cgroups.get(owner.cgroup_id).flatten();
        }
        if Instant::now() < self.next_walk {
            return None;
        }
        let found_all = self.walk();
        let found = self.cgroups.get(owner.cgroup_id).flatten();
        if found.is_none() && found_all {
            self.cgroups.give_up(owner.cgroup_id);
        }
        found
    }

    /// Learns all cgroups that exist now, as far as the bound allows. Says whether it did.
    pub fn walk(&mut self) -> bool {
        let Self { hierarchy: Some(hierarchy), cgroups, next_walk, .. } = self else { return false };
        // Some engines make directories that are only for their user.
        let _raised = Raised::to_read();
        let begun = Instant::now();
        let found_all = hierarchy.walk(MAX_WALKED, |id, path| {
            cgroups.add(id, path);
        });
        let took = begun.elapsed();
        *next_walk = begun + took + took * WALK_PAUSE;
        found_all
    }

    /// Adds what the hierarchies of v1 tell of the process of this owner.
    fn with_v1(&mut self, owner: &Owner, known: Option<Arc<Cgroup>>) -> Option<Arc<Cgroup>> {
        let seen = self.processes.get(&owner.tgid).filter(|seen| seen.cgroup_id == owner.cgroup_id);
        if let Some(ProcessCgroup { from_ns, until_ns, cgroup, .. }) = seen
            && (*from_ns..=*until_ns).contains(&owner.time_ns)
        {
            return Some(Arc::clone(cgroup));
        }
        let suspended_ns = suspended_ns();
        // While the host slept the clocks ran apart, and start times cannot be compared with events.
        let was_suspended = suspended_ns.abs_diff(self.suspended_ns) > SUSPEND_NS;
        self.suspended_ns = suspended_ns;
        if was_suspended || !self.lookups.take() {
            return known;
        }
        let Some((from_ns, until_ns, lines)) = in_proc(|| running(owner.tgid, suspended_ns)) else {
            return known;
        };
        if !(from_ns..=until_ns).contains(&owner.time_ns) {
            return known;
        }
        let merged = merge(known.as_deref(), &lines);
        // The same text is to be the same allocation.
        let cgroup = [known, seen.map(|seen| Arc::clone(&seen.cgroup))]
            .into_iter()
            .flatten()
            .find(|earlier| **earlier == merged)
            .unwrap_or_else(|| Arc::new(merged));
        let seen =
            ProcessCgroup { from_ns, until_ns, cgroup_id: owner.cgroup_id, cgroup: Arc::clone(&cgroup) };
        self.processes.insert(owner.tgid, seen);
        Some(cgroup)
    }
}

/// What v1 tells in addition to v2. Hierarchies that name different containers or pods name none.
fn merge(v2: Option<&Cgroup>, lines: &[ProcessCGroup]) -> Cgroup {
    let v1 = || lines.iter().filter(|line| is_v1(line));
    let mut cgroup = v2.cloned().unwrap_or_default();
    if cgroup.unit.is_none() {
        // Other hierarchies have systemd's units too, but only as far as they are of use there.
        let systemd = v1().find(|line| line.controllers.iter().any(|name| name == "name=systemd"));
        cgroup.unit = systemd.and_then(|line| unit(&line.pathname)).map(Arc::from);
    }
    if cgroup.container_id.is_none() {
        cgroup.container_id = only(v1().filter_map(|line| container_id(&line.pathname))).map(Arc::from);
    }
    if cgroup.pod_uid.is_none() {
        cgroup.pod_uid = only(v1().filter_map(|line| pod_uid(&line.pathname))).map(Arc::from);
    }
    cgroup
}

/// What all items are, where there are any and they are equal.
fn only<T: PartialEq>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.all(|item| item == first).then_some(first)
}

fn is_v1(line: &ProcessCGroup) -> bool {
    line.hierarchy != 0
}

/// What `look` finds in /proc, also where that hides the processes of others.
fn in_proc<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    look().or_else(|| {
        let _raised = Raised::to_see();
        look()
    })
}

/// The path of the cgroup of v2 in which /proc has this process now.
fn path_of(tgid: u32) -> Option<String> {
    let ProcessCGroups(lines) = Process::new(i32::try_from(tgid).ok()?).ok()?.cgroups().ok()?;
    lines.into_iter().find(|line| !is_v1(line)).map(|line| line.pathname)
}

/// The cgroups of a process that runs, and two times of `CLOCK_MONOTONIC` between which it surely ran.
fn running(tgid: u32, suspended_ns: u64) -> Option<(u64, u64, Vec<ProcessCGroup>)> {
    let until_ns = now_ns(ClockId::CLOCK_MONOTONIC);
    // This holds the directory of the process: where it ends and another gets its number, reading fails.
    let process = Process::new(i32::try_from(tgid).ok()?).ok()?;
    // In ticks since boot, rounded down.
    let ticks = process.stat().ok()?.starttime.checked_add(1)?;
    let ProcessCGroups(lines) = process.cgroups().ok()?;
    let tick_ns = NS_PER_S / procfs::ticks_per_second().max(1);
    let from_ns = ticks.checked_mul(tick_ns)?.checked_sub(suspended_ns)?;
    Some((from_ns, until_ns, lines))
}

/// In this order it is never too much: a process then seems younger rather than older than it is.
fn suspended_ns() -> u64 {
    let boottime_ns = now_ns(ClockId::CLOCK_BOOTTIME);
    boottime_ns.saturating_sub(now_ns(ClockId::CLOCK_MONOTONIC))
}

/// Counts the processes that are looked up.
#[derive(Debug)]
struct Lookups {
    since: Instant,
    done: u32,
}

impl Lookups {
    /// Whether there may be one more in this second.
    fn take(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self { since: Instant::now(), done: 0 };
        }
        self.done += 1;
        self.done <= MAX_LOOKUPS
    }
}

/// The list of users.
#[derive(Debug, Default)]
struct Users {
    names: HashMap<u32, Arc<str>>,
    checked: Option<Instant>,
    /// Inode, size, time of change in seconds and nanoseconds of the file that was read.
    version: Option<(u64, u64, i64, i64)>,
}

impl Users {
    fn name(&mut self, uid: u32) -> Option<Arc<str>> {
        if self.checked.is_none_or(|checked| checked.elapsed() >= USERS_INTERVAL) {
            self.checked = Some(Instant::now());
            self.read();
        }
        self.names.get(&uid).cloned()
    }

    /// Reads the list where it has changed.
    fn read(&mut self) {
        let metadata = fs::metadata(USERS).ok();
        let version = metadata.map(|file| (file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        if version == self.version {
            return;
        }
        self.version = version;
        self.names.clear();
        let Some((_, size, ..)) = version else { return };
        if size > MAX_USERS_BYTES {
            warn!("rows have no `user`: `{USERS}` has {size} bytes, expected at most {MAX_USERS_BYTES}");
            return;
        }
        match fs::read(USERS) {
            Ok(text) => self.names = users(&String::from_utf8_lossy(&text)),
            Err(error) => warn!("rows have no `user`: cannot read `{USERS}`: {error}"),
        }
    }
}

/// The names in the text of /etc/passwd. Of several with one uid the first counts, as for the C library.
fn users(text: &str) -> HashMap<u32, Arc<str>> {
    let mut users = HashMap::default();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next(), fields.nth(1));
        if let (Some(name), Some(Ok(uid))) = (name, uid.map(str::parse)) {
            users.entry(uid).or_insert_with(|| name.into());
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::cgroups::parse;
    use super::cgroups::tests::hierarchy;
    use super::*;

    const ID: &str = "3f4b1c0d9e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c";

    fn line(hierarchy: u32, controller: &str, pathname: &str) -> ProcessCGroup {
        ProcessCGroup {
            hierarchy,
            controllers: vec![controller.to_owned()],
            pathname: pathname.replace("ID", ID),
        }
    }

    /// An owner whose process is not there any more.
    fn gone(cgroup_id: u64) -> Owner {
        Owner { tgid: u32::MAX, time_ns: 1, cgroup_id, ..Owner::UNKNOWN }
    }

    #[test]
    fn a_walk_finds_cgroups_without_processes() {
        let (root, hierarchy, id) = hierarchy();
        let mut origins = Origins::new(Some(hierarchy), false);
        let cgroup = origins.resolve(&gone(id)).cgroup.unwrap();
        assert_eq!(cgroup.path.as_deref(), Some(format!("/docker/{ID}").as_str()));
        assert_eq!(cgroup.container_id.as_deref(), Some(ID));
        // It stays known when it is gone, for sockets of it that are told of later.
        fs::remove_dir(root.path().join("docker").join(ID)).unwrap();
        assert_eq!(origins.resolve(&gone(id)).cgroup, Some(cgroup));
    }

    #[test]
    fn walks_are_rare() {
        let (root, hierarchy, _) = hierarchy();
        let mut origins = Origins::new(Some(hierarchy), false);
        origins.next_walk = Instant::now() + Duration::from_secs(600);
        fs::create_dir(root.path().join("new")).unwrap();
        let new = fs::metadata(root.path().join("new")).unwrap().ino();
        assert_eq!(origins.resolve(&gone(new)).cgroup, None);
        origins.next_walk = Instant::now();
        assert!(origins.resolve(&gone(new)).cgroup.is_some());
    }

    #[test]
    fn v1_tells_what_v2_does_not() {
        let lines = [
            line(0, "", "/system.slice/containerd.service"),
            line(1, "name=systemd", "/docker/ID"),
            line(2, "memory", "/docker/ID"),
            line(3, "cpu", "/"),
        ];
        let v2 = parse("/system.slice/containerd.service");
        let merged = merge(Some(&v2), &lines);
        assert_eq!(merged.container_id.as_deref(), Some(ID));
        assert_eq!((merged.path, merged.unit), (v2.path, v2.unit));

        let in_service =
            [line(1, "name=systemd", "/system.slice/a.service"), line(2, "memory", "/b.service")];
        assert_eq!(merge(Some(&parse("/")), &in_service).unit.as_deref(), Some("a.service"));
    }

    #[test]
    fn hierarchies_that_disagree_name_no_container() {
        let lines = [line(1, "memory", "/lxc/one"), line(2, "pids", "/lxc/two")];
        assert_eq!(merge(Some(&parse("/")), &lines), parse("/"));
    }

    /// A process that began after the socket was made has got the number of the one that made it.
    #[test]
    fn a_process_is_the_owner_where_it_ran_then() {
        let mut origins = Origins::new(None, true);
        let tgid = std::process::id();
        let (from_ns, ..) = running(tgid, suspended_ns()).unwrap();
        // The test may have begun within the tick of its process.
        let wait_ns = from_ns.saturating_sub(now_ns(ClockId::CLOCK_MONOTONIC));
        std::thread::sleep(Duration::from_nanos(wait_ns));
        let at_ns = now_ns(ClockId::CLOCK_MONOTONIC);
        let owner = |time_ns| Owner { tgid, time_ns, ..Owner::UNKNOWN };
        assert_eq!(origins.resolve(&owner(from_ns - SUSPEND_NS)).cgroup, None);
        assert!(origins.processes.get(&tgid).is_none());
        assert!(origins.resolve(&owner(at_ns)).cgroup.is_some());
        let until_ns = origins.processes.get(&tgid).unwrap().until_ns;
        assert!((at_ns..=now_ns(ClockId::CLOCK_MONOTONIC)).contains(&until_ns));
        assert_eq!(origins.resolve(&owner(from_ns - SUSPEND_NS)).cgroup, None);
    }

    #[test]
    fn users_of_a_list() {
        let users =
            users("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n+::::::\n#a:x\nbad:x:-1:\nme:x:1000");
        let name = |uid| users.get(&uid).map(AsRef::as_ref);
        assert_eq!((name(0), name(1000), users.len()), (Some("root"), Some("me"), 2));
    }
}
