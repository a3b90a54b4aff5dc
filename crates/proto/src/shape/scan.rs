//! Walks the bytes of one message and counts what decoding it would take.

use super::{Contract, Field, Kind, Method, TEXT_BYTES};
use crate::shape::SLICE_BYTES;

/// Capacity of a vector of small elements when it gets the first one; it doubles from there.
const VECTOR_MIN: usize = 4;
/// Bytes that an allocation may take beyond those that were asked for.
const ALLOCATION_BYTES: usize = 16;
/// Most messages within messages: far more than the contract has, and far fewer than a decoder's stack can take.
const DEPTH_MAX: usize = 32;
/// Bytes that an unknown number counts for.
const UNKNOWN_NUMBER_BYTES: usize = 10;

/// The bounds of one message.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Elements of repeated fields, over all of them. Packed numbers do not count.
    pub elements: usize,
    /// Bytes of fields that the contract does not have: those of a later version.
    pub unknown_bytes: usize,
    /// Bytes of one text. Payloads do not count as texts.
    pub text_bytes: usize,
}

/// The reason why a message must not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// There are more elements than the bound, which this is.
    #[error("it has more than {0} elements in its repeated fields")]
    Elements(usize),
    /// There are more unknown bytes than the bound, which this is.
    #[error("it has more than {0} bytes in fields that this version does not know")]
    Unknown(usize),
    /// A text is longer than the bound, which this is.
    #[error("it has a text of more than {0} bytes")]
    Text(usize),
    /// The bytes are no message of that kind; what is wrong with them.
    #[error("{0}")]
    Malformed(&'static str),
}

/// The scan of a message. All bytes of the message are pushed in order.
#[derive(Debug)]
pub struct Scan {
    bounds: Bounds,
    /// The messages that are open, the outermost first.
    open: Vec<Open>,
    /// Number of bytes that were pushed.
    at: u64,
    state: State,
    elements: usize,
    unknown_bytes: usize,
    memory: usize,
}

/// A message within the message, or the message itself.
#[derive(Clone, Copy, Debug)]
struct Open {
    shape: usize,
    /// The place of its end, in bytes from the start of the outermost message.
    end: u64,
    /// The fields that it has had already, a bit for each slot.
    had: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// At the start of a field, or at the end of the message.
    Tag(Varint),
    /// In the value of a varint, which is skipped.
    Number(Varint),
    /// In the length of a field's value; `None`: of an unknown field.
    Length(Varint, Option<Field>),
    /// In bytes that are skipped; so many are left.
    Skip(u64),
}

const BEGIN: State = State::Tag(Varint { value: 0, shift: 0 });

