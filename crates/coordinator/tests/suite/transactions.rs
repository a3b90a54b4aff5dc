//! Offsets that are part of a transaction: staged, then committed or dropped at the place of its end.

use jangada_coordinator::{
    Answer, Command, Epoch, GroupState, OffsetCommit, PartitionSet, Reply, limits, require_stable,
};
use jangada_types::Reason;

use crate::fixture::{GROUP, World, commit, partition, settled, stage, transaction};

#[test]
fn a_transaction_commits_its_offsets_when_it_ends_and_not_before() {
    let (mut world, clients) = settled(1, vec![(1, "t", 2)]);
    let me = Some((&*clients[0].id, clients[0].epoch));
    let (first, second) = (partition(1, 0), partition(1, 1));
    world.commit(me, first, 3).expect("it owns it");
    for (at, offset) in [(first, 7), (second, 9)] {
        let staged = world.stage(me, transaction(5, 0, 1), at, offset);
        assert_eq!(staged, Ok(Answer::Staged));
    }
    assert_eq!((world.committed(first), world.committed(second)), (Some(3), None));
    // Its end has the epoch after that of the transaction, as with every transaction that has an epoch of its own.
    world.now_ms += 100;
    assert_eq!(world.end(transaction(5, 1, 1), true), Ok(Answer::Ended));
    assert_eq!((world.committed(first), world.committed(second)), (Some(7), Some(9)));
    let wall_ms = world.now().wall_ms;
    assert_eq!(
        world.group().offsets[&first].committed_at_ms,
        wall_ms,
        "that of the end"
    );
    assert!(world.group().pending.is_empty());
}

#[test]
fn an_aborted_transaction_leaves_no_offset() {
    let mut world = World::new(vec![(1, "t", 2)]);
    world.commit(None, partition(1, 0), 3).expect("nobody is in the group");
    for at in 0..2 {
        world
            .stage(None, transaction(5, 0, 1), partition(1, at), 8)
            .expect("it may");
    }
    world.end(transaction(5, 1, 1), false).expect("it is open");
    assert_eq!(
        (world.committed(partition(1, 0)), world.committed(partition(1, 1))),
        (Some(3), None)
    );
    assert_eq!(world.image.size().offsets, 72, "the room of one offset");
}

/// Offsets take the place of the end in the order of commits, not that of the staging (redpanda#31483).
#[test]
fn of_a_commit_between_staging_and_end_the_end_is_the_later_one() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let at = partition(1, 0);
    world.stage(None, transaction(5, 0, 1), at, 10).expect("it may");
    world.commit(None, at, 4).expect("nobody is in the group");
    assert_eq!(world.committed(at), Some(4));
    world.end(transaction(5, 1, 1), true).expect("it is open");
    assert_eq!(world.committed(at), Some(10));

    // Of two transactions the one that ends last has the word, whichever staged first.
    world.stage(None, transaction(5, 1, 2), at, 20).expect("it may");
    world.stage(None, transaction(6, 0, 1), at, 30).expect("it may");
    world.end(transaction(6, 1, 1), true).expect("it is open");
    world.end(transaction(5, 2, 2), true).expect("it is open");
    assert_eq!(world.committed(at), Some(20));
}

#[test]
fn who_stages_is_judged_as_who_commits() {
    let (mut world, clients) = settled(2, vec![(1, "t", 2)]);
    let (id, epoch) = (&*clients[0].id, clients[0].epoch);
    let mine = clients[0].owned.iter().next().expect("it owns one");
    let other = clients[1].owned.iter().next().expect("it owns one");
    let reason = |world: &mut World, who, at| world.stage(who, transaction(5, 0, 1), at, 1).unwrap_err().reason;
    assert_eq!(
        reason(&mut world, Some((id, epoch - 1)), mine),
        Reason::StaleMemberEpoch
    );
    assert_eq!(reason(&mut world, Some(("nobody", epoch)), mine), Reason::UnknownMember);
    assert_eq!(reason(&mut world, Some((id, epoch)), other), Reason::PartitionNotOwned);
    assert_eq!(reason(&mut world, None, mine), Reason::GroupNotEmpty);
    assert_eq!(
        reason(&mut world, Some((id, epoch)), partition(9, 0)),
        Reason::UnknownTopic
    );
    assert!(world.group().pending.is_empty());

    // A member that was thrown out after staging changes nothing of the transaction, which then ends.
    world
        .stage(Some((id, epoch)), transaction(5, 0, 1), mine, 6)
        .expect("it owns it");
    let mut gone = clients[0].clone();
    gone.leave(&mut world, -1);
    world.end(transaction(5, 1, 1), true).expect("it is open");
    assert_eq!(world.committed(mine), Some(6));
}

