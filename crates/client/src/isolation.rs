//! What a reader sees of transactions.

use jangada_proto::v1;

/// Which records of transactions a reader sees. Records without a transaction are seen by all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions, in the order of their offsets: records behind the first one of an open transaction wait until
    /// it has ended.
    #[default]
    Committed,
    /// All records that a quorum has, those of open and of aborted transactions too.
    Uncommitted,
}

impl Isolation {
    pub(crate) fn wire(self) -> i32 {
        match self {
            Self::Committed => v1::Isolation::Committed,
            Self::Uncommitted => v1::Isolation::Uncommitted,
        }
        .into()
    }
}
