//! Rows become columns: the builders of one record batch, appended in place.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BooleanBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow_schema::SchemaRef;
use serde_json::Value;
use uuid::Uuid;

use super::columns::{ColumnType, batch_schema};
use super::end::EndColumns;
use super::row::{Nat, StatusBits, Times, end_reason, ports, saturate};
use super::sparse::{Sparse, Unknown, utc};
use super::text::{Keyed, Names, constant, dictionary};
use super::values;
use crate::flow::{Counters, EndReason, Flow, L4, ProtoState};
use crate::record::FlowRecord;
use crate::time::to_us;

/// What is the same in all rows of one run of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunContext {
    /// UUIDv7 of the run.
    pub run_id: Uuid,
    /// Application-specific hash of the machine id.
    pub host_id: String,
    /// Name of the host.
    pub host_name: String,
    /// Boot id of the kernel, where known.
    pub boot_id: Option<String>,
}

/// What the files of a run say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFacts {
    /// The run, for names and metadata of files.
    pub run: RunContext,
    /// Release of the kernel, for the metadata.
    pub kernel: String,
    /// Whether the kernel counts packets and bytes (`nf_conntrack_acct`), where known.
    pub acct: Option<bool>,
    /// Whether the kernel takes start and stop times (`nf_conntrack_timestamp`), where known.
    pub timestamp: Option<bool>,
    /// Which flows are recorded, as JSON; `None` for all.
    pub filter: Option<Value>,
}

/// The rows of one record batch. It numbers the rows of the run: `seq` goes on from batch to batch.
///
/// There is no allocation per row: only builders and dictionaries grow.
#[derive(Debug)]
pub struct FlowBatch {
    schema: SchemaRef,
    constants: Constants,
    /// `seq` of the first row of this batch.
    first_seq: i64,

    record_type: Names,
    start_time: TimestampMicrosecondBuilder,
    end_time: TimestampMicrosecondBuilder,
    duration_us: Sparse<Int64Type>,
    time_source: Names,
    ip_version: Int32Builder,
    proto: Int32Builder,
    proto_name: Names,
    src_ip: Keyed<IpAddr>,
    src_port: Sparse<Int32Type>,
    dst_ip: Keyed<IpAddr>,
    dst_port: Sparse<Int32Type>,
    icmp_type: Sparse<Int32Type>,
    icmp_code: Sparse<Int32Type>,
    icmp_id: Sparse<Int32Type>,
    nat_src_ip: Keyed<IpAddr>,
    nat_src_port: Sparse<Int32Type>,
    nat_dst_ip: Keyed<IpAddr>,
    nat_dst_port: Sparse<Int32Type>,
    orig_packets: Sparse<Int64Type>,
    orig_bytes: Sparse<Int64Type>,
    reply_packets: Sparse<Int64Type>,
    reply_bytes: Sparse<Int64Type>,
    counters_final: BooleanBuilder,
    end_reason: Names,
    end_source: Names,
    ct_state: Names,
    ct_id: Sparse<Int64Type>,
    ct_zone: Sparse<Int32Type>,
    ct_mark: Sparse<Int64Type>,
    ct_status: Sparse<Int64Type>,
    seen_reply: BooleanBuilder,
    assured: BooleanBuilder,
    offloaded: BooleanBuilder,
    ct_labels: Keyed<[u8; 16]>,
    observer_netns: Int64Builder,
    last_seen_time: Sparse<TimestampMicrosecondType>,
    direction: Names,
    src: EndColumns,
    dst: EndColumns,
}

