//! Requests that are refused, each with its own reason, and the bounds of the state.

use jangada_transactions::{
    Command, Config, Image, InitRequest, JoinKind, JoinRequest, Outcome, Producer, Reply, limits,
};
use jangada_types::{GroupId, ProducerEpoch, ProducerId, Reason};

use crate::desk::{Desk, ID, join, writing};

#[test]
fn bad_ids_and_timeouts() {
    let mut desk = Desk::new();
    for id in ["", "a\nb", &"x".repeat(limits::ID_BYTES_MAX + 1)] {
        let request = InitRequest {
            id: id.into(),
            ..InitRequest::default()
        };
        assert_eq!(desk.init(request), Err(Reason::InvalidTransactionalId), "{id:?}");
    }
    let request = InitRequest {
        id: ID.into(),
        timeout_ms: limits::TIMEOUT_MS_MAX_DEFAULT + 1,
        ..InitRequest::default()
    };
    assert_eq!(desk.init(request.clone()), Err(Reason::InvalidTransactionTimeout));
    assert!(desk.shard.image.is_empty());
    let longest = InitRequest {
        timeout_ms: limits::TIMEOUT_MS_MAX_DEFAULT,
        ..request
    };
    desk.init(longest).expect("the longest is allowed");
    assert_eq!(desk.row().timeout_ms, limits::TIMEOUT_MS_MAX_DEFAULT);
    desk.take().expect("the id is free");
    assert_eq!(desk.row().timeout_ms, limits::TIMEOUT_MS_DEFAULT);
}

#[test]
fn requests_of_strangers() {
    let mut desk = Desk::new();
    let nobody = Producer::first(ProducerId(1));
    assert_eq!(desk.commit(nobody), Err(Reason::UnknownTransactionalId));
    assert_eq!(desk.write(nobody, 0, 0, 1), Err(Reason::UnknownTransactionalId));
    let (mut desk, producer) = writing();
    let strangers = [
        nobody,
        Producer::first(ProducerId::NONE),
        producer.bumped(),
        Producer {
            epoch: ProducerEpoch(-1),
            ..producer
        },
        Producer {
            epoch: Producer::RETIRING_EPOCH,
            ..producer
        },
    ];
    for stranger in strangers {
        assert_eq!(desk.commit(stranger), Err(Reason::ProducerFenced), "{stranger}");
        assert_eq!(desk.write(stranger, 0, 0, 1), Err(Reason::ProducerFenced), "{stranger}");
        assert_eq!(desk.reset(stranger), Err(Reason::ProducerFenced), "{stranger}");
    }
    assert_eq!(
        desk.join(join(producer, &[], JoinKind::Implicit)),
        Err(Reason::InvalidRequest)
    );
    desk.commit(producer).expect("it is as it was");
}

#[test]
fn a_transaction_has_so_many_participants_and_no_more() {
    let mut desk = Desk::new();
    let producer = desk.take().expect("the id is free");
    let all: Vec<u64> = (0..limits::PARTICIPANTS_MAX as u64).collect();
    desk.join(join(producer, &all, JoinKind::Implicit))
        .expect("as many as may be");
    let one_more = [limits::PARTICIPANTS_MAX as u64];
    let more = desk.join(join(producer, &one_more, JoinKind::Implicit));
    assert_eq!(more, Err(Reason::TooManyTransactionalIds));
    desk.join(join(producer, &all[..10], JoinKind::Implicit))
        .expect("it has them");
    let names = (0..limits::PARTICIPANTS_MAX)
        .map(|at| format!("g{at}").into())
        .collect();
    let groups = JoinRequest {
        groups: names,
        ..join(producer, &[], JoinKind::Implicit)
    };
    desk.join(groups).expect("groups have a bound of their own");
    desk.commit(producer).expect("an end is never refused for room");
    assert_eq!(desk.outgoing().len(), 2 * limits::PARTICIPANTS_MAX);
    desk.shard.image.check().expect("the state is sound");
}

/// An image with as many ids as a shard may have.
fn full() -> Image {
    let mut image = Image::new();
    for at in 0..limits::IDS_MAX as u64 {
        let command = Command::Init {
            id: format!("id-{at}").into(),
            from: None,
            next: Producer::first(ProducerId(at as i64)),
            is_by_holder: false,
            timeout_ms: 1,
            at_ms: 0,
        };
        assert_eq!(image.apply(at + 1, &command), Reply::Applied { count: 1 });
    }
    image
}

