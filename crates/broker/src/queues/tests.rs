//! A partition with a queue on a broker that is alone: a real group with one replica, over a store in memory.

mod carrying;
mod faults;
mod groups;
mod limits;
mod repetitions;
mod transactions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_controller::QueueStart;
use jangada_queue::engine::{Delivered, Policy, SettleItem, Settled, Settlement};
use jangada_queue::{AttemptId, CallId, KeepsOrder, Mark, Marks, QueueId, SectionReply, SessionId, SlotKind};
use jangada_types::{BatchBuilder, Codec, Offset, Reason, TopicConfig};

use super::desk::EVENTS_MAX;
use super::*;
use crate::error::RequestError;
use crate::partition::Partition;
use crate::partition::testing::{Broker, Options, TIMEOUT};
use crate::quota::Caller;

pub(super) const QUEUE: QueueId = QueueId(77);
pub(super) const LONG_MS: u64 = 60_000;
pub(super) const START_MS: i64 = 1_764_000_000_000;

pub(super) fn spec(policy: Policy) -> QueueSpec {
    QueueSpec {
        id: QUEUE,
        name: "orders".into(),
        kind: SlotKind::Owned,
        order: KeepsOrder::No,
        start: QueueStart::Earliest,
        policy,
        hold_bytes: 0,
        config: Arc::default(),
    }
}

/// A partition of the queue that this broker leads in a new term.
pub(super) async fn lead(broker: &Broker, policy: Policy) -> (Arc<Partition>, Arc<Desk>) {
    lead_in(broker, TopicConfig::default(), spec(policy)).await
}

pub(super) async fn lead_with(broker: &Broker, spec: QueueSpec) -> (Arc<Partition>, Arc<Desk>) {
    lead_in(broker, TopicConfig::default(), spec).await
}

