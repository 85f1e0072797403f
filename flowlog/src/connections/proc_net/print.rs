//! Entries and expectations as lines, in the format of `/proc/net/nf_conntrack` and of conntrack(8).

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use super::labels::LabelNames;
use super::text::{Text, family, protocol_name};
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::ctnetlink::sets::{
    CounterAttributes, ExpectationFlags, L4Attributes, TupleAttributes,
};
use crate::connections::ctnetlink::{Entry, Expectation};
use crate::flow::{Protocol, Status};
use crate::time::NS_PER_S;

/// What a line says besides the entry itself.
#[derive(Clone, Debug)]
pub struct Style<'a> {
    /// The address family.
    pub layer3: bool,
    /// As the kernel writes `/proc/net/nf_conntrack`: IPv6 addresses in full, and a protocol that it does not track
    /// as `unknown`, without ports. conntrack(8) has its own list of protocols, and makes the ports 0.
    pub of_kernel: bool,
    /// Timeouts of GRE without and with replies in seconds, which the kernel tells in
    /// `/proc/net/nf_conntrack` only.
    pub gre_timeouts_s: Option<(u32, u32)>,
    /// The kernel's number of the entry.
    pub id: bool,
    /// When it began and ended.
    pub timestamps: bool,
    /// Names of its labels.
    pub labels: Option<&'a LabelNames>,
    /// When the line is printed, in XML.
    pub when: bool,
    /// Seconds since 1970: the age of an entry that has not ended.
    pub now_s: u64,
    /// The zone of the times.
    pub time_zone: &'a TimeZone,
}

/// Appends an entry, without the end of the line; [`EventKind::Other`] is none.
pub fn entry(out: &mut Vec<u8>, entry: &Entry, event: EventKind, style: &Style<'_>) {
    let text = &mut Text(out);
    event_name(text, event);
    if style.layer3 {
        let (name, number) = family(entry.orig.as_ref().and_then(TupleAttributes::src));
        text.padded(name, number);
    }
    let protocol = entry.protocol().map_or(0, |protocol| protocol.0);
    let tuples = [&entry.orig, &entry.reply];
    let is_generic = style.of_kernel && tuples.into_iter().flatten().all(is_generic);
    text.padded(if is_generic { "unknown" } else { protocol_name(protocol) }, protocol);
    if let Some(timeout_s) = entry.timeout_s {
        text.number(timeout_s);
        text.push(" ");
    }
    if let Some((timeout_s, stream_timeout_s)) = style.gre_timeouts_s.filter(|_| protocol == Protocol::GRE.0)
    {
        text.display(format_args!("timeout={timeout_s}, stream_timeout={stream_timeout_s} "));
    }
    if let Some(state) = entry.state() {
        text.state(state);
        text.push(" ");
    }
    let status = entry.status.map(Status);
    direction(text, &entry.orig, "zone-orig", &entry.orig_counters, is_generic, style);
    if status.is_some_and(|status| !status.contains(Status::SEEN_REPLY)) {
        text.push("[UNREPLIED] ");
    }
    direction(text, &entry.reply, "zone-reply", &entry.reply_counters, is_generic, style);
    let is = |bit| status.is_some_and(|status| status.contains(bit));
    if is(Status::HW_OFFLOAD) {
        text.push("[HW_OFFLOAD] ");
    } else if is(Status::OFFLOAD) {
        text.push("[OFFLOAD] ");
    } else if is(Status::ASSURED) {
        text.push("[ASSURED] ");
    }
    if let Some(mark) = entry.mark {
        text.field("mark", mark);
    }
    if let Some(secmark) = entry.secmark {
        text.field("secmark", secmark);
    }
    if let Some(name) = entry.security_context.as_ref().and_then(|context| context.name.as_ref()) {
        text.push("secctx=");
        text.bytes(&name.0);
        text.push(" ");
    }
    if let Some(zone) = entry.zone {
        text.field("zone", zone);
    }
    times(text, entry, style);
    if let Some(name) = entry.helper.as_ref().and_then(|helper| helper.name.as_ref()) {
        text.push("helper=");
        text.bytes(&name.0);
        text.push(" ");
    }
    if let Some(use_count) = entry.use_count {
        text.field("use", use_count);
    }
    if let Some(id) = entry.id.filter(|_| style.id) {
        text.field("id", id);
    }
    if let (Some(names), Some(labels)) = (style.labels, &entry.labels) {
        let mut names = names.of(labels).peekable();
        if names.peek().is_some() {
            text.push("labels=");
        } else if *labels != [0; 16] {
            // As conntrack(8) says that none of them has a name.
            text.push("labels ");
        }
        while let Some(name) = names.next() {
            text.push(name);
            text.push(if names.peek().is_some() { "," } else { " " });
        }
    }
    // Each field ends with a space, the line does not.
    out.pop();
}