#[test]
fn the_same_staging_again_has_the_same_effect_and_another_offset_replaces_it() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let at = partition(1, 0);
    let mut sizes = Vec::new();
    for offset in [5, 5, 6] {
        world.stage(None, transaction(5, 0, 1), at, offset).expect("it may");
        sizes.push(world.image.size());
    }
    assert!(sizes.windows(2).all(|pair| pair[0] == pair[1]));
    world.end(transaction(5, 1, 1), true).expect("it is open");
    assert_eq!(world.committed(at), Some(6));
}

#[test]
fn an_end_that_comes_again_has_no_effect() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let at = partition(1, 0);
    world.stage(None, transaction(5, 0, 1), at, 5).expect("it may");
    world.end(transaction(5, 1, 1), true).expect("it is open");
    world.stage(None, transaction(5, 1, 2), at, 6).expect("it may");
    let commands = world.log.len();
    // Of the transaction before, in either direction: it is over.
    for is_commit in [true, false] {
        assert_eq!(world.end(transaction(5, 1, 1), is_commit), Ok(Answer::Ended));
    }
    assert_eq!(world.log.len(), commands, "nothing was proposed");
    assert_eq!((world.committed(at), world.group().pending.len()), (Some(5), 1));
    // Neither if it was under way already when the first was applied.
    let again = Command::EndStaged {
        group: GROUP.into(),
        transaction: transaction(5, 1, 1),
        is_commit: false,
        at_ms: 1,
    };
    assert_eq!(world.apply(&again).into_result(), Ok(0));
    assert_eq!((world.committed(at), world.group().pending.len()), (Some(5), 1));
    world.end(transaction(5, 2, 2), true).expect("it is open");
    assert_eq!(world.committed(at), Some(6));
}

/// What is staged after the end would wait for ever for another end.
#[test]
fn what_is_staged_after_the_end_is_refused() {
    for is_there in [true, false] {
        let mut world = World::new(vec![(1, "t", 2)]);
        if is_there {
            world
                .stage(None, transaction(5, 3, 1), partition(1, 0), 5)
                .expect("it may");
        }
        // With the epoch unchanged, as for a client of Kafka's older protocol, the number tells.
        world.end(transaction(5, 3, 1), true).expect("it is acknowledged");
        let late = world.stage(None, transaction(5, 3, 1), partition(1, 1), 6).unwrap_err();
        assert_eq!(late.reason, Reason::InvalidTransactionState);
        world.end(transaction(5, 4, 2), false).expect("it is acknowledged");
        let late = world.stage(None, transaction(5, 3, 2), partition(1, 1), 6).unwrap_err();
        assert_eq!(
            late.reason,
            Reason::ProducerFenced,
            "the end gave the producer another epoch"
        );
        assert!(world.image.group(GROUP).is_none_or(|group| group.pending.is_empty()));
        world
            .stage(None, transaction(5, 4, 3), partition(1, 1), 7)
            .expect("it is the next one");
    }
}

