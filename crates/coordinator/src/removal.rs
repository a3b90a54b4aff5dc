//! Why members are removed.

use jangada_types::replicated::{Sample, Seeds};

/// Why a member is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalCause {
    /// It said so.
    Left,
    /// It was silent for its session.
    SessionExpired,
    /// It did not give up partitions in time.
    RebalanceTimedOut,
}

impl RemovalCause {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Left, Self::SessionExpired, Self::RebalanceTimedOut];

    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::SessionExpired => "session_expired",
            Self::RebalanceTimedOut => "rebalance_timed_out",
        }
    }
}

impl Sample for RemovalCause {
    fn sample(seeds: &mut Seeds) -> Self {
        Self::ALL[seeds.below(Self::ALL.len() as u64) as usize]
    }
}
