//! Ends connections whose answers nobody takes.
//!
//! What was handed to HTTP/2 cannot be taken back, so an answer that nobody reads keeps its memory as long as its
//! connection. It counts against the connection's share meanwhile, and no longer than the time that a setting names; much
//! less when others wait for the room.

use std::sync::Arc;
use std::time::Duration;

use super::budget::Budgets;

/// The least time between two looks.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);

/// How long an answer may be without progress while others wait for the room that it has. A client that is busy for longer,
/// and reads nothing meanwhile, does well to ask for less.
pub(super) const WHILE_OTHERS_WAIT: Duration = Duration::from_secs(2);
/// How often who waits looks for such answers.
pub(super) const PRESS_EVERY: Duration = Duration::from_millis(250);

/// Looks until it is aborted.
pub(crate) async fn watch(budgets: Arc<Budgets>, limit: Duration) {
    let mut tick = tokio::time::interval((limit / 8).max(LOOK_EVERY_MIN));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        budgets.end_stalled(limit, None);
    }
}
