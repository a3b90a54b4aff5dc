//! Calls about a queue, each answered once. Any broker takes them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_proto::v1;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_types::partitioner::partition_for_key;
use jangada_types::{BrokerId, Reason};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::message::{
    MessagePlace, MessageState, PeekedMessage, QueueMessage, ReceivedMessage, SentMessage, Settled, Settlement, Token,
    millis,
};
use crate::attempts::CallFailed;
use crate::channels::RESPONSE_BYTES_MAX;
use crate::cluster::{Cluster, Repeat};
use crate::error::ClientError;
use crate::wire_error::Failure;

/// The longest that a broker waits for messages.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How much longer than it waits a call may take.
const WAIT_GRACE: Duration = Duration::from_secs(10);

/// A client of a broker's queue service.
pub(crate) fn queue_service(channel: Channel) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// A queue, and who leads its partitions, as a broker knows it.
#[derive(Clone, Debug)]
pub(crate) struct QueueLayout {
    pub queue_id: Bytes,
    pub partitions: Vec<PartitionLeader>,
    pub recognizes_repetitions: bool,
    pub recognizes_content: bool,
}

/// A partition of a queue, and its leader.
#[derive(Clone, Debug)]
pub(crate) struct PartitionLeader {
    /// The leader and its address; `None`: none is known at the moment.
    pub leader: Option<(BrokerId, Arc<str>)>,
    pub epoch: u32,
}

impl QueueLayout {
    fn from_wire(answer: v1::FindQueueResponse) -> Self {
        let partitions = answer.partitions.into_iter().map(|partition| PartitionLeader {
            leader: (partition.leader_id != 0 && !partition.leader_address.is_empty())
                .then(|| (BrokerId(partition.leader_id), partition.leader_address.into())),
            epoch: partition.leader_epoch,
        });
        Self {
            queue_id: answer.queue_id,
            partitions: partitions.collect(),
            recognizes_repetitions: answer.recognizes_repetitions,
            recognizes_content: answer.recognizes_content,
        }
    }

    /// The partition that a message belongs to; none: it may go anywhere.
    pub fn partition_of(&self, message: &QueueMessage) -> Option<u32> {
        let partitions = self.partitions.len().max(1) as u32;
        let by_hash = |bytes: &[u8]| Some(partition_for_key(bytes, partitions).get());
        match (&message.key, &message.message_id) {
            (Some(key), _) => by_hash(key),
            (None, Some(id)) => by_hash(id.as_bytes()),
            (None, None) if self.recognizes_content => by_hash(&message.body),
            (None, None) => None,
        }
    }

    /// The newer of two answers, partition by partition: brokers learn of elections at different times.
    pub fn newer(mut self, known: &Self) -> Self {
        if self.queue_id == known.queue_id {
            for (partition, known) in self.partitions.iter_mut().zip(&known.partitions) {
                if known.epoch > partition.epoch {
                    *partition = known.clone();
                }
            }
        }
        self
    }
}

/// A handle on one queue, for calls that are answered once: receiving and settling with tokens, looking at messages, cancelling them.
///
/// Whoever works on messages has it easier with a [`QueueConsumer`](crate::QueueConsumer) or a [`Worker`](crate::Worker).
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use std::time::Duration;
/// use jangada_client::{ReceiveOptions, Settlement};
///
/// let queue = client.queue("thumbnails");
/// let options = ReceiveOptions { messages: 10, wait: Duration::from_secs(20), ..ReceiveOptions::default() };
/// for message in queue.receive(options).await? {
///     println!("{:?}", message.body);
///     queue.settle(vec![(message.token, Settlement::Ack)]).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Queue {
    cluster: Arc<Cluster>,
    name: Arc<str>,
}

/// How messages are received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// At most so many, up to 1,000. Default: 1.
    pub messages: u32,
    /// At most so many bytes, but at least one message. Default: 1 MiB.
    pub bytes: u32,
    /// How long the broker waits for the first message, up to a minute. Default: not at all.
    pub wait: Duration,
    /// How long the messages are the caller's, up to 12 hours. Default: as the queue's settings say.
    pub lease: Option<Duration>,
    /// Only of this partition. Default: of any.
    pub partition: Option<u32>,
}

