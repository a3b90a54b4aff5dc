//! A lane against a model of a partition and of everything that can go wrong on the way to it.
//!
//! The model keeps what a partition keeps: the log, and of the producer its epoch, its next sequence and its last five batches. On
//! the way, requests and answers get lost, streams break, and requests of broken streams arrive much later. Whatever happens:
//! - the log has the batches in the order in which they were given to the lane, none twice;
//! - what was reported as appended is there, what was reported as absent is not.

use std::collections::{BTreeMap, VecDeque};

use jangada_types::limits::PRODUCER_BATCHES_IN_FLIGHT_MAX;
use jangada_types::{ProducerEpoch, ProducerId, Sequence};
use proptest::prelude::*;

use super::super::identity::{Identity, Stamp};
use super::*;

fn identity(generation: u64) -> Identity {
    Identity {
        generation,
        id: ProducerId(1),
        epoch: ProducerEpoch(generation as i16),
    }
}

#[derive(Clone, Debug)]
struct Request {
    ticket: Ticket,
    batch: u32,
    records: i32,
    stamp: Stamp,
}

/// What a partition knows.
#[derive(Default)]
struct Partition {
    log: Vec<u32>,
    epoch: i16,
    next: i32,
    last: VecDeque<(Stamp, i32)>,
    /// Epochs below this are refused though no batch of a newer one has come: a broker that fences when the epoch is given.
    fence: i16,
}

