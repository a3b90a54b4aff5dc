//! Consume, transform, produce: each record that is read takes effect once, in the records that are made of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jangada_types::Reason;
use tokio::time::{Instant, timeout_at};

use super::calls::Identity;
use super::{Inner, State, TransactionOutcome, TransactionalProducer};
use crate::consumer::{ConsumedRecord, StartAt};
use crate::error::ClientError;
use crate::group::{Finished, GroupConsumer, OffsetCommit, TopicPartition};
use crate::producer::ProducerRecord;

/// How much one transaction of [`TransactionalProducer::process`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExactlyOnceOptions {
    /// Most records that are read in one transaction. Default: 10,000.
    pub records_max: usize,
    /// How long records are gathered for a transaction, from the first one on: longer ones cost less and are seen later. Default:
    /// 100 ms, Kafka Streams' `commit.interval.ms` with exactly-once.
    pub interval: Duration,
}

impl Default for ExactlyOnceOptions {
    fn default() -> Self {
        Self {
            records_max: 10_000,
            interval: Duration::from_millis(100),
        }
    }
}

/// What one transaction of [`TransactionalProducer::process`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processed {
    /// Number of records that were read; 0: the transaction was aborted, and they come again.
    pub read: usize,
    /// Number of records that were made of them.
    pub made: usize,
}

/// What was read of one partition in a transaction.
struct Part {
    /// The ownership under which it was read.
    owned: Finished,
    /// The first offset that was read, where reading goes on after an abort.
    first: i64,
    /// The position behind the last one.
    next: i64,
    leader_epoch: Option<u32>,
}

/// What was read for a transaction.
#[derive(Default)]
pub(super) struct Gathered {
    records: Vec<ConsumedRecord>,
    parts: BTreeMap<TopicPartition, Part>,
    /// The transaction that commits it; none: no commit was asked for yet.
    commits: Option<Identity>,
    /// Why no more could be read behind it, until somebody seeks.
    ends_with: Option<ClientError>,
}

/// What was read, until it is committed or read again. A call that is dropped before leaves it to the next one.
struct Held {
    inner: Arc<Inner>,
    gathered: Gathered,
    is_settled: bool,
}

impl Held {
    fn new(inner: &Arc<Inner>, gathered: Gathered) -> Self {
        Self {
            inner: inner.clone(),
            gathered,
            is_settled: false,
        }
    }

    async fn read_again(&mut self, consumer: &mut GroupConsumer) -> Result<(), ClientError> {
        self.gathered.read_again(consumer).await?;
        self.is_settled = true;
        Ok(())
    }

