//! A chain: what goes into one topic comes out of another one, each record once, while workers die at any moment.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::{Note, call};
use jangada_client::{Client, Isolation};
use jangada_env::Random;
use tokio::time::Instant;

use super::team::nothing_is_open;
use super::worker::{Chain, Worker};
use crate::play::stage::Stage;
use crate::roles::groups::offsets;
use crate::roles::log::chance::Chance;
use crate::roles::log::cut::CutOff;
use crate::roles::log::finals::{self, Whole};
use crate::roles::log::outbox::Outbox;
use crate::roles::log::readers;
use crate::roles::log::reading::Named;
use crate::roles::log::records::{Values, create_topic, record};
use crate::roles::team::{Finding, Team};

const DELIVERY: Duration = Duration::from_secs(5);
/// Within so long a last worker has done all.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

struct Chained {
    /// Partitions of what goes in, and of what comes out.
    partitions: (u32, u32),
    workers: usize,
    by_hand: bool,
    session: Duration,
    attempts: Values,
}

/// A team of a chain.
pub fn chain(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    Box::new(Chained {
        partitions: (chance.count(1..4), chance.count(1..3)),
        workers: chance.index(2) + 2,
        by_hand: chance.one_in(2),
        session: Duration::from_millis(chance.one_of(&[1_500, 3_000])),
        attempts: Values::new("a"),
    })
}

impl Chained {
    fn chain(&self, stage: &Stage) -> Chain {
        Chain {
            stage: stage.clone(),
            group: stage.named("workers"),
            from: Named::once(stage.named("in")),
            to: (Named::once(stage.named("out")), self.partitions.1),
            by_hand: self.by_hand,
            session: self.session,
            attempts: self.attempts.clone(),
            transactions: Values::new("none"),
        }
    }
}

impl Team for Chained {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let preparing = async move {
            let chain = self.chain(stage);
            create_topic(stage, &chain.from.topic, self.partitions.0, &[]).await?;
            create_topic(stage, &chain.to.0.topic, self.partitions.1, &[]).await
        };
        preparing.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let chain = self.chain(stage);
        let chance = || Chance::of(&stage.random);
        let mut tasks = vec![feed(stage.clone(), chance(), chain.from.clone(), self.partitions.0).boxed_local()];
        for number in 0..self.workers {
            let chain = Chain {
                transactions: Values::new(format!("{}-worker-{number}", stage.team())),
                ..chain.clone()
            };
            tasks.push(work(chain, chance(), number).boxed_local());
        }
        if self.by_hand {
            let topics = vec![chain.from.topic.clone()];
            tasks.push(offsets::watch(stage.clone(), chance(), chain.group.clone(), topics).boxed_local());
        }
        let (to, partitions) = chain.to;
        tasks.push(readers::follow(
            stage,
            "follower",
            to.clone(),
            partitions,
            Isolation::Committed,
        ));
        tasks.push(readers::ask_ends(stage, "asker", to, partitions));
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            let chain = Chain {
                transactions: Values::new(format!("{}-last", stage.team())),
                ..self.chain(stage)
            };
            stage.step("waits until the workers' group is empty");
            offsets::empty(&client, &chain.group).await?;
            stage.step("lets a last worker do what is left");
            drain(stage, &client, &chain).await?;
            stage.step("waits until no transaction is open");
            nothing_is_open(&client, stage.team()).await?;
            let from = finals::read_topic(stage, &client, &chain.from, self.partitions.0).await?;
            let to = finals::read_topic(stage, &client, &chain.to.0, self.partitions.1).await?;
            once(stage, &from, &to);
            Ok(())
        };
        finishing.boxed_local()
    }
}