/// What a receive came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The messages; none came in time if there are none.
    pub messages: Vec<ReceivedMessage>,
    /// Nothing came because in some partition consumers have so many messages, as many as they may: 100,000 of the queue, or 10,000 of
    /// the session. Settling some lets others out.
    pub in_flight_full: Option<u32>,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            messages: 1,
            bytes: 1 << 20,
            wait: Duration::ZERO,
            lease: None,
            partition: None,
        }
    }
}

/// Messages that were shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// The messages, in the order of their offsets.
    pub messages: Vec<PeekedMessage>,
    /// Where to look on. `None`: there are no more.
    pub next_offset: Option<i64>,
}

impl Queue {
    pub(crate) fn new(cluster: Arc<Cluster>, name: Arc<str>) -> Self {
        Self { cluster, name }
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many partitions the queue has.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`]; [`ClientError::Unavailable`] when no broker answers.
    pub async fn partitions(&self) -> Result<u32, ClientError> {
        Ok(self.find().await?.partitions.len() as u32)
    }

    pub(crate) async fn find(&self) -> Result<QueueLayout, ClientError> {
        let answer = self.call(
            "find",
            Repeat::Hedged,
            self.cluster.config.request_timeout,
            |mut service| {
                let request = v1::FindQueueRequest {
                    queue: self.name.to_string(),
                    ..v1::FindQueueRequest::default()
                };
                async move { service.find_queue(request).await }
            },
        );
        answer.await.map(QueueLayout::from_wire)
    }

    /// Receives messages, which are the caller's until they are settled or their lease runs out. None: none came in time.
    ///
    /// When an answer is lost the call asks again, and gets the same messages.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`], [`ClientError::Refused`] for an option out of bounds; [`ClientError::Unavailable`] when no broker
    /// answers within `retry_timeout`.
    pub async fn receive(&self, options: ReceiveOptions) -> Result<Vec<ReceivedMessage>, ClientError> {
        Ok(self.receive_or_why(options).await?.messages)
    }

    /// Like [`receive`](Self::receive); says also if nothing came because consumers have as many messages as they may.
    ///
    /// # Errors
    /// Those of [`receive`](Self::receive).
    pub async fn receive_or_why(&self, options: ReceiveOptions) -> Result<Received, ClientError> {
        let random = &self.cluster.env.random;
        let request = v1::ReceiveRequest {
            queue: self.name.to_string(),
            partition: options.partition,
            max_messages: options.messages,
            max_bytes: options.bytes,
            wait_ms: u32::try_from(millis(options.wait)).unwrap_or(u32::MAX),
            lease_ms: lease_ms(options.lease),
            attempt_id: random.number().max(1),
            session: random.number().max(1),
            ..v1::ReceiveRequest::default()
        };
        let within = options.wait.min(WAIT_MAX) + WAIT_GRACE;
        let answer = self.call("receive from", Repeat::Always, within, |mut service| {
            let request = request.clone();
            async move { service.receive(request).await }
        });
        let answer = answer.await?;
        Ok(Received {
            messages: answer.messages.into_iter().map(ReceivedMessage::from_wire).collect(),
            in_flight_full: (answer.in_flight_full > 0).then_some(answer.in_flight_full),
        })
    }

    /// Settles messages by their tokens. Of each the answer has what became of it.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`]; [`ClientError::Refused`] with `INVALID_TOKEN`: nothing was settled then.
    /// [`ClientError::Unavailable`] and [`ClientError::OutcomeUnknown`] after trying for as long as `retry_timeout`: some may be
    /// settled. Settling them again is safe.
    pub async fn settle(&self, items: Vec<(Token, Settlement)>) -> Result<Vec<Settled>, ClientError> {
        let request = v1::SettleRequest {
            queue: self.name.to_string(),
            items: items
                .iter()
                .map(|(token, settlement)| item(token, settlement))
                .collect(),
            ..v1::SettleRequest::default()
        };
        let what = "settle messages of";
        let answer = self.call(
            what,
            Repeat::Always,
            self.cluster.config.request_timeout,
            |mut service| {
                let request = request.clone();
                async move {
                    let answer = service.settle(request).await?;
                    first_error(&answer.get_ref().results).map_or(Ok(answer), Err)
                }
            },
        );
        outcomes(answer.await?.results, &self.context(what))
    }

