//! The rules that both the leader (advisory, before a command is proposed) and apply (which decides) judge by. One
//! text for each error: what, where, and what to do.

use std::sync::Arc;

use jangada_types::{Reason, Rejection, validate_topic_name};

use crate::command::OffsetCommit;
use crate::image::{Epoch, Group, Image, Member, MemberSpec, SubscribedTopic};
use crate::limits::{
    CLIENT_TEXT_BYTES_MAX, COMMIT_METADATA_BYTES_MAX, GROUPS_MAX, INSTANCE_ID_BYTES_MAX, MEMBER_ID_BYTES_MAX,
    MEMBERS_PER_GROUP_MAX, OFFSET_METADATA_BYTES_MAX, OFFSETS_PER_COMMIT_MAX, OFFSETS_PER_GROUP_MAX, PATTERN_BYTES_MAX,
    REBALANCE_TIMEOUT_MS_MAX, REBALANCE_TIMEOUT_MS_MIN, SESSION_TIMEOUT_MS_MAX, SESSION_TIMEOUT_MS_MIN,
    SHARD_BYTES_MAX, TOPICS_PER_SUBSCRIPTION_MAX,
};
use crate::partitions::PartitionSet;
use crate::size;

fn invalid(what: String) -> Rejection {
    Rejection::new(Reason::InvalidRequest, what)
}

/// As topic names.
pub(crate) fn group_name(name: &str) -> Result<(), Rejection> {
    validate_topic_name(name).map_err(|error| {
        Rejection::new(
            Reason::InvalidGroupName,
            format!("group name {name:?}: the rules are those of topic names, and {error}"),
        )
    })
}

pub(crate) fn member_id(id: &str) -> Result<(), Rejection> {
    if id.is_empty() || id.len() > MEMBER_ID_BYTES_MAX || !id.chars().all(|c| c.is_ascii_graphic()) {
        return Err(invalid(format!(
            "member id {id:?}: give 1 to {MEMBER_ID_BYTES_MAX} visible characters of ASCII, such as a UUID"
        )));
    }
    Ok(())
}

pub(crate) fn spec(spec: &MemberSpec) -> Result<(), Rejection> {
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

pub(crate) fn room_for_group(image: &Image) -> Result<(), Rejection> {
    if image.groups.len() >= GROUPS_MAX {
        return Err(Rejection::new(
            Reason::TooManyGroups,
            format!("this coordinator has {GROUPS_MAX} groups: delete groups that are no longer used"),
        )
        .with("limit", GROUPS_MAX));
    }
    Ok(())
}

/// Whether the state may have `after` bytes instead of `before`. What does not make it larger always may.
pub(crate) fn room_for_bytes(image: &Image, before: u64, after: u64) -> Result<(), Rejection> {
    let bytes = image.bytes().saturating_sub(before).saturating_add(after);
    if after > before && bytes > SHARD_BYTES_MAX {
        return Err(Rejection::new(
            Reason::TooManyGroups,
            format!(
                "this coordinator's groups would take {bytes} bytes: delete groups or offsets that are no longer used"
            ),
        )
        .with("limit", SHARD_BYTES_MAX)
        .with("actual", bytes));
    }
    Ok(())
}

/// Without it the group goes on with the target that it has.
pub(crate) fn room_for_targets(
    image: &Image,
    group: &Group,
    topics: &[SubscribedTopic],
    targets: &[(Arc<str>, PartitionSet)],
) -> Result<(), Rejection> {
    let old = group.members.values().map(|member| size::target(&member.target));
    let new = targets.iter().map(|(_, target)| size::target(target));
    let before = size::topics(&group.topics) + old.sum::<u64>();
    room_for_bytes(image, before, size::topics(topics) + new.sum::<u64>())
}

pub(crate) fn room_for_member(name: &str, group: &Group) -> Result<(), Rejection> {
    if group.members.len() >= MEMBERS_PER_GROUP_MAX {
        return Err(Rejection::new(
            Reason::GroupFull,
            format!("group {name:?} has {MEMBERS_PER_GROUP_MAX} members: use a second group, or fewer members"),
        )
        .with("limit", MEMBERS_PER_GROUP_MAX));
    }
    Ok(())
}

pub(crate) fn group<'a>(image: &'a Image, name: &str) -> Result<&'a Group, Rejection> {
    image.group(name).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownGroup,
            format!("there is no group {name:?}: list the groups to see what exists"),
        )
    })
}

