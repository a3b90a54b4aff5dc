//! Record batches that other implementations encoded, in every codec: they are produced raw and read as the records
//! they were made of, and as the same bytes. `tests/golden/batches` says how they were made.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use jangada_client::NewTopic;
use jangada_proto::v1::{Record, RecordForm, RecordHeader};
use serde_json::Value;

use crate::harness::{Cluster, raw};

const TOPIC: &str = "foreign";

const IMPLEMENTATIONS: [&str; 3] = ["kafka-python", "aiokafka", "librdkafka"];
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Position of a batch's codec: the low bits of its attributes.
const ATTRIBUTES_AT: usize = 22;
/// Position of the base offset, which the broker sets like the leader epoch behind the length.
const BASE_OFFSET: std::ops::Range<usize> = 0..8;
const LEADER_EPOCH: std::ops::Range<usize> = 12..16;
/// Position of the first record.
const RECORDS_AT: usize = 61;
/// The beginning of snappy in xerial blocks.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/batches")
}

/// Null, text, `{"base64": ...}` or `{"repeat": [text, times]}`.
fn data(value: &Value) -> Option<Vec<u8>> {
    if let Some(text) = value.as_str() {
        return Some(text.into());
    }
    if let Some(text) = value["base64"].as_str() {
        return Some(from_base64(text));
    }
    let text = value["repeat"][0].as_str()?;
    let times = value["repeat"][1].as_u64().expect("how often");
    Some(text.repeat(usize::try_from(times).expect("few")).into())
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter(|byte| *byte != b'=');
    let values: Vec<usize> = digits
        .map(|byte| DIGITS.iter().position(|digit| *digit == byte).expect("base64"))
        .collect();
    let mut bytes = Vec::new();
    for part in values.chunks(4) {
        let bits = part.iter().fold(0, |bits, value| (bits << 6) | value) << (6 * (4 - part.len()));
        bytes.extend(bits.to_be_bytes()[5..].iter().take(part.len() - 1));
    }
    bytes
}

/// The records of a batch of this codec, from this offset on.
fn records(codec: &str, offset: i64) -> Vec<Record> {
    let text = std::fs::read_to_string(folder().join("records.json")).expect("it is part of the tree");
    let records: Vec<Value> = serde_json::from_str(&text).expect("it is JSON");
    let of_codec = records
        .iter()
        .filter(|record| codec != "none" || record["value"].get("repeat").is_none());
    (offset..)
        .zip(of_codec)
        .map(|(offset, record)| Record {
            key: data(&record["key"]).map(Into::into),
            value: data(&record["value"]).map(Into::into),
            headers: headers(&record["headers"]),
            timestamp_ms: record["timestamp_ms"].as_i64(),
            offset,
        })
        .collect()
}

fn headers(list: &Value) -> Vec<RecordHeader> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|header| RecordHeader {
            key: header[0].as_str().expect("text").to_owned(),
            value: data(&header[1]).map(Into::into),
        })
        .collect()
}

/// The batch without the fields that the broker sets.
fn bare(batch: &[u8]) -> Vec<u8> {
    let mut bare = batch.to_vec();
    bare[BASE_OFFSET].fill(0);
    bare[LEADER_EPOCH].fill(0);
    bare
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_other_implementations_come_out_as_they_were_made() {
    let cluster = Cluster::start(3).await;
    // The records are old. Each batch is unpacked by the leader before it is taken.
    let config = [("retention.ms", "-1"), ("validation.full", "true")];
    cluster
        .create(NewTopic {
            config: config.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..NewTopic::new(TOPIC, 1, 3)
        })
        .await;
    let partition = raw::partition(TOPIC, 0);
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let mut framings = BTreeSet::new();
    let mut all = Vec::new();
    for implementation in IMPLEMENTATIONS {
        for (id, codec) in (0..).zip(CODECS) {
            let name = format!("{implementation}-{codec}.bin");
            println!("{name}");
            let batch = Bytes::from(std::fs::read(folder().join(&name)).expect("it is part of the tree"));
            assert_eq!(batch[ATTRIBUTES_AT] & 7, id, "{name} is of another codec");
            if codec == "snappy" {
                framings.insert(batch[RECORDS_AT..].starts_with(XERIAL_MAGIC));
            }
            let written = raw::produce(&mut log, partition.clone(), batch.clone()).await;
            let written = written.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let expected = records(codec, written.base_offset);
            assert_eq!(written.last_offset, written.base_offset + expected.len() as i64 - 1);
            let plain = raw::fetch(&mut log, partition.clone(), written.base_offset, RecordForm::Plain).await;
            assert!(
                plain.expect("its leader serves").records == expected,
                "{name}: other records"
            );
            let raw = raw::fetch(&mut log, partition.clone(), written.base_offset, RecordForm::Raw).await;
            let raw = raw.expect("its leader serves").batches;
            assert_eq!(raw[BASE_OFFSET], written.base_offset.to_be_bytes());
            assert!(bare(&raw) == bare(&batch), "{name}: other bytes");
            all.extend(expected);
        }
    }
    assert_eq!(framings.len(), 2, "snappy comes raw and in xerial blocks");
    // Our client decodes them by itself.
    let consume = ["consume", TOPIC, "--exit-at-end", "-o", "jsonl"];
    let consumed = cluster.cli(&consume).await.expect(0).text();
    let lengths: Vec<usize> = consumed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"))
        .map(|record| {
            let text = record["value"].as_str().map(str::len);
            let bytes = record["value_base64"].as_str().map(|text| from_base64(text).len());
            text.or(bytes).unwrap_or_default()
        })
        .collect();
    let expected: Vec<usize> = all
        .iter()
        .map(|record| record.value.as_ref().map_or(0, |v| v.len()))
        .collect();
    assert_eq!(lengths, expected);
}
