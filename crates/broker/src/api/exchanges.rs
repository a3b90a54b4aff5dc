//! Exchanges and bindings as objects of the cluster: created, listed, described, bound, traced and deleted. Clients name queues and
//! exchanges; the metadata have their ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::admission::exchanges::{
    CreateExchange, DestinationName, NewBinding, NewExchange, NewLog, place_exchange, validate_bind,
    validate_create_exchange, validate_delete_exchange, validate_unbind,
};
use jangada_controller::admission::validate_replicas_per_broker;
use jangada_controller::{Command, EXCHANGES_FEATURE_LEVEL, Image, Topic};
use jangada_routing::exchange::PREDECLARED;
use jangada_routing::{Binding, CameBy, Destination, Exchange, ExchangeKind, HeaderMatch, Hop, Message};
use jangada_types::limits::ROUTING_KEY_BYTES_MAX;
use jangada_types::{ExchangeId, Header, Reason, TopicId};

use super::leaders_known::{await_leaders, await_version};
use super::topics;
use crate::cluster::placement::can_take_replicas;
use crate::error::RequestError;
use crate::node::Node;

/// Bindings that one answer shows, and their bytes: it fits into a response with the longest of them.
const BINDINGS_SHOWN_MAX: usize = 10_000;
const BINDINGS_SHOWN_BYTES_MAX: usize = 8 << 20;
/// Bindings that the hops of a message show together.
const MATCHES_SHOWN_MAX: usize = 2_000;

/// An exchange that a client wants.
#[derive(Debug)]
pub(crate) struct ExchangeWanted {
    pub name: String,
    pub kind: ExchangeKind,
    pub alternate: Option<String>,
    pub is_internal: bool,
    pub auto_delete: bool,
    /// An exchange of that name that is as wanted is the answer, and no error.
    pub if_not_exists: bool,
    /// The log that it is to have.
    pub log: Option<LogWanted>,
}

/// The log of an exchange that is wanted.
#[derive(Debug)]
pub(crate) struct LogWanted {
    /// 0: as the settings say.
    pub partitions: u32,
    /// 0: as the settings say.
    pub replicas: u32,
    pub config: BTreeMap<String, String>,
}

/// The exchange that is there now.
#[derive(Debug)]
pub(crate) struct ExchangeCreated {
    pub id: ExchangeId,
    /// False: it was there before.
    pub created: bool,
    /// The version of the metadata that has it.
    pub version: u64,
}

/// Where a binding leads, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamedDestination {
    Queue(Arc<str>),
    Exchange(Arc<str>),
}

/// A binding as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedBinding {
    pub destination: NamedDestination,
    pub routing_key: Arc<str>,
    pub headers: Option<Arc<HeaderMatch>>,
}

/// An exchange with its bindings, or some of them.
pub(crate) struct ExchangeFound {
    pub exchange: Arc<Exchange>,
    /// The topic that is its log.
    pub log: Option<Arc<Topic>>,
    pub bindings: Vec<NamedBinding>,
    /// The exchanges that have bindings to it, by id.
    pub bound_from: Vec<Arc<str>>,
    /// The version of the metadata that this is from.
    pub version: u64,
}

/// The way of a message.
#[derive(Debug)]
pub(crate) struct MessageTraced {
    pub hops: Vec<NamedHop>,
    /// The names of the queues that get it, in their order.
    pub queues: Vec<Arc<str>>,
    /// The version of the metadata that this is from.
    pub version: u64,
}

/// An exchange that a message passes.
#[derive(Debug)]
pub(crate) struct NamedHop {
    pub exchange: Arc<str>,
    pub kind: ExchangeKind,
    pub came_by: CameBy,
    /// The first of the bindings that match.
    pub matched: Vec<NamedBinding>,
    pub matched_count: usize,
    pub missing_alternate: Option<Arc<str>>,
}

/// An exchange, and the topic that is its log.
pub(crate) type WithLog = (Arc<Exchange>, Option<Arc<Topic>>);

/// The exchanges by name, and the version of the metadata that has them.
pub(crate) fn list(node: &Node) -> (Vec<WithLog>, u64) {
    let image = node.metadata.image();
    let with_log = |exchange: &Arc<Exchange>| (exchange.clone(), image.exchange_log(exchange.id).cloned());
    let exchanges = image.exchange_table().by_name().map(with_log).collect();
    (exchanges, image.version())
}

