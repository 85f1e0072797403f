//! The table against its documentation, and rows against what every column must hold.

use std::net::IpAddr;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use flowlog_common::Owner;
use flowlog_reader::run::RunContext;
use flowlog_reader::schema::{State, flow_columns};
use proptest::prelude::*;
use uuid::Uuid;

use super::columns::RETIRED;
use super::{Column, FlowBatch, batch_schema, columns, file_schema, render};
use crate::flow::{Counters, DccpState, Flow, L4, ProtoState, Protocol, SctpState, Status, TcpState, Tuple};
use crate::record::{
    Attribution, Cgroup, Direction, End, FlowRecord, Holder, Method, Origin, Process, Sighting, TcpStats,
};
use crate::testing::{self, tuple};

/// The user's page of the schema.
const PAGE: &str = include_str!("../../../docs/schema.md");

#[test]
fn the_table_is_the_documented_one() {
    let mut flow: Vec<[String; 5]> = Vec::new();
    let mut ends = [Vec::new(), Vec::new()];
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", id, name, kind, null, doc, ""] if id.parse::<u16>().is_ok() => {
                flow.push([id, name, kind, null, doc].map(str::to_owned));
            }
            ["", ids, name, kind, doc, ""] if ids.starts_with(|c: char| c.is_ascii_digit()) => {
                let prefixes = [("src_", "initiating end: "), ("dst_", "responding end: ")];
                for (number, (id, (prefix, end))) in ids.split(", ").zip(prefixes).enumerate() {
                    let row = [id, &format!("{prefix}{name}"), kind, "yes", &format!("{end}{doc}")];
                    ends[number].push(row.map(str::to_owned));
                }
            }
            _ => {}
        }
    }
    let documented: Vec<_> = flow.into_iter().chain(ends.into_iter().flatten()).collect();
    let row = |column: &Column| {
        let null = if column.form.is_required { "no" } else { "yes" };
        [&column.id.to_string(), &column.name, column.kind.name(), null, &column.meaning].map(str::to_owned)
    };
    assert_eq!(columns().iter().map(row).collect::<Vec<_>>(), documented);
}

/// Readers and table formats find columns by id: whatever else changes, these stay.
#[test]
fn field_ids_are_for_ever() {
    let now = columns().iter().map(|Column { id, name, kind, form, .. }| {
        let state = if form.is_required { State::Required } else { State::Nullable };
        (*id, name.as_str(), *kind, state)
    });
    let retired = RETIRED.iter().map(|(id, name, kind)| (*id, *name, *kind, State::Retired));
    let mut found: Vec<_> = now.chain(retired).collect();
    found.sort_by_key(|(id, ..)| *id);
    let golden: Vec<_> =
        flow_columns().map(|column| (column.id, column.name, column.kind, column.state)).collect();
    assert_eq!(found, golden, "a new column has a new id, at the end of flowlog-reader/schema/field_ids");
}

#[test]
fn both_schemas_follow_the_table() {
    let (file, batch) = (file_schema(), batch_schema());
    for (column, (file, batch)) in columns().iter().zip(file.fields().iter().zip(batch.fields())) {
        assert_eq!(file.name(), &column.name);
        assert_eq!(file.is_nullable(), !column.form.is_required);
        assert_eq!(file.metadata().get("PARQUET:field_id"), Some(&column.id.to_string()));
        assert_eq!((batch.name(), batch.is_nullable()), (file.name(), file.is_nullable()));
        match batch.data_type() {
            DataType::Dictionary(_, values) => assert_eq!(**values, *file.data_type()),
            other => assert_eq!(other, file.data_type()),
        }
    }
    assert_eq!(file.fields().len(), columns().len());
}

#[test]
fn the_schema_prints_in_three_formats() {
    let rows: serde_json::Value = serde_json::from_str(&render::json().unwrap()).unwrap();
    assert_eq!(rows.as_array().map(Vec::len), Some(columns().len()));
    assert_eq!(
        rows[6],
        serde_json::json!({
            "id": 7, "name": "start_time", "type": "timestamp us UTC", "required": false,
            "doc": "first packet (CTA_TIMESTAMP_START)",
        })
    );

    let sql = render::sql();
    assert!(sql.starts_with("CREATE TABLE flows (\n    record_type VARCHAR NOT NULL, -- end"), "{sql}");
    assert!(sql.contains("\n    start_time TIMESTAMP WITH TIME ZONE, -- "), "{sql}");
    assert!(sql.contains("\n    dst_tcp_bytes_received BIGINT -- "), "no comma after the last: {sql}");
    assert!(sql.contains("\n);\n\n-- How long") && sql.ends_with("\nFROM flows;\n"), "{sql}");

    let table = render::table();
    for column in columns() {
        assert!(table.contains(&column.name), "{}", column.name);
    }
}

