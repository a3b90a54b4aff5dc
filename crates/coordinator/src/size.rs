//! Upper bound of the state's size in a snapshot: the sum of what is counted here for its parts. Each command updates
//! it, so that the bound of a shard is judged without going through the whole state.
//!
//! **Part of the replicated format**, as the bounds in `limits` that apply judges by: a replica that counts otherwise
//! takes a command that the others refuse.

use std::ops::{Add, AddAssign, Sub, SubAssign};

use crate::image::{Group, Holding, Member, MemberSpec, SubscribedTopic};
use crate::limits::{
    ENDED_PRODUCERS_MAX, GROUPS_MAX, MEMBERS_BYTES_MAX, OFFSETS_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX,
};
use crate::partitions::PartitionSet;
use crate::transaction::{Committed, PendingOffsets};

/// The size of a part of the state, bytes, divided by the bounds that it counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of committed offsets, and of those that transactions have staged.
    pub offsets: u64,
    /// Bytes of members, with their descriptions of themselves.
    pub members: u64,
    /// Bytes of targets, and of the topics that they were computed over.
    pub targets: u64,
    /// Bytes that have no bound of their own: groups are bounded in number, and members hold only partitions that were
    /// in their targets.
    pub others: u64,
}

impl Size {
    /// The sum of all parts.
    pub const fn total(self) -> u64 {
        self.offsets + self.members + self.targets + self.others
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            offsets: self.offsets + other.offsets,
            members: self.members + other.members,
            targets: self.targets + other.targets,
            others: self.others + other.others,
        }
    }
}

impl Sub for Size {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            offsets: self.offsets - other.offsets,
            members: self.members - other.members,
            targets: self.targets - other.targets,
            others: self.others - other.others,
        }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Size {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

/// Bytes of a group with a name of any length, without its parts.
const GROUP_BYTES: u64 = 320;
/// Bytes of a member without its texts and partitions.
const MEMBER_BYTES: u64 = 128;
/// Bytes of a topic, a topic of a subscription, and a committed offset, each without its text.
const TOPIC_BYTES: u64 = 32;
const NAME_BYTES: u64 = 4;
const OFFSET_BYTES: u64 = 72;
/// Bytes of a transaction that has staged offsets in a group, without these, and of one that has ended.
const PENDING_BYTES: u64 = 56;
const ENDED_BYTES: u64 = 48;
/// Bytes of a partition that is alone of its topic, in a target and as a holding.
const TARGET_BYTES: u64 = 40;
const HOLDING_BYTES: u64 = 56;

const _: () = {
    let held = TARGETS_BYTES_MAX / TARGET_BYTES * HOLDING_BYTES;
    let others = held + GROUPS_MAX as u64 * GROUP_BYTES + ended(ENDED_PRODUCERS_MAX).others;
    assert!(OFFSETS_BYTES_MAX + MEMBERS_BYTES_MAX + TARGETS_BYTES_MAX + others <= SNAPSHOT_BYTES_MAX);
};

fn text(text: &str) -> u64 {
    text.len() as u64
}

pub(crate) fn offset(committed: &Committed) -> u64 {
    OFFSET_BYTES + text(&committed.metadata)
}

/// Bytes of a committed offset with this metadata text.
pub(crate) fn offset_with(metadata: &str) -> u64 {
    OFFSET_BYTES + text(metadata)
}

/// Bytes of the offsets that one transaction has staged in a group. At its end they take the places of committed ones, and so no
/// more room.
pub(crate) fn pending(pending: &PendingOffsets) -> u64 {
    PENDING_BYTES + pending.offsets.values().map(offset).sum::<u64>()
}

/// Bytes of what a transaction needs beside its offsets.
pub(crate) const fn pending_alone() -> u64 {
    PENDING_BYTES
}

/// The size of so many transactions that have ended.
pub(crate) const fn ended(count: usize) -> Size {
    Size {
        offsets: 0,
        members: 0,
        targets: 0,
        others: ENDED_BYTES * count as u64,
    }
}

pub(crate) fn topics(topics: &[SubscribedTopic]) -> u64 {
    topics.iter().map(|topic| TOPIC_BYTES + text(&topic.name)).sum()
}

pub(crate) fn spec(spec: &MemberSpec) -> u64 {
    let subscription = &spec.subscription;
    let names: u64 = subscription.topics.iter().map(|name| NAME_BYTES + text(name)).sum();
    let optional = [&spec.instance_id, &subscription.pattern];
    let optional: u64 = optional.into_iter().flatten().map(|value| text(value)).sum();
    names + optional + text(&spec.client_id) + text(&spec.client_host) + text(&spec.rack)
}

pub(crate) fn target(target: &PartitionSet) -> u64 {
    TARGET_BYTES * target.len() as u64
}

pub(crate) fn holdings(holdings: &[Holding]) -> u64 {
    HOLDING_BYTES * holdings.len() as u64
}

/// Bytes of a member that has no partitions yet.
pub(crate) fn new_member(id: &str, spec: &MemberSpec) -> u64 {
    MEMBER_BYTES + text(id) + self::spec(spec)
}

pub(crate) fn member(id: &str, member: &Member) -> Size {
    Size {
        members: new_member(id, &member.spec),
        targets: target(&member.target),
        others: holdings(&member.holdings),
        ..Size::default()
    }
}

/// The size of a group with all its parts, counted anew.
pub(crate) fn group(group: &Group) -> Size {
    let alone = Size {
        offsets: group.offsets.values().map(offset).sum::<u64>() + group.pending.values().map(pending).sum::<u64>(),
        targets: topics(&group.topics),
        others: GROUP_BYTES,
        ..Size::default()
    };
    let members = group.members.iter().map(|(id, member)| self::member(id, member));
    members.fold(alone, Size::add)
}
