//! The messages that a consumer has: on which stream they came, and until when they are leased. Pure.
//!
//! Every message that comes on a stream takes one of its credit. It is given back when the message is settled, or when it turns out that
//! the consumer has it, or had it: a leader that does not know what the consumer holds sends it again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::link::LinkId;
use crate::queue::message::{ReceivedMessage, Token};

/// An extension is asked for when this part of a lease is over.
const EXTEND_AFTER: u32 = 3;
/// A lease is not extended more often: of a message that comes again shortly before its lease is over there is next to nothing left, and
/// each extension is a command of the partition.
const EXTEND_EVERY_MIN: Duration = Duration::from_millis(100);

/// So long after it was settled a message may still come again that a leader had sent before.
const COMES_AGAIN: Duration = Duration::from_secs(60);
/// So many messages that may come again are remembered at most.
const SETTLED_MAX: usize = 10_000;

/// What a message that has come is.
#[derive(Debug)]
pub(super) enum Came {
    /// The consumer did not have it. This tells its handle that it is lost.
    New(Arc<AtomicBool>),
    /// The consumer has it, by the same token. It belongs to the stream that sent it now, and no more to this one, if to any.
    Known(Option<LinkId>),
    /// The consumer had it, and has settled it meanwhile.
    Settled,
}

/// A message that the consumer has.
struct Held {
    partition: u32,
    /// None: its stream has ended.
    link: Option<LinkId>,
    lease: Duration,
    since: Instant,
    /// None: its lease is not extended.
    extend_at: Option<Instant>,
    /// When its lease is over. None: it is extended, or settled, and brokers say so when it is over.
    over_at: Option<Instant>,
    /// Another stream serves its partition, or may do so: the message may be on its way again.
    comes_again: bool,
    /// It is known to be somebody else's.
    lost: Arc<AtomicBool>,
}

/// All messages that a consumer has, by token.
#[derive(Default)]
pub(super) struct AllHeld {
    messages: BTreeMap<Token, Held>,
    /// Messages that were settled and may come again, with the times.
    settled: VecDeque<(Instant, Token)>,
}

impl AllHeld {
    /// A message has come.
    pub fn take(&mut self, message: &ReceivedMessage, link: LinkId, extends: bool, now: Instant) -> Came {
        if let Some(held) = self.messages.get_mut(&message.token) {
            held.comes_again = true;
            return Came::Known(held.link.replace(link));
        }
        // Nothing is remembered while leaders stay.
        if self.settled.iter().any(|(_, token)| *token == message.token) {
            return Came::Settled;
        }
        let lost = Arc::new(AtomicBool::new(false));
        let held = Held {
            partition: message.place.partition,
            link: Some(link),
            lease: message.lease_left,
            since: now,
            extend_at: extends.then(|| now + message.lease_left / EXTEND_AFTER),
            over_at: (!extends).then(|| now + message.lease_left),
            comes_again: false,
            lost: lost.clone(),
        };
        self.messages.insert(message.token.clone(), held);
        Came::New(lost)
    }

    /// A message is settled, or was given up. Returns the stream that may send another one for it.
    pub fn remove(&mut self, token: &Token, now: Instant) -> Option<LinkId> {
        let held = self.messages.remove(token)?;
        while let Some((at, _)) = self.settled.front()
            && (*at + COMES_AGAIN <= now || self.settled.len() >= SETTLED_MAX)
        {
            self.settled.pop_front();
        }
        if held.comes_again {
            self.settled.push_back((now, token.clone()));
        }
        held.link
    }

    /// A partition is served by another stream from now on.
    pub fn moved(&mut self, partition: u32) {
        let of_partition = self.messages.values_mut().filter(|held| held.partition == partition);
        of_partition.for_each(|held| held.comes_again = true);
    }

    /// A message is somebody else's by now. Its handle has still to be dropped or settled.
    pub fn lost(&mut self, token: &Token) {
        if let Some(held) = self.messages.get_mut(token) {
            held.lost.store(true, Ordering::Relaxed);
            (held.extend_at, held.over_at) = (None, None);
        }
    }

    /// The lease of a message is not extended any more: it is being settled.
    pub fn settles(&mut self, token: &Token) {
        if let Some(held) = self.messages.get_mut(token) {
            (held.extend_at, held.over_at) = (None, None);
        }
    }

