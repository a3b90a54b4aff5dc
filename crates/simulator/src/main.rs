//! `jangada-sim`: plays scenarios, one to look at, or many.

#![allow(
    clippy::disallowed_methods,
    reason = "it stands outside of the simulations that it runs"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is its work")]

mod hunt;
mod many;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jangada_simulator::play::{self, Options, Outcome};
use jangada_simulator::{Scenario, shrink};

/// Plays scenarios against a whole cluster in memory and judges what its clients saw. Exit code 0: nothing is wrong; 1: something is; 2:
/// the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "jangada-sim")]
struct Arguments {
    /// Play the scenario of this seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Play the scenario in this file.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    file: Option<PathBuf>,
    /// Play so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of these seeds.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// From one seed to the next.
    #[arg(long, default_value_t = 1)]
    step: u64,
    /// How many seeds are played at once.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Play only these faults of the scenario, by their numbers from 0; `none` for none.
    #[arg(long)]
    faults: Option<String>,
    /// Play only these teams of the scenario, by their numbers from 0.
    #[arg(long)]
    teams: Option<String>,
    /// Let teams work for so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Draw scenarios with these kinds of teams alone, separated by commas.
    #[arg(long)]
    only: Option<String>,
    /// Print everything that happened.
    #[arg(long)]
    trace: bool,
    /// Print what was noted, without what brokers and clients log and without the network.
    #[arg(long)]
    notes: bool,
    /// Write the history there, for `jangada-check judge`.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Print the scenario and do not play it.
    #[arg(long)]
    show: bool,
    /// Make the scenario smaller as long as it fails.
    #[arg(long)]
    shrink: bool,
    /// How many runs may be spent on that.
    #[arg(long, default_value_t = 60)]
    shrink_runs: u32,
    /// The brokers' stores are RocksDB, in a directory in memory.
    #[arg(long)]
    rocksdb: bool,
    /// Play with this bug planted, or look for several or `all` in turn; needs a build with the feature `planted`.
    #[arg(long)]
    planted: Option<String>,
    /// Print a line before and after each seed, for a program that reads them.
    #[arg(long, hide = true)]
    lines: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            keeps_trace: self.trace || self.notes,
            keeps_history: self.history.is_some(),
            on_rocksdb: self.rocksdb,
        }
    }

    /// The scenario of a seed, as the command line wants it.
    fn scenario(&self, seed: u64) -> Result<Scenario, String> {
        let kinds: Vec<&str> = self.only.iter().flat_map(|only| only.split(',')).collect();
        self.cut_down(Scenario::draw_with(seed, &kinds)?)
    }

    fn cut_down(&self, mut scenario: Scenario) -> Result<Scenario, String> {
        if let Some(faults) = &self.faults {
            scenario = scenario.with_faults(&numbers(faults)?);
        }
        if let Some(teams) = &self.teams {
            scenario = scenario.with_teams(&numbers(teams)?);
        }
        scenario.seconds = self.seconds.unwrap_or(scenario.seconds);
        Ok(scenario)
    }
}

fn numbers(text: &str) -> Result<Vec<usize>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let number = |text: &str| text.trim().parse().map_err(|error| format!("{text:?}: {error}"));
    text.split(',').map(number).collect()
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("jangada-sim: {why}");
            ExitCode::from(2)
        }
    }
}

/// True: nothing is wrong.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let is_hunt = |planted: &&str| (*planted == "all" || planted.contains(',')) && !arguments.lines;
    if let Some(planted) = arguments.planted.as_deref().filter(is_hunt) {
        return hunt::hunt(arguments, &hunt::names(planted));
    }
    if let Some(name) = &arguments.planted {
        jangada_simulator::planted::plant(name)?;
    }
    if let Some(seeds) = arguments.seeds {
        return match arguments.lines {
            true => many::play_here(arguments, seeds),
            false => many::play_in_children(arguments, seeds),
        };
    }
    let scenario = match (&arguments.file, arguments.seed) {
        (Some(path), _) => {
            let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            arguments.cut_down(text.parse()?)?
        }
        (None, Some(seed)) => arguments.scenario(seed)?,
        (None, None) => return Err("which scenario? --seed, --seeds or --file".to_owned()),
    };
    print!("{scenario}");
    if arguments.show {
        return Ok(true);
    }
    if arguments.shrink {
        return shrunk(arguments, &scenario);
    }
    let outcome = play::play(&scenario, arguments.options());
    if arguments.trace {
        outcome.trace.lines().iter().for_each(|line| println!("{line}"));
    } else if arguments.notes {
        let is_note =
            |line: &&String| !line.contains(" DEBUG ") && !line.contains(" INFO ") && !line.contains(" net #");
        outcome
            .trace
            .lines()
            .iter()
            .filter(is_note)
            .for_each(|line| println!("{line}"));
    }
    if let Some(path) = &arguments.history {
        fs::write(path, &outcome.history).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    told(&outcome);
    Ok(!outcome.is_failure())
}

fn told(outcome: &Outcome) {
    for finding in &outcome.findings {
        println!("finding: {finding}");
    }
    for why in &outcome.unknown {
        println!("unknown: {why}");
    }
    for (kind, counted) in &outcome.faults {
        println!(
            "fault: {} ordered {} took effect {}",
            kind.name(),
            counted.ordered,
            counted.took_effect
        );
    }
    println!("{outcome}");
}

fn shrunk(arguments: &Arguments, scenario: &Scenario) -> Result<bool, String> {
    let smallest = shrink::shrink(scenario, arguments.options(), arguments.shrink_runs, |smaller| {
        eprintln!(
            "{} faults, {} teams, {} s",
            smaller.faults.len(),
            smaller.teams.len(),
            smaller.seconds
        );
    });
    let Some(smallest) = smallest else {
        println!("nothing is wrong with it");
        return Ok(true);
    };
    println!("# the smallest that fails in the same way");
    print!("{smallest}");
    told(&play::play(&smallest, arguments.options()));
    Ok(false)
}
