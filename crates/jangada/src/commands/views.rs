//! Tables and JSON of topics, partitions and the cluster. Field names are those of `/proto`; values that are not known
//! are null in JSON, and `-` in a table.

use jangada_client::{
    BrokerId, BrokerState, ClusterDescription, ConfigEntry, DamagedReplica, MetadataRole, PartitionState,
    TopicDescription, TopicSummary, WriteRefusal,
};
use jangada_types::Quantity;
use jangada_types::units::annotated;
use serde_json::{Value, json};

use crate::output::{Show, join, or_dash, plain_table, some_text};

/// The view of `topic ls`.
pub struct Topics(pub Vec<TopicSummary>);

impl Show for Topics {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|topic| {
            [
                topic.name.to_string(),
                topic.partitions.to_string(),
                topic.replicas.to_string(),
                topic.topic_id.to_string(),
            ]
        });
        plain_table(["name", "partitions", "replicas", "topic_id"], rows)
    }

    fn json(&self) -> Value {
        let topic = |topic: &TopicSummary| {
            json!({
                "name": topic.name.to_string(),
                "topic_id": topic.topic_id.to_string(),
                "partitions": topic.partitions,
                "replicas": topic.replicas,
            })
        };
        self.0.iter().map(topic).collect()
    }
}

/// The view of `topic describe`.
pub struct Topic(pub TopicDescription);

impl Show for Topic {
    fn table(&self) -> String {
        let topic = &self.0;
        let head = plain_table(
            ["name", "partitions", "replicas", "topic_id"],
            [[
                topic.name.to_string(),
                topic.partitions.len().to_string(),
                topic.replicas.to_string(),
                topic.topic_id.to_string(),
            ]],
        );
        let settings = settings_table(&topic.config);
        format!("{head}\n{settings}\n{}", partitions_table(&topic.partitions))
    }

    fn json(&self) -> Value {
        let topic = &self.0;
        json!({
            "name": topic.name.to_string(),
            "topic_id": topic.topic_id.to_string(),
            "replicas": topic.replicas,
            "config": settings_json(&topic.config),
            "partitions": partitions_json(&topic.partitions),
        })
    }
}

/// Settings with what is in effect.
pub fn settings_table(config: &[ConfigEntry]) -> String {
    let rows = config.iter().map(|entry| {
        let set = if entry.is_set { "set" } else { "default" };
        [
            entry.key.clone(),
            with_unit(&entry.key, &entry.value),
            set.to_owned(),
            with_unit(&entry.key, &entry.default_value),
            entry.documentation.clone(),
        ]
    });
    plain_table(["setting", "value", "source", "default", "meaning"], rows)
}

/// Settings with what is in effect, as JSON.
pub fn settings_json(config: &[ConfigEntry]) -> Value {
    let entry = |entry: &ConfigEntry| {
        json!({
            "key": entry.key,
            "value": entry.value,
            "is_set": entry.is_set,
            "default_value": entry.default_value,
            "documentation": entry.documentation,
        })
    };
    config.iter().map(entry).collect()
}

/// A setting's value, with its unit in brackets if it is a time or a size.
fn with_unit(key: &str, value: &str) -> String {
    match value.parse() {
        Ok(number) => annotated(Quantity::of_key(key), number),
        Err(_) => value.to_owned(),
    }
}

/// The view of `partition ls`.
pub struct Partitions(pub Vec<PartitionState>);

impl Show for Partitions {
    fn table(&self) -> String {
        partitions_table(&self.0)
    }

    fn json(&self) -> Value {
        partitions_json(&self.0)
    }
}

fn partitions_table(partitions: &[PartitionState]) -> String {
    let rows = partitions.iter().map(|partition| {
        [
            partition.topic.to_string(),
            partition.partition.to_string(),
            or_dash(partition.leader_id),
            or_dash(partition.leader_epoch),
            join(&partition.replicas),
            in_sync(partition).map_or_else(|| "-".to_owned(), join),
            or_dash(partition.log_start_offset),
            or_dash(partition.high_watermark),
            or_dash(partition.size_bytes),
        ]
    });
    let header = [
        "topic",
        "partition",
        "leader_id",
        "leader_epoch",
        "replicas",
        "in_sync",
        "log_start_offset",
        "high_watermark",
        "size_bytes",
    ];
    plain_table(header, rows)
}

