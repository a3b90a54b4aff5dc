//! What is remembered of peers, and what is made of it.

use std::sync::Arc;

use jangada_proto::internal::{Commits, Hello, Past, PutBack, Start};
use jangada_storage::{RocksStore, Starts, Store, StoreOptions};
use jangada_types::BrokerId;

use crate::peers::Peers;

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

fn open_store(directory: &std::path::Path) -> Arc<dyn Store> {
    let mut options = StoreOptions::new(directory);
    options.disk_reserve_bytes = 0;
    let (store, _) = RocksStore::open(options, Box::new(|cause| panic!("fenced: {cause}"))).unwrap();
    Arc::new(store)
}

fn peers(store: &Arc<dyn Store>) -> Peers {
    Peers::load(store.clone(), Starts::default()).unwrap()
}

#[test]
fn what_was_seen_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = open_store(directory.path());
        let peers = peers(&store);
        peers.learn(&hello(past(&[(7, 0), (8, 40)], 90)), ADDRESS);
        assert!(peers.progressed(BrokerId::from(2), Commits { start: 8, commit: 97 }));
        peers.save();
    }
    let store = open_store(directory.path());
    let peers = peers(&store);
    assert_eq!(peers.addresses()[&BrokerId::from(2)], ADDRESS);
    let lost = |seen, last| Err(PutBack { seen, last });
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
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(directory.path());
    let peers = peers(&store);
    let broker = BrokerId::from(2);
    assert!(
        peers.progressed(
            broker,
            Commits {
                start: 8,
                commit: u64::MAX
            }
        ),
        "it was never met"
    );
    peers.learn(&hello(past(&[(8, 40)], 90)), ADDRESS);
    assert!(peers.progressed(
        broker,
        Commits {
            start: 9,
            commit: u64::MAX
        }
    ));
    assert_eq!(peers.judge(&hello(past(&[(8, 40)], 90))), Ok(()));
    assert!(
        !peers.progressed(broker, Commits { start: 8, commit: 89 }),
        "a machine that was set back while it ran"
    );
}

#[tokio::test]
async fn the_highest_that_peers_say_is_what_is_missing() {
    let peers = Peers::none();
    let watched = peers.watch_put_back();
    peers.was_put_back(PutBack { seen: 5, last: 2 });
    peers.was_put_back(PutBack { seen: 9, last: 2 });
    peers.was_put_back(PutBack { seen: 7, last: 3 });
    assert_eq!(*watched.borrow(), Some(PutBack { seen: 9, last: 2 }));
}
