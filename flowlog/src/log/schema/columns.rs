//! The table of all columns: each is one row here, and nowhere else.

use arrow_array::ArrayRef;

use flowlog_reader::schema::ColumnType;

use super::column::{Definition, Kind as _, NULLABLE, REQUIRED};
use super::row::{EndRow, FlowRow, known_cookie, saturate};
use super::sparse::{Bool, Int32, Int64, Sequence, Time, Unknown};
use super::text::{Address, Labels, Names, Same, Shared, State, Task};
use super::values;
use crate::flow::EndReason;
use crate::record::CommandLine;
use crate::time::to_us;

/// Version of the schema, as files carry it in `flowlog.schema_version`. New columns do not change it.
pub const VERSION: &str = "2";

/// Columns that older versions wrote, by id, name and type. Their ids are not used again.
pub(super) const RETIRED: [(u16, &str, ColumnType); 1] = [(9, "duration_us", ColumnType::Int64)];

/// Defines columns in the order in which files have them. A row is
///
/// ```text
/// id name: kind, form, "meaning", |row| value;
/// ```
///
/// The id is any that no other column has or had; a column may be added between two others. The kind is the builder
/// ([`Kind`](super::column::Kind)), to which the value of each row is appended.
macro_rules! columns {
    ($(#[$doc:meta])* $Columns:ident of $Row:ident, with ids $Id:ty {
        $($id:tt $name:ident: $Kind:ty, $form:expr, $meaning:literal, |$row:ident| $value:expr;)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $Columns { $($name: $Kind,)+ }

        impl $Columns {
            /// What the columns are.
            pub(super) const DEFINITIONS: &[Definition<$Id>] = &[$(Definition {
                id: $id,
                name: stringify!($name),
                kind: <$Kind>::TYPE,
                form: $form,
                meaning: $meaning,
            },)+];

            /// Appends the value of a row to each.
            pub(super) fn append(&mut self, row: &$Row<'_>) {
                $({
                    let $row = row;
                    self.$name.append($value);
                })+
            }

            /// Appends the columns, which begin anew, to `arrays`.
            pub(super) fn finish(&mut self, unknown: &Unknown, arrays: &mut Vec<ArrayRef>) {
                $(arrays.push(self.$name.finish(unknown));)+
            }
        }
    };
}

columns! {
    /// Columns of the flow itself.
    FlowColumns of FlowRow, with ids u16 {
        1 record_type: Names, REQUIRED,
            "end (finished flow) or active (interim record, opt-in)",
            |row| Some(values::record_type(row.record.sighting));
        2 run_id: Same, REQUIRED,
            "UUIDv7 of the run of the daemon",
            |row| Some(&row.run.run_id);
        3 seq: Sequence, REQUIRED.delta(),
            "number of the row in the run, from 1, without holes; run_id and seq identify the row",
            |_row| ();
        4 host_id: Same, REQUIRED,
            "application-specific hash of the machine id",
            |row| Some(&row.run.host_id);
        5 host_name: Same, REQUIRED,
            "name of the host",
            |row| Some(&row.run.host_name);
        6 boot_id: Same, NULLABLE,
            "boot id of the kernel",
            |row| row.run.boot_id.as_ref();
        7 start_time: Time, NULLABLE.delta(),
            "first packet (CTA_TIMESTAMP_START)",
            |row| row.times.start_us;
        8 end_time: Time, REQUIRED.delta(),
            "when the entry was destroyed; see time_source",
            |row| Some(row.times.end_us);
        10 time_source: Names, REQUIRED,
            "source of end_time: kernel (CTA_TIMESTAMP_STOP), event (CTA_TIMESTAMP_EVENT), receive or dump",
            |row| Some(row.times.source);
        11 last_seen_time: Time, NULLABLE.delta(),
            "last packet",
            |row| row.record.last_seen_ns.map(to_us);
        12 ip_version: Int32, REQUIRED,
            "4 or 6",
            |row| Some(if row.flow.orig.src.is_ipv4() { 4 } else { 6 });
        13 proto: Int32, REQUIRED,
            "IANA protocol number",
            |row| Some(row.flow.orig.proto.0.into());
        14 proto_name: Names, NULLABLE,
            "tcp, udp, udplite, icmp, icmpv6, sctp, dccp, gre, esp ...",
            |row| row.flow.orig.proto.name();
        15 src_ip: Address, REQUIRED.looked_up(),
            "initiator, original source: RFC 5952 text, IPv4 as dotted quad",
            |row| Some(row.flow.orig.src);
        16 src_port: Int32, NULLABLE.delta(),
            "port of the initiator, NULL if the protocol has none",
            |row| row.ports.map(|(src, _)| src.into());
        17 dst_ip: Address, REQUIRED.looked_up(),
            "responder, original destination",
            |row| Some(row.flow.orig.dst);
        18 dst_port: Int32, NULLABLE,
            "port of the responder, NULL if the protocol has none",
            |row| row.ports.map(|(_, dst)| dst.into());
        19 icmp_type: Int32, NULLABLE,
            "ICMP or ICMPv6 type of the first packet",
            |row| row.icmp.map(|icmp| icmp.icmp_type.into());
        20 icmp_code: Int32, NULLABLE,
            "ICMP or ICMPv6 code of the first packet",
            |row| row.icmp.map(|icmp| icmp.code.into());
        21 icmp_id: Int32, NULLABLE,
            "ICMP or ICMPv6 echo id",
            |row| row.icmp.map(|icmp| icmp.id.into());
        22 nat_src_ip: Address, NULLABLE.looked_up(),
            "src_ip after NAT, NULL if unchanged",
            |row| row.nat.src_ip;
        23 nat_src_port: Int32, NULLABLE.delta(),
            "src_port after NAT, NULL if unchanged",
            |row| row.nat.src_port.map(i32::from);
        24 nat_dst_ip: Address, NULLABLE.looked_up(),
            "dst_ip after NAT, NULL if unchanged",
            |row| row.nat.dst_ip;
        25 nat_dst_port: Int32, NULLABLE,
            "dst_port after NAT, NULL if unchanged",
            |row| row.nat.dst_port.map(i32::from);
        26 orig_packets: Int64, NULLABLE,
            "packets from src to dst, NULL if accounting was off",
            |row| row.flow.orig_counters.map(|counters| saturate(counters.packets));
        27 orig_bytes: Int64, NULLABLE,
            "layer 3 bytes from src to dst, counted per socket buffer",
            |row| row.flow.orig_counters.map(|counters| saturate(counters.bytes));
        28 reply_packets: Int64, NULLABLE,
            "packets from dst to src, NULL if accounting was off",
            |row| row.flow.reply_counters.map(|counters| saturate(counters.packets));
        29 reply_bytes: Int64, NULLABLE,
            "layer 3 bytes from dst to src, counted per socket buffer",
            |row| row.flow.reply_counters.map(|counters| saturate(counters.bytes));
        30 counters_final: Bool, REQUIRED,
            "false if the counters are a snapshot (active, reconcile, import of a list)",
            |row| Some(row.record.counters_final);
        31 end_reason: Names, NULLABLE,
            "closed, reset, timeout, deleted (removed while it was open, also by a full table) or unknown",
            |row| row.end_reason.map(EndReason::name);
        32 end_source: Names, REQUIRED,
            "destroy (kernel event), reconcile (gone between two dumps), active or import",
            |row| Some(values::end_source(row.record.sighting));
        33 ct_state: State, NULLABLE,
            "TCP, SCTP or DCCP state at the end: time_wait, syn_sent ...",
            |row| row.flow.state;
        34 direction: Names, NULLABLE,
            "outbound, inbound, local or forwarded",
            |row| row.record.direction.map(values::direction);
        35 ct_id: Int64, NULLABLE.delta(),
            "id of the entry (CTA_ID)",
            |row| row.flow.id.map(i64::from);
        36 ct_zone: Int32, NULLABLE,
            "zone (CTA_ZONE); the kernel leaves out 0",
            |row| row.flow.zone.map(i32::from);
        37 ct_mark: Int64, NULLABLE,
            "mark (CTA_MARK); the kernel leaves out 0",
            |row| row.flow.mark.map(i64::from);
        38 ct_status: Int64, NULLABLE,
            "status bits (CTA_STATUS), unknown ones kept; NULL in an import",
            |row| row.status.all.map(i64::from);
        39 seen_reply: Bool, NULLABLE,
            "packets went both ways (IPS_SEEN_REPLY)",
            |row| row.status.seen_reply;
        40 assured: Bool, NULLABLE,
            "not evicted early when the table is full (IPS_ASSURED)",
            |row| row.status.assured;
        41 offloaded: Bool, NULLABLE,
            "handled by a flow table or hardware; its counters may be frozen",
            |row| row.status.offloaded;
        42 ct_labels: Labels, NULLABLE,
            "labels as 32 hex digits (CTA_LABELS)",
            |row| row.flow.labels;
        43 observer_netns: Int64, REQUIRED,
            "inode of the network namespace that tracked the flow; 0: not known (import)",
            |row| Some(saturate(row.record.observer_netns));
        88 observer_netns_name: Shared, NULLABLE,
            "its name in `ip netns`, or the path by which it is watched; NULL: the one that flowlog runs in",
            |row| row.record.observer_netns_name;
    }
}

columns! {
    /// Columns of the local process at one end, for both: the ids are those of the initiating and of the responding end.
    EndColumns of EndRow, with ids [u16; 2] {
        [44, 66] attribution: Names, NULLABLE,
            "how the process is known: socket, endpoint, inherited, closer, seed, raw, program, ambiguous; NULL: no local process is known",
            |end| end.method.map(values::attribution);
        [45, 67] pid: Int32, NULLABLE,
            "thread group id in the initial pid namespace; NULL if attribution is program",
            |end| end.owner.and_then(|owner| owner.tgid.try_into().ok());
        [46, 68] process_start_time: Time, NULLABLE,
            "start of the process; identifies it together with pid, even if the pid is reused",
            |end| end.process.and_then(|process| process.start_ns).map(to_us);
        [47, 69] ppid: Int32, NULLABLE,
            "thread group id of the parent when the process began",
            |end| end.process.and_then(|process| process.ppid?.try_into().ok());
        [48, 70] uid: Int64, NULLABLE,
            "user id",
            |end| end.uid;
        [49, 71] login_uid: Int64, NULLABLE,
            "audit login uid: who logged in before sudo; NULL: nobody did",
            |end| end.process.and_then(|process| process.login_uid).map(i64::from);
        [50, 72] user: Shared, NULLABLE,
            "name of uid, if the host knows it",
            |end| end.origin.and_then(|origin| origin.user.as_ref());
        [51, 73] comm: Task, NULLABLE,
            "name of the thread that opened the socket",
            |end| end.owner.map(|owner| owner.comm);
        [52, 74] exe: Shared, NULLABLE,
            "path of the program that runs, as `/proc/PID/exe` shows it",
            |end| end.exe;
        [53, 75] cmdline: Shared, NULLABLE,
            "arguments, separated by spaces, secrets masked",
            |end| end.process.and_then(|process| process.cmdline.as_ref()).map(CommandLine::text);
        [54, 76] parent_exe: Shared, NULLABLE,
            "path of the parent's program when the process began",
            |end| end.process.and_then(|process| process.parent_exe.as_ref());
        [55, 77] cgroup: Shared, NULLABLE,
            "cgroup path",
            |end| end.cgroup.and_then(|cgroup| cgroup.path.as_ref());
        [56, 78] unit: Shared, NULLABLE,
            "systemd unit or scope",
            |end| end.cgroup.and_then(|cgroup| cgroup.unit.as_ref());
        [57, 79] container_id: Shared, NULLABLE.looked_up(),
            "container, from the cgroup path",
            |end| end.cgroup.and_then(|cgroup| cgroup.container_id.as_ref());
        [58, 80] pod_uid: Shared, NULLABLE,
            "Kubernetes pod, from the cgroup path",
            |end| end.cgroup.and_then(|cgroup| cgroup.pod_uid.as_ref());
        [59, 81] netns_cookie: Int64, NULLABLE,
            "cookie of the socket's network namespace (SO_NETNS_COOKIE)",
            |end| end.netns_cookie;
        [60, 82] socket_cookie: Int64, NULLABLE.delta(),
            "cookie of the socket (SO_COOKIE)",
            |end| end.socket_cookie.and_then(known_cookie);
        [61, 83] tcp_srtt_us: Int64, NULLABLE.delta(),
            "smoothed round trip time at close",
            |end| end.stats.and_then(|stats| stats.srtt_us).map(i64::from);
        [62, 84] tcp_min_rtt_us: Int64, NULLABLE.delta(),
            "smallest round trip time",
            |end| end.stats.and_then(|stats| stats.min_rtt_us).map(i64::from);
        [63, 85] tcp_retrans: Int64, NULLABLE,
            "segments sent again",
            |end| end.stats.map(|stats| stats.retrans.into());
        [64, 86] tcp_bytes_sent: Int64, NULLABLE,
            "payload sent and acknowledged",
            |end| end.stats.map(|stats| saturate(stats.bytes_sent));
        [65, 87] tcp_bytes_received: Int64, NULLABLE,
            "payload received",
            |end| end.stats.map(|stats| saturate(stats.bytes_received));
    }
}
