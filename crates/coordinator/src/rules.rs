//! The rules that both the leader (advisory, before a command is proposed) and apply (which decides) judge by: those
//! that depend on the state, and so on the order of the log. One text for each error: what, where, and what to do.
//!
//! The bounds of requests, whatever the state, are judged by the leader alone, in `leader::request_rules`.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_types::planted::{self, Bug};
use jangada_types::{ProducerEpoch, ProducerId, Reason, Rejection};

use crate::image::{Epoch, Group, Image, Member, SubscribedTopic};
use crate::limits::{
    GROUPS_MAX, MEMBERS_BYTES_MAX, MEMBERS_PER_GROUP_MAX, OFFSETS_BYTES_MAX, OFFSETS_PER_GROUP_MAX, TARGETS_BYTES_MAX,
};
use crate::offset_commit::OffsetCommit;
use crate::partitions::{PartitionSet, TopicPartition};
use crate::size;
use crate::transaction::{PendingOffsets, TransactionRef};

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

/// Judges whether `after` bytes may replace `before`, where `used` are taken. A change that adds no bytes is always
/// accepted.
fn room(what: &str, used: u64, before: u64, after: u64, limit: u64) -> Result<(), Rejection> {
    let bytes = used.saturating_sub(before).saturating_add(after);
    if after > before && bytes > limit {
        return Err(Rejection::new(
            Reason::TooManyGroups,
            format!("{what} of this coordinator's groups would take {bytes} bytes, of {limit}: delete what is no longer used"),
        )
        .with("limit", limit)
        .with("actual", bytes));
    }
    Ok(())
}

/// Judges the room for a member's description of itself.
pub(crate) fn room_for_member_bytes(image: &Image, before: u64, after: u64) -> Result<(), Rejection> {
    room("the members", image.bytes.members, before, after, MEMBERS_BYTES_MAX)
}

/// Judges the room for targets. Without it the group keeps its old target, and partitions of members that are gone are
/// not read.
pub(crate) fn room_for_targets(
    image: &Image,
    group: &Group,
    topics: &[SubscribedTopic],
    targets: &[(Arc<str>, PartitionSet)],
) -> Result<(), Rejection> {
    let old = group.members.values().map(|member| size::target(&member.target));
    let new = targets.iter().map(|(_, target)| size::target(target));
    let before = size::topics(&group.topics) + old.sum::<u64>();
    let after = size::topics(topics) + new.sum::<u64>();
    room("the targets", image.bytes.targets, before, after, TARGETS_BYTES_MAX)
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

/// The rejection when the instance id belongs to a member that lives.
pub(crate) fn unreleased(name: &str, instance: &str, holder: &str) -> Rejection {
    Rejection::new(
        Reason::UnreleasedInstanceId,
        format!(
            "instance id {instance:?} of group {name:?} belongs to member {holder:?}, which is alive: give each process an instance id of \
             its own, or try again when that one has stopped"
        ),
    )
}

/// The rejection when the state that a command was decided from has changed.
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

/// Checks that the group, or offsets of it, may be deleted: nobody reads it, and no open transaction is to commit offsets.
pub(crate) fn may_delete(name: &str, group: &Group) -> Result<(), Rejection> {
    no_members(name, group)?;
    match group.pending.first_key_value() {
        Some((producer, pending)) => Err(unstable(name, *producer, pending)),
        None => Ok(()),
    }
}

fn unstable(name: &str, producer: ProducerId, pending: &PendingOffsets) -> Rejection {
    Rejection::new(
        Reason::UnstableOffsets,
        format!(
            "group {name:?} has offsets of an open transaction of producer {producer} at epoch {}: try again when it has ended, or \
             abort it",
            pending.epoch
        ),
    )
}

/// Checks that no open transaction has offsets of these partitions, for a reader that must not go on before what the transaction
/// may yet commit (KIP-447); without partitions that it has none at all.
///
/// # Errors
/// `UNSTABLE_OFFSETS`, which passes when the transaction ends.
pub fn require_stable(name: &str, group: &Group, partitions: &[TopicPartition]) -> Result<(), Rejection> {
    let is_meant = |pending: &PendingOffsets| {
        partitions.is_empty()
            || partitions
                .iter()
                .any(|partition| pending.offsets.contains_key(partition))
    };
    match group.pending.iter().find(|(_, pending)| is_meant(pending)) {
        Some((producer, pending)) => Err(unstable(name, *producer, pending)),
        None => Ok(()),
    }
}

/// Checks that a caller may commit: a member, at its epoch, the partitions that it holds; another caller only while the group has
/// no members.
pub(crate) fn may_commit(
    image: &Image,
    name: &str,
    member: Option<(&str, i64)>,
    commits: &[OffsetCommit],
) -> Result<(), Rejection> {
    let group = committer(image, name, member, commits)?;
    room_for_offsets(image, name, group, commits)
}

/// Checks that a caller may stage offsets for a transaction: who may commit, if the transaction is the producer's current one.
pub(crate) fn may_stage(
    image: &Image,
    name: &str,
    member: Option<(&str, i64)>,
    transaction: TransactionRef,
    commits: &[OffsetCommit],
) -> Result<(), Rejection> {
    let group = committer(image, name, member, commits)?;
    let pending = group.and_then(|group| group.pending.get(&transaction.producer_id));
    is_current(image, pending, transaction)?;
    room_for_staged(image, name, group, pending, commits)
}

/// Checks the transaction of a staging against what is known of its producer.
fn is_current(image: &Image, pending: Option<&PendingOffsets>, transaction: TransactionRef) -> Result<(), Rejection> {
    let TransactionRef {
        producer_id,
        epoch,
        seq,
    } = transaction;
    let ended = image.ended.last(producer_id);
    let newest = ended.map(|ended| ended.epoch).max(pending.map(|pending| pending.epoch));
    if let Some(newest) = newest.filter(|newest| *newest > epoch) {
        return Err(fenced_producer(producer_id, epoch, newest));
    }
    let refuse = |reason, what: &str| {
        Err(Rejection::new(
            reason,
            format!("transaction {seq} of producer {producer_id}: {what}"),
        ))
    };
    if image.ended.has(transaction) || pending.is_some_and(|pending| pending.seq > seq) {
        return refuse(
            Reason::InvalidTransactionState,
            "it has ended, and takes no more offsets: begin another",
        );
    }
    match pending {
        Some(pending) if pending.seq < seq => refuse(
            Reason::ConcurrentTransactions,
            "the one before has yet to be ended here: try again after a moment",
        ),
        Some(pending) if pending.epoch != epoch => refuse(
            Reason::InvalidTransactionState,
            "it has another epoch here: begin another",
        ),
        _ => Ok(()),
    }
}

/// Checks that the end of a transaction does not contradict what it has staged here. Whether there is room was judged when it staged.
pub(crate) fn may_end(image: &Image, name: &str, transaction: TransactionRef) -> Result<(), Rejection> {
    let group = image.group(name);
    let pending = group.and_then(|group| group.pending.get(&transaction.producer_id));
    match pending {
        Some(pending) if pending.seq == transaction.seq && pending.epoch > transaction.epoch => Err(fenced_producer(
            transaction.producer_id,
            transaction.epoch,
            pending.epoch,
        )),
        _ => Ok(()),
    }
}

fn fenced_producer(producer: ProducerId, actual: ProducerEpoch, expected: ProducerEpoch) -> Rejection {
    Rejection::new(
        Reason::ProducerFenced,
        format!(
            "producer {producer} came with epoch {actual}, and has {expected}: its transaction has ended, or another process has its \
             transactional id; begin anew"
        ),
    )
    .with("expected", expected)
    .with("actual", actual)
}

/// Checks who commits. Returns the group; none if it does not exist and is to be made.
fn committer<'a>(
    image: &'a Image,
    name: &str,
    member: Option<(&str, i64)>,
    commits: &[OffsetCommit],
) -> Result<Option<&'a Group>, Rejection> {
    let Some((id, epoch)) = member else {
        match image.group(name) {
            Some(group) => no_members(name, group)?,
            None => room_for_group(image)?,
        }
        return Ok(image.group(name));
    };
    if planted::is(Bug::ZombieCommit) {
        return Ok(image.group(name));
    }
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
    Ok(Some(group))
}

