//! Messages that are sent and acknowledged in transactions, case by case.

use jangada_queue::engine::{
    Full, Input, Limit, OnDead, Order, Overflow, Policy, Settled, Settlement, SlotCounts, Waiter,
};
use jangada_queue::limits::STATE_BYTES_MAX;
use jangada_queue::{
    DeadReason, DoneCause, HeldState, KeepsOrder, LeaseId, Mark, MessageState, Runs, Section, SlotKind, TransactionId,
};
use jangada_types::{ProducerEpoch, ProducerId};

use crate::scenarios::{holds, plain, say, send, state, world};
use crate::world::{Client, Entry, LEASE_MS, SLOT, World};

fn counts(world: &World) -> SlotCounts {
    world
        .engine
        .counts(&world.slots, world.end(), SLOT)
        .expect("it has settings")
}

fn begin(world: &mut World, client: usize) -> TransactionId {
    world.begin(client).expect("the one before is over")
}

fn stage(world: &mut World, client: usize, offset: u64, transaction: TransactionId) -> Option<Settled> {
    say(world, client, offset, Settlement::AckIn { transaction })
}

fn send_in(world: &mut World, transaction: TransactionId, marks: Vec<Mark>) {
    world.send_in(transaction, marks);
    world.settle_down();
}

fn decide(world: &mut World, transaction: TransactionId, commit: bool) {
    world.clients.iter_mut().for_each(|client| client.txn = None);
    world.decide(transaction, commit);
    world.settle_down();
}

fn held(world: &World, offset: u64) -> HeldState {
    match state(world, offset) {
        MessageState::Held(held) => held.state,
        other => panic!("{offset} is {other:?}"),
    }
}

/// A world with messages, a consumer that has all of them, and a transaction.
fn with_messages(policy: Policy, count: usize) -> (World, TransactionId) {
    let mut world = world(policy, 2);
    send(&mut world, plain(count));
    world.connect(0, count as u32);
    world.settle_down();
    assert_eq!(holds(&world, 0).len(), count);
    let transaction = begin(&mut world, 0);
    (world, transaction)
}

#[test]
fn what_a_committed_transaction_acknowledges_is_done_and_not_before() {
    let (mut world, transaction) = with_messages(Policy::default(), 3);
    assert_eq!(stage(&mut world, 0, 1, transaction), Some(Settled::Done));
    assert_eq!(held(&world, 1), HeldState::Staged);
    assert_eq!((counts(&world).leased, counts(&world).staged), (2, 1));
    // No lease runs out, whatever the time.
    world.disconnect(0, false);
    world.connect(1, 10);
    for _ in 0..10 {
        world.pass(LEASE_MS);
        world.settle_down();
    }
    assert_eq!(holds(&world, 1), [0, 2], "the others do");
    decide(&mut world, transaction, true);
    assert_eq!(state(&world, 1), MessageState::Done);
    assert_eq!(counts(&world).tally.done(DoneCause::Acked), 1);
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert_eq!(
        (slot.settled(DoneCause::Acked), world.slots.state_bytes()),
        (1, slot.state_bytes())
    );
}

#[test]
fn what_an_aborted_transaction_acknowledged_comes_again_at_once_and_no_failure_is_counted() {
    let policy = Policy {
        attempts_max: Some(1),
        ..Policy::default()
    };
    let (mut world, transaction) = with_messages(policy, 3);
    stage(&mut world, 0, 0, transaction);
    stage(&mut world, 0, 2, transaction);
    world.connect(1, 10);
    decide(&mut world, transaction, false);
    assert_eq!(holds(&world, 1), [0, 2], "at once, and to anybody");
    for offset in [0, 2] {
        let MessageState::Held(held) = state(&world, offset) else {
            panic!()
        };
        assert_eq!(
            (held.failures, held.deliveries),
            (0, 2),
            "it was seen, and did not fail"
        );
    }
    assert_eq!(say(&mut world, 1, 0, Settlement::Ack), Some(Settled::Done));
}

