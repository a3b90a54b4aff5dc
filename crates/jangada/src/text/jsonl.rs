//! Records as JSON, one object a line.
//!
//! Keys are the field names of `jangada.v1.Record`. Bytes that are not UTF-8 are written as base64 under a key of their
//! own (`key_base64`, `value_base64`), so that reading a record back gives the same bytes.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jangada_client::{ConsumedRecord, Header, NO_TIMESTAMP, ProducerRecord};
use serde::{Deserialize, Deserializer, Serialize};

/// A record as `consume -o jsonl` prints it.
#[derive(Serialize)]
struct Printed<'a> {
    topic: &'a str,
    partition: u32,
    offset: i64,
    timestamp_ms: Option<i64>,
    #[serde(flatten)]
    key: KeyText<'a>,
    #[serde(flatten)]
    value: ValueText<'a>,
    headers: Vec<PrintedHeader<'a>>,
}

#[derive(Serialize)]
enum KeyText<'a> {
    #[serde(rename = "key")]
    Text(Option<&'a str>),
    #[serde(rename = "key_base64")]
    Base64(String),
}

#[derive(Serialize)]
enum ValueText<'a> {
    #[serde(rename = "value")]
    Text(Option<&'a str>),
    #[serde(rename = "value_base64")]
    Base64(String),
}

#[derive(Serialize)]
struct PrintedHeader<'a> {
    key: &'a str,
    #[serde(flatten)]
    value: ValueText<'a>,
}

