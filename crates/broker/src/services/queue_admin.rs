//! `QueueAdminService`. Any broker takes a call: metadata commands go to the metadata's leader by themselves.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use jangada_controller::{QueueKind as Kind, QueueStart};
use jangada_proto::v1::create_queue_request::Start;
use jangada_proto::v1::queue_admin_service_server::QueueAdminService;
use jangada_proto::v1::*;
use jangada_types::Reason;
use jangada_types::queue_config::KEYS;
use tonic::{Request, Response, Status};

use super::passed_queue_admin as wire;
use super::{cluster_wire, names, schedule_wire, status};
use crate::admission::{Call, call_of};
use crate::api::call::queue_admin::{ListDead, PurgeDead};
use crate::api::queue_messages::{self, QueueRef};
use crate::api::queues::{self, MessagesWanted, QueueFound, QueueWanted};
use crate::api::{queue_depth, queue_redrive, schedules, topics};
use crate::error::RequestError;
use crate::node::Node;
use crate::quota::Resource;

/// The service `QueueAdminService` (`queue_admin.proto`).
pub(crate) struct QueueAdmin {
    pub node: Arc<Node>,
}

impl QueueAdmin {
    /// An answer, or an error on its way out.
    fn answer<T>(&self, call: &Call, result: Result<T, RequestError>) -> Answer<T> {
        status::answer(&self.node, call, result)
    }

    async fn create(&self, request: CreateQueueRequest) -> Result<CreateQueueResponse, RequestError> {
        let created = queues::create(&self.node, wanted(request)?).await?;
        Ok(CreateQueueResponse {
            queue_id: created.id.to_bytes().to_vec().into(),
            created: created.created,
            version: created.version,
            partitions: created.partitions,
            replicas: created.replicas,
        })
    }

    async fn describe(&self, request: DescribeQueueRequest) -> Result<DescribeQueueResponse, RequestError> {
        let found = queues::describe(&self.node, &names::queue(&request.queue_id, request.name)?)?;
        let depths = queue_depth::of_all_brokers(&self.node, &found.queue, &found.topic).await;
        Ok(DescribeQueueResponse {
            partitions: depths.into_iter().map(wire::depth_to).collect(),
            config: config_entries(&found),
            queue: Some(summary(found)),
        })
    }

    async fn alter(&self, request: AlterQueueRequest) -> Result<AlterQueueResponse, RequestError> {
        let set: BTreeMap<String, String> = request.set.into_iter().collect();
        let queue = names::queue(&request.queue_id, request.name)?;
        let version = queues::alter(&self.node, &queue, &set, &request.unset).await?;
        Ok(AlterQueueResponse { version })
    }

    async fn delete(&self, request: DeleteQueueRequest) -> Result<DeleteQueueResponse, RequestError> {
        let queue = names::queue(&request.queue_id, request.name)?;
        let version = queues::delete(&self.node, &queue).await?;
        Ok(DeleteQueueResponse { version })
    }
}

/// The queue that a call about schedules names.
fn find(node: &Node, name: String, id: &[u8]) -> Result<QueueRef, RequestError> {
    queue_messages::find(node, &names::queue(id, name)?)
}

