//! What bad numbers and great ones do to a queue, and what it owes to its dead letters.

use jangada_queue::engine::{Answer, Expired, Input, OnDead, Order, Overflow, Policy, RequestId, Settlement};
use jangada_queue::limits::OPS_BYTES;
use jangada_queue::{DoneCause, HeldState, Mark, MessageState, Runs, Section, SectionReply};

use crate::scenarios::{holds, plain, say, send, state, world};
use crate::world::{Entry, SLOT, World};

fn administer(world: &mut World, section: Section) -> RequestId {
    let request = RequestId(world.next_id());
    world.step(Input::Administer { request, section });
    request
}

fn done(cause: DoneCause, messages: Runs) -> Section {
    Section::Done {
        slot: SLOT,
        cause,
        messages,
    }
}

/// An entry with such offsets would stop the partition for good: each replica would refuse it, or fail to apply it.
#[test]
fn offsets_that_no_replica_could_read_again_are_refused_and_not_proposed() {
    let mut world = world(Policy::default(), 0);
    send(&mut world, plain(3));
    let many = Runs::of(0, 2 << 20);
    for messages in [
        Runs::from_iter([1, 1 << 60]),
        Runs::of(u64::MAX >> 1, u64::MAX >> 1),
        many,
    ] {
        let proposed = world.proposed;
        let request = administer(&mut world, done(DoneCause::Cancelled, messages.clone()));
        let refused = Answer::Administered(SectionReply::Taken { refused: messages });
        assert_eq!(world.answers.get(&request), Some(&refused));
        assert_eq!(world.proposed, proposed, "nothing goes into the log");
    }
    let there_and_beyond = Runs::from_iter([1, (1 << 60) - 1]);
    administer(&mut world, done(DoneCause::Cancelled, there_and_beyond));
    world.settle_down();
    assert_eq!(
        state(&world, 1),
        MessageState::Done,
        "one that is not there is left out"
    );
}

#[test]
fn what_many_administrators_ask_for_is_not_one_command() {
    let mut world = world(Policy::default(), 0);
    send(&mut world, plain(10));
    let scattered = Runs::from_iter((0..1_000).map(|at| 2 * at));
    let requests: Vec<RequestId> = (0..40)
        .map(|_| administer(&mut world, done(DoneCause::Cancelled, scattered.clone())))
        .collect();
    while let Some(entry) = world.pending.front() {
        if let Entry::Ops(_, ops) = entry {
            let runs = ops.sections.iter().filter_map(Section::messages);
            let runs: usize = runs.map(|messages| messages.runs().len()).sum();
            assert!(runs <= OPS_BYTES / 16 + 1_000, "{runs} runs in one command");
        }
        world.apply();
    }
    assert!(requests.iter().all(|request| world.answers.contains_key(request)));
}

#[test]
fn a_message_that_dies_before_anybody_had_it_keeps_its_key_blocked() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Block),
        expired: Some(Expired::Dead),
        ..Policy::default()
    };
    for fails_over in [false, true] {
        let mut world = world(policy, 1);
        let key = |expires_at_ms| Mark {
            key: 7,
            expires_at_ms,
            ..Mark::default()
        };
        let soon = key(world.wall() + 1_000);
        send(&mut world, vec![soon, key(0)]);
        world.pass(1_000);
        world.step(Input::Tick);
        world.settle_down();
        assert!(matches!(state(&world, 0), MessageState::Held(held) if held.state == HeldState::Dead && held.key == 7));
        if fails_over {
            world.fail_over();
        }
        world.connect(0, 10);
        world.settle_down();
        assert!(holds(&world, 0).is_empty(), "the dead one blocks its key");
        administer(&mut world, done(DoneCause::Purged, Runs::of(0, 0)));
        world.settle_down();
        assert_eq!(holds(&world, 0), [1], "it is purged, and its key goes on");
    }
}

#[test]
fn a_message_that_comes_back_from_the_dead_waits_for_its_key() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        overflow: Overflow::DropOldest,
        messages_max: Some(1),
        ..Policy::default()
    };
    let mut world = world(policy, 2);
    let key = Mark {
        key: 7,
        ..Mark::default()
    };
    send(&mut world, vec![key.clone(), key]);
    world.step(Input::Tick);
    world.settle_down();
    assert!(matches!(state(&world, 0), MessageState::Held(held) if held.state == HeldState::Dead));
    world.policy.messages_max = None;
    world.policy.overflow = Overflow::Reject;
    world.configure();
    world.connect(0, 1);
    world.settle_down();
    assert_eq!(holds(&world, 0), [1]);
    let messages = Runs::of(0, 0);
    administer(&mut world, Section::Redrive { slot: SLOT, messages });
    world.connect(1, 1);
    world.settle_down();
    assert!(holds(&world, 1).is_empty(), "a message of its key is out");
    say(&mut world, 0, 1, Settlement::Ack);
    assert_eq!(holds(&world, 1), [0]);
}

