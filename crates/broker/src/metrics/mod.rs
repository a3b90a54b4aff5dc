//! The broker's metrics, for `GET /metrics`, in Prometheus' conventions.
//!
//! Counters are incremented where things happen: on the paths of records by relaxed atomics, once per batch, without a lock, an
//! allocation or a look-up of labels. All other values are read from their owners at each scrape (`scrape`).
//!
//! - [`requests`]: calls, by method and outcome.
//! - [`topics`]: bytes and records produced and fetched, and bytes retained, by topic.
//! - [`queues`]: what has come of the messages of queues.
//! - [`exchanges`]: what was published to exchanges.
//! - [`transactions`]: how transactions were decided.
//! - [`lag`]: the lag of consumer groups.
//! - [`process`]: CPU, memory and file descriptors of the process.
//! - [`writer`]: encodes families whose values are read at a scrape. [`text`]: the two text formats of a scrape.

mod exchanges;
mod lag;
mod process;
mod queues;
mod requests;
mod text;
mod topics;
mod transactions;
mod writer;

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use jangada_coordinator::RemovalCause;
use jangada_storage::Latency;
use jangada_types::Reason;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry, Unit};
use tokio::time::{Instant, MissedTickBehavior};

pub(crate) use self::exchanges::{DEFAULT_EXCHANGE, ExchangeMetrics, ExchangeTraffic, Routing};
pub(crate) use self::lag::{LagBoard, LagReport};
use self::process::ProcessSample;
pub(crate) use self::queues::{QueueTallies, QueueTotals};
pub(crate) use self::requests::{Ending, MethodMetrics, OK, PassedOn, RequestMetrics};
pub(crate) use self::text::Form;
pub(crate) use self::topics::{TopicMetrics, TopicTraffic};
pub(crate) use self::transactions::TransactionMetrics;
pub(crate) use self::writer::Writer;
use crate::listener::ConnectionMetrics;
use crate::quota::QuotaMetrics;
use crate::refusal_log::RefusalLog;
use crate::repair::DAMAGE_KINDS;
use crate::settings::MetricsSettings;

const PREFIX: &str = "jangada";
/// How often the end of series of refusals is checked for.
const REFUSALS_INTERVAL: Duration = Duration::from_millis(500);
/// The cause of removal of a static member whose instance id another process has taken over.
pub(crate) const REPLACED: &str = "replaced";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// The counters and histograms of a broker.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    produced_bytes: Counter,
    produced_records: Counter,
    produced_batches: Counter,
    fetched_bytes: Counter,
    errors: Family<ReasonLabel, Counter>,
    /// Logs the errors that an operator should know of.
    pub refusals: RefusalLog,
    /// Counters of the budgets that clients share.
    pub quota: QuotaMetrics,
    damages: Family<KindLabel, Counter>,
    repairs: Counter,
    unreadable_messages: Counter,
    /// Counters of the consumer groups whose shards this broker leads.
    pub groups: GroupMetrics,
    /// Counters of the transactions whose shards this broker leads.
    pub transactions: TransactionMetrics,
    pub topics: TopicMetrics,
    /// Counters of the queues whose partitions this broker leads, or has led.
    pub queues: QueueTallies,
    /// Counters of the exchanges that clients of this broker have published to.
    pub exchanges: ExchangeMetrics,
    pub lag: LagBoard,
    durations: Arc<Durations>,
    /// The calls of this broker's own clients.
    pub requests: Arc<RequestMetrics>,
    /// The calls of other brokers' clients that are passed on to this one.
    pub passed_requests: Arc<RequestMetrics>,
    /// The calls of this broker's own clients that are passed on to others.
    pub passed_on: Arc<PassedOn>,
}

/// Latencies of records.
#[derive(Debug, Default)]
struct Durations {
    produce: Latency,
    fetch: Latency,
}

/// The counters of the group coordinator.
#[derive(Clone, Default)]
pub(crate) struct GroupMetrics {
    pub heartbeats: Counter,
    pub commits: Counter,
    pub rebalances: Counter,
    removals: Family<CauseLabel, Counter>,
}

