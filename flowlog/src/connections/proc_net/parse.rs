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

use super::labels::{LabelNames, set};
use super::text::family;
use super::words::{ParseError, Words, decimal};
use crate::connections::ctnetlink::Entry;
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::ctnetlink::sets::{
    CounterAttributes, Helper, L4Attributes, ProtoInfo, SecurityContext, TupleAttributes,
};
use crate::flow::{DccpState, ProtoState, Protocol, SctpState, Status, TcpState};
use crate::time::NS_PER_S;

/// What [`ParseError::expected`] has where a field or flag is not known.
const KNOWN_FIELD: &str = "a field such as `mark=`, or the end of the line";

/// Names that are never left out as unknown: where they are not expected, the line is two in one, or mangled.
const KNOWN: [&str; 23] = [
    "src",
    "dst",
    "sport",
    "dport",
    "packets",
    "bytes",
    "type",
    "code",
    "srckey",
    "dstkey",
    "timeout",
    "stream_timeout",
    "zone-orig",
    "zone-reply",
    "mark",
    "secmark",
    "secctx",
    "zone",
    "delta-time",
    "use",
    "id",
    "helper",
    LABELS,
];

/// Numbers of seconds from here on are those of 64 bits that were negative: Linux before 2.6.12 printed the time that was
/// left without its sign.
const WRAPPED_S: u64 = 1 << 50;

/// What has to be known to read a line.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The zone of the times.
    pub time_zone: &'a TimeZone,
    /// Names of labels. Without them, labels are left out; with them, an unknown name is an error.
    pub labels: Option<&'a LabelNames>,
    /// Whether fields and flags that are not known are left out. Else they are errors.
    pub ignore_unknown: bool,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The name at its beginning; [`EventKind::Other`] where there is none.
    pub event: EventKind,
    /// The entry, with both tuples. When the line was printed (`-o timestamp`) is its `event_ns`.
    pub entry: Entry,
    /// How long the entry had been there: `delta-time`.
    pub age_s: Option<u64>,
    /// Timeouts of GRE without and with replies, in seconds.
    pub gre_timeouts_s: Option<(u32, u32)>,
    /// A program asked for what the event tells: `[USERSPACE]`.
    pub by_program: bool,
    /// Names of fields and flags that are not known and were left out.
    pub unknown: Vec<String>,
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
    entry.timeout_s = timeout(words)?;
    let gre_timeouts_s = gre_timeouts(words)?;
    if words.peek().starts_with(|c: char| c.is_ascii_uppercase()) {
        let state = state(words.peek(), protocol).ok_or_else(|| words.error("a state of the protocol"))?;
        entry.proto_info = Some(ProtoInfo::from(state));
        words.next();
    }

    let start = *words;
    let mut unknown = Vec::new();
    let mut skip = |words: &mut Words<'_>| {
        while context.ignore_unknown
            && let Some(name) = unknown_field(words)
        {
            unknown.push(name);
        }
    };
    (entry.orig, entry.orig_counters) = direction(words, protocol, is_generic, "zone-orig", &mut skip)?;
    if layer3.is_some_and(|number| entry.family() != Some(number)) {
        return Err(start.error("addresses of the family at the beginning of the line"));
    }
    let is_unreplied = words.take(UNREPLIED);
    (entry.reply, entry.reply_counters) = direction(words, protocol, is_generic, "zone-reply", &mut skip)?;
    entry.status = Some(if is_unreplied { 0 } else { Status::SEEN_REPLY.0 });
    let mut line = Line { event, entry, age_s: None, gre_timeouts_s, by_program: false, unknown };
    while !words.peek().is_empty() {
        let start = *words;
        match field(words, &mut line, context) {
            Err(error) if context.ignore_unknown && error.expected == KNOWN_FIELD => {
                *words = start;
                // The layer 7 patch has a sum of both directions, where these have none.
                let has_counters = line.entry.orig_counters.is_some() || line.entry.reply_counters.is_some();
                if words.is_at("bytes") && !has_counters {
                    words.field::<u64>("bytes", "the number of bytes `bytes=`")?;
                    line.unknown.push("bytes".to_owned());
                } else {
                    line.unknown.push(unknown_field(words).ok_or(error)?);
                }
            }
            read => read?,
        }
    }
    Ok(line)
}

/// How long the name of an unknown field or flag may be, and what is in its brackets.
const MAX_UNKNOWN_BYTES: usize = 64;

