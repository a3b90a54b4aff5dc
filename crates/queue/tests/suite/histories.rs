//! Any history of a queue with its leader: consumers that work, break and crash, leaders that change, answers and rows that come late.
//! `QUEUE_HISTORIES` says how many for each kind of queue, `QUEUE_SEED` which one.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use jangada_queue::engine::{Attempts, CarryBounds, Expired, OnDead, Order, Overflow, Policy, Settlement};
use jangada_queue::{KeepsOrder, Mark, SlotId, SlotKind, SlotSet};

use crate::world::{Client, SLOT, World};

fn histories() -> u64 {
    let asked = std::env::var("QUEUE_HISTORIES").ok();
    asked.map_or(300, |asked| asked.parse().expect("QUEUE_HISTORIES is a number"))
}

/// Which histories: `QUEUE_SEED` names one of them.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var("QUEUE_SEED").ok() {
        Some(seed) => {
            let seed = seed.parse().expect("QUEUE_SEED is a number");
            seed..seed + 1
        }
        None => 0..histories(),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    keys: u64,
    lanes: u64,
    delays: bool,
    ttl: bool,
    carries: bool,
    /// The queue reads a topic's log, which is cut by retention.
    cuts: bool,
    /// Consumers send and acknowledge in transactions.
    transactions: bool,
    /// The queue shares an exchange's log with others, whose messages are none of its business.
    routed: bool,
}

fn only(slots: impl IntoIterator<Item = SlotId>) -> SlotSet {
    SlotSet::only(slots).expect("there are some")
}

fn mark(world: &mut World, kind: Kind) -> Mark {
    let mut mark = Mark::default();
    if kind.keys > 0 {
        mark.key = 1 + world.seeds.below(kind.keys);
    }
    if kind.lanes > 0 {
        mark.lane = world.seeds.below(kind.lanes) as u8;
    }
    if kind.delays && world.seeds.below(2) == 0 {
        mark.deliver_at_ms = world.wall() + world.seeds.below(20_000);
    }
    if kind.routed {
        let others = [SlotId(2), SlotId(3)];
        mark.slots = match world.seeds.below(5) {
            0 => SlotSet::ALL,
            1 => only([SLOT]),
            2 => only([SLOT, others[1]]),
            3 => only((2..40).map(SlotId)),
            _ => only(others),
        };
    }
    if kind.ttl && world.seeds.below(2) == 0 {
        mark.expires_at_ms = world.wall() + 1 + world.seeds.below(60_000);
    }
    mark
}

fn settlement(world: &mut World) -> Settlement {
    match world.seeds.below(16) {
        0..=8 => Settlement::Ack,
        9..=10 => Settlement::Nack {
            delay_ms: Some(world.seeds.below(5_000)),
            failed: true,
        },
        11 => Settlement::Nack {
            delay_ms: None,
            failed: true,
        },
        12 => Settlement::Nack {
            delay_ms: Some(100),
            failed: false,
        },
        13 => Settlement::Release,
        14 => Settlement::Extend { lease_ms: 8_000 },
        _ => Settlement::Reject,
    }
}

/// What a client does in its transaction, or it begins one.
fn transact(world: &mut World, client: usize, kind: Kind) {
    let Some(transaction) = world.clients[client].txn else {
        world.begin(client);
        return;
    };
    match world.seeds.below(12) {
        0..=4 => {
            let holds = world.clients[client].holds.len() as u64;
            if holds > 0 {
                let at = world.seeds.below(holds) as usize;
                let offset = *world.clients[client].holds.keys().nth(at).expect("it was counted");
                world.say(client, offset, Settlement::AckIn { transaction });
            }
        }
        5..=7 => {
            let count = 1 + world.seeds.below(3);
            let marks = (0..count).map(|_| mark(world, kind)).collect();
            world.send_in(transaction, marks);
        }
        8..=9 => _ = world.finish(client, true),
        10 => _ = world.finish(client, false),
        _ => world.comes_late(),
    }
}

