//! What a peer's message may say. Everything is judged here before openraft sees it: openraft takes a message as what a
//! correct peer sends, and one number that cannot be true stops a group for good, on every broker that it reaches.
//!
//! - *Terms.* A term never falls, and a group has 2^31 - 1 of them (a term is a leader epoch). So a term is believed only
//!   up to a [`Horizon`] above that with which this process opened the group: as many as a replica can have missed while it
//!   was away, and ten more a second. Whoever sends the largest that is believed, again and again, needs years.
//! - *Indexes* follow each other without a gap, in terms that never fall, and contradict nothing that is committed here.
//! - *Commands and snapshots* can be read, or applying them would stop the replica.
//! - *Votes* of a request are those of the broker that sends it.
//! - *Answers* match what was asked.
//!
//! This does not keep out who forges what could be true: that takes certificates.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jangada_types::planted::{self, Bug};
use jangada_types::{BrokerId, ReplicaId};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};
use tokio::time::Instant;

use crate::codec::CodecError;
use crate::raft_types::{LogId, Membership, SnapshotMeta, TypeConfig, Vote};
use crate::state_machine::Check;
use crate::wire::AppendResult;

/// Terms that a replica may have missed: an election each 1.3 s, which is as fast as they come, for 15 days.
const TERMS_MISSED_MAX: u64 = 1 << 20;
/// A replica that is new knows no term, and the group may be old.
const TERMS_BEFORE_NEW_REPLICA_MAX: u64 = 1 << 30;
/// And so many more a second while it runs.
const TERMS_PER_SECOND: u64 = 10;
/// A term is a leader epoch.
const TERM_MAX: u64 = (1 << 31) - 1;
/// Far beyond what a group can write, and far from where adding one would overflow.
const INDEX_MAX: u64 = 1 << 56;
/// A snapshot is at most so many entries ahead of the log that it takes the place of.
const SNAPSHOT_AHEAD_MAX: u64 = 1 << 40;
/// Entries of one message; openraft sends up to 1,024.
const ENTRIES_MAX: usize = 4096;
/// Members of a group: all brokers are members of the metadata group.
const MEMBERS_MAX: usize = 4096;

/// Why something from a peer was refused, as the metric counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The handshake: another cluster, another broker, no protocol in common.
    Handshake,
    /// The metadata does not know the broker, or took it out.
    Stranger,
    /// The broker's data directory was put back.
    PutBack,
    /// It speaks for another broker, or of a group that it has no part in.
    Sender,
    /// A term that cannot be.
    Term,
    /// An index or an order of log ids that cannot be.
    Log,
    /// Members that cannot be.
    Members,
    /// A command that cannot be read.
    Command,
    /// A snapshot that cannot be read, or cannot be where it is said to be.
    Snapshot,
    /// A message that cannot be read, or that does not belong where it came.
    Malformed,
    /// More at once than a peer sends.
    Flood,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Handshake,
        Self::Stranger,
        Self::PutBack,
        Self::Sender,
        Self::Term,
        Self::Log,
        Self::Members,
        Self::Command,
        Self::Snapshot,
        Self::Malformed,
        Self::Flood,
    ];

    /// As the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Stranger => "stranger",
            Self::PutBack => "put_back",
            Self::Sender => "sender",
            Self::Term => "term",
            Self::Log => "log",
            Self::Members => "members",
            Self::Command => "command",
            Self::Snapshot => "snapshot",
            Self::Malformed => "malformed",
            Self::Flood => "flood",
        }
    }
}

/// Counts what was refused.
#[derive(Default)]
pub struct Rejections([AtomicU64; Cause::ALL.len()]);

