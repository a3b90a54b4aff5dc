//! Receives that are sent again, and answers that could not be handed on.

use jangada_queue::engine::{Answer, Input, OnDead, Order, Policy, RequestId, SettleItem, Settlement, Waiter};
use jangada_queue::{AttemptId, CallId, DoneCause, HeldState, LeaseId, Mark, MessageState, Section, SessionId};

use crate::scenarios::{holds, plain, say, send, state, world};
use crate::world::{SLOT, World};

/// A receive of client 0 that is answered, and whose answer is lost: the request, and the messages.
fn lost(world: &mut World, messages: u32) -> (RequestId, Vec<(u64, LeaseId)>) {
    let request = world.receive(0, messages, 0);
    let known = world.clients[0].receive;
    world.settle_down();
    let held = std::mem::take(&mut world.clients[0].holds);
    world.clients[0].receive = known;
    (request, held.into_iter().collect())
}

fn undelivered(world: &mut World, request: RequestId, messages: Vec<(u64, LeaseId)>) {
    world.step(Input::Undelivered {
        slot: SLOT,
        to: Waiter::Once(request),
        messages,
    });
}

/// The broker of this call of client 0, which another partition answered, takes back what it was granted here: so many messages.
fn take_back(world: &mut World, call: RequestId) -> usize {
    let request = RequestId(world.next_id());
    let (_, attempt) = world.clients[0].receive.expect("it may ask again");
    world.step(Input::TakeBack {
        request,
        slot: SLOT,
        session: SessionId(world.clients[0].session),
        attempt: AttemptId(attempt),
        call: CallId(call.0),
    });
    if !world.answers.contains_key(&request) {
        world.settle_down();
    }
    let Some(Answer::Received(messages)) = world.answers.get(&request).cloned() else {
        panic!("it is answered");
    };
    let count = messages.len();
    if count > 0 {
        let messages = messages.iter().map(|message| (message.offset, message.lease));
        undelivered(world, request, messages.collect());
        world.settle_down();
    }
    count
}

fn is_leased(world: &World, offset: u64) -> bool {
    matches!(state(world, offset), MessageState::Held(held) if held.state == HeldState::Leased)
}

#[test]
fn what_was_given_to_the_next_try_is_not_given_back_by_the_one_before() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(2));
    let (first, messages) = lost(&mut world, 2);
    // It asks again before it is known here that its answer could not be written.
    let second = world.receive(0, 2, 0);
    assert_eq!(holds(&world, 0), [0, 1], "under the same leases");
    undelivered(&mut world, first, messages.clone());
    world.settle_down();
    assert!(
        is_leased(&world, 0) && is_leased(&world, 1),
        "they are the second try's"
    );
    undelivered(&mut world, second, messages);
    world.settle_down();
    assert_eq!(state(&world, 0), MessageState::Free, "and nobody saw that either");
}

#[test]
fn what_only_one_call_was_granted_is_taken_back_when_another_partition_answers_it() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(2));
    let (first, _) = lost(&mut world, 2);
    assert_eq!(take_back(&mut world, first), 2);
    assert!(
        [0, 1]
            .map(|offset| state(&world, offset))
            .iter()
            .all(|state| *state == MessageState::Free)
    );
}

#[test]
fn what_the_next_try_got_is_not_taken_back_by_the_call_before() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(1));
    let (first, _) = lost(&mut world, 1);
    let known = world.clients[0].receive;
    let second = world.receive(0, 1, 0);
    assert_eq!(holds(&world, 0), [0]);
    world.clients[0].receive = known;
    for call in [first, second] {
        assert_eq!(take_back(&mut world, call), 0, "another call may have handed it on");
        assert!(is_leased(&world, 0), "it is the client's");
    }
}

#[test]
fn a_call_does_not_take_back_what_its_next_try_waits_for() {
    let mut world = world(Policy::default(), 1);
    let first = world.receive(0, 1, 60_000);
    let known = world.clients[0].receive;
    let second = world.receive(0, 1, 60_000);
    assert_eq!(world.answers.get(&first), Some(&Answer::Superseded));
    world.clients[0].receive = known;
    assert_eq!(take_back(&mut world, first), 0);
    assert_eq!(world.answers.get(&second), None, "it waits still");
    // A grant for it is under way.
    world.clients[0].receive = known.map(|(_, attempt)| (second, attempt));
    let proposed = world.proposed;
    world.send(plain(1));
    while world.proposed == proposed {
        assert!(world.apply(), "its message is granted");
    }
    assert_eq!(take_back(&mut world, first), 0);
    assert_eq!(world.answers.get(&second), None, "its grant is under way still");
    world.settle_down();
    assert!(matches!(world.answers.get(&second), Some(Answer::Received(messages)) if messages.len() == 1));
    assert!(is_leased(&world, 0));
}

