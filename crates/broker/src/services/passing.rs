//! Passing calls of clients on to other brokers, as messages of the internal service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_replication::transport::{self, dialer::CallError};
use jangada_types::BrokerId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::{passed_wire, status};
use crate::api::call::exchange_logs::AppendToLog;
use crate::api::call::queues::SendMessages;
use crate::api::call::{Answer, Call};
use crate::api::context::RequestContext;
use crate::api::peers::{PassError, Peers};
use crate::api::queue_messages::NewMessage;
use crate::cluster::metadata::Metadata;
use crate::forward::{ForwardError, forward};

/// Calls of clients that may be under way to one broker. They share a connection with what this broker itself asks there.
const CALLS_MAX: usize = 1024;
/// How many of these may wait for records that are still to come: other calls never have to wait for theirs.
const WAITS_MAX: usize = 768;
/// Bytes of batches that may be under way to one broker. They take room of its internal listener that replication needs as well.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// Places of the connection that are left to what this broker itself asks.
const OWN_CALLS: usize = 64;

const _: () = assert!(CALLS_MAX + OWN_CALLS <= transport::CALLS_PER_CONNECTION_MAX as usize);
const _: () = assert!(BATCH_BYTES_MAX >= 2 * jangada_types::limits::BATCH_BYTES_MAX);

/// Passes calls on over the internal listeners of the other brokers.
pub(crate) struct Passing {
    metadata: Metadata,
    under_way: Mutex<HashMap<BrokerId, Arc<UnderWay>>>,
}

/// What is under way to one broker.
struct UnderWay {
    calls: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    batch_bytes: Arc<Semaphore>,
}

/// The places of one call.
struct Places {
    _call: OwnedSemaphorePermit,
    _wait: Option<OwnedSemaphorePermit>,
    _batch_bytes: Option<OwnedSemaphorePermit>,
}

impl UnderWay {
    fn new() -> Self {
        Self {
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            waits: Arc::new(Semaphore::new(WAITS_MAX)),
            batch_bytes: Arc::new(Semaphore::new(BATCH_BYTES_MAX)),
        }
    }

    /// Takes the places of a call, or says which bound is reached.
    fn begin(&self, call: &Call) -> Result<Places, PassError> {
        let take = |semaphore: &Arc<Semaphore>, count: usize, limit: usize| {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let taken = semaphore.clone().try_acquire_many_owned(count);
            taken.map_err(|_| PassError::Busy { limit })
        };
        let batch_bytes = match call {
            Call::Append(append) => Some(take(&self.batch_bytes, append.batch.len(), BATCH_BYTES_MAX)?),
            Call::AppendLetters(append) => Some(take(&self.batch_bytes, append.batch.len(), BATCH_BYTES_MAX)?),
            Call::SendMessages(SendMessages { messages, .. }) | Call::AppendToLog(AppendToLog { messages, .. }) => {
                let bytes = messages.iter().map(NewMessage::bytes).sum();
                Some(take(&self.batch_bytes, bytes, BATCH_BYTES_MAX)?)
            }
            _ => None,
        };
        let wait = match call {
            Call::Await(_) => Some(take(&self.waits, 1, WAITS_MAX)?),
            Call::ReceiveMessages(receive) if !receive.wait.is_zero() => Some(take(&self.waits, 1, WAITS_MAX)?),
            _ => None,
        };
        Ok(Places {
            _call: take(&self.calls, 1, CALLS_MAX)?,
            _wait: wait,
            _batch_bytes: batch_bytes,
        })
    }
}

impl Passing {
    /// Passes calls on to the brokers that the metadata name.
    pub fn new(metadata: Metadata) -> Self {
        Self {
            metadata,
            under_way: Mutex::default(),
        }
    }

    fn under_way(&self, to: BrokerId) -> Arc<UnderWay> {
        let mut under_way = self.under_way.lock();
        let known = under_way.entry(to).or_insert_with(|| Arc::new(UnderWay::new()));
        known.clone()
    }
}

impl Peers for Passing {
    fn pass<'a>(
        &'a self,
        to: BrokerId,
        context: Option<&'a RequestContext>,
        call: Call,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer, PassError>> {
        Box::pin(async move {
            let image = self.metadata.image();
            let unknown = || PassError::NotSent(format!("there is no broker {to}"));
            let broker = image.broker(to).ok_or_else(unknown)?;
            // What this broker asks by itself has places of its own.
            let places = context.map(|_| self.under_way(to).begin(&call));
            let _places = places.transpose()?;
            let message = passed_wire::call_to(&image, call);
            let left = context.map_or(within, |context| context.time_left(within));
            let answer = forward(&self.metadata.registry, broker, context, message, within);
            // A client that is impatient is no sign that the connection is silent, which the dialer would give up.
            let Ok(answer) = tokio::time::timeout(left, answer).await else {
                return Err(PassError::Unanswered(format!("no answer within {left:?}")));
            };
            let answer = passed_wire::answer_of(answer.map_err(pass_error)?);
            answer.map_err(|error| PassError::Unanswered(error.message))
        })
    }
}

