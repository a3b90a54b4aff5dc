//! Runs the leader's side of a machine, for every kind of group alike: decides requests, proposes what they take, goes on when
//! that is applied, lets timers tick, and answers each request exactly once, also when the leadership is lost meanwhile.
//!
//! ```text
//!   request --> Driver::decide --> Leader --> Command --> the group's log
//!                  ^                                           |
//!                  +---- resume <---- reply <---- DrivenPublisher::apply (the machine, then Leader::applied)
//!   Driver::tick, from the one task of Timers: what is due
//! ```
//!
//! One short lock per group is held over each decision and each command that is applied, and never over a wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_machine::{CommandOf, Effects, Leader, Machine, Now, ReplyOf, Retention, Step, StepOf};
use jangada_replication::{Publisher, StateImage};
use jangada_types::{LogPosition, Rejection};
use parking_lot::{Mutex, RwLock};

use super::hosted::Hosted;
use super::inflight_proposal::InflightProposal;
use super::timers::Timers;
use crate::error::RequestError;

/// How long one command may wait for its quorum. Then its outcome is unknown.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a linearizable read waits for its quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Is told what happens in the groups of one kind that are led here: for people, and for counters.
pub(crate) trait Observer<L: Leader>: Send + Sync + 'static {
    /// Something happened that people may ask about later.
    fn event(&self, event: &L::Event);

    /// A command had its effect.
    fn took_effect(&self, _command: &CommandOf<L>) {}
}

/// What the drivers of all groups of one kind share on a broker.
pub(crate) struct DriverShared<L: Leader> {
    timers: Arc<Timers>,
    surroundings: RwLock<Arc<L::Surroundings>>,
    observer: Box<dyn Observer<L>>,
}

impl<L: Leader> DriverShared<L> {
    pub fn new(timers: Arc<Timers>, surroundings: L::Surroundings, observer: impl Observer<L>) -> Self {
        Self {
            timers,
            surroundings: RwLock::new(Arc::new(surroundings)),
            observer: Box::new(observer),
        }
    }

    /// What the leaders go by.
    pub fn surroundings(&self) -> Arc<L::Surroundings> {
        self.surroundings.read().clone()
    }

    /// Puts others in their place if those that are known by then are older, and lets all leaders know soon.
    pub fn set_surroundings(&self, newer: L::Surroundings, is_older: impl FnOnce(&L::Surroundings) -> bool) {
        {
            let mut known = self.surroundings.write();
            if !is_older(&known) {
                return;
            }
            *known = Arc::new(newer);
        }
        self.timers.wake();
    }
}

/// What one lock guards: the replicated state and, while this replica leads, the leader's side.
struct State<L: Leader> {
    machine: L::Machine,
    led: Option<Led<L>>,
}

/// The leader's side, for one term.
struct Led<L: Leader> {
    term: u64,
    leader: L,
    /// Those that it knows.
    surroundings: Arc<L::Surroundings>,
}

/// The state of one group, which [`DrivenPublisher`] folds commands into and [`Driver`] decides by.
pub(crate) struct Driven<L: Leader> {
    state: Mutex<State<L>>,
    shared: Arc<DriverShared<L>>,
}

impl<L: Leader> Driven<L> {
    /// A group that is empty.
    pub fn new(shared: Arc<DriverShared<L>>) -> Arc<Self> {
        let state = State {
            machine: L::Machine::default(),
            led: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            shared,
        })
    }

    /// Reads the state as this replica has it, under the lock.
    pub fn with_machine<T>(&self, read: impl FnOnce(&L::Machine) -> T) -> T {
        read(&self.state.lock().machine)
    }
}

/// Applies commands to a group's machine, and tells the leader's side.
pub(crate) struct DrivenPublisher<L: Leader>(pub Arc<Driven<L>>);

impl<L: Leader> Publisher for DrivenPublisher<L> {
    type Machine = L::Machine;

    fn apply(&mut self, at: LogPosition, command: CommandOf<L>, effects: &mut Effects) -> ReplyOf<L> {
        let Driven { state, shared } = &*self.0;
        let mut state = state.lock();
        let State { machine, led } = &mut *state;
        // Only where it is led, or each replica would tell it.
        let events = led.as_ref().map(|_| L::events_of(machine, &command));
        let reply = machine.apply(at, &command, effects);
        if let Some(led) = led {
            // Read under the lock, so that no leader sees the time go back.
            let now = shared.timers.now();
            led.leader.applied(machine, &command, &reply, now);
            shared.timers.set(led.leader.next_deadline());
        }
        drop(state);
        if let Some(events) = events.filter(|_| L::had_effect(&reply)) {
            events.iter().for_each(|event| shared.observer.event(event));
            shared.observer.took_effect(&command);
        }
        reply
    }

