//! The same seeds on RocksDB: nothing is wrong there either, and a seed gives the same run.

use jangada_check::Judgement;
use jangada_simulator::Scenario;
use jangada_simulator::play::{Options, Outcome, play};

/// RocksDB's threads have two cores to themselves at best.
const SEEDS: std::ops::Range<u64> = 1..5;

fn play_on_rocksdb(seed: u64) -> Outcome {
    let options = Options {
        on_rocksdb: true,
        ..Options::default()
    };
    play(&Scenario::draw(seed), options)
}

#[test]
fn nothing_is_wrong_on_rocksdb() {
    for seed in SEEDS {
        let outcome = play_on_rocksdb(seed);
        let again = format!("jangada-sim --rocksdb --seed {seed} --notes");
        assert_ne!(
            outcome.judgement,
            Judgement::Invalid,
            "see it with: {again}\n{}",
            outcome.findings.join("\n")
        );
    }
}

#[test]
fn a_seed_gives_the_same_run_on_rocksdb() {
    let [one, again] = [7, 7].map(play_on_rocksdb);
    assert_eq!(
        (one.trace_hash, one.calls, one.took),
        (again.trace_hash, again.calls, again.took)
    );
    assert_eq!(one.findings, again.findings);
}
