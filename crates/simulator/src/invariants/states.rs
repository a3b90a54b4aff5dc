//! States on disks: as of the same entry they are the same.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::rows::{Body, Place, State};
use crate::roles::team::Finding;

/// A state as it was seen first.
struct Seen {
    membership_at: Option<Place>,
    body: (u64, u64),
    /// On whose disk it was seen.
    on: String,
}

/// The states of a group, by the entry as of which they are.
#[derive(Default)]
pub(super) struct States(BTreeMap<u64, Seen>);

impl States {
    /// A state lies on the disk of `name`.
    pub fn note(&mut self, name: &str, state: &State) -> Result<(), Finding> {
        let Some(at) = state.at else { return Ok(()) };
        let body = match &state.body {
            Body::Row(bytes) => (bytes.len() as u64, xxh3_64(bytes)),
            Body::Chunks(bytes, checksum) => (*bytes, *checksum),
        };
        let seen = self.0.entry(at.index).or_insert_with(|| Seen {
            membership_at: state.membership_at,
            body,
            on: name.to_owned(),
        });
        if (seen.membership_at, seen.body) == (state.membership_at, body) {
            return Ok(());
        }
        Err(format!(
            "the state as of entry {at} is another one than on the disk of {}: {} bytes and {}, membership as of {:?} and {:?}",
            seen.on, body.0, seen.body.0, state.membership_at, seen.membership_at
        ))
    }
}
