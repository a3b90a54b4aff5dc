//! Trips: a flight, and then a hotel and a car at the same time, all three or none. A saga with an orchestrator.
//!
//! ```text
//! travellers ──► queue "trips.inbox" ──► orchestrator-1, orchestrator-2 ──► topic "trips", one stream for each saga
//!                     ▲                       │ commands: do, undo
//!                     │ replies               ├──► queue "flight" ──► flight ─┐  each office keeps its places, with the keys that
//!                     │                       ├──► queue "hotel"  ──► hotel   ├─ it has seen, in streams of its own: topic "offices"
//!                     └───────────────────────┴──► queue "car"    ──► car    ─┘
//! ```
//!
//! The offices are full now and then, fail for no reason, and answer too late. What must hold, whoever dies: every trip is booked whole, or
//! what was booked of it is given back; nothing is booked twice; no office has more guests than places; and what is given back is given
//! back in the reverse order.
//!
//! ```text
//! make up && make example NAME=trip-saga
//! make example NAME=trip-saga ARGS='--nemesis 120 --seed 7'
//! jangada saga ls --topic trips-RUN
//! ```

#[path = "../common/mod.rs"]
mod common;
mod office;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, say};
use jangada_client::{Client, NewQueue, Worker};
use jangada_patterns::eventsource::{Committed, ExecuteError, Repository, RepositoryOptions};
use jangada_patterns::saga::{
    self, Definition, Event, Orchestrator, Outcome, Phase, Retry, SagaSummary, Sagas, Step, StepCommand, Way,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use office::{Booked, Booking, Office, Refusal};

const SERVICES: [&str; 3] = ["flight", "hotel", "car"];
/// Each service has so many offices for each week, each a stream of its own.
const OFFICES: u64 = 4;
/// Trips of a week: more than its offices have places.
const TRIPS_OF_A_WEEK: u64 = 60;
/// Commands that a service works on at the same time.
const SERVICE_AT_ONCE: u32 = 8;
/// Messages that an orchestrator works on at the same time.
const ORCHESTRATOR_AT_ONCE: u32 = 8;
/// Trips that are under way at the same time.
const TRIPS_AT_ONCE: usize = 40;
/// How often a trip is started again whose start was not answered, and the pause before.
const STARTS_MAX: u32 = 60;
const START_PAUSE: Duration = Duration::from_millis(500);
/// How long the last trips may take in the end.
const ENDED_WITHIN: Duration = Duration::from_secs(300);

#[derive(Parser)]
#[command(about = "Trips of flight, hotel and car: a saga with compensation")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Trips; more while the nemesis goes on
    #[arg(long, default_value_t = 100)]
    trips: usize,
}

/// The steps of a trip.
fn definition(flags: &Flags) -> Definition {
    let retry = Retry {
        attempts: 4,
        first_ms: 100,
        most_ms: 1_000,
    };
    let step = |service: &str| {
        let step = Step::new(service, flags.name(service)).with_retry(retry);
        step.with_timeout(Duration::from_secs(3))
    };
    Definition::new("trip")
        .then(step("flight"))
        .then_all([step("hotel"), step("car")])
}

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<Option<Check>, Error> {
    let flags = args.flags.complete("trip-saga")?;
    if let Some(role) = flags.role.as_deref() {
        common::worker(role, work(&flags, role)).await?;
        return Ok(None);
    }
    if flags.check {
        return check(&flags, None).await.map(Some);
    }
    play(&flags, args.trips).await.map(Some)
}

/// What one of its processes does.
async fn work(flags: &Flags, role: &str) -> Result<(), Error> {
    let client = flags.client().await?;
    let service = role.split('-').next().unwrap_or(role);
    if service == "orchestrator" {
        let orchestrator = Orchestrator::open(&client, &flags.name("trips"), RepositoryOptions::default()).await?;
        orchestrator.run(ORCHESTRATOR_AT_ONCE, std::future::pending()).await?;
        return Ok(());
    }
    let offices = Repository::open(&client, &flags.name("offices"), RepositoryOptions::default()).await?;
    let worker = Worker::new(&client, flags.name(service));
    let calls = AtomicU64::new(0);
    let (offices, calls, seed) = (&offices, &calls, flags.seed.unwrap_or(0));
    saga::serve(&client, worker, SERVICE_AT_ONCE, |command| async move {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        let mut chance = StdRng::seed_from_u64(seed ^ (call << 20) ^ u64::from(std::process::id()));
        carry_out(offices, &command, &mut chance).await
    })
    .await?;
    Ok(())
}

