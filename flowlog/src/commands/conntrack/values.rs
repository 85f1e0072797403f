//! Values of options: numbers, addresses, marks, lists of words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::failure::{Failure, say};
use crate::flow::{DccpState, Protocol, SctpState, Status, TcpState};

/// A number, as strtoul(3) reads it with base zero: decimal, hexadecimal with `0x`, octal with `0`.
/// What it would read as something else (`http`, `-1`, what does not fit) is an error.
pub(super) fn number<T: TryFrom<u64>>(text: &str) -> Result<T, Failure> {
    let digits = text.trim_start();
    let (digits, radix) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    let number = u64::from_str_radix(digits, radix).ok().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| Failure::usage(format!("Bad parameter `{text}'")))
}

/// A decimal number: a port, a timeout.
pub(super) fn decimal<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.trim_start().parse().map_err(|_| Failure::usage(format!("Bad parameter `{text}'")))
}

/// A number and which of its bits count, `value[/mask]`.
pub(super) fn mark(text: &str) -> Result<(u32, u32), Failure> {
    match text.split_once('/') {
        Some((value, mask)) => Ok((number(value)?, number(mask)?)),
        None => Ok((number(text)?, u32::MAX)),
    }
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, Failure> {
    text.parse().map_err(|_| Failure::usage(format!("Invalid IP address `{text}'")))
}

/// An address and, in CIDR notation, its mask.
pub(super) fn network(text: &str) -> Result<(IpAddr, Option<IpAddr>), Failure> {
    let Some((plain, bits)) = text.split_once('/') else { return Ok((address(text)?, None)) };
    let address = address(plain).map_err(|_| Failure::usage(format!("Invalid IP address `{text}'")))?;
    let bits: u32 = bits.parse().map_err(|_| Failure::usage("Invalid netmask"))?;
    let mask = match address {
        IpAddr::V4(_) if bits <= 32 => {
            Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()
        }
        IpAddr::V6(_) if bits <= 128 => {
            Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into()
        }
        _ => return Err(Failure::usage("Invalid netmask")),
    };
    Ok((address, Some(mask)))
}

/// Splits `address[:port]` and `[address]:port`. One of both may be missing.
pub(super) fn address_and_port(text: &str) -> Result<(Option<&str>, Option<u16>), Failure> {
    let (address, port) = match text.split_once('[') {
        Some((_, rest)) => match rest.split_once(']') {
            None => return Err(Failure::usage("No closing ']' around IPv6 address")),
            Some(("", _)) => return Err(Failure::usage("No IPv6 address specified")),
            Some((address, rest)) => match rest.split_once(':') {
                Some((_, port)) => (address, port),
                None => return Ok((Some(text), None)),
            },
        },
        None => match text.split_once(':') {
            // More than one colon: an IPv6 address.
            Some((address, port)) if !port.contains(':') => (address, port),
            _ => return Ok((Some(text), None)),
        },
    };
    if port.is_empty() {
        return Err(Failure::usage("No port specified after `:'"));
    }
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|_| is_number);
    let number = number.ok_or_else(|| Failure::usage(format!("Invalid port `{port}'")))?;
    Ok((Some(address), Some(number)))
}

/// A list of words, each of which may be shortened, and in any case.
fn words<T: Copy>(text: &str, known: &[(&str, T)], mut each: impl FnMut(T, bool)) -> Result<(), Failure> {
    let mut rest = text;
    loop {
        // The error names what is left.
        let error = || Failure::usage(format!("Bad parameter `{rest}'"));
        let (word, more) = rest.split_once(',').map_or((rest, None), |(word, more)| (word, Some(more)));
        let (word, negated) = word.strip_prefix('!').map_or((word, false), |word| (word, true));
        let begins =
            |name: &str| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        if word.is_empty() {
            return Err(error());
        } else if let Some(option) = ["SRC_NAT", "DST_NAT"].into_iter().find(|name| begins(name)) {
            let instead = if option == "SRC_NAT" { "--src-nat" } else { "--dst-nat" };
            say(&format!("WARNING: ignoring {option}, use {instead} instead"));
        } else {
            let (_, value) = known.iter().find(|(name, _)| begins(name)).ok_or_else(error)?;
            each(*value, negated);
        }
        match more {
            Some(more) => rest = more,
            None => return Ok(()),
        }
    }
}

