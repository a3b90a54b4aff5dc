//! What the handles of messages say to the driver.

use tokio::sync::oneshot;

use crate::error::ClientError;
use crate::queue::message::{Settled, Settlement, Token};

/// What the handles of messages say to the driver.
pub(super) enum Said {
    /// What becomes of a message.
    Settle(Command),
    /// A message is acknowledged in a transaction: it is with nobody any more, and the end of the transaction decides about it.
    InTransaction(Token),
}

/// A message to settle, and whom to tell what became of it.
pub(super) struct Command {
    pub token: Token,
    pub partition: u32,
    pub settlement: Settlement,
    /// None: nobody waits for it.
    pub done: Option<oneshot::Sender<Result<Settled, ClientError>>>,
}
