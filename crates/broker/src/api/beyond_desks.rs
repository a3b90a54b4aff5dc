//! What the desks of queues ask of this broker ([`BeyondDesk`]): dead letters go the way of all batches, with the broker as their client.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jangada_controller::{PUBLIC_LISTENER, Topic, TopicKind};
use jangada_types::{PartitionIndex, ProducerId, QueueId, Reason};

use super::call::queues::{AppendLetters, QueuePartition};
use super::call::records::{Acks, Produced};
use super::context::{Principal, RequestContext, Route};
use super::produce::{self, Append, Patience, ReadyBatch};
use super::queue_expiry;
use super::queue_messages::{QueueRef, letters};
use super::resolve::QueueName;
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Expectation;
use crate::queues::{BeyondDesk, DeadLetterTarget, TargetWanted};
use crate::quota::Caller;
use crate::target::Target;

/// What the broker calls itself as the client of another one.
const CLIENT_ID: &str = "dead-letters";

/// This broker, as the desks of its queues see it.
pub(crate) struct NodeBeyondDesks {
    /// The node has the partitions, and they have this.
    node: Weak<Node>,
    /// The letters of all queues share what one client may have under way.
    caller: Arc<Caller>,
}

impl NodeBeyondDesks {
    pub fn new(node: &Arc<Node>) -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            node: Arc::downgrade(node),
            caller: Caller::new(nowhere, &node.budgets),
        }
    }

    fn node(&self) -> Result<Arc<Node>, RequestError> {
        let gone = || RequestError::new(Reason::ShuttingDown, "this broker stops");
        self.node.upgrade().ok_or_else(gone)
    }

    fn context(&self) -> RequestContext {
        RequestContext {
            principal: Principal::Anonymous,
            client_id: Some(CLIENT_ID.into()),
            listener: PUBLIC_LISTENER.into(),
            peer: self.caller.peer(),
            deadline: None,
            caller: self.caller.clone(),
            route: Route::PassOn,
        }
    }
}

impl BeyondDesk for NodeBeyondDesks {
    fn new_producer(&self) -> BoxFuture<'_, Result<ProducerId, RequestError>> {
        async move {
            let (id, _epoch) = super::producers::init(&*self.node()?, None).await?;
            Ok(id)
        }
        .boxed()
    }

    fn target(&self, wanted: TargetWanted<'_>) -> Result<DeadLetterTarget, RequestError> {
        let node = self.node()?;
        let image = node.metadata.image();
        match wanted {
            TargetWanted::Named(name, source) => {
                let topic = image.topic_named(name).ok_or_else(|| {
                    let message = format!("there is no topic or queue {name:?}: create it, or set another one");
                    RequestError::new(Reason::UnknownTopic, message)
                })?;
                let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
                target_of(topic, PartitionIndex(source.get() % count.max(1)))
            }
            TargetWanted::Known(id, index) => {
                let topic = image.topic(id).ok_or_else(|| {
                    RequestError::new(Reason::UnknownTopic, format!("topic {id} is not there any more"))
                })?;
                target_of(topic, index)
            }
        }
    }

    fn append<'a>(&'a self, to: &'a DeadLetterTarget, batch: Bytes) -> BoxFuture<'a, Result<(), RequestError>> {
        async move {
            let node = self.node()?;
            let timeout = Duration::from_millis(node.settings.produce.timeout_ms.into());
            let topic = node.metadata.image().topic(to.topic).cloned();
            let target = topic.as_ref().and_then(|topic| Target::of(topic, to.index));
            let target = target.ok_or_else(|| {
                let message = format!(
                    "topic {:?} is not there any more: create it again, or set another one",
                    to.name
                );
                RequestError::new(Reason::UnknownTopic, message)
            })?;
            let produced = match target.topic.kind {
                TopicKind::Queue => append_to_queue(&node, &self.context(), &target, batch, timeout).await?,
                TopicKind::Log | TopicKind::Coordinator | TopicKind::Exchange => {
                    let append = Append {
                        payload: ReadyBatch {
                            message_bytes: batch.len(),
                            batch,
                        },
                        expected: Expectation::default(),
                        transaction: None,
                        acks: Acks::Quorum,
                        timeout,
                    };
                    let accepted = produce::admit(&node, &self.context(), &target, append, Patience::Wait).await?;
                    accepted.answer().await?
                }
            };
            match produced {
                Produced::Appended(_) => Ok(()),
                Produced::Taken { .. } => {
                    let message = format!("{target}: the leader answered before its quorum did");
                    Err(RequestError::new(Reason::Internal, message).unknown())
                }
            }
        }
        .boxed()
    }

    fn expire(&self, queue: QueueId, expires_ms: u64) -> BoxFuture<'_, bool> {
        async move {
            match self.node() {
                Ok(node) => queue_expiry::expire(&node, queue, expires_ms).await,
                Err(_) => false,
            }
        }
        .boxed()
    }
}

fn target_of(topic: &Arc<Topic>, index: PartitionIndex) -> Result<DeadLetterTarget, RequestError> {
    let name = topic.name.clone();
    if matches!(topic.kind, TopicKind::Coordinator | TopicKind::Exchange) {
        let message = format!("topic {name:?} is internal, and takes no dead letters");
        return Err(RequestError::new(Reason::InvalidTopicName, message));
    }
    if topic.partition(index).is_none() {
        let message = format!("topic {name:?} has no partition {index}");
        return Err(RequestError::new(Reason::UnknownPartition, message));
    }
    let settings = topic.settings().map_err(|error| {
        let message = format!("the settings of topic {name:?} cannot be read by this version: {error}");
        RequestError::new(Reason::InvalidConfig, message)
    })?;
    Ok(DeadLetterTarget {
        topic: topic.id,
        name,
        index,
        batch_bytes_max: settings.batch_limits().max_batch_bytes,
    })
}

async fn append_to_queue(
    node: &Arc<Node>,
    context: &RequestContext,
    target: &Target,
    batch: Bytes,
    timeout: Duration,
) -> Result<Produced, RequestError> {
    let queue = {
        let image = node.metadata.image();
        let owner = image.queues_of(target.topic.id).next();
        let unknown = || {
            let message = format!("queue {:?} is not there any more", target.topic.name);
            RequestError::new(Reason::UnknownQueue, message)
        };
        let owner = owner.ok_or_else(unknown)?;
        QueueRef::resolve(&image, &QueueName::Id(owner.id))?
    };
    let at = QueuePartition {
        queue: queue.id(),
        index: target.index,
    };
    letters::append(node, context, &queue, AppendLetters { at, batch, timeout }).await
}
