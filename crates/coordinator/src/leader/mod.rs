//! The leader's side of a shard: it answers members at once when nothing changes, and otherwise decides which command
//! to propose.
//!
//! It holds state that is not replicated: since when a member is silent, how long one may still take to give up
//! partitions, and which changes wait for the next target. A new leader begins with full sessions, so that a failover
//! removes no member.
//!
//! All time comes in as [`Now`]. Nothing here changes the [`Image`]: a [`Step::Propose`] goes through the log, and its
//! outcome comes back by [`Leader::applied`] and [`Leader::resume`].

mod config;
mod driven;
mod heartbeat;
mod member_timer;
mod offsets;
mod request;
mod request_rules;
mod sessions;
mod targets;
mod timers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

pub use config::Config;
pub use driven::Surroundings;
pub use jangada_machine::Now;
use jangada_types::{Reason, Rejection};
pub use request::{
    Answer, CommitRequest, EndStagedRequest, HeartbeatRequest, HeartbeatResponse, JOIN_EPOCH, LEAVE_EPOCH, Pending,
    STATIC_LEAVE_EPOCH, StageRequest, Step,
};

use crate::command::Command;
use crate::event::Event;
use crate::image::Image;
use crate::offset_commit::OffsetCommit;
use crate::pattern::Patterns;
use crate::reply::Reply;
use crate::topics::TopicTable;
use request::{Request, is_retryable};
use timers::GroupTimers;

/// Most times that one request is decided. It is decided anew when its group changed meanwhile; each time another
/// command of the same group was applied first, so this bounds the unfairness, not the work.
const ATTEMPTS_MAX: u32 = 16;

/// The volatile side of a shard, on the replica that leads it. It is made when that replica has applied an entry of its
/// own term, and dropped when it no longer leads.
#[derive(Debug)]
pub struct Leader {
    config: Config,
    topics: Arc<TopicTable>,
    patterns: Patterns,
    groups: BTreeMap<Arc<str>, GroupTimers>,
    /// The times at which groups are due, the earliest first. Entries that were overtaken are skipped.
    queue: BinaryHeap<Reverse<(u64, Arc<str>)>>,
    /// Events that the host has yet to write down.
    events: Vec<Event>,
}

impl Leader {
    /// A leader over the state as it is now. Every member gets a full session.
    pub fn new(config: Config, image: &Image, topics: Arc<TopicTable>, now: Now) -> Self {
        let mut leader = Self {
            config,
            topics,
            patterns: Patterns::default(),
            groups: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: Vec::new(),
        };
        leader.refresh_all(image, now);
        leader
    }

    /// Takes the topics of newer metadata. It costs work, for all groups, only if the topics have changed.
    pub fn topics_changed(&mut self, image: &Image, topics: Arc<TopicTable>, now: Now) {
        // A table that was too old for the shard was not compared with the groups.
        let is_known = self.knows_topics(image) && self.topics.is_same(&topics);
        self.topics = topics;
        if !is_known {
            self.refresh_all(image, now);
        }
    }

    fn refresh_all(&mut self, image: &Image, now: Now) {
        let names: Vec<Arc<str>> = image.groups.keys().cloned().collect();
        for name in names {
            self.notice_topics(image, &name);
            self.refresh_group(image, &name, now);
        }
    }

