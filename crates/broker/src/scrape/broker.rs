//! The values of a broker and its cluster at a scrape. All are read from memory, without waiting.

use std::fmt::Error;

use jangada_replication::Cause;
use jangada_storage::{LatencyHistogram, StoreStatistics};
use jangada_types::FEATURE_LEVEL;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::replication::{CommitSamples, Replicas};
use crate::compaction::CompactionSample;
use crate::groups::CoordinatorReplica;
use crate::metrics::Writer;
use crate::node::Node;
use crate::quota::Resource;

const MS_PER_SECOND: f64 = 1e3;

/// The values of a broker and its cluster at one moment.
#[derive(Debug)]
pub(super) struct BrokerSample {
    replicas: Replicas,
    partitions: u64,
    /// Partitions for which this broker knows no leader that is alive.
    offline: u64,
    brokers_alive: u64,
    brokers_dead: u64,
    leads_metadata: bool,
    feature_level: u32,
    clock_ms: i64,
    /// Each resource of admission with what is held of it, and its limit.
    held: Vec<(Resource, u64, u64)>,
    rejections: Vec<(&'static str, u64)>,
    damaged: u64,
    refilling: u64,
    has_damaged_file: bool,
    scrub_interval_ms: u64,
    scrub_began_ms: i64,
    scrub_ended_ms: i64,
    compaction: CompactionSample,
    groups: u64,
    members: u64,
    store: StoreStatistics,
    disk_reserve_bytes: u64,
    commits: LatencyHistogram,
    applies: LatencyHistogram,
}

impl BrokerSample {
    pub fn take(node: &Node, commits: &CommitSamples) -> Self {
        let image = node.metadata.image();
        let registry = node.registry();
        let (mut partitions, mut offline) = (0, 0);
        for partition in image.partitions() {
            partitions += 1;
            offline += u64::from(node.replicas.live_leader_of(partition.group).is_none());
        }
        let alive = image.brokers().filter(|broker| registry.is_alive(broker.id)).count() as u64;
        let (damaged, refilling) = node.repairs.count();
        let shards = node.replicas.fronts::<CoordinatorReplica>();
        let led = shards.iter().filter(|shard| shard.hosted.is_ready());
        let (groups, members) = led
            .map(|shard| shard.count())
            .fold((0, 0), |(groups, members), (g, m)| (groups + g, members + m));
        let held = Resource::ALL.map(|resource| {
            let budgets = &node.budgets;
            (resource, budgets.used(resource) as u64, budgets.limit(resource) as u64)
        });
        let rejections = Cause::ALL.map(|cause| (cause.name(), registry.rejections().get(cause)));
        Self {
            replicas: Replicas::sample(node, &image, commits),
            partitions,
            offline,
            brokers_alive: alive,
            brokers_dead: image.brokers().count() as u64 - alive,
            leads_metadata: node.metadata.hosted.is_ready() && !node.metadata.hosted.check_quorum.is_lost(),
            feature_level: image.feature_level(),
            clock_ms: node.env.clock.now_ms(),
            held: held.to_vec(),
            rejections: rejections.to_vec(),
            damaged,
            refilling,
            has_damaged_file: node.store().damaged_file().is_some(),
            scrub_interval_ms: node.settings.repair.scrub_interval_ms,
            scrub_began_ms: node.scrub.began_ms(),
            scrub_ended_ms: node.scrub.last_ended_ms(),
            compaction: node.compaction.sample(),
            groups,
            members,
            store: node.store().statistics(),
            disk_reserve_bytes: node.settings.storage.disk_reserve_bytes,
            commits: registry.commit_latency(),
            applies: registry.apply_latency(),
        }
    }

    fn cluster(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let level = FEATURE_LEVEL.to_string();
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("feature_level", level.as_str()),
        ];
        to.gauges(
            "build_info",
            "The build: its version, and the highest feature level that it knows",
            [(labels, 1)],
        )?;
        let help = "The feature level of the cluster";
        to.gauge("feature_level", help, u64::from(self.feature_level))?;
        let help = "The broker's wall clock, since 1970";
        to.gauge("clock_timestamp_seconds", help, seconds(self.clock_ms))?;
        let brokers = [("alive", self.brokers_alive), ("dead", self.brokers_dead)];
        to.gauges(
            "brokers",
            "Brokers of the cluster as this one hears of them, by state",
            brokers.map(|(state, count)| ([("state", state)], count)),
        )?;
        let help = "1 on the broker that leads the metadata, 0 on the others";
        to.gauge("metadata_leader", help, u64::from(self.leads_metadata))?;
        let help = "Partitions of all topics of the cluster, those of the coordinator among them";
        to.gauge("partitions", help, self.partitions)?;
        let help = "Of these, those of which this broker knows no leader that is alive";
        to.gauge("partitions_offline", help, self.offline)
    }

    fn replicas(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let help = "Replicas that are open on this broker, that of the metadata among them";
        to.gauge("replicas", help, self.replicas.hosted)?;
        let help = "Of these, those that lead and are ready";
        to.gauge("replicas_leading", help, self.replicas.led)?;
        let help = "Of these, those that know no leader that is alive";
        to.gauge("replicas_leaderless", help, self.replicas.leaderless)?;
        to.gauge(
            "under_replicated_partitions",
            "Partitions led here of which a replica is missing, silent or behind",
            self.replicas.under_replicated,
        )?;
        to.counters(
            "internal_rejections",
            "Messages on the internal listener that were refused, by cause",
            self.rejections
                .iter()
                .map(|(cause, count)| ([("cause", *cause)], *count)),
        )?;
        to.latency(
            "raft_commit_duration_seconds",
            "How long a command that was proposed here took until it was committed and applied here, of any group",
            &self.commits,
        )?;
        let help = "How long a run of committed entries took to apply, of any replica here";
        to.latency("raft_apply_duration_seconds", help, &self.applies)
    }

