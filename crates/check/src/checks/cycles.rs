//! Cycles of dependencies (Adya 1999): who read what whom wrote, what was written behind what, the order within transactions and
//! processes, and real time.
//!
//! Each send, poll and commit is a node. A read depends on the commit of the transaction that wrote the value, or on the send itself. In a
//! partition each send depends on the one before it; two transactions may have written between each other's records (G0 is no anomaly), for
//! a transaction is no one node. Real time goes over a chain of moments, so that it takes one edge for each beginning and end.

use crate::call::Isolation;
use crate::graph::{Edge, Graph, Node};
use crate::history::log::Run;
use crate::history::operation::{Body, NEVER};
use crate::names::OperationId;
use crate::verdict::{Findings, Kind};

use super::facts::{Facts, Fate};

const WRITE_READ: u8 = 0;
const WRITE_WRITE: u8 = 1;
const TRANSACTION: u8 = 2;
const PROCESS: u8 = 3;
/// From the end of an operation to a moment, along moments, and from a moment to the beginning of an operation.
const REAL_TIME: u8 = 4;
const MOMENT: u8 = 5;

/// Judges the dependencies of everything, the plainest cycles first: each operation is told of once.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    let (edges, nodes, count) = edges(facts);
    if edges.is_empty() {
        return;
    }
    let graph = Graph::new(count, &edges);
    drop(edges);
    let mut told = vec![false; nodes];
    let levels = [
        (TRANSACTION, Kind::CircularFlow),
        (PROCESS, Kind::CycleProcess),
        (MOMENT, Kind::CycleRealTime),
    ];
    for (level, kind) in levels {
        for component in graph.components(|edge| edge <= level) {
            let is_known = component
                .iter()
                .any(|node| told.get(*node as usize).copied().unwrap_or(false));
            component
                .iter()
                .filter(|node| (**node as usize) < nodes)
                .for_each(|node| told[*node as usize] = true);
            if is_known {
                continue;
            }
            let starts = starts(facts, &graph, &component, nodes);
            let cycle = graph.shortest_cycle(
                &component,
                starts.into_iter(),
                |edge| edge <= level,
                |edge| edge == MOMENT,
            );
            let reads = |edge: &Edge| matches!(edge.2, WRITE_READ | TRANSACTION);
            // Writes that contradict a process or real time are told of without a graph.
            if cycle.iter().any(reads) {
                tell(facts, kind, &cycle, nodes, findings);
            }
        }
    }
}

/// The operations of a component, first those on which something depends that was over before they began.
fn starts(facts: &Facts<'_>, graph: &Graph, component: &[Node], nodes: usize) -> Vec<Node> {
    let mut starts: Vec<Node> = component
        .iter()
        .copied()
        .filter(|node| (*node as usize) < nodes)
        .collect();
    let operation = |node: Node| facts.history.operation(OperationId(node));
    let contradicts = |node: &Node| {
        let is_before =
            |(target, kind): (Node, u8)| kind <= WRITE_WRITE && operation(target).ended < operation(*node).invoked;
        graph.edges_of(*node).any(is_before)
    };
    starts.sort_by_cached_key(|node| (!contradicts(node), *node));
    starts
}

fn tell(facts: &Facts<'_>, kind: Kind, cycle: &[Edge], nodes: usize, findings: &mut Findings) {
    let steps: Vec<&Edge> = cycle.iter().filter(|(from, ..)| (*from as usize) < nodes).collect();
    findings.add_ordered(
        kind,
        || {
            let of = |edge: &&Edge| match edge.2 {
                WRITE_READ => "write-read",
                WRITE_WRITE => "write-write",
                TRANSACTION => "transaction",
                PROCESS => "process",
                _ => "real time",
            };
            let kinds: Vec<&str> = steps.iter().map(of).collect();
            format!("a cycle of {} operations: {}", steps.len(), kinds.join(", "))
        },
        || {
            let of = |edge: &&Edge| {
                let (index, text) = facts.shown(OperationId(edge.0));
                let then = match edge.2 {
                    WRITE_READ => "was read by",
                    WRITE_WRITE => "lies before",
                    TRANSACTION => "is in one transaction with, before",
                    PROCESS => "was over when its process began",
                    _ => "was over before",
                };
                (index, format!("{text} -- {then}"))
            };
            let mut witness: Vec<_> = steps.iter().map(of).collect();
            witness.extend(steps.first().map(|edge| {
                let (index, text) = facts.shown(OperationId(edge.0));
                (index, format!("{text} (the first again)"))
            }));
            witness
        },
    );
}