fn pass_error(error: ForwardError) -> PassError {
    match error {
        ForwardError::TooOld(why) => PassError::Unknown(why),
        ForwardError::Call(CallError::NotSent(why)) => PassError::NotSent(why),
        ForwardError::Call(CallError::Failed(said)) => said_by_broker(&said),
        ForwardError::Call(silent @ CallError::Silent(_)) => PassError::Unanswered(silent.to_string()),
    }
}

/// What a status means for the call: errors of ours have details. Without them it is the end of the connection or of the time, which
/// leaves the outcome open, or a refusal before the call was begun.
fn said_by_broker(said: &Status) -> PassError {
    if let Some(error) = status::error_of(said) {
        return PassError::Refused(error);
    }
    let why = format!("{:?}: {}", said.code(), said.message());
    let is_of_connection = std::error::Error::source(said).is_some();
    match said.code() {
        Code::Unimplemented => PassError::Unknown(why),
        // The handshake, or a broker that is starting.
        Code::FailedPrecondition | Code::Unavailable if !is_of_connection => PassError::NotSent(why),
        _ => PassError::Unanswered(why),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use bytes::Bytes;
    use jangada_types::{Offset, PartitionIndex, Reason, TopicId};

    use super::*;
    use crate::api::call::records::{Acks, AppendBatch, AwaitBytes};
    use crate::api::resolve::{PartitionRef, TopicRef};
    use crate::error::RequestError;
    use crate::partition::{Expectation, Isolation};

    fn partition() -> PartitionRef {
        PartitionRef {
            topic: TopicRef::Id(TopicId::from_u128(1)),
            index: PartitionIndex(0),
        }
    }

    fn wait() -> Call {
        Call::Await(AwaitBytes {
            partition: partition(),
            offset: Offset(0),
            min_bytes: 1,
            max_wait: Duration::from_secs(30),
            isolation: Isolation::Committed,
            leader_epoch: None,
        })
    }

    fn append(bytes: usize) -> Call {
        Call::Append(AppendBatch {
            partition: partition(),
            batch: Bytes::from(vec![0; bytes]),
            expected: Expectation::default(),
            transaction: None,
            acks: Acks::Quorum,
            timeout: Duration::from_secs(10),
        })
    }

    fn limit_of(refused: Result<Places, PassError>) -> usize {
        match refused {
            Err(PassError::Busy { limit }) => limit,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("there was a place"),
        }
    }

    #[test]
    fn waits_leave_places_to_other_calls() {
        let under_way = UnderWay::new();
        let mut waits: Vec<Places> = (0..WAITS_MAX).map(|_| under_way.begin(&wait()).unwrap()).collect();
        assert_eq!(limit_of(under_way.begin(&wait())), WAITS_MAX);
        let others: Vec<Places> = (WAITS_MAX..CALLS_MAX)
            .map(|_| under_way.begin(&append(1)).unwrap())
            .collect();
        assert_eq!(limit_of(under_way.begin(&append(1))), CALLS_MAX);
        drop(others);
        waits.pop();
        under_way.begin(&wait()).map(drop).expect("one has ended");
    }

    #[test]
    fn batches_on_their_way_are_bounded_in_bytes() {
        let under_way = UnderWay::new();
        let half = under_way.begin(&append(BATCH_BYTES_MAX / 2)).unwrap();
        let other = under_way.begin(&append(BATCH_BYTES_MAX / 2)).unwrap();
        assert_eq!(limit_of(under_way.begin(&append(1))), BATCH_BYTES_MAX);
        under_way.begin(&wait()).map(drop).expect("it has no batch");
        drop((half, other));
        under_way.begin(&append(1)).map(drop).expect("there is room again");
    }

    #[test]
    fn only_what_was_refused_for_certain_is_called_so() {
        let refused = RequestError::new(Reason::NotLeader, "broker 3 leads it").with("leader_id", 3);
        assert!(matches!(said_by_broker(&refused.clone().into()), PassError::Refused(error) if error == refused));
        let not_sent = [
            Status::failed_precondition("WRONG_CLUSTER"),
            Status::unavailable("broker 2 opens its store"),
        ];
        for said in not_sent {
            assert!(matches!(said_by_broker(&said), PassError::NotSent(_)), "{said:?}");
        }
        let mut cut = Status::unavailable("error reading a body from connection");
        cut.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        let open = [
            cut,
            Status::cancelled("Timeout expired"),
            Status::deadline_exceeded("Timeout expired"),
            Status::internal("h2 protocol error"),
        ];
        for said in open {
            assert!(matches!(said_by_broker(&said), PassError::Unanswered(_)), "{said:?}");
        }
        assert!(matches!(
            said_by_broker(&Status::unimplemented("")),
            PassError::Unknown(_)
        ));
    }
}
