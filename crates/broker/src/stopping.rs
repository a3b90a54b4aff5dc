//! Tells services that this broker is shutting down: streams end then, and new requests are refused with SHUTTING_DOWN.

use jangada_types::{BrokerId, Reason};
use tokio::sync::watch;

use crate::error::RequestError;
use crate::replica::LEADER_RETRY;

/// Watches whether the broker stops. Clones watch the same broker.
#[derive(Clone)]
pub(crate) struct Stopping {
    broker: BrokerId,
    is_stopping: watch::Receiver<bool>,
}

impl Stopping {
    pub fn new(broker: BrokerId, is_stopping: watch::Receiver<bool>) -> Self {
        Self { broker, is_stopping }
    }

    /// Completes when the broker begins to stop, with the error for requests that still wait.
    pub async fn begun(&self) -> RequestError {
        let mut is_stopping = self.is_stopping.clone();
        // An error means that the sender was dropped: the broker has stopped.
        let _ = is_stopping.wait_for(|stopping| *stopping).await;
        self.shutting_down()
    }

    /// Returns an error if the broker is stopping. Called for each new request.
    pub fn refuse(&self) -> Result<(), RequestError> {
        match *self.is_stopping.borrow() {
            true => Err(self.shutting_down()),
            false => Ok(()),
        }
    }

    fn shutting_down(&self) -> RequestError {
        let message = format!("broker {} is shutting down: go to another one", self.broker);
        RequestError::new(Reason::ShuttingDown, message).retry_after(LEADER_RETRY)
    }
}
