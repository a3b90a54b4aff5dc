//! Ascending offsets, as runs of neighbours: how commands name messages.

use jangada_types::frame::malformed;
use jangada_types::replicated::{Sample, Seeds, Wire};
use jangada_types::{CodecError, Offset};

use crate::limits::SECTION_OFFSETS_MAX;

/// Offsets from `first` to `last`, both of them included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first offset.
    pub first: u64,
    /// The last offset, not below the first.
    pub last: u64,
}

/// Offsets in ascending order without repetition. In a command: of each run the distance from the one before and the length,
/// as variable-length numbers, so two bytes for a message far from others and two for a thousand neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

/// Offsets lie below it, as `PartitionState` has it.
const OFFSET_END: u64 = 1 << 60;

impl Runs {
    /// One run; `first` is not above `last`.
    pub fn of(first: u64, last: u64) -> Self {
        assert!(first <= last, "a run has an offset");
        Self(vec![Run { first, last }])
    }

    /// Adds an offset, which is above all that are there.
    pub fn push(&mut self, offset: u64) {
        match self.0.last_mut() {
            Some(run) if run.last + 1 == offset => run.last = offset,
            Some(run) => {
                assert!(run.last < offset, "offsets are added in ascending order");
                self.0.push(Run {
                    first: offset,
                    last: offset,
                });
            }
            None => self.0.push(Run {
                first: offset,
                last: offset,
            }),
        }
    }

    /// The runs, in ascending order.
    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    /// Each offset, in ascending order.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|run| run.first..=run.last)
    }

    /// How many offsets there are.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|run| run.last - run.first + 1).sum()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a replica can read them again, as part of a command.
    pub(crate) fn are_readable(&self) -> bool {
        self.len() <= SECTION_OFFSETS_MAX && self.0.last().is_none_or(|run| run.last < OFFSET_END)
    }
}

impl FromIterator<u64> for Runs {
    /// From any offsets: sorts them and leaves out repetitions.
    fn from_iter<I: IntoIterator<Item = u64>>(offsets: I) -> Self {
        let mut sorted: Vec<u64> = offsets.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut runs = Self::default();
        for offset in sorted {
            runs.push(offset);
        }
        runs
    }
}

impl Wire<Vec<u64>> for Runs {
    /// Of each run: the distance of its first offset from the end of the run before, and its length less one.
    fn to_form(&self) -> Vec<u64> {
        let mut form = Vec::with_capacity(2 * self.0.len());
        let mut end = 0;
        for run in &self.0 {
            form.extend([run.first - end, run.last - run.first]);
            end = run.last + 1;
        }
        form
    }

    fn from_form(what: &'static str, form: Vec<u64>) -> Result<Self, CodecError> {
        if !form.len().is_multiple_of(2) {
            return Err(malformed(what, "a run of offsets has no length"));
        }
        let (mut runs, mut end, mut count) = (Vec::with_capacity(form.len() / 2), 0_u64, 0_u64);
        for pair in form.chunks_exact(2) {
            let (distance, more) = (pair[0], pair[1]);
            let first = end.checked_add(distance).filter(|first| *first < OFFSET_END);
            let run = first.and_then(|first| Some((first, first.checked_add(more).filter(|last| *last < OFFSET_END)?)));
            let Some((first, last)) = run else {
                return Err(malformed(what, "a run of offsets goes beyond the largest offset"));
            };
            // Two runs that touch are one: offsets have one form only.
            if distance == 0 && !runs.is_empty() {
                return Err(malformed(what, "two runs of offsets touch"));
            }
            count = count.saturating_add(more + 1);
            if count > SECTION_OFFSETS_MAX {
                return Err(malformed(
                    what,
                    format!("more than {SECTION_OFFSETS_MAX} offsets in one section"),
                ));
            }
            runs.push(Run { first, last });
            end = last + 1;
        }
        Ok(Self(runs))
    }
}

impl Sample for Runs {
    fn sample(seeds: &mut Seeds) -> Self {
        let mut runs = Self::default();
        let mut at = seeds.below(1_000);
        for _ in 0..seeds.below(5) {
            for _ in 0..=seeds.below(3) {
                runs.push(at);
                at += 1;
            }
            at += 1 + seeds.below(300);
        }
        runs
    }
}

/// The offset as a number that is not negative.
pub(crate) fn number(offset: Offset) -> u64 {
    u64::try_from(offset.get()).expect("an offset of a record is not negative")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run_and_cost_two_numbers() {
        let runs = Runs::from_iter([9, 7, 8, 3, 8]);
        assert_eq!(runs.runs(), [Run { first: 3, last: 3 }, Run { first: 7, last: 9 }]);
        assert_eq!((runs.len(), runs.to_form()), (4, vec![3, 0, 3, 2]));
        assert_eq!(Runs::from_form("t", runs.to_form()), Ok(runs));
    }

    #[test]
    fn runs_that_no_build_writes_are_refused() {
        for form in [
            vec![1],
            vec![1, 0, 0, 0],
            vec![u64::MAX, 1],
            vec![1, u64::MAX],
            vec![0, 1 << 20],
        ] {
            assert!(Runs::from_form("t", form.clone()).is_err(), "{form:?}");
        }
    }
}
