//! Lets dead letters of all partitions of a queue go out again, step by step, at a rate. Whoever wants them polls for the progress; when
//! that is dropped, nothing more is done.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use jangada_types::{PartitionIndex, Reason};
use tokio::time::Instant;

use super::call::queue_admin::{DeadDone, DeadFilter, DeadWanted, QueueAt, RedriveDead};
use super::context::RequestContext;
use super::queue_depth::redrive_dead;
use super::queue_messages::QueueRef;
use super::resolve::QueueName;
use crate::error::RequestError;
use crate::node::Node;

/// Dead letters that one step looks at, at most.
const STEP_MAX: u32 = 1_000;
/// With a rate there are so many steps a second, where that is less than a letter in each.
const STEPS_PER_SECOND: u32 = 10;
/// How long a partition whose leader does not answer is asked again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two tries of such a partition.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// What is to go out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redrive {
    pub queue: QueueName,
    /// Partitions, and where to begin in each; none: all.
    pub places: Vec<(PartitionIndex, u64)>,
    pub filter: DeadFilter,
    /// At most so many a second.
    pub rate: Option<NonZeroU32>,
    /// They are only counted.
    pub is_dry: bool,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Redriven {
    pub messages: u64,
    pub refused: u64,
    /// Partitions that are not gone through, and where to go on.
    pub left: Vec<(PartitionIndex, u64)>,
}

/// Begins: what this gives goes on for as long as it is polled, one step for each answer, until nothing is left.
///
/// # Errors
/// UNKNOWN_QUEUE, UNKNOWN_PARTITION, SHUTTING_DOWN. In the stream those of a queue's partition in the contract, which end it.
pub(crate) fn begin(
    node: &Arc<Node>,
    context: Arc<RequestContext>,
    wanted: Redrive,
) -> Result<impl Stream<Item = Result<Redriven, RequestError>> + Send + use<>, RequestError> {
    node.stopping.refuse()?;
    let queue = QueueRef::resolve(&node.metadata.image(), &wanted.queue)?;
    let places: VecDeque<(PartitionIndex, u64)> = match wanted.places.is_empty() {
        true => queue.partitions().map(|index| (index, 0)).collect(),
        false => wanted.places.into(),
    };
    for (index, _) in &places {
        queue.target(*index)?;
    }
    let redriving = Redriving {
        node: node.clone(),
        context,
        queue: QueueName::Id(queue.id()),
        filter: wanted.filter,
        rate: wanted.rate.filter(|_| !wanted.is_dry),
        is_dry: wanted.is_dry,
        places,
        messages: 0,
        refused: 0,
        not_before: None,
    };
    Ok(futures::stream::try_unfold(redriving, Redriving::step))
}

struct Redriving {
    node: Arc<Node>,
    context: Arc<RequestContext>,
    queue: QueueName,
    filter: DeadFilter,
    rate: Option<NonZeroU32>,
    is_dry: bool,
    /// In turn: the next one is the first.
    places: VecDeque<(PartitionIndex, u64)>,
    messages: u64,
    refused: u64,
    not_before: Option<Instant>,
}

impl Redriving {
    async fn step(mut self) -> Result<Option<(Redriven, Self)>, RequestError> {
        let Some((index, from)) = self.places.front().copied() else {
            return Ok(None);
        };
        let node = self.node.clone();
        let done = tokio::select! {
            done = self.take_step(index, from) => done?,
            refused = node.stopping.begun() => return Err(refused),
        };
        self.places.pop_front();
        self.places.extend(done.next.map(|next| (index, next)));
        self.messages += u64::from(done.messages);
        self.refused += u64::from(done.refused);
        let mut left: Vec<_> = self.places.iter().copied().collect();
        left.sort_unstable();
        let progress = Redriven {
            messages: self.messages,
            refused: self.refused,
            left,
        };
        Ok(Some((progress, self)))
    }

    /// Takes a step in one partition, whoever leads it meanwhile.
    async fn take_step(&mut self, index: PartitionIndex, from: u64) -> Result<DeadDone, RequestError> {
        if let Some(at) = self.not_before.take() {
            tokio::time::sleep_until(at).await;
        }
        let began = Instant::now();
        let wanted = DeadWanted {
            at: QueueAt {
                queue: self.queue.clone(),
                index,
            },
            from,
            most: step_of(self.rate) as usize,
            filter: self.filter.clone(),
            is_dry: self.is_dry,
        };
        let done = loop {
            match redrive_dead(&self.node, &self.context, RedriveDead(wanted.clone())).await {
                Err(error) if may_pass(error.reason) && began.elapsed() < RETRY_TIMEOUT => {
                    tokio::time::sleep(error.retry_delay.unwrap_or(RETRY_EVERY)).await;
                }
                done => break done?,
            }
        };
        self.not_before = self.rate.map(|rate| began + time_of(done.messages, rate));
        Ok(done)
    }
}

/// How many letters one step looks at.
fn step_of(rate: Option<NonZeroU32>) -> u32 {
    rate.map_or(STEP_MAX, |rate| (rate.get() / STEPS_PER_SECOND).clamp(1, STEP_MAX))
}

/// How long so many letters take at a rate.
fn time_of(messages: u32, rate: NonZeroU32) -> Duration {
    Duration::from_secs_f64(f64::from(messages) / f64::from(rate.get()))
}

/// Whether another try, or another leader, may do it. A step that was done, and of which nobody knows, finds nothing to do the next time.
fn may_pass(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotLeader | Reason::LeaderNotAvailable | Reason::NotReady | Reason::BrokerBusy | Reason::PartitionBusy
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_to_the_rate() {
        for rate in [1, 3, 10, 99, 100, 5_000, 20_000, u32::MAX] {
            let rate = NonZeroU32::new(rate).expect("it is not 0");
            let step = step_of(Some(rate));
            assert!((1..=STEP_MAX).contains(&step));
            // A second's worth of steps is a second's worth of letters, to a part in a thousand.
            let second = f64::from(rate.get()) / f64::from(step);
            let took = time_of(step, rate).as_secs_f64() * second;
            assert!((0.999..1.001).contains(&took), "{rate}: {took}");
        }
        assert_eq!(step_of(None), STEP_MAX);
    }
}
