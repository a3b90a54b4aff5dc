//! Transactions in a partition: what is replicated of them, and what of it is known of each producer.
//!
//! ```text
//!   TxnAppend (first of its transaction)     TxnAppend      Marker
//!        |                                      |             |
//!  ------+--------------------------------------+-------------+----------->
//!        first: nothing at or above it is stable              a control batch, which ends it
//! ```
//!
//! *(producer id, epoch, seq)* names a transaction: the coordinator counts `seq` for each transactional id, and it never goes back. What
//! comes late, again, or in another order is judged by it: a marker of a transaction that is not open has no effect, and a batch of one
//! that has ended is refused. So no transaction is open for which no marker comes.
//!
//! Sources: KIP-98, KIP-890.

use bytes::{Buf, BufMut};
use jangada_types::batch::EndMarker;
use jangada_types::frame::malformed;
use jangada_types::{CodecError, Offset, ProducerEpoch, ProducerId};

/// Of a marker, behind version and kind.
pub(crate) const MARKER_LEN: usize = 8 + 8 + 8 + 2 + 4 + 8 + 1;
const COMMIT: u8 = 1;

/// What a marker's command carries beside its control batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The leader's clock when it proposed, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// How long the leader remembers silent producers, milliseconds.
    pub expiration_ms: i64,
    /// What the control batch says.
    pub end: EndMarker,
    /// The transaction that it ends.
    pub seq: u64,
}

impl Marker {
    /// `now i64 | expiration i64 | producer id i64 | epoch i16 | coordinator epoch i32 | seq u64 | flags u8`.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_i64(self.now_ms);
        out.put_i64(self.expiration_ms);
        out.put_i64(self.end.producer_id.get());
        out.put_i16(self.end.producer_epoch.get());
        out.put_i32(self.end.coordinator_epoch);
        out.put_u64(self.seq);
        out.put_u8(if self.end.commit { COMMIT } else { 0 });
    }

    /// The reverse of [`Marker::encode`].
    pub(crate) fn decode(what: &'static str, input: &mut &[u8]) -> Result<Self, CodecError> {
        let length = input.len();
        let short = |_| CodecError::Truncated {
            what,
            length,
            required: MARKER_LEN,
        };
        let now_ms = input.try_get_i64().map_err(short)?;
        let expiration_ms = input.try_get_i64().map_err(short)?;
        let mut end = EndMarker {
            producer_id: ProducerId(input.try_get_i64().map_err(short)?),
            producer_epoch: ProducerEpoch(input.try_get_i16().map_err(short)?),
            coordinator_epoch: input.try_get_i32().map_err(short)?,
            commit: false,
        };
        let seq = input.try_get_u64().map_err(short)?;
        end.commit = match input.try_get_u8().map_err(short)? {
            0 => false,
            COMMIT => true,
            flags => {
                return Err(malformed(
                    what,
                    format!("flags {flags} where a marker says how it ends"),
                ));
            }
        };
        Ok(Self {
            now_ms,
            expiration_ms,
            end,
            seq,
        })
    }
}

/// A transaction that is open in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Its first offset here.
    pub first: Offset,
    /// Which transaction of its producer it is.
    pub seq: u64,
    /// The leader's time of its first batch here, milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// A transaction that was aborted in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose it was.
    pub producer_id: ProducerId,
    /// Its first offset here.
    pub first: Offset,
    /// The offset of the control batch that ended it.
    pub marker: Offset,
    /// The last stable offset when it had ended.
    pub stable_after: Offset,
}

/// What is known of a producer, for people who look for what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Which producer it is.
    pub id: ProducerId,
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// The sequence of its last record; none: nothing was written with that epoch.
    pub last_sequence: Option<i32>,
    /// The leader's time of its last batch or marker, milliseconds since the Unix epoch.
    pub last_ms: i64,
    /// The transaction that it has open here.
    pub open: Option<OpenTransaction>,
}
