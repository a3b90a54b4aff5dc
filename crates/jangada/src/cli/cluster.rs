//! `cluster` and `partition`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse::wait;
use crate::complete::topics;
use crate::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Tell whether every broker is alive and every partition has a leader and all its replicas; ends with 3 if not
    Health(HealthArgs),

    /// Show the brokers
    Info {
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Let a broker that lost its disk come back empty under its id
    ReplaceBroker(ReplaceArgs),

    /// Take a broker that has no replicas out of the cluster, such as one that joined by mistake
    RemoveBroker(RemoveArgs),
}

#[derive(Args, Debug)]
pub struct HealthArgs {
    /// Wait this long for it to become healthy, at most a day: seconds, or with a unit
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub wait: Option<Duration>,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// The broker
    pub broker: u32,

    /// Yes, give up the replicas that it had
    #[arg(long)]
    pub yes: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// The broker
    pub broker: u32,

    /// Yes, take it out
    #[arg(long)]
    pub yes: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub enum PartitionCommand {
    /// List a topic's partitions with leader, replicas and offsets
    Ls {
        /// The topic; without it: all topics
        #[arg(add = topics())]
        topic: Option<String>,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Hand a partition's leadership to another of its replicas
    TransferLeader(TransferArgs),
}

#[derive(Args, Debug)]
pub struct TransferArgs {
    /// The topic
    #[arg(add = topics())]
    pub topic: String,

    /// The partition
    pub partition: u32,

    /// The broker that is to lead
    #[arg(long, value_name = "BROKER")]
    pub to: u32,

    #[command(flatten)]
    pub output: OutputArgs,
}
