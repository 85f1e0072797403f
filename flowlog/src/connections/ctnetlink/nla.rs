//! Netlink attributes: the walk over them, without copies, and how they are appended to a message.
//!
//! It knows lengths and alignment (`linux/netlink.h`, `struct nlattr`), not what an attribute means.
//! No input can make it panic or read outside of its slice.

use super::uapi::{NLA_F_NESTED, NLA_HDRLEN, NLA_TYPE_MASK, NLMSG_HDRLEN};

/// Why the bytes of a message cannot be read. The sender is the kernel, so each of these is a message
/// of a kernel that this version does not know, or one that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// What is left does not hold the header of a message.
    #[error("netlink message: found {found} bytes, expected a header of {NLMSG_HDRLEN}")]
    MessageHeader {
        /// Bytes that are left.
        found: usize,
    },
    /// The length in the header of a message is impossible.
    #[error("netlink message: found a length of {claimed} in its header, expected {NLMSG_HDRLEN} to {left}")]
    MessageLength {
        /// `nlmsg_len`.
        claimed: u32,
        /// Bytes that are left, with this header.
        left: usize,
    },
    /// What is left does not hold the header of an attribute.
    #[error("attributes of {parent}: found {found} bytes at the end, expected a header of {NLA_HDRLEN}")]
    AttributeHeader {
        /// Whose attributes these are.
        parent: &'static str,
        /// Bytes that are left.
        found: usize,
    },
    /// The length in the header of an attribute is impossible.
    #[error(
        "attributes of {parent}: found a length of {claimed} in a header, expected {NLA_HDRLEN} to {left}"
    )]
    AttributeLength {
        /// Whose attributes these are.
        parent: &'static str,
        /// `nla_len`.
        claimed: u16,
        /// Bytes that are left, with this header.
        left: usize,
    },
    /// A value has another size than its type.
    #[error("{attribute}: found {found} bytes, expected {expected}")]
    Size {
        /// Kernel name of the attribute.
        attribute: &'static str,
        /// Bytes of its type.
        expected: usize,
        /// Bytes that were sent.
        found: usize,
    },
    /// An attribute without which the message says nothing.
    #[error("{attribute} is missing in {parent}")]
    Missing {
        /// Kernel name of the attribute, or of those of which one is needed.
        attribute: &'static str,
        /// Where it was expected.
        parent: &'static str,
    },
}

