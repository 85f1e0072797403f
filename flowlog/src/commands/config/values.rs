//! Values that are written as text: checked when they are read, in files and variables as in flags.

use std::fmt::{self, Display, Formatter};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::attribution::cmdline;
use crate::attribution::processes::MEMORY_BYTES;
use crate::connections::ctnetlink::Delivery;
use crate::connections::filter::Mark;
use crate::flow::Protocol;
use crate::log::wal::WalSync;
use crate::log::writer::Compatibility;

/// A text is not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Expected(&'static str);

/// A time span of more than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(pub Duration);

/// How often something is done, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(pub Option<Duration>);

/// A number of bytes of more than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Size of the receive buffer of a netlink socket. A destroyed flow takes about 1 KiB of it with the
/// kernel's own bookkeeping: the default holds a quarter of a second of the highest rate that the kernel
/// can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveBuffer(pub usize);

/// Size of the ring buffer of the eBPF programs. A TCP connection with both ends on this host takes 528 bytes
/// of it, a process 352. So the default holds 7940 connections, which is a third of a second of the highest
/// rate that one core makes (25 000 a second on loopback), and 158 000 a second while it is read every 50 ms.
/// Its pages are mapped twice, and count as memory of the process as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingBuffer(pub u32);

/// How much memory is taken to remember sockets and processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub usize);

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

/// A network, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

/// A share of 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Percent(pub u8);

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self(64 << 20)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self(MEMORY_BYTES)
    }
}

impl Default for RingBuffer {
    fn default() -> Self {
        Self(4 << 20)
    }
}

impl Default for Percent {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<i64> for Percent {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        match u8::try_from(number) {
            Ok(percent @ 0..=100) => Ok(Self(percent)),
            _ => Err(format!("invalid value: integer `{number}`, expected 0 to 100")),
        }
    }
}

/// Makes a type of values from text, for flags (`FromStr`) as for files and variables (`Deserialize`).
macro_rules! from_text {
    ($Type:ty, $expected:literal, $parse:expr) => {
        impl FromStr for $Type {
            type Err = Expected;

            fn from_str(text: &str) -> Result<Self, Expected> {
                let parse: fn(&str) -> Option<Self> = $parse;
                parse(text).ok_or(Expected($expected))
            }
        }

        impl<'de> Deserialize<'de> for $Type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text { expected: $expected, value: PhantomData })
            }
        }
    };
}

from_text!(Interval, r#"a duration with a unit, such as "90s", "15min" or "1h""#, |text| {
    humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero()).map(Self)
});

from_text!(Every, r#""off" or a duration with a unit, such as "10min""#, |text| match text {
    "off" => Some(Self(None)),
    _ => text.parse().ok().map(|Interval(interval)| Self(Some(interval))),
});

from_text!(Size, r#"a size with a unit, such as "64MiB""#, |text| bytes(text).map(Self));

from_text!(ReceiveBuffer, r#"a size of at most "1GiB", such as "64MiB""#, |text| {
    // The kernel doubles it in an `int` (`__sock_set_rcvbuf`).
    usize::try_from(bytes(text)?).ok().filter(|bytes| *bytes <= 1 << 30).map(Self)
});

from_text!(RingBuffer, r#"a power of two from "64KiB" to "256MiB", such as "4MiB""#, |text| {
    // The kernel wants whole pages, which have up to 64 KiB.
    let bytes = u32::try_from(bytes(text)?).ok()?;
    (bytes.is_power_of_two() && (64 << 10..=256 << 20).contains(&bytes)).then_some(Self(bytes))
});

from_text!(Memory, r#"a size from "1MiB" to "16GiB", such as "256MiB""#, |text| {
    usize::try_from(bytes(text)?).ok().filter(|bytes| (1 << 20..=16 << 30).contains(bytes)).map(Self)
});

from_text!(Address, r#"an address with a port, such as "127.0.0.1:9464" or "[::1]:9464""#, |text| {
    text.parse().ok().map(Self)
});

from_text!(Delivery, r#""reliable" or "best-effort""#, |text| match text {
    "reliable" => Some(Self::Reliable),
    "best-effort" => Some(Self::BestEffort),
    _ => None,
});

from_text!(WalSync, r#""batch", "off", or a duration with a unit, such as "1s""#, |text| match text {
    "batch" => Some(Self::Batch),
    "off" => Some(Self::Off),
    _ => text.parse().ok().map(|Interval(interval)| Self::Interval(interval)),
});

from_text!(Compatibility, r#""current" or "old""#, |text| match text {
    "current" => Some(Self::Current),
    "old" => Some(Self::Old),
    _ => None,
});

from_text!(cmdline::Mode, r#""masked", "full" or "off""#, |text| match text {
    "masked" => Some(Self::Masked),
    "full" => Some(Self::Full),
    "off" => Some(Self::Off),
    _ => None,
});

from_text!(Network, r#"a network or an address, such as "10.0.0.0/8" or "::1""#, |text| {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(address).map(|network| Self(network.trunc()))
});

from_text!(Protocol, r#"a protocol by name or number, such as "tcp" or "47""#, |text| {
    let named = || (0..=u8::MAX).map(Self).find(|protocol| protocol.name() == Some(text));
    text.parse().ok().map(Self).or_else(named)
});

from_text!(Mark, r#"a mark or its bits in a mask, such as "7" or "0x10/0xf0""#, |text| {
    let (value, mask) = text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask)));
    let (value, mask) = (number(value)?, mask.map_or(Some(u32::MAX), number)?);
    // With bits outside of the mask no flow would have it.
    (value & !mask == 0).then_some(Self { value, mask })
});

fn number(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
}

fn bytes(text: &str) -> Option<u64> {
    text.parse().ok().map(|ByteSize(bytes)| bytes).filter(|bytes| *bytes > 0)
}

/// Reads a path that is not empty.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.as_os_str().is_empty() {
        return Err(D::Error::invalid_value(Unexpected::Str(""), &"the path of a directory"));
    }
    Ok(Some(path))
}

struct Text<T> {
    expected: &'static str,
    value: PhantomData<T>,
}

impl<T: FromStr> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.expected.fmt(formatter)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}
