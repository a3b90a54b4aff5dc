//! Chooses the brokers that vote in group 0. The leader of group 0 compares the choice with the membership and promotes
//! or demotes.

use std::collections::{BTreeMap, BTreeSet};

use jangada_types::ReplicaId;

use crate::image::{Broker, Image};

/// A broker that may vote in group 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumCandidate {
    /// The broker's current incarnation.
    pub replica: ReplicaId,
    /// The broker's failure domain; empty when unknown, which counts as one of its own.
    pub rack: String,
    /// Whether `ReplaceBroker` was applied and the broker is not back yet. It doesn't become a voter, and remains one
    /// only as long as no other broker can take its place.
    pub is_given_up: bool,
}

/// The number of voters among this many brokers: an odd number, since an even one tolerates no more failures than the
/// odd one below it. Five (two failures) from 5 brokers on, three up to 4, one below 3.
pub const fn metadata_voter_count(brokers: usize) -> usize {
    match brokers {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The voters that group 0 should have.
///
/// Spread over racks first, since losing a rack should cost as few voters as possible; then the current voters, so
/// that the answer doesn't change without a reason; then the lowest ids. With its own answer as `current` it gives
/// the same answer again. `candidates` are all registered brokers, also those that are down: a voter that is only
/// down for a while stays one. A current voter that is no candidate is dropped.
pub fn metadata_voters(candidates: &[QuorumCandidate], current: &BTreeSet<ReplicaId>) -> BTreeSet<ReplicaId> {
    let all: BTreeMap<ReplicaId, &QuorumCandidate> = candidates.iter().map(|one| (one.replica, one)).collect();
    // The size follows the cluster, so that giving up one of three brokers doesn't make one of the other two the only
    // voter.
    let count = metadata_voter_count(all.len());
    let mut open: BTreeMap<_, _> = all
        .into_iter()
        .filter(|(replica, one)| !one.is_given_up || current.contains(replica))
        .collect();
    let mut voters_by_rack: BTreeMap<&str, usize> = BTreeMap::new();
    let mut voters = BTreeSet::new();
    while voters.len() < count {
        let in_rack = |rack: &str| voters_by_rack.get(rack).copied().unwrap_or(0);
        let best = open.values().min_by_key(|one| {
            (
                one.is_given_up,
                in_rack(&one.rack),
                !current.contains(&one.replica),
                one.replica,
            )
        });
        let Some(best) = best.copied() else { break };
        open.remove(&best.replica);
        voters.insert(best.replica);
        if !best.rack.is_empty() {
            *voters_by_rack.entry(&best.rack).or_default() += 1;
        }
    }
    voters
}

impl Image {
    /// The registered brokers as candidates.
    pub fn quorum_candidates(&self) -> Vec<QuorumCandidate> {
        let candidate = |broker: &Broker| QuorumCandidate {
            replica: broker.replica(),
            rack: broker.rack.clone(),
            is_given_up: broker.is_awaiting_replacement(),
        };
        self.brokers().map(candidate).collect()
    }
}
