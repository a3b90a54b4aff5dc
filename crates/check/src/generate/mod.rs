//! Correct histories from a seed: a small cluster that makes no mistakes, its clients, and calls whose outcome is not known. What the
//! checker says of them must be valid, and with one thing changed, that thing.

mod log;
mod queue;
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::call::{
    self, Call, Done, Isolation, Offset, Offsets, Polled, QueueSend, Received, Reply, Sent, Settle, Settled,
    Settlement, Value,
};
use crate::note::{Fault, FaultPhase, Final, Note, PartitionSettings, QueueSettings};
use crate::recorder::{Clock, Pending, Recorder};

use self::log::Log;
use self::queue::{InHand, Queue};
use self::random::Random;

/// What a generated history is like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many calls there are.
    pub operations: u64,
    /// Where the random numbers begin.
    pub seed: u64,
    /// Partitions without compaction; one more is compacted.
    pub partitions: usize,
    /// Processes of each kind.
    pub processes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            operations: 1_000,
            seed: 1,
            partitions: 4,
            processes: 3,
        }
    }
}

/// A clock that only the generator moves.
pub fn clock() -> (Clock, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(0));
    let read = time.clone();
    (Arc::new(move || read.load(Ordering::Relaxed)), time)
}

const GROUP: &str = "readers";
const KEYS: usize = 20;
const LEASE_NS: u64 = 40_000_000;
/// Records of a final read in one event.
const PART: usize = 10_000;
/// In a hundred: calls whose outcome is not known, and calls that are refused.
const UNKNOWN: u64 = 2;
const REFUSED: u64 = 2;

/// Records a history of a cluster without mistakes. The recorder's clock is to be that of [`clock`].
pub fn generate(options: &Options, time: &AtomicU64, recorder: &Recorder) {
    let mut world = World::new(options, recorder);
    world.begin();
    let mut clients: Vec<Client> = Vec::new();
    for kind in [
        Kind::Producer,
        Kind::Transactional,
        Kind::Reader,
        Kind::Member,
        Kind::QueueUser,
    ] {
        clients.extend((0..options.processes).map(|_| Client::new(kind, recorder.process())));
    }
    let mut calls = 0;
    while calls < options.operations {
        time.fetch_add(1_000 + world.random.next() % 200_000, Ordering::Relaxed);
        world.now = time.load(Ordering::Relaxed);
        let at = world.random.below(clients.len());
        let client = &mut clients[at];
        match client.open.take() {
            Some(open) => world.answer(client, open),
            None => {
                calls += 1;
                client.open = Some(world.call(client));
            }
        }
    }
    for client in &mut clients {
        if let Some(open) = client.open.take() {
            world.answer(client, open);
        }
    }
    // Transactions that nobody ends are aborted when their time is over.
    for client in &mut clients {
        if let Some(transaction) = client.transaction.take() {
            world.end_transaction(&transaction, false);
        }
    }
    world.finish();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Producer,
    Transactional,
    Reader,
    Member,
    QueueUser,
}

/// A call that waits for its answer.
struct Open {
    pending: Pending,
    call: Call,
}

/// A transaction of a producer.
struct Transaction {
    number: u64,
    name: String,
    /// Offsets that count when it is committed.
    offsets: BTreeMap<String, i64>,
}

struct Client {
    kind: Kind,
    process: u32,
    open: Option<Open>,
    positions: Vec<i64>,
    is_assigned: bool,
    transaction: Option<Transaction>,
    hands: Vec<(usize, InHand)>,
}

impl Client {
    fn new(kind: Kind, process: u32) -> Self {
        Self {
            kind,
            process,
            open: None,
            positions: Vec::new(),
            is_assigned: false,
            transaction: None,
            hands: Vec::new(),
        }
    }
}

struct World<'r> {
    recorder: &'r Recorder,
    random: Random,
    now: u64,
    logs: Vec<Log>,
    queues: Vec<Queue>,
    committed: BTreeMap<String, i64>,
    values: u64,
    transactions: u64,
    epoch: i64,
}

