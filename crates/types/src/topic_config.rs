//! The settings of a topic, by Kafka's names.
//!
//! The controller keeps the given settings as text; [`TopicConfig::from_map`] judges them on creation and change, and
//! gives the brokers the effective values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::batch::{BatchLimits, TimestampType};
use crate::limits::{
    BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, BATCH_BYTES_MIN, DELETE_RETENTION_MS_DEFAULT, RETENTION_MS_DEFAULT,
    SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, TIMESTAMP_AFTER_MAX_MS_DEFAULT,
};
use crate::reason::Reason;

/// The effective settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `retention.ms`: how long records are kept, milliseconds; `None` is forever.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: how many bytes of each partition are kept; `None` is all.
    pub retention_bytes: Option<u64>,
    /// `max.message.bytes`: most bytes of a batch as it is sent, header included.
    pub max_batch_bytes: usize,
    /// `message.timestamp.type`: the clock that record times are from.
    pub timestamp_type: TimestampType,
    /// `segment.bytes`: bytes of log between two points to which it can be purged.
    pub segment_bytes: u64,
    /// `message.timestamp.before.max.ms`: how long before the leader's clock a record's time may be, milliseconds.
    pub timestamp_before_max_ms: u64,
    /// `message.timestamp.after.max.ms`: how long after the leader's clock a record's time may be, milliseconds.
    pub timestamp_after_max_ms: u64,
    /// `validation.compressed`: the leader unpacks compressed batches and counts their records before it accepts them.
    pub compressed_validation: bool,
    /// `validation.full`: the leader unpacks and decodes every batch before it accepts it.
    pub full_validation: bool,
    /// `cleanup.policy`: how old records are removed.
    pub cleanup_policy: CleanupPolicy,
    /// `min.cleanable.dirty.ratio`: the part of a partition's bytes that is not compacted when compaction begins, in thousandths.
    pub dirty_ratio_permille: u16,
    /// `min.compaction.lag.ms`: how long a record is not compacted, milliseconds.
    pub compaction_lag_min_ms: u64,
    /// `max.compaction.lag.ms`: how long a record may stay uncompacted, milliseconds; `None` is for ever.
    pub compaction_lag_max_ms: Option<u64>,
    /// `delete.retention.ms`: how long tombstones are kept once they are compacted, milliseconds.
    pub delete_retention_ms: u64,
    /// `key.index.enable`: the last offset of each key is kept, for conditional appends.
    pub key_index: bool,
    /// `max.group.lag.records`: a partition takes no more while a group lags by more records; `None` is any lag.
    pub max_group_lag: Option<u64>,
    /// `max.group.lag.groups`: the consumer groups and queues that count for it; empty is all.
    pub max_group_lag_groups: BTreeSet<Arc<str>>,
}

/// How old records are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanupPolicy {
    /// Old records are deleted by age and size.
    #[default]
    Delete,
    /// Of each key the last record is kept.
    Compact,
    /// Of each key the last record is kept, until it is deleted by age and size.
    CompactAndDelete,
}

impl CleanupPolicy {
    /// Whether of each key only the last record is kept.
    pub const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    /// Whether records are deleted by age and size.
    pub const fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }

    /// The policy of a list of names.
    fn parse(value: &str) -> Option<Self> {
        let names: BTreeSet<&str> = value.split(',').map(str::trim).collect();
        match (names.contains("delete"), names.contains("compact"), names.len()) {
            (true, false, 1) => Some(Self::Delete),
            (false, true, 1) => Some(Self::Compact),
            (true, true, 2) => Some(Self::CompactAndDelete),
            _ => None,
        }
    }
}