impl Partition {
    fn judge(&mut self, request: &Request) -> Answer {
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
enum Event {
    /// The user sends a batch of so many records.
    Send(i32),
    /// The lane does its next step.
    Step,
    /// The partition takes the next request.
    Judge,
    /// It is busy.
    Busy,
    /// It takes it, but says that the outcome is unknown.
    TimeoutAppended,
    /// It says so and does not take it.
    TimeoutLost,
    /// It says so and takes it much later.
    TimeoutLater,
    /// It refuses it for good.
    Refuse,
    /// It is too large for the partition as it is now.
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
    fn gives_nothing_up(&self) -> bool {
        !matches!(
            self,
            Self::Expire(_) | Self::Refuse | Self::TooLarge | Self::FailCondition | Self::Bump { fence: true }
        )
    }
}

fn event() -> impl Strategy<Value = Event> {
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

/// What the lane is told of an attempt.
#[derive(Clone, Copy, Debug)]
enum Told {
    Answer(Answer),
    TooLarge,
}

struct World {
    lane: Lane<u32>,
    partition: Partition,
    newest: Option<Identity>,
    queued: VecDeque<(u32, i32)>,
    /// Records; a batch is named by its first one.
    sent: u32,
    /// On the stream, and answers on the way back.
    requests: VecDeque<Request>,
    answers: VecDeque<(Ticket, Told)>,
    /// Requests of streams that broke: each stream's arrive in order.
    late: Vec<VecDeque<Request>>,
    records: BTreeMap<u32, i32>,
    ends: BTreeMap<u32, End>,
    fences: bool,
}

impl World {
    fn new(in_flight_max: usize) -> Self {
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

    fn send(&mut self, records: i32) {
        self.queued.push_back((self.sent, records));
        self.records.insert(self.sent, records);
        self.sent += records as u32;
    }

    /// The lane hears that a batch is too large.
    fn too_large(&mut self, ticket: Ticket) {
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

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if let Some((batch, end)) = self.lane.answer(ticket, answer) {
            assert!(
                answer != Answer::AppendedBefore,
                "no number is used twice, and none falls out of the last five"
            );
            self.settle(batch, end);
        }
    }

    /// Returns whether there was something to do.
    fn step(&mut self) -> bool {
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

    fn bump(&mut self, fence: bool) {
        let generation = self.newest.map_or(0, |newest| newest.generation + 1);
        self.newest = Some(identity(generation));
        if fence {
            self.fences = true;
            self.partition.fence = generation as i16;
        }
    }

    fn settle(&mut self, batch: u32, end: End) {
        assert_eq!(self.ends.insert(batch, end), None, "batch {batch} is settled once");
    }

    /// The next request, answered by `judge`.
    fn take(&mut self, judge: impl FnOnce(&mut Self, Request) -> Answer) {
        if let Some(request) = self.requests.pop_front() {
            let ticket = request.ticket;
            let answer = judge(self, request);
            self.answers.push_back((ticket, Told::Answer(answer)));
        }
    }

    fn late(&mut self) {
        self.late.retain(|stream| !stream.is_empty());
        if let Some(request) = self.late.first_mut().and_then(VecDeque::pop_front) {
            self.partition.judge(&request);
            // The next time another stream's.
            self.late.rotate_left(1);
        }
    }

    fn happen(&mut self, event: Event) {
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
                    .extend(request.map(|request| (request.ticket, Told::TooLarge)));
            }
            Event::FailCondition => self.take(|_, _| Answer::ConditionFailed),
            Event::Answer => match self.answers.pop_front() {
                Some((ticket, Told::Answer(answer))) => self.answer(ticket, answer),
                Some((ticket, Told::TooLarge)) => self.too_large(ticket),
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

    /// No more faults: everything gets settled.
    fn finish(&mut self) {
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

    fn check(&self) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_overtaken(
        in_flight_max in 1..=PRODUCER_BATCHES_IN_FLIGHT_MAX,
        events in proptest::collection::vec(event(), 1..300),
    ) {
        let mut world = World::new(in_flight_max);
        for event in events {
            world.happen(event);
            prop_assert!(world.partition.log.is_sorted_by(|a, b| a < b), "{:?}", world.partition.log);
        }
        world.finish();
        world.check();
    }

    /// Faults that leave nothing in doubt for long cost no batch.
    #[test]
    fn retries_alone_lose_nothing(
        events in proptest::collection::vec(event().prop_filter("gives nothing up", Event::gives_nothing_up), 1..300),
    ) {
        let mut world = World::new(PRODUCER_BATCHES_IN_FLIGHT_MAX);
        for event in events {
            world.happen(event);
        }
        world.finish();
        world.check();
        prop_assert!(world.ends.values().all(|end| *end == End::Appended), "{:?}", world.ends);
    }
}

/// Sends `count` batches of ten records and returns their tickets.
fn flight(world: &mut World, count: usize) -> Vec<Request> {
    for _ in 0..count {
        world.send(10);
    }
    while world.step() {}
    let requests: Vec<_> = world.requests.drain(..).collect();
    assert_eq!(requests.len(), count);
    requests
}

#[test]
fn sequences_follow_and_at_most_five_are_in_flight() {
    let mut world = World::new(5);
    for _ in 0..7 {
        world.send(10);
    }
    while world.step() {}
    let sequences: Vec<i32> = world
        .requests
        .iter()
        .map(|request| request.stamp.sequence.get())
        .collect();
    assert_eq!(sequences, [0, 10, 20, 30, 40]);
}

#[test]
fn the_window_does_not_slide_past_an_entry_in_doubt() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 5);
    assert_eq!(world.lane.answer(sent[0].ticket, Answer::Unknown), None);
    for request in &sent[1..] {
        assert!(world.lane.answer(request.ticket, Answer::Appended).is_some());
    }
    world.send(10);
    assert!(world.step());
    assert_eq!(world.requests[0].batch, 0, "the one in doubt first");
    assert!(
        !world.step(),
        "a sixth number would push the first out of the broker's memory"
    );
}

#[test]
fn after_a_retryable_failure_all_later_ones_are_sent_again_in_order() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 3);
    assert_eq!(world.lane.answer(sent[0].ticket, Answer::Retry), None);
    assert_eq!(
        world.lane.step(world.newest),
        Step::Wait,
        "later ones are still under way"
    );
    assert_eq!(world.lane.answer(sent[1].ticket, Answer::UnknownProducer), None);
    assert_eq!(world.lane.answer(sent[2].ticket, Answer::OutOfOrder), None);
    while world.step() {}
    let again: Vec<_> = world
        .requests
        .iter()
        .map(|request| (request.batch, request.stamp))
        .collect();
    assert_eq!(
        again,
        sent.iter()
            .map(|request| (request.batch, request.stamp))
            .collect::<Vec<_>>()
    );
}

#[test]
fn behind_a_refused_batch_the_others_go_on_under_the_next_epoch() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 3);
    assert_eq!(
        world.lane.answer(sent[0].ticket, Answer::Refused),
        Some((0, End::Absent))
    );
    assert_eq!(world.lane.answer(sent[1].ticket, Answer::OutOfOrder), None);
    assert_eq!(world.lane.answer(sent[2].ticket, Answer::OutOfOrder), None);
    assert_eq!(world.lane.step(world.newest), Step::Renumber(identity(0)));
    while world.step() {}
    let again: Vec<_> = world
        .requests
        .iter()
        .map(|r| (r.batch, r.stamp.epoch.get(), r.stamp.sequence.get()))
        .collect();
    assert_eq!(again, [(10, 1, 0), (20, 1, 10)]);
}

#[test]
fn behind_a_batch_in_doubt_those_in_doubt_are_asked_after_under_their_old_number() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 3);
    world.lane.lose_in_flight();
    assert_eq!(world.lane.expire(|batch| *batch == 0), [(0, End::InDoubt)]);
    assert_eq!(world.lane.step(world.newest), Step::Resend);
    let probe = world.lane.resend();
    assert_eq!(world.lane.sent(probe).1, sent[1].stamp);
    assert_eq!(world.lane.step(world.newest), Step::Wait, "one at a time");
    assert_eq!(world.lane.answer(probe, Answer::Appended), Some((10, End::Appended)));
    assert_eq!(
        world.lane.step(world.newest),
        Step::Resend,
        "the first one was there after all: the numbers are whole"
    );
    let last = world.lane.resend();
    assert_eq!(world.lane.answer(last, Answer::Appended), Some((20, End::Appended)));
    assert_eq!(world.lane.step(world.newest), Step::Admit, "no new epoch needed");
}

