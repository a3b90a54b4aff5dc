//! The group service: one shard, with the real coordinator, on one of the brokers. Commands are applied at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jangada_coordinator::{
    Answer, Assignor, CommitRequest, Config, EndStagedRequest, HeartbeatRequest, Image, Leader, Now, OffsetCommit,
    PartitionSet, Rejection, StageRequest, Step, Subscription, TopicPartition, TopicTable, require_stable,
};
use jangada_proto::v1;
use jangada_types::{LeaderEpoch, Offset, Reason, TopicId};
use tonic::{Request, Response, Status};

use super::{Broker, Error, State};

/// The fault of the next call of its kind.
#[derive(Clone, Debug)]
pub enum GroupFault {
    /// The call is refused without effect.
    Refuse(Error),
    /// The call takes effect, and the answer is lost.
    Lose,
    /// The call takes effect, and the answer comes later. Only for commits.
    Slow(Duration),
    /// The call takes effect later, whether or not its caller still waits.
    Late(Duration),
}

/// A call that came to the coordinator and took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A heartbeat, with the partitions that the member says it owns, if it does.
    Heartbeat(String, Option<Vec<u32>>),
    /// A commit, with its partitions.
    Commit(String, Vec<u32>),
}

/// The state of the coordinator.
pub struct Groups {
    /// The broker that coordinates.
    pub broker: u32,
    image: Image,
    leader: Leader,
    topics_version: u64,
    index: u64,
    began: Instant,
    pub heartbeat_faults: VecDeque<GroupFault>,
    pub commit_faults: VecDeque<GroupFault>,
    pub fetch_faults: VecDeque<GroupFault>,
    /// All heartbeats that took effect.
    pub heartbeats: Vec<v1::HeartbeatRequest>,
    /// All commits that took effect.
    pub commits: Vec<v1::CommitOffsetsRequest>,
    /// Heartbeats and commits, in the order in which they came.
    pub events: Vec<Event>,
    /// The reasons of commits that were refused.
    pub refused: Vec<Reason>,
    /// The member whose heartbeats get no answer.
    pub deaf: Option<String>,
    pub finds: u32,
}

fn config() -> Config {
    Config {
        heartbeat_interval_ms: 200,
        busy_heartbeat_interval_ms: 30,
        batch_window_ms: 10,
        batch_window_ms_max: 50,
        ..Config::default()
    }
}

impl Default for Groups {
    fn default() -> Self {
        let image = Image::new();
        let began = Instant::now();
        Self {
            broker: 1,
            leader: Leader::new(config(), &image, Arc::default(), now(began)),
            image,
            topics_version: 0,
            index: 0,
            began,
            heartbeat_faults: VecDeque::new(),
            commit_faults: VecDeque::new(),
            fetch_faults: VecDeque::new(),
            heartbeats: Vec::new(),
            commits: Vec::new(),
            events: Vec::new(),
            refused: Vec::new(),
            deaf: None,
            finds: 0,
        }
    }
}

fn now(began: Instant) -> Now {
    Now {
        monotonic_ms: began.elapsed().as_millis() as u64,
        wall_ms: 1_700_000_000_000 + began.elapsed().as_millis() as u64,
        steady_since_ms: 0,
    }
}

impl Groups {
    /// Makes another broker the leader of the shard: it has the image, and begins with full sessions.
    pub fn move_to(&mut self, broker: u32) {
        self.broker = broker;
        let topics = Arc::default();
        self.leader = Leader::new(config(), &self.image, topics, now(self.began));
        self.topics_version = 0;
    }

    fn apply(&mut self, command: &jangada_coordinator::Command) -> jangada_coordinator::Reply {
        self.index += 1;
        let reply = self.image.apply(self.index, command);
        let now = now(self.began);
        self.leader.applied(&self.image, command, &reply, now);
        reply
    }

    fn tick(&mut self) {
        for command in self.leader.tick(&self.image, now(self.began)) {
            self.apply(&command);
        }
    }

    fn carry_out(&mut self, mut step: Step) -> Result<Answer, Rejection> {
        loop {
            match step {
                Step::Done(result) => return result,
                Step::Propose { command, pending } => {
                    let reply = self.apply(&command);
                    step = self.leader.resume(&self.image, pending, reply, now(self.began));
                }
                other => panic!("a shard reads no rows: {other:?}"),
            }
        }
    }

