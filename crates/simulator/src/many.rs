//! Plays many seeds: in child processes, so that one that hangs or dies is one failure and not the end.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use jangada_check::Judgement;
use jangada_simulator::play::{self, Outcome};

use crate::Arguments;

/// Seeds that one child plays: what a run might leave behind does not add up for long.
const SEEDS_PER_CHILD: u64 = 50;

/// Plays the seeds in this process, and prints a line before and after each.
pub fn play_here(arguments: &Arguments, seeds: u64) -> Result<bool, String> {
    let mut are_sound = true;
    for seed in (0..seeds).map(|at| arguments.from + at * arguments.step) {
        println!("begin {seed}");
        let outcome = play::play(&arguments.scenario(seed)?, arguments.options());
        are_sound &= !outcome.is_failure();
        println!("{}", line(&outcome));
    }
    Ok(are_sound)
}

/// `done SEED JUDGEMENT CALLS KIND=ORDERED/EFFECT,... TEXT`
fn line(outcome: &Outcome) -> String {
    let judgement = match outcome.judgement {
        Judgement::Valid => "valid",
        Judgement::Invalid => "invalid",
        Judgement::Unknown => "unknown",
    };
    let faults = outcome.faults.iter();
    let faults = faults.map(|(kind, counted)| format!("{}={}/{}", kind.name(), counted.ordered, counted.took_effect));
    let faults = faults.collect::<Vec<_>>().join(",");
    format!(
        "done {} {judgement} {} {faults}, {outcome}",
        outcome.seed, outcome.calls
    )
}

/// What was seen of all seeds.
#[derive(Default)]
struct Sum {
    valid: u64,
    unknown: u64,
    failed: u64,
    calls: u64,
    /// By kind: ordered, and took effect.
    faults: BTreeMap<String, (u64, u64)>,
}

impl Sum {
    /// Takes in what a child said of a seed.
    fn add(&mut self, said: &str) -> Option<()> {
        let mut words = said.splitn(5, ' ');
        let (_seed, judgement, calls, faults, text) = (
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
        );
        match judgement {
            "valid" => self.valid += 1,
            "unknown" => {
                self.unknown += 1;
                println!("{text}");
            }
            _ => {
                self.failed += 1;
                println!("{text}");
            }
        }
        self.calls += calls.parse::<u64>().ok()?;
        for fault in faults.split(',').filter(|fault| !fault.is_empty()) {
            let (kind, counts) = fault.split_once('=')?;
            let (ordered, effect) = counts.split_once('/')?;
            let sum = self.faults.entry(kind.to_owned()).or_default();
            sum.0 += ordered.parse::<u64>().ok()?;
            sum.1 += effect.parse::<u64>().ok()?;
        }
        Some(())
    }
}

/// Plays the seeds in children, as many at once as the command line says, and prints failures as they come and the sum.
pub fn play_in_children(arguments: &Arguments, seeds: u64) -> Result<bool, String> {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    let failed: Vec<String> = thread::scope(|scope| {
        let jobs = (0..arguments.jobs.max(1)).map(|_| scope.spawn(|| one_job(arguments, seeds, &next, &sum)));
        let jobs: Vec<_> = jobs.collect();
        jobs.into_iter().filter_map(|job| job.join().ok()?.err()).collect()
    });
    if let Some(why) = failed.into_iter().next() {
        return Err(why);
    }
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (played, took) = (sum.valid + sum.unknown + sum.failed, began.elapsed().as_secs_f64());
    println!("faults, ordered and took effect:");
    for (kind, (ordered, effect)) in &sum.faults {
        println!("  {kind:16} {ordered:6} {effect:6}");
    }
    println!(
        "{played} seeds in {took:.0} s, {:.0} an hour; {} calls; valid {}, unknown {}, failed {}",
        played as f64 / took.max(0.001) * 3600.0,
        sum.calls,
        sum.valid,
        sum.unknown,
        sum.failed
    );
    Ok(sum.failed == 0)
}

/// Takes seeds until none are left.
fn one_job(arguments: &Arguments, seeds: u64, next: &AtomicU64, sum: &Mutex<Sum>) -> Result<(), String> {
    loop {
        let mut at = next.fetch_add(SEEDS_PER_CHILD, Ordering::Relaxed);
        let end = (at + SEEDS_PER_CHILD).min(seeds);
        if at >= seeds {
            return Ok(());
        }
        while at < end {
            at += one_child(arguments, at, end - at, sum)?;
        }
    }
}

/// Plays these seeds in a child, up to the first that kills it. Returns how many were begun.
fn one_child(arguments: &Arguments, at: u64, seeds: u64, sum: &Mutex<Sum>) -> Result<u64, String> {
    let mut child =
        child(arguments, at, seeds).map_err(|error| format!("a child process cannot be started: {error}"))?;
    let output = child.stdout.take().expect("it is piped");
    let mut begun = 0;
    let mut open = None;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Some(seed) = line.strip_prefix("begin ") {
            begun += 1;
            open = Some(seed.to_owned());
        } else if let Some(said) = line.strip_prefix("done ") {
            open = None;
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.add(said).ok_or_else(|| format!("a child says {said:?}"))?;
            drop(std::io::stdout().flush());
        }
    }
    let ended = child.wait().map_err(|error| format!("a child process: {error}"))?;
    if let Some(seed) = open {
        println!("seed {seed} invalid: the process has died or hung ({ended}); see above");
        sum.lock().unwrap_or_else(PoisonError::into_inner).failed += 1;
    } else if begun == 0 {
        return Err(format!("a child process has ended at once: {ended}"));
    }
    Ok(begun)
}

fn child(arguments: &Arguments, at: u64, seeds: u64) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut add = |name: &str, value: &dyn std::fmt::Display| {
        command.arg(format!("--{name}={value}"));
    };
    add("seeds", &seeds);
    add("from", &(arguments.from + at * arguments.step));
    add("step", &arguments.step);
    let texts = [
        ("faults", &arguments.faults),
        ("teams", &arguments.teams),
        ("only", &arguments.only),
        ("planted", &arguments.planted),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            add(name, text);
        }
    }
    if let Some(seconds) = arguments.seconds {
        add("seconds", &seconds);
    }
    if arguments.rocksdb {
        command.arg("--rocksdb");
    }
    command.arg("--lines").stdout(Stdio::piped()).spawn()
}
