//! What a transactional id goes through, step by step.

use jangada_transactions::{
    Command, Config, Delivery, EndRequest, Event, Image, InitRequest, JoinKind, JoinRequest, Outcome, Producer, Target,
    TransactionState,
};
use jangada_types::{ProducerEpoch, ProducerId, Reason};

use crate::desk::{Desk, ID, end, join, name, partition, writing};
use crate::model::partition::Applied;
use crate::model::shard::now;

#[test]
fn each_transaction_has_an_epoch_of_its_own() {
    let mut desk = Desk::new();
    let mut producer = desk.take().expect("the id is free");
    for round in 1..=5 {
        assert_eq!(producer.epoch, ProducerEpoch(round - 1));
        assert_eq!(desk.write(producer, 0, 0, round as u64), Ok(Applied::Ok));
        assert_eq!(desk.row().seq, round as u64);
        let (next, _) = desk.end(end(producer, round % 2 == 1)).expect("it is open");
        desk.write_markers();
        producer = next;
    }
    assert_eq!(desk.visible(0), [1, 3, 5]);
}

/// What docs/delivery.md says a transaction costs: each command waits for the one before it, and each partition takes as long by itself.
#[test]
fn a_transaction_is_seen_after_four_rounds() {
    let mut desk = Desk::new();
    let producer = desk.take().expect("the id is free");
    let commands = |desk: &Desk| desk.shard.image.version();
    let before = commands(&desk);
    assert_eq!(desk.write(producer, 0, 0, 1), Ok(Applied::Ok));
    assert_eq!(
        commands(&desk) - before,
        1,
        "the first batch of a partition joins, and is appended then"
    );
    assert_eq!(desk.write(producer, 0, 1, 2), Ok(Applied::Ok));
    assert_eq!(commands(&desk) - before, 1, "those behind it are only appended");
    desk.commit(producer).expect("it is open");
    assert_eq!(commands(&desk) - before, 2, "it is decided");
    assert_eq!(desk.visible(0), [0; 0], "and not seen yet");
    let markers = desk.outgoing();
    assert_eq!(markers.len(), 1);
    desk.deliver(&markers[0]);
    assert_eq!(desk.visible(0), [1, 2], "it is, though no coordinator has heard of it");
    assert_eq!(
        (commands(&desk) - before, desk.partitions[0].state().next_offset().get()),
        (2, 3),
        "two batches and the marker"
    );
    desk.acknowledge(&markers[0], Delivery::Done);
    assert_eq!(
        commands(&desk) - before,
        3,
        "which nobody waits for but the next transaction"
    );
}

/// Writers that go on at once: where all brokers know how, the command with which a transaction begins completes the one before.
#[test]
fn the_next_transaction_begins_by_the_command_that_completes_the_last() {
    let config = Config {
        begins_at_once: true,
        ..Config::default()
    };
    let mut desk = Desk::with(Image::new(), config);
    let mut producer = desk.take().expect("the id is free");
    let before = desk.shard.image.version();
    for round in 1..=4 {
        assert_eq!(desk.write(producer, 0, 0, round), Ok(Applied::Ok));
        assert_eq!(desk.row().seq, round);
        producer = desk.commit(producer).expect("it is open").0;
        assert_eq!(
            desk.write(producer, 0, 0, 99),
            Err(Reason::ConcurrentTransactions),
            "markers are missing"
        );
        desk.write_markers();
        assert_eq!(desk.state(), TransactionState::PrepareCommit);
        assert!(!desk.is_open(0), "readers have no part in it");
    }
    assert_eq!(desk.shard.image.version() - before, 8, "two commands each");
    assert_eq!(desk.shard.effects["Begin"], 3);
    assert_eq!(desk.visible(0), [1, 2, 3, 4]);
    // Nobody goes on: it is completed by itself.
    desk.pass(4);
    assert_eq!(desk.state(), TransactionState::PrepareCommit);
    desk.pass(1);
    assert_eq!(desk.state(), TransactionState::CompleteCommit);
    assert_eq!(desk.write(producer, 1, 0, 5), Ok(Applied::Ok));
}

