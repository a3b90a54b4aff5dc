//! A shard with one replica, a clock, and clients that do as the protocol says.

use std::sync::Arc;

use jangada_coordinator::{
    Answer, Command, CommitRequest, Config, EndStagedRequest, Event, Group, HeartbeatRequest, HeartbeatResponse, Image,
    Leader, Now, OffsetCommit, PartitionSet, Rejection, Reply, StageRequest, Step, Subscription, TopicPartition,
    TopicTable, TransactionRef,
};
use jangada_types::{Offset, ProducerEpoch, ProducerId, TopicId};

pub const GROUP: &str = "g";

/// The topics at a time: id, name and number of partitions.
pub type Topics = Vec<(u128, &'static str, u32)>;

pub struct World {
    pub image: Image,
    pub leader: Leader,
    pub log: Vec<Command>,
    /// The replies to the commands that were applied.
    pub replies: Vec<Reply>,
    /// The events that were emitted.
    pub events: Vec<Event>,
    pub config: Config,
    pub topics: Arc<TopicTable>,
    pub now_ms: u64,
    /// Milliseconds by which the wall clock of the leading broker is ahead.
    wall_ahead_ms: u64,
    steady_since_ms: u64,
}

impl World {
    pub fn new(topics: Topics) -> Self {
        let image = Image::new();
        let config = Config::default();
        let topics = table(1, topics);
        let leader = Leader::new(config.clone(), &image, Arc::clone(&topics), now(0));
        Self {
            image,
            leader,
            log: Vec::new(),
            replies: Vec::new(),
            events: Vec::new(),
            config,
            topics,
            now_ms: 0,
            wall_ahead_ms: 0,
            steady_since_ms: 0,
        }
    }

    /// Steps the wall clock.
    pub fn set_wall_ahead(&mut self, ms: u64) {
        (self.wall_ahead_ms, self.steady_since_ms) = (ms, self.now_ms);
    }

    pub fn now(&self) -> Now {
        let now = now(self.now_ms);
        Now {
            wall_ms: now.wall_ms + self.wall_ahead_ms,
            steady_since_ms: self.steady_since_ms,
            ..now
        }
    }

    /// Applies a command from its encoding, as a replica does. Checks that the state stays sound and a rejection
    /// changes nothing.
    pub fn apply(&mut self, command: &Command) -> Reply {
        let command = Command::decode(&command.encode()).expect("what was encoded can be decoded");
        let before = self.image.clone();
        self.log.push(command.clone());
        let reply = self.image.apply(self.log.len() as u64, &command);
        self.image.check().expect("the state is sound");
        if matches!(reply, Reply::Applied { .. }) {
            self.events.extend(Event::of(&before, &command));
        } else {
            assert!(
                before.groups().eq(self.image.groups()),
                "a rejected command changes nothing: {command:?}"
            );
        }
        let at = self.now();
        self.leader.applied(&self.image, &command, &reply, at);
        self.replies.push(reply.clone());
        reply
    }

    /// Applies commands until the request is answered.
    pub fn finish(&mut self, mut step: Step) -> Result<Answer, Rejection> {
        loop {
            match step {
                Step::Done(answer) => return answer,
                Step::Propose { command, pending } => {
                    let reply = self.apply(&command);
                    let at = self.now();
                    step = self.leader.resume(&self.image, pending, reply, at);
                }
                other => panic!("a shard reads no rows: {other:?}"),
            }
        }
    }

    pub fn heartbeat(&mut self, request: HeartbeatRequest) -> Result<Answer, Rejection> {
        let at = self.now();
        let step = self.leader.heartbeat(&self.image, request, at);
        self.finish(step)
    }

    pub fn commit(
        &mut self,
        member: Option<(&str, i64)>,
        at: TopicPartition,
        offset: i64,
    ) -> Result<Answer, Rejection> {
        let now = self.now();
        let request = CommitRequest {
            group: GROUP.into(),
            member: member.map(|(id, epoch)| (id.into(), epoch)),
            offsets: vec![commit(at, offset)],
        };
        let step = self.leader.commit(&self.image, request, now);
        self.finish(step)
    }

    /// Stages one offset, by a member or from outside.
    pub fn stage(
        &mut self,
        member: Option<(&str, i64)>,
        transaction: TransactionRef,
        at: TopicPartition,
        offset: i64,
    ) -> Result<Answer, Rejection> {
        let now = self.now();
        let request = stage(member, transaction, vec![commit(at, offset)]);
        let step = self.leader.stage_offsets(&self.image, request, now);
        self.finish(step)
    }

    /// Ends a transaction in the group, as the coordinator of its transactional id asks for.
    pub fn end(&mut self, transaction: TransactionRef, is_commit: bool) -> Result<Answer, Rejection> {
        let now = self.now();
        let request = EndStagedRequest {
            group: GROUP.into(),
            transaction,
            is_commit,
        };
        let step = self.leader.end_staged(&self.image, request, now);
        self.finish(step)
    }

    /// The committed offset of a partition; none if there is none, or no group.
    pub fn committed(&self, at: TopicPartition) -> Option<i64> {
        let group = self.image.group(GROUP)?;
        Some(group.offsets.get(&at)?.offset.get())
    }

    pub fn tick(&mut self) {
        let at = self.now();
        for command in self.leader.tick(&self.image, at) {
            self.apply(&command);
        }
    }

    /// Lets time pass up to `until`: ticks when the leader asks for it, and `clients` send heartbeats when they are
    /// due.
    pub fn run(&mut self, until: u64, clients: &mut [Client]) {
        loop {
            let beat = clients
                .iter()
                .filter(|client| client.is_alive)
                .map(|client| client.next_ms)
                .min();
            let next = beat.into_iter().chain(self.leader.next_deadline()).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now_ms = until;
                return;
            };
            self.now_ms = self.now_ms.max(next);
            self.tick();
            let now_ms = self.now_ms;
            for client in clients
                .iter_mut()
                .filter(|client| client.is_alive && client.next_ms <= now_ms)
            {
                client.beat(self);
            }
        }
    }

    /// Another replica becomes the leader.
    pub fn fail_over(&mut self) {
        let at = self.now();
        self.leader = Leader::new(self.config.clone(), &self.image, Arc::clone(&self.topics), at);
    }

    pub fn set_topics(&mut self, topics: Topics) {
        self.topics = table(self.topics.version() + 1, topics);
        let at = self.now();
        self.leader.topics_changed(&self.image, Arc::clone(&self.topics), at);
    }

    pub fn group(&self) -> &Group {
        self.image.group(GROUP).expect("the group exists")
    }

    pub fn epoch(&self) -> u32 {
        self.group().epoch.get()
    }
}

