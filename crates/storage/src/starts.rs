//! The starts of a node's process, as its own store remembers them: what a node tells its peers of its past.
//!
//! ```text
//! commits   1 ......... 40 | 41 ......... 97 | 98 ....
//! starts    a              | b               | c
//! row       (a, 0)           (b, 40)           (c, 97)
//! ```
//!
//! Each start of the process has an id that is chosen at random, and the row says at which commit the database ended when
//! it began. So every commit belongs to one start. A directory that was put back lacks the starts that peers have seen, or
//! it ends one of them before a commit that they have seen, also when it has written more commits since than it lost.
//!
//! The row is one value under [`GroupId::NODE`](jangada_types::GroupId::NODE), written by the start that it adds:
//!
//! ```text
//! 1 | accepted loss u64 | count u8 | per start: id u64, ended at u64      (little-endian)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use jangada_types::GroupId;

use crate::error::StoreError;
use crate::store::{Durability, Op, StateKind, Store};

/// Starts that are kept. A peer that was away for longer than so many cannot be answered for by their ids, only by numbers.
pub const STARTS_KEPT: usize = 32;

const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 8 + 1;
const START_LEN: usize = 16;

/// One start of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Chosen at random.
    pub id: u64,
    /// The last commit of the database when it began.
    pub after: u64,
}

/// The starts that a directory knows of, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// At most [`STARTS_KEPT`].
    pub list: Vec<Start>,
    /// An operator has accepted that commits up to this one may be missing; 0: never.
    pub accepted_loss: u64,
}

/// What is told apart when somebody remembers a commit of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// The commit is there, or its loss was accepted.
    There,
    /// The start is known and ended at this commit, before the one that is remembered.
    Short(u64),
    /// The start is not known.
    Unknown,
}

impl Starts {
    /// Adds a start, and forgets the oldest beyond [`STARTS_KEPT`].
    pub fn begin(&mut self, start: Start) {
        self.list.push(start);
        let superfluous = self.list.len().saturating_sub(STARTS_KEPT);
        self.list.drain(..superfluous);
    }

    /// Whether a commit of a start is in this past, which goes on to `last`.
    pub fn past(&self, start: u64, commit: u64, last: u64) -> Past {
        if commit <= self.accepted_loss {
            return Past::There;
        }
        let Some(at) = self.list.iter().position(|known| known.id == start) else {
            // From before all that are kept: only the number is left to judge by.
            let is_old =
                self.list.len() == STARTS_KEPT && self.list.first().is_some_and(|oldest| commit <= oldest.after);
            return if is_old { Past::There } else { Past::Unknown };
        };
        let end = self.list.get(at + 1).map_or(last, |next| next.after);
        if commit <= end { Past::There } else { Past::Short(end) }
    }

    /// Whether the loss was accepted between the last two starts: that is a commit, whose number is above those that are lost.
    pub fn have_just_lost(&self) -> bool {
        let before = self.list.iter().rev().nth(1);
        self.accepted_loss > 0 && before.is_none_or(|before| before.after <= self.accepted_loss)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_LEN + self.list.len() * START_LEN);
        out.put_u8(VERSION);
        out.put_u64_le(self.accepted_loss);
        out.put_u8(u8::try_from(self.list.len()).expect("at most STARTS_KEPT"));
        for start in &self.list {
            out.put_u64_le(start.id);
            out.put_u64_le(start.after);
        }
        out.freeze()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Corrupt("the row of starts is damaged".to_owned());
        let number = |at: usize| -> Option<u64> { Some(u64::from_le_bytes(value.get(at..at + 8)?.try_into().ok()?)) };
        match value.first() {
            Some(&VERSION) => {}
            Some(version) => {
                return Err(StoreError::Corrupt(format!(
                    "the row of starts has version {version}, known is {VERSION}"
                )));
            }
            None => return Err(damaged()),
        }
        let count = usize::from(*value.get(HEAD_LEN - 1).ok_or_else(damaged)?);
        if count > STARTS_KEPT || value.len() != HEAD_LEN + count * START_LEN {
            return Err(damaged());
        }
        let start = |index: usize| {
            let at = HEAD_LEN + index * START_LEN;
            Some(Start {
                id: number(at)?,
                after: number(at + 8)?,
            })
        };
        let list: Option<Vec<Start>> = (0..count).map(start).collect();
        Ok(Self {
            list: list.ok_or_else(damaged)?,
            accepted_loss: number(1).ok_or_else(damaged)?,
        })
    }
}

