//! A correct queue, in one thread: leases, failures, order by key, lanes.

use crate::call::{Delivered, Placed, Value};
use crate::note::{Counts, Dump, Floor, Held, MessageState, QueueSettings};

/// A message that is not done.
#[derive(Clone, Debug)]
struct Message {
    value: Value,
    offset: i64,
    key: Option<String>,
    priority: u32,
    not_before: u64,
    state: MessageState,
    lease: u64,
    until: u64,
    attempt: u32,
    failures: u32,
}

/// A queue of one partition.
#[derive(Clone, Debug)]
pub struct Queue {
    pub settings: QueueSettings,
    messages: Vec<Message>,
    dead: Vec<Message>,
    next: i64,
    leases: u64,
}

/// A message in the hands of a consumer.
#[derive(Clone, Debug)]
pub struct InHand {
    pub value: Value,
    pub lease: String,
    number: u64,
}

impl Queue {
    pub fn new(settings: QueueSettings) -> Self {
        Self {
            settings,
            messages: Vec::new(),
            dead: Vec::new(),
            next: 0,
            leases: 0,
        }
    }

    pub fn send(&mut self, value: Value, key: Option<String>, priority: u32, not_before: Option<u64>) -> Placed {
        let offset = self.next;
        self.next += 1;
        self.messages.push(Message {
            value,
            offset,
            key,
            priority,
            not_before: not_before.unwrap_or(0),
            state: MessageState::Ready,
            lease: 0,
            until: 0,
            attempt: 0,
            failures: 0,
        });
        Placed { partition: 0, offset }
    }

    /// Leases that ran out are failures.
    fn expire(&mut self, now: u64) {
        let max = self.settings.attempts_max.unwrap_or(u32::MAX);
        for message in &mut self.messages {
            if message.state == MessageState::Leased && message.until <= now {
                message.failures += 1;
                let is_dead = message.failures >= max;
                message.state = if is_dead {
                    MessageState::Dead
                } else {
                    MessageState::Ready
                };
            }
        }
        self.bury();
    }

    fn bury(&mut self) {
        let is_dead = |it: &mut Message| it.state == MessageState::Dead;
        self.dead.extend(self.messages.extract_if(.., is_dead));
    }

    pub fn receive(&mut self, now: u64, lease: u64) -> Option<(Delivered, InHand)> {
        self.expire(now);
        let is_held = |key: &Option<String>| {
            let mut others = self.messages.iter();
            key.is_some() && others.any(|it| it.state == MessageState::Leased && it.key == *key)
        };
        let is_first = |message: &Message| {
            let mut before = self.messages.iter().take_while(|it| it.offset < message.offset);
            !before.any(|it| it.key == message.key)
        };
        let may_go = |message: &&Message| {
            message.state == MessageState::Ready
                && message.not_before <= now
                && (!self.settings.ordered || (!is_held(&message.key) && is_first(message)))
        };
        let best = self
            .messages
            .iter()
            .filter(may_go)
            .max_by_key(|it| (it.priority, -it.offset))?;
        let offset = best.offset;
        self.leases += 1;
        let number = self.leases;
        let message = self
            .messages
            .iter_mut()
            .find(|it| it.offset == offset)
            .expect("it was found");
        message.state = MessageState::Leased;
        message.lease = number;
        message.until = now + lease;
        message.attempt += 1;
        let token = format!("{}-{number}", self.settings.queue);
        let delivered = Delivered {
            value: message.value.clone(),
            lease: token.clone(),
            attempt: message.attempt,
            failures: message.failures,
            occurrence: None,
        };
        let in_hand = InHand {
            value: message.value.clone(),
            lease: token,
            number,
        };
        Some((delivered, in_hand))
    }

    fn held_by(&mut self, hand: &InHand) -> Option<usize> {
        let is_it =
            |it: &Message| it.value == hand.value && it.lease == hand.number && it.state == MessageState::Leased;
        self.messages.iter().position(is_it)
    }

    pub fn ack(&mut self, hand: &InHand) -> bool {
        let held = self.held_by(hand);
        held.is_some_and(|at| {
            self.messages.remove(at);
            true
        })
    }

    pub fn back(&mut self, hand: &InHand, failed: bool, reject: bool) -> bool {
        let max = self.settings.attempts_max.unwrap_or(u32::MAX);
        let Some(at) = self.held_by(hand) else { return false };
        let message = &mut self.messages[at];
        message.failures += u32::from(failed);
        let is_dead = reject || message.failures >= max;
        message.state = if is_dead {
            MessageState::Dead
        } else {
            MessageState::Ready
        };
        self.bury();
        true
    }

    pub fn dump(&mut self, now: u64, replica: Option<String>) -> Dump {
        self.expire(now);
        let mut counts = Counts::default();
        let held = self.messages.iter().chain(&self.dead).map(|message| {
            match message.state {
                MessageState::Ready => counts.ready += 1,
                MessageState::Leased => counts.leased += 1,
                MessageState::Waiting => counts.waiting += 1,
                MessageState::Dead => counts.dead += 1,
            }
            Held {
                value: message.value.clone(),
                state: message.state,
                partition: 0,
                offset: message.offset,
                failures: message.failures,
            }
        });
        let messages: Vec<Held> = held.collect();
        let floor = messages.iter().map(|held| held.offset).min().unwrap_or(self.next);
        Dump {
            queue: self.settings.queue.clone(),
            replica,
            messages,
            counts: Some(counts),
            floors: vec![Floor {
                partition: 0,
                floor,
                log_start: Some(floor),
            }],
            complete: true,
        }
    }
}