    /// Acknowledges messages in a transaction: all of them, or the transaction is to be aborted.
    pub(crate) async fn acknowledge_in(
        &self,
        transaction: &v1::QueueTransaction,
        tokens: &[Token],
    ) -> Result<(), ClientError> {
        let request = v1::SettleRequest {
            queue: self.name.to_string(),
            items: tokens.iter().map(|token| item(token, &Settlement::Ack)).collect(),
            transaction: Some(transaction.clone()),
            ..v1::SettleRequest::default()
        };
        let what = "acknowledge messages in a transaction, of";
        let answer = self.call(
            what,
            Repeat::Always,
            self.cluster.config.request_timeout,
            |mut service| {
                let request = request.clone();
                async move {
                    let answer = service.settle(request).await?;
                    first_error(&answer.get_ref().results).map_or(Ok(answer), Err)
                }
            },
        );
        let settled = outcomes(answer.await?.results, &self.context(what))?;
        match settled.len() == tokens.len() && settled.iter().all(|settled| *settled == Settled::Done) {
            true => Ok(()),
            // What is done already was done by somebody else: not in this transaction.
            false => Err(ClientError::LeaseLost),
        }
    }

    /// Sends messages to a partition in a transaction: all of them, or the transaction is to be aborted.
    pub(crate) async fn send_in(
        &self,
        to: (&Bytes, u32),
        (transaction, base_sequence): (&v1::QueueTransaction, i32),
        messages: &[QueueMessage],
    ) -> Result<Vec<SentMessage>, ClientError> {
        let request = v1::SendRequest {
            queue: self.name.to_string(),
            queue_id: to.0.clone(),
            partition: Some(to.1),
            messages: messages.iter().map(QueueMessage::to_wire).collect(),
            transaction: Some(transaction.clone()),
            base_sequence,
            ..v1::SendRequest::default()
        };
        let what = "send in a transaction to";
        let within = self.cluster.config.request_timeout;
        // A batch that is sent again is known by its sequence.
        let answer = self.call(what, Repeat::Always, within, |mut service| {
            let request = request.clone();
            async move { service.send(request).await }
        });
        let context = self.context(what);
        let sent: Vec<SentMessage> = answer
            .await?
            .results
            .into_iter()
            .map(|result| sent_of(result).map_err(|failure| failure.into_error(&context)))
            .collect::<Result<_, _>>()?;
        match sent.len() == messages.len() {
            true => Ok(sent),
            false => Err(unreadable(&context)),
        }
    }

    /// Takes messages out of the queue that nobody has yet.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`]; [`ClientError::Refused`] with `IN_FLIGHT` when a consumer has one of them, or it is dead: the others
    /// may be out of the queue then. [`ClientError::Unavailable`] and [`ClientError::OutcomeUnknown`] after trying for as long as
    /// `retry_timeout`.
    pub async fn cancel(&self, messages: &[MessagePlace]) -> Result<Vec<Settled>, ClientError> {
        let places = messages.iter().map(|place| v1::MessagePlace {
            partition: place.partition,
            offset: place.offset,
        });
        let request = v1::CancelRequest {
            queue: self.name.to_string(),
            messages: places.collect(),
            ..v1::CancelRequest::default()
        };
        let what = "cancel messages of";
        let answer = self.call(
            what,
            Repeat::Always,
            self.cluster.config.request_timeout,
            |mut service| {
                let request = request.clone();
                async move {
                    let answer = service.cancel(request).await?;
                    first_error(&answer.get_ref().results).map_or(Ok(answer), Err)
                }
            },
        );
        outcomes(answer.await?.results, &self.context(what))
    }

