//! A partition with a queue on a clock: one log, leaders that change, consumers that work, break, crash and come back. An oracle that
//! knows nothing of how it is done watches what consumers see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jangada_machine::{Effects, Now};
use jangada_queue::engine::{
    Answer, CarryBounds, ConsumerId, Delivered, Input, Output, Policy, ReadId, RequestId, Rows, RowsWanted, SettleItem,
    Settled, Settlement, Ticket,
};
use jangada_queue::tables::MARKS;
use jangada_queue::{
    Carry, Context, DeadReason, Engine, HeldState, KeepsOrder, LeaseId, Mark, Marks, MessageState, OpsReply, QueueId,
    QueueOps, Section, SlotId, SlotKind, Slots, TransactionId,
};
use jangada_types::replicated::Seeds;
use jangada_types::{LogPosition, Offset, RowChange};

use crate::log::Log;
use crate::target::Target;
use crate::transactions::Txns;

pub const SLOT: SlotId = SlotId(1);
const WALL_MS: u64 = 1_700_000_000_000;
pub const LEASE_MS: u64 = 20_000;

/// An entry on its way into the log.
pub enum Entry {
    Ops(Ticket, QueueOps),
    Append(Vec<Mark>),
    /// A batch of a transaction.
    Sent(TransactionId, Vec<Mark>),
    /// The end of a transaction: it is committed, or not.
    Marker(TransactionId, bool),
    Carry(Carry),
    /// A carry that could not be made.
    NoCarry,
    /// The topic's retention takes what is below.
    Cut(u64),
}

/// Who was handed a message last.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub lease: LeaseId,
    /// Nobody else may have it before.
    pub until_ms: u64,
}

/// A consumer's process.
#[derive(Clone, Debug, Default)]
pub struct Client {
    pub session: u64,
    /// Its stream, while it is connected.
    pub stream: Option<ConsumerId>,
    pub credit: u32,
    /// What it has in hand: by offset, the lease.
    pub holds: BTreeMap<u64, LeaseId>,
    /// What it said of messages, and was not answered.
    pub unanswered: BTreeMap<u64, (LeaseId, Settlement)>,
    /// The transaction that it has begun.
    pub txn: Option<TransactionId>,
    /// A receive under way: it is sent again with the same attempt when its answer is lost.
    pub receive: Option<(RequestId, u64)>,
}

pub struct World {
    pub seeds: Seeds,
    pub policy: Policy,
    pub slots: Slots,
    /// A replica that begins with snapshots.
    pub follower: Slots,
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of each offset: the message, named by its first offset, and its marks.
    pub records: Vec<(u64, Mark)>,
    /// Where a message is now.
    pub places: BTreeMap<u64, u64>,
    pub engine: Engine,
    pub pending: VecDeque<Entry>,
    pub reads: Vec<(ReadId, RowsWanted, Option<Rows>)>,
    pub clients: Vec<Client>,
    pub requests: BTreeMap<RequestId, (usize, Vec<SettleItem>)>,
    pub answers: BTreeMap<RequestId, Answer>,
    /// When requests to settle were sent.
    pub asked: BTreeMap<RequestId, u64>,
    pub term: u64,
    pub index: u64,
    pub now_ms: u64,
    pub wall_ahead_ms: u64,
    /// The latest that the wall clock said before it was stepped: what was due by it may be under way.
    pub wall_max_ms: u64,
    pub steady_since_ms: u64,
    pub last_id: u64,
    /// What consumers were told: acknowledged messages, and failures that count.
    pub acked: BTreeSet<u64>,
    pub failed: BTreeMap<u64, u16>,
    pub delivered: BTreeMap<u64, u32>,
    pub order: Vec<u64>,
    pub holders: BTreeMap<u64, Holder>,
    pub proposed: usize,
    pub log: Log,
    pub target: Target,
    /// Slots that nobody uses, as the leader said.
    pub unused: Vec<SlotId>,
    /// The size of the next records, if it is not any.
    pub record_bytes: Option<u64>,
    /// Carries that the leader asked for.
    pub planned: usize,
    pub carry_bounds: CarryBounds,
    /// Leased messages are carried, too.
    pub carries_leased: bool,
    /// The engine is told what is applied, and often acts later.
    pub acts_late: bool,
    pub log_start: u64,
    /// Messages that retention took undone.
    pub cut: BTreeSet<u64>,
    pub txns: Txns,
}

