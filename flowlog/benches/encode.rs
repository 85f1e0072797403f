//! The stages of a flow, each by itself: from the bytes of its message to those of a file.
//!
//! The flows are those of `rows`, in batches as the daemon has them. All is in memory or in the page cache: what
//! the disk takes is not here.

#![forbid(unsafe_code)]

mod mix;
mod rows;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use arrow_array::RecordBatch;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use flowlog::connections::ctnetlink::sets::{CounterAttributes, Timestamps};
use flowlog::connections::ctnetlink::uapi::IPCTNL_MSG_CT_DELETE;
use flowlog::connections::ctnetlink::{Entry, decode, encode};
use flowlog::connections::duplicates::Seen;
use flowlog::flow::{Counters, Flow};
use flowlog::log::schema::FlowBatch;
use flowlog::log::wal::{Wal, WalSync};
use flowlog::log::writer::{Compatibility, Directory, Rotation, Writer};
use flowlog::record::FlowRecord;
use flowlog_reader::run::RunFacts;
use flowlog_reader::segments::SegmentHeader;

use crate::rows::Rows;

/// As the daemon hands them over.
const BATCH_ROWS: usize = 8192;

/// Sockets of this host that the tables know while a batch is joined.
const SOCKETS: usize = 262_144;

/// A file has row groups of many batches.
const BATCHES_PER_FILE: usize = 16;

fn main() -> Result<()> {
    let mut rows = Rows::new()?;
    let facts = rows::facts();
    let directory = tempfile::tempdir()?;
    let mut flows: Vec<Flow> = (0..SOCKETS).map(|_| rows.flow()).collect();
    // Those that ended last, as it is when they are joined.
    let mut flows = flows.split_off(SOCKETS - BATCHES_PER_FILE * BATCH_ROWS);
    let batches = batches(&rows, &facts, &flows);
    flows.truncate(BATCH_ROWS);

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(u64::try_from(BATCH_ROWS)?));
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(30);
    decode(&mut group, &flows);
    duplicates(&mut group, &flows);
    attribute(&mut group, &rows, &flows);
    append(&mut group, &rows, &facts, &flows);
    wal(&mut group, &facts, &batches, &directory.path().join("wal"))?;
    parquet(&mut group, &facts, &batches, &directory.path().join("data"))?;
    group.finish();
    criterion.final_summary();
    Ok(())
}

fn batches(rows: &Rows, facts: &RunFacts, flows: &[Flow]) -> Vec<RecordBatch> {
    let mut batch = FlowBatch::new(&facts.run);
    let finish = |flows: &[Flow]| {
        flows.iter().for_each(|flow| batch.append(&rows.record(flow)));
        batch.finish()
    };
    flows.chunks(BATCH_ROWS).map(finish).collect()
}

fn decode(group: &mut BenchmarkGroup<'_, WallTime>, flows: &[Flow]) {
    let datagrams: Vec<Vec<u8>> = flows.iter().map(datagram).collect();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for message in datagrams.iter().flat_map(|datagram| decode::messages(datagram)).flatten() {
                black_box(decode::flow(message.payload)).ok();
            }
        });
    });
}

/// A flow as the kernel tells of its end.
fn datagram(flow: &Flow) -> Vec<u8> {
    let counters = |counters: Option<Counters>| {
        counters.map(|Counters { packets, bytes }| CounterAttributes {
            packets: Some(packets),
            bytes: Some(bytes),
            ..CounterAttributes::default()
        })
    };
    let entry = Entry {
        id: flow.id,
        orig_counters: counters(flow.orig_counters),
        reply_counters: counters(flow.reply_counters),
        timestamps: Some(Timestamps {
            start_ns: flow.start_ns,
            stop_ns: flow.stop_ns,
            ..Timestamps::default()
        }),
        event_ns: flow.stop_ns,
        ..Entry::from(flow)
    };
    let mut buffer = Vec::new();
    encode::entry(&mut buffer, IPCTNL_MSG_CT_DELETE, 0, 0, &entry);
    buffer
}

fn duplicates(group: &mut BenchmarkGroup<'_, WallTime>, flows: &[Flow]) {
    group.bench_function("duplicates", |bencher| {
        let mut seen = Seen::new(0);
        let mut again = flows.to_vec();
        let mut turn = 0;
        bencher.iter(|| {
            // Another start is another flow.
            turn += 1;
            for flow in &mut again {
                flow.start_ns = flow.start_ns.map(|start_ns| start_ns + turn);
                black_box(seen.note(flow, turn, SOCKETS));
            }
        });
    });
}

fn attribute(group: &mut BenchmarkGroup<'_, WallTime>, rows: &Rows, flows: &[Flow]) {
    group.bench_function("attribute", |bencher| {
        bencher.iter(|| {
            for flow in flows {
                black_box(rows.record(flow));
            }
        });
    });
}

fn append(group: &mut BenchmarkGroup<'_, WallTime>, rows: &Rows, facts: &RunFacts, flows: &[Flow]) {
    let records: Vec<FlowRecord<'_>> = flows.iter().map(|flow| rows.record(flow)).collect();
    let mut batch = FlowBatch::new(&facts.run);
    group.bench_function("batch", |bencher| {
        bencher.iter(|| {
            for record in &records {
                batch.append(record);
            }
            black_box(batch.finish())
        });
    });
}

fn wal(
    group: &mut BenchmarkGroup<'_, WallTime>,
    facts: &RunFacts,
    batches: &[RecordBatch],
    directory: &Path,
) -> Result<()> {
    fs::create_dir_all(directory)?;
    let header = SegmentHeader::of(facts, 0, None);
    let Some(batch) = batches.first() else { return Ok(()) };
    // A log with a segment that has its first frame.
    let begin = || {
        fs::remove_dir_all(directory)?;
        fs::create_dir_all(directory)?;
        let mut wal = Wal::open(directory.to_owned(), &header, WalSync::Off)?;
        wal.mark(0)?;
        anyhow::Ok(wal)
    };
    begin()?;
    group.bench_function("wal", |bencher| {
        bencher.iter_batched_ref(
            || begin().ok(),
            |wal| wal.as_mut().map(|wal| wal.append(batch, 0, 0)),
            BatchSize::PerIteration,
        );
    });
    Ok(())
}

fn parquet(
    group: &mut BenchmarkGroup<'_, WallTime>,
    facts: &RunFacts,
    batches: &[RecordBatch],
    output: &Path,
) -> Result<()> {
    fs::create_dir_all(output)?;
    let directory = Arc::new(Directory::open(output)?);
    let write = || {
        let mut writer =
            Writer::new(Arc::clone(&directory), Rotation::default(), Compatibility::default(), facts);
        for batch in batches {
            writer.append(batch, Path::new("segment"), SystemTime::now())?;
        }
        writer.rotate_all()?;
        for published in writer.take_published() {
            fs::remove_file(output.join(published.path))?;
        }
        anyhow::Ok(())
    };
    // What fails would be fast.
    write()?;
    group.throughput(Throughput::Elements(u64::try_from(BATCHES_PER_FILE * BATCH_ROWS)?));
    group.sample_size(10);
    group.bench_function("parquet", |bencher| bencher.iter(write));
    Ok(())
}
