//! Encodings on disk of Raft's own records: entries, votes, log ids, memberships. Ours, not openraft's, so
//! that a new version of it changes nothing on disk. Every record begins with a version byte; integers are
//! big-endian. Saved states have their records in [`crate::snapshot::record`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_machine::EncodedCommand;
use jangada_storage::LogEntry;
use jangada_types::{BrokerId, Incarnation, ReplicaId};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;

use crate::raft_types::{ENTRY_VERSION, Entry, EntryKind, LeaderId, LogId, Membership, Vote, log_id};

/// Version of the records below.
pub(crate) const RECORD_VERSION: u8 = 1;

/// A record that this build cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by another version.
    #[error("{record} has version {version}; this build reads version {expected}")]
    Version {
        /// What it is.
        record: &'static str,
        /// Its version byte.
        version: u8,
        /// The version that this build reads.
        expected: u8,
    },
    /// Shorter or longer than its content says, or with a value that cannot be.
    #[error("{0} is damaged")]
    Damaged(&'static str),
    /// Entries that do not follow one another.
    #[error("entry {found} comes where entry {expected} belongs")]
    Gap {
        /// The index that comes next.
        expected: u64,
        /// The one that came.
        found: u64,
    },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

const BLANK_HEAD: [u8; 2] = [ENTRY_VERSION, EntryKind::Blank as u8];
const MEMBERSHIP_HEAD: [u8; 2] = [ENTRY_VERSION, EntryKind::Membership as u8];

/// Which incarnation the data of a group belongs to.
pub(crate) fn encode_owner(incarnation: Incarnation) -> Bytes {
    let mut row = BytesMut::with_capacity(5);
    row.put_u8(RECORD_VERSION);
    row.put_u32(incarnation.get());
    row.freeze()
}

pub(crate) fn decode_owner(row: &[u8]) -> Result<Incarnation, CodecError> {
    const RECORD: &str = "owner of a replica's data";
    match row {
        [RECORD_VERSION, incarnation @ ..] => {
            let incarnation = incarnation.try_into().map_err(|_| CodecError::Damaged(RECORD))?;
            Ok(Incarnation(u32::from_be_bytes(incarnation)))
        }
        [version, ..] => Err(CodecError::Version {
            record: RECORD,
            version: *version,
            expected: RECORD_VERSION,
        }),
        [] => Err(CodecError::Damaged(RECORD)),
    }
}

/// As the store and the wire take it. Copies nothing of a command.
pub(crate) fn encode_entry(entry: Entry) -> LogEntry {
    let LogId { leader_id, index } = entry.log_id();
    let (head, body) = match entry.payload {
        EntryPayload::Blank => (Bytes::from_static(&BLANK_HEAD), Bytes::new()),
        EntryPayload::Normal(command) => command.into_log(),
        EntryPayload::Membership(membership) => (Bytes::from_static(&MEMBERSHIP_HEAD), encode_membership(&membership)),
    };
    LogEntry {
        index,
        term: leader_id.term,
        head,
        body,
    }
}

/// The reverse of [`encode_entry`].
pub(crate) fn decode_entry(entry: LogEntry) -> Result<Entry, CodecError> {
    let id = log_id(entry.term, entry.index);
    let [version, kind, ..] = entry.head[..] else {
        return Err(CodecError::Damaged("log entry head"));
    };
    if version != ENTRY_VERSION {
        return Err(CodecError::Version {
            record: "log entry",
            version,
            expected: ENTRY_VERSION,
        });
    }
    let payload = match kind {
        k if k == EntryKind::Blank as u8 => EntryPayload::Blank,
        k if k == EntryKind::Command as u8 => EntryPayload::Normal(EncodedCommand::from_log(entry.head, entry.body)),
        k if k == EntryKind::Membership as u8 => EntryPayload::Membership(decode_membership(&entry.body)?),
        _ => return Err(CodecError::Damaged("log entry kind")),
    };
    Ok(Entry { log_id: id, payload })
}

fn put_replica(out: &mut BytesMut, replica: ReplicaId) {
    out.put_u32(replica.broker.get());
    out.put_u32(replica.incarnation.get());
}

fn get_replica(input: &mut &[u8]) -> ReplicaId {
    let broker = BrokerId::from(input.get_u32());
    let incarnation = Incarnation::from(input.get_u32());
    ReplicaId { broker, incarnation }
}

pub(crate) fn need(input: &[u8], len: usize, record: &'static str) -> Result<(), CodecError> {
    if input.len() < len {
        Err(CodecError::Damaged(record))
    } else {
        Ok(())
    }
}

pub(crate) fn open<'a>(bytes: &'a [u8], record: &'static str) -> Result<&'a [u8], CodecError> {
    let (&version, rest) = bytes.split_first().ok_or(CodecError::Damaged(record))?;
    if version != RECORD_VERSION {
        return Err(CodecError::Version {
            record,
            version,
            expected: RECORD_VERSION,
        });
    }
    Ok(rest)
}

pub(crate) fn done(input: &[u8], record: &'static str) -> Result<(), CodecError> {
    if input.is_empty() {
        Ok(())
    } else {
        Err(CodecError::Damaged(record))
    }
}

/// `version | configs u8 | per config: count u16, replicas | nodes u16, replicas`; a replica is broker u32,
/// incarnation u32.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let configs = membership.get_joint_config();
    let nodes: Vec<ReplicaId> = membership.nodes().map(|(id, _)| *id).collect();
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(RECORD_VERSION);
    out.put_u8(u8::try_from(configs.len()).expect("a joint membership has two configs"));
    for config in configs {
        out.put_u16(u16::try_from(config.len()).expect("replicas of a group are few"));
        config.iter().for_each(|replica| put_replica(&mut out, *replica));
    }
    out.put_u16(u16::try_from(nodes.len()).expect("replicas of a group are few"));
    nodes.into_iter().for_each(|replica| put_replica(&mut out, replica));
    out.freeze()
}

