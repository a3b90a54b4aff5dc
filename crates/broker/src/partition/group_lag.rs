//! The bound on how far groups may lag behind a partition: `max.group.lag.records`. A batch is refused while a group lags by more.
//!
//! The committed offsets of consumer groups are in other Raft groups, the coordinator's shards. The leader of each shard says twice a
//! second which of its groups is the slowest in each partition that has such a bound (`groups::slowest`). Queues that read the topic are
//! in the partition's own state, so their lag is exact: what is neither done nor dead.
//!
//! A partition's new leader knows of no group until the shards have told it, half a second later. What is under
//! way through the quorum does not count, so a group may come to lag by so much more.

use std::sync::Arc;
use std::time::Duration;

use jangada_types::{GroupId, Reason, TopicConfig};
use tokio::time::Instant;

use super::Partition;
use super::group_offsets::{SaidAt, Slowest};
use crate::error::RequestError;
use crate::quota::Caller;

/// When a producer should try again: about when the shards say something new.
const LAG_RETRY: Duration = Duration::from_millis(500);

/// Who lags most, and by how many records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lag {
    /// The kind of who lags, as the error's metadata has it.
    who: &'static str,
    name: Arc<str>,
    pub records: u64,
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

    /// Bytes of batches that a connection may have unanswered: its share of what may be under way, or less if that is more than a group
    /// may lag behind, by the mean size of the records that are there.
    pub fn credit_bytes(&self, caller: &Arc<Caller>) -> u64 {
        let share = self.inflight.share(caller) as u64;
        let config = self.config();
        let Some(limit) = config.max_group_lag else {
            return share;
        };
        let Some(lag) = self.group_lag(&config) else {
            return share;
        };
        let records = self.view.high_watermark().get() - self.view.log_start().get();
        let mean = self.view.retained_bytes() / u64::try_from(records).unwrap_or(0).max(1);
        share.min(limit.saturating_sub(lag.records).saturating_mul(mean.max(1)))
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
    use jangada_types::{BatchBuilder, Codec, Offset};

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

    #[tokio::test]
    async fn a_batch_is_refused_while_a_group_lags_and_the_error_names_it() {
        let broker = Broker::start(Options::default());
        let config = TopicConfig {
            max_group_lag: Some(10),
            ..TopicConfig::default()
        };
        let partition = broker.lead(config.clone()).await;
        append(&partition, batch(20)).await.expect("no group is known");
        let share = partition.credit_bytes(&Caller::alone());
        let slowest = |offset| Some(("billing".into(), Offset(offset)));
        partition.told_of_groups(GroupId(9), at(1, 1), slowest(9));
        let refused = append(&partition, batch(1)).await.map(drop).expect_err("it lags by 11");
        assert_eq!((refused.reason, refused.definite), (Reason::GroupLag, true));
        assert_eq!(refused.retry_delay, Some(LAG_RETRY));
        let values = ["group", "partition", "lag", "limit"].map(|key| refused.metadata[key].as_str());
        assert_eq!(values, ["billing", "readings-0", "11", "10"]);
        assert_eq!(partition.view.high_watermark(), Offset(20), "nothing was appended");
        partition.told_of_groups(GroupId(9), at(1, 2), slowest(18));
        let room = partition.credit_bytes(&Caller::alone());
        assert!(
            (8..share).contains(&room),
            "room for 8 small records: {room} of {share}"
        );
        partition.told_of_groups(GroupId(9), at(1, 3), slowest(10));
        append(&partition, batch(1)).await.expect("it lags by 10");
        assert_eq!(
            partition.credit_bytes(&Caller::alone()),
            0,
            "it lags by more than it may"
        );
        append(&partition, batch(1)).await.map(drop).expect_err("it lags by 11");
        let any = TopicConfig {
            max_group_lag: None,
            ..config
        };
        partition.set_config(any.into()).await;
        append(&partition, batch(1)).await.expect("it may lag by any number");
        assert_eq!(partition.credit_bytes(&Caller::alone()), share);
        broker.stop().await;
    }
}
