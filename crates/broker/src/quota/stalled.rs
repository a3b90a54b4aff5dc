//! Closes connections whose peer does not read its responses.
//!
//! Bytes that were handed to HTTP/2 cannot be taken back, so an unread response occupies memory until its connection is closed.
//! Until then it counts against the connection's share. A response may be without progress for `limits.stalled_ms`, and for much
//! less while other clients wait for the memory.

use std::sync::Arc;
use std::time::Duration;

use super::budget::Budgets;

/// The least time between two checks.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Closes stalled connections until the task is aborted.
pub(crate) async fn watch(budgets: Arc<Budgets>, limit: Duration) {
    let mut tick = tokio::time::interval((limit / 8).max(CHECK_INTERVAL_MIN));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        budgets.end_stalled(limit, None);
    }
}
