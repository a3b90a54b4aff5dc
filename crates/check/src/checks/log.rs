//! What is in the log when all is over: lost, unseen, twice, misplaced, invented, and what replicas differ in.

use crate::call::Isolation;
use crate::history::log::{Conflict, Source};
use crate::history::operation::{Body, Outcome};
use crate::history::{FinalRead, History};
use crate::names::PartitionId;
use crate::verdict::{Findings, Kind};

use super::facts::{Entry, Facts, Partition};

/// How many events show that something is at an offset.
const SHOWN: usize = 2;

/// Which entries each final read of a partition has.
struct Covered<'h> {
    /// The read, with its place among all final reads.
    reads: Vec<(usize, &'h FinalRead)>,
    /// For each of them, whether it has the entry.
    has: Vec<Vec<bool>>,
}

impl<'h> Covered<'h> {
    fn of(history: &'h History, id: PartitionId, known: &Partition) -> Self {
        let reads = history.finals().iter().enumerate();
        let reads: Vec<_> = reads
            .filter(|(_, read)| read.partition == id && read.complete)
            .collect();
        let mut has = Vec::new();
        for (_, read) in &reads {
            let mut there = vec![false; known.entries.len()];
            for run in read.runs.iter().filter(|run| run.agrees()) {
                there[known.at(run.first)..][..run.count as usize].fill(true);
            }
            has.push(there);
        }
        Self { reads, has }
    }
}

/// Judges every partition.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    conflicts(facts, findings);
    twice(facts, findings);
    for (id, known) in facts.history.partition_ids().zip(&facts.partitions) {
        invented(facts, id, known, findings);
        let covered = Covered::of(facts.history, id, known);
        missing(facts, id, known, &covered, findings);
        ends(facts, id, &covered, findings);
    }
}

fn name<'h>(facts: &Facts<'h>, id: PartitionId) -> &'h str {
    facts.history.partition_name(id)
}

fn value<'h>(facts: &Facts<'h>, entry: &Entry) -> &'h str {
    entry.value.map_or("a marker", |value| facts.history.value(value))
}

/// Two values at one offset.
fn conflicts(facts: &Facts<'_>, findings: &mut Findings) {
    let mut sorted: Vec<&Conflict> = facts.history.conflicts().iter().collect();
    sorted.sort_by_key(|it| (it.partition, it.offset));
    for same in sorted.chunk_by(|a, b| (a.partition, a.offset) == (b.partition, b.offset)) {
        let first = same[0];
        let is_of_replica = |it: &&&Conflict| match it.source {
            Source::Final(at) => facts.history.finals()[at as usize].replica.is_some(),
            Source::Operation(_) => false,
        };
        let kind = match same.iter().find(is_of_replica) {
            Some(_) => Kind::ReplicaDivergence,
            None => Kind::InconsistentOffset,
        };
        let known = &facts.partitions[first.partition.at()];
        let entry = known.entries[known.at(first.offset)];
        let other = first.value.map_or("a marker", |value| facts.history.value(value));
        findings.add(
            kind,
            || {
                let name = name(facts, first.partition);
                format!("{name}:{} has {:?} and {other:?}", first.offset, value(facts, &entry))
            },
            || {
                let mut who = facts.who_saw(first.partition, first.offset, SHOWN);
                who.extend(
                    same.iter()
                        .take(SHOWN)
                        .map(|it| facts.history.describe_source(it.source)),
                );
                who
            },
        );
    }
}

