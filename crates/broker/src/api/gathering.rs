//! What is gathered for whoever asks, from many partitions or from other brokers: once at a time for each key, for all who
//! ask meanwhile.
//!
//! Who asks while one is under way gets the next, which begins afterwards: so nobody is told of a time before the question.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Gathers for all who ask at a time.
pub(crate) struct Gathering<K, T>(Arc<Shared<K, T>>);

struct Shared<K, T> {
    gather: Box<dyn Fn(K) -> BoxFuture<'static, T> + Send + Sync>,
    /// Who waits for the next one. There is an entry as long as there is a task that gathers.
    waiting: Mutex<HashMap<K, Vec<oneshot::Sender<T>>>>,
}

impl<K, T> Gathering<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + 'static,
{
    /// Gathers in this way.
    pub fn new<F: Future<Output = T> + Send + 'static>(gather: impl Fn(K) -> F + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            gather: Box::new(move |key| gather(key).boxed()),
            waiting: Mutex::default(),
        }))
    }

    /// What there is now. `None`: gathering it has failed.
    pub async fn get(&self, key: K) -> Option<T> {
        let (sender, gathered) = oneshot::channel();
        let is_first = {
            let mut waiting = self.0.waiting.lock();
            let is_first = !waiting.contains_key(&key);
            waiting.entry(key.clone()).or_default().push(sender);
            is_first
        };
        if is_first {
            tokio::spawn(self.0.clone().run(key));
        }
        gathered.await.ok()
    }
}

impl<K: Clone + Eq + Hash, T: Clone + Send + 'static> Shared<K, T> {
    /// Gathers until nobody waits.
    async fn run(self: Arc<Self>, key: K) {
        while let Some(asking) = self.next(&key) {
            // In a task of its own: should it panic, others are not left to wait for ever.
            let Ok(gathered) = tokio::spawn((self.gather)(key.clone())).await else {
                continue;
            };
            for sender in asking {
                // Whoever does not wait any more needs none.
                let _ = sender.send(gathered.clone());
            }
        }
    }

    fn next(&self, key: &K) -> Option<Vec<oneshot::Sender<T>>> {
        let mut waiting = self.waiting.lock();
        let mut asking = std::mem::take(waiting.get_mut(key)?);
        asking.retain(|sender| !sender.is_closed());
        if asking.is_empty() {
            waiting.remove(key);
            return None;
        }
        Some(asking)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_who_ask_meanwhile_get_the_next_one() {
        let begun = Arc::new(AtomicUsize::new(0));
        let gathering = {
            let begun = begun.clone();
            Gathering::new(move |()| {
                let number = begun.fetch_add(1, SeqCst) + 1;
                async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    number
                }
            })
        };
        let asked = (0..1000).map(|_| gathering.get(()));
        let given = futures::future::join_all(asked).await;
        assert!(given.iter().all(|number| number.is_some()));
        assert!(begun.load(SeqCst) <= 2, "{begun:?}");
        assert_eq!(gathering.get(()).await, Some(begun.load(SeqCst)));
        tokio::task::yield_now().await;
        assert!(gathering.0.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn who_asks_is_told_of_no_time_before() {
        let now = Arc::new(AtomicUsize::new(0));
        let gathering = {
            let now = now.clone();
            Arc::new(Gathering::new(move |()| {
                let seen = now.load(SeqCst);
                async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    seen
                }
            }))
        };
        let first = tokio::spawn({
            let gathering = gathering.clone();
            async move { gathering.get(()).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        now.store(1, SeqCst);
        assert_eq!(gathering.get(()).await, Some(1));
        first.await.expect("it ends").expect("it is gathered");
    }

    #[tokio::test]
    async fn a_gathering_that_fails_is_not_the_last() {
        let begun = AtomicUsize::new(0);
        let gathering = Gathering::new(move |()| {
            let is_first = begun.fetch_add(1, SeqCst) == 0;
            async move { assert!(!is_first, "the first one fails") }
        });
        assert_eq!(gathering.get(()).await, None);
        assert_eq!(gathering.get(()).await, Some(()));
    }
}
