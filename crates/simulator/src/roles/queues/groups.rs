//! A topic that queues read, each for itself: what is produced to it, in transactions or not, is a message of each queue.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call::{Done, QueueSend, Send, Sent};
use jangada_check::note::{Note, QueueSettings};
use jangada_check::{Call, Pending, Reply};
use jangada_client::{
    ClientError, MessagePlace, NewQueue, OffsetAt, ProducerConfig, ProducerRecord, RecordMetadata, TransactionOptions,
    TransactionalProducer,
};
use jangada_env::Random;

use super::caller::{Caller, failed, placed};
use super::consuming::{self, Consuming};
use super::draw::{millis, number, one_of, percent};
use super::ending::{self, Ending};
use super::plan::{Habit, Habits};
use super::team::{create_topic, until_done};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

const TOPIC: &str = "read";
/// A transaction of a producer that has died is aborted after this time.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Records of one transaction, at most.
const TOGETHER_MAX: u64 = 4;

/// See the module's text.
pub(super) struct GroupsTeam {
    partitions: u32,
    queues: u64,
    records: u64,
    pause_ms: u64,
    lease: Duration,
    attempts: Option<u32>,
    habits: Habits,
    sent: Rc<Cell<u64>>,
}

/// Where a value goes.
#[derive(Clone)]
struct Targets {
    topic: String,
    partitions: u32,
    queues: Vec<String>,
    sent: Rc<Cell<u64>>,
}

/// A value on its way: to the topic, and to each queue that reads it.
struct OnItsWay {
    partition: u32,
    record: Pending,
    messages: Vec<Pending>,
}

impl OnItsWay {
    fn ends(self, outcome: &Result<RecordMetadata, ClientError>) {
        match outcome {
            Ok(record) => match record.offset {
                Some(offset) => {
                    self.record.ok(Reply::Sent(Sent { offset, attempts: 1 }));
                    let place = MessagePlace {
                        partition: self.partition,
                        offset,
                    };
                    self.messages.into_iter().for_each(|message| message.ok(placed(place)));
                }
                None => {
                    self.record.unknown();
                    self.messages.into_iter().for_each(Pending::unknown);
                }
            },
            Err(error) => {
                failed(self.record, error);
                self.messages.into_iter().for_each(|message| failed(message, error));
            }
        }
    }
}

impl Targets {
    /// A record with a value of its own, as it is recorded in a transaction or in none.
    fn next(&self, caller: &Caller, random: &Random, transaction: Option<&str>) -> (ProducerRecord, OnItsWay) {
        self.sent.set(self.sent.get() + 1);
        let value = self.sent.get().to_string();
        let partition = number(random, 0..u64::from(self.partitions)) as u32;
        let transaction = transaction.map(str::to_owned);
        let record = caller.invoke(Call::Send(Send {
            transaction: transaction.clone(),
            ..Send::new(&format!("{}/{partition}", self.topic), value.as_str())
        }));
        let message = |queue: &String| {
            caller.invoke(Call::QueueSend(QueueSend {
                queue: queue.clone(),
                value: value.as_str().into(),
                transaction: transaction.clone(),
                ..QueueSend::default()
            }))
        };
        let on_its_way = OnItsWay {
            partition,
            record,
            messages: self.queues.iter().map(message).collect(),
        };
        let record = ProducerRecord::new(self.topic.as_str())
            .with_partition(partition)
            .with_value(value);
        (record, on_its_way)
    }
}

impl GroupsTeam {
    /// A team whose sizes are drawn.
    pub fn draw(random: &Random) -> Self {
        let habits = vec![
            (Habit::Ack, 60),
            (Habit::Slow, number(random, 0..8)),
            (Habit::Nack, number(random, 0..15)),
            (Habit::Release, number(random, 0..8)),
            (Habit::Extend, number(random, 0..6)),
            (Habit::Late, number(random, 0..5)),
            (Habit::Reject, number(random, 0..5)),
            (Habit::Die, number(random, 0..5)),
        ];
        Self {
            partitions: one_of(random, &[1, 2]),
            queues: number(random, 1..3),
            records: number(random, 20..50),
            pause_ms: one_of(random, &[300, 800]),
            lease: Duration::from_millis(one_of(random, &[1_000, 2_000])),
            attempts: one_of(random, &[None, Some(3)]),
            habits,
            sent: Rc::default(),
        }
    }

    fn names(&self, stage: &Stage) -> Vec<String> {
        (0..self.queues)
            .map(|number| stage.named(&format!("q{number}")))
            .collect()
    }

