//! Hands the leaderships of a broker that stops to others, so that nobody waits for elections.

use std::time::Duration;

use futures::StreamExt;
use jangada_replication::{Group, Registry};
use jangada_types::ReplicaId;

/// Leaderships that are handed over at once.
const MAX_CONCURRENT: usize = 64;
/// How long one may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Hands every leadership to the live voter whose log is longest.
pub(crate) async fn hand_over(registry: &Registry) {
    let led = registry.groups().into_iter().filter(|group| group.status().leading);
    let transfers = led.map(|group| async move {
        let Some(to) = successor(registry, &group) else { return };
        if let Err(error) = group.transfer_leader(to, TRANSFER_TIMEOUT).await {
            tracing::debug!(group = %group.id(), %to, %error, "a leadership was not handed over");
        }
    });
    futures::stream::iter(transfers)
        .buffer_unordered(MAX_CONCURRENT)
        .collect::<Vec<()>>()
        .await;
}

fn successor(registry: &Registry, group: &Group) -> Option<ReplicaId> {
    let members = group.members();
    let progress = group.progress()?;
    let candidates = progress
        .into_iter()
        .filter(|p| p.replica != group.replica() && members.voters.contains(&p.replica));
    candidates
        .filter(|p| registry.is_alive(p.replica.broker))
        // A damaged one leads if there is no other.
        .max_by_key(|p| (!registry.is_unfit(group.id(), p.replica.broker), p.matched_next))
        .map(|p| p.replica)
}
