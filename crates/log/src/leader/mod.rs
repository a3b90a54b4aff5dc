//! The leader's side of a partition: it decides where the log starts, by the topic's retention and as clients ask. A log that is a
//! queue's is kept as far as the queue needs it: its start follows the floor of the queue, and retention has no say. That of an exchange
//! follows the lowest floor of its queues, and retention may take more.
//!
//! ```text
//!   timer, or a request to trim, or a queue's floor that moved
//!      -> Read: rows of the offset index from the log start on, until a batch stays
//!      -> Propose: AdvanceLogStart, which counts from the log start of the search
//!      -> applied, or refused since the log start has moved: the search begins again
//! ```
//!
//! Appends are admitted by the host, not here: a batch passes no lock of its group before it is proposed.

mod search;

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_machine as machine;
use jangada_queue::QueueId;
use jangada_types::{Offset, Reason, Rejection};
use machine::{Due, DueOf, Now, Row, Step, StepOf};

use self::search::{BadRows, Cut, Hold, Search};
use crate::command::PartitionCommand;
use crate::reply::PartitionReply;
use crate::state::PartitionState;

/// Most searches of one request. Each further one means that the log start was moved by another request meanwhile.
const SEARCHES_MAX: u32 = 5;
/// A timer's search that has not ended after this time was lost, and the next one begins, milliseconds. More than a command
/// waits for its quorum.
const LOST_AFTER_MS: u64 = 15_000;
/// Time between two looks at what the queues of a log need no more, milliseconds.
const FLOOR_EVERY_MS: u64 = 10_000;
/// With so many bytes the log of a queue that is empty is cut, although they are less than a segment.
const EMPTY_BYTES: u64 = 1 << 20;

/// The settings that a partition's leader goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// How long records are kept, milliseconds; `None`: without end.
    pub retention_ms: Option<u64>,
    /// How many bytes of batches are kept at least; `None`: all.
    pub retention_bytes: Option<u64>,
    /// Bytes that compaction has taken of the batches: the rows of the index say how many of which. `None`: none, or it is not known, and
    /// batches count as they were appended.
    pub gone_bytes: Option<u64>,
    /// The log of a queue is cut when so many bytes are not needed any more.
    pub segment_bytes: u64,
    /// Time between two looks at what may go, milliseconds.
    pub check_interval_ms: u64,
    /// How long the wall clock must have been steady before records go by it, milliseconds; less for records that are kept for
    /// less than that.
    pub steady_clock_ms: u64,
    /// Queues that keep what they have not settled from retention, as long as the log from there on has no more bytes than that.
    pub holds: BTreeMap<QueueId, u64>,
}

/// Something that people may ask about later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The log starts further on: records are gone.
    LogStartAdvanced {
        /// The log start before.
        from: Offset,
        /// The log start now.
        to: Offset,
        /// Bytes of the batches that are gone.
        dropped_bytes: u64,
    },
}

/// A request for a new log start that waits for rows or for its command.
#[derive(Clone, Debug)]
pub struct Pending {
    search: Search,
    /// Searches of this request, this one included.
    searches: u32,
    asker: Asker,
}

/// Who began a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Client,
    RetentionTimer,
    FloorTimer,
}

/// The volatile side of a partition, on the replica that leads it.
#[derive(Debug)]
pub struct Leader {
    surroundings: Arc<Surroundings>,
    /// The monotonic time of the next look at what may go.
    due_ms: u64,
    /// The first batch that stayed at the last search: no batch goes by its age before that one does.
    first_kept: Option<FirstKept>,
    /// The monotonic time of the next look at what the queues need no more; none: nothing has changed since the last.
    floor_due_ms: Option<u64>,
    /// The monotonic time of that last look.
    floor_looked_ms: Option<u64>,
    /// The floor may have moved since.
    floor_may_have_moved: bool,
    /// The batches below the floor that were counted, and are too few for a command.
    counted: Option<Search>,
}

#[derive(Clone, Copy, Debug)]
struct FirstKept {
    /// The log start, which is the batch's place.
    log_start: Offset,
    max_timestamp_ms: i64,
}

