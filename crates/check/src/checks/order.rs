//! The order of sends, ends of partitions and conditions against real time: one sweep over all events.

use std::collections::HashMap;

use crate::call::Isolation;
use crate::history::operation::{Body, NEVER, Outcome, SendBody};
use crate::names::{NameId, OperationId, PartitionId};
use crate::verdict::{Findings, Kind};

use super::facts::{Facts, Fate, Partition};

/// The highest of something, and who told it.
#[derive(Clone, Copy, Default)]
struct Highest(Option<(i64, Told)>);

/// Who told an offset.
#[derive(Clone, Copy)]
enum Told {
    By(OperationId),
    AtTheEnd(usize),
}

impl Highest {
    fn raise(&mut self, offset: i64, by: Told) {
        if self.0.is_none_or(|(highest, _)| offset > highest) {
            self.0 = Some((offset, by));
        }
    }
}

/// What is known of a partition at a moment.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The highest offset whose send was over.
    sent: Highest,
    /// The highest offset, plus one, of what was read, by isolation.
    read: [Highest; 2],
    /// The highest end that was told, by isolation.
    end: [Highest; 2],
}

fn side(isolation: Isolation) -> usize {
    usize::from(isolation == Isolation::Committed)
}

/// The ends of operations, final reads among them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Invoke(OperationId),
    End(OperationId),
    Final(usize),
}

/// Judges the order of everything.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    of_processes(facts, findings);
    conditions(facts, findings);
    sweep(facts, findings);
}

/// Sends of one process are in the log in the order in which it called.
fn of_processes(facts: &Facts<'_>, findings: &mut Findings) {
    let mut last: HashMap<(u32, PartitionId), (i64, OperationId)> = HashMap::new();
    for (id, operation) in facts.history.numbered() {
        let Body::Send(send) = &operation.body else { continue };
        let Some(offset) = send.offset else { continue };
        if !send.idempotent && send.attempts > 1 {
            continue;
        }
        let before = last.insert((operation.process, send.partition), (offset, id));
        if let Some((before, by)) = before.filter(|(before, _)| *before >= offset) {
            findings.add(
                Kind::SendOrder,
                || {
                    let name = facts.history.partition_name(send.partition);
                    format!(
                        "process {} sent what is at {name}:{offset} after what is at {before}",
                        operation.process
                    )
                },
                || vec![facts.shown(by), facts.shown(id)],
            );
        }
    }
}

/// Conditions of writes held when these were taken.
fn conditions(facts: &Facts<'_>, findings: &mut Findings) {
    let mut offsets: HashMap<(PartitionId, NameId), Vec<(i64, OperationId)>> = HashMap::new();
    let is_conditional = |send: &SendBody| send.expected_key_offset.is_some();
    for operation in facts.history.operations() {
        if let Body::Send(send) = &operation.body
            && is_conditional(send)
            && let Some(key) = send.key
        {
            offsets.entry((send.partition, key)).or_default();
        }
    }
    if !offsets.is_empty() {
        for (id, known) in facts.history.partition_ids().zip(&facts.partitions) {
            for entry in &known.entries {
                if let (Some((operation, send)), Some(writer)) = (facts.sent(entry), entry.writer)
                    && let Some(key) = send.key
                    && operation.may_be()
                    && facts.fate(send.transaction) == Fate::Committed
                    && let Some(of) = offsets.get_mut(&(id, key))
                {
                    of.push((entry.offset, writer));
                }
            }
        }
    }
    for (id, operation) in facts.history.numbered() {
        let Body::Send(send) = &operation.body else { continue };
        let Some(offset) = send.offset else { continue };
        let name = facts.history.partition_name(send.partition);
        if let Some(expected) = send.expected_end_offset.filter(|expected| *expected != offset) {
            findings.add(
                Kind::ConditionBroken,
                || format!("a write to {name} that expected offset {expected} is at {offset}"),
                || vec![facts.shown(id)],
            );
        }
        let Some((expected, key)) = send.expected_key_offset.zip(send.key) else {
            continue;
        };
        let of = &offsets[&(send.partition, key)];
        let before = of.partition_point(|(other, _)| *other < offset);
        let last = before.checked_sub(1).map(|at| of[at]);
        // What retention took counts no more, and what is not in the history may have been the key's.
        let is_broken = match last {
            Some((last, _)) => last > expected,
            None => false,
        };
        if let (true, Some((last, by))) = (is_broken, last) {
            findings.add(
                Kind::ConditionBroken,
                || {
                    let key = facts.history.name(key);
                    format!(
                        "a write to {name} expected the last record of key {key:?} at {expected}, and it was at {last}"
                    )
                },
                || vec![facts.shown(by), facts.shown(id)],
            );
        }
    }
}

