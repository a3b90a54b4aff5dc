//! A log pipeline: lines of a file are shipped, parsed, counted in windows of ten minutes, and too many errors raise an alert.
//!
//! ```text
//! shipper ──► topic "lines" ──► parser-1, parser-2 ──► topic "parsed" ─► counter ─► its database: windows, outbox ─► alerter ─► "alerts"
//!  Relay over              TransactionalProducer      by component       positions with the               Relay
//!  the file's lines        ::process                                     counts, in one transaction
//! ```
//!
//! Each arrow is exactly once, by another means each: the position in the records' transaction, the group's offsets in it, the position in
//! the database's transaction, the outbox.
//!
//! What must hold, whoever dies: the counts are those of the file, and each window with too many errors raised one alert.
//!
//! ```text
//! make up && make example NAME=log-pipeline
//! make example NAME=log-pipeline ARGS='--file /var/log/apache2/error.log --nemesis 15'
//! ```

#[path = "../common/mod.rs"]
mod common;
mod lines;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use common::{Check, Crew, Error, Flags, create_topic, number, open, replicas, say};
use jangada_client::{
    Client, ClientError, ConsumedRecord, ConsumerConfig, Env, ExactlyOnceOptions, GroupConfig, ProducerRecord, StartAt,
    TransactionOptions, TransactionalProducer,
};
use jangada_patterns::PatternError;
use jangada_patterns::outbox::{OutboxRow, OutboxRows, Relay, RelayConfig, RowsMax, SqliteOutbox};
use sqlx::SqlitePool;

/// Seconds of a window.
const WINDOW: i64 = 600;

#[derive(Parser)]
#[command(about = "Log lines, parsed, counted in windows, with alerts")]
struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Log of Apache (errors), ZooKeeper or sshd. Default: 2,000 lines that are made up
    #[arg(long)]
    file: Option<PathBuf>,

    /// Errors of a component in a window that raise an alert
    #[arg(long, default_value_t = 20)]
    errors: i64,
}

impl Args {
    fn of_worker(&self) -> Vec<String> {
        let mut flags = vec!["--errors".to_owned(), self.errors.to_string()];
        flags.extend(
            self.file
                .iter()
                .flat_map(|file| ["--file".to_owned(), file.display().to_string()]),
        );
        flags.extend(["--nemesis".to_owned(), self.flags.nemesis.to_string()]);
        flags
    }

    fn lines(&self) -> Result<Vec<String>, Error> {
        let Some(file) = &self.file else {
            return Ok(lines::made_up(2_000));
        };
        let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    Check::exit(run(Args::parse()).await)
}

async fn run(mut args: Args) -> Result<Option<Check>, Error> {
    args.flags = args.flags.complete("log-pipeline")?;
    let flags = &args.flags;
    match flags.role.as_deref() {
        Some("shipper") => common::worker("shipper", ship(&args)).await?,
        Some("counter") => common::worker("counter", count(&args)).await?,
        Some("alerter") => common::worker("alerter", alert(flags)).await?,
        Some(parser) => common::worker(parser, parse(flags, parser)).await?,
        None if flags.check => return check(&args).await.map(Some),
        None => return lead(&args).await.map(Some),
    }
    Ok(None)
}

async fn lead(args: &Args) -> Result<Check, Error> {
    let flags = &args.flags;
    let admin = flags.client().await?.admin();
    for (topic, partitions) in [("lines", 4), ("parsed", 4), ("alerts", 1)] {
        create_topic(&admin, &flags.name(topic), partitions, &[]).await?;
    }
    let lines = args.lines()?;
    let readable = lines.iter().filter(|line| lines::parse(line).is_some()).count() as i64;
    say(
        "lead",
        format!(
            "run {}: {} lines, {readable} that can be parsed, in {}",
            flags.run(),
            lines.len(),
            flags.dir().display()
        ),
    );
    let pool = counter_db(&flags.dir()).await?;
    let mut crew = Crew::new(flags, &args.of_worker());
    for role in ["shipper", "parser-1", "parser-2", "counter", "alerter"] {
        crew.start(role)?;
    }
    let mut last = -1;
    let within = flags.nemesis() + Duration::from_secs(240);
    crew.until("all is counted", within, async || {
        let counted = number(&pool, "SELECT COALESCE(SUM(lines), 0) FROM windows").await?;
        if counted / 500 != last / 500 {
            say("lead", format!("{counted} lines are counted"));
            last = counted;
        }
        Ok(counted >= readable)
    })
    .await?;
    let client = flags.client().await?;
    let expected = expected(args)?
        .values()
        .filter(|(_, errors)| *errors >= args.errors)
        .count();
    crew.until("all alerts are raised", within, async || {
        Ok(alerts(&client, &flags.name("alerts")).await?.len() >= expected)
    })
    .await?;
    say("lead", format!("{} processes were killed on the way", crew.kills()));
    drop(crew);
    check(args).await
}

/// The lines of a file as the rows of an outbox: a line's number is its id.
struct FileLines {
    lines: Vec<String>,
    topic: String,
}

impl OutboxRows for FileLines {
    async fn rows_after(&self, after: i64, most: RowsMax) -> Result<Vec<OutboxRow>, PatternError> {
        let first = usize::try_from(after).unwrap_or(0);
        let rows = self.lines.iter().enumerate().skip(first).take(most.rows);
        let row = |(index, line): (usize, &String)| OutboxRow {
            id: index as i64 + 1,
            record: ProducerRecord::new(&*self.topic)
                .with_key((index % 97).to_string())
                .with_value(line.clone()),
        };
        let mut bytes = 0;
        let fits = |(count, row): &(usize, OutboxRow)| most.takes((*count, &mut bytes), row);
        let rows = rows.map(row).enumerate().take_while(fits);
        Ok(rows.map(|(_, row)| row).collect())
    }

