//! Admission on a topic with an index of keys: which keys a batch has, and what the last offset of a key is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use jangada_log::tables::key_rows::{KEY_INDEX, decode_offset};
use jangada_log::{Expectation, KeyFinding, NO_OFFSET, PartitionCommand, PartitionReply, PartitionState};
use jangada_replication::{Applied, Group, ProposeError};
use jangada_types::batch::Records;
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, INDEXED_KEY_BYTES_MAX};
use jangada_types::{BatchHeader, Codec, Offset, Reason};
use tokio::sync::oneshot;

use super::Partition;
use super::inflight::BUSY_RETRY;
use super::key_index::KeyIndex;
use super::key_locks::{Claim, KeyLocks, Keys, KeysBuilder, UnderWay};
use super::room::Room;
use super::undecided_keys::Behind;
use crate::error::RequestError;
use crate::pool::SMALL_BYTES;
use crate::replica::LEADER_RETRY;
use crate::replica::{InflightProposal, UNTIL_ANSWERED};

/// How long a batch waits for others with its key, and for the index. The batches behind it in its stream wait as long.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The keys of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BatchKeys {
    all: Keys,
    /// The key that all records have; none if they have different ones, or one has none.
    only: Option<Bytes>,
}

impl BatchKeys {
    /// Decodes a batch whose header is valid. May take a second.
    pub fn of(batch: &Bytes, locks: &KeyLocks) -> Result<Self, RequestError> {
        let mut all = KeysBuilder::default();
        let mut only: Option<Option<Bytes>> = None;
        let mut mixed = false;
        for (place, record) in Records::new(batch, DECOMPRESSED_BYTES_MAX)?.enumerate() {
            let key = record?.key;
            if let Some(key) = &key {
                if key.len() > INDEXED_KEY_BYTES_MAX {
                    let message = format!(
                        "record {place} of the batch has a key of {} bytes: on a topic with key.index.enable at most \
                         {INDEXED_KEY_BYTES_MAX}",
                        key.len()
                    );
                    return Err(RequestError::new(Reason::InvalidBatch, message).with("limit", INDEXED_KEY_BYTES_MAX));
                }
                all.add(locks.hash(key));
            }
            mixed |= only.as_ref().is_some_and(|first| *first != key);
            only.get_or_insert(key);
        }
        Ok(Self {
            all: all.build(),
            // A copy: the slice would keep the whole batch as it was unpacked.
            only: only
                .flatten()
                .filter(|_| !mixed)
                .map(|key| Bytes::copy_from_slice(&key)),
        })
    }
}

/// A place among the batches with the same keys.
pub(super) enum KeyGuard {
    UnderWay(UnderWay),
    Claim(Claim),
}

/// What became of a batch's command.
type Outcome = Result<Applied<PartitionReply>, ProposeError>;

/// A batch's command on its way through the quorum. It holds its room until Raft lets go of it.
pub(super) enum Pending {
    InflightProposal(InflightProposal<PartitionReply, Room>),
    /// A task waits for it, which frees its keys then.
    Watched(oneshot::Receiver<Outcome>),
}

impl Pending {
    /// Proposes a command that has its turn, and returns when it has its place in the log's order. A task of its own does it, so that a
    /// caller who goes away in the middle does not free the keys of a batch that is on its way.
    pub async fn propose(
        group: Group,
        command: PartitionCommand,
        guard: KeyGuard,
        room: Room,
    ) -> Result<Self, ProposeError> {
        let (submitted, in_order) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let proposal = group.submit::<PartitionState>(command).await;
            let under_way = match guard {
                KeyGuard::UnderWay(under_way) => under_way,
                KeyGuard::Claim(claim) => claim.proposed(),
            };
            // The caller may have gone, here and below.
            let mut proposal = match proposal {
                Ok(proposal) => proposal,
                Err(error) => return drop(submitted.send(Err(error))),
            };
            let _ = submitted.send(Ok(()));
            // Without end: the caller's giving up does not tell that the batch will never be applied.
            let applied = proposal.applied(UNTIL_ANSWERED).await;
            drop((under_way, room));
            let _ = answer.send(applied);
        });
        in_order.await.unwrap_or_else(|_| Err(dropped()))?;
        Ok(Self::Watched(answered))
    }

    pub async fn applied(self, timeout: Duration) -> Outcome {
        match self {
            Self::InflightProposal(proposed) => proposed.applied(timeout).await,
            Self::Watched(answered) => match tokio::time::timeout(timeout, answered).await {
                Err(_) => Err(ProposeError::Timeout),
                Ok(Err(_)) => Err(dropped()),
                Ok(Ok(applied)) => applied,
            },
        }
    }
}