/// The edges, the number of nodes that are operations, and of all nodes.
fn edges(facts: &Facts<'_>) -> (Vec<Edge>, usize, usize) {
    let nodes = facts.history.operations().len();
    let mut edges: Vec<Edge> = Vec::new();
    writes(facts, &mut edges);
    for (id, operation) in facts.history.numbered().filter(|(_, operation)| operation.is_ok()) {
        if let Body::Poll { isolation, reads, .. } = &operation.body {
            for read in reads {
                for run in facts.history.runs(read) {
                    reads_of(facts, id, *isolation, read.partition, *run, &mut edges);
                }
            }
        }
    }
    for transaction in &facts.transactions {
        if let Some(commit) = transaction.commit.filter(|_| transaction.fate == Fate::Committed) {
            let before = transaction.operations.iter().filter(|id| **id < commit);
            edges.extend(before.map(|id| (id.0, commit.0, TRANSACTION)));
        }
    }
    let count = moments(facts, nodes, &mut edges);
    (edges, nodes, count)
}

/// Whether an operation is a node: it took effect, and depends on others or others on it.
fn is_node(facts: &Facts<'_>, id: OperationId) -> bool {
    let operation = facts.history.operation(id);
    match &operation.body {
        Body::Send(_) => operation.may_be(),
        Body::Poll { reads, .. } => operation.is_ok() && !reads.is_empty(),
        Body::Commit(name) => {
            let transaction = &facts.transactions[facts.transaction_of[name]];
            transaction.commit == Some(id) && transaction.fate == Fate::Committed
        }
        _ => false,
    }
}

/// Sends in the order of their log.
fn writes(facts: &Facts<'_>, edges: &mut Vec<Edge>) {
    for known in &facts.partitions {
        let mut before: Option<OperationId> = None;
        for writer in known.entries.iter().filter_map(|entry| entry.writer) {
            if let Some(before) = before.filter(|before| *before != writer) {
                edges.push((before.0, writer.0, WRITE_WRITE));
            }
            before = Some(writer);
        }
    }
}

/// A read depends on the last send of a run, and by that on all before; and on the commit of each transaction in it.
fn reads_of(
    facts: &Facts<'_>,
    id: OperationId,
    isolation: Isolation,
    partition: crate::names::PartitionId,
    run: Run,
    edges: &mut Vec<Edge>,
) {
    let entries = facts.entries_of(partition, run);
    if let Some(writer) = entries.iter().rev().find_map(|entry| entry.writer) {
        edges.push((writer.0, id.0, WRITE_READ));
    }
    if isolation == Isolation::Uncommitted || !facts.partitions[partition.at()].transactional {
        return;
    }
    let mut before = None;
    for entry in entries {
        let name = facts.sent(entry).and_then(|(_, send)| send.transaction);
        let Some(name) = name.filter(|name| before != Some(*name)) else {
            continue;
        };
        before = Some(name);
        let transaction = &facts.transactions[facts.transaction_of[&name]];
        // Its own values are nobody else's.
        let is_own =
            matches!(&facts.history.operation(id).body, Body::Poll { transaction: Some(own), .. } if *own == name);
        if let Some(commit) = transaction.commit.filter(|_| !is_own) {
            edges.push((commit.0, id.0, WRITE_READ));
        }
    }
}

/// The order of processes and of real time.
fn moments(facts: &Facts<'_>, nodes: usize, edges: &mut Vec<Edge>) -> usize {
    let mut events: Vec<(u64, bool, OperationId)> = Vec::new();
    for (id, operation) in facts.history.numbered() {
        if is_node(facts, id) {
            events.push((operation.invoked, false, id));
            if operation.ended != NEVER && operation.is_ok() {
                events.push((operation.ended, true, id));
            }
        }
    }
    events.sort_unstable();
    let mut last_of: std::collections::HashMap<u32, OperationId> = std::collections::HashMap::new();
    let mut moment: Option<Node> = None;
    let mut count = u32::try_from(nodes).expect("operations are numbered so");
    for (_, is_end, id) in events {
        let process = facts.history.operation(id).process;
        if is_end {
            last_of.insert(process, id);
            if let Some(before) = moment {
                edges.push((before, count, MOMENT));
            }
            edges.push((id.0, count, REAL_TIME));
            moment = Some(count);
            count += 1;
            continue;
        }
        if let Some(before) = last_of.get(&process) {
            edges.push((before.0, id.0, PROCESS));
        }
        if let Some(moment) = moment {
            edges.push((moment, id.0, MOMENT));
        }
    }
    count as usize
}
