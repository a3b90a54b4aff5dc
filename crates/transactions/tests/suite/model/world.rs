//! The world: time, the network, brokers between clients and what they keep, and what goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_transactions::{
    Answer, Config, Delivery, EndRequest, Image, InitRequest, JoinRequest, Leader, Outgoing, Producer,
};
use jangada_types::replicated::Seeds;
use jangada_types::{Offset, ProducerId, Reason};

use super::Bug;
use super::checker::Checker;
use super::groups::Groups;
use super::partition::{Applied, Partition, Proposal};
use super::process::{Call, Process, Told};
use super::shard::{Shard, now};
use crate::anomalies::Read;

const TIMEOUT_MS: u32 = 2_000;
pub const INPUTS: u32 = 2;
/// Partitions that there are at most.
pub const PARTITIONS_MAX: usize = 4;
/// Batches that a reader gets at once.
const FETCH_ROWS: usize = 12;

/// Who waits for something.
#[derive(Clone, Debug)]
pub enum Caller {
    Nobody,
    Client { process: usize, op: u64, call: Request },
    Admission(u64),
    Marker(Outgoing, bool),
}

/// Who waits for something of the groups.
#[derive(Clone, Debug)]
pub enum OfGroup {
    /// The call of a process.
    Staging(usize, u64),
    End(Outgoing, bool),
}

/// What waits for an answer of the shard to a join.
#[derive(Clone, Debug)]
pub enum Joining {
    Offset(Admission),
    /// The batches that wait at a partition's leader for this producer.
    Batch(usize, Producer),
}

/// A request to the shard.
#[derive(Clone, Debug)]
pub enum Request {
    Init(InitRequest),
    Join(JoinRequest),
    End(EndRequest),
}

/// A batch or an offset that waits until its partition or group is part of the transaction.
#[derive(Clone, Debug)]
pub struct Admission {
    pub process: usize,
    pub op: u64,
    pub producer: Producer,
    pub call: Call,
    pub until_ms: u64,
}

#[derive(Clone, Debug)]
pub enum Event {
    Wake(usize),
    Shard(Request, Caller),
    Broker(Admission, Arc<str>),
    Admitted(u64, Result<u64, Reason>),
    Staged(Admission, u64),
    Told(usize, u64, Told),
    EndWaits {
        process: usize,
        op: u64,
        id: Arc<str>,
        answer: Answer,
        until_ms: u64,
    },
    Marker(Outgoing, bool),
    Acknowledge(Outgoing, Delivery, bool),
    CommitShard,
    Elect,
    CommitPartition(usize),
    CommitGroups,
    ElectGroups,
    Clean(usize),
    Host,
    Read(usize),
    Trouble,
    Spawn(usize),
    HostSees(u64),
}

/// What a history is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    pub seed: u64,
    pub bug: Option<Bug>,
    /// Clients keep their epoch from transaction to transaction, and add partitions themselves (before KIP-890).
    pub is_old: bool,
    /// Ids begin where their epochs are nearly used up.
    pub is_nearly_used_up: bool,
    /// A partition is deleted on the way.
    pub deletes: bool,
    /// Partitions are compacted, each replica by itself.
    pub compacts: bool,
    /// What all readers have read is deleted.
    pub trims: bool,
    /// All brokers know the command by which a transaction begins behind one that is not complete.
    pub begins_at_once: bool,
    pub length_ms: u64,
}

pub struct World {
    pub seeds: Seeds,
    pub now_ms: u64,
    pub bug: Option<Bug>,
    pub shard: Shard<Caller>,
    pub stale: Option<(Image, Leader)>,
    pub partitions: Vec<Partition<Caller, Admission>>,
    pub groups: Groups<OfGroup>,
    pub processes: Vec<Process>,
    pub checker: Checker,
    pub host_metadata: u64,
    pub host_queued: bool,
    pub stopped: bool,
    /// By input the highest offset of which the commit was acknowledged.
    pub acknowledged: BTreeMap<u32, u64>,
    pub metadata: u64,
    pub plan: Plan,
    pub events: BTreeMap<(u64, u64), Event>,
    pub drawn: u64,
    pub commit_queued: bool,
    pub admissions: BTreeMap<u64, Joining>,
    pub groups_queued: bool,
    pub positions: Vec<Offset>,
    pub stable: Vec<Offset>,
    pub fresh: i64,
    pub ops: u64,
}

/// The ids of a world: writers, and one for each input.
pub const IDS: [(&str, Option<u32>); 4] = [
    ("writer-a", None),
    ("writer-b", None),
    ("input-0", Some(0)),
    ("input-1", Some(1)),
];

