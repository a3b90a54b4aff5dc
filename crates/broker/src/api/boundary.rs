//! Where each call of each protocol begins and ends. Here it is counted, here it takes its place among the calls that one
//! client may have, and here authorization and quotas will stand.

use std::sync::Arc;

use tokio::time::Instant;

use super::context::RequestContext;
use super::operation::Operation;
use crate::error::RequestError;
use crate::metrics::{Ending, MethodMetrics, Metrics};
use crate::quota::{Holding, Resource};

/// Where calls begin: those of this broker's own clients, or those that other brokers pass on.
pub(crate) struct Boundary {
    metrics: Arc<Metrics>,
    /// Of calls that are passed on the other broker counts the errors.
    of_passed: bool,
}

/// A call that may go on. Dropped without an outcome it counts as given up by its client.
pub(crate) struct Begun {
    /// Not of what is no operation: health, reflection.
    counted: Option<Arc<MethodMetrics>>,
    ending: Ending,
    began: Instant,
    /// For the call itself, until its answer is sent.
    place: Holding,
}

impl Boundary {
    /// Where the calls of this broker's own clients begin.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            of_passed: false,
        }
    }

    /// Where calls begin that clients of other brokers have made.
    pub fn of_passed(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            of_passed: true,
        }
    }

    /// Lets a call in, or says why not.
    ///
    /// # Errors
    /// BROKER_BUSY: the client has as many calls under way as it may.
    pub fn begin(&self, context: &RequestContext, operation: Option<Operation>) -> Result<Begun, RequestError> {
        let requests = match self.of_passed {
            true => &self.metrics.passed_requests,
            false => &self.metrics.requests,
        };
        let counted = operation.map(|operation| requests.of(operation).clone());
        let mut ending = counted.as_ref().map_or_else(Ending::uncounted, Ending::of);
        match context.caller.try_take(Resource::Calls, 1) {
            Ok(place) => Ok(Begun {
                counted,
                ending,
                began: Instant::now(),
                place,
            }),
            Err(error) => {
                self.refused(context, &error);
                ending.with(error.reason.as_str());
                Err(error)
            }
        }
    }

    /// Counts an error on its way to a client.
    pub fn refused(&self, context: &RequestContext, error: &RequestError) {
        if !self.of_passed {
            self.metrics.failed(error.reason);
        }
        tracing::debug!(%context, reason = error.reason.as_str(), %error, "a call is refused");
    }
}

impl Begun {
    /// Measures how long the service takes.
    pub fn answering(&self) -> Answering {
        Answering {
            counted: self.counted.clone(),
            began: self.began,
        }
    }

    /// The place of the call, and what counts its outcome once that is known.
    pub fn into_parts(self) -> (Holding, Ending) {
        (self.place, self.ending)
    }
}

/// A call with one answer, until its service has it.
pub(crate) struct Answering {
    counted: Option<Arc<MethodMetrics>>,
    began: Instant,
}

impl Answering {
    /// The service has the answer, with or without an error.
    pub fn now(&self) {
        if let Some(method) = &self.counted {
            method.took(self.began.elapsed());
        }
    }
}
