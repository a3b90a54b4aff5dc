//! Old records are deleted, by trimming and by size. A replica that was away meanwhile comes back, leads and serves.

use jangada_client::{BrokerId, ClientError, ConsumerConfig, NewTopic, StartAt};

use crate::harness::{Cluster, WAIT, eventually};

const TOPIC: &str = "orders";

/// Numbered lines of about a hundred bytes.
fn lines(from: usize, to: usize) -> String {
    (from..to).map(|number| format!("{number:0>100}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_while_its_log_was_purged_comes_back_and_leads() {
    let mut cluster = Cluster::start(3).await;
    let config = [("segment.bytes".to_owned(), "65536".to_owned())].into();
    cluster
        .create(NewTopic {
            config,
            ..NewTopic::new(TOPIC, 1, 3)
        })
        .await;
    let produce = ["produce", TOPIC];
    cluster.cli_with(&produce, lines(0, 1000).into_bytes()).await.expect(0);
    let leader = cluster.leader(TOPIC, 0).await;
    let away = cluster
        .ids()
        .into_iter()
        .find(|id| *id != leader)
        .expect("there are three");
    cluster.kill(away);

    // Far more than a segment while it is away, in several batches; then nearly all of it goes.
    for part in 0..8 {
        cluster
            .cli_with(&produce, lines(1000 + part * 1000, 2000 + part * 1000).into_bytes())
            .await
            .expect(0);
    }
    let trim = cluster
        .cli(&["topic", "trim", TOPIC, "--before", "8500"])
        .await
        .expect(0);
    assert!(trim.text().contains("8500"), "{}", trim.text());
    assert_eq!(cluster.log_start(TOPIC, 0).await, 8500);
    below_the_log_start(&cluster).await;

    cluster.restart(away);
    cluster.healthy().await;
    let transfer = ["partition", "transfer-leader", TOPIC, "0", "--to", &away.to_string()];
    cluster.cli(&transfer).await.expect(0);
    assert_eq!(cluster.leader(TOPIC, 0).await, away);
    assert_eq!(cluster.log_start(TOPIC, 0).await, 8500);
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), lines(8500, 9000));
    cluster
        .cli_with(&produce, lines(9000, 9010).into_bytes())
        .await
        .expect(0);

    // It is trimmed on disk, too: what all replicas have after their death is the same.
    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), lines(8500, 9010));
    // Down to nothing, and on.
    cluster
        .cli(&["topic", "trim", TOPIC, "--before", "latest"])
        .await
        .expect(0);
    assert_eq!(
        cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0).text(),
        ""
    );
    cluster.cli_with(&produce, b"on\n".to_vec()).await.expect(0);
    let consumed = cluster
        .cli(&["consume", TOPIC, "--exit-at-end", "-f", "%o %v"])
        .await
        .expect(0);
    assert_eq!(consumed.text(), "9010 on");
}

/// Asserts that the error of a read below the log start names both bounds.
async fn below_the_log_start(cluster: &Cluster) {
    let client = cluster.client().await;
    let mut consumer = client
        .consumer(ConsumerConfig::default())
        .expect("the defaults are valid");
    consumer
        .assign(vec![(TOPIC, 0, StartAt::Offset(8499))])
        .await
        .expect("the partition exists");
    let next = tokio::time::timeout(WAIT, consumer.next()).await;
    let error = next.expect("it is told").expect_err("it was trimmed");
    let ClientError::OffsetOutOfRange {
        offset,
        log_start_offset,
        high_watermark,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((offset, log_start_offset, high_watermark), (8499, 8500, 9000));
    let run = cluster.cli(&["consume", TOPIC, "--from", "0", "--exit-at-end"]).await;
    run.expect(1).names(&[TOPIC, "8500", "9000"]);
    let run = cluster.cli(&["topic", "trim", TOPIC, "--before", "9001"]).await;
    run.expect(1).names(&[TOPIC, "9001", "9000"]);
    // Backwards is nothing to do.
    cluster.cli(&["topic", "trim", TOPIC, "--before", "10"]).await.expect(0);
    assert_eq!(cluster.log_start(TOPIC, 0).await, 8500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_records_go_by_size_and_by_age() {
    let cluster = Cluster::start(1).await;
    let config = [("segment.bytes", "65536"), ("retention.bytes", "200000")];
    let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    cluster
        .create(NewTopic {
            config,
            ..NewTopic::new(TOPIC, 1, 1)
        })
        .await;
    for part in 0..10 {
        let part = lines(part * 1000, part * 1000 + 1000);
        cluster.cli_with(&["produce", TOPIC], part.into_bytes()).await.expect(0);
    }
    let admin = cluster.admin().await;
    let state = eventually("retention.bytes drops records", WAIT, || async {
        let state = admin.describe_partitions(Some(TOPIC)).await.ok()?.into_iter().next()?;
        (state.size_bytes? <= 200_000 + 2 * 65_536).then_some(state)
    })
    .await;
    assert_eq!(state.high_watermark, Some(10_000));
    assert!(
        state.size_bytes >= Some(200_000),
        "more went than may: {} bytes are left",
        state.size_bytes.unwrap_or_default()
    );
    let from = usize::try_from(state.log_start_offset.expect("it has a leader")).expect("an offset");
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), lines(from, 10_000));

    let set = [("retention.ms".to_owned(), "1".to_owned())].into();
    admin
        .alter_topic(TOPIC, set, Vec::new())
        .await
        .expect("the value is valid");
    eventually("retention.ms drops records", WAIT, || async {
        let state = admin.describe_partitions(Some(TOPIC)).await.ok()?.into_iter().next()?;
        (state.log_start_offset? >= 9_000).then_some(())
    })
    .await;
    let error = admin
        .transfer_leader(TOPIC, 0, BrokerId(1))
        .await
        .map(|leader| leader.id);
    assert_eq!(error.expect("it leads already"), BrokerId(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_partition_survives_the_death_of_all_nodes() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    cluster
        .cli_with(&["produce", TOPIC], b"gone\n".to_vec())
        .await
        .expect(0);
    cluster
        .cli(&["topic", "trim", TOPIC, "--before", "latest"])
        .await
        .expect(0);
    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    assert_eq!(cluster.log_start(TOPIC, 0).await, 1);
    cluster.cli_with(&["produce", TOPIC], b"on\n".to_vec()).await.expect(0);
    let consumed = cluster
        .cli(&["consume", TOPIC, "--exit-at-end", "-f", "%o %v"])
        .await
        .expect(0);
    assert_eq!(consumed.text(), "1 on");
}
