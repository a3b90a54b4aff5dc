//! A partition: its log, and its check of sequences.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use jangada_proto::v1;
use jangada_types::batch::{EndMarker, decode_records, set_position};
use jangada_types::{BatchError, BatchHeader, BatchLimits, LeaderEpoch, Offset, Reason, Sequence};

use super::{Error, Fault};

pub struct Partition {
    /// The broker that leads; 0: none.
    pub leader: u32,
    pub epoch: u32,
    /// Whether NOT_LEADER names the leader.
    pub hints: bool,
    pub log_start: i64,
    pub batches: Vec<Bytes>,
    /// What its leader says may be unanswered.
    pub credit_bytes: Option<u64>,
    /// Bytes of the largest batch that is taken.
    pub batch_bytes_max: usize,
    /// Whether OFFSET_OUT_OF_RANGE has the range.
    pub tells_bounds: bool,
    pub faults: VecDeque<Fault>,
    /// Headers of all batches that came, appended or not.
    pub attempts: Vec<BatchHeader>,
    /// An answer from below this offset has nothing, and goes on with it, once.
    pub passes_to: Option<i64>,
    /// Answers say that compaction has taken what is missing from the batches.
    pub is_compacted: bool,
    producers: HashMap<i64, Producer>,
    /// The first offsets of open transactions, by producer.
    open: BTreeMap<i64, i64>,
    /// Aborted transactions: producer, first offset, offset of the marker.
    aborted: Vec<(i64, i64, i64)>,
}

struct Producer {
    epoch: i16,
    next: Sequence,
    /// First sequence, last sequence and base offset of the last five batches.
    last: VecDeque<(Sequence, Sequence, i64)>,
}

pub struct Appended {
    pub base_offset: i64,
    pub last_offset: i64,
    pub duplicate: bool,
}

impl Partition {
    pub fn new(leader: u32) -> Self {
        Self {
            leader,
            epoch: 1,
            hints: true,
            log_start: 0,
            batches: Vec::new(),
            credit_bytes: None,
            batch_bytes_max: 1 << 20,
            tells_bounds: true,
            faults: VecDeque::new(),
            attempts: Vec::new(),
            passes_to: None,
            is_compacted: false,
            producers: HashMap::new(),
            open: BTreeMap::new(),
            aborted: Vec::new(),
        }
    }

    pub fn high_watermark(&self) -> i64 {
        self.batches.last().map_or(0, |batch| {
            header(batch).base_offset + i64::from(header(batch).record_count)
        })
    }

    /// Does with a batch as a leader would.
    pub fn append(&mut self, batch: &Bytes) -> Result<Appended, Error> {
        let limits = BatchLimits {
            max_batch_bytes: self.batch_bytes_max,
        };
        let header = jangada_types::batch::validate(batch, &limits).map_err(|error| {
            let refused = Error::definite(error.reason());
            match error {
                BatchError::TooLarge { size, limit } => refused.with("actual", size).with("limit", limit),
                _ => refused,
            }
        })?;
        let base_offset = self.high_watermark();
        if header.is_idempotent() {
            if let Some(first) = self.judge(&header)? {
                let last_offset = first + i64::from(header.last_offset_delta);
                return Ok(Appended {
                    base_offset: first,
                    last_offset,
                    duplicate: true,
                });
            }
            let producer = self.producers.get_mut(&header.producer_id.get()).expect("judged");
            producer
                .last
                .push_back((header.base_sequence, header.last_sequence(), base_offset));
            producer.last.keep_last(5);
        }
        if header.attributes.is_transactional() {
            self.open.entry(header.producer_id.get()).or_insert(base_offset);
        }
        self.store(batch);
        Ok(Appended {
            base_offset,
            last_offset: base_offset + i64::from(header.last_offset_delta),
            duplicate: false,
        })
    }

    fn store(&mut self, batch: &Bytes) {
        let mut stored = BytesMut::from(&batch[..]);
        set_position(&mut stored, Offset(self.high_watermark()), LeaderEpoch(self.epoch));
        self.batches.push(stored.freeze());
    }

