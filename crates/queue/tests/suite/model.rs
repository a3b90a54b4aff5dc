//! A naive model of a slot: one state for each message, changed one by one.

use std::collections::BTreeMap;

use jangada_queue::{
    Context, DeadReason, DoneCause, HeldState, LeaseId, MessageState, OpsReply, QueueOps, Section, SectionRefused,
    SectionReply, SlotId, Slots, UndecidedTransaction,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message {
    Free,
    /// The last one says whether it had expired, and was redriven.
    Leased(LeaseId, u16, u16, bool),
    Waiting(u64, u16, u16, bool),
    Dead(DeadReason, u16, u16),
    Moving(DeadReason, u16, u16),
    /// Acknowledged in the transaction of this producer.
    Staged(i64, LeaseId, u16, u16, bool),
    Done(DoneCause),
}

/// The messages of one slot from its start on. Only for slots that were opened at 0.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub messages: Vec<Message>,
    /// Where a seek began anew, if one did.
    pub start: usize,
    forwarding: bool,
    /// Of each message the producer of the transaction that it belongs to, which is not over.
    pub sent: Vec<Option<i64>>,
    /// The transaction of each producer that has one.
    pub open: BTreeMap<i64, u64>,
}

impl Model {
    pub fn appended(&mut self, next: u64) {
        self.messages.resize(next as usize, Message::Free);
        self.sent.resize(next as usize, None);
    }

    /// Nothing from here on goes out.
    fn stable(&self) -> usize {
        let first = self.sent.iter().position(Option::is_some);
        first.unwrap_or(self.messages.len())
    }

    /// A transaction is over; a control record, if there is one, is the last record.
    pub fn end(&mut self, producer: i64, commit: bool, has_marker: bool, now_ms: u64) {
        use Message::{Done, Free, Staged, Waiting};
        let last = self.messages.len() - 1;
        for (at, message) in self.messages.iter_mut().enumerate() {
            let is_its = self.sent[at] == Some(producer);
            if is_its {
                self.sent[at] = None;
            }
            if at < self.start {
                continue;
            }
            match *message {
                Free if (is_its && !commit) || (has_marker && at == last) => *message = Done(DoneCause::Void),
                Staged(of, ..) if of == producer && commit => *message = Done(DoneCause::Acked),
                Staged(of, _, failures, deliveries, lives_on) if of == producer => {
                    *message = Waiting(now_ms, failures, deliveries, lives_on);
                }
                _ => {}
            }
        }
        self.open.remove(&producer);
    }

    fn take(&mut self, section: &Section, step: impl Fn(Message, usize, bool) -> Option<Message>) -> Vec<u64> {
        let (mut refused, stable) = (Vec::new(), self.stable());
        for (at, offset) in section.messages().expect("it names messages").offsets().enumerate() {
            let known = self
                .messages
                .get_mut(offset as usize)
                .filter(|_| offset as usize >= self.start);
            match known.and_then(|message| Some((step(*message, at, (offset as usize) < stable)?, message))) {
                Some((after, message)) => *message = after,
                None => refused.push(offset),
            }
        }
        refused
    }

