//! The state as bytes, and back. A restored state is checked against every invariant before it replaces anything: a
//! snapshot is the one way by which damage could get in without passing apply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::RestoreError;
use crate::image::{Group, Image, Member};
use crate::size::{self, Size};
use crate::wire;

impl Image {
    /// Encodes the whole state. The same state gives the same bytes on every replica. May be called on a clone, on
    /// another thread.
    pub fn snapshot(&self) -> Bytes {
        wire::image::encode(self)
    }

    /// The state that [`Image::snapshot`] was taken of.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let parts = wire::image::decode(bytes)?;
        let version = parts.version;
        let inconsistent = |detail| RestoreError::Inconsistent { version, detail };
        let mut groups = BTreeMap::new();
        for (name, group) in parts.groups {
            let twice = format!("group {name:?} is there twice");
            if groups.insert(name, Arc::new(group)).is_some() {
                return Err(inconsistent(twice));
            }
        }
        let mut image = Self {
            version,
            topics_version: parts.topics_version,
            groups,
            ended: parts.ended,
            bytes: Size::default(),
        };
        image.bytes = image.counted_anew();
        image.check().map_err(inconsistent)?;
        Ok(image)
    }

    /// Checks the invariants. Limits are not checked: a build with other limits may have written the state.
    ///
    /// # Errors
    /// Says which invariant is broken, and where; the first one that is.
    pub fn check(&self) -> Result<(), String> {
        for (name, group) in self.groups() {
            check_group(self.version, group).map_err(|what| format!("group {name:?}: {what}"))?;
        }
        if self.ended.newest() > self.version {
            return Err(format!("a transaction ended at {}", self.ended.newest()));
        }
        let bytes = self.counted_anew();
        if bytes != self.bytes {
            return Err(format!("its groups take {bytes:?}, and {:?} is counted", self.bytes));
        }
        Ok(())
    }

    fn counted_anew(&self) -> Size {
        self.groups
            .values()
            .fold(size::ended(self.ended.len()), |sum, group| sum + group.bytes)
    }
}

fn check_group(version: u64, group: &Group) -> Result<(), String> {
    let ensure = |holds: bool, what: &dyn Fn() -> String| if holds { Ok(()) } else { Err(what()) };
    ensure(
        group.assignment_epoch.get() >= 1 && group.assignment_epoch <= group.epoch && group.changed_at <= version,
        &|| format!("epoch {}, assignment epoch {}", group.epoch, group.assignment_epoch),
    )?;
    ensure(group.members.is_empty() == group.empty_since_ms.is_some(), &|| {
        format!(
            "{} members, empty since {:?}",
            group.members.len(),
            group.empty_since_ms
        )
    })?;
    ensure(
        !group.members.is_empty() || (!group.is_assigning() && group.topics.is_empty()),
        &|| "it has no members, and waits for a target or has topics".to_owned(),
    )?;
    ensure(group.topics.is_sorted_by(|a, b| a.name < b.name), &|| {
        "its topics are not ascending".to_owned()
    })?;
    let (mut held, mut targets, mut instances) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (id, member) in &group.members {
        check_member(version, group, id, member)?;
        ensure(
            member.holdings.iter().all(|holding| held.insert(holding.partition)),
            &|| format!("member {id:?} holds what another holds"),
        )?;
        ensure(member.target.iter().all(|partition| targets.insert(partition)), &|| {
            format!("member {id:?} has the target of another")
        })?;
        let instance = member.spec.instance_id.as_ref();
        ensure(instance.is_none_or(|instance| instances.insert(instance)), &|| {
            format!("member {id:?} has the instance id of another")
        })?;
    }
    ensure(
        group.pending.values().all(|pending| !pending.offsets.is_empty()),
        &|| "a transaction that has staged nothing is pending".to_owned(),
    )?;
    ensure(held == group.held && size::group(group) == group.bytes, &|| {
        "what its members hold, or what it takes, is not what is counted".to_owned()
    })
}

fn check_member(version: u64, group: &Group, id: &str, member: &Member) -> Result<(), String> {
    let is_fine = member.epoch <= group.assignment_epoch
        && member.previous_epoch <= member.epoch
        && member.previous_epoch.get() >= 1
        && member.version <= version
        && member.version > 0
        && member.holdings.is_sorted_by(|a, b| a.partition < b.partition)
        && member
            .holdings
            .iter()
            .all(|holding| holding.since <= member.epoch && holding.since.get() >= 1);
    if is_fine {
        return Ok(());
    }
    Err(format!(
        "member {id:?} of version {} has epoch {} after {}, and holdings {:?}",
        member.version, member.epoch, member.previous_epoch, member.holdings
    ))
}
