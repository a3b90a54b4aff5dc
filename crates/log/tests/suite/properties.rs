//! Any history: replicas that apply one log have one state, whatever became of them meanwhile, and producers that send
//! again what they were not answered have each batch in the log once.

use jangada_log::PartitionState;
use jangada_machine::{EncodedCommand, Machine};
use proptest::prelude::*;

use crate::world::{REPLICAS, World};

const PRODUCERS: usize = 3;
/// Silent producers are forgotten in some histories, and never in others.
const EXPIRATION_MS: i64 = 10_000;

#[derive(Clone, Debug)]
enum Op {
    Send(usize, i32),
    SendPlain(usize, Option<i64>),
    Trim(f64),
    QueueOps(u64),
    SendMarked(u64),
    Carry(u64),
    Schedule(u64),
    Apply(usize, usize),
    FailOver(usize, bool),
    Save(usize),
    Restart(usize),
    Install(usize, usize),
    Advance(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let replica = 0..REPLICAS;
    prop_oneof![
        8 => (0..PRODUCERS, 1..4_i32).prop_map(|(producer, records)| Op::Send(producer, records)),
        2 => (1..4_usize, proptest::option::of(0..40_i64)).prop_map(|(records, end)| Op::SendPlain(records, end)),
        1 => (0.0..1.0_f64).prop_map(Op::Trim),
        8 => (replica.clone(), 1..6_usize).prop_map(|(replica, most)| Op::Apply(replica, most)),
        1 => (replica.clone(), any::<bool>()).prop_map(|(to, loses)| Op::FailOver(to, loses)),
        2 => replica.clone().prop_map(Op::Save),
        2 => replica.clone().prop_map(Op::Restart),
        1 => (replica.clone(), replica).prop_map(|(from, to)| Op::Install(from, to)),
        2 => (0..4_000_i64).prop_map(Op::Advance),
    ]
}

/// With queues that nobody needs to work for.
fn queue_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => op(),
        10 => any::<u64>().prop_map(Op::QueueOps),
        5 => any::<u64>().prop_map(Op::SendMarked),
        2 => any::<u64>().prop_map(Op::Carry),
        5 => any::<u64>().prop_map(Op::Schedule),
        2 => (0.0..1.0_f64).prop_map(Op::Trim),
    ]
}

fn run(world: &mut World, ops: &[Op]) {
    for op in ops {
        match *op {
            Op::Send(producer, records) => world.send(producer, records),
            Op::SendPlain(records, end) => world.send_plain(records, end),
            Op::Trim(share) => world.trim(share),
            Op::QueueOps(seed) => world.queue_ops(seed),
            Op::SendMarked(seed) => world.send_marked(seed),
            Op::Carry(seed) => world.carry(seed),
            Op::Schedule(seed) => world.schedule(seed),
            Op::Apply(replica, most) => world.apply(replica, most),
            Op::FailOver(to, loses) => world.fail_over(to, loses),
            Op::Save(replica) => world.save(replica),
            Op::Restart(replica) => world.restart(replica),
            Op::Install(from, to) => world.install(from, to),
            Op::Advance(ms) => world.now_ms += ms,
        }
    }
    world.settle();
}

/// More by `PROPTEST_CASES`.
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
    fn replicas_of_one_log_have_one_state_and_each_batch_is_in_it_once(
        ops in prop::collection::vec(op(), 0..150),
    ) {
        run(&mut World::new(PRODUCERS, i64::MAX), &ops);
    }

    #[test]
    fn replicas_forget_silent_producers_alike(ops in prop::collection::vec(op(), 0..150)) {
        run(&mut World::new(PRODUCERS, EXPIRATION_MS), &ops);
    }

    #[test]
    fn replicas_of_a_partition_with_queues_have_one_state_and_one_set_of_rows(
        ops in prop::collection::vec(queue_op(), 0..150),
    ) {
        run(&mut World::new(PRODUCERS, i64::MAX), &ops);
    }

    #[test]
    fn any_bytes_are_read_or_refused(head in prop::collection::vec(any::<u8>(), 0..60), kind in 0..14_u8) {
        let mut head = head;
        if let [version, second, ..] = &mut head[..] {
            (*version, *second) = (1, kind);
        }
        let command = EncodedCommand::new(&head, bytes::Bytes::from_static(b"body"));
        // What a varint is written as, and what lies behind a head, are not for all kinds the shortest.
        let is_free = (3..=7).contains(&kind);
        let _ = PartitionState::check_command(&command);
        if let Ok(read) = PartitionState::decode(command.clone()) {
            let again = PartitionState::encode(read);
            prop_assert!(command.head().starts_with(again.head()) || is_free, "{:?}", command.head());
        }
        let _ = PartitionState::restore(&head.into());
    }
}