/// The names of the settings.
pub mod key {
    /// See [`TopicConfig::retention_ms`](super::TopicConfig::retention_ms).
    pub const RETENTION_MS: &str = "retention.ms";
    /// See [`TopicConfig::retention_bytes`](super::TopicConfig::retention_bytes).
    pub const RETENTION_BYTES: &str = "retention.bytes";
    /// See [`TopicConfig::max_batch_bytes`](super::TopicConfig::max_batch_bytes).
    pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
    /// See [`TopicConfig::timestamp_type`](super::TopicConfig::timestamp_type).
    pub const TIMESTAMP_TYPE: &str = "message.timestamp.type";
    /// See [`TopicConfig::segment_bytes`](super::TopicConfig::segment_bytes).
    pub const SEGMENT_BYTES: &str = "segment.bytes";
    /// See [`TopicConfig::timestamp_before_max_ms`](super::TopicConfig::timestamp_before_max_ms).
    pub const TIMESTAMP_BEFORE_MAX_MS: &str = "message.timestamp.before.max.ms";
    /// See [`TopicConfig::timestamp_after_max_ms`](super::TopicConfig::timestamp_after_max_ms).
    pub const TIMESTAMP_AFTER_MAX_MS: &str = "message.timestamp.after.max.ms";
    /// See [`TopicConfig::compressed_validation`](super::TopicConfig::compressed_validation).
    pub const COMPRESSED_VALIDATION: &str = "validation.compressed";
    /// See [`TopicConfig::full_validation`](super::TopicConfig::full_validation).
    pub const FULL_VALIDATION: &str = "validation.full";
    /// See [`TopicConfig::cleanup_policy`](super::TopicConfig::cleanup_policy).
    pub const CLEANUP_POLICY: &str = "cleanup.policy";
    /// See [`TopicConfig::dirty_ratio_permille`](super::TopicConfig::dirty_ratio_permille).
    pub const DIRTY_RATIO: &str = "min.cleanable.dirty.ratio";
    /// See [`TopicConfig::compaction_lag_min_ms`](super::TopicConfig::compaction_lag_min_ms).
    pub const COMPACTION_LAG_MIN_MS: &str = "min.compaction.lag.ms";
    /// See [`TopicConfig::compaction_lag_max_ms`](super::TopicConfig::compaction_lag_max_ms).
    pub const COMPACTION_LAG_MAX_MS: &str = "max.compaction.lag.ms";
    /// See [`TopicConfig::delete_retention_ms`](super::TopicConfig::delete_retention_ms).
    pub const DELETE_RETENTION_MS: &str = "delete.retention.ms";
    /// See [`TopicConfig::key_index`](super::TopicConfig::key_index).
    pub const KEY_INDEX: &str = "key.index.enable";
    /// See [`TopicConfig::max_group_lag`](super::TopicConfig::max_group_lag).
    pub const MAX_GROUP_LAG: &str = "max.group.lag.records";
    /// See [`TopicConfig::max_group_lag_groups`](super::TopicConfig::max_group_lag_groups).
    pub const MAX_GROUP_LAG_GROUPS: &str = "max.group.lag.groups";
}

/// A setting, with its documentation for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// The setting's name.
    pub name: &'static str,
    /// The value in effect when none is set.
    pub default: &'static str,
    /// The values that are allowed.
    pub allowed: &'static str,
    /// What the setting does, with its unit.
    pub documentation: &'static str,
}

