//! A shard, partitions and groups in which nothing happens but what a scenario says.

use std::sync::Arc;

use jangada_coordinator::TransactionRef;
use jangada_transactions::{
    Acknowledgment, Answer, Config, Delivery, EndRequest, Image, InitRequest, JoinKind, JoinRequest, Outgoing,
    Producer, Rejection, Target, TransactionState, TransactionalId,
};
use jangada_types::{GroupId, Offset, ProducerId, Reason};

use crate::model::groups::Groups;
use crate::model::partition::{Applied, Partition, Proposal};
use crate::model::shard::{Shard, now};

pub const ID: &str = "id";
const GROUP: &str = "g";

pub struct Desk {
    pub shard: Shard<()>,
    pub partitions: Vec<Partition<(), ()>>,
    pub groups: Groups<()>,
    pub now_ms: u64,
    pub fresh: i64,
}

pub fn partition(at: u64) -> GroupId {
    GroupId(at)
}

pub fn join(producer: Producer, partitions: &[u64], kind: JoinKind) -> JoinRequest {
    JoinRequest {
        id: ID.into(),
        producer,
        partitions: partitions.iter().map(|at| partition(*at)).collect(),
        groups: Vec::new(),
        kind,
        metadata_version: 1,
    }
}

pub fn end(producer: Producer, commit: bool) -> EndRequest {
    EndRequest {
        id: ID.into(),
        producer,
        commit,
        bumps: true,
        fresh: None,
    }
}

fn reference(producer: Producer, seq: u64) -> TransactionRef {
    TransactionRef {
        producer_id: producer.id,
        epoch: producer.epoch,
        seq,
    }
}

impl Desk {
    pub fn new() -> Self {
        Self::with(Image::new(), Config::default())
    }

    pub fn with(image: Image, config: Config) -> Self {
        Self {
            shard: Shard::new(image, config),
            partitions: (0..3).map(|_| Partition::new(1, false, None)).collect(),
            groups: Groups::new(&[GROUP], None),
            now_ms: 0,
            fresh: 100,
        }
    }

    pub fn row(&self) -> &TransactionalId {
        self.shard.image.id(ID).expect("the id is there")
    }

    pub fn state(&self) -> TransactionState {
        self.row().state
    }

    /// The answer when what was proposed is committed at once.
    fn settled(&mut self, answered: Option<((), Result<Answer, Rejection>)>) -> Result<Answer, Reason> {
        let later = self.shard.settle(self.now_ms);
        let mut all = answered.into_iter().chain(later);
        let (_, answer) = all.next().expect("every request is answered");
        assert!(all.next().is_none(), "and once");
        answer.map_err(|rejection| rejection.reason)
    }

    pub fn init(&mut self, request: InitRequest) -> Result<Producer, Reason> {
        let answered = self.shard.ask((), self.now_ms, |leader, image, now| {
            leader.init(image, request.clone(), now)
        });
        match self.settled(answered)? {
            Answer::Initialized { producer } => Ok(producer),
            Answer::NeedsProducerId => {
                assert!(request.fresh.is_none(), "it has one");
                self.fresh += 1;
                let fresh = Some(ProducerId(self.fresh));
                self.init(InitRequest { fresh, ..request })
            }
            other => panic!("{other:?}"),
        }
    }

    /// Another process takes the id.
    pub fn take(&mut self) -> Result<Producer, Reason> {
        self.init(InitRequest {
            id: ID.into(),
            ..InitRequest::default()
        })
    }

    /// The holder asks for another epoch.
    pub fn reset(&mut self, holder: Producer) -> Result<Producer, Reason> {
        self.init(InitRequest {
            id: ID.into(),
            holder: Some(holder),
            ..InitRequest::default()
        })
    }

    pub fn join(&mut self, request: JoinRequest) -> Result<u64, Reason> {
        let answered = self
            .shard
            .ask((), self.now_ms, |leader, image, now| leader.join(image, request, now));
        match self.settled(answered)? {
            Answer::Joined { seq } => Ok(seq),
            other => panic!("{other:?}"),
        }
    }

    /// A partition's leader has a batch: it joins, and appends.
    pub fn write(&mut self, producer: Producer, at: u64, sequence: i32, value: u64) -> Result<Applied, Reason> {
        let seq = self.join(join(producer, &[at], JoinKind::Implicit))?;
        Ok(self.append(producer, seq, at, sequence, value))
    }

    /// A batch that was admitted for a transaction is applied.
    pub fn append(&mut self, producer: Producer, seq: u64, at: u64, sequence: i32, value: u64) -> Applied {
        let proposal = Proposal::Append {
            producer,
            seq,
            sequence,
            value,
        };
        self.partitions[at as usize].apply(&proposal, self.now_ms)
    }