#[test]
fn a_staging_of_an_older_epoch_or_transaction_is_refused() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let at = partition(1, 0);
    world.stage(None, transaction(5, 3, 7), at, 5).expect("it may");
    let reason = |world: &mut World, which| world.stage(None, which, at, 9).unwrap_err().reason;
    assert_eq!(reason(&mut world, transaction(5, 2, 7)), Reason::ProducerFenced);
    assert_eq!(
        reason(&mut world, transaction(5, 3, 6)),
        Reason::InvalidTransactionState
    );
    assert_eq!(
        reason(&mut world, transaction(5, 4, 7)),
        Reason::InvalidTransactionState
    );
    // The coordinator lets no transaction begin before the end of the last one has come to all groups of it.
    assert_eq!(reason(&mut world, transaction(5, 4, 8)), Reason::ConcurrentTransactions);
    assert_eq!(
        world.end(transaction(5, 2, 7), true).unwrap_err().reason,
        Reason::ProducerFenced
    );
    world.end(transaction(5, 4, 7), true).expect("it is open");
    assert_eq!(world.committed(at), Some(5));
}

#[test]
fn readers_that_ask_for_stable_offsets_wait_for_the_end() {
    let mut world = World::new(vec![(1, "t", 2)]);
    let (staged, other) = (partition(1, 0), partition(1, 1));
    world.stage(None, transaction(5, 0, 1), staged, 5).expect("it may");
    let read = |world: &World, partitions: &[_]| require_stable(GROUP, world.group(), partitions).map_err(|e| e.reason);
    assert_eq!(read(&world, &[other]), Ok(()));
    for partitions in [&[other, staged][..], &[]] {
        assert_eq!(read(&world, partitions), Err(Reason::UnstableOffsets));
    }
    world.end(transaction(5, 1, 1), false).expect("it is open");
    assert_eq!(read(&world, &[]), Ok(()));
}

#[test]
fn a_group_with_an_open_transaction_is_not_deleted() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let at = world.now();
    world
        .stage(None, transaction(5, 0, 1), partition(1, 0), 5)
        .expect("it may");
    let stamp = world.group().empty_since_ms.expect("it is empty");
    let all: PartitionSet = [partition(1, 0)].into_iter().collect();
    let step = world.leader.delete_group(&world.image, GROUP.into(), at);
    assert_eq!(world.finish(step).unwrap_err().reason, Reason::UnstableOffsets);
    let step = world.leader.delete_offsets(&world.image, GROUP.into(), all.clone(), at);
    assert_eq!(world.finish(step).unwrap_err().reason, Reason::UnstableOffsets);
    // Nor by what was decided before the staging.
    let decided = [
        Command::DeleteGroup { group: GROUP.into() },
        Command::DeleteOffsets {
            group: GROUP.into(),
            partitions: all,
        },
        Command::ExpireGroup {
            group: GROUP.into(),
            empty_since_ms: stamp,
        },
    ];
    for command in &decided {
        let refused = world.apply(command).into_result().unwrap_err();
        assert_eq!(refused.reason, Reason::UnstableOffsets);
    }
    let retention = world.config.offsets_retention_ms;
    world.run(3 * retention, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty, "it outlasts its retention");
    world.end(transaction(5, 1, 1), true).expect("it is open");
    assert!(
        matches!(world.apply(&decided[2]), Reply::Rejected(_)),
        "the end is a commit"
    );
    // From the end on it is kept as any group.
    let until = world.now_ms + retention;
    world.run(until - 1, &mut []);
    assert_eq!(world.committed(partition(1, 0)), Some(5));
    world.run(until + limits::SEEN_EMPTY_MS, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Dead);
}

#[test]
fn a_new_leader_keeps_a_group_with_an_open_transaction() {
    let mut world = World::new(vec![(1, "t", 1)]);
    world
        .stage(None, transaction(5, 0, 1), partition(1, 0), 5)
        .expect("it may");
    world.run(world.config.offsets_retention_ms + 1, &mut []);
    world.fail_over();
    world.run(world.now_ms + 2 * world.config.offsets_retention_ms, &mut []);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
    world.end(transaction(5, 1, 1), false).expect("it is open");
    world.run(world.now_ms + world.config.offsets_retention_ms, &mut []);
    assert_eq!(
        world.image.state(GROUP),
        GroupState::Dead,
        "an aborted one leaves an empty group"
    );
}

