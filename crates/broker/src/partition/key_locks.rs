//! The keys of a partition that have batches under way, on the leader of a topic with an index of keys.
//!
//! A batch is under way for each of its keys from before it is proposed until it is applied, or it is certain that it will never be
//! applied here. A conditional batch claims its key: from then on no other batch with that key is proposed, and when
//! those under way are through, the index says what the key's last offset is. Once the conditional batch is proposed
//! itself, it is under way like any other.
//!
//! Keys are known by a hash. Two keys with the same hash wait for each other without need, and nothing worse.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The largest number of keys of a batch that are counted one by one. A batch with more is kept as a list, so that it enters and
/// leaves the locks as fast as a small one.
const COUNTED_KEYS_MAX: usize = 1_024;
/// A batch with more keys than this counts for every key.
const LISTED_KEYS_MAX: usize = 16_384;

/// The hash of a key. Another process has other hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyHash(u64);

/// The keys of a batch, as far as the locks need them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// The keys, ascending, each once.
    Listed(Arc<[KeyHash]>),
    /// So many keys that the batch counts for every key.
    Every,
}

impl Keys {
    /// The memory that they take, in bytes, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            // Counted in a map, with its room to grow.
            Self::Listed(keys) if keys.len() <= COUNTED_KEYS_MAX => 4 * size_of_val(&**keys),
            Self::Listed(keys) => size_of_val(&**keys),
            Self::Every => 0,
        }
    }

    fn has(&self, key: KeyHash) -> bool {
        match self {
            Self::Listed(keys) => keys.binary_search(&key).is_ok(),
            Self::Every => true,
        }
    }
}

/// Collects the keys of a batch. It holds at most twice [`LISTED_KEYS_MAX`] hashes.
#[derive(Default)]
pub(crate) struct KeysBuilder {
    hashes: Vec<KeyHash>,
    is_every: bool,
}

impl KeysBuilder {
    pub fn add(&mut self, key: KeyHash) {
        // The records of one key often follow each other.
        if self.is_every || self.hashes.last() == Some(&key) {
            return;
        }
        self.hashes.push(key);
        if self.hashes.len() > 2 * LISTED_KEYS_MAX {
            self.sort_out();
        }
    }

    fn sort_out(&mut self) {
        self.hashes.sort_unstable();
        self.hashes.dedup();
        if self.hashes.len() > LISTED_KEYS_MAX {
            (self.hashes, self.is_every) = (Vec::new(), true);
        }
    }

    pub fn build(mut self) -> Keys {
        self.sort_out();
        match self.is_every {
            true => Keys::Every,
            false => Keys::Listed(self.hashes.into()),
        }
    }
}

/// The locks of one partition's keys.
#[derive(Default)]
pub(crate) struct KeyLocks {
    uses: Mutex<Uses>,
    changed: Notify,
    hasher: RandomState,
}

/// The keys that batches use.
#[derive(Default)]
struct Uses {
    /// Keys for which a conditional batch is being judged.
    claimed: HashSet<KeyHash>,
    /// The number of batches under way by key, of batches with few keys.
    counted: HashMap<KeyHash, u32>,
    /// The keys of batches with many, by the number of the batch.
    listed: HashMap<u64, Arc<[KeyHash]>>,
    next_list: u64,
    /// The number of batches under way that count for every key.
    every: u32,
    /// The number of batches that count for every key and wait until no key is claimed. No more keys are claimed meanwhile, or such a
    /// batch might wait for ever.
    every_waiting: u32,
}

impl Uses {
    fn is_claimed(&self, keys: &Keys) -> bool {
        match keys {
            // Conditional batches are few; a batch can have many keys.
            Keys::Listed(listed) if listed.len() < self.claimed.len() => {
                listed.iter().any(|key| self.claimed.contains(key))
            }
            keys => self.claimed.iter().any(|key| keys.has(*key)),
        }
    }

    fn is_under_way(&self, key: KeyHash) -> bool {
        let is_listed = |keys: &Arc<[KeyHash]>| keys.binary_search(&key).is_ok();
        self.every > 0 || self.counted.contains_key(&key) || self.listed.values().any(is_listed)
    }

    fn enter(&mut self, keys: &Keys) -> Entered {
        match keys {
            Keys::Listed(keys) if keys.len() <= COUNTED_KEYS_MAX => {
                for key in &**keys {
                    *self.counted.entry(*key).or_default() += 1;
                }
                Entered::Counted(keys.clone())
            }
            Keys::Listed(keys) => {
                self.next_list += 1;
                self.listed.insert(self.next_list, keys.clone());
                Entered::Listed(self.next_list)
            }
            Keys::Every => {
                self.every += 1;
                Entered::Every
            }
        }
    }

    fn leave(&mut self, entered: &Entered) {
        match entered {
            Entered::Counted(keys) => {
                for key in &**keys {
                    let count = self.counted.get_mut(key).expect("it was counted");
                    *count -= 1;
                    if *count == 0 {
                        self.counted.remove(key);
                    }
                }
            }
            Entered::Listed(number) => drop(self.listed.remove(number).expect("it was listed")),
            Entered::Every => self.every -= 1,
        }
    }
}

/// How a batch is under way.
enum Entered {
    Counted(Arc<[KeyHash]>),
    Listed(u64),
    Every,
}