    pub fn stage(&mut self, producer: Producer, key: u32, offset: u64) -> Result<bool, Reason> {
        let groups = vec![GROUP.into()];
        let seq = self.join(JoinRequest {
            groups,
            ..join(producer, &[], JoinKind::Implicit)
        })?;
        Ok(self.stage_in(producer, seq, key, offset))
    }

    /// An offset that was admitted for a transaction comes to its group.
    pub fn stage_in(&mut self, producer: Producer, seq: u64, key: u32, offset: u64) -> bool {
        let transaction = reference(producer, seq);
        let answered = self.groups.stage(GROUP, transaction, (key, offset), (), self.now_ms);
        let later = self.groups.commit(self.now_ms);
        let (_, answer) = answered.or(later).expect("it is answered");
        answer.is_ok()
    }

    pub fn end(&mut self, request: EndRequest) -> Result<(Producer, bool), Reason> {
        let answered = self.shard.ask((), self.now_ms, |leader, image, now| {
            leader.end(image, request.clone(), now)
        });
        match self.settled(answered)? {
            Answer::Ended { next, is_complete, .. } => Ok((next, is_complete)),
            Answer::NeedsProducerId => {
                self.fresh += 1;
                let fresh = Some(ProducerId(self.fresh));
                self.end(EndRequest { fresh, ..request })
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn commit(&mut self, producer: Producer) -> Result<(Producer, bool), Reason> {
        self.end(end(producer, true))
    }

    pub fn abort(&mut self, producer: Producer) -> Result<(Producer, bool), Reason> {
        self.end(end(producer, false))
    }

    /// The markers that are due.
    pub fn outgoing(&mut self) -> Vec<Outgoing> {
        let leader = self.shard.leader.as_mut().expect("one leads");
        leader.take_outgoing(now(self.now_ms), usize::MAX)
    }

    /// Delivers a marker, without a word of it to the shard.
    pub fn deliver(&mut self, marker: &Outgoing) {
        match &marker.target {
            Target::Partition(group) => {
                let proposal = Proposal::Marker {
                    producer: marker.producer,
                    seq: marker.seq,
                    commit: marker.commit,
                };
                self.partitions[group.get() as usize].apply(&proposal, self.now_ms);
            }
            Target::Group(name) => {
                let transaction = reference(marker.producer, marker.seq);
                self.groups.end(name, transaction, marker.commit, (), self.now_ms);
                self.groups.commit(self.now_ms);
            }
        }
    }

    /// Tells the shard what became of a marker.
    pub fn acknowledge(&mut self, marker: &Outgoing, delivery: Delivery) {
        let acknowledgment = Acknowledgment {
            id: marker.id.clone(),
            seq: marker.seq,
            target: marker.target.clone(),
            delivery,
        };
        self.shard.ask((), self.now_ms, |leader, image, now| {
            leader.acknowledge(image, &[acknowledgment], now)
        });
        self.shard.settle(self.now_ms);
    }

    /// Delivers all markers that are due, and acknowledges them.
    pub fn write_markers(&mut self) {
        for marker in self.outgoing() {
            self.deliver(&marker);
            self.acknowledge(&marker, Delivery::Done);
        }
    }

    /// Lets time pass, and does what is due then.
    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.shard.tick(self.now_ms);
        self.shard.settle(self.now_ms);
    }

    /// Another leader, to whom nothing is known but the log.
    pub fn fail_over(&mut self) {
        self.shard.lose_leader(usize::MAX, self.now_ms);
        self.shard.elect(self.now_ms);
    }

    pub fn visible(&self, at: u64) -> Vec<u64> {
        let (read, _) = self.partitions[at as usize].read(Offset(0), usize::MAX);
        read.into_iter().map(|(_, value)| value).collect()
    }

    /// Whether readers of committed records wait in a partition.
    pub fn is_open(&self, at: u64) -> bool {
        let partition = &self.partitions[at as usize];
        partition.stable_offset() < partition.state().next_offset()
    }
}

/// A process that has the id, and has written 1 to partition 0 and 2 to partition 1, and staged an offset.
pub fn writing() -> (Desk, Producer) {
    let mut desk = Desk::new();
    let producer = desk.take().expect("the id is free");
    assert_eq!(desk.write(producer, 0, 0, 1), Ok(Applied::Ok));
    assert_eq!(desk.write(producer, 1, 0, 2), Ok(Applied::Ok));
    assert_eq!(desk.stage(producer, 7, 70), Ok(true));
    (desk, producer)
}

/// That of [`Arc`] for names.
pub fn name(text: &str) -> Arc<str> {
    text.into()
}
