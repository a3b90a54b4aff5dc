//! Payments: a bank books in its own database and puts each payment into an outbox, a relay sends them, two ledger processes book them
//! again, once, and at the end the books are compared.
//!
//! ```text
//! bank: one transaction          relay: one transaction         ledger-1, ledger-2: one transaction
//!   accounts, payments,   ──►      records of the rows,   ──►     inbox (payment's id),           reconciliation:
//!   outbox row                     how far it is                  two entries, sum 0              outbox = topic = ledger
//! ```
//!
//! One in ten payments fails after all was written, and is rolled back: nobody ever hears of it.
//!
//! What must hold, whoever dies: the outbox, the topic and the ledger have the same payments, each once; the balances are the same; no
//! money came or went.
//!
//! ```text
//! make up && make example NAME=payments
//! make example NAME=payments ARGS='--nemesis 15'
//! ```

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, create_topic, number, open, replicas, say};
use jangada_client::{Client, ConsumerConfig, Env, GroupConfig, StartAt};
use jangada_patterns::events::{Envelope, Event, Upcasters};
use jangada_patterns::inbox::SqliteInbox;
use jangada_patterns::outbox::{Relay, RelayConfig, SqliteOutbox};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;

const ACCOUNTS: i64 = 10;
const OPENING_CENTS: i64 = 1_000_000;

#[derive(Parser)]
#[command(about = "Durable messaging: outbox, exactly-once ledger, reconciliation")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Payments; more while the nemesis goes on
    #[arg(long, default_value_t = 500)]
    payments: i64,
}

/// Money has gone from one account to another.
#[derive(Serialize, Deserialize)]
struct PaymentMade {
    payment: i64,
    from: i64,
    to: i64,
    cents: i64,
}

impl Event for PaymentMade {
    const TYPE: &'static str = "bank.payment.made";

