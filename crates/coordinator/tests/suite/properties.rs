//! Any order of joins, heartbeats, leaves, time-outs, commits, transactions, topic changes, lost answers, held-up requests
//! and failovers keeps the invariants, and ends in balance once things calm down.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jangada_coordinator::{
    Answer, Command, CommitRequest, EndStagedRequest, GroupState, HeartbeatRequest, Image, PartitionSet, Pending,
    Rejection, Reply, StageRequest, Step, TopicPartition, TransactionRef,
};
use proptest::prelude::*;

use crate::fixture::{Client, GROUP, Topics, World, commit, partition, stage};
use crate::model::{Model, Producer};

const CLIENTS: usize = 5;
const PRODUCERS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    /// A heartbeat whose answer comes when its command is applied.
    Beat(usize),
    /// A heartbeat whose answer is lost.
    BeatUnheard(usize),
    /// A heartbeat that does not name the first partition that the client may begin with, although it reads it.
    BeatShort(usize),
    /// A client does what the last answer asked for, and acknowledges by its next heartbeats.
    GiveUp(usize),
    /// An earlier heartbeat of the client arrives again.
    Again(usize, prop::sample::Index),
    Leave(usize),
    StaticLeave(usize),
    /// A client vanishes and starts again under another member id.
    Restart(usize),
    Commit(usize, u32, i64),
    CommitFromOutside(u32, i64),
    /// A producer stages an offset that a client has read, or one from outside.
    Stage(usize, Option<usize>, u32, i64),
    /// An earlier staging of the producer arrives again, perhaps after the end of its transaction.
    StageAgain(usize, prop::sample::Index),
    /// The producer's transaction ends, or its end is sent again.
    End(usize, bool),
    /// The end of one of the producer's earlier transactions arrives again.
    EndAgain(usize, prop::sample::Index),
    Advance(u64),
    Tick,
    ApplyOne,
    ApplyAll,
    FailOver {
        keeps_proposals: bool,
    },
    SetTopics(usize),
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    let client = || 0..CLIENTS;
    let producer = || 0..PRODUCERS;
    let which = any::<prop::sample::Index>;
    prop_oneof![
        20 => client().prop_map(Op::Beat),
        4 => client().prop_map(Op::BeatUnheard),
        3 => client().prop_map(Op::BeatShort),
        12 => client().prop_map(Op::GiveUp),
        4 => (client(), any::<prop::sample::Index>()).prop_map(|(at, which)| Op::Again(at, which)),
        1 => client().prop_map(Op::Leave),
        1 => client().prop_map(Op::StaticLeave),
        2 => client().prop_map(Op::Restart),
        5 => (client(), 0u32..4, 0i64..100).prop_map(|(at, partition, offset)| Op::Commit(at, partition, offset)),
        1 => (0u32..4, 0i64..100).prop_map(|(partition, offset)| Op::CommitFromOutside(partition, offset)),
        10 => (producer(), prop::option::weighted(0.8, client()), 0u32..4, 0i64..100)
            .prop_map(|(producer, by, partition, offset)| Op::Stage(producer, by, partition, offset)),
        2 => (producer(), which()).prop_map(|(producer, which)| Op::StageAgain(producer, which)),
        6 => (producer(), any::<bool>()).prop_map(|(producer, is_commit)| Op::End(producer, is_commit)),
        5 => (producer(), which()).prop_map(|(producer, which)| Op::EndAgain(producer, which)),
        8 => prop_oneof![10u64..400, 400u64..4_000].prop_map(Op::Advance),
        8 => Just(Op::Tick),
        8 => Just(Op::ApplyOne),
        12 => Just(Op::ApplyAll),
        2 => any::<bool>().prop_map(|keeps_proposals| Op::FailOver { keeps_proposals }),
        1 => (0usize..4).prop_map(Op::SetTopics),
        1 => Just(Op::Restore),
    ]
}

fn topics(which: usize) -> Topics {
    match which {
        0 => vec![(1, "t", 4)],
        1 => vec![(1, "t", 7), (2, "u", 3)],
        2 => vec![(3, "t", 4), (2, "u", 3)],
        _ => vec![(2, "u", 5)],
    }
}

