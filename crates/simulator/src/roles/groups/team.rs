//! The team: the topics that groups read, who writes to them, who reads what is committed, and who reads what is left at the end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call;
use jangada_client::{Assignor, Client, CommitMode};
use jangada_env::Random;
use tokio::time::Instant;

use super::member::{Group, Handed, Member};
use super::offsets;
use crate::play::stage::Stage;
use crate::roles::log::chance::Chance;
use crate::roles::log::finals::{self, Whole};
use crate::roles::log::outbox::Outbox;
use crate::roles::log::readers;
use crate::roles::log::reading::Named;
use crate::roles::log::records::{Values, create_topic, record};
use crate::roles::team::{Finding, Team};

const DELIVERY: Duration = Duration::from_secs(5);
/// Within so long the last member has read and committed all.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

/// What is drawn of a group.
struct Drawn {
    commit: CommitMode,
    by_pattern: bool,
    session: Duration,
    /// Of each member: whether it is static, and how it wants partitions to be shared out.
    members: Vec<(bool, Assignor)>,
    batch: usize,
    handed: Handed,
}

struct Members {
    /// Partitions of each topic, in the order of their names, as far as was acknowledged.
    topics: Vec<Rc<Cell<u32>>>,
    /// The first topic gets more partitions meanwhile.
    grows: bool,
    groups: Vec<Drawn>,
}

/// A team of groups and their members.
pub fn members(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    let modes = [
        CommitMode::Manual,
        CommitMode::After {
            interval: Duration::from_millis(300),
        },
        CommitMode::Before,
    ];
    let assignors = [Assignor::Any, Assignor::Uniform, Assignor::Range];
    let group = |_| Drawn {
        commit: chance.one_of(&modes),
        by_pattern: chance.one_in(3),
        session: Duration::from_millis(chance.one_of(&[1_500, 3_000, 6_000])),
        members: (0..chance.between(2..4))
            .map(|_| (chance.one_in(3), chance.one_of(&assignors)))
            .collect(),
        batch: chance.one_of(&[1, 5, 1_000]),
        handed: Rc::default(),
    };
    Box::new(Members {
        topics: (0..chance.between(1..3))
            .map(|_| Rc::new(Cell::new(chance.count(1..4))))
            .collect(),
        grows: chance.one_in(3),
        groups: (0..chance.between(1..3)).map(group).collect(),
    })
}

impl Members {
    fn topic(stage: &Stage, number: usize) -> Named {
        Named::once(stage.named(&format!("in-{number}")))
    }

    fn topics(&self, stage: &Stage) -> Vec<(Named, u32)> {
        let topics = self.topics.iter().enumerate();
        topics
            .map(|(number, count)| (Self::topic(stage, number), count.get()))
            .collect()
    }

    fn group(&self, stage: &Stage, number: usize) -> Group {
        let drawn = &self.groups[number];
        let topics = self.topics(stage).into_iter().map(|(topic, _)| topic.topic);
        Group {
            name: stage.named(&format!("group-{number}")),
            topics: topics.collect(),
            pattern: drawn.by_pattern.then(|| format!("{}.*", stage.named("in-"))),
            commit: drawn.commit,
            session: drawn.session,
            handed: drawn.handed.clone(),
        }
    }
}

impl Team for Members {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let preparing = async move {
            for (topic, partitions) in self.topics(stage) {
                create_topic(stage, &topic.topic, partitions, &[]).await?;
            }
            Ok(())
        };
        preparing.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let mut tasks = Vec::new();
        for (number, partitions) in self.topics.iter().enumerate() {
            let topic = Self::topic(stage, number);
            let chance = Chance::of(&stage.random);
            tasks.push(write(stage.clone(), chance, topic.clone(), partitions.clone()).boxed_local());
            tasks.push(readers::ask_ends(stage, "asker", topic.clone(), partitions.get()));
            if number == 0 && self.grows {
                let chance = Chance::of(&stage.random);
                tasks.push(grow(stage.clone(), chance, topic, partitions.clone()).boxed_local());
            }
        }
        for (number, drawn) in self.groups.iter().enumerate() {
            let group = self.group(stage, number);
            for (at, (is_static, assignor)) in drawn.members.iter().enumerate() {
                let name = format!("member-{number}-{at}");
                let member = Member {
                    group: group.clone(),
                    instance: is_static.then(|| name.clone()),
                    name,
                    assignor: *assignor,
                    batch: drawn.batch,
                };
                tasks.push(member.live(stage.clone(), Chance::of(&stage.random)).boxed_local());
            }
            if drawn.commit == CommitMode::Manual {
                let topics = group.topics.clone();
                let chance = Chance::of(&stage.random);
                tasks.push(offsets::watch(stage.clone(), chance, group.name, topics).boxed_local());
            }
        }
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            for number in 0..self.groups.len() {
                let group = self.group(stage, number);
                stage.step(format!("waits until group {} is empty", group.name));
                offsets::empty(&client, &group.name).await?;
                stage.step(format!("reads what is left for group {}", group.name));
                drain(stage, &client, &group).await?;
            }
            let mut all = BTreeMap::new();
            for (topic, partitions) in self.topics(stage) {
                let wholes = finals::read_topic(stage, &client, &topic, partitions).await?;
                all.extend(
                    wholes
                        .into_iter()
                        .zip(0..)
                        .map(|(whole, number)| (topic.place(number), whole)),
                );
            }
            for number in 0..self.groups.len() {
                all_were_handed_out(stage, &self.group(stage, number), &all);
            }
            Ok(())
        };
        finishing.boxed_local()
    }
}

