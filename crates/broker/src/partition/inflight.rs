//! Bytes of one partition's batches on their way through its quorum, and how connections share the room that there is for them.
//!
//! Nobody waits here: a batch that finds no room is refused, and its producer told to come again. So the fastest producer would
//! have all the room, and others would hear PARTITION_BUSY for as long as it goes on. A connection that has a part may hold no
//! more than what stays free beside it ([`CONNECTION_PART`]): alone it gets half, a second one beside it a quarter, and there is
//! always something for the next. A connection that has nothing else may take whatever is free, or a large batch would never get
//! in.
//!
//! While no more than the common part of the room is taken ([`COMMON_PART`]), no connection is in another's way, and nothing is
//! counted by connection: an ordinary producer costs one addition and one subtraction, without a lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use parking_lot::Mutex;

use crate::quota::Caller;

/// The time after which a producer that found no room should try again.
pub(super) const BUSY_RETRY: Duration = Duration::from_millis(25);

/// A connection may hold one part in this many of the sum of what it holds and what is free.
const CONNECTION_PART: usize = 2;
/// One part in this many of the room is common: it is counted for no connection.
const COMMON_PART: usize = 8;

/// The room of one partition: how much of it is taken, and by which connections.
pub(super) struct Inflight {
    limit: usize,
    used: AtomicUsize,
    /// The bytes that each connection took while more than the common part was taken. Connections that hold none are left out.
    shares: Mutex<HashMap<usize, usize>>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The connection holds its share, `held` bytes.
    Connection { held: usize },
    /// All room of the partition is taken.
    Partition,
}

/// A part of the room, which is given back when this is dropped.
pub(super) struct InflightPart {
    inflight: Arc<Inflight>,
    caller: Arc<Caller>,
    bytes: usize,
    /// How many of the bytes are counted for the connection.
    shared: usize,
}

impl Inflight {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            shares: Mutex::default(),
        })
    }

    /// Bytes that are on their way.
    pub fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// Bytes that this connection may have on their way, of which it may have some already. Without a lock while nothing is counted for
    /// connections.
    pub fn share(&self, caller: &Arc<Caller>) -> usize {
        let used = self.used();
        let held = match used > self.limit / COMMON_PART {
            true => self.shares.lock().get(&key(caller)).copied().unwrap_or(0),
            false => 0,
        };
        (held + self.limit.saturating_sub(used)) / CONNECTION_PART
    }

    /// Takes room for `bytes`.
    pub fn take(self: &Arc<Self>, caller: &Arc<Caller>, bytes: usize) -> Result<InflightPart, Full> {
        let mut part = InflightPart {
            inflight: self.clone(),
            caller: caller.clone(),
            bytes: 0,
            shared: 0,
        };
        part.grow(bytes)?;
        Ok(part)
    }

    /// Takes `bytes` if no more than `most` are taken then. The error is how much is taken.
    fn take_within(&self, most: usize, bytes: usize) -> Result<(), usize> {
        let add = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        self.used.fetch_update(SeqCst, SeqCst, add).map(drop)
    }

    /// Takes `bytes` and counts them for the connection. The `own` bytes that the growing part has already do not make its share
    /// smaller.
    fn take_shared(&self, connection: usize, bytes: usize, own: usize) -> Result<(), Full> {
        let mut shares = self.shares.lock();
        let before = shares.get(&connection).copied().unwrap_or(0);
        let has = before + bytes;
        let used = self.used.load(SeqCst);
        // What is taken meanwhile without the lock is common, and little.
        let free = self.limit.checked_sub(used + bytes).ok_or(Full::Partition)?;
        if before > own && has > (has + free) / CONNECTION_PART {
            return Err(Full::Connection { held: before });
        }
        self.take_within(self.limit, bytes).map_err(|_| Full::Partition)?;
        shares.insert(connection, has);
        Ok(())
    }

    fn give_back(&self, connection: usize, bytes: usize, shared: usize) {
        if shared > 0 {
            let mut shares = self.shares.lock();
            let share = shares.get_mut(&connection).expect("it has what it gives back");
            *share -= shared;
            if *share == 0 {
                shares.remove(&connection);
            }
        }
        let used = self.used.fetch_sub(bytes, SeqCst);
        debug_assert!(used >= bytes, "{bytes} given back of {used}");
    }
}

/// The key of a connection: the address of its caller, which each part keeps alive.
fn key(caller: &Arc<Caller>) -> usize {
    Arc::as_ptr(caller).addr()
}

impl InflightPart {
    /// Grows or shrinks the part to `bytes`.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        let less = self.bytes - bytes;
        if less > 0 {
            let shared = less.min(self.shared);
            self.inflight.give_back(key(&self.caller), less, shared);
            self.shared -= shared;
            self.bytes = bytes;
        }
        Ok(())
    }

    fn grow(&mut self, more: usize) -> Result<(), Full> {
        let inflight = &self.inflight;
        if inflight.take_within(inflight.limit / COMMON_PART, more).is_err() {
            inflight.take_shared(key(&self.caller), more, self.shared)?;
            self.shared += more;
        }
        self.bytes += more;
        Ok(())
    }
}

