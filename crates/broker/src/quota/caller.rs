//! A client's connection, with what it holds of the shared resources.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::task::Context;
use std::time::Duration;

use futures::task::AtomicWaker;
use jangada_types::Reason;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::budget::{Address, Budgets};
use super::resource::{PerResource, Resource, Scope};
use super::sending::Sending;
use super::waits::Demand;
use crate::error::RequestError;

/// The retry delay that clients are told when a resource is used up.
const RETRY: Duration = Duration::from_millis(500);
/// The retry delay for batches. It is short, because their memory is freed by quorums and not by clients.
const PRODUCE_RETRY: Duration = Duration::from_millis(25);
/// The retry delay for offset commits and heartbeats.
const GROUP_RETRY: Duration = Duration::from_millis(100);
/// The retry delay for streams.
const STREAM_RETRY: Duration = Duration::from_secs(1);

/// How long a response may be without progress while others wait for the memory that it holds. A client that is busy for longer
/// without reading should fetch less at once.
const STALLED_AFTER_WHILE_OTHERS_WAIT: Duration = Duration::from_secs(2);
/// How often a call that waits checks for such responses.
const CHECK_INTERVAL_WHILE_OTHERS_WAIT: Duration = Duration::from_millis(250);

/// A client's connection, with what it holds; or a client of another broker whose calls are passed on.
pub(crate) struct Caller {
    peer: SocketAddr,
    address: Arc<Address>,
    used: PerResource<AtomicUsize>,
    /// For each resource, the turn to wait for it: of one connection one call waits at a time, in order, so that fewer tasks are
    /// woken when something is given back.
    turns: PerResource<Semaphore>,
    /// Bytes of the connection's flow-control window that messages may occupy while they wait for their holding.
    window_held: AtomicUsize,
    /// The responses that are being sent, by number.
    answers: Mutex<BTreeMap<u64, Arc<Sending>>>,
    next_answer: AtomicU64,
    is_ended: AtomicBool,
    socket: AtomicWaker,
}

impl Caller {
    /// A new connection from `peer`.
    pub fn new(peer: SocketAddr, budgets: &Arc<Budgets>) -> Arc<Self> {
        let caller = Arc::new(Self {
            peer,
            address: budgets.address(peer.ip()),
            used: PerResource::default(),
            turns: std::array::from_fn(|_| Semaphore::new(1)),
            window_held: AtomicUsize::new(0),
            answers: Mutex::default(),
            next_answer: AtomicU64::new(0),
            is_ended: AtomicBool::new(false),
            socket: AtomicWaker::new(),
        });
        let mut callers = budgets.callers.lock();
        callers.retain(|caller| caller.strong_count() > 0);
        callers.push(Arc::downgrade(&caller));
        drop(callers);
        caller
    }

    /// A connection with default budgets of its own.
    #[cfg(test)]
    pub fn alone() -> Arc<Self> {
        let settings = crate::settings::LimitSettings::default();
        let budgets = Budgets::new(&settings, crate::quota::QuotaMetrics::default());
        Self::new(SocketAddr::from(([127, 0, 0, 1], 1)), &budgets)
    }

