//! Measures the largest group. The printed times mean something only when it runs alone: `cargo test --release -p
//! jangada-coordinator --test suite -- --nocapture scale`.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::{Duration, Instant};

use jangada_coordinator::{Answer, Command, Image, Leader, OffsetCommit, Step, TopicPartition};
use jangada_machine::Machine;
use jangada_types::{Offset, TopicId};

use crate::fixture::{Client, GROUP, World};

const MEMBERS: usize = 1_000;
const PARTITIONS: u32 = 100_000;

/// A shard without the fixture's checks of the whole state after each command.
struct Shard {
    image: Image,
    leader: Leader,
    index: u64,
    applying: Duration,
}

impl Shard {
    fn run(&mut self, world: &World, mut step: Step) -> Answer {
        loop {
            match step {
                Step::Done(answer) => return answer.expect("it is accepted"),
                Step::Propose { command, pending } => {
                    let begun = Instant::now();
                    self.index += 1;
                    let reply = self.image.apply(self.index, &command);
                    self.leader.applied(&self.image, &command, &reply, world.now());
                    self.applying += begun.elapsed();
                    step = self.leader.resume(&self.image, pending, reply, world.now());
                }
                other => panic!("a shard reads no rows: {other:?}"),
            }
        }
    }

    fn tick(&mut self, world: &World) -> usize {
        let commands = self.leader.tick(&self.image, world.now());
        for command in &commands {
            self.index += 1;
            let reply = self.image.apply(self.index, command);
            self.leader.applied(&self.image, command, &reply, world.now());
        }
        commands.len()
    }
}

#[test]
fn a_thousand_members_share_a_hundred_thousand_partitions() {
    let mut world = World::new(vec![(1, "t", PARTITIONS)]);
    let mut shard = Shard {
        image: world.image.clone(),
        leader: Leader::new(world.config.clone(), &world.image, world.topics.clone(), world.now()),
        index: 0,
        applying: Duration::ZERO,
    };
    let mut clients: Vec<_> = (0..MEMBERS)
        .map(|at| Client::new(&format!("m{at:04}"), &["t"]))
        .collect();
    // Each round is one heartbeat of every member. After some rounds half of them leave; then as many join, and wait
    // for two rounds in which the others are not heard and give nothing up.
    for round in 0..18 {
        if round == 6 {
            for client in clients.drain(..MEMBERS / 2) {
                let leave = jangada_coordinator::HeartbeatRequest {
                    epoch: -1,
                    ..client.request()
                };
                let step = shard.leader.heartbeat(&shard.image, leave, world.now());
                shard.run(&world, step);
            }
        }
        if round == 9 {
            clients.extend((0..MEMBERS / 2).map(|at| Client::new(&format!("n{at:04}"), &["t"])));
        }
        let beat = if (9..12).contains(&round) {
            MEMBERS / 2..MEMBERS
        } else {
            0..clients.len()
        };
        let count = beat.len();
        let (begun, commands) = (Instant::now(), shard.index);
        shard.applying = Duration::ZERO;
        for client in &mut clients[beat] {
            let step = shard.leader.heartbeat(&shard.image, client.request(), world.now());
            let answer = shard.run(&world, step);
            client.take(Ok(answer), world.now_ms);
        }
        let heartbeats = begun.elapsed();
        let applied = shard.index - commands;
        world.now_ms += 2_000;
        let begun = Instant::now();
        let ticked = shard.tick(&world);
        println!(
            "round {round}: {:?} per heartbeat of {}, of it {:?} per applied command of {applied}; tick with {ticked} commands {:?}",
            heartbeats / count as u32,
            count,
            shard.applying / (applied.max(1) as u32),
            begun.elapsed()
        );
    }
    assert!(
        clients
            .iter()
            .all(|client| client.owned.len() == PARTITIONS as usize / clients.len())
    );
    shard.image.check().expect("the state is sound");
    assert_eq!(shard.image.state(GROUP).as_str(), "Stable");
}

/// The state of a shard that is full of offsets, and what a snapshot of it costs the task that applies: the clone.
#[test]
fn a_large_state_is_handed_out_in_pieces() {
    let mut image = Image::new();
    let metadata = "m".repeat(200);
    let offsets: Vec<OffsetCommit> = (0..1_000)
        .map(|at| OffsetCommit {
            partition: TopicPartition::new(TopicId::from_u128(1), at),
            offset: Offset(i64::from(at)),
            leader_epoch: None,
            metadata: metadata.as_str().into(),
        })
        .collect();
    for group in 0..320 {
        let command = Command::CommitOffsets {
            group: format!("g{group}").into(),
            member: None,
            offsets: offsets.clone(),
            at_ms: 1_000,
            topics_version: 1,
        };
        image.apply(group + 1, &command);
    }
    let begun = Instant::now();
    let clone = image.clone();
    let cloned = begun.elapsed();
    let begun = Instant::now();
    let mut pieces = Vec::new();
    Machine::encode_into(&clone, &mut |piece| pieces.push(piece));
    let encoded = begun.elapsed();
    let largest = pieces.iter().map(bytes::Bytes::len).max().expect("there are pieces");
    let bytes: usize = pieces.iter().map(bytes::Bytes::len).sum();
    assert!(
        bytes > 60 << 20 && largest < 1 << 20,
        "{bytes} bytes, {largest} in one piece"
    );
    let begun = Instant::now();
    let restored = <Image as Machine>::restore_from(&mut pieces.into_iter()).expect("it is a state");
    println!(
        "{bytes} bytes: cloned in {cloned:?}, encoded in {encoded:?}, restored in {:?}",
        begun.elapsed()
    );
    assert_eq!(restored, image);
}
