//! `group`.

use std::str::FromStr;

use clap::{Args, Subcommand};

use super::FromArg;
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
        group: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show how far a group is behind, partition by partition
    ///
    /// The end is confirmed with a majority of the replicas. Records that are no longer there do not count as lag.
    Lag(LagArgs),

    /// Delete a group without members, and its offsets
    Rm {
        /// The group
        group: String,

        /// Yes, delete its offsets
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Move a group's offsets, while it has no members
    ///
    /// Shows what would be done, and does it with --execute. A position before the first record that is still there, or
    /// behind the end, becomes the nearest one.
    Seek(SeekArgs),
}

#[derive(Args, Debug)]
pub struct LagArgs {
    /// The group
    pub group: String,

    /// Show it again every 2 seconds until interrupted; as JSON, one line each time
    #[arg(long)]
    pub watch: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct SeekArgs {
    /// The group; one that does not exist is made
    pub group: String,

    /// The topic
    #[arg(long, value_name = "T")]
    pub topic: String,

    /// One partition instead of all
    #[arg(long, value_name = "P")]
    pub partition: Option<u32>,

    /// Where to: earliest, latest, an offset, a time such as 2024-05-01T12:00:00Z (the first record at or after it), or
    /// so many records after (+N) or before (-N) the committed offset
    #[arg(
        long,
        value_name = "earliest|latest|OFFSET|RFC3339|+N|-N",
        allow_hyphen_values = true
    )]
    pub to: ToArg,

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
            let relative = text.parse().map(ToArg::Relative);
            return relative.map_err(|_| "write +N or -N, a number of records".to_owned());
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
        ] {
            assert!(wrong.parse::<ToArg>().is_err(), "{wrong}");
        }
    }
}
