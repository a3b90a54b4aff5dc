//! `group`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::when::FromArg;
use crate::complete::{groups, topics};
use crate::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List all consumer groups
    Ls {
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show a group's members and what they own
    Describe {
        /// The group
        #[arg(add = groups())]
        group: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show how far a group is behind, partition by partition
    ///
    /// The end is confirmed with a majority of the replicas. Records that are no longer there do not count as lag.
    Lag(LagArgs),

    /// Delete a group without members and its offsets, or its offsets of some topics
    Rm(GroupRemoveArgs),

    /// Move a group's offsets, while it has no members
    ///
    /// Shows what would be done, and does it with --execute. A position before the first record that is still there, or
    /// behind the end, becomes the nearest one. The group must have no members: stop its consumers first, with Ctrl-C or
    /// SIGTERM; one that was killed counts until its session ends.
    Seek(SeekArgs),
}

#[derive(Args, Debug)]
pub struct GroupRemoveArgs {
    /// The group
    #[arg(add = groups())]
    pub group: String,

    /// Only its offsets of this topic; may be given again. The group stays
    #[arg(long, value_name = "T", add = topics())]
    pub topic: Vec<String>,

    /// Only these partitions of the topic, separated by commas
    #[arg(long, value_name = "P,...", value_delimiter = ',', requires = "topic")]
    pub partition: Vec<u32>,

    /// Yes, delete them
    #[arg(long)]
    pub yes: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct LagArgs {
    /// The group
    #[arg(add = groups())]
    pub group: String,

    /// Show it again every 2 seconds until interrupted; as JSON, one line each time
    #[arg(long)]
    pub watch: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

const SEEK_EXAMPLES: &str = "\
Examples:
  jangada group seek billing --topic orders --to -10              the plan: ten records back
  jangada group seek billing --topic orders --to -1h --execute    to what was written an hour ago
  jangada group seek billing --to-file before.csv                 the committed offsets, into a file
  jangada group seek billing --from-file before.csv --execute     and back to them";

#[derive(Args, Debug)]
#[command(after_help = SEEK_EXAMPLES)]
pub struct SeekArgs {
    /// The group; one that does not exist is made
    #[arg(add = groups())]
    pub group: String,

    /// The topic; may be given again
    #[arg(long, value_name = "T", add = topics(), requires = "to", required_unless_present_any = ["from_file", "to_file"])]
    pub topic: Vec<String>,

    /// These partitions instead of all, separated by commas
    #[arg(long, value_name = "P,...", value_delimiter = ',', requires = "topic")]
    pub partition: Vec<u32>,

    /// Where to: earliest, latest, an offset, a time such as 2024-05-01T12:00:00Z (the first record at or after it), -1h
    /// (an hour ago), or so many records after (+N) or before (-N) the committed offset
    #[arg(
        long,
        value_name = "earliest|latest|OFFSET|TIME|-DURATION|+N|-N",
        allow_hyphen_values = true,
        requires = "topic"
    )]
    pub to: Option<ToArg>,

    /// Where to, by partition: lines of topic,partition,offset. Lines that begin with # are passed over
    #[arg(long, value_name = "FILE", conflicts_with_all = ["topic", "to", "to_file"])]
    pub from_file: Option<PathBuf>,

    /// Write the offsets of the plan to this file, for --from-file; without --to those that are committed now. Nothing is
    /// moved
    #[arg(long, value_name = "FILE", conflicts_with = "execute")]
    pub to_file: Option<PathBuf>,

    /// Do it
    #[arg(long)]
    pub execute: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where to seek.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToArg {
    /// Whatever is committed.
    At(FromArg),
    /// From the committed offset on.
    Relative(i64),
}

impl FromStr for ToArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(['+', '-']) {
            return match (text.parse(), text.strip_prefix('-')) {
                (Ok(records), _) => Ok(ToArg::Relative(records)),
                (Err(_), Some(ago)) if ago.contains(char::is_alphabetic) => text.parse().map(ToArg::At),
                (Err(_), _) => Err("write +N or -N, a number of records, or -1h for an hour ago".to_owned()),
            };
        }
        text.parse().map(ToArg::At)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_absolute_or_relative() {
        assert_eq!("+5".parse(), Ok(ToArg::Relative(5)));
        assert_eq!("-5".parse(), Ok(ToArg::Relative(-5)));
        assert_eq!("5".parse(), Ok(ToArg::At(FromArg::Offset(5))));
        assert_eq!("latest".parse(), Ok(ToArg::At(FromArg::Latest)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(ToArg::At(FromArg::Timestamp(1000))));
        for wrong in [
            "",
            "+",
            "-",
            "+x",
            "--5",
            "99999999999999999999",
            "-99999999999999999999",
            "-5m",
            "+1h",
        ] {
            assert!(wrong.parse::<ToArg>().is_err(), "{wrong}");
        }
    }
}
