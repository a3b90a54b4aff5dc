//! How many requests of a produce stream may be unanswered, over all its partitions.
//!
//! A request that is refused holds no room to produce, and its answer waits in memory until the client takes it: who sends and
//! does not read would fill it. So each request takes a place before it is looked at, which is given back when its answer
//! goes to the transport. Beyond a few it is counted as an answer, too: the places of all streams together would be too many.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::quota::{Caller, Holding, Resource};

/// Requests of one stream. More than clients have under way on some hundred partitions, with five for each.
const UNANSWERED_MAX: usize = 4096;
/// So many are among what the stream itself counts for.
const FREE: usize = 16;
/// What a request and its answer take, bytes: the most is the text of an error.
const REQUEST_BYTES: usize = 1024;
/// How long a request waits for room before it begins to wait again.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// The places of a stream's requests.
pub(super) struct Unanswered {
    caller: Arc<Caller>,
    places: Arc<Semaphore>,
}

/// The place of one request.
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    room: Option<Holding>,
}

impl Place {
    /// Its room, for the answer while that is sent.
    pub fn into_room(self) -> Option<Holding> {
        self.room
    }
}

impl Unanswered {
    pub fn new(caller: Arc<Caller>) -> Self {
        Self {
            caller,
            places: Arc::new(Semaphore::new(UNANSWERED_MAX)),
        }
    }

    /// Waits for a place. As long as the client reads, one comes free; the connection of one that does not is ended.
    pub async fn place(&self) -> Place {
        let place = self.places.clone().acquire_owned().await;
        let place = place.expect("it is never closed");
        let taken = UNANSWERED_MAX - self.places.available_permits();
        let room = match taken > FREE {
            true => Some(self.room().await),
            false => None,
        };
        Place { _place: place, room }
    }

    async fn room(&self) -> Holding {
        loop {
            if let Ok(room) = self.caller.take_now(Resource::Answers, REQUEST_BYTES) {
                return room;
            }
            if let Ok(room) = self.caller.take(Resource::Answers, REQUEST_BYTES, ROOM_TIMEOUT).await {
                return room;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_few_cost_nothing_and_the_rest_is_counted() {
        let caller = Caller::alone();
        let unanswered = Unanswered::new(caller.clone());
        let mut places = Vec::new();
        for _ in 0..FREE {
            places.push(unanswered.place().await);
        }
        assert_eq!(caller.held(Resource::Answers), 0);
        while places.len() < UNANSWERED_MAX {
            places.push(unanswered.place().await);
        }
        assert_eq!(caller.held(Resource::Answers), (UNANSWERED_MAX - FREE) * REQUEST_BYTES);
        let waits = tokio::time::timeout(Duration::from_millis(10), unanswered.place()).await;
        assert!(waits.is_err(), "there is none left");
        places.pop();
        unanswered.place().await;
        drop(places);
        assert_eq!(caller.held(Resource::Answers), 0);
    }
}
