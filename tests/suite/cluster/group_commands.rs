//! `jangada group ...`: shows, moves and deletes groups.

use serde_json::json;

use super::group_processes::{GROUP, TOPIC, described, lag, settled};
use crate::harness::cli::Run;
use crate::harness::{Cluster, GroupProcess, WAIT, eventually};

/// The time of the first record, 2024-05-01T12:00:00Z; the others follow one second after the other.
const FIRST_MS: i64 = 1_714_564_800_000;

/// Records of one partition, one of each second from the first on.
fn records(partition: u32, count: i64) -> String {
    let record = |number: i64| {
        let value = json!({ "n": number }).to_string();
        json!({ "value": value, "timestamp_ms": FIRST_MS + number * 1000, "partition": partition })
    };
    (0..count).map(|number| format!("{}\n", record(number))).collect()
}

async fn seek(cluster: &Cluster, args: &[&str]) -> Run {
    let all = [&["group", "seek", GROUP, "--topic", TOPIC], args].concat();
    cluster.cli(&all).await
}

/// The committed offset of each partition; -1 where none is, which JSON shows as null.
async fn offsets(cluster: &Cluster) -> Vec<i64> {
    let rows = lag(cluster).await;
    rows.iter()
        .map(|row| match &row["offset"] {
            serde_json::Value::Null => -1,
            offset => offset.as_i64().expect("a number"),
        })
        .collect()
}

