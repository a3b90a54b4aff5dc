//! The promises of the assignors, for any members and topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jangada_coordinator::assignor::Subscriber;
use jangada_coordinator::{Assignor, PartitionSet, TopicPartition};
use jangada_types::TopicId;
use proptest::prelude::*;

type Targets = BTreeMap<Arc<str>, PartitionSet>;
type Topics = BTreeMap<TopicId, u32>;

fn topic(number: u8) -> TopicId {
    TopicId::from_u128(number.into())
}

fn subscriber(id: usize, topics: impl IntoIterator<Item = u8>, current: PartitionSet) -> Subscriber {
    Subscriber {
        id: format!("m{id:03}").into(),
        topics: Arc::new(topics.into_iter().map(topic).collect()),
        current,
    }
}

/// Any topics, with ids 0 to n-1.
fn topics() -> impl Strategy<Value = Topics> {
    prop::collection::vec(0u32..12, 1..6).prop_map(|counts| (0u8..).map(topic).zip(counts).collect())
}

/// Any earlier targets, also such as overlap or name partitions that are gone.
fn current() -> impl Strategy<Value = PartitionSet> {
    prop::collection::vec((0u8..7, 0u32..14), 0..20).prop_map(|all| {
        all.into_iter()
            .map(|(at, partition)| TopicPartition::new(topic(at), partition))
            .collect()
    })
}

fn members() -> impl Strategy<Value = Vec<Subscriber>> {
    prop::collection::vec((prop::collection::btree_set(0u8..6, 0..6), current()), 1..9).prop_map(|members| {
        let subscriber = |(id, (topics, current))| subscriber(id, topics, current);
        members.into_iter().enumerate().map(subscriber).collect()
    })
}

fn assert_complete(members: &[Subscriber], topics: &Topics, targets: &Targets) {
    let mut seen = BTreeSet::new();
    for member in members {
        for partition in targets[&member.id].iter() {
            assert!(seen.insert(partition), "{partition} is given twice");
            assert!(member.topics.contains(&partition.topic), "{partition} is not wanted");
            assert!(partition.partition.get() < topics[&partition.topic]);
        }
    }
    let wanted: BTreeSet<TopicId> = members
        .iter()
        .flat_map(|member| member.topics.iter().copied())
        .collect();
    let expected: u32 = topics
        .iter()
        .filter(|(topic, _)| wanted.contains(topic))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(seen.len(), expected as usize);
    assert_eq!(targets.len(), members.len());
}