    /// Ends a transaction in a group.
    pub fn end_staged(&mut self, request: EndStagedRequest) {
        let now = now(self.began);
        let step = self.leader.end_staged(&self.image, request, now);
        assert_eq!(self.carry_out(step), Ok(Answer::Ended));
    }

    fn set(&self, set: &PartitionSet) -> Vec<(TopicId, Vec<u32>)> {
        set.by_topic()
            .map(|(topic, partitions)| (topic, partitions.iter().map(|p| p.partition.get()).collect()))
            .collect()
    }

    /// The members of a group, each with the partitions that it holds.
    pub fn members(&self, group: &str) -> Vec<(String, Vec<u32>)> {
        let Some(group) = self.image.group(group) else {
            return Vec::new();
        };
        let held = |member: &jangada_coordinator::Member| member.held().iter().map(|p| p.partition.get()).collect();
        group.members.iter().map(|(id, m)| (id.to_string(), held(m))).collect()
    }

    /// Whether all members have their targets.
    pub fn is_stable(&self, group: &str) -> bool {
        self.image.state(group) == jangada_coordinator::GroupState::Stable
    }

    /// Takes the next commit's fault if it is a delay.
    fn time_of_commit(&mut self) -> Option<GroupFault> {
        self.commit_faults
            .pop_front_if(|fault| matches!(fault, GroupFault::Slow(_) | GroupFault::Late(_)))
    }

    /// Whether a member of the group is to give up partitions.
    pub fn is_revoking(&self, group: &str) -> bool {
        let group = self.image.group(group);
        group.is_some_and(|group| group.members.values().any(|member| !member.revoking().is_empty()))
    }

    /// The epoch of a member.
    pub fn epoch(&self, group: &str, member: &str) -> u32 {
        self.image.group(group).expect("it exists").members[member].epoch.get()
    }

    pub fn committed(&self, group: &str, topic: TopicId, partition: u32) -> Option<i64> {
        let committed = self
            .image
            .group(group)?
            .committed(topic, jangada_types::PartitionIndex(partition))?;
        Some(committed.offset.get())
    }

    /// Removes a member as if its session had ended.
    pub fn throw_out(&mut self, group: &str, member: &str) {
        let version = self.image.group(group).expect("it exists").members[member].version;
        self.apply(&jangada_coordinator::Command::RemoveMembers {
            group: group.into(),
            members: vec![(member.into(), version)],
            cause: jangada_coordinator::RemovalCause::SessionExpired,
            at_ms: 1,
        });
    }
}

impl State {
    /// The coordinator with the topics as they are and the timers that are due.
    pub fn groups(&mut self) -> &mut Groups {
        if self.groups.topics_version != self.version {
            self.groups.topics_version = self.version;
            let topics = self
                .topics
                .iter()
                .map(|(name, topic)| (topic.id, Arc::from(name.as_str()), topic.partitions.len() as u32));
            let table = TopicTable::new(self.version, topics).letting_groups_remember(true);
            let table = Arc::new(table);
            let now = now(self.groups.began);
            let Groups { leader, image, .. } = &mut self.groups;
            leader.topics_changed(image, table, now);
        }
        self.groups.tick();
        &mut self.groups
    }

    fn topic_name(&self, id: TopicId) -> String {
        let found = self.topics.iter().find(|(_, topic)| topic.id == id);
        found.map(|(name, _)| name.clone()).unwrap_or_default()
    }
}

fn refused(rejection: &Rejection) -> Status {
    Error::definite(rejection.reason).status()
}

fn owned(set: v1::PartitionSet) -> PartitionSet {
    set.topics
        .iter()
        .flat_map(|topic| {
            let id = TopicId::from_slice(&topic.topic_id).expect("16 bytes");
            topic.partitions.iter().map(move |p| TopicPartition::new(id, *p))
        })
        .collect()
}

fn partition(partition: Option<v1::TopicPartition>) -> TopicPartition {
    let partition = partition.expect("a partition");
    TopicPartition::new(
        TopicId::from_slice(&partition.topic_id).expect("16 bytes"),
        partition.partition,
    )
}

