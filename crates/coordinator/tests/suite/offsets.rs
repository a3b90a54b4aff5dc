//! Committed offsets: who may commit, which offsets stay, which are deleted.

use jangada_coordinator::{Answer, CommitRequest, GroupState, PartitionSet, limits};
use jangada_types::Reason;

use crate::fixture::{Client, GROUP, World, commit, partition, settled};

#[test]
fn a_commit_is_all_or_nothing() {
    let (mut world, clients) = settled(2, vec![(1, "t", 4)]);
    let mine = clients[0].owned.iter().next().expect("it owns some");
    let other = clients[1].owned.iter().next().expect("it owns some");
    let member = Some((clients[0].id.clone(), clients[0].epoch));
    let mut request = CommitRequest {
        group: GROUP.into(),
        member,
        offsets: vec![commit(mine, 5), commit(other, 5)],
    };
    let at = world.now();
    let step = world.leader.commit(&world.image, request.clone(), at);
    assert_eq!(world.finish(step).unwrap_err().reason, Reason::PartitionNotOwned);
    assert!(world.group().offsets.is_empty());
    request.offsets.pop();
    let step = world.leader.commit(&world.image, request, at);
    assert_eq!(world.finish(step), Ok(Answer::Committed));
    assert_eq!(world.group().offsets[&mine].offset.get(), 5);
}

#[test]
fn only_the_current_epoch_commits() {
    let (mut world, clients) = settled(1, vec![(1, "t", 1)]);
    let (id, epoch) = (&clients[0].id, clients[0].epoch);
    for wrong in [epoch - 1, epoch + 1, 0, -1, i64::MAX] {
        let error = world.commit(Some((id, wrong)), partition(1, 0), 1).unwrap_err();
        assert_eq!(error.reason, Reason::StaleMemberEpoch, "epoch {wrong}");
    }
    world
        .commit(Some((id, epoch)), partition(1, 0), 1)
        .expect("the current one");
}

#[test]
fn from_outside_only_while_nobody_is_in_the_group() {
    let mut world = World::new(vec![(1, "t", 1)]);
    world.commit(None, partition(1, 0), 3).expect("the group is made");
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
    let mut client = Client::new("m", &["t"]);
    client.beat(&mut world);
    let error = world.commit(None, partition(1, 0), 4).unwrap_err();
    assert_eq!(error.reason, Reason::GroupNotEmpty);
    client.leave(&mut world, -1);
    world
        .commit(None, partition(1, 0), 4)
        .expect("the group is empty again");
    assert_eq!(world.group().offsets[&partition(1, 0)].offset.get(), 4);
}

#[test]
fn what_is_gone_is_refused_and_forgotten() {
    let mut world = World::new(vec![(1, "t", 1), (2, "u", 1)]);
    world.commit(None, partition(1, 0), 3).expect("it exists");
    world.commit(None, partition(2, 0), 3).expect("it exists");
    assert_eq!(
        world.commit(None, partition(1, 1), 3).unwrap_err().reason,
        Reason::UnknownPartition
    );
    world.set_topics(vec![(2, "u", 1)]);
    assert_eq!(
        world.commit(None, partition(1, 0), 4).unwrap_err().reason,
        Reason::UnknownTopic
    );
    world.tick();
    assert_eq!(
        world.group().offsets.keys().copied().collect::<Vec<_>>(),
        [partition(2, 0)]
    );
}

#[test]
fn a_commit_that_is_applied_after_its_topic_is_gone_leaves_nothing() {
    for is_first in [false, true] {
        let mut world = World::new(vec![(1, "t", 1), (2, "u", 1)]);
        if !is_first {
            world.commit(None, partition(1, 0), 3).expect("it exists");
        }
        let request = CommitRequest {
            group: GROUP.into(),
            member: None,
            offsets: vec![commit(partition(1, 0), 4), commit(partition(2, 0), 4)],
        };
        let at = world.now();
        let step = world.leader.commit(&world.image, request, at);
        world.set_topics(vec![(2, "u", 1)]);
        world.tick();
        assert!(world.image.group(GROUP).is_none_or(|group| group.offsets.is_empty()));
        assert_eq!(world.finish(step), Ok(Answer::Committed));
        let until = world.now_ms + 3_000;
        world.run(until, &mut []);
        let left: Vec<_> = world.group().offsets.keys().copied().collect();
        assert_eq!(left, [partition(2, 0)], "it made the group: {is_first}");
    }
}

