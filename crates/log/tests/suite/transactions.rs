//! Transactions in a partition: their commands as bytes, and what becomes of them one by one. [`histories`]: in any order. [`queues`]:
//! what queues make of them.

mod histories;
mod queues;

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_log::{AbortedTransaction, Conditions, Marker, PartitionCommand, PartitionReply, PartitionState, Refusal};
use jangada_machine::{Effects, EncodedCommand, Machine};
use jangada_types::batch::EndMarker;
use jangada_types::limits::PRODUCERS_PER_PARTITION_MAX;
use jangada_types::replicated::hex;
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, ProducerEpoch, ProducerId, RowChange, Sequence};

use self::histories::run;
use crate::golden::{advance, append, compare, describe};
use crate::world::rows_of;

const FOREVER_MS: i64 = i64::MAX;
const START_MS: i64 = 1_700_000_000_000;

/// A batch of one record, or of more.
fn batch((id, epoch): (i64, i16), sequence: i32, records: usize, is_transactional: bool) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(ProducerId(id), ProducerEpoch(epoch), Sequence(sequence));
    if is_transactional {
        builder.transactional();
    }
    for _ in 0..records {
        builder.append(START_MS, None, Some(b"v"), []).expect("it is small");
    }
    builder.build()
}

fn txn_append(producer: (i64, i16), seq: u64, sequence: i32, records: usize) -> PartitionCommand {
    PartitionCommand::TxnAppend {
        now_ms: START_MS,
        expiration_ms: FOREVER_MS,
        seq,
        batch: batch(producer, sequence, records, true),
    }
}

fn marker((id, epoch): (i64, i16), seq: u64, commit: bool) -> PartitionCommand {
    let end = EndMarker {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        coordinator_epoch: 3,
        commit,
    };
    PartitionCommand::Marker {
        marker: Marker {
            now_ms: START_MS,
            expiration_ms: FOREVER_MS,
            end,
            seq,
        },
        batch: end.build(START_MS),
    }
}

/// The commands by which each kind is pinned.
pub fn shapes() -> Vec<(&'static str, PartitionCommand)> {
    vec![
        ("append", txn_append((7, 1), 3, 0, 2)),
        (
            "append-extreme",
            txn_append((i64::MAX, i16::MAX), u64::MAX, i32::MAX, 1),
        ),
        ("commit", marker((7, 2), 3, true)),
        ("abort", marker((7, 2), 3, false)),
        ("abort-extreme", marker((i64::MAX, i16::MAX), u64::MAX, false)),
        ("append-marked", queues::marked((7, 1), 3, 0, queues::marks())),
    ]
}

/// One replica, with what it wrote.
#[derive(Clone, Default, PartialEq, Debug)]
struct Log {
    state: PartitionState,
    aborted: BTreeMap<Offset, AbortedTransaction>,
    index: u64,
}

impl Log {
    fn apply(&mut self, command: &PartitionCommand) -> PartitionReply {
        let encoded = PartitionState::encode(command.clone());
        assert_eq!(PartitionState::check_command(&encoded), Ok(()), "{command:?}");
        assert_eq!(PartitionState::decode(encoded).as_ref(), Ok(command));
        self.index += 1;
        let at = LogPosition {
            term: 1,
            index: self.index,
        };
        let mut effects = Effects::default();
        let (before, stable) = (self.state.next_offset(), self.state.last_stable_offset());
        let reply = self.state.apply(at, command, &mut effects);
        assert!(self.state.last_stable_offset() >= stable, "what is stable stays so");
        assert!(self.state.last_stable_offset() <= self.state.next_offset());
        let placed = rows_of(&effects);
        assert_eq!(placed.is_empty(), self.state.next_offset() == before);
        for change in effects.take() {
            if let RowChange::Put { table, key, value } = change
                && table.name == "aborted"
            {
                let row = AbortedTransaction::decode(&key, &value).expect("it was written here");
                let reported = matches!(reply, PartitionReply::Ended { aborted: Some(told), .. } if told == row);
                assert!(reported, "{reply:?}");
                let known = self.aborted.insert(row.marker, row);
                assert!(
                    known.is_none_or(|known| known == row),
                    "applied again it gives the same row"
                );
            }
        }
        reply
    }

