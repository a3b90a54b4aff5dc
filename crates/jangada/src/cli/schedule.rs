//! `schedule`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::parse::{pair, seconds};
use super::when::TimeArg;
use crate::complete::queues;
use crate::output::OutputArgs;

const PUT_EXAMPLES: &str = "\
Examples:
  jangada schedule put jobs report --cron '0 8 * * 1-5' --time-zone America/Fortaleza --body 'daily report'
  jangada schedule put jobs poll --every 10s --body poll --catch-up one
  jangada schedule put jobs campaign --every 1h --start 2026-12-01T00:00:00Z --end 2026-12-25T00:00:00Z --body send";

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Put a schedule, in place of one of the same name; one that is there as it is to be stays as it is
    Put(Box<SchedulePutArgs>),

    /// List the schedules of a queue, or of all queues: when each is due next, and when it sent last
    Ls {
        /// The queue. Default: all queues with a log of their own
        #[arg(add = queues())]
        queue: Option<String>,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Delete a schedule; what it has sent stays
    Rm {
        /// The queue
        #[arg(add = queues())]
        queue: String,

        /// The schedule
        name: String,

        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
#[command(after_help = PUT_EXAMPLES)]
#[command(group(clap::ArgGroup::new("timing").required(true).args(["cron", "every"])))]
pub struct SchedulePutArgs {
    /// The queue, one with a log of its own
    #[arg(add = queues())]
    pub queue: String,

    /// The schedule's name within the queue: 1 to 128 bytes
    pub name: String,

    /// Send when these five fields say: minute, hour, day of month, month, day of week
    #[arg(long, value_name = "FIELDS")]
    pub cron: Option<String>,

    /// The time zone of --cron, such as America/Fortaleza
    #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "cron")]
    pub time_zone: String,

    /// Send again each time after so long, in seconds or with a unit, at least one second
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub every: Option<Duration>,

    /// Nothing is sent before this time, and --every counts from it: RFC 3339, or milliseconds since 1970. Default: from now on
    #[arg(long, value_name = "TIME")]
    pub start: Option<TimeArg>,

    /// Nothing is sent after this time, and the schedule is gone: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    pub end: Option<TimeArg>,

    /// What becomes of occurrences that are more than a minute late, as there was no leader or the queue was full
    #[arg(long, value_enum, default_value_t = CatchUpArg::Skip)]
    pub catch_up: CatchUpArg,

    /// What is sent
    #[arg(long, value_name = "TEXT")]
    pub body: String,

    /// The key of the messages, for queues with queue.order=key
    #[arg(short = 'k', long, value_name = "KEY")]
    pub key: Option<String>,

    /// A header of the messages; may be given again
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = pair)]
    pub header: Vec<(String, String)>,

    /// A message goes out so long after it was sent, in seconds or with a unit
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub delay: Option<Duration>,

    /// The priority of the messages, from 0 on, for queues with queue.priorities
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub priority: u32,

    /// A message may be handed out for so long, in seconds or with a unit
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub ttl: Option<Duration>,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// What becomes of occurrences that were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CatchUpArg {
    /// They are left out
    Skip,
    /// The last of them is sent
    One,
    /// The last 100 of them are sent
    All,
}
