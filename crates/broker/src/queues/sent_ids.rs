//! Repetitions of messages, for a queue that leaves them out: asked before an append, and told where it is applied.
//!
//! ```text
//!   send -> ask -> SentIds -> verdicts: new ones are appended, of the others the first one's place is the answer
//!                    | ^  \-> rows of ids, read beside
//!                    | applied: under the lock of the state, in the log's order
//!                    v
//!                  verdicts of those that waited for an equal id
//! ```
//!
//! Whoever asks runs to its end, also when its client is gone: what it has to say of its ids is told in any case. An id whose append has no
//! outcome yet stays under way until it is applied, or the desk ends.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use jangada_log::{IdFinding, PartitionCommand, PartitionReply};
use jangada_queue::dedup::{IdOutput, IdVerdict, SentIds};
use jangada_queue::engine::{ReadId, RequestId};
use jangada_queue::tables::{IDS, IdRow};
use jangada_types::Reason;
use tokio::sync::{RwLockReadGuard, oneshot};
use tokio::time::{Instant, timeout_at};

use super::desk::{BUSY_RETRY, Desk};
use super::repetitions::Repetitions;
use super::task::READ_AGAIN;
use crate::error::RequestError;

/// What became of a question about ids.
pub(crate) struct AskedIds {
    request: RequestId,
    /// Of each message.
    pub verdicts: Vec<IdVerdict>,
}

/// Ids whose messages are being handed to Raft. An append that this desk has decided is in Raft before the next desk begins.
pub(crate) struct AppendingIds<'a> {
    /// What the command says of its ids.
    pub finding: IdFinding,
    _submitting: RwLockReadGuard<'a, ()>,
}

