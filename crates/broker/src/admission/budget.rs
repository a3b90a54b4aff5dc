//! How much there is of each resource, and how connections and addresses share it.
//!
//! Nobody has a fixed part: that would be too much when many come, and too little for one that is alone. What one may hold
//! follows what is free, so there is always something left for who comes next:
//!
//! - an address may hold `address_share_percent` of what it holds and what is free together;
//! - a connection may hold half of what its address may still take.
//!
//! With 75 percent an address leaves a quarter to others, however many connections it has. One connection alone gets a
//! quarter, each further one of the address two thirds of the one before; what six leave is 7 percent.
//!
//! Two exceptions. Who holds nothing may take more at once, as long as it leaves as much again: a large request would never
//! fit into a small budget. And a little is always there, or a client whose neighbours are greedy could not even ask who
//! leads.
//!
//! What is given back while some wait goes round the connections: see [`super::waits`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_replication::transport;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::caller::Caller;
use super::connection::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use super::waits::Waits;
use crate::metrics::AdmissionMetrics;
use crate::settings::LimitSettings;

/// A connection may hold one part in so many of what its address may still take.
const CONNECTION_PART: usize = 2;
/// A connection may hold one part in so many of all, whatever others of its address hold.
const LITTLE_PART: usize = 2048;

/// Of commits on their way, and deletions of offsets, bytes.
const COMMITS_BYTES: usize = 64 << 20;
/// Of heartbeats on their way, bytes. Apart: they must not wait for commits, or members would be thrown out.
const HEARTBEATS_BYTES: usize = 64 << 20;

/// Of messages from other brokers that are received, and of what they take decoded: some links' windows.
const BETWEEN_BROKERS_BYTES: usize = 256 << 20;

/// What is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Bytes of requests that are being received and answered, as they came.
    Requests,
    /// What they take decoded beside that, bytes. Apart, and taken at once when a message is complete: one that is waited
    /// for is then never behind one that waits itself.
    Decoded,
    /// Bytes of answers that were not sent, other than records.
    Answers,
    /// Bytes of records in the raw form that were read and not sent.
    Fetch,
    /// The same in the plain form. Apart: such a fetch asks for much, whatever it needs in the end, and raw ones would wait
    /// behind it.
    PlainFetch,
    /// Bytes of batches that were received and that Raft has not let go of.
    Produce,
    /// Bytes of commits, and deletions of offsets, that Raft has not let go of.
    Commits,
    /// The same of heartbeats.
    Heartbeats,
    /// Produce and fetch streams.
    Streams,
    /// Calls of any kind: each has a task, buffers of the transport and headers.
    Calls,
    /// Bytes that may lie in flow-control windows, of messages that wait for room. They are in memory before they have any.
    Windows,
}

impl Resource {
    pub const ALL: [Self; 11] = [
        Self::Requests,
        Self::Decoded,
        Self::Answers,
        Self::Fetch,
        Self::PlainFetch,
        Self::Produce,
        Self::Commits,
        Self::Heartbeats,
        Self::Streams,
        Self::Calls,
        Self::Windows,
    ];

    /// Whether it is counted in bytes; others are numbers.
    pub fn is_bytes(self) -> bool {
        !matches!(self, Self::Streams | Self::Calls)
    }

    /// In metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Decoded => "decoded",
            Self::Answers => "answers",
            Self::Fetch => "fetch",
            Self::PlainFetch => "plain_fetch",
            Self::Produce => "produce",
            Self::Commits => "commits",
            Self::Heartbeats => "heartbeats",
            Self::Streams => "streams",
            Self::Calls => "calls",
            Self::Windows => "windows",
        }
    }

    /// The setting that says how much there is, in words.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Requests | Self::Decoded | Self::Windows => "limits.request_inflight_bytes",
            Self::Answers => "limits.answer_inflight_bytes",
            Self::Fetch | Self::PlainFetch => "limits.fetch_inflight_bytes",
            Self::Produce => "limits.produce_inflight_bytes",
            Self::Commits | Self::Heartbeats => "fixed",
            Self::Streams => "limits.streams_max",
            Self::Calls => "limits.calls_max",
        }
    }
}

/// An amount of each resource.
pub(super) type PerResource<T> = [T; Resource::ALL.len()];

/// Whose part is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Connection,
    Address,
    Broker,
}

impl Whose {
    pub const ALL: [Self; 3] = [Self::Connection, Self::Address, Self::Broker];

    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Address => "address",
            Self::Broker => "broker",
        }
    }
}

/// How much a client may send that nothing has taken up yet, bytes (RFC 9113, section 5.2).
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub stream: usize,
    /// Of all streams of a connection.
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

/// All that a listener's clients share.
pub(crate) struct Budgets {
    limits: PerResource<usize>,
    pub(super) windows: Window,
    used: PerResource<AtomicUsize>,
    pub(super) waits: PerResource<Waits>,
    address_percent: usize,
    /// Those that have connections.
    addresses: Mutex<HashMap<IpAddr, Weak<Address>>>,
    pub(super) callers: Mutex<Vec<Weak<Caller>>>,
    pub(super) metrics: AdmissionMetrics,
}

/// What the connections from one address hold together.
pub(crate) struct Address {
    pub(super) budgets: Arc<Budgets>,
    pub(super) used: PerResource<AtomicUsize>,
}

