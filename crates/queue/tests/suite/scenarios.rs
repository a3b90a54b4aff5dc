//! What a queue's leader does, case by case.

use jangada_queue::engine::{
    Answer, ConsumerId, Input, OnDead, Order, Policy, SettleItem, Settled, Settlement, Waiter,
};
use jangada_queue::{DeadReason, HeldState, KeepsOrder, Mark, MessageState, Section};

use crate::world::{Client, Entry, SLOT, World};

pub fn world(policy: Policy, clients: u64) -> World {
    let keyed = matches!(policy.order, Order::ByKey(_));
    let order = if keyed || policy.has_lanes {
        KeepsOrder::Yes
    } else {
        KeepsOrder::No
    };
    let mut world = World::new(7, policy, order);
    world.clients = (0..clients)
        .map(|session| Client {
            session,
            ..Client::default()
        })
        .collect();
    world
}

pub fn send(world: &mut World, marks: Vec<Mark>) {
    world.send(marks);
    world.settle_down();
}

pub fn plain(count: usize) -> Vec<Mark> {
    vec![Mark::default(); count]
}

pub fn holds(world: &World, client: usize) -> Vec<u64> {
    world.clients[client].holds.keys().copied().collect()
}

pub fn say(world: &mut World, client: usize, offset: u64, settlement: Settlement) -> Option<Settled> {
    let request = world.say(client, offset, settlement).expect("it has the message");
    world.settle_down();
    match world.answers.get(&request) {
        Some(Answer::Settled(results)) => Some(results[0]),
        other => panic!("{other:?}"),
    }
}

pub fn state(world: &World, offset: u64) -> MessageState<'_> {
    let slot = world.slots.slot(SLOT).expect("it is open");
    slot.state(offset, world.records.len() as u64)
}

#[test]
fn nothing_goes_out_before_its_lease_is_applied() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(3));
    world.connect(0, 10);
    assert_eq!(
        (world.pending.len(), holds(&world, 0).len()),
        (1, 0),
        "proposed, and not handed out"
    );
    world.settle_down();
    assert_eq!(holds(&world, 0), [0, 1, 2]);
    assert_eq!(say(&mut world, 0, 1, Settlement::Ack), Some(Settled::Done));
    assert_eq!(state(&world, 1), MessageState::Done);
}

#[test]
fn a_change_of_the_leader_delivers_nothing_again() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(20));
    world.connect(0, 10);
    world.settle_down();
    let before = holds(&world, 0);
    world.fail_over();
    // The consumer comes back with what it has.
    world.connect(0, 10);
    world.settle_down();
    assert_eq!(world.order.len(), 20, "ten before and the ten others after");
    assert!(world.delivered.values().all(|times| *times == 1));
    for offset in before {
        assert_eq!(say(&mut world, 0, offset, Settlement::Ack), Some(Settled::Done));
    }
}

#[test]
fn what_a_session_did_not_get_is_sent_again_under_its_lease() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(4));
    world.connect(0, 4);
    world.settle_down();
    // Two of the messages got lost on their way.
    let lease = world.clients[0].holds.remove(&1).expect("it was sent");
    world.clients[0].holds.remove(&3).expect("it was sent");
    world.fail_over();
    world.connect(0, 0);
    world.settle_down();
    assert_eq!(world.clients[0].holds.get(&1), Some(&lease));
    assert_eq!(world.order, [0, 1, 2, 3, 1, 3]);
}

#[test]
fn a_receive_whose_answer_was_lost_gets_the_same_messages() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(10));
    let first = world.receive(0, 3, 0);
    let known = world.clients[0].receive;
    world.settle_down();
    assert!(matches!(world.answers.get(&first), Some(Answer::Received(messages)) if messages.len() == 3));
    // The answer was lost.
    world.clients[0].receive = known;
    world.clients[0].holds.clear();
    world.fail_over();
    world.receive(0, 3, 0);
    world.settle_down();
    assert_eq!((holds(&world, 0), world.order.len()), (vec![0, 1, 2], 6));
}

#[test]
fn a_receive_waits_for_messages_and_is_granted_none_when_nobody_waits_any_more() {
    let mut world = world(Policy::default(), 2);
    let waits = world.receive(0, 5, 1_000);
    world.pass(999);
    assert_eq!(world.answers.get(&waits), None);
    world.pass(1);
    assert_eq!(world.answers.get(&waits), Some(&Answer::Received(Vec::new())));
    let request = world.receive(0, 5, 1_000);
    world.step(Input::CancelReceive { request });
    send(&mut world, plain(2));
    assert_eq!(
        state(&world, 0),
        MessageState::Free,
        "whoever hung up is granted nothing"
    );
    world.clients[0].receive = None;
    world.receive(1, 5, 1_000);
    world.settle_down();
    assert_eq!(holds(&world, 1), [0, 1]);
}

