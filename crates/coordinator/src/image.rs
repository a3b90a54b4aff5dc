//! The replicated state of a coordinator shard: its groups with their members, targets and committed offsets.
//!
//! It is changed by [`Image::apply`](crate::Image::apply) and [`Image::restore`](crate::Image::restore) only.
//!
//! Invariants:
//! - A partition is held by at most one member of a group. A member holds what it was told to own and has not
//!   acknowledged giving up.
//! - The targets of a group's members are disjoint. A member holds more than its target only while it gives that up.
//! - `member epoch <= assignment epoch <= group epoch`; none ever goes back while the group exists.
//! - A member that gives up partitions is not given any, and keeps its epoch until it has acknowledged.
//! - Offsets that a transaction has staged have room among the committed ones already: its end is never refused for want of it.
//! - An instance id belongs to one member. A group without members has no topics and no change that waits.
//!
//! A clone costs a few reference counts and the list of groups; a command then copies the group that it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jangada_types::planted::{self, Bug};
use jangada_types::replicated::{Sample, Seeds};
use jangada_types::{PartitionIndex, ProducerId, TopicId};

use crate::assignor::Assignor;
use crate::partitions::{PartitionSet, TopicPartition};
use crate::size::{self, Size};
use crate::transaction::{Committed, EndedTransactions, PendingOffsets};

/// Counts the assignments of a group, from 1 on; a member's epoch is the one that it has taken up. A request with an
/// older epoch is fenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of a group in which nothing was assigned yet.
    pub const FIRST: Self = Self(1);

    /// The epoch as a plain number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The next epoch.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Sample for Epoch {
    fn sample(seeds: &mut Seeds) -> Self {
        Self(Sample::sample(seeds))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The state of a shard at one position of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Log index of the last command applied.
    pub(crate) version: u64,
    /// The newest version of the cluster's metadata that any command here was decided by.
    pub(crate) topics_version: u64,
    pub(crate) groups: BTreeMap<Arc<str>, Arc<Group>>,
    /// The transactions whose end came to the shard.
    pub(crate) ended: EndedTransactions,
    /// Derived: the size of all groups together, and of `ended`.
    pub(crate) bytes: Size,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Grows when members, subscriptions or topics ask for another assignment.
    pub epoch: Epoch,
    /// The group epoch for which the members' targets were computed.
    pub assignment_epoch: Epoch,
    /// Log index of the last change of members or subscriptions.
    pub changed_at: u64,
    /// The members by id.
    pub members: BTreeMap<Arc<str>, Member>,
    /// The topics over which the targets were computed, by name.
    pub topics: Arc<[SubscribedTopic]>,
    /// The committed offsets.
    pub offsets: BTreeMap<TopicPartition, Committed>,
    /// The offsets that open transactions have staged, by producer. Lag and whoever reads committed offsets go by `offsets` only.
    pub pending: BTreeMap<ProducerId, PendingOffsets>,
    /// Number of partitions that a topic had when the group began to read it: of topics that it reads, and those that
    /// it has offsets of. Later partitions are new to the group. A topic that came after its subscription had none.
    pub(crate) first_partitions: BTreeMap<TopicId, u32>,
    /// The time since which the group has no members, or of the last commit from outside if that is later, milliseconds
    /// since the Unix epoch on the leader's clock. None while there are members.
    pub empty_since_ms: Option<u64>,
    /// Derived: the partitions that the members hold, all together. Each step of each member asks whether a partition
    /// is free.
    pub(crate) held: BTreeSet<TopicPartition>,
    /// Derived: the size of the group.
    pub(crate) bytes: Size,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's own description of itself.
    pub spec: MemberSpec,
    /// Log index of the last change of this member, its target apart. The member names it when it says what it owns.
    pub version: u64,
    /// The assignment epoch that the member has taken up.
    pub epoch: Epoch,
    /// The assignment epoch before the present one.
    pub previous_epoch: Epoch,
    /// Whether this is a static member that left and is expected back.
    pub is_away: bool,
    /// The partitions that the member holds, ascending.
    pub holdings: Box<[Holding]>,
    /// The partitions that it should own at the group's assignment epoch.
    pub target: PartitionSet,
}

