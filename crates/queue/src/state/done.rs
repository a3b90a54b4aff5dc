//! The offsets above a slot's floor that are done.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Offsets of one chunk.
pub(crate) const CHUNK: u64 = 4096;
/// Bits of an offset within its chunk.
const SHIFT: u32 = CHUNK.trailing_zeros();
const WORDS: usize = CHUNK as usize / 64;
/// A chunk with more runs is a bitmap: so many runs of four bytes are as large as that.
pub(crate) const RUNS_MAX: usize = 128;
/// What a chunk is counted with beside its runs or its bitmap, bytes.
const CHUNK_OVERHEAD: usize = 16;

type Words = [u64; WORDS];

/// A chunk: runs of neighbours (first and last, both included), or a bit for each offset. Which of the two follows from the
/// offsets alone, so that equal sets are equal in memory and as bytes. Shared with the clones of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Runs(Arc<Vec<(u16, u16)>>),
    Bits(Arc<Words>),
}

/// A set of offsets, in chunks that are shared with clones until one of them changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DoneSet {
    chunks: BTreeMap<u64, Chunk>,
    len: u64,
    bytes: usize,
}

/// The mask of the bits from `first` to `last` of a word.
fn mask(first: u32, last: u32) -> u64 {
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

/// The parts of words that the bits from `first` to `last` are: the word, and their mask in it.
fn masks(first: u16, last: u16) -> impl Iterator<Item = (usize, u64)> {
    let (first, last) = (u32::from(first), u32::from(last));
    (first / 64..=last / 64).map(move |word| {
        let low = if word == first / 64 { first % 64 } else { 0 };
        let high = if word == last / 64 { last % 64 } else { 63 };
        (word as usize, mask(low, high))
    })
}

fn count_runs(words: &Words) -> usize {
    let mut carry = 0;
    let mut runs = 0;
    for word in words {
        runs += (word & !((word << 1) | carry)).count_ones() as usize;
        carry = word >> 63;
    }
    runs
}

fn runs_of(words: &Words) -> Vec<(u16, u16)> {
    let mut runs = Vec::with_capacity(count_runs(words));
    let mut at = 0;
    while let Some(first) = next(words, at, true) {
        let end = next(words, first, false).unwrap_or(CHUNK as u16);
        runs.push((first, end - 1));
        at = end;
    }
    runs
}

/// The first bit at or after `from` that is set, or not set.
fn next(words: &Words, from: u16, is_set: bool) -> Option<u16> {
    let mut word = usize::from(from) / 64;
    let mut keep = u64::MAX.checked_shl(u32::from(from) % 64).unwrap_or(0);
    while word < WORDS {
        let bits = if is_set { words[word] } else { !words[word] } & keep;
        if bits != 0 {
            return Some((word * 64) as u16 + bits.trailing_zeros() as u16);
        }
        (word, keep) = (word + 1, u64::MAX);
    }
    None
}

impl Chunk {
    fn of_runs(runs: Vec<(u16, u16)>) -> Self {
        if runs.len() <= RUNS_MAX {
            return Self::Runs(Arc::new(runs));
        }
        let mut words = [0; WORDS];
        for (first, last) in runs {
            masks(first, last).for_each(|(word, mask)| words[word] |= mask);
        }
        Self::Bits(Arc::new(words))
    }

    /// From a bitmap, in the form that the offsets ask for.
    fn of_words(words: Words) -> Self {
        if count_runs(&words) <= RUNS_MAX {
            Self::Runs(Arc::new(runs_of(&words)))
        } else {
            Self::Bits(Arc::new(words))
        }
    }

    fn bytes(&self) -> usize {
        CHUNK_OVERHEAD
            + match self {
                Self::Runs(runs) => 4 * runs.len(),
                Self::Bits(_) => 8 * WORDS,
            }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Runs(runs) if runs.is_empty())
    }

    fn contains(&self, at: u16) -> bool {
        match self {
            Self::Runs(runs) => {
                let behind = runs.partition_point(|run| run.0 <= at);
                behind > 0 && runs[behind - 1].1 >= at
            }
            Self::Bits(words) => words[usize::from(at) / 64] >> (at % 64) & 1 == 1,
        }
    }

    /// Adds the offsets from `first` to `last`, and says how many are new.
    fn insert(&mut self, first: u16, last: u16) -> u64 {
        match self {
            Self::Runs(shared) => {
                let runs = Arc::make_mut(shared);
                // The runs that overlap the new one or touch it become one with it.
                let from = runs.partition_point(|run| u32::from(run.1) + 1 < u32::from(first));
                let until = runs.partition_point(|run| u32::from(run.0) <= u32::from(last) + 1);
                let mut merged = (first, last);
                let mut known = 0;
                for run in &runs[from..until] {
                    known += u64::from(run.1 - run.0) + 1;
                    merged = (merged.0.min(run.0), merged.1.max(run.1));
                }
                runs.splice(from..until, [merged]);
                let new = u64::from(merged.1 - merged.0) + 1 - known;
                if runs.len() > RUNS_MAX {
                    *self = Self::of_runs(std::mem::take(runs));
                } else if runs.len() * 2 < runs.capacity() {
                    runs.shrink_to(runs.len() + 1);
                }
                new
            }
            Self::Bits(shared) => {
                let words = Arc::make_mut(shared);
                let mut new = 0;
                for (word, mask) in masks(first, last) {
                    new += u64::from((mask & !words[word]).count_ones());
                    words[word] |= mask;
                }
                if new > 0 && count_runs(words) <= RUNS_MAX {
                    *self = Self::of_words(*words);
                }
                new
            }
        }
    }

    /// Takes the offsets below `end` out, and says how many there were.
    fn remove_below(&mut self, end: u16) -> u64 {
        let Some(last) = end.checked_sub(1) else {
            return 0;
        };
        let mut removed = 0;
        match self {
            Self::Runs(shared) => {
                let runs = Arc::make_mut(shared);
                let gone = runs.partition_point(|run| run.1 < end);
                removed += runs.drain(..gone).map(|run| u64::from(run.1 - run.0) + 1).sum::<u64>();
                if let Some(cut) = runs.first_mut().filter(|run| run.0 < end) {
                    removed += u64::from(end - cut.0);
                    cut.0 = end;
                }
            }
            Self::Bits(shared) => {
                let words = Arc::make_mut(shared);
                for (word, mask) in masks(0, last) {
                    removed += u64::from((words[word] & mask).count_ones());
                    words[word] &= !mask;
                }
                if count_runs(words) <= RUNS_MAX {
                    *self = Self::of_words(*words);
                }
            }
        }
        removed
    }

    /// How many offsets from `first` to `last` are in the chunk.
    fn count(&self, first: u16, last: u16) -> u64 {
        match self {
            Self::Runs(runs) => {
                let from = runs.partition_point(|run| run.1 < first);
                let within = runs[from..].iter().take_while(|run| run.0 <= last);
                within
                    .map(|run| u64::from(run.1.min(last) - run.0.max(first)) + 1)
                    .sum()
            }
            Self::Bits(words) => masks(first, last)
                .map(|(word, mask)| u64::from((words[word] & mask).count_ones()))
                .sum(),
        }
    }

    /// The first offset at or after `from` that is not in the chunk; none: all are.
    fn next_gap(&self, from: u16) -> Option<u16> {
        match self {
            Self::Runs(runs) => {
                let behind = runs.partition_point(|run| run.0 <= from);
                match behind.checked_sub(1).map(|at| runs[at].1) {
                    Some(last) if last >= from => Some(last + 1).filter(|at| u64::from(*at) < CHUNK),
                    _ => Some(from),
                }
            }
            Self::Bits(words) => next(words, from, false),
        }
    }

    /// The runs, in either form.
    pub(crate) fn runs(&self) -> Vec<(u16, u16)> {
        match self {
            Self::Runs(runs) => runs.to_vec(),
            Self::Bits(words) => runs_of(words),
        }
    }
}

