//! The one task of a producer: it owns the lanes and the streams, and everything that happens to them happens here, in order.
//!
//! It wakes for a batch that opened or became full, for answers, for timers, and for news of the metadata; then it *pumps* the
//! lanes concerned: each does what its next step is until it has to wait. A batch costs about two wake-ups, one to leave and one
//! for its answer, shared with whatever else is ready then.
//!
//! | event | noticed by |
//! |---|---|
//! | linger, pause before another attempt, time for delivery | `timers` |
//! | a leader is cut off without a reset | a link whose oldest attempt waits longer than [`STALL_TIMEOUT`]: other brokers are asked |
//! | a stream breaks | its last event: all its attempts are in doubt and are made again |
//! | a topic is deleted | the metadata no longer has its id |
//! | a topic's largest batch is altered | the metadata; a batch that is refused as too large has them asked for, and is sent in parts |
//! | a topic gets more partitions | the metadata, which are asked for anew after `metadata_max_age` |

mod answers;
mod firing;
mod identify;
mod lane_state;
mod links;
mod refresh;
mod timers;
mod transaction;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, SelectAll, StreamExt as _};
use jangada_proto::v1;
use jangada_types::{BrokerId, ProducerEpoch, ProducerId};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::accumulator::Batch;
use super::config::Acks;
use super::delivery::{BatchReport, Receipt};
use super::identity::Identity;
use super::lane::{End, Lane, Step};
use super::partitions::PartitionQueue;
use super::record::Condition;
use super::shared::Shared;
use super::stream::{Link, LinkEvents, LinkId, Opened, Outstanding};
use crate::backoff::Backoff;
use crate::error::ClientError;
use crate::metadata::{Image, LeaderLookup};
use crate::notice::Notice;
use crate::wire_error::Failure;
use lane_state::LaneState;
use refresh::Refresh;
use timers::{Timer, Timers};

/// A leader that answers nothing for this long may be cut off. Other brokers are asked whether there is another leader.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval at which other brokers are asked while a leader stalls.
const STALL_RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// A stream is given up after the time that the leader waits for the quorum and this.
const SILENCE_GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Driver {
    shared: Arc<Shared>,
    lanes: BTreeMap<u64, LaneState>,
    links: BTreeMap<BrokerId, Link>,
    answers: SelectAll<LinkEvents>,
    jobs: FuturesUnordered<BoxFuture<'static, FinishedJob>>,
    timers: Timers,
    image: watch::Receiver<Arc<Image>>,
    refresh: Refresh,
    /// Whether any broker answered when metadata was asked for last.
    brokers_answer: bool,
    identity: Option<Identity>,
    /// Whether the open transaction has failed: what is still sent in it is dropped.
    failed: bool,
    /// Lanes that wait for an identity, for which a job is under way.
    awaiting_identity: Vec<u64>,
    next_correlation: u64,
    next_generation: u64,
    /// Set when the driver is to settle everything and end.
    closing: bool,
}

/// The result of a job.
enum FinishedJob {
    Connected(LinkId, Result<Opened, Failure>),
    /// Metadata was asked for; whether a broker answered.
    Refreshed(bool),
    Identified(Result<(ProducerId, ProducerEpoch), Failure>),
}

impl Driver {
    pub fn new(shared: Arc<Shared>) -> Self {
        let image = shared.cluster.metadata.subscribe();
        Self {
            lanes: BTreeMap::new(),
            links: BTreeMap::new(),
            answers: SelectAll::new(),
            jobs: FuturesUnordered::new(),
            timers: Timers::new(shared.config.linger),
            image,
            refresh: Refresh::Idle { since: Instant::now() },
            brokers_answer: false,
            identity: None,
            failed: false,
            awaiting_identity: Vec::new(),
            next_correlation: 0,
            next_generation: 0,
            closing: false,
            shared,
        }
    }

    pub async fn run(mut self) {
        let shared = self.shared.clone();
        self.rest_until_stale();
        // One timer serves all; it is moved only when the earliest deadline changes.
        let alarm = sleep_until(Instant::now());
        tokio::pin!(alarm);
        loop {
            self.fire_timers();
            self.take_signals();
            if self.closing && self.is_settled() {
                break;
            }
            let wake_at = self.timers.next();
            if let Some(at) = wake_at
                && alarm.deadline() != at
            {
                alarm.as_mut().reset(at);
            }
            tokio::select! {
                () = shared.woken() => {}
                Some((id, event)) = self.answers.next(), if !self.answers.is_empty() => {
                    self.on_link_event(id, event);
                    // Further answers that are there already are taken in the same turn.
                    while let Some(Some((id, event))) = self.answers.next().now_or_never() {
                        self.on_link_event(id, event);
                    }
                }
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.on_done(done),
                Ok(()) = self.image.changed() => self.on_image(),
                () = async { if wake_at.is_some() { alarm.as_mut().await } else { pending().await } } => {}
            }
        }
    }

