//! What offsets a group has, by the rules alone: fed with the commands that were applied, and compared with the state. Beside it the
//! coordinator of a transactional id, as far as a group hears of it.

use std::collections::{BTreeMap, BTreeSet};

use jangada_coordinator::{
    Command, EndStagedRequest, Group, OffsetCommit, Reply, StageRequest, TopicPartition, TransactionRef,
};

use crate::fixture::{GROUP, World, transaction};

type Offsets = BTreeMap<TopicPartition, i64>;
/// A producer, and the number of its transaction.
type Name = (i64, u64);

/// The offsets of the group.
#[derive(Default)]
pub struct Model {
    applied: usize,
    committed: Offsets,
    staged: BTreeMap<Name, Offsets>,
    ended: BTreeSet<Name>,
}

impl Model {
    /// Takes the commands that were applied since the last call, and compares.
    pub fn follow(&mut self, world: &World) {
        for (command, reply) in world.log.iter().zip(&world.replies).skip(self.applied) {
            self.applied += 1;
            if matches!(reply, Reply::Applied { .. }) {
                self.apply(command);
            }
        }
        let group = world.image.group(GROUP);
        let committed = group.map(|group| &group.offsets).into_iter().flatten();
        let committed: Offsets = committed.map(|(at, found)| (*at, found.offset.get())).collect();
        assert_eq!(committed, self.committed);
        assert_eq!(staged(group), self.staged);
    }

    fn apply(&mut self, command: &Command) {
        let offsets = |commits: &[OffsetCommit]| -> Vec<(TopicPartition, i64)> {
            commits
                .iter()
                .map(|commit| (commit.partition, commit.offset.get()))
                .collect()
        };
        match command {
            Command::CommitOffsets { offsets: commits, .. } => self.committed.extend(offsets(commits)),
            Command::StageOffsets {
                transaction,
                offsets: commits,
                ..
            } => {
                let name = name(*transaction);
                assert!(!self.ended.contains(&name), "{name:?} was staged after its end");
                self.staged.entry(name).or_default().extend(offsets(commits));
            }
            Command::EndStaged {
                transaction, is_commit, ..
            } => {
                let name = name(*transaction);
                self.ended.insert(name);
                let staged = self.staged.remove(&name);
                if *is_commit {
                    self.committed.extend(staged.unwrap_or_default());
                }
            }
            Command::ForgetTopics { topics, .. } => {
                for offsets in self.staged.values_mut().chain([&mut self.committed]) {
                    offsets.retain(|at, _| !topics.contains(&at.topic));
                }
                self.staged.retain(|_, offsets| !offsets.is_empty());
            }
            Command::DeleteOffsets { partitions, .. } => {
                assert!(self.staged.is_empty());
                self.committed.retain(|at, _| !partitions.contains(*at));
            }
            Command::DeleteGroup { .. } | Command::ExpireGroup { .. } => {
                assert!(self.staged.is_empty(), "a group with an open transaction is gone");
                self.committed.clear();
            }
            _ => {}
        }
    }
}

fn name(transaction: TransactionRef) -> Name {
    (transaction.producer_id.get(), transaction.seq)
}

fn staged(group: Option<&Group>) -> BTreeMap<Name, Offsets> {
    let pending = group.map(|group| &group.pending).into_iter().flatten();
    let staged = pending.map(|(producer, pending)| {
        let offsets = pending.offsets.iter();
        let offsets = offsets.map(|(at, staged)| (*at, staged.offset.get())).collect();
        ((producer.get(), pending.seq), offsets)
    });
    staged.collect()
}

/// A producer with a transactional id, whose coordinator sends the ends.
pub struct Producer {
    id: i64,
    epoch: i16,
    seq: u64,
    state: Transaction,
    /// Whether each transaction has an epoch of its own. It has not for clients of Kafka's older protocol.
    has_own_epochs: bool,
    pub staged: Vec<StageRequest>,
    pub ended: Vec<EndStagedRequest>,
}

#[derive(Clone, Copy, PartialEq)]
enum Transaction {
    None,
    Open,
    Ending { is_commit: bool },
}

impl Producer {
    pub fn new(id: i64) -> Self {
        Self {
            id,
            epoch: 0,
            seq: 0,
            state: Transaction::None,
            has_own_epochs: id % 2 == 0,
            staged: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// The transaction that a staging is part of now; none while one is being ended.
    pub fn join(&mut self) -> Option<TransactionRef> {
        match self.state {
            Transaction::None => self.seq += 1,
            Transaction::Open => {}
            Transaction::Ending { .. } => return None,
        }
        self.state = Transaction::Open;
        Some(transaction(self.id, self.epoch, self.seq))
    }

    /// The end of the open transaction. If it has been decided, the same once more.
    pub fn end(&mut self, is_commit: bool) -> Option<EndStagedRequest> {
        let is_commit = match self.state {
            Transaction::None => return None,
            Transaction::Open => {
                self.epoch += i16::from(self.has_own_epochs);
                is_commit
            }
            Transaction::Ending { is_commit } => is_commit,
        };
        self.state = Transaction::Ending { is_commit };
        let request = EndStagedRequest {
            group: GROUP.into(),
            transaction: transaction(self.id, self.epoch, self.seq),
            is_commit,
        };
        self.ended.push(request.clone());
        Some(request)
    }

    /// The group has acknowledged an end. The next transaction may begin if it was that of the last one.
    pub fn acknowledged(&mut self, transaction: TransactionRef) {
        if name(transaction) == (self.id, self.seq) && self.state != Transaction::Open {
            self.state = Transaction::None;
        }
    }

    pub fn is_at_rest(&self) -> bool {
        self.state == Transaction::None
    }
}