/// Appends an expectation, without the end of the line.
pub fn expectation(out: &mut Vec<u8>, expectation: &Expectation, event: EventKind) {
    let text = &mut Text(out);
    event_name(text, event);
    if let Some(timeout_s) = expectation.timeout_s {
        text.number(timeout_s);
        text.push(" ");
    }
    let protocol = expectation.tuple.as_ref().and_then(|tuple| tuple.proto.as_ref()?.number);
    text.field("proto", protocol.unwrap_or(0));
    for (tuple, prefix) in
        [(&expectation.tuple, ""), (&expectation.mask, "mask-"), (&expectation.master, "master-")]
    {
        if let Some(tuple) = tuple {
            addresses(text, tuple, prefix, false);
            keys(text, tuple);
        }
    }
    if let Some(zone) = expectation.zone {
        text.field("zone", zone);
    }
    let flags = ExpectationFlags(expectation.flags.unwrap_or(0));
    let mut delimiter = "";
    for (flag, name) in [
        (ExpectationFlags::PERMANENT, "PERMANENT"),
        (ExpectationFlags::INACTIVE, "INACTIVE"),
        (ExpectationFlags::USERSPACE, "USERSPACE"),
    ] {
        if flags.contains(flag) {
            text.push(delimiter);
            text.push(name);
            delimiter = ",";
        }
    }
    if flags.0 != 0 {
        text.push(" ");
    }
    if let Some(class) = expectation.class {
        text.field("class", class);
    }
    match &expectation.helper {
        Some(name) => {
            text.push("helper=");
            text.bytes(&name.0);
        }
        None => {
            out.pop();
        }
    }
}

fn event_name(text: &mut Text<'_>, event: EventKind) {
    text.push(match event {
        EventKind::New => "    [NEW] ",
        EventKind::Update => " [UPDATE] ",
        EventKind::Destroy => "[DESTROY] ",
        EventKind::Other => "",
    });
}

fn direction(
    text: &mut Text<'_>,
    tuple: &Option<TupleAttributes>,
    zone_name: &str,
    counters: &Option<CounterAttributes>,
    is_generic: bool,
    style: &Style<'_>,
) {
    if let Some(tuple) = tuple {
        addresses(text, tuple, "", style.of_kernel);
        if !is_generic {
            keys(text, tuple);
        }
        if let Some(zone) = tuple.zone {
            text.field(zone_name, zone);
        }
    }
    if let Some((packets, bytes)) =
        counters.as_ref().and_then(|counters| counters.packets.zip(counters.bytes))
    {
        text.field("packets", packets);
        text.field("bytes", bytes);
    }
}

fn addresses(text: &mut Text<'_>, tuple: &TupleAttributes, prefix: &str, is_full: bool) {
    for (name, address) in [("src=", tuple.src()), ("dst=", tuple.dst())] {
        if let Some(address) = address {
            text.push(prefix);
            text.push(name);
            match address {
                IpAddr::V6(address) if is_full => text.full_address(address),
                _ => text.address(address),
            }
            text.push(" ");
        }
    }
}

/// Whether the tuple has no more than the number of its protocol.
fn is_generic(tuple: &TupleAttributes) -> bool {
    let Some(proto) = &tuple.proto else { return true };
    *proto == L4Attributes { number: proto.number, ..L4Attributes::default() }
}

fn keys(text: &mut Text<'_>, tuple: &TupleAttributes) {
    let Some(proto) = &tuple.proto else { return };
    let (src, dst) = (proto.src_port.unwrap_or(0), proto.dst_port.unwrap_or(0));
    match Protocol(proto.number.unwrap_or(0)) {
        Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP | Protocol::DCCP => {
            text.field("sport", src);
            text.field("dport", dst);
        }
        Protocol::GRE => text.display(format_args!("srckey=0x{src:x} dstkey=0x{dst:x} ")),
        Protocol::ICMP | Protocol::ICMPV6 => {
            let (icmp_type, code, id) = proto.icmp();
            text.field("type", icmp_type.unwrap_or(0));
            text.field("code", code.unwrap_or(0));
            text.field("id", id.unwrap_or(0));
        }
        _ => {}
    }
}

fn times(text: &mut Text<'_>, entry: &Entry, style: &Style<'_>) {
    let Some(times) = &entry.timestamps else { return };
    if let Some(start_ns) = times.start_ns {
        let end_s = times.stop_ns.map_or(style.now_s, |stop_ns| stop_ns / NS_PER_S);
        text.field("delta-time", end_s.saturating_sub(start_ns / NS_PER_S));
    }
    if style.timestamps {
        for (name, time_ns) in [("[start=", times.start_ns), ("[stop=", times.stop_ns)] {
            if let Some(time_ns) = time_ns {
                text.push(name);
                date(text, time_ns / NS_PER_S, style.time_zone);
                text.push("] ");
            }
        }
    }
}

/// As ctime(3) writes it. A time that no calendar has is left out.
fn date(text: &mut Text<'_>, time_s: u64, zone: &TimeZone) {
    let time = i64::try_from(time_s).ok().and_then(|time_s| Timestamp::from_second(time_s).ok());
    if let Some(time) = time
        && let Ok(date) = strtime::format("%a %b %e %H:%M:%S %Y", &time.to_zoned(zone.clone()))
    {
        text.push(&date);
    }
}
