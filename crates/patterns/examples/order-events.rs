//! An event bus: a shop publishes what happens to its orders, and five services each do their part, none knowing of another.
//!
//! ```text
//!          topic "orders", by order                       billing     ─┐
//! shop ──► placed(1) paid(2) shipped(3) ──► a group each: warehouse    ├─ each notes what it saw, in its own database,
//!          some written by an old till                    shipping     │  once for each event id
//!          one by a till from the future                  mail         │
//!                                                         statistics  ─┘
//! ```
//!
//! What must hold, whoever dies: each service has seen each event once, those of an order in their order; the event that nobody can read is
//! in the dead letters.
//!
//! ```text
//! make up && make example NAME=order-events
//! make example NAME=order-events ARGS='--nemesis 15'
//! ```

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, create_topic, number, open, round_up, say};
use futures::future::try_join_all;
use jangada_client::{Client, ConsumerConfig, Env, ProducerConfig, StartAt};
use jangada_patterns::DeadLetters;
use jangada_patterns::events::{Envelope, Event, EventBus, Subscriber, SubscriberConfig};
use jangada_patterns::flow::Failure;
use jangada_patterns::inbox::SqliteInbox;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::SqlitePool;

const SERVICES: [&str; 5] = ["billing", "warehouse", "shipping", "mail", "statistics"];

/// Orders that are under way at the same time.
const AT_ONCE: i64 = 20;

#[derive(Parser)]
#[command(about = "An event bus with five independent services")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Orders, each with three events; more while the nemesis goes on
    #[arg(long, default_value_t = 200)]
    orders: i64,
}

/// An order was placed. In version 1 it had whole `coins`.
#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order: String,
    cents: u64,
}

/// An order was paid.
#[derive(Serialize, Deserialize)]
struct OrderPaid {
    order: String,
}

/// An order has left the house.
#[derive(Serialize, Deserialize)]
struct OrderShipped {
    order: String,
    parcel: String,
}

/// What the shop's first tills write.
#[derive(Serialize, Deserialize)]
struct OrderPlacedByOldTill {
    order: String,
    coins: u64,
}

/// What no service here knows as yet.
#[derive(Serialize, Deserialize)]
struct OrderPlacedInFuture {
    order: String,
}

macro_rules! events {
    ($($event:ident = $name:literal, version $version:literal;)*) => {
        $(impl Event for $event {
            const TYPE: &'static str = $name;
            const VERSION: u32 = $version;

            fn key(&self) -> String {
                self.order.clone()
            }
        })*
    };
}

events! {
    OrderPlaced = "shop.order.placed", version 2;
    OrderPlacedByOldTill = "shop.order.placed", version 1;
    OrderPlacedInFuture = "shop.order.placed", version 3;
    OrderPaid = "shop.order.paid", version 1;
    OrderShipped = "shop.order.shipped", version 1;
}

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<Option<Check>, Error> {
    let Args { flags, orders } = args;
    let flags = flags.complete("order-events")?;
    match flags.role.as_deref() {
        Some("shop") => common::worker("shop", shop(&flags)).await?,
        Some(service) => common::worker(service, serve(&flags, service)).await?,
        None if flags.check => return check(&flags).await.map(Some),
        None => return lead(&flags, orders).await.map(Some),
    }
    Ok(None)
}

