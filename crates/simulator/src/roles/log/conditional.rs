//! Records on conditions: appended only at an offset, or only behind the last record of their key, beside others that have none.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call::{self, Call};
use jangada_client::{ClientError, Condition, Isolation, Producer, ProducerConfig};
use jangada_env::Random;

use super::chance::Chance;
use super::outbox::settle;
use super::reading::{Named, end_of};
use super::records::{Values, create_topic, record, watch};
use super::{finals, readers};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

const DELIVERY: Duration = Duration::from_secs(4);

struct Conditional {
    partitions: u32,
    writers: usize,
    keys: u32,
}

/// A team whose records have conditions.
pub fn conditional(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    Box::new(Conditional {
        partitions: chance.count(1..3),
        writers: chance.index(2) + 2,
        keys: chance.count(1..5),
    })
}

fn topic(stage: &Stage) -> Named {
    Named::once(stage.named("log"))
}

impl Team for Conditional {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let settings = &[("key.index.enable", "true")];
        async move { create_topic(stage, &topic(stage).topic, self.partitions, settings).await }.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let (topic, partitions) = (topic(stage), self.partitions);
        let writers = (0..self.writers).map(|number| {
            let writer = Writer {
                process: stage.process(),
                chance: Chance::of(&stage.random),
                stage: stage.clone(),
                number,
                topic: topic.clone(),
                keys: self.keys,
                ends: BTreeMap::new(),
                last: BTreeMap::new(),
            };
            write(writer, partitions).boxed_local()
        });
        let mut tasks: Vec<_> = writers.collect();
        tasks.push(readers::follow(
            stage,
            "follower",
            topic.clone(),
            partitions,
            Isolation::Committed,
        ));
        tasks.push(readers::ask_ends(stage, "asker", topic, partitions));
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            let read = finals::read_topic(stage, &client, &topic(stage), self.partitions).await;
            read.map(drop)
        };
        finishing.boxed_local()
    }
}

/// A writer, and what it takes the partitions' ends and its keys' last offsets to be.
struct Writer {
    stage: Stage,
    chance: Chance,
    process: u32,
    number: usize,
    topic: Named,
    keys: u32,
    ends: BTreeMap<u32, i64>,
    last: BTreeMap<(u32, u32), i64>,
}

async fn write(mut writer: Writer, partitions: u32) {
    let stage = writer.stage.clone();
    let name = format!("writer-{}", writer.number);
    let Some(client) = stage.until_over(stage.connect(&name)).await else {
        return;
    };
    let config = ProducerConfig {
        delivery_timeout: DELIVERY,
        request_timeout: Duration::from_secs(1),
        ..ProducerConfig::default()
    };
    let producer = match client.producer(config) {
        Ok(producer) => producer,
        Err(error) => return stage.report(format!("no producer: {error}")),
    };
    let values = Values::new(format!("c{}", writer.number));
    while !stage.is_over() {
        let partition = writer.chance.count(0..partitions);
        if !writer.ends.contains_key(&partition) {
            let asked = (&writer.topic, partition);
            let end = end_of(&stage, &client, writer.process, asked, Isolation::Uncommitted).await;
            writer.ends.extend(end.map(|end| (partition, end)));
        }
        let sending = writer.send(&producer, partition, values.next());
        if stage.until_over(sending).await.is_none() {
            return;
        }
        let pause = writer.chance.ms(10..150);
        stage.pause(pause).await;
    }
}

impl Writer {
    /// Sends a record with a condition or without, and takes notice of the answer.
    async fn send(&mut self, producer: &Producer, partition: u32, value: String) {
        let key = self.chance.count(0..self.keys);
        let (end, last) = (self.ends.get(&partition), self.last.get(&(partition, key)));
        let condition = match self.chance.between(0..5) {
            0 => None,
            1 | 2 => end.map(|end| Condition::EndOffset(*end)),
            // Below 0: no record has the key, as far as is known.
            _ => Some(Condition::KeyOffset(last.copied().filter(|last| *last >= 0))),
        };
        let key_text = format!("k{key}");
        let mut call = call::Send {
            key: Some(key_text.clone()),
            ..call::Send::new(&self.topic.place(partition), &*value)
        };
        match condition {
            Some(Condition::EndOffset(offset)) => call.expected_end_offset = Some(offset),
            Some(Condition::KeyOffset(offset)) => call.expected_key_offset = Some(offset.unwrap_or(-1)),
            None => {}
        }
        let name: Rc<str> = self.topic.topic.as_str().into();
        let record = record(&name, partition, &value).with_key(key_text);
        let pending = self.stage.recorder.invoke(self.process, Call::Send(call));
        let taken = match condition {
            Some(condition) => producer.send_if(record, condition).await,
            None => producer.send(record).await,
        };
        let sent = match taken {
            Ok(delivery) => settle(self.stage.clone(), pending, delivery, 1).await,
            Err(error) => {
                watch(&self.stage, &error);
                pending.fail();
                return;
            }
        };
        match (sent, condition) {
            (Ok(Some(offset)), _) => {
                self.ends.insert(partition, offset + 1);
                self.last.insert((partition, key), offset);
            }
            (Err(ClientError::ConditionFailed { actual, .. }), Some(Condition::EndOffset(_))) => {
                self.ends.insert(partition, actual);
            }
            (Err(ClientError::ConditionFailed { actual, .. }), Some(Condition::KeyOffset(_))) => {
                self.last.insert((partition, key), actual);
            }
            // Where the partition ends is asked again.
            _ => drop(self.ends.remove(&partition)),
        }
    }
}
