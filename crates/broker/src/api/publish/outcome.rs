//! What became of a published message in all of its queues.

use jangada_types::planted::{self, Bug};
use std::sync::Arc;

use jangada_types::Reason;

use crate::api::call::queues::SentMessage;
use crate::error::RequestError;

/// The queue that refused a message, in the metadata of the error.
const QUEUE: &str = "queue";

/// A message in one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedPlace {
    /// The queue's name; empty: it is in the log of an exchange.
    pub queue: Arc<str>,
    /// The exchange whose log has it, for all of its queues; else empty.
    pub exchange: Arc<str>,
    pub sent: SentMessage,
}

/// Of each message its places, one for each of its queues, or why it is not in all of them.
pub(crate) type PublishOutcomes = Vec<Result<Vec<PublishedPlace>, RequestError>>;

/// What is known of one message.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    places: Vec<PublishedPlace>,
    /// The first definite refusal.
    refused: Option<RequestError>,
    /// The first queue of which it is not known whether it has the message.
    unknown: Option<RequestError>,
    /// Some of its queues were deleted meanwhile.
    lost_queues: bool,
}

impl Outcome {
    /// A message that was refused before it was sent to any queue.
    pub fn refused(error: RequestError) -> Self {
        Self {
            refused: Some(error),
            ..Self::default()
        }
    }

    /// Adds what became of the message in a queue.
    pub fn add(&mut self, queue: &Arc<str>, sent: Result<SentMessage, RequestError>) {
        match sent {
            Ok(sent) => self.places.push(PublishedPlace {
                queue: queue.clone(),
                exchange: "".into(),
                sent,
            }),
            Err(error) => self.failed(of_queue(queue, error)),
        }
    }

    /// Adds what became of the message in the log of an exchange.
    pub fn add_to_log(&mut self, exchange: &Arc<str>, sent: Result<SentMessage, RequestError>) {
        match sent {
            Ok(sent) => self.places.push(PublishedPlace {
                queue: "".into(),
                exchange: exchange.clone(),
                sent,
            }),
            Err(error) => self.failed(error),
        }
    }

    /// A queue of the message, or all those that read it from one log, were deleted meanwhile: it is for the others.
    pub fn lost_queue(&mut self) {
        self.lost_queues = true;
    }

    fn failed(&mut self, error: RequestError) {
        let first = match error.definite {
            true => &mut self.refused,
            false => &mut self.unknown,
        };
        first.get_or_insert(error);
    }

    /// Where the message is, or why it is not in all of its queues. A refusal is definite only when no queue has the message. Queues that
    /// were deleted meanwhile do not count, unless none is left.
    pub fn into_result(self) -> Result<Vec<PublishedPlace>, RequestError> {
        match (self.refused, self.unknown) {
            (None, None) if self.lost_queues && self.places.is_empty() => Err(no_queue_left()),
            (None, None) => Ok(self.places),
            _ if planted::is(Bug::HalfPublished) && !self.places.is_empty() => Ok(self.places),
            (None, Some(unknown)) => Err(unknown),
            (Some(refused), unknown) => Err(match unknown.is_none() && self.places.is_empty() {
                true => refused,
                false => elsewhere(refused, self.places.len()),
            }),
        }
    }
}

/// An error with the queue that it is about.
pub(super) fn of_queue(queue: &str, mut error: RequestError) -> RequestError {
    if !error.message.contains(queue) {
        error.message = format!("queue {queue:?}: {}", error.message);
    }
    error.with(QUEUE, queue)
}

/// The refusal of a message all of whose queues were deleted before they had it.
fn no_queue_left() -> RequestError {
    let message = "the queues that the message was for were deleted meanwhile: publish it again";
    RequestError::new(Reason::UnknownQueue, message)
}

/// The refusal of a message that other queues have, or may have.
fn elsewhere(mut refused: RequestError, places: usize) -> RequestError {
    refused.message = match places {
        0 => format!("{}; other queues may have the message", refused.message),
        places => format!("{}; {places} other queues have the message", refused.message),
    };
    refused.unknown()
}

#[cfg(test)]
mod tests {
    use jangada_types::{Offset, PartitionIndex};

    use super::*;

    const SENT: SentMessage = SentMessage {
        partition: PartitionIndex(1),
        offset: Offset(7),
        duplicate: false,
    };

    fn after(sent: &[(&str, Result<SentMessage, RequestError>)]) -> Result<Vec<PublishedPlace>, RequestError> {
        let mut outcome = Outcome::default();
        for (queue, sent) in sent {
            outcome.add(&(*queue).into(), sent.clone());
        }
        outcome.into_result()
    }

    fn full() -> RequestError {
        RequestError::new(Reason::QueueFull, "it is full")
    }

    fn lost() -> RequestError {
        RequestError::new(Reason::LeaderNotAvailable, "it does not answer").unknown()
    }

    #[test]
    fn a_message_is_published_when_all_of_its_queues_have_it() {
        let place = |queue: &str| PublishedPlace {
            queue: queue.into(),
            exchange: "".into(),
            sent: SENT,
        };
        assert_eq!(after(&[]), Ok(vec![]));
        assert_eq!(
            after(&[("a", Ok(SENT)), ("b", Ok(SENT))]),
            Ok(vec![place("a"), place("b")])
        );
    }

    #[test]
    fn a_refusal_is_definite_only_when_no_queue_has_the_message() {
        let none = after(&[("a", Err(full())), ("b", Err(full()))]).expect_err("both are full");
        assert_eq!((none.reason, none.definite), (Reason::QueueFull, true));
        assert_eq!(none.metadata["queue"], "a", "the first one is named");
        let some = after(&[("a", Ok(SENT)), ("b", Err(full()))]).expect_err("one is full");
        assert_eq!((some.reason, some.definite), (Reason::QueueFull, false));
        assert_eq!(some.metadata["queue"], "b");
        assert!(some.message.contains("1 other queues have"), "{some}");
    }

    #[test]
    fn a_queue_that_is_deleted_meanwhile_takes_nothing_from_the_others() {
        let outcome = |sent: &[Result<SentMessage, RequestError>]| {
            let mut outcome = Outcome::default();
            outcome.lost_queue();
            for sent in sent {
                outcome.add(&"a".into(), sent.clone());
            }
            outcome.into_result()
        };
        assert_eq!(outcome(&[Ok(SENT)]).expect("it is in all that are left").len(), 1);
        let none = outcome(&[]).expect_err("no queue is left");
        assert_eq!((none.reason, none.definite), (Reason::UnknownQueue, true));
        let refused = outcome(&[Err(full())]).expect_err("one is full");
        assert_eq!((refused.reason, refused.definite), (Reason::QueueFull, true));
        let lost = outcome(&[Err(lost())]).expect_err("one does not answer");
        assert!(!lost.definite);
    }

    #[test]
    fn a_definite_refusal_counts_before_an_outcome_that_is_not_known() {
        let both = after(&[("a", Err(lost())), ("b", Err(full()))]).expect_err("neither has it for certain");
        assert_eq!((both.reason, both.definite), (Reason::QueueFull, false));
        let only = after(&[("a", Ok(SENT)), ("b", Err(lost()))]).expect_err("one may not have it");
        assert_eq!((only.reason, only.definite), (Reason::LeaderNotAvailable, false));
        assert_eq!(only.metadata["queue"], "b");
        let before = Outcome::refused(full()).into_result().expect_err("it was not sent");
        assert_eq!((before.definite, before.metadata.get("queue")), (true, None));
    }
}
