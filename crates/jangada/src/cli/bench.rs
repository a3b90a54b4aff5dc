//! `bench`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::consume::IsolationArg;
use super::parse::{bytes, milliseconds, wait};
use super::produce::CompressionArg;
use crate::complete::{queues, topics};
use crate::output::OutputArgs;

/// Records a second. Slower, a run has no second record; faster, no machine can send, and the time between two is less than a clock
/// shows.
const RATES: RangeInclusive<f64> = 0.001..=1e8;

/// Reads how many records a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match RATES.contains(&rate) {
        true => Ok(rate),
        false => Err(format!("{rate} is not in {} to {}", RATES.start(), RATES.end())),
    }
}

/// The same; 0: as fast as possible.
fn rate_or_none(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(0.0) => Ok(0.0),
        _ => rate(text),
    }
}

/// Reads how long a run takes, in whole seconds.
fn whole_seconds(text: &str) -> Result<u64, String> {
    let wanted = wait(text)?;
    match wanted.as_secs() {
        0 => Err("at least a second".to_owned()),
        seconds => Ok(seconds),
    }
}

/// The same; 0: not at all.
fn whole_seconds_or_none(text: &str) -> Result<u64, String> {
    Ok(wait(text)?.as_secs())
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Write records to a topic: throughput, or with --in-flight 1 the latency of one after the other
    Produce(ProduceBench),

    /// Read a topic from its start
    Consume(ConsumeBench),

    /// Write at a steady rate and read along: the time from the scheduled send to the consumer
    E2e(E2eBench),

    /// Send messages to a queue and work on them along: rates, and the time from the scheduled send to the consumer
    Queue(QueueBench),

    /// Write in transactions: the time of a commit beside that of a plain record, and throughput of both
    Txn(TxnBench),

    /// Write batches to the store alone, without network or replication
    Store(StoreBench),

    /// Write and sync a plain file, the baseline of all else
    Disk(DiskBench),
}

/// Whose CPU time to count beside the command's own.
#[derive(Args, Clone, Debug, Default)]
pub struct CpuArgs {
    /// Count the CPU time of these processes too, such as the brokers
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    pub pids: Vec<u32>,

    /// Count the CPU time of the brokers that `up` started in this directory
    #[arg(long = "cluster-dir", value_name = "DIR", conflicts_with = "pids")]
    pub cluster_dir: Option<PathBuf>,
}

/// What records are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PayloadKind {
    /// Bytes that do not compress
    Random,
    /// Words that compress to about a third
    Text,
}

#[derive(Args, Debug)]
pub struct ProduceBench {
    /// The topic; it must exist
    #[arg(long, add = topics())]
    pub topic: String,

    /// Records a second, on a schedule that does not wait for answers, 0.001 to 100000000; 0: as fast as possible
    #[arg(long, default_value_t = 0.0, value_name = "PER_SECOND", value_parser = rate_or_none, allow_negative_numbers = true)]
    pub rate: f64,

    /// Size of a record's value
    #[arg(long, default_value_t = 1024, value_parser = bytes::<u32>(1..=1_000_000))]
    pub record_bytes: u32,

    /// How much to write. Default: 1 GiB; with --in-flight 1: 10,000 records
    #[arg(long, conflicts_with = "samples", value_parser = bytes::<u64>(0..=u64::MAX))]
    pub total_bytes: Option<u64>,

    /// How many records to write, instead of --total-bytes
    #[arg(long)]
    pub samples: Option<u64>,