fn act(world: &mut World, kind: Kind) {
    let client = world.seeds.below(world.clients.len() as u64) as usize;
    if kind.transactions && world.seeds.below(4) == 0 {
        return transact(world, client, kind);
    }
    match world.seeds.below(100) {
        0..=19 => {
            let count = 1 + world.seeds.below(4);
            let marks = (0..count).map(|_| mark(world, kind)).collect();
            world.send(marks);
        }
        20..=49 => {
            let most = 1 + world.seeds.below(3);
            (0..most).for_each(|_| _ = world.apply());
        }
        50..=69 => {
            let holds = world.clients[client].holds.len() as u64;
            if holds > 0 {
                let at = world.seeds.below(holds) as usize;
                let offset = *world.clients[client].holds.keys().nth(at).expect("it was counted");
                let settlement = settlement(world);
                world.say(client, offset, settlement);
            }
        }
        70..=77 => {
            let credit = 1 + world.seeds.below(5) as u32;
            world.connect(client, credit);
        }
        78..=81 => {
            let credit = 1 + world.seeds.below(4) as u32;
            world.give_credit(client, credit);
        }
        82..=83 => {
            let messages = 1 + world.seeds.below(4) as u32;
            world.receive(client, messages, 2_000);
        }
        84 => world.disconnect(client, true),
        85 => world.disconnect(client, false),
        86 => world.crash(client),
        87..=88 => {
            world.fail_over();
            world.measure();
        }
        89..=93 => {
            let ms = world.seeds.below(3_000);
            world.pass(ms);
        }
        94 => {
            let ms = world.seeds.below(30_000);
            world.pass(ms);
        }
        97..=98 if kind.carries => world.measure(),
        97..=98 if kind.cuts => {
            let count = world.seeds.below(12);
            world.cut(count);
        }
        95 if kind.carries => {
            let count = 1 + world.seeds.below(20);
            world.carry(count);
        }
        96 if kind.delays && world.seeds.below(4) == 0 => {
            let ahead_ms = world.seeds.below(7_200_000);
            world.step_wall(ahead_ms);
        }
        99 if world.policy.forwards_dead => _ = world.target_step(),
        _ => {
            world.read(0);
            if world.policy.forwards_dead {
                world.target_step();
            }
        }
    }
}

fn run(policy: Policy, kind: Kind) {
    let planned = Cell::new(0);
    for seed in seeds() {
        let keeps = kind.keys > 0 || kind.lanes > 0;
        let order = if keeps { KeepsOrder::Yes } else { KeepsOrder::No };
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let slot_kind = match kind {
                Kind { routed: true, .. } => SlotKind::Bound,
                Kind { cuts: true, .. } => SlotKind::Group,
                _ => SlotKind::Owned,
            };
            let mut world = World::over(slot_kind, seed, policy, order);
            world.target.may_lose = kind.cuts;
            world.clients = (0..3)
                .map(|session| Client {
                    session,
                    ..Client::default()
                })
                .collect();
            // A key whose dead message stays is blocked for ever.
            world.target.takes_all = matches!(policy.order, Order::ByKey(OnDead::Block));
            if seed % 2 == 0 {
                // So little that almost all is carried.
                world.carry_bounds = CarryBounds {
                    factor: 0,
                    slack_bytes: 400,
                    batch_bytes: 400,
                    leased_ms: if seed % 4 == 0 { 0 } else { 2_000 },
                };
                world.begin_engine();
                world.configure();
            }
            world.carries_leased = seed % 3 == 0;
            world.acts_late = seed % 2 == 0;
            for _ in 0..400 {
                act(&mut world, kind);
            }
            world.acts_late = false;
            planned.set(planned.get() + world.planned);
            world.drain();
        }));
        assert!(outcome.is_ok(), "history {seed} of {kind:?}");
    }
    let planned = planned.get() as u64;
    // What is leased or not due keeps what is behind it with the same key.
    let share = if kind.keys > 0 && kind.delays { 10 } else { 4 };
    assert!(
        !kind.carries || seeds().start > 0 || planned > histories() / share,
        "{planned} carries were planned"
    );
}

fn policy() -> Policy {
    Policy {
        attempts_max: Some(3),
        ..Policy::default()
    }
}

#[test]
fn a_plain_queue() {
    run(policy(), Kind::default());
}

#[test]
fn a_queue_that_counts_deliveries() {
    let policy = Policy {
        attempts: Attempts::Deliveries,
        ..policy()
    };
    run(policy, Kind::default());
}

#[test]
fn a_queue_that_never_gives_up_and_is_carried() {
    let policy = Policy {
        attempts_max: None,
        ..policy()
    };
    let kind = Kind {
        carries: true,
        ..Kind::default()
    };
    run(policy, kind);
}

#[test]
fn delayed_messages() {
    let kind = Kind {
        delays: true,
        carries: true,
        ..Kind::default()
    };
    run(policy(), kind);
}

#[test]
fn order_by_key() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..policy()
    };
    let kind = Kind {
        keys: 4,
        ..Kind::default()
    };
    run(policy, kind);
}

#[test]
fn order_by_key_with_carries() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..policy()
    };
    let kind = Kind {
        keys: 4,
        carries: true,
        ..Kind::default()
    };
    run(policy, kind);
}

#[test]
fn dead_letters_for_another_topic() {
    let policy = Policy {
        attempts_max: Some(1),
        forwards_dead: true,
        ..policy()
    };
    let kind = Kind {
        carries: true,
        ..Kind::default()
    };
    run(policy, kind);
}

