//! What the leaders of the coordinator's shards said of the groups that read a partition (`groups::slowest`).
//!
//! What a shard said last counts for [`KEPT_FOR`] when it says nothing more. Then its groups no longer count: a coordinator that is gone
//! must not stop producers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_types::{GroupId, Offset};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long counts what a shard of the coordinator said last.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Orders what the leaders of one shard say: by its term, then by a number that each of them counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SaidAt {
    pub term: u64,
    pub sequence: u64,
}

/// The slowest group of one shard in a partition, and the offset that it committed.
pub(crate) type Slowest = Option<(Arc<str>, Offset)>;

/// What the shards of the coordinator said of a partition.
#[derive(Default)]
pub(super) struct GroupOffsets {
    by_shard: Mutex<BTreeMap<GroupId, Said>>,
}

struct Said {
    order: SaidAt,
    at: Instant,
    slowest: Slowest,
}

impl GroupOffsets {
    /// Takes what a shard says, unless it has said something newer of late.
    pub fn told(&self, shard: GroupId, order: SaidAt, slowest: Slowest, at: Instant) {
        let mut by_shard = self.by_shard.lock();
        let is_news = |known: &Said| known.order < order || known.at + KEPT_FOR <= at;
        if by_shard.get(&shard).is_none_or(is_news) {
            by_shard.insert(shard, Said { order, at, slowest });
        }
    }

    /// The slowest group of all shards that have said something of late.
    pub fn slowest(&self, now: Instant) -> Slowest {
        let by_shard = self.by_shard.lock();
        let said = by_shard.values().filter(|said| now - said.at < KEPT_FOR);
        let slowest = said.filter_map(|said| said.slowest.as_ref());
        slowest.min_by_key(|(_, offset)| *offset).cloned()
    }

    /// Nobody asks any more.
    pub fn clear(&self) {
        self.by_shard.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, sequence: u64) -> SaidAt {
        SaidAt { term, sequence }
    }

    #[test]
    fn the_slowest_of_all_shards_counts_until_they_are_silent_for_long() {
        let offsets = GroupOffsets::default();
        let now = Instant::now();
        let slowest = |name: &str, offset| Some((name.into(), Offset(offset)));
        offsets.told(GroupId(1), at(1, 1), slowest("a", 7), now);
        offsets.told(GroupId(2), at(1, 1), slowest("b", 5), now + Duration::from_secs(20));
        assert_eq!(offsets.slowest(now + Duration::from_secs(20)), slowest("b", 5));
        // Of an older term, and of before: both came late.
        offsets.told(GroupId(2), at(3, 1), slowest("b", 9), now + Duration::from_secs(21));
        offsets.told(GroupId(2), at(2, 8), slowest("b", 1), now + Duration::from_secs(22));
        offsets.told(GroupId(2), at(3, 0), slowest("b", 1), now + Duration::from_secs(22));
        assert_eq!(offsets.slowest(now + Duration::from_secs(22)), slowest("a", 7));
        assert_eq!(offsets.slowest(now + KEPT_FOR), slowest("b", 9));
        assert_eq!(offsets.slowest(now + Duration::from_secs(60)), None);
        offsets.told(GroupId(2), at(3, 2), None, now + Duration::from_secs(60));
        assert_eq!(
            offsets.slowest(now + Duration::from_secs(60)),
            None,
            "its groups are gone"
        );
    }
}
