//! The rules of exchanges and bindings that both admission and apply judge by, as [`rules`](crate::rules) has them for everything else.

use std::collections::{BTreeMap, BTreeSet};

use jangada_routing::exchange::is_predeclared;
use jangada_routing::{Binding, Destination, Exchange, ExchangeKind, judge_binding, judge_exchange_name};
use jangada_types::limits::{
    BINDINGS_BYTES_MAX, BINDINGS_MAX, BINDINGS_PER_EXCHANGE_MAX, BINDINGS_PER_REQUEST_MAX, EXCHANGES_MAX,
    EXCHANGES_PER_MESSAGE_MAX, TOPIC_NAME_BYTES_MAX, VIEWS_PER_EXCHANGE_MAX,
};
use jangada_types::topic_config::key;
use jangada_types::{ExchangeId, QueueId, Reason, Rejection, validate_topic_name};

use crate::exchanges::Exchanges;
use crate::image::{EXCHANGE_LOG_PREFIX, Image, Topic, TopicKind};
use crate::queues::{Queue, QueueKind};
use crate::{queue_rules, rules};

pub(crate) fn exchange_by_id(image: &Image, id: ExchangeId) -> Result<&Exchange, Rejection> {
    image.exchanges.get(id).map(|exchange| &**exchange).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownExchange,
            format!("there is no exchange with id {id}: it was deleted; list the exchanges to see what exists"),
        )
    })
}

pub(crate) fn exchange_by_name<'a>(image: &'a Image, name: &str) -> Result<&'a Exchange, Rejection> {
    image.exchanges.named(name).map(|exchange| &**exchange).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownExchange,
            format!("there is no exchange {name:?}: list the exchanges to see what exists"),
        )
    })
}

/// Judges an exchange that is to be created, but for its id.
pub(crate) fn new_exchange(image: &Image, exchange: &Exchange) -> Result<(), Rejection> {
    let name = &*exchange.name;
    judge_exchange_name(name, exchange.kind)?;
    if is_predeclared(name) && (exchange.alternate.is_some() || exchange.is_internal || exchange.auto_delete) {
        return Err(Rejection::new(
            Reason::InvalidExchangeName,
            format!(
                "exchange {name:?} is one that AMQP says is always there: it has no alternate exchange, is not internal, and stays \
                 without bindings"
            ),
        ));
    }
    if let Some(other) = image.exchanges.named(name) {
        return Err(Rejection::new(
            Reason::ExchangeExists,
            format!(
                "exchange {name:?} exists already: choose another name, or ask to create it only if it does not exist"
            ),
        )
        .with("exchange_id", other.id));
    }
    let exchanges = image.exchanges().len();
    if exchanges >= EXCHANGES_MAX {
        return Err(Rejection::new(
            Reason::TooManyExchanges,
            format!("the cluster has {exchanges} exchanges, as many as may be: delete one before exchange {name:?} is created"),
        )
        .with("limit", EXCHANGES_MAX)
        .with("actual", exchanges));
    }
    match &exchange.alternate {
        None => Ok(()),
        Some(alternate) => judge_alternate(image, name, alternate),
    }
}

/// Judges the alternate exchange of an exchange. The way is followed by names, as the exchanges need not be there yet; one that is created
/// later is judged then.
fn judge_alternate(image: &Image, name: &str, alternate: &str) -> Result<(), Rejection> {
    let refuse = |what: String| {
        Err(Rejection::new(
            Reason::InvalidRequest,
            format!("exchange {name:?} with alternate exchange {alternate:?}: {what}"),
        ))
    };
    if let Err(error) = validate_topic_name(alternate) {
        return refuse(error.to_string());
    }
    let mut at = alternate;
    // Those that are there make no circle, so this ends.
    loop {
        if at == name {
            return refuse(
                "what it can't route would come back to it: leave the alternate exchange out of one of the two"
                    .to_owned(),
            );
        }
        match image
            .exchanges
            .named(at)
            .and_then(|exchange| exchange.alternate.as_deref())
        {
            Some(next) => at = next,
            None => return Ok(()),
        }
    }
}