    fn on_done(&mut self, done: FinishedJob) {
        match done {
            FinishedJob::Connected(id, opened) => self.on_connected(id, opened),
            FinishedJob::Refreshed(answered) => {
                self.brokers_answer = answered;
                self.rest_until_stale();
            }
            FinishedJob::Identified(identified) => self.on_identified(identified),
        }
    }

    /// Takes the signals that the senders left.
    fn take_signals(&mut self) {
        let (opened, filled, flushes, discards, ended) = {
            let mut signals = self.shared.signals();
            if let Some((id, epoch)) = signals.identity.take() {
                let generation = self.identity.map_or(0, |before| before.generation + 1);
                self.identity = Some(Identity { generation, id, epoch });
                self.failed = false;
            }
            let opened = std::mem::take(&mut signals.opened);
            signals.will_look =
                self.timers.is_lingering() || (!opened.is_empty() && !self.shared.config.linger.is_zero());
            (
                opened,
                std::mem::take(&mut signals.filled),
                std::mem::take(&mut signals.flushes),
                std::mem::take(&mut signals.discards),
                signals.ended.is_some(),
            )
        };
        let now = Instant::now();
        if !discards.is_empty() {
            // What has no lane yet is dropped as well: the next transaction would send it.
            let queues = opened.iter().map(|(_, queue)| queue).chain(&filled);
            queues.for_each(|queue| self.admit_queue(queue.clone(), now));
        }
        for (error, done) in discards {
            self.discard(&error);
            // The caller may have gone.
            let _ = done.send(());
        }
        for (at, queue) in opened {
            let id = queue.lane;
            self.admit_queue(queue, now);
            if self.shared.config.linger.is_zero() {
                self.pump(id);
            } else {
                self.timers.linger(at, id);
            }
        }
        for queue in filled {
            let id = queue.lane;
            self.admit_queue(queue, now);
            self.pump(id);
        }
        for flush in flushes {
            self.flush(flush);
        }
        if ended && !self.closing {
            self.closing = true;
            self.flush_all_now();
        }
    }

    /// Ensures that a queue with a batch has a lane, and a timer for its delivery.
    fn admit_queue(&mut self, queue: Arc<PartitionQueue>, now: Instant) {
        let id = queue.lane;
        let notices = &self.shared.cluster.notices;
        let state = self.lanes.entry(id).or_insert_with(|| LaneState {
            trouble: notices.trouble(format!("produce to {}", queue.topic.name).into(), Some(queue.partition)),
            queue,
            lane: Lane::new(self.shared.config.idempotent, self.shared.config.in_flight_max()),
            backoff: Backoff::new(&self.shared.cluster.env.random),
            blocked_until: None,
            blocked_epoch: 0,
            parked: None,
            link: None,
            sent_epoch: 0,
            progress: now,
            deadline_armed: false,
            last_failure: None,
            credit_bytes: None,
        });
        if !state.deadline_armed {
            state.deadline_armed = true;
            self.timers
                .set(now + self.shared.config.delivery_timeout, Timer::Deadline(id));
        }
    }

    fn flush(&mut self, answer: oneshot::Sender<Vec<Arc<BatchReport>>>) {
        self.flush_all_now();
        let mut reports = Vec::new();
        for state in self.lanes.values() {
            reports.extend(state.lane.batches().map(|batch| batch.reporter.report().clone()));
            reports.extend(
                state
                    .queue
                    .lock()
                    .batches()
                    .map(|batch| batch.reporter.report().clone()),
            );
        }
        // The caller that flushed may have gone.
        let _ = answer.send(reports);
    }

    /// Makes every open batch due.
    fn flush_all_now(&mut self) {
        let lanes: Vec<u64> = self.lanes.keys().copied().collect();
        for id in lanes {
            self.lanes[&id].queue.lock().flush_now();
            self.pump(id);
        }
    }

    fn is_settled(&self) -> bool {
        self.lanes
            .values()
            .all(|state| state.lane.is_empty() && state.queue.lock().is_empty())
    }

