//! Producers without an id, whose records may come twice, and such as wait for no answer, whose records may be lost.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call;
use jangada_client::{Acks, Isolation, ProducerConfig};
use jangada_env::Random;

use super::chance::Chance;
use super::idempotent::Habits;
use super::outbox::Outbox;
use super::reading::Named;
use super::records::{Values, create_topic, record};
use super::{finals, readers};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

struct Plain {
    partitions: u32,
    writers: Vec<(Acks, Habits)>,
}

/// A team of producers without an id.
pub fn plain_producers(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    let writers = [Acks::Quorum, Acks::None].map(|acks| (acks, Habits::draw(&chance)));
    Box::new(Plain {
        partitions: chance.count(1..3),
        writers: writers.into(),
    })
}

fn topic(stage: &Stage) -> Named {
    Named::once(stage.named("log"))
}

impl Team for Plain {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        async move { create_topic(stage, &topic(stage).topic, self.partitions, &[]).await }.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let (topic, partitions) = (topic(stage), self.partitions);
        let writers = self.writers.iter().enumerate().map(|(number, (acks, habits))| {
            let chance = Chance::of(&stage.random);
            let config = ProducerConfig {
                acks: *acks,
                idempotent: false,
                ..habits.config.clone()
            };
            let writer = Writer {
                stage: stage.clone(),
                number,
                config,
                pause_ms: habits.pause_ms,
            };
            write(writer, chance, topic.clone(), partitions).boxed_local()
        });
        let mut tasks: Vec<_> = writers.collect();
        tasks.push(readers::follow(
            stage,
            "follower",
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
            let read = finals::read_topic(stage, &client, &topic(stage), self.partitions).await;
            read.map(drop)
        };
        finishing.boxed_local()
    }
}

struct Writer {
    stage: Stage,
    number: usize,
    config: ProducerConfig,
    pause_ms: u64,
}

async fn write(writer: Writer, chance: Chance, topic: Named, partitions: u32) {
    let stage = &writer.stage;
    let name = format!("writer-{}", writer.number);
    let Some(client) = stage.until_over(stage.connect(&name)).await else {
        return;
    };
    let Some(mut outbox) = Outbox::of(stage, &client, writer.config.clone()) else {
        return;
    };
    let values = Values::new(format!("p{}", writer.number));
    let name: Rc<str> = topic.topic.as_str().into();
    while !stage.is_over() {
        let (partition, value) = (chance.count(0..partitions), values.next());
        let call = call::Send {
            idempotent: false,
            ..call::Send::new(&topic.place(partition), &*value)
        };
        outbox.send(call, record(&name, partition, &value)).await;
        outbox.settle_to(4).await;
        outbox
            .pause(Duration::from_millis(20) + chance.ms(0..writer.pause_ms))
            .await;
    }
    outbox.close().await;
}
