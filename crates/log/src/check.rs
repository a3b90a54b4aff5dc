//! Whether a command could be applied: apply relies on what a leader checks, and what a peer sends is held against it.

use bytes::Bytes;
use jangada_machine::EncodedCommand;
use jangada_queue::{Fire, Marks, ScheduleCommand, Slots};
use jangada_types::BatchHeader;
use jangada_types::batch::EndMarker;

use crate::command::PartitionCommand;
use crate::compaction::{Form, Original};
use crate::transactions::Marker;

/// Checks a command and its batch.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_command(command: &EncodedCommand) -> Result<(), String> {
    match PartitionCommand::decode_head(command.head()).map_err(|error| error.to_string())? {
        PartitionCommand::AdvanceLogStart { .. } | PartitionCommand::AdvanceHorizon { .. } => Ok(()),
        PartitionCommand::QueueOps(_) => Slots::check_ops(command.body()).map_err(|error| error.to_string()),
        PartitionCommand::Append { .. } => check_plain(command.body()).map(drop),
        PartitionCommand::AppendMarked { marks, .. } => {
            let header = check_plain(command.body())?;
            check_count("marks", marks.0.len() as u64, &header)
        }
        PartitionCommand::Carry { carry, .. } => {
            let header = check_batch(command.body())?;
            if header.producer_id.is_some() {
                return Err("what is carried has no producer, and its batch has".to_owned());
            }
            check_count("places", carry.messages.len(), &header)
        }
        PartitionCommand::Schedule { change, marks, .. } => match *change {
            ScheduleCommand::Fire(Fire { appends: true, .. }) => check_scheduled(command.body(), &marks),
            _ if command.body().is_empty() => Ok(()),
            _ => Err("it sends no message, and has a batch".to_owned()),
        },
        PartitionCommand::TxnAppend { seq, .. } => check_transactional(command.body(), seq).map(drop),
        PartitionCommand::TxnAppendMarked { seq, marks, .. } => {
            let header = check_transactional(command.body(), seq)?;
            if marks.0.iter().any(|mark| mark.id != 0) {
                return Err("a message of a transaction has no message id, which an abort would not forget".to_owned());
            }
            check_count("marks", marks.0.len() as u64, &header)
        }
        PartitionCommand::Marker { marker, .. } => check_marker(command.body(), &marker),
        PartitionCommand::CompactedAppend { original, .. } => check_compacted(&original, command.body()),
        PartitionCommand::EmptiedAppend { original, remains } => check_form(&original, &remains.header()),
    }
}

/// A batch of which compaction has left some records.
fn check_compacted(original: &Original, batch: &Bytes) -> Result<(), String> {
    let header = check_batch(batch)?;
    let are_fewer = header.record_count > 0 && header.record_count <= header.last_offset_delta;
    match are_fewer && matches!(original.form, Form::Plain(_) | Form::Transactional { .. }) {
        true => check_form(original, &header),
        false => Err("its batch is not what compaction leaves".to_owned()),
    }
}

/// Whether what is left of a command could be applied as the command that it was.
fn check_form(original: &Original, header: &BatchHeader) -> Result<(), String> {
    let attributes = header.attributes;
    let fits = match &original.form {
        Form::Marker { end, seq } => {
            let is_named = end.producer_id.is_some() && end.producer_epoch.get() >= 0 && *seq > 0;
            attributes.is_control() && is_named && header.last_offset_delta == 0
        }
        Form::Transactional { seq } => {
            attributes.is_transactional() && !attributes.is_control() && header.producer_id.is_some() && *seq > 0
        }
        Form::Plain(_) | Form::Marked { .. } => !attributes.is_transactional() && !attributes.is_control(),
    };
    let is_whole = header.last_offset_delta >= 0 && (attributes.is_control() || has_sequence(header));
    match fits && is_whole {
        true => Ok(()),
        false => Err("what is left of it is not what compaction leaves".to_owned()),
    }
}

fn has_sequence(header: &BatchHeader) -> bool {
    let has_sequence = header.producer_epoch.get() >= 0 && header.base_sequence.get() >= 0;
    has_sequence || !header.producer_id.is_some()
}

/// The batch of an append without a transaction. A header alone asks what became of a batch, whatever that was.
fn check_plain(batch: &Bytes) -> Result<BatchHeader, String> {
    let header = check_batch(batch)?;
    match header.attributes.is_transactional() && batch.len() > BatchHeader::LEN {
        false => Ok(header),
        true => Err("its batch is of a transaction, and it is of none".to_owned()),
    }
}

/// The batch of an append in a transaction.
fn check_transactional(batch: &Bytes, seq: u64) -> Result<BatchHeader, String> {
    let header = check_batch(batch)?;
    let is_transactional = header.attributes.is_transactional() && header.producer_id.is_some();
    match is_transactional && seq > 0 {
        true => Ok(header),
        false => Err("it is of a transaction, and its batch is of none".to_owned()),
    }
}

/// The control batch of a marker.
fn check_marker(batch: &Bytes, marker: &Marker) -> Result<(), String> {
    let read = EndMarker::read(batch).map_err(|error| error.to_string())?;
    let is_named = marker.end.producer_id.is_some() && marker.end.producer_epoch.get() >= 0 && marker.seq > 0;
    match read == Some(marker.end) && is_named && batch.len() == EndMarker::BATCH_BYTES {
        true => Ok(()),
        false => Err("its control batch is not that of its marker".to_owned()),
    }
}

/// The header of a batch that a leader takes.
fn check_batch(batch: &Bytes) -> Result<BatchHeader, String> {
    let header = BatchHeader::parse(batch).map_err(|error| error.to_string())?;
    let is_whole = header.total_size() == batch.len() && header.last_offset_delta >= 0;
    let is_whole = is_whole && !header.attributes.is_control();
    match is_whole && has_sequence(&header) {
        true => Ok(header),
        false => Err("its batch is not what a leader takes".to_owned()),
    }
}

/// The batch of an occurrence: one message, without a producer, whose id nobody remembers.
fn check_scheduled(batch: &Bytes, marks: &Marks) -> Result<(), String> {
    let header = check_batch(batch)?;
    if header.producer_id.is_some() || marks.0.iter().any(|mark| mark.id != 0) {
        return Err("an occurrence is sent once by its number, and has neither a producer nor a message id".to_owned());
    }
    check_count("message", 1, &header)?;
    match marks.is_empty() {
        true => Ok(()),
        false => check_count("marks", marks.0.len() as u64, &header),
    }
}

fn check_count(what: &str, given: u64, header: &BatchHeader) -> Result<(), String> {
    let records = u64::from(header.last_offset_delta.unsigned_abs()) + 1;
    match given == records {
        true => Ok(()),
        false => Err(format!("it has {given} {what} for {records} records")),
    }
}
