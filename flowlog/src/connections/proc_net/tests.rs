//! Lines and elements that no kernel of the tests makes; the others are compared with conntrack(8) end
//! to end.

use jiff::tz::TimeZone;

use super::print::{self, Style};
use super::{LabelNames, xml};
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::ctnetlink::sets::{ExpectationFlags, SecurityContext, Timestamps, TupleAttributes};
use crate::connections::ctnetlink::{Entry, Expectation};
use crate::flow::{DccpState, Flow, L4, ProtoState, Protocol, Status, Tuple};
use crate::testing;

fn tuple(proto: Protocol, src: &str, dst: &str, src_port: u16, dst_port: u16) -> Tuple {
    testing::tuple(src, dst, proto, L4::Ports { src: src_port, dst: dst_port })
}

fn entry() -> Entry {
    let orig = tuple(Protocol::DCCP, "10.0.0.1", "10.0.0.2", 1, 2);
    let reply = tuple(Protocol::DCCP, "10.0.0.2", "10.0.0.1", 2, 1);
    let flow = Flow { state: Some(ProtoState::Dccp(DccpState::OPEN)), ..Flow::new(orig, reply) };
    Entry {
        status: Some(Status::SEEN_REPLY.0 | Status::ASSURED.0),
        security_context: Some(SecurityContext { name: Some("a:b".into()), ..SecurityContext::default() }),
        secmark: Some(6),
        timestamps: Some(Timestamps {
            start_ns: Some(1_000_000_000_999_999_999),
            stop_ns: Some(1_000_000_007_000_000_000),
            ..Timestamps::default()
        }),
        ..(&flow).into()
    }
}

fn style(time_zone: &TimeZone) -> Style<'_> {
    let (layer3, of_kernel, id, timestamps, when) = (true, false, true, true, true);
    Style {
        layer3,
        of_kernel,
        id,
        timestamps,
        gre_timeouts_s: None,
        labels: None,
        when,
        now_s: 1_000_000_100,
        time_zone,
    }
}

fn line(entry: &Entry) -> String {
    let mut out = Vec::new();
    print::entry(&mut out, entry, EventKind::Destroy, &style(&TimeZone::UTC));
    String::from_utf8(out).unwrap()
}

#[test]
fn lines() {
    let tail =
        "secmark=6 secctx=a:b delta-time=7 [start=Sun Sep  9 01:46:40 2001] [stop=Sun Sep  9 01:46:47 2001]";
    for (status, flag) in [
        (0, "[ASSURED] "),
        (Status::OFFLOAD.0, "[OFFLOAD] "),
        (Status::OFFLOAD.0 | Status::HW_OFFLOAD.0, "[HW_OFFLOAD] "),
    ] {
        let entry = entry();
        let entry = Entry { status: entry.status.map(|found| found | status), ..entry };
        assert_eq!(
            line(&entry),
            format!(
                "[DESTROY] ipv4     2 dccp     33 OPEN src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 \
                 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 {flag}{tail}"
            )
        );
    }
    // A state that has no name, and an entry of which nothing is known.
    let orig = tuple(Protocol::DCCP, "10.0.0.1", "10.0.0.2", 1, 2);
    let flow = Flow { state: Some(ProtoState::Dccp(DccpState(99))), ..Flow::new(orig, orig) };
    assert!(line(&(&flow).into()).contains(" NONE src="));
    assert_eq!(line(&Entry::default()), "[DESTROY] unknown  0 unknown  0");
}

#[test]
fn addresses_are_written_as_inet_ntop_does() {
    for (address, expected) in [
        ("::", "::"),
        ("::1", "::1"),
        ("::2:3", "::0.2.0.3"),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ("fd00:0:0:1::", "fd00:0:0:1::"),
        ("1:0:2:0:3:0:4:0", "1:0:2:0:3:0:4:0"),
    ] {
        let address = tuple(Protocol::UDP, address, "fd00::", 1, 2);
        let line = line(&(&Flow::new(address, address)).into());
        assert!(line.contains(&format!(" src={expected} dst=fd00:: ")), "{expected}: {line}");
    }
}

#[test]
fn elements() {
    let mut out = Vec::new();
    xml::entry(&mut out, &entry(), EventKind::Destroy, &style(&TimeZone::UTC));
    let text = String::from_utf8(out).unwrap();
    assert!(text.ends_with(
        "<meta direction=\"independent\"><state>OPEN</state><secmark>6</secmark><secctx>a:b</secctx><assured/>\
         <timestamp><start>1000000000999999999</start><stop>1000000007000000000</stop></timestamp>\
         <deltatime>6</deltatime></meta><when><hour>1</hour><min>48</min><sec>20</sec><wday>1</wday><day>9</day>\
         <month>9</month><year>2001</year></when></flow>"
    ), "{text}");
}

#[test]
fn expectations() {
    let tuple: TupleAttributes = (&tuple(Protocol::TCP, "10.0.0.1", "10.0.0.2", 0, 20)).into();
    let expectation = Expectation {
        tuple: Some(tuple),
        flags: Some(ExpectationFlags::PERMANENT.0 | ExpectationFlags::USERSPACE.0),
        zone: Some(4),
        class: Some(1),
        ..Expectation::default()
    };
    let mut out = Vec::new();
    print::expectation(&mut out, &expectation, EventKind::New);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "    [NEW] proto=6 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=20 zone=4 PERMANENT,USERSPACE class=1"
    );
}

#[test]
fn labels_without_names_are_a_word_alone_or_left_out() {
    let names = LabelNames::parse("0 red\n9 blue\n");
    let zone = TimeZone::UTC;
    let mut labels = [0; 16];
    labels[15] = 0x80;
    for (first, second, expected) in [(0, 0, " labels"), (1, 0, " labels=red"), (1, 2, " labels=red,blue")] {
        (labels[0], labels[1]) = (first, second);
        let entry = Entry { labels: Some(labels), ..Entry::default() };
        let mut out = Vec::new();
        print::entry(&mut out, &entry, EventKind::Other, &Style { labels: Some(&names), ..style(&zone) });
        assert_eq!(String::from_utf8(out).unwrap(), format!("unknown  0 unknown  0{expected}"));
    }
}
