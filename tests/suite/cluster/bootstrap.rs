//! Seeds die while the cluster forms: there is never more than one cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use jangada_client::{Client, ClientConfig};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::{Cluster, Options};

const ROUNDS: u64 = 6;

/// About the time that forming takes.
const FORMING: Duration = Duration::from_millis(1_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_that_die_while_forming_never_make_two_clusters() {
    for round in 0..ROUNDS {
        println!("round {round}");
        let mut random = StdRng::seed_from_u64(round);
        let mut cluster = Cluster::start_with(
            3,
            Options {
                stopped: true,
                ..Options::default()
            },
        )
        .await;
        cluster.start_all();
        // Each moment kills one; the first seed, which forms, in every round.
        let mut moments: Vec<(Duration, u32)> = [1, random.random_range(1..=3)]
            .map(|id| (FORMING.mul_f64(random.random_range(0.0..1.0)), id))
            .into();
        moments.sort_unstable();
        let mut passed = Duration::ZERO;
        for (at, id) in moments {
            // A random moment is what is tested.
            tokio::time::sleep(at - passed).await;
            passed = at;
            cluster.kill(id);
            cluster.restart(id);
        }
        cluster.healthy().await;

        let mut clusters = BTreeSet::new();
        for broker in cluster.brokers() {
            let client = Client::connect(ClientConfig::new([broker])).await.expect("it is ready");
            clusters.insert(client.cluster_id());
        }
        assert_eq!(clusters.len(), 1, "{clusters:?}");
        cluster.create_topic("orders", 3, 3).await;
        cluster
            .cli_with(&["produce", "orders"], b"a\n".to_vec())
            .await
            .expect(0);
    }
}
