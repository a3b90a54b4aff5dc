//! The broker's counters, for `/metrics` in Prometheus' text format.

use std::sync::Arc;

use jangada_replication::Cause;
use jangada_types::Reason;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::admission::Resource;
use crate::node::Node;
use crate::refusal_log::RefusalLog;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerCauseLabel {
    listener: &'static str,
    cause: &'static str,
}

/// Everything that is counted. Counters are added to where things happen; gauges are set when somebody asks.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    produced_bytes: Counter,
    produced_records: Counter,
    produced_batches: Counter,
    fetched_bytes: Counter,
    errors: Family<ReasonLabel, Counter>,
    replicas: Family<StateLabel, Gauge>,
    store: Family<StateLabel, Gauge>,
    /// What other brokers, or who passes for one, said and was refused.
    internal_rejections: Family<CauseLabel, Counter>,
    /// Tells of those errors that an operator should know of.
    pub refusals: RefusalLog,
    /// Of what clients share.
    pub admission: AdmissionMetrics,
    shared: Family<StateLabel, Gauge>,
    damages: Family<KindLabel, Counter>,
    repairs: Counter,
    damaged: Family<StateLabel, Gauge>,
    scrubbed_ms: Gauge,
    /// Of the consumer groups whose shards this broker leads.
    pub groups: GroupMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShareLabel {
    resource: &'static str,
    share: &'static str,
}

/// What admission counts.
#[derive(Clone, Default)]
pub(crate) struct AdmissionMetrics {
    refusals: Family<ShareLabel, Counter>,
    /// Connections that were closed because an answer was not taken.
    pub stalled: Counter,
}

impl AdmissionMetrics {
    /// There was no room for somebody.
    pub fn refused(&self, resource: &'static str, share: &'static str) {
        self.refusals.get_or_create(&ShareLabel { resource, share }).inc();
    }
}

/// What the coordinator counts.
#[derive(Clone, Default)]
pub(crate) struct GroupMetrics {
    pub heartbeats: Counter,
    pub commits: Counter,
    pub rebalances: Counter,
    removals: Family<CauseLabel, Counter>,
    here: Family<StateLabel, Gauge>,
}

impl GroupMetrics {
    /// A member is gone.
    pub fn removed(&self, cause: &'static str) {
        self.removals.get_or_create(&CauseLabel { cause }).inc();
    }
}

/// What the listeners count, from before there is a cluster.
#[derive(Clone, Default)]
pub(crate) struct ConnectionMetrics {
    open: Family<ListenerLabel, Gauge>,
    refused: Family<ListenerCauseLabel, Counter>,
    ended: Family<ListenerCauseLabel, Counter>,
}

impl ConnectionMetrics {
    pub fn opened(&self, listener: &'static str) {
        self.open.get_or_create(&ListenerLabel { listener }).inc();
    }

    pub fn closed(&self, listener: &'static str) {
        self.open.get_or_create(&ListenerLabel { listener }).dec();
    }

    pub fn refused(&self, listener: &'static str, cause: &'static str) {
        let label = ListenerCauseLabel { listener, cause };
        self.refused.get_or_create(&label).inc();
    }

    pub fn ended(&self, listener: &'static str, cause: &'static str) {
        self.ended.get_or_create(&ListenerCauseLabel { listener, cause }).inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections, by listener", self.open.clone());
        registry.register(
            "connections_refused",
            "Connections that got no place: the listener was full, or their address had its share",
            self.refused.clone(),
        );
        registry.register(
            "connections_ended",
            "Connections that this broker ended: silent, idle, or made way for another address",
            self.ended.clone(),
        );
    }
}