fn wanted(request: CreateQueueRequest) -> Result<QueueWanted, RequestError> {
    let refuse = |what: &str| {
        let message = format!("queue {:?}: {what}", request.name);
        Err(RequestError::new(Reason::InvalidRequest, message))
    };
    let reads_topic = !request.topic.is_empty() || !request.topic_id.is_empty();
    let messages = if !request.exchange.is_empty() {
        if reads_topic || request.start.is_some() || request.partitions != 0 || request.replicas != 0 {
            return refuse(
                "one over the log of an exchange begins at its end: give no topic, partitions, replicas or start",
            );
        }
        MessagesWanted::Exchange(request.exchange)
    } else if reads_topic {
        if request.partitions != 0 || request.replicas != 0 {
            return refuse("one that reads a topic has the topic's partitions and replicas: give none");
        }
        let start = match request.start {
            None | Some(Start::Earliest(_)) => QueueStart::Earliest,
            Some(Start::Latest(_)) => QueueStart::Latest,
            Some(Start::TimestampMs(timestamp_ms @ 0..)) => QueueStart::Timestamp(timestamp_ms),
            Some(Start::TimestampMs(_)) => return refuse("it can't begin before 1970: give a timestamp of 0 or more"),
        };
        MessagesWanted::Topic {
            topic: names::topic(&request.topic_id, request.topic)?,
            start,
        }
    } else {
        if request.start.is_some() {
            return refuse("one with a log of its own begins with its first message: give no start, or name a topic");
        }
        MessagesWanted::Own {
            partitions: request.partitions,
            replicas: request.replicas,
        }
    };
    Ok(QueueWanted {
        name: request.name,
        messages,
        config: request.config.into_iter().collect(),
        if_not_exists: request.if_not_exists,
    })
}

fn summary(found: QueueFound) -> QueueSummary {
    let QueueFound { queue, topic } = found;
    let kind = match queue.kind {
        Kind::Owned => QueueKind::Owned,
        Kind::Group { .. } => QueueKind::Group,
        Kind::Bound => QueueKind::Bound,
    };
    QueueSummary {
        name: queue.name.to_string(),
        queue_id: queue.id.to_bytes().to_vec().into(),
        kind: kind.into(),
        topic: topic.name.to_string(),
        topic_id: cluster_wire::topic_id(topic.id),
        partitions: topics::count(topic.partitions.len()),
        replicas: topics::replicas_of(&topic),
        is_paused: queue.settings().is_ok_and(|settings| settings.is_paused),
    }
}

/// The settings that a queue of its kind may have, with what they mean.
fn config_entries(found: &QueueFound) -> Vec<ConfigEntry> {
    let scope = found.queue.kind.scope();
    let keys = KEYS.iter().filter(|key| key.scope.is_none_or(|only| only == scope));
    let entry = |key: &jangada_types::queue_config::QueueConfigKey| {
        let set = found.queue.config.get(key.name);
        ConfigEntry {
            key: key.name.to_owned(),
            value: set.cloned().unwrap_or_else(|| key.default.to_owned()),
            is_set: set.is_some(),
            default_value: key.default.to_owned(),
            documentation: format!("{} Allowed: {}.", key.documentation, key.allowed),
        }
    };
    keys.map(entry).collect()
}

type Answer<T> = Result<Response<T>, Status>;
/// How far a redrive is, until it is through.
type RedriveProgress = Pin<Box<dyn Stream<Item = Result<RedriveDeadResponse, Status>> + Send>>;

fn redrive(node: Arc<Node>, call: Arc<Call>, request: RedriveDeadRequest) -> Result<RedriveProgress, RequestError> {
    let slot = call.caller().try_take(Resource::Streams, 1)?;
    let progress = queue_redrive::begin(&node, Arc::new(call.context.clone()), wire::redrive_of(request)?)?;
    Ok(Box::pin(progress.map(move |progress| {
        // The stream has its place until it ends.
        let _slot = &slot;
        let refused = |error| Status::from(node.refused(error, &call.context.listener));
        progress.map(|progress| wire::redriven_to(&progress)).map_err(refused)
    })))
}

#[tonic::async_trait]
impl QueueAdminService for QueueAdmin {
    async fn create_queue(&self, request: Request<CreateQueueRequest>) -> Answer<CreateQueueResponse> {
        let call = call_of(&request);
        self.answer(&call, self.create(request.into_inner()).await)
    }

    async fn list_queues(&self, _request: Request<ListQueuesRequest>) -> Answer<ListQueuesResponse> {
        let queues = queues::list(&self.node).into_iter().map(summary).collect();
        Ok(Response::new(ListQueuesResponse { queues }))
    }

