//! Lines back to entries: what [`print`](super::print) writes, what `/proc/net/nf_conntrack` and the older
//! `/proc/net/ip_conntrack` have, and what conntrack(8) prints with any of its output options but `save`
//! and `xml`.
//!
//! A line says less than the kernel does. Of the status it has the bits that [`Status::SEEN_REPLY`],
//! [`Status::ASSURED`], [`Status::OFFLOAD`] and [`Status::HW_OFFLOAD`] name, the second only where the last
//! two are not set. Times are whole seconds of local time.

use std::net::IpAddr;

use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use super::LabelNames;
use super::labels::set;
use super::text::family;
use super::words::{ParseError, Words};
use crate::ctnetlink::Entry;
use crate::ctnetlink::decode::Event;
use crate::ctnetlink::sets::{
    CounterAttributes, Helper, L4Attributes, ProtoInfo, SecurityContext, TupleAttributes,
};
use crate::flow::{DccpState, ProtoState, Protocol, SctpState, Status, TcpState};

const NANOS: u64 = 1_000_000_000;

/// What has to be known to read a line.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The zone of the times.
    pub time_zone: &'a TimeZone,
    /// Names of labels. Without them, labels are left out; with them, an unknown name is an error.
    pub labels: Option<&'a LabelNames>,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The name at its beginning; [`Event::Other`] where there is none.
    pub event: Event,
    /// The entry, with both tuples. When the line was printed (`-o timestamp`) is its `event_ns`.
    pub entry: Entry,
    /// How long the entry had been there: `delta-time`.
    pub age_s: Option<u64>,
    /// Timeouts of GRE without and with replies, in seconds.
    pub gre_timeouts_s: Option<(u32, u32)>,
}

/// Reads a line, without its end.
///
/// # Errors
///
/// What is not as it should be first, and where.
pub fn line(text: &str, context: &Context<'_>) -> Result<Line, ParseError> {
    let words = &mut Words::new(text);
    let mut entry = Entry { event_ns: printed_at(words)?, ..Entry::default() };
    let event = event_name(words);
    let layer3 = layer3(words)?;
    // The kernel does not track it, and knows no ports, whatever its number.
    let is_generic = words.peek() == "unknown";
    let protocol = protocol(words)?;
    if words.peek().starts_with(|c: char| c.is_ascii_digit()) {
        entry.timeout_s = Some(words.number("the timeout in seconds")?);
    }
    let gre_timeouts_s = gre_timeouts(words, protocol)?;
    if words.peek().starts_with(|c: char| c.is_ascii_uppercase()) {
        let state = state(words.peek(), protocol).ok_or_else(|| words.error("a state of the protocol"))?;
        entry.proto_info = Some(ProtoInfo::from(state));
        words.next();
    }

    let start = *words;
    (entry.orig, entry.orig_counters) = direction(words, protocol, is_generic, "zone-orig")?;
    if layer3.is_some_and(|number| entry.family() != Some(number)) {
        return Err(start.error("addresses of the family at the beginning of the line"));
    }
    let is_unreplied = words.take("[UNREPLIED]");
    (entry.reply, entry.reply_counters) = direction(words, protocol, is_generic, "zone-reply")?;
    entry.status = Some(if is_unreplied { 0 } else { Status::SEEN_REPLY.0 });
    let mut age_s = None;
    while !words.peek().is_empty() {
        field(words, &mut entry, &mut age_s, context)?;
    }
    Ok(Line { event, entry, age_s, gre_timeouts_s })
}

/// `[1795249382.437389]`. Older versions of conntrack(8) fill the number of microseconds up with spaces.
fn printed_at(words: &mut Words<'_>) -> Result<Option<u64>, ParseError> {
    const EXPECTED: &str = "a time such as `[1795249382.437389]`";
    if !words.peek().strip_prefix('[').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Ok(None);
    }
    let start = *words;
    let time_ns = words.bracketed().and_then(|text| {
        let (seconds, micros) = text.strip_prefix('[')?.split_once('.')?;
        let micros: u64 = decimal(micros.trim_end_matches(' ')).filter(|micros| *micros < 1_000_000)?;
        let nanos = decimal::<u64>(seconds.trim_end_matches(' '))?.checked_mul(NANOS)?;
        nanos.checked_add(micros * 1000)
    });
    time_ns.map(Some).ok_or_else(|| start.error(EXPECTED))
}

fn event_name(words: &mut Words<'_>) -> Event {
    let names = [("[NEW]", Event::New), ("[UPDATE]", Event::Update), ("[DESTROY]", Event::Destroy)];
    let event = names.into_iter().find(|(name, _)| words.take(name));
    event.map_or(Event::Other, |(_, event)| event)
}

