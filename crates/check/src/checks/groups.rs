//! Groups: who owns a partition, and where committed offsets are.

use std::collections::{BTreeMap, HashMap};

use crate::history::operation::{Body, CommitBody, NEVER, Outcome};
use crate::names::{NameId, OperationId, PartitionId};
use crate::verdict::{Findings, Kind};

use super::facts::{Facts, Fate};

/// A commit of one partition's offset.
#[derive(Clone, Copy)]
struct Committed {
    offset: i64,
    by: OperationId,
    /// The index of the event that began what makes it count, and of the one after which it does for certain.
    from: u64,
    until: u64,
    fate: Fate,
    rewind: bool,
}

/// An answer to who asked for the committed offset of one partition.
#[derive(Clone, Copy)]
struct Fetched {
    offset: Option<i64>,
    by: OperationId,
}

/// The committed offset of one group and partition: what was written to it, and read from it.
#[derive(Default)]
struct Register {
    commits: Vec<Committed>,
    fetches: Vec<Fetched>,
}

/// Judges every group.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    owners(facts, findings);
    let mut registers: BTreeMap<(NameId, PartitionId), Register> = BTreeMap::new();
    for (id, operation) in facts.history.numbered() {
        match &operation.body {
            Body::CommitOffsets(commit) if operation.may_be() => {
                let (from, until, fate) = window(facts, id, commit);
                for (partition, offset) in &commit.offsets {
                    let committed = Committed {
                        offset: *offset,
                        by: id,
                        from,
                        until,
                        fate,
                        rewind: commit.rewind,
                    };
                    registers
                        .entry((commit.group, *partition))
                        .or_default()
                        .commits
                        .push(committed);
                }
            }
            Body::FetchOffsets { group, offsets } if operation.is_ok() => {
                for (partition, offset) in offsets {
                    let fetched = Fetched {
                        offset: *offset,
                        by: id,
                    };
                    registers.entry((*group, *partition)).or_default().fetches.push(fetched);
                }
            }
            _ => {}
        }
    }
    for ((group, partition), register) in &mut registers {
        register.commits.sort_by_key(|commit| commit.until);
        judge(facts, *group, *partition, register, findings);
    }
}

/// From when to when a commit may begin to count, and whether it does.
fn window(facts: &Facts<'_>, id: OperationId, commit: &CommitBody) -> (u64, u64, Fate) {
    let operation = facts.history.operation(id);
    let Some(name) = commit.transaction else {
        let fate = match operation.outcome {
            Outcome::Ok => Fate::Committed,
            _ => Fate::Unknown,
        };
        return (operation.invoked, operation.ended, fate);
    };
    let transaction = &facts.transactions[facts.transaction_of[&name]];
    let fate = match (operation.outcome, transaction.fate) {
        (_, Fate::Aborted) => Fate::Aborted,
        (Outcome::Ok, fate) => fate,
        _ => Fate::Unknown,
    };
    match transaction.commit.map(|id| facts.history.operation(id)) {
        Some(end) => (end.invoked, end.ended, fate),
        None => (operation.invoked, NEVER, fate),
    }
}

/// In one epoch of a group each partition has one member.
fn owners(facts: &Facts<'_>, findings: &mut Findings) {
    let mut owners: HashMap<(NameId, i64, PartitionId), (u32, u64)> = HashMap::new();
    for rebalance in facts.history.rebalances() {
        let Some((group, epoch)) = rebalance.member else {
            continue;
        };
        for partition in &rebalance.partitions {
            let (owner, index) = *owners
                .entry((group, epoch, *partition))
                .or_insert((rebalance.process, rebalance.index));
            if owner != rebalance.process {
                let name = facts.history.partition_name(*partition);
                let group = facts.history.name(group);
                let event = |index: u64, process: u32| {
                    let what = format!("#{index} group {group} assigned {name} to process {process} in epoch {epoch}");
                    (index, what)
                };
                findings.add(
                    Kind::TwoOwners,
                    || {
                        format!(
                            "processes {owner} and {} own {name} of group {group} in epoch {epoch}",
                            rebalance.process
                        )
                    },
                    || vec![event(index, owner), event(rebalance.index, rebalance.process)],
                );
            }
        }
    }
}