/// The reverse of [`encode_membership`].
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, CodecError> {
    const RECORD: &str = "membership";
    let mut input = open(bytes, RECORD)?;
    need(input, 1, RECORD)?;
    let configs = input.get_u8();
    let mut joint: Vec<BTreeSet<ReplicaId>> = Vec::new();
    for _ in 0..configs {
        joint.push(get_replicas(&mut input, RECORD)?.into_iter().collect());
    }
    let nodes: BTreeMap<ReplicaId, ()> = get_replicas(&mut input, RECORD)?
        .into_iter()
        .map(|id| (id, ()))
        .collect();
    done(input, RECORD)?;
    if joint.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(joint, nodes).map_err(|_| CodecError::Damaged(RECORD))
}

fn get_replicas(input: &mut &[u8], record: &'static str) -> Result<Vec<ReplicaId>, CodecError> {
    need(input, 2, record)?;
    let count = usize::from(input.get_u16());
    need(input, count * 8, record)?;
    Ok((0..count).map(|_| get_replica(input)).collect())
}

/// `version | term u64 | broker u32 | incarnation u32 | committed u8`
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(RECORD_VERSION);
    out.put_u64(vote.leader_id.term);
    put_replica(&mut out, vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

/// The reverse of [`encode_vote`].
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    const RECORD: &str = "vote";
    let mut input = open(bytes, RECORD)?;
    need(input, 17, RECORD)?;
    let term = input.get_u64();
    let voted_for = get_replica(&mut input);
    let committed = input.get_u8() != 0;
    done(input, RECORD)?;
    Ok(Vote {
        leader_id: LeaderId { term, voted_for },
        committed,
    })
}

pub(crate) fn put_log_id(out: &mut BytesMut, id: Option<LogId>) {
    out.put_u8(u8::from(id.is_some()));
    out.put_u64(id.map_or(0, |id| id.leader_id.term));
    out.put_u64(id.map_or(0, |id| id.index));
}

