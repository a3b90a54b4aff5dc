//! Limits, counts, and what has an end besides its settlement, case by case.

use jangada_queue::engine::{
    Answer, Expired, Full, Input, Limit, Oldest, Overflow, Policy, Settlement, SlotCounts, TripCause,
};
use jangada_queue::{DeadReason, DoneCause, HeldState, Mark, MessageState};

use crate::scenarios::{holds, plain, say, send, state, world};
use crate::world::{SLOT, World};

const FAILED: Settlement = Settlement::Nack {
    delay_ms: Some(0),
    failed: true,
};

fn counts(world: &World) -> SlotCounts {
    let counts = world.engine.counts(&world.slots, world.end(), SLOT);
    counts.expect("it has settings")
}

fn admits(world: &mut World, messages: u64, bytes: u64) -> Result<(), Full> {
    let end = world.end();
    world.engine.admits(&world.slots, end, SLOT, messages, bytes)
}

fn sent(world: &mut World, messages: u64, bytes: u64, is_appended: bool) {
    if is_appended {
        world.record_bytes = Some(bytes / messages);
        send(world, plain(messages as usize));
    }
    world.step(Input::Sent {
        slot: SLOT,
        messages,
        bytes,
        is_appended,
    });
}

#[test]
fn a_full_queue_refuses_what_is_sent() {
    let policy = Policy {
        messages_max: Some(10),
        bytes_max: Some(2_000),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    let room = |world: &World| {
        let room = world.engine.room(&world.slots, world.end(), SLOT);
        room.map(|room| room.about_bytes)
    };
    assert_eq!(room(&world), Some(10), "of no size yet");
    assert_eq!(admits(&mut world, 6, 600), Ok(()));
    let full = |limit, most, actual| Err(Full { limit, most, actual });
    // What is being appended counts.
    assert_eq!(admits(&mut world, 5, 5), full(Limit::Messages, 10, 6));
    assert_eq!(admits(&mut world, 1, 1_401), full(Limit::Bytes, 2_000, 600));
    sent(&mut world, 6, 600, true);
    assert_eq!((counts(&world).ready, counts(&world).bytes), (6, 600));
    assert_eq!(room(&world), Some(400), "four of their size");
    assert_eq!(admits(&mut world, 4, 1_400), Ok(()));
    assert_eq!(room(&world), Some(0));
    assert_eq!(admits(&mut world, 1, 1), full(Limit::Messages, 10, 10));
    // It was refused by the log.
    sent(&mut world, 4, 1_400, false);
    assert_eq!(admits(&mut world, 1, 1_400), Ok(()));
    sent(&mut world, 1, 1_400, true);
    assert_eq!(admits(&mut world, 1, 1), full(Limit::Bytes, 2_000, 2_000));
    // A dead message does not count, nor does one that is done.
    world.connect(0, 3);
    world.settle_down();
    say(&mut world, 0, 0, Settlement::Ack);
    say(&mut world, 0, 1, Settlement::Reject);
    assert_eq!(admits(&mut world, 2, 400), Ok(()));
    // A new leader is told the sizes, and goes by them.
    world.fail_over();
    world.measure();
    assert!(admits(&mut world, 1, 1_000).is_err(), "{:?}", counts(&world));
}

#[test]
fn the_oldest_go_when_there_are_too_many_bytes() {
    let policy = Policy {
        bytes_max: Some(1_000),
        overflow: Overflow::DropOldest,
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    assert_eq!(admits(&mut world, 25, 2_500), Ok(()));
    sent(&mut world, 25, 2_500, true);
    world.settle_down();
    let dead = |held: &HeldState| *held == HeldState::Dead;
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert!(
        slot.held_from(0)
            .all(|(_, held)| dead(&held.state) && held.reason == Some(DeadReason::Length))
    );
    let (ready, bytes) = (counts(&world).ready, counts(&world).bytes);
    assert!(
        (8..=10).contains(&ready) && bytes <= 1_000,
        "{ready} messages, {bytes} bytes"
    );
}

#[test]
fn most_messages_fail_and_one_a_second_goes_out() {
    let policy = Policy {
        attempts_max: Some(4),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    send(&mut world, plain(1_000));
    world.connect(0, 100);
    world.settle_down();
    for offset in holds(&world, 0) {
        world.say(0, offset, FAILED).expect("it has the message");
    }
    world.settle_down();
    let tripped = counts(&world).tripped.expect("all of them failed");
    assert_eq!(tripped.cause, TripCause::Failures);
    world.give_credit(0, 100);
    world.settle_down();
    let before = world.order.len();
    for second in 1..=10 {
        world.pass(1_000);
        world.settle_down();
        let holds = holds(&world, 0);
        assert!(holds.len() <= 1, "{holds:?}");
        holds.iter().for_each(|offset| _ = say(&mut world, 0, *offset, FAILED));
        let went_out = world.order.len() - before;
        assert!((second - 1..=second).contains(&went_out), "{went_out} in {second} s");
    }
    assert!(counts(&world).dead < 12, "no flood of dead letters");
    // What it failed by is mended.
    for _ in 0..25 {
        world.pass(1_000);
        world.settle_down();
        for offset in holds(&world, 0) {
            world.say(0, offset, Settlement::Ack).expect("it has the message");
        }
        world.settle_down();
    }
    assert_eq!(counts(&world).tripped, None);
    assert!(world.order.len() - before > 80, "all goes out again");
}

#[test]
fn a_message_that_comes_back_expires_all_the_same() {
    for (expired, fails_over) in [
        (Expired::Drop, false),
        (Expired::Dead, false),
        (Expired::Drop, true),
        (Expired::Dead, true),
    ] {
        let policy = Policy {
            expired: Some(expired),
            ..Policy::default()
        };
        let mut world = world(policy, 1);
        let expires_at_ms = world.wall() + 10_000;
        let mark = Mark {
            expires_at_ms,
            ..Mark::default()
        };
        send(&mut world, vec![mark.clone(), mark, Mark::default()]);
        world.connect(0, 1);
        world.settle_down();
        let later = Settlement::Nack {
            delay_ms: Some(9_000),
            failed: true,
        };
        say(&mut world, 0, 0, later);
        if fails_over {
            world.fail_over();
        }
        world.pass(9_500);
        world.settle_down();
        assert!(matches!(state(&world, 0), MessageState::Held(held) if held.state == HeldState::Waiting));
        world.pass(1_500);
        world.settle_down();
        world.pass(1_000);
        world.settle_down();
        for offset in [0, 1] {
            match expired {
                Expired::Drop => assert_eq!(state(&world, offset), MessageState::Done),
                Expired::Dead => assert!(
                    matches!(state(&world, offset), MessageState::Held(held) if held.reason == Some(DeadReason::Expired))
                ),
            }
        }
        world.connect(0, 5);
        world.give_credit(0, 5);
        world.settle_down();
        assert_eq!(holds(&world, 0), [2], "it has no end");
    }
}

#[test]
fn dead_messages_are_kept_up_to_a_number_and_an_age() {
    let policy = Policy {
        dead_max: Some(3),
        dead_ttl_ms: Some(3_600_000),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    send(&mut world, plain(6));
    world.connect(0, 6);
    world.settle_down();
    for offset in 0..5 {
        say(&mut world, 0, offset, Settlement::Reject);
    }
    world.settle_down();
    assert_eq!(counts(&world).dead, 3);
    assert_eq!(state(&world, 1), MessageState::Done, "the oldest have gone");
    world.pass(3_000_000);
    world.settle_down();
    assert_eq!(counts(&world).dead, 3);
    world.fail_over();
    world.pass(700_000);
    world.settle_down();
    assert_eq!(counts(&world).dead, 0);
}

#[test]
fn a_queue_that_nobody_uses_is_said_to_be_once() {
    let policy = Policy {
        unused_max_ms: Some(60_000),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    world.connect(0, 1);
    world.pass(600_000);
    assert!(world.unused.is_empty(), "it has a consumer");
    world.disconnect(0, true);
    world.pass(59_000);
    send(&mut world, plain(1));
    assert!(world.unused.is_empty());
    world.pass(1_001);
    assert_eq!(
        world.unused,
        [SLOT],
        "what is appended to a topic is no use of a queue that reads it"
    );
    world.pass(600_000);
    assert_eq!(world.unused.len(), 1);
    world.receive(0, 1, 0);
    world.settle_down();
    world.pass(600_000);
    assert_eq!(world.unused.len(), 1, "somebody has its message");
    say(&mut world, 0, 0, Settlement::Ack);
    world.pass(60_001);
    assert_eq!(world.unused.len(), 2);
    let is_unused = |world: &World| world.engine.is_unused(&world.slots, SLOT);
    assert!(is_unused(&world));
    world.step(Input::Sent {
        slot: SLOT,
        messages: 1,
        bytes: 10,
        is_appended: true,
    });
    assert!(!is_unused(&world), "somebody has sent a message to it");
    world.pass(59_000);
    assert!(!is_unused(&world));
    world.pass(1_001);
    assert_eq!((world.unused.len(), is_unused(&world)), (3, true));
    let policy = Policy {
        unused_max_ms: Some(1_000),
        ..policy
    };
    world.step(Input::Configure { slot: SLOT, policy });
    assert!(!is_unused(&world), "somebody has changed its settings");
    world.pass(1_001);
    assert!(is_unused(&world));
    world.fail_over();
    assert!(!is_unused(&world), "a new leader begins to count");
}

#[test]
fn messages_that_are_not_due_are_counted() {
    let mut world = world(Policy::default(), 1);
    let timed = |world: &World, after_ms| Mark {
        deliver_at_ms: world.wall() + after_ms,
        ..Mark::default()
    };
    let marks = vec![timed(&world, 60_000), timed(&world, 90_000), Mark::default()];
    send(&mut world, marks);
    let delayed = |world: &World| (counts(world).delayed, counts(world).ready);
    assert_eq!(delayed(&world), (2, 1), "though nobody asks for messages");
    world.fail_over();
    world.settle_down();
    assert_eq!(delayed(&world), (2, 1));
    world.carry(3);
    world.settle_down();
    assert_eq!(counts(&world).ready + counts(&world).delayed, 3);
    world.pass(61_000);
    world.settle_down();
    world.pass(61_000);
    world.settle_down();
    assert_eq!(delayed(&world), (0, 3));
}

#[test]
fn the_oldest_of_each_lane_is_known() {
    let lane = |lane| Mark {
        lane,
        ..Mark::default()
    };
    let policy = Policy {
        has_lanes: true,
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    send(&mut world, [0, 2, 0, 2, 5].map(lane).to_vec());
    world.connect(0, 2);
    world.settle_down();
    // 4 and 1 are out, and 1 comes back.
    say(&mut world, 0, 1, FAILED);
    world.pass(1);
    world.settle_down();
    let oldest = |lane, offset| Oldest { lane, offset };
    assert_eq!(counts(&world).oldest, [oldest(0, 0), oldest(2, 1)]);
    assert_eq!((counts(&world).first, counts(&world).consumers), (Some(0), 1));
}

#[test]
fn a_receive_says_that_consumers_have_as_many_as_they_may() {
    let policy = Policy {
        in_flight_max: 3,
        session_in_flight_max: 2,
        ..Policy::default()
    };
    let mut world = world(policy, 3);
    send(&mut world, plain(5));
    world.connect(0, 2);
    world.settle_down();
    assert_eq!(holds(&world, 0), [0, 1]);
    let ask = |world: &mut World, client: usize| {
        let request = world.receive(client, 1, 1_000);
        world.settle_down();
        world.pass(1_000);
        world.settle_down();
        world.answers.get(&request).cloned()
    };
    assert_eq!(ask(&mut world, 0), Some(Answer::InFlightFull(2)), "its session has two");
    world.connect(1, 1);
    world.settle_down();
    assert_eq!(holds(&world, 1), [2]);
    assert_eq!(ask(&mut world, 2), Some(Answer::InFlightFull(3)), "all have three");
    assert_eq!(counts(&world).tally.in_flight_full, 2);
    say(&mut world, 0, 1, Settlement::Ack);
    assert!(matches!(ask(&mut world, 2), Some(Answer::Received(messages)) if messages.len() == 1));
}

#[test]
fn leases_that_ran_out_are_not_in_flight() {
    let policy = Policy {
        in_flight_max: 3,
        ..Policy::default()
    };
    let mut world = world(policy, 2);
    send(&mut world, plain(3));
    // Whoever received them died, and nothing tells of it but their leases.
    world.receive(0, 3, 1_000);
    world.settle_down();
    assert_eq!(counts(&world).leased, 3);
    world.pass(60_000);
    world.settle_down();
    world.connect(1, 10);
    world.settle_down();
    assert_eq!(holds(&world, 1).len(), 3, "all of them go out again");
    let tally = counts(&world).tally;
    assert_eq!((tally.delivered, tally.redelivered), (6, 3));
}

#[test]
fn what_has_come_of_messages_is_counted() {
    let policy = Policy {
        messages_max: Some(6),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    assert_eq!(admits(&mut world, 6, 600), Ok(()));
    sent(&mut world, 6, 600, true);
    assert!(admits(&mut world, 2, 200).is_err());
    world.connect(0, 3);
    world.settle_down();
    say(&mut world, 0, 0, Settlement::Ack);
    say(&mut world, 0, 1, Settlement::Reject);
    say(&mut world, 0, 2, Settlement::Release);
    world.give_credit(0, 1);
    world.settle_down();
    let tally = counts(&world).tally;
    assert_eq!((tally.sent, tally.refused_full), (6, 2));
    assert_eq!((tally.delivered, tally.redelivered), (4, 1));
    assert_eq!((tally.done(DoneCause::Acked), tally.dead(DeadReason::Rejected)), (1, 1));
    // A new leader counts anew.
    world.fail_over();
    let mut after = counts(&world).tally;
    assert!(after.each_mut().all(|count| *count == 0), "{after:?}");
}