fn judge(facts: &Facts<'_>, group: NameId, partition: PartitionId, register: &Register, findings: &mut Findings) {
    let name = || {
        let partition = facts.history.partition_name(partition);
        format!("{partition} of group {}", facts.history.name(group))
    };
    let rewound = register.commits.iter().filter(|it| it.rewind).map(|it| it.from).min();
    accepted(facts, register, &name, findings);
    // The earliest event from which an offset may count.
    let mut since: HashMap<i64, u64> = HashMap::new();
    let mut aborted: HashMap<i64, OperationId> = HashMap::new();
    for commit in &register.commits {
        if commit.fate == Fate::Aborted {
            aborted.insert(commit.offset, commit.by);
            continue;
        }
        let first = since.entry(commit.offset).or_insert(commit.from);
        *first = (*first).min(commit.from);
    }
    // The highest offset that counted for certain, by the event from which it did.
    let certain: Vec<Committed> = register
        .commits
        .iter()
        .filter(|commit| commit.fate == Fate::Committed && commit.until != NEVER)
        .scan(None, |highest: &mut Option<Committed>, commit| {
            if highest.is_none_or(|it| it.offset < commit.offset) {
                *highest = Some(*commit);
            }
            highest.map(|it| Committed {
                until: commit.until,
                ..it
            })
        })
        .collect();
    let mut told: Option<(i64, OperationId)> = None;
    for fetched in &register.fetches {
        let asked = facts.history.operation(fetched.by);
        let is_rewound = rewound.is_some_and(|from| from < asked.ended);
        let before = certain.partition_point(|commit| commit.until < asked.invoked);
        let floor = before.checked_sub(1).map(|at| certain[at]);
        let floor = floor.map(|commit| (commit.offset, commit.by, commit.fate));
        let earlier = told.filter(|(_, by)| facts.history.operation(*by).is_before(asked));
        let least = floor
            .into_iter()
            .chain(earlier.map(|(offset, by)| (offset, by, Fate::Committed)));
        let least = least.filter(|_| !is_rewound).max_by_key(|(offset, ..)| *offset);
        let offset = fetched.offset.unwrap_or(-1);
        if let Some((least, by, _)) = least.filter(|(least, ..)| *least > offset) {
            let kind = match is_transactional(facts, by) {
                _ if offset <= 0 && !since.contains_key(&offset) => Kind::SpuriousZero,
                true => Kind::OffsetsWithoutOutputs,
                false => Kind::CommitBack,
            };
            findings.add(
                kind,
                || {
                    format!(
                        "{} is told to be at {}, and {least} was committed",
                        name(),
                        show(fetched.offset)
                    )
                },
                || vec![facts.shown(by), facts.shown(fetched.by)],
            );
        } else if let Some(offset) = fetched.offset
            && since.get(&offset).is_none_or(|from| *from > asked.ended)
        {
            let by = aborted.get(&offset).copied();
            let kind = match by {
                Some(_) => Kind::OffsetsWithoutOutputs,
                None => Kind::InventedOffset,
            };
            findings.add(
                kind,
                || {
                    let why = by.map_or("nobody had committed that", |_| "only an aborted transaction had that");
                    format!("{} is told to be at {offset}, and {why}", name())
                },
                || by.into_iter().chain([fetched.by]).map(|id| facts.shown(id)).collect(),
            );
        }
        if told.is_none_or(|(highest, _)| offset > highest) {
            told = Some((offset, fetched.by));
        }
    }
}

fn show(offset: Option<i64>) -> String {
    offset.map_or("none".to_owned(), |offset| offset.to_string())
}

fn is_transactional(facts: &Facts<'_>, id: OperationId) -> bool {
    match &facts.history.operation(id).body {
        Body::CommitOffsets(commit) => commit.transaction.is_some(),
        _ => false,
    }
}

/// Commits that were taken one after another do not go back: a member whose time is over is refused.
fn accepted(facts: &Facts<'_>, register: &Register, name: &impl Fn() -> String, findings: &mut Findings) {
    let mut order: Vec<&Committed> = register
        .commits
        .iter()
        .filter(|it| it.fate == Fate::Committed)
        .collect();
    order.sort_by_key(|commit| commit.from);
    let mut over = register
        .commits
        .iter()
        .filter(|it| it.fate == Fate::Committed && it.until != NEVER)
        .peekable();
    let mut highest: Option<&Committed> = None;
    for commit in order {
        while let Some(before) = over.next_if(|before| before.until < commit.from) {
            if highest.is_none_or(|it| it.offset < before.offset || before.rewind) {
                highest = Some(before);
            }
        }
        let lower = highest.filter(|highest| highest.offset > commit.offset && !commit.rewind);
        if let Some(highest) = lower {
            findings.add(
                Kind::CommitBack,
                || {
                    format!(
                        "{} was committed at {} and then at {}",
                        name(),
                        highest.offset,
                        commit.offset
                    )
                },
                || vec![facts.shown(highest.by), facts.shown(commit.by)],
            );
        }
    }
}