    /// Shows messages of a partition from an offset on, without taking them; 0: from the oldest on. With `states` only those in one of
    /// them.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`]; [`ClientError::Refused`] for a bad partition or limit; [`ClientError::Unavailable`] when the
    /// partition's leader does not answer within `retry_timeout`.
    pub async fn peek(
        &self,
        partition: u32,
        from_offset: i64,
        states: &[MessageState],
        limit: u32,
    ) -> Result<Peeked, ClientError> {
        let request = v1::PeekRequest {
            queue: self.name.to_string(),
            partition,
            from_offset,
            states: states.iter().map(|state| state.to_wire().into()).collect(),
            limit,
            ..v1::PeekRequest::default()
        };
        let what = "look at messages of";
        let answer = self.call(
            what,
            Repeat::Always,
            self.cluster.config.request_timeout,
            |mut service| {
                let request = request.clone();
                async move { service.peek(request).await }
            },
        );
        let answer = answer.await?;
        let messages = answer.messages.into_iter().filter_map(|shown| {
            Some(PeekedMessage {
                message: ReceivedMessage::from_wire(shown.message?),
                state: MessageState::from_wire(shown.state)?,
                until_ms: Some(shown.until_ms).filter(|until_ms| *until_ms > 0),
                reason: Some(shown.reason).filter(|reason| !reason.is_empty()),
                died_at_ms: Some(shown.died_at_ms).filter(|died_at_ms| *died_at_ms > 0),
                damage: Some(shown.damage).filter(|damage| !damage.is_empty()),
            })
        });
        Ok(Peeked {
            messages: messages.collect(),
            next_offset: Some(answer.next_offset).filter(|next| *next > 0),
        })
    }

    fn context(&self, what: &str) -> String {
        format!("{what} queue {}", self.name)
    }

    async fn call<T, F>(
        &self,
        what: &str,
        repeat: Repeat,
        within: Duration,
        call: impl Fn(QueueServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, ClientError>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let context = self.context(what);
        let call = |channel| call(queue_service(channel));
        let answer = self.cluster.call_any_within(within, &context, repeat, call).await;
        answer.map_err(|failed| queue_error(failed, &self.name, &context))
    }
}

/// What a failed call about a queue means for its caller.
pub(crate) fn queue_error(failed: CallFailed, queue: &Arc<str>, context: &str) -> ClientError {
    if failed.failure.reason == Some(Reason::UnknownQueue) && !failed.in_doubt {
        return ClientError::UnknownQueue { queue: queue.clone() };
    }
    failed.into_error(context)
}

/// What became of a message that was sent.
pub(crate) fn sent_of(result: v1::SendResult) -> Result<SentMessage, Failure> {
    use v1::send_result::Result as Outcome;
    match result.result {
        Some(Outcome::Sent(sent)) => Ok(SentMessage {
            place: MessagePlace {
                partition: sent.partition,
                offset: sent.offset,
            },
            duplicate: sent.duplicate,
        }),
        Some(Outcome::Error(error)) => Err(error.into()),
        None => Err(Failure::local(
            tonic::Code::Internal,
            "the broker's answer has no outcome of a message",
            false,
        )),
    }
}

/// A lease as requests have it; 0: as the queue's settings say.
pub(crate) fn lease_ms(lease: Option<Duration>) -> u32 {
    lease.map_or(0, |lease| u32::try_from(millis(lease)).unwrap_or(u32::MAX))
}

pub(crate) fn item(token: &Token, settlement: &Settlement) -> v1::SettleItem {
    v1::SettleItem {
        token: token.0.clone(),
        settlement: Some(settlement.to_wire()),
    }
}

/// The first error of messages that were not settled, so that the call is made again: what is settled is a success then.
fn first_error(results: &[v1::SettleResult]) -> Option<Status> {
    use v1::settle_result::Result as Outcome;
    results.iter().find_map(|result| match &result.result {
        Some(Outcome::Error(error)) => Some(Failure::from(error.clone()).into_status()),
        _ => None,
    })
}

fn outcomes(results: Vec<v1::SettleResult>, context: &str) -> Result<Vec<Settled>, ClientError> {
    use v1::settle_result::Result as Outcome;
    let outcomes = results.into_iter().map(|result| match result.result {
        Some(Outcome::Settled(settled)) => Settled::from_wire(settled).ok_or_else(|| unreadable(context)),
        Some(Outcome::Error(error)) => Err(Failure::from(error).into_error(context)),
        None => Err(unreadable(context)),
    });
    outcomes.collect()
}

/// The error for an answer of a broker that this client does not understand.
pub(crate) fn unreadable(context: &str) -> ClientError {
    let message = "the broker's answer has an outcome that this client does not know; use a newer client";
    Failure::local(tonic::Code::Internal, message, false).into_error(context)
}