#[test]
fn behind_a_batch_in_doubt_one_that_is_not_there_stays_in_doubt() {
    let mut world = World::new(5);
    flight(&mut world, 2);
    world.lane.lose_in_flight();
    assert_eq!(world.lane.expire(|batch| *batch == 0), [(0, End::InDoubt)]);
    let probe = world.lane.resend();
    // Both may still be under way, one behind the other.
    assert_eq!(world.lane.answer(probe, Answer::OutOfOrder), Some((10, End::InDoubt)));
    assert_eq!(world.lane.step(world.newest), Step::Renumber(identity(0)));
}

#[test]
fn the_parts_of_a_batch_that_is_too_large_have_its_numbers_and_go_before_the_next() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 3);
    world.too_large(sent[0].ticket);
    assert_eq!(
        world.lane.step(world.newest),
        Step::Wait,
        "later ones are still under way"
    );
    assert_eq!(world.lane.answer(sent[1].ticket, Answer::UnknownProducer), None);
    assert_eq!(world.lane.answer(sent[2].ticket, Answer::OutOfOrder), None);
    while world.step() {}
    let again = world.requests.iter().map(|request| {
        let stamp = request.stamp;
        (request.batch, request.records, stamp.epoch.get(), stamp.sequence.get())
    });
    let expected = [(0, 5, 0, 0), (5, 5, 0, 5), (10, 10, 0, 10), (20, 10, 0, 20)];
    assert_eq!(again.collect::<Vec<_>>(), expected, "no new epoch is needed");
    world.finish();
    world.check();
}

#[test]
fn a_window_of_many_parts_is_sent_five_at_a_time() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 5);
    for request in &sent {
        world.too_large(request.ticket);
    }
    while world.step() {}
    assert_eq!(world.requests.len(), 5);
    world.happen(Event::Judge);
    world.happen(Event::Answer);
    while world.step() {}
    assert_eq!(world.requests.len(), 5, "one more");
    world.finish();
    world.check();
    assert_eq!(world.partition.log.len(), 10);
    assert!(world.ends.values().all(|end| *end == End::Appended));
}

#[test]
fn a_batch_that_may_be_in_the_log_is_not_split() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 1);
    assert_eq!(world.lane.answer(sent[0].ticket, Answer::Unknown), None);
    let again = world.lane.resend();
    assert!(!world.lane.is_absent(sent[0].ticket), "that attempt is over");
    assert!(!world.lane.is_absent(again));
    assert_eq!(world.lane.answer(again, Answer::Refused), Some((0, End::InDoubt)));
}

