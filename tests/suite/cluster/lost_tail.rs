//! The end of the write-ahead log is gone: a broker refuses to start until an operator decides.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Cluster, WAIT, cli, eventually};

const TOPIC: &str = "orders";
const LINES: u32 = 3000;
/// More bytes than a memory table of the test nodes, so that a part of them is beyond the reach of the write-ahead log;
/// and not so many that one has just become full, or the newest file of the log would hold nearly nothing.
const LARGE: usize = 21 << 20;

/// Deletes the newest file of a dead node's write-ahead log.
fn cut_the_wal(cluster: &Cluster, id: u32) {
    let folder = cluster.node(id).data().join("store").join("rocksdb");
    let mut wals: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the store is there")
        .map(|file| file.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0))
        .collect();
    wals.sort();
    fs::remove_file(wals.last().expect("there is a log")).expect("the file is ours");
}

fn settings(cluster: &Cluster, id: u32) -> String {
    cluster.node(id).settings_file().display().to_string()
}

/// Asserts that the node refuses to start, and says what to do.
async fn is_refused(cluster: &mut Cluster, id: u32) {
    cluster.restart(id);
    let status = cluster.ended(id).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.node(id).log();
    for part in [
        "lost the end of its write-ahead log",
        "commits",
        &format!("replace-broker {id}"),
        "confirm-tail",
    ] {
        assert!(log.contains(part), "{part}: {}", cluster.node(id).log_tail());
    }
}

async fn confirm(cluster: &Cluster, id: u32) {
    let file = settings(cluster, id);
    let run = cli::run(&[], &["server", "confirm-tail", "--config", &file, "--yes"], Vec::new()).await;
    run.expect(0)
        .names(&[&format!("broker {id}"), "are missing", "accepted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_the_operator_gave_up_is_filled_again_from_the_others() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines: String = (0..LINES).map(|number| format!("{number}\n")).collect();
    cluster
        .cli_with(&["produce", TOPIC], lines.clone().into_bytes())
        .await
        .expect(0);
    // Two of three acknowledge. What the third one lacked as well would be lost with the tail.
    cluster.healthy().await;

    // The store of a running broker is not opened.
    let file = settings(&cluster, 3);
    let command = ["server", "confirm-tail", "--config", &file];
    cluster.cli(&command).await.expect(1).names(&["must be stopped"]);

    cluster.kill(3);
    cluster.cli(&command).await.expect(0).names(&["nothing is missing"]);
    cut_the_wal(&cluster, 3);
    is_refused(&mut cluster, 3).await;
    // Looking changes nothing.
    cluster
        .cli(&command)
        .await
        .expect(2)
        .names(&["are missing", "--yes", "replace-broker 3"]);
    is_refused(&mut cluster, 3).await;
    confirm(&cluster, 3).await;
    cluster.cli(&command).await.expect(0).names(&["nothing is missing"]);

    cluster.restart(3);
    cluster.healthy().await;
    // It has everything again: with one other it is the majority.
    cluster
        .cli(&["partition", "transfer-leader", TOPIC, "0", "--to", "3"])
        .await
        .expect(0);
    cluster.kill(1);
    let consumed = eventually("the two others serve", WAIT, || async {
        let run = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await;
        (run.code == Some(0)).then_some(run)
    })
    .await;
    assert!(
        consumed.text() == lines,
        "{} of {LINES} lines",
        consumed.text().lines().count()
    );
    cluster
        .cli_with(&["produce", TOPIC], b"more\n".to_vec())
        .await
        .expect(0);
    cluster.restart(1);
    cluster.healthy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_have_lost_their_tails_the_rest_is_served_again() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines: String = (0..LARGE / 1024).map(|number| format!("{number:01023}\n")).collect();
    cluster
        .cli_with(&["produce", TOPIC], lines.clone().into_bytes())
        .await
        .expect(0);
    cluster.kill_all();
    for id in cluster.ids() {
        cut_the_wal(&cluster, id);
        is_refused(&mut cluster, id).await;
    }
    for id in cluster.ids() {
        confirm(&cluster, id).await;
    }
    cluster.start_all();
    cluster.healthy().await;

    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    let rest = consumed.text();
    assert!(
        lines.starts_with(&rest),
        "what is left is a beginning of what was there"
    );
    assert!(
        !rest.is_empty() && rest.len() < lines.len(),
        "{} of {} bytes",
        rest.len(),
        lines.len()
    );
    cluster
        .cli_with(&["produce", TOPIC], b"more\n".to_vec())
        .await
        .expect(0);
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert!(consumed.text() == rest + "more\n", "it goes on where it ended");
}
