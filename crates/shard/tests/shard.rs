//! A shard through its public interface: what it writes beside groups alone, and that each side gets what is its own.

use std::sync::Arc;

use bytes::Bytes;
use jangada_coordinator as coordinator;
use jangada_machine::{Effects, EncodedCommand, Leader, Machine, Now, Step};
use jangada_shard::{Answer, Command, Shard, ShardLeader, Surroundings};
use jangada_transactions as transactions;
use jangada_types::{GroupId, LogPosition, ProducerId};
use transactions::{InitRequest, JoinKind, JoinRequest, Producer, TransactionState};

fn at(ms: u64) -> Now {
    Now {
        monotonic_ms: ms,
        wall_ms: 1_700_000_000_000 + ms,
        steady_since_ms: 0,
    }
}

struct World {
    shard: Shard,
    leader: ShardLeader,
    index: u64,
}

impl World {
    fn new() -> Self {
        let shard = Shard::default();
        let leader = ShardLeader::begin(&shard, &Arc::new(Surroundings::default()), at(0));
        Self {
            shard,
            leader,
            index: 0,
        }
    }

    fn apply(&mut self, command: Command, now: Now) -> jangada_shard::Reply {
        let command = Shard::decode(Shard::encode(command)).expect("what was encoded can be decoded");
        let position = LogPosition {
            term: 1,
            index: self.index,
        };
        self.index += 1;
        let reply = Machine::apply(&mut self.shard, position, &command, &mut Effects::default());
        self.leader.applied(&self.shard, &command, &reply, &|| now);
        reply
    }

    fn finish(&mut self, mut step: jangada_shard::Step, now: Now) -> Answer {
        loop {
            match step {
                Step::Done(answer) => return answer.expect("it is allowed"),
                Step::Propose { command, pending } => {
                    let reply = self.apply(command, now);
                    step = self.leader.resume(&self.shard, pending, reply, now);
                }
                _ => panic!("a shard reads no rows"),
            }
        }
    }

    fn heartbeat(&mut self, member: &str) -> Answer {
        let request = coordinator::HeartbeatRequest {
            group: "g".into(),
            member: member.into(),
            subscription: Some(coordinator::Subscription::new(["t"], None)),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
            ..coordinator::HeartbeatRequest::default()
        };
        let step = self.leader.groups(&self.shard, at(0), |leader, image, now| {
            leader.heartbeat(image, request, now)
        });
        self.finish(step, at(0))
    }

    fn begin_transaction(&mut self) {
        let init = InitRequest {
            id: "id".into(),
            timeout_ms: 5_000,
            fresh: Some(ProducerId(7)),
            holder: None,
        };
        let step = self
            .leader
            .transactions(&self.shard, at(0), |leader, image, now| leader.init(image, init, now));
        let producer = Producer::first(ProducerId(7));
        let expected = Answer::Transaction(transactions::Answer::Initialized { producer });
        assert_eq!(self.finish(step, at(0)), expected);
        let join = JoinRequest {
            id: "id".into(),
            producer,
            partitions: vec![GroupId(9)],
            groups: vec!["g".into()],
            kind: JoinKind::Implicit,
            metadata_version: 1,
        };
        let step = self
            .leader
            .transactions(&self.shard, at(0), |leader, image, now| leader.join(image, join, now));
        let joined = Answer::Transaction(transactions::Answer::Joined { seq: 1 });
        assert_eq!(self.finish(step, at(0)), joined);
    }
}

#[test]
fn a_shard_without_transactional_ids_writes_what_it_wrote_before_there_were_any() {
    let mut world = World::new();
    world.heartbeat("m");
    let alone = world.shard.groups.snapshot();
    assert_eq!(world.shard.snapshot(), alone);
    assert_eq!(Shard::restore(&alone), Ok(world.shard.clone()));
    let command = coordinator::Command::DeleteGroup { group: "g".into() };
    let before = coordinator::Image::encode(command.clone());
    assert_eq!(Shard::encode(Command::Group(command)), before);
}

#[test]
fn both_sides_come_back_from_one_snapshot() {
    let mut world = World::new();
    world.heartbeat("m");
    world.begin_transaction();
    let snapshot = world.shard.snapshot();
    assert_eq!(snapshot[0], 2);
    assert_eq!(Shard::restore(&snapshot), Ok(world.shard.clone()));
    let mut pieces = Vec::new();
    Machine::encode_into(&world.shard, &mut |piece| pieces.push(piece));
    assert!(pieces.len() > 2);
    assert_eq!(Shard::restore_from(&mut pieces.into_iter()), Ok(world.shard.clone()));
    for cut in 0..snapshot.len() {
        if let Ok(restored) = Shard::restore(&snapshot.slice(..cut)) {
            // A prefix that ends behind a whole message is a state of fewer groups.
            assert!(restored.groups.check().is_ok() && restored.transactions.check().is_ok());
        }
    }
    let too_long = [&[2][..], &u64::MAX.to_be_bytes()].concat();
    assert!(Shard::restore(&Bytes::from(too_long)).is_err());
}

#[test]
fn a_command_of_neither_side_is_refused() {
    for head in [&[][..], &[0], &[3], &[1, 1], &[2, 9]] {
        let command = EncodedCommand::new(head, Bytes::from_static(&[1, 9]));
        assert!(Shard::check_command(&command).is_err(), "{head:?}");
    }
}

#[test]
fn each_side_has_its_timers() {
    let mut world = World::new();
    world.heartbeat("m");
    world.begin_transaction();
    while world.leader.next_deadline().is_some_and(|due| due <= 11_000) {
        let now = at(world.leader.next_deadline().expect("it is there"));
        for due in world.leader.tick(&world.shard, now) {
            let machine::Due::Propose(command) = due else {
                panic!("a shard begins nothing by itself");
            };
            world.apply(command, now);
        }
    }
    let row = world.shard.transactions.id("id").expect("it is there");
    assert_eq!(row.state, TransactionState::PrepareAbort, "its transaction timed out");
    assert_eq!(world.leader.outbox().waiting_markers(), 2);
    let group = world.shard.groups.group("g").expect("it is there");
    assert!(group.members.is_empty(), "its member was silent");
}

use jangada_machine as machine;
