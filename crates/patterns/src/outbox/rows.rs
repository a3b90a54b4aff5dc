//! The rows of an outbox, and how a relay reads them.

use bytes::Bytes;
use jangada_client::{Header, ProducerRecord};
use serde::{Deserialize, Serialize};

use crate::error::PatternError;

/// A row of an outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place in the order, above 0. A later row has a higher one; some may be missing.
    pub id: i64,
    /// The record to send.
    pub record: ProducerRecord,
}

impl OutboxRow {
    /// Bytes of its record, about: topic, key, value and headers.
    pub fn bytes(&self) -> usize {
        let record = &self.record;
        let headers = record.headers.iter();
        let headers = headers.map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len));
        let parts = [&record.key, &record.value].map(|part| part.as_ref().map_or(0, Bytes::len));
        record.topic.len() + parts[0] + parts[1] + headers.sum::<usize>()
    }
}

/// How many rows are read at once: as many as keep within both, and always the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsMax {
    /// Rows at most.
    pub rows: usize,
    /// Bytes of their records at most, as [`OutboxRow::bytes`] counts them.
    pub bytes: usize,
}

impl RowsMax {
    /// Whether a row may come behind those that have so many bytes; it counts the row then.
    pub fn takes(&self, (rows, bytes): (usize, &mut usize), row: &OutboxRow) -> bool {
        *bytes = bytes.saturating_add(row.bytes());
        rows == 0 || rows < self.rows && *bytes <= self.bytes
    }
}

/// Where a [`Relay`](super::Relay) gets rows: an outbox in a database, or anything else that can be read again from a position, such as the
/// lines of a file.
pub trait OutboxRows: Send + Sync {
    /// Rows with ids above `after`, by id, as many as `most` allows. What was handed out for a position comes again, the same, whenever it
    /// is asked for.
    fn rows_after(
        &self,
        after: i64,
        most: RowsMax,
    ) -> impl Future<Output = Result<Vec<OutboxRow>, PatternError>> + Send;

    /// All rows up to this id are sent, and are not asked for again.
    fn sent(&self, up_to: i64) -> impl Future<Output = Result<(), PatternError>> + Send;
}

/// A header as it is kept in a row: text where it is some, so that people can read it.
#[derive(Serialize, Deserialize)]
struct KeptHeader {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<Vec<u8>>,
}

/// Headers as a row keeps them: JSON.
pub(super) fn headers_to_json(headers: &[Header]) -> String {
    let kept = headers.iter().map(|header| {
        let value = header.value.as_ref().map(|value| String::from_utf8(value.to_vec()));
        KeptHeader {
            name: header.key.clone(),
            text: value.clone().and_then(Result::ok),
            bytes: value.and_then(Result::err).map(std::string::FromUtf8Error::into_bytes),
        }
    });
    serde_json::to_string(&kept.collect::<Vec<_>>()).expect("strings and bytes can be written")
}

/// The record of a row's columns.
pub(super) fn record_of(
    id: i64,
    topic: &str,
    (key, value): (Option<Vec<u8>>, Option<Vec<u8>>),
    headers: &str,
) -> Result<OutboxRow, PatternError> {
    let kept: Vec<KeptHeader> = serde_json::from_str(headers).map_err(|error| PatternError::Unreadable {
        what: format!("the headers of row {id} of the outbox"),
        why: error.to_string(),
    })?;
    let headers = kept.into_iter().map(|kept| Header {
        key: kept.name,
        value: kept.text.map(Bytes::from).or(kept.bytes.map(Bytes::from)),
    });
    let mut record = ProducerRecord::new(topic);
    record.key = key.map(Bytes::from);
    record.value = value.map(Bytes::from);
    record.headers = headers.collect();
    Ok(OutboxRow { id, record })
}

/// What cannot be kept in a row is refused.
pub(super) fn check(record: &ProducerRecord) -> Result<(), PatternError> {
    if record.partition.is_some() {
        let text =
            "a record in an outbox has a key, not a partition: its topic may have more partitions when it is sent";
        return Err(PatternError::Config(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let header = |key: &str, value: Option<&'static [u8]>| Header {
            key: key.to_owned(),
            value: value.map(Bytes::from_static),
        };
        let headers = [
            header("ce_id", Some(b"7")),
            header("ce_id", Some(b"")),
            header("none", None),
            header("bytes", Some(&[0xff, 0])),
        ];
        let json = headers_to_json(&headers);
        assert!(json.contains(r#"{"name":"ce_id","text":"7"}"#), "{json}");
        let row = record_of(3, "t", (None, Some(Vec::new())), &json).expect("readable");
        assert_eq!(row.record.headers, headers);
        assert_eq!((row.record.key, row.record.value), (None, Some(Bytes::new())));
    }
}
