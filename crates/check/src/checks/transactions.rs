//! Transactions: nobody sees an aborted one, everybody sees all of a committed one.

use crate::history::operation::{Body, Outcome};
use crate::names::OperationId;
use crate::verdict::{Findings, Kind};

use super::facts::{Facts, Fate, Transaction};

/// How many events show who read something.
const SHOWN: usize = 2;

/// Judges every transaction.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    aborted_reads(facts, findings);
    torn(facts, findings);
}

fn aborted_reads(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, known) in facts.history.partition_ids().zip(&facts.partitions) {
        for entry in known.entries.iter().filter(|entry| entry.committed_reads > 0) {
            let Some((operation, send)) = facts.sent(entry) else {
                continue;
            };
            let Some(name) = send.transaction else { continue };
            if facts.fate(Some(name)) != Fate::Aborted || operation.outcome == Outcome::Failed {
                continue;
            }
            findings.add(
                Kind::AbortedRead,
                || {
                    let (name, partition) = (facts.history.name(name), facts.history.partition_name(id));
                    let value = facts.history.value(send.value);
                    format!(
                        "{value:?} at {partition}:{} was read, and transaction {name} was aborted",
                        entry.offset
                    )
                },
                || {
                    let mut who: Vec<_> = entry.writer.map(|writer| facts.shown(writer)).into_iter().collect();
                    who.extend(ends(facts, facts.transaction_of[&name]));
                    who.extend(facts.who_read_committed(id, entry.offset, SHOWN));
                    who
                },
            );
        }
    }
}

/// The calls that tried to end a transaction.
fn ends(facts: &Facts<'_>, at: usize) -> Vec<(u64, String)> {
    let name = facts.transactions[at].name;
    let is_end = |body: &Body| matches!(body, Body::Commit(of) | Body::Abort(of) if *of == name);
    let ends = facts
        .history
        .numbered()
        .filter(|(_, operation)| is_end(&operation.body));
    ends.take(SHOWN).map(|(id, _)| facts.shown(id)).collect()
}

/// Whether a final read that wants committed records has an offset; none: no such read can tell.
struct Presence<'f, 'h> {
    facts: &'f Facts<'h>,
    /// For each partition: the offsets from one on that some complete final read has, as sorted runs.
    found: Vec<Option<Vec<(i64, i64)>>>,
}

impl<'f, 'h> Presence<'f, 'h> {
    fn of(facts: &'f Facts<'h>) -> Self {
        let mut found: Vec<Option<Vec<(i64, i64)>>> = vec![None; facts.partitions.len()];
        for read in facts.history.finals().iter().filter(|read| read.complete) {
            // Nothing behind an open transaction can be seen, which is told as hanging.
            if read.stable < read.end {
                continue;
            }
            let runs = found[read.partition.at()].get_or_insert_default();
            runs.extend(
                read.runs
                    .iter()
                    .filter(|run| run.agrees())
                    .map(|run| (run.first, run.last())),
            );
        }
        for runs in found.iter_mut().flatten() {
            runs.sort_unstable();
            // Replicas have the same runs: what lies within another one is left out, so that one search is enough.
            let mut end = i64::MIN;
            runs.retain(|(_, last)| {
                let is_new = *last > end;
                end = end.max(*last);
                is_new
            });
        }
        Self { facts, found }
    }

    /// Whether the record that a send wrote is there.
    fn has(&self, id: OperationId, place: Option<i64>) -> Option<bool> {
        let send = self.facts.send(id);
        let runs = self.found[send.partition.at()].as_ref()?;
        let Some(offset) = place else { return Some(false) };
        let at = runs.partition_point(|(_, last)| *last < offset);
        Some(runs.get(at).is_some_and(|(first, _)| *first <= offset))
    }
}

/// All of a committed transaction is there.
fn torn(facts: &Facts<'_>, findings: &mut Findings) {
    if facts.transactions.is_empty() {
        return;
    }
    let mut places = vec![None; facts.history.operations().len()];
    for known in &facts.partitions {
        for entry in &known.entries {
            if let Some(writer) = entry.writer {
                places[writer.at()] = Some(entry.offset);
            }
        }
    }
    let presence = Presence::of(facts);
    for transaction in facts.transactions.iter().filter(|it| it.fate == Fate::Committed) {
        let (there, missing) = split(facts, transaction, &presence, &places);
        let Some(first) = missing.first() else { continue };
        let kind = if there.is_empty() {
            Kind::LostWrite
        } else {
            Kind::TornTransaction
        };
        findings.add(
            kind,
            || {
                let of = |ids: &[OperationId]| {
                    let values: Vec<&str> = ids
                        .iter()
                        .map(|id| facts.history.value(facts.send(*id).value))
                        .collect();
                    format!("{values:?}")
                };
                let name = facts.history.name(transaction.name);
                match kind {
                    Kind::LostWrite => format!("nobody finds {} of the committed transaction {name}", of(&missing)),
                    _ => format!(
                        "of transaction {name} {} are there and {} are not",
                        of(&there),
                        of(&missing)
                    ),
                }
            },
            || {
                let mut who = vec![facts.shown(*first)];
                who.extend(there.first().map(|id| facts.shown(*id)));
                who.extend(transaction.commit.map(|id| facts.shown(id)));
                who
            },
        );
    }
}

/// The sends of a transaction whose values are there, and those that must be and are not.
fn split(
    facts: &Facts<'_>,
    transaction: &Transaction,
    presence: &Presence<'_, '_>,
    places: &[Option<i64>],
) -> (Vec<OperationId>, Vec<OperationId>) {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for id in &transaction.operations {
        let operation = facts.history.operation(*id);
        let Body::Send(send) = &operation.body else { continue };
        let place = places[id.at()];
        let entry = place.map(|offset| {
            let known = &facts.partitions[send.partition.at()];
            known.entries[known.at(offset)]
        });
        match presence.has(*id, place) {
            Some(true) => there.push(*id),
            Some(false) => {
                let may_be_gone = entry.is_some_and(|entry| facts.may_be_gone(send.partition, &entry));
                // What compaction or trimming took was there once.
                if may_be_gone {
                    there.push(*id);
                } else if operation.is_ok() {
                    missing.push(*id);
                }
            }
            None => {}
        }
    }
    (there, missing)
}