impl Budgets {
    pub fn new(settings: &LimitSettings, metrics: AdmissionMetrics) -> Arc<Self> {
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

    /// What brokers share that call this one. They take no other room here: what they replicate is bounded by each link's
    /// window and written before it is answered, and their answers are small.
    pub fn between_brokers(metrics: AdmissionMetrics) -> Arc<Self> {
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

    pub(super) fn with(limits: PerResource<usize>, address_percent: usize, metrics: AdmissionMetrics) -> Self {
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

    /// The address, as its connections share it.
    pub(super) fn address(self: &Arc<Self>, ip: IpAddr) -> Arc<Address> {
        let ip = shared_by(ip);
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

    /// Ends the connections, of one address or all, that have an answer which nobody took for so long.
    pub(super) fn end_stalled(&self, limit: Duration, of: Option<IpAddr>) {
        let callers: Vec<_> = self.callers.lock().iter().filter_map(Weak::upgrade).collect();
        let now = Instant::now();
        let callers = callers
            .iter()
            .filter(|caller| of.is_none_or(|ip| shared_by(caller.peer().ip()) == shared_by(ip)));
        for caller in callers.filter(|caller| caller.stalled_for(now) >= limit) {
            if caller.end() {
                tracing::warn!(
                    peer = %caller.peer(),
                    ?limit,
                    "a connection is closed: an answer on it was not taken in time (limits.stalled_ms, less while others wait)"
                );
                self.metrics.stalled.inc();
            }
        }
    }

    /// Takes so much of the whole, and of the parts of a connection and its address, or says whose part is used up. The
    /// whole is never exceeded; a share may be by what others take at the same moment.
    pub(super) fn take(
        &self,
        resource: Resource,
        amount: usize,
        address: &AtomicUsize,
        connection: &AtomicUsize,
    ) -> Result<(), Whose> {
        let (limit, used) = (self.limit(resource), &self.used[resource as usize]);
        let mut known = used.load(SeqCst);
        loop {
            let free = limit.checked_sub(known.saturating_add(amount)).ok_or(Whose::Broker)?;
            let of_address = address.load(SeqCst) + amount;
            let of_connection = connection.load(SeqCst) + amount;
            if !self.is_little(resource, of_connection) && of_address > amount {
                let left = self.left(free, of_address).ok_or(Whose::Address)?;
                match of_connection == amount {
                    true if amount > left => return Err(Whose::Address),
                    false if of_connection > left / CONNECTION_PART => return Err(Whose::Connection),
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

    /// Whether so much is a little, which is always there as long as not everything is taken.
    pub(super) fn is_little(&self, resource: Resource, amount: usize) -> bool {
        amount <= self.limit(resource) / LITTLE_PART
    }

    /// What an address that holds so much may still take while so much is free; `None` when it holds too much. Each bit that
    /// it takes makes both less.
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

/// The address that a client has for itself: of version 6 it has a network of 64 bits.
fn shared_by(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
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
        fn fill(&self, budgets: &Budgets) -> Whose {
            loop {
                if let Err(whose) = self.take(budgets, 1) {
                    return whose;
                }
            }
        }

        fn take(&self, budgets: &Budgets, amount: usize) -> Result<(), Whose> {
            budgets.take(Resource::Fetch, amount, self.address, &self.held)
        }

        fn held(&self) -> usize {
            self.held.load(SeqCst)
        }
    }

    fn budgets(percent: usize) -> Budgets {
        Budgets::with([LIMIT; Resource::ALL.len()], percent, AdmissionMetrics::default())
    }

    #[test]
    fn one_connection_alone_gets_a_quarter() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        let greedy = Client::at(&address);
        assert_eq!(greedy.fill(&budgets), Whose::Connection);
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
        let budgets = Budgets::with([1_000_000; Resource::ALL.len()], 75, AdmissionMetrics::default());
        let address = AtomicUsize::new(0);
        for amount in [100_000, 10_000, 1_000, 100] {
            while Client::at(&address).take(&budgets, amount).is_ok() && address.load(SeqCst) < 760_000 {}
        }
        assert_eq!(Client::at(&address).take(&budgets, 5_000), Err(Whose::Address));
        assert_eq!(Client::at(&address).take(&budgets, 400), Ok(()));
    }

    #[test]
    fn who_holds_nothing_may_take_all_that_is_free() {
        let budgets = budgets(75);
        let address = AtomicUsize::new(0);
        let large = Client::at(&address);
        assert_eq!(large.take(&budgets, LIMIT), Ok(()));
        assert_eq!(Client::at(&AtomicUsize::new(0)).take(&budgets, 1), Err(Whose::Broker));
    }

    #[test]
    fn a_network_of_version_6_is_one_address() {
        let shared = |text: &str| shared_by(text.parse().expect("it is an address"));
        assert_eq!(shared("2001:db8::1"), shared("2001:db8::ffff:2"));
        assert_ne!(shared("2001:db8::1"), shared("2001:db8:0:1::1"));
        assert_eq!(shared("::ffff:10.0.0.1"), shared("10.0.0.1"));
        assert_ne!(shared("10.0.0.1"), shared("10.0.0.2"));
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
        assert_eq!(client.fill(&budgets), Whose::Connection);
        assert_eq!(client.held(), 250);
    }
}
