//! Messages of queues between the contract's messages and the api's structs.

use bytes::Bytes;
use jangada_proto::v1;
use jangada_proto::v1::queue_message::Due as DueMessage;
use jangada_proto::v1::settle_item::Settlement as SettlementMessage;
use jangada_queue::engine::{SettleItem, Settled, Settlement};
use jangada_types::limits::{FETCH_BYTES_DEFAULT, FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX, QUEUE_LEASE_MS_MAX};
use jangada_types::{Header, Offset, PartitionIndex, QueueId, Reason};

use super::record_wire::invalid;
use super::status;
use crate::api::call::queues::{
    MessageState, PeekedMessage, PeekedMessages, ReceivedMessage, SendOutcomes, SentMessage, SettleOutcomes,
};
use crate::api::queue_messages::{Due, NewMessage, QueueRef, Token};
use crate::error::RequestError;

/// Messages that one call may receive.
const RECEIVE_MESSAGES_MAX: u32 = 1_000;
/// Messages that one call shows, unless it says how many.
const PEEK_MESSAGES_DEFAULT: u32 = 10;
/// Messages that one call may settle or cancel.
const SETTLE_ITEMS_MAX: usize = 10_000;
/// The longest reason of a rejection, bytes.
const REASON_BYTES_MAX: usize = 256;

