//! Limits the connections of one listener.
//!
//! A listener has a bounded number of slots, and each address a bounded share of them ([`GateLimits`]). When all slots are taken,
//! a new connection from an address that has fewer than the one with the most is still admitted: of the latter's connections the
//! longest idle one is evicted. So one address cannot lock others out by holding idle connections. Any other new connection is
//! refused.
//!
//! A connection that sends nothing after it was opened, or that has no call for [`GateLimits::idle`], is closed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::metrics::{ConnectionMetrics, ListenerMetrics};
use super::protocol::Protocol;

/// How often connections are checked for being idle.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A connection must send `FIRST_BYTES` within this time. A client sends them at once, without waiting for the server.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// The length of HTTP/2's preface (RFC 9113, section 3.4). A request of HTTP/1.1, which has a Host header, is not shorter.
const FIRST_BYTES: u64 = 24;
/// A connection may be evicted only after nothing but pings came on it for this long: bytes that have just arrived may belong to
/// a request that is not counted as a call yet.
const EVICTABLE_AFTER: Duration = Duration::from_secs(1);
/// The length of an HTTP/2 PING frame (RFC 9113, section 6.7): a read of exactly this many bytes is taken for one.
const PING_BYTES: usize = 17;
/// Evicted connections that may still be closing while their successors are already admitted.
pub(super) const EVICTING_MAX: usize = 32;
/// An HTTP/1 connection is closed after this long without a byte. It is longer than the usual interval between two scrapes.
pub(crate) const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// The least time between two log lines about refused connections.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// After this long without a refusal the log says that refusals are over. Refused clients try again about each second.
const REFUSALS_OVER_AFTER: Duration = Duration::from_secs(5);

/// How many connections a listener takes, and for how long they may have no call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateLimits {
    /// Connections of all addresses together.
    pub total: usize,
    /// Connections of one address (of IPv6, of one /64 network).
    pub per_address: usize,
    /// A connection without a call for this long is closed.
    pub idle: Duration,
}

/// Why a new connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The listener has `limit` connections.
    Full { limit: usize },
    /// The address has `limit` connections, its share of the listener.
    Address { address: IpAddr, limit: usize },
}

/// The values of [`Refused::cause`], which are labels of a metric.
const REFUSALS: [&str; 2] = ["full", "address"];

impl Refused {
    fn cause(self) -> &'static str {
        let [full, address] = REFUSALS;
        match self {
            Refused::Full { .. } => full,
            Refused::Address { .. } => address,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Full { limit } => write!(
                f,
                "TOO_MANY_CONNECTIONS: this broker has {limit} connections and takes no more here: close some, or see \
                 limits.connections_max and the limit of open files"
            ),
            Refused::Address { address, limit } => write!(
                f,
                "TOO_MANY_CONNECTIONS: {address} has {limit} connections here and gets no more: share connections, or \
                 raise limits.connections_per_address_max"
            ),
        }
    }
}

/// Why this broker closes an admitted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cause {
    /// The peer did not send its first bytes in time.
    Silent = 1,
    /// The connection had no call for longer than the limit.
    Idle = 2,
    /// The connection had no call, and its slot was needed for another address.
    Evicted = 3,
}

impl Cause {
    const ALL: [Self; 3] = [Cause::Silent, Cause::Idle, Cause::Evicted];

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as u8 == code)
    }

    /// The value of the metric's label `cause`.
    fn name(self) -> &'static str {
        match self {
            Cause::Silent => "silent",
            Cause::Idle => "idle",
            Cause::Evicted => "made_way",
        }
    }

    /// The reason that the peer is sent.
    pub fn text(self) -> &'static str {
        match self {
            Cause::Silent => "nothing was sent on this connection",
            Cause::Idle => "no call on this connection for longer than limits.connection_idle_ms",
            Cause::Evicted => "this connection had no call, and its place was needed for another address",
        }
    }
}

/// The state of an admitted connection that the gate and the connection's own task share.
pub(crate) struct ConnectionState {
    listener: Arc<str>,
    protocol: Protocol,
    peer: SocketAddr,
    opened: Instant,
    bytes_read: AtomicU64,
    calls: AtomicU32,
    /// When a call last ended, or bytes other than a ping last came: milliseconds after `opened`.
    active_at_ms: AtomicU64,
    /// The [`Cause`] for which the connection is to be closed; 0 while it may stay.
    ending: AtomicU8,
    /// When `ending` was set, milliseconds after `opened`.
    ending_at_ms: AtomicU64,
    reader: AtomicWaker,
}

