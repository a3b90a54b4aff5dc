//! Whole files go in and come out through the command line.

use std::collections::BTreeMap;

use jangada_proto::v1::GetMetadataRequest;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use serde_json::{Value, json};

use crate::harness::{Cluster, MURMUR2, awkward_lines, lines_of, partition_of, raw};

/// Keys that no line of text can have, as base64, with their hashes by kafka-python's partitioner.
const MURMUR2_OF_BYTES: [(&str, i32); 3] = [("/wA=", 1_945_074_367), ("wyg=", -1_070_552_300), ("//4K", -77_548_059)];

const PARTITIONS: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_come_out_as_they_went_in() {
    let cluster = Cluster::start(3).await;
    a_new_topic_takes_writes_through_any_broker(&cluster).await;
    whole_files_byte_for_byte(&cluster).await;
    each_codec(&cluster).await;
    keys_on_their_partitions(&cluster).await;
    a_line_without_the_separator_is_named(&cluster).await;
    json_lines(&cluster).await;
    keys_of_json_lines_on_their_partitions(&cluster).await;
    parts_of_a_partition(&cluster).await;
    exit_codes(&cluster).await;
}

/// Produces without a retry: the first request to each partition's leader, as any broker names it right after the
/// creation, succeeds.
async fn a_new_topic_takes_writes_through_any_broker(cluster: &Cluster) {
    for (round, asked) in cluster.brokers().into_iter().enumerate() {
        let topic = format!("new-{round}");
        cluster.create_topic(&topic, 6, 3).await;
        let mut metadata = MetadataServiceClient::connect(format!("http://{asked}"))
            .await
            .expect("it is alive");
        let request = GetMetadataRequest {
            topics: vec![topic.clone()],
            ..GetMetadataRequest::default()
        };
        let known = metadata
            .get_metadata(request)
            .await
            .expect("any broker answers")
            .into_inner();
        for partition in &known.topics[0].partitions {
            let leader = cluster.node(partition.leader_id).addresses.public.clone();
            let mut log = raw::log(&leader).await;
            let batch = raw::batch(None, &[b"first"]);
            let written = raw::produce(&mut log, raw::partition(&topic, partition.partition), batch).await;
            assert_eq!(written.expect("it takes writes the first time").base_offset, 0);
        }
    }
}

async fn whole_files_byte_for_byte(cluster: &Cluster) {
    cluster
        .cli(&["topic", "create", "whole", "--partitions", "1", "--replicas", "3"])
        .await
        .expect(0);
    let file = awkward_lines(2_500);
    let path = cluster.folder().join("input");
    std::fs::write(&path, &file).expect("the temporary folder is writable");
    let path = path.to_str().expect("the path is text");
    cluster
        .cli(&["produce", "whole", "--file", path])
        .await
        .expect(0)
        .names(&["2500 records"]);
    let consumed = cluster.cli(&["consume", "whole", "--exit-at-end"]).await.expect(0);
    assert!(
        consumed.stdout == file,
        "{} of {} bytes came out",
        consumed.stdout.len(),
        file.len()
    );
    // From stdin, and with a last line that has no newline: it is a record.
    cluster
        .cli_with(&["produce", "whole"], b"\n\nlast".to_vec())
        .await
        .expect(0)
        .names(&["3 records"]);
    let tail = cluster
        .cli(&["consume", "whole", "--from", "2500", "--exit-at-end"])
        .await
        .expect(0);
    assert_eq!(tail.text(), "\n\nlast\n");
    // Nothing in, nothing out.
    cluster
        .cli_with(&["produce", "whole"], Vec::new())
        .await
        .expect(0)
        .names(&["0 records"]);
}

async fn each_codec(cluster: &Cluster) {
    let file = awkward_lines(400);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("codec-{codec}");
        cluster.create_topic(&topic, 1, 3).await;
        cluster
            .cli_with(&["produce", &topic, "--compression", codec], file.clone())
            .await
            .expect(0);
        let consumed = cluster.cli(&["consume", &topic, "--exit-at-end"]).await.expect(0);
        assert!(consumed.stdout == file, "{codec}: it came out otherwise");
    }
}

