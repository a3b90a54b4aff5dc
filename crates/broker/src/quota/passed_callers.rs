//! Clients of other brokers whose calls are passed on to this one. What such a call takes here counts as that of its client, by its
//! address, as if it had come by itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jangada_types::BrokerId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::budget::Budgets;
use super::caller::Caller;

/// From so many clients on those are forgotten that have nothing under way.
const FEW: usize = 256;
/// How long a client is known that has nothing under way: most call again soon.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The clients of other brokers that have made calls lately.
pub(crate) struct PassedCallers {
    budgets: Arc<Budgets>,
    kept_for: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By the broker that a client is connected to, and the client's address there.
    callers: HashMap<(BrokerId, SocketAddr), (Arc<Caller>, Instant)>,
    /// How many there may be before some are forgotten.
    forget_at: usize,
}

impl PassedCallers {
    /// Clients that share the budgets of this broker's own.
    pub fn new(budgets: Arc<Budgets>) -> Self {
        Self::keeping_for(budgets, KEPT_FOR)
    }

    fn keeping_for(budgets: Arc<Budgets>, kept_for: Duration) -> Self {
        Self {
            budgets,
            kept_for,
            known: Mutex::default(),
        }
    }

    /// The client of a broker, by its address.
    pub fn of(&self, broker: BrokerId, client: SocketAddr) -> Arc<Caller> {
        let now = Instant::now();
        let mut known = self.known.lock();
        if let Some((caller, used)) = known.callers.get_mut(&(broker, client)) {
            *used = now;
            return caller.clone();
        }
        if known.callers.len() >= known.forget_at.max(FEW) {
            known
                .callers
                .retain(|_, (caller, used)| Arc::strong_count(caller) > 1 || now - *used < self.kept_for);
            known.forget_at = 2 * known.callers.len();
        }
        let caller = Caller::new(client, &self.budgets);
        known.callers.insert((broker, client), (caller.clone(), now));
        caller
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::{QuotaMetrics, Resource};

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn passed_callers(kept_for: Duration) -> PassedCallers {
        let limits = [1 << 20; Resource::ALL.len()];
        let budgets = Arc::new(Budgets::with(limits, 75, QuotaMetrics::default()));
        PassedCallers::keeping_for(budgets, kept_for)
    }

    #[test]
    fn a_client_is_one_caller_while_it_calls() {
        let callers = passed_callers(KEPT_FOR);
        let first = callers.of(BrokerId(1), client(1));
        assert!(Arc::ptr_eq(&first, &callers.of(BrokerId(1), client(1))));
        assert!(
            !Arc::ptr_eq(&first, &callers.of(BrokerId(2), client(1))),
            "it is another broker's"
        );
    }

    #[test]
    fn clients_that_call_no_more_are_forgotten_and_others_are_not() {
        let callers = passed_callers(Duration::ZERO);
        let under_way = callers.of(BrokerId(1), client(1));
        for port in 2..=FEW as u16 {
            callers.of(BrokerId(1), client(port));
        }
        callers.of(BrokerId(1), client(1000));
        assert_eq!(callers.known.lock().callers.len(), 2);
        assert!(Arc::ptr_eq(&under_way, &callers.of(BrokerId(1), client(1))));
    }
}
