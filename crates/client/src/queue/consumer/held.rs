//! The messages that a consumer has: on which stream they came, and until when they are leased. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::link::LinkId;
use crate::queue::message::{ReceivedMessage, Token};

/// An extension is asked for when this part of a lease is over.
const EXTEND_AFTER: u32 = 3;

/// A message that the consumer has.
struct Held {
    partition: u32,
    /// None: its stream has ended.
    link: Option<LinkId>,
    lease: Duration,
    since: Instant,
    /// None: its lease is not extended.
    extend_at: Option<Instant>,
    /// It is known to be somebody else's.
    lost: Arc<AtomicBool>,
}

/// All messages that a consumer has, by token.
#[derive(Default)]
pub(super) struct AllHeld {
    messages: BTreeMap<Token, Held>,
}

impl AllHeld {
    /// A message has come. None: the consumer has it already, by the same token. Else what tells its handle that it is lost.
    pub fn take(
        &mut self,
        message: &ReceivedMessage,
        link: LinkId,
        extends: bool,
        now: Instant,
    ) -> Option<Arc<AtomicBool>> {
        if self.messages.contains_key(&message.token) {
            return None;
        }
        let lost = Arc::new(AtomicBool::new(false));
        let held = Held {
            partition: message.place.partition,
            link: Some(link),
            lease: message.lease_left,
            since: now,
            extend_at: extends.then(|| now + message.lease_left / EXTEND_AFTER),
            lost: lost.clone(),
        };
        self.messages.insert(message.token.clone(), held);
        Some(lost)
    }

    /// A message is settled, or was given up. Returns the stream that may send another one for it.
    pub fn remove(&mut self, token: &Token) -> Option<LinkId> {
        self.messages.remove(token)?.link
    }

    /// A message is somebody else's by now. Its handle has still to be dropped or settled.
    pub fn lost(&mut self, token: &Token) {
        if let Some(held) = self.messages.get_mut(token) {
            held.lost.store(true, Ordering::Relaxed);
            held.extend_at = None;
        }
    }

    /// The lease of a message is not extended any more: it is being settled.
    pub fn settles(&mut self, token: &Token) {
        if let Some(held) = self.messages.get_mut(token) {
            held.extend_at = None;
        }
    }

    /// The messages whose lease is to be extended now, with their partitions. The next time for each is set as if that succeeded.
    pub fn due(&mut self, extend_for: Duration, now: Instant) -> Vec<(Token, u32)> {
        let mut due = Vec::new();
        for (token, held) in &mut self.messages {
            if held.extend_at.is_none_or(|at| at > now) {
                continue;
            }
            held.extend_at = (now < held.since + extend_for).then(|| now + held.lease / EXTEND_AFTER);
            if held.extend_at.is_some() {
                due.push((token.clone(), held.partition));
            }
        }
        due
    }

    /// When the next lease is to be extended.
    pub fn next_extension(&self) -> Option<Instant> {
        self.messages.values().filter_map(|held| held.extend_at).min()
    }

    /// A stream has ended: its messages belong to none.
    pub fn orphan(&mut self, link: LinkId) {
        for held in self.messages.values_mut() {
            held.link.take_if(|of| *of == link);
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
    async fn what_comes_again_is_known_by_its_token() {
        let (mut held, now) = (AllHeld::default(), Instant::now());
        assert!(held.take(&message(1, 0), link(1), true, now).is_some());
        assert!(held.take(&message(1, 0), link(2), true, now).is_none());
        assert_eq!(held.remove(&message(1, 0).token), Some(link(1)));
        assert_eq!(held.remove(&message(1, 0).token), None);
    }

    #[tokio::test]
    async fn leases_are_extended_while_the_message_is_worked_on() {
        let (mut held, now) = (AllHeld::default(), Instant::now());
        let lost = held.take(&message(1, 0), link(1), true, now).expect("it is new");
        held.take(&message(2, 0), link(1), true, now);
        held.take(&message(3, 0), link(1), false, now);
        held.settles(&message(2, 0).token);
        assert_eq!(held.due(LEASE, now), []);
        let third = now + LEASE / 3;
        assert_eq!(held.next_extension(), Some(third));
        assert_eq!(held.due(LEASE, third), [(message(1, 0).token, 0)]);
        assert_eq!(held.due(LEASE, third), [], "it was asked for");
        assert_eq!(held.due(LEASE, now + LEASE), [], "it was worked on for long enough");
        assert!(!lost.load(Ordering::Relaxed));
        held.lost(&message(1, 0).token);
        assert!(lost.load(Ordering::Relaxed));
        assert_eq!(held.next_extension(), None);
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
        assert_eq!(held.remove(&message(1, 0).token), Some(link(2)));
    }
}
