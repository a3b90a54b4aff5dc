//! Decides whether this broker's wall clock may be trusted to delete records or forget state by age.
//!
//! A wrong clock must not delete data: a clock that is days ahead for a moment makes everything look old. So every irreversible
//! decision by the wall clock goes through [`ClockGuard`]:
//!
//! | what expires | which code asks |
//! |---|---|
//! | records, `retention.ms` | `partition::retention` |
//! | silent idempotent producers, `produce.producer_expiration_ms` | `partition::append`, whose command carries the time |
//! | offsets of empty groups, `groups.offsets_retention_ms` | the coordinator's leader, through [`ClockGuard::steady_since_ms`] |
//!
//! The clock is trusted while it is *steady*: this process has observed it for `retention.steady_clock_ms` (1 h by default) without
//! a step of more than a minute against the monotonic clock, and a majority of the live brokers shows the same time. Several small
//! steps add up. After a step, and after the start, that hour begins again, so operators have an hour to notice a wrong clock.
//! Data that is kept for less than an hour waits only for as long as it is kept.
//!
//! When a majority of brokers agrees on another time than this one's, [`ClockGuard::now_ms`] returns theirs. It is used wherever
//! this broker replicates a time.
//!
//! Sessions of group members, leases and timeouts go by the monotonic clock and need no guard.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use jangada_env::WallClock;

/// A larger difference than this counts as a step, or as a disagreement of two clocks, milliseconds. Clocks that are not
/// synchronized drift apart by about a second a day.
const STEP_MS: u64 = 60_000;
/// How often the clocks are checked when no caller asks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two log lines while the clock differs from the others, milliseconds.
const LOG_INTERVAL_MS: u64 = 10 * 60_000;

/// Given this broker's time, returns how many milliseconds the clock of each other live broker is ahead of it.
type Others = Box<dyn Fn(i64) -> Vec<i64> + Send + Sync>;

/// Watches this broker's wall clock, compared with the monotonic clock and with the other brokers' clocks.
pub(crate) struct ClockGuard {
    wall: Arc<dyn WallClock>,
    monotonic: Box<dyn Fn() -> u64 + Send + Sync>,
    others: Others,
    /// For how long the clock must be steady before it is trusted, whatever the age in question.
    steady_ms: u64,
    observed: Mutex<Observed>,
}

struct Observed {
    /// The difference of wall and monotonic clock after the last step, or at the start.
    anchor_ms: i64,
    /// The monotonic time of the last step, or of the last return to agreement.
    steady_since_ms: u64,
    verdict: Verdict,
    /// The monotonic time at which a disagreement was last logged.
    logged_at_ms: Option<u64>,
}

/// How this broker's clock compares with those of the other live brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A majority, this broker included, shows this broker's time.
    Agrees,
    /// A majority shows one time, which is this far ahead of this broker's (negative: behind).
    Off { by_ms: i64 },
    /// No majority shows the same time.
    Unsure,
}

impl ClockGuard {
    pub fn new(wall: Arc<dyn WallClock>, steady: Duration, others: Others) -> Self {
        let origin = Instant::now();
        let monotonic = move || u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self::with_monotonic(wall, Box::new(monotonic), steady, others)
    }

    /// Like [`ClockGuard::new`], with a given monotonic clock that starts at 0, milliseconds.
    fn with_monotonic(
        wall: Arc<dyn WallClock>,
        monotonic: Box<dyn Fn() -> u64 + Send + Sync>,
        steady: Duration,
        others: Others,
    ) -> Self {
        let anchor_ms = wall.now_ms();
        Self {
            wall,
            monotonic,
            others,
            steady_ms: u64::try_from(steady.as_millis()).unwrap_or(u64::MAX),
            observed: Mutex::new(Observed {
                anchor_ms,
                steady_since_ms: 0,
                verdict: Verdict::Agrees,
                logged_at_ms: None,
            }),
        }
    }

