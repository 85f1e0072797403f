//! The table of all columns, and the Arrow schemas that follow from it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use ColumnType::{Bool, Int32, Int64, Text, TimestampUs};

/// Version of the schema, as files carry it in `flowlog.schema_version`. New columns at the end do
/// not change it.
pub const VERSION: &str = "1";

/// The metadata key under which Parquet's Arrow writer looks for a field id, which Iceberg and other
/// table formats identify columns by.
pub(super) const FIELD_ID_KEY: &str = "PARQUET:field_id";

/// A column of the flow record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Field id: the number of the column, from 1.
    pub id: usize,
    /// Name.
    pub name: String,
    /// Type.
    pub kind: ColumnType,
    /// Whether every row has a value.
    pub required: bool,
    /// What the values mean and where they come from, in one line.
    pub doc: String,
}

/// Type of a column: the few that all engines read the same way. No unsigned integers (Iceberg,
/// Spark, Trino) and no nanoseconds (Spark).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// Signed 32 bit integer.
    Int32,
    /// Signed 64 bit integer.
    Int64,
    /// Boolean.
    Bool,
    /// Microseconds since the Unix epoch, UTC.
    TimestampUs,
}

impl ColumnType {
    /// The name that `flowlog schema` prints.
    pub fn name(self) -> &'static str {
        match self {
            Text => "text",
            Int32 => "int32",
            Int64 => "int64",
            Bool => "bool",
            TimestampUs => "timestamp us UTC",
        }
    }

    /// The Arrow type of the files.
    pub fn arrow(self) -> DataType {
        match self {
            Text => DataType::Utf8,
            Int32 => DataType::Int32,
            Int64 => DataType::Int64,
            Bool => DataType::Boolean,
            TimestampUs => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }
}

/// All columns, in the order of their field ids.
pub fn columns() -> Vec<Column> {
    let flow =
        FLOW.iter().map(|&(name, kind, required, doc)| (name.to_owned(), kind, required, doc.to_owned()));
    let ends = ENDS.iter().flat_map(|(prefix, end)| {
        BLOCK
            .iter()
            .map(move |(name, kind, doc)| (format!("{prefix}{name}"), *kind, false, format!("{end}: {doc}")))
    });
    flow.chain(ends)
        .zip(1..)
        .map(|((name, kind, required, doc), id)| Column { id, name, kind, required, doc })
        .collect()
}

/// The schema of the files.
pub fn file_schema() -> SchemaRef {
    schema(ColumnType::arrow)
}

/// The schema of the batches in memory: that of the files, with text as dictionary keys. A text that
/// repeats is then a number from the row to the encoder.
pub fn batch_schema() -> SchemaRef {
    schema(|kind| match kind {
        Text => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        Int32 | Int64 | Bool | TimestampUs => kind.arrow(),
    })
}

fn schema(data_type: impl Fn(ColumnType) -> DataType) -> SchemaRef {
    let field = |column: Column| {
        Field::new(column.name, data_type(column.kind), !column.required)
            .with_metadata(HashMap::from([(FIELD_ID_KEY.to_owned(), column.id.to_string())]))
    };
    Arc::new(Schema::new(columns().into_iter().map(field).collect::<Vec<_>>()))
}

const REQUIRED: bool = true;
const NULLABLE: bool = false;

