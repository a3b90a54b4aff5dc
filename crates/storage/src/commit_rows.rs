//! The number of the last commit, in each column family.
//!
//! Families are flushed one by one, and a file of the write-ahead log goes when all have flushed what it holds. Each commit
//! therefore leaves its number in each family: what a family has in its files tells up to which commit it needs no
//! write-ahead log. The row of `state`, with the hash, is the one that counts; it comes last in every batch, where
//! [`codec::last_commit`] finds it. The others look like rows of their families, under the node's group, so that earlier
//! builds can read them.

use std::sync::Arc;

use jangada_types::{GroupId, LeaderEpoch, Offset};
use rocksdb::{BoundColumnFamily, DB, WriteBatch};

use crate::codec;
use crate::database::{FAMILIES, INDEX, KEYS, LOG, STATE};
use crate::error::StoreError;
use crate::keys;
use crate::mark::CommitPoint;
use crate::store::{IndexEntry, StateKind};

/// Where a family has the row.
fn key_of(family: &str) -> Vec<u8> {
    match family {
        LOG => keys::log(GroupId::NODE, 0).to_vec(),
        INDEX => keys::index(GroupId::NODE, Offset(0)).to_vec(),
        KEYS => keys::key(GroupId::NODE, b""),
        STATE => keys::state(GroupId::NODE, StateKind::COMMIT, 0).to_vec(),
        _ => unreachable!("a family of ours"),
    }
}

fn as_offset(sequence: u64) -> Offset {
    Offset(i64::try_from(sequence).expect("fewer than 2^63 commits"))
}

/// Ends a batch with the rows.
pub(crate) fn put(batch: &mut WriteBatch, families: [&Arc<BoundColumnFamily<'_>>; 4], point: CommitPoint) {
    let [log, index, keys, state] = families;
    let sequence = as_offset(point.sequence);
    let row = IndexEntry {
        last_offset: Offset(0),
        base_offset: sequence,
        raft_index: 0,
        epoch: LeaderEpoch(0),
        max_timestamp_ms: 0,
        running_max_timestamp_ms: 0,
        size_bytes: 0,
    };
    batch.put_cf(log, key_of(LOG), codec::encode_log_head(point.sequence));
    batch.put_cf(index, key_of(INDEX), codec::encode_index(&row));
    batch.put_cf(keys, key_of(KEYS), codec::encode_key_offset(sequence));
    batch.put_cf(state, key_of(STATE), codec::encode_commit(point));
}

/// The last commit that a family has; `None` if it has no row, as before the first commit of a build that writes them.
fn sequence(db: &DB, family: &str) -> Result<Option<u64>, StoreError> {
    let handle = db.cf_handle(family).expect("it was opened");
    let Some(value) = db.get_pinned_cf(&handle, key_of(family))? else {
        return Ok(None);
    };
    let sequence = match family {
        LOG => codec::decode_log_term(&value)?,
        INDEX => codec::decode_index(0, &value)?.base_offset.get().unsigned_abs(),
        KEYS => codec::decode_key_offset(&value)?.get().unsigned_abs(),
        _ => codec::decode_commit(&value)?.sequence,
    };
    Ok(Some(sequence))
}

/// The last commit that any of these families has; 0 if none has a row.
pub(crate) fn greatest(db: &DB, families: &[&str]) -> Result<u64, StoreError> {
    let mut greatest = 0;
    for family in families {
        greatest = greatest.max(sequence(db, family)?.unwrap_or(0));
    }
    Ok(greatest)
}

/// Up to which commit all of these families have everything; 0 if one has no row.
pub(crate) fn least(db: &DB, families: &[&str]) -> Result<u64, StoreError> {
    let mut least = u64::MAX;
    for family in families {
        assert!(FAMILIES.contains(family), "a family of ours");
        least = least.min(sequence(db, family)?.unwrap_or(0));
    }
    Ok(if least == u64::MAX { 0 } else { least })
}
