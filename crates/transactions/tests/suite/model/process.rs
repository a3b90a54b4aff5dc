//! The process of a client: it takes its transactional id, and writes one transaction after the other. It sends again what is not answered,
//! and goes on or ends by what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_transactions::{Answer, Producer};
use jangada_types::Reason;

use super::partition::Applied;
use super::world::World;
use crate::anomalies::Fate;

/// After this time a call is sent again, milliseconds.
const AGAIN_MS: u64 = 600;
/// The same for clients whose epoch does not change: longer than any message of theirs is under way.
const AGAIN_MS_OLD: u64 = 3_000;

/// A call of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Init {
        holder: Option<Producer>,
    },
    /// For clients that add partitions themselves.
    AddPartitions {
        partitions: Vec<usize>,
        groups: Vec<&'static str>,
    },
    Produce {
        partition: usize,
        sequence: i32,
        value: u64,
    },
    Stage {
        group: &'static str,
        key: u32,
        offset: u64,
    },
    Fetch,
    /// A transaction reads the last committed values of a partition.
    Read {
        partition: usize,
    },
    End {
        commit: bool,
    },
}

/// What a client is told.
#[derive(Clone, Debug)]
pub enum Told {
    Shard(Result<Answer, Reason>),
    Appended(Applied),
    Staged(bool),
    Fetched(Option<u64>),
    Read(Vec<u64>),
}

#[derive(Clone, Debug)]
struct Op {
    call: Call,
    due_ms: u64,
    sent_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Working,
    Ending,
    Dead,
}

#[derive(Debug)]
pub struct Process {
    pub id: Arc<str>,
    /// The input that it reads, for a process that consumes, transforms and produces.
    pub input: Option<u32>,
    /// Whether each of its transactions has an epoch of its own (KIP-890).
    pub bumps: bool,
    pub producer: Option<Producer>,
    phase: Phase,
    ops: BTreeMap<u64, Op>,
    transaction: Option<usize>,
    sequences: BTreeMap<usize, i32>,
    position: Option<u64>,
    has_staged: bool,
    must_abort: bool,
    must_reset: bool,
    paused_until_ms: u64,
    /// For what was fetched last: the committed offset that must be there at least.
    at_least: u64,
}

impl Process {
    pub fn new(id: Arc<str>, input: Option<u32>, bumps: bool) -> Self {
        Self {
            id,
            input,
            bumps,
            producer: None,
            phase: Phase::Starting,
            ops: BTreeMap::new(),
            transaction: None,
            sequences: BTreeMap::new(),
            position: None,
            has_staged: false,
            must_abort: false,
            must_reset: false,
            paused_until_ms: 0,
            at_least: 0,
        }
    }

    pub fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    /// Whether it waits for something of a transaction that it has begun.
    pub fn is_in_transaction(&self) -> bool {
        !self.is_dead() && self.transaction.is_some()
    }

    pub fn kill(&mut self) {
        self.phase = Phase::Dead;
    }

    pub fn pause(&mut self, until_ms: u64) {
        self.paused_until_ms = until_ms;
    }

    fn put(&mut self, op: u64, call: Call, due_ms: u64) {
        let sent_ms = None;
        self.ops.insert(op, Op { call, due_ms, sent_ms });
    }
}

impl World {
    /// Lets a process go on: it decides what to do next, and sends what is due.
    pub fn drive(&mut self, at: usize) {
        let process = &self.processes[at];
        if process.is_dead() {
            return;
        }
        if process.paused_until_ms > self.now_ms {
            return self.wake(at, process.paused_until_ms);
        }
        if self.stopped && process.transaction.is_none() {
            return self.processes[at].kill();
        }
        if process.ops.is_empty() {
            self.next_phase(at);
        }
        self.abandon(at);
        self.send_due(at);
    }

    fn next_phase(&mut self, at: usize) {
        let phase = self.processes[at].phase;
        match phase {
            Phase::Starting => {
                let holder = self.processes[at].producer;
                self.call(at, Call::Init { holder });
            }
            Phase::Ready if self.processes[at].input.is_some() && self.processes[at].position.is_none() => {
                let input = self.processes[at].input.expect("it has one");
                self.processes[at].at_least = self.acknowledged.get(&input).copied().unwrap_or(0);
                self.call(at, Call::Fetch);
            }
            Phase::Ready => self.begin(at),
            Phase::Working => {
                let aborts = self.processes[at].must_abort || self.chance(8);
                if !aborts && self.processes[at].input.is_none() && self.chance(3) {
                    return self.produce_more(at);
                }
                self.finish(at, !aborts);
            }
            Phase::Ending | Phase::Dead => {}
        }
    }

