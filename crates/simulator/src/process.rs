//! One process on a host: a broker in a runtime of its own, which can be stopped, killed, and made to stand still.
//!
//! Who is killed is dead at once for everybody else: its disk takes nothing of it any more, its connections end, and what it logs is not
//! kept. Its tasks are dropped with their runtime, each at the await where it stands, as soon as none of them runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::current::{Turn, Who, take_polled};
use crate::trace::Trace;

/// A process that had nothing to do is stepped less often, down to every so many ticks: its timers may be so late, and no message is.
const IDLE_TICKS_MAX: u32 = 4;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, without an error.
    Done,
    /// By itself, with an error, or with a panic.
    Failed(String),
    Killed,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// The process: the system goes on, and writes to the disk what it was given.
    Process,
    /// The whole host, which loses its power.
    Power,
}

/// A runtime with what is known of its process.
pub(crate) struct Slot {
    pub who: Arc<Who>,
    /// None while it is stepped, and once it is dropped.
    runtime: Mutex<Option<Runtime>>,
    /// What its clock shows, as the simulation's time, milliseconds.
    clock_ms: AtomicU64,
    /// When it is stepped next unless something comes for it, milliseconds.
    next_ms: AtomicU64,
    idle_steps: AtomicU32,
    is_paused: AtomicBool,
    end: watch::Sender<Option<End>>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("no simulation is that long")
}

impl Slot {
    /// A process that begins now.
    pub fn new(who: Arc<Who>, runtime: Runtime, now: Duration) -> Self {
        Self {
            who,
            runtime: Mutex::new(Some(runtime)),
            clock_ms: AtomicU64::new(millis(now)),
            next_ms: AtomicU64::new(0),
            idle_steps: AtomicU32::new(0),
            is_paused: AtomicBool::new(false),
            end: watch::Sender::new(None),
        }
    }

    /// Starts its main task. It ends with it.
    pub fn spawn(self: &Arc<Self>, main: impl Future<Output = Result<(), String>> + Send + 'static) {
        let slot = Arc::downgrade(self);
        let main = async move {
            let ended = main.await;
            if let Some(slot) = slot.upgrade() {
                slot.finish(ended.map_or_else(End::Failed, |()| End::Done));
            }
        };
        if let Some(runtime) = &*self.runtime.lock() {
            runtime.spawn(main);
        }
    }

    /// It has ended. Only the first end counts.
    pub fn finish(&self, end: End) {
        self.end.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert(end);
            is_first
        });
    }

    pub fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Whether it is to be stepped now.
    pub fn is_due(&self, now: Duration) -> bool {
        let is_held = self.is_paused.load(Ordering::Relaxed) || self.end.borrow().is_some();
        !is_held && (self.who.take_work() || self.next_ms.load(Ordering::Relaxed) <= millis(now))
    }

    /// Runs what can run at this time, and moves its clock to the tick's end. `root` is run besides its tasks, with how far its clock is
    /// behind, and ends the step.
    pub fn step<T, F: Future<Output = T>>(
        &self,
        now: Duration,
        tick: Duration,
        root: impl FnOnce(Duration) -> F,
    ) -> Option<T> {
        let lent = Lent::take(self)?;
        let behind = millis(now).saturating_sub(self.clock_ms.load(Ordering::Relaxed));
        let stepped = {
            let _turn = Turn::begin(&self.who);
            lent.runtime().block_on(root(Duration::from_millis(behind)))
        };
        self.clock_ms.store(millis(now + tick), Ordering::Relaxed);
        let idle = match take_polled() {
            true => 0,
            false => (self.idle_steps.load(Ordering::Relaxed) + 1).min(IDLE_TICKS_MAX - 1),
        };
        self.idle_steps.store(idle, Ordering::Relaxed);
        self.next_ms.store(millis(now + tick * (idle + 1)), Ordering::Relaxed);
        Some(stepped)
    }

    /// Does something where its tasks run, between two steps.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let lent = Lent::take(self);
        let _turn = Turn::begin(&self.who);
        let _entered = lent.as_ref().map(|lent| lent.runtime().enter());
        work()
    }

    /// Drops its tasks, wherever they are.
    pub fn drop_runtime(&self) {
        let runtime = self.runtime.lock().take();
        if let Some(runtime) = runtime {
            let _turn = Turn::begin(&self.who);
            runtime.shutdown_background();
        }
    }
}

/// A slot's runtime while it is used. It is given back also when what it runs panics.
struct Lent<'a> {
    slot: &'a Slot,
    runtime: Option<Runtime>,
}