/// A member's description of itself, given when it joins or changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSpec {
    /// Set for a static member, which comes back under a new member id and goes on with what it had.
    pub instance_id: Option<Arc<str>>,
    /// The client id that the member gave itself.
    pub client_id: Arc<str>,
    /// Address that the member connected from.
    pub client_host: Arc<str>,
    /// The member's failure domain; empty when unknown.
    pub rack: Arc<str>,
    /// The topics that the member wants to read.
    pub subscription: Arc<Subscription>,
    /// How long the member may be silent before its session ends, milliseconds.
    pub session_timeout_ms: u32,
    /// How long the member may take to give up partitions, milliseconds.
    pub rebalance_timeout_ms: u32,
    /// The assignor that the member prefers. None: no preference.
    pub assignor: Option<Assignor>,
}

impl Sample for MemberSpec {
    fn sample(seeds: &mut Seeds) -> Self {
        let assignors = [None, Some(Assignor::Uniform), Some(Assignor::Range)];
        Self {
            instance_id: Sample::sample(seeds),
            client_id: Sample::sample(seeds),
            client_host: Sample::sample(seeds),
            rack: Sample::sample(seeds),
            subscription: Arc::new(Subscription {
                topics: BTreeSet::from_iter(Vec::sample(seeds)).into_iter().collect(),
                pattern: Sample::sample(seeds),
            }),
            session_timeout_ms: Sample::sample(seeds),
            rebalance_timeout_ms: Sample::sample(seeds),
            assignor: assignors[seeds.below(3) as usize],
        }
    }
}

/// The topics that a member wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Topic names, ascending. They need not exist.
    pub topics: Box<[Arc<str>]>,
    /// A pattern: also the topics whose whole name it matches.
    pub pattern: Option<Arc<str>>,
}

impl Subscription {
    /// A subscription to topics by name and perhaps by a pattern.
    pub fn new<'a>(topics: impl IntoIterator<Item = &'a str>, pattern: Option<&str>) -> Self {
        let mut topics: Vec<Arc<str>> = topics.into_iter().map(Arc::from).collect();
        topics.sort_unstable();
        topics.dedup();
        Self {
            topics: topics.into(),
            pattern: pattern.map(Arc::from),
        }
    }
}

/// A partition that a member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The partition that is held.
    pub partition: TopicPartition,
    /// The member's epoch when it got the partition: it has not paused since.
    pub since: Epoch,
    /// Whether the member was told to give the partition up and has not acknowledged that yet.
    pub is_revoking: bool,
}

/// A topic that members of a group subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribedTopic {
    /// The topic's id, never given to another topic.
    pub id: TopicId,
    /// The topic's name, which members subscribe to.
    pub name: Arc<str>,
    /// Number of partitions that it had.
    pub partitions: u32,
}

impl Sample for SubscribedTopic {
    fn sample(seeds: &mut Seeds) -> Self {
        Self {
            id: Sample::sample(seeds),
            name: Sample::sample(seeds),
            partitions: Sample::sample(seeds),
        }
    }
}

/// The state of a group, as KIP-848 names it. A group that does not exist is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// The group has no members.
    Empty,
    /// A new target is yet to be computed.
    Assigning,
    /// Members are on their way to the target.
    Reconciling,
    /// Each member owns its target.
    Stable,
    /// There is no such group.
    Dead,
}

impl GroupState {
    /// The state's name, as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// How far a member is on its way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// The member owns its target at the assignment epoch.
    Stable,
    /// The member has not heard of the newest target.
    Behind,
    /// The member has yet to give up partitions.
    Revoking,
    /// The member waits for partitions that others have yet to give up.
    Waiting,
    /// A static member that left and is expected back.
    Away,
}

impl MemberState {
    /// The state's name, as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "Stable",
            Self::Behind => "Behind",
            Self::Revoking => "Revoking",
            Self::Waiting => "Waiting",
            Self::Away => "Away",
        }
    }
}

impl Member {
    /// The partitions that the member may keep: all that it holds and need not give up.
    pub fn assigned(&self) -> PartitionSet {
        let kept = self.holdings.iter().filter(|holding| !holding.is_revoking);
        kept.map(|holding| holding.partition).collect()
    }

    /// The partitions that it was told to give up.
    pub fn revoking(&self) -> PartitionSet {
        let revoking = self.holdings.iter().filter(|holding| holding.is_revoking);
        revoking.map(|holding| holding.partition).collect()
    }

    /// All partitions that it holds.
    pub fn held(&self) -> PartitionSet {
        self.holdings.iter().map(|holding| holding.partition).collect()
    }

