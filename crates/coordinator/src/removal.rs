//! The reasons for removing members.

use jangada_types::replicated::{Sample, Seeds};

/// The reason for which a member is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalCause {
    /// The member left by itself.
    Left,
    /// The member was silent for its session.
    SessionExpired,
    /// The member did not give up partitions in time.
    RebalanceTimedOut,
}

impl RemovalCause {
    /// All reasons for a removal.
    pub const ALL: [Self; 3] = [Self::Left, Self::SessionExpired, Self::RebalanceTimedOut];

    /// The reason's name, as it is shown.
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
