//! The shard of the consumer groups: the real state machine and its leader, what is proposed and not committed yet, and failover.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jangada_coordinator::{
    Answer, Command, CommitRequest, Config, EndStagedRequest, Image, Leader, Now, OffsetCommit, Pending, Reply,
    StageRequest, Step, TopicPartition, TopicTable, TransactionRef,
};
use jangada_types::{Offset, ProducerId, Reason, Rejection, TopicId};

use super::Bug;

const TOPIC: TopicId = TopicId::from_u128(7);
/// Keys of offsets: partitions of one topic.
const KEYS: u32 = 16;
/// Under the bug, what comes late is staged for a producer that nobody ends.
const LATE: i64 = 1 << 40;

struct Proposed<C> {
    command: Command,
    waits: Option<(Pending, C)>,
}

/// A request's answer, and who asked.
pub type Answered<C> = (C, Result<Answer, Rejection>);

pub struct Groups<C> {
    image: Image,
    leader: Option<Leader>,
    inflight: VecDeque<Proposed<C>>,
    index: u64,
    /// By group and key the order of the staging that was committed last, and by producer that of what is staged, for the bug that goes
    /// by it.
    committed_order: BTreeMap<(Arc<str>, TopicPartition), u64>,
    staged_order: BTreeMap<ProducerId, u64>,
    bug: Option<Bug>,
}

fn now(ms: u64) -> Now {
    Now {
        monotonic_ms: ms,
        wall_ms: 1_700_000_000_000 + ms,
        steady_since_ms: 0,
    }
}

fn topics() -> Arc<TopicTable> {
    Arc::new(TopicTable::new(1, [(TOPIC, "t".into(), KEYS)]))
}

fn commit(key: u32, offset: u64) -> OffsetCommit {
    OffsetCommit {
        partition: TopicPartition::new(TOPIC, key),
        offset: Offset(i64::try_from(offset).expect("a history is short")),
        leader_epoch: None,
        metadata: "".into(),
    }
}

impl<C> Groups<C> {
    /// Groups with these names, which have committed nothing but zeros.
    pub fn new(names: &[&str], bug: Option<Bug>) -> Self {
        let image = Image::new();
        let leader = Leader::new(Config::default(), &image, topics(), now(0));
        let mut groups = Self {
            image,
            leader: Some(leader),
            inflight: VecDeque::new(),
            index: 0,
            committed_order: BTreeMap::new(),
            staged_order: BTreeMap::new(),
            bug,
        };
        for name in names {
            groups.apply(
                &Command::CommitOffsets {
                    group: (*name).into(),
                    member: None,
                    offsets: (0..KEYS).map(|key| commit(key, 0)).collect(),
                    at_ms: now(0).wall_ms,
                    topics_version: 1,
                },
                0,
            );
        }
        groups
    }

    /// Stages an offset of a transaction.
    pub fn stage(
        &mut self,
        group: &str,
        transaction: TransactionRef,
        (key, offset): (u32, u64),
        caller: C,
        ms: u64,
    ) -> Option<Answered<C>> {
        let request = StageRequest {
            commit: CommitRequest {
                group: group.into(),
                member: None,
                offsets: vec![commit(key, offset)],
            },
            transaction,
        };
        let step = self.leader.as_mut()?.stage_offsets(&self.image, request, now(ms));
        if let (Some(Bug::LateStaging), Step::Done(Err(rejection))) = (self.bug, &step)
            && matches!(
                rejection.reason,
                Reason::InvalidTransactionState | Reason::ProducerFenced
            )
        {
            self.stage_late(group, transaction, (key, offset), ms);
        }
        self.go_on(step, caller)
    }

    fn stage_late(&mut self, group: &str, transaction: TransactionRef, (key, offset): (u32, u64), ms: u64) {
        let command = Command::StageOffsets {
            group: group.into(),
            member: None,
            transaction: TransactionRef {
                producer_id: ProducerId(transaction.producer_id.get() + LATE),
                ..transaction
            },
            offsets: vec![commit(key, offset)],
            at_ms: now(ms).wall_ms,
            topics_version: 1,
        };
        self.apply(&command, ms);
    }

    /// Ends a transaction in a group.
    pub fn end(
        &mut self,
        group: &Arc<str>,
        transaction: TransactionRef,
        is_commit: bool,
        caller: C,
        ms: u64,
    ) -> Option<Answered<C>> {
        let request = EndStagedRequest {
            group: group.clone(),
            transaction,
            is_commit,
        };
        let step = self.leader.as_mut()?.end_staged(&self.image, request, now(ms));
        self.go_on(step, caller)
    }