impl World {
    pub fn new(seed: u64, policy: Policy, order: KeepsOrder) -> Self {
        Self::over(SlotKind::Owned, seed, policy, order)
    }

    /// With a queue of its own log, or one over a topic's.
    pub fn over(slot_kind: SlotKind, seed: u64, policy: Policy, order: KeepsOrder) -> Self {
        let slots = Slots::default();
        let mut world = Self {
            seeds: Seeds::new(seed),
            policy,
            engine: Engine::begin(1, &slots),
            follower: slots.clone(),
            slots,
            rows: BTreeMap::new(),
            records: Vec::new(),
            places: BTreeMap::new(),
            pending: VecDeque::new(),
            reads: Vec::new(),
            clients: Vec::new(),
            requests: BTreeMap::new(),
            answers: BTreeMap::new(),
            asked: BTreeMap::new(),
            term: 1,
            index: 0,
            now_ms: 100_000,
            wall_ahead_ms: 0,
            wall_max_ms: 0,
            steady_since_ms: 0,
            last_id: 0,
            acked: BTreeSet::new(),
            failed: BTreeMap::new(),
            delivered: BTreeMap::new(),
            order: Vec::new(),
            holders: BTreeMap::new(),
            proposed: 0,
            log: Log::default(),
            target: Target::default(),
            unused: Vec::new(),
            record_bytes: None,
            planned: 0,
            carry_bounds: CarryBounds::default(),
            carries_leased: false,
            acts_late: false,
            log_start: 0,
            cut: BTreeSet::new(),
            txns: Txns::default(),
        };
        let request = RequestId(world.next_id());
        let section = Section::Open {
            queue: QueueId(1),
            slot_kind,
            order,
            start: 0,
        };
        world.step(Input::Administer { request, section });
        world.settle_down();
        world.configure();
        world
    }

    /// The engine of the term.
    pub fn begin_engine(&mut self) {
        self.engine = Engine::begin(self.term, &self.slots);
        self.engine.set_carry_bounds(self.carry_bounds);
    }

