//! What became of each message: gathered once for all checks.

use std::collections::{BTreeMap, HashMap};

use crate::call::Settlement;
use crate::history::operation::{Body, NEVER, Outcome, SettleBody};
use crate::names::{NameId, OperationId, ValueId};
use crate::note::Held;
use crate::verdict::{Findings, Kind};

use super::super::facts::{Facts, Fate};

/// A message came to a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The call that it came by.
    pub by: OperationId,
    /// The token of it.
    pub lease: NameId,
    /// Which delivery it is; 0: not known.
    pub attempt: u32,
    /// How often the message had failed.
    pub failures: u32,
    /// The event before which it was not granted; 0: not known.
    pub granted_from: u64,
    /// The event at which it had come.
    pub came: u64,
    /// When that was.
    pub came_ns: u64,
    /// The lease was certainly live until then, unless it had ended by a settlement; 0: not known.
    pub live_until_ns: u64,
}

/// One message of one queue.
#[derive(Debug, Default)]
pub struct Message {
    /// The calls that sent it and may have had an effect.
    pub sends: Vec<OperationId>,
    /// It was confirmed to a sender, in no transaction or a committed one.
    pub is_certain: bool,
    /// All its sends are of aborted transactions.
    pub is_aborted: bool,
    /// It may have expired.
    pub expires: bool,
    /// The key that it has an order with.
    pub key: Option<NameId>,
    /// The message's lane.
    pub priority: u32,
    /// It does not go out before.
    pub not_before: Option<u64>,
    /// Its partition and offset.
    pub place: Option<(u32, i64)>,
    /// In the order in which they came.
    pub deliveries: Vec<Delivery>,
    /// What consumers did with it.
    pub settles: Vec<OperationId>,
    /// A schedule sent it.
    pub is_of_schedule: bool,
    /// The event after which it is done for certain; none: it is not.
    pub done: Option<(u64, OperationId)>,
    /// It may be done.
    pub may_be_done: bool,
}

/// All messages of all queues.
pub struct Messages {
    /// By queue, then in the order in which values were named.
    pub queues: BTreeMap<NameId, BTreeMap<ValueId, Message>>,
    /// The events from which messages of a queue may have been dropped.
    pub purges: HashMap<NameId, Vec<OperationId>>,
    /// The events from which dead letters may have gone out again.
    pub redrives: HashMap<NameId, Vec<OperationId>>,
    /// When processes left.
    leaves: HashMap<u32, Vec<(u64, u64)>>,
    /// The messages at the end of each queue with a complete dump, by value.
    pub held: BTreeMap<NameId, HashMap<ValueId, Vec<Held>>>,
}

impl Messages {
    /// Gathers what became of the messages.
    pub fn of(facts: &Facts<'_>) -> Self {
        let mut all = Self {
            queues: BTreeMap::new(),
            purges: HashMap::new(),
            redrives: HashMap::new(),
            leaves: HashMap::new(),
            held: BTreeMap::new(),
        };
        for leave in facts.history.rebalances().iter().filter(|it| it.member.is_none()) {
            all.leaves
                .entry(leave.process)
                .or_default()
                .push((leave.index, leave.time_ns));
        }
        for (id, operation) in facts.history.numbered().filter(|(_, operation)| operation.may_be()) {
            match &operation.body {
                Body::QueueSend(_) | Body::Publish { .. } => all.sent(facts, id),
                Body::Receive { .. } if operation.is_ok() => all.came(facts, id),
                Body::Settle(settle) => all.settled(facts, id, settle),
                Body::Purge(queue) => all.purges.entry(*queue).or_default().push(id),
                Body::Redrive(queue) => all.redrives.entry(*queue).or_default().push(id),
                _ => {}
            }
        }
        for message in all.queues.values_mut().flat_map(BTreeMap::values_mut) {
            message.deliveries.sort_by_key(|delivery| delivery.came);
            end_leases(facts, message, &all.leaves);
        }
        all.gather_held(facts);
        all
    }

    fn message(&mut self, queue: NameId, value: ValueId) -> &mut Message {
        self.queues.entry(queue).or_default().entry(value).or_default()
    }

    fn sent(&mut self, facts: &Facts<'_>, id: OperationId) {
        let operation = facts.history.operation(id);
        match &operation.body {
            Body::QueueSend(send) => {
                let fate = facts.fate(send.transaction);
                let message = self.message(send.queue, send.value);
                message.is_aborted = fate == Fate::Aborted && (message.sends.is_empty() || message.is_aborted);
                message.sends.push(id);
                message.is_certain |= operation.is_ok() && fate == Fate::Committed;
                message.expires |= send.expires;
                message.key = send.key;
                message.priority = send.priority;
                message.not_before = message.not_before.max(send.not_before);
                message.place = message.place.or(send.place);
            }
            Body::Publish { value, queues, .. } => {
                for queue in queues {
                    let message = self.message(*queue, *value);
                    message.is_aborted = false;
                    message.sends.push(id);
                    message.is_certain |= operation.is_ok();
                }
            }
            _ => {}
        }
    }

