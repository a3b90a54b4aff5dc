//! Whether all is well with the bank.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_client::{Client, ConsumerConfig, StartAt};
use jangada_patterns::eventsource::{
    Committed, Repository, RepositoryOptions, Rows, SqliteProjection, SqliteReader, TopicReader, TopicView as _,
};

use crate::account::{Account, Event};
use crate::common::{Check, Error, Flags, say};
use crate::views::{Balances, Statement, Statements};
use crate::{Names, OPENED_WITH};

/// Balance, what is under way, and the lowest balance of each account.
type Balance = (i64, i64, i64);

/// Compares what the log says with what everybody else says.
pub async fn check(flags: &Flags, names: &Names, accounts: u32, transfers: Option<u32>) -> Result<Check, Error> {
    let client = flags.client().await?;
    let mut check = Check::default();
    let log = read_log(&client, &names.accounts).await?;
    say("check", format!("the log has {} commits", log.len()));
    let by_log = balances_by(&log);
    let money: i64 = by_log.values().map(|(balance, under_way, _)| balance + under_way).sum();
    check.same("money is conserved", money, i64::from(accounts) * OPENED_WITH as i64);
    let under_way: i64 = by_log.values().map(|(_, under_way, _)| under_way).sum();
    check.same("no money is under way", under_way, 0);
    let lowest = by_log.values().map(|(_, _, lowest)| *lowest).min().unwrap_or(0);
    check.that(
        "no account was ever below zero",
        lowest >= 0,
        format!("the lowest balance was {lowest}"),
    );
    let mut ids: Vec<(&str, &str)> = log.iter().map(|read| (&*read.key, &*read.commit.id)).collect();
    let commits = ids.len();
    ids.sort_unstable();
    ids.dedup();
    check.same("each command is in the log once", ids.len(), commits);

    let mut rows = Rows::default();
    for read in &log {
        Statements.apply(&mut rows, read);
    }
    let reader = TopicReader::open(&client, &names.statements).await?;
    let shown = reader.rows();
    let whole = shown.values().filter(|value| Statement::read(value).is_whole()).count();
    check.same(
        "each transfer was refused, done once, or taken back",
        whole,
        shown.len(),
    );
    if let Some(transfers) = transfers {
        check.same(
            "each transfer that was asked for is known",
            shown.len(),
            transfers as usize,
        );
    }
    let same = shown.iter().all(|(key, value)| rows.get(key) == Some(value));
    check.that(
        "the statements are what the log makes",
        same,
        format!("generation {:?}", reader.live()),
    );

    let sqlite = SqliteReader::open(&names.database, "balances")?;
    let live = balances_in(&sqlite)?;
    check.that(
        "the balances are what the log makes",
        live == by_log,
        format!("{} accounts", live.len()),
    );
    let rebuilt = rebuild(&client, names, flags, &sqlite).await?;
    check.that(
        "the balances are what a rebuild makes",
        live == rebuilt,
        format!("generation {:?}", sqlite.generations()?.0),
    );

    let from_log = states(&client, names, None).await?;
    let from_snapshots = states(&client, names, Some(names.snapshots.clone())).await?;
    let same = from_log == from_snapshots;
    check.that(
        "snapshots with what came after them are the log",
        same,
        format!("{} accounts", from_log.len()),
    );
    let by_states: i64 = from_log.values().map(|account| account.balance as i64).sum();
    check.same("the states have all the money", by_states, money);
    Ok(check)
}

async fn read_log(client: &Client, topic: &str) -> Result<Vec<Committed<Event>>, Error> {
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let ends = consumer.end_offsets().await?;
    let mut log = Vec::new();
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await? {
            log.push(Committed::read(&record)?);
        }
    }
    Ok(log)
}

/// The balances by the events alone, by other means than the aggregate and the view.
fn balances_by(log: &[Committed<Event>]) -> BTreeMap<String, Balance> {
    let mut balances: BTreeMap<String, Balance> = BTreeMap::new();
    for read in log {
        for event in &read.commit.events {
            let (change, under_way) = match event {
                Event::Opened { amount } => {
                    let amount = *amount as i64;
                    balances.insert(read.key.clone(), (amount, 0, amount));
                    continue;
                }
                Event::Withdrawn { amount, .. } => (-(*amount as i64), *amount as i64),
                Event::Deposited { amount, .. } => (*amount as i64, 0),
                Event::TakenBack { amount, .. } => (*amount as i64, -(*amount as i64)),
                Event::Settled { amount, .. } => (0, -(*amount as i64)),
                Event::Refused { .. } => continue,
            };
            let (balance, leaving, lowest) = balances.entry(read.key.clone()).or_default();
            *balance += change;
            *leaving += under_way;
            *lowest = (*lowest).min(*balance);
        }
    }
    balances
}

fn balances_in(reader: &SqliteReader) -> Result<BTreeMap<String, Balance>, Error> {
    Ok(reader.query(|db| {
        let mut found = db.prepare("SELECT account, balance, under_way, lowest FROM balances")?;
        let rows = found.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))))?;
        rows.collect()
    })?)
}

/// What the projection is when it is made anew, in another database.
async fn rebuild(
    client: &Client,
    names: &Names,
    flags: &Flags,
    live: &SqliteReader,
) -> Result<BTreeMap<String, Balance>, Error> {
    let path = flags.dir().join(format!("audit-{}.db", std::process::id()));
    let projection = SqliteProjection::open(client, &names.accounts, (&path, "audit"), Balances).await?;
    let reader = SqliteReader::open(&path, "audit")?;
    let as_far = async {
        for (partition, offset) in live.positions()? {
            reader.wait_for(partition, offset, Duration::from_secs(120)).await?;
        }
        Ok::<_, Error>(())
    };
    tokio::select! {
        reached = as_far => reached?,
        ended = projection.run(std::future::pending()) => ended?,
    }
    balances_in(&reader)
}

/// The states of all accounts, from the log or from snapshots.
async fn states(client: &Client, names: &Names, snapshots: Option<String>) -> Result<BTreeMap<String, Account>, Error> {
    let options = RepositoryOptions {
        snapshots,
        ..RepositoryOptions::default()
    };
    let repository: Repository<Account> = Repository::open(client, &names.accounts, options).await?;
    let open = |account: &Account| account.is_open;
    Ok(repository.read_all(|all| {
        let open = all.filter(|(_, stream)| open(&stream.state));
        open.map(|(key, stream)| (key.to_owned(), stream.state.clone()))
            .collect()
    }))
}
