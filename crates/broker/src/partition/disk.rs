//! Whether there is disk for another batch: here, and on as many followers as a quorum needs.

use std::time::Duration;

use jangada_storage::StoreCondition;
use jangada_types::{Reason, ReplicaId};

use super::{LEADER_RETRY, Partition};
use crate::error::RequestError;

/// After this time a producer should try a full disk again.
const DISK_RETRY: Duration = Duration::from_secs(1);

impl Partition {
    pub(super) fn check_disk(&self) -> Result<(), RequestError> {
        match self.shared.store.condition() {
            StoreCondition::Healthy => self.check_followers_disks(),
            StoreCondition::DiskLow { free, reserve } => {
                let message = format!(
                    "partition {}: its leader's disk has {free} bytes free, below the reserve of {reserve}; reading goes on, \
                     free space or trim topics",
                    self.name
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
            .retry_after(LEADER_RETRY)),
        }
    }

    /// Refuses when a quorum would need a replica whose disk is down to its reserve. As long as it does not, the others
    /// go on: they cannot keep from it what they commit.
    fn check_followers_disks(&self) -> Result<(), RequestError> {
        let low = self.shared.registry.low_disks();
        if low.is_empty() {
            return Ok(());
        }
        let voters = self.group.members().voters;
        let alive = voters
            .iter()
            .filter(|voter| self.shared.registry.is_alive(voter.broker));
        let (full, sound): (Vec<&ReplicaId>, Vec<&ReplicaId>) = alive.partition(|voter| low.contains(&voter.broker));
        if full.is_empty() || sound.len() > voters.len() / 2 {
            return Ok(());
        }
        let full: Vec<String> = full.iter().map(|voter| voter.broker.to_string()).collect();
        let full = full.join(", ");
        let message = format!(
            "partition {}: {} of its {} replicas can take more, and the disk of broker {full} is below its reserve; reading \
             goes on, free space there or trim topics",
            self.name,
            sound.len(),
            voters.len()
        );
        Err(RequestError::new(Reason::DiskFull, message)
            .with("broker", full)
            .retry_after(DISK_RETRY))
    }
}
