//! `produce`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jangada_client::{Acks, Codec, Condition};

use super::parse::{delimiter, pair, seconds, separator};
use super::when::TimeArg;
use crate::complete::topics;
use crate::text::encoding::Encoding;

const EXAMPLES: &str = "\
Examples:
  printf 'one\\ntwo\\n' | jangada produce orders
  printf 'user-1:login\\n' | jangada produce orders -K :
  echo '{\"id\":7}' | jangada produce orders -k customer-7 -H source=import --timestamp 2024-05-01T12:00:00Z
  jangada produce orders -k customer-7 --tombstone
  find . -print0 | jangada produce files -D '\\0'
  jangada consume orders -o jsonl --exit-at-end | jangada produce copy --format jsonl
  echo 'v2' | jangada produce state -k config --expect-key-offset 41
  jangada produce orders --transactional-id import-1 < orders.txt";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ProduceArgs {
    /// The topic
    #[arg(required_unless_present = "topic_flag", add = topics())]
    topic: Option<String>,

    /// The same, as other programs have it
    #[arg(
        short = 't',
        long = "topic",
        value_name = "TOPIC",
        hide = true, add = topics(),
        conflicts_with = "topic"
    )]
    topic_flag: Option<String>,

    /// Read this file instead of stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The key ends and the value begins at the first of these in a line; a line without it is an error. \t is a tab
    #[arg(short = 'K', long, value_name = "S", value_parser = separator, conflicts_with = "format")]
    pub key_separator: Option<String>,

    /// The key of every record
    #[arg(short = 'k', long, value_name = "KEY", conflicts_with_all = ["key_separator", "format"])]
    pub key: Option<String>,

    /// A header of every record; may be given again
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = pair)]
    pub header: Vec<(String, String)>,

    /// Records end at this instead of a newline: \0, \n, \t, \r, \\ or any text
    #[arg(short = 'D', long, value_name = "S", value_parser = delimiter)]
    pub delimiter: Option<String>,

    /// What a line is
    #[arg(long, value_enum, default_value_t = ProduceFormat::Lines)]
    pub format: ProduceFormat,

    /// A key or a value that is just this text is none at all. A record without a value is a tombstone
    #[arg(long, value_name = "TEXT", conflicts_with = "format")]
    pub null: Option<String>,

    /// A key or a value that is empty is none at all
    #[arg(short = 'Z', long, conflicts_with_all = ["null", "format"])]
    pub null_empty: bool,

    /// Write one record with the key and no value, and read nothing
    #[arg(long, requires = "key")]
    #[arg(conflicts_with_all = ["file", "delimiter", "null", "null_empty", "key_separator", "format"])]
    pub tombstone: bool,

    /// How keys are written
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Encoding::Raw, conflicts_with = "format")]
    pub key_as: Encoding,

    /// How values are written
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Encoding::Raw, conflicts_with = "format")]
    pub value_as: Encoding,

    /// Write to this partition instead of by key, or instead of the one that a line of --format jsonl names
    #[arg(short = 'p', long, value_name = "P")]
    pub partition: Option<u32>,

    /// The time of every record, instead of now, or instead of the one that a line of --format jsonl names: RFC 3339, or
    /// milliseconds since 1970
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub timestamp: Option<TimeArg>,

    /// When a record counts as written
    #[arg(long, value_enum, default_value_t = AcksArg::Quorum)]
    pub acks: AcksArg,

    /// How batches are compressed
    #[arg(short = 'z', long, value_enum, default_value_t = CompressionArg::None)]
    pub compression: CompressionArg,

    /// Write all records in one transaction of this id: all of them are seen when the input has ended, or none. Whoever has the id is
    /// fenced. More than --transaction-timeout from the first record on, and it is aborted
    #[arg(long, value_name = "ID", conflicts_with_all = ["expect_end_offset", "expect_key_offset"])]
    pub transactional_id: Option<String>,

    /// How long the transaction may be open, such as 1min; a plain number is seconds
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = seconds, requires = "transactional_id")]
    pub transaction_timeout: Duration,

    /// Write only if the partition ends at this offset, so that the record gets it. With several records each must get the
    /// offset after the one before it; they are written one by one
    #[arg(long, value_name = "OFFSET", requires = "partition")]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub expect_end_offset: Option<i64>,

    /// Write only if the last record with the key is at this offset, or if there is `none`. The topic needs
    /// key.index.enable=true. With several records each must follow the one before it; they are written one by one
    #[arg(long, value_name = "OFFSET|none", requires = "key")]
    #[arg(conflicts_with_all = ["expect_end_offset", "key_separator", "format"]
    )]
    pub expect_key_offset: Option<KeyOffsetArg>,
}

impl ProduceArgs {
    /// Where to write.
    pub fn topic(&self) -> &str {
        let topic = self.topic.as_deref().or(self.topic_flag.as_deref());
        topic.expect("one of the two is required")
    }

    /// What must hold for the first record to be written.
    pub fn condition(&self) -> Option<Condition> {
        let end = self.expect_end_offset.map(Condition::EndOffset);
        end.or_else(|| self.expect_key_offset.map(|expected| Condition::KeyOffset(expected.0)))
    }
}

/// Where the last record of a key is expected; `None`: nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyOffsetArg(pub Option<i64>);

impl FromStr for KeyOffsetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(KeyOffsetArg(None)),
            _ => match text.parse() {
                Ok(offset) if offset >= 0 => Ok(KeyOffsetArg(Some(offset))),
                _ => Err("write an offset from 0 on, or none".to_owned()),
            },
        }
    }
}

/// What a line of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProduceFormat {
    /// The value, or key and value with --key-separator
    Lines,
    /// A JSON object: key or key_base64, value or value_base64 (absent or null: none), headers, timestamp_ms (absent:
    /// now; null: none), partition. --timestamp and --partition go before what a line says. `topic` and `offset`, which
    /// consume writes, are ignored
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
