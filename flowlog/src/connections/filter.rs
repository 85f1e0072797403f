//! Which flows are recorded.
//!
//! What is here says it for a [`Flow`] that was decoded.
//! [`socket_filter`](crate::connections::ctnetlink::socket_filter) says the same to the kernel, which then does not even
//! send what is not wanted. Pure values, no IO.

use std::fmt::{self, Display, Formatter};
use std::iter::once_with;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::flow::{Flow, Protocol};

/// The flows that `only` allows and `except` does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowFilter {
    /// Each of its lists that is not empty has to hold.
    #[serde(skip_serializing_if = "Conditions::is_empty")]
    pub only: Conditions,
    /// None of its lists may hold.
    #[serde(skip_serializing_if = "Conditions::is_empty")]
    pub except: Conditions,
}

/// Lists of what a flow may have. A list holds where one of its members does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// An address of the flow, of either side, before or after NAT, is in this network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpNet>,
    /// Layer 4 protocol.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "protocols")]
    pub protocol: Vec<Protocol>,
    /// Conntrack zone (`CTA_ZONE`); most flows have zone 0, also those that rules give one for a single direction.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zone: Vec<u16>,
    /// Connection mark at the end of the flow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mark: Vec<Mark>,
}

/// A mark of which the bits of the mask count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The bits.
    pub value: u32,
    /// Those that count.
    pub mask: u32,
}

impl FlowFilter {
    /// Whether it looks at marks, which may change as long as a connection lives.
    pub fn has_marks(&self) -> bool {
        !self.only.mark.is_empty() || !self.except.mark.is_empty()
    }

    /// Whether all flows are recorded.
    pub fn is_empty(&self) -> bool {
        let Self { only, except } = self;
        only.is_empty() && except.is_empty()
    }

    /// Whether this flow is recorded.
    pub fn records(&self, flow: &Flow) -> bool {
        let Self { only, except } = self;
        only.hold(flow).all(|holds| holds) && !except.hold(flow).any(|holds| holds)
    }
}

impl Conditions {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        let Self { address, protocol, zone, mark } = self;
        address.is_empty() && protocol.is_empty() && zone.is_empty() && mark.is_empty()
    }

    /// Whether each list that is not empty holds. Looks into the next one only when it is asked for: that of
    /// addresses, which may be long, comes last.
    fn hold<'a>(&'a self, flow: &'a Flow) -> impl Iterator<Item = bool> + 'a {
        let Self { address, protocol, zone, mark } = self;
        let protocol = || any(protocol, |protocol| *protocol == flow.orig.proto);
        let zone = || any(zone, |zone| *zone == flow.zone.unwrap_or(0));
        let mark = || any(mark, |Mark { value, mask }| flow.mark.unwrap_or(0) & mask == *value);
        let address = || any(address, |net| addresses(flow).iter().any(|address| net.contains(address)));
        once_with(protocol).chain(once_with(zone)).chain(once_with(mark)).chain(once_with(address)).flatten()
    }
}

fn addresses(flow: &Flow) -> [IpAddr; 4] {
    [flow.orig.src, flow.orig.dst, flow.reply.src, flow.reply.dst]
}

fn any<T>(list: &[T], holds: impl Fn(&T) -> bool) -> Option<bool> {
    (!list.is_empty()).then(|| list.iter().any(holds))
}

impl Display for Mark {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { value, mask } = self;
        write!(formatter, "{value:#x}/{mask:#x}")
    }
}

impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn protocols<S: Serializer>(protocols: &[Protocol], serializer: S) -> Result<S::Ok, S::Error> {
    let names = protocols.iter().map(|protocol| match protocol.name() {
        Some(name) => name.to_owned(),
        None => protocol.0.to_string(),
    });
    serializer.collect_seq(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{L4, Tuple};

    fn tuple(src: [u8; 4], dst: [u8; 4]) -> Tuple {
        let l4 = L4::Ports { src: 40_000, dst: 443 };
        Tuple { src: src.into(), dst: dst.into(), proto: Protocol::TCP, l4, zone: None }
    }

    /// From 10.1.1.1 to the service 10.9.9.9, which is 192.168.0.7; mark 0x12, zone 3.
    fn flow() -> Flow {
        let (client, service, server) = ([10, 1, 1, 1], [10, 9, 9, 9], [192, 168, 0, 7]);
        let flow = Flow::new(tuple(client, service), tuple(server, client));
        Flow { mark: Some(0x12), zone: Some(3), ..flow }
    }

    fn addresses(networks: &[&str]) -> Conditions {
        let address = networks.iter().map(|network| network.parse().unwrap()).collect();
        Conditions { address, ..Conditions::default() }
    }

    #[test]
    fn members_of_a_list_are_alternatives_and_lists_are_not() {
        let tcp = Conditions { protocol: vec![Protocol::UDP, Protocol::TCP], ..Conditions::default() };
        let udp = Conditions { protocol: vec![Protocol::UDP], ..Conditions::default() };
        let here = Conditions { zone: vec![3], ..tcp.clone() };
        let elsewhere = Conditions { zone: vec![4], ..tcp.clone() };
        for (conditions, only, except) in [
            (Conditions::default(), true, true),
            (tcp, true, false),
            (udp, false, true),
            (here, true, false),
            // One of two holds.
            (elsewhere, false, false),
            (addresses(&["127.0.0.0/8", "10.1.0.0/16"]), true, false),
            // After NAT.
            (addresses(&["192.168.0.7/32"]), true, false),
            (addresses(&["10.2.0.0/16", "::/0"]), false, true),
            (
                Conditions { mark: vec![Mark { value: 0x10, mask: 0xf0 }], ..Conditions::default() },
                true,
                false,
            ),
            (
                Conditions { mark: vec![Mark { value: 0, mask: u32::MAX }], ..Conditions::default() },
                false,
                true,
            ),
        ] {
            let filter = FlowFilter { only: conditions.clone(), except: Conditions::default() };
            assert_eq!(filter.records(&flow()), only, "only {conditions:?}");
            let filter = FlowFilter { only: Conditions::default(), except: conditions };
            assert_eq!(filter.records(&flow()), except, "except {:?}", filter.except);
        }
    }

    #[test]
    fn what_the_kernel_leaves_out_is_zero() {
        let none =
            Conditions { zone: vec![0], mark: vec![Mark { value: 0, mask: 1 }], ..Conditions::default() };
        let filter = FlowFilter { only: none, except: Conditions::default() };
        assert!(filter.records(&Flow { mark: None, zone: None, ..flow() }));
    }

    #[test]
    fn it_is_written_as_it_is_configured() {
        let protocol = vec![Protocol::TCP, Protocol(200)];
        let mark = vec![Mark { value: 0x10, mask: 0xf0 }];
        let except = Conditions { protocol, mark, ..addresses(&["10.0.0.0/8", "::1/128"]) };
        let filter = FlowFilter { only: Conditions::default(), except };
        let expected = concat!(
            r#"{"except":{"address":["10.0.0.0/8","::1/128"],"#,
            r#""protocol":["tcp","200"],"mark":["0x10/0xf0"]}}"#
        );
        assert_eq!(serde_json::to_string(&filter).unwrap(), expected);
    }
}
