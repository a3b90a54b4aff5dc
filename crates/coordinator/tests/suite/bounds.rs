//! A shard whose state is at its bounds.

use std::sync::Arc;

use jangada_coordinator::{
    Command, Epoch, Event, GroupState, HeartbeatRequest, MemberSpec, OffsetCommit, Reply, Step, SubscribedTopic,
    Subscription, limits,
};
use jangada_types::{Reason, TopicId};

use crate::fixture::{Client, GROUP, World, commit, counts, partition, settled};

/// Applies a command without the fixture, which keeps each command and checks the whole state after each.
fn apply(world: &mut World, command: &Command) -> Reply {
    world.log.push(Command::DeleteGroup { group: "none".into() });
    world.image.apply(world.log.len() as u64, command)
}

fn write(world: &mut World, group: &str, partitions: u32, text_bytes: usize) -> Reply {
    let text = "x".repeat(text_bytes);
    let offsets = (0..partitions).map(|at| OffsetCommit {
        metadata: text.as_str().into(),
        ..commit(partition(1, at), 1)
    });
    let command = Command::CommitOffsets {
        group: group.into(),
        member: None,
        offsets: offsets.collect(),
        at_ms: 1,
        topics_version: 1,
    };
    apply(world, &command)
}

/// A group that commits as much as there is room for, and a little more. Returns how many of its commits were taken.
fn fill(world: &mut World) -> usize {
    let mut taken = 0;
    for (partitions, text_bytes) in [(250, 4_000), (10, 4_000), (1, 4_000), (1, 100), (1, 0)] {
        loop {
            let group = format!("full{}", world.log.len());
            match write(world, &group, partitions, text_bytes) {
                Reply::Applied { .. } => taken += 1,
                Reply::Rejected(rejection) => {
                    assert_eq!(rejection.reason, Reason::TooManyGroups);
                    break;
                }
            }
        }
    }
    taken
}

#[test]
fn full_of_offsets_it_takes_no_more_and_goes_on() {
    let mut world = World::new(vec![(1, "t", 10_000)]);
    write(&mut world, "mine", 250, 4_000);
    let taken = fill(&mut world);
    assert!(taken > 200, "{taken} groups of a megabyte");
    assert!(world.image.size().offsets <= limits::OFFSETS_BYTES_MAX);

    // Commits that add no bytes are taken, and those that add less than others gave up.
    for (group, text_bytes) in [("mine", 4_000), ("mine", 0), ("other", 3_000)] {
        let reply = write(&mut world, group, 250, text_bytes);
        assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
    }
    world.image.check().expect("the state is sound");
}

#[test]
fn full_of_offsets_it_still_shares_out_the_partitions_of_the_dead() {
    let (mut world, mut clients) = settled(3, vec![(1, "t", 120)]);
    fill(&mut world);
    clients[0].is_alive = false;
    for _ in 0..300 {
        let until = world.now_ms + 50;
        world.run(until, &mut clients);
        // It tries again and again, also in the moment when a member is gone and the next target is not there.
        fill(&mut world);
    }
    assert_eq!(counts(&clients[1..]), [60, 60]);
    clients[0] = Client {
        next_ms: world.now_ms,
        ..Client::new("again", &["t"])
    };
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [40, 40, 40]);
    assert_eq!(world.leader.take_events(), []);
}

#[test]
fn full_of_members_it_takes_no_more_and_goes_on() {
    let (mut world, mut clients) = settled(2, vec![(1, "t", 10)]);
    let names: Vec<String> = (0..limits::TOPICS_PER_SUBSCRIPTION_MAX)
        .map(|at| format!("{at:0>249}"))
        .collect();
    let spec = MemberSpec {
        instance_id: None,
        subscription: Arc::new(Subscription::new(names.iter().map(String::as_str), None)),
        ..crate::golden::spec()
    };
    let put = |at: usize, group: &str| Command::PutMember {
        group: group.into(),
        member: format!("m{at}").into(),
        replaces: None,
        version: 0,
        spec: spec.clone(),
    };
    let taken = (0..limits::MEMBERS_PER_GROUP_MAX)
        .take_while(|at| matches!(apply(&mut world, &put(*at, "full")), Reply::Applied { .. }))
        .count();
    assert!(
        (400..600).contains(&taken),
        "{taken} members of a quarter of a megabyte"
    );
    assert!(world.image.size().members <= limits::MEMBERS_BYTES_MAX);
    let refused = apply(&mut world, &put(0, "another")).into_result().unwrap_err();
    assert_eq!(refused.reason, Reason::TooManyGroups);

    // The remaining member goes on, commits, and gets the partitions that others leave.
    let owned = clients[1].owned.iter().next().expect("it owns some");
    let committed = world.commit(Some((&clients[1].id, clients[1].epoch)), owned, 1);
    assert!(committed.is_ok(), "{committed:?}");
    clients[0].leave(&mut world, -1);
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [0, 10]);
}

#[test]
fn full_of_groups_it_makes_no_more_and_goes_on() {
    let mut world = World::new(vec![(1, "t", 10)]);
    for at in 0..limits::GROUPS_MAX {
        let reply = write(&mut world, &format!("g{at}"), 1, 0);
        assert!(matches!(reply, Reply::Applied { .. }), "group {at}: {reply:?}");
    }
    let refused = write(&mut world, "more", 1, 0).into_result().unwrap_err();
    assert_eq!(refused.reason, Reason::TooManyGroups);
    let at = world.now();
    let request = HeartbeatRequest {
        group: "more".into(),
        ..Client::new("m", &["t"]).request()
    };
    let refused = match world.leader.heartbeat(&world.image, request, at) {
        Step::Done(answer) => answer.unwrap_err(),
        proposed => panic!("{proposed:?}"),
    };
    assert_eq!(refused.reason, Reason::TooManyGroups);
    let reply = write(&mut world, "g7", 2, 10);
    assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
}

