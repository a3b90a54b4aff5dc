//! `exchange publish` and `tap`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::exchange::MatchArgs;
use super::message_args::MessageArgs;
use super::parse::{delimiter, separator, wait};
use super::queue_messages::{QueueOutput, QueueSendFormat};
use crate::complete::exchanges;
use crate::output::OutputArgs;

const PUBLISH_EXAMPLES: &str = "\
Examples:
  jangada exchange publish orders -k orders.eu.paid --body 'order 7'
  printf 'one\\ntwo\\n' | jangada exchange publish orders -k orders.eu.paid --mandatory
  printf 'orders.eu.paid 7\\norders.us.paid 8\\n' | jangada exchange publish orders -K ' '
  jangada exchange tap orders --key 'orders.#' -c 10 -o jsonl | jangada exchange publish copy --format jsonl";

const TAP_EXAMPLES: &str = "\
Examples:
  jangada exchange tap orders
  jangada exchange tap orders --key 'orders.*.paid' --key 'orders.eu.#' -o jsonl
  jangada exchange tap parcels --header region=north -c 10";

#[derive(Debug, Subcommand)]
pub enum ExchangeMessagesCommand {
    /// Publish lines of stdin or a file as messages, one a line
    Publish(PublishArgs),

    /// Print the messages that an exchange gets from now on, with their routing keys, until ctrl-c
    ///
    /// A queue is created for that, bound to the exchange, and deleted at the end. It keeps the newest 10,000 messages that were not
    /// printed yet, and is deleted by itself when it was not used for a minute. Where the exchange is to go with its last binding, and
    /// the tap's is the last one, the exchange goes with the tap. A direct exchange needs --key.
    Tap(TapArgs),
}

#[derive(Args, Debug)]
#[command(after_help = PUBLISH_EXAMPLES)]
pub struct PublishArgs {
    /// The exchange; an empty one is the default exchange, which leads to the queue that the routing key names
    #[arg(add = exchanges())]
    pub name: String,

    /// The routing key of every message
    #[arg(short = 'k', long, value_name = "KEY", conflicts_with = "key_separator")]
    pub key: Option<String>,

    /// The routing key ends and the body begins at the first of these in a line; a line without it is an error. \t is a tab
    #[arg(short = 'K', long, value_name = "S", value_parser = separator, conflicts_with = "format")]
    pub key_separator: Option<String>,

    /// Publish one message with this body, and read nothing
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["file", "delimiter", "key_separator", "format"])]
    pub body: Option<String>,

    /// Read this file instead of stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Messages end at this instead of a newline: \0, \n, \t, \r, \\ or any text
    #[arg(short = 'D', long, value_name = "S", value_parser = delimiter)]
    pub delimiter: Option<String>,

    /// What a line is. In a JSON object routing_key is the routing key, unless --key is given
    #[arg(long, value_enum, default_value_t = QueueSendFormat::Lines)]
    pub format: QueueSendFormat,

    /// Refuse messages for which no queue is bound, and end with an error if there are any. Otherwise they are dropped
    #[arg(long)]
    pub mandatory: bool,

    /// Messages with the same order key stay in their order in each queue
    #[arg(long, value_name = "KEY")]
    pub order_key: Option<String>,

    /// The key of every message in its queues, for queues with queue.order=key
    #[arg(long, value_name = "KEY")]
    pub message_key: Option<String>,

    #[command(flatten)]
    pub message: MessageArgs,

    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
#[command(after_help = TAP_EXAMPLES)]
pub struct TapArgs {
    /// The exchange
    #[arg(add = exchanges())]
    pub name: String,

    #[command(flatten)]
    pub matching: MatchArgs,

    /// End after so many messages
    #[arg(long, short = 'c', alias = "max-messages", value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,

    /// End when no message has come for so long, in seconds or with a unit
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub idle: Option<Duration>,

    /// How to print them: as lines with the routing key, a tab and the body
    #[arg(short = 'o', long, value_enum, default_value_t = QueueOutput::Lines)]
    pub output: QueueOutput,
}
