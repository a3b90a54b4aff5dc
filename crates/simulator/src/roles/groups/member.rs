//! One member of a group, life after life: it joins, reads, commits, and closes, goes without a word, or dies.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jangada_check::Note;
use jangada_check::call::{Call, Done, Isolation as Shown, Reply};
use jangada_client::{
    Assignor, Client, ClientError, CommitMode, ConsumedRecord, GroupConfig, GroupConsumer, OffsetCommit,
};
use tokio::time::{Instant, sleep, timeout};

use super::listener::Noting;
use super::offsets::answered;
use crate::play::stage::Stage;
use crate::roles::log::chance::Chance;
use crate::roles::log::cut::CutOff;
use crate::roles::log::reading::reads;
use crate::roles::log::records::{place, watch};

/// How long leaving in order may take.
const CLOSE: Duration = Duration::from_secs(13);
/// How long a poll waits.
const POLL: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(200);

/// How often each record of each partition was handed out to any member of a group.
pub type Handed = Rc<RefCell<BTreeMap<String, BTreeMap<i64, u32>>>>;

/// A group, and how its members read.
#[derive(Clone)]
pub struct Group {
    /// The name of its client.
    pub name: String,
    /// The topics that it reads.
    pub topics: Vec<String>,
    /// Matches the same topics; none: they are named.
    pub pattern: Option<String>,
    /// When offsets are committed.
    pub commit: CommitMode,
    /// After so long a silence a member is dead.
    pub session: Duration,
    /// What was handed out.
    pub handed: Handed,
}

/// One member of a group.
#[derive(Clone)]
pub struct Member {
    /// The group that it is of.
    pub group: Group,
    /// Its client's name.
    pub name: String,
    /// It comes back under this name and goes on with its partitions.
    pub instance: Option<String>,
    /// How it wants partitions to be shared out.
    pub assignor: Assignor,
    /// Most records of a batch.
    pub batch: usize,
}

/// A life of a member: a process that reads.
pub struct Life {
    stage: Stage,
    group: Group,
    process: u32,
    batch: usize,
    consumer: GroupConsumer,
}

impl Member {
    /// Lives until the stage is over.
    pub async fn live(self, stage: Stage, chance: Chance) {
        let Some(client) = stage.until_over(stage.connect(&self.name)).await else {
            return;
        };
        let mut process = stage.process();
        while !stage.is_over() {
            let Some(mut life) = self.begin(&stage, &client, process) else {
                return;
            };
            let until = Instant::now() + chance.ms(1_000..12_000);
            while Instant::now() < until && !stage.is_over() {
                let polled = stage.until_over(life.step(&chance)).await;
                match polled {
                    None | Some(Ok(_)) => {}
                    Some(Err(error)) if error.is_retryable() => {}
                    // Another process came under its instance id, or the group does not take it.
                    Some(Err(error)) => {
                        stage.note(&format!("{} has to begin anew: {error}", self.name));
                        break;
                    }
                }
            }
            self.end(&stage, &chance, life).await;
            stage.recorder.note(Some(process), Note::Leave {});
            stage.pause(chance.ms(0..1_500)).await;
            // A static member goes on under the epoch of its life before.
            if self.instance.is_none() {
                process = stage.process();
            }
        }
    }

    /// Joins the group.
    pub fn begin(&self, stage: &Stage, client: &Client, process: u32) -> Option<Life> {
        let group = &self.group;
        let topics = match group.pattern {
            Some(_) => Vec::new(),
            None => group.topics.clone(),
        };
        let mut config = GroupConfig::new(&group.name, topics);
        config.pattern.clone_from(&group.pattern);
        config.instance_id.clone_from(&self.instance);
        config.session_timeout = group.session;
        config.rebalance_timeout = Duration::from_secs(4);
        config.assignor = self.assignor;
        config.commit = group.commit;
        let subscribing = stage.recorder.invoke(
            process,
            Call::Subscribe {
                group: group.name.clone(),
            },
        );
        let listener = Arc::new(Noting::new(&stage.recorder, process));
        match client.group_consumer_with(config, listener) {
            Ok(consumer) => {
                subscribing.ok(Reply::Done(Done {}));
                Some(Life {
                    stage: stage.clone(),
                    group: group.clone(),
                    process,
                    batch: self.batch,
                    consumer,
                })
            }
            Err(error) => {
                stage.report(format!("no member of a group: {error}"));
                None
            }
        }
    }

