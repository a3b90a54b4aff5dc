//! The settings of a queue, as its leader goes by them. They are not replicated with the slot.

use crate::limits::{IN_FLIGHT_MAX, SESSION_IN_FLIGHT_MAX};

/// What is counted against the limit of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempts {
    /// Refusals as failed, and leases that ran out.
    Failures,
    /// Deliveries, whatever became of them: SQS' receive count.
    Deliveries,
}

/// The order of messages with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// There is none.
    None,
    /// One message of a key is out at a time, in the order in which they were sent.
    ByKey(OnDead),
}

/// What becomes of the later messages of a key when one is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDead {
    /// They go out.
    Continue,
    /// They wait until the dead one is redriven or purged.
    Block,
}

/// What becomes of a message that was not settled within its time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// It is dropped: SQS' way.
    Drop,
    /// It is a dead letter: AMQP's way.
    Dead,
}

/// What becomes of messages beyond the limit of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The sender is refused, before anything is appended.
    Reject,
    /// The oldest go: they become dead letters.
    DropOldest,
}

/// The settings of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// After so many attempts a message is dead; none: never.
    pub attempts_max: Option<u16>,
    /// What counts as an attempt.
    pub attempts: Attempts,
    /// How long a message waits after its first failure, milliseconds.
    pub retry_min_ms: u64,
    /// By how much each failure makes that longer.
    pub retry_factor: u32,
    /// The longest that a message waits, milliseconds.
    pub retry_max_ms: u64,
    /// The order of messages with the same key.
    pub order: Order,
    /// Messages have lanes, and a higher one goes first.
    pub has_lanes: bool,
    /// So many of a hundred deliveries take the oldest message of a lower lane; 0: none does. At most 50.
    pub min_share: u8,
    /// Messages may have a time to live; and what becomes of those whose time is over.
    pub expired: Option<Expired>,
    /// So many messages that are not dead, at most; none: any number.
    pub messages_max: Option<u64>,
    /// So many bytes of records that are not dead, at most; none: any number. By the mean size of a record.
    pub bytes_max: Option<u64>,
    /// What becomes of messages beyond that.
    pub overflow: Overflow,
    /// So many dead messages are kept; of more the oldest go. None: any number.
    pub dead_max: Option<u64>,
    /// A dead message is kept for so long, milliseconds; none: for ever.
    pub dead_ttl_ms: Option<u64>,
    /// Dead messages go to another topic.
    pub forwards_dead: bool,
    /// While most messages fail, only a few go out.
    pub has_breaker: bool,
    /// The queue is to go when nobody has used it for so long, milliseconds; none: it stays.
    pub unused_max_ms: Option<u64>,
    /// So many messages may be with consumers.
    pub in_flight_max: u64,
    /// So many of them with one session.
    pub session_in_flight_max: u32,
    /// Nothing is handed out.
    pub is_paused: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts_max: Some(5),
            attempts: Attempts::Failures,
            retry_min_ms: 1_000,
            retry_factor: 2,
            retry_max_ms: 15 * 60_000,
            order: Order::None,
            has_lanes: false,
            min_share: 0,
            expired: None,
            messages_max: None,
            bytes_max: None,
            overflow: Overflow::Reject,
            dead_max: Some(100_000),
            dead_ttl_ms: Some(14 * 86_400_000),
            forwards_dead: false,
            has_breaker: true,
            unused_max_ms: None,
            in_flight_max: IN_FLIGHT_MAX,
            session_in_flight_max: SESSION_IN_FLIGHT_MAX,
            is_paused: false,
        }
    }
}

impl Policy {
    /// How long a message waits after so many failures, milliseconds: with a fifth more or less, by the message, so that what failed
    /// together does not come back together.
    pub fn backoff_ms(&self, failures: u16, offset: u64) -> u64 {
        let factor = u64::from(self.retry_factor.max(1)).saturating_pow(u32::from(failures.saturating_sub(1)));
        let delay = self.retry_min_ms.saturating_mul(factor).min(self.retry_max_ms);
        // SplitMix64's mixing, of what tells one failure from another.
        let mixed = (offset ^ (u64::from(failures) << 48)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let permille = 800 + (mixed ^ (mixed >> 31)) % 401;
        (u128::from(delay) * u128::from(permille) / 1_000) as u64
    }

    /// Whether senders are refused when there are as many messages, or bytes of them, as there may be.
    pub fn refuses_when_full(&self) -> bool {
        self.overflow == Overflow::Reject && (self.messages_max.is_some() || self.bytes_max.is_some())
    }

    pub(super) fn is_keyed(&self) -> bool {
        matches!(self.order, Order::ByKey(_))
    }

    /// Whether one more failure makes a message dead that has failed, and was delivered, so often.
    pub(super) fn is_spent(&self, failures: u16, deliveries: u16) -> bool {
        self.attempts_max
            .is_some_and(|most| self.count(failures, deliveries) >= most)
    }

    /// Whether a message goes out for the last time, so that its failure would take its neighbours with it.
    pub(super) fn is_last(&self, failures: u16, deliveries: u16) -> bool {
        let count = self.count(failures, deliveries);
        self.attempts_max.is_some_and(|most| count > 0 && count + 1 == most)
    }

    fn count(&self, failures: u16, deliveries: u16) -> u16 {
        match self.attempts {
            Attempts::Failures => failures,
            Attempts::Deliveries => deliveries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_waits_longer_each_time_up_to_the_limit() {
        let policy = Policy::default();
        for offset in 0..100 {
            for (failures, delay) in [(1, 1_000), (2, 2_000), (5, 16_000), (60, 900_000), (u16::MAX, 900_000)] {
                let waits = policy.backoff_ms(failures, offset);
                assert!(
                    (delay * 8 / 10..=delay * 12 / 10).contains(&waits),
                    "{failures} failures: {waits} ms"
                );
            }
        }
        let delays: std::collections::BTreeSet<u64> = (0..100).map(|offset| policy.backoff_ms(1, offset)).collect();
        assert!(delays.len() > 50, "what failed together does not come back together");
    }
}
