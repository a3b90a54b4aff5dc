//! The topic that dead letters of a [`World`] go to: it knows producers by their sequences, refuses, forgets and answers late or never.

use std::collections::BTreeMap;

use jangada_queue::engine::{ForwardOutcome, Input};
use jangada_queue::{DoneCause, HeldState};

use crate::world::{SLOT, World};

/// A batch on its way to the topic.
#[derive(Clone, Debug)]
pub struct Send {
    pub producer: i64,
    pub sequence: u32,
    pub messages: Vec<u64>,
    /// Nobody waits for its answer any more.
    pub is_ghost: bool,
}

#[derive(Default)]
pub struct Target {
    /// The messages that arrived.
    pub log: Vec<u64>,
    /// The next sequence of each producer.
    known: BTreeMap<i64, u32>,
    pub sends: Vec<Send>,
    /// The leader waits for a producer id.
    pub asks: bool,
    last_producer: i64,
    pub has_forgotten: bool,
    /// What was sent by each producer and sequence, of what was not refused.
    contents: BTreeMap<(i64, u32), Vec<u64>>,
    /// It goes well from now on.
    pub is_kind: bool,
    /// No message is too large for it.
    pub takes_all: bool,
    /// What was sent may be taken by retention before it is known to have arrived, so that less is sent again.
    pub may_lose: bool,
}

/// One of so many messages is too large for the topic.
const TOO_LARGE: u64 = 29;

impl Target {
    pub fn is_too_large(&self, message: u64) -> bool {
        !self.takes_all && message % TOO_LARGE == TOO_LARGE - 1
    }

    pub fn send(&mut self, producer: i64, sequence: u32, messages: Vec<u64>) {
        let known = self
            .contents
            .entry((producer, sequence))
            .or_insert_with(|| messages.clone());
        let is_same = match self.may_lose {
            true => messages.iter().all(|message| known.contains(message)),
            false => *known == messages,
        };
        assert!(is_same, "{known:?} were sent, and {messages:?} under the same sequence");
        self.sends.push(Send {
            producer,
            sequence,
            messages,
            is_ghost: false,
        });
    }

    fn take(&mut self, send: &Send) -> ForwardOutcome {
        let next = self.known.get(&send.producer).copied();
        match next {
            Some(next) if send.sequence < next => return ForwardOutcome::Arrived,
            Some(next) if send.sequence == next => {}
            None if send.sequence == 0 => {}
            _ => return ForwardOutcome::Forgotten,
        }
        self.log.extend(&send.messages);
        self.known
            .insert(send.producer, send.sequence + send.messages.len() as u32);
        ForwardOutcome::Arrived
    }
}

impl World {
    /// The topic does something with what is on its way to it.
    pub fn target_step(&mut self) -> bool {
        if std::mem::take(&mut self.target.asks) {
            self.target.last_producer += 1;
            let producer = self.target.last_producer;
            self.step(Input::Producer { slot: SLOT, producer });
            return true;
        }
        if self.target.sends.is_empty() {
            return false;
        }
        let at = self.seeds.below(self.target.sends.len() as u64) as usize;
        let send = self.target.sends.remove(at);
        let chance = if self.target.is_kind { 19 } else { self.seeds.below(20) };
        let is_large = send
            .messages
            .iter()
            .copied()
            .any(|message| self.target.is_too_large(message));
        let is_there = self
            .target
            .known
            .get(&send.producer)
            .is_some_and(|next| send.sequence < *next);
        // Whichever way it comes: a try that is late is not taken either.
        let is_too_large = is_large && !is_there;
        let outcome = match chance {
            // It may arrive later all the same.
            0..=1 => {
                let is_ghost = true;
                self.target.sends.push(Send {
                    is_ghost,
                    ..send.clone()
                });
                ForwardOutcome::Unknown
            }
            2 => ForwardOutcome::Unknown,
            // It arrives, and its answer does not. One that is too large never arrives.
            3 => {
                if !is_too_large {
                    self.target.take(&send);
                }
                ForwardOutcome::Unknown
            }
            4 if !is_too_large && self.seeds.below(8) == 0 => {
                self.target.has_forgotten = true;
                self.target.known.remove(&send.producer);
                self.target.take(&send)
            }
            5 if !is_there => ForwardOutcome::Refused,
            6 if !is_there => ForwardOutcome::Full,
            _ if is_too_large => {
                let large = |message: &u64| self.target.is_too_large(*message);
                let fits = send.messages.iter().take_while(|message| !large(message)).count();
                // It need not say.
                let fits = if self.seeds.below(2) == 0 {
                    fits
                } else {
                    send.messages.len().div_ceil(2)
                };
                ForwardOutcome::TooLarge { fits }
            }
            _ => self.target.take(&send),
        };
        let is_refused = matches!(
            outcome,
            ForwardOutcome::Refused | ForwardOutcome::Full | ForwardOutcome::TooLarge { .. }
        );
        if is_refused && !send.is_ghost {
            // Another batch may have this sequence, unless an earlier try of this one is still on its way.
            let is_same = |other: &Send| (other.producer, other.sequence) == (send.producer, send.sequence);
            if !self.target.sends.iter().any(is_same) {
                self.target.contents.remove(&(send.producer, send.sequence));
            }
        }
        if !send.is_ghost {
            let Send { producer, sequence, .. } = send;
            self.step(Input::Forwarded {
                slot: SLOT,
                producer,
                sequence,
                outcome,
            });
        }
        true
    }

    /// Every dead letter arrived, once unless the topic has forgotten who sent it.
    pub fn check_forwarded(&self) {
        let slot = self.slots.slot(SLOT).expect("it is open");
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for message in &self.target.log {
            *times.entry(*message).or_default() += 1;
        }
        let twice: Vec<u64> = times
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(message, _)| *message)
            .collect();
        let may_come_twice = self.target.has_forgotten || self.target.may_lose;
        assert!(may_come_twice || twice.is_empty(), "{twice:?} arrived twice");
        let arrived = times.keys().filter(|message| !self.cut.contains(message)).count();
        assert_eq!(
            slot.settled(DoneCause::Forwarded),
            arrived as u64,
            "what is forwarded has arrived"
        );
        for (offset, held) in slot.held_from(0) {
            let message = self.records[offset as usize].0;
            assert!(
                held.state == HeldState::Dead && self.target.is_too_large(message),
                "{message} has not arrived"
            );
        }
    }
}