    /// Milliseconds since this guard was made, on the monotonic clock.
    pub fn monotonic_ms(&self) -> u64 {
        (self.monotonic)()
    }

    /// The time, milliseconds since the Unix epoch: this broker's, or the majority's if that is another one.
    pub fn now_ms(&self) -> i64 {
        self.read().0
    }

    /// The monotonic time since which the wall clock has been steady; later than the present if it is not.
    pub fn steady_since_ms(&self) -> u64 {
        self.read().1.unwrap_or_else(|| self.monotonic_ms() + 1)
    }

    /// The time before which data that is kept for `kept_ms` has expired, milliseconds since the Unix epoch. `None` while the clock
    /// has not been steady for long enough.
    pub fn old_before_ms(&self, kept_ms: u64) -> Option<i64> {
        let (now_ms, steady_since_ms) = self.read();
        let steady_ms = self.monotonic_ms().saturating_sub(steady_since_ms?);
        let kept = i64::try_from(kept_ms).unwrap_or(i64::MAX);
        (steady_ms >= kept_ms.min(self.steady_ms)).then(|| now_ms.saturating_sub(kept))
    }

    /// The time, and the monotonic time since which the clock has been steady, or `None` if it disagrees with the others.
    fn read(&self) -> (i64, Option<u64>) {
        let (wall_ms, monotonic_ms) = (self.wall.now_ms(), self.monotonic_ms());
        let mut observed = self.observed.lock();
        self.notice_step(&mut observed, wall_ms, monotonic_ms);
        match observed.verdict {
            Verdict::Agrees => (wall_ms, Some(observed.steady_since_ms)),
            Verdict::Off { by_ms } => (wall_ms.saturating_add(by_ms), None),
            Verdict::Unsure => (wall_ms, None),
        }
    }

    fn notice_step(&self, observed: &mut Observed, wall_ms: i64, monotonic_ms: u64) {
        let anchor_ms = wall_ms.saturating_sub_unsigned(monotonic_ms);
        let step_ms = anchor_ms.saturating_sub(observed.anchor_ms);
        if step_ms.unsigned_abs() <= STEP_MS {
            return;
        }
        (observed.anchor_ms, observed.steady_since_ms) = (anchor_ms, monotonic_ms);
        tracing::warn!(
            step_ms,
            "the wall clock stepped; nothing is deleted or forgotten by its time before it has been steady for {} s",
            self.steady_ms / 1_000
        );
        self.compare(observed, wall_ms, monotonic_ms);
    }

    /// Compares the clock with the others', and logs a disagreement.
    fn compare(&self, observed: &mut Observed, wall_ms: i64, monotonic_ms: u64) {
        let before = std::mem::replace(&mut observed.verdict, verdict((self.others)(wall_ms)));
        if observed.verdict == Verdict::Agrees {
            if before != Verdict::Agrees {
                tracing::info!("the wall clock agrees with those of the other brokers again");
                (observed.steady_since_ms, observed.logged_at_ms) = (monotonic_ms, None);
            }
            return;
        }
        if observed
            .logged_at_ms
            .is_some_and(|logged| monotonic_ms < logged + LOG_INTERVAL_MS)
        {
            return;
        }
        observed.logged_at_ms = Some(monotonic_ms);
        match observed.verdict {
            Verdict::Off { by_ms } => tracing::warn!(
                ahead_ms = by_ms.saturating_neg(),
                "this broker's wall clock differs from those of most others, whose time is used; nothing is deleted or forgotten by time \
                 here until they agree: run NTP"
            ),
            _ => tracing::warn!(
                "the brokers' wall clocks differ, and no majority agrees; nothing is deleted or forgotten by time here until it does: \
                 run NTP"
            ),
        }
    }