fn run() -> RunContext {
    let run_id = Uuid::from_u128(0x019a_a000_0000_7000_8000_0000_0000_0001);
    RunContext { boot_id: Some("b00t".into()), ..testing::run(run_id) }
}

/// A flow of which the kernel said nothing but the tuples.
fn minimal() -> Flow {
    Flow::new(
        tuple("10.0.0.1", "10.0.0.2", Protocol::OSPF, L4::None),
        tuple("10.0.0.2", "10.0.0.1", Protocol::OSPF, L4::None),
    )
}

/// A TCP flow of which the kernel said everything, through NAT of both ends.
fn full() -> Flow {
    Flow {
        orig: tuple("2001:db8::1", "2001:db8:0:0::5", Protocol::TCP, L4::Ports { src: 40000, dst: 80 }),
        reply: tuple("fd00::80", "2001:db8::ffff", Protocol::TCP, L4::Ports { src: 8080, dst: 1025 }),
        id: Some(u32::MAX),
        status: Some(Status(0x818e)),
        timeout_s: Some(3),
        mark: Some(0xffff_fffe),
        zone: Some(65535),
        orig_counters: Some(Counters { packets: 10, bytes: 1500 }),
        reply_counters: Some(Counters { packets: 8, bytes: u64::MAX }),
        start_ns: Some(1_700_000_000_000_000_999),
        stop_ns: Some(1_700_000_001_500_001_000),
        event_ns: Some(1_700_000_001_600_000_000),
        state: Some(ProtoState::Tcp(TcpState::TIME_WAIT)),
        labels: Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]),
    }
}

fn holder(tgid: u32, comm: &[u8], exe: Option<&str>) -> Holder {
    let mut owner = Owner { time_ns: 1, tgid, uid: u32::MAX - 1, netns_cookie: 1, ..Owner::UNKNOWN };
    owner.comm[..comm.len()].copy_from_slice(comm);
    let process = Process { tgid, exe: exe.map(Arc::from), ..Process::default() };
    Holder { owner, process: Some(Arc::new(process)), origin: Origin::default(), is_seeded: false }
}

fn by_socket(holder: &Holder) -> Option<Attribution<'_>> {
    let end = End { holder, cookie: Some(4711), stats: None, closed_ns: None };
    Some(Attribution { method: Method::Socket, end: Some(end) })
}

fn record(flow: &Flow) -> FlowRecord<'_> {
    FlowRecord {
        received_ns: 1_700_000_002_000_000_000,
        observer_netns: 4_026_531_840,
        observer_netns_name: None,
        ..testing::record(flow)
    }
}

/// All values of one row, as text.
fn row(batch: &RecordBatch, row: usize) -> Vec<(String, String)> {
    let value = |array: &dyn Array| {
        if array.is_null(row) {
            return "NULL".to_owned();
        }
        match array.data_type() {
            DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
            DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
            DataType::Boolean => array.as_boolean().value(row).to_string(),
            DataType::Timestamp(..) => {
                array.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
            }
            DataType::Dictionary(..) => {
                let texts = array.as_dictionary::<Int32Type>().downcast_dict::<StringArray>().unwrap();
                texts.into_iter().nth(row).unwrap().unwrap().to_owned()
            }
            other => panic!("no column has the type {other}"),
        }
    };
    let schema = batch.schema();
    schema.fields().iter().zip(batch.columns()).map(|(f, c)| (f.name().clone(), value(c))).collect()
}

