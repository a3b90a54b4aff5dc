//! Tables and JSON of groups. Field names are those of `/proto`.

use jangada_client::{Assignor, GroupDescription, GroupMember, GroupSummary, TopicPartition};
use serde_json::{Value, json};

use crate::output::{Show, join, plain_table, some_text};

/// The view of `group ls`.
pub struct Groups(pub Vec<GroupSummary>);

impl Show for Groups {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|group| {
            [
                group.group.clone(),
                group.state.clone(),
                group.members.to_string(),
                group.coordinator_id.to_string(),
                group.epoch.to_string(),
            ]
        });
        plain_table(["group", "state", "members", "coordinator_id", "epoch"], rows)
    }

    fn json(&self) -> Value {
        let group = |group: &GroupSummary| {
            json!({
                "group": group.group,
                "state": group.state,
                "members": group.members,
                "coordinator_id": group.coordinator_id.get(),
                "epoch": group.epoch,
            })
        };
        self.0.iter().map(group).collect()
    }
}

/// The view of `group describe`.
pub struct Group(pub GroupDescription);

impl Show for Group {
    fn table(&self) -> String {
        let group = &self.0;
        let head = plain_table(
            ["group", "state", "coordinator_id", "epoch", "assignment_epoch"],
            [[
                group.group.clone(),
                group.state.clone(),
                group.coordinator_id.to_string(),
                group.epoch.to_string(),
                group.assignment_epoch.to_string(),
            ]],
        );
        let members = group.members.iter().map(|member| {
            let dash = |text: &str| {
                if text.is_empty() {
                    "-".to_owned()
                } else {
                    text.to_owned()
                }
            };
            [
                member.member_id.clone(),
                dash(member.instance_id.as_deref().unwrap_or_default()),
                member.client_id.clone(),
                dash(&member.client_host),
                member.state.clone(),
                member.epoch.to_string(),
                dash(&partitions(member.owned.iter().map(|owned| &owned.partition))),
                dash(&partitions(&member.target)),
            ]
        });
        let header = [
            "member_id",
            "instance_id",
            "client_id",
            "client_host",
            "state",
            "epoch",
            "owned",
            "target",
        ];
        format!("{head}\n{}", plain_table(header, members))
    }

    fn json(&self) -> Value {
        let group = &self.0;
        json!({
            "group": group.group,
            "state": group.state,
            "coordinator_id": group.coordinator_id.get(),
            "epoch": group.epoch,
            "assignment_epoch": group.assignment_epoch,
            "members": group.members.iter().map(member_json).collect::<Value>(),
        })
    }
}

/// Partitions of topics, short: `orders[0,3] refunds[1]`.
fn partitions<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> String {
    let mut by_topic: Vec<(&str, Vec<u32>)> = Vec::new();
    for partition in partitions {
        match by_topic.last_mut() {
            Some((topic, indexes)) if *topic == &*partition.topic => indexes.push(partition.partition),
            _ => by_topic.push((&partition.topic, vec![partition.partition])),
        }
    }
    let texts: Vec<_> = by_topic
        .iter()
        .map(|(topic, indexes)| format!("{topic}[{}]", join(indexes)))
        .collect();
    texts.join(" ")
}

fn partition_json(partition: &TopicPartition) -> Value {
    json!({
        "topic": *partition.topic,
        "topic_id": partition.topic_id.to_string(),
        "partition": partition.partition,
    })
}

fn member_json(member: &GroupMember) -> Value {
    let owned = member.owned.iter().map(|owned| {
        json!({
            "partition": partition_json(&owned.partition),
            "since_epoch": owned.since_epoch,
            "revoking": owned.revoking,
        })
    });
    let assignor = match member.assignor {
        Assignor::Any => None,
        Assignor::Uniform => Some("ASSIGNOR_UNIFORM"),
        Assignor::Range => Some("ASSIGNOR_RANGE"),
    };
    json!({
        "member_id": member.member_id,
        "instance_id": member.instance_id,
        "client_id": member.client_id,
        "client_host": some_text(&member.client_host),
        "rack": some_text(&member.rack),
        "state": member.state,
        "epoch": member.epoch,
        "subscription": { "topics": member.topics, "pattern": member.pattern },
        "owned": owned.collect::<Value>(),
        "target": member.target.iter().map(partition_json).collect::<Value>(),
        "session_timeout_ms": member.session_timeout_ms,
        "rebalance_timeout_ms": member.rebalance_timeout_ms,
        "assignor": assignor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jangada_client::TopicId;

    #[test]
    fn partitions_are_short() {
        let partition = |topic: &str, partition| TopicPartition {
            topic: topic.into(),
            topic_id: TopicId([1; 16]),
            partition,
        };
        let all = [partition("a", 0), partition("a", 3), partition("b", 1)];
        assert_eq!(partitions(&all), "a[0,3] b[1]");
        assert_eq!(partitions([]), "");
    }
}
