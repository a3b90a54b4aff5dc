//! Schedules of a partition's queues: their command as bytes, what it comes to, and that an occurrence is in the log once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jangada_log::{IndexEntry, PartitionCommand, PartitionReply, PartitionState};
use jangada_machine::{EncodedCommand, Machine};
use jangada_queue::schedule::{CatchUp, Timing};
use jangada_queue::{
    Fire, Mark, Marks, PutSchedule, ScheduleCommand, ScheduleKey, ScheduleRefused, SlotId, SlotKind, Slots,
};
use jangada_types::replicated::Seeds;
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, ProducerEpoch, ProducerId, Sequence};

use crate::golden::{compare, describe, hex};
use crate::queues::{Partition, SLOT, TERM, batch, with_slot};
use crate::world::{queue_rows_of, rows_of};

const NOW_MS: u64 = 1_700_000_000_000;

fn put(name: &str, timing: Timing) -> PartitionCommand {
    change(ScheduleCommand::Put(PutSchedule {
        key: (SLOT, name.to_owned()),
        timing,
        until_ms: 0,
        catch_up: CatchUp::One,
        template: Bytes::from_static(b"template"),
        next_ms: NOW_MS,
    }))
}

fn every() -> Timing {
    Timing::Every {
        every_ms: 1_000,
        anchor_ms: NOW_MS,
    }
}

fn cron() -> Timing {
    Timing::Cron {
        expression: "0 8 * * 1-5".to_owned(),
        zone: "America/Fortaleza".to_owned(),
    }
}

/// A change without a message.
fn change(change: ScheduleCommand) -> PartitionCommand {
    PartitionCommand::Schedule {
        change: Box::new(change),
        marks: Marks::default(),
        batch: Bytes::new(),
    }
}

fn occurrence(name: &str, (version, occurrence): (u64, u64), appends: bool) -> Fire {
    Fire {
        term: TERM,
        key: (SLOT, name.to_owned()),
        version,
        occurrence,
        at_ms: NOW_MS,
        next_ms: NOW_MS + 1_000,
        appends,
    }
}

fn fire(fire: Fire, marks: Vec<Mark>) -> PartitionCommand {
    let batch = if fire.appends { batch(1) } else { Bytes::new() };
    PartitionCommand::Schedule {
        change: Box::new(ScheduleCommand::Fire(fire)),
        marks: Marks(marks),
        batch,
    }
}

fn delayed() -> Vec<Mark> {
    vec![Mark {
        deliver_at_ms: NOW_MS + 600_000,
        key: 7,
        lane: 2,
        ..Mark::default()
    }]
}

/// The command in each of its forms.
pub fn shapes() -> Vec<(&'static str, PartitionCommand)> {
    let key = (SLOT, "nightly".to_owned());
    vec![
        ("schedule-put-cron", put("nightly", cron())),
        ("schedule-put-every", put("nightly", every())),
        ("schedule-delete", change(ScheduleCommand::Delete { key })),
        ("schedule-fire", fire(occurrence("nightly", (8, 300), true), Vec::new())),
        (
            "schedule-fire-marks",
            fire(occurrence("nightly", (8, 301), true), delayed()),
        ),
        (
            "schedule-leave-out",
            fire(occurrence("nightly", (8, 302), false), Vec::new()),
        ),
    ]
}

/// Some change of the schedules that a leader sees, now and then one that it decided in an earlier term or on an older state.
pub fn any_change(seeds: &mut Seeds, slots: &Slots, term: u64) -> PartitionCommand {
    let name = format!("schedule-{}", seeds.below(4));
    let slot = SlotId(1 + seeds.below(3) as u32);
    let known: Vec<_> = slots.schedules().collect();
    match seeds.below(8) {
        0 | 1 => change(ScheduleCommand::Put(PutSchedule {
            key: (slot, name),
            timing: every(),
            until_ms: 0,
            catch_up: CatchUp::All,
            template: Bytes::from_static(b"template"),
            next_ms: NOW_MS,
        })),
        2 => change(ScheduleCommand::Delete { key: (slot, name) }),
        _ => {
            let Some((key, schedule)) = known.get(seeds.below(known.len().max(1) as u64) as usize) else {
                return change(ScheduleCommand::Delete { key: (slot, name) });
            };
            let old = u64::from(seeds.below(8) == 0);
            let next_ms = if seeds.below(20) == 0 {
                0
            } else {
                schedule.next_ms + 1_000
            };
            let occurrence = Fire {
                term: term - u64::from(term > 1 && seeds.below(10) == 0),
                key: (*key).clone(),
                version: schedule.version,
                occurrence: schedule.occurrence.saturating_sub(old),
                at_ms: schedule.next_ms,
                next_ms,
                appends: seeds.below(4) != 0,
            };
            let marks = if occurrence.appends && seeds.below(2) == 0 {
                delayed()
            } else {
                Vec::new()
            };
            fire(occurrence, marks)
        }
    }
}

