//! Transactions in a partition with a real group of one replica, and coordinators that a test stands in for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jangada_log::AbortedTransaction;
use jangada_log::compaction::Writes;
use jangada_storage::{Durability, Op, StateKind, Store as _};
use jangada_types::batch::{BatchIter, TimestampType};
use jangada_types::{BatchBuilder, Codec, Offset, ProducerEpoch, ProducerId, Reason, Sequence, TopicConfig};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::testing::{BYTES, Broker, GROUP, Options, TIMEOUT};
use super::{
    Appended, EndMarker, Expectation, InTransaction, Isolation, Join, JoinTransactions, OpenHere, Partition, Reading,
    Standing, compacting,
};
use crate::error::RequestError;
use crate::quota::Caller;

const COMMITTED: Reading = Reading {
    isolation: Isolation::Committed,
    aborted_list: false,
    past_stable: false,
};
const UNCOMMITTED: Reading = Reading {
    isolation: Isolation::Uncommitted,
    aborted_list: false,
    past_stable: false,
};
const LISTED: Reading = Reading {
    isolation: Isolation::Committed,
    aborted_list: true,
    past_stable: false,
};

/// Coordinators that give each transaction the number that they are told.
#[derive(Default)]
struct Coordinators {
    seq: AtomicU64,
    joins: Mutex<Vec<Join>>,
    asked: AtomicUsize,
    refuses: AtomicBool,
    hangs: AtomicBool,
    gone: AtomicBool,
    go_on: Notify,
}

impl JoinTransactions for Coordinators {
    fn join(&self, join: Join) -> BoxFuture<'_, Result<u64, RequestError>> {
        Box::pin(async move {
            self.joins.lock().push(join);
            if self.hangs.load(Ordering::SeqCst) {
                self.go_on.notified().await;
            }
            match self.refuses.load(Ordering::SeqCst) {
                true => Err(RequestError::new(Reason::ProducerFenced, "another life has begun")),
                false => Ok(self.seq.load(Ordering::SeqCst)),
            }
        })
    }

    fn standing(&self, _open: OpenHere) -> BoxFuture<'_, Result<Standing, RequestError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let gone = self.gone.load(Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(if gone {
            Standing::Gone
        } else {
            Standing::Open
        })))
    }

    fn timeout_max(&self) -> Duration {
        Duration::from_secs(900)
    }
}

struct World {
    broker: Broker,
    coordinators: Arc<Coordinators>,
    partition: Arc<Partition>,
}

impl World {
    async fn begin() -> Self {
        Self::with(TopicConfig::default()).await
    }

    async fn with(config: TopicConfig) -> Self {
        let broker = Broker::start(Options::default());
        let coordinators = Arc::new(Coordinators::default());
        coordinators.seq.store(1, Ordering::SeqCst);
        assert!(broker.shared.transactions.set(coordinators.clone()).is_ok());
        let partition = broker.lead(config).await;
        Self {
            broker,
            coordinators,
            partition,
        }
    }

    /// The same partition, opened again with what is on its disk.
    async fn restart(&mut self) {
        self.partition = self.broker.lead(TopicConfig::default()).await;
    }

    async fn send(&self, producer: (i64, i16), sequence: i32) -> Result<Appended, RequestError> {
        send(&self.partition, batch(producer, sequence, true)).await
    }

    async fn sent(&self, producer: (i64, i16), sequence: i32) -> Offset {
        self.send(producer, sequence).await.expect("it is taken").base_offset
    }

    async fn plain(&self) -> Offset {
        let appended = super::testing::append(&self.partition, batch((-1, -1), -1, false)).await;
        appended.expect("it is taken").base_offset
    }

    async fn end(&self, producer: (i64, i16), seq: u64, commit: bool) {
        self.try_end(producer, seq, commit).await.expect("it ends");
    }

    async fn try_end(&self, (id, epoch): (i64, i16), seq: u64, commit: bool) -> Result<(), RequestError> {
        let marker = EndMarker {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            coordinator_epoch: 1,
            seq,
            commit,
        };
        self.partition.end_transaction(marker).await
    }