impl Broker {
    /// Does the work at the coordinator, unless this is another broker or the script says otherwise.
    fn coordinate<T>(
        &self,
        kind: impl FnOnce(&mut Groups) -> Option<&mut VecDeque<GroupFault>>,
        work: impl FnOnce(&mut State) -> Result<T, Rejection>,
    ) -> Result<Response<T>, Status> {
        let mut state = self.shared.lock();
        let coordinator = state.groups().broker;
        if coordinator != self.id {
            let address = state.addresses[&coordinator].to_string();
            let error = Error::definite(Reason::NotLeader).with("leader_id", coordinator);
            return Err(error.with("leader_address", address).status());
        }
        let fault = kind(state.groups()).and_then(VecDeque::pop_front);
        if let Some(GroupFault::Refuse(error)) = fault {
            return Err(error.status());
        }
        let done = work(&mut state).map_err(|rejection| refused(&rejection))?;
        match fault {
            Some(GroupFault::Lose) => Err(Status::unavailable("the connection broke")),
            _ => Ok(Response::new(done)),
        }
    }
}

impl Broker {
    fn commit(&self, wire: v1::CommitOffsetsRequest) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let offset = |offset: v1::PartitionOffset| OffsetCommit {
            partition: partition(offset.partition),
            offset: Offset(offset.offset),
            leader_epoch: offset.leader_epoch.map(LeaderEpoch),
            metadata: offset.metadata.into(),
        };
        let request = CommitRequest {
            group: wire.group.as_str().into(),
            member: Some((wire.member_id.as_str().into(), wire.member_epoch)).filter(|_| !wire.member_id.is_empty()),
            offsets: wire.offsets.clone().into_iter().map(offset).collect(),
        };
        self.coordinate(
            |groups| Some(&mut groups.commit_faults),
            |state| {
                let transaction = match &wire.transaction {
                    Some(transaction) => match state.join_group(transaction, &wire.group) {
                        Ok(transaction) => Some(transaction),
                        Err(error) => return Err(Rejection::new(error.reason, "as scripted")),
                    },
                    None => None,
                };
                let groups = state.groups();
                let now = now(groups.began);
                let step = match transaction {
                    Some(transaction) => {
                        let commit = request;
                        groups
                            .leader
                            .stage_offsets(&groups.image, StageRequest { commit, transaction }, now)
                    }
                    None => groups.leader.commit(&groups.image, request, now),
                };
                if let Err(rejection) = groups.carry_out(step) {
                    groups.refused.push(rejection.reason);
                    return Err(rejection);
                }
                let partitions = wire.offsets.iter().map(|offset| partition(offset.partition.clone()));
                let partitions = partitions.map(|partition| partition.partition.get()).collect();
                groups.events.push(Event::Commit(wire.member_id.clone(), partitions));
                groups.commits.push(wire);
                Ok(v1::CommitOffsetsResponse {})
            },
        )
    }

    fn heartbeat_now(&self, wire: v1::HeartbeatRequest) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let member = wire.member_id.clone();
        let subscription = wire.subscription.clone().map(|subscription| {
            let pattern = Some(&*subscription.pattern).filter(|pattern| !pattern.is_empty());
            Subscription::new(subscription.topics.iter().map(String::as_str), pattern)
        });
        let some = |text: &str| Some(Arc::from(text)).filter(|_: &Arc<str>| !text.is_empty());
        let request = HeartbeatRequest {
            group: wire.group.as_str().into(),
            member: wire.member_id.as_str().into(),
            epoch: wire.member_epoch,
            assignment_version: wire.assignment_version,
            owned: wire.owned.clone().map(owned),
            instance_id: some(&wire.instance_id),
            client_id: wire.client_id.as_str().into(),
            client_host: Arc::default(),
            rack: some(&wire.rack),
            session_timeout_ms: wire.session_timeout_ms,
            rebalance_timeout_ms: wire.rebalance_timeout_ms,
            subscription,
            assignor: match v1::Assignor::try_from(wire.assignor) {
                Ok(v1::Assignor::Uniform) => Some(Assignor::Uniform),
                Ok(v1::Assignor::Range) => Some(Assignor::Range),
                _ => None,
            },
        };
        let answer = self.coordinate(
            |groups| Some(&mut groups.heartbeat_faults),
            |state| {
                let groups = state.groups();
                let now = now(groups.began);
                let step = groups.leader.heartbeat(&groups.image, request, now);
                let answer = groups.carry_out(step)?;
                let owned = wire.owned.as_ref().map(|set| {
                    let partitions = set.topics.iter().flat_map(|topic| topic.partitions.clone());
                    partitions.collect()
                });
                let event = Event::Heartbeat(wire.member_id.clone(), owned);
                groups.events.push(event);
                groups.heartbeats.push(wire);
                let Answer::Heartbeat(answer) = answer else {
                    return Ok(v1::HeartbeatResponse::default());
                };
                let assignment = answer.assignment.as_ref().map(|set| groups.set(set));
                let topics = assignment.map(|set| {
                    let topic = |(id, partitions): (TopicId, Vec<u32>)| v1::TopicPartitions {
                        topic_id: id.as_bytes().to_vec().into(),
                        topic: state.topic_name(id),
                        partitions,
                    };
                    set.into_iter().map(topic).collect()
                });
                Ok(v1::HeartbeatResponse {
                    member_epoch: answer.epoch.get().into(),
                    heartbeat_interval_ms: answer.heartbeat_interval_ms,
                    assignment_version: answer.assignment_version,
                    assignment: topics.map(|topics| v1::PartitionSet { topics }),
                })
            },
        );
        if self.shared.lock().groups().deaf.as_ref() == Some(&member) {
            return Err(Status::unavailable("the connection broke"));
        }
        answer
    }
}

