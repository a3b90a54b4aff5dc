//! Appends to logs of exchanges that are passed on, between the api's structs and the messages between brokers.

use jangada_proto::internal;
use jangada_types::{ExchangeId, PartitionIndex, QueueId};

use super::queue_wire as wire;
use super::record_wire::invalid;
use crate::api::call::exchange_logs::{AppendToLog, Readers};
use crate::error::RequestError;

/// Bytes of a queue's id.
const ID_BYTES: usize = 16;

pub(super) fn append_to(wanted: AppendToLog) -> internal::AppendToLog {
    let (readers, readers_of) = match wanted.readers {
        Readers::All => Default::default(),
        Readers::Some { sets, of } => (sets.iter().map(|set| set_to(set)).collect(), of),
    };
    internal::AppendToLog {
        exchange_id: wanted.exchange.to_bytes().to_vec().into(),
        partition: wanted.index.get(),
        messages: wanted.messages.into_iter().map(wire::message_to).collect(),
        readers,
        readers_of,
        metadata_version: wanted.version,
        timeout_ms: u32::try_from(wanted.timeout.as_millis()).unwrap_or(u32::MAX),
    }
}

fn set_to(set: &[QueueId]) -> internal::Readers {
    let ids = set.iter().flat_map(|queue| queue.to_bytes()).collect::<Vec<u8>>();
    internal::Readers { queue_ids: ids.into() }
}

pub(super) fn append_of(message: internal::AppendToLog) -> Result<AppendToLog, RequestError> {
    let exchange = ExchangeId::from_slice(&message.exchange_id);
    let exchange = exchange.ok_or_else(|| invalid("an exchange's id has 16 bytes"))?;
    let readers = match message.readers.is_empty() && message.readers_of.is_empty() {
        true => Readers::All,
        false => Readers::Some {
            sets: message.readers.iter().map(set_of).collect::<Result<_, _>>()?,
            of: message.readers_of,
        },
    };
    let is_whole = match &readers {
        Readers::All => true,
        Readers::Some { sets, of } => {
            of.len() == message.messages.len() && of.iter().all(|number| (*number as usize) < sets.len())
        }
    };
    if !is_whole {
        return Err(invalid(
            "each message that is passed on to an exchange's log names a set of queues",
        ));
    }
    Ok(AppendToLog {
        exchange,
        index: PartitionIndex(message.partition),
        messages: message.messages.into_iter().map(wire::message_of).collect(),
        readers,
        version: message.metadata_version,
        timeout: std::time::Duration::from_millis(message.timeout_ms.into()),
    })
}

fn set_of(readers: &internal::Readers) -> Result<Vec<QueueId>, RequestError> {
    let ids = readers.queue_ids.chunks(ID_BYTES).map(QueueId::from_slice);
    let ids: Option<Vec<QueueId>> = ids.collect();
    ids.ok_or_else(|| invalid("a queue's id has 16 bytes"))
}
