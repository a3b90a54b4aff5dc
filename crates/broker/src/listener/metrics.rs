//! The metrics of the listeners, which count from before this broker is part of a cluster.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerCauseLabel {
    listener: String,
    cause: &'static str,
}

/// The series of all listeners.
#[derive(Clone, Default)]
pub(crate) struct ConnectionMetrics {
    open: Family<ListenerLabel, Gauge>,
    max: Family<ListenerLabel, Gauge>,
    refused: Family<ListenerCauseLabel, Counter>,
    ended: Family<ListenerCauseLabel, Counter>,
    failed_accepts: Family<ListenerLabel, Counter>,
}

/// The series of one listener.
#[derive(Default)]
pub(super) struct ListenerMetrics {
    open: Gauge,
    refused: Vec<(&'static str, Counter)>,
    ended: Vec<(&'static str, Counter)>,
    failed_accepts: Counter,
}

impl ConnectionMetrics {
    /// The series of a listener with this many slots, for all causes of refusing and closing its connections. Each series exists
    /// before its first event: Prometheus sees no increase in a series that begins with 1.
    pub(super) fn of_listener(
        &self,
        listener: &str,
        slots: usize,
        refused: &[&'static str],
        ended: &[&'static str],
    ) -> ListenerMetrics {
        let label = ListenerLabel {
            listener: listener.to_owned(),
        };
        let slots = i64::try_from(slots).unwrap_or(i64::MAX);
        self.max.get_or_create(&label).set(slots);
        let by_cause = |family: &Family<ListenerCauseLabel, Counter>, causes: &[&'static str]| {
            let series = causes.iter().map(|cause| {
                let label = ListenerCauseLabel {
                    listener: listener.to_owned(),
                    cause,
                };
                (*cause, Counter::clone(&family.get_or_create(&label)))
            });
            series.collect()
        };
        ListenerMetrics {
            open: Gauge::clone(&self.open.get_or_create(&label)),
            refused: by_cause(&self.refused, refused),
            ended: by_cause(&self.ended, ended),
            failed_accepts: Counter::clone(&self.failed_accepts.get_or_create(&label)),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections, by listener", self.open.clone());
        registry.register("connections_max", "Connections that a listener takes", self.max.clone());
        registry.register(
            "connections_refused",
            "Connections that were refused: the listener was full, or their address had its share",
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

impl ListenerMetrics {
    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn closed(&self) {
        self.open.dec();
    }

    pub fn refused(&self, cause: &str) {
        count(&self.refused, cause);
    }

    pub fn ended(&self, cause: &str) {
        count(&self.ended, cause);
    }

    /// Counts an accept that failed for lack of a resource.
    pub fn accept_failed(&self) {
        self.failed_accepts.inc();
    }
}

fn count(series: &[(&'static str, Counter)], cause: &str) {
    if let Some((_, counter)) = series.iter().find(|(name, _)| *name == cause) {
        counter.inc();
    }
}
