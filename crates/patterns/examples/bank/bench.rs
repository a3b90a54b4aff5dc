//! Figures: commands a second with their latency and conflicts, and how long a rebuild takes.

use std::time::Duration;

use futures::future::try_join_all;
use jangada_client::{Client, ProducerConfig, ProducerRecord};
use jangada_patterns::eventsource::{Commit, Repository, RepositoryOptions, Snapshots, SqliteProjection, SqliteReader};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::account::{Account, Command, Event};
use crate::common::{self, Error, Flags, say};
use crate::views::Balances;
use crate::{Names, account_name};

const PARTITIONS: u32 = 4;

async fn created(flags: &Flags, names: &Names) -> Result<Client, Error> {
    let client = flags.client().await?;
    let replicas = common::replicas(&client.admin()).await?;
    let size = (PARTITIONS, replicas);
    Repository::<Account>::create(&client, &names.accounts, Some(&names.snapshots), size).await?;
    Ok(client)
}

/// Writers that know nothing of each other deposit into accounts at random, each one command at a time.
pub async fn commands(
    flags: &Flags,
    names: &Names,
    (accounts, writers): (u32, u32),
    within: Duration,
) -> Result<(), Error> {
    let client = created(flags, names).await?;
    let opener: Repository<Account> = Repository::open(&client, &names.accounts, RepositoryOptions::default()).await?;
    let numbers: Vec<u32> = (0..accounts).collect();
    for some in numbers.chunks(64) {
        let opened = some.iter().map(|number| {
            let opener = opener.clone();
            async move {
                opener
                    .execute(&account_name(*number), "open", &Command::Open { amount: 1_000_000 })
                    .await
            }
        });
        try_join_all(opened).await?;
    }
    say(
        "bench",
        format!("{accounts} accounts, {PARTITIONS} partitions; {writers} writers for {within:?}"),
    );
    let seed = flags.seed.unwrap_or(0);
    let writing = (0..writers).map(|writer| {
        let names = names.clone();
        async move {
            // A client of its own, as in a process of its own.
            let client = flags.client().await?;
            let repository = Repository::open(&client, &names.accounts, RepositoryOptions::default()).await?;
            let chance = StdRng::seed_from_u64(seed + u64::from(writer));
            tokio::spawn(write(repository, (writer, accounts), chance, within)).await?
        }
    });
    let began = Instant::now();
    let measured = try_join_all(writing).await?;
    let mut latencies: Vec<Duration> = measured
        .iter()
        .flat_map(|(latencies, _)| latencies.iter().copied())
        .collect();
    let conflicts: u32 = measured.iter().map(|(_, conflicts)| conflicts).sum();
    latencies.sort_unstable();
    let commands = latencies.len();
    let at = |part: f64| {
        latencies
            .get((commands as f64 * part) as usize)
            .copied()
            .unwrap_or_default()
    };
    let seconds = began.elapsed().as_secs_f64().min(within.as_secs_f64());
    say(
        "bench",
        format!("{commands} commands, {:.0} a second", commands as f64 / seconds),
    );
    say(
        "bench",
        format!(
            "latency: half within {:?}, 99 of 100 within {:?}, all within {:?}",
            at(0.5),
            at(0.99),
            at(1.0 - f64::EPSILON)
        ),
    );
    let rate = f64::from(conflicts) / (commands as f64 + f64::from(conflicts)).max(1.0);
    say(
        "bench",
        format!("{conflicts} conflicts, {:.2} of 100 attempts", rate * 100.0),
    );
    Ok(())
}

async fn write(
    repository: Repository<Account>,
    (writer, accounts): (u32, u32),
    mut chance: StdRng,
    within: Duration,
) -> Result<(Vec<Duration>, u32), Error> {
    let (began, mut latencies, mut conflicts) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < within {
        let id = format!("{writer}/{}", latencies.len());
        let deposit = Command::Deposit {
            transfer: id.clone(),
            from: "the till".to_owned(),
            amount: 1,
        };
        let account = account_name(chance.random_range(0..accounts));
        let since = Instant::now();
        let executed = repository.execute(&account, &id, &deposit).await?;
        latencies.push(since.elapsed());
        conflicts += executed.attempts - 1;
    }
    Ok((latencies, conflicts))
}

/// Fills the log, and reads it: the states of all accounts without and with snapshots, and a projection.
pub async fn rebuild(flags: &Flags, names: &Names, accounts: u32, events: u64) -> Result<(), Error> {
    let client = created(flags, names).await?;
    let producer = client.producer(ProducerConfig::default())?;
    let topic: std::sync::Arc<str> = names.accounts.as_str().into();
    let began = Instant::now();
    let mut deliveries = std::collections::VecDeque::new();
    for number in 0..events {
        // What a repository would append, without its conditions: nobody else writes.
        let account = account_name((number % u64::from(accounts)) as u32);
        let event = match number < u64::from(accounts) {
            true => Event::Opened { amount: 1_000_000 },
            false => Event::Deposited {
                transfer: format!("t{number}"),
                from: account_name(0),
                amount: 1,
            },
        };
        let commit = Commit {
            id: format!("t{number}/in"),
            events: vec![event],
        };
        let record = ProducerRecord::new(topic.clone())
            .with_key(account)
            .with_value(serde_json::to_vec(&commit)?);
        deliveries.push_back(producer.send(record).await?);
        if deliveries.len() > 10_000
            && let Some(delivery) = deliveries.pop_front()
        {
            delivery.await?;
        }
    }
    for delivery in deliveries {
        delivery.await?;
    }
    say(
        "bench",
        format!(
            "{events} events of {accounts} accounts appended in {:?}",
            began.elapsed()
        ),
    );

    let began = Instant::now();
    let states: Repository<Account> = Repository::open(&client, &names.accounts, RepositoryOptions::default()).await?;
    told("states rebuilt from the log", events, began.elapsed());
    let began = Instant::now();
    let written = Snapshots::open(&states, &names.snapshots).await?.write().await?;
    say("bench", format!("{written} snapshots written in {:?}", began.elapsed()));
    let began = Instant::now();
    let options = RepositoryOptions {
        snapshots: Some(names.snapshots.clone()),
        ..RepositoryOptions::default()
    };
    let again: Repository<Account> = Repository::open(&client, &names.accounts, options).await?;
    say("bench", format!("states from the snapshots in {:?}", began.elapsed()));
    let key = account_name(0);
    let same = states.read(&key, |stream| stream.state.clone()) == again.read(&key, |stream| stream.state.clone());
    say("bench", format!("they are the same: {same}"));

    let projection = SqliteProjection::open(&client, &names.accounts, (&names.database, "balances"), Balances).await?;
    let reader = SqliteReader::open(&names.database, "balances")?;
    let began = Instant::now();
    let as_far = async {
        for (partition, offset) in states.positions() {
            reader.wait_for(partition, offset, Duration::from_secs(600)).await?;
        }
        Ok::<_, Error>(())
    };
    tokio::select! {
        reached = as_far => reached?,
        ended = projection.run(std::future::pending()) => ended?,
    }
    told("projection in SQLite rebuilt", events, began.elapsed());
    Ok(())
}

fn told(what: &str, events: u64, took: Duration) {
    say(
        "bench",
        format!(
            "{what} in {took:?}, {:.0} events a second",
            events as f64 / took.as_secs_f64()
        ),
    );
}
