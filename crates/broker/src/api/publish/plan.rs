//! Which messages go to which partitions of which queues, before anything is sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_controller::{Image, QueueKind};
use jangada_routing::{ExchangeKind, Message, RouteError, Router, Scratch};
use jangada_types::limits::PUBLISH_COPIES_MAX;
use jangada_types::{ExchangeId, Header, PartitionIndex, QueueId, Reason};
use tokio::time::Instant;

use super::MessageToPublish;
use super::outcome::{Outcome, of_queue};
use crate::api::call::exchange_logs::{AppendToLog, Readers};
use crate::api::exchange_log;
use crate::api::exchanges::check_routing_key;
use crate::api::queue_messages::send::{Spread, check_published, now_ms};
use crate::api::queue_messages::{NewMessage, QueueRef};
use crate::api::resolve::QueueName;
use crate::error::RequestError;
use crate::metrics::{DEFAULT_EXCHANGE, ExchangeTraffic, Routing};
use crate::node::Node;
use crate::routing::Routed;

/// The headers that say in each queue what the message was published to, and by which routing key. Bindings do not see them.
const EXCHANGE_HEADER: &str = "jangada-exchange";
const ROUTING_KEY_HEADER: &str = "jangada-routing-key";
/// After so many messages other tasks have their turn ...
const YIELD_EVERY: usize = 256;
/// ... or after so long, since a message may cost as much as all of those.
const YIELD_AFTER: Duration = Duration::from_millis(5);
/// Sets of queues that the next message's is compared with.
const SETS_COMPARED: usize = 64;

/// Plans the messages of one call.
pub(super) struct Plan<'a> {
    node: &'a Node,
    image: &'a Image,
    router: &'a Router,
    exchange: &'a str,
    order_key: Option<Bytes>,
    traffic: Arc<ExchangeTraffic>,
    now_ms: u64,
    planned: Planned,
    /// The queues that some message is for, each found once.
    spreads: BTreeMap<QueueId, Spread>,
    copies: usize,
}

/// Messages of one call, and where they are to go.
#[derive(Default)]
pub(super) struct Planned {
    /// None: the message goes nowhere. With its bytes as they count for batches.
    messages: Vec<Option<(NewMessage, usize)>>,
    outcomes: Vec<Outcome>,
    queues: BTreeMap<QueueId, QueueRef>,
    /// The numbers of the messages, in their order.
    batches: BTreeMap<(QueueId, PartitionIndex), Vec<usize>>,
    /// The same of logs of exchanges, each for all of its queues that the messages are for.
    logs: BTreeMap<(ExchangeId, PartitionIndex), LogBatch>,
    /// The version of the metadata by which the queues were found.
    version: u64,
}

/// Messages that go to one partition of an exchange's log.
pub(super) struct LogBatch {
    /// The exchange's name.
    pub name: Arc<str>,
    pub numbers: Vec<usize>,
    pub bytes: usize,
    readers: Readers,
}

impl LogBatch {
    /// Adds a message that is for these queues.
    fn push(&mut self, number: usize, bytes: usize, queues: Vec<QueueId>) {
        self.numbers.push(number);
        self.bytes += bytes;
        let Readers::Some { sets, of } = &mut self.readers else {
            return;
        };
        // Neighbours are often for the same queues.
        let latest = sets.iter().enumerate().rev().take(SETS_COMPARED);
        let known = latest.into_iter().find(|(_, set)| **set == queues).map(|(at, _)| at);
        let at = known.unwrap_or_else(|| {
            sets.push(queues);
            sets.len() - 1
        });
        of.push(u32::try_from(at).unwrap_or(u32::MAX));
    }
}

/// Messages that go to one partition.
pub(super) struct PlannedBatch<'a> {
    pub queue: &'a QueueRef,
    pub index: PartitionIndex,
    pub numbers: &'a [usize],
    pub bytes: usize,
}

impl Planned {
    /// What is to be sent, each with its partition.
    pub fn batches(&self) -> impl Iterator<Item = PlannedBatch<'_>> {
        self.batches.iter().map(|((queue, index), numbers)| PlannedBatch {
            queue: &self.queues[queue],
            index: *index,
            numbers,
            bytes: numbers
                .iter()
                .filter_map(|number| self.messages[*number].as_ref())
                .map(|(_, bytes)| bytes)
                .sum(),
        })
    }

    /// What goes to logs of exchanges, each with its partition.
    pub fn log_batches(&self) -> impl Iterator<Item = (ExchangeId, PartitionIndex, &LogBatch)> {
        let batches = self.logs.iter();
        batches.map(|((exchange, index), batch)| (*exchange, *index, batch))
    }

    /// What is asked of the leader of a log's partition, for the messages of a batch from a place on.
    pub fn append_to_log(
        &self,
        (exchange, index, batch): (ExchangeId, PartitionIndex, &LogBatch),
        from: usize,
        timeout: Duration,
    ) -> AppendToLog {
        AppendToLog {
            exchange,
            index,
            messages: self.messages(&batch.numbers[from..]),
            readers: batch.readers.from(from),
            version: self.version,
            timeout,
        }
    }

    /// Messages by their numbers. Their bodies are shared.
    pub fn messages(&self, numbers: &[usize]) -> Vec<NewMessage> {
        let messages = numbers.iter().filter_map(|number| self.messages[*number].as_ref());
        messages.map(|(message, _)| message.clone()).collect()
    }

    /// What is known of each message by now.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.outcomes.clone()
    }
}

