//! One worker of a chain: it reads as a member of a group, makes records of what it read, and commits both in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_check::call::{self, Call, Done, Isolation as Shown, Reply};
use jangada_check::{Note, Pending};
use jangada_client::{
    Client, ClientError, CommitMode, ConsumedRecord, ExactlyOnceOptions, GroupConfig, GroupConsumer, OffsetCommit,
    ProducerConfig, ProducerRecord, StartAt, TransactionOptions, TransactionalProducer,
};
use tokio::time::timeout;

use super::session::{Ended, Recorded};
use crate::play::stage::Stage;
use crate::roles::groups::listener::Noting;
use crate::roles::log::reading::{Named, reads};
use crate::roles::log::records::{Values, place, value_read, watch};

/// A transaction whose worker died is aborted after this time, unless its successor comes first.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a worker waits for records.
const POLL: Duration = Duration::from_millis(700);
/// Records of one transaction at most.
const RECORDS_MAX: usize = 20;
/// How long leaving in order may take.
const CLOSE: Duration = Duration::from_secs(13);

/// What workers of a chain share.
#[derive(Clone)]
pub struct Chain {
    /// The stage that they are on.
    pub stage: Stage,
    /// The group that they share.
    pub group: String,
    /// What they read.
    pub from: Named,
    /// What they write to, and its partitions.
    pub to: (Named, u32),
    /// They read and commit by themselves; otherwise the client's loop does it for them.
    pub by_hand: bool,
    /// How long a member may be silent.
    pub session: Duration,
    /// Names of attempts.
    pub attempts: Values,
    /// Names of transactions.
    pub transactions: Values,
}

/// A worker while it lives.
pub struct Worker {
    chain: Chain,
    process: u32,
    client: Client,
    consumer: GroupConsumer,
    producer: TransactionalProducer,
}

impl Worker {
    /// Joins the group and takes the transactional id.
    ///
    /// # Errors
    /// As [`TransactionalProducer::open`].
    pub async fn begin(chain: &Chain, client: &Client, id: &str) -> Result<Self, ClientError> {
        let (stage, process) = (&chain.stage, chain.stage.process());
        let mut config = GroupConfig::new(&chain.group, [&chain.from.topic]);
        config.commit = CommitMode::Manual;
        config.session_timeout = chain.session;
        config.rebalance_timeout = Duration::from_secs(4);
        let options = TransactionOptions {
            timeout: TIMEOUT,
            producer: ProducerConfig {
                delivery_timeout: Duration::from_secs(4),
                request_timeout: Duration::from_secs(2),
                ..ProducerConfig::default()
            },
            ..TransactionOptions::default()
        };
        let producer = TransactionalProducer::open(client, stage.named(id), options).await?;
        let call = Call::Subscribe {
            group: chain.group.clone(),
        };
        let listener = Arc::new(Noting::new(&stage.recorder, process));
        let consumer = client.group_consumer_with(config, listener)?;
        stage.recorder.invoke(process, call).ok(Reply::Done(Done {}));
        Ok(Self {
            chain: chain.clone(),
            process,
            client: client.clone(),
            consumer,
            producer,
        })
    }

    /// One round. How many records were read, transformed and committed; 0: none, or they come again.
    ///
    /// # Errors
    /// Those after which a worker begins anew, and such as are [retryable](ClientError::is_retryable).
    pub async fn round(&mut self) -> Result<usize, ClientError> {
        match self.chain.by_hand {
            true => self.by_hand().await,
            false => self.by_loop().await,
        }
    }

    /// What is made of a record: where it goes, and the send as the history has it.
    fn made(chain: &Chain, record: &ConsumedRecord) -> (call::Send, ProducerRecord) {
        let (to, partitions) = &chain.to;
        let partition = record.partition % partitions;
        // Each attempt has another value, so that the history can tell them apart.
        let value = format!("{}~{}", value_read(record).0, chain.attempts.next());
        let made = ProducerRecord::new(to.topic.as_str()).with_partition(partition);
        let call = call::Send::new(&to.place(partition), &*value);
        (call, made.with_value(value))
    }

    async fn by_hand(&mut self) -> Result<usize, ClientError> {
        let stage = self.chain.stage.clone();
        let call = Call::Poll {
            isolation: Shown::Committed,
            transaction: None,
        };
        let pending = stage.recorder.invoke(self.process, call);
        let records = match timeout(POLL, self.consumer.next_batch(RECORDS_MAX)).await {
            Ok(Ok(records)) => records,
            Ok(Err(error)) => {
                watch(&stage, &error);
                pending.fail();
                return Err(error);
            }
            Err(_) => {
                pending.fail();
                return Ok(0);
            }
        };
        pending.ok(reads(&records, ""));
        match self.transact(&records).await {
            Ended::Committed => Ok(records.len()),
            Ended::Aborted => {
                self.read_again(&records).await?;
                Ok(0)
            }
            // Whoever reads on does so behind what is committed.
            Ended::Fenced | Ended::Unknown => Err(ClientError::Closed),
        }
    }

