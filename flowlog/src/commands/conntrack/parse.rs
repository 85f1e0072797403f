//! The command line, as getopt_long(3) reads it.
//!
//! clap cannot express it: the order of the options counts (`-p tcp` brings the options of TCP with
//! it), a table or an address may follow an option or not, and the first mistake is the one that is
//! told.

use std::ffi::OsString;
use std::net::IpAddr;

use lexopt::Arg;

use super::commands::{Command, NONE, Table};
use super::failure::{Failure, say};
use super::files;
use super::options::{self, Opt, ProtoOpt, Spec, Takes, What};
use super::protocols::Known;
use super::values::{self, EventMask, Format};
use crate::connections::ctnetlink::Entry;
use crate::connections::ctnetlink::sets::{
    DccpInfo, L4Attributes, NatProto, NatRange, ProtoInfo, SctpInfo, TcpInfo, TupleAttributes,
};
use crate::connections::ctnetlink::uapi::{AF_INET, AF_INET6};
use crate::connections::proc_net::{LabelNames, labels};
use crate::flow::Protocol;

/// A command line that was understood.
#[derive(Clone, Debug, Default)]
pub(super) struct Invocation {
    /// None: the help is shown.
    pub(super) command: Option<Command>,
    pub(super) table: Option<Table>,
    pub(super) given: Vec<Opt>,
    /// `AF_INET` or `AF_INET6`, where an option says it.
    pub(super) family: Option<u8>,
    /// What entries are to have: tuples, timeout, zone, state, NAT, secmark, id.
    pub(super) entry: Entry,
    /// The tuple of an expectation.
    pub(super) expected: TupleAttributes,
    /// The masks of the original tuple, or of the tuple of an expectation.
    pub(super) mask: TupleAttributes,
    pub(super) mark: Option<(u32, u32)>,
    pub(super) status: Option<(u32, u32)>,
    pub(super) src_nat: Option<NatEnd>,
    pub(super) dst_nat: Option<NatEnd>,
    pub(super) any_nat: bool,
    pub(super) labels: Option<[u8; 16]>,
    pub(super) change_labels: Option<LabelChange>,
    pub(super) label_names: Option<LabelNames>,
    pub(super) format: Format,
    pub(super) events: Option<EventMask>,
    pub(super) buffer_bytes: Option<usize>,
    pub(super) zero: bool,
    pub(super) known_protocol: Option<&'static Known>,
}

/// Where NAT leads to; without both, that there is NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NatEnd {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
}

/// Labels to add to an entry, or to remove from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelChange {
    Add([u8; 16]),
    Remove([u8; 16]),
    RemoveAll,
}

/// Reads a command line, without the name of the program.
pub(super) fn parse(args: Vec<OsString>) -> Result<Invocation, Failure> {
    let mut line = Line {
        parser: lexopt::Parser::from_args(args),
        invocation: Invocation::default(),
        proto_given: Vec::new(),
    };
    loop {
        let arg = match line.parser.next() {
            Ok(None) => break,
            Ok(Some(arg)) => arg,
            // `--zero=1`
            Err(lexopt::Error::UnexpectedValue { option, value }) => {
                let value = value.to_string_lossy();
                return Err(Failure::usage(format!("unknown option `{option}={value}'")));
            }
            Err(error) => return Err(Failure::usage(error.to_string())),
        };
        let (spec, typed) = match arg {
            Arg::Short(letter) => (options::short(letter), format!("-{letter}")),
            Arg::Long(name) => {
                let more = line.invocation.known_protocol.map_or(&[][..], |known| known.options);
                (options::long(name, more), format!("--{name}"))
            }
            // Left out of account, as getopt_long(3) does.
            Arg::Value(_) => continue,
        };
        let Some(spec) = spec else {
            let typed = match line.parser.optional_value() {
                Some(value) if typed.starts_with("--") => format!("{typed}={}", value.to_string_lossy()),
                _ => typed,
            };
            return Err(Failure::usage(format!("unknown option `{typed}'")));
        };
        line.take(spec, &typed)?;
    }
    line.finish()
}

struct Line {
    parser: lexopt::Parser,
    invocation: Invocation,
    proto_given: Vec<ProtoOpt>,
}

