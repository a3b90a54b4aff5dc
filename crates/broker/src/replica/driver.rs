//! Runs the leader's side of a machine, for every kind of group alike: decides requests, proposes the commands that they take,
//! reads the rows that they need, goes on when that is done, lets timers tick, and answers each request exactly once, also when the
//! leadership is lost meanwhile.
//!
//! ```text
//!   request --> Driver::decide --> Leader --> Command --> the group's log
//!                  ^                  |                        |
//!                  |                  +--> rows --> read pool  |
//!                  +---- resume <---- rows, or reply <---- Driven::apply (the machine, then Leader::applied)
//!   Driver::tick, from the one task of Timers: what is due
//! ```
//!
//! One short lock per group is held over each decision and each command that is applied, and never over a wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_machine::{Due, DueOf, Leader, Now, Row, RowRange, Step, StepOf};
use jangada_types::{Rejection, Table};

use super::driven::{Driven, Led, State};
use super::hosted::Hosted;
use super::inflight_proposal::InflightProposal;
use crate::error::RequestError;

/// How long one command may wait for its quorum. Then its outcome is unknown.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a linearizable read waits for its quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the leader's side of one replica. Cheap to clone.
pub(crate) struct Driver<L: Leader> {
    hosted: Arc<Hosted>,
    driven: Arc<Driven<L>>,
}

impl<L: Leader> Clone for Driver<L> {
    fn clone(&self) -> Self {
        Self {
            hosted: self.hosted.clone(),
            driven: self.driven.clone(),
        }
    }
}

/// A step, and the index behind the last command that was applied when the leader took it.
struct Decided<L: Leader> {
    step: StepOf<L>,
    applied_next: u64,
}

impl<L: Leader> Driver<L> {
    pub fn new(hosted: Arc<Hosted>, driven: Arc<Driven<L>>) -> Self {
        Self { hosted, driven }
    }

    /// Reads the state as this replica has it, however old.
    pub fn with_machine<T>(&self, read: impl FnOnce(&L::Machine) -> T) -> T {
        self.driven.with_machine(read)
    }

