//! Reads what this broker has at rest, group by group, at a bounded rate and on one thread of the blocking pool at a time.
//!
//! Damage that a piece meets is told by the store like that of any read; the group is left then. A piece that cannot be read for
//! another reason is tried again for a while; a round that had to leave such a group out has not ended, and begins anew. How far a
//! round is, and when the last one ended, is kept in the store, so that restarts do not begin it anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_replication::Registry;
use jangada_storage::{Durability, Op, ScrubCursor, StateKind, Store, StoreError};
use jangada_types::GroupId;
use tokio::time::Instant;

use crate::settings::RepairSettings;
use jangada_env::WallClock;

/// Bytes that are read at once.
const PIECE_BYTES: u64 = 256 * 1024;
/// The shortest rest after a piece, so that a round of many small groups does not take a whole processor.
const REST_MIN: Duration = Duration::from_millis(2);
/// How often an idle scrub looks whether the next round is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two tries of a piece that cannot be read, though nothing says that it is damaged.
const RETRY: Duration = Duration::from_secs(5);
/// How often such a piece is tried again.
const RETRIES: u32 = 12;
/// After a round that left something out, before the next one.
const REST_AFTER_GAPS: Duration = Duration::from_secs(600);
/// The version of the row that keeps the state of the scrub.
const VERSION: u8 = 1;

/// Where the scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// When the round began, milliseconds since 1970; 0: none is under way.
    began_ms: i64,
    /// When the last complete round began and ended; 0: there was none.
    last_began_ms: i64,
    last_ended_ms: i64,
    /// The first group that is not read yet.
    next: GroupId,
}

impl Progress {
    fn encode(self) -> Bytes {
        let mut row = BytesMut::with_capacity(33);
        row.put_u8(VERSION);
        row.put_i64(self.began_ms);
        row.put_i64(self.last_began_ms);
        row.put_i64(self.last_ended_ms);
        row.put_u64(self.next.get());
        row.freeze()
    }

    /// Reads the row. One that cannot be read begins the round anew, which costs work and nothing else.
    fn decode(mut row: &[u8]) -> Option<Self> {
        if row.len() != 33 || row.get_u8() != VERSION {
            return None;
        }
        Some(Self {
            began_ms: row.get_i64(),
            last_began_ms: row.get_i64(),
            last_ended_ms: row.get_i64(),
            next: GroupId(row.get_u64()),
        })
    }
}

/// What others may know of the scrub.
#[derive(Default)]
pub(crate) struct ScrubStatus {
    began_ms: AtomicI64,
    last_ended_ms: AtomicI64,
}

impl ScrubStatus {
    /// When the round began that is under way, milliseconds since 1970; 0: none is.
    pub fn began_ms(&self) -> i64 {
        self.began_ms.load(Ordering::Relaxed)
    }

    /// When the last complete round ended, milliseconds since 1970; 0: never.
    pub fn last_ended_ms(&self) -> i64 {
        self.last_ended_ms.load(Ordering::Relaxed)
    }
}

/// The task that scrubs the groups of this broker.
pub(crate) struct Scrubber {
    pub registry: Arc<Registry>,
    pub clock: Arc<dyn WallClock>,
    pub settings: RepairSettings,
    pub status: Arc<ScrubStatus>,
}