/// A client, and the partitions that it was asked to give up and still reads.
struct Process {
    client: Client,
    excess: PartitionSet,
    sent: Vec<HeartbeatRequest>,
    lives: usize,
    /// Whether it was removed from the group since it last heard from it. A delayed join of its own may have put it
    /// there again.
    is_zombie: bool,
}

impl Process {
    fn new(at: usize) -> Self {
        Self {
            client: Self::life(at, 0),
            excess: PartitionSet::new(),
            sent: Vec::new(),
            lives: 0,
            is_zombie: false,
        }
    }

    fn life(at: usize, lives: usize) -> Client {
        let id = format!("m{at}-{lives}");
        if at == 0 {
            Client::with_instance(&id, "static", &["t", "u"])
        } else {
            Client::new(&id, &["t", "u"])
        }
    }

    fn request(&mut self) -> HeartbeatRequest {
        let request = HeartbeatRequest {
            // While the client has not given up all that it was asked to, it does not name its partitions.
            owned: self.excess.is_empty().then(|| self.client.owned.clone()),
            ..self.client.request()
        };
        self.sent.push(request.clone());
        request
    }

    fn take(&mut self, answer: Result<Answer, Rejection>, now_ms: u64) {
        let before = self.reads();
        self.is_zombie = false;
        self.client.take(answer, now_ms);
        self.excess = if self.client.epoch == 0 {
            PartitionSet::new()
        } else {
            before.difference(&self.client.owned)
        };
    }

    /// The partitions that it hands records out of.
    fn reads(&self) -> PartitionSet {
        self.client.owned.union(&self.excess)
    }
}

struct Chaos {
    world: World,
    processes: Vec<Process>,
    producers: Vec<Producer>,
    model: Model,
    /// Commands that are proposed and not applied, in order, with the request that waits for each.
    proposals: VecDeque<(Command, Option<Waiting>)>,
}

/// The process that gets the answer, the member that asked, and the request.
type Waiting = (Option<usize>, Arc<str>, Pending);

impl Chaos {
    fn new() -> Self {
        Self {
            world: World::new(topics(0)),
            processes: (0..CLIENTS).map(Process::new).collect(),
            producers: (0..PRODUCERS as i64).map(Producer::new).collect(),
            model: Model::default(),
            proposals: VecDeque::new(),
        }
    }

    fn go_on(&mut self, step: Step, hears: Option<usize>, id: Arc<str>) {
        match step {
            Step::Propose { command, pending } => self.proposals.push_back((command, Some((hears, id, pending)))),
            Step::Done(answer) => {
                let now_ms = self.world.now_ms;
                // An answer to an earlier run of the process is dropped.
                if let Some(process) = hears.and_then(|at| self.processes.get_mut(at))
                    && process.client.id == id
                    && matches!(answer, Ok(Answer::Heartbeat(_) | Answer::Left) | Err(_))
                {
                    process.take(answer, now_ms);
                }
            }
            other => panic!("a shard reads no rows: {other:?}"),
        }
    }

    /// A client waits for an answer before it sends the next heartbeat; one that gave up waiting never takes it.
    fn is_waiting(&self, at: usize) -> bool {
        self.proposals
            .iter()
            .any(|(_, by)| by.as_ref().is_some_and(|(hears, ..)| *hears == Some(at)))
    }

    fn send(&mut self, request: HeartbeatRequest, hears: Option<usize>) {
        let id = Arc::clone(&request.member);
        let now = self.world.now();
        let step = self.world.leader.heartbeat(&self.world.image, request, now);
        self.go_on(step, hears, id);
    }