/// One value at two offsets.
fn twice(facts: &Facts<'_>, findings: &mut Findings) {
    let mut place: Vec<u32> = vec![u32::MAX; facts.history.operations().len()];
    for (id, known) in facts.history.partition_ids().zip(&facts.partitions) {
        for (at, entry) in known.entries.iter().enumerate() {
            let Some(writer) = entry.writer else { continue };
            let first = &mut place[writer.at()];
            if *first == u32::MAX {
                *first = u32::try_from(at).expect("fewer than 4 G offsets of a partition");
                continue;
            }
            let before = &known.entries[*first as usize];
            let (operation, send) = (facts.history.operation(writer), facts.send(writer));
            let may_repeat = !send.idempotent && (operation.outcome != Outcome::Ok || send.attempts > 1);
            let kind = if before.is_read() && entry.is_read() {
                Kind::Duplicate
            } else {
                Kind::Misplaced
            };
            if may_repeat && kind == Kind::Duplicate {
                continue;
            }
            findings.add(
                kind,
                || {
                    let (name, value) = (name(facts, id), value(facts, entry));
                    match kind {
                        Kind::Duplicate => format!("{value:?} is at {name}:{} and {}", before.offset, entry.offset),
                        _ => {
                            let (told, there) = match entry.is_read() {
                                true => (before.offset, entry.offset),
                                false => (entry.offset, before.offset),
                            };
                            format!("the writer of {value:?} was told {name}:{told}, and it was read at {there}")
                        }
                    }
                },
                || {
                    let mut who = vec![facts.shown(writer)];
                    who.extend(facts.who_saw(id, before.offset, SHOWN));
                    who.extend(facts.who_saw(id, entry.offset, SHOWN));
                    who
                },
            );
        }
    }
    for (first, again) in &facts.sent_again {
        let what = format!(
            "a value was sent to one partition twice (events #{} and #{}), so the history cannot tell what became of either",
            facts.history.operation(*first).invoked,
            facts.history.operation(*again).invoked
        );
        findings.unknown.push(what);
    }
}

/// Values that must not be there.
fn invented(facts: &Facts<'_>, id: PartitionId, known: &Partition, findings: &mut Findings) {
    let is_foreign = facts.history.partition_settings(id).is_some_and(|it| it.foreign);
    for entry in known
        .entries
        .iter()
        .filter(|entry| entry.is_read() && entry.value.is_some())
    {
        let why = match entry.writer {
            None if is_foreign => continue,
            None => "nobody sent it",
            Some(writer) if facts.history.operation(writer).outcome == Outcome::Failed => {
                "its send was refused for certain"
            }
            Some(_) => continue,
        };
        findings.add(
            Kind::Invented,
            || {
                format!(
                    "{:?} was read at {}:{}, and {why}",
                    value(facts, entry),
                    name(facts, id),
                    entry.offset
                )
            },
            || {
                let mut who: Vec<_> = entry.writer.map(|writer| facts.shown(writer)).into_iter().collect();
                who.extend(facts.who_saw(id, entry.offset, SHOWN));
                who
            },
        );
    }
}

/// What must be there and is not, in all final reads or in some.
fn missing(facts: &Facts<'_>, id: PartitionId, known: &Partition, covered: &Covered<'_>, findings: &mut Findings) {
    if covered.reads.is_empty() {
        return;
    }
    let is_compacted = facts.history.partition_settings(id).is_some_and(|it| it.compacted);
    let last_read = known
        .entries
        .iter()
        .rev()
        .find(|entry| entry.is_read())
        .map(|it| it.offset);
    for (at, entry) in known.entries.iter().enumerate() {
        let lacks: Vec<usize> = (0..covered.reads.len())
            .filter(|read| !covered.has[*read][at])
            .collect();
        if lacks.is_empty() || facts.may_be_gone(id, entry) {
            continue;
        }
        if is_hidden(facts, entry) {
            if !is_compacted {
                hidden_difference(facts, id, known, covered, at, findings);
            }
            continue;
        }
        let lacks: Vec<usize> = lacks
            .into_iter()
            .filter(|read| is_shown(covered.reads[*read].1, entry))
            .collect();
        if lacks.is_empty() {
            continue;
        }
        let has_any = lacks.len() < covered.reads.len();
        let lacking_replica = lacks
            .iter()
            .copied()
            .find(|read| covered.reads[*read].1.replica.is_some());
        let client_lacks = lacks.iter().any(|read| covered.reads[*read].1.replica.is_none());
        let kind = match lacking_replica {
            Some(_) if has_any && !client_lacks => Kind::ReplicaDivergence,
            _ if facts.sent(entry).is_some_and(|(_, send)| send.transaction.is_some()) => continue,
            _ if is_compacted => Kind::LastValueLost,
            _ if entry.is_read() || last_read.is_some_and(|last| last > entry.offset) => Kind::LostWrite,
            _ => Kind::Unseen,
        };
        let read = match kind {
            Kind::ReplicaDivergence => lacking_replica.unwrap_or(lacks[0]),
            _ => lacks[0],
        };
        findings.add(
            kind,
            || {
                let lacking = covered.reads[read].1;
                let who = match (kind, lacking.replica) {
                    (Kind::ReplicaDivergence, Some(replica)) => {
                        format!("replica {} lacks", facts.history.name(replica))
                    }
                    _ => "nobody finds".to_owned(),
                };
                let (value, name) = (value(facts, entry), name(facts, id));
                format!("{who} {value:?} of {name}:{} at the end", entry.offset)
            },
            || {
                let mut who: Vec<_> = entry.writer.map(|writer| facts.shown(writer)).into_iter().collect();
                who.extend(facts.who_saw(id, entry.offset, 1));
                let (at, read) = covered.reads[read];
                who.push((read.index, facts.history.describe_final(at)));
                who
            },
        );
    }
}