    /// The lease of a message is extended by hand.
    pub fn extends(&mut self, token: &Token) {
        if let Some(held) = self.messages.get_mut(token) {
            held.over_at = None;
        }
    }

    /// The messages whose lease is over by now are lost.
    pub fn run_out(&mut self, now: Instant) {
        for held in self.messages.values_mut() {
            if held.over_at.take_if(|at| *at <= now).is_some() {
                held.lost.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The messages whose lease is to be extended now, with their partitions. The next time for each is set as if that succeeded: by the
    /// `lease` that is asked for, or else by what was left of it when the message came.
    pub fn due(&mut self, extend_for: Duration, lease: Option<Duration>, now: Instant) -> Vec<(Token, u32)> {
        let mut due = Vec::new();
        for (token, held) in &mut self.messages {
            if held.extend_at.is_none_or(|at| at > now) {
                continue;
            }
            let every = (lease.unwrap_or(held.lease) / EXTEND_AFTER).max(EXTEND_EVERY_MIN);
            held.extend_at = (now < held.since + extend_for).then(|| now + every);
            if held.extend_at.is_some() {
                due.push((token.clone(), held.partition));
            }
        }
        due
    }

    /// When the next lease is to be extended, or is over.
    pub fn next_due(&self) -> Option<Instant> {
        let times = self.messages.values().flat_map(|held| [held.extend_at, held.over_at]);
        times.flatten().min()
    }

    /// A stream has ended: its messages belong to none.
    pub fn orphan(&mut self, link: LinkId) {
        for held in self.messages.values_mut() {
            held.comes_again |= held.link.take_if(|of| *of == link).is_some();
        }
    }

    /// The tokens of messages that belong to no stream.
    pub fn orphans(&self) -> Vec<Token> {
        let orphans = self.messages.iter().filter(|(_, held)| held.link.is_none());
        orphans.map(|(token, _)| token.clone()).collect()
    }

    /// A stream takes the messages of its partitions that belong to none. Returns how many.
    pub fn adopt(&mut self, link: LinkId, partitions: &[u32]) -> u32 {
        let mut adopted = 0;
        for held in self.messages.values_mut() {
            if held.link.is_none() && partitions.contains(&held.partition) {
                held.link = Some(link);
                adopted += 1;
            }
        }
        adopted
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jangada_types::BrokerId;

    use super::*;
    use crate::queue::message::MessagePlace;

    const LEASE: Duration = Duration::from_secs(30);

    fn link(broker: u32) -> LinkId {
        LinkId {
            broker: BrokerId(broker),
            generation: 1,
        }
    }

    fn message(number: u8, partition: u32) -> ReceivedMessage {
        ReceivedMessage {
            token: Token(Bytes::copy_from_slice(&[number])),
            place: MessagePlace {
                partition,
                offset: number.into(),
            },
            key: None,
            body: None,
            headers: Vec::new(),
            timestamp_ms: 0,
            message_id: None,
            failures: 0,
            deliveries: 1,
            lease_left: LEASE,
        }
    }

    #[tokio::test]
    async fn what_comes_again_is_known_by_its_token_and_belongs_to_the_stream_that_sent_it() {
        let (mut held, now) = (AllHeld::default(), Instant::now());
        assert!(matches!(held.take(&message(1, 0), link(1), true, now), Came::New(_)));
        let again = held.take(&message(1, 0), link(2), true, now);
        assert!(
            matches!(again, Came::Known(Some(before)) if before == link(1)),
            "{again:?}"
        );
        held.orphan(link(2));
        let again = held.take(&message(1, 0), link(3), true, now);
        assert!(matches!(again, Came::Known(None)), "{again:?}");
        assert_eq!(held.remove(&message(1, 0).token, now), Some(link(3)));
        assert_eq!(held.remove(&message(1, 0).token, now), None);
    }

    #[tokio::test]
    async fn what_was_settled_while_it_was_on_its_way_again_is_not_handed_out() {
        let (mut held, now) = (AllHeld::default(), Instant::now());
        for (number, partition) in [(1, 0), (2, 1), (3, 2)] {
            held.take(&message(number, partition), link(1), true, now);
        }
        held.moved(1);
        for number in [1, 2] {
            held.remove(&message(number, 0).token, now);
        }
        let again = held.take(&message(2, 1), link(2), true, now);
        assert!(matches!(again, Came::Settled), "{again:?}");
        assert_eq!(held.settled.len(), 1, "the leader of partition 0 is the same");
        held.remove(&message(3, 2).token, now + COMES_AGAIN);
        assert_eq!(held.settled.len(), 0, "it is too late for it to come");
    }

    #[tokio::test]
    async fn leases_are_extended_while_the_message_is_worked_on() {
        let (mut held, now) = (AllHeld::default(), Instant::now());
        let Came::New(lost) = held.take(&message(1, 0), link(1), true, now) else {
            panic!("it is new")
        };
        held.take(&message(2, 0), link(1), true, now);
        held.take(&message(3, 0), link(1), false, now);
        held.settles(&message(2, 0).token);
        assert_eq!(held.due(LEASE, None, now), []);
        let third = now + LEASE / 3;
        assert_eq!(held.next_due(), Some(third));
        assert_eq!(held.due(LEASE, None, third), [(message(1, 0).token, 0)]);
        assert_eq!(held.due(LEASE, None, third), [], "it was asked for");
        assert_eq!(
            held.due(LEASE, None, now + LEASE),
            [],
            "it was worked on for long enough"
        );
        assert!(!lost.load(Ordering::Relaxed));
        held.lost(&message(1, 0).token);
        assert!(lost.load(Ordering::Relaxed));
        assert_eq!(held.next_due(), Some(now + LEASE), "that of the third is over");
    }

    #[tokio::test]
    async fn a_lease_that_nobody_extends_is_over_in_its_time() {
        let (mut held, now) = (AllHeld::default(), Instant::now());
        let mut lost = [1, 2, 3].map(|number| match held.take(&message(number, 0), link(1), false, now) {
            Came::New(lost) => lost,
            known => panic!("it is new: {known:?}"),
        });
        held.extends(&message(2, 0).token);
        held.settles(&message(3, 0).token);
        assert_eq!(held.next_due(), Some(now + LEASE));
        held.run_out(now + LEASE - Duration::from_millis(1));
        assert_eq!(
            lost.each_mut().map(|lost| lost.load(Ordering::Relaxed)),
            [false, false, false]
        );
        held.run_out(now + LEASE);
        assert_eq!(lost.map(|lost| lost.load(Ordering::Relaxed)), [true, false, false]);
        assert_eq!(held.next_due(), None);
    }

    #[tokio::test]
    async fn a_message_that_comes_shortly_before_its_lease_is_over_is_not_extended_without_a_pause() {
        let now = Instant::now();
        for (left, lease, every) in [
            (Duration::ZERO, None, EXTEND_EVERY_MIN),
            (Duration::from_millis(6), None, EXTEND_EVERY_MIN),
            (Duration::from_millis(6), Some(LEASE), LEASE / 3),
            (LEASE, Some(2 * LEASE), 2 * LEASE / 3),
        ] {
            let mut held = AllHeld::default();
            let late = ReceivedMessage {
                lease_left: left,
                ..message(1, 0)
            };
            held.take(&late, link(1), true, now);
            let first = now + left / 3;
            assert_eq!(held.due(10 * LEASE, lease, first).len(), 1);
            assert_eq!(held.next_due(), Some(first + every), "{left:?}, {lease:?}");
        }
    }

    #[tokio::test]
    async fn the_messages_of_a_stream_that_ended_go_to_whoever_serves_their_partition() {
        let (mut held, now) = (AllHeld::default(), Instant::now());
        for (number, partition) in [(1, 0), (2, 0), (3, 1)] {
            held.take(&message(number, partition), link(1), true, now);
        }
        held.take(&message(4, 2), link(2), true, now);
        held.orphan(link(1));
        assert_eq!(held.orphans().len(), 3);
        assert_eq!(held.adopt(link(2), &[0, 2]), 2);
        assert_eq!(held.orphans(), [message(3, 1).token]);
        assert_eq!(held.remove(&message(1, 0).token, now), Some(link(2)));
    }
}