impl Rejections {
    /// Counts one refusal of this cause.
    pub fn count(&self, cause: Cause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many since the start.
    pub fn get(&self, cause: Cause) -> u64 {
        self.0[cause as usize].load(Ordering::Relaxed)
    }
}

/// Something that no correct peer says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("implausible: {what}")]
pub(crate) struct Implausible {
    pub cause: Cause,
    pub what: String,
}

/// Why a message of a peer is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// No correct peer says it.
    #[error(transparent)]
    Implausible(#[from] Implausible),
    /// Not its fault, or not for long.
    #[error("{0}")]
    Busy(String),
}

impl Refusal {
    pub fn malformed(what: impl Into<String>) -> Self {
        Self::of(Cause::Malformed, what)
    }

    pub fn flood(what: impl Into<String>) -> Self {
        Self::of(Cause::Flood, what)
    }

    /// The group has stopped.
    pub fn stopped(fatal: impl std::fmt::Display) -> Self {
        Self::Busy(fatal.to_string())
    }

    pub fn of(cause: Cause, what: impl Into<String>) -> Self {
        let what = what.into();
        Self::Implausible(Implausible { cause, what })
    }
}

impl From<CodecError> for Refusal {
    fn from(error: CodecError) -> Self {
        Self::malformed(error.to_string())
    }
}

type Judged = Result<(), Implausible>;

fn refuse(cause: Cause, what: impl Into<String>) -> Judged {
    Err(Implausible {
        cause,
        what: what.into(),
    })
}

/// The highest term that is believed of a group.
#[derive(Debug)]
pub(crate) struct Horizon {
    opened_with: u64,
    missed_max: u64,
    opened: Instant,
}

impl Horizon {
    /// That of a replica which is opened now with this term. A new one has neither a term nor a log.
    pub fn new(term: u64, is_new: bool) -> Self {
        Self {
            opened_with: term,
            missed_max: match is_new {
                true => TERMS_BEFORE_NEW_REPLICA_MAX,
                false => TERMS_MISSED_MAX,
            },
            opened: Instant::now(),
        }
    }

    fn term_max(&self) -> u64 {
        self.after(self.opened.elapsed())
    }

    fn after(&self, elapsed: Duration) -> u64 {
        let running = elapsed.as_secs().saturating_add(1).saturating_mul(TERMS_PER_SECOND);
        let max = self.opened_with.saturating_add(self.missed_max).saturating_add(running);
        max.min(TERM_MAX)
    }

    /// The highest term that is believed of a group that is not here, of which this one was known.
    pub fn of_others(known: Option<u64>) -> u64 {
        known.map_or(TERMS_BEFORE_NEW_REPLICA_MAX, |known| {
            known.saturating_add(TERMS_MISSED_MAX).min(TERM_MAX)
        })
    }

    /// Judges a term.
    pub fn term(&self, term: u64) -> Judged {
        let max = self.term_max();
        if term <= max {
            return Ok(());
        }
        refuse(
            Cause::Term,
            format!(
                "term {term}; this replica was opened with term {} and believes up to {max} now",
                self.opened_with
            ),
        )
    }
}

/// What a message to a replica is judged by.
pub(crate) struct Judge<'a> {
    pub horizon: &'a Horizon,
    pub check: &'a dyn Check,
    /// The broker that sent it.
    pub sender: BrokerId,
    pub local: ReplicaId,
    /// What is committed here.
    pub committed: Option<LogId>,
}