    /// Takes note of a command that was applied, whatever the reply; `image` has it already.
    pub fn applied(&mut self, image: &Image, command: &Command, reply: &Reply, now: Now) {
        let name = command.group();
        match command {
            Command::CommitOffsets {
                member,
                offsets,
                topics_version,
                ..
            }
            | Command::StageOffsets {
                member,
                offsets,
                topics_version,
                ..
            } => {
                let is_new = !self.groups.contains_key(name);
                if member.is_none() && matches!(reply, Reply::Applied { .. }) {
                    self.committed_from_outside(name, now);
                }
                // Since the commit was decided a topic may have been deleted, and the group's offsets of it forgotten.
                let is_gone = |commit: &OffsetCommit| self.topics.topic(commit.partition.topic).is_none();
                if *topics_version < self.topics.version() && offsets.iter().any(is_gone) {
                    self.notice_topics(image, name);
                } else if !is_new {
                    // A commit or a staging moves no timer, except that it may put off the group's expiry, which is checked
                    // when it is due; the end of a transaction sets it anew.
                    return;
                }
            }
            // What it has committed is as new as a commit from outside.
            Command::EndStaged { is_commit: true, .. } if matches!(reply, Reply::Applied { count: 1.., .. }) => {
                self.committed_from_outside(name, now);
            }
            Command::Progress { member, .. } => return self.refresh_after_step(image, name, member, now),
            Command::SetTarget { .. } => {
                self.target_applied(name, now);
                self.notice_topics(image, name);
            }
            // A change of members asks for a new target anyway, which is computed from the newest topics.
            Command::ForgetTopics { .. } if matches!(reply, Reply::Applied { .. }) => self.notice_topics(image, name),
            _ => {}
        }
        self.refresh_group(image, name, now);
    }

    /// Goes on with a request whose command was applied. A command whose outcome is not known (the replica stopped
    /// leading, or no quorum answered) has no reply: the host fails the request, and the client sends it again.
    pub fn resume(&mut self, image: &Image, pending: Pending, reply: Reply, now: Now) -> Step {
        let Pending { request, attempts } = pending;
        let count = match reply.into_result() {
            Ok(count) => count,
            Err(rejection) if is_retryable(&rejection) && attempts < ATTEMPTS_MAX => {
                return self.decide(image, request, attempts + 1, now);
            }
            Err(rejection) => return Step::Done(Err(rejection)),
        };
        match request {
            // The applied command is a part of what the answer says.
            Request::Heartbeat(_) if attempts >= ATTEMPTS_MAX => Step::Done(Err(busy())),
            Request::Heartbeat(_) => self.decide(image, request, attempts + 1, now),
            Request::Leave(_) => Step::Done(Ok(Answer::Left)),
            Request::Commit(_) => Step::Done(Ok(Answer::Committed)),
            Request::Stage(_) => Step::Done(Ok(Answer::Staged)),
            Request::EndStaged(_) => Step::Done(Ok(Answer::Ended)),
            Request::DeleteGroup(_) | Request::DeleteOffsets(..) => Step::Done(Ok(Answer::Deleted { count })),
        }
    }

    fn decide(&mut self, image: &Image, request: Request, attempts: u32, now: Now) -> Step {
        let decided = match &request {
            Request::Heartbeat(heartbeat) => self.decide_heartbeat(image, heartbeat, now),
            Request::Leave(leave) => self.decide_leave(image, leave, now).map(Decision::Propose),
            Request::Commit(commit) => self.decide_commit(image, commit, now).map(Decision::Propose),
            Request::Stage(stage) => self.decide_stage(image, stage, now).map(Decision::Propose),
            Request::EndStaged(end) => Self::decide_end(image, end, now),
            Request::DeleteGroup(group) => self.decide_delete_group(image, group).map(Decision::Propose),
            Request::DeleteOffsets(group, partitions) => self
                .decide_delete_offsets(image, group, partitions)
                .map(Decision::Propose),
        };
        match decided {
            Ok(Decision::Propose(command)) => Step::Propose {
                command,
                pending: Pending { request, attempts },
            },
            Ok(Decision::Answer(answer)) => Step::Done(Ok(answer)),
            Err(rejection) => Step::Done(Err(rejection)),
        }
    }
}

/// The decision about a request.
enum Decision {
    Propose(Command),
    Answer(Answer),
}

fn busy() -> Rejection {
    Rejection::new(
        Reason::GroupChanged,
        "the group changes faster than the request can be decided: send it again after a moment",
    )
}
