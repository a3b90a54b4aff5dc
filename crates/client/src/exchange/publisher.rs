//! Publishes messages to exchanges: a lane for each order key, and some for messages without one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jangada_proto::v1;
use jangada_types::Reason;
use jangada_types::partitioner::partition_for_key;

use super::{exchange_error, exchange_service};
use crate::attempts::CallFailed;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::queue::{MessagePlace, QueueMessage, QueueProducerConfig, SentMessage, millis};
use crate::sending::{Answer, Limits, Outlet, QUORUM_GRACE, Sending};
use crate::wire_error::Failure;

/// Requests that an exchange's messages without an order key may have under way at a time.
const LANES: u32 = 4;

/// How a [`Publisher`] publishes.
#[derive(Clone, Debug, Default)]
pub struct PublisherConfig {
    /// How long a message is tried, and how messages are gathered: as a [`QueueProducer`](crate::QueueProducer) does. `quorum_timeout`
    /// counts for all queues of a message together.
    pub sending: QueueProducerConfig,
    /// Whether a message that has a message id is published again when it is not known whether it was published, or it is in some of its
    /// queues only. Default: false.
    ///
    /// A message may have several queues, so an attempt that failed halfway is in some of them, and only queues with `queue.dedup`
    /// recognize it by its id when it comes again; in each other one it would be twice. The publisher does not know which queues a
    /// message has. So it publishes such a message again only if it was told that all queues that matter recognize repetitions, or that
    /// consumers do not mind them. Without a message id no queue can recognize it, so it is never published again then.
    pub publish_in_doubt: bool,
}

/// A message to publish.
///
/// ```
/// use jangada_client::{Publication, QueueMessage};
///
/// let publication = Publication::new("orders", "orders.eu.paid", QueueMessage::new("order 7"))
///     .mandatory()
///     .with_order_key("customer 3");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The exchange's name. Empty: the default exchange, which leads to the queue that the routing key names.
    pub exchange: Arc<str>,
    /// At most 255 bytes, and may be empty.
    pub routing_key: String,
    /// The message, which each of its queues takes as if it had been sent to it. Bindings see its headers.
    pub message: QueueMessage,
    /// Whether the message is refused if no queue is bound for it. Otherwise it is then dropped.
    pub is_mandatory: bool,
    /// Messages to the same exchange with the same one are in each queue in the order in which they were handed over: they go to the
    /// same partition, where they have no key of their own, and one request after the other. A message that is refused for the moment
    /// comes behind those of its request that were not. None: its place is anywhere.
    pub order_key: Option<Bytes>,
}

impl Publication {
    /// A message that is dropped if no queue is bound for it, and may have its place anywhere.
    pub fn new(exchange: impl Into<Arc<str>>, routing_key: impl Into<String>, message: QueueMessage) -> Self {
        Self {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            message,
            is_mandatory: false,
            order_key: None,
        }
    }

    /// Has the message refused if no queue is bound for it.
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.is_mandatory = true;
        self
    }

    /// Sets the key of the messages among which it has its place in the order. An empty one is none.
    #[must_use]
    pub fn with_order_key(mut self, order_key: impl Into<Bytes>) -> Self {
        self.order_key = Some(order_key.into()).filter(|key| !key.is_empty());
        self
    }
}

/// A message in one of its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPlace {
    /// The queue's name; empty if the place is in the log of an exchange.
    pub queue: String,
    /// The exchange whose log has the message, for all queues over it that it is for; else empty.
    pub exchange: String,
    /// Its place there.
    pub sent: SentMessage,
}

/// Publishes messages to exchanges. Clones share the buffer and the task.
///
/// A message that was published is on the disks of a quorum in all of its queues. When that is not known, it is not published again,
/// unless [`PublisherConfig::publish_in_doubt`] says so, for it may be in some of them.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::{Binding, ExchangeKind, NewExchange, Publication, PublisherConfig, QueueMessage};
///
/// let admin = client.admin();
/// admin.create_exchange(NewExchange::new("orders", ExchangeKind::Topic)).await?;
/// admin.bind("orders", vec![Binding::to_queue("billing").with_key("orders.*.paid")]).await?;
///
/// let publisher = client.publisher(PublisherConfig::default())?;
/// let message = QueueMessage::new("order 7").with_message_id("order-7");
/// for place in publisher.publish(Publication::new("orders", "orders.eu.paid", message)).await? {
///     println!("it is in {} at {:?}", place.queue, place.sent.place);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Publisher {
    sending: Sending<Exchanges>,
}

impl Publisher {
    pub(crate) fn start(cluster: Arc<Cluster>, config: &PublisherConfig) -> Result<Self, ClientError> {
        let limits: Limits = config.sending.limits();
        limits.check()?;
        let exchanges = Exchanges {
            cluster: cluster.clone(),
            quorum_timeout: limits.quorum_timeout,
            publish_in_doubt: config.publish_in_doubt,
        };
        Ok(Self {
            sending: Sending::start(cluster, exchanges, limits),
        })
    }

    /// Publishes a message and waits until it is on the disks of a quorum in all of its queues. Calls at the same time share requests.
    /// Returns where it is, one place for each queue; none if no queue is bound for it, and it is not mandatory.
    ///
    /// A call that is dropped may have published its message.
    ///
    /// # Errors
    /// [`ClientError::Unroutable`]: it is mandatory, and nowhere. [`ClientError::UnknownExchange`]. [`ClientError::Refused`] for a message
    /// that is refused without effect, by the broker or by one of its queues, whose name is in the rejection's metadata under `queue`.
    /// [`ClientError::Unavailable`] after `send_timeout`: it is nowhere. [`ClientError::OutcomeUnknown`]: it may be in all of its queues,
    /// in some, or in none. [`ClientError::Closed`] when the runtime ends.
    pub async fn publish(&self, publication: Publication) -> Result<Vec<PublishedPlace>, ClientError> {
        self.enqueue(publication).await?.await
    }

