//! A replica of a Raft group on this broker, as far as all kinds are the same.

use std::any::Any;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jangada_replication::Group;
use jangada_types::{GroupId, PartitionIndex, Reason};

use super::check_quorum::CheckQuorum;

/// What differs between the kinds of groups in words and numbers. Each kind has one constant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// What a group of this kind is called in messages, before its name; empty: the name says it.
    pub noun: &'static str,
    /// Why a replica refuses requests that was elected and has not applied an entry of its own term yet.
    pub not_ready: Reason,
    /// As many replicas as the reconciler asks for once there are brokers for them, although a group began with fewer.
    pub replicas_min: usize,
    /// What it means for clients that no quorum answers the leader, for the log.
    pub without_quorum: &'static str,
    /// The whole cluster feels that.
    pub is_vital: bool,
}

/// Which group, in messages for people.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaName {
    /// The topic's name, or what the only group of its kind is called.
    pub topic: Arc<str>,
    /// Which of the topic's.
    pub index: Option<PartitionIndex>,
}

impl Display for ReplicaName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}-{index}", self.topic),
            None => f.write_str(&self.topic),
        }
    }
}

/// A replica that is open on this broker.
pub(crate) struct Hosted {
    pub kind: &'static Kind,
    pub name: ReplicaName,
    /// Kind and name, as errors begin with.
    pub title: Arc<str>,
    pub group: Group,
    /// Whether a quorum answers this leader.
    pub check_quorum: CheckQuorum,
}

impl Hosted {
    pub fn new(kind: &'static Kind, name: ReplicaName, group: Group, check_quorum: CheckQuorum) -> Self {
        let title = format!("{} {name}", kind.noun);
        Self {
            kind,
            name,
            title: title.trim_start().into(),
            group,
            check_quorum,
        }
    }

    pub fn id(&self) -> GroupId {
        self.group.id()
    }

    /// This replica leads and has applied an entry of its own term: it knows everything that was acknowledged before.
    pub fn is_ready(&self) -> bool {
        self.group.status().ready
    }

    /// This replica leads as far as it knows, and no quorum answers it.
    pub fn has_lost_quorum(&self) -> bool {
        self.check_quorum.is_lost() && self.group.status().leading
    }
}

/// What the rest of the broker calls to use a replica of one kind. [`super::Replicas`] gives it back as the type that it
/// is.
pub(crate) trait Front: Any + Send + Sync {
    /// Ends what works for this replica beside Raft. It is closed for good.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    /// Does what is due, and says to [`super::Timers`] when to call it next. Must not wait.
    fn tick(&self) {}

    /// The leadership is about to be handed over: whoever waits here is told, and nothing new begins that the next leader would have to
    /// end. Must not wait.
    fn hand_over(&self) {}

    /// Begins or ends the leader's side if this replica's leadership asks for it. Called often, for all replicas, when any
    /// leadership has changed. Must not wait.
    fn refresh_leadership(&self) {}
}
