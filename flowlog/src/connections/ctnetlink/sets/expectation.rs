//! Expectations: connections that helpers and user space have announced.

use super::super::nla::{Attributes, DecodeError};
use super::super::uapi::*;
use super::tuple::TupleAttributes;
use super::value::{Name, Value, set};

set! {
    /// `enum ctattr_expect`
    Expectation {
        CTA_EXPECT_MASTER => master: TupleAttributes,
        CTA_EXPECT_TUPLE => tuple: TupleAttributes,
        CTA_EXPECT_MASK => mask: TupleAttributes,
        CTA_EXPECT_TIMEOUT => timeout_s: u32,
        CTA_EXPECT_ID => id: u32,
        CTA_EXPECT_HELP_NAME => helper: Name,
        CTA_EXPECT_ZONE => zone: u16,
        CTA_EXPECT_FLAGS => flags: u32,
        CTA_EXPECT_CLASS => class: u32,
        CTA_EXPECT_NAT => nat: ExpectationNat,
        CTA_EXPECT_FN => function: Name,
    }

    /// `enum ctattr_expect_nat`
    ExpectationNat {
        CTA_EXPECT_NAT_DIR => direction: u32,
        CTA_EXPECT_NAT_TUPLE => tuple: TupleAttributes,
    }
}

/// Bits of [`Expectation::flags`]: `NF_CT_EXPECT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectationFlags(pub u32);

impl ExpectationFlags {
    /// `NF_CT_EXPECT_PERMANENT`: it stays when its connection has come.
    pub const PERMANENT: Self = Self(1);
    /// `NF_CT_EXPECT_INACTIVE`
    pub const INACTIVE: Self = Self(1 << 1);
    /// `NF_CT_EXPECT_USERSPACE`: made by a request, not by a helper.
    pub const USERSPACE: Self = Self(1 << 2);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
