//! What the listeners count, from before there is a cluster.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerCauseLabel {
    listener: &'static str,
    cause: &'static str,
}

/// See the module text.
#[derive(Clone, Default)]
pub(crate) struct ConnectionMetrics {
    open: Family<ListenerLabel, Gauge>,
    max: Family<ListenerLabel, Gauge>,
    refused: Family<ListenerCauseLabel, Counter>,
    ended: Family<ListenerCauseLabel, Counter>,
    failed_accepts: Family<ListenerLabel, Counter>,
}

impl ConnectionMetrics {
    /// A listener with so many places, and what may become of its connections: a series is there before its first event, or
    /// that event would not be seen.
    pub fn begin(&self, listener: &'static str, places: usize, refused: &[&'static str], ended: &[&'static str]) {
        let label = ListenerLabel { listener };
        self.max
            .get_or_create(&label)
            .set(i64::try_from(places).unwrap_or(i64::MAX));
        drop(self.open.get_or_create(&label));
        drop(self.failed_accepts.get_or_create(&label));
        for cause in refused {
            drop(self.refused.get_or_create(&ListenerCauseLabel { listener, cause }));
        }
        for cause in ended {
            drop(self.ended.get_or_create(&ListenerCauseLabel { listener, cause }));
        }
    }

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

    /// The system gave no connection although one waits.
    pub fn accept_failed(&self, listener: &'static str) {
        self.failed_accepts.get_or_create(&ListenerLabel { listener }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections, by listener", self.open.clone());
        registry.register("connections_max", "Connections that a listener takes", self.max.clone());
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
        registry.register(
            "accept_failures",
            "Accepts that failed for want of descriptors or memory",
            self.failed_accepts.clone(),
        );
    }
}
