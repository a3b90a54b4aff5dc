//! Writers of several partitions at once, and of offsets: their transactions are committed, aborted, forgotten, taken over and too slow.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call::{self, Call, Done, Reply};
use jangada_check::note::{Note, PartitionSettings};
use jangada_client::{
    Client, ClientError, ConsumerConfig, GroupMetadata, Isolation, OffsetAt, OffsetCommit, OffsetReset, ProducerConfig,
    StartAt, TransactionOptions, TransactionalProducer,
};
use jangada_env::Random;
use tokio::time::{Instant, sleep, timeout};

use super::session::{Ended, Recorded, ended};
use crate::play::stage::Stage;
use crate::roles::groups::offsets;
use crate::roles::log::chance::Chance;
use crate::roles::log::cut::CutOff;
use crate::roles::log::reading::{Named, reads};
use crate::roles::log::records::{Values, create_topic, record};
use crate::roles::log::{finals, readers};
use crate::roles::team::{Finding, Team};

/// Longer transactions are aborted by their coordinator.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Within so long nothing is open any more.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);
/// How far before the end a transaction reads.
const BEHIND: i64 = 8;
/// Bytes of a record under a key that others have, too.
const COVER: usize = 8 * 1024;

struct Writers {
    /// Partitions of the plain topic.
    partitions: u32,
    /// The second topic is compacted.
    is_compacted: bool,
    /// Writers 0 and 1 have the same id.
    writers: usize,
    early: bool,
    /// The offset that each id has committed last, or is to.
    offsets: Vec<Rc<Cell<i64>>>,
}

/// A team of writers in transactions.
pub fn writers(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    let writers = chance.index(2) + 2;
    Box::new(Writers {
        partitions: chance.count(1..4),
        is_compacted: chance.one_in(3),
        writers,
        early: chance.one_in(3),
        offsets: (0..writers).map(|_| Rc::default()).collect(),
    })
}

/// The transactional id of a writer, by number.
fn id_of(writer: usize) -> usize {
    writer.max(1)
}

impl Writers {
    /// The topics, with their partitions.
    fn topics(&self, stage: &Stage) -> [(Named, u32); 2] {
        let named = |name: &str| Named::once(stage.named(name));
        [(named("plain"), self.partitions), (named("keyed"), 1)]
    }
}

impl Team for Writers {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let preparing = async move {
            let [(plain, partitions), (keyed, _)] = self.topics(stage);
            create_topic(stage, &plain.topic, partitions, &[]).await?;
            let settings: &[(&str, &str)] = match self.is_compacted {
                true => &[
                    ("cleanup.policy", "compact"),
                    ("min.cleanable.dirty.ratio", "0.1"),
                    ("delete.retention.ms", "1000"),
                ],
                false => &[],
            };
            create_topic(stage, &keyed.topic, 1, settings).await?;
            let settings = PartitionSettings {
                partition: keyed.place(0),
                compacted: self.is_compacted,
                ..PartitionSettings::default()
            };
            stage.recorder.note(None, Note::Partition(settings));
            Ok(())
        };
        preparing.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let mut tasks = Vec::new();
        for number in 0..self.writers {
            let writer = Writer {
                stage: stage.clone(),
                chance: Chance::of(&stage.random),
                number,
                id: stage.named(&format!("id-{}", id_of(number))),
                group: stage.named(&format!("offsets-{}", id_of(number))),
                next_offset: self.offsets[id_of(number)].clone(),
                values: Values::new(format!("x{number}")),
                transactions: Values::new(format!("{}-writer-{number}", stage.team())),
                topics: self.topics(stage),
                is_compacted: self.is_compacted,
                early: self.early,
            };
            tasks.push(writer.write().boxed_local());
        }
        for (topic, partitions) in self.topics(stage) {
            for isolation in [Isolation::Committed, Isolation::Uncommitted] {
                let name = format!("follower-{isolation:?}").to_lowercase();
                tasks.push(readers::follow(stage, &name, topic.clone(), partitions, isolation));
            }
            tasks.push(readers::ask_ends(stage, "asker", topic, partitions));
        }
        let chance = Chance::of(&stage.random);
        let ids: Vec<String> = (1..self.writers).map(|id| stage.named(&format!("id-{id}"))).collect();
        tasks.push(operate(stage.clone(), chance, ids).boxed_local());
        for id in 1..self.writers {
            let (group, chance) = (stage.named(&format!("offsets-{id}")), Chance::of(&stage.random));
            let [(plain, _), _] = self.topics(stage);
            tasks.push(offsets::watch(stage.clone(), chance, group, vec![plain.topic]).boxed_local());
        }
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            stage.step("waits until no transaction is open");
            nothing_is_open(&client, stage.team()).await?;
            let topics = self.topics(stage);
            for id in 1..self.writers {
                let group = stage.named(&format!("offsets-{id}"));
                stage.step(format!("reads the offsets of {group}"));
                last_offsets(stage, &client, &group, &topics[0].0.topic).await?;
            }
            for (topic, partitions) in &topics {
                finals::read_topic(stage, &client, topic, *partitions).await?;
            }
            Ok(())
        };
        finishing.boxed_local()
    }
}

