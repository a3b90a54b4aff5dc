//! Schedules of a queue on a broker that is alone, with a clock that the test sets.

use std::time::Duration;

use bytes::Bytes;
use jangada_queue::engine::{Policy, Settlement};
use jangada_queue::limits::SCHEDULE_LATE_MS;
use jangada_queue::schedule::CatchUp;
use jangada_types::Reason;
use jangada_types::batch::{BatchIter, decode_records};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;

use super::outgoing::{Due, NewMessage};
use super::tests::{LONG_MS, QUEUE, START_MS, begin, lead, receive_all, settle};
use super::*;
use crate::partition::Partition;
use crate::partition::testing::{Broker, TIMEOUT};

const NOW_MS: u64 = START_MS.unsigned_abs();

fn every_second(name: &str) -> NewSchedule {
    NewSchedule {
        name: name.to_owned(),
        recurrence: Recurrence::Every { every_ms: 1_000 },
        start_ms: None,
        end_ms: None,
        catch_up: CatchUp::Skip,
        message: NewMessage {
            key: None,
            body: Bytes::copy_from_slice(name.as_bytes()),
            headers: Vec::new(),
            due: Due::Default,
            priority: 0,
            message_id: None,
            ttl_ms: None,
        },
    }
}

/// It is so late now.
fn pass(broker: &Broker, desk: &Desk, to_ms: u64) {
    broker.set_clock(i64::try_from(to_ms).expect("it is soon"));
    desk.wake();
}

