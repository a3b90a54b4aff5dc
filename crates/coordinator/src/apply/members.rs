//! Members that join, change, go away for a while, and leave.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use crate::image::{Group, Holding, Image, Member, MemberSpec};
use crate::partitions::{PartitionSet, TopicPartition};
use crate::rules;
use crate::size::{self, Size};

impl Image {
    pub(super) fn put_member(
        &mut self,
        name: &Arc<str>,
        id: &Arc<str>,
        replaces: Option<&Arc<str>>,
        version: u64,
        spec: &MemberSpec,
    ) -> Result<usize, Rejection> {
        let index = self.version;
        match self.group(name) {
            None => {
                if version != 0 || replaces.is_some() {
                    return Err(rules::changed(name));
                }
                rules::room_for_group(self)?;
                rules::room_for_member_bytes(self, 0, size::new_member(id, spec))?;
            }
            Some(group) => {
                judge_put(name, group, id, replaces, version, spec)?;
                let place = replaces.unwrap_or(id);
                let known = group.members.get(place);
                let before = known.map_or(0, |member| size::new_member(place, &member.spec));
                rules::room_for_member_bytes(self, before, size::new_member(id, spec))?;
            }
        }
        let group = self
            .groups
            .entry(Arc::clone(name))
            .or_insert_with(|| Arc::new(Group::new()));
        Arc::make_mut(group).put(index, id, replaces, spec);
        Ok(1)
    }

    pub(super) fn set_away(&mut self, name: &str, id: &str, version: u64) -> Result<usize, Rejection> {
        let (_, member) = rules::member(self, name, id)?;
        if member.spec.instance_id.is_none() {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!("member {id:?} of group {name:?} has no instance id: it can only leave for good"),
            ));
        }
        if member.version != version {
            return Err(rules::changed(name));
        }
        let index = self.version;
        let group = self.group_mut(name)?;
        let member = group.members.get_mut(id).ok_or_else(|| rules::changed(name))?;
        member.is_away = true;
        member.version = index;
        group.bytes.others -= size::holdings(&member.holdings);
        member.drop_revoking(&mut group.held);
        group.bytes.others += size::holdings(&member.holdings);
        Ok(1)
    }

    pub(super) fn remove_members(
        &mut self,
        name: &str,
        members: &[(Arc<str>, u64)],
        at_ms: u64,
    ) -> Result<usize, Rejection> {
        let group = rules::group(self, name)?;
        let is_as_seen =
            |(id, version): &&(Arc<str>, u64)| group.members.get(id).is_some_and(|member| member.version == *version);
        let leaving: Vec<Arc<str>> = members
            .iter()
            .filter(is_as_seen)
            .map(|(id, _)| Arc::clone(id))
            .collect();
        if leaving.is_empty() {
            return Err(rules::changed(name));
        }
        let index = self.version;
        let group = self.group_mut(name)?;
        let before = group.members.len();
        for id in &leaving {
            let Some(member) = group.members.remove(id) else {
                continue;
            };
            group.bytes -= size::member(id, &member);
            for holding in &member.holdings {
                let was_held = group.held.remove(&holding.partition);
                assert!(was_held, "member {id:?} has what was held by nobody");
            }
        }
        let removed = before - group.members.len();
        group.change(index);
        if group.members.is_empty() {
            // Without members there is no target left to compute.
            group.assignment_epoch = group.epoch;
            group.bytes.targets -= size::topics(&group.topics);
            group.topics = Arc::default();
            group.forget_unread();
            group.empty_since_ms = Some(at_ms);
        }
        Ok(removed)
    }
}

fn judge_put(
    name: &str,
    group: &Group,
    id: &str,
    replaces: Option<&Arc<str>>,
    version: u64,
    spec: &MemberSpec,
) -> Result<(), Rejection> {
    // The member whose place it has or takes.
    let place = replaces.map_or(id, |old| &**old);
    let known = group.members.get(place);
    if known.map_or(0, |member| member.version) != version || (replaces.is_some() && group.members.contains_key(id)) {
        return Err(rules::changed(name));
    }
    match known {
        None if replaces.is_some() => return Err(rules::changed(name)),
        None => rules::room_for_member(name, group)?,
        Some(member) if member.spec.instance_id != spec.instance_id => {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!("member {id:?} of group {name:?} came with another instance id: join under a new member id"),
            ));
        }
        Some(_) if replaces.is_some() && spec.instance_id.is_none() => return Err(rules::changed(name)),
        Some(_) => {}
    }
    if let Some(instance) = spec.instance_id.as_deref()
        && let Some((holder, _)) = group.instance(instance)
        && **holder != *place
    {
        return Err(rules::unreleased(name, instance, holder));
    }
    Ok(())
}

impl Group {
    /// Marks the target as outdated: members or subscriptions have changed. Changes until the next target share one
    /// epoch.
    pub(super) fn change(&mut self, index: u64) {
        self.changed_at = index;
        if self.epoch == self.assignment_epoch {
            self.epoch = self.epoch.next();
        }
    }

    fn put(&mut self, index: u64, id: &Arc<str>, replaces: Option<&Arc<str>>, spec: &MemberSpec) {
        let spec = self.shared(spec);
        let place = replaces.unwrap_or(id);
        let known = self.members.remove(place);
        self.bytes -= known
            .as_ref()
            .map_or_else(Size::default, |member| size::member(place, member));
        let is_change = known.as_ref().is_none_or(|member| {
            member.spec.subscription != spec.subscription || member.spec.assignor != spec.assignor
        });
        let mut member = known.unwrap_or_else(|| Member {
            spec: spec.clone(),
            version: index,
            epoch: self.assignment_epoch,
            previous_epoch: self.assignment_epoch,
            is_away: false,
            holdings: Box::default(),
            target: PartitionSet::new(),
        });
        member.spec = spec;
        member.version = index;
        member.is_away = false;
        if replaces.is_some() {
            // The process that was to give them up is gone.
            member.drop_revoking(&mut self.held);
        }
        self.bytes += size::member(id, &member);
        self.members.insert(Arc::clone(id), member);
        self.empty_since_ms = None;
        if is_change {
            self.change(index);
        }
    }

    /// A copy of the spec that shares the texts that another member has too.
    fn shared(&self, spec: &MemberSpec) -> MemberSpec {
        let mut spec = spec.clone();
        let Some(other) = self.members.values().next().map(|member| &member.spec) else {
            return spec;
        };
        let share = |mine: &mut Arc<str>, theirs: &Arc<str>| {
            if mine == theirs {
                *mine = Arc::clone(theirs);
            }
        };
        share(&mut spec.client_id, &other.client_id);
        share(&mut spec.client_host, &other.client_host);
        share(&mut spec.rack, &other.rack);
        if spec.subscription == other.subscription {
            spec.subscription = Arc::clone(&other.subscription);
        }
        spec
    }
}

impl Member {
    /// Frees the partitions that the member was to give up.
    pub(super) fn drop_revoking(&mut self, held: &mut BTreeSet<TopicPartition>) {
        if self.is_revoking() {
            let all = self.holdings.iter().copied();
            let (dropped, kept): (Vec<Holding>, Vec<Holding>) = all.partition(|holding| holding.is_revoking);
            for holding in dropped {
                held.remove(&holding.partition);
            }
            self.holdings = kept.into();
        }
    }
}
