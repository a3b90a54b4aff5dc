//! The 61-byte header of a record batch, and its attributes.

use super::error::{BatchError, Malformed};
use crate::compression::Codec;
use crate::ids::{ProducerEpoch, ProducerId, Sequence};

/// The only version of the format that is supported.
pub(super) const MAGIC: i8 = 2;

/// Where each field begins.
pub(super) mod at {
    pub const BASE_OFFSET: usize = 0;
    pub const BATCH_LENGTH: usize = BASE_OFFSET + 8;
    pub const LEADER_EPOCH: usize = BATCH_LENGTH + 4;
    pub const MAGIC: usize = LEADER_EPOCH + 4;
    pub const CRC: usize = MAGIC + 1;
    pub const ATTRIBUTES: usize = CRC + 4;
    pub const LAST_OFFSET_DELTA: usize = ATTRIBUTES + 2;
    pub const BASE_TIMESTAMP: usize = LAST_OFFSET_DELTA + 4;
    pub const MAX_TIMESTAMP: usize = BASE_TIMESTAMP + 8;
    pub const PRODUCER_ID: usize = MAX_TIMESTAMP + 8;
    pub const PRODUCER_EPOCH: usize = PRODUCER_ID + 8;
    pub const BASE_SEQUENCE: usize = PRODUCER_EPOCH + 2;
    pub const RECORD_COUNT: usize = BASE_SEQUENCE + 4;
    pub const RECORDS: usize = RECORD_COUNT + 4;
}

/// The first byte that the checksum covers.
pub(super) const CRC_COVERS_FROM: usize = at::ATTRIBUTES;
/// Bytes that a batch length does not count: the base offset and the length itself.
pub(super) const LENGTH_COUNTS_FROM: usize = at::LEADER_EPOCH;

/// Bytes of the smallest record: seven fields of a byte each.
pub const RECORD_BYTES_MIN: usize = 7;

/// CRC-32C of the bytes that a batch's checksum covers, given the whole batch.
pub(super) fn checksum(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(&batch[CRC_COVERS_FROM..])
}

const _: () = {
    assert!(at::RECORDS == 61 && BatchHeader::LEN == at::RECORDS);
    assert!(at::MAGIC == 16, "every version of the format has its magic there");
    assert!(at::CRC == 17 && CRC_COVERS_FROM == 21);
    assert!(LENGTH_COUNTS_FROM == 12);
};

/// Reads `N` bytes of a header that is known to be whole.
pub(super) fn bytes_at<const N: usize>(header: &[u8; BatchHeader::LEN], start: usize) -> [u8; N] {
    header[start..start + N].try_into().expect("the slice has N bytes")
}

/// Writes a field at its place.
pub(super) fn put<const N: usize>(batch: &mut [u8], start: usize, bytes: [u8; N]) {
    batch[start..start + N].copy_from_slice(&bytes);
}