/// Every setting, ordered by name.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: key::CLEANUP_POLICY,
        default: "delete",
        allowed: "delete, compact, or compact,delete",
        documentation: "What happens to old records: they are deleted as retention.ms and retention.bytes say, or of each key only the \
                        last record is kept (compact), or both. With compact every record must have a key, and the topic can have no \
                        queues.",
    },
    ConfigKey {
        name: key::DELETE_RETENTION_MS,
        default: "86400000",
        allowed: "0 to 9223372036854775807",
        documentation: "How long a tombstone, a record without a value, is kept once every replica has compacted it, in milliseconds: a \
                        reader that is no slower sees each deletion. Only with compact.",
    },
    ConfigKey {
        name: key::KEY_INDEX,
        default: "false",
        allowed: "true or false",
        documentation: "Whether each replica keeps the last offset of every key, which conditional appends by key need. \
                        The leader then decodes every batch, and keys may have 1024 bytes. The index is built from the log \
                        when this is set on a topic that has records.",
    },
    ConfigKey {
        name: key::COMPACTION_LAG_MAX_MS,
        default: "9223372036854775807",
        allowed: "1 to 9223372036854775807",
        documentation: "How long a record may stay uncompacted, in milliseconds, whatever min.cleanable.dirty.ratio says. The largest \
                        value: for ever. Only with compact.",
    },
    ConfigKey {
        name: key::MAX_GROUP_LAG_GROUPS,
        default: "",
        allowed: "empty, or up to 64 names separated by commas",
        documentation: "The consumer groups and queues that max.group.lag.records goes by. One that has committed nothing does not count. \
                        Empty: all that have committed offsets in the partition, until those are deleted \
                        (groups.offsets_retention_ms), and all queues that read the topic.",
    },
    ConfigKey {
        name: key::MAX_GROUP_LAG,
        default: "-1",
        allowed: "-1, or 1 and more",
        documentation: "By how many records a group may lag in a partition before the partition takes no more (GROUP_LAG, which names the \
                        group), until it has caught up. Offsets of consumer groups are known within a second; what a group's \
                        coordinator said last counts for 30 s when it cannot be reached. -1: by any number.",
    },
    ConfigKey {
        name: key::MAX_MESSAGE_BYTES,
        default: "1048576",
        allowed: "1024 to 8388608",
        documentation: "The largest record batch, in bytes as it is sent, header included.",
    },
    ConfigKey {
        name: key::TIMESTAMP_AFTER_MAX_MS,
        default: "3600000",
        allowed: "0 to 9223372036854775807",
        documentation: "How far a record's own time may lie ahead of the leader's clock, in milliseconds; a batch with a later one is \
                        refused, as it would stay for as long beyond retention.ms. The largest value: no bound. Without effect with \
                        LogAppendTime.",
    },
    ConfigKey {
        name: key::TIMESTAMP_BEFORE_MAX_MS,
        default: "9223372036854775807",
        allowed: "0 to 9223372036854775807",
        documentation: "How far a record's own time may lie behind the leader's clock, in milliseconds; a batch with an earlier one is \
                        refused. Below retention.ms it keeps out what would be deleted at once. The largest value: no bound. Without \
                        effect with LogAppendTime.",
    },
    ConfigKey {
        name: key::TIMESTAMP_TYPE,
        default: "CreateTime",
        allowed: "CreateTime or LogAppendTime",
        documentation: "Whether a record keeps its producer's timestamp, or gets the leader's time of the append.",
    },
    ConfigKey {
        name: key::DIRTY_RATIO,
        default: "0.5",
        allowed: "0 to 1",
        documentation: "The part of a partition's bytes that is not compacted when compaction begins. Less keeps fewer superseded records, \
                        and writes those that stay more often. Only with compact.",
    },
    ConfigKey {
        name: key::COMPACTION_LAG_MIN_MS,
        default: "0",
        allowed: "0 to 9223372036854775807",
        documentation: "How long a record is not compacted, in milliseconds by its timestamp. Only with compact.",
    },
    ConfigKey {
        name: key::RETENTION_BYTES,
        default: "-1",
        allowed: "-1, or 0 and more",
        documentation: "How many bytes of each partition are kept; the oldest records are deleted first, in steps of \
                        segment.bytes. -1: no limit.",
    },
    ConfigKey {
        name: key::RETENTION_MS,
        default: "604800000",
        allowed: "-1, or 0 and more",
        documentation: "How long records are kept, in milliseconds; they are deleted in steps of segment.bytes. -1: for ever.",
    },
    ConfigKey {
        name: key::SEGMENT_BYTES,
        default: "16777216",
        allowed: "65536 to 1073741824",
        documentation: "Bytes of log between two points up to which old records can be deleted.",
    },
    ConfigKey {
        name: key::COMPRESSED_VALIDATION,
        default: "true",
        allowed: "true or false",
        documentation: "Whether the leader unpacks each compressed batch before it accepts it, and checks that it has the records that its \
                        header says. Costs the leader about 0.3 (lz4) to 1 (gzip) CPU seconds for each GiB of unpacked records. Without \
                        it a batch that nobody can read is accepted, and stops consumers.",
    },
    ConfigKey {
        name: key::FULL_VALIDATION,
        default: "false",
        allowed: "true or false",
        documentation: "Whether the leader decodes every record of each batch, with its keys, values and headers, before it accepts \
                        it, instead of only counting the records.",
    },
];

