//! What a receive comes to.

use jangada_queue::engine::{Delivered, RequestId};

/// What a receive came to.
#[derive(Debug)]
pub(crate) struct Handed {
    /// The request that they were granted to: [`Desk::undelivered`](super::Desk::undelivered) gives back what cannot be handed on.
    pub request: RequestId,
    /// Messages that are leased to the session; none came in time if there are none.
    pub messages: Vec<Delivered>,
    /// None came, for consumers have as many as they may: so many. 0: not for that.
    pub in_flight_full: u64,
}
