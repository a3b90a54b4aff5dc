//! Every skip, wait, reset and retry is reported on stderr, at once.

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::harness::{Cluster, WAIT, cli, ports};

const TOPIC: &str = "orders";

fn lines(count: u32) -> Vec<u8> {
    (0..count).map(|n| format!("{n}\n")).collect::<String>().into_bytes()
}

/// Waits until the command has written a line with this to stderr.
async fn told(child: &mut Child, what: &str) -> String {
    let mut lines = BufReader::new(child.stderr.as_mut().expect("a pipe")).lines();
    let mut seen = String::new();
    let told = async {
        while let Some(line) = lines.next_line().await.expect("stderr is text") {
            seen += &format!("{line}\n");
            if line.contains(what) {
                return Some(line);
            }
        }
        None
    };
    let told = tokio::time::timeout(WAIT, told).await;
    told.ok()
        .flatten()
        .unwrap_or_else(|| panic!("not told {what:?}:\n{seen}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_below_the_log_start_tells_what_is_gone() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    cluster.cli_with(&["produce", TOPIC], lines(100)).await.expect(0);
    for group in ["goes-on", "ends"] {
        let first = cluster.cli(&["consume", TOPIC, "--group", group, "--max", "10"]).await;
        assert_eq!(first.expect(0).text().lines().count(), 10);
    }
    cluster.cli(&["topic", "trim", TOPIC, "--before", "57"]).await.expect(0);

    let goes_on = ["consume", TOPIC, "--group", "goes-on", "--exit-at-end"];
    let goes_on = cluster.cli(&goes_on).await.expect(0).names(&[
        "goes-on",
        "offset 10 of orders[0] is below its log start, 57",
        "47 records are gone",
        "goes on at 57 (reset policy earliest)",
    ]);
    assert_eq!(goes_on.text().lines().count(), 43);
    let ends = ["consume", TOPIC, "--group", "ends", "--exit-at-end", "--reset", "error"];
    cluster
        .cli(&ends)
        .await
        .expect(1)
        .names(&["offset 10 of orders[0] is out of range"]);
    let plain = ["consume", TOPIC, "--from", "3", "--reset", "earliest", "--exit-at-end"];
    cluster.cli(&plain).await.expect(0).names(&["54 records are gone"]);
    let latest = ["consume", TOPIC, "--group", "late", "--from", "latest", "--exit-at-end"];
    cluster.cli(&latest).await.expect(0).names(&[
        "late",
        "begins at its end, 100",
        "the 43 records before are not read",
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_to_the_end_ends_what_stops_at_the_end() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    cluster.cli_with(&["produce", TOPIC], lines(100)).await.expect(0);
    for group in ["earliest", "latest"] {
        let first = ["consume", TOPIC, "--group", group, "--max", "10"];
        cluster.cli(&first).await.expect(0);
    }
    cluster
        .cli(&["topic", "trim", TOPIC, "--before", "100"])
        .await
        .expect(0);
    // Everything is gone; then there is a record that a reset to the latest passes over.
    for policy in ["earliest", "latest"] {
        for reader in [&["--from", "0"][..], &["--group", policy]] {
            let args = [&["consume", TOPIC, "--exit-at-end", "--reset", policy], reader].concat();
            let run = tokio::time::timeout(WAIT, cluster.cli(&args)).await;
            let run = run.unwrap_or_else(|_| panic!("{args:?} does not end"));
            assert_eq!(run.expect(0).names(&["records are gone"]).text(), "", "{args:?}");
        }
        cluster.cli_with(&["produce", TOPIC], lines(1)).await.expect(0);
    }
    // A group is done with what is gone.
    let lag = cluster.cli(&["group", "lag", "latest", "-o", "json"]).await;
    assert_eq!(lag.expect(0).json()[0]["offset"], 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_log_on_stderr_each_notice_is_there_once() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    cluster.cli_with(&["produce", TOPIC], lines(100)).await.expect(0);
    cluster.cli(&["topic", "trim", TOPIC, "--before", "57"]).await.expect(0);
    for filter in ["warn", "debug"] {
        let consume = ["consume", TOPIC, "--from", "3", "--reset", "earliest", "--exit-at-end"];
        let run = cluster
            .cli(&[&["--log", filter], &consume[..]].concat())
            .await
            .expect(0);
        assert_eq!(
            run.stderr.matches("54 records are gone").count(),
            1,
            "{filter}: {}",
            run.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_a_cluster_says_so_at_once() {
    let nobody = format!("127.0.0.1:{}", ports::free());
    for args in [["topic", "ls"], ["consume", TOPIC], ["cluster", "health"]] {
        let mut child = cli::start(std::slice::from_ref(&nobody), &args);
        let line = told(&mut child, "trying on for").await;
        assert!(line.contains(&nobody), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_and_a_group_tell_what_they_wait_for_and_when_it_goes_on() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    cluster.cli_with(&["produce", TOPIC], lines(1)).await.expect(0);
    let group = ["consume", TOPIC, "--group", "g", "--max", "2"];
    let mut consumer = cli::start(&cluster.brokers(), &group);
    let mut printed = BufReader::new(consumer.stdout.take().expect("a pipe")).lines();
    assert_eq!(printed.next_line().await.expect("text").as_deref(), Some("0"));
    cluster.kill(2);
    cluster.kill(3);
    let mut producer = cli::start(&cluster.brokers(), &["produce", TOPIC]);
    let mut stdin = producer.stdin.take().expect("stdin is a pipe");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"late\n")
        .await
        .expect("it reads");
    drop(stdin);
    told(&mut producer, "trying on").await;
    told(&mut consumer, "trying on").await;
    cluster.restart(2);
    told(&mut producer, "goes on after").await;
    cli::end(producer, "produce").await.expect(0);
    assert_eq!(printed.next_line().await.expect("text").as_deref(), Some("late"));
}