#[test]
fn a_transaction_that_begins_behind_another_has_no_partition_of_that_one() {
    let config = Config {
        begins_at_once: true,
        ..Config::default()
    };
    let mut desk = Desk::with(Image::new(), config);
    let producer = desk.take().expect("the id is free");
    assert_eq!(desk.write(producer, 0, 0, 1), Ok(Applied::Ok));
    assert_eq!(desk.write(producer, 1, 0, 2), Ok(Applied::Ok));
    let (producer, _) = desk.commit(producer).expect("it is open");
    desk.write_markers();
    // Partition 1 is still in the row when partition 0 asks.
    assert_eq!(desk.write(producer, 0, 0, 3), Ok(Applied::Ok));
    assert!(desk.row().partitions.iter().eq([&partition(0)]));
    assert_eq!(desk.write(producer, 1, 0, 4), Ok(Applied::Ok));
    let (_, _) = desk.abort(producer).expect("it is open");
    desk.write_markers();
    assert_eq!((desk.visible(0), desk.visible(1)), (vec![1], vec![2]));
}

/// A producer that writes to the same partitions and groups each time: the first that asks takes the others along.
#[test]
fn who_takes_part_each_time_needs_no_command_of_its_own() {
    let mut desk = Desk::new();
    let mut producer = desk.take().expect("the id is free");
    let mut commands = Vec::new();
    for round in 1..=5 {
        let before = desk.shard.image.version();
        for at in 0..2 {
            assert_eq!(desk.write(producer, at, 0, round), Ok(Applied::Ok));
        }
        assert_eq!(desk.stage(producer, 7, 70 + round), Ok(true));
        commands.push(desk.shard.image.version() - before);
        producer = desk.commit(producer).expect("it is open").0;
        desk.write_markers();
    }
    assert_eq!(commands, [3, 3, 3, 1, 1]);
    // Who stays away all the same gets a marker that ends nothing, and is not taken along the next time.
    assert_eq!(desk.write(producer, 0, 0, 6), Ok(Applied::Ok));
    assert_eq!(desk.row().partitions.len(), 2);
    producer = desk.commit(producer).expect("it is open").0;
    desk.write_markers();
    assert_eq!(desk.write(producer, 0, 0, 7), Ok(Applied::Ok));
    assert_eq!((desk.row().partitions.len(), desk.row().groups.len()), (1, 0));
    desk.commit(producer).expect("it is open");
    desk.write_markers();
    assert_eq!(
        (desk.visible(0), desk.visible(1)),
        ((1..=7).collect(), (1..=5).collect())
    );
}

/// The broker that asks may know less of the metadata than the one that asked for the partition before.
#[test]
fn a_partition_that_is_guessed_is_not_taken_for_deleted_by_metadata_from_before_it() {
    let mut desk = Desk::new();
    let mut producer = desk.take().expect("the id is free");
    let asks = |producer, at, metadata_version| JoinRequest {
        metadata_version,
        ..join(producer, &[at], JoinKind::Implicit)
    };
    for _ in 0..3 {
        desk.join(asks(producer, 0, 4)).expect("it is added");
        desk.join(asks(producer, 1, 9)).expect("it is added");
        producer = desk.commit(producer).expect("it is open").0;
        desk.write_markers();
    }
    desk.join(asks(producer, 0, 4)).expect("it is added");
    assert_eq!((desk.row().partitions.len(), desk.row().metadata_version), (2, 9));
    desk.commit(producer).expect("it is open");
    for marker in desk.outgoing() {
        desk.acknowledge(&marker, Delivery::NotFound { metadata_version: 4 });
    }
    assert_eq!(desk.state(), TransactionState::PrepareCommit, "the markers come again");
}

#[test]
fn a_transaction_without_participants_only_takes_an_epoch() {
    let mut desk = Desk::new();
    let producer = desk.take().expect("the id is free");
    assert_eq!(desk.commit(producer), Ok((producer.bumped(), true)));
    assert_eq!(desk.commit(producer), Ok((producer.bumped(), true)), "again");
    assert_eq!(desk.abort(producer.bumped()), Ok((producer.bumped().bumped(), true)));
    assert_eq!(desk.outgoing(), []);
    assert_eq!((desk.row().seq, desk.state()), (0, TransactionState::CompleteAbort));
}