/// Whether an entry need not be seen: a marker, a record of an aborted transaction, or one that nobody was told of.
fn is_hidden(facts: &Facts<'_>, entry: &Entry) -> bool {
    !facts.must_be_seen(entry)
}

/// Whether a final read would show what is at an entry's place. What lies beyond the last stable offset hangs, which is told of its own.
fn is_shown(read: &FinalRead, entry: &Entry) -> bool {
    read.isolation == Isolation::Uncommitted || entry.offset < read.stable || entry.offset >= read.end
}

/// Replicas that show everything have the same hidden records, too.
fn hidden_difference(
    facts: &Facts<'_>,
    id: PartitionId,
    known: &Partition,
    covered: &Covered<'_>,
    at: usize,
    findings: &mut Findings,
) {
    let raw = |read: &usize| {
        let read = covered.reads[*read].1;
        read.replica.is_some() && read.isolation == Isolation::Uncommitted
    };
    let raws: Vec<usize> = (0..covered.reads.len()).filter(raw).collect();
    let (having, lacking): (Vec<usize>, Vec<usize>) = raws.into_iter().partition(|read| covered.has[*read][at]);
    let (Some(having), Some(lacking)) = (having.first(), lacking.first()) else {
        return;
    };
    let entry = &known.entries[at];
    let shown = |read: usize| {
        let (at, read) = covered.reads[read];
        (read.index, facts.history.describe_final(at))
    };
    findings.add(
        Kind::ReplicaDivergence,
        || {
            let of = |read: usize| covered.reads[read].1.replica.map_or("", |it| facts.history.name(it));
            let (has, lacks) = (of(*having), of(*lacking));
            let (name, offset) = (name(facts, id), entry.offset);
            format!(
                "replica {has} has {:?} at {name}:{offset}, replica {lacks} has not",
                value(facts, entry)
            )
        },
        || vec![shown(*having), shown(*lacking)],
    );
}

/// Offsets without a record, ends that cannot be reached or differ, transactions that hang.
fn ends(facts: &Facts<'_>, id: PartitionId, covered: &Covered<'_>, findings: &mut Findings) {
    let allowance = hidden_offsets(facts, id);
    for (at, read) in &covered.reads {
        let shown = || vec![(read.index, facts.history.describe_final(*at))];
        gaps(facts, id, read, allowance, shown, findings);
        let reachable = match read.isolation {
            Isolation::Committed => read.stable.min(read.end),
            Isolation::Uncommitted => read.end,
        };
        if read.next < reachable {
            findings.add(
                Kind::EndNotReached,
                || {
                    format!(
                        "a reader of {} is at {} and cannot reach {reachable}",
                        name(facts, id),
                        read.next
                    )
                },
                shown,
            );
        }
        if read.stable < read.end {
            findings.add(
                Kind::Hanging,
                || {
                    let (name, stable, end) = (name(facts, id), read.stable, read.end);
                    format!(
                        "the last stable offset of {name} stays at {stable} below its end {end}: a transaction is open"
                    )
                },
                || {
                    let mut who = shown();
                    who.extend(open_transactions(facts, id));
                    who
                },
            );
        }
    }
    let replicas: Vec<_> = covered
        .reads
        .iter()
        .filter(|(_, read)| read.replica.is_some())
        .collect();
    for pair in replicas.windows(2) {
        let [(at, first), (other_at, other)] = pair else {
            continue;
        };
        if first.end != other.end {
            findings.add(
                Kind::ReplicaDivergence,
                || {
                    let of = |read: &FinalRead| read.replica.map_or("", |it| facts.history.name(it)).to_owned();
                    let (name, one, two) = (name(facts, id), of(first), of(other));
                    format!(
                        "{name} ends at {} on replica {one} and at {} on replica {two}",
                        first.end, other.end
                    )
                },
                || {
                    [(*at, first.index), (*other_at, other.index)]
                        .map(|(at, index)| (index, facts.history.describe_final(at)))
                        .into()
                },
            );
        }
    }
}