impl<'a> Plan<'a> {
    /// # Errors
    /// UNKNOWN_EXCHANGE, EXCHANGE_INTERNAL.
    pub fn new(
        node: &'a Node,
        routed: &'a Routed,
        exchange: &'a str,
        order_key: Option<Bytes>,
    ) -> Result<Self, RequestError> {
        let refuse = |error: RouteError| RequestError::from(error.rejection(exchange));
        let name = match exchange {
            "" => DEFAULT_EXCHANGE.into(),
            _ => {
                let found = routed.router.exchange(exchange);
                let found = found.ok_or_else(|| refuse(RouteError::UnknownExchange))?;
                if found.is_internal {
                    return Err(refuse(RouteError::Internal));
                }
                found.name.clone()
            }
        };
        Ok(Self {
            node,
            image: &routed.image,
            router: &routed.router,
            exchange,
            order_key,
            traffic: node.metrics.exchanges.of(&name),
            now_ms: now_ms(node),
            planned: Planned {
                version: routed.image.version(),
                ..Planned::default()
            },
            spreads: BTreeMap::new(),
            copies: 0,
        })
    }

    /// Says where the messages are to go. Those that are refused by now have their outcome.
    ///
    /// # Errors
    /// BATCH_TOO_LARGE: they are for too many queues together. BROKER_BUSY: it takes longer than to the deadline.
    pub async fn of(mut self, messages: Vec<MessageToPublish>, deadline: Instant) -> Result<Planned, RequestError> {
        let mut scratch = Scratch::default();
        let mut queues = Vec::new();
        let exchange = Bytes::copy_from_slice(self.exchange.as_bytes());
        let mut turn = Instant::now();
        for (number, message) in messages.into_iter().enumerate() {
            let outcome = match self.route(&message, (&mut scratch, &mut queues)) {
                Ok(()) => self.add(number, message, (&queues, &exchange)),
                Err(error) => Err(error),
            };
            if self.copies > PUBLISH_COPIES_MAX {
                return Err(too_many());
            }
            if outcome.is_err() {
                self.planned.messages.push(None);
            }
            let outcome = outcome.map_or_else(Outcome::refused, |()| Outcome::default());
            self.planned.outcomes.push(outcome);
            let now = Instant::now();
            if now >= deadline {
                return Err(out_of_time());
            }
            if number % YIELD_EVERY == YIELD_EVERY - 1 || now - turn >= YIELD_AFTER {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
        }
        Ok(self.planned)
    }

    /// Finds the queues that a message is for.
    fn route(
        &self,
        published: &MessageToPublish,
        (scratch, queues): (&mut Scratch, &mut Vec<QueueId>),
    ) -> Result<(), RequestError> {
        queues.clear();
        let routing_key = &*published.routing_key;
        let message = published.message.as_ref().ok_or_else(|| {
            let message = "the message is missing: set `message`";
            RequestError::new(Reason::InvalidRequest, message)
        })?;
        check_routing_key(routing_key)?;
        message.check_headers()?;
        if self.exchange.is_empty() {
            queues.extend(self.image.queue_by_name(routing_key).map(|queue| queue.id));
        } else {
            let routed = Message {
                exchange: self.exchange,
                routing_key,
                headers: &*message.headers,
            };
            let found = self.router.resolve(&routed, scratch);
            queues.extend_from_slice(found.map_err(|error| RequestError::from(error.rejection(self.exchange)))?);
        }
        let by_alternate = !self.exchange.is_empty() && scratch.by_alternate();
        self.traffic
            .routed(match (queues.is_empty(), by_alternate, published.is_mandatory) {
                (true, _, true) => Routing::Refused,
                (true, _, false) => Routing::Dropped,
                (false, true, _) => Routing::Alternate,
                (false, false, _) => Routing::Bound,
            });
        match queues.is_empty() && published.is_mandatory {
            true => Err(self.unroutable(routing_key)),
            false => Ok(()),
        }
    }

    fn unroutable(&self, routing_key: &str) -> RequestError {
        let message = match self.exchange {
            "" => format!(
                "there is no queue {routing_key:?}, which the routing key names: create it, or publish without `mandatory`"
            ),
            exchange => format!(
                "exchange {exchange:?}: no queue is bound for a message with routing key {routing_key:?} and these headers: bind one, or \
                 publish without `mandatory`; `exchange trace` says what was looked at"
            ),
        };
        RequestError::new(Reason::Unroutable, message)
    }

    /// Adds a message to the batches of its queues, if all of them take it as it is.
    fn add(
        &mut self,
        number: usize,
        published: MessageToPublish,
        (queues, exchange): (&[QueueId], &Bytes),
    ) -> Result<(), RequestError> {
        let MessageToPublish {
            routing_key, message, ..
        } = published;
        let mut message = message.filter(|_| !queues.is_empty());
        if let Some(message) = &mut message {
            if !exchange.is_empty() {
                message.headers.push(header(EXCHANGE_HEADER, exchange.clone()));
                message.headers.push(header(ROUTING_KEY_HEADER, routing_key.into()));
            }
            self.check(message, queues)?;
            let mut of_logs: BTreeMap<ExchangeId, Vec<QueueId>> = BTreeMap::new();
            for id in queues {
                let queue = &self.planned.queues[id];
                if let Some(exchange) = self.image.exchange_of_log(&queue.topic) {
                    of_logs.entry(exchange.id).or_default().push(*id);
                    continue;
                }
                self.copies += 1;
                let spread = self.spreads.entry(*id).or_default();
                let index = spread.partition(self.node, queue, message, self.order_key.as_deref());
                let batch = self.planned.batches.entry((*id, index)).or_default();
                batch.push(number);
            }
            self.copies += of_logs.len();
            for (exchange, queues) in of_logs {
                self.add_to_log(number, message, (exchange, queues));
            }
            self.traffic.copied(queues.len());
        }
        let with_bytes = message.map(|message| {
            let bytes = message.bytes();
            (message, bytes)
        });
        self.planned.messages.push(with_bytes);
        Ok(())
    }

    /// Adds a message to a batch of an exchange's log, for queues that are views over that.
    fn add_to_log(&mut self, number: usize, message: &NewMessage, (id, queues): (ExchangeId, Vec<QueueId>)) {
        let Some(exchange) = self.image.exchange_table().get(id) else {
            return;
        };
        // All of its queues have the same partitions.
        let queue = &self.planned.queues[&queues[0]];
        let spread = self.spreads.entry(QueueId(id.0)).or_default();
        let index = spread.partition(self.node, queue, message, self.order_key.as_deref());
        let batch = self.planned.logs.entry((id, index)).or_insert_with(|| LogBatch {
            name: exchange.name.clone(),
            numbers: Vec::new(),
            bytes: 0,
            // Each of them is for all queues.
            readers: match exchange.kind {
                ExchangeKind::Fanout => Readers::All,
                ExchangeKind::Direct | ExchangeKind::Topic | ExchangeKind::Headers => Readers::Some {
                    sets: Vec::new(),
                    of: Vec::new(),
                },
            },
        });
        batch.push(number, message.bytes(), queues);
    }

    /// Whether all queues take a message as it is.
    fn check(&mut self, message: &NewMessage, queues: &[QueueId]) -> Result<(), RequestError> {
        let mut checked = None;
        for id in queues {
            if !self.planned.queues.contains_key(id) {
                let found = QueueRef::resolve(self.image, &QueueName::Id(*id))?;
                self.planned.queues.insert(*id, found);
            }
            let queue = &self.planned.queues[id];
            if queue.queue.kind == QueueKind::Bound && !self.exchange.is_empty() {
                // Each log once: its queues come one after the other, or are few.
                if checked.replace(queue.topic.id) != Some(queue.topic.id) {
                    exchange_log::check(message, &queue.topic)?;
                }
                continue;
            }
            let taken = queue.check_owned();
            let taken = taken.and_then(|()| check_published(message, queue, self.now_ms));
            taken.map_err(|error| of_queue(queue.name(), error))?;
        }
        Ok(())
    }
}

fn header(name: &str, value: Bytes) -> Header {
    Header {
        key: name.to_owned(),
        value: Some(value),
    }
}

/// The time of a call was over before anything was sent.
pub(super) fn out_of_time() -> RequestError {
    let message = "the call's time was over before it was known where its messages go: publish fewer messages at once; nothing was \
                   published";
    RequestError::new(Reason::BrokerBusy, message)
}

fn too_many() -> RequestError {
    let message = format!(
        "the messages are for more than {PUBLISH_COPIES_MAX} queues together, each counted for each message: publish fewer at once; \
         nothing was published"
    );
    RequestError::new(Reason::BatchTooLarge, message).with("limit", PUBLISH_COPIES_MAX)
}