    async fn make(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "prepares").await;
        let topic = stage.named(TOPIC);
        create_topic(stage, &caller, &topic, self.partitions).await?;
        let admin = caller.client.admin();
        for name in self.names(stage) {
            let mut queue = NewQueue::reading(name.as_str(), topic.as_str(), OffsetAt::Earliest);
            let attempts = self.attempts.map_or_else(|| "none".to_owned(), |most| most.to_string());
            let config = [
                ("queue.attempts.max", attempts.as_str()),
                ("queue.retry.min.ms", "100"),
                ("queue.retry.max.ms", "1000"),
            ];
            queue.config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            queue.if_not_exists = true;
            until_done(stage, "create a queue that reads", || admin.create_queue(queue.clone())).await?;
            let noted = QueueSettings {
                queue: name,
                attempts_max: self.attempts,
                ..QueueSettings::default()
            };
            stage.recorder.note(None, Note::Queue(noted));
        }
        Ok(())
    }

    async fn end(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "ends").await;
        let queues: Vec<Ending> = self
            .names(stage)
            .iter()
            .map(|name| Ending::new(name, self.partitions))
            .collect();
        ending::drain(stage, &caller, &queues, |_, _| ()).await?;
        for of in &queues {
            ending::dump(stage, &caller.client, of).await?;
        }
        ending::read(stage, &caller.client, &stage.named(TOPIC), self.partitions).await?;
        Ok(())
    }
}

impl Team for GroupsTeam {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.make(stage).boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let targets = Targets {
            topic: stage.named(TOPIC),
            partitions: self.partitions,
            queues: self.names(stage),
            sent: self.sent.clone(),
        };
        let mut tasks = vec![
            produce(stage.clone(), targets.clone(), self.records, self.pause_ms).boxed_local(),
            transact(stage.clone(), targets.clone(), self.pause_ms).boxed_local(),
        ];
        for queue in targets.queues {
            let how = Consuming {
                queue,
                lease: self.lease,
                habits: self.habits.clone(),
                partition: None,
            };
            let name = how.queue.clone();
            tasks.push(consuming::receive(stage.clone(), format!("receives-{name}"), how.clone()).boxed_local());
            tasks.push(consuming::stream(stage.clone(), format!("streams-{name}"), how).boxed_local());
        }
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.end(stage).boxed_local()
    }
}

fn producer_config() -> ProducerConfig {
    ProducerConfig {
        linger: Duration::ZERO,
        delivery_timeout: Duration::from_secs(8),
        request_timeout: Duration::from_secs(3),
        ..ProducerConfig::default()
    }
}

/// Produces records, one after another.
async fn produce(stage: Stage, targets: Targets, records: u64, pause_ms: u64) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, "produces")).await else {
        return;
    };
    let producer = match caller.client.producer(producer_config()) {
        Ok(producer) => producer,
        Err(error) => return stage.report(format!("the settings of a producer are refused: {error}")),
    };
    for _ in 0..records {
        if stage.is_over() {
            break;
        }
        let (record, on_its_way) = targets.next(&caller, &random, None);
        let sent = async { producer.send(record).await?.await };
        on_its_way.ends(&sent.await);
        stage.pause(millis(&random, 0..pause_ms)).await;
    }
    producer.close().await;
}

/// Produces records in transactions, of which some are aborted, and some are left open.
async fn transact(stage: Stage, targets: Targets, pause_ms: u64) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, "transacts")).await else {
        return;
    };
    let mut number_of = 0;
    while !stage.is_over() {
        let options = TransactionOptions {
            timeout: TIMEOUT,
            producer: producer_config(),
            ..TransactionOptions::default()
        };
        let id = stage.named("transacts");
        let opened = stage
            .until_over(TransactionalProducer::open(&caller.client, id, options))
            .await;
        let mut producer = match opened {
            None => return,
            Some(Ok(producer)) => producer,
            Some(Err(error)) => {
                stage.note(&format!("no producer of transactions: {error}"));
                stage.pause(millis(&random, 100..500)).await;
                continue;
            }
        };
        while !stage.is_over() {
            stage.pause(millis(&random, 200..200 + 2 * pause_ms)).await;
            number_of += 1;
            let name = stage.named(&format!("transaction-{number_of}"));
            if !one(&caller, &targets, &mut producer, &name, &random).await {
                break;
            }
        }
        caller.dies();
    }
}

/// One transaction. False: another producer takes the place of this one.
async fn one(
    caller: &Caller,
    targets: &Targets,
    producer: &mut TransactionalProducer,
    name: &str,
    random: &Random,
) -> bool {
    let begin = caller.invoke(Call::Begin {
        transaction: name.to_owned(),
    });
    let transaction = match producer.begin().await {
        Ok(transaction) => transaction,
        Err(error) => {
            failed(begin, &error);
            return false;
        }
    };
    begin.ok(Reply::Done(Done {}));
    for _ in 0..number(random, 1..TOGETHER_MAX + 1) {
        let (record, on_its_way) = targets.next(caller, random, Some(name));
        let sent = async { transaction.send(record).await?.await };
        on_its_way.ends(&sent.await);
    }
    if percent(random, 8) {
        // It dies, and leaves the transaction open.
        return false;
    }
    if percent(random, 25) {
        let call = Call::Abort {
            transaction: name.to_owned(),
        };
        caller.does(call, transaction.abort()).await;
        return true;
    }
    let call = Call::Commit {
        transaction: name.to_owned(),
    };
    caller.does(call, transaction.commit()).await
}