    fn go_on(&mut self, step: Step, caller: C) -> Option<Answered<C>> {
        match step {
            Step::Done(answer) => Some((caller, answer)),
            Step::Propose { command, pending } => {
                let waits = Some((pending, caller));
                self.inflight.push_back(Proposed { command, waits });
                None
            }
            other => panic!("this leader reads no rows: {other:?}"),
        }
    }

    /// Commits the first command that is under way.
    pub fn commit(&mut self, ms: u64) -> Option<Answered<C>> {
        let Proposed { command, waits } = self.inflight.pop_front()?;
        let reply = self.apply(&command, ms);
        let (pending, caller) = waits?;
        let step = self.leader.as_mut()?.resume(&self.image, pending, reply, now(ms));
        self.go_on(step, caller)
    }

    fn apply(&mut self, command: &Command, ms: u64) -> Reply {
        let command = Command::decode(&command.encode()).expect("what was encoded can be decoded");
        let before = (self.bug == Some(Bug::PendingOrderedByStaging)).then(|| self.image.clone());
        self.index += 1;
        let reply = self.image.apply(self.index, &command);
        if let Some(leader) = &mut self.leader {
            leader.applied(&self.image, &command, &reply, now(ms));
        }
        if let Some(before) = before {
            self.order_by_staging(&before, &command, ms);
        }
        reply
    }

    /// The bug: what an end has committed is undone where something that was staged later is committed already.
    fn order_by_staging(&mut self, before: &Image, command: &Command, ms: u64) {
        let (name, transaction) = match command {
            Command::StageOffsets { transaction, .. } => {
                self.staged_order.entry(transaction.producer_id).or_insert(self.index);
                return;
            }
            Command::EndStaged { group, transaction, .. } => (group, transaction),
            _ => return,
        };
        let Some(order) = self.staged_order.remove(&transaction.producer_id) else {
            return;
        };
        let Some(group) = before.group(name) else { return };
        let Some(pending) = group.pending.get(&transaction.producer_id) else {
            return;
        };
        let is_committed = matches!(command, Command::EndStaged { is_commit: true, .. });
        if !is_committed || pending.seq != transaction.seq {
            return;
        }
        let mut undone = Vec::new();
        for partition in pending.offsets.keys() {
            let last = self.committed_order.entry((name.clone(), *partition)).or_default();
            match *last > order {
                true => undone.push(commit(
                    partition.partition.get(),
                    group.offsets[partition].offset.get().unsigned_abs(),
                )),
                false => *last = order,
            }
        }
        if !undone.is_empty() {
            let command = Command::CommitOffsets {
                group: name.clone(),
                member: None,
                offsets: undone,
                at_ms: now(ms).wall_ms,
                topics_version: 1,
            };
            self.index += 1;
            self.image.apply(self.index, &command);
        }
    }

    pub fn has_inflight(&self) -> bool {
        self.leader.is_some() && !self.inflight.is_empty()
    }

    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// The leader is gone. The first `kept` of what is under way are in the log of the next one, and nobody is answered.
    pub fn lose_leader(&mut self, kept: usize, ms: u64) {
        self.leader = None;
        for at in 0..self.inflight.len() {
            let proposed = self.inflight.pop_front().expect("it was counted");
            if at < kept {
                self.apply(&proposed.command, ms);
            }
        }
    }

    /// The next leader begins, from the state as a snapshot gives it.
    pub fn elect(&mut self, ms: u64) {
        self.image.check().expect("the state is sound");
        let restored = Image::restore(&self.image.snapshot()).expect("a snapshot can be read");
        assert_eq!(restored, self.image);
        self.image = restored;
        self.leader = Some(Leader::new(Config::default(), &self.image, topics(), now(ms)));
    }

    pub fn is_led(&self) -> bool {
        self.leader.is_some()
    }

    /// The committed offset; none: a transaction that is open has one.
    pub fn fetch(&self, group: &str, key: u32) -> Option<u64> {
        let group = self.image.group(group)?;
        let partition = TopicPartition::new(TOPIC, key);
        let is_pending = group
            .pending
            .values()
            .any(|pending| pending.offsets.contains_key(&partition));
        let offset = group
            .offsets
            .get(&partition)
            .map_or(0, |committed| committed.offset.get());
        (!is_pending).then(|| offset.unsigned_abs())
    }

    pub fn has_pending(&self) -> bool {
        self.image.groups().any(|(_, group)| !group.pending.is_empty())
    }
}