#[test]
fn messages_that_nobody_saw_count_no_delivery() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(1));
    let request = world.receive(0, 1, 0);
    world.settle_down();
    let lease = world.clients[0].holds.remove(&0).expect("it was granted");
    world.step(Input::Undelivered {
        slot: SLOT,
        to: Waiter::Once(request),
        messages: vec![(0, lease)],
    });
    world.settle_down();
    assert_eq!(state(&world, 0), MessageState::Free);
}

#[test]
fn a_message_fails_as_often_as_it_may_and_is_dead_then() {
    let mut world = world(
        Policy {
            attempts_max: Some(3),
            ..Policy::default()
        },
        1,
    );
    send(&mut world, plain(1));
    world.connect(0, 10);
    for failures in 1..=3_u16 {
        world.settle_down();
        assert_eq!(holds(&world, 0), [0]);
        let failed = Settlement::Nack {
            delay_ms: Some(10),
            failed: true,
        };
        assert_eq!(say(&mut world, 0, 0, failed), Some(Settled::Done));
        let MessageState::Held(held) = state(&world, 0) else {
            panic!("it failed {failures} times");
        };
        assert_eq!(held.failures, failures);
        assert_eq!(held.state == HeldState::Dead, failures == 3);
        world.pass(10);
    }
    let MessageState::Held(held) = state(&world, 0) else {
        panic!("it is dead");
    };
    assert_eq!((held.reason, held.deliveries), (Some(DeadReason::Attempts), 3));
}

#[test]
fn a_lease_that_runs_out_is_a_failure_and_may_be_settled_until_it_is_granted_again() {
    let mut world = world(Policy::default(), 2);
    send(&mut world, plain(2));
    world.connect(0, 2);
    world.settle_down();
    let proposed = world.proposed;
    world.pass(30_000);
    assert_eq!(world.proposed, proposed, "that a lease has run out is no command");
    assert_eq!(
        say(&mut world, 0, 0, Settlement::Ack),
        Some(Settled::Done),
        "nobody has it since"
    );
    world.connect(1, 2);
    world.settle_down();
    assert_eq!(holds(&world, 1), [1]);
    assert_eq!(say(&mut world, 0, 1, Settlement::Ack), Some(Settled::LeaseLost));
    assert!(matches!(state(&world, 1), MessageState::Held(held) if held.failures == 1));
}

#[test]
fn a_message_before_its_last_failure_goes_out_alone() {
    let mut world = world(
        Policy {
            attempts_max: Some(2),
            ..Policy::default()
        },
        1,
    );
    send(&mut world, plain(1));
    world.connect(0, 50);
    world.settle_down();
    let failed = Settlement::Nack {
        delay_ms: Some(0),
        failed: true,
    };
    say(&mut world, 0, 0, failed);
    world.pass(1);
    send(&mut world, plain(10));
    assert_eq!(holds(&world, 0), [0], "it has no neighbour that would fail with it");
    say(&mut world, 0, 0, Settlement::Ack);
    assert_eq!(holds(&world, 0).len(), 10);
}

#[test]
fn messages_go_out_at_their_time_and_not_by_a_step_of_the_clock() {
    let mut world = world(Policy::default(), 1);
    let deliver_at_ms = world.wall() + 60_000;
    let timed = Mark {
        deliver_at_ms,
        ..Mark::default()
    };
    send(&mut world, vec![timed, Mark::default()]);
    world.connect(0, 10);
    world.settle_down();
    assert_eq!(holds(&world, 0), [1], "one that waits holds up none behind it");
    // An hour ahead, and back again: nothing fires meanwhile.
    world.step_wall(3_600_000);
    world.pass(1_000);
    world.settle_down();
    world.step_wall(0);
    world.pass(10_000);
    world.settle_down();
    assert_eq!(holds(&world, 0), [1]);
    world.pass(deliver_at_ms - world.wall() - 1);
    world.settle_down();
    assert_eq!(holds(&world, 0), [1]);
    world.pass(1);
    world.settle_down();
    assert_eq!(holds(&world, 0), [0, 1]);
}

#[test]
fn a_higher_lane_goes_first() {
    let lane = |lane| Mark {
        lane,
        ..Mark::default()
    };
    let mut world = world(
        Policy {
            has_lanes: true,
            ..Policy::default()
        },
        1,
    );
    send(&mut world, [0, 3, 1, 3, 0, 31, 1].map(lane).to_vec());
    // Also by a leader that has to look the rows up.
    world.fail_over();
    world.connect(0, 7);
    world.settle_down();
    assert_eq!(world.order, [5, 1, 3, 2, 6, 0, 4]);
}

#[test]
fn a_lower_lane_has_its_share() {
    let mut world = world(
        Policy {
            has_lanes: true,
            min_share: 25,
            ..Policy::default()
        },
        1,
    );
    let marks = (0..40).map(|at| Mark {
        lane: if at < 20 { 0 } else { 5 },
        ..Mark::default()
    });
    send(&mut world, marks.collect());
    world.connect(0, 20);
    world.settle_down();
    let low = world.order.iter().filter(|id| **id < 20).count();
    assert_eq!((world.order.len(), low), (20, 5), "one of four");
}

