//! What happens to groups, in the log of the broker that leads their shard, for people who ask later.

use jangada_coordinator::Event;

use super::shards::Shared;

impl Shared {
    /// Writes it down.
    pub fn tell(&self, event: &Event) {
        match event {
            Event::NoRoomForTarget { group, why } => {
                tracing::warn!(%group, %why, "a group keeps its old assignment: there is no room for a new one");
            }
            Event::TopicsLeftOut { group, topics } => {
                tracing::warn!(
                    %group,
                    count = topics.len(),
                    first = %topics.first().map_or("", |name| name),
                    "a group subscribes to more partitions than it can share: nobody reads these topics"
                );
            }
        }
    }
}
