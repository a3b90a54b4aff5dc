//! `jangada bench ...`: measures the cluster, the store and the disk in one way, so that the figures can be compared.
//!
//! Latency counts from the moment a request was scheduled, not from when it could be sent: a system that stalls delays
//! all requests that were due meanwhile, and each of them is counted with its delay. Sizes are those of values, a MB is
//! 10^6 bytes and a GiB 2^30.

mod consume;
mod cpu;
mod disk;
mod e2e;
mod latency;
mod memory;
mod payload;
mod produce;
mod queue;
mod report;
mod schedule;
mod store;
mod txn;

use crate::brokers::Brokers;
use crate::cli::BenchCommand;
use crate::errors::Result;

pub async fn run(brokers: &Brokers, command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Produce(args) => {
            let (report, failure) = produce::run(brokers, &args).await?;
            args.output.show(&report)?;
            // The figures are correct, but not those that a script asked to measure.
            failure.map_or(Ok(()), Err)
        }
        BenchCommand::Consume(args) => args.output.show(&consume::run(brokers, &args).await?),
        BenchCommand::Queue(args) => args.output.show(&queue::run(brokers, &args).await?),
        BenchCommand::Txn(args) => args.output.show(&txn::run(brokers, &args).await?),
        BenchCommand::E2e(args) => args.output.show(&e2e::run(brokers, &args).await?),
        // Nothing else runs on this thread, so it may block.
        BenchCommand::Store(args) => args.output.show(&store::run(&args)?),
        BenchCommand::Disk(args) => args.output.show(&disk::run(&args)?),
    }
}