#[test]
fn a_key_with_a_backlog_holds_up_no_other() {
    let key = |key| Mark { key, ..Mark::default() };
    let policy = Policy {
        order: Order::ByKey(OnDead::Block),
        attempts_max: Some(1),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    send(&mut world, vec![key(1); 5_000]);
    send(&mut world, vec![key(2), key(3), key(2)]);
    world.connect(0, 3);
    world.settle_down();
    assert_eq!(world.order, [0, 5_000, 5_001], "one of each key");
    // The first is poison: its key is blocked, and the others go on.
    let failed = Settlement::Nack {
        delay_ms: None,
        failed: true,
    };
    say(&mut world, 0, 0, failed);
    say(&mut world, 0, 5_000, Settlement::Ack);
    world.give_credit(0, 3);
    world.settle_down();
    assert_eq!(world.order, [0, 5_000, 5_001, 5_002]);
    // It begins anew.
    world.failed.clear();
    let section = Section::Redrive {
        slot: SLOT,
        messages: [0].into_iter().collect(),
    };
    let request = jangada_queue::engine::RequestId(world.next_id());
    world.step(Input::Administer { request, section });
    world.settle_down();
    assert_eq!(world.order.last(), Some(&0), "it goes out again, and first of its key");
    say(&mut world, 0, 0, Settlement::Ack);
    assert_eq!(world.order.last(), Some(&1));
}

#[test]
fn many_settlements_and_grants_are_few_commands() {
    let mut world = world(Policy::default(), 50);
    send(&mut world, plain(5_000));
    for client in 0..50 {
        world.connect(client, 20);
    }
    world.settle_down();
    assert_eq!(world.order.len(), 1_000);
    let before = world.proposed;
    for client in 0..50 {
        for offset in holds(&world, client) {
            world.say(client, offset, Settlement::Ack).expect("it has the message");
        }
        world.give_credit(client, 20);
    }
    world.settle_down();
    assert_eq!(world.order.len(), 2_000);
    assert!(world.proposed - before <= 4, "{} commands", world.proposed - before);
    let shares: Vec<usize> = (0..50).map(|client| holds(&world, client).len()).collect();
    assert!(shares.iter().all(|share| *share == 20), "{shares:?}");
}

#[test]
fn an_orderly_hand_over_grants_nothing_more() {
    let mut world = world(Policy::default(), 2);
    send(&mut world, plain(5));
    world.connect(0, 1);
    world.settle_down();
    let waits = world.receive(1, 1, 60_000);
    world.step(Input::HandOver);
    world.settle_down();
    assert!(world.answers.contains_key(&waits));
    assert_eq!(world.clients[0].stream, None, "the consumer was told");
    send(&mut world, plain(5));
    assert!(world.order.len() <= 2, "{:?}", world.order);
    // What it has it may settle until the end.
    assert_eq!(say(&mut world, 0, 0, Settlement::Ack), Some(Settled::Done));
}

#[test]
fn a_paused_queue_hands_out_nothing_and_settles() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(2));
    world.connect(0, 1);
    world.settle_down();
    world.policy.is_paused = true;
    world.configure();
    world.give_credit(0, 5);
    world.settle_down();
    assert_eq!(say(&mut world, 0, 0, Settlement::Ack), Some(Settled::Done));
    assert_eq!(world.order, [0]);
    world.policy.is_paused = false;
    world.configure();
    world.settle_down();
    assert_eq!(world.order, [0, 1]);
}

#[test]
fn a_token_of_a_message_that_was_carried_is_told_the_truth() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(1));
    world.connect(0, 1);
    world.settle_down();
    let lease = world.clients[0].holds[&0];
    let failed = Settlement::Nack {
        delay_ms: Some(60_000),
        failed: true,
    };
    say(&mut world, 0, 0, failed);
    world.carry(5);
    assert!(matches!(world.pending.front(), Some(Entry::Carry(_))));
    world.settle_down();
    assert_eq!(state(&world, 0), MessageState::Done, "its old place");
    let request = jangada_queue::engine::RequestId(world.next_id());
    let items = vec![SettleItem {
        offset: 0,
        lease,
        settlement: Settlement::Ack,
    }];
    let slot = SLOT;
    world.step(Input::Settle { request, slot, items });
    world.settle_down();
    assert_eq!(
        world.answers.get(&request),
        Some(&Answer::Settled(vec![Settled::LeaseLost]))
    );
    world.pass(60_000);
    world.give_credit(0, 1);
    world.settle_down();
    assert_eq!(holds(&world, 0), [1], "it goes on under its new offset");
}

#[test]
fn what_is_unknown_is_said_to_be() {
    let mut world = world(Policy::default(), 1);
    let request = jangada_queue::engine::RequestId(world.next_id());
    let slot = jangada_queue::SlotId(9);
    let items = Vec::new();
    world.step(Input::Settle { request, slot, items });
    assert_eq!(world.answers.get(&request), Some(&Answer::UnknownSlot));
    world.step(Input::Detach {
        consumer: ConsumerId(99),
        orderly: true,
    });
    world.settle_down();
}