/// Judges whether a message passes no more exchanges than it may from anywhere, now that an exchange or bindings of it were added.
pub(crate) fn is_near(after: &Exchanges, changed: ExchangeId) -> Result<(), Rejection> {
    match after.too_far(changed) {
        None => Ok(()),
        Some(begin) => Err(Rejection::new(
            Reason::InvalidBinding,
            format!(
                "a message to exchange {:?} could pass more than {EXCHANGES_PER_MESSAGE_MAX} exchanges then: bind queues to fewer \
                 exchanges on its way",
                begin.name
            ),
        )
        .with("limit", EXCHANGES_PER_MESSAGE_MAX)),
    }
}

/// Judges whether an exchange may be deleted.
pub(crate) fn may_delete(image: &Image, exchange: &Exchange, if_unused: bool) -> Result<(), Rejection> {
    let name = &*exchange.name;
    if is_predeclared(name) {
        return Err(Rejection::new(
            Reason::InvalidExchangeName,
            format!(
                "exchange {name:?} is one that AMQP says is always there, and stays: take its bindings away instead"
            ),
        ));
    }
    let views = image.queues_of(exchange.id.own_topic()).count();
    if image.exchange_log(exchange.id).is_some() && views > 0 {
        return Err(Rejection::new(
            Reason::ExchangeInUse,
            format!("exchange {name:?} has a log that {views} queues are views over: delete those queues first"),
        )
        .with("actual", views));
    }
    let bindings = exchange.bindings.len();
    if if_unused && bindings > 0 {
        return Err(Rejection::new(
            Reason::ExchangeInUse,
            format!("exchange {name:?} has {bindings} bindings: take them away, or delete it with them"),
        )
        .with("actual", bindings));
    }
    Ok(())
}

/// The name of the topic that is the log of an exchange.
pub(crate) fn log_name(exchange: &str) -> String {
    format!("{EXCHANGE_LOG_PREFIX}{exchange}")
}

/// Judges whether an exchange that is to be created may have a log.
pub(crate) fn may_have_log(exchange: &Exchange) -> Result<(), Rejection> {
    let name = &*exchange.name;
    let refuse = |reason, what: String| Err(Rejection::new(reason, format!("exchange {name:?} with a log: {what}")));
    if is_predeclared(name) {
        return refuse(
            Reason::InvalidExchangeName,
            "AMQP says that one of this name is always there, and it has no properties: choose another name".to_owned(),
        );
    }
    let most = TOPIC_NAME_BYTES_MAX - EXCHANGE_LOG_PREFIX.len();
    if name.len() > most {
        return refuse(
            Reason::InvalidExchangeName,
            format!("its name may have {most} characters, this one has {}", name.len()),
        );
    }
    if exchange.auto_delete {
        return refuse(
            Reason::InvalidRequest,
            "it can't be deleted with its last binding, as queues may have messages in the log".to_owned(),
        );
    }
    Ok(())
}

/// Judges the settings of the topic that is the log of an exchange.
pub(crate) fn log_config(exchange: &str, config: &BTreeMap<String, String>) -> Result<(), Rejection> {
    const ALLOWED: [&str; 4] = [
        key::RETENTION_MS,
        key::RETENTION_BYTES,
        key::SEGMENT_BYTES,
        key::MAX_MESSAGE_BYTES,
    ];
    if let Some(other) = config.keys().find(|key| !ALLOWED.contains(&key.as_str())) {
        return Err(Rejection::new(
            Reason::InvalidConfig,
            format!(
                "log of exchange {exchange:?}: {other:?} is no setting of it; there are {}",
                ALLOWED.join(", ")
            ),
        ));
    }
    rules::config(&log_name(exchange), config)
}