impl Desk {
    /// Asks which messages with these ids are new; 0: a message has none. Those that are have to be appended, or told of with
    /// [`Desk::ids_not_appended`]. Not to be dropped before it has ended.
    ///
    /// # Errors
    /// NOT_LEADER; PARTITION_BUSY: it is not known until the deadline what becomes of an equal id.
    pub async fn ask_ids(
        self: &Arc<Self>,
        ids: &[u128],
        (window_ms, now_ms): (u64, u64),
        deadline: Instant,
    ) -> Result<AskedIds, RequestError> {
        let mut begun = self.watch_begun();
        let has_begun = timeout_at(deadline, begun.wait_for(|begun| *begun)).await;
        let has_begun = has_begun.map(|seen| seen.map(drop));
        if !matches!(has_begun, Ok(Ok(_))) {
            return Err(self.ids_in_doubt());
        }
        let request = RequestId(self.next_id());
        let (verdicts, mut answer) = oneshot::channel();
        let outputs = {
            let mut known = self.repetitions.lock();
            if self.has_ended() {
                return Err(self.gone());
            }
            known.waiting.insert(request, verdicts);
            let sent = known.sent.get_or_insert_with(|| SentIds::begin(window_ms));
            sent.set_window(window_ms);
            sent.ask(request, ids, now_ms)
        };
        self.carry_out_ids(outputs);
        let answered = match timeout_at(deadline, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                let outputs = {
                    let mut known = self.repetitions.lock();
                    let sent = known.waiting.remove(&request).and(known.sent.as_mut());
                    sent.map(|sent| sent.not_appended(request))
                };
                self.carry_out_ids(outputs.unwrap_or_default());
                match answer.try_recv() {
                    Ok(verdicts) => Ok(verdicts),
                    Err(_) if self.has_ended() => return Err(self.gone()),
                    Err(_) => return Err(self.ids_in_doubt()),
                }
            }
        };
        let verdicts = answered.map_err(|_| self.gone())?;
        Ok(AskedIds { request, verdicts })
    }

    /// Messages that are new are about to be handed to Raft. To be held until they are.
    ///
    /// # Errors
    /// NOT_LEADER: the desk that knows of their ids has ended.
    pub async fn appending_ids(&self, now_ms: u64) -> Result<AppendingIds<'_>, RequestError> {
        let submitting = self.submitting().await;
        let mut known = self.repetitions.lock();
        let window = known.sent.as_mut().filter(|_| !self.has_ended());
        let window = window.map(|sent| sent.window(now_ms)).ok_or_else(|| self.gone())?;
        Ok(AppendingIds {
            finding: IdFinding {
                window,
                term: self.term,
            },
            _submitting: submitting,
        })
    }

    /// What was new of a request is not in the log, definitely: whoever waits for its ids goes on.
    pub fn ids_not_appended(self: &Arc<Self>, asked: &AskedIds) {
        let outputs = {
            let mut known = self.repetitions.lock();
            let sent = known.sent.as_mut();
            sent.map(|sent| sent.not_appended(asked.request))
        };
        self.carry_out_ids(outputs.unwrap_or_default());
    }

    /// A command was applied. Called under the lock of the state, in the log's order.
    pub(super) fn ids_applied(&self, command: &PartitionCommand, reply: &PartitionReply) {
        let (
            PartitionCommand::AppendMarked {
                now_ms,
                ids: Some(found),
                marks,
                ..
            },
            PartitionReply::Appended {
                base_offset,
                duplicate: false,
                ..
            },
        ) = (command, reply)
        else {
            return;
        };
        if found.term != self.term {
            return;
        }
        let mut known = self.repetitions.lock();
        let Repetitions { sent, waiting } = &mut *known;
        let Some(sent) = sent else { return };
        let (base, now_ms) = (base_offset.get().unsigned_abs(), u64::try_from(*now_ms).unwrap_or(0));
        // All that waited for one of them have their answer: nothing is to be read.
        for output in sent.applied(base, marks.0.iter().map(|mark| mark.id), now_ms) {
            if let IdOutput::Verdicts { request, verdicts } = output
                && let Some(asker) = waiting.remove(&request)
            {
                // Whoever asks is there until it has ended.
                let _ = asker.send(verdicts);
            }
        }
    }

    /// Questions that wait for their answer.
    #[cfg(test)]
    pub(super) fn ids_waiting(&self) -> usize {
        self.repetitions.lock().waiting.len()
    }

    fn carry_out_ids(self: &Arc<Self>, outputs: Vec<IdOutput>) {
        let mut outputs = VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                IdOutput::Read { read, keys } => {
                    let desk = self.clone();
                    tokio::spawn(async move { desk.read_ids(read, keys).await });
                }
                IdOutput::Verdicts { request, verdicts } => {
                    let mut known = self.repetitions.lock();
                    let asker = known.waiting.remove(&request);
                    if asker.is_none_or(|asker| asker.send(verdicts).is_err())
                        && let Some(sent) = &mut known.sent
                    {
                        outputs.extend(sent.not_appended(request));
                    }
                }
            }
        }
    }

    async fn read_ids(self: Arc<Self>, read: ReadId, keys: Vec<[u8; 24]>) {
        let range: Vec<Bytes> = keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
        while !self.has_ended() {
            let found = match self.driver.rows_at(&IDS, range.clone()).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(partition = %self.hosted.name, %error, "rows of message ids cannot be read");
                    tokio::time::sleep(READ_AGAIN).await;
                    continue;
                }
            };
            let rows = keys.iter().zip(&found);
            let rows = rows.filter_map(|(key, value)| Some(IdRow::decode(value.as_ref()?).map(|row| (*key, row))));
            let rows: Vec<([u8; 24], IdRow)> = match rows.collect() {
                Ok(rows) => rows,
                Err(error) => {
                    let error = self.driver.damaged(format!("{error}"));
                    tracing::error!(partition = %self.hosted.name, %error, "rows of message ids are damaged");
                    return;
                }
            };
            let outputs = {
                let mut known = self.repetitions.lock();
                let sent = known.sent.as_mut();
                sent.map(|sent| sent.rows(read, &rows))
            };
            return self.carry_out_ids(outputs.unwrap_or_default());
        }
    }

    fn ids_in_doubt(&self) -> RequestError {
        let message = format!(
            "{}: a message with the same id is being sent, and what becomes of it is not known yet: send it again",
            self.hosted.title
        );
        RequestError::new(Reason::PartitionBusy, message).retry_after(BUSY_RETRY)
    }
}
