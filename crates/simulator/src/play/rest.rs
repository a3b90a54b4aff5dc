//! When faults are over: the cluster comes to rest within a bound, and holds nothing once its clients are gone.

use std::time::Duration;

use jangada_client::ClusterDescription;
use jangada_env::Network;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::play::cluster::Cluster;
use crate::play::faults::Nemesis;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Brokers may hold something for clients that are gone for so long: until they notice, and what they answered runs out.
const RELEASED_MAX: Duration = Duration::from_secs(30);
/// A broker whose data was damaged has so long to mend itself. Then an operator replaces it.
const REPAIR_MAX: Duration = Duration::from_secs(40);
/// Series of `/metrics` that are zero when nobody is connected.
const HELD: [&str; 4] = [
    "jangada_admission_held_bytes{",
    "jangada_streams ",
    "jangada_calls ",
    "jangada_store_queue_bytes ",
];
/// The port of `/metrics`.
const PROBES_PORT: u16 = 9480;

/// What keeps a cluster from being at rest, if anything does.
fn unrest(cluster: &ClusterDescription, brokers: u32) -> Option<String> {
    let dead: Vec<u32> = cluster
        .brokers
        .iter()
        .filter(|broker| !broker.alive)
        .map(|broker| broker.broker_id.get())
        .collect();
    if !dead.is_empty() {
        return Some(format!("brokers {dead:?} are not alive"));
    }
    if cluster.brokers.len() != brokers as usize {
        return Some(format!("{} of {brokers} brokers have joined", cluster.brokers.len()));
    }
    if cluster.controller_id.is_none() {
        return Some("no broker leads the metadata".to_owned());
    }
    let no_role = |broker: &&jangada_client::BrokerState| broker.metadata_role != jangada_client::MetadataRole::Voter;
    if let Some(broker) = cluster.brokers.iter().find(no_role) {
        return Some(format!("broker {} is no voter of the metadata", broker.broker_id));
    }
    if cluster.leaderless_partitions > 0 {
        return Some(format!("{} partitions have no leader", cluster.leaderless_partitions));
    }
    if cluster.under_replicated_partitions > 0 {
        return Some(format!(
            "{} partitions lack a replica",
            cluster.under_replicated_partitions
        ));
    }
    if let Some(refusal) = cluster.write_refusals.first() {
        return Some(format!("records are refused: {}", refusal.message));
    }
    cluster.damaged_replicas.first().map(|replica| {
        format!(
            "a replica of {:?}[{}] on broker {} is {}: {} ({})",
            replica.topic, replica.partition, replica.broker_id, replica.state, replica.damage, replica.detail
        )
    })
}

/// Waits until all brokers are alive and all partitions have their leaders and replicas.
///
/// # Errors
/// They are not within this time; says what is missing.
pub(crate) async fn comes_to_rest(nemesis: &Nemesis, within: Duration) -> Result<(), String> {
    let stage = &nemesis.stage;
    let brokers = stage.cluster.brokers();
    let began = stage.sim.now();
    let mut missing = String::new();
    loop {
        match nemesis.admin(async |admin| admin.describe_cluster().await).await {
            Ok(cluster) => match unrest(&cluster, brokers) {
                None => return Ok(()),
                Some(why) => {
                    missing = why;
                    let waited = stage.sim.now() - began;
                    // Two brokers are replaced at most; each is well at once.
                    if waited > REPAIR_MAX
                        && let Some(damaged) = cluster.damaged_replicas.first()
                        && nemesis.was_damaged(damaged.broker_id.get())
                    {
                        nemesis.replace(damaged.broker_id.get()).await?;
                    }
                }
            },
            Err(why) if missing.is_empty() => missing = why,
            Err(_) => {}
        }
        if stage.sim.now() - began > within {
            return Err(format!("the cluster is not at rest after {within:?}: {missing}"));
        }
        sleep(LOOK).await;
    }
}

/// Waits until no broker holds anything for clients, who are all gone.
///
/// # Errors
/// A broker holds something after a bound, or cannot be asked.
pub(crate) async fn releases_all(cluster: &Cluster) -> Result<(), String> {
    for broker in cluster.ids() {
        let mut held = vec!["its metrics were not read".to_owned()];
        let released = timeout(RELEASED_MAX, async {
            while !held.is_empty() {
                match metrics(cluster, broker).await {
                    Ok(text) => held = still_held(&text),
                    Err(error) => held = vec![error],
                }
                sleep(LOOK).await;
            }
        });
        if released.await.is_err() {
            let held = held.join(", ");
            return Err(format!(
                "broker {broker} still holds something {RELEASED_MAX:?} after all clients are gone: {held}"
            ));
        }
    }
    Ok(())
}

/// The series of what is held that are not zero.
fn still_held(metrics: &str) -> Vec<String> {
    let held = |line: &&str| {
        HELD.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0") && !line.ends_with(" 0.0")
    };
    metrics.lines().filter(held).map(str::to_owned).collect()
}

/// What a broker answers at `/metrics`.
async fn metrics(cluster: &Cluster, broker: u32) -> Result<String, String> {
    let Network::Simulated(network) = cluster.client_host("nemesis").env().network else {
        return Err("the host has no network in memory".to_owned());
    };
    let asked = timeout(Duration::from_secs(2), async {
        let mut pipe = network.connect(cluster.host(broker).at(PROBES_PORT)).await?;
        pipe.write_all(b"GET /metrics HTTP/1.1\r\nhost: broker\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        pipe.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    });
    match asked.await {
        Ok(Ok(text)) if text.contains("jangada_") => Ok(text),
        Ok(Ok(text)) => Err(format!("its metrics cannot be read: {:.80}", text)),
        Ok(Err(error)) => Err(format!("its metrics cannot be read: {error}")),
        Err(_) => Err("its metrics do not come".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_held_is_told() {
        let text = "jangada_streams 0\njangada_streams_max 100\njangada_calls 2\njangada_admission_held_bytes{resource=\"answers\"} 0\n";
        assert_eq!(still_held(text), ["jangada_calls 2"]);
    }
}