/// The log of an exchange that a queue of this name is to be a view over, if there may be one more.
pub(crate) fn may_be_viewed<'a>(image: &'a Image, exchange: &Exchange, queue: &str) -> Result<&'a Topic, Rejection> {
    let name = &*exchange.name;
    let Some(log) = image.exchange_log(exchange.id) else {
        return Err(Rejection::new(
            Reason::WrongQueueKind,
            format!(
                "queue {queue:?} can't be a view over exchange {name:?}, which has no log: create one with a log of its own, and bind it"
            ),
        ));
    };
    let views = image.queues_of(log.id).count();
    if views >= VIEWS_PER_EXCHANGE_MAX {
        return Err(Rejection::new(
            Reason::TooManyQueues,
            format!(
                "exchange {name:?} has {views} queues, as many as may be: delete one before queue {queue:?} is created"
            ),
        )
        .with("limit", VIEWS_PER_EXCHANGE_MAX)
        .with("actual", views));
    }
    // A binding comes with it.
    new_bindings_fit(image, exchange, &bound_by_creation(exchange, QueueId::default()))?;
    Ok(log)
}

/// The bindings that a view over an exchange's log has from its creation to its deletion: everything that is published to a fanout exchange
/// is for all of its queues, and its log says so by naming none.
pub(crate) fn bound_by_creation(exchange: &Exchange, queue: QueueId) -> BTreeSet<Binding> {
    let binding = Binding {
        destination: Destination::Queue(queue),
        routing_key: "".into(),
        headers: None,
    };
    match exchange.kind {
        ExchangeKind::Fanout => BTreeSet::from([binding]),
        ExchangeKind::Direct | ExchangeKind::Topic | ExchangeKind::Headers => BTreeSet::new(),
    }
}

/// Judges bindings that an exchange is to lose.
pub(crate) fn may_unbind(image: &Image, exchange: &Exchange, bindings: &[Binding]) -> Result<(), Rejection> {
    binding_count(exchange, bindings)?;
    let is_fixed = |binding: &&Binding| match binding.destination {
        Destination::Queue(id) => bound_by_creation(exchange, id).contains(*binding),
        Destination::Exchange(_) => false,
    };
    let fixed = bindings.iter().find(is_fixed);
    if fixed.is_none() || image.exchange_log(exchange.id).is_none() {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::InvalidBinding,
        format!(
            "exchange {:?} is a fanout exchange with a log: each queue over it has all that is published to it. Delete the queue instead",
            exchange.name
        ),
    ))
}

/// Judges the number of bindings of one request.
pub(crate) fn binding_count(exchange: &Exchange, bindings: &[Binding]) -> Result<(), Rejection> {
    if (1..=BINDINGS_PER_REQUEST_MAX).contains(&bindings.len()) {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::InvalidRequest,
        format!(
            "{} bindings of exchange {:?}: give 1 to {BINDINGS_PER_REQUEST_MAX} at once",
            bindings.len(),
            exchange.name
        ),
    )
    .with("limit", BINDINGS_PER_REQUEST_MAX)
    .with("actual", bindings.len()))
}

/// Judges bindings that an exchange is to get, and gives those that it does not have.
pub(crate) fn new_bindings(
    image: &Image,
    exchange: &Exchange,
    bindings: &[Binding],
) -> Result<BTreeSet<Binding>, Rejection> {
    binding_count(exchange, bindings)?;
    for binding in bindings {
        judge_binding(&exchange.name, exchange.kind, binding)?;
        judge_destination(image, exchange, binding.destination)?;
    }
    let is_new = |binding: &&Binding| !exchange.bindings.contains(*binding);
    let added: BTreeSet<Binding> = bindings.iter().filter(is_new).cloned().collect();
    new_bindings_fit(image, exchange, &added)?;
    Ok(added)
}

/// Judges whether there may be so many bindings more.
fn new_bindings_fit(image: &Image, exchange: &Exchange, added: &BTreeSet<Binding>) -> Result<(), Rejection> {
    let bytes: usize = added.iter().map(Binding::bytes).sum();
    let exchanges = &image.exchanges;
    for (what, limit, actual) in [
        (
            "bindings of this exchange",
            BINDINGS_PER_EXCHANGE_MAX,
            exchange.bindings.len() + added.len(),
        ),
        (
            "bindings of the cluster",
            BINDINGS_MAX,
            exchanges.bindings() + added.len(),
        ),
        (
            "bytes of the cluster's bindings",
            BINDINGS_BYTES_MAX,
            exchanges.bytes() + bytes,
        ),
    ] {
        if actual > limit && !added.is_empty() {
            return Err(Rejection::new(
                Reason::TooManyBindings,
                format!(
                    "{} more bindings of exchange {:?} would be {actual} {what}, of which {limit} are allowed: take some away first",
                    added.len(),
                    exchange.name
                ),
            )
            .with("limit", limit)
            .with("actual", actual));
        }
    }
    Ok(())
}