/// Starts everybody, waits until all is seen, and checks.
async fn lead(flags: &Flags, orders: i64) -> Result<Check, Error> {
    let admin = flags.client().await?.admin();
    create_topic(&admin, &flags.name("orders"), 6, &[]).await?;
    create_topic(&admin, &flags.name("orders-dead"), 1, &[]).await?;
    say(
        "lead",
        format!(
            "run {}: one shop and five services, in {}",
            flags.run(),
            flags.dir().display()
        ),
    );
    let shop = shop_db(&flags.dir()).await?;
    let mut crew = Crew::new(flags, &[]);
    for role in ["shop"].into_iter().chain(SERVICES) {
        crew.start(role)?;
    }
    let enough = round_up(orders.max(1), AT_ONCE);
    let hunted = flags.nemesis();
    let started = tokio::time::Instant::now();
    let within = hunted + Duration::from_secs(180);
    crew.until("the shop has published enough", within, async || {
        Ok(started.elapsed() >= hunted && published(&shop).await? >= 3 * enough)
    })
    .await?;
    sqlx::query("UPDATE shop SET is_open = 0").execute(&shop).await?;
    let mut services = Vec::new();
    for service in SERVICES {
        services.push(service_db(&flags.dir(), service).await?);
    }
    let mut last = -1;
    crew.until("every service has seen every event", within, async || {
        let (events, mut seen) = (published(&shop).await?, Vec::new());
        for service in &services {
            seen.push(number(service, "SELECT COUNT(*) FROM seen").await?);
        }
        let total: i64 = seen.iter().sum();
        if total != last {
            say("lead", format!("{events} events; seen by {SERVICES:?}: {seen:?}"));
            last = total;
        }
        Ok(total >= events * 5)
    })
    .await?;
    say("lead", format!("{} processes were killed on the way", crew.kills()));
    drop(crew);
    check(flags).await
}

async fn shop_db(dir: &Path) -> Result<SqlitePool, Error> {
    let pool = open(dir, "shop").await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS shop (id INTEGER PRIMARY KEY CHECK (id = 1), next INTEGER, is_open INTEGER)",
    )
    .execute(&pool)
    .await?;
    sqlx::query("INSERT INTO shop VALUES (1, 0, 1) ON CONFLICT DO NOTHING")
        .execute(&pool)
        .await?;
    Ok(pool)
}

async fn published(shop: &SqlitePool) -> Result<i64, Error> {
    number(shop, "SELECT next FROM shop").await
}

async fn service_db(dir: &Path, service: &str) -> Result<SqlitePool, Error> {
    let pool = open(dir, service).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS seen (place INTEGER PRIMARY KEY, number INTEGER, step INTEGER)")
        .execute(&pool)
        .await?;
    Ok(pool)
}

