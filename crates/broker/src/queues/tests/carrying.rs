//! What is appended again: the host reads the records, and builds the batch that the engine asks for.

use jangada_queue::engine::CarryBounds;
use jangada_types::batch::decode_records;
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, SEGMENT_BYTES_MIN};

use super::faults::until;
use super::*;

const LARGE: usize = 50_000;

fn small_segments() -> TopicConfig {
    TopicConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        ..TopicConfig::default()
    }
}

/// A partition of a queue that carries as soon as it may.
async fn begin_carrying() -> (Broker, Arc<Partition>, Arc<Desk>) {
    let broker = Broker::start(Options::default());
    broker.set_clock(START_MS);
    let (partition, desk) = lead_in(&broker, small_segments(), spec(Policy::default())).await;
    desk.engine.lock().set_carry_bounds(CarryBounds {
        factor: 2,
        slack_bytes: 200_000,
        batch_bytes: 100_000,
        ..CarryBounds::default()
    });
    (broker, partition, desk)
}

fn due_tomorrow() -> Mark {
    Mark {
        deliver_at_ms: START_MS.unsigned_abs() + 86_400_000,
        ..Mark::default()
    }
}

fn with_key(keys: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for key in keys {
        let headers = [("source", Some(key.as_bytes()))];
        let appended = builder.append(START_MS, Some(key.as_bytes()), Some(b"body"), headers);
        appended.expect("it is small");
    }
    builder.build()
}

/// Sends and acknowledges four megabytes.
async fn work(partition: &Partition, desk: &Desk) {
    for _ in 0..20 {
        send_with(partition, batch(4, LARGE), None).await.expect("it is taken");
        let messages = receive_all(desk, 4).await;
        settle(desk, &messages, Settlement::Ack).await;
    }
}

