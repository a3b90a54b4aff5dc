//! Overload: a store that is too slow makes the sensors before it slow down, in numbers, instead of making anything overflow.
//!
//! ```text
//! sensor ── FlowProducer ──► topic "readings"              ──► Flow ──► store
//!   wants 2,000/s   window     at most 500 records behind        at most 200 under way     slow: 400/s
//!   ▲               of what    (max.group.lag.records)            partitions paused         down: the breaker opens
//!   └── waits ◄──── is acknowledged ◄── GROUP_LAG ◄── lag grows ◄── beyond that             fast: all that comes
//! ```
//!
//! The store is slow, then down, then fast. Each line shows both ends: what the sensor sends follows what the store takes.
//!
//! What must hold, whoever dies: each reading is stored once; never is more under way in the store's process than it may; the sensor was
//! slowed down, and not by losing anything.
//!
//! ```text
//! make up && make example NAME=overload
//! make example NAME=overload ARGS='--nemesis 15'
//! ```

mod common;

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, create_topic, number, open, say};
use jangada_client::{ConsumedRecord, Env, OffsetCommit, ProducerConfig, ProducerRecord, TopicPartition};
use jangada_patterns::Backoff;
use jangada_patterns::flow::{
    Accepted, BreakerConfig, Failure, Flow, FlowConfig, FlowProducer, FlowProducerConfig, TokenBucket,
};
use jangada_patterns::inbox::SqliteInbox;
use sqlx::SqlitePool;
use tokio::time::{Instant, sleep};

/// Readings a second that the sensor would send.
const WANTED: f64 = 2_000.0;
/// Records that the store may be behind in a partition before the brokers take no more.
const LAG_MAX: &str = "500";
/// Records that may be under way in the store's process.
const UNDER_WAY_MAX: usize = 200;

#[derive(Parser)]
#[command(about = "Back pressure from a slow consumer to the producer, in numbers")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Seconds of each of the three phases; longer while the nemesis goes on
    #[arg(long, default_value_t = 6)]
    seconds: u64,
}

/// Readings that are stored, of those that the sensor has noted as acknowledged. Beyond them may be some that a sensor had sent when it was
/// killed.
const STORED: &str = "SELECT COUNT(DISTINCT number) FROM readings WHERE number < (SELECT acknowledged FROM sensor)";

/// What the store is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Slow,
    Down,
    Fast,
}

const PHASES: [Phase; 3] = [Phase::Slow, Phase::Down, Phase::Fast];

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<Option<Check>, Error> {
    let Args { flags, seconds } = args;
    let flags = flags.complete("overload")?;
    match flags.role.as_deref() {
        Some("sensor") => common::worker("sensor", sense(&flags)).await?,
        Some(store) => common::worker(store, store_readings(&flags)).await?,
        None if flags.check => return check(&flags).await.map(Some),
        None => return lead(&flags, Duration::from_secs(seconds.max(2))).await.map(Some),
    }
    Ok(None)
}

async fn lead(flags: &Flags, phase: Duration) -> Result<Check, Error> {
    let client = flags.client().await?;
    let admin = client.admin();
    let group = flags.name("store");
    let settings = [
        ("max.group.lag.records", LAG_MAX),
        ("max.group.lag.groups", group.as_str()),
    ];
    let topic = flags.name("readings");
    create_topic(&admin, &topic, 2, &settings).await?;
    // A group counts from its first commit on, and a store that is killed again and again may be late with it.
    let topic_id = client.topic(&topic).await?.id;
    let beginning = [0, 1].map(|partition| TopicPartition {
        topic: topic.as_str().into(),
        topic_id,
        partition,
    });
    let beginning = beginning.map(|partition| OffsetCommit::new(partition, 0));
    admin.commit_offsets(&group, &beginning).await?;
    say(
        "lead",
        format!(
            "run {}: a sensor and a store, in {}",
            flags.run(),
            flags.dir().display()
        ),
    );
    let pool = db(&flags.dir()).await?;
    let mut crew = Crew::new(flags, &[]);
    for role in ["store", "sensor"] {
        crew.start(role)?;
    }
    let phase = phase.max(flags.nemesis() / 3);
    say(
        "lead",
        "store | sent/s, window, answer ms, waited ms/s | stored/s, under way, paused, breaker | behind",
    );
    for (index, name) in (0_i64..).zip(PHASES) {
        sqlx::query("UPDATE state SET phase = ?")
            .bind(index)
            .execute(&pool)
            .await?;
        show(&mut crew, &pool, name, phase).await?;
    }
    sqlx::query("UPDATE state SET is_open = 0").execute(&pool).await?;
    crew.until(
        "all that is acknowledged is stored",
        Duration::from_secs(120),
        async || {
            let closed = number(&pool, "SELECT is_open FROM state").await? == 2;
            let stored = number(&pool, "SELECT COUNT(*) FROM readings").await?;
            Ok(closed && stored >= number(&pool, "SELECT acknowledged FROM sensor").await?)
        },
    )
    .await?;
    say("lead", format!("{} processes were killed on the way", crew.kills()));
    drop(crew);
    check(flags).await
}