async fn lead_in(broker: &Broker, config: TopicConfig, spec: QueueSpec) -> (Arc<Partition>, Arc<Desk>) {
    let partition = broker.lead(config).await;
    partition.set_queues(Arc::new([spec]));
    let open = async {
        loop {
            let desk = partition.desk().expect("it is led here");
            if desk.counts(QUEUE).is_some() {
                return desk;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let desk = tokio::time::timeout(TIMEOUT, open).await.expect("the slot is opened");
    (partition, desk)
}

pub(super) async fn begin(policy: Policy) -> (Broker, Arc<Partition>, Arc<Desk>) {
    let broker = Broker::start(Options::default());
    broker.set_clock(START_MS);
    let (partition, desk) = lead(&broker, policy).await;
    (broker, partition, desk)
}

pub(super) fn batch(count: usize, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..count {
        builder
            .append(START_MS, None, Some(&vec![7; bytes]), [])
            .expect("it is small");
    }
    builder.build()
}

pub(super) async fn send_with(
    partition: &Partition,
    batch: Bytes,
    marks: Option<Marks>,
) -> Result<Offset, RequestError> {
    let room = partition.room(&Caller::alone(), batch.len()).expect("there is room");
    let admitted = partition.admit_messages(batch, marks, None, room).await?;
    Ok(partition.acknowledged(admitted, TIMEOUT).await?.base_offset)
}

pub(super) async fn send(partition: &Partition, count: usize) {
    send_with(partition, batch(count, 10), None).await.expect("it is taken");
}

fn asks(messages: u32, lease_ms: u64) -> ReceiveArgs {
    ReceiveArgs {
        session: SessionId(5),
        attempt: AttemptId(0),
        call: CallId(0),
        messages,
        lease_ms,
        wait_ms: 20_000,
    }
}

pub(super) async fn receive(desk: &Desk, messages: u32, lease_ms: u64) -> Vec<Delivered> {
    let received = tokio::time::timeout(TIMEOUT, desk.receive(QUEUE, asks(messages, lease_ms))).await;
    received.expect("it is answered").expect("it leads").messages
}

/// Nothing is there to be received.
async fn is_empty(desk: &Desk) -> bool {
    let wants = ReceiveArgs {
        wait_ms: 50,
        ..asks(100, LONG_MS)
    };
    desk.receive(QUEUE, wants).await.expect("it leads").messages.is_empty()
}

pub(super) async fn settle(desk: &Desk, messages: &[Delivered], settlement: Settlement) -> Vec<Settled> {
    let item = |message: &Delivered| SettleItem {
        offset: message.offset,
        lease: message.lease,
        settlement,
    };
    let items = messages.iter().map(item).collect();
    let settled = tokio::time::timeout(TIMEOUT, desk.settle(QUEUE, items)).await;
    settled.expect("it is answered").expect("it leads")
}

fn offsets(messages: &[Delivered]) -> Vec<u64> {
    messages.iter().map(|message| message.offset).collect()
}

/// The offsets of messages, however many receives it takes.
pub(super) async fn receive_all(desk: &Desk, count: usize) -> Vec<Delivered> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(receive(desk, 100, LONG_MS).await);
    }
    all.sort_by_key(|message| message.offset);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_received_and_acknowledged() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let waiting = tokio::spawn({
        let desk = desk.clone();
        async move { receive(&desk, 10, LONG_MS).await }
    });
    send(&partition, 3).await;
    let messages = waiting.await.expect("it does not panic");
    assert_eq!(offsets(&messages), [0, 1, 2]);
    let counts = desk.counts(QUEUE).expect("it is open");
    assert_eq!((counts.ready, counts.leased), (0, 3));
    assert_eq!(settle(&desk, &messages, Settlement::Ack).await, [Settled::Done; 3]);
    assert_eq!(
        settle(&desk, &messages, Settlement::Ack).await,
        [Settled::AlreadySettled; 3]
    );
    let counts = desk.counts(QUEUE).expect("it is open");
    assert_eq!((counts.leased, counts.first), (0, None));
    assert!(is_empty(&desk).await);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_lease_runs_out_goes_out_again_and_the_old_lease_is_lost() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    send(&partition, 1).await;
    let first = receive(&desk, 1, 30).await;
    let second = receive(&desk, 1, LONG_MS).await;
    assert_eq!(offsets(&second), offsets(&first));
    assert_eq!((second[0].failures, second[0].deliveries), (1, 2));
    assert_eq!(settle(&desk, &first, Settlement::Ack).await, [Settled::LeaseLost]);
    assert_eq!(settle(&desk, &second, Settlement::Ack).await, [Settled::Done]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_fails_too_often_is_dead_and_can_be_redriven() {
    let policy = Policy {
        attempts_max: Some(2),
        ..Policy::default()
    };
    let (broker, partition, desk) = begin(policy).await;
    send(&partition, 1).await;
    let nack = Settlement::Nack {
        delay_ms: Some(20),
        failed: true,
    };
    for failures in 0..2 {
        let messages = receive(&desk, 1, LONG_MS).await;
        assert_eq!(messages[0].failures, failures);
        assert_eq!(settle(&desk, &messages, nack).await, [Settled::Done]);
    }
    let dead = desk.peek(QUEUE, 0, &[MessageState::Dead], 10).await.expect("it leads");
    assert_eq!(dead.messages.len(), 1);
    assert_eq!(
        (dead.messages[0].reason.as_str(), dead.messages[0].failures),
        ("attempts", 2)
    );
    assert!(is_empty(&desk).await);
    let redriven = desk
        .administer(QUEUE, Administer::Redrive([0].into_iter().collect()))
        .await;
    assert!(matches!(redriven, Ok(SectionReply::Taken { refused }) if refused.is_empty()));
    let again = receive(&desk, 1, LONG_MS).await;
    assert_eq!((again[0].offset, again[0].failures), (0, 0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_share_the_messages_and_who_leaves_gives_its_own_back() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let attach = |session| {
        desk.attach(QUEUE, SessionId(session), LONG_MS, Vec::new())
            .expect("it leads")
    };
    let mut streams = [attach(1), attach(2)];
    streams.iter().for_each(|stream| stream.credit(50));
    send(&partition, 60).await;
    let mut got = [BTreeSet::new(), BTreeSet::new()];
    for (stream, got) in streams.iter_mut().zip(&mut got) {
        // Equal credit is served in turns of sixteen.
        while got.len() < 28 {
            match tokio::time::timeout(TIMEOUT, stream.next())
                .await
                .expect("there are some for each")
            {
                AttachedEvent::Begun(messages) => assert_eq!(messages, [], "they are new here"),
                AttachedEvent::Deliveries(messages) => got.extend(offsets(&messages)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(got[0].is_disjoint(&got[1]));
    let [first, second] = streams;
    first.detach(true);
    second.detach(true);
    assert_eq!(receive_all(&desk, 60).await.len(), 60);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receive_that_is_dropped_is_granted_nothing_and_what_nobody_saw_counts_as_no_delivery() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let dropped = tokio::time::timeout(Duration::from_millis(20), desk.receive(QUEUE, asks(1, LONG_MS))).await;
    dropped.expect_err("nothing was sent");
    send(&partition, 1).await;
    let received = desk.receive(QUEUE, asks(1, LONG_MS)).await.expect("it leads");
    assert_eq!(received.messages[0].deliveries, 1, "the one before got nothing");
    let messages = received.messages.iter().map(|message| (message.offset, message.lease));
    desk.undelivered(QUEUE, received.request, messages.collect());
    let messages = receive(&desk, 1, LONG_MS).await;
    assert_eq!((messages[0].deliveries, messages[0].failures), (1, 0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_knows_what_is_done_and_who_has_what() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    send(&partition, 10).await;
    let messages = receive(&desk, 10, LONG_MS).await;
    settle(&desk, &messages[..4], Settlement::Ack).await;
    let waits = tokio::spawn({
        let desk = desk.clone();
        async move { desk.receive(QUEUE, asks(1, LONG_MS)).await }
    });
    let held = messages[4..8]
        .iter()
        .map(|message| (message.offset, message.lease))
        .collect();
    let (_partition, next) = lead(&broker, Policy::default()).await;
    assert!(next.term > desk.term);
    let error = waits
        .await
        .expect("it does not panic")
        .expect_err("it is not led there");
    assert!(error.retry_delay.is_some(), "{error}");
    assert!(is_empty(&next).await, "acknowledged, or with somebody");
    // The session comes back, and gets under the same lease what it does not have.
    let mut stream = next.attach(QUEUE, SessionId(5), LONG_MS, held).expect("it leads");
    let again = tokio::time::timeout(TIMEOUT, stream.next()).await.expect("it hears");
    let AttachedEvent::Begun(again) = again else {
        panic!("{again:?}")
    };
    let leases = |messages: &[Delivered]| {
        messages
            .iter()
            .map(|message| (message.offset, message.lease))
            .collect::<Vec<_>>()
    };
    assert_eq!(leases(&again), leases(&messages[8..]));
    assert_eq!(settle(&next, &messages[4..], Settlement::Ack).await, [Settled::Done; 6]);
    assert_eq!(next.counts(QUEUE).expect("it is open").first, None);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_queue_begins_at_its_floor() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    for _ in 0..8 {
        send_with(&partition, batch(4, 50_000), None)
            .await
            .expect("it is taken");
    }
    let messages = receive_all(&desk, 32).await;
    settle(&desk, &messages[..31], Settlement::Ack).await;
    let refused = partition.trim(None).await.expect_err("the queue needs the last one");
    assert_eq!(refused.reason, Reason::OffsetOutOfRange);
    assert_eq!(partition.view.log_start(), Offset(0));
    settle(&desk, &messages[31..], Settlement::Ack).await;
    // A leader looks when it begins, and then at most each ten seconds.
    let (partition, _desk) = lead(&broker, Policy::default()).await;
    let cut = async {
        while partition.view.log_start() < Offset(32) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, cut).await.expect("the queue is empty");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_goes_out_at_its_time_and_can_be_taken_out_before() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let later = |ms| Mark {
        deliver_at_ms: START_MS.unsigned_abs() + ms,
        ..Mark::default()
    };
    let marks = Marks(vec![later(60_000), Mark::default(), later(90_000)]);
    send_with(&partition, batch(3, 10), Some(marks))
        .await
        .expect("it is taken");
    let now = receive(&desk, 10, LONG_MS).await;
    assert_eq!(offsets(&now), [1]);
    assert_eq!(
        desk.cancel(QUEUE, &[1, 2]).await,
        Ok([(1, false)].into()),
        "1 is with somebody"
    );
    broker.set_clock(START_MS + 61_000);
    let due = receive(&desk, 10, LONG_MS).await;
    assert_eq!(offsets(&due), [0]);
    settle(&desk, &due, Settlement::Ack).await;
    settle(&desk, &now, Settlement::Ack).await;
    assert_eq!(desk.counts(QUEUE).expect("it is open").first, None);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_more_and_says_so() {
    let policy = Policy {
        messages_max: Some(5),
        ..Policy::default()
    };
    let (broker, partition, desk) = begin(policy).await;
    send(&partition, 5).await;
    let refused = send_with(&partition, batch(1, 10), None).await.expect_err("it is full");
    assert_eq!(refused.reason, Reason::QueueFull);
    assert_eq!(refused.metadata["limit"], "5");
    let messages = receive(&desk, 2, LONG_MS).await;
    settle(&desk, &messages, Settlement::Ack).await;
    send(&partition, 2).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desk_whose_lead_is_about_to_go_hands_nothing_out() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let mut stream = desk.attach(QUEUE, SessionId(1), LONG_MS, Vec::new()).expect("it leads");
    assert_eq!(stream.next().await, AttachedEvent::Begun(Vec::new()), "it is new");
    partition.hand_over_queues();
    let heard = tokio::time::timeout(TIMEOUT, stream.next()).await.expect("it hears");
    assert_eq!(heard, AttachedEvent::Moved);
    send(&partition, 1).await;
    let error = desk
        .receive(QUEUE, asks(1, LONG_MS))
        .await
        .expect_err("it hands nothing out");
    assert_eq!(error.reason, Reason::LeaderNotAvailable);
    broker.stop().await;
}
