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
            "Complete",
            "Expire",
            "committed",
            "aborted",
            "fenced",
            "timed out",
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
    for bug in Bug::ALL {
        let found = (0..300).find_map(|seed| {
            let judged = history(plan(seed, Some(bug)), &mut counts);
            judged.err().map(|what| (seed, what))
        });
        let (seed, what) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: history {seed}: {what}");
    }
}