#[test]
fn a_leader_that_lags_deletes_nothing() {
    let mut world = World::new(vec![]);
    world.set_topics(vec![(1, "t", 1)]);
    world.commit(None, partition(1, 0), 3).expect("it exists");
    // The next leader's broker has not heard of the topic yet.
    world.topics = crate::fixture::table(1, vec![]);
    world.fail_over();
    world.now_ms += 10_000;
    world.tick();
    assert_eq!(world.group().offsets.len(), 1);
    assert_eq!(
        world.commit(None, partition(1, 0), 4).unwrap_err().reason,
        Reason::NotReady
    );
    world.topics = crate::fixture::table(1, vec![]);
    world.set_topics(vec![(1, "t", 1)]);
    world.commit(None, partition(1, 0), 4).expect("now it has");
}

#[test]
fn an_empty_group_expires_after_the_retention() {
    let mut world = World::new(vec![(1, "t", 1)]);
    world.commit(None, partition(1, 0), 3).expect("the group is made");
    let retention = world.config.offsets_retention_ms;
    world.run(retention - 1, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
    world.run(retention + 1, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Dead);
}

const HOUR_MS: u64 = 60 * 60 * 1_000;

#[test]
fn a_new_leader_whose_clock_is_ahead_expires_only_what_it_saw_empty() {
    let mut world = World::new(vec![(1, "t", 1)]);
    world.commit(None, partition(1, 0), 3).expect("the group is made");
    world.set_wall_ahead(8 * 24 * HOUR_MS);
    world.fail_over();
    world.run(HOUR_MS - 1, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
    world.run(HOUR_MS + 1, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Dead);
}

#[test]
fn a_clock_that_steps_expires_nothing_for_an_hour() {
    let mut world = World::new(vec![(1, "t", 1)]);
    world.commit(None, partition(1, 0), 3).expect("the group is made");
    world.run(2 * HOUR_MS - 2, &mut []);
    world.set_wall_ahead(8 * 24 * HOUR_MS);
    world.tick();
    world.run(3 * HOUR_MS - 3, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
    // The wrong clock was noticed, and corrected.
    world.set_wall_ahead(0);
    world.run(30 * HOUR_MS, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
}

#[test]
fn a_clock_that_was_ahead_keeps_no_group_for_ever() {
    let mut world = World::new(vec![(1, "t", 1)]);
    world.set_wall_ahead(100 * 365 * 24 * HOUR_MS);
    world.commit(None, partition(1, 0), 3).expect("the group is made");
    let stamp = world.group().empty_since_ms;
    world.set_wall_ahead(0);
    world.fail_over();
    world.run(24 * HOUR_MS, &mut []);
    world.commit(None, partition(1, 0), 4).expect("the group is empty");
    assert!(world.group().empty_since_ms > stamp, "it never goes back");
    let retention = world.config.offsets_retention_ms;
    world.run(24 * HOUR_MS + retention - 1, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
    world.run(24 * HOUR_MS + retention, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Dead);
}

#[test]
fn an_empty_group_without_offsets_goes_sooner() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 1)]);
    clients[0].leave(&mut world, -1);
    let left = world.now_ms;
    world.run(left + limits::EMPTY_GROUP_MS - 1, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
    world.run(left + limits::EMPTY_GROUP_MS, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Dead);
}

#[test]
fn a_group_with_members_is_not_deleted() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 1)]);
    let at = world.now();
    world
        .commit(Some((&clients[0].id, clients[0].epoch)), partition(1, 0), 3)
        .expect("it owns it");
    let all: PartitionSet = [partition(1, 0)].into_iter().collect();
    let step = world.leader.delete_group(&world.image, GROUP.into(), at);
    assert_eq!(world.finish(step).unwrap_err().reason, Reason::GroupNotEmpty);
    let step = world.leader.delete_offsets(&world.image, GROUP.into(), all.clone(), at);
    assert_eq!(world.finish(step).unwrap_err().reason, Reason::GroupNotEmpty);
    clients[0].leave(&mut world, -1);
    let step = world.leader.delete_offsets(&world.image, GROUP.into(), all, at);
    assert_eq!(world.finish(step), Ok(Answer::Deleted { count: 1 }));
    let step = world.leader.delete_group(&world.image, GROUP.into(), at);
    assert_eq!(world.finish(step), Ok(Answer::Deleted { count: 1 }));
    let step = world.leader.delete_group(&world.image, GROUP.into(), at);
    assert_eq!(world.finish(step).unwrap_err().reason, Reason::UnknownGroup);
}
