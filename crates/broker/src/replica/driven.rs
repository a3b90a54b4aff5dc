//! The state of a group that has a leader's side: the machine and, while this replica leads, the leader, under one lock. What
//! drivers of a kind share, and the rows that leaders read.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jangada_machine::{CommandOf, Effects, Leader, Machine, Now, ReplyOf, Retention, Row, RowRange};
use jangada_replication::{Publisher, StateImage};
use jangada_storage::{KeyRange, Store, StoreError};
use jangada_types::table::row::RowBuffer;
use jangada_types::{GroupId, LogPosition, Table};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::Notify;

use super::hosted::{Hosted, ReplicaName};
use super::timers::Timers;
use crate::error::RequestError;
use crate::pool::Pool;

/// How long a read waits for the rows of commands that are applied. They are queued a moment after that.
const ROWS_TIMEOUT: Duration = Duration::from_secs(5);

/// Is told what happens in the groups of one kind that are led here: for people, and for counters.
pub(crate) trait Observer<L: Leader>: Send + Sync + 'static {
    /// Something happened in a group that people may ask about later.
    fn event(&self, name: &ReplicaName, event: &L::Event);

    /// A command had its effect.
    fn took_effect(&self, _command: &CommandOf<L>) {}
}

/// What the drivers of all groups of one kind share on a broker.
pub(crate) struct DriverShared<L: Leader> {
    pub timers: Arc<Timers>,
    pub store: Arc<dyn Store>,
    /// Reads that may wait for the disk at once.
    pub read_pool: Pool,
    pub observer: Box<dyn Observer<L>>,
}

/// The surroundings that the leaders of one group go by, or those of several.
pub(crate) struct SurroundingsCell<S>(RwLock<Arc<S>>);

impl<S> SurroundingsCell<S> {
    pub fn new(surroundings: S) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(surroundings))))
    }

    pub fn get(&self) -> Arc<S> {
        self.0.read().clone()
    }

    pub fn set(&self, newer: S) {
        *self.0.write() = Arc::new(newer);
    }

    /// Puts others in their place if those that are known by then are older. True: they are there now.
    pub fn set_if(&self, newer: S, is_older: impl FnOnce(&S) -> bool) -> bool {
        let mut known = self.0.write();
        let is_older = is_older(&known);
        if is_older {
            *known = Arc::new(newer);
        }
        is_older
    }
}

/// What one lock guards.
pub(super) struct State<L: Leader> {
    pub machine: L::Machine,
    pub led: Option<Led<L>>,
    /// The index of the last command that was applied, plus one.
    pub applied_next: u64,
    /// The deadline that [`Timers`] has of this group.
    pub armed_ms: Option<u64>,
}

/// The leader's side, for one term.
pub(super) struct Led<L: Leader> {
    pub term: u64,
    pub leader: L,
    /// Those that it knows.
    pub surroundings: Arc<L::Surroundings>,
}

/// The state of one group, which commands are folded into and [`Driver`](super::Driver) decides by.
pub(crate) struct Driven<L: Leader> {
    group: GroupId,
    name: ReplicaName,
    state: Mutex<State<L>>,
    /// The term of the leader's side; 0: there is none. Changed under the lock.
    led_term: AtomicU64,
    /// The rows of all commands before this index can be read.
    rows_next: AtomicU64,
    more_rows: Notify,
    surroundings: Arc<SurroundingsCell<L::Surroundings>>,
    shared: Arc<DriverShared<L>>,
}

impl<L: Leader> Driven<L> {
    /// A group that is empty.
    pub fn new(
        (group, name): (GroupId, ReplicaName),
        surroundings: Arc<SurroundingsCell<L::Surroundings>>,
        shared: Arc<DriverShared<L>>,
    ) -> Arc<Self> {
        let state = State {
            machine: L::Machine::default(),
            led: None,
            applied_next: 0,
            armed_ms: None,
        };
        Arc::new(Self {
            group,
            name,
            state: Mutex::new(state),
            led_term: AtomicU64::new(0),
            rows_next: AtomicU64::new(0),
            more_rows: Notify::new(),
            surroundings,
            shared,
        })
    }

    /// Reads the state as this replica has it, under the lock.
    pub fn with_machine<T>(&self, read: impl FnOnce(&L::Machine) -> T) -> T {
        read(&self.state.lock().machine)
    }

    /// Applies a command to the machine by `fold`, and tells the leader's side. What else `fold` finds is given back.
    pub fn apply<T>(
        &self,
        at: LogPosition,
        command: &CommandOf<L>,
        fold: impl FnOnce(&mut L::Machine) -> (ReplyOf<L>, T),
    ) -> (ReplyOf<L>, T) {
        let mut state = self.state.lock();
        let State {
            machine,
            led,
            applied_next,
            armed_ms,
        } = &mut *state;
        // Only where it is led, or each replica would tell it.
        let events = led.as_ref().map(|_| L::events_of(machine, command));
        let (reply, found) = fold(machine);
        *applied_next = at.index + 1;
        if let Some(led) = led {
            // Read under the lock, so that no leader sees the time go back.
            led.leader.applied(machine, command, &reply, &|| self.now());
            self.arm_earlier(armed_ms, led.leader.next_deadline());
        }
        drop(state);
        if let Some(events) = events.filter(|_| L::had_effect(&reply)) {
            events.iter().for_each(|event| self.tell(event));
            self.shared.observer.took_effect(command);
        }
        (reply, found)
    }

