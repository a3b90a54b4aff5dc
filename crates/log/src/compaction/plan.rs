//! Whether a pass is due, and how far it may go.

use jangada_types::Offset;
use jangada_types::planted::{self, Bug};

/// What bounds a pass, each as the first offset that it must leave alone. There is one minimum of all of them, so that none is forgotten
/// where another is looked at (redpanda issues 6541 and 19931, KAFKA-9826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// The first offset of the newest batch: a reader must be able to reach the end.
    pub newest_batch: Offset,
    /// The last stable offset: whether what lies behind it is committed is not decided.
    pub last_stable: Offset,
    /// The first offset that is applied again when the replica is opened again.
    pub saved: Offset,
    /// The first record that is younger than `min.compaction.lag.ms`.
    pub young: Offset,
    /// How far the index of keys has come, if the topic has one.
    pub key_index: Option<Offset>,
}

impl Ceilings {
    /// The first offset that a pass must leave alone.
    pub fn lowest(&self) -> Offset {
        let Self {
            newest_batch,
            last_stable,
            saved,
            young,
            key_index,
        } = *self;
        let last_stable = match planted::is(Bug::CompactionPastStable) {
            true => newest_batch,
            false => last_stable,
        };
        let lowest = newest_batch.min(last_stable).min(saved).min(young);
        key_index.map_or(lowest, |reached| lowest.min(reached))
    }
}

/// When a topic wants its partitions cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `min.cleanable.dirty.ratio`: the part of the bytes that is dirty, in thousandths.
    pub dirty_ratio_permille: u16,
    /// `max.compaction.lag.ms`: how long a record may stay dirty, milliseconds; `None`: for ever.
    pub lag_max_ms: Option<u64>,
}

/// What there is to clean, below the ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Bytes of batches that the last pass has left.
    pub clean_bytes: u64,
    /// Bytes of batches since.
    pub dirty_bytes: u64,
    /// The lowest timestamp of a batch since, milliseconds since the Unix epoch.
    pub oldest_dirty_ms: Option<i64>,
    /// Tombstones may go that were not allowed to go in the last pass.
    pub horizon_moved: bool,
}

impl Survey {
    /// The part of the bytes that is dirty, in thousandths.
    pub fn dirty_permille(&self) -> u16 {
        let all = u128::from(self.clean_bytes) + u128::from(self.dirty_bytes);
        let part = (u128::from(self.dirty_bytes) * 1_000).checked_div(all);
        part.map_or(0, |part| u16::try_from(part).expect("a part is at most the whole"))
    }

    /// Whether a pass is due.
    pub fn is_due(&self, rules: &Rules, now_ms: i64) -> bool {
        let is_dirty = self.dirty_bytes > 0;
        let is_late = match (rules.lag_max_ms, self.oldest_dirty_ms) {
            (Some(lag_max_ms), Some(oldest_ms)) => i128::from(now_ms) - i128::from(oldest_ms) > i128::from(lag_max_ms),
            _ => false,
        };
        self.horizon_moved || is_dirty && (is_late || self.dirty_permille() >= rules.dirty_ratio_permille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Offset = Offset(1 << 40);

    fn far() -> Ceilings {
        Ceilings {
            newest_batch: FAR,
            last_stable: FAR,
            saved: FAR,
            young: FAR,
            key_index: None,
        }
    }

    #[test]
    fn each_ceiling_bounds_a_pass_by_itself() {
        assert_eq!(far().lowest(), FAR);
        let low = Offset(7);
        let each = [
            Ceilings {
                newest_batch: low,
                ..far()
            },
            Ceilings {
                last_stable: low,
                ..far()
            },
            Ceilings { saved: low, ..far() },
            Ceilings { young: low, ..far() },
            Ceilings {
                key_index: Some(low),
                ..far()
            },
        ];
        for ceilings in each {
            assert_eq!(ceilings.lowest(), low, "{ceilings:?}");
        }
    }

    #[test]
    fn a_pass_is_due_by_bytes_by_age_and_by_the_horizon() {
        let rules = Rules {
            dirty_ratio_permille: 500,
            lag_max_ms: Some(1_000),
        };
        let survey = |clean_bytes, dirty_bytes| Survey {
            clean_bytes,
            dirty_bytes,
            oldest_dirty_ms: Some(10_000),
            horizon_moved: false,
        };
        let is_due = |survey: Survey, now_ms| survey.is_due(&rules, now_ms);
        assert!(!is_due(survey(100, 99), 11_000));
        assert!(is_due(survey(100, 100), 11_000));
        assert!(is_due(survey(100, 99), 11_001), "it is old");
        assert!(!is_due(survey(100, 0), 20_000), "nothing is dirty");
        let moved = Survey {
            horizon_moved: true,
            ..survey(100, 0)
        };
        assert!(is_due(moved, 0));
        let never = Rules {
            dirty_ratio_permille: 0,
            lag_max_ms: None,
        };
        assert!(!survey(0, 0).is_due(&never, i64::MAX));
        assert!(survey(u64::MAX, 1).is_due(&never, 0), "any dirt is enough");
        assert_eq!(survey(u64::MAX, u64::MAX).dirty_permille(), 500);
    }
}