impl Judge<'_> {
    /// The vote of a request: that of its sender.
    fn vote(&self, vote: &Vote) -> Judged {
        let of = vote.leader_id.voted_for;
        if of.broker != self.sender || of.broker == self.local.broker {
            return refuse(Cause::Sender, format!("broker {} speaks for {of}", self.sender));
        }
        if of.incarnation.get() == 0 {
            return refuse(Cause::Sender, format!("{of} is no replica: incarnations begin at 1"));
        }
        self.horizon.term(vote.leader_id.term)
    }

    fn leader(&self, vote: &Vote) -> Judged {
        self.vote(vote)?;
        match vote.committed {
            true => Ok(()),
            false => refuse(
                Cause::Sender,
                format!("{} sends a leader's message and was not elected", self.sender),
            ),
        }
    }

    /// A vote or a pre-vote.
    pub fn vote_request(&self, request: &VoteRequest<TypeConfig>) -> Judged {
        self.vote(&request.vote)?;
        if request.vote.committed {
            return refuse(Cause::Sender, "a candidate that was elected already");
        }
        within(request.last_log_id, request.vote.leader_id.term)
    }

    /// A leader that asks this replica to take over.
    pub fn transfer(&self, request: &TransferLeaderRequest<TypeConfig>) -> Judged {
        self.leader(request.from_leader())?;
        within(request.last_log_id().copied(), request.from_leader().leader_id.term)
    }

    /// Entries, or a heartbeat.
    pub fn append(&self, request: &AppendEntriesRequest<TypeConfig>) -> Judged {
        self.leader(&request.vote)?;
        let term = request.vote.leader_id.term;
        within(request.prev_log_id, term)?;
        within(request.leader_commit, term)?;
        if request.entries.len() > ENTRIES_MAX {
            return refuse(
                Cause::Flood,
                format!("{} entries in one message", request.entries.len()),
            );
        }
        let mut last = request.prev_log_id;
        for entry in &request.entries {
            let id = entry.log_id();
            let next = last.map_or(0, |last| last.index + 1);
            let floor = last.map_or(0, |last| last.leader_id.term);
            if id.index != next || id.leader_id.term < floor || id.leader_id.term > term {
                return refuse(
                    Cause::Log,
                    format!("entry {id} behind {last:?} from a leader of term {term}"),
                );
            }
            self.not_against_committed(id)?;
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(members) => membership(members)?,
                EntryPayload::Normal(command) => {
                    let unreadable = |what: String| Implausible {
                        cause: Cause::Command,
                        what: format!("the command of entry {id} cannot be applied here: {what}"),
                    };
                    self.check.command(command).map_err(unreadable)?;
                }
            }
            last = Some(id);
        }
        within(last, term)?;
        in_one_log(request.leader_commit, last)
    }

    /// openraft takes every entry up to what is committed as the one that is there, and what follows as higher.
    fn not_against_committed(&self, id: LogId) -> Judged {
        let Some(committed) = self.committed else { return Ok(()) };
        let term = committed.leader_id.term;
        let is_against = match id.index.cmp(&committed.index) {
            std::cmp::Ordering::Less => id.leader_id.term > term,
            std::cmp::Ordering::Equal => id.leader_id.term != term,
            std::cmp::Ordering::Greater => id.leader_id.term < term,
        };
        match is_against && !planted::is(Bug::TruncationBelowCommit) {
            true => refuse(Cause::Log, format!("entry {id}, and {committed} is committed")),
            false => Ok(()),
        }
    }

    /// What a snapshot says of itself. `last` is the last index of the log here, `following` the vote that this replica
    /// has.
    pub fn snapshot(&self, vote: &Vote, meta: &SnapshotMeta, last: Option<u64>, following: &Vote) -> Judged {
        self.leader(vote)?;
        let term = vote.leader_id.term;
        let Some(id) = meta.last_log_id else {
            return refuse(Cause::Snapshot, "a snapshot of nothing");
        };
        within(Some(id), term)?;
        let members = *meta.last_membership.log_id();
        if members.is_none() || members > Some(id) {
            return refuse(
                Cause::Snapshot,
                format!("the members of {members:?} in a snapshot at {id}"),
            );
        }
        membership(meta.last_membership.membership())?;
        if id.index.saturating_sub(last.unwrap_or(0)) > SNAPSHOT_AHEAD_MAX {
            return refuse(
                Cause::Snapshot,
                format!("a snapshot at {id}, and the log here ends at {last:?}"),
            );
        }
        // openraft stops the group at one that is higher than what is committed and not further.
        self.not_against_committed(id)?;
        if self
            .committed
            .is_some_and(|committed| id.index <= committed.index && id > committed)
        {
            return refuse(
                Cause::Snapshot,
                format!("a snapshot at {id}, and {:?} is committed", self.committed),
            );
        }
        // Nothing of an older leader can be committed any more while it is installed.
        if vote != following {
            return refuse(
                Cause::Sender,
                format!("a snapshot of {vote}, and this replica follows {following}"),
            );
        }
        Ok(())
    }
}

