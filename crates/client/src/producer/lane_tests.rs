//! Runs a lane against a [`World`]. Whatever happens:
//! - the log has the batches in the order in which they were given to the lane, none twice;
//! - what was reported as appended is there, what was reported as absent is not.

mod lane_world;

use jangada_types::limits::PRODUCER_BATCHES_IN_FLIGHT_MAX;
use jangada_types::{ProducerEpoch, Sequence};
use proptest::prelude::*;

use super::super::identity::Stamp;
use super::*;
use lane_world::{Event, Request, World, event, identity};

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
    // Both attempts may still be under way, one behind the other.
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
    // Where an attempt is in doubt, or the number is the first, the answer would prove nothing.
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
