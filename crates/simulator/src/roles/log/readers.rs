//! Clients that read a team's topic meanwhile: one follows it, one goes about in it, one asks where it ends.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_client::{Client, ConsumerConfig, Isolation, OffsetReset, StartAt};

use super::chance::Chance;
use super::reading::{Named, Reading, end_of};
use crate::play::stage::Stage;

/// How long a poll waits.
const POLL: Duration = Duration::from_secs(5);
/// A pause after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// A reader of a topic that is not assigned anything yet.
pub fn reading(stage: &Stage, chance: &Chance, client: &Client, topic: Named, isolation: Isolation) -> Option<Reading> {
    let config = ConsumerConfig {
        isolation,
        // What was trimmed is passed over; what lies beyond the end would come again, and be seen.
        offset_reset: OffsetReset::Earliest,
        max_partition_bytes: chance.one_of(&[1024, 16 * 1024, 1024 * 1024]),
        ..ConsumerConfig::default()
    };
    match client.consumer(config) {
        Ok(consumer) => Some(Reading {
            stage: stage.clone(),
            process: stage.process(),
            topic,
            isolation,
            consumer,
        }),
        Err(error) => {
            stage.report(format!("no consumer: {error}"));
            None
        }
    }
}

/// Reads all partitions from their beginning on, until the stage is over.
pub fn follow(
    stage: &Stage,
    name: &str,
    topic: Named,
    partitions: u32,
    isolation: Isolation,
) -> LocalBoxFuture<'static, ()> {
    let (stage, name) = (stage.clone(), name.to_owned());
    let chance = Chance::of(&stage.random);
    let following = async move {
        let Some(client) = stage.until_over(stage.connect(&name)).await else {
            return;
        };
        let Some(mut reading) = reading(&stage, &chance, &client, topic, isolation) else {
            return;
        };
        while assign(&mut reading, partitions).await {
            go_on(&mut reading).await;
        }
    };
    following.boxed_local()
}

/// Reads what is assigned until the stage is over, or until there is an error after which nothing more would come.
pub async fn go_on(reading: &mut Reading) {
    while let Some(polled) = reading.poll(POLL).await {
        if polled.is_err_and(|error| !error.is_retryable()) {
            return;
        }
    }
}

/// Assigns all partitions from their beginning on, and tries until that succeeds. False: the stage is over.
pub async fn assign(reading: &mut Reading, partitions: u32) -> bool {
    let all: Vec<_> = (0..partitions)
        .map(|partition| (partition, StartAt::Earliest))
        .collect();
    while !reading.stage.is_over() {
        match reading.assign(&all).await {
            Ok(()) => return true,
            Err(_) => reading.stage.pause(PAUSE).await,
        }
    }
    false
}

/// Reads some partitions, from here and there, until the stage is over.
pub fn wander(
    stage: &Stage,
    name: &str,
    topic: Named,
    partitions: u32,
    isolation: Isolation,
) -> LocalBoxFuture<'static, ()> {
    let (stage, name) = (stage.clone(), name.to_owned());
    let chance = Chance::of(&stage.random);
    let wandering = async move {
        let Some(client) = stage.until_over(stage.connect(&name)).await else {
            return;
        };
        let Some(mut reading) = reading(&stage, &chance, &client, topic, isolation) else {
            return;
        };
        let (mut end, mut time) = (0_u64, 0_i64);
        while !stage.is_over() {
            let assigned: Vec<u32> = (0..partitions).filter(|_| !chance.one_in(3)).collect();
            let wanted = assigned.iter();
            let wanted = wanted.map(|partition| (*partition, somewhere(&chance, end, time)));
            let wanted: Vec<_> = wanted.collect();
            if wanted.is_empty() || reading.assign(&wanted).await.is_err() {
                stage.pause(PAUSE).await;
                continue;
            }
            for _ in 0..chance.between(1..8) {
                match reading.poll(chance.ms(100..1_500)).await {
                    None => return,
                    Some(Ok(records)) => {
                        for record in records {
                            end = end.max(record.offset.cast_unsigned() + 1);
                            time = time.max(record.timestamp_ms);
                        }
                    }
                    Some(Err(_)) => stage.pause(PAUSE).await,
                }
                if chance.one_in(3) {
                    // Of an error nothing has changed.
                    let _ = reading
                        .seek(chance.one_of(&assigned), somewhere(&chance, end, time))
                        .await;
                }
            }
        }
    };
    wandering.boxed_local()
}

/// Some place at which to begin, of partitions that have been read up to an offset and a time.
fn somewhere(chance: &Chance, end: u64, time_ms: i64) -> StartAt {
    match chance.between(0..5) {
        0 => StartAt::Earliest,
        1 => StartAt::Latest,
        // A time around that of a record that was read.
        2 => StartAt::Timestamp(i64::max(0, time_ms - chance.between(0..4_000).cast_signed() + 500)),
        _ => StartAt::Offset(chance.between(0..end + 1).cast_signed()),
    }
}

/// Asks where partitions end, for readers of all and of committed records, until the stage is over.
pub fn ask_ends(stage: &Stage, name: &str, topic: Named, partitions: u32) -> LocalBoxFuture<'static, ()> {
    let (stage, name) = (stage.clone(), name.to_owned());
    let chance = Chance::of(&stage.random);
    let asking = async move {
        let Some(client) = stage.until_over(stage.connect(&name)).await else {
            return;
        };
        let process = stage.process();
        while !stage.is_over() {
            let partition = chance.count(0..partitions);
            let isolation = chance.one_of(&[Isolation::Committed, Isolation::Uncommitted]);
            end_of(&stage, &client, process, (&topic, partition), isolation).await;
            stage.pause(chance.ms(50..400)).await;
        }
    };
    asking.boxed_local()
}