    /// The rows of all commands that were applied can be read from now on. Gives what `read` finds in the machine.
    pub fn publish<T>(&self, read: impl FnOnce(&L::Machine) -> T) -> T {
        let (next, found) = {
            let state = self.state.lock();
            (state.applied_next, read(&state.machine))
        };
        self.rows_next.store(next, Ordering::Release);
        self.more_rows.notify_waiters();
        found
    }

    /// Puts a restored machine in the place of the one that is there. Whoever led begins anew, with what the snapshot says.
    pub fn replace(&self, machine: L::Machine) {
        let mut state = self.state.lock();
        (state.machine, state.led) = (machine, None);
        self.set_led_term(0);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock()
    }

    pub(super) fn now(&self) -> Now {
        self.shared.timers.now()
    }

    pub(super) fn tell(&self, event: &L::Event) {
        self.shared.observer.event(&self.name, event);
    }

    pub(super) fn surroundings(&self) -> &SurroundingsCell<L::Surroundings> {
        &self.surroundings
    }

    pub(super) fn led_term(&self) -> u64 {
        self.led_term.load(Ordering::Acquire)
    }

    /// To be called under the lock.
    pub(super) fn set_led_term(&self, term: u64) {
        self.led_term.store(term, Ordering::Release);
    }

    /// A leader that ticks now wants to tick again by then.
    pub(super) fn rearm(&self, deadline_ms: Option<u64>) {
        self.shared.timers.set(self.group, deadline_ms);
    }

    /// A leader wants to tick by then. A later deadline than the one that is known is found out at that tick.
    pub(super) fn arm_earlier(&self, armed_ms: &mut Option<u64>, deadline_ms: Option<u64>) {
        let Some(deadline) = deadline_ms else { return };
        if armed_ms.is_none_or(|armed| deadline < armed) {
            *armed_ms = deadline_ms;
            self.shared.timers.set(self.group, deadline_ms);
        }
    }

    /// Reads rows as of all commands before `applied_next` at least.
    pub(super) async fn read(
        &self,
        hosted: &Hosted,
        range: RowRange,
        applied_next: u64,
    ) -> Result<Vec<Row>, RequestError> {
        self.wait_for_rows(hosted, applied_next).await?;
        let (store, group) = (self.shared.store.clone(), self.group);
        let read = move || {
            let keys = KeyRange {
                from: &range.from,
                to: range.to.as_deref(),
            };
            let (mut rows, mut buffer) = (Vec::new(), RowBuffer::default());
            store.scan_rows(group, range.table, keys, range.limit, &mut |key, value| {
                rows.push(buffer.copy(key, value));
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, StoreError>(rows)
        };
        let rows = self.shared.read_pool.run(read).await?;
        rows.map_err(|error| hosted.store_error(&error))
    }

    /// The values of single rows, as of all commands before `applied_next` at least.
    pub(super) async fn read_at(
        &self,
        hosted: &Hosted,
        (table, keys): (&'static Table, Vec<Bytes>),
        applied_next: u64,
    ) -> Result<Vec<Option<Bytes>>, RequestError> {
        self.wait_for_rows(hosted, applied_next).await?;
        let (store, group) = (self.shared.store.clone(), self.group);
        let read = move || {
            let values = keys.iter().map(|key| store.get_row(group, table, key));
            values.collect::<Result<Vec<_>, StoreError>>()
        };
        let values = self.shared.read_pool.run(read).await?;
        values.map_err(|error| hosted.store_error(&error))
    }

    async fn wait_for_rows(&self, hosted: &Hosted, applied_next: u64) -> Result<(), RequestError> {
        let has_rows = tokio::time::timeout(ROWS_TIMEOUT, self.have_rows(applied_next)).await;
        // The replica has stopped in the middle of what it applied.
        has_rows.map_err(|_| hosted.not_leader())
    }

    /// Returns when the rows of all commands before an index can be read.
    async fn have_rows(&self, applied_next: u64) {
        loop {
            let more = self.more_rows.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if self.rows_next.load(Ordering::Acquire) >= applied_next {
                return;
            }
            more.await;
        }
    }

    /// Reports that rows contradict the state, and says so to whoever asked.
    pub(super) fn damaged(&self, hosted: &Hosted, what: String) -> RequestError {
        hosted.store_error(&self.shared.store.damage().report(self.group, what))
    }
}

/// Applies commands to a group's machine, and tells the leader's side. For machines of which readers see nothing but the machine.
pub(crate) struct DrivenPublisher<L: Leader>(pub Arc<Driven<L>>);

impl<L: Leader> Publisher for DrivenPublisher<L>
where
    L::Machine: Clone,
{
    type Machine = L::Machine;

    fn apply(&mut self, at: LogPosition, command: CommandOf<L>, effects: &mut Effects) -> ReplyOf<L> {
        let fold = |machine: &mut L::Machine| (machine.apply(at, &command, effects), ());
        self.0.apply(at, &command, fold).0
    }

    fn publish(&mut self) {
        self.0.publish(|_| ());
    }

    fn snapshot(&self) -> Bytes {
        // Not encoded under the lock: a clone shares what is large.
        let machine = self.0.with_machine(Clone::clone);
        machine.snapshot()
    }

    fn image(&self) -> StateImage {
        StateImage::shared(self.0.with_machine(Clone::clone))
    }

    fn replace(&mut self, machine: L::Machine) {
        self.0.replace(machine);
    }

    fn retention(&self) -> Retention {
        self.0.with_machine(Machine::retention)
    }
}
