//! A broker that leaves records out: every consumer reports the gap.

use std::time::Duration;

use jangada_client::{ClientError, ConsumerConfig, StartAt};
use jangada_types::BatchHeader;
use tokio::time::timeout;

use crate::consume::filled;
use crate::fake::Cluster;
use crate::group::{config, idle, member, soon};

/// Takes a batch out of the middle of a partition's log; returns the first offsets of it and of the next one.
fn lose_a_batch(cluster: &Cluster) -> (i64, i64) {
    let mut state = cluster.state();
    let batches = &mut state.partition("t", 0).batches;
    assert!(batches.len() > 4, "{} batches", batches.len());
    let base = |batch: &[u8]| BatchHeader::parse(batch).expect("a batch").base_offset;
    let lost = batches.remove(batches.len() / 2);
    (base(&lost), base(&batches[batches.len() / 2]))
}

fn assert_gap(error: &ClientError, lost: i64, next: i64) {
    let ClientError::Gap {
        partition: 0,
        expected,
        found,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((*expected, *found), (lost, next));
    assert!(!error.is_retryable());
    let text = error.to_string();
    assert!(
        text.contains(&format!("after offset {} comes {next}", lost - 1)),
        "{text}"
    );
}

#[tokio::test]
async fn what_comes_before_a_gap_is_handed_out_and_then_an_error_with_the_offsets() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 1000).await;
    let (lost, next) = lose_a_batch(&cluster);
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    for offset in 0..lost {
        assert_eq!(soon(consumer.next()).await.expect("a record").offset, offset);
    }
    assert_gap(
        &soon(consumer.next()).await.expect_err("records are missing"),
        lost,
        next,
    );
    assert_eq!(consumer.position("t", 0), Some(lost));
    assert!(
        timeout(Duration::from_millis(200), consumer.next()).await.is_err(),
        "nothing comes behind it"
    );
    consumer.seek("t", 0, StartAt::Offset(next)).await.expect("sought");
    assert_eq!(soon(consumer.next()).await.expect("a record").offset, next);
}

/// Whatever the client knows of the topic's settings: they may have been others a moment ago, and what is gone is gone.
#[tokio::test]
async fn what_the_broker_says_that_compaction_has_taken_is_no_gap() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 1000).await;
    let (lost, next) = lose_a_batch(&cluster);
    cluster.state().partition("t", 0).is_compacted = true;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    for offset in (0..lost).chain(next..1000) {
        assert_eq!(soon(consumer.next()).await.expect("a record").offset, offset);
    }
    // That a batch comes twice, or goes back, is never right.
    {
        let mut state = cluster.state();
        let batches = &mut state.partition("t", 0).batches;
        let first = batches[0].clone();
        batches.insert(2, first);
    }
    consumer.seek("t", 0, StartAt::Earliest).await.expect("sought");
    let error = loop {
        match soon(consumer.next_raw()).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Gap { found: 0, .. }), "{error}");
}

#[tokio::test]
async fn a_gap_is_told_where_reading_begins_and_in_raw_batches() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 1000).await;
    let (lost, next) = lose_a_batch(&cluster);
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer
        .assign(vec![("t", 0, StartAt::Offset(lost))])
        .await
        .expect("assigned");
    assert_gap(
        &soon(consumer.next_raw()).await.expect_err("records are missing"),
        lost,
        next,
    );
    consumer.seek("t", 0, StartAt::Earliest).await.expect("sought");
    let mut end = 0;
    let error = loop {
        match soon(consumer.next_raw()).await {
            Ok(raw) => end = raw.next_offset,
            Err(error) => break error,
        }
    };
    assert_eq!(end, lost);
    assert_gap(&error, lost, next);
}

#[tokio::test]
async fn a_member_of_a_group_is_told_of_a_gap() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 1000).await;
    let (lost, next) = lose_a_batch(&cluster);
    let mut consumer = member(&client, config());
    for offset in 0..lost {
        assert_eq!(soon(consumer.next()).await.expect("a record").offset, offset);
    }
    assert_gap(
        &soon(consumer.next()).await.expect_err("records are missing"),
        lost,
        next,
    );
}

#[tokio::test]
async fn a_gap_waits_behind_what_a_paused_partition_has_before_it() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 1000).await;
    let (lost, next) = lose_a_batch(&cluster);
    let mut consumer = member(&client, config());
    assert_eq!(soon(consumer.next()).await.expect("a record").offset, 0);
    consumer.pause("t", 0).expect("owned");
    idle(&mut consumer, 200).await;
    consumer.resume("t", 0).expect("owned");
    for offset in 1..lost {
        assert_eq!(soon(consumer.next()).await.expect("a record").offset, offset);
    }
    assert_gap(
        &soon(consumer.next()).await.expect_err("records are missing"),
        lost,
        next,
    );
}