/// What the slow phase waits for beside its time: a store that was killed gets its partitions back when its session is over.
const PRESSURE: &str = "SELECT pauses > 0 AND waited_most > 0 FROM store, sensor";
/// How long it waits for that.
const PRESSURE_WITHIN: Duration = Duration::from_secs(120);

/// Shows both ends, each second of a phase. The slow one goes on until the store has paused and the sensor has waited.
async fn show(crew: &mut Crew, pool: &SqlitePool, phase: Phase, lasts: Duration) -> Result<(), Error> {
    let until = Instant::now() + lasts;
    let mut before = seen(pool).await?;
    let mut at = Instant::now();
    let within = lasts + PRESSURE_WITHIN;
    crew.until("the store pauses, and the sensor waits", within, async || {
        if at.elapsed() >= Duration::from_secs(1) {
            let (now, seconds) = (seen(pool).await?, at.elapsed().as_secs_f64());
            let rate = |now: i64, before: i64| ((now - before) as f64 / seconds).round() as i64;
            say(
                &format!("{phase:?}"),
                format!(
                    "{:5}/s {:5} {:5} ms {:5} ms/s | {:5}/s {:4} {} {} | {}",
                    rate(now.acknowledged, before.acknowledged),
                    now.window,
                    now.delay_ms,
                    rate(now.waited_ms, before.waited_ms).max(0),
                    rate(now.stored, before.stored),
                    now.under_way,
                    if now.is_paused { "paused" } else { "      " },
                    if now.is_broken { "open" } else { "    " },
                    (now.acknowledged - now.stored).max(0),
                ),
            );
            let behind = sqlx::query("UPDATE state SET behind_most = MAX(behind_most, ?)");
            behind.bind(now.acknowledged - now.stored).execute(pool).await?;
            (before, at) = (now, Instant::now());
        }
        let is_over = Instant::now() >= until;
        Ok(is_over && (phase != Phase::Slow || number(pool, PRESSURE).await? > 0))
    })
    .await
}

/// What both ends have noted.
struct Seen {
    acknowledged: i64,
    window: i64,
    delay_ms: i64,
    waited_ms: i64,
    stored: i64,
    under_way: i64,
    is_paused: bool,
    is_broken: bool,
}

async fn seen(pool: &SqlitePool) -> Result<Seen, Error> {
    let query = "SELECT acknowledged, window, delay_ms, waited_ms, (SELECT COUNT(*) FROM readings) AS stored, under_way, is_paused, \
                 is_broken FROM sensor, store";
    let (acknowledged, window, delay_ms, waited_ms, stored, under_way, is_paused, is_broken) =
        sqlx::query_as(query).fetch_one(pool).await?;
    Ok(Seen {
        acknowledged,
        window,
        delay_ms,
        waited_ms,
        stored,
        under_way,
        is_paused,
        is_broken,
    })
}

