//! The limit of each resource, and how connections and addresses share it.
//!
//! There are no fixed shares: they would be too large when many clients come, and too small for a single one. What a client may
//! hold depends on what is free, so there is always something left for the next one (like the dynamic thresholds of
//! shared-memory switches, Choudhury and Hahne 1998):
//!
//! - an address may hold `address_share_percent` of what it holds and what is free together;
//! - a connection may hold half of what its address may still take.
//!
//! With 75 percent an address leaves a quarter to others, however many connections it has. One connection alone gets a
//! quarter, each further one of the address two thirds of the one before; what six leave is 7 percent.
//!
//! Exceptions. A connection that holds nothing may take more at once, as long as its address may then still take as much again,
//! and an address that holds nothing may take all that is free: otherwise a large request would never fit into a small budget.
//! And a connection may always hold a minimum (1/2048 of the limit), or a client whose neighbours hold their whole share could
//! not even look up a leader.
//!
//! In which order waiting connections get what is given back: see [`super::waits`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_replication::transport;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::caller::Caller;
use super::metrics::QuotaMetrics;
use super::resource::{PerResource, Resource, Scope};
use super::waits::Waits;
use crate::listener::counted_address;
use crate::settings::LimitSettings;

/// The flow-control window of a stream (RFC 9113, section 5.2), bytes: as much may be in memory before it is counted.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The flow-control window of all streams of a connection together, bytes.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// A connection may hold 1/`CONNECTION_PART` of what its address may still take.
const CONNECTION_PART: usize = 2;
/// A connection may always hold 1/`MINIMUM_PART` of the limit, whatever other connections of its address hold.
const MINIMUM_PART: usize = 2048;

/// The limit of offset commits and deletions of offsets that wait for their quorum, bytes.
const COMMITS_BYTES: usize = 64 << 20;
/// The limit of heartbeats that wait for their quorum, bytes. It is separate, since members whose heartbeats had to wait for
/// commits would lose their sessions.
const HEARTBEATS_BYTES: usize = 64 << 20;

/// The limit of messages from other brokers, received and decoded each, bytes: the flow-control windows of several links.
const BETWEEN_BROKERS_BYTES: usize = 256 << 20;

/// The flow-control windows of HTTP/2 (RFC 9113, section 5.2): how many unread bytes a client may send.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// The window of one stream, bytes.
    pub stream: usize,
    /// The window of all streams of a connection together, bytes.
    pub connection: usize,
}

impl Window {
    fn of(stream: u32, connection: u32) -> Self {
        Self {
            stream: stream as usize,
            connection: connection as usize,
        }
    }
}

/// The budgets that all connections of the client listeners, or of the internal listeners, share.
pub(crate) struct Budgets {
    limits: PerResource<usize>,
    pub(super) windows: Window,
    used: PerResource<AtomicUsize>,
    pub(super) waits: PerResource<Waits>,
    address_percent: usize,
    /// The addresses that have connections.
    addresses: Mutex<HashMap<IpAddr, Weak<Address>>>,
    pub(super) callers: Mutex<Vec<Weak<Caller>>>,
    pub(super) metrics: QuotaMetrics,
}

/// The total of what the connections from one address hold.
pub(crate) struct Address {
    pub(super) budgets: Arc<Budgets>,
    pub(super) used: PerResource<AtomicUsize>,
}

impl Budgets {
    pub fn new(settings: &LimitSettings, metrics: QuotaMetrics) -> Arc<Self> {
        let bytes = |bytes: u64| usize::try_from(bytes).expect("usize has 64 bits");
        let limits = Resource::ALL.map(|resource| match resource {
            Resource::Requests | Resource::Decoded | Resource::Windows => bytes(settings.request_inflight_bytes),
            Resource::Answers => bytes(settings.answer_inflight_bytes),
            Resource::Fetch | Resource::PlainFetch => bytes(settings.fetch_inflight_bytes),
            Resource::Produce => bytes(settings.produce_inflight_bytes),
            Resource::Commits => COMMITS_BYTES,
            Resource::Heartbeats => HEARTBEATS_BYTES,
            Resource::Streams => settings.streams_max as usize,
            Resource::Calls => settings.calls_max as usize,
        });
        Arc::new(Self::with(limits, settings.address_share_percent as usize, metrics))
    }