/// The number of the address family, where the line begins with a family: then a protocol follows.
fn layer3(words: &mut Words<'_>) -> Result<Option<u8>, ParseError> {
    let mut ahead = *words;
    let name = ahead.next();
    let number = ahead.next();
    let is_protocol = |word: &str| word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.contains('=');
    if !["ipv4", "ipv6", "unknown"].contains(&name) || !is_protocol(ahead.peek()) {
        return Ok(None);
    }
    let known = [("ipv4", 2_u8), ("ipv6", 10)].into_iter().find(|(known, _)| *known == name);
    match known.filter(|(_, known)| decimal(number) == Some(*known)) {
        Some((_, number)) => {
            *words = ahead;
            Ok(Some(number))
        }
        None => Err(words.error("`ipv4 2` or `ipv6 10`")),
    }
}

fn protocol(words: &mut Words<'_>) -> Result<Protocol, ParseError> {
    let start = *words;
    let name = words.next();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.contains('=') {
        return Err(start.error("the name of a protocol"));
    }
    let number = Protocol(words.number("the number of the protocol")?);
    // Names differ from version to version, but none is that of another protocol.
    let is_of_another =
        (0..=u8::MAX).map(Protocol).any(|other| other != number && other.name() == Some(name));
    if is_of_another { Err(start.error("a name of the protocol with that number")) } else { Ok(number) }
}

/// `timeout=30, stream_timeout=180`
fn gre_timeouts(words: &mut Words<'_>, protocol: Protocol) -> Result<Option<(u32, u32)>, ParseError> {
    if protocol != Protocol::GRE || !words.is_at("timeout") {
        return Ok(None);
    }
    let with_comma = |text: &str| text.strip_suffix(',').and_then(decimal).ok_or(());
    let timeout_s = words.parsed("timeout", with_comma, "a number of seconds and a comma")?;
    Ok(Some((timeout_s, words.field("stream_timeout", "a number of seconds `stream_timeout=`")?)))
}

fn state(word: &str, protocol: Protocol) -> Option<ProtoState> {
    let state: fn(u8) -> ProtoState = match protocol {
        Protocol::TCP => |number| ProtoState::Tcp(TcpState(number)),
        Protocol::SCTP => |number| ProtoState::Sctp(SctpState(number)),
        Protocol::DCCP => |number| ProtoState::Dccp(DccpState(number)),
        _ => return None,
    };
    let word = match (protocol, word) {
        (Protocol::TCP, "LISTEN") => "SYN_SENT2",
        (Protocol::DCCP, "TIME_WAIT") => "TIMEWAIT",
        _ => word,
    };
    let is_it = |state: &ProtoState| {
        state.name().is_some_and(|name| name.bytes().map(|byte| byte.to_ascii_uppercase()).eq(word.bytes()))
    };
    (0..=u8::MAX).map(state).find(is_it)
}

/// The tuple and the counters of a direction.
fn direction(
    words: &mut Words<'_>,
    protocol: Protocol,
    is_generic: bool,
    zone_name: &'static str,
) -> Result<(Option<TupleAttributes>, Option<CounterAttributes>), ParseError> {
    let mut tuple = TupleAttributes::default();
    let src: IpAddr = words.parsed("src", str::parse, "the source address `src=`")?;
    let start = *words;
    let dst: IpAddr = words.parsed("dst", str::parse, "the destination address `dst=`")?;
    if family(Some(src)) != family(Some(dst)) {
        return Err(start.error("an address of the same family as the one before"));
    }
    tuple.set_src(src);
    tuple.set_dst(dst);
    tuple.proto = Some(keys(words, protocol, is_generic)?);
    if words.is_at(zone_name) {
        tuple.zone = Some(words.field(zone_name, "a zone")?);
    }
    if !words.is_at("packets") {
        return Ok((Some(tuple), None));
    }
    let packets = Some(words.field("packets", "a number of packets")?);
    let bytes = Some(words.field("bytes", "the number of bytes `bytes=`")?);
    Ok((Some(tuple), Some(CounterAttributes { packets, bytes, ..CounterAttributes::default() })))
}