/// The values that are not NULL, one `column=value` a line.
fn known(batch: &RecordBatch, index: usize) -> String {
    let values = row(batch, index);
    assert_eq!(values.len(), columns().len());
    values
        .into_iter()
        .filter(|(_, value)| value != "NULL")
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

/// The value of each named column in a batch of this one record.
fn check(record: &FlowRecord<'_>, expected: &[(&str, &str)]) {
    let mut batch = FlowBatch::new(&run());
    batch.append(record);
    let values = row(&batch.finish(), 0);
    for (column, expected) in expected {
        let (_, value) = values.iter().find(|(name, _)| name == column).expect("a column of the schema");
        assert_eq!(value, expected, "{column}");
    }
}

#[test]
// Long, since each column has its value here.
fn a_flow_of_which_everything_is_known() {
    let mut client = holder(4_194_304, b"curl", None);
    client.process = Some(Arc::new(Process {
        tgid: 4_194_304,
        start_ns: Some(1_699_999_999_000_001_999),
        ppid: Some(1),
        login_uid: Some(1000),
        exe: Some("/usr/bin/curl".into()),
        cmdline: Some("curl --user ***".into()),
        parent_exe: Some("/bin/sh".into()),
        is_kernel: false,
    }));
    client.origin = Origin {
        user: Some("nobody".into()),
        cgroup: Some(Arc::new(Cgroup {
            path: Some("/system.slice/a.service".into()),
            unit: Some("a.service".into()),
            container_id: Some("c0ffee".into()),
            pod_uid: Some("p0d".into()),
        })),
    };
    let server = holder(77, b"na\xffme\0rest", None);
    let stats = TcpStats {
        srtt_us: Some(1500),
        min_rtt_us: Some(900),
        retrans: 2,
        bytes_sent: 100,
        bytes_received: u64::MAX,
    };
    let src = End { holder: &client, cookie: Some(4711), stats: Some(stats), closed_ns: None };
    let dst = End { holder: &server, cookie: None, stats: None, closed_ns: None };
    let flow = full();
    let mut batch = FlowBatch::new(&run());
    batch.append(&FlowRecord {
        last_seen_ns: Some(1_700_000_001_000_000_999),
        direction: Some(Direction::Local),
        src: Some(Attribution { method: Method::Socket, end: Some(src) }),
        dst: Some(Attribution { method: Method::Inherited, end: Some(dst) }),
        ..record(&flow)
    });
    let expected = "\
record_type=end
run_id=019aa000-0000-7000-8000-000000000001
seq=1
host_id=8f2c
host_name=web-1
boot_id=b00t
start_time=1700000000000000
end_time=1700000001500001
time_source=kernel
last_seen_time=1700000001000000
ip_version=6
proto=6
proto_name=tcp
src_ip=2001:db8::1
src_port=40000
dst_ip=2001:db8::5
dst_port=80
nat_src_ip=2001:db8::ffff
nat_src_port=1025
nat_dst_ip=fd00::80
nat_dst_port=8080
orig_packets=10
orig_bytes=1500
reply_packets=8
reply_bytes=9223372036854775807
counters_final=true
end_reason=closed
end_source=destroy
ct_state=time_wait
direction=local
ct_id=4294967295
ct_zone=65535
ct_mark=4294967294
ct_status=33166
seen_reply=true
assured=true
offloaded=true
ct_labels=000102030405060708090a0b0c0d0eff
observer_netns=4026531840
src_attribution=socket
src_pid=4194304
src_process_start_time=1699999999000001
src_ppid=1
src_uid=4294967294
src_login_uid=1000
src_user=nobody
src_comm=curl
src_exe=/usr/bin/curl
src_cmdline=curl --user ***
src_parent_exe=/bin/sh
src_cgroup=/system.slice/a.service
src_unit=a.service
src_container_id=c0ffee
src_pod_uid=p0d
src_netns_cookie=1
src_socket_cookie=4711
src_tcp_srtt_us=1500
src_tcp_min_rtt_us=900
src_tcp_retrans=2
src_tcp_bytes_sent=100
src_tcp_bytes_received=9223372036854775807
dst_attribution=inherited
dst_pid=77
dst_uid=4294967294
dst_comm=na\u{fffd}me
dst_netns_cookie=1
";
    assert_eq!(known(&batch.finish(), 0), expected);
}

#[test]
fn a_flow_of_which_nothing_is_known() {
    let flow = minimal();
    let mut batch = FlowBatch::new(&RunContext { boot_id: None, ..run() });
    batch.append(&record(&flow));
    let expected = "\
record_type=end
run_id=019aa000-0000-7000-8000-000000000001
seq=1
host_id=8f2c
host_name=web-1
end_time=1700000002000000
time_source=receive
ip_version=4
proto=89
proto_name=ospf
src_ip=10.0.0.1
dst_ip=10.0.0.2
counters_final=true
end_reason=timeout
end_source=destroy
observer_netns=4026531840
";
    assert_eq!(known(&batch.finish(), 0), expected);
}

#[test]
fn end_time_falls_back_to_the_event() {
    let flow = Flow { event_ns: Some(5_999), start_ns: Some(1_000), ..minimal() };
    check(&record(&flow), &[("end_time", "5"), ("time_source", "event"), ("start_time", "1")]);
}

#[test]
fn icmp_has_its_own_keys_and_no_ports() {
    let echo = |icmp_type, id| L4::Icmp { icmp_type, code: 0, id };
    let flow = Flow {
        orig: tuple("10.0.0.1", "10.0.0.2", Protocol::ICMP, echo(8, 7)),
        reply: tuple("10.0.0.2", "192.0.2.1", Protocol::ICMP, echo(0, 4242)),
        ..minimal()
    };
    check(
        &record(&flow),
        &[
            ("icmp_type", "8"),
            ("icmp_code", "0"),
            ("icmp_id", "7"),
            ("src_port", "NULL"),
            ("dst_port", "NULL"),
            ("nat_src_ip", "192.0.2.1"),
            ("nat_src_port", "NULL"),
            ("nat_dst_ip", "NULL"),
            ("nat_dst_port", "NULL"),
        ],
    );
}

#[test]
fn call_ids_of_gre_are_not_ports() {
    let flow = Flow {
        orig: tuple("10.0.0.1", "10.0.0.2", Protocol::GRE, L4::Ports { src: 1, dst: 2 }),
        reply: tuple("10.0.0.2", "10.0.0.1", Protocol::GRE, L4::Ports { src: 3, dst: 4 }),
        ..minimal()
    };
    check(&record(&flow), &[("proto_name", "gre"), ("src_port", "NULL"), ("nat_src_port", "NULL")]);
}

#[test]
fn nat_of_a_port_alone_leaves_the_address_null() {
    let flow = Flow {
        orig: tuple("10.0.0.1", "10.0.0.2", Protocol::UDP, L4::Ports { src: 1000, dst: 53 }),
        reply: tuple("10.0.0.2", "10.0.0.1", Protocol::UDP, L4::Ports { src: 53, dst: 2000 }),
        ..minimal()
    };
    check(
        &record(&flow),
        &[("nat_src_ip", "NULL"), ("nat_src_port", "2000"), ("nat_dst_ip", "NULL"), ("nat_dst_port", "NULL")],
    );
}

#[test]
fn numbers_without_a_name() {
    let flow = Flow {
        orig: Tuple { proto: Protocol(254), ..minimal().orig },
        state: Some(ProtoState::Sctp(SctpState(200))),
        status: Some(Status(0)),
        ..minimal()
    };
    check(
        &record(&flow),
        &[
            ("proto", "254"),
            ("proto_name", "NULL"),
            ("ct_state", "200"),
            ("ct_status", "0"),
            ("seen_reply", "false"),
            ("assured", "false"),
            ("offloaded", "false"),
        ],
    );
}

#[test]
fn an_ambiguous_process_has_no_columns_but_says_so() {
    let flow = minimal();
    let ambiguous = FlowRecord { src: Some(Attribution::AMBIGUOUS), ..record(&flow) };
    check(&ambiguous, &[("src_attribution", "ambiguous"), ("src_pid", "NULL"), ("dst_attribution", "NULL")]);
}

#[test]
fn what_a_socket_does_not_know_is_null() {
    let mut holder = holder(u32::MAX, b"", None);
    holder.owner.netns_cookie = 0;
    holder.process = None;
    let flow = minimal();
    let record = FlowRecord { dst: by_socket(&holder), ..record(&flow) };
    check(
        &record,
        &[("dst_pid", "NULL"), ("dst_comm", "NULL"), ("dst_exe", "NULL"), ("dst_netns_cookie", "NULL")],
    );
}

#[test]
fn a_batch_is_used_again_and_seq_goes_on() {
    let mut batch = FlowBatch::new(&run());
    assert!(batch.is_empty());
    let (first, second) = (full(), minimal());
    let client = holder(1, b"a", Some("/bin/a"));
    batch.append(&FlowRecord { src: by_socket(&client), ..record(&first) });
    batch.append(&record(&second));
    assert_eq!(batch.len(), 2);
    let before = batch.finish();
    assert!(batch.is_empty());

    batch.append(&record(&second));
    batch.append(&FlowRecord { src: by_socket(&client), ..record(&first) });
    let after = batch.finish();
    let strip =
        |text: String| text.lines().filter(|l| !l.starts_with("seq=")).map(String::from).collect::<Vec<_>>();
    assert_eq!(strip(known(&before, 0)), strip(known(&after, 1)));
    assert_eq!(strip(known(&before, 1)), strip(known(&after, 0)));
    assert!(known(&after, 0).contains("\nseq=3\n"));
    assert!(known(&after, 1).contains("\nseq=4\n"));
    assert_eq!(batch.finish().num_rows(), 0);
}

#[test]
fn a_distinct_text_is_once_in_the_dictionary_of_its_batch() {
    let mut batch = FlowBatch::new(&run());
    let flow = full();
    let client = holder(1, b"a", Some("/bin/a"));
    for _ in 0..100 {
        batch.append(&FlowRecord { src: by_socket(&client), ..record(&flow) });
    }
    let batch = batch.finish();
    for name in ["run_id", "src_ip", "nat_dst_ip", "ct_state", "ct_labels", "src_comm", "src_exe"] {
        let column = batch.column_by_name(name).unwrap().as_dictionary::<Int32Type>();
        assert_eq!(column.values().len(), 1, "{name}");
    }
}

fn any_l4() -> impl Strategy<Value = L4> {
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(src, dst)| L4::Ports { src, dst }),
        any::<(u8, u8, u16)>().prop_map(|(icmp_type, code, id)| L4::Icmp { icmp_type, code, id }),
        Just(L4::None),
    ]
}

