//! A job queue: four workers compete for jobs, failed ones come again, what cannot be done becomes a dead letter, and goes out again when
//! the mistake is mended.
//!
//! ```text
//! sender ──► queue "jobs", known ids are taken once ──► worker-1 ... worker-4 ──► effects, in one database, once for each job
//!                  ▲                                        │ fails: again, a little later
//!                  └──────── redrive, once it is mended ◄── dead letters: failed too often, or refused by the worker
//! ```
//!
//! Of fifty jobs one has a mistake in it that a new version of the worker bears ("curable"), and one is nonsense ("hopeless").
//!
//! What must hold, whoever dies: every job that can be done has its effect once, by its id; before the redrive the curable and the
//! hopeless are in the dead letters, after it the hopeless alone.
//!
//! ```text
//! make up && make example NAME=job-queue
//! make example NAME=job-queue ARGS='--nemesis 15'
//! ```

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, number, open, replicas, round_up, say};
use jangada_client::{
    Admin, Client, DeadFilter, Env, MessageState, NewQueue, QueueConsumerConfig, QueueMessage, QueueProducerConfig,
    Redrive, Verdict, Worker,
};
use jangada_patterns::inbox::SqliteInbox;
use sqlx::SqlitePool;

const WORKERS: [&str; 4] = ["worker-1", "worker-2", "worker-3", "worker-4"];
const PARTITIONS: u32 = 4;

/// Jobs that are sent with one call.
const AT_ONCE: i64 = 10;

#[derive(Parser)]
#[command(about = "Competing workers, retries, dead letters, redrive")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Jobs; more while the nemesis goes on
    #[arg(long, default_value_t = 500)]
    jobs: i64,
}

/// What is in a job; its number tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Good,
    /// Fails once, then works.
    Shaky,
    /// Fails until somebody has mended the workers.
    Curable,
    /// No worker will ever do it.
    Hopeless,
}