pub fn now(ms: u64) -> Now {
    Now {
        monotonic_ms: ms,
        wall_ms: 1_700_000_000_000 + ms,
        steady_since_ms: 0,
    }
}

pub fn table(version: u64, topics: Topics) -> Arc<TopicTable> {
    let topics = topics
        .into_iter()
        .map(|(id, name, count)| (TopicId::from_u128(id), Arc::from(name), count));
    Arc::new(TopicTable::new(version, topics).letting_groups_remember(true))
}

pub fn partition(topic: u128, partition: u32) -> TopicPartition {
    TopicPartition::new(TopicId::from_u128(topic), partition)
}

pub fn commit(partition: TopicPartition, offset: i64) -> OffsetCommit {
    OffsetCommit {
        partition,
        offset: Offset(offset),
        leader_epoch: None,
        metadata: "".into(),
    }
}

pub fn stage(member: Option<(&str, i64)>, transaction: TransactionRef, offsets: Vec<OffsetCommit>) -> StageRequest {
    let commit = CommitRequest {
        group: GROUP.into(),
        member: member.map(|(id, epoch)| (id.into(), epoch)),
        offsets,
    };
    StageRequest { commit, transaction }
}

pub fn transaction(producer: i64, epoch: i16, seq: u64) -> TransactionRef {
    TransactionRef {
        producer_id: ProducerId(producer),
        epoch: ProducerEpoch(epoch),
        seq,
    }
}

/// A member's process.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: Arc<str>,
    pub instance_id: Option<Arc<str>>,
    pub subscription: Subscription,
    pub session_ms: u32,
    pub epoch: i64,
    pub version: u64,
    /// The partitions whose records it hands out.
    pub owned: PartitionSet,
    pub next_ms: u64,
    pub is_alive: bool,
    pub last_error: Option<Rejection>,
}

impl Client {
    pub fn new(id: &str, topics: &[&str]) -> Self {
        Self {
            id: id.into(),
            instance_id: None,
            subscription: Subscription::new(topics.iter().copied(), None),
            session_ms: 10_000,
            epoch: 0,
            version: 0,
            owned: PartitionSet::new(),
            next_ms: 0,
            is_alive: true,
            last_error: None,
        }
    }

    pub fn with_instance(id: &str, instance_id: &str, topics: &[&str]) -> Self {
        Self {
            instance_id: Some(instance_id.into()),
            ..Self::new(id, topics)
        }
    }

    pub fn request(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            group: GROUP.into(),
            member: Arc::clone(&self.id),
            epoch: self.epoch,
            assignment_version: self.version,
            owned: Some(self.owned.clone()),
            instance_id: self.instance_id.clone(),
            client_id: "client".into(),
            client_host: "host".into(),
            session_timeout_ms: self.session_ms,
            rebalance_timeout_ms: 5_000,
            subscription: (self.epoch == 0).then(|| self.subscription.clone()),
            ..HeartbeatRequest::default()
        }
    }

    pub fn beat(&mut self, world: &mut World) {
        let answer = world.heartbeat(self.request());
        self.take(answer, world.now_ms);
    }

    /// Does at once what the answer asks for.
    pub fn take(&mut self, answer: Result<Answer, Rejection>, now_ms: u64) {
        match answer {
            Ok(Answer::Heartbeat(response)) => {
                self.next_ms = now_ms + u64::from(response.heartbeat_interval_ms);
                self.obey(response);
            }
            Ok(_) => self.forget(),
            Err(rejection) => {
                self.last_error = Some(rejection);
                self.next_ms = now_ms + 100;
                self.forget();
            }
        }
    }

    fn obey(&mut self, response: HeartbeatResponse) {
        self.epoch = response.epoch.get().into();
        self.version = response.assignment_version;
        if let Some(assignment) = response.assignment {
            self.owned = assignment;
        }
    }

    pub fn forget(&mut self) {
        self.epoch = 0;
        self.version = 0;
        self.owned = PartitionSet::new();
    }

    pub fn leave(&mut self, world: &mut World, epoch: i64) {
        let request = HeartbeatRequest {
            epoch,
            ..self.request()
        };
        let answer = world.heartbeat(request);
        assert_eq!(answer, Ok(Answer::Left));
        self.forget();
        self.is_alive = false;
    }
}

/// `count` members that started together, in a settled group.
pub fn settled(count: usize, topics: Topics) -> (World, Vec<Client>) {
    let names: Vec<&str> = topics.iter().map(|(_, name, _)| *name).collect();
    let mut clients: Vec<_> = (0..count).map(|at| Client::new(&format!("m{at}"), &names)).collect();
    let mut world = World::new(topics);
    world.run(15_000, &mut clients);
    (world, clients)
}

pub fn counts(clients: &[Client]) -> Vec<usize> {
    clients.iter().map(|client| client.owned.len()).collect()
}
