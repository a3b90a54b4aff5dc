//! Values that are not known are null in JSON: no number stands for them.

use serde_json::Value;

use crate::harness::{Cluster, WAIT, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_without_a_time_has_none_and_keeps_none() {
    let cluster = Cluster::start(1).await;
    for topic in ["from", "to"] {
        cluster.create_topic(topic, 1, 1).await;
    }
    let lines = "{\"value\":\"none\",\"timestamp_ms\":null}\n{\"value\":\"now\"}\n";
    let produce = |topic, input: String| {
        let args = ["produce", topic, "--format", "jsonl"];
        let (cluster, input) = (&cluster, input.into_bytes());
        async move { cluster.cli_with(&args, input).await.expect(0) }
    };
    produce("from", lines.to_owned()).await;
    let printed = cluster
        .cli(&["consume", "from", "-e", "-o", "jsonl"])
        .await
        .expect(0)
        .text();
    produce("to", printed.clone()).await;
    for topic in ["from", "to"] {
        let read = cluster
            .cli(&["consume", topic, "-e", "-o", "jsonl"])
            .await
            .expect(0)
            .text();
        let times: Vec<Value> = read
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["timestamp_ms"].clone())
            .collect();
        assert!(times[0].is_null() && times[1].as_i64() > Some(0), "{topic}: {times:?}");
        assert_eq!(read.replace("\"to\"", "\"from\""), printed, "{topic}");
        let format = ["-p", "0", "--max", "1", "-f", r"%T %D\n"];
        let shown = cluster.cli(&[&["consume", topic][..], &format].concat()).await;
        assert_eq!(shown.expect(0).text(), " \n");
        let null = [&["consume", topic][..], &format, &["--null", "-"]].concat();
        assert_eq!(cluster.cli(&null).await.expect(0).text(), "- -\n");
    }
}

/// Adds each number below zero, with its path.
fn negatives(path: &str, json: &Value, found: &mut Vec<String>) {
    match json {
        Value::Number(number) if number.as_f64().is_some_and(|number| number < 0.0) => {
            found.push(format!("{path} = {number}"));
        }
        Value::Array(all) => {
            for (index, value) in all.iter().enumerate() {
                negatives(&format!("{path}[{index}]"), value, found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                negatives(&format!("{path}.{name}"), value, found);
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_shows_a_number_for_what_is_not_known() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic("whole", 3, 3).await;
    cluster.create_topic("alone", 3, 1).await;
    let one = b"a record\n".to_vec();
    cluster
        .cli_with(&["produce", "whole", "--partition", "1"], one)
        .await
        .expect(0);
    let seek = [
        "group",
        "seek",
        "g",
        "--topic",
        "whole",
        "--partition",
        "1",
        "--to",
        "latest",
    ];
    cluster.cli(&[&seek[..], &["--execute"]].concat()).await.expect(0);
    cluster.kill(3);
    eventually("a partition has no leader", WAIT, || async {
        let partitions = cluster.cli(&["partition", "ls", "alone", "-o", "json"]).await.json();
        let mut partitions = partitions.as_array()?.iter();
        let leaderless = partitions.find(|partition| partition["leader_id"].is_null())?.clone();
        for field in [
            "leader_id",
            "leader_epoch",
            "in_sync",
            "high_watermark",
            "log_start_offset",
            "size_bytes",
        ] {
            assert!(leaderless[field].is_null(), "{field}: {leaderless}");
        }
        Some(())
    })
    .await;
    eventually("a dead broker's disk is not known", WAIT, || async {
        let info = cluster.cli(&["cluster", "info", "-o", "json"]).await.json();
        let brokers = &info["brokers"];
        assert_eq!(brokers[0]["disk_low"], false, "{brokers}");
        (brokers[2]["alive"] == false).then(|| assert!(brokers[2]["disk_low"].is_null(), "{brokers}"))
    })
    .await;

    let lag = cluster.cli(&["group", "lag", "g", "-o", "json"]).await.expect(0).json();
    assert!(lag[0]["lag"].is_null() && lag[0]["offset"].is_null(), "{lag}");
    assert_eq!(lag[1]["lag"], 0, "{lag}");
    let bytes = ["--total-bytes", "100000"];
    for command in [
        &["topic", "ls", "-o", "json"][..],
        &["topic", "describe", "alone", "-o", "json"],
        &["partition", "ls", "-o", "json"],
        &["cluster", "info", "-o", "json"],
        &["cluster", "health", "-o", "json"],
        &["group", "ls", "-o", "json"],
        &["group", "describe", "g", "-o", "json"],
        &["group", "lag", "g", "-o", "json"],
        &[
            "group", "seek", "g", "--topic", "whole", "--to", "earliest", "-o", "json",
        ],
        &[&["bench", "produce", "--topic", "whole", "-o", "json"][..], &bytes].concat(),
        &["bench", "consume", "--topic", "whole", "-o", "json"],
    ] {
        let run = cluster.cli(command).await;
        let mut found = Vec::new();
        negatives("", &run.json(), &mut found);
        assert!(found.is_empty(), "{command:?}: {found:?}");
    }
}