impl Metrics {
    pub fn new(connections: &ConnectionMetrics) -> Arc<Self> {
        let mut registry = Registry::with_prefix("jangada");
        connections.register(&mut registry);
        let all = &mut registry;
        let metrics = Self {
            produced_bytes: in_bytes(all, "produced", "Bytes of acknowledged batches"),
            produced_records: registered(all, "produced_records", "Acknowledged records"),
            produced_batches: registered(all, "produced_batches", "Acknowledged batches"),
            fetched_bytes: in_bytes(all, "fetched", "Bytes of batches read by consumers"),
            errors: registered(
                all,
                "request_errors",
                "Calls of LogService and GroupService and answers inside streams that are errors, by reason",
            ),
            replicas: registered(all, "replicas", "Partition replicas on this broker, by state"),
            store: registered(
                all,
                "store",
                "The store's counters: commits, syncs, queued and cached bytes, free space",
            ),
            internal_rejections: registered(
                all,
                "internal_rejections",
                "Messages on the internal listener that were refused, by cause",
            ),
            refusals: RefusalLog::default(),
            admission: AdmissionMetrics {
                refusals: registered(
                    all,
                    "admission_refusals",
                    "Requests and fetches that found no room, by resource and whose share was used up",
                ),
                stalled: registered(
                    all,
                    "stalled_connections",
                    "Connections that were closed because an answer was not taken in time",
                ),
            },
            shared: registered(
                all,
                "shared",
                "What clients hold of what they share, by resource; in bytes but streams",
            ),
            damages: registered(all, "damages", "Damaged replicas that were found here, by kind"),
            repairs: registered(
                all,
                "repairs",
                "Damaged replicas that were filled again from the others",
            ),
            damaged: registered(
                all,
                "damaged_replicas",
                "Replicas on this broker that are damaged, or being filled again",
            ),
            scrubbed_ms: registered(
                all,
                "scrub_last_end_milliseconds",
                "When everything on the disk had been read through last, since 1970; 0: never",
            ),
            groups: GroupMetrics {
                heartbeats: registered(all, "group_heartbeats", "Heartbeats of members that were answered"),
                commits: registered(all, "group_commits", "Commits of offsets that are durable"),
                rebalances: registered(all, "group_rebalances", "New assignments of groups"),
                removals: registered(all, "group_removals", "Members that left or were thrown out, by cause"),
                here: registered(
                    all,
                    "groups",
                    "Consumer groups of the shards that this broker leads, and their members",
                ),
            },
            registry: Mutex::default(),
        };
        *metrics.registry.lock() = registry;
        Arc::new(metrics)
    }

    pub fn produced(&self, bytes: usize, records: i64) {
        self.produced_bytes.inc_by(bytes as u64);
        self.produced_records.inc_by(u64::try_from(records).unwrap_or(0));
        self.produced_batches.inc();
    }

    pub fn fetched(&self, bytes: usize) {
        self.fetched_bytes.inc_by(bytes as u64);
    }

    /// A replica was found damaged.
    pub fn damaged(&self, kind: &'static str) {
        self.damages.get_or_create(&KindLabel { kind }).inc();
    }

    /// A damaged replica is filled again.
    pub fn repaired(&self) {
        self.repairs.inc();
    }

    pub fn failed(&self, reason: Reason) {
        self.refusals.refused(reason);
        self.errors
            .get_or_create(&ReasonLabel {
                reason: reason.as_str(),
            })
            .inc();
    }

    /// The text for one scrape.
    pub fn render(&self, node: &Node) -> String {
        let groups = node.registry().groups();
        let leading = groups.iter().filter(|group| group.status().ready).count();
        let leaderless = groups.iter().filter(|group| !node.knows_leader(group)).count();
        let gauge = |family: &Family<StateLabel, Gauge>, state, value: u64| {
            family
                .get_or_create(&StateLabel { state })
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.replicas, "hosted", groups.len() as u64);
        gauge(&self.replicas, "leading", leading as u64);
        gauge(&self.replicas, "leaderless", leaderless as u64);
        for resource in Resource::ALL {
            gauge(&self.shared, resource.name(), node.budgets.used(resource) as u64);
        }
        let (damaged, refilling) = node.repairs.count();
        gauge(&self.damaged, "damaged", damaged);
        gauge(&self.damaged, "refilling", refilling);
        self.scrubbed_ms.set(node.scrub.last_ended_ms());
        let (groups, members) = node.shards.count();
        gauge(&self.groups.here, "groups", groups);
        gauge(&self.groups.here, "members", members);
        for cause in Cause::ALL {
            let counter = self
                .internal_rejections
                .get_or_create(&CauseLabel { cause: cause.name() });
            counter.inc_by(node.registry().rejections().get(cause).saturating_sub(counter.get()));
        }
        let store = node.store().statistics();
        for (name, value) in [
            ("commits", store.commits),
            ("syncs", store.syncs),
            ("entries", store.entries),
            ("bytes_written", store.bytes_written),
            ("bytes_read", store.bytes_read),
            ("scrubbed_bytes", store.scrubbed_bytes),
            ("queue_bytes", store.queue_bytes),
            ("tail_bytes", store.tail_bytes),
            ("sync_microseconds", store.sync_latency.sum_us),
            ("disk_free_bytes", store.disk_free_bytes),
        ] {
            gauge(&self.store, name, value);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry.lock()).expect("writing to a string cannot fail");
        text
    }
}

/// A metric that scrapes show.
fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// The same, counting bytes, which its name will say.
fn in_bytes<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, Unit::Bytes, metric.clone());
    metric
}
