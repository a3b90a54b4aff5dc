//! Whether the disk takes more: here, with space and in time, and on as many followers as a quorum needs.

use std::fmt::Display;
use std::time::Duration;

use jangada_replication::{Group, Registry};
use jangada_storage::{Store, StoreCondition};
use jangada_types::{Reason, ReplicaId};

use crate::error::RequestError;

/// After this time a client should try a full disk again.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// After this time it should try a disk again that falls behind.
const QUEUE_RETRY: Duration = Duration::from_millis(100);
/// After this time it should look for another leader than one whose store has failed.
const FENCED_RETRY: Duration = Duration::from_millis(50);

/// Refuses more for a group that is led here when the disk is down to its reserve, or when more than `queue_bytes_max`
/// wait for it. `name` says which group, in words.
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
                .retry_after(DISK_RETRY))
        }
        StoreCondition::Fenced(cause) => Err(RequestError::new(
            Reason::StoreFenced,
            format!("the broker's store has failed: {cause}"),
        )
        .retry_after(FENCED_RETRY)),
    }
}

/// A quorum of followers commits what this disk does not have yet, and then nothing else holds back what comes in: it
/// would pile up in memory.
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

/// Refuses when a quorum would need a replica whose disk is down to its reserve. As long as it does not, the others go
/// on: they cannot keep from it what they commit.
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
        .retry_after(DISK_RETRY))
}
