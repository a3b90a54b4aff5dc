//! Trips without an orchestrator: each office follows the topic of what has happened, and appends what it did.
//!
//! ```text
//! topic "trip-events", by trip:   requested ─► flight booked ─► hotel booked ─► car booked: whole
//!                                     │            ▲  │             │
//!                                  refused         │  └─ refused ◄──┘ hotel refused: flight cancelled: nothing
//!                                                  └──── hotel cancelled ◄── car refused
//! ```
//!
//! An office reads and writes in one transaction ([`TransactionalProducer::process`]), so whatever dies, each event has its consequence
//! once. Nobody knows the whole: what is to be done when a hotel refuses stands in the flight's office. Compare `trip-saga`, which has one
//! place for it, lists what is stuck, and gives up waiting.
//!
//! ```text
//! make up && make example NAME=trip-choreography
//! make example NAME=trip-choreography ARGS='--nemesis 30'
//! ```

mod common;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, say};
use jangada_client::{
    Client, ClientError, CommitMode, ConsumedRecord, ConsumerConfig, ExactlyOnceOptions, GroupConfig, ProducerConfig,
    ProducerRecord, StartAt, Table, TableOptions, TransactionOptions, TransactionalProducer,
};
use serde::{Deserialize, Serialize};

const OFFICES: [&str; 3] = ["flight", "hotel", "car"];
const ENDED_WITHIN: Duration = Duration::from_secs(240);

#[derive(Parser)]
#[command(about = "Trips of flight, hotel and car: a saga by choreography")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Trips; more while the nemesis goes on
    #[arg(long, default_value_t = 100)]
    trips: u32,
}

/// What has happened to a trip.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Happened {
    Requested,
    Booked(String),
    Refused(String),
    Cancelled(String),
}

/// What an office does about what has happened. This is all there is of the saga, in three places.
fn react(office: &str, trip: &str, event: &Happened) -> Option<Happened> {
    use Happened::{Booked, Cancelled, Refused, Requested};
    let is_at = |name: &String, other: &str| name == other;
    let book = || match is_full(office, trip) {
        true => Some(Refused(office.to_owned())),
        false => Some(Booked(office.to_owned())),
    };
    let cancel = || Some(Cancelled(office.to_owned()));
    match (office, event) {
        ("flight", Requested) => book(),
        ("hotel", Booked(by)) if is_at(by, "flight") => book(),
        ("car", Booked(by)) if is_at(by, "hotel") => book(),
        ("hotel", Refused(by)) if is_at(by, "car") => cancel(),
        ("flight", Refused(by) | Cancelled(by)) if is_at(by, "hotel") => cancel(),
        _ => None,
    }
}

