//! When the oldest messages came that may go out, as far as it was looked up.

use jangada_queue::QueueId;

use super::desk::Desk;

impl Desk {
    /// The time of the oldest message of a lane, if it is the one that was looked up last.
    pub fn oldest_time(&self, queue: QueueId, lane: u8, offset: u64) -> Option<i64> {
        let known = self.oldest_times.lock().get(&(queue, lane)).copied();
        known.filter(|(known, _)| *known == offset).map(|(_, time_ms)| time_ms)
    }

    /// Takes what was looked up.
    pub fn set_oldest_time(&self, queue: QueueId, lane: u8, (offset, time_ms): (u64, i64)) {
        self.oldest_times.lock().insert((queue, lane), (offset, time_ms));
    }
}
