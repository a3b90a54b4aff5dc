//! The offset index of a partition: its rows follow one another, and are about entries that are in the log.

use bytes::Bytes;
use jangada_log::tables::{OFFSET_INDEX, offset_index};
use jangada_log::{IndexEntry, PartitionState};
use jangada_machine::Machine;
use jangada_storage::GroupView;

use super::rows::{Body, State};
use crate::roles::team::Finding;

/// What was seen of an index.
#[derive(Default)]
pub(super) struct Index {
    /// The last row that was looked at.
    last: Option<IndexEntry>,
}

impl Index {
    /// Looks at the first row, and at those behind the last one that was looked at.
    pub fn look(&mut self, view: &GroupView<'_>, applied: Option<&State>) -> Result<(), Finding> {
        let Some((key, value)) = view.first_row(&OFFSET_INDEX) else {
            self.last = None;
            return Ok(());
        };
        check_entry(view, &decode((key, value))?)?;
        let from = self.last.map(|last| offset_index::key_of(last.last_offset));
        let found = view.rows(&OFFSET_INDEX, from.as_ref().map_or(&[], |key| &key[..]));
        let rows: Vec<IndexEntry> = found.into_iter().map(decode).collect::<Result<_, Finding>>()?;
        offset_index::follow(&rows).map_err(|gap| format!("the offset index: {}", gap.0))?;
        for row in &rows {
            check_entry(view, row)?;
        }
        if let Some(last) = rows.last() {
            check_end(last, applied)?;
            self.last = Some(*last);
        } else {
            // They were cut off from behind: nothing is known of what comes.
            self.last = None;
        }
        Ok(())
    }
}

fn decode((key, value): (&Bytes, &Bytes)) -> Result<IndexEntry, Finding> {
    IndexEntry::decode(key, value).map_err(|error| format!("the offset index: {error}"))
}

/// A row is about an entry that the log has.
fn check_entry(view: &GroupView<'_>, row: &IndexEntry) -> Result<(), Finding> {
    let (index, term) = (row.raft_index, u64::from(row.epoch.get()));
    let begin = view.bounds().first_index();
    let found = view.term_at(index);
    if index >= begin && found == Some(term) {
        return Ok(());
    }
    Err(format!(
        "the row of offset {} is about entry {index} of term {term}; the log begins at {begin} and has there {found:?}",
        row.last_offset
    ))
}

/// The rows reach at least as far as the state that is saved.
fn check_end(last: &IndexEntry, applied: Option<&State>) -> Result<(), Finding> {
    let Some(Body::Row(bytes)) = applied.map(|state| &state.body) else {
        return Ok(());
    };
    let state = PartitionState::restore(bytes).map_err(|error| error.to_string())?;
    let end = state.next_offset().get();
    if state.log_start().get() == end || last.last_offset.get() + 1 >= end {
        return Ok(());
    }
    Err(format!(
        "the offset index ends at {}, and the saved state at {end}",
        last.last_offset
    ))
}
