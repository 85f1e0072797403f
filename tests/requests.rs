//! The library's requests to connection tracking, each against the kernel.

use std::net::Ipv4Addr;

use flowlog::connections::ctnetlink::sets::{
    ExpectationFlags, Helper, IpAttributes, L4Attributes, NatRange, SeqAdj, SynProxy, TupleAttributes,
};
use flowlog::connections::ctnetlink::uapi::{AF_INET, AF_INET6};
use flowlog::connections::ctnetlink::{
    Buffers, Delivery, Entry, Expectation, Filter, Group, Listener, Received, Requests, decode,
};
use flowlog::flow::{Flow, L4, ProtoState, Protocol, Status, TcpState, Tuple};

use crate::harness::kernel::{STATUS_FILTERS, ZONE_FILTERS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::wait::wait_for;

fn tuple(proto: Protocol, src: &str, dst: &str, (src_port, dst_port): (u16, u16)) -> Tuple {
    let l4 = L4::Ports { src: src_port, dst: dst_port };
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), proto, l4, zone: None }
}

/// An entry without NAT that lives longer than the test.
fn flow(proto: Protocol, src: &str, dst: &str, (src_port, dst_port): (u16, u16)) -> Flow {
    let state = (proto == Protocol::TCP).then_some(ProtoState::Tcp(TcpState::ESTABLISHED));
    Flow {
        timeout_s: Some(1000),
        state,
        ..Flow::new(
            tuple(proto, src, dst, (src_port, dst_port)),
            tuple(proto, dst, src, (dst_port, src_port)),
        )
    }
}

/// A namespace with labels, and its requests.
fn tracked() -> (Namespace, Requests) {
    let namespace = Namespace::tracked();
    namespace.nft(
        "table inet labels { chain c { type filter hook output priority 0; udp dport 9 ct label set 1; }; }",
    );
    let requests = namespace.inside(Requests::open).unwrap();
    (namespace, requests)
}

#[test]
fn the_kernel_filters_what_it_lists() {
    let (_namespace, mut requests) = tracked();
    let flows = [
        Flow { mark: Some(0x15), ..flow(Protocol::TCP, "10.0.0.1", "10.0.0.2", (1, 80)) },
        Flow { zone: Some(5), ..flow(Protocol::UDP, "10.0.0.1", "10.0.0.3", (2, 53)) },
        Flow {
            status: Some(Status(Status::CONFIRMED.0 | Status::SEEN_REPLY.0)),
            ..flow(Protocol::UDP, "10.0.0.4", "10.0.0.3", (3, 53))
        },
        flow(Protocol::TCP, "fd00::1", "fd00::2", (4, 80)),
    ];
    requests.create(&flows).unwrap();
    let of_tcp = TupleAttributes {
        proto: Some(L4Attributes { number: Some(6), ..L4Attributes::default() }),
        ..TupleAttributes::default()
    };
    let to_dns = TupleAttributes {
        proto: Some(L4Attributes { number: Some(17), dst_port: Some(53), ..L4Attributes::default() }),
        ..TupleAttributes::default()
    };
    let from = TupleAttributes {
        ip: Some(IpAttributes { v4_src: Some(Ipv4Addr::new(10, 0, 0, 1)), ..IpAttributes::default() }),
        ..TupleAttributes::default()
    };
    let answers_to = TupleAttributes {
        ip: Some(IpAttributes { v4_dst: Some(Ipv4Addr::new(10, 0, 0, 4)), ..IpAttributes::default() }),
        ..TupleAttributes::default()
    };
    let v4 = Filter { family: Some(AF_INET), ..Filter::default() };
    for (filter, expected) in [
        (Filter::default(), vec![1, 2, 3, 4]),
        (v4.clone(), vec![1, 2, 3]),
        (Filter { family: Some(AF_INET6), ..Filter::default() }, vec![4]),
        (Filter { mark: Some((0x10, 0xf0)), ..Filter::default() }, vec![1]),
        (Filter { status: Some((Status::SEEN_REPLY.0, Status::SEEN_REPLY.0)), ..Filter::default() }, vec![3]),
        (Filter { status: Some((0, Status::SEEN_REPLY.0)), ..Filter::default() }, vec![1, 2, 4]),
        (Filter { zone: Some(5), ..Filter::default() }, vec![2]),
        (Filter { orig: Some(of_tcp), ..v4.clone() }, vec![1]),
        (Filter { orig: Some(to_dns), ..v4.clone() }, vec![2, 3]),
        (Filter { orig: Some(from), ..v4.clone() }, vec![1, 2]),
        (Filter { reply: Some(answers_to), ..v4 }, vec![3]),
    ] {
        let is_lacking = filter.status.is_some() && lacks(STATUS_FILTERS);
        if is_lacking || filter.zone.is_some() && lacks(ZONE_FILTERS) {
            continue;
        }
        let mut found = Vec::new();
        let each = |entry: Result<Entry, _>| {
            found.push(entry.unwrap().orig.unwrap().proto.unwrap().src_port.unwrap());
        };
        requests.list(&filter, each).unwrap_or_else(|err| panic!("{filter:?}: {err:?}"));
        found.sort_unstable();
        assert_eq!(found, expected, "{filter:?}");
    }
    assert_eq!(requests.statistics().unwrap().entries, Some(4));
    requests.flush_family(AF_INET6).unwrap();
    assert_eq!(requests.count().unwrap(), 3);
}