/// A log id of a message of a leader or candidate of this term.
fn within(id: Option<LogId>, term: u64) -> Judged {
    match id {
        Some(id) if id.index > INDEX_MAX => refuse(Cause::Log, format!("log id {id}")),
        Some(id) if id.leader_id.term > term => refuse(Cause::Log, format!("log id {id} in a message of term {term}")),
        _ => Ok(()),
    }
}

/// What a leader has committed and what it sends are in its log, where terms never fall. openraft takes the lower one of both
/// as what is committed here, and it compares terms first.
fn in_one_log(committed: Option<LogId>, sent: Option<LogId>) -> Judged {
    let (Some(committed), Some(sent)) = (committed, sent) else {
        return Ok(());
    };
    let by_index = committed.index.cmp(&sent.index);
    let by_term = committed.leader_id.term.cmp(&sent.leader_id.term);
    let is_sound = match by_index {
        std::cmp::Ordering::Equal => by_term.is_eq(),
        _ => by_term.is_eq() || by_term == by_index,
    };
    match is_sound {
        true => Ok(()),
        false => refuse(Cause::Log, format!("{committed} is committed, and {sent} is sent")),
    }
}

/// Members that openraft can work with.
fn membership(members: &Membership) -> Judged {
    let configs = members.get_joint_config();
    let count = members.nodes().count();
    let are_voters = |config: &BTreeSet<ReplicaId>| {
        !config.is_empty()
            && config.len() <= MEMBERS_MAX
            && config.iter().all(|voter| members.get_node(voter).is_some())
    };
    let is_sound = (1..=2).contains(&configs.len())
        && configs.iter().all(are_voters)
        && count <= MEMBERS_MAX
        && members
            .nodes()
            .all(|(member, ())| member.broker.get() != 0 && member.incarnation.get() != 0);
    match is_sound {
        true => Ok(()),
        false => refuse(
            Cause::Members,
            format!("{} configurations of {count} members", configs.len()),
        ),
    }
}

/// The answer to a vote or a pre-vote.
pub(crate) fn vote_answer(horizon: &Horizon, answer: &VoteResponse<TypeConfig>) -> Judged {
    horizon.term(answer.vote.leader_id.term)?;
    within(answer.last_log_id, TERM_MAX)
}

/// What an append asks: what its entries follow, and the last of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    before: Option<LogId>,
    last: Option<LogId>,
}

impl Asked {
    /// The last entry that the replica has after it.
    pub fn last(&self) -> Option<LogId> {
        self.last
    }
}

/// The answer to an append.
pub(crate) fn append_answer(horizon: &Horizon, asked: Asked, answer: &AppendResult) -> Judged {
    let Asked { before, last } = asked;
    match answer {
        Ok(matched) if *matched > last || *matched < before => refuse(
            Cause::Log,
            format!("{matched:?} matches, and {before:?} to {last:?} was sent"),
        ),
        Ok(_) => Ok(()),
        Err(StreamAppendError::Conflict(id)) if Some(*id) != before => refuse(
            Cause::Log,
            format!("{id} conflicts, and what was sent follows {before:?}"),
        ),
        Err(StreamAppendError::Conflict(_)) => Ok(()),
        Err(StreamAppendError::HigherVote(vote)) => horizon.term(vote.leader_id.term),
    }
}

/// What an append asks, for [`append_answer`].
pub(crate) fn asked(request: &AppendEntriesRequest<TypeConfig>) -> Asked {
    let before = request.prev_log_id;
    let last = request.entries.last().map(|entry| entry.log_id()).or(before);
    Asked { before, last }
}

#[cfg(test)]
#[path = "plausible_tests.rs"]
mod tests;
