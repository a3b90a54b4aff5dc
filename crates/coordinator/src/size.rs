//! What the state takes in a snapshot, at most: the sum of what is counted here for its parts. Kept up to date by each
//! command, so that the bound of a shard is judged without a look at the whole state.
//!
//! **Part of the replicated format**, as the bounds in `limits` that apply judges by: a replica that counts otherwise
//! takes a command that the others refuse.

use crate::image::{Committed, Group, Holding, Member, MemberSpec, SubscribedTopic};
use crate::partitions::PartitionSet;

/// A group with a name of any length, without its parts.
pub(crate) const GROUP_BYTES: u64 = 320;
/// A member without its texts and partitions.
const MEMBER_BYTES: u64 = 128;
/// A topic, a topic of a subscription, and a committed offset, each without its text.
const TOPIC_BYTES: u64 = 32;
const NAME_BYTES: u64 = 4;
const OFFSET_BYTES: u64 = 72;
/// A partition that is alone of its topic, in a target and as a holding.
const TARGET_BYTES: u64 = 40;
const HOLDING_BYTES: u64 = 56;

fn text(text: &str) -> u64 {
    text.len() as u64
}

pub(crate) fn offset(committed: &Committed) -> u64 {
    OFFSET_BYTES + text(&committed.metadata)
}

/// Of an offset that would be written with this text.
pub(crate) fn offset_with(metadata: &str) -> u64 {
    OFFSET_BYTES + text(metadata)
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

/// A member that has nothing yet.
pub(crate) fn new_member(id: &str, spec: &MemberSpec) -> u64 {
    MEMBER_BYTES + text(id) + self::spec(spec)
}

pub(crate) fn member(id: &str, member: &Member) -> u64 {
    new_member(id, &member.spec) + target(&member.target) + holdings(&member.holdings)
}

/// All parts of a group, counted anew.
pub(crate) fn parts(group: &Group) -> u64 {
    let members: u64 = group.members.iter().map(|(id, member)| self::member(id, member)).sum();
    let offsets: u64 = group.offsets.values().map(offset).sum();
    topics(&group.topics) + members + offsets
}
