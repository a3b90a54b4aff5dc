//! `queue`.

use std::str::FromStr;

use clap::{Args, Subcommand};
use jangada_client::OffsetAt;

use super::parse::pair;
use super::queue_messages::QueueMessagesCommand;
use super::when::FromArg;
use crate::complete::{exchanges, queues, topics};
use crate::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Create a queue; when this returns, it can be used
    Create(CreateQueueArgs),

    #[command(flatten)]
    Messages(QueueMessagesCommand),

    /// List all queues
    Ls {
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show a queue and its settings
    Describe {
        /// The queue
        #[arg(add = queues())]
        name: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Change a queue's settings, all or none
    Alter(AlterQueueArgs),

    /// Hand out nothing until `resume`; messages are taken meanwhile
    Pause {
        /// The queue
        #[arg(add = queues())]
        name: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Hand out messages again
    Resume {
        /// The queue
        #[arg(add = queues())]
        name: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Drop all messages that a queue has, also those that consumers have, and dead letters
    Purge {
        /// The queue
        #[arg(add = queues())]
        name: String,

        /// One partition instead of all
        #[arg(long, value_name = "P")]
        partition: Option<u32>,

        /// Yes, drop them
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Let a queue that reads a topic begin anew: what became of its messages is forgotten
    Seek {
        /// The queue
        #[arg(add = queues())]
        name: String,

        /// One partition instead of all
        #[arg(long, value_name = "P")]
        partition: Option<u32>,

        /// Where to begin: `earliest`, `latest`, a time such as 2024-05-01T12:00:00Z, or how long ago, such as -1h
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
        to: QueueFromArg,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Delete a queue, with its messages unless it reads a topic
    Rm {
        /// The queue
        #[arg(add = queues())]
        name: String,

        /// Yes, delete it
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
pub struct CreateQueueArgs {
    /// 1 to 249 characters of A-Z a-z 0-9 . _ -; no topic may have the name
    pub name: String,

    /// How many partitions, from 1. Default: the brokers' setting cluster.default_partitions, which is 1 unless changed
    #[arg(long, short = 'p', value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(conflicts_with = "topic")]
    pub partitions: Option<u32>,

    /// How many replicas of each partition, from 1; odd numbers make sense. Default: the brokers' setting
    /// cluster.default_replicas, which is 3 unless changed, but at most as many as there are brokers
    #[arg(long, short = 'r', value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(conflicts_with = "topic")]
    pub replicas: Option<u32>,

    /// Read this topic, instead of having a log of its own
    #[arg(long, short = 't', add = topics())]
    pub topic: Option<String>,

    /// Where to begin in that topic: `earliest`, `latest`, a time such as 2024-05-01T12:00:00Z, or how long ago, such as -1h
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "earliest",
        requires = "topic",
        allow_hyphen_values = true
    )]
    pub from: QueueFromArg,

    /// Be a view over the log of this exchange, from its end on
    #[arg(long, value_name = "EXCHANGE", add = exchanges())]
    #[arg(conflicts_with_all = ["topic", "partitions", "replicas"])]
    pub exchange: Option<String>,

    /// A setting, such as queue.lease.ms=5min or queue.attempts.max=3; may be given again
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", value_parser = pair)]
    pub config: Vec<(String, String)>,

    /// Do nothing if there is a queue of that name with the same messages
    #[arg(long)]
    pub if_not_exists: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct AlterQueueArgs {
    /// The queue
    #[arg(add = queues())]
    pub name: String,

    /// A setting to set, such as queue.lease.ms=5min; may be given again
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", value_parser = pair)]
    #[arg(required_unless_present = "unset")]
    pub config: Vec<(String, String)>,

    /// A setting to put back to its default; may be given again
    #[arg(long, value_name = "KEY")]
    pub unset: Vec<String>,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where a queue begins in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFromArg(pub OffsetAt);

impl FromStr for QueueFromArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = match text.parse()? {
            FromArg::Earliest => OffsetAt::Earliest,
            FromArg::Latest => OffsetAt::Latest,
            FromArg::Timestamp(milliseconds) => OffsetAt::Timestamp(milliseconds),
            FromArg::Offset(_) | FromArg::Last(_) => {
                return Err("each partition has offsets of its own: write earliest, latest or a time".to_owned());
            }
        };
        Ok(Self(at))
    }
}
