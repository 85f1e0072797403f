//! Entries as command lines that make, change or remove them: `-o save`, read by `-R`.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::matching::Nat;
use super::options::ProtoOpt;
use super::protocols::Known;
use crate::connections::ctnetlink::Entry;
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::ctnetlink::sets::TupleAttributes;
use crate::flow::Status;

/// Appends an entry, without the end of the line.
pub(super) fn entry(out: &mut Vec<u8>, entry: &Entry, event: EventKind) {
    let mut line = Line(String::new());
    line.words(match event {
        EventKind::New => "-A",
        EventKind::Update => "-U",
        EventKind::Destroy => "-D",
        EventKind::Other => "",
    });
    line.number("-t", entry.timeout_s);
    if let Some(status) = entry.status.map(Status) {
        let names = [
            (Status::EXPECTED, "EXPECTED"),
            (Status::SEEN_REPLY, "SEEN_REPLY"),
            (Status::ASSURED, "ASSURED"),
            (Status::FIXED_TIMEOUT, "FIXED_TIMEOUT"),
        ];
        let set: Vec<_> =
            names.iter().filter(|(bit, _)| status.contains(*bit)).map(|(_, name)| *name).collect();
        line.option("-u", if set.is_empty() { "UNSET".to_owned() } else { set.join(",") });
    }
    line.number("-w", entry.zone);
    let (orig, reply) = (entry.orig.as_ref(), entry.reply.as_ref());
    line.number("--orig-zone", orig.and_then(|tuple| tuple.zone));
    line.number("--reply-zone", reply.and_then(|tuple| tuple.zone));
    let address =
        |tuple: Option<&TupleAttributes>, of: fn(&TupleAttributes) -> Option<IpAddr>| tuple.and_then(of);
    let (src_nat, dst_nat) = (Nat::of(entry, true), Nat::of(entry, false));
    line.number("-s", address(orig, TupleAttributes::src));
    line.number("-d", address(orig, TupleAttributes::dst));
    let (r, q) = (
        if dst_nat.address.is_some() { "-g" } else { "-r" },
        if src_nat.address.is_some() { "-n" } else { "-q" },
    );
    line.number(r, address(reply, TupleAttributes::src));
    line.number(q, address(reply, TupleAttributes::dst));
    protocol(&mut line, entry);
    out.extend_from_slice(line.0.trim_end().as_bytes());
}

fn protocol(line: &mut Line, entry: &Entry) {
    let Some(protocol) = entry.protocol() else { return };
    let Some(known) = Known::by_number(protocol) else { return line.option("-p", protocol.0) };
    line.option("-p", known.name);
    let proto = |tuple: &Option<TupleAttributes>| tuple.as_ref().and_then(|tuple| tuple.proto.clone());
    let (orig, reply) = (proto(&entry.orig).unwrap_or_default(), proto(&entry.reply).unwrap_or_default());
    let mut option = |opt, value: Option<u32>| {
        if let (Some(name), Some(value)) = (known.name_of(opt), value) {
            line.option(&format!("--{name}"), value);
        }
    };
    option(ProtoOpt::SrcPort, orig.src_port.map(u32::from));
    option(ProtoOpt::DstPort, orig.dst_port.map(u32::from));
    option(ProtoOpt::ReplySrcPort, reply.src_port.map(u32::from));
    option(ProtoOpt::ReplyDstPort, reply.dst_port.map(u32::from));
    let (icmp_type, code, id) = orig.icmp();
    option(ProtoOpt::IcmpType, icmp_type.map(u32::from));
    option(ProtoOpt::IcmpCode, code.map(u32::from));
    option(ProtoOpt::IcmpId, id.map(u32::from));
    if let Some(state) = entry.state() {
        line.option("--state", state.name().unwrap_or("none").to_uppercase());
    }
    if let Some(info) = entry.proto_info.as_ref().and_then(|info| info.sctp.as_ref()) {
        line.number("--orig-vtag", info.orig_vtag);
        line.number("--reply-vtag", info.reply_vtag);
    }
    if let Some(role) = entry.proto_info.as_ref().and_then(|info| info.dccp.as_ref()?.role) {
        line.option("--role", if role == 0 { "client" } else { "server" });
    }
}

/// Words with a space behind each.
struct Line(String);

impl Line {
    fn words(&mut self, words: &str) {
        if !words.is_empty() {
            self.0.push_str(words);
            self.0.push(' ');
        }
    }

    fn option(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing into memory cannot fail.
        let _ = write!(self.0, "{name} {value} ");
    }

    fn number(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.option(name, value);
        }
    }
}
