//! The driver's streams to brokers: opening them, losing them, and the lanes that wait for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt as _;
use jangada_types::BrokerId;
use tokio::time::Instant;

use super::super::stream::{Link, LinkEvent, LinkId, Opened};
use super::timers::Timer;
use super::{Driver, FinishedJob, STALL_TIMEOUT};
use crate::wire_error::Failure;

impl Driver {
    /// Begins to open a stream.
    pub(super) fn connect(&mut self, broker: BrokerId, address: Arc<str>) {
        self.next_generation += 1;
        let id = LinkId {
            broker,
            generation: self.next_generation,
        };
        let cluster = self.shared.cluster.clone();
        let target = address.clone();
        self.jobs
            .push(async move { FinishedJob::Connected(id, Link::connect(cluster, target).await) }.boxed());
        let now = Instant::now();
        self.links.insert(broker, Link::new(id, address, now));
        self.timers.set(now + STALL_TIMEOUT, Timer::Silence(id));
    }

    pub(super) fn on_connected(&mut self, id: LinkId, opened: Result<Opened, Failure>) {
        let Some(link) = self.links.get_mut(&id.broker).filter(|link| link.id == id) else {
            return;
        };
        match opened {
            Ok(opened) => {
                let events = link.opened(opened);
                self.answers.push(events);
                self.admit_waiting(id.broker);
            }
            Err(failure) => {
                tracing::debug!(broker = %id.broker, error = failure.message, "no produce stream");
                self.lose_link(id.broker, &failure);
            }
        }
    }

    pub(super) fn on_link_event(&mut self, id: LinkId, event: LinkEvent) {
        if self.links.get(&id.broker).is_none_or(|link| link.id != id) {
            return;
        }
        match event {
            LinkEvent::Answer(answer) => {
                self.on_answer(id.broker, answer);
                self.admit_waiting(id.broker);
            }
            LinkEvent::Ended(failure) => {
                tracing::debug!(broker = %id.broker, error = failure.message, "the produce stream ended");
                self.lose_link(id.broker, &failure);
            }
        }
    }

    /// Pumps the lanes that waited, as far as there is room.
    fn admit_waiting(&mut self, broker: BrokerId) {
        while let Some(link) = self.links.get_mut(&broker).filter(|link| link.has_room()) {
            let Some(lane) = link.waiting.pop_front() else { return };
            let id = link.id;
            if let Some(state) = self.lanes.get_mut(&lane).filter(|state| state.parked == Some(id)) {
                state.parked = None;
                self.pump(lane);
            }
        }
    }

    /// The stream is gone: its attempts are in doubt, and its lanes try again later, wherever their leaders are then.
    pub(super) fn lose_link(&mut self, broker: BrokerId, failure: &Failure) {
        let Some(link) = self.links.remove(&broker) else { return };
        let mut lanes: BTreeSet<u64> = link.outstanding.values().map(|outstanding| outstanding.lane).collect();
        lanes.retain(|lane| {
            self.lanes
                .get_mut(lane)
                .filter(|state| state.link == Some(link.id))
                .is_some_and(|state| {
                    let lost = state.lane.is_in_flight();
                    state.lane.lose_in_flight();
                    lost
                })
        });
        for lane in &link.waiting {
            if let Some(state) = self.lanes.get_mut(lane).filter(|state| state.parked == Some(link.id)) {
                state.parked = None;
                lanes.insert(*lane);
            }
        }
        for lane in lanes {
            self.block(lane, failure.clone());
        }
    }
}
