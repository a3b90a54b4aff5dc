//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// Enough for anything that works, even on a busy machine.
pub const WAIT: Duration = Duration::from_secs(60);

/// Between two looks.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Looks until there is something to see; gives it. Panics with `what` after `within`.
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
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
