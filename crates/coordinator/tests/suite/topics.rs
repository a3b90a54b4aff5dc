//! Topics that appear, grow, disappear and appear again.

use std::sync::Arc;

use jangada_coordinator::{Image, Subscription};
use jangada_types::TopicId;

use crate::fixture::{Client, World, counts, partition, settled, table};

#[test]
fn partitions_that_are_added_are_shared_out() {
    let (mut world, mut clients) = settled(2, vec![(1, "t", 2)]);
    world.set_topics(vec![(1, "t", 6)]);
    let until = world.now_ms + 10_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [3, 3]);
}

/// The partitions of topic 1 that a group counts as added.
fn added(world: &World, partitions: u32) -> Vec<u32> {
    let is_added = |index: &u32| world.group().is_added(partition(1, *index));
    (0..partitions).filter(is_added).collect()
}

#[test]
fn partitions_that_came_after_the_group_are_known_as_added_also_when_it_has_no_members_then() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    assert_eq!(added(&world, 4), [2, 3], "two were there when it began");
    let member = Some((&*clients[0].id, clients[0].epoch));
    world.commit(member, partition(1, 0), 5).expect("it is its own");
    clients[0].leave(&mut world, -1);
    world.set_topics(vec![(1, "t", 4)]);
    let mut next = vec![Client::new("next", &["t"])];
    let until = world.now_ms + 10_000;
    world.run(until, &mut next);
    assert_eq!(counts(&next), [4]);
    assert_eq!(added(&world, 4), [2, 3]);
    world.image = Image::restore(&world.image.snapshot()).expect("a snapshot can be read");
    assert_eq!(added(&world, 4), [2, 3], "a snapshot has it, too");
}

#[test]
fn of_a_topic_that_came_after_its_subscriber_all_partitions_are_added() {
    let mut world = World::new(vec![]);
    let mut clients = vec![Client::new("m", &["t"])];
    world.run(5_000, &mut clients);
    world.set_topics(vec![(1, "t", 3)]);
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(added(&world, 3), [0, 1, 2]);
}

#[test]
fn a_group_without_members_and_offsets_begins_anew() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    clients[0].leave(&mut world, -1);
    world.set_topics(vec![(1, "t", 4)]);
    let mut next = vec![Client::new("next", &["t"])];
    let until = world.now_ms + 10_000;
    world.run(until, &mut next);
    assert_eq!(added(&world, 4), Vec::<u32>::new());
}

#[test]
fn a_topic_that_was_created_again_is_another() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 1)]);
    world.set_topics(vec![(2, "t", 1)]);
    let until = world.now_ms + 10_000;
    world.run(until, &mut clients);
    assert_eq!(clients[0].owned.iter().collect::<Vec<_>>(), [partition(2, 0)]);
}

#[test]
fn a_topic_may_come_after_its_subscriber() {
    let mut world = World::new(vec![]);
    let mut clients = vec![Client::new("m", &["t"])];
    world.run(5_000, &mut clients);
    assert_eq!(counts(&clients), [0]);
    world.set_topics(vec![(1, "t", 3)]);
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [3]);
}

#[test]
fn a_pattern_follows_the_topics() {
    let mut world = World::new(vec![(1, "orders-a", 1), (2, "other", 1), (3, "my-orders-a", 1)]);
    let mut clients = vec![Client {
        subscription: Subscription::new([], Some("orders-.*")),
        ..Client::new("m", &[])
    }];
    world.run(5_000, &mut clients);
    assert_eq!(clients[0].owned.iter().collect::<Vec<_>>(), [partition(1, 0)]);
    world.set_topics(vec![(1, "orders-a", 1), (2, "other", 1), (4, "orders-b", 1)]);
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(
        clients[0].owned.iter().collect::<Vec<_>>(),
        [partition(1, 0), partition(4, 0)]
    );
}

#[test]
fn what_changed_while_nobody_led_is_noticed() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 1)]);
    world.topics = table(9, vec![(1, "t", 2)]);
    world.fail_over();
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [2]);
}

#[test]
fn a_table_is_compared_with_the_topics_that_there_are() {
    let id = |id| TopicId::from_u128(id);
    let known = table(3, vec![(2, "a", 1), (1, "b", 2)]);
    assert!(known.is_all([(id(1), "b", 2), (id(2), "a", 1)]));
    assert!(!known.is_all([(id(1), "b", 3), (id(2), "a", 1)]));
    assert!(!known.is_all([(id(1), "b", 2)]));
    assert!(!known.is_all([(id(1), "b", 2), (id(3), "a", 1)]));
    assert!(!known.is_all([(id(1), "b", 2), (id(2), "a", 1), (id(3), "c", 1)]));
    let later = known.at_version(9);
    assert_eq!((later.version(), later.named("b")), (9, known.named("b")));
}

#[test]
fn a_version_without_other_topics_lets_a_leader_that_lagged_go_on() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 1)]);
    // The shard has seen version 9; the next leader's broker has an older one, with the topics of then.
    world.topics = Arc::new(table(1, vec![(1, "t", 2)]).at_version(9));
    world.fail_over();
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [2]);
    world.topics = table(5, vec![(1, "t", 1)]);
    world.fail_over();
    let until = world.now_ms + 5_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [2], "it knows less than the shard");
    for version in [8, 10] {
        world.topics = Arc::new(world.topics.at_version(version));
        let at = world.now();
        world.leader.topics_changed(&world.image, Arc::clone(&world.topics), at);
        let until = world.now_ms + 5_000;
        world.run(until, &mut clients);
        assert_eq!(counts(&clients), [if version < 9 { 2 } else { 1 }]);
    }
}

#[test]
fn a_changed_subscription_moves_only_what_it_must() {
    let mut world = World::new(vec![(1, "t", 4), (2, "u", 2)]);
    let mut clients = vec![Client::new("a", &["t"]), Client::new("b", &["t"])];
    world.run(10_000, &mut clients);
    let owned = clients[0].owned.clone();
    let request = jangada_coordinator::HeartbeatRequest {
        subscription: Some(Subscription::new(["t", "u"], None)),
        ..clients[1].request()
    };
    let answer = world.heartbeat(request);
    let at = world.now_ms;
    clients[1].take(answer, at);
    world.run(at + 10_000, &mut clients);
    assert!(owned.is_subset(&clients[0].owned));
    assert_eq!(counts(&clients), [3, 3]);
}
