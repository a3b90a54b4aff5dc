//! The events of groups: each is emitted once, with its cause.

use jangada_coordinator::{Event, HeartbeatRequest, PartitionSet, RemovalCause};
use jangada_types::TopicId;

use crate::fixture::{Client, GROUP, World, counts, partition, settled};

/// The events since the last call.
fn told(world: &mut World) -> Vec<Event> {
    std::mem::take(&mut world.events)
}

fn removed(member: &str, cause: RemovalCause) -> Event {
    Event::MemberRemoved {
        group: GROUP.into(),
        member: member.into(),
        cause,
    }
}

fn target(world: &World, members: usize, partitions: usize) -> Event {
    Event::TargetSet {
        group: GROUP.into(),
        epoch: world.group().epoch,
        members,
        partitions,
    }
}

#[test]
fn why_a_member_is_gone() {
    let (mut world, mut clients) = settled(4, vec![(1, "t", 12)]);
    told(&mut world);
    clients[0].is_alive = false;
    let until = world.now_ms + 13_000;
    world.run(until, &mut clients);
    let expected = [removed("m0", RemovalCause::SessionExpired), target(&world, 3, 12)];
    assert_eq!(told(&mut world), expected);

    clients[1].leave(&mut world, -1);
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    let expected = [removed("m1", RemovalCause::Left), target(&world, 2, 12)];
    assert_eq!(
        (told(&mut world), counts(&clients[2..])),
        (expected.to_vec(), vec![6, 6])
    );

    // The member sends heartbeats and never acknowledges giving up.
    let mut slow = clients.remove(2);
    clients.push(Client {
        next_ms: world.now_ms,
        ..Client::new("m4", &["t"])
    });
    for _ in 0..20 {
        let request = HeartbeatRequest {
            owned: None,
            ..slow.request()
        };
        let answer = world.heartbeat(request);
        slow.take(answer, world.now_ms);
        let until = world.now_ms + 500;
        world.run(until, &mut clients);
    }
    let gone = removed("m2", RemovalCause::RebalanceTimedOut);
    assert_eq!(told(&mut world).iter().filter(|event| **event == gone).count(), 1);
}

#[test]
fn who_took_the_place_of_a_static_member() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let mut clients = vec![Client::with_instance("a1", "a", &["t"])];
    world.run(5_000, &mut clients);
    told(&mut world);
    clients[0].leave(&mut world, -2);
    Client::with_instance("a2", "a", &["t"]).beat(&mut world);
    let replaced = Event::MemberReplaced {
        group: GROUP.into(),
        member: "a1".into(),
        by: "a2".into(),
    };
    assert_eq!(told(&mut world), [replaced]);
}

#[test]
fn a_removal_that_came_too_late_is_not_told() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    told(&mut world);
    world.now_ms += 10_000;
    let at = world.now();
    let removal = world.leader.tick(&world.image, at);
    clients[0].beat(&mut world);
    removal.iter().for_each(|command| drop(world.apply(command)));
    assert_eq!((clients[0].last_error.as_ref(), told(&mut world)), (None, vec![]));
}

#[test]
fn where_the_offsets_went() {
    let mut world = World::new(vec![(1, "t", 4), (2, "u", 1)]);
    let outside = |world: &mut World, at| world.commit(None, at, 3).expect("nobody is in the group");
    for at in [partition(1, 0), partition(1, 1), partition(1, 2), partition(2, 0)] {
        outside(&mut world, at);
    }
    assert_eq!(told(&mut world), [], "commits happen all the time");

    let some: PartitionSet = [partition(1, 0), partition(1, 3)].into_iter().collect();
    let at = world.now();
    let step = world.leader.delete_offsets(&world.image, GROUP.into(), some, at);
    world.finish(step).expect("nobody is in the group");
    let (group, offsets) = (GROUP.into(), 1);
    assert_eq!(told(&mut world), [Event::OffsetsDeleted { group, offsets }]);

    world.set_topics(vec![(2, "u", 1)]);
    world.tick();
    let forgotten = Event::TopicsForgotten {
        group: GROUP.into(),
        topics: vec![TopicId::from_u128(1)],
        offsets: 2,
    };
    assert_eq!(told(&mut world), [forgotten]);

    let deleted = |is_expired| Event::GroupDeleted {
        group: GROUP.into(),
        offsets: 1,
        is_expired,
    };
    let at = world.now();
    let step = world.leader.delete_group(&world.image, GROUP.into(), at);
    world.finish(step).expect("nobody is in the group");
    assert_eq!(told(&mut world), [deleted(false)]);

    outside(&mut world, partition(2, 0));
    let until = world.now_ms + world.config.offsets_retention_ms;
    world.run(until, &mut []);
    assert_eq!(told(&mut world), [deleted(true)]);
}