    async fn sent(&self, _: i64) -> Result<(), PatternError> {
        Ok(())
    }
}

async fn ship(args: &Args) -> Result<(), Error> {
    let flags = &args.flags;
    let (client, lines) = (flags.client().await?, args.lines()?);
    // With a nemesis they last for about as long as it kills, for its kills cost time.
    let seconds = flags.nemesis.max(5) as usize;
    let config = RelayConfig {
        rows_max: (lines.len() / (seconds * 2)).max(20),
        replicas: replicas(&client.admin()).await?,
        ..RelayConfig::default()
    };
    let rows = FileLines {
        lines,
        topic: flags.name("lines"),
    };
    let mut relay = Relay::open(&client, &flags.name("lines"), rows, config, Env::system()).await?;
    say("shipper", format!("goes on behind line {}", relay.position()));
    loop {
        match relay.relay_some().await {
            Err(error) if !error.is_retryable() => return Err(error.into()),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Reads lines and writes what they say, both in one transaction; lines that say nothing are left out.
async fn parse(flags: &Flags, name: &str) -> Result<(), Error> {
    let client = flags.client().await?;
    let mut config = GroupConfig::new(flags.name("parsers"), [flags.name("lines")]);
    config.session_timeout = Duration::from_secs(5);
    config.commit = jangada_client::CommitMode::Manual;
    let mut consumer = client.group_consumer(config)?;
    let options = TransactionOptions {
        timeout: Duration::from_secs(10),
        ..TransactionOptions::default()
    };
    let mut producer = TransactionalProducer::open(&client, flags.name(name), options).await?;
    let topic = flags.name("parsed");
    loop {
        let processed = producer.process(
            &mut consumer,
            ExactlyOnceOptions::default(),
            async |records: &[ConsumedRecord]| {
                let parsed = records.iter().filter_map(|record| {
                    let parsed = lines::parse(std::str::from_utf8(record.value.as_deref()?).ok()?)?;
                    let value = format!("{} {} {}", parsed.at, i64::from(parsed.is_error), parsed.component);
                    Some(
                        ProducerRecord::new(&*topic)
                            .with_key(parsed.component)
                            .with_value(value),
                    )
                });
                Ok::<_, ClientError>(parsed.collect::<Vec<_>>())
            },
        );
        match processed.await {
            Err(error) if !error.is_retryable() => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(_) => {}
        }
    }
}

async fn counter_db(dir: &Path) -> Result<SqlitePool, Error> {
    let pool = open(dir, "counter").await?;
    for statement in [
        "CREATE TABLE IF NOT EXISTS positions (part INTEGER PRIMARY KEY, next INTEGER NOT NULL)",
        "CREATE TABLE IF NOT EXISTS windows (at INTEGER, component TEXT, lines INTEGER, errors INTEGER, PRIMARY KEY (at, component))",
    ] {
        sqlx::query(statement).execute(&pool).await?;
    }
    Ok(pool)
}

/// Counts what comes. The position of each partition is in the transaction of the counts, so what comes again counts once.
async fn count(args: &Args) -> Result<(), Error> {
    let flags = &args.flags;
    let pool = counter_db(&flags.dir()).await?;
    let outbox = SqliteOutbox::create(pool.clone(), Env::system()).await?;
    let mut config = GroupConfig::new(flags.name("counter"), [flags.name("parsed")]);
    config.session_timeout = Duration::from_secs(5);
    let mut consumer = flags.client().await?.group_consumer(config)?;
    loop {
        let records = match consumer.next_batch(200).await {
            Ok(records) => records,
            Err(error) if error.is_retryable() => continue,
            Err(error) => return Err(error.into()),
        };
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        for record in &records {
            let known =
                sqlx::query_scalar::<_, i64>("SELECT next FROM positions WHERE part = ?").bind(record.partition);
            let known = known.fetch_optional(&mut *transaction).await?;
            if known.is_some_and(|next| record.offset < next) {
                continue;
            }
            let text = std::str::from_utf8(record.value.as_deref().unwrap_or_default())?;
            let mut parts = text.splitn(3, ' ');
            let (at, is_error) = (
                parts.next().unwrap_or_default().parse::<i64>()?,
                parts.next() == Some("1"),
            );
            let (window, component) = (at - at.rem_euclid(WINDOW), parts.next().unwrap_or_default());
            let errors = sqlx::query_scalar::<_, i64>(
                "INSERT INTO windows VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET lines = lines + 1, errors = errors + excluded.errors \
                 RETURNING errors",
            );
            let errors = errors.bind(window).bind(component).bind(i64::from(is_error));
            let errors = errors.fetch_one(&mut *transaction).await?;
            if is_error && errors == args.errors {
                let alert = ProducerRecord::new(&*flags.name("alerts")).with_key(component.to_owned());
                outbox
                    .put(&mut transaction, &alert.with_value(format!("{window} {component}")))
                    .await?;
            }
            let moved =
                sqlx::query("INSERT INTO positions VALUES (?, ?) ON CONFLICT DO UPDATE SET next = excluded.next");
            moved
                .bind(record.partition)
                .bind(record.offset + 1)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    }
}

async fn alert(flags: &Flags) -> Result<(), Error> {
    let client = flags.client().await?;
    let outbox = SqliteOutbox::create(counter_db(&flags.dir()).await?, Env::system()).await?;
    let config = RelayConfig {
        replicas: replicas(&client.admin()).await?,
        ..RelayConfig::default()
    };
    let mut relay = Relay::open(&client, &flags.name("alerts"), outbox, config, Env::system()).await?;
    relay.run(std::future::pending()).await?;
    Ok(())
}

/// By window and component: lines and errors.
type Counts = BTreeMap<(i64, String), (i64, i64)>;

/// The counts that the file has.
fn expected(args: &Args) -> Result<Counts, Error> {
    let mut counts = Counts::new();
    for parsed in args.lines()?.iter().filter_map(|line| lines::parse(line)) {
        let window = parsed.at - parsed.at.rem_euclid(WINDOW);
        let (lines, errors) = counts.entry((window, parsed.component)).or_default();
        *lines += 1;
        *errors += i64::from(parsed.is_error);
    }
    Ok(counts)
}

/// The alerts of a topic, each as often as it was raised.
async fn alerts(client: &Client, topic: &str) -> Result<Vec<String>, Error> {
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let (ends, mut found) = (consumer.end_offsets().await?, Vec::new());
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await? {
            found.push(String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned());
        }
    }
    found.sort();
    Ok(found)
}

async fn check(args: &Args) -> Result<Check, Error> {
    let pool = counter_db(&args.flags.dir()).await?;
    let rows: Vec<(i64, String, i64, i64)> = sqlx::query_as("SELECT at, component, lines, errors FROM windows")
        .fetch_all(&pool)
        .await?;
    let counted: Counts = rows
        .into_iter()
        .map(|(at, component, lines, errors)| ((at, component), (lines, errors)))
        .collect();
    let expected = expected(args)?;
    let mut check = Check::default();
    let alike = expected
        .iter()
        .filter(|(window, counts)| counted.get(window) == Some(counts))
        .count();
    check.same(
        "each window of each component has the file's counts",
        alike,
        expected.len(),
    );
    check.same("and there is no other window", counted.len(), expected.len());
    let raised = alerts(&args.flags.client().await?, &args.flags.name("alerts")).await?;
    let bad = expected.iter().filter(|(_, (_, errors))| *errors >= args.errors);
    let mut wanted: Vec<String> = bad
        .map(|((window, component), _)| format!("{window} {component}"))
        .collect();
    wanted.sort();
    check.that(
        "each window with too many errors raised one alert",
        raised == wanted,
        format!("{} alerts for {} windows", raised.len(), wanted.len()),
    );
    Ok(check)
}