    fn apply_one(&mut self) {
        let Some((command, by)) = self.proposals.pop_front() else {
            return;
        };
        let before = self.world.image.clone();
        let reply = self.world.apply(&command);
        self.notice_zombies();
        assert_epochs_grow(&before, &self.world.image);
        assert_committed_by_its_member(&before, &command, &reply);
        if let (Command::EndStaged { transaction, .. }, Reply::Applied { .. }) = (&command, &reply) {
            self.acknowledged(*transaction);
        }
        if let Some((hears, id, pending)) = by {
            let now = self.world.now();
            let step = self.world.leader.resume(&self.world.image, pending, reply, now);
            // Only the answer to a heartbeat is recorded; that to a commit does not matter here.
            self.go_on(step, hears, id);
        }
    }

    fn apply_all(&mut self) {
        while !self.proposals.is_empty() {
            self.apply_one();
        }
    }

    /// One of the partitions that a client reads, or any from outside.
    fn partition(&self, by: Option<usize>, at: u32) -> Option<TopicPartition> {
        let partitions: Vec<_> = match by {
            Some(by) => self.processes[by].reads().iter().collect(),
            None => vec![partition(1, at)],
        };
        partitions.get(at as usize % partitions.len().max(1)).copied()
    }

    fn commit(&mut self, by: Option<usize>, at: u32, offset: i64) {
        let Some(partition) = self.partition(by, at) else {
            return;
        };
        let request = CommitRequest {
            group: GROUP.into(),
            member: by.map(|by| (self.processes[by].client.id.clone(), self.processes[by].client.epoch)),
            offsets: vec![commit(partition, offset)],
        };
        let now = self.world.now();
        if let Step::Propose { command, .. } = self.world.leader.commit(&self.world.image, request, now) {
            self.proposals.push_back((command, None));
        }
    }

    fn stage(&mut self, producer: usize, by: Option<usize>, at: u32, offset: i64) {
        let Some(partition) = self.partition(by, at) else {
            return;
        };
        let Some(transaction) = self.producers[producer].join() else {
            return;
        };
        let client = by.map(|by| &self.processes[by].client);
        let member = client.map(|client| (&*client.id, client.epoch));
        let request = stage(member, transaction, vec![commit(partition, offset)]);
        self.producers[producer].staged.push(request.clone());
        self.send_staging(request);
    }

    fn send_staging(&mut self, request: StageRequest) {
        let now = self.world.now();
        if let Step::Propose { command, .. } = self.world.leader.stage_offsets(&self.world.image, request, now) {
            self.proposals.push_back((command, None));
        }
    }

    fn send_end(&mut self, request: EndStagedRequest) {
        let (now, transaction) = (self.world.now(), request.transaction);
        match self.world.leader.end_staged(&self.world.image, request, now) {
            Step::Propose { command, .. } => self.proposals.push_back((command, None)),
            Step::Done(answer) => {
                assert_eq!(answer, Ok(Answer::Ended), "an end is never refused");
                self.acknowledged(transaction);
            }
            other => panic!("a shard reads no rows: {other:?}"),
        }
    }

