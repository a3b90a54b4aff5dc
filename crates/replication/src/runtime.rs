//! openraft's runtime: tokio, with the timers of all groups on common lines.
//!
//! Each group ticks every fifth of a heartbeat interval, at a phase of its own. A broker with a thousand replicas that
//! sleeps would wake 25,000 times a second, for one group each time, and send each heartbeat by itself. On common
//! lines it wakes once per [`LINE`] for all of them, and the heartbeats of one line share frames
//! (`transport::link::send_frames`).
//!
//! With very many replicas even that is too much, so their ticks become rarer, see [`pace`](crate::pace). The metadata
//! group keeps its own ([`steady`]).

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft::{OptionalSend, TokioRuntime};

use crate::pace;

/// Between two moments at which timers fire. It makes a tick, so an election or a heartbeat, late by as much at most.
pub(crate) const LINE: Duration = Duration::from_millis(50);

/// Below this, a wait is over at once. tokio's timers have a resolution of a millisecond, and openraft's wait for more
/// completed writes, of one microsecond, would delay each acknowledgement by one.
const SHORTEST: Duration = Duration::from_millis(1);

/// Where this process's lines begin.
static ORIGIN: LazyLock<tokio::time::Instant> = LazyLock::new(tokio::time::Instant::now);

tokio::task_local! {
    /// Set in the tasks of a group whose ticks never become rarer.
    static STEADY: ();
}

/// Runs what starts a group whose ticks never become rarer.
pub(crate) async fn steady<T>(start: impl Future<Output = T>) -> T {
    STEADY.scope((), start).await
}

fn is_steady() -> bool {
    STEADY.try_with(|()| ()).is_ok()
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
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        // A task of a steady group's task is steady, too.
        match is_steady() {
            true => TokioRuntime::spawn(STEADY.scope((), future)),
            false => TokioRuntime::spawn(future),
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
        let more = match is_steady() {
            true => Duration::ZERO,
            false => pace::rest_of_tick(),
        };
        tokio::time::sleep_until(fires_at(*ORIGIN, now, wait, more))
    }

    /// Answers may be as late as ticks are.
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(pace::patience(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
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
    let lines = after_origin.as_nanos().div_ceil(LINE.as_nanos());
    let lines = u32::try_from(lines).unwrap_or(u32::MAX);
    origin + LINE * lines
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
        assert_eq!(at(0, 40_000), LINE);
        assert_eq!(at(50, 40_000), 2 * LINE);
        assert_eq!(at(50, 50_000), 2 * LINE, "a deadline on a line is not late");
        assert_eq!(at(61, 40_000), 3 * LINE);
        assert_eq!(at(1_000_000, 1), Duration::ZERO);
        assert_eq!(at(1_000_000, 999), Duration::ZERO);
        assert_eq!(at(1_000_000, 1_000), Duration::from_millis(1_000_050));
    }

    #[test]
    fn groups_of_any_phase_wake_together() {
        let origin = tokio::time::Instant::now();
        let fire = |deadline_ms| fires_at(origin, origin, Duration::from_millis(deadline_ms), Duration::ZERO);
        assert!((951..=1_000).all(|deadline| fire(deadline) == origin + Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn it_is_a_runtime_for_openraft() {
        let started = tokio::time::Instant::now();
        let soon = <Runtime as AsyncRuntime>::Instant::now() + Duration::from_micros(1);
        Runtime::sleep_until(soon).await;
        let tick = <Runtime as AsyncRuntime>::Instant::now() + Duration::from_millis(40);
        Runtime::sleep_until(tick).await;
        assert!(started.elapsed() >= Duration::from_millis(40));
    }
}
