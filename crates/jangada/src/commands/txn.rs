//! `jangada txn ...`: shows transactional ids and producers, and aborts transactions.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use jangada_client::{PartitionProducer, TransactionDescription};
use serde_json::{Value, json};

use crate::brokers::Brokers;
use crate::cli::{TxnCommand, TxnListArgs};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::{Show, join, or_dash, plain_table};

pub async fn run(brokers: &Brokers, command: TxnCommand) -> Result<()> {
    if let TxnCommand::Abort { id, yes: false, .. } = &command {
        let message =
            format!("the open transaction of {id:?} would be aborted, and its producer fenced: say so with --yes");
        return Err(CliError::usage(message).hint("nothing was aborted"));
    }
    let client = connect(brokers).await?;
    let admin = client.admin();
    match command {
        TxnCommand::Ls(args) => {
            let TxnListArgs {
                older_than,
                state,
                output,
            } = args;
            let states: Vec<&str> = state.iter().map(String::as_str).collect();
            let older_than_ms = older_than.map_or(0, |duration| duration.as_millis() as u64);
            let listing = admin.list_transactions(&states, older_than_ms).await?;
            output.show(&Transactions(listing.transactions))?;
            if listing.missing_shards.is_empty() {
                return Ok(());
            }
            let shards = join(&listing.missing_shards);
            let message = format!("the listing is not whole: the coordinators of shards {shards} did not answer");
            Err(CliError::unhealthy(message).hint("`jangada cluster health` tells what is wrong with the cluster"))
        }
        TxnCommand::Describe { id, output } => {
            let found = admin.describe_transaction(&id).await?;
            let topics = admin.list_topics().await?.into_iter();
            // Topics that queues have for themselves are not among the others.
            let queues = admin.list_queues().await?.into_iter();
            let names: BTreeMap<_, _> = topics
                .map(|topic| (topic.topic_id, topic.name))
                .chain(queues.map(|queue| (queue.topic_id, queue.topic)))
                .collect();
            let partitions = found.partitions.iter().map(|(topic, partition)| {
                let topic = names.get(topic).cloned().unwrap_or_else(|| topic.to_string());
                format!("{topic}/{partition}")
            });
            output.show(&Transaction {
                partitions: partitions.collect(),
                found,
            })
        }
        TxnCommand::Abort { id, output, .. } => {
            let aborted = admin.abort_transaction(&id).await?;
            let sentence = match aborted {
                true => format!("aborted the transaction of {id}; its producer must begin anew"),
                false => format!("{id} has no open transaction"),
            };
            output.done(&sentence, json!({ "aborted": aborted }))
        }
        TxnCommand::Producers {
            partition: (topic, partition),
            output,
        } => output.show(&Producers(admin.describe_producers(&topic, partition).await?)),
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as i64
}

/// How long something lasts that began then, in whole seconds.
fn age(since_ms: Option<i64>) -> String {
    or_dash(since_ms.map(|since| format!("{} s", (now_ms() - since).max(0) / 1_000)))
}

fn last(last: Option<(i32, bool)>) -> String {
    let outcome = |(_, is_committed)| if is_committed { "committed" } else { "aborted" };
    or_dash(last.map(outcome))
}

fn json_of(transaction: &TransactionDescription) -> Value {
    json!({
        "transactional_id": transaction.transactional_id,
        "state": transaction.state,
        "producer_id": transaction.producer_id,
        "producer_epoch": transaction.producer_epoch,
        "timeout_ms": transaction.timeout_ms,
        "started_ms": transaction.started_ms,
        "last_epoch": transaction.last.map(|(epoch, _)| epoch),
        "last_committed": transaction.last.map(|(_, is_committed)| is_committed),
        "coordinator_id": transaction.coordinator_id.get(),
    })
}

/// The view of `txn ls`.
struct Transactions(Vec<TransactionDescription>);

impl Show for Transactions {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|transaction| {
            [
                transaction.transactional_id.clone(),
                transaction.state.clone(),
                age(transaction.started_ms),
                transaction.producer_id.to_string(),
                transaction.producer_epoch.to_string(),
                last(transaction.last),
                transaction.coordinator_id.to_string(),
            ]
        });
        let header = [
            "transactional_id",
            "state",
            "open_for",
            "producer_id",
            "producer_epoch",
            "last",
            "coordinator_id",
        ];
        plain_table(header, rows)
    }

    fn json(&self) -> Value {
        self.0.iter().map(json_of).collect()
    }
}

/// The view of `txn describe`.
struct Transaction {
    found: TransactionDescription,
    partitions: Vec<String>,
}

impl Show for Transaction {
    fn table(&self) -> String {
        let found = &self.found;
        let head = Transactions(vec![found.clone()]).table();
        let parts = self
            .partitions
            .iter()
            .map(|partition| ["partition".to_owned(), partition.clone()]);
        let groups = found.groups.iter().map(|group| ["group".to_owned(), group.clone()]);
        format!("{head}\n{}", plain_table(["part", "name"], parts.chain(groups)))
    }

    fn json(&self) -> Value {
        let mut json = json_of(&self.found);
        json["partitions"] = json!(self.partitions);
        json["groups"] = json!(self.found.groups);
        json
    }
}

/// The view of `txn producers`.
struct Producers(Vec<PartitionProducer>);

impl Show for Producers {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|producer| {
            [
                producer.producer_id.to_string(),
                producer.producer_epoch.to_string(),
                or_dash(producer.last_sequence),
                producer.last_append_ms.to_string(),
                or_dash(producer.transaction.map(|(first, _)| first)),
                age(producer.transaction.map(|(_, since)| since)),
            ]
        });
        let header = [
            "producer_id",
            "producer_epoch",
            "last_sequence",
            "last_append_ms",
            "transaction_first_offset",
            "open_for",
        ];
        plain_table(header, rows)
    }

    fn json(&self) -> Value {
        let producer = |producer: &PartitionProducer| {
            json!({
                "producer_id": producer.producer_id,
                "producer_epoch": producer.producer_epoch,
                "last_sequence": producer.last_sequence,
                "last_append_ms": producer.last_append_ms,
                "transaction_first_offset": producer.transaction.map(|(first, _)| first),
                "transaction_since_ms": producer.transaction.map(|(_, since)| since),
            })
        };
        self.0.iter().map(producer).collect()
    }
}
