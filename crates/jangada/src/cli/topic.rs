//! `topic`.

use std::str::FromStr;

use clap::{Args, Subcommand};

use super::parse::pair;
use crate::complete::topics;
use crate::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic; when this returns, it can be written
    Create(CreateArgs),

    /// List all topics
    Ls {
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show a topic's settings and partitions
    Describe {
        /// The topic
        #[arg(add = topics())]
        name: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Change a topic's settings, all or none
    Alter(AlterArgs),

    /// Drop the records below an offset
    Trim(TrimArgs),

    /// Delete a topic with its data
    Rm {
        /// The topic
        #[arg(add = topics())]
        name: String,

        /// Yes, delete its data
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
pub struct CreateArgs {
    /// 1 to 249 characters of A-Z a-z 0-9 . _ -
    pub name: String,

    /// How many partitions, from 1. Default: the brokers' setting cluster.default_partitions, which is 1 unless changed
    #[arg(long, short = 'p', value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: Option<u32>,

    /// How many replicas of each partition, from 1; odd numbers make sense. Default: the brokers' setting
    /// cluster.default_replicas, which is 3 unless changed, but at most as many as there are brokers
    #[arg(long, short = 'r', value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    pub replicas: Option<u32>,

    /// A setting, such as retention.ms=7d or max.message.bytes=2MiB; may be given again
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", value_parser = pair)]
    pub config: Vec<(String, String)>,

    /// Do nothing if there is a topic of that name
    #[arg(long)]
    pub if_not_exists: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct AlterArgs {
    /// The topic
    #[arg(add = topics())]
    pub name: String,

    /// A setting to set, such as retention.ms=7d or retention.bytes=10GiB; may be given again
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", value_parser = pair)]
    #[arg(required_unless_present_any = ["unset", "partitions"])]
    pub config: Vec<(String, String)>,

    /// A setting to put back to its default; may be given again
    #[arg(long, value_name = "KEY")]
    pub unset: Vec<String>,

    /// More partitions, so that the topic has P. Records stay where they are: a key's later records may go to another
    /// partition than its earlier ones
    #[arg(long, value_name = "P", conflicts_with_all = ["config", "unset"])]
    pub partitions: Option<u32>,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct TrimArgs {
    /// The topic
    #[arg(add = topics())]
    pub name: String,

    /// One partition instead of all
    #[arg(long, value_name = "P")]
    pub partition: Option<u32>,

    /// The first offset to keep, at most the end of the partition; `latest`: drop everything there is
    #[arg(long, value_name = "OFFSET|latest")]
    pub before: BeforeArg,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// Up to where to trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeforeArg {
    /// The high watermark.
    Latest,
    /// This offset.
    Offset(i64),
}

impl FromStr for BeforeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(BeforeArg::Latest),
            _ => match text.parse() {
                Ok(offset) if offset >= 0 => Ok(BeforeArg::Offset(offset)),
                _ => Err("write an offset from 0 on, or latest".to_owned()),
            },
        }
    }
}
