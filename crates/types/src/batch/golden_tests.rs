//! Batches that other implementations encoded: we read them, and byte for byte write the same.

use bytes::Bytes;

use super::*;
use crate::compression::Codec;
use crate::ids::{Offset, ProducerEpoch, ProducerId, Sequence};

const MAX: usize = 1 << 20;

/// Two batches of a Kafka 0.11 broker's log (the sample that kafka-python's tests use).
const KAFKA_BROKER: &str = "\
    00000000000000000000003b00000001020318a2700000000000000000015dff7b063c0000015dff7b063cffffffffffffffffffffffffffff\
    000000011200000001063132330000000000000000010000004000000002\
    02c85cbd230000000000010000015dff7cdd6c0000015dff7cde14ffffffffffffffffffffffffffff000000020c000000010000\
    0e00d00202010000";

/// The records of `records()` encoded by kafka-python 3.0.12, with producer 4242, epoch 7, base sequence `i32::MAX -
/// 1`.
const KAFKA_PYTHON: [(Codec, &str); 5] = [
    (
        Codec::None,
        "0000000000000000000000870000000002597a46dd0000000000020000018bcfe568000000018bcfe87540000000000000109200077ffffffe\
         000000038001000000046b314668656c6c6f2068656c6c6f2068656c6c6f2068656c6c6f2068656c6c6f2068656c6c6f060a747261636506\
         61626300010a747261636504c3bc0e00cf0f02010100160080b51804000002027800",
    ),
    (
        Codec::Gzip,
        "00000000000000000000007c000000000242d290a70001000000020000018bcfe568000000018bcfe87540000000000000109200077ffffffe\
         000000031f8b080098c3026b02ff6b6064606060c93674cb48cdc9c957c04bb27195142526a7b2252625333042d82c87f7f0319ce767626464\
         106368d82ac1c2c0c0c454c1000034cc6f6256000000",
    ),
    (
        Codec::Snappy,
        "00000000000000000000008200000000023444eefc0002000000020000018bcfe568000000018bcfe87540000000000000109200077ffffffe\
         0000000382534e415050590000000001000000010000003d56388001000000046b314668656c6c6f2072060034060a74726163650661626300\
         010a050c5804c3bc0e00cf0f02010100160080b51804000002027800",
    ),
    (
        Codec::Lz4,
        "000000000000000000000085000000000280f84e890003000000020000018bcfe568000000018bcfe87540000000000000109200077ffffffe\
         0000000304224d1868405600000000000000713d000000ff008001000000046b314668656c6c6f2006000ad2060a7472616365066162630001\
         0c00f00804c3bc0e00cf0f02010100160080b5180400000202780000000000",
    ),
    (
        Codec::Zstd,
        "000000000000000000000077000000000222a7fa170004000000020000018bcfe568000000018bcfe87540000000000000109200077ffffffe\
         0000000328b52ffd2056ed010034038001000000046b314668656c6c6f20060a747261636506616263000104c3bc0e00cf0f02010100160080\
         b5180400000202780002002fc397bbd401",
    ),
];

/// What kafka-clients 4.0.0 (`MemoryRecords`) writes for producer 4242, epoch 7, coordinator epoch 11, at 1,700,000,000,000: the end of
/// a transaction that was aborted, of one that was committed, and a batch of one, of sequence 3.
const KAFKA_ABORT: &str = "\
    0000000000000000000000420000000002306f0d900030000000000000018bcfe568000000018bcfe5680000000000000010920007ffffffff\
    000000012000000008000000000c00000000000b00";
const KAFKA_COMMIT: &str = "\
    0000000000000000000000420000000002c451dbd80030000000000000018bcfe568000000018bcfe5680000000000000010920007ffffffff\
    000000012000000008000000010c00000000000b00";
const KAFKA_TRANSACTIONAL: &str = "\
    00000000000000000000003a00000000023db0ddfc0010000000000000018bcfe568000000018bcfe568000000000000001092000700000003\
    0000000110000000026b027600";

