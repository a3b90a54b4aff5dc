//! Settings of a group's member.

use std::time::Duration;

use jangada_proto::v1;

use crate::consumer::{ConsumerConfig, OffsetReset, OnBadBatch};
use crate::error::ClientError;
use crate::isolation::Isolation;

/// When positions are committed, which decides what happens to records when a consumer fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// At most once: offsets are committed before records are handed out. Records that were handed out and not finished
    /// when the consumer fails are lost. [`next`](crate::GroupConsumer::next) commits for up to all records of one
    /// response, so that one failure may lose as many; [`next_batch`](crate::GroupConsumer::next_batch) commits for the
    /// records that it returns.
    Before,
    /// At least once: offsets are committed after records are finished, which is when the next ones are asked for, or
    /// by [`commit`](crate::GroupConsumer::commit). The records since the last commit come again when the consumer
    /// fails.
    After {
        /// How often finished records are committed.
        interval: Duration,
    },
    /// Offsets are committed only by [`commit`](crate::GroupConsumer::commit) and
    /// [`commit_offsets`](crate::GroupConsumer::commit_offsets).
    Manual,
}

/// How the coordinator divides partitions among members. The group takes what most members prefer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// The member has no preference. The uniform assignor is used if no member has one.
    Any,
    /// Spreads partitions evenly and moves as few as possible.
    Uniform,
    /// Gives each member neighbouring partitions of each topic; of topics with equally many partitions, the same
    /// indexes.
    Range,
}

impl Assignor {
    pub(crate) fn wire(self) -> i32 {
        match self {
            Self::Any => v1::Assignor::Unspecified,
            Self::Uniform => v1::Assignor::Uniform,
            Self::Range => v1::Assignor::Range,
        }
        .into()
    }

    pub(crate) fn from_wire(assignor: i32) -> Self {
        match v1::Assignor::try_from(assignor) {
            Ok(v1::Assignor::Uniform) => Self::Uniform,
            Ok(v1::Assignor::Range) => Self::Range,
            _ => Self::Any,
        }
    }
}

/// Settings of a member of a consumer group.
///
/// ```
/// use std::time::Duration;
/// use jangada_client::{CommitMode, GroupConfig};
///
/// let mut config = GroupConfig::new("billing", ["orders", "refunds"]);
/// config.session_timeout = Duration::from_secs(10);
/// config.commit = CommitMode::After { interval: Duration::from_secs(1) };
/// ```
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group's name: `[A-Za-z0-9._-]{1,249}`, not `.` or `..`.
    pub group: String,
    /// Topics to read, by name. They need not exist yet.
    pub topics: Vec<String>,
    /// Also the topics whose whole name this matches, now or later: a regular expression of RE2's syntax.
    pub pattern: Option<String>,
    /// Makes the member static: a process that comes back under this name within the session goes on with the
    /// partitions it had, without a rebalance. Each process of a group needs another name.
    pub instance_id: Option<String>,
    /// The name that people see who look at the group. Default: the client's `client_id`.
    pub client_id: Option<String>,
    /// The member's failure domain. Default: unknown.
    pub rack: String,
    /// How long the member may be silent before its partitions go to others, 1 s to 30 min. It stops handing out records by itself
    /// after that. Default: 45 s.
    pub session_timeout: Duration,
    /// How long it may take to give up partitions, 1 s to 1 h: a handler that works longer on what it was handed loses its
    /// membership when partitions are to move. Default: 5 min.
    pub rebalance_timeout: Duration,
    /// The assignor that this member prefers. Default: [`Assignor::Any`].
    pub assignor: Assignor,
    /// Where partitions without a committed offset begin: partitions that were there when the group began to read their topic. Those
    /// that were added later begin with their first record in any case. Default: earliest, which misses nothing.
    pub offset_reset: OffsetReset,
    /// Where reading goes on when the offset to read is no longer there, since retention took it; a
    /// [`Notice`](crate::Notice) tells of it. Default: none, and `offset_reset` decides.
    pub out_of_range_reset: Option<OffsetReset>,
    /// When positions are committed. Default: after, every 5 s.
    pub commit: CommitMode,
    /// See [`ConsumerConfig::prefetch_bytes`].
    pub prefetch_bytes: usize,
    /// See [`ConsumerConfig::max_partition_bytes`].
    pub max_partition_bytes: usize,
    /// See [`ConsumerConfig::on_bad_batch`]. Skipped records count as finished.
    pub on_bad_batch: OnBadBatch,
    /// Which records of transactions are read. Default: [`Isolation::Committed`].
    pub isolation: Isolation,
}

impl GroupConfig {
    /// Default settings, for a member of the group that reads these topics.
    pub fn new<I, S>(group: impl Into<String>, topics: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let reading = ConsumerConfig::default();
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            pattern: None,
            instance_id: None,
            client_id: None,
            rack: String::new(),
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(300),
            assignor: Assignor::Any,
            offset_reset: OffsetReset::Earliest,
            out_of_range_reset: None,
            commit: CommitMode::After {
                interval: Duration::from_secs(5),
            },
            prefetch_bytes: reading.prefetch_bytes,
            max_partition_bytes: reading.max_partition_bytes,
            on_bad_batch: reading.on_bad_batch,
            isolation: reading.isolation,
        }
    }

    /// Checks the settings that brokers would not report as well.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.topics.is_empty() && self.pattern.as_ref().is_none_or(String::is_empty) {
            return Err(ClientError::Config(
                "topics: name at least one, or give a pattern".to_owned(),
            ));
        }
        for (name, value, max) in [
            ("session_timeout", self.session_timeout, 1800),
            ("rebalance_timeout", self.rebalance_timeout, 3600),
        ] {
            if value < Duration::from_secs(1) || value > Duration::from_secs(max) {
                return Err(ClientError::Config(format!(
                    "{name} {} ms: 1 s to {max} s",
                    value.as_millis()
                )));
            }
        }
        if matches!(self.commit, CommitMode::After { interval } if interval.is_zero()) {
            return Err(ClientError::Config(
                "commit: the interval must be above zero".to_owned(),
            ));
        }
        if self.instance_id.as_ref().is_some_and(String::is_empty) {
            return Err(ClientError::Config("instance_id: must not be empty".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn reading(&self) -> ConsumerConfig {
        ConsumerConfig {
            prefetch_bytes: self.prefetch_bytes,
            max_partition_bytes: self.max_partition_bytes,
            offset_reset: self.out_of_range_reset.unwrap_or(self.offset_reset),
            on_bad_batch: self.on_bad_batch,
            isolation: self.isolation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        GroupConfig::new("g", ["t"]).check().expect("the defaults");
        GroupConfig::new("g", Vec::<String>::new())
            .check()
            .expect_err("nothing to read");
        let mut config = GroupConfig::new("g", Vec::<String>::new());
        config.pattern = Some("t.*".to_owned());
        config.check().expect("a pattern is enough");
        config.session_timeout = Duration::from_millis(999);
        config.check().expect_err("too short");
    }
}
