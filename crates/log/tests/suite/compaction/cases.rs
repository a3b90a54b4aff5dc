//! Histories that were thought of, where chance would seldom go.

use jangada_log::compaction::{KeyMap, Pass};
use jangada_machine::EncodedCommand;
use jangada_types::Offset;

use super::{Op, ROOMY, TIGHT, World};
use crate::replicas::{PassOf, Replica};

fn pass(map_bytes: usize) -> PassOf {
    PassOf {
        map_bytes,
        rows_per_write: 100,
        crash_after: None,
        now_ms: 0,
    }
}

#[test]
fn a_map_that_is_too_small_cleans_step_by_step() {
    let mut world = World::new();
    for round in 0..40_u8 {
        let of: Vec<_> = (0..25).map(|nth| (nth + round % 3, false)).collect();
        world.put(&of, None, round % 5);
    }
    world.replicas[0].save();
    let (mut passes, end) = (
        0,
        world
            .original
            .rows
            .last_key_value()
            .expect("there are rows")
            .1
            .base_offset,
    );
    while world.replicas[0].cleaned_to() < end {
        world.replicas[0].clean(pass(TIGHT));
        world.check_replica(0);
        passes += 1;
        assert!(passes < 1_000, "it ends");
    }
    assert!(passes > 40 && world.replicas[0].cut_short >= 40, "{passes}");
    let left = world.replicas[0].records(Offset(0));
    assert_eq!(left.len(), 27 + 25, "the newest batch is left alone");
}

#[test]
fn what_is_left_of_a_hot_key_is_one_record_and_rows_of_nothing_are_merged() {
    let mut world = World::new();
    for _ in 0..500 {
        world.put(&[(1, false)], Some(0), 0);
    }
    world.replicas[0].save();
    world.replicas[0].clean(pass(ROOMY));
    world.check_replica(0);
    let replica = &world.replicas[0];
    assert_eq!(replica.records(Offset(0)).len(), 2);
    assert_eq!(replica.rows.len(), 2);
    let first = replica.rows.first_key_value().expect("there is one").1;
    assert_eq!((first.first_offset(), first.last_offset), (Offset(0), Offset(498)));
    let stored: usize = replica
        .log
        .iter()
        .map(|(_, entry)| entry.head().len() + entry.body().len())
        .sum();
    let original: usize = world
        .written
        .iter()
        .map(|(_, entry)| entry.head().len() + entry.body().len())
        .sum();
    assert!(stored < original / 2, "{stored} of {original} bytes");
    assert!(
        replica.log.iter().all(|(_, entry)| entry.head().len() < 72),
        "a stub is small"
    );
}

#[test]
fn behind_a_batch_that_cannot_be_read_nothing_counts_as_clean() {
    let mut world = World::new();
    for _ in 0..4 {
        world.put(&[(1, false)], None, 0);
    }
    let Replica { rows, log, .. } = &mut world.replicas[0];
    let mut body = log[1].1.body().to_vec();
    *body.last_mut().expect("it has a record") ^= 1;
    log[1].1 = EncodedCommand::new(log[1].1.head(), body.into());
    let mut pass = Pass::new(KeyMap::new(1, 10, ROOMY), Offset(3), Offset(0));
    let entries = || rows.values().zip(log.iter().map(|(_, command)| command.clone()));
    let learned = entries().map(|(row, command)| pass.learn_entry(row, command, Offset(0)).is_ok());
    assert_eq!(learned.collect::<Vec<_>>(), [true, false, true, true]);
    let cleaned = entries().take(3).map(|(row, command)| pass.clean(row, command).is_ok());
    assert_eq!(cleaned.collect::<Vec<_>>(), [true, false, true]);
    assert_eq!((pass.upto(), pass.whole_below()), (Offset(3), Offset(1)));
    assert_eq!(pass.tally().batches_emptied, 1, "the others are cleaned all the same");
    assert_eq!(pass.tally().gone_bytes, u64::from(rows[&Offset(0)].size_bytes));
}

/// A replica that gets what is left of the marker tells no reader that the transaction was aborted: the marker would never come.
#[test]
fn what_is_left_of_the_marker_of_an_aborted_transaction_names_none_to_readers() {
    let clean = |nth| Op::Clean(nth, false, 100, None);
    let mut world = World::new();
    world.run(&[
        Op::Transact(vec![(1, false)], 0, 0),
        Op::End(0, false),
        Op::Transact(vec![(2, false)], 0, 0),
        Op::End(0, true),
        Op::Put(vec![(3, false)], None, 0),
    ]);
    for _ in 0..2 {
        for nth in 0..3 {
            world.run(&[Op::Save(nth), clean(nth)]);
        }
        world.run(&[Op::Advance(2_000), Op::Horizon]);
    }
    let is_marker_gone = |replica: &Replica| replica.markers() == 1 && replica.aborted.is_empty();
    assert!(is_marker_gone(&world.replicas[0]), "that of the aborted one");
    world.run(&[Op::Replace(1)]);
    assert!(is_marker_gone(&world.replicas[1]));
    world.settle();
}

/// To move the horizon is worth a pass where a tombstone or a marker waits for it, and nowhere else.
#[test]
fn a_pass_says_what_waits_for_the_horizon() {
    let mut world = World::new();
    let mut waits_from = |ops: &[Op]| {
        world.run(ops);
        world.run(&[Op::Put(vec![(6, false)], None, 0), Op::Save(0)]);
        world.replicas[0].clean(pass(ROOMY));
        world.replicas[0].waits_from
    };
    assert_eq!(waits_from(&[Op::Put(vec![(1, false), (2, false)], None, 0)]), None);
    let deleted = [Op::Put(vec![(2, true), (1, true)], None, 0)];
    assert_eq!(waits_from(&deleted), Some(Offset(3)), "the first of the two");
    let superseded = [Op::Put(vec![(2, false)], None, 0)];
    assert_eq!(waits_from(&superseded), Some(Offset(4)), "the other one");
    let transaction = [
        Op::Put(vec![(1, false)], None, 0),
        Op::Transact(vec![(3, false)], 0, 0),
        Op::End(0, true),
    ];
    assert_eq!(waits_from(&transaction), None, "the marker has a record before it");
    let aborted = [Op::Transact(vec![(4, false)], 1, 0), Op::End(1, false)];
    assert_eq!(waits_from(&aborted), Some(Offset(13)), "its marker has none");
}

/// A replica that has the value of a key, and was away while the key was deleted, gets its deletion, however often the others have cleaned.
#[test]
fn a_tombstone_waits_for_a_replica_that_was_away_when_it_was_written() {
    let clean = |nth| Op::Clean(nth, false, 3, None);
    let mut world = World::new();
    world.run(&[
        Op::Put(vec![(1, false)], None, 0),
        Op::Away(2),
        Op::Put(vec![(1, true)], None, 0),
        Op::Put(vec![(2, false)], None, 0),
        Op::Save(0),
        Op::Save(1),
        clean(0),
        clean(1),
        Op::Advance(2_000),
        Op::Horizon,
        clean(0),
        clean(1),
        Op::Back(2),
        Op::Elect(2),
        Op::Read(10),
    ]);
    world.settle();
}