async fn db(dir: &Path) -> Result<SqlitePool, Error> {
    let pool = open(dir, "overload").await?;
    for statement in [
        "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), phase INTEGER, is_open INTEGER, behind_most INTEGER)",
        "INSERT INTO state VALUES (1, 0, 1, 0) ON CONFLICT DO NOTHING",
        "CREATE TABLE IF NOT EXISTS sensor (id INTEGER PRIMARY KEY CHECK (id = 1), acknowledged INTEGER, window INTEGER, delay_ms INTEGER, \
         waited_ms INTEGER, waited_most INTEGER)",
        "INSERT INTO sensor VALUES (1, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING",
        "CREATE TABLE IF NOT EXISTS store (id INTEGER PRIMARY KEY CHECK (id = 1), under_way INTEGER, under_way_most INTEGER, \
         is_paused INTEGER, is_broken INTEGER, pauses INTEGER)",
        "INSERT INTO store VALUES (1, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING",
        "CREATE TABLE IF NOT EXISTS readings (place INTEGER PRIMARY KEY, number INTEGER NOT NULL)",
    ] {
        sqlx::query(statement).execute(&pool).await?;
    }
    Ok(pool)
}

/// Sends readings as fast as it may. One that was killed goes on behind the last reading of which it noted that all before it are
/// acknowledged; the store knows those that come twice.
async fn sense(flags: &Flags) -> Result<(), Error> {
    let pool = db(&flags.dir()).await?;
    let producer = flags.client().await?.producer(ProducerConfig::default())?;
    let producer = FlowProducer::new(producer, FlowProducerConfig::default());
    let topic: Arc<str> = flags.name("readings").into();
    let mut wanted = TokenBucket::new(WANTED, 50, Instant::now());
    let mut next = number(&pool, "SELECT acknowledged FROM sensor").await?;
    let mut acknowledged = next;
    let mut under_way: VecDeque<Accepted> = VecDeque::new();
    let mut noted = Instant::now();
    loop {
        if let Err(wait) = wanted.take(Instant::now()) {
            sleep(wait).await;
            continue;
        }
        let record = ProducerRecord::new(topic.clone())
            .with_key(format!("sensor-{}", next % 16))
            .with_value(next.to_string());
        // While the brokers hold answers back this waits: that is the whole of the back pressure.
        under_way.push_back(producer.send(record).await?);
        next += 1;
        while under_way.len() > producer.pressure().in_flight || under_way.len() > 2_000 {
            let oldest = under_way.pop_front().expect("there are more than none");
            oldest.delivered().await?;
            acknowledged += 1;
        }
        if noted.elapsed() > Duration::from_millis(200) {
            noted = Instant::now();
            note(&pool, acknowledged, &producer).await?;
            if number(&pool, "SELECT is_open FROM state").await? == 0 {
                break;
            }
        }
    }
    for left in under_way {
        left.delivered().await?;
        acknowledged += 1;
    }
    note(&pool, acknowledged, &producer).await?;
    sqlx::query("UPDATE state SET is_open = 2").execute(&pool).await?;
    std::future::pending().await
}

async fn note(pool: &SqlitePool, acknowledged: i64, producer: &FlowProducer) -> Result<(), Error> {
    let pressure = producer.pressure();
    let waited = pressure.waited.as_millis() as i64;
    let noted = sqlx::query(
        "UPDATE sensor SET acknowledged = ?, window = ?, delay_ms = ?, waited_ms = ?, waited_most = MAX(waited_most, ?)",
    );
    let noted = noted
        .bind(acknowledged)
        .bind(pressure.window as i64)
        .bind(pressure.delay.as_millis() as i64);
    noted.bind(waited).bind(waited).execute(pool).await?;
    Ok(())
}

