//! Properties of any batch, and of reading any bytes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::compression::{self, Codec};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

const MAX: usize = 1 << 20;
const LIMITS: BatchLimits = BatchLimits { max_batch_bytes: MAX };

fn codecs() -> impl Strategy<Value = Codec> {
    proptest::sample::select(&Codec::ALL[..])
}

fn payloads() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(vec(any::<u8>(), 0..200).prop_map(Bytes::from))
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    vec(
        (".{0,20}", payloads()).prop_map(|(key, value)| Header { key, value }),
        0..4,
    )
}

fn batches_of_records() -> impl Strategy<Value = Vec<Record>> {
    let timestamps = prop_oneof![1_600_000_000_000..1_800_000_000_000_i64, any::<i64>()];
    let record =
        (timestamps, payloads(), payloads(), headers()).prop_map(|(timestamp_ms, key, value, headers)| Record {
            offset: Offset(0),
            timestamp_ms,
            key,
            value,
            headers,
        });
    vec(record, 1..30).prop_map(|mut records| {
        for (record, offset) in records.iter_mut().zip(0..) {
            record.offset = Offset(offset);
        }
        records
    })
}

fn encode(codec: Codec, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for record in records {
        builder.append_record(record).unwrap();
    }
    assert_eq!(builder.len(), records.len());
    builder.build()
}

/// Corrects the checksum, so that the fields behind it are reached.
fn reseal(batch: &mut [u8]) {
    if batch.len() >= BatchHeader::LEN {
        let crc = checksum(batch);
        header::put(batch, header::at::CRC, crc.to_be_bytes());
    }
}

/// Reads `bytes` in every way there is; the results are bounded, and the ways agree.
fn read_everywhere(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = BatchHeader::parse(&bytes).map(|header| header.last_sequence());
    let is_valid = validate(&bytes, &LIMITS).is_ok();
    let decoded = decode_records(&bytes, MAX);
    if is_valid && validate_records(&bytes, MAX).is_ok() {
        assert!(
            decoded.is_ok(),
            "what the broker takes in full can be read: {decoded:?}"
        );
        let full = validate_records_with_times(&bytes, MAX);
        assert_eq!(validate_packed(&bytes, MAX), full, "it is not stricter");
    }
    if let Ok(records) = decoded {
        let size = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = |record: &Record| {
            record
                .headers
                .iter()
                .map(|h| h.key.len() + size(&h.value))
                .sum::<usize>()
        };
        assert!(
            records
                .iter()
                .map(|r| size(&r.key) + size(&r.value) + headers(r))
                .sum::<usize>()
                <= MAX
        );
    }
    let split: usize = BatchIter::new(bytes.clone())
        .flatten()
        .map(|(_, batch)| batch.len())
        .sum();
    assert!(split <= bytes.len());
}

