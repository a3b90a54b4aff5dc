//! What goes wrong at a desk: slots that are refused or exchanged, a desk that follows another one in the same term, streams that do not
//! listen, a disk that is nearly full.

use std::collections::BTreeMap;

use jangada_log::{PartitionCommand, PartitionState};
use jangada_queue::engine::{Input, RequestId};
use jangada_queue::limits::SLOTS_MAX;
use jangada_queue::{QueueOps, Runs, Section, SlotId};

use super::*;
use crate::queues::task::EndsWithTask;

fn spec_of(queue: u128) -> QueueSpec {
    QueueSpec {
        id: QueueId(queue),
        kind: SlotKind::Group,
        ..spec(Policy::default())
    }
}

pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::time::timeout(TIMEOUT, found).await.expect(what)
}

/// The slots of the partition, by queue.
fn slots(desk: &Desk) -> BTreeMap<QueueId, SlotId> {
    desk.with_state(|state| state.slots().iter().map(|(id, slot)| (slot.queue(), id)).collect())
}

fn administer(desk: &Desk, section: Section) {
    let request = RequestId(desk.next_id());
    desk.put(Input::Administer { request, section });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_refused_a_slot_gets_one_as_soon_as_there_is_room() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let all: Vec<QueueSpec> = (1..=SLOTS_MAX as u128 + 1).map(spec_of).collect();
    partition.set_queues(all.clone().into());
    until("there are as many slots as may be", || {
        (slots(&desk).len() == SLOTS_MAX).then_some(())
    })
    .await;
    let there = slots(&desk);
    let refused: Vec<QueueSpec> = all.into_iter().filter(|spec| !there.contains_key(&spec.id)).collect();
    assert_eq!(refused.len(), 1);
    partition.set_queues(refused.clone().into());
    let (_, slot) = there.first_key_value().expect("there are many");
    administer(&desk, Section::Close { slot: *slot });
    until("it gets a slot", || desk.counts(refused[0].id)).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_no_message_can_have_are_refused_and_nothing_stops() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    send(&partition, 2).await;
    let far = [1 << 60, u64::MAX - 1, u64::MAX];
    let cancelled = tokio::time::timeout(TIMEOUT, desk.cancel(QUEUE, &far)).await;
    let cancelled = cancelled.expect("it is answered").expect("it leads");
    assert_eq!(cancelled, far.map(|offset| (offset, false)).into());
    let messages = || Runs::from_iter(far);
    for what in [Administer::Redrive(messages()), Administer::PurgeDead(messages())] {
        let reply = tokio::time::timeout(TIMEOUT, desk.administer(QUEUE, what)).await;
        let refused = SectionReply::Taken { refused: messages() };
        assert_eq!(reply.expect("it is answered").expect("it leads"), refused);
    }
    send(&partition, 1).await;
    assert_eq!(receive_all(&desk, 3).await.len(), 3, "the partition works on");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_closed_while_another_was_opened_is_missed() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    partition.set_queues(vec![spec_of(1), spec_of(2)].into());
    until("the slots are open", || {
        desk.counts(QueueId(1)).and(desk.counts(QueueId(2)))
    })
    .await;
    let closed = slots(&desk)[&QueueId(1)];
    administer(&desk, Section::Close { slot: closed });
    let open = Section::Open {
        queue: QueueId(9),
        slot_kind: SlotKind::Group,
        order: KeepsOrder::No,
        start: 0,
    };
    administer(&desk, open);
    until("it is opened anew", || {
        let slot = slots(&desk).remove(&QueueId(1))?;
        desk.counts(QueueId(1)).filter(|_| slot != closed)
    })
    .await;
    broker.stop().await;
}

