//! The leader's side of a partition: it decides where the log starts, by the topic's retention and as clients ask.
//!
//! ```text
//!   timer, or a request to trim
//!      -> Read: rows of the offset index from the log start on, until a batch stays
//!      -> Propose: AdvanceLogStart, which counts from the log start of the search
//!      -> applied, or refused since the log start has moved: the search begins again
//! ```
//!
//! Appends are admitted by the host, not here: a batch passes no lock of its group before it is proposed.

mod search;

use std::sync::Arc;

use jangada_machine as machine;
use jangada_types::{Offset, Reason, Rejection};
use machine::{Due, DueOf, Now, Row, Step, StepOf};

use self::search::{BadRows, Cut, Search};
use crate::command::PartitionCommand;
use crate::reply::PartitionReply;
use crate::state::PartitionState;

/// Most searches of one request. Each further one means that the log start was moved by another request meanwhile.
const SEARCHES_MAX: u32 = 5;
/// A timer's search that has not ended after this time was lost, and the next one begins, milliseconds. More than a command
/// waits for its quorum.
const LOST_AFTER_MS: u64 = 15_000;

/// The settings that a partition's leader goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// How long records are kept, milliseconds; `None`: without end.
    pub retention_ms: Option<u64>,
    /// How many bytes of batches are kept at least; `None`: all.
    pub retention_bytes: Option<u64>,
    /// Time between two looks at what may go, milliseconds.
    pub check_interval_ms: u64,
    /// How long the wall clock must have been steady before records go by it, milliseconds; less for records that are kept for
    /// less than that.
    pub steady_clock_ms: u64,
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
    /// Whether the retention's timer began it.
    is_of_timer: bool,
}

/// The volatile side of a partition, on the replica that leads it.
#[derive(Debug)]
pub struct Leader {
    surroundings: Arc<Surroundings>,
    /// The monotonic time of the next look at what may go.
    due_ms: u64,
    /// The first batch that stayed at the last search: no batch goes by its age before that one does.
    first_kept: Option<FirstKept>,
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
        self.search(state, Cut::Below(before), (1, false), now)
    }

    /// Drops the records that the topic's retention lets go. The answer is the log start then.
    pub fn retain(&mut self, state: &PartitionState, now: Now) -> StepOf<Self> {
        match self.cut_of_retention(state, now) {
            Some(cut) => self.search(state, cut, (1, false), now),
            None => Step::Done(Ok(state.log_start())),
        }
    }

    /// The rule of the topic's retention as of now; `None`: nothing can go by it.
    fn cut_of_retention(&self, state: &PartitionState, now: Now) -> Option<Cut> {
        if state.log_start() == state.next_offset() {
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
        let keep_bytes = keep_bytes.filter(|keep| state.retained_bytes() > *keep);
        (is_old || keep_bytes.is_some()).then_some(Cut::Retention { oldest_ms, keep_bytes })
    }

    fn search(
        &mut self,
        state: &PartitionState,
        cut: Cut,
        (searches, is_of_timer): (u32, bool),
        now: Now,
    ) -> StepOf<Self> {
        let pending = Pending {
            search: Search::new(state, cut),
            searches,
            is_of_timer,
        };
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
        let attempt = (pending.searches + 1, pending.is_of_timer);
        self.search(state, pending.search.cut, attempt, now)
    }

    fn done(&mut self, pending: &Pending, answer: Result<Offset, Rejection>, now: Now) -> StepOf<Self> {
        if pending.is_of_timer {
            self.due_ms = next_look_ms(&self.surroundings, now);
        }
        Step::Done(answer)
    }
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

    fn begin(_: &PartitionState, surroundings: &Arc<Surroundings>, now: Now) -> Self {
        Self {
            due_ms: next_look_ms(surroundings, now),
            surroundings: surroundings.clone(),
            first_kept: None,
        }
    }

    fn surroundings_changed(&mut self, _: &PartitionState, surroundings: &Arc<Surroundings>, now: Now) {
        self.surroundings = surroundings.clone();
        self.due_ms = now.monotonic_ms;
    }

    fn applied(&mut self, _: &PartitionState, _: &PartitionCommand, _: &PartitionReply, _: &dyn Fn() -> Now) {}

    fn resume(&mut self, state: &PartitionState, pending: Pending, reply: PartitionReply, now: Now) -> StepOf<Self> {
        match reply {
            PartitionReply::LogStart(start) => self.done(&pending, Ok(start), now),
            PartitionReply::LogStartMoved(_) => self.search_again(state, &pending, now),
            PartitionReply::Appended { .. } | PartitionReply::Refused(_) => {
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
        if self.next_deadline().is_none_or(|due_ms| due_ms > now.monotonic_ms) {
            return Vec::new();
        }
        let Some(cut) = self.cut_of_retention(state, now) else {
            self.due_ms = next_look_ms(&self.surroundings, now);
            return Vec::new();
        };
        self.due_ms = now.monotonic_ms + self.surroundings.check_interval_ms.max(LOST_AFTER_MS);
        vec![Due::Begin(self.search(state, cut, (1, true), now))]
    }

    fn next_deadline(&self) -> Option<u64> {
        let is_limited = self.surroundings.retention_ms.is_some() || self.surroundings.retention_bytes.is_some();
        is_limited.then_some(self.due_ms)
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
