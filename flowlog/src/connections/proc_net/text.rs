//! Values appended to a text without allocating.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::{ProtoState, Protocol};

/// Text that is being written. Its memory is used again for the next line.
pub(super) struct Text<'a>(pub(super) &'a mut Vec<u8>);

impl Text<'_> {
    pub(super) fn push(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, number: impl Into<u64>) {
        self.push(itoa::Buffer::new().format(number.into()));
    }

    /// `name=number `
    pub(super) fn field(&mut self, name: &str, number: impl Into<u64>) {
        self.push(name);
        self.push("=");
        self.number(number);
        self.push(" ");
    }

    /// `<name>number</name>`
    pub(super) fn element(&mut self, name: &str, number: impl Into<u64>) {
        self.wrapped(name, |text| text.number(number));
    }

    /// `<name>…</name>`
    pub(super) fn wrapped(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.push("<");
        self.push(name);
        self.push(">");
        content(self);
        self.push("</");
        self.push(name);
        self.push(">");
    }

    /// As inet_ntop(3) writes it.
    pub(super) fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.ipv4(address),
            IpAddr::V6(address) => match address.segments() {
                // inet_ntop takes these for IPv4 in IPv6, and the standard library does not any more.
                [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
                    self.push("::");
                    self.ipv4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
                }
                _ => self.display(address),
            },
        }
    }

    /// With all its digits.
    pub(super) fn full_address(&mut self, address: Ipv6Addr) {
        let mut delimiter = "";
        for segment in address.segments() {
            self.display(format_args!("{delimiter}{segment:04x}"));
            delimiter = ":";
        }
    }

    fn ipv4(&mut self, address: Ipv4Addr) {
        let [a, b, c, d] = address.octets();
        self.number(a);
        for octet in [b, c, d] {
            self.push(".");
            self.number(octet);
        }
    }

    pub(super) fn display(&mut self, value: impl fmt::Display) {
        // Writing into memory cannot fail.
        let _ = write!(self, "{value}");
    }

    /// `name     number `, eight columns for the name.
    pub(super) fn padded(&mut self, name: &str, number: u8) {
        self.push(name);
        for _ in name.len()..8 {
            self.push(" ");
        }
        self.push(" ");
        self.number(number);
        self.push(" ");
    }

    /// In capitals. A number without a name is written as the protocol's first state.
    pub(super) fn state(&mut self, state: ProtoState) {
        for byte in state.name().unwrap_or("none").bytes() {
            self.0.push(byte.to_ascii_uppercase());
        }
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

/// Names that conntrack(8) knows; all others are `unknown` to it.
pub(super) fn protocol_name(number: u8) -> &'static str {
    match Protocol(number) {
        Protocol::TCP
        | Protocol::UDP
        | Protocol::UDPLITE
        | Protocol::ICMP
        | Protocol::ICMPV6
        | Protocol::SCTP
        | Protocol::GRE
        | Protocol::DCCP => Protocol(number).name().unwrap_or("unknown"),
        _ => "unknown",
    }
}

/// `AF_INET` and `AF_INET6` with their names.
pub(super) fn family(address: Option<IpAddr>) -> (&'static str, u8) {
    match address {
        Some(IpAddr::V4(_)) => ("ipv4", 2),
        Some(IpAddr::V6(_)) => ("ipv6", 10),
        None => ("unknown", 0),
    }
}