fn from_hex(hex: &str) -> Bytes {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn header(key: &str, value: Option<&'static [u8]>) -> Header {
    Header {
        key: key.to_owned(),
        value: value.map(Bytes::from_static),
    }
}

fn records() -> Vec<Record> {
    let record = |offset, timestamp_ms, key: Option<&'static [u8]>, value: Option<&'static [u8]>, headers| Record {
        offset: Offset(offset),
        timestamp_ms,
        key: key.map(Bytes::from_static),
        value: value.map(Bytes::from_static),
        headers,
    };
    let of_first = vec![
        header("trace", Some(b"abc")),
        header("", None),
        header("trace", Some("ü".as_bytes())),
    ];
    vec![
        record(
            0,
            1_700_000_000_000,
            Some(b"k1"),
            Some(b"hello hello hello hello hello hello"),
            of_first,
        ),
        record(1, 1_699_999_999_000, None, None, Vec::new()),
        record(2, 1_700_000_200_000, Some(b""), Some(b""), vec![header("x", Some(b""))]),
    ]
}

#[test]
fn batches_of_kafka_python_are_read() {
    for (codec, hex) in KAFKA_PYTHON {
        let batch = from_hex(hex);
        let header = validate(&batch, &BatchLimits::default()).unwrap();
        assert_eq!(header.attributes.codec(), Ok(codec));
        assert_eq!(header.attributes.timestamp_type(), TimestampType::CreateTime);
        assert_eq!(header.total_size(), batch.len());
        assert_eq!(
            (header.base_timestamp, header.max_timestamp),
            (1_700_000_000_000, 1_700_000_200_000)
        );
        assert_eq!(
            (header.producer_id, header.producer_epoch),
            (ProducerId(4242), ProducerEpoch(7))
        );
        assert_eq!(
            (header.base_sequence, header.last_sequence()),
            (Sequence(i32::MAX - 1), Sequence(0))
        );
        assert_eq!((header.record_count, header.last_offset_delta), (3, 2));
        assert_eq!(validate_records(&batch, MAX), Ok(()));
        assert!(validate_packed(&batch, MAX).is_ok(), "{codec}");
        assert_eq!(decode_records(&batch, MAX), Ok(records()), "{codec}");
    }
}

/// Compressed bytes depend on the compressor's version, so only the uncompressed batch must be the same.
#[test]
fn the_builder_writes_what_kafka_python_writes() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(ProducerId(4242), ProducerEpoch(7), Sequence(i32::MAX - 1));
    for record in records() {
        builder.append_record(&record).unwrap();
    }
    let mut batch = builder.build().to_vec();
    // kafka-python leaves 0 where Java's client and we leave -1: what the broker sets.
    set_position(&mut batch, Offset::ZERO, crate::ids::LeaderEpoch(0));
    assert_eq!(batch, from_hex(KAFKA_PYTHON[0].1));
}

#[test]
fn batches_of_a_kafka_broker_are_read() {
    let batches: Vec<_> = BatchIter::new(from_hex(KAFKA_BROKER))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(batches.len(), 2);
    let decoded: Vec<_> = batches
        .iter()
        .flat_map(|(_, batch)| decode_records(batch, MAX).unwrap())
        .collect();
    let brief: Vec<_> = decoded
        .iter()
        .map(|r| (r.offset.get(), r.timestamp_ms, r.value.as_deref().unwrap()))
        .collect();
    let expected: [(i64, i64, &[u8]); 3] = [
        (0, 1_503_229_838_908, b"123"),
        (1, 1_503_229_959_532, b""),
        (2, 1_503_229_959_700, b""),
    ];
    assert_eq!(brief, expected);
    assert!(
        decoded
            .iter()
            .all(|record| record.key.is_none() && record.headers.is_empty())
    );
    for (header, batch) in &batches {
        assert_eq!(validate(batch, &BatchLimits::default()).as_ref(), Ok(header));
        assert!(!header.is_idempotent());
        assert_eq!(header.last_sequence(), Sequence::NONE);
    }
    assert_eq!(batches[1].0.partition_leader_epoch, 2);
}

#[test]
fn the_end_of_a_transaction_is_written_as_kafka_writes_it() {
    for (commit, hex) in [(false, KAFKA_ABORT), (true, KAFKA_COMMIT)] {
        let marker = EndMarker {
            producer_id: ProducerId(4242),
            producer_epoch: ProducerEpoch(7),
            coordinator_epoch: 11,
            commit,
        };
        let mut batch = marker.build(1_700_000_000_000).to_vec();
        set_position(&mut batch, Offset::ZERO, crate::ids::LeaderEpoch(0));
        assert_eq!(batch, from_hex(hex), "commit: {commit}");
        assert_eq!(batch.len(), EndMarker::BATCH_BYTES);
        assert_eq!(EndMarker::read(&from_hex(hex)), Ok(Some(marker)));
    }
}

#[test]
fn a_batch_of_a_transaction_is_written_and_taken_as_kafka_writes_it() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder
        .producer(ProducerId(4242), ProducerEpoch(7), Sequence(3))
        .transactional()
        .append(1_700_000_000_000, Some(b"k"), Some(b"v"), [])
        .unwrap();
    let mut batch = builder.build().to_vec();
    set_position(&mut batch, Offset::ZERO, crate::ids::LeaderEpoch(0));
    assert_eq!(batch, from_hex(KAFKA_TRANSACTIONAL));
    let header = validate(&batch, &BatchLimits::default()).unwrap();
    assert!(header.attributes.is_transactional());
}
