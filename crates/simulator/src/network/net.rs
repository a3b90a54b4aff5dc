//! What all hosts share: who listens where, what is under way, and when it arrives.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jangada_env::Random;
use jangada_env::network::Pipe;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::mpsc;

use super::pipe::{End, Piece, Wakes, Way};
use crate::clock::Time;
use crate::current::Who;
use crate::trace::Trace;

/// How long a message is on its way between two hosts, microseconds.
const DELAY_US: Range<u64> = 200..2_000;
/// After how long what was lost is sent again, milliseconds.
const RETRANSMIT_MS: Range<u64> = 200..400;
/// After a link is mended, when what was lost meanwhile comes, milliseconds.
const MENDED_MS: Range<u64> = 1..500;
/// After a host has its power again, when peers learn that their connections are gone, milliseconds.
const STALE_MS: Range<u64> = 200..2_000;
/// How long a connection that is not answered is waited for, the first time. It doubles with each.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);
/// No longer than this.
const CONNECT_AGAIN_MAX: Duration = Duration::from_secs(32);
/// Ports that the system chooses from.
const FREE_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// A whole, of which a share is given in percent.
const HUNDRED: u64 = 100;

/// Both ends of a connection, while one of them is there.
struct Connection {
    ways: [Arc<Way>; 2],
    ends: u8,
}

/// An address at which a process listens.
pub(super) struct Bound {
    pub who: Arc<Who>,
    pub sender: mpsc::Sender<(End, SocketAddr)>,
}

/// What is wrong with the way from one host to another.
#[derive(Default)]
pub(super) struct Link {
    pub is_cut: bool,
    pub bytes_per_second: Option<u64>,
    /// When what was sent before has left the slow link.
    free_at: Duration,
    pub delay: Option<Range<Duration>>,
    pub stalled_until: Duration,
    pub loss_percent: u64,
    /// What waits until the link is mended.
    held: Vec<Arc<Way>>,
}

/// A way is to be looked at.
struct Due {
    at: Duration,
    sequence: u64,
    way: Arc<Way>,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

/// What all hosts share.
pub(crate) struct Net {
    time: Arc<Time>,
    random: Random,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<SocketAddr, Bound>,
    next_port: u16,
    connections: u64,
    open: BTreeMap<u64, Connection>,
    links: BTreeMap<(Ipv4Addr, Ipv4Addr), Link>,
    /// Hosts without power.
    dark: BTreeSet<Ipv4Addr>,
    due: BinaryHeap<Reverse<Due>>,
    sequence: u64,
}

impl State {
    fn schedule(&mut self, at: Duration, way: Arc<Way>) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.due.push(Reverse(Due { at, sequence, way }));
    }

    fn ways(&self) -> impl Iterator<Item = &Arc<Way>> {
        self.open.values().flat_map(|connection| &connection.ways)
    }
}

impl Net {
    pub fn new(random: Random, trace: Trace, time: Arc<Time>) -> Arc<Self> {
        let state = State {
            next_port: *FREE_PORTS.start(),
            ..State::default()
        };
        Arc::new(Self {
            time,
            random,
            trace,
            state: Mutex::new(state),
        })
    }

    pub(super) fn event(&self, numbers: &[u64], text: fmt::Arguments<'_>) {
        self.trace.event(numbers, text);
    }

    pub(super) fn note(&self, text: fmt::Arguments<'_>) {
        self.trace.note(text);
    }