    /// Publishes messages and waits for all of them. Of each the result has what became of it, in their order.
    ///
    /// # Errors
    /// The errors of [`publish`](Self::publish), for each message.
    pub async fn publish_batch(&self, publications: Vec<Publication>) -> Vec<Result<Vec<PublishedPlace>, ClientError>> {
        self.sending.send_all(publications).await
    }

    /// Hands a message over in the order of these calls; waits while the buffer is full. What this returns gives what became of it, and
    /// need not be awaited.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn enqueue(
        &self,
        publication: Publication,
    ) -> Result<impl Future<Output = Result<Vec<PublishedPlace>, ClientError>> + Send + use<>, ClientError> {
        self.sending.enqueue(publication).await
    }
}

/// The messages of an exchange that go into the same requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    exchange: Arc<str>,
    order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Those with this order key.
    By(Bytes),
    /// Those without one, in several lanes.
    Any(u32),
}

/// All exchanges. Any broker takes a request, so they take turns.
struct Exchanges {
    cluster: Arc<Cluster>,
    quorum_timeout: Duration,
    publish_in_doubt: bool,
}

fn context(exchange: &str) -> String {
    match exchange {
        "" => "publish to the default exchange".to_owned(),
        exchange => format!("publish to exchange {exchange}"),
    }
}

impl Outlet for Exchanges {
    type Message = Publication;
    type Outcome = Vec<PublishedPlace>;
    type Lane = Lane;
    type Found = std::convert::Infallible;

    fn bytes(publication: &Publication) -> usize {
        publication.routing_key.len() + publication.message.bytes()
    }

    fn lane_of(&self, publication: &Publication) -> Option<Lane> {
        let order = match (&publication.order_key, &publication.message.key) {
            (Some(order_key), _) => Order::By(order_key.clone()),
            // Queues keep the order of a message's own key.
            (None, Some(key)) => Order::Any(partition_for_key(key, LANES).get()),
            (None, None) => return None,
        };
        Some(Lane {
            exchange: publication.exchange.clone(),
            order,
        })
    }

    fn lanes(&self) -> u32 {
        LANES
    }

    fn any_lane(&self, publication: &Publication, number: u32) -> Lane {
        Lane {
            exchange: publication.exchange.clone(),
            order: Order::Any(number),
        }
    }

    fn number(lane: &Lane) -> Option<u32> {
        match &lane.order {
            Order::Any(number) => Some(*number),
            Order::By(_) => None,
        }
    }

    fn send<'a>(
        &self,
        lane: &Lane,
        publications: impl Iterator<Item = &'a Publication>,
    ) -> BoxFuture<'static, Answer<Vec<PublishedPlace>>> {
        let message = |publication: &Publication| v1::PublishMessage {
            routing_key: publication.routing_key.clone(),
            message: Some(publication.message.to_wire()),
            mandatory: publication.is_mandatory,
        };
        let request = v1::PublishRequest {
            exchange: lane.exchange.to_string(),
            messages: publications.map(message).collect(),
            order_key: match &lane.order {
                Order::By(order_key) => order_key.clone(),
                Order::Any(_) => Bytes::new(),
            },
            timeout_ms: u32::try_from(millis(self.quorum_timeout)).unwrap_or(u32::MAX),
        };
        let cluster = self.cluster.clone();
        let within = self.quorum_timeout + QUORUM_GRACE;
        Box::pin(async move {
            let address = cluster.metadata.candidates().swap_remove(0);
            let publish = |channel| async move { exchange_service(channel).publish(request).await };
            let answer = cluster.metadata.attempt(&address, within, publish).await?;
            Ok(answer.results.into_iter().map(published).collect())
        })
    }

    fn may_repeat(&self, publication: &Publication) -> bool {
        self.publish_in_doubt && publication.message.message_id.is_some()
    }

    fn error(&self, failed: CallFailed, publication: &Publication) -> ClientError {
        let exchange = &publication.exchange;
        if failed.failure.reason == Some(Reason::Unroutable) && !failed.in_doubt {
            return ClientError::Unroutable {
                exchange: exchange.clone(),
                routing_key: publication.routing_key.as_str().into(),
            };
        }
        exchange_error(failed, exchange, &context(exchange))
    }

    fn what(&self, lane: &Lane) -> (Arc<str>, Option<u32>) {
        (context(&lane.exchange).into(), None)
    }

    fn find(&self) -> Option<BoxFuture<'static, Option<Self::Found>>> {
        None
    }

    fn found(&mut self, found: Self::Found) {
        match found {}
    }
}

/// What became of a message that was published.
fn published(result: v1::PublishResult) -> Result<Vec<PublishedPlace>, Failure> {
    use v1::publish_result::Result as Outcome;
    let unreadable = || {
        let message = "the broker's answer has no outcome of a message";
        Failure::local(tonic::Code::Internal, message, false)
    };
    match result.result {
        Some(Outcome::Published(published)) => {
            let place = |place: v1::PublishedPlace| {
                let sent = place.sent.ok_or_else(unreadable)?;
                Ok(PublishedPlace {
                    queue: place.queue,
                    exchange: place.exchange,
                    sent: SentMessage {
                        place: MessagePlace {
                            partition: sent.partition,
                            offset: sent.offset,
                        },
                        duplicate: sent.duplicate,
                    },
                })
            };
            published.places.into_iter().map(place).collect()
        }
        Some(Outcome::Error(error)) => Err(error.into()),
        None => Err(unreadable()),
    }
}
