//! Queues of a partition: their commands as bytes, what they come to, and what they mean for the log's start.

use bytes::Bytes;
use jangada_log::{
    ConditionFailed, Conditions, IdFinding, KeyFinding, PartitionCommand, PartitionReply, PartitionState, Refusal,
};
use jangada_machine::{Effects, EncodedCommand, Machine};
use jangada_queue::{
    AttemptId, Carry, CarryRefused, DoneCause, IdWindow, KeepsOrder, Mark, Marks, OpsReply, QueueId, QueueOps, Runs,
    Section, SectionReply, SessionId, SlotId, SlotKind,
};
use jangada_types::replicated::Seeds;
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, ProducerEpoch, ProducerId, Sequence};

use crate::golden::{advance, append, compare, describe, hex};
use crate::world::{queue_rows_of, rows_of, section};

pub const TERM: u64 = 3;
pub const SLOT: SlotId = SlotId(1);

pub fn batch(records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.append(5, None, Some(b"message"), []).expect("it is small");
    }
    builder.build()
}

fn ops(sections: Vec<Section>) -> PartitionCommand {
    PartitionCommand::QueueOps(QueueOps {
        term: TERM,
        now_ms: 1_700_000_000_000,
        ticket: 0,
        sections,
    })
}

fn open(kind: SlotKind, queue: u128) -> Section {
    Section::Open {
        queue: QueueId(queue),
        slot_kind: kind,
        order: KeepsOrder::No,
        start: 0,
    }
}

fn grant(messages: Runs) -> Section {
    Section::Grant {
        slot: SLOT,
        session: SessionId(8),
        attempt: AttemptId(0),
        duration_ms: 30_000,
        messages,
        keys: Vec::new(),
        lanes: Vec::new(),
    }
}

fn done(messages: Runs) -> Section {
    Section::Done {
        slot: SLOT,
        cause: DoneCause::Acked,
        messages,
    }
}

fn marked(marks: Vec<Mark>, ids: Option<IdFinding>, conditions: Conditions) -> PartitionCommand {
    PartitionCommand::AppendMarked {
        now_ms: 1_700_000_000_000,
        expiration_ms: 3_000,
        conditions,
        ids,
        batch: batch(marks.len()),
        marks: Marks(marks),
    }
}

fn found(term: u64) -> Option<IdFinding> {
    let window = IdWindow {
        window_ms: 300_000,
        forgets: false,
    };
    Some(IdFinding { window, term })
}

fn marks() -> Vec<Mark> {
    let timed = Mark {
        deliver_at_ms: 1_700_000_600_000,
        key: 7,
        ..Mark::default()
    };
    let known = Mark {
        lane: 2,
        id: 9,
        ..Mark::default()
    };
    vec![Mark::default(), timed, known]
}

fn carry(term: u64, messages: Runs) -> PartitionCommand {
    PartitionCommand::Carry {
        batch: batch(messages.len() as usize),
        carry: Carry {
            term,
            messages,
            marks: Marks::default(),
        },
    }
}

/// The commands of queues, each in some form.
pub fn shapes() -> Vec<(&'static str, PartitionCommand)> {
    let conditions = Conditions {
        end_offset: Some(Offset(4)),
        key: Some(KeyFinding {
            expected: Offset(-1),
            found: Offset(2),
            term: 9,
        }),
    };
    let carried = PartitionCommand::Carry {
        carry: Carry {
            term: 300,
            messages: Runs::from_iter([5, 6, 9]),
            marks: Marks(marks()),
        },
        batch: batch(3),
    };
    vec![
        ("queue-nothing", ops(Vec::new())),
        (
            "queue-open-grant",
            ops(vec![open(SlotKind::Owned, 77), grant(Runs::of(2, 400))]),
        ),
        ("marked", marked(marks(), None, Conditions::default())),
        ("marked-ids", marked(marks(), found(u64::MAX), conditions)),
        ("carry", carry(TERM, Runs::of(0, 1))),
        ("carry-marks", carried),
    ]
}

