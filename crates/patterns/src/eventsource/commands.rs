//! Commands through a work queue, so that whoever asks need not know who executes.

use jangada_client::{Handled, QueueMessage, QueueProducer, SentMessage, Verdict, Worker};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::repository::{ExecuteError, Repository};
use crate::error::PatternError;

/// A command as it stands in a queue: one that [`NewQueue`](jangada_client::NewQueue) creates, best with `queue.attempts.max=none`, for a
/// worker that dies counts as a failure of its command, and with `queue.dedup=id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandMessage<C> {
    /// The key of the stream that it is for.
    pub key: String,
    /// The id by which it is known when it comes again. A queue hands out at least once, so it needs one, unless the aggregate sees by
    /// itself that it was done. Empty: it has none.
    pub id: String,
    /// What is to be done.
    pub command: C,
}

impl<C: Serialize> CommandMessage<C> {
    /// Puts the command into a queue. The message has the id `KEY/ID`, by which a queue with `queue.dedup` knows it again.
    ///
    /// # Errors
    /// What [`QueueProducer::send`] may fail with, so also a refusal when key and id together are longer than the 256 bytes of a message's
    /// id. Sending it again under the same id is harmless.
    pub async fn send(&self, queue: &QueueProducer) -> Result<SentMessage, PatternError> {
        Ok(queue.send(self.to_message()?).await?)
    }

    /// The message that [`send`](Self::send) sends: for one that is to wait, that goes before others, or that is sent in a transaction.
    ///
    /// It has no key, which only queues with `queue.order=key` take. On such a queue, `.with_key(command.key.clone())` has the commands of
    /// a stream executed one after the other, in the order in which they were sent.
    ///
    /// # Errors
    /// [`PatternError::Unreadable`] for a command that cannot be serialized.
    pub fn to_message(&self) -> Result<QueueMessage, PatternError> {
        let body = serde_json::to_vec(self).map_err(|error| PatternError::Unreadable {
            what: format!("the command {:?}", self.id),
            why: error.to_string(),
        })?;
        let message = QueueMessage::new(body);
        Ok(match self.id.is_empty() {
            true => message,
            false => message.with_message_id(self.message_id()),
        })
    }

    /// Ids are those of a stream, messages those of a queue. A slash in the key is written in another way, or two commands could be one.
    fn message_id(&self) -> String {
        let key = self.key.replace('%', "%25").replace('/', "%2F");
        format!("{key}/{}", self.id)
    }
}

/// Executes the commands of a queue, so many at once, until the worker is stopped. A command that is refused, or cannot be read, becomes a
/// dead letter; the refusal is in this process's log and the broker's. One that conflicts or whose log cannot be reached comes again.
///
/// # Errors
/// The errors of [`Worker::run`].
pub async fn serve<A>(worker: Worker, repository: &Repository<A>, concurrency: u32) -> Result<Handled, PatternError>
where
    A: Aggregate,
    A::Command: DeserializeOwned,
{
    let handled = worker.run(concurrency, |message| async move {
        let body = message.body.as_deref().unwrap_or_default();
        let command: CommandMessage<A::Command> = match serde_json::from_slice(body) {
            Ok(command) => command,
            Err(error) => return Verdict::Reject(format!("it is no command: {error}")),
        };
        match repository.execute(&command.key, &command.id, &command.command).await {
            Ok(_) => Verdict::Ack,
            Err(ExecuteError::Refused(refusal)) => {
                tracing::info!(%refusal, key = %command.key, id = %command.id, "a command is refused: it is a dead letter");
                Verdict::Reject(refusal.to_string())
            }
            Err(error) => {
                tracing::warn!(%error, id = %command.id, "a command comes again");
                Verdict::Nack(None)
            }
        }
    });
    Ok(handled.await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_two_streams_are_never_one_message() {
        let id_of = |key: &str, id: &str| {
            let (key, id) = (key.to_owned(), id.to_owned());
            let command = CommandMessage { key, id, command: 7 };
            command.to_message().expect("a number").message_id
        };
        assert_ne!(id_of("north", "enter-1"), id_of("east", "enter-1"));
        assert_ne!(id_of("a/b", "c"), id_of("a", "b/c"));
        assert_ne!(id_of("a%2Fb", "c"), id_of("a/b", "c"));
    }

    #[test]
    fn a_message_has_the_command_and_its_id_and_no_key() {
        let command = CommandMessage {
            key: "alice".to_owned(),
            id: "order-7".to_owned(),
            command: 7,
        };
        let message = command.to_message().expect("a number can be serialized");
        assert_eq!(message.message_id.as_deref(), Some("alice/order-7"));
        assert_eq!(message.key, None, "a queue without an order refuses one");
        let read: CommandMessage<i32> = serde_json::from_slice(&message.body).expect("it is JSON");
        assert_eq!(read, command);
        let nameless = CommandMessage {
            id: String::new(),
            ..command
        };
        assert_eq!(nameless.to_message().expect("a number").message_id, None);
    }
}