fn dropped() -> ProposeError {
    ProposeError::Stopped("it was dropped".into())
}

impl Partition {
    /// The keys of a batch. It is not unpacked on a worker of the runtime, where the heartbeats of all groups run.
    async fn keys_of(&self, index: &KeyIndex, batch: &Bytes) -> Result<BatchKeys, RequestError> {
        let is_packed = BatchHeader::parse(batch).map_or(true, |header| header.attributes.codec() != Ok(Codec::None));
        let keys = if batch.len() <= SMALL_BYTES && !is_packed {
            BatchKeys::of(batch, &index.locks)
        } else {
            let (batch, locks) = (batch.clone(), index.locks.clone());
            self.shared.compute.run(move || BatchKeys::of(&batch, &locks)).await?
        };
        keys.map_err(|error| self.refuse(error))
    }

    /// Waits for the batch's turn; for a conditional one also finds its key's last offset. The room is the batch's, and
    /// then also that of its keys.
    pub(super) async fn lock_keys(
        &self,
        index: &KeyIndex,
        batch: &Bytes,
        expected: Expectation,
        room: Room,
    ) -> Result<(KeyGuard, Option<KeyFinding>, Room), RequestError> {
        let keys = self.keys_of(index, batch).await?;
        let room = self.fit(room, batch.len() + keys.all.bytes())?;
        let busy = |_| {
            let message = format!(
                "partition {}: other batches with the same key wait for their quorum",
                self.hosted.name
            );
            RequestError::new(Reason::PartitionBusy, message).retry_after(BUSY_RETRY)
        };
        let Some(expected) = expected.key_offset else {
            let guard = tokio::time::timeout(TIMEOUT, index.locks.write(keys.all))
                .await
                .map_err(busy)?;
            return Ok((KeyGuard::UnderWay(guard), None, room));
        };
        let Some(key) = keys.only else {
            let message = format!(
                "partition {}: expected_key_offset needs a batch whose records all have one and the same key",
                self.hosted.name
            );
            return Err(RequestError::new(Reason::InvalidRequest, message));
        };
        let claim = tokio::time::timeout(TIMEOUT, index.locks.claim(index.locks.hash(&key)))
            .await
            .map_err(busy)?;
        let finding = self.find_key(index, key, expected).await?;
        Ok((KeyGuard::Claim(claim), Some(finding), room))
    }