    async fn end(&self, stage: &Stage, chance: &Chance, life: Life) {
        let how = if stage.is_over() { 0 } else { chance.between(0..7) };
        match how {
            0..3 => life.close().await,
            3 => {
                // What it says last may come or not.
                let _ = timeout(CLOSE, life.consumer.abandon()).await;
            }
            4 => drop(life),
            _ => {
                let cut = CutOff::begin(stage, &self.name);
                drop(life);
                // It cannot leave, and its session ends.
                stage.pause(Duration::from_secs(4)).await;
                drop(cut);
            }
        }
    }
}

impl Life {
    /// Reads records, works on them and commits as the group does. How many there were.
    ///
    /// # Errors
    /// As [`GroupConsumer::next_batch`].
    pub async fn step(&mut self, chance: &Chance) -> Result<usize, ClientError> {
        let records = self.poll(POLL).await?;
        if chance.one_in(20) {
            self.pause_one(chance);
        }
        if records.is_empty() {
            return Ok(0);
        }
        let work = match chance.between(0..30) {
            0 => chance.ms(500..5_000),
            _ => chance.ms(0..60),
        };
        sleep(work).await;
        if self.group.commit == CommitMode::Manual {
            self.commit(&records).await;
        }
        Ok(records.len())
    }

    /// The next records; none if none come within a time.
    ///
    /// # Errors
    /// As [`GroupConsumer::next_batch`].
    pub async fn poll(&mut self, within: Duration) -> Result<Vec<ConsumedRecord>, ClientError> {
        let call = Call::Poll {
            isolation: Shown::Committed,
            transaction: None,
        };
        let pending = self.stage.recorder.invoke(self.process, call);
        match timeout(within, self.consumer.next_batch(self.batch)).await {
            Ok(Ok(records)) => {
                self.handed(&records);
                pending.ok(reads(&records, ""));
                Ok(records)
            }
            Ok(Err(error)) => {
                watch(&self.stage, &error);
                pending.fail();
                Err(error)
            }
            Err(_) => {
                pending.fail();
                Ok(Vec::new())
            }
        }
    }

    fn handed(&self, records: &[ConsumedRecord]) {
        let mut handed = self.group.handed.borrow_mut();
        for record in records {
            let name = place(&record.topic, record.partition);
            let times = handed
                .entry(name.clone())
                .or_default()
                .entry(record.offset)
                .or_default();
            *times += 1;
            if *times > 1 && self.group.commit == CommitMode::Before {
                let (group, offset) = (&self.group.name, record.offset);
                let text =
                    format!("group {group} was to read {name}:{offset} at most once, and has read it {times} times");
                self.stage.report(text);
            }
        }
    }

    /// Commits what was handed out last.
    async fn commit(&mut self, records: &[ConsumedRecord]) {
        let Some(last) = records.last() else { return };
        let assignment = self.consumer.assignment();
        let is_it = |it: &&jangada_client::TopicPartition| it.topic == last.topic && it.partition == last.partition;
        let Some(partition) = assignment.iter().find(is_it) else {
            return;
        };
        let next = self.consumer.position(&last.topic, last.partition);
        let offset = next.unwrap_or(last.offset + 1);
        let call = Call::CommitOffsets {
            group: self.group.name.clone(),
            offsets: BTreeMap::from([(place(&last.topic, last.partition), offset)]),
            epoch: Some(self.consumer.member_epoch()),
            transaction: None,
            rewind: false,
        };
        let pending = self.stage.recorder.invoke(self.process, call);
        let commit = OffsetCommit::new(partition.clone(), offset);
        answered(pending, &self.consumer.commit_offsets(&[commit]).await);
    }

    /// Reads nothing more of a partition for now, or reads all again.
    fn pause_one(&mut self, chance: &Chance) {
        let assignment = self.consumer.assignment();
        for partition in &assignment {
            // It is assigned, as nothing changes between two calls.
            let _ = self.consumer.resume(&partition.topic, partition.partition);
        }
        if !assignment.is_empty() && chance.one_in(2) {
            let paused = &assignment[chance.index(assignment.len())];
            let _ = self.consumer.pause(&paused.topic, paused.partition);
        }
    }

    /// Leaves in order.
    pub async fn close(self) {
        let stage = self.stage.clone();
        if timeout(CLOSE, self.consumer.close()).await.is_err() {
            stage.report(format!("a member has not left its group within {CLOSE:?}"));
        }
        stage.recorder.note(Some(self.process), Note::Leave {});
    }

    /// Waits a little, as nobody answers.
    pub async fn rest(&self) {
        sleep(PAUSE).await;
    }
}
