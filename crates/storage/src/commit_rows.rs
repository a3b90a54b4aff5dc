//! The number of the last commit, in each column family.
//!
//! Families are flushed one by one, and a file of the write-ahead log goes when all have flushed what it holds. Each commit
//! therefore leaves its number in each family: what a family has in its files tells up to which commit it needs no
//! write-ahead log. The row of `state`, with the hash, is the one that counts; it comes last in every batch, where
//! [`codec::last_commit`] finds it. The others look like rows of their families, under the node's group, so that earlier
//! builds can read them: a version, the number, and zeros up to the size that rows of the table have.

use jangada_types::table::KeyForm;
use jangada_types::{GroupId, Table};
use rocksdb::{DB, WriteBatch};

use crate::codec;
use crate::database::Families;
use crate::error::StoreError;
use crate::keys;
use crate::mark::CommitPoint;
use crate::store::StateKind;
use crate::tables::{LOG, STATE, Tables};

/// Where a table has the row.
fn key_of(table: &Table) -> Vec<u8> {
    match table.keys {
        _ if *table == STATE => keys::state(GroupId::NODE, StateKind::COMMIT, 0).to_vec(),
        KeyForm::Number => keys::key(GroupId::NODE, &[0; 8]),
        KeyForm::Bytes => keys::key(GroupId::NODE, b""),
    }
}

/// Checks the row if it is the one that a table has here: it is the store's own, and none that the table judges.
///
/// # Errors
/// It is damaged.
pub(crate) fn check(group: GroupId, table: &Table, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
    if group != GroupId::NODE || *table == STATE || key != key_of(table) {
        return Ok(false);
    }
    codec::decode_sequence(value).map(|_| true)
}

/// Ends a batch with the rows.
pub(crate) fn put(batch: &mut WriteBatch, tables: &Tables, families: &Families<'_>, point: CommitPoint) {
    let log = codec::encode_log_head(point.sequence);
    batch.put_cf(&families.log, keys::log(GroupId::NODE, 0), log);
    let mut value = Vec::new();
    for (table, family) in tables.declared().iter().zip(&families.tables) {
        codec::encode_sequence(&mut value, point.sequence, table.value_bytes);
        batch.put_cf(family, key_of(table), &value);
    }
    batch.put_cf(families.state(), key_of(&STATE), codec::encode_commit(point));
}

/// The last commit that a family has; `None` if it has no row, as before the first commit of a build that writes them.
fn sequence(db: &DB, tables: &Tables, family: &str) -> Result<Option<u64>, StoreError> {
    let table = tables.all().iter().find(|table| table.name == family);
    let key = match table {
        Some(table) => key_of(table),
        None => {
            assert_eq!(family, LOG, "a family of ours");
            keys::log(GroupId::NODE, 0).to_vec()
        }
    };
    let handle = db.cf_handle(family).expect("it was opened");
    match db.get_pinned_cf(&handle, key)? {
        // All begin alike: a version, and the number.
        Some(value) => codec::decode_sequence(&value).map(Some),
        None => Ok(None),
    }
}

/// The last commit that any of these families has; 0 if none has a row.
pub(crate) fn greatest(db: &DB, tables: &Tables, families: &[&str]) -> Result<u64, StoreError> {
    let mut greatest = 0;
    for family in families {
        greatest = greatest.max(sequence(db, tables, family)?.unwrap_or(0));
    }
    Ok(greatest)
}

/// Up to which commit all of these families have everything; 0 if one has no row.
pub(crate) fn least(db: &DB, tables: &Tables, families: &[&str]) -> Result<u64, StoreError> {
    let mut least = u64::MAX;
    for family in families {
        least = least.min(sequence(db, tables, family)?.unwrap_or(0));
    }
    Ok(if least == u64::MAX { 0 } else { least })
}