/// The log begins behind an offset: a leader looks at most each ten seconds.
async fn cut(partition: &Partition, behind: i64) {
    let is_cut = || (partition.view.log_start() > Offset(behind)).then_some(());
    until("what is stuck is carried, or done", is_cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_stuck_go_on_as_they_were_and_the_log_is_cut_behind_them() {
    let (broker, partition, desk) = begin_carrying().await;
    let far = due_tomorrow();
    let marks = Marks(vec![far, Mark::default(), Mark::default()]);
    send_with(&partition, with_key(&["far", "dead", "done"]), Some(marks))
        .await
        .expect("it is taken");
    let messages = receive_all(&desk, 2).await;
    assert_eq!(offsets(&messages), [1, 2]);
    settle(&desk, &messages[..1], Settlement::Reject).await;
    settle(&desk, &messages[1..], Settlement::Ack).await;
    work(&partition, &desk).await;
    cut(&partition, 2).await;
    let counts = desk.counts(QUEUE).expect("it is open");
    assert_eq!((counts.delayed, counts.dead), (1, 1), "both are there");
    let dead = desk.peek(QUEUE, 0, &[MessageState::Dead], 10).await.expect("it leads");
    let [dead] = &dead.messages[..] else { panic!("{dead:?}") };
    assert!(dead.offset > 2, "it is elsewhere");
    assert_eq!((dead.reason.as_str(), dead.failures), ("rejected", 0));
    let (records, count) = partition
        .messages_again(&[dead.offset], 1_000)
        .await
        .expect("it is there");
    let record = &decode_records(&records, DECOMPRESSED_BYTES_MAX).expect("a batch")[0];
    assert_eq!(count, 1);
    assert_eq!(
        (record.key.as_deref(), record.value.as_deref()),
        (Some(&b"dead"[..]), Some(&b"body"[..]))
    );
    assert_eq!((record.timestamp_ms, &record.headers[0].key[..]), (START_MS, "source"));
    // The other one comes at its time, and not before, from where it is now. A new leader knows it, too.
    let (partition, desk) = lead_in(&broker, small_segments(), spec(Policy::default())).await;
    assert!(is_empty(&desk).await);
    broker.set_clock(START_MS + 86_400_000);
    let due = receive(&desk, 1, LONG_MS).await;
    let (records, _) = partition
        .messages_again(&offsets(&due), 1_000)
        .await
        .expect("it is there");
    let record = &decode_records(&records, DECOMPRESSED_BYTES_MAX).expect("a batch")[0];
    assert_eq!(record.key.as_deref(), Some(&b"far"[..]));
    assert_eq!((due[0].deliveries, due[0].failures), (1, 0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_a_consumer_has_is_not_carried_and_can_be_settled() {
    let (broker, partition, desk) = begin_carrying().await;
    send(&partition, 1).await;
    let held = receive(&desk, 1, LONG_MS).await;
    work(&partition, &desk).await;
    let retained = partition.view.retained_bytes();
    assert!(retained > 20 * 4 * LARGE as u64, "the log is large: {retained}");
    assert_eq!(settle(&desk, &held, Settlement::Ack).await, [Settled::Done]);
    cut(&partition, 0).await;
    assert_eq!(desk.counts(QUEUE).expect("it is open").first, None);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_a_consumer_keeps_goes_on_with_its_lease_and_is_cancelled_by_its_first_offset() {
    let broker = Broker::start(Options::default());
    broker.set_clock(START_MS);
    let (partition, desk) = lead_in(&broker, small_segments(), spec(Policy::default())).await;
    desk.engine.lock().set_carry_bounds(CarryBounds {
        factor: 2,
        slack_bytes: 200_000,
        batch_bytes: 100_000,
        leased_ms: 0,
    });
    let far = Mark {
        deliver_at_ms: START_MS.unsigned_abs() + 86_400_000,
        ..Mark::default()
    };
    let marks = Marks(vec![Mark::default(), Mark::default(), far]);
    send_with(&partition, with_key(&["one", "other", "far"]), Some(marks))
        .await
        .expect("it is taken");
    let held = receive(&desk, 2, LONG_MS).await;
    assert_eq!(offsets(&held), [0, 1]);
    work(&partition, &desk).await;
    cut(&partition, 2).await;
    let counts = desk.counts(QUEUE).expect("it is open");
    assert_eq!((counts.leased, counts.delayed), (2, 1), "all are there");
    // One is with a consumer, and stays; the other waits for its time, and does not any more.
    let stays = desk.cancel(QUEUE, &[1, 2]).await.expect("it leads");
    assert_eq!(stays.into_iter().collect::<Vec<_>>(), [(1, false)]);
    let again = desk.cancel(QUEUE, &[2]).await.expect("it leads");
    assert_eq!(again.into_iter().collect::<Vec<_>>(), [(2, true)], "it is done");
    // A new leader takes the token, too.
    let (_partition, desk) = lead_in(&broker, small_segments(), spec(Policy::default())).await;
    assert_eq!(settle(&desk, &held, Settlement::Ack).await, [Settled::Done; 2]);
    assert_eq!(desk.counts(QUEUE).expect("it is open").first, None);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stuck_is_carried_when_a_backlog_is_worked_off_and_nothing_more_is_sent() {
    let (broker, partition, desk) = begin_carrying().await;
    let far = due_tomorrow();
    let marks = Marks(vec![far]);
    send_with(&partition, with_key(&["far"]), Some(marks))
        .await
        .expect("it is taken");
    for _ in 0..20 {
        send_with(&partition, batch(4, LARGE), None).await.expect("it is taken");
    }
    // All of it is live as long as it was not worked on, and the engine knows that.
    let is_measured = || {
        let counts = desk.counts(QUEUE).expect("it is open");
        (counts.bytes >= 19 * 4 * LARGE as u64).then_some(())
    };
    until("the log is measured", is_measured).await;
    assert_eq!(partition.view.log_start(), Offset(0));
    let messages = receive_all(&desk, 20 * 4).await;
    settle(&desk, &messages, Settlement::Ack).await;
    cut(&partition, 0).await;
    assert_eq!(desk.counts(QUEUE).expect("it is open").delayed, 1, "it is there");
    broker.stop().await;
}
