//! Messages of queues in a transaction: they are sent and acknowledged with its records, or not at all.

use std::sync::Arc;

use futures::future::try_join_all;
use jangada_proto::v1;
use jangada_types::Reason;

use super::Transaction;
use super::sequences::{Lane, SentTo, batch_len, in_order};
use crate::error::ClientError;
use crate::producer::Producer;
use crate::queue::{Queue, QueueDelivery, QueueMessage, SentMessage, Token};

/// Messages that one call acknowledges at most.
const TOKENS_MAX: usize = 10_000;

/// A part of a transaction that is being done. When it is dropped before its outcome is known the transaction cannot be committed: nobody
/// knows whether the part is in it.
struct Part<'t> {
    producer: &'t Producer,
    is_known: bool,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !self.is_known {
            let text = "a call in the transaction was dropped before it was answered";
            self.producer.fail(ClientError::Config(text.to_owned()));
        }
    }
}

impl Transaction<'_> {
    /// Sends messages to a queue, as parts of the transaction: nobody gets them before it is committed, and nobody ever if it is
    /// aborted. Returns where they are, in their order, when they are on the disks of a quorum. Messages without key and id all go to one
    /// partition.
    ///
    /// When this fails, or is dropped before it returns, the transaction can only be aborted.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`]; [`ClientError::Refused`] for a message that the queue does not take, for a queue with `queue.dedup`,
    /// and for one that reads a topic (send a record to the topic); [`ClientError::Unavailable`], [`ClientError::OutcomeUnknown`] and
    /// [`ClientError::ProducerFenced`]; [`ClientError::TransactionAborted`] after something in the transaction failed.
    pub async fn send_to_queue(
        &self,
        queue: impl Into<Arc<str>>,
        messages: impl IntoIterator<Item = QueueMessage>,
    ) -> Result<Vec<SentMessage>, ClientError> {
        let queue = Queue::new(self.inner.cluster.clone(), queue.into());
        let messages: Vec<QueueMessage> = messages.into_iter().collect();
        let sending = async {
            let random = self.inner.cluster.env.random.number();
            let known = self.queues.get(&queue, random).await?;
            let to = known.get().expect("it was looked up");
            let lanes = to.lanes(messages).into_iter();
            let sent = try_join_all(lanes.map(|(partition, lane)| self.send_lane(to, partition, lane))).await?;
            Ok(in_order(sent.into_iter().flatten()))
        };
        self.part(sending).await
    }

    /// Sends messages to one partition, in batches, one after the other.
    async fn send_lane(
        &self,
        to: &SentTo,
        partition: u32,
        lane: Lane,
    ) -> Result<Vec<(usize, SentMessage)>, ClientError> {
        let (places, messages): (Vec<usize>, Vec<QueueMessage>) = lane.into_iter().unzip();
        let transaction = self.to_wire();
        let mut next = to.next(partition).await;
        let mut sent = Vec::with_capacity(messages.len());
        let mut most = usize::MAX;
        while let left @ [_, ..] = &messages[sent.len()..] {
            let batch = &left[..batch_len(left, most)];
            let at = (&to.layout.queue_id, partition);
            match to.queue.send_in(at, (&transaction, next.get()), batch).await {
                Ok(places) => {
                    *next = next.advance(i32::try_from(batch.len()).unwrap_or(i32::MAX));
                    sent.extend(places);
                }
                // The queue takes smaller batches than most: nothing was sent.
                Err(error) if error.reason() == Some(Reason::BatchTooLarge) && batch.len() > 1 => {
                    most = batch.len() / 2;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(places.into_iter().zip(sent).collect())
    }

    /// Acknowledges messages of a queue, by the tokens that they came with, as a part of the transaction: they are done when it is
    /// committed. Until then they are with nobody, their leases do not run out, and when it is aborted they go out again at once, without
    /// a failure. Who has a [`QueueDelivery`] calls [`ack_in`](QueueDelivery::ack_in).
    ///
    /// When this fails, or is dropped before it returns, the transaction can only be aborted.
    ///
    /// # Errors
    /// [`ClientError::LeaseLost`] when one of them is not the caller's any more: its lease ran out and somebody else has it, or it is done
    /// or dead by now. Those of [`send_to_queue`](Self::send_to_queue).
    pub async fn acknowledge(&self, queue: impl Into<Arc<str>>, tokens: &[Token]) -> Result<(), ClientError> {
        let queue = Queue::new(self.inner.cluster.clone(), queue.into());
        let transaction = self.to_wire();
        let acknowledging = async {
            for tokens in tokens.chunks(TOKENS_MAX) {
                queue.acknowledge_in(&transaction, tokens).await?;
            }
            Ok(())
        };
        self.part(acknowledging).await
    }

    async fn part<T>(&self, does: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let producer = &self.inner.producer;
        if let Some(error) = producer.failure() {
            return Err(error);
        }
        let mut part = Part {
            producer,
            is_known: false,
        };
        let done = does.await.map_err(of_transaction);
        part.is_known = true;
        if let Err(error) = &done {
            producer.fail(error.clone());
        }
        done
    }

    fn to_wire(&self) -> v1::QueueTransaction {
        v1::QueueTransaction {
            transactional_id: self.inner.id.to_string(),
            producer_id: self.identity.0.get(),
            producer_epoch: self.identity.1.get().into(),
        }
    }
}

/// What a refusal says of the transaction as a whole.
fn of_transaction(error: ClientError) -> ClientError {
    match error {
        ClientError::Refused(rejection) => match rejection.reason {
            Some(Reason::ProducerFenced) => ClientError::ProducerFenced {
                definite: true,
                rejection,
            },
            Some(Reason::TransactionTimedOut) => ClientError::TransactionTimedOut(rejection),
            _ => ClientError::Refused(rejection),
        },
        other => other,
    }
}

impl QueueDelivery {
    /// Says that the message is done when a transaction is committed, together with all that is sent in it. Its lease is not extended any
    /// more, and does not run out. When the transaction is aborted the message goes out again at once, to anybody, without a failure.
    ///
    /// When this fails, or is dropped before it returns, the transaction can only be aborted, and the message is given back.
    ///
    /// ```no_run
    /// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
    /// use jangada_client::{ProducerRecord, QueueConsumerConfig, QueueMessage, TransactionOptions, TransactionalProducer};
    ///
    /// let mut orders = client.queue_consumer("orders", QueueConsumerConfig::default()).await?;
    /// // An id for each process.
    /// let mut producer = TransactionalProducer::open(&client, "billing-1", TransactionOptions::default()).await?;
    /// loop {
    ///     let order = orders.next().await?;
    ///     let body = order.body.clone().unwrap_or_default();
    ///     let transaction = producer.begin().await?;
    ///     transaction.send(ProducerRecord::new("invoices").with_value(body.clone())).await?;
    ///     transaction.send(ProducerRecord::new("audit").with_value(body.clone())).await?;
    ///     transaction.send_to_queue("shipping", [QueueMessage::new(body)]).await?;
    ///     let done = async {
    ///         order.ack_in(&transaction).await?;
    ///         transaction.commit().await
    ///     };
    ///     // All of it, or nothing: then the order comes again.
    ///     if let Err(error) = done.await {
    ///         eprintln!("{error}");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Transaction::acknowledge`].
    pub async fn ack_in(self, transaction: &Transaction<'_>) -> Result<(), ClientError> {
        let token = std::slice::from_ref(&self.token);
        transaction.acknowledge(self.queue().clone(), token).await?;
        self.leave_to_transaction();
        Ok(())
    }
}