impl DoneSet {
    /// How many offsets there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What the set is counted with, bytes: the same on every replica, whatever its history.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        let chunk = self.chunks.get(&(offset >> SHIFT));
        chunk.is_some_and(|chunk| chunk.contains((offset % CHUNK) as u16))
    }

    /// The highest offset that is there.
    pub(crate) fn last(&self) -> Option<u64> {
        let (number, chunk) = self.chunks.last_key_value()?;
        let last = match chunk {
            Chunk::Runs(runs) => runs.last()?.1,
            Chunk::Bits(words) => {
                let word = words.iter().rposition(|word| *word != 0)?;
                (word * 64 + 63) as u16 - words[word].leading_zeros() as u16
            }
        };
        Some((number << SHIFT) + u64::from(last))
    }

    /// Adds the offsets from `first` to `last`, and says how many are new.
    pub(crate) fn insert(&mut self, first: u64, last: u64) -> u64 {
        let mut new = 0;
        for number in first >> SHIFT..=last >> SHIFT {
            let base = number << SHIFT;
            let low = first.max(base) - base;
            let high = last.min(base + CHUNK - 1) - base;
            let chunk = self.chunks.entry(number).or_insert_with(|| Chunk::of_runs(Vec::new()));
            let before = if chunk.is_empty() { 0 } else { chunk.bytes() };
            new += chunk.insert(low as u16, high as u16);
            self.bytes = self.bytes + chunk.bytes() - before;
        }
        self.len += new;
        new
    }

    /// The first offset at or after `from` that is not there.
    pub(crate) fn next_gap(&self, from: u64) -> u64 {
        let mut at = from;
        for (number, chunk) in self.chunks.range(from >> SHIFT..) {
            if *number != at >> SHIFT {
                return at;
            }
            match chunk.next_gap((at % CHUNK) as u16) {
                Some(gap) => return (number << SHIFT) + u64::from(gap),
                None => at = (number + 1) << SHIFT,
            }
        }
        at
    }

    /// Takes the offsets below `end` out.
    pub(crate) fn remove_below(&mut self, end: u64) {
        let part = self.chunks.split_off(&(end >> SHIFT));
        for chunk in std::mem::replace(&mut self.chunks, part).values() {
            self.len -= chunk.runs().iter().map(|run| u64::from(run.1 - run.0) + 1).sum::<u64>();
            self.bytes -= chunk.bytes();
        }
        if let Some(mut first) = self.chunks.first_entry().filter(|first| *first.key() == end >> SHIFT) {
            let before = first.get().bytes();
            self.len -= first.get_mut().remove_below((end % CHUNK) as u16);
            self.bytes = self.bytes + first.get().bytes() - before;
            if first.get().is_empty() {
                self.bytes -= first.get().bytes();
                first.remove();
            }
        }
    }

    /// How many offsets from `first` to `last` are there.
    pub(crate) fn count(&self, first: u64, last: u64) -> u64 {
        let in_range = self.chunks.range(first >> SHIFT..=last >> SHIFT);
        let of_chunk = |(number, chunk): (&u64, &Chunk)| {
            let base = number << SHIFT;
            chunk.count((first.max(base) - base) as u16, (last - base).min(CHUNK - 1) as u16)
        };
        in_range.map(of_chunk).sum()
    }

    /// The chunks by their number, for the encoding.
    pub(crate) fn chunks(&self) -> impl ExactSizeIterator<Item = (u64, &Chunk)> {
        self.chunks.iter().map(|(number, chunk)| (*number, chunk))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check(set: &DoneSet, model: &BTreeSet<u64>) {
        assert_eq!(set.len(), model.len() as u64);
        assert_eq!(set.last(), model.last().copied());
        assert_eq!(set.bytes(), set.chunks().map(|(_, chunk)| chunk.bytes()).sum::<usize>());
        let offsets: Vec<u64> = set
            .chunks()
            .flat_map(|(number, chunk)| {
                let base = number << SHIFT;
                chunk
                    .runs()
                    .into_iter()
                    .flat_map(move |run| base + u64::from(run.0)..=base + u64::from(run.1))
            })
            .collect();
        assert!(offsets.iter().eq(model.iter()));
        for (_, chunk) in set.chunks() {
            let is_bitmap = matches!(chunk, Chunk::Bits(_));
            assert_eq!(
                is_bitmap,
                chunk.runs().len() > RUNS_MAX,
                "the form follows from the offsets"
            );
        }
    }

    proptest! {
        #[test]
        fn a_set_is_what_a_naive_one_is(
            ops in prop::collection::vec((0..3_u8, 0..20_000_u64, 0..600_u64), 1..60),
            singles in prop::collection::vec(0..9_000_u64, 0..2_500),
        ) {
            let (mut set, mut model) = (DoneSet::default(), BTreeSet::new());
            for at in singles {
                prop_assert_eq!(set.insert(at, at) == 1, model.insert(at));
            }
            check(&set, &model);
            for (kind, at, length) in ops {
                match kind {
                    0 => {
                        let new = (at..=at + length).filter(|offset| model.insert(*offset)).count();
                        prop_assert_eq!(set.insert(at, at + length), new as u64);
                    }
                    1 => {
                        let end = at / 4;
                        set.remove_below(end);
                        model = model.split_off(&end);
                    }
                    _ => {
                        let gap = (at..).find(|offset| !model.contains(offset));
                        prop_assert_eq!(Some(set.next_gap(at)), gap);
                        prop_assert_eq!(set.contains(at), model.contains(&at));
                        prop_assert_eq!(set.count(at, at + length), model.range(at..=at + length).count() as u64);
                    }
                }
                check(&set, &model);
            }
        }
    }

    #[test]
    fn a_clone_shares_what_does_not_change() {
        let mut set = DoneSet::default();
        (0..40_960).step_by(2).for_each(|at| {
            set.insert(at, at);
        });
        let clone = set.clone();
        set.insert(1, 1);
        let shared = clone
            .chunks()
            .zip(set.chunks())
            .filter(|((_, old), (_, new))| match (old, new) {
                (Chunk::Bits(old), Chunk::Bits(new)) => Arc::ptr_eq(old, new),
                _ => false,
            });
        assert_eq!(shared.count(), 9, "nine of ten chunks are the same memory");
    }
}
