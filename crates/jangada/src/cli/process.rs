//! `up`, `down`, `server`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse::wait;
use crate::brokers::DEFAULT_DIR;
use crate::output::OutputArgs;

#[derive(Args, Debug)]
pub struct UpArgs {
    /// How many nodes, 1 to 40; odd numbers make sense. Default: 3, or as many as DIR has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=40))]
    pub nodes: Option<u16>,

    /// The directory of the cluster
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,

    /// The first node's gRPC port. Default: 9400, or the one that DIR has
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_415))]
    pub port: Option<u16>,

    /// Return when the cluster is healthy, and leave it running
    #[arg(long)]
    pub detach: bool,

    /// Give up when the cluster is not healthy after this time, at most a day: seconds, or with a unit
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = wait)]
    pub wait: Duration,
}

#[derive(Args, Debug)]
pub struct DownArgs {
    /// The directory of the cluster
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,

    /// Kill a node that has not stopped after this time, at most a day: seconds, or with a unit
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = wait)]
    pub wait: Duration,
}

#[derive(Args, Debug)]
pub struct ServerArgs {
    #[command(subcommand)]
    pub command: Option<ServerCommand>,

    /// The settings file (TOML)
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,

    /// Set one key, over file and environment
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Check a settings file and show every setting with its source
    CheckConfig {
        /// The settings file (TOML)
        file: PathBuf,

        /// Set one key, over file and environment
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        set: Vec<String>,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Accept that a stopped broker's store lost its end: only when no majority of sound replicas is left
    ///
    /// A broker that finds the end of its write-ahead log missing refuses to start. As long as the other brokers have a
    /// majority of each partition's replicas, replace it (`jangada cluster replace-broker`): it loses nothing. This is
    /// for the rest: acknowledged records may be lost for good.
    ConfirmTail {
        /// The settings file (TOML) of the broker
        #[arg(long, value_name = "FILE")]
        config: PathBuf,

        /// Set one key, over file and environment
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        set: Vec<String>,

        /// Yes, go on with what is left. Without it only what is missing is shown
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Print the reference of all settings (Markdown)
    Reference,
}