proptest! {
    #[test]
    fn records_round_trip(codec in codecs(), records in batches_of_records()) {
        let batch = encode(codec, &records);
        let header = validate(&batch, &LIMITS).unwrap();
        prop_assert_eq!(header.total_size(), batch.len());
        prop_assert_eq!(header.record_count as usize, records.len());
        prop_assert_eq!(Some(header.max_timestamp), records.iter().map(|r| r.timestamp_ms).max());
        prop_assert_eq!(validate_records(&batch, MAX), Ok(()));
        let times = validate_packed(&batch, MAX).unwrap();
        let with_time = || records.iter().map(|record| record.timestamp_ms).filter(|ms| *ms != -1);
        prop_assert_eq!(times.earliest().map(|time| time.ms), with_time().min());
        prop_assert_eq!(times.latest().map(|time| time.ms), with_time().max());
        prop_assert_eq!(decode_records(&batch, MAX), Ok(records));
    }

    #[test]
    fn size_estimates_hold(records in batches_of_records()) {
        let mut builder = BatchBuilder::new(Codec::None);
        for record in &records {
            let headers = record.headers.iter().map(|h| (h.key.as_str(), h.value.as_deref()));
            let most = BatchBuilder::record_size_max(record.key.as_deref(), record.value.as_deref(), headers);
            let before = builder.estimated_size();
            builder.append_record(record).unwrap();
            prop_assert!(builder.estimated_size() - before <= most);
            prop_assert!(builder.estimated_size() - before >= RECORD_BYTES_MIN);
        }
        let estimated = builder.estimated_size();
        prop_assert_eq!(builder.build().len(), estimated);
    }

    #[test]
    fn concatenated_batches_come_apart(all in vec((codecs(), batches_of_records()), 0..5), cut in 1_usize..60) {
        let batches: Vec<Bytes> = all.iter().map(|(codec, records)| encode(*codec, records)).collect();
        let joined = Bytes::from(batches.concat());
        let split: Result<Vec<_>, _> = BatchIter::new(joined.clone()).map(|item| item.map(|(_, batch)| batch)).collect();
        prop_assert_eq!(split.as_ref(), Ok(&batches));

        if let Some((_, whole)) = batches.split_last() {
            let items: Vec<_> = BatchIter::new(joined.slice(..joined.len() - cut)).collect();
            prop_assert_eq!(items.len(), batches.len());
            prop_assert!(items[..whole.len()].iter().all(Result::is_ok));
            let is_cut = matches!(items[whole.len()], Err(BatchError::Invalid(Malformed::Truncated { .. })));
            prop_assert!(is_cut);
        }
    }

    /// Base offset and leader epoch are the broker's and outside the checksum; a change there leaves the records
    /// unchanged.
    #[test]
    fn corruption_is_noticed_or_harmless(
        codec in codecs(),
        records in batches_of_records(),
        flips in vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
    ) {
        let original = encode(codec, &records);
        let mut batch = original.to_vec();
        for (index, bits) in flips {
            let at = index.index(batch.len());
            batch[at] ^= bits;
        }
        set_position(&mut batch, Offset(0), LeaderEpoch(0));
        let mut unchanged = original.to_vec();
        set_position(&mut unchanged, Offset(0), LeaderEpoch(0));
        if batch != unchanged {
            prop_assert!(validate(&batch, &LIMITS).is_err());
        }
    }

    #[test]
    fn a_wrong_count_is_noticed(records in batches_of_records(), count in 1..40_i32) {
        prop_assume!(count as usize != records.len());
        let mut batch = encode(Codec::None, &records).to_vec();
        header::put(&mut batch, header::at::LAST_OFFSET_DELTA, (count - 1).to_be_bytes());
        header::put(&mut batch, header::at::RECORD_COUNT, count.to_be_bytes());
        reseal(&mut batch);
        let error = validate(&batch, &LIMITS).unwrap_err();
        prop_assert!(matches!(error, BatchError::Invalid(_)), "{error}");
    }

    #[test]
    fn a_wrong_offset_delta_is_noticed(
        records in batches_of_records(),
        index in any::<prop::sample::Index>(),
        delta in 0..64_u8,
    ) {
        let index = index.index(records.len());
        prop_assume!(usize::from(delta) != index);
        let mut before = BatchBuilder::new(Codec::None);
        for record in &records[..index] {
            before.append_record(record).unwrap();
        }
        let mut batch = encode(Codec::None, &records).to_vec();
        let mut rest = &batch[before.estimated_size()..];
        varint::take_i32(&mut rest).unwrap();
        rest = &rest[1..];
        varint::take_i64(&mut rest).unwrap();
        // Below 64 it takes one byte.
        let place = batch.len() - rest.len();
        batch[place] = delta << 1;
        reseal(&mut batch);
        let wrong = Malformed::Record { index: index as i32, flaw: RecordFlaw::OffsetDelta };
        prop_assert_eq!(validate(&batch, &LIMITS), Err(BatchError::Invalid(wrong)));
    }

    #[test]
    fn a_cut_is_noticed(codec in codecs(), records in batches_of_records(), cut in any::<prop::sample::Index>()) {
        let batch = encode(codec, &records);
        let cut = &batch[..cut.index(batch.len())];
        let error = validate(cut, &LIMITS).unwrap_err();
        prop_assert!(matches!(error, BatchError::Invalid(Malformed::Truncated { .. })), "{error}");
    }

    #[test]
    fn patches_leave_the_records_alone(
        codec in codecs(),
        records in batches_of_records(),
        base in 0..i64::MAX / 2,
        epoch in 0..=i32::MAX as u32,
        now in any::<i64>(),
        producer in (0..i64::MAX, 0..i16::MAX, 0..=i32::MAX),
    ) {
        let mut batch = encode(codec, &records).to_vec();
        let mut expected = records;

        set_position(&mut batch, Offset(base), LeaderEpoch(epoch));
        expected.iter_mut().for_each(|record| record.offset = record.offset + base);
        let header = validate(&batch, &LIMITS).unwrap();
        let stored = header.attributes.codec();
        prop_assert!(stored == Ok(codec) || stored == Ok(Codec::None), "{:?}", stored);
        prop_assert_eq!((header.base_offset, header.partition_leader_epoch), (base, epoch as i32));
        prop_assert_eq!(decode_records(&Bytes::copy_from_slice(&batch), MAX), Ok(expected.clone()));

        let (id, epoch, sequence) = (ProducerId(producer.0), ProducerEpoch(producer.1), Sequence(producer.2));
        set_producer(&mut batch, id, epoch, sequence);
        let header = validate(&batch, &LIMITS).unwrap();
        prop_assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (id, epoch, sequence));

        set_append_time(&mut batch, now);
        expected.iter_mut().for_each(|record| record.timestamp_ms = now);
        let header = verify(&batch).unwrap();
        prop_assert_eq!((header.max_timestamp, header.attributes.codec()), (now, stored));
        prop_assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppendTime);
        prop_assert_eq!(validate_records(&batch, MAX), Ok(()));
        prop_assert_eq!(decode_records(&batch.into(), MAX), Ok(expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        read_everywhere(&bytes);
        for codec in Codec::ALL {
            if let Ok(unpacked) = compression::decompress(codec, &bytes, 4096) {
                prop_assert!(unpacked.len() <= 4096);
            }
        }
    }

    /// A right header with right checksum over arbitrary records.
    #[test]
    fn arbitrary_records_are_survived(codec in codecs(), body in vec(any::<u8>(), 0..200), count in 1..30_i32, pack: bool) {
        let mut batch = encode(codec, &[Record {
            offset: Offset(0), timestamp_ms: 0, key: None, value: None, headers: Vec::new(),
        }]).to_vec();
        batch.truncate(BatchHeader::LEN);
        batch.extend(if pack { compression::compress(codec, &body) } else { body });
        let length = (batch.len() - header::LENGTH_COUNTS_FROM) as i32;
        header::put(&mut batch, header::at::BATCH_LENGTH, length.to_be_bytes());
        header::put(&mut batch, header::at::LAST_OFFSET_DELTA, (count - 1).to_be_bytes());
        header::put(&mut batch, header::at::RECORD_COUNT, count.to_be_bytes());
        reseal(&mut batch);
        read_everywhere(&batch);
    }

    /// Damage under a correct checksum, as from a faulty or hostile producer.
    #[test]
    fn hidden_damage_is_survived(
        codec in codecs(),
        records in batches_of_records(),
        flips in vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6),
    ) {
        let mut batch = encode(codec, &records).to_vec();
        for (index, bits) in flips {
            let at = index.index(batch.len());
            batch[at] ^= bits;
        }
        reseal(&mut batch);
        read_everywhere(&batch);
    }
}