impl Leader {
    /// Drops the records below `before`; `None`: all that are there. The answer is the log start then.
    pub fn trim(&mut self, state: &PartitionState, before: Option<Offset>, now: Now) -> StepOf<Self> {
        let high_watermark = state.next_offset();
        let before = before.unwrap_or(high_watermark);
        if before < Offset(0) || before > high_watermark {
            let message = format!("offset {before} is beyond the high watermark {high_watermark}; nothing was dropped");
            let rejection = Rejection::new(Reason::OffsetOutOfRange, message)
                .with("offset", before)
                .with("high_watermark", high_watermark);
            return Step::Done(Err(rejection));
        }
        if let Some(floor) = state.kept_from().filter(|floor| before > *floor) {
            return Step::Done(Err(held_by_queue(before, floor)));
        }
        self.search(state, Cut::Below(before), (1, Asker::Client), now)
    }

    /// Drops the records that the topic's retention lets go. The answer is the log start then.
    pub fn retain(&mut self, state: &PartitionState, now: Now) -> StepOf<Self> {
        match self.cut_of_retention(state, now) {
            Some(cut) => self.search(state, cut, (1, Asker::Client), now),
            None => Step::Done(Ok(state.log_start())),
        }
    }

    /// The rule of the topic's retention as of now; `None`: nothing can go by it.
    fn cut_of_retention(&self, state: &PartitionState, now: Now) -> Option<Cut> {
        if state.log_start() == state.next_offset() || state.kept_from().is_some() {
            return None;
        }
        // Not by a clock that may be wrong.
        let oldest_ms = self
            .surroundings
            .retention_ms
            .and_then(|kept_ms| now.old_before_ms(kept_ms, self.surroundings.steady_clock_ms));
        let first_kept = self.first_kept.filter(|kept| kept.log_start == state.log_start());
        let is_old = oldest_ms
            .is_some_and(|oldest_ms| first_kept.is_none_or(|first_kept| first_kept.max_timestamp_ms < oldest_ms));
        let keep_bytes = self.surroundings.retention_bytes;
        let keep_bytes = keep_bytes.filter(|keep| self.stored_bytes(state) > *keep);
        (is_old || keep_bytes.is_some()).then_some(Cut::Retention { oldest_ms, keep_bytes })
    }

    /// Bytes of the batches that are left.
    fn stored_bytes(&self, state: &PartitionState) -> u64 {
        let gone_bytes = self.surroundings.gone_bytes.unwrap_or(0);
        state.retained_bytes().saturating_sub(gone_bytes)
    }

    fn search(&mut self, state: &PartitionState, cut: Cut, (searches, asker): (u32, Asker), now: Now) -> StepOf<Self> {
        let holds = match cut {
            Cut::Retention { .. } => self.holds(state),
            Cut::Below(_) | Cut::Queue(_) => Box::default(),
        };
        let pending = Pending {
            search: Search::new(state, cut, holds).without(self.surroundings.gone_bytes),
            searches,
            asker,
        };
        self.look(state, pending, now)
    }

    /// What queues keep from retention.
    fn holds(&self, state: &PartitionState) -> Box<[Hold]> {
        let holds = &self.surroundings.holds;
        if holds.is_empty() {
            return Box::default();
        }
        let slots = state.slots().iter();
        let held = slots.filter_map(|(_, slot)| {
            let floor = i64::try_from(slot.floor()).expect("an offset is below 2^60");
            Some(Hold {
                from: Offset(floor),
                bytes_max: *holds.get(&slot.queue())?,
            })
        });
        held.collect()
    }

    fn look(&mut self, state: &PartitionState, pending: Pending, now: Now) -> StepOf<Self> {
        if pending.search.is_vain() {
            return self.done(&pending, Ok(state.log_start()), now);
        }
        Step::Read {
            rows: pending.search.rows(),
            pending,
        }
    }

    /// Begins anew, as the log start has moved since the search began.
    fn search_again(&mut self, state: &PartitionState, pending: &Pending, now: Now) -> StepOf<Self> {
        if pending.searches >= SEARCHES_MAX {
            let message = "its log start kept moving; try again";
            return self.done(pending, Err(Rejection::new(Reason::PartitionBusy, message)), now);
        }
        let attempt = (pending.searches + 1, pending.asker);
        self.search(state, pending.search.cut, attempt, now)
    }

