//! openraft's runtime: tokio, with the timers of all groups on common lines.
//!
//! Each group ticks every fifth of a heartbeat interval, at a phase of its own. A broker with a thousand replicas that
//! sleeps would wake 25,000 times a second, for one group each time, and send each heartbeat by itself. On common
//! lines it wakes once per [`TICK_SLOT`] for all of them, and the heartbeats of one line share frames
//! (`transport::link::send_frames`).
//!
//! With very many replicas even that is too much, so their ticks become rarer, see [`pace`](crate::pace). The metadata
//! group keeps its own.
//!
//! openraft asks a type, not a value, for its runtime. So what is one broker's, and not the process's, goes with the tasks: a
//! [`Beat`], which a group is started under ([`under`]), and which each task hands on to those that it spawns.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jangada_env::{Env, Random};
use openraft::async_runtime::AsyncRuntime;
use openraft::{OptionalSend, TokioRuntime};

use crate::pace::Pace;

/// Between two moments at which timers fire. It makes a tick, so an election or a heartbeat, late by as much at most.
pub(crate) const TICK_SLOT: Duration = Duration::from_millis(50);

/// Below this, a wait is over at once. tokio's timers have a resolution of a millisecond, and openraft's wait for more
/// completed writes, of one microsecond, would delay each acknowledgement by one. No more than that wait: a tick that is due a
/// little later than the line on which its group woke would come at once, and again and again until it is due.
const SHORTEST: Duration = Duration::from_micros(2);

/// What the groups of one broker have in common.
pub(crate) struct Beat {
    /// Where the lines begin.
    origin: tokio::time::Instant,
    pub pace: Arc<Pace>,
    /// The random part of election timeouts.
    random: Random,
    /// Time passes only while everybody waits, so that nobody may wait for it without sleeping.
    is_simulated: bool,
}

impl Beat {
    pub fn new(pace: Pace, env: &Env) -> Self {
        Self {
            origin: tokio::time::Instant::now(),
            pace: Arc::new(pace),
            random: env.random.fork(),
            is_simulated: env.is_simulated(),
        }
    }
}

#[derive(Clone)]
struct Of {
    beat: Arc<Beat>,
    /// Its ticks never become rarer.
    is_steady: bool,
}

tokio::task_local! {
    /// Set in the tasks of groups, but not in those of who calls them.
    static OF: Of;
}

/// Runs what starts a group. The ticks of a steady one never become rarer.
pub(crate) async fn under<T>(beat: Arc<Beat>, is_steady: bool, start: impl Future<Output = T>) -> T {
    OF.scope(Of { beat, is_steady }, start).await
}

