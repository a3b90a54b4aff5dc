//! How far the queues lag that read an ordinary topic.

use std::sync::Arc;

use jangada_queue::SlotKind;

use super::desk::Desk;

impl Desk {
    /// The queue that reads the topic and has the most messages here that are neither done nor dead, and how many: of those whose name
    /// counts. A dead letter is done as far as its queue is concerned, though the slot keeps it.
    pub fn slowest_view(&self, counts: impl Fn(&str) -> bool) -> Option<(Arc<str>, u64)> {
        let views: Vec<_> = {
            let slots = self.slots.read();
            let views = slots.values();
            views
                .filter(|(_, spec)| spec.kind == SlotKind::Group && counts(&spec.name))
                .map(|(slot, spec)| (*slot, spec.name.clone()))
                .collect()
        };
        if views.is_empty() {
            return None;
        }
        self.with_state(|state| {
            let end = state.next_offset().get().unsigned_abs();
            let lags = views.into_iter().filter_map(|(id, name)| {
                let slot = state.slots().slot(id)?;
                Some((name, slot.undone(end) - slot.counts().dead))
            });
            lags.max_by_key(|(_, lag)| *lag)
        })
    }
}
