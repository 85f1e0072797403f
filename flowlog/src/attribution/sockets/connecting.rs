//! Sockets that connect and have no tuple yet.

use flowlog_common::Owner;
use hashbrown::HashMap;

/// How many sockets without a tuple a generation of [`Connecting`] has. A socket has its tuple within
/// microseconds; what stays are those that the kernel found no way for.
const MAX_CONNECTING: usize = 1024;

/// Owners of sockets that connect, until they have their tuple.
#[derive(Debug, Default)]
pub struct Connecting {
    young: HashMap<u64, Owner, foldhash::fast::RandomState>,
    /// The generation before; forgotten when the young one is full.
    old: HashMap<u64, Owner, foldhash::fast::RandomState>,
}

impl Connecting {
    /// The socket with this cookie begins to connect.
    pub fn insert(&mut self, cookie: u64, owner: Owner) {
        if self.young.len() >= MAX_CONNECTING {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        // Of a socket that tries again the last attempt counts, wherever it is looked for first.
        self.old.remove(&cookie);
        self.young.insert(cookie, owner);
    }

    /// The socket with this cookie has its tuple.
    pub fn remove(&mut self, cookie: u64) -> Option<Owner> {
        self.young.remove(&cookie).or_else(|| self.old.remove(&cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_process_that_connects_counts_and_attempts_without_a_way_are_forgotten() {
        let by = |tgid: u32| Owner { tgid, time_ns: 1, ..Owner::UNKNOWN };
        let mut connecting = Connecting::default();
        connecting.insert(1, by(10));
        connecting.insert(1, by(11));
        for cookie in 2..1000 {
            connecting.insert(cookie, by(12));
        }
        assert_eq!(connecting.remove(1), Some(by(11)));
        assert_eq!(connecting.remove(1), None);
        for cookie in 1000..10_000 {
            connecting.insert(cookie, by(13));
        }
        assert_eq!(connecting.remove(2), None, "long ago");
        assert_eq!(connecting.remove(9999), Some(by(13)));
        assert!(connecting.young.len() + connecting.old.len() <= 2 * MAX_CONNECTING);
    }
}
