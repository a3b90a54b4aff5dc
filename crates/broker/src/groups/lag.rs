//! How far the groups are behind whose shards this broker leads, for `/metrics`.
//!
//! The committed offsets are here; where a partition ends only its leader knows. So each leader is asked where all of its
//! partitions end, in one call that it answers from memory, and only while somebody scrapes. A scrape never waits for it.
//!
//! A number is shown only if the end of each partition of the topic that the group has committed is known, from this round or
//! one shortly before. Records that are no longer there do not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::Image;
use jangada_proto::internal::EndOffsetsRequest;
use jangada_replication::{Registry, transport};
use jangada_types::{BrokerId, GroupId, Offset};
use tokio::time::Instant;

use super::replica::{CoordinatorReplica, GroupOffsets};
use crate::cluster::metadata::Metadata;
use crate::metrics::{LagReport, Metrics};
use crate::partition::Partition;
use crate::replica::Replicas;
use crate::settings::MetricsSettings;

/// Brokers that are asked at once.
const PARALLEL: usize = 16;
/// How long one may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The end of a partition that nobody leads at the moment counts for so long.
const END_KEPT_FOR: Duration = Duration::from_secs(30);

/// Where the watcher finds offsets and ends, and where it puts what it found.
pub(crate) struct LagSources {
    pub metadata: Metadata,
    pub replicas: Arc<Replicas>,
    pub metrics: Arc<Metrics>,
}

/// Runs until it is dropped.
pub(crate) async fn watch(sources: LagSources, settings: MetricsSettings) {
    if settings.group_series_max == 0 {
        return;
    }
    let mut watcher = LagWatcher::new(settings.group_series_max as usize);
    let interval = Duration::from_millis(settings.group_lag_interval_ms);
    loop {
        sources.metrics.lag.wanted().await;
        let report = watcher.sample(&sources).await;
        sources.metrics.lag.publish(report, Instant::now());
        tokio::time::sleep(interval).await;
    }
}

/// A group's name and a topic's.
type Pair = (Arc<str>, Arc<str>);
/// By group and topic: its partitions' Raft groups with the committed offsets.
type Positions = BTreeMap<Pair, Vec<(GroupId, Offset)>>;

/// Where a partition begins and ends.
#[derive(Clone, Copy)]
struct Ends {
    log_start: Offset,
    end: Offset,
    at: Instant,
}

/// What is kept from one look to the next.
struct LagWatcher {
    series_max: usize,
    ends: HashMap<GroupId, Ends>,
    /// Those that have a series of their own: it would be of little use if it came and went.
    shown: BTreeSet<Pair>,
}

impl LagWatcher {
    fn new(series_max: usize) -> Self {
        Self {
            series_max,
            ends: HashMap::new(),
            shown: BTreeSet::new(),
        }
    }

    async fn sample(&mut self, sources: &LagSources) -> LagReport {
        let shards = sources.replicas.fronts::<CoordinatorReplica>();
        let committed = sources.metadata.registry.blocking().run(move || {
            let committed = shards.iter().flat_map(|shard| shard.committed());
            committed.collect::<Vec<GroupOffsets>>()
        });
        let positions = positions(&sources.metadata.image(), committed.await.unwrap_or_default());
        self.find_ends(sources, &positions).await;
        self.report(positions, Instant::now())
    }

    /// Learns where these partitions end.
    async fn find_ends(&mut self, sources: &LagSources, positions: &Positions) {
        let replicas = &sources.replicas;
        let registry = &sources.metadata.registry;
        let wanted: BTreeSet<GroupId> = positions.values().flatten().map(|(group, _)| *group).collect();
        self.ends.retain(|group, _| wanted.contains(group));
        let mut leaders = BTreeSet::new();
        for group in &wanted {
            let here = replicas.front::<Partition>(*group);
            match here.and_then(|partition| partition.ends_if_led()) {
                Some((log_start, end)) => {
                    let at = Instant::now();
                    self.ends.insert(*group, Ends { log_start, end, at });
                }
                None => leaders.extend(replicas.live_leader_of(*group).map(|(broker, _)| broker)),
            }
        }
        leaders.remove(&registry.identity().broker);
        let mut answers = futures::stream::iter(leaders)
            .map(|broker| ask(registry, broker))
            .buffer_unordered(PARALLEL);
        while let Some(answer) = answers.next().await {
            let found = answer.into_iter().filter(|(group, _)| wanted.contains(group));
            self.ends.extend(found);
        }
    }

    fn report(&mut self, positions: Positions, now: Instant) -> LagReport {
        let mut report = LagReport::default();
        let lags: BTreeMap<Pair, Option<u64>> = positions
            .into_iter()
            .map(|(pair, partitions)| (pair, self.lag(&partitions, now)))
            .collect();
        self.choose(&lags);
        for (pair, lag) in lags {
            let is_shown = self.shown.contains(&pair);
            report.left_out += u64::from(!is_shown);
            match lag {
                None => report.unknown += 1,
                Some(lag) if is_shown => report.series.push((pair.0, pair.1, lag)),
                Some(lag) => report.others += lag,
            }
        }
        report
    }