impl<'r> World<'r> {
    fn new(options: &Options, recorder: &'r Recorder) -> Self {
        let mut logs = vec![Log::default(); options.partitions];
        logs.push(Log::compacted());
        let queue = |name: &str| QueueSettings {
            queue: name.to_owned(),
            attempts_max: Some(3),
            ..QueueSettings::default()
        };
        let ordered = QueueSettings {
            ordered: true,
            ..queue("ordered")
        };
        let strict = QueueSettings {
            strict: true,
            ..queue("strict")
        };
        Self {
            recorder,
            random: Random::new(options.seed),
            now: 0,
            logs,
            queues: [queue("plain"), ordered, strict].map(Queue::new).into(),
            committed: BTreeMap::new(),
            values: 0,
            transactions: 0,
            epoch: 0,
        }
    }

    fn begin(&self) {
        let compacted = self.logs.len() - 1;
        let settings = PartitionSettings {
            partition: name_of(compacted),
            compacted: true,
            ..PartitionSettings::default()
        };
        self.recorder.note(None, Note::Partition(settings));
        for queue in &self.queues {
            self.recorder.note(None, Note::Queue(queue.settings.clone()));
        }
        for phase in [FaultPhase::Begin, FaultPhase::TookEffect, FaultPhase::End] {
            let fault = Fault {
                fault: "kill-1".to_owned(),
                kind: "kill".to_owned(),
                phase,
                target: Some("broker-1".to_owned()),
            };
            self.recorder.note(None, Note::Fault(fault));
        }
    }

    fn value(&mut self) -> Value {
        self.values += 1;
        Value::from(self.values)
    }

    fn key(&mut self) -> String {
        format!("k{}", self.random.below(KEYS))
    }

    fn call(&mut self, client: &mut Client) -> Open {
        let call = match client.kind {
            Kind::Producer => self.produce(),
            Kind::Transactional => self.transact(client),
            Kind::Reader | Kind::Member => self.read(client),
            Kind::QueueUser => self.use_queue(client),
        };
        Open {
            pending: self.recorder.invoke(client.process, call.clone()),
            call,
        }
    }

    fn produce(&mut self) -> Call {
        let at = self.random.below(self.logs.len());
        let partition = name_of(at);
        if self.random.percent(5) {
            let isolation = if self.random.percent(50) {
                Isolation::Committed
            } else {
                Isolation::Uncommitted
            };
            return Call::EndOffset { partition, isolation };
        }
        let mut send = call::Send::new(&partition, self.value());
        if self.logs[at].compacted {
            send.key = Some(self.key());
            send.tombstone = self.random.percent(10);
            if self.random.percent(5) {
                send.expected_key_offset = send.key.as_deref().map(|key| self.logs[at].last_of(key));
            }
        } else if self.random.percent(5) {
            send.expected_end_offset = Some(self.logs[at].end());
        }
        Call::Send(send)
    }

    fn transact(&mut self, client: &mut Client) -> Call {
        let Some(transaction) = &client.transaction else {
            self.transactions += 1;
            let name = format!("t{}", self.transactions);
            client.transaction = Some(Transaction {
                number: self.transactions,
                name: name.clone(),
                offsets: BTreeMap::new(),
            });
            return Call::Begin { transaction: name };
        };
        let transaction = transaction.name.clone();
        match self.random.below(10) {
            0 => Call::Abort { transaction },
            1 | 2 => Call::Commit { transaction },
            _ => {
                // The last partition is compacted, and the first is without transactions.
                let at = 1 + self.random.below(self.logs.len().saturating_sub(2).max(1));
                let at = at.min(self.logs.len() - 2);
                let mut send = call::Send::new(&name_of(at), self.value());
                send.transaction = Some(transaction);
                Call::Send(send)
            }
        }
    }

    fn read(&mut self, client: &mut Client) -> Call {
        let partitions: Vec<String> = (0..self.logs.len()).map(name_of).collect();
        if !client.is_assigned {
            client.is_assigned = true;
            client.positions = vec![0; self.logs.len()];
            return Call::Assign { partitions };
        }
        if client.kind == Kind::Member {
            match self.random.below(20) {
                0 => {
                    return Call::FetchOffsets {
                        group: GROUP.to_owned(),
                    };
                }
                1 => {
                    let offsets = (0..self.logs.len()).map(|at| {
                        let before = self.committed.get(&name_of(at)).copied().unwrap_or(0);
                        (name_of(at), client.positions[at].max(before))
                    });
                    return Call::CommitOffsets {
                        group: GROUP.to_owned(),
                        offsets: offsets.collect(),
                        epoch: None,
                        transaction: None,
                        // Another member may commit at the same time.
                        rewind: true,
                    };
                }
                2 => {
                    self.epoch += 1;
                    let note = Note::Rebalance {
                        group: GROUP.to_owned(),
                        epoch: self.epoch,
                        partitions,
                    };
                    self.recorder.note(Some(client.process), note);
                }
                _ => {}
            }
        }
        Call::Poll {
            isolation: Isolation::Committed,
            transaction: None,
        }
    }

