//! Tests of the choice of brokers that vote in group 0.

use std::collections::BTreeSet;

use jangada_controller::{QuorumCandidate, metadata_voters};
use jangada_types::ReplicaId;
use proptest::prelude::*;

use crate::fixture::{Log, firsts, register, replace, replica};

fn candidates(racks: &[&str]) -> Vec<QuorumCandidate> {
    (1..)
        .zip(racks)
        .map(|(id, rack)| QuorumCandidate {
            replica: replica(id, 1),
            rack: (*rack).to_owned(),
            is_given_up: false,
        })
        .collect()
}

fn set(brokers: &[u32]) -> BTreeSet<ReplicaId> {
    firsts(brokers).into_iter().collect()
}

#[test]
fn the_number_of_voters_follows_the_number_of_brokers() {
    for (brokers, voters) in [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (50, 5)] {
        let chosen = metadata_voters(&candidates(&vec![""; brokers]), &BTreeSet::new());
        assert_eq!(chosen.len(), voters, "{brokers} brokers");
    }
}

#[test]
fn current_voters_stay() {
    assert_eq!(
        metadata_voters(&candidates(&[""; 4]), &set(&[2, 3, 4])),
        set(&[2, 3, 4])
    );
    assert_eq!(metadata_voters(&candidates(&[""; 2]), &set(&[2])), set(&[2]));
    assert_eq!(
        metadata_voters(&candidates(&[""; 6]), &set(&[3, 5, 6])),
        set(&[1, 2, 3, 5, 6])
    );
}

#[test]
fn voters_are_spread_over_racks() {
    let all = candidates(&["a", "a", "a", "b", "c"]);
    assert_eq!(metadata_voters(&all[..4], &BTreeSet::new()), set(&[1, 2, 4]));
    let four = [all[1].clone(), all[2].clone(), all[3].clone(), all[4].clone()];
    assert_eq!(metadata_voters(&four, &set(&[2, 3, 4])), set(&[2, 4, 5]));
}

#[test]
fn a_voter_that_was_given_up_makes_room_when_there_is_somebody_else() {
    let mut four = candidates(&[""; 4]);
    four[2].is_given_up = true;
    assert_eq!(metadata_voters(&four, &set(&[1, 2, 3])), set(&[1, 2, 4]));
    let mut three = candidates(&[""; 3]);
    three[2].is_given_up = true;
    assert_eq!(
        metadata_voters(&three, &set(&[1, 2, 3])),
        set(&[1, 2, 3]),
        "nobody else"
    );
    assert_eq!(
        metadata_voters(&three, &set(&[1, 2])),
        set(&[1, 2]),
        "it does not become a voter"
    );
}

#[test]
fn the_new_incarnation_takes_the_place_of_the_old_one() {
    let mut log = Log::formed(3);
    let voters = set(&[1, 2, 3]);
    log.accept(&replace(2));
    assert_eq!(metadata_voters(&log.image.quorum_candidates(), &voters), voters);
    log.accept(&register(2, 0, 22));
    let expected = BTreeSet::from([replica(1, 1), replica(2, 2), replica(3, 1)]);
    assert_eq!(metadata_voters(&log.image.quorum_candidates(), &voters), expected);
}

proptest! {
    #[test]
    fn its_own_answer_is_stable(
        brokers in prop::collection::vec(("[abc]?", any::<bool>()), 0..9),
        current in prop::collection::btree_set(1u32..10, 0..6),
    ) {
        let all: Vec<QuorumCandidate> = (1..).zip(brokers).map(|(id, (rack, is_given_up))| QuorumCandidate {
            replica: replica(id, 1),
            rack,
            is_given_up,
        }).collect();
        let current = current.into_iter().map(|broker| replica(broker, 1)).collect();
        let voters = metadata_voters(&all, &current);
        prop_assert_eq!(metadata_voters(&all, &voters), voters.clone());
        prop_assert!(voters.iter().all(|voter| all.iter().any(|one| one.replica == *voter)));
        prop_assert!(all.iter().filter(|one| one.is_given_up).all(|one| !voters.contains(&one.replica) || current.contains(&one.replica)));
    }
}
