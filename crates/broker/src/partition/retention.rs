//! Dropping old records: the leader decides where the log shall start and proposes it; every replica then purges as
//! far as its checkpoints allow.

use std::time::Duration;

use bytes::Bytes;
use jangada_storage::IndexEntry;
use jangada_types::{Offset, Reason};

use super::Partition;
use super::command::{PartitionCommand, PartitionReply};
use super::fetch::Unread;
use super::rows::{begins_at, follow};
use crate::error::RequestError;

/// How long the leader waits for the quorum.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Index rows that are read at once while counting what is dropped.
const ROWS_AT_ONCE: usize = 4096;
/// The log start may move between looking and applying; after so many tries somebody else is at it all the time.
const TRIES: usize = 5;

/// Where the log shall start.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// Exactly here.
    Offset(Offset),
    /// Before the first record at or after this time (milliseconds since the Unix epoch), and so that at most this
    /// many bytes stay.
    Retention {
        oldest_ms: Option<i64>,
        keep_bytes: Option<u64>,
    },
}

impl Partition {
    /// Drops the records below `before`; `None`: all that are there. Returns the new log start.
    pub async fn trim(&self, before: Option<Offset>) -> Result<Offset, RequestError> {
        self.leader_epoch()?;
        let high_watermark = self.latest_offset().await?;
        let to = before.unwrap_or(high_watermark);
        if to < Offset(0) || to > high_watermark {
            let message = format!(
                "partition {}: offset {to} is beyond the high watermark {high_watermark}; nothing was dropped",
                self.name
            );
            return Err(RequestError::new(Reason::OffsetOutOfRange, message)
                .with("offset", to)
                .with("high_watermark", high_watermark));
        }
        self.advance(Until::Offset(to)).await
    }

    /// Applies the topic's retention settings, if this replica leads.
    pub async fn enforce_retention(&self) -> Result<(), RequestError> {
        let config = self.config();
        if self.leader_epoch().is_err() || self.view.log_start() == self.view.high_watermark() {
            return Ok(());
        }
        let oldest_ms = config.retention_ms.map(|ms| {
            self.shared
                .clock
                .now_ms()
                .saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX))
        });
        let keep_bytes = config.retention_bytes.filter(|keep| self.view.retained_bytes() > *keep);
        if oldest_ms.is_none() && keep_bytes.is_none() {
            return Ok(());
        }
        self.advance(Until::Retention { oldest_ms, keep_bytes }).await.map(drop)
    }

    async fn advance(&self, until: Until) -> Result<Offset, RequestError> {
        for _ in 0..TRIES {
            let from = self.view.log_start();
            let (to, dropped_bytes) = self.look(from, until).await?;
            if to <= from {
                return Ok(from);
            }
            let command = PartitionCommand::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            };
            let applied = self
                .group
                .propose(command.encode(Bytes::new()), TIMEOUT)
                .await
                .map_err(|error| self.propose_error(error))?;
            match PartitionReply::decode(&applied.reply) {
                Some(PartitionReply::LogStart(offset)) => {
                    tracing::info!(partition = %self.name, from = %from, to = %offset, dropped_bytes, "log start advanced");
                    return Ok(offset);
                }
                Some(PartitionReply::LogStartMoved(_)) => {}
                _ => unreachable!("not the reply to a new log start"),
            }
        }
        let message = format!("partition {}: its log start kept moving; try again", self.name);
        Err(RequestError::new(Reason::PartitionBusy, message).retry_after(super::BUSY_RETRY))
    }

    /// Where the log would start, and how many bytes of batches lie before that. Reads the index only as far as
    /// records are dropped.
    async fn look(&self, from: Offset, until: Until) -> Result<(Offset, u64), RequestError> {
        let (store, group) = (self.shared.store.clone(), self.group.id());
        let (high_watermark, retained) = (self.view.high_watermark(), self.view.retained_bytes());
        let look = tokio::task::spawn_blocking(move || {
            let (mut to, mut dropped) = (from, 0);
            loop {
                let rows = store.index_at_or_after(group, to, ROWS_AT_ONCE)?;
                // What is missing would be dropped without being counted.
                if to < high_watermark {
                    begins_at(&rows, to)?;
                    follow(&rows)?;
                }
                let all = rows.len() < ROWS_AT_ONCE;
                for row in rows {
                    if row.last_offset >= high_watermark || !drops(&row, until, retained, dropped) {
                        return Ok(end(until, to, dropped));
                    }
                    to = Offset(row.last_offset.get() + 1);
                    dropped += u64::from(row.size_bytes);
                }
                if all {
                    return Ok::<_, Unread>(end(until, to, dropped));
                }
            }
        });
        let looked = look.await.map_err(|error| {
            RequestError::new(
                Reason::Internal,
                format!("partition {}: retention failed: {error}", self.name),
            )
        })?;
        match looked {
            Err(Unread::Gap(_)) if self.view.log_start() > from => Ok((from, 0)),
            looked => looked.map_err(|unread| self.unread(unread)),
        }
    }
}

/// Whether the whole batch goes.
fn drops(row: &IndexEntry, until: Until, retained: u64, dropped: u64) -> bool {
    match until {
        Until::Offset(offset) => row.last_offset < offset,
        Until::Retention { oldest_ms, keep_bytes } => {
            let too_old = oldest_ms.is_some_and(|oldest| row.max_timestamp_ms < oldest);
            // Like Kafka's segments: a batch goes only if what stays still has the bytes to keep.
            let too_much =
                keep_bytes.is_some_and(|keep| retained.saturating_sub(dropped + u64::from(row.size_bytes)) >= keep);
            too_old || too_much
        }
    }
}

/// An exact offset may lie inside the batch that stays.
fn end(until: Until, to: Offset, dropped: u64) -> (Offset, u64) {
    match until {
        Until::Offset(offset) => (offset.max(to), dropped),
        Until::Retention { .. } => (to, dropped),
    }
}