impl FlowBatch {
    /// An empty batch. The first row of the run gets `seq` 1.
    pub fn new(run: &RunContext) -> Self {
        Self {
            schema: batch_schema(),
            constants: Constants::new(run),
            first_seq: 1,
            record_type: Names::new(),
            start_time: timestamps(),
            end_time: timestamps(),
            duration_us: Sparse::new(),
            time_source: Names::new(),
            ip_version: Int32Builder::with_capacity(0),
            proto: Int32Builder::with_capacity(0),
            proto_name: Names::new(),
            src_ip: Keyed::new(),
            src_port: Sparse::new(),
            dst_ip: Keyed::new(),
            dst_port: Sparse::new(),
            icmp_type: Sparse::new(),
            icmp_code: Sparse::new(),
            icmp_id: Sparse::new(),
            nat_src_ip: Keyed::new(),
            nat_src_port: Sparse::new(),
            nat_dst_ip: Keyed::new(),
            nat_dst_port: Sparse::new(),
            orig_packets: Sparse::new(),
            orig_bytes: Sparse::new(),
            reply_packets: Sparse::new(),
            reply_bytes: Sparse::new(),
            counters_final: bools(),
            end_reason: Names::new(),
            end_source: Names::new(),
            ct_state: Names::new(),
            ct_id: Sparse::new(),
            ct_zone: Sparse::new(),
            ct_mark: Sparse::new(),
            ct_status: Sparse::new(),
            seen_reply: bools(),
            assured: bools(),
            offloaded: bools(),
            ct_labels: Keyed::new(),
            observer_netns: Int64Builder::with_capacity(0),
            last_seen_time: Sparse::new(),
            direction: Names::new(),
            src: EndColumns::new(),
            dst: EndColumns::new(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.end_time.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends what is said of a flow as the next row of the run.
    pub fn append(&mut self, record: &FlowRecord<'_>) {
        let FlowRecord {
            flow,
            sighting,
            received_ns: _,
            counters_final,
            observer_netns,
            last_seen_ns,
            direction,
            src,
            dst,
        } = record;
        let Flow {
            orig,
            reply: _,
            id,
            status: _,
            timeout_s: _,
            mark,
            zone,
            orig_counters,
            reply_counters,
            start_ns: _,
            stop_ns: _,
            event_ns: _,
            state,
            labels,
        } = flow;

        self.record_type.append(Some(values::record_type(*sighting)));
        let times = Times::of(record);
        self.start_time.append_option(times.start_us);
        self.end_time.append_value(times.end_us);
        self.duration_us.append(times.duration_us);
        self.time_source.append(Some(times.source));

        self.ip_version.append_value(if orig.src.is_ipv4() { 4 } else { 6 });
        self.proto.append_value(i32::from(orig.proto.0));
        self.proto_name.append(orig.proto.name());
        append_addr(&mut self.src_ip, Some(orig.src));
        append_addr(&mut self.dst_ip, Some(orig.dst));
        let (src_port, dst_port) = ports(orig).unzip();
        self.src_port.append(src_port.map(i32::from));
        self.dst_port.append(dst_port.map(i32::from));
        let icmp = match orig.l4 {
            L4::Icmp { icmp_type, code, id } => Some((icmp_type, code, id)),
            L4::Ports { .. } | L4::None => None,
        };
        self.icmp_type.append(icmp.map(|(icmp_type, _, _)| i32::from(icmp_type)));
        self.icmp_code.append(icmp.map(|(_, code, _)| i32::from(code)));
        self.icmp_id.append(icmp.map(|(_, _, id)| i32::from(id)));

        let nat = Nat::of(flow);
        append_addr(&mut self.nat_src_ip, nat.src_ip);
        self.nat_src_port.append(nat.src_port.map(i32::from));
        append_addr(&mut self.nat_dst_ip, nat.dst_ip);
        self.nat_dst_port.append(nat.dst_port.map(i32::from));

        append_counters(&mut self.orig_packets, &mut self.orig_bytes, *orig_counters);
        append_counters(&mut self.reply_packets, &mut self.reply_bytes, *reply_counters);
        self.counters_final.append_value(*counters_final);
        self.end_reason.append(end_reason(record).map(EndReason::name));
        self.end_source.append(Some(values::end_source(*sighting)));
        append_state(&mut self.ct_state, *state);

        self.ct_id.append(id.map(i64::from));
        self.ct_zone.append(zone.map(i32::from));
        self.ct_mark.append(mark.map(i64::from));
        let status = StatusBits::of(record);
        self.ct_status.append(status.all.map(i64::from));
        self.seen_reply.append_option(status.seen_reply);
        self.assured.append_option(status.assured);
        self.offloaded.append_option(status.offloaded);
        append_labels(&mut self.ct_labels, *labels);
        self.observer_netns.append_value(saturate(*observer_netns));
        self.last_seen_time.append(last_seen_ns.map(to_us));
        self.direction.append(direction.map(values::direction));
        self.src.append(*src);
        self.dst.append(*dst);
    }

    /// The rows as a record batch with the schema [`batch_schema`]; the next row begins a new one.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = self.len();
        let next_seq = self.first_seq.saturating_add(i64::try_from(rows).unwrap_or(i64::MAX));
        let seq = Arc::new(Int64Array::from_iter_values(self.first_seq..next_seq));
        self.first_seq = next_seq;

        let unknown = Unknown::new(rows);
        let same = SameKey::new(rows);
        let Constants { run_id, host_id, host_name, boot_id } = &self.constants;
        let mut columns: Vec<ArrayRef> = vec![
            self.record_type.finish_or(unknown.text()),
            same.column(run_id),
            seq,
            same.column(host_id),
            same.column(host_name),
            boot_id.as_ref().map_or_else(|| unknown.text(), |boot_id| same.column(boot_id)),
            Arc::new(self.start_time.finish()),
            Arc::new(self.end_time.finish()),
            self.duration_us.finish_or(unknown.int64()),
            self.time_source.finish_or(unknown.text()),
            self.last_seen_time.finish().map_or_else(|| unknown.timestamp(), utc),
            Arc::new(self.ip_version.finish()),
            Arc::new(self.proto.finish()),
            self.proto_name.finish_or(unknown.text()),
            self.src_ip.finish_or(unknown.text()),
            self.src_port.finish_or(unknown.int32()),
            self.dst_ip.finish_or(unknown.text()),
            self.dst_port.finish_or(unknown.int32()),
            self.icmp_type.finish_or(unknown.int32()),
            self.icmp_code.finish_or(unknown.int32()),
            self.icmp_id.finish_or(unknown.int32()),
            self.nat_src_ip.finish_or(unknown.text()),
            self.nat_src_port.finish_or(unknown.int32()),
            self.nat_dst_ip.finish_or(unknown.text()),
            self.nat_dst_port.finish_or(unknown.int32()),
            self.orig_packets.finish_or(unknown.int64()),
            self.orig_bytes.finish_or(unknown.int64()),
            self.reply_packets.finish_or(unknown.int64()),
            self.reply_bytes.finish_or(unknown.int64()),
            Arc::new(self.counters_final.finish()),
            self.end_reason.finish_or(unknown.text()),
            self.end_source.finish_or(unknown.text()),
            self.ct_state.finish_or(unknown.text()),
            self.direction.finish_or(unknown.text()),
            self.ct_id.finish_or(unknown.int64()),
            self.ct_zone.finish_or(unknown.int32()),
            self.ct_mark.finish_or(unknown.int64()),
            self.ct_status.finish_or(unknown.int64()),
            Arc::new(self.seen_reply.finish()),
            Arc::new(self.assured.finish()),
            Arc::new(self.offloaded.finish()),
            self.ct_labels.finish_or(unknown.text()),
            Arc::new(self.observer_netns.finish()),
        ];
        columns.extend(self.src.finish(&unknown));
        columns.extend(self.dst.finish(&unknown));
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .expect("the columns are listed in the order of the schema and have one value per row")
    }
}

/// Dictionaries of the columns that have one value in the whole run.
#[derive(Debug)]
struct Constants {
    run_id: ArrayRef,
    host_id: ArrayRef,
    host_name: ArrayRef,
    boot_id: Option<ArrayRef>,
}

impl Constants {
    fn new(run: &RunContext) -> Self {
        let RunContext { run_id, host_id, host_name, boot_id } = run;
        Self {
            run_id: constant(&run_id.to_string()),
            host_id: constant(host_id),
            host_name: constant(host_name),
            boot_id: boot_id.as_deref().map(constant),
        }
    }
}

/// Keys of a column whose rows all have the first value of the dictionary; made once a batch.
struct SameKey(Int32Array);

impl SameKey {
    fn new(rows: usize) -> Self {
        Self(Int32Array::from_value(0, rows))
    }

    fn column(&self, value: &ArrayRef) -> ArrayRef {
        dictionary(self.0.clone(), Arc::clone(value))
    }
}

fn append_addr(column: &mut Keyed<IpAddr>, addr: Option<IpAddr>) {
    match addr {
        Some(IpAddr::V4(v4)) => column.append(v4.into(), |values| append_v4(values, v4)),
        Some(addr) => column.append(addr, |values| append_formatted(values, format_args!("{addr}"))),
        None => column.append_null(),
    }
}

/// Formats by itself: that of the standard library takes several times as long.
fn append_v4(values: &mut StringBuilder, addr: Ipv4Addr) {
    let mut text = itoa::Buffer::new();
    for (place, octet) in addr.octets().into_iter().enumerate() {
        // Writing to the builder never fails.
        let _ = if place > 0 { values.write_str(".") } else { Ok(()) };
        let _ = values.write_str(text.format(octet));
    }
    values.append_value("");
}

fn append_labels(column: &mut Keyed<[u8; 16]>, labels: Option<[u8; 16]>) {
    match labels {
        Some(labels) => {
            let number = u128::from_be_bytes(labels);
            column.append(labels, |values| append_formatted(values, format_args!("{number:032x}")));
        }
        None => column.append_null(),
    }
}

/// Formats in place. The builder's `write_fmt` never fails and makes the text of the next value.
fn append_formatted(values: &mut StringBuilder, text: std::fmt::Arguments<'_>) {
    let _ = values.write_fmt(text);
    values.append_value("");
}

fn append_counters(
    packets: &mut Sparse<Int64Type>,
    bytes: &mut Sparse<Int64Type>,
    counters: Option<Counters>,
) {
    packets.append(counters.map(|counters| saturate(counters.packets)));
    bytes.append(counters.map(|counters| saturate(counters.bytes)));
}

/// The name of the state, or its number where it has none: a state of a kernel newer than this
/// program, worth the allocation.
fn append_state(column: &mut Names, state: Option<ProtoState>) {
    match state.map(|state| (state.name(), state.number())) {
        Some((None, number)) => column.append_number(number),
        Some((name, _)) => column.append(name),
        None => column.append(None),
    }
}

fn bools() -> BooleanBuilder {
    BooleanBuilder::with_capacity(0)
}

fn timestamps() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::with_capacity(0).with_data_type(ColumnType::TimestampUs.arrow())
}
