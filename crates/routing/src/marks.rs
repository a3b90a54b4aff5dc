//! Sets of small numbers that are used again for each message, and allocate only while they grow.

/// A set of numbers below a bound, in words of bits. Its members come ascending.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    words: Vec<u64>,
}

impl Marks {
    /// Empties the set, and gives it room for numbers below `bound`.
    pub(crate) fn reset(&mut self, bound: usize) {
        self.words.clear();
        self.words.resize(bound.div_ceil(64), 0);
    }

    pub(crate) fn set(&mut self, number: u32) {
        self.words[(number / 64) as usize] |= 1 << (number % 64);
    }

    pub(crate) fn set_each(&mut self, numbers: &[u32]) {
        for number in numbers {
            self.set(*number);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                // A word of zeros has 64 of them.
                (bit < 64).then(|| {
                    rest &= rest - 1;
                    at * 64 + bit
                })
            })
        })
    }
}

/// A set of numbers that is emptied at once: a number is in it when it has the present stamp.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    stamps: Vec<u32>,
    now: u32,
}

impl Stamps {
    /// Empties the set, and gives it room for numbers below `bound`.
    pub(crate) fn reset(&mut self, bound: usize) {
        if self.stamps.len() < bound {
            self.stamps.resize(bound, 0);
        }
        match self.now.checked_add(1) {
            Some(next) => self.now = next,
            None => {
                self.stamps.fill(0);
                self.now = 1;
            }
        }
    }

    /// Adds a number; whether it was not there.
    pub(crate) fn add(&mut self, number: u32) -> bool {
        let stamp = &mut self.stamps[number as usize];
        std::mem::replace(stamp, self.now) != self.now
    }

    pub(crate) fn has(&self, number: u32) -> bool {
        self.stamps[number as usize] == self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_ascending_and_once() {
        let mut marks = Marks::default();
        marks.reset(200);
        marks.set_each(&[199, 0, 63, 64, 0, 127]);
        assert_eq!(marks.iter().collect::<Vec<_>>(), [0, 63, 64, 127, 199]);
        marks.reset(10);
        assert_eq!(marks.iter().count(), 0);
    }

    #[test]
    fn stamps_are_forgotten_at_once_also_when_they_are_used_up() {
        let mut stamps = Stamps::default();
        stamps.reset(3);
        assert!(stamps.add(1) && !stamps.add(1) && stamps.has(1) && !stamps.has(2));
        stamps.now = u32::MAX;
        stamps.stamps[2] = 1;
        stamps.reset(4);
        assert!(!stamps.has(1) && !stamps.has(2) && stamps.add(3));
    }
}
