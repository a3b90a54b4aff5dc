//! Messages that are sent and acknowledged in transactions, with coordinators that a test stands in for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::BoxFuture;
use jangada_queue::TransactionId;
use jangada_types::{ProducerEpoch, ProducerId, Sequence};

use super::faults::until;
use super::*;
use crate::partition::{EndMarker, InTransaction, Join, JoinTransactions, OpenHere, Standing};

const PRODUCER: ProducerId = ProducerId(1_007);
/// No lease of the tests lasts longer that is to run out.
const SHORT_MS: u64 = 30;

/// A coordinator that gives each transaction the number that it is told.
#[derive(Default)]
struct Coordinator {
    seq: AtomicU64,
    joins: AtomicU64,
    refuses: AtomicBool,
    gone: AtomicBool,
    asked: parking_lot::Mutex<Vec<OpenHere>>,
}

impl JoinTransactions for Coordinator {
    fn join(&self, _: Join) -> BoxFuture<'_, Result<u64, RequestError>> {
        self.joins.fetch_add(1, Ordering::SeqCst);
        let joined = match self.refuses.load(Ordering::SeqCst) {
            true => Err(RequestError::new(Reason::ProducerFenced, "another life has begun")),
            false => Ok(self.seq.load(Ordering::SeqCst)),
        };
        Box::pin(std::future::ready(joined))
    }

    fn standing(&self, open: OpenHere) -> BoxFuture<'_, Result<Standing, RequestError>> {
        self.asked.lock().push(open);
        let standing = match self.gone.load(Ordering::SeqCst) {
            true => Standing::Gone,
            false => Standing::Open,
        };
        Box::pin(std::future::ready(Ok(standing)))
    }
}

struct World {
    broker: Broker,
    coordinator: Arc<Coordinator>,
    partition: Arc<Partition>,
    desk: Arc<Desk>,
    policy: Policy,
}

fn in_transaction() -> InTransaction {
    InTransaction {
        transactional_id: "billing".into(),
        adds: true,
    }
}

impl World {
    async fn begin(policy: Policy) -> Self {
        let broker = Broker::start(Options::default());
        broker.set_clock(START_MS);
        let coordinator = Arc::new(Coordinator::default());
        coordinator.seq.store(1, Ordering::SeqCst);
        assert!(broker.shared.transactions.set(coordinator.clone()).is_ok());
        let (partition, desk) = lead(&broker, policy).await;
        Self {
            broker,
            coordinator,
            partition,
            desk,
            policy,
        }
    }

    /// The same partition, led in a new term, with what is on the disk.
    async fn lead_again(&mut self) {
        (self.partition, self.desk) = lead(&self.broker, self.policy).await;
    }

    /// The transaction of the producer's epoch, as the leader of the partition joins it.
    async fn join(&self, epoch: i16) -> Result<TransactionId, RequestError> {
        let producer = (PRODUCER, ProducerEpoch(epoch));
        self.partition.join_to_acknowledge(&in_transaction(), producer).await
    }

    async fn acknowledge(&self, epoch: i16, messages: &[Delivered]) -> Vec<Settled> {
        let transaction = self.join(epoch).await.expect("the coordinator takes it");
        settle(&self.desk, messages, Settlement::AckIn { transaction }).await
    }

    /// Sends a batch of messages of ten bytes each.
    async fn send_in(
        &self,
        epoch: i16,
        sequence: i32,
        count: usize,
        marks: Option<Marks>,
    ) -> Result<Offset, RequestError> {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..count {
            builder.append(START_MS, None, Some(&[7; 10]), []).expect("it is small");
        }
        builder
            .producer(PRODUCER, ProducerEpoch(epoch), Sequence(sequence))
            .transactional();
        let batch = builder.build();
        let room = self.partition.room(&Caller::alone(), batch.len())?;
        let transaction = in_transaction();
        let admitted = self.partition.admit_messages_in(batch, marks, &transaction, room);
        Ok(self.partition.acknowledged(admitted.await?, TIMEOUT).await?.base_offset)
    }

