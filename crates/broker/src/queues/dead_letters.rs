//! Dead letters as records of another topic: their headers. Pure: the same letters give the same bytes.

use jangada_queue::engine::DeadLetter;
use jangada_queue::{DeadReason, QueueId};
use jangada_types::{BatchBuilder, BatchError, Header, PartitionIndex, Record};

/// The beginning of the names of the headers that say of a letter's last death.
const DEAD: &str = "jangada-dead-";
/// How often the message died, this time included.
const COUNT: &str = "jangada-dead-count";
/// The queue in which it died first.
const FIRST_QUEUE: &str = "jangada-first-dead-queue";
/// Why it died first.
const FIRST_REASON: &str = "jangada-first-dead-reason";

/// Where letters come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub id: QueueId,
    pub queue: &'a str,
    /// The topic whose records are the queue's messages.
    pub topic: &'a str,
    pub index: PartitionIndex,
}

/// Why a message is dead, in a word.
pub(super) fn word(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Attempts => "attempts",
        DeadReason::Rejected => "rejected",
        DeadReason::Expired => "expired",
        DeadReason::Length => "length",
    }
}

/// Adds a letter to a batch: key, value and headers of its record, and headers that say where it comes from and why it is dead. Those of
/// an earlier death, in another queue, are replaced. Its time is that of its death, so that a topic keeps it as long as others.
///
/// # Errors
/// The batch has no room for it.
pub(super) fn append(
    builder: &mut BatchBuilder,
    source: Source<'_>,
    letter: &DeadLetter,
    record: &Record,
) -> Result<(), BatchError> {
    let reason = word(letter.reason);
    let first = |name: &str| record.headers.iter().find(|header| header.key == name);
    let deaths = count_of(record).saturating_add(1).to_string();
    let id = format!("{}-{}-{}", source.id, source.index, letter.origin);
    let number = |number: u64| number.to_string();
    let said = [
        ("jangada-dead-queue", source.queue.to_owned()),
        ("jangada-dead-topic", source.topic.to_owned()),
        ("jangada-dead-partition", source.index.to_string()),
        ("jangada-dead-offset", number(letter.offset)),
        ("jangada-dead-origin", number(letter.origin)),
        ("jangada-dead-id", id),
        ("jangada-dead-reason", reason.to_owned()),
        ("jangada-dead-failures", number(letter.failures.into())),
        ("jangada-dead-deliveries", number(letter.deliveries.into())),
        ("jangada-dead-time", number(letter.died_at_ms)),
        ("jangada-dead-timestamp", record.timestamp_ms.to_string()),
        (COUNT, deaths),
    ];
    let kept = record.headers.iter().filter(|header| !header.key.starts_with(DEAD));
    let mut headers: Vec<(&str, Option<&[u8]>)> = kept.map(pair).collect();
    for (name, now) in [(FIRST_QUEUE, source.queue), (FIRST_REASON, reason)] {
        if first(name).is_none() {
            headers.push((name, Some(now.as_bytes())));
        }
    }
    headers.extend(said.iter().map(|(name, value)| (*name, Some(value.as_bytes()))));
    let died_at_ms = i64::try_from(letter.died_at_ms).unwrap_or(i64::MAX);
    builder.append(died_at_ms, record.key.as_deref(), record.value.as_deref(), headers)
}

fn pair(header: &Header) -> (&str, Option<&[u8]>) {
    (&header.key, header.value.as_deref())
}