    fn key(&self) -> String {
        format!("account-{}", self.from)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<Option<Check>, Error> {
    let Args { flags, payments } = args;
    let flags = flags.complete("payments")?;
    match flags.role.as_deref() {
        Some("bank") => common::worker("bank", bank(&flags)).await?,
        Some("relay") => common::worker("relay", relay(&flags)).await?,
        Some(ledger) => common::worker(ledger, keep_ledger(&flags)).await?,
        None if flags.check => return reconcile(&flags).await.map(Some),
        None => return lead(&flags, payments).await.map(Some),
    }
    Ok(None)
}

async fn lead(flags: &Flags, payments: i64) -> Result<Check, Error> {
    let admin = flags.client().await?.admin();
    create_topic(&admin, &flags.name("payments"), 4, &[]).await?;
    say(
        "lead",
        format!(
            "run {}: a bank, a relay, two ledgers, in {}",
            flags.run(),
            flags.dir().display()
        ),
    );
    let (bank, ledger) = (bank_db(&flags.dir()).await?, ledger_db(&flags.dir()).await?);
    let mut crew = Crew::new(flags, &[]);
    for role in ["bank", "relay", "ledger-1", "ledger-2"] {
        crew.start(role)?;
    }
    let hunted = flags.nemesis();
    let started = tokio::time::Instant::now();
    let within = hunted + Duration::from_secs(180);
    let mut last = tokio::time::Instant::now();
    crew.until("enough is paid", within, async || {
        let paid = number(&bank, "SELECT COUNT(*) FROM payments").await?;
        if last.elapsed() > Duration::from_secs(2) {
            last = tokio::time::Instant::now();
            let booked = number(&ledger, "SELECT COUNT(*) / 2 FROM entries").await?;
            say("lead", format!("{paid} payments made, {booked} in the ledger"));
        }
        Ok(started.elapsed() >= hunted && paid >= payments)
    })
    .await?;
    sqlx::query("UPDATE state SET is_open = 0").execute(&bank).await?;
    crew.until("the ledger has them all", within, async || {
        let closed = number(&bank, "SELECT is_open FROM state").await? == 2;
        let paid = number(&bank, "SELECT COUNT(*) FROM payments").await?;
        Ok(closed && number(&ledger, "SELECT COUNT(*) / 2 FROM entries").await? >= paid)
    })
    .await?;
    say("lead", format!("{} processes were killed on the way", crew.kills()));
    drop(crew);
    reconcile(flags).await
}

async fn bank_db(dir: &Path) -> Result<SqlitePool, Error> {
    let pool = open(dir, "bank").await?;
    for statement in [
        "CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0))",
        "CREATE TABLE IF NOT EXISTS payments (id INTEGER PRIMARY KEY AUTOINCREMENT, cents INTEGER NOT NULL)",
        "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), is_open INTEGER NOT NULL)",
        "INSERT INTO state VALUES (1, 1) ON CONFLICT DO NOTHING",
    ] {
        sqlx::query(statement).execute(&pool).await?;
    }
    for account in 0..ACCOUNTS {
        let opened = sqlx::query("INSERT INTO accounts VALUES (?, ?) ON CONFLICT DO NOTHING");
        opened.bind(account).bind(OPENING_CENTS).execute(&pool).await?;
    }
    Ok(pool)
}

async fn ledger_db(dir: &Path) -> Result<SqlitePool, Error> {
    let pool = open(dir, "ledger").await?;
    let create = "CREATE TABLE IF NOT EXISTS entries (place INTEGER PRIMARY KEY, payment INTEGER, account INTEGER, cents INTEGER)";
    sqlx::query(create).execute(&pool).await?;
    Ok(pool)
}

/// Makes payments until it is told to close.
async fn bank(flags: &Flags) -> Result<(), Error> {
    let pool = bank_db(&flags.dir()).await?;
    let outbox = SqliteOutbox::create(pool.clone(), Env::system()).await?.keeping_sent();
    let random = Env::system().random;
    while number(&pool, "SELECT is_open FROM state").await? == 1 {
        let below = |most: i64| (random.number() % most as u64) as i64;
        let from = below(ACCOUNTS);
        let to = (from + 1 + below(ACCOUNTS - 1)) % ACCOUNTS;
        pay(&pool, &outbox, flags, (from, to, 1 + below(5_000))).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // From here on no payment is under way.
    sqlx::query("UPDATE state SET is_open = 2").execute(&pool).await?;
    std::future::pending().await
}

/// One payment: the accounts, the payment and the outbox's row in one transaction.
async fn pay(
    pool: &SqlitePool,
    outbox: &SqliteOutbox,
    flags: &Flags,
    (from, to, cents): (i64, i64, i64),
) -> Result<(), Error> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for (account, change) in [(from, -cents), (to, cents)] {
        let changed = sqlx::query("UPDATE accounts SET cents = cents + ? WHERE id = ? AND cents + ? >= 0");
        let changed = changed
            .bind(change)
            .bind(account)
            .bind(change)
            .execute(&mut *transaction)
            .await?;
        if changed.rows_affected() == 0 {
            return Ok(transaction.rollback().await?);
        }
    }
    let inserted = sqlx::query("INSERT INTO payments (cents) VALUES (?)")
        .bind(cents)
        .execute(&mut *transaction)
        .await?;
    let payment = inserted.last_insert_rowid();
    let made = Envelope {
        id: payment.to_string(),
        source: "/bank".to_owned(),
        time_ms: Env::system().clock.now_ms(),
        version: PaymentMade::VERSION,
        event: PaymentMade {
            payment,
            from,
            to,
            cents,
        },
    };
    outbox
        .put(&mut transaction, &made.to_record(&flags.name("payments"))?)
        .await?;
    // The tenth changes its mind: with it goes the row of the outbox.
    match cents % 10 {
        0 => transaction.rollback().await?,
        _ => transaction.commit().await?,
    }
    Ok(())
}

async fn relay(flags: &Flags) -> Result<(), Error> {
    let client = flags.client().await?;
    let pool = bank_db(&flags.dir()).await?;
    let outbox = SqliteOutbox::create(pool, Env::system()).await?.keeping_sent();
    let config = RelayConfig {
        replicas: replicas(&client.admin()).await?,
        ..RelayConfig::default()
    };
    let mut relay = Relay::open(&client, &flags.name("bank"), outbox, config, Env::system()).await?;
    say("relay", format!("goes on behind row {}", relay.position()));
    relay.run(std::future::pending()).await?;
    Ok(())
}

/// Books payments as they come: two entries and the payment's id, in one transaction.
async fn keep_ledger(flags: &Flags) -> Result<(), Error> {
    let pool = ledger_db(&flags.dir()).await?;
    let inbox = SqliteInbox::create(pool, "ledger", Env::system()).await?;
    let mut config = GroupConfig::new(flags.name("ledger"), [flags.name("payments")]);
    config.session_timeout = Duration::from_secs(5);
    let mut consumer = flags.client().await?.group_consumer(config)?;
    loop {
        let record = match consumer.next().await {
            Ok(record) => record,
            Err(error) if error.is_retryable() => continue,
            Err(error) => return Err(error.into()),
        };
        let made = Envelope::<PaymentMade>::of_record(&record, &Upcasters::default())?;
        let mut transaction = inbox.begin().await?;
        if inbox.claim(&mut transaction, &made.id).await?.is_none() {
            let PaymentMade {
                payment,
                from,
                to,
                cents,
            } = made.event;
            for (account, cents) in [(from, -cents), (to, cents)] {
                let entry = sqlx::query("INSERT INTO entries (payment, account, cents) VALUES (?, ?, ?)");
                entry
                    .bind(payment)
                    .bind(account)
                    .bind(cents)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        transaction.commit().await?;
    }
}

/// Compares the books.
async fn reconcile(flags: &Flags) -> Result<Check, Error> {
    let (bank, ledger) = (bank_db(&flags.dir()).await?, ledger_db(&flags.dir()).await?);
    let mut check = Check::default();
    let payments = number(&bank, "SELECT COUNT(*) FROM payments").await?;
    let rows = number(&bank, "SELECT COUNT(*) FROM jangada_outbox").await?;
    check.same("each payment has a row in the outbox", rows, payments);

    let sent = read_topic(&flags.client().await?, &flags.name("payments")).await?;
    let once = sent.values().filter(|times| **times == 1).count() as i64;
    check.same("the topic has each row once", once, rows);
    check.same("and nothing else", sent.len() as i64, once);

    let booked: Vec<(i64, i64, i64)> =
        sqlx::query_as("SELECT payment, COUNT(*), SUM(cents) FROM entries GROUP BY payment")
            .fetch_all(&ledger)
            .await?;
    let whole = booked
        .iter()
        .filter(|(payment, entries, sum)| sent.contains_key(payment) && (*entries, *sum) == (2, 0));
    check.same(
        "the ledger has each payment of the topic once, with two entries that cancel out",
        whole.count(),
        sent.len(),
    );
    check.same("and nothing else", booked.len(), sent.len());

    let accounts: Vec<(i64, i64)> = sqlx::query_as("SELECT id, cents FROM accounts")
        .fetch_all(&bank)
        .await?;
    let changes: Vec<(i64, i64)> = sqlx::query_as("SELECT account, SUM(cents) FROM entries GROUP BY account")
        .fetch_all(&ledger)
        .await?;
    let changes: BTreeMap<i64, i64> = changes.into_iter().collect();
    let balance = |account: &i64| OPENING_CENTS + changes.get(account).copied().unwrap_or(0);
    let alike = accounts
        .iter()
        .filter(|(account, cents)| balance(account) == *cents)
        .count();
    check.same("the balances of bank and ledger are the same", alike, accounts.len());
    let total: i64 = accounts.iter().map(|(_, cents)| cents).sum();
    check.same("no money came or went, in cents", total, ACCOUNTS * OPENING_CENTS);
    Ok(check)
}

/// How often each payment is in the topic, for who reads committed.
async fn read_topic(client: &Client, topic: &str) -> Result<BTreeMap<i64, u32>, Error> {
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let (ends, mut found) = (consumer.end_offsets().await?, BTreeMap::new());
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await? {
            let made = Envelope::<PaymentMade>::of_record(&record, &Upcasters::default())?;
            *found.entry(made.event.payment).or_default() += 1;
        }
    }
    Ok(found)
}
