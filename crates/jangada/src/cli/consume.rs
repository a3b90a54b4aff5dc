//! `consume`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jangada_client::{Isolation, OffsetReset, OnBadBatch};

use super::parse::milliseconds_u32;
use super::when::{FromArg, SinceArg, UntilArg};
use crate::complete::{groups, topics};
use crate::text::encoding::Encoding;

const EXAMPLES: &str = "\
Examples:
  jangada consume orders --exit-at-end                    everything that is there
  jangada consume orders --from latest                    what comes from now on, until Ctrl-C
  jangada consume orders --last 10 -e -f '%p %o %k %v\\n'   the last 10 records of each partition
  jangada consume orders refunds --since 1h -e            two topics, the last hour
  jangada consume --pattern 'orders-.*' -o jsonl -e       all topics of that form
  jangada consume orders -p 0 --from 100 --until 200      offsets 100 to 199 of a partition
  jangada consume orders -e -f '%K %S %h\\n'               lengths of key and value, and headers
  jangada consume orders -e --value-as hex                bytes that are no text
  jangada consume orders --group billing                  shares the partitions with the group's other members
  jangada consume prices --as-table -e -f '%k %v\n'       the newest value of each key";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ConsumeArgs {
    /// One topic or several
    #[arg(value_name = "TOPIC", required_unless_present_any = ["topic_flags", "pattern"], add = topics())]
    topics: Vec<String>,

    /// The same, as other programs have it
    #[arg(short = 't', long = "topic", value_name = "TOPIC", hide = true, add = topics())]
    topic_flags: Vec<String>,

    /// Also all topics whose whole name matches this regular expression. Without --group: those that there are when this
    /// begins
    #[arg(long, value_name = "REGEX")]
    pub pattern: Option<String>,

    /// Where to begin: earliest, latest, an offset, -N (the last N records of each partition), a time such as
    /// 2024-05-01T12:00:00Z (the first record at or after it), or -1h (an hour ago). With --group, where partitions
    /// without a committed offset begin: earliest or latest
    #[arg(
        long,
        value_name = "earliest|latest|OFFSET|-N|TIME|-DURATION",
        default_value = "earliest",
        allow_hyphen_values = true
    )]
    from: FromArg,

    /// The default, as other programs have it
    #[arg(long, hide = true, conflicts_with = "from")]
    from_beginning: bool,

    /// Begin with the last N records of each partition
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "from_beginning", "group"])]
    last: Option<u64>,

    /// Begin with what was written so long ago, such as 1h or 30min, or at a time
    #[arg(long, value_name = "DURATION|TIME", conflicts_with_all = ["from", "from_beginning", "last", "group"])]
    since: Option<SinceArg>,

    /// Stop before this offset, or before the first record at or after a time that has passed (-10min: ten minutes ago)
    #[arg(
        long,
        value_name = "OFFSET|TIME|-DURATION",
        allow_hyphen_values = true,
        conflicts_with = "group"
    )]
    pub until: Option<UntilArg>,

    /// These partitions instead of all, separated by commas
    #[arg(
        short = 'p',
        long,
        value_name = "P,...",
        value_delimiter = ',',
        conflicts_with = "group"
    )]
    pub partition: Vec<u32>,

    /// Where to go on when records that were to be read are no longer there; stderr tells how many. Without it this ends with
    /// an error, or, with --group, goes on as --from says
    #[arg(long, value_enum)]
    pub reset: Option<ResetArg>,

    #[command(flatten)]
    pub group: GroupArgs,

    /// Stop after this many records
    #[arg(short = 'c', long, value_name = "N", visible_alias = "max-messages")]
    pub max: Option<u64>,

    /// Stop at the end that the partitions have when this begins (with --group: when it gets them), instead of waiting
    /// for more
    #[arg(short = 'e', long)]
    pub exit_at_end: bool,

    /// Which records of transactions are read
    #[arg(long, value_enum, default_value_t = IsolationArg::Committed)]
    pub isolation: IsolationArg,

    /// Print the newest record of each key, by key, without those that were deleted; then, unless --exit-at-end is given, each change
    #[arg(long, conflicts_with_all = ["group", "from", "from_beginning", "last", "since", "until", "max"])]
    pub as_table: bool,

    /// What to do at a batch that cannot be decoded
    #[arg(long, value_enum, default_value_t = OnBadBatchArg::Stop)]
    pub on_bad_batch: OnBadBatchArg,

    /// How to print a record: %t topic, %p partition, %o offset, %k key, %v (or %s) value, %K length of the key, %S
    /// length of the value, %T timestamp in milliseconds, %D the same as a date, %h headers, %% a percent sign; \n, \t,
    /// \r, \0, \\. No key or value, its length, and no timestamp print as --null says
    #[arg(
        short = 'f',
        long,
        value_name = "FORMAT",
        default_value = "%v\\n",
        hide_default_value = false
    )]
    pub format: String,

    /// How keys are printed
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Encoding::Raw, conflicts_with = "output")]
    pub key_as: Encoding,

    /// How values are printed, those of headers too
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Encoding::Raw, conflicts_with = "output")]
    pub value_as: Encoding,

    /// What to print for a key, a value or a timestamp that is none. Default: nothing
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "output"
    )]
    pub null: String,

    /// Print one JSON object a line
    #[arg(short = 'o', long = "output", value_enum, conflicts_with = "format")]
    pub output: Option<ConsumeOutput>,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResetArg {
    /// With the first record that is still there
    Earliest,
    /// After the last record
    Latest,
    /// Nowhere: this ends with an error
    Error,
}

