//! Checks of what is wanted of exchanges. Clients name queues and exchanges; commands have their ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_routing::{Binding, Destination, Exchange, ExchangeKind, HeaderMatch};
use jangada_types::limits::{EXCHANGE_LOG_RETENTION_BYTES, EXCHANGE_LOG_RETENTION_MS};
use jangada_types::topic_config::key;
use jangada_types::{ExchangeId, Reason, Rejection};

use super::{placed, validate_counts};
use crate::command::Command;
use crate::exchange_rules;
use crate::image::Image;
use crate::placement::BrokerView;

/// An exchange that a client wants.
#[derive(Clone, Copy, Debug)]
pub struct NewExchange<'a> {
    /// The exchange's name.
    pub name: &'a str,
    /// How it is to find bindings.
    pub kind: ExchangeKind,
    /// The exchange that gets what matches no binding.
    pub alternate: Option<&'a str>,
    /// Whether messages come from other exchanges only.
    pub is_internal: bool,
    /// Whether it is deleted with its last binding.
    pub auto_delete: bool,
    /// Accept the exchange that exists instead of an error, if it is as wanted.
    pub if_not_exists: bool,
    /// Its log, if it is to have one.
    pub log: Option<NewLog<'a>>,
}

/// The log of an exchange that a client wants.
#[derive(Clone, Copy, Debug)]
pub struct NewLog<'a> {
    /// Number of partitions.
    pub partitions: u32,
    /// Number of replicas of each partition.
    pub replicas: u32,
    /// The settings of its topic that are set: those of retention, of segments, and the largest batch.
    pub config: &'a BTreeMap<String, String>,
}

/// The action for a wanted exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateExchange {
    /// Do nothing: the exchange exists, and that was allowed.
    Exists(Arc<Exchange>),
    /// Propose the command.
    Create(Command),
    /// Choose a placement of its log, and propose the exchange with that.
    Place,
}

/// Judges a wanted exchange. `exchange_id` is random.
pub fn validate_create_exchange(
    image: &Image,
    wanted: &NewExchange<'_>,
    exchange_id: ExchangeId,
) -> Result<CreateExchange, Rejection> {
    if let Some(exchange) = image.exchanges.named(wanted.name).filter(|_| wanted.if_not_exists) {
        is_as_wanted(image, exchange, wanted)?;
        return Ok(CreateExchange::Exists(Arc::clone(exchange)));
    }
    let exchange = Exchange {
        id: exchange_id,
        name: wanted.name.into(),
        kind: wanted.kind,
        alternate: wanted.alternate.map(Into::into),
        is_internal: wanted.is_internal,
        auto_delete: wanted.auto_delete,
        bindings: Arc::default(),
    };
    exchange_rules::new_exchange(image, &exchange)?;
    if let Some(log) = &wanted.log {
        exchange_rules::may_have_log(&exchange)?;
        exchange_rules::log_config(wanted.name, log.config)?;
        validate_counts(
            image,
            &exchange_rules::log_name(wanted.name),
            log.partitions,
            log.replicas,
        )?;
        return Ok(CreateExchange::Place);
    }
    Ok(CreateExchange::Create(Command::CreateExchange {
        exchange_id,
        name: wanted.name.to_owned(),
        exchange_kind: wanted.kind,
        alternate: wanted.alternate.map(str::to_owned),
        is_internal: wanted.is_internal,
        auto_delete: wanted.auto_delete,
    }))
}

/// Makes the command for an exchange with a log that was judged to be created. `exchange_id` and `seed` are random; `brokers` are those
/// that can take replicas now. Retention has bounds of its own where none are set.
pub fn place_exchange(
    wanted: &NewExchange<'_>,
    log: &NewLog<'_>,
    brokers: &[BrokerView],
    exchange_id: ExchangeId,
    seed: u64,
) -> Result<Command, Rejection> {
    let mut config = log.config.clone();
    for (key, value) in [
        (key::RETENTION_MS, EXCHANGE_LOG_RETENTION_MS),
        (key::RETENTION_BYTES, EXCHANGE_LOG_RETENTION_BYTES),
    ] {
        config.entry(key.to_owned()).or_insert_with(|| value.to_string());
    }
    let topic = exchange_rules::log_name(wanted.name);
    Ok(Command::CreateLoggedExchange {
        exchange_id,
        name: wanted.name.to_owned(),
        exchange_kind: wanted.kind,
        alternate: wanted.alternate.map(str::to_owned),
        is_internal: wanted.is_internal,
        config,
        assignments: placed(&topic, brokers, log.partitions, log.replicas, seed)?,
    })
}

