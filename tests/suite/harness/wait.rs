//! Waits for a condition, with a bound.

use std::time::{Duration, Instant};

/// Enough for any step that works, even on a busy machine.
pub const WAIT: Duration = Duration::from_secs(60);

/// Interval between two polls.
pub const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Polls until the result is `Some`; returns it. Panics with `what` after `within`.
pub async fn eventually<T, F>(what: &str, within: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        // A look that hangs is bounded, too.
        if let Ok(Some(seen)) = tokio::time::timeout(within, look()).await {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