    /// What the section does; the messages that it leaves as they are, or that it has no effect.
    pub fn apply(&mut self, context: &Context, ops: &QueueOps, place: usize) -> Result<Vec<u64>, SectionRefused> {
        use Message::{Dead, Done, Free, Leased, Moving, Staged, Waiting};
        let section = &ops.sections[place];
        let now = ops.now_ms;
        let lease = LeaseId::of(context.at.index, place);
        Ok(match section {
            Section::Grant { .. } => self.take(section, |message, _, is_decided| match message {
                Free if !is_decided => None,
                Free => Some(Leased(lease, 0, 1, false)),
                Waiting(_, failures, deliveries, lives_on) => Some(Leased(lease, failures, deliveries + 1, lives_on)),
                Leased(_, failures, deliveries, lives_on) => {
                    Some(Leased(lease, failures + 1, deliveries + 1, lives_on))
                }
                Dead(..) | Moving(..) | Done(_) | Staged(..) => None,
            }),
            Section::Done { cause, .. } => self.take(section, |message, _, is_decided| {
                let fits = match message {
                    Free if !is_decided => matches!(cause, DoneCause::Cancelled | DoneCause::NotRouted),
                    Free => !matches!(cause, DoneCause::Acked | DoneCause::Forwarded | DoneCause::Purged),
                    Leased(..) => matches!(cause, DoneCause::Acked | DoneCause::Expired | DoneCause::Void),
                    Waiting(..) => matches!(
                        cause,
                        DoneCause::Expired | DoneCause::Cancelled | DoneCause::Length | DoneCause::Void
                    ),
                    Dead(..) => *cause == DoneCause::Purged,
                    Moving(..) | Done(_) | Staged(..) => false,
                };
                fits.then_some(Done(*cause))
            }),
            Section::Retry { delays_ms, failed, .. } => self.take(section, |message, at, _| match message {
                Leased(_, failures, deliveries, lives_on) => Some(Waiting(
                    now + delays_ms[at],
                    failures + u16::from(*failed != 0),
                    deliveries,
                    lives_on,
                )),
                _ => None,
            }),
            Section::Release { unseen, .. } => self.take(section, |message, _, _| match message {
                Leased(_, failures, deliveries, lives_on) => {
                    let deliveries = deliveries - u16::from(*unseen != 0);
                    let is_new = failures == 0 && deliveries == 0 && !lives_on;
                    Some(if is_new {
                        Free
                    } else {
                        Waiting(now, failures, deliveries, lives_on)
                    })
                }
                _ => None,
            }),
            Section::Extend { .. } => self.take(section, |message, _, _| match message {
                Leased(..) => Some(message),
                _ => None,
            }),
            Section::Dead { reason, failed, .. } => self.take(section, |message, _, is_decided| match message {
                Free if !is_decided => None,
                Free => Some(Dead(*reason, u16::from(*failed != 0), 0)),
                Leased(_, failures, deliveries, _) | Waiting(_, failures, deliveries, _) => {
                    Some(Dead(*reason, failures + u16::from(*failed != 0), deliveries))
                }
                Dead(..) | Moving(..) | Done(_) | Staged(..) => None,
            }),
            Section::Redrive { .. } => self.take(section, |message, _, _| match message {
                Dead(DeadReason::Expired, ..) => Some(Waiting(now, 0, 0, true)),
                Dead(..) => Some(Free),
                _ => None,
            }),
            Section::Moving { .. } => {
                let is_again = self.forwarding;
                let refused = self.take(section, |message, _, _| match message {
                    Dead(reason, failures, deliveries) if !is_again => Some(Moving(reason, failures, deliveries)),
                    Moving(..) if is_again => Some(message),
                    _ => None,
                });
                self.forwarding |= (refused.len() as u64) < section.messages().expect("it names them").len();
                refused
            }
            Section::Moved { arrived, .. } => {
                if !std::mem::take(&mut self.forwarding) {
                    return Err(SectionRefused::NotMoving);
                }
                for message in &mut self.messages {
                    if let Moving(reason, failures, deliveries) = *message {
                        *message = match arrived {
                            0 => Dead(reason, failures, deliveries),
                            _ => Done(DoneCause::Forwarded),
                        };
                    }
                }
                Vec::new()
            }
            Section::Purge { to, .. } => {
                // What is not decided is not there yet.
                self.below(
                    (*to).min(self.stable() as u64),
                    |message| !matches!(message, Done(_)),
                    DoneCause::Purged,
                );
                Vec::new()
            }
            Section::Floor { to, .. } => {
                self.below(*to, |message| message == Free, DoneCause::NotRouted);
                Vec::new()
            }
            Section::Seek { to, .. } => {
                self.start = (*to as usize).min(self.messages.len());
                self.forwarding = false;
                for (at, message) in self.messages.iter_mut().enumerate() {
                    *message = if at < self.start { Done(DoneCause::CutOff) } else { Free };
                }
                Vec::new()
            }
            Section::Stage { producer, seq, .. } => {
                if self.open.get(&producer.get()) != Some(seq) {
                    return Err(SectionRefused::TransactionOver);
                }
                let producer = producer.get();
                self.take(section, |message, _, _| match message {
                    Leased(lease, failures, deliveries, lives_on) => {
                        Some(Staged(producer, lease, failures, deliveries, lives_on))
                    }
                    Staged(of, ..) if of == producer => Some(message),
                    _ => None,
                })
            }
            Section::Open { .. } | Section::Close { .. } => panic!("the slot is opened once"),
        })
    }

