//! Which events a subscriber has handled: what makes it an idempotent receiver.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, ready};

use crate::error::PatternError;

/// The memory of a subscriber: the events that it has handled, by source and id.
///
/// [`SeenInMemory`] forgets when the process dies. An [inbox](crate::inbox) in a database does not.
pub trait SeenEvents: Send + Sync + 'static {
    /// Whether the event was handled.
    fn is_seen<'a>(&'a self, event: &'a str) -> BoxFuture<'a, Result<bool, PatternError>>;

    /// Notes that the event is handled.
    fn note<'a>(&'a self, event: &'a str) -> BoxFuture<'a, Result<(), PatternError>>;
}

/// The last so many events, in memory. It recognizes what a publisher sent twice, and what comes again when partitions move, but nothing
/// from before the process began.
#[derive(Clone, Debug)]
pub struct SeenInMemory {
    most: usize,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    known: BTreeSet<Arc<str>>,
    /// The oldest first.
    order: VecDeque<Arc<str>>,
}

impl SeenInMemory {
    /// Keeps so many events at most.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            seen: Arc::default(),
        }
    }
}

impl Default for SeenInMemory {
    fn default() -> Self {
        Self::new(10_000)
    }
}

impl SeenEvents for SeenInMemory {
    fn is_seen<'a>(&'a self, event: &'a str) -> BoxFuture<'a, Result<bool, PatternError>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(ready(Ok(seen.known.contains(event))))
    }

    fn note<'a>(&'a self, event: &'a str) -> BoxFuture<'a, Result<(), PatternError>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let event: Arc<str> = event.into();
        if seen.known.insert(event.clone()) {
            seen.order.push_back(event);
        }
        if seen.order.len() > self.most
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.known.remove(&oldest);
        }
        Box::pin(ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_are_forgotten() {
        let seen = SeenInMemory::new(2);
        for event in ["a", "b", "b", "c"] {
            seen.note(event).await.expect("in memory");
        }
        let mut known = Vec::new();
        for event in ["a", "b", "c"] {
            known.push(seen.is_seen(event).await.expect("in memory"));
        }
        assert_eq!(known, [false, true, true]);
    }
}
