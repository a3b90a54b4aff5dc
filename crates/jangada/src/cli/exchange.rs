//! `exchange`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use jangada_client::{ExchangeKind, MatchMode};

use super::exchange_messages::ExchangeMessagesCommand;
use super::parse::{asked_header, pair};
use crate::complete::{exchanges, queues};
use crate::output::OutputArgs;

const BIND_EXAMPLES: &str = "\
Examples:
  jangada exchange bind orders --queue billing --key 'orders.*.paid' --key 'orders.*.refunded'
  jangada exchange bind orders --queue audit --queue archive --key '#'
  jangada exchange bind orders --exchange eu --key 'orders.eu.#'
  jangada exchange bind parcels --queue north --header region=north --header customer --match any";

#[derive(Debug, Subcommand)]
pub enum ExchangeCommand {
    /// Create an exchange, without bindings; when this returns, all brokers know it
    Create(CreateExchangeArgs),

    /// List all exchanges
    Ls {
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Show an exchange, its bindings, and the exchanges that lead to it
    Describe {
        /// The exchange
        #[arg(add = exchanges())]
        name: String,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Delete an exchange, with its bindings and those that lead to it; queues and their messages stay
    Rm {
        /// The exchange
        #[arg(add = exchanges())]
        name: String,

        /// Only if it has no bindings of its own
        #[arg(long)]
        if_unused: bool,

        /// Yes, delete it
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        output: OutputArgs,
    },

    /// Let an exchange's messages go to queues and exchanges: one binding for each of them and each key, all or none
    #[command(after_help = BIND_EXAMPLES)]
    Bind(BindArgs),

    /// Take bindings away, written as they were for `bind`, all or none
    Unbind(BindArgs),

    /// Show where a message would go, and by which bindings; nothing is published
    Trace(TraceArgs),

    #[command(flatten)]
    Messages(ExchangeMessagesCommand),
}

#[derive(Args, Debug)]
pub struct CreateExchangeArgs {
    /// 1 to 249 characters of A-Z a-z 0-9 . _ -; a queue or a topic may have the name, too
    pub name: String,

    /// How it finds the bindings of a message
    #[arg(long = "type", short = 't', value_enum, value_name = "TYPE")]
    pub kind: ExchangeKindArg,

    /// The exchange that gets what matches no binding; it need not be there
    #[arg(long, value_name = "EXCHANGE", add = exchanges())]
    pub alternate: Option<String>,

    /// It takes messages from other exchanges only
    #[arg(long)]
    pub internal: bool,

    /// It is deleted when its last binding is taken away
    #[arg(long)]
    pub auto_delete: bool,

    /// It has a log, which its queues are views over (queue create --exchange): for fan-out to very many
    #[arg(long, conflicts_with = "auto_delete")]
    pub with_log: bool,

    /// How many partitions the log has, from 1. Default: the brokers' setting cluster.default_partitions
    #[arg(long, value_name = "P", requires = "with_log", value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: Option<u32>,

    /// How many replicas each of them has, from 1. Default: the brokers' setting cluster.default_replicas
    #[arg(long, value_name = "R", requires = "with_log", value_parser = clap::value_parser!(u32).range(1..))]
    pub replicas: Option<u32>,

    /// A setting of the log, such as retention.ms=7d; may be given again
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", value_parser = pair, requires = "with_log")]
    pub config: Vec<(String, String)>,

    /// Do nothing if the exchange is there and is as asked for
    #[arg(long)]
    pub if_not_exists: bool,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// How an exchange finds bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExchangeKindArg {
    /// Those with the message's routing key
    Direct,
    /// All of them
    Fanout,
    /// Those whose pattern matches the routing key: * is one word between dots, # any number of words
    Topic,
    /// Those whose headers the message has
    Headers,
}

impl From<ExchangeKindArg> for ExchangeKind {
    fn from(kind: ExchangeKindArg) -> ExchangeKind {
        match kind {
            ExchangeKindArg::Direct => ExchangeKind::Direct,
            ExchangeKindArg::Fanout => ExchangeKind::Fanout,
            ExchangeKindArg::Topic => ExchangeKind::Topic,
            ExchangeKindArg::Headers => ExchangeKind::Headers,
        }
    }
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("destination").required(true).multiple(true).args(["queue", "to_exchange"])))]
pub struct BindArgs {
    /// The exchange that has the bindings
    #[arg(add = exchanges())]
    pub name: String,

    /// A queue that gets the messages, one with a log of its own; may be given again
    #[arg(long, value_name = "QUEUE", add = queues())]
    pub queue: Vec<String>,

    /// An exchange that gets the messages; may be given again
    #[arg(id = "to_exchange", long = "exchange", value_name = "EXCHANGE", add = exchanges())]
    pub exchange: Vec<String>,

    #[command(flatten)]
    pub matching: MatchArgs,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which messages a binding matches.
#[derive(Args, Clone, Debug, Default)]
pub struct MatchArgs {
    /// The routing key, or the pattern, such as orders.*.paid or orders.#; may be given again. Without one it is the empty
    /// key, and of `tap` every key
    #[arg(long, short = 'k', value_name = "KEY")]
    pub key: Vec<String>,

    /// A header that a headers exchange asks for, by value, or by name alone; may be given again
    #[arg(long, short = 'H', value_name = "NAME[=VALUE]", value_parser = asked_header)]
    pub header: Vec<(String, Option<String>)>,

    /// How many of the headers a message must have. Default with --header: all
    #[arg(long = "match", value_enum, value_name = "HOW")]
    pub mode: Option<MatchArg>,
}

/// How many headers are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MatchArg {
    /// All whose names do not begin with x-; without any, every message matches
    All,
    /// One whose name does not begin with x-
    Any,
    /// All, x- or not
    AllWithX,
    /// One, x- or not
    AnyWithX,
}

impl From<MatchArg> for MatchMode {
    fn from(mode: MatchArg) -> MatchMode {
        match mode {
            MatchArg::All => MatchMode::All,
            MatchArg::Any => MatchMode::Any,
            MatchArg::AllWithX => MatchMode::AllWithX,
            MatchArg::AnyWithX => MatchMode::AnyWithX,
        }
    }
}

#[derive(Args, Debug)]
pub struct TraceArgs {
    /// The exchange; an empty one is the default exchange
    #[arg(add = exchanges())]
    pub name: String,

    /// The message's routing key
    #[arg(long, short = 'k', value_name = "KEY", default_value = "")]
    pub key: String,

    /// A header of the message; may be given again
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = pair)]
    pub header: Vec<(String, String)>,

    #[command(flatten)]
    pub output: OutputArgs,
}
