//! Lines of connection tracking and of conntrack(8): what is read is written so that it is read again.

use crate::commands::conntrack;
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::proc_net::round_trip::{MAX_TIME_S, names, parse, parse_leniently, print_as, style};
use crate::connections::proc_net::xml;

/// Lines of `/proc/net/nf_conntrack`, and of conntrack(8) with any of its options.
pub fn line(bytes: &[u8]) {
    for text in String::from_utf8_lossy(bytes).lines() {
        let (read, read_leniently) = (parse(text), parse_leniently(text));
        let Ok(line) = read else {
            assert!(read_leniently.is_none_or(|line| !line.unknown.is_empty()));
            continue;
        };
        assert_eq!(read_leniently.as_ref(), Some(&line), "nothing that is known is left out");
        let printed = print_as(text, &line);
        let again = parse(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        // A protocol that is printed as `unknown` makes the line one of the kernel, with addresses in full.
        let printed = print_as(&printed, &again);
        let again = parse(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        assert_eq!(print_as(&printed, &again), printed);
        let mut out = Vec::new();
        xml::entry(&mut out, &line.entry, line.event, &style(text, &line, &names(), MAX_TIME_S));
        assert!(std::str::from_utf8(&out).is_ok());
        // What `-o save` prints is a line for `-R`, up to what conntrack(8) cannot say.
        let _ = conntrack::understands(&conntrack::saved(&line.entry, EventKind::New));
    }
}

/// Lines of a file for `conntrack -R`.
pub fn command_line(bytes: &[u8]) {
    for line in String::from_utf8_lossy(bytes).lines() {
        let _ = conntrack::understands(line);
    }
}