fn room_for_offsets(
    image: &Image,
    name: &str,
    group: Option<&Group>,
    commits: &[OffsetCommit],
) -> Result<(), Rejection> {
    let (mut count, mut before) = group.map_or((0, 0), |group| (group.offsets.len(), 0));
    let mut after = 0;
    for commit in commits {
        match group.and_then(|group| group.offsets.get(&commit.partition)) {
            Some(old) => before += size::offset(old),
            None => count += 1,
        }
        after += size::offset_with(&commit.metadata);
    }
    room("the offsets", image.bytes.offsets, before, after, OFFSETS_BYTES_MAX)?;
    room_for_count(name, group, count, commits)
}

/// Judges the room for offsets that a transaction stages. They need none at its end: each then takes the place of one, here or among
/// the committed ones.
fn room_for_staged(
    image: &Image,
    name: &str,
    group: Option<&Group>,
    pending: Option<&PendingOffsets>,
    commits: &[OffsetCommit],
) -> Result<(), Rejection> {
    let alone = if pending.is_some() { 0 } else { size::pending_alone() };
    let (mut before, mut after) = (0, alone);
    let mut count = group.map_or(0, |group| group.offsets.len());
    for commit in commits {
        before += pending
            .and_then(|pending| pending.offsets.get(&commit.partition))
            .map_or(0, size::offset);
        after += size::offset_with(&commit.metadata);
        count += usize::from(group.is_none_or(|group| !group.offsets.contains_key(&commit.partition)));
    }
    room("the offsets", image.bytes.offsets, before, after, OFFSETS_BYTES_MAX)?;
    room_for_count(name, group, count, commits)
}

/// Judges how many partitions the group would have offsets of, with those that transactions may yet commit. `count` are those that it
/// has committed and those of `commits`.
fn room_for_count(name: &str, group: Option<&Group>, count: usize, commits: &[OffsetCommit]) -> Result<(), Rejection> {
    let staged = group.map_or(0, |group| {
        group.pending.values().map(|pending| pending.offsets.len()).sum()
    });
    if count + staged <= OFFSETS_PER_GROUP_MAX {
        return Ok(());
    }
    // Near the bound it counts that several may be of one partition.
    let count = match group.filter(|_| staged > 0) {
        Some(group) => {
            let pending = group.pending.values().flat_map(|pending| pending.offsets.keys());
            let others = pending.chain(commits.iter().map(|commit| &commit.partition));
            let others = others.filter(|partition| !group.offsets.contains_key(partition));
            group.offsets.len() + others.collect::<BTreeSet<_>>().len()
        }
        None => count,
    };
    if count > OFFSETS_PER_GROUP_MAX {
        return Err(Rejection::new(
            Reason::InvalidRequest,
            format!(
                "group {name:?} would have offsets for more than {OFFSETS_PER_GROUP_MAX} partitions: delete those that are not used"
            ),
        )
        .with("limit", OFFSETS_PER_GROUP_MAX));
    }
    Ok(())
}