async fn keys_on_their_partitions(cluster: &Cluster) {
    cluster.create_topic("keyed", PARTITIONS, 3).await;
    let mut input = String::new();
    for number in 0..200 {
        for (key, _) in MURMUR2 {
            input.push_str(&format!("{key}=>{number}=>\r\n"));
        }
    }
    let produce = ["produce", "keyed", "--key-separator", "=>"];
    cluster.cli_with(&produce, input.into_bytes()).await.expect(0);
    let consumed = cluster
        .cli(&["consume", "keyed", "--exit-at-end", "-f", "%p|%k|%v\\n"])
        .await
        .expect(0);
    let mut by_key: BTreeMap<String, Vec<(u32, String)>> = BTreeMap::new();
    for line in lines_of(&consumed.stdout) {
        let line = std::str::from_utf8(line).expect("what went in is text");
        let mut parts = line.splitn(3, '|');
        let mut part = || parts.next().expect("the format has three parts").to_owned();
        let partition = part().parse().expect("a number");
        by_key.entry(part()).or_default().push((partition, part()));
    }
    assert_eq!(by_key.len(), MURMUR2.len());
    for (key, hash) in MURMUR2 {
        let expected: Vec<(u32, String)> = (0..200)
            .map(|number| (partition_of(hash, PARTITIONS), format!("{number}=>\r")))
            .collect();
        assert_eq!(by_key[key], expected, "the records of key {key:?}");
    }
}

async fn a_line_without_the_separator_is_named(cluster: &Cluster) {
    cluster.create_topic("separated", 1, 3).await;
    let produce = ["produce", "separated", "--key-separator", ":"];
    let run = cluster.cli_with(&produce, b"a:1\nb:2\nc\nd:4\n".to_vec()).await;
    run.expect(1).names(&["line 3", "\":\"", "2 records were acknowledged"]);
    let consumed = cluster
        .cli(&["consume", "separated", "--exit-at-end", "-f", "%k=%v;"])
        .await
        .expect(0);
    assert_eq!(consumed.text(), "a=1;b=2;");
}

/// A topic whose retention keeps records of 1970.
async fn create_for_old_records(cluster: &Cluster, name: &str) {
    let create = [
        "topic",
        "create",
        name,
        "--partitions",
        "1",
        "--replicas",
        "3",
        "-c",
        "retention.ms=-1",
    ];
    cluster.cli(&create).await.expect(0);
}

async fn json_lines(cluster: &Cluster) {
    create_for_old_records(cluster, "json").await;
    let headers = json!([{"key": "h", "value": "1"}, {"key": "h", "value_base64": "/w=="}]);
    let records = [
        json!({"key": "k", "value": "v\n", "timestamp_ms": 1000, "headers": headers}),
        json!({"key_base64": "/wA=", "value": null, "timestamp_ms": 1001}),
        json!({"key": null, "value_base64": "wyg=", "timestamp_ms": 1002}),
        json!({"key": "", "value": "", "timestamp_ms": 1003}),
    ];
    let input: String = records.iter().map(|record| format!("{record}\n")).collect();
    let produce = ["produce", "json", "--format", "jsonl"];
    cluster.cli_with(&produce, input.clone().into_bytes()).await.expect(0);
    let consumed = cluster
        .cli(&["consume", "json", "--exit-at-end", "-o", "jsonl"])
        .await
        .expect(0);
    for (offset, (line, sent)) in lines_of(&consumed.stdout).into_iter().zip(&records).enumerate() {
        let read: Value = serde_json::from_slice(line).expect("each line is JSON");
        assert_eq!(
            (&read["topic"], &read["partition"], &read["offset"]),
            (&json!("json"), &json!(0), &json!(offset))
        );
        for key in ["key", "key_base64", "value", "value_base64", "timestamp_ms"] {
            assert_eq!(
                read.get(key).unwrap_or(&Value::Null),
                sent.get(key).unwrap_or(&Value::Null),
                "{key} of {read}"
            );
        }
        assert_eq!(&read["headers"], sent.get("headers").unwrap_or(&json!([])));
    }
    // The output of consume is valid input of produce.
    cluster.cli_with(&produce, consumed.stdout.clone()).await.expect(0);
    let run = cluster
        .cli_with(&produce, b"{\"value\":\"a\"}\n{\"walue\":\"a\"}\n".to_vec())
        .await;
    run.expect(1).names(&["line 2", "walue"]);
}