#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// Takes the next byte. Returns the value when that was the last one.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, Excess> {
        if self.shift > 63 {
            return Err(Excess::Malformed("a number has more than ten bytes"));
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

impl Scan {
    /// The scan of a request of this method that has `length` bytes.
    pub fn new(method: &Method, length: u64, bounds: Bounds) -> Self {
        let root = Open {
            shape: method.input,
            end: length,
            had: 0,
        };
        Self {
            bounds,
            open: vec![root],
            at: 0,
            state: BEGIN,
            elements: 0,
            unknown_bytes: 0,
            memory: 0,
        }
    }

    /// Upper bound of the bytes that the decoded message takes beside its own bytes, as far as it was scanned.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Number of elements of repeated fields, as far as it was scanned.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Scans the next bytes.
    pub fn push(&mut self, contract: &Contract, mut bytes: &[u8]) -> Result<(), Excess> {
        self.close();
        while let Some((&byte, rest)) = bytes.split_first() {
            if let State::Skip(left) = &mut self.state {
                let skipped = (bytes.len() as u64).min(*left);
                *left -= skipped;
                self.at += skipped;
                bytes = &bytes[usize::try_from(skipped).expect("it is no more than a slice's length")..];
                if *left == 0 {
                    self.state = BEGIN;
                }
            } else {
                bytes = rest;
                self.at += 1;
                self.step(contract, byte)?;
            }
            self.close();
        }
        Ok(())
    }

    /// Closes the messages that end here.
    fn close(&mut self) {
        while self.open.len() > 1
            && matches!(self.state, State::Tag(Varint { shift: 0, .. }))
            && self.open.last().is_some_and(|open| open.end == self.at)
        {
            self.open.pop();
        }
    }

    fn step(&mut self, contract: &Contract, byte: u8) -> Result<(), Excess> {
        match &mut self.state {
            State::Tag(tag) => {
                if let Some(tag) = tag.push(byte)? {
                    self.begin(contract, tag)?;
                }
            }
            State::Number(number) => {
                if number.push(byte)?.is_some() {
                    self.state = BEGIN;
                }
            }
            State::Length(length, field) => {
                let field = *field;
                if let Some(length) = length.push(byte)? {
                    self.value(contract, field, length)?;
                }
            }
            State::Skip(_) => unreachable!("bytes that are passed over are not looked at"),
        }
        let end = self.open.last().map_or(0, |open| open.end);
        if self.at > end {
            return Err(Excess::Malformed("a field goes on behind the end of its message"));
        }
        Ok(())
    }

    /// Starts a field from its tag.
    fn begin(&mut self, contract: &Contract, tag: u64) -> Result<(), Excess> {
        let (number, wire_type) = (tag >> 3, tag & 7);
        if number == 0 {
            return Err(Excess::Malformed("a field has number 0"));
        }
        let shape = self.open.last().expect("the outermost is never closed").shape;
        let field = contract.shapes[shape].field(number);
        let expected = match wire_type {
            0 => Kind::Varint,
            1 => Kind::Fixed64,
            5 => Kind::Fixed32,
            2 => {
                self.state = State::Length(Varint::default(), field);
                return Ok(());
            }
            _ => {
                return Err(Excess::Malformed(
                    "a field has a wire type that there is not, or a group",
                ));
            }
        };
        match field {
            None => self.unknown(UNKNOWN_NUMBER_BYTES as u64)?,
            Some(field) if field.kind != expected => {
                return Err(Excess::Malformed("a field has another wire type than in the contract"));
            }
            Some(field) if field.is_repeated => self.element(field, size_of::<u64>())?,
            Some(field) => self.once(field)?,
        }
        match expected {
            Kind::Fixed64 => self.skip(8),
            Kind::Fixed32 => self.skip(4),
            _ => {
                self.state = State::Number(Varint::default());
                Ok(())
            }
        }
    }

    /// Starts the value of a field with a length.
    fn value(&mut self, contract: &Contract, field: Option<Field>, length: u64) -> Result<(), Excess> {
        let Some(field) = field else {
            self.unknown(length.saturating_add(2))?;
            return self.skip(length);
        };
        let bytes = usize::try_from(length).expect("usize has 64 bits");
        match field.kind {
            Kind::Message(shape) => {
                if field.is_repeated {
                    self.element(field, contract.shapes[shape].bytes)?;
                } else {
                    self.once(field)?;
                }
                let end = self.end_of(length)?;
                if self.open.len() == DEPTH_MAX {
                    return Err(Excess::Malformed("messages lie too deep within one another"));
                }
                self.open.push(Open { shape, end, had: 0 });
                self.state = BEGIN;
                return Ok(());
            }
            Kind::Text if bytes > self.bounds.text_bytes => return Err(Excess::Text(self.bounds.text_bytes)),
            Kind::Text => {
                self.takes(bytes.saturating_add(ALLOCATION_BYTES));
                match field.is_repeated {
                    true => self.element(field, TEXT_BYTES)?,
                    false => self.once(field)?,
                }
            }
            Kind::Slice if field.is_repeated => self.element(field, SLICE_BYTES)?,
            // The value is a slice of the message itself.
            Kind::Slice => self.once(field)?,
            _ if !field.is_repeated => {
                return Err(Excess::Malformed("a field has another wire type than in the contract"));
            }
            // Packed numbers: each has at least one byte, and takes at most eight. The vector doubles.
            _ => self.takes(bytes.saturating_mul(2 * size_of::<u64>())),
        }
        self.skip(length)
    }

    fn skip(&mut self, length: u64) -> Result<(), Excess> {
        self.end_of(length)?;
        self.state = if length == 0 { BEGIN } else { State::Skip(length) };
        Ok(())
    }

    /// The place where a value of this length ends.
    fn end_of(&self, length: u64) -> Result<u64, Excess> {
        let within = self.open.last().expect("the outermost is never closed").end;
        let end = self.at.checked_add(length).filter(|end| *end <= within);
        end.ok_or(Excess::Malformed("a field goes on behind the end of its message"))
    }

    /// Counts one more element of a repeated field, of `bytes` bytes.
    fn element(&mut self, field: Field, bytes: usize) -> Result<(), Excess> {
        self.elements += 1;
        if self.elements > self.bounds.elements {
            return Err(Excess::Elements(self.bounds.elements));
        }
        let is_first = self.is_first(field);
        self.takes(bytes.saturating_mul(if is_first { VECTOR_MIN } else { 2 }));
        Ok(())
    }

    /// Whether the open message has not had the field before. A field whose number is too high for the bits counts as
    /// the first each time.
    fn is_first(&mut self, field: Field) -> bool {
        let open = self.open.last_mut().expect("the outermost is never closed");
        let bit = 1u64.checked_shl(field.slot).unwrap_or(0);
        let is_first = open.had & bit == 0;
        open.had |= bit;
        is_first
    }

    /// Refuses a field that is not repeated and comes again. Decoders take the last one, and the bytes of the earlier
    /// ones stay in memory unused; no encoder writes such a message. The fields of a `oneof` are one field.
    fn once(&mut self, field: Field) -> Result<(), Excess> {
        match self.is_first(field) {
            true => Ok(()),
            false => Err(Excess::Malformed(
                "a field that is not repeated comes again, or another one of its oneof",
            )),
        }
    }

    fn unknown(&mut self, bytes: u64) -> Result<(), Excess> {
        let bytes = usize::try_from(bytes).expect("usize has 64 bits");
        self.unknown_bytes = self.unknown_bytes.saturating_add(bytes);
        if self.unknown_bytes > self.bounds.unknown_bytes {
            return Err(Excess::Unknown(self.bounds.unknown_bytes));
        }
        Ok(())
    }

    fn takes(&mut self, bytes: usize) {
        self.memory = self.memory.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::v1::produce_request::Payload;
    use crate::v1::{
        CommitOffsetsRequest, PartitionOffset, PartitionSet, PlainRecords, ProduceRequest, Record, RecordHeader,
        TopicPartition, TopicPartitions,
    };

    const PRODUCE: &str = "/jangada.v1.LogService/Produce";
    const COMMIT: &str = "/jangada.v1.GroupService/CommitOffsets";
    const HEARTBEAT: &str = "/jangada.v1.GroupService/Heartbeat";
    const BOUNDS: Bounds = Bounds {
        elements: 1000,
        unknown_bytes: 100,
        text_bytes: 50,
    };

    /// The end of a scan in pieces of this size.
    fn scan(path: &str, bytes: &[u8], piece: usize) -> Result<Scan, Excess> {
        static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::new);
        let method = CONTRACT.method(path).expect("it is known");
        let mut scan = Scan::new(method, bytes.len() as u64, BOUNDS);
        for piece in bytes.chunks(piece) {
            scan.push(&CONTRACT, piece)?;
        }
        Ok(scan)
    }

    fn plain(records: usize) -> ProduceRequest {
        let record = Record {
            timestamp_ms: Some(-1),
            key: Some(Bytes::from_static(b"key")),
            value: Some(Bytes::from(vec![b'v'; 300])),
            headers: vec![
                RecordHeader {
                    key: "name".to_owned(),
                    value: Some(Bytes::from_static(b"x")),
                },
                RecordHeader::default(),
            ],
            offset: 0,
        };
        ProduceRequest {
            partition: Some(TopicPartition {
                topic: "orders".to_owned(),
                ..TopicPartition::default()
            }),
            timeout_ms: 70_000,
            payload: Some(Payload::Records(PlainRecords {
                records: vec![record; records],
                compression: 0,
                producer: None,
            })),
            ..ProduceRequest::default()
        }
    }

    #[test]
    fn elements_are_counted_wherever_a_message_is_cut() {
        let bytes = plain(20).encode_to_vec();
        let whole = scan(PRODUCE, &bytes, bytes.len()).expect("it is a message");
        assert_eq!(whole.elements(), 20 * 3);
        assert!(whole.memory() >= 20 * (size_of::<Record>() + 2 * size_of::<RecordHeader>()));
        for piece in 1..40 {
            let cut = scan(PRODUCE, &bytes, piece).expect("it is a message");
            assert_eq!((cut.elements(), cut.memory()), (whole.elements(), whole.memory()));
        }
    }

    #[test]
    fn a_batch_costs_nothing_beside_itself() {
        let request = ProduceRequest {
            payload: Some(Payload::Batch(Bytes::from(vec![0x0a; 1 << 20]))),
            ..ProduceRequest::default()
        };
        let scan = scan(PRODUCE, &request.encode_to_vec(), 1 << 16).expect("it is a message");
        assert_eq!((scan.elements(), scan.memory()), (0, 0));
    }

    #[test]
    fn empty_messages_are_refused_before_all_of_them_are_there() {
        // Two bytes for each record: a record without any field.
        let records = [0x0a, 0x00].repeat(1 << 20);
        let mut bytes = vec![0x2a];
        prost::encoding::encode_varint(records.len() as u64, &mut bytes);
        bytes.extend_from_slice(&records);
        let contract = Contract::new();
        let mut scan = Scan::new(contract.method(PRODUCE).expect("known"), bytes.len() as u64, BOUNDS);
        let refused = scan.push(&contract, &bytes[..4096]);
        assert_eq!(refused, Err(Excess::Elements(1000)));
    }

    #[test]
    fn packed_numbers_count_for_their_memory() {
        let owned = PartitionSet {
            topics: vec![TopicPartitions {
                partitions: (0..5000).collect(),
                ..TopicPartitions::default()
            }],
        };
        let request = crate::v1::HeartbeatRequest {
            owned: Some(owned),
            ..Default::default()
        };
        let scan = scan(HEARTBEAT, &request.encode_to_vec(), 100).expect("it is a message");
        assert_eq!(scan.elements(), 1);
        assert!(scan.memory() >= 5000 * size_of::<u32>());
    }

    #[test]
    fn unknown_fields_are_bounded_and_known_ones_are_not_mistaken_for_them() {
        let mut bytes = CommitOffsetsRequest {
            offsets: vec![PartitionOffset::default(); 3],
            ..CommitOffsetsRequest::default()
        }
        .encode_to_vec();
        assert_eq!(scan(COMMIT, &bytes, 1).expect("it is a message").elements(), 3);
        // Field 15, which has a length.
        bytes.extend_from_slice(&[0x7a, 50]);
        bytes.extend_from_slice(&[7; 50]);
        scan(COMMIT, &bytes, 1).expect("what a later version adds is passed over");
        bytes.extend_from_slice(&[0x7a, 90]);
        bytes.extend_from_slice(&[7; 90]);
        assert_eq!(
            scan(COMMIT, &bytes, 1).expect_err("it is too much"),
            Excess::Unknown(100)
        );
        let numbers = [0x78, 1].repeat(20);
        assert_eq!(
            scan(COMMIT, &numbers, 3).expect_err("it is too much"),
            Excess::Unknown(100)
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &[0x0f][..],            // a wire type that there is not
            &[0x0b],                // a group
            &[0x02, 0x00],          // field 0
            &[0x0a, 0x05, 0x00],    // longer than the message
            &[0x08, 0x00],          // a number where the contract has a message
            &[0x12, 0x01, 0x00],    // a length where the contract has a number
            &[0x0a, 0x02, 0x1a, 1], // longer than its message
            &[0x10, 1, 0x10, 1],    // the same field again
            &[0x98, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        ] {
            let refused = scan(PRODUCE, bytes, 1).expect_err("it is no message");
            assert!(matches!(refused, Excess::Malformed(_)), "{bytes:?}: {refused:?}");
        }
    }

    #[test]
    fn a_second_field_of_a_oneof_is_refused() {
        let batch: &[u8] = &[0x22, 3, 1, 2, 3];
        let records: &[u8] = &[0x2a, 2, 0x0a, 0];
        for bytes in [[batch, records].concat(), [records, batch].concat()] {
            for piece in 1..bytes.len() {
                let refused = scan(PRODUCE, &bytes, piece).expect_err("decoders would keep one");
                assert!(matches!(refused, Excess::Malformed(_)), "{refused:?}");
            }
        }
        // Optional fields are no choice: both may come.
        let both = ProduceRequest {
            expected_end_offset: Some(1),
            expected_key_offset: Some(2),
            ..plain(1)
        };
        scan(PRODUCE, &both.encode_to_vec(), 7).expect("it is a message");
    }

    #[test]
    fn a_long_text_is_refused_and_a_long_payload_is_not() {
        let mut request = plain(1);
        request.partition = Some(TopicPartition {
            topic: "x".repeat(51),
            ..TopicPartition::default()
        });
        let refused = scan(PRODUCE, &request.encode_to_vec(), 7).expect_err("the name is too long");
        assert_eq!(refused, Excess::Text(50));
    }

    /// For any bytes that the scan accepts, decoding gives no more elements than it counted.
    #[test]
    fn no_mutation_decodes_to_more_than_was_counted() {
        let original = plain(6).encode_to_vec();
        let mut seed = 7u64;
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).expect("31 bits")
        };
        let mut decoded = 0;
        for _ in 0..20_000 {
            let mut bytes = original.clone();
            for _ in 0..1 + next() % 3 {
                let at = next() % bytes.len();
                bytes[at] = u8::try_from(next() % 256).expect("a byte");
            }
            let Ok(request) = ProduceRequest::decode(&bytes[..]) else {
                continue;
            };
            decoded += 1;
            let Ok(scan) = scan(PRODUCE, &bytes, 1 + next() % 64) else {
                continue;
            };
            if let Some(Payload::Records(plain)) = request.payload {
                let headers: usize = plain.records.iter().map(|record| record.headers.len()).sum();
                assert!(plain.records.len() + headers <= scan.elements());
            }
        }
        assert!(decoded > 1000, "{decoded} of the mutations are messages");
    }
}
