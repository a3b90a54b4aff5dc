//! Any history of transactional ids, partitions, groups and clients, with leaders that change, messages that are lost, late or come twice,
//! processes that die, sleep or are replaced, and the anomalies that must not be in it. `TXN_HISTORIES` says how many, `TXN_SEED` which
//! one.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use crate::model::Bug;
use crate::model::world::{Plan, World};

fn histories() -> u64 {
    let asked = std::env::var("TXN_HISTORIES").ok();
    asked.map_or(300, |asked| asked.parse().expect("TXN_HISTORIES is a number"))
}

/// Which histories: `TXN_SEED` names one of them.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var("TXN_SEED").ok() {
        Some(seed) => {
            let seed = seed.parse().expect("TXN_SEED is a number");
            seed..seed + 1
        }
        None => 0..histories(),
    }
}

fn plan(seed: u64, bug: Option<Bug>) -> Plan {
    Plan {
        seed,
        bug,
        is_old: seed % 4 == 3,
        is_nearly_used_up: seed % 8 == 5,
        deletes: seed % 8 == 6,
        compacts: seed % 3 == 1,
        trims: seed % 6 >= 4,
        begins_at_once: seed % 5 != 2,
        length_ms: 20_000,
    }
}

/// What happened in histories.
type Counts = BTreeMap<&'static str, u64>;

/// What is wrong with a history.
fn history(plan: Plan, counts: &mut Counts) -> Result<(), String> {
    let run = AssertUnwindSafe(|| {
        let mut world = World::new(plan);
        let judged = world.run();
        for (what, count) in &world.shard.effects {
            *counts.entry(what).or_default() += count;
        }
        *counts.entry("operations").or_default() += world.checker.operations;
        let reads = world.checker.transactions.iter().map(|it| it.reads.len() as u64);
        *counts.entry("read").or_default() += reads.sum::<u64>();
        for partition in &world.partitions {
            *counts.entry("compacted").or_default() += partition.taken();
            *counts.entry("trimmed").or_default() += partition.state().log_start().get().unsigned_abs();
            *counts.entry("horizon").or_default() += partition.state().clean_horizon().get().unsigned_abs();
        }
        judged
    });
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "a panic".to_owned()))
    })
}

#[test]
fn no_history_has_an_anomaly() {
    let mut counts = Counts::new();
    for seed in seeds() {
        let judged = history(plan(seed, None), &mut counts);
        assert_eq!(judged, Ok(()), "TXN_SEED={seed}, after {counts:?}");
    }
    println!("without an anomaly: {counts:?}");
    if seeds().count() >= 100 {
        // Whatever may happen has happened.
        for what in [
            "Create",
            "Init",
            "Add",
            "Begin",
            "Complete",
            "Expire",
            "committed",
            "aborted",
            "fenced",
            "timed out",
            "read",
            "compacted",
            "trimmed",
            "horizon",
        ] {
            assert!(
                counts.get(what).is_some_and(|count| *count > 100),
                "{what} is too rare: {counts:?}"
            );
        }
    }
}

/// The checker finds each bug that was once in a system with transactions, when it is planted in the model.
#[test]
fn every_planted_bug_is_found() {
    let mut counts = Counts::new();
    let mut not_found = Vec::new();
    for bug in Bug::ALL {
        let found = (0..300).find_map(|seed| {
            let judged = history(plan(seed, Some(bug)), &mut counts);
            judged.err().map(|what| (seed, what))
        });
        match found {
            Some((seed, what)) => println!("{bug:?}: history {seed}: {what}"),
            None => not_found.push(bug),
        }
    }
    assert_eq!(not_found, []);
}

/// Readers that see what is not decided let transactions read from each other in a circle, which is seen also where nothing was aborted.
#[test]
fn transactions_that_read_up_to_the_high_watermark_are_found_in_circles() {
    let found = (0..300).find_map(|seed| {
        let mut world = World::new(plan(seed, Some(Bug::LsoFromHighWatermark)));
        // It has aborted reads as well, which say nothing of circles.
        let _ = world.run();
        let history = world.checker.history(world.log());
        let there = history.log.values().flatten().map(|(_, value)| *value).collect();
        history.cycle(&there).err().map(|cycle| (seed, cycle))
    });
    let (seed, cycle) = found.expect("some read from each other");
    println!("history {seed}: {cycle}");
}
