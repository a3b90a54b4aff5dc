//! Queues: their sixteen invariants, as far as clients and the contents at the end show them.

mod contents;
mod leases;
mod messages;
mod order;

use crate::verdict::Findings;

use super::facts::Facts;
use messages::Messages;

/// Judges every queue.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    let messages = Messages::of(facts);
    leases::check(facts, &messages, findings);
    order::check(facts, &messages, findings);
    contents::check(facts, &messages, findings);
}
