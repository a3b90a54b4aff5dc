//! How often the replicas of a broker tick, by how many there are.
//!
//! A tick looks at a replica's election timer and, on the leader, sends heartbeats. It costs some microseconds, a heartbeat
//! some ten, on both sides; thousands of replicas at 20 ticks a second would fill a processor with nothing else, and then
//! heartbeats come late and leaders are lost. So a broker has [`TICKS_PER_SECOND_MAX`] ticks a second for all its replicas
//! together: up to 250 tick each [`TICK_SLOT`], 1,000 each 200 ms, and so on up to what the leader's lease allows. Heartbeats go
//! with the ticks, so they become as rare.
//!
//! What it costs: a follower notices a dead leader later by up to one tick. Brokers need not agree: the lease has room
//! for two heartbeats of the slowest pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::runtime::TICK_SLOT;

/// Ticks of all replicas together.
const TICKS_PER_SECOND_MAX: u64 = 5_000;

/// The ticks of one broker's replicas.
pub(crate) struct Pace {
    replicas: AtomicUsize,
    /// The longest tick.
    slowest: Duration,
    /// Spreads ticks over the lines: see [`Pace::rest_of_tick`].
    turn: AtomicUsize,
}

impl Pace {
    /// With the timing of its groups.
    pub fn new(heartbeat: Duration, lease: Duration) -> Self {
        Self {
            replicas: AtomicUsize::new(0),
            slowest: slowest(heartbeat, lease),
            turn: AtomicUsize::new(0),
        }
    }

    /// Between two ticks of a replica.
    pub fn tick(&self) -> Duration {
        tick_of(self.replicas.load(Ordering::Relaxed), self.slowest)
    }

    /// What a replica waits in addition to a tick of one [`TICK_SLOT`]. A line more or less each time, or replicas that once ticked
    /// together would do so for ever: all on one line and none on the next.
    pub fn rest_of_tick(&self) -> Duration {
        let rest = self.tick() - TICK_SLOT;
        match rest < TICK_SLOT {
            true => rest,
            false => rest - TICK_SLOT + TICK_SLOT * (self.turn.fetch_add(1, Ordering::Relaxed) % 3) as u32,
        }
    }

    /// How long an answer is waited for that would have `timeout`.
    pub fn patience(&self, timeout: Duration) -> Duration {
        let tick = self.tick();
        match tick > TICK_SLOT {
            true => timeout.max(tick * 2),
            false => timeout,
        }
    }
}

/// Two heartbeats fit into the lease. A heartbeat leaves on the first tick when it is due: with ticks that are longer than
/// its interval, on each; with shorter ones, up to a tick after the interval.
fn slowest(heartbeat: Duration, lease: Duration) -> Duration {
    let half = lease / 2;
    let on_each = half.saturating_sub(TICK_SLOT);
    if on_each > heartbeat {
        on_each
    } else {
        half.saturating_sub(heartbeat).max(TICK_SLOT)
    }
}

/// A replica, as long as it is open.
pub(crate) struct Paced(Arc<Pace>);

impl Paced {
    pub fn begin(pace: Arc<Pace>) -> Self {
        pace.replicas.fetch_add(1, Ordering::Relaxed);
        Self(pace)
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.0.replicas.fetch_sub(1, Ordering::Relaxed);
    }
}

fn tick_of(replicas: usize, slowest: Duration) -> Duration {
    let wanted = Duration::from_micros(replicas as u64 * 1_000_000 / TICKS_PER_SECOND_MAX);
    wanted.min(slowest).max(TICK_SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn ticks_become_rarer_with_more_replicas_down_to_what_the_lease_allows() {
        let slowest = slowest(200 * MS, 900 * MS);
        assert_eq!(slowest, 400 * MS);
        let ticks = [1, 500, 1_000, 3_000, 4_000, 100_000]
            .map(|replicas| tick_of(replicas, slowest) / TICK_SLOT.as_millis() as u32);
        assert_eq!(ticks, [1, 2, 4, 8, 8, 8].map(|lines| lines * MS));
    }

    #[test]
    fn two_heartbeats_fit_into_any_lease_that_has_room_for_them() {
        for heartbeat in (100..2_000).step_by(50).map(|ms| MS * ms) {
            for lease in (2..8).map(|times| heartbeat * times + 100 * MS) {
                let slowest = slowest(heartbeat, lease);
                let late = if slowest > heartbeat {
                    slowest
                } else {
                    heartbeat + slowest
                };
                assert!(
                    late * 2 <= lease || slowest == TICK_SLOT,
                    "{heartbeat:?} {lease:?}: {slowest:?}"
                );
            }
        }
    }
}
