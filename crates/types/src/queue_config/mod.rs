//! The settings of a queue.
//!
//! Each is declared once, below: its name, default, allowed values, and what it does. The controller keeps the given ones as
//! text; [`QueueConfig::from_map`] judges them on creation and change, and gives the brokers the effective values.

use std::collections::BTreeMap;

use crate::limits::{
    BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, BATCH_BYTES_MIN, QUEUE_ATTEMPTS_MAX, QUEUE_DEAD_MAX,
    QUEUE_DEDUP_WINDOW_MS_MAX, QUEUE_DELAY_MS_MAX, QUEUE_LANES, QUEUE_LEASE_MS_MAX, QUEUE_MIN_SHARE_MAX,
};
use crate::names::validate_topic_name;
use crate::reason::Reason;
use crate::topic_config;

/// What is counted against the limit of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptsCount {
    /// Refusals as failed, and leases that ran out.
    Failures,
    /// Deliveries, whatever became of them: the receive count of SQS.
    Deliveries,
}

/// The order of messages with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueOrder {
    /// There is none.
    None,
    /// One message of a key is out at a time, in the order in which they were sent.
    Key,
}

/// What becomes of the later messages of a key when one is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderOnDead {
    /// They go out.
    Continue,
    /// They wait until the dead one is redriven or purged.
    Block,
}

/// What becomes of a message that was not settled within its time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    /// It is dropped, as SQS does.
    Drop,
    /// It becomes a dead letter, as AMQP has it.
    Dead,
}

/// What happens when a queue has as many messages, or bytes, as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOverflow {
    /// The sender is refused.
    Reject,
    /// The oldest messages become dead letters.
    DropOldest,
}

/// How a repeated message is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedup {
    /// No repetition is recognized.
    None,
    /// By the message id that the sender gives.
    Id,
    /// By the message's key and body, where the sender gives no message id.
    Content,
}

/// The kind of queue that a setting, or a set of them, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueScope {
    /// A queue with a log of its own.
    Owned,
    /// A queue that reads the log of an ordinary topic.
    Group,
}

/// A setting, with its documentation for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfigKey {
    /// The setting's name.
    pub name: &'static str,
    /// The value in effect when none is set.
    pub default: &'static str,
    /// The values that are allowed.
    pub allowed: &'static str,
    /// What the setting does, with its unit.
    pub documentation: &'static str,
    /// The only kind of queue that may have the setting; `None`: every queue.
    pub scope: Option<QueueScope>,
}

macro_rules! settings {
    ($(
        $field:ident: $ty:ty, $name:literal $(of $scope:ident)?, default $default:literal, $allowed:literal, $read:expr, $text:literal;
    )*) => {
        /// The effective settings of a queue.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct QueueConfig {
            $(
                #[doc = concat!("`", $name, "`. ", $text)]
                pub $field: $ty,
            )*
        }

        /// Every setting, by subject.
        pub const KEYS: &[QueueConfigKey] = &[$(QueueConfigKey {
            name: $name,
            default: $default,
            allowed: $allowed,
            documentation: $text,
            scope: settings!(scope $($scope)?),
        }),*];

        impl Default for QueueConfig {
            fn default() -> Self {
                $(
                    let $field: fn(&str) -> Option<$ty> = $read;
                )*
                Self {
                    $($field: $field($default).expect("a test reads each default"),)*
                }
            }
        }

        impl QueueConfig {
            /// Sets one setting; `None`: the value is not allowed.
            fn set(&mut self, key: &'static QueueConfigKey, value: &str) -> Option<()> {
                match key.name {
                    $($name => {
                        let read: fn(&str) -> Option<$ty> = $read;
                        self.$field = read(value)?;
                    })*
                    name => unreachable!("{name} is in the table of settings but not read"),
                }
                Some(())
            }
        }
    };
    (scope $scope:ident) => {
        Some(QueueScope::$scope)
    };
    (scope) => {
        None
    };
}