fn judge_destination(image: &Image, exchange: &Exchange, destination: Destination) -> Result<(), Rejection> {
    match destination {
        Destination::Exchange(_) if image.exchange_log(exchange.id).is_some() => Err(Rejection::new(
            Reason::InvalidBinding,
            format!(
                "exchange {:?} has a log, and leads to the queues that are views over it alone: bind an exchange without a log to both",
                exchange.name
            ),
        )),
        Destination::Exchange(id) => exchange_by_id(image, id).map(drop),
        Destination::Queue(id) => {
            let queue = queue_rules::queue_by_id(image, id)?;
            let has_log = image.exchange_log(exchange.id).is_some();
            match queue.kind {
                QueueKind::Owned if !has_log => Ok(()),
                QueueKind::Bound if queue.topic_id == exchange.id.own_topic() => Ok(()),
                QueueKind::Owned | QueueKind::Bound => Err(not_its_view(exchange, queue, has_log)),
                QueueKind::Group { .. } => Err(Rejection::new(
                    Reason::WrongQueueKind,
                    format!(
                        "queue {:?} reads a topic, and takes no messages of exchange {:?}: bind a queue with a log of its own, or \
                         publish to the topic",
                        queue.name, exchange.name
                    ),
                )),
            }
        }
    }
}

fn not_its_view(exchange: &Exchange, queue: &Queue, has_log: bool) -> Rejection {
    let why = match (queue.kind, has_log) {
        (QueueKind::Bound, true) => {
            "that queue is a view over the log of another exchange: create a queue over this one"
        }
        (QueueKind::Bound, false) => {
            "that queue is a view over the log of an exchange: bind this exchange to that one, or bind a queue with a log of its own"
        }
        _ => "the exchange has a log, and leads to the queues that are views over it alone: create a queue over it",
    };
    Rejection::new(
        Reason::WrongQueueKind,
        format!(
            "exchange {:?} can't lead to queue {:?}: {why}",
            exchange.name, queue.name
        ),
    )
}

impl Image {
    /// Says which invariant of exchanges is broken, and where.
    pub(crate) fn check_exchanges(&self) -> Result<(), String> {
        if self.exchanges.by_name().len() != self.exchanges.iter().len() {
            return Err("two exchanges share a name".to_owned());
        }
        for exchange in self.exchanges.iter() {
            for binding in &*exchange.bindings {
                let is_there = match binding.destination {
                    Destination::Queue(id) => self.queue(id).is_some(),
                    Destination::Exchange(id) => self.exchanges.get(id).is_some(),
                };
                let fits = binding.headers.is_some() == (exchange.kind == ExchangeKind::Headers)
                    && judge_destination(self, exchange, binding.destination).is_ok();
                if !is_there || !fits {
                    return Err(format!(
                        "exchange {:?} has binding {:?} to {:?}, which is not there or does not fit",
                        exchange.name, binding.routing_key, binding.destination
                    ));
                }
            }
        }
        for topic in self.topics().filter(|topic| topic.kind == TopicKind::Exchange) {
            let of_log = self.exchange_of_log(topic);
            let Some(exchange) = of_log.filter(|exchange| log_name(&exchange.name) == *topic.name) else {
                return Err(format!(
                    "topic {:?} is the log of an exchange that is not there",
                    topic.name
                ));
            };
            for queue in self.queues_of(topic.id) {
                let bound = bound_by_creation(exchange, queue.id);
                if !bound.is_subset(&exchange.bindings) {
                    return Err(format!(
                        "queue {:?} is not bound by exchange {:?}",
                        queue.name, exchange.name
                    ));
                }
            }
        }
        Ok(())
    }
}
