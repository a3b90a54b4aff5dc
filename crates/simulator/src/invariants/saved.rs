//! The rows that states are saved in, and whether what a partition's state says of itself is in order.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_log::PartitionState;
use jangada_log::tables::OFFSET_INDEX;
use jangada_machine::Machine;
use jangada_storage::{GroupView, StateKind};

use super::group::Group;
use super::rows::{self, Body};
use crate::roles::team::Finding;

/// The rows of states that were looked at, by kind and suffix.
#[derive(Default)]
pub(super) struct Rows(BTreeMap<(StateKind, u64), Bytes>);

impl Rows {
    /// Looks at those that are new.
    pub fn look(&mut self, name: &str, group: &mut Group, view: &GroupView<'_>) -> Result<(), Finding> {
        let mut there = BTreeMap::new();
        for kind in [StateKind::SNAPSHOT, StateKind::APPLIED, StateKind::CHECKPOINT] {
            for (suffix, row) in view.states(kind) {
                there.insert((kind, suffix), row.clone());
                // The row that was there is the same piece of memory, or another one.
                let is_known = self.0.get(&(kind, suffix)).is_some_and(|known| is_same(known, row));
                if is_known {
                    continue;
                }
                let looked = look_at(name, group, view, (kind, suffix), row);
                looked.map_err(|finding| format!("{} {suffix}: {finding}", name_of(kind)))?;
            }
        }
        self.0 = there;
        Ok(())
    }
}

fn is_same(known: &Bytes, row: &Bytes) -> bool {
    known.as_ptr() == row.as_ptr() && known.len() == row.len()
}

fn name_of(kind: StateKind) -> &'static str {
    match kind {
        StateKind::SNAPSHOT => "the snapshot",
        StateKind::APPLIED => "the saved state",
        _ => "checkpoint",
    }
}

fn look_at(
    name: &str,
    group: &mut Group,
    view: &GroupView<'_>,
    (kind, suffix): (StateKind, u64),
    row: &Bytes,
) -> Result<(), Finding> {
    let (position, state) = match kind {
        StateKind::CHECKPOINT => {
            let (position, state) = rows::checkpoint(row)?;
            (Some(position), state)
        }
        _ => (None, rows::state(row)?),
    };
    let at = state.at.map(|at| at.index);
    if kind == StateKind::CHECKPOINT && at != Some(suffix) {
        return Err(format!("its state is as of entry {at:?}"));
    }
    if let Some(at) = state.membership_at {
        group.entries.note_membership(at, &state.configs);
    }
    group.states.note(name, &state)?;
    // Only a partition has such rows.
    match &state.body {
        Body::Row(bytes) if view.first_row(&OFFSET_INDEX).is_some() => check_partition(bytes, position),
        _ => Ok(()),
    }
}

/// The watermarks of a partition are in order, and its log begins where its queues still need it.
fn check_partition(state: &Bytes, position: Option<i64>) -> Result<(), Finding> {
    let state = PartitionState::restore(state).map_err(|error| error.to_string())?;
    let (start, stable, end) = (state.log_start(), state.last_stable_offset(), state.next_offset());
    if start > end || stable > end {
        return Err(format!(
            "the log starts at {start}, is stable up to {stable} and ends at {end}"
        ));
    }
    if let Some(kept) = state.kept_from().filter(|kept| start > *kept) {
        return Err(format!(
            "the log starts at {start}, and a queue needs it from {kept} on"
        ));
    }
    match position {
        Some(position) if position != end.get() => Err(format!("it stands at {position}, and its state at {end}")),
        _ => Ok(()),
    }
}
