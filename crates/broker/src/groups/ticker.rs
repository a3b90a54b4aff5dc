//! The timers of all shards: one task that sleeps until the earliest deadline.

use std::sync::Arc;
use std::time::Duration;

use super::replica::CoordinatorReplica;
use super::shared::Shared;
use crate::cluster::metadata::Metadata;
use crate::replica::Replicas;

/// How long it sleeps at most; changes of leaders wake it.
const IDLE_MS: u64 = 5_000;
/// Between two rounds at least.
const PAUSE_MS: u64 = 5;

/// Runs until the metadata is gone.
pub(crate) async fn tick(replicas: Arc<Replicas>, shared: Arc<Shared>, metadata: Metadata) {
    let mut image = metadata.watch();
    let mut leaders = metadata.registry.leaders().watch();
    loop {
        leaders.borrow_and_update();
        let current = image.borrow_and_update().clone();
        shared.learn(&current);
        shared.alarm.clear();
        for shard in replicas.fronts::<CoordinatorReplica>() {
            shard.tick();
        }
        let now = shared.clock.now().monotonic_ms;
        let pause = shared.alarm.at_ms().saturating_sub(now).clamp(PAUSE_MS, IDLE_MS);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            () = shared.alarm.earlier() => {}
            changed = image.changed() => if changed.is_err() { return },
            changed = leaders.changed() => if changed.is_err() { return },
        }
    }
}
