//! Carrying messages forward: how large a queue's log is, for the engine's plan, and the batch of what is appended again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jangada_log::tables::offset_index::{IndexEntry, OFFSET_INDEX, key_of};
use jangada_log::{PartitionCommand, PartitionReply};
use jangada_machine::RowRange;
use jangada_queue::engine::{Input, LogPart};
use jangada_queue::{Carry, Runs};
use jangada_types::Offset;

use super::desk::Desk;
use crate::error::RequestError;
use crate::partition::Partition;
use crate::replica::UNTIL_ANSWERED;

/// Rows of the offset index that are read at once.
const ROWS_AT_ONCE: usize = 4_096;
/// What an entry takes in the log beside its batch, bytes, about.
const ENTRY_BYTES: u64 = 64;

/// How large the log of a partition is, part by part, as its desk has counted it so far.
#[derive(Debug, Default)]
pub(super) struct LogMeasure {
    parts: Vec<LogPart>,
    /// Batches below it were counted.
    read_to: u64,
    /// All bytes that were counted ever.
    written_bytes: u64,
    /// The bytes of commands that were counted.
    commands: u64,
}

impl LogMeasure {
    /// Counts what was written since the last time. `part_bytes`: what a cut of the log frees at once. `commands`: bytes of the commands
    /// that this desk has proposed.
    ///
    /// # Errors
    /// The rows of the index cannot be read.
    pub async fn take(&mut self, desk: &Desk, part_bytes: u64, commands: &AtomicU64) -> Result<Input, RequestError> {
        let number = |offset: Offset| offset.get().unsigned_abs();
        let (start, end) = desk.with_state(|state| (number(state.log_start()), number(state.next_offset())));
        self.parts.retain(|part| part.end > start);
        self.read_to = self.read_to.max(start);
        while self.read_to < end {
            let key = |offset: u64| Bytes::copy_from_slice(&offset.to_be_bytes());
            let range = RowRange {
                table: &OFFSET_INDEX,
                from: key(self.read_to),
                to: Some(key(end)),
                limit: ROWS_AT_ONCE,
            };
            debug_assert_eq!(
                range.from[..],
                key_of(Offset(self.read_to as i64)),
                "the index has its keys so"
            );
            let rows = desk.driver.rows(range).await?;
            for (key, value) in &rows {
                let row = IndexEntry::decode(key, value).map_err(|error| desk.driver.damaged(error.to_string()))?;
                self.add(number(row.last_offset) + 1, u64::from(row.size_bytes), part_bytes);
            }
            if rows.len() < ROWS_AT_ONCE {
                break;
            }
        }
        let now = commands.load(Ordering::Relaxed);
        let written = now - std::mem::replace(&mut self.commands, now);
        self.written_bytes += written;
        if let Some(last) = self.parts.last_mut() {
            last.bytes += written;
        }
        Ok(Input::LogSizes {
            start,
            parts: self.parts.clone(),
            written_bytes: self.written_bytes,
        })
    }

    fn add(&mut self, end: u64, record_bytes: u64, part_bytes: u64) {
        let bytes = record_bytes + ENTRY_BYTES;
        match self.parts.last_mut().filter(|part| part.bytes < part_bytes) {
            Some(part) => {
                *part = LogPart {
                    end,
                    record_bytes: part.record_bytes + record_bytes,
                    bytes: part.bytes + bytes,
                };
            }
            None => self.parts.push(LogPart {
                end,
                record_bytes,
                bytes,
            }),
        }
        self.read_to = end;
        self.written_bytes += bytes;
    }
}

/// Appends messages again, and tells the engine if it does not come about. What it comes to is noted where it is applied.
pub(super) async fn carry(desk: Arc<Desk>, partition: Arc<Partition>, carry: Carry, bytes_max: u64) {
    let nothing = || desk.put(Input::Carried { moves: Vec::new() });
    let (batch, carry) = match build(&partition, carry, bytes_max).await {
        Ok(built) => built,
        Err(error) => {
            tracing::warn!(partition = %desk.hosted.name, %error, "messages cannot be carried forward");
            return nothing();
        }
    };
    desk.put(Input::CarryBuilt {
        bytes: batch.len() as u64,
    });
    let command = PartitionCommand::Carry { carry, batch };
    let mut proposal = match desk.submit(command).await {
        Ok(proposal) => proposal,
        Err(_) => return nothing(),
    };
    match proposal.applied(UNTIL_ANSWERED).await {
        Ok(applied) => {
            if let PartitionReply::CarryRefused(refused) = applied.reply {
                tracing::debug!(partition = %desk.hosted.name, ?refused, "messages were not carried forward");
            }
        }
        Err(error) if error.is_definite() => nothing(),
        // Whether the messages have moved is not known.
        Err(_) => desk.end(),
    }
}

/// The batch of messages, at most of so many bytes but of one message at least, and the head for those that are in it.
async fn build(partition: &Partition, carry: Carry, bytes_max: u64) -> Result<(Bytes, Carry), RequestError> {
    let offsets: Vec<u64> = carry.messages.offsets().collect();
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let (batch, count) = partition.messages_again(&offsets, bytes_max).await?;
    let Carry { term, mut marks, .. } = carry;
    marks.0.truncate(count);
    let messages: Runs = offsets[..count].iter().copied().collect();
    Ok((batch, Carry { term, messages, marks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_counted_by_parts_of_some_size() {
        let mut measure = LogMeasure::default();
        for end in 1..=10 {
            measure.add(end, 100, 400);
        }
        let ends: Vec<u64> = measure.parts.iter().map(|part| part.end).collect();
        assert_eq!(ends, [3, 6, 9, 10]);
        assert_eq!(measure.parts[0].record_bytes, 300);
        assert_eq!(measure.written_bytes, 10 * (100 + ENTRY_BYTES));
    }
}