#[test]
fn a_client_that_keeps_its_epoch_ends_what_is_open_and_nothing_else() {
    let (mut desk, producer) = writing();
    let keeps = |commit| EndRequest {
        bumps: false,
        ..end(producer, commit)
    };
    assert_eq!(desk.end(keeps(true)), Ok((producer, false)));
    assert_eq!(desk.end(keeps(true)), Ok((producer, false)), "again");
    assert_eq!(desk.end(keeps(false)), Err(Reason::InvalidTransactionState));
    let add = || join(producer, &[0], JoinKind::Explicit);
    assert_eq!(desk.join(add()), Err(Reason::ConcurrentTransactions));
    desk.write_markers();
    assert_eq!(desk.end(keeps(true)), Ok((producer, true)));
    assert_eq!(desk.end(keeps(false)), Err(Reason::InvalidTransactionState));
    // A partition that it did not add is refused, one that it added is found.
    assert_eq!(
        desk.join(join(producer, &[0], JoinKind::Check)),
        Err(Reason::InvalidTransactionState)
    );
    assert_eq!(desk.join(add()), Ok(2));
    assert_eq!(desk.join(join(producer, &[0], JoinKind::Check)), Ok(2));
    assert_eq!(
        desk.join(join(producer, &[0, 1], JoinKind::Check)),
        Err(Reason::InvalidTransactionState)
    );
    assert_eq!(desk.append(producer, 2, 0, 1, 5), Applied::Ok);
    assert_eq!(desk.end(keeps(false)), Ok((producer, false)));
    desk.write_markers();
    assert_eq!(desk.visible(0), [1]);
    // Nothing is open, and the last one was aborted.
    assert_eq!(desk.end(keeps(true)), Err(Reason::InvalidTransactionState));
}

#[test]
fn what_a_deposed_leader_knows_of_an_epoch_that_stays_is_not_answered() {
    // Histories found this: it is asked about the third transaction, and answers about the second.
    let (mut desk, producer) = writing();
    let keeps = EndRequest {
        bumps: false,
        ..end(producer, true)
    };
    desk.end(keeps.clone()).expect("it is open");
    desk.write_markers();
    let (image, mut deposed) = desk.shard.lose_leader(0, 0).expect("it led");
    let is_proposed = |step: &_| matches!(step, jangada_transactions::Step::Propose { .. });
    assert!(is_proposed(&deposed.end(&image, keeps, now(0))));
    desk.shard.elect(0);
    desk.join(join(producer, &[0], JoinKind::Explicit))
        .expect("the next begins");
    let (image, mut deposed) = desk.shard.lose_leader(0, 0).expect("it led");
    assert!(is_proposed(&deposed.join(
        &image,
        join(producer, &[0], JoinKind::Explicit),
        now(0)
    )));
}

#[test]
fn a_holder_that_asks_for_another_epoch_gets_it_once() {
    let (mut desk, producer) = writing();
    assert_eq!(
        desk.reset(producer),
        Err(Reason::ConcurrentTransactions),
        "its transaction is aborted"
    );
    assert_eq!(desk.row().last.map(|last| last.outcome), Some(Outcome::Aborted));
    desk.write_markers();
    let next = desk.reset(producer).expect("the same request");
    assert_eq!(next, producer.bumped());
    let third = desk.reset(next).expect("it is the holder");
    assert_eq!(desk.reset(next), Ok(third), "the answer was lost");
    assert_eq!(desk.reset(producer), Err(Reason::ProducerFenced));
    assert_eq!(desk.write(third, 0, 0, 5), Ok(Applied::Ok));
    assert_eq!(
        desk.reset(next),
        Err(Reason::ProducerFenced),
        "a copy that comes late aborts nothing"
    );
    assert_eq!(desk.state(), TransactionState::Ongoing);
}

