//! The ends of transactions that are under way on this broker: it wakes the sender of markers when something is decided, those who wait for
//! the end of a transaction when it has come, and it knows which markers are being written here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jangada_transactions::{Command, Target};
use jangada_types::ProducerId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What all shards of a broker share about transactions that are being ended.
#[derive(Default)]
pub(crate) struct Endings {
    /// There may be markers to send.
    outgoing: Notify,
    waiting: Mutex<HashMap<Arc<str>, Waiting>>,
    /// Markers that are being written to partitions and groups here.
    written: Mutex<HashSet<EndKey>>,
}

/// The end of one transaction in one partition or group: who is to be told, the producer, and the transaction's number.
pub(crate) type EndKey = (Target, ProducerId, u64);

/// Those who wait for something to happen to one transactional id.
struct Waiting {
    changed: Arc<Notify>,
    count: usize,
}

impl Endings {
    /// Takes note of a command that had its effect in a shard that is led here.
    pub fn took_effect(&self, command: &Command) {
        match command {
            Command::End { id, .. } => {
                self.wake();
                self.changed(id);
            }
            Command::Complete { ended, .. } => ended.iter().for_each(|(id, _)| self.changed(id)),
            Command::Add { id, .. } | Command::Begin { id, .. } => self.changed(id),
            Command::Init { .. } | Command::Expire { .. } => {}
        }
    }

    /// Has the sender of markers look at once.
    pub fn wake(&self) {
        self.outgoing.notify_one();
    }

    /// Returns when there may be markers to send.
    pub fn outgoing(&self) -> Notified<'_> {
        self.outgoing.notified()
    }

    /// Wakes those who wait for this id's transaction to begin or to end.
    pub fn changed(&self, id: &str) {
        if let Some(waiting) = self.waiting.lock().get(id) {
            waiting.changed.notify_waiters();
        }
    }

    /// Hears of each change of this id's transaction from now on.
    pub fn watch(&self, id: &Arc<str>) -> Watching<'_> {
        let mut all = self.waiting.lock();
        let waiting = all.entry(id.clone()).or_insert_with(|| Waiting {
            changed: Arc::default(),
            count: 0,
        });
        waiting.count += 1;
        Watching {
            endings: self,
            id: id.clone(),
            changed: waiting.changed.clone(),
        }
    }

    /// Begins to write a marker here. None: that is under way already.
    pub fn begin(self: &Arc<Self>, key: EndKey) -> Option<Writing> {
        self.written.lock().insert(key.clone()).then(|| Writing {
            endings: self.clone(),
            key,
        })
    }
}

/// Waits for changes of one transactional id's transaction.
pub(crate) struct Watching<'a> {
    endings: &'a Endings,
    id: Arc<str>,
    changed: Arc<Notify>,
}

impl Watching<'_> {
    /// Returns at the next change, counted from the moment at which the future is enabled.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut all = self.endings.waiting.lock();
        let Some(waiting) = all.get_mut(&self.id) else { return };
        waiting.count -= 1;
        if waiting.count == 0 {
            all.remove(&self.id);
        }
    }
}

/// A marker that is being written here.
pub(crate) struct Writing {
    endings: Arc<Endings>,
    key: EndKey,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.endings.written.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::GroupId;

    use super::*;

    #[test]
    fn a_marker_is_written_once_at_a_time() {
        let endings = Arc::new(Endings::default());
        let key = |seq| (Target::Partition(GroupId(3)), ProducerId(7), seq);
        let first = endings.begin(key(1));
        assert!(first.is_some() && endings.begin(key(1)).is_none() && endings.begin(key(2)).is_some());
        drop(first);
        assert!(endings.begin(key(1)).is_some());
    }

    #[tokio::test]
    async fn the_sender_looks_at_once_though_it_was_looking_when_it_was_woken() {
        let endings = Endings::default();
        endings.wake();
        endings.outgoing().await;
        let mut next = Box::pin(endings.outgoing());
        assert!(futures::FutureExt::now_or_never(next.as_mut()).is_none());
    }

    #[tokio::test]
    async fn who_waits_hears_of_a_change_and_leaves_nothing_behind() {
        let endings = Endings::default();
        let id: Arc<str> = "transfers".into();
        {
            let (first, second) = (endings.watch(&id), endings.watch(&id));
            let (mut one, mut two) = (Box::pin(first.changed()), Box::pin(second.changed()));
            assert!(!one.as_mut().enable() && !two.as_mut().enable());
            endings.changed("another");
            assert!(futures::FutureExt::now_or_never(one.as_mut()).is_none());
            let ended = vec![(id.clone(), 1)];
            endings.took_effect(&Command::Complete { ended, at_ms: 0 });
            one.await;
            two.await;
        }
        assert!(endings.waiting.lock().is_empty());
    }
}
