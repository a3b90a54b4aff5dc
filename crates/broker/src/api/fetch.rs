//! Reading a partition, once or on and on: batches up to the high watermark or the last stable offset, with the room that they take until
//! they are sent.

use std::sync::Arc;
use std::time::Duration;

use jangada_types::limits::{FETCH_BYTES_DEFAULT, FETCH_WAIT_MS_MAX, PLAIN_BYTES_MAX};
use jangada_types::{Offset, Reason};
use tokio::time::Instant;

use super::call::records::{AwaitBytes, ReadBatches};
use super::context::RequestContext;
use super::passing::{PASS_TIMEOUT, pass_on};
use super::resolve::{self, PartitionRef};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::{Fetched, Isolation, Partition, Reading};
use crate::quota::{Holding, Resource};
use crate::target::Target;

/// How long a fetch waits for room. Longer, and whoever asks for much would hold up those behind it on its connection that
/// ask for little.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// What becomes of the batches, which says how much room they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// They go out as they are.
    Batches,
    /// They are decoded for a client that does not know their format, and take as much as one response may carry.
    Decoded,
}

/// What is to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub offset: Offset,
    /// At most so much, but at least one batch.
    pub max_bytes: usize,
    pub form: Form,
    pub reading: Reading,
}

/// What was read.
pub(crate) struct Read {
    pub fetched: Fetched,
    /// Its part of the budget for what was read and not sent; as much as it may take, so it is to be shrunk.
    pub room: Holding,
    /// When reading began, after what was waited for.
    pub began: Instant,
}

/// A partition of records, open to one client: led here, or read through its leader.
#[derive(Clone)]
pub(crate) struct PartitionReader {
    node: Arc<Node>,
    context: Arc<RequestContext>,
    pub target: Target,
    lead: Arc<Lead<Partition>>,
    /// The leader epoch that the client knows, if it is to be compared.
    leader_epoch: Option<u32>,
}

impl PartitionReader {
    /// Opens a partition, after a moment of waiting for an election. The client's leader epoch is compared if it knows one.
    ///
    /// # Errors
    /// Those of a partition in the contract; STALE_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH.
    pub async fn open(
        node: &Arc<Node>,
        context: &RequestContext,
        partition: &PartitionRef,
        leader_epoch: Option<u32>,
    ) -> Result<Self, RequestError> {
        let target = resolve::partition_of_records(&node.metadata.image(), partition)?;
        let lead = node.leaders.find::<Partition>(&target, context.route).await?;
        if let Lead::Here(partition) = &lead {
            partition.check_epoch(leader_epoch)?;
        }
        Ok(Self {
            node: node.clone(),
            context: Arc::new(context.clone()),
            target,
            lead: Arc::new(lead),
            leader_epoch,
        })
    }

    /// Reads as soon as `min_bytes` can be read from the offset on, or the time is over.
    ///
    /// # Errors
    /// Those of `Fetch` in the contract.
    pub async fn read_when(&self, fetch: Fetch, min_bytes: usize, max_wait: Duration) -> Result<Read, RequestError> {
        let min_bytes = min_bytes.min(fetch.max_bytes);
        if let Lead::At(_) = &*self.lead {
            // Most who read have something to read: the wait is a call of its own, which holds no room.
            let read = self.read(fetch).await?;
            // What nobody sees moves the reader on all the same.
            let is_moved = read.fetched.next_offset > fetch.offset && read.fetched.batches.is_empty();
            if max_wait.is_zero() || is_moved || read.fetched.batches.len() >= min_bytes.max(1) {
                return Ok(read);
            }
        }
        let isolation = fetch.reading.isolation;
        self.await_bytes((fetch.offset, isolation), min_bytes, max_wait).await?;
        self.read(fetch).await
    }

