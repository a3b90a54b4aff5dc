//! `jangada cluster ...`: shows the cluster, and replaces or removes brokers.

use std::time::{Duration, Instant};

use jangada_client::{BrokerId, ClusterDescription, DamagedReplica};
use serde_json::{Value, json};

use super::views::Cluster;
use crate::brokers::Brokers;
use crate::cli::{ClusterCommand, HealthArgs, RemoveArgs, ReplaceArgs};
use crate::connect::{connect, connect_silently, connect_within};
use crate::errors::{CliError, Result};
use crate::exit::Exit;
use crate::note::note;
use crate::output::{Show, plain_table};
use crate::progress;

/// Interval between two polls while waiting for health. Health is made of every leader's view of its followers: there
/// is no one thing to watch.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Delay before a user without a spinner is told what is waited for; below, the interval between two such lines.
const NOTICE_DELAY: Duration = Duration::from_secs(1);
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Timeout of one poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn run(brokers: &Brokers, command: ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Health(args) => health(brokers, &args).await,
        ClusterCommand::Info { output } => {
            output.show(&Cluster(connect(brokers).await?.admin().describe_cluster().await?))
        }
        ClusterCommand::ReplaceBroker(args) => replace(brokers, &args).await,
        ClusterCommand::RemoveBroker(args) => remove(brokers, &args).await,
    }
}

async fn replace(brokers: &Brokers, args: &ReplaceArgs) -> Result<()> {
    if !args.yes {
        let message = format!(
            "broker {} would lose its replicas for good: say so with --yes",
            args.broker
        );
        return Err(CliError::usage(message).hint("only for a broker whose disk is lost; nothing was changed"));
    }
    let incarnation = connect(brokers)
        .await?
        .admin()
        .replace_broker(BrokerId::from(args.broker))
        .await?;
    let sentence = format!(
        "broker {} may come back with an empty data directory, as incarnation {incarnation}",
        args.broker
    );
    args.output.done(&sentence, json!({ "incarnation": incarnation.get() }))
}

async fn remove(brokers: &Brokers, args: &RemoveArgs) -> Result<()> {
    let broker = args.broker;
    if !args.yes {
        let message = format!("broker {broker} would not be let into the cluster any more: say so with --yes");
        return Err(
            CliError::usage(message).hint("only a broker without replicas can be taken out; nothing was changed")
        );
    }
    connect(brokers)
        .await?
        .admin()
        .remove_broker(BrokerId::from(broker))
        .await?;
    let sentence = format!("broker {broker} is taken out; it may join anew with an empty data directory");
    args.output.done(&sentence, json!({ "broker_id": broker }))
}

/// The problems of a cluster, as sentences; none if it is healthy.
pub fn problems(cluster: &ClusterDescription) -> Vec<String> {
    let mut problems = Vec::new();
    if cluster.controller_id.is_none() {
        problems.push("the metadata group has no leader".to_owned());
    }
    for broker in cluster.brokers.iter().filter(|broker| !broker.alive) {
        problems.push(format!(
            "broker {} at {} does not answer",
            broker.broker_id, broker.address
        ));
    }
    if cluster.leaderless_partitions > 0 {
        problems.push(format!(
            "{} of {} partitions have no leader",
            cluster.leaderless_partitions, cluster.partitions
        ));
    }
    if cluster.under_replicated_partitions > 0 {
        let message = format!(
            "{} of {} partitions have a replica that is not in sync",
            cluster.under_replicated_partitions, cluster.partitions
        );
        problems.push(message);
    }
    for broker in cluster.brokers.iter().filter(|broker| broker.disk_low) {
        problems.push(format!(
            "the disk of broker {} is down to its reserve",
            broker.broker_id
        ));
    }
    for refusal in &cluster.write_refusals {
        problems.push(format!(
            "{} of {} partitions refuse records, {}: {}",
            refusal.partitions, cluster.partitions, refusal.reason, refusal.message
        ));
    }
    problems.extend(cluster.damaged_replicas.iter().map(damaged));
    problems.extend(cluster.damaged_stores.iter().map(|(broker, damage)| {
        format!(
            "broker {broker} has a damaged file, and gives no space back until it is replaced (`jangada cluster \
             replace-broker {broker}`): {damage}"
        )
    }));
    problems
}

fn damaged(replica: &DamagedReplica) -> String {
    let partition = match replica.topic.as_str() {
        "" => "the metadata".to_owned(),
        topic => format!("{topic}-{}", replica.partition),
    };
    format!(
        "the replica of {partition} on broker {} is {} ({})",
        replica.broker_id, replica.detail, replica.damage
    )
}

/// The verdict, and the reasons for it.
struct Health {
    cluster: ClusterDescription,
    problems: Vec<String>,
}

impl Show for Health {
    fn table(&self) -> String {
        if self.problems.is_empty() {
            return plain_table(["health"], [["healthy".to_owned()]]);
        }
        plain_table(
            ["health", "problem"],
            self.problems
                .iter()
                .map(|problem| ["unhealthy".to_owned(), problem.clone()]),
        )
    }

    fn json(&self) -> Value {
        let mut json = Cluster(self.cluster.clone()).json();
        json["healthy"] = json!(self.problems.is_empty());
        json["problems"] = json!(self.problems);
        json
    }
}

async fn health(brokers: &Brokers, args: &HealthArgs) -> Result<()> {
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    let spinner = progress::waiting("waiting for the cluster");
    let mut tell_at = Instant::now() + NOTICE_DELAY;
    let last = loop {
        let looked = poll_health(brokers, args.wait.is_some()).await;
        let healthy = looked.as_ref().is_ok_and(|health| health.problems.is_empty());
        // Waiting does not correct a wrong argument.
        let is_usage = looked.as_ref().is_err_and(CliError::is_usage);
        if healthy || is_usage || Instant::now() >= deadline {
            break looked;
        }
        let waits_for = match &looked {
            Ok(health) => health.problems.join("; "),
            Err(error) => error.to_string(),
        };
        spinner.set_message(waits_for.clone());
        if spinner.is_hidden() && Instant::now() >= tell_at {
            tell_at = Instant::now() + NOTICE_INTERVAL;
            note(&format!("waiting: {waits_for}"));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    spinner.finish_and_clear();
    // A cluster that cannot be reached counts as unhealthy.
    let health = last.map_err(|error| match error.is_usage() {
        true => error,
        false => error.with_exit(Exit::Unhealthy),
    })?;
    args.output.show(&health)?;
    if health.problems.is_empty() {
        return Ok(());
    }
    let hint = "`jangada cluster info` and `jangada partition ls` show where; a broker's log tells why";
    Err(CliError::unhealthy(format!("the cluster is unhealthy: {}", health.problems.join("; "))).hint(hint))
}

async fn poll_health(brokers: &Brokers, is_repeated: bool) -> Result<Health> {
    let client = match is_repeated {
        true => connect_silently(brokers, POLL_TIMEOUT).await?,
        false => connect_within(brokers, POLL_TIMEOUT).await?,
    };
    let cluster = client.admin().describe_cluster().await?;
    Ok(Health {
        problems: problems(&cluster),
        cluster,
    })
}
