//! Finding an offset of a partition by position or by time.

use jangada_proto::v1;

use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::isolation::Isolation;
use crate::metadata::TopicMetadata;

/// The offset of a partition that is asked for, by position or by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first offset that can be read.
    Earliest,
    /// The offset after the last record that a reader with the isolation asked for gets, confirmed with a quorum.
    Latest,
    /// The first record at or after this time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

/// An offset that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset that was found. `None`: no record has such a timestamp.
    pub offset: Option<i64>,
    /// The record's timestamp, when one was asked for.
    pub timestamp_ms: Option<i64>,
    /// The leader epoch of the leader that answered.
    pub leader_epoch: u32,
}

impl Cluster {
    pub(crate) async fn list_offsets(
        &self,
        topic: &TopicMetadata,
        partition: u32,
        (at, isolation): (OffsetAt, Isolation),
    ) -> Result<ListedOffset, ClientError> {
        use v1::list_offsets_request::Position;
        let position = match at {
            OffsetAt::Earliest => Position::Earliest(true),
            OffsetAt::Latest => Position::Latest(true),
            OffsetAt::Timestamp(ms) => Position::TimestampMs(ms),
        };
        let answer = self.call_leader("list offsets of", topic, partition, |mut service, target| {
            let request = v1::ListOffsetsRequest {
                partition: Some(target),
                position: Some(position),
                isolation: isolation.wire(),
            };
            async move { service.list_offsets(request).await }
        });
        let answer = answer.await?;
        let some = |value: i64| (value >= 0).then_some(value);
        Ok(ListedOffset {
            offset: some(answer.offset),
            timestamp_ms: some(answer.timestamp_ms),
            leader_epoch: answer.leader_epoch,
        })
    }
}