/// One exchange, with its bindings behind the first `skip`.
///
/// # Errors
/// Those of `DescribeExchange` in the contract.
pub(crate) async fn describe(node: &Arc<Node>, name: &str, skip: usize) -> Result<ExchangeFound, RequestError> {
    check_named(name)?;
    ensure(node, name).await?;
    let image = node.metadata.image();
    let exchanges = image.exchange_table();
    let exchange = exchanges.named(name).ok_or_else(|| unknown(name))?;
    let mut bytes = 0;
    let shown = exchange.bindings.iter().skip(skip).take(BINDINGS_SHOWN_MAX);
    let shown = shown.map(|binding| named(&image, binding)).take_while(|binding| {
        bytes += shown_bytes(binding);
        bytes <= BINDINGS_SHOWN_BYTES_MAX
    });
    let sources = exchanges.sources(Destination::Exchange(exchange.id));
    Ok(ExchangeFound {
        exchange: exchange.clone(),
        log: image.exchange_log(exchange.id).cloned(),
        bindings: shown.collect(),
        bound_from: sources.map(|source| source.name.clone()).collect(),
        version: image.version(),
    })
}

/// Creates an exchange, and returns when every live broker knows it.
///
/// # Errors
/// Those of `CreateExchange` in the contract.
pub(crate) async fn create(node: &Arc<Node>, wanted: ExchangeWanted) -> Result<ExchangeCreated, RequestError> {
    let image = node.metadata.image();
    let log = wanted.log.as_ref().map(|log| {
        let (partitions, replicas) = topics::counts_or_defaults(node, &image, log.partitions, log.replicas);
        NewLog {
            partitions,
            replicas,
            config: &log.config,
        }
    });
    let new = NewExchange {
        name: &wanted.name,
        kind: wanted.kind,
        alternate: wanted.alternate.as_deref(),
        is_internal: wanted.is_internal,
        auto_delete: wanted.auto_delete,
        if_not_exists: wanted.if_not_exists,
        log,
    };
    let random = node.env.random.new_id().as_u128();
    let id = ExchangeId(random);
    let command = match (validate_create_exchange(&image, &new, id)?, &log) {
        (CreateExchange::Exists(exchange), _) => return known(node, &exchange, false).await,
        (CreateExchange::Create(command), _) => command,
        (CreateExchange::Place, None) => return Err(RequestError::new(Reason::Internal, "it has no log to place")),
        (CreateExchange::Place, Some(log)) => {
            let brokers = can_take_replicas(node.registry(), &image, log.replicas as usize);
            let command = place_exchange(&new, log, &brokers, id, topics::seed_of(TopicId::from_u128(random)))?;
            let most = node.settings.cluster.replicas_per_broker_max;
            validate_replicas_per_broker(&command, &brokers, most)?;
            command
        }
    };
    node.metadata.require_feature_level(EXCHANGES_FEATURE_LEVEL).await?;
    match node.metadata.propose(&command).await {
        Ok(_) => {}
        // Sent twice, and the first one was it; or another client was faster.
        Err(error) if error.reason == Reason::ExchangeExists => {
            let image = node.metadata.image();
            match image.exchange_table().named(&wanted.name) {
                Some(exchange) if exchange.id == id => {}
                Some(_) if wanted.if_not_exists => {
                    return match validate_create_exchange(&image, &new, id)? {
                        CreateExchange::Exists(exchange) => known(node, &exchange, false).await,
                        CreateExchange::Create(_) | CreateExchange::Place => Err(error),
                    };
                }
                _ => return Err(error),
            }
        }
        Err(error) => return Err(error),
    }
    let image = node.metadata.image();
    let Some(exchange) = image.exchange_table().get(id) else {
        let message = format!(
            "exchange {:?} was created, and deleted at once by another call",
            wanted.name
        );
        return Err(RequestError::new(Reason::UnknownExchange, message));
    };
    known(node, exchange, true).await
}

