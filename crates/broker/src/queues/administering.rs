//! What administrators do to a queue in one partition, and what they see of its messages.

use std::collections::{BTreeMap, BTreeSet};

use jangada_queue::engine::{Answer, Input, RowsWanted};
use jangada_queue::tables::MarkRow;
use jangada_queue::{DoneCause, MessageState as SlotState, QueueId, Runs, Section, SectionReply};

use super::desk::Desk;
use super::look_up::{range_of, rows_of};
use super::peek::{Found, MessageState, look};
use crate::error::RequestError;

/// What an administrator does to a queue in one partition.
#[derive(Clone, Debug)]
pub(crate) enum Administer {
    /// All below an offset is done, whatever it was; none: all that is there.
    Purge { to: Option<u64> },
    /// Begin anew at another offset.
    Seek { to: u64 },
    /// Dead messages go out again.
    Redrive(Runs),
    /// Dead messages are done.
    PurgeDead(Runs),
    /// Messages that nobody has are taken out.
    Cancel(Runs),
}

/// What has become of a message.
enum Place {
    /// It is done.
    Done,
    /// It is there, and somebody has it, or it is dead.
    Here,
    /// It was appended again, at this offset.
    At(u64),
}

impl Desk {
    /// Takes messages out that nobody has. Of those that stay: whether they are done already. A message that was appended again is known
    /// by the offset that it had before, too.
    pub async fn cancel(&self, queue: QueueId, offsets: &[u64]) -> Result<BTreeMap<u64, bool>, RequestError> {
        // What is not in the log is no part of a command.
        let end = self.with_state(|state| state.next_offset().get().unsigned_abs());
        let (there, beyond): (Vec<u64>, Vec<u64>) = offsets.iter().partition(|offset| **offset < end);
        let mut left: BTreeMap<u64, bool> = beyond.into_iter().map(|offset| (offset, false)).collect();
        // Where the messages are, as far as that is known, and by which offsets they were asked for.
        let mut wanted: Vec<(u64, u64)> = there.into_iter().map(|offset| (offset, offset)).collect();
        loop {
            let messages: Runs = wanted.iter().map(|(place, _)| *place).collect();
            let refused = match self.administer(queue, Administer::Cancel(messages)).await? {
                SectionReply::Taken { refused } => refused,
                SectionReply::Refused(_) | SectionReply::Opened(_) => return Err(self.unknown_queue(queue)),
            };
            let refused: BTreeSet<u64> = refused.offsets().collect();
            wanted.retain(|(place, _)| refused.contains(place));
            let mut elsewhere = Vec::new();
            for (place, offset) in wanted {
                match self.place_of(queue, place).await? {
                    Place::At(place) => elsewhere.push((place, offset)),
                    Place::Done => {
                        left.insert(offset, true);
                    }
                    Place::Here => {
                        left.insert(offset, false);
                    }
                }
            }
            if elsewhere.is_empty() {
                return Ok(left);
            }
            wanted = elsewhere;
        }
    }

    /// What has become of a message that could not be taken out.
    async fn place_of(&self, queue: QueueId, offset: u64) -> Result<Place, RequestError> {
        let slot = self.slot(queue)?;
        let judged = self.with_state(|state| {
            let end = state.next_offset().get().unsigned_abs();
            let slots = state.slots();
            let slot = slots.slot(slot)?;
            let is_done = matches!(slot.state(offset, end), SlotState::Done);
            Some((is_done, slot.place(offset), offset < slots.carried_end()))
        });
        match judged.ok_or_else(|| self.unknown_queue(queue))? {
            (true, place, _) if place != offset => Ok(Place::At(place)),
            (true, _, true) => {
                let wanted = RowsWanted::Origin { old: offset };
                let range = range_of(&wanted);
                let rows = self.driver.rows(range.clone()).await?;
                let rows = rows_of(&rows, range.limit).map_err(|error| self.driver.damaged(error.to_string()))?;
                Ok(match rows.rows.first() {
                    Some(MarkRow::Origin { new, .. }) => Place::At(*new),
                    _ => Place::Done,
                })
            }
            (true, _, false) => Ok(Place::Done),
            (false, ..) => Ok(Place::Here),
        }
    }

    /// Does what an administrator asks for.
    pub async fn administer(&self, queue: QueueId, what: Administer) -> Result<SectionReply, RequestError> {
        let slot = self.slot(queue)?;
        let section = match what {
            Administer::Purge { to } => Section::Purge {
                slot,
                to: to.unwrap_or(u64::MAX >> 1),
            },
            Administer::Seek { to } => Section::Seek { slot, to },
            Administer::Redrive(messages) => Section::Redrive { slot, messages },
            Administer::PurgeDead(messages) => Section::Done {
                slot,
                cause: DoneCause::Purged,
                messages,
            },
            Administer::Cancel(messages) => Section::Done {
                slot,
                cause: DoneCause::Cancelled,
                messages,
            },
        };
        let mut waiting = self.ask(None)?;
        let request = waiting.request;
        self.put(Input::Administer { request, section });
        match waiting.answer().await {
            Ok(Answer::Administered(reply)) => Ok(reply),
            Ok(other) => Err(self.moved_or(&other).unknown()),
            Err(_) => Err(self.gone().unknown()),
        }
    }

    /// Shows messages from an offset on, in one of the states; none given: in any.
    pub async fn peek(
        &self,
        queue: QueueId,
        from: u64,
        states: &[MessageState],
        limit: usize,
    ) -> Result<Found, RequestError> {
        let id = self.slot(queue)?;
        let mut found = Found {
            messages: Vec::new(),
            next: Some(from),
        };
        while let Some(next) = found.next.filter(|_| found.messages.len() < limit) {
            let left = limit - found.messages.len();
            let more = self.with_state(|state| {
                let end = state.next_offset().get().unsigned_abs();
                let slot = state.slots().slot(id)?;
                Some(look(slot, end, next, states, left))
            });
            let more = more.ok_or_else(|| self.unknown_queue(queue))?;
            found.messages.extend(more.messages);
            found.next = more.next;
            // Nobody else waits for a long look.
            tokio::task::yield_now().await;
        }
        Ok(found)
    }
}
