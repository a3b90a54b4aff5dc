//! The commands, one module each.

mod bench;
mod cluster;
mod completion;
mod consume;
mod consume_group;
mod consume_output;
mod consume_range;
mod consume_table;
mod dlq;
mod down;
mod exchange;
mod exchange_messages;
mod exchange_views;
mod group;
mod group_lag;
mod group_seek;
mod group_views;
mod line_input;
mod node;
mod partition;
mod produce;
mod produce_parser;
mod queue;
mod queue_messages;
mod saga;
mod schedule;
mod server;
mod settings;
mod topic;
mod topic_bounds;
mod txn;
mod up;
mod views;

use crate::brokers::Brokers;
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
        Command::Completion { shell } => completion::run(shell),
        command => {
            let brokers = Brokers::find(&cli.brokers)?;
            let ran = run_in_cluster(&brokers, command).await;
            ran.map_err(|error| error.asked(&brokers))
        }
    }
}

/// Runs a command that needs a cluster.
async fn run_in_cluster(brokers: &Brokers, command: Command) -> Result<()> {
    match command {
        Command::Topic(command) => topic::run(brokers, command).await,
        Command::Queue(command) => queue::run(brokers, command).await,
        Command::Exchange(command) => exchange::run(brokers, command).await,
        Command::Dlq(command) => dlq::run(brokers, command).await,
        Command::Schedule(command) => schedule::run(brokers, command).await,
        Command::Produce(args) => produce::run(brokers, &args).await,
        Command::Consume(args) => consume::run(brokers, &args).await,
        Command::Group(command) => group::run(brokers, command).await,
        Command::Txn(command) => txn::run(brokers, command).await,
        Command::Saga(command) => saga::run(brokers, command).await,
        Command::Cluster(command) => cluster::run(brokers, command).await,
        Command::Partition(command) => partition::run(brokers, command).await,
        Command::Bench(command) => bench::run(brokers, command).await,
        Command::Up(_) | Command::Down(_) | Command::Server(_) | Command::Completion { .. } => {
            unreachable!("it needs no cluster")
        }
    }
}
