//! Entries and expectations as XML elements, as conntrack(8) writes them.

use std::net::IpAddr;

use jiff::Timestamp;

use super::print::Style;
use super::text::{Text, family, protocol_name};
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::ctnetlink::sets::{CounterAttributes, ExpectationFlags, Name, TupleAttributes};
use crate::connections::ctnetlink::{Entry, Expectation};
use crate::flow::{Protocol, Status};
use crate::time::NS_PER_S;

/// Appends the element `flow` of an entry; [`EventKind::Other`] is none.
pub fn entry(out: &mut Vec<u8>, entry: &Entry, event: EventKind, style: &Style<'_>) {
    let text = &mut Text(out);
    open(text, event);
    direction(text, "original", &entry.orig, &entry.orig_counters);
    direction(text, "reply", &entry.reply, &entry.reply_counters);
    // What the kernel says of an entry always has some of this.
    text.push("<meta direction=\"independent\">");
    if let Some(state) = entry.state() {
        text.wrapped("state", |text| text.state(state));
    }
    if let Some(timeout_s) = entry.timeout_s {
        text.element("timeout", timeout_s);
    }
    if let Some(mark) = entry.mark {
        text.element("mark", mark);
    }
    if let (Some(names), Some(labels)) = (style.labels, &entry.labels) {
        let mut names = names.of(labels).peekable();
        if names.peek().is_some() {
            text.wrapped("labels", |text| {
                names.for_each(|name| text.wrapped("label", |text| text.push(name)));
            });
        }
    }
    if let Some(secmark) = entry.secmark {
        text.element("secmark", secmark);
    }
    named(text, "secctx", entry.security_context.as_ref().and_then(|context| context.name.as_ref()));
    if let Some(zone) = entry.zone {
        text.element("zone", zone);
    }
    if let Some(use_count) = entry.use_count {
        text.element("use", use_count);
    }
    if let Some(id) = entry.id {
        text.element("id", id);
    }
    if let Some(status) = entry.status.map(Status) {
        if status.contains(Status::ASSURED) {
            text.push("<assured/>");
        }
        if !status.contains(Status::SEEN_REPLY) {
            text.push("<unreplied/>");
        }
    }
    times(text, entry, style);
    text.push("</meta>");
    when(text, style);
    named(text, "helper", entry.helper.as_ref().and_then(|helper| helper.name.as_ref()));
    text.push("</flow>");
}

/// Appends the element `flow` of an expectation.
pub fn expectation(out: &mut Vec<u8>, expectation: &Expectation, event: EventKind, style: &Style<'_>) {
    let text = &mut Text(out);
    let tuples =
        [("expected", &expectation.tuple), ("mask", &expectation.mask), ("master", &expectation.master)];
    open(text, event);
    layer3(text, &expectation.tuple);
    for (name, tuple) in tuples {
        text.wrapped(name, |text| addresses(text, tuple));
    }
    text.push("</layer3>");
    layer4(text, &expectation.tuple);
    for (name, tuple) in tuples {
        text.wrapped(name, |text| keys(text, tuple));
    }
    text.push("</layer4>");
    text.wrapped("meta", |text| {
        named(text, "helper-name", expectation.helper.as_ref());
        if let Some(timeout_s) = expectation.timeout_s {
            text.element("timeout", timeout_s);
        }
        if let Some(class) = expectation.class {
            text.element("class", class);
        }
        if let Some(zone) = expectation.zone {
            text.element("zone", zone);
        }
        when(text, style);
        let flags = ExpectationFlags(expectation.flags.unwrap_or(0));
        for (flag, element) in [
            (ExpectationFlags::PERMANENT, "<permanent/>"),
            (ExpectationFlags::INACTIVE, "<inactive/>"),
            (ExpectationFlags::USERSPACE, "<userspace/>"),
        ] {
            if flags.contains(flag) {
                text.push(element);
            }
        }
    });
    text.push("</flow>");
}

fn open(text: &mut Text<'_>, event: EventKind) {
    text.push(match event {
        EventKind::New => "<flow type=\"new\">",
        EventKind::Update => "<flow type=\"update\">",
        EventKind::Destroy => "<flow type=\"destroy\">",
        EventKind::Other => "<flow>",
    });
}

