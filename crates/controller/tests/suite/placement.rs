//! Tests of where the replicas of a new topic go.

use std::collections::{BTreeMap, BTreeSet};

use jangada_controller::{BrokerView, Image, PlacementError, place};
use jangada_types::{BrokerId, ReplicaId};
use proptest::prelude::*;

use crate::fixture::{Log, create, firsts, register, replace, replica, topic_id};

fn view(id: u32, rack: &str, leaders: u32, replicas: u32) -> BrokerView {
    BrokerView {
        replica: replica(id, 1),
        rack: rack.to_owned(),
        leaders,
        replicas,
    }
}

fn equal(brokers: u32) -> Vec<BrokerView> {
    (1..=brokers).map(|id| view(id, "", 0, 0)).collect()
}

fn racked(racks: &[&str]) -> Vec<BrokerView> {
    (1..).zip(racks).map(|(id, rack)| view(id, rack, 0, 0)).collect()
}

/// The numbers of leaders and replicas of each broker.
fn counts(brokers: &[BrokerView], placed: &[Vec<ReplicaId>]) -> (Vec<usize>, Vec<usize>) {
    let leaders = brokers
        .iter()
        .map(|b| placed.iter().filter(|list| list[0] == b.replica).count());
    let replicas = brokers
        .iter()
        .map(|b| placed.iter().filter(|list| list.contains(&b.replica)).count());
    (leaders.collect(), replicas.collect())
}

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

/// The number of replicas of one partition in each rack.
fn per_rack(brokers: &[BrokerView], list: &[ReplicaId]) -> BTreeMap<String, usize> {
    let mut racks = BTreeMap::new();
    for replica in list {
        let broker = brokers.iter().find(|broker| broker.replica == *replica).unwrap();
        *racks.entry(broker.rack.clone()).or_default() += 1;
    }
    racks
}

#[test]
fn what_can_not_be_placed_is_an_error() {
    let few = PlacementError::TooFewBrokers {
        wanted: 3,
        available: 2,
    };
    assert_eq!(place(&equal(2), 1, 3, 0), Err(few));
    assert_eq!(place(&equal(2), 1, 0, 0), Err(PlacementError::NoReplicas));
    let twice = [view(1, "", 0, 0), view(1, "", 0, 0)];
    assert_eq!(
        place(&twice, 1, 1, 0),
        Err(PlacementError::DuplicateBroker(BrokerId(1)))
    );
    assert_eq!(place(&equal(1), 0, 1, 0), Ok(vec![]));
}

#[test]
fn single_partitions_go_to_the_emptiest_brokers() {
    let brokers = [
        view(1, "", 5, 9),
        view(2, "", 2, 4),
        view(3, "", 0, 5),
        view(4, "", 9, 20),
    ];
    let placed = place(&brokers, 1, 2, 7).unwrap();
    assert_eq!(
        placed,
        [firsts(&[3, 2])],
        "least replicas in the set, least leaders in front"
    );
}

#[test]
fn a_new_topic_is_spread_although_one_broker_is_empty() {
    let brokers = [
        view(1, "", 100, 300),
        view(2, "", 100, 300),
        view(3, "", 100, 300),
        view(4, "", 0, 0),
    ];
    let placed = place(&brokers, 9, 3, 1).unwrap();
    let (leaders, replicas) = counts(&brokers, &placed);
    assert_eq!(spread(&leaders), 1);
    assert_eq!(spread(&replicas), 1);
    assert_eq!(
        (leaders[3], replicas[3]),
        (3, 7),
        "the empty one gets what does not divide"
    );
}

#[test]
fn two_racks_share_three_replicas() {
    let brokers = racked(&["a", "a", "b", "b"]);
    for list in place(&brokers, 20, 3, 3).unwrap() {
        let racks = per_rack(&brokers, &list);
        assert_eq!(racks.values().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2]));
    }
}

#[test]
fn equal_racks_are_loaded_equally() {
    let brokers = racked(&["a", "b", "c", "a", "b", "c"]);
    let placed = place(&brokers, 60, 3, 11).unwrap();
    let (leaders, replicas) = counts(&brokers, &placed);
    assert_eq!((leaders, replicas), (vec![10; 6], vec![30; 6]));
    assert!(placed.iter().all(|list| per_rack(&brokers, list).len() == 3));
}

