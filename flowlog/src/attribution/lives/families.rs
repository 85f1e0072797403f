//! Lives of sockets by the family of their addresses: those of IPv4, which most are, take less.

use std::hash::Hash;

use super::{LifeValue, Lives};
use crate::attribution::holders::{GroupId, Holders};

/// Where a life is, as long as that does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Over IPv4.
    V4(u32),
    /// Over IPv6, or perhaps.
    V6(u32),
}

/// Two tables, of which one has the life that a socket has now, or had last.
#[derive(Debug)]
pub struct Families<K4, T4, K6, T6> {
    /// Of IPv4.
    pub v4: Lives<K4, T4>,
    /// Of all else.
    pub v6: Lives<K6, T6>,
}

impl<K4: Copy + Eq + Hash, T4: LifeValue, K6: Copy + Eq + Hash, T6: LifeValue> Default
    for Families<K4, T4, K6, T6>
{
    fn default() -> Self {
        Self { v4: Lives::default(), v6: Lives::default() }
    }
}

impl<K4: Copy + Eq + Hash, T4: LifeValue, K6: Copy + Eq + Hash, T6: LifeValue> Families<K4, T4, K6, T6> {
    /// As [`Lives::close`].
    pub fn close(&mut self, cookie: u64, at_ns: u64, holders: &Holders) {
        if !self.v4.close(cookie, at_ns, holders) {
            self.v6.close(cookie, at_ns, holders);
        }
    }

    /// As [`Lives::lost_events`].
    pub fn lost_events(&mut self, since_ns: u64, holders: &Holders) {
        self.v4.lost_events(since_ns, holders);
        self.v6.lost_events(since_ns, holders);
    }

    /// As [`Lives::forget`].
    pub fn forget(&mut self, number: Number, holders: &mut Holders) {
        match number {
            Number::V4(number) => self.v4.forget(number, holders),
            Number::V6(number) => self.v6.forget(number, holders),
        }
    }

    /// Whether this group has no fewer lives of IPv4 than others: of these one gives way.
    pub(crate) fn is_mostly_v4(&self, group: GroupId) -> bool {
        self.v4.len_of(group) >= self.v6.len_of(group)
    }

    /// As [`Lives::len_of`].
    pub(crate) fn len_of(&self, group: GroupId) -> usize {
        self.v4.len_of(group) + self.v6.len_of(group)
    }

    /// As [`Lives::len`].
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// As [`Lives::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`Lives::bytes`].
    pub(crate) fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }

    /// As [`Lives::evicted`].
    pub fn evicted(&self) -> u64 {
        self.v4.evicted() + self.v6.evicted()
    }
}
