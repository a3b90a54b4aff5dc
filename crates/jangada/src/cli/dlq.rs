//! `dlq`.

use clap::{Args, Subcommand};

use super::queue_messages::QueueOutput;
use super::when::SinceArg;
use crate::complete::queues;
use crate::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List the dead letters of a queue: where they are, why they are dead, and since when
    Ls {
        #[command(flatten)]
        dead: DeadArgs,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show dead letters whole: body, headers, key, why they are dead, and since when
    Peek {
        #[command(flatten)]
        dead: DeadArgs,

        /// At most so many of each partition
        #[arg(long, short = 'c', default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        max: u64,

        /// How to print them; as JSON with reason, counters and times
        #[arg(short = 'o', long, value_enum, default_value_t = QueueOutput::Jsonl)]
        output: QueueOutput,
    },

    /// Let dead letters go out again, with no failures counted; Ctrl-C stops it, and what went out stays
    Redrive {
        #[command(flatten)]
        dead: DeadArgs,

        /// At most so many a second, all partitions together
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,

        /// Only say how many there are
        #[arg(long)]
        dry_run: bool,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Delete dead letters
    Purge {
        #[command(flatten)]
        dead: DeadArgs,

        /// Yes, delete them
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
pub struct DeadArgs {
    /// The queue
    #[arg(add = queues())]
    pub name: String,

    /// One partition instead of all
    #[arg(short = 'p', long, value_name = "P")]
    pub partition: Option<u32>,

    /// Only those that are dead for this reason; may be given again
    #[arg(long, value_name = "REASON", value_parser = ["attempts", "rejected", "expired", "length"])]
    pub reason: Vec<String>,

    /// Only those that died before this time: how long ago, such as 1h, or a time such as 2024-05-01T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub died_before: Option<SinceArg>,

    /// Only those that died at this time or later, as for --died-before
    #[arg(long, value_name = "WHEN")]
    pub died_since: Option<SinceArg>,

    /// Only those with this key, for queues with queue.order=key
    #[arg(short = 'k', long, value_name = "KEY")]
    pub key: Option<String>,
}
