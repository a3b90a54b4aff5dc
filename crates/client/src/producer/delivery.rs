//! Reports the outcome of records to their senders. All records of a batch share one [`BatchReport`]; a [`Delivery`] is
//! a place in it, so that a record costs no allocation of its own.
//!
//! The report is made exactly once: by the holder of the [`Reporter`], or when that is dropped. A batch that was too
//! large and is sent in parts has a reporter for each part; each makes the report for its own records.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tonic::Code;

use super::record::RecordMetadata;
use crate::error::ClientError;
use crate::wire_error::Failure;

/// The place where a batch was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The offset of the first record. `None` with acks none.
    pub base_offset: Option<i64>,
    /// The leader's time of the append, milliseconds since the Unix epoch, if the topic uses it.
    pub append_time_ms: Option<i64>,
    pub duplicate: bool,
}

/// The outcome of a batch, shared by its deliveries.
pub(crate) struct BatchReport {
    topic: Arc<str>,
    partition: u32,
    state: Mutex<State>,
}

enum State {
    /// No outcome yet: the wakers of the deliveries that wait. A delivery that is polled again replaces its waker.
    Open(Vec<Option<Waker>>),
    Made(Result<Receipt, ClientError>),
    /// The batch was divided, and its parts have outcomes of their own.
    Parts(Parts),
}

/// The outcomes of the parts of a batch so far.
#[derive(Default)]
struct Parts {
    waiting: Vec<Option<Waker>>,
    /// Outcomes by ranges of records, counted from the start of the whole batch; so is a receipt's base offset.
    made: Vec<(Range<i32>, Result<Receipt, ClientError>)>,
    /// Number of parts without an outcome.
    open: usize,
}

impl State {
    /// The outcome of this record; `None`: of the whole batch.
    fn outcome(&self, record: Option<i32>) -> Option<&Result<Receipt, ClientError>> {
        match self {
            Self::Open(_) => None,
            Self::Made(outcome) => Some(outcome),
            Self::Parts(parts) => {
                let of_all = parts.made.first().filter(|_| parts.open == 0);
                let of_record = |record| parts.made.iter().find(|(records, _)| records.contains(&record));
                record.map_or(of_all, of_record).map(|(_, outcome)| outcome)
            }
        }
    }

    fn waiting(&mut self) -> &mut Vec<Option<Waker>> {
        match self {
            Self::Open(waiting) | Self::Parts(Parts { waiting, .. }) => waiting,
            Self::Made(_) => unreachable!("nobody waits for what is known"),
        }
    }
}