impl GroupMetrics {
    /// Counts a member that left or was removed.
    pub fn removed(&self, cause: &'static str) {
        self.removals.get_or_create(&CauseLabel { cause }).inc();
    }

    fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            heartbeats: registered(registry, "group_heartbeats", "Heartbeats of members that were answered"),
            commits: registered(registry, "group_commits", "Commits of offsets that are durable"),
            rebalances: registered(registry, "group_rebalances", "New assignments of groups"),
            removals: registered(
                registry,
                "group_removals",
                "Members that left or were thrown out, by cause",
            ),
        };
        let causes = RemovalCause::ALL.map(RemovalCause::as_str);
        for cause in causes.into_iter().chain([REPLACED]) {
            drop(metrics.removals.get_or_create(&CauseLabel { cause }));
        }
        metrics
    }
}

impl Metrics {
    pub fn new(connections: &ConnectionMetrics, settings: &MetricsSettings) -> Arc<Self> {
        let mut registry = Registry::with_prefix(PREFIX);
        let all = &mut registry;
        connections.register(all);
        let durations = Arc::<Durations>::default();
        all.register_collector(Box::new(durations.clone()));
        let requests = Arc::new(RequestMetrics::of_clients());
        all.register_collector(Box::new(requests.clone()));
        let passed_requests = Arc::new(RequestMetrics::passed());
        all.register_collector(Box::new(passed_requests.clone()));
        let passed_on = Arc::<PassedOn>::default();
        all.register_collector(Box::new(passed_on.clone()));
        let metrics = Self {
            produced_bytes: in_bytes(all, "produced", "Bytes of acknowledged batches"),
            produced_records: registered(all, "produced_records", "Acknowledged records"),
            produced_batches: registered(all, "produced_batches", "Acknowledged batches"),
            fetched_bytes: in_bytes(all, "fetched", "Bytes of batches read by consumers"),
            errors: registered(
                all,
                "request_errors",
                "Calls and answers inside streams that are errors, by reason",
            ),
            refusals: RefusalLog::default(),
            quota: QuotaMetrics::registered(all),
            damages: registered(all, "damages", "Damaged replicas that were found here, by kind"),
            repairs: registered(
                all,
                "repairs",
                "Damaged replicas that were filled again from the others",
            ),
            unreadable_messages: registered(
                all,
                "queue_unreadable_messages",
                "Messages of queues that failed here because their records are damaged",
            ),
            groups: GroupMetrics::registered(all),
            transactions: TransactionMetrics::registered(all),
            topics: TopicMetrics::new(settings.topics_max as usize),
            queues: QueueTallies::default(),
            exchanges: ExchangeMetrics::new(settings.topics_max as usize),
            lag: LagBoard::new(Duration::from_millis(settings.group_lag_interval_ms)),
            durations,
            requests,
            passed_requests,
            passed_on,
            registry: Mutex::default(),
        };
        // A series is there before its first event, or that event would not be seen as growth.
        for reason in Reason::ALL {
            let reason = reason.as_str();
            drop(metrics.errors.get_or_create(&ReasonLabel { reason }));
        }
        for kind in DAMAGE_KINDS {
            drop(metrics.damages.get_or_create(&KindLabel { kind }));
        }
        *metrics.registry.lock() = registry;
        Arc::new(metrics)
    }

    /// Logs the ends of series of refusals until the task is aborted.
    pub async fn report_refusals(self: Arc<Self>) {
        let mut tick = tokio::time::interval(REFUSALS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.refusals.log_ended();
        }
    }

    /// Counts an acknowledged batch.
    pub fn produced(&self, topic: &TopicTraffic, bytes: usize, records: i64) {
        let (bytes, records) = (bytes as u64, u64::try_from(records).unwrap_or(0));
        self.produced_bytes.inc_by(bytes);
        self.produced_records.inc_by(records);
        self.produced_batches.inc();
        topic.produced(bytes, records);
    }

