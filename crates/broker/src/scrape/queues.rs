//! The queues whose partitions this broker leads, at a scrape. At most `metrics.topics_max` queues have series of their own, the first
//! by name.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jangada_queue::engine::SlotCounts;
use jangada_queue::{DeadReason, DoneCause, QueueId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::metrics::{QueueTotals, Writer};
use crate::node::Node;
use crate::partition::Partition;
use crate::queues::{Desk, OldestAge};

/// How long a scrape waits for records of which it wants the age. What is not read by then is shown at the next one.
const AGES_TIMEOUT: Duration = Duration::from_secs(1);
/// Partitions whose records are read at once for that.
const AGES_AT_ONCE: usize = 16;
/// Partitions whose records are read at most for one scrape.
const AGES_MAX: usize = 1_000;

/// What the queues have here, each over all of its partitions that are led here, and what has come of their messages.
#[derive(Debug, Default)]
pub(crate) struct QueueSample {
    queues: BTreeMap<Arc<str>, Depth>,
    totals: BTreeMap<Arc<str>, QueueTotals>,
    left_out: usize,
}

#[derive(Debug, Default)]
struct Depth {
    ready: u64,
    delayed: u64,
    leased: u64,
    waiting: u64,
    dead: u64,
    /// Acknowledged in transactions that are open.
    staged: u64,
    /// Behind the first message of a transaction that is open.
    undecided: u64,
    bytes: u64,
    consumers: u64,
    /// Partitions in which most messages fail, and only a few go out.
    tripped: u64,
    /// Messages that the topic's retention has taken unsettled.
    cut_off: u64,
    /// Since when dead letters of some partition do not arrive, milliseconds since the Unix epoch.
    stuck_since_ms: Option<u64>,
    /// The age of the oldest message by lane, milliseconds.
    oldest_ms: BTreeMap<u8, u64>,
}

impl Depth {
    fn add(&mut self, counts: &SlotCounts) {
        self.ready += counts.ready;
        self.delayed += counts.delayed;
        self.leased += counts.leased;
        self.waiting += counts.waiting;
        self.dead += counts.dead;
        self.staged += counts.staged;
        self.undecided += counts.undecided;
        self.bytes += counts.bytes;
        self.consumers += counts.consumers;
        self.tripped += u64::from(counts.tripped.is_some());
        self.stuck_since_ms = self.stuck_since_ms.into_iter().chain(counts.stuck_since_ms).min();
    }

    fn add_ages(&mut self, ages: &[OldestAge]) {
        for OldestAge { lane, age_ms } in ages {
            let known = self.oldest_ms.entry(*lane).or_default();
            *known = (*known).max(*age_ms);
        }
    }
}

/// A queue's messages in one partition.
struct Here {
    name: Arc<str>,
    queue: QueueId,
    partition: Arc<Partition>,
    desk: Arc<Desk>,
    counts: SlotCounts,
}

impl QueueSample {
    pub async fn take(node: &Node) -> Self {
        let queues_max = node.settings.metrics.topics_max as usize;
        let mut sample = Self::default();
        let mut here = Vec::new();
        for partition in node.replicas.fronts::<Partition>() {
            let Some(desk) = partition.view.desk.get() else {
                continue;
            };
            desk.count_into(&node.metrics.queues);
            for spec in desk.queues() {
                let Some(counts) = desk.counts(spec.id) else { continue };
                let depth = sample.queues.entry(spec.name.clone()).or_default();
                depth.add(&counts);
                depth.cut_off += desk.messages_cut_off(spec.id).unwrap_or(0);
                here.push(Here {
                    name: spec.name,
                    queue: spec.id,
                    partition: partition.clone(),
                    desk: desk.clone(),
                    counts,
                });
            }
        }
        while sample.queues.len() > queues_max {
            sample.queues.pop_last();
            sample.left_out += 1;
        }
        let image = node.metadata.image();
        sample.totals = node.metrics.queues.sample(|name| image.queue_by_name(name).is_some());
        while sample.totals.len() > queues_max {
            sample.totals.pop_last();
        }
        here.retain(|here| sample.queues.contains_key(&here.name) && !here.counts.oldest.is_empty());
        here.truncate(AGES_MAX);
        sample.add_ages(here, node.env.clock.now_ms()).await;
        sample
    }

    async fn add_ages(&mut self, here: Vec<Here>, now_ms: i64) {
        let ages = futures::stream::iter(here).map(|here| async move {
            let ages = here.partition.oldest_ages(&here.desk, here.queue, &here.counts, now_ms);
            (here.name.clone(), ages.await)
        });
        let mut ages = std::pin::pin!(ages.buffer_unordered(AGES_AT_ONCE));
        let all = async {
            while let Some((name, ages)) = ages.next().await {
                if let Some(depth) = self.queues.get_mut(&name) {
                    depth.add_ages(&ages);
                }
            }
        };
        // What was read stays.
        let _ = tokio::time::timeout(AGES_TIMEOUT, all).await;
    }

    fn depths(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let by_state = self.queues.iter().flat_map(|(name, depth)| {
            let states = [
                ("ready", depth.ready),
                ("delayed", depth.delayed),
                ("leased", depth.leased),
                ("waiting", depth.waiting),
                ("dead", depth.dead),
                ("staged", depth.staged),
                ("undecided", depth.undecided),
            ];
            states.map(|(state, count)| ([("queue", &**name), ("state", state)], count))
        });
        let help = "Messages of the queues whose partitions this broker leads, by queue and state";
        to.gauges("queue_messages", help, by_state)?;
        let by_queue = |of: fn(&Depth) -> u64| {
            let queues = self.queues.iter();
            queues.map(move |(name, depth)| ([("queue", &**name)], of(depth)))
        };
        let help = "Bytes of their messages that are neither done nor dead, about, by queue";
        to.gauges("queue_size_bytes", help, by_queue(|depth| depth.bytes))?;
        let help = "Consumers that have a stream there or wait with a receive, by queue";
        to.gauges("queue_consumers", help, by_queue(|depth| depth.consumers))?;
        let help = "Their partitions led here in which most messages fail, so that only a few go out, by queue";
        to.gauges("queue_partitions_tripped", help, by_queue(|depth| depth.tripped))?;
        let help =
            "Messages that the topic's retention has taken there although the queue had not settled them, by queue";
        let cut_off = self
            .queues
            .iter()
            .map(|(name, depth)| ([("queue", &**name)], depth.cut_off));
        to.counters("queue_messages_cut_off", help, cut_off)?;
        let lanes: Vec<(&str, String, u64)> = self
            .queues
            .iter()
            .flat_map(|(name, depth)| {
                let lanes = depth.oldest_ms.iter();
                lanes.map(move |(lane, age_ms)| (&**name, lane.to_string(), *age_ms))
            })
            .collect();
        let ages = lanes.iter().map(|(name, lane, age_ms)| {
            let labels = [("queue", *name), ("priority", lane.as_str())];
            (labels, *age_ms as f64 / 1e3)
        });
        let help = "How long the oldest message that may go out has been there, by queue and priority; none while there is none";
        to.gauges("queue_oldest_message_age_seconds", help, ages)?;
        let stuck = self.queues.iter().filter_map(|(name, depth)| {
            let since_ms = depth.stuck_since_ms?;
            Some(([("queue", &**name)], since_ms as f64 / 1e3))
        });
        let help = "Since when dead letters do not arrive where they are to go, by queue; none while they do";
        to.gauges("queue_dead_letters_stuck_since_timestamp_seconds", help, stuck)?;
        let help = "Queues here without series of their own";
        to.gauge("queues_left_out", help, self.left_out as u64)
    }

    fn counters(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let by_queue = |of: fn(&QueueTotals) -> u64| {
            let queues = self.totals.iter();
            queues.map(move |(name, totals)| ([("queue", &**name)], of(totals)))
        };
        let help = "Messages that were sent to queues whose partitions this broker led, by queue";
        to.counters("queue_sent_messages", help, by_queue(|totals| totals.tally.sent))?;
        let help = "Messages that were refused as their queue was full, by queue";
        to.counters(
            "queue_refused_messages",
            help,
            by_queue(|totals| totals.tally.refused_full),
        )?;
        let help = "Messages that were handed out, by queue";
        to.counters(
            "queue_delivered_messages",
            help,
            by_queue(|totals| totals.tally.delivered),
        )?;
        let help = "Of these, messages that were handed out before, by queue";
        to.counters(
            "queue_redelivered_messages",
            help,
            by_queue(|totals| totals.tally.redelivered),
        )?;
        let help = "Messages that were acknowledged, by queue";
        to.counters(
            "queue_acknowledged_messages",
            help,
            by_queue(|totals| totals.tally.done(DoneCause::Acked)),
        )?;
        let by_reason = self.totals.iter().flat_map(|(name, QueueTotals { tally, .. })| {
            let reasons = [
                ("attempts", DeadReason::Attempts),
                ("rejected", DeadReason::Rejected),
                ("expired", DeadReason::Expired),
                ("length", DeadReason::Length),
            ];
            reasons.map(|(text, reason)| ([("queue", &**name), ("reason", text)], tally.dead(reason)))
        });
        let help = "Messages that became dead letters, by queue and reason";
        to.counters("queue_dead_lettered_messages", help, by_reason)?;
        let by_outcome = self.totals.iter().flat_map(|(name, QueueTotals { tally, .. })| {
            let outcomes = [
                ("dropped", tally.done(DoneCause::Expired)),
                ("dead", tally.dead(DeadReason::Expired)),
            ];
            outcomes.map(|(outcome, count)| ([("queue", &**name), ("outcome", outcome)], count))
        });
        let help = "Messages whose time to live was over, by queue and what became of them";
        to.counters("queue_expired_messages", help, by_outcome)?;
        let help = "Bytes of messages that were appended again so that the log before them could be cut, by queue";
        to.counters(
            "queue_carried_bytes",
            help,
            by_queue(|totals| totals.tally.carried_bytes),
        )?;
        let help = "Receives that got nothing as consumers had as many messages as they may, by queue";
        to.counters(
            "queue_receives_in_flight_full",
            help,
            by_queue(|totals| totals.tally.in_flight_full),
        )?;
        let help = "Messages that were sent before and so were not sent again, by queue";
        to.counters("queue_duplicate_messages", help, by_queue(|totals| totals.duplicates))?;
        let help = "Messages that schedules have sent, by queue";
        to.counters("queue_scheduled_messages", help, by_queue(|totals| totals.scheduled))?;
        let help = "Occurrences of schedules that were left out as they were missed, by queue";
        to.counters(
            "queue_schedule_occurrences_left_out",
            help,
            by_queue(|totals| totals.left_out),
        )
    }
}

impl Collector for QueueSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        self.depths(&mut to)?;
        self.counters(&mut to)
    }
}