/// How often a message died before.
fn count_of(record: &Record) -> u32 {
    let said = record.headers.iter().find(|header| header.key == COUNT);
    let text = said.and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use jangada_types::batch::decode_records;
    use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
    use jangada_types::{BatchHeader, Codec, Offset, ProducerEpoch, ProducerId, Sequence};

    use super::*;

    const SOURCE: Source<'_> = Source {
        id: QueueId(0xab),
        queue: "orders",
        topic: "orders",
        index: PartitionIndex(3),
    };

    fn letter(offset: u64, reason: DeadReason) -> DeadLetter {
        DeadLetter {
            offset,
            origin: offset - 1,
            reason,
            failures: 5,
            deliveries: 6,
            died_at_ms: 1_700_000_000_000 + offset,
        }
    }

    fn record(headers: Vec<Header>) -> Record {
        Record {
            offset: Offset(9),
            timestamp_ms: 1_600_000_000_000,
            key: Some(Bytes::from_static(b"customer 7")),
            value: Some(Bytes::from_static(b"a lamp")),
            headers,
        }
    }

    fn build(source: Source<'_>, letter: &DeadLetter, record: &Record) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        append(&mut builder, source, letter, record).expect("it is small");
        builder.producer(ProducerId(1_000), ProducerEpoch(0), Sequence(70));
        builder.build()
    }

    fn said(record: &Record) -> BTreeMap<&str, &str> {
        let text =
            |header: &'_ Header| std::str::from_utf8(header.value.as_deref().expect("it has one")).map(str::to_owned);
        let texts = record.headers.iter().map(|header| (&*header.key, text(header)));
        texts
            .map(|(name, text)| (name, &*text.expect("it is text").leak()))
            .collect()
    }

    #[test]
    fn a_letter_says_where_it_comes_from_and_why() {
        let trace = Header {
            key: "trace".to_owned(),
            value: Some(Bytes::from_static(b"t-1")),
        };
        let batch = build(SOURCE, &letter(9, DeadReason::Attempts), &record(vec![trace]));
        let header = BatchHeader::parse(&batch).expect("it is a batch");
        assert_eq!(
            (header.producer_id, header.base_sequence),
            (ProducerId(1_000), Sequence(70))
        );
        let records = decode_records(&batch, DECOMPRESSED_BYTES_MAX).expect("it is a batch");
        let [letter] = &records[..] else { panic!("{records:?}") };
        assert_eq!(letter.key.as_deref(), Some(&b"customer 7"[..]));
        assert_eq!(letter.value.as_deref(), Some(&b"a lamp"[..]));
        assert_eq!(letter.timestamp_ms, 1_700_000_000_009, "the time of its death");
        let id = format!("{}-3-8", QueueId(0xab));
        let expected = BTreeMap::from([
            ("trace", "t-1"),
            ("jangada-first-dead-queue", "orders"),
            ("jangada-first-dead-reason", "attempts"),
            ("jangada-dead-queue", "orders"),
            ("jangada-dead-topic", "orders"),
            ("jangada-dead-partition", "3"),
            ("jangada-dead-offset", "9"),
            ("jangada-dead-origin", "8"),
            ("jangada-dead-id", &id),
            ("jangada-dead-reason", "attempts"),
            ("jangada-dead-failures", "5"),
            ("jangada-dead-deliveries", "6"),
            ("jangada-dead-time", "1700000000009"),
            ("jangada-dead-timestamp", "1600000000000"),
            ("jangada-dead-count", "1"),
        ]);
        assert_eq!(said(letter), expected);
        assert_eq!(letter.headers.len(), expected.len(), "each once");
    }

    #[test]
    fn the_same_letters_give_the_same_bytes() {
        let build = || build(SOURCE, &letter(9, DeadReason::Expired), &record(Vec::new()));
        assert_eq!(build(), build());
    }

    #[test]
    fn a_second_death_replaces_the_first_but_for_where_that_was() {
        let first = build(SOURCE, &letter(9, DeadReason::Rejected), &record(Vec::new()));
        let mut records = decode_records(&first, DECOMPRESSED_BYTES_MAX).expect("it is a batch");
        let source = Source {
            queue: "retries",
            topic: "retries",
            ..SOURCE
        };
        let second = build(source, &letter(20, DeadReason::Attempts), &records.remove(0));
        let records = decode_records(&second, DECOMPRESSED_BYTES_MAX).expect("it is a batch");
        let said = said(&records[0]);
        assert_eq!(said["jangada-dead-queue"], "retries");
        assert_eq!(said["jangada-dead-reason"], "attempts");
        assert_eq!(said["jangada-dead-count"], "2");
        assert_eq!(said["jangada-first-dead-queue"], "orders");
        assert_eq!(said["jangada-first-dead-reason"], "rejected");
        assert_eq!(records[0].headers.len(), said.len(), "each once");
    }
}