impl World {
    pub fn new(plan: Plan) -> Self {
        let config = Config {
            expiration_ms: 20_000,
            begins_at_once: plan.begins_at_once,
            ..Config::default()
        };
        let image = match plan.is_nearly_used_up {
            true => nearly_used_up().clone(),
            false => Image::new(),
        };
        let mut world = Self {
            seeds: Seeds::new(plan.seed),
            now_ms: 0,
            bug: plan.bug,
            shard: Shard::new(image, config),
            stale: None,
            partitions: (0..3).map(|_| Partition::new(1, plan.compacts, plan.bug)).collect(),
            groups: Groups::new(&["inputs", "registers"], plan.bug),
            processes: Vec::new(),
            checker: Checker::default(),
            host_metadata: 1,
            host_queued: false,
            stopped: false,
            acknowledged: BTreeMap::new(),
            metadata: 1,
            plan,
            events: BTreeMap::new(),
            drawn: 0,
            commit_queued: false,
            admissions: BTreeMap::new(),
            groups_queued: false,
            positions: vec![Offset(0); PARTITIONS_MAX],
            stable: vec![Offset(0); PARTITIONS_MAX],
            fresh: 1_000,
            ops: 0,
        };
        for at in 0..IDS.len() {
            world.after(at as u64, Event::Spawn(at));
        }
        world.after(50, Event::Trouble);
        (0..PARTITIONS_MAX).for_each(|at| world.after(30, Event::Read(at)));
        if plan.compacts || plan.trims {
            (0..PARTITIONS_MAX).for_each(|at| world.after(100, Event::Clean(at)));
        }
        world.look_soon();
        world
    }

    /// Runs the history, then lets all that is open end, and judges.
    pub fn run(&mut self) -> Result<(), String> {
        self.run_until(self.plan.length_ms);
        self.stopped = true;
        self.run_until(self.plan.length_ms + 40_000);
        self.judge()
    }

    fn judge(&mut self) -> Result<(), String> {
        for (id, row) in self.shard.image.ids() {
            if !row.state.is_idle() {
                return Err(format!("hanging: {id} is {}", row.state.as_str()));
            }
        }
        for (at, partition) in self.there() {
            let state = partition.state();
            let (stable, end) = (state.last_stable_offset(), state.next_offset());
            if stable != end {
                return Err(format!("hanging: partition {at} is stable up to {stable} of {end}"));
            }
        }
        if self.groups.has_pending() {
            return Err("hanging: staged offsets are still pending".to_owned());
        }
        if let Some(process) = self.processes.iter().find(|process| process.is_in_transaction()) {
            return Err(format!("hanging: a process of {} waits for an answer", process.id));
        }
        let log = self.log();
        let has_deleted = log.len() < self.partitions.len();
        self.checker
            .judge(log, |group, key| self.groups.fetch(group, key), INPUTS, has_deleted)?;
        self.there().try_for_each(|(_, partition)| partition.check_compacted())
    }

    /// What a reader gets now who reads everything.
    pub fn log(&self) -> Read<u64> {
        let mut log = Read::new();
        for (at, partition) in self.there() {
            // What was trimmed is what readers had got before.
            let start = partition.state().log_start();
            let read = self.checker.read.get(&(at as u32)).into_iter().flatten().copied();
            let mut records: Vec<(i64, u64)> = read.filter(|(offset, _)| *offset < start.get()).collect();
            records.extend(partition.read(start, usize::MAX).0);
            log.insert(at as u32, records);
        }
        log
    }

    /// The partitions that were not deleted.
    fn there(&self) -> impl Iterator<Item = (usize, &Partition<Caller, Admission>)> {
        let all = self.partitions.iter().enumerate();
        all.filter(|(_, partition)| partition.deleted.is_none())
    }