/// Iterates over the attributes in a message or in a nested attribute. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
    parent: &'static str,
}

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`; errors call them those of `parent`.
    pub fn new(bytes: &'a [u8], parent: &'static str) -> Self {
        Self { rest: bytes, parent }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() {
            return None;
        }
        let &[l0, l1, t0, t1, ref after_header @ ..] = bytes else {
            return Some(Err(DecodeError::AttributeHeader { parent: self.parent, found: bytes.len() }));
        };
        let claimed = u16::from_ne_bytes([l0, l1]);
        let split = usize::from(claimed)
            .checked_sub(NLA_HDRLEN)
            .and_then(|payload_len| after_header.split_at_checked(payload_len));
        let Some((payload, after)) = split else {
            return Some(Err(DecodeError::AttributeLength {
                parent: self.parent,
                claimed,
                left: bytes.len(),
            }));
        };
        // The last attribute may come without its padding.
        self.rest = after.get(padding(payload.len())..).unwrap_or_default();
        let typed = u16::from_ne_bytes([t0, t1]);
        Some(Ok(Attribute { kind: typed & NLA_TYPE_MASK, flags: typed & !NLA_TYPE_MASK, payload }))
    }
}

/// Bytes after `len` bytes until the next multiple of four (`NLA_ALIGNTO`, `NLMSG_ALIGNTO`).
pub(super) fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// One attribute. The typed reads take its kernel name, for their errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type, without the flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    pub kind: u16,
    /// Those flags. They say nothing that the type does not; what is not known is passed on with them.
    pub flags: u16,
    /// The value, without header and padding.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// A value of exactly `N` bytes.
    pub fn array<const N: usize>(&self, name: &'static str) -> Result<[u8; N], DecodeError> {
        self.payload.try_into().map_err(|_| DecodeError::Size {
            attribute: name,
            expected: N,
            found: self.payload.len(),
        })
    }

    /// `NLA_U8`
    pub fn u8(&self, name: &'static str) -> Result<u8, DecodeError> {
        self.array(name).map(u8::from_be_bytes)
    }

    /// `NLA_BE16`
    pub fn be16(&self, name: &'static str) -> Result<u16, DecodeError> {
        self.array(name).map(u16::from_be_bytes)
    }

    /// `NLA_BE32`
    pub fn be32(&self, name: &'static str) -> Result<u32, DecodeError> {
        self.array(name).map(u32::from_be_bytes)
    }

    /// `NLA_BE64`
    pub fn be64(&self, name: &'static str) -> Result<u64, DecodeError> {
        self.array(name).map(u64::from_be_bytes)
    }

    /// `NLA_NESTED`. The flag is not asked for: kernels before 5.2 left it out in places.
    pub fn nested(&self, name: &'static str) -> Attributes<'a> {
        Attributes::new(self.payload, name)
    }
}

/// Appends an attribute that holds what `fill` appends.
pub(super) fn nest(buffer: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 2]);
    buffer.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
    fill(buffer);
    write_length(buffer, start, u16::to_ne_bytes);
}

/// Appends an attribute with its padding.
pub(super) fn attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 2]);
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    write_length(buffer, start, u16::to_ne_bytes);
    buffer.resize(buffer.len() + padding(value.len()), 0);
}

/// Writes how much follows `start` into the first `N` bytes there.
pub(super) fn write_length<T: TryFrom<usize>, const N: usize>(
    buffer: &mut [u8],
    start: usize,
    to_bytes: impl FnOnce(T) -> [u8; N],
) {
    let Some(element) = buffer.get_mut(start..) else { return };
    let len = element.len();
    if let (Some(field), Ok(len)) = (element.first_chunk_mut(), T::try_from(len)) {
        *field = to_bytes(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute with the header as given, and no padding.
    fn raw(len: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
        [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), payload].concat()
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: &[Result<(u16, &[u8]), DecodeError>]) {
        let found: Vec<_> =
            Attributes::new(bytes, "TEST").map(|item| item.map(|a| (a.kind, a.payload))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn walk() {
        check(&[], &[]);
        check(&raw(4, 1, &[]), &[Ok((1, &[]))]);
        check(&raw(8, 1, &[1, 2, 3, 4]), &[Ok((1, &[1, 2, 3, 4]))]);
        // Padding is skipped, and may be missing or cut at the end.
        let padded = [raw(5, 1, &[9, 0, 0, 0]), raw(6, 2, &[7, 8])].concat();
        check(&padded, &[Ok((1, &[9])), Ok((2, &[7, 8]))]);
        check(&[&padded[..], &[0]].concat(), &[Ok((1, &[9])), Ok((2, &[7, 8]))]);
        // Flags are no part of the type.
        check(&raw(4, 0xc000 | 27, &[]), &[Ok((27, &[]))]);
    }

    #[test]
    fn walk_ends_at_the_first_error() {
        let length = |claimed, left| DecodeError::AttributeLength { parent: "TEST", claimed, left };
        for short in [&[8][..], &[8, 0], &[8, 0, 1]] {
            check(short, &[Err(DecodeError::AttributeHeader { parent: "TEST", found: short.len() })]);
        }
        for claimed in [0, 3, 9, u16::MAX] {
            let good_after_bad = [raw(claimed, 1, &[1, 2, 3, 4]), raw(4, 2, &[])].concat();
            let left = if claimed == 9 { 8 } else { good_after_bad.len() };
            check(&good_after_bad[..left], &[Err(length(claimed, left))]);
        }
    }

    #[test]
    fn reads_want_the_exact_size() {
        for len in 0..20_usize {
            let payload = vec![1; len];
            let attribute = Attribute { kind: 1, flags: 0, payload: &payload };
            let expect = |size| {
                (len != size).then_some(DecodeError::Size { attribute: "X", expected: size, found: len })
            };
            assert_eq!(attribute.u8("X").err(), expect(1));
            assert_eq!(attribute.be16("X").err(), expect(2));
            assert_eq!(attribute.be32("X").err(), expect(4));
            assert_eq!(attribute.be64("X").err(), expect(8));
            assert_eq!(attribute.array::<16>("X").err(), expect(16));
        }
        let attribute = Attribute { kind: 1, flags: 0, payload: &[1, 2] };
        assert_eq!(attribute.be16("X"), Ok(0x0102));
    }
}
