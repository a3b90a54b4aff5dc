//! A bank: CQRS with event sourcing. Accounts are streams of events, transfers are commands in a queue, and two projections answer queries.
//!
//! ```text
//! teller ──► queue "transfers" ──► clerk-1, clerk-2: withdraw, deposit, settle ──► topic "accounts", one stream for each account
//!                                        ▲ snapshots (compacted topic)                │              │
//!                                        └──────────── snapshots ◄────────────────────┤              │
//!                                                       balances-1, balances-2 (SQLite)   statements (compacted topic)
//! ```
//!
//! Two accounts are two streams, and no transaction is over both: records with a condition take no part in transactions. So a transfer is
//! three commands with ids of their own, one after the other: the money goes out of one account, into the other, and then the first one
//! hears that it has arrived. A clerk who dies in between leaves the message in the queue, and the next one finds out by the ids what is
//! done.
//!
//! What must hold, whoever dies: money is conserved, no account is ever below zero, each transfer happened once or was refused, and the
//! projections are what a rebuild makes.
//!
//! ```text
//! make up && make example NAME=bank
//! make example NAME=bank ARGS='--nemesis 120 --seed 7'
//! make example NAME=bank ARGS='--bench 20 --accounts 1000 --writers 8'
//! make example NAME=bank ARGS='--rebuild-of 1000000 --accounts 1000'
//! ```

mod account;
mod audit;
mod bench;
#[path = "../common/mod.rs"]
mod common;
mod views;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, say};
use jangada_client::{NewQueue, OffsetAt, QueueMessage, QueueProducer, QueueProducerConfig, Verdict, Worker};
use jangada_patterns::eventsource::{
    Repository, RepositoryOptions, Snapshots, SqliteProjection, SqliteReader, TopicProjection, TopicReader,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use account::{Account, Command, Event};
use views::{Balances, Statements};

/// Partitions of the log of accounts.
const PARTITIONS: u32 = 4;
/// What each account begins with.
const OPENED_WITH: u64 = 100;
/// Commands that a clerk works on at the same time.
const CLERK_AT_ONCE: u32 = 8;
/// Transfers that are sent at the same time.
const TELLER_AT_ONCE: usize = 32;
/// How long everything that was asked for may take in the end.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// How long a projection may be behind when its reader waits for it.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "A bank with event sourcing: accounts, transfers, two projections")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Accounts of the bank
    #[arg(long, default_value_t = 50)]
    accounts: u32,

    /// Transfers; more while the nemesis goes on
    #[arg(long, default_value_t = 500)]
    transfers: u32,

    /// Measure for so many seconds: commands of writers that each have a repository of their own
    #[arg(long, value_name = "SECONDS")]
    bench: Option<u64>,

    /// How many writers are measured
    #[arg(long, default_value_t = 8)]
    writers: u32,

    /// Measure how long it takes to rebuild the states of so many events
    #[arg(long, value_name = "EVENTS")]
    rebuild_of: Option<u64>,
}

/// What the teller asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    id: String,
    from: String,
    to: String,
    amount: u64,
}

/// The names of a run.
#[derive(Clone)]
pub struct Names {
    accounts: String,
    snapshots: String,
    transfers: String,
    statements: String,
    database: std::path::PathBuf,
}

impl Names {
    fn of(flags: &Flags) -> Self {
        Self {
            accounts: flags.name("accounts"),
            snapshots: flags.name("account-snapshots"),
            transfers: flags.name("transfers"),
            statements: flags.name("statements"),
            database: flags.dir().join("balances.db"),
        }
    }
}

/// The name of an account; also what its stream is known by.
pub fn account_name(number: u32) -> String {
    format!("account-{number:04}")
}

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(mut args: Args) -> Result<Option<Check>, Error> {
    args.flags = args.flags.complete("bank")?;
    let (flags, names) = (&args.flags, Names::of(&args.flags));
    if let Some(role) = flags.role.as_deref() {
        common::worker(role, work(flags, &names, role)).await?;
        return Ok(None);
    }
    if flags.check {
        return Ok(Some(audit::check(flags, &names, args.accounts, None).await?));
    }
    if let Some(seconds) = args.bench {
        bench::commands(
            flags,
            &names,
            (args.accounts, args.writers),
            Duration::from_secs(seconds),
        )
        .await?;
        return Ok(None);
    }
    if let Some(events) = args.rebuild_of {
        bench::rebuild(flags, &names, args.accounts, events).await?;
        return Ok(None);
    }
    play(&args, &names).await.map(Some)
}

