//! Leases: who has a message, what settles it, how often it may fail.

use std::collections::HashMap;

use crate::call::Settlement;
use crate::history::operation::{Body, SettleBody};
use crate::names::{NameId, OperationId, ValueId};
use crate::note::FaultPhase;
use crate::verdict::{Findings, Kind};

use super::super::facts::Facts;
use super::messages::{Delivery, Message, Messages, tell};

/// Deliveries of one message of which each is held against each; of more only neighbours are.
const PAIRS_MAX: usize = 64;

/// Judges the leases of all messages.
pub fn check(facts: &Facts<'_>, messages: &Messages, findings: &mut Findings) {
    let is_clock =
        |it: &&(u64, crate::note::Fault)| it.1.kind.contains("clock") && it.1.phase == FaultPhase::TookEffect;
    let clocks_moved = facts.history.faults().iter().any(|it| is_clock(&it));
    if clocks_moved {
        let what = "clocks were set off: that messages come before their time is not judged";
        findings.remarks.push(what.to_owned());
    }
    for (queue, of_queue) in &messages.queues {
        let settings = facts.history.queue_settings(*queue);
        let attempts_max = settings.and_then(|it| it.attempts_max);
        let mut values: HashMap<NameId, (ValueId, OperationId)> = HashMap::new();
        for (value, message) in of_queue {
            let one = One {
                facts,
                queue: *queue,
                value: *value,
                message,
            };
            for delivery in &message.deliveries {
                let (other, by) = *values.entry(delivery.lease).or_insert((*value, delivery.by));
                if other != *value {
                    let what = format!("came under the lease token of {:?}", facts.history.value(other));
                    one.tell(Kind::LeaseReused, &what, &[by, delivery.by], findings);
                }
            }
            after_done(&one, findings);
            pairs(&one, messages, findings);
            stale(&one, findings);
            if let Some(max) = attempts_max {
                failed(&one, messages, max, findings);
            }
            let early = message
                .deliveries
                .iter()
                .find(|it| message.not_before.is_some_and(|time| it.came_ns < time));
            if let Some(early) = early.filter(|_| !clocks_moved) {
                let mut witness = message.sends.clone();
                witness.push(early.by);
                let due = message.not_before.unwrap_or(0) as f64 / 1e6;
                one.tell(Kind::TooEarly, &format!("came before {due:.3} ms"), &witness, findings);
            }
            if message.is_aborted
                && let Some(first) = message.deliveries.first()
            {
                let witness = [&message.sends[..], &[first.by]].concat();
                one.tell(
                    Kind::AbortedRead,
                    "came though its transaction was aborted",
                    &witness,
                    findings,
                );
            }
        }
    }
}

/// One message, as its checks need it.
struct One<'a, 'h> {
    facts: &'a Facts<'h>,
    queue: NameId,
    value: ValueId,
    message: &'a Message,
}

impl One<'_, '_> {
    fn tell(&self, kind: Kind, what: &str, witness: &[OperationId], findings: &mut Findings) {
        tell(self.facts, kind, self.queue, self.value, what, witness, findings);
    }

    fn settles(&self) -> impl Iterator<Item = (OperationId, &SettleBody)> {
        self.message
            .settles
            .iter()
            .filter_map(|id| match &self.facts.history.operation(*id).body {
                Body::Settle(settle) => Some((*id, &**settle)),
                _ => None,
            })
    }

    /// The delivery that a settlement is about.
    fn delivery(&self, lease: Option<NameId>) -> Option<&Delivery> {
        self.message.deliveries.iter().find(|it| Some(it.lease) == lease)
    }
}

