//! What is folded of a batch: as it was appended, whatever compaction has left of it.

use bytes::Bytes;
use jangada_types::BatchHeader;

use crate::compaction::{Original, Remains};

/// A batch as far as apply looks at it: nothing that is folded into the state depends on its records.
pub(super) struct Incoming {
    /// The batch's header, with the position that its producer wrote into it.
    pub header: BatchHeader,
    /// Size of the batch in bytes when it was appended, whatever of it is left.
    pub size_bytes: u32,
    /// Size of what is left of it, which no state depends on.
    pub stored_bytes: u32,
}

impl Incoming {
    pub fn of(batch: &Bytes) -> Self {
        let size_bytes = u32::try_from(batch.len()).expect("a batch is at most 8 MiB");
        Self {
            header: BatchHeader::parse(batch).expect("the leader checked or made the batch before it proposed it"),
            size_bytes,
            stored_bytes: size_bytes,
        }
    }

    /// Of a batch of which compaction has left some records.
    pub fn compacted(original: &Original, batch: &Bytes) -> Self {
        Self {
            size_bytes: original.size_bytes,
            ..Self::of(batch)
        }
    }

    /// Of a batch of which compaction has left none.
    pub fn emptied(original: &Original, remains: &Remains) -> Self {
        Self {
            header: remains.header(),
            size_bytes: original.size_bytes,
            stored_bytes: 0,
        }
    }
}
