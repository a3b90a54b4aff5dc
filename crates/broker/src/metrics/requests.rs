//! The calls of the public listener, by method and outcome. Method names come from the contract and outcomes from the list of
//! reasons, so the number of series is bounded whatever is sent.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jangada_proto::shape::Contract;
use jangada_storage::Latency;
use jangada_types::Reason;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::writer::Writer;

/// Between brokers: refused here, and counted by the internal listener.
const INTERNAL_SERVICE: &str = "InternalService/";
const OK: &str = "OK";

/// All methods, by their number in the contract.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    methods: Vec<Arc<MethodMetrics>>,
}

/// What is counted of one method. A call that goes well costs three relaxed additions.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    name: String,
    ok: AtomicU64,
    /// By outcome.
    failed: Mutex<BTreeMap<&'static str, u64>>,
    /// Unary calls, until their service has answered.
    took: Latency,
}

impl RequestMetrics {
    pub fn new(contract: &Contract) -> Self {
        let methods = contract.methods().into_iter().map(|method| {
            Arc::new(MethodMetrics {
                name: method.name.clone(),
                ok: AtomicU64::new(0),
                failed: Mutex::default(),
                took: Latency::default(),
            })
        });
        Self {
            methods: methods.collect(),
        }
    }

    /// The method with this number.
    pub fn method(&self, number: usize) -> &Arc<MethodMetrics> {
        &self.methods[number]
    }

    fn shown(&self) -> impl Iterator<Item = &Arc<MethodMetrics>> {
        let methods = self.methods.iter();
        methods.filter(|method| !method.name.starts_with(INTERNAL_SERVICE))
    }
}

impl MethodMetrics {
    /// A unary call was answered by its service, with or without an error.
    pub fn took(&self, duration: Duration) {
        self.took.record(duration);
    }

    /// A call has ended.
    fn ended(&self, outcome: &'static str) {
        if outcome == OK {
            self.ok.fetch_add(1, Relaxed);
        } else {
            *self.failed.lock().entry(outcome).or_default() += 1;
        }
    }
}

/// A call until its outcome is known; one that is dropped before was given up by its client.
pub(crate) struct Ending(Option<Arc<MethodMetrics>>);

impl Ending {
    pub fn of(method: &Arc<MethodMetrics>) -> Self {
        Self(Some(method.clone()))
    }

    /// Of what the contract does not have.
    pub fn uncounted() -> Self {
        Self(None)
    }

    /// The call ends with this status.
    pub fn with(&mut self, status: &Status) {
        if let Some(method) = self.0.take() {
            method.ended(outcome(status));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(method) = self.0.take() {
            method.ended(code_name(Code::Cancelled));
        }
    }
}

/// The reason of an error of ours, or else the code's name.
fn outcome(status: &Status) -> &'static str {
    if status.code() == Code::Ok {
        return OK;
    }
    let info = status.get_details_error_info();
    let reason = info.and_then(|info| Reason::parse(&info.reason));
    reason.map_or_else(|| code_name(status.code()), Reason::as_str)
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => OK,
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl Collector for RequestMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let outcomes: Vec<(&str, &str, u64)> = self
            .shown()
            .flat_map(|method| {
                let failed = method.failed.lock().clone();
                let ok = (OK, method.ok.load(Relaxed));
                let all = std::iter::once(ok).chain(failed);
                all.map(|(outcome, count)| (method.name.as_str(), outcome, count))
            })
            .collect();
        to.counters(
            "requests",
            "Calls that have ended, by method and outcome: OK, the reason of an error, or the name of its gRPC code",
            outcomes
                .into_iter()
                .map(|(method, outcome, count)| ([("method", method), ("outcome", outcome)], count)),
        )?;
        let called = self.shown().map(|method| (method, method.took.read()));
        to.latencies(
            "request_duration_seconds",
            "How long unary calls took their service, by method; those of Fetch with their wait for records",
            called
                .filter(|(_, took)| took.count() > 0)
                .map(|(method, took)| ([("method", method.name.as_str())], took)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RequestError;

    #[test]
    fn an_outcome_is_ok_a_reason_or_a_code() {
        let refused = Status::from(RequestError::new(Reason::DiskFull, "the disk is full"));
        for (status, name) in [
            (Status::ok(""), "OK"),
            (refused, "DISK_FULL"),
            (Status::unimplemented("no such method"), "UNIMPLEMENTED"),
        ] {
            assert_eq!(outcome(&status), name);
        }
    }

    #[test]
    fn a_call_counts_once_and_one_that_is_given_up_as_cancelled() {
        let metrics = RequestMetrics::new(&Contract::new());
        let method = metrics.methods.iter().find(|method| method.name == "LogService/Fetch");
        let method = method.expect("it is in the contract");
        let mut call = Ending::of(method);
        call.with(&Status::ok(""));
        call.with(&Status::internal("again"));
        drop(call);
        drop(Ending::of(method));
        assert_eq!(method.ok.load(Relaxed), 1);
        assert_eq!(*method.failed.lock(), BTreeMap::from([("CANCELLED", 1)]));
    }
}
