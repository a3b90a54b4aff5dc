//! `saga`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::parse::seconds;
use crate::complete::topics;
use crate::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub enum SagaCommand {
    /// List sagas: where each is, and why it turned back
    Ls(SagaListArgs),

    /// Show a saga: its steps, and what happened to it
    Show {
        #[command(flatten)]
        saga: SagaArg,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Try again now what has failed or waits, with all its attempts
    Retry {
        #[command(flatten)]
        saga: SagaArg,

        #[command(flatten)]
        within: WithinArg,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Have a saga turn back, and undo what it has begun
    Abort {
        #[command(flatten)]
        saga: SagaArg,

        /// Why, for whoever looks at it later
        #[arg(long, default_value = "by hand")]
        reason: String,

        #[command(flatten)]
        within: WithinArg,

        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
pub struct SagaListArgs {
    #[command(flatten)]
    pub of: SagaTopicArg,

    /// Only those that are stuck
    #[arg(long)]
    pub stuck: bool,

    /// Only those that are there; may be given again
    #[arg(long, value_enum)]
    pub phase: Vec<PhaseArg>,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct SagaTopicArg {
    /// The topic of the sagas, which their orchestrators were created with
    #[arg(long, add = topics())]
    pub topic: String,
}

#[derive(Args, Debug)]
pub struct SagaArg {
    /// The id of the saga
    pub id: String,

    #[command(flatten)]
    pub of: SagaTopicArg,
}

#[derive(Args, Debug)]
pub struct WithinArg {
    /// How long to wait for an orchestrator to take it
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "30s")]
    pub within: Duration,
}

/// Where a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PhaseArg {
    /// On its way
    Forward,
    /// Undoing what it has begun
    Backward,
    /// All is done
    Completed,
    /// All is undone
    Compensated,
}