impl Line {
    fn take(&mut self, spec: &Spec, typed: &str) -> Result<(), Failure> {
        let value = match spec.takes {
            Takes::Nothing => None,
            Takes::Value => {
                let missing = |_| Failure::usage(format!("option `{typed}' requires an argument"));
                Some(self.parser.value().map_err(missing)?.to_string_lossy().into_owned())
            }
            Takes::OptionalValue => self.optional_value(),
        };
        let value = value.as_deref();
        match spec.what {
            What::Command(letter) => {
                let table = value.map_or(Ok(Table::Conntrack), Table::parse)?;
                // -S, -V and -h have no value, and may have a table all the same.
                let table = match spec.takes {
                    Takes::Nothing => {
                        self.next_plain().as_deref().map_or(Ok(Table::Conntrack), Table::parse)?
                    }
                    _ => table,
                };
                let command = Command::parse(letter, spec.long, table)?;
                if self.invocation.command.is_some() {
                    return Err(Failure::usage("Invalid commands combination"));
                }
                self.invocation.command = Some(command);
                self.invocation.table = Some(table);
                Ok(())
            }
            What::Opt(opt) => self.option(opt, value),
            What::Protocol(opt) => self.protocol_option(opt, value.unwrap_or_default()),
            What::NatRange => {
                say("WARNING: ignoring -a, deprecated option.");
                Ok(())
            }
        }
    }

    /// A value that was written together with its option, or the next argument if it is none.
    fn optional_value(&mut self) -> Option<String> {
        match self.parser.optional_value() {
            Some(value) => Some(value.to_string_lossy().into_owned()),
            None => self.next_plain(),
        }
    }

    /// The next argument, if it does not look like an option.
    fn next_plain(&mut self) -> Option<String> {
        let mut rest = self.parser.try_raw_args()?;
        let next = rest.peek()?.to_string_lossy().into_owned();
        if next.starts_with(['-', '!']) {
            return None;
        }
        rest.next();
        Some(next)
    }

    fn option(&mut self, opt: Opt, value: Option<&str>) -> Result<(), Failure> {
        let text = value.unwrap_or_default();
        let line = &mut self.invocation;
        line.given.push(opt);
        match opt {
            Opt::Src | Opt::Dst | Opt::TupleSrc | Opt::TupleDst => {
                let (address, mask) = values::network(text)?;
                line.set_family(address)?;
                let tuple = match opt {
                    Opt::Src | Opt::Dst => line.entry.orig.get_or_insert_default(),
                    _ => &mut line.expected,
                };
                let is_src = matches!(opt, Opt::Src | Opt::TupleSrc);
                set_end(tuple, is_src, address);
                // A whole address needs no mask.
                if let Some(mask) = mask.filter(|mask| !is_whole(*mask)) {
                    set_end(&mut line.mask, is_src, mask);
                    line.given.push(if is_src { Opt::MaskSrc } else { Opt::MaskDst });
                }
            }
            Opt::ReplySrc | Opt::ReplyDst => {
                let address = line.plain_address(opt, text)?;
                set_end(line.entry.reply.get_or_insert_default(), opt == Opt::ReplySrc, address);
            }
            Opt::MaskSrc | Opt::MaskDst => {
                let address = line.plain_address(opt, text)?;
                set_end(&mut line.mask, opt == Opt::MaskSrc, address);
            }
            Opt::Proto => {
                let (protocol, known) = protocol(text)?;
                line.known_protocol = known;
                line.orig_proto().number = Some(protocol.0);
            }
            Opt::Timeout => line.entry.timeout_s = Some(values::decimal(text)?),
            Opt::Status => line.status = Some(values::status(text)?),
            Opt::Zero => line.zero = true,
            Opt::EventMask => line.events.get_or_insert_default().parse(text)?,
            Opt::Output => {
                line.format.parse(text)?;
                if line.format.labels {
                    line.read_label_names();
                }
            }
            Opt::Mark => line.mark = Some(values::mark(text)?),
            Opt::Secmark => line.entry.secmark = Some(values::number(text)?),
            Opt::Id => line.entry.id = Some(values::number(text)?),
            Opt::Family => {
                let family = match text {
                    text if text.starts_with("ipv4") => AF_INET,
                    text if text.starts_with("ipv6") => AF_INET6,
                    _ => return Err(Failure::usage(format!("`{text}' unsupported protocol"))),
                };
                line.set_family_number(family)?;
            }
            Opt::SrcNat | Opt::DstNat | Opt::AnyNat => line.nat(opt, value)?,
            Opt::BufferSize => line.buffer_bytes = Some(values::decimal(text)?),
            Opt::Zone => line.entry.zone = Some(values::number(text)?),
            Opt::OrigZone => line.entry.orig.get_or_insert_default().zone = Some(values::number(text)?),
            Opt::ReplyZone => line.entry.reply.get_or_insert_default().zone = Some(values::number(text)?),
            Opt::Label | Opt::LabelAdd | Opt::LabelDel => line.labels(opt, value)?,
        }
        Ok(())
    }