    /// The offsets of the batches that a reader finds from an offset on, and where it goes on.
    async fn read(&self, from: i64, reading: Reading) -> (Vec<i64>, i64) {
        let fetched = self
            .partition
            .read(Offset(from), BYTES, reading)
            .await
            .expect("it leads");
        let headers = BatchIter::new(fetched.batches).map(|batch| batch.expect("it is whole").0);
        (
            headers.map(|header| header.base_offset).collect(),
            fetched.next_offset.get(),
        )
    }

    fn ends(&self) -> (i64, i64) {
        let ends = self.partition.view.ends();
        (ends.last_stable.get(), ends.high_watermark.get())
    }
}

fn batch((id, epoch): (i64, i16), sequence: i32, is_transactional: bool) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder
        .append(7, Some(b"key"), Some(b"value"), [])
        .expect("it is small");
    builder.producer(ProducerId(id), ProducerEpoch(epoch), Sequence(sequence));
    if is_transactional {
        builder.transactional();
    }
    builder.build()
}

async fn send(partition: &Partition, batch: Bytes) -> Result<Appended, RequestError> {
    let room = partition.room(&Caller::alone(), batch.len()).expect("there is room");
    let transaction = InTransaction {
        transactional_id: "billing".into(),
        adds: true,
    };
    let admitted = partition.admit_in(batch, &transaction, room).await?;
    partition.acknowledged(admitted, TIMEOUT).await
}

/// Whoever reads committed records and expects of a key what it has read must have its turn: what was aborted is no write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_transactions_count_for_their_keys_when_those_are_committed() {
    let with_index = || TopicConfig {
        key_index: true,
        ..TopicConfig::default()
    };
    let mut world = World::with(with_index()).await;
    let write_if = async |partition: &Arc<Partition>, expected: i64| {
        let batch = batch((-1, -1), -1, false);
        let room = partition.room(&Caller::alone(), batch.len()).expect("there is room");
        let expected = Expectation {
            key_offset: Some(Offset(expected)),
            ..Expectation::default()
        };
        let admitted = partition.admit(batch, expected, room).await?;
        partition.acknowledged(admitted, TIMEOUT).await
    };
    let refused = |outcome: Result<Appended, RequestError>| outcome.err().map(|error| error.reason);
    assert_eq!(world.plain().await, Offset(0));
    assert_eq!(world.sent((7, 0), 0).await, Offset(1));
    let outcome = write_if(&world.partition, 0).await;
    assert_eq!(refused(outcome), Some(Reason::PartitionBusy), "it is not decided");
    world.end((7, 1), 1, false).await;
    let written = write_if(&world.partition, 0)
        .await
        .expect("what was aborted is no write");
    assert_eq!(written.base_offset, Offset(3));
    world.coordinators.seq.store(2, Ordering::SeqCst);
    assert_eq!(world.sent((7, 1), 0).await, Offset(4));
    assert_eq!(world.plain().await, Offset(5));
    let outcome = write_if(&world.partition, 5).await;
    assert_eq!(refused(outcome), Some(Reason::PartitionBusy), "it is not decided");
    world.end((7, 2), 2, true).await;
    let outcome = write_if(&world.partition, 4).await;
    assert_eq!(refused(outcome), Some(Reason::ConditionFailed), "there is a later one");
    let written = write_if(&world.partition, 5).await.expect("it is the last");
    assert_eq!(written.base_offset, Offset(7));
    // An index that is built from the log says the same.
    for key_index in [false, true] {
        let config = TopicConfig {
            key_index,
            ..TopicConfig::default()
        };
        world.partition = world.broker.lead(config).await;
        if !key_index {
            let forgets = Op::DeleteState {
                kind: StateKind::KEYS,
                suffix: None,
            };
            world.broker.store.write(GROUP, vec![forgets], Durability::Lazy, None);
        }
    }
    let written = write_if(&world.partition, 7).await.expect("it is the last");
    assert_eq!(written.base_offset, Offset(8));
    world.broker.stop().await;
}

