//! Reading a partition, once or on and on: batches up to the high watermark, with the room that they take until they are sent.

use std::sync::Arc;
use std::time::Duration;

use jangada_types::limits::{FETCH_BYTES_DEFAULT, FETCH_WAIT_MS_MAX, PLAIN_BYTES_MAX};
use jangada_types::{Offset, Reason};

use super::context::RequestContext;
use crate::admission::{Caller, Holding, Resource};
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::{Fetched, Partition};
use crate::target::Target;

/// How long a fetch waits for room. Longer, and whoever asks for much would hold up those behind it on its connection that
/// ask for little.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

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
}

/// What was read.
pub(crate) struct Read {
    pub fetched: Fetched,
    /// Its part of the budget for what was read and not sent; as much as it may take, so it is to be shrunk.
    pub room: Holding,
}

/// A partition that is led here, open to one client.
#[derive(Clone)]
pub(crate) struct PartitionReader {
    node: Arc<Node>,
    caller: Arc<Caller>,
    pub partition: Arc<Partition>,
}

impl PartitionReader {
    /// Opens a partition that this broker leads, after a moment of waiting for an election. The client's leader epoch is compared
    /// if it knows one.
    ///
    /// # Errors
    /// NOT_LEADER, LEADER_NOT_AVAILABLE, STALE_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, SHUTTING_DOWN.
    pub async fn open(
        node: &Arc<Node>,
        context: &RequestContext,
        target: &Target,
        leader_epoch: Option<u32>,
    ) -> Result<Self, RequestError> {
        let partition = node.leaders.leading::<Partition>(target).await?;
        partition.check_epoch(leader_epoch)?;
        Ok(Self {
            node: node.clone(),
            caller: context.caller.clone(),
            partition,
        })
    }

    /// Waits until so many bytes can be read from the offset on, or until the time is over.
    ///
    /// # Errors
    /// SHUTTING_DOWN, OFFSET_OUT_OF_RANGE, NOT_LEADER, LEADER_NOT_AVAILABLE.
    pub async fn await_bytes(&self, offset: Offset, min_bytes: usize, max_wait: Duration) -> Result<(), RequestError> {
        tokio::select! {
            waited = self.partition.await_bytes(offset, min_bytes, max_wait) => waited,
            refused = self.node.stopping.begun() => Err(refused),
        }
    }

    /// Reads at once what there is, as soon as there is room for it.
    ///
    /// # Errors
    /// BROKER_BUSY: there was no room for 5 s. Those of waiting, and DATA_CORRUPTED.
    pub async fn read(&self, fetch: Fetch) -> Result<Read, RequestError> {
        let Fetch {
            offset,
            max_bytes,
            form,
        } = fetch;
        let (resource, wanted) = match form {
            Form::Batches => (Resource::Fetch, max_bytes),
            Form::Decoded => (Resource::PlainFetch, decoded_bytes_max(&self.node).max(max_bytes)),
        };
        let room = tokio::select! {
            biased;
            room = self.caller.take(resource, wanted, ROOM_PATIENCE) => room?,
            refused = self.node.stopping.begun() => return Err(refused),
        };
        let fetched = self.partition.read(offset, max_bytes).await?;
        Ok(Read { fetched, room })
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
