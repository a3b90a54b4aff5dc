//! The task that keeps the membership: it joins, heartbeats, receives the assignment, and leaves.
//!
//! It runs whatever the consumer's caller does, so that a slow handler costs no membership. It publishes the last
//! answer in the [`MembershipView`]; the consumer reports back with an [`Ack`]. One heartbeat is under way at a time,
//! and the answer to a heartbeat that was given up is never taken.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jangada_proto::v1;
use jangada_types::{Reason, TopicId};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::config::GroupConfig;
use super::coordinator::{Coordinator, FailedAttempt, pause};
use super::position::TopicPartition;
use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::notice::{Next, Notice, Notices, Trouble};
use crate::wire_error::Disposition;

/// Delay before another attempt to take a static member's place: its old process may have died a moment ago.
const UNRELEASED_RETRY: Duration = Duration::from_secs(1);

/// Timeout of leaving, and before it of waiting for the answer to a join that is under way. A member that cannot leave
/// frees its partitions when its session ends.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

const JOIN: i64 = 0;
const LEAVE: i64 = -1;
const LEAVE_STATIC: i64 = -2;

/// The state of the membership as of the last answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct MembershipView {
    /// Counts losses: partitions that were owned under a lower number are lost.
    pub losses: u64,
    /// The member epoch; 0 while not a member.
    pub epoch: i64,
    pub assignment_version: u64,
    /// All partitions that the member may own.
    pub assignment: Arc<BTreeSet<TopicPartition>>,
    /// Until then no other member has its partitions, by the last answer; counted from when that heartbeat was sent.
    pub session_until: Option<Instant>,
    /// The error that ended the membership for good.
    pub fatal: Option<ClientError>,
}

