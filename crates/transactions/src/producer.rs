//! A producer id with its epoch: what a transaction's batches and markers carry.

use std::fmt;

use jangada_types::replicated::{Sample, Seeds};
use jangada_types::{ProducerEpoch, ProducerId};

/// A producer id at one of its epochs. It belongs to one process at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer {
    /// The producer id.
    pub id: ProducerId,
    /// The epoch of the id: a higher one fences those before it.
    pub epoch: ProducerEpoch,
}

impl Producer {
    /// The last epoch that fences those before it. No process is ever given it, for nothing could fence that one.
    pub const RETIRING_EPOCH: ProducerEpoch = ProducerEpoch(i16::MAX);

    /// A producer id that nobody had before.
    pub const fn first(id: ProducerId) -> Self {
        Self {
            id,
            epoch: ProducerEpoch(0),
        }
    }

    /// Whether a process may have it.
    pub fn is_usable(self) -> bool {
        self.id.is_some() && (0..Self::RETIRING_EPOCH.get()).contains(&self.epoch.get())
    }

    /// The same id at the next epoch, which fences this one.
    #[must_use]
    pub const fn bumped(self) -> Self {
        Self {
            id: self.id,
            epoch: ProducerEpoch(self.epoch.get().saturating_add(1)),
        }
    }

    /// The producer that a process is given after this one: the next epoch, or a `fresh` id when the epochs are used up. `None`: a fresh id
    /// is needed, and there is none.
    pub fn next(self, fresh: Option<ProducerId>) -> Option<Self> {
        let bumped = self.bumped();
        match bumped.is_usable() {
            true => Some(bumped),
            false => fresh.map(Self::first),
        }
    }

    /// Whether this one may come after `before`: its next epoch, or the first of another id.
    pub(crate) fn follows(self, before: Self) -> bool {
        (self == before.bumped() && self != before) || (self.id != before.id && self == Self::first(self.id))
    }
}

impl fmt::Display for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at epoch {}", self.id, self.epoch)
    }
}

impl Sample for Producer {
    fn sample(seeds: &mut Seeds) -> Self {
        Self {
            id: Sample::sample(seeds),
            epoch: Sample::sample(seeds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(id: i64, epoch: i16) -> Producer {
        Producer {
            id: ProducerId(id),
            epoch: ProducerEpoch(epoch),
        }
    }

    #[test]
    fn the_last_epoch_is_given_to_nobody() {
        assert_eq!(at(7, 3).next(None), Some(at(7, 4)));
        assert_eq!(at(7, i16::MAX - 2).next(None), Some(at(7, i16::MAX - 1)));
        for epoch in [i16::MAX - 1, i16::MAX] {
            assert_eq!(at(7, epoch).next(None), None);
            assert_eq!(at(7, epoch).next(Some(ProducerId(8))), Some(at(8, 0)));
        }
        assert!(at(7, i16::MAX - 1).is_usable() && !at(7, i16::MAX).is_usable());
        assert!(!at(-1, 0).is_usable() && !at(7, -1).is_usable());
    }

    #[test]
    fn what_follows_is_the_next_epoch_or_another_id() {
        assert!(
            at(7, 4).follows(at(7, 3)) && at(8, 0).follows(at(7, 3)) && at(7, i16::MAX).follows(at(7, i16::MAX - 1))
        );
        for other in [at(7, 3), at(7, 2), at(7, 5), at(8, 1), at(8, 4)] {
            assert!(!other.follows(at(7, 3)), "{other}");
        }
        assert!(!at(7, i16::MAX).follows(at(7, i16::MAX)));
    }
}