    /// Records how long after its admission the outcome of a batch was known.
    pub fn decided(&self, after: Duration) {
        self.durations.produce.record(after);
    }

    /// Counts batches that were read for a consumer.
    pub fn fetched(&self, topic: &TopicTraffic, bytes: usize) {
        self.fetched_bytes.inc_by(bytes as u64);
        topic.fetched(bytes as u64);
    }

    /// Records how long after its records were available a fetch response was ready.
    pub fn read(&self, after: Duration) {
        self.durations.fetch.record(after);
    }

    /// Counts a replica that was found damaged.
    pub fn damaged(&self, kind: &'static str) {
        self.damages.get_or_create(&KindLabel { kind }).inc();
    }

    /// Counts a damaged replica that has been filled again.
    pub fn repaired(&self) {
        self.repairs.inc();
    }

    /// Counts messages of queues that failed because their records are damaged.
    pub fn unreadable_messages(&self, count: usize) {
        self.unreadable_messages.inc_by(count as u64);
    }

    pub fn failed(&self, reason: Reason) {
        self.refusals.refused(reason);
        self.errors
            .get_or_create(&ReasonLabel {
                reason: reason.as_str(),
            })
            .inc();
    }

    /// The text of a scrape: these counters, and the samples that `others` and the process give. Reads a few files in /proc.
    pub fn render(&self, others: Vec<Box<dyn Collector>>, form: Form) -> String {
        let mut moment = Registry::default();
        moment.register_collector(Box::new(ProcessSample::take()));
        let ours = moment.sub_registry_with_prefix(PREFIX);
        for other in others {
            ours.register_collector(other);
        }
        ours.register_collector(Box::new(self.lag.sample(Instant::now())));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry.lock())
            .and_then(|()| encode_registry(&mut text, &moment))
            .and_then(|()| encode_eof(&mut text))
            .expect("writing to a string cannot fail");
        form.of(text)
    }
}

impl Collector for Durations {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        to.latency(
            "produce_duration_seconds",
            "From the admission of a batch until its quorum has it and it is answered, or it has failed",
            &self.produce.read(),
        )?;
        to.latency(
            "fetch_duration_seconds",
            "From when records were there for a fetch until they were read, without its wait for them",
            &self.fetch.read(),
        )
    }
}

/// Registers a metric.
fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a metric that counts bytes; the registry adds the unit to its name.
fn in_bytes<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, Unit::Bytes, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::api::operation::Operation;

    const BATCHES: u32 = 100_000;

    /// Counts batches as the produce path does, and returns the time per batch.
    fn count(metrics: &Metrics, topic: &TopicTraffic) -> Duration {
        let began = Instant::now();
        for _ in 0..BATCHES {
            let admitted = Instant::now();
            metrics.produced(topic, 1000, 10);
            metrics.decided(admitted.elapsed());
            let mut call = Ending::of(metrics.requests.of(Operation::Produce));
            metrics.requests.of(Operation::Produce).took(admitted.elapsed());
            call.with(OK);
        }
        began.elapsed() / BATCHES
    }

    /// Printed with `--nocapture`. The bound is far above what it takes: the machine may be busy.
    #[test]
    fn what_is_counted_for_a_batch_costs_no_lock_and_less_than_some_microseconds() {
        let metrics = Metrics::new(&ConnectionMetrics::default(), &MetricsSettings::default());
        let topic = metrics.topics.join(&"orders".into());
        let alone = count(&metrics, &topic);
        let together = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| count(&metrics, &topic)));
            threads.map(|thread| thread.join().expect("it counts"))
        });
        let slowest = together.into_iter().max().expect("there are four");
        println!("one batch costs {alone:?} alone, {slowest:?} with four threads that count the same");
        assert!(slowest < Duration::from_micros(20), "{slowest:?}");
        assert_eq!(metrics.produced_bytes.get(), 5 * u64::from(BATCHES) * 1000);
    }
}
