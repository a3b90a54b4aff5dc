//! The counters of what clients share.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::resource::{Resource, Scope};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShareLabel {
    resource: &'static str,
    share: &'static str,
}

/// The series of all resources.
#[derive(Clone, Default)]
pub(crate) struct QuotaMetrics {
    refusals: Family<ShareLabel, Counter>,
    /// Connections that were closed because an answer was not taken.
    pub stalled: Counter,
}

impl QuotaMetrics {
    /// Counts a request that was refused because a resource was used up.
    pub fn refused(&self, resource: Resource, scope: Scope) {
        self.refusals.get_or_create(&label(resource, scope)).inc();
    }

    /// Registers the series. Each is there before its first event, since otherwise that event would not be seen as growth.
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for resource in Resource::ALL {
            for scope in Scope::ALL {
                drop(metrics.refusals.get_or_create(&label(resource, scope)));
            }
        }
        registry.register(
            "admission_refusals",
            "Requests and fetches that found no room, by resource and whose share was used up",
            metrics.refusals.clone(),
        );
        registry.register(
            "stalled_connections",
            "Connections that were closed because an answer was not taken in time",
            metrics.stalled.clone(),
        );
        metrics
    }
}

fn label(resource: Resource, scope: Scope) -> ShareLabel {
    ShareLabel {
        resource: resource.name(),
        share: scope.name(),
    }
}
