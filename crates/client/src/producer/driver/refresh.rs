//! When metadata are asked for, and what follows when they have changed.

use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;

use super::timers::Timer;
use super::{Driver, FinishedJob, STALL_TIMEOUT};
use crate::error::ClientError;
use crate::metadata::LeaderLookup;

/// Least interval between two refreshes of the metadata, however many lanes want one.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// The state of the driver's refreshes.
#[derive(PartialEq, Eq)]
pub(super) enum Refresh {
    Idle { since: Instant },
    Scheduled,
    Running,
}

impl Driver {
    pub(super) fn want_refresh(&mut self) {
        let Refresh::Idle { since } = self.refresh else { return };
        let at = since + REFRESH_INTERVAL_MIN;
        if at > Instant::now() {
            self.refresh = Refresh::Scheduled;
            self.timers.set(at, Timer::Refresh);
        } else {
            self.start_refresh();
        }
    }

    /// Schedules no refresh until something fails or the metadata is too old.
    pub(super) fn rest_until_stale(&mut self) {
        let since = Instant::now();
        self.refresh = Refresh::Idle { since };
        let stale_at = since + self.shared.cluster.config.metadata_max_age;
        self.timers.set(stale_at, Timer::Refresh);
    }

    pub(super) fn start_refresh(&mut self) {
        self.refresh = Refresh::Running;
        let cluster = self.shared.cluster.clone();
        let seen = self.image.borrow().refreshes;
        self.jobs.push(
            async move {
                let refreshed = cluster.metadata.refresh(seen).await;
                if let Err(failure) = &refreshed {
                    tracing::debug!(error = failure.message, "no broker gives metadata");
                }
                FinishedJob::Refreshed(refreshed.is_ok())
            }
            .boxed(),
        );
    }

    /// Reacts to new metadata: leaders may have moved, and topics may have changed.
    pub(super) fn on_image(&mut self) {
        let image = self.image.borrow_and_update().clone();
        self.shared.take_changes(&image);
        let now = Instant::now();
        let mut moved = Vec::new();
        let mut gone = Vec::new();
        for (id, state) in &mut self.lanes {
            let queue = &state.queue;
            let (leader, epoch) = match image.leader(queue.topic.id, queue.partition) {
                LeaderLookup::Known { broker, epoch, .. } => (Some(broker), epoch),
                LeaderLookup::Unknown { .. } => continue,
                LeaderLookup::Missing if !state.lane.is_in_flight() => {
                    gone.push((*id, queue.topic.name.clone()));
                    continue;
                }
                LeaderLookup::Missing => (None, u32::MAX),
            };
            if state.lane.is_in_flight() {
                let elsewhere = state.link.is_some_and(|link| Some(link.broker) != leader) && epoch > state.sent_epoch;
                // A leader that hands over in good order still answers; one that is cut off does not.
                if elsewhere && now >= state.progress + STALL_TIMEOUT {
                    state.lane.lose_in_flight();
                    moved.push(*id);
                }
            } else if state.blocked_until.is_some() && epoch > state.blocked_epoch {
                state.blocked_until = None;
                moved.push(*id);
            } else if state.parked.is_some_and(|link| Some(link.broker) != leader) {
                state.parked = None;
                moved.push(*id);
            }
        }
        for (id, topic) in gone {
            self.retire(id, ClientError::UnknownTopic { topic });
        }
        for id in moved {
            self.pump(id);
        }
    }
}