    fn committed(&mut self) {
        self.is_settled = true;
        if let Some(error) = self.gathered.ends_with.take() {
            *self.inner.read_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_settled && !self.gathered.parts.is_empty() {
            let left = Gathered {
                records: Vec::new(),
                parts: std::mem::take(&mut self.gathered.parts),
                commits: self.gathered.commits,
                ends_with: self.gathered.ends_with.take(),
            };
            *self.inner.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
        }
    }
}

impl Gathered {
    /// Takes records of one partition. False: the partition was given up and came back meanwhile, so that somebody else may have what was
    /// read before.
    fn take(&mut self, consumer: &GroupConsumer, records: Vec<ConsumedRecord>) -> bool {
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return true;
        };
        let Some(partition) = consumer.owned_as(&first.topic, first.partition) else {
            return false;
        };
        let Some(owned) = consumer.ownership(&partition) else {
            return false;
        };
        let next = consumer
            .position(&first.topic, first.partition)
            .unwrap_or(last.offset + 1);
        let leader_epoch = last.leader_epoch;
        let read = Part {
            owned,
            first: first.offset,
            next,
            leader_epoch,
        };
        let part = match self.parts.entry(partition) {
            Entry::Vacant(vacant) => vacant.insert(read),
            // What was read before is not ours any more. What came now is, and is read again.
            Entry::Occupied(mut known) if !known.get().owned.is(&read.owned) => {
                known.insert(read);
                return false;
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        (part.next, part.leader_epoch) = (next, leader_epoch);
        self.records.extend(records);
        true
    }

    /// Whether all of it is still owned as it was read.
    fn is_owned(&self, consumer: &GroupConsumer) -> bool {
        let is_owned = |(partition, part): (&TopicPartition, &Part)| {
            consumer.ownership(partition).is_some_and(|owned| owned.is(&part.owned))
        };
        self.parts.iter().all(is_owned)
    }

    fn offsets(&self) -> Vec<OffsetCommit> {
        let offsets = self.parts.iter().map(|(partition, part)| OffsetCommit {
            leader_epoch: part.leader_epoch,
            ..OffsetCommit::new(partition.clone(), part.next)
        });
        offsets.collect()
    }

    /// Lets the consumer read all of it again, as far as it is still its own. A partition that was given up begins at the committed offset
    /// wherever it is read next.
    async fn read_again(&self, consumer: &mut GroupConsumer) -> Result<(), ClientError> {
        for (partition, part) in &self.parts {
            if consumer.ownership(partition).is_some_and(|owned| owned.is(&part.owned)) {
                let at = StartAt::Offset(part.first);
                consumer.seek(&partition.topic, partition.partition, at).await?;
            }
        }
        Ok(())
    }
}

impl TransactionalProducer {
    /// One round of consume, transform, produce: reads records for a while, makes others of them, and commits those together with the
    /// group's offsets. Call it in a loop. Each record that is read takes effect once, as long as what `transform` does besides making
    /// records does not matter: after an abort it is called again with the same records.
    ///
    /// A transaction that cannot be committed is aborted, and its records come again: when partitions moved meanwhile, or its time was
    /// over. A commit without an answer is resolved.
    ///
    /// A call that is dropped, as in `select!`, leaves what it read to the next one. An error that waits for a
    /// [`seek`](GroupConsumer::seek) is returned when all before it is committed.
    ///
    /// The consumer needs [`CommitMode::Manual`](crate::CommitMode::Manual), and reads committed records (the default) if those that write
    /// to its topics are to be seen once, too.
    ///
    /// # Errors
    /// The consumer's errors; what `transform` returns, after the transaction was aborted; [`ClientError::ProducerFenced`] when another
    /// process has the transactional id: this one must end. [`ClientError::Unavailable`], [`ClientError::TransactionUnknown`]: call it
    /// again.
    ///
    /// ```no_run
    /// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
    /// use jangada_client::{
    ///     ClientError, CommitMode, ExactlyOnceOptions, GroupConfig, ProducerRecord, TransactionOptions, TransactionalProducer,
    /// };
    ///
    /// let mut config = GroupConfig::new("upper", ["words"]);
    /// config.commit = CommitMode::Manual;
    /// let mut consumer = client.group_consumer(config)?;
    /// // An id for each process.
    /// let mut producer = TransactionalProducer::open(&client, "upper-1", TransactionOptions::default()).await?;
    /// loop {
    ///     let transform = async |records: &[jangada_client::ConsumedRecord]| {
    ///         let upper = records.iter().filter_map(|record| record.value.as_ref()).map(|value| {
    ///             ProducerRecord::new("shouts").with_value(value.to_ascii_uppercase())
    ///         });
    ///         Ok::<_, ClientError>(upper.collect())
    ///     };
    ///     producer.process(&mut consumer, ExactlyOnceOptions::default(), transform).await?;
    /// }
    /// # }
    /// ```
    pub async fn process<E: From<ClientError>>(
        &mut self,
        consumer: &mut GroupConsumer,
        options: ExactlyOnceOptions,
        transform: impl AsyncFnOnce(&[ConsumedRecord]) -> Result<Vec<ProducerRecord>, E>,
    ) -> Result<Processed, E> {
        const NOTHING: Processed = Processed { read: 0, made: 0 };
        if !consumer.commits_by_hand() {
            let text = "the group's offsets are committed by transactions: use CommitMode::Manual".to_owned();
            return Err(ClientError::Config(text).into());
        }
        self.take_up(consumer).await?;
        let mut held = Held::new(&self.inner, Gathered::default());
        match gather(consumer, options, &mut held.gathered).await {
            Ok(true) => {}
            Ok(false) => {
                held.read_again(consumer).await?;
                return Ok(NOTHING);
            }
            Err(error) => {
                held.read_again(consumer).await?;
                return Err(error.into());
            }
        }
        let transaction = match self.begin().await {
            Ok(transaction) => transaction,
            Err(error) => {
                held.read_again(consumer).await?;
                return Err(error.into());
            }
        };
        // Before the records are handled: by then the membership may be another one.
        let group = consumer.metadata();
        let done = async {
            let made = match transform(&held.gathered.records).await {
                Ok(made) => made,
                Err(error) => return Ok(Err(error)),
            };
            let count = made.len();
            for record in made {
                // Its delivery is the commit's.
                drop(transaction.send(record).await?);
            }
            transaction.commit_offsets(&group, &held.gathered.offsets()).await?;
            Ok::<_, ClientError>(Ok(count))
        };
        let failed = match done.await {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(error)) => Err(Some(error)),
            Err(error) if comes_again(&error) => Err(None),
            Err(error) => Err(Some(error.into())),
        };
        let made = match failed {
            Ok(made) => made,
            Err(error) => {
                let aborted = transaction.abort().await;
                held.read_again(consumer).await?;
                aborted?;
                return error.map_or(Ok(NOTHING), Err);
            }
        };
        let read = held.gathered.records.len();
        held.gathered.commits = Some(transaction.identity);
        let outcome = match transaction.commit().await {
            Ok(_) => TransactionOutcome::Committed,
            Err(ClientError::TransactionUnknown(_)) => self.resolve().await?,
            Err(ClientError::TransactionAborted { .. } | ClientError::TransactionTimedOut(_)) => {
                TransactionOutcome::Aborted
            }
            Err(error) => return Err(error.into()),
        };
        match outcome {
            TransactionOutcome::Committed => {
                held.committed();
                Ok(Processed { read, made })
            }
            TransactionOutcome::Aborted => {
                held.read_again(consumer).await?;
                Ok(NOTHING)
            }
        }
    }

