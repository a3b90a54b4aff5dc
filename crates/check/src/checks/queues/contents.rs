//! What is in queues when all is over: lost, invented, twice, counted wrong, other on another replica; what schedules and exchanges sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::call::Settlement;
use crate::history::QueueDump;
use crate::history::operation::{Body, Outcome};
use crate::names::{NameId, OperationId, ValueId};
use crate::note::{Counts, Held, MessageState};
use crate::verdict::{Findings, Kind};

use super::super::facts::Facts;
use super::messages::{Message, Messages, tell};

/// Judges what there is at the end.
pub fn check(facts: &Facts<'_>, messages: &Messages, findings: &mut Findings) {
    let sources = sources(facts);
    let arrived = arrived(facts, &sources);
    for dump in facts.history.dumps() {
        of_dump(facts, dump, &sources, findings);
    }
    replicas(facts, findings);
    for (queue, of_queue) in &messages.queues {
        for (value, message) in of_queue {
            missing(facts, messages, &arrived, *queue, *value, message, findings);
            strange(facts, messages, &sources, *queue, *value, message, findings);
        }
    }
    // What is held, and nobody heard of.
    for (queue, held) in &messages.held {
        let of_queue = messages.queues.get(queue);
        let strangers = held
            .keys()
            .filter(|value| of_queue.is_none_or(|of| !of.contains_key(value)));
        for value in strangers.collect::<BTreeSet<_>>() {
            strange(facts, messages, &sources, *queue, *value, &Message::default(), findings);
        }
    }
    dead_letters(facts, &sources, findings);
    repetitions(facts, findings);
    occurrences(facts, findings);
}

/// The queues whose dead letters come to a queue or topic, by its name.
type Sources<'h> = BTreeMap<&'h str, Vec<NameId>>;

fn sources<'h>(facts: &Facts<'h>) -> Sources<'h> {
    let mut sources = Sources::new();
    for (queue, settings) in facts.history.all_queue_settings() {
        if let Some(target) = &settings.dead_letters {
            sources.entry(target).or_default().push(queue);
        }
    }
    sources
}

/// The values in the topics that dead letters go to.
type Arrived<'h> = BTreeMap<&'h str, HashSet<ValueId>>;

fn arrived<'h>(facts: &Facts<'_>, sources: &Sources<'h>) -> Arrived<'h> {
    let values = |topic: &str| topic_entries(facts, topic).map(|(.., value)| value).collect();
    sources.keys().map(|topic| (*topic, values(topic))).collect()
}

fn queue_of(facts: &Facts<'_>, dump: &QueueDump) -> NameId {
    facts
        .history
        .find_name(&dump.dump.queue)
        .expect("names of dumps are numbered")
}

fn shown(dump: &QueueDump) -> (u64, String) {
    let who = match &dump.dump.replica {
        Some(replica) => format!("on replica {replica}"),
        None => "for a client".to_owned(),
    };
    let count = dump.dump.messages.len();
    (
        dump.index,
        format!(
            "#{} contents of queue {} {who}: {count} messages",
            dump.index, dump.dump.queue
        ),
    )
}

