//! Whether two sets of flows are the same, without keeping either.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

/// The number of flows, and the sum of the hashes of their original tuples, which is the same in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) count: u64,
    sum: u64,
}

impl Fingerprint {
    /// Adds a flow: its protocol, addresses, and ports or the id of ICMP.
    pub(crate) fn add(&mut self, proto: u8, ends: [IpAddr; 2], numbers: [u16; 2]) {
        // Its keys are always the same.
        let mut hasher = DefaultHasher::new();
        (proto, ends, numbers).hash(&mut hasher);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }

    /// As text.
    pub(crate) fn hex(self) -> String {
        format!("{:016x}", self.sum)
    }
}