fn keys(words: &mut Words<'_>, protocol: Protocol, is_generic: bool) -> Result<L4Attributes, ParseError> {
    let mut keys = L4Attributes { number: Some(protocol.0), ..L4Attributes::default() };
    match protocol {
        _ if is_generic => {}
        Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP | Protocol::DCCP => {
            keys.src_port = Some(words.field("sport", "the source port `sport=`")?);
            keys.dst_port = Some(words.field("dport", "the destination port `dport=`")?);
        }
        Protocol::GRE => {
            let hexadecimal = |text: &str| {
                let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
                digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()).ok_or(())
            };
            keys.src_port = Some(words.parsed("srckey", hexadecimal, "the source key `srckey=0x`")?);
            keys.dst_port = Some(words.parsed("dstkey", hexadecimal, "the destination key `dstkey=0x`")?);
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let icmp_type = Some(words.field("type", "the type `type=`")?);
            let code = Some(words.field("code", "the code `code=`")?);
            let id = Some(words.field("id", "the id `id=`")?);
            if protocol == Protocol::ICMP {
                (keys.icmp_type, keys.icmp_code, keys.icmp_id) = (icmp_type, code, id);
            } else {
                (keys.icmpv6_type, keys.icmpv6_code, keys.icmpv6_id) = (icmp_type, code, id);
            }
        }
        _ => {}
    }
    Ok(keys)
}

/// One of the fields after the tuples. Their order differs between versions.
fn field(
    words: &mut Words<'_>,
    entry: &mut Entry,
    age_s: &mut Option<u64>,
    context: &Context<'_>,
) -> Result<(), ParseError> {
    let start = *words;
    for (flag, bit) in
        [("[ASSURED]", Status::ASSURED), ("[OFFLOAD]", Status::OFFLOAD), ("[HW_OFFLOAD]", Status::HW_OFFLOAD)]
    {
        if words.take(flag) {
            let status = entry.status.unwrap_or_default();
            let is_first = status & !Status::SEEN_REPLY.0 == 0;
            entry.status = Some(status | bit.0);
            return if is_first { Ok(()) } else { Err(start.error("one of ASSURED, OFFLOAD, HW_OFFLOAD")) };
        }
    }
    if words.take("[USERSPACE]") {
        // Who removed the entry, up to the end of the line: the name of a program may have spaces.
        words.skip_all();
        return Ok(());
    }
    let key = start.peek().split('=').next().unwrap_or_default();
    let is_first = match key {
        "mark" => entry.mark.replace(words.field(key, "a mark")?).is_none(),
        "secmark" => entry.secmark.replace(words.field(key, "a mark")?).is_none(),
        "zone" => entry.zone.replace(words.field(key, "a zone")?).is_none(),
        "delta-time" => age_s.replace(words.field(key, "a number of seconds")?).is_none(),
        "use" => entry.use_count.replace(words.field(key, "a number of references")?).is_none(),
        "id" => entry.id.replace(words.field(key, "an id")?).is_none(),
        "secctx" => {
            let name = Some(words.value(key)?.into());
            entry.security_context.replace(SecurityContext { name, ..SecurityContext::default() }).is_none()
        }
        "helper" => {
            let name = Some(words.value(key)?.into());
            entry.helper.replace(Helper { name, ..Helper::default() }).is_none()
        }
        "labels" => match context.labels {
            None => words.value(key).map(|_| true)?,
            Some(names) => {
                let labels = |text: &str| labels(text, names).ok_or(());
                let labels = words.parsed(key, labels, "names of labels that are known")?;
                entry.labels.replace(labels).is_none()
            }
        },
        "[start" => {
            let time_ns = date(words, "[start=", context.time_zone)?;
            entry.timestamps.get_or_insert_default().start_ns.replace(time_ns).is_none()
        }
        "[stop" => {
            let time_ns = date(words, "[stop=", context.time_zone)?;
            entry.timestamps.get_or_insert_default().stop_ns.replace(time_ns).is_none()
        }
        _ => return Err(start.error("a field such as `mark=`, or the end of the line")),
    };
    if is_first { Ok(()) } else { Err(start.error("each field once")) }
}

fn labels(text: &str, names: &LabelNames) -> Option<[u8; 16]> {
    let mut labels = [0; 16];
    for name in text.split(',') {
        set(&mut labels, names.bit(name)?);
    }
    Some(labels)
}

/// `[start=Sat Nov 21 08:23:02 2026]`. Of a local time that occurs twice, this is the first.
fn date(words: &mut Words<'_>, name: &str, zone: &TimeZone) -> Result<u64, ParseError> {
    const EXPECTED: &str = "a time such as `Sat Nov 21 08:23:02 2026]`";
    let start = *words;
    let time_ns = words.bracketed().and_then(|text| {
        let date = strtime::parse("%a %b %e %H:%M:%S %Y", text.strip_prefix(name)?).ok()?;
        let time = zone.to_timestamp(date.to_datetime().ok()?).ok()?;
        u64::try_from(time.as_second()).ok()?.checked_mul(NANOS)
    });
    time_ns.ok_or_else(|| start.error(EXPECTED))
}

/// A number of digits only.
pub(super) fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}
