//! Producers with an id: what is acknowledged is there once, in order, with every codec and many records in flight.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call;
use jangada_client::{Client, Codec, Isolation, OffsetAt, ProducerConfig};
use jangada_env::Random;
use tokio::time::sleep;

use super::chance::Chance;
use super::finals::{self, Whole};
use super::outbox::Outbox;
use super::readers;
use super::reading::Named;
use super::records::{Values, create_topic, record};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

/// Times that are looked up in each partition at the end.
const LOOKED_UP: usize = 4;
/// How often a call is tried at the end, with a pause between.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);
/// A record of so many bytes is larger than the smallest batch.
const LARGE: usize = 3 * 1024;

/// How one producer works.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    pub config: ProducerConfig,
    /// So many records may be on their way.
    pub in_flight: usize,
    /// Between two bursts of records, milliseconds.
    pub pause_ms: u64,
}

impl Habits {
    /// Draws how a producer works.
    pub fn draw(chance: &Chance) -> Self {
        let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
        let (batch_bytes, linger) = (chance.one_of(&[1024, 64 * 1024]), chance.one_of(&[0, 5, 30]));
        Self {
            config: ProducerConfig {
                compression: chance.one_of(&codecs),
                batch_bytes,
                linger: Duration::from_millis(linger),
                max_in_flight: chance.one_of(&[1, 3, 5]),
                // Some are given up while a partition has no leader.
                delivery_timeout: Duration::from_millis(chance.one_of(&[1_500, 4_000, 10_000])),
                request_timeout: Duration::from_millis(chance.one_of(&[500, 2_000, 5_000])),
                ..ProducerConfig::default()
            },
            in_flight: chance.one_of(&[1, 4, 16]),
            pause_ms: chance.one_of(&[100, 200, 400]),
        }
    }
}

struct Producers {
    partitions: u32,
    has_append_time: bool,
    writers: Vec<Habits>,
}

/// A team of producers with an id.
pub fn producers(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    Box::new(Producers {
        partitions: chance.count(1..4),
        has_append_time: chance.one_in(3),
        writers: (0..chance.between(1..4)).map(|_| Habits::draw(&chance)).collect(),
    })
}

/// The one topic of the team.
fn topic(stage: &Stage) -> Named {
    Named::once(stage.named("log"))
}

impl Team for Producers {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let settings: &[(&str, &str)] = match self.has_append_time {
            true => &[("message.timestamp.type", "LogAppendTime")],
            false => &[],
        };
        async move { create_topic(stage, &topic(stage).topic, self.partitions, settings).await }.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let (topic, partitions) = (topic(stage), self.partitions);
        let writers = self.writers.iter().enumerate().map(|(number, habits)| {
            let chance = Chance::of(&stage.random);
            write(stage.clone(), chance, number, habits.clone(), topic.clone(), partitions).boxed_local()
        });
        let mut tasks: Vec<_> = writers.collect();
        tasks.push(readers::follow(
            stage,
            "follower",
            topic.clone(),
            partitions,
            Isolation::Committed,
        ));
        tasks.push(readers::wander(
            stage,
            "wanderer",
            topic.clone(),
            partitions,
            Isolation::Uncommitted,
        ));
        tasks.push(readers::ask_ends(stage, "asker", topic, partitions));
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            let topic = topic(stage);
            let all = finals::read_topic(stage, &client, &topic, self.partitions).await?;
            let chance = Chance::of(&stage.random);
            for (whole, partition) in all.iter().zip(0..) {
                by_time(stage, &client, &chance, (&topic, partition), whole).await?;
            }
            Ok(())
        };
        finishing.boxed_local()
    }
}

/// Writes with one producer after another, until the stage is over.
async fn write(stage: Stage, chance: Chance, number: usize, habits: Habits, topic: Named, partitions: u32) {
    let Some(client) = stage.until_over(stage.connect(&format!("writer-{number}"))).await else {
        return;
    };
    let values = Values::new(format!("w{number}"));
    let name: Rc<str> = topic.topic.as_str().into();
    while !stage.is_over() {
        let Some(mut outbox) = Outbox::of(&stage, &client, habits.config.clone()) else {
            return;
        };
        for _ in 0..chance.between(10..100) {
            for _ in 0..chance.between(1..4) {
                let (partition, value) = (chance.count(0..partitions), values.next());
                let mut record = record(&name, partition, &value);
                if chance.one_in(40) {
                    record = record.with_header("pad", vec![b'x'; LARGE]);
                }
                outbox
                    .send(call::Send::new(&topic.place(partition), &*value), record)
                    .await;
            }
            outbox.settle_to(habits.in_flight).await;
            outbox.pause(chance.ms(0..habits.pause_ms)).await;
            if stage.is_over() {
                break;
            }
        }
        outbox.close().await;
    }
}

/// Looks records up by their times: the first one at or behind a time is found.
async fn by_time(
    stage: &Stage,
    client: &Client,
    chance: &Chance,
    (topic, partition): (&Named, u32),
    whole: &Whole,
) -> Result<(), Finding> {
    if whole.committed.is_empty() {
        return Ok(());
    }
    for _ in 0..LOOKED_UP {
        let time = whole.committed[chance.index(whole.committed.len())].timestamp_ms;
        let time = time + chance.between(0..3).cast_signed() - 1;
        let expected = whole.committed.iter().find(|found| found.timestamp_ms >= time);
        let expected = expected.map(|found| (found.offset, found.timestamp_ms));
        let found = find(client, (&topic.topic, partition), time).await?;
        if found != expected {
            let place = topic.place(partition);
            stage.report(format!(
                "at {time} ms {place} is told to have {found:?}, and has {expected:?}"
            ));
        }
    }
    Ok(())
}

/// The offset and time of the first record at or behind a time.
async fn find(client: &Client, (topic, partition): (&str, u32), time: i64) -> Result<Option<(i64, i64)>, Finding> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match client.list_offsets(topic, partition, OffsetAt::Timestamp(time)).await {
            Ok(found) => return Ok(found.offset.zip(found.timestamp_ms)),
            Err(error) => last = error.to_string(),
        }
        sleep(PAUSE).await;
    }
    Err(format!("{topic}/{partition} cannot be searched by time: {last}"))
}