impl BatchReport {
    /// A report without outcome, and the reporter that makes it.
    pub fn open(topic: Arc<str>, partition: u32) -> Reporter {
        let report = Arc::new(Self {
            topic,
            partition,
            state: Mutex::new(State::Open(Vec::new())),
        });
        Reporter {
            report: Some(report),
            records: 0..i32::MAX,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the report for these records of the batch.
    fn make(&self, records: &Range<i32>, outcome: Result<Receipt, ClientError>) {
        let mut state = self.lock();
        let waiting = match &mut *state {
            State::Open(waiting) => {
                let waiting = std::mem::take(waiting);
                *state = State::Made(outcome);
                waiting
            }
            State::Parts(parts) => {
                let outcome = outcome.map(|receipt| Receipt {
                    base_offset: receipt.base_offset.map(|base| base - i64::from(records.start)),
                    ..receipt
                });
                parts.made.push((records.clone(), outcome));
                parts.open -= 1;
                // Wakers for other parts' records are woken, poll again and register anew.
                parts.waiting.iter_mut().map(Option::take).collect()
            }
            State::Made(_) => unreachable!("a report is made once"),
        };
        drop(state);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// Counts that one part of the batch becomes `into` parts.
    fn split(&self, into: usize) {
        let mut state = self.lock();
        match &mut *state {
            State::Open(waiting) => {
                *state = State::Parts(Parts {
                    waiting: std::mem::take(waiting),
                    made: Vec::new(),
                    open: into,
                });
            }
            State::Parts(parts) => parts.open += into - 1,
            State::Made(_) => unreachable!("what is settled is not sent again"),
        }
    }

    /// Waits until the report is made, without its outcome.
    pub fn done(self: Arc<Self>) -> impl Future<Output = ()> {
        let mut place = None;
        std::future::poll_fn(move |context| self.poll(None, &mut place, context).map(drop))
    }

    /// Polls for the outcome of this record; `None`: of the whole batch.
    fn poll(
        &self,
        record: Option<i32>,
        place: &mut Option<usize>,
        context: &Context<'_>,
    ) -> Poll<Result<Receipt, ClientError>> {
        let mut state = self.lock();
        if let Some(outcome) = state.outcome(record) {
            return Poll::Ready(outcome.clone());
        }
        let waiting = state.waiting();
        let place = *place.get_or_insert_with(|| {
            waiting.push(None);
            waiting.len() - 1
        });
        if !waiting[place]
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            waiting[place] = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// The right, and the duty, to make a report: dropped, it makes one that says the outcome is unknown.
pub(crate) struct Reporter {
    report: Option<Arc<BatchReport>>,
    /// The records of the batch that it reports on: all, until the batch is split.
    records: Range<i32>,
}

impl Reporter {
    /// The report that it makes.
    pub fn report(&self) -> &Arc<BatchReport> {
        self.report.as_ref().expect("taken only when the report is made")
    }

    pub fn make(mut self, outcome: Result<Receipt, ClientError>) {
        if let Some(report) = self.report.take() {
            report.make(&self.records, outcome);
        }
    }

    /// One reporter for each part of the batch; `parts` are their numbers of records.
    pub fn split(mut self, parts: &[i32]) -> Vec<Self> {
        let report = self.report.take().expect("taken only when the report is made");
        report.split(parts.len());
        let mut next = self.records.start;
        let part = |records: &i32| {
            let first = next;
            next += records;
            Self {
                report: Some(report.clone()),
                records: first..next,
            }
        };
        parts.iter().map(part).collect()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            let failure = Failure::local(Code::Cancelled, "the producer's task was stopped", false);
            let context = format!("produce to {}[{}]", report.topic, report.partition);
            report.make(&self.records, Err(failure.into_error(&context)));
        }
    }
}

/// The outcome of one record, as a future.
///
/// # Errors
/// [`ClientError::is_definite`] says whether the record is certainly not stored. [`ClientError::OutcomeUnknown`]: it may be.
#[must_use = "the record is sent, but whether it arrived only the delivery tells"]
pub struct Delivery {
    report: Arc<BatchReport>,
    /// The record's index in its batch.
    index: i32,
    timestamp_ms: i64,
    place: Option<usize>,
}

impl Delivery {
    pub(crate) fn new(report: Arc<BatchReport>, index: i32, timestamp_ms: i64) -> Self {
        Self {
            report,
            index,
            timestamp_ms,
            place: None,
        }
    }

    /// The partition that the record went to.
    pub fn partition(&self) -> u32 {
        self.report.partition
    }

    /// The outcome, if it is known already.
    pub fn try_result(&self) -> Option<Result<RecordMetadata, ClientError>> {
        let state = self.report.lock();
        let outcome = state.outcome(Some(self.index))?.clone();
        drop(state);
        Some(self.of_record(outcome))
    }

    fn of_record(&self, outcome: Result<Receipt, ClientError>) -> Result<RecordMetadata, ClientError> {
        let receipt = outcome?;
        Ok(RecordMetadata {
            topic: self.report.topic.clone(),
            partition: self.report.partition,
            offset: receipt.base_offset.map(|base| base + i64::from(self.index)),
            timestamp_ms: receipt.append_time_ms.unwrap_or(self.timestamp_ms),
            duplicate: receipt.duplicate,
        })
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.report
            .poll(Some(this.index), &mut this.place, context)
            .map(|outcome| this.of_record(outcome))
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("topic", &self.report.topic)
            .field("partition", &self.report.partition)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(base: i64) -> Receipt {
        Receipt {
            base_offset: Some(base),
            append_time_ms: None,
            duplicate: false,
        }
    }

    #[tokio::test]
    async fn every_record_of_a_batch_gets_its_own_offset() {
        let reporter = BatchReport::open("t".into(), 3);
        let first = Delivery::new(reporter.report().clone(), 0, 70);
        let second = Delivery::new(reporter.report().clone(), 1, 71);
        assert!(first.try_result().is_none());
        let waiting = tokio::spawn(async move { (first.await, second.await) });
        tokio::task::yield_now().await;
        reporter.make(Ok(receipt(100)));
        let (first, second) = waiting.await.expect("no panic");
        let (first, second) = (first.expect("delivered"), second.expect("delivered"));
        assert_eq!((first.offset, first.timestamp_ms), (Some(100), 70));
        assert_eq!(
            (second.offset, second.timestamp_ms, second.partition),
            (Some(101), 71, 3)
        );
    }

    #[tokio::test]
    async fn the_records_of_each_part_learn_of_their_own() {
        let reporter = BatchReport::open("t".into(), 0);
        let mut deliveries: Vec<_> = (0..5)
            .map(|index| Delivery::new(reporter.report().clone(), index, 0))
            .collect();
        let mut flushed = Box::pin(reporter.report().clone().done());
        let context = &mut Context::from_waker(Waker::noop());
        assert!(
            deliveries
                .iter_mut()
                .all(|delivery| Pin::new(delivery).poll(context).is_pending())
        );
        let [first, second] = <[_; 2]>::try_from(reporter.split(&[2, 3])).ok().expect("two parts");
        let [second, third] = <[_; 2]>::try_from(second.split(&[2, 1])).ok().expect("two parts");
        second.make(Ok(receipt(70)));
        let offset = |delivery: &Delivery| delivery.try_result().map(|result| result.expect("delivered").offset);
        let known: Vec<_> = deliveries.iter().map(offset).collect();
        assert_eq!(known, [None, None, Some(Some(70)), Some(Some(71)), None]);
        assert!(flushed.as_mut().poll(context).is_pending());
        first.make(Ok(receipt(60)));
        drop(third);
        assert!(flushed.as_mut().poll(context).is_ready());
        assert_eq!(offset(&deliveries[1]), Some(Some(61)));
        let lost = deliveries.pop().expect("five").await.expect_err("nobody reported");
        assert!(!lost.is_definite());
    }

    #[tokio::test]
    async fn a_dropped_reporter_answers() {
        let reporter = BatchReport::open("t".into(), 0);
        let delivery = Delivery::new(reporter.report().clone(), 0, 0);
        drop(reporter);
        let error = delivery.await.expect_err("nobody reported");
        assert!(!error.is_definite());
    }

    #[tokio::test]
    async fn the_time_of_the_append_counts_when_there_is_one() {
        let reporter = BatchReport::open("t".into(), 0);
        let delivery = Delivery::new(reporter.report().clone(), 0, 70);
        reporter.make(Ok(Receipt {
            append_time_ms: Some(99),
            ..receipt(0)
        }));
        assert_eq!(delivery.await.expect("delivered").timestamp_ms, 99);
    }
}
