//! Who gets in at a listener.
//!
//! A listener has places for so many connections, and one address may have so many of them. When all are taken, a
//! connection from an address that has fewer than the one with the most still gets in: the connection of the latter that
//! has been without a call for longest makes way. So one address cannot keep others out by opening connections and
//! leaving them alone. Others are refused.
//!
//! A connection that says nothing after it was opened, or has no call for long, is ended: nobody uses it.

use std::collections::HashMap;
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

/// Connections are looked at for silence so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A connection that has not sent its first bytes within this time ends: HTTP/2's preface takes no thought.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);
/// HTTP/2's preface (RFC 9113, section 3.4) has so many bytes, and HTTP/1's shortest request not fewer.
const FIRST_BYTES: u64 = 24;
/// A connection makes way only when nothing but pings came on it for so long: a request may be on its way to be counted.
const AT_REST_AFTER: Duration = Duration::from_secs(1);
/// A PING frame with its answer's flag, as one read.
const PING_BYTES: usize = 17;
/// Connections that may be on their way out while others have their places already.
pub(super) const MAKING_WAY_MAX: usize = 32;
/// HTTP/1 without a byte: longer than between two scrapes.
pub(crate) const HTTP_IDLE: Duration = Duration::from_secs(90);
/// Between two lines of the log about connections that were refused.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Without a refusal for so long it is over: clients that were refused try again each second.
const REFUSALS_OVER_AFTER: Duration = Duration::from_secs(5);

/// How many connections a listener takes, and for how long they may have no call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateLimits {
    /// All together.
    pub total: usize,
    /// From one address.
    pub per_address: usize,
    /// Without a call.
    pub idle: Duration,
}

/// Why a connection did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The listener is full.
    Full { limit: usize },
    /// The address has as many as it may have.
    Address { address: IpAddr, limit: usize },
}

/// What [`Refused::cause`] gives.
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

/// Why a connection that was in has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cause {
    /// It never said anything.
    Silent = 1,
    /// It had no call for long.
    Idle = 2,
    /// It had no call, and its place was needed.
    MadeWay = 3,
}

impl Cause {
    const ALL: [Self; 3] = [Cause::Silent, Cause::Idle, Cause::MadeWay];

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as u8 == code)
    }

    fn name(self) -> &'static str {
        match self {
            Cause::Silent => "silent",
            Cause::Idle => "idle",
            Cause::MadeWay => "made_way",
        }
    }

    /// For the peer.
    pub fn text(self) -> &'static str {
        match self {
            Cause::Silent => "nothing was sent on this connection",
            Cause::Idle => "no call on this connection for longer than limits.connection_idle_ms",
            Cause::MadeWay => "this connection had no call, and its place was needed for another address",
        }
    }
}

/// An admitted connection, as the gate sees it.
pub(crate) struct Occupant {
    listener: Arc<str>,
    protocol: Protocol,
    peer: SocketAddr,
    opened: Instant,
    bytes_read: AtomicU64,
    calls: AtomicU32,
    /// When a call began or ended, or bytes came that were no ping: milliseconds after `opened`.
    active_at_ms: AtomicU64,
    /// A [`Cause`]; 0: it may stay.
    ending: AtomicU8,
    /// When that was decided, in the same milliseconds.
    ending_at_ms: AtomicU64,
    reader: AtomicWaker,
}

impl Occupant {
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

    /// Bytes came.
    pub(super) fn has_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        if bytes != PING_BYTES || !self.protocol.is_http2() {
            self.is_active();
        }
    }

    /// Whom to wake when the connection shall end.
    pub(super) fn wake_by(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// Why the connection ends now, if it does. Not when a call came in after that was decided.
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

    /// For how long nothing but pings came; `None`: it has a call, or is on its way out.
    fn at_rest_for(&self) -> Option<Duration> {
        let is_free = self.calls.load(Ordering::Acquire) == 0 && self.ending.load(Ordering::Acquire) == 0;
        let active_at = Duration::from_millis(self.active_at_ms.load(Ordering::Acquire));
        is_free.then(|| self.opened.elapsed().saturating_sub(active_at))
    }

    fn is_silent(&self) -> bool {
        self.bytes_read.load(Ordering::Relaxed) < FIRST_BYTES && self.opened.elapsed() >= FIRST_BYTES_WITHIN
    }
}

/// A connection's place. Dropping it lets the next one in.
pub(super) struct Place {
    gate: Arc<Gate>,
    occupant: Arc<Occupant>,
}

impl Place {
    pub fn occupant(&self) -> &Arc<Occupant> {
        &self.occupant
    }

    pub fn protocol(&self) -> Protocol {
        self.gate.protocol
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.left(&self.occupant);
    }
}

