//! What one disk has of one group, against what it had before and what the others have.

use std::ops::ControlFlow;

use jangada_storage::{Changed, GroupView, LogEntry, StateKind};

use super::group::Group;
use super::index::Index;
use super::rows::{self, Place, State, Vote};
use super::saved::Rows;
use super::votes::check_follows;
use crate::roles::team::Finding;

/// What was seen of a replica.
#[derive(Default)]
pub(super) struct Replica {
    vote: Option<Vote>,
    /// Committed entries below this index were held against those of the others.
    verified_next: u64,
    rows: Rows,
    index: Index,
}

/// The states that lie on the disk beside checkpoints.
struct Saved {
    snapshot: Option<State>,
    applied: Option<State>,
}

impl Replica {
    /// Looks at what has changed.
    pub fn look(
        &mut self,
        name: &str,
        group: &mut Group,
        view: &GroupView<'_>,
        changed: &Changed,
    ) -> Result<(), Finding> {
        if changed.deleted {
            *self = Self::default();
            group.is_deleted |= view.state(StateKind::REPLICA).is_none();
        }
        self.look_at_votes(name, group, view, changed)?;
        if let Some(from) = changed.log_from {
            self.verified_next = self.verified_next.min(from);
            look_at_log(name, group, view, from)?;
        }
        self.check_term(view)?;
        let saved = Saved::read(view)?;
        self.look_at_committed(group, view, &saved)?;
        saved.check(view)?;
        if changed.rows {
            self.rows.look(name, group, view)?;
            self.index.look(view, saved.applied.as_ref())?;
        }
        Ok(())
    }

    fn look_at_votes(
        &mut self,
        name: &str,
        group: &mut Group,
        view: &GroupView<'_>,
        changed: &Changed,
    ) -> Result<(), Finding> {
        for row in changed.votes.iter().chain(view.state(StateKind::VOTE)) {
            let vote = rows::vote(row)?;
            check_follows(self.vote.as_ref(), &vote)?;
            group.leaders.note(name, &vote)?;
            self.vote = Some(vote);
        }
        if view.state(StateKind::VOTE).is_none() && self.vote.is_some() {
            return Err("the vote is gone".to_owned());
        }
        Ok(())
    }

    /// Entries are taken only of a leader whose vote is durable here.
    fn check_term(&self, view: &GroupView<'_>) -> Result<(), Finding> {
        let voted = self.vote.map_or(0, |vote| vote.term);
        match view.bounds().last {
            Some(last) if last.term > voted => Err(format!(
                "the log ends with entry {} of term {}, and the vote is of term {voted}",
                last.index, last.term
            )),
            _ => Ok(()),
        }
    }

    /// What this disk itself says is committed is there, and is what it is elsewhere.
    fn look_at_committed(&mut self, group: &mut Group, view: &GroupView<'_>, saved: &Saved) -> Result<(), Finding> {
        let row = view.state(StateKind::COMMITTED);
        let row = row.map(|row| rows::committed(row)).transpose()?.flatten();
        let claims = [row, saved.snapshot_at(), saved.applied_at()];
        for place in claims.into_iter().flatten() {
            check_claim(view, place)?;
            group.entries.commit(place)?;
        }
        let Some(upto) = claims.into_iter().flatten().map(|place| place.index).max() else {
            return Ok(());
        };
        let mut judged = Ok(());
        view.each_entry(self.verified_next, &mut |entry| {
            if entry.index > upto || judged.is_err() {
                return ControlFlow::Break(());
            }
            let (term, index) = (entry.term, entry.index);
            judged = group.entries.commit(Place { term, index });
            ControlFlow::Continue(())
        });
        judged?;
        self.verified_next = self.verified_next.max(upto + 1);
        Ok(())
    }
}

/// Holds the log from an index on against those of other disks.
fn look_at_log(name: &str, group: &mut Group, view: &GroupView<'_>, from: u64) -> Result<(), Finding> {
    let mut before = from.checked_sub(1).and_then(|before| view.term_at(before)).unwrap_or(0);
    let mut judged = Ok(());
    view.each_entry(from, &mut |entry| {
        judged = check_order(before, entry).and_then(|()| group.entries.note(name, entry));
        before = entry.term;
        match judged {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    judged
}

/// Terms never fall along a log.
fn check_order(before: u64, entry: &LogEntry) -> Result<(), Finding> {
    match entry.term < before {
        true => Err(format!(
            "entry {} is of term {}, and the one before it of term {before}",
            entry.index, entry.term
        )),
        false => Ok(()),
    }
}

/// What is said to be committed is in the log, or was purged.
fn check_claim(view: &GroupView<'_>, place: Place) -> Result<(), Finding> {
    let bounds = view.bounds();
    if bounds.purged.is_some_and(|purged| purged.index > place.index) {
        return Ok(());
    }
    match view.term_at(place.index) {
        Some(term) if term == place.term => Ok(()),
        Some(term) => Err(format!(
            "entry {place} is said to be committed, and the log has one of term {term} there"
        )),
        None => Err(format!(
            "entry {place} is said to be committed, and the log ends at {:?}",
            bounds.last
        )),
    }
}

impl Saved {
    fn read(view: &GroupView<'_>) -> Result<Self, Finding> {
        let read = |kind| view.state(kind).map(rows::state).transpose();
        Ok(Self {
            snapshot: read(StateKind::SNAPSHOT)?,
            applied: read(StateKind::APPLIED)?,
        })
    }

    fn snapshot_at(&self) -> Option<Place> {
        self.snapshot.as_ref()?.at
    }

    fn applied_at(&self) -> Option<Place> {
        self.applied.as_ref()?.at
    }

    /// What is purged is covered by the snapshot.
    fn check(&self, view: &GroupView<'_>) -> Result<(), Finding> {
        let Some(purged) = view.bounds().purged else {
            return Ok(());
        };
        let covered = self.snapshot_at();
        if covered.is_some_and(|at| at.index >= purged.index) {
            return Ok(());
        }
        Err(format!(
            "the log is purged up to entry {}, and the snapshot covers {}",
            purged.index,
            covered.map_or_else(|| "nothing".to_owned(), |at| format!("entries up to {at}"))
        ))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// No store takes such an entry, so that it cannot be written by hand.
    #[test]
    fn terms_that_fall_along_a_log_are_found() {
        let entry = LogEntry {
            index: 4,
            term: 1,
            head: Bytes::new(),
            body: Bytes::new(),
        };
        assert_eq!(check_order(1, &entry), Ok(()));
        let finding = check_order(2, &entry).expect_err("it falls");
        assert_eq!(finding, "entry 4 is of term 1, and the one before it of term 2");
    }
}
