//! The state that senders and the driver share: the buffer's permits, the topics' queues, and the signals that wake the
//! driver.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use jangada_types::{BatchBuilder, ProducerEpoch, ProducerId};
use tokio::sync::{Notify, Semaphore, TryAcquireError, oneshot};
use tokio::time::Instant;

use super::accumulator::Appended;
use super::config::{Acks, ProducerConfig};
use super::delivery::{BatchReport, Delivery};
use super::partitions::{Gathering, PartitionQueue, TOPIC_LIMIT, TopicQueues};
use super::record::{Condition, ProducerRecord};
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::metadata::{Image, TopicMetadata};

pub(crate) struct Shared {
    pub cluster: Arc<Cluster>,
    pub config: ProducerConfig,
    /// Set for a producer whose records are parts of transactions.
    pub transactional_id: Option<Arc<str>>,
    /// Free bytes of the buffer. A record takes its size when it is sent; its batch gives all back when it is settled.
    buffer: Semaphore,
    topics: RwLock<BTreeMap<Arc<str>, Arc<TopicQueues>>>,
    next_lane: AtomicU64,
    signals: Mutex<Signals>,
    wake: Notify,
}

/// The events since the driver last looked.
#[derive(Default)]
pub(crate) struct Signals {
    /// Queues in which a batch was opened, and when.
    pub opened: Vec<(Instant, Arc<PartitionQueue>)>,
    /// Queues in which a batch became full.
    pub filled: Vec<Arc<PartitionQueue>>,
    /// Callers that flush; each is sent the reports to wait for.
    pub flushes: Vec<oneshot::Sender<Vec<Arc<BatchReport>>>>,
    /// Whether the driver wakes within the linger anyway, so that an opened batch need not wake it.
    pub will_look: bool,
    /// The identity of the transaction that begins now.
    pub identity: Option<(ProducerId, ProducerEpoch)>,
    /// Callers that want everything dropped which is not settled, with the error for it.
    pub discards: Vec<(ClientError, oneshot::Sender<()>)>,
    /// The first failure of the open transaction: it can only be aborted.
    pub failed: Option<ClientError>,
    /// The error of later sends, once no more records are taken.
    pub ended: Option<ClientError>,
    /// Whether the driver is gone.
    pub stopped: bool,
}

impl Shared {
    pub fn new(cluster: Arc<Cluster>, config: ProducerConfig, transactional_id: Option<Arc<str>>) -> Self {
        Self {
            cluster,
            transactional_id,
            buffer: Semaphore::new(config.buffer_bytes),
            config,
            topics: RwLock::default(),
            next_lane: AtomicU64::new(0),
            signals: Mutex::default(),
            wake: Notify::new(),
        }
    }