impl MembershipView {
    /// Whether the session has not ended, so that no other member can own the partitions.
    pub fn is_within_session(&self) -> bool {
        self.session_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The consumer's report that it has applied an assignment: these are all the partitions that it owns.
pub(crate) struct Ack {
    pub losses: u64,
    pub assignment_version: u64,
    pub owned: Arc<BTreeSet<TopicPartition>>,
}

/// The consumer's handle on the task. When it is dropped the task leaves the group, too, if it still gets the time.
pub(crate) struct Membership {
    pub view: watch::Receiver<MembershipView>,
    ack: Arc<Mutex<Option<Ack>>>,
    now: Arc<Notify>,
    leave: oneshot::Sender<oneshot::Sender<()>>,
}

impl Membership {
    /// Must be called within a tokio runtime.
    pub fn start(
        cluster: &Cluster,
        coordinator: Arc<Coordinator>,
        config: Arc<GroupConfig>,
        member_id: Arc<str>,
    ) -> Self {
        let (leave, leaving) = oneshot::channel();
        let view = watch::Sender::new(MembershipView::default());
        let membership = Self {
            view: view.subscribe(),
            ack: Arc::default(),
            now: Arc::default(),
            leave,
        };
        let what = format!("heartbeat to group {}", coordinator.group());
        let trouble = cluster.notices.trouble(what.into(), None);
        let client_id = config.client_id.as_ref().unwrap_or(&cluster.config.client_id);
        let task = Heartbeats {
            client_id: client_id.clone(),
            metadata_version: cluster.metadata.image().version,
            // Two attempts fit into a session, so that a coordinator that hangs is noticed before it ends.
            within: cluster.config.request_timeout.min(config.session_timeout / 3),
            coordinator,
            config,
            member_id,
            view,
            ack: membership.ack.clone(),
            now: membership.now.clone(),
            backoff: Backoff::new(&cluster.env.random),
            trouble,
            notices: cluster.notices.clone(),
        };
        tokio::spawn(task.run(leaving));
        membership
    }

    /// Asks for a heartbeat at once.
    pub fn now(&self) -> &Arc<Notify> {
        &self.now
    }

    pub fn acknowledge(&self, ack: Ack, at_once: bool) {
        *self.ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(ack);
        if at_once {
            self.now.notify_one();
        }
    }

    /// Leaves the group, if the coordinator answers in time, and ends.
    pub async fn leave(self) {
        let (left, done) = oneshot::channel();
        if self.leave.send(left).is_ok() {
            let _ = done.await;
        }
    }
}

struct Heartbeats {
    coordinator: Arc<Coordinator>,
    config: Arc<GroupConfig>,
    client_id: String,
    metadata_version: u64,
    member_id: Arc<str>,
    within: Duration,
    view: watch::Sender<MembershipView>,
    ack: Arc<Mutex<Option<Ack>>>,
    now: Arc<Notify>,
    backoff: Backoff,
    /// The trouble "heartbeats fail", open while they do.
    trouble: Trouble,
    notices: Arc<Notices>,
}

impl Heartbeats {
    async fn run(mut self, mut leaving: oneshot::Receiver<oneshot::Sender<()>>) {
        let mut next_at = Instant::now();
        loop {
            tokio::select! {
                left = &mut leaving => return self.leave(left).await,
                () = sleep_until(next_at) => {}
                // After a failure the backoff decides when the next attempt comes.
                () = self.now.notified(), if self.backoff.is_reset() => {}
            }
            let request = self.request();
            let sent = Instant::now();
            let joins = request.member_epoch == JOIN;
            let answer = {
                let answer =
                    self.coordinator.attempt(
                        self.within,
                        |mut service| async move { service.heartbeat(request).await },
                    );
                tokio::pin!(answer);
                tokio::select! {
                    left = &mut leaving => {
                        if joins {
                            // A join that reached the coordinator after the leave would make a member again, for a
                            // session.
                            let _ = timeout(LEAVE_TIMEOUT, answer).await;
                        }
                        Err(left)
                    }
                    answer = &mut answer => Ok(answer),
                }
            };
            next_at = match answer {
                Err(left) => return self.leave(left).await,
                Ok(Ok(answer)) => {
                    self.backoff.reset();
                    self.trouble.works();
                    self.answered(answer, sent)
                }
                Ok(Err(missed)) => match self.missed(missed) {
                    Some(pause) => Instant::now() + pause,
                    None => return,
                },
            };
        }
    }

    fn request(&self) -> v1::HeartbeatRequest {
        let view = self.view.borrow();
        let mut request = self.blank(view.epoch);
        request.assignment_version = view.assignment_version;
        if view.epoch == JOIN {
            request.rack = self.config.rack.clone();
            request.session_timeout_ms = self.config.session_timeout.as_millis() as u32;
            request.rebalance_timeout_ms = self.config.rebalance_timeout.as_millis() as u32;
            request.subscription = Some(v1::Subscription {
                topics: self.config.topics.clone(),
                pattern: self.config.pattern.clone().unwrap_or_default(),
            });
            request.assignor = self.config.assignor.wire();
            request.min_metadata_version = self.metadata_version;
        } else if let Some(ack) = &*self.ack.lock().unwrap_or_else(PoisonError::into_inner)
            && ack.losses == view.losses
            && ack.assignment_version == view.assignment_version
        {
            request.owned = Some(to_wire(&ack.owned));
        }
        request
    }

    fn blank(&self, epoch: i64) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            group: self.coordinator.group().to_string(),
            member_id: self.member_id.to_string(),
            member_epoch: epoch,
            instance_id: self.config.instance_id.clone().unwrap_or_default(),
            client_id: self.client_id.clone(),
            ..v1::HeartbeatRequest::default()
        }
    }

    /// Takes an answer. Returns when the next heartbeat is due.
    fn answered(&mut self, answer: v1::HeartbeatResponse, sent: Instant) -> Instant {
        let assignment = answer.assignment.as_ref().map(from_wire);
        self.view.send_modify(|view| {
            view.epoch = answer.member_epoch;
            view.assignment_version = answer.assignment_version;
            view.session_until = Some(sent + self.config.session_timeout);
            if let Some(assignment) = assignment {
                view.assignment = Arc::new(assignment);
            }
        });
        Instant::now() + Duration::from_millis(answer.heartbeat_interval_ms.max(1).into())
    }