pub(super) fn queue_id_to(id: QueueId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

pub(super) fn header_of(header: v1::RecordHeader) -> Header {
    Header {
        key: header.key,
        value: header.value,
    }
}

fn header_to(header: Header) -> v1::RecordHeader {
    v1::RecordHeader {
        key: header.key,
        value: header.value,
    }
}

/// A message to be sent. Its bounds are judged with the queue's settings.
pub(super) fn message_of(message: v1::QueueMessage) -> NewMessage {
    NewMessage {
        key: message.key,
        body: message.body,
        headers: message.headers.into_iter().map(header_of).collect(),
        due: match message.due {
            None => Due::Default,
            Some(DueMessage::DelayMs(delay_ms)) => Due::After(delay_ms),
            Some(DueMessage::DeliverAtMs(at_ms)) => Due::At(at_ms),
        },
        priority: message.priority,
        message_id: message.message_id,
        ttl_ms: message.ttl_ms,
    }
}

pub(super) fn message_to(message: NewMessage) -> v1::QueueMessage {
    v1::QueueMessage {
        key: message.key,
        body: message.body,
        headers: message.headers.into_iter().map(header_to).collect(),
        due: match message.due {
            Due::Default => None,
            Due::After(delay_ms) => Some(DueMessage::DelayMs(delay_ms)),
            Due::At(at_ms) => Some(DueMessage::DeliverAtMs(at_ms)),
        },
        priority: message.priority,
        message_id: message.message_id,
        ttl_ms: message.ttl_ms,
    }
}

pub(super) fn sent_message_to(sent: SentMessage) -> v1::SentMessage {
    v1::SentMessage {
        partition: sent.partition.get(),
        offset: sent.offset.get(),
        duplicate: sent.duplicate,
    }
}

/// What became of messages that were sent. `refused`: says an error as clients get it.
pub(super) fn sent_to(outcomes: SendOutcomes, refused: impl Fn(RequestError) -> RequestError) -> v1::SendResponse {
    use v1::send_result::Result as Outcome;
    let results = outcomes.into_iter().map(|outcome| v1::SendResult {
        result: Some(match outcome {
            Ok(sent) => Outcome::Sent(sent_message_to(sent)),
            Err(error) => Outcome::Error(status::in_stream(&refused(error))),
        }),
    });
    v1::SendResponse {
        results: results.collect(),
    }
}

pub(super) fn sent_of(response: v1::SendResponse) -> Result<SendOutcomes, RequestError> {
    use v1::send_result::Result as Outcome;
    let outcomes = response.results.into_iter().map(|result| match result.result {
        Some(Outcome::Sent(sent)) => Ok(Ok(SentMessage {
            partition: PartitionIndex(sent.partition),
            offset: Offset(sent.offset),
            duplicate: sent.duplicate,
        })),
        Some(Outcome::Error(error)) => status::error_in_stream(error).map(Err),
        None => Err(invalid("a result of a message is missing")),
    });
    outcomes.collect()
}

/// How many messages a call asks for.
///
/// # Errors
/// INVALID_REQUEST: there are too many.
pub(super) fn max_messages(asked: u32) -> Result<u32, RequestError> {
    bounded("max_messages", asked, 1)
}

/// How many messages a call is to be shown.
///
/// # Errors
/// INVALID_REQUEST: there are too many.
pub(super) fn peek_limit(asked: u32) -> Result<usize, RequestError> {
    bounded("limit", asked, PEEK_MESSAGES_DEFAULT).map(|limit| limit as usize)
}

fn bounded(field: &str, asked: u32, default: u32) -> Result<u32, RequestError> {
    match asked {
        0 => Ok(default),
        asked if asked <= RECEIVE_MESSAGES_MAX => Ok(asked),
        asked => Err(beyond(field, asked, RECEIVE_MESSAGES_MAX)),
    }
}

fn beyond(field: &str, actual: impl std::fmt::Display, limit: impl std::fmt::Display) -> RequestError {
    invalid(format!("{field} is {actual}: at most {limit}"))
        .with("limit", limit)
        .with("actual", actual)
}

/// How many bytes a call asks for.
///
/// # Errors
/// INVALID_REQUEST: there are too many.
pub(super) fn max_bytes(asked: u32) -> Result<usize, RequestError> {
    match asked as usize {
        0 => Ok(FETCH_BYTES_DEFAULT),
        asked if asked <= FETCH_BYTES_MAX => Ok(asked),
        asked => Err(beyond("max_bytes", asked, FETCH_BYTES_MAX)),
    }
}

/// How long a call waits.
///
/// # Errors
/// INVALID_REQUEST: it is too long.
pub(super) fn wait(asked_ms: u32) -> Result<std::time::Duration, RequestError> {
    match asked_ms > FETCH_WAIT_MS_MAX {
        true => Err(beyond("wait_ms", asked_ms, FETCH_WAIT_MS_MAX)),
        false => Ok(std::time::Duration::from_millis(asked_ms.into())),
    }
}

/// How long messages are leased; none: as the queue's settings say.
///
/// # Errors
/// INVALID_REQUEST: it is too long.
pub(super) fn lease_ms(asked_ms: u32) -> Result<Option<u64>, RequestError> {
    match u64::from(asked_ms) {
        0 => Ok(None),
        asked_ms if asked_ms <= QUEUE_LEASE_MS_MAX => Ok(Some(asked_ms)),
        asked_ms => Err(beyond("lease_ms", asked_ms, QUEUE_LEASE_MS_MAX)),
    }
}

/// Refuses more messages than one call may settle or cancel, or none.
///
/// # Errors
/// INVALID_REQUEST.
pub(super) fn check_count(field: &str, count: usize, least: usize) -> Result<(), RequestError> {
    if count < least {
        return Err(invalid(format!("the request has no {field}: send at least one")));
    }
    match count > SETTLE_ITEMS_MAX {
        true => Err(beyond(&format!("the number of {field}"), count, SETTLE_ITEMS_MAX)),
        false => Ok(()),
    }
}

/// What is to become of messages, with their tokens.
///
/// # Errors
/// INVALID_TOKEN; INVALID_REQUEST: a field is missing or out of its bounds.
pub(super) fn settle_of(
    queue: &QueueRef,
    items: Vec<v1::SettleItem>,
) -> Result<Vec<(Token, Settlement)>, RequestError> {
    let items = items.into_iter().enumerate().map(|(place, item)| {
        let token = queue.token(&item.token, place)?;
        let settlement = item.settlement.ok_or_else(|| {
            invalid(format!("item {place} does not say what becomes of the message: set `ack`, `nack`, `release`, `reject` or `extend`"))
        })?;
        Ok((token, settlement_of(queue, settlement)?))
    });
    items.collect()
}

fn settlement_of(queue: &QueueRef, settlement: SettlementMessage) -> Result<Settlement, RequestError> {
    Ok(match settlement {
        SettlementMessage::Ack(v1::Ack {}) => Settlement::Ack,
        SettlementMessage::Nack(nack) => {
            if let Some(delay_ms) = nack.delay_ms.filter(|delay_ms| *delay_ms > QUEUE_LEASE_MS_MAX) {
                return Err(beyond("delay_ms", delay_ms, QUEUE_LEASE_MS_MAX));
            }
            Settlement::Nack {
                delay_ms: nack.delay_ms,
                failed: !nack.not_failed,
            }
        }
        SettlementMessage::Release(v1::Release {}) => Settlement::Release,
        SettlementMessage::Reject(reject) => {
            let length = reject.reason.len();
            if length > REASON_BYTES_MAX {
                return Err(beyond("the length of reason", length, REASON_BYTES_MAX));
            }
            if length > 0 {
                tracing::info!(queue = %queue.name(), reason = reject.reason, "a message is rejected");
            }
            Settlement::Reject
        }
        SettlementMessage::Extend(extend) => Settlement::Extend {
            lease_ms: lease_ms(extend.lease_ms)?.unwrap_or_else(|| queue.lease_ms()),
        },
    })
}

/// What is to become of messages of one partition, for its leader.
pub(super) fn settle_to(queue: QueueId, partition: PartitionIndex, items: &[SettleItem]) -> Vec<v1::SettleItem> {
    let items = items.iter().map(|item| {
        let token = Token {
            partition,
            offset: item.offset,
            lease: item.lease,
        };
        v1::SettleItem {
            token: Bytes::copy_from_slice(&token.encode(queue)),
            settlement: Some(match item.settlement {
                Settlement::Ack => SettlementMessage::Ack(v1::Ack {}),
                Settlement::Nack { delay_ms, failed } => SettlementMessage::Nack(v1::Nack {
                    delay_ms,
                    not_failed: !failed,
                }),
                Settlement::Release => SettlementMessage::Release(v1::Release {}),
                Settlement::Reject => SettlementMessage::Reject(v1::Reject::default()),
                Settlement::AckIn { .. } => unreachable!("the partition's leader makes it of an acknowledgement"),
                Settlement::Extend { lease_ms } => SettlementMessage::Extend(v1::Extend {
                    lease_ms: u32::try_from(lease_ms).unwrap_or(u32::MAX),
                }),
            }),
        }
    });
    items.collect()
}

/// What became of messages to settle. `refused`: says an error as clients get it.
pub(super) fn settled_to(
    outcomes: SettleOutcomes,
    refused: impl Fn(RequestError) -> RequestError,
) -> Vec<v1::SettleResult> {
    use v1::settle_result::Result as Outcome;
    let results = outcomes.into_iter().map(|outcome| v1::SettleResult {
        result: Some(match outcome {
            Ok(settled) => Outcome::Settled(settled_name(settled).into()),
            Err(error) => Outcome::Error(status::in_stream(&refused(error))),
        }),
    });
    results.collect()
}

fn settled_name(settled: Settled) -> v1::Settled {
    match settled {
        Settled::Done => v1::Settled::Done,
        Settled::AlreadySettled => v1::Settled::Already,
        Settled::LeaseLost => v1::Settled::LeaseLost,
        Settled::InTransaction | Settled::TransactionOver | Settled::Full => {
            unreachable!("the partition's leader makes errors of them")
        }
    }
}

pub(super) fn settled_of(results: Vec<v1::SettleResult>) -> Result<SettleOutcomes, RequestError> {
    use v1::settle_result::Result as Outcome;
    let outcomes = results.into_iter().map(|result| match result.result {
        Some(Outcome::Settled(settled)) => match v1::Settled::try_from(settled) {
            Ok(v1::Settled::Done) => Ok(Ok(Settled::Done)),
            Ok(v1::Settled::Already) => Ok(Ok(Settled::AlreadySettled)),
            Ok(v1::Settled::LeaseLost) => Ok(Ok(Settled::LeaseLost)),
            Ok(v1::Settled::Unspecified) | Err(_) => Err(invalid("the outcome of a message is not known")),
        },
        Some(Outcome::Error(error)) => status::error_in_stream(error).map(Err),
        None => Err(invalid("the outcome of a message is missing")),
    });
    outcomes.collect()
}

pub(super) fn received_to(message: ReceivedMessage) -> v1::ReceivedMessage {
    v1::ReceivedMessage {
        token: message.token,
        partition: message.partition.get(),
        offset: message.offset.get(),
        key: message.key,
        body: message.body,
        headers: message.headers.into_iter().map(header_to).collect(),
        timestamp_ms: message.timestamp_ms,
        message_id: message.message_id,
        failures: message.failures.into(),
        deliveries: message.deliveries.into(),
        lease_left_ms: message.lease_left_ms,
    }
}

pub(super) fn received_of(message: v1::ReceivedMessage) -> Result<ReceivedMessage, RequestError> {
    let count = |count: u32| u16::try_from(count).map_err(|_| invalid("a count of a message is out of its bounds"));
    Ok(ReceivedMessage {
        failures: count(message.failures)?,
        deliveries: count(message.deliveries)?,
        token: message.token,
        partition: PartitionIndex(message.partition),
        offset: Offset(message.offset),
        key: message.key,
        body: message.body,
        headers: message.headers.into_iter().map(header_of).collect(),
        timestamp_ms: message.timestamp_ms,
        message_id: message.message_id,
        lease_left_ms: message.lease_left_ms,
    })
}

/// A state that is asked for.
///
/// # Errors
/// INVALID_REQUEST: there is no such state.
pub(super) fn state_of(state: i32) -> Result<MessageState, RequestError> {
    match v1::MessageState::try_from(state) {
        Ok(v1::MessageState::Ready) => Ok(MessageState::Ready),
        Ok(v1::MessageState::Leased) => Ok(MessageState::Leased),
        Ok(v1::MessageState::Waiting) => Ok(MessageState::Waiting),
        Ok(v1::MessageState::Dead) => Ok(MessageState::Dead),
        Ok(v1::MessageState::Moving) => Ok(MessageState::Moving),
        Ok(v1::MessageState::Unspecified) | Err(_) => Err(invalid(format!("message state {state} is not known"))),
    }
}

pub(super) fn state_to(state: MessageState) -> v1::MessageState {
    match state {
        MessageState::Ready => v1::MessageState::Ready,
        MessageState::Leased => v1::MessageState::Leased,
        MessageState::Waiting => v1::MessageState::Waiting,
        MessageState::Dead => v1::MessageState::Dead,
        MessageState::Moving => v1::MessageState::Moving,
    }
}

pub(super) fn peeked_to(peeked: PeekedMessages) -> v1::PeekResponse {
    let messages = peeked.messages.into_iter().map(|shown| v1::PeekedMessage {
        message: Some(received_to(shown.message)),
        state: state_to(shown.state).into(),
        until_ms: shown.until_ms,
        reason: shown.reason,
        died_at_ms: shown.died_at_ms,
        damage: shown.damage,
    });
    v1::PeekResponse {
        messages: messages.collect(),
        next_offset: peeked.next.and_then(|next| i64::try_from(next).ok()).unwrap_or(0),
    }
}

pub(super) fn peeked_of(response: v1::PeekResponse) -> Result<PeekedMessages, RequestError> {
    let messages = response.messages.into_iter().map(|shown| {
        let message = shown
            .message
            .ok_or_else(|| invalid("a message that is shown is missing"))?;
        Ok(PeekedMessage {
            message: received_of(message)?,
            state: state_of(shown.state)?,
            until_ms: shown.until_ms,
            reason: shown.reason,
            died_at_ms: shown.died_at_ms,
            damage: shown.damage,
        })
    });
    Ok(PeekedMessages {
        messages: messages.collect::<Result<_, RequestError>>()?,
        next: u64::try_from(response.next_offset).ok().filter(|next| *next > 0),
    })
}

/// An offset that a request names.
///
/// # Errors
/// INVALID_REQUEST: it is negative.
pub(super) fn offset_of(offset: i64) -> Result<u64, RequestError> {
    u64::try_from(offset).map_err(|_| {
        RequestError::new(Reason::InvalidRequest, format!("offset {offset} is negative")).with("actual", offset)
    })
}

/// So many messages are with consumers, as an answer says it.
pub(super) fn in_flight_full_to(most: u64) -> u32 {
    u32::try_from(most).unwrap_or(u32::MAX)
}