#[derive(Default)]
struct Places {
    total: usize,
    /// By address; none is empty.
    by_address: HashMap<IpAddr, Vec<Arc<Occupant>>>,
    /// While connections are refused.
    refusing: Option<Refusing>,
}

/// Connections are refused, since then.
struct Refusing {
    since: Instant,
    last: Instant,
    told_at: Instant,
    count: u64,
    untold: u64,
}

/// See the module text. One per listener.
pub(crate) struct Gate {
    listener: Arc<str>,
    protocol: Protocol,
    limits: GateLimits,
    at_rest_after: Duration,
    metrics: ListenerMetrics,
    places: Mutex<Places>,
}

impl Gate {
    pub fn new(listener: &str, protocol: Protocol, limits: GateLimits, metrics: &ConnectionMetrics) -> Arc<Self> {
        Arc::new(Self {
            listener: listener.into(),
            protocol,
            limits,
            at_rest_after: AT_REST_AFTER,
            metrics: metrics.of_listener(listener, limits.total, &REFUSALS, &Cause::ALL.map(Cause::name)),
            places: Mutex::default(),
        })
    }

    pub fn listener(&self) -> &str {
        &self.listener
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The system gave no connection although one waits.
    pub(super) fn accept_failed(&self) {
        self.metrics.accept_failed();
    }

    /// Gives a new connection its place.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<Place, Refused> {
        let address = holder(peer.ip());
        let mut places = self.places.lock();
        let admitted = self.has_room(&places, address);
        if let Err(refused) = admitted {
            self.refused(&mut places, refused);
            return Err(refused);
        }
        let occupant = Arc::new(Occupant::new(self.listener.clone(), self.protocol, peer));
        places.total += 1;
        places.by_address.entry(address).or_default().push(occupant.clone());
        drop(places);
        self.metrics.opened();
        Ok(Place {
            gate: self.clone(),
            occupant,
        })
    }

    /// Whether there is room for one more from this address, made by another connection if need be.
    fn has_room(&self, places: &Places, address: IpAddr) -> Result<(), Refused> {
        let GateLimits { total, per_address, .. } = self.limits;
        let has_all_but_those = places.total < total + MAKING_WAY_MAX;
        let own = places.by_address.get(&address).map_or(0, Vec::len);
        if own >= per_address {
            // Every connection between brokers that matters has a call: one without is a stranger's, also if it has a broker's
            // address, or can be made again.
            let makes_way = self.protocol == Protocol::Internal && has_all_but_those && self.make_way(places, address);
            return makes_way.then_some(()).ok_or(Refused::Address {
                address,
                limit: per_address,
            });
        }
        if places.total < total {
            return Ok(());
        }
        let most = places.by_address.iter().max_by_key(|(_, occupants)| occupants.len());
        let makes_way = most.is_some_and(|(from, occupants)| {
            has_all_but_those && occupants.len() > own + 1 && self.make_way(places, *from)
        });
        makes_way.then_some(()).ok_or(Refused::Full { limit: total })
    }

    /// The connection of an address that is at rest for longest is ended; false: none is.
    fn make_way(&self, places: &Places, address: IpAddr) -> bool {
        let occupants = places.by_address.get(&address).into_iter().flatten();
        let at_rest = occupants.filter_map(|occupant| Some((occupant.at_rest_for()?, occupant)));
        let at_rest = at_rest.filter(|(rest, _)| *rest >= self.at_rest_after);
        let Some((_, longest)) = at_rest.max_by_key(|(rest, _)| *rest) else {
            return false;
        };
        self.end(longest, Cause::MadeWay);
        true
    }

    fn end(&self, occupant: &Occupant, cause: Cause) {
        self.metrics.ended(cause.name());
        occupant.end(cause);
    }

    fn left(&self, occupant: &Arc<Occupant>) {
        let address = holder(occupant.peer.ip());
        let mut places = self.places.lock();
        let here = places.by_address.get_mut(&address).expect("it was put there");
        let at = here.iter().position(|other| Arc::ptr_eq(other, occupant));
        here.swap_remove(at.expect("it was put there"));
        if here.is_empty() {
            places.by_address.remove(&address);
        }
        places.total -= 1;
        drop(places);
        self.metrics.closed();
    }

    /// Counts it, and tells the log: the first at once, then how many there were.
    fn refused(&self, places: &mut Places, refused: Refused) {
        self.metrics.refused(refused.cause());
        let now = Instant::now();
        let is_first = places.refusing.is_none();
        let refusing = places.refusing.get_or_insert(Refusing {
            since: now,
            last: now,
            told_at: now,
            count: 0,
            untold: 0,
        });
        refusing.last = now;
        refusing.count += 1;
        refusing.untold += 1;
        if !is_first && now - refusing.told_at < TOLD_EVERY {
            return;
        }
        let (listener, count) = (self.listener(), refusing.untold);
        tracing::warn!(listener, count, reason = %refused, "connections were refused");
        refusing.told_at = now;
        refusing.untold = 0;
    }