/// An id whose holder has the last epoch that anybody is given.
fn at_last_epoch() -> (Desk, Producer) {
    let mut image = Image::new();
    let (mut from, mut next) = (None, Producer::first(ProducerId(7)));
    for index in 1.. {
        let command = Command::Init {
            id: ID.into(),
            from,
            next,
            is_by_holder: false,
            timeout_ms: 60_000,
            at_ms: 0,
        };
        image.apply(index, &command);
        (from, next) = (Some(next), next.bumped());
        if !next.is_usable() {
            break;
        }
    }
    let desk = Desk::with(image, Config::default());
    let producer = desk.row().producer;
    assert_eq!(producer.epoch, ProducerEpoch(i16::MAX - 1));
    (desk, producer)
}

#[test]
fn when_the_epochs_are_used_up_another_producer_id_takes_their_place() {
    let (mut desk, producer) = at_last_epoch();
    assert_eq!(desk.write(producer, 0, 0, 1), Ok(Applied::Ok));
    let (next, _) = desk.commit(producer).expect("it is open");
    assert_eq!(next, Producer::first(ProducerId(desk.fresh)));
    assert_eq!(
        desk.row().marker().id,
        producer.id,
        "the markers fence the id that wrote"
    );
    assert_eq!(desk.row().marker().epoch, Producer::RETIRING_EPOCH);
    assert_eq!(desk.commit(producer), Ok((next, false)), "again");
    desk.write_markers();
    assert_eq!(desk.visible(0), [1]);
    assert_eq!(desk.append(producer, 1, 0, 1, 2), Applied::Fenced);
    assert_eq!(desk.write(next, 0, 0, 3), Ok(Applied::Ok));
    desk.commit(next).expect("it is open");
    desk.write_markers();
    assert_eq!(desk.visible(0), [1, 3]);
}

#[test]
fn a_transaction_that_times_out_at_the_last_epoch_needs_a_new_start() {
    let (mut desk, producer) = at_last_epoch();
    assert_eq!(desk.write(producer, 0, 0, 1), Ok(Applied::Ok));
    desk.pass(60_001);
    desk.write_markers();
    assert_eq!(desk.visible(0), []);
    assert_eq!(
        desk.row().producer.epoch,
        Producer::RETIRING_EPOCH,
        "which nobody is given"
    );
    assert_eq!(desk.commit(producer), Err(Reason::TransactionTimedOut));
    assert_eq!(desk.abort(producer), Err(Reason::ProducerFenced));
    assert_eq!(desk.abort(producer.bumped()), Err(Reason::ProducerFenced));
    assert_eq!(desk.take(), Ok(Producer::first(ProducerId(desk.fresh))));
}

#[test]
fn who_was_timed_out_at_the_last_epoch_is_given_another_producer_id() {
    let (mut desk, producer) = at_last_epoch();
    assert_eq!(desk.write(producer, 0, 0, 1), Ok(Applied::Ok));
    desk.pass(60_001);
    assert_eq!(desk.reset(producer), Err(Reason::ConcurrentTransactions));
    desk.write_markers();
    let next = desk.reset(producer).expect("nobody else has the id");
    assert_eq!(next, Producer::first(ProducerId(desk.fresh)));
    assert_eq!(desk.reset(producer), Ok(next), "the answer was lost");
    assert_eq!(desk.write(next, 0, 0, 3), Ok(Applied::Ok));
    assert_eq!(
        desk.reset(producer),
        Err(Reason::ProducerFenced),
        "a copy that comes late aborts nothing"
    );
    desk.commit(next).expect("it is open");
    desk.write_markers();
    assert_eq!(desk.visible(0), [3]);

    let (mut desk, producer) = at_last_epoch();
    assert_eq!(desk.write(producer, 0, 0, 1), Ok(Applied::Ok));
    assert_eq!(desk.take(), Err(Reason::ConcurrentTransactions));
    desk.write_markers();
    assert_eq!(
        desk.reset(producer),
        Err(Reason::ProducerFenced),
        "another process takes the id"
    );
}