    fn acknowledged(&mut self, transaction: TransactionRef) {
        self.producers
            .iter_mut()
            .for_each(|producer| producer.acknowledged(transaction));
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Beat(at) if !self.is_waiting(*at) => {
                let request = self.processes[*at].request();
                self.send(request, Some(*at));
            }
            Op::BeatUnheard(at) if !self.is_waiting(*at) => {
                let request = self.processes[*at].request();
                self.send(request, None);
            }
            Op::BeatShort(at) if !self.is_waiting(*at) => {
                let mut request = self.processes[*at].request();
                request.owned = request.owned.map(|owned| owned.iter().skip(1).collect());
                self.send(request, Some(*at));
            }
            Op::GiveUp(at) => self.processes[*at].excess = PartitionSet::new(),
            Op::Again(at, which) if !self.processes[*at].sent.is_empty() => {
                let request = which.get(&self.processes[*at].sent).clone();
                self.send(request, None);
            }
            Op::Leave(at) | Op::StaticLeave(at) if !self.is_waiting(*at) => {
                let epoch = if matches!(op, Op::StaticLeave(_)) && *at == 0 {
                    -2
                } else {
                    -1
                };
                let process = &mut self.processes[*at];
                let request = HeartbeatRequest {
                    epoch,
                    ..process.client.request()
                };
                process.client.forget();
                process.excess = PartitionSet::new();
                self.send(request, None);
                self.restart(*at);
            }
            Op::Restart(at) => self.restart(*at),
            Op::Commit(by, at, offset) => self.commit(Some(*by), *at, *offset),
            Op::CommitFromOutside(at, offset) => self.commit(None, *at, *offset),
            Op::Stage(producer, by, at, offset) => self.stage(*producer, *by, *at, *offset),
            Op::StageAgain(producer, which) if !self.producers[*producer].staged.is_empty() => {
                let request = which.get(&self.producers[*producer].staged).clone();
                self.send_staging(request);
            }
            Op::End(producer, is_commit) => {
                if let Some(request) = self.producers[*producer].end(*is_commit) {
                    self.send_end(request);
                }
            }
            Op::EndAgain(producer, which) if !self.producers[*producer].ended.is_empty() => {
                let request = which.get(&self.producers[*producer].ended).clone();
                self.send_end(request);
            }
            Op::Advance(ms) => self.world.now_ms += ms,
            Op::Tick => {
                let now = self.world.now();
                let commands = self.world.leader.tick(&self.world.image, now);
                self.proposals
                    .extend(commands.into_iter().map(|command| (command, None)));
            }
            Op::ApplyOne => self.apply_one(),
            Op::ApplyAll => self.apply_all(),
            Op::FailOver { keeps_proposals } => {
                // Proposed commands may have been committed or not; their requests get no answer.
                self.proposals.iter_mut().for_each(|(_, by)| *by = None);
                if *keeps_proposals {
                    self.apply_all();
                }
                self.proposals.clear();
                self.world.fail_over();
            }
            Op::SetTopics(which) => self.world.set_topics(topics(*which)),
            Op::Restore => {
                let snapshot = self.world.image.snapshot();
                let restored = Image::restore(&snapshot).expect("a snapshot can be restored");
                assert_eq!(restored, self.world.image);
                assert_eq!(restored.snapshot(), snapshot);
                self.world.image = restored;
            }
            _ => {}
        }
        self.assert_owners();
        self.model.follow(&self.world);
    }

    fn restart(&mut self, at: usize) {
        let lives = self.processes[at].lives + 1;
        self.processes[at] = Process {
            client: Process::life(at, lives),
            lives,
            ..Process::new(at)
        };
    }

    fn notice_zombies(&mut self) {
        let group = self.world.image.group(GROUP);
        for process in &mut self.processes {
            process.is_zombie |= group.is_none_or(|group| !group.members.contains_key(&process.client.id));
        }
    }

    /// Asserts that no two members read one partition. A member that was removed and has not heard of it is fenced
    /// instead.
    fn assert_owners(&self) {
        let Some(group) = self.world.image.group(GROUP) else {
            return;
        };
        let mut readers = BTreeMap::new();
        for process in self.processes.iter().filter(|process| !process.is_zombie) {
            let Some(member) = group.members.get(&process.client.id) else {
                continue;
            };
            for partition in process.reads().iter() {
                assert!(
                    member.holds(partition),
                    "{} reads {partition} and does not hold it",
                    process.client.id
                );
                let other = readers.insert(partition, &process.client.id);
                assert_eq!(other, None, "{} and another read {partition}", process.client.id);
            }
        }
    }

    /// Lets all heartbeats arrive from now on.
    fn calm_down(&mut self) {
        self.apply_all();
        let until = self.world.now_ms + 60_000;
        while self.world.now_ms < until {
            self.world.tick();
            for process in &mut self.processes {
                process.excess = PartitionSet::new();
                process.client.beat(&mut self.world);
                process.is_zombie = false;
            }
            self.world.now_ms += 250;
            self.assert_owners();
        }
        // Coordinators abort what is open, and send what they have decided until it is acknowledged.
        for at in 0..PRODUCERS {
            if let Some(request) = self.producers[at].end(false) {
                self.send_end(request);
                self.apply_all();
            }
            assert!(self.producers[at].is_at_rest());
        }
        self.model.follow(&self.world);
        assert!(self.world.group().pending.is_empty(), "a transaction hangs");
    }

    fn assert_settled(&self) {
        let group = self.world.image.group(GROUP).expect("it has members");
        assert_eq!(group.state(), GroupState::Stable, "{group:?}");
        let live: BTreeSet<_> = self.processes.iter().map(|process| process.client.id.clone()).collect();
        assert_eq!(group.members.keys().cloned().collect::<BTreeSet<_>>(), live);
        let counts: Vec<_> = self
            .processes
            .iter()
            .map(|process| process.client.owned.len())
            .collect();
        let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
        assert!(most <= least.map(|least| least + 1), "{counts:?}");
        let total: u32 = group.topics.iter().map(|topic| topic.partitions).sum();
        assert_eq!(counts.iter().sum::<usize>(), total as usize);
    }
}

