//! What is carried, and when: a log holds a bounded multiple of what is not done, and little is written twice.

use jangada_queue::engine::{Answer, CarryBounds, Input, OnDead, Order, Policy, Settled, Settlement, Waiter};
use jangada_queue::{KeepsOrder, Mark, MessageState};

use crate::world::{Client, SLOT, World};

const BOUNDS: CarryBounds = CarryBounds {
    factor: 4,
    slack_bytes: 20_000,
    batch_bytes: 2_000,
    leased_ms: 600_000,
};

fn world(policy: Policy) -> World {
    let mut world = World::new(11, policy, KeepsOrder::No);
    world.carry_bounds = BOUNDS;
    world.begin_engine();
    world.configure();
    world.clients = vec![Client::default()];
    world
}

/// Messages are sent, and all that goes out is acknowledged; the leader is told of its log each time.
fn traffic(world: &mut World, rounds: usize) {
    for _ in 0..rounds {
        world.send(vec![Mark::default(); 20]);
        world.settle_down();
        world.connect(0, 100);
        world.give_credit(0, 100);
        world.settle_down();
        let holds: Vec<u64> = world.clients[0].holds.keys().copied().collect();
        for offset in holds {
            world.say(0, offset, Settlement::Ack);
        }
        world.settle_down();
        world.measure();
        world.settle_down();
    }
}

/// Bytes of the log from the floor on, and of the records in it that are not done.
fn sizes(world: &World) -> (u64, u64) {
    let slot = world.slots.slot(SLOT).expect("it is open");
    let (_, parts) = world.log.parts(slot.floor());
    let end = world.end();
    let is_live = |offset: &u64| slot.state(*offset, end) != MessageState::Done;
    let live = (slot.floor()..end).filter(is_live);
    let live = live.map(|offset| world.log.records[offset as usize]).sum();
    (parts.iter().map(|part| part.bytes).sum(), live)
}

fn is_bounded(world: &World, largest: u64) {
    let (log, live) = sizes(world);
    let most = BOUNDS.factor * live + BOUNDS.slack_bytes + largest;
    assert!(
        log <= most,
        "the log has {log} bytes, {live} of them live: more than {most}"
    );
    let sent = world.log.written - world.log.carried;
    let most = sent / 3 + BOUNDS.slack_bytes + BOUNDS.batch_bytes;
    assert!(
        world.log.carried <= most,
        "{} bytes carried of {sent}",
        world.log.carried
    );
}

#[test]
fn messages_that_wait_for_ever_hold_no_disk() {
    let mut world = world(Policy::default());
    let later = Mark {
        deliver_at_ms: world.wall() + 10 * 365 * 86_400_000,
        ..Mark::default()
    };
    world.send(vec![later.clone(), Mark::default(), later]);
    world.settle_down();
    world.connect(0, 1);
    world.settle_down();
    world.say(0, 1, Settlement::Reject).expect("it has the message");
    for _ in 0..40 {
        traffic(&mut world, 10);
        is_bounded(&world, 4_000);
    }
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert!(
        world.log.written > 20 * BOUNDS.slack_bytes,
        "{} bytes",
        world.log.written
    );
    assert!(slot.floor() > 7_000, "the floor is at {}", slot.floor());
    assert_eq!(
        (slot.undone(world.end()), slot.counts().dead),
        (3, 1),
        "nothing is lost"
    );
    assert!(world.planned >= 10, "{} carries", world.planned);
    assert!(
        world.log.carried < world.log.written / 20,
        "{} bytes carried",
        world.log.carried
    );
}

#[test]
fn large_messages_among_small_ones_are_not_written_again_and_again() {
    let mut world = world(Policy::default());
    let later = Mark {
        deliver_at_ms: world.wall() + 86_400_000,
        ..Mark::default()
    };
    // What the leader is told of them looks small, for there are many small ones beside each.
    for _ in 0..15 {
        world.record_bytes = Some(1_200);
        world.send(vec![later.clone()]);
        world.settle_down();
        world.record_bytes = Some(10);
        traffic(&mut world, 1);
    }
    for _ in 0..200 {
        traffic(&mut world, 1);
        is_bounded(&world, 4 * 15 * 1_200);
    }
    assert!(world.planned > 15, "{} carries", world.planned);
}

#[test]
fn a_carried_message_does_not_overtake_its_key() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..Policy::default()
    };
    let mut world = World::new(11, policy, KeepsOrder::Yes);
    world.carry_bounds = CarryBounds {
        factor: 0,
        slack_bytes: 100,
        ..BOUNDS
    };
    world.begin_engine();
    world.configure();
    world.clients = vec![Client::default()];
    let key = |key| Mark { key, ..Mark::default() };
    world.send(vec![key(1), key(1), key(2)]);
    world.settle_down();
    world.connect(0, 1);
    world.settle_down();
    world.measure();
    world.settle_down();
    let state = |world: &World, offset: u64| {
        let slot = world.slots.slot(SLOT).expect("it is open");
        slot.state(offset, world.end()) == MessageState::Done
    };
    // The first of key 1 is leased and stays, and so does the second; that of key 2 is carried.
    assert_eq!([0, 1, 2].map(|offset| state(&world, offset)), [false, false, true]);
    // Nobody saw it, and another leader finds it as if it had never been out.
    let messages = world.clients[0].holds.iter().map(|(offset, lease)| (*offset, *lease));
    let messages = messages.collect();
    let to = Waiter::Stream(world.clients[0].stream.expect("it is connected"));
    world.step(Input::Undelivered {
        slot: SLOT,
        to,
        messages,
    });
    world.clients[0].holds.clear();
    world.holders.clear();
    world.settle_down();
    world.order.clear();
    world.fail_over();
    world.connect(0, 3);
    world.settle_down();
    world.say(0, 0, Settlement::Ack).expect("it is the first of its key");
    world.settle_down();
    assert_eq!(
        world.order,
        [2, 0, 1],
        "what was carried is known first, and a key goes in its order"
    );
}

