//! What a slot costs: bytes that are really allocated, counted by the allocator of these tests.
#![allow(
    unsafe_code,
    reason = "an allocator that counts is unsafe by its trait; it only adds to a counter"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use jangada_queue::{
    AttemptId, Context, DoneCause, KeepsOrder, QueueId, QueueOps, Runs, Section, SessionId, SlotId, SlotKind, Slots,
};
use jangada_types::replicated::Seeds;
use jangada_types::{LogPosition, Offset};

use crate::cpu::worked;

struct Counting;

thread_local! {
    /// Bytes that this thread has allocated and not given back.
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends frees what it has when its counter is gone.
    let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get() + bytes));
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

pub fn allocated() -> isize {
    ALLOCATED.with(Cell::get)
}

struct Partition {
    slots: Slots,
    next: u64,
    index: u64,
}

impl Partition {
    fn new(next: u64) -> Self {
        let mut partition = Self {
            slots: Slots::default(),
            next,
            index: 0,
        };
        partition.apply(Section::Open {
            queue: QueueId(1),
            slot_kind: SlotKind::Group,
            order: KeepsOrder::No,
            start: 0,
        });
        partition
    }

    fn apply(&mut self, section: Section) {
        let context = Context {
            at: LogPosition {
                term: 1,
                index: self.index,
            },
            log_start: Offset(0),
            next_offset: Offset(self.next as i64),
        };
        self.index += 1;
        let ops = QueueOps {
            term: 1,
            now_ms: 1_700_000_000_000,
            ticket: 0,
            sections: vec![section],
        };
        self.slots.apply(&context, &ops, &());
    }

    fn grant(&mut self, messages: Runs) {
        self.apply(Section::Grant {
            slot: SlotId(1),
            session: SessionId(1),
            attempt: AttemptId(0),
            duration_ms: 30_000,
            messages,
            keys: vec![],
            lanes: vec![],
        });
    }

    fn done(&mut self, cause: DoneCause, messages: Runs) {
        self.apply(Section::Done {
            slot: SlotId(1),
            cause,
            messages,
        });
    }
}

/// The numbers below `count` in any order.
fn shuffled(count: u64) -> Vec<u32> {
    let mut seeds = Seeds::new(1);
    let mut numbers: Vec<u32> = (0..count as u32).collect();
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, seeds.below(at as u64 + 1) as usize);
    }
    numbers
}

const MILLION: u64 = 1_000_000;

#[test]
fn an_untouched_backlog_costs_nothing() {
    let before = allocated();
    let mut partition = Partition::new(10 * MILLION);
    let bytes = allocated() - before;
    assert!(bytes < 4_096, "{bytes} bytes");
    partition.next *= 2;
    assert_eq!(allocated() - before, bytes);
    assert_eq!(
        partition
            .slots
            .slot(SlotId(1))
            .expect("it is open")
            .free(partition.next),
        20 * MILLION
    );
}

/// The message at 0 is stuck; all others are done in any order.
#[test]
fn messages_done_at_random_behind_one_that_is_stuck_cost_a_bit_each() {
    let order = shuffled(10 * MILLION);
    let before = allocated();
    let mut partition = Partition::new(10 * MILLION);
    partition.grant(Runs::of(0, 0));
    let mut highest = 0;
    for part in order.chunks(500) {
        let messages = part.iter().map(|at| u64::from(*at)).filter(|at| *at != 0).collect();
        // Expired, not acknowledged: so no lease is measured with it.
        partition.done(DoneCause::Expired, messages);
        highest = highest.max(allocated() - before);
    }
    let at_last = allocated() - before;
    let slot = partition.slots.slot(SlotId(1)).expect("it is open");
    assert_eq!((slot.floor(), slot.undone(partition.next)), (0, 1));
    println!(
        "highest {highest} bytes, {at_last} when all are done, counted as {}",
        slot.state_bytes()
    );
    assert!(
        highest <= 1_500_000,
        "a bit each, and a little for each 4,096: {highest} bytes"
    );
    assert!(at_last <= 300_000, "runs again: {at_last} bytes");
}

#[test]
fn messages_in_flight_cost_what_the_design_says() {
    let order = shuffled(MILLION);
    for (name, is_random) in [("one after another", false), ("at random", true)] {
        let before = allocated();
        let mut partition = Partition::new(MILLION);
        for part in 0..10_000 {
            let messages = (part * 10..part * 10 + 10).map(|at| match is_random {
                true => u64::from(order[at as usize]),
                false => at,
            });
            partition.grant(messages.collect());
        }
        let bytes = allocated() - before;
        let slot = partition.slots.slot(SlotId(1)).expect("it is open");
        assert_eq!((slot.counts().leased, slot.leases().count()), (100_000, 10_000));
        println!("{name}: {bytes} bytes, counted as {}", slot.state_bytes());
        assert!(bytes <= 5_200_000, "{name}: {bytes} bytes");
        let snapshot = partition.slots.snapshot();
        println!("{name}: {} bytes in a snapshot", snapshot.len());
        for at in 0..100_000_u64 {
            let at = if is_random { u64::from(order[at as usize]) } else { at };
            partition.done(DoneCause::Acked, Runs::of(at, at));
        }
        let slot = partition.slots.slot(SlotId(1)).expect("it is open");
        assert_eq!((slot.counts().leased, slot.leases().count()), (0, 0));
    }
}

/// What is leased lies close together: taking one message out must not move all the others.
#[test]
fn an_acknowledgement_costs_the_same_wherever_its_message_is() {
    let count = 100_000;
    let backwards = (0..count as u32).rev().collect();
    for (name, order) in [
        ("one after another", (0..count as u32).collect()),
        ("from the last on", backwards),
        ("at random", shuffled(count)),
    ] {
        let order: Vec<u32> = order;
        let mut partition = Partition::new(count);
        for part in order.chunks(100) {
            partition.grant(part.iter().map(|at| u64::from(*at)).collect());
        }
        let begun = worked();
        for part in order.chunks(40) {
            partition.done(DoneCause::Acked, part.iter().map(|at| u64::from(*at)).collect());
        }
        let each = (worked() - begun) / count as u32;
        println!("{name}: {each:?} to apply an acknowledgement among {count} leased");
        let slot = partition.slots.slot(SlotId(1)).expect("it is open");
        assert_eq!((slot.counts().leased, slot.floor()), (0, count));
        assert!(each < Duration::from_micros(2), "{name}: {each:?}");
    }
}

/// What a checkpoint is encoded from while commands go on being applied.
#[test]
fn a_clone_of_a_large_state_costs_next_to_nothing() {
    let mut partition = Partition::new(64 * MILLION);
    partition.grant((0..100_000).map(|at| at * 640).collect());
    for part in 0..640 {
        let first = part * 100_000;
        partition.done(
            DoneCause::Expired,
            (first..first + 100_000).filter(|at| at % 5 == 1).collect(),
        );
    }
    let bytes = partition.slots.state_bytes();
    assert!(bytes > 11_000_000, "{bytes} bytes");
    let before = allocated();
    let clone = partition.slots.clone();
    let cost = allocated() - before;
    println!("{bytes} bytes, a clone of them {cost}");
    assert!(cost < 1_500_000, "a pointer for each 4,096 messages: {cost} bytes");
    // What is applied meanwhile copies what it touches, and no more.
    let before = allocated();
    partition.done(DoneCause::Acked, Runs::of(640_000, 640_000));
    let cost = allocated() - before;
    assert!(cost < 20_000, "{cost} bytes");
    assert!(clone != partition.slots, "the clone is as it was");
}
