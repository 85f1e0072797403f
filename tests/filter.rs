//! Which flows are recorded: the kernel keeps back the others, and the files say so.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use flowlog::connections::ctnetlink::{Buffers, Delivery, Listener, Received, Requests, decode};
use flowlog::connections::filter::{Conditions, FlowFilter, Mark};
use flowlog::flow::{Flow, L4, Protocol, Status, Tuple};

use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::wait::wait_for;

/// Room for all events of a test.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// Between each two of these addresses, of one family.
const ADDRESSES: [&str; 7] =
    ["10.1.2.3", "10.1.3.3", "10.2.2.3", "192.0.2.7", "2001:db8:1::7", "2001:db8:1:1::7", "2001:db8:2::7"];

#[test]
fn the_kernel_keeps_back_what_is_not_recorded() {
    let namespace = Namespace::tracked();
    let flows = flows();
    let filters = filters();
    let mut listeners: Vec<Listener> = filters
        .iter()
        .map(|filter| namespace.inside(|| Listener::open(RECEIVE_BUFFER_BYTES, Delivery::Reliable, filter)))
        .collect::<Result<_, _>>()
        .unwrap();
    make_and_flush(&namespace, &flows);
    for (listener, filter) in listeners.iter_mut().zip(&filters) {
        let received = receive(listener);
        let wanted = flows.iter().filter(|flow| filter.records(flow)).count();
        assert!((1..flows.len()).contains(&wanted), "{filter:?} tells nothing from anything");
        assert_eq!(received.len(), wanted, "{filter:?}");
        let unwanted = received.iter().find(|flow| !filter.records(flow));
        assert_eq!(unwanted, None, "{filter:?}");
    }
}

#[test]
fn the_log_has_what_is_wanted_and_says_what_is_not() {
    let few = vec!["10.1.0.0/16".to_owned(), "192.0.2.7".to_owned(), "2001:db8:1::/48".to_owned()];
    // More than the kernel takes.
    let many = (0..600).map(|number| format!("172.16.{}.{}", number / 256, number % 256));
    let many = many.chain(few.iter().cloned()).collect();
    for (addresses, is_refused) in [(few, false), (many, true)] {
        let filter = FlowFilter {
            only: Conditions { protocol: vec![Protocol::TCP], ..Conditions::default() },
            except: Conditions { address: networks(&addresses), ..Conditions::default() },
        };
        let namespace = Namespace::tracked();
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("output");
        let file = directory.path().join("flowlog.toml");
        let text = format!("filter.only.protocol = ['tcp']\nfilter.except.address = {addresses:?}\n");
        fs::write(&file, text).unwrap();
        let flows = flows();
        let older: Vec<Flow> = flows.iter().step_by(2).cloned().collect();
        // These end while flowlog runs, without an event: dumps must leave out what is not wanted, too.
        let mut requests = namespace.inside(Requests::open).unwrap();
        requests.create(&older).unwrap();
        let mut command = run_command(&output, &[&namespace]);
        command.arg("--no-ebpf").arg("--config").arg(&file);
        let daemon = Daemon::spawn(command);
        let newer: Vec<Flow> = flows.iter().skip(1).step_by(2).cloned().collect();
        requests.create(&newer).unwrap();
        requests.flush().unwrap();
        let log = daemon.stop();

        let dataset = Dataset::read(&output);
        let wanted = flows.iter().filter(|flow| filter.records(flow)).count();
        assert_eq!(dataset.rows().len(), wanted, "{log}");
        for row in dataset.rows() {
            assert_eq!(row.text("protocol_name"), Some("tcp"), "{row:#?}");
        }
        let recorded = serde_json::to_value(&filter).unwrap();
        for file in &dataset.files {
            assert_eq!(file.metadata["flowlog.filter"], recorded.to_string());
        }
        assert_eq!(started_with(&output)["filter"], recorded);
        assert!(log.contains("not all flows are recorded"), "{log}");
        assert_eq!(log.contains("the kernel does not accept the filter"), is_refused, "{log}");
    }
}

