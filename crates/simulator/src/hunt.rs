//! Looks for the seed that finds each planted bug, and prints the rows of the table in docs/reliability.md.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use jangada_simulator::planted;

use crate::Arguments;

/// Seeds that are played against a bug at most, if the command line does not say.
const SEEDS_MAX: u64 = 200;

/// What a seed has shown of a bug.
struct Found {
    seed: u64,
    /// How many seeds were played, this one included.
    seeds: u64,
    /// What was found, in one line.
    finding: String,
}

/// The names that the command line means: `all`, or some with commas between them.
pub fn names(planted: &str) -> Vec<&str> {
    match planted {
        "all" => planted::NAMES.to_vec(),
        some => some.split(',').collect(),
    }
}

/// Hunts for each bug, as many at once as the command line says. True: all are found.
pub fn hunt(arguments: &Arguments, names: &[&str]) -> Result<bool, String> {
    for name in names {
        planted::plant(name)?;
    }
    println!("| bug | what the product does wrong with it | found as | seed | seeds |");
    println!("|---|---|---|---|---|");
    let (next, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let one_job = || -> Result<(), String> {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = find(arguments, name)?;
            missed.fetch_add(usize::from(found.is_none()), Ordering::Relaxed);
            println!("{}", row(name, found.as_ref()));
            drop(std::io::stdout().flush());
        }
        Ok(())
    };
    let ended: Vec<Result<(), String>> = thread::scope(|scope| {
        let jobs: Vec<_> = (0..arguments.jobs.max(1)).map(|_| scope.spawn(one_job)).collect();
        jobs.into_iter().filter_map(|job| job.join().ok()).collect()
    });
    ended.into_iter().collect::<Result<(), String>>()?;
    let missed = missed.into_inner();
    eprintln!("{} of {} planted bugs found", names.len() - missed, names.len());
    Ok(missed == 0)
}

fn row(name: &str, found: Option<&Found>) -> String {
    let what = planted::what(name).unwrap_or_default().trim_end_matches('.');
    match found {
        Some(Found { seed, seeds, finding }) => format!("| `{name}` | {what} | {finding} | {seed} | {seeds} |"),
        None => format!("| `{name}` | {what} | not found | | |"),
    }
}

/// Plays seeds in children until one fails.
fn find(arguments: &Arguments, name: &str) -> Result<Option<Found>, String> {
    let most = arguments.seeds.unwrap_or(SEEDS_MAX);
    let mut played = 0;
    while played < most {
        let (begun, found) = play(arguments, name, played, most - played)?;
        if let Some((seed, finding)) = found {
            let seeds = played + begun;
            return Ok(Some(Found { seed, seeds, finding }));
        }
        if begun == 0 {
            return Err(format!("{name}: a child process has ended at once"));
        }
        played += begun;
    }
    Ok(None)
}

/// Plays seeds in one child, up to the first that fails. Gives how many were begun, and that one.
fn play(arguments: &Arguments, name: &str, played: u64, seeds: u64) -> Result<(u64, Option<(u64, String)>), String> {
    let failed = |error: std::io::Error| format!("a child process: {error}");
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .arg(format!("--planted={name}"))
        .arg(format!("--seeds={seeds}"))
        .arg(format!("--from={}", arguments.from + played * arguments.step))
        .arg(format!("--step={}", arguments.step))
        .arg("--lines");
    if let Some(only) = &arguments.only {
        command.arg(format!("--only={only}"));
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let output = child.stdout.take().expect("it is piped");
    let (mut begun, mut open, mut found) = (0, None, None);
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Some(seed) = line.strip_prefix("begin ") {
            begun += 1;
            open = seed.parse().ok();
        } else if let Some(said) = line.strip_prefix("done ") {
            let seed = open.take();
            let mut words = said.split(' ');
            if words.nth(1) == Some("invalid") {
                found = seed.map(|seed| (seed, finding_of(said)));
                break;
            }
        }
    }
    drop(child.kill());
    child.wait().map_err(failed)?;
    // A child that dies in the middle of a seed has found something, too.
    let died = open.filter(|_| found.is_none());
    let found = found.or(died.map(|seed| (seed, "the process dies or hangs".to_owned())));
    Ok((begun, found))
}

/// The first finding of a line, as a cell of a table.
fn finding_of(said: &str) -> String {
    let first = said.split(" | ").nth(1).unwrap_or("invalid");
    first.chars().take(120).collect::<String>().replace('|', "/")
}