impl From<ResetArg> for OffsetReset {
    fn from(reset: ResetArg) -> OffsetReset {
        match reset {
            ResetArg::Earliest => OffsetReset::Earliest,
            ResetArg::Latest => OffsetReset::Latest,
            ResetArg::Error => OffsetReset::Error,
        }
    }
}

impl ConsumeArgs {
    /// The topics that were named, each once.
    pub fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = Vec::new();
        for topic in self.topics.iter().chain(&self.topic_flags) {
            if !topics.contains(&topic.as_str()) {
                topics.push(topic);
            }
        }
        topics
    }

    /// Where to begin.
    pub fn from(&self) -> FromArg {
        let since = self.since.map(|since| FromArg::Timestamp(since.0));
        self.last.map(FromArg::Last).or(since).unwrap_or(self.from)
    }

    /// Whether this ends by itself.
    pub fn ends(&self) -> bool {
        self.exit_at_end || self.max.is_some() || self.until.is_some()
    }

    /// Whether this ends with what is there now, and waits for nothing that is still to be written.
    pub fn ends_now(&self) -> bool {
        self.exit_at_end || matches!(self.until, Some(UntilArg::Timestamp(_)))
    }
}

/// Which records of transactions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IsolationArg {
    /// Those of committed ones; what is behind an open one waits until it has ended
    Committed,
    /// All, those of open and aborted ones too
    Uncommitted,
}

impl From<IsolationArg> for Isolation {
    fn from(isolation: IsolationArg) -> Isolation {
        match isolation {
            IsolationArg::Committed => Isolation::Committed,
            IsolationArg::Uncommitted => Isolation::Uncommitted,
        }
    }
}

/// What `consume` does at a batch that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnBadBatchArg {
    /// End with an error that names the offset
    Stop,
    /// Go on behind it; what is skipped is told on stderr
    Skip,
}

impl From<OnBadBatchArg> for OnBadBatch {
    fn from(on_bad_batch: OnBadBatchArg) -> OnBadBatch {
        match on_bad_batch {
            OnBadBatchArg::Stop => OnBadBatch::Stop,
            OnBadBatchArg::Skip => OnBadBatch::Skip,
        }
    }
}

/// `consume` as a member of a group.
#[derive(Args, Debug)]
pub struct GroupArgs {
    /// Read as a member of this consumer group
    #[arg(short = 'g', long, value_name = "G", add = groups())]
    pub group: Option<String>,

    /// A name that this process has again when it is started again: it then goes on with its partitions
    #[arg(long, value_name = "I", requires = "group")]
    pub instance_id: Option<String>,

    /// When offsets are committed
    #[arg(long, value_enum, default_value_t = CommitArg::After, requires = "group")]
    pub commit: CommitArg,

    /// How long this may be silent before its partitions go to others, such as 10s; a plain number is milliseconds
    #[arg(
        long = "session-timeout",
        alias = "session-timeout-ms",
        value_name = "DURATION",
        default_value = "45s",
        value_parser = milliseconds_u32,
        requires = "group"
    )]
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
