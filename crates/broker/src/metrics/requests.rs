//! The calls of clients, by method and outcome: of this broker's own, of other brokers' that are passed on to this one, and those
//! that this one passes on. Method names come from the contract and outcomes from the list of
//! reasons, so the number of series is bounded whatever is sent.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jangada_storage::Latency;
use jangada_types::Reason;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::writer::Writer;
use crate::api::operation::Operation;

/// The outcome of a successful call.
pub(crate) const OK: &str = "OK";
/// The outcome of a call that its client gave up.
const CANCELLED: &str = "CANCELLED";

/// What a family of calls is called, and what it means.
#[derive(Debug)]
struct Family {
    requests: &'static str,
    requests_help: &'static str,
    duration: &'static str,
    duration_help: &'static str,
}

const OF_CLIENTS: Family = Family {
    requests: "requests",
    requests_help: "Calls that have ended, by method and outcome: OK, the reason of an error, or the name of its gRPC code",
    duration: "request_duration_seconds",
    duration_help: "How long unary calls took their service, by method; those of Fetch with their wait for records",
};

const PASSED: Family = Family {
    requests: "passed_requests",
    requests_help: "Calls of other brokers' clients that were answered here, by method and outcome",
    duration: "passed_request_duration_seconds",
    duration_help: "How long calls of other brokers' clients took here, by method",
};

/// The counters of all operations, by their number.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    family: Family,
    methods: Vec<Arc<MethodMetrics>>,
}

/// The counters of one method. A successful call costs three relaxed additions.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    name: &'static str,
    ok: AtomicU64,
    /// The number of calls with each other outcome.
    failed: Mutex<BTreeMap<&'static str, u64>>,
    /// How long the service took for unary calls.
    took: Latency,
}

impl RequestMetrics {
    /// Calls of this broker's own clients.
    pub fn of_clients() -> Self {
        Self::of_family(OF_CLIENTS)
    }

    /// Calls of other brokers' clients.
    pub fn passed() -> Self {
        Self::of_family(PASSED)
    }

    fn of_family(family: Family) -> Self {
        let methods = Operation::ALL.iter().map(|operation| {
            Arc::new(MethodMetrics {
                name: operation.name(),
                ok: AtomicU64::new(0),
                failed: Mutex::default(),
                took: Latency::default(),
            })
        });
        Self {
            family,
            methods: methods.collect(),
        }
    }

    /// The counters of an operation.
    pub fn of(&self, operation: Operation) -> &Arc<MethodMetrics> {
        &self.methods[operation as usize]
    }
}

/// Calls that this broker passes on, by operation and outcome.
#[derive(Debug, Default)]
pub(crate) struct PassedOn(Mutex<BTreeMap<(Operation, &'static str), u64>>);

impl PassedOn {
    /// A call that was passed on is answered, or refused for this reason.
    pub fn count(&self, operation: Operation, refused: Option<Reason>) {
        let outcome = refused.map_or(OK, Reason::as_str);
        *self.0.lock().entry((operation, outcome)).or_default() += 1;
    }
}

impl Collector for PassedOn {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let counted = self.0.lock().clone();
        // A series is there before its first event, or that event would not be seen as growth.
        let passable = Operation::ALL.iter().map(|operation| ((*operation, OK), 0));
        let all: BTreeMap<(Operation, &str), u64> = passable.chain(counted).collect();
        Writer(encoder).counters(
            "passed_on",
            "Calls of clients that were passed on to another broker, by method and outcome",
            all.into_iter()
                .map(|((operation, outcome), count)| ([("method", operation.name()), ("outcome", outcome)], count)),
        )
    }
}

impl MethodMetrics {
    /// Records how long the service took for a unary call, with or without an error.
    pub fn took(&self, duration: Duration) {
        self.took.record(duration);
    }

    /// Counts a call that has ended.
    fn ended(&self, outcome: &'static str) {
        if outcome == OK {
            self.ok.fetch_add(1, Relaxed);
        } else {
            *self.failed.lock().entry(outcome).or_default() += 1;
        }
    }
}

/// Counts a call once: with its outcome, or as cancelled when this is dropped first, because its client gave up.
pub(crate) struct Ending(Option<Arc<MethodMetrics>>);

impl Ending {
    pub fn of(method: &Arc<MethodMetrics>) -> Self {
        Self(Some(method.clone()))
    }

    /// For a method that is not of the contract, which is not counted.
    pub fn uncounted() -> Self {
        Self(None)
    }

    /// Counts the call with its outcome: OK, the reason of an error, or the name of a gRPC code.
    pub fn with(&mut self, outcome: &'static str) {
        if let Some(method) = self.0.take() {
            method.ended(outcome);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(method) = self.0.take() {
            method.ended(CANCELLED);
        }
    }
}

impl Collector for RequestMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let outcomes: Vec<(&str, &str, u64)> = self
            .methods
            .iter()
            .flat_map(|method| {
                let failed = method.failed.lock().clone();
                let ok = (OK, method.ok.load(Relaxed));
                let all = std::iter::once(ok).chain(failed);
                all.map(|(outcome, count)| (method.name, outcome, count))
            })
            .collect();
        to.counters(
            self.family.requests,
            self.family.requests_help,
            outcomes
                .into_iter()
                .map(|(method, outcome, count)| ([("method", method), ("outcome", outcome)], count)),
        )?;
        let called = self.methods.iter().map(|method| (method, method.took.read()));
        to.latencies(
            self.family.duration,
            self.family.duration_help,
            called
                .filter(|(_, took)| took.count() > 0)
                .map(|(method, took)| ([("method", method.name)], took)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_once_and_one_that_is_given_up_as_cancelled() {
        let metrics = RequestMetrics::of_clients();
        let method = metrics.of(Operation::Fetch);
        let mut call = Ending::of(method);
        call.with(OK);
        call.with("INTERNAL");
        drop(call);
        drop(Ending::of(method));
        assert_eq!(method.ok.load(Relaxed), 1);
        assert_eq!(*method.failed.lock(), BTreeMap::from([("CANCELLED", 1)]));
    }
}