fn any_tuple() -> impl Strategy<Value = Tuple> {
    (any::<IpAddr>(), any::<IpAddr>(), any::<u8>(), any_l4(), any::<Option<u16>>())
        .prop_map(|(src, dst, proto, l4, zone)| Tuple { src, dst, proto: Protocol(proto), l4, zone })
}

fn any_state() -> impl Strategy<Value = ProtoState> {
    prop_oneof![
        any::<u8>().prop_map(|n| ProtoState::Tcp(TcpState(n))),
        any::<u8>().prop_map(|n| ProtoState::Sctp(SctpState(n))),
        any::<u8>().prop_map(|n| ProtoState::Dccp(DccpState(n))),
    ]
}

fn any_counters() -> impl Strategy<Value = Option<Counters>> {
    any::<Option<(u64, u64)>>()
        .prop_map(|counters| counters.map(|(packets, bytes)| Counters { packets, bytes }))
}

prop_compose! {
    fn any_flow()(
        (orig, reply) in (any_tuple(), any_tuple()),
        (id, status, timeout_s, mark, zone) in any::<(Option<u32>, Option<u32>, Option<u32>, Option<u32>, Option<u16>)>(),
        (orig_counters, reply_counters) in (any_counters(), any_counters()),
        (start_ns, stop_ns, event_ns) in any::<(Option<u64>, Option<u64>, Option<u64>)>(),
        state in proptest::option::of(any_state()),
        labels in any::<Option<[u8; 16]>>(),
    ) -> Flow {
        let status = status.map(Status);
        Flow {
            orig, reply, id, status, timeout_s, mark, zone, orig_counters, reply_counters,
            start_ns, stop_ns, event_ns, state, labels,
        }
    }
}