/// A partition that one leader writes.
#[derive(Default)]
pub struct Partition {
    pub state: PartitionState,
    index: u64,
    pub effects: Effects,
}

impl Partition {
    /// What a command comes to, with all rows that it writes.
    pub fn apply_described(&mut self, command: &PartitionCommand) -> String {
        let reply = self.apply(command);
        let rows = rows_of(&self.effects);
        let marks = queue_rows_of(&mut self.effects);
        let marks = marks.iter().map(|(key, value)| format!(" {}={}", hex(key), hex(value)));
        describe(&reply, rows.first()) + &marks.collect::<String>()
    }

    pub fn apply_in(&mut self, term: u64, command: &PartitionCommand) -> PartitionReply {
        self.index += 1;
        let at = LogPosition {
            term,
            index: self.index,
        };
        self.effects = Effects::default();
        let encoded = PartitionState::encode(command.clone());
        assert_eq!(PartitionState::check_command(&encoded), Ok(()));
        assert_eq!(PartitionState::decode(encoded).as_ref(), Ok(command));
        self.state.apply(at, command, &mut self.effects)
    }

    pub fn apply(&mut self, command: &PartitionCommand) -> PartitionReply {
        self.apply_in(TERM, command)
    }

    pub fn change(&mut self, sections: Vec<Section>) -> Vec<SectionReply> {
        match self.apply(&ops(sections)) {
            PartitionReply::Queue(OpsReply::Applied(replies)) => replies,
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, records: usize) {
        let command = append(1, 2, Conditions::default(), batch(records));
        let reply = self.apply(&command);
        assert!(matches!(reply, PartitionReply::Appended { .. }), "{reply:?}");
    }

    fn trim(&mut self, to: i64) -> PartitionReply {
        let from = self.state.log_start().get();
        self.apply(&advance(from, to, 10))
    }
}

/// A partition with a slot, and ten messages.
pub fn with_slot(kind: SlotKind) -> Partition {
    let mut partition = Partition::default();
    partition.send(10);
    assert_eq!(partition.change(vec![open(kind, 77)]), [SectionReply::Opened(SLOT)]);
    partition
}

#[test]
fn commands_replies_rows_and_states_are_those_of_earlier_builds() {
    let (mut commands, mut replies, mut states) = (Vec::new(), Vec::new(), Vec::new());
    let whole = |command: &PartitionCommand| {
        let encoded = PartitionState::encode(command.clone());
        match command {
            PartitionCommand::QueueOps(_) => format!("{} {}", hex(encoded.head()), hex(encoded.body())),
            _ => hex(encoded.head()),
        }
    };
    for (name, command) in shapes() {
        commands.push((name.to_owned(), whole(&command)));
        assert_eq!(
            PartitionState::decode(PartitionState::encode(command.clone())),
            Ok(command),
            "{name}"
        );
    }
    for seed in 1..=4 {
        let mut seeds = Seeds::new(seed);
        let mut partition = Partition::default();
        for step in 1..=60 {
            let end = partition.state.next_offset().get().unsigned_abs();
            let command = match seeds.below(8) {
                0 => append(1, 2, Conditions::default(), batch(1 + seeds.below(3) as usize)),
                1 => marked(marks(), found(TERM - seeds.below(2)), Conditions::default()),
                2 if end > 0 => {
                    let from = partition.state.log_start().get().unsigned_abs();
                    let to = from + seeds.below(end - from + 1);
                    advance(from as i64, to as i64, 10)
                }
                3 => carry(
                    TERM - u64::from(seeds.below(4) == 0),
                    Runs::from_iter([seeds.below(end + 1)]),
                ),
                _ => ops((0..1 + seeds.below(3)).map(|_| section(&mut seeds, end)).collect()),
            };
            let case = format!("queue-{seed}-{step}");
            commands.push((case.clone(), whole(&command)));
            replies.push((case.clone(), partition.apply_described(&command)));
            if step % 20 == 0 {
                states.push((case, hex(&partition.state.snapshot())));
            }
        }
    }
    compare("queue-commands.txt", commands);
    compare("queue-replies.txt", replies);
    compare("queue-states.txt", states);
}

#[test]
fn what_is_cut_off_or_does_not_belong_together_does_not_get_into_the_log() {
    for (name, command) in shapes() {
        let encoded = PartitionState::encode(command);
        let (head, body) = (encoded.head(), encoded.body());
        let check = |head: &[u8], body: Bytes| PartitionState::check_command(&EncodedCommand::new(head, body));
        assert_eq!(check(head, body.clone()), Ok(()), "{name}");
        for length in 0..head.len() {
            check(&head[..length], body.clone()).expect_err("its head is cut off");
        }
        if !name.starts_with("queue") {
            check(&[head, b"x"].concat(), body.clone()).expect_err("something lies behind its head");
            check(head, batch(4)).expect_err("there are other records than it says");
        }
        if !body.is_empty() {
            check(head, body.slice(..body.len() - 1)).expect_err("its body is cut off");
        }
    }
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(5, None, None, []).expect("it is small");
    builder.producer(ProducerId(1), ProducerEpoch(0), Sequence(0));
    let carried = Carry {
        term: TERM,
        messages: Runs::of(0, 0),
        marks: Marks::default(),
    };
    let command = PartitionCommand::Carry {
        carry: carried,
        batch: builder.build(),
    };
    let refused = PartitionState::check_command(&PartitionState::encode(command));
    assert!(refused.expect_err("it has a producer").contains("no producer"));
}

#[test]
fn the_body_of_what_is_appended_is_the_batch_itself() {
    for (name, command) in shapes() {
        let batch = match &command {
            PartitionCommand::AppendMarked { batch, .. } | PartitionCommand::Carry { batch, .. } => batch.as_ptr(),
            _ => continue,
        };
        let encoded = PartitionState::encode(command);
        assert_eq!(encoded.body().as_ptr(), batch, "{name}");
        match PartitionState::decode(encoded) {
            Ok(PartitionCommand::AppendMarked { batch: read, .. } | PartitionCommand::Carry { batch: read, .. }) => {
                assert_eq!(read.as_ptr(), batch, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_partition_without_queues_has_the_bytes_that_it_always_had() {
    let mut partition = Partition::default();
    partition.send(3);
    partition.trim(2);
    let bytes = partition.state.snapshot();
    assert_eq!(bytes[0], 1);
    partition.change(Vec::new());
    assert_eq!(
        partition.state.snapshot(),
        bytes,
        "a command that changes no slot changes no state"
    );
    partition.change(vec![open(SlotKind::Group, 77)]);
    assert_eq!(partition.state.snapshot()[0], 2);
    partition.change(vec![Section::Close { slot: SLOT }]);
    let closed = partition.state.snapshot();
    assert_eq!(closed[0], 2, "the number of the slot is not used again");
    assert!(PartitionState::restore(&closed).expect("it is whole") == partition.state);
    let first = [&[2], &bytes[1..]].concat();
    PartitionState::restore(&first.into()).expect_err("version 2 has slots");
}

#[test]
fn the_log_of_a_queue_is_not_cut_above_its_floor() {
    let mut partition = with_slot(SlotKind::Owned);
    assert_eq!(partition.trim(1), PartitionReply::LogStartHeld(Offset(0)));
    assert_eq!(partition.state.log_start(), Offset(0));
    partition.change(vec![grant(Runs::of(0, 5)), done(Runs::from_iter([0, 1, 2, 4]))]);
    assert_eq!(partition.state.queue_floor(), Some(Offset(3)));
    assert_eq!(partition.trim(4), PartitionReply::LogStartHeld(Offset(3)));
    assert_eq!(partition.trim(3), PartitionReply::LogStart(Offset(3)));
    // A dead message holds it, too.
    let dead = Section::Dead {
        slot: SLOT,
        reason: jangada_queue::DeadReason::Rejected,
        messages: Runs::of(3, 3),
        failed: 0,
        keys: Vec::new(),
        lanes: Vec::new(),
    };
    partition.change(vec![dead]);
    assert_eq!(partition.trim(4), PartitionReply::LogStartHeld(Offset(3)));
    partition.change(vec![Section::Close { slot: SLOT }]);
    assert_eq!(
        partition.trim(10),
        PartitionReply::LogStart(Offset(10)),
        "the queue is gone"
    );
}

#[test]
fn retention_takes_what_a_view_over_the_log_has_not_done() {
    let mut partition = with_slot(SlotKind::Group);
    partition.change(vec![grant(Runs::of(2, 3)), done(Runs::of(2, 2))]);
    assert_eq!(partition.state.queue_floor(), None);
    assert_eq!(partition.trim(5), PartitionReply::LogStart(Offset(5)));
    let slot = partition.state.slots().slot(SLOT).expect("it is open");
    assert_eq!((slot.floor(), slot.counts().leased), (5, 0));
    assert_eq!(slot.settled(DoneCause::CutOff), 4, "0, 1, 3 and 4 were not done");
}

#[test]
fn marks_of_a_batch_become_rows_and_an_old_finding_appends_nothing() {
    let mut partition = with_slot(SlotKind::Owned);
    let before = partition.state.clone();
    assert_eq!(
        partition.apply(&marked(marks(), found(TERM - 1), Conditions::default())),
        Refusal::Condition(ConditionFailed::LeaderChanged).into()
    );
    assert_eq!(partition.state.next_offset(), before.next_offset());
    assert!(queue_rows_of(&mut partition.effects).is_empty());
    let reply = partition.apply(&marked(marks(), found(TERM), Conditions::default()));
    assert_eq!(
        reply,
        PartitionReply::Appended {
            base_offset: Offset(10),
            last_offset: Offset(12),
            duplicate: false
        }
    );
    assert_eq!(partition.state.slots().marks_end(), 13);
    assert_eq!(rows_of(&partition.effects).len(), 1);
    let rows = queue_rows_of(&mut partition.effects);
    let of_ids = rows.iter().filter(|(key, _)| key.starts_with(b"ids ")).count();
    assert_eq!(
        (rows.len(), of_ids),
        (5, 1),
        "a batch, a timer, a key, a lane and an id"
    );
}

#[test]
fn a_message_is_carried_with_what_is_known_of_it_in_one_entry() {
    let mut partition = with_slot(SlotKind::Owned);
    let failed = Section::Retry {
        slot: SLOT,
        messages: Runs::of(0, 0),
        delays_ms: vec![1_000],
        failed: 1,
    };
    partition.change(vec![grant(Runs::of(0, 1)), failed, done(Runs::of(1, 1))]);
    assert_eq!(
        partition.apply(&carry(TERM - 1, Runs::of(0, 0))),
        PartitionReply::CarryRefused(CarryRefused::LeaderChanged)
    );
    assert_eq!(partition.state.next_offset(), Offset(10));
    let reply = partition.apply(&carry(TERM, Runs::of(0, 0)));
    assert!(
        matches!(
            reply,
            PartitionReply::Appended {
                base_offset: Offset(10),
                ..
            }
        ),
        "{reply:?}"
    );
    let slot = partition.state.slots().slot(SLOT).expect("it is open");
    assert_eq!(slot.floor(), 2);
    let (at, held) = slot.held_from(0).next().expect("it waits");
    assert_eq!((at, held.failures), (10, 1));
    assert_eq!(partition.trim(2), PartitionReply::LogStart(Offset(2)));
}

#[test]
fn what_was_decided_in_another_term_has_no_effect() {
    let mut partition = with_slot(SlotKind::Owned);
    let before = partition.state.clone();
    let reply = partition.apply_in(TERM + 1, &ops(vec![grant(Runs::of(0, 5))]));
    assert_eq!(reply, PartitionReply::Queue(OpsReply::LeaderChanged));
    assert!(partition.state == before);
}
