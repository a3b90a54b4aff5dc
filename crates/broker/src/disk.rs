//! Refuses appends while disks cannot take them: this broker's is full or too slow, or those of too many followers are full. What is
//! done with messages of queues is taken longer, down to half of the reserve.

use std::fmt::Display;
use std::time::Duration;

use jangada_replication::{Group, Registry};
use jangada_storage::{Store, StoreCondition};
use jangada_types::{Reason, ReplicaId};

use crate::error::RequestError;

/// The retry delay that clients are told when the disk is full: space does not come back at once.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);
/// The retry delay when too many bytes wait to be written.
const QUEUE_RETRY: Duration = Duration::from_millis(100);
/// The retry delay when the leader's store has failed: another leader is about to be elected.
const FENCED_RETRY: Duration = Duration::from_millis(50);

/// Refuses an append to a group that is led here when the store has failed, when the disk is down to its reserve, when more than
/// `queue_bytes_max` bytes wait to be written, or when too many followers' disks are full. `name` is the group in words, for the
/// error.
pub(crate) fn check(
    store: &dyn Store,
    queue_bytes_max: usize,
    registry: &Registry,
    group: &Group,
    name: impl Display,
) -> Result<(), RequestError> {
    match store.condition() {
        StoreCondition::Healthy => {
            check_queue(store, queue_bytes_max)?;
            check_followers(registry, group, name)
        }
        StoreCondition::DiskLow { free, reserve } => {
            let message = format!(
                "{name}: its leader's disk has {free} bytes free, below the reserve of {reserve}; reading goes on, free \
                 space or trim topics"
            );
            Err(RequestError::new(Reason::DiskFull, message)
                .with("actual", free)
                .with("limit", reserve)
                .retry_after(DISK_FULL_RETRY))
        }
        StoreCondition::Fenced(cause) => Err(RequestError::new(
            Reason::StoreFenced,
            format!("the broker's store has failed: {cause}"),
        )
        .retry_after(FENCED_RETRY)),
    }
}

/// When less than half of the reserve is free: the bytes that are, and that half.
pub(crate) fn below_half(store: &dyn Store) -> Option<(u64, u64)> {
    match store.condition() {
        StoreCondition::DiskLow { free, reserve } if free < reserve / 2 => Some((free, reserve / 2)),
        _ => None,
    }
}

/// Refuses also what makes room in the end, such as acknowledgements of messages, when less than half of the reserve is free: their
/// commands take space first. `name` is the group in words, for the error.
pub(crate) fn check_half(store: &dyn Store, name: impl Display) -> Result<(), RequestError> {
    let Some((free, limit)) = below_half(store) else {
        return Ok(());
    };
    let message = format!(
        "{name}: its leader's disk has {free} bytes free, below half of the reserve, which is {limit}: messages of queues are not handed \
         out, and settlements are not taken; free space there, and settle again"
    );
    Err(RequestError::new(Reason::DiskFull, message)
        .with("actual", free)
        .with("limit", limit)
        .retry_after(DISK_FULL_RETRY))
}

/// Refuses when the queue of writes is too long. A quorum of followers can commit entries that this disk does not have yet, so
/// waiting for commits does not bound the queue: without this check it would fill the memory.
fn check_queue(store: &dyn Store, queue_bytes_max: usize) -> Result<(), RequestError> {
    let bytes = store.queue_bytes();
    if bytes <= queue_bytes_max {
        return Ok(());
    }
    let message = format!(
        "the broker's disk falls behind: {bytes} bytes wait to be written, more than {queue_bytes_max}; try again after a \
         moment"
    );
    Err(RequestError::new(Reason::BrokerBusy, message)
        .with("actual", bytes)
        .with("limit", queue_bytes_max)
        .retry_after(QUEUE_RETRY))
}

/// Refuses when no quorum is left without a replica whose disk is down to its reserve. While there is one, appends go on, and
/// the full replica gets the committed entries too: Raft has no way to spare it.
fn check_followers(registry: &Registry, group: &Group, name: impl Display) -> Result<(), RequestError> {
    let low = registry.low_disks();
    if low.is_empty() {
        return Ok(());
    }
    let voters = group.members().voters;
    let alive = voters.iter().filter(|voter| registry.is_alive(voter.broker));
    let (full, sound): (Vec<&ReplicaId>, Vec<&ReplicaId>) = alive.partition(|voter| low.contains(&voter.broker));
    if full.is_empty() || sound.len() > voters.len() / 2 {
        return Ok(());
    }
    let full: Vec<String> = full.iter().map(|voter| voter.broker.to_string()).collect();
    let full = full.join(", ");
    let message = format!(
        "{name}: {} of its {} replicas can take more, and the disk of broker {full} is below its reserve; reading goes on, \
         free space there or trim topics",
        sound.len(),
        voters.len()
    );
    Err(RequestError::new(Reason::DiskFull, message)
        .with("broker", full)
        .retry_after(DISK_FULL_RETRY))
}