    fn call(&mut self, at: usize, call: Call) {
        let op = self.next_op();
        let due = self.now_ms;
        self.processes[at].put(op, call, due);
    }

    fn begin(&mut self, at: usize) {
        let transaction = self.checker.begin();
        let process = &mut self.processes[at];
        (process.transaction, process.phase) = (Some(transaction), Phase::Working);
        (process.must_abort, process.has_staged) = (false, false);
        if !process.bumps {
            let partitions = (0..self.known_partitions()).collect();
            let groups = vec!["inputs", "registers"];
            return self.call(at, Call::AddPartitions { partitions, groups });
        }
        self.produce_more(at);
    }

    /// One value to each of a few partitions, and an offset. A transaction stages an offset once, as a client must: a first copy of an
    /// earlier one could come late, and nothing says that it is older.
    fn produce_more(&mut self, at: usize) {
        let transaction = self.processes[at].transaction.expect("one is open");
        let inputs = match (self.processes[at].input, self.processes[at].position) {
            (Some(input), Some(position)) => {
                let count = 1 + self.seeds.below(3);
                self.processes[at].position = Some(position + count);
                let offset = position + count;
                self.call(
                    at,
                    Call::Stage {
                        group: "inputs",
                        key: input,
                        offset,
                    },
                );
                (position..offset).map(|offset| Some((input, offset))).collect()
            }
            _ => {
                if !self.processes[at].has_staged && self.chance(3) {
                    self.processes[at].has_staged = true;
                    let key = self.seeds.below(2) as u32;
                    let offset = self.next_op();
                    let group = "registers";
                    self.call(at, Call::Stage { group, key, offset });
                }
                if self.chance(2) {
                    let partition = self.seeds.below(self.known_partitions() as u64) as usize;
                    self.call(at, Call::Read { partition });
                }
                vec![None; 1 + self.seeds.below(3) as usize]
            }
        };
        for input in inputs {
            let partition = self.seeds.below(self.known_partitions() as u64) as usize;
            let value = self.checker.value(transaction, input);
            let sequence = self.processes[at].sequences.entry(partition).or_insert(-1);
            *sequence += 1;
            let sequence = *sequence;
            self.call(
                at,
                Call::Produce {
                    partition,
                    sequence,
                    value,
                },
            );
        }
    }

    fn finish(&mut self, at: usize, commit: bool) {
        let transaction = self.processes[at].transaction.expect("one is open");
        let now_ms = self.now_ms;
        if commit {
            let transaction = &mut self.checker.transactions[transaction];
            transaction.fate = Fate::Unknown;
            transaction.end_sent_ms.get_or_insert(now_ms);
        }
        self.processes[at].phase = Phase::Ending;
        self.call(at, Call::End { commit });
    }

    /// A transaction that is to be aborted does not wait for its calls, unless late ones could act on the next one.
    fn abandon(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let process = &mut self.processes[at];
        if process.phase != Phase::Working || !process.must_abort {
            return;
        }
        let was_sent = |op: &Op| op.sent_ms.is_some_and(|sent| now_ms < sent + AGAIN_MS_OLD);
        if !process.bumps && process.ops.values().any(was_sent) {
            return;
        }
        process.must_reset = !process.ops.is_empty();
        process.ops.clear();
        self.finish(at, false);
    }

    fn send_due(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let process = &mut self.processes[at];
        let again_ms = if process.bumps { AGAIN_MS } else { AGAIN_MS_OLD };
        // One batch to each partition at a time, in their order, and what adds the partitions before all.
        let mut busy = Vec::new();
        let mut sent = Vec::new();
        for (op, pending) in &mut process.ops {
            if let Call::Produce { partition, .. } = pending.call {
                if busy.contains(&partition) {
                    continue;
                }
                busy.push(partition);
            }
            if pending.due_ms <= now_ms {
                pending.due_ms = now_ms + again_ms;
                pending.sent_ms = Some(now_ms);
                sent.push((*op, pending.call.clone()));
            }
        }
        let next = process
            .ops
            .values()
            .map(|op| op.due_ms)
            .filter(|due| *due > now_ms)
            .min();
        let producer = process.producer;
        for (op, call) in sent {
            self.checker.operations += 1;
            self.send(at, op, producer, call);
        }
        if let Some(next) = next {
            self.wake(at, next);
        }
    }