async fn keys_of_json_lines_on_their_partitions(cluster: &Cluster) {
    cluster.create_topic("keyed-json", PARTITIONS, 3).await;
    let text = MURMUR2.map(|(key, hash)| ("key", key, hash));
    let bytes = MURMUR2_OF_BYTES.map(|(key, hash)| ("key_base64", key, hash));
    let keys: Vec<(&str, &str, i32)> = text.into_iter().chain(bytes).collect();
    let mut input = String::new();
    for number in 0..50 {
        for (field, key, _) in &keys {
            input.push_str(&format!("{}\n", json!({*field: key, "value": number.to_string()})));
        }
    }
    let produce = ["produce", "keyed-json", "--format", "jsonl"];
    cluster.cli_with(&produce, input.into_bytes()).await.expect(0);
    let consume = ["consume", "keyed-json", "--exit-at-end", "-o", "jsonl"];
    let consumed = cluster.cli(&consume).await.expect(0).text();
    let records: Vec<Value> = consumed
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert_eq!(records.len(), 50 * keys.len());
    for (field, key, hash) in keys {
        let found: Vec<(Option<u64>, Option<&str>)> = records
            .iter()
            .filter(|record| record[field] == key)
            .map(|record| (record["partition"].as_u64(), record["value"].as_str()))
            .collect();
        let numbers: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let expected: Vec<(Option<u64>, Option<&str>)> = numbers
            .iter()
            .map(|number| (Some(partition_of(hash, PARTITIONS).into()), Some(number.as_str())))
            .collect();
        assert_eq!(found, expected, "the records of {field} {key:?}");
    }
}

async fn parts_of_a_partition(cluster: &Cluster) {
    create_for_old_records(cluster, "parts").await;
    let lines: String = (0..10)
        .map(|n| format!("{{\"value\":\"{n}\",\"timestamp_ms\":{}}}\n", n * 1000))
        .collect();
    cluster
        .cli_with(&["produce", "parts", "--format", "jsonl"], lines.into_bytes())
        .await
        .expect(0);
    let cases: [(&[&str], &str); 5] = [
        (&["--from", "7"], "7 8 9 "),
        (&["--from", "earliest", "--max", "2"], "0 1 "),
        (&["--from", "1970-01-01T00:00:08Z"], "8 9 "),
        (&["--from", "1970-01-01T00:00:07.001Z"], "8 9 "),
        (&["--from", "latest"], ""),
    ];
    for (args, expected) in cases {
        let args = [&["consume", "parts", "--exit-at-end", "-f", "%v "], args].concat();
        assert_eq!(cluster.cli(&args).await.expect(0).text(), expected, "{args:?}");
    }
}

async fn exit_codes(cluster: &Cluster) {
    cluster.cli(&["cluster", "health"]).await.expect(0);
    cluster
        .cli_with(&["produce", "nowhere"], b"a\n".to_vec())
        .await
        .expect(1)
        .names(&["nowhere", "topic create"]);
    cluster
        .cli(&["consume", "nowhere", "--exit-at-end"])
        .await
        .expect(1)
        .names(&["nowhere"]);
    cluster
        .cli(&["consume", "parts", "--no-such-flag"])
        .await
        .expect(2)
        .names(&["--no-such-flag"]);
    cluster
        .cli(&["consume", "parts", "--from", "yesterday"])
        .await
        .expect(2)
        .names(&["yesterday"]);
    let nobody = ["--brokers", "127.0.0.1:1", "cluster", "health"];
    cluster.cli(&nobody).await.expect(3).names(&["127.0.0.1:1"]);
    let listed = cluster.cli(&["topic", "ls", "-o", "json"]).await.expect(0).json();
    let names: Vec<&str> = listed
        .as_array()
        .expect("a listing is an array")
        .iter()
        .filter_map(|t| t["name"].as_str())
        .collect();
    assert!(names.contains(&"parts"), "{names:?}");
}
