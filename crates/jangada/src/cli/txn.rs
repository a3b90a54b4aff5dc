//! `txn`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse::seconds;
use crate::complete::topics;
use crate::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub enum TxnCommand {
    /// List transactional ids, with the state of each
    Ls(TxnListArgs),

    /// Show a transactional id: its state, and what is part of its transaction
    Describe {
        /// The transactional id
        id: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Abort the open transaction of an id, and fence its producer
    ///
    /// Readers of committed records wait behind an open transaction. Its coordinator aborts it when its time is over; this is for one that
    /// is not to be waited for. The producer must begin anew.
    Abort {
        /// The transactional id
        id: String,

        /// Yes, abort it
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show what a partition remembers of its producers, and which have open transactions there
    Producers {
        /// The partition, as TOPIC/P
        #[arg(value_name = "TOPIC/P", value_parser = topic_partition, add = topics())]
        partition: (String, u32),

        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
pub struct TxnListArgs {
    /// Only those whose transaction has been open for longer, such as 1min
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub older_than: Option<Duration>,

    /// Only those in this state; may be given again: Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,

    #[command(flatten)]
    pub output: OutputArgs,
}

fn topic_partition(text: &str) -> Result<(String, u32), String> {
    let (topic, partition) = text.rsplit_once('/').ok_or("give TOPIC/P, such as orders/0")?;
    let partition = partition
        .parse()
        .map_err(|_| format!("{partition:?} is no partition: give TOPIC/P, such as orders/0"))?;
    Ok((topic.to_owned(), partition))
}

#[cfg(test)]
mod tests {
    use super::topic_partition;

    #[test]
    fn a_partition_is_a_topic_and_a_number() {
        assert_eq!(topic_partition("orders/3"), Ok(("orders".to_owned(), 3)));
        for wrong in ["orders", "orders/x", "orders/-1", ""] {
            topic_partition(wrong).expect_err(wrong);
        }
    }
}
