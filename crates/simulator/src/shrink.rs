//! Makes a scenario that fails smaller: fewer faults, fewer teams, less time, as long as it still fails in the same way.

use crate::play::{self, Options, Outcome};
use crate::roles::team::Finding;
use crate::scenario::Scenario;

/// The least seconds that a scenario is shortened to.
const SECONDS_MIN: u64 = 3;

/// What a finding is about, without its numbers and names: two runs that fail alike have it in common.
pub fn gist(finding: &Finding) -> String {
    let line = finding.lines().next().unwrap_or_default();
    let words = line.split_whitespace().take(12);
    let plain = words.map(|word| word.chars().filter(|it| it.is_alphabetic()).collect::<String>());
    plain
        .filter(|word| !word.is_empty())
        .take(6)
        .collect::<Vec<_>>()
        .join(" ")
}

fn gists(outcome: &Outcome) -> Vec<String> {
    outcome.findings.iter().map(gist).collect()
}

/// The smallest scenario found that fails with one of the findings that this one fails with, after at most `runs_max` runs; none if it does
/// not fail. `told` hears of each that is smaller.
pub fn shrink(
    scenario: &Scenario,
    options: Options,
    runs_max: u32,
    mut told: impl FnMut(&Scenario),
) -> Option<Scenario> {
    let first = play::play(scenario, options);
    if !first.is_failure() {
        return None;
    }
    let wanted = gists(&first);
    let mut runs = 1;
    let mut smallest = scenario.clone();
    let mut tries = |smaller: &Scenario| {
        runs += 1;
        runs <= runs_max
            && gists(&play::play(smaller, options))
                .iter()
                .any(|gist| wanted.contains(gist))
    };
    loop {
        let next = smaller(&smallest).into_iter().find(|candidate| tries(candidate));
        match next {
            Some(found) => {
                told(&found);
                smallest = found;
            }
            None => return Some(smallest),
        }
    }
}

/// Scenarios that are a step smaller, the boldest first.
fn smaller(of: &Scenario) -> Vec<Scenario> {
    let mut found = Vec::new();
    let faults = of.faults.len();
    if faults > 1 {
        let (first, last): (Vec<usize>, Vec<usize>) = (0..faults).partition(|at| *at < faults / 2);
        found.extend([of.with_faults(&first), of.with_faults(&last)]);
    }
    let without = |count: usize, gone: usize| (0..count).filter(|at| *at != gone).collect::<Vec<_>>();
    if of.teams.len() > 1 {
        found.extend((0..of.teams.len()).map(|gone| of.with_teams(&without(of.teams.len(), gone))));
    }
    if faults > 0 && faults != 2 {
        found.extend((0..faults).map(|gone| of.with_faults(&without(faults, gone))));
    }
    let ends = of.faults.iter().map(|fault| fault.at_ms / 1000 + 1).max().unwrap_or(0);
    let shorter = (of.seconds / 2).max(ends).max(SECONDS_MIN);
    if shorter < of.seconds {
        found.push(Scenario {
            seconds: shorter,
            ..of.clone()
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_scenario_has_less_of_something_and_nothing_else() {
        for seed in 0..50 {
            let scenario = Scenario::draw(seed);
            for less in smaller(&scenario) {
                let size = |of: &Scenario| (of.faults.len() + of.teams.len(), of.seconds);
                let (small, large) = (size(&less), size(&scenario));
                assert!(
                    small.0 <= large.0 && small.1 <= large.1 && small != large,
                    "seed {seed}"
                );
                assert_eq!(less.settings, scenario.settings);
            }
        }
    }

    #[test]
    fn findings_are_alike_whatever_their_numbers() {
        let one = "producers-0: offset 13 of orders/0 has two values".to_owned();
        let other = "producers-1: offset 9 of orders/2 has two values".to_owned();
        assert_eq!(gist(&one), gist(&other));
    }
}