    /// Decides a request, and does what it takes, until there is an answer or the leader's refusal. Many may be under way at
    /// once. The room or whatever the request `holds` is let go of when Raft has let go of all its commands, also when nobody
    /// waits for the answer any more.
    pub async fn decide<H: Send + Sync + 'static>(
        &self,
        holds: H,
        first: impl FnOnce(&mut L, &L::Machine, Now) -> StepOf<L>,
    ) -> Result<Result<L::Answer, Rejection>, RequestError> {
        let decided = self.lead(first)?;
        self.go_on(decided, Arc::new(holds)).await
    }

    async fn go_on<H: Send + Sync + 'static>(
        &self,
        mut decided: Decided<L>,
        holds: Arc<H>,
    ) -> Result<Result<L::Answer, Rejection>, RequestError> {
        // Once a command of the request was applied, no failure is one that had no effect.
        let mut had_effect = false;
        let failed = |error: RequestError, had_effect| match had_effect {
            true => error.unknown(),
            false => error,
        };
        loop {
            let next = match decided.step {
                Step::Done(result) => return Ok(result),
                Step::Propose { command, pending } => {
                    let proposed =
                        InflightProposal::submit::<L::Machine>(&self.hosted.group, command, holds.clone()).await;
                    let applied = match proposed {
                        Ok(proposed) => proposed.applied(PROPOSE_TIMEOUT).await,
                        Err(error) => Err(error),
                    };
                    let applied = applied.map_err(|error| failed(self.hosted.propose_error(&error), had_effect))?;
                    had_effect = true;
                    self.lead(|leader, machine, now| leader.resume(machine, pending, applied.reply, now))
                }
                Step::Read { rows, pending } => {
                    match self.driven.read(&self.hosted, rows, decided.applied_next).await {
                        Ok(rows) => {
                            self.lead(|leader, machine, now| leader.resume_with_rows(machine, pending, rows, now))
                        }
                        Err(error) => Err(error),
                    }
                }
                Step::Damaged(what) => Err(self.driven.damaged(&self.hosted, what)),
            };
            decided = next.map_err(|error| failed(error, had_effect))?;
        }
    }

    /// Reads what is at least as new as everything that was answered before the call. Calls that wait at the same time
    /// share one round.
    pub async fn read<T>(&self, read: impl FnOnce(&L::Machine) -> T) -> Result<T, RequestError> {
        self.hosted.leader_epoch()?;
        let confirmed = self.hosted.confirm_lead(READ_TIMEOUT).await;
        confirmed.map_err(|error| self.hosted.read_error(&error))?;
        Ok(self.driven.with_machine(read))
    }

    /// Reads rows as of all commands that are applied here by now at least.
    pub async fn rows(&self, range: RowRange) -> Result<Vec<Row>, RequestError> {
        let applied_next = self.driven.lock().applied_next;
        self.driven.read(&self.hosted, range, applied_next).await
    }

    /// The values of single rows, as of all commands that are applied here by now at least; none: there is no such row.
    pub async fn rows_at(&self, table: &'static Table, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, RequestError> {
        let applied_next = self.driven.lock().applied_next;
        self.driven.read_at(&self.hosted, (table, keys), applied_next).await
    }

    /// Reports that rows contradict the state, and gives the error for whoever asked.
    pub fn damaged(&self, what: String) -> RequestError {
        self.driven.damaged(&self.hosted, what)
    }

    /// Has the leader's side do what takes no command, if this replica leads, is ready, and a quorum answers it.
    pub fn with_leader<T>(&self, act: impl FnOnce(&mut L, &L::Machine, Now) -> T) -> Option<T> {
        let mut state = self.driven.lock();
        let now = self.driven.now();
        self.refresh(&mut state, now);
        let State {
            machine, led, armed_ms, ..
        } = &mut *state;
        let led = led.as_mut()?;
        let done = act(&mut led.leader, machine, now);
        self.driven.arm_earlier(armed_ms, led.leader.next_deadline());
        Some(done)
    }

    /// Takes other surroundings, and does what is due by them.
    pub fn set_surroundings(&self, surroundings: L::Surroundings) {
        self.driven.surroundings().set(surroundings);
        self.tick();
    }

    /// Begins or ends the leader's side if this replica's leadership asks for it, and does what is due then.
    pub fn refresh_leadership(&self) {
        if self.driven.led_term() != self.term_to_lead() {
            self.tick();
        }
    }

    /// Does what is due now. Nobody waits for it; what gets lost is due again at a later tick.
    pub fn tick(&self) {
        let (due, events, applied_next) = {
            let mut state = self.driven.lock();
            let now = self.driven.now();
            self.refresh(&mut state, now);
            let State {
                machine,
                led,
                applied_next,
                armed_ms,
            } = &mut *state;
            let Some(led) = led else {
                *armed_ms = None;
                return;
            };
            let due = led.leader.tick(machine, now);
            *armed_ms = led.leader.next_deadline();
            self.driven.rearm(*armed_ms);
            (due, led.leader.take_events(), *applied_next)
        };
        events.iter().for_each(|event| self.driven.tell(event));
        self.begin(due, applied_next);
    }

    fn begin(&self, due: Vec<DueOf<L>>, applied_next: u64) {
        let mut commands = Vec::new();
        for due in due {
            match due {
                Due::Propose(command) => commands.push(command),
                Due::Begin(step) => {
                    let driver = self.clone();
                    tokio::spawn(async move {
                        let decided = Decided { step, applied_next };
                        let ended = driver.go_on(decided, Arc::new(())).await;
                        let title = &driver.hosted.title;
                        match ended {
                            Ok(Ok(_)) => {}
                            Ok(Err(refusal)) => tracing::debug!(%title, %refusal, "what was due was refused"),
                            Err(error) => tracing::debug!(%title, %error, "what was due could not be done"),
                        }
                    });
                }
            }
        }
        if commands.is_empty() {
            return;
        }
        let group = self.hosted.group.clone();
        tokio::spawn(async move {
            for command in commands {
                if let Err(error) = group.submit::<L::Machine>(command).await {
                    tracing::debug!(group = %group.id(), %error, "what was due could not be proposed");
                    return;
                }
            }
        });
    }

    fn lead(&self, decide: impl FnOnce(&mut L, &L::Machine, Now) -> StepOf<L>) -> Result<Decided<L>, RequestError> {
        let mut state = self.driven.lock();
        let now = self.driven.now();
        self.refresh(&mut state, now);
        let State {
            machine,
            led,
            applied_next,
            armed_ms,
        } = &mut *state;
        let Some(led) = led else {
            drop(state);
            return Err(self.hosted.not_leader());
        };
        let step = decide(&mut led.leader, machine, now);
        self.driven.arm_earlier(armed_ms, led.leader.next_deadline());
        Ok(Decided {
            step,
            applied_next: *applied_next,
        })
    }

    /// The term in which there is to be a leader's side; 0: there is to be none.
    fn term_to_lead(&self) -> u64 {
        let status = self.hosted.group.status();
        // A leader that is cut off would decide what the next leader decides otherwise: members would go on whose partitions
        // are given to others.
        match status.ready && !self.hosted.check_quorum.is_lost() {
            true => status.term,
            false => 0,
        }
    }

    /// Makes the leader's side when this replica has become ready, drops it when it no longer leads, and tells it when the
    /// surroundings are other ones.
    ///
    /// The status is read under the lock: one from before it could throw away the leader's side that another thread has
    /// begun for a later term.
    fn refresh(&self, state: &mut State<L>, now: Now) {
        let term = self.term_to_lead();
        self.driven.set_led_term(term);
        if term == 0 {
            state.led = None;
            return;
        }
        let surroundings = self.driven.surroundings().get();
        let State { machine, led, .. } = state;
        match led {
            Some(led) if led.term == term => {
                if !Arc::ptr_eq(&led.surroundings, &surroundings) {
                    led.leader.surroundings_changed(machine, &surroundings, now);
                    led.surroundings = surroundings;
                }
            }
            _ => {
                *led = Some(Led {
                    term,
                    leader: L::begin(machine, &surroundings, now),
                    surroundings,
                });
            }
        }
    }
}
