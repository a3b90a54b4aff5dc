//! Whether this broker's wall clock may decide that something is old enough to be deleted or forgotten.
//!
//! One wrong clock must not delete what others still need: a clock that is days ahead for a moment makes everything look old. So
//! whatever goes by the wall clock and cannot be undone asks here:
//!
//! | what | who asks |
//! |---|---|
//! | records, `retention.ms` | `partition::retention` |
//! | silent idempotent producers, `produce.producer_expiration_ms` | `partition::append`, whose command carries the time |
//! | offsets of empty groups, `groups.offsets_retention_ms` | the coordinator's leader, through [`ClockGuard::steady_since_ms`] |
//!
//! The clock counts while it is *steady*: this process has seen it for a time, without a step against the monotonic clock, and
//! without the majority of the live brokers showing another time. Sums of small steps count as one. After a step, and after a
//! start, that time begins anew, so a wrong clock leaves an hour in which somebody can notice; what is kept for less than that
//! waits only for as long as it is kept.
//!
//! When most brokers agree on another time than this one's, theirs is used wherever this broker writes a time for all
//! ([`ClockGuard::now_ms`]).
//!
//! Sessions of group members, leases and time-outs go by the monotonic clock and need no guard.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::seams::WallClock;

/// The clock stepped, or differs from another one, if it is further off than this, milliseconds. Clocks of one cluster that are not
/// looked after drift apart by a second a day.
const STEP_MS: u64 = 60_000;
/// How often it is looked at when nobody asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is said that the clock differs from the others'.
const TELL_EVERY_MS: u64 = 10 * 60_000;

/// How many milliseconds the clock of each other live broker is ahead of this time.
type Others = Box<dyn Fn(i64) -> Vec<i64> + Send + Sync>;

/// See the module text.
pub(crate) struct ClockGuard {
    wall: Arc<dyn WallClock>,
    monotonic: Box<dyn Fn() -> u64 + Send + Sync>,
    others: Others,
    /// For how long a clock must be steady at most.
    steady_ms: u64,
    seen: Mutex<Seen>,
}

struct Seen {
    /// The wall clock less the monotonic one, when the clock was last new.
    anchor_ms: i64,
    /// Since when there was no step, on the monotonic clock.
    steady_since_ms: u64,
    verdict: Verdict,
    /// When a difference was told last, on the monotonic clock.
    told_ms: Option<u64>,
}

/// What the other brokers' clocks say of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Most agree with it, or there are none.
    Agrees,
    /// Most agree with one another, and are so far ahead of it.
    Off { by_ms: i64 },
    /// No majority agrees on any time.
    Unsure,
}

impl ClockGuard {
    pub fn new(wall: Arc<dyn WallClock>, steady: Duration, others: Others) -> Self {
        let origin = Instant::now();
        let monotonic = move || u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self::with_monotonic(wall, Box::new(monotonic), steady, others)
    }

    /// With a monotonic clock that begins at 0, milliseconds.
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
            seen: Mutex::new(Seen {
                anchor_ms,
                steady_since_ms: 0,
                verdict: Verdict::Agrees,
                told_ms: None,
            }),
        }
    }

    /// Milliseconds since this process began to look.
    pub fn monotonic_ms(&self) -> u64 {
        (self.monotonic)()
    }

    /// The time, milliseconds since the Unix epoch: this broker's, or that of most brokers if they agree on another one.
    pub fn now_ms(&self) -> i64 {
        self.read().0
    }

    /// Since when the clock has been steady, on the monotonic clock; now, if it is not.
    pub fn steady_since_ms(&self) -> u64 {
        self.read().1.unwrap_or_else(|| self.monotonic_ms())
    }

    /// The time before which what is kept for so long is old. `None`: the clock has not been steady for long enough to say.
    pub fn old_before_ms(&self, kept_ms: u64) -> Option<i64> {
        let (now_ms, steady_since_ms) = self.read();
        let steady_ms = self.monotonic_ms().saturating_sub(steady_since_ms?);
        let kept = i64::try_from(kept_ms).unwrap_or(i64::MAX);
        (steady_ms >= kept_ms.min(self.steady_ms)).then(|| now_ms.saturating_sub(kept))
    }

    /// The time, and since when the clock has been steady; `None`: it differs from the others.
    fn read(&self) -> (i64, Option<u64>) {
        let (wall_ms, monotonic_ms) = (self.wall.now_ms(), self.monotonic_ms());
        let mut seen = self.seen.lock();
        self.notice_step(&mut seen, wall_ms, monotonic_ms);
        match seen.verdict {
            Verdict::Agrees => (wall_ms, Some(seen.steady_since_ms)),
            Verdict::Off { by_ms } => (wall_ms.saturating_add(by_ms), None),
            Verdict::Unsure => (wall_ms, None),
        }
    }

    fn notice_step(&self, seen: &mut Seen, wall_ms: i64, monotonic_ms: u64) {
        let anchor_ms = wall_ms.saturating_sub_unsigned(monotonic_ms);
        let step_ms = anchor_ms.saturating_sub(seen.anchor_ms);
        if step_ms.unsigned_abs() <= STEP_MS {
            return;
        }
        (seen.anchor_ms, seen.steady_since_ms) = (anchor_ms, monotonic_ms);
        tracing::warn!(
            step_ms,
            "the wall clock stepped; nothing is deleted or forgotten by its time before it has been steady for {} s",
            self.steady_ms / 1_000
        );
        self.compare(seen, wall_ms, monotonic_ms);
    }

    /// Holds the clock against the others', and tells of a difference.
    fn compare(&self, seen: &mut Seen, wall_ms: i64, monotonic_ms: u64) {
        let before = std::mem::replace(&mut seen.verdict, verdict((self.others)(wall_ms)));
        if seen.verdict == Verdict::Agrees {
            if before != Verdict::Agrees {
                tracing::info!("the wall clock agrees with those of the other brokers again");
                (seen.steady_since_ms, seen.told_ms) = (monotonic_ms, None);
            }
            return;
        }
        if seen.told_ms.is_some_and(|told| monotonic_ms < told + TELL_EVERY_MS) {
            return;
        }
        seen.told_ms = Some(monotonic_ms);
        match seen.verdict {
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

    /// Looks at the clock, as a caller that asks does, and at the others'.
    fn look(&self) {
        let (wall_ms, monotonic_ms) = (self.wall.now_ms(), self.monotonic_ms());
        let mut seen = self.seen.lock();
        self.notice_step(&mut seen, wall_ms, monotonic_ms);
        self.compare(&mut seen, wall_ms, monotonic_ms);
    }

    /// Looks at the clocks now and then, so that no step goes unnoticed while nobody asks.
    pub async fn watch(self: Arc<Self>) {
        tracing::info!(
            "nothing is deleted or forgotten by time before this broker has seen its wall clock steady for {} s, or for as long as it \
             is kept if that is less",
            self.steady_ms / 1_000
        );
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look();
        }
    }
}

/// What these clocks, each so far ahead of this one, say of it.
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

    /// Runs with the time that passed, off by what is set.
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
        /// With the clocks of other brokers, each so far ahead of the true time.
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
            self.guard.look();
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
        assert_eq!(fixture.guard.steady_since_ms(), fixture.guard.monotonic_ms());
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
        // The sound one is gone: of two that differ nobody knows which is right.
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