    pub fn configure(&mut self) {
        let policy = self.policy;
        self.step(Input::Configure { slot: SLOT, policy });
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn now(&self) -> Now {
        Now {
            monotonic_ms: self.now_ms,
            wall_ms: self.wall(),
            steady_since_ms: self.steady_since_ms,
        }
    }

    pub fn wall(&self) -> u64 {
        WALL_MS + self.now_ms + self.wall_ahead_ms
    }

    pub fn step_wall(&mut self, ahead_ms: u64) {
        self.wall_max_ms = self.wall_max_ms.max(self.wall());
        (self.wall_ahead_ms, self.steady_since_ms) = (ahead_ms, self.now_ms);
    }

    pub fn end(&self) -> u64 {
        self.records.len() as u64
    }

    pub fn step(&mut self, input: Input) {
        let now = self.now();
        let end = self.end();
        let outputs = self.engine.step(&self.slots, end, input, now);
        for output in outputs {
            self.output(output);
        }
        self.check_counts();
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Propose { ticket, ops } => {
                assert_eq!(
                    QueueOps::decode(&ops.encode()).as_ref(),
                    Ok(&ops),
                    "what is proposed can be read"
                );
                self.proposed += 1;
                self.check_grants(&ops);
                self.pending.push_back(Entry::Ops(ticket, ops));
                let under_way = self
                    .pending
                    .iter()
                    .filter(|entry| matches!(entry, Entry::Ops(..)))
                    .count();
                assert!(under_way <= 2, "{under_way} commands are under way");
            }
            Output::Read { read, wanted } => {
                // Rows are read at some time between the request and the answer.
                let early = (self.seeds.below(2) == 0).then(|| self.look_up(&wanted));
                self.reads.push((read, wanted, early));
            }
            Output::Attached { consumer, messages } => {
                // What is sent again takes no credit.
                let client = self.client_of(consumer);
                self.deliver(client, &messages);
            }
            Output::Deliver { consumer, messages } => {
                let client = self.client_of(consumer);
                let credit = self.clients[client].credit.checked_sub(messages.len() as u32);
                self.clients[client].credit = credit.expect("messages come for credit");
                self.deliver(client, &messages);
            }
            Output::Answer { request, answer } => self.answer(request, answer),
            Output::Producer { .. } => self.target.asks = true,
            Output::Forward {
                producer,
                sequence,
                letters,
                ..
            } => {
                let messages = letters.iter().map(|letter| self.records[letter.offset as usize].0);
                self.target.send(producer, sequence, messages.collect());
            }
            Output::Fire { fire, .. } => panic!("there is no schedule, and {fire:?} is due"),
            Output::Unused { slot } => self.unused.push(slot),
            Output::Carry { carry, bytes_max } => self.make_carry(carry, bytes_max),
            Output::Moved { consumer } => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.stream == Some(consumer)) {
                    client.stream = None;
                }
            }
        }
    }

    fn client_of(&self, consumer: ConsumerId) -> usize {
        let client = self.clients.iter().position(|client| client.stream == Some(consumer));
        client.expect("messages go to streams that are there")
    }

    /// Answers a look-up that waits.
    pub fn read(&mut self, at: usize) {
        if at >= self.reads.len() {
            return;
        }
        let (read, wanted, early) = self.reads.remove(at);
        let rows = early.unwrap_or_else(|| self.look_up(&wanted));
        self.step(Input::Rows { read, rows });
    }

    /// The next entry is committed and applied.
    pub fn apply(&mut self) -> bool {
        let Some(entry) = self.pending.pop_front() else {
            return false;
        };
        let (input, more) = self.commit(&entry, self.term);
        for input in input.into_iter().chain(more) {
            self.tell(input);
        }
        true
    }

    /// The engine is told what was applied, and acts at once or at the next step.
    fn tell(&mut self, input: Input) {
        if !self.acts_late || self.seeds.below(2) == 0 {
            return self.step(input);
        }
        let (now, end) = (self.now(), self.end());
        self.engine.note(&self.slots, end, input, now);
    }

    /// Applies an entry, and gives what its leader is told.
    pub fn commit(&mut self, entry: &Entry, term: u64) -> (Option<Input>, Option<Input>) {
        let end = self.end();
        let context = Context {
            at: LogPosition {
                term,
                index: self.index,
            },
            log_start: Offset(self.log_start as i64),
            next_offset: Offset(end as i64),
        };
        self.index += 1;
        self.log.write(end, 40);
        let mut effects = Effects::default();
        let inputs = match entry {
            Entry::Ops(ticket, ops) => {
                let reply = self.slots.apply(&context, ops, &self.txns);
                let same = self.follower.apply(&context, ops, &self.txns);
                assert_eq!(same, reply, "replicas reply alike");
                if ops.term != term {
                    assert_eq!(
                        reply,
                        OpsReply::LeaderChanged,
                        "a decision of another term has no effect"
                    );
                }
                let ticket = *ticket;
                (Some(Input::Applied { ticket, reply }), None)
            }
            Entry::Append(marks) => (Some(self.append(marks, &mut effects)), None),
            Entry::Sent(txn, marks) => (self.append_in(*txn, marks, &mut effects), None),
            Entry::Marker(txn, commit) => (Some(self.end_transaction(*txn, *commit)), None),
            Entry::Cut(to) => {
                self.cut_off(*to);
                (Some(Input::CutOff), None)
            }
            Entry::NoCarry => (Some(Input::Carried { moves: Vec::new() }), None),
            Entry::Carry(carry) => match self.slots.judge_carry(&context, carry) {
                Err(_) => (Some(Input::Carried { moves: Vec::new() }), None),
                Ok(()) => {
                    let moves: Vec<(u64, u64)> = carry.messages.offsets().zip(end..).collect();
                    for (old, new) in &moves {
                        let (message, mark) = self.records[*old as usize].clone();
                        if self.slots.slot(SLOT).expect("it is open").state(*old, end) != MessageState::Done {
                            self.places.insert(message, *new);
                        }
                        self.records.push((message, mark));
                        self.log.carry(*old);
                    }
                    self.slots.carry(carry, end, &mut effects);
                    self.follower.carry(carry, end, &mut Effects::default());
                    let marks = (!carry.marks.is_empty()).then(|| (end, carry.marks.clone()));
                    (Some(Input::Carried { moves }), Some(Input::Appended { marks }))
                }
            },
        };
        for row in effects.take() {
            if let RowChange::Put { table, key, value } = row {
                assert_eq!(*table, MARKS);
                self.rows.insert(key.to_vec(), value.to_vec());
            }
        }
        self.check();
        inputs
    }

    /// Appends a batch.
    pub fn append(&mut self, marks: &[Mark], effects: &mut Effects) -> Input {
        let end = self.end();
        let plain = marks.iter().all(|mark| *mark == Mark::default());
        for mark in marks {
            let at = self.end();
            self.places.insert(at, at);
            let bytes = self.record_bytes.unwrap_or(50 + self.seeds.below(100));
            self.log.record(bytes);
            self.records.push((at, mark.clone()));
        }
        let marks = if plain { Marks::default() } else { Marks(marks.to_vec()) };
        self.slots.appended(end, &marks, None, effects);
        self.follower.appended(end, &marks, None, &mut Effects::default());
        let marks = (!plain).then_some((end, marks));
        Input::Appended { marks }
    }

    /// What holds of every state.
    fn check(&self) {
        self.slots
            .check(self.log_start, self.end())
            .expect("the state is sound");
        let Some(slot) = self.slots.slot(SLOT) else { return };
        let mut out_by_key = BTreeSet::new();
        for (offset, held) in slot.held_from(0) {
            let message = self.records[offset as usize].0;
            assert!(
                !self.acked.contains(&message),
                "{message} was acknowledged, and is {held:?}"
            );
            let spent = self.policy.attempts_max.is_some_and(|most| held.failures >= most);
            let is_dead = matches!(held.state, HeldState::Dead | HeldState::Moving);
            // A message may be waiting for the command that makes it dead only where deliveries count.
            assert!(
                !spent || is_dead,
                "{message} failed {} times, and is {:?}",
                held.failures,
                held.state
            );
            let told = self.failed.get(&message).copied().unwrap_or(0);
            assert!(
                held.failures >= told,
                "{message}: {told} failures were told, {} are known",
                held.failures
            );
            if matches!(held.state, HeldState::Leased | HeldState::Staged) && held.key != 0 {
                assert!(out_by_key.insert(held.key), "two messages of key {} are out", held.key);
            }
        }
    }

    /// What is decided to go out is not over yet.
    fn check_grants(&self, ops: &QueueOps) {
        let grants = ops
            .sections
            .iter()
            .filter(|section| matches!(section, Section::Grant { .. }));
        for offset in grants.flat_map(|grant| grant.messages().expect("it names messages").offsets()) {
            let (id, mark) = &self.records[offset as usize];
            let is_over = self.policy.expired.is_some() && mark.expires_at_ms != 0 && mark.expires_at_ms <= self.wall();
            let state = self.slots.slot(SLOT).map(|slot| slot.state(offset, self.end()));
            // It was dead for that, and came back.
            let lives_on = matches!(state, Some(MessageState::Held(held)) if held.reason == Some(DeadReason::Expired));
            assert!(!is_over || lives_on, "{id} is granted after its time");
        }
    }

    fn deliver(&mut self, client: usize, messages: &[Delivered]) {
        let end = self.end();
        for message in messages {
            let (id, mark) = self.records[message.offset as usize].clone();
            // Retention took it while it was on its way: it cannot be read any more.
            if self.cut.contains(&id) {
                continue;
            }
            let slot = self.slots.slot(SLOT).expect("it is open");
            let MessageState::Held(held) = slot.state(message.offset, end) else {
                panic!("{id} is handed out, and is not leased");
            };
            assert_eq!(
                (held.state, held.lease),
                (HeldState::Leased, message.lease),
                "the lease is applied"
            );
            assert!(
                !self.acked.contains(&id),
                "{id} was acknowledged, and is delivered again"
            );
            self.txns.may_go_out(id);
            assert!(mark.slots.has(SLOT), "{id} is for another queue");
            assert!(
                mark.deliver_at_ms <= self.wall().max(self.wall_max_ms),
                "{id} is delivered before its time"
            );
            if let Some(holder) = self.holders.get(&id)
                && holder.lease != message.lease
            {
                assert!(
                    holder.until_ms <= self.now_ms,
                    "{id} is delivered while somebody has it"
                );
            }
            let is_first = !self.delivered.contains_key(&id);
            if is_first && self.policy_is_keyed() && mark.key != 0 {
                for (earlier, place) in self.places.range(..id) {
                    if self.records[*earlier as usize].1.key == mark.key {
                        let is_over = match slot.state(*place, end) {
                            MessageState::Done => true,
                            MessageState::Held(held) => held.state == HeldState::Dead,
                            MessageState::Free | MessageState::Beyond => false,
                        };
                        assert!(
                            is_over,
                            "{id} overtakes {earlier} of its key, which is {:?}",
                            slot.state(*place, end)
                        );
                    }
                }
            }
            *self.delivered.entry(id).or_default() += 1;
            self.order.push(id);
            let holder = Holder {
                lease: message.lease,
                until_ms: self.now_ms + message.lease_left_ms,
            };
            // The same lease again lasts no longer than it did.
            let known = self.holders.get(&id).filter(|known| known.lease == message.lease);
            self.holders.insert(id, known.copied().unwrap_or(holder));
            self.clients[client].holds.insert(message.offset, message.lease);
        }
    }

    fn policy_is_keyed(&self) -> bool {
        matches!(self.policy.order, jangada_queue::engine::Order::ByKey(_))
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        self.answers.insert(request, answer.clone());
        if let Answer::Received(messages) = &answer {
            let client = self
                .clients
                .iter()
                .position(|client| client.receive.is_some_and(|(known, _)| known == request));
            if let Some(client) = client {
                self.clients[client].receive = None;
                self.deliver(client, messages);
            }
            return;
        }
        let Some((client, items)) = self.requests.remove(&request) else {
            return;
        };
        let Answer::Settled(results) = answer else { return };
        assert_eq!(results.len(), items.len());
        for (item, result) in items.iter().zip(results) {
            let id = self.records[item.offset as usize].0;
            let client = &mut self.clients[client];
            if client.unanswered.get(&item.offset) == Some(&(item.lease, item.settlement)) {
                client.unanswered.remove(&item.offset);
            }
            match (item.settlement, result) {
                // Without a stream the leader may take its messages back earlier, and what was said since counts.
                (Settlement::Extend { .. }, Settled::Done)
                    if client.stream.is_none()
                        || client.unanswered.contains_key(&item.offset)
                        || client.holds.get(&item.offset) != Some(&item.lease) =>
                {
                    continue;
                }
                (Settlement::Extend { lease_ms }, Settled::Done) => {
                    // A consumer counts from when it asked: the answer may come late.
                    let asked_ms = self.asked.get(&request).copied().unwrap_or(self.now_ms);
                    if let Some(holder) = self.holders.get_mut(&id).filter(|holder| holder.lease == item.lease) {
                        holder.until_ms = asked_ms + lease_ms;
                    }
                    continue;
                }
                (_, Settled::TransactionOver | Settled::Full) => continue,
                (Settlement::AckIn { transaction }, Settled::Done) => self.txns.told(transaction, id, &self.acked),
                (Settlement::Ack, Settled::Done | Settled::AlreadySettled) => drop(self.acked.insert(id)),
                (Settlement::Nack { failed: true, .. }, Settled::Done) => *self.failed.entry(id).or_default() += 1,
                _ => {}
            }
            if client.holds.get(&item.offset) == Some(&item.lease) {
                client.holds.remove(&item.offset);
            }
        }
    }

    pub fn send(&mut self, marks: Vec<Mark>) {
        self.pending.push_back(Entry::Append(marks));
    }
}
