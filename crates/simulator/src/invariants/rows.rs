//! The rows of Raft's own state as they lie on a disk, read without the code that wrote them: an oracle that shares a decoder with what it
//! judges shares its mistakes. Numbers are big-endian, the first byte is the version.
//!
//! ```text
//! vote        1 | term u64 | broker u32 | incarnation u32 | committed u8
//! committed   1 | log id
//! membership  1 | configs u8 | per config: count u16, replicas | count u16, all replicas
//! state       1 | last applied, a log id | the membership's log id | length u32, membership | state
//! state       2 | the same | generation u32 | the state's chunks | the rows' chunks    (both: count u32, bytes u64, checksum u64)
//! checkpoint  1 | position i64 | state
//! log id      present u8 | term u64 | index u64
//! ```

use std::collections::BTreeSet;
use std::fmt;

use bytes::{Buf, Bytes};
use jangada_types::{BrokerId, Incarnation, ReplicaId};

use crate::roles::team::Finding;

const VERSION: u8 = 1;
const VERSION_CHUNKED: u8 = 2;
/// What the head of an entry begins with that has a membership.
const MEMBERSHIP_HEAD: [u8; 2] = [1, 2];

/// The place of an entry: its term and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub term: u64,
    pub index: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {})", self.index, self.term)
    }
}

/// Whom a replica follows, or wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    pub term: u64,
    pub of: ReplicaId,
    /// A majority has elected it.
    pub is_elected: bool,
}

impl Vote {
    /// Whether a replica may have this vote after that one.
    pub fn may_follow(&self, before: &Self) -> bool {
        if self.term != before.term {
            return self.term > before.term;
        }
        match (before.is_elected, self.is_elected) {
            (true, false) => false,
            (false, true) => true,
            (true, true) | (false, false) => self.of == before.of,
        }
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = if self.is_elected { "elected" } else { "a candidate" };
        write!(f, "{} is {is} in term {}", self.of, self.term)
    }
}

/// The sets of replicas of which a majority each is needed.
pub(super) type Configs = Vec<BTreeSet<ReplicaId>>;

/// A state as of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The last entry that it covers.
    pub at: Option<Place>,
    pub membership_at: Option<Place>,
    pub configs: Configs,
    pub body: Body,
}

/// The state machine's own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Row(Bytes),
    /// They lie in chunks, and have this length and this checksum.
    Chunks(u64, u64),
}

/// Reads a row from its front.
struct Row<'a> {
    name: &'static str,
    rest: &'a [u8],
}

impl<'a> Row<'a> {
    fn open(name: &'static str, row: &'a [u8]) -> Result<(Self, u8), Finding> {
        let (version, rest) = row.split_first().ok_or_else(|| format!("{name} is empty"))?;
        Ok((Self { name, rest }, *version))
    }

    /// Of the only version that there is.
    fn of(name: &'static str, row: &'a [u8]) -> Result<Self, Finding> {
        match Self::open(name, row)? {
            (row, VERSION) => Ok(row),
            (_, version) => Err(format!("{name} has version {version}")),
        }
    }

    fn need(&self, bytes: usize) -> Result<(), Finding> {
        match self.rest.len() >= bytes {
            true => Ok(()),
            false => Err(format!("{} ends early", self.name)),
        }
    }

    fn u8(&mut self) -> Result<u8, Finding> {
        self.need(1)?;
        Ok(self.rest.get_u8())
    }

    fn u16(&mut self) -> Result<u16, Finding> {
        self.need(2)?;
        Ok(self.rest.get_u16())
    }

    fn u32(&mut self) -> Result<u32, Finding> {
        self.need(4)?;
        Ok(self.rest.get_u32())
    }

    fn u64(&mut self) -> Result<u64, Finding> {
        self.need(8)?;
        Ok(self.rest.get_u64())
    }

    fn place(&mut self) -> Result<Option<Place>, Finding> {
        let is_there = self.u8()? != 0;
        let (term, index) = (self.u64()?, self.u64()?);
        Ok(is_there.then_some(Place { term, index }))
    }

    fn replica(&mut self) -> Result<ReplicaId, Finding> {
        let (broker, incarnation) = (BrokerId::from(self.u32()?), Incarnation::from(self.u32()?));
        Ok(ReplicaId { broker, incarnation })
    }

    fn replicas(&mut self) -> Result<BTreeSet<ReplicaId>, Finding> {
        let count = self.u16()?;
        (0..count).map(|_| self.replica()).collect()
    }
}

/// Reads a vote.
pub(super) fn vote(row: &[u8]) -> Result<Vote, Finding> {
    let mut row = Row::of("the vote", row)?;
    Ok(Vote {
        term: row.u64()?,
        of: row.replica()?,
        is_elected: row.u8()? != 0,
    })
}

