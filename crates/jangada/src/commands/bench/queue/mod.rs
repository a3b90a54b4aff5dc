//! `bench queue`: sends messages to a queue and works on them along: from the scheduled send to the delivery, and until each is
//! acknowledged.
//!
//! Each message carries the number of the run and its own, so that the consumers know when it was due, and how often it came. Numbers from
//! [`run::Run::messages`] on are those of messages that are stuck or poisoned, which count in no rate.

mod consuming;
mod producing;
mod report;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use self::producing::{poison, produce, stick};
use self::report::QueueReport;
use self::run::{Run, consumer, now_ms, producer};
use super::cpu::CpuMeter;
use super::memory::MemoryMeter;
use crate::brokers::Brokers;
use crate::cli::{QueueBench, QueueHalf};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::progress;

pub async fn run(brokers: &Brokers, args: &QueueBench) -> Result<QueueReport> {
    let messages = args.messages.unwrap_or_else(|| match args.rate > 0.0 {
        true => (args.rate * args.seconds as f64).ceil() as u64,
        false => QueueBench::MESSAGES,
    });
    check(args, messages)?;
    let client = connect(brokers).await?;
    let spinner = progress::waiting("sending and receiving");
    let run = Run::new(args, messages);
    // These are in the queue before the clock starts.
    let stuck = stick(&client, &run, args).await?;
    poison(&client, &run, args).await?;
    let (mut consumers, mut producers) = (Vec::new(), Vec::new());
    if args.only != Some(QueueHalf::Send) {
        for _ in 0..args.consumers {
            consumers.push(consumer(&client, args, args.prefetch).await?);
        }
    }
    if args.only != Some(QueueHalf::Receive) {
        for _ in 0..args.producers {
            producers.push(producer(&client, args).await?);
        }
    }
    let (meter, memory) = (CpuMeter::start(&args.cpu)?, MemoryMeter::start(&args.cpu)?);
    let run = Arc::new(Run {
        start: Instant::now(),
        start_ms: now_ms(),
        ..run
    });
    let mut consuming: JoinSet<Result<()>> = JoinSet::new();
    for consumer in consumers {
        consuming.spawn(consuming::consume(run.clone(), consumer));
    }
    let mut producing: JoinSet<Result<()>> = JoinSet::new();
    for producer in producers {
        producing.spawn(produce(run.clone(), producer));
    }
    while let Some(produced) = producing.join_next().await {
        ended(produced)??;
    }
    let late = args.delay.saturating_sub(run.start.elapsed());
    if args.delay > Duration::ZERO && late.is_zero() {
        let took = run.start.elapsed();
        return Err(CliError::new(format!(
            "it took {took:?} to send the messages, and the first was due before"
        ))
        .hint("choose a longer --delay"));
    }
    if args.only != Some(QueueHalf::Send) {
        tokio::select! {
            waited = run.wait() => waited?,
            Some(consumed) = consuming.join_next() => ended(consumed)??,
        }
    }
    let is_delayed = args.delay > Duration::ZERO && args.only.is_none();
    let from = if is_delayed { args.delay } else { Duration::ZERO };
    let seconds = (run.start.elapsed().saturating_sub(from)).as_secs_f64();
    let cpu = meter.stop()?;
    tokio::time::sleep(args.rest).await;
    let memory = memory.stop()?;
    consuming.shutdown().await;
    for stuck in stuck.messages {
        stuck.ack().await?;
    }
    spinner.finish_and_clear();
    let latency = run.latencies.lock().unwrap_or_else(PoisonError::into_inner).figures();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(QueueReport {
        bench: "queue",
        messages,
        duplicates: count(&run.duplicates),
        lease_lost: count(&run.lease_lost),
        early: count(&run.early),
        failures: count(&run.failures),
        seconds,
        messages_per_second: messages as f64 / seconds,
        latency,
        cpu_seconds: cpu.own,
        other_cpu_seconds: cpu.others,
        other_cpu_us_per_message: cpu.others.map(|seconds| seconds * 1e6 / messages as f64),
        memory,
    })
}

fn check(args: &QueueBench, messages: u64) -> Result<()> {
    let room = u64::from(args.consumers) * u64::from(args.prefetch);
    if args.hold && room < messages {
        let message = format!("--hold: {messages} messages are kept, and the consumers have room for {room}");
        return Err(CliError::usage(message).hint("raise --consumers or --prefetch"));
    }
    if args.hold && args.only == Some(QueueHalf::Send) {
        return Err(CliError::usage("--hold: with --only send nothing is taken"));
    }
    Ok(())
}

fn ended<T>(task: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    task.map_err(|error| CliError::new(format!("a task of the bench: {error}")))
}