/// What one of its processes does.
async fn work(flags: &Flags, names: &Names, role: &str) -> Result<(), Error> {
    let client = flags.client().await?;
    let forever = std::future::pending();
    match role.split('-').next().unwrap_or(role) {
        "clerk" => {
            let options = RepositoryOptions {
                snapshots: Some(names.snapshots.clone()),
                ..RepositoryOptions::default()
            };
            let accounts = Repository::open(&client, &names.accounts, options).await?;
            let worker = Worker::new(&client, &*names.transfers);
            worker
                .run(CLERK_AT_ONCE, |message| {
                    let accounts = accounts.clone();
                    async move {
                        match serde_json::from_slice(message.body.as_deref().unwrap_or_default()) {
                            Ok(transfer) => Verdict::from(carry_out(&accounts, &transfer).await),
                            Err(error) => Verdict::Reject(error.to_string()),
                        }
                    }
                })
                .await?;
        }
        "balances" => {
            let at = (names.database.as_path(), "balances");
            SqliteProjection::open(&client, &names.accounts, at, Balances)
                .await?
                .run(forever)
                .await?;
        }
        "statements" => {
            let projection = TopicProjection::open(&client, &names.accounts, &names.statements, Statements).await?;
            projection.run(forever).await?;
        }
        "snapshots" => {
            let accounts: Repository<Account> =
                Repository::open(&client, &names.accounts, RepositoryOptions::default()).await?;
            let mut snapshots = Snapshots::open(&accounts, &names.snapshots).await?;
            loop {
                snapshots.write().await?;
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
        other => return Err(format!("no process is called {other}").into()),
    }
    Ok(())
}

/// Moves the money of a transfer, as far as that is not done yet.
async fn carry_out(accounts: &Repository<Account>, transfer: &Transfer) -> Result<(), Error> {
    let Transfer { id, from, to, amount } = transfer.clone();
    let withdraw = Command::Withdraw {
        transfer: id.clone(),
        to: to.clone(),
        amount,
    };
    let withdrawn = accounts.execute(from.as_str(), &format!("{id}/out"), &withdraw).await?;
    if matches!(*withdrawn.events, [Event::Refused { .. }]) {
        return Ok(());
    }
    // It is done already, or was refused, if this clerk or another one has come further before.
    if withdrawn.is_repeated && accounts.read(&from, |stream| !stream.state.is_under_way(&id)) {
        return Ok(());
    }
    let deposit = Command::Deposit {
        transfer: id.clone(),
        from: from.clone(),
        amount,
    };
    let arrived = accounts.execute(&to, &format!("{id}/in"), &deposit).await;
    let settle = match arrived {
        Ok(_) => Command::Settle { transfer: id.clone() },
        // There is no such account: the money goes back.
        Err(jangada_patterns::eventsource::ExecuteError::Refused(_)) => Command::TakeBack { transfer: id.clone() },
        Err(error) => return Err(error.into()),
    };
    accounts.execute(&from, &format!("{id}/end"), &settle).await?;
    Ok(())
}

/// Starts the bank, has it do its work, and looks whether all is well.
async fn play(args: &Args, names: &Names) -> Result<Check, Error> {
    let flags = &args.flags;
    let client = flags.client().await?;
    let admin = client.admin();
    let replicas = common::replicas(&admin).await?;
    Repository::<Account>::create(&client, &names.accounts, Some(&names.snapshots), (PARTITIONS, replicas)).await?;
    TopicProjection::<Statements>::create(&client, &names.statements, replicas).await?;
    let mut queue = NewQueue::new(&names.transfers, 2, replicas);
    queue.if_not_exists = true;
    queue.config.insert("queue.attempts.max".to_owned(), "none".to_owned());
    queue.config.insert("queue.dedup".to_owned(), "id".to_owned());
    // Who is killed again and again is not to make its messages wait for long.
    queue.config.insert("queue.retry.max.ms".to_owned(), "3000".to_owned());
    admin.create_queue(queue).await?;

    let accounts: Repository<Account> =
        Repository::open(&client, &names.accounts, RepositoryOptions::default()).await?;
    let mut last = None;
    for number in 0..args.accounts {
        let open = Command::Open { amount: OPENED_WITH };
        last = Some(accounts.execute(&account_name(number), "open", &open).await?);
    }
    let mut crew = Crew::new(flags, &[]);
    for role in [
        "clerk-1",
        "clerk-2",
        "balances-1",
        "balances-2",
        "statements",
        "snapshots",
    ] {
        crew.start(role)?;
    }
    say(
        "bank",
        format!(
            "run {}: {} accounts with {OPENED_WITH} coins each",
            flags.run(),
            args.accounts
        ),
    );
    if let Some(opened) = last {
        let offset = opened.offset.unwrap_or(0);
        let waited = read_your_writes(&mut crew, names, (opened.partition, offset + 1)).await?;
        say(
            "bank",
            format!("my own command at offset {offset} was seen in the projection after {waited:?}"),
        );
    }

    let producer = client
        .queue_producer(&*names.transfers, QueueProducerConfig::default())
        .await?;
    let mut chance = StdRng::seed_from_u64(flags.seed.unwrap_or(0));
    let seen = TopicReader::open(&client, &names.statements).await?;
    let (mut sent, mut rebuilds) = (0, false);
    while sent < args.transfers || crew.is_hunted() {
        let batch: Vec<Transfer> = (0..TELLER_AT_ONCE)
            .map(|at| some_transfer(&mut chance, sent + at as u32, args.accounts))
            .collect();
        futures::future::try_join_all(batch.iter().map(|transfer| ask_for(&producer, transfer))).await?;
        sent += TELLER_AT_ONCE as u32;
        // The clerks are not to be more than a few hundred behind, or the end would be long.
        let enough = sent.saturating_sub(400);
        crew.until("the clerks keep up", SETTLED_WITHIN, async || {
            Ok(views::known(&seen) >= enough)
        })
        .await?;
        if !rebuilds && sent >= args.transfers / 2 {
            rebuilds = true;
            let sqlite =
                SqliteProjection::open(&client, &names.accounts, (&names.database, "balances"), Balances).await?;
            let topic = TopicProjection::<Statements>::rebuild(&client, &names.statements).await?;
            say(
                "bank",
                format!(
                    "after {sent} transfers: rebuild balances as generation {}, statements as {topic}",
                    sqlite.rebuild()?
                ),
            );
        }
    }
    say(
        "bank",
        format!("{sent} transfers were asked for; waiting until the last has ended"),
    );
    crew.until("every transfer has ended", SETTLED_WITHIN, async || {
        Ok(views::ended(&seen) >= sent)
    })
    .await?;
    let balances = SqliteReader::open(&names.database, "balances")?;
    let switched = async || Ok(balances.generations()? == (2, None) && seen.live() == Some(2));
    crew.until("the rebuilt projections are live", SETTLED_WITHIN, switched)
        .await?;
    // The statements told that all is over; the balances come after them in their own time.
    let mut ends = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let end = client
            .list_offsets(&names.accounts, partition, OffsetAt::Latest)
            .await?;
        ends.insert(partition, end.offset.unwrap_or(0));
    }
    crew.until("the balances have every event", SETTLED_WITHIN, async || {
        let reached = balances.positions()?;
        Ok(ends.iter().all(|(partition, end)| reached.get(partition) >= Some(end)))
    })
    .await?;
    say(
        "bank",
        format!("all have ended; {} processes were killed", crew.kills()),
    );
    accounts.close().await;
    audit::check(flags, names, args.accounts, Some(sent)).await
}

fn some_transfer(chance: &mut StdRng, number: u32, accounts: u32) -> Transfer {
    let from = chance.random_range(0..accounts);
    // One of a hundred goes to an account that is not there.
    let to = match chance.random_range(0..100) {
        0 => accounts + 1,
        _ => (from + chance.random_range(1..accounts.max(2))) % accounts.max(1),
    };
    Transfer {
        id: format!("t{number}"),
        from: account_name(from),
        to: account_name(to),
        amount: chance.random_range(1..60),
    }
}

/// Puts a transfer into the queue. Its id keeps it from being there twice when the answer is lost; the clerks would notice, too.
async fn ask_for(queue: &QueueProducer, transfer: &Transfer) -> Result<(), Error> {
    let body = serde_json::to_vec(transfer)?;
    loop {
        match queue
            .send(QueueMessage::new(body.clone()).with_message_id(&transfer.id))
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() => say("teller", format!("asks again for {}: {error}", transfer.id)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// How long it took until the projection showed one's own command.
async fn read_your_writes(crew: &mut Crew, names: &Names, (partition, offset): (u32, i64)) -> Result<Duration, Error> {
    let began = tokio::time::Instant::now();
    let is_there = async || {
        let Ok(reader) = SqliteReader::open(&names.database, "balances") else {
            return Ok(false);
        };
        Ok(reader
            .wait_for(partition, offset, Duration::from_millis(50))
            .await
            .is_ok())
    };
    crew.until("the projection shows what was done", SEEN_WITHIN, is_there)
        .await?;
    Ok(began.elapsed())
}