#[test]
fn a_shard_has_so_many_ids_and_so_many_bytes_and_no_more() {
    let mut desk = Desk::with(full(), Config::default());
    assert_eq!(desk.take(), Err(Reason::TooManyTransactionalIds));
    let init = |id: &str| InitRequest {
        id: id.into(),
        ..InitRequest::default()
    };
    desk.init(init("id-0")).expect("ids that are there go on");
    // The bytes: each id has as large a transaction as may be, until there is no room.
    let partitions: Vec<GroupId> = (0..limits::PARTICIPANTS_MAX as u64).map(GroupId).collect();
    let refused = (1..200).find_map(|at: u64| {
        let add = Command::Add {
            id: format!("id-{at}").into(),
            producer: Producer::first(ProducerId(at as i64)),
            seq: 1,
            partitions: partitions.clone(),
            groups: Vec::new(),
            metadata_version: 1,
            at_ms: 0,
        };
        let image = &mut desk.shard.image;
        match image.apply(image.version() + 1, &add) {
            Reply::Applied { .. } => None,
            Reply::Rejected(rejection) => Some((at, rejection.reason)),
        }
    });
    let (at, reason) = refused.expect("the bytes have a bound");
    assert_eq!(reason, Reason::TooManyTransactionalIds);
    let image = &mut desk.shard.image;
    image.check().expect("the state is sound");
    assert!(image.size() <= limits::BYTES_MAX && image.size() > limits::BYTES_MAX / 10 * 9);
    assert!(
        image.snapshot().len() as u64 <= image.size() + 64,
        "it is an upper bound"
    );
    // What is open ends without room.
    let command = Command::End {
        id: "id-1".into(),
        producer: Producer::first(ProducerId(1)),
        seq: 1,
        outcome: Outcome::Committed,
        next: Producer::first(ProducerId(1)).bumped(),
        at_ms: 0,
    };
    assert!(at > 1);
    assert_eq!(image.apply(image.version() + 1, &command), Reply::Applied { count: 1 });
}

#[test]
fn a_command_that_was_decided_from_another_state_changes_nothing() {
    let (desk, producer) = writing();
    let image = &desk.shard.image;
    let at_ms = 5;
    let id = || ID.into();
    let next = producer.bumped();
    let stale = [
        Command::Init {
            id: id(),
            from: None,
            next: Producer::first(ProducerId(9)),
            is_by_holder: false,
            timeout_ms: 1,
            at_ms,
        },
        Command::Init {
            id: id(),
            from: Some(producer),
            next,
            is_by_holder: false,
            timeout_ms: 1,
            at_ms,
        },
        Command::Init {
            id: "new".into(),
            from: None,
            next,
            is_by_holder: false,
            timeout_ms: 1,
            at_ms,
        },
        Command::Init {
            id: "new".into(),
            from: Some(producer),
            next,
            is_by_holder: false,
            timeout_ms: 1,
            at_ms,
        },
        Command::Add {
            id: id(),
            producer: next,
            seq: 1,
            partitions: vec![],
            groups: vec![],
            metadata_version: 1,
            at_ms,
        },
        Command::Add {
            id: id(),
            producer,
            seq: 2,
            partitions: vec![],
            groups: vec![],
            metadata_version: 1,
            at_ms,
        },
        Command::End {
            id: id(),
            producer,
            seq: 2,
            outcome: Outcome::Committed,
            next,
            at_ms,
        },
        Command::End {
            id: id(),
            producer: next,
            seq: 1,
            outcome: Outcome::Committed,
            next: next.bumped(),
            at_ms,
        },
        Command::End {
            id: id(),
            producer,
            seq: 1,
            outcome: Outcome::Committed,
            next: next.bumped(),
            at_ms,
        },
        // Without a new epoch only its producer ends a transaction.
        Command::End {
            id: id(),
            producer,
            seq: 1,
            outcome: Outcome::TimedOut,
            next: producer,
            at_ms,
        },
        Command::Expire {
            id: id(),
            touched_ms: desk.row().touched_ms,
        },
    ];
    for command in stale {
        let mut after = image.clone();
        let reply = after.apply(image.version() + 1, &command);
        assert!(matches!(reply, Reply::Rejected(_)), "{command:?}: {reply:?}");
        assert!(after.ids().eq(image.ids()), "{command:?}");
        after.check().expect("the state is sound");
    }
    let mut after = image.clone();
    let ended = vec![(ID.into(), 1), ("unknown".into(), 1)];
    let reply = after.apply(image.version() + 1, &Command::Complete { ended, at_ms });
    assert_eq!(reply, Reply::Applied { count: 0 });
    // A decision is never changed by another one.
    let decide = |outcome| Command::End {
        id: id(),
        producer,
        seq: 1,
        outcome,
        next,
        at_ms,
    };
    let mut after = image.clone();
    after.apply(image.version() + 1, &decide(Outcome::Committed));
    for outcome in Outcome::ALL {
        let reply = after.apply(after.version() + 1, &decide(outcome));
        assert!(matches!(reply, Reply::Rejected(_)), "{outcome:?}");
    }
}
