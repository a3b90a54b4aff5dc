//! Chooses the brokers of the replicas of a new topic's partitions. Pure: the same input, with the same seed, gives the
//! same answer. The leader of group 0 calls it and proposes the result.
//!
//! Two steps. First each partition's set of brokers, one broker at a time: a rack that the partition has least of,
//! then a broker with the fewest replicas of this topic, then the one with the fewest replicas at all. So a topic is
//! spread evenly even if some brokers are emptier than others, and what does not divide evenly goes to the emptier
//! ones. (Filling up the emptiest broker first would put all of a new topic's load on the newest broker.)
//!
//! Then the preferred leaders: a greedy choice, improved along chains of hand-overs until none makes the counts more
//! even. For such costs that is the optimum (Harvey et al., "Semi-matchings for bipartite graphs and load balancing",
//! 2006).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jangada_types::{BrokerId, ReplicaId};

use crate::image::Image;

/// A broker that can take replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerView {
    /// The broker's current incarnation.
    pub replica: ReplicaId,
    /// The broker's failure domain; empty when unknown, which counts as one of its own.
    pub rack: String,
    /// Number of partitions of which it is the preferred leader.
    pub leaders: u32,
    /// Number of replicas that it holds, leaders included.
    pub replicas: u32,
}

/// The reason why there is no placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// More replicas were asked for than brokers can take.
    #[error(
        "{wanted} replicas need {wanted} brokers, and {available} can take replicas now: start more brokers or ask for fewer replicas"
    )]
    TooFewBrokers {
        /// Number of replicas asked for.
        wanted: u32,
        /// Number of brokers given.
        available: usize,
    },
    /// No replica was asked for.
    #[error("a partition needs at least one replica")]
    NoReplicas,
    /// The same broker was given twice.
    #[error("broker {0} was given twice")]
    DuplicateBroker(BrokerId),
}

/// Gives each of `partitions` partitions `replicas` distinct brokers, the preferred leader first.
pub fn place(
    brokers: &[BrokerView],
    partitions: u32,
    replicas: u32,
    seed: u64,
) -> Result<Vec<Vec<ReplicaId>>, PlacementError> {
    let mut ids = BTreeSet::new();
    if let Some(twice) = brokers.iter().find(|view| !ids.insert(view.replica.broker)) {
        return Err(PlacementError::DuplicateBroker(twice.replica.broker));
    }
    if replicas == 0 {
        return Err(PlacementError::NoReplicas);
    }
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    if wanted > brokers.len() {
        return Err(PlacementError::TooFewBrokers {
            wanted: replicas,
            available: brokers.len(),
        });
    }
    let sets = choose_sets(brokers, partitions, wanted, seed);
    let leaders = choose_leaders(brokers, &sets, seed);
    let assignments = sets.into_iter().zip(leaders).map(|(mut set, leader)| {
        // The other replicas keep the order of choice: the emptiest and farthest first.
        let at = set
            .iter()
            .position(|broker| *broker == leader)
            .expect("a leader is of its set");
        set[..=at].rotate_right(1);
        set.into_iter().map(|broker| brokers[broker].replica).collect()
    });
    Ok(assignments.collect())
}

/// The replicas of a partition with more added, up to `wanted` or as far as there are `brokers`. Each one more goes to
/// a rack that the partition has least of, in it to the broker with the fewest replicas. `seed` breaks ties.
pub fn place_more(brokers: &[BrokerView], replicas: &[ReplicaId], wanted: usize, seed: u64) -> Vec<ReplicaId> {
    let rack = rack_numbers(brokers);
    // A replica may have an incarnation other than its broker's.
    let has = |replicas: &[ReplicaId], broker: usize| {
        replicas
            .iter()
            .any(|replica| replica.broker == brokers[broker].replica.broker)
    };
    let mut replicas = replicas.to_vec();
    while replicas.len() < wanted {
        let of_rack = |broker: usize| {
            (0..brokers.len())
                .filter(|&other| rack[other] == rack[broker] && has(&replicas, other))
                .count()
        };
        let next = (0..brokers.len())
            .filter(|&broker| !has(&replicas, broker))
            .min_by_key(|&broker| (of_rack(broker), brokers[broker].replicas, mix(seed, 0, broker), broker));
        let Some(next) = next else { break };
        replicas.push(brokers[next].replica);
    }
    replicas
}

/// The load of a broker: of this topic, and in all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    topic: u64,
    total: u64,
}

impl Load {
    fn new(total: u32) -> Self {
        Self {
            topic: 0,
            total: u64::from(total),
        }
    }

    fn add(&mut self) {
        self.topic += 1;
        self.total += 1;
    }

    fn remove(&mut self) {
        self.topic -= 1;
        self.total -= 1;
    }

    /// Whether one unit less here and one more there is more even: within the topic, or else in all.
    fn should_give_to(self, other: Load) -> bool {
        self.topic >= other.topic + 2 || (self.topic == other.topic + 1 && self.total >= other.total + 2)
    }
}