impl Drop for InflightPart {
    fn drop(&mut self) {
        self.inflight.give_back(key(&self.caller), self.bytes, self.shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1_000;

    /// Takes ten by ten until it gets no more.
    fn fill(inflight: &Arc<Inflight>, caller: &Arc<Caller>) -> (Vec<InflightPart>, Full) {
        let mut parts = Vec::new();
        loop {
            match inflight.take(caller, 10) {
                Ok(part) => parts.push(part),
                Err(full) => return (parts, full),
            }
        }
    }

    fn is_empty(inflight: &Inflight) -> bool {
        inflight.used.load(SeqCst) == 0 && inflight.shares.lock().is_empty()
    }

    #[test]
    fn each_further_connection_gets_half_of_what_the_ones_before_leave() {
        let inflight = Inflight::new(LIMIT);
        let mut held = Vec::new();
        // The first has the common part as well: 120.
        for (expected, shared) in [(560, 440), (220, 220), (110, 110), (50, 50)] {
            let caller = Caller::alone();
            let (parts, full) = fill(&inflight, &caller);
            assert_eq!(parts.len() * 10, expected);
            assert_eq!(full, Full::Connection { held: shared });
            held.push((caller, parts));
        }
        let next = inflight.take(&Caller::alone(), 50);
        next.map(drop).expect("there is something for the next");
        drop(held);
        assert!(is_empty(&inflight));
    }

    #[test]
    fn the_share_of_a_connection_is_what_it_may_take() {
        let inflight = Inflight::new(LIMIT);
        let (first, second) = (Caller::alone(), Caller::alone());
        assert_eq!(inflight.share(&first), 500);
        let (parts, _) = fill(&inflight, &first);
        // It has 440 beside the common part, and 440 are free.
        assert_eq!((inflight.share(&first), inflight.share(&second)), (440, 220));
        drop(parts);
        assert_eq!(inflight.share(&second), 500);
    }

    #[test]
    fn a_little_is_counted_for_nobody() {
        let inflight = Inflight::new(LIMIT);
        let callers = [Caller::alone(), Caller::alone()];
        let take = |caller| inflight.take(caller, LIMIT / COMMON_PART / 2);
        let parts: Vec<_> = callers.iter().map(take).map(|part| part.map_err(drop)).collect();
        assert!(parts.iter().all(Result::is_ok));
        assert!(inflight.shares.lock().is_empty());
        let beyond = inflight.take(&callers[0], 10).map_err(drop).expect("there is room");
        assert_eq!(inflight.shares.lock().len(), 1);
        drop((parts, beyond));
        assert!(is_empty(&inflight));
    }

    #[test]
    fn a_connection_that_has_nothing_may_take_all_that_is_free() {
        let inflight = Inflight::new(LIMIT);
        let large = inflight.take(&Caller::alone(), LIMIT).map_err(drop);
        let large = large.expect("it is alone");
        assert_eq!(inflight.take(&Caller::alone(), 1).err(), Some(Full::Partition));
        drop(large);
        inflight.take(&Caller::alone(), 1).map(drop).expect("it is there again");
    }

    #[test]
    fn a_part_can_grow_and_shrink() {
        let (inflight, caller) = (Inflight::new(LIMIT), Caller::alone());
        let mut part = inflight.take(&caller, 200).map_err(drop).expect("there is room");
        part.resize(900).expect("it has nothing else");
        part.resize(400).expect("less is always possible");
        let mut next = inflight.take(&caller, 100).map_err(drop).expect("half is its share");
        assert_eq!(next.resize(101), Err(Full::Connection { held: 500 }));
        assert_eq!(part.resize(LIMIT), Err(Full::Partition));
        drop(next);
        part.resize(0).expect("less is always possible");
        assert!(is_empty(&inflight));
    }

    #[test]
    fn what_threads_take_and_give_back_comes_out_even() {
        let inflight = Inflight::new(LIMIT);
        std::thread::scope(|scope| {
            for size in [3, 70, 210, 330] {
                let inflight = &inflight;
                scope.spawn(move || {
                    let caller = Caller::alone();
                    for _ in 0..5_000 {
                        let first = inflight.take(&caller, size);
                        let second = inflight.take(&caller, size);
                        assert!(inflight.used.load(SeqCst) <= LIMIT);
                        if let Ok(mut part) = first {
                            let _ = part.resize(2 * size);
                            let _ = part.resize(1);
                        }
                        drop(second);
                    }
                });
            }
        });
        assert!(is_empty(&inflight));
    }
}
