//! Producer ids and epochs.

use jangada_controller::{Command, Reply};
use jangada_types::{ProducerEpoch, ProducerId, Reason};

use crate::fixture::Log;

fn allocate(count: u32) -> Command {
    Command::AllocateProducerIds { count }
}

fn bump(id: i64, epoch: i16) -> Command {
    Command::BumpProducerEpoch {
        producer_id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
    }
}

fn block(first: i64, count: u32) -> Reply {
    let first = ProducerId(first);
    Reply::ProducerIds { first, count }
}

fn producer(id: i64, epoch: i16) -> Reply {
    Reply::ProducerEpoch {
        producer_id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
    }
}

#[test]
fn blocks_of_ids_never_overlap() {
    let mut log = Log::formed(1);
    assert_eq!(log.accept(&allocate(10)), block(1000, 10));
    assert_eq!(log.accept(&allocate(u32::MAX)), block(1010, u32::MAX));
    assert_eq!(log.accept(&allocate(1)), block(1010 + i64::from(u32::MAX), 1));
    assert_eq!(log.reject(&allocate(0)).reason, Reason::InvalidRequest);
}

#[test]
fn a_bump_gives_the_next_epoch_and_can_be_repeated() {
    let mut log = Log::formed(1);
    log.accept(&allocate(2));
    assert_eq!(log.accept(&bump(1001, 0)), producer(1001, 1));
    assert_eq!(log.accept(&bump(1001, 0)), producer(1001, 1));
    assert_eq!(log.accept(&bump(1001, i16::MAX - 1)), producer(1001, i16::MAX));
}

#[test]
fn an_id_whose_epochs_are_used_up_is_followed_by_a_fresh_one() {
    let mut log = Log::formed(1);
    log.accept(&allocate(2));
    assert_eq!(log.accept(&bump(1001, i16::MAX)), producer(1002, 0));
    assert_eq!(log.accept(&allocate(1)), block(1003, 1));
}

#[test]
fn an_id_that_was_never_given_out_has_no_epochs() {
    let mut log = Log::formed(1);
    log.accept(&allocate(2));
    for id in [-1, 0, 999, 1002, i64::MAX] {
        assert_eq!(log.reject(&bump(id, 0)).reason, Reason::UnknownProducer);
        assert!(!log.image.is_allocated(ProducerId(id)));
    }
    assert_eq!(log.reject(&bump(1000, -1)).reason, Reason::InvalidRequest);
}