    fn snapshot(&self) -> Bytes {
        let machine = self.0.with_machine(Clone::clone);
        machine.snapshot()
    }

    fn image(&self) -> StateImage {
        StateImage::shared(self.0.with_machine(Clone::clone), Machine::snapshot)
    }

    fn replace(&mut self, machine: L::Machine) {
        // Whoever led begins anew, with what the snapshot says.
        *self.0.state.lock() = State { machine, led: None };
    }

    fn retention(&self) -> Retention {
        self.0.with_machine(Machine::retention)
    }
}

/// Runs the leader's side of one replica.
pub(crate) struct Driver<L: Leader> {
    hosted: Arc<Hosted>,
    driven: Arc<Driven<L>>,
}

impl<L: Leader> Driver<L> {
    pub fn new(hosted: Arc<Hosted>, driven: Arc<Driven<L>>) -> Self {
        Self { hosted, driven }
    }

    /// Reads the state as this replica has it, however old.
    pub fn with_machine<T>(&self, read: impl FnOnce(&L::Machine) -> T) -> T {
        self.driven.with_machine(read)
    }

    /// Decides a request, and proposes what it takes, until there is an answer or the leader's refusal. Many may be under way
    /// at once. What the request `holds` is let go of when Raft has let go of all its commands, also when nobody waits for
    /// the answer any more.
    pub async fn decide<H: Send + Sync + 'static>(
        &self,
        holds: H,
        first: impl FnOnce(&mut L, &L::Machine, Now) -> StepOf<L>,
    ) -> Result<Result<L::Answer, Rejection>, RequestError> {
        let holds = Arc::new(holds);
        let mut step = self.lead(first)?;
        // Once a command of the request was applied, no failure is one that had no effect.
        let mut had_effect = false;
        let failed = |error: RequestError, had_effect| match had_effect {
            true => error.unknown(),
            false => error,
        };
        loop {
            let (command, pending) = match step {
                Step::Done(result) => return Ok(result),
                Step::Propose { command, pending } => (command, pending),
            };
            let proposed = InflightProposal::submit::<L::Machine>(&self.hosted.group, command, holds.clone()).await;
            let applied = match proposed {
                Ok(proposed) => proposed.applied(PROPOSE_TIMEOUT).await,
                Err(error) => Err(error),
            };
            let applied = applied.map_err(|error| failed(self.hosted.propose_error(&error), had_effect))?;
            had_effect = true;
            step = self
                .lead(|leader, machine, now| leader.resume(machine, pending, applied.reply, now))
                .map_err(|error| failed(error, had_effect))?;
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

    /// Proposes what is due now. Nobody waits for it; what gets lost is due again at a later tick.
    pub fn tick(&self) {
        let shared = &self.driven.shared;
        let (commands, events) = {
            let mut state = self.driven.state.lock();
            let now = shared.timers.now();
            self.refresh_leadership(&mut state, now);
            let State { machine, led } = &mut *state;
            let Some(led) = led else { return };
            let commands = led.leader.tick(machine, now);
            shared.timers.note(led.leader.next_deadline());
            (commands, led.leader.take_events())
        };
        events.iter().for_each(|event| shared.observer.event(event));
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

    fn lead<T>(&self, decide: impl FnOnce(&mut L, &L::Machine, Now) -> T) -> Result<T, RequestError> {
        let timers = &self.driven.shared.timers;
        let mut state = self.driven.state.lock();
        let now = timers.now();
        self.refresh_leadership(&mut state, now);
        let State { machine, led } = &mut *state;
        let Some(led) = led else {
            drop(state);
            return Err(self.hosted.not_leader());
        };
        let decided = decide(&mut led.leader, machine, now);
        timers.set(led.leader.next_deadline());
        Ok(decided)
    }

    /// Makes the leader's side when this replica has become ready, drops it when it no longer leads, and tells it when the
    /// surroundings are other ones.
    ///
    /// The status is read under the lock: one from before it could throw away the leader's side that another thread has
    /// begun for a later term.
    fn refresh_leadership(&self, state: &mut State<L>, now: Now) {
        let status = self.hosted.group.status();
        // A leader that is cut off would decide what the next leader decides otherwise: members would go on whose partitions
        // are given to others.
        if !status.ready || self.hosted.check_quorum.is_lost() {
            state.led = None;
            return;
        }
        let surroundings = self.driven.shared.surroundings();
        let State { machine, led } = state;
        match led {
            Some(led) if led.term == status.term => {
                if !Arc::ptr_eq(&led.surroundings, &surroundings) {
                    led.leader.surroundings_changed(machine, &surroundings, now);
                    led.surroundings = surroundings;
                }
            }
            _ => {
                *led = Some(Led {
                    term: status.term,
                    leader: L::begin(machine, &surroundings, now),
                    surroundings,
                });
            }
        }
    }
}