/// The desk that follows in the same term, with its slots open.
async fn next_desk(partition: &Arc<Partition>, before: &Arc<Desk>) -> Arc<Desk> {
    let next = until("another desk begins", || {
        let desk = partition.desk().ok().filter(|desk| !Arc::ptr_eq(desk, before))?;
        desk.counts(QUEUE).map(|_| desk)
    })
    .await;
    assert_eq!(next.term, before.term);
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desk_waits_for_what_the_one_before_it_is_handing_to_raft() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    send(&partition, 1).await;
    let slot = slots(&desk)[&QUEUE];
    // Raft takes no more for a while: the first desk stands in the middle of a submission.
    let submitting = desk.submitting().await;
    desk.end();
    let next = until("another desk begins", || {
        partition.desk().ok().filter(|next| !Arc::ptr_eq(next, &desk))
    })
    .await;
    let waits = tokio::spawn({
        let next = next.clone();
        async move {
            next.watch_begun().wait_for(|begun| *begun).await.expect("it is there");
        }
    });
    let grant = Section::Grant {
        slot,
        session: SessionId(3),
        attempt: AttemptId(0),
        duration_ms: LONG_MS,
        messages: Runs::of(0, 0),
        keys: Vec::new(),
        lanes: Vec::new(),
    };
    let ops = QueueOps {
        term: desk.term,
        now_ms: START_MS.unsigned_abs(),
        ticket: 1,
        sections: vec![grant],
    };
    let group = &partition.hosted.group;
    let submitted = group.submit::<PartitionState>(PartitionCommand::QueueOps(ops)).await;
    submitted
        .expect("it leads")
        .applied(TIMEOUT)
        .await
        .expect("it is applied");
    assert!(!waits.is_finished(), "it has not begun before that");
    drop(submitting);
    tokio::time::timeout(TIMEOUT, waits)
        .await
        .expect("it begins")
        .expect("it does not panic");
    until("its slot is open", || next.counts(QUEUE)).await;
    assert!(is_empty(&next).await, "the message is with the first desk's consumer");
    let counts = next.counts(QUEUE).expect("it is open");
    assert_eq!((counts.ready, counts.leased), (0, 1));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_saw_goes_back_though_the_desk_that_granted_it_has_ended() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    send(&partition, 2).await;
    let Handed { request, messages, .. } = desk.receive(QUEUE, asks(2, LONG_MS)).await.expect("it leads");
    let give_back = |message: &Delivered| desk.undelivered(QUEUE, request, vec![(message.offset, message.lease)]);
    desk.end();
    // Before the next one is there, and after.
    give_back(&messages[0]);
    let next = next_desk(&partition, &desk).await;
    let again = receive(&next, 1, LONG_MS).await;
    assert_eq!((again[0].offset, again[0].deliveries, again[0].failures), (0, 1, 0));
    assert!(is_empty(&next).await);
    give_back(&messages[1]);
    let again = receive(&next, 1, LONG_MS).await;
    assert_eq!((again[0].offset, again[0].deliveries, again[0].failures), (1, 1, 0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_did_not_listen_for_a_while_keeps_its_credit() {
    const MESSAGES: usize = EVENTS_MAX + 40;
    let (broker, partition, desk) = begin(Policy::default()).await;
    let mut stream = desk.attach(QUEUE, SessionId(1), LONG_MS, Vec::new()).expect("it leads");
    assert_eq!(stream.next().await, AttachedEvent::Begun(Vec::new()), "it is new");
    stream.credit(MESSAGES as u32);
    for sent in 1..=EVENTS_MAX {
        send(&partition, 1).await;
        // Each is an event of its own.
        until("it is handed out", || {
            (desk.counts(QUEUE)?.leased == sent as u64).then_some(())
        })
        .await;
    }
    send(&partition, MESSAGES - EVENTS_MAX).await;
    // They come back until the credit is spent.
    let credit_is_spent = || {
        let counts = desk.counts(QUEUE).expect("it is open");
        (counts.ready == (MESSAGES - EVENTS_MAX) as u64 && stream.owed() > 0).then_some(())
    };
    until("there is no room for the others", credit_is_spent).await;
    let mut got = BTreeSet::new();
    while got.len() < MESSAGES {
        match tokio::time::timeout(TIMEOUT, stream.next()).await.expect("they come") {
            AttachedEvent::Deliveries(messages) => got.extend(offsets(&messages)),
            other => panic!("{other:?}"),
        }
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_half_of_the_disks_reserve_nothing_is_handed_out_or_settled() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    send(&partition, 2).await;
    let messages = receive(&desk, 1, LONG_MS).await;
    broker.store.set_disk_low(Some((600, 1_000)));
    let refused = send_with(&partition, batch(1, 10), None).await.expect_err("it is low");
    assert_eq!(refused.reason, Reason::DiskFull);
    // Above the half settlements are taken, and messages go out.
    let more = receive(&partition.desk().expect("it leads"), 1, LONG_MS).await;
    assert_eq!(settle(&desk, &more, Settlement::Ack).await, [Settled::Done]);
    let waits = tokio::spawn({
        let desk = desk.clone();
        async move { desk.receive(QUEUE, asks(1, LONG_MS)).await }
    });
    until("it waits", || desk.has_consumers().then_some(())).await;
    broker.store.set_disk_low(Some((499, 1_000)));
    let refused = partition.desk().map(drop).expect_err("it is half used up");
    assert_eq!(
        (refused.reason, &refused.metadata["limit"][..]),
        (Reason::DiskFull, "500")
    );
    assert!(refused.message.contains("below half of the reserve"), "{refused}");
    // Whoever comes later to this desk, or waits there, is told the same.
    let item = SettleItem {
        offset: messages[0].offset,
        lease: messages[0].lease,
        settlement: Settlement::Ack,
    };
    let late = desk.settle(QUEUE, vec![item]).await.expect_err("it is half used up");
    assert_eq!(late.reason, Reason::DiskFull, "{late}");
    let waited = waits.await.expect("it does not panic").expect_err("it is half used up");
    assert_eq!(waited.reason, Reason::DiskFull, "{waited}");
    broker.store.set_disk_low(None);
    let next = next_desk(&partition, &desk).await;
    assert_eq!(settle(&next, &messages, Settlement::Ack).await, [Settled::Done]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_at_a_desk_whose_task_has_panicked_is_told() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let waits = tokio::spawn({
        let desk = desk.clone();
        async move { desk.receive(QUEUE, asks(1, LONG_MS)).await }
    });
    until("it waits", || desk.has_consumers().then_some(())).await;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ends = EndsWithTask(desk.clone());
        panic!("as a task does that finds what cannot be");
    }));
    panicked.expect_err("it panicked");
    let told = tokio::time::timeout(TIMEOUT, waits).await.expect("it is told");
    told.expect("it does not panic").expect_err("the desk has ended");
    send(&partition, 1).await;
    let next = next_desk(&partition, &desk).await;
    assert_eq!(receive(&next, 1, LONG_MS).await.len(), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_try_has_is_not_given_back_at_the_next_desk() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    send(&partition, 1).await;
    let asks = ReceiveArgs {
        attempt: AttemptId(9),
        ..asks(1, LONG_MS)
    };
    let first = desk.receive(QUEUE, asks).await.expect("it leads");
    let second = desk.receive(QUEUE, asks).await.expect("it leads");
    assert_eq!(
        offsets(&first.messages),
        offsets(&second.messages),
        "the first answer was lost"
    );
    desk.end();
    let next = next_desk(&partition, &desk).await;
    let messages: Vec<_> = first
        .messages
        .iter()
        .map(|message| (message.offset, message.lease))
        .collect();
    desk.undelivered(QUEUE, first.request, messages.clone());
    assert!(is_empty(&next).await, "it is with the second try");
    desk.undelivered(QUEUE, second.request, messages);
    assert_eq!(offsets(&receive(&next, 1, LONG_MS).await), [0], "nobody has seen it");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_takes_back_what_it_was_granted_and_not_what_its_next_try_got() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let asks = |attempt, call| ReceiveArgs {
        attempt: AttemptId(attempt),
        call: CallId(call),
        ..asks(1, LONG_MS)
    };
    send(&partition, 1).await;
    desk.receive(QUEUE, asks(1, 10)).await.expect("it leads");
    desk.take_back(QUEUE, asks(1, 10)).await.expect("it leads");
    let again = desk.receive(QUEUE, asks(2, 20)).await.expect("it leads");
    assert_eq!(offsets(&again.messages), [0]);
    let next_try = desk.receive(QUEUE, asks(2, 21)).await.expect("it leads");
    assert_eq!(offsets(&next_try.messages), [0], "the answer was lost");
    for call in [20, 21] {
        desk.take_back(QUEUE, asks(2, call)).await.expect("it leads");
    }
    assert!(is_empty(&desk).await, "the client has it");
    assert_eq!(settle(&desk, &again.messages, Settlement::Ack).await, [Settled::Done]);
    broker.stop().await;
}
