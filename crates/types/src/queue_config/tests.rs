//! What settings of queues are taken, what is refused, and that the documentation says so.

use super::*;
use crate::topic_config::TopicConfig;

fn judged(scope: QueueScope, settings: &[(&str, &str)]) -> Result<QueueConfig, QueueConfigError> {
    let set = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    QueueConfig::from_map(&set.collect(), scope)
}

fn owned(settings: &[(&str, &str)]) -> Result<QueueConfig, QueueConfigError> {
    judged(QueueScope::Owned, settings)
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    assert_eq!(owned(&[]), Ok(QueueConfig::default()));
    for scope in [QueueScope::Owned, QueueScope::Group] {
        let keys = KEYS.iter().filter(|key| key.scope.is_none_or(|only| only == scope));
        let documented: Vec<_> = keys.map(|key| (key.name, key.default)).collect();
        assert_eq!(judged(scope, &documented), Ok(QueueConfig::default()));
    }
}

#[test]
fn a_name_is_declared_once_and_the_named_keys_are_there() {
    let names: std::collections::BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len());
    for name in [key::PAUSED, key::ORDER, key::PRIORITIES, key::DEAD_LETTER_TOPIC] {
        assert!(names.contains(name), "{name}");
    }
}

/// Reads the bounds from the documentation, and tries them and their neighbours.
#[test]
fn the_documented_bounds_are_the_bounds() {
    for key in KEYS {
        let scope = key.scope.unwrap_or(QueueScope::Owned);
        // Beside settings that a bound would contradict.
        let one = |value: &str| match key.name {
            "queue.retry.min.ms" => judged(scope, &[(key.name, value), ("queue.retry.max.ms", "43200000")]),
            "queue.retry.max.ms" => judged(scope, &[(key.name, value), ("queue.retry.min.ms", "0")]),
            "queue.priority.min.share" => judged(scope, &[(key.name, value), ("queue.priorities", "2")]),
            _ => judged(scope, &[(key.name, value)]),
        };
        let range = key.allowed.trim_end_matches(", or none");
        let Some((min, max)) = range.split_once(" to ") else {
            continue;
        };
        for allowed in [min, max] {
            assert!(one(allowed).is_ok(), "{}={allowed}", key.name);
        }
        let above = (max.parse::<u64>().unwrap() + 1).to_string();
        let below = min
            .parse::<u64>()
            .unwrap()
            .checked_sub(1)
            .map(|below| below.to_string());
        for refused in below.iter().chain([&above]) {
            assert!(one(refused).is_err(), "{}={refused}", key.name);
        }
        assert_eq!(
            one("none").is_ok(),
            key.allowed.ends_with("or none"),
            "{}=none",
            key.name
        );
    }
}

#[test]
fn everything_can_be_set() {
    let set = owned(&[
        ("queue.attempts.max", "none"),
        ("queue.attempts.count", "deliveries"),
        ("queue.lease.ms", "0"),
        ("queue.retry.min.ms", "10"),
        ("queue.retry.factor", "3"),
        ("queue.retry.max.ms", "20"),
        ("queue.paused", "true"),
        ("queue.order", "key"),
        ("queue.order.on.dead", "block"),
        ("queue.ttl.ms", "100"),
        ("queue.expired", "dead"),
        ("queue.delay.ms", "99"),
        ("queue.max.messages", "7"),
        ("queue.max.bytes", "8"),
        ("queue.overflow", "drop_oldest"),
        ("queue.message.max.bytes", "2048"),
        ("queue.dedup", "content"),
        ("queue.dedup.window.ms", "2000"),
        ("queue.dead.max", "0"),
        ("queue.dead.ttl.ms", "none"),
        ("queue.dead.letter.topic", "dead"),
        ("queue.expires.ms", "60000"),
    ]);
    let expected = QueueConfig {
        attempts_max: None,
        attempts_count: AttemptsCount::Deliveries,
        lease_ms: 0,
        retry_min_ms: 10,
        retry_factor: 3,
        retry_max_ms: 20,
        is_paused: true,
        order: QueueOrder::Key,
        order_on_dead: OrderOnDead::Block,
        ttl_ms: Some(100),
        expired: OnExpiry::Dead,
        delay_ms: 99,
        messages_max: Some(7),
        bytes_max: Some(8),
        overflow: OnOverflow::DropOldest,
        message_bytes_max: 2048,
        dedup: Dedup::Content,
        dedup_window_ms: 2_000,
        dead_max: 0,
        dead_ttl_ms: None,
        dead_letter_topic: Some("dead".to_owned()),
        expires_ms: Some(60_000),
        ..QueueConfig::default()
    };
    assert_eq!(set, Ok(expected));
    let lanes = owned(&[("queue.priorities", "32"), ("queue.priority.min.share", "50")]).unwrap();
    assert_eq!((lanes.priorities, lanes.priority_min_share), (32, 50));
    let group = judged(QueueScope::Group, &[("queue.hold.bytes", "5")]).unwrap();
    assert_eq!(group.hold_bytes, 5);
}