    fn draw_ms(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.random.clone().random_range(range))
    }

    pub fn free_port(&self) -> u16 {
        let mut state = self.state.lock();
        let port = state.next_port;
        state.next_port = if port == *FREE_PORTS.end() {
            *FREE_PORTS.start()
        } else {
            port + 1
        };
        port
    }

    /// Takes an address.
    pub(super) fn listen(&self, address: SocketAddr, bound: Bound) -> io::Result<()> {
        let mut state = self.state.lock();
        if state
            .listeners
            .get(&address)
            .is_some_and(|other| !other.sender.is_closed())
        {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let before = state.listeners.insert(address, bound);
        // What waited there is dropped without the lock.
        drop(state);
        drop(before);
        Ok(())
    }

    /// When something that counts as so many bytes and leaves now is there.
    fn arrival(&self, from: Ipv4Addr, to: Ipv4Addr, bytes: usize) -> Duration {
        let now = self.time.now();
        let mut random = self.random.clone();
        let usual = Duration::from_micros(random.random_range(DELAY_US));
        let mut state = self.state.lock();
        let Some(link) = state.links.get_mut(&(from, to)) else {
            return now + usual;
        };
        let mut at = now;
        if let Some(per_second) = link.bytes_per_second {
            let micros = (bytes as u64).saturating_mul(1_000_000) / per_second.max(1);
            at = link.free_at.max(now) + Duration::from_micros(micros);
            link.free_at = at;
        }
        at += match &link.delay {
            Some(delay) if !delay.is_empty() => random.random_range(delay.clone()),
            _ => usual,
        };
        if link.loss_percent > 0 && random.random_range(0..HUNDRED) < link.loss_percent {
            at += Duration::from_millis(random.random_range(RETRANSMIT_MS));
        }
        at.max(link.stalled_until)
    }

    /// Sends a piece that counts as so many bytes.
    pub(super) fn send(&self, way: &Arc<Way>, piece: Piece, bytes: usize) {
        let at = self.arrival(way.from, way.to, bytes);
        if let Some(at) = way.send(piece, at) {
            self.state.lock().schedule(at, way.clone());
        }
    }

    /// What has arrived by now can be read.
    pub fn deliver(&self, now: Duration) {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        while let Some(Reverse(due)) = state.due.peek() {
            if due.at > now {
                break;
            }
            let Some(Reverse(Due { way, .. })) = state.due.pop() else {
                break;
            };
            let link = state.links.get_mut(&(way.from, way.to));
            if let Some(link) = link.filter(|link| link.is_cut) {
                link.held.push(way);
                continue;
            }
            let arrived = way.arrive(now, &mut wakes);
            if arrived.is_gone
                && let Some(connection) = state.open.get(&way.connection)
            {
                let back = connection
                    .ways
                    .iter()
                    .filter(|back| back.from == way.to && !Arc::ptr_eq(back, &way));
                back.for_each(|back| back.set_broken(&mut wakes));
            }
            if let Some(at) = arrived.next {
                state.schedule(at, way);
            }
        }
        drop(state);
        wakes.wake();
    }

    /// Both directions carry segments.
    fn is_reachable(&self, from: Ipv4Addr, to: Ipv4Addr) -> bool {
        let state = self.state.lock();
        let is_cut = |from, to| state.links.get(&(from, to)).is_some_and(|link| link.is_cut);
        !is_cut(from, to) && !is_cut(to, from) && !state.dark.contains(&to)
    }

    async fn cross(&self, from: Ipv4Addr, to: Ipv4Addr) {
        let takes = self.arrival(from, to, 0) - self.time.now();
        tokio::time::sleep(takes).await;
    }

    pub(super) async fn connect(
        self: Arc<Self>,
        who: Arc<Who>,
        from: Ipv4Addr,
        to: String,
    ) -> io::Result<Box<dyn Pipe>> {
        let invalid =
            |reason: &dyn fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, format!("{to}: {reason}"));
        let to: SocketAddr = to.parse().map_err(|error: std::net::AddrParseError| invalid(&error))?;
        let SocketAddr::V4(there) = to else {
            return Err(invalid(&"no host has an IPv6 address"));
        };
        let mut again = CONNECT_AGAIN;
        loop {
            self.cross(from, *there.ip()).await;
            if self.is_reachable(from, *there.ip()) {
                break;
            }
            tokio::time::sleep(again).await;
            again = (again * 2).min(CONNECT_AGAIN_MAX);
        }
        if who.is_dead() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let source = SocketAddr::new(from.into(), self.free_port());
        match self.accept(&who, source, there.ip(), to) {
            Some((number, near)) => {
                self.note(format_args!("net #{number} {source} connects to {to}"));
                // The answer of the listener's host.
                self.cross(*there.ip(), from).await;
                Ok(Box::new(near))
            }
            None => {
                self.note(format_args!("net {source} is refused by {to}"));
                self.cross(*there.ip(), from).await;
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    }

    /// The listener gets its end of a new connection; gives the connection's number and the other end.
    fn accept(
        self: &Arc<Self>,
        who: &Arc<Who>,
        source: SocketAddr,
        there: &Ipv4Addr,
        to: SocketAddr,
    ) -> Option<(u64, End)> {
        let std::net::IpAddr::V4(from) = source.ip() else {
            return None;
        };
        let (number, sender, other, out, back) = {
            let mut state = self.state.lock();
            let bound = state.listeners.get(&to).filter(|bound| !bound.who.is_dead())?;
            let (sender, other) = (bound.sender.clone(), bound.who.clone());
            state.connections += 1;
            let number = state.connections;
            let out = Arc::new(Way::new(number, (from, who), (*there, &other)));
            let back = Arc::new(Way::new(number, (*there, &other), (from, who)));
            let ways = [out.clone(), back.clone()];
            state.open.insert(number, Connection { ways, ends: 2 });
            (number, sender, other, out, back)
        };
        let near = End::new(self, who, '>', &back, &out);
        let far = End::new(self, &other, '<', &out, &back);
        // Nobody may hold the lock while an end is dropped.
        let accepted = sender.try_send((far, source)).is_ok();
        other.rouse();
        accepted.then_some((number, near))
    }

    pub(super) fn forget_end(&self, connection: u64) {
        let mut state = self.state.lock();
        if let Some(open) = state.open.get_mut(&connection) {
            open.ends -= 1;
            if open.ends == 0 {
                state.open.remove(&connection);
            }
        }
    }

    /// A process is gone at once: the system ends its connections. If the host is gone with it, nobody does.
    pub fn kill(&self, process: u32, host: Ipv4Addr, with_host: bool) {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        let listeners = std::mem::take(&mut state.listeners);
        let (closed, others): (BTreeMap<_, _>, _) =
            listeners.into_iter().partition(|(_, bound)| bound.who.id == process);
        state.listeners = others;
        if with_host {
            state.dark.insert(host);
        }
        let mut gone = Vec::new();
        for way in state.ways() {
            if !way.is_written_by(process) {
                continue;
            }
            match with_host {
                true => way.set_silent(true),
                false => gone.push(way.clone()),
            }
        }
        let read: Vec<Arc<Way>> = state
            .open
            .values()
            .flat_map(|connection| {
                let [out, back] = &connection.ways;
                [(out, back), (back, out)]
            })
            .filter(|(_, other)| other.is_written_by(process))
            .map(|(way, _)| way.clone())
            .collect();
        drop(state);
        drop(closed);
        read.iter().for_each(|way| way.set_void(&mut wakes));
        for way in gone {
            // With a reset if it had not read everything.
            let with_reset = self.random.number().is_multiple_of(2);
            self.send(&way, Piece::Gone { with_reset }, 0);
        }
        wakes.wake();
    }

    /// A host has its power again: who still writes on connections that it had learns that they are gone.
    pub fn power_on(&self, host: Ipv4Addr) {
        let stale: Vec<Arc<Way>> = {
            let mut state = self.state.lock();
            if !state.dark.remove(&host) {
                return;
            }
            let stale = state.ways().filter(|way| way.from == host && way.is_silent());
            stale.cloned().collect()
        };
        for way in stale {
            way.set_silent(false);
            let at = self.time.now() + self.draw_ms(STALE_MS);
            if let Some(at) = way.send(Piece::Gone { with_reset: true }, at) {
                self.state.lock().schedule(at, way);
            }
        }
    }

    /// Changes what is wrong with a link.
    pub(super) fn change(&self, from: Ipv4Addr, to: Ipv4Addr, change: impl FnOnce(&mut Link, Duration)) {
        let now = self.time.now();
        change(self.state.lock().links.entry((from, to)).or_default(), now);
    }

    /// Nothing is wrong with a link any more, or with all of them.
    pub(super) fn mend(&self, only: Option<(Ipv4Addr, Ipv4Addr)>) {
        let mut state = self.state.lock();
        let mended: Vec<Link> = match only {
            Some(link) => state.links.remove(&link).into_iter().collect(),
            None => std::mem::take(&mut state.links).into_values().collect(),
        };
        for way in mended.into_iter().flat_map(|link| link.held) {
            let at = self.time.now() + self.draw_ms(MENDED_MS);
            way.retransmit(at);
            state.schedule(at, way);
        }
    }

    /// Breaks all connections between two hosts.
    pub(super) fn reset(&self, one: Ipv4Addr, other: Ipv4Addr) -> usize {
        let between = |way: &Way| [(one, other), (other, one)].contains(&(way.from, way.to));
        let ways: Vec<Arc<Way>> = {
            let state = self.state.lock();
            let between = state.ways().filter(|way| between(way));
            between.cloned().collect()
        };
        let mut wakes = Wakes::default();
        ways.iter().for_each(|way| way.reset(&mut wakes));
        wakes.wake();
        ways.len() / 2
    }
}