/// The header of a record batch, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first record's offset, set by the broker.
    pub base_offset: i64,
    /// Bytes of the batch from the leader epoch on.
    pub batch_length: i32,
    /// The epoch of the leader that appended the batch, set by the broker.
    pub partition_leader_epoch: i32,
    /// The version of the format.
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// The codec, the timestamp type and flags.
    pub attributes: Attributes,
    /// The last record's offset minus the first's.
    pub last_offset_delta: i32,
    /// The first record's timestamp, milliseconds since the Unix epoch.
    pub base_timestamp: i64,
    /// The greatest timestamp of the records, or the time of the append, milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// The idempotent producer's id; [`ProducerId::NONE`] without one.
    pub producer_id: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub base_sequence: Sequence,
    /// Number of records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Bytes of a batch header.
    pub const LEN: usize = 61;

    /// Reads the header at the start of `bytes`. Judges only the structure: enough bytes, magic 2, and a length that
    /// has room for the header. The batch may continue beyond `bytes`.
    ///
    /// # Errors
    /// [`BatchError::Invalid`] for a wrong structure.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(header) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(Malformed::Truncated {
                needed: Self::LEN,
                actual: bytes.len(),
            }
            .into());
        };
        let parsed = Self {
            base_offset: i64::from_be_bytes(bytes_at(header, at::BASE_OFFSET)),
            batch_length: i32::from_be_bytes(bytes_at(header, at::BATCH_LENGTH)),
            partition_leader_epoch: i32::from_be_bytes(bytes_at(header, at::LEADER_EPOCH)),
            magic: i8::from_be_bytes(bytes_at(header, at::MAGIC)),
            crc: u32::from_be_bytes(bytes_at(header, at::CRC)),
            attributes: Attributes(i16::from_be_bytes(bytes_at(header, at::ATTRIBUTES))),
            last_offset_delta: i32::from_be_bytes(bytes_at(header, at::LAST_OFFSET_DELTA)),
            base_timestamp: i64::from_be_bytes(bytes_at(header, at::BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(bytes_at(header, at::MAX_TIMESTAMP)),
            producer_id: ProducerId(i64::from_be_bytes(bytes_at(header, at::PRODUCER_ID))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(bytes_at(header, at::PRODUCER_EPOCH))),
            base_sequence: Sequence(i32::from_be_bytes(bytes_at(header, at::BASE_SEQUENCE))),
            record_count: i32::from_be_bytes(bytes_at(header, at::RECORD_COUNT)),
        };
        if parsed.magic != MAGIC {
            return Err(Malformed::Magic(parsed.magic).into());
        }
        if parsed.batch_length < (Self::LEN - LENGTH_COUNTS_FROM) as i32 {
            return Err(Malformed::Length(parsed.batch_length).into());
        }
        Ok(parsed)
    }

    /// Writes the header to the start of `batch`.
    ///
    /// # Panics
    /// Panics when `batch` has no room for it.
    pub(super) fn write(&self, batch: &mut [u8]) {
        put(batch, at::BASE_OFFSET, self.base_offset.to_be_bytes());
        put(batch, at::BATCH_LENGTH, self.batch_length.to_be_bytes());
        put(batch, at::LEADER_EPOCH, self.partition_leader_epoch.to_be_bytes());
        put(batch, at::MAGIC, self.magic.to_be_bytes());
        put(batch, at::CRC, self.crc.to_be_bytes());
        put(batch, at::ATTRIBUTES, self.attributes.0.to_be_bytes());
        put(batch, at::LAST_OFFSET_DELTA, self.last_offset_delta.to_be_bytes());
        put(batch, at::BASE_TIMESTAMP, self.base_timestamp.to_be_bytes());
        put(batch, at::MAX_TIMESTAMP, self.max_timestamp.to_be_bytes());
        put(batch, at::PRODUCER_ID, self.producer_id.get().to_be_bytes());
        put(batch, at::PRODUCER_EPOCH, self.producer_epoch.get().to_be_bytes());
        put(batch, at::BASE_SEQUENCE, self.base_sequence.get().to_be_bytes());
        put(batch, at::RECORD_COUNT, self.record_count.to_be_bytes());
    }

    /// Bytes of the whole batch, header included.
    pub fn total_size(&self) -> usize {
        // `parse` accepts no negative length.
        LENGTH_COUNTS_FROM + self.batch_length as usize
    }

    /// Whether an idempotent producer sent it.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id.is_some()
    }

    /// The last record's sequence; [`Sequence::NONE`] unless the batch is idempotent.
    pub fn last_sequence(&self) -> Sequence {
        if self.is_idempotent() && self.base_sequence >= Sequence(0) && self.last_offset_delta >= 0 {
            self.base_sequence.advance(self.last_offset_delta)
        } else {
            Sequence::NONE
        }
    }
}

/// The attributes of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0b0000_0111;
    const APPEND_TIME: i16 = 0b0000_1000;
    const TRANSACTIONAL: i16 = 0b0001_0000;
    const CONTROL: i16 = 0b0010_0000;
    const KNOWN: i16 = Self::CODEC | Self::APPEND_TIME | Self::TRANSACTIONAL | Self::CONTROL;

    /// These attributes with another codec.
    #[must_use]
    pub(super) const fn with_codec(self, codec: Codec) -> Self {
        Self(self.0 & !Self::CODEC | codec.id() as i16)
    }

    /// These attributes as those of a batch in a transaction.
    #[must_use]
    pub(super) const fn transactional(self) -> Self {
        Self(self.0 | Self::TRANSACTIONAL)
    }

    /// These attributes as those of a control batch.
    #[must_use]
    pub(super) const fn control(self) -> Self {
        Self(self.0 | Self::CONTROL)
    }

    /// The codec that the records are compressed with.
    ///
    /// # Errors
    /// [`BatchError::UnsupportedCodec`] for an unknown number.
    pub const fn codec(self) -> Result<Codec, BatchError> {
        let id = (self.0 & Self::CODEC) as u8;
        match Codec::from_id(id) {
            Some(codec) => Ok(codec),
            None => Err(BatchError::UnsupportedCodec { id }),
        }
    }

    /// The clock that the timestamps are from.
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// These attributes with another timestamp type.
    #[must_use]
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        match timestamp_type {
            TimestampType::CreateTime => Self(self.0 & !Self::APPEND_TIME),
            TimestampType::LogAppendTime => Self(self.0 | Self::APPEND_TIME),
        }
    }

    /// Whether the batch is part of a transaction.
    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds markers of the broker instead of records.
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether bits are set that have no meaning yet.
    pub const fn has_unknown(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }
}