/// Columns of the flow itself.
const FLOW: [(&str, ColumnType, bool, &str); 43] = [
    ("record_type", Text, REQUIRED, "end (finished flow) or active (interim record, opt-in)"),
    ("run_id", Text, REQUIRED, "UUIDv7 of the run of the daemon"),
    (
        "seq",
        Int64,
        REQUIRED,
        "number of the row in the run, from 1, without holes; with run_id it names the row",
    ),
    ("host_id", Text, REQUIRED, "application-specific hash of the machine id"),
    ("host_name", Text, REQUIRED, "name of the host"),
    ("boot_id", Text, NULLABLE, "boot id of the kernel"),
    ("start_time", TimestampUs, NULLABLE, "first packet (CTA_TIMESTAMP_START)"),
    ("end_time", TimestampUs, REQUIRED, "when the entry was destroyed; see time_source"),
    ("duration_us", Int64, NULLABLE, "end_time - start_time, where both are the kernel's"),
    (
        "time_source",
        Text,
        REQUIRED,
        "source of end_time: kernel (CTA_TIMESTAMP_STOP), event (CTA_TIMESTAMP_EVENT), receive or dump",
    ),
    ("last_seen_time", TimestampUs, NULLABLE, "last packet"),
    ("ip_version", Int32, REQUIRED, "4 or 6"),
    ("proto", Int32, REQUIRED, "IANA protocol number"),
    ("proto_name", Text, NULLABLE, "tcp, udp, udplite, icmp, icmpv6, sctp, dccp, gre, esp ..."),
    ("src_ip", Text, REQUIRED, "initiator, original source: RFC 5952 text, IPv4 as dotted quad"),
    ("src_port", Int32, NULLABLE, "port of the initiator, NULL where the protocol has none"),
    ("dst_ip", Text, REQUIRED, "responder, original destination"),
    ("dst_port", Int32, NULLABLE, "port of the responder, NULL where the protocol has none"),
    ("icmp_type", Int32, NULLABLE, "ICMP or ICMPv6 type of the first packet"),
    ("icmp_code", Int32, NULLABLE, "ICMP or ICMPv6 code of the first packet"),
    ("icmp_id", Int32, NULLABLE, "ICMP or ICMPv6 echo id"),
    ("nat_src_ip", Text, NULLABLE, "what NAT made of src_ip, NULL where unchanged"),
    ("nat_src_port", Int32, NULLABLE, "what NAT made of src_port, NULL where unchanged"),
    ("nat_dst_ip", Text, NULLABLE, "what NAT made of dst_ip, NULL where unchanged"),
    ("nat_dst_port", Int32, NULLABLE, "what NAT made of dst_port, NULL where unchanged"),
    ("orig_packets", Int64, NULLABLE, "packets from src to dst, NULL where accounting was off"),
    ("orig_bytes", Int64, NULLABLE, "layer 3 bytes from src to dst, counted per socket buffer"),
    ("reply_packets", Int64, NULLABLE, "packets from dst to src, NULL where accounting was off"),
    ("reply_bytes", Int64, NULLABLE, "layer 3 bytes from dst to src, counted per socket buffer"),
    (
        "counters_final",
        Bool,
        REQUIRED,
        "false where the counters are a snapshot (active, reconcile, import of a list)",
    ),
    (
        "end_reason",
        Text,
        NULLABLE,
        "closed, reset, timeout, deleted (removed while it was open, also by a full table) or unknown",
    ),
    (
        "end_source",
        Text,
        REQUIRED,
        "destroy (kernel event), reconcile (gone between two dumps), active or import",
    ),
    ("ct_state", Text, NULLABLE, "TCP, SCTP or DCCP state at the end: time_wait, syn_sent ..."),
    ("direction", Text, NULLABLE, "outbound, inbound, local or forwarded"),
    ("ct_id", Int64, NULLABLE, "id of the entry (CTA_ID)"),
    ("ct_zone", Int32, NULLABLE, "zone (CTA_ZONE); the kernel leaves out 0"),
    ("ct_mark", Int64, NULLABLE, "mark (CTA_MARK); the kernel leaves out 0"),
    ("ct_status", Int64, NULLABLE, "status bits (CTA_STATUS), unknown ones kept; NULL in an import"),
    ("seen_reply", Bool, NULLABLE, "packets went both ways (IPS_SEEN_REPLY)"),
    ("assured", Bool, NULLABLE, "not evicted early when the table is full (IPS_ASSURED)"),
    ("offloaded", Bool, NULLABLE, "handled by a flow table or hardware; its counters may be frozen"),
    ("ct_labels", Text, NULLABLE, "labels as 32 hex digits (CTA_LABELS)"),
    (
        "observer_netns",
        Int64,
        REQUIRED,
        "inode of the network namespace that tracked the flow; 0: not known (import)",
    ),
];

/// The two ends that have the columns of [`BLOCK`]: prefix, and what it stands for.
const ENDS: [(&str, &str); 2] = [("src_", "initiating end"), ("dst_", "responding end")];

/// Columns of the local process at one end.
const BLOCK: [(&str, ColumnType, &str); 22] = [
    (
        "attribution",
        Text,
        "how the process is known: socket, endpoint, inherited, closer, seed, raw, ambiguous; NULL: no local process is known",
    ),
    ("pid", Int32, "thread group id in the initial pid namespace"),
    ("process_start_time", TimestampUs, "start of the process; with pid an identity that survives reuse"),
    ("ppid", Int32, "thread group id of the parent when the process began"),
    ("uid", Int64, "user id"),
    ("login_uid", Int64, "audit login uid: who logged in before sudo; NULL: nobody did"),
    ("user", Text, "name of uid, where the host knows it"),
    ("comm", Text, "name of the thread that opened the socket"),
    ("exe", Text, "path of the program that runs, as `/proc/PID/exe` tells it"),
    ("cmdline", Text, "arguments, separated by spaces, secrets masked"),
    ("parent_exe", Text, "path of the parent's program when the process began"),
    ("cgroup", Text, "cgroup path"),
    ("unit", Text, "systemd unit or scope"),
    ("container_id", Text, "container, from the cgroup path"),
    ("pod_uid", Text, "Kubernetes pod, from the cgroup path"),
    ("netns_cookie", Int64, "cookie of the socket's network namespace (SO_NETNS_COOKIE)"),
    ("socket_cookie", Int64, "cookie of the socket (SO_COOKIE)"),
    ("tcp_srtt_us", Int64, "smoothed round trip time at close"),
    ("tcp_min_rtt_us", Int64, "smallest round trip time"),
    ("tcp_retrans", Int64, "segments sent again"),
    ("tcp_bytes_sent", Int64, "payload sent and acknowledged"),
    ("tcp_bytes_received", Int64, "payload received"),
];