    /// Takes an answer. An answer to a call that was answered before, or given up, says nothing.
    pub fn told(&mut self, at: usize, op: u64, told: Told) {
        let now_ms = self.now_ms;
        let process = &mut self.processes[at];
        if process.is_dead() {
            return;
        }
        let Some(pending) = process.ops.remove(&op) else { return };
        let again = |world: &mut Self, call: Call, after_ms: u64| {
            let op = world.next_op();
            world.processes[at].put(op, call, now_ms + after_ms);
        };
        match (pending.call, told) {
            (Call::Init { .. }, Told::Shard(Ok(Answer::Initialized { producer }))) => {
                (process.producer, process.phase, process.must_reset) = (Some(producer), Phase::Ready, false);
                process.sequences.clear();
            }
            (Call::End { commit }, Told::Shard(Ok(Answer::Ended { next, is_complete, .. }))) => {
                self.ended(at, commit, next, is_complete);
            }
            (Call::AddPartitions { .. }, Told::Shard(Ok(_))) => self.produce_more(at),
            (call @ Call::Produce { partition, value, .. }, told) => match told {
                Told::Appended(Applied::Ok) => {
                    let transaction = process.transaction.expect("one is open");
                    self.checker.transactions[transaction].values.push((partition, value));
                }
                Told::Shard(Err(Reason::ConcurrentTransactions)) => again(self, call, 20),
                _ => process.must_abort = true,
            },
            (call @ Call::Stage { group, key, offset }, told) => match told {
                Told::Staged(true) => {
                    let transaction = process.transaction.expect("one is open");
                    self.checker.transactions[transaction]
                        .offsets
                        .push((group, key, offset));
                }
                Told::Shard(Err(Reason::ConcurrentTransactions)) => again(self, call, 20),
                _ => process.must_abort = true,
            },
            (Call::Read { .. }, Told::Read(values)) => {
                let transaction = process.transaction.expect("one is open");
                self.checker.transactions[transaction].reads.extend(values);
            }
            (Call::Fetch, Told::Fetched(Some(offset))) => {
                assert!(
                    offset >= process.at_least,
                    "spurious offset: {offset} after {}",
                    process.at_least
                );
                process.position = Some(offset);
            }
            (call @ Call::Fetch, Told::Fetched(None)) => again(self, call, 20),
            (
                call @ (Call::Init { .. } | Call::End { .. } | Call::AddPartitions { .. }),
                Told::Shard(Err(Reason::ConcurrentTransactions)),
            ) => {
                again(self, call, 20);
            }
            (Call::AddPartitions { .. }, Told::Shard(Err(Reason::TransactionTimedOut))) => process.must_abort = true,
            (Call::End { commit: true }, Told::Shard(Err(Reason::TransactionTimedOut))) => {
                let transaction = process.transaction.expect("one is open");
                self.checker.transactions[transaction].fate = Fate::Aborted;
                again(self, Call::End { commit: false }, 0);
            }
            // Fenced, or it no longer knows what is. Another process starts.
            _ => process.kill(),
        }
        self.drive(at);
    }

    fn ended(&mut self, at: usize, commit: bool, next: Producer, is_complete: bool) {
        let now_ms = self.now_ms;
        let process = &mut self.processes[at];
        let number = process.transaction.take().expect("one was open");
        let transaction = &mut self.checker.transactions[number];
        if commit {
            transaction.fate = Fate::Committed;
            transaction.complete_ms = is_complete.then_some(now_ms);
            for (group, key, offset) in &transaction.offsets {
                if *group == "inputs" {
                    let known = self.acknowledged.entry(*key).or_default();
                    *known = (*known).max(*offset);
                }
            }
        } else {
            process.position = None;
        }
        if Some(next) != process.producer {
            process.sequences.clear();
        }
        process.producer = Some(next);
        process.phase = Phase::Ready;
        if !process.bumps && process.must_reset {
            process.phase = Phase::Starting;
        }
        if self.chance(20) {
            let pause = 500 + self.seeds.below(4_000);
            self.processes[at].pause(now_ms + pause);
        }
    }
}