    /// The last offset of a key that is claimed.
    async fn find_key(&self, index: &KeyIndex, key: Bytes, expected: Offset) -> Result<KeyFinding, RequestError> {
        // In this order: a ready leader has applied what was written in earlier terms, and what was written in this one
        // was proposed here and is through.
        let status = self.hosted.group.status();
        if !status.ready {
            self.hosted.leader_epoch()?;
            return Err(self.hosted.not_leader());
        }
        let end = self.view.high_watermark();
        match tokio::time::timeout(TIMEOUT, index.reaches(end)).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(self.index_not_ready()),
        }
        let found = match index.behind(&key) {
            Behind::Record(offset) => Some(offset),
            Behind::Nothing => self.indexed(key).await?,
            Behind::Undecided => {
                let message = format!(
                    "partition {}: a transaction that is open has written the key, or lies behind one that is",
                    self.hosted.name
                );
                return Err(RequestError::new(Reason::PartitionBusy, message).retry_after(BUSY_RETRY));
            }
        };
        let found = found.filter(|offset| *offset >= self.view.log_start());
        Ok(KeyFinding {
            expected,
            found: found.unwrap_or(NO_OFFSET),
            term: status.term,
        })
    }

    /// The offset that the index has for a key.
    async fn indexed(&self, key: Bytes) -> Result<Option<Offset>, RequestError> {
        let (store, group) = (self.shared.store.clone(), self.hosted.group.id());
        let read = move || jangada_storage::read_row(&*store, group, &KEY_INDEX, &key, decode_offset);
        let read = self.shared.read_pool.run(read).await?;
        read.map_err(|error| self.read_failed(&error.to_string()))
    }

    /// Waits until every batch that was admitted before the index was switched on is applied: their keys are not in the locks.
    pub(super) async fn settle_keys(&self, index: &Arc<KeyIndex>) -> Result<(), RequestError> {
        self.hosted.leader_epoch()?;
        self.key_index.pass().await;
        let barrier = PartitionCommand::barrier(self.view.log_start());
        match self.hosted.group.propose::<PartitionState>(barrier, TIMEOUT).await {
            Ok(_) => index.barrier_applied.store(true, Ordering::Release),
            Err(ProposeError::NotLeader(_)) => return Err(self.hosted.not_leader()),
            Err(_) => return Err(self.index_not_ready()),
        }
        Ok(())
    }

    pub(super) fn no_key_index(&self) -> RequestError {
        let message = format!(
            "partition {}: the topic keeps no index of keys; set key.index.enable=true to expect offsets of keys",
            self.hosted.name
        );
        RequestError::new(Reason::NoKeyIndex, message)
    }

    fn index_not_ready(&self) -> RequestError {
        let message = format!("partition {}: the index of keys is being built", self.hosted.name);
        RequestError::new(Reason::NotReady, message).retry_after(LEADER_RETRY)
    }

    fn read_failed(&self, cause: &str) -> RequestError {
        let message = format!(
            "partition {}: reading the index of keys failed: {cause}",
            self.hosted.name
        );
        RequestError::new(Reason::Internal, message)
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::{BatchBuilder, Codec};

    use super::*;

    fn keys(of: &[Option<&[u8]>], codec: Codec) -> Result<BatchKeys, RequestError> {
        let mut builder = BatchBuilder::new(codec);
        for key in of {
            builder.append(0, *key, None, []).expect("small");
        }
        BatchKeys::of(&builder.build(), &KeyLocks::default())
    }

    #[test]
    fn a_batch_has_one_key_only_if_all_records_have_it() {
        for codec in [Codec::None, Codec::Zstd] {
            let only = |of: &[Option<&[u8]>]| keys(of, codec).expect("decodes").only;
            assert_eq!(only(&[Some(b"a"), Some(b"a")]).as_deref(), Some(&b"a"[..]));
            assert_eq!(only(&[Some(b"")]).as_deref(), Some(&b""[..]));
            assert_eq!(only(&[Some(b"a"), Some(b"b")]), None);
            assert_eq!(only(&[Some(b"a"), None]), None);
            assert_eq!(only(&[None, Some(b"a")]), None);
            assert_eq!(only(&[None, None]), None);
        }
    }

    #[test]
    fn each_key_counts_once_and_is_bounded() {
        let many = keys(&[Some(b"a"), Some(b"b"), Some(b"a"), None], Codec::Lz4).expect("decodes");
        assert!(matches!(many.all, Keys::Listed(keys) if keys.len() == 2));
        let long = vec![b'k'; INDEXED_KEY_BYTES_MAX + 1];
        assert!(keys(&[Some(&long[1..])], Codec::None).is_ok());
        let error = keys(&[Some(b"a"), Some(&long)], Codec::None).expect_err("too long");
        assert_eq!(error.reason, Reason::InvalidBatch);
        assert!(
            error.message.contains("record 1") && error.message.contains("1025"),
            "{error}"
        );
    }
}
