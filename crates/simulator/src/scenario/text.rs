//! Scenarios as text, to read, and to keep one that once failed however others are drawn later.

use std::fmt;
use std::str::FromStr;

use super::{Scenario, TeamPlan};

/// ```text
/// seed 7
/// brokers 3
/// seconds 40
/// set raft.heartbeat_ms=100
/// team log 8127
/// fault at 12034 for 3000 slow-link 1,2 50000
/// ```
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "brokers {}", self.brokers)?;
        writeln!(f, "seconds {}", self.seconds)?;
        for setting in &self.settings {
            writeln!(f, "set {setting}")?;
        }
        for team in &self.teams {
            writeln!(f, "team {} {}", team.kind, team.seed)?;
        }
        for fault in &self.faults {
            writeln!(f, "fault {fault}")?;
        }
        Ok(())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut scenario = Self {
            seed: 0,
            brokers: 3,
            seconds: 30,
            settings: Vec::new(),
            teams: Vec::new(),
            faults: Vec::new(),
        };
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(' ').ok_or_else(|| format!("{line:?} says nothing"))?;
            let number = || rest.parse::<u64>().map_err(|error| format!("{line:?}: {error}"));
            match word {
                "seed" => scenario.seed = number()?,
                "brokers" => {
                    scenario.brokers = u32::try_from(number()?).map_err(|error| format!("{line:?}: {error}"))?
                }
                "seconds" => scenario.seconds = number()?,
                "set" => scenario.settings.push(rest.to_owned()),
                "team" => {
                    let (kind, seed) = rest.split_once(' ').ok_or_else(|| format!("{line:?} has no seed"))?;
                    scenario.teams.push(TeamPlan {
                        kind: kind.to_owned(),
                        seed: seed.parse().map_err(|error| format!("{line:?}: {error}"))?,
                    });
                }
                "fault" => scenario.faults.push(rest.parse()?),
                _ => return Err(format!("{line:?} is unknown")),
            }
        }
        match scenario.brokers {
            1 | 3 | 5 => Ok(scenario),
            other => Err(format!("{other} brokers: a scenario has 1, 3 or 5")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_the_same_after_its_text_is_read() {
        for seed in 0..200 {
            let scenario = Scenario::draw(seed);
            let again: Scenario = scenario.to_string().parse().unwrap();
            assert_eq!(scenario, again);
        }
    }

    #[test]
    fn what_is_no_scenario_is_refused_with_the_line() {
        for bad in [
            "seed x",
            "brokers 2",
            "fault at 3 for 4 flood 1 0",
            "team log",
            "colour red",
        ] {
            let refused = bad.parse::<Scenario>();
            assert!(refused.is_err(), "{bad}");
        }
    }
}