/// Chooses for each partition the indexes of its brokers.
fn choose_sets(brokers: &[BrokerView], partitions: u32, replicas: usize, seed: u64) -> Vec<Vec<usize>> {
    let racks = rack_numbers(brokers);
    let mut load: Vec<Load> = brokers.iter().map(|view| Load::new(view.replicas)).collect();
    let mut sets = Vec::new();
    for partition in 0..partitions {
        let mut set: Vec<usize> = Vec::with_capacity(replicas);
        let mut in_rack = vec![0u32; brokers.len()];
        while set.len() < replicas {
            let chosen = (0..brokers.len())
                .filter(|broker| !set.contains(broker))
                .min_by_key(|&broker| {
                    (
                        in_rack[racks[broker]],
                        load[broker],
                        mix(seed, partition, broker),
                        broker,
                    )
                })
                .expect("there are at least as many brokers as replicas");
            set.push(chosen);
            in_rack[racks[chosen]] += 1;
            load[chosen].add();
        }
        sets.push(set);
    }
    sets
}

/// For each broker the number of its rack, below the number of brokers. A broker without a rack is a rack of its own.
fn rack_numbers(brokers: &[BrokerView]) -> Vec<usize> {
    let mut first_of_rack: BTreeMap<&str, usize> = BTreeMap::new();
    let mut numbers = Vec::with_capacity(brokers.len());
    for (index, view) in brokers.iter().enumerate() {
        let number = if view.rack.is_empty() {
            index
        } else {
            *first_of_rack.entry(&view.rack).or_insert(index)
        };
        numbers.push(number);
    }
    numbers
}

/// Chooses the preferred leader of each set.
fn choose_leaders(brokers: &[BrokerView], sets: &[Vec<usize>], seed: u64) -> Vec<usize> {
    let mut load: Vec<Load> = brokers.iter().map(|view| Load::new(view.leaders)).collect();
    // The partitions that each broker leads.
    let mut led: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); brokers.len()];
    let mut leaders = Vec::with_capacity(sets.len());
    for (partition, set) in (0u32..).zip(sets) {
        let leader = *set
            .iter()
            .min_by_key(|&&broker| (load[broker], mix(!seed, partition, broker), broker))
            .expect("a set has at least one broker");
        load[leader].add();
        led[leader].insert(leaders.len());
        leaders.push(leader);
    }
    while let Some(path) = improving_path(sets, &load, &led) {
        for Step { partition, from, to } in path {
            load[from].remove();
            load[to].add();
            led[from].remove(&partition);
            led[to].insert(partition);
            leaders[partition] = to;
        }
    }
    leaders
}

/// A hand-over of one partition's leadership.
#[derive(Clone, Copy)]
struct Step {
    partition: usize,
    from: usize,
    to: usize,
}

/// A chain of hand-overs that takes one leadership from a broker with more and gives one to a broker with fewer, so
/// that the counts get more even.
fn improving_path(sets: &[Vec<usize>], load: &[Load], led: &[BTreeSet<usize>]) -> Option<Vec<Step>> {
    let mut sources: Vec<usize> = (0..load.len()).collect();
    sources.sort_by_key(|&broker| (Reverse(load[broker]), broker));
    let poorest = load.iter().min().copied()?;
    sources
        .into_iter()
        .take_while(|&source| load[source].topic > poorest.topic)
        .find_map(|source| {
            let reached_by = reachable(sets, led, source);
            let target = (0..load.len())
                .filter(|&broker| reached_by[broker].is_some())
                .min_by_key(|&broker| (load[broker], broker))?;
            load[source].should_give_to(load[target]).then(|| {
                let mut path = Vec::new();
                let mut at = target;
                while let Some(step) = reached_by[at] {
                    path.push(step);
                    at = step.from;
                }
                path
            })
        })
}

/// For each broker the hand-over through which a leadership of `source` gets there, by the shortest chain. None for
/// `source` itself and for brokers that can't be reached.
fn reachable(sets: &[Vec<usize>], led: &[BTreeSet<usize>], source: usize) -> Vec<Option<Step>> {
    let mut reached_by: Vec<Option<Step>> = vec![None; led.len()];
    let mut queue = VecDeque::from([source]);
    while let Some(from) = queue.pop_front() {
        for &partition in &led[from] {
            for &to in &sets[partition] {
                if to != source && reached_by[to].is_none() {
                    reached_by[to] = Some(Step { partition, from, to });
                    queue.push_back(to);
                }
            }
        }
    }
    reached_by
}

/// Breaks ties differently from partition to partition, so that the same brokers don't share all partitions. The
/// finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(seed: u64, partition: u32, broker: usize) -> u64 {
    let mut z = seed
        .wrapping_add(u64::from(partition).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add((broker as u64).wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Image {
    /// The registered brokers with their load; those that were given up by `ReplaceBroker` are left out until they are
    /// back. The caller must remove those that are not alive.
    pub fn broker_views(&self) -> Vec<BrokerView> {
        let mut load: BTreeMap<BrokerId, (u32, u32)> = BTreeMap::new();
        for partition in self.partitions() {
            for (rank, replica) in partition.replicas.iter().enumerate() {
                let (leaders, replicas) = load.entry(replica.broker).or_default();
                *leaders = leaders.saturating_add(u32::from(rank == 0));
                *replicas = replicas.saturating_add(1);
            }
        }
        let view = |broker: &crate::image::Broker| {
            let (leaders, replicas) = load.get(&broker.id).copied().unwrap_or_default();
            BrokerView {
                replica: broker.replica(),
                rack: broker.rack.clone(),
                leaders,
                replicas,
            }
        };
        self.brokers()
            .filter(|broker| !broker.is_awaiting_replacement())
            .map(view)
            .collect()
    }
}