/// An exchange that is there, once every live broker knows it.
async fn known(node: &Arc<Node>, exchange: &Exchange, created: bool) -> Result<ExchangeCreated, RequestError> {
    let image = node.metadata.image();
    let version = image.version();
    // Who knows the leaders of its log knows the exchange: there is one bound of time for both.
    match image.exchange_log(exchange.id) {
        Some(log) => await_leaders(node, &log.name, log.id, version).await?,
        None => await_version(node, &format!("exchange {:?}", exchange.name), version).await?,
    }
    Ok(ExchangeCreated {
        id: exchange.id,
        created,
        version,
    })
}

/// Makes an exchange that AMQP says is always there, if the name is that of one and it is not there yet.
///
/// # Errors
/// Those of the metadata.
pub(super) async fn ensure(node: &Arc<Node>, name: &str) -> Result<(), RequestError> {
    let predeclared = PREDECLARED.iter().find(|(predeclared, _)| *predeclared == name);
    let Some((_, kind)) = predeclared else { return Ok(()) };
    if node.metadata.image().exchange_table().named(name).is_some() {
        return Ok(());
    }
    let wanted = ExchangeWanted {
        name: name.to_owned(),
        kind: *kind,
        alternate: None,
        is_internal: false,
        auto_delete: false,
        if_not_exists: true,
        log: None,
    };
    create(node, wanted).await.map(drop)
}

/// Deletes an exchange: the version of the metadata that has it no more.
///
/// # Errors
/// Those of `DeleteExchange` in the contract.
pub(crate) async fn delete(node: &Arc<Node>, name: &str, if_unused: bool) -> Result<u64, RequestError> {
    check_named(name)?;
    let command = validate_delete_exchange(&node.metadata.image(), name, if_unused)?;
    change(node, name, &command).await
}

/// Gives an exchange bindings: the version of the metadata that has them. Every live broker has it when this returns.
///
/// # Errors
/// Those of `Bind` in the contract.
pub(crate) async fn bind(node: &Arc<Node>, name: &str, bindings: &[NamedBinding]) -> Result<u64, RequestError> {
    ensure_all(node, name, bindings).await?;
    let command = validate_bind(&node.metadata.image(), name, &wanted(bindings))?;
    change(node, name, &command).await
}

/// Takes bindings from an exchange: the version of the metadata that has them no more. Every live broker has it when this returns.
///
/// # Errors
/// Those of `Unbind` in the contract.
pub(crate) async fn unbind(node: &Arc<Node>, name: &str, bindings: &[NamedBinding]) -> Result<u64, RequestError> {
    ensure_all(node, name, bindings).await?;
    let command = validate_unbind(&node.metadata.image(), name, &wanted(bindings))?;
    change(node, name, &command).await
}

async fn change(node: &Arc<Node>, name: &str, command: &Command) -> Result<u64, RequestError> {
    let (_, version) = node.metadata.propose(command).await?;
    await_version(node, &format!("the change of exchange {name:?}"), version).await?;
    Ok(version)
}

async fn ensure_all(node: &Arc<Node>, name: &str, bindings: &[NamedBinding]) -> Result<(), RequestError> {
    check_named(name)?;
    ensure(node, name).await?;
    for binding in bindings {
        if let NamedDestination::Exchange(name) = &binding.destination {
            check_named(name)?;
            ensure(node, name).await?;
        }
    }
    Ok(())
}

fn wanted(bindings: &[NamedBinding]) -> Vec<NewBinding<'_>> {
    let bindings = bindings.iter().map(|binding| NewBinding {
        destination: match &binding.destination {
            NamedDestination::Queue(name) => DestinationName::Queue(name),
            NamedDestination::Exchange(name) => DestinationName::Exchange(name),
        },
        routing_key: &binding.routing_key,
        headers: binding.headers.as_deref().cloned(),
    });
    bindings.collect()
}