#[test]
fn a_leader_counts_the_open_transactions_of_its_ids() {
    let (mut desk, producer) = writing();
    let counts = |desk: &Desk| desk.shard.leader.as_ref().expect("one leads").open_transactions();
    assert_eq!(counts(&desk), (1, Some(now(0).wall_ms)));
    desk.pass(1_000);
    let other = InitRequest {
        id: "other".into(),
        ..InitRequest::default()
    };
    let second = desk.init(other).expect("the id is free");
    let joining = JoinRequest {
        id: "other".into(),
        ..join(second, &[0], JoinKind::Implicit)
    };
    desk.join(joining).expect("it is added");
    assert_eq!(counts(&desk), (2, Some(now(0).wall_ms)));
    desk.fail_over();
    assert_eq!(
        counts(&desk),
        (2, Some(now(0).wall_ms)),
        "the next leader counts the same"
    );
    desk.commit(producer).expect("it is open");
    assert_eq!(
        counts(&desk),
        (1, Some(now(1_000).wall_ms)),
        "what is decided is not open"
    );
    desk.write_markers();
    desk.write(producer.bumped(), 0, 0, 2).expect("the next begins");
    assert_eq!(counts(&desk), (2, Some(now(1_000).wall_ms)));
    // Both time out.
    desk.pass(60_001);
    assert_eq!(counts(&desk), (0, None));
}

#[test]
fn an_operator_aborts_what_is_open_and_its_producer_goes_on() {
    let (mut desk, producer) = writing();
    let abort = |desk: &mut Desk| {
        let answered = desk
            .shard
            .ask((), 0, |leader, image, now| leader.abort(image, ID.into(), now));
        let later = desk.shard.settle(0);
        let (_, answer) = answered.into_iter().chain(later).next().expect("it is answered");
        answer.map(drop).map_err(|rejection| rejection.reason)
    };
    assert_eq!(abort(&mut desk), Ok(()));
    assert_eq!(abort(&mut desk), Err(Reason::InvalidTransactionState));
    desk.write_markers();
    assert_eq!((desk.visible(0), desk.visible(1)), (vec![], vec![]));
    assert_eq!(desk.commit(producer), Err(Reason::TransactionTimedOut));
    assert_eq!(desk.abort(producer), Ok((producer.bumped(), true)));
}

#[test]
fn a_deleted_partition_ends_with_it_and_one_that_is_new_does_not() {
    let mut desk = Desk::new();
    let producer = desk.take().expect("the id is free");
    let request = JoinRequest {
        metadata_version: 9,
        ..join(producer, &[0], JoinKind::Implicit)
    };
    desk.join(request).expect("it is added");
    desk.commit(producer).expect("it is open");
    let sent = desk.outgoing();
    // A broker that does not know it yet.
    desk.acknowledge(&sent[0], Delivery::NotFound { metadata_version: 8 });
    assert_eq!(desk.state(), TransactionState::PrepareCommit);
    desk.pass(50);
    assert_eq!(desk.outgoing(), sent);
    desk.acknowledge(&sent[0], Delivery::NotFound { metadata_version: 9 });
    assert_eq!(desk.state(), TransactionState::CompleteCommit);
}

#[test]
fn a_complete_command_that_is_lost_is_proposed_again() {
    let (mut desk, producer) = writing();
    desk.commit(producer).expect("it is open");
    for marker in desk.outgoing() {
        let acknowledgment = jangada_transactions::Acknowledgment {
            id: marker.id,
            seq: marker.seq,
            target: marker.target,
            delivery: Delivery::Done,
        };
        desk.shard.ask((), 0, |leader, image, now| {
            leader.acknowledge(image, &[acknowledgment], now)
        });
    }
    assert_eq!(desk.shard.drop_inflight(), 1);
    desk.pass(1_900);
    assert_eq!(desk.state(), TransactionState::PrepareCommit);
    desk.pass(200);
    assert_eq!(desk.state(), TransactionState::CompleteCommit);
}