fn partitions_json(partitions: &[PartitionState]) -> Value {
    let partition = |partition: &PartitionState| {
        json!({
            "topic": partition.topic.to_string(),
            "topic_id": partition.topic_id.to_string(),
            "partition": partition.partition,
            "leader_id": partition.leader_id.map(|id| id.get()),
            "leader_epoch": partition.leader_epoch,
            "replicas": partition.replicas.iter().map(|id| id.get()).collect::<Vec<_>>(),
            "in_sync": in_sync(partition).map(|all| all.iter().map(|id| id.get()).collect::<Vec<_>>()),
            "high_watermark": partition.high_watermark,
            "log_start_offset": partition.log_start_offset,
            "size_bytes": partition.size_bytes,
            "write_refusal": partition.write_refusal.as_ref().map(refusal_json),
        })
    };
    partitions.iter().map(partition).collect()
}

/// The replicas in sync, known only by the leader, if there is one to ask.
fn in_sync(partition: &PartitionState) -> Option<&[BrokerId]> {
    partition.high_watermark.map(|_| &partition.in_sync[..])
}

fn refusal_json(refusal: &WriteRefusal) -> Value {
    json!({ "reason": refusal.reason, "message": refusal.message, "partitions": refusal.partitions })
}

/// The view of `cluster info`.
pub struct Cluster(pub ClusterDescription);

impl Show for Cluster {
    fn table(&self) -> String {
        let cluster = &self.0;
        let counts = [[
            cluster.cluster_id.to_string(),
            or_dash(cluster.controller_id),
            cluster.topics.to_string(),
            cluster.partitions.to_string(),
            cluster.leaderless_partitions.to_string(),
            cluster.under_replicated_partitions.to_string(),
        ]];
        let header = [
            "cluster_id",
            "controller_id",
            "topics",
            "partitions",
            "leaderless_partitions",
            "under_replicated_partitions",
        ];
        format!("{}\n{}", plain_table(header, counts), brokers_table(&cluster.brokers))
    }

    fn json(&self) -> Value {
        let cluster = &self.0;
        json!({
            "cluster_id": cluster.cluster_id.to_string(),
            "version": cluster.version,
            "controller_id": cluster.controller_id.map(|id| id.get()),
            "brokers": cluster.brokers.iter().map(broker_json).collect::<Value>(),
            "topics": cluster.topics,
            "partitions": cluster.partitions,
            "leaderless_partitions": cluster.leaderless_partitions,
            "under_replicated_partitions": cluster.under_replicated_partitions,
            "write_refusals": cluster.write_refusals.iter().map(refusal_json).collect::<Value>(),
            "damaged_replicas": cluster.damaged_replicas.iter().map(damaged_json).collect::<Value>(),
            "damaged_stores": cluster
                .damaged_stores
                .iter()
                .map(|(broker, damage)| json!({ "broker_id": broker.get(), "damage": damage }))
                .collect::<Value>(),
        })
    }
}

fn damaged_json(replica: &DamagedReplica) -> Value {
    json!({
        "topic": replica.topic,
        "partition": replica.partition,
        "broker_id": replica.broker_id.get(),
        "damage": replica.damage,
        "state": replica.state,
        "detail": replica.detail,
    })
}

fn brokers_table(brokers: &[BrokerState]) -> String {
    let rows = brokers.iter().map(|broker| {
        [
            broker.broker_id.to_string(),
            broker.address.to_string(),
            broker.internal_address.to_string(),
            if broker.rack.is_empty() {
                "-".to_owned()
            } else {
                broker.rack.to_string()
            },
            broker.alive.to_string(),
            role(broker).to_owned(),
            broker.leaders.to_string(),
            broker.replicas.to_string(),
            broker.incarnation.to_string(),
        ]
    });
    let header = [
        "broker_id",
        "address",
        "internal_address",
        "rack",
        "alive",
        "metadata_role",
        "leaders",
        "replicas",
        "incarnation",
    ];
    plain_table(header, rows)
}

fn broker_json(broker: &BrokerState) -> Value {
    json!({
        "broker_id": broker.broker_id.get(),
        "address": broker.address.to_string(),
        "internal_address": broker.internal_address.to_string(),
        "rack": some_text(&broker.rack),
        "alive": broker.alive,
        "metadata_role": role(broker),
        "leaders": broker.leaders,
        "replicas": broker.replicas,
        "incarnation": broker.incarnation.get(),
        // A broker that does not answer may have reported this before.
        "disk_low": (broker.alive || broker.disk_low).then_some(broker.disk_low),
    })
}

fn role(broker: &BrokerState) -> &'static str {
    match broker.metadata_role {
        MetadataRole::Voter => "voter",
        MetadataRole::Learner => "learner",
        MetadataRole::None => "none",
    }
}
