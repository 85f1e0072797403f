//! What is forgotten first of processes that have ended.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::attribution::largest::{FORGOTTEN_PART, lower_largest};

/// What a group takes without its images: its place in the map, and a short queue.
pub(super) const GROUP_BYTES: usize = 200;

/// Who runs a process: cgroup and user. All that /proc told of are one group, with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Group {
    /// Id of the cgroup v2.
    pub cgroup_id: u64,
    /// User id.
    pub uid: u32,
}

/// An image that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) tgid: u32,
    /// When it ended, which with the number tells it from others, unless they lasted no time.
    pub(super) until_ns: u64,
    /// What it takes.
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    images: VecDeque<Ended>,
    bytes: usize,
}

/// All that have ended, by group, oldest first: who makes very many processes makes its own forgotten.
#[derive(Debug, Default)]
pub(super) struct EndedImages {
    queues: HashMap<Group, Queue, foldhash::fast::RandomState>,
    /// Of all images, without the groups.
    bytes: usize,
}

impl EndedImages {
    /// What all of them take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.groups_bytes()
    }

    pub(super) fn groups_bytes(&self) -> usize {
        self.queues.len() * GROUP_BYTES
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queues.values().map(|queue| queue.images.len()).sum()
    }

    pub(super) fn push(&mut self, group: Group, ended: Ended) {
        let queue = self.queues.entry(group).or_default();
        queue.images.push_back(ended);
        queue.bytes += ended.bytes;
        self.bytes += ended.bytes;
    }

    /// If all take more than `max_bytes`, takes out the oldest of the groups that have most. `forget` may keep one: then it
    /// becomes the newest of its group. It may do so once in a call.
    pub(super) fn make_room(&mut self, max_bytes: usize, mut forget: impl FnMut(Ended) -> bool) {
        if self.bytes() <= max_bytes {
            return;
        }
        let wanted = max_bytes - max_bytes / FORGOTTEN_PART;
        // Those that are kept the first time are not the second time.
        for _ in 0..2 {
            let groups = self.queues.iter().map(|(group, queue)| (queue.bytes, *group)).collect();
            lower_largest(groups, |largest, level| {
                for (_, group) in largest {
                    self.forget_of(*group, level, wanted, &mut forget);
                }
                self.bytes() <= wanted
            });
            if self.bytes() <= wanted {
                return;
            }
        }
    }

    /// Looks once at each image of a group, until it has no more than `level`, or all have no more than `wanted`.
    fn forget_of(
        &mut self,
        group: Group,
        level: usize,
        wanted: usize,
        forget: &mut impl FnMut(Ended) -> bool,
    ) {
        let groups_bytes = self.groups_bytes();
        let Some(queue) = self.queues.get_mut(&group) else { return };
        for _ in 0..queue.images.len() {
            if queue.bytes <= level || self.bytes + groups_bytes <= wanted {
                return;
            }
            let Some(oldest) = queue.images.pop_front() else { break };
            if forget(oldest) {
                queue.bytes -= oldest.bytes;
                self.bytes -= oldest.bytes;
            } else {
                queue.images.push_back(oldest);
            }
        }
        if queue.images.is_empty() {
            self.queues.remove(&group);
        }
    }
}