fn assert_epochs_grow(before: &Image, after: &Image) {
    for (name, group) in before.groups() {
        let Some(later) = after.group(name) else {
            continue;
        };
        assert!(later.epoch >= group.epoch && later.assignment_epoch >= group.assignment_epoch);
        for (id, member) in &group.members {
            let later = later.members.get(id);
            assert!(later.is_none_or(|later| later.epoch >= member.epoch && later.version >= member.version));
        }
    }
}

/// Asserts that what was committed or staged by a member was its own. What the offsets are then says the model.
fn assert_committed_by_its_member(before: &Image, command: &Command, reply: &Reply) {
    let (Command::CommitOffsets {
        group,
        offsets,
        member: Some((id, epoch)),
        ..
    }
    | Command::StageOffsets {
        group,
        offsets,
        member: Some((id, epoch)),
        ..
    }) = command
    else {
        return;
    };
    if matches!(reply, Reply::Applied { .. }) {
        let member = &before.group(group).expect("it exists").members[id];
        assert_eq!(member.epoch, *epoch);
        assert!(offsets.iter().all(|commit| member.holds(commit.partition)));
    }
}

/// The number of cases; more with `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.max(512),
        ..asked
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_history_keeps_the_invariants_and_ends_in_balance(ops in prop::collection::vec(op(), 0..150)) {
        let mut chaos = Chaos::new();
        for op in &ops {
            chaos.run(op);
        }
        chaos.calm_down();
        chaos.assert_settled();

        // A replay of the log gives the same state.
        let mut replayed = Image::new();
        for (index, command) in (1..).zip(&chaos.world.log) {
            let command = Command::decode(&command.encode()).expect("what was encoded can be decoded");
            replayed.apply(index, &command);
        }
        prop_assert_eq!(&replayed, &chaos.world.image);
        let snapshot = chaos.world.image.snapshot();
        prop_assert!(snapshot.len() as u64 <= chaos.world.image.size().total() + 64, "more than it is counted as");
        prop_assert_eq!(replayed.snapshot(), snapshot);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), version: bool) {
        let mut bytes = bytes;
        if version && let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        if let Ok(command) = Command::decode(&bytes) {
            Image::new().apply(1, &command);
            prop_assert_eq!(command.encode().to_vec(), bytes.clone());
        }
        let _ = Image::restore(&bytes);
    }

    /// Flipped bytes of real encodings get further than random ones.
    #[test]
    fn damaged_commands_are_read_or_refused(
        ops in prop::collection::vec(op(), 0..60),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut chaos = Chaos::new();
        for op in &ops {
            chaos.run(op);
        }
        let mut image = Image::new();
        for (index, command) in (1..).zip(&chaos.world.log) {
            let mut bytes = command.encode().to_vec();
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let damaged = Command::decode(&bytes).ok();
            image.apply(2 * index, damaged.as_ref().unwrap_or(command));
            image.apply(2 * index + 1, command);
            image.check().expect("the state is sound");
        }
        let mut snapshot = image.snapshot().to_vec();
        for (at, value) in &flips {
            let at = at.index(snapshot.len());
            snapshot[at] = *value;
        }
        if let Ok(image) = Image::restore(&snapshot) {
            image.check().expect("what was restored is sound");
        }
    }
}