#[test]
fn what_was_staged_of_a_topic_that_is_gone_is_forgotten() {
    let mut world = World::new(vec![(1, "t", 1), (2, "u", 1)]);
    for topic in [1, 2] {
        world
            .stage(None, transaction(5, 0, 1), partition(topic, 0), 5)
            .expect("it may");
    }
    world
        .stage(None, transaction(6, 0, 1), partition(1, 0), 5)
        .expect("it may");
    world.set_topics(vec![(2, "u", 1)]);
    world.tick();
    let left: Vec<_> = world
        .group()
        .pending
        .iter()
        .map(|(id, pending)| (id.get(), pending.offsets.len()))
        .collect();
    assert_eq!(left, [(5, 1)], "a transaction that has nothing more is not pending");
    for producer in [5, 6] {
        world
            .end(transaction(producer, 1, 1), true)
            .expect("it is acknowledged");
    }
    assert_eq!(
        world.group().offsets.keys().copied().collect::<Vec<_>>(),
        [partition(2, 0)]
    );
}

#[test]
fn a_staging_that_is_applied_after_its_topic_is_gone_leaves_nothing() {
    let mut world = World::new(vec![(1, "t", 1), (2, "u", 1)]);
    let at = world.now();
    let offsets = vec![commit(partition(1, 0), 4), commit(partition(2, 0), 4)];
    let request = stage(None, transaction(5, 0, 1), offsets);
    let step = world.leader.stage_offsets(&world.image, request, at);
    world.set_topics(vec![(2, "u", 1)]);
    world.tick();
    assert_eq!(world.finish(step), Ok(Answer::Staged));
    world.end(transaction(5, 1, 1), true).expect("it is open");
    let until = world.now_ms + 3_000;
    world.run(until, &mut []);
    assert_eq!(
        world.group().offsets.keys().copied().collect::<Vec<_>>(),
        [partition(2, 0)]
    );
}

/// A group that reads a topic again finds partitions that were added meanwhile, if it had offsets of the topic, also only staged.
#[test]
fn a_topic_of_which_offsets_are_staged_is_remembered() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 1)]);
    let me = (clients[0].id.clone(), clients[0].epoch);
    world
        .stage(Some((&me.0, me.1)), transaction(5, 0, 1), partition(1, 0), 5)
        .expect("it owns it");
    clients[0].leave(&mut world, -1);
    assert!(world.group().is_added(partition(1, 1)));
    let restored = jangada_coordinator::Image::restore(&world.image.snapshot());
    assert_eq!(restored.as_ref(), Ok(&world.image));
    world.end(transaction(5, 1, 1), false).expect("it is open");
    assert!(
        !world.group().is_added(partition(1, 1)),
        "it has nothing of the topic any more"
    );
}

/// Applies a command without the fixture, which checks the whole state after each.
fn apply(world: &mut World, command: &Command) -> Reply {
    world.log.push(Command::DeleteGroup { group: "none".into() });
    world.image.apply(world.log.len() as u64, command)
}

fn staging(group: &str, producer: i64, partitions: std::ops::Range<u32>, text_bytes: usize) -> Command {
    let text = "x".repeat(text_bytes);
    let offsets = partitions.map(|at| OffsetCommit {
        metadata: text.as_str().into(),
        ..commit(partition(1, at), 1)
    });
    Command::StageOffsets {
        group: group.into(),
        member: None,
        transaction: transaction(producer, 0, 1),
        offsets: offsets.collect(),
        at_ms: 1,
        topics_version: 1,
    }
}

fn ending(group: &str, producer: i64) -> Command {
    Command::EndStaged {
        group: group.into(),
        transaction: transaction(producer, 1, 1),
        is_commit: true,
        at_ms: 2,
    }
}

fn committing(group: &str, partitions: std::ops::Range<u32>) -> Command {
    Command::CommitOffsets {
        group: group.into(),
        member: None,
        offsets: partitions.map(|at| commit(partition(1, at), 1)).collect(),
        at_ms: 1,
        topics_version: 1,
    }
}