#[test]
fn an_acknowledgement_in_a_transaction_may_be_said_again_and_nothing_else() {
    let (mut world, transaction) = with_messages(Policy::default(), 2);
    let lease = world.clients[0].holds[&0];
    stage(&mut world, 0, 0, transaction);
    let again = |world: &mut World, settlement| {
        world.clients[0].holds.insert(0, lease);
        world.clients[0].unanswered.clear();
        say(world, 0, 0, settlement).expect("it is answered")
    };
    assert_eq!(again(&mut world, Settlement::AckIn { transaction }), Settled::Done);
    let other = begin(&mut world, 1);
    let in_other = Settlement::AckIn { transaction: other };
    let failed = Settlement::Nack {
        delay_ms: None,
        failed: true,
    };
    let extend = Settlement::Extend { lease_ms: 1_000 };
    for settlement in [
        Settlement::Ack,
        failed,
        Settlement::Release,
        Settlement::Reject,
        extend,
        in_other,
    ] {
        assert_eq!(again(&mut world, settlement), Settled::InTransaction, "{settlement:?}");
    }
    world.clients[0].holds.insert(0, LeaseId(7));
    assert_eq!(
        say(&mut world, 0, 0, Settlement::Ack),
        Some(Settled::LeaseLost),
        "it is somebody else's word"
    );
    // A new leader knows it.
    world.fail_over();
    world.connect(0, 0);
    assert_eq!(again(&mut world, Settlement::AckIn { transaction }), Settled::Done);
    decide(&mut world, transaction, true);
    assert_eq!(
        again(&mut world, Settlement::AckIn { transaction }),
        Settled::AlreadySettled
    );
}

#[test]
fn what_comes_after_the_end_of_its_transaction_is_refused_and_goes_out_again_when_its_lease_has_run_out() {
    let (mut world, transaction) = with_messages(Policy::default(), 2);
    decide(&mut world, transaction, false);
    assert_eq!(stage(&mut world, 0, 0, transaction), Some(Settled::TransactionOver));
    assert_eq!(held(&world, 0), HeldState::Leased);
    // Its consumer has it still.
    assert_eq!(say(&mut world, 0, 0, Settlement::Ack), Some(Settled::Done));
    // The lease runs out while the command is under way.
    world.connect(1, 5);
    world
        .say(0, 1, Settlement::AckIn { transaction })
        .expect("it has the message");
    world.pass(2 * LEASE_MS);
    world.settle_down();
    assert_eq!(holds(&world, 1), [1]);
}

#[test]
fn nothing_goes_out_that_is_not_decided_nor_what_lies_behind_it() {
    let mut world = world(Policy::default(), 1);
    world.connect(0, 100);
    let (one, other) = (
        begin(&mut world, 0),
        TransactionId {
            producer: ProducerId(500),
            epoch: ProducerEpoch(0),
            seq: 4,
        },
    );
    send(&mut world, plain(1));
    send_in(&mut world, one, plain(2));
    send(&mut world, plain(1));
    send_in(&mut world, other, plain(3));
    send_in(&mut world, one, plain(1));
    assert_eq!(holds(&world, 0), [0]);
    assert_eq!((counts(&world).undecided, counts(&world).ready), (7, 0));
    world.fail_over();
    world.connect(0, 100);
    world.settle_down();
    assert_eq!(holds(&world, 0), [0], "the next leader knows it");
    decide(&mut world, one, false);
    assert_eq!(
        holds(&world, 0),
        [0, 3],
        "what was aborted is none, and what is behind goes up to the next"
    );
    decide(&mut world, other, true);
    assert_eq!(holds(&world, 0), [0, 3, 4, 5, 6]);
    for offset in holds(&world, 0) {
        assert_eq!(say(&mut world, 0, offset, Settlement::Ack), Some(Settled::Done));
    }
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert_eq!((slot.floor(), world.end()), (10, 10), "control records hold no floor");
    assert_eq!((slot.settled(DoneCause::Void), counts(&world).tally.sent), (5, 0));
}

#[test]
fn a_purge_takes_what_is_acknowledged_and_not_what_is_not_decided() {
    let (mut world, transaction) = with_messages(Policy::default(), 3);
    stage(&mut world, 0, 1, transaction);
    send_in(&mut world, transaction, plain(2));
    let purge = |world: &mut World| {
        let request = jangada_queue::engine::RequestId(world.next_id());
        let section = Section::Purge {
            slot: SLOT,
            to: world.end(),
        };
        world.cut.extend(0..3);
        world.step(Input::Administer { request, section });
        world.settle_down();
    };
    purge(&mut world);
    assert_eq!(state(&world, 1), MessageState::Done);
    assert_eq!((counts(&world).undecided, counts(&world).staged), (2, 0));
    decide(&mut world, transaction, true);
    world.connect(1, 10);
    world.settle_down();
    assert_eq!(holds(&world, 1), [3, 4]);
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert_eq!(
        (slot.settled(DoneCause::Acked), slot.settled(DoneCause::Purged)),
        (0, 3)
    );
}

#[test]
fn a_seek_and_the_end_of_a_queue_forget_what_is_acknowledged() {
    for closes in [false, true] {
        let (mut world, transaction) = with_messages(Policy::default(), 3);
        stage(&mut world, 0, 1, transaction);
        let request = jangada_queue::engine::RequestId(world.next_id());
        let section = match closes {
            true => Section::Close { slot: SLOT },
            false => Section::Seek { slot: SLOT, to: 0 },
        };
        world.cut.extend(0..3);
        world.step(Input::Administer { request, section });
        world.settle_down();
        assert_eq!(world.slots.undecided().count(), 0);
        decide(&mut world, transaction, true);
        let slot = world.slots.slot(SLOT);
        assert_eq!(slot.map(|slot| slot.free(world.end())), (!closes).then_some(3));
    }
}