/// A list of words that cannot be negated.
fn plain_words<T: Copy>(text: &str, known: &[(&str, T)], mut each: impl FnMut(T)) -> Result<(), Failure> {
    if text.contains('!') {
        return Err(Failure::usage(format!("Bad parameter `{text}'")));
    }
    words(text, known, |value, _| each(value))
}

/// Bits of the status and which of them count: those that are named, and those that are named with `!`
/// and must not be set.
pub(super) fn status(text: &str) -> Result<(u32, u32), Failure> {
    const KNOWN: [(&str, (Status, bool)); 8] = [
        ("ASSURED", (Status::ASSURED, false)),
        ("SEEN_REPLY", (Status::SEEN_REPLY, false)),
        ("UNSET", (Status(0), false)),
        ("FIXED_TIMEOUT", (Status::FIXED_TIMEOUT, false)),
        ("EXPECTED", (Status::EXPECTED, false)),
        ("OFFLOAD", (Status::OFFLOAD, false)),
        ("HW_OFFLOAD", (Status::HW_OFFLOAD, false)),
        ("UNREPLIED", (Status::SEEN_REPLY, true)),
    ];
    let (mut value, mut mask) = (0, 0);
    words(text, &KNOWN, |(Status(bits), inverse), negated| {
        mask |= bits;
        if inverse == negated {
            value |= bits;
        }
    })?;
    Ok((value, mask))
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EventMask {
    pub(super) new: bool,
    pub(super) update: bool,
    pub(super) destroy: bool,
}

impl EventMask {
    pub(super) const ALL: Self = Self { new: true, update: true, destroy: true };

    /// Adds the kinds that are named.
    pub(super) fn parse(&mut self, text: &str) -> Result<(), Failure> {
        const NONE: EventMask = EventMask { new: false, update: false, destroy: false };
        let known = [
            ("ALL", Self::ALL),
            ("NEW", Self { new: true, ..NONE }),
            ("UPDATES", Self { update: true, ..NONE }),
            ("DESTROY", Self { destroy: true, ..NONE }),
        ];
        plain_words(text, &known, |kinds| {
            self.new |= kinds.new;
            self.update |= kinds.update;
            self.destroy |= kinds.destroy;
        })
    }
}

/// How entries are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) xml: bool,
    pub(super) extended: bool,
    pub(super) timestamp: bool,
    pub(super) id: bool,
    pub(super) ktimestamp: bool,
    pub(super) labels: bool,
    pub(super) save: bool,
}

impl Format {
    /// Adds what is named. What user space caused is told always, so `userspace` changes nothing.
    pub(super) fn parse(&mut self, text: &str) -> Result<(), Failure> {
        type Set = fn(&mut Format);
        let known: [(&str, Set); 8] = [
            ("xml", |format| format.xml = true),
            ("extended", |format| format.extended = true),
            ("timestamp", |format| format.timestamp = true),
            ("id", |format| format.id = true),
            ("ktimestamp", |format| format.ktimestamp = true),
            ("labels", |format| format.labels = true),
            ("userspace", |_| {}),
            ("save", |format| format.save = true),
        ];
        plain_words(text, &known, |set| set(self))?;
        let Self { xml, extended, timestamp, id, ktimestamp, labels, save } = *self;
        if save && (xml || extended || timestamp || id || ktimestamp || labels) {
            return Err(Failure::failed(
                "cannot combine save output with any other output type, use -o save only",
            ));
        }
        Ok(())
    }
}