    /// Tells the log when connections have not been refused for a while.
    fn look_at_refusals(&self, places: &mut Places) {
        let is_over = |refusing: &mut Refusing| refusing.last.elapsed() >= REFUSALS_OVER_AFTER;
        if let Some(over) = places.refusing.take_if(is_over) {
            let (listener, count) = (self.listener(), over.count);
            let seconds = (over.last - over.since).as_secs();
            tracing::info!(listener, count, seconds, "connections are no longer refused");
        }
    }

    /// Ends connections that nobody uses, from now on, as long as the gate is there.
    pub fn watch_idle(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(watch_idle(weak));
    }

    fn end_idle(&self) {
        let mut places = self.places.lock();
        self.look_at_refusals(&mut places);
        for occupant in places.by_address.values().flatten() {
            let Some(at_rest) = occupant.at_rest_for() else {
                continue;
            };
            if occupant.is_silent() {
                self.end(occupant, Cause::Silent);
            } else if at_rest >= self.limits.idle {
                self.end(occupant, Cause::Idle);
            }
        }
    }
}

async fn watch_idle(gate: Weak<Gate>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(gate) = gate.upgrade() else { return };
        gate.end_idle();
    }
}

/// What connections are counted by: an IPv4 address, also when it comes in IPv6's clothes; of IPv6 the network, of which
/// one host has all addresses (RFC 6177).
fn holder(address: IpAddr) -> IpAddr {
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

    fn gate(at_rest_after: Duration) -> Arc<Gate> {
        Arc::new(Gate {
            listener: "public".into(),
            protocol: Protocol::Grpc,
            limits: LIMITS,
            at_rest_after,
            metrics: ListenerMetrics::default(),
            places: Mutex::default(),
        })
    }

    fn from(host: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, host], 1000))
    }

    fn admit(gate: &Arc<Gate>, host: u8) -> Place {
        gate.admit(from(host)).unwrap_or_else(|refused| panic!("{refused}"))
    }

    #[test]
    fn an_address_gets_no_more_than_its_share_and_a_place_that_is_given_back_is_free() {
        let gate = gate(AT_REST_AFTER);
        let mut places: Vec<Place> = (0..6).map(|_| admit(&gate, 1)).collect();
        let refused = gate.admit(from(1)).err();
        assert!(matches!(refused, Some(Refused::Address { limit: 6, .. })));
        let other = admit(&gate, 2);
        places.pop();
        places.push(admit(&gate, 1));
        drop((places, other));
        let places = gate.places.lock();
        assert_eq!((places.total, places.by_address.len()), (0, 0));
    }

    #[test]
    fn a_connection_without_a_call_makes_way_for_an_address_with_fewer() {
        let gate = gate(Duration::ZERO);
        let many: Vec<Place> = (0..6).map(|_| admit(&gate, 1)).collect();
        let few: Vec<Place> = (0..2).map(|_| admit(&gate, 2)).collect();
        for busy in &many[1..] {
            busy.occupant.begins_call();
        }
        let ending = |places: &[Place]| places.iter().filter(|place| place.occupant.ends().is_some()).count();
        let newcomer = admit(&gate, 3);
        assert_eq!(many[0].occupant.ends(), Some(Cause::MadeWay));
        assert_eq!((ending(&many), ending(&few)), (1, 0));
        // The others all have calls.
        assert_eq!(gate.admit(from(4)).err(), Some(Refused::Full { limit: 8 }));
        drop(newcomer);
    }

    #[test]
    fn a_connection_that_has_just_come_does_not_make_way() {
        let gate = gate(AT_REST_AFTER);
        let _many: Vec<Place> = (0..6).map(|_| admit(&gate, 1)).collect();
        let _few: Vec<Place> = (0..2).map(|_| admit(&gate, 2)).collect();
        assert_eq!(gate.admit(from(3)).err(), Some(Refused::Full { limit: 8 }));
    }

    #[test]
    fn a_call_that_comes_in_time_keeps_its_connection() {
        let occupant = Occupant::new("public".into(), Protocol::Grpc, from(1));
        occupant.end(Cause::Idle);
        assert_eq!(occupant.ends(), Some(Cause::Idle));
        occupant.begins_call();
        assert_eq!(occupant.ends(), None);
        occupant.ends_call();
        assert_eq!(occupant.ends(), None, "the decision was taken back");
    }

    #[test]
    fn a_host_is_counted_once_whatever_its_address_looks_like() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(holder(mapped), "10.0.0.1".parse::<IpAddr>().expect("an address"));
        let [one, other] = ["2001:db8::1", "2001:db8::2:0:0:3"].map(|text| text.parse::<IpAddr>().expect("an address"));
        assert_eq!(holder(one), holder(other));
    }
}
