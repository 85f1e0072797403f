//! A line through the parser and out of the printer, for the tests and the fuzzer.

#![expect(clippy::unwrap_used, reason = "what is printed is text")]

use jiff::tz::TimeZone;

use super::parse::{self, Context, Line};
use super::print::{self, Style};
use super::{LabelNames, ParseError};
use crate::time::NS_PER_S;

static UTC: TimeZone = TimeZone::UTC;

/// A second of the year 2540: later ones do not fit in nanoseconds.
pub(crate) const MAX_TIME_S: u64 = 18_000_000_000;

/// Names of some labels.
pub(crate) fn names() -> LabelNames {
    LabelNames::parse("0 red\n9 blue\n127 last\n")
}

/// Reads a line with times in UTC.
pub(crate) fn parse(text: &str) -> Result<Line, ParseError> {
    parse::line(text, &Context { time_zone: &UTC, labels: Some(&names()), ignore_unknown: false })
}

/// Reads a line, and leaves out what is not known.
pub(crate) fn parse_leniently(text: &str) -> Option<Line> {
    parse::line(text, &Context { time_zone: &UTC, labels: Some(&names()), ignore_unknown: true }).ok()
}

/// Prints a line as it was printed: what a line leaves open is in the style.
pub(crate) fn print_as(text: &str, line: &Line) -> String {
    let mut entry = line.entry.clone();
    let times = entry.timestamps.get_or_insert_default();
    // Where a line has no start, it may have the age.
    let age_s = line.age_s.unwrap_or(0).min(MAX_TIME_S);
    let has_age = line.age_s.is_some();
    let now_s = times.start_ns.map_or(MAX_TIME_S, |start_ns| start_ns / NS_PER_S + age_s);
    times.start_ns = times.start_ns.or(has_age.then_some((MAX_TIME_S - age_s) * NS_PER_S));
    let mut out = Vec::new();
    print::entry(&mut out, &entry, line.event, &style(text, line, &names(), now_s));
    String::from_utf8(out).unwrap()
}

/// What the line that is `text` was printed with.
pub(crate) fn style<'a>(text: &str, line: &Line, names: &'a LabelNames, now_s: u64) -> Style<'a> {
    Style {
        layer3: ["ipv4     2", "ipv6     10"].iter().any(|family| text.contains(family)),
        of_kernel: [":0000:", "unknown"].iter().any(|sign| text.contains(sign)),
        gre_timeouts_s: line.gre_timeouts_s,
        id: true,
        timestamps: text.contains("[start="),
        labels: Some(names),
        when: false,
        now_s,
        time_zone: &UTC,
    }
}
