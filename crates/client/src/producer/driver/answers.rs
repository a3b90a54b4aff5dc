//! Translates answers of brokers for a lane, and outcomes for a batch's senders.

use std::sync::atomic::Ordering;

use jangada_proto::v1;
use jangada_types::{BrokerId, Reason};
use tokio::time::Instant;

use super::super::accumulator::Batch;
use super::super::delivery::Receipt;
use super::super::lane::{Answer, End, Ticket};
use super::super::partitions::{PartitionQueue, TOPIC_LIMIT};
use super::Driver;
use crate::error::ClientError;
use crate::notice::Notice;
use crate::wire_error::{Disposition, Failure};

impl Driver {
    pub(super) fn on_answer(&mut self, broker: BrokerId, answer: v1::ProduceStreamResponse) {
        use v1::produce_stream_response::Result as Wire;
        let link = self.links.get_mut(&broker).expect("the answer came on it");
        let Some(sent) = link.outstanding.remove(&answer.correlation_id) else {
            tracing::warn!(%broker, correlation_id = answer.correlation_id, "an answer to nothing that was asked");
            return;
        };
        let Some(state) = self.lanes.get_mut(&sent.lane) else {
            return;
        };
        state.progress = Instant::now();
        state.credit_bytes = answer.credit_bytes;
        match answer.result {
            Some(Wire::Ok(response)) => self.on_success(sent.lane, sent.ticket, &response),
            Some(Wire::Error(error)) => self.on_failure(sent.lane, sent.ticket, broker, error.into()),
            None => {
                let failure = Failure::local(tonic::Code::Internal, "an answer without a result", false);
                self.on_failure(sent.lane, sent.ticket, broker, failure);
            }
        }
        self.pump(sent.lane);
    }

    fn on_success(&mut self, id: u64, ticket: Ticket, response: &v1::ProduceResponse) {
        let Some(state) = self.lanes.get_mut(&id) else { return };
        let Some((batch, _)) = state.lane.answer(ticket, Answer::Appended) else {
            return;
        };
        state.backoff.reset();
        state.last_failure = None;
        state.trouble.works();
        state.queue.struggling.store(false, Ordering::Relaxed);
        let some = |value: i64| (value >= 0).then_some(value);
        let receipt = Receipt {
            base_offset: some(response.base_offset),
            append_time_ms: some(response.append_time_ms),
            duplicate: response.duplicate,
        };
        self.report(batch, Ok(receipt));
    }

    fn on_failure(&mut self, id: u64, ticket: Ticket, broker: BrokerId, failure: Failure) {
        let Some(state) = self.lanes.get_mut(&id) else { return };
        if self.shared.transactional_id.is_some() && !state.lane.is_current(ticket) {
            // Of a transaction that was given up.
            return;
        }
        let queue = state.queue.clone();
        tracing::debug!(
            topic = %queue.topic.name, partition = queue.partition, %broker, reason = ?failure.reason, definite = failure.definite,
            error = failure.message, "a batch was not appended"
        );
        let answer = match failure.reason {
            Some(Reason::OutOfOrderSequence) => Answer::OutOfOrder,
            Some(Reason::DuplicateSequence) => Answer::AppendedBefore,
            Some(Reason::ConditionFailed) => Answer::ConditionFailed,
            Some(Reason::UnknownProducer) => Answer::UnknownProducer,
            Some(Reason::ProducerFenced) if state.lane.is_behind(self.identity) => Answer::FencedByUs,
            Some(Reason::ProducerFenced) => return self.on_fenced(id, ticket, &failure),
            // Unless the metadata confirms that the partition is gone, the broker only lags behind.
            Some(Reason::UnknownTopic | Reason::UnknownPartition) => Answer::Retry,
            _ => match failure.disposition() {
                Disposition::Retry => Answer::Retry,
                Disposition::Unknown => Answer::Unknown,
                Disposition::Refuse => Answer::Refused,
            },
        };
        if failure.reason == Some(Reason::BatchTooLarge) {
            // The topic's limit was lowered: the next batches are to be smaller.
            self.want_refresh();
            if self.split(id, ticket, &failure) {
                return;
            }
        }
        let Some(state) = self.lanes.get_mut(&id) else { return };
        if let Some((batch, end)) = state.lane.answer(ticket, answer) {
            let error = too_large(&queue, &failure, (batch.records, end));
            let error = error.unwrap_or_else(|| settled_error(&queue, &failure, answer, end));
            self.report_failed(batch, error);
            return;
        }
        if !matches!(answer, Answer::Retry | Answer::Unknown) {
            return;
        }
        let hint = failure.leader_hint();
        let told = hint.is_some_and(|hint| {
            hint.broker != broker
                && self
                    .shared
                    .cluster
                    .metadata
                    .apply_hint(queue.topic.id, queue.partition, &hint)
        });
        let Some(state) = self.lanes.get_mut(&id) else { return };
        if told && state.backoff.is_reset() {
            // The leader moved and its new address is known: no reason to wait.
            state.last_failure = Some(failure);
        } else {
            self.block(id, failure);
        }
    }