fn direction(
    text: &mut Text<'_>,
    name: &str,
    tuple: &Option<TupleAttributes>,
    counters: &Option<CounterAttributes>,
) {
    text.push("<meta direction=\"");
    text.push(name);
    text.push("\">");
    layer3(text, tuple);
    addresses(text, tuple);
    text.push("</layer3>");
    layer4(text, tuple);
    keys(text, tuple);
    text.push("</layer4>");
    if let Some(zone) = tuple.as_ref().and_then(|tuple| tuple.zone) {
        text.element("zone", zone);
    }
    if let Some((packets, bytes)) =
        counters.as_ref().and_then(|counters| counters.packets.zip(counters.bytes))
    {
        text.wrapped("counters", |text| {
            text.element("packets", packets);
            text.element("bytes", bytes);
        });
    }
    text.push("</meta>");
}

fn layer3(text: &mut Text<'_>, tuple: &Option<TupleAttributes>) {
    let (name, number) = family(tuple.as_ref().and_then(TupleAttributes::src));
    layer(text, "<layer3 protonum=\"", number, name);
}

fn layer4(text: &mut Text<'_>, tuple: &Option<TupleAttributes>) {
    let number = tuple.as_ref().and_then(|tuple| tuple.proto.as_ref()?.number).unwrap_or(0);
    layer(text, "<layer4 protonum=\"", number, protocol_name(number));
}

fn layer(text: &mut Text<'_>, start: &str, number: u8, name: &str) {
    text.push(start);
    text.number(number);
    text.push("\" protoname=\"");
    text.push(name);
    text.push("\">");
}

fn addresses(text: &mut Text<'_>, tuple: &Option<TupleAttributes>) {
    let of = |address: fn(&TupleAttributes) -> Option<IpAddr>| tuple.as_ref().and_then(address);
    for (name, address) in [("src", of(TupleAttributes::src)), ("dst", of(TupleAttributes::dst))] {
        text.wrapped(name, |text| {
            if let Some(address) = address {
                text.address(address);
            }
        });
    }
}

fn keys(text: &mut Text<'_>, tuple: &Option<TupleAttributes>) {
    let Some(proto) = tuple.as_ref().and_then(|tuple| tuple.proto.as_ref()) else { return };
    let (src, dst) = (proto.src_port.unwrap_or(0), proto.dst_port.unwrap_or(0));
    match Protocol(proto.number.unwrap_or(0)) {
        Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP | Protocol::DCCP => {
            text.element("sport", src);
            text.element("dport", dst);
        }
        Protocol::GRE => {
            text.wrapped("srckey", |text| text.display(format_args!("0x{src:x}")));
            text.wrapped("dstkey", |text| text.display(format_args!("0x{dst:x}")));
        }
        _ => {}
    }
}

fn times(text: &mut Text<'_>, entry: &Entry, style: &Style<'_>) {
    let Some(times) = &entry.timestamps else { return };
    if style.timestamps {
        text.wrapped("timestamp", |text| {
            for (name, time_ns) in [("start", times.start_ns), ("stop", times.stop_ns)] {
                if let Some(time_ns) = time_ns {
                    text.element(name, time_ns);
                }
            }
        });
    }
    if let Some(start_ns) = times.start_ns {
        let age_s = match times.stop_ns {
            Some(stop_ns) => stop_ns.saturating_sub(start_ns) / NS_PER_S,
            None => style.now_s.saturating_sub(start_ns / NS_PER_S),
        };
        text.element("deltatime", age_s);
    }
}

fn when(text: &mut Text<'_>, style: &Style<'_>) {
    let now = i64::try_from(style.now_s).ok().and_then(|now_s| Timestamp::from_second(now_s).ok());
    let Some(now) = now.filter(|_| style.when) else { return };
    let now = now.to_zoned(style.time_zone.clone());
    let (min, sec, wday) = (now.minute(), now.second(), now.weekday().to_sunday_one_offset());
    let (hour, day, month, year) = (now.hour(), now.day(), now.month(), now.year());
    text.display(format_args!(
        "<when><hour>{hour}</hour><min>{min:02}</min><sec>{sec:02}</sec><wday>{wday}</wday>\
         <day>{day}</day><month>{month}</month><year>{year}</year></when>"
    ));
}

fn named(text: &mut Text<'_>, element: &str, name: Option<&Name>) {
    if let Some(name) = name {
        text.wrapped(element, |text| text.bytes(&name.0));
    }
}
