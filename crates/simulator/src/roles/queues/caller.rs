//! A process that calls queues, and records what it calls and is answered.
//!
//! What the checker takes for certain must be so: a lease is told a little shorter than it was asked for, a delay a little shorter too, for
//! brokers count whole milliseconds. A refusal of a token says of an acknowledgement that it had no effect; of a settlement that may be
//! made twice it says nothing, for its first attempt may have had its effect without an answer.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use jangada_check::call::{self, Delivered, Done, Placed};
use jangada_check::{Call, Pending, Reply};
use jangada_client::{
    Client, ClientError, Due, MessagePlace, Queue, QueueDelivery, QueueMessage, QueueProducer, Reason, ReceiveOptions,
    ReceivedMessage, Settled, Settlement, Token,
};

use crate::play::stage::Stage;

/// So much less than was asked for is told of leases and delays.
const MARGIN: Duration = Duration::from_millis(10);
/// The header with the name of the schedule that has sent a message.
const SCHEDULE: &str = "jangada-schedule";
/// The header with the time of the occurrence, milliseconds since the Unix epoch.
const OCCURRENCE: &str = "jangada-scheduled-at";

/// A process of a team.
pub(crate) struct Caller {
    pub stage: Stage,
    pub client: Client,
    process: Cell<u32>,
}

/// A length of time as the checker has it.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Ends a call that failed.
pub(crate) fn failed(pending: Pending, error: &ClientError) {
    // Whose task has ended does not say what became of the call.
    match error.is_definite() && !matches!(error, ClientError::Closed) {
        true => pending.fail(),
        false => pending.unknown(),
    }
}

