//! Conversions between openraft's messages and the internal listener's. Ours on the wire, so that versions of
//! openraft may differ between brokers.

use jangada_proto::internal as proto;
use jangada_storage::LogEntry;
use jangada_types::{BrokerId, Incarnation, ReplicaId};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};

use crate::codec::{self, CodecError};
use crate::raft_types::{LeaderId, LogId, TypeConfig, Vote, log_id};

pub(crate) type AppendResult = Result<Option<LogId>, StreamAppendError<TypeConfig>>;

/// A peer's message that lacks what it must have.
fn missing(what: &'static str) -> CodecError {
    CodecError::Damaged(what)
}

pub(crate) fn replica(broker: u32, incarnation: u32) -> ReplicaId {
    ReplicaId {
        broker: BrokerId::from(broker),
        incarnation: Incarnation::from(incarnation),
    }
}

pub(crate) fn vote_to(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        broker_id: vote.leader_id.voted_for.broker.get(),
        incarnation: vote.leader_id.voted_for.incarnation.get(),
        committed: vote.committed,
    }
}

pub(crate) fn vote_from(vote: Option<proto::Vote>) -> Result<Vote, CodecError> {
    let vote = vote.ok_or(missing("vote"))?;
    let leader_id = LeaderId {
        term: vote.term,
        voted_for: replica(vote.broker_id, vote.incarnation),
    };
    Ok(Vote {
        leader_id,
        committed: vote.committed,
    })
}

pub(crate) fn log_id_to(id: LogId) -> proto::LogId {
    proto::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(crate) fn log_id_from(id: proto::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn append_to(request: AppendEntriesRequest<TypeConfig>) -> proto::AppendEntries {
    let entries = request.entries.into_iter().map(|entry| {
        let LogEntry {
            index,
            term,
            head,
            body,
        } = codec::encode_entry(entry);
        proto::Entry {
            term,
            index,
            head,
            body,
        }
    });
    proto::AppendEntries {
        vote: Some(vote_to(&request.vote)),
        prev_log_id: request.prev_log_id.map(log_id_to),
        leader_commit: request.leader_commit.map(log_id_to),
        entries: entries.collect(),
    }
}

pub(crate) fn append_from(request: proto::AppendEntries) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    // None is left out, whatever the sender's log looks like: an entry at the wrong place would shift those behind it.
    let mut next = request.prev_log_id.as_ref().map(|id| id.index.saturating_add(1));
    let entries = request.entries.into_iter().map(|entry| {
        let expected = next.unwrap_or(entry.index);
        if entry.index != expected {
            let found = entry.index;
            return Err(CodecError::Gap { expected, found });
        }
        next = Some(expected.saturating_add(1));
        codec::decode_entry(LogEntry {
            index: entry.index,
            term: entry.term,
            head: entry.head,
            body: entry.body,
        })
    });
    Ok(AppendEntriesRequest {
        vote: vote_from(request.vote)?,
        prev_log_id: request.prev_log_id.map(log_id_from),
        leader_commit: request.leader_commit.map(log_id_from),
        entries: entries.collect::<Result<_, _>>()?,
    })
}

/// Bytes that count against the windows of an append message.
pub(crate) fn append_size(request: &proto::AppendEntries) -> usize {
    request
        .entries
        .iter()
        .map(|entry| entry.head.len() + entry.body.len() + 16)
        .sum::<usize>()
        + 64
}

pub(crate) fn append_result_to(result: AppendResult) -> proto::AppendResult {
    use proto::append_result::Result as R;
    let (result, matched_none) = match result {
        Ok(Some(id)) => (Some(R::Matched(log_id_to(id))), false),
        Ok(None) => (None, true),
        Err(StreamAppendError::Conflict(id)) => (Some(R::Conflict(log_id_to(id))), false),
        Err(StreamAppendError::HigherVote(vote)) => (Some(R::HigherVote(vote_to(&vote))), false),
    };
    proto::AppendResult { matched_none, result }
}

pub(crate) fn append_result_from(result: proto::AppendResult) -> Result<AppendResult, CodecError> {
    use proto::append_result::Result as R;
    Ok(match result.result {
        Some(R::Matched(id)) => Ok(Some(log_id_from(id))),
        Some(R::Conflict(id)) => Err(StreamAppendError::Conflict(log_id_from(id))),
        Some(R::HigherVote(vote)) => Err(StreamAppendError::HigherVote(vote_from(Some(vote))?)),
        None if result.matched_none => Ok(None),
        None => return Err(missing("append result")),
    })
}

pub(crate) fn vote_request_to(request: &VoteRequest<TypeConfig>) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: Some(vote_to(&request.vote)),
        last_log_id: request.last_log_id.map(log_id_to),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from(request: proto::VoteRequest) -> Result<VoteRequest<TypeConfig>, CodecError> {
    Ok(VoteRequest {
        vote: vote_from(request.vote)?,
        last_log_id: request.last_log_id.map(log_id_from),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn vote_result_to(response: &VoteResponse<TypeConfig>) -> proto::VoteResult {
    proto::VoteResult {
        vote: Some(vote_to(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.map(log_id_to),
    }
}

pub(crate) fn vote_result_from(result: proto::VoteResult) -> Result<VoteResponse<TypeConfig>, CodecError> {
    Ok(VoteResponse {
        vote: vote_from(result.vote)?,
        vote_granted: result.granted,
        last_log_id: result.last_log_id.map(log_id_from),
    })
}

pub(crate) fn transfer_to(request: &TransferLeaderRequest<TypeConfig>) -> proto::TransferLeader {
    proto::TransferLeader {
        from_leader: Some(vote_to(request.from_leader())),
        to_broker_id: request.to_node_id().broker.get(),
        to_incarnation: request.to_node_id().incarnation.get(),
        last_log_id: request.last_log_id().copied().map(log_id_to),
    }
}

pub(crate) fn transfer_from(request: proto::TransferLeader) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    Ok(TransferLeaderRequest::new(
        vote_from(request.from_leader)?,
        replica(request.to_broker_id, request.to_incarnation),
        request.last_log_id.map(log_id_from),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::Entry;

    #[test]
    fn entries_that_do_not_follow_one_another_are_refused() {
        let append = |previous: Option<u64>, indexes: &[u64]| {
            let log_id = |index: &u64| proto::LogId { term: 1, index: *index };
            let entry = |index: &u64| {
                let LogEntry { term, head, body, .. } = codec::encode_entry(Entry {
                    log_id: crate::raft_types::log_id(1, *index),
                    payload: openraft::EntryPayload::Blank,
                });
                proto::Entry {
                    term,
                    index: *index,
                    head,
                    body,
                }
            };
            append_from(proto::AppendEntries {
                vote: Some(proto::Vote::default()),
                prev_log_id: previous.as_ref().map(log_id),
                leader_commit: None,
                entries: indexes.iter().map(entry).collect(),
            })
        };
        let gap = |expected, found| Some(CodecError::Gap { expected, found });
        assert_eq!(append(Some(4), &[5, 6]).err(), None);
        assert_eq!(append(None, &[0, 1]).err(), None);
        assert_eq!(append(Some(4), &[6]).err(), gap(5, 6));
        assert_eq!(append(Some(4), &[5, 7]).err(), gap(6, 7));
        assert_eq!(append(Some(4), &[5, 5]).err(), gap(6, 5));
    }
}
