//! `bench store`: the store alone, as a broker drives it: log entries with their index rows, many groups, so many
//! writes on their way at once.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use jangada_log::tables::{IndexEntry, OFFSET_INDEX};
use jangada_storage::{Durability, LogEntry, Op, RocksStore, Store as _, StoreError, StoreOptions};
use jangada_types::table::row::RowBuffer;
use jangada_types::{GroupId, LeaderEpoch, Offset, RowChange};

use super::cpu::CpuMeter;
use super::latency::Latencies;
use super::payload::Payload;
use super::report::Report;
use crate::cli::{CpuArgs, PayloadKind, StoreBench};
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::progress;

/// The Raft term of all entries.
const TERM: u64 = 1;

/// Records that an entry counts for in the index: as many as 1 KiB records fit into 64 KiB.
const RECORDS_PER_ENTRY: i64 = 64;

/// A placeholder for the header that replication puts before each batch.
const HEAD: [u8; 16] = [1; 16];

/// Bytes that one read of the scan asks for.
const SCAN_BYTES: usize = 1 << 20;

pub fn run(args: &StoreBench) -> Result<Report> {
    if args.dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("the directory {} is not empty", args.dir.display());
        return Err(CliError::new(message).hint("`bench store` writes into a new or empty directory"));
    }
    let store = open(args)?;
    let mut report = write(&store, args)?;
    store.shutdown();
    if args.scan {
        // Opened again, so that nothing comes from the memory of the store that wrote.
        drop(store);
        report.scan = Some(Box::new(scan(&open(args)?, args)?));
    }
    Ok(report)
}

fn open(args: &StoreBench) -> Result<RocksStore> {
    let on_fence = Box::new(|reason: &str| note(&format!("the store stopped writing: {reason}")));
    let options = StoreOptions {
        tables: vec![&OFFSET_INDEX],
        ..StoreOptions::new(&args.dir)
    };
    let (store, recovery) = RocksStore::open(options, on_fence).map_err(failed)?;
    match recovery.lost_tail {
        None => Ok(store),
        Some(lost) => Err(CliError::new(format!(
            "the store in {} lost its tail: {lost:?}",
            args.dir.display()
        ))),
    }
}

fn failed(error: StoreError) -> CliError {
    CliError::new(format!("the store failed: {error}"))
}

/// The writes under way, and the outcome of those that have ended.
struct Flight {
    state: Mutex<State>,
    landed: Condvar,
}

struct State {
    in_flight: u32,
    latencies: Latencies,
    error: Option<StoreError>,
}

impl Flight {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until fewer than `limit` writes are under way; fails when one has failed.
    fn wait_below(&self, limit: u32) -> Result<()> {
        let waited = self
            .landed
            .wait_while(self.lock(), |state| state.in_flight >= limit && state.error.is_none());
        match waited.unwrap_or_else(PoisonError::into_inner).error.take() {
            None => Ok(()),
            Some(error) => Err(failed(error)),
        }
    }

    fn land(&self, begun: Instant, outcome: std::result::Result<(), StoreError>) {
        let mut state = self.lock();
        state.in_flight -= 1;
        match outcome {
            Ok(()) => state.latencies.record(begun.elapsed()),
            Err(error) => state.error = Some(error),
        }
        drop(state);
        self.landed.notify_one();
    }
}

fn write(store: &RocksStore, args: &StoreBench) -> Result<Report> {
    for group in 1..=args.groups {
        store.open_group(GroupId::from(group)).map_err(failed)?;
    }
    let batch = u64::from(args.batch_bytes);
    let entries = args.total_bytes.div_ceil(batch);
    let state = State {
        in_flight: 0,
        latencies: Latencies::new(),
        error: None,
    };
    let flight = Arc::new(Flight {
        state: Mutex::new(state),
        landed: Condvar::new(),
    });
    let mut payload = Payload::new(PayloadKind::Random, args.batch_bytes as usize);
    let bar = progress::bytes(Some(entries * batch), "written");
    let meter = CpuMeter::start(&CpuArgs::default())?;
    let start = Instant::now();
    for i in 0..entries {
        flight.wait_below(args.in_flight)?;
        let group = GroupId::from(1 + i % args.groups);
        let ops = operations(i / args.groups, args.batch_bytes, payload.next());
        flight.lock().in_flight += 1;
        let (begun, landing) = (Instant::now(), flight.clone());
        store.write(
            group,
            ops,
            Durability::Synced,
            Some(Box::new(move |outcome| landing.land(begun, outcome))),
        );
        bar.inc(batch);
    }
    flight.wait_below(1)?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let latency = flight.lock().latencies.figures();
    Ok(Report::new(
        "store",
        entries,
        entries * batch,
        seconds,
        meter.stop()?,
        latency,
    ))
}

/// The operations of a partition's `i`th batch: the entry, and its row of the index.
fn operations(i: u64, size_bytes: u32, body: Bytes) -> Vec<Op> {
    let index = i + 1;
    let base = i64::try_from(i).expect("a bench writes fewer entries") * RECORDS_PER_ENTRY;
    let row = IndexEntry {
        last_offset: Offset::from(base + RECORDS_PER_ENTRY - 1),
        base_offset: Offset::from(base),
        raft_index: index,
        epoch: LeaderEpoch::from(1),
        max_timestamp_ms: base,
        running_max_timestamp_ms: base,
        size_bytes,
        original_bytes: size_bytes,
        offsets_before: 0,
    };
    let entry = LogEntry {
        index,
        term: TERM,
        head: Bytes::from_static(&HEAD),
        body,
    };
    let (key, value) = row.encode();
    let (key, value) = RowBuffer::default().copy(&key, value.as_ref());
    let table = &OFFSET_INDEX;
    vec![Op::Append(vec![entry]), Op::Row(RowChange::Put { table, key, value })]
}

/// Reads every group from its first to its last entry.
fn scan(store: &RocksStore, args: &StoreBench) -> Result<Report> {
    let bar = progress::bytes(Some(args.total_bytes), "read");
    let meter = CpuMeter::start(&CpuArgs::default())?;
    let start = Instant::now();
    let (mut entries, mut bytes) = (0, 0);
    for group in (1..=args.groups).map(GroupId::from) {
        let bounds = store.open_group(group).map_err(failed)?;
        let end = bounds.next_index().unwrap_or(0);
        let mut next = bounds.first_index().max(1);
        while next < end {
            let read = store.read_log(group, next..end, SCAN_BYTES).map_err(failed)?;
            let last = read
                .last()
                .ok_or_else(|| CliError::new(format!("group {group} has no entry {next}")))?;
            next = last.index + 1;
            entries += read.len() as u64;
            let size = read.iter().map(|entry| entry.body.len() as u64).sum::<u64>();
            bytes += size;
            bar.inc(size);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    Ok(Report::new("store scan", entries, bytes, seconds, meter.stop()?, None))
}
