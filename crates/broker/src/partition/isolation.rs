//! What readers see of transactions. Who reads committed records gets those of committed transactions, up to the last stable offset; who
//! does not, all up to the high watermark. Control batches are for nobody but those who ask for the list of aborted transactions, to
//! leave out by themselves what they must not see.
//!
//! A batch belongs to one transaction as a whole, so whole batches are left out, and offsets of what is there stay as they are.

use bytes::{Bytes, BytesMut};
use jangada_log::AbortedTransaction;
use jangada_types::batch::BatchIter;
use jangada_types::{BatchHeader, Offset, ProducerId};

/// Which records of transactions a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Those of committed ones.
    #[default]
    Committed,
    /// Those of open and of aborted ones too.
    Uncommitted,
}

/// How a reader reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub isolation: Isolation,
    /// Nothing is left out, and the aborted transactions are named.
    pub aborted_list: bool,
    /// What lies behind an open transaction is read, too: the slots of the partition's queues say which of it may go out.
    pub past_stable: bool,
}

impl Reading {
    /// Everything as it lies in the log.
    #[cfg(test)]
    pub const AS_IT_IS: Self = Self {
        isolation: Isolation::Uncommitted,
        aborted_list: true,
        past_stable: true,
    };

    /// What may be a message of a queue.
    pub const OF_QUEUES: Self = Self {
        isolation: Isolation::Committed,
        aborted_list: false,
        past_stable: true,
    };

    /// Nothing at or above it is read.
    pub fn end(self, ends: Ends) -> Offset {
        match self.past_stable {
            true => ends.high_watermark,
            false => ends.of(self.isolation),
        }
    }
}

/// Where a partition's log ends for its readers, all of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The offset after the last record that is committed by a quorum and applied.
    pub high_watermark: Offset,
    /// The first offset of the earliest open transaction, or the high watermark; never below the log start.
    pub last_stable: Offset,
}

impl Ends {
    /// Nothing at or above it is read.
    pub fn of(self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::Committed => self.last_stable,
            Isolation::Uncommitted => self.high_watermark,
        }
    }
}

/// The offset of the first of these batches, if one of them belongs to a transaction.
pub(super) fn begins_with_transactions(batches: &Bytes) -> Option<Offset> {
    let first = BatchHeader::parse(batches).ok()?.base_offset;
    let mut headers = BatchIter::new(batches.clone()).map_while(Result::ok);
    headers
        .any(|(header, _)| header.attributes.is_transactional())
        .then_some(Offset(first))
}

/// Leaves out what a reader does not see: `aborted` has at least those with records in these batches. What cannot be read is left as
/// it is, for the reader to find out.
pub(super) fn visible(batches: Bytes, isolation: Isolation, mut aborted: Vec<AbortedTransaction>) -> Bytes {
    let by_producer = |aborted: &AbortedTransaction| (aborted.producer_id, aborted.first);
    aborted.sort_unstable_by_key(by_producer);
    let is_aborted = |id: ProducerId, offset: Offset| {
        let behind = aborted.partition_point(|aborted| by_producer(aborted) <= (id, offset));
        let last = behind.checked_sub(1).map(|at| aborted[at]);
        last.is_some_and(|last| last.producer_id == id && offset < last.marker)
    };
    let is_hidden = |header: &BatchHeader| {
        header.attributes.is_control()
            || isolation == Isolation::Committed
                && header.attributes.is_transactional()
                && is_aborted(header.producer_id, Offset(header.base_offset))
    };
    let (mut at, mut kept) = (0, None::<BytesMut>);
    for batch in BatchIter::new(batches.clone()) {
        let Ok((header, batch)) = batch else { break };
        match (&mut kept, is_hidden(&header)) {
            (None, true) => kept = Some(BytesMut::from(&batches[..at])),
            (Some(kept), false) => kept.extend_from_slice(&batch),
            _ => {}
        }
        at += batch.len();
    }
    match kept {
        None => batches,
        Some(mut kept) => {
            kept.extend_from_slice(&batches[at..]);
            kept.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::batch::{EndMarker, set_position};
    use jangada_types::{BatchBuilder, Codec, LeaderEpoch, ProducerEpoch, Sequence};

    use super::*;

    /// Batches of one record, or a marker, behind one another from an offset on: whose each is, 0 for nobody.
    fn log(from: i64, of: &[(i64, Option<bool>)]) -> Bytes {
        let mut all = Vec::new();
        for (offset, (id, ends)) in (from..).zip(of) {
            let producer_id = ProducerId(*id);
            let mut batch = match ends {
                Some(commit) => EndMarker {
                    producer_id,
                    producer_epoch: ProducerEpoch(0),
                    coordinator_epoch: 0,
                    commit: *commit,
                }
                .build(0)
                .to_vec(),
                None => {
                    let mut builder = BatchBuilder::new(Codec::None);
                    builder.append(0, None, Some(b"v"), []).expect("it is small");
                    if *id > 0 {
                        builder
                            .producer(producer_id, ProducerEpoch(0), Sequence(0))
                            .transactional();
                    }
                    builder.build().to_vec()
                }
            };
            set_position(&mut batch, Offset(offset), LeaderEpoch(1));
            all.extend(batch);
        }
        all.into()
    }

    fn offsets(batches: Bytes) -> Vec<i64> {
        let headers = BatchIter::new(batches).map(|batch| batch.expect("it is whole").0);
        headers.map(|header| header.base_offset).collect()
    }

    fn aborted(id: i64, first: i64, marker: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(id),
            first: Offset(first),
            marker: Offset(marker),
            stable_after: Offset(marker + 1),
        }
    }

    #[test]
    fn batches_of_aborted_transactions_and_control_batches_are_left_out() {
        let (commit, abort) = (Some(true), Some(false));
        let batches = log(
            10,
            &[
                (7, None),
                (0, None),
                (8, None),
                (7, abort),
                (7, None),
                (8, commit),
                (0, None),
                (7, commit),
            ],
        );
        assert_eq!(begins_with_transactions(&batches), Some(Offset(10)));
        let of = |isolation, aborted| offsets(visible(batches.clone(), isolation, aborted));
        // The first transaction of 7 began before what was read.
        let list = vec![aborted(9, 10, 20), aborted(7, 3, 13)];
        assert_eq!(of(Isolation::Committed, list.clone()), [11, 12, 14, 16]);
        assert_eq!(of(Isolation::Uncommitted, Vec::new()), [10, 11, 12, 14, 16]);
        assert_eq!(offsets(visible(batches.slice(..0), Isolation::Committed, list)), [0; 0]);
    }

    #[test]
    fn what_has_nothing_to_hide_is_not_copied() {
        let batches = log(0, &[(0, None), (7, None)]);
        let same = visible(batches.clone(), Isolation::Committed, vec![aborted(8, 0, 9)]);
        assert_eq!(same.as_ptr(), batches.as_ptr());
        assert_eq!(begins_with_transactions(&log(0, &[(0, None)])), None);
        assert_eq!(begins_with_transactions(&Bytes::new()), None);
    }

    #[test]
    fn what_is_cut_off_stays_for_the_reader_to_find() {
        let batches = log(0, &[(7, Some(true)), (0, None), (0, None)]);
        let cut = batches.slice(..batches.len() - 1);
        let left = visible(cut.clone(), Isolation::Committed, Vec::new());
        assert_eq!(left.len(), cut.len() - EndMarker::BATCH_BYTES);
    }
}