    /// Whether it holds the partition and so may commit for it, also while it gives it up.
    pub fn holds(&self, partition: TopicPartition) -> bool {
        self.holdings
            .binary_search_by_key(&partition, |holding| holding.partition)
            .is_ok()
    }

    pub(crate) fn is_revoking(&self) -> bool {
        self.holdings.iter().any(|holding| holding.is_revoking)
    }

    fn owns_its_target(&self) -> bool {
        let owned = self.holdings.iter().map(|holding| holding.partition);
        !self.is_revoking() && owned.eq(self.target.iter())
    }
}

impl Group {
    pub(crate) fn new() -> Self {
        let mut group = Self {
            epoch: Epoch::FIRST,
            assignment_epoch: Epoch::FIRST,
            changed_at: 0,
            members: BTreeMap::new(),
            topics: Arc::default(),
            offsets: BTreeMap::new(),
            pending: BTreeMap::new(),
            first_partitions: BTreeMap::new(),
            empty_since_ms: None,
            held: BTreeSet::new(),
            bytes: Size::default(),
        };
        group.bytes = size::group(&group);
        group
    }

    /// Whether a change of the group waits for a new target.
    pub fn is_assigning(&self) -> bool {
        self.epoch > self.assignment_epoch
    }

    /// The group's state.
    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.is_assigning() {
            GroupState::Assigning
        } else if self.members.values().all(|member| self.is_settled(member)) {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    /// How far one of the group's members is.
    pub fn member_state(&self, member: &Member) -> MemberState {
        if member.is_away {
            MemberState::Away
        } else if member.is_revoking() {
            MemberState::Revoking
        } else if member.epoch < self.assignment_epoch {
            MemberState::Behind
        } else if member.owns_its_target() {
            MemberState::Stable
        } else {
            MemberState::Waiting
        }
    }

    pub(crate) fn is_settled(&self, member: &Member) -> bool {
        member.epoch == self.assignment_epoch && member.owns_its_target()
    }

    /// Whether the member may take up the partition: no other member holds it.
    pub(crate) fn is_free_for(&self, member: &Member, partition: TopicPartition) -> bool {
        !self.held.contains(&partition) || member.holds(partition) || planted::is(Bug::TwoOwners)
    }

    /// The member with this instance id.
    pub fn instance(&self, instance_id: &str) -> Option<(&Arc<str>, &Member)> {
        let mut members = self.members.iter();
        members.find(|(_, member)| member.spec.instance_id.as_deref() == Some(instance_id))
    }

    /// Whether the partition was added to its topic after the group began to read that topic, so that everything in it
    /// is new to the group. False also when that is not known.
    pub fn is_added(&self, partition: TopicPartition) -> bool {
        let first = self.first_partitions.get(&partition.topic);
        first.is_some_and(|first| partition.partition.get() >= *first)
    }

    /// The partitions that it has offsets of: those committed, and those of each open transaction. One may come several times.
    pub(crate) fn with_offsets(&self) -> impl Iterator<Item = &TopicPartition> {
        let staged = self.pending.values().flat_map(|pending| pending.offsets.keys());
        self.offsets.keys().chain(staged)
    }

    /// The offset committed for a partition.
    pub fn committed(&self, topic: TopicId, partition: PartitionIndex) -> Option<&Committed> {
        self.offsets.get(&TopicPartition { topic, partition })
    }
}

impl Image {
    /// The state of an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Log index of the last command applied; 0 for none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The newest version of the cluster's metadata that any command here was decided by. A leader whose broker knows
    /// less than that can't tell which topics are gone.
    pub fn topics_version(&self) -> u64 {
        self.topics_version
    }

    /// Upper bound of the state's size in a snapshot.
    pub fn size(&self) -> Size {
        self.bytes
    }

    /// The size of one group and of what belongs to no group; without the former if there is no such group.
    pub(crate) fn bytes_of(&self, name: &str) -> Size {
        self.group(name).map_or_else(Size::default, |group| group.bytes) + size::ended(self.ended.len())
    }

    /// All groups, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Group)> {
        self.groups.iter().map(|(name, group)| (name, &**group))
    }

    /// The group with this name.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name).map(|group| &**group)
    }

    /// A shared handle on the group as it is now, for a reader that must not hold up the shard.
    pub fn shared_group(&self, name: &str) -> Option<Arc<Group>> {
        self.groups.get(name).cloned()
    }

    /// The state of the group with this name.
    pub fn state(&self, name: &str) -> GroupState {
        self.group(name).map_or(GroupState::Dead, Group::state)
    }
}