#[test]
fn a_message_keeps_its_key_busy_until_its_transaction_is_over() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..Policy::default()
    };
    for (commit, then) in [(true, vec![1]), (false, vec![0])] {
        let mut world = world(policy, 2);
        let keyed = || Mark {
            key: 7,
            ..Mark::default()
        };
        send(&mut world, vec![keyed(), keyed()]);
        world.connect(0, 1);
        world.settle_down();
        let transaction = begin(&mut world, 0);
        stage(&mut world, 0, 0, transaction);
        world.connect(1, 10);
        world.settle_down();
        assert_eq!(holds(&world, 1), [], "the next of its key waits");
        world.fail_over();
        world.connect(1, 10);
        world.settle_down();
        assert_eq!(holds(&world, 1), [], "a new leader knows it");
        decide(&mut world, transaction, commit);
        assert_eq!(holds(&world, 1), then);
    }
}

#[test]
fn what_is_staged_counts_as_in_flight_and_not_as_its_sessions() {
    let policy = Policy {
        in_flight_max: 48,
        session_in_flight_max: 16,
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    send(&mut world, plain(100));
    world.connect(0, 100);
    world.settle_down();
    let transaction = begin(&mut world, 0);
    for _ in 0..3 {
        let has = holds(&world, 0);
        assert!(has.len() >= 16, "a transaction may have more than a session: {has:?}");
        has.iter()
            .for_each(|offset| _ = stage(&mut world, 0, *offset, transaction));
    }
    assert_eq!(
        (counts(&world).staged, counts(&world).leased),
        (48, 0),
        "the queue has as many as it may"
    );
    decide(&mut world, transaction, true);
    assert!(holds(&world, 0).len() >= 16);
}

#[test]
fn limits_count_what_is_not_decided_and_no_message_goes_for_it() {
    let refuses = Policy {
        messages_max: Some(5),
        ..Policy::default()
    };
    let mut refusing = world(refuses, 1);
    let transaction = begin(&mut refusing, 0);
    send_in(&mut refusing, transaction, plain(4));
    let admits = |world: &mut World, messages| {
        let end = world.end();
        world.engine.admits(&world.slots, end, SLOT, messages, 1)
    };
    let full = Full {
        limit: Limit::Messages,
        most: 5,
        actual: 4,
    };
    assert_eq!(admits(&mut refusing, 2), Err(full), "what was admitted has its place");
    decide(&mut refusing, transaction, false);
    assert_eq!(admits(&mut refusing, 5), Ok(()), "and no longer than that");
    let drops = Policy {
        overflow: Overflow::DropOldest,
        ..refuses
    };
    let mut dropping = world(drops, 1);
    send(&mut dropping, plain(5));
    let transaction = begin(&mut dropping, 0);
    send_in(&mut dropping, transaction, plain(2));
    assert_eq!(counts(&dropping).dead, 0, "it may never have been");
    decide(&mut dropping, transaction, true);
    let slot = dropping.slots.slot(SLOT).expect("it is open");
    let dead: Vec<u64> = slot
        .held_from(0)
        .filter(|(_, held)| held.reason == Some(DeadReason::Length))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(dead, [0, 1]);
}

#[test]
fn delays_priorities_and_times_to_live_count_from_the_send() {
    let policy = Policy {
        has_lanes: true,
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    world.connect(0, 10);
    let transaction = begin(&mut world, 0);
    let lane = |lane, delay_ms: u64, world: &World| Mark {
        lane,
        deliver_at_ms: if delay_ms == 0 { 0 } else { world.wall() + delay_ms },
        ..Mark::default()
    };
    let marks = vec![
        lane(0, 0, &world),
        lane(3, 5_000, &world),
        lane(1, 60_000, &world),
        lane(2, 0, &world),
    ];
    send_in(&mut world, transaction, marks);
    send(&mut world, plain(1));
    world.pass(10_000);
    world.settle_down();
    assert_eq!(world.order, [], "nothing goes out before it is decided");
    decide(&mut world, transaction, true);
    assert_eq!(world.order, [1, 3, 0, 4], "by priority, and what is due");
    holds(&world, 0)
        .iter()
        .for_each(|offset| _ = say(&mut world, 0, *offset, Settlement::Ack));
    world.pass(60_000);
    world.settle_down();
    assert_eq!(world.order, [1, 3, 0, 4, 2]);
}

#[test]
fn what_is_not_decided_can_be_cancelled_and_neither_is_carried_nor_dies() {
    let (mut world, transaction) = with_messages(Policy::default(), 2);
    send_in(&mut world, transaction, plain(3));
    let done = |cause, messages: &[u64]| Section::Done {
        slot: SLOT,
        cause,
        messages: messages.iter().copied().collect(),
    };
    let dead = Section::Dead {
        slot: SLOT,
        reason: DeadReason::Length,
        messages: Runs::of(4, 4),
        failed: 0,
        keys: vec![],
        lanes: vec![],
    };
    for section in [done(DoneCause::Cancelled, &[3]), done(DoneCause::Expired, &[4]), dead] {
        let request = jangada_queue::engine::RequestId(world.next_id());
        world.step(Input::Administer { request, section });
    }
    world.settle_down();
    assert_eq!(
        [2, 3, 4].map(|at| state(&world, at)),
        [MessageState::Free, MessageState::Done, MessageState::Free]
    );
    let carry = jangada_queue::Carry {
        term: world.term,
        messages: Runs::of(2, 2),
        marks: jangada_queue::Marks::default(),
    };
    let end = world.end();
    world.pending.push_back(Entry::Carry(carry));
    world.settle_down();
    assert_eq!(world.end(), end, "it would go out from its new place");
    stage(&mut world, 0, 0, transaction);
    world.carry_bounds.leased_ms = 0;
    world.carries_leased = true;
    world.carry(1);
    world.settle_down();
    assert_eq!(held(&world, 0), HeldState::Staged, "it stays where it is");
    decide(&mut world, transaction, true);
    world.connect(1, 10);
    world.settle_down();
    assert_eq!(holds(&world, 1), [2, 4]);
}

#[test]
fn what_turns_out_to_be_no_message_is_done_and_comes_to_nobody() {
    let (mut world, _) = with_messages(Policy::default(), 2);
    let consumer = world.clients[0].stream.expect("it is connected");
    let messages = vec![(0, world.clients[0].holds[&0])];
    world.step(Input::Void {
        slot: SLOT,
        to: Waiter::Stream(consumer),
        messages,
    });
    world.settle_down();
    assert_eq!(state(&world, 0), MessageState::Done);
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert_eq!((slot.settled(DoneCause::Void), slot.floor()), (1, 1));
}

#[test]
fn a_slot_that_is_opened_amid_a_transaction_waits_for_its_end() {
    let mut world = World::over(SlotKind::Group, 7, Policy::default(), KeepsOrder::No);
    world.clients = vec![Client::default()];
    let close = |world: &mut World, section| {
        let request = jangada_queue::engine::RequestId(world.next_id());
        world.step(Input::Administer { request, section });
        world.settle_down();
    };
    close(&mut world, Section::Close { slot: SLOT });
    let transaction = begin(&mut world, 0);
    send(&mut world, plain(1));
    send_in(&mut world, transaction, plain(1));
    let open = Section::Open {
        queue: jangada_queue::QueueId(2),
        slot_kind: SlotKind::Group,
        order: KeepsOrder::No,
        start: 0,
    };
    close(&mut world, open);
    assert_eq!(world.slots.stable(world.end()), 1);
    send_in(&mut world, transaction, plain(2));
    decide(&mut world, transaction, false);
    assert_eq!(world.slots.stable(world.end()), world.end());
    let slot = world.slots.iter().next().expect("it is open").1;
    assert_eq!(
        slot.settled(DoneCause::Void),
        3,
        "what it had sent before is found when it is next"
    );
}

#[test]
fn a_full_state_refuses_what_grows_and_never_an_end() {
    let (mut world, transaction) = with_messages(Policy::default(), 40);
    let mut others = Vec::new();
    // Batches of two producers, one after the other: each is a run.
    for producer in 1_000.. {
        let other = TransactionId {
            producer: ProducerId(producer),
            epoch: ProducerEpoch(0),
            seq: 1,
        };
        for _ in 0..60_000 {
            let at = world.end() + 2 * others.len() as u64;
            assert!(world.slots.takes_batch(other, at));
            world.slots.sent_in(other, at, at, 0);
            others.push(other);
            if world.slots.is_full() {
                break;
            }
        }
        if world.slots.is_full() {
            break;
        }
    }
    assert!(world.slots.state_bytes() >= STATE_BYTES_MAX);
    let at = world.end() + 2 * others.len() as u64;
    assert!(!world.slots.takes_batch(transaction, at));
    let last = *others.last().expect("it has sent");
    assert!(
        world.slots.takes_batch(last, at - 1),
        "what follows the batch before costs nothing"
    );
    world.follower = world.slots.clone();
    others.dedup();
    for other in others {
        let end = jangada_queue::EndTransaction {
            producer: other.producer,
            seq: 1,
            commit: true,
            now_ms: 0,
            marker: None,
        };
        world.slots.end_transaction(&end);
    }
    assert!(world.slots.state_bytes() < 100_000);
}
