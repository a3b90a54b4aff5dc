//! Dead letters that go from a queue of one broker to a topic of another one: real groups with one replica each, and between them a way
//! that a test can break.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jangada_queue::engine::{Delivered, Policy, Settlement, SlotCounts};
use jangada_types::batch::{BatchIter, decode_records};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use jangada_types::{Offset, PartitionIndex, ProducerId, QueueConfig, QueueId, Reason, Record, TopicConfig, TopicId};
use parking_lot::Mutex;

use super::tests::{LONG_MS, QUEUE, START_MS, batch, lead_with, receive, receive_all, send, send_with, settle, spec};
use super::*;
use crate::error::RequestError;
use crate::partition::testing::{BYTES, Broker, Options, TIMEOUT, append};
use crate::partition::{Partition, Reading};

/// The way to another broker's topic.
#[derive(Default)]
struct Elsewhere {
    /// The only partition of the topic; none: there is no such topic.
    partition: Mutex<Option<Arc<Partition>>>,
    producers: AtomicI64,
    /// Answers get lost: nobody knows what became of a batch.
    loses_answers: AtomicBool,
    /// Batches that were appended, or found there.
    appended: AtomicI64,
}

impl BeyondDesk for Elsewhere {
    fn new_producer(&self) -> BoxFuture<'_, Result<ProducerId, RequestError>> {
        let id = 1_000 + self.producers.fetch_add(1, Ordering::SeqCst);
        async move { Ok(ProducerId(id)) }.boxed()
    }

    fn target(&self, _wanted: TargetWanted<'_>) -> Result<DeadLetterTarget, RequestError> {
        let partition = self.partition.lock().clone();
        let missing = || RequestError::new(Reason::UnknownTopic, "there is no topic \"dead\"");
        let partition = partition.ok_or_else(missing)?;
        Ok(DeadLetterTarget {
            topic: TopicId::from_u128(5),
            name: "dead".into(),
            index: PartitionIndex(0),
            batch_bytes_max: partition.config().batch_limits().max_batch_bytes,
        })
    }

    fn append<'a>(&'a self, _to: &'a DeadLetterTarget, batch: Bytes) -> BoxFuture<'a, Result<(), RequestError>> {
        async move {
            let partition = self.partition.lock().clone().expect("it was there");
            append(&partition, batch).await?;
            self.appended.fetch_add(1, Ordering::SeqCst);
            match self.loses_answers.load(Ordering::SeqCst) {
                true => Err(RequestError::new(Reason::LeaderNotAvailable, "the answer is lost").unknown()),
                false => Ok(()),
            }
        }
        .boxed()
    }

    fn expire(&self, _queue: QueueId, _expires_ms: u64) -> BoxFuture<'_, bool> {
        async { unreachable!("no queue ends here") }.boxed()
    }
}

/// A queue whose dead letters go elsewhere.
struct Scene {
    source: Broker,
    other: Broker,
    way: Arc<Elsewhere>,
    target: Arc<Partition>,
}

fn forwarding() -> QueueSpec {
    let policy = Policy {
        forwards_dead: true,
        ..Policy::default()
    };
    QueueSpec {
        config: Arc::new(QueueConfig {
            dead_letter_topic: Some("dead".to_owned()),
            ..QueueConfig::default()
        }),
        ..spec(policy)
    }
}

impl Scene {
    async fn begin() -> Self {
        let (source, other) = (Broker::start(Options::default()), Broker::start(Options::default()));
        source.set_clock(START_MS);
        other.set_clock(START_MS);
        let target = other.lead(TopicConfig::default()).await;
        let way = Arc::new(Elsewhere::default());
        *way.partition.lock() = Some(target.clone());
        assert!(source.shared.beyond_desks.set(way.clone()).is_ok(), "it is set once");
        Self {
            source,
            other,
            way,
            target,
        }
    }

    /// This broker leads the queue, in a new term.
    async fn lead(&self) -> (Arc<Partition>, Arc<Desk>) {
        lead_with(&self.source, forwarding()).await
    }

