//! The limits of a queue: they hold from the first message on, and a message that never fits is not tried again.

use jangada_types::Reason;

use super::faults::until;
use super::*;

fn limited(messages_max: Option<u64>, bytes_max: Option<u64>) -> Policy {
    Policy {
        messages_max,
        bytes_max,
        ..Policy::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_before_the_queue_has_a_slot() {
    let broker = Broker::start(Options::default());
    broker.set_clock(START_MS);
    let partition = broker.lead(TopicConfig::default()).await;
    // Raft takes no command of the desk for a while.
    let succession = partition.view.desk.succession();
    let submitting = succession.submitting.write().await;
    partition.set_queues(Arc::new([spec(limited(Some(3), None))]));
    for _ in 0..5 {
        let refused = send_with(&partition, batch(1, 10), None)
            .await
            .expect_err("it is not open");
        assert_eq!(
            (refused.reason, refused.definite),
            (Reason::NotReady, true),
            "{refused}"
        );
    }
    drop(submitting);
    let desk = until("it has a desk", || partition.desk().ok()).await;
    until("its slot is open", || desk.counts(QUEUE)).await;
    send(&partition, 3).await;
    let refused = send_with(&partition, batch(1, 10), None).await.expect_err("it is full");
    assert_eq!(refused.reason, Reason::QueueFull);
    assert_eq!(desk.room(QUEUE).map(|room| room.messages), Some(0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_without_limits_takes_messages_before_it_has_a_slot() {
    let broker = Broker::start(Options::default());
    broker.set_clock(START_MS);
    let partition = broker.lead(TopicConfig::default()).await;
    let succession = partition.view.desk.succession();
    let submitting = succession.submitting.write().await;
    partition.set_queues(Arc::new([spec(Policy::default())]));
    send(&partition, 2).await;
    drop(submitting);
    let desk = until("it has a desk", || partition.desk().ok()).await;
    let counts = until("its slot is open", || desk.counts(QUEUE)).await;
    assert_eq!((counts.ready, desk.room(QUEUE)), (2, None));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_knows_that_consumers_have_as_many_messages_as_they_may() {
    let policy = Policy {
        in_flight_max: 2,
        ..Policy::default()
    };
    let (broker, partition, desk) = begin(policy).await;
    send(&partition, 3).await;
    let held = receive_all(&desk, 2).await;
    let mut stream = desk.attach(QUEUE, SessionId(9), LONG_MS, Vec::new()).expect("it leads");
    assert_eq!(stream.next().await, AttachedEvent::Begun(Vec::new()));
    assert_eq!(stream.in_flight_full(), 0, "it wants nothing");
    stream.credit(1);
    until("it gets nothing for that", || {
        (stream.in_flight_full() == 2).then_some(())
    })
    .await;
    settle(&desk, &held, Settlement::Ack).await;
    let AttachedEvent::Deliveries(messages) = stream.next().await else {
        panic!("a message comes")
    };
    assert_eq!((offsets(&messages), stream.in_flight_full()), (vec![2], 0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_larger_than_all_that_the_queue_may_have_is_not_to_be_sent_again() {
    let (broker, partition, desk) = begin(limited(None, Some(1_000))).await;
    let refused = send_with(&partition, batch(1, 2_000), None)
        .await
        .expect_err("it never fits");
    assert_eq!(refused.reason, Reason::RecordTooLarge, "{refused}");
    assert!(refused.message.contains("queue.max.bytes"), "{refused}");
    send_with(&partition, batch(1, 700), None).await.expect("it fits");
    let refused = send_with(&partition, batch(1, 700), None)
        .await
        .expect_err("it is full");
    assert_eq!(refused.reason, Reason::QueueFull, "{refused}");
    assert_eq!(desk.counts(QUEUE).map(|counts| counts.ready), Some(1));
    broker.stop().await;
}
