//! Clusters of one, three and five nodes, and what they hold after all of their nodes died.

use crate::harness::Cluster;

/// Produces these lines; expects success.
async fn produce(cluster: &Cluster, topic: &str, lines: &str) {
    cluster
        .cli_with(&["produce", topic], lines.as_bytes().to_vec())
        .await
        .expect(0);
}

async fn consume(cluster: &Cluster, topic: &str) -> String {
    cluster.cli(&["consume", topic, "--exit-at-end"]).await.expect(0).text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_come_back_in_any_order() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic("orders", 1, 3).await;
    let mut expected = String::new();
    for (round, order) in [[3, 1, 2], [2, 3, 1]].into_iter().enumerate() {
        let line = format!("round {round}\n");
        produce(&cluster, "orders", &line).await;
        expected.push_str(&line);
        cluster.kill_all();
        for id in order {
            cluster.restart(id);
        }
        cluster.healthy().await;
        assert_eq!(consume(&cluster, "orders").await, expected);
    }
    produce(&cluster, "orders", "after\n").await;
    assert_eq!(consume(&cluster, "orders").await, expected + "after\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster() {
    let mut cluster = Cluster::start(1).await;
    cluster.create_topic("orders", 2, 1).await;
    produce(&cluster, "orders", "a\n").await;
    cluster.kill(1);
    cluster.restart(1);
    cluster.healthy().await;
    assert_eq!(consume(&cluster, "orders").await, "a\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_survive_the_death_of_two() {
    let mut cluster = Cluster::start(5).await;
    cluster.create_topic("orders", 5, 5).await;
    let brokers = cluster
        .admin()
        .await
        .describe_cluster()
        .await
        .expect("a broker answers")
        .brokers;
    let voters = brokers.iter().filter(|broker| broker.metadata_role.as_str() == "voter");
    assert_eq!(voters.count(), 5);
    assert_eq!(
        brokers.iter().map(|broker| broker.leaders).collect::<Vec<_>>(),
        [1; 5],
        "leaders are not spread"
    );
    cluster.kill(1);
    cluster.kill(4);
    let lines: String = (0..50).map(|number| format!("key {number}\t{number}\n")).collect();
    cluster
        .cli_with(&["produce", "orders", "--key-separator", "\\t"], lines.into_bytes())
        .await
        .expect(0);
    assert_eq!(consume(&cluster, "orders").await.lines().count(), 50);
    cluster.start_all();
    cluster.healthy().await;
    assert_eq!(consume(&cluster, "orders").await.lines().count(), 50);
}