/// Waits until no transaction of a team's ids is open.
///
/// # Errors
/// Says which ones stay open.
pub async fn nothing_is_open(client: &Client, team: &str) -> Result<(), Finding> {
    let deadline = Instant::now() + CLOSED_WITHIN;
    let states = ["Ongoing", "PrepareCommit", "PrepareAbort"];
    loop {
        let why = match client.admin().list_transactions(&states, 0).await {
            Ok(listed) => {
                let ours = listed.transactions.iter();
                let ours = ours.filter(|it| it.transactional_id.starts_with(team));
                let open: Vec<String> = ours
                    .map(|it| format!("{} is {}", it.transactional_id, it.state))
                    .collect();
                if open.is_empty() && listed.missing_shards.is_empty() {
                    return Ok(());
                }
                format!(
                    "{}; shards that do not answer: {:?}",
                    open.join(", "),
                    listed.missing_shards
                )
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(format!("transactions stay open: {why}"));
        }
        sleep(PAUSE).await;
    }
}

/// Reads the committed offsets once more.
async fn last_offsets(stage: &Stage, client: &Client, group: &str, topic: &str) -> Result<(), Finding> {
    let (process, deadline) = (stage.process(), Instant::now() + CLOSED_WITHIN);
    while Instant::now() < deadline {
        if let Some(partitions) = offsets::partitions_of(client, &[topic.to_owned()]).await
            && offsets::fetch(stage, client, process, (group, &partitions))
                .await
                .is_some()
        {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Err(format!("the offsets of group {group} cannot be read"))
}

/// An operator, who aborts transactions now and then.
async fn operate(stage: Stage, chance: Chance, ids: Vec<String>) {
    let Some(client) = stage.until_over(stage.connect("operator")).await else {
        return;
    };
    while !stage.is_over() {
        stage.pause(chance.ms(2_000..8_000)).await;
        let id = &ids[chance.index(ids.len())];
        // Whatever becomes of it: a transaction is committed or aborted.
        let _ = stage.until_over(client.admin().abort_transaction(id)).await;
    }
}

struct Writer {
    stage: Stage,
    chance: Chance,
    number: usize,
    id: String,
    group: String,
    next_offset: Rc<Cell<i64>>,
    values: Values,
    transactions: Values,
    topics: [(Named, u32); 2],
    is_compacted: bool,
    early: bool,
}

impl Writer {
    /// Writes with one producer after another until the stage is over.
    async fn write(self) {
        let stage = &self.stage;
        let name = format!("writer-{}", self.number);
        // One that waits for no longer sends again, while what it sent first may still be under way.
        let request_timeout = Duration::from_millis(self.chance.one_of(&[500, 3_000]));
        let connecting = stage.connect_with(&name, |config| config.request_timeout = request_timeout);
        let Some(client) = stage.until_over(connecting).await else {
            return;
        };
        let options = TransactionOptions {
            timeout: TIMEOUT,
            early: self.early,
            producer: ProducerConfig {
                request_timeout,
                delivery_timeout: Duration::from_secs(4),
                ..ProducerConfig::default()
            },
        };
        while !stage.is_over() {
            let opening = TransactionalProducer::open(&client, self.id.clone(), options.clone());
            match stage.until_over(opening).await {
                None => return,
                Some(Err(_)) => stage.pause(PAUSE).await,
                Some(Ok(producer)) => self.life(&client, producer, &name).await,
            }
            // The other one is to come to something before it is fenced.
            stage.pause(self.chance.ms(200..2_000)).await;
        }
    }

    /// Writes with one producer until it is fenced, or dies.
    async fn life(&self, client: &Client, mut producer: TransactionalProducer, name: &str) {
        let (stage, process) = (&self.stage, self.stage.process());
        for _ in 0..self.chance.between(5..40) {
            let work = self.transaction(client, &mut producer, process);
            // Some are dropped at whatever they wait for.
            let ended = match self.chance.one_in(10) {
                true => {
                    let within = timeout(self.chance.ms(0..300), work);
                    stage
                        .until_over(within)
                        .await
                        .map(|done| done.unwrap_or(Ended::Unknown))
                }
                false => stage.until_over(work).await,
            };
            match ended {
                None => return,
                Some(Ended::Fenced) => break,
                Some(Ended::Committed | Ended::Aborted) => {}
                Some(Ended::Unknown) => match self.chance.between(0..3) {
                    // What it left is taken over by its next life, or by the other writer.
                    0 => break,
                    1 => {
                        let cut = CutOff::begin(stage, name);
                        drop(producer);
                        stage.pause(self.chance.ms(500..4_000)).await;
                        drop(cut);
                        return;
                    }
                    // It stays unknown in the history, if it was dropped while it was committed.
                    _ => drop(stage.until_over(producer.resolve()).await),
                },
            }
            stage.pause(self.chance.ms(20..300)).await;
        }
    }

    /// One transaction of a writer.
    async fn transaction(&self, client: &Client, producer: &mut TransactionalProducer, process: u32) -> Ended {
        let chance = &self.chance;
        let transaction = match producer.begin().await {
            Ok(transaction) => transaction,
            Err(ClientError::TransactionUnknown(_)) => return Ended::Unknown,
            Err(error) => return ended(&error),
        };
        let mut recorded = Recorded::begin(&self.stage, process, self.transactions.next());
        let mut is_whole = true;
        for at in 0..chance.between(1..6) {
            let (topic, partitions) = &self.topics[usize::from(chance.one_in(3))];
            let partition = chance.count(0..*partitions);
            if recorded.send_drawn(self, &transaction, topic, partition).await.is_err() {
                is_whole = false;
                break;
            }
            if at == 0 {
                let pace = match chance.between(0..25) {
                    0 => TIMEOUT + Duration::from_millis(700),
                    _ => chance.ms(0..40),
                };
                sleep(pace).await;
                if chance.one_in(6) {
                    self.read(client, process, &recorded.name, (topic, partition)).await;
                }
            }
        }
        if is_whole && chance.one_in(3) {
            is_whole = self.commit_offsets(client, &recorded, &transaction).await;
        }
        if !is_whole || chance.one_in(5) {
            return recorded.abort(transaction).await;
        }
        let pending = recorded.commits();
        let outcome = transaction.commit().await;
        recorded.committed((client, producer), pending, outcome).await
    }

    /// Commits an offset for the group of the id; it is no member, and the group has none. False: the transaction is lost.
    async fn commit_offsets(
        &self,
        client: &Client,
        recorded: &Recorded,
        transaction: &jangada_client::Transaction<'_>,
    ) -> bool {
        let Ok(partitions) = client.admin().topic_partitions(&self.topics[0].0.topic).await else {
            return true;
        };
        let Some(partition) = partitions.into_iter().next() else {
            return true;
        };
        let offset = self.next_offset.get() + 1;
        self.next_offset.set(offset);
        let group = GroupMetadata::outside(self.group.clone());
        let commit = OffsetCommit::new(partition, offset);
        recorded.commit_offsets(transaction, &group, &[commit]).await.is_ok()
    }

    /// Reads the last committed records of a partition within a transaction.
    async fn read(&self, client: &Client, process: u32, transaction: &str, (topic, partition): (&Named, u32)) {
        let latest = client.list_offsets(&topic.topic, partition, OffsetAt::Latest).await;
        let Ok(end) = latest.map(|found| found.offset.unwrap_or(0)) else {
            return;
        };
        let config = ConsumerConfig {
            offset_reset: OffsetReset::Earliest,
            ..ConsumerConfig::default()
        };
        let Ok(mut consumer) = client.consumer(config) else {
            return;
        };
        let from = StartAt::Offset((end - BEHIND).max(0));
        if consumer
            .assign(vec![(topic.topic.as_str(), partition, from)])
            .await
            .is_err()
        {
            return;
        }
        let assigned = Call::Assign {
            partitions: vec![topic.place(partition)],
        };
        let assigned = self.stage.recorder.invoke(process, assigned);
        assigned.ok(Reply::Done(Done {}));
        let call = Call::Poll {
            isolation: call::Isolation::Committed,
            transaction: Some(transaction.to_owned()),
        };
        let pending = self.stage.recorder.invoke(process, call);
        match timeout(PAUSE, consumer.next_batch()).await {
            Ok(Ok(records)) if !records.is_empty() => pending.ok(reads(&records, "")),
            _ => pending.fail(),
        }
    }
}

impl Recorded {
    /// Sends a record to a partition. To the topic that may be compacted under a key of its own, and now and then one under a key that
    /// others have, too.
    async fn send_drawn(
        &mut self,
        writer: &Writer,
        transaction: &jangada_client::Transaction<'_>,
        topic: &Named,
        partition: u32,
    ) -> Result<(), ClientError> {
        let name: Rc<str> = topic.topic.as_str().into();
        let place = topic.place(partition);
        let is_keyed = *topic.topic == *writer.topics[1].0.topic;
        if is_keyed && writer.is_compacted && writer.chance.one_in(2) {
            let (value, key) = (writer.values.next(), format!("cover {}", writer.chance.between(0..4)));
            let call = call::Send {
                key: Some(key.clone()),
                ..call::Send::new(&place, &*value)
            };
            let cover = record(&name, partition, &value).with_key(key);
            self.send(transaction, call, cover.with_header("pad", vec![b'x'; COVER]))
                .await?;
        }
        let value = writer.values.next();
        let mut call = call::Send::new(&place, &*value);
        let mut record = record(&name, partition, &value);
        if is_keyed {
            call.key = Some(value.clone());
            record = record.with_key(value);
        }
        self.send(transaction, call, record).await
    }
}
