//! Heartbeats: joining, staying, steps towards the target, leaving.

use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use super::request::{Answer, HeartbeatRequest, HeartbeatResponse, JOIN_EPOCH, LEAVE_EPOCH, Request, Step};
use super::{Decision, Leader, Now, STATIC_LEAVE_EPOCH, request_rules};
use crate::command::Command;
use crate::image::{Group, Image, Member, MemberSpec};
use crate::limits::{REBALANCE_TIMEOUT_MS_DEFAULT, SESSION_TIMEOUT_MS_DEFAULT};
use crate::partitions::PartitionSet;
use crate::pattern::Pattern;
use crate::removal::RemovalCause;
use crate::rules;
use crate::size;

impl Leader {
    /// Answers a heartbeat of any kind.
    pub fn heartbeat(&mut self, image: &Image, request: HeartbeatRequest, now: Now) -> Step {
        let request = Box::new(request);
        let request = if request.epoch < JOIN_EPOCH {
            Request::Leave(request)
        } else {
            Request::Heartbeat(request)
        };
        self.decide(image, request, 1, now)
    }

    pub(super) fn decide_heartbeat(
        &mut self,
        image: &Image,
        request: &HeartbeatRequest,
        now: Now,
    ) -> Result<Decision, Rejection> {
        request_rules::group_name(&request.group)?;
        request_rules::member_id(&request.member)?;
        if request.epoch == JOIN_EPOCH {
            return self.decide_join(image, request, now);
        }
        let (group, member) = member_at_epoch(image, request)?;
        let spec = changed_spec(&member.spec, request)?;
        let is_heard = self.touch(&request.group, &request.member, member, now);
        if spec != member.spec || !is_heard {
            return Ok(Decision::Propose(put(request, None, member.version, spec)));
        }
        // A member that does not know its epoch yet is told it first. Two steps that it has not heard of would leave it
        // with an epoch that is neither the current one nor the one before.
        let knows_its_epoch = request.epoch == i64::from(member.epoch.get());
        if let Some(command) = knows_its_epoch.then(|| step_of(group, member, request)).flatten() {
            return Ok(Decision::Propose(command));
        }
        Ok(self.stay(group, member, request, now))
    }

    fn decide_join(&mut self, image: &Image, request: &HeartbeatRequest, now: Now) -> Result<Decision, Rejection> {
        if request.owned.as_ref().is_some_and(|owned| !owned.is_empty()) {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!(
                    "member {:?} joins and owns partitions already: give them up first",
                    request.member
                ),
            ));
        }
        let Some(group) = image.group(&request.group) else {
            let spec = first_spec(request)?;
            rules::room_for_group(image)?;
            rules::room_for_member_bytes(image, 0, size::new_member(&request.member, &spec))?;
            return Ok(Decision::Propose(put(request, None, 0, spec)));
        };
        if let Some(member) = group.members.get(&request.member) {
            // The member joins again, since the answer was lost or the client began anew.
            let spec = changed_spec(&member.spec, request)?;
            let is_heard = self.touch(&request.group, &request.member, member, now);
            if spec != member.spec || member.is_away || !is_heard {
                return Ok(Decision::Propose(put(request, None, member.version, spec)));
            }
            return Ok(self.stay(group, member, request, now));
        }
        if let Some(instance) = request.instance_id.as_deref()
            && let Some((holder, member)) = group.instance(instance)
        {
            let spec = changed_spec(&member.spec, request)?;
            // A silent member may have been killed, or may still hand out records: it may do so until its session ends.
            if !self.claim(&request.group, holder, member, now) {
                return Err(rules::unreleased(&request.group, instance, holder));
            }
            let spec = MemberSpec {
                client_id: Arc::clone(&request.client_id),
                client_host: Arc::clone(&request.client_host),
                ..spec
            };
            return Ok(Decision::Propose(put(request, Some(holder), member.version, spec)));
        }
        let spec = first_spec(request)?;
        rules::room_for_member(&request.group, group)?;
        rules::room_for_member_bytes(image, 0, size::new_member(&request.member, &spec))?;
        Ok(Decision::Propose(put(request, None, 0, spec)))
    }

    /// The answer to a heartbeat that changes nothing that is replicated.
    fn stay(&mut self, group: &Group, member: &Member, request: &HeartbeatRequest, now: Now) -> Decision {
        let has_newest = request.epoch != JOIN_EPOCH && request.assignment_version == member.version;
        let interval = self.interval(&request.group, group, member, now);
        self.set_interval(&request.group, &request.member, interval);
        Decision::Answer(Answer::Heartbeat(HeartbeatResponse {
            epoch: member.epoch,
            heartbeat_interval_ms: interval,
            assignment_version: member.version,
            assignment: (!has_newest).then(|| member.assigned()),
        }))
    }

    pub(super) fn decide_leave(
        &mut self,
        image: &Image,
        request: &HeartbeatRequest,
        now: Now,
    ) -> Result<Command, Rejection> {
        request_rules::group_name(&request.group)?;
        request_rules::member_id(&request.member)?;
        let (_, member) = rules::member(image, &request.group, &request.member)
            .map_err(|rejection| fenced_instance(image, request).unwrap_or(rejection))?;
        let group = Arc::clone(&request.group);
        let id = Arc::clone(&request.member);
        match request.epoch {
            LEAVE_EPOCH => Ok(Command::RemoveMembers {
                group,
                members: vec![(id, member.version)],
                cause: RemovalCause::Left,
                at_ms: now.wall_ms,
            }),
            STATIC_LEAVE_EPOCH if member.spec.instance_id.is_some() => Ok(Command::SetAway {
                group,
                member: id,
                version: member.version,
            }),
            epoch => Err(Rejection::new(
                Reason::InvalidRequest,
                format!(
                    "member {id:?} of group {group:?} came with epoch {epoch}: give 0 to join, {LEAVE_EPOCH} to leave, or, with an \
                     instance id, {STATIC_LEAVE_EPOCH} to come back"
                ),
            )),
        }
    }
}