#[test]
fn marks_and_labels_change_by_their_bits() {
    let (_namespace, mut requests) = tracked();
    let flow =
        Flow { mark: Some(0x1234), zone: Some(3), ..flow(Protocol::UDP, "10.0.0.1", "10.0.0.2", (1, 2)) };
    requests.create([&flow]).unwrap();
    requests.update_mark(&flow.orig, flow.zone, (0x50, 0xf0)).unwrap();
    let mut labels = [0; 16];
    labels[0] = 0b11;
    requests.update_labels(&flow.orig, flow.zone, (labels, labels)).unwrap();
    let mut without = [0; 16];
    without[0] = 0b1;
    requests.update_labels(&flow.orig, flow.zone, ([0; 16], without)).unwrap();
    labels[0] = 0b10;
    let found = requests.get(&flow.orig, flow.zone).unwrap().unwrap();
    assert_eq!((found.mark, found.labels), (Some(0x1254), Some(labels)));

    let elsewhere = requests.update_mark(&flow.orig, Some(4), (1, 1)).unwrap_err();
    assert_eq!(
        std::error::Error::source(&elsewhere).unwrap().to_string(),
        "No such file or directory (os error 2)"
    );
}

#[test]
fn what_is_made_is_found_as_a_whole() {
    let (_namespace, mut requests) = tracked();
    let seq_adj = |offset| SeqAdj {
        correction_pos: Some(7),
        offset_before: Some(0),
        offset_after: Some(offset),
        ..SeqAdj::default()
    };
    let entry = Entry {
        status: Some(Status::CONFIRMED.0 | Status::SEEN_REPLY.0 | Status::ASSURED.0),
        helper: Some(Helper { name: Some("ftp".into()), ..Helper::default() }),
        nat_src: Some(NatRange { v4_min: Some(Ipv4Addr::new(192, 0, 2, 1)), ..NatRange::default() }),
        orig_seq_adj: Some(seq_adj(3)),
        reply_seq_adj: Some(seq_adj(4)),
        synproxy: Some(SynProxy { isn: Some(1), its: Some(2), tsoff: Some(3), ..SynProxy::default() }),
        ..(&flow(Protocol::TCP, "10.0.0.1", "10.0.0.2", (1000, 21))).into()
    };
    requests.make(&entry).unwrap();
    let found = requests.find(&Entry { orig: entry.orig.clone(), ..Entry::default() }).unwrap().unwrap();
    assert_eq!(found.helper, entry.helper);
    assert_eq!(found.reply.as_ref().unwrap().dst(), Some("192.0.2.1".parse().unwrap()));
    assert_eq!((&found.orig_seq_adj, &found.reply_seq_adj), (&entry.orig_seq_adj, &entry.reply_seq_adj));
    assert_eq!(found.synproxy, entry.synproxy);
    assert_eq!(found.state(), Some(ProtoState::Tcp(TcpState::ESTABLISHED)));
    assert!(found.unknown.is_empty() && found.use_count.is_some() && found.id.is_some(), "{found:?}");

    // By its reply tuple too, and it can be changed and removed by what was found.
    let by_reply = Entry { reply: found.reply.clone(), ..Entry::default() };
    assert_eq!(requests.find(&by_reply).unwrap().unwrap().id, found.id);
    let change = Entry { orig: found.orig.clone(), timeout_s: Some(50), ..Entry::default() };
    requests.change(&change).unwrap();
    let changed = requests.find(&change).unwrap().unwrap();
    assert!(changed.timeout_s.is_some_and(|timeout_s| timeout_s <= 50), "{changed:?}");
    let other = Entry { orig: found.orig.clone(), id: found.id.map(|id| id ^ 1), ..Entry::default() };
    assert!(!requests.remove(&other).unwrap(), "the id belongs to another entry");
    let it = Entry { orig: found.orig, id: found.id, ..Entry::default() };
    assert!(requests.remove(&it).unwrap() && !requests.remove(&it).unwrap());
}