    /// Ends the transaction of this number; the epoch is that of the next one.
    async fn end(&self, epoch: i16, seq: u64, commit: bool) {
        let marker = EndMarker {
            producer_id: PRODUCER,
            producer_epoch: ProducerEpoch(epoch),
            coordinator_epoch: 1,
            seq,
            commit,
        };
        self.partition.end_transaction(marker).await.expect("it ends");
        self.coordinator.seq.store(seq + 1, Ordering::SeqCst);
    }

    fn counts(&self) -> (u64, u64, u64) {
        let counts = self.desk.counts(QUEUE).expect("it is open");
        (counts.ready, counts.leased, counts.staged)
    }

    /// The message comes to whoever is next, has not failed, and has been out so often.
    async fn comes_again(&self, deliveries: u16) -> Vec<Delivered> {
        let again = receive(&self.desk, 10, LONG_MS).await;
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].failures, again[0].deliveries), (0, deliveries));
        again
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_in_a_transaction_is_done_by_its_commit_and_comes_again_by_its_abort() {
    let world = World::begin(Policy::default()).await;
    send(&world.partition, 1).await;
    let message = receive(&world.desk, 1, SHORT_MS).await;
    assert_eq!(world.acknowledge(0, &message).await, [Settled::Done]);
    assert_eq!(
        world.acknowledge(0, &message).await,
        [Settled::Done],
        "it says it again"
    );
    assert_eq!(world.counts(), (0, 0, 1));
    // Time itself is what is tested: the lease would be over, and nothing is to happen.
    tokio::time::sleep(Duration::from_millis(2 * SHORT_MS)).await;
    assert!(is_empty(&world.desk).await, "its lease does not run out");
    assert_eq!(
        settle(&world.desk, &message, Settlement::Ack).await,
        [Settled::InTransaction]
    );
    world.end(1, 1, false).await;
    let message = world.comes_again(2).await;
    assert_eq!(world.acknowledge(1, &message).await, [Settled::Done]);
    world.end(2, 2, true).await;
    assert_eq!(world.counts(), (0, 0, 0));
    assert!(is_empty(&world.desk).await);
    assert_eq!(
        settle(&world.desk, &message, Settlement::Ack).await,
        [Settled::AlreadySettled]
    );
    assert_eq!(
        world.partition.view.high_watermark(),
        Offset(1),
        "who only acknowledges has no record in the log"
    );
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_is_asked_before_anything_is_acknowledged_and_once_for_each_transaction() {
    let world = World::begin(Policy::default()).await;
    send(&world.partition, 3).await;
    let messages = receive(&world.desk, 3, LONG_MS).await;
    world.coordinator.refuses.store(true, Ordering::SeqCst);
    let refused = world.join(0).await.expect_err("the coordinator says no");
    assert_eq!(refused.reason, Reason::ProducerFenced);
    assert_eq!(world.counts(), (0, 3, 0));
    world.coordinator.refuses.store(false, Ordering::SeqCst);
    let before = world.coordinator.joins.load(Ordering::SeqCst);
    for message in &messages {
        assert_eq!(
            world.acknowledge(0, std::slice::from_ref(message)).await,
            [Settled::Done]
        );
    }
    world.send_in(0, 0, 1, None).await.expect("it is the same one");
    assert_eq!(world.coordinator.joins.load(Ordering::SeqCst), before + 1);
    world.end(1, 1, true).await;
    assert_eq!(world.counts(), (1, 0, 0));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_the_end_of_its_transaction_is_refused() {
    let world = World::begin(Policy::default()).await;
    send(&world.partition, 1).await;
    let message = receive(&world.desk, 1, LONG_MS).await;
    // It was let in before the end, and comes to the log behind it.
    let transaction = world.join(0).await.expect("it is open");
    world.end(1, 1, true).await;
    let late = settle(&world.desk, &message, Settlement::AckIn { transaction }).await;
    assert_eq!(late, [Settled::TransactionOver]);
    assert_eq!(world.counts(), (0, 1, 0));
    let marks = Marks(vec![Mark {
        expires_at_ms: START_MS.unsigned_abs() + 60_000,
        ..Mark::default()
    }]);
    world.coordinator.seq.store(1, Ordering::SeqCst);
    for marks in [None, Some(marks)] {
        let refused = world.send_in(0, 0, 1, marks).await.expect_err("it is over");
        assert_eq!(
            (refused.reason, refused.definite),
            (Reason::ProducerFenced, true),
            "{refused}"
        );
    }
    assert_eq!(world.counts(), (0, 1, 0));
    assert_eq!(settle(&world.desk, &message, Settlement::Ack).await, [Settled::Done]);
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_with_marks_go_out_by_them_when_their_transaction_is_committed() {
    let policy = Policy {
        has_lanes: true,
        ..Policy::default()
    };
    let world = World::begin(policy).await;
    let marks = Marks(
        [0, 2, 1]
            .map(|lane| Mark {
                lane,
                ..Mark::default()
            })
            .into(),
    );
    let base = world.send_in(0, 0, 3, Some(marks.clone())).await.expect("it is taken");
    assert_eq!(base, Offset(0));
    let again = world.send_in(0, 0, 3, Some(marks.clone())).await;
    assert_eq!(again.expect("it is known by its sequence"), Offset(0));
    assert!(is_empty(&world.desk).await, "it is open");
    world.end(1, 1, true).await;
    let out = receive(&world.desk, 10, LONG_MS).await;
    assert_eq!(offsets(&out), [1, 2, 0], "the highest goes first");
    world
        .send_in(1, 0, 3, Some(marks))
        .await
        .expect("the sequence begins anew");
    world.end(2, 2, false).await;
    assert!(is_empty(&world.desk).await, "nothing of it ever was in the queue");
    assert_eq!(world.counts(), (0, 3, 0));
    world.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_knows_what_is_acknowledged_in_a_transaction_that_is_open() {
    for commit in [true, false] {
        let mut world = World::begin(Policy::default()).await;
        send(&world.partition, 1).await;
        let message = receive(&world.desk, 1, SHORT_MS).await;
        assert_eq!(world.acknowledge(0, &message).await, [Settled::Done]);
        world.lead_again().await;
        assert_eq!(world.counts(), (0, 0, 1));
        assert!(is_empty(&world.desk).await);
        assert_eq!(
            world.acknowledge(0, &message).await,
            [Settled::Done],
            "it says it again"
        );
        world.end(1, 1, commit).await;
        match commit {
            true => assert!(is_empty(&world.desk).await),
            false => drop(world.comes_again(2).await),
        }
        world.broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_only_acknowledges_is_looked_after_when_it_is_open_for_too_long() {
    const GRACE: Duration = Duration::from_secs(60);
    let world = World::begin(Policy::default()).await;
    send(&world.partition, 1).await;
    let message = receive(&world.desk, 1, LONG_MS).await;
    assert_eq!(world.acknowledge(0, &message).await, [Settled::Done]);
    until("the slot is shown", || {
        world.partition.view.desk.has_slots().then_some(())
    })
    .await;
    world.broker.set_clock(START_MS + 960_000);
    world.partition.watch_over_transactions(GRACE).await;
    assert!(world.coordinator.asked.lock().is_empty(), "it has time");
    world.broker.set_clock(START_MS + 960_001);
    world.partition.watch_over_transactions(GRACE).await;
    let asked = std::mem::take(&mut *world.coordinator.asked.lock());
    let [open] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((open.producer_id, open.seq, open.first), (PRODUCER, 1, None));
    assert_eq!(world.counts(), (0, 0, 1), "its end will come");
    world.coordinator.gone.store(true, Ordering::SeqCst);
    world.partition.watch_over_transactions(GRACE).await;
    world.comes_again(2).await;
    world.broker.stop().await;
}