/// One dump fits together.
fn of_dump(facts: &Facts<'_>, dump: &QueueDump, sources: &Sources<'_>, findings: &mut Findings) {
    let queue = queue_of(facts, dump);
    let settings = facts.history.queue_settings(queue);
    let mut counts = Counts::default();
    let mut places: HashMap<(u32, i64), &Held> = HashMap::new();
    let mut values: HashMap<&str, &Held> = HashMap::new();
    for held in &dump.dump.messages {
        match held.state {
            MessageState::Ready => counts.ready += 1,
            MessageState::Leased => counts.leased += 1,
            MessageState::Waiting => counts.waiting += 1,
            MessageState::Dead => counts.dead += 1,
        }
        let what = |what: String| move || what;
        let (text, place) = (&held.value.0, format!("{}:{}", held.partition, held.offset));
        if let Some(other) = places.insert((held.partition, held.offset), held) {
            let what = what(format!(
                "queue {} has {text:?} at {place} as {:?} and {:?}",
                dump.dump.queue, other.state, held.state
            ));
            findings.add(Kind::TwoStates, what, || vec![shown(dump)]);
        } else if let Some(other) = values.insert(text, held).filter(|_| is_once(facts, queue, text)) {
            let kind = if sources.contains_key(&*dump.dump.queue) {
                Kind::DeadLetterTwice
            } else {
                Kind::MessageTwice
            };
            let what = what(format!(
                "queue {} has {text:?} at {}:{} and {place}",
                dump.dump.queue, other.partition, other.offset
            ));
            findings.add(kind, what, || vec![shown(dump)]);
        }
        let floor = dump.dump.floors.iter().find(|floor| floor.partition == held.partition);
        if let Some(floor) = floor.filter(|floor| floor.floor > held.offset) {
            let what = what(format!(
                "the floor of queue {} is {} above {text:?} at {place}",
                dump.dump.queue, floor.floor
            ));
            findings.add(Kind::FloorAboveMessage, what, || vec![shown(dump)]);
        }
        let max = settings
            .and_then(|it| it.attempts_max)
            .filter(|max| held.failures >= *max);
        if let Some(max) = max.filter(|_| held.state != MessageState::Dead) {
            let what = what(format!(
                "{text:?} of queue {} is {:?} with {} of {max} failures",
                dump.dump.queue, held.state, held.failures
            ));
            findings.add(Kind::FailedTooOften, what, || vec![shown(dump)]);
        }
    }
    for floor in &dump.dump.floors {
        if let Some(start) = floor.log_start.filter(|start| *start > floor.floor) {
            let what = || {
                format!(
                    "the log of queue {} partition {} starts at {start}, above its floor {}",
                    dump.dump.queue, floor.partition, floor.floor
                )
            };
            findings.add(Kind::LogStartAboveFloor, what, || vec![shown(dump)]);
        }
    }
    if let Some(told) = dump.dump.counts.filter(|told| dump.dump.complete && *told != counts) {
        let what = || format!("queue {} counts {told:?} and has {counts:?}", dump.dump.queue);
        findings.add(Kind::CountsWrong, what, || vec![shown(dump)]);
    }
}

/// Whether a value was sent in one call at most, whose outcome is certain, so that it is there once.
fn is_once(facts: &Facts<'_>, queue: NameId, value: &str) -> bool {
    let Some(value) = facts.history.find_value(value) else {
        return true;
    };
    let sends = facts
        .history
        .operations()
        .iter()
        .filter(|operation| match &operation.body {
            Body::QueueSend(send) => send.queue == queue && send.value == value,
            Body::Publish { queues, value: of, .. } => *of == value && queues.contains(&queue),
            _ => false,
        });
    let sends: Vec<Outcome> = sends.map(|operation| operation.outcome).take(2).collect();
    matches!(sends[..], [] | [Outcome::Ok])
}

/// All replicas have the same.
fn replicas(facts: &Facts<'_>, findings: &mut Findings) {
    let mut first: BTreeMap<&str, (&QueueDump, Vec<String>)> = BTreeMap::new();
    let complete = |dump: &&QueueDump| dump.dump.complete && dump.dump.replica.is_some();
    for dump in facts.history.dumps().iter().filter(complete) {
        let of = |held: &Held| {
            let Held {
                value,
                state,
                partition,
                offset,
                failures,
            } = held;
            format!(
                "{partition}:{offset:020} {:?} {state:?} after {failures} failures",
                value.0
            )
        };
        let mut state: Vec<String> = dump.dump.messages.iter().map(of).collect();
        state.sort_unstable();
        match first.get(&*dump.dump.queue) {
            None => drop(first.insert(&dump.dump.queue, (dump, state))),
            Some((other, before)) => {
                let differs = before.iter().zip(&state).position(|(a, b)| a != b);
                let at = differs.unwrap_or(before.len().min(state.len()));
                if before.len() == state.len() && differs.is_none() {
                    continue;
                }
                let text = |state: &[String]| state.get(at).map_or("nothing more".to_owned(), Clone::clone);
                let what = || {
                    format!(
                        "of queue {} one replica has {}, the other {}",
                        dump.dump.queue,
                        text(before),
                        text(&state)
                    )
                };
                findings.add(Kind::QueueDivergence, what, || vec![shown(other), shown(dump)]);
            }
        }
    }
}

