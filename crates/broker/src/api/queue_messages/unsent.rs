//! Messages of which some may have been sent before: those that were are left out, and their sender gets the place of the first.

use std::sync::Arc;

use jangada_queue::dedup::IdVerdict;
use jangada_types::{Offset, PartitionIndex, QueueConfig, Reason};
use tokio::time::Instant;

use crate::api::call::queues::SentMessage;
use crate::error::RequestError;
use crate::partition::{Partition, Room};
use crate::queues::Desk;
use crate::queues::outgoing::{NewMessage, Outgoing, pack};

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    offset: i64,
    duplicate: bool,
}

impl Placed {
    /// It was appended there.
    pub fn new(offset: i64) -> Self {
        Self {
            offset,
            duplicate: false,
        }
    }

    fn before(offset: i64) -> Self {
        Self {
            offset,
            duplicate: true,
        }
    }

    pub fn sent(self, partition: PartitionIndex) -> SentMessage {
        SentMessage {
            partition,
            offset: Offset(self.offset),
            duplicate: self.duplicate,
        }
    }
}

/// Messages that are to be sent, if they were not before.
pub(super) struct Unsent {
    pub partition: Arc<Partition>,
    pub config: Arc<QueueConfig>,
    pub messages: Vec<NewMessage>,
    /// The hash by which a repetition of each is recognized; 0: it is not.
    pub ids: Vec<u128>,
    /// When they were packed, milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl Unsent {
    /// Appends those that are new. Goes on to the end when the caller does not: others may wait for what becomes of the same ids.
    ///
    /// # Errors
    /// Of all of them alike; each has its own beside that.
    pub async fn send(
        self,
        packed: Outgoing,
        room: Room,
        deadline: Instant,
    ) -> Result<Vec<Result<Placed, RequestError>>, RequestError> {
        let desk = self.partition.desk()?;
        let sending = tokio::spawn(async move { self.send_at(&desk, packed, room, deadline).await });
        let ended = sending.await;
        ended.unwrap_or_else(|_| {
            let message = "sending has ended without an answer";
            Err(RequestError::new(Reason::Internal, message).unknown())
        })
    }

    async fn send_at(
        self,
        desk: &Arc<Desk>,
        packed: Outgoing,
        room: Room,
        deadline: Instant,
    ) -> Result<Vec<Result<Placed, RequestError>>, RequestError> {
        let window = (self.config.dedup_window_ms, self.now_ms);
        let asked = desk.ask_ids(&self.ids, window, deadline).await?;
        let new = asked
            .verdicts
            .iter()
            .filter(|verdict| **verdict == IdVerdict::New)
            .count();
        let base = match new {
            0 => Ok(0),
            new => {
                let appended = self.append(desk, (packed, new), &asked.verdicts, room, deadline).await;
                if appended.as_ref().is_err_and(|error| error.definite) {
                    desk.ids_not_appended(&asked);
                }
                appended
            }
        };
        Ok(placed(&asked.verdicts, base))
    }

    /// Appends the `new` messages. Returns the offset of the first.
    async fn append(
        &self,
        desk: &Arc<Desk>,
        (packed, new): (Outgoing, usize),
        verdicts: &[IdVerdict],
        room: Room,
        deadline: Instant,
    ) -> Result<i64, RequestError> {
        let Outgoing { batch, marks } = match new == self.messages.len() {
            true => packed,
            false => {
                let with_verdicts = self.messages.iter().zip(verdicts);
                let new = with_verdicts.filter(|(_, verdict)| **verdict == IdVerdict::New);
                pack(new.map(|(message, _)| message), &self.config, self.now_ms)?
            }
        };
        let admitted = {
            let appending = desk.appending_ids(self.now_ms).await?;
            let finding = Some(appending.finding);
            self.partition.admit_messages(batch, marks, finding, room).await?
        };
        let left = deadline.saturating_duration_since(Instant::now());
        Ok(self.partition.acknowledged(admitted, left).await?.base_offset.get())
    }
}

/// Where each message is, given where the first new one is.
fn placed(verdicts: &[IdVerdict], base: Result<i64, RequestError>) -> Vec<Result<Placed, RequestError>> {
    let mut all: Vec<Result<Placed, RequestError>> = Vec::with_capacity(verdicts.len());
    let mut next = base;
    for verdict in verdicts {
        let placed = match verdict {
            IdVerdict::New => {
                let placed = next.clone().map(Placed::new);
                next = next.map(|offset| offset + 1);
                placed
            }
            IdVerdict::Sent { offset } => Ok(Placed::before(i64::try_from(*offset).unwrap_or(i64::MAX))),
            IdVerdict::SameAs { place } => all[*place].clone().map(|first| Placed::before(first.offset)),
        };
        all.push(placed);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_gets_its_place_or_that_of_the_first_with_its_id() {
        let verdicts = [
            IdVerdict::New,
            IdVerdict::Sent { offset: 3 },
            IdVerdict::SameAs { place: 0 },
            IdVerdict::New,
            IdVerdict::SameAs { place: 1 },
        ];
        let known = [
            Placed::new(40),
            Placed::before(3),
            Placed::before(40),
            Placed::new(41),
            Placed::before(3),
        ];
        assert_eq!(placed(&verdicts, Ok(40)), known.map(Ok));
        let full = RequestError::new(Reason::QueueFull, "it is full");
        let refused = placed(&verdicts, Err(full.clone()));
        assert_eq!(refused[1], Ok(Placed::before(3)), "what was sent before is there");
        assert_eq!(
            [&refused[0], &refused[2], &refused[3]],
            [&Err(full.clone()), &Err(full.clone()), &Err(full)]
        );
    }
}