    /// Commits what is made of records together with the offset behind them.
    async fn transact(&mut self, records: &[ConsumedRecord]) -> Ended {
        let Some(last) = records.last() else {
            return Ended::Aborted;
        };
        let next = self
            .consumer
            .position(&last.topic, last.partition)
            .unwrap_or(last.offset + 1);
        let assignment = self.consumer.assignment();
        let is_it = |it: &&jangada_client::TopicPartition| it.topic == last.topic && it.partition == last.partition;
        let Some(partition) = assignment.iter().find(is_it).cloned() else {
            return Ended::Aborted;
        };
        let group = self.consumer.metadata();
        let transaction = match self.producer.begin().await {
            Ok(transaction) => transaction,
            Err(ClientError::ProducerFenced { .. }) => return Ended::Fenced,
            Err(ClientError::TransactionUnknown(_)) => return Ended::Unknown,
            Err(_) => return Ended::Aborted,
        };
        let stage = &self.chain.stage;
        let mut recorded = Recorded::begin(stage, self.process, self.chain.transactions.next());
        for record in records {
            let (call, made) = Self::made(&self.chain, record);
            if recorded.send(&transaction, call, made).await.is_err() {
                return recorded.abort(transaction).await;
            }
        }
        let commit = OffsetCommit::new(partition, next);
        if recorded.commit_offsets(&transaction, &group, &[commit]).await.is_err() {
            return recorded.abort(transaction).await;
        }
        let pending = recorded.commits();
        let outcome = transaction.commit().await;
        recorded
            .committed((&self.client, &mut self.producer), pending, outcome)
            .await
    }

    /// Reads records again, if their partition is still the worker's as it was when they were read: nothing moves between its calls.
    async fn read_again(&mut self, records: &[ConsumedRecord]) -> Result<(), ClientError> {
        let Some(first) = records.first() else { return Ok(()) };
        if self.consumer.position(&first.topic, first.partition).is_none() {
            return Ok(());
        }
        let call = Call::Seek {
            partition: place(&first.topic, first.partition),
        };
        let pending = self.chain.stage.recorder.invoke(self.process, call);
        let at = StartAt::Offset(first.offset);
        self.consumer.seek(&first.topic, first.partition, at).await?;
        pending.ok(Reply::Done(Done {}));
        Ok(())
    }

    /// The client's own loop. What it commits of offsets is not in the history.
    async fn by_loop(&mut self) -> Result<usize, ClientError> {
        let (chain, process) = (&self.chain, self.process);
        let mut trace = Trace::default();
        let transform =
            async |records: &[ConsumedRecord]| Ok::<_, ClientError>(trace.transform(chain, process, records));
        let options = ExactlyOnceOptions {
            records_max: RECORDS_MAX,
            interval: Duration::from_millis(30),
        };
        let processed = self.producer.process(&mut self.consumer, options, transform);
        let processed = timeout(POLL, processed).await;
        let Some(commit) = trace.commit.take() else {
            // Nothing was transformed. What was read is left to the next call, or read again.
            return match processed {
                Ok(Err(error)) => {
                    watch(&chain.stage, &error);
                    Err(error)
                }
                _ => Ok(0),
            };
        };
        let is_committed = matches!(&processed, Ok(Ok(done)) if done.read > 0);
        match &processed {
            Ok(Ok(_)) if is_committed => commit.ok(Reply::Done(Done {})),
            Ok(Ok(_)) => commit.fail(),
            _ => commit.unknown(),
        }
        if !is_committed {
            for partition in trace.partitions {
                let seek = Call::Seek { partition };
                chain.stage.recorder.invoke(process, seek).ok(Reply::Done(Done {}));
            }
        }
        match processed {
            Ok(Ok(done)) => Ok(done.read),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(0),
        }
    }

    /// Ends without a word: what is open is left as it is.
    pub fn forget(self) {
        drop(self);
    }

    /// Leaves in order.
    pub async fn close(self) {
        let (stage, process) = (self.chain.stage, self.process);
        let closing = async {
            // Commits nothing, as that is done by transactions.
            let _ = self.consumer.close().await;
            self.producer.close().await;
        };
        if timeout(CLOSE, closing).await.is_err() {
            stage.report(format!("a worker has not left its group within {CLOSE:?}"));
        }
        stage.recorder.note(Some(process), Note::Leave {});
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.process
    }
}

/// What the client's loop has handed to a worker.
#[derive(Default)]
struct Trace {
    /// The commit that follows.
    commit: Option<Pending>,
    /// What was read.
    partitions: Vec<String>,
}

impl Trace {
    /// Records a poll, the sends and the commit that are to come, and makes the records. The sends' outcomes stay unknown.
    fn transform(&mut self, chain: &Chain, process: u32, records: &[ConsumedRecord]) -> Vec<ProducerRecord> {
        let recorder = &chain.stage.recorder;
        let poll = Call::Poll {
            isolation: Shown::Committed,
            transaction: None,
        };
        recorder.invoke(process, poll).ok(reads(records, ""));
        let names = records
            .iter()
            .map(|record| (place(&record.topic, record.partition), ()));
        self.partitions = names.collect::<BTreeMap<_, _>>().into_keys().collect();
        let transaction = Recorded::begin(&chain.stage, process, chain.transactions.next());
        let mut made = Vec::new();
        for record in records {
            let (call, record) = Worker::made(chain, record);
            transaction.sends(call).unknown();
            made.push(record);
        }
        self.commit = Some(transaction.commits());
        made
    }
}