impl ConnectionState {
    fn new(listener: Arc<str>, protocol: Protocol, peer: SocketAddr) -> Self {
        Self {
            listener,
            protocol,
            peer,
            opened: Instant::now(),
            bytes_read: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            active_at_ms: AtomicU64::new(0),
            ending: AtomicU8::new(0),
            ending_at_ms: AtomicU64::new(0),
            reader: AtomicWaker::new(),
        }
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_active(&self) {
        self.active_at_ms.store(self.now_ms(), Ordering::Release);
    }

    pub(super) fn begins_call(&self) {
        self.calls.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn ends_call(&self) {
        self.is_active();
        self.calls.fetch_sub(1, Ordering::AcqRel);
    }

    /// Records that the connection has read this many bytes.
    pub(super) fn has_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        if bytes != PING_BYTES || !self.protocol.is_http2() {
            self.is_active();
        }
    }

    /// Registers the task that reads the connection, which is woken when the connection is to be closed.
    pub(super) fn wake_by(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// Why the connection is to be closed now, if it is. The gate's decision is revoked when a call has begun since.
    pub(super) fn ends(&self) -> Option<Cause> {
        let cause = Cause::of(self.ending.load(Ordering::Acquire))?;
        let is_used = self.calls.load(Ordering::Acquire) > 0
            || self.active_at_ms.load(Ordering::Acquire) > self.ending_at_ms.load(Ordering::Acquire);
        if is_used && cause != Cause::Silent {
            self.ending.store(0, Ordering::Release);
            return None;
        }
        Some(cause)
    }

    fn end(&self, cause: Cause) {
        self.ending_at_ms.store(self.now_ms(), Ordering::Release);
        self.ending.store(cause as u8, Ordering::Release);
        self.reader.wake();
    }

    /// For how long the connection has been idle, pings apart; `None` while it has a call or is being closed.
    fn idle_for(&self) -> Option<Duration> {
        let is_free = self.calls.load(Ordering::Acquire) == 0 && self.ending.load(Ordering::Acquire) == 0;
        let active_at = Duration::from_millis(self.active_at_ms.load(Ordering::Acquire));
        is_free.then(|| self.opened.elapsed().saturating_sub(active_at))
    }

    fn is_silent(&self) -> bool {
        self.bytes_read.load(Ordering::Relaxed) < FIRST_BYTES && self.opened.elapsed() >= FIRST_BYTES_TIMEOUT
    }
}

/// An admitted connection's slot, which is free again when this is dropped.
pub(super) struct Slot {
    gate: Arc<Gate>,
    connection: Arc<ConnectionState>,
}

impl Slot {
    pub fn connection(&self) -> &Arc<ConnectionState> {
        &self.connection
    }

    pub fn protocol(&self) -> Protocol {
        self.gate.protocol
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.left(&self.connection);
    }
}

#[derive(Default)]
struct Slots {
    total: usize,
    /// The connections of each address. No list is empty.
    by_address: BTreeMap<IpAddr, Vec<Arc<ConnectionState>>>,
    /// The current series of refusals, if there is one.
    refusing: Option<Refusing>,
}

/// A series of refusals, for the log.
struct Refusing {
    since: Instant,
    last: Instant,
    logged_at: Instant,
    count: u64,
    /// Refusals since the last log line.
    unlogged: u64,
}

/// Admits and closes the connections of one listener.
pub(crate) struct Gate {
    listener: Arc<str>,
    protocol: Protocol,
    limits: GateLimits,
    evictable_after: Duration,
    metrics: ListenerMetrics,
    slots: Mutex<Slots>,
}

impl Gate {
    pub fn new(listener: &str, protocol: Protocol, limits: GateLimits, metrics: &ConnectionMetrics) -> Arc<Self> {
        Arc::new(Self {
            listener: listener.into(),
            protocol,
            limits,
            evictable_after: EVICTABLE_AFTER,
            metrics: metrics.of_listener(listener, limits.total, &REFUSALS, &Cause::ALL.map(Cause::name)),
            slots: Mutex::default(),
        })
    }

    pub fn listener(&self) -> &str {
        &self.listener
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Counts an accept that failed for lack of a resource.
    pub(super) fn accept_failed(&self) {
        self.metrics.accept_failed();
    }

    /// Gives a new connection a slot, or refuses it.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<Slot, Refused> {
        let address = counted_address(peer.ip());
        let mut slots = self.slots.lock();
        if let Err(refused) = self.check_room(&slots, address) {
            self.refused(&mut slots, refused);
            return Err(refused);
        }
        let connection = Arc::new(ConnectionState::new(self.listener.clone(), self.protocol, peer));
        slots.total += 1;
        slots.by_address.entry(address).or_default().push(connection.clone());
        drop(slots);
        self.metrics.opened();
        Ok(Slot {
            gate: self.clone(),
            connection,
        })
    }

    /// Checks that one more connection of this address fits, and evicts another connection if one is needed.
    fn check_room(&self, slots: &Slots, address: IpAddr) -> Result<(), Refused> {
        let GateLimits { total, per_address, .. } = self.limits;
        let may_evict = slots.total < total + EVICTING_MAX;
        let own = slots.by_address.get(&address).map_or(0, Vec::len);
        if own >= per_address {
            // Connections between brokers carry a call for as long as they are in use. One without is either not a broker's, also
            // when it comes from a broker's address, or can be opened again at no loss.
            let evicted = self.protocol == Protocol::Internal && may_evict && self.evict_idlest(slots, address);
            return evicted.then_some(()).ok_or(Refused::Address {
                address,
                limit: per_address,
            });
        }
        if slots.total < total {
            return Ok(());
        }
        let most = slots.by_address.iter().max_by_key(|(_, connections)| connections.len());
        let evicted = most.is_some_and(|(from, connections)| {
            may_evict && connections.len() > own + 1 && self.evict_idlest(slots, *from)
        });
        evicted.then_some(()).ok_or(Refused::Full { limit: total })
    }

    /// Closes the longest idle connection of an address; false when none of them may be evicted.
    fn evict_idlest(&self, slots: &Slots, address: IpAddr) -> bool {
        let connections = slots.by_address.get(&address).into_iter().flatten();
        let idle = connections.filter_map(|connection| Some((connection.idle_for()?, connection)));
        let evictable = idle.filter(|(idle, _)| *idle >= self.evictable_after);
        let Some((_, idlest)) = evictable.max_by_key(|(idle, _)| *idle) else {
            return false;
        };
        self.end(idlest, Cause::Evicted);
        true
    }

    fn end(&self, connection: &ConnectionState, cause: Cause) {
        self.metrics.ended(cause.name());
        connection.end(cause);
    }

    fn left(&self, connection: &Arc<ConnectionState>) {
        let address = counted_address(connection.peer.ip());
        let mut slots = self.slots.lock();
        let here = slots.by_address.get_mut(&address).expect("it was put there");
        let at = here.iter().position(|other| Arc::ptr_eq(other, connection));
        here.swap_remove(at.expect("it was put there"));
        if here.is_empty() {
            slots.by_address.remove(&address);
        }
        slots.total -= 1;
        drop(slots);
        self.metrics.closed();
    }

    /// Counts and logs a refusal: the first of a series at once, further ones by their number at an interval.
    fn refused(&self, slots: &mut Slots, refused: Refused) {
        self.metrics.refused(refused.cause());
        let now = Instant::now();
        let is_first = slots.refusing.is_none();
        let refusing = slots.refusing.get_or_insert(Refusing {
            since: now,
            last: now,
            logged_at: now,
            count: 0,
            unlogged: 0,
        });
        refusing.last = now;
        refusing.count += 1;
        refusing.unlogged += 1;
        if !is_first && now - refusing.logged_at < REFUSAL_LOG_INTERVAL {
            return;
        }
        let (listener, count) = (self.listener(), refusing.unlogged);
        tracing::warn!(listener, count, reason = %refused, "connections were refused");
        refusing.logged_at = now;
        refusing.unlogged = 0;
    }

    /// Logs the end of a series of refusals, once there was none for `REFUSALS_OVER_AFTER`.
    fn log_end_of_refusals(&self, slots: &mut Slots) {
        let is_over = |refusing: &mut Refusing| refusing.last.elapsed() >= REFUSALS_OVER_AFTER;
        if let Some(over) = slots.refusing.take_if(is_over) {
            let (listener, count) = (self.listener(), over.count);
            let seconds = (over.last - over.since).as_secs();
            tracing::info!(listener, count, seconds, "connections are no longer refused");
        }
    }

    /// Spawns the task that closes silent and idle connections. It ends when the gate is dropped.
    pub fn watch_idle(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(watch_idle(weak));
    }

    fn end_idle(&self) {
        let mut slots = self.slots.lock();
        self.log_end_of_refusals(&mut slots);
        for connection in slots.by_address.values().flatten() {
            let Some(idle) = connection.idle_for() else {
                continue;
            };
            if connection.is_silent() {
                self.end(connection, Cause::Silent);
            } else if idle >= self.limits.idle {
                self.end(connection, Cause::Idle);
            }
        }
    }
}

async fn watch_idle(gate: Weak<Gate>) {
    let mut tick = tokio::time::interval(IDLE_CHECK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(gate) = gate.upgrade() else { return };
        gate.end_idle();
    }
}

/// The address that a connection counts for: an IPv4 address, also when it is mapped into IPv6, or the /64 network of an IPv6
/// address, since one host has all addresses of its network (RFC 6177).
pub(crate) fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GateLimits = GateLimits {
        total: 8,
        per_address: 6,
        idle: Duration::from_secs(600),
    };

    fn gate(evictable_after: Duration) -> Arc<Gate> {
        Arc::new(Gate {
            listener: "public".into(),
            protocol: Protocol::Grpc,
            limits: LIMITS,
            evictable_after,
            metrics: ListenerMetrics::default(),
            slots: Mutex::default(),
        })
    }

    fn from(host: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, host], 1000))
    }

    fn admit(gate: &Arc<Gate>, host: u8) -> Slot {
        gate.admit(from(host)).unwrap_or_else(|refused| panic!("{refused}"))
    }

    #[test]
    fn an_address_gets_no_more_than_its_share_and_a_place_that_is_given_back_is_free() {
        let gate = gate(EVICTABLE_AFTER);
        let mut slots: Vec<Slot> = (0..6).map(|_| admit(&gate, 1)).collect();
        let refused = gate.admit(from(1)).err();
        assert!(matches!(refused, Some(Refused::Address { limit: 6, .. })));
        let other = admit(&gate, 2);
        slots.pop();
        slots.push(admit(&gate, 1));
        drop((slots, other));
        let slots = gate.slots.lock();
        assert_eq!((slots.total, slots.by_address.len()), (0, 0));
    }

    #[test]
    fn a_connection_without_a_call_makes_way_for_an_address_with_fewer() {
        let gate = gate(Duration::ZERO);
        let many: Vec<Slot> = (0..6).map(|_| admit(&gate, 1)).collect();
        let few: Vec<Slot> = (0..2).map(|_| admit(&gate, 2)).collect();
        for busy in &many[1..] {
            busy.connection.begins_call();
        }
        let ending = |slots: &[Slot]| slots.iter().filter(|slot| slot.connection.ends().is_some()).count();
        let newcomer = admit(&gate, 3);
        assert_eq!(many[0].connection.ends(), Some(Cause::Evicted));
        assert_eq!((ending(&many), ending(&few)), (1, 0));
        // The others all have calls.
        assert_eq!(gate.admit(from(4)).err(), Some(Refused::Full { limit: 8 }));
        drop(newcomer);
    }

    #[test]
    fn a_connection_that_has_just_come_does_not_make_way() {
        let gate = gate(EVICTABLE_AFTER);
        let _many: Vec<Slot> = (0..6).map(|_| admit(&gate, 1)).collect();
        let _few: Vec<Slot> = (0..2).map(|_| admit(&gate, 2)).collect();
        assert_eq!(gate.admit(from(3)).err(), Some(Refused::Full { limit: 8 }));
    }

    #[test]
    fn a_call_that_comes_in_time_keeps_its_connection() {
        let connection = ConnectionState::new("public".into(), Protocol::Grpc, from(1));
        connection.end(Cause::Idle);
        assert_eq!(connection.ends(), Some(Cause::Idle));
        connection.begins_call();
        assert_eq!(connection.ends(), None);
        connection.ends_call();
        assert_eq!(connection.ends(), None, "the decision was taken back");
    }

    #[test]
    fn a_host_is_counted_once_whatever_its_address_looks_like() {
        let counted = |text: &str| counted_address(text.parse().expect("an address"));
        assert_eq!(counted("::ffff:10.0.0.1"), counted("10.0.0.1"));
        assert_ne!(counted("10.0.0.1"), counted("10.0.0.2"));
        assert_eq!(counted("2001:db8::1"), counted("2001:db8::2:0:0:3"));
        assert_ne!(counted("2001:db8::1"), counted("2001:db8:0:1::1"));
    }
}
