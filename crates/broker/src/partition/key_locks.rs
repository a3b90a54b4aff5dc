//! Which keys of a partition have batches under way, on the leader of a topic with an index of keys.
//!
//! A batch counts as under way for each of its keys from before it is proposed until it is applied, or certainly never
//! will be here. A conditional batch claims its key: from then on no other batch with that key is proposed, and when
//! those under way are through, the index says what the key's last offset is. Once the conditional batch is proposed
//! itself, it is under way like any other.
//!
//! Keys are known by a hash: two keys of one hash only wait for each other without need.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A key, for the time that this process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyHash(u64);

/// See the module text.
#[derive(Default)]
pub(crate) struct KeyLocks {
    keys: Mutex<HashMap<KeyHash, Use>>,
    changed: Notify,
    hasher: RandomState,
}

#[derive(Default)]
struct Use {
    /// Batches under way.
    under_way: u32,
    /// A conditional batch is being judged.
    claimed: bool,
}

impl Use {
    fn is_over(&self) -> bool {
        self.under_way == 0 && !self.claimed
    }
}

impl KeyLocks {
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.hasher.hash_one(key))
    }

    /// Waits until none of the keys is claimed, then counts a batch as under way. `keys` has each key once.
    pub async fn write(self: &Arc<Self>, keys: Vec<KeyHash>) -> UnderWay {
        self.when(|uses| {
            if keys.iter().any(|key| uses.get(key).is_some_and(|used| used.claimed)) {
                return false;
            }
            for key in &keys {
                uses.entry(*key).or_default().under_way += 1;
            }
            true
        })
        .await;
        UnderWay {
            locks: self.clone(),
            keys,
        }
    }

    /// Claims a key and waits until nothing with it is under way. Who claims waits for who claimed before.
    pub async fn claim(self: &Arc<Self>, key: KeyHash) -> Claim {
        self.when(|uses| {
            let used = uses.entry(key).or_default();
            !std::mem::replace(&mut used.claimed, true)
        })
        .await;
        // From here on a dropped call gives the claim back.
        let claim = Claim {
            locks: self.clone(),
            key,
        };
        self.when(|uses| uses.get(&key).is_none_or(|used| used.under_way == 0))
            .await;
        claim
    }

    async fn when(&self, mut done: impl FnMut(&mut HashMap<KeyHash, Use>) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(&mut self.keys.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn release(&self, keys: &[KeyHash], change: impl Fn(&mut Use)) {
        {
            let mut uses = self.keys.lock();
            for key in keys {
                let used = uses.get_mut(key).expect("held");
                change(used);
                if used.is_over() {
                    uses.remove(key);
                }
            }
        }
        self.changed.notify_waiters();
    }
}

/// A batch under way; dropped when it is applied or never will be.
pub(crate) struct UnderWay {
    locks: Arc<KeyLocks>,
    keys: Vec<KeyHash>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.locks.release(&self.keys, |used| used.under_way -= 1);
    }
}

/// A key that a conditional batch is judged for. Dropped without [`Claim::proposed`], the batch was not proposed.
pub(crate) struct Claim {
    locks: Arc<KeyLocks>,
    key: KeyHash,
}

impl Claim {
    /// The batch is being proposed: it is under way, and others with the key may follow.
    pub fn proposed(self) -> UnderWay {
        let mut uses = self.locks.keys.lock();
        uses.get_mut(&self.key).expect("claimed").under_way += 1;
        drop(uses);
        UnderWay {
            locks: self.locks.clone(),
            keys: vec![self.key],
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.locks.release(&[self.key], |used| used.claimed = false);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_claim_waits_for_what_is_under_way_and_holds_up_what_comes() {
        let locks = Arc::new(KeyLocks::default());
        let [a, b] = [b"a", b"b"].map(|key| locks.hash(key));
        let first = locks.write(vec![a, b]).await;
        let mut claim = Box::pin(locks.claim(a));
        assert!((&mut claim).now_or_never().is_none());
        assert!(locks.write(vec![a]).now_or_never().is_none());
        drop(locks.write(vec![b]).now_or_never().expect("another key"));
        drop(first);
        let claim = claim.now_or_never().expect("nothing is under way");
        assert!(locks.write(vec![a]).now_or_never().is_none());
        assert!(locks.claim(a).now_or_never().is_none());
        let under_way = claim.proposed();
        let second = locks.write(vec![a]).now_or_never().expect("may follow");
        assert!(locks.claim(a).now_or_never().is_none());
        drop((under_way, second));
        drop(locks.claim(a).now_or_never().expect("all are through"));
        assert!(locks.keys.lock().is_empty());
    }

    #[tokio::test]
    async fn a_dropped_claim_is_given_back() {
        let locks = Arc::new(KeyLocks::default());
        let a = locks.hash(b"a");
        let under_way = locks.write(vec![a]).await;
        assert!(locks.claim(a).now_or_never().is_none());
        drop(locks.write(vec![a]).now_or_never().expect("given back"));
        drop(under_way);
        assert!(locks.keys.lock().is_empty());
    }
}
