//! Whether a good client is served while others do what they like.

use std::time::{Duration, Instant};

use jangada_proto::v1::FetchRequest;

use super::{Cluster, raw};

/// A good call answers in this time, whatever others do: who does not read has 2 s when there is no room, and the machine may
/// be busy.
const GOOD_WITHIN: Duration = Duration::from_secs(4);
/// Between two rounds of calls.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes to a partition of node 1 and reads from it until `other` is done; panics when a call is refused or takes long. What
/// `other` gave, and how many rounds there were.
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
            assert!(took < GOOD_WITHIN, "a good produce and fetch took {took:?}");
            rounds += 1;
            tokio::time::sleep(PAUSE).await;
        }
    };
    let done = tokio::select! {
        () = good => unreachable!("it goes on"),
        done = other => done,
    };
    (done, rounds)
}