#[tonic::async_trait]
impl v1::group_service_server::GroupService for Broker {
    async fn find_coordinator(
        &self,
        _: Request<v1::FindCoordinatorRequest>,
    ) -> Result<Response<v1::FindCoordinatorResponse>, Status> {
        self.thaw().await;
        let mut state = self.shared.lock();
        let broker_id = state.groups().broker;
        state.groups().finds += 1;
        Ok(Response::new(v1::FindCoordinatorResponse {
            broker_id,
            address: state.addresses[&broker_id].to_string(),
            shard: 0,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        self.thaw().await;
        let wire = request.into_inner();
        let late = |fault: &mut GroupFault| matches!(fault, GroupFault::Late(_));
        let time = self.shared.lock().groups().heartbeat_faults.pop_front_if(late);
        if let Some(GroupFault::Late(pause)) = time {
            let broker = self.clone();
            let late = tokio::spawn(async move {
                // The pause is the fault itself: a coordinator that takes that long.
                tokio::time::sleep(pause).await;
                broker.heartbeat_now(wire)
            });
            return late.await.expect("no panic");
        }
        self.heartbeat_now(wire)
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        self.thaw().await;
        let wire = request.into_inner();
        let time = self.shared.lock().groups().time_of_commit();
        // The pauses are the faults themselves: a coordinator that takes that long.
        match time {
            Some(GroupFault::Slow(pause)) => {
                let answer = self.commit(wire);
                tokio::time::sleep(pause).await;
                answer
            }
            Some(GroupFault::Late(pause)) => {
                let broker = self.clone();
                let late = tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    broker.commit(wire)
                });
                late.await.expect("no panic")
            }
            _ => self.commit(wire),
        }
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        self.thaw().await;
        let wire = request.into_inner();
        self.coordinate(
            |groups| Some(&mut groups.fetch_faults),
            |state| {
                let groups = state.groups();
                let wanted: Vec<_> = wire
                    .partitions
                    .iter()
                    .cloned()
                    .map(|wanted| partition(Some(wanted)))
                    .collect();
                if let Some(group) = groups.image.group(&wire.group).filter(|_| wire.require_stable) {
                    require_stable(&wire.group, group, &wanted)?;
                }
                let offsets = wire.partitions.into_iter().map(|wanted| {
                    let found = partition(Some(wanted.clone()));
                    let offset = groups.committed(&wire.group, found.topic, found.partition.get());
                    let group = groups.image.group(&wire.group);
                    v1::PartitionOffset {
                        partition: Some(wanted),
                        offset: offset.unwrap_or(-1),
                        added: offset.is_none() && group.is_some_and(|group| group.is_added(found)),
                        ..v1::PartitionOffset::default()
                    }
                });
                Ok(v1::FetchOffsetsResponse {
                    offsets: offsets.collect(),
                })
            },
        )
    }

    async fn list_groups(&self, _: Request<v1::ListGroupsRequest>) -> Result<Response<v1::ListGroupsResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn describe_group(
        &self,
        _: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let group = request.into_inner().group;
        self.coordinate(
            |_| None,
            |state| {
                let groups = state.groups();
                let now = now(groups.began);
                let step = groups.leader.delete_group(&groups.image, group.as_str().into(), now);
                groups.carry_out(step)?;
                Ok(v1::DeleteGroupResponse { deleted: 1 })
            },
        )
    }

    async fn delete_offsets(
        &self,
        _: Request<v1::DeleteOffsetsRequest>,
    ) -> Result<Response<v1::DeleteOffsetsResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }
}