    /// Takes a failed attempt. Returns how long to wait before the next one; `None`: there is none.
    fn missed(&mut self, FailedAttempt { failure, redirected }: FailedAttempt) -> Option<Duration> {
        tracing::debug!(
            group = %self.coordinator.group(), member = %self.member_id, reason = ?failure.reason, error = failure.message,
            "a heartbeat failed"
        );
        let pause = match failure.reason {
            Some(Reason::UnknownMember | Reason::FencedMemberEpoch) => {
                let was_member = self.view.borrow().epoch != JOIN;
                if was_member {
                    self.lost();
                    self.notices.publish(&Notice::MembershipLost {
                        group: self.coordinator.group().clone(),
                        cause: failure.rejection("heartbeat"),
                    });
                    return Some(Duration::ZERO);
                }
                pause(&mut self.backoff, &failure, false)
            }
            Some(Reason::UnreleasedInstanceId) => UNRELEASED_RETRY.max(pause(&mut self.backoff, &failure, false)),
            _ if failure.disposition() == Disposition::Refuse => {
                self.lost();
                let context = format!("heartbeat to group {}", self.coordinator.group());
                self.view
                    .send_modify(|view| view.fatal = Some(failure.into_error(&context)));
                return None;
            }
            _ => pause(&mut self.backoff, &failure, redirected),
        };
        let next = Next {
            next_try: pause,
            ..Next::default()
        };
        self.trouble.failed(&failure, next);
        Some(pause)
    }

    fn lost(&self) {
        self.view.send_modify(|view| {
            *view = MembershipView {
                losses: view.losses + 1,
                ..MembershipView::default()
            };
        });
    }

    /// Leaves the group, and tells the caller that waits for it, if there is one.
    async fn leave(self, left: Result<oneshot::Sender<()>, oneshot::error::RecvError>) {
        let epoch = match self.config.instance_id {
            Some(_) => LEAVE_STATIC,
            None => LEAVE,
        };
        if self.view.borrow().fatal.is_none() {
            let deadline = Instant::now() + LEAVE_TIMEOUT;
            let leaving = self.coordinator.call(deadline, |mut service| {
                let request = self.blank(epoch);
                async move { service.heartbeat(request).await }
            });
            // A member that the group no longer knows has left.
            let is_gone = |reason| {
                matches!(
                    reason,
                    Reason::UnknownMember | Reason::UnknownGroup | Reason::FencedMemberEpoch
                )
            };
            if let Err(failed) = leaving.await
                && !failed.failure.reason.is_some_and(is_gone)
            {
                let group = self.coordinator.group().clone();
                let error = failed.into_error("leave");
                self.notices.publish(&Notice::NotLeft {
                    group,
                    session_timeout: self.config.session_timeout,
                    error,
                });
            }
        }
        if let Ok(left) = left {
            let _ = left.send(());
        }
    }
}

fn from_wire(set: &v1::PartitionSet) -> BTreeSet<TopicPartition> {
    let topics = set.topics.iter().filter_map(|topic| {
        let topic_id = TopicId::from_slice(&topic.topic_id)?;
        let name: Arc<str> = topic.topic.as_str().into();
        Some(topic.partitions.iter().map(move |partition| TopicPartition {
            topic: name.clone(),
            topic_id,
            partition: *partition,
        }))
    });
    topics.flatten().collect()
}

fn to_wire(set: &BTreeSet<TopicPartition>) -> v1::PartitionSet {
    let mut topics: Vec<v1::TopicPartitions> = Vec::new();
    for partition in set {
        let topic_id = Bytes::copy_from_slice(partition.topic_id.as_bytes());
        match topics.last_mut() {
            Some(last) if last.topic_id == topic_id => last.partitions.push(partition.partition),
            _ => topics.push(v1::TopicPartitions {
                topic_id,
                topic: String::new(),
                partitions: vec![partition.partition],
            }),
        }
    }
    v1::PartitionSet { topics }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_partitions_go_over_the_wire() {
        let partition = |topic: u8, partition| TopicPartition {
            topic: format!("t{topic}").into(),
            topic_id: TopicId([topic; 16]),
            partition,
        };
        let set: BTreeSet<_> = [partition(2, 7), partition(1, 0), partition(2, 1)].into();
        let mut wire = to_wire(&set);
        assert_eq!(wire.topics.len(), 2);
        assert_eq!(wire.topics[1].partitions, [1, 7]);
        for topic in &mut wire.topics {
            topic.topic = format!("t{}", topic.topic_id[0]);
        }
        assert_eq!(from_wire(&wire), set);
    }
}
