//! The failed attempts of one call, and which of them its caller hears of.

use crate::error::ClientError;
use crate::wire_error::{Disposition, Failure};

/// Of a call that is tried again, perhaps elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// What a broker said last: that another one could not be reached after that explains nothing. A refusal stands.
    said: Option<Failure>,
    /// One of them may have had its effect.
    in_doubt: bool,
}

/// A call that was not answered with success, and whether an attempt before may have had its effect.
#[derive(Debug)]
pub(crate) struct CallFailed {
    pub failure: Failure,
    pub in_doubt: bool,
}

impl Attempts {
    /// Counts an attempt. What it means for the next one.
    pub fn failed(&mut self, failure: &Failure) -> Disposition {
        let disposition = failure.disposition();
        self.in_doubt |= disposition == Disposition::Unknown;
        let is_refusal = |failure: &Failure| failure.disposition() == Disposition::Refuse;
        if !self.said.as_ref().is_some_and(is_refusal) && (failure.reason.is_some() || is_refusal(failure)) {
            self.said = Some(failure.clone());
        }
        disposition
    }

    /// There is no other attempt after this one.
    pub fn give_up(self, last: Failure) -> CallFailed {
        CallFailed {
            failure: self.said.unwrap_or(last),
            in_doubt: self.in_doubt,
        }
    }
}

impl CallFailed {
    /// The same of a call that changes nothing that anyone sees: nothing is in doubt.
    #[must_use]
    pub fn without_effect(mut self) -> Self {
        self.failure.definite = true;
        self.in_doubt = false;
        self
    }

    /// As a caller sees it.
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
        let said = |reason| Failure::said(reason, "words");
        let failed = given_up(&[
            said(Reason::NotReady),
            unreachable(),
            said(Reason::BrokerBusy),
            unreachable(),
        ]);
        assert_eq!(failed.failure.reason, Some(Reason::BrokerBusy));
        assert!(matches!(failed.into_error("x"), ClientError::Unavailable(_)));
        let failed = given_up(&[unreachable(), unreachable()]);
        assert_eq!(failed.failure.message, "connection refused");
        let failed = given_up(&[said(Reason::UnknownTopic), said(Reason::NotReady)]);
        assert_eq!(failed.failure.reason, Some(Reason::UnknownTopic), "a refusal stands");
    }

    #[test]
    fn an_attempt_without_an_answer_leaves_the_outcome_open() {
        let failed = given_up(&[silent(), Failure::said(Reason::NotReady, "words"), unreachable()]);
        assert_eq!(failed.failure.reason, Some(Reason::NotReady));
        assert!(matches!(failed.into_error("x"), ClientError::OutcomeUnknown(_)));
        let failed = given_up(&[unreachable(), silent()]).without_effect();
        assert!(matches!(failed.into_error("x"), ClientError::Unavailable(_)));
    }
}