    fn protocol_option(&mut self, opt: ProtoOpt, text: &str) -> Result<(), Failure> {
        self.proto_given.push(opt);
        let line = &mut self.invocation;
        let Some(Known { protocol, .. }) = line.known_protocol else { return Ok(()) };
        let number = Some(protocol.0);
        let port = || match *protocol {
            Protocol::GRE => values::number(text),
            _ => values::decimal(text),
        };
        let tuple = match opt {
            ProtoOpt::ReplySrcPort | ProtoOpt::ReplyDstPort => line.entry.reply.get_or_insert_default(),
            ProtoOpt::MaskSrcPort | ProtoOpt::MaskDstPort => &mut line.mask,
            ProtoOpt::TupleSrcPort | ProtoOpt::TupleDstPort => &mut line.expected,
            _ => line.entry.orig.get_or_insert_default(),
        };
        let proto = tuple.proto.get_or_insert_default();
        proto.number = number;
        let info = &mut line.entry.proto_info;
        match opt {
            ProtoOpt::SrcPort | ProtoOpt::ReplySrcPort | ProtoOpt::MaskSrcPort | ProtoOpt::TupleSrcPort => {
                proto.src_port = Some(port()?);
            }
            ProtoOpt::DstPort | ProtoOpt::ReplyDstPort | ProtoOpt::MaskDstPort | ProtoOpt::TupleDstPort => {
                proto.dst_port = Some(port()?);
            }
            ProtoOpt::State => {
                let state = Some(values::state(*protocol, text)?);
                let info = info.get_or_insert_default();
                match *protocol {
                    Protocol::SCTP => sctp(info).state = state,
                    Protocol::DCCP => dccp(info).state = state,
                    _ => info.tcp = Some(TcpInfo { state, ..TcpInfo::default() }),
                }
            }
            ProtoOpt::OrigVtag => {
                sctp(info.get_or_insert_default()).orig_vtag = Some(values::decimal(text)?);
            }
            ProtoOpt::ReplyVtag => {
                sctp(info.get_or_insert_default()).reply_vtag = Some(values::decimal(text)?);
            }
            ProtoOpt::Role => {
                let role = match text {
                    "client" => 0,
                    "server" => 1,
                    _ => return Err(Failure::usage(format!("Unknown DCCP role `{text}'"))),
                };
                dccp(info.get_or_insert_default()).role = Some(role);
            }
            ProtoOpt::IcmpType if *protocol == Protocol::ICMP => {
                proto.icmp_type = Some(values::decimal(text)?);
            }
            ProtoOpt::IcmpCode if *protocol == Protocol::ICMP => {
                proto.icmp_code = Some(values::decimal(text)?);
            }
            ProtoOpt::IcmpId if *protocol == Protocol::ICMP => proto.icmp_id = Some(values::decimal(text)?),
            ProtoOpt::IcmpType => proto.icmpv6_type = Some(values::decimal(text)?),
            ProtoOpt::IcmpCode => proto.icmpv6_code = Some(values::decimal(text)?),
            ProtoOpt::IcmpId => proto.icmpv6_id = Some(values::decimal(text)?),
        }
        Ok(())
    }

    /// Checks what belongs together.
    fn finish(self) -> Result<Invocation, Failure> {
        let Self { invocation: line, proto_given, .. } = self;
        let has = |opt| line.given.contains(&opt);
        if has(Opt::AnyNat) && (has(Opt::SrcNat) || has(Opt::DstNat)) {
            return Err(Failure::usage("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'"));
        }
        line.command.map_or(NONE, Command::rules).check(&line.given)?;
        if let (Some(known), Some(command)) = (line.known_protocol, line.command)
            && command != Command::Help
        {
            known.check(command, &proto_given)?;
        }
        Ok(line)
    }
}

impl Invocation {
    pub(super) fn orig_proto(&mut self) -> &mut L4Attributes {
        self.entry.orig.get_or_insert_default().proto.get_or_insert_default()
    }

    /// Whether an option is there.
    pub(super) fn has(&self, opt: Opt) -> bool {
        self.given.contains(&opt)
    }

    fn set_family(&mut self, address: IpAddr) -> Result<(), Failure> {
        self.set_family_number(if address.is_ipv4() { AF_INET } else { AF_INET6 })
    }

