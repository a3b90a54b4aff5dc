//! What becomes of a transaction when something dies: each row of the table in `docs/architecture/transactions.md` by one test.

use jangada_transactions::{Delivery, JoinKind, Outcome, TransactionState};
use jangada_types::Reason;
use jangada_types::replicated::Seeds;

use crate::desk::{Desk, end, join, writing};
use crate::model::partition::Applied;

/// Whether all of the transaction of [`writing`] is visible, or nothing of it.
fn assert_visible(desk: &Desk, is_visible: bool) {
    let (first, second, offset) = if is_visible {
        (vec![1], vec![2], 70)
    } else {
        (vec![], vec![], 0)
    };
    assert_eq!((desk.visible(0), desk.visible(1)), (first, second));
    assert_eq!(desk.groups.fetch("g", 7), Some(offset));
    assert!(!desk.is_open(0) && !desk.is_open(1));
}

#[test]
fn a_producer_that_dies_is_timed_out_and_its_next_process_goes_on() {
    let (mut desk, producer) = writing();
    desk.pass(59_000);
    assert_eq!(desk.state(), TransactionState::Ongoing);
    desk.pass(1_001);
    assert_eq!(desk.state(), TransactionState::PrepareAbort);
    assert_eq!(desk.row().last.map(|last| last.outcome), Some(Outcome::TimedOut));
    assert_eq!(
        desk.take(),
        Err(Reason::ConcurrentTransactions),
        "markers are not written"
    );
    desk.write_markers();
    assert_visible(&desk, false);
    // It was only asleep: it is told so, and may go on under the next epoch.
    assert_eq!(desk.commit(producer), Err(Reason::TransactionTimedOut));
    assert_eq!(desk.write(producer, 2, 0, 3), Err(Reason::TransactionTimedOut));
    let (next, _) = desk.abort(producer).expect("it holds the id");
    assert_eq!(next, producer.bumped());
    // Another process takes the id: now it is fenced.
    let other = desk.take().expect("the markers are written");
    assert_eq!(other, next.bumped());
    for fenced in [producer, next] {
        assert_eq!(desk.abort(fenced), Err(Reason::ProducerFenced));
        assert_eq!(desk.write(fenced, 2, 0, 3), Err(Reason::ProducerFenced));
        assert_eq!(
            desk.append(fenced, 1, 0, 0, 3),
            if fenced == producer {
                Applied::Fenced
            } else {
                Applied::InvalidState
            }
        );
    }
}

#[test]
fn a_leader_that_dies_before_the_decision_is_committed_leaves_it_open() {
    let (mut desk, producer) = writing();
    let request = end(producer, true);
    let answered = desk
        .shard
        .ask((), 0, |leader, image, now| leader.end(image, request, now));
    assert!(answered.is_none() && desk.shard.has_inflight());
    desk.shard.lose_leader(0, 0);
    desk.shard.elect(0);
    assert_eq!(desk.state(), TransactionState::Ongoing);
    desk.commit(producer).expect("the next leader decides it");
    desk.write_markers();
    assert_visible(&desk, true);
}

#[test]
fn an_answer_that_is_lost_is_given_again() {
    for commit in [true, false] {
        let (mut desk, producer) = writing();
        let request = end(producer, commit);
        desk.shard
            .ask((), 0, |leader, image, now| leader.end(image, request, now));
        // The decision is in the log, and whoever asked hears nothing.
        desk.fail_over();
        let (next, is_complete) = desk.end(end(producer, commit)).expect("the same answer");
        assert_eq!((next, is_complete), (producer.bumped(), false));
        assert_eq!(desk.end(end(producer, !commit)), Err(Reason::InvalidTransactionState));
        desk.write_markers();
        assert_eq!(desk.end(end(producer, commit)), Ok((next, true)));
        assert_eq!(desk.end(end(producer, !commit)), Err(Reason::InvalidTransactionState));
        assert_visible(&desk, commit);
        // Also while the next one is open.
        assert_eq!(desk.write(next, 0, 0, 9), Ok(Applied::Ok));
        assert_eq!(desk.end(end(producer, commit)), Ok((next, true)));
        assert_eq!(desk.state(), TransactionState::Ongoing);
    }
}

