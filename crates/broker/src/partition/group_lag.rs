//! The bound on how far groups may lag behind a partition: `max.group.lag.records`. A batch is refused while a group lags by more.
//!
//! The committed offsets of consumer groups are in other Raft groups, the coordinator's shards. The leader of each shard says twice a
//! second which of its groups is the slowest in each partition that has such a bound (`groups::slowest`). Queues that read the topic are
//! in the partition's own state, so their lag is exact: what is neither done nor dead.
//!
//! What a shard said last counts for [`KEPT_FOR`] when it says nothing more. Then its groups no longer count: a coordinator that is gone
//! must not stop producers. A partition's new leader knows of no group until the shards have told it, half a second later. What is under
//! way through the quorum does not count, so a group may come to lag by so much more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_types::{GroupId, Offset, Reason, TopicConfig};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Partition;
use crate::error::RequestError;

/// How long counts what a shard of the coordinator said last.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// When a producer should try again: about when the shards say something new.
const LAG_RETRY: Duration = Duration::from_millis(500);

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

/// Who lags most, and by how many records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lag {
    /// The kind of who lags, as the error's metadata has it.
    who: &'static str,
    name: Arc<str>,
    pub records: u64,
}

impl GroupOffsets {
    /// Takes what a shard says, unless it has said something newer of late.
    fn told(&self, shard: GroupId, order: SaidAt, slowest: Slowest, at: Instant) {
        let mut by_shard = self.by_shard.lock();
        let is_news = |known: &Said| known.order < order || known.at + KEPT_FOR <= at;
        if by_shard.get(&shard).is_none_or(is_news) {
            by_shard.insert(shard, Said { order, at, slowest });
        }
    }

    /// The slowest group of all shards that have said something of late.
    fn slowest(&self, now: Instant) -> Slowest {
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

impl Partition {
    /// Takes what a shard of the coordinator says of this partition. Without effect if groups may lag by any number of records.
    pub fn told_of_groups(&self, shard: GroupId, order: SaidAt, slowest: Slowest) {
        if self.config().max_group_lag.is_some() {
            self.group_offsets.told(shard, order, slowest, Instant::now());
        }
    }

    /// Refuses a batch while a group lags by more than the topic allows.
    ///
    /// # Errors
    /// GROUP_LAG.
    pub(super) fn check_group_lag(&self, config: &TopicConfig) -> Result<(), RequestError> {
        let Some(limit) = config.max_group_lag else {
            return Ok(());
        };
        let Some(Lag { who, name, records }) = self.group_lag(config).filter(|lag| lag.records > limit) else {
            return Ok(());
        };
        let message = format!(
            "partition {}: {who} {name:?} lags by {records} records, and the topic allows {limit} (max.group.lag.records): try again when \
             it has caught up; delete it, or leave it out of max.group.lag.groups, if nobody runs it any more",
            self.hosted.name
        );
        Err(RequestError::new(Reason::GroupLag, message)
            .with(who, name)
            .with("partition", &self.hosted.name)
            .with("lag", records)
            .with("limit", limit)
            .retry_after(LAG_RETRY))
    }

    /// The group or queue that lags most; none: no group is known that counts.
    pub(super) fn group_lag(&self, config: &TopicConfig) -> Option<Lag> {
        let of_groups = self.group_offsets.slowest(Instant::now()).map(|(name, committed)| {
            let next = committed.max(self.view.log_start());
            let records = self.view.high_watermark().get() - next.get();
            Lag {
                who: "group",
                name,
                records: u64::try_from(records).unwrap_or(0),
            }
        });
        let names = &config.max_group_lag_groups;
        let counts = |name: &str| names.is_empty() || names.contains(name);
        let desk = self.view.desk.get();
        let of_queues = desk
            .and_then(|desk| desk.slowest_view(counts))
            .map(|(name, records)| Lag {
                who: "queue",
                name,
                records,
            });
        of_groups.into_iter().chain(of_queues).max_by_key(|lag| lag.records)
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::{BatchBuilder, Codec};

    use super::super::testing::{Broker, Options, append};
    use super::*;

    fn batch(records: usize) -> bytes::Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            builder.append(0, None, Some(b"7"), []).expect("it is small");
        }
        builder.build()
    }

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

    #[tokio::test]
    async fn a_batch_is_refused_while_a_group_lags_and_the_error_names_it() {
        let broker = Broker::start(Options::default());
        let config = TopicConfig {
            max_group_lag: Some(10),
            ..TopicConfig::default()
        };
        let partition = broker.lead(config.clone()).await;
        append(&partition, batch(20)).await.expect("no group is known");
        let slowest = |offset| Some(("billing".into(), Offset(offset)));
        partition.told_of_groups(GroupId(9), at(1, 1), slowest(9));
        let refused = append(&partition, batch(1)).await.map(drop).expect_err("it lags by 11");
        assert_eq!((refused.reason, refused.definite), (Reason::GroupLag, true));
        assert_eq!(refused.retry_delay, Some(LAG_RETRY));
        let values = ["group", "partition", "lag", "limit"].map(|key| refused.metadata[key].as_str());
        assert_eq!(values, ["billing", "readings-0", "11", "10"]);
        assert_eq!(partition.view.high_watermark(), Offset(20), "nothing was appended");
        partition.told_of_groups(GroupId(9), at(1, 2), slowest(10));
        append(&partition, batch(1)).await.expect("it lags by 10");
        append(&partition, batch(1)).await.map(drop).expect_err("it lags by 11");
        let any = TopicConfig {
            max_group_lag: None,
            ..config
        };
        partition.set_config(any.into()).await;
        append(&partition, batch(1)).await.expect("it may lag by any number");
        broker.stop().await;
    }
}
