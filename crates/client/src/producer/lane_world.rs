//! A model of a partition, and of everything that can go wrong on the way to it.
//!
//! The model keeps what a partition keeps: the log, and of the producer its epoch, its next sequence and its last five batches. On
//! the way, requests and answers get lost, streams break, and requests of broken streams arrive much later.

use std::collections::{BTreeMap, VecDeque};

use jangada_types::limits::PRODUCER_BATCHES_IN_FLIGHT_MAX;
use jangada_types::{ProducerEpoch, ProducerId};
use proptest::prelude::*;

use super::super::*;
use crate::producer::identity::{Identity, Stamp};

pub fn identity(generation: u64) -> Identity {
    Identity {
        generation,
        id: ProducerId(1),
        epoch: ProducerEpoch(generation as i16),
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub ticket: Ticket,
    pub batch: u32,
    pub records: i32,
    pub stamp: Stamp,
}

/// The state that a partition keeps.
#[derive(Default)]
pub struct Partition {
    pub log: Vec<u32>,
    pub epoch: i16,
    pub next: i32,
    pub last: VecDeque<(Stamp, i32)>,
    /// Epochs below this are refused though no batch of a newer one has come: a broker that fences when the epoch is given.
    pub fence: i16,
}

impl Partition {
    pub fn judge(&mut self, request: &Request) -> Answer {
        let stamp = request.stamp;
        let epoch = stamp.epoch.get();
        if epoch < self.epoch.max(self.fence) {
            return Answer::FencedByUs;
        }
        let same_epoch = epoch == self.epoch && !self.log.is_empty();
        if same_epoch
            && self
                .last
                .iter()
                .any(|(known, records)| *known == stamp && *records == request.records)
        {
            return Answer::Appended;
        }
        let expected = if same_epoch { self.next } else { 0 };
        match stamp.sequence.get() {
            sequence if sequence < expected => return Answer::AppendedBefore,
            sequence if sequence > expected && self.log.is_empty() => return Answer::UnknownProducer,
            sequence if sequence > expected => return Answer::OutOfOrder,
            _ => {}
        }
        if !same_epoch {
            self.last.clear();
        }
        self.epoch = epoch;
        self.next = stamp.sequence.advance(request.records).get();
        self.last.push_back((stamp, request.records));
        if self.last.len() > PRODUCER_BATCHES_IN_FLIGHT_MAX {
            self.last.pop_front();
        }
        self.log.push(request.batch);
        Answer::Appended
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The user sends a batch of this many records.
    Send(i32),
    /// The lane does its next step.
    Step,
    /// The partition takes the next request.
    Judge,
    /// The partition answers that it is busy.
    Busy,
    /// The partition appends the batch, but answers that the outcome is unknown.
    TimeoutAppended,
    /// The partition answers that the outcome is unknown, and does not append the batch.
    TimeoutLost,
    /// The partition answers that the outcome is unknown, and appends the batch much later.
    TimeoutLater,
    /// The partition refuses the batch for good.
    Refuse,
    /// The batch is too large for the partition's limit as it is now.
    TooLarge,
    /// The batch's condition does not hold.
    FailCondition,
    /// The lane gets the next answer.
    Answer,
    /// The stream breaks; requests on it arrive much later, or never.
    Break { late: bool },
    /// The driver leaves the stream, which goes on without it.
    Late,
    /// The time of the oldest batches is over.
    Expire(u32),
    /// Another lane needed a new epoch.
    Bump { fence: bool },
}

impl Event {
    pub fn gives_nothing_up(&self) -> bool {
        !matches!(
            self,
            Self::Expire(_) | Self::Refuse | Self::TooLarge | Self::FailCondition | Self::Bump { fence: true }
        )
    }
}

pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..4i32).prop_map(Event::Send),
        14 => Just(Event::Step),
        8 => Just(Event::Judge),
        8 => Just(Event::Answer),
        2 => Just(Event::Busy),
        1 => Just(Event::TimeoutAppended),
        1 => Just(Event::TimeoutLost),
        1 => Just(Event::TimeoutLater),
        1 => Just(Event::Refuse),
        2 => Just(Event::TooLarge),
        1 => Just(Event::FailCondition),
        1 => any::<bool>().prop_map(|late| Event::Break { late }),
        2 => Just(Event::Late),
        1 => (1..3u32).prop_map(Event::Expire),
        1 => any::<bool>().prop_map(|fence| Event::Bump { fence }),
    ]
}