    fn below(&mut self, end: u64, takes: impl Fn(Message) -> bool, cause: DoneCause) {
        let end = (end as usize).min(self.messages.len()).max(self.start);
        for message in &mut self.messages[self.start..end] {
            if takes(*message) {
                *message = Message::Done(cause);
            }
        }
    }

    /// The slot says of each message what the model does.
    pub fn compare(&self, slots: &Slots) {
        let slot = slots.slot(SLOT).expect("it is open");
        let next = self.messages.len() as u64;
        for (offset, message) in self.messages.iter().enumerate() {
            let found = match slot.state(offset as u64, next) {
                MessageState::Free => Message::Free,
                MessageState::Beyond => panic!("{offset} is there"),
                MessageState::Done => match message {
                    Message::Done(_) => *message,
                    other => panic!("{offset} is done, and should be {other:?}"),
                },
                MessageState::Held(held) => match held.state {
                    HeldState::Leased => {
                        Message::Leased(held.lease, held.failures, held.deliveries, held.reason.is_some())
                    }
                    HeldState::Waiting => {
                        Message::Waiting(held.at_ms, held.failures, held.deliveries, held.reason.is_some())
                    }
                    HeldState::Dead => Message::Dead(held.reason.expect("it has one"), held.failures, held.deliveries),
                    HeldState::Staged => {
                        let is_its = |known: &UndecidedTransaction| slots.is_staged(known.id, SLOT, offset as u64);
                        let of = slots.undecided().find(is_its).expect("it is staged in a transaction");
                        let producer = of.id.producer.get();
                        Message::Staged(
                            producer,
                            held.lease,
                            held.failures,
                            held.deliveries,
                            held.reason.is_some(),
                        )
                    }
                    HeldState::Moving => {
                        Message::Moving(held.reason.expect("it has one"), held.failures, held.deliveries)
                    }
                },
            };
            assert_eq!(found, *message, "message {offset}");
        }
        for cause in DoneCause::ALL {
            let own = &self.messages[self.start..];
            let done = own.iter().filter(|message| **message == Message::Done(*cause)).count();
            assert_eq!(slot.settled(*cause), done as u64, "{cause:?}");
        }
        let first = self
            .messages
            .iter()
            .position(|message| !matches!(message, Message::Done(_)));
        assert_eq!(
            slot.floor(),
            first.unwrap_or(self.messages.len()) as u64,
            "the floor is the first undone one"
        );
    }
}

/// What a section that names messages, or has an effect at all, is told.
pub fn refused_by(reply: &OpsReply, place: usize) -> Result<Vec<u64>, SectionRefused> {
    let OpsReply::Applied(replies) = reply else {
        panic!("it was of this term");
    };
    match &replies[place] {
        SectionReply::Taken { refused } => Ok(refused.offsets().collect()),
        SectionReply::Refused(refused) => Err(*refused),
        SectionReply::Opened(slot) => panic!("slot {slot} was opened"),
    }
}

/// The first slot of a partition.
pub const SLOT: SlotId = SlotId(1);
