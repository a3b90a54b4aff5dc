//! How a transaction ended, and why.

use jangada_types::replicated::{Sample, Seeds};

/// How a transaction ended, and who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Its producer committed it.
    Committed,
    /// Its producer aborted it.
    Aborted,
    /// Another process took the transactional id: it was aborted, and its producer is fenced.
    Fenced,
    /// It was open for longer than its timeout: it was aborted.
    TimedOut,
    /// An operator aborted it.
    AbortedByOperator,
}

impl Outcome {
    /// All outcomes, committed first.
    pub const ALL: [Self; 5] = [
        Self::Committed,
        Self::Aborted,
        Self::Fenced,
        Self::TimedOut,
        Self::AbortedByOperator,
    ];

    /// Whether its records and offsets count.
    pub const fn is_commit(self) -> bool {
        matches!(self, Self::Committed)
    }

    /// Whether its producer asked for it.
    pub(crate) const fn is_by_producer(self) -> bool {
        matches!(self, Self::Committed | Self::Aborted)
    }

    /// The outcome's name, as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Fenced => "fenced",
            Self::TimedOut => "timed out",
            Self::AbortedByOperator => "aborted by an operator",
        }
    }
}

impl Sample for Outcome {
    fn sample(seeds: &mut Seeds) -> Self {
        Self::ALL[seeds.below(Self::ALL.len() as u64) as usize]
    }
}