/// Whatever went in has come out once, and nothing else.
fn once(stage: &Stage, from: &[Whole], to: &[Whole]) {
    let mut came: BTreeMap<&str, u32> = BTreeMap::new();
    let committed = |all: &'_ [Whole]| -> usize { all.iter().map(|whole| whole.committed.len()).sum() };
    for found in to.iter().flat_map(|whole| &whole.committed) {
        let value = found.value.as_ref().map_or("", |value| &value.0);
        let made_of = value.split_once('~').map_or(value, |(made_of, _)| made_of);
        *came.entry(made_of).or_default() += 1;
    }
    let mut wrong = Vec::new();
    for found in from.iter().flat_map(|whole| &whole.committed) {
        let value = found.value.as_ref().map_or("", |value| &value.0);
        match came.remove(value) {
            Some(1) => {}
            times => wrong.push(format!("{value} came out {} times", times.unwrap_or(0))),
        }
    }
    wrong.extend(came.keys().map(|value| format!("{value} came out and did not go in")));
    if !wrong.is_empty() {
        let (count, shown) = (wrong.len(), wrong[..wrong.len().min(5)].join("; "));
        let (went_in, came_out) = (committed(from), committed(to));
        stage.report(format!(
            "of {went_in} records in and {came_out} out {count} are wrong: {shown}"
        ));
    }
}

async fn feed(stage: Stage, chance: Chance, topic: Named, partitions: u32) {
    let Some(mut outbox) = Outbox::connect(&stage, "feeder", DELIVERY).await else {
        return;
    };
    let values = Values::new("n");
    let name: Rc<str> = topic.topic.as_str().into();
    while !stage.is_over() {
        let (partition, value) = (chance.count(0..partitions), values.next());
        let call = call::Send::new(&topic.place(partition), &*value);
        outbox.send(call, record(&name, partition, &value)).await;
        outbox.settle_to(8).await;
        outbox.pause(chance.ms(20..150)).await;
    }
    outbox.close().await;
}

/// Works under one transactional id, life after life, until the stage is over.
async fn work(chain: Chain, chance: Chance, number: usize) {
    let stage = chain.stage.clone();
    let (name, id) = (format!("worker-{number}"), format!("id-{number}"));
    let Some(client) = stage.until_over(stage.connect(&name)).await else {
        return;
    };
    while !stage.is_over() {
        let mut worker = match stage.until_over(Worker::begin(&chain, &client, &id)).await {
            None => return,
            Some(Ok(worker)) => worker,
            Some(Err(_)) => {
                stage.pause(PAUSE).await;
                continue;
            }
        };
        let (process, until) = (worker.process(), Instant::now() + chance.ms(1_000..10_000));
        let life = async {
            loop {
                match worker.round().await {
                    Ok(_) => {}
                    Err(error) if error.is_retryable() => stage.pause(PAUSE).await,
                    // Its id was taken, or nobody knows what became of a commit.
                    Err(_) => return,
                }
            }
        };
        // It is dropped wherever it is.
        let ended = tokio::time::timeout_at(until, stage.until_over(life)).await;
        match chance.between(0..4) {
            0 if !stage.is_over() => {
                let cut = CutOff::begin(&stage, &name);
                worker.forget();
                stage.pause(Duration::from_secs(4)).await;
                drop(cut);
            }
            1 if ended.is_err() => worker.forget(),
            _ => worker.close().await,
        }
        stage.recorder.note(Some(process), Note::Leave {});
        stage.pause(chance.ms(0..1_000)).await;
    }
}

/// A last worker does what is left.
async fn drain(stage: &Stage, client: &Client, chain: &Chain) -> Result<(), Finding> {
    let deadline = Instant::now() + DRAINED_WITHIN;
    let mut why = String::new();
    let topics = [chain.from.topic.clone()];
    while Instant::now() < deadline {
        let mut worker = match Worker::begin(chain, client, "id-0").await {
            Ok(worker) => worker,
            Err(error) => {
                why = error.to_string();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while Instant::now() < deadline {
            match worker.round().await {
                Ok(1..) => continue,
                Ok(0) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    why = error.to_string();
                    break;
                }
            }
            let asked = (&*chain.group, &topics[..]);
            match offsets::lag(stage, client, worker.process(), asked, chain.by_hand).await {
                Some(behind) if behind.is_empty() => {
                    worker.close().await;
                    return Ok(());
                }
                behind => why = format!("{behind:?}"),
            }
        }
        worker.close().await;
    }
    Err(format!("group {} lags for ever: {why}", chain.group))
}
