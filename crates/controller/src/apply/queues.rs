//! Queues: creation, alteration, deletion.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_routing::Destination;
use jangada_types::{ExchangeId, QueueId, Reason, Rejection, ReplicaId, TopicId};

use crate::command::CommandKind;
use crate::exchange_rules;
use crate::image::{Image, TopicKind};
use crate::queue_rules;
use crate::queues::{EffectiveSettings, Queue, QueueKind, QueueStart};
use crate::reply::Reply;
use crate::rules;

impl Image {
    /// The name is judged before the id, as with topics: a proposal that was applied twice finds its own id in the rejection.
    pub(super) fn create_owned_queue(
        &mut self,
        id: QueueId,
        name: &str,
        config: &BTreeMap<String, String>,
        assignments: &[Vec<ReplicaId>],
    ) -> Result<Reply, Rejection> {
        let settings = {
            self.judge_new_queue(id, name)?;
            queue_rules::config(self, name, name, QueueKind::Owned.scope(), config)?
        };
        let topic_id = id.own_topic();
        rules::all_have_level(self, CommandKind::CreateOwnedQueue.since())?;
        self.add_topic(
            topic_id,
            TopicKind::Queue,
            name,
            &settings.topic_settings(),
            assignments,
        )?;
        Ok(self.add_queue(
            CommandKind::CreateOwnedQueue,
            (id, name),
            topic_id,
            QueueKind::Owned,
            config,
        ))
    }

    pub(super) fn create_group_queue(
        &mut self,
        id: QueueId,
        name: &str,
        topic_id: TopicId,
        start: QueueStart,
        config: &BTreeMap<String, String>,
    ) -> Result<Reply, Rejection> {
        self.judge_new_queue(id, name)?;
        let topic = rules::topic_by_id(self, topic_id)?;
        queue_rules::may_be_read(self, name, topic)?;
        let partitions = u32::try_from(topic.partitions.len()).expect("a topic's partitions are limited");
        let kind = QueueKind::Group { start, partitions };
        queue_rules::config(self, name, &topic.name, kind.scope(), config)?;
        rules::all_have_level(self, CommandKind::CreateGroupQueue.since())?;
        Ok(self.add_queue(CommandKind::CreateGroupQueue, (id, name), topic_id, kind, config))
    }

    pub(super) fn create_bound_queue(
        &mut self,
        id: QueueId,
        name: &str,
        exchange_id: ExchangeId,
        config: &BTreeMap<String, String>,
    ) -> Result<Reply, Rejection> {
        self.judge_new_queue(id, name)?;
        let exchange = exchange_rules::exchange_by_id(self, exchange_id)?;
        let log = exchange_rules::may_be_viewed(self, exchange, name)?;
        queue_rules::config(self, name, &log.name, QueueKind::Bound.scope(), config)?;
        rules::all_have_level(self, CommandKind::CreateBoundQueue.since())?;
        let (topic_id, bound) = (log.id, exchange_rules::bound_by_creation(exchange, id));
        let created = self.add_queue(
            CommandKind::CreateBoundQueue,
            (id, name),
            topic_id,
            QueueKind::Bound,
            config,
        );
        self.exchanges.bind(exchange_id, &bound);
        Ok(created)
    }

    fn judge_new_queue(&self, id: QueueId, name: &str) -> Result<(), Rejection> {
        queue_rules::queue_name(name)?;
        queue_rules::name_is_free(self, name)?;
        if id == QueueId::default() || self.queue(id).is_some() {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!("queue {name:?} was proposed with id {id}, which is taken: propose it with another random id"),
            ));
        }
        queue_rules::has_room(self)
    }

    /// Adds a queue that was judged.
    fn add_queue(
        &mut self,
        command: CommandKind,
        (id, name): (QueueId, &str),
        topic_id: TopicId,
        kind: QueueKind,
        config: &BTreeMap<String, String>,
    ) -> Reply {
        self.feature_level = self.feature_level.max(command.since());
        self.insert_queue(Queue {
            id,
            name: Arc::from(name),
            topic_id,
            kind,
            config: config.clone(),
            effective: EffectiveSettings::default(),
        });
        Reply::QueueCreated {
            queue_id: id,
            topic_id,
            version: self.version,
        }
    }

    pub(super) fn alter_queue(
        &mut self,
        id: QueueId,
        set: &BTreeMap<String, String>,
        unset: &[String],
    ) -> Result<Reply, Rejection> {
        let queue = queue_rules::queue_by_id(self, id)?;
        let (config, settings) = queue_rules::merged_config(self, queue, set, unset)?;
        let (topic_id, kind) = (queue.topic_id, queue.kind);
        let queue = Arc::make_mut(&mut self.queues)
            .get_mut(&id)
            .expect("the queue was found above");
        let queue = Arc::make_mut(queue);
        (queue.config, queue.effective) = (config, EffectiveSettings::default());
        // A topic that does not change stays the same value, so that its replicas have nothing to look at.
        let own = settings.topic_settings();
        if kind == QueueKind::Owned && self.topic(topic_id).is_some_and(|topic| topic.config != own) {
            let topic = Arc::make_mut(&mut self.topics)
                .get_mut(&topic_id)
                .expect("a queue's topic is there");
            Arc::make_mut(topic).config = own;
        }
        Ok(Reply::QueueAltered { version: self.version })
    }

    /// Deletes a queue that its leaders found unused for as long as this setting says.
    pub(super) fn expire_queue(&mut self, id: QueueId, expires_ms: u64) -> Result<Reply, Rejection> {
        let queue = queue_rules::queue_by_id(self, id)?;
        let now = queue.settings().ok().and_then(|settings| settings.expires_ms);
        if now != Some(expires_ms) {
            let name = &queue.name;
            return Err(Rejection::new(
                Reason::ConditionFailed,
                format!(
                    "queue {name:?} stays: it was unused for {expires_ms} ms, and its setting was changed meanwhile"
                ),
            ));
        }
        self.delete_queue(id)
    }

    /// Deletes a queue, the topic that an owned one has, and the bindings that lead to it.
    pub(super) fn delete_queue(&mut self, id: QueueId) -> Result<Reply, Rejection> {
        queue_rules::queue_by_id(self, id)?;
        let queue = self.remove_queue(id);
        self.exchanges.remove_destination(Destination::Queue(id));
        if queue.kind == QueueKind::Owned {
            self.remove_topic(queue.topic_id);
        }
        Ok(Reply::QueueDeleted { version: self.version })
    }
}