    /// Batches in flight for each partition, 1 to 5; with 1, and unless --batch-bytes is given, each record is sent
    /// when the one before it is acknowledged
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=5))]
    pub in_flight: u16,

    /// Size of a batch
    #[arg(long, value_parser = bytes::<u32>(0..=u64::from(u32::MAX)))]
    pub batch_bytes: Option<u32>,

    /// How long a batch waits for more records
    #[arg(long = "linger", alias = "linger-ms", value_name = "DURATION", default_value = "5ms", value_parser = milliseconds)]
    pub linger_ms: u64,

    /// Memory for records that wait for their answer
    #[arg(long, default_value_t = 64 << 20, value_parser = bytes::<u32>(0..=u64::from(u32::MAX)))]
    pub buffer_bytes: u32,

    /// How batches are compressed
    #[arg(long, value_enum, default_value_t = CompressionArg::None)]
    pub compression: CompressionArg,

    /// What records are filled with
    #[arg(long, value_enum, default_value_t = PayloadKind::Random)]
    pub payload: PayloadKind,

    /// Give the records so many keys, each again and again, as a compacted topic has them; 0: none
    #[arg(long, default_value_t = 0)]
    pub keys: u64,

    /// Not counted: this much is written first
    #[arg(long, default_value_t = 0, value_parser = bytes::<u64>(0..=u64::MAX))]
    pub warmup_bytes: u64,

    #[command(flatten)]
    pub cpu: CpuArgs,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct ConsumeBench {
    /// The topic
    #[arg(long, add = topics())]
    pub topic: String,

    /// Decode every record, as a consumer does, instead of only taking the batches
    #[arg(long)]
    pub decode: bool,

    /// Which records of transactions are read
    #[arg(long, value_enum, default_value_t = IsolationArg::Committed)]
    pub isolation: IsolationArg,

    /// Memory for what is read ahead
    #[arg(long, default_value_t = 32 << 20, value_parser = bytes::<u32>(0..=u64::from(u32::MAX)))]
    pub prefetch_bytes: u32,

    #[command(flatten)]
    pub cpu: CpuArgs,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct E2eBench {
    /// The topic; it must exist, and nobody else may write to it meanwhile
    #[arg(long, add = topics())]
    pub topic: String,

    /// Records a second, 0.001 to 100000000
    #[arg(long, default_value_t = 1000.0, value_name = "PER_SECOND", value_parser = rate, allow_negative_numbers = true)]
    pub rate: f64,

    /// How long, 1 s to a day: seconds, or with a unit
    #[arg(long = "duration", alias = "seconds", value_name = "DURATION", default_value = "10s", value_parser = whole_seconds)]
    pub seconds: u64,

    /// Size of a record's value
    #[arg(long, default_value_t = 1024, value_parser = bytes::<u32>(16..=1_000_000))]
    pub record_bytes: u32,

    /// How long a batch waits for more records
    #[arg(long = "linger", alias = "linger-ms", value_name = "DURATION", default_value = "0", value_parser = milliseconds)]
    pub linger_ms: u64,

    #[command(flatten)]
    pub cpu: CpuArgs,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct QueueBench {
    /// The queue; it must exist, be empty but with --only receive, and nobody else may use it meanwhile
    #[arg(long, add = queues())]
    pub queue: String,

    /// Producers, each with a task and requests of its own
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub producers: u32,

    /// Consumers, each with streams of its own
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub consumers: u32,

    /// Messages a second of all producers, on a schedule that does not wait for answers as long as --in-flight allows, 0.001 to
    /// 100000000; 0: as fast as possible
    #[arg(long, default_value_t = 0.0, value_name = "PER_SECOND", value_parser = rate_or_none, allow_negative_numbers = true)]
    pub rate: f64,

    /// How long, with --rate, 1 s to a day: seconds, or with a unit
    #[arg(long = "duration", alias = "seconds", value_name = "DURATION", default_value = "10s", value_parser = whole_seconds)]
    pub seconds: u64,

    /// How many messages to send. Default: 100,000, or with --rate as many as --duration has
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 28))]
    pub messages: Option<u64>,

    /// Size of a message's body
    #[arg(long, default_value_t = 1024, value_parser = bytes::<u32>(16..=1_000_000))]
    pub message_bytes: u32,

    /// Messages that a producer sends at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub batch: u32,

    /// Batches of a producer that wait for their answer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub in_flight: u32,

    /// Messages that each broker sends a consumer ahead
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub prefetch: u32,

    /// Do half of it: only send --messages, or only take so many that are there already
    #[arg(long, value_enum)]
    pub only: Option<QueueHalf>,

    /// Keep the messages that were taken instead of acknowledging them, until the memory of the named processes was read. The consumers
    /// must have a --prefetch for all of them
    #[arg(long)]
    pub hold: bool,

    /// Wait so long before the memory of the named processes is read at the end
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = wait)]
    pub rest: Duration,

    /// Messages that a consumer of its own takes before the others and keeps until the end
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000), conflicts_with = "only")]
    pub stuck: u32,

    /// Give the messages so many keys in turn; the queue needs queue.order=key. 0: none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1 << 28))]
    pub keys: u64,

    /// Messages of one more key, sent before the others: each fails whenever it comes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1 << 24), requires = "keys")]
    pub poisoned: u64,

    /// The first message is due so long after the start. They must all be sent by then; the latency is how late they come, and the rate
    /// counts from then on
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = wait, conflicts_with = "rate")]
    pub delay: Duration,

    /// The last message is due so long after the first
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = wait, requires = "delay")]
    pub spread: Duration,

    #[command(flatten)]
    pub cpu: CpuArgs,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct TxnBench {
    /// The topic; it must exist
    #[arg(long, add = topics())]
    pub topic: String,

    /// Transactions whose times are measured, one after the other
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=1 << 24))]
    pub transactions: u64,

    /// Records of each of them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub records: u32,

    /// Only the first so many partitions of the topic get records. Default: all
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub partitions: Option<u32>,

    /// A commit is answered when it is decided, as Kafka does, and not when all partitions know
    #[arg(long)]
    pub early: bool,

    /// Each of them also commits an offset of this group, which must have no members
    #[arg(long, value_name = "G")]
    pub group: Option<String>,

    /// Size of a record's value
    #[arg(long, default_value_t = 1024, value_parser = bytes::<u32>(1..=1_000_000))]
    pub record_bytes: u32,

    /// How long each of the two measurements of throughput takes, up to a day: seconds, or with a unit. 0: none
    #[arg(long = "duration", alias = "seconds", value_name = "DURATION", default_value = "10s", value_parser = whole_seconds_or_none)]
    pub seconds: u64,

    /// How long a transaction of the measurement of throughput is open
    #[arg(long = "interval", value_name = "DURATION", default_value = "100ms", value_parser = milliseconds)]
    pub interval_ms: u64,

    /// The transactional id; whoever has it is fenced
    #[arg(long, value_name = "ID", default_value = "jangada-bench")]
    pub transactional_id: String,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is done of sending and receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueueHalf {
    /// Messages are sent and stay in the queue
    Send,
    /// Messages that are in the queue are taken
    Receive,
}