#[test]
fn counters_are_read_and_set_to_zero() {
    let (namespace, mut requests) = tracked();
    let socket = namespace.inside(|| std::net::UdpSocket::bind("127.0.0.1:0")).unwrap();
    socket.send_to(b"1234", "127.0.0.1:9").unwrap();
    let packets = |requests: &mut Requests| {
        let mut sum = 0;
        let each = |entry: Result<Entry, _>| sum += entry.unwrap().orig_counters.unwrap().packets.unwrap();
        requests.list_and_zero(&Filter { family: Some(AF_INET), ..Filter::default() }, each).unwrap();
        sum
    };
    assert!(packets(&mut requests) > 0);
    assert_eq!(packets(&mut requests), 0);

    let mut cpus = Vec::new();
    requests.cpu_statistics(|cpu, statistics| cpus.push((cpu, statistics.insert))).unwrap();
    assert!(!cpus.is_empty() && cpus.iter().all(|(_, insert)| insert.is_some()), "{cpus:?}");
    let mut count = 0;
    requests
        .expectation_statistics(|_, statistics| count += usize::from(statistics.create.is_some()))
        .unwrap();
    assert_eq!(count, cpus.len());
    requests.dying(|entry| panic!("{entry:?}")).unwrap();
    requests.unconfirmed(|entry| panic!("{entry:?}")).unwrap();
}

#[test]
fn expectations_come_and_go() {
    let (_namespace, mut requests) = tracked();
    let master = flow(Protocol::UDP, "10.0.0.1", "10.0.0.2", (6969, 69));
    let helper = Some(Helper { name: Some("tftp".into()), ..Helper::default() });
    requests.make(&Entry { helper, ..(&master).into() }).unwrap();
    let all = TupleAttributes {
        proto: Some(L4Attributes {
            number: Some(17),
            src_port: Some(0),
            dst_port: Some(0xffff),
            ..L4Attributes::default()
        }),
        ..(&tuple(Protocol::UDP, "255.255.255.255", "255.255.255.255", (0, 0))).into()
    };
    let expected: TupleAttributes = (&tuple(Protocol::UDP, "10.0.0.2", "10.0.0.1", (0, 6969))).into();
    let expectation = Expectation {
        master: Some((&master.orig).into()),
        tuple: Some(expected.clone()),
        mask: Some(all),
        timeout_s: Some(900),
        ..Expectation::default()
    };
    requests.make_expectation(&expectation).unwrap();
    let mut listed = Vec::new();
    requests.expectations(None, |expectation| listed.push(expectation.unwrap())).unwrap();
    let [found] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&found.tuple, &found.helper), (&expectation.tuple, &Some("tftp".into())));
    assert!(found.unknown.is_empty(), "{found:?}");
    assert!(!ExpectationFlags(found.flags.unwrap()).contains(ExpectationFlags::PERMANENT));
    let by_tuple = Expectation { tuple: Some(expected), ..Expectation::default() };
    assert_eq!(requests.find_expectation(&by_tuple).unwrap().unwrap().id, found.id);
    assert!(requests.remove_expectation(&by_tuple).unwrap());
    assert!(!requests.remove_expectation(&by_tuple).unwrap());
    assert_eq!(requests.find_expectation(&by_tuple).unwrap(), None);

    requests.make_expectation(&expectation).unwrap();
    requests.flush_expectations().unwrap();
    requests.expectations(Some(AF_INET), |expectation| panic!("{expectation:?}")).unwrap();
}

#[test]
fn each_group_tells_its_events() {
    let (namespace, mut requests) = tracked();
    let flow = flow(Protocol::UDP, "10.0.0.1", "10.0.0.2", (1, 2));
    for (group, expected) in [
        (Group::New, decode::EventKind::New),
        (Group::Update, decode::EventKind::Update),
        (Group::Destroy, decode::EventKind::Destroy),
    ] {
        let mut listener =
            namespace.inside(|| Listener::subscribe(&[group], None, Delivery::BestEffort)).unwrap();
        requests.create([&flow]).unwrap();
        requests.update_mark(&flow.orig, None, (1, 1)).unwrap();
        requests.flush().unwrap();
        let mut buffers = Buffers::default();
        let event = wait_for("an event", || match listener.recv(&mut buffers).unwrap() {
            Received::Datagrams(datagrams) => {
                let datagram = datagrams.iter().next()?;
                Some(decode::messages(datagram).next()?.unwrap().event())
            }
            _ => None,
        });
        assert_eq!(event, expected);
    }
}