    /// Waits until so many bytes can be read from the offset on, or until the time is over.
    ///
    /// # Errors
    /// SHUTTING_DOWN, OFFSET_OUT_OF_RANGE, NOT_LEADER, LEADER_NOT_AVAILABLE.
    pub async fn await_bytes(
        &self,
        (offset, isolation): (Offset, Isolation),
        min_bytes: usize,
        max_wait: Duration,
    ) -> Result<(), RequestError> {
        let waits = async {
            match &*self.lead {
                Lead::Here(partition) => partition.await_bytes(offset, min_bytes, max_wait, isolation).await,
                Lead::At(leader) => {
                    let wanted = AwaitBytes {
                        partition: PartitionRef::of(&self.target),
                        offset,
                        min_bytes,
                        max_wait,
                        isolation,
                        leader_epoch: self.leader_epoch,
                    };
                    let at = (&self.target, *leader);
                    pass_on(&self.node, &self.context, at, wanted, max_wait + PASS_TIMEOUT).await
                }
            }
        };
        tokio::select! {
            waited = waits => waited,
            refused = self.node.stopping.begun() => Err(refused),
        }
    }

    /// Reads at once what there is, as soon as there is room for it.
    ///
    /// # Errors
    /// BROKER_BUSY: there was no room for 5 s. Those of waiting, and DATA_CORRUPTED.
    pub async fn read(&self, fetch: Fetch) -> Result<Read, RequestError> {
        let began = Instant::now();
        let Fetch {
            offset,
            max_bytes,
            form,
            reading,
        } = fetch;
        let (resource, wanted) = match form {
            Form::Batches => (Resource::Fetch, max_bytes),
            Form::Decoded => (Resource::PlainFetch, decoded_bytes_max(&self.node).max(max_bytes)),
        };
        let room = tokio::select! {
            biased;
            room = self.context.caller.take(resource, wanted, ROOM_TIMEOUT) => room?,
            refused = self.node.stopping.begun() => return Err(refused),
        };
        let fetched = match &*self.lead {
            Lead::Here(partition) => partition.read(offset, max_bytes, reading).await?,
            Lead::At(leader) => {
                let wanted = ReadBatches {
                    partition: PartitionRef::of(&self.target),
                    offset,
                    max_bytes,
                    reading,
                    leader_epoch: self.leader_epoch,
                };
                pass_on(&self.node, &self.context, (&self.target, *leader), wanted, PASS_TIMEOUT).await?
            }
        };
        Ok(Read { fetched, room, began })
    }

    /// Says in an error which partition it is about.
    pub fn refuse(&self, mut error: RequestError) -> RequestError {
        error.message = format!("{}: {}", self.target, error.message);
        error
    }
}

/// Bytes of decoded records that one response may carry.
pub(crate) fn decoded_bytes_max(node: &Node) -> usize {
    let budget = usize::try_from(node.settings.limits.fetch_inflight_bytes).expect("usize has 64 bits");
    PLAIN_BYTES_MAX.min(budget)
}

/// How much one fetch reads: what was asked for, or a default when that is 0.
///
/// # Errors
/// INVALID_REQUEST: it is more than allowed.
pub(crate) fn max_bytes(node: &Node, asked: u32) -> Result<usize, RequestError> {
    let limit = node.settings.limits.fetch_bytes_max;
    if u64::from(asked) > limit {
        return Err(
            RequestError::new(Reason::InvalidRequest, format!("max_bytes is {asked}: at most {limit}"))
                .with("limit", limit),
        );
    }
    Ok(if asked == 0 {
        FETCH_BYTES_DEFAULT.min(usize::try_from(limit).expect("usize has 64 bits"))
    } else {
        asked as usize
    })
}

/// How long one fetch waits.
///
/// # Errors
/// INVALID_REQUEST: it is longer than allowed.
pub(crate) fn max_wait(asked_ms: u32) -> Result<Duration, RequestError> {
    if asked_ms > FETCH_WAIT_MS_MAX {
        let message = format!("max_wait_ms is {asked_ms}: at most {FETCH_WAIT_MS_MAX}");
        return Err(RequestError::new(Reason::InvalidRequest, message).with("limit", FETCH_WAIT_MS_MAX));
    }
    Ok(Duration::from_millis(u64::from(asked_ms)))
}