    /// The budgets of calls from other brokers. Only what is received is limited: replicated entries are bounded by each link's
    /// window and written before they are acknowledged, and the responses are small.
    pub fn between_brokers(metrics: QuotaMetrics) -> Arc<Self> {
        let mut limits = PerResource::default();
        limits[Resource::Requests as usize] = BETWEEN_BROKERS_BYTES;
        limits[Resource::Decoded as usize] = BETWEEN_BROKERS_BYTES;
        limits[Resource::Windows as usize] = BETWEEN_BROKERS_BYTES;
        let windows = Window::of(transport::STREAM_WINDOW_BYTES, transport::CONNECTION_WINDOW_BYTES);
        Arc::new(Self {
            windows,
            ..Self::with(limits, 75, metrics)
        })
    }

    pub fn with(limits: PerResource<usize>, address_percent: usize, metrics: QuotaMetrics) -> Self {
        Self {
            limits,
            windows: Window::of(STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES),
            used: PerResource::default(),
            waits: PerResource::default(),
            address_percent,
            addresses: Mutex::default(),
            callers: Mutex::default(),
            metrics,
        }
    }

    pub fn limit(&self, resource: Resource) -> usize {
        self.limits[resource as usize]
    }

    pub fn used(&self, resource: Resource) -> usize {
        self.used[resource as usize].load(SeqCst)
    }

    /// The shared total of an address.
    pub(super) fn address(self: &Arc<Self>, ip: IpAddr) -> Arc<Address> {
        let ip = counted_address(ip);
        let mut addresses = self.addresses.lock();
        if let Some(known) = addresses.get(&ip).and_then(Weak::upgrade) {
            return known;
        }
        addresses.retain(|_, address| address.strong_count() > 0);
        let address = Arc::new(Address {
            budgets: self.clone(),
            used: PerResource::default(),
        });
        addresses.insert(ip, Arc::downgrade(&address));
        address
    }

    /// Closes the connections, of one address or of all, that have made no progress with a response for `limit`.
    pub(super) fn end_stalled(&self, limit: Duration, of: Option<IpAddr>) {
        let callers: Vec<_> = self.callers.lock().iter().filter_map(Weak::upgrade).collect();
        let now = Instant::now();
        let callers = callers
            .iter()
            .filter(|caller| of.is_none_or(|ip| counted_address(caller.peer().ip()) == counted_address(ip)));
        for caller in callers.filter(|caller| caller.stalled_for(now) >= limit) {
            if caller.end() {
                tracing::warn!(
                    peer = %caller.peer(),
                    ?limit,
                    "a connection is closed: its peer did not read a response in time (limits.stalled_ms, less while others wait)"
                );
                self.metrics.stalled.inc();
            }
        }
    }

    /// Takes `amount` for a connection and its address, or returns the scope whose limit is reached. The limit of the whole is
    /// never exceeded; a share may be exceeded by what is taken concurrently.
    pub(super) fn take(
        &self,
        resource: Resource,
        amount: usize,
        address: &AtomicUsize,
        connection: &AtomicUsize,
    ) -> Result<(), Scope> {
        let (limit, used) = (self.limit(resource), &self.used[resource as usize]);
        let mut known = used.load(SeqCst);
        loop {
            let free = limit.checked_sub(known.saturating_add(amount)).ok_or(Scope::Broker)?;
            let of_address = address.load(SeqCst) + amount;
            let of_connection = connection.load(SeqCst) + amount;
            if !self.is_within_minimum(resource, of_connection) && of_address > amount {
                let left = self.left(free, of_address).ok_or(Scope::Address)?;
                match of_connection == amount {
                    true if amount > left => return Err(Scope::Address),
                    false if of_connection > left / CONNECTION_PART => return Err(Scope::Connection),
                    _ => {}
                }
            }
            match used.compare_exchange_weak(known, known + amount, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(now) => known = now,
            }
        }
        address.fetch_add(amount, SeqCst);
        connection.fetch_add(amount, SeqCst);
        Ok(())
    }

    /// Whether a connection may hold this much whatever its address holds, as long as the whole is not used up.
    pub(super) fn is_within_minimum(&self, resource: Resource, amount: usize) -> bool {
        amount <= self.limit(resource) / MINIMUM_PART
    }

    /// How much an address that holds `of_address` may still take while `free` is free; `None` when it holds more than its share.
    /// What it takes reduces both `free` and the rest of its share.
    fn left(&self, free: usize, of_address: usize) -> Option<usize> {
        let (its, others) = (self.address_percent, 100 - self.address_percent);
        let left = free
            .saturating_mul(its)
            .checked_sub(of_address.saturating_mul(others))?;
        Some(left / 100)
    }