/// The starts that a store knows of. Blocks.
pub(crate) fn load(store: &impl Store) -> Result<Starts, StoreError> {
    store.open_group(GroupId::NODE)?;
    let row = store.get_state(GroupId::NODE, StateKind::STARTS, None)?;
    row.map_or_else(|| Ok(Starts::default()), |row| Starts::decode(&row))
}

/// Writes the starts, and returns when they are durable. Blocks.
pub(crate) fn save(store: &impl Store, starts: &Starts) -> Result<(), StoreError> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    let row = Op::PutState {
        kind: StateKind::STARTS,
        suffix: None,
        value: starts.encode(),
    };
    store.write(GroupId::NODE, vec![row], Durability::Synced, Some(done));
    receiver.recv().map_err(|_| StoreError::ShuttingDown)?
}

/// Adds a start to those that a store knows of, and gives them all. Blocks.
pub(crate) fn begin(store: &impl Store, start: Start) -> Result<Starts, StoreError> {
    let mut starts = load(store)?;
    starts.begin(start);
    save(store, &starts)?;
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(list: &[(u64, u64)]) -> Starts {
        Starts {
            list: list.iter().map(|&(id, after)| Start { id, after }).collect(),
            accepted_loss: 0,
        }
    }

    #[test]
    fn the_row_keeps_its_bytes() {
        let row = Starts {
            accepted_loss: 5,
            ..starts(&[(7, 0), (8, 40)])
        };
        let bytes = row.encode();
        let numbers = [5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes[..9], [&[1][..], &numbers].concat());
        assert_eq!(bytes[9..18], [2, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Starts::decode(&bytes).unwrap(), row);
        for cut in 0..bytes.len() {
            assert!(Starts::decode(&bytes[..cut]).is_err(), "{cut} bytes");
        }
        let mut later = bytes.to_vec();
        later[0] = 2;
        assert!(Starts::decode(&later).is_err());
    }

    #[test]
    fn a_commit_belongs_to_one_start() {
        let known = starts(&[(7, 0), (8, 40), (9, 97)]);
        assert_eq!(known.past(7, 40, 120), Past::There);
        assert_eq!(known.past(7, 41, 120), Past::Short(40));
        assert_eq!(known.past(8, 97, 120), Past::There);
        assert_eq!(known.past(9, 120, 120), Past::There);
        assert_eq!(known.past(9, 121, 120), Past::Short(120));
        assert_eq!(known.past(10, 3, 120), Past::Unknown, "however far it went on");
    }

    #[test]
    fn an_accepted_loss_excuses_what_came_before_it_only() {
        let mut known = Starts {
            accepted_loss: 50,
            ..starts(&[(7, 0), (9, 51)])
        };
        assert_eq!(known.past(8, 50, 60), Past::There);
        assert_eq!(known.past(8, 51, 60), Past::Unknown);
        assert_eq!(known.past(9, 61, 60), Past::Short(60));
        assert!(known.have_just_lost());
        known.begin(Start { id: 11, after: 70 });
        assert!(!known.have_just_lost(), "it was back once");
        assert!(!starts(&[(7, 0), (9, 51)]).have_just_lost());
    }

    #[test]
    fn a_start_that_is_no_more_kept_is_judged_by_its_number() {
        let mut known = Starts::default();
        for number in 0..100 {
            known.begin(Start {
                id: 1000 + number,
                after: 10 * number,
            });
        }
        assert_eq!(known.list.len(), STARTS_KEPT);
        let oldest = known.list[0];
        assert_eq!(known.past(1, oldest.after, 1000), Past::There);
        assert_eq!(known.past(1, oldest.after + 1, 1000), Past::Unknown);
    }
}