    /// Lets a lane do all that it can without waiting.
    fn pump(&mut self, id: u64) {
        let now = Instant::now();
        let linger = self.shared.config.linger;
        loop {
            if self.has_begun_anew() {
                return;
            }
            let Some(state) = self.lanes.get_mut(&id) else { return };
            if self.failed {
                return self.discard_lane(id);
            }
            if state.parked.is_some() || state.blocked_until.is_some_and(|until| until > now) {
                return;
            }
            state.blocked_until = None;
            let step = state.lane.step(self.identity);
            match step {
                Step::Wait => return,
                Step::Resend | Step::Admit | Step::Readmit if !state.has_credit() => return,
                Step::Admit if !state.queue.lock().has_due(linger, now) => return,
                // A conditional batch travels alone, so that its sequence is free again when it is refused.
                Step::Admit | Step::Readmit if !state.has_turn(step == Step::Admit, linger, now) => return,
                Step::Identify | Step::Renumber(_)
                    if state.lane.is_empty() && !state.queue.lock().has_due(linger, now) =>
                {
                    return;
                }
                // Its transaction gives the identity before anything is sent in it.
                Step::Identify if self.shared.transactional_id.is_some() => return,
                Step::Renumber(_) if self.shared.transactional_id.is_some() => return self.lose_transaction(id),
                Step::Identify => return self.await_identity(id, None),
                Step::Renumber(stale) => match self.identity.filter(|newest| newest.generation > stale.generation) {
                    Some(newest) => state.lane.renumber(newest),
                    None => return self.await_identity(id, Some(stale)),
                },
                Step::Resend | Step::Readmit | Step::Admit => {
                    let Some((broker, epoch)) = self.route(id) else { return };
                    self.dispatch(id, broker, epoch, step, now);
                }
            }
        }
    }

    /// The broker to which the lane may send now. `None`: the lane is pumped again when that is possible.
    fn route(&mut self, id: u64) -> Option<(BrokerId, u32)> {
        let state = self.lanes.get_mut(&id)?;
        let queue = &state.queue;
        let leader = self.image.borrow().leader(queue.topic.id, queue.partition);
        let (broker, address, epoch) = match leader {
            LeaderLookup::Known { broker, address, epoch } => (broker, address, epoch),
            LeaderLookup::Unknown { .. } => {
                self.block(id, Failure::no_leader());
                return None;
            }
            LeaderLookup::Missing => {
                let topic = queue.topic.name.clone();
                self.retire(id, ClientError::UnknownTopic { topic });
                return None;
            }
        };
        if self.links.get(&broker).is_some_and(|link| link.address != address) {
            // The broker is at another address: the old stream leads nowhere.
            self.lose_link(
                broker,
                &Failure::local(tonic::Code::Unavailable, "the broker's address changed", false),
            );
        }
        if !self.links.contains_key(&broker) {
            self.connect(broker, address);
        }
        let state = self.lanes.get_mut(&id)?;
        let link = self.links.get_mut(&broker)?;
        if state.blocked_until.is_some() {
            return None;
        }
        if state.lane.is_in_flight() && state.link != Some(link.id) {
            // The old leader's answers come first: order is kept only within a stream.
            return None;
        }
        if !link.has_room() {
            state.parked = Some(link.id);
            link.waiting.push_back(id);
            return None;
        }
        Some((broker, epoch))
    }

    fn dispatch(&mut self, id: u64, broker: BrokerId, epoch: u32, step: Step, now: Instant) {
        let state = self.lanes.get_mut(&id).expect("routed");
        let link = self.links.get_mut(&broker).expect("routed");
        let idle = !state.lane.is_in_flight();
        let ticket = match step {
            Step::Resend => state.lane.resend(),
            Step::Readmit => state.lane.readmit(self.identity),
            _ => {
                let batch = state
                    .queue
                    .lock()
                    .take(self.shared.config.linger, now)
                    .expect("the lane saw one that is due");
                let records = batch.records;
                state.lane.admit(batch, records, self.identity)
            }
        };
        let (batch, stamp) = state.lane.sent(ticket);
        let (expected_end_offset, expected_key_offset) = match batch.condition {
            Some(Condition::EndOffset(offset)) => (Some(offset), None),
            Some(Condition::KeyOffset(offset)) => (None, Some(offset.unwrap_or(-1))),
            None => (None, None),
        };
        let bytes: Bytes = batch.bytes_as(stamp);
        state.link = Some(link.id);
        state.sent_epoch = epoch;
        if idle {
            state.progress = now;
        }
        self.next_correlation += 1;
        let partition = v1::TopicPartition {
            topic_id: state.queue.topic_id.clone(),
            topic: String::new(),
            partition: state.queue.partition,
        };
        let request = v1::ProduceStreamRequest {
            correlation_id: self.next_correlation,
            partition: Some(partition),
            acks: match self.shared.config.acks {
                Acks::Quorum => v1::Acks::Quorum,
                Acks::None => v1::Acks::None,
            }
            .into(),
            timeout_ms: self.shared.config.request_timeout.as_millis() as u32,
            batch: bytes,
            expected_end_offset,
            expected_key_offset,
            records: None,
            transactional_id: self.shared.transactional_id.as_deref().unwrap_or_default().to_owned(),
        };
        link.send(request, Outstanding { lane: id, ticket }, now);
        if !link.watched {
            link.watched = true;
            self.timers.set(now + STALL_TIMEOUT, Timer::Silence(link.id));
        }
    }