#[test]
fn a_message_that_comes_back_from_the_dead_keeps_its_priority() {
    let policy = Policy {
        has_lanes: true,
        overflow: Overflow::DropOldest,
        messages_max: Some(2),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    let lane = |lane| Mark {
        lane,
        ..Mark::default()
    };
    send(&mut world, vec![lane(3), lane(0), lane(2)]);
    world.connect(0, 0);
    world.settle_down();
    world.step(Input::Tick);
    world.settle_down();
    assert!(matches!(state(&world, 0), MessageState::Held(held) if held.state == HeldState::Dead && held.lane == 3));
}

#[test]
fn a_letter_that_had_expired_goes_out_again_when_it_is_redriven() {
    let policy = Policy {
        expired: Some(Expired::Dead),
        ..Policy::default()
    };
    for fails_over in [false, true] {
        let mut world = world(policy, 2);
        let expires_at_ms = world.wall() + 1_000;
        let mark = Mark {
            expires_at_ms,
            ..Mark::default()
        };
        send(&mut world, vec![mark]);
        world.pass(1_000);
        world.step(Input::Tick);
        world.settle_down();
        assert!(matches!(state(&world, 0), MessageState::Held(held) if held.state == HeldState::Dead));
        let messages = Runs::of(0, 0);
        administer(&mut world, Section::Redrive { slot: SLOT, messages });
        world.settle_down();
        if fails_over {
            world.fail_over();
        }
        world.connect(0, 1);
        world.settle_down();
        assert_eq!(holds(&world, 0), [0], "it has no time to live any more");
        say(&mut world, 0, 0, Settlement::Release);
        world.connect(1, 1);
        world.settle_down();
        let out = [holds(&world, 0), holds(&world, 1)].concat();
        assert_eq!(out, [0], "nor has it when it was given back");
        let who = usize::from(holds(&world, 0).is_empty());
        say(&mut world, who, 0, Settlement::Ack);
        assert!(matches!(state(&world, 0), MessageState::Done));
    }
}

/// Each step may find a thousand, and commands take some thousands in the time of a quorum's round.
#[test]
fn what_expires_at_once_does_not_pile_up_before_its_commands() {
    let policy = Policy {
        expired: Some(Expired::Drop),
        ..Policy::default()
    };
    let mut world = world(policy, 0);
    let soon = Mark {
        expires_at_ms: world.wall() + 1_000,
        ..Mark::default()
    };
    let count = 60_000;
    send(&mut world, vec![soon; count]);
    world.now_ms += 2_000;
    let mut steps = 0;
    world.step(Input::Tick);
    while world.engine.next_deadline() == Some(world.now_ms) {
        world.step(Input::Tick);
        steps += 1;
        assert!(steps < 30, "it goes on without its commands");
    }
    world.settle_down();
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert_eq!(slot.settled(DoneCause::Expired), count as u64);
}

#[test]
fn dead_letters_beyond_the_limit_go_though_many_others_are_held_before_them() {
    let policy = Policy {
        dead_max: Some(5),
        session_in_flight_max: 20_000,
        has_breaker: false,
        ..Policy::default()
    };
    let mut world = world(policy, 2);
    send(&mut world, plain(25_040));
    world.connect(0, 12_510);
    world.settle_down();
    world.connect(1, 30);
    world.settle_down();
    let later = holds(&world, 1);
    assert_eq!((holds(&world, 0).len(), later.len()), (12_510, 30));
    for offset in later {
        say(&mut world, 1, offset, Settlement::Reject);
    }
    // It asks to be woken some times, and not again and again.
    for _ in 0..10 {
        world.pass(1_000);
        world.settle_down();
    }
    assert_eq!(world.slots.slot(SLOT).expect("it is open").counts().dead, 5);
}

#[test]
fn a_receive_ends_though_commands_are_under_way_all_the_time() {
    let mut world = world(Policy::default(), 2);
    send(&mut world, plain(2));
    world.connect(0, 2);
    world.settle_down();
    // As under load: two commands are on their way.
    for offset in [0, 1] {
        world.say(0, offset, Settlement::Ack).expect("it has the message");
    }
    assert_eq!(world.pending.len(), 2);
    let request = world.receive(1, 1, 0);
    assert_eq!(world.answers.get(&request), None, "they may bring something");
    world.now_ms += 1_000;
    world.step(Input::Tick);
    assert_eq!(world.answers.get(&request), Some(&Answer::Received(Vec::new())));
}

#[test]
fn the_oldest_go_though_commands_are_under_way_all_the_time() {
    let policy = Policy {
        overflow: Overflow::DropOldest,
        messages_max: Some(10),
        ..Policy::default()
    };
    let mut world = world(policy, 1);
    send(&mut world, plain(5));
    world.connect(0, 5);
    world.settle_down();
    world.say(0, 0, Settlement::Ack).expect("it has the message");
    assert_eq!(world.pending.len(), 1, "it is under way");
    world.pending.push_front(Entry::Append(plain(50)));
    world.apply();
    let gone = world.pending.iter().filter_map(|entry| match entry {
        Entry::Ops(_, ops) => Some(&ops.sections),
        _ => None,
    });
    let gone = gone.flatten().filter(|section| matches!(section, Section::Dead { .. }));
    let gone: u64 = gone.filter_map(Section::messages).map(Runs::len).sum();
    assert!((40..=45).contains(&gone), "{gone} of 54 and one that is under way");
}