impl Scrubber {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let rate = self.settings.scrub_bytes_per_second;
        if rate == 0 {
            return;
        }
        if let Err(error) = self.rounds(rate).await {
            tracing::warn!(%error, "the scrub of what is on the disk has ended");
        }
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.registry.store()
    }

    async fn rounds(&self, rate: u64) -> Result<(), StoreError> {
        let mut progress = self.load().await?;
        loop {
            self.show(progress);
            let interval = i64::try_from(self.settings.scrub_interval_ms).unwrap_or(i64::MAX);
            let now = self.clock.now_ms();
            if progress.began_ms == 0 {
                // A clock that went back must not stop it for long.
                let since = now.saturating_sub(progress.last_began_ms);
                if progress.last_began_ms != 0 && (0..interval).contains(&since) {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                    continue;
                }
                progress.began_ms = now.max(1);
                progress.next = GroupId::METADATA;
            }
            self.show(progress);
            let left_out = self.round(&mut progress, rate).await;
            if left_out > 0 {
                tracing::warn!(
                    groups = left_out,
                    "the scrub could not read everything on the disk; it begins anew in {REST_AFTER_GAPS:?}"
                );
                progress.began_ms = 0;
                progress.next = GroupId::METADATA;
                self.save(progress);
                self.show(progress);
                tokio::time::sleep(REST_AFTER_GAPS).await;
                continue;
            }
            let ended_ms = self.clock.now_ms();
            tracing::info!(
                began_ms = progress.began_ms,
                ended_ms,
                "everything on the disk was read through"
            );
            progress = Progress {
                began_ms: 0,
                last_began_ms: progress.began_ms,
                last_ended_ms: ended_ms,
                next: GroupId::METADATA,
            };
            self.save(progress);
        }
    }

    /// Reads what is left of a round. Returns how many groups could not be read.
    async fn round(&self, progress: &mut Progress, rate: u64) -> usize {
        // The node's own rows; they are few.
        let mut left_out = usize::from(!self.group(GroupId::NODE, rate).await);
        while let Some(group) = self.first_group(progress.next) {
            left_out += usize::from(!self.group(group, rate).await);
            progress.next = GroupId(group.get() + 1);
            self.save(*progress);
        }
        left_out
    }

    /// The first group from this one on that is open here.
    fn first_group(&self, from: GroupId) -> Option<GroupId> {
        let groups = self.registry.groups();
        groups
            .iter()
            .map(jangada_replication::Group::id)
            .filter(|group| *group >= from)
            .min()
    }

    /// Reads a group. False: it could not be read, and nothing says why it should be damaged.
    async fn group(&self, group: GroupId, rate: u64) -> bool {
        let mut next = Some(ScrubCursor::default());
        let mut failures = 0;
        while let Some(cursor) = next.clone() {
            let began = Instant::now();
            let store = self.store().clone();
            let piece = self
                .registry
                .blocking()
                .run(move || store.scrub(group, cursor, PIECE_BYTES))
                .await;
            let piece = piece.unwrap_or_else(|error| Err(StoreError::Database(error.to_string())));
            match piece {
                Ok(piece) => {
                    let due = Duration::from_secs_f64(piece.bytes as f64 / rate as f64).max(REST_MIN);
                    tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
                    next = piece.next;
                    failures = 0;
                }
                // The store has told it; or the group was closed or deleted meanwhile.
                Err(StoreError::Damaged { .. } | StoreError::GroupNotOpen(_)) => return true,
                Err(error) if failures < RETRIES => {
                    if failures == 0 {
                        tracing::warn!(%group, %error, "the scrub cannot read this group; it is tried again");
                    }
                    failures += 1;
                    tokio::time::sleep(RETRY).await;
                }
                Err(_) => return false,
            }
        }
        true
    }

    async fn load(&self) -> Result<Progress, StoreError> {
        let store = self.store().clone();
        let read = self.registry.blocking().run(move || {
            store.open_group(GroupId::NODE)?;
            store.get_state(GroupId::NODE, StateKind::SCRUB, None)
        });
        let row = read.await.map_err(|error| StoreError::Database(error.to_string()))??;
        Ok(row.and_then(|row| Progress::decode(&row)).unwrap_or_default())
    }

    fn save(&self, progress: Progress) {
        let op = Op::PutState {
            kind: StateKind::SCRUB,
            suffix: None,
            value: progress.encode(),
        };
        self.store().write(GroupId::NODE, vec![op], Durability::Lazy, None);
    }

    fn show(&self, progress: Progress) {
        let status = &self.status;
        status.began_ms.store(progress.began_ms, Ordering::Relaxed);
        status.last_ended_ms.store(progress.last_ended_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_comes_back_as_it_was_written() {
        let progress = Progress {
            began_ms: 1,
            last_began_ms: 2,
            last_ended_ms: 3,
            next: GroupId(4),
        };
        let row = progress.encode();
        assert_eq!(row[..9], [1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Progress::decode(&row), Some(progress));
        assert_eq!(Progress::decode(&row[1..]), None);
    }
}