/// The number of a state of a protocol, by its name.
pub(super) fn state(protocol: Protocol, name: &str) -> Result<u8, Failure> {
    let (kind, name_of): (_, fn(u8) -> Option<&'static str>) = match protocol {
        Protocol::SCTP => ("SCTP", |number| SctpState(number).name()),
        Protocol::DCCP => ("DCCP", |number| DccpState(number).name()),
        _ => ("TCP", |number| TcpState(number).name()),
    };
    // What SYN_SENT2 was called before Linux 2.6.31.
    let wanted = if kind == "TCP" && name == "LISTEN" { "SYN_SENT2" } else { name };
    let upper = |known: &str| known.bytes().map(|byte| byte.to_ascii_uppercase()).eq(wanted.bytes());
    let found = (0..16).find(|number| name_of(*number).is_some_and(upper));
    found.ok_or_else(|| Failure::usage(format!("unknown {kind} state `{name}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn error<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Usage(text) | Failure::Failed(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers() {
        for (text, expected) in [("7", 7), ("0x1F", 31), ("010", 8), ("0", 0), (" 4294967295", u32::MAX)] {
            assert_eq!(number::<u32>(text).unwrap(), expected, "{text}");
        }
        for text in ["", "-1", "http", "0x", "7x", "4294967296"] {
            assert_eq!(error(number::<u32>(text)), format!("Bad parameter `{text}'"));
        }
        assert_eq!(mark("0x10/0xf0").unwrap(), (16, 240));
        assert_eq!(mark("5").unwrap(), (5, u32::MAX));
    }

    #[test]
    fn networks() {
        for (text, plain, mask) in [
            ("10.1.2.3", "10.1.2.3", None),
            ("10.1.2.3/8", "10.1.2.3", Some("255.0.0.0")),
            ("0.0.0.0/0", "0.0.0.0", Some("0.0.0.0")),
            ("fd00::1/60", "fd00::1", Some("ffff:ffff:ffff:fff0::")),
            ("fd00::1/128", "fd00::1", Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
        ] {
            let mask = mask.map(|mask| mask.parse().unwrap());
            assert_eq!(network(text).unwrap(), (plain.parse().unwrap(), mask));
        }
        for (text, expected) in [
            ("10.0.0.0/33", "Invalid netmask"),
            ("10.0.0.0/x", "Invalid netmask"),
            ("fd00::/129", "Invalid netmask"),
            ("10.0.0/8", "Invalid IP address `10.0.0/8'"),
        ] {
            assert_eq!(error(network(text)), expected);
        }
    }

    #[test]
    fn addresses_with_ports() {
        for (text, address, port) in [
            ("10.0.0.1", Some("10.0.0.1"), None),
            ("10.0.0.1:80", Some("10.0.0.1"), Some(80)),
            ("fd00::1", Some("fd00::1"), None),
            ("[fd00::1]:80", Some("fd00::1"), Some(80)),
        ] {
            assert_eq!(address_and_port(text).unwrap(), (address, port));
        }
        for (text, expected) in [
            ("[]:80", "No IPv6 address specified"),
            ("[fd00::1", "No closing ']' around IPv6 address"),
            ("10.0.0.1:", "No port specified after `:'"),
            ("10.0.0.1:+8", "Invalid port `+8'"),
            ("10.0.0.1:65536", "Invalid port `65536'"),
        ] {
            assert_eq!(error(address_and_port(text)), expected);
        }
    }

    #[test]
    fn lists() {
        let assured = Status::ASSURED.0;
        let seen_reply = Status::SEEN_REPLY.0;
        for (text, expected) in [
            ("ASSURED", (assured, assured)),
            ("assu,seen", (assured | seen_reply, assured | seen_reply)),
            ("UNSET", (0, 0)),
            ("!ASSURED,SEEN_REPLY", (seen_reply, assured | seen_reply)),
            ("UNREPLIED", (0, seen_reply)),
            ("SRC_NAT,ASSURED", (assured, assured)),
        ] {
            assert_eq!(status(text).unwrap(), expected, "{text}");
        }
        assert_eq!(error(status("ASSURED,,UNSET")), "Bad parameter `,UNSET'");
        assert_eq!(error(status("ASSURED,what,UNSET")), "Bad parameter `what,UNSET'");
        let mut format = Format::default();
        format.parse("ext,id").unwrap();
        assert_eq!(format, Format { extended: true, id: true, ..Format::default() });
        assert!(error(format.parse("save")).starts_with("cannot combine save output"));
        let mut events = EventMask::default();
        events.parse("new,DES").unwrap();
        assert_eq!(events, EventMask { new: true, update: false, destroy: true });
        assert_eq!(error(events.parse("!NEW")), "Bad parameter `!NEW'");
    }

    #[test]
    fn states() {
        assert_eq!(state(Protocol::TCP, "LISTEN").unwrap(), 9);
        assert_eq!(state(Protocol::SCTP, "COOKIE_WAIT").unwrap(), 2);
        assert_eq!(error(state(Protocol::TCP, "established")), "unknown TCP state `established'");
        assert_eq!(error(state(Protocol::DCCP, "X")), "unknown DCCP state `X'");
    }
}
