//! Who held sockets: each holder once, for all the sockets that it has. A pure data structure: no clock, no IO.
//!
//! A server has one holder for a hundred thousand sockets, so what is kept of a socket is the number of its holder. Who
//! opens very many sockets is told apart by its cgroup and user: the group of a holder.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use flowlog_common::Owner;
use hashbrown::{HashMap, HashTable};

use crate::record::{Holder, Origin, Process};
use crate::time::NS_PER_S;

/// What a holder takes with all that keeps it: 100 bytes, its place in the index, and a process that nothing else may keep
/// any more.
const HOLDER_BYTES: usize = 360;

/// How long names for the numbers of an owner are taken to be the same, if it is the same process in the same cgroup.
const RESOLVED_FOR_NS: u64 = NS_PER_S;

/// The number of a holder, as long as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderId(pub(crate) u32);

/// A cgroup and a user, by a number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupId(pub(crate) u32);

#[derive(Debug)]
struct Entry {
    holder: Holder,
    group: GroupId,
    /// How many sockets have it.
    uses: u32,
    /// When its names were looked for, in `CLOCK_MONOTONIC` nanoseconds.
    resolved_ns: u64,
}

#[derive(Debug, Default)]
struct Group {
    cgroup_id: u64,
    uid: u32,
    holders: u32,
}

static UNKNOWN: Holder = Holder {
    owner: Owner::UNKNOWN,
    process: None,
    origin: Origin { user: None, cgroup: None },
    is_seeded: false,
};

/// All holders of sockets that are remembered.
#[derive(Debug, Default)]
pub struct Holders {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// By what the kernel tells of an owner.
    index: HashTable<u32>,
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    by_members: HashMap<(u64, u32), GroupId, foldhash::fast::RandomState>,
    hasher: foldhash::fast::RandomState,
}

impl Holders {
    /// The holder with this number.
    pub fn get(&self, id: HolderId) -> &Holder {
        self.entry(id).map_or(&UNKNOWN, |entry| &entry.holder)
    }

    /// The group of this holder.
    pub(crate) fn group(&self, id: HolderId) -> GroupId {
        self.entry(id).map_or(GroupId(0), |entry| entry.group)
    }