/// What was confirmed is done, or there.
fn missing(
    facts: &Facts<'_>,
    messages: &Messages,
    arrived: &Arrived<'_>,
    queue: NameId,
    value: ValueId,
    message: &Message,
    findings: &mut Findings,
) {
    let Some(held) = messages.held.get(&queue) else { return };
    let is_excused = message.may_be_done || message.expires || messages.may_be_purged(facts, queue, message);
    if !message.is_certain || held.contains_key(&value) || is_excused {
        return;
    }
    let target = facts
        .history
        .queue_settings(queue)
        .and_then(|it| it.dead_letters.as_deref());
    if target.is_some_and(|target| has(facts, messages, arrived, target, value)) {
        return;
    }
    let rejected = message.settles.iter().find(|id| {
        let operation = facts.history.operation(**id);
        let is_reject = matches!(&operation.body, Body::Settle(settle) if settle.settlement == Settlement::Reject);
        is_reject && operation.is_ok()
    });
    let mut witness: Vec<OperationId> = message.sends.iter().take(1).copied().collect();
    witness.extend(message.deliveries.last().map(|it| it.by));
    witness.extend(rejected);
    let publish = message
        .sends
        .iter()
        .find(|id| matches!(facts.history.operation(**id).body, Body::Publish { .. }));
    let (kind, what) = match (rejected, publish) {
        (Some(_), _) => (
            Kind::DeadLetterLost,
            "was rejected, and is neither there nor where dead letters go",
        ),
        (None, Some(_)) if message.deliveries.is_empty() => (
            Kind::TornPublish,
            "was published and confirmed, and is not in this queue",
        ),
        _ => (Kind::MessageLost, "was confirmed, and is neither done nor there"),
    };
    tell(facts, kind, queue, value, what, &witness, findings);
}

/// Whether a value is, or was, in the queue or topic of this name.
fn has(facts: &Facts<'_>, messages: &Messages, arrived: &Arrived<'_>, target: &str, value: ValueId) -> bool {
    let in_queue = facts.history.find_name(target).is_some_and(|queue| {
        let came = messages.queues.get(&queue).and_then(|of| of.get(&value));
        let held = messages.held.get(&queue);
        came.is_some_and(|it| !it.deliveries.is_empty()) || held.is_some_and(|it| it.contains_key(&value))
    });
    in_queue || arrived.get(target).is_some_and(|values| values.contains(&value))
}