    /// Ends a producer's transaction.
    pub fn end(&mut self, marker: &EndMarker) {
        let at = self.high_watermark();
        let id = marker.producer_id.get();
        let first = self.open.remove(&id);
        if let Some(first) = first.filter(|_| !marker.commit) {
            self.aborted.push((id, first, at));
        }
        if let Some(producer) = self.producers.get_mut(&id) {
            *producer = Producer {
                epoch: marker.producer_epoch.get(),
                next: Sequence(0),
                last: VecDeque::new(),
            };
        }
        self.store(&marker.build(0));
    }

    /// The end for who reads committed.
    pub fn last_stable_offset(&self) -> i64 {
        let first = self.open.values().min().copied();
        first.unwrap_or_else(|| self.high_watermark())
    }

    /// The aborted transactions that have records in these offsets.
    pub fn aborted(&self, from: i64, to: i64) -> Vec<v1::AbortedTransaction> {
        let among = self
            .aborted
            .iter()
            .filter(|(_, first, marker)| *first < to && *marker >= from);
        let wire = among.map(|(producer_id, first_offset, _)| v1::AbortedTransaction {
            producer_id: *producer_id,
            first_offset: *first_offset,
        });
        wire.collect()
    }

    /// Judges a batch. `Some`: it is in the log already, at this offset.
    fn judge(&mut self, header: &BatchHeader) -> Result<Option<i64>, Error> {
        let id = header.producer_id.get();
        let (first, epoch) = (header.base_sequence, header.producer_epoch.get());
        let fresh = || Producer {
            epoch,
            next: Sequence(0),
            last: VecDeque::new(),
        };
        let Some(producer) = self.producers.get_mut(&id) else {
            if first != Sequence(0) {
                return Err(Error::definite(Reason::UnknownProducer));
            }
            self.producers.insert(
                id,
                Producer {
                    next: header.last_sequence().advance(1),
                    ..fresh()
                },
            );
            return Ok(None);
        };
        if epoch < producer.epoch {
            return Err(Error::definite(Reason::ProducerFenced));
        }
        if epoch > producer.epoch {
            *producer = fresh();
        }
        let known = producer
            .last
            .iter()
            .find(|(known, last, _)| *known == first && *last == header.last_sequence());
        if let Some((_, _, offset)) = known {
            return Ok(Some(*offset));
        }
        if first < producer.next {
            return Err(Error::definite(Reason::DuplicateSequence));
        }
        if first > producer.next {
            return Err(Error::definite(Reason::OutOfOrderSequence));
        }
        producer.next = header.last_sequence().advance(1);
        Ok(None)
    }

    /// Forgets producers as if their entries had expired.
    pub fn forget_producers(&mut self) {
        self.producers.clear();
    }

    /// Batches from the one with this offset on and below `end`, as many as fit but at least one.
    pub fn read(&self, offset: i64, end: i64, max_bytes: usize) -> Vec<Bytes> {
        let mut read = Vec::new();
        let mut bytes = 0;
        for batch in self
            .batches
            .iter()
            .filter(|batch| last_offset(batch) >= offset && last_offset(batch) < end)
        {
            bytes += batch.len();
            if !read.is_empty() && bytes > max_bytes {
                break;
            }
            read.push(batch.clone());
        }
        read
    }

    pub fn values(&self) -> Vec<String> {
        let records = self
            .batches
            .iter()
            .filter(|batch| !header(batch).attributes.is_control())
            .flat_map(|batch| decode_records(batch, 1 << 24).expect("whole"));
        records
            .map(|record| String::from_utf8(record.value.expect("a value").to_vec()).expect("text"))
            .collect()
    }

    pub fn wire(&self, partition: u32) -> v1::Partition {
        v1::Partition {
            partition,
            leader_id: self.leader,
            leader_epoch: self.epoch,
            replicas: vec![1, 2, 3],
        }
    }
}

trait KeepLast {
    fn keep_last(&mut self, len: usize);
}

impl<T> KeepLast for VecDeque<T> {
    fn keep_last(&mut self, len: usize) {
        while self.len() > len {
            self.pop_front();
        }
    }
}

fn header(batch: &[u8]) -> BatchHeader {
    BatchHeader::parse(batch).expect("it was validated")
}

pub fn last_offset(batch: &[u8]) -> i64 {
    header(batch).base_offset + i64::from(header(batch).last_offset_delta)
}
