//! The timers of all shards: one task that sleeps until the earliest deadline.

use std::sync::Arc;
use std::time::Duration;

use super::shards::Shards;
use crate::cluster::metadata::Metadata;

/// How often a leader looks whether a quorum still answers it.
const LOOK_EVERY_MS: u64 = 200;
/// How long it sleeps while nothing is led here; changes of leaders wake it.
const IDLE_MS: u64 = 5_000;
/// Between two rounds at least.
const PAUSE_MS: u64 = 5;

/// Runs until the metadata is gone.
pub(crate) async fn tick(shards: Arc<Shards>, metadata: Metadata) {
    let mut image = metadata.watch();
    let mut leaders = metadata.registry.leaders().watch();
    let shared = shards.shared.clone();
    loop {
        leaders.borrow_and_update();
        let current = image.borrow_and_update().clone();
        shared.learn(&current);
        shared.alarm.clear();
        let mut longest = IDLE_MS;
        for shard in shards.all() {
            if shard.look() {
                metadata.registry.leaders().changed();
            }
            shard.tick();
            if shard.is_led() {
                longest = LOOK_EVERY_MS;
            }
        }
        let now = shared.clock.now().monotonic_ms;
        let pause = shared.alarm.at_ms().saturating_sub(now).clamp(PAUSE_MS, longest);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            () = shared.alarm.earlier() => {}
            changed = image.changed() => if changed.is_err() { return },
            changed = leaders.changed() => if changed.is_err() { return },
        }
    }
}