    pub async fn send(&self, record: ProducerRecord, condition: Option<Condition>) -> Result<Delivery, ClientError> {
        if condition.is_some() {
            self.check_condition(&record, condition)?;
        }
        if self.transactional_id.is_some()
            && let Some(error) = self.failure()
        {
            return Err(error);
        }
        let headers = record
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref()));
        let size = BatchBuilder::record_size_max(record.key.as_deref(), record.value.as_deref(), headers);
        let mut topic = self.topic_for(&record.topic, size).await?;
        self.reserve(size).await?;
        loop {
            let time = record.timestamp_ms.unwrap_or_else(|| self.cluster.env.clock.now_ms());
            let appended = topic.append((&record, condition), (size, time), |queue, appended| {
                self.signal(queue, appended);
            });
            let error = match appended {
                Ok(Appended {
                    delivery: Some(delivery),
                    ..
                }) => return Ok(delivery),
                Ok(_) => unreachable!("a record that may go anywhere is taken"),
                Err(error) => error,
            };
            // From here on the record holds nothing of the buffer, so that a dropped call leaks nothing.
            self.release(size);
            if !matches!(error, ClientError::UnknownTopic { .. }) {
                return Err(error);
            }
            // The topic was deleted; there may be a new one of its name.
            self.forget(&topic);
            topic = self.topic_for(&record.topic, size).await?;
            self.reserve(size).await?;
        }
    }

    fn gathering(&self) -> Gathering<'_> {
        Gathering {
            config: &self.config,
            is_transactional: self.transactional_id.is_some(),
        }
    }

    /// Why the open transaction can only be aborted, if that is so.
    pub fn failure(&self) -> Option<ClientError> {
        let failed = self.signals().failed.clone()?;
        Some(ClientError::TransactionAborted {
            cause: Arc::new(failed),
        })
    }

    /// Begins a transaction: what is sent from now on is part of it. Everything of the one before is settled.
    pub fn begin(&self, identity: (ProducerId, ProducerEpoch)) {
        let mut signals = self.signals();
        signals.identity = Some(identity);
        signals.failed = None;
    }

    /// Drops everything that is not settled, with this error, and waits until it is done. What is under way to a broker may still arrive
    /// there.
    pub async fn discard(&self, error: ClientError) {
        let (done, waiting) = oneshot::channel();
        {
            let mut signals = self.signals();
            if signals.stopped {
                return;
            }
            signals.discards.push((error, done));
        }
        self.wake.notify_one();
        // A driver that ends meanwhile has settled everything.
        let _ = waiting.await;
    }

    fn check_condition(&self, record: &ProducerRecord, condition: Option<Condition>) -> Result<(), ClientError> {
        let refused = |message: &str| Err(ClientError::Config(message.to_owned()));
        match condition {
            Some(Condition::KeyOffset(_)) if record.key.is_none() => {
                refused("Condition::KeyOffset needs a record with a key")
            }
            Some(Condition::EndOffset(_)) if record.partition.is_none() && record.key.is_none() => {
                refused("Condition::EndOffset needs a record with a partition or a key: whose end is meant?")
            }
            Some(_) if self.config.acks == Acks::None => {
                refused("a conditional record needs its answer: use Acks::Quorum")
            }
            _ => Ok(()),
        }
    }

    /// The topic's queues, for a record of this size.
    async fn topic_for(&self, name: &Arc<str>, size: usize) -> Result<Arc<TopicQueues>, ClientError> {
        let topic = self.topic(name).await?;
        if size <= topic.record_bytes_max() {
            self.check_size(&topic, size)?;
            return Ok(topic);
        }
        // The limit may have been raised. When no broker answers, the known limit counts.
        let seen = self.cluster.metadata.image().refreshes;
        let _ = self.cluster.refresh(seen, self.cluster.deadline()).await;
        self.take_changes(&self.cluster.metadata.image());
        let topic = self.topic(name).await?;
        self.check_size(&topic, size)?;
        Ok(topic)
    }

    /// Takes over changes of topics: limits that were altered, partitions that were added. A topic that was created
    /// anew is another one.
    pub fn take_changes(&self, image: &Image) {
        let mut replaced = Vec::new();
        let mut grown = Vec::new();
        for known in self.topics.read().unwrap_or_else(PoisonError::into_inner).values() {
            match image.topic(&known.topic.name) {
                Some(newest) if newest.id != known.topic.id => replaced.push(known.clone()),
                Some(newest) => {
                    known.take_limit(newest, &self.config);
                    if newest.partitions.len() > known.queues.len() {
                        grown.push((known.clone(), newest.clone()));
                    }
                }
                None => {}
            }
        }
        for topic in &replaced {
            self.forget(topic);
        }
        for (known, newest) in grown {
            self.grow(&known, newest);
        }
    }

    fn grow(&self, known: &Arc<TopicQueues>, newest: Arc<TopicMetadata>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = topics.get_mut(&known.topic.name) else {
            return;
        };
        // A concurrent call may have replaced the topic's queues.
        if Arc::ptr_eq(place, known) {
            *place = Arc::new(known.grown(newest, self.gathering(), &self.next_lane));
        }
    }

    async fn topic(&self, name: &Arc<str>) -> Result<Arc<TopicQueues>, ClientError> {
        if let Some(topic) = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(topic.clone());
        }
        if let Some(error) = self.signals().ended.clone() {
            return Err(error);
        }
        let metadata = self.cluster.topic(name).await?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        // The driver ends all queues that there are, under this lock, after `ended` was set.
        if let Some(error) = self.signals().ended.clone() {
            return Err(error);
        }
        // Producers that start together should not all begin with the same partition.
        let turn = self.cluster.env.random.number();
        let fresh = || Arc::new(TopicQueues::new(metadata, self.gathering(), &self.next_lane, turn));
        Ok(topics.entry(name.clone()).or_insert_with(fresh).clone())
    }

    fn forget(&self, gone: &Arc<TopicQueues>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics
            .get(&gone.topic.name)
            .is_some_and(|known| Arc::ptr_eq(known, gone))
        {
            topics.remove(&gone.topic.name);
        }
    }

    fn check_size(&self, topic: &TopicQueues, size: usize) -> Result<(), ClientError> {
        let record_bytes_max = topic.record_bytes_max();
        let (limit, knob) = if record_bytes_max <= self.config.buffer_bytes {
            (record_bytes_max, TOPIC_LIMIT)
        } else {
            (self.config.buffer_bytes, "the producer's buffer_bytes")
        };
        if size > limit {
            return Err(ClientError::RecordTooLarge {
                topic: topic.topic.name.clone(),
                size,
                limit,
                knob,
            });
        }
        Ok(())
    }

    /// Waits for room in the buffer, in the order of the calls.
    async fn reserve(&self, bytes: usize) -> Result<(), ClientError> {
        let permits = u32::try_from(bytes).expect("a record is at most as large as a batch");
        let at_once = self.buffer.try_acquire_many(permits);
        let reserved = match at_once {
            Ok(permit) => Ok(permit),
            Err(TryAcquireError::Closed) => return Err(self.signals().ended.clone().unwrap_or(ClientError::Closed)),
            Err(TryAcquireError::NoPermits) => {
                let what = || "the producer waits for room in its buffer: too little is acknowledged".to_owned();
                let waiting = self
                    .cluster
                    .notices
                    .waiting(what, Result::is_ok, self.buffer.acquire_many(permits));
                waiting.await
            }
        };
        match reserved {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(self.signals().ended.clone().unwrap_or(ClientError::Closed)),
        }
        Ok(())
    }

    /// Gives room in the buffer back.
    pub fn release(&self, bytes: usize) {
        self.buffer.add_permits(bytes);
    }

    fn signal(&self, queue: &Arc<PartitionQueue>, appended: &Appended) {
        if appended.opened.is_none() && !appended.filled {
            return;
        }
        let mut signals = self.signals();
        let mut wake = appended.filled;
        if appended.filled {
            signals.filled.push(queue.clone());
        }
        if let Some(at) = appended.opened {
            signals.opened.push((at, queue.clone()));
            wake |= !std::mem::replace(&mut signals.will_look, true);
        }
        drop(signals);
        if wake {
            self.wake.notify_one();
        }
    }

    pub fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a signal has come.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    pub async fn flush(&self) {
        let (answer, reports) = oneshot::channel();
        {
            let mut signals = self.signals();
            if signals.stopped {
                return;
            }
            signals.flushes.push(answer);
        }
        self.wake.notify_one();
        // A driver that ends meanwhile has settled everything.
        for report in reports.await.unwrap_or_default() {
            report.done().await;
        }
    }

    /// Refuses later records. Those that were taken are delivered, then the driver ends.
    pub fn begin_close(&self) {
        self.end(ClientError::Closed);
    }

    /// Refuses later records, with this error; an error that was set before stays.
    pub fn end(&self, error: ClientError) {
        self.signals().ended.get_or_insert(error);
        self.buffer.close();
        self.wake.notify_one();
    }

    /// Marks the driver as gone, as its last act. Returns the batches that are still in the queues.
    pub fn stop(&self) -> Vec<(Arc<PartitionQueue>, Vec<super::accumulator::Batch>)> {
        self.end(ClientError::Closed);
        let ended = {
            let mut signals = self.signals();
            signals.stopped = true;
            signals.flushes.clear();
            signals.ended.clone().unwrap_or(ClientError::Closed)
        };
        let topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let queues = topics.values().flat_map(|topic| &topic.queues);
        queues
            .map(|queue| (queue.clone(), queue.lock().close(ended.clone())))
            .collect()
    }
}
