//! The task of a desk: gathers what comes, lets the engine act, and carries out what it decides.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jangada_log::{PartitionCommand, PartitionReply};
use jangada_queue::engine::{Answer, Delivered, Input, Output, RequestId, RowsWanted};
use jangada_queue::{OpsReply, QueueOps, Section};
use jangada_replication::{Applied, ProposeError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::attached::AttachedEvent;
use super::carrying::{self, LogMeasure};
use super::desk::Desk;
use super::expiry;
use super::firing;
use super::forwarding::{self, Letters};
use super::look_up::{range_of, rows_of};
use super::noting::Stepped;
use super::slots::{OpenSlots, Unplaced, open_at};
use super::spec::QueueSpec;
use crate::error::RequestError;
use crate::partition::{Ends, Isolation, Partition};
use crate::replica::UNTIL_ANSWERED;

/// After a hand-over that does not come about the desk begins anew after this time.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// The log is looked at each time for whether it has grown by a part ...
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// ... and measured after this time if it has changed at all.
const MEASURE_AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// Between a desk that ended and the next one.
const REST: Duration = Duration::from_millis(100);
/// Time between two looks at a disk that is below half of its reserve.
const DISK_LOOK: Duration = Duration::from_secs(1);
/// A look-up that failed is tried again after this time.
pub(super) const READ_AGAIN: Duration = Duration::from_millis(100);

/// What the task of a desk has.
pub(crate) struct DeskTask {
    pub desk: Arc<Desk>,
    pub partition: Weak<Partition>,
    pub specs: watch::Receiver<Arc<[QueueSpec]>>,
    /// The end of what can be read.
    pub ends: watch::Receiver<Ends>,
}

/// A command that was proposed, on its way through the quorum.
type Outcome = Result<Applied<PartitionReply>, ProposeError>;

/// Ends a desk when its task ends, in whatever way: after a panic, too, whoever waits is told, and nothing piles up.
pub(super) struct EndsWithTask(pub Arc<Desk>);

impl Drop for EndsWithTask {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl DeskTask {
    /// Runs beside [`DeskTask::serve`]: tells the engine how large the log is, when it has grown by a part, or somewhat in ten seconds.
    /// Also when it has not grown and messages were settled: less of it is live then.
    async fn measure(desk: Arc<Desk>, partition: Weak<Partition>) {
        let mut measure = LogMeasure::default();
        let mut told: Option<(u64, u64, Instant)> = None;
        while !desk.has_ended() {
            tokio::time::sleep(MEASURE_EVERY).await;
            let Some(partition) = partition.upgrade() else { return };
            let (is_owned, end) = desk.with_state(|state| (state.queue_floor().is_some(), state.retained_bytes()));
            let part_bytes = partition.log_part_bytes();
            let commands = desk.command_bytes.load(Ordering::Relaxed);
            let is_due = told.is_none_or(|(bytes, of_commands, at)| {
                let has_changed = end != bytes || commands != of_commands;
                end.abs_diff(bytes) >= part_bytes || has_changed && at.elapsed() >= MEASURE_AT_LEAST_EVERY
            });
            if !is_owned || !is_due {
                continue;
            }
            match measure.take(&desk, part_bytes, &desk.command_bytes).await {
                Ok(sizes) => {
                    told = Some((end, commands, Instant::now()));
                    desk.put(sizes);
                }
                Err(error) => tracing::debug!(partition = %desk.hosted.name, %error, "the log cannot be measured"),
            }
        }
    }

    /// Runs until the partition is not led here in the desk's term any more, or the outcome of a command is not known.
    pub async fn run(mut self) {
        tokio::spawn(Self::measure(self.desk.clone(), self.partition.clone()));
        let ends = EndsWithTask(self.desk.clone());
        let cause = self.serve().await;
        tracing::debug!(partition = %self.desk.hosted.name, term = self.desk.term, cause, "the queues' desk ends");
        drop(ends);
        if let Some(partition) = self.partition.upgrade() {
            self.desk.count_into(&partition.metrics().queues);
        }
        tokio::time::sleep(REST).await;
        while self.disk_full().is_some() {
            tokio::time::sleep(DISK_LOOK).await;
        }
        // Another one may begin in the same term.
        if let Some(partition) = self.partition.upgrade() {
            partition.refresh_desk();
        }
    }

    fn disk_full(&self) -> Option<RequestError> {
        self.partition.upgrade()?.check_queue_disk().err()
    }

    async fn serve(&mut self) -> &'static str {
        let desk = self.desk.clone();
        let mut status = desk.hosted.group.watch();
        let mut slots = OpenSlots::default();
        slots.set_specs(self.specs.borrow_and_update().clone());
        let mut proposals: FuturesUnordered<_> = FuturesUnordered::new();
        let mut hand_over_until = None;
        if desk.follow().await.is_err() {
            return "an earlier desk's commands are not through";
        }
        loop {
            let known = *status.borrow_and_update();
            if !known.ready || known.term != desk.term {
                return "the lead is lost";
            }
            if desk.has_ended() {
                return "it was ended";
            }
            if let Some(full) = self.disk_full() {
                desk.refuse_with(full);
                return "the disk is below half of its reserve";
            }
            for unplaced in slots.align(&desk) {
                let queue = unplaced.queue.id;
                let request = self.place(unplaced).await;
                slots.placed(queue, request, desk.timers.now().monotonic_ms);
            }
            let Stepped {
                outputs,
                cancelled,
                deadline_ms,
                now,
            } = desk.step();
            let mut is_refused = false;
            for output in outputs {
                match output {
                    Output::Propose { ops, .. } => match self.propose(ops).await {
                        Ok(proposal) => proposals.push(proposal),
                        Err(_) => is_refused = true,
                    },
                    other => {
                        if let Output::Answer { request, answer } = &other {
                            slots.answered(*request, answer, now.monotonic_ms);
                        }
                        self.carry_out(other).await;
                    }
                }
            }
            if is_refused {
                return "a command was refused";
            }
            desk.forget(&cancelled);
            if desk.is_handing_over() {
                hand_over_until.get_or_insert_with(|| Instant::now() + HAND_OVER_MAX);
            }
            let deadline_ms = deadline_ms.into_iter().chain(slots.deadline_ms()).min();
            let left = deadline_ms.map(|at| Duration::from_millis(at.saturating_sub(now.monotonic_ms)));
            let left = left.map(|left| Instant::now() + left);
            let deadline = left.into_iter().chain(hand_over_until).min();
            tokio::select! {
                () = desk.woken() => {}
                Some(outcome) = proposals.next(), if !proposals.is_empty() => {
                    if let Some(cause) = bad_outcome(&outcome) {
                        return cause;
                    }
                }
                () = at(deadline) => {}
                () = desk.hosted.check_quorum.lost() => return "no quorum answers",
                changed = status.changed() => if changed.is_err() { return "the replica is closed" },
                changed = self.specs.changed() => {
                    if changed.is_err() { return "the replica is closed" }
                    slots.set_specs(self.specs.borrow_and_update().clone());
                }
            }
            if hand_over_until.is_some_and(|until| Instant::now() >= until) {
                return "the hand-over did not come about";
            }
        }
    }

    /// Hands a command to Raft, and gives what waits for its outcome. What it came to is noted where it is applied.
    async fn propose(&self, ops: QueueOps) -> Result<impl Future<Output = Outcome> + use<>, ProposeError> {
        self.desk.command_bytes.fetch_add(bytes_of(&ops), Ordering::Relaxed);
        let command = PartitionCommand::QueueOps(ops);
        let mut proposal = self.desk.submit(command).await?;
        Ok(async move { proposal.applied(UNTIL_ANSWERED).await })
    }

    async fn carry_out(&mut self, output: Output) {
        match output {
            Output::Propose { .. } => unreachable!("the caller proposes"),
            Output::Read { read, wanted } => {
                let desk = self.desk.clone();
                tokio::spawn(async move {
                    if let Some(rows) = look_up(&desk, wanted).await {
                        desk.put(Input::Rows { read, rows });
                    }
                });
            }
            Output::Attached { consumer, messages } => {
                self.published(&messages).await;
                self.desk.tell_stream(consumer, AttachedEvent::Begun(messages));
            }
            Output::Deliver { consumer, messages } => {
                self.published(&messages).await;
                self.desk.tell_stream(consumer, AttachedEvent::Deliveries(messages));
            }
            Output::Answer { request, answer } => {
                if let Answer::Received(messages) = &answer {
                    self.published(messages).await;
                }
                self.desk.answer(request, answer);
            }
            Output::Producer { slot } => {
                drop(tokio::spawn(forwarding::get_producer(
                    self.desk.clone(),
                    self.partition.clone(),
                    slot,
                )));
            }
            Output::Forward {
                slot,
                producer,
                sequence,
                letters,
                may_be_there,
            } => {
                let letters = Letters {
                    slot,
                    producer,
                    sequence,
                    letters,
                    may_be_there,
                };
                drop(tokio::spawn(forwarding::forward(
                    self.desk.clone(),
                    self.partition.clone(),
                    letters,
                )));
            }
            Output::Unused { slot } => {
                drop(tokio::spawn(expiry::expire(
                    self.desk.clone(),
                    self.partition.clone(),
                    slot,
                )));
            }
            Output::Fire { fire, template } => {
                let (desk, partition) = (self.desk.clone(), self.partition.clone());
                drop(tokio::spawn(firing::fire(desk, partition, fire, template)));
            }
            Output::Moved { consumer } => self.desk.tell_stream(consumer, AttachedEvent::Moved),
            Output::Carry { carry, bytes_max } => match self.partition.upgrade() {
                Some(partition) => drop(tokio::spawn(carrying::carry(
                    self.desk.clone(),
                    partition,
                    carry,
                    bytes_max,
                ))),
                None => self.desk.put(Input::Carried { moves: Vec::new() }),
            },
        }
    }

    /// Waits until messages that are handed out can be read: what is applied is shown a moment later.
    async fn published(&mut self, messages: &[Delivered]) {
        let Some(last) = messages.iter().map(|message| message.offset).max() else {
            return;
        };
        let is_there = |ends: &Ends| ends.high_watermark.get().unsigned_abs() > last;
        let desk = self.desk.clone();
        tokio::select! {
            _ = self.ends.wait_for(is_there) => {}
            () = desk.hosted.check_quorum.lost() => {}
        }
    }

    /// Opens the slot of a queue where a record of some time is. None: that cannot be looked up now.
    async fn place(&self, unplaced: Unplaced) -> Option<RequestId> {
        let partition = self.partition.upgrade()?;
        let end = partition.view.high_watermark();
        match partition
            .offset_by_timestamp(unplaced.timestamp_ms, Isolation::Uncommitted)
            .await
        {
            Ok(found) => {
                let start = found.map_or(end, |(offset, _)| offset);
                Some(open_at(&self.desk, &unplaced.queue, start.get().unsigned_abs()))
            }
            Err(error) => {
                let (partition, queue) = (&self.desk.hosted.name, &unplaced.queue.name);
                tracing::warn!(%partition, %queue, %error, "the beginning of a queue cannot be looked up");
                None
            }
        }
    }
}

/// What a command takes in the log, bytes, about.
fn bytes_of(ops: &QueueOps) -> u64 {
    let of_section = |section: &Section| {
        24 + section
            .messages()
            .map_or(0, |messages| 4 * messages.runs().len() as u64)
    };
    ops.sections.iter().map(of_section).sum::<u64>() + 64
}

/// Why the outcome of a command ends the desk; none: it was applied as it was decided.
fn bad_outcome(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Ok(applied) => match &applied.reply {
            PartitionReply::Queue(OpsReply::LeaderChanged) => Some("a command came into the log in another term"),
            _ => None,
        },
        Err(error) if error.is_definite() => Some("a command was refused"),
        Err(_) => Some("the outcome of a command is not known"),
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Reads rows until it succeeds. None: the desk has ended, or the replica is damaged, which ends the lead.
async fn look_up(desk: &Desk, wanted: RowsWanted) -> Option<jangada_queue::engine::Rows> {
    let range = range_of(&wanted);
    while !desk.has_ended() {
        match desk.driver.rows(range.clone()).await {
            Ok(rows) => match rows_of(&rows, range.limit) {
                Ok(rows) => return Some(rows),
                Err(error) => {
                    let error = desk.driver.damaged(error.to_string());
                    tracing::error!(partition = %desk.hosted.name, %error, "rows of queues are damaged");
                    return None;
                }
            },
            Err(error) => tracing::debug!(partition = %desk.hosted.name, %error, "rows of queues cannot be read"),
        }
        tokio::time::sleep(READ_AGAIN).await;
    }
    None
}
