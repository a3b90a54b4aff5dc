//! How many records may be under way: more while answers come in time, half as many when they do not.

use std::time::Duration;

use tokio::time::Instant;

/// A window by delay: additive increase, multiplicative decrease (Chiu and Jain 1989). Pure: it is told the time.
///
/// It has no rate of its own: who waits until there is room in the window sends as fast as answers come, whatever holds them up, a slow
/// disk, a full queue, a group that lags.
#[derive(Clone, Debug)]
pub struct Window {
    least: f64,
    most: f64,
    aim: Duration,
    size: f64,
    in_flight: usize,
    /// The smoothed delay, a weight of an eighth for each answer, as TCP's (RFC 6298).
    delay: Option<Duration>,
    /// When it was made smaller last: once for each delay is enough. None: it still looks for its size.
    smaller_at: Option<Instant>,
}

impl Window {
    /// A window between two sizes, which begins with the least, and aims at answers within `aim`.
    pub fn new((least, most): (usize, usize), aim: Duration) -> Self {
        let least = least.max(1);
        Self {
            least: least as f64,
            most: most.max(least) as f64,
            aim,
            size: least as f64,
            in_flight: 0,
            delay: None,
            smaller_at: None,
        }
    }

    /// Whether another one may begin.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.size()
    }

    /// Takes note that a call begins.
    pub fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// One that was to begin does not.
    pub fn give_back(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// One that took so long has ended, well or not.
    pub fn end(&mut self, now: Instant, took: Duration, is_success: bool) {
        // Whoever asks for less than half of it shows nothing by getting it.
        let is_used = self.in_flight * 2 >= self.size();
        self.in_flight = self.in_flight.saturating_sub(1);
        let smoothed = self.delay.map_or(took, |delay| (delay * 7 + took) / 8);
        self.delay = Some(smoothed);
        if is_success && took <= self.aim {
            if is_used {
                // In the beginning one more for each answer (slow start), then for each window of them.
                let more = self.smaller_at.map_or(1.0, |_| 1.0 / self.size);
                self.size = (self.size + more).min(self.most);
            }
            return;
        }
        let rests = self
            .smaller_at
            .is_some_and(|at| now.saturating_duration_since(at) < smoothed);
        if !rests {
            self.size = (self.size / 2.0).max(self.least);
            self.smaller_at = Some(now);
        }
    }

    /// Number of records that may be under way now.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Number of records that are under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The smoothed time that an answer takes; none before the first.
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever answers come: as many are under way as have begun and not ended, and the size stays in its bounds.
        #[test]
        fn every_place_is_given_back_once(ends in proptest::collection::vec((0_u8..4, 0_u64..200), 1..300)) {
            let mut window = Window::new((2, 20), Duration::from_millis(100));
            let (mut now, mut in_flight) = (Instant::now(), 0);
            for (how, took) in ends {
                while window.has_room() {
                    window.begin();
                    in_flight += 1;
                }
                prop_assert!(in_flight >= window.size());
                now += Duration::from_millis(took);
                match how {
                    0 => window.give_back(),
                    _ => window.end(now, Duration::from_millis(took), how > 1),
                }
                in_flight -= 1;
                prop_assert_eq!(window.in_flight(), in_flight);
                prop_assert!((2..=20).contains(&window.size()), "{}", window.size());
            }
        }
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = Window::new((10, 1_000), Duration::from_millis(100));
        for _ in 0..100 {
            window.begin();
            window.end(Instant::now(), Duration::from_millis(1), true);
        }
        assert_eq!(window.size(), 10);
    }

    /// Lets answers come after this delay for so long, with the window always full. Returns its size then.
    fn run(window: &mut Window, from: Instant, delay: Duration, rounds: usize) -> (usize, Instant) {
        let mut now = from;
        for _ in 0..rounds {
            let mut begun = 0;
            while window.has_room() {
                window.begin();
                begun += 1;
            }
            now += delay;
            for _ in 0..begun {
                window.end(now, delay, true);
            }
        }
        (window.size(), now)
    }

    #[test]
    fn it_grows_while_answers_come_in_time_and_shrinks_when_they_do_not() {
        let mut window = Window::new((4, 1_000), Duration::from_millis(100));
        let (grown, now) = run(&mut window, Instant::now(), Duration::from_millis(10), 100);
        assert_eq!(grown, 1_000);
        let (shrunk, now) = run(&mut window, now, Duration::from_millis(400), 1);
        assert_eq!(shrunk, grown / 2, "once for the answers of one round");
        let (least, now) = run(&mut window, now, Duration::from_millis(400), 50);
        assert_eq!(least, 4);
        let (again, _) = run(&mut window, now, Duration::from_millis(10), 100);
        assert!((30..200).contains(&again), "about one a round: {again}");
    }

    #[test]
    fn it_never_lets_more_begin_than_its_size() {
        let mut window = Window::new((2, 2), Duration::from_millis(1));
        window.begin();
        assert!(window.has_room());
        window.begin();
        assert!(!window.has_room());
        window.end(Instant::now(), Duration::ZERO, false);
        assert!(window.has_room());
        assert_eq!((window.size(), window.in_flight()), (2, 1));
    }
}