pub(crate) fn unknown_member(name: &str, id: &str) -> Rejection {
    Rejection::new(
        Reason::UnknownMember,
        format!(
            "group {name:?} has no member {id:?}: it left, or was silent for too long; stop handing out records and join again"
        ),
    )
}

pub(crate) fn member<'a>(image: &'a Image, name: &str, id: &str) -> Result<(&'a Group, &'a Member), Rejection> {
    let group = image.group(name).ok_or_else(|| unknown_member(name, id))?;
    let member = group.members.get(id).ok_or_else(|| unknown_member(name, id))?;
    Ok((group, member))
}

pub(crate) fn fenced(name: &str, id: &str, actual: i64, expected: Epoch) -> Rejection {
    Rejection::new(
        Reason::FencedMemberEpoch,
        format!(
            "member {id:?} of group {name:?} came with epoch {actual}, it has {expected}: stop handing out records and join again"
        ),
    )
    .with("expected", expected)
    .with("actual", actual)
}

/// The instance id belongs to a member that lives.
pub(crate) fn unreleased(name: &str, instance: &str, holder: &str) -> Rejection {
    Rejection::new(
        Reason::UnreleasedInstanceId,
        format!(
            "instance id {instance:?} of group {name:?} belongs to member {holder:?}, which is alive: give each process an instance id of \
             its own, or try again when that one has stopped"
        ),
    )
}

/// What a command was decided from is no longer so.
pub(crate) fn changed(name: &str) -> Rejection {
    Rejection::new(
        Reason::GroupChanged,
        format!("group {name:?} changed while the request was under way: send it again"),
    )
}

pub(crate) fn no_members(name: &str, group: &Group) -> Result<(), Rejection> {
    if group.members.is_empty() {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::GroupNotEmpty,
        format!(
            "group {name:?} has {} members: stop them first, or wait until their sessions end",
            group.members.len()
        ),
    )
    .with("actual", group.members.len()))
}

/// What a commit is made of, whoever sends it.
pub(crate) fn offsets(offsets: &[OffsetCommit]) -> Result<(), Rejection> {
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

/// Who may commit what: a member at its epoch what it holds, and somebody from outside while there are no members.
pub(crate) fn may_commit(
    image: &Image,
    name: &str,
    member: Option<(&str, i64)>,
    commits: &[OffsetCommit],
) -> Result<(), Rejection> {
    let Some((id, epoch)) = member else {
        return match image.group(name) {
            Some(group) => {
                no_members(name, group)?;
                room_for_offsets(image, name, Some(group), commits)
            }
            None => {
                room_for_group(image)?;
                room_for_offsets(image, name, None, commits)
            }
        };
    };
    let (group, member) = self::member(image, name, id)?;
    if epoch != i64::from(member.epoch.get()) || member.is_away {
        return Err(Rejection::new(
            Reason::StaleMemberEpoch,
            format!(
                "member {id:?} of group {name:?} committed at epoch {epoch}, it has {}: heartbeat, and commit at the epoch in the answer",
                member.epoch
            ),
        )
        .with("expected", member.epoch)
        .with("actual", epoch));
    }
    if let Some(commit) = commits.iter().find(|commit| !member.holds(commit.partition)) {
        return Err(Rejection::new(
            Reason::PartitionNotOwned,
            format!(
                "member {id:?} of group {name:?} committed for partition {} and does not own it: commit only what is assigned",
                commit.partition
            ),
        )
        .with("partition", commit.partition));
    }
    room_for_offsets(image, name, Some(group), commits)
}

fn room_for_offsets(
    image: &Image,
    name: &str,
    group: Option<&Group>,
    commits: &[OffsetCommit],
) -> Result<(), Rejection> {
    let (mut count, mut before) = group.map_or((0, 0), |group| (group.offsets.len(), 0));
    let mut after = group.map_or(size::GROUP_BYTES, |_| 0);
    for commit in commits {
        match group.and_then(|group| group.offsets.get(&commit.partition)) {
            Some(old) => before += size::offset(old),
            None => count += 1,
        }
        after += size::offset_with(&commit.metadata);
    }
    room_for_bytes(image, before, after)?;
    if count > OFFSETS_PER_GROUP_MAX {
        return Err(invalid(format!(
            "group {name:?} would have offsets for more than {OFFSETS_PER_GROUP_MAX} partitions: delete those that are not used"
        ))
        .with("limit", OFFSETS_PER_GROUP_MAX));
    }
    Ok(())
}
