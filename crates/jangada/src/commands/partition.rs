//! `jangada partition ...`: lists partitions and moves their leaders.

use jangada_client::{Admin, BrokerId};
use serde_json::json;

use super::views::Partitions;
use crate::brokers::Brokers;
use crate::cli::{PartitionCommand, TransferArgs};
use crate::connect::connect;
use crate::errors::Result;

pub async fn run(brokers: &Brokers, command: PartitionCommand) -> Result<()> {
    let admin = connect(brokers).await?.admin();
    match command {
        PartitionCommand::Ls { topic, output } => {
            output.show(&Partitions(admin.describe_partitions(topic.as_deref()).await?))
        }
        PartitionCommand::TransferLeader(args) => transfer(&admin, args).await,
    }
}

async fn transfer(admin: &Admin, args: TransferArgs) -> Result<()> {
    let leader = admin
        .transfer_leader(&args.topic, args.partition, BrokerId::from(args.to))
        .await?;
    let sentence = format!(
        "broker {} leads {}[{}] in epoch {}",
        leader.id, args.topic, args.partition, leader.epoch
    );
    args.output.done(
        &sentence,
        json!({ "leader_id": leader.id.get(), "leader_epoch": leader.epoch }),
    )
}
