//! Which messages were sent before: looked up by the leader before it appends, for queues that leave out repetitions.
//!
//! ```text
//!   ask(ids) -> Verdicts: new, or the offset of the first with the same id
//!            -> Read: rows of IDS, and Verdicts when they are there
//!            -> nothing yet: an equal id is being appended, and what becomes of it decides
//!   applied, not_appended -> Verdicts of those that waited
//! ```
//!
//! No replica's state has ids. The leader of a term knows the ids under way, and a ring of those that it appended last; what is older is
//! in rows, which come from committed entries alone. It is dropped with the leadership: what was under way and is committed has rows then,
//! and what is not was never sent.
//!
//! An id counts for the window from the time at which it was appended, by the clocks of the leaders that append. The host keeps one of
//! these for each partition of a queue that leaves out repetitions, beside the engine, and hashes ids, or contents, to 128 bits.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::command::IdWindow;
use crate::engine::{ReadId, RequestId};
use crate::limits::{ID_WINDOW_MS_MAX, IDS_KNOWN_MAX};
use crate::tables::{IdRow, bucket_of, id_key};

/// What becomes of one message of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdVerdict {
    /// No message with the id was sent within the window: it is to be appended.
    New,
    /// A message with the id was sent: its offset then. It may have been carried since, and be done.
    Sent {
        /// The offset of the first.
        offset: u64,
    },
    /// The request itself has a message with the id before it, at this place: what becomes of that one is the answer for both.
    SameAs {
        /// The place in the request.
        place: usize,
    },
}

/// What the host is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdOutput {
    /// Look up rows of the table [`IDS`](crate::tables::IDS) by these keys, and give those that are there to [`SentIds::rows`].
    Read {
        /// The number of the look-up.
        read: ReadId,
        /// The keys of the rows.
        keys: Vec<[u8; 24]>,
    },
    /// What becomes of each message of a request, in their order. Those that are new are under way from now on: the host appends them,
    /// if there are any. [`SentIds::applied`] is told when they are, or [`SentIds::not_appended`].
    Verdicts {
        /// The number of the request.
        request: RequestId,
        /// Of each message.
        verdicts: Vec<IdVerdict>,
    },
}

/// An id whose message is being appended, or looked up.
#[derive(Debug)]
struct UnderWay {
    by: RequestId,
    /// Requests with the same id, in the order in which they came.
    waiting: VecDeque<RequestId>,
}

/// A request whose ids are not all decided.
#[derive(Debug)]
struct Asked {
    ids: Vec<u128>,
    /// The first place of each id.
    places: HashMap<u128, usize>,
    verdicts: Vec<Option<IdVerdict>>,
    now_ms: u64,
}

/// What a leader knows of the ids of one queue in one partition.
#[derive(Debug)]
pub struct SentIds {
    window_ms: u64,
    /// When the leadership began, as the first request had the time: all ids of later are in the ring, unless it was full.
    complete_since_ms: Option<u64>,
    known: HashMap<u128, (u64, u64)>,
    /// The known ids in the order in which they were appended.
    ring: VecDeque<(u128, u64)>,
    under_way: HashMap<u128, UnderWay>,
    asked: BTreeMap<RequestId, Asked>,
    /// Of each look-up the request, and the ids that it is about.
    reads: HashMap<ReadId, (RequestId, Vec<u128>)>,
    last_read: u64,
    /// The bucket of time in which ids were appended last.
    bucket: Option<u64>,
}

impl SentIds {
    /// For the leader of a term. The window is milliseconds, at most a day.
    pub fn begin(window_ms: u64) -> Self {
        Self {
            window_ms: window_ms.min(ID_WINDOW_MS_MAX),
            complete_since_ms: None,
            known: HashMap::new(),
            ring: VecDeque::new(),
            under_way: HashMap::new(),
            asked: BTreeMap::new(),
            reads: HashMap::new(),
            last_read: 0,
            bucket: None,
        }
    }

    /// The queue's setting is another one.
    pub fn set_window(&mut self, window_ms: u64) {
        let window_ms = window_ms.min(ID_WINDOW_MS_MAX);
        if window_ms > self.window_ms {
            // What fell out of the ring by the shorter one may count again.
            self.complete_since_ms = None;
        }
        self.window_ms = window_ms;
    }

    /// What the command of a batch with ids says of them, which gets this time.
    pub fn window(&mut self, now_ms: u64) -> IdWindow {
        let bucket = Some(bucket_of(now_ms, self.window_ms));
        IdWindow {
            window_ms: self.window_ms,
            forgets: std::mem::replace(&mut self.bucket, bucket) != bucket,
        }
    }