    fn repair(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let damaged = [("damaged", self.damaged), ("refilling", self.refilling)];
        to.gauges(
            "damaged_replicas",
            "Replicas on this broker that are damaged, or being filled again",
            damaged.map(|(state, count)| ([("state", state)], count)),
        )?;
        let help = "1 when a file of the store that many replicas share is damaged";
        to.gauge("store_damaged_file", help, u64::from(self.has_damaged_file))?;
        let known = |ms: i64| (ms != 0).then(|| seconds(ms));
        to.known_gauge(
            "scrub_begin_timestamp_seconds",
            "When the round of the scrub began that is under way, since 1970",
            known(self.scrub_began_ms),
        )?;
        to.known_gauge(
            "scrub_last_end_timestamp_seconds",
            "When everything on the disk had been read through last, since 1970",
            known(self.scrub_ended_ms),
        )?;
        let help = "The least time between the beginnings of two rounds of the scrub";
        to.gauge(
            "scrub_interval_seconds",
            help,
            self.scrub_interval_ms as f64 / MS_PER_SECOND,
        )?;
        let help = "Bytes that the scrub has read and found sound";
        to.counter("scrubbed_bytes", help, self.store.scrubbed_bytes)?;
        self.compaction(to)
    }

    fn compaction(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let of = &self.compaction;
        to.gauge(
            "compaction_under_way",
            "Whether a pass of compaction runs now",
            of.under_way,
        )?;
        to.counter("compaction_passes", "Passes of compaction that have ended", of.passes)?;
        to.counter(
            "compaction_read_bytes",
            "Bytes of batches that compaction has read",
            of.read_bytes,
        )?;
        to.counter(
            "compaction_written_bytes",
            "Bytes of entries that compaction has written",
            of.written_bytes,
        )?;
        to.counter(
            "compaction_records_gone",
            "Records that compaction has taken",
            of.records_gone,
        )?;
        let help = "Bytes of batches in the parts of partitions that are compacted";
        to.gauge("compaction_stored_bytes", help, of.stored_bytes)?;
        let help = "Bytes of log entries of which compaction has left nothing, about";
        to.gauge("compaction_stub_bytes", help, of.stub_bytes)?;
        let help = "Offsets by which the horizon of tombstones lags behind what this broker has compacted, of the worst partition led here";
        to.gauge("compaction_tombstone_horizon_lag_offsets", help, of.horizon_lag)?;
        let help = "Batches of compacted partitions that cannot be read, and stay";
        to.gauge("compaction_unreadable_batches", help, of.unreadable)
    }

    fn clients(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let in_bytes = || self.held.iter().filter(|(resource, ..)| resource.is_bytes());
        to.gauges(
            "admission_held_bytes",
            "Memory that clients hold now, by what it is for",
            in_bytes().map(|(resource, used, _)| ([("resource", resource.name())], *used)),
        )?;
        to.gauges(
            "admission_held_bytes_max",
            "What they may hold all together",
            in_bytes().map(|(resource, _, limit)| ([("resource", resource.name())], *limit)),
        )?;
        let of = |wanted| {
            let found = self.held.iter().find(|(resource, ..)| *resource == wanted);
            found.map_or((0, 0), |(_, used, limit)| (*used, *limit))
        };
        for (resource, name, what) in [
            (Resource::Streams, "streams", "Produce and fetch streams"),
            (Resource::Calls, "calls", "Calls under way, streams included"),
        ] {
            let (used, limit) = of(resource);
            to.gauge(name, what, used)?;
            to.gauge(&format!("{name}_max"), &format!("{what}: how many there may be"), limit)?;
        }
        let help = "Consumer groups of the shards that this broker leads";
        to.gauge("groups", help, self.groups)?;
        to.gauge("group_members", "Their members", self.members)
    }

    fn store(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let store = &self.store;
        let help = "How long a sync of the write-ahead log took";
        to.latency("store_sync_duration_seconds", help, &store.sync_latency)?;
        let help = "How long a write into the memory tables and the log's buffer took";
        to.latency("store_write_duration_seconds", help, &store.write_latency)?;
        to.counter(
            "store_commits",
            "Writes of the store, each for all that was queued",
            store.commits,
        )?;
        to.counter("store_entries", "Log entries that were written", store.entries)?;
        to.counter("store_written_bytes", "Bytes of these writes", store.bytes_written)?;
        let help = "Bytes of log entries that were read from disk and not from memory";
        to.counter("store_read_bytes", help, store.bytes_read)?;
        to.gauge("store_queue_bytes", "Bytes that wait for the disk", store.queue_bytes)?;
        to.gauge("store_tail_bytes", "Recent log entries in memory", store.tail_bytes)?;
        let is_known = store.disk_total_bytes > 0;
        let help = "Free space of the data directory's file system";
        to.known_gauge("disk_free_bytes", help, is_known.then_some(store.disk_free_bytes))?;
        let help = "Size of the data directory's file system";
        to.known_gauge("disk_total_bytes", help, is_known.then_some(store.disk_total_bytes))?;
        let help = "Free space below which records are refused";
        to.gauge("disk_reserve_bytes", help, self.disk_reserve_bytes)
    }
}

impl Collector for BrokerSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        self.cluster(&mut to)?;
        self.replicas(&mut to)?;
        self.repair(&mut to)?;
        self.clients(&mut to)?;
        self.store(&mut to)
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / MS_PER_SECOND
}