fn with_current(members: &[Subscriber], targets: &Targets) -> Vec<Subscriber> {
    let with = |member: &Subscriber| Subscriber {
        current: targets.get(&member.id).cloned().unwrap_or_default(),
        ..member.clone()
    };
    members.iter().map(with).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn each_partition_goes_to_one_subscriber(members in members(), topics in topics()) {
        for assignor in Assignor::ALL {
            assert_complete(&members, &topics, &assignor.assign(&members, &topics));
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter(
        (members, shuffled) in members().prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
        topics in topics(),
    ) {
        for assignor in Assignor::ALL {
            prop_assert_eq!(assignor.assign(&members, &topics), assignor.assign(&shuffled, &topics));
        }
    }

    #[test]
    fn no_single_move_improves_the_balance(members in members(), topics in topics()) {
        let targets = Assignor::Uniform.assign(&members, &topics);
        for from in &members {
            for to in &members {
                let could = targets[&from.id].iter().any(|partition| to.topics.contains(&partition.topic));
                let (most, least) = (targets[&from.id].len(), targets[&to.id].len());
                prop_assert!(!could || most <= least + 1, "{} has {most}, {} has {least}", from.id, to.id);
            }
        }
    }

    #[test]
    fn equal_subscriptions_differ_by_one_at_most_and_move_the_least(
        currents in prop::collection::vec(current(), 1..9), topics in topics(),
    ) {
        let members: Vec<_> =
            currents.into_iter().enumerate().map(|(id, current)| subscriber(id, 0..6, current)).collect();
        let targets = Assignor::Uniform.assign(&members, &topics);
        let total: usize = topics.values().map(|count| *count as usize).sum();
        let floor = total / members.len();
        prop_assert!(targets.values().all(|target| (floor..=floor + 1).contains(&target.len())));

        // The partitions that each member may keep (where several claim one, the first by id), and the best that any
        // balance can keep.
        let mut claimed = BTreeSet::new();
        let mut valid: Vec<usize> = members.iter().map(|member| {
            let mine = member.current.iter().filter(|p| topics.get(&p.topic).is_some_and(|n| p.partition.get() < *n));
            mine.filter(|partition| claimed.insert(*partition)).count()
        }).collect();
        valid.sort_unstable_by(|a, b| b.cmp(a));
        let larger = total % members.len();
        let best: usize = valid.iter().enumerate().map(|(at, n)| (*n).min(floor + usize::from(at < larger))).sum();
        let mut claimed = BTreeSet::new();
        let stayed: usize = members.iter().map(|member| {
            let mine: PartitionSet = member.current.iter().filter(|partition| claimed.insert(*partition)).collect();
            mine.intersection(&targets[&member.id]).len()
        }).sum();
        prop_assert_eq!(stayed, best);
    }

    #[test]
    fn nothing_moves_when_nothing_changed(members in members(), topics in topics()) {
        let first = Assignor::Uniform.assign(&members, &topics);
        prop_assert_eq!(Assignor::Uniform.assign(&with_current(&members, &first), &topics), first);
    }

    #[test]
    fn a_member_that_comes_takes_and_one_that_goes_gives(count in 2usize..20, partitions in 1u32..200) {
        let topics: Topics = [(topic(0), partitions)].into();
        let all: Vec<_> = (0..count).map(|id| subscriber(id, [0], PartitionSet::new())).collect();
        let before = Assignor::Uniform.assign(&all[1..], &topics);
        let joined = Assignor::Uniform.assign(&with_current(&all, &before), &topics);
        for member in &all[1..] {
            prop_assert!(joined[&member.id].is_subset(&before[&member.id]), "only the new one gets any");
        }
        let left = Assignor::Uniform.assign(&with_current(&all[1..], &joined), &topics);
        for member in &all[1..] {
            prop_assert!(joined[&member.id].is_subset(&left[&member.id]), "nobody loses any");
        }
    }

    #[test]
    fn range_gives_runs(count in 1usize..9, topics in topics()) {
        let members: Vec<_> = (0..count).map(|id| subscriber(id, 0..6, PartitionSet::new())).collect();
        let targets = Assignor::Range.assign(&members, &topics);
        for (_, run) in targets.values().flat_map(PartitionSet::by_topic) {
            prop_assert!(run.windows(2).all(|pair| pair[0].partition.get() + 1 == pair[1].partition.get()));
        }
        // Partitions with the same index, of topics with equally many partitions, go to the same member.
        let (first, second) = (topic(0), topic(1));
        if topics.get(&first) == topics.get(&second) {
            let of = |topic| targets.values().map(move |target| {
                target.iter().filter(|p| p.topic == topic).map(|p| p.partition).collect::<Vec<_>>()
            });
            prop_assert!(of(first).eq(of(second)));
        }
    }
}

#[test]
fn assignors_have_names() {
    for assignor in Assignor::ALL {
        assert_eq!(Assignor::parse(assignor.as_str()), Some(*assignor));
    }
    assert_eq!(Assignor::parse("sticky"), None);
}

/// A bound against the wrong order of growth, far above what is measured.
#[test]
#[allow(clippy::disallowed_methods, reason = "it measures real time")]
fn large_groups_are_fast() {
    for (members, topics_count, partitions, different) in [
        (50, 1, 120, false),
        (50, 2, 60, true),
        (100, 1, 1_000, false),
        (100, 10, 100, true),
        (1_000, 10, 1_000, true),
    ] {
        let topics: Topics = (0..topics_count).map(|at| (topic(at), partitions)).collect();
        let wants = |id: usize, at: u8| !different || !(id + usize::from(at)).is_multiple_of(3);
        let members: Vec<_> = (0..members)
            .map(|id| subscriber(id, (0..topics_count).filter(|at| wants(id, *at)), PartitionSet::new()))
            .collect();
        let first = Assignor::Uniform.assign(&members[1..], &topics);
        let members = with_current(&members, &first);
        let begun = std::time::Instant::now();
        let targets = Assignor::Uniform.assign(&members, &topics);
        let took = begun.elapsed();
        assert_complete(&members, &topics, &targets);
        println!(
            "{} members, {topics_count} x {partitions} partitions, different {different}: {took:?}",
            members.len()
        );
        assert!(took < Duration::from_secs(2));
    }
}
