//! The protocols that conntrack(8) has options for.

use super::commands::{Command, check_option, whole_pair};
use super::failure::Failure;
use super::options::{ProtoOpt, Spec, Takes, What};
use crate::flow::Protocol;

/// A protocol with options.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) protocol: Protocol,
    /// Its options.
    pub(super) options: &'static [Spec],
}

const fn option(long: &'static str, opt: ProtoOpt) -> Spec {
    Spec { long, short: None, takes: Takes::Value, what: What::Protocol(opt) }
}

/// Options of the keys of both ends, with their words; those of single protocols follow. The name that messages use
/// comes first.
macro_rules! with_ends {
    ($src:literal, $dst:literal, $key:literal $(, $more:expr)*) => {
        &[
            option($src, ProtoOpt::SrcPort),
            option(concat!("orig-", $key, "-src"), ProtoOpt::SrcPort),
            option($dst, ProtoOpt::DstPort),
            option(concat!("orig-", $key, "-dst"), ProtoOpt::DstPort),
            option(concat!("reply-", $key, "-src"), ProtoOpt::ReplySrcPort),
            option(concat!("reply-", $key, "-dst"), ProtoOpt::ReplyDstPort),
            option(concat!("mask-", $key, "-src"), ProtoOpt::MaskSrcPort),
            option(concat!("mask-", $key, "-dst"), ProtoOpt::MaskDstPort),
            option(concat!("tuple-", $key, "-src"), ProtoOpt::TupleSrcPort),
            option(concat!("tuple-", $key, "-dst"), ProtoOpt::TupleDstPort),
            $($more),*
        ]
    };
}

/// Options of all protocols with ports, and those of one.
macro_rules! with_ports {
    ($($more:expr),*) => { with_ends!("sport", "dport", "port" $(, $more)*) };
}

/// Options of ICMP or ICMPv6.
macro_rules! with_type {
    ($name:literal) => {
        &[
            option(concat!($name, "-type"), ProtoOpt::IcmpType),
            option(concat!($name, "-code"), ProtoOpt::IcmpCode),
            option(concat!($name, "-id"), ProtoOpt::IcmpId),
        ]
    };
}

const PORTS: &[Spec] = with_ports!();
const STATE: Spec = option("state", ProtoOpt::State);
const ORIG_VTAG: Spec = option("orig-vtag", ProtoOpt::OrigVtag);
const REPLY_VTAG: Spec = option("reply-vtag", ProtoOpt::ReplyVtag);
const ROLE: Spec = option("role", ProtoOpt::Role);

/// Those that conntrack(8) knows.
pub(super) static KNOWN: [Known; 8] = [
    Known { name: "tcp", protocol: Protocol::TCP, options: with_ports!(STATE) },
    Known { name: "udp", protocol: Protocol::UDP, options: PORTS },
    Known { name: "udplite", protocol: Protocol::UDPLITE, options: PORTS },
    Known { name: "sctp", protocol: Protocol::SCTP, options: with_ports!(STATE, ORIG_VTAG, REPLY_VTAG) },
    Known { name: "dccp", protocol: Protocol::DCCP, options: with_ports!(STATE, ROLE) },
    Known { name: "icmp", protocol: Protocol::ICMP, options: with_type!("icmp") },
    Known { name: "icmpv6", protocol: Protocol::ICMPV6, options: with_type!("icmpv6") },
    Known { name: "gre", protocol: Protocol::GRE, options: with_ends!("srckey", "dstkey", "key") },
];

impl Known {
    /// By its name, in any case.
    pub(super) fn by_name(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name))
    }

    /// By its number.
    pub(super) fn by_number(protocol: Protocol) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.protocol == protocol)
    }

    /// The name of one of its options.
    pub(super) fn name_of(&self, opt: ProtoOpt) -> Option<&'static str> {
        self.options.iter().find(|spec| spec.what == What::Protocol(opt)).map(|spec| spec.long)
    }

    fn is_icmp(&self) -> bool {
        matches!(self.protocol, Protocol::ICMP | Protocol::ICMPV6)
    }

    /// Holds its options that were given against what a command takes.
    pub(super) fn check(&self, command: Command, given: &[ProtoOpt]) -> Result<(), Failure> {
        use ProtoOpt::*;
        for &opt in ProtoOpt::ALL {
            let Some(name) = self.name_of(opt) else { continue };
            let (required, allowed) = self.takes(command, opt);
            check_option(name, required, required || allowed, given.contains(&opt))?;
        }
        if matches!(command, Command::Create | Command::Add | Command::Get) && !self.is_icmp() {
            let names = match self.protocol {
                Protocol::GRE => ["`--srckey' and `--dstkey'", "`--reply-src-key' and `--reply-dst-key'"],
                _ => ["`--sport' and `--dport'", "`--reply-src-port' and `--reply-dst-port'"],
            };
            whole_pair(given, [(SrcPort, DstPort), (ReplySrcPort, ReplyDstPort)], names)?;
        }
        Ok(())
    }

    /// Whether a command needs an option, and whether it takes it.
    fn takes(&self, command: Command, opt: ProtoOpt) -> (bool, bool) {
        use ProtoOpt::*;
        let sctp = self.protocol == Protocol::SCTP;
        match command {
            Command::List | Command::Delete | Command::Event => {
                let filter =
                    [SrcPort, DstPort, ReplySrcPort, ReplyDstPort, State, IcmpType, IcmpCode, IcmpId];
                (false, filter.contains(&opt))
            }
            Command::Update => {
                let vtag = matches!(opt, OrigVtag | ReplyVtag);
                (false, vtag || self.takes(Command::List, opt).1)
            }
            Command::Create | Command::Add => {
                let required = matches!(opt, State | OrigVtag | ReplyVtag | Role | IcmpType | IcmpCode);
                let allowed = matches!(opt, SrcPort | DstPort | ReplySrcPort | ReplyDstPort | IcmpId);
                (required, allowed)
            }
            Command::Get => {
                let vtag = sctp && matches!(opt, OrigVtag | ReplyVtag);
                let required = matches!(opt, IcmpType | IcmpCode);
                (required, vtag || self.takes(Command::List, opt).1)
            }
            Command::ExpCreate => {
                let orig_or_tuple = matches!(
                    opt,
                    SrcPort | DstPort | MaskSrcPort | MaskDstPort | TupleSrcPort | TupleDstPort
                );
                let of_sctp_and_dccp = matches!(opt, OrigVtag | ReplyVtag | Role);
                let of_gre = self.protocol == Protocol::GRE && matches!(opt, ReplySrcPort | ReplyDstPort);
                (orig_or_tuple || of_sctp_and_dccp || of_gre, false)
            }
            Command::ExpDelete | Command::ExpGet => {
                (matches!(opt, SrcPort | DstPort | ReplySrcPort | ReplyDstPort), false)
            }
            _ => (false, false),
        }
    }
}