    /// The letters in the target, in their order.
    async fn letters(&self) -> Vec<Record> {
        let fetched = self
            .target
            .read(Offset(0), BYTES, Reading::AS_IT_IS)
            .await
            .expect("it leads");
        let batches = BatchIter::new(fetched.batches).map(|batch| batch.expect("it is a batch").1);
        let records = batches.flat_map(|batch| decode_records(&batch, DECOMPRESSED_BYTES_MAX).expect("it is a batch"));
        records.collect()
    }

    async fn end(self) {
        self.source.stop().await;
        self.other.stop().await;
    }
}

async fn until(desk: &Desk, what: &str, is_so: impl Fn(&SlotCounts) -> bool) -> SlotCounts {
    let look = async {
        loop {
            match desk.counts(QUEUE).filter(&is_so) {
                Some(counts) => return counts,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(TIMEOUT, look)
        .await
        .unwrap_or_else(|_| panic!("{what}: {:?}", desk.counts(QUEUE)))
}

async fn until_empty(desk: &Desk) {
    until(desk, "nothing is left", |counts| counts.first.is_none()).await;
}

fn header(record: &Record, name: &str) -> String {
    let header = record.headers.iter().find(|header| header.key == name);
    let value = header
        .and_then(|header| header.value.clone())
        .expect("it has the header");
    String::from_utf8(value.to_vec()).expect("it is text")
}

fn offsets_of(letters: &[Record]) -> Vec<u64> {
    letters
        .iter()
        .map(|letter| header(letter, "jangada-dead-offset").parse().expect("a number"))
        .collect()
}

async fn reject(desk: &Desk, messages: &[Delivered]) {
    settle(desk, messages, Settlement::Reject).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_rejected_or_fail_too_often_arrive_in_the_other_topic() {
    let scene = Scene::begin().await;
    let (partition, desk) = scene.lead().await;
    send(&partition, 3).await;
    let messages = receive_all(&desk, 3).await;
    reject(&desk, &messages[..1]).await;
    settle(&desk, &messages[1..2], Settlement::Ack).await;
    let failed = Settlement::Nack {
        delay_ms: Some(0),
        failed: true,
    };
    settle(&desk, &messages[2..], failed).await;
    for _ in 1..5 {
        let again = receive(&desk, 1, LONG_MS).await;
        assert_eq!(again[0].offset, 2);
        settle(&desk, &again, failed).await;
    }
    until_empty(&desk).await;
    let letters = scene.letters().await;
    assert_eq!(offsets_of(&letters), [0, 2]);
    let reasons: Vec<String> = letters
        .iter()
        .map(|letter| header(letter, "jangada-dead-reason"))
        .collect();
    assert_eq!(reasons, ["rejected", "attempts"]);
    assert_eq!(header(&letters[1], "jangada-dead-failures"), "5");
    assert_eq!(header(&letters[1], "jangada-dead-deliveries"), "5");
    assert_eq!(header(&letters[1], "jangada-dead-queue"), "orders");
    assert_eq!(header(&letters[1], "jangada-dead-time"), START_MS.to_string());
    assert_eq!(letters[1].timestamp_ms, START_MS);
    assert_eq!(letters[1].value.as_deref(), Some(&[7; 10][..]));
    assert_eq!(desk.counts(QUEUE).expect("it is open").stuck_since_ms, None);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_whose_answer_is_lost_are_there_once_after_a_change_of_the_leader() {
    let scene = Scene::begin().await;
    let (partition, desk) = scene.lead().await;
    scene.way.loses_answers.store(true, Ordering::SeqCst);
    send(&partition, 4).await;
    reject(&desk, &receive_all(&desk, 4).await).await;
    until(&desk, "an answer is lost", |counts| counts.stuck_since_ms.is_some()).await;
    assert!(scene.way.appended.load(Ordering::SeqCst) >= 1);
    scene.way.loses_answers.store(false, Ordering::SeqCst);
    let (partition, desk) = scene.lead().await;
    until_empty(&desk).await;
    let first = offsets_of(&scene.letters().await);
    assert_eq!(
        first
            .iter()
            .map(|offset| (*offset, ()))
            .collect::<BTreeMap<_, _>>()
            .len(),
        4
    );
    assert_eq!(first.len(), 4, "each once: {first:?}");
    // And the same leader goes on.
    send(&partition, 2).await;
    reject(&desk, &receive_all(&desk, 2).await).await;
    until_empty(&desk).await;
    assert_eq!(offsets_of(&scene.letters().await)[4..], [4, 5]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_whose_answer_is_lost_are_there_once_when_the_same_leader_tries_again() {
    let scene = Scene::begin().await;
    let (partition, desk) = scene.lead().await;
    scene.way.loses_answers.store(true, Ordering::SeqCst);
    send(&partition, 600).await;
    reject(&desk, &receive_all(&desk, 600).await).await;
    let tries = || scene.way.appended.load(Ordering::SeqCst);
    until(&desk, "it tries again", |_| tries() >= 2).await;
    scene.way.loses_answers.store(false, Ordering::SeqCst);
    until_empty(&desk).await;
    let mut offsets = offsets_of(&scene.letters().await);
    offsets.sort_unstable();
    assert_eq!(offsets, (0..600).collect::<Vec<u64>>(), "each once");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_stay_while_their_topic_is_not_there_and_the_queue_says_so() {
    let scene = Scene::begin().await;
    let (partition, desk) = scene.lead().await;
    let target = scene.way.partition.lock().take();
    send(&partition, 3).await;
    reject(&desk, &receive_all(&desk, 3).await).await;
    let counts = until(&desk, "they are stuck", |counts| counts.stuck_since_ms.is_some()).await;
    assert_eq!(counts.stuck_since_ms, Some(START_MS.unsigned_abs()));
    let slot = desk.slot(QUEUE).expect("it is open");
    assert!(
        desk.ways
            .stuck(slot)
            .is_some_and(|why| why.contains("no topic \"dead\""))
    );
    let kept = until(&desk, "they are dead here", |counts| counts.dead == 3).await;
    assert_eq!(kept.ready + kept.leased + kept.waiting, 0);
    // The queue goes on meanwhile.
    send(&partition, 1).await;
    let others = receive(&desk, 1, LONG_MS).await;
    settle(&desk, &others, Settlement::Ack).await;
    *scene.way.partition.lock() = target;
    until_empty(&desk).await;
    assert_eq!(offsets_of(&scene.letters().await), [0, 1, 2]);
    assert_eq!(desk.ways.stuck(slot), None);
    assert_eq!(desk.counts(QUEUE).expect("it is open").stuck_since_ms, None);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_stay_when_the_setting_is_taken_back() {
    let scene = Scene::begin().await;
    let (partition, desk) = scene.lead().await;
    let target = scene.way.partition.lock().take();
    send(&partition, 2).await;
    reject(&desk, &receive_all(&desk, 2).await).await;
    until(&desk, "they are stuck", |counts| counts.stuck_since_ms.is_some()).await;
    partition.set_queues(Arc::new([spec(Policy::default())]));
    until(&desk, "they are dead here", |counts| counts.dead == 2).await;
    *scene.way.partition.lock() = target;
    // The setting is back: they go.
    partition.set_queues(Arc::new([forwarding()]));
    until_empty(&desk).await;
    assert_eq!(offsets_of(&scene.letters().await), [0, 1]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_too_large_stays_and_holds_up_no_other() {
    let scene = Scene::begin().await;
    let small = TopicConfig {
        max_batch_bytes: 20_000,
        ..TopicConfig::default()
    };
    scene.target.set_config(Arc::new(small)).await;
    let (partition, desk) = scene.lead().await;
    send(&partition, 1).await;
    send_with(&partition, batch(1, 30_000), None)
        .await
        .expect("it is taken");
    send(&partition, 1).await;
    reject(&desk, &receive_all(&desk, 3).await).await;
    until(&desk, "one stays", |counts| counts.dead == 1 && counts.first == Some(1)).await;
    let mut offsets = offsets_of(&scene.letters().await);
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 2]);
    scene.end().await;
}