#[test]
fn dead_letters_of_keys_that_block() {
    let policy = Policy {
        attempts_max: Some(2),
        forwards_dead: true,
        order: Order::ByKey(OnDead::Block),
        ..policy()
    };
    let kind = Kind {
        keys: 4,
        ..Kind::default()
    };
    run(policy, kind);
}

#[test]
fn priorities() {
    let policy = Policy {
        has_lanes: true,
        min_share: 20,
        ..policy()
    };
    let kind = Kind {
        lanes: 4,
        delays: true,
        carries: true,
        ..Kind::default()
    };
    run(policy, kind);
}

#[test]
fn messages_that_expire() {
    for expired in [Expired::Drop, Expired::Dead] {
        let policy = Policy {
            expired: Some(expired),
            ..policy()
        };
        let kind = Kind {
            ttl: true,
            ..Kind::default()
        };
        run(policy, kind);
    }
}

#[test]
fn a_queue_that_is_full() {
    let policy = Policy {
        messages_max: Some(10),
        overflow: Overflow::DropOldest,
        ..policy()
    };
    run(policy, Kind::default());
}

#[test]
fn messages_of_a_key_that_are_not_due() {
    for order in [OnDead::Continue, OnDead::Block] {
        let policy = Policy {
            order: Order::ByKey(order),
            // A key whose dead message stays would be blocked for ever.
            forwards_dead: order == OnDead::Block,
            ..policy()
        };
        let kind = Kind {
            keys: 4,
            delays: true,
            carries: true,
            ..Kind::default()
        };
        run(policy, kind);
    }
}

#[test]
fn a_topic_whose_retention_takes_what_its_group_has_not_done() {
    let plain = Kind {
        cuts: true,
        ..Kind::default()
    };
    run(policy(), plain);
    run(policy(), Kind { delays: true, ..plain });
    let keyed = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..policy()
    };
    run(
        keyed,
        Kind {
            keys: 4,
            delays: true,
            ..plain
        },
    );
    let expires = Policy {
        expired: Some(Expired::Dead),
        ..policy()
    };
    run(expires, Kind { ttl: true, ..plain });
    let forwards = Policy {
        attempts_max: Some(1),
        forwards_dead: true,
        ..policy()
    };
    run(forwards, plain);
}

#[test]
fn a_view_over_the_log_of_an_exchange() {
    let plain = Kind {
        routed: true,
        ..Kind::default()
    };
    run(policy(), plain);
    run(policy(), Kind { carries: true, ..plain });
    run(policy(), Kind { cuts: true, ..plain });
    run(
        policy(),
        Kind {
            transactions: true,
            ..plain
        },
    );
    let delays = Kind { delays: true, ..plain };
    run(policy(), delays);
    let expires = Policy {
        expired: Some(Expired::Dead),
        ..policy()
    };
    run(expires, Kind { ttl: true, ..plain });
    let counts_deliveries = Policy {
        attempts: Attempts::Deliveries,
        attempts_max: Some(2),
        forwards_dead: true,
        ..policy()
    };
    run(counts_deliveries, plain);
}

#[test]
fn transactions() {
    let kind = Kind {
        transactions: true,
        ..Kind::default()
    };
    run(policy(), kind);
    run(policy(), Kind { carries: true, ..kind });
    run(policy(), Kind { cuts: true, ..kind });
}

#[test]
fn transactions_with_an_order_by_key() {
    let policy = Policy {
        order: Order::ByKey(OnDead::Continue),
        ..policy()
    };
    let kind = Kind {
        keys: 4,
        carries: true,
        transactions: true,
        ..Kind::default()
    };
    run(policy, kind);
    run(policy, Kind { delays: true, ..kind });
}

#[test]
fn transactions_with_priorities_and_delays() {
    let kind = Kind {
        delays: true,
        carries: true,
        transactions: true,
        ..Kind::default()
    };
    run(policy(), kind);
    let lanes = Policy {
        has_lanes: true,
        min_share: 20,
        ..policy()
    };
    run(lanes, Kind { lanes: 4, ..kind });
}

#[test]
fn transactions_with_messages_that_expire_or_are_too_many() {
    let kind = Kind {
        transactions: true,
        ..Kind::default()
    };
    let expires = Policy {
        expired: Some(Expired::Dead),
        ..policy()
    };
    run(expires, Kind { ttl: true, ..kind });
    let full = Policy {
        messages_max: Some(10),
        overflow: Overflow::DropOldest,
        ..policy()
    };
    run(full, kind);
    let counts_deliveries = Policy {
        attempts: Attempts::Deliveries,
        forwards_dead: true,
        ..policy()
    };
    run(counts_deliveries, kind);
}