    #[cfg(test)]
    pub fn held(&self, resource: Resource) -> usize {
        self.used[resource as usize].load(SeqCst)
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn budgets(&self) -> &Arc<Budgets> {
        &self.address.budgets
    }

    /// Takes an amount without waiting, or returns the scope whose limit is reached.
    pub fn take_now(self: &Arc<Self>, resource: Resource, amount: usize) -> Result<Holding, Scope> {
        let at = resource as usize;
        self.budgets()
            .take(resource, amount, &self.address.used[at], &self.used[at])?;
        Ok(Holding {
            caller: self.clone(),
            resource,
            amount,
        })
    }

    /// Takes an amount without waiting, or returns the error for the client.
    pub fn try_take(self: &Arc<Self>, resource: Resource, amount: usize) -> Result<Holding, RequestError> {
        self.take_now(resource, amount)
            .map_err(|scope| self.refused(resource, amount, scope))
    }

    /// Takes an amount as soon as it is free, or returns the error for the client after `timeout`.
    pub async fn take(
        self: &Arc<Self>,
        resource: Resource,
        amount: usize,
        timeout: Duration,
    ) -> Result<Holding, RequestError> {
        let at = resource as usize;
        let deadline = Instant::now() + timeout;
        let turn = tokio::time::timeout_at(deadline, self.turns[at].acquire()).await;
        let Ok(turn) = turn else {
            return Err(self.refused(resource, amount, Scope::Connection));
        };
        let _turn = turn.expect("it is never closed");
        let budgets = self.budgets();
        let mut waiter = budgets.waits[at].begin();
        loop {
            let given_back = budgets.waits[at].given_back();
            tokio::pin!(given_back);
            // Enabled before the check below, so that nothing that is given back in between is missed.
            given_back.as_mut().enable();
            let demand = Demand {
                address: Arc::as_ptr(&self.address).addr(),
                held: self.used[at].load(SeqCst),
                amount,
            };
            let yields = waiter.yields_to(demand);
            let yields = yields.filter(|_| !budgets.is_within_minimum(resource, demand.held + amount));
            let taken = yields.map_or_else(|| self.take_now(resource, amount), Err);
            let scope = match taken {
                Ok(holding) => return Ok(holding),
                Err(scope) => scope,
            };
            waiter.found_none(demand, scope);
            match scope {
                Scope::Connection => {}
                Scope::Address => budgets.end_stalled(STALLED_AFTER_WHILE_OTHERS_WAIT, Some(self.peer.ip())),
                Scope::Broker => budgets.end_stalled(STALLED_AFTER_WHILE_OTHERS_WAIT, None),
            }
            let check_again = deadline.min(Instant::now() + CHECK_INTERVAL_WHILE_OTHERS_WAIT);
            let given_back = tokio::time::timeout_at(check_again, given_back).await;
            if given_back.is_err() && check_again == deadline {
                return Err(self.refused(resource, amount, scope));
            }
        }
    }

    /// Lets a message wait for its holding while `bytes` of its stream are still to come: they stay in the connection's
    /// flow-control window meanwhile. `None` when that would be too much of this window, or of all connections' windows. One
    /// stream's worth of the connection's window is always left, since the stream that goes on may be the one that gives back
    /// what this message waits for.
    pub fn hold_window(self: &Arc<Self>, bytes: usize) -> Option<WindowHolding> {
        let windows = self.budgets().windows;
        let bytes = bytes.min(windows.stream);
        let in_all = self.take_now(Resource::Windows, bytes).ok()?;
        let holding = WindowHolding {
            caller: self.clone(),
            bytes,
            _in_all: in_all,
        };
        let before = self.window_held.fetch_add(bytes, SeqCst);
        (before + bytes <= windows.connection - windows.stream).then_some(holding)
    }

    /// Counts a refusal, and returns the error for the client.
    pub fn refused(&self, resource: Resource, amount: usize, scope: Scope) -> RequestError {
        let at = resource as usize;
        let budgets = self.budgets();
        budgets.metrics.refused(resource, scope);
        let (limit, setting) = (budgets.limit(resource), resource.setting());
        let (who, held) = match scope {
            Scope::Connection => ("this connection".to_owned(), self.used[at].load(SeqCst)),
            Scope::Address => (
                format!("address {}", self.peer.ip()),
                self.address.used[at].load(SeqCst),
            ),
            Scope::Broker => ("all clients together".to_owned(), budgets.used(resource)),
        };
        let (what, advice) = match resource {
            Resource::Requests => ("bytes of requests", "wait for responses before sending more"),
            Resource::Decoded => (
                "bytes of requests as they are decoded",
                "send fewer records, partitions or names at once",
            ),
            Resource::Answers => (
                "bytes of responses that it has not read",
                "read responses before sending further requests",
            ),
            Resource::Fetch | Resource::PlainFetch => (
                "bytes of fetched records that it has not read",
                "read responses before fetching more, or fetch less at once",
            ),
            Resource::Produce => (
                "bytes of batches that wait for their quorums",
                "wait for acknowledgements before sending more",
            ),
            Resource::Windows => ("bytes of requests that wait", "wait for responses before sending more"),
            Resource::Commits => (
                "bytes of commits that wait for their quorums",
                "wait for responses before committing more",
            ),
            Resource::Heartbeats => (
                "bytes of heartbeats that wait for their quorums",
                "send one at a time, with a shorter subscription",
            ),
            Resource::Calls => ("calls in flight", "wait for responses before sending more"),
            Resource::Streams => (
                "streams",
                "close streams, or read several partitions from fewer connections",
            ),
        };
        let share = match scope {
            Scope::Broker => "",
            _ => "its share while others need some, ",
        };
        let message =
            format!("no room for {amount} more: {who} has {held} {what}, {share}of {limit} ({setting}); {advice}");
        let (reason, retry) = match resource {
            Resource::Streams => (Reason::TooManyStreams, STREAM_RETRY),
            Resource::Produce => (Reason::BrokerBusy, PRODUCE_RETRY),
            Resource::Commits | Resource::Heartbeats => (Reason::BrokerBusy, GROUP_RETRY),
            _ => (Reason::BrokerBusy, RETRY),
        };
        RequestError::new(reason, message)
            .with("limit", limit)
            .retry_after(retry)
    }

    /// Registers a response that is to be sent.
    pub fn begin_answer(self: &Arc<Self>) -> Sent {
        let number = self.next_answer.fetch_add(1, Relaxed);
        let sending = Arc::new(Sending::new());
        self.answers.lock().insert(number, sending.clone());
        Sent {
            caller: Arc::downgrade(self),
            number,
            sending,
        }
    }

    /// The longest time that a response with unsent bytes has been without progress.
    pub(super) fn stalled_for(&self, now: Instant) -> Duration {
        let answers = self.answers.lock();
        let stalled = answers.values().map(|sending| sending.stalled_for(now));
        stalled.max().unwrap_or_default()
    }

    /// Closes the connection with all its calls; false if it was closed before.
    pub(super) fn end(&self) -> bool {
        let is_first = !self.is_ended.swap(true, SeqCst);
        self.socket.wake();
        is_first
    }

    /// Whether the connection is to be closed. If not, wakes the task of `cx` when it is later.
    pub fn is_ended(&self, cx: &Context<'_>) -> bool {
        if self.is_ended.load(SeqCst) {
            return true;
        }
        self.socket.register(cx.waker());
        self.is_ended.load(SeqCst)
    }
}

/// Shared by all bytes of a response: with the last of them the response is removed from its connection's list.
pub(crate) struct Sent {
    caller: Weak<Caller>,
    number: u64,
    sending: Arc<Sending>,
}

impl Sent {
    /// The progress of the response.
    pub fn progress(&self) -> &Sending {
        &self.sending
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(caller) = self.caller.upgrade() {
            caller.answers.lock().remove(&self.number);
        }
    }
}

/// Bytes of a connection's flow-control window, which are given back when this is dropped.
pub(crate) struct WindowHolding {
    caller: Arc<Caller>,
    bytes: usize,
    _in_all: Holding,
}

impl Drop for WindowHolding {
    fn drop(&mut self) {
        self.caller.window_held.fetch_sub(self.bytes, SeqCst);
    }
}

/// A part of a resource, which is given back when this is dropped.
pub(crate) struct Holding {
    caller: Arc<Caller>,
    resource: Resource,
    amount: usize,
}

impl Holding {
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// The connection that holds it.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Gives back what exceeds `amount`.
    pub fn shrink_to(&mut self, amount: usize) {
        if amount < self.amount {
            self.give_back(self.amount - amount);
            self.amount = amount;
        }
    }

