//! `jangada exchange ...`: creates, shows, binds and deletes exchanges, and says where a message would go.

use jangada_client::{Admin, Binding, ExchangeLog, Header, HeaderMatch, MatchMode, NewExchange};
use serde_json::json;

use super::exchange_messages;
use super::exchange_views::{Exchange, Exchanges, Traced};
use super::settings::by_key;
use super::topic::counted;
use crate::brokers::Brokers;
use crate::cli::{BindArgs, CreateExchangeArgs, ExchangeCommand, MatchArgs, TraceArgs};
use crate::connect::{connect, connect_to_create};
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::output::Output;

pub async fn run(brokers: &Brokers, command: ExchangeCommand) -> Result<()> {
    match command {
        ExchangeCommand::Messages(command) => exchange_messages::run(brokers, command).await,
        ExchangeCommand::Create(args) => create(&connect_to_create(brokers).await?.admin(), args).await,
        ExchangeCommand::Ls { output } => {
            let admin = connect(brokers).await?.admin();
            output.show(&Exchanges(admin.list_exchanges().await?))
        }
        ExchangeCommand::Describe { name, output } => {
            let admin = connect(brokers).await?.admin();
            output.show(&Exchange(admin.describe_exchange(&name).await?))
        }
        ExchangeCommand::Rm { name, yes: false, .. } => {
            let message = format!("exchange {name:?} and its bindings would be deleted for good: say so with --yes");
            Err(CliError::usage(message).hint("nothing was deleted"))
        }
        ExchangeCommand::Rm {
            name,
            if_unused,
            output,
            ..
        } => {
            let admin = connect_to_create(brokers).await?.admin();
            let version = admin.delete_exchange(&name, if_unused).await?;
            output.done(&format!("deleted exchange {name}"), json!({ "version": version }))
        }
        ExchangeCommand::Bind(args) => bind(&connect_to_create(brokers).await?.admin(), args).await,
        ExchangeCommand::Unbind(args) => unbind(&connect_to_create(brokers).await?.admin(), args).await,
        ExchangeCommand::Trace(args) => trace(&connect(brokers).await?.admin(), args).await,
    }
}

async fn create(admin: &Admin, args: CreateExchangeArgs) -> Result<()> {
    let config = by_key(args.config)?;
    let log = args.with_log.then(|| ExchangeLog {
        partitions: args.partitions.unwrap_or(0),
        replicas: args.replicas.unwrap_or(0),
        config,
    });
    let exchange = NewExchange {
        alternate: args.alternate,
        is_internal: args.internal,
        auto_delete: args.auto_delete,
        if_not_exists: args.if_not_exists,
        log,
        ..NewExchange::new(args.name.as_str(), args.kind.into())
    };
    let kind = exchange.kind.as_str();
    let created = admin.create_exchange(exchange).await?;
    let sentence = match created.created {
        true => format!("created {kind} exchange {}", args.name),
        false => format!("exchange {} exists already and was not changed", args.name),
    };
    let json = json!({
        "exchange_id": created.exchange_id.to_string(),
        "created": created.created,
        "version": created.version,
    });
    args.output.done(&sentence, json)
}

async fn bind(admin: &Admin, args: BindArgs) -> Result<()> {
    let bindings = bindings(&args)?;
    let count = u32::try_from(bindings.len()).unwrap_or(u32::MAX);
    let version = admin.bind(&args.name, bindings).await?;
    let sentence = format!("exchange {} has {}", args.name, these(count));
    args.output.done(&sentence, json!({ "version": version }))
}

async fn unbind(admin: &Admin, args: BindArgs) -> Result<()> {
    let bindings = bindings(&args)?;
    let count = u32::try_from(bindings.len()).unwrap_or(u32::MAX);
    let version = admin.unbind(&args.name, bindings).await?;
    let sentence = format!("exchange {} has no longer {}", args.name, these(count));
    args.output.done(&sentence, json!({ "version": version }))
}

fn these(count: u32) -> String {
    match count {
        1 => "this binding".to_owned(),
        _ => format!("these {}", counted(count, "binding")),
    }
}

