//! What an attribute may hold, and how a list of attributes becomes a struct.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::nla::{Attribute, Attributes, DecodeError, attribute, nest};

/// A value of an attribute.
pub(in super::super) trait Value: Sized {
    /// Reads it; `name` is the kernel's name of the attribute, for the error.
    fn decode(attribute: &Attribute<'_>, name: &'static str) -> Result<Self, DecodeError>;
    /// Appends an attribute of this type that holds it.
    fn encode(&self, buffer: &mut Vec<u8>, kind: u16);
    /// Any value.
    #[cfg(test)]
    fn any(random: &mut super::properties::Random) -> Self;
}

/// A value that is an attribute set itself.
pub(in super::super) trait Set: Sized {
    /// Reads its attributes.
    fn decode_all(attributes: Attributes<'_>) -> Result<Self, DecodeError>;
    /// Appends its attributes.
    fn encode_all(&self, buffer: &mut Vec<u8>);
    /// Any set.
    #[cfg(test)]
    fn any_set(random: &mut super::properties::Random) -> Self;
}

impl<T: Set> Value for T {
    fn decode(attribute: &Attribute<'_>, name: &'static str) -> Result<Self, DecodeError> {
        Self::decode_all(attribute.nested(name))
    }

    fn encode(&self, buffer: &mut Vec<u8>, kind: u16) {
        nest(buffer, kind, |buffer| self.encode_all(buffer));
    }

    #[cfg(test)]
    fn any(random: &mut super::properties::Random) -> Self {
        Self::any_set(random)
    }
}

/// Attributes that this version does not know, with their headers, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown(pub(super) Vec<u8>);

impl Unknown {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Attribute<'_>> {
        Attributes::new(&self.0, "unknown attributes").flatten()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, unknown: &Attribute<'_>) {
        attribute(&mut self.0, unknown.kind | unknown.flags, unknown.payload);
    }
}

/// Declares attribute sets: structs with one optional field for each attribute of a kernel enum.
macro_rules! set {
    ($($(#[$doc:meta])* $set:ident { $($constant:ident => $field:ident: $type:ty,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $set {
            $(#[doc = concat!("`", stringify!($constant), "`")]
            pub $field: Option<$type>,)*
            /// What this version does not know.
            pub unknown: $crate::connections::ctnetlink::sets::value::Unknown,
        }

        impl $set {
            /// The attributes by their kernel names and numbers.
            pub const ATTRIBUTES: &[(&str, u16)] = &[$((stringify!($constant), $constant)),*];
        }

        impl $crate::connections::ctnetlink::sets::value::Set for $set {
            fn decode_all(attributes: Attributes<'_>) -> Result<Self, DecodeError> {
                let mut set = Self::default();
                for attribute in attributes {
                    let attribute = attribute?;
                    match attribute.kind {
                        $($constant => set.$field = Some(Value::decode(&attribute, stringify!($constant))?),)*
                        _ => set.unknown.push(&attribute),
                    }
                }
                Ok(set)
            }

            fn encode_all(&self, buffer: &mut Vec<u8>) {
                let Self { $($field,)* unknown } = self;
                $(if let Some(value) = $field {
                    Value::encode(value, buffer, $constant);
                })*
                buffer.extend_from_slice(&unknown.0);
            }

            #[cfg(test)]
            fn any_set(random: &mut $crate::connections::ctnetlink::sets::properties::Random) -> Self {
                Self { $($field: random.maybe(),)* unknown: random.unknown() }
            }
        }
    )* };
}
pub(super) use set;

/// Numbers in network byte order, and byte arrays as they are.
macro_rules! fixed_size {
    ($($type:ty, $from_bytes:path, $to_bytes:path;)*) => { $(
        impl Value for $type {
            fn decode(attribute: &Attribute<'_>, name: &'static str) -> Result<Self, DecodeError> {
                attribute.array(name).map($from_bytes)
            }

            fn encode(&self, buffer: &mut Vec<u8>, kind: u16) {
                attribute(buffer, kind, &$to_bytes(*self));
            }

            #[cfg(test)]
            fn any(random: &mut super::properties::Random) -> Self {
                $from_bytes(random.array())
            }
        }
    )* };
}

fixed_size! {
    u8, u8::from_be_bytes, u8::to_be_bytes;
    u16, u16::from_be_bytes, u16::to_be_bytes;
    u32, u32::from_be_bytes, u32::to_be_bytes;
    u64, u64::from_be_bytes, u64::to_be_bytes;
    Ipv4Addr, Ipv4Addr::from_octets, ipv4_octets;
    Ipv6Addr, Ipv6Addr::from_octets, ipv6_octets;
    [u8; 16], std::convert::identity, std::convert::identity;
}

fn ipv4_octets(address: Ipv4Addr) -> [u8; 4] {
    address.octets()
}

fn ipv6_octets(address: Ipv6Addr) -> [u8; 16] {
    address.octets()
}

/// Bytes without a meaning here.
impl Value for Vec<u8> {
    fn decode(attribute: &Attribute<'_>, _: &'static str) -> Result<Self, DecodeError> {
        Ok(attribute.payload.to_vec())
    }

    fn encode(&self, buffer: &mut Vec<u8>, kind: u16) {
        attribute(buffer, kind, self);
    }

    #[cfg(test)]
    fn any(random: &mut super::properties::Random) -> Self {
        random.bytes()
    }
}

/// A name, without the zero byte that ends it in a message. Kernel names are ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(pub Vec<u8>);

impl Value for Name {
    fn decode(attribute: &Attribute<'_>, _: &'static str) -> Result<Self, DecodeError> {
        Ok(Self(attribute.payload.strip_suffix(&[0]).unwrap_or(attribute.payload).to_vec()))
    }

    fn encode(&self, buffer: &mut Vec<u8>, kind: u16) {
        // The attribute has at most 64 KiB, so a longer name would damage the whole message.
        let name = self.0.get(..Self::MAX_BYTES).unwrap_or(&self.0);
        attribute(buffer, kind, &[name, &[0]].concat());
    }

    #[cfg(test)]
    fn any(random: &mut super::properties::Random) -> Self {
        Self(random.bytes())
    }
}

impl Name {
    /// The kernel's longest name is 64 KiB less than this would need (a security context has a page).
    const MAX_BYTES: usize = 4096;
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}