settings! {
    attempts_max: Option<u16>, "queue.attempts.max", default "5", "1 to 1000, or none",
        |value| or_none(value, 1, QUEUE_ATTEMPTS_MAX.into()),
        "After how many attempts a message becomes a dead letter. none: never, it is tried again for ever.";
    attempts_count: AttemptsCount, "queue.attempts.count", default "failures", "failures or deliveries",
        |value| word(value, &[("failures", AttemptsCount::Failures), ("deliveries", AttemptsCount::Deliveries)]),
        "What an attempt is: a message that was refused as failed or whose lease ran out (failures), or every delivery, also of \
         a message that was given back (deliveries: the receive count of SQS).";
    lease_ms: u64, "queue.lease.ms", default "30000", "0 to 43200000",
        |value| within(value, 0, QUEUE_LEASE_MS_MAX),
        "How long a consumer has a message to itself, in milliseconds, when it asks for no other time. 0: anyone may have it at once.";
    retry_min_ms: u64, "queue.retry.min.ms", default "1000", "0 to 43200000",
        |value| within(value, 0, QUEUE_LEASE_MS_MAX),
        "How long a message waits after its first failure, in milliseconds, give or take a fifth.";
    retry_factor: u32, "queue.retry.factor", default "2", "1 to 100",
        |value| within(value, 1, 100),
        "By how much each further failure makes that longer.";
    retry_max_ms: u64, "queue.retry.max.ms", default "900000", "0 to 43200000",
        |value| within(value, 0, QUEUE_LEASE_MS_MAX),
        "The longest that a message waits after a failure, in milliseconds, give or take a fifth; at least queue.retry.min.ms.";
    is_paused: bool, "queue.paused", default "false", "true or false",
        |value| value.parse().ok(),
        "Whether nothing is handed out. Messages are taken, and what is out can be settled.";
    order: QueueOrder, "queue.order" of Owned, default "none", "none or key",
        |value| word(value, &[("none", QueueOrder::None), ("key", QueueOrder::Key)]),
        "Whether messages with the same key go out one at a time, in the order in which they were sent. Fixed when the queue is created.";
    order_on_dead: OrderOnDead, "queue.order.on.dead" of Owned, default "continue", "continue or block",
        |value| word(value, &[("continue", OrderOnDead::Continue), ("block", OrderOnDead::Block)]),
        "Whether the later messages of a key go on when one of them becomes a dead letter, or wait until it is redriven or purged. \
         Needs queue.order=key for block.";
    priorities: u8, "queue.priorities" of Owned, default "1", "1 to 32",
        |value| within(value, 1, QUEUE_LANES.into()),
        "The number of priorities, 0 the lowest: a message goes out before all that have a lower one. A queue with several can get \
         more later, never fewer; one that was created with 1 stays so. Not together with queue.order=key.";
    priority_min_share: u8, "queue.priority.min.share" of Owned, default "0", "0 to 50",
        |value| within(value, 0, QUEUE_MIN_SHARE_MAX.into()),
        "How many of a hundred deliveries take the oldest message of a lower priority. 0: a higher one always goes first. Needs \
         queue.priorities of 2 or more.";
    ttl_ms: Option<u64>, "queue.ttl.ms" of Owned, default "none", "1 to 315360000000, or none",
        |value| or_none(value, 1, QUEUE_DELAY_MS_MAX),
        "How long a message that names no time to live has to be settled, in milliseconds since it was sent. none: for ever.";
    expired: OnExpiry, "queue.expired" of Owned, default "drop", "drop or dead",
        |value| word(value, &[("drop", OnExpiry::Drop), ("dead", OnExpiry::Dead)]),
        "Whether a message whose time to live is over is dropped, or becomes a dead letter.";
    delay_ms: u64, "queue.delay.ms" of Owned, default "0", "0 to 315360000000",
        |value| within(value, 0, QUEUE_DELAY_MS_MAX),
        "How long a message that names no delay waits before it goes out for the first time, in milliseconds; less than queue.ttl.ms.";
    messages_max: Option<u64>, "queue.max.messages" of Owned, default "none", "1 and more, or none",
        |value| or_none(value, 1, u64::MAX),
        "How many messages the queue may have, dead letters not counted. Each of its partitions has an equal part of it. none: any number.";
    bytes_max: Option<u64>, "queue.max.bytes" of Owned, default "none", "1 and more, or none",
        |value| or_none(value, 1, u64::MAX),
        "How many bytes the queue's messages may have, dead letters not counted. Each of its partitions has an equal part of it. none: \
         any number.";
    overflow: OnOverflow, "queue.overflow" of Owned, default "reject", "reject or drop_oldest",
        |value| word(value, &[("reject", OnOverflow::Reject), ("drop_oldest", OnOverflow::DropOldest)]),
        "Whether the sender to a full queue is refused, or the oldest messages become dead letters.";
    message_bytes_max: usize, "queue.message.max.bytes" of Owned, default "1048576", "1024 to 8388608",
        |value| within(value, BATCH_BYTES_MIN as u64, BATCH_BYTES_MAX as u64),
        "The largest batch of messages that is sent at once, in bytes, its header of 61 bytes included; so no message may be larger.";
    dedup: Dedup, "queue.dedup" of Owned, default "none", "none, id or content",
        |value| word(value, &[("none", Dedup::None), ("id", Dedup::Id), ("content", Dedup::Content)]),
        "Whether a message that was sent before is recognized: by the id that its sender gives, or else by its content.";
    dedup_window_ms: u64, "queue.dedup.window.ms" of Owned, default "300000", "1000 to 86400000",
        |value| within(value, 1_000, QUEUE_DEDUP_WINDOW_MS_MAX),
        "How long a message is remembered for that, in milliseconds.";
    dead_max: u64, "queue.dead.max", default "100000", "0 to 1000000",
        |value| within(value, 0, QUEUE_DEAD_MAX),
        "How many dead letters each partition of the queue keeps; the oldest beyond that are deleted.";
    dead_ttl_ms: Option<u64>, "queue.dead.ttl.ms", default "1209600000", "1 to 315360000000, or none",
        |value| or_none(value, 1, QUEUE_DELAY_MS_MAX),
        "How long a dead letter is kept, in milliseconds since it became one. none: for ever.";
    dead_letter_topic: Option<String>, "queue.dead.letter.topic", default "", "the name of a topic or queue, or empty",
        |value| match value {
            "" => Some(None),
            name => validate_topic_name(name).ok().map(|()| Some(name.to_owned())),
        },
        "The topic, or owned queue, to which dead letters are moved. Empty: they stay in the queue.";
    expires_ms: Option<u64>, "queue.expires.ms", default "none", "1000 to 315360000000, or none",
        |value| or_none(value, 1_000, QUEUE_DELAY_MS_MAX),
        "After how long without a consumer or sender the queue is deleted, with what it has, in milliseconds. none: never.";
    hold_bytes: u64, "queue.hold.bytes" of Group, default "0", "0 and more",
        |value| within(value, 0, u64::MAX),
        "How many bytes at the end of each partition the queue keeps from the topic's retention for as long as it has not settled them.";
}