    /// The lag over these partitions; none if that of one is not known.
    fn lag(&self, partitions: &[(GroupId, Offset)], now: Instant) -> Option<u64> {
        let lags = partitions.iter().map(|(group, committed)| {
            let ends = self.ends.get(group).filter(|ends| now - ends.at < END_KEPT_FOR)?;
            let next = (*committed).max(ends.log_start);
            Some(u64::try_from(ends.end.get() - next.get()).unwrap_or(0))
        });
        lags.sum()
    }

    /// Gives free series to those that lag most.
    fn choose(&mut self, lags: &BTreeMap<Pair, Option<u64>>) {
        self.shown.retain(|pair| lags.contains_key(pair));
        let free = self.series_max - self.shown.len();
        let mut others: Vec<(&Pair, Option<u64>)> = lags
            .iter()
            .filter(|(pair, _)| !self.shown.contains(*pair))
            .map(|(pair, lag)| (pair, *lag))
            .collect();
        others.sort_by_key(|(_, lag)| std::cmp::Reverse(*lag));
        let chosen: Vec<Pair> = others.into_iter().take(free).map(|(pair, _)| pair.clone()).collect();
        self.shown.extend(chosen);
    }
}

/// The committed offsets by group and topic, of topics that there are.
fn positions(image: &Image, committed: Vec<GroupOffsets>) -> Positions {
    let mut positions = Positions::new();
    for (group, offsets) in committed {
        for (partition, offset) in offsets {
            if let Some(found) = image.partition(partition.topic, partition.partition) {
                let pair = (group.clone(), found.topic.name.clone());
                positions.entry(pair).or_default().push((found.group, offset));
            }
        }
    }
    positions
}

/// Where the partitions end that a broker leads; nothing if it does not answer, as one of an older build.
async fn ask(registry: &Registry, broker: BrokerId) -> Vec<(GroupId, Ends)> {
    let Some(address) = registry.peer_address(broker) else {
        return Vec::new();
    };
    let request = EndOffsetsRequest {
        hello: Some(registry.hello(broker)),
    };
    let asked = |channel| async move { transport::internal_client(channel).end_offsets(request).await };
    let answer = registry.dialer().call(&address, ANSWER_TIMEOUT, asked).await;
    let partitions = answer.map(|answer| answer.partitions).unwrap_or_default();
    let at = Instant::now();
    let ends = partitions.into_iter().map(|found| {
        let ends = Ends {
            log_start: Offset(found.log_start_offset),
            end: Offset(found.end_offset),
            at,
        };
        (GroupId(found.group_id), ends)
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watcher(series_max: usize, ends: &[(u64, i64, i64)], at: Instant) -> LagWatcher {
        let mut watcher = LagWatcher::new(series_max);
        for (group, log_start, end) in ends {
            let ends = Ends {
                log_start: Offset(*log_start),
                end: Offset(*end),
                at,
            };
            watcher.ends.insert(GroupId(*group), ends);
        }
        watcher
    }

    fn at(group: &str, partitions: &[(u64, i64)]) -> (Pair, Vec<(GroupId, Offset)>) {
        let partitions = partitions
            .iter()
            .map(|(group, offset)| (GroupId(*group), Offset(*offset)));
        ((group.into(), "orders".into()), partitions.collect())
    }

    #[test]
    fn lag_counts_what_is_there_and_is_not_known_without_the_end_of_each_partition() {
        let now = Instant::now();
        let mut watcher = watcher(9, &[(1, 0, 10), (2, 50, 60), (3, 0, 5)], now);
        let positions = Positions::from([
            at("begun", &[(1, 4), (2, 20)]),
            // It has committed beyond an end that was found out before.
            at("done", &[(3, 7)]),
            at("partly", &[(1, 0), (4, 0)]),
        ]);
        let report = watcher.report(positions.clone(), now);
        let lags: Vec<(&str, u64)> = report.series.iter().map(|(group, _, lag)| (&**group, *lag)).collect();
        assert_eq!(lags, [("begun", 16), ("done", 0)]);
        assert_eq!((report.others, report.left_out, report.unknown), (0, 0, 1));
        let later = watcher.report(positions, now + END_KEPT_FOR);
        assert!(later.series.is_empty() && later.unknown == 3, "{later:?}");
    }

    #[test]
    fn series_are_few_and_stay_with_those_that_have_them() {
        let now = Instant::now();
        let mut watcher = watcher(2, &[(1, 0, 100)], now);
        let three = [at("a", &[(1, 90)]), at("b", &[(1, 50)]), at("c", &[(1, 20)])];
        let report = watcher.report(Positions::from(three.clone()), now);
        let shown = |report: &LagReport| -> String {
            let names = report.series.iter().map(|(group, _, _)| group.to_string());
            names.collect()
        };
        assert_eq!(
            (shown(&report), report.others, report.left_out),
            ("bc".to_owned(), 10, 1)
        );
        // `a` falls behind, and has no series until one is free.
        let [_, b, c] = three;
        let behind = at("a", &[(1, 0)]);
        let report = watcher.report(Positions::from([behind.clone(), b.clone(), c]), now);
        assert_eq!((shown(&report), report.others), ("bc".to_owned(), 100));
        let report = watcher.report(Positions::from([behind, b]), now);
        assert_eq!((shown(&report), report.left_out), ("ab".to_owned(), 0));
    }
}