#[test]
fn a_group_full_of_offsets_takes_no_other_partitions_and_goes_on() {
    let mut world = World::new(vec![(1, "t", 10)]);
    let mut write = |partitions: std::ops::Range<u32>| {
        let offsets = partitions.map(|at| commit(partition(1, at), 1));
        let command = Command::CommitOffsets {
            group: GROUP.into(),
            member: None,
            offsets: offsets.collect(),
            at_ms: 1,
            topics_version: 1,
        };
        apply(&mut world, &command).into_result().map_err(|error| error.reason)
    };
    let most = limits::OFFSETS_PER_GROUP_MAX as u32;
    assert_eq!(write(0..most), Ok(most));
    assert_eq!(write(most..most + 1), Err(Reason::InvalidRequest));
    assert_eq!(write(most - 1..most + 1), Err(Reason::InvalidRequest), "all or none");
    assert_eq!(write(0..10), Ok(10));
}

/// A group with one member whose target has `partitions`.
fn assign(world: &mut World, name: &str, partitions: u32) -> Reply {
    let spec = MemberSpec {
        instance_id: None,
        ..crate::golden::spec()
    };
    let member: Arc<str> = "m".into();
    let put = Command::PutMember {
        group: name.into(),
        member: member.clone(),
        replaces: None,
        version: 0,
        spec,
    };
    assert!(matches!(apply(world, &put), Reply::Applied { .. }));
    let target = Command::SetTarget {
        group: name.into(),
        epoch: Epoch(2),
        computed_at: world.log.len() as u64,
        topics: Arc::new([SubscribedTopic {
            id: TopicId::from_u128(9),
            name: "other".into(),
            partitions,
        }]),
        topics_version: 1,
        targets: vec![(member, (0..partitions).map(|at| partition(9, at)).collect())],
        remembers: true,
    };
    apply(world, &target)
}

#[test]
fn full_of_targets_it_says_so_once() {
    let mut world = World::new(vec![(1, "t", 1_000)]);
    for partitions in [100_000, 1_000, 10] {
        loop {
            let name = format!("full{}", world.log.len());
            if let Reply::Rejected(rejection) = assign(&mut world, &name, partitions) {
                assert_eq!(rejection.reason, Reason::TooManyGroups);
                break;
            }
        }
    }
    let mut clients = vec![Client::new("m", &["t"])];
    let mut said = Vec::new();
    for _ in 0..10 {
        let until = world.now_ms + 3_000;
        world.run(until, &mut clients);
        said.extend(world.leader.take_events());
    }
    assert!(
        matches!(&said[..], [Event::NoRoomForTarget { group, .. }] if &**group == GROUP),
        "{said:?}"
    );
    assert_eq!(world.image.state(GROUP), GroupState::Assigning);

    let large = world
        .image
        .groups()
        .map(|(name, _)| name.clone())
        .find(|name| **name != *GROUP);
    let name = large.expect("there are some");
    let version = world.image.group(&name).expect("it is there").members["m"].version;
    let remove = Command::RemoveMembers {
        group: name,
        members: vec![("m".into(), version)],
        cause: jangada_coordinator::RemovalCause::Left,
        at_ms: 1,
    };
    assert!(matches!(apply(&mut world, &remove), Reply::Applied { .. }));
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [1_000]);
    assert_eq!(world.leader.take_events(), []);
}

#[test]
fn topics_beyond_the_partitions_of_a_group_are_named_when_they_change() {
    let mut world = World::new(vec![(1, "b", 60_000), (2, "c", 60_000), (3, "d", 40_000)]);
    let mut clients = vec![Client {
        subscription: Subscription::new([], Some(".*")),
        ..Client::new("m", &[])
    }];
    let left_out = |world: &mut World| {
        let events = world.leader.take_events().into_iter();
        let names = events.map(|event| match event {
            Event::TopicsLeftOut { group, topics } if &*group == GROUP => {
                topics.iter().map(|name| name.to_string()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        });
        names.collect::<Vec<_>>()
    };
    world.run(5_000, &mut clients);
    assert_eq!(
        (left_out(&mut world), counts(&clients)),
        (vec![vec!["c".to_owned()]], vec![100_000])
    );
    let mut step = |topics| {
        world.set_topics(topics);
        let until = world.now_ms + 10_000;
        world.run(until, &mut clients);
        (left_out(&mut world), counts(&clients)[0])
    };
    // A new topic pushes others out.
    let all = vec![(4, "a", 1), (1, "b", 60_000), (2, "c", 60_000), (3, "d", 40_000)];
    assert_eq!(step(all), (vec![vec!["c".to_owned(), "d".to_owned()]], 60_001));
    assert_eq!(step(vec![(4, "a", 1), (2, "c", 60_000)]), (vec![], 60_001));
    let again = vec![(4, "a", 1), (1, "b", 60_000), (2, "c", 60_000)];
    assert_eq!(step(again), (vec![vec!["c".to_owned()]], 60_001));
}