impl<'a> KeyText<'a> {
    fn of(bytes: Option<&'a [u8]>) -> KeyText<'a> {
        match bytes.map(std::str::from_utf8) {
            None => KeyText::Text(None),
            Some(Ok(text)) => KeyText::Text(Some(text)),
            Some(Err(_)) => KeyText::Base64(STANDARD.encode(bytes.unwrap_or_default())),
        }
    }
}

impl<'a> ValueText<'a> {
    fn of(bytes: Option<&'a [u8]>) -> ValueText<'a> {
        match bytes.map(std::str::from_utf8) {
            None => ValueText::Text(None),
            Some(Ok(text)) => ValueText::Text(Some(text)),
            Some(Err(_)) => ValueText::Base64(STANDARD.encode(bytes.unwrap_or_default())),
        }
    }
}

/// Prints one record and a newline.
pub fn write(out: &mut impl Write, record: &ConsumedRecord) -> io::Result<()> {
    let headers = record.headers.iter().map(|header| PrintedHeader {
        key: &header.key,
        value: ValueText::of(header.value.as_deref()),
    });
    let printed = Printed {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: Some(record.timestamp_ms).filter(|ms| *ms != NO_TIMESTAMP),
        key: KeyText::of(record.key.as_deref()),
        value: ValueText::of(record.value.as_deref()),
        headers: headers.collect(),
    };
    serde_json::to_writer(&mut *out, &printed)?;
    out.write_all(b"\n")
}

/// A record as `produce --format jsonl` reads it. An unknown field is an error of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    headers: Vec<ReadHeader>,
    /// The record's time; absent: the time of producing, null: no time.
    #[serde(default, deserialize_with = "present")]
    timestamp_ms: Option<Option<i64>>,
    partition: Option<u32>,
    /// A field that `consume` prints in addition: where the record was, not where it goes.
    #[serde(rename = "topic")]
    _topic: Option<serde::de::IgnoredAny>,
    #[serde(rename = "offset")]
    _offset: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadHeader {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
}

/// Reads a field that is present, even if it is null.
fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// Reads one line. The time and partition of flags, which are for every record, go before those of the line.
pub fn read(line: &[u8], record: ProducerRecord) -> Result<ProducerRecord, String> {
    // serde would accept an array as the fields in their order.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not a record in JSON: a line is an object in braces".to_owned());
    }
    let read: Read = serde_json::from_slice(line).map_err(|error| format!("not a record in JSON: {error}"))?;
    let mut record = record;
    record.key = bytes_of("key", read.key, read.key_base64)?;
    record.value = bytes_of("value", read.value, read.value_base64)?;
    let time = read.timestamp_ms.map(|ms| ms.unwrap_or(NO_TIMESTAMP));
    record.timestamp_ms = record.timestamp_ms.or(time);
    record.partition = record.partition.or(read.partition);
    for header in read.headers {
        let value = bytes_of("value", header.value, header.value_base64)?;
        record.headers.push(Header { key: header.key, value });
    }
    Ok(record)
}

fn bytes_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("has both {name} and {name}_base64")),
        (Some(text), None) => Ok(Some(Bytes::from(text))),
        (None, Some(base64)) => {
            let bytes = STANDARD
                .decode(base64)
                .map_err(|error| format!("{name}_base64 is not base64: {error}"))?;
            Ok(Some(Bytes::from(bytes)))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumed(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> ConsumedRecord {
        ConsumedRecord {
            topic: "orders".into(),
            partition: 1,
            offset: 7,
            leader_epoch: Some(3),
            timestamp_ms: 9,
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: vec![Header {
                key: "h".to_owned(),
                value: Some(Bytes::from_static(b"\xff")),
            }],
        }
    }

    fn line(record: &ConsumedRecord) -> String {
        let mut out = Vec::new();
        write(&mut out, record).expect("writing to memory works");
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    fn parsed(line: &str) -> Result<ProducerRecord, String> {
        read(line.as_bytes(), ProducerRecord::new("orders"))
    }

    #[test]
    fn text_stands_as_it_is_and_other_bytes_as_base64() {
        assert_eq!(
            line(&consumed(Some(b"k\n"), Some(b"\xff\x00"))),
            "{\"topic\":\"orders\",\"partition\":1,\"offset\":7,\"timestamp_ms\":9,\"key\":\"k\\n\",\"value_base64\":\"/wA=\",\
             \"headers\":[{\"key\":\"h\",\"value_base64\":\"/w==\"}]}\n"
        );
        assert!(line(&consumed(None, Some(b""))).contains("\"key\":null,\"value\":\"\""));
    }

    #[test]
    fn what_is_printed_reads_back_as_it_was() {
        let values: [Option<&[u8]>; 5] = [None, Some(b""), Some(b"k"), Some(b"v\xff"), Some("é\u{0}".as_bytes())];
        for (key, value) in values
            .iter()
            .flat_map(|key| values.iter().map(move |value| (*key, *value)))
        {
            let read = parsed(&line(&consumed(key, value))).expect("the line is valid");
            assert_eq!(read.key.as_deref(), key);
            assert_eq!(read.value.as_deref(), value);
            assert_eq!((read.partition, read.timestamp_ms), (Some(1), Some(9)));
            assert_eq!(read.headers.len(), 1);
        }
    }

    #[test]
    fn no_time_is_null_and_an_absent_one_is_left_to_the_producer() {
        let mut record = consumed(None, None);
        record.timestamp_ms = NO_TIMESTAMP;
        let line = line(&record);
        assert!(line.contains("\"timestamp_ms\":null"), "{line}");
        assert_eq!(
            parsed(&line).expect("the line is valid").timestamp_ms,
            Some(NO_TIMESTAMP)
        );
        assert_eq!(parsed("{}").expect("the line is valid").timestamp_ms, None);
    }

    #[test]
    fn partition_and_time_of_the_flags_go_before_those_of_a_line() {
        let line = line(&consumed(None, None));
        let mut flags = ProducerRecord::new("orders");
        flags.partition = Some(0);
        flags.timestamp_ms = Some(5);
        let read = read(line.as_bytes(), flags).expect("the line is valid");
        assert_eq!((read.partition, read.timestamp_ms), (Some(0), Some(5)));
    }

    #[test]
    fn wrong_lines_are_refused_with_the_reason() {
        for (line, expected) in [
            ("", "not a record in JSON"),
            ("[\"k\"]", "not a record in JSON"),
            ("{\"vlaue\":\"x\"}", "vlaue"),
            (
                "{\"value\":\"x\",\"value_base64\":\"eA==\"}",
                "both value and value_base64",
            ),
            ("{\"key_base64\":\"*\"}", "key_base64 is not base64"),
            ("{\"value\":5}", "not a record in JSON"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