/// Transactions that wrote to a partition and whose end was not confirmed.
fn open_transactions(facts: &Facts<'_>, id: PartitionId) -> Vec<(u64, String)> {
    let wrote = |operation: &&crate::names::OperationId| match &facts.history.operation(**operation).body {
        Body::Send(send) => send.partition == id,
        _ => false,
    };
    let of = facts.transactions.iter().filter(|it| it.commit.is_none());
    of.filter_map(|it| it.operations.iter().find(wrote))
        .take(SHOWN)
        .map(|id| facts.shown(*id))
        .collect()
}

/// How many offsets of a partition may have nothing to show for a reader: markers, and records of transactions that nobody was told of.
fn hidden_offsets(facts: &Facts<'_>, id: PartitionId) -> i64 {
    let mut hidden = 0;
    for transaction in &facts.transactions {
        let mut is_here = false;
        for operation in &transaction.operations {
            let operation = facts.history.operation(*operation);
            if let Body::Send(send) = &operation.body
                && send.partition == id
            {
                is_here = true;
                hidden += i64::from(send.offset.is_none() && operation.may_be());
            }
        }
        hidden += i64::from(is_here);
    }
    hidden
}

/// Offsets between those that a final read has which nothing explains.
fn gaps(
    facts: &Facts<'_>,
    id: PartitionId,
    read: &FinalRead,
    allowance: i64,
    shown: impl Fn() -> Vec<(u64, String)>,
    findings: &mut Findings,
) {
    if facts.history.partition_settings(id).is_some_and(|it| it.compacted) {
        return;
    }
    let known = &facts.partitions[id.at()];
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    let mut next = read.log_start;
    let mut order_broken = None;
    for run in &read.runs {
        if run.first < next && order_broken.is_none() && run.first >= read.log_start {
            order_broken = Some((run.first, next));
        }
        if run.first > next {
            ranges.push((next, run.first));
        }
        next = next.max(run.last() + 1);
    }
    let reachable = if read.isolation == Isolation::Committed {
        read.stable.min(read.end)
    } else {
        read.end
    };
    if next < reachable {
        ranges.push((next, reachable));
    }
    if let Some((offset, next)) = order_broken {
        findings.add(
            Kind::PollOrderInternal,
            || format!("a final read of {} has {offset} behind {}", name(facts, id), next - 1),
            &shown,
        );
    }
    let unexplained = |(from, to): &(i64, i64)| {
        let entries = known.at(*to) - known.at(*from);
        (to - from) - i64::try_from(entries).unwrap_or(i64::MAX)
    };
    let unexplained: Vec<(i64, (i64, i64))> = ranges.iter().map(|range| (unexplained(range), *range)).collect();
    let missing: i64 = unexplained.iter().map(|(count, _)| count).sum();
    let shows_markers = read.isolation == Isolation::Uncommitted && known.entries.iter().any(|it| it.value.is_none());
    let allowed = if known.transactional && !shows_markers {
        allowance
    } else {
        0
    };
    if missing > allowed {
        let widest = unexplained
            .iter()
            .max_by_key(|(count, _)| *count)
            .map_or((0, 0), |(_, range)| *range);
        findings.add(
            Kind::Gap,
            || {
                let (name, (from, to)) = (name(facts, id), widest);
                format!(
                    "{missing} offsets of {name} have no record, {allowed} may have none; the most from {from} to {}",
                    to - 1
                )
            },
            shown,
        );
    }
}