    /// Checks the clock for a step, and compares it with the others'.
    fn check(&self) {
        let (wall_ms, monotonic_ms) = (self.wall.now_ms(), self.monotonic_ms());
        let mut observed = self.observed.lock();
        self.notice_step(&mut observed, wall_ms, monotonic_ms);
        self.compare(&mut observed, wall_ms, monotonic_ms);
    }

    /// Checks the clocks at intervals, so that a step is noticed also while no caller asks for the time.
    pub async fn watch(self: Arc<Self>) {
        tracing::info!(
            "nothing is deleted or forgotten by time before this broker has observed its wall clock steady for {} s, or for as long as it \
             is kept if that is less",
            self.steady_ms / 1_000
        );
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.check();
        }
    }
}

/// Compares this broker's clock with the others, given by how far each is ahead of it.
fn verdict(mut ahead_ms: Vec<i64>) -> Verdict {
    let brokers = ahead_ms.len() + 1;
    let agree_with = |at: i64, clocks: &[i64]| clocks.iter().filter(|ms| ms.abs_diff(at) <= STEP_MS).count();
    if (agree_with(0, &ahead_ms) + 1) * 2 > brokers {
        return Verdict::Agrees;
    }
    ahead_ms.sort_unstable();
    let by_ms = ahead_ms[ahead_ms.len() / 2];
    match agree_with(by_ms, &ahead_ms) * 2 > brokers {
        true => Verdict::Off { by_ms },
        false => Verdict::Unsure,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    const WEEK_MS: u64 = 7 * DAY_MS as u64;
    const HOUR: Duration = Duration::from_secs(3_600);
    const START_MS: i64 = 1_800_000_000_000;

    /// A wall clock that is set by the test: the true time plus an error.
    #[derive(Default)]
    struct Clock {
        passed_ms: AtomicU64,
        off_ms: AtomicI64,
    }

    impl Clock {
        fn true_ms(&self) -> i64 {
            START_MS.saturating_add_unsigned(self.passed_ms.load(Ordering::SeqCst))
        }
    }

    impl WallClock for Clock {
        fn now_ms(&self) -> i64 {
            self.true_ms() + self.off_ms.load(Ordering::SeqCst)
        }
    }

    struct Fixture {
        clock: Arc<Clock>,
        others: Arc<Mutex<Vec<i64>>>,
        guard: ClockGuard,
    }

    impl Fixture {
        /// With other brokers whose clocks are ahead of the true time by these milliseconds.
        fn new(others: &[i64]) -> Self {
            let clock = Arc::new(Clock::default());
            let others = Arc::new(Mutex::new(others.to_vec()));
            let (right, ahead) = (clock.clone(), others.clone());
            let ahead = Box::new(move |now_ms: i64| {
                let truth = right.true_ms();
                ahead.lock().iter().map(|ahead| truth + ahead - now_ms).collect()
            });
            let passed = clock.clone();
            let monotonic = Box::new(move || passed.passed_ms.load(Ordering::SeqCst));
            let guard = ClockGuard::with_monotonic(clock.clone(), monotonic, HOUR, ahead);
            Self { clock, others, guard }
        }

        fn set_off(&self, off_ms: i64) {
            self.clock.off_ms.store(off_ms, Ordering::SeqCst);
        }

        fn pass(&self, time: Duration) {
            let ms = u64::try_from(time.as_millis()).expect("short");
            self.clock.passed_ms.fetch_add(ms, Ordering::SeqCst);
            self.guard.check();
        }

        fn true_ms(&self) -> i64 {
            self.clock.true_ms()
        }
    }

    #[test]
    fn a_clock_counts_after_it_was_steady_for_an_hour() {
        let fixture = Fixture::new(&[]);
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None);
        assert_eq!(
            fixture.guard.old_before_ms(0),
            Some(START_MS),
            "what is not kept at all may go"
        );
        fixture.pass(HOUR - Duration::from_millis(1));
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None);
        fixture.pass(Duration::from_millis(1));
        let old = fixture.guard.old_before_ms(WEEK_MS);
        assert_eq!(old, Some(fixture.true_ms() - 7 * DAY_MS));
    }

    #[test]
    fn what_is_kept_for_less_than_an_hour_waits_for_no_more_than_that() {
        let fixture = Fixture::new(&[]);
        fixture.pass(Duration::from_secs(60));
        assert!(fixture.guard.old_before_ms(60_000).is_some());
        fixture.set_off(8 * DAY_MS);
        assert_eq!(fixture.guard.old_before_ms(60_000), None);
        fixture.pass(Duration::from_secs(60));
        assert!(fixture.guard.old_before_ms(60_000).is_some());
    }

    #[test]
    fn a_clock_that_is_days_ahead_for_seconds_makes_nothing_old_for_an_hour() {
        let fixture = Fixture::new(&[]);
        fixture.pass(2 * HOUR);
        fixture.set_off(8 * DAY_MS);
        for _ in 0..12 {
            assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None, "noticed by who asks");
            fixture.pass(Duration::from_secs(1));
        }
        fixture.set_off(0);
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None);
        fixture.pass(HOUR - Duration::from_secs(1));
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None);
        fixture.pass(Duration::from_secs(1));
        assert!(fixture.guard.old_before_ms(WEEK_MS).is_some());
    }

    #[test]
    fn many_small_steps_are_one() {
        let fixture = Fixture::new(&[]);
        fixture.pass(2 * HOUR);
        for step in 1..=6 {
            fixture.set_off(step * 10_000);
            fixture.pass(Duration::from_secs(1));
            assert!(fixture.guard.old_before_ms(WEEK_MS).is_some(), "{step}");
        }
        fixture.set_off(60_001);
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None);
    }

    #[test]
    fn a_clock_that_differs_from_most_others_never_counts_and_theirs_is_used() {
        let fixture = Fixture::new(&[0, 200]);
        fixture.set_off(8 * DAY_MS);
        fixture.pass(3 * HOUR);
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None);
        let off = fixture.guard.now_ms() - fixture.true_ms();
        assert!((0..=200).contains(&off), "{off}");
        assert!(fixture.guard.steady_since_ms() > fixture.guard.monotonic_ms());
        fixture.set_off(0);
        fixture.pass(HOUR - Duration::from_secs(1));
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None, "agrees only since then");
        fixture.pass(HOUR);
        assert!(fixture.guard.old_before_ms(WEEK_MS).is_some());
    }

    #[test]
    fn one_other_clock_that_is_wrong_does_no_harm_among_three() {
        let fixture = Fixture::new(&[0, -9 * DAY_MS]);
        fixture.pass(HOUR);
        assert!(fixture.guard.old_before_ms(WEEK_MS).is_some());
        // The correct one is gone, and of two clocks that differ neither has a majority.
        fixture.others.lock().remove(0);
        fixture.pass(Duration::from_secs(1));
        assert_eq!(fixture.guard.old_before_ms(WEEK_MS), None);
        assert_eq!(fixture.guard.now_ms(), fixture.true_ms(), "its own, then");
    }

    #[test]
    fn the_majority_of_all_decides() {
        const OFF: i64 = 8 * DAY_MS;
        for (others, expected) in [
            (&[][..], Verdict::Agrees),
            (&[50_000], Verdict::Agrees),
            (&[OFF], Verdict::Unsure),
            (&[0, OFF], Verdict::Agrees),
            (&[OFF, OFF + 1], Verdict::Off { by_ms: OFF + 1 }),
            (&[OFF, -OFF], Verdict::Unsure),
            (&[0, OFF, OFF], Verdict::Unsure),
            (&[0, 0, OFF, OFF], Verdict::Agrees),
            (&[0, OFF, OFF, OFF], Verdict::Off { by_ms: OFF }),
            (&[i64::MAX, i64::MIN], Verdict::Unsure),
        ] {
            assert_eq!(verdict(others.to_vec()), expected, "{others:?}");
        }
    }
}
