//! Why messages of schedules were refused, for whoever lists the schedules.

use std::collections::BTreeMap;

use jangada_queue::ScheduleKey;
use parking_lot::Mutex;

/// Why messages of schedules were refused when they were to be sent last.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<ScheduleKey, String>>);

impl Refusals {
    /// Notes a refusal. True: it is another one than before.
    pub fn note(&self, key: &ScheduleKey, why: &str) -> bool {
        let before = self.0.lock().insert(key.clone(), why.to_owned());
        before.is_none_or(|before| before != why)
    }

    /// Forgets it: a message was sent, or the schedule is another one.
    pub fn clear(&self, key: &ScheduleKey) {
        self.0.lock().remove(key);
    }

    pub fn of(&self, key: &ScheduleKey) -> String {
        self.0.lock().get(key).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_from_those_before() {
        let refusals = Refusals::default();
        let key = (jangada_queue::SlotId(1), "tick".to_owned());
        assert_eq!(refusals.of(&key), "");
        assert!(refusals.note(&key, "full"));
        assert!(!refusals.note(&key, "full"), "it is known");
        assert!(refusals.note(&key, "no disk"));
        assert_eq!(refusals.of(&key), "no disk");
        refusals.clear(&key);
        assert_eq!(refusals.of(&key), "");
    }
}
