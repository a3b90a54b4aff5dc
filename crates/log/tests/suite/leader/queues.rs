//! What a queue's consumers do, as commands.

use jangada_queue::{
    AttemptId, DoneCause, KeepsOrder, QueueId, QueueOps, Runs, Section, SectionReply, SessionId, SlotId, SlotKind,
};

use super::*;

const SLOT: SlotId = SlotId(1);
/// Time between two looks at the floor.
const LOOK_MS: u64 = 10_000;

impl World {
    fn change(&mut self, sections: Vec<Section>) -> PartitionReply {
        self.apply(&PartitionCommand::QueueOps(QueueOps {
            term: 1,
            now_ms: START_MS,
            ticket: 0,
            sections,
        }))
    }

    fn open(&mut self, slot_kind: SlotKind) {
        self.open_as(SLOT, slot_kind);
    }

    /// The slot that gets this number.
    fn open_as(&mut self, slot: SlotId, slot_kind: SlotKind) {
        let section = Section::Open {
            queue: QueueId(slot.get().into()),
            slot_kind,
            order: KeepsOrder::No,
            start: 0,
        };
        let reply = self.change(vec![section]);
        let opened = jangada_queue::OpsReply::Applied(vec![SectionReply::Opened(slot)]);
        assert_eq!(reply, PartitionReply::Queue(opened));
    }

    /// Messages are handed out and acknowledged.
    fn acknowledge(&mut self, first: u64, last: u64) {
        self.acknowledge_in(SLOT, first, last);
    }

    fn acknowledge_in(&mut self, slot: SlotId, first: u64, last: u64) {
        let messages = Runs::of(first, last);
        let grant = Section::Grant {
            slot,
            session: SessionId(1),
            attempt: AttemptId(0),
            duration_ms: 1_000,
            messages: messages.clone(),
            keys: Vec::new(),
            lanes: Vec::new(),
        };
        let done = Section::Done {
            slot,
            cause: DoneCause::Acked,
            messages,
        };
        self.change(vec![grant, done]);
    }

    /// A batch of ten messages and a mebibyte.
    fn append_mebibyte(&mut self) {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..10 {
            builder
                .append(0, None, Some(&vec![7; (1 << 20) / 10]), [])
                .expect("it is small");
        }
        let command = PartitionCommand::Append {
            now_ms: 0,
            expiration_ms: i64::MAX,
            conditions: Conditions::default(),
            batch: builder.build(),
        };
        self.apply(&command);
    }
}

#[test]
fn the_log_of_a_queue_is_cut_by_the_segment() {
    // Retention would take them at once.
    let mut world = World::new(Some(1), Some(1));
    world.open(SlotKind::Owned);
    for _ in 0..40 {
        world.append_mebibyte();
    }
    world.wait(DAY_MS);
    assert_eq!(world.log_start(), 0, "the queue needs them all");
    world.acknowledge(0, 149);
    world.wait(2 * LOOK_MS);
    assert_eq!(world.log_start(), 0, "fifteen mebibytes are less than a segment");
    world.acknowledge(150, 165);
    world.wait(LOOK_MS);
    assert_eq!(world.log_start(), 166);
    let reads = world.reads;
    world.wait(DAY_MS);
    assert_eq!(world.reads, reads, "nothing is looked at while nothing moves");
    assert!(world.events.contains(&Event::LogStartAdvanced {
        from: Offset(0),
        to: Offset(166),
        dropped_bytes: world.state.retained_bytes() / 24 * 16
    }));
}

#[test]
fn the_log_of_an_empty_queue_is_cut_from_a_mebibyte_on() {
    let mut world = World::new(None, None);
    world.open(SlotKind::Owned);
    world.append(5, START_MS);
    world.acknowledge(0, 4);
    world.wait(2 * LOOK_MS);
    assert_eq!(world.log_start(), 0, "it is not worth a command");
    world.append_mebibyte();
    world.acknowledge(5, 13);
    world.wait(2 * LOOK_MS);
    assert_eq!(world.log_start(), 0, "it is not empty");
    world.acknowledge(14, 14);
    world.wait(LOOK_MS);
    assert_eq!(world.log_start(), 15);
    assert_eq!(world.state.retained_bytes(), 0);
}