    fn use_queue(&mut self, client: &mut Client) -> Call {
        let at = self.random.below(self.queues.len());
        let queue = self.queues[at].settings.queue.clone();
        if !client.hands.is_empty() && self.random.percent(70) {
            let (at, hand) = &client.hands[0];
            let settlement = match self.random.below(10) {
                0 => Settlement::Nack,
                1 => Settlement::Release,
                2 => Settlement::Reject,
                _ => Settlement::Ack,
            };
            return Call::Settle(Settle {
                queue: self.queues[*at].settings.queue.clone(),
                value: hand.value.clone(),
                lease: Some(hand.lease.clone()),
                settlement,
                extend: None,
                transaction: None,
            });
        }
        if self.random.percent(60) {
            return Call::Receive {
                queue,
                lease: Some(LEASE_NS),
                stream: false,
            };
        }
        let settings = self.queues[at].settings.clone();
        Call::QueueSend(QueueSend {
            queue,
            value: self.value(),
            key: settings.ordered.then(|| self.key()),
            priority: if settings.strict {
                u32::try_from(self.random.below(3)).unwrap_or(0)
            } else {
                0
            },
            not_before: (!settings.ordered && !settings.strict && self.random.percent(20))
                .then(|| self.now + 5_000_000),
            ..QueueSend::default()
        })
    }

    fn answer(&mut self, client: &mut Client, open: Open) {
        let Open { pending, call } = open;
        let is_unknown = self.random.percent(UNKNOWN);
        if is_unknown && self.random.percent(50) {
            return self.lose(client, pending, &call);
        }
        if self.random.percent(REFUSED) && !matches!(call, Call::Assign { .. } | Call::Begin { .. }) {
            return pending.fail();
        }
        match self.carry_out(client, &call) {
            Some(_) if is_unknown => self.lose(client, pending, &call),
            Some(reply) => pending.ok(reply),
            None => pending.fail(),
        }
    }

    /// Nobody knows what became of a call; its process is another one from now on.
    fn lose(&mut self, client: &mut Client, pending: Pending, call: &Call) {
        pending.unknown();
        if let Some(transaction) = client.transaction.take() {
            // A commit that was carried out has taken it out of the logs already.
            self.end_transaction(&transaction, false);
        }
        if let Call::Settle(_) | Call::Receive { .. } = call {
            client.hands.clear();
        }
        *client = Client::new(client.kind, self.recorder.process());
    }

    fn end_transaction(&mut self, transaction: &Transaction, commit: bool) {
        for log in &mut self.logs {
            log.end_transaction(transaction.number, commit);
        }
        if commit {
            for (partition, offset) in &transaction.offsets {
                self.committed.insert(partition.clone(), *offset);
            }
        }
    }

