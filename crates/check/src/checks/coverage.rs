//! Whether a history shows what it was to show. One that does not is unknown, however well it looks.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::operation::Body;
use crate::names::{NameId, PartitionId};
use crate::note::FaultPhase;
use crate::verdict::Findings;

use super::facts::Facts;

/// Names that are told before the rest is only counted.
const NAMED_MAX: usize = 5;

/// Looks whether there is something to judge.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    faults(facts, findings);
    final_reads(facts, findings);
    if !facts.history.operations().iter().any(|operation| operation.is_ok()) {
        findings
            .unknown
            .push("no call was answered: there is nothing to judge".to_owned());
    }
    if !facts.history.conflicts().is_empty() {
        let more = "what conflicts with a record was left out when order and transactions were judged";
        findings.remarks.push(more.to_owned());
    }
}

fn faults(facts: &Facts<'_>, findings: &mut Findings) {
    let mut kinds: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
    for (_, fault) in facts.history.faults() {
        let (begun, took_effect) = kinds.entry(&fault.kind).or_default();
        match fault.phase {
            FaultPhase::Begin => drop(begun.insert(&fault.fault)),
            FaultPhase::TookEffect => drop(took_effect.insert(&fault.fault)),
            FaultPhase::End => {}
        }
    }
    if kinds.is_empty() {
        return;
    }
    if kinds.values().all(|(_, took_effect)| took_effect.is_empty()) {
        let names: Vec<&str> = kinds.keys().copied().collect();
        let what = format!(
            "faults were ordered ({}), and none took effect: nothing was tested under them",
            names.join(", ")
        );
        findings.unknown.push(what);
        return;
    }
    for (kind, (begun, took_effect)) in kinds {
        if took_effect.is_empty() {
            let what = format!(
                "{} faults of kind {kind} were ordered, and none took effect",
                begun.len()
            );
            findings.remarks.push(what);
        }
    }
}

fn final_reads(facts: &Facts<'_>, findings: &mut Findings) {
    let mut written: BTreeSet<PartitionId> = BTreeSet::new();
    let mut sent: BTreeSet<NameId> = BTreeSet::new();
    for operation in facts.history.operations().iter().filter(|operation| operation.is_ok()) {
        match &operation.body {
            Body::Send(send) => drop(written.insert(send.partition)),
            Body::QueueSend(send) => drop(sent.insert(send.queue)),
            Body::Publish { queues, .. } => sent.extend(queues),
            _ => {}
        }
    }
    for read in facts.history.finals() {
        if read.complete {
            written.remove(&read.partition);
        } else {
            let what = format!(
                "the last part of a final read is missing: {}",
                facts.history.partition_name(read.partition)
            );
            findings.unknown.push(what);
        }
    }
    for dump in facts.history.dumps().iter().filter(|dump| dump.dump.complete) {
        let queue = facts
            .history
            .find_name(&dump.dump.queue)
            .expect("names of dumps are numbered");
        sent.remove(&queue);
    }
    let partitions = written.iter().map(|id| facts.history.partition_name(*id));
    lacking("partitions", "final read", partitions.collect(), findings);
    let queues = sent.iter().map(|id| facts.history.name(*id));
    lacking("queues", "dump", queues.collect(), findings);
}

fn lacking(what: &str, read: &str, names: Vec<&str>, findings: &mut Findings) {
    if names.is_empty() {
        return;
    }
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    findings.unknown.push(format!(
        "{} {what} that were written to have no complete {read} ({shown}): what is lost there cannot be told",
        names.len()
    ));
}
