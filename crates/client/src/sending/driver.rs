//! The task that has the lanes.
//!
//! A lane is there while it has messages that wait or are under way, so as many lanes as there are keys cost nothing once they are empty.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_types::Reason;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Code;

use super::{Answer, Outlet, Pending};
use crate::attempts::CallFailed;
use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::notice::{Next, Trouble};
use crate::wire_error::{Disposition, Failure};

/// Messages of one request at most.
const REQUEST_MESSAGES_MAX: usize = 1_000;

/// Requests under way at most; further lanes wait in turn.
const REQUESTS_MAX: usize = 256;

/// The messages of one lane.
struct Lane<O: Outlet> {
    waiting: VecDeque<Pending<O>>,
    is_under_way: bool,
    /// It is among those that wait for their turn.
    is_in_turn: bool,
    /// Messages of one request at most: fewer than of others after one that was too large, until the lane is empty.
    messages_max: usize,
    /// Nothing is sent before this time, after a failure.
    not_before: Option<Instant>,
    trouble: Option<Trouble>,
}

impl<O: Outlet> Default for Lane<O> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            is_under_way: false,
            is_in_turn: false,
            messages_max: REQUEST_MESSAGES_MAX,
            not_before: None,
            trouble: None,
        }
    }
}

/// A request that was answered, or not.
struct Answered<O: Outlet> {
    lane: O::Lane,
    sent: Vec<Pending<O>>,
    answer: Answer<O::Outcome>,
}

enum Event<O: Outlet> {
    Message(Option<Pending<O>>),
    Answered(Box<Answered<O>>),
    /// Lanes may go on.
    Due,
    Found(Option<O::Found>),
}

type UnderWay<O> = FuturesUnordered<BoxFuture<'static, Answered<O>>>;

pub(super) struct Driver<O: Outlet> {
    cluster: Arc<Cluster>,
    outlet: O,
    batch_bytes: usize,
    lanes: BTreeMap<O::Lane, Lane<O>>,
    /// The lanes that have something to send, in turn.
    in_turn: VecDeque<O::Lane>,
    /// The lanes that wait after a failure, by when they go on.
    due: BTreeSet<(Instant, O::Lane)>,
    /// For messages that may go anywhere.
    turn: usize,
    backoff: Backoff,
}

impl<O: Outlet> Driver<O> {
    pub(super) fn new(cluster: Arc<Cluster>, outlet: O, batch_bytes: usize) -> Self {
        Self {
            backoff: Backoff::new(&cluster.env.random),
            turn: cluster.env.random.number() as usize,
            cluster,
            outlet,
            batch_bytes,
            lanes: BTreeMap::new(),
            in_turn: VecDeque::new(),
            due: BTreeSet::new(),
        }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Pending<O>>) {
        let mut under_way: UnderWay<O> = FuturesUnordered::new();
        let mut finding: Option<BoxFuture<'static, Option<O::Found>>> = None;
        let mut open = true;
        while open || !self.lanes.is_empty() {
            let due = self.due.first().map(|(at, _)| *at);
            let event = tokio::select! {
                biased;
                Some(answered) = under_way.next(), if !under_way.is_empty() => Event::Answered(Box::new(answered)),
                message = messages.recv(), if open => Event::Message(message),
                found = async { finding.as_mut().expect("it is asked before").await }, if finding.is_some() => Event::Found(found),
                () = async { tokio::time::sleep_until(due.expect("it is asked before")).await }, if due.is_some() => Event::Due,
            };
            match event {
                Event::Message(None) => open = false,
                Event::Message(Some(pending)) => {
                    self.take(pending);
                    // All that came meanwhile goes into the same requests.
                    while let Ok(more) = messages.try_recv() {
                        self.take(more);
                    }
                }
                Event::Answered(answered) => {
                    if self.answered(*answered) && finding.is_none() {
                        finding = self.outlet.find();
                    }
                }
                Event::Due => {
                    let now = Instant::now();
                    while self.due.first().is_some_and(|(at, _)| *at <= now) {
                        let (_, lane) = self.due.pop_first().expect("it was looked at");
                        self.lanes.entry(lane.clone()).or_default().not_before = None;
                        self.await_turn(lane);
                    }
                }
                Event::Found(found) => {
                    finding = None;
                    if let Some(found) = found {
                        self.outlet.found(found);
                    }
                }
            }
            self.send(&mut under_way);
        }
    }

    fn take(&mut self, pending: Pending<O>) {
        let lane = self.outlet.lane_of(&pending.message);
        let lane = lane.unwrap_or_else(|| self.any_lane(&pending.message));
        self.lanes.entry(lane.clone()).or_default().waiting.push_back(pending);
        self.await_turn(lane);
    }

    /// The lane of a message that may go anywhere: one whose request grows already, or the next one in turn.
    fn any_lane(&mut self, message: &O::Message) -> O::Lane {
        let lanes = self.outlet.lanes();
        let is_open = |lane: &Lane<O>| lane.not_before.is_none() && lane.waiting.len() < REQUEST_MESSAGES_MAX;
        for _ in 0..lanes {
            let growing = self.outlet.any_lane(message, self.turn as u32 % lanes);
            if self.lanes.get(&growing).is_none_or(is_open) {
                return growing;
            }
            self.turn = self.turn.wrapping_add(1);
        }
        self.outlet.any_lane(message, self.turn as u32 % lanes)
    }

