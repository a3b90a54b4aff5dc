//! One transaction: what is recorded of it, and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_check::Pending;
use jangada_check::call::{self, Call, Done, Reply, Sent};
use jangada_client::{
    Client, ClientError, Committed, Delivery, GroupMetadata, OffsetCommit, ProducerRecord, Transaction,
    TransactionOutcome, TransactionalProducer,
};

use crate::play::stage::Stage;
use crate::roles::groups::offsets::answered;
use crate::roles::log::records::{place, watch};

const PAUSE: Duration = Duration::from_millis(200);

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is committed.
    Committed,
    /// It is aborted, and its producer goes on.
    Aborted,
    /// It is aborted, and another process has the transactional id.
    Fenced,
    /// Nobody knows how it ended.
    Unknown,
}

/// What is recorded of one transaction.
pub struct Recorded {
    stage: Stage,
    process: u32,
    /// Its name in the history.
    pub name: String,
    /// Records of which nobody has waited for.
    sent: Vec<(Pending, Delivery)>,
}

impl Recorded {
    /// A transaction of this name begins, which no other one has.
    pub fn begin(stage: &Stage, process: u32, name: String) -> Self {
        let call = Call::Begin {
            transaction: name.clone(),
        };
        let beginning = stage.recorder.invoke(process, call);
        beginning.ok(Reply::Done(Done {}));
        Self {
            stage: stage.clone(),
            process,
            name,
            sent: Vec::new(),
        }
    }

    /// Records that a record is sent.
    pub fn sends(&self, call: call::Send) -> Pending {
        let call = call::Send {
            transaction: Some(self.name.clone()),
            ..call
        };
        self.stage.recorder.invoke(self.process, Call::Send(call))
    }

    /// Sends a record in the transaction.
    ///
    /// # Errors
    /// As [`Transaction::send`].
    pub async fn send(
        &mut self,
        transaction: &Transaction<'_>,
        call: call::Send,
        record: ProducerRecord,
    ) -> Result<(), ClientError> {
        let pending = self.sends(call);
        match transaction.send(record).await {
            Ok(delivery) => self.sent.push((pending, delivery)),
            Err(error) => {
                watch(&self.stage, &error);
                pending.fail();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Commits offsets of a group in the transaction.
    ///
    /// # Errors
    /// As [`Transaction::commit_offsets`].
    pub async fn commit_offsets(
        &self,
        transaction: &Transaction<'_>,
        group: &GroupMetadata,
        offsets: &[OffsetCommit],
    ) -> Result<(), ClientError> {
        let named = offsets.iter().map(|commit| {
            let partition = &commit.partition;
            (place(&partition.topic, partition.partition), commit.offset)
        });
        let call = Call::CommitOffsets {
            group: group.group().to_owned(),
            offsets: named.collect::<BTreeMap<_, _>>(),
            epoch: None,
            transaction: Some(self.name.clone()),
            rewind: false,
        };
        let pending = self.stage.recorder.invoke(self.process, call);
        let committed = transaction.commit_offsets(group, offsets).await;
        answered(pending, &committed);
        committed
    }

    /// Records what became of the records that were sent. Those of an aborted transaction are in the log or not.
    fn settle(&mut self) {
        for (pending, delivery) in self.sent.drain(..) {
            let offset = match delivery.try_result() {
                Some(Ok(metadata)) => metadata.offset,
                Some(Err(error)) => {
                    watch(&self.stage, &error);
                    None
                }
                None => None,
            };
            match offset {
                Some(offset) => pending.ok(Reply::Sent(Sent { offset, attempts: 1 })),
                None => pending.unknown(),
            }
        }
    }

    /// Records that the transaction is to be committed.
    pub fn commits(&self) -> Pending {
        let call = Call::Commit {
            transaction: self.name.clone(),
        };
        self.stage.recorder.invoke(self.process, call)
    }

    /// Aborts the transaction.
    pub async fn abort(mut self, transaction: Transaction<'_>) -> Ended {
        let call = Call::Abort {
            transaction: self.name.clone(),
        };
        let pending = self.stage.recorder.invoke(self.process, call);
        let aborted = transaction.abort().await;
        self.settle();
        match aborted {
            Ok(()) => {
                pending.ok(Reply::Done(Done {}));
                Ended::Aborted
            }
            Err(error) => {
                pending.unknown();
                ended(&error)
            }
        }
    }

    /// Waits for the end of a commit that was asked for, and records it. It counts as answered when all partitions and groups know it.
    pub async fn committed(
        mut self,
        (client, producer): (&Client, &mut TransactionalProducer),
        pending: Pending,
        outcome: Result<Committed, ClientError>,
    ) -> Ended {
        self.settle();
        match outcome {
            Ok(Committed { visible: true, .. }) => {
                pending.ok(Reply::Done(Done {}));
                Ended::Committed
            }
            Ok(_) => self.visible(client, producer, pending).await,
            Err(ClientError::TransactionUnknown(_)) => self.resolve(client, producer, pending).await,
            Err(error) => {
                watch(&self.stage, &error);
                // Whatever failed, it was not committed.
                pending.fail();
                ended(&error)
            }
        }
    }

    /// Waits until everybody knows of a commit. The id begins no other transaction before.
    async fn visible(self, client: &Client, producer: &TransactionalProducer, pending: Pending) -> Ended {
        let admin = client.admin();
        while !self.stage.is_over() {
            match admin.describe_transaction(producer.transactional_id()).await {
                Ok(described) if !described.state.starts_with("Prepare") => {
                    pending.ok(Reply::Done(Done {}));
                    return Ended::Committed;
                }
                _ => self.stage.pause(PAUSE).await,
            }
        }
        // It is committed; only when it counts is not known.
        pending.unknown();
        Ended::Committed
    }

    /// Asks what became of a commit without an answer.
    async fn resolve(self, client: &Client, producer: &mut TransactionalProducer, pending: Pending) -> Ended {
        while !self.stage.is_over() {
            match producer.resolve().await {
                Ok(TransactionOutcome::Committed) => return self.visible(client, producer, pending).await,
                Ok(TransactionOutcome::Aborted) => {
                    pending.fail();
                    return Ended::Aborted;
                }
                Err(error) if error.is_retryable() => self.stage.pause(PAUSE).await,
                // Another producer has the id and has ended transactions of its own since.
                Err(_) => break,
            }
        }
        pending.unknown();
        Ended::Unknown
    }
}

/// How a transaction ended that was not committed, for this reason.
pub fn ended(error: &ClientError) -> Ended {
    match error {
        ClientError::ProducerFenced { .. } => Ended::Fenced,
        _ => Ended::Aborted,
    }
}