/// The names of settings that have rules beyond their values.
pub mod key {
    /// See [`QueueConfig::is_paused`](super::QueueConfig::is_paused).
    pub const PAUSED: &str = "queue.paused";
    /// See [`QueueConfig::order`](super::QueueConfig::order).
    pub const ORDER: &str = "queue.order";
    /// See [`QueueConfig::priorities`](super::QueueConfig::priorities).
    pub const PRIORITIES: &str = "queue.priorities";
    /// See [`QueueConfig::dead_letter_topic`](super::QueueConfig::dead_letter_topic).
    pub const DEAD_LETTER_TOPIC: &str = "queue.dead.letter.topic";
}

/// The reason why settings of a queue are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueConfigError {
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
    /// The setting is for queues of the other kind.
    #[error("{key} is only for {}", match scope {
        QueueScope::Owned => "queues with a log of their own: this one reads a topic",
        QueueScope::Group => "queues that read a topic: this one has a log of its own",
    })]
    OtherKind {
        /// The setting's name.
        key: &'static str,
        /// The kind that may have it.
        scope: QueueScope,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl QueueConfigError {
    /// The error's reason in the public API.
    pub const fn reason(&self) -> Reason {
        Reason::InvalidConfig
    }
}

fn names() -> String {
    KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

impl QueueConfig {
    /// The effective settings of a queue of this kind, given those that are `set`.
    ///
    /// # Errors
    /// The first setting, by name, that is unknown, has a bad value, or is for the other kind; else the first contradiction.
    pub fn from_map(set: &BTreeMap<String, String>, scope: QueueScope) -> Result<Self, QueueConfigError> {
        let mut config = Self::default();
        for (name, value) in set {
            let key = Self::key(name).ok_or_else(|| QueueConfigError::UnknownKey { key: name.clone() })?;
            config.set(key, value).ok_or_else(|| QueueConfigError::BadValue {
                key: key.name,
                value: value.clone(),
                allowed: key.allowed,
            })?;
            if let Some(only) = key.scope.filter(|only| *only != scope) {
                return Err(QueueConfigError::OtherKind {
                    key: key.name,
                    scope: only,
                });
            }
        }
        config.check()?;
        Ok(config)
    }

    /// The setting of this name.
    pub fn key(name: &str) -> Option<&'static QueueConfigKey> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The settings of the topic that an owned queue has for itself. Its log is cut as its messages are done, and by nothing else.
    pub fn topic_settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::from([(topic_config::key::RETENTION_MS.to_owned(), "-1".to_owned())]);
        if self.message_bytes_max != BATCH_BYTES_DEFAULT {
            let bytes = self.message_bytes_max.to_string();
            settings.insert(topic_config::key::MAX_MESSAGE_BYTES.to_owned(), bytes);
        }
        settings
    }

    fn check(&self) -> Result<(), QueueConfigError> {
        let is_keyed = self.order == QueueOrder::Key;
        let has_bound = self.messages_max.is_some() || self.bytes_max.is_some();
        let contradictions = [
            (
                self.retry_max_ms < self.retry_min_ms,
                "queue.retry.max.ms is below queue.retry.min.ms",
            ),
            (
                self.order_on_dead == OrderOnDead::Block && !is_keyed,
                "queue.order.on.dead=block needs queue.order=key",
            ),
            (
                is_keyed && self.priorities > 1,
                "queue.order=key and queue.priorities above 1 contradict each other: a higher priority would overtake the messages \
                 of its key",
            ),
            (
                self.priority_min_share > 0 && self.priorities == 1,
                "queue.priority.min.share needs queue.priorities of 2 or more",
            ),
            (
                self.ttl_ms.is_some_and(|ttl_ms| ttl_ms <= self.delay_ms),
                "queue.ttl.ms is not above queue.delay.ms: no message would ever go out",
            ),
            (
                self.overflow == OnOverflow::DropOldest && !has_bound,
                "queue.overflow=drop_oldest needs queue.max.messages or queue.max.bytes",
            ),
        ];
        match contradictions.into_iter().find(|(is_so, _)| *is_so) {
            Some((_, what)) => Err(QueueConfigError::Contradiction(what)),
            None => Ok(()),
        }
    }
}

fn within<T: TryFrom<u64>>(value: &str, min: u64, max: u64) -> Option<T> {
    let number: u64 = value.parse().ok()?;
    T::try_from(number).ok().filter(|_| (min..=max).contains(&number))
}

/// Reads a bound; `none` is no bound.
fn or_none<T: TryFrom<u64>>(value: &str, min: u64, max: u64) -> Option<Option<T>> {
    match value {
        "none" => Some(None),
        number => within(number, min, max).map(Some),
    }
}

fn word<T: Copy>(value: &str, words: &[(&str, T)]) -> Option<T> {
    words
        .iter()
        .find(|(word, _)| *word == value)
        .map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests;