#[test]
fn what_an_earlier_leader_granted_is_not_taken_back_for_another_call_may_have_it() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(1));
    let (first, _) = lost(&mut world, 1);
    let known = world.clients[0].receive;
    world.fail_over();
    world.clients[0].receive = known;
    assert_eq!(take_back(&mut world, first), 0);
    assert!(is_leased(&world, 0));
}

#[test]
fn a_call_that_is_taken_back_waits_no_longer() {
    let mut world = world(Policy::default(), 1);
    let first = world.receive(0, 1, 60_000);
    assert_eq!(take_back(&mut world, first), 0);
    assert_eq!(world.answers.get(&first), Some(&Answer::Received(Vec::new())));
    send(&mut world, plain(1));
    assert_eq!(state(&world, 0), MessageState::Free, "and gets nothing");
}

#[test]
fn a_receive_that_is_sent_again_waits_for_what_is_under_way() {
    let mut world = world(Policy::default(), 2);
    send(&mut world, plain(2));
    let (first, messages) = lost(&mut world, 2);
    // One of them is given back; the command is under way.
    undelivered(&mut world, first, messages[..1].to_vec());
    let second = world.receive(0, 2, 0);
    assert_eq!(world.answers.get(&second), None, "what it gets is not known yet");
    world.settle_down();
    assert_eq!(holds(&world, 0), [1], "the other one is its still");
    world.holders.clear();
    world.receive(1, 2, 0);
    world.settle_down();
    assert_eq!(holds(&world, 1), [0]);
}

#[test]
fn who_only_asks_for_what_was_granted_ends_the_first_try() {
    let mut world = world(Policy::default(), 1);
    let first = world.receive(0, 1, 60_000);
    let second = world.receive(0, 0, 0);
    world.settle_down();
    let nothing = Answer::Received(Vec::new());
    for request in [first, second] {
        assert_eq!(world.answers.get(&request), Some(&nothing), "nothing was granted");
    }
    send(&mut world, plain(1));
    world.settle_down();
    assert_eq!(state(&world, 0), MessageState::Free, "and nothing is any more");
}

#[test]
fn a_receive_that_waits_for_what_is_under_way_may_be_sent_again_and_cancelled() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(1));
    let (first, messages) = lost(&mut world, 1);
    undelivered(&mut world, first, messages);
    let second = world.receive(0, 1, 0);
    let third = world.receive(0, 1, 0);
    assert_eq!(world.answers.get(&second), Some(&Answer::Superseded));
    world.step(Input::CancelReceive { request: third });
    world.settle_down();
    assert_eq!(world.answers.get(&third), None);
    assert_eq!(state(&world, 0), MessageState::Free, "nobody asks for it");
}

#[test]
fn a_grant_whose_receive_is_gone_answers_the_next_try() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(2));
    let first = world.receive(0, 1, 0);
    let known = world.clients[0].receive;
    world.step(Input::CancelReceive { request: first });
    world.clients[0].receive = known;
    // Its grant is under way.
    let second = world.receive(0, 1, 0);
    world.settle_down();
    assert_eq!(holds(&world, 0), [0], "one message, and not two");
    assert!(matches!(world.answers.get(&second), Some(Answer::Received(messages)) if messages.len() == 1));
    assert_eq!(state(&world, 1), MessageState::Free);
}

#[test]
fn an_attempt_whose_lease_is_over_gets_a_new_one() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(1));
    let (_, messages) = lost(&mut world, 1);
    world.pass(30_000);
    world.receive(0, 1, 0);
    world.settle_down();
    let lease = world.clients[0].holds[&0];
    assert_ne!(lease, messages[0].1, "it has the message to itself again");
}

#[test]
fn other_settings_leave_the_order_of_a_key_while_a_grant_is_under_way() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..Policy::default()
    };
    let mut world = world(policy, 2);
    let key = Mark {
        key: 7,
        ..Mark::default()
    };
    send(&mut world, vec![key.clone(), key]);
    world.connect(0, 1);
    assert_eq!(world.pending.len(), 1, "its grant is under way");
    world.policy.retry_min_ms += 1;
    world.configure();
    world.connect(1, 1);
    world.settle_down();
    assert_eq!((holds(&world, 0), holds(&world, 1)), (vec![0], vec![]), "one at a time");
}