    /// Sends a batch that was refused as too large in parts, in its place. Returns false if it has one record, or if an
    /// earlier attempt may have been appended.
    fn split(&mut self, id: u64, ticket: Ticket, failure: &Failure) -> bool {
        let codec = self.shared.config.compression;
        let Some(state) = self.lanes.get_mut(&id) else {
            return false;
        };
        if !state.lane.is_absent(ticket) || state.lane.sent(ticket).0.records == 1 {
            return false;
        }
        let limit = failure.number("limit").and_then(|limit| usize::try_from(limit).ok());
        state.lane.split(ticket, |batch| {
            let parts = batch.split(codec, limit);
            tracing::info!(
                topic = %state.queue.topic.name, partition = state.queue.partition, limit, parts = parts.len(),
                "a batch is larger than the topic takes now; it is sent in parts"
            );
            let with_count = |part: Batch| {
                let records = part.records;
                (part, records)
            };
            parts.into_iter().map(with_count).collect()
        });
        true
    }

    fn report_failed(&mut self, batch: Batch, error: ClientError) {
        if let ClientError::ConditionFailed { .. } = error {
            // Logged at debug: writers that compete for a key see this all the time.
            tracing::debug!(%error, records = batch.records, "a conditional batch is refused");
        } else {
            self.shared.cluster.notices.publish(&Notice::GivenUp {
                records: batch.records as u32,
                error: error.clone(),
            });
        }
        self.report(batch, Err(error.clone()));
        self.fail_transaction(&error);
    }

    /// Handles that another producer continues under this one's id.
    fn on_fenced(&mut self, id: u64, ticket: Ticket, failure: &Failure) {
        let Some(state) = self.lanes.get_mut(&id) else { return };
        // The answer to an attempt that was given up long ago does not count.
        if !state.lane.is_current(ticket) {
            return;
        }
        let fenced = |definite, queue: &PartitionQueue| ClientError::ProducerFenced {
            definite,
            rejection: failure.rejection(&queue.context()),
        };
        let queue = state.queue.clone();
        state.lane.answer(ticket, Answer::Retry);
        if self.shared.transactional_id.is_some() {
            // The coordinator tells whether another process has the id, or the transaction's time was over.
            return self.fail_transaction(&fenced(true, &queue));
        }
        self.fail(&fenced(true, &queue), |queue| Some(fenced(false, queue)));
    }
}

/// The error of a record that is too large for the topic's limit as it is now; `None` for other failures.
fn too_large(queue: &PartitionQueue, failure: &Failure, (records, end): (i32, End)) -> Option<ClientError> {
    let bytes = |key| failure.number(key).and_then(|bytes| usize::try_from(bytes).ok());
    if failure.reason != Some(Reason::BatchTooLarge) || records > 1 || end != End::Absent {
        return None;
    }
    Some(ClientError::RecordTooLarge {
        topic: queue.topic.name.clone(),
        size: bytes("actual")?,
        limit: bytes("limit")?,
        knob: TOPIC_LIMIT,
    })
}

/// The error of a batch that leaves its lane.
fn settled_error(queue: &PartitionQueue, failure: &Failure, answer: Answer, end: End) -> ClientError {
    let rejection = failure.rejection(&queue.context());
    match (answer, end) {
        (Answer::AppendedBefore, _) => ClientError::DuplicateSequence(rejection),
        (Answer::UnknownProducer, end) => ClientError::UnknownProducer {
            definite: end == End::Absent,
            rejection,
        },
        (Answer::ConditionFailed, end) => ClientError::ConditionFailed {
            definite: end == End::Absent,
            actual: failure.number("actual").unwrap_or(-1),
            rejection,
        },
        (_, End::InDoubt) => ClientError::OutcomeUnknown(rejection),
        (Answer::OutOfOrder, _) => ClientError::OutOfOrderSequence(rejection),
        _ => ClientError::Refused(rejection),
    }
}
