//! What a desk remembers of the ids of messages.

use std::collections::BTreeMap;

use jangada_queue::dedup::{IdVerdict, SentIds};
use jangada_queue::engine::RequestId;
use tokio::sync::oneshot;

/// What a leader knows of the ids of the queue whose log this is, and who waits.
#[derive(Default)]
pub(super) struct Repetitions {
    /// None: nobody has asked yet.
    pub sent: Option<SentIds>,
    pub waiting: BTreeMap<RequestId, oneshot::Sender<Vec<IdVerdict>>>,
}