    /// Puts a lane among those that wait for their turn, if it has something to send and may.
    fn await_turn(&mut self, name: O::Lane) {
        let lane = self.lanes.entry(name.clone()).or_default();
        if lane.is_under_way || lane.is_in_turn || lane.not_before.is_some() || lane.waiting.is_empty() {
            return;
        }
        lane.is_in_turn = true;
        self.in_turn.push_back(name);
    }

    fn send(&mut self, under_way: &mut UnderWay<O>) {
        while under_way.len() < REQUESTS_MAX {
            let Some(lane) = self.in_turn.pop_front() else {
                return;
            };
            let sent = self.next_request(&lane);
            if O::number(&lane) == Some(self.turn as u32 % self.outlet.lanes()) {
                self.turn = self.turn.wrapping_add(1);
            }
            let answer = self.outlet.send(&lane, sent.iter().map(|pending| &pending.message));
            under_way.push(Box::pin(async move {
                let answer = answer.await;
                Answered { lane, sent, answer }
            }));
        }
    }

    /// Takes what one request may carry off the front of a lane.
    fn next_request(&mut self, lane: &O::Lane) -> Vec<Pending<O>> {
        let lane = self.lanes.entry(lane.clone()).or_default();
        lane.is_under_way = true;
        lane.is_in_turn = false;
        let (mut sent, mut bytes) = (Vec::new(), 0);
        while let Some(next) = lane.waiting.front() {
            bytes += O::bytes(&next.message);
            if !sent.is_empty() && (bytes > self.batch_bytes || sent.len() >= lane.messages_max) {
                break;
            }
            sent.extend(lane.waiting.pop_front());
        }
        sent
    }

    /// Tells senders what became of their messages, or puts them back. Returns whether it is to be looked up again where they go.
    fn answered(&mut self, answered: Answered<O>) -> bool {
        let Answered {
            lane: name,
            sent,
            answer,
        } = answered;
        if let Err(failure) = &answer
            && failure.definite
            && failure.reason == Some(Reason::BatchTooLarge)
            && sent.len() > 1
        {
            self.make_smaller(name, sent);
            return false;
        }
        let results = match answer {
            Ok(results) => results,
            Err(failure) => sent.iter().map(|_| Err(failure.clone())).collect(),
        };
        let mut again = VecDeque::new();
        let mut worst: Option<Failure> = None;
        let missing = || {
            Err(Failure::local(
                Code::Internal,
                "the broker's answer lacks a message",
                false,
            ))
        };
        let mut results = results.into_iter();
        for mut pending in sent {
            let failure = match results.next().unwrap_or_else(missing) {
                Ok(outcome) => {
                    // Nobody may wait for it any more.
                    let _ = pending.done.send(Ok(outcome));
                    continue;
                }
                Err(failure) => failure,
            };
            match self.judge(&mut pending, failure) {
                Ok(failure) => {
                    worst = Some(failure);
                    again.push_back(pending);
                }
                Err(error) => drop(pending.done.send(Err(error))),
            }
        }
        let lane = self.lanes.entry(name.clone()).or_default();
        lane.is_under_way = false;
        let Some(failure) = worst else {
            if let Some(mut trouble) = lane.trouble.take() {
                trouble.works();
            }
            self.backoff.reset();
            match lane.waiting.is_empty() {
                true => drop(self.lanes.remove(&name)),
                false => self.await_turn(name),
            }
            return false;
        };
        let delay = self.backoff.next(failure.retry_delay);
        let until = again.front().map_or_else(Instant::now, |pending| pending.until);
        let at = Instant::now() + delay;
        lane.not_before = Some(at);
        again.append(&mut lane.waiting);
        lane.waiting = again;
        let trouble = lane.trouble.get_or_insert_with(|| {
            let (what, partition) = self.outlet.what(&name);
            self.cluster.notices.trouble(what, partition)
        });
        trouble.failed(&failure, Next::until(until, delay));
        self.due.insert((at, name));
        true
    }

    /// Puts back the messages of a request that was too large as a whole, so that half of them go next.
    fn make_smaller(&mut self, name: O::Lane, sent: Vec<Pending<O>>) {
        let lane = self.lanes.entry(name.clone()).or_default();
        lane.is_under_way = false;
        lane.messages_max = sent.len() / 2;
        for pending in sent.into_iter().rev() {
            lane.waiting.push_front(pending);
        }
        self.await_turn(name);
    }

    /// Whether a message is sent again after a failure; else its sender gets the error.
    fn judge(&self, pending: &mut Pending<O>, failure: Failure) -> Result<Failure, ClientError> {
        let again = match failure.disposition() {
            Disposition::Retry => true,
            Disposition::Unknown => {
                pending.in_doubt = true;
                failure.may_pass() && self.outlet.may_repeat(&pending.message)
            }
            Disposition::Refuse => false,
        };
        if again && Instant::now() < pending.until {
            return Ok(failure);
        }
        let in_doubt = pending.in_doubt;
        Err(self.outlet.error(CallFailed { failure, in_doubt }, &pending.message))
    }
}
