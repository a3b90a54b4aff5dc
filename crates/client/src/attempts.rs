//! The failed attempts of one call, and which of them its caller hears of.

use crate::error::ClientError;
use crate::wire_error::{Disposition, Failure};

/// The failed attempts so far of one call that is tried again, perhaps at another broker.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// The last failure that a broker told. It is reported rather than that another broker could not be reached after that, or that a
    /// connection ended before its request was sent, which would explain nothing. Once it is a refusal it stays.
    last_answer: Option<Failure>,
    /// Whether one of the attempts may have had its effect.
    in_doubt: bool,
}

/// A call that was not answered with success, and whether an attempt before may have had its effect.
#[derive(Debug)]
pub(crate) struct CallFailed {
    pub failure: Failure,
    pub in_doubt: bool,
}

impl Attempts {
    /// Counts a failed attempt. Returns what it means for the next one.
    pub fn failed(&mut self, failure: &Failure) -> Disposition {
        let disposition = failure.disposition();
        self.in_doubt |= disposition == Disposition::Unknown;
        let is_refusal = |failure: &Failure| failure.disposition() == Disposition::Refuse;
        if !self.last_answer.as_ref().is_some_and(is_refusal) && (failure.told || is_refusal(failure)) {
            self.last_answer = Some(failure.clone());
        }
        disposition
    }

    /// Ends the call after `last`, the last attempt.
    pub fn give_up(self, last: Failure) -> CallFailed {
        CallFailed {
            failure: self.last_answer.unwrap_or(last),
            in_doubt: self.in_doubt,
        }
    }
}

impl CallFailed {
    /// Marks the failed call as one that changes nothing that others see, so that nothing is in doubt.
    #[must_use]
    pub fn without_effect(mut self) -> Self {
        self.failure.definite = true;
        self.in_doubt = false;
        self
    }

    /// The error that the caller gets.
    pub fn into_error(self, context: &str) -> ClientError {
        // A refusal says nothing about the attempts before it.
        if self.in_doubt {
            ClientError::OutcomeUnknown(self.failure.rejection(context))
        } else {
            self.failure.into_error(context)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jangada_types::Reason;
    use tonic::Code;

    use super::*;

    fn unreachable() -> Failure {
        Failure::local(Code::Unavailable, "connection refused", true)
    }

    fn silent() -> Failure {
        Failure::timeout(Duration::from_secs(1))
    }

    fn given_up(failures: &[Failure]) -> CallFailed {
        let mut attempts = Attempts::default();
        for failure in failures {
            attempts.failed(failure);
        }
        attempts.give_up(failures.last().expect("one at least").clone())
    }

    #[test]
    fn what_a_broker_said_last_is_told() {
        let answered = |reason| Failure::from_brokers(reason, "words");
        let failed = given_up(&[
            answered(Reason::NotReady),
            unreachable(),
            answered(Reason::BrokerBusy),
            unreachable(),
        ]);
        assert_eq!(failed.failure.reason, Some(Reason::BrokerBusy));
        assert!(matches!(failed.into_error("x"), ClientError::Unavailable(_)));
        let failed = given_up(&[unreachable(), unreachable()]);
        assert_eq!(failed.failure.message, "connection refused");
        let failed = given_up(&[answered(Reason::UnknownTopic), answered(Reason::NotReady)]);
        assert_eq!(failed.failure.reason, Some(Reason::UnknownTopic), "a refusal stands");
    }

    #[test]
    fn what_a_broker_said_when_it_closed_the_connection_is_told_rather_than_that_it_is_closed() {
        let sent_away = Failure {
            told: true,
            ..Failure::local(Code::Unavailable, "TOO_MANY_CONNECTIONS", false)
        };
        let closed = Failure::local(Code::Cancelled, "connection closed", false);
        let failed = given_up(&[sent_away, closed, unreachable()]);
        assert_eq!(failed.failure.message, "TOO_MANY_CONNECTIONS");
    }

    #[test]
    fn an_attempt_without_an_answer_leaves_the_outcome_open() {
        let failed = given_up(&[
            silent(),
            Failure::from_brokers(Reason::NotReady, "words"),
            unreachable(),
        ]);
        assert_eq!(failed.failure.reason, Some(Reason::NotReady));
        assert!(matches!(failed.into_error("x"), ClientError::OutcomeUnknown(_)));
        let failed = given_up(&[unreachable(), silent()]).without_effect();
        assert!(matches!(failed.into_error("x"), ClientError::Unavailable(_)));
    }
}