impl KeyLocks {
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.hasher.hash_one(key))
    }

    /// Waits until none of the keys is claimed, then counts a batch as under way.
    pub async fn write(self: &Arc<Self>, keys: Keys) -> UnderWay {
        let _waiting = matches!(keys, Keys::Every).then(|| EveryWaiting::new(self.clone()));
        let enter = |uses: &mut Uses| (!uses.is_claimed(&keys)).then(|| uses.enter(&keys));
        let entered = self.when(enter).await;
        UnderWay {
            locks: self.clone(),
            entered,
        }
    }

    /// Claims a key, once earlier claims of it are gone, and waits until no batch with it is under way.
    pub async fn claim(self: &Arc<Self>, key: KeyHash) -> Claim {
        self.when(|uses| (uses.every_waiting == 0 && uses.claimed.insert(key)).then_some(()))
            .await;
        // From here on a dropped call gives the claim back.
        let claim = Claim {
            locks: self.clone(),
            key,
        };
        self.when(|uses| (!uses.is_under_way(key)).then_some(())).await;
        claim
    }

    async fn when<T>(&self, mut done: impl FnMut(&mut Uses) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(done) = done(&mut self.uses.lock()) {
                return done;
            }
            changed.await;
        }
    }

    /// Changes the uses, and wakes everybody who waits for a change.
    fn change(&self, change: impl FnOnce(&mut Uses)) {
        change(&mut self.uses.lock());
        self.changed.notify_waiters();
    }
}

/// A batch that counts for every key waits; dropped when it has its turn, or gave up.
struct EveryWaiting(Arc<KeyLocks>);

impl EveryWaiting {
    fn new(locks: Arc<KeyLocks>) -> Self {
        locks.uses.lock().every_waiting += 1;
        Self(locks)
    }
}

impl Drop for EveryWaiting {
    fn drop(&mut self) {
        self.0.change(|uses| uses.every_waiting -= 1);
    }
}

/// A batch under way; dropped when it is applied or never will be.
pub(crate) struct UnderWay {
    locks: Arc<KeyLocks>,
    entered: Entered,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.locks.change(|uses| uses.leave(&self.entered));
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
        let keys = Keys::Listed(Arc::new([self.key]));
        let entered = self.locks.uses.lock().enter(&keys);
        UnderWay {
            locks: self.locks.clone(),
            entered,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.locks.change(|uses| {
            uses.claimed.remove(&self.key);
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn listed(keys: &[KeyHash]) -> Keys {
        let mut builder = KeysBuilder::default();
        keys.iter().for_each(|key| builder.add(*key));
        builder.build()
    }

    fn are_free(locks: &KeyLocks) -> bool {
        let uses = locks.uses.lock();
        uses.claimed.is_empty()
            && uses.counted.is_empty()
            && uses.listed.is_empty()
            && uses.every + uses.every_waiting == 0
    }

    /// Keys of a batch that has so many of them, and one more.
    fn many(locks: &KeyLocks, count: usize, key: KeyHash) -> Keys {
        let others = (0..count).map(|number| locks.hash(&number.to_be_bytes()));
        listed(&others.chain([key]).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn many_keys_are_told_apart_and_very_many_are_not() {
        let locks = Arc::new(KeyLocks::default());
        let [a, b] = [b"a", b"b"].map(|key| locks.hash(key));
        let lists = many(&locks, COUNTED_KEYS_MAX, a);
        let every = many(&locks, LISTED_KEYS_MAX, a);
        assert!(matches!(&lists, Keys::Listed(keys) if keys.len() == COUNTED_KEYS_MAX + 1));
        assert_eq!(every, Keys::Every);
        assert!(lists.bytes() <= 16 * 1024 && every.bytes() == 0);

        let first = locks.write(lists.clone()).now_or_never().expect("nothing is claimed");
        assert!(locks.uses.lock().counted.is_empty());
        drop(locks.claim(b).now_or_never().expect("it does not have the key"));
        assert!(locks.claim(a).now_or_never().is_none());
        drop(first);
        let claim = locks.claim(a).now_or_never().expect("nothing is under way");
        assert!(locks.write(lists).now_or_never().is_none());
        assert!(locks.write(every.clone()).now_or_never().is_none());
        // While one waits, nothing more is claimed.
        let mut waiting = Box::pin(locks.write(every.clone()));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(locks.claim(b).now_or_never().is_none());
        drop(claim);
        let second = waiting.now_or_never().expect("nothing is claimed any more");
        let mut claim = Box::pin(locks.claim(b));
        assert!((&mut claim).now_or_never().is_none(), "it counts for every key");
        drop(second);
        drop(claim.now_or_never().expect("it is through"));
        assert!(are_free(&locks));
    }

    #[tokio::test]
    async fn a_claim_waits_for_what_is_under_way_and_holds_up_what_comes() {
        let locks = Arc::new(KeyLocks::default());
        let [a, b] = [b"a", b"b"].map(|key| locks.hash(key));
        let first = locks.write(listed(&[a, b])).await;
        let mut claim = Box::pin(locks.claim(a));
        assert!((&mut claim).now_or_never().is_none());
        assert!(locks.write(listed(&[a])).now_or_never().is_none());
        drop(locks.write(listed(&[b])).now_or_never().expect("another key"));
        drop(first);
        let claim = claim.now_or_never().expect("nothing is under way");
        assert!(locks.write(listed(&[a])).now_or_never().is_none());
        assert!(locks.claim(a).now_or_never().is_none());
        let under_way = claim.proposed();
        let second = locks.write(listed(&[a])).now_or_never().expect("may follow");
        assert!(locks.claim(a).now_or_never().is_none());
        drop((under_way, second));
        drop(locks.claim(a).now_or_never().expect("all are through"));
        assert!(are_free(&locks));
    }

    #[tokio::test]
    async fn a_dropped_claim_is_given_back() {
        let locks = Arc::new(KeyLocks::default());
        let a = locks.hash(b"a");
        let under_way = locks.write(listed(&[a])).await;
        assert!(locks.claim(a).now_or_never().is_none());
        drop(locks.write(listed(&[a])).now_or_never().expect("given back"));
        drop(under_way);
        assert!(are_free(&locks));
    }
}