#[test]
fn the_next_leader_sends_all_markers_and_second_ones_do_nothing() {
    let (mut desk, producer) = writing();
    let (next, _) = desk.commit(producer).expect("it is open");
    let sent = desk.outgoing();
    assert_eq!(sent.len(), 3, "two partitions and a group");
    desk.deliver(&sent[0]);
    desk.acknowledge(&sent[0], Delivery::Done);
    desk.fail_over();
    let again = desk.outgoing();
    assert_eq!(again, sent, "the same decision, to all");
    again.iter().for_each(|marker| desk.deliver(marker));
    again.iter().for_each(|marker| desk.acknowledge(marker, Delivery::Done));
    assert_eq!(desk.state(), TransactionState::CompleteCommit);
    assert_visible(&desk, true);
    // A copy that was under way for long comes into the next transaction, and ends nothing.
    assert_eq!(desk.write(next, 0, 0, 9), Ok(Applied::Ok));
    sent.iter().for_each(|marker| desk.deliver(marker));
    assert!(desk.is_open(0));
    let end = desk.partitions[0].state().next_offset();
    assert_eq!(end.get(), 3, "one marker only");
}

#[test]
fn a_batch_that_was_proposed_when_its_leader_died_is_appended_once() {
    for kept in [0, 1] {
        let (mut desk, producer) = writing();
        let seq = desk.join(join(producer, &[2], JoinKind::Implicit)).expect("it is open");
        let batch = crate::model::partition::Proposal::Append {
            producer,
            seq,
            sequence: 0,
            value: 3,
        };
        desk.partitions[2].inflight.push_back((batch, ()));
        desk.partitions[2].fail_over(kept, 0, &mut Seeds::new(kept as u64));
        assert_eq!(
            desk.write(producer, 2, 0, 3),
            Ok(Applied::Ok),
            "the producer sends it again"
        );
        desk.commit(producer).expect("it is open");
        desk.write_markers();
        assert_eq!(desk.visible(2), [3]);
    }
}

#[test]
fn a_marker_that_was_proposed_when_its_leader_died_is_sent_again() {
    let (mut desk, producer) = writing();
    desk.commit(producer).expect("it is open");
    let sent = desk.outgoing();
    // One is not answered, the others are refused: there is no leader.
    sent[1..]
        .iter()
        .for_each(|marker| desk.acknowledge(marker, Delivery::Failed));
    assert_eq!(desk.outgoing(), []);
    desk.pass(50);
    assert_eq!(desk.outgoing(), sent[1..], "soon what was refused");
    desk.pass(5_000);
    assert_eq!(desk.outgoing(), sent, "later what nobody heard of");
    desk.pass(5_000);
    desk.write_markers();
    assert_visible(&desk, true);
}

#[test]
fn a_partition_without_a_quorum_holds_up_its_readers_and_the_id_and_nobody_else() {
    let (mut desk, producer) = writing();
    let (next, is_complete) = desk.commit(producer).expect("it is open");
    assert!(!is_complete);
    for marker in desk.outgoing() {
        match marker.target == jangada_transactions::Target::Partition(crate::desk::partition(1)) {
            true => desk.acknowledge(&marker, Delivery::Failed),
            false => {
                desk.deliver(&marker);
                desk.acknowledge(&marker, Delivery::Done);
            }
        }
    }
    assert_eq!((desk.visible(0), desk.groups.fetch("g", 7)), (vec![1], Some(70)));
    assert_eq!((desk.visible(1), desk.is_open(1)), (vec![], true));
    assert_eq!(
        desk.write(next, 0, 0, 9),
        Err(Reason::ConcurrentTransactions),
        "the id waits"
    );
    assert_eq!(desk.take(), Err(Reason::ConcurrentTransactions));
    // It is never sent more often than each half second.
    let mut attempts = 0;
    for _ in 0..100 {
        desk.pass(100);
        for marker in desk.outgoing() {
            attempts += 1;
            desk.acknowledge(&marker, Delivery::Failed);
        }
    }
    assert!((20..=25).contains(&attempts), "{attempts} in 10 s");
    desk.pass(500);
    desk.write_markers();
    assert_visible(&desk, true);
    assert_eq!(desk.write(next, 0, 0, 9), Ok(Applied::Ok));
}