impl Job {
    fn of(number: i64) -> Self {
        match number % 50 {
            7 => Self::Curable,
            13 => Self::Hopeless,
            n if n % 10 == 4 => Self::Shaky,
            _ => Self::Good,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<Option<Check>, Error> {
    let Args { flags, jobs } = args;
    let flags = flags.complete("job-queue")?;
    match flags.role.as_deref() {
        Some("sender") => common::worker("sender", send(&flags)).await?,
        Some(worker) => common::worker(worker, work(&flags, worker)).await?,
        None if flags.check => {
            let mut check = Check::default();
            check_effects(&flags, &mut check).await?;
            return Ok(Some(check));
        }
        None => return lead(&flags, jobs).await.map(Some),
    }
    Ok(None)
}

async fn lead(flags: &Flags, jobs: i64) -> Result<Check, Error> {
    let client = flags.client().await?;
    let admin = client.admin();
    let queue = flags.name("jobs");
    create_queue(&admin, &queue).await?;
    say(
        "lead",
        format!(
            "run {}: one sender and four workers, in {}",
            flags.run(),
            flags.dir().display()
        ),
    );
    let pool = jobs_db(&flags.dir()).await?;
    let mut crew = Crew::new(flags, &[]);
    for role in ["sender"].into_iter().chain(WORKERS) {
        crew.start(role)?;
    }
    let enough = round_up(jobs.max(50), AT_ONCE);
    let hunted = flags.nemesis();
    let started = tokio::time::Instant::now();
    let within = hunted + Duration::from_secs(180);
    crew.until("enough is sent", within, async || {
        Ok(started.elapsed() >= hunted && number(&pool, "SELECT sent FROM plan").await? >= enough)
    })
    .await?;
    sqlx::query("UPDATE plan SET is_open = 0").execute(&pool).await?;
    // The sender has seen that when it sends no more.
    let sent = settled(&mut crew, &pool).await?;
    crew.until("nothing is left but dead letters", within, async || {
        is_idle(&admin, &queue).await
    })
    .await?;

    let mut check = Check::default();
    let dead = dead_letters(&client, &queue).await?;
    say("lead", format!("{sent} jobs sent; dead letters: {}", tell(&dead)));
    let is_bad = |number: &i64| matches!(Job::of(*number), Job::Curable | Job::Hopeless);
    let bad = (0..sent).filter(is_bad).count();
    let found = dead.keys().filter(|number| is_bad(number)).count();
    check.same("each curable and hopeless job is a dead letter", found, bad);

    say(
        "lead",
        "the workers are mended; what failed too often goes out again, what they refused stays dead",
    );
    sqlx::query("UPDATE plan SET is_mended = 1").execute(&pool).await?;
    let wanted = Redrive {
        filter: DeadFilter {
            reasons: vec!["attempts".to_owned()],
            ..DeadFilter::default()
        },
        ..Redrive::default()
    };
    let mut redriving = admin.redrive_dead(&queue, wanted).await?;
    while let Some(step) = redriving.next().await {
        step?;
    }
    say(
        "lead",
        format!("{} dead letters went out again", redriving.progress().messages),
    );
    crew.until("nothing is left but dead letters", within, async || {
        is_idle(&admin, &queue).await
    })
    .await?;
    say("lead", format!("{} processes were killed on the way", crew.kills()));
    drop(crew);

    let dead = dead_letters(&client, &queue).await?;
    say("lead", format!("dead letters: {}", tell(&dead)));
    let hopeless = dead.keys().filter(|number| Job::of(**number) == Job::Hopeless).count();
    let expected = (0..sent).filter(|number| Job::of(*number) == Job::Hopeless).count();
    check.same("each hopeless job is a dead letter", hopeless, expected);
    check.same("nothing else is", dead.len(), hopeless);
    check_effects(flags, &mut check).await?;
    Ok(check)
}

async fn create_queue(admin: &Admin, name: &str) -> Result<(), Error> {
    let mut queue = NewQueue::new(name, PARTITIONS, replicas(admin).await?);
    let settings = [
        ("queue.attempts.max", "8"),
        ("queue.retry.min.ms", "100"),
        ("queue.retry.max.ms", "1000"),
        ("queue.lease.ms", "5000"),
        ("queue.dedup", "id"),
    ];
    queue.config = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    queue.if_not_exists = true;
    admin.create_queue(queue).await?;
    Ok(())
}

async fn jobs_db(dir: &Path) -> Result<SqlitePool, Error> {
    let pool = open(dir, "jobs").await?;
    for statement in [
        "CREATE TABLE IF NOT EXISTS plan (id INTEGER PRIMARY KEY CHECK (id = 1), sent INTEGER, is_open INTEGER, is_closed INTEGER, \
         is_mended INTEGER)",
        "INSERT INTO plan VALUES (1, 0, 1, 0, 0) ON CONFLICT DO NOTHING",
        "CREATE TABLE IF NOT EXISTS effects (place INTEGER PRIMARY KEY, job INTEGER NOT NULL, worker TEXT NOT NULL)",
    ] {
        sqlx::query(statement).execute(&pool).await?;
    }
    Ok(pool)
}

/// Sends jobs until the plan is closed. A sender that was killed sends its last ten again; the queue knows their ids.
async fn send(flags: &Flags) -> Result<(), Error> {
    let pool = jobs_db(&flags.dir()).await?;
    let client = flags.client().await?;
    let producer = client
        .queue_producer(flags.name("jobs"), QueueProducerConfig::default())
        .await?;
    loop {
        if number(&pool, "SELECT is_open FROM plan").await? == 0 {
            sqlx::query("UPDATE plan SET is_closed = 1").execute(&pool).await?;
            std::future::pending::<()>().await;
        }
        let next = number(&pool, "SELECT sent FROM plan").await?;
        let job =
            |number: i64| QueueMessage::new(format!("resize picture {number}")).with_message_id(number.to_string());
        for sent in producer.send_batch((next..next + AT_ONCE).map(job).collect()).await {
            sent?;
        }
        sqlx::query("UPDATE plan SET sent = ?")
            .bind(next + AT_ONCE)
            .execute(&pool)
            .await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the sender has closed the plan; returns how many jobs it sent.
async fn settled(crew: &mut Crew, pool: &SqlitePool) -> Result<i64, Error> {
    let closed = async || Ok(number(pool, "SELECT is_closed FROM plan").await? == 1);
    crew.until("the sender has ended", Duration::from_secs(120), closed)
        .await?;
    number(pool, "SELECT sent FROM plan").await
}

/// One worker: four jobs at once, no more in hand than that.
async fn work(flags: &Flags, name: &str) -> Result<(), Error> {
    let pool = jobs_db(&flags.dir()).await?;
    let inbox = SqliteInbox::create(pool.clone(), "jobs", Env::system()).await?;
    let config = QueueConsumerConfig {
        prefetch: 4,
        ..QueueConsumerConfig::default()
    };
    let worker = Worker::new(&flags.client().await?, flags.name("jobs")).with_config(config);
    let run = worker.run(4, |message| {
        let (pool, inbox) = (&pool, &inbox);
        async move {
            let Some(job) = message.message_id.as_deref().and_then(|id| id.parse().ok()) else {
                return Verdict::Reject("it has no number".to_owned());
            };
            match Job::of(job) {
                Job::Hopeless => Verdict::Reject("there is no such picture".to_owned()),
                Job::Shaky if message.failures == 0 => Verdict::Nack(None),
                Job::Curable => match number(pool, "SELECT is_mended FROM plan").await {
                    Ok(1) => effect(inbox, job, name).await.into(),
                    _ => Verdict::Nack(None),
                },
                Job::Good | Job::Shaky => effect(inbox, job, name).await.into(),
            }
        }
    });
    run.await?;
    Ok(())
}

/// The effect of a job, with its id in the same transaction: a job that comes again, as its worker died before the queue heard of it, has
/// no other one.
async fn effect(inbox: &SqliteInbox, job: i64, worker: &str) -> Result<(), Error> {
    let mut transaction = inbox.begin().await?;
    if inbox.claim(&mut transaction, &job.to_string()).await?.is_none() {
        let effect = sqlx::query("INSERT INTO effects (job, worker) VALUES (?, ?)")
            .bind(job)
            .bind(worker);
        effect.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Whether the queue has nothing but dead letters. A leader that has just begun may not be asked yet.
async fn is_idle(admin: &Admin, queue: &str) -> Result<bool, Error> {
    let Ok(described) = admin.describe_queue(queue).await else {
        return Ok(false);
    };
    let is_idle =
        |counts: &jangada_client::QueueCounts| counts.ready + counts.delayed + counts.leased + counts.waiting == 0;
    let mut partitions = described.partitions.iter();
    Ok(partitions.all(|partition| partition.counts.as_ref().is_some_and(is_idle)))
}

/// The dead letters by job, with the reason of each.
async fn dead_letters(client: &Client, queue: &str) -> Result<BTreeMap<i64, String>, Error> {
    let (queue, mut found) = (client.queue(queue), BTreeMap::new());
    for partition in 0..PARTITIONS {
        let mut from = Some(0);
        while let Some(offset) = from {
            let peeked = queue.peek(partition, offset, &[MessageState::Dead], 100).await?;
            from = peeked.next_offset;
            for dead in peeked.messages {
                let job = dead.message.message_id.as_deref().and_then(|id| id.parse().ok());
                found.insert(
                    job.ok_or("a dead letter has no number")?,
                    dead.reason.unwrap_or_default(),
                );
            }
        }
    }
    Ok(found)
}

fn tell(dead: &BTreeMap<i64, String>) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in dead.values() {
        *reasons.entry(reason).or_default() += 1;
    }
    format!("{} ({reasons:?})", dead.len())
}

async fn check_effects(flags: &Flags, check: &mut Check) -> Result<(), Error> {
    let pool = jobs_db(&flags.dir()).await?;
    let sent = number(&pool, "SELECT sent FROM plan").await?;
    let effects: Vec<(i64, i64)> = sqlx::query_as("SELECT job, COUNT(*) FROM effects GROUP BY job")
        .fetch_all(&pool)
        .await?;
    let able = (0..sent).filter(|number| Job::of(*number) != Job::Hopeless).count();
    let once = effects
        .iter()
        .filter(|(job, times)| *times == 1 && Job::of(*job) != Job::Hopeless)
        .count();
    check.same("every job that can be done has its effect once", once, able);
    check.same("nothing else has one", effects.len(), once);
    let workers = number(&pool, "SELECT COUNT(DISTINCT worker) FROM effects").await?;
    check.that("the workers shared the jobs", workers > 1, format!("{workers} workers"));
    Ok(())
}