/// Books a place, or gives it back: once for each key. The heart of a step's worker.
async fn carry_out(offices: &Repository<Office>, command: &StepCommand, chance: &mut StdRng) -> Outcome {
    match chance.random_range(0..100) {
        0..6 => return Outcome::failed("the line is busy"),
        // Longer than the step's time: the saga sends it again, and the answer comes late.
        6 => tokio::time::sleep(Duration::from_secs(4)).await,
        _ => {}
    }
    let office = office_of(command);
    let booking = Booking {
        key: command.key.clone(),
        way: command.way,
    };
    let executed = offices.execute(&office, "", &booking).await;
    // It may have been done before: the answer is what the office has, not what happened now.
    let place = || offices.read(&office, |stream| stream.state.place_of(&command.key));
    match executed {
        Ok(_) => Outcome::Done(json!({ "office": office, "place": place() })),
        Err(ExecuteError::Refused(refusal @ (Refusal::Full | Refusal::GivenBack))) => {
            Outcome::refused(refusal.to_string())
        }
        Err(error) => Outcome::failed(error.to_string()),
    }
}

fn office_of(command: &StepCommand) -> String {
    let traveller = command.input["traveller"].as_u64().unwrap_or(0);
    format!(
        "{}-{}-{}",
        command.step,
        traveller / TRIPS_OF_A_WEEK,
        traveller % OFFICES
    )
}

async fn create(client: &Client, flags: &Flags) -> Result<(), Error> {
    let replicas = common::replicas(&client.admin()).await?;
    Orchestrator::create(client, &flags.name("trips"), (2, replicas)).await?;
    Repository::<Office>::create(client, &flags.name("offices"), None, (3, replicas)).await?;
    for service in SERVICES {
        let mut queue = NewQueue::new(flags.name(service), 1, replicas);
        queue.if_not_exists = true;
        queue.config.insert("queue.lease.ms".to_owned(), "15000".to_owned());
        queue.config.insert("queue.retry.max.ms".to_owned(), "2000".to_owned());
        client.admin().create_queue(queue).await?;
    }
    Ok(())
}