    async fn describe_queue(&self, request: Request<DescribeQueueRequest>) -> Answer<DescribeQueueResponse> {
        let call = call_of(&request);
        self.answer(&call, self.describe(request.into_inner()).await)
    }

    async fn alter_queue(&self, request: Request<AlterQueueRequest>) -> Answer<AlterQueueResponse> {
        let call = call_of(&request);
        self.answer(&call, self.alter(request.into_inner()).await)
    }

    async fn delete_queue(&self, request: Request<DeleteQueueRequest>) -> Answer<DeleteQueueResponse> {
        let call = call_of(&request);
        self.answer(&call, self.delete(request.into_inner()).await)
    }

    async fn purge_queue(&self, request: Request<PurgeQueueRequest>) -> Answer<PurgeQueueResponse> {
        let call = call_of(&request);
        let purge =
            async { queue_depth::purge(&self.node, &call.context, wire::purge_of(request.into_inner())?).await };
        self.answer(&call, purge.await.map(|()| PurgeQueueResponse {}))
    }

    async fn seek_queue(&self, request: Request<SeekQueueRequest>) -> Answer<SeekQueueResponse> {
        let call = call_of(&request);
        let seek = async { queue_depth::seek(&self.node, &call.context, wire::seek_of(request.into_inner())?).await };
        self.answer(&call, seek.await.map(wire::sought_to))
    }

    async fn list_dead(&self, request: Request<DeadRequest>) -> Answer<ListDeadResponse> {
        let call = call_of(&request);
        let list = async {
            let wanted = ListDead(wire::dead_of(request.into_inner())?);
            queue_depth::list_dead(&self.node, &call.context, wanted).await
        };
        self.answer(&call, list.await.map(wire::found_to))
    }

    type RedriveDeadStream = RedriveProgress;

    async fn redrive_dead(&self, request: Request<RedriveDeadRequest>) -> Answer<Self::RedriveDeadStream> {
        let call = call_of(&request);
        let begun = redrive(self.node.clone(), call.clone(), request.into_inner());
        self.answer(&call, begun)
    }

    async fn purge_dead(&self, request: Request<DeadRequest>) -> Answer<DeadResponse> {
        let call = call_of(&request);
        let purge = async {
            let wanted = PurgeDead(wire::dead_of(request.into_inner())?);
            queue_depth::purge_dead(&self.node, &call.context, wanted).await
        };
        self.answer(&call, purge.await.map(|done| wire::done_to(&done)))
    }

    async fn put_schedule(&self, request: Request<PutScheduleRequest>) -> Answer<PutScheduleResponse> {
        let call = call_of(&request);
        let put = async {
            let mut request = request.into_inner();
            let queue = find(&self.node, std::mem::take(&mut request.name), &request.queue_id)?;
            let schedule = schedule_wire::put_of(request)?;
            schedules::put(&self.node, &call.context, &queue, schedule).await
        };
        self.answer(&call, put.await.map(schedule_wire::put_to))
    }

    async fn delete_schedule(&self, request: Request<DeleteScheduleRequest>) -> Answer<DeleteScheduleResponse> {
        let call = call_of(&request);
        let delete = async {
            let request = request.into_inner();
            let queue = find(&self.node, request.name, &request.queue_id)?;
            schedules::delete(&self.node, &call.context, &queue, request.schedule).await
        };
        self.answer(&call, delete.await.map(|()| DeleteScheduleResponse {}))
    }

    async fn list_schedules(&self, request: Request<ListSchedulesRequest>) -> Answer<ListSchedulesResponse> {
        let call = call_of(&request);
        let list = async {
            let request = request.into_inner();
            let queue = find(&self.node, request.name, &request.queue_id)?;
            let range = (request.after_schedule, schedule_wire::list_limit(request.limit)?);
            schedules::list(&self.node, &queue, range).await
        };
        self.answer(&call, list.await.map(schedule_wire::listed_to))
    }
}