/// The name of the next field or flag, where it may be one that is not known: `[FASTNAT]`, `[RTCACHE o33/r11]`, `nmark=0`,
/// `slan`, `fp[0]={if=3 mark=0x1}`. Goes behind it. Nothing that is known is in it.
fn unknown_field(words: &mut Words<'_>) -> Option<String> {
    let word = words.peek();
    let is_text = |byte: u8| byte.is_ascii_alphanumeric() || b" /_.:-".contains(&byte);
    if word.starts_with('[') {
        let (text, behind) = words.up_to(']')?;
        let text = text.get(1..)?;
        let name = format!("[{}]", text.split(' ').next().unwrap_or_default());
        let is_flag = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_text);
        let is_known = KNOWN_FLAGS.iter().any(|(known, _)| *known == name)
            || [UNREPLIED, UNCONFIRMED, USERSPACE, "[NEW]", "[UPDATE]", "[DESTROY]"].contains(&name.as_str());
        if !is_flag || is_known || text.len() > MAX_UNKNOWN_BYTES {
            return None;
        }
        *words = behind;
        return Some(name);
    }
    let name = word.split(['=', '[']).next().unwrap_or_default();
    if !is_name(name) || KNOWN.contains(&name) || name.len() > MAX_UNKNOWN_BYTES {
        return None;
    }
    if word.contains("={") {
        let (text, behind) = words.up_to('}')?;
        let (_, text) = text.split_once('{')?;
        if !text.bytes().all(|byte| is_text(byte) || byte == b'=') || text.len() > MAX_UNKNOWN_BYTES {
            return None;
        }
        *words = behind;
    } else {
        words.next();
    }
    Some(name.to_owned())
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
        let nanos = decimal::<u64>(seconds.trim_end_matches(' '))?.checked_mul(NS_PER_S)?;
        nanos.checked_add(micros * 1000)
    });
    time_ns.map(Some).ok_or_else(|| start.error(EXPECTED))
}