    /// Goes on after a call that was dropped, or failed without an outcome: what it had read is read again, unless it is committed.
    async fn take_up(&mut self, consumer: &mut GroupConsumer) -> Result<(), ClientError> {
        let left = self.inner.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(left) = left else { return self.tell() };
        let mut held = Held::new(&self.inner, left);
        if let Some(identity) = held.gathered.commits {
            let is_unresolved =
                matches!(*self.inner.state.lock().await, State::Unresolved(unresolved, _) if unresolved == identity);
            if is_unresolved {
                self.resolve().await?;
            }
            // Perhaps the caller has resolved it.
            if self.inner.was_committed(identity) {
                held.committed();
                return self.tell();
            }
        }
        held.read_again(consumer).await
    }

    /// Tells once why no more could be read behind what is committed.
    fn tell(&self) -> Result<(), ClientError> {
        let error = self
            .inner
            .read_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        error.map_or(Ok(()), Err)
    }
}

/// Whether the transaction failed in a way that the next one need not: its time was over, or partitions moved.
fn comes_again(error: &ClientError) -> bool {
    let is_over = matches!(
        error,
        ClientError::TransactionAborted { .. } | ClientError::TransactionTimedOut(_) | ClientError::MembershipLost(_)
    );
    is_over || error.reason() == Some(Reason::PartitionNotOwned)
}

/// Gathers records for a transaction: waits for the first, then takes what comes for a while. False: partitions moved meanwhile.
async fn gather(
    consumer: &mut GroupConsumer,
    options: ExactlyOnceOptions,
    gathered: &mut Gathered,
) -> Result<bool, ClientError> {
    let records_max = options.records_max.max(1);
    let first = consumer.next_batch(records_max).await?;
    let until = Instant::now() + options.interval;
    let mut is_whole = gathered.take(consumer, first);
    while is_whole && gathered.records.len() < records_max {
        // A call that is dropped loses nothing.
        let Ok(more) = timeout_at(until, consumer.next_batch(records_max - gathered.records.len())).await else {
            break;
        };
        match more {
            Ok(more) => is_whole = gathered.take(consumer, more),
            // What comes before it is done first: then somebody may seek beyond it, and nothing is left out but what cannot be read.
            Err(error) if !error.is_retryable() && !gathered.records.is_empty() => {
                gathered.ends_with = Some(error);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(is_whole && gathered.is_owned(consumer))
}