/// Has trips booked, and looks whether all is well.
async fn play(flags: &Flags, trips: usize) -> Result<Check, Error> {
    let client = flags.client().await?;
    create(&client, flags).await?;
    let topic = flags.name("trips");
    let mut crew = Crew::new(flags, &[]);
    for role in [
        "orchestrator-1",
        "orchestrator-2",
        "flight-1",
        "flight-2",
        "hotel",
        "car",
    ] {
        crew.start(role)?;
    }
    say(
        "trips",
        format!(
            "run {}: {trips} trips or more, {} places in each office",
            flags.run(),
            office::PLACES
        ),
    );
    let (sagas, inbox) = (Sagas::open(&client, &topic).await?, saga::inbox(&client, &topic).await?);
    let definition = definition(flags);
    let (mut sent, mut told) = (0, 0);
    while sent < trips || crew.is_hunted() {
        let number = sent;
        // The answer may be lost with a broker: a saga that was started goes on as it is.
        let mut failures = 0;
        while let Err(error) = saga::start(
            &inbox,
            format!("trip-{number:05}"),
            &definition,
            json!({ "traveller": number }),
        )
        .await
        {
            failures += 1;
            if failures > STARTS_MAX {
                return Err(error.into());
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        sent += 1;
        let may_go_on = async || Ok(sent - over(&sagas.list()) < TRIPS_AT_ONCE);
        crew.until("the trips go on", ENDED_WITHIN, may_go_on).await?;
        if sent / 50 > told {
            told = sent / 50;
            say("trips", counts(&sagas.list()));
        }
    }
    say(
        "trips",
        format!("{sent} trips were asked for; waiting until the last has ended"),
    );
    let ended = async || {
        help_stuck(&sagas).await?;
        Ok(over(&sagas.list()) >= sent)
    };
    crew.until("every trip has ended", ENDED_WITHIN, ended).await?;
    say(
        "trips",
        format!("{}; {} processes were killed", counts(&sagas.list()), crew.kills()),
    );
    if let Some(back) = sagas
        .list()
        .iter()
        .find(|saga| saga.phase == Phase::Compensated && saga.done == 0)
    {
        say(
            "trips",
            format!("what happened to {}, which turned back as {:?}:", back.id, back.reason),
        );
        let history = sagas.history(&back.id).await?;
        for happened in history
            .iter()
            .filter(|happened| !matches!(happened.event, Event::Started { .. }))
        {
            say(
                "trips",
                format!("  {} ms  {:?}", happened.timestamp_ms % 1_000_000, happened.event),
            );
        }
    }
    check(flags, Some(sent)).await
}

/// An operator who retries what is stuck.
async fn help_stuck(sagas: &Sagas) -> Result<(), Error> {
    for saga in sagas.list().into_iter().filter(|saga| saga.stuck.is_some()) {
        say("operator", format!("{} is stuck at {:?}: retry", saga.id, saga.stuck));
        if let Err(error) = sagas.retry(&saga.id, Duration::from_secs(10)).await {
            say("operator", error);
        }
    }
    Ok(())
}

fn over(sagas: &[SagaSummary]) -> usize {
    sagas.iter().filter(|saga| saga.phase.is_over()).count()
}

fn counts(sagas: &[SagaSummary]) -> String {
    let count = |phase| sagas.iter().filter(|saga| saga.phase == phase).count();
    let phases = [Phase::Completed, Phase::Compensated, Phase::Forward, Phase::Backward];
    let counts = phases.map(|phase| format!("{} {}", count(phase), phase.as_str()));
    counts.join(", ")
}

/// Compares what the sagas say with what the offices say.
async fn check(flags: &Flags, trips: Option<usize>) -> Result<Check, Error> {
    let client = flags.client().await?;
    let mut check = Check::default();
    let sagas = Sagas::open(&client, &flags.name("trips")).await?;
    let list = sagas.list();
    if let Some(trips) = trips {
        check.same("each trip that was asked for has begun", list.len(), trips);
    }
    check.same("each trip has ended", over(&list), list.len());

    let log: Vec<Committed<Booked>> = office::read_log(&client, &flags.name("offices")).await?;
    // Of each key, how often it was booked and given back.
    let mut seen: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (key, way) in log
        .iter()
        .flat_map(|read| &read.commit.events)
        .filter_map(Booked::effect)
    {
        let (booked, given_back) = seen.entry(key).or_default();
        match way {
            Way::Do => *booked += 1,
            Way::Undo => *given_back += 1,
        }
    }
    let twice = seen
        .values()
        .filter(|(booked, given_back)| *booked > 1 || given_back > booked)
        .count();
    check.same("nothing was booked or given back twice", twice, 0);
    let held = |key: &str| seen.get(key).is_some_and(|(booked, given_back)| booked > given_back);
    let whole = list.iter().filter(|saga| {
        let held = SERVICES
            .iter()
            .filter(|service| held(&format!("{}/{service}", saga.id)))
            .count();
        match saga.phase {
            Phase::Completed => held == SERVICES.len(),
            _ => held == 0,
        }
    });
    check.same(
        "each trip is booked whole, or nothing of it is",
        whole.count(),
        list.len(),
    );
    let most = office::most_guests(&log);
    check.that(
        "no office had more guests than places",
        most <= office::PLACES,
        format!("the most were {most}"),
    );

    let mut undone: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for read in office::read_log(&client, &flags.name("trips")).await? {
        let steps = undone.entry(read.key).or_default();
        steps.extend(read.commit.events.iter().filter_map(undone_step));
    }
    let is_in_order = |steps: &&Vec<usize>| steps.windows(2).all(|pair| pair[0] > pair[1]);
    let in_order = undone.values().filter(is_in_order).count();
    check.same(
        "what a trip gave back it gave back in the reverse order",
        in_order,
        list.len(),
    );
    let phases = [Phase::Completed, Phase::Compensated];
    let both = phases.iter().all(|phase| list.iter().any(|saga| saga.phase == *phase));
    check.that("some trips were booked, and some turned back", both, counts(&list));
    Ok(check)
}

fn undone_step(event: &Event) -> Option<usize> {
    match event {
        Event::Done {
            step, way: Way::Undo, ..
        } => Some(*step),
        _ => None,
    }
}
