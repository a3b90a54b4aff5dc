//! What a command under way is about.

use crate::command::Section;
use crate::engine::acts::{Act, Change};
use crate::engine::consumers::{Consumer, Waiter};
use crate::engine::desk::Ready;
use crate::engine::io::{Answer, Delivered, Output, RequestId};
use crate::ids::{AttemptId, CallId, LeaseId, SessionId, SlotId};
use crate::runs::Runs;

/// What a section of a command under way is about.
#[derive(Debug)]
pub(super) enum Part {
    Acts(SlotId, Change, Vec<Act>),
    Grant(Grant),
    /// Messages that are for other slots.
    Elsewhere(SlotId, Runs),
    /// A section of the forwarder, with the messages that were on their way before it.
    Forward(Section, Vec<Ready>),
    /// A section that an administrator asked for, with the messages that it names.
    Administered(RequestId, Section, Vec<Ready>),
}

/// Messages that are granted to one consumer, in the order in which they go out.
#[derive(Debug)]
pub(super) struct Grant {
    pub slot: SlotId,
    pub waiter: Waiter,
    pub session: SessionId,
    pub attempt: AttemptId,
    pub call: CallId,
    pub lease_ms: u64,
    pub messages: Vec<Ready>,
}

impl Grant {
    pub(super) fn to((waiter, consumer): (Waiter, &Consumer), slot: SlotId, messages: Vec<Ready>) -> Self {
        Self {
            slot,
            waiter,
            session: consumer.session,
            attempt: consumer.attempt,
            call: consumer.call,
            lease_ms: consumer.lease_ms,
            messages,
        }
    }

    /// The answer to a receive as if this were applied, with a lease that no message has.
    pub(super) fn unapplied(&self) -> Option<Output> {
        let Waiter::Once(request) = self.waiter else {
            return None;
        };
        let messages = self.messages.iter().map(|ready| Delivered {
            offset: ready.offset,
            lease: LeaseId::NONE,
            failures: 0,
            deliveries: 1,
            lease_left_ms: self.lease_ms,
        });
        let answer = Answer::Received(messages.collect());
        Some(Output::Answer { request, answer })
    }
}
