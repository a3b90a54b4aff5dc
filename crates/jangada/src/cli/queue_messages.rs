//! `queue send`, `receive`, `consume`, `peek`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jangada_client::MessageState;

use super::message_args::MessageArgs;
use super::parse::{delimiter, separator, wait};
use crate::complete::queues;

const SEND_EXAMPLES: &str = "\
Examples:
  printf 'one\\ntwo\\n' | jangada queue send jobs
  echo 'remind me' | jangada queue send jobs --delay 2h
  echo '{\"id\":7}' | jangada queue send jobs -k customer-7 --message-id order-7 -H source=import
  jangada queue receive jobs --max 100 -o jsonl | jangada queue send copy --format jsonl";

#[derive(Debug, Subcommand)]
pub enum QueueMessagesCommand {
    /// Send lines of stdin or a file as messages, one a line
    Send(QueueSendArgs),

    /// Receive messages once, and print them
    Receive(QueueReceiveArgs),

    /// Print messages as they come, and acknowledge each when it is printed
    Consume(QueueConsumeArgs),

    /// Show messages without taking them
    Peek(QueuePeekArgs),
}

#[derive(Args, Debug)]
#[command(after_help = SEND_EXAMPLES)]
pub struct QueueSendArgs {
    /// The queue
    #[arg(add = queues())]
    pub queue: String,

    /// Read this file instead of stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The key ends and the body begins at the first of these in a line; a line without it is an error. \t is a tab
    #[arg(short = 'K', long, value_name = "S", value_parser = separator, conflicts_with = "format")]
    pub key_separator: Option<String>,

    /// The key of every message, for queues with queue.order=key
    #[arg(short = 'k', long, value_name = "KEY", conflicts_with_all = ["key_separator", "format"])]
    pub key: Option<String>,

    /// Messages end at this instead of a newline: \0, \n, \t, \r, \\ or any text
    #[arg(short = 'D', long, value_name = "S", value_parser = delimiter)]
    pub delimiter: Option<String>,

    /// What a line is
    #[arg(long, value_enum, default_value_t = QueueSendFormat::Lines)]
    pub format: QueueSendFormat,

    #[command(flatten)]
    pub message: MessageArgs,
}

/// What a line of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueueSendFormat {
    /// The body, or key and body with --key-separator
    Lines,
    /// A JSON object: body or body_base64, key or key_base64, headers, message_id, priority, delay_ms or deliver_at_ms, ttl_ms. What
    /// receive, consume, peek and tap write besides is ignored
    Jsonl,
}

/// How messages are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueueOutput {
    /// The body and a newline
    Lines,
    /// A JSON object for each message
    Jsonl,
}

#[derive(Args, Debug)]
pub struct QueueReceiveArgs {
    /// The queue
    #[arg(add = queues())]
    pub queue: String,

    /// At most so many messages, up to 1000
    #[arg(long, short = 'c', alias = "max-messages", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max: u32,

    /// Wait so long for the first one, in seconds or with a unit, up to a minute
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = wait)]
    pub wait: Duration,

    /// How long the messages are leased, in seconds or with a unit. Default: as the queue says
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub lease: Option<Duration>,

    /// Only messages of this partition
    #[arg(short = 'p', long, value_name = "P")]
    pub partition: Option<u32>,

    /// Acknowledge the messages when they are printed; else they go out again when their lease is over
    #[arg(long)]
    pub ack: bool,

    /// How to print them
    #[arg(short = 'o', long, value_enum, default_value_t = QueueOutput::Lines)]
    pub output: QueueOutput,
}

#[derive(Args, Debug)]
pub struct QueueConsumeArgs {
    /// The queue
    #[arg(add = queues())]
    pub queue: String,

    /// End after so many messages
    #[arg(long, short = 'c', alias = "max-messages", value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,

    /// End when no message has come for so long, in seconds or with a unit
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub idle: Option<Duration>,

    /// Messages that each broker sends ahead
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub prefetch: u32,

    /// How long messages are leased before the lease is extended, in seconds or with a unit. Default: as the queue says
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub lease: Option<Duration>,

    /// How to print them
    #[arg(short = 'o', long, value_enum, default_value_t = QueueOutput::Lines)]
    pub output: QueueOutput,
}

#[derive(Args, Debug)]
pub struct QueuePeekArgs {
    /// The queue
    #[arg(add = queues())]
    pub queue: String,

    /// Only messages of this partition
    #[arg(short = 'p', long, value_name = "P")]
    pub partition: Option<u32>,

    /// Only messages in this state; may be given again
    #[arg(long, value_enum)]
    pub state: Vec<StateArg>,

    /// At most so many messages of each partition
    #[arg(long, short = 'c', default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub max: u64,

    /// How to print them; as JSON with state, counters and times
    #[arg(short = 'o', long, value_enum, default_value_t = QueueOutput::Jsonl)]
    pub output: QueueOutput,
}

/// What a message does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// It may go out, or is delayed
    Ready,
    /// A consumer has it
    Leased,
    /// It has failed, and goes out again later
    Waiting,
    /// It is a dead letter
    Dead,
    /// It is on its way to another topic
    Moving,
}

impl From<StateArg> for MessageState {
    fn from(state: StateArg) -> MessageState {
        match state {
            StateArg::Ready => MessageState::Ready,
            StateArg::Leased => MessageState::Leased,
            StateArg::Waiting => MessageState::Waiting,
            StateArg::Dead => MessageState::Dead,
            StateArg::Moving => MessageState::Moving,
        }
    }
}