#[test]
fn a_gap_that_nothing_explains_is_an_error() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 1);
    assert_eq!(
        world.lane.answer(sent[0].ticket, Answer::OutOfOrder),
        Some((0, End::Absent))
    );
}

#[test]
fn a_producer_that_the_partition_forgot_begins_anew() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 2);
    assert!(world.lane.answer(sent[0].ticket, Answer::Appended).is_some());
    assert_eq!(world.lane.answer(sent[1].ticket, Answer::UnknownProducer), None);
    while world.step() {}
    let stamp = world.requests[0].stamp;
    assert_eq!((stamp.epoch, stamp.sequence), (ProducerEpoch(1), Sequence(0)));
    // Where an attempt is in doubt, or the number is the first, that would prove nothing.
    let ticket = world.requests[0].ticket;
    assert_eq!(
        world.lane.answer(ticket, Answer::UnknownProducer),
        Some((10, End::Absent))
    );
}

#[test]
fn answers_to_attempts_given_up_are_ignored() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 1);
    world.lane.lose_in_flight();
    assert_eq!(world.lane.answer(sent[0].ticket, Answer::Refused), None);
    let again = world.lane.resend();
    assert_eq!(world.lane.answer(sent[0].ticket, Answer::Refused), None);
    assert_eq!(world.lane.answer(again, Answer::Appended), Some((0, End::Appended)));
}

#[test]
fn an_idle_lane_takes_over_the_newest_identity() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 1);
    world.bump(false);
    world.send(10);
    world.step();
    assert_eq!(
        world.requests[0].stamp.epoch,
        ProducerEpoch(0),
        "not while something is under way"
    );
    assert!(world.lane.answer(sent[0].ticket, Answer::Appended).is_some());
    let second = world.requests.pop_front().expect("sent");
    assert!(world.lane.answer(second.ticket, Answer::Appended).is_some());
    world.send(10);
    world.step();
    let stamp = world.requests[0].stamp;
    assert_eq!((stamp.epoch, stamp.sequence), (ProducerEpoch(1), Sequence(0)));
}

#[test]
fn without_sequences_one_batch_is_in_flight_and_nothing_is_numbered() {
    let mut lane = Lane::new(false, 1);
    assert_eq!(lane.step(None), Step::Admit);
    let ticket = lane.admit(0, 10, None);
    assert_eq!(lane.sent(ticket).1, Stamp::NONE);
    assert_eq!(lane.step(None), Step::Wait);
    assert_eq!(lane.answer(ticket, Answer::Unknown), None);
    assert_eq!(lane.step(None), Step::Resend);
    let ticket = lane.resend();
    assert_eq!(lane.answer(ticket, Answer::Refused), Some((0, End::InDoubt)));
    assert_eq!(lane.step(None), Step::Admit, "no hole");
}

#[test]
fn a_condition_that_failed_leaves_its_sequence_to_the_next_batch() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 1);
    assert!(world.lane.answer(sent[0].ticket, Answer::Appended).is_some());
    let refused = flight(&mut world, 1);
    let answer = world.lane.answer(refused[0].ticket, Answer::ConditionFailed);
    assert_eq!(answer.map(|(_, end)| end), Some(End::Absent));
    let next = flight(&mut world, 1);
    assert_eq!(next[0].stamp, refused[0].stamp, "under the same epoch");
}

#[test]
fn a_condition_that_failed_after_a_lost_attempt_leaves_doubt() {
    let mut world = World::new(5);
    let sent = flight(&mut world, 1);
    assert_eq!(world.lane.answer(sent[0].ticket, Answer::Unknown), None);
    assert_eq!(world.lane.step(world.newest), Step::Resend);
    let ticket = world.lane.resend();
    let answer = world.lane.answer(ticket, Answer::ConditionFailed);
    assert_eq!(answer.map(|(_, end)| end), Some(End::InDoubt));
    assert_eq!(
        world.lane.step(world.newest),
        Step::Renumber(identity(0)),
        "the lost attempt is fenced by the next epoch"
    );
}