/// How long an answer is waited for that would have `timeout`: it may be as late as ticks are.
pub(crate) fn patience(timeout: Duration) -> Duration {
    OF.try_with(|of| of.beat.pace.patience(timeout)).unwrap_or(timeout)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Random;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match OF.try_with(Clone::clone) {
            Ok(of) => TokioRuntime::spawn(OF.scope(of, future)),
            Err(_) => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    /// In openraft 0.10.0-alpha.37 only ticks (`core::tick`) and the wait for more completed writes
    /// (`io_completion_forwarder`) come here; time-outs and pauses are exact. A new version may have other callers, which
    /// would be rounded too: look for them before the version is raised.
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let now = tokio::time::Instant::now();
        let wait = deadline - <Self::Instant as openraft::Instant>::now();
        let fires = OF.try_with(|of| {
            let more = match of.is_steady {
                true => Duration::ZERO,
                false => of.beat.pace.rest_of_tick(),
            };
            match wait < SHORTEST && of.beat.is_simulated {
                true => now + wait,
                false => fires_at(of.beat.origin, now, wait, more),
            }
        });
        tokio::time::sleep_until(fires.unwrap_or_else(|_| now + wait))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(patience(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        // Only starting groups and their ticks ask.
        OF.try_with(|of| of.beat.random.clone())
            .unwrap_or_else(|_| Random::system())
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

/// When a timer that was set at `now` for `wait` and `more` fires: on the next line at or after its deadline. `origin`,
/// which is long over, if the wait is too short to sleep.
fn fires_at(
    origin: tokio::time::Instant,
    now: tokio::time::Instant,
    wait: Duration,
    more: Duration,
) -> tokio::time::Instant {
    if wait < SHORTEST {
        return origin;
    }
    let after_origin = (now + wait + more).saturating_duration_since(origin);
    let lines = after_origin.as_nanos().div_ceil(TICK_SLOT.as_nanos());
    let lines = u32::try_from(lines).unwrap_or(u32::MAX);
    origin + TICK_SLOT * lines
}

#[cfg(test)]
mod tests {
    use openraft::Instant as _;

    use super::*;

    #[test]
    fn timers_fire_on_the_next_line_and_the_shortest_waits_at_once() {
        let origin = tokio::time::Instant::now();
        let at = |now_ms: u64, wait_us: u64| {
            let now = origin + Duration::from_millis(now_ms);
            fires_at(origin, now, Duration::from_micros(wait_us), Duration::ZERO) - origin
        };
        assert_eq!(at(0, 40_000), TICK_SLOT);
        assert_eq!(at(50, 40_000), 2 * TICK_SLOT);
        assert_eq!(at(50, 50_000), 2 * TICK_SLOT, "a deadline on a line is not late");
        assert_eq!(at(61, 40_000), 3 * TICK_SLOT);
        assert_eq!(at(1_000_000, 1), Duration::ZERO);
        assert_eq!(at(1_000_000, 2), Duration::from_millis(1_000_050));
    }

    #[test]
    fn groups_of_any_phase_wake_together() {
        let origin = tokio::time::Instant::now();
        let fire = |deadline_ms| fires_at(origin, origin, Duration::from_millis(deadline_ms), Duration::ZERO);
        assert!((951..=1_000).all(|deadline| fire(deadline) == origin + Duration::from_secs(1)));
    }

    fn beat(seed: u64) -> Arc<Beat> {
        let pace = Pace::new(Duration::from_millis(200), Duration::from_millis(900));
        let env = Env {
            random: Random::seeded(seed),
            ..Env::system()
        };
        Arc::new(Beat::new(pace, &env))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_a_runtime_for_openraft() {
        let started = tokio::time::Instant::now();
        let waits = async {
            let soon = <Runtime as AsyncRuntime>::Instant::now() + Duration::from_micros(1);
            Runtime::sleep_until(soon).await;
            assert_eq!(started.elapsed(), Duration::ZERO);
            let tick = <Runtime as AsyncRuntime>::Instant::now() + Duration::from_millis(40);
            Runtime::sleep_until(tick).await;
            assert_eq!(started.elapsed(), TICK_SLOT);
        };
        under(beat(7), false, waits).await;
    }

    /// The ticks of a group, by openraft's reckoning: each is due a whole number of periods after the first.
    #[tokio::test(start_paused = true)]
    async fn a_tick_that_is_due_just_after_a_line_comes_once() {
        const PERIOD: Duration = Duration::from_millis(50);
        let ticks = async {
            let first = <Runtime as AsyncRuntime>::Instant::now() + PERIOD + Duration::from_micros(300);
            let mut due = first;
            for tick in 1..=20 {
                Runtime::sleep_until(due).await;
                let now = <Runtime as AsyncRuntime>::Instant::now();
                assert!(now >= due, "tick {tick} came {:?} too early", due - now);
                let periods = (now - first).as_micros() / PERIOD.as_micros() + 1;
                due = first + PERIOD * periods as u32;
            }
        };
        under(beat(7), false, ticks).await;
    }

    /// What the task of a group, and a task of that, draw by chance.
    async fn drawn() -> [u64; 2] {
        let drawing = Runtime::spawn(async {
            let first = Runtime::thread_rng().number();
            let second = Runtime::spawn(async { Runtime::thread_rng().number() }).await;
            [first, second.expect("it does not panic")]
        });
        drawing.await.expect("it does not panic")
    }

    #[tokio::test]
    async fn chance_goes_with_the_tasks_of_a_group() {
        let of = |seed| under(beat(seed), false, drawn());
        let [one, again, other] = [of(7).await, of(7).await, of(8).await];
        assert_eq!(one, again);
        assert_ne!(one, other);
        assert_ne!(one[0], one[1], "they draw from one source");
    }
}