async fn until(what: &str, desk: &Desk, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            desk.wake();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

fn end(partition: &Partition) -> i64 {
    partition.view.high_watermark().get()
}

/// The occurrences whose messages are in the log, in their order.
async fn occurrences(partition: &Partition) -> Vec<u64> {
    let offsets: Vec<u64> = (0..end(partition).unsigned_abs()).collect();
    let (batch, _) = partition
        .messages_again(&offsets, 1 << 20)
        .await
        .expect("they are there");
    let mut found = Vec::new();
    for batch in BatchIter::new(batch) {
        let (_, batch) = batch.expect("a batch");
        for record in decode_records(&batch, DECOMPRESSED_BYTES_MAX).expect("records") {
            let at = record
                .headers
                .iter()
                .find(|header| header.key == "jangada-scheduled-at");
            let at = at
                .and_then(|header| header.value.clone())
                .expect("it says its occurrence");
            found.push(std::str::from_utf8(&at).expect("digits").parse().expect("a number"));
        }
    }
    found
}

fn listed(desk: &Desk) -> Vec<ScheduleFound> {
    desk.schedules(QUEUE, None, ("", 10)).expect("it leads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_occurrence_is_sent_once_also_by_the_next_leader() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let put = desk
        .put_schedule(QUEUE, &every_second("tick"))
        .await
        .expect("it is valid");
    assert_eq!((put.created, put.next_ms), (true, NOW_MS + 1_000));
    pass(&broker, &desk, NOW_MS + 3_500);
    until("three occurrences", &desk, || end(&partition) == 3).await;
    let again = desk
        .put_schedule(QUEUE, &every_second("tick"))
        .await
        .expect("it is valid");
    assert_eq!((again.created, again.next_ms), (false, NOW_MS + 4_000));
    let found = listed(&desk);
    assert_eq!(
        (found[0].sent, found[0].last_ms),
        (3, Some(NOW_MS + 3_000)),
        "it went on as it was"
    );

    let (partition, next) = lead(&broker, Policy::default()).await;
    assert!(next.term > desk.term);
    pass(&broker, &next, NOW_MS + 5_500);
    until("five occurrences", &next, || end(&partition) == 5).await;
    let expected: Vec<u64> = (1..=5).map(|second| NOW_MS + 1_000 * second).collect();
    assert_eq!(occurrences(&partition).await, expected);
    assert_eq!(receive_all(&next, 5).await.len(), 5, "they are messages as any other");
    let found = listed(&next);
    assert_eq!((found[0].sent, found[0].next_ms), (5, NOW_MS + 6_000));

    next.delete_schedule(QUEUE, "tick").await.expect("it is there");
    let error = next.delete_schedule(QUEUE, "tick").await.expect_err("it is gone");
    assert_eq!(error.reason, Reason::UnknownSchedule);
    next.put_schedule(QUEUE, &every_second("tock"))
        .await
        .expect("it is valid");
    pass(&broker, &next, NOW_MS + 7_000);
    until("the other schedule sends", &next, || end(&partition) == 6).await;
    assert_eq!(listed(&next).len(), 1, "what was deleted sends nothing more");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_queue_refuses_is_sent_when_there_is_room() {
    let policy = Policy {
        messages_max: Some(1),
        ..Policy::default()
    };
    let (broker, partition, desk) = begin(policy).await;
    desk.put_schedule(QUEUE, &every_second("tick"))
        .await
        .expect("it is valid");
    pass(&broker, &desk, NOW_MS + 2_500);
    until("the second one is refused", &desk, || {
        !listed(&desk)[0].refusal.is_empty()
    })
    .await;
    let found = listed(&desk);
    assert!(found[0].refusal.contains("queue.max.messages"), "{found:?}");
    assert_eq!((found[0].sent, end(&partition)), (1, 1));
    let messages = receive_all(&desk, 1).await;
    settle(&desk, &messages, Settlement::Ack).await;
    until("the second one is sent", &desk, || end(&partition) == 2).await;
    until("it is known to be sent", &desk, || listed(&desk)[0].refusal.is_empty()).await;
    assert_eq!(occurrences(&partition).await, [NOW_MS + 1_000, NOW_MS + 2_000]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_caught_up_with_by_rule() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let with = |name: &str, catch_up| NewSchedule {
        catch_up,
        recurrence: Recurrence::Every { every_ms: 60_000 },
        ..every_second(name)
    };
    for (name, catch_up) in [("all", CatchUp::All), ("one", CatchUp::One), ("skip", CatchUp::Skip)] {
        desk.put_schedule(QUEUE, &with(name, catch_up))
            .await
            .expect("it is valid");
    }
    // Nobody leads for ten minutes; the tenth occurrence is not late.
    let minutes = 10;
    broker.set_clock(START_MS + minutes * 60_000);
    let (partition_then, next) = lead(&broker, Policy::default()).await;
    assert!(SCHEDULE_LATE_MS == 60_000 && end(&partition) == 0);
    until("all has sent ten", &next, || {
        listed(&next)
            .iter()
            .any(|found| found.name == "all" && found.sent == 10)
    })
    .await;
    until("all go on", &next, || {
        listed(&next).iter().all(|found| found.next_ms == NOW_MS + 11 * 60_000)
    })
    .await;
    let sent: Vec<(String, u64)> = listed(&next)
        .into_iter()
        .map(|found| (found.name, found.sent))
        .collect();
    // Of those that are more than a minute late `one` sends the last; the ninth is just a minute late, and in time.
    let expected = [("all", 10), ("one", 3), ("skip", 2)];
    assert_eq!(sent, expected.map(|(name, sent)| (name.to_owned(), sent)));
    assert_eq!(end(&partition_then), 15);
    let totals = || partition_then.metrics().queues.sample(|_| true).remove("orders");
    until("all is counted", &next, || {
        totals().is_some_and(|totals| totals.scheduled == 15)
    })
    .await;
    assert_eq!(
        totals().map(|totals| totals.left_out),
        Some(7 + 8),
        "of `one` and of `skip`"
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_schedule_has_its_delay() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let mut delayed = every_second("later");
    delayed.message.due = Due::After(2_000);
    desk.put_schedule(QUEUE, &delayed).await.expect("it is valid");
    pass(&broker, &desk, NOW_MS + 1_000);
    until("it is sent", &desk, || end(&partition) == 1).await;
    let waits = ReceiveArgs {
        session: jangada_queue::SessionId(5),
        attempt: jangada_queue::AttemptId(0),
        call: jangada_queue::CallId(0),
        messages: 1,
        lease_ms: LONG_MS,
        wait_ms: 0,
    };
    assert!(
        desk.receive(QUEUE, waits).await.expect("it leads").messages.is_empty(),
        "it is not due"
    );
    pass(&broker, &desk, NOW_MS + 3_000);
    let due = receive_all(&desk, 1).await;
    assert_eq!(due[0].offset, 0);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_schedules_change_nothing() {
    let (broker, _partition, desk) = begin(Policy::default()).await;
    let cron = |expression: &str, zone: &str| NewSchedule {
        recurrence: Recurrence::Cron {
            expression: expression.to_owned(),
            zone: zone.to_owned(),
        },
        ..every_second("bad")
    };
    let mut large = every_second("bad");
    large.message.body = vec![7; 5_000].into();
    let mut fast = every_second("bad");
    fast.recurrence = Recurrence::Every { every_ms: 999 };
    let unnamed = NewSchedule {
        name: String::new(),
        ..every_second("bad")
    };
    for (bad, named) in [
        (cron("* * * *", "UTC"), "4 fields"),
        (cron("61 * * * *", "UTC"), "61"),
        (cron("* * * * *", "Europe/Atlantis"), "Europe/Atlantis"),
        (large, "4096"),
        (fast, "1000 ms"),
        (unnamed, "0 bytes"),
    ] {
        let error = desk.put_schedule(QUEUE, &bad).await.expect_err("it is bad");
        assert_eq!(error.reason, Reason::InvalidSchedule, "{error}");
        assert!(error.message.contains(named), "{error}");
    }
    let unknown = desk.put_schedule(jangada_queue::QueueId(1), &every_second("bad")).await;
    assert_eq!(unknown.expect_err("there is no such queue").reason, Reason::NotReady);
    assert!(listed(&desk).is_empty());
    broker.stop().await;
}