/// The value of a message: its body; of one that a schedule sent, whose bodies are the same, its place.
pub(crate) fn value_of(message: &ReceivedMessage) -> String {
    match header(message, SCHEDULE) {
        Some(schedule) => format!("{schedule}@{}:{}", message.place.partition, message.place.offset),
        None => text(message.body.as_deref()),
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

fn header(message: &ReceivedMessage, name: &str) -> Option<String> {
    let found = message.headers.iter().find(|header| header.key == name)?;
    Some(text(found.value.as_deref()))
}

fn lease_of(token: &Token) -> String {
    token.0.iter().fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// Which occurrence a message is of: a schedule's name ends with its interval in milliseconds, as in `tick-5000`.
fn occurrence(message: &ReceivedMessage) -> Option<(String, u64)> {
    let schedule = header(message, SCHEDULE)?;
    let at_ms: u64 = header(message, OCCURRENCE)?.parse().ok()?;
    let interval_ms: u64 = schedule.rsplit('-').next()?.parse().ok()?;
    Some((schedule, at_ms / interval_ms.max(1)))
}

fn delivered(message: &ReceivedMessage) -> Delivered {
    Delivered {
        value: value_of(message).as_str().into(),
        lease: lease_of(&message.token),
        attempt: message.deliveries,
        failures: message.failures,
        occurrence: occurrence(message),
    }
}

/// The answer to a call that placed a message.
pub(crate) fn placed(place: MessagePlace) -> Reply {
    Reply::Placed(Placed {
        partition: place.partition,
        offset: place.offset,
    })
}

fn settled(already: bool) -> Reply {
    Reply::Settled(call::Settled { already })
}

fn kind_of(settlement: &Settlement) -> call::Settlement {
    match settlement {
        Settlement::Ack => call::Settlement::Ack,
        Settlement::Nack { failed: true, .. } => call::Settlement::Nack,
        Settlement::Nack { failed: false, .. } => call::Settlement::PutOff,
        Settlement::Release => call::Settlement::Release,
        Settlement::Reject { .. } => call::Settlement::Reject,
        Settlement::Extend { .. } => call::Settlement::Extend,
    }
}

/// Whether a settlement that was refused for its lease had no effect for certain: an attempt before that had one would be told otherwise.
fn is_sure_when_lost(settlement: call::Settlement) -> bool {
    matches!(settlement, call::Settlement::Ack | call::Settlement::Extend)
}

impl Caller {
    /// A process with a client of its own.
    pub async fn new(stage: &Stage, name: &str) -> Self {
        Self {
            client: stage.connect(name).await,
            process: Cell::new(stage.process()),
            stage: stage.clone(),
        }
    }

    /// It dies and another one takes its place.
    pub fn dies(&self) {
        self.process.set(self.stage.process());
    }

    /// Records that it calls something.
    pub fn invoke(&self, call: Call) -> Pending {
        self.stage.recorder.invoke(self.process.get(), call)
    }

    /// Records a call whose outcome nobody knows, or will.
    pub fn may_have(&self, call: Call) {
        self.invoke(call).unknown();
    }

    fn lease(&self, settle: (&str, &ReceivedMessage), settlement: call::Settlement) -> call::Settle {
        call::Settle {
            queue: settle.0.to_owned(),
            value: value_of(settle.1).as_str().into(),
            lease: Some(lease_of(&settle.1.token)),
            settlement,
            extend: None,
            transaction: None,
        }
    }

    /// How a message that is sent is recorded. `expires`: the queue has a time to live for all of them.
    pub fn sending(&self, queue: &str, message: &QueueMessage, expires: bool) -> call::QueueSend {
        let not_before = match message.due {
            Due::After(delay) => Some(nanos(self.stage.sim.now() + delay.saturating_sub(MARGIN))),
            Due::Default | Due::At(_) => None,
        };
        call::QueueSend {
            queue: queue.to_owned(),
            value: text(Some(&message.body)).as_str().into(),
            key: message.key.as_deref().map(|key| text(Some(key))),
            message_id: message.message_id.clone(),
            priority: message.priority,
            not_before,
            expires: expires || message.ttl.is_some(),
            transaction: None,
        }
    }

    /// Sends a message and waits until it is known what became of it. Returns its place.
    pub async fn send(
        &self,
        producer: &QueueProducer,
        message: QueueMessage,
        recorded: call::QueueSend,
    ) -> Option<MessagePlace> {
        let pending = self.invoke(Call::QueueSend(recorded));
        match producer.send(message).await {
            Ok(sent) => {
                pending.ok(placed(sent.place));
                Some(sent.place)
            }
            Err(error) => {
                failed(pending, &error);
                None
            }
        }
    }

    /// Receives messages. None: none came, or the call failed.
    pub async fn receive(&self, queue: &Queue, options: ReceiveOptions) -> Vec<ReceivedMessage> {
        let lease = options.lease.map(|lease| nanos(lease.saturating_sub(MARGIN)));
        let pending = self.invoke(Call::Receive {
            queue: queue.name().to_owned(),
            lease,
            stream: false,
        });
        match queue.receive(options).await {
            Ok(messages) => {
                pending.ok(Reply::Received(call::Received {
                    messages: messages.iter().map(delivered).collect(),
                }));
                messages
            }
            Err(error) => {
                failed(pending, &error);
                self.stage.note(&format!("receive from {}: {error}", queue.name()));
                Vec::new()
            }
        }
    }

    /// Settles a message that was received. An extension is at most as long as the lease was: that is what holds over a change of leader.
    pub async fn settle(&self, queue: &Queue, message: &ReceivedMessage, settlement: Settlement) -> Option<Settled> {
        let settled = self.settle_all(queue, std::slice::from_ref(message), &settlement).await;
        settled.first().copied()
    }

    /// Settles messages in one call, all in the same way. Returns nothing if the call failed.
    pub async fn settle_all(
        &self,
        queue: &Queue,
        messages: &[ReceivedMessage],
        settlement: &Settlement,
    ) -> Vec<Settled> {
        if messages.is_empty() {
            return Vec::new();
        }
        let kind = kind_of(settlement);
        let extend = match settlement {
            Settlement::Extend { lease: Some(lease) } => Some(nanos(lease.saturating_sub(MARGIN))),
            _ => None,
        };
        let pending: Vec<Pending> = messages
            .iter()
            .map(|message| {
                let settle = self.lease((queue.name(), message), kind);
                self.invoke(Call::Settle(call::Settle { extend, ..settle }))
            })
            .collect();
        let items = messages
            .iter()
            .map(|message| (message.token.clone(), settlement.clone()));
        match queue.settle(items.collect()).await {
            Ok(outcomes) => {
                for (pending, outcome) in pending.into_iter().zip(&outcomes) {
                    match outcome {
                        Settled::Done => pending.ok(settled(false)),
                        // Of what is done nobody has a lease.
                        Settled::Already if kind == call::Settlement::Extend => pending.fail(),
                        Settled::Already => pending.ok(settled(true)),
                        Settled::LeaseLost if is_sure_when_lost(kind) => pending.fail(),
                        Settled::LeaseLost => pending.unknown(),
                    }
                }
                outcomes
            }
            Err(error) => {
                if error.reason() == Some(Reason::InvalidToken) {
                    self.stage
                        .report(format!("a token of queue {} is refused: {error}", queue.name()));
                }
                // Of several some may be settled, though the call as a whole was refused.
                let is_one = pending.len() == 1;
                for pending in pending {
                    match is_one {
                        true => failed(pending, &error),
                        false => pending.unknown(),
                    }
                }
                self.stage.note(&format!("settle of {}: {error}", queue.name()));
                Vec::new()
            }
        }
    }

    /// Records that a message came on a stream.
    pub fn came(&self, queue: &str, message: &ReceivedMessage) {
        let pending = self.invoke(Call::Receive {
            queue: queue.to_owned(),
            lease: None,
            stream: true,
        });
        let messages = vec![delivered(message)];
        pending.ok(Reply::Received(call::Received { messages }));
    }

    /// Settles a message that came on a stream. It does not say whether that was done before.
    pub async fn settle_delivery(&self, queue: &str, delivery: QueueDelivery, settlement: Settlement) -> bool {
        let kind = kind_of(&settlement);
        let pending = self.invoke(Call::Settle(self.lease((queue, &delivery), kind)));
        let outcome = match settlement {
            Settlement::Ack => delivery.ack().await,
            Settlement::Nack { delay, failed: true } => delivery.nack(delay).await,
            Settlement::Nack { delay, failed: false } => delivery.postpone(delay.unwrap_or_default()).await,
            Settlement::Release => delivery.release().await,
            Settlement::Reject { reason } => delivery.reject(reason).await,
            Settlement::Extend { lease } => delivery.extend(lease.unwrap_or(Duration::from_secs(1))).await,
        };
        match &outcome {
            Ok(()) => pending.ok(settled(true)),
            Err(ClientError::LeaseLost) if is_sure_when_lost(kind) => pending.fail(),
            Err(ClientError::LeaseLost) => pending.unknown(),
            Err(error) => failed(pending, error),
        }
        outcome.is_ok()
    }

    /// How an acknowledgement in a transaction is recorded.
    pub fn acknowledging(&self, queue: &str, message: &ReceivedMessage, transaction: &str) -> Pending {
        let settle = self.lease((queue, message), call::Settlement::Ack);
        self.invoke(Call::Settle(call::Settle {
            transaction: Some(transaction.to_owned()),
            ..settle
        }))
    }

    /// Takes a message out of the queue that was sent to a place.
    pub async fn cancel(&self, queue: &Queue, value: &str, place: MessagePlace) {
        let pending = self.invoke(Call::Settle(call::Settle {
            queue: queue.name().to_owned(),
            value: value.into(),
            lease: None,
            settlement: call::Settlement::Cancel,
            extend: None,
            transaction: None,
        }));
        match queue.cancel(&[place]).await.as_deref() {
            Ok([Settled::Done]) => pending.ok(settled(false)),
            Ok([Settled::Already]) => pending.ok(settled(true)),
            Ok(_) => pending.unknown(),
            Err(error) => failed(pending, error),
        }
    }

    /// Records a call that has no more to say than that it is done.
    pub async fn does<T>(&self, call: Call, work: impl Future<Output = Result<T, ClientError>>) -> bool {
        let pending = self.invoke(call);
        match work.await {
            Ok(_) => {
                pending.ok(Reply::Done(Done {}));
                true
            }
            Err(error) => {
                failed(pending, &error);
                false
            }
        }
    }
}
