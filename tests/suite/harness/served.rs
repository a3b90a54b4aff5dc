//! Checks that a good client is served whatever other clients do.

use std::time::{Duration, Instant};

use jangada_proto::v1::FetchRequest;

use super::{Cluster, raw};

/// Bound of a good call, whatever others do: a stalled stream may hold room for 2 s, and the machine may be busy.
const GOOD_CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Interval between two rounds of calls.
const ROUND_INTERVAL: Duration = Duration::from_millis(20);

/// Writes to a partition of node 1 and reads from it until `other` is done; panics when a call is refused or takes
/// long. Returns the result of `other`, and the number of rounds.
pub async fn served_during<T>(cluster: &Cluster, topic: &str, other: impl Future<Output = T>) -> (T, usize) {
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let mut rounds = 0;
    let good = async {
        loop {
            let began = Instant::now();
            let batch = raw::batch(None, &[b"good"]);
            raw::produce(&mut log, raw::partition(topic, 0), batch)
                .await
                .expect("a good batch is taken");
            let request = FetchRequest {
                partition: Some(raw::partition(topic, 0)),
                ..FetchRequest::default()
            };
            log.fetch(request).await.expect("a good fetch is answered");
            let took = began.elapsed();
            assert!(took < GOOD_CALL_TIMEOUT, "a good produce and fetch took {took:?}");
            rounds += 1;
            tokio::time::sleep(ROUND_INTERVAL).await;
        }
    };
    let done = tokio::select! {
        () = good => unreachable!("it goes on"),
        done = other => done,
    };
    (done, rounds)
}
