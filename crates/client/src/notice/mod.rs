//! Notices: what a client does by itself and its user should know of. It retries, waits, skips, or goes on elsewhere.
//!
//! Every such event is one [`Notice`]. It goes to the log (`tracing`) and to the observer of [`ClientConfig`](crate::ClientConfig).
//! `troubles` decides when a failure that lasts is published: see there.

mod observer;
mod troubles;

use std::sync::Arc;
use std::time::Duration;

/// The target under which notices are logged (`tracing`): a program that shows them by an observer can leave them out
/// of the log.
pub const NOTICE_TARGET: &str = "jangada_client::notice";

pub use observer::OnNotice;
pub(crate) use troubles::{Next, Notices, Trouble};

use crate::consumer::OffsetReset;
use crate::error::{ClientError, Rejection};

/// An action that a client takes by itself and its user should know of. Its text says what, where, why, and what comes
/// next.
///
/// A failure that lasts is told after a second (at once when it will not pass by itself, such as a full disk), then every ten
/// seconds, and once more when it is over. Everything else is told when it happens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A call fails again and again, and is tried on.
    Retrying(Retrying),
    /// A call takes long, without a failure so far.
    Waiting {
        /// A sentence that says what waits, and for what: `the producer waits for room in its buffer`.
        what: Arc<str>,
        /// How long it has waited by now.
        elapsed: Duration,
    },
    /// What was published as [`Retrying`](Self::Retrying) or [`Waiting`](Self::Waiting) works again.
    Recovered {
        /// The same text as in the notice that it ends.
        what: Arc<str>,
        /// How long it did not work.
        elapsed: Duration,
    },
    /// The offset to read was not there. Reading goes on elsewhere, as the reset policy says.
    PositionReset(PositionReset),
    /// A group has no committed offset for a partition and begins at its end: the records before that are not read.
    BeginsAtEnd {
        /// The group's name.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: u32,
        /// The first offset that can be read.
        log_start_offset: i64,
        /// Where reading begins.
        offset: i64,
    },
    /// Partitions were added to a topic that is read, and are read from their beginning.
    PartitionsAdded {
        /// The topic's name.
        topic: Arc<str>,
        /// The indexes of the new partitions.
        partitions: Vec<u32>,
    },
    /// A batch that cannot be read is skipped, as the policy says.
    BatchSkipped {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: u32,
        /// The batch's first offset that was not handed out.
        offset: i64,
        /// Where reading goes on.
        next_offset: i64,
        /// A sentence about what is wrong with the batch.
        cause: String,
    },
    /// The membership in a group is lost. The consumer joins again by itself, unless the group does not take it.
    MembershipLost {
        /// The group's name.
        group: Arc<str>,
        /// The coordinator's answer that says so.
        cause: Arc<Rejection>,
    },
    /// A member that leaves could not tell its group. Its partitions go to others when its session ends.
    NotLeft {
        /// The group's name.
        group: Arc<str>,
        /// The longest time until then.
        session_timeout: Duration,
        /// The error of the last attempt to leave.
        error: ClientError,
    },
    /// Offsets of a group could not be committed. The next attempt commits the finished offsets, if the member still
    /// has its partitions; otherwise the records may be handed out again to another member.
    NotCommitted {
        /// The group's name.
        group: Arc<str>,
        /// The error of the last attempt.
        error: ClientError,
    },
    /// A partition that is read or written no longer exists.
    PartitionGone {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: u32,
    },
    /// A batch is given up. The deliveries of its records have the same error.
    GivenUp {
        /// Number of records in the batch.
        records: u32,
        /// The error that the deliveries get.
        error: ClientError,
    },
    /// The brokers belong to another cluster than before, or to one that was made anew.
    ClusterChanged {
        /// The id of the cluster that was known.
        before: String,
        /// The id of the cluster that answers.
        now: String,
    },
}

/// A call that fails again and again, and is tried on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retrying {
    /// The call that is tried: `produce to orders`, `heartbeat to group billing`.
    pub what: Arc<str>,
    /// The topic's partitions that fail now; empty when the call is not about partitions.
    pub partitions: Vec<u32>,
    /// The failure of the last attempt.
    pub cause: Arc<Rejection>,
    /// Time since the first failure.
    pub elapsed: Duration,
    /// Number of failed attempts since then.
    pub attempts: u64,
    /// Delay before the next attempt.
    pub next_try: Duration,
    /// Time from now until the call is given up. `None`: never.
    pub gives_up_in: Option<Duration>,
}

/// A reader was moved because the offset to read was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PositionReset {
    /// The group whose member reads, if one does.
    pub group: Option<Arc<str>>,
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: u32,
    /// The offset that was to be read.
    pub from: i64,
    /// The offset where reading goes on.
    pub to: i64,
    /// The first offset that can be read.
    pub log_start_offset: i64,
    /// The offset after the last committed record.
    pub high_watermark: i64,
    /// The policy that decided.
    pub policy: OffsetReset,
}

impl PositionReset {
    /// Number of records that were to be read and are no longer there: retention or trimming took them.
    pub fn records_gone(&self) -> u64 {
        self.log_start_offset.saturating_sub(self.from).max(0) as u64
    }

    /// Number of records that are there and are passed over because the policy says so.
    pub fn records_passed_over(&self) -> u64 {
        let first = self.from.max(self.log_start_offset);
        self.to.saturating_sub(first).max(0) as u64
    }
}