/// The clock that the timestamps of records are from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's clock.
    #[default]
    CreateTime,
    /// The leader's clock when it appended the batch. All records of a batch have the same time.
    LogAppendTime,
}

impl TimestampType {
    /// The value of the setting `message.timestamp.type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        }
    }

    /// The type for a value of the setting `message.timestamp.type`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::CreateTime, Self::LogAppendTime]
            .into_iter()
            .find(|t| t.as_str() == name)
    }
}

impl std::fmt::Display for TimestampType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            base_offset: 0x0102_0304_0506_0708,
            batch_length: 0x1112_1314,
            partition_leader_epoch: 0x2122_2324,
            magic: MAGIC,
            crc: 0x3132_3334,
            attributes: Attributes(0x001c),
            last_offset_delta: 0x4142_4344,
            base_timestamp: 0x5152_5354_5556_5758,
            max_timestamp: 0x6162_6364_6566_6768,
            producer_id: ProducerId(0x7172_7374_7576_7778),
            producer_epoch: ProducerEpoch(0x0102),
            base_sequence: Sequence(0x1122_3344),
            record_count: 0x5566_7788,
        }
    }

    #[test]
    fn every_field_has_its_place() {
        let mut bytes = [0; BatchHeader::LEN];
        header().write(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "0102030405060708 11121314 21222324 02 31323334 001c 41424344 5152535455565758 6162636465666768 \
                        7172737475767778 0102 11223344 55667788";
        assert_eq!(hex, expected.replace(' ', ""));
        assert_eq!(BatchHeader::parse(&bytes), Ok(header()));
    }

    #[test]
    fn structure_is_judged() {
        let parse = |header: BatchHeader| {
            let mut bytes = [0; BatchHeader::LEN];
            header.write(&mut bytes);
            BatchHeader::parse(&bytes)
        };
        let short = Malformed::Truncated { needed: 61, actual: 60 };
        assert_eq!(BatchHeader::parse(&[0; 60]), Err(short.into()));
        assert_eq!(
            parse(BatchHeader { magic: 1, ..header() }),
            Err(Malformed::Magic(1).into())
        );
        for length in [48, 0, -1, i32::MIN] {
            assert_eq!(
                parse(BatchHeader {
                    batch_length: length,
                    ..header()
                }),
                Err(Malformed::Length(length).into())
            );
        }
        assert_eq!(
            parse(BatchHeader {
                batch_length: 49,
                ..header()
            })
            .map(|h| h.total_size()),
            Ok(61)
        );
        assert!(
            parse(BatchHeader {
                batch_length: i32::MAX,
                ..header()
            })
            .is_ok()
        );
    }

    #[test]
    fn attributes_read_bit_by_bit() {
        let all = Attributes(0b0011_1010);
        assert_eq!(all.codec(), Ok(Codec::Snappy));
        assert_eq!(all.timestamp_type(), TimestampType::LogAppendTime);
        assert!(all.is_transactional() && all.is_control() && !all.has_unknown());
        assert_eq!(
            all.with_timestamp_type(TimestampType::CreateTime),
            Attributes(0b0011_0010)
        );
        assert_eq!(Attributes(7).codec(), Err(BatchError::UnsupportedCodec { id: 7 }));
        assert!(Attributes(0b0100_0000).has_unknown() && Attributes(i16::MIN).has_unknown());
    }

    #[test]
    fn timestamp_types_have_kafkas_names() {
        for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
            assert_eq!(TimestampType::parse(timestamp_type.as_str()), Some(timestamp_type));
        }
        assert_eq!(TimestampType::parse("createtime"), None);
    }
}