pub(crate) fn get_log_id(input: &mut &[u8], record: &'static str) -> Result<Option<LogId>, CodecError> {
    need(input, 17, record)?;
    let present = input.get_u8() != 0;
    let (term, index) = (input.get_u64(), input.get_u64());
    Ok(present.then(|| log_id(term, index)))
}

/// `version | present u8 | term u64 | index u64`
pub(crate) fn encode_log_id(id: Option<LogId>) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(RECORD_VERSION);
    put_log_id(&mut out, id);
    out.freeze()
}

/// The reverse of [`encode_log_id`].
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<Option<LogId>, CodecError> {
    const RECORD: &str = "log id";
    let mut input = open(bytes, RECORD)?;
    let id = get_log_id(&mut input, RECORD)?;
    done(input, RECORD)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(broker: u32, incarnation: u32) -> ReplicaId {
        ReplicaId {
            broker: BrokerId::from(broker),
            incarnation: Incarnation::from(incarnation),
        }
    }

    fn membership() -> Membership {
        let voters: BTreeSet<_> = [replica(1, 1), replica(2, 1)].into();
        let nodes: BTreeMap<_, _> = [replica(1, 1), replica(2, 1), replica(3, 4)].map(|id| (id, ())).into();
        Membership::new(vec![voters], nodes).unwrap()
    }

    #[test]
    fn entries_come_back_and_commands_are_shared() {
        let body = Bytes::from(vec![7; 100]);
        let entry = Entry {
            log_id: log_id(3, 9),
            payload: EntryPayload::Normal(EncodedCommand::new(&[1, 2], body.clone())),
        };
        let stored = encode_entry(entry.clone());
        assert_eq!(&stored.head[..], &[1, 1, 1, 2]);
        assert_eq!(stored.body.as_ptr(), body.as_ptr());
        assert_eq!(decode_entry(stored).unwrap(), entry);
        for payload in [EntryPayload::Blank, EntryPayload::Membership(membership())] {
            let entry = Entry {
                log_id: log_id(1, 0),
                payload,
            };
            assert_eq!(decode_entry(encode_entry(entry.clone())).unwrap(), entry);
        }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(
            encode_membership(&membership())[..],
            [
                1, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2,
                0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 4
            ]
        );
        let vote = Vote {
            leader_id: LeaderId {
                term: 5,
                voted_for: replica(2, 1),
            },
            committed: true,
        };
        assert_eq!(
            encode_vote(&vote)[..],
            [1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 1, 1]
        );
        assert_eq!(encode_owner(Incarnation(300))[..], [1, 0, 0, 1, 44]);
        assert_eq!(decode_owner(&encode_owner(Incarnation(300))), Ok(Incarnation(300)));
        assert_eq!(
            encode_log_id(Some(log_id(2, 3)))[..],
            [1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]
        );
    }

    #[test]
    fn records_come_back() {
        let vote = Vote {
            leader_id: LeaderId {
                term: 5,
                voted_for: replica(2, 1),
            },
            committed: true,
        };
        assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        for id in [None, Some(log_id(0, 0)), Some(log_id(7, 8))] {
            assert_eq!(decode_log_id(&encode_log_id(id)).unwrap(), id);
        }
    }

    #[test]
    fn other_versions_and_damage_are_told_apart() {
        let mut vote = encode_vote(&Vote {
            leader_id: LeaderId {
                term: 5,
                voted_for: replica(2, 1),
            },
            committed: false,
        })
        .to_vec();
        vote[0] = 9;
        assert!(matches!(
            decode_vote(&vote),
            Err(CodecError::Version { version: 9, .. })
        ));
        assert!(matches!(decode_vote(&[1, 2]), Err(CodecError::Damaged(_))));
        assert!(matches!(
            decode_membership(&[1, 1, 255, 255]),
            Err(CodecError::Damaged(_))
        ));
    }
}