#[test]
fn a_lease_that_ran_out_long_ago_holds_no_disk() {
    let mut world = world(Policy::default());
    world.send(vec![Mark::default()]);
    world.settle_down();
    world.receive(0, 1, 0);
    world.settle_down();
    world.clients[0].holds.clear();
    // Nobody asks for it again: others are done by way of a purge.
    let floor = |world: &World| world.slots.slot(SLOT).expect("it is open").floor();
    for _ in 0..30 {
        world.send(vec![Mark::default(); 20]);
        world.settle_down();
        let end = world.end();
        let messages = (1..end).collect();
        let section = jangada_queue::Section::Done {
            slot: SLOT,
            cause: jangada_queue::DoneCause::Cancelled,
            messages,
        };
        let request = jangada_queue::engine::RequestId(world.next_id());
        world.step(jangada_queue::engine::Input::Administer { request, section });
        world.settle_down();
    }
    world.pass(300_000);
    world.measure();
    world.settle_down();
    assert_eq!(floor(&world), 0, "its holder may still settle it");
    world.pass(400_000);
    world.measure();
    world.settle_down();
    world.pass(1_000);
    world.measure();
    world.settle_down();
    assert_eq!(floor(&world), world.end() - 1);
    let slot = world.slots.slot(SLOT).expect("it is open");
    let (offset, held) = slot.held_from(0).next().expect("it waits");
    assert_eq!((offset, held.failures), (world.end() - 1, 1), "the lease was a failure");
}

/// A message whose lease is extended for hours goes on with its lease, and its holder names it as before.
#[test]
fn a_lease_that_is_extended_for_hours_holds_no_disk() {
    let mut world = world(Policy::default());
    world.clients = vec![
        Client::default(),
        Client {
            session: 1,
            ..Client::default()
        },
    ];
    world.send(vec![Mark::default(); 2]);
    world.settle_down();
    world.connect(1, 2);
    world.settle_down();
    let first = world.clients[1].holds[&0];
    let extends = |world: &mut World| {
        for offset in [0, 1] {
            let settlement = Settlement::Extend { lease_ms: 1_200_000 };
            let request = world.say(1, offset, settlement).expect("it has the message");
            world.settle_down();
            assert_eq!(world.answers[&request], Answer::Settled(vec![Settled::Done]));
        }
    };
    for round in 0..200 {
        if round % 4 == 0 {
            extends(&mut world);
        }
        if round % 50 == 40 {
            world.fail_over();
            world.settle_down();
        }
        if round % 50 == 45 {
            // It comes back with what it has by the names that it knows, and gets nothing again.
            world.disconnect(1, false);
            let delivered = world.order.len();
            world.connect(1, 0);
            world.settle_down();
            assert_eq!(world.order.len(), delivered, "it has them");
        }
        traffic(&mut world, 1);
        world.pass(100_000);
    }
    let slot = world.slots.slot(SLOT).expect("it is open");
    assert!(slot.floor() > 3_000, "the floor is at {}", slot.floor());
    assert_eq!((slot.counts().leased, slot.undone(world.end())), (2, 2));
    let place = slot.place(0);
    assert!(
        place > slot.floor() - 1
            && slot
                .held(place)
                .is_some_and(|held| held.lease == first && held.deliveries == 1)
    );
    // Nobody finds them by the rows alone, whose log is cut.
    world.rows.clear();
    let request = world.say(1, 0, Settlement::Ack).expect("it has the message");
    world.settle_down();
    assert_eq!(world.answers[&request], Answer::Settled(vec![Settled::Done]));
    let request = world.say(
        1,
        1,
        Settlement::Nack {
            delay_ms: Some(0),
            failed: true,
        },
    );
    world.settle_down();
    assert_eq!(
        world.answers[&request.expect("it has it")],
        Answer::Settled(vec![Settled::Done])
    );
    let slot = world.slots.slot(SLOT).expect("it is open");
    let (_, held) = slot.held_from(0).next().expect("one goes out again");
    assert_eq!(
        (slot.undone(world.end()), held.failures, held.deliveries),
        (1, 1, 2),
        "and the other is done"
    );
    assert_eq!(slot.place(1), 1, "the lease that was known by it is over");
    assert!(
        world.log.carried < world.log.written / 10,
        "{} bytes carried",
        world.log.carried
    );
}
