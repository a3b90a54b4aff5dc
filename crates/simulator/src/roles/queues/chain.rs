//! A chain from a queue to a queue and a topic: each message that comes is acknowledged in a transaction that writes a record and sends a
//! message, all of it or nothing. Workers die amid transactions, and others take their transactional ids.
//!
//! A value that comes out is the one that came in with the attempt behind it, `17~a2`, so that each has one of its own; that there is one
//! for each that came in is looked at here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call::{Done, QueueSend, Send, Sent};
use jangada_check::{Call, Reply};
use jangada_client::{
    ClientError, ProducerConfig, ProducerRecord, QueueConsumer, QueueConsumerConfig, QueueDelivery, QueueMessage,
    ReceiveOptions, Settlement, Transaction, TransactionOptions, TransactionOutcome, TransactionalProducer,
};
use jangada_env::Random;
use tokio::time::timeout;

use super::caller::{Caller, failed, placed, value_of};
use super::draw::{millis, number, one_of, percent};
use super::ending::{self, Ending};
use super::team::{create, create_topic, producer_config};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

const IN: &str = "in";
const OUT: &str = "out";
const TOPIC: &str = "made";
/// Partitions of the queues and of the topic.
const PARTITIONS: u32 = 2;
/// A stream is waited for so long before the stage is looked at again.
const LOOK: Duration = Duration::from_millis(300);
/// A transaction of a worker that has died is aborted after this time, unless its id is taken before.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How often a worker asks what became of its commit.
const RESOLVES_MAX: u32 = 5;

/// What workers know together.
#[derive(Default)]
struct Known {
    /// Attempts so far: the number behind a value.
    attempts: Cell<u64>,
    /// The values that came in of transactions that are committed for certain.
    committed: RefCell<BTreeSet<String>>,
    /// The values that came out of the queue to somebody.
    came_out: RefCell<BTreeSet<String>>,
}

/// See the module's text.
pub(super) struct ChainTeam {
    workers: u64,
    messages: u64,
    pause_ms: u64,
    known: Rc<Known>,
}

impl ChainTeam {
    /// A team whose sizes are drawn.
    pub fn draw(random: &Random) -> Self {
        Self {
            workers: number(random, 1..4),
            messages: number(random, 10..40),
            pause_ms: one_of(random, &[300, 800]),
            known: Rc::default(),
        }
    }

    async fn make(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "prepares").await;
        let config = [
            ("queue.attempts.max", "none"),
            ("queue.lease.ms", "3000"),
            ("queue.retry.max.ms", "1000"),
        ];
        let config: BTreeMap<String, String> = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        for queue in [IN, OUT] {
            create(stage, &caller, &stage.named(queue), PARTITIONS, &config).await?;
        }
        create_topic(stage, &caller, &stage.named(TOPIC), PARTITIONS).await
    }

    async fn end(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "ends").await;
        let queues = [IN, OUT].map(|queue| Ending::new(&stage.named(queue), PARTITIONS));
        // What is left of the input is done without an output.
        let not_worked_on = RefCell::new(BTreeSet::new());
        ending::drain(stage, &caller, &queues, |of, message| {
            let value = value_of(message);
            match of.queue == queues[0].queue {
                true => drop(not_worked_on.borrow_mut().insert(value)),
                false => drop(self.known.came_out.borrow_mut().insert(value)),
            }
        })
        .await?;
        for of in &queues {
            ending::dump(stage, &caller.client, of).await?;
        }
        let records = ending::read(stage, &caller.client, &stage.named(TOPIC), PARTITIONS).await?;
        let records: BTreeSet<String> = records.into_iter().flatten().collect();
        self.judge(&records, &not_worked_on.borrow())
    }

    /// Each value that came in made one record and one message, or neither.
    fn judge(&self, records: &BTreeSet<String>, not_worked_on: &BTreeSet<String>) -> Result<(), Finding> {
        let messages = self.known.came_out.borrow();
        if *records != *messages {
            let alone: Vec<&String> = records.symmetric_difference(&messages).collect();
            return Err(format!(
                "the topic and the queue differ: {alone:?} are in one of them only"
            ));
        }
        let mut made: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for out in records {
            let (of, _) = out.split_once('~').unwrap_or((out, ""));
            made.entry(of).or_default().push(out);
        }
        if let Some((of, made)) = made.iter().find(|(_, made)| made.len() > 1) {
            return Err(format!(
                "{of:?} was worked on more than once, in transactions: {made:?}"
            ));
        }
        let committed = self.known.committed.borrow();
        if let Some(lost) = committed.iter().find(|of| !made.contains_key(of.as_str())) {
            return Err(format!(
                "the transaction about {lost:?} is committed, and nothing of it is there"
            ));
        }
        match not_worked_on.iter().find(|of| made.contains_key(of.as_str())) {
            Some(again) => Err(format!("{again:?} came again though what it made is there")),
            None => Ok(()),
        }
    }
}

