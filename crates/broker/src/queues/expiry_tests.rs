//! A queue that nobody uses, at the desk that leads its only partition: a real group of one replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jangada_queue::SessionId;
use jangada_queue::engine::Policy;
use jangada_types::{ProducerId, QueueId, Reason};

use super::tests::{LONG_MS, QUEUE, START_MS, batch, lead_with, send, send_with, spec};
use super::*;
use crate::error::RequestError;
use crate::partition::testing::{Broker, Options, TIMEOUT};

const EXPIRES_MS: u64 = 300;

/// A broker that is told of unused queues, and deletes none.
#[derive(Default)]
struct Told(AtomicU64);

impl Told {
    async fn times(&self, times: u64) {
        let told = async {
            while self.0.load(Ordering::SeqCst) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, told)
            .await
            .expect("nobody uses the queue");
    }
}

impl BeyondDesk for Told {
    fn new_producer(&self) -> BoxFuture<'_, Result<ProducerId, RequestError>> {
        async { unreachable!("no letter goes elsewhere") }.boxed()
    }

    fn target(&self, _wanted: TargetWanted<'_>) -> Result<DeadLetterTarget, RequestError> {
        unreachable!("no letter goes elsewhere")
    }

    fn append<'a>(&'a self, _to: &'a DeadLetterTarget, _batch: Bytes) -> BoxFuture<'a, Result<(), RequestError>> {
        async { unreachable!("no letter goes elsewhere") }.boxed()
    }

    fn expire(&self, queue: QueueId, expires_ms: u64) -> BoxFuture<'_, bool> {
        assert_eq!((queue, expires_ms), (QUEUE, EXPIRES_MS));
        self.0.fetch_add(1, Ordering::SeqCst);
        async { true }.boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desk_says_that_nobody_uses_a_queue_and_holds_it_while_it_is_deleted() {
    let broker = Broker::start(Options::default());
    broker.set_clock(START_MS);
    let told = Arc::new(Told::default());
    assert!(broker.shared.beyond_desks.set(told.clone()).is_ok(), "it is set once");
    let policy = Policy {
        unused_max_ms: Some(EXPIRES_MS),
        ..Policy::default()
    };
    let (partition, desk) = lead_with(&broker, spec(policy)).await;
    let stream = desk.attach(QUEUE, SessionId(5), LONG_MS, Vec::new()).expect("it leads");
    tokio::time::sleep(Duration::from_millis(2 * EXPIRES_MS)).await;
    assert_eq!(told.0.load(Ordering::SeqCst), 0, "it has a consumer");
    stream.detach(true);
    told.times(1).await;
    assert!(desk.step_to_expiry(QUEUE, ExpiryStep::Look));
    // Somebody sends to it.
    send(&partition, 1).await;
    assert!(!desk.step_to_expiry(QUEUE, ExpiryStep::Look));
    told.times(2).await;
    assert!(desk.step_to_expiry(QUEUE, ExpiryStep::Hold));
    let refused = desk.attach(QUEUE, SessionId(6), LONG_MS, Vec::new()).map(drop);
    let refused = refused.expect_err("it is about to be deleted");
    assert_eq!(refused.reason, Reason::NotReady);
    assert!(
        refused.retry_delay.is_some() && refused.message.contains("queue.expires.ms"),
        "{refused}"
    );
    let refused = send_with(&partition, batch(1, 10), None)
        .await
        .expect_err("it is about to be deleted");
    assert_eq!(refused.reason, Reason::NotReady);
    assert!(
        desk.step_to_expiry(QUEUE, ExpiryStep::Hold),
        "what was refused is no use"
    );
    desk.step_to_expiry(QUEUE, ExpiryStep::Release);
    send(&partition, 1).await;
    assert!(!desk.step_to_expiry(QUEUE, ExpiryStep::Look));
    broker.stop().await;
}
