//! Messages that are sent again: each is in the log once, also over a change of the leader and of the desk.

use jangada_queue::dedup::IdVerdict;
use tokio::time::Instant;

use super::faults::until;
use super::*;
use crate::queues::sent_ids::AskedIds;

const WINDOW_MS: u64 = 60_000;

fn soon() -> Instant {
    Instant::now() + TIMEOUT
}

async fn ask(desk: &Arc<Desk>, ids: &[u128], at_ms: i64) -> AskedIds {
    let asked = desk.ask_ids(ids, (WINDOW_MS, at_ms.unsigned_abs()), soon()).await;
    asked.expect("it leads")
}

/// Appends messages with these ids, which are new.
async fn append(partition: &Partition, desk: &Arc<Desk>, ids: &[u128]) -> u64 {
    let mark = |id: &u128| Mark {
        id: *id,
        ..Mark::default()
    };
    let marks = Marks(ids.iter().map(mark).collect());
    let batch = batch(ids.len(), 10);
    let room = partition.room(&Caller::alone(), batch.len()).expect("there is room");
    let appending = desk.appending_ids(START_MS.unsigned_abs()).await.expect("it leads");
    let finding = Some(appending.finding);
    let admitted = partition
        .admit_messages(batch, Some(marks), finding, room)
        .await
        .expect("it is taken");
    drop(appending);
    let appended = partition
        .acknowledged(admitted, TIMEOUT)
        .await
        .expect("it is acknowledged");
    appended.base_offset.get().unsigned_abs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_sent_is_known_in_the_same_term_and_by_the_next_leader() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let asked = ask(&desk, &[7, 0, 8, 7], START_MS).await;
    let same = IdVerdict::SameAs { place: 0 };
    assert_eq!(asked.verdicts, [IdVerdict::New, IdVerdict::New, IdVerdict::New, same]);
    assert_eq!(append(&partition, &desk, &[7, 0, 8]).await, 0);
    let sent = [IdVerdict::Sent { offset: 2 }, IdVerdict::Sent { offset: 0 }];
    assert_eq!(ask(&desk, &[8, 7], START_MS).await.verdicts, sent);
    let (partition, next) = lead(&broker, Policy::default()).await;
    assert_eq!(ask(&next, &[8, 7], START_MS + 59_999).await.verdicts, sent);
    // The window is over: nothing is known any more.
    broker.set_clock(START_MS + 60_000);
    let again = ask(&next, &[8], START_MS + 60_000).await;
    assert_eq!(again.verdicts, [IdVerdict::New]);
    assert_eq!(append(&partition, &next, &[8]).await, 3);
    let sent = [IdVerdict::Sent { offset: 3 }];
    assert_eq!(ask(&next, &[8], START_MS + 60_000).await.verdicts, sent);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_id_waits_for_what_becomes_of_the_first() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let first = ask(&desk, &[7], START_MS).await;
    assert_eq!(first.verdicts, [IdVerdict::New]);
    let early = desk
        .ask_ids(&[7], (WINDOW_MS, START_MS.unsigned_abs()), Instant::now())
        .await;
    let refused = early.map(drop).expect_err("nothing is known yet");
    assert!(refused.reason == Reason::PartitionBusy && refused.definite, "{refused}");
    let waits = |ids: [u128; 1]| {
        let desk = desk.clone();
        tokio::spawn(async move { ask(&desk, &ids, START_MS).await })
    };
    let (second, third) = (waits([7]), waits([7]));
    until("both wait", || (desk.ids_waiting() == 2).then_some(())).await;
    // The first is refused: one of the others is new then.
    desk.ids_not_appended(&first);
    until("one of them goes on", || (desk.ids_waiting() == 1).then_some(())).await;
    assert_eq!(append(&partition, &desk, &[7]).await, 0);
    let mut verdicts = Vec::new();
    for asked in [second, third] {
        verdicts.extend(asked.await.expect("it does not panic").verdicts);
    }
    verdicts.sort_by_key(|verdict| *verdict != IdVerdict::New);
    assert_eq!(verdicts, [IdVerdict::New, IdVerdict::Sent { offset: 0 }]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_desk_of_a_term_knows_what_the_one_before_it_was_appending() {
    let (broker, partition, desk) = begin(Policy::default()).await;
    let asked = ask(&desk, &[7], START_MS).await;
    assert_eq!(asked.verdicts, [IdVerdict::New]);
    // Its batch is on its way to Raft while the desk ends.
    let appending = desk.appending_ids(START_MS.unsigned_abs()).await.expect("it leads");
    desk.end();
    let next = until("another desk begins", || {
        partition.desk().ok().filter(|next| !Arc::ptr_eq(next, &desk))
    })
    .await;
    let waits = tokio::spawn({
        let next = next.clone();
        async move { ask(&next, &[7], START_MS).await }
    });
    let batch = batch(1, 10);
    let room = partition.room(&Caller::alone(), batch.len()).expect("there is room");
    let mark = Mark {
        id: 7,
        ..Mark::default()
    };
    let admitted = partition
        .admit_messages(batch, Some(Marks(vec![mark])), Some(appending.finding), room)
        .await;
    assert!(!waits.is_finished(), "what becomes of the first is not known yet");
    drop(appending);
    let appended = partition.acknowledged(admitted.expect("it is taken"), TIMEOUT).await;
    assert_eq!(appended.expect("it is acknowledged").base_offset, Offset(0));
    let asked = tokio::time::timeout(TIMEOUT, waits).await.expect("it is answered");
    assert_eq!(
        asked.expect("it does not panic").verdicts,
        [IdVerdict::Sent { offset: 0 }]
    );
    let late = desk.appending_ids(START_MS.unsigned_abs()).await;
    late.map(drop)
        .expect_err("what the first desk has found does not count any more");
    broker.stop().await;
}