    /// Takes what is missing to `amount`, or gives back what exceeds it.
    pub fn resize(&mut self, amount: usize) -> Result<(), RequestError> {
        if amount > self.amount {
            self.merge(self.caller.try_take(self.resource, amount - self.amount)?);
        }
        self.shrink_to(amount);
        Ok(())
    }

    /// Adds another holding of the same connection and resource to this one.
    pub fn merge(&mut self, mut other: Self) {
        debug_assert!(self.resource == other.resource && Arc::ptr_eq(&self.caller, &other.caller));
        self.amount += std::mem::take(&mut other.amount);
    }

    fn give_back(&self, amount: usize) {
        if amount > 0 {
            let (at, caller) = (self.resource as usize, &self.caller);
            caller
                .budgets()
                .give_back(self.resource, amount, &caller.address.used[at], &caller.used[at]);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::QuotaMetrics;

    const LIMIT: usize = 1_000;
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn callers(count: u16) -> Vec<Arc<Caller>> {
        let limits = [LIMIT; Resource::ALL.len()];
        let budgets = Arc::new(Budgets::with(limits, 75, QuotaMetrics::default()));
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (0..count).map(|port| Caller::new(address(port), &budgets)).collect()
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back() {
        let [first, second] = &callers(2)[..] else {
            unreachable!()
        };
        let all = first.try_take(Resource::Fetch, LIMIT).expect("nobody else holds any");
        let waits = second.clone();
        let waiting = tokio::spawn(async move {
            waits
                .take(Resource::Fetch, 500, TIMEOUT)
                .await
                .map(|held| held.amount())
        });
        tokio::task::yield_now().await;
        drop(all);
        assert_eq!(waiting.await.expect("it ends"), Ok(500));
        assert_eq!(second.budgets().used(Resource::Fetch), 0);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told_whose_part_is_used_up() {
        let [first, second] = &callers(2)[..] else {
            unreachable!()
        };
        let _held = first.try_take(Resource::Fetch, 200).expect("nobody else holds any");
        let refused = first
            .take(Resource::Fetch, 200, Duration::from_millis(10))
            .await
            .map(drop);
        let refused = refused.expect_err("it has its share");
        assert_eq!(refused.reason, Reason::BrokerBusy);
        assert!(refused.message.contains("this connection has 200 bytes"), "{refused}");
        assert!(refused.message.contains("limits.fetch_inflight_bytes"), "{refused}");
        // Another one does not wait behind it.
        second
            .take(Resource::Fetch, 100, Duration::ZERO)
            .await
            .expect("there is room");
    }

    #[tokio::test]
    async fn who_holds_something_takes_no_more_while_one_with_nothing_waits() {
        let [greedy, other, good] = &callers(3)[..] else {
            unreachable!()
        };
        let most = other.try_take(Resource::Fetch, 600).expect("nobody else holds any");
        let _some = greedy.try_take(Resource::Fetch, 10).expect("there is room");
        let waits = good.clone();
        let waiting = tokio::spawn(async move { waits.take(Resource::Fetch, 300, TIMEOUT).await });
        tokio::task::yield_now().await;
        let more = greedy.take(Resource::Fetch, 10, Duration::from_millis(10)).await;
        let refused = more.map(drop).expect_err("it is the other's turn");
        assert_eq!(refused.reason, Reason::BrokerBusy);
        drop(most);
        let taken = waiting.await.expect("it ends").expect("there is room");
        greedy
            .take(Resource::Fetch, 10, Duration::ZERO)
            .await
            .map(drop)
            .expect("nobody waits any more");
        drop(taken);
    }

    #[tokio::test]
    async fn a_connection_with_many_calls_takes_turns_with_one_that_has_one() {
        let [first, many, one] = &callers(3)[..] else {
            unreachable!()
        };
        let all = first.try_take(Resource::Fetch, LIMIT).expect("nobody else holds any");
        let order = Arc::new(Mutex::new(Vec::new()));
        let take = |caller: &Arc<Caller>, name: char| {
            let (caller, order) = (caller.clone(), order.clone());
            async move {
                let held = caller.take(Resource::Fetch, 600, TIMEOUT).await;
                let _held = held.expect("it comes to everybody");
                order.lock().push(name);
                tokio::task::yield_now().await;
            }
        };
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..5 {
            calls.spawn(take(many, 'm'));
        }
        let ones = [take(one, '1'), take(one, '1'), take(one, '1')];
        calls.spawn(async move {
            for one in ones {
                one.await;
            }
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(all);
        while let Some(ended) = calls.join_next().await {
            ended.expect("it ends");
        }
        assert_eq!(order.lock().iter().collect::<String>(), "m1m1m1mm");
    }

    #[test]
    fn what_waits_leaves_a_stream_its_window() {
        let caller = &Caller::alone();
        let window = caller.budgets().windows.stream;
        let small = caller.hold_window(window - 1).expect("nothing else waits");
        let one = caller.hold_window(1).expect("there is so much");
        assert!(caller.hold_window(1).is_none());
        drop((small, one));
        // However large a message is, no more than this of it is in the window.
        let large = caller.hold_window(16 * window).expect("nothing else waits");
        assert!(caller.hold_window(16 * window).is_none());
        drop(large);
        assert_eq!(caller.window_held.load(SeqCst), 0);
        assert_eq!(caller.budgets().used(Resource::Windows), 0);
    }

    #[test]
    fn what_waits_on_many_connections_has_a_bound_over_all_of_them() {
        let settings = crate::settings::LimitSettings::default();
        let budgets = Budgets::new(&settings, QuotaMetrics::default());
        let callers: Vec<_> = (0..1_000)
            .map(|port| Caller::new(SocketAddr::from(([127, 0, 0, 1], port)), &budgets))
            .collect();
        let waiting: Vec<_> = callers
            .iter()
            .filter_map(|caller| caller.hold_window(usize::MAX))
            .collect();
        let most = budgets.limit(Resource::Windows) / 4 * 3;
        let held = waiting.len() * budgets.windows.stream;
        assert!(held <= most && held > most / 2, "{held} bytes of {most}");
        let elsewhere = Caller::new(SocketAddr::from(([127, 0, 0, 2], 1)), &budgets);
        elsewhere.hold_window(usize::MAX).expect("there is more for others");
    }

    #[test]
    fn a_part_can_grow_and_shrink() {
        let [caller] = &callers(1)[..] else { unreachable!() };
        let mut held = caller.try_take(Resource::Produce, 100).expect("there is room");
        held.resize(200).expect("there is room");
        assert_eq!(caller.budgets().used(Resource::Produce), 200);
        held.resize(50).expect("less is always possible");
        assert_eq!(caller.budgets().used(Resource::Produce), 50);
        held.resize(LIMIT).expect_err("one connection does not get all");
        assert_eq!((held.amount(), caller.budgets().used(Resource::Produce)), (50, 50));
        drop(held);
        assert_eq!(caller.budgets().used(Resource::Produce), 0);
    }
}