/// For each entry of a partition the highest event at which it or one before it was sent, and by which call.
type Sends = Vec<(u64, Option<OperationId>)>;

/// The sends of a partition that was read.
fn sent_by(facts: &Facts<'_>, known: &Partition) -> Sends {
    let mut highest = (0, None);
    let of = known.entries.iter().map(|entry| {
        if let Some(writer) = entry.writer {
            let invoked = facts.history.operation(writer).invoked;
            if invoked >= highest.0 {
                highest = (invoked, Some(writer));
            }
        }
        highest
    });
    of.collect()
}

fn events(facts: &Facts<'_>) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    for (id, operation) in facts.history.numbered() {
        if matches!(
            operation.body,
            Body::Send(_) | Body::Poll { .. } | Body::EndOffset { .. }
        ) {
            events.push((operation.invoked, Event::Invoke(id)));
            if operation.ended != NEVER && operation.is_ok() {
                events.push((operation.ended, Event::End(id)));
            }
        }
    }
    let finals = facts.history.finals().iter().enumerate();
    // What one replica has may be behind; that is told elsewhere.
    let finals = finals.filter(|(_, read)| read.complete && read.replica.is_none());
    events.extend(finals.map(|(at, read)| (read.index, Event::Final(at))));
    events.sort_unstable();
    events
}

/// Goes through all events in order and holds each against what was known when it began.
fn sweep(facts: &Facts<'_>, findings: &mut Findings) {
    let count = facts.partitions.len();
    let mut known = vec![Known::default(); count];
    let mut sent: Vec<Option<Sends>> = vec![None; count];
    // What was known when a call began that is not over.
    let mut floors: HashMap<OperationId, Known> = HashMap::new();
    for (_, event) in events(facts) {
        match event {
            Event::Invoke(id) => match &facts.history.operation(id).body {
                Body::Send(send) => drop(floors.insert(id, known[send.partition.at()])),
                Body::EndOffset { partition, .. } => drop(floors.insert(id, known[partition.at()])),
                _ => {}
            },
            Event::End(id) => {
                let operation = facts.history.operation(id);
                match &operation.body {
                    Body::Send(send) => {
                        let floor = floors.remove(&id).unwrap_or_default();
                        let offset = send.offset.unwrap_or(-1);
                        real_time(facts, id, send, offset, floor, findings);
                        known[send.partition.at()].sent.raise(offset, Told::By(id));
                    }
                    Body::Poll { isolation, reads, .. } => {
                        for read in reads {
                            let last = facts.history.runs(read).iter().map(|run| run.last()).max();
                            let at = &mut known[read.partition.at()].read[side(*isolation)];
                            last.into_iter().for_each(|last| at.raise(last + 1, Told::By(id)));
                        }
                    }
                    Body::EndOffset {
                        partition,
                        isolation,
                        offset: Some(offset),
                    } => {
                        let floor = floors.remove(&id).unwrap_or_default();
                        let asked = Asked {
                            partition: *partition,
                            isolation: *isolation,
                            offset: *offset,
                            by: Told::By(id),
                        };
                        end(facts, &asked, floor, findings);
                        let sent = sent[partition.at()]
                            .get_or_insert_with(|| sent_by(facts, &facts.partitions[partition.at()]));
                        ahead(facts, &asked, operation.ended, sent, findings);
                        known[partition.at()].end[side(*isolation)].raise(*offset, Told::By(id));
                    }
                    _ => {}
                }
            }
            Event::Final(at) => {
                let read = &facts.history.finals()[at];
                let asked = |isolation, offset| Asked {
                    partition: read.partition,
                    isolation,
                    offset,
                    by: Told::AtTheEnd(at),
                };
                let floor = Known {
                    // What is lost is told as that.
                    sent: Highest::default(),
                    read: [Highest::default(); 2],
                    ..known[read.partition.at()]
                };
                end(facts, &asked(Isolation::Uncommitted, read.end), floor, findings);
                end(facts, &asked(Isolation::Committed, read.stable), floor, findings);
            }
        }
    }
    // Sends whose outcome was not known, but whose place is.
    for (id, known) in facts.history.partition_ids().zip(&facts.partitions) {
        for entry in known.entries.iter().filter(|entry| entry.is_read()) {
            let Some(writer) = entry.writer.filter(|writer| floors.contains_key(writer)) else {
                continue;
            };
            if facts.history.operation(writer).outcome != Outcome::Failed && facts.send(writer).partition == id {
                real_time(
                    facts,
                    writer,
                    facts.send(writer),
                    entry.offset,
                    floors[&writer],
                    findings,
                );
            }
        }
    }
}