    fn retention_due_ms(&self) -> Option<u64> {
        let is_limited = self.surroundings.retention_ms.is_some() || self.surroundings.retention_bytes.is_some();
        is_limited.then_some(self.due_ms)
    }

    fn done(&mut self, pending: &Pending, answer: Result<Offset, Rejection>, now: Now) -> StepOf<Self> {
        match pending.asker {
            Asker::Client => {}
            Asker::RetentionTimer => self.due_ms = next_look_ms(&self.surroundings, now),
            Asker::FloorTimer => self.floor_due_ms = self.next_floor_look_ms(),
        }
        Step::Done(answer)
    }

    /// Looks what lies below the floor of the queues. What was counted before is not counted again.
    fn follow_floor(&mut self, state: &PartitionState, now: Now) -> Option<StepOf<Self>> {
        (self.floor_looked_ms, self.floor_may_have_moved) = (Some(now.monotonic_ms), false);
        let floor = state.queue_floor()?;
        let counted = self.counted.take();
        // A queue that went back to an earlier offset has a floor below what was counted.
        let counted = counted.filter(|counted| counted.from == state.log_start() && counted.found().0 <= floor);
        let search = match counted {
            Some(counted) => counted.continued(floor),
            None => Search::new(state, Cut::Queue(floor), Box::default()),
        };
        let pending = Pending {
            search,
            searches: 1,
            asker: Asker::FloorTimer,
        };
        if pending.search.is_vain() {
            self.counted = Some(pending.search);
            return None;
        }
        Some(self.look(state, pending, now))
    }

    /// When the floor is looked at next; none: when it moves.
    fn next_floor_look_ms(&self) -> Option<u64> {
        let earliest = self.floor_looked_ms.map_or(0, |at| at + FLOOR_EVERY_MS);
        self.floor_may_have_moved.then_some(earliest)
    }

    /// What is below the floor is counted: whether it is worth a command.
    fn is_worth_it(&self, state: &PartitionState, search: &Search) -> bool {
        let (to, bytes) = search.found();
        let least = match to == state.next_offset() {
            true => EMPTY_BYTES.min(self.surroundings.segment_bytes),
            false => self.surroundings.segment_bytes,
        };
        bytes >= least
    }
}

fn held_by_queue(before: Offset, floor: Offset) -> Rejection {
    let message = format!(
        "the log is that of a queue, which needs its messages from offset {floor} on; offset {before} is beyond that, and nothing was \
         dropped: purge the queue to be rid of its messages"
    );
    Rejection::new(Reason::OffsetOutOfRange, message)
        .with("offset", before)
        .with("queue_floor", floor)
}

/// The time of the next look: a multiple of the interval, so that one wake-up of a broker serves all its partitions.
fn next_look_ms(surroundings: &Surroundings, now: Now) -> u64 {
    let interval_ms = surroundings.check_interval_ms.max(1);
    (now.monotonic_ms / interval_ms + 1) * interval_ms
}

impl machine::Leader for Leader {
    type Machine = PartitionState;
    type Pending = Pending;
    type Answer = Offset;
    type Event = Event;
    type Surroundings = Surroundings;

    fn begin(state: &PartitionState, surroundings: &Arc<Surroundings>, now: Now) -> Self {
        Self {
            due_ms: next_look_ms(surroundings, now),
            surroundings: surroundings.clone(),
            first_kept: None,
            floor_due_ms: state.queue_floor().map(|_| now.monotonic_ms),
            floor_looked_ms: None,
            floor_may_have_moved: false,
            counted: None,
        }
    }

    fn surroundings_changed(&mut self, _: &PartitionState, surroundings: &Arc<Surroundings>, now: Now) {
        self.surroundings = surroundings.clone();
        self.due_ms = now.monotonic_ms;
    }