/// Stores readings, as fast as the phase allows.
async fn store_readings(flags: &Flags) -> Result<(), Error> {
    let pool = db(&flags.dir()).await?;
    let inbox = SqliteInbox::create(pool.clone(), "store", Env::system()).await?;
    let mut config = FlowConfig::new(flags.name("store"), [flags.name("readings")]);
    config.group.session_timeout = Duration::from_secs(5);
    config.in_flight_max = UNDER_WAY_MAX;
    config.commit_interval = Duration::from_millis(200);
    config.attempts_max = 0;
    config.backoff = Backoff {
        first: Duration::from_millis(50),
        most: Duration::from_secs(1),
    };
    config.breaker = Some(BreakerConfig {
        failures: 5,
        open_for: Duration::from_secs(1),
    });
    let flow = Flow::start(&flags.client().await?, config, Env::system())?;
    let mut state = flow.watch();
    let noting = async {
        let mut most = 0;
        loop {
            let now = *state.borrow_and_update();
            most = most.max(now.under_way);
            let noted = sqlx::query(
                "UPDATE store SET under_way = ?, under_way_most = MAX(under_way_most, ?), is_paused = ?, is_broken = ?, \
                 pauses = MAX(pauses, ?)",
            );
            let noted = noted
                .bind(now.under_way as i64)
                .bind(most as i64)
                .bind(now.is_paused)
                .bind(now.is_broken);
            noted.bind(now.tally.pauses as i64).execute(&pool).await?;
            sleep(Duration::from_millis(100)).await;
            most = state.borrow().under_way;
        }
    };
    let handle = |record| keep(&inbox, &pool, record);
    tokio::select! {
        tally = flow.run(std::future::pending(), handle) => tally.map(drop).map_err(Error::from),
        noted = noting => noted,
    }
}

async fn keep(inbox: &SqliteInbox, pool: &SqlitePool, record: Arc<ConsumedRecord>) -> Result<(), Failure> {
    let value = record.value.as_deref().unwrap_or_default();
    let reading: i64 = std::str::from_utf8(value)
        .map_err(Failure::give_up)?
        .parse()
        .map_err(Failure::give_up)?;
    let phase = number(pool, "SELECT phase FROM state").await.map_err(Failure::again)?;
    match PHASES.get(phase as usize).copied().unwrap_or(Phase::Fast) {
        // Eight at once: 400 a second at most.
        Phase::Slow => sleep(Duration::from_millis(20)).await,
        Phase::Down => return Err(Failure::again("the store is down")),
        Phase::Fast => {}
    }
    let mut transaction = inbox.begin().await?;
    if inbox.claim(&mut transaction, &reading.to_string()).await?.is_none() {
        let kept = sqlx::query("INSERT INTO readings (number) VALUES (?)").bind(reading);
        kept.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn check(flags: &Flags) -> Result<Check, Error> {
    let pool = db(&flags.dir()).await?;
    let mut check = Check::default();
    let acknowledged = number(&pool, "SELECT acknowledged FROM sensor").await?;
    check.same(
        "each reading that was acknowledged is stored",
        number(&pool, STORED).await?,
        acknowledged,
    );
    let stored = number(&pool, "SELECT COUNT(*) FROM readings").await?;
    let different = number(&pool, "SELECT COUNT(DISTINCT number) FROM readings").await?;
    check.same("and each that is stored is stored once", different, stored);
    // Two partitions may each bring one more while they are being paused.
    let most = number(&pool, "SELECT under_way_most FROM store").await?;
    let bound = UNDER_WAY_MAX as i64 + 2;
    check.that(
        "never was more under way in the store than it may",
        most <= bound,
        format!("{most}, at most {bound}"),
    );
    let pauses = number(&pool, "SELECT pauses FROM store").await?;
    check.that("the store paused its partitions", pauses > 0, format!("{pauses} times"));
    let waited = number(&pool, "SELECT waited_most FROM sensor").await?;
    check.that(
        "the sensor was made to wait",
        waited > 0,
        format!("{waited} ms in one life of it"),
    );
    // The brokers know how far a group is as of a second ago, in which the sensor sends at most what it wants. Where leaders are killed, a
    // partition's new leader knows of no group until the group's coordinator has a new leader as well: that may take some seconds more.
    let late = if flags.nemesis > 0 { 6 } else { 2 };
    let behind = number(&pool, "SELECT behind_most FROM state").await?;
    let bound = 2 * LAG_MAX.parse::<i64>()? + late * WANTED as i64;
    check.that(
        "never was the store further behind than it may",
        behind <= bound,
        format!("{behind}, at most {bound}"),
    );
    Ok(check)
}