/// Publishes the events of orders, twenty orders at a time, a step of each. A shop that was killed begins its last step again, under the
/// same ids.
async fn shop(flags: &Flags) -> Result<(), Error> {
    let pool = shop_db(&flags.dir()).await?;
    let producer = flags.client().await?.producer(ProducerConfig::default())?;
    let bus = EventBus::new(producer, flags.name("orders"), "/shop/till", Env::system());
    if published(&pool).await? == 0 {
        let order = "o-from-the-future".to_owned();
        bus.publish_as("future", OrderPlacedInFuture { order }).await?;
    }
    loop {
        let next = published(&pool).await?;
        // Whole orders only.
        if next % (3 * AT_ONCE) == 0 && number(&pool, "SELECT is_open FROM shop").await? == 0 {
            std::future::pending::<()>().await;
        }
        let (round, step) = (next / (3 * AT_ONCE), next % (3 * AT_ONCE) / AT_ONCE + 1);
        let publish = |number: i64| publish(&bus, round * AT_ONCE + number, step);
        try_join_all((0..AT_ONCE).map(publish)).await?;
        sqlx::query("UPDATE shop SET next = next + ?")
            .bind(AT_ONCE)
            .execute(&pool)
            .await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn publish(bus: &EventBus, number: i64, step: i64) -> Result<(), Error> {
    let (order, id) = (format!("o-{number}"), format!("{number}-{step}"));
    let coins = number as u64 % 90 + 10;
    match step {
        1 if number % 10 == 0 => bus.publish_as(id, OrderPlacedByOldTill { order, coins }).await?,
        1 => {
            bus.publish_as(
                id,
                OrderPlaced {
                    order,
                    cents: coins * 100,
                },
            )
            .await?
        }
        2 => bus.publish_as(id, OrderPaid { order }).await?,
        _ => {
            bus.publish_as(
                id,
                OrderShipped {
                    order,
                    parcel: format!("p-{number}"),
                },
            )
            .await?
        }
    };
    Ok(())
}

/// One service: a group of its own, which handles four orders at once.
async fn serve(flags: &Flags, service: &str) -> Result<(), Error> {
    let client = flags.client().await?;
    let pool = service_db(&flags.dir(), service).await?;
    let inbox = Arc::new(SqliteInbox::create(pool, service, Env::system()).await?);
    let mut config = SubscriberConfig::new(flags.name(service), [flags.name("orders")]);
    config.flow.concurrency = 4;
    config.flow.group.session_timeout = Duration::from_secs(5);
    let dead = client.producer(ProducerConfig::default())?;
    config.flow.dead_letters = Some(DeadLetters::new(dead, flags.name("orders-dead")));
    let mut subscriber = Subscriber::new(&client, config);
    subscriber.upcasters().step("shop.order.placed", 1, |mut data| {
        let coins = data["coins"].as_u64().ok_or("it has no coins")?;
        data["cents"] = json!(coins * 100);
        Ok(data)
    });
    let at = inbox.clone();
    subscriber.on(move |placed: Envelope<OrderPlaced>| see(at.clone(), placed.id, placed.event.order));
    let at = inbox.clone();
    subscriber.on(move |paid: Envelope<OrderPaid>| see(at.clone(), paid.id, paid.event.order));
    subscriber.on(move |shipped: Envelope<OrderShipped>| see(inbox.clone(), shipped.id, shipped.event.order));
    subscriber.run(std::future::pending()).await?;
    Ok(())
}

/// What a service does with an event: notes it, with the id, in one transaction of its database.
async fn see(inbox: Arc<SqliteInbox>, id: String, order: String) -> Result<(), Failure> {
    let (number, step) = id
        .split_once('-')
        .ok_or_else(|| Failure::give_up("an id without a step"))?;
    let mut transaction = inbox.begin().await?;
    if inbox.claim(&mut transaction, &id).await?.is_none() {
        let number: i64 = number.parse().map_err(Failure::give_up)?;
        assert_eq!(order, format!("o-{number}"), "the event is about its order");
        let step: i64 = step.parse().map_err(Failure::give_up)?;
        let seen = sqlx::query("INSERT INTO seen (number, step) VALUES (?, ?)")
            .bind(number)
            .bind(step);
        seen.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn check(flags: &Flags) -> Result<Check, Error> {
    let mut check = Check::default();
    let events = published(&shop_db(&flags.dir()).await?).await?;
    for service in SERVICES {
        let pool = service_db(&flags.dir(), service).await?;
        let seen: Vec<(i64, i64)> = sqlx::query_as("SELECT number, step FROM seen ORDER BY place")
            .fetch_all(&pool)
            .await?;
        let mut orders: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (number, step) in &seen {
            orders.entry(*number).or_default().push(*step);
        }
        let in_order = orders.values().filter(|steps| **steps == [1, 2, 3]).count() as i64;
        check.same(&format!("{service} saw each event once"), seen.len() as i64, events);
        check.same(
            &format!("{service} saw placed, paid, shipped of each order in this order"),
            in_order,
            events / 3,
        );
    }
    let dead = dead_letters(&flags.client().await?, &flags.name("orders-dead")).await?;
    let is_future = |letter: &String| letter.contains("version 3 is newer");
    check.that(
        "what nobody can read is in the dead letters, and nothing else",
        !dead.is_empty() && dead.iter().all(is_future),
        format!("{} letters", dead.len()),
    );
    Ok(check)
}

/// The reasons of the dead letters that a topic has.
async fn dead_letters(client: &Client, topic: &str) -> Result<Vec<String>, Error> {
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let (ends, mut reasons) = (consumer.end_offsets().await?, Vec::new());
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await? {
            let reason = record.headers.iter().find(|header| header.key == "dead-letter-reason");
            let reason = reason.and_then(|header| header.value.as_deref()).unwrap_or_default();
            reasons.push(String::from_utf8_lossy(reason).into_owned());
        }
    }
    Ok(reasons)
}