    fn set_family_number(&mut self, family: u8) -> Result<(), Failure> {
        match self.family {
            Some(other) if other != family => Err(Failure::usage("mismatched address family")),
            _ => {
                self.family = Some(family);
                Ok(())
            }
        }
    }

    fn plain_address(&mut self, opt: Opt, text: &str) -> Result<IpAddr, Failure> {
        let (address, mask) = values::network(text)?;
        self.set_family(address)?;
        match mask {
            Some(_) => Err(Failure::usage(format!("CIDR notation unavailable for `--{}'", opt.name()))),
            None => Ok(address),
        }
    }

    fn nat(&mut self, opt: Opt, value: Option<&str>) -> Result<(), Failure> {
        let mut end = NatEnd::default();
        if let Some(text) = value {
            let (address, port) = values::address_and_port(text)?;
            end.address = address.map(|address| self.plain_address(opt, address)).transpose()?;
            end.port = port;
        }
        self.any_nat |= opt == Opt::AnyNat;
        let range = (end != NatEnd::default()).then(|| range(end));
        if opt != Opt::DstNat {
            self.src_nat = Some(end);
            self.entry.nat_src.clone_from(&range);
        }
        if opt != Opt::SrcNat {
            self.dst_nat = Some(end);
            self.entry.nat_dst = range;
        }
        Ok(())
    }

    fn labels(&mut self, opt: Opt, value: Option<&str>) -> Result<(), Failure> {
        self.read_label_names();
        if self.has(Opt::LabelAdd) && self.has(Opt::LabelDel) {
            return Err(Failure::failed("cannot use --label-add and --label-del at the same time"));
        }
        let Some(text) = value else {
            self.change_labels = Some(LabelChange::RemoveAll);
            return Ok(());
        };
        let mut bits = match (opt, self.change_labels) {
            (Opt::Label, _) => self.labels.unwrap_or_default(),
            (_, Some(LabelChange::Add(bits) | LabelChange::Remove(bits))) => bits,
            _ => [0; 16],
        };
        for name in text.split(',') {
            let bit = self.label_names.as_ref().and_then(|names| names.bit(name));
            let bit = bit.ok_or_else(|| Failure::usage(format!("unknown label '{name}'")))?;
            labels::set(&mut bits, bit);
        }
        match opt {
            Opt::Label => self.labels = Some(bits),
            Opt::LabelAdd => self.change_labels = Some(LabelChange::Add(bits)),
            _ => self.change_labels = Some(LabelChange::Remove(bits)),
        }
        Ok(())
    }

    /// Reads the names of labels, once. Without them, labels have no names.
    fn read_label_names(&mut self) {
        if self.label_names.is_none() {
            self.label_names = Some(files::label_names());
        }
    }
}

fn set_end(tuple: &mut TupleAttributes, is_src: bool, address: IpAddr) {
    if is_src { tuple.set_src(address) } else { tuple.set_dst(address) }
}

fn is_whole(mask: IpAddr) -> bool {
    match mask {
        IpAddr::V4(mask) => mask.to_bits() == u32::MAX,
        IpAddr::V6(mask) => mask.to_bits() == u128::MAX,
    }
}

fn range(end: NatEnd) -> NatRange {
    let mut range = NatRange::default();
    match end.address {
        Some(IpAddr::V4(address)) => range.v4_min = Some(address),
        Some(IpAddr::V6(address)) => range.v6_min = Some(address),
        None => {}
    }
    if let Some(port) = end.port {
        let ports = NatProto { port_min: Some(port), port_max: Some(port), ..NatProto::default() };
        range.proto = Some(ports);
    }
    range
}

fn sctp(info: &mut ProtoInfo) -> &mut SctpInfo {
    info.sctp.get_or_insert_default()
}

fn dccp(info: &mut ProtoInfo) -> &mut DccpInfo {
    info.dccp.get_or_insert_default()
}

/// A protocol by its name or number.
fn protocol(text: &str) -> Result<(Protocol, Option<&'static Known>), Failure> {
    let known = |protocol| (protocol, Known::by_number(protocol));
    if let Some(found) = Known::by_name(text) {
        return Ok((found.protocol, Some(found)));
    }
    if let Some(number) = files::protocol_number(text) {
        // Without its options, as it was not named as conntrack(8) names it.
        return Ok((Protocol(number), None));
    }
    let unsupported = |_| Failure::usage(format!("`{text}' unsupported protocol"));
    values::number::<u8>(text).map(|number| known(Protocol(number))).map_err(unsupported)
}