    fn applied(
        &mut self,
        state: &PartitionState,
        command: &PartitionCommand,
        _: &PartitionReply,
        now: &dyn Fn() -> Now,
    ) {
        let may_move = matches!(command, PartitionCommand::QueueOps(_) | PartitionCommand::Carry { .. });
        if may_move && state.queue_floor().is_some() {
            self.floor_may_have_moved = true;
            if self.floor_due_ms.is_none() {
                self.floor_due_ms = self.next_floor_look_ms().map(|at| at.max(now().monotonic_ms));
            }
        }
    }

    fn resume(&mut self, state: &PartitionState, pending: Pending, reply: PartitionReply, now: Now) -> StepOf<Self> {
        match reply {
            PartitionReply::LogStart(start) => self.done(&pending, Ok(start), now),
            PartitionReply::LogStartMoved(_) => self.search_again(state, &pending, now),
            // A queue went back to an earlier offset meanwhile.
            PartitionReply::LogStartHeld(floor) => {
                let before = pending.search.found().0;
                self.done(&pending, Err(held_by_queue(before, floor)), now)
            }
            PartitionReply::Appended { .. }
            | PartitionReply::Refused(_)
            | PartitionReply::Queue(_)
            | PartitionReply::CarryRefused(_)
            | PartitionReply::Scheduled
            | PartitionReply::ScheduleRefused(_)
            | PartitionReply::Ended { .. }
            | PartitionReply::Horizon(_) => {
                unreachable!("not the reply to a new log start")
            }
        }
    }

    fn resume_with_rows(
        &mut self,
        state: &PartitionState,
        mut pending: Pending,
        rows: Vec<Row>,
        now: Now,
    ) -> StepOf<Self> {
        let search = &mut pending.search;
        if state.log_start() != search.from {
            return self.search_again(state, &pending, now);
        }
        match search.take(&rows) {
            Err(BadRows(what)) => return Step::Damaged(what),
            Ok(false) => {
                return Step::Read {
                    rows: search.rows(),
                    pending,
                };
            }
            Ok(true) => {}
        }
        let (from, (to, dropped_bytes)) = (search.from, search.found());
        if pending.asker == Asker::FloorTimer && !self.is_worth_it(state, &pending.search) {
            self.counted = Some(pending.search.clone());
            return self.done(&pending, Ok(from), now);
        }
        let search = &pending.search;
        self.first_kept = search.first_kept_ms.map(|max_timestamp_ms| FirstKept {
            log_start: to,
            max_timestamp_ms,
        });
        if to <= from {
            return self.done(&pending, Ok(from), now);
        }
        Step::Propose {
            command: PartitionCommand::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            },
            pending,
        }
    }

    fn tick(&mut self, state: &PartitionState, now: Now) -> Vec<DueOf<Self>> {
        let is_due = |due_ms: Option<u64>| due_ms.is_some_and(|due_ms| due_ms <= now.monotonic_ms);
        let mut due = Vec::new();
        if is_due(self.floor_due_ms) {
            // Until it has ended.
            self.floor_due_ms = Some(now.monotonic_ms + LOST_AFTER_MS);
            match self.follow_floor(state, now) {
                Some(step) => due.push(Due::Begin(step)),
                None => self.floor_due_ms = None,
            }
        }
        if !is_due(self.retention_due_ms()) {
            return due;
        }
        let Some(cut) = self.cut_of_retention(state, now) else {
            self.due_ms = next_look_ms(&self.surroundings, now);
            return due;
        };
        self.due_ms = now.monotonic_ms + self.surroundings.check_interval_ms.max(LOST_AFTER_MS);
        due.push(Due::Begin(self.search(state, cut, (1, Asker::RetentionTimer), now)));
        due
    }

    fn next_deadline(&self) -> Option<u64> {
        self.retention_due_ms().into_iter().chain(self.floor_due_ms).min()
    }

    fn take_events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn events_of(_: &PartitionState, command: &PartitionCommand) -> Vec<Event> {
        match *command {
            PartitionCommand::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            } if from != to => vec![Event::LogStartAdvanced {
                from,
                to,
                dropped_bytes,
            }],
            _ => Vec::new(),
        }
    }

    fn had_effect(reply: &PartitionReply) -> bool {
        matches!(reply, PartitionReply::LogStart(_))
    }
}