proptest! {
    /// Whatever a message says, it becomes a row; and the row says the same again.
    #[test]
    fn any_flow_becomes_a_row(
        flow in any_flow(),
        (tgid, comm, cookie) in any::<(u32, [u8; 16], u64)>(),
        (received_ns, observer_netns) in any::<(u64, u64)>(),
    ) {
        let socket = holder(tgid, &comm, Some("/bin/a"));
        let end = End { holder: &socket, cookie: Some(cookie), stats: None, closed_ns: None };
        let end = Some(Attribution { method: Method::Socket, end: Some(end) });
        let record = FlowRecord { received_ns, observer_netns, src: end, dst: end, ..record(&flow) };
        let mut batch = FlowBatch::new(&run());
        batch.append(&record);
        let values = row(&batch.finish(), 0);
        let value = |column: &str| &values.iter().find(|(name, _)| name == column).unwrap().1;

        prop_assert_eq!(value("src_ip"), &flow.orig.src.to_string());
        prop_assert_eq!(value("dst_ip"), &flow.orig.dst.to_string());
        let end_ns = flow.stop_ns.or(flow.event_ns).unwrap_or(received_ns);
        prop_assert_eq!(value("end_time"), &(end_ns / 1000).to_string());
        prop_assert_eq!(value("orig_bytes") == "NULL", flow.orig_counters.is_none());
        prop_assert!(values.iter().all(|(_, value)| !value.is_empty()));
    }
}

#[test]
fn a_record_of_a_dump_says_so() {
    let mut batch = FlowBatch::new(&run());
    let flow = Flow { event_ns: Some(1_700_000_001_000_000_000), stop_ns: None, ..full() };
    for sighting in [Sighting::Vanished, Sighting::Alive] {
        batch.append(&FlowRecord { sighting, counters_final: false, ..record(&flow) });
    }
    let batch = batch.finish();
    let columns = ["record_type", "end_source", "end_reason", "counters_final", "time_source"];
    for (number, expected) in [
        (0, ["end", "reconcile", "closed", "false", "dump"]),
        (1, ["active", "active", "NULL", "false", "dump"]),
    ] {
        let row = row(&batch, number);
        let has = |(column, value): (&str, &str)| row.contains(&(column.to_owned(), value.to_owned()));
        assert!(columns.into_iter().zip(expected).all(has), "{row:?}");
    }
}
