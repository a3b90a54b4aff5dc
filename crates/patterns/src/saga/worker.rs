//! The side of the steps: takes commands from a queue, has them carried out, and replies.

use jangada_client::{Client, Handled, Verdict, Worker};

use super::message::{Outcome, Reply, StepCommand, ToSaga};
use super::senders::{Senders, message_of};
use crate::error::PatternError;

/// Carries out the commands of a queue, so many at once, until the worker is stopped: calls the handler, sends its outcome to the saga, and
/// acknowledges.
///
/// The queue is an ordinary one, which must be there; [`Worker::stop_handle`] stops the worker. A handler that panics, or a process that
/// dies, has failed on its message, and after `queue.attempts.max` of these it is a dead letter: the attempt is lost then, and the saga
/// sends the next one.
///
/// A command may come again, also after it was carried out, or to two workers at the same time, and its undoing may come before it. The
/// handler makes at most one effect for each [`key`](StepCommand::key) when it judges it by a [`Ledger`](super::Ledger) that is kept with
/// the effect.
///
/// # Errors
/// The errors of [`Worker::run`].
pub async fn serve<H, F>(client: &Client, worker: Worker, concurrency: u32, handler: H) -> Result<Handled, PatternError>
where
    H: Fn(StepCommand) -> F,
    F: Future<Output = Outcome>,
{
    let (senders, handler) = (&Senders::new(client), &handler);
    let handled = worker.run(concurrency, |message| async move {
        let body = message.body.as_deref().unwrap_or_default();
        let command: StepCommand = match serde_json::from_slice(body) {
            Ok(command) => command,
            Err(error) => return Verdict::Reject(format!("it is no command of a saga: {error}")),
        };
        let reply_to = command.reply_to.clone();
        let StepCommand {
            saga,
            step,
            way,
            attempt,
            ..
        } = command.clone();
        let outcome = handler(command).await;
        let reply = ToSaga::Reply(Reply {
            saga,
            step,
            way,
            attempt,
            outcome,
        });
        let sent = match message_of("a reply", &reply) {
            Ok(message) => senders.send(&reply_to, message).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => Verdict::Ack,
            Err(error) => {
                tracing::warn!(%error, queue = %reply_to, "a reply is sent again with its command");
                Verdict::Nack(None)
            }
        }
    });
    Ok(handled.await?)
}