    fn came(&mut self, facts: &Facts<'_>, id: OperationId) {
        let operation = facts.history.operation(id);
        let Body::Receive {
            queue,
            lease,
            stream,
            messages,
        } = &operation.body
        else {
            return;
        };
        for delivered in messages {
            let until = lease
                .filter(|_| !stream)
                .map_or(0, |lease| operation.invoked_ns.saturating_add(lease));
            let message = self.message(*queue, delivered.value);
            message.is_of_schedule |= delivered.occurrence.is_some();
            message.deliveries.push(Delivery {
                by: id,
                lease: delivered.lease,
                attempt: delivered.attempt,
                failures: delivered.failures,
                granted_from: if *stream { 0 } else { operation.invoked },
                came: operation.ended,
                came_ns: operation.ended_ns,
                live_until_ns: until,
            });
        }
    }

    fn settled(&mut self, facts: &Facts<'_>, id: OperationId, settle: &SettleBody) {
        let operation = facts.history.operation(id);
        let transaction = settle
            .transaction
            .map(|name| &facts.transactions[facts.transaction_of[&name]]);
        let fate = transaction.map_or(Fate::Committed, |transaction| transaction.fate);
        let message = self.message(settle.queue, settle.value);
        message.settles.push(id);
        if !matches!(settle.settlement, Settlement::Ack | Settlement::Cancel) || fate == Fate::Aborted {
            return;
        }
        message.may_be_done = true;
        let end = match transaction.and_then(|transaction| transaction.commit) {
            Some(commit) => facts.history.operation(commit).ended,
            None => operation.ended,
        };
        let is_done = operation.is_ok() && fate == Fate::Committed && end != NEVER;
        if is_done && message.done.is_none_or(|(before, _)| end < before) {
            message.done = Some((end, id));
        }
    }

    fn gather_held(&mut self, facts: &Facts<'_>) {
        for dump in facts.history.dumps().iter().filter(|dump| dump.dump.complete) {
            let queue = facts
                .history
                .find_name(&dump.dump.queue)
                .expect("names of dumps are numbered");
            let held = self.held.entry(queue).or_default();
            for message in &dump.dump.messages {
                let value = facts
                    .history
                    .find_value(&message.value.0)
                    .expect("values of dumps are numbered");
                let of = held.entry(value).or_default();
                // Replicas have the same ones.
                if !of.contains(message) {
                    of.push(message.clone());
                }
            }
        }
    }

    /// Whether a message may have been dropped with its whole queue.
    pub fn may_be_purged(&self, facts: &Facts<'_>, queue: NameId, message: &Message) -> bool {
        let sent = message
            .sends
            .iter()
            .map(|id| facts.history.operation(*id).invoked)
            .min()
            .unwrap_or(0);
        let purges = self.purges.get(&queue);
        purges.is_some_and(|purges| purges.iter().any(|id| facts.history.operation(*id).ended > sent))
    }

    /// Whether a dead letter of the queue may have gone out again by an event.
    pub fn may_be_redriven(&self, facts: &Facts<'_>, queue: NameId, by: u64) -> bool {
        let redrives = self.redrives.get(&queue);
        redrives.is_some_and(|redrives| redrives.iter().any(|id| facts.history.operation(*id).invoked < by))
    }
}

/// How long leases lived for certain: until something was done that may have ended them.
fn end_leases(facts: &Facts<'_>, message: &mut Message, leaves: &HashMap<u32, Vec<(u64, u64)>>) {
    for delivery in &mut message.deliveries {
        for id in &message.settles {
            let operation = facts.history.operation(*id);
            let Body::Settle(settle) = &operation.body else {
                continue;
            };
            // Of a message that is done nothing is extended.
            let extends = settle.settlement == Settlement::Extend && operation.is_ok() && !settle.already;
            if extends && settle.lease == Some(delivery.lease) {
                let until = operation.invoked_ns.saturating_add(settle.extend.unwrap_or(0));
                delivery.live_until_ns = delivery.live_until_ns.max(until);
            }
        }
        for id in &message.settles {
            let operation = facts.history.operation(*id);
            let Body::Settle(settle) = &operation.body else {
                continue;
            };
            let is_end = settle.settlement != Settlement::Extend && operation.outcome != Outcome::Failed;
            if is_end && (settle.lease == Some(delivery.lease) || settle.lease.is_none()) {
                delivery.live_until_ns = delivery.live_until_ns.min(operation.invoked_ns);
            }
        }
        let process = facts.history.operation(delivery.by).process;
        let left = leaves.get(&process).into_iter().flatten();
        let left = left
            .filter(|(index, _)| *index > delivery.came)
            .map(|(_, time)| *time)
            .min();
        delivery.live_until_ns = delivery.live_until_ns.min(left.unwrap_or(u64::MAX));
    }
}

/// Adds an anomaly of one message, with the calls that show it.
pub fn tell(
    facts: &Facts<'_>,
    kind: Kind,
    queue: NameId,
    value: ValueId,
    what: &str,
    witness: &[OperationId],
    findings: &mut Findings,
) {
    findings.add(
        kind,
        || {
            format!(
                "{:?} of queue {} {what}",
                facts.history.value(value),
                facts.history.name(queue)
            )
        },
        || witness.iter().map(|id| facts.shown(*id)).collect(),
    );
}
