//! The other brokers' wall clocks, as they tell them with their announcements.
//!
//! Good to within the time that an announcement is on its way; what is held against them is a minute.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use jangada_types::BrokerId;
use parking_lot::RwLock;
use tokio::time::Instant;

/// A broker counts as alive when it was heard of within this time.
pub(crate) const LIVENESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads this broker's wall clock, milliseconds since the Unix epoch.
type OwnClock = Box<dyn Fn() -> i64 + Send + Sync>;

/// The wall clocks of the other brokers, held against this broker's own.
#[derive(Default)]
pub struct PeerClocks {
    own: OnceLock<OwnClock>,
    /// What a broker's clock showed, and when that was heard.
    heard: RwLock<BTreeMap<BrokerId, (i64, Instant)>>,
}

impl PeerClocks {
    /// The clock that this broker tells the others from now on. The first one counts.
    pub fn tell(&self, own: impl Fn() -> i64 + Send + Sync + 'static) {
        let _ = self.own.set(Box::new(own));
    }

    /// How many milliseconds the clock of each live broker is ahead of `now_ms`.
    pub fn ahead_of(&self, now_ms: i64) -> Vec<i64> {
        let heard = self.heard.read();
        let lately = heard.values().filter(|(_, at)| at.elapsed() < LIVENESS_TIMEOUT);
        let ahead = lately.map(|(wall_ms, at)| {
            let since = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
            wall_ms.saturating_add(since).saturating_sub(now_ms)
        });
        ahead.collect()
    }

    pub(crate) fn own_ms(&self) -> Option<i64> {
        self.own.get().map(|own| own())
    }

    pub(crate) fn heard(&self, broker: BrokerId, wall_ms: Option<i64>) {
        if let Some(wall_ms) = wall_ms {
            self.heard_at(broker, wall_ms, Instant::now());
        }
    }

    fn heard_at(&self, broker: BrokerId, wall_ms: i64, at: Instant) {
        self.heard.write().insert(broker, (wall_ms, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_runs_on_until_its_broker_is_not_heard_of_any_more() {
        let clocks = PeerClocks::default();
        clocks.heard(BrokerId(2), None);
        assert_eq!(clocks.ahead_of(0), [0; 0], "an older build tells none");
        let now = Instant::now();
        clocks.heard_at(BrokerId(2), 5_000, now - Duration::from_millis(500));
        let ahead = clocks.ahead_of(4_000);
        let [ahead] = ahead[..] else {
            panic!("one clock: {ahead:?}")
        };
        assert!((1_500..1_500 + 60_000).contains(&ahead), "{ahead}");
        clocks.heard_at(BrokerId(2), 5_000, now - LIVENESS_TIMEOUT);
        assert_eq!(clocks.ahead_of(4_000), [0; 0]);
    }
}