/// The offsets of a plan, by partition.
fn targets(run: &Run) -> Vec<i64> {
    let json = run.json();
    let rows = json.as_array().expect("a list").iter();
    rows.map(|row| row["target"].as_i64().expect("a number")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_shown_moved_and_deleted() {
    let cluster = Cluster::start(1).await;
    let create = ["topic", "create", TOPIC, "--partitions", "2", "--replicas", "1"];
    // The records are old.
    let create = [&create[..], &["-c", "retention.ms=-1"]].concat();
    cluster.cli(&create).await.expect(0);
    let input = records(0, 10) + &records(1, 4);
    let produce = ["produce", TOPIC, "--format", "jsonl"];
    cluster.cli_with(&produce, input.into_bytes()).await.expect(0);

    a_plan_changes_nothing(&cluster).await;
    each_target_is_found(&cluster).await;
    positions_that_make_no_sense_are_refused(&cluster).await;
    a_group_with_members_is_shown_and_left_alone(&cluster).await;
    what_was_trimmed_is_no_target(&cluster).await;
    a_group_is_deleted(&cluster).await;
}

async fn a_plan_changes_nothing(cluster: &Cluster) {
    let none = cluster.cli(&["group", "ls", "-o", "json"]).await.expect(0);
    assert_eq!(none.json(), json!([]));
    let plan = seek(cluster, &["--to", "earliest"]).await.expect(0);
    let plan = plan.names(&["nothing was changed", "--execute"]);
    let rows: Vec<Vec<String>> = words(&plan);
    let header = [
        "TOPIC",
        "PARTITION",
        "OFFSET",
        "TARGET",
        "LOG_START_OFFSET",
        "HIGH_WATERMARK",
    ];
    assert_eq!(rows[0], header);
    assert_eq!(rows[1], [TOPIC, "0", "-", "0", "0", "10"]);
    assert_eq!(rows[2], [TOPIC, "1", "-", "0", "0", "4"]);
    let describe = cluster.cli(&["group", "describe", GROUP]).await;
    describe.expect(1).names(&[GROUP, "UNKNOWN_GROUP", "group ls"]);

    seek(cluster, &["--to", "5", "--partition", "0", "--execute"])
        .await
        .expect(0);
    assert_eq!(offsets(cluster).await, [5, -1]);
    let table = cluster.cli(&["group", "lag", GROUP]).await.expect(0);
    let rows = words(&table);
    assert_eq!(rows[1], [TOPIC, "0", "5", "0", "10", "5", "-", "-"]);
    assert_eq!(rows[2], [TOPIC, "1", "-", "0", "4", "-", "-", "-"]);
    let text = table.text();
    assert!(
        text.ends_with("total lag 5 over 1 partitions; 1 without a committed offset\n"),
        "{text}"
    );

    let plan = seek(cluster, &["--to", "latest", "-o", "json"]).await.expect(0);
    assert_eq!(targets(&plan), [10, 4]);
    assert_eq!(plan.json()[0]["offset"], 5);
    assert_eq!(offsets(cluster).await, [5, -1], "a plan was carried out");
}

async fn each_target_is_found(cluster: &Cluster) {
    for (to, expected) in [
        ("+3", 8),
        ("-2", 6),
        ("+100", 10),
        ("-100", 0),
        ("7", 7),
        ("12", 10),
        ("2024-05-01T12:00:05Z", 5),
        ("2024-05-01T12:00:05.001Z", 6),
        ("1999-12-31T00:00:00Z", 0),
        ("2100-01-01T00:00:00Z", 10),
        ("earliest", 0),
        ("latest", 10),
    ] {
        let run = seek(cluster, &["--partition", "0", "--to", to, "--execute", "-o", "json"]).await;
        assert_eq!(targets(&run.expect(0)), [expected], "--to {to}");
        assert_eq!(offsets(cluster).await, [expected, -1], "--to {to}");
    }
    // All partitions: each has its own offset at a time, and one that has nothing so late its end.
    let run = seek(cluster, &["--to", "2024-05-01T12:00:05Z", "--execute", "-o", "json"]).await;
    assert_eq!(targets(&run.expect(0)), [5, 4]);
    assert_eq!(offsets(cluster).await, [5, 4]);
    seek(cluster, &["--to", "-1", "--execute"]).await.expect(0);
    assert_eq!(offsets(cluster).await, [4, 3]);
    // A member starts at the new offsets.
    let consume = ["consume", TOPIC, "--group", GROUP, "--exit-at-end", "-f", r"%p %o\n"];
    let text = cluster.cli(&consume).await.expect(0).text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0 4", "0 5", "0 6", "0 7", "0 8", "0 9", "1 3"]);
    assert_eq!(offsets(cluster).await, [10, 4]);
}

async fn positions_that_make_no_sense_are_refused(cluster: &Cluster) {
    let run = seek(cluster, &["--to", "earliest", "--partition", "2", "--execute"]).await;
    run.expect(1).names(&[TOPIC, "no partition 2"]);
    let elsewhere = [
        "group",
        "seek",
        GROUP,
        "--topic",
        "nowhere",
        "--to",
        "earliest",
        "--execute",
    ];
    cluster.cli(&elsewhere).await.expect(1).names(&["nowhere", "topic ls"]);
    for wrong in ["yesterday", "+", "--5", ""] {
        seek(cluster, &["--to", wrong, "--execute"]).await.expect(2);
    }
    let other = ["group", "seek", "other", "--topic", TOPIC, "--to", "+1", "--execute"];
    let run = cluster.cli(&other).await.expect(1);
    run.names(&["no committed offset", "nothing was changed"]);
    cluster
        .cli(&["group", "lag", "other"])
        .await
        .expect(1)
        .names(&["UNKNOWN_GROUP"]);
    assert_eq!(offsets(cluster).await, [10, 4]);
}

async fn a_group_with_members_is_shown_and_left_alone(cluster: &Cluster) {
    let mut member = GroupProcess::start(cluster, "anna", TOPIC, GROUP, WAIT);
    let group = settled(cluster, 1, 2).await;
    let id = group["members"][0]["member_id"].as_str().expect("an id");
    let table = cluster.cli(&["group", "describe", GROUP]).await.expect(0);
    let rows = words(&table);
    assert_eq!(rows[0][..2], ["GROUP", "STATE"]);
    assert_eq!(rows[1][..2], [GROUP, "Stable"]);
    let row = rows.iter().find(|row| row.first().is_some_and(|first| first == id));
    let row = row.unwrap_or_else(|| panic!("{id} is not there:\n{}", table.text()));
    assert_eq!(
        (row[2].as_str(), row[6].as_str()),
        ("jangada-cli", "orders[0,1]"),
        "{row:?}"
    );
    let rows = words(&cluster.cli(&["group", "ls"]).await.expect(0));
    assert_eq!(rows[1][..4], [GROUP, "Stable", "1", "1"]);
    let rows = lag(cluster).await;
    for row in &rows {
        assert_eq!((row["member_id"].as_str(), &row["lag"]), (Some(id), &json!(0)), "{row}");
    }

    for execute in [&["--to", "earliest", "--execute"][..], &["--to", "earliest"]] {
        let run = seek(cluster, execute).await.expect(1);
        run.names(&[GROUP, "GROUP_NOT_EMPTY", "nothing was changed"]);
    }
    let remove = ["group", "rm", GROUP, "--yes"];
    cluster.cli(&remove).await.expect(1).names(&[GROUP, "GROUP_NOT_EMPTY"]);
    assert_eq!(offsets(cluster).await, [10, 4]);
    member.end().await;
    assert_eq!(member.count(), 0, "it began elsewhere than where the group was");
    let group = described(cluster).await;
    assert_eq!((&group["state"], &group["members"]), (&json!("Empty"), &json!([])));
}

async fn what_was_trimmed_is_no_target(cluster: &Cluster) {
    seek(cluster, &["--to", "1", "--execute"]).await.expect(0);
    assert_eq!(offsets(cluster).await, [1, 1]);
    let trim = ["topic", "trim", TOPIC, "--partition", "0", "--before", "3"];
    cluster.cli(&trim).await.expect(0);
    let row = lag(cluster).await.swap_remove(0);
    let fields = (&row["offset"], &row["log_start_offset"], &row["lag"]);
    assert_eq!(fields, (&json!(1), &json!(3), &json!(7)), "records that are gone count");
    for to in ["earliest", "0", "-5", "+1"] {
        let plan = seek(cluster, &["--partition", "0", "--to", to, "-o", "json"]).await;
        assert_eq!(targets(&plan.expect(0)), [3], "--to {to}");
    }
}

async fn a_group_is_deleted(cluster: &Cluster) {
    cluster.cli(&["group", "rm", GROUP]).await.expect(2).names(&["--yes"]);
    assert_eq!(offsets(cluster).await, [1, 1]);
    cluster.cli(&["group", "rm", GROUP, "--yes"]).await.expect(0);
    let gone = eventually("the group is gone", WAIT, || async {
        let listed = cluster.cli(&["group", "ls", "-o", "json"]).await;
        (listed.json() == json!([])).then_some(listed)
    })
    .await;
    gone.expect(0);
    for command in ["describe", "lag"] {
        let run = cluster.cli(&["group", command, GROUP]).await.expect(1);
        run.names(&[GROUP, "UNKNOWN_GROUP"]);
    }
    let again = cluster.cli(&["group", "rm", GROUP, "--yes"]).await.expect(1);
    again.names(&[GROUP, "UNKNOWN_GROUP"]);
}

/// The lines of a table, as words.
fn words(run: &Run) -> Vec<Vec<String>> {
    let text = run.text();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(words).collect()
}