/// The reason why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such setting.
    #[error("unknown setting {key:?}; there are {}", names())]
    UnknownKey {
        /// The name that was given.
        key: String,
    },
    /// The value is not allowed.
    #[error("{key}={value}: the value must be {allowed}")]
    BadValue {
        /// The setting's name.
        key: &'static str,
        /// The value that was given.
        value: String,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// No record could be compacted in time.
    #[error("min.compaction.lag.ms={least} is more than max.compaction.lag.ms={most}")]
    CompactionLag {
        /// How long a record is not compacted, milliseconds.
        least: u64,
        /// How long it may stay uncompacted, milliseconds.
        most: u64,
    },
}

impl ConfigError {
    /// The error's reason in the public API.
    pub const fn reason(&self) -> Reason {
        Reason::InvalidConfig
    }
}

fn names() -> String {
    KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            retention_ms: Some(RETENTION_MS_DEFAULT),
            retention_bytes: None,
            max_batch_bytes: BATCH_BYTES_DEFAULT,
            timestamp_type: TimestampType::CreateTime,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            timestamp_before_max_ms: UNBOUNDED_MS,
            timestamp_after_max_ms: TIMESTAMP_AFTER_MAX_MS_DEFAULT,
            compressed_validation: true,
            full_validation: false,
            cleanup_policy: CleanupPolicy::Delete,
            dirty_ratio_permille: 500,
            compaction_lag_min_ms: 0,
            compaction_lag_max_ms: None,
            delete_retention_ms: DELETE_RETENTION_MS_DEFAULT,
            key_index: false,
            max_group_lag: None,
            max_group_lag_groups: BTreeSet::new(),
        }
    }
}

/// Names that `max.group.lag.groups` may have.
const LAG_GROUPS_MAX: usize = 64;

/// A bound of time that no time exceeds: Kafka's largest value.
pub const UNBOUNDED_MS: u64 = i64::MAX as u64;

impl TopicConfig {
    /// The effective settings, given those that are `set`.
    ///
    /// # Errors
    /// The first setting, by name, that is unknown or has a bad value.
    pub fn from_map(set: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (name, value) in set {
            let key = Self::key(name).ok_or_else(|| ConfigError::UnknownKey { key: name.clone() })?;
            config.set(key, value)?;
        }
        match config.compaction_lag_max_ms {
            Some(most) if most < config.compaction_lag_min_ms => Err(ConfigError::CompactionLag {
                least: config.compaction_lag_min_ms,
                most,
            }),
            _ => Ok(config),
        }
    }

    /// The setting of this name.
    pub fn key(name: &str) -> Option<&'static ConfigKey> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The bounds of batches under these settings.
    pub fn batch_limits(&self) -> BatchLimits {
        BatchLimits {
            max_batch_bytes: self.max_batch_bytes,
        }
    }