/// Of a group that reads at least once: every record was handed out.
fn all_were_handed_out(stage: &Stage, group: &Group, all: &BTreeMap<String, Whole>) {
    if group.commit == CommitMode::Before {
        return;
    }
    let handed = group.handed.borrow();
    for (name, whole) in all {
        let handed = handed.get(name);
        let is_missed = |offset: &i64| handed.is_none_or(|handed| !handed.contains_key(offset));
        let offsets = whole.committed.iter().map(|found| found.offset);
        let missed: Vec<i64> = offsets.filter(is_missed).collect();
        if let Some(first) = missed.first() {
            let (group, count) = (&group.name, missed.len());
            stage.report(format!(
                "group {group} was never handed {count} records of {name}, first {first}"
            ));
        }
    }
}

async fn write(stage: Stage, chance: Chance, topic: Named, partitions: Rc<Cell<u32>>) {
    let Some(mut outbox) = Outbox::connect(&stage, "writer", DELIVERY).await else {
        return;
    };
    let values = Values::new("g");
    let name: Rc<str> = topic.topic.as_str().into();
    while !stage.is_over() {
        let (partition, value) = (chance.count(0..partitions.get()), values.next());
        let call = call::Send::new(&topic.place(partition), &*value);
        outbox.send(call, record(&name, partition, &value)).await;
        outbox.settle_to(8).await;
        outbox.pause(chance.ms(10..150)).await;
    }
    outbox.close().await;
}

/// Gives the topic more partitions, once.
async fn grow(stage: Stage, chance: Chance, topic: Named, partitions: Rc<Cell<u32>>) {
    let Some(client) = stage.until_over(stage.connect("grower")).await else {
        return;
    };
    stage.pause(chance.ms(2_000..15_000)).await;
    let total = partitions.get() + chance.count(1..3);
    while !stage.is_over() {
        // It names the total, so it may be sent again.
        let admin = client.admin();
        let created = stage.until_over(admin.create_partitions(&topic.topic, total));
        match created.await {
            Some(Ok(_)) => return partitions.set(total),
            _ => stage.pause(PAUSE).await,
        }
    }
    // It may have come about all the same.
}

/// A last member reads all that is left, and commits it: then the group has no lag.
async fn drain(stage: &Stage, client: &Client, group: &Group) -> Result<(), Finding> {
    let member = Member {
        group: group.clone(),
        name: "last".to_owned(),
        instance: None,
        assignor: Assignor::Any,
        batch: 1_000,
    };
    let process = stage.process();
    let Some(mut life) = member.begin(stage, client, process) else {
        return Err(format!("no last member of group {}", group.name));
    };
    let chance = Chance::of(&stage.random);
    let deadline = Instant::now() + DRAINED_WITHIN;
    let mut behind = None;
    loop {
        match life.step(&chance).await {
            // It goes on while there is something.
            Ok(1..) if Instant::now() < deadline => continue,
            Ok(_) => {}
            Err(error) => stage.note(&format!("the last member of {}: {error}", group.name)),
        }
        let is_recorded = group.commit == CommitMode::Manual;
        let asked = (&*group.name, &*group.topics);
        let lag = offsets::lag(stage, client, process, asked, is_recorded).await;
        behind = lag.or(behind);
        match &behind {
            Some(behind) if behind.is_empty() => break,
            _ if Instant::now() < deadline => life.rest().await,
            behind => return Err(format!("group {} lags for ever: {behind:?}", group.name)),
        }
    }
    life.close().await;
    Ok(())
}