/// One binding for each destination and key.
fn bindings(args: &BindArgs) -> Result<Vec<Binding>> {
    let queues = args.queue.iter().map(Binding::to_queue);
    let exchanges = args.exchange.iter().map(Binding::to_exchange);
    let to = queues.chain(exchanges);
    let matching = matching(&args.matching)?;
    let each = to.flat_map(|to| matching.iter().map(move |asked| as_asked(to.clone(), asked)));
    Ok(each.collect())
}

/// A binding that matches what another one does.
pub(super) fn as_asked(to: Binding, asked: &Binding) -> Binding {
    Binding {
        destination: to.destination,
        ..asked.clone()
    }
}

/// What bindings are to match: one for each key, to nowhere as yet.
pub(super) fn matching(args: &MatchArgs) -> Result<Vec<Binding>> {
    let mut asked: Option<HeaderMatch> = args.mode.map(|mode| HeaderMatch::new(mode.into()));
    for (key, value) in &args.header {
        let asked = asked.get_or_insert_with(|| HeaderMatch::new(MatchMode::All));
        if asked.headers.iter().any(|header| header.key == *key) {
            return Err(CliError::usage(format!("header {key} is given twice")));
        }
        asked.headers.push(Header {
            key: key.clone(),
            value: value.as_ref().map(|value| value.clone().into()),
        });
    }
    let keys = match args.key.is_empty() {
        true => vec![String::new()],
        false => args.key.clone(),
    };
    let binding = |key: String| Binding {
        headers: asked.clone(),
        ..Binding::to_queue("").with_key(key)
    };
    Ok(keys.into_iter().map(binding).collect())
}

async fn trace(admin: &Admin, args: TraceArgs) -> Result<()> {
    let header = |(key, value): &(String, String)| Header {
        key: key.clone(),
        value: Some(value.clone().into()),
    };
    let headers: Vec<Header> = args.header.iter().map(header).collect();
    let trace = admin.trace_message(&args.name, &args.key, &headers).await?;
    let is_unroutable = trace.queues.is_empty();
    args.output.show(&Traced(trace))?;
    if is_unroutable && args.output.output == Output::Table {
        note("no queue is bound for it: the message is unroutable");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jangada_client::BindingDestination;

    use super::*;
    use crate::cli::{Cli, Command};

    fn bound(line: &str) -> Result<Vec<Binding>> {
        let cli: Cli = clap::Parser::try_parse_from(line.split_whitespace()).expect("it is right");
        match cli.command {
            Command::Exchange(ExchangeCommand::Bind(args)) => bindings(&args),
            _ => panic!("it binds"),
        }
    }

    #[test]
    fn there_is_a_binding_for_each_destination_and_key() {
        let bound = bound("jangada exchange bind e --queue q --exchange f -k a.* -k b").expect("it is right");
        let expected = [
            Binding::to_queue("q").with_key("a.*"),
            Binding::to_queue("q").with_key("b"),
            Binding::to_exchange("f").with_key("a.*"),
            Binding::to_exchange("f").with_key("b"),
        ];
        assert_eq!(bound, expected);
    }

    #[test]
    fn headers_are_asked_for_when_something_is_said_of_them() {
        let none = bound("jangada exchange bind e --queue q").expect("it is right");
        assert_eq!(none, [Binding::to_queue("q")]);
        let all = bound("jangada exchange bind e --queue q --match all").expect("it is right");
        let asked = HeaderMatch::new(MatchMode::All);
        assert_eq!(all, [Binding::to_queue("q").with_headers(asked)]);
        let any = bound("jangada exchange bind e --queue q -H a=1 -H b --match any").expect("it is right");
        let asked = HeaderMatch::new(MatchMode::Any).with_header("a", "1").with_name("b");
        assert_eq!(any[0].headers, Some(asked));
        assert_eq!(any[0].destination, BindingDestination::Queue("q".to_owned()));
        let twice = bound("jangada exchange bind e --queue q -H a=1 -H a").expect_err("it contradicts itself");
        assert!(twice.is_usage());
    }
}