fn shown(facts: &Facts<'_>, told: Told) -> (u64, String) {
    match told {
        Told::By(id) => facts.shown(id),
        Told::AtTheEnd(at) => (facts.history.finals()[at].index, facts.history.describe_final(at)),
    }
}

/// What was sent after the answer to another send lies behind it.
fn real_time(facts: &Facts<'_>, id: OperationId, send: &SendBody, offset: i64, floor: Known, findings: &mut Findings) {
    let Some((highest, by)) = floor.sent.0 else { return };
    let same_process = match by {
        // One process out of order is told as that.
        Told::By(by) => facts.history.operation(by).process == facts.history.operation(id).process,
        Told::AtTheEnd(_) => false,
    };
    // A batch of a producer without an id that was tried again may lie anywhere.
    if offset > highest || same_process || (!send.idempotent && send.attempts > 1) {
        return;
    }
    findings.add(
        Kind::RealTimeOrder,
        || {
            let name = facts.history.partition_name(send.partition);
            format!("what is at {name}:{offset} was sent after {highest} had been acknowledged")
        },
        || vec![shown(facts, by), facts.shown(id)],
    );
}

/// An end of a partition that was told.
struct Asked {
    partition: PartitionId,
    isolation: Isolation,
    offset: i64,
    by: Told,
}

/// An end is not below what was known when it was asked for.
fn end(facts: &Facts<'_>, asked: &Asked, floor: Known, findings: &mut Findings) {
    let name = || facts.history.partition_name(asked.partition);
    let at = side(asked.isolation);
    let end = floor.end[at].0.filter(|(end, _)| *end > asked.offset);
    if let Some((before, by)) = end {
        findings.add(
            Kind::EndOffsetBack,
            || format!("the end of {} was {before} and then {}", name(), asked.offset),
            || vec![shown(facts, by), shown(facts, asked.by)],
        );
        return;
    }
    let is_plain = !facts.partitions[asked.partition.at()].transactional;
    // A last stable offset may lie below what was acknowledged, where there are transactions.
    let sent = floor
        .sent
        .0
        .filter(|_| is_plain || asked.isolation == Isolation::Uncommitted);
    let sent = sent.map(|(offset, by)| (offset + 1, by));
    // A high watermark is not below what anybody read, a last stable offset not below what was read as committed.
    let reads = match asked.isolation {
        Isolation::Committed => &floor.read[at..],
        Isolation::Uncommitted => &floor.read[..],
    };
    let known = reads
        .iter()
        .filter_map(|read| read.0)
        .chain(sent)
        .max_by_key(|(offset, _)| *offset);
    if let Some((least, by)) = known.filter(|(least, _)| *least > asked.offset) {
        findings.add(
            Kind::EndOffsetStale,
            || {
                format!(
                    "the end of {} was told to be {}, and it was known to be {least}",
                    name(),
                    asked.offset
                )
            },
            || vec![shown(facts, by), shown(facts, asked.by)],
        );
    }
}

/// An end is not above what had been sent when it was told.
fn ahead(facts: &Facts<'_>, asked: &Asked, ended: u64, sent: &[(u64, Option<OperationId>)], findings: &mut Findings) {
    let known = &facts.partitions[asked.partition.at()];
    let below = known.at(asked.offset);
    let Some((invoked, Some(writer))) = below.checked_sub(1).map(|at| sent[at]) else {
        return;
    };
    if invoked > ended {
        findings.add(
            Kind::EndOffsetAhead,
            || {
                let name = facts.history.partition_name(asked.partition);
                format!(
                    "the end of {name} was told to be {} before something below it was sent",
                    asked.offset
                )
            },
            || vec![shown(facts, asked.by), facts.shown(writer)],
        );
    }
}