/// The answer to an attempt, as the lane gets it.
#[derive(Clone, Copy, Debug)]
pub enum LaneAnswer {
    Answer(Answer),
    TooLarge,
}

pub struct World {
    pub lane: Lane<u32>,
    pub partition: Partition,
    pub newest: Option<Identity>,
    pub queued: VecDeque<(u32, i32)>,
    /// Number of records sent; a batch is named by its first one.
    pub sent: u32,
    /// Requests on the current stream.
    pub requests: VecDeque<Request>,
    pub answers: VecDeque<(Ticket, LaneAnswer)>,
    /// Requests of streams that broke: each stream's arrive in order.
    pub late: Vec<VecDeque<Request>>,
    pub records: BTreeMap<u32, i32>,
    pub ends: BTreeMap<u32, End>,
    pub fences: bool,
}

impl World {
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            lane: Lane::new(true, in_flight_max),
            partition: Partition::default(),
            newest: None,
            queued: VecDeque::new(),
            sent: 0,
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            late: Vec::new(),
            records: BTreeMap::new(),
            ends: BTreeMap::new(),
            fences: false,
        }
    }

    pub fn send(&mut self, records: i32) {
        self.queued.push_back((self.sent, records));
        self.records.insert(self.sent, records);
        self.sent += records as u32;
    }

    /// Gives the lane the answer that a batch is too large.
    pub fn too_large(&mut self, ticket: Ticket) {
        let whole = self.records.clone();
        let divisible = |batch: &u32| whole[batch] > 1;
        if !self.lane.is_absent(ticket) || !divisible(self.lane.sent(ticket).0) {
            return self.answer(ticket, Answer::Refused);
        }
        let records = &mut self.records;
        self.lane.split(ticket, |batch| {
            let (first, second) = (whole[&batch] / 2, whole[&batch] - whole[&batch] / 2);
            let parts = [(batch, first), (batch + first as u32, second)];
            records.extend(parts);
            parts.into()
        });
    }

    pub fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if let Some((batch, end)) = self.lane.answer(ticket, answer) {
            assert!(
                answer != Answer::AppendedBefore,
                "no number is used twice, and none falls out of the last five"
            );
            self.settle(batch, end);
        }
    }

    /// Returns whether there was something to do.
    pub fn step(&mut self) -> bool {
        let ticket = match self.lane.step(self.newest) {
            Step::Wait => return false,
            Step::Identify | Step::Renumber(_) if self.lane.is_empty() && self.queued.is_empty() => return false,
            Step::Identify => {
                self.newest = Some(identity(0));
                return true;
            }
            Step::Renumber(stale) => {
                if self.newest.is_none_or(|newest| newest.generation <= stale.generation) {
                    self.bump(self.fences);
                }
                self.lane.renumber(self.newest.expect("given"));
                return true;
            }
            Step::Resend => self.lane.resend(),
            Step::Readmit => self.lane.readmit(self.newest),
            Step::Admit => match self.queued.pop_front() {
                Some((batch, records)) => self.lane.admit(batch, records, self.newest),
                None => return false,
            },
        };
        let (batch, stamp) = self.lane.sent(ticket);
        let batch = *batch;
        self.requests.push_back(Request {
            ticket,
            batch,
            records: self.records[&batch],
            stamp,
        });
        true
    }

    pub fn bump(&mut self, fence: bool) {
        let generation = self.newest.map_or(0, |newest| newest.generation + 1);
        self.newest = Some(identity(generation));
        if fence {
            self.fences = true;
            self.partition.fence = generation as i16;
        }
    }

    pub fn settle(&mut self, batch: u32, end: End) {
        assert_eq!(self.ends.insert(batch, end), None, "batch {batch} is settled once");
    }

    /// Takes the next request; `judge` answers it.
    pub fn take(&mut self, judge: impl FnOnce(&mut Self, Request) -> Answer) {
        if let Some(request) = self.requests.pop_front() {
            let ticket = request.ticket;
            let answer = judge(self, request);
            self.answers.push_back((ticket, LaneAnswer::Answer(answer)));
        }
    }

    pub fn late(&mut self) {
        self.late.retain(|stream| !stream.is_empty());
        if let Some(request) = self.late.first_mut().and_then(VecDeque::pop_front) {
            self.partition.judge(&request);
            // The next call takes a request of another stream.
            self.late.rotate_left(1);
        }
    }

    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Send(records) => self.send(records),
            Event::Step => drop(self.step()),
            Event::Judge => self.take(|world, request| world.partition.judge(&request)),
            Event::Busy => self.take(|_, _| Answer::Retry),
            Event::TimeoutAppended => self.take(|world, request| {
                world.partition.judge(&request);
                Answer::Unknown
            }),
            Event::TimeoutLost => self.take(|_, _| Answer::Unknown),
            Event::TimeoutLater => self.take(|world, request| {
                world.late.push(VecDeque::from([request]));
                Answer::Unknown
            }),
            Event::Refuse => self.take(|_, _| Answer::Refused),
            Event::TooLarge => {
                let request = self.requests.pop_front();
                self.answers
                    .extend(request.map(|request| (request.ticket, LaneAnswer::TooLarge)));
            }
            Event::FailCondition => self.take(|_, _| Answer::ConditionFailed),
            Event::Answer => match self.answers.pop_front() {
                Some((ticket, LaneAnswer::Answer(answer))) => self.answer(ticket, answer),
                Some((ticket, LaneAnswer::TooLarge)) => self.too_large(ticket),
                None => {}
            },
            Event::Break { late } => {
                let requests = std::mem::take(&mut self.requests);
                if late {
                    self.late.push(requests);
                }
                self.answers.clear();
                self.lane.lose_in_flight();
            }
            Event::Late => self.late(),
            Event::Expire(count) => {
                // Batches are settled roughly in order; what is the oldest left is expired first, with its neighbours.
                let mut left = self.records.keys().filter(|batch| !self.ends.contains_key(batch));
                let over = left.next().copied().unwrap_or(self.sent) + count;
                for (batch, end) in self.lane.expire(|batch| *batch < over) {
                    self.settle(batch, end);
                }
                while self.lane.is_empty() && self.queued.front().is_some_and(|(batch, _)| *batch < over) {
                    let (batch, _) = self.queued.pop_front().expect("there");
                    self.settle(batch, End::Absent);
                }
            }
            Event::Bump { fence } => {
                if self.newest.is_some() {
                    self.bump(fence);
                }
            }
        }
    }

    /// Runs without further faults until everything is settled.
    pub fn finish(&mut self) {
        for _ in 0..10_000 {
            let mut busy = self.step();
            busy |= !self.requests.is_empty() || !self.answers.is_empty();
            self.happen(Event::Judge);
            self.happen(Event::Answer);
            if !busy {
                break;
            }
        }
        assert!(
            self.lane.is_empty() && self.queued.is_empty(),
            "the lane is stuck at {:?}",
            self.lane.step(self.newest)
        );
        while self.late.iter().any(|stream| !stream.is_empty()) {
            self.late();
        }
    }

    pub fn check(&self) {
        let log = &self.partition.log;
        assert!(log.is_sorted_by(|a, b| a < b), "in order and none twice: {log:?}");
        assert!(self.ends.keys().eq(self.records.keys()), "every batch is settled");
        for (batch, end) in &self.ends {
            match end {
                End::Appended => assert!(log.contains(batch), "batch {batch} was reported as appended: {log:?}"),
                End::Absent => assert!(!log.contains(batch), "batch {batch} was reported as absent: {log:?}"),
                End::InDoubt => {}
            }
        }
    }
}