    /// Carries a call out; none: it is refused.
    fn carry_out(&mut self, client: &mut Client, call: &Call) -> Option<Reply> {
        match call {
            Call::Send(send) => {
                let log = &mut self.logs[number_of(&send.partition)];
                let end = log.end();
                if send.expected_end_offset.is_some_and(|expected| expected != end) {
                    return None;
                }
                let last = send.key.as_deref().map_or(-1, |key| log.last_of(key));
                if send.expected_key_offset.is_some_and(|expected| expected != last) {
                    return None;
                }
                let transaction = match &send.transaction {
                    Some(_) => Some(client.transaction.as_ref()?.number),
                    None => None,
                };
                let offset = log.append(send.value.clone(), send.key.clone(), transaction);
                Some(Reply::Sent(Sent { offset, attempts: 1 }))
            }
            Call::EndOffset { partition, isolation } => {
                let log = &self.logs[number_of(partition)];
                let offset = match isolation {
                    Isolation::Committed => log.stable(),
                    Isolation::Uncommitted => log.end(),
                };
                Some(Reply::Offset(Offset { offset }))
            }
            Call::Poll { .. } => {
                let mut polled = Polled::default();
                for (at, log) in self.logs.iter().enumerate() {
                    let (records, next) = log.poll(client.positions[at], 10);
                    client.positions[at] = next;
                    if !records.is_empty() {
                        polled.reads.insert(name_of(at), records);
                    }
                }
                Some(Reply::Polled(polled))
            }
            Call::Begin { .. } => Some(Reply::Done(Done {})),
            Call::Commit { .. } | Call::Abort { .. } => {
                let transaction = client.transaction.take()?;
                self.end_transaction(&transaction, matches!(call, Call::Commit { .. }));
                Some(Reply::Done(Done {}))
            }
            Call::CommitOffsets { offsets, .. } => {
                for (partition, offset) in offsets {
                    self.committed.insert(partition.clone(), *offset);
                }
                Some(Reply::Done(Done {}))
            }
            Call::FetchOffsets { .. } => {
                let of = |at| (name_of(at), self.committed.get(&name_of(at)).copied());
                let offsets = (0..self.logs.len()).map(of).collect();
                Some(Reply::Offsets(Offsets { offsets }))
            }
            Call::QueueSend(send) => {
                let queue = self.queue(&send.queue);
                let placed = queue.send(send.value.clone(), send.key.clone(), send.priority, send.not_before);
                Some(Reply::Placed(placed))
            }
            Call::Receive { queue, lease, .. } => {
                let (now, at) = (self.now, self.queue_at(queue));
                let mut received = Received::default();
                if let Some((delivered, hand)) = self.queues[at].receive(now, lease.unwrap_or(LEASE_NS)) {
                    received.messages.push(delivered);
                    client.hands.push((at, hand));
                }
                Some(Reply::Received(received))
            }
            Call::Settle(settle) => {
                let (at, hand) = client.hands.remove(0);
                let queue = &mut self.queues[at];
                let is_done = match settle.settlement {
                    Settlement::Ack => queue.ack(&hand),
                    Settlement::Nack => queue.back(&hand, true, false),
                    Settlement::Reject => queue.back(&hand, false, true),
                    _ => queue.back(&hand, false, false),
                };
                is_done.then_some(Reply::Settled(Settled::default()))
            }
            _ => Some(Reply::Done(Done {})),
        }
    }

    fn queue_at(&self, name: &str) -> usize {
        let at = self.queues.iter().position(|queue| queue.settings.queue == name);
        at.expect("the queues are the generator's")
    }

    fn queue(&mut self, name: &str) -> &mut Queue {
        let at = self.queue_at(name);
        &mut self.queues[at]
    }

    /// What a client and three replicas find when all is over.
    fn finish(&mut self) {
        for at in 0..self.logs.len() {
            let log = self.logs[at].clone();
            for replica in [None, Some("1"), Some("2"), Some("3")] {
                let raw = replica.is_some();
                // Replicas may have compacted less.
                let random = &mut self.random;
                let records = log.contents(raw, || raw && random.percent(20));
                let read = Final {
                    partition: name_of(at),
                    replica: replica.map(str::to_owned),
                    isolation: if raw {
                        Isolation::Uncommitted
                    } else {
                        Isolation::Committed
                    },
                    end: log.end(),
                    stable: Some(log.stable()),
                    ..Final::default()
                };
                let mut parts = records.chunks(PART).peekable();
                while let Some(part) = parts.next() {
                    let part = Final {
                        records: part.to_vec(),
                        complete: parts.peek().is_none(),
                        ..read.clone()
                    };
                    self.recorder.note(None, Note::Final(part));
                }
                if records.is_empty() {
                    let whole = Final { complete: true, ..read };
                    self.recorder.note(None, Note::Final(whole));
                }
            }
        }
        for at in 0..self.queues.len() {
            for replica in [None, Some("1"), Some("2")] {
                let dump = self.queues[at].dump(self.now, replica.map(str::to_owned));
                self.recorder.note(None, Note::Dump(dump));
            }
        }
    }
}

fn name_of(at: usize) -> String {
    format!("orders/{at}")
}

fn number_of(name: &str) -> usize {
    let number = name.rsplit('/').next().and_then(|number| number.parse().ok());
    number.expect("the names are the generator's")
}
