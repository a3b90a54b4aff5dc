//! The order in which messages go out: of a key one after another, and the highest lane first.

use std::collections::BTreeMap;

use crate::history::operation::Body;
use crate::names::{NameId, OperationId, ValueId};
use crate::verdict::{Findings, Kind};

use super::super::facts::Facts;
use super::messages::{Delivery, Message, Messages, tell};

/// A message of a key: its offset, its value, and what became of it.
type Placed<'a> = (i64, ValueId, &'a Message);

/// Judges the order of all queues that keep one.
pub fn check(facts: &Facts<'_>, messages: &Messages, findings: &mut Findings) {
    for (queue, of_queue) in &messages.queues {
        let Some(settings) = facts.history.queue_settings(*queue) else {
            continue;
        };
        if settings.ordered {
            let mut keys: BTreeMap<(NameId, u32), Vec<Placed<'_>>> = BTreeMap::new();
            for (value, message) in of_queue {
                if let (Some(key), Some((partition, offset))) = (message.key, message.place) {
                    keys.entry((key, partition))
                        .or_default()
                        .push((offset, *value, message));
                }
            }
            for of_key in keys.values_mut() {
                of_key.sort_unstable_by_key(|(offset, ..)| *offset);
                first_deliveries(facts, *queue, of_key, findings);
                one_at_a_time(facts, *queue, of_key, findings);
            }
        }
        if settings.strict {
            lanes(facts, *queue, of_queue, findings);
        }
    }
}

/// Of a key the first deliveries come in the order of the messages.
fn first_deliveries(facts: &Facts<'_>, queue: NameId, of_key: &[(i64, ValueId, &Message)], findings: &mut Findings) {
    // From the last message on: the one behind whose first delivery came earliest.
    let mut earliest: Option<(&Delivery, ValueId)> = None;
    for (_, value, message) in of_key.iter().rev() {
        let Some(first) = message.deliveries.first() else {
            continue;
        };
        if let Some((later, other)) = earliest.filter(|(later, _)| later.came < first.granted_from) {
            let what = format!(
                "came first after {:?}, which lies behind it",
                facts.history.value(other)
            );
            tell(
                facts,
                Kind::KeyOrder,
                queue,
                *value,
                &what,
                &[later.by, first.by],
                findings,
            );
        }
        if earliest.is_none_or(|(later, _)| first.came < later.came) {
            earliest = Some((first, *value));
        }
    }
}

/// Of a key one consumer has messages at a time.
fn one_at_a_time(facts: &Facts<'_>, queue: NameId, of_key: &[(i64, ValueId, &Message)], findings: &mut Findings) {
    let process = |delivery: &Delivery| facts.history.operation(delivery.by).process;
    let mut all: Vec<(&Delivery, ValueId)> = Vec::new();
    for (_, value, message) in of_key {
        all.extend(message.deliveries.iter().map(|delivery| (delivery, *value)));
    }
    all.sort_unstable_by_key(|(delivery, _)| delivery.came);
    let mut by_grant: Vec<(&Delivery, ValueId)> = all.iter().filter(|(it, _)| it.granted_from > 0).copied().collect();
    by_grant.sort_unstable_by_key(|(delivery, _)| delivery.granted_from);
    // Those that had come: the longest lease, and the longest of another process than that one's.
    let mut longest: [Option<(&Delivery, ValueId)>; 2] = [None, None];
    let mut came = all.iter().copied().peekable();
    for (second, value) in by_grant {
        while let Some(next) = came.next_if(|(it, _)| it.came < second.granted_from) {
            let until = |it: Option<(&Delivery, ValueId)>| it.map_or(0, |(it, _)| it.live_until_ns);
            if next.0.live_until_ns > until(longest[0]) {
                if longest[0].is_some_and(|(it, _)| process(it) != process(next.0)) {
                    longest[1] = longest[0];
                }
                longest[0] = Some(next);
            } else if next.0.live_until_ns > until(longest[1])
                && longest[0].is_some_and(|(it, _)| process(it) != process(next.0))
            {
                longest[1] = Some(next);
            }
        }
        let is_held = |(first, other): &(&Delivery, ValueId)| {
            process(first) != process(second) && *other != value && second.came_ns < first.live_until_ns
        };
        if let Some((first, other)) = longest.into_iter().flatten().find(is_held) {
            let what = format!(
                "came while another consumer had {:?} of the same key",
                facts.history.value(other)
            );
            tell(
                facts,
                Kind::TwoOfAKey,
                queue,
                value,
                &what,
                &[first.by, second.by],
                findings,
            );
        }
    }
}

/// A message that was ready for certain: from its confirmation on until the call that it came by first.
struct Ready {
    from: u64,
    until: u64,
    value: ValueId,
    sent: OperationId,
}

/// No message goes out while one of a higher lane is ready in its partition.
fn lanes(facts: &Facts<'_>, queue: NameId, of_queue: &BTreeMap<ValueId, Message>, findings: &mut Findings) {
    let mut ready: BTreeMap<u32, BTreeMap<u32, Vec<Ready>>> = BTreeMap::new();
    let mut deliveries: BTreeMap<u32, Vec<(u32, &Delivery, ValueId)>> = BTreeMap::new();
    for (value, message) in of_queue {
        let Some((partition, _)) = message.place else { continue };
        if let Some(first) = message.deliveries.first() {
            let of = deliveries.entry(partition).or_default();
            of.extend(
                message
                    .deliveries
                    .iter()
                    .filter(|it| it.granted_from > 0)
                    .map(|it| (message.priority, it, *value)),
            );
            // What is put off, or may have gone otherwise, is not ready for certain.
            let is_plain = message.not_before.is_none() && !message.expires && message.is_certain;
            // A call whose answer was lost may have had it before, which the number of the attempt tells.
            let is_plain = is_plain && first.attempt == 1;
            let sent = message.sends.first().copied();
            if let (true, Some(sent), true) = (is_plain, sent, first.granted_from > 0) {
                let until = message
                    .settles
                    .iter()
                    .map(|id| facts.history.operation(*id).invoked)
                    .min();
                let operation = facts.history.operation(sent);
                let from = match &operation.body {
                    Body::QueueSend(send) if send.transaction.is_some() => continue,
                    _ => operation.ended,
                };
                let until = until.unwrap_or(u64::MAX).min(first.granted_from);
                let lane = ready.entry(partition).or_default().entry(message.priority).or_default();
                lane.push(Ready {
                    from,
                    until,
                    value: *value,
                    sent,
                });
            }
        }
    }
    for (partition, mut of) in deliveries {
        let Some(lanes) = ready.get_mut(&partition) else {
            continue;
        };
        of.sort_unstable_by_key(|(_, delivery, _)| delivery.granted_from);
        for (lane, waiting) in lanes.iter_mut() {
            waiting.sort_unstable_by_key(|it| it.from);
            let mut begun = waiting.iter().peekable();
            let mut longest: Option<&Ready> = None;
            for (priority, delivery, value) in &of {
                while let Some(next) = begun.next_if(|it| it.from < delivery.granted_from) {
                    if longest.is_none_or(|it| it.until < next.until) {
                        longest = Some(next);
                    }
                }
                if let Some(higher) = longest.filter(|it| priority < lane && it.until > delivery.came) {
                    let what = format!(
                        "with priority {priority} came while {:?} with priority {lane} was ready",
                        facts.history.value(higher.value)
                    );
                    let witness = [higher.sent, delivery.by];
                    tell(facts, Kind::LaneOrder, queue, *value, &what, &witness, findings);
                }
            }
        }
    }
}
