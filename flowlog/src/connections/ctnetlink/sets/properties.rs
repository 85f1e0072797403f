//! Properties of all sets: what was encoded is decoded, nothing is lost on the way through, and no
//! bytes make them panic.

use proptest::prelude::*;

use super::super::decode::{self, messages};
use super::super::nla::attribute;
use super::super::properties::tuple;
use super::super::uapi::*;
use super::value::{Set, Unknown, Value};
use super::{CpuStatistics, Entry, Expectation, ExpectationStatistics, GlobalStatistics};
use crate::flow::Flow;

/// Values from a seed (splitmix64). The sets have more fields than strategies can be combined.
pub(in super::super) struct Random(pub(in super::super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }

    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 20;
        // A name does not end with the byte that ends names.
        (0..length).map(|_| self.next().to_le_bytes()[0].max(1)).collect()
    }

    pub(super) fn maybe<T: Value>(&mut self) -> Option<T> {
        self.next().is_multiple_of(2).then(|| T::any(self))
    }

    pub(super) fn unknown(&mut self) -> Unknown {
        let mut unknown = Vec::new();
        for kind in 100..100 + u16::try_from(self.next() % 3).unwrap() {
            attribute(&mut unknown, kind, &self.bytes());
        }
        Unknown(unknown)
    }
}

#[track_caller]
fn survives<T: Set + PartialEq + std::fmt::Debug>(
    random: &mut Random,
    decode: impl Fn(&[u8]) -> Result<T, decode::DecodeError>,
) -> Result<(), TestCaseError> {
    let set = T::any_set(random);
    let mut payload = vec![AF_INET, 0, 0, 0];
    set.encode_all(&mut payload);
    prop_assert_eq!(decode(&payload), Ok(set));
    Ok(())
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(seed: u64) {
        let random = &mut Random(seed);
        survives(random, decode::entry)?;
        survives(random, decode::expectation)?;
        survives(random, |payload| decode::statistics::<GlobalStatistics>(payload).map(|(_, set)| set))?;
        survives(random, |payload| decode::statistics::<CpuStatistics>(payload).map(|(_, set)| set))?;
        survives(random, |payload| decode::statistics::<ExpectationStatistics>(payload).map(|(_, set)| set))?;
    }

    #[test]
    fn the_fast_way_and_the_whole_way_agree(seed: u64, orig in tuple(), reply in tuple()) {
        let mut entry = Entry::any_set(&mut Random(seed));
        if seed.is_multiple_of(4) {
            entry = Entry { orig: Some((&orig).into()), reply: Some((&reply).into()), ..entry };
        }
        let mut payload = vec![AF_INET, 0, 0, 0];
        entry.encode_all(&mut payload);
        let (fast, whole) = (decode::flow(&payload), Flow::try_from(&entry));
        prop_assert_eq!(fast.is_ok(), whole.is_ok(), "{:?} {:?}", fast, whole);
        if let (Ok(fast), Ok(whole)) = (fast, whole) {
            // A message has one protocol; of several, the fast way takes the last and this the first.
            prop_assert_eq!(Flow { state: None, ..fast.flow }, Flow { state: None, ..whole });
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        check_any(&bytes)?;
    }

    #[test]
    fn no_damage_makes_it_panic(
        seed: u64,
        damage in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..8),
        cut: prop::sample::Index,
    ) {
        let random = &mut Random(seed);
        let mut bytes = vec![AF_INET6, 0, 0, 0];
        if seed.is_multiple_of(2) {
            Entry::any_set(random).encode_all(&mut bytes);
        } else {
            Expectation::any_set(random).encode_all(&mut bytes);
        }
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        check_any(&bytes)?;
    }
}

/// What can be decoded comes out the same when it went through once more.
fn check_any(bytes: &[u8]) -> Result<(), TestCaseError> {
    for message in messages(bytes).flatten() {
        let _ = decode::entry(message.payload);
    }
    let _ = decode::statistics::<CpuStatistics>(bytes);
    if let Ok(entry) = decode::entry(bytes) {
        let mut again = vec![0; NFGENMSG_LEN];
        entry.encode_all(&mut again);
        prop_assert_eq!(decode::entry(&again), Ok(entry));
    }
    if let Ok(expectation) = decode::expectation(bytes) {
        let mut again = vec![0; NFGENMSG_LEN];
        expectation.encode_all(&mut again);
        prop_assert_eq!(decode::expectation(&again), Ok(expectation));
    }
    Ok(())
}