/// A reader that leaves out by itself what was aborted does so until it meets the marker. One that is told of a transaction whose marker is
/// gone would leave out the next transactions of the producer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_an_aborted_transaction_whose_marker_compaction_takes() {
    let world = World::begin().await;
    assert_eq!(world.sent((7, 0), 0).await, Offset(0));
    world.end((7, 1), 1, false).await;
    world.coordinators.seq.store(2, Ordering::SeqCst);
    assert_eq!(world.sent((7, 1), 0).await, Offset(2));
    world.end((7, 2), 2, true).await;
    let named = async || {
        let fetched = world.partition.read(Offset(0), BYTES, LISTED).await.expect("it leads");
        fetched.aborted
    };
    assert_eq!(named().await, [(ProducerId(7), Offset(0))]);
    let rows = compacting::rows_behind(&*world.broker.store, GROUP, Offset(1), 1).expect("readable");
    let writes = Writes {
        rows: vec![(rows[0].raft_index, AbortedTransaction::deletion(Offset(1)))],
        ..Writes::default()
    };
    world.partition.rewrite(writes, false).await.expect("it is written");
    assert!(named().await.is_empty());
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_committed_transactions_and_no_others() {
    let mut world = World::begin().await;
    assert_eq!(world.plain().await, Offset(0));
    assert_eq!(world.sent((7, 0), 0).await, Offset(1));
    assert_eq!(world.sent((8, 0), 0).await, Offset(2));
    assert_eq!(world.plain().await, Offset(3));
    assert_eq!(world.ends(), (1, 4));
    assert_eq!(world.read(0, COMMITTED).await, (vec![0], 1));
    assert_eq!(world.read(1, COMMITTED).await, (vec![], 1), "it waits there");
    assert_eq!(
        world.read(3, COMMITTED).await,
        (vec![], 3),
        "nobody has lost anything by being further on"
    );
    assert_eq!(world.read(0, UNCOMMITTED).await, (vec![0, 1, 2, 3], 4));
    world.end((8, 1), 1, false).await;
    assert_eq!(world.ends(), (1, 5), "the other one is open");
    world.end((7, 1), 1, true).await;
    assert_eq!(world.ends(), (6, 6));
    for _ in 0..2 {
        assert_eq!(world.read(0, COMMITTED).await, (vec![0, 1, 3], 6));
        assert_eq!(
            world.read(4, COMMITTED).await,
            (vec![], 6),
            "control batches are for nobody"
        );
        assert_eq!(world.read(0, UNCOMMITTED).await, (vec![0, 1, 2, 3], 6));
        let listed = world.partition.read(Offset(0), BYTES, LISTED).await.expect("it leads");
        assert_eq!(listed.aborted, [(ProducerId(8), Offset(2))]);
        assert_eq!(BatchIter::new(listed.batches).count(), 6);
        // Now from the table.
        world.restart().await;
    }
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_committed_records_is_woken_by_the_marker() {
    let world = World::begin().await;
    world.sent((7, 0), 0).await;
    let partition = world.partition.clone();
    let waiting = tokio::spawn(async move {
        let waited = partition.await_bytes(Offset(0), 1, TIMEOUT, Isolation::Committed).await;
        waited.expect("it leads");
        partition.view.ends().last_stable
    });
    world
        .partition
        .await_bytes(Offset(0), 1, TIMEOUT, Isolation::Uncommitted)
        .await
        .expect("the record is there for who reads uncommitted ones");
    world.end((7, 1), 1, true).await;
    let stable = tokio::time::timeout(TIMEOUT, waiting)
        .await
        .expect("in time")
        .expect("no panic");
    assert_eq!(stable, Offset(2));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_offset_and_those_by_time_are_what_the_isolation_lets_one_read() {
    let world = World::begin().await;
    world.plain().await;
    world.sent((7, 0), 0).await;
    let ends = world.partition.confirmed_ends().await.expect("it leads");
    assert_eq!(
        (ends.of(Isolation::Committed), ends.of(Isolation::Uncommitted)),
        (Offset(1), Offset(2))
    );
    let by_time = async |ms, isolation| {
        let found = world.partition.offset_by_timestamp(ms, isolation).await;
        found.expect("it leads").map(|(offset, _)| offset)
    };
    assert_eq!(by_time(7, Isolation::Committed).await, Some(Offset(0)));
    assert_eq!(world.partition.trim(Some(Offset(1))).await, Ok(Offset(1)));
    assert_eq!(by_time(7, Isolation::Committed).await, None);
    assert_eq!(by_time(7, Isolation::Uncommitted).await, Some(Offset(1)));
    world.broker.set_clock(1_000);
    world.end((7, 1), 1, true).await;
    assert_eq!(
        by_time(500, Isolation::Committed).await,
        None,
        "a control record is for nobody"
    );
    world.broker.stop().await;
}

/// Who resets to the end would be sent below the log start again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_stable_offset_is_not_below_the_log_start() {
    let world = World::begin().await;
    world.plain().await;
    world.sent((7, 0), 0).await;
    world.plain().await;
    assert_eq!(world.ends(), (1, 3));
    assert_eq!(world.partition.trim(Some(Offset(2))).await, Ok(Offset(2)));
    let ends = world.partition.confirmed_ends().await.expect("it leads");
    assert_eq!(ends.of(Isolation::Committed), Offset(2));
    assert_eq!(world.read(2, COMMITTED).await, (vec![], 2), "it waits there");
    world.end((7, 1), 1, false).await;
    assert_eq!(world.ends(), (4, 4));
    assert_eq!(world.read(2, COMMITTED).await, (vec![2], 4));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_is_asked_once_for_each_transaction() {
    let mut world = World::begin().await;
    world.coordinators.hangs.store(true, Ordering::SeqCst);
    let sending = [0, 1].map(|at| {
        let (partition, batch) = (world.partition.clone(), batch((7, 0), at, true));
        tokio::spawn(async move { send(&partition, batch).await })
    });
    let asked = async {
        while world.coordinators.joins.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, asked).await.expect("it is asked");
    world.coordinators.hangs.store(false, Ordering::SeqCst);
    world.coordinators.go_on.notify_one();
    // Whichever was first in the log: the other one is out of order, if it came before it.
    let mut taken = 0;
    for sent in sending {
        taken += usize::from(sent.await.expect("no panic").is_ok());
    }
    assert!(taken >= 1);
    assert_eq!(world.coordinators.joins.lock().len(), 1);
    let join = world.coordinators.joins.lock()[0].clone();
    let wanted = Join {
        transactional_id: "billing".into(),
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        partition: world.partition.hosted.id(),
        adds: true,
    };
    assert_eq!(join, wanted);
    // Another leader finds it open.
    world.restart().await;
    world.sent((7, 0), i32::try_from(taken).expect("it is small")).await;
    assert_eq!(world.coordinators.joins.lock().len(), 1);
    world.end((7, 1), 1, true).await;
    world.coordinators.seq.store(2, Ordering::SeqCst);
    world.sent((7, 1), 0).await;
    assert_eq!(world.coordinators.joins.lock().len(), 2, "that is another one");
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_keeps_its_epoch_gets_the_number_of_its_next_transaction() {
    let world = World::begin().await;
    for seq in 1..4 {
        world.coordinators.seq.store(seq, Ordering::SeqCst);
        let at = i32::try_from(seq).expect("it is small") - 1;
        world.sent((7, 0), at).await;
        world.end((7, 0), seq, seq != 2).await;
    }
    assert_eq!(world.read(0, COMMITTED).await, (vec![0, 4], 6));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_coordinator_refuses_or_does_not_answer_is_not_appended() {
    let world = World::begin().await;
    world.coordinators.refuses.store(true, Ordering::SeqCst);
    let error = world.send((7, 0), 0).await.err().expect("it is refused");
    assert_eq!(error.reason, Reason::ProducerFenced);
    world.coordinators.refuses.store(false, Ordering::SeqCst);
    world.coordinators.hangs.store(true, Ordering::SeqCst);
    let error = world.send((7, 0), 0).await.err().expect("nobody answers");
    assert_eq!((error.reason, error.definite), (Reason::NotReady, true));
    assert!(error.message.contains("billing"), "{error}");
    assert_eq!(world.ends(), (0, 0));
    world.coordinators.hangs.store(false, Ordering::SeqCst);
    world.sent((7, 0), 0).await;
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_and_its_request_say_the_same() {
    let world = World::begin().await;
    let error = send(&world.partition, batch((7, 0), 0, false))
        .await
        .err()
        .expect("refused");
    assert_eq!(error.reason, Reason::InvalidRequest);
    let plain = super::testing::append(&world.partition, batch((7, 0), 0, true)).await;
    assert_eq!(plain.err().expect("refused").reason, Reason::InvalidRequest);
    let room = world.partition.room(&Caller::alone(), 100).expect("there is room");
    let expected = Expectation::default();
    let admitted = world.partition.admit(batch((7, 0), 0, true), expected, room).await;
    assert!(admitted.is_err());
    assert!(world.coordinators.joins.lock().is_empty());
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_may_be_asked_for_as_often_as_one_likes() {
    let world = World::begin().await;
    world.end((7, 1), 1, false).await;
    assert_eq!(world.ends(), (0, 0), "nothing of it is here");
    let error = world.send((7, 0), 0).await.err().expect("it has ended");
    assert_eq!(error.reason, Reason::ProducerFenced);
    world.coordinators.seq.store(2, Ordering::SeqCst);
    world.sent((7, 1), 0).await;
    for _ in 0..3 {
        world.end((7, 2), 2, true).await;
        world.end((7, 1), 1, false).await;
    }
    assert_eq!(world.ends(), (2, 2));
    let error = world.send((7, 1), 1).await.err().expect("it has ended");
    assert_eq!(error.reason, Reason::ProducerFenced);
    assert_eq!(world.read(0, COMMITTED).await, (vec![0], 2));
    let error = world.try_end((7, 3), 3, true).await;
    error.expect("of nothing");
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_forgotten_and_came_late_is_aborted_before_the_next_one_ends() {
    let world = World::begin().await;
    // Its marker had come, and was forgotten with its producer.
    world.sent((7, 0), 0).await;
    world.end((7, 0), 2, true).await;
    assert_eq!(world.ends(), (2, 2));
    assert_eq!(world.read(0, COMMITTED).await, (vec![], 2));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_no_coordinator_knows_is_aborted_after_its_time() {
    const GRACE: Duration = Duration::from_secs(60);
    let world = World::begin().await;
    world.sent((7, 0), 0).await;
    world.broker.set_clock(960_000);
    world.partition.watch_over_transactions(GRACE).await;
    assert_eq!(world.coordinators.asked.load(Ordering::SeqCst), 0, "it has time");
    world.broker.set_clock(960_001);
    world.partition.watch_over_transactions(GRACE).await;
    assert_eq!(
        (world.coordinators.asked.load(Ordering::SeqCst), world.ends()),
        (1, (0, 1))
    );
    world.coordinators.gone.store(true, Ordering::SeqCst);
    world.partition.watch_over_transactions(GRACE).await;
    assert_eq!(world.ends(), (2, 2));
    assert_eq!(world.read(0, COMMITTED).await, (vec![], 2));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_are_described_with_what_they_have_open() {
    let world = World::begin().await;
    world.broker.set_clock(42);
    world.plain().await;
    world.sent((7, 3), 0).await;
    let [producer] = world.partition.describe_producers().await.expect("it leads")[..] else {
        panic!("there is one");
    };
    assert_eq!((producer.id, producer.epoch), (ProducerId(7), ProducerEpoch(3)));
    assert_eq!((producer.last_sequence, producer.last_ms), (Some(0), 42));
    let open = producer.open.expect("it is open");
    assert_eq!((open.first, open.seq, open.since_ms), (Offset(1), 1, 42));
    assert_eq!(world.partition.view.open_transactions(), (1, 42));
    world.end((7, 4), 1, true).await;
    assert_eq!(world.partition.view.open_transactions(), (0, 0));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_have_times_of_their_place_in_the_log() {
    let world = World::with(TopicConfig {
        timestamp_type: TimestampType::LogAppendTime,
        ..TopicConfig::default()
    })
    .await;
    world.broker.set_clock(1_000);
    world.sent((7, 0), 0).await;
    world.broker.set_clock(500);
    world.end((7, 1), 1, true).await;
    world.plain().await;
    let fetched = world.partition.read(Offset(0), BYTES, LISTED).await.expect("it leads");
    let headers = BatchIter::new(fetched.batches).map(|batch| batch.expect("it is whole").0);
    let times: Vec<_> = headers.map(|header| header.max_timestamp).collect();
    assert_eq!(times, [1_000, 1_000, 1_000]);
    world.broker.stop().await;
}
