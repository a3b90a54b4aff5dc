//! Queues, as the metadata has them.
//!
//! Invariants:
//! - A queue id belongs to one queue. A name belongs to one topic or one queue; only an owned queue and its topic share one.
//! - Each queue's topic is there. That of an owned queue is of [`TopicKind::Queue`](crate::TopicKind::Queue), and has the queue's
//!   name and the bytes of its id; every such topic has its queue. That of a group queue is of [`TopicKind::Log`](crate::TopicKind::Log),
//!   that of a bound queue of [`TopicKind::Exchange`](crate::TopicKind::Exchange), which has its exchange.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jangada_types::frame::malformed;
use jangada_types::queue_config::QueueScope;
use jangada_types::replicated::{Sample, Seeds, Wire};
use jangada_types::{CodecError, QueueConfig, QueueConfigError, QueueId, TopicId};

use crate::image::Image;

/// A queue, as the metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The queue's id, never given to another queue.
    pub id: QueueId,
    /// The queue's name, unique among the queues and topics that exist, but for the topic of an owned queue.
    pub name: Arc<str>,
    /// The topic whose records are the queue's messages.
    pub topic_id: TopicId,
    /// Whose the topic is.
    pub kind: QueueKind,
    /// The settings that are set; the rest have their defaults.
    pub config: BTreeMap<String, String>,
    pub(crate) effective: EffectiveSettings,
}

impl Queue {
    /// The settings in effect, read once for each version of the queue. An error means that this build does not know a setting that
    /// another one accepted.
    pub fn settings(&self) -> Result<Arc<QueueConfig>, QueueConfigError> {
        let read = || QueueConfig::from_map(&self.config, self.kind.scope()).map(Arc::new);
        self.effective.0.get_or_init(read).clone()
    }
}

/// The settings in effect, once somebody has asked. They follow from the queue, so all are equal; a copy of a queue, which may be about to
/// change, has none.
#[derive(Debug, Default)]
pub(crate) struct EffectiveSettings(OnceLock<Result<Arc<QueueConfig>, QueueConfigError>>);

impl Clone for EffectiveSettings {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for EffectiveSettings {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for EffectiveSettings {}

/// Whose the topic of a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// The queue's own: it was created with it, and its log is cut as the queue's messages are done.
    Owned,
    /// An ordinary topic, which keeps its records as its settings say. Many queues may read it.
    Group {
        /// Where the queue begins in the partitions that the topic had when the queue was created.
        start: QueueStart,
        /// The number of those partitions. In later ones the queue begins with the first record.
        partitions: u32,
    },
    /// That of an exchange with a log, which is cut as its slowest queue needs it. The queue begins at the end that the log has when the
    /// queue's slots are opened.
    Bound,
}

impl QueueKind {
    /// The kind of queue whose settings this one may have.
    pub const fn scope(self) -> QueueScope {
        match self {
            Self::Owned => QueueScope::Owned,
            Self::Group { .. } | Self::Bound => QueueScope::Group,
        }
    }
}

/// Where a queue begins to read a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueStart {
    /// At the first record that is there.
    Earliest,
    /// Behind the last one.
    Latest,
    /// At the first record with this timestamp or a later one, milliseconds since the Unix epoch, 0 or more.
    Timestamp(i64),
}

impl QueueStart {
    const EARLIEST: i64 = -2;
    const LATEST: i64 = -1;

    /// The start with this number, as Kafka's ListOffsets counts them: -2 earliest, -1 latest, else a timestamp.
    pub fn of_number(number: i64) -> Option<Self> {
        match number {
            Self::EARLIEST => Some(Self::Earliest),
            Self::LATEST => Some(Self::Latest),
            0.. => Some(Self::Timestamp(number)),
            _ => None,
        }
    }

    /// The number of [`Self::of_number`].
    pub const fn number(self) -> i64 {
        match self {
            Self::Earliest => Self::EARLIEST,
            Self::Latest => Self::LATEST,
            Self::Timestamp(timestamp_ms) => timestamp_ms,
        }
    }
}

impl Wire<i64> for QueueStart {
    fn to_form(&self) -> i64 {
        self.number()
    }

    fn from_form(what: &'static str, form: i64) -> Result<Self, CodecError> {
        Self::of_number(form).ok_or_else(|| malformed(what, format!("a queue that starts at {form}")))
    }
}

impl Sample for QueueStart {
    fn sample(seeds: &mut Seeds) -> Self {
        match seeds.below(3) {
            0 => Self::Earliest,
            1 => Self::Latest,
            _ => Self::Timestamp(i64::try_from(seeds.below(1 << 41)).unwrap_or(i64::MAX)),
        }
    }
}

impl Image {
    /// All queues, by id.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    /// All queues, by name.
    pub fn queues_by_name(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues_by_name.values().filter_map(|id| self.queues.get(id))
    }

    /// The queue with this id.
    pub fn queue(&self, id: QueueId) -> Option<&Arc<Queue>> {
        self.queues.get(&id)
    }

    /// The queue with this name.
    pub fn queue_by_name(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(self.queues_by_name.get(name)?)
    }

    /// The queues whose messages are the records of this topic, by id. Costs one look-up for a topic without queues.
    pub fn queues_of(&self, topic: TopicId) -> impl Iterator<Item = &Arc<Queue>> {
        let ids = self.queues_by_topic.get(&topic).into_iter().flatten();
        ids.filter_map(|id| self.queues.get(id))
    }

    /// Adds a queue whose name, topic and settings were judged.
    pub(crate) fn insert_queue(&mut self, queue: Queue) {
        Arc::make_mut(&mut self.queues_by_name).insert(Arc::clone(&queue.name), queue.id);
        let of_topic = Arc::make_mut(&mut self.queues_by_topic);
        of_topic.entry(queue.topic_id).or_default().insert(queue.id);
        Arc::make_mut(&mut self.queues).insert(queue.id, Arc::new(queue));
    }

    /// Removes a queue that is there, but not its topic.
    pub(crate) fn remove_queue(&mut self, id: QueueId) -> Arc<Queue> {
        let queue = Arc::make_mut(&mut self.queues)
            .remove(&id)
            .expect("the queue was found before");
        Arc::make_mut(&mut self.queues_by_name).remove(&queue.name);
        let of_topic = Arc::make_mut(&mut self.queues_by_topic);
        if let Some(ids) = of_topic.get_mut(&queue.topic_id) {
            ids.remove(&id);
            if ids.is_empty() {
                of_topic.remove(&queue.topic_id);
            }
        }
        queue
    }
}