/// Whether an office has no place for a trip: the same each time that it is asked.
fn is_full(office: &str, trip: &str) -> bool {
    let sum = office
        .bytes()
        .chain(trip.bytes())
        .fold(7_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
    sum % 5 == 0
}

/// Whether nothing more happens to a trip.
fn is_end(event: &Happened) -> bool {
    match event {
        Happened::Booked(by) => by == "car",
        Happened::Refused(by) | Happened::Cancelled(by) => by == "flight",
        Happened::Requested => false,
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<Option<Check>, Error> {
    let flags = args.flags.complete("trip-choreography")?;
    if let Some(role) = flags.role.as_deref() {
        common::worker(role, work(&flags, role)).await?;
        return Ok(None);
    }
    if flags.check {
        return check(&flags.client().await?, &flags, None).await.map(Some);
    }
    let client = flags.client().await?;
    let topic = flags.name("trip-events");
    common::create_topic(&client.admin(), &topic, 3, &[]).await?;
    let mut crew = Crew::new(&flags, &[]);
    for office in OFFICES {
        crew.start(office)?;
    }
    say(
        "trips",
        format!("run {}: {} trips or more, three offices", flags.run(), args.trips),
    );
    // The newest event of each trip says where it is.
    let newest = Table::open(&client, &topic, TableOptions::default()).await?;
    let producer = client.producer(ProducerConfig::default())?;
    let mut sent = 0;
    while sent < args.trips || crew.is_hunted() {
        let value = serde_json::to_vec(&Happened::Requested)?;
        let record = ProducerRecord::new(topic.as_str())
            .with_key(format!("trip-{sent:05}"))
            .with_value(value);
        producer.send(record).await?.await?;
        sent += 1;
        crew.until("the trips go on", ENDED_WITHIN, async || Ok(sent - ended(&newest) < 40))
            .await?;
    }
    say(
        "trips",
        format!("{sent} trips were asked for; waiting until the last has ended"),
    );
    crew.until(
        "every trip has ended",
        ENDED_WITHIN,
        async || Ok(ended(&newest) >= sent),
    )
    .await?;
    say("trips", format!("{} processes were killed", crew.kills()));
    check(&client, &flags, Some(sent as usize)).await.map(Some)
}

fn ended(newest: &Table) -> u32 {
    let events = newest
        .iter()
        .filter_map(|(_, value)| serde_json::from_slice(&value).ok());
    events.filter(is_end).count() as u32
}

async fn work(flags: &Flags, office: &str) -> Result<(), Error> {
    let client = flags.client().await?;
    let topic = flags.name("trip-events");
    let mut config = GroupConfig::new(flags.name(office), [&topic]);
    config.commit = CommitMode::Manual;
    // One that is killed is followed by the next within seconds.
    config.session_timeout = Duration::from_secs(10);
    config.instance_id = Some(office.to_owned());
    let mut consumer = client.group_consumer(config)?;
    let options = TransactionOptions {
        timeout: Duration::from_secs(20),
        ..TransactionOptions::default()
    };
    let mut producer = TransactionalProducer::open(&client, flags.name(office), options).await?;
    loop {
        let transform = async |records: &[ConsumedRecord]| {
            let mut made = Vec::new();
            for record in records {
                let trip = record
                    .key
                    .as_deref()
                    .and_then(|key| std::str::from_utf8(key).ok())
                    .unwrap_or_default();
                let event = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
                if let Some(then) = react(office, trip, &event) {
                    let record = ProducerRecord::new(topic.as_str()).with_key(trip.to_owned());
                    made.push(record.with_value(serde_json::to_vec(&then)?));
                }
            }
            Ok::<_, Error>(made)
        };
        match producer
            .process(&mut consumer, ExactlyOnceOptions::default(), transform)
            .await
        {
            Ok(_) => {}
            Err(error) => match error.downcast_ref::<ClientError>() {
                Some(client) if client.is_retryable() => say(office, format!("waits: {client}")),
                _ => return Err(error),
            },
        }
    }
}

async fn check(client: &Client, flags: &Flags, trips: Option<usize>) -> Result<Check, Error> {
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer
        .assign_topic(&flags.name("trip-events"), StartAt::Earliest)
        .await?;
    let ends = consumer.end_offsets().await?;
    let mut events: BTreeMap<String, Vec<Happened>> = BTreeMap::new();
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await? {
            let trip = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
            let event = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
            events.entry(trip).or_default().push(event);
        }
    }
    let mut check = Check::default();
    if let Some(trips) = trips {
        check.same("each trip that was asked for is known", events.len(), trips);
    }
    let has_ended = events.values().filter(|events| events.iter().any(is_end)).count();
    check.same("each trip has ended", has_ended, events.len());
    let once = events.values().filter(|events| {
        let mut sorted = (*events).clone();
        sorted.sort_unstable();
        sorted.windows(2).all(|pair| pair[0] != pair[1])
    });
    check.same("nothing happened to a trip twice", once.count(), events.len());
    let held = |events: &[Happened], office: &str| {
        let has = |event: Happened| events.contains(&event);
        has(Happened::Booked(office.to_owned())) && !has(Happened::Cancelled(office.to_owned()))
    };
    let count = |events: &[Happened]| OFFICES.iter().filter(|office| held(events, office)).count();
    let whole = events.values().filter(|events| count(events) == OFFICES.len()).count();
    let nothing = events.values().filter(|events| count(events) == 0).count();
    check.same(
        "each trip is booked whole, or nothing of it is",
        whole + nothing,
        events.len(),
    );
    check.that(
        "some trips were booked, and some turned back",
        whole > 0 && nothing > 0,
        format!("{whole} and {nothing}"),
    );
    Ok(check)
}
