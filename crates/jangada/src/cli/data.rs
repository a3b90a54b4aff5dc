//! `produce` and `consume`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use jangada_client::{Acks, Codec, StartAt};

use super::separator;

#[derive(Args, Debug)]
pub struct ProduceArgs {
    /// The topic
    pub topic: String,

    /// Read this file instead of stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The key ends and the value begins at the first of these in a line; a line without it is an error. \t is a tab
    #[arg(long, value_name = "S", value_parser = separator, conflicts_with = "format")]
    pub key_separator: Option<String>,

    /// What a line is
    #[arg(long, value_enum, default_value_t = ProduceFormat::Lines)]
    pub format: ProduceFormat,

    /// When a record counts as written
    #[arg(long, value_enum, default_value_t = AcksArg::Quorum)]
    pub acks: AcksArg,

    /// How batches are compressed
    #[arg(long, value_enum, default_value_t = CompressionArg::None)]
    pub compression: CompressionArg,

    /// Write to this partition instead of by key
    #[arg(long, value_name = "P")]
    pub partition: Option<u32>,
}

/// What a line of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProduceFormat {
    /// The value, or key and value with --key-separator
    Lines,
    /// A JSON object: key or key_base64, value or value_base64 (absent or null: none), headers, timestamp_ms,
    /// partition. `topic` and `offset`, which consume writes, are ignored
    Jsonl,
}

/// When a record counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcksArg {
    /// A majority of the replicas has it on disk
    Quorum,
    /// The leader has taken it; a crash may lose it
    None,
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Acks {
        match acks {
            AcksArg::Quorum => Acks::Quorum,
            AcksArg::None => Acks::None,
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<CompressionArg> for Codec {
    fn from(compression: CompressionArg) -> Codec {
        match compression {
            CompressionArg::None => Codec::None,
            CompressionArg::Gzip => Codec::Gzip,
            CompressionArg::Snappy => Codec::Snappy,
            CompressionArg::Lz4 => Codec::Lz4,
            CompressionArg::Zstd => Codec::Zstd,
        }
    }
}

#[derive(Args, Debug)]
pub struct ConsumeArgs {
    /// The topic
    pub topic: String,

    /// Where to begin: earliest, latest, an offset, or a time such as 2024-05-01T12:00:00Z (the first record at or
    /// after it). With --group, where partitions without a committed offset begin: earliest or latest
    #[arg(long, value_name = "earliest|latest|OFFSET|RFC3339", default_value = "earliest")]
    pub from: FromArg,

    /// One partition instead of all
    #[arg(long, value_name = "P", conflicts_with = "group")]
    pub partition: Option<u32>,

    #[command(flatten)]
    pub group: GroupArgs,

    /// Stop after this many records
    #[arg(long, value_name = "N")]
    pub max: Option<u64>,

    /// Stop at the end that the partitions have when this begins (with --group: when it gets them), instead of waiting
    /// for more
    #[arg(long)]
    pub exit_at_end: bool,

    /// How to print a record: %t topic, %p partition, %o offset, %k key, %v value, %T timestamp in milliseconds, %h
    /// headers, %% a percent sign; \n, \t, \\. No key or value prints as nothing
    #[arg(
        short = 'f',
        long,
        value_name = "FORMAT",
        default_value = "%v\\n",
        hide_default_value = false
    )]
    pub format: String,

    /// Print one JSON object a line
    #[arg(short = 'o', long = "output", value_enum, conflicts_with = "format")]
    pub output: Option<ConsumeOutput>,
}

/// `consume` as a member of a group.
#[derive(Args, Debug)]
pub struct GroupArgs {
    /// Read as a member of this consumer group
    #[arg(long, value_name = "G")]
    pub group: Option<String>,

    /// A name that this process has again when it is started again: it then goes on with its partitions
    #[arg(long, value_name = "I", requires = "group")]
    pub instance_id: Option<String>,

    /// When offsets are committed
    #[arg(long, value_enum, default_value_t = CommitArg::After, requires = "group")]
    pub commit: CommitArg,

    /// How long this may be silent before its partitions go to others, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 45_000, requires = "group")]
    pub session_timeout_ms: u32,

    /// Write a line of JSON to this file for each change of partitions: event, at_ms, group, member_id, member_epoch,
    /// partitions, owned
    #[arg(long, value_name = "FILE", requires = "group")]
    pub ownership_log: Option<PathBuf>,
}

/// When offsets are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CommitArg {
    /// Before records are printed: none is printed twice, some may never be
    Before,
    /// After records are printed and flushed: each is printed, some perhaps twice
    After,
    /// Never
    None,
}

/// Another way to print records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsumeOutput {
    /// One JSON object a line; bytes that are not UTF-8 are base64 under key_base64 and value_base64
    Jsonl,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromArg {
    /// With the first record that is still there.
    Earliest,
    /// With the next record that is written.
    Latest,
    /// With this offset.
    Offset(i64),
    /// With the first record at or after this time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

impl FromStr for FromArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(FromArg::Earliest),
            "latest" => return Ok(FromArg::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse::<u64>() {
            return i64::try_from(offset)
                .map(FromArg::Offset)
                .map_err(|_| "the offset is too large".to_owned());
        }
        let time: jiff::Timestamp = text.parse().map_err(|error| {
            format!(
                "not earliest, latest, an offset from 0 on, or an RFC 3339 time such as 2024-05-01T12:00:00Z: {error}"
            )
        })?;
        // Rounded up: a record within the millisecond that the time cuts may be before it.
        let milliseconds = time.as_millisecond();
        Ok(FromArg::Timestamp(
            milliseconds + i64::from(time.as_nanosecond() > i128::from(milliseconds) * 1_000_000),
        ))
    }
}

impl From<FromArg> for StartAt {
    fn from(from: FromArg) -> StartAt {
        match from {
            FromArg::Earliest => StartAt::Earliest,
            FromArg::Latest => StartAt::Latest,
            FromArg::Offset(offset) => StartAt::Offset(offset),
            FromArg::Timestamp(milliseconds) => StartAt::Timestamp(milliseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_time() {
        assert_eq!("earliest".parse(), Ok(FromArg::Earliest));
        assert_eq!("latest".parse(), Ok(FromArg::Latest));
        assert_eq!("0".parse(), Ok(FromArg::Offset(0)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(FromArg::Timestamp(1000)));
        assert_eq!("1970-01-01T01:00:00.5+01:00".parse(), Ok(FromArg::Timestamp(500)));
        assert_eq!("1970-01-01T00:00:00.0005Z".parse(), Ok(FromArg::Timestamp(1)));
        for wrong in ["", "-1", "now", "2024-05-01", "99999999999999999999"] {
            assert!(wrong.parse::<FromArg>().is_err(), "{wrong}");
        }
    }
}