#[test]
fn the_same_brokers_do_not_share_all_partitions() {
    let placed = place(&equal(6), 60, 2, 5).unwrap();
    let pairs: BTreeSet<BTreeSet<_>> = placed.into_iter().map(|list| list.into_iter().collect()).collect();
    assert!(pairs.len() >= 10, "of 15 pairs: {}", pairs.len());
}

#[test]
fn the_largest_topic_is_placed_in_balance() {
    let brokers = equal(50);
    let placed = place(&brokers, 10_000, 3, 42).unwrap();
    assert_eq!(counts(&brokers, &placed), (vec![200; 50], vec![600; 50]));
}

#[test]
fn views_count_what_the_image_has_and_leave_out_who_was_given_up() {
    let mut log = Log::formed(3);
    log.accept(&create(1, "orders", vec![firsts(&[1, 2]), firsts(&[1, 3])]));
    assert_eq!(
        log.image.broker_views(),
        [view(1, "", 2, 2), view(2, "", 0, 1), view(3, "", 0, 1)]
    );
    log.accept(&replace(2));
    let ids = |image: &Image| image.broker_views().iter().map(|view| view.replica).collect::<Vec<_>>();
    assert_eq!(ids(&log.image), firsts(&[1, 3]));
    log.accept(&register(2, 0, 22));
    assert_eq!(ids(&log.image), [replica(1, 1), replica(2, 2), replica(3, 1)]);
    assert_eq!(log.image.topic(topic_id(1)).unwrap().partitions.len(), 2);
}

proptest! {
    #[test]
    fn equal_brokers_are_loaded_to_within_one(
        brokers in 1u32..12, partitions in 1u32..60, replicas in 1u32..6, seed: u64,
    ) {
        let replicas = replicas.min(brokers);
        let brokers = equal(brokers);
        let placed = place(&brokers, partitions, replicas, seed).unwrap();
        let (leaders, held) = counts(&brokers, &placed);
        prop_assert!(spread(&leaders) <= 1, "leaders {:?}", leaders);
        prop_assert!(spread(&held) <= 1, "replicas {:?}", held);
        prop_assert_eq!(placed, place(&brokers, partitions, replicas, seed).unwrap(), "deterministic");
    }

    #[test]
    fn topic_after_topic_the_replicas_stay_within_one(
        brokers in 1u32..9, topics in prop::collection::vec((1u32..10, 1u32..4, any::<u64>()), 1..12),
    ) {
        let mut views = equal(brokers);
        for (partitions, replicas, seed) in topics {
            let placed = place(&views, partitions, replicas.min(brokers), seed).unwrap();
            let (leaders, held) = counts(&views, &placed);
            for (index, view) in views.iter_mut().enumerate() {
                view.leaders += leaders[index] as u32;
                view.replicas += held[index] as u32;
            }
        }
        let held: Vec<usize> = views.iter().map(|view| view.replicas as usize).collect();
        prop_assert!(spread(&held) <= 1, "replicas {:?}", held);
    }

    #[test]
    fn any_brokers_get_distinct_replicas_on_as_many_racks_as_there_are(
        brokers in prop::collection::vec(("[abcd]", 0u32..20, 0u32..50), 1..10),
        partitions in 1u32..30, replicas in 1u32..6, seed: u64,
    ) {
        let replicas = replicas.min(brokers.len() as u32);
        let brokers: Vec<BrokerView> =
            (1..).zip(&brokers).map(|(id, (rack, leaders, replicas))| view(id, rack, *leaders, *replicas)).collect();
        let mut brokers_per_rack: BTreeMap<&str, usize> = BTreeMap::new();
        for broker in &brokers {
            *brokers_per_rack.entry(&broker.rack).or_default() += 1;
        }
        let placed = place(&brokers, partitions, replicas, seed).unwrap();
        prop_assert_eq!(placed.len(), partitions as usize);
        for list in placed {
            let distinct: BTreeSet<_> = list.iter().collect();
            prop_assert_eq!(distinct.len(), replicas as usize);
            let used = per_rack(&brokers, &list);
            prop_assert_eq!(used.len(), brokers_per_rack.len().min(replicas as usize));
            // A rack has two more than another only if the other has no more brokers.
            let most = used.values().max().copied().unwrap_or(0);
            for (rack, available) in &brokers_per_rack {
                let here = used.get(*rack).copied().unwrap_or(0);
                prop_assert!(here + 1 >= most || here == *available);
            }
        }
    }
}
