//! Queues that read an ordinary topic: many on one log, each with what became of the messages there; the topic's retention.

use super::faults::until;
use super::*;

const QUEUES: [QueueId; 3] = [QueueId(1), QueueId(2), QueueId(3)];
const RETENTION_MS: i64 = 1_000;

fn reads(queue: QueueId, hold_bytes: u64) -> QueueSpec {
    QueueSpec {
        id: queue,
        kind: SlotKind::Group,
        hold_bytes,
        ..spec(Policy::default())
    }
}

/// A partition of a topic with these queues.
async fn begin_with(specs: Vec<QueueSpec>, config: TopicConfig) -> (Broker, Arc<Partition>, Arc<Desk>) {
    let broker = Broker::start(Options::default());
    broker.set_clock(START_MS);
    let partition = broker.lead(config).await;
    partition.set_queues(specs.clone().into());
    let desk = until("it has a desk", || partition.desk().ok()).await;
    for spec in specs {
        until("its slot is open", || desk.counts(spec.id)).await;
    }
    (broker, partition, desk)
}

async fn receive_from(desk: &Desk, queue: QueueId, count: usize) -> Vec<Delivered> {
    let mut all = Vec::new();
    let receiving = async {
        while all.len() < count {
            all.extend(
                desk.receive(queue, asks(100, LONG_MS))
                    .await
                    .expect("it leads")
                    .messages,
            );
        }
    };
    tokio::time::timeout(TIMEOUT, receiving).await.expect("they are there");
    all
}

async fn acknowledge(desk: &Desk, queue: QueueId, messages: &[Delivered]) -> Vec<Settled> {
    let item = |message: &Delivered| SettleItem {
        offset: message.offset,
        lease: message.lease,
        settlement: Settlement::Ack,
    };
    desk.settle(queue, messages.iter().map(item).collect())
        .await
        .expect("it leads")
}

fn kept_for_a_while() -> TopicConfig {
    TopicConfig {
        retention_ms: Some(RETENTION_MS.unsigned_abs()),
        ..TopicConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_queue_of_a_topic_has_all_messages_and_the_log_stays() {
    let specs = QUEUES.map(|queue| reads(queue, 0)).to_vec();
    let (broker, partition, desk) = begin_with(specs, TopicConfig::default()).await;
    send(&partition, 20).await;
    let all: Vec<u64> = (0..20).collect();
    for queue in QUEUES {
        let messages = receive_from(&desk, queue, 20).await;
        assert_eq!(offsets(&messages), all, "what another queue does changes nothing here");
        if queue != QUEUES[2] {
            assert_eq!(acknowledge(&desk, queue, &messages).await, [Settled::Done; 20]);
        }
    }
    let counts = |queue| desk.counts(queue).expect("it is open");
    assert_eq!(QUEUES.map(|queue| counts(queue).leased), [0, 0, 20]);
    assert_eq!(partition.view.log_start(), Offset(0), "the topic keeps its records");
    // One of them begins anew in the middle; the others do not notice.
    let sought = desk.administer(QUEUES[0], Administer::Seek { to: 12 }).await;
    assert!(matches!(sought, Ok(SectionReply::Taken { .. })));
    let again = receive_from(&desk, QUEUES[0], 8).await;
    assert_eq!(offsets(&again), all[12..]);
    assert_eq!((counts(QUEUES[1]).ready, counts(QUEUES[1]).leased), (0, 0));
    // A queue that goes takes nothing with it.
    partition.set_queues(vec![reads(QUEUES[0], 0), reads(QUEUES[2], 0)].into());
    until("it is gone", || desk.counts(QUEUES[1]).is_none().then_some(())).await;
    assert_eq!(acknowledge(&desk, QUEUES[0], &again).await, [Settled::Done; 8]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_takes_what_a_queue_has_not_settled_and_counts_it() {
    let specs = vec![reads(QUEUES[0], 0), reads(QUEUES[1], 0)];
    let (broker, partition, desk) = begin_with(specs, kept_for_a_while()).await;
    send(&partition, 10).await;
    let mine = receive_from(&desk, QUEUES[0], 10).await;
    acknowledge(&desk, QUEUES[0], &mine[..7]).await;
    broker.set_clock(START_MS + 10 * RETENTION_MS);
    assert_eq!(partition.enforce_retention().await, Ok(Offset(10)));
    assert_eq!(
        desk.messages_cut_off(QUEUES[0]),
        Some(3),
        "those that it had settled are no loss"
    );
    assert_eq!(desk.messages_cut_off(QUEUES[1]), Some(10));
    let counts = QUEUES[..2].iter().map(|queue| desk.counts(*queue).expect("it is open"));
    assert!(
        counts
            .clone()
            .all(|counts| counts.ready + counts.leased + counts.waiting == 0)
    );
    // Whoever works on one still hears that there is nothing more to do.
    assert_eq!(
        acknowledge(&desk, QUEUES[0], &mine[7..]).await,
        [Settled::AlreadySettled; 3]
    );
    send(&partition, 2).await;
    for queue in &QUEUES[..2] {
        assert_eq!(offsets(&receive_from(&desk, *queue, 2).await), [10, 11]);
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_holds_keeps_what_it_has_not_settled_up_to_its_bound() {
    let bytes = batch(1, 1_000).len() as u64;
    let specs = vec![reads(QUEUES[0], 4 * bytes), reads(QUEUES[1], 0)];
    let (broker, partition, desk) = begin_with(specs, kept_for_a_while()).await;
    for _ in 0..10 {
        send_with(&partition, batch(1, 1_000), None).await.expect("it is taken");
    }
    broker.set_clock(START_MS + 10 * RETENTION_MS);
    // The last four are within the bound.
    assert_eq!(partition.enforce_retention().await, Ok(Offset(6)));
    assert_eq!(desk.messages_cut_off(QUEUES[0]), Some(6));
    let messages = receive_from(&desk, QUEUES[0], 4).await;
    assert_eq!(offsets(&messages), [6, 7, 8, 9]);
    acknowledge(&desk, QUEUES[0], &messages[..2]).await;
    assert_eq!(partition.enforce_retention().await, Ok(Offset(8)), "it needs no more");
    assert_eq!(
        desk.messages_cut_off(QUEUES[0]),
        Some(6),
        "what it has settled is no loss"
    );
    // Without the setting retention takes the others, too.
    partition.set_queues(vec![reads(QUEUES[0], 0), reads(QUEUES[1], 0)].into());
    until("the log is empty", || {
        (partition.view.log_start() == Offset(10)).then_some(())
    })
    .await;
    until("the others are counted", || {
        (desk.messages_cut_off(QUEUES[0]) == Some(8)).then_some(())
    })
    .await;
    broker.stop().await;
}