#[test]
fn full_of_offsets_every_transaction_ends() {
    let mut world = World::new(vec![(1, "t", 10_000)]);
    let mut staged = Vec::new();
    for (partitions, text_bytes) in [(250, 4_000), (10, 4_000), (1, 4_000), (1, 100), (1, 0)] {
        loop {
            let group = format!("g{}", staged.len());
            match apply(&mut world, &staging(&group, 5, 0..partitions, text_bytes)) {
                Reply::Applied { .. } => staged.push((group, partitions)),
                Reply::Rejected(rejection) => {
                    assert_eq!(rejection.reason, Reason::TooManyGroups);
                    break;
                }
            }
        }
    }
    assert!(staged.len() > 200);
    // Neither a commit nor a new transaction, and the same offsets again are taken.
    assert!(matches!(
        apply(&mut world, &committing("more", 0..1)),
        Reply::Rejected(_)
    ));
    assert!(matches!(
        apply(&mut world, &staging("g0", 5, 0..250, 4_000)),
        Reply::Applied { .. }
    ));
    let full = world.image.size().offsets;
    assert!(full <= limits::OFFSETS_BYTES_MAX);
    for (group, partitions) in staged {
        let reply = apply(&mut world, &ending(&group, 5));
        assert_eq!(reply.into_result(), Ok(partitions), "the end of {group}");
    }
    assert!(world.image.size().offsets < full);
    world.image.check().expect("the state is sound");
}

#[test]
fn a_group_has_room_for_what_its_transactions_commit() {
    const MAX: u32 = limits::OFFSETS_PER_GROUP_MAX as u32;
    let mut world = World::new(vec![(1, "t", MAX + 1)]);
    let refused = |reply: Reply| reply.into_result().map_err(|rejection| rejection.reason);
    assert_eq!(refused(apply(&mut world, &committing("g", 0..MAX - 10))), Ok(MAX - 10));
    assert_eq!(
        refused(apply(&mut world, &staging("g", 5, MAX - 10..MAX - 1, 0))),
        Ok(9)
    );
    // Of partitions that have offsets, or are staged by another transaction, it needs no more places.
    assert_eq!(refused(apply(&mut world, &staging("g", 6, 0..20, 0))), Ok(20));
    assert_eq!(
        refused(apply(&mut world, &staging("g", 7, MAX - 10..MAX - 5, 0))),
        Ok(5)
    );
    assert_eq!(refused(apply(&mut world, &committing("g", MAX..MAX + 1))), Ok(1));
    for command in [committing("g", MAX - 1..MAX), staging("g", 8, MAX - 1..MAX, 0)] {
        assert_eq!(refused(apply(&mut world, &command)), Err(Reason::InvalidRequest));
    }
    for (producer, count) in [(7, 5), (6, 20), (5, 9)] {
        assert_eq!(refused(apply(&mut world, &ending("g", producer))), Ok(count));
    }
    let group = world.image.group("g").expect("it is there");
    assert_eq!(
        (group.offsets.len(), group.epoch),
        (limits::OFFSETS_PER_GROUP_MAX, Epoch::FIRST)
    );
    world.image.check().expect("the state is sound");
}

#[test]
fn the_ends_that_are_remembered_are_bounded() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let count = limits::ENDED_PRODUCERS_MAX as i64;
    for producer in 0..=count {
        assert_eq!(apply(&mut world, &ending("none", producer)).into_result(), Ok(0));
    }
    assert_eq!(world.image.size().others, 48 * count as u64);
    world.image.check().expect("the state is sound");
    // The oldest is forgotten.
    for (producer, is_taken) in [(0, true), (1, false), (count, false)] {
        let reply = apply(&mut world, &staging("g", producer, 0..1, 0));
        assert_eq!(
            matches!(reply, Reply::Applied { .. }),
            is_taken,
            "producer {producer}: {reply:?}"
        );
    }
    let restored = jangada_coordinator::Image::restore(&world.image.snapshot()).expect("it is sound");
    assert_eq!(restored, world.image);
}