#[test]
fn a_floor_that_moves_often_is_looked_at_once_in_ten_seconds() {
    let mut world = World::new(None, None);
    world.open(SlotKind::Owned);
    for round in 0..100_u64 {
        world.append_mebibyte();
        world.acknowledge(round * 10, round * 10 + 9);
        world.wait(1_000);
    }
    assert!((9..=11).contains(&world.reads), "{} looks", world.reads);
    world.wait(LOOK_MS);
    assert_eq!(world.log_start(), 1_000);
}

#[test]
fn nobody_trims_the_log_of_a_queue_above_its_floor() {
    let mut world = World::new(None, None);
    world.open(SlotKind::Owned);
    world.append(5, START_MS);
    world.acknowledge(0, 1);
    let refused = world.trim(Some(3)).expect_err("the queue needs it");
    assert_eq!(refused.reason, Reason::OffsetOutOfRange);
    assert!(refused.message.contains("from offset 2 on"), "{}", refused.message);
    assert_eq!(world.trim(Some(2)), Ok(Offset(2)));
    assert_eq!(world.log_start(), 2);
}

#[test]
fn a_queue_that_is_a_view_leaves_the_log_to_retention() {
    let mut world = World::new(Some(DAY_MS), None);
    world.open(SlotKind::Group);
    world.append(5, START_MS);
    world.wait(DAY_MS + INTERVAL_MS);
    assert_eq!(world.log_start(), 5);
    let slot = world.state.slots().slot(SLOT).expect("it is open");
    assert_eq!(slot.floor(), 5);
}

#[test]
fn a_queue_that_holds_keeps_what_it_has_not_settled_up_to_its_bound() {
    let mut world = World::new(Some(DAY_MS), None);
    world.open(SlotKind::Group);
    for _ in 0..10 {
        world.append(1, START_MS);
    }
    let batch_bytes = world.state.retained_bytes() / 10;
    let hold = |world: &mut World, bytes| {
        let held = Surroundings {
            holds: BTreeMap::from([(QueueId(1), bytes)]),
            ..surroundings(Some(DAY_MS), None)
        };
        let now = world.now();
        world.leader.surroundings_changed(&world.state, &Arc::new(held), now);
    };
    hold(&mut world, 4 * batch_bytes + 3);
    world.wait(DAY_MS + INTERVAL_MS);
    assert_eq!(world.log_start(), 6, "four are within the bound");
    world.acknowledge(6, 7);
    world.wait(INTERVAL_MS);
    assert_eq!(world.log_start(), 8, "it needs them no more");
    // A client that trims has its way.
    assert_eq!(world.trim(Some(9)), Ok(Offset(9)));
    hold(&mut world, 0);
    world.wait(INTERVAL_MS);
    assert_eq!(world.log_start(), 10);
}

#[test]
fn the_log_of_an_exchange_is_cut_at_the_floor_of_its_slowest_queue() {
    let mut world = World::new(None, None);
    let slow = SlotId(2);
    world.open(SlotKind::Bound);
    world.open_as(slow, SlotKind::Bound);
    for _ in 0..40 {
        world.append_mebibyte();
    }
    world.acknowledge(0, 399);
    world.wait(2 * LOOK_MS);
    assert_eq!(world.log_start(), 0, "the other queue needs them all");
    world.acknowledge_in(slow, 0, 165);
    world.wait(LOOK_MS);
    assert_eq!(world.log_start(), 166);
}

#[test]
fn retention_takes_from_the_log_of_an_exchange_what_its_slowest_queue_has_not_done() {
    let mut world = World::new(Some(DAY_MS), None);
    let slow = SlotId(2);
    world.open(SlotKind::Bound);
    world.open_as(slow, SlotKind::Bound);
    world.append(5, START_MS);
    world.acknowledge(0, 4);
    world.wait(DAY_MS + INTERVAL_MS);
    assert_eq!(world.log_start(), 5);
    let slot = world.state.slots().slot(slow).expect("it is open");
    assert_eq!((slot.floor(), slot.settled(DoneCause::CutOff)), (5, 5));
    // An administrator has his way, too.
    world.append(5, START_MS + 2 * DAY_MS);
    assert_eq!(world.trim(Some(7)), Ok(Offset(7)));
}
