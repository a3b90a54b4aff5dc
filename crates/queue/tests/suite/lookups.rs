//! The rows of a [`World`](crate::world::World), as its leader looks them up.

use jangada_queue::engine::{Rows, RowsWanted};
use jangada_queue::tables::{MarkRow, RowKind, key_of};

use crate::world::World;

impl World {
    pub fn look_up(&self, wanted: &RowsWanted) -> Rows {
        let (from, until, limit) = match *wanted {
            RowsWanted::Batches { from, limit } => (
                key_of(RowKind::Batch, 0, from),
                key_of(RowKind::Batch, 0, u64::MAX),
                limit,
            ),
            RowsWanted::Timers { after, limit } => (
                key_of(RowKind::Timer, after.0, after.1 + 1),
                key_of(RowKind::Timer, u64::MAX, u64::MAX),
                limit,
            ),
            RowsWanted::Key { key, after, limit } => (
                key_of(RowKind::Key, key, after + 1),
                key_of(RowKind::Key, key, u64::MAX),
                limit,
            ),
            RowsWanted::Lane { lane, from, limit } => {
                let lane = u64::from(lane);
                (
                    key_of(RowKind::Lane, lane, from),
                    key_of(RowKind::Lane, lane, u64::MAX),
                    limit,
                )
            }
            RowsWanted::Origin { old } => (key_of(RowKind::Origin, old, 0), key_of(RowKind::Origin, old, 1), 1),
        };
        // Lists are short here, so that they have ends.
        let limit = limit.min(3);
        let mut rows = self.rows.range(from.to_vec()..until.to_vec());
        let read = rows.by_ref().take(limit);
        let read: Vec<MarkRow> = read
            .map(|(key, value)| MarkRow::decode(key, value).expect("a row"))
            .collect();
        Rows {
            rows: read,
            is_all: rows.next().is_none(),
        }
    }
}