    /// All groups, and numbers that are free again.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..u32::try_from(self.groups.len()).unwrap_or(u32::MAX)).map(GroupId)
    }

    /// The number of the holder that this process is as the owner of a socket, for one use more. Names are asked for where
    /// the same process had none a moment ago.
    pub fn of(
        &mut self,
        owner: Owner,
        process: Option<&Arc<Process>>,
        is_seeded: bool,
        at_ns: u64,
        origin: impl FnOnce(&Owner) -> Origin,
    ) -> HolderId {
        let found = self.find(&owner, |entry| {
            at_ns < entry.resolved_ns.saturating_add(RESOLVED_FOR_NS)
                && is_it(&entry.holder, &owner, process, is_seeded)
        });
        if let Some(id) = found {
            return self.keep(id);
        }
        let origin = if owner.time_ns == 0 { Origin::default() } else { origin(&owner) };
        self.intern(Holder { owner, process: process.cloned(), origin, is_seeded }, at_ns)
    }

    /// The number of this holder, for one use more. Its names were looked for at `at_ns`.
    pub fn intern(&mut self, holder: Holder, at_ns: u64) -> HolderId {
        let Holder { owner, process, origin, is_seeded } = &holder;
        let found = self.find(owner, |entry| {
            is_it(&entry.holder, owner, process.as_ref(), *is_seeded)
                && is_same_origin(&entry.holder.origin, origin)
        });
        let id = match found {
            Some(id) => self.keep(id),
            None => self.insert(holder),
        };
        if let Some(entry) = self.entry_mut(id) {
            entry.resolved_ns = entry.resolved_ns.max(at_ns);
        }
        id
    }

    /// One use more.
    pub(crate) fn keep(&mut self, id: HolderId) -> HolderId {
        if let Some(entry) = self.entry_mut(id) {
            entry.uses = entry.uses.saturating_add(1);
        }
        id
    }

    /// One use less.
    pub fn release(&mut self, id: HolderId) {
        let Some(entry) = self.entry_mut(id) else { return };
        // What has been used so often stays.
        if entry.uses == u32::MAX {
            return;
        }
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            self.remove(id);
        }
    }

    /// What all of them take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        (self.entries.len() - self.free.len()) * HOLDER_BYTES
    }

    fn entry(&self, id: HolderId) -> Option<&Entry> {
        self.entries.get(id.0 as usize)?.as_ref()
    }

    fn entry_mut(&mut self, id: HolderId) -> Option<&mut Entry> {
        self.entries.get_mut(id.0 as usize)?.as_mut()
    }

    fn find(&self, owner: &Owner, is_it: impl Fn(&Entry) -> bool) -> Option<HolderId> {
        let hash = hash(&self.hasher, owner);
        let found = self.index.find(hash, |number| self.entry(HolderId(*number)).is_some_and(&is_it));
        found.map(|number| HolderId(*number))
    }

    fn insert(&mut self, holder: Holder) -> HolderId {
        let Owner { cgroup_id, uid, .. } = holder.owner;
        let hash = hash(&self.hasher, &holder.owner);
        let group = self.join_group(cgroup_id, uid);
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        let Self { index, entries, hasher, .. } = self;
        if let Some(place) = entries.get_mut(number as usize) {
            *place = Some(Entry { holder, group, uses: 1, resolved_ns: 0 });
        }
        let hash_again = |number: &u32| {
            let entry = entries.get(*number as usize).and_then(Option::as_ref);
            entry.map_or(0, |entry| self::hash(hasher, &entry.holder.owner))
        };
        index.insert_unique(hash, number, hash_again);
        HolderId(number)
    }

    fn remove(&mut self, id: HolderId) {
        let Some(entry) = self.entries.get_mut(id.0 as usize).and_then(Option::take) else { return };
        let hash = hash(&self.hasher, &entry.holder.owner);
        if let Ok(found) = self.index.find_entry(hash, |number| *number == id.0) {
            found.remove();
        }
        self.free.push(id.0);
        self.leave_group(entry.group);
    }

    fn join_group(&mut self, cgroup_id: u64, uid: u32) -> GroupId {
        let Self { groups, free_groups, by_members, .. } = self;
        let id = *by_members.entry((cgroup_id, uid)).or_insert_with(|| match free_groups.pop() {
            Some(number) => GroupId(number),
            None => {
                groups.push(Group::default());
                GroupId(u32::try_from(groups.len() - 1).unwrap_or(u32::MAX))
            }
        });
        if let Some(group) = groups.get_mut(id.0 as usize) {
            *group = Group { cgroup_id, uid, holders: group.holders + 1 };
        }
        id
    }

    fn leave_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(id.0 as usize) else { return };
        group.holders = group.holders.saturating_sub(1);
        if group.holders == 0 {
            self.by_members.remove(&(group.cgroup_id, group.uid));
            self.free_groups.push(id.0);
        }
    }
}

/// What is looked for first: all that the kernel tells of an owner, but when.
fn hash(hasher: &foldhash::fast::RandomState, owner: &Owner) -> u64 {
    let Owner { tgid, uid, cgroup_id, netns_cookie, comm, time_ns: _ } = owner;
    hasher.hash_one((tgid, uid, cgroup_id, netns_cookie, comm))
}

