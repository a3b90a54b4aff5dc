//! What the desks of one partition share, each with the next: one term may have several, one after the other.

use std::sync::Weak;

use jangada_queue::engine::Input;
use parking_lot::Mutex;
use tokio::sync::RwLock;

/// Requests to give messages back that wait for the next desk, at most.
const LEFT_MAX: usize = 10_000;

/// The desk that has a partition, as the one before it knows it.
pub(crate) trait Successor: Send + Sync {
    /// Takes an input, or gives it back: it has ended.
    fn try_put(&self, input: Input) -> Option<Input>;
}

/// What the desks of a partition share.
#[derive(Default)]
pub(crate) struct Succession {
    /// Read while a command of a desk is handed to Raft, whose channel may be full.
    pub(super) submitting: RwLock<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The desk that has the partition now.
    desk: Option<Weak<dyn Successor>>,
    /// The term of the last desk.
    term: u64,
    /// Messages that nobody saw, which a desk could not take back any more.
    left: Vec<Input>,
}

impl Succession {
    /// A desk of a term has the partition from now on: whether it is the first of the term, and what was left for it. To be called under
    /// the lock of the partition's state.
    pub fn take_over(&self, desk: Weak<dyn Successor>, term: u64) -> (bool, Vec<Input>) {
        let mut known = self.known.lock();
        let is_first = std::mem::replace(&mut known.term, term) != term;
        known.desk = Some(desk);
        (is_first, std::mem::take(&mut known.left))
    }

    /// Nobody has it: what was left is of no use.
    pub fn forget(&self) {
        self.known.lock().left = Vec::new();
    }

    /// Messages that nobody saw go back to the desk that has the partition now, or to the next one.
    pub fn leave(&self, undelivered: Input) {
        let mut known = self.known.lock();
        let left = match known.desk.as_ref().and_then(Weak::upgrade) {
            Some(desk) => desk.try_put(undelivered),
            None => Some(undelivered),
        };
        if known.left.len() < LEFT_MAX {
            known.left.extend(left);
        }
    }
}