    fn appended(&mut self, command: &PartitionCommand) {
        let reply = self.apply(command);
        assert!(
            matches!(reply, PartitionReply::Appended { duplicate: false, .. }),
            "{reply:?}"
        );
    }

    fn refused(&mut self, command: &PartitionCommand) -> Refusal {
        match self.apply(command) {
            PartitionReply::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// The offset of the control batch, if one was written.
    fn ended(&mut self, command: &PartitionCommand) -> Option<Offset> {
        match self.apply(command) {
            PartitionReply::Ended { marker, .. } => marker,
            other => panic!("no end: {other:?}"),
        }
    }

    fn ends(&self) -> (i64, i64) {
        (self.state.last_stable_offset().get(), self.state.next_offset().get())
    }

    /// As a replica that began with what this one saved.
    fn restarted(&self) -> Self {
        let saved = self.state.snapshot();
        let state = PartitionState::restore(&saved).expect("what was saved is read");
        assert_eq!(state, self.state, "a snapshot gives back what it was taken of");
        assert_eq!(state.snapshot(), saved);
        Self { state, ..self.clone() }
    }
}

fn plain(producer: (i64, i16), sequence: i32) -> PartitionCommand {
    append(
        START_MS,
        FOREVER_MS,
        Conditions::default(),
        batch(producer, sequence, 1, false),
    )
}

#[test]
fn readers_of_committed_records_stop_where_the_earliest_open_transaction_begins() {
    let mut log = Log::default();
    log.appended(&plain((1, 0), 0));
    assert_eq!(log.ends(), (1, 1));
    log.appended(&txn_append((7, 0), 1, 0, 2));
    log.appended(&plain((1, 0), 1));
    log.appended(&txn_append((8, 0), 1, 0, 1));
    assert_eq!(log.ends(), (1, 5));
    log.appended(&txn_append((7, 0), 1, 2, 1));
    assert_eq!(log.ended(&marker((7, 1), 1, true)), Some(Offset(6)));
    assert_eq!(log.ends(), (4, 7), "the other one is open");
    assert_eq!(log.ended(&marker((8, 1), 1, false)), Some(Offset(7)));
    assert_eq!(log.ends(), (8, 8));
    let aborted = AbortedTransaction {
        producer_id: ProducerId(8),
        first: Offset(4),
        marker: Offset(7),
        stable_after: Offset(8),
    };
    assert_eq!(log.aborted.into_values().collect::<Vec<_>>(), [aborted]);
}

#[test]
fn a_marker_may_come_as_often_as_it_likes_and_ends_only_its_own_transaction() {
    let mut log = Log::default();
    // The epoch stays the same, as with clients from before KIP-890.
    log.appended(&txn_append((7, 0), 1, 0, 1));
    assert!(log.ended(&marker((7, 0), 1, true)).is_some());
    assert_eq!(log.ended(&marker((7, 0), 1, true)), None);
    log.appended(&txn_append((7, 0), 2, 1, 1));
    assert_eq!(log.ended(&marker((7, 0), 1, true)), None);
    assert_eq!(log.ends(), (2, 3));
    assert!(log.ended(&marker((7, 0), 2, false)).is_some());
    assert_eq!(log.ends(), (4, 4));
}

#[test]
fn the_epoch_of_a_marker_fences_those_before_it() {
    let mut log = Log::default();
    log.appended(&txn_append((7, 3), 1, 0, 1));
    assert!(log.ended(&marker((7, 4), 1, true)).is_some());
    let fenced = Refusal::Fenced {
        current: ProducerEpoch(4),
    };
    for mut log in [log.restarted(), log] {
        assert_eq!(log.refused(&txn_append((7, 3), 2, 1, 1)), fenced);
        assert_eq!(log.refused(&plain((7, 3), 1)), fenced);
        // Its own sequences begin anew.
        let expected = Sequence(0);
        assert_eq!(log.refused(&plain((7, 4), 1)), Refusal::OutOfOrder { expected });
        log.appended(&plain((7, 4), 0));
    }
}

#[test]
fn a_batch_that_comes_behind_its_marker_is_refused() {
    let mut log = Log::default();
    // Nothing of the transaction is here yet: the epoch of its marker fences what comes.
    assert_eq!(log.ended(&marker((7, 1), 4, false)), None);
    let current = ProducerEpoch(1);
    assert_eq!(log.refused(&txn_append((7, 0), 4, 0, 1)), Refusal::Fenced { current });
    // Where the epoch stays, the transaction's number does.
    assert_eq!(log.ended(&marker((8, 0), 4, true)), None);
    assert_eq!(log.refused(&txn_append((8, 0), 4, 0, 1)), Refusal::TransactionEnded);
    let mut log = log.restarted();
    assert_eq!(log.refused(&txn_append((8, 0), 3, 0, 1)), Refusal::TransactionEnded);
    log.appended(&txn_append((8, 0), 5, 0, 1));
    assert_eq!(
        log.refused(&txn_append((7, 1), 5, 3, 1)),
        Refusal::OutOfOrder { expected: Sequence(0) }
    );
    log.appended(&txn_append((7, 1), 5, 0, 1));
    assert_eq!(log.ends(), (0, 2));
}

#[test]
fn a_producer_with_an_open_transaction_writes_nothing_else() {
    let mut log = Log::default();
    log.appended(&txn_append((7, 0), 2, 0, 1));
    let is_open = Refusal::TransactionOpen { seq: 2 };
    assert_eq!(log.refused(&plain((7, 0), 1)), is_open);
    assert_eq!(log.refused(&plain((7, 1), 0)), is_open);
    assert_eq!(log.refused(&txn_append((7, 0), 3, 1, 1)), is_open);
    assert_eq!(log.refused(&txn_append((7, 1), 2, 0, 1)), is_open);
    // What was appended is a duplicate all the same.
    let again = log.apply(&txn_append((7, 0), 2, 0, 1));
    assert!(
        matches!(again, PartitionReply::Appended { duplicate: true, .. }),
        "{again:?}"
    );
    // A marker of an older epoch was decided by nobody.
    let mut newer = Log::default();
    newer.appended(&txn_append((7, 5), 2, 0, 1));
    let current = ProducerEpoch(5);
    assert_eq!(newer.refused(&marker((7, 4), 2, true)), Refusal::Fenced { current });
    // And one of a later transaction does not end this one with what became of that.
    assert_eq!(log.refused(&marker((7, 0), 3, true)), is_open);
    assert_eq!(log.ends(), (0, 1));
}

#[test]
fn a_producer_with_an_open_transaction_is_not_forgotten() {
    let mut log = Log::default();
    let old = |command: PartitionCommand, now_ms| match command {
        PartitionCommand::TxnAppend { seq, batch, .. } => PartitionCommand::TxnAppend {
            now_ms,
            expiration_ms: 1_000,
            seq,
            batch,
        },
        PartitionCommand::Append { batch, .. } => append(now_ms, 1_000, Conditions::default(), batch),
        other => other,
    };
    log.appended(&old(txn_append((7, 0), 1, 0, 1), 0));
    // Others write until it would be forgotten by its age, and by their number.
    for id in 0..PRODUCERS_PER_PARTITION_MAX as i64 + 100 {
        log.appended(&old(plain((1_000 + id, 0), 0), 5_000));
    }
    let mut log = log.restarted();
    assert_eq!(log.state.open_transaction_count(), 1);
    log.appended(&old(txn_append((7, 0), 1, 1, 1), 9_000));
    assert!(log.ended(&marker((7, 1), 1, true)).is_some());
    let (stable, next) = log.ends();
    assert_eq!(stable, next);
}

#[test]
fn with_as_many_open_transactions_as_there_may_be_producers_no_other_is_taken() {
    let mut log = Log::default();
    let most = PRODUCERS_PER_PARTITION_MAX as i64;
    log.appended(&plain((most, 0), 0));
    for id in 0..most {
        log.appended(&txn_append((id, 0), 1, 0, 1));
    }
    assert_eq!(
        log.refused(&txn_append((most, 0), 1, 0, 1)),
        Refusal::TooManyTransactions
    );
    assert_eq!(log.refused(&plain((most, 0), 0)), Refusal::TooManyTransactions);
    assert_eq!(log.ended(&marker((most, 0), 1, false)), None);
    log.appended(&txn_append((3, 0), 1, 1, 1));
    let mut log = log.restarted();
    assert!(log.ended(&marker((3, 1), 1, false)).is_some());
    // The place that is free now is that of whoever wrote last.
    log.appended(&plain((most, 0), 0));
    log.appended(&txn_append((3, 1), 2, 0, 1));
    assert_eq!(log.refused(&plain((most, 0), 1)), Refusal::UnknownProducer);
}

#[test]
fn a_transaction_below_the_log_start_is_ended_all_the_same() {
    let mut log = Log::default();
    log.appended(&txn_append((7, 0), 1, 0, 3));
    log.appended(&plain((1, 0), 0));
    assert_eq!(log.apply(&advance(0, 4, 0)), PartitionReply::LogStart(Offset(4)));
    assert_eq!(log.ends(), (0, 4));
    let mut log = log.restarted();
    assert!(log.ended(&marker((7, 1), 1, false)).is_some());
    assert_eq!(log.aborted[&Offset(4)].first, Offset(0));
    assert_eq!(log.ends(), (5, 5));
}

#[test]
fn commands_that_no_leader_makes_do_not_get_into_the_log() {
    let check = |command: PartitionCommand| PartitionState::check_command(&PartitionState::encode(command));
    check(plain((7, 0), 0)).expect("it is sound");
    let append_of = |batch| append(0, 0, Conditions::default(), batch);
    check(append_of(batch((7, 0), 0, 1, true))).expect_err("it is of a transaction");
    let end = EndMarker {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: 0,
        commit: true,
    };
    check(append_of(end.build(0))).expect_err("it is a control batch");
    check(txn_append((7, 0), 0, 0, 1)).expect_err("transactions count from 1");
    let of = |batch| PartitionCommand::TxnAppend {
        now_ms: 0,
        expiration_ms: 0,
        seq: 1,
        batch,
    };
    check(of(batch((7, 0), 0, 1, false))).expect_err("it is of no transaction");
    check(of(end.build(0))).expect_err("it is a control batch");
    let PartitionCommand::Marker { marker: told, .. } = marker((7, 0), 1, true) else {
        panic!("it is a marker");
    };
    let with = |batch| PartitionCommand::Marker { marker: told, batch };
    check(with(end.build(0))).expect_err("its control batch has another coordinator epoch");
    check(with(batch((7, 0), 0, 1, true))).expect_err("it has no control batch");
    check(marker((7, 0), 0, true)).expect_err("transactions count from 1");
}

#[test]
fn commands_replies_and_states_of_transactions_are_those_of_earlier_builds() {
    let (mut commands, mut replies, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for (name, command) in shapes() {
        let encoded = PartitionState::encode(command.clone());
        commands.push((
            name.to_owned(),
            format!("{} {}", hex(encoded.head()), hex(encoded.body())),
        ));
        assert_eq!(PartitionState::decode(encoded.clone()), Ok(command), "{name}");
        for length in 0..encoded.head().len() {
            let cut_off = EncodedCommand::new(&encoded.head()[..length], Bytes::new());
            PartitionState::decode(cut_off).expect_err("it is cut off");
        }
    }
    for seed in 0..4 {
        let history = run(2_000_000 + seed, seed % 2 == 1);
        let mut log = Log::default();
        for (step, command) in history.commands.iter().enumerate() {
            let reply = log.apply(command);
            replies.push((format!("{seed}-{step}"), describe(&reply, None)));
            if step.is_multiple_of(40) {
                states.push((format!("{seed}-{step}"), hex(&log.state.snapshot())));
            }
        }
    }
    compare("transaction-commands.txt", commands);
    compare("transaction-replies.txt", replies);
    compare("transaction-states.txt", states);
}
