//! Dead letters of a queue as admin calls name them, and what became of them. Field names are those of `queue_admin.proto`.

use jangada_proto::v1;

/// Dead letters of one partition that something is to become of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// The partition's index.
    pub partition: u32,
    /// The first offset that is looked at.
    pub from_offset: i64,
    /// At most so many are looked at, 1 to 1,000. 0: 1,000.
    pub max_messages: u32,
    /// Only those that are dead for one of these reasons: attempts, rejected, expired, length. Empty: for any.
    pub reasons: Vec<String>,
    /// Only count them.
    pub dry_run: bool,
}

/// A dead letter that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The offset in its partition.
    pub offset: i64,
    /// Why it is dead: attempts, rejected, expired, length.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
    /// How often it was handed out.
    pub deliveries: u32,
}

/// What became of dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadLettersDone {
    /// How many went out again, or were deleted; of a dry run, how many there are.
    pub messages: u32,
    /// How many were to, and stay dead.
    pub refused: u32,
    /// Where to go on. `None`: there are no more.
    pub next_offset: Option<i64>,
}

impl DeadLetters {
    pub(super) fn wire(&self, queue_id: bytes::Bytes) -> v1::DeadRequest {
        v1::DeadRequest {
            name: String::new(),
            queue_id,
            partition: self.partition,
            from_offset: self.from_offset,
            max_messages: self.max_messages,
            reasons: self.reasons.clone(),
            dry_run: self.dry_run,
        }
    }
}

impl DeadLettersDone {
    pub(super) fn from_wire(done: v1::DeadResponse) -> Self {
        Self {
            messages: done.messages,
            refused: done.refused,
            next_offset: done.next_offset,
        }
    }
}
