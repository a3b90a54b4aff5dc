//! Calls about messages of queues that are passed on, between the api's structs and the messages between brokers.

use std::time::Duration;

use jangada_controller::Image;
use jangada_proto::internal::{
    AppendLetters as LettersMessage, ReceiveMessages as ReceiveMessage, SettleMessages as SettleMessage,
};
use jangada_proto::v1;
use jangada_queue::engine::SettleItem;
use jangada_queue::{AttemptId, CallId, SessionId};
use jangada_types::PartitionIndex;

use super::names;
use super::queue_transaction_wire as transactions;
use super::queue_wire as wire;
use super::record_wire::invalid;
use crate::api::call::queues::{
    AppendLetters, CancelMessages, PeekMessages, QueuePartition, ReceiveMessages, SendMessages, SettleMessages,
};
use crate::api::queue_messages::QueueRef;
use crate::api::resolve::QueueName;
use crate::error::RequestError;

/// A time in milliseconds, not 0 for one that is shorter.
fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

fn duration(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

fn bytes(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn at(id: &[u8], partition: Option<u32>) -> Result<QueuePartition, RequestError> {
    let partition = partition.ok_or_else(|| invalid("what is passed on to a leader names the partition"))?;
    Ok(QueuePartition {
        queue: names::queue_id(id)?,
        index: PartitionIndex(partition),
    })
}

pub(super) fn send_to(wanted: SendMessages) -> v1::SendRequest {
    v1::SendRequest {
        queue: String::new(),
        queue_id: wire::queue_id_to(wanted.at.queue),
        partition: Some(wanted.at.index.get()),
        messages: wanted.messages.into_iter().map(wire::message_to).collect(),
        timeout_ms: ms(wanted.timeout),
        base_sequence: wanted
            .sends_in
            .as_ref()
            .map_or(0, |sends_in| sends_in.base_sequence.get()),
        transaction: wanted
            .sends_in
            .map(|sends_in| transactions::transaction_to(&sends_in.transaction)),
    }
}

pub(super) fn send_of(request: v1::SendRequest) -> Result<SendMessages, RequestError> {
    Ok(SendMessages {
        at: at(&request.queue_id, request.partition)?,
        sends_in: transactions::sends_in_of(request.transaction, request.base_sequence)?,
        messages: request.messages.into_iter().map(wire::message_of).collect(),
        timeout: duration(request.timeout_ms),
    })
}

pub(super) fn letters_to(wanted: AppendLetters) -> LettersMessage {
    LettersMessage {
        queue_id: wire::queue_id_to(wanted.at.queue),
        partition: wanted.at.index.get(),
        batch: wanted.batch,
        timeout_ms: ms(wanted.timeout),
    }
}

pub(super) fn letters_of(message: LettersMessage) -> Result<AppendLetters, RequestError> {
    Ok(AppendLetters {
        at: at(&message.queue_id, Some(message.partition))?,
        batch: message.batch,
        timeout: duration(message.timeout_ms),
    })
}

pub(super) fn receive_to(wanted: &ReceiveMessages) -> ReceiveMessage {
    let lease_ms = wanted.lease_ms.unwrap_or(0);
    let request = v1::ReceiveRequest {
        queue_id: wire::queue_id_to(wanted.at.queue),
        partition: Some(wanted.at.index.get()),
        max_messages: wanted.messages,
        max_bytes: bytes(wanted.max_bytes),
        wait_ms: ms(wanted.wait),
        lease_ms: u32::try_from(lease_ms).unwrap_or(u32::MAX),
        attempt_id: wanted.attempt.get(),
        session: wanted.session.get(),
        ..v1::ReceiveRequest::default()
    };
    ReceiveMessage {
        request: Some(request),
        only_again: wanted.messages == 0,
        call_id: wanted.call.get(),
        gives_back: wanted.gives_back,
    }
}

pub(super) fn receive_of(message: ReceiveMessage) -> Result<ReceiveMessages, RequestError> {
    let request = message
        .request
        .ok_or_else(|| invalid("a receive that is passed on has a request"))?;
    Ok(ReceiveMessages {
        at: at(&request.queue_id, request.partition)?,
        session: SessionId(request.session),
        attempt: AttemptId(request.attempt_id),
        call: CallId(message.call_id),
        gives_back: message.gives_back,
        messages: if message.only_again { 0 } else { request.max_messages },
        max_bytes: request.max_bytes as usize,
        lease_ms: Some(u64::from(request.lease_ms)).filter(|lease_ms| *lease_ms > 0),
        wait: duration(request.wait_ms),
    })
}

pub(super) fn settle_to(wanted: &SettleMessages) -> SettleMessage {
    let SettleMessages { at, items, transaction } = wanted;
    SettleMessage {
        request: Some(v1::SettleRequest {
            queue: String::new(),
            queue_id: wire::queue_id_to(at.queue),
            items: wire::settle_to(at.queue, at.index, items),
            transaction: transaction.as_ref().map(transactions::transaction_to),
        }),
        partition: at.index.get(),
    }
}

pub(super) fn settle_of(image: &Image, message: SettleMessage) -> Result<SettleMessages, RequestError> {
    let request = message
        .request
        .ok_or_else(|| invalid("messages to settle that are passed on have a request"))?;
    let at = at(&request.queue_id, Some(message.partition))?;
    let queue = QueueRef::resolve(image, &QueueName::Id(at.queue))?;
    let items = wire::settle_of(&queue, request.items)?;
    let transaction = transactions::settles_in_of(request.transaction, &items)?;
    let items = items.into_iter().map(|(token, settlement)| SettleItem {
        offset: token.offset,
        lease: token.lease,
        settlement,
    });
    Ok(SettleMessages {
        at,
        items: items.collect(),
        transaction,
    })
}

pub(super) fn cancel_to(wanted: &CancelMessages) -> v1::CancelRequest {
    let places = wanted.offsets.iter().map(|offset| v1::MessagePlace {
        partition: wanted.at.index.get(),
        offset: i64::try_from(*offset).unwrap_or(i64::MAX),
    });
    v1::CancelRequest {
        queue: String::new(),
        queue_id: wire::queue_id_to(wanted.at.queue),
        messages: places.collect(),
    }
}

pub(super) fn cancel_of(request: v1::CancelRequest) -> Result<CancelMessages, RequestError> {
    let partition = request.messages.first().map(|place| place.partition);
    Ok(CancelMessages {
        at: at(&request.queue_id, partition)?,
        offsets: request
            .messages
            .iter()
            .map(|place| wire::offset_of(place.offset))
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn peek_to(wanted: &PeekMessages) -> v1::PeekRequest {
    v1::PeekRequest {
        queue: String::new(),
        queue_id: wire::queue_id_to(wanted.at.queue),
        partition: wanted.at.index.get(),
        from_offset: i64::try_from(wanted.from).unwrap_or(i64::MAX),
        states: wanted
            .states
            .iter()
            .map(|state| wire::state_to(*state).into())
            .collect(),
        limit: bytes(wanted.limit),
        max_bytes: bytes(wanted.max_bytes),
    }
}

pub(super) fn peek_of(request: v1::PeekRequest) -> Result<PeekMessages, RequestError> {
    Ok(PeekMessages {
        at: at(&request.queue_id, Some(request.partition))?,
        from: wire::offset_of(request.from_offset)?,
        states: request
            .states
            .into_iter()
            .map(wire::state_of)
            .collect::<Result<_, _>>()?,
        limit: request.limit as usize,
        max_bytes: request.max_bytes as usize,
    })
}
