//! What fan-out to many queues costs where they are views over one log: the bytes of the commands, and of the rows that they write.

use bytes::Bytes;
use jangada_log::{Conditions, PartitionCommand, PartitionReply};
use jangada_machine::{EncodedCommand, Machine};
use jangada_queue::{
    AttemptId, DoneCause, KeepsOrder, Mark, Marks, QueueId, Runs, Section, SectionReply, SessionId, SlotId, SlotKind,
    SlotSet,
};
use jangada_types::{BatchBuilder, Codec, RowChange};

use crate::queues::Partition;

/// Messages of a batch, and bytes of each.
const RECORDS: u64 = 100;
const RECORD_BYTES: usize = 1_024;
const BATCHES: u64 = 20;

fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..RECORDS {
        let value = [7; RECORD_BYTES];
        builder.append(5, None, Some(&value), []).expect("it is small");
    }
    builder.build()
}

/// A partition with so many views, and the bytes that were written to it.
struct Log {
    partition: Partition,
    written: usize,
}

impl Log {
    fn with_views(views: u32) -> Self {
        let mut partition = Partition::default();
        for number in 1..=views {
            let open = Section::Open {
                queue: QueueId(number.into()),
                slot_kind: SlotKind::Bound,
                order: KeepsOrder::No,
                start: 0,
            };
            assert_eq!(partition.change(vec![open]), [SectionReply::Opened(SlotId(number))]);
        }
        let written = 0;
        Self { partition, written }
    }

    fn apply(&mut self, command: &PartitionCommand) -> PartitionReply {
        let encoded: EncodedCommand = jangada_log::PartitionState::encode(command.clone());
        self.written += encoded.head().len() + encoded.body().len();
        let reply = self.partition.apply(command);
        for row in self.partition.effects.take() {
            if let RowChange::Put { key, value, .. } = row {
                // With the group in front of the key.
                self.written += 8 + key.len() + value.len();
            }
        }
        reply
    }

    /// Publishes a batch whose records are for these slots; none: for all.
    fn publish(&mut self, slots: Option<SlotSet>) {
        let (now_ms, expiration_ms, conditions) = (1_700_000_000_000, i64::MAX, Conditions::default());
        let command = match slots {
            None => PartitionCommand::Append {
                now_ms,
                expiration_ms,
                conditions,
                batch: batch(),
            },
            Some(slots) => {
                let mark = Mark {
                    slots,
                    ..Mark::default()
                };
                PartitionCommand::AppendMarked {
                    now_ms,
                    expiration_ms,
                    conditions,
                    ids: None,
                    marks: Marks(vec![mark; RECORDS as usize]),
                    batch: batch(),
                }
            }
        };
        let reply = self.apply(&command);
        assert!(matches!(reply, PartitionReply::Appended { .. }), "{reply:?}");
    }

    /// Each view is given the last batch and acknowledges it, so many messages at a time.
    fn consume(&mut self, views: u32, at_once: u64) {
        let end = self.partition.state.next_offset().get().unsigned_abs();
        for first in (end - RECORDS..end).step_by(at_once as usize) {
            let messages = Runs::of(first, first + at_once - 1);
            let grant = |number| Section::Grant {
                slot: SlotId(number),
                session: SessionId(u64::from(number)),
                attempt: AttemptId(0),
                duration_ms: 30_000,
                messages: messages.clone(),
                keys: Vec::new(),
                lanes: Vec::new(),
            };
            let done = |number| Section::Done {
                slot: SlotId(number),
                cause: DoneCause::Acked,
                messages: messages.clone(),
            };
            for sections in [
                (1..=views).map(grant).collect::<Vec<_>>(),
                (1..=views).map(done).collect(),
            ] {
                let command = PartitionCommand::QueueOps(jangada_queue::QueueOps {
                    term: crate::queues::TERM,
                    now_ms: 1_700_000_000_000,
                    ticket: 0,
                    sections,
                });
                self.apply(&command);
            }
        }
    }
}

fn share(of_many: usize, of_one: usize) -> f64 {
    of_many as f64 / of_one as f64
}

#[test]
fn a_message_for_a_hundred_queues_is_written_once() {
    let written = |views: u32, slots: Option<SlotSet>| {
        let mut log = Log::with_views(views);
        (0..BATCHES).for_each(|_| log.publish(slots.clone()));
        log.written
    };
    let one = written(1, None);
    assert_eq!(written(100, None), one, "what is for all names none");
    let hundred = SlotSet::only((1..=100).map(SlotId)).expect("there are some");
    let marked = share(written(100, Some(hundred)), one);
    let some = SlotSet::only((1..=100).step_by(3).map(SlotId)).expect("there are some");
    let of_some = share(written(100, Some(some)), one);
    assert!(
        marked < 1.05 && of_some < 1.05,
        "{marked} for all by name, {of_some} for a third"
    );
    println!("100 queues, each by name: {marked:.4} of the bytes of one; a third of them: {of_some:.4}");
}

#[test]
fn what_a_hundred_queues_settle_is_a_part_of_what_they_are_sent() {
    for (at_once, most) in [(100, 1.2), (10, 2.0)] {
        let written = |views: u32| {
            let mut log = Log::with_views(views);
            for _ in 0..BATCHES {
                log.publish(None);
                log.consume(views, at_once);
            }
            let end = BATCHES * RECORDS;
            let floors = log.partition.state.slots().iter().map(|(_, slot)| slot.floor());
            assert!(floors.eq(std::iter::repeat_n(end, views as usize)), "all is done");
            log.written
        };
        let share = share(written(100), written(1));
        assert!(share < most, "{share} with grants of {at_once}");
        println!("sent, granted and acknowledged {at_once} at a time by 100 queues: {share:.3} of the bytes of one");
    }
}
