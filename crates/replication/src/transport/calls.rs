//! The calls of one control connection: votes, heartbeats, transfers. Each is a task of its own, since one may wait for
//! the disk or for a group that is busy, and the others must not wait with it.
//!
//! The calls that run at once are bounded: a group's heartbeats by the group (see `HEARTBEATS_MAX`), all of a connection
//! by [`CALLS_MAX`]. The metadata group has room of its own.

use std::sync::Arc;

use jangada_proto::internal::Message;
use jangada_proto::internal::message::Body;
use jangada_types::{BrokerId, GroupId};
use tokio::sync::Semaphore;

use super::inbound::{refusal_of, serve_call};
use super::inbox::Inbox;
use super::queue;

/// Calls of one connection that run at once; more are refused. A broker that leads 4,000 groups here has one heartbeat of
/// each under way, or three of each while the disk is slow.
const CALLS_MAX: usize = 12 * 1024;
/// The same of the metadata group.
const METADATA_CALLS_MAX: usize = 64;

/// Begins the calls of one control connection, and bounds how many run at once.
pub(super) struct Calls {
    inbox: Arc<dyn Inbox>,
    peer: BrokerId,
    answers: queue::Sender,
    room: Arc<Semaphore>,
    metadata_room: Arc<Semaphore>,
}

impl Calls {
    pub fn new(inbox: Arc<dyn Inbox>, peer: BrokerId, answers: queue::Sender) -> Self {
        Self {
            inbox,
            peer,
            answers,
            room: Arc::new(Semaphore::new(CALLS_MAX)),
            metadata_room: Arc::new(Semaphore::new(METADATA_CALLS_MAX)),
        }
    }

    /// Begins the calls of one frame, the metadata group's first.
    pub fn begin(&self, messages: Vec<Message>) {
        let is_first = |message: &Message| GroupId::from(message.group_id) == GroupId::METADATA;
        let (first, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_first);
        for message in first {
            self.begin_one(message, &self.metadata_room);
        }
        for message in rest {
            self.begin_one(message, &self.room);
        }
    }

    fn begin_one(&self, message: Message, room: &Arc<Semaphore>) {
        // An announcement waits for nothing.
        if let Some(Body::Leaders(leaders)) = message.body {
            self.inbox.announced(self.peer, leaders);
            return;
        }
        let Ok(permit) = room.clone().try_acquire_owned() else {
            // Without room for the answer the caller's own time-out tells it.
            let _ = self.answers.try_send(refusal_of(&message, "too many calls wait here"));
            return;
        };
        let (inbox, peer, answers) = (self.inbox.clone(), self.peer, self.answers.clone());
        tokio::spawn(async move {
            if let Some(answer) = serve_call(inbox, peer, message).await {
                // The connection's end is noticed by its reader.
                let _ = answers.send(answer).await;
            }
            drop(permit);
        });
    }
}
