//! Scenarios of some seeds: nothing is wrong in any of them, and each can be played again exactly.

use jangada_check::Judgement;
use jangada_simulator::Scenario;
use jangada_simulator::play::{Options, Outcome, play};

/// Seeds of each of the tests below, which run at the same time.
const SEEDS: u64 = 60;

fn assert_sound(outcome: &Outcome) {
    let again = format!("jangada-sim --seed {} --notes", outcome.seed);
    assert_ne!(
        outcome.judgement,
        Judgement::Invalid,
        "see it with: {again}\n{}",
        outcome.findings.join("\n")
    );
}

/// Plays these seeds. Of all of them most show what they were to show.
fn play_seeds(from: u64) {
    let mut unknown = 0;
    for seed in from..from + SEEDS {
        let outcome = play(&Scenario::draw(seed), Options::default());
        assert_sound(&outcome);
        unknown += u64::from(outcome.judgement == Judgement::Unknown);
    }
    assert!(unknown * 4 < SEEDS, "{unknown} of {SEEDS} show nothing");
}

#[test]
fn nothing_is_wrong_in_the_scenarios_of_some_seeds() {
    play_seeds(1);
}

#[test]
fn nothing_is_wrong_in_the_scenarios_of_other_seeds() {
    play_seeds(1_000_001);
}

#[test]
fn a_seed_is_played_again_exactly() {
    for seed in [3, 7, 11] {
        let scenario = Scenario::draw(seed);
        let [one, again] = [(); 2].map(|()| play(&scenario, Options::default()));
        assert_eq!(
            (
                one.trace_hash,
                one.calls,
                one.judgement,
                &one.findings,
                &one.faults,
                one.took
            ),
            (
                again.trace_hash,
                again.calls,
                again.judgement,
                &again.findings,
                &again.faults,
                again.took
            ),
            "seed {seed}"
        );
    }
}
