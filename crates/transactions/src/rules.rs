//! The rules that both the leader (advisory, before a command is proposed) and apply (which decides) judge by, and the refusals. One text
//! for each: what, where, and what to do.

use std::sync::Arc;

use jangada_types::{GroupId, Reason, Rejection};

use crate::image::{Image, TransactionalId};
use crate::limits::{BYTES_MAX, ID_BYTES_MAX, IDS_MAX, PARTICIPANTS_MAX};
use crate::outcome::Outcome;
use crate::producer::Producer;
use crate::size;

/// Judges the text of a transactional id, as every request that names one does.
///
/// # Errors
/// INVALID_TRANSACTIONAL_ID.
pub fn judge_id(id: &str) -> Result<(), Rejection> {
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        let what = format!("transactional id {id:?}: give 1 to {ID_BYTES_MAX} bytes without control characters");
        return Err(Rejection::new(Reason::InvalidTransactionalId, what).with("limit", ID_BYTES_MAX));
    }
    Ok(())
}

/// The id's row.
pub(crate) fn known<'a>(image: &'a Image, id: &str) -> Result<&'a TransactionalId, Rejection> {
    image.id(id).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownTransactionalId,
            format!("there is no transactional id {id:?}, or it was not used for long: initialize it"),
        )
    })
}

/// The rejection of a command when the state that it was decided from has changed, and of a request that was overtaken again and again.
pub(crate) fn changed(id: &str) -> Rejection {
    Rejection::new(
        Reason::ConcurrentTransactions,
        format!("transactional id {id:?} changed while the request was under way: send it again"),
    )
}

/// The rejection while markers are being written.
pub(crate) fn being_ended(id: &str) -> Rejection {
    Rejection::new(
        Reason::ConcurrentTransactions,
        format!("the last transaction of {id:?} is still being ended: send the request again after a moment"),
    )
}

/// The rejection when the transaction is not in the state that the request needs.
pub(crate) fn invalid_state(id: &str, row: &TransactionalId, what: &str) -> Rejection {
    Rejection::new(
        Reason::InvalidTransactionState,
        format!("transactional id {id:?} is in state {}: {what}", row.state.as_str()),
    )
    .with("actual", row.state.as_str())
}

/// The rejection of a producer that is not the holder of the id.
pub(crate) fn fenced(id: &str, row: &TransactionalId, producer: Producer) -> Rejection {
    Rejection::new(
        Reason::ProducerFenced,
        format!(
            "producer {producer} is not the holder of {id:?}, which is {}: another process took the id, or this one must initialize \
             it again",
            row.producer
        ),
    )
    .with("expected", row.producer.epoch)
    .with("actual", producer.epoch)
}

/// The rejection of what belongs to a transaction that somebody else has aborted.
pub(crate) fn timed_out(id: &str, outcome: Outcome) -> Rejection {
    Rejection::new(
        Reason::TransactionTimedOut,
        format!(
            "the transaction of {id:?} was aborted ({}): abort it here too, and begin another",
            outcome.as_str()
        ),
    )
}

/// Judges whether the producer may add to a transaction and end it.
pub(crate) fn is_holder(id: &str, row: &TransactionalId, producer: Producer) -> Result<(), Rejection> {
    if producer == row.producer && producer.is_usable() {
        return Ok(());
    }
    match ended_by(row, producer) {
        Some(outcome) if outcome.is_by_producer() => Err(invalid_state(
            id,
            row,
            "the transaction of this epoch has ended, go on with the one that its end gave",
        )),
        Some(outcome) => Err(timed_out(id, outcome)),
        None => Err(fenced(id, row, producer)),
    }
}

/// The outcome of the last transaction, if this producer wrote it and its process still holds the id.
pub(crate) fn ended_by(row: &TransactionalId, producer: Producer) -> Option<Outcome> {
    let last = row.last.filter(|last| last.producer == producer)?;
    (row.previous == Some(producer)).then_some(last.outcome)
}

/// Judges whether one more id has room.
pub(crate) fn room_for_id(image: &Image, id: &str) -> Result<(), Rejection> {
    if image.ids.len() >= IDS_MAX {
        return Err(too_many(format!(
            "this coordinator has {IDS_MAX} transactional ids: use the same ids again when a process starts anew"
        ))
        .with("limit", IDS_MAX));
    }
    room(image, size::new_row(id.len()))
}

/// Judges whether the partitions and groups that the transaction does not have yet have room.
pub(crate) fn room_for_participants(
    image: &Image,
    row: &TransactionalId,
    partitions: &[GroupId],
    groups: &[Arc<str>],
) -> Result<(), Rejection> {
    let new = partitions
        .iter()
        .filter(|partition| !row.partitions.contains(partition));
    let new_partitions = new.count();
    let new_groups = groups.iter().filter(|name| !row.groups.contains(*name));
    room_for(
        image,
        (row.partitions.len(), new_partitions),
        row.groups.len(),
        new_groups,
    )
}

/// Judges whether the transaction behind one that is being ended has room for these partitions and groups. What the one before has goes in
/// the same command, and is counted all the same: the next addition has its room.
pub(crate) fn room_for_next(image: &Image, partitions: &[GroupId], groups: &[Arc<str>]) -> Result<(), Rejection> {
    room_for(image, (0, partitions.len()), 0, groups.iter())
}

fn room_for<'a>(
    image: &Image,
    (partitions, new_partitions): (usize, usize),
    groups: usize,
    new_groups: impl Iterator<Item = &'a Arc<str>>,
) -> Result<(), Rejection> {
    let (count, bytes) = new_groups.fold((0, 0), |(count, bytes), name| (count + 1, bytes + size::group(name)));
    if partitions + new_partitions > PARTICIPANTS_MAX || groups + count > PARTICIPANTS_MAX {
        let what = format!("a transaction would have more than {PARTICIPANTS_MAX} partitions or groups: divide it");
        return Err(too_many(what).with("limit", PARTICIPANTS_MAX));
    }
    room(image, bytes + size::PARTITION_BYTES * new_partitions as u64)
}

fn room(image: &Image, more: u64) -> Result<(), Rejection> {
    let bytes = image.bytes.saturating_add(more);
    if more > 0 && bytes > BYTES_MAX {
        return Err(too_many(format!(
            "the transactional ids of this coordinator would take {bytes} bytes, of {BYTES_MAX}: use fewer, or smaller transactions"
        ))
        .with("limit", BYTES_MAX)
        .with("actual", bytes));
    }
    Ok(())
}

fn too_many(what: String) -> Rejection {
    Rejection::new(Reason::TooManyTransactionalIds, what)
}