/// Dumps follow an entry whatever its mark is now: what counts is the last one.
#[test]
fn marks_that_change_are_those_of_the_end() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut requests = namespace.inside(Requests::open).unwrap();
    let mut make = |events: &str, flows: &[Flow]| {
        namespace.sysctl("net/netfilter/nf_conntrack_events", events);
        requests.create(flows).unwrap();
    };
    let with_mark = |flow: &Flow, mark: u32| Flow { mark: Some(mark), zone: None, ..flow.clone() };
    let [silent, late, back, gone] =
        [(0, 1), (1, 0), (2, 1), (3, 1)].map(|(at, mark)| with_mark(&flows()[at * 4], mark));
    make("0", &[silent.clone(), late.clone()]);
    make("1", &[back.clone(), gone.clone()]);
    let mut command = run_command(output.path(), &[&namespace]);
    command
        .arg("--no-ebpf")
        .env("FLOWLOG__DUMP_INTERVAL", "100ms")
        .env("FLOWLOG__FILTER__ONLY__MARK", r#"["1"]"#);
    let mut daemon = Daemon::spawn(command);
    let mut mark = |flow: &Flow, mark| requests.update_mark(&flow.orig, None, (mark, u32::MAX)).unwrap();
    mark(&back, 2);
    mark(&gone, 2);
    mark(&late, 1);
    assert!(requests.delete(&silent.orig, None).unwrap());
    let mut wait_for_rows = |rows: usize| {
        wait_for("rows", || {
            daemon.rotate();
            (Dataset::read(output.path()).rows().len() >= rows).then_some(())
        });
    };
    // Its end is known after two more dumps, which have the other marks, too.
    wait_for_rows(1);
    requests.update_mark(&back.orig, None, (1, u32::MAX)).unwrap();
    assert!(requests.delete(&back.orig, None).unwrap());
    assert!(requests.delete(&late.orig, None).unwrap());
    wait_for_rows(3);
    requests.flush().unwrap();
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let source_of = |flow: &Flow| {
        let L4::Ports { src, .. } = flow.orig.l4 else { unreachable!("all have ports") };
        let rows = dataset.rows().into_iter().filter(|row| row.int("src_port") == Some(i64::from(src)));
        rows.map(|row| row.text("end_source").unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(source_of(&silent), ["reconcile"]);
    assert_eq!(source_of(&late), ["reconcile"]);
    assert_eq!(source_of(&back), ["destroy"]);
    assert_eq!(source_of(&gone), [""; 0]);
}

/// The first line of the ledger.
fn started_with(output: &Path) -> serde_json::Value {
    let ledger = fs::read_to_string(output.join("_flowlog/ledger.jsonl")).unwrap();
    serde_json::from_str(ledger.lines().next().unwrap()).unwrap()
}

fn make_and_flush(namespace: &Namespace, flows: &[Flow]) {
    let mut requests = namespace.inside(Requests::open).unwrap();
    requests.create(flows).unwrap();
    requests.flush().unwrap();
}

/// All that is queued: the kernel queues an event before it answers the request that makes it.
fn receive(listener: &mut Listener) -> Vec<Flow> {
    let mut buffers = Buffers::default();
    let mut flows = Vec::new();
    while let Received::Datagrams(datagrams) = listener.recv(&mut buffers).unwrap() {
        for message in datagrams.iter().flat_map(decode::messages) {
            flows.push(decode::flow(message.unwrap().payload).unwrap().flow);
        }
    }
    flows
}

/// Flows of all that filters ask for.
fn flows() -> Vec<Flow> {
    let addresses = ADDRESSES.map(|address| address.parse::<IpAddr>().unwrap());
    let mut flows = Vec::new();
    for (src, dst) in addresses.iter().flat_map(|src| addresses.map(|dst| (*src, dst))) {
        if src == dst || src.is_ipv4() != dst.is_ipv4() {
            continue;
        }
        for proto in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
            for (zone, mark) in [(None, None), (Some(3), None), (None, Some(0x12)), (Some(4), Some(0x22))] {
                let tuple = |src, dst, ports: (u16, u16)| {
                    let l4 = L4::Ports { src: ports.0, dst: ports.1 };
                    Tuple { src, dst, proto, l4, zone: None }
                };
                // Answers come from elsewhere, as after destination NAT.
                let server = if src.is_ipv4() { "10.2.9.9" } else { "2001:db8:2::9" }.parse().unwrap();
                let port = u16::try_from(flows.len()).unwrap() + 1024;
                let flow = Flow::new(tuple(src, dst, (port, 443)), tuple(server, src, (443, port)));
                let status = Some(Status::CONFIRMED);
                flows.push(Flow { status, timeout_s: Some(3600), zone, mark, ..flow });
            }
        }
    }
    flows
}

fn filters() -> Vec<FlowFilter> {
    let with = |address: &[&str], protocol: &[Protocol], zone: &[u16], mark: &[Mark]| Conditions {
        address: networks(address),
        protocol: protocol.to_vec(),
        zone: zone.to_vec(),
        mark: mark.to_vec(),
    };
    let conditions = [
        with(&["10.1.0.0/16"], &[], &[], &[]),
        with(&["10.2.9.9"], &[], &[], &[]),
        with(&["2001:db8:1:1::/64", "192.0.2.0/25"], &[], &[], &[]),
        with(&["::/0"], &[], &[], &[]),
        with(&[], &[Protocol::UDP, Protocol::SCTP], &[], &[]),
        with(&[], &[], &[0], &[]),
        with(&[], &[], &[3, 4], &[]),
        with(&[], &[], &[], &[Mark { value: 0x10, mask: 0xf0 }]),
        with(&[], &[], &[], &[Mark { value: 0, mask: u32::MAX }]),
        with(&["10.1.2.3", "2001:db8:2::/48"], &[Protocol::TCP], &[0, 4], &[Mark { value: 2, mask: 2 }]),
    ];
    let only = conditions.clone().map(|only| FlowFilter { only, except: Conditions::default() });
    let except = conditions.clone().map(|except| FlowFilter { only: Conditions::default(), except });
    let [first, .., last] = conditions;
    let both = FlowFilter { only: first, except: last };
    only.into_iter().chain(except).chain([both]).collect()
}

fn networks(networks: &[impl AsRef<str>]) -> Vec<ipnet::IpNet> {
    let parse = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(Into::into)).unwrap();
    networks.iter().map(|network| parse(network.as_ref())).collect()
}