#[test]
fn a_message_that_waits_to_go_alone_and_is_cancelled_frees_its_key() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        attempts_max: Some(2),
        retry_min_ms: 0,
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    let key = |key| Mark { key, ..Mark::default() };
    send(&mut world, vec![key(7), key(8), key(7)]);
    world.connect(0, 2);
    world.settle_down();
    assert_eq!(holds(&world, 0), [0, 1]);
    let lease = world.clients[0].holds[&0];
    let request = RequestId(world.next_id());
    let settlement = Settlement::Nack {
        delay_ms: Some(0),
        failed: true,
    };
    let items = vec![SettleItem {
        offset: 0,
        lease,
        settlement,
    }];
    world.clients[0].holds.remove(&0);
    world.holders.clear();
    world.step(Input::Settle {
        request,
        slot: SLOT,
        items,
    });
    world.settle_down();
    // It is to go out alone, and its consumer has another one.
    world.give_credit(0, 1);
    world.pass(1);
    world.settle_down();
    let section = Section::Done {
        slot: SLOT,
        cause: DoneCause::Cancelled,
        messages: [0].into_iter().collect(),
    };
    let request = RequestId(world.next_id());
    world.step(Input::Administer { request, section });
    world.settle_down();
    assert_eq!(state(&world, 0), MessageState::Done);
    world.give_credit(0, 5);
    world.settle_down();
    assert_eq!(holds(&world, 0), [1, 2], "the next of its key goes out");
}

#[test]
fn a_message_that_is_not_due_holds_its_own_key_and_no_other() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    let due = world.wall() + 10_000;
    let mark = |key, deliver_at_ms| Mark {
        key,
        deliver_at_ms,
        ..Mark::default()
    };
    // The delay of the queue was an hour, and is none now.
    send(
        &mut world,
        vec![
            mark(7, due),
            mark(7, 0),
            mark(8, 0),
            mark(0, due),
            mark(9, due),
            mark(8, 0),
        ],
    );
    world.connect(0, 10);
    world.settle_down();
    assert_eq!(world.order, [2], "7 waits for its first, and 8 goes on");
    let counts = world
        .engine
        .counts(&world.slots, world.end(), SLOT)
        .expect("it is configured");
    assert_eq!((counts.delayed, counts.leased), (3, 1));
    world.say(0, 2, Settlement::Ack);
    world.settle_down();
    assert_eq!(world.order, [2, 5]);
    world.pass(11_000);
    world.settle_down();
    assert_eq!(world.order, [2, 5, 0, 3, 4], "at their time");
    world.say(0, 0, Settlement::Ack);
    world.settle_down();
    assert_eq!(world.order.last(), Some(&1), "the second of its key after the first");
}

#[test]
fn a_message_that_is_not_due_and_is_cancelled_frees_its_key() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    let due = world.wall() + 3_600_000;
    let mark = |deliver_at_ms| Mark {
        key: 7,
        deliver_at_ms,
        ..Mark::default()
    };
    send(&mut world, vec![mark(due), mark(0)]);
    world.connect(0, 10);
    world.settle_down();
    assert_eq!(holds(&world, 0), [0; 0]);
    let section = Section::Done {
        slot: SLOT,
        cause: DoneCause::Cancelled,
        messages: [0].into_iter().collect(),
    };
    let request = RequestId(world.next_id());
    world.step(Input::Administer { request, section });
    world.settle_down();
    assert_eq!(holds(&world, 0), [1]);
}

#[test]
fn other_settings_bring_nothing_to_whom_has_a_message_alone() {
    let policy = Policy {
        attempts_max: Some(2),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    send(&mut world, plain(1));
    world.connect(0, 5);
    world.settle_down();
    let settlement = Settlement::Nack {
        delay_ms: Some(0),
        failed: true,
    };
    say(&mut world, 0, 0, settlement);
    world.pass(1);
    world.settle_down();
    assert_eq!(holds(&world, 0), [0], "for the last time");
    world.policy.retry_max_ms += 1;
    world.configure();
    send(&mut world, plain(1));
    assert_eq!(holds(&world, 0), [0]);
    say(&mut world, 0, 0, Settlement::Ack);
    assert_eq!(holds(&world, 0), [1]);
}

#[test]
fn whoever_waits_at_a_queue_that_is_closed_is_told() {
    let mut world = world(Policy::default(), 2);
    let request = world.receive(0, 1, 20_000);
    world.connect(1, 1);
    let section = Section::Close { slot: SLOT };
    let close = RequestId(world.next_id());
    world.step(Input::Administer {
        request: close,
        section,
    });
    while world.apply() {}
    assert_eq!(world.answers.get(&request), Some(&Answer::UnknownSlot));
    assert_eq!(world.clients[1].stream, None, "its stream ends");
}

#[test]
fn what_an_earlier_leader_could_not_hand_on_is_given_back() {
    let mut world = world(Policy::default(), 1);
    send(&mut world, plain(1));
    let (first, messages) = lost(&mut world, 1);
    world.fail_over();
    undelivered(&mut world, first, messages);
    world.settle_down();
    assert_eq!(state(&world, 0), MessageState::Free);
}