/// Reads which entry was committed last.
pub(super) fn committed(row: &[u8]) -> Result<Option<Place>, Finding> {
    Row::of("the committed log id", row)?.place()
}

/// Reads a membership.
pub(super) fn membership(row: &[u8]) -> Result<Configs, Finding> {
    let mut row = Row::of("a membership", row)?;
    let configs = row.u8()?;
    (0..configs).map(|_| row.replicas()).collect()
}

/// The membership that an entry has, if it has one.
pub(super) fn membership_of(head: &[u8], body: &[u8]) -> Option<Result<Configs, Finding>> {
    head.starts_with(&MEMBERSHIP_HEAD).then(|| membership(body))
}

/// Reads a saved state or a snapshot.
pub(super) fn state(bytes: &Bytes) -> Result<State, Finding> {
    let (mut row, version) = Row::open("a state", bytes)?;
    let (at, membership_at) = (row.place()?, row.place()?);
    let len = row.u32()? as usize;
    row.need(len)?;
    let configs = membership(&row.rest[..len])?;
    row.rest.advance(len);
    let body = match version {
        VERSION => Body::Row(bytes.slice_ref(row.rest)),
        VERSION_CHUNKED => {
            let (_generation, _chunks) = (row.u32()?, row.u32()?);
            Body::Chunks(row.u64()?, row.u64()?)
        }
        version => return Err(format!("a state has version {version}")),
    };
    Ok(State {
        at,
        membership_at,
        configs,
        body,
    })
}

/// Reads a checkpoint: the offset that it stands at, and the state.
pub(super) fn checkpoint(bytes: &Bytes) -> Result<(i64, State), Finding> {
    let mut row = Row::of("a checkpoint", bytes)?;
    let position = row.u64()?.cast_signed();
    let state = state(&bytes.slice_ref(row.rest))?;
    Ok((position, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(broker: u32) -> ReplicaId {
        ReplicaId {
            broker: BrokerId::from(broker),
            incarnation: Incarnation::from(1),
        }
    }

    /// The bytes that the tests of the crate `replication` pin.
    #[test]
    fn rows_as_they_are_written_can_be_read() {
        let read = vote(&[1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 1, 1]).unwrap();
        let expected = Vote {
            term: 5,
            of: replica(2),
            is_elected: true,
        };
        assert_eq!(read, expected);
        let read = committed(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]).unwrap();
        assert_eq!(read, Some(Place { term: 2, index: 3 }));
        let two = [0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1];
        let row = [&[1, 1][..], &two, &two].concat();
        assert_eq!(membership(&row).unwrap(), [[replica(1), replica(2)].into()]);
        assert!(membership_of(&[1, 1, 1], &row).is_none());
        assert_eq!(membership_of(&[1, 2], &row).unwrap().unwrap().len(), 1);
    }

    #[test]
    fn states_and_checkpoints_can_be_read() {
        let id = [1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5];
        let head = |version| [&[version][..], &id, &[0; 17], &[0, 0, 0, 4, 1, 0, 0, 0]].concat();
        let whole = [&head(1)[..], b"state"].concat();
        let read = state(&Bytes::from(whole.clone())).unwrap();
        assert_eq!(read.at, Some(Place { term: 4, index: 5 }));
        assert_eq!(read.body, Body::Row(Bytes::from_static(b"state")));
        let chunks = [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9];
        let chunked = [&head(2)[..], &[0, 0, 0, 7], &chunks, &[0; 20]].concat();
        assert_eq!(state(&Bytes::from(chunked)).unwrap().body, Body::Chunks(0x102, 9));
        let row = [&[1, 0, 0, 0, 0, 0, 0, 0, 9][..], &whole].concat();
        assert_eq!(checkpoint(&Bytes::from(row)).unwrap(), (9, read));
        assert!(state(&Bytes::from(head(3))).is_err() && state(&Bytes::new()).is_err());
    }

    #[test]
    fn a_vote_follows_another_as_raft_has_it() {
        let of = |term, broker, is_elected| Vote {
            term,
            of: replica(broker),
            is_elected,
        };
        assert!(of(3, 1, false).may_follow(&of(2, 2, true)));
        assert!(of(2, 1, true).may_follow(&of(2, 2, false)), "it hears who was elected");
        assert!(!of(2, 1, false).may_follow(&of(2, 2, false)), "it votes twice");
        assert!(!of(2, 2, false).may_follow(&of(2, 2, true)));
        assert!(!of(2, 1, true).may_follow(&of(2, 2, true)));
        assert!(!of(1, 1, true).may_follow(&of(2, 1, false)));
    }
}