/// The seconds that are left. Linux before 4.9 looked at the clock again while it printed, so that they may be negative.
fn timeout(words: &mut Words<'_>) -> Result<Option<u32>, ParseError> {
    const EXPECTED: &str = "the timeout in seconds";
    let word = words.peek();
    let (is_negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    let seconds: u64 = decimal(digits).ok_or_else(|| words.error(EXPECTED))?;
    let seconds = if is_negative || seconds >= WRAPPED_S { 0 } else { seconds };
    let seconds = u32::try_from(seconds).map_err(|_| words.error(EXPECTED))?;
    words.next();
    Ok(Some(seconds))
}

/// A mark, which Linux before 2.6.18 printed as a signed number, or with 64 bits.
fn mark(text: &str) -> Result<u32, ()> {
    if let Some(digits) = text.strip_prefix('-') {
        let negative = decimal::<u32>(digits).ok_or(())?;
        return i32::try_from(-i64::from(negative)).map(i32::cast_unsigned).map_err(|_| ());
    }
    match decimal::<u64>(text).ok_or(())? {
        mark if mark >> 32 == u64::from(u32::MAX) => mark & u64::from(u32::MAX),
        mark => mark,
    }
    .try_into()
    .map_err(|_| ())
}

fn event_name(words: &mut Words<'_>) -> EventKind {
    // The last one is what conntrack before 0.9.3 printed of messages that are none of the others.
    let names = [
        ("[NEW]", EventKind::New),
        ("[UPDATE]", EventKind::Update),
        ("[DESTROY]", EventKind::Destroy),
        ("[UNKNOWN]", EventKind::Update),
    ];
    let event = names.into_iter().find(|(name, _)| words.take(name));
    event.map_or(EventKind::Other, |(_, event)| event)
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

/// `timeout=30, stream_timeout=180`, on routers also of ESP.
fn gre_timeouts(words: &mut Words<'_>) -> Result<Option<(u32, u32)>, ParseError> {
    if !words.is_at("timeout") {
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
    // conntrack(8) with libnetfilter_conntrack before 1.0.9 has the names of SCTP for the numbers of DCCP.
    let as_sctp = || match self::state(word, Protocol::SCTP)? {
        ProtoState::Sctp(SctpState(number)) => Some(state(number)),
        _ => None,
    };
    (0..=u8::MAX).map(state).find(is_it).or_else(|| if protocol == Protocol::DCCP { as_sctp() } else { None })
}

/// The tuple and the counters of a direction.
fn direction(
    words: &mut Words<'_>,
    protocol: Protocol,
    is_generic: bool,
    zone_name: &'static str,
    skip_unknown: &mut impl FnMut(&mut Words<'_>),
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
    skip_unknown(words);
    if !words.is_at("packets") {
        return Ok((Some(tuple), None));
    }
    let packets = Some(words.field("packets", "a number of packets")?);
    let bytes = Some(words.field("bytes", "the number of bytes `bytes=`")?);
    skip_unknown(words);
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
            // Linux 2.4 with the patch for PPTP has more.
            if words.is_at("version") {
                words.field::<u8>("version", "a version of GRE")?;
                words.parsed("protocol", hexadecimal, "the protocol `protocol=0x`")?;
            }
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

/// Whether a field, a flag or an unknown field begins with the word: texts with blanks end there.
fn is_field(word: &str) -> bool {
    let name = word.split('=').next().unwrap_or_default();
    word.starts_with('[') || word == LABELS || (word.contains('=') && is_name(name))
}

/// Whether a field can have this name.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// A field with names that may have blanks, or a word alone.
const LABELS: &str = "labels";

/// A program asked for it.
const USERSPACE: &str = "[USERSPACE]";

/// Of Linux before 2.4.4: it is in no table yet.
const UNCONFIRMED: &str = "[UNCONFIRMED]";

/// No packets came back.
const UNREPLIED: &str = "[UNREPLIED]";

/// Flags after the tuples.
const KNOWN_FLAGS: [(&str, Status); 3] =
    [("[ASSURED]", Status::ASSURED), ("[OFFLOAD]", Status::OFFLOAD), ("[HW_OFFLOAD]", Status::HW_OFFLOAD)];

/// One of the fields after the tuples. Their order differs between versions.
fn field(words: &mut Words<'_>, line: &mut Line, context: &Context<'_>) -> Result<(), ParseError> {
    let Line { entry, age_s, by_program, .. } = line;
    let start = *words;
    for (flag, bit) in KNOWN_FLAGS {
        if words.take(flag) {
            let status = entry.status.unwrap_or_default();
            let is_first = status & !Status::SEEN_REPLY.0 == 0;
            entry.status = Some(status | bit.0);
            return if is_first { Ok(()) } else { Err(start.error("one of ASSURED, OFFLOAD, HW_OFFLOAD")) };
        }
    }
    if words.take(UNCONFIRMED) {
        return Ok(());
    }
    if words.take(USERSPACE) {
        // Who removed the entry, up to the end of the line: the name of a program may have spaces.
        words.skip_all();
        *by_program = true;
        return Ok(());
    }
    let key = start.peek().split('=').next().unwrap_or_default();
    let is_first = match key {
        "mark" => entry.mark.replace(words.parsed(key, mark, "a mark")?).is_none(),
        "secmark" => entry.secmark.replace(words.field(key, "a mark")?).is_none(),
        "zone" => entry.zone.replace(words.field(key, "a zone")?).is_none(),
        "delta-time" => {
            let seconds: u64 = words.field(key, "a number of seconds")?;
            // Where the clock was set back meanwhile, it is a negative number of 64 bits, and no age.
            if i64::try_from(seconds).is_ok() { age_s.replace(seconds).is_none() } else { age_s.is_none() }
        }
        "use" => entry.use_count.replace(words.field(key, "a number of references")?).is_none(),
        "id" => entry.id.replace(words.field(key, "an id")?).is_none(),
        "secctx" => {
            // AppArmor's have blanks: `/opt/some app (enforce)`.
            let mut ahead = *words;
            let text = ahead.text(key, is_field)?;
            let name = if text.contains(" (") && text.ends_with(')') {
                *words = ahead;
                text
            } else {
                words.value(key)?
            };
            let name = Some(name.into());
            entry.security_context.replace(SecurityContext { name, ..SecurityContext::default() }).is_none()
        }
        "helper" => {
            let name = Some(words.value(key)?.into());
            entry.helper.replace(Helper { name, ..Helper::default() }).is_none()
        }
        // None of them has a name.
        LABELS if words.take(LABELS) => true,
        LABELS => {
            let text = words.text(key, is_field)?;
            let is_label = |byte: u8| byte.is_ascii_alphanumeric() || b" ,-".contains(&byte);
            match context.labels {
                None if text.bytes().all(is_label) => true,
                None => return Err(start.value_error(key, "names of labels")),
                Some(names) => {
                    let labels = labels(text, names)
                        .ok_or_else(|| start.value_error(key, "names of labels that are known"))?;
                    entry.labels.replace(labels).is_none()
                }
            }
        }
        "[start" => {
            let time_ns = date(words, "[start=", context.time_zone)?;
            entry.timestamps.get_or_insert_default().start_ns.replace(time_ns).is_none()
        }
        "[stop" => {
            let time_ns = date(words, "[stop=", context.time_zone)?;
            entry.timestamps.get_or_insert_default().stop_ns.replace(time_ns).is_none()
        }
        _ => return Err(start.error(KNOWN_FIELD)),
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
        u64::try_from(time.as_second()).ok()?.checked_mul(NS_PER_S)
    });
    time_ns.ok_or_else(|| start.error(EXPECTED))
}