    /// Ids that are remembered without a look-up.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    fn is_within(&self, time_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(time_ms) < self.window_ms
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((id, time_ms)) = self.ring.front().copied() {
            let is_within = self.is_within(time_ms, now_ms);
            if is_within && self.ring.len() <= IDS_KNOWN_MAX {
                return;
            }
            self.ring.pop_front();
            if self.known.get(&id).is_some_and(|(_, known_ms)| *known_ms == time_ms) {
                self.known.remove(&id);
            }
            if is_within {
                // Those of later are all here.
                self.complete_since_ms = self.complete_since_ms.max(Some(time_ms + 1));
            }
        }
    }

    /// A request is to append messages with these ids; 0: a message has none, and is new. `now_ms` is the leader's wall clock.
    pub fn ask(&mut self, request: RequestId, ids: &[u128], now_ms: u64) -> Vec<IdOutput> {
        self.complete_since_ms.get_or_insert(now_ms);
        self.forget(now_ms);
        let mut asked = Asked {
            ids: ids.to_vec(),
            places: HashMap::new(),
            verdicts: vec![None; ids.len()],
            now_ms,
        };
        let mut undecided = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            asked.verdicts[place] = match asked.places.get(id) {
                _ if *id == 0 => Some(IdVerdict::New),
                Some(place) => Some(IdVerdict::SameAs { place: *place }),
                None => {
                    asked.places.insert(*id, place);
                    undecided.push(*id);
                    None
                }
            };
        }
        self.asked.insert(request, asked);
        let mut to_read = Vec::new();
        for id in undecided {
            self.decide(request, id, &mut to_read);
        }
        let mut out = Vec::new();
        self.read(request, to_read, now_ms, &mut out);
        self.answer(request, &mut out);
        out
    }

    /// Decides of an id what can be decided, or waits, or has it read.
    fn decide(&mut self, request: RequestId, id: u128, to_read: &mut Vec<u128>) {
        if let Some(under_way) = self.under_way.get_mut(&id) {
            return under_way.waiting.push_back(request);
        }
        let now_ms = self.asked[&request].now_ms;
        let known = self.known.get(&id).copied();
        if let Some((offset, _)) = known.filter(|(_, time_ms)| self.is_within(*time_ms, now_ms)) {
            return self.found(request, id, IdVerdict::Sent { offset });
        }
        let under_way = UnderWay {
            by: request,
            waiting: VecDeque::new(),
        };
        self.under_way.insert(id, under_way);
        let is_complete = self
            .complete_since_ms
            .is_some_and(|since| !self.is_within(since, now_ms));
        if is_complete {
            self.found(request, id, IdVerdict::New);
        } else {
            to_read.push(id);
        }
    }

    fn found(&mut self, request: RequestId, id: u128, verdict: IdVerdict) {
        if let Some(asked) = self.asked.get_mut(&request)
            && let Some(place) = asked.places.get(&id)
        {
            asked.verdicts[*place] = Some(verdict);
        }
    }

    fn read(&mut self, request: RequestId, ids: Vec<u128>, now_ms: u64, out: &mut Vec<IdOutput>) {
        if ids.is_empty() {
            return;
        }
        // Half a window is a bucket, so that a window is in three of them.
        let half = (self.window_ms / 2).max(1);
        let last = bucket_of(now_ms, self.window_ms);
        let mut buckets = vec![last, last.saturating_sub(half), last.saturating_sub(2 * half)];
        buckets.dedup();
        let keys = ids
            .iter()
            .flat_map(|id| buckets.iter().map(|bucket| id_key(*bucket, *id)));
        let keys = keys.collect();
        self.last_read += 1;
        let read = ReadId(self.last_read);
        self.reads.insert(read, (request, ids));
        out.push(IdOutput::Read { read, keys });
    }

    /// Rows that were looked up: the keys of those that are there, with what they say. Of an id in several buckets the latest counts.
    pub fn rows(&mut self, read: ReadId, rows: &[([u8; 24], IdRow)]) -> Vec<IdOutput> {
        let mut out = Vec::new();
        let Some((request, ids)) = self.reads.remove(&read) else {
            return out;
        };
        let Some(now_ms) = self.asked.get(&request).map(|asked| asked.now_ms) else {
            return out;
        };
        let mut decided = Vec::new();
        for id in ids {
            let of_id = rows.iter().filter(|(key, _)| key[8..] == id.to_be_bytes());
            let latest = of_id.map(|(_, row)| row).max_by_key(|row| row.time_ms);
            match latest.filter(|row| self.is_within(row.time_ms, now_ms)) {
                Some(row) => {
                    self.found(request, id, IdVerdict::Sent { offset: row.offset });
                    decided.push((id, Some(row.offset)));
                }
                None => self.found(request, id, IdVerdict::New),
            }
        }
        // Those that waited for an id that was sent long ago have their answer with this one.
        self.decided(&decided, &mut out);
        self.answer(request, &mut out);
        out
    }

    /// A batch is in the log from offset `base` on: the id of each of its messages, 0 for one without. `now_ms` is the time that the entry
    /// has. To be told where the command is applied, so that it counts whatever becomes of whoever asked.
    pub fn applied(&mut self, base: u64, ids: impl Iterator<Item = u128>, now_ms: u64) -> Vec<IdOutput> {
        let mut out = Vec::new();
        let decided: Vec<(u128, Option<u64>)> = ids
            .zip(base..)
            .filter(|(id, _)| *id != 0)
            .map(|(id, offset)| (id, Some(offset)))
            .collect();
        for (id, offset) in &decided {
            if let Some(under_way) = self.under_way.get(id) {
                self.asked.remove(&under_way.by);
            }
            self.known.insert(*id, (offset.expect("it was given"), now_ms));
            self.ring.push_back((*id, now_ms));
        }
        self.forget(now_ms);
        self.decided(&decided, &mut out);
        out
    }

    /// Nothing of a request is in the log, definitely, or whoever asked is gone before its verdicts were there. If it is not known whether
    /// it is in the log, leadership is lost, and this is to be dropped.
    pub fn not_appended(&mut self, request: RequestId) -> Vec<IdOutput> {
        let mut out = Vec::new();
        let decided: Vec<(u128, Option<u64>)> = self.under_way_of(request).into_iter().map(|id| (id, None)).collect();
        self.asked.remove(&request);
        self.under_way
            .values_mut()
            .for_each(|known| known.waiting.retain(|waits| *waits != request));
        self.decided(&decided, &mut out);
        out
    }

    /// The ids that a request is to append, in its order.
    fn under_way_of(&self, request: RequestId) -> Vec<u128> {
        let Some(asked) = self.asked.get(&request) else {
            return Vec::new();
        };
        let of_request = |id: &u128| self.under_way.get(id).is_some_and(|known| known.by == request);
        let places = asked.ids.iter().zip(&asked.verdicts);
        let undecided = places.filter(|(_, verdict)| matches!(verdict, None | Some(IdVerdict::New)));
        undecided.map(|(id, _)| *id).filter(of_request).collect()
    }

    /// What became of ids that were under way: those that wait for them go on.
    fn decided(&mut self, decided: &[(u128, Option<u64>)], out: &mut Vec<IdOutput>) {
        let mut go_on: BTreeMap<RequestId, Vec<u128>> = BTreeMap::new();
        for (id, offset) in decided {
            let Some(mut known) = self.under_way.remove(id) else {
                continue;
            };
            if let Some(offset) = *offset {
                for request in known.waiting {
                    self.found(request, *id, IdVerdict::Sent { offset });
                    go_on.entry(request).or_default();
                }
                continue;
            }
            // The next one takes its place.
            if let Some(next) = known.waiting.pop_front() {
                let waiting = std::mem::take(&mut known.waiting);
                self.under_way.insert(*id, UnderWay { by: next, waiting });
                go_on.entry(next).or_default().push(*id);
            }
        }
        for (request, ids) in go_on {
            if let Some(now_ms) = self.asked.get(&request).map(|asked| asked.now_ms) {
                self.read(request, ids, now_ms, out);
                self.answer(request, out);
            }
        }
    }

    /// Answers a request if all is decided.
    fn answer(&mut self, request: RequestId, out: &mut Vec<IdOutput>) {
        let Some(asked) = self.asked.get_mut(&request) else {
            return;
        };
        let Some(verdicts) = asked.verdicts.iter().copied().collect::<Option<Vec<IdVerdict>>>() else {
            return;
        };
        let has_new = asked
            .ids
            .iter()
            .zip(&verdicts)
            .any(|(id, verdict)| *id != 0 && *verdict == IdVerdict::New);
        if !has_new {
            self.asked.remove(&request);
        }
        out.push(IdOutput::Verdicts { request, verdicts });
    }
}
