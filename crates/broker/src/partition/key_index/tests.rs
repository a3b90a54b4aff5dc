//! The index of keys: its runs, and how it is switched.

use jangada_storage::{Durability, Op};
use jangada_types::{BatchBuilder, Codec, TopicConfig};

use super::super::testing::{self, Broker, GROUP, Options, TIMEOUT};
use super::*;

/// Batches behind one another, each with these keys.
fn batches(of: &[Vec<Vec<u8>>]) -> (Bytes, Offset) {
    let mut out = BytesMut::new();
    let mut next = 0;
    for keys in of {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        for key in keys {
            builder.append(0, Some(key), None, []).expect("it fits");
        }
        let start = out.len();
        out.extend_from_slice(&builder.build());
        jangada_types::batch::set_position(&mut out[start..], Offset(next), jangada_types::LeaderEpoch(1));
        next += i64::try_from(keys.len()).expect("few");
    }
    (out.freeze(), Offset(next))
}

/// An index whose task goes on until it is ended, and says when it has.
fn endless(ended: Arc<AtomicBool>) -> KeyIndex {
    struct Says(Arc<AtomicBool>);
    impl Drop for Says {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let (sender, reached) = watch::channel(Offset(0));
    let holds = (Says(ended), sender);
    let task = tokio::spawn(async move {
        let _holds = holds;
        std::future::pending::<()>().await;
    });
    KeyIndex {
        locks: Arc::default(),
        barrier_applied: AtomicBool::new(false),
        reached,
        undecided: Arc::default(),
        forgets: mpsc::channel(1).0,
        task: task.abort_handle(),
    }
}

#[tokio::test]
async fn the_index_is_switched_when_no_batch_is_being_admitted_and_its_task_has_ended() {
    use futures::FutureExt as _;

    let ended = Arc::new(AtomicBool::new(false));
    let kept = KeptIndex::new(Some(endless(ended.clone())));
    let held = kept.held().await;
    let mut switching = Box::pin(kept.keep(false, || unreachable!("none is wanted")));
    assert!((&mut switching).now_or_never().is_none(), "a batch is being judged");
    // Who comes now sees what will be there.
    let mut next = Box::pin(kept.held());
    assert!((&mut next).now_or_never().is_none());
    assert!(held.is_some() && !ended.load(Ordering::Acquire));
    drop(held);
    switching.await;
    assert!(ended.load(Ordering::Acquire), "the old task may still write");
    assert!(next.await.is_none());
    kept.keep(true, || endless(Arc::default())).await;
    assert!(kept.held().await.is_some());
    kept.keep(true, || unreachable!("it is there")).await;
}

#[test]
fn a_run_ends_at_so_many_keys_and_the_next_one_goes_on_there() {
    // Little when packed: counters.
    let numbered = |range: Range<usize>| range.map(|n| format!("{n:08}").into_bytes()).collect::<Vec<_>>();
    let long = |range: Range<usize>| range.map(|n| format!("{n:01024}").into_bytes()).collect::<Vec<_>>();
    let (packed, end) = batches(&[
        numbered(0..10),
        numbered(5..RUN_KEYS * 2 + 10),
        long(0..5_000),
        numbered(0..7),
    ]);
    assert!(packed.len() < 2 << 20, "{} bytes", packed.len());
    let mut expected = HashMap::new();
    for batch in BatchIter::new(packed.clone()) {
        for record in Records::new(&batch.expect("whole").1, DECOMPRESSED_BYTES_MAX).expect("decodes") {
            let record = record.expect("decodes");
            expected.insert(record.key.expect("each has one"), record.offset);
        }
    }
    let (mut found, mut next, mut runs) = (HashMap::new(), Offset(0), 0);
    while next < end {
        let run = read_run(GroupId(1), packed.clone(), next, end);
        assert!(run.next > next, "it stands still at {next}");
        assert!(run.keys.len() <= RUN_KEYS, "{} keys", run.keys.len());
        assert!(run.key_bytes <= RUN_KEY_BYTES + INDEXED_KEY_BYTES_MAX);
        next = run.next;
        found.extend(run.keys);
        runs += 1;
    }
    assert_eq!(found, expected);
    assert!((4..=6).contains(&runs), "{runs} runs");
}

/// One record with a key.
fn record(key: &[u8], bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(0, Some(key), Some(&vec![7; bytes]), []).expect("small");
    builder.build()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_missing_at_the_very_start_are_damage() {
    let broker = Broker::start(Options::default());
    let partition = broker.lead(TopicConfig::default()).await;
    for key in [b"a", b"b", b"c"] {
        testing::append(&partition, record(key, 1)).await.expect("written");
    }
    let store = &*broker.shared.store;
    let run = index_run(store, GROUP, Offset(0)..Offset(3), true)
        .expect("whole")
        .expect("there");
    assert_eq!((run.keys.len(), run.next), (3, Offset(3)));
    store.write(GROUP, vec![Op::CutOff(Some(2))], Durability::Lazy, None);
    let run = index_run(store, GROUP, Offset(2)..Offset(3), true)
        .expect("whole")
        .expect("there");
    assert_eq!((run.keys.len(), run.next), (1, Offset(3)));
    let Err(StoreError::Damaged { what, .. }) = index_run(store, GROUP, Offset(1)..Offset(3), true) else {
        panic!("offset 1 was passed over");
    };
    assert!(what.contains("offset 1 is missing"), "{what}");
    store.write(GROUP, vec![Op::CutOff(Some(3))], Durability::Lazy, None);
    let gone = index_run(store, GROUP, Offset(1)..Offset(3), true);
    assert!(matches!(gone, Err(StoreError::Damaged { .. })), "all are missing");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_went_with_a_snapshot_are_not_missing() {
    let broker = Broker::start(Options::default());
    let config = TopicConfig {
        segment_bytes: 1 << 16,
        ..TopicConfig::default()
    };
    let partition = broker.lead(config).await;
    let mut next = 0;
    while next < 20 {
        testing::append(&partition, record(b"key", 20_000))
            .await
            .expect("written");
        next += 1;
    }
    partition.trim(Some(Offset(15))).await.expect("it leads");
    let store = &*broker.shared.store;
    let purged = async {
        while index_first(store) == Offset(0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, purged)
        .await
        .expect("rows go with the purge");
    // As of a replica that has not applied the new log start, or was away.
    let run = index_run(store, GROUP, Offset(0)..Offset(next), true)
        .expect("whole")
        .expect("there");
    assert_eq!(run.next, Offset(next));
    assert!(snapshot_position(store, GROUP).expect("whole") > Offset(0));
    broker.stop().await;
}

/// Where the offset index begins.
fn index_first(store: &dyn Store) -> Offset {
    let first = super::super::index_reads::row_at(store, GROUP, Offset(0)).expect("whole");
    first.expect("some stay").base_offset
}
