//! The protocols that conntrack(8) has options for.

use super::commands::{Command, whole_pair};
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

/// Options of all protocols with ports; those of single protocols follow. The name that messages use
/// comes first.
macro_rules! with_ports {
    ($($more:expr),*) => {
        &[
            option("sport", ProtoOpt::SrcPort),
            option("orig-port-src", ProtoOpt::SrcPort),
            option("dport", ProtoOpt::DstPort),
            option("orig-port-dst", ProtoOpt::DstPort),
            option("reply-port-src", ProtoOpt::ReplySrcPort),
            option("reply-port-dst", ProtoOpt::ReplyDstPort),
            option("mask-port-src", ProtoOpt::MaskSrcPort),
            option("mask-port-dst", ProtoOpt::MaskDstPort),
            option("tuple-port-src", ProtoOpt::TupleSrcPort),
            option("tuple-port-dst", ProtoOpt::TupleDstPort),
            $($more),*
        ]
    };
}

const PORTS: &[Spec] = with_ports!();
const STATE: Spec = option("state", ProtoOpt::State);

/// Those that conntrack(8) knows.
pub(super) static KNOWN: [Known; 8] = [
    Known { name: "tcp", protocol: Protocol::TCP, options: with_ports!(STATE) },
    Known { name: "udp", protocol: Protocol::UDP, options: PORTS },
    Known { name: "udplite", protocol: Protocol::UDPLITE, options: PORTS },
    Known {
        name: "sctp",
        protocol: Protocol::SCTP,
        options: with_ports!(
            STATE,
            option("orig-vtag", ProtoOpt::OrigVtag),
            option("reply-vtag", ProtoOpt::ReplyVtag)
        ),
    },
    Known {
        name: "dccp",
        protocol: Protocol::DCCP,
        options: with_ports!(STATE, option("role", ProtoOpt::Role)),
    },
    Known {
        name: "icmp",
        protocol: Protocol::ICMP,
        options: &[
            option("icmp-type", ProtoOpt::IcmpType),
            option("icmp-code", ProtoOpt::IcmpCode),
            option("icmp-id", ProtoOpt::IcmpId),
        ],
    },
    Known {
        name: "icmpv6",
        protocol: Protocol::ICMPV6,
        options: &[
            option("icmpv6-type", ProtoOpt::IcmpType),
            option("icmpv6-code", ProtoOpt::IcmpCode),
            option("icmpv6-id", ProtoOpt::IcmpId),
        ],
    },
    Known {
        name: "gre",
        protocol: Protocol::GRE,
        options: &[
            option("srckey", ProtoOpt::SrcPort),
            option("orig-key-src", ProtoOpt::SrcPort),
            option("dstkey", ProtoOpt::DstPort),
            option("orig-key-dst", ProtoOpt::DstPort),
            option("reply-key-src", ProtoOpt::ReplySrcPort),
            option("reply-key-dst", ProtoOpt::ReplyDstPort),
            option("mask-key-src", ProtoOpt::MaskSrcPort),
            option("mask-key-dst", ProtoOpt::MaskDstPort),
            option("tuple-key-src", ProtoOpt::TupleSrcPort),
            option("tuple-key-dst", ProtoOpt::TupleDstPort),
        ],
    },
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
        const ORDER: [ProtoOpt; 15] = [
            SrcPort,
            DstPort,
            ReplySrcPort,
            ReplyDstPort,
            MaskSrcPort,
            MaskDstPort,
            State,
            TupleSrcPort,
            TupleDstPort,
            OrigVtag,
            ReplyVtag,
            Role,
            IcmpType,
            IcmpCode,
            IcmpId,
        ];
        for opt in ORDER {
            let Some(name) = self.name_of(opt) else { continue };
            let (required, allowed) = self.takes(command, opt);
            if required && !given.contains(&opt) {
                return Err(Failure::usage(format!(
                    "You need to supply the `--{name}' option for this command"
                )));
            }
            if !required && !allowed && given.contains(&opt) {
                return Err(Failure::usage(format!("Illegal option `--{name}' with this command")));
            }
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
