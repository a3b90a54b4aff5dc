//! The other brokers, as the api sees them: they answer calls that only they can. How a call gets there is not known here.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_types::BrokerId;

use super::call::{Answer, Call};
use super::context::RequestContext;
use crate::error::RequestError;

/// Passes calls on to other brokers.
pub(crate) trait Peers: Send + Sync {
    /// Has a broker answer a call of a client of this one, or a question of this broker itself, which has no context. A future that is
    /// dropped takes its call back, as far as it can be.
    fn pass<'a>(
        &'a self,
        to: BrokerId,
        context: Option<&'a RequestContext>,
        call: Call,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer, PassError>>;
}

/// Why a call that was passed on has no answer.
#[derive(Debug)]
pub(crate) enum PassError {
    /// The other broker has refused it, in its own words.
    Refused(RequestError),
    /// The other broker does not know such calls.
    Unknown(String),
    /// As many calls to it are under way as may be, with this limit.
    Busy { limit: usize },
    /// The call has not reached the other broker.
    NotSent(String),
    /// The call may have reached the other broker, and its answer has not come back.
    Unanswered(String),
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Busy { limit } => write!(f, "{limit} calls wait for its answers"),
            Self::Unknown(why) | Self::NotSent(why) | Self::Unanswered(why) => f.write_str(why),
        }
    }
}