/// Says where a message would go, and why.
///
/// # Errors
/// Those of `TraceMessage` in the contract.
pub(crate) async fn trace(
    node: &Arc<Node>,
    name: &str,
    routing_key: &str,
    headers: &[Header],
) -> Result<MessageTraced, RequestError> {
    check_routing_key(routing_key)?;
    if name.is_empty() {
        return Ok(trace_by_name(&node.metadata.image(), routing_key));
    }
    ensure(node, name).await?;
    let routed = node.routers.routed().await?;
    let message = Message {
        exchange: name,
        routing_key,
        headers,
    };
    let traced = routed.router.trace(&message);
    let traced = traced.map_err(|error| RequestError::from(error.rejection(name)))?;
    let image = &routed.image;
    let mut room = MATCHES_SHOWN_MAX;
    let hops = traced.hops.into_iter().map(|hop| {
        let Hop {
            exchange,
            came_by,
            matched,
            missing_alternate,
        } = hop;
        let shown: Vec<NamedBinding> = matched.iter().take(room).map(|binding| named(image, binding)).collect();
        room -= shown.len();
        NamedHop {
            exchange: exchange.name.clone(),
            kind: exchange.kind,
            came_by,
            matched: shown,
            matched_count: matched.len(),
            missing_alternate,
        }
    });
    let hops = hops.collect();
    let queues = traced.queues.iter().filter_map(|id| image.queue(*id));
    let mut queues: Vec<Arc<str>> = queues.map(|queue| queue.name.clone()).collect();
    queues.sort_unstable();
    Ok(MessageTraced {
        hops,
        queues,
        version: image.version(),
    })
}

/// The way of a message through the exchange without a name, which has a binding for each queue.
fn trace_by_name(image: &Image, routing_key: &str) -> MessageTraced {
    let queue = image.queue_by_name(routing_key).map(|queue| queue.name.clone());
    let matched: Vec<NamedBinding> = queue
        .iter()
        .map(|name| NamedBinding {
            destination: NamedDestination::Queue(name.clone()),
            routing_key: name.clone(),
            headers: None,
        })
        .collect();
    MessageTraced {
        hops: vec![NamedHop {
            exchange: "".into(),
            kind: ExchangeKind::Direct,
            came_by: CameBy::Published,
            matched_count: matched.len(),
            matched,
            missing_alternate: None,
        }],
        queues: queue.into_iter().collect(),
        version: image.version(),
    }
}

/// Judges the length of a message's routing key.
///
/// # Errors
/// INVALID_REQUEST.
pub(super) fn check_routing_key(key: &str) -> Result<(), RequestError> {
    if key.len() <= ROUTING_KEY_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the routing key has {} bytes: at most {ROUTING_KEY_BYTES_MAX} are allowed",
        key.len()
    );
    Err(RequestError::new(Reason::InvalidRequest, message)
        .with("limit", ROUTING_KEY_BYTES_MAX)
        .with("actual", key.len()))
}

/// Refuses the exchange without a name, where it has to have one.
fn check_named(name: &str) -> Result<(), RequestError> {
    if !name.is_empty() {
        return Ok(());
    }
    let message = "the exchange without a name leads to the queue that the routing key names, and has no bindings of its own: name an \
                   exchange";
    Err(RequestError::new(Reason::InvalidRequest, message))
}

fn unknown(name: &str) -> RequestError {
    let message = format!("there is no exchange {name:?}: list the exchanges to see what exists");
    RequestError::new(Reason::UnknownExchange, message)
}

/// A binding with the name of what it leads to, which is there as long as the binding is.
fn named(image: &Image, binding: &Binding) -> NamedBinding {
    let destination = match binding.destination {
        Destination::Queue(id) => {
            let queue = image.queue(id);
            NamedDestination::Queue(queue.map_or_else(|| id.to_string().into(), |queue| queue.name.clone()))
        }
        Destination::Exchange(id) => {
            let exchange = image.exchange_table().get(id);
            NamedDestination::Exchange(exchange.map_or_else(|| id.to_string().into(), |other| other.name.clone()))
        }
    };
    NamedBinding {
        destination,
        routing_key: binding.routing_key.clone(),
        headers: binding.headers.clone(),
    }
}

/// Bytes of a binding in an answer, about.
fn shown_bytes(binding: &NamedBinding) -> usize {
    /// Of a field with its head, and of the binding.
    const HEAD_BYTES: usize = 16;
    let (NamedDestination::Queue(name) | NamedDestination::Exchange(name)) = &binding.destination;
    let headers = binding.headers.as_ref();
    let headers = headers.map_or(0, |asked| asked.bytes() + asked.headers.len() * HEAD_BYTES);
    2 * HEAD_BYTES + name.len() + binding.routing_key.len() + headers
}