impl Notice {
    /// Whether the notice is good news or a matter of course; all others are warnings.
    pub fn is_info(&self) -> bool {
        matches!(self, Self::Recovered { .. } | Self::PartitionsAdded { .. })
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Retrying(retrying) => retrying.fmt(f),
            Self::Waiting { what, elapsed } => write!(f, "{what}, for {:.1} s so far", elapsed.as_secs_f32()),
            Self::Recovered { what, elapsed } => {
                write!(f, "{what}: goes on after {:.1} s", elapsed.as_secs_f32())
            }
            Self::PositionReset(reset) => reset.fmt(f),
            Self::BeginsAtEnd {
                group,
                topic,
                partition,
                log_start_offset,
                offset,
            } => write!(
                f,
                "group {group:?} has no committed offset for {topic}[{partition}] and begins at its end, {offset} (policy latest): \
                 the {} records before are not read",
                offset.saturating_sub(*log_start_offset)
            ),
            Self::PartitionsAdded { topic, partitions } => write!(
                f,
                "partitions were added to {topic}: {} read from the beginning",
                Partitions(topic, partitions)
            ),
            Self::BatchSkipped {
                topic,
                partition,
                offset,
                next_offset,
                cause,
            } => write!(
                f,
                "a batch of {topic}[{partition}] cannot be read and is skipped, offsets {offset} to {}: {cause}",
                next_offset - 1
            ),
            Self::MembershipLost { group, cause } => {
                write!(f, "the membership is lost in group {group:?}, joining again: {cause}")
            }
            Self::NotLeft {
                group,
                session_timeout,
                error,
            } => write!(
                f,
                "group {group:?} was not told that the member left, so its partitions are free only in {} s: {error}",
                session_timeout.as_secs_f32()
            ),
            Self::NotCommitted { group, error } => write!(f, "offsets were not committed to group {group:?}: {error}"),
            Self::PartitionGone { topic, partition } => write!(f, "{topic}[{partition}] no longer exists"),
            Self::GivenUp { records, error } => write!(f, "{records} records are given up: {error}"),
            Self::ClusterChanged { before, now } => write!(
                f,
                "the brokers belong to cluster {now}, not to {before} as before: it was made anew, or the addresses lead elsewhere"
            ),
        }
    }
}

impl std::fmt::Display for Retrying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.partitions[..] {
            [] => f.write_str(&self.what)?,
            [one] => write!(f, "{}[{one}]", self.what)?,
            [first, others @ ..] => write!(f, "{}[{first}] and {} more partitions", self.what, others.len())?,
        }
        write!(f, ": {}", self.cause.message)?;
        match self.cause.reason {
            Some(reason) => write!(f, " ({reason})")?,
            None => write!(f, " ({:?})", self.cause.code)?,
        }
        let elapsed = self.elapsed.as_secs_f32();
        match self.attempts {
            0 | 1 => write!(f, "; for {elapsed:.1} s so far, trying on")?,
            attempts => write!(f, "; {attempts} attempts in {elapsed:.1} s, trying on")?,
        }
        match self.gives_up_in {
            Some(left) => write!(f, " for {} s", left.as_secs_f32().round()),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for PositionReset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(group) = &self.group {
            write!(f, "group {group:?}: ")?;
        }
        let (topic, partition, from) = (&self.topic, self.partition, self.from);
        match self.records_gone() {
            0 => write!(
                f,
                "offset {from} of {topic}[{partition}] is beyond its end, {}",
                self.high_watermark
            )?,
            gone => write!(
                f,
                "offset {from} of {topic}[{partition}] is below its log start, {}: {gone} records are gone",
                self.log_start_offset
            )?,
        }
        let policy = match self.policy {
            OffsetReset::Error => "error",
            OffsetReset::Earliest => "earliest",
            OffsetReset::Latest => "latest",
        };
        write!(f, "; reading goes on at {} (reset policy {policy})", self.to)?;
        match self.records_passed_over() {
            0 => Ok(()),
            passed_over => write!(f, ", {passed_over} records are passed over"),
        }
    }
}

/// Partitions of a topic as a sentence's subject: `orders[3] is`, `orders[3,4,5] are`.
struct Partitions<'a>(&'a str, &'a [u32]);

impl std::fmt::Display for Partitions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(topic, partitions) = self;
        match partitions {
            [one] => write!(f, "{topic}[{one}] is"),
            [first, .., last] if partitions.len() as u32 == last - first + 1 => {
                write!(f, "{topic}[{first}] to [{last}] are")
            }
            _ => write!(f, "{} partitions of {topic} are", partitions.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset(from: i64, to: i64, policy: OffsetReset) -> PositionReset {
        PositionReset {
            group: Some("billing".into()),
            topic: "orders".into(),
            partition: 3,
            from,
            to,
            log_start_offset: 57,
            high_watermark: 90,
            policy,
        }
    }

    #[test]
    fn a_reset_says_what_is_gone_and_what_is_passed_over() {
        let earliest = Notice::PositionReset(reset(10, 57, OffsetReset::Earliest));
        assert_eq!(
            earliest.to_string(),
            "group \"billing\": offset 10 of orders[3] is below its log start, 57: 47 records are gone; reading goes on at 57 \
             (reset policy earliest)"
        );
        let latest = reset(10, 90, OffsetReset::Latest);
        assert_eq!((latest.records_gone(), latest.records_passed_over()), (47, 33));
        let beyond = reset(95, 90, OffsetReset::Latest);
        assert_eq!((beyond.records_gone(), beyond.records_passed_over()), (0, 0));
        assert!(beyond.to_string().contains("beyond its end, 90"), "{beyond}");
    }

    #[test]
    fn added_partitions_are_named() {
        let added = |partitions: &[u32]| {
            Notice::PartitionsAdded {
                topic: "t".into(),
                partitions: partitions.to_vec(),
            }
            .to_string()
        };
        assert!(added(&[3]).contains("t[3] is read"), "{}", added(&[3]));
        assert!(
            added(&[3, 4, 5]).contains("t[3] to [5] are read"),
            "{}",
            added(&[3, 4, 5])
        );
    }
}