#[test]
fn timeouts_go_on_with_the_next_leader_and_never_beyond_a_whole_one() {
    let (mut desk, _) = writing();
    desk.pass(50_000);
    desk.fail_over();
    desk.pass(9_900);
    assert_eq!(desk.state(), TransactionState::Ongoing);
    desk.pass(200);
    assert_eq!(desk.state(), TransactionState::PrepareAbort);
    // The clock of the next leader is an hour behind: a whole timeout, and no more.
    let (desk, _) = writing();
    let behind = jangada_transactions::Now {
        wall_ms: now(0).wall_ms - 3_600_000,
        ..now(0)
    };
    let leader = jangada_transactions::Leader::new(Config::default(), &desk.shard.image, behind);
    assert_eq!(leader.next_deadline(), Some(60_000));
}

#[test]
fn an_id_that_is_not_used_is_forgotten_and_one_that_is_open_is_not() {
    let day = 24 * 60 * 60 * 1_000;
    let (mut desk, producer) = writing();
    let other = InitRequest {
        id: "other".into(),
        ..InitRequest::default()
    };
    desk.init(other).expect("the id is free");
    let wait = |desk: &mut Desk, days: u64| {
        for _ in 0..days * 25 {
            desk.pass(day / 24);
        }
    };
    wait(&mut desk, 6);
    assert!(desk.shard.image.id("other").is_some());
    wait(&mut desk, 2);
    assert!(desk.shard.image.id("other").is_none());
    // This one timed out, and its markers could not be written.
    assert_eq!(desk.state(), TransactionState::PrepareAbort);
    desk.write_markers();
    wait(&mut desk, 8);
    assert!(desk.shard.image.is_empty());
    assert_eq!(desk.shard.image.size(), 0);
    assert_eq!(desk.commit(producer), Err(Reason::UnknownTransactionalId));
    let anew = desk.take().expect("the id is free again");
    assert_ne!(
        anew.id, producer.id,
        "what the forgotten one wrote late is never taken for this one's"
    );
}

#[test]
fn a_wrong_clock_alone_forgets_nothing() {
    let (mut desk, producer) = writing();
    desk.commit(producer).expect("it is open");
    desk.write_markers();
    // The next leader's clock is a year ahead.
    let ahead = |ms| jangada_transactions::Now {
        wall_ms: now(ms).wall_ms + 365 * 24 * 3_600_000,
        ..now(ms)
    };
    let mut leader = jangada_transactions::Leader::new(Config::default(), &desk.shard.image, ahead(0));
    assert_eq!(leader.tick(&desk.shard.image, ahead(59 * 60_000)), []);
    let expired = leader.tick(&desk.shard.image, ahead(61 * 60_000));
    assert!(
        matches!(expired[..], [Command::Expire { .. }]),
        "an hour in which somebody could have noticed"
    );
    let refreshed = desk.write(producer.bumped(), 0, 0, 9);
    assert_eq!(refreshed, Ok(Applied::Ok));
    let version = desk.shard.image.version();
    let mut image = desk.shard.image.clone();
    let reply = image.apply(version + 1, &expired[0]);
    assert!(
        matches!(reply, jangada_transactions::Reply::Rejected(_)),
        "it is used again"
    );
}

#[test]
fn people_are_told_what_a_producer_did_not_ask_for() {
    let (mut desk, producer) = writing();
    let command = Command::End {
        id: ID.into(),
        producer,
        seq: 1,
        outcome: Outcome::TimedOut,
        next: producer.bumped(),
        at_ms: 0,
    };
    let aborted = Event::Aborted {
        id: ID.into(),
        producer,
        seq: 1,
        outcome: Outcome::TimedOut,
        partitions: 2,
        groups: 1,
    };
    assert_eq!(Event::of(&desk.shard.image, &command), [aborted]);
    desk.commit(producer).expect("it is open");
    let mut events = Vec::new();
    for _ in 0..20 {
        desk.pass(500);
        let due = desk.outgoing();
        let partition = due
            .iter()
            .find(|marker| marker.target == Target::Partition(partition(0)));
        desk.acknowledge(&partition.expect("it is due again").clone(), Delivery::Failed);
        events.extend(desk.shard.leader.as_mut().expect("it leads").take_events());
    }
    let waits = Event::MarkerWaits {
        id: name(ID),
        seq: 1,
        target: Target::Partition(partition(0)),
        attempts: 20,
    };
    assert_eq!(events, [waits], "once");
}
