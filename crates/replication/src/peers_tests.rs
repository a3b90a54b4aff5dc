//! What is remembered of peers, and what is made of it.

use std::sync::Arc;

use jangada_proto::internal::{Commits, Hello, Past, PutBack, Start};
use jangada_storage::{MemoryDisk, MemoryStore, Starts, Store};
use jangada_types::BrokerId;

use crate::peers::{Peers, SaidCommits};

const ADDRESS: &str = "127.0.0.1:9440";

fn past(starts: &[(u64, u64)], commit: u64) -> Past {
    Past {
        commit,
        accepted_loss: 0,
        starts: starts.iter().map(|&(id, after)| Start { id, after }).collect(),
    }
}

/// What broker 2 says, in its first incarnation.
fn hello(past: Past) -> Hello {
    Hello {
        broker_id: 2,
        incarnation: 1,
        past: Some(past),
        ..Hello::default()
    }
}

fn open_store(disk: &MemoryDisk) -> MemoryStore {
    MemoryStore::open(disk, &[], Box::new(|cause| panic!("fenced: {cause}"))).unwrap()
}

fn peers(store: &Arc<dyn Store>) -> Peers {
    Peers::load(store.clone(), Starts::default()).unwrap()
}

#[test]
fn what_was_seen_outlives_the_process() {
    let disk = MemoryDisk::new();
    {
        let store: Arc<dyn Store> = Arc::new(open_store(&disk));
        let peers = peers(&store);
        peers.learn(&hello(past(&[(7, 0), (8, 40)], 90)), ADDRESS);
        peers.progressed(BrokerId::from(2), Commits { start: 8, commit: 97 });
        peers.progressed(BrokerId::from(2), Commits { start: 8, commit: 96 });
        peers.save();
    }
    let store: Arc<dyn Store> = Arc::new(open_store(&disk));
    let peers = peers(&store);
    assert_eq!(peers.addresses()[&BrokerId::from(2)], ADDRESS);
    let lost = |seen, last| Err(PutBack { seen, last, start: 8 });
    assert_eq!(peers.judge(&hello(past(&[(7, 0), (8, 40), (9, 97)], 98))), Ok(()));
    assert_eq!(peers.judge(&hello(past(&[(7, 0), (8, 40), (9, 96)], 98))), lost(97, 96));
    assert_eq!(peers.judge(&hello(past(&[(7, 0), (9, 40)], 41))), lost(97, 40));
    assert_eq!(
        peers.judge(&hello(past(&[(7, 0), (9, 40)], 4000))),
        lost(97, 40),
        "also when it has written more since than it lost"
    );
    let accepted = Past {
        accepted_loss: 97,
        ..past(&[(7, 0), (9, 98)], 99)
    };
    assert_eq!(peers.judge(&hello(accepted)), Ok(()));
    let next = Hello {
        incarnation: 2,
        ..hello(past(&[(1, 0)], 3))
    };
    assert_eq!(peers.judge(&next), Ok(()), "an empty disk under a new incarnation");
    let older_build = Hello {
        past: None,
        ..hello(Past::default())
    };
    assert_eq!(peers.judge(&older_build), Ok(()));
}

#[test]
fn only_progress_of_the_start_that_was_met_counts() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&[]));
    let peers = peers(&store);
    let broker = BrokerId::from(2);
    let far = |start| Commits {
        start,
        commit: u64::MAX,
    };
    peers.progressed(broker, far(8));
    assert_eq!(peers.judge(&hello(past(&[(8, 40)], 90))), Ok(()), "it was never met");
    peers.learn(&hello(past(&[(8, 40)], 90)), ADDRESS);
    peers.progressed(broker, far(9));
    assert_eq!(peers.judge(&hello(past(&[(8, 40)], 90))), Ok(()));
}

#[test]
fn a_connection_goes_back_only_with_the_machine_behind_it() {
    let mut said = SaidCommits::default();
    let at = |start, commit| Commits { start, commit };
    assert!(said.goes_on(at(8, 90)));
    assert!(said.goes_on(at(8, 90)));
    assert!(said.goes_on(at(8, 97)));
    assert!(!said.goes_on(at(8, 96)), "a machine that was set back while it ran");
    assert!(said.goes_on(at(9, 3)), "a new start");
}

/// What broker 3 remembers of this one.
fn put_back(start: u64, seen: u64) -> PutBack {
    PutBack { seen, last: 2, start }
}

#[tokio::test]
async fn the_highest_that_peers_say_is_what_is_missing() {
    let peers = Peers::none();
    let watched = peers.watch_put_back();
    for seen in [5, 9, 7] {
        peers.was_put_back(put_back(8, seen));
    }
    assert_eq!(*watched.borrow(), Some(put_back(8, 9)));
}

#[tokio::test]
async fn a_refusal_for_what_is_there_or_cannot_be_is_not_believed() {
    let store = MemoryStore::new(&[]);
    let starts = store.begin_start(8).unwrap();
    let peers = Peers::load(Arc::new(store), starts).unwrap();
    let own = peers.own_commits().expect("it tells of itself");
    assert_eq!(own.start, 8);
    let watched = peers.watch_put_back();
    peers.was_put_back(put_back(8, own.commit));
    peers.was_put_back(put_back(7, u64::MAX));
    assert_eq!(*watched.borrow(), None);
    peers.was_put_back(put_back(8, own.commit + 1));
    assert!(watched.borrow().is_some(), "a machine that was set back while it ran");
}

#[test]
fn one_of_three_that_were_met_cannot_say_that_this_broker_was_taken_out() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&[]));
    let peers = peers(&store);
    for broker in [2, 3, 77] {
        let met = Hello {
            broker_id: broker,
            ..hello(past(&[(8, 0)], 9))
        };
        peers.learn(&met, ADDRESS);
    }
    let removed = peers.watch_removed();
    for _ in 0..3 {
        peers.was_removed(BrokerId::from(77), "gone");
    }
    assert_eq!(*removed.borrow(), None);
    peers.was_removed(BrokerId::from(2), "gone");
    assert_eq!(removed.borrow().as_deref(), Some("gone"));
}

#[test]
fn brokers_that_left_are_not_waited_for() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&[]));
    let peers = peers(&store);
    for broker in 2..=7 {
        let met = Hello {
            broker_id: broker,
            ..hello(past(&[(8, 0)], 9))
        };
        peers.learn(&met, ADDRESS);
    }
    let removed = peers.watch_removed();
    peers.set_current([2, 3].into_iter().map(BrokerId::from));
    peers.was_removed(BrokerId::from(7), "gone");
    assert_eq!(*removed.borrow(), None, "it has left itself");
    peers.was_removed(BrokerId::from(3), "gone");
    assert_eq!(removed.borrow().as_deref(), Some("gone"));
}
