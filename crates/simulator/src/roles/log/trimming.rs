//! Logs that begin later and later: trimmed by an admin, or deleted by age and size.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call::{self, Call, Done, Reply};
use jangada_check::note::{Note, PartitionSettings};
use jangada_client::{Isolation, OffsetAt};
use jangada_env::Random;

use super::chance::Chance;
use super::finals::{self, Whole};
use super::outbox::Outbox;
use super::readers;
use super::reading::Named;
use super::records::{Values, create_topic, record, watch};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

const DELIVERY: Duration = Duration::from_secs(5);

/// Up to where a partition was trimmed.
#[derive(Clone, Copy, Debug, Default)]
struct Trimmed {
    /// The highest offset of a trim that was acknowledged.
    done: i64,
    /// The highest offset of one that was asked for.
    asked: i64,
}

type Trims = Rc<RefCell<BTreeMap<u32, Trimmed>>>;

struct Trimming {
    partitions: u32,
    /// Retention takes records, too.
    has_retention: bool,
    /// Bytes that a record has beside its value.
    pad: usize,
    trims: Trims,
}

/// A team whose logs begin later and later.
pub fn trimming(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    let has_retention = chance.one_in(2);
    Box::new(Trimming {
        partitions: chance.count(1..3),
        has_retention,
        // Retention deletes in steps of 64 KiB.
        pad: if has_retention { 6 * 1024 } else { 0 },
        trims: Rc::default(),
    })
}

fn topic(stage: &Stage) -> Named {
    Named::once(stage.named("log"))
}

impl Team for Trimming {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let preparing = async move {
            let settings: &[(&str, &str)] = match self.has_retention {
                true => &[
                    ("segment.bytes", "65536"),
                    ("retention.ms", "4000"),
                    ("retention.bytes", "200000"),
                ],
                false => &[],
            };
            let topic = topic(stage);
            create_topic(stage, &topic.topic, self.partitions, settings).await?;
            for partition in 0..self.partitions {
                let settings = PartitionSettings {
                    partition: topic.place(partition),
                    retention: self.has_retention,
                    ..PartitionSettings::default()
                };
                stage.recorder.note(None, Note::Partition(settings));
            }
            Ok(())
        };
        preparing.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let (topic, partitions) = (topic(stage), self.partitions);
        let chance = || Chance::of(&stage.random);
        let (writing, trimming) = (chance(), chance());
        vec![
            write(stage.clone(), writing, topic.clone(), (partitions, self.pad)).boxed_local(),
            trim(stage.clone(), trimming, topic.clone(), partitions, self.trims.clone()).boxed_local(),
            readers::follow(stage, "follower", topic.clone(), partitions, Isolation::Committed),
            readers::wander(stage, "wanderer", topic.clone(), partitions, Isolation::Committed),
            readers::ask_ends(stage, "asker", topic, partitions),
        ]
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            let topic = topic(stage);
            let all = finals::read_topic(stage, &client, &topic, self.partitions).await?;
            for (whole, partition) in all.iter().zip(0..) {
                self.judge(stage, &topic, partition, whole);
            }
            Ok(())
        };
        finishing.boxed_local()
    }
}

impl Trimming {
    /// A log begins where the last trim was, and not behind it, unless retention took more.
    fn judge(&self, stage: &Stage, topic: &Named, partition: u32, whole: &Whole) {
        let trimmed = self.trims.borrow().get(&partition).copied().unwrap_or_default();
        let (place, start) = (topic.place(partition), whole.log_start);
        if start < trimmed.done {
            let done = trimmed.done;
            stage.report(format!("{place} begins at {start}, and was trimmed up to {done}"));
        }
        if !self.has_retention && start > trimmed.asked {
            let asked = trimmed.asked;
            stage.report(format!(
                "{place} begins at {start}, and was to be trimmed up to {asked} only"
            ));
        }
    }
}

async fn write(stage: Stage, chance: Chance, topic: Named, (partitions, pad): (u32, usize)) {
    let Some(mut outbox) = Outbox::connect(&stage, "writer", DELIVERY).await else {
        return;
    };
    let values = Values::new("t");
    let name: Rc<str> = topic.topic.as_str().into();
    while !stage.is_over() {
        for _ in 0..chance.between(1..4) {
            let (partition, value) = (chance.count(0..partitions), values.next());
            let mut record = record(&name, partition, &value);
            if pad > 0 {
                record = record.with_header("pad", vec![b'x'; pad]);
            }
            outbox
                .send(call::Send::new(&topic.place(partition), &*value), record)
                .await;
        }
        outbox.settle_to(8).await;
        outbox.pause(chance.ms(20..200)).await;
    }
    outbox.close().await;
}

async fn trim(stage: Stage, chance: Chance, topic: Named, partitions: u32, trims: Trims) {
    let Some(client) = stage.until_over(stage.connect("trimmer")).await else {
        return;
    };
    let (admin, process) = (client.admin(), stage.process());
    while !stage.is_over() {
        stage.pause(chance.ms(200..3_000)).await;
        let partition = chance.count(0..partitions);
        let end = client.list_offsets(&topic.topic, partition, OffsetAt::Latest);
        let Some(Ok(end)) = stage.until_over(end).await else {
            continue;
        };
        let end = end.offset.unwrap_or(0).cast_unsigned();
        let offset = chance.between(end / 2..end + 1).cast_signed();
        {
            let mut trims = trims.borrow_mut();
            let known = trims.entry(partition).or_default();
            known.asked = known.asked.max(offset);
        }
        let call = Call::Trim {
            partition: topic.place(partition),
            offset,
        };
        let pending = stage.recorder.invoke(process, call);
        match stage
            .until_over(admin.trim(&topic.topic, partition, Some(offset)))
            .await
        {
            Some(Ok(start)) => {
                pending.ok(Reply::Done(Done {}));
                if start < offset {
                    let place = topic.place(partition);
                    stage.report(format!(
                        "{place} was trimmed up to {offset} and is told to begin at {start}"
                    ));
                }
                let mut trims = trims.borrow_mut();
                let known = trims.entry(partition).or_default();
                known.done = known.done.max(offset);
            }
            Some(Err(error)) => {
                watch(&stage, &error);
                match error.is_definite() {
                    true => pending.fail(),
                    false => pending.unknown(),
                }
            }
            None => pending.unknown(),
        }
    }
}