    /// Blocks a lane: no further attempt until its backoff has passed.
    fn block(&mut self, id: u64, failure: Failure) {
        let now = Instant::now();
        let Some(state) = self.lanes.get_mut(&id) else { return };
        let asked = failure.retry_delay;
        // Failures of batches that were sent together count as one.
        let delay = match state.blocked_until.filter(|until| *until > now) {
            Some(_) => asked.unwrap_or_default(),
            None => state.backoff.next(asked),
        };
        let until = (now + delay).max(state.blocked_until.unwrap_or(now));
        if state.blocked_until != Some(until) {
            state.blocked_until = Some(until);
            self.timers.set(until, Timer::Retry(id));
        }
        let leader = self.image.borrow().leader(state.queue.topic.id, state.queue.partition);
        if let LeaderLookup::Known { epoch, .. } | LeaderLookup::Unknown { epoch } = leader {
            state.blocked_epoch = epoch;
        }
        state.queue.struggling.store(true, std::sync::atomic::Ordering::Relaxed);
        let next = state.next(self.shared.config.delivery_timeout, delay, now);
        state.trouble.failed(&failure, next);
        state.last_failure = Some(failure);
        self.want_refresh();
    }

    /// Ends the producer. `in_doubt` makes the error for batches whose outcome is unknown.
    fn fail(&mut self, error: &ClientError, in_doubt: impl Fn(&PartitionQueue) -> Option<ClientError>) {
        tracing::error!(%error, "the producer ends");
        self.shared.end(error.clone());
        self.closing = true;
        let lanes: Vec<u64> = self.lanes.keys().copied().collect();
        for id in lanes {
            let doubt = in_doubt(&self.lanes[&id].queue);
            self.drop_lane(id, error, doubt);
        }
    }

    /// Ends the lane of a partition that is gone.
    fn retire(&mut self, id: u64, error: ClientError) {
        if let Some(state) = self.lanes.get(&id) {
            self.shared.cluster.notices.publish(&Notice::PartitionGone {
                topic: state.queue.topic.name.clone(),
                partition: state.queue.partition,
            });
        }
        self.drop_lane(id, &error, None);
    }

    /// Ends a lane: batches that are certainly absent get `error`, those in doubt `in_doubt` or an unknown outcome for
    /// the same cause.
    fn drop_lane(&mut self, id: u64, error: &ClientError, in_doubt: Option<ClientError>) {
        let Some(mut state) = self.lanes.remove(&id) else {
            return;
        };
        let in_doubt = in_doubt.unwrap_or_else(|| {
            let mut failure = Failure::local(tonic::Code::Aborted, error.to_string(), false);
            failure.reason = error.reason();
            failure.into_error(&state.queue.context())
        });
        for (batch, end) in state.lane.clear() {
            let error = if end == End::InDoubt { &in_doubt } else { error };
            self.report(batch, Err(error.clone()));
        }
        let queued = state.queue.lock().close(error.clone());
        for batch in queued {
            self.report(batch, Err(error.clone()));
        }
        self.fail_transaction(error);
    }

    /// Reports a batch's outcome and frees its room in the buffer.
    fn report(&self, batch: Batch, outcome: Result<Receipt, ClientError>) {
        self.shared.release(batch.charged);
        batch.reporter.make(outcome);
    }
}

impl Drop for Driver {
    /// Runs also when the runtime ends before everything is settled: reports that are left are made when they are
    /// dropped.
    fn drop(&mut self) {
        let error = self.shared.signals().ended.clone().unwrap_or(ClientError::Closed);
        for (_, batches) in self.shared.stop() {
            for batch in batches {
                // These batches were never sent.
                self.report(batch, Err(error.clone()));
            }
        }
    }
}