#[test]
fn bad_values_are_refused_and_say_what_is_allowed() {
    let bad = [
        ("queue.attempts.max", "0"),
        ("queue.attempts.max", "None"),
        ("queue.attempts.count", "receives"),
        ("queue.lease.ms", "30s"),
        ("queue.retry.factor", "1.5"),
        ("queue.paused", "1"),
        ("queue.order", "Key"),
        ("queue.ttl.ms", "0"),
        ("queue.delay.ms", "-1"),
        ("queue.max.messages", "0"),
        ("queue.max.bytes", ""),
        ("queue.overflow", "drop"),
        ("queue.dedup", "hash"),
        ("queue.dead.letter.topic", "a/b"),
        ("queue.dead.letter.topic", "__groups"),
    ];
    for (name, value) in bad {
        let key = QueueConfig::key(name).unwrap();
        let error = owned(&[(name, value)]).unwrap_err();
        let expected = QueueConfigError::BadValue {
            key: key.name,
            value: value.into(),
            allowed: key.allowed,
        };
        assert_eq!(error, expected);
        assert!(error.to_string().contains(key.allowed));
        assert_eq!(error.reason(), Reason::InvalidConfig);
    }
}

#[test]
fn contradictions_are_refused() {
    for (settings, named) in [
        (&[("queue.retry.min.ms", "900001")][..], "queue.retry.max.ms"),
        (&[("queue.order.on.dead", "block")], "queue.order=key"),
        (&[("queue.order", "key"), ("queue.priorities", "2")], "overtake"),
        (&[("queue.priority.min.share", "1")], "queue.priorities"),
        (&[("queue.ttl.ms", "5"), ("queue.delay.ms", "5")], "queue.delay.ms"),
        (&[("queue.overflow", "drop_oldest")], "queue.max.messages"),
    ] {
        let error = owned(settings).unwrap_err();
        assert!(matches!(error, QueueConfigError::Contradiction(_)), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn a_setting_of_the_other_kind_is_refused() {
    let error = judged(QueueScope::Group, &[("queue.delay.ms", "5")]).unwrap_err();
    assert!(error.to_string().contains("queue.delay.ms is only for"), "{error}");
    let error = owned(&[("queue.hold.bytes", "5")]).unwrap_err();
    assert!(error.to_string().contains("queue.hold.bytes is only for"), "{error}");
}

#[test]
fn an_unknown_setting_is_refused_with_those_there_are() {
    let error = owned(&[("queue.lease", "1")]).unwrap_err();
    let key = "queue.lease".to_owned();
    assert_eq!(error, QueueConfigError::UnknownKey { key });
    assert!(error.to_string().contains("queue.lease.ms"), "{error}");
}

#[test]
fn the_documentation_has_every_setting() {
    let text = include_str!("../../../../docs/queues.md");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `queue.")).collect();
    let expected = KEYS.iter().map(|key| {
        let queues = match key.scope {
            None => "all",
            Some(QueueScope::Owned) => "owned",
            Some(QueueScope::Group) => "group",
        };
        let default = match key.default {
            "" => "empty".to_owned(),
            default => format!("`{default}`"),
        };
        let (name, allowed, text) = (key.name, key.allowed, key.documentation);
        format!("| `{name}` | {queues} | {default} | {allowed} | {text} |")
    });
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

#[test]
fn the_log_of_an_owned_queue_is_not_cut_by_age_or_size() {
    for (bytes, expected) in [("1048576", BATCH_BYTES_DEFAULT), ("8388608", BATCH_BYTES_MAX)] {
        let config = owned(&[("queue.message.max.bytes", bytes)]).unwrap();
        let topic = TopicConfig::from_map(&config.topic_settings()).unwrap();
        assert_eq!((topic.retention_ms, topic.retention_bytes), (None, None));
        assert_eq!(topic.max_batch_bytes, expected);
    }
}