    fn run_until(&mut self, until_ms: u64) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at >= until_ms {
                self.events.insert((at, self.drawn), event);
                self.drawn += 1;
                break;
            }
            self.now_ms = at;
            self.happen(event);
        }
        self.now_ms = until_ms;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(process) => self.drive(process),
            Event::Shard(request, caller) => self.ask_shard(request, caller),
            Event::Broker(admission, id) => self.admit(admission, id),
            Event::Admitted(token, joined) => self.admitted(token, joined),
            Event::Staged(admission, seq) => self.stage(&admission, seq),
            Event::Told(process, op, told) => self.told(process, op, told),
            Event::EndWaits {
                process,
                op,
                id,
                answer,
                until_ms,
            } => self.end_waits((process, op), id, answer, until_ms),
            Event::Marker(marker, is_stale) => self.marker(marker, is_stale),
            Event::Acknowledge(marker, delivery, is_stale) => self.acknowledged_marker(&marker, delivery, is_stale),
            Event::CommitShard => {
                self.commit_queued = false;
                let answered = self.shard.commit(self.now_ms);
                self.answer_all(answered);
                self.commit_shard_soon();
            }
            Event::Elect => self.shard_elects(),
            Event::CommitPartition(at) => self.commit_partition(at),
            Event::CommitGroups => {
                self.groups_queued = false;
                let answered = self.groups.commit(self.now_ms);
                self.answer_of_groups(answered);
                self.commit_groups_soon();
            }
            Event::ElectGroups => {
                self.groups.elect(self.now_ms);
                self.commit_groups_soon();
            }
            Event::Clean(at) => self.clean(at),
            Event::Host => self.host(),
            Event::Read(at) => self.read(at),
            Event::Trouble => self.trouble(),
            Event::Spawn(at) => self.spawn(at),
            Event::HostSees(version) => self.host_metadata = self.host_metadata.max(version),
        }
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.seeds.below(one_in) == 0
    }

    pub fn next_op(&mut self) -> u64 {
        self.ops += 1;
        self.ops
    }

    pub fn after(&mut self, ms: u64, event: Event) {
        // Of what happens at the same time any may be first.
        self.drawn += 1;
        let order = (self.seeds.below(1 << 20) << 40) | self.drawn;
        self.events.insert((self.now_ms + ms, order), event);
    }

    pub fn wake(&mut self, process: usize, at_ms: u64) {
        self.after(at_ms.saturating_sub(self.now_ms), Event::Wake(process));
    }

    fn delay(&mut self) -> u64 {
        let slowest = if self.plan.is_old { 300 } else { 6_000 };
        match self.seeds.below(200) {
            0 => self.seeds.below(slowest),
            1..=10 => self.seeds.below(200),
            _ => self.seeds.below(4),
        }
    }

    /// A message between brokers, or an answer: it may be late, lost, or come twice.
    pub fn network(&mut self, event: Event) {
        if !self.stopped && self.chance(60) {
            return;
        }
        if !self.plan.is_old && self.chance(60) {
            let delay = self.delay();
            self.after(delay, event.clone());
        }
        let delay = self.delay();
        self.after(delay, event);
    }

    /// Partitions that clients know.
    pub fn known_partitions(&self) -> usize {
        self.partitions.len()
    }

    pub fn commit_shard_soon(&mut self) {
        if self.shard.leader.is_some() && self.shard.has_inflight() && !self.commit_queued {
            self.commit_queued = true;
            let delay = if self.chance(30) { 200 } else { 1 + self.seeds.below(3) };
            self.after(delay, Event::CommitShard);
        }
    }

    pub fn commit_groups_soon(&mut self) {
        if self.groups.has_inflight() && !self.groups_queued {
            self.groups_queued = true;
            let delay = if self.chance(30) { 200 } else { 1 + self.seeds.below(3) };
            self.after(delay, Event::CommitGroups);
        }
    }

    pub fn propose(&mut self, at: usize, proposal: Proposal, caller: Caller) {
        self.partitions[at].inflight.push_back((proposal, caller));
        let delay = if self.chance(30) { 100 } else { 1 + self.seeds.below(3) };
        self.after(delay, Event::CommitPartition(at));
    }

    fn commit_partition(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let partition = &mut self.partitions[at];
        if partition.led_from_ms > now_ms {
            return;
        }
        let Some((proposal, caller)) = partition.inflight.pop_front() else {
            return;
        };
        let applied: Applied = partition.apply(&proposal, now_ms);
        match caller {
            Caller::Client { process, op, .. } => self.network(Event::Told(process, op, Told::Appended(applied))),
            Caller::Marker(marker, is_stale) => self.marked(marker, is_stale, applied),
            Caller::Nobody | Caller::Admission(_) => {}
        }
    }

    fn read(&mut self, at: usize) {
        if let Some(partition) = self.partitions.get(at) {
            let (read, next) = partition.read(self.positions[at], FETCH_ROWS);
            if self.bug.is_none() {
                assert!(
                    partition.stable_offset() >= self.stable[at],
                    "the last stable offset went back"
                );
                self.stable[at] = partition.stable_offset();
            }
            self.checker.operations += u64::from(!self.stopped);
            self.checker.read.entry(at as u32).or_default().extend(read);
            self.positions[at] = next;
        }
        let pause = match self.stopped {
            true => 1_000,
            false => 10 + self.seeds.below(200),
        };
        self.after(pause, Event::Read(at));
    }
}

/// A state in which the epochs of all ids are nearly used up. It is made once.
fn nearly_used_up() -> &'static Image {
    static MADE: std::sync::OnceLock<Image> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let mut image = Image::new();
        let mut index = 0;
        for (number, (id, _)) in (1..).zip(IDS) {
            let mut from = None;
            let mut next = Producer::first(ProducerId(number));
            while next.epoch.get() < i16::MAX - 4 {
                index += 1;
                let command = jangada_transactions::Command::Init {
                    id: id.into(),
                    from,
                    next,
                    is_by_holder: false,
                    timeout_ms: TIMEOUT_MS,
                    at_ms: now(0).wall_ms,
                };
                image.apply(index, &command);
                (from, next) = (Some(next), next.bumped());
            }
        }
        image
    })
}