    pub(super) fn give_back(&self, resource: Resource, amount: usize, address: &AtomicUsize, connection: &AtomicUsize) {
        connection.fetch_sub(amount, SeqCst);
        address.fetch_sub(amount, SeqCst);
        let used = self.used[resource as usize].fetch_sub(amount, SeqCst);
        debug_assert!(used >= amount, "{resource:?}: {amount} given back of {used}");
        self.waits[resource as usize].wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1_000;

    struct Client<'a> {
        address: &'a AtomicUsize,
        held: AtomicUsize,
    }

    impl<'a> Client<'a> {
        fn at(address: &'a AtomicUsize) -> Self {
            Self {
                address,
                held: AtomicUsize::new(0),
            }
        }

        /// Takes one by one until it gets no more.
        fn fill(&self, budgets: &Budgets) -> Scope {
            loop {
                if let Err(scope) = self.take(budgets, 1) {
                    return scope;
                }
            }
        }

        fn take(&self, budgets: &Budgets, amount: usize) -> Result<(), Scope> {
            budgets.take(Resource::Fetch, amount, self.address, &self.held)
        }

        fn held(&self) -> usize {
            self.held.load(SeqCst)
        }
    }

    fn budgets(percent: usize) -> Budgets {
        Budgets::with([LIMIT; Resource::ALL.len()], percent, QuotaMetrics::default())
    }

    #[test]
    fn one_connection_alone_gets_a_quarter() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        let greedy = Client::at(&address);
        assert_eq!(greedy.fill(&budgets), Scope::Connection);
        assert_eq!(greedy.held(), 250);
        let next = Client::at(&address);
        assert_eq!(next.take(&budgets, 100), Ok(()));
    }

    #[test]
    fn an_address_leaves_a_quarter_however_many_connections_it_has() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        let many: Vec<_> = (0..500).map(|_| Client::at(&address)).collect();
        for client in &many {
            client.fill(&budgets);
        }
        let held: usize = many.iter().map(Client::held).sum();
        assert!((740..=760).contains(&held), "{held}");
        let elsewhere = AtomicUsize::new(0);
        assert_eq!(Client::at(&elsewhere).take(&budgets, 240), Ok(()));
    }

    #[test]
    fn six_that_take_all_they_can_leave_something_to_a_seventh_beside_them() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        for _ in 0..6 {
            Client::at(&address).fill(&budgets);
        }
        assert_eq!(Client::at(&address).take(&budgets, 30), Ok(()));
    }

    #[test]
    fn large_parts_leave_room_for_smaller_ones() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        let many: Vec<_> = (0..100).map(|_| Client::at(&address)).collect();
        let taken = many.iter().filter(|client| client.take(&budgets, 125).is_ok()).count();
        assert_eq!(taken, 5);
        assert_eq!(Client::at(&address).take(&budgets, 50), Ok(()));
    }

    #[test]
    fn a_little_is_there_beside_any_neighbours() {
        let budgets = Budgets::with([1_000_000; Resource::ALL.len()], 75, QuotaMetrics::default());
        let address = AtomicUsize::new(0);
        for amount in [100_000, 10_000, 1_000, 100] {
            while Client::at(&address).take(&budgets, amount).is_ok() && address.load(SeqCst) < 760_000 {}
        }
        assert_eq!(Client::at(&address).take(&budgets, 5_000), Err(Scope::Address));
        assert_eq!(Client::at(&address).take(&budgets, 400), Ok(()));
    }

    #[test]
    fn who_holds_nothing_may_take_all_that_is_free() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        let large = Client::at(&address);
        assert_eq!(large.take(&budgets, LIMIT), Ok(()));
        assert_eq!(Client::at(&AtomicUsize::new(0)).take(&budgets, 1), Err(Scope::Broker));
    }

    #[test]
    fn one_address_may_be_given_all() {
        let budgets = budgets(100);
        let address = AtomicUsize::new(0);
        let many: Vec<_> = (0..500).map(|_| Client::at(&address)).collect();
        for client in &many {
            client.fill(&budgets);
        }
        assert!(budgets.used(Resource::Fetch) >= 990);
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        let client = Client::at(&address);
        client.fill(&budgets);
        budgets.give_back(Resource::Fetch, client.held(), &address, &client.held);
        assert_eq!(budgets.used(Resource::Fetch), 0);
        assert_eq!(client.fill(&budgets), Scope::Connection);
        assert_eq!(client.held(), 250);
    }
}