fn put(request: &HeartbeatRequest, replaces: Option<&Arc<str>>, version: u64, spec: MemberSpec) -> Command {
    Command::PutMember {
        group: Arc::clone(&request.group),
        member: Arc::clone(&request.member),
        replaces: replaces.cloned(),
        version,
        spec,
    }
}

/// The member, if its epoch is the current one, or the previous one because the answer with the current one was lost.
fn member_at_epoch<'a>(image: &'a Image, request: &HeartbeatRequest) -> Result<(&'a Group, &'a Member), Rejection> {
    let (group, member) = rules::member(image, &request.group, &request.member)
        .map_err(|rejection| fenced_instance(image, request).unwrap_or(rejection))?;
    let known = [member.epoch, member.previous_epoch].map(|epoch| i64::from(epoch.get()));
    let owns_too_much = request
        .owned
        .as_ref()
        .is_some_and(|owned| !owned.iter().all(|p| member.holds(p)));
    if !known.contains(&request.epoch) || owns_too_much || member.is_away {
        return Err(rules::fenced(
            &request.group,
            &request.member,
            request.epoch,
            member.epoch,
        ));
    }
    Ok((group, member))
}

/// The rejection if another process has taken the instance id of this member.
fn fenced_instance(image: &Image, request: &HeartbeatRequest) -> Option<Rejection> {
    let instance = request.instance_id.as_deref()?;
    let (holder, _) = image.group(&request.group)?.instance(instance)?;
    Some(Rejection::new(
        Reason::FencedInstanceId,
        format!(
            "instance id {instance:?} of group {:?} belongs to member {holder:?} now: give each process an instance id of its own",
            request.group
        ),
    ))
}

fn first_spec(request: &HeartbeatRequest) -> Result<MemberSpec, Rejection> {
    let blank = MemberSpec {
        instance_id: request.instance_id.clone(),
        client_id: Arc::clone(&request.client_id),
        client_host: Arc::clone(&request.client_host),
        rack: Arc::default(),
        subscription: Arc::default(),
        session_timeout_ms: SESSION_TIMEOUT_MS_DEFAULT,
        rebalance_timeout_ms: REBALANCE_TIMEOUT_MS_DEFAULT,
        assignor: None,
    };
    changed_spec(&blank, request)
}

/// The spec with the changes of the request, judged if there are any.
fn changed_spec(known: &MemberSpec, request: &HeartbeatRequest) -> Result<MemberSpec, Rejection> {
    let or = |new: u32, old: u32| if new == 0 { old } else { new };
    let mut spec = MemberSpec {
        session_timeout_ms: or(request.session_timeout_ms, known.session_timeout_ms),
        rebalance_timeout_ms: or(request.rebalance_timeout_ms, known.rebalance_timeout_ms),
        rack: request.rack.as_ref().unwrap_or(&known.rack).clone(),
        assignor: request.assignor.or(known.assignor),
        ..known.clone()
    };
    if let Some(subscription) = &request.subscription
        && *subscription != *known.subscription
    {
        spec.subscription = Arc::new(subscription.clone());
    }
    if spec != *known || known.subscription.topics.is_empty() && known.subscription.pattern.is_none() {
        request_rules::spec(&spec)?;
        if let Some(pattern) = &spec.subscription.pattern
            && spec.subscription.pattern != known.subscription.pattern
        {
            Pattern::compile(pattern)?;
        }
    }
    Ok(spec)
}

/// The next step towards its target of a member that knows its epoch, if one is due now.
fn step_of(group: &Group, member: &Member, request: &HeartbeatRequest) -> Option<Command> {
    if group.is_settled(member) {
        return None;
    }
    // The partitions that the member owns, if it knows its newest assignment. A heartbeat that is older, or was held up
    // on its way, acknowledges nothing.
    let owned = request.owned.as_ref();
    let owned = owned.filter(|_| request.assignment_version == member.version);
    let revoking = member.revoking();
    if !revoking.is_empty() && !owned.is_some_and(|owned| owned.is_disjoint(&revoking)) {
        return None;
    }
    let assigned = member.assigned();
    let excess = assigned.difference(&member.target);
    let kept = assigned.intersection(&member.target);
    let progress = |epoch, assigned, revoking| Command::Progress {
        group: Arc::clone(&request.group),
        member: Arc::clone(&request.member),
        version: member.version,
        assignment_epoch: group.assignment_epoch,
        epoch,
        assigned,
        revoking,
    };
    // The excess includes partitions that the member does not name: it was given them, and may begin with them until it
    // hears that it must not.
    if !excess.is_empty() {
        return Some(progress(member.epoch, kept, excess));
    }
    let target = member.target.iter();
    let next: PartitionSet = target
        .filter(|partition| group.is_free_for(member, *partition))
        .collect();
    let is_nothing_new = member.epoch == group.assignment_epoch && revoking.is_empty() && next == assigned;
    (!is_nothing_new).then(|| progress(group.assignment_epoch, next, PartitionSet::new()))
}