/// Whether the holder is this process as the owner of a socket. If it is not known which process had the number, it is so
/// only for the time at which that was taken.
fn is_it(holder: &Holder, owner: &Owner, process: Option<&Arc<Process>>, is_seeded: bool) -> bool {
    let Owner { tgid, uid, cgroup_id, netns_cookie, comm, time_ns } = holder.owner;
    let is_same_process = match (&holder.process, process) {
        (Some(known), Some(process)) => Arc::ptr_eq(known, process) && (time_ns == 0) == (owner.time_ns == 0),
        (None, None) => time_ns == owner.time_ns,
        _ => false,
    };
    is_same_process
        && holder.is_seeded == is_seeded
        && (tgid, uid, cgroup_id) == (owner.tgid, owner.uid, owner.cgroup_id)
        && (netns_cookie, comm) == (owner.netns_cookie, owner.comm)
}

fn is_same_origin(known: &Origin, other: &Origin) -> bool {
    let is_same_user = match (&known.user, &other.user) {
        (Some(known), Some(other)) => Arc::ptr_eq(known, other) || known == other,
        (known, other) => known.is_none() && other.is_none(),
    };
    is_same_user
        && match (&known.cgroup, &other.cgroup) {
            (Some(known), Some(other)) => Arc::ptr_eq(known, other) || known == other,
            (known, other) => known.is_none() && other.is_none(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(tgid: u32, time_ns: u64) -> Owner {
        Owner { tgid, time_ns, uid: tgid * 10, cgroup_id: 5, ..Owner::UNKNOWN }
    }

    fn process(tgid: u32) -> Arc<Process> {
        Arc::new(Process { tgid, ..Process::default() })
    }

    #[test]
    fn sockets_of_one_process_share_a_holder_until_the_last_is_forgotten() {
        let mut holders = Holders::default();
        let [server, other] = [process(7), process(7)];
        let mut of =
            |process, time_ns| holders.of(owner(7, time_ns), process, false, time_ns, |_| Origin::default());
        let first = of(Some(&server), 100);
        assert_eq!(of(Some(&server), 200), first);
        assert_ne!(of(Some(&other), 200), first, "the number is of another process");
        let unknown = of(None, 200);
        assert_eq!(of(None, 200), unknown);
        assert_ne!(of(None, 300), unknown, "nobody knows whether it is the same");
        assert_eq!(holders.bytes(), 4 * HOLDER_BYTES);
        holders.release(first);
        assert_eq!(holders.get(first).owner.tgid, 7);
        holders.release(first);
        assert_eq!(holders.get(first).owner.tgid, 0);
        assert_eq!(holders.bytes(), 3 * HOLDER_BYTES);
    }

    /// A cgroup may become known after the first socket, and a user may get another name.
    #[test]
    fn names_are_asked_for_again_after_a_while() {
        let mut holders = Holders::default();
        let server = process(7);
        let named = |name: &str| Origin { user: Some(name.into()), cgroup: None };
        let mut of =
            |at_ns, name: &str| holders.of(owner(7, 1), Some(&server), false, at_ns, |_| named(name));
        let first = of(100, "www");
        assert_eq!(of(200, "web"), first, "not asked");
        let renamed = of(100 + RESOLVED_FOR_NS, "web");
        assert_ne!(renamed, first);
        assert_eq!(of(200 + RESOLVED_FOR_NS, "www"), renamed);
        assert_eq!(of(300 + 2 * RESOLVED_FOR_NS, "web"), renamed, "the same again");
    }

    #[test]
    fn a_group_is_a_cgroup_and_a_user() {
        let mut holders = Holders::default();
        let mut of = |tgid: u32, uid, cgroup_id| {
            let owner = Owner { uid, cgroup_id, ..owner(tgid, 1) };
            holders.of(owner, Some(&process(tgid)), false, 1, |_| Origin::default())
        };
        let ids = [of(1, 10, 5), of(2, 10, 5), of(3, 11, 5), of(4, 10, 6)];
        let groups = ids.map(|id| holders.group(id).0);
        assert_eq!(groups, [0, 0, 1, 2]);
        holders.release(ids[2]);
        let other = holders.of(Owner { uid: 12, ..owner(5, 1) }, None, false, 1, |_| Origin::default());
        assert_eq!(holders.group(other).0, 1, "the number is free again");
    }
}
