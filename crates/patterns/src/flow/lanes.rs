//! What waits, in lanes: of each lane one item at a time is in work, in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Items that wait in lanes. Pure: it says what may begin, its caller does it.
///
/// A lane is ready when it has items and none in work; lanes that are ready take turns, so that no lane holds up another.
#[derive(Debug)]
pub struct Lanes<K, T> {
    /// Never an empty lane.
    waiting: BTreeMap<K, VecDeque<T>>,
    /// Each lane that has items and none in work, once.
    ready: VecDeque<K>,
    in_work: BTreeSet<K>,
    count: usize,
}

impl<K, T> Default for Lanes<K, T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            in_work: BTreeSet::new(),
            count: 0,
        }
    }
}

impl<K: Ord + Clone, T> Lanes<K, T> {
    /// Puts an item at the end of its lane.
    pub fn push(&mut self, lane: K, item: T) {
        let is_idle = !self.waiting.contains_key(&lane) && !self.in_work.contains(&lane);
        if is_idle {
            self.ready.push_back(lane.clone());
        }
        self.waiting.entry(lane).or_default().push_back(item);
        self.count += 1;
    }

    /// The next item that may begin, with its lane, which is in work until [`done`](Self::done).
    pub fn take(&mut self) -> Option<(K, T)> {
        let lane = self.ready.pop_front()?;
        let items = self.waiting.get_mut(&lane).expect("a lane that is ready has items");
        let item = items.pop_front().expect("no lane is empty");
        if items.is_empty() {
            self.waiting.remove(&lane);
        }
        self.in_work.insert(lane.clone());
        self.count -= 1;
        Some((lane, item))
    }

    /// The item of a lane that was in work is done: the next one may begin.
    pub fn done(&mut self, lane: &K) {
        if self.in_work.remove(lane) && self.waiting.contains_key(lane) {
            self.ready.push_back(lane.clone());
        }
    }

    /// Drops what waits in these lanes; what is in work stays so. Returns how many items that were.
    pub fn drop_waiting(&mut self, is_meant: impl Fn(&K) -> bool) -> usize {
        let before = self.count;
        self.waiting.retain(|lane, items| {
            let stays = !is_meant(lane);
            if !stays {
                self.count -= items.len();
            }
            stays
        });
        self.ready.retain(|lane| !is_meant(lane));
        before - self.count
    }

    /// Number of items that wait.
    pub fn waiting(&self) -> usize {
        self.count
    }

    /// Number of lanes with an item in work.
    pub fn in_work(&self) -> usize {
        self.in_work.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_of_a_lane_is_in_work_and_lanes_take_turns() {
        let mut lanes = Lanes::default();
        for (lane, item) in [("a", 1), ("a", 2), ("b", 3)] {
            lanes.push(lane, item);
        }
        assert_eq!(
            (lanes.take(), lanes.take(), lanes.take()),
            (Some(("a", 1)), Some(("b", 3)), None)
        );
        lanes.done(&"a");
        assert_eq!(lanes.take(), Some(("a", 2)));
        lanes.push("a", 4);
        assert_eq!(lanes.drop_waiting(|lane| *lane == "a"), 1);
        lanes.done(&"a");
        assert_eq!((lanes.take(), lanes.waiting(), lanes.in_work()), (None, 0, 1));
    }

    #[test]
    fn a_lane_that_was_dropped_begins_nothing_and_comes_back() {
        let mut lanes = Lanes::default();
        for (lane, item) in [("a", 1), ("a", 2), ("b", 3)] {
            lanes.push(lane, item);
        }
        assert_eq!(lanes.drop_waiting(|lane| *lane == "a"), 2);
        assert_eq!((lanes.waiting(), lanes.take(), lanes.take()), (1, Some(("b", 3)), None));
        lanes.push("a", 4);
        assert_eq!((lanes.take(), lanes.take()), (Some(("a", 4)), None));
    }

    proptest! {
        /// Whatever ends first: each lane's items come in order, none twice, none lost, never two at once.
        #[test]
        fn each_lane_keeps_its_order(steps in proptest::collection::vec((0_u8..4, any::<bool>()), 1..200)) {
            let mut lanes = Lanes::default();
            let mut working: Vec<(u8, usize)> = Vec::new();
            let mut seen: Vec<(u8, usize)> = Vec::new();
            let mut pushed = Vec::new();
            for (number, (lane, ends_first)) in steps.into_iter().enumerate() {
                lanes.push(lane, number);
                pushed.push((lane, number));
                if let Some(taken) = lanes.take() {
                    prop_assert!(working.iter().all(|(lane, _)| *lane != taken.0), "two of a lane");
                    working.push(taken);
                }
                if ends_first && !working.is_empty() {
                    let (lane, number) = working.remove(number % working.len());
                    lanes.done(&lane);
                    seen.push((lane, number));
                }
            }
            while let Some((lane, number)) = working.pop().or_else(|| lanes.take()) {
                lanes.done(&lane);
                seen.push((lane, number));
            }
            for lane in 0..4 {
                let of_lane = |all: &[(u8, usize)]| -> Vec<usize> {
                    all.iter().filter(|(of, _)| *of == lane).map(|(_, number)| *number).collect()
                };
                prop_assert_eq!(of_lane(&seen), of_lane(&pushed));
            }
        }
    }
}