/// The values in the partitions of a topic, which are called `topic` or `topic/...`: partition, offset, value.
fn topic_entries(facts: &Facts<'_>, topic: &str) -> impl Iterator<Item = (crate::names::PartitionId, i64, ValueId)> {
    let is_of = move |id: &crate::names::PartitionId| {
        let rest = facts.history.partition_name(*id).strip_prefix(topic);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let partitions: Vec<_> = facts.history.partition_ids().filter(is_of).collect();
    partitions.into_iter().flat_map(move |id| {
        let entries = facts.partitions[id.at()].entries.iter();
        entries.filter_map(move |entry| Some((id, entry.offset, entry.value?)))
    })
}

/// Nothing is there that was not sent there.
fn strange(
    facts: &Facts<'_>,
    messages: &Messages,
    sources: &Sources<'_>,
    queue: NameId,
    value: ValueId,
    message: &Message,
    findings: &mut Findings,
) {
    let is_held = messages.held.get(&queue).is_some_and(|held| held.contains_key(&value));
    let is_there = !message.deliveries.is_empty() || is_held;
    if !message.sends.is_empty() || message.is_of_schedule || !is_there {
        return;
    }
    let is_sent = |source: &NameId| {
        messages
            .queues
            .get(source)
            .is_some_and(|of| of.get(&value).is_some_and(|it| !it.sends.is_empty()))
    };
    if sources
        .get(facts.history.name(queue))
        .is_some_and(|sources| sources.iter().any(is_sent))
    {
        return;
    }
    let published = facts
        .history
        .numbered()
        .find(|(_, it)| matches!(&it.body, Body::Publish { value: of, .. } if *of == value) && it.may_be());
    let (kind, what) = match published {
        Some(_) => (Kind::Misrouted, "was published for other queues"),
        None => (
            Kind::MessageInvented,
            "is there, and nobody sent it, or its send was refused for certain",
        ),
    };
    let (name, text) = (facts.history.name(queue), facts.history.value(value));
    let is_send = |body: &Body| matches!(body, Body::QueueSend(send) if send.queue == queue && send.value == value);
    findings.add(
        kind,
        || format!("{text:?} of queue {name} {what}"),
        || {
            let refused = facts.history.numbered().find(|(_, it)| is_send(&it.body));
            let calls = published.iter().chain(&refused).map(|(id, _)| *id);
            let calls = calls.chain(message.deliveries.first().map(|it| it.by));
            let mut witness: Vec<_> = calls.map(|id| facts.shown(id)).collect();
            let has = |dump: &&QueueDump| {
                dump.dump.queue == name && dump.dump.messages.iter().any(|held| held.value.0 == text)
            };
            witness.extend(facts.history.dumps().iter().find(has).map(shown));
            witness
        },
    );
}

/// A dead letter arrives in a topic once.
fn dead_letters(facts: &Facts<'_>, sources: &Sources<'_>, findings: &mut Findings) {
    for target in sources.keys() {
        let mut places = HashMap::new();
        for (partition, offset, value) in topic_entries(facts, target) {
            if let Some((before, at)) = places.insert(value, (partition, offset)) {
                let what = || {
                    let (value, name) = (facts.history.value(value), facts.history.partition_name(partition));
                    let other = facts.history.partition_name(before);
                    format!("dead letter {value:?} is at {other}:{at} and {name}:{offset}")
                };
                let witness = || [facts.who_saw(before, at, 1), facts.who_saw(partition, offset, 1)].concat();
                findings.add(Kind::DeadLetterTwice, what, witness);
            }
        }
    }
}

/// One id is one message while it is remembered.
fn repetitions(facts: &Facts<'_>, findings: &mut Findings) {
    let mut sends: BTreeMap<(NameId, NameId), Vec<OperationId>> = BTreeMap::new();
    for (id, operation) in facts.history.numbered().filter(|(_, operation)| operation.is_ok()) {
        if let Body::QueueSend(send) = &operation.body
            && let Some(message_id) = send.message_id
            && facts
                .history
                .queue_settings(send.queue)
                .is_some_and(|it| it.dedup.is_some())
        {
            sends.entry((send.queue, message_id)).or_default().push(id);
        }
    }
    for ((queue, message_id), of) in sends {
        let window = facts.history.queue_settings(queue).and_then(|it| it.dedup).unwrap_or(0);
        // Repetitions are counted from the first that was not one.
        let Some(mut first) = of.first().copied() else { continue };
        for id in &of[1..] {
            let (Body::QueueSend(before), Body::QueueSend(again)) =
                (&facts.history.operation(first).body, &facts.history.operation(*id).body)
            else {
                continue;
            };
            let took = facts
                .history
                .operation(*id)
                .ended_ns
                .saturating_sub(facts.history.operation(first).invoked_ns);
            if before.place == again.place {
                continue;
            }
            if took <= window {
                let what = format!("has id {:?} and is there twice", facts.history.name(message_id));
                tell(
                    facts,
                    Kind::MessageTwice,
                    queue,
                    again.value,
                    &what,
                    &[first, *id],
                    findings,
                );
            }
            first = *id;
        }
    }
}

/// Each occurrence of a schedule is one message, and none is left out where that is said.
fn occurrences(facts: &Facts<'_>, findings: &mut Findings) {
    let mut found: BTreeMap<(NameId, NameId), BTreeMap<u64, (ValueId, OperationId)>> = BTreeMap::new();
    let mut told = HashSet::new();
    for (id, operation) in facts.history.numbered() {
        let Body::Receive { queue, messages, .. } = &operation.body else {
            continue;
        };
        for message in messages {
            let Some((schedule, number)) = message.occurrence else {
                continue;
            };
            let of = found.entry((*queue, schedule)).or_default();
            let (other, by) = *of.entry(number).or_insert((message.value, id));
            if other != message.value && told.insert((schedule, number)) {
                let what = format!(
                    "is occurrence {number} of schedule {}, as {:?} is",
                    facts.history.name(schedule),
                    facts.history.value(other)
                );
                tell(
                    facts,
                    Kind::OccurrenceTwice,
                    *queue,
                    message.value,
                    &what,
                    &[by, id],
                    findings,
                );
            }
        }
    }
    for ((queue, schedule), of) in found {
        if !facts
            .history
            .queue_settings(queue)
            .is_some_and(|it| it.every_occurrence)
        {
            continue;
        }
        let numbers: Vec<(&u64, &(ValueId, OperationId))> = of.iter().collect();
        for pair in numbers.windows(2) {
            let [(before, (_, by)), (next, (value, then))] = pair else {
                continue;
            };
            if **next - **before > 1 {
                let name = facts.history.name(schedule);
                let what = format!("is occurrence {next} of schedule {name}, and the one before it is {before}");
                tell(
                    facts,
                    Kind::OccurrenceMissed,
                    queue,
                    *value,
                    &what,
                    &[*by, *then],
                    findings,
                );
            }
        }
    }
}
