//! Who was elected in which term.

use std::collections::BTreeMap;

use jangada_types::ReplicaId;

use super::rows::Vote;
use crate::roles::team::Finding;

/// The leaders of a group, as votes on disks name them.
#[derive(Default)]
pub(super) struct Leaders(BTreeMap<u64, (ReplicaId, String)>);

impl Leaders {
    /// A vote lies on the disk of `name`.
    pub fn note(&mut self, name: &str, vote: &Vote) -> Result<(), Finding> {
        if !vote.is_elected {
            return Ok(());
        }
        let known = self.0.entry(vote.term).or_insert_with(|| (vote.of, name.to_owned()));
        if known.0 == vote.of {
            return Ok(());
        }
        Err(format!(
            "term {} has two leaders: {} on the disk of {}, and {} on that of {name}",
            vote.term, known.0, known.1, vote.of
        ))
    }
}

/// A replica's vote takes the place of another one on its disk.
pub(super) fn check_follows(before: Option<&Vote>, vote: &Vote) -> Result<(), Finding> {
    match before {
        Some(before) if !vote.may_follow(before) => Err(format!("the vote goes back: {before}, and then {vote}")),
        _ => Ok(()),
    }
}