/// What is done does not come again.
fn after_done(one: &One<'_, '_>, findings: &mut Findings) {
    let Some((done, by)) = one.message.done else { return };
    let Body::Settle(settle) = &one.facts.history.operation(by).body else {
        return;
    };
    let attempt = one.delivery(settle.lease).map_or(0, |it| it.attempt);
    let is_later = |it: &&Delivery| it.attempt > attempt && attempt > 0 && it.came > done && !settle.already;
    let again = one
        .message
        .deliveries
        .iter()
        .find(|it| it.granted_from > done || is_later(it));
    if let Some(again) = again {
        let what = "came again after it was confirmed to be done";
        one.tell(Kind::AfterAck, what, &[by, again.by], findings);
    }
}

/// Whether a delivery was granted after another one for certain: by the calls, or where these were under way at once by the attempts.
fn is_later(first: &Delivery, second: &Delivery) -> bool {
    let by_attempt = first.attempt > 0 && second.attempt > first.attempt && first.granted_from <= second.came;
    second.granted_from > first.came || by_attempt
}

/// Two deliveries of one message: not at once, and the later one knows of the one before.
fn pairs(one: &One<'_, '_>, messages: &Messages, findings: &mut Findings) {
    let deliveries = &one.message.deliveries;
    for (at, second) in deliveries.iter().enumerate() {
        let from = if deliveries.len() > PAIRS_MAX {
            at.saturating_sub(1)
        } else {
            0
        };
        for first in deliveries[from..at].iter().filter(|first| first.lease != second.lease) {
            let is_after = is_later(first, second);
            if is_after && second.came_ns < first.live_until_ns {
                let until = first.live_until_ns as f64 / 1e6;
                let what = format!("came to a second consumer while the first had it until {until:.3} ms at least");
                one.tell(Kind::TwoHolders, &what, &[first.by, second.by], findings);
            }
            let went_back = (second.attempt > 0 && second.attempt <= first.attempt) || second.failures < first.failures;
            let redriven = || messages.may_be_redriven(one.facts, one.queue, second.came);
            if second.granted_from > first.came && went_back && !redriven() {
                let what = format!(
                    "came as attempt {} with {} failures, and then as attempt {} with {}",
                    first.attempt, first.failures, second.attempt, second.failures
                );
                one.tell(Kind::AttemptsBack, &what, &[first.by, second.by], findings);
            }
        }
    }
}

/// A settlement has an effect only under the lease that is live.
fn stale(one: &One<'_, '_>, findings: &mut Findings) {
    for (id, settle) in one.settles() {
        let operation = one.facts.history.operation(id);
        if !operation.is_ok() || settle.already || settle.settlement == Settlement::Cancel {
            continue;
        }
        let Some(own) = one.delivery(settle.lease) else {
            continue;
        };
        let is_newer = |it: &&Delivery| {
            let is_after = is_later(own, it);
            it.lease != own.lease && is_after && it.came < operation.invoked
        };
        if let Some(newer) = one.message.deliveries.iter().find(is_newer) {
            let what = "was settled under a lease after it had been handed out again";
            one.tell(Kind::StaleSettle, what, &[own.by, newer.by, id], findings);
        }
    }
}

/// What has failed so often as it may is dead.
fn failed(one: &One<'_, '_>, messages: &Messages, max: u32, findings: &mut Findings) {
    let nacks: Vec<OperationId> = one
        .settles()
        .filter(|(id, settle)| {
            settle.settlement == Settlement::Nack && !settle.already && one.facts.history.operation(*id).is_ok()
        })
        .map(|(id, _)| id)
        .collect();
    for delivery in &one.message.deliveries {
        if messages.may_be_redriven(one.facts, one.queue, delivery.came) {
            continue;
        }
        let is_before = |id: &&OperationId| one.facts.history.operation(**id).ended < delivery.granted_from;
        let known: Vec<OperationId> = nacks.iter().filter(is_before).copied().collect();
        let failures = delivery.failures.max(u32::try_from(known.len()).unwrap_or(u32::MAX));
        if failures >= max {
            let what = format!("came after {failures} failures, of which {max} are allowed");
            let witness = [&known[..], &[delivery.by]].concat();
            one.tell(Kind::FailedTooOften, &what, &witness, findings);
            return;
        }
    }
}
