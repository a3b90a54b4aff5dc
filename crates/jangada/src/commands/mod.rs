//! What each command does.

mod bench;
mod cluster;
mod completion;
mod consume;
mod consume_group;
mod down;
mod group;
mod group_lag;
mod group_seek;
mod group_views;
mod node;
mod partition;
mod produce;
mod server;
mod topic;
mod up;
mod views;

use crate::cli::{Cli, Command};
use crate::errors::Result;
use crate::logging;

/// Runs the command.
pub async fn run(cli: Cli) -> Result<()> {
    if !matches!(cli.command, Command::Server(_)) {
        logging::start_for_command(&cli.log)?;
    }
    match cli.command {
        Command::Up(args) => up::run(&args).await,
        Command::Down(args) => down::run(&args).await,
        Command::Server(args) => server::run(&args).await,
        Command::Topic(command) => topic::run(&cli.brokers, command).await,
        Command::Produce(args) => produce::run(&cli.brokers, &args).await,
        Command::Consume(args) => consume::run(&cli.brokers, &args).await,
        Command::Group(command) => group::run(&cli.brokers, command).await,
        Command::Cluster(command) => cluster::run(&cli.brokers, command).await,
        Command::Partition(command) => partition::run(&cli.brokers, command).await,
        Command::Bench(command) => bench::run(&cli.brokers, command).await,
        Command::Completion { shell } => completion::run(shell),
    }
}