/// Of each occurrence one message at most is in the log.
pub fn check_once<'a>(log: impl Fn(u64) -> &'a EncodedCommand, rows: impl Iterator<Item = &'a IndexEntry>) {
    let mut fired: BTreeSet<(ScheduleKey, u64, u64)> = BTreeSet::new();
    for row in rows {
        let command = PartitionState::decode(log(row.raft_index).clone()).expect("it is in the log");
        let PartitionCommand::Schedule { change, .. } = command else {
            continue;
        };
        if let ScheduleCommand::Fire(fire) = *change {
            let occurrence = (fire.key, fire.version, fire.occurrence);
            assert!(fired.insert(occurrence.clone()), "{occurrence:?} is in the log twice");
        }
    }
}

#[test]
fn commands_replies_rows_and_states_of_schedules_are_those_of_earlier_builds() {
    let (mut commands, mut replies, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for (name, command) in shapes() {
        let encoded = PartitionState::encode(command.clone());
        commands.push((name.to_owned(), hex(encoded.head())));
        assert_eq!(PartitionState::decode(encoded), Ok(command), "{name}");
    }
    for seed in 1..=3 {
        let mut seeds = Seeds::new(seed);
        let mut partition = with_slot(SlotKind::Owned);
        for step in 1..=60 {
            let case = format!("schedule-{seed}-{step}");
            let command = any_change(&mut seeds, partition.state.slots(), TERM);
            commands.push((case.clone(), hex(PartitionState::encode(command.clone()).head())));
            replies.push((case.clone(), partition.apply_described(&command)));
            if step % 20 == 0 {
                states.push((case, hex(&partition.state.snapshot())));
            }
        }
    }
    compare("schedule-commands.txt", commands);
    compare("schedule-replies.txt", replies);
    compare("schedule-states.txt", states);
}

#[test]
fn what_is_cut_off_or_does_not_belong_together_is_no_change_of_a_schedule() {
    for (name, command) in shapes() {
        let encoded = PartitionState::encode(command);
        let (head, body) = (encoded.head(), encoded.body());
        let check = |head: &[u8], body: Bytes| PartitionState::check_command(&EncodedCommand::new(head, body));
        assert_eq!(check(head, body.clone()), Ok(()), "{name}");
        for length in 0..head.len() {
            check(&head[..length], body.clone()).expect_err("its head is cut off");
        }
        check(&[head, b"x"].concat(), body.clone()).expect_err("something lies behind its head");
        check(head, batch(2)).expect_err("it sends one message at most");
        if !body.is_empty() {
            check(head, Bytes::new()).expect_err("its message is missing");
            check(head, body.slice(..body.len() - 1)).expect_err("its message is cut off");
        }
    }
    let checked = |marks: Vec<Mark>, batch: Bytes| {
        let change = Box::new(ScheduleCommand::Fire(occurrence("nightly", (8, 1), true)));
        let marks = Marks(marks);
        PartitionState::check_command(&PartitionState::encode(PartitionCommand::Schedule {
            change,
            marks,
            batch,
        }))
    };
    let with_id = Mark {
        id: 9,
        ..Mark::default()
    };
    let refused = checked(vec![with_id], batch(1)).expect_err("nobody looked for the id");
    assert!(refused.contains("message id"), "{refused}");
    checked(vec![Mark::default(), Mark::default()], batch(1)).expect_err("it has two marks for a message");
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(5, None, None, []).expect("it is small");
    builder.producer(ProducerId(1), ProducerEpoch(0), Sequence(0));
    let refused = checked(Vec::new(), builder.build()).expect_err("it has a producer");
    assert!(refused.contains("producer"), "{refused}");
}

#[test]
fn the_message_of_an_occurrence_is_the_body_itself() {
    let command = fire(occurrence("nightly", (8, 1), true), delayed());
    let PartitionCommand::Schedule { batch, .. } = &command else {
        panic!("{command:?}")
    };
    let at = batch.as_ptr();
    let encoded = PartitionState::encode(command);
    assert_eq!(encoded.body().as_ptr(), at);
    match PartitionState::decode(encoded) {
        Ok(PartitionCommand::Schedule { batch, .. }) => assert_eq!(batch.as_ptr(), at),
        other => panic!("{other:?}"),
    }
}

/// A partition with a schedule, and the schedule's version.
fn with_schedule() -> (Partition, u64) {
    let mut partition = with_slot(SlotKind::Owned);
    assert_eq!(partition.apply(&put("nightly", every())), PartitionReply::Scheduled);
    let schedule = partition.state.slots().schedule(&(SLOT, "nightly".to_owned()));
    let version = schedule.expect("it was put").version;
    (partition, version)
}

#[test]
fn an_occurrence_appends_its_message_and_moves_its_schedule_on_in_one_entry() {
    let (mut partition, version) = with_schedule();
    let command = fire(occurrence("nightly", (version, 0), true), delayed());
    assert_eq!(
        partition.apply(&command),
        PartitionReply::Appended {
            base_offset: Offset(10),
            last_offset: Offset(10),
            duplicate: false
        }
    );
    assert_eq!(rows_of(&partition.effects).len(), 1);
    let rows = queue_rows_of(&mut partition.effects);
    assert_eq!(rows.len(), 4, "a batch, a timer, a key and a lane");
    assert_eq!(partition.state.slots().marks_end(), 11);
    // The same entry again, as of a leader that thought it lost.
    let before = partition.state.clone();
    assert_eq!(
        partition.apply(&command),
        PartitionReply::ScheduleRefused(ScheduleRefused::NotNext)
    );
    assert!(partition.state == before, "it changes nothing");
    assert!(rows_of(&partition.effects).is_empty() && queue_rows_of(&mut partition.effects).is_empty());
    // One that is left out moves the schedule on, and appends nothing.
    let skip = fire(occurrence("nightly", (version, 1), false), Vec::new());
    assert_eq!(partition.apply(&skip), PartitionReply::Scheduled);
    assert_eq!(partition.state.next_offset(), Offset(11));
    let key = (SLOT, "nightly".to_owned());
    let schedule = partition.state.slots().schedule(&key).expect("it goes on");
    assert_eq!((schedule.occurrence, schedule.fired, schedule.last_ms), (2, 1, NOW_MS));
    // The last one ends it.
    let last = Fire {
        next_ms: 0,
        ..occurrence("nightly", (version, 2), true)
    };
    let reply = partition.apply(&fire(last, Vec::new()));
    assert!(matches!(reply, PartitionReply::Appended { .. }), "{reply:?}");
    assert_eq!(partition.state.slots().schedule(&key), None);
    assert_eq!(
        partition.apply(&change(ScheduleCommand::Delete { key })),
        PartitionReply::ScheduleRefused(ScheduleRefused::UnknownSchedule)
    );
}

#[test]
fn an_occurrence_of_another_term_or_of_a_schedule_that_was_replaced_appends_nothing() {
    let (mut partition, version) = with_schedule();
    let command = fire(occurrence("nightly", (version, 0), true), Vec::new());
    assert_eq!(
        partition.apply_in(TERM + 1, &command),
        PartitionReply::ScheduleRefused(ScheduleRefused::LeaderChanged)
    );
    assert_eq!(partition.apply(&put("nightly", cron())), PartitionReply::Scheduled);
    assert_eq!(
        partition.apply(&command),
        PartitionReply::ScheduleRefused(ScheduleRefused::NotNext)
    );
    assert_eq!(partition.state.next_offset(), Offset(10));
}

#[test]
fn schedules_are_saved_with_the_partition_and_end_with_their_queue() {
    let (mut partition, version) = with_schedule();
    partition.apply(&fire(occurrence("nightly", (version, 0), true), Vec::new()));
    let bytes = partition.state.snapshot();
    let restored = PartitionState::restore(&bytes).expect("it is whole");
    assert!(restored == partition.state);
    partition.change(vec![jangada_queue::Section::Close { slot: SLOT }]);
    assert_eq!(partition.state.slots().schedules().len(), 0);
    let at = LogPosition { term: TERM, index: 99 };
    let mut effects = jangada_machine::Effects::default();
    assert_eq!(
        partition.state.apply(at, &put("nightly", every()), &mut effects),
        PartitionReply::ScheduleRefused(ScheduleRefused::UnknownSlot)
    );
}

#[test]
fn a_partition_has_a_bounded_number_of_schedules() {
    let (mut partition, _) = with_schedule();
    let most = jangada_queue::limits::SCHEDULES_MAX;
    let mut replies: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..most {
        let reply = partition.apply(&put(&format!("schedule-{number}"), every()));
        *replies.entry(describe(&reply, None)).or_default() += 1;
    }
    let expected = [
        ("schedule-refused TooMany".to_owned(), 1),
        ("scheduled".to_owned(), most - 1),
    ];
    assert_eq!(replies, BTreeMap::from(expected));
    assert_eq!(
        partition.apply(&put("nightly", cron())),
        PartitionReply::Scheduled,
        "one that is there may be replaced"
    );
}
