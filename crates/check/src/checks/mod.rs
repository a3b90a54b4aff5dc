//! The checks, and the verdict that they come to.

mod compaction;
mod coverage;
mod cycles;
mod facts;
mod groups;
mod log;
mod order;
mod polls;
mod queues;
mod transactions;

use crate::history::History;
use crate::verdict::{Findings, Verdict};

use self::facts::Facts;

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut findings = Findings::default();
    let facts = Facts::of(history);
    log::check(&facts, &mut findings);
    order::check(&facts, &mut findings);
    polls::check(&facts, &mut findings);
    groups::check(&facts, &mut findings);
    transactions::check(&facts, &mut findings);
    compaction::check(&facts, &mut findings);
    queues::check(&facts, &mut findings);
    cycles::check(&facts, &mut findings);
    coverage::check(&facts, &mut findings);
    findings.verdict(history.operations().len() as u64)
}