fn is_as_wanted(image: &Image, exchange: &Exchange, wanted: &NewExchange<'_>) -> Result<(), Rejection> {
    let has_log = image.exchange_log(exchange.id).is_some();
    let alternate = exchange.alternate.as_deref();
    let said = |name: Option<&str>| name.map_or("none".to_owned(), |name| format!("{name:?}"));
    let differs = [
        (
            "kind",
            exchange.kind.as_str().to_owned(),
            wanted.kind.as_str().to_owned(),
        ),
        ("alternate exchange", said(alternate), said(wanted.alternate)),
        (
            "internal",
            exchange.is_internal.to_string(),
            wanted.is_internal.to_string(),
        ),
        (
            "auto-delete",
            exchange.auto_delete.to_string(),
            wanted.auto_delete.to_string(),
        ),
        ("log", has_log.to_string(), wanted.log.is_some().to_string()),
    ];
    match differs.iter().find(|(_, has, wants)| has != wants) {
        None => Ok(()),
        Some((what, has, wants)) => Err(Rejection::new(
            Reason::ExchangeExists,
            format!(
                "exchange {:?} exists already with {what} {has}, not {wants}: use it as it is, or choose another name",
                exchange.name
            ),
        )
        .with("exchange_id", exchange.id)
        .with("expected", wants)
        .with("actual", has)),
    }
}

/// Judges the deletion of an exchange.
pub fn validate_delete_exchange(image: &Image, name: &str, if_unused: bool) -> Result<Command, Rejection> {
    let exchange = exchange_rules::exchange_by_name(image, name)?;
    exchange_rules::may_delete(image, exchange, if_unused)?;
    Ok(Command::DeleteExchange {
        exchange_id: exchange.id,
        if_unused,
    })
}

/// Where a wanted binding leads, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationName<'a> {
    /// To the queue of this name.
    Queue(&'a str),
    /// To the exchange of this name.
    Exchange(&'a str),
}

/// A binding that a client wants, or no longer wants.
#[derive(Clone, Debug)]
pub struct NewBinding<'a> {
    /// Where it leads.
    pub destination: DestinationName<'a>,
    /// The key, or the pattern.
    pub routing_key: &'a str,
    /// What it asks of headers.
    pub headers: Option<HeaderMatch>,
}

/// Judges bindings that an exchange is to get.
pub fn validate_bind(image: &Image, exchange: &str, wanted: &[NewBinding<'_>]) -> Result<Command, Rejection> {
    let exchange = exchange_rules::exchange_by_name(image, exchange)?;
    let bindings: Vec<Binding> = wanted
        .iter()
        .map(|wanted| binding(image, wanted))
        .collect::<Result<_, _>>()?;
    exchange_rules::new_bindings(image, exchange, &bindings)?;
    Ok(Command::Bind {
        exchange_id: exchange.id,
        bindings,
    })
}

/// Judges bindings that an exchange is to lose. One that it does not have is no error, but what it leads to must be there: a name that is
/// wrong is told.
pub fn validate_unbind(image: &Image, exchange: &str, wanted: &[NewBinding<'_>]) -> Result<Command, Rejection> {
    let exchange = exchange_rules::exchange_by_name(image, exchange)?;
    let bindings: Vec<Binding> = wanted
        .iter()
        .map(|wanted| binding(image, wanted))
        .collect::<Result<_, _>>()?;
    exchange_rules::may_unbind(image, exchange, &bindings)?;
    Ok(Command::Unbind {
        exchange_id: exchange.id,
        bindings,
    })
}

fn binding(image: &Image, wanted: &NewBinding<'_>) -> Result<Binding, Rejection> {
    let destination = match wanted.destination {
        DestinationName::Exchange(name) => Destination::Exchange(exchange_rules::exchange_by_name(image, name)?.id),
        DestinationName::Queue(name) => {
            let queue = image.queue_by_name(name).ok_or_else(|| {
                Rejection::new(
                    Reason::UnknownQueue,
                    format!("there is no queue {name:?} to bind: list the queues to see what exists"),
                )
            })?;
            Destination::Queue(queue.id)
        }
    };
    Ok(Binding {
        destination,
        routing_key: wanted.routing_key.into(),
        headers: wanted.headers.clone().map(Arc::new),
    })
}