impl<'a> Lent<'a> {
    fn take(slot: &'a Slot) -> Option<Self> {
        let runtime = slot.runtime.lock().take();
        runtime.is_some().then_some(Self { slot, runtime })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until it is given back")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.slot.runtime.lock() = self.runtime.take();
    }
}

/// Lets a runtime's clock catch up, and then pass a tick. The root of a process's step.
pub(crate) async fn pass(behind: Duration, tick: Duration) {
    catch_up(behind).await;
    tokio::time::sleep(tick).await;
}

/// Moves a runtime's clock at once, as time passes for somebody who does not run.
pub(crate) async fn catch_up(behind: Duration) {
    if !behind.is_zero() {
        tokio::time::advance(behind).await;
    }
}

/// Cuts a process off from its network and its disk.
pub(crate) type CutOff = Box<dyn Fn(Kill) + Send + Sync>;

/// A broker that runs, or has run. Clones are the same one.
#[derive(Clone)]
pub struct Process(Arc<Inner>);

struct Inner {
    slot: Arc<Slot>,
    trace: Trace,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    is_stopping: AtomicBool,
    cut_off: CutOff,
}

impl Process {
    pub(crate) fn new(slot: Arc<Slot>, trace: Trace, stop: oneshot::Sender<()>, cut_off: CutOff) -> Self {
        Self(Arc::new(Inner {
            slot,
            trace,
            stop: Mutex::new(Some(stop)),
            is_stopping: AtomicBool::new(false),
            cut_off,
        }))
    }

    fn note(&self, what: &str) {
        self.0.trace.note(format_args!("{} {what}", self.0.slot.who.name));
    }

    fn end_with(&self, kill: Kill, how: &str) {
        if !self.is_running() {
            return;
        }
        self.note(how);
        if self.0.slot.who.set_dead() {
            (self.0.cut_off)(kill);
        }
        self.0.slot.finish(End::Killed);
    }

    /// Ends it at once, as SIGKILL does. Its peers learn that their connections have ended; of what is not synced the first writes
    /// survive, as many as the system has written. Nothing happens if it has ended.
    pub fn kill(&self) {
        self.end_with(Kill::Process, "is killed");
    }

    /// Ends it at once, with its host. Its peers hear nothing of it until a process is started there again; what is not synced is
    /// lost, but for what the system may have written before. Nothing happens if it has ended.
    pub fn power_off(&self) {
        self.end_with(Kill::Power, "loses its power");
    }

    /// Stops it in order, and waits until it has ended.
    ///
    /// # Errors
    /// It ended with an error, in its own words; or it was killed.
    pub async fn stop(&self) -> Result<(), String> {
        if self.is_running() {
            self.note("is stopped");
        }
        self.0.is_stopping.store(true, Ordering::Relaxed);
        if let Some(stop) = self.0.stop.lock().take() {
            let _ = stop.send(());
        }
        self.0.slot.who.rouse();
        let mut ended = self.0.slot.end.subscribe();
        let ended = ended.wait_for(Option::is_some).await.map(|end| end.clone());
        match ended.ok().flatten() {
            Some(End::Done) => Ok(()),
            Some(End::Failed(why)) => Err(why),
            Some(End::Killed) | None => Err("it was killed".to_owned()),
        }
    }

    /// Lets it stand still, as SIGSTOP does, while time goes on.
    pub fn pause(&self) {
        self.note("stands still");
        self.0.slot.is_paused.store(true, Ordering::Relaxed);
    }

    /// Lets it go on. Its timers find that time has passed.
    pub fn resume(&self) {
        self.note("goes on");
        self.0.slot.is_paused.store(false, Ordering::Relaxed);
        self.0.slot.who.rouse();
    }

    /// Whether it has not ended, though it may stand still.
    pub fn is_running(&self) -> bool {
        self.0.slot.end().is_none()
    }

    /// Why it ended, if it did so by itself.
    pub fn end(&self) -> Option<String> {
        let was_asked = self.0.is_stopping.load(Ordering::Relaxed);
        match self.0.slot.end()? {
            End::Failed(why) => Some(why),
            End::Done if !was_asked => Some("it has ended without being asked to".to_owned()),
            End::Done | End::Killed => None,
        }
    }

    /// Kills it, unless nobody knows it any more.
    pub(crate) fn killer(&self) -> Arc<dyn Fn() + Send + Sync> {
        let process = Arc::downgrade(&self.0);
        Arc::new(move || {
            if let Some(process) = process.upgrade() {
                Self(process).kill();
            }
        })
    }

    /// It has ended by itself: what its tasks still hold is given back.
    pub(crate) fn exit(&self) {
        if self.0.slot.who.set_dead() {
            (self.0.cut_off)(Kill::Process);
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Process").field(&self.0.slot.who.name).finish()
    }
}