    fn set(&mut self, key: &'static ConfigKey, value: &str) -> Result<(), ConfigError> {
        let bad = || ConfigError::BadValue {
            key: key.name,
            value: value.to_owned(),
            allowed: key.allowed,
        };
        let within = |min: u64, max: u64| parse_within(value, min, max).ok_or_else(bad);
        match key.name {
            key::RETENTION_MS => self.retention_ms = parse_unlimited(value).ok_or_else(bad)?,
            key::RETENTION_BYTES => self.retention_bytes = parse_unlimited(value).ok_or_else(bad)?,
            key::MAX_MESSAGE_BYTES => {
                self.max_batch_bytes = within(BATCH_BYTES_MIN as u64, BATCH_BYTES_MAX as u64)? as usize;
            }
            key::TIMESTAMP_TYPE => self.timestamp_type = TimestampType::parse(value).ok_or_else(bad)?,
            key::SEGMENT_BYTES => self.segment_bytes = within(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?,
            key::TIMESTAMP_BEFORE_MAX_MS => self.timestamp_before_max_ms = within(0, UNBOUNDED_MS)?,
            key::TIMESTAMP_AFTER_MAX_MS => self.timestamp_after_max_ms = within(0, UNBOUNDED_MS)?,
            key::COMPRESSED_VALIDATION => self.compressed_validation = value.parse().map_err(|_| bad())?,
            key::FULL_VALIDATION => self.full_validation = value.parse().map_err(|_| bad())?,
            key::KEY_INDEX => self.key_index = value.parse().map_err(|_| bad())?,
            key::MAX_GROUP_LAG => {
                let most = parse_unlimited(value).filter(|most| *most != Some(0));
                self.max_group_lag = most.ok_or_else(bad)?;
            }
            key::MAX_GROUP_LAG_GROUPS => self.max_group_lag_groups = parse_names(value).ok_or_else(bad)?,
            key::CLEANUP_POLICY => self.cleanup_policy = CleanupPolicy::parse(value).ok_or_else(bad)?,
            key::DIRTY_RATIO => self.dirty_ratio_permille = parse_permille(value).ok_or_else(bad)?,
            key::COMPACTION_LAG_MIN_MS => self.compaction_lag_min_ms = within(0, UNBOUNDED_MS)?,
            key::COMPACTION_LAG_MAX_MS => {
                let most = within(1, UNBOUNDED_MS)?;
                self.compaction_lag_max_ms = (most != UNBOUNDED_MS).then_some(most);
            }
            key::DELETE_RETENTION_MS => self.delete_retention_ms = within(0, UNBOUNDED_MS)?,
            name => unreachable!("{name} is in the table of settings but not read"),
        }
        Ok(())
    }
}

fn parse_within(value: &str, min: u64, max: u64) -> Option<u64> {
    value.parse().ok().filter(|number| (min..=max).contains(number))
}

/// Parses a part of a whole, in thousandths.
fn parse_permille(value: &str) -> Option<u16> {
    let part = value.parse::<f64>().ok().filter(|part| (0.0..=1.0).contains(part))?;
    Some((part * 1_000.0).round() as u16)
}

/// Parses a bound; -1 is no limit.
fn parse_unlimited(value: &str) -> Option<Option<u64>> {
    match value.parse::<i64>().ok()? {
        -1 => Some(None),
        number => u64::try_from(number).ok().map(Some),
    }
}

/// Parses names that are separated by commas; spaces around them do not count.
fn parse_names(value: &str) -> Option<BTreeSet<Arc<str>>> {
    if value.trim().is_empty() {
        return Some(BTreeSet::new());
    }
    let names: BTreeSet<Arc<str>> = value.split(',').map(|name| name.trim().into()).collect();
    let are_good = names.len() <= LAG_GROUPS_MAX && !names.iter().any(|name| name.is_empty());
    are_good.then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Result<TopicConfig, ConfigError> {
        TopicConfig::from_map(
            &settings
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(config(&[]), Ok(TopicConfig::default()));
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented: Vec<_> = KEYS.iter().map(|key| (key.name, key.default)).collect();
        assert_eq!(config(&documented), Ok(TopicConfig::default()));
    }

    #[test]
    fn the_table_is_sorted_by_name() {
        assert!(KEYS.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn the_documented_bounds_are_the_bounds() {
        for name in [key::MAX_MESSAGE_BYTES, key::SEGMENT_BYTES] {
            let (min, max) = TopicConfig::key(name).unwrap().allowed.split_once(" to ").unwrap();
            let (below, above) = (min.parse::<u64>().unwrap() - 1, max.parse::<u64>().unwrap() + 1);
            for allowed in [min, max] {
                assert!(config(&[(name, allowed)]).is_ok(), "{name}={allowed}");
            }
            for refused in [below.to_string(), above.to_string()] {
                assert!(config(&[(name, &refused)]).is_err(), "{name}={refused}");
            }
        }
    }

    #[test]
    fn everything_can_be_set() {
        let set = config(&[
            ("retention.ms", "-1"),
            ("retention.bytes", "1000000"),
            ("max.message.bytes", "2097152"),
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.before.max.ms", "60000"),
            ("message.timestamp.after.max.ms", "9223372036854775807"),
            ("validation.compressed", "false"),
            ("segment.bytes", "1048576"),
            ("validation.full", "true"),
            ("cleanup.policy", "compact, delete"),
            ("min.cleanable.dirty.ratio", "0.25"),
            ("min.compaction.lag.ms", "1000"),
            ("max.compaction.lag.ms", "60000"),
            ("delete.retention.ms", "30000"),
            ("key.index.enable", "true"),
            ("max.group.lag.records", "100000"),
            ("max.group.lag.groups", "billing, shipping,billing"),
        ]);
        let expected = TopicConfig {
            retention_ms: None,
            retention_bytes: Some(1_000_000),
            max_batch_bytes: 2 << 20,
            timestamp_type: TimestampType::LogAppendTime,
            segment_bytes: 1 << 20,
            timestamp_before_max_ms: 60_000,
            timestamp_after_max_ms: UNBOUNDED_MS,
            compressed_validation: false,
            full_validation: true,
            cleanup_policy: CleanupPolicy::CompactAndDelete,
            dirty_ratio_permille: 250,
            compaction_lag_min_ms: 1_000,
            compaction_lag_max_ms: Some(60_000),
            delete_retention_ms: 30_000,
            key_index: true,
            max_group_lag: Some(100_000),
            max_group_lag_groups: ["billing".into(), "shipping".into()].into(),
        };
        assert_eq!(set, Ok(expected));
    }

    #[test]
    fn bad_values_are_refused_and_say_what_is_allowed() {
        let bad = [
            ("retention.ms", "-2"),
            ("retention.ms", "1d"),
            ("retention.bytes", ""),
            ("retention.bytes", "9223372036854775808"),
            ("max.message.bytes", "-1"),
            ("max.message.bytes", " 2048"),
            ("max.group.lag.records", "0"),
            ("max.group.lag.records", "-2"),
            ("max.group.lag.groups", "billing,,shipping"),
            ("max.group.lag.groups", ","),
            ("message.timestamp.type", "createtime"),
            ("segment.bytes", "1.5"),
            ("message.timestamp.after.max.ms", "-1"),
            ("message.timestamp.before.max.ms", "9223372036854775808"),
            ("validation.compressed", "no"),
            ("validation.full", "yes"),
            ("key.index.enable", "1"),
            ("cleanup.policy", ""),
            ("cleanup.policy", "archive"),
            ("cleanup.policy", "compact,archive"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("max.compaction.lag.ms", "0"),
            ("delete.retention.ms", "-1"),
        ];
        for (name, value) in bad {
            let error = config(&[(name, value)]).unwrap_err();
            let allowed = TopicConfig::key(name).unwrap().allowed;
            assert_eq!(
                error,
                ConfigError::BadValue {
                    key: TopicConfig::key(name).unwrap().name,
                    value: value.into(),
                    allowed
                }
            );
            assert!(error.to_string().contains(allowed));
            assert_eq!(error.reason(), Reason::InvalidConfig);
        }
    }

    #[test]
    fn each_policy_says_what_is_removed() {
        for (value, compacts, deletes) in [
            ("delete", false, true),
            ("compact", true, false),
            ("compact,delete", true, true),
            ("delete, compact", true, true),
        ] {
            let policy = config(&[("cleanup.policy", value)]).unwrap().cleanup_policy;
            assert_eq!((policy.compacts(), policy.deletes()), (compacts, deletes), "{value}");
        }
    }

    #[test]
    fn what_no_record_can_keep_is_refused() {
        let error = config(&[("min.compaction.lag.ms", "2"), ("max.compaction.lag.ms", "1")]).unwrap_err();
        assert_eq!(error, ConfigError::CompactionLag { least: 2, most: 1 });
        assert_eq!(error.reason(), Reason::InvalidConfig);
    }

    #[test]
    fn an_unknown_setting_is_refused_with_those_there_are() {
        let error = config(&[("retention", "1")]).unwrap_err();
        assert_eq!(
            error,
            ConfigError::UnknownKey {
                key: "retention".into()
            }
        );
        assert!(error.to_string().contains("retention.ms"));
    }
}