impl QueueBench {
    /// Messages to send by default, as fast as possible.
    pub const MESSAGES: u64 = 100_000;
}

#[derive(Args, Debug)]
pub struct StoreBench {
    /// An empty or new directory; what is written stays there
    #[arg(long)]
    pub dir: PathBuf,

    /// How much to write
    #[arg(long, default_value_t = 4 << 30, value_parser = bytes::<u64>(0..=u64::MAX))]
    pub total_bytes: u64,

    /// Size of a log entry
    #[arg(long, default_value_t = 64 << 10, value_parser = bytes::<u32>(1..=8_388_608))]
    pub batch_bytes: u32,

    /// Groups (partitions) that the entries go to in turn
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub groups: u64,

    /// Entries that are written and not yet durable
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,

    /// Then read everything back, in order, and measure that
    #[arg(long)]
    pub scan: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct DiskBench {
    /// Where the file goes; it is deleted at the end
    #[arg(long)]
    pub dir: PathBuf,

    /// How much to write
    #[arg(long, default_value_t = 1 << 30, conflicts_with = "samples", value_parser = bytes::<u64>(0..=u64::MAX))]
    pub total_bytes: u64,

    /// How many writes to make, instead of --total-bytes
    #[arg(long)]
    pub samples: Option<u64>,

    /// Size of a write; each is synced
    #[arg(long, default_value_t = 1 << 20, value_parser = bytes::<u32>(1..=67_108_864))]
    pub batch_bytes: u32,

    /// Where writes go
    #[arg(long, value_enum, default_value_t = DiskMode::Append)]
    pub mode: DiskMode,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiskMode {
    /// To the end of the file, so that a sync also writes the file system's allocation
    Append,
    /// Over blocks that were written and synced before
    Overwrite,
}