impl Team for ChainTeam {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.make(stage).boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let mut tasks = vec![feed(stage.clone(), self.messages, self.pause_ms).boxed_local()];
        for number in 0..self.workers {
            tasks.push(work(stage.clone(), number, self.known.clone()).boxed_local());
        }
        tasks.push(take_out(stage.clone(), self.known.clone()).boxed_local());
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.end(stage).boxed_local()
    }
}

/// Sends what goes in.
async fn feed(stage: Stage, messages: u64, pause_ms: u64) {
    let random = stage.random.fork();
    let queue = stage.named(IN);
    let Some(caller) = stage.until_over(Caller::new(&stage, "feeds")).await else {
        return;
    };
    let Ok(producer) = caller.client.queue_producer(queue.as_str(), producer_config()).await else {
        stage.note("nothing goes in: the queue is not found");
        return;
    };
    for number in 0..messages {
        if stage.is_over() {
            return;
        }
        let message = QueueMessage::new(number.to_string());
        let recorded = caller.sending(&queue, &message, false);
        caller.send(&producer, message, recorded).await;
        stage.pause(millis(&random, 0..pause_ms)).await;
    }
}

/// Takes what comes out.
async fn take_out(stage: Stage, known: Rc<Known>) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, "takes-out")).await else {
        return;
    };
    let queue = caller.client.queue(stage.named(OUT));
    while !stage.is_over() {
        let options = ReceiveOptions {
            messages: 10,
            lease: Some(Duration::from_secs(1)),
            ..ReceiveOptions::default()
        };
        let messages = caller.receive(&queue, options).await;
        known.came_out.borrow_mut().extend(messages.iter().map(value_of));
        if percent(&random, 90) {
            caller.settle_all(&queue, &messages, &Settlement::Ack).await;
        }
        stage.pause(millis(&random, 200..1_500)).await;
    }
}

/// Workers of one transactional id, one after another.
async fn work(stage: Stage, number: u64, known: Rc<Known>) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, &format!("worker-{number}"))).await else {
        return;
    };
    while !stage.is_over() {
        let options = TransactionOptions {
            timeout: TIMEOUT,
            early: percent(&random, 30),
            producer: ProducerConfig {
                linger: Duration::ZERO,
                delivery_timeout: Duration::from_secs(8),
                request_timeout: Duration::from_secs(3),
                ..ProducerConfig::default()
            },
        };
        let config = QueueConsumerConfig {
            prefetch: one_of(&random, &[1, 4]),
            ..QueueConsumerConfig::default()
        };
        let open = async {
            let consumer = caller.client.queue_consumer(stage.named(IN), config).await?;
            let id = stage.named(&format!("worker-{number}"));
            let producer = TransactionalProducer::open(&caller.client, id, options).await?;
            Ok::<_, ClientError>((consumer, producer))
        };
        match stage.until_over(open).await {
            None => return,
            Some(Ok((consumer, producer))) => {
                let life = Life {
                    caller: &caller,
                    random: &random,
                    known: &known,
                };
                life.live(consumer, producer).await;
            }
            Some(Err(error)) => {
                stage.note(&format!("worker {number} does not begin: {error}"));
                stage.pause(millis(&random, 100..500)).await;
            }
        }
        caller.dies();
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
    /// It is left open, and the worker dies.
    Die,
    /// It is committed too late.
    Late,
}

/// One worker until it dies.
struct Life<'a> {
    caller: &'a Caller,
    random: &'a Random,
    known: &'a Known,
}

