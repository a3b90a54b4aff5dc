//! The bounds of requests, whatever the state. The leader judges them once: neither the request nor the answer changes
//! until its command is applied, so replicas take it as it is, and a later build may have other limits.

use jangada_types::{Reason, Rejection, validate_topic_name};

use crate::image::MemberSpec;
use crate::limits::{
    CLIENT_TEXT_BYTES_MAX, COMMIT_METADATA_BYTES_MAX, INSTANCE_ID_BYTES_MAX, MEMBER_ID_BYTES_MAX,
    OFFSET_METADATA_BYTES_MAX, OFFSETS_PER_COMMIT_MAX, PATTERN_BYTES_MAX, REBALANCE_TIMEOUT_MS_MAX,
    REBALANCE_TIMEOUT_MS_MIN, SESSION_TIMEOUT_MS_MAX, SESSION_TIMEOUT_MS_MIN, TOPICS_PER_SUBSCRIPTION_MAX,
};
use crate::offset_commit::OffsetCommit;

fn invalid(what: String) -> Rejection {
    Rejection::new(Reason::InvalidRequest, what)
}

/// Judges a group's name by the rule of topic names.
pub(super) fn group_name(name: &str) -> Result<(), Rejection> {
    validate_topic_name(name).map_err(|error| {
        Rejection::new(
            Reason::InvalidGroupName,
            format!("group name {name:?}: the rules are those of topic names, and {error}"),
        )
    })
}

pub(super) fn member_id(id: &str) -> Result<(), Rejection> {
    if id.is_empty() || id.len() > MEMBER_ID_BYTES_MAX || !id.chars().all(|c| c.is_ascii_graphic()) {
        return Err(invalid(format!(
            "member id {id:?}: give 1 to {MEMBER_ID_BYTES_MAX} visible characters of ASCII, such as a UUID"
        )));
    }
    Ok(())
}

pub(super) fn spec(spec: &MemberSpec) -> Result<(), Rejection> {
    if let Some(id) = spec.instance_id.as_deref()
        && (id.is_empty() || id.len() > INSTANCE_ID_BYTES_MAX || !id.chars().all(|c| c.is_ascii_graphic()))
    {
        return Err(invalid(format!(
            "instance id {id:?}: give 1 to {INSTANCE_ID_BYTES_MAX} visible characters of ASCII"
        )));
    }
    for (what, text) in [
        ("client id", &spec.client_id),
        ("client host", &spec.client_host),
        ("rack", &spec.rack),
    ] {
        if text.len() > CLIENT_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(invalid(format!(
                "{what} {text:?}: give at most {CLIENT_TEXT_BYTES_MAX} bytes without control characters"
            )));
        }
    }
    for (what, value, min, max) in [
        (
            "session time-out",
            spec.session_timeout_ms,
            SESSION_TIMEOUT_MS_MIN,
            SESSION_TIMEOUT_MS_MAX,
        ),
        (
            "rebalance time-out",
            spec.rebalance_timeout_ms,
            REBALANCE_TIMEOUT_MS_MIN,
            REBALANCE_TIMEOUT_MS_MAX,
        ),
    ] {
        if !(min..=max).contains(&value) {
            let rejection = invalid(format!("a {what} of {value} ms: give {min} to {max} ms"));
            return Err(rejection
                .with("limit", if value < min { min } else { max })
                .with("actual", value));
        }
    }
    let subscription = &spec.subscription;
    if subscription.topics.is_empty() && subscription.pattern.is_none() {
        return Err(Rejection::new(
            Reason::EmptySubscription,
            "a member subscribes to nothing: give topic names, a pattern, or both",
        ));
    }
    if subscription.topics.len() > TOPICS_PER_SUBSCRIPTION_MAX {
        return Err(invalid(format!(
            "a subscription has {} topic names: give at most {TOPICS_PER_SUBSCRIPTION_MAX}, or a pattern",
            subscription.topics.len()
        ))
        .with("limit", TOPICS_PER_SUBSCRIPTION_MAX)
        .with("actual", subscription.topics.len()));
    }
    if !subscription.topics.is_sorted_by(|a, b| a < b) {
        return Err(invalid(
            "the topic names of a subscription are not ascending".to_owned(),
        ));
    }
    for name in &subscription.topics {
        validate_topic_name(name)
            .map_err(|error| Rejection::new(error.reason(), format!("subscription to {name:?}: {error}")))?;
    }
    if let Some(pattern) = &subscription.pattern
        && (pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX)
    {
        return Err(Rejection::new(
            Reason::InvalidPattern,
            format!("a pattern has {} bytes: give 1 to {PATTERN_BYTES_MAX}", pattern.len()),
        )
        .with("limit", PATTERN_BYTES_MAX)
        .with("actual", pattern.len()));
    }
    Ok(())
}

/// Judges the offsets of a commit, by a member or from outside.
pub(super) fn offsets(offsets: &[OffsetCommit]) -> Result<(), Rejection> {
    if offsets.is_empty() || offsets.len() > OFFSETS_PER_COMMIT_MAX {
        let actual = offsets.len();
        return Err(invalid(format!(
            "a commit of {actual} partitions: give 1 to {OFFSETS_PER_COMMIT_MAX}"
        ))
        .with("limit", OFFSETS_PER_COMMIT_MAX)
        .with("actual", actual));
    }
    let too_large = |what: String, limit: usize, actual: usize| {
        let rejection = Rejection::new(Reason::OffsetMetadataTooLarge, what);
        rejection.with("limit", limit).with("actual", actual)
    };
    let mut sum = 0;
    for commit in offsets {
        if commit.offset.get() < 0 {
            let what = format!(
                "partition {} was committed at offset {}",
                commit.partition, commit.offset
            );
            return Err(invalid(format!("{what}: offsets begin at 0")).with("actual", commit.offset));
        }
        let bytes = commit.metadata.len();
        if bytes > OFFSET_METADATA_BYTES_MAX {
            let what = format!(
                "partition {} was committed with metadata of {bytes} bytes: give at most {OFFSET_METADATA_BYTES_MAX}",
                commit.partition
            );
            return Err(too_large(what, OFFSET_METADATA_BYTES_MAX, bytes));
        }
        sum += bytes;
    }
    if sum > COMMIT_METADATA_BYTES_MAX {
        let what =
            format!("a commit has metadata of {sum} bytes: give at most {COMMIT_METADATA_BYTES_MAX}, or split it");
        return Err(too_large(what, COMMIT_METADATA_BYTES_MAX, sum));
    }
    let mut partitions: Vec<_> = offsets.iter().map(|commit| commit.partition).collect();
    partitions.sort_unstable();
    if let Some(twice) = partitions.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(format!("partition {} is twice in a commit", twice[0])));
    }
    Ok(())
}
