//! Steps the runtimes of all processes in turn, on one thread, a tick of simulated time at a time.
//!
//! In each step a process does what it can do at that time, and then its clock moves by a tick. Whatever one sends to another is on its way
//! for longer than nothing, so what a process sees in a tick was sent in an earlier one, and their order within a tick decides nothing.
//!
//! ```text
//!  time   network            play (0)   broker-1   broker-2
//!  17 ms  what has arrived > runs     > runs     > runs      > ended ones are dropped
//!  18 ms  what has arrived > runs     > (idle)   > runs      > ...
//! ```

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, RngSeed, Runtime};

use crate::clock::Time;
use crate::current::{Who, note_poll};
use crate::network::Net;
use crate::process::{End, Process, Slot, catch_up, pass};

/// A step of simulated time. tokio's timers are no finer.
const TICK: Duration = Duration::from_millis(1);
/// How the play is called.
const PLAY: &str = "play";

/// See the module.
pub(crate) struct Driver {
    pub time: Arc<Time>,
    pub net: Arc<Net>,
    play: Arc<Slot>,
    /// Those that have not been dropped, in the order of their starts.
    processes: Mutex<Vec<(Arc<Slot>, Process)>>,
    last_id: AtomicU32,
}

fn runtime(seed: u64) -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
        .on_before_task_poll(|_| note_poll())
        .build()
        .expect("a runtime without sockets takes nothing from the system")
}

impl Driver {
    pub fn new(time: Arc<Time>, net: Arc<Net>, seed: u64) -> Self {
        let play = Slot::new(Who::new(0, PLAY), runtime(seed), time.now());
        Self {
            time,
            net,
            play: Arc::new(play),
            processes: Mutex::default(),
            last_id: AtomicU32::new(0),
        }
    }

    /// Who the play and its clients are.
    pub fn play(&self) -> &Arc<Who> {
        &self.play.who
    }

    /// A process that does nothing yet.
    pub fn process(&self, name: &str, seed: u64) -> Arc<Slot> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Slot::new(Who::new(id, name), runtime(seed), self.time.now()))
    }

    /// From now on it is stepped.
    pub fn begin(&self, slot: Arc<Slot>, process: Process) {
        self.processes.lock().push((slot, process));
    }

    /// Runs all processes until the play has ended, and gives what it returns. `Err` is what a simulation finds by itself.
    pub fn run<T>(&self, play: impl Future<Output = T>, play_max: Duration) -> Result<T, String> {
        let mut root = Root::new(&self.play.who);
        let mut play = pin!(play);
        loop {
            let now = self.time.now();
            self.net.deliver(now);
            if self.play.is_due(now) {
                let step = || self.play.step(now, TICK, |behind| root.step(play.as_mut(), behind));
                let stepped = catch_unwind(AssertUnwindSafe(step));
                if let Some(why) = self.play.who.take_panic() {
                    return Err(format!("the play panicked: {why}"));
                }
                match stepped {
                    Ok(Some(Some(played))) => return Ok(played),
                    Ok(_) => {}
                    Err(_) => return Err("the play panicked".to_owned()),
                }
            }
            self.step_processes(now)?;
            self.time.set(now + TICK);
            if now > play_max {
                return Err(format!("the play has not ended after {play_max:?} of its time"));
            }
        }
    }

    fn step_processes(&self, now: Duration) -> Result<(), String> {
        let mut has_ended = false;
        // Nobody is added meanwhile: only the play boots brokers.
        for at in 0.. {
            let Some((slot, process)) = self.processes.lock().get(at).cloned() else {
                break;
            };
            if slot.is_due(now) {
                slot.step(now, TICK, |behind| pass(behind, TICK));
            }
            if let Some(why) = slot.who.take_panic().filter(|_| !slot.who.is_dead()) {
                let why = format!("panicked: {why}");
                slot.finish(End::Failed(why.clone()));
                return Err(format!("{} {why}", slot.who.name));
            }
            if slot.end().is_some() {
                has_ended = true;
                // First its connections end, one after the other: in which order its tasks are dropped depends on their numbers, which
                // are the program's.
                process.exit();
                slot.drop_runtime();
            }
        }
        if has_ended {
            self.processes.lock().retain(|(slot, _)| slot.end().is_none());
        }
        Ok(())
    }

    /// Drops all that is left, after `last`, which is dropped where the play ran.
    pub fn end(&self, last: impl FnOnce()) {
        let running = std::mem::take(&mut *self.processes.lock());
        let dropped = catch_unwind(AssertUnwindSafe(|| self.play.enter(last)));
        drop(dropped);
        for (slot, _) in running {
            slot.who.set_dead();
            slot.drop_runtime();
        }
        self.play.drop_runtime();
    }
}

/// Wakes the play: whatever else its runtime does, the play is polled only when it is woken.
struct Alarm {
    who: Arc<Who>,
    is_set: AtomicBool,
    runtime: Mutex<Option<Waker>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.store(true, Ordering::Relaxed);
        self.who.rouse();
        let runtime = self.runtime.lock().clone();
        runtime.into_iter().for_each(Waker::wake);
    }
}

/// Polls the play from step to step.
struct Root {
    alarm: Arc<Alarm>,
    waker: Waker,
}

impl Root {
    fn new(who: &Arc<Who>) -> Self {
        let alarm = Arc::new(Alarm {
            who: who.clone(),
            is_set: AtomicBool::new(true),
            runtime: Mutex::default(),
        });
        let waker = Waker::from(alarm.clone());
        Self { alarm, waker }
    }

    /// One step. Gives what the play returns, if it ends.
    async fn step<T>(&mut self, mut play: Pin<&mut impl Future<Output = T>>, behind: Duration) -> Option<T> {
        catch_up(behind).await;
        let mut ends = pin!(tokio::time::sleep(TICK));
        poll_fn(|cx| {
            *self.alarm.runtime.lock() = Some(cx.waker().clone());
            if self.alarm.is_set.swap(false, Ordering::Relaxed) {
                note_poll();
                if let Poll::Ready(played) = play.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                    return Poll::Ready(Some(played));
                }
            }
            ends.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}