impl Life<'_> {
    async fn live(&self, mut consumer: QueueConsumer, mut producer: TransactionalProducer) {
        let stage = &self.caller.stage;
        while !stage.is_over() {
            let delivery = match timeout(LOOK, consumer.next()).await {
                Ok(Ok(delivery)) => delivery,
                Ok(Err(error)) if error.is_retryable() => continue,
                Ok(Err(_)) => return,
                Err(_) => continue,
            };
            self.caller.came(&stage.named(IN), &delivery);
            if !self.transact(&mut producer, delivery).await {
                return;
            }
        }
        drop(timeout(Duration::from_secs(6), consumer.close()).await);
    }

    fn draw_end(&self) -> End {
        match number(self.random, 0..100) {
            0..70 => End::Commit,
            70..85 => End::Abort,
            85..95 => End::Die,
            _ => End::Late,
        }
    }

    /// Works on a message in a transaction. False: the worker is dead.
    async fn transact(&self, producer: &mut TransactionalProducer, delivery: QueueDelivery) -> bool {
        let (caller, stage) = (self.caller, &self.caller.stage);
        let attempt = self.known.attempts.get() + 1;
        self.known.attempts.set(attempt);
        let name = stage.named(&format!("transaction-{attempt}"));
        let of = value_of(&delivery);
        let out = format!("{of}~a{attempt}");
        let begin = caller.invoke(Call::Begin {
            transaction: name.clone(),
        });
        let transaction = match producer.begin().await {
            Ok(transaction) => transaction,
            Err(error) => {
                failed(begin, &error);
                return false;
            }
        };
        begin.ok(Reply::Done(Done {}));
        let end = self.draw_end();
        let is_whole = self.write(&transaction, delivery, (&name, &out)).await;
        let call = Call::Commit {
            transaction: name.clone(),
        };
        match end {
            // It is dropped, and aborted in the background, or by whoever takes the id.
            End::Die => return false,
            End::Abort => {
                let call = Call::Abort { transaction: name };
                caller.does(call, transaction.abort()).await;
                return true;
            }
            End::Late if is_whole => stage.pause(TIMEOUT + millis(self.random, 0..1_500)).await,
            End::Commit | End::Late => stage.pause(millis(self.random, 0..60)).await,
        }
        let committing = caller.invoke(call);
        let error = match transaction.commit().await {
            Ok(_) => {
                committing.ok(Reply::Done(Done {}));
                self.known.committed.borrow_mut().insert(of);
                return true;
            }
            Err(error) => error,
        };
        stage.note(&format!("{name} is not committed: {error}"));
        if !matches!(error, ClientError::TransactionUnknown(_)) {
            failed(committing, &error);
            return !matches!(error, ClientError::ProducerFenced { .. });
        }
        match self.resolve(producer).await {
            Some(TransactionOutcome::Committed) => {
                committing.ok(Reply::Done(Done {}));
                self.known.committed.borrow_mut().insert(of);
                true
            }
            Some(TransactionOutcome::Aborted) => {
                committing.fail();
                true
            }
            None => {
                committing.unknown();
                false
            }
        }
    }

    async fn resolve(&self, producer: &mut TransactionalProducer) -> Option<TransactionOutcome> {
        for _ in 0..RESOLVES_MAX {
            match producer.resolve().await {
                Ok(outcome) => return Some(outcome),
                Err(ClientError::TransactionUnknown(_)) => return None,
                Err(error) => self.caller.stage.note(&format!("not resolved: {error}")),
            }
        }
        None
    }

    /// Writes a record, sends a message, and acknowledges what came. False: something of that failed, and the transaction cannot be
    /// committed.
    async fn write(&self, transaction: &Transaction<'_>, delivery: QueueDelivery, (name, out): (&str, &str)) -> bool {
        let (caller, stage) = (self.caller, &self.caller.stage);
        let (topic, queue) = (stage.named(TOPIC), stage.named(OUT));
        let partition = number(self.random, 0..u64::from(PARTITIONS)) as u32;
        let sending = caller.invoke(Call::Send(Send {
            transaction: Some(name.to_owned()),
            ..Send::new(&format!("{topic}/{partition}"), out)
        }));
        let record = ProducerRecord::new(topic)
            .with_partition(partition)
            .with_value(out.to_owned());
        let sent = async { transaction.send(record).await?.await };
        let is_sent = match sent.await {
            Ok(record) => match record.offset {
                Some(offset) => {
                    sending.ok(Reply::Sent(Sent { offset, attempts: 1 }));
                    true
                }
                None => {
                    sending.unknown();
                    true
                }
            },
            Err(error) => {
                failed(sending, &error);
                false
            }
        };
        let sending = caller.invoke(Call::QueueSend(QueueSend {
            queue: queue.clone(),
            value: out.into(),
            transaction: Some(name.to_owned()),
            ..QueueSend::default()
        }));
        let is_queued = match transaction
            .send_to_queue(queue, [QueueMessage::new(out.to_owned())])
            .await
        {
            Ok(sent) => match sent.first() {
                Some(sent) => {
                    sending.ok(placed(sent.place));
                    true
                }
                None => {
                    sending.unknown();
                    false
                }
            },
            Err(error) => {
                failed(sending, &error);
                false
            }
        };
        let acknowledging = caller.acknowledging(&stage.named(IN), &delivery, name);
        let is_done = match delivery.ack_in(transaction).await {
            Ok(()) => {
                acknowledging.ok(Reply::Settled(jangada_check::call::Settled { already: false }));
                true
            }
            Err(error) => {
                failed(acknowledging, &error);
                false
            }
        };
        is_sent && is_queued && is_done
    }
}