#[test]
fn a_deposed_leader_sends_what_was_decided_and_nothing_else() {
    let (mut desk, producer) = writing();
    desk.commit(producer).expect("it is open");
    let (image, mut deposed) = desk.shard.lose_leader(0, 0).expect("it led");
    desk.shard.elect(0);
    desk.write_markers();
    let next = producer.bumped();
    assert_eq!(
        desk.write(next, 0, 0, 9),
        Ok(Applied::Ok),
        "the next transaction, of which it knows nothing"
    );
    let old = deposed.take_outgoing(crate::model::shard::now(0), usize::MAX);
    assert_eq!(old.len(), 3);
    old.iter().for_each(|marker| desk.deliver(marker));
    assert!(desk.is_open(0) && desk.visible(0) == [1]);
    // It also answers for what it knows.
    let step = deposed.end(&image, end(producer, true), crate::model::shard::now(0));
    assert!(matches!(step, jangada_transactions::Step::Done(Ok(_))), "{step:?}");
}

#[test]
fn an_offset_whose_staging_was_not_answered_is_staged_again_or_aborted() {
    let (mut desk, producer) = writing();
    assert_eq!(desk.stage(producer, 7, 70), Ok(true), "the same once more");
    assert_eq!(desk.stage(producer, 8, 80), Ok(true));
    assert_eq!(desk.groups.fetch("g", 7), None, "a reader waits");
    desk.abort(producer).expect("it is open");
    desk.write_markers();
    assert_visible(&desk, false);
    // A copy that comes late stages nothing: nobody would ever end it.
    assert!(!desk.stage_in(producer, 1, 7, 70));
    assert!(!desk.groups.has_pending());
}

#[test]
fn another_process_with_the_same_id_sees_all_of_its_predecessor_and_stops_it() {
    let (mut desk, producer) = writing();
    assert_eq!(
        desk.take(),
        Err(Reason::ConcurrentTransactions),
        "what is open is aborted first"
    );
    assert_eq!(desk.state(), TransactionState::PrepareAbort);
    assert_eq!(desk.take(), Err(Reason::ConcurrentTransactions));
    // The predecessor writes on: where it has written before, and elsewhere.
    assert_eq!(desk.write(producer, 2, 0, 3), Err(Reason::ProducerFenced));
    desk.write_markers();
    let other = desk.take().expect("all is written");
    assert_visible(&desk, false);
    assert_eq!(desk.append(producer, 1, 0, 1, 3), Applied::Fenced);
    assert_eq!(desk.commit(producer), Err(Reason::ProducerFenced));
    assert_eq!(desk.reset(producer), Err(Reason::ProducerFenced));
    assert_eq!(desk.write(other, 0, 0, 4), Ok(Applied::Ok));
    desk.commit(other).expect("it is open");
    desk.write_markers();
    assert_eq!(desk.visible(0), [4]);
}

#[test]
fn a_batch_that_was_admitted_before_the_end_and_comes_after_it_opens_nothing() {
    // Its partition has no batch of the transaction yet, and its marker comes first.
    for bumps in [true, false] {
        let (mut desk, producer) = writing();
        let seq = desk.join(join(producer, &[2], JoinKind::Implicit)).expect("it is open");
        let request = jangada_transactions::EndRequest {
            bumps,
            ..end(producer, false)
        };
        desk.end(request).expect("it is open");
        desk.write_markers();
        assert_eq!(desk.state(), TransactionState::CompleteAbort);
        let expected = if bumps { Applied::Fenced } else { Applied::InvalidState };
        assert_eq!(desk.append(producer, seq, 2, 0, 3), expected);
        assert!(!desk.is_open(2));
    }
}
