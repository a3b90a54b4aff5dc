//! The commits of members: before records are handed out, in order, with the leader's epoch.

use std::collections::BTreeSet;
use std::time::Duration;

use jangada_client::{
    ClientError, CommitMode, GroupConfig, OffsetCommit, OnBadBatch, ProducerConfig, ProducerRecord, Reason,
};
use tokio::time::timeout;

use crate::consume::{damage, fill, filled};
use crate::fake::{Cluster, GroupFault};
use crate::group::{committed, config, idle, member, offsets, soon, take, until};

/// The delay of the answer to a commit.
const SLOW: Duration = Duration::from_millis(300);

fn before() -> GroupConfig {
    GroupConfig {
        commit: CommitMode::Before,
        ..config()
    }
}

fn manual() -> GroupConfig {
    GroupConfig {
        commit: CommitMode::Manual,
        ..config()
    }
}

/// The epoch of the last commit.
fn epoch(cluster: &Cluster) -> Option<u32> {
    let mut state = cluster.state();
    let commit = state.groups().commits.last().expect("there are commits");
    commit.offsets[0].leader_epoch
}

#[tokio::test]
async fn commits_carry_the_leader_epoch_of_the_last_record() {
    let cluster = Cluster::start(2);
    let client = filled(&cluster, 1, 10).await;
    cluster.move_leader("t", 0, 2);
    fill(&client, 1, 10..20).await;
    let mut consumer = member(&client, config());
    let read = take(&mut consumer, 10).await;
    assert!(read.iter().all(|record| record.leader_epoch == Some(1)));
    consumer.commit().await.expect("committed");
    assert_eq!((committed(&cluster, 0), epoch(&cluster)), (Some(10), Some(1)));
    let record = take(&mut consumer, 2).await.pop().expect("two");
    assert_eq!(record.leader_epoch, Some(2));
    // By the interval: the first of the two is finished.
    until("committed", || committed(&cluster, 0) == Some(11)).await;
    assert_eq!(epoch(&cluster), Some(2));
    soon(consumer.close()).await.expect("closed");
    assert_eq!((committed(&cluster, 0), epoch(&cluster)), (Some(12), Some(2)));
    let mut consumer = member(&client, before());
    soon(consumer.next_batch(3)).await.expect("records");
    assert_eq!((committed(&cluster, 0), epoch(&cluster)), (Some(15), Some(2)));
}

#[tokio::test]
async fn a_position_that_was_reset_is_finished_also_at_the_end_of_the_log() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 300).await;
    let mut first = member(&client, config());
    take(&mut first, 10).await;
    soon(first.close()).await.expect("closed");
    assert_eq!(committed(&cluster, 0), Some(10));
    cluster.state().partition("t", 0).log_start = 300;
    let mut second = member(&client, config());
    idle(&mut second, 500).await;
    assert_eq!(second.position("t", 0), Some(300));
    soon(second.close()).await.expect("closed");
    assert_eq!(committed(&cluster, 0), Some(300));
}

#[tokio::test]
async fn a_batch_that_was_skipped_is_finished_also_at_the_end_of_the_log() {
    for commit in [config().commit, CommitMode::Before, CommitMode::Manual] {
        let cluster = Cluster::start(1);
        let client = filled(&cluster, 1, 300).await;
        let last = cluster.state().partition("t", 0).batches.len() - 1;
        let (first, end) = damage(&cluster, last);
        let config = GroupConfig {
            commit,
            on_bad_batch: OnBadBatch::Skip,
            ..config()
        };
        let mut consumer = member(&client, config);
        take(&mut consumer, first as usize).await;
        idle(&mut consumer, 500).await;
        assert_eq!(consumer.position("t", 0), Some(end));
        assert_eq!(
            (consumer.skipped().batches, consumer.skipped().records),
            (1, (end - first) as u64)
        );
        if commit == CommitMode::Manual {
            consumer.commit().await.expect("committed");
        }
        soon(consumer.close()).await.expect("closed");
        assert_eq!(committed(&cluster, 0), Some(end), "{commit:?}");
    }
}

#[tokio::test]
async fn at_most_once_holds_after_a_commit_by_hand() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = member(&client, before());
    for offset in 0..10 {
        let record = soon(consumer.next()).await.expect("a record");
        assert_eq!(record.offset, offset);
        assert!(
            committed(&cluster, 0) > Some(offset),
            "{offset} is handed out and not committed"
        );
        consumer.commit().await.expect("committed");
        assert_eq!(committed(&cluster, 0), Some(offset + 1), "what was handed out");
    }
}

#[tokio::test]
async fn a_commit_before_records_that_were_not_handed_out_is_taken_back() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut first = member(&client, before());
    assert_eq!(soon(first.next_batch(5)).await.expect("records").len(), 5);
    soon(first.close()).await.expect("closed");
    assert_eq!(committed(&cluster, 0), Some(5));
    // The next offsets are committed, and their caller no longer waits when the answer comes.
    let mut second = member(&client, before());
    cluster.state().groups().commit_faults.push_back(GroupFault::Slow(SLOW));
    let waiting = async {
        tokio::select! {
            next = second.next() => panic!("{next:?} came before the answer"),
            () = until("committed", || committed(&cluster, 0) == Some(10)) => {}
        }
    };
    soon(waiting).await;
    soon(second.close()).await.expect("closed");
    assert_eq!(committed(&cluster, 0), Some(5), "nobody has seen what comes after");
    let mut third = member(&client, before());
    assert_eq!(take(&mut third, 5).await[0].offset, 5);
}

#[tokio::test]
async fn at_most_once_holds_while_partitions_move() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 4, 20).await;
    // Each commit is slow, and the other member comes in the middle of one.
    cluster
        .state()
        .groups()
        .commit_faults
        .extend(vec![GroupFault::Slow(Duration::from_millis(50)); 30]);
    let mut first = member(&client, before());
    let mut seen: Vec<(u32, i64)> = Vec::new();
    let check = |partition, offset| {
        assert!(
            committed(&cluster, partition) > Some(offset),
            "{partition}[{offset}] is not committed"
        );
        (partition, offset)
    };
    for record in soon(first.next_batch(2)).await.expect("records") {
        seen.push(check(record.partition, record.offset));
    }
    let mut second = member(&client, before());
    while seen.len() < 80 {
        let batch = tokio::select! {
            batch = first.next_batch(3) => batch,
            batch = second.next_batch(3) => batch,
            // The bound of the wait.
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{} records came", seen.len()),
        };
        // The other's call is dropped with whatever it was doing.
        seen.extend(batch.expect("records").iter().map(|r| check(r.partition, r.offset)));
    }
    let once: BTreeSet<_> = seen.iter().copied().collect();
    assert_eq!((once.len(), seen.len()), (80, 80), "each once");
    assert_eq!(second.assignment().len(), 2);
    idle(&mut first, 100).await;
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_does_not_overtake_a_newer_one() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = member(&client, manual());
    take(&mut consumer, 3).await;
    cluster.state().groups().commit_faults.push_back(GroupFault::Late(SLOW));
    timeout(Duration::from_millis(50), consumer.commit())
        .await
        .expect_err("it takes longer");
    let read = take(&mut consumer, 4).await;
    assert_eq!(offsets(&read).len(), 4);
    consumer.commit().await.expect("committed");
    assert_eq!(committed(&cluster, 0), Some(7));
    let of = consumer.assignment().remove(0);
    cluster.state().groups().commit_faults.push_back(GroupFault::Late(SLOW));
    let older = [OffsetCommit::new(of.clone(), 8)];
    timeout(Duration::from_millis(50), consumer.commit_offsets(&older))
        .await
        .expect_err("it takes longer");
    consumer
        .commit_offsets(&[OffsetCommit::new(of, 9)])
        .await
        .expect("committed");
    let late = async {
        until("both came", || cluster.state().groups().commits.len() == 4).await;
    };
    soon(late).await;
    assert_eq!(committed(&cluster, 0), Some(9));
}

#[tokio::test]
async fn a_call_that_was_dropped_holds_no_commit_up() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 10).await;
    // While records wait for their commit.
    let mut consumer = member(&client, before());
    take(&mut consumer, 1).await;
    soon(consumer.next_batch(9)).await.expect("records");
    cluster.state().groups().commit_faults.push_back(GroupFault::Slow(SLOW));
    timeout(Duration::from_millis(50), consumer.next())
        .await
        .expect_err("the commit takes longer");
    soon(consumer.commit()).await.expect("committed");
    soon(consumer.close()).await.expect("closed");
    // A partition is to be given up behind a commit whose caller no longer waits.
    let manual = GroupConfig {
        group: "other".to_owned(),
        ..manual()
    };
    let mut first = member(&client, manual.clone());
    take(&mut first, 20).await;
    cluster
        .state()
        .groups()
        .commit_faults
        .push_back(GroupFault::Late(2 * SLOW));
    timeout(Duration::from_millis(10), first.commit())
        .await
        .expect_err("it takes longer");
    let _second = member(&client, manual);
    let giving_up = async {
        tokio::select! {
            next = first.next() => panic!("{next:?} came"),
            () = until("it gives one up", || cluster.state().groups().is_revoking("other")) => {}
        }
    };
    soon(giving_up).await;
    timeout(Duration::from_millis(100), first.next())
        .await
        .expect_err("there are no more records");
    assert_eq!(first.assignment().len(), 1, "it has begun to give it up");
    soon(first.commit()).await.expect("committed");
}

#[tokio::test]
async fn a_deleted_topic_keeps_no_others_from_being_committed() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    cluster.create_topic("u", 1);
    let producer = client.producer(ProducerConfig::default()).expect("good settings");
    for _ in 0..10 {
        let mut record = ProducerRecord::new("u");
        record.value = Some("v".into());
        let delivery = producer.send(record).await.expect("taken");
        delivery.await.expect("delivered");
    }
    let both = GroupConfig {
        commit: CommitMode::After {
            interval: Duration::from_secs(60),
        },
        ..GroupConfig::new("g", ["t", "u"])
    };
    let mut consumer = member(&client, both);
    take(&mut consumer, 20).await;
    cluster.delete_topic("u");
    soon(consumer.commit()).await.expect("committed");
    assert_eq!(committed(&cluster, 0), Some(10));
    assert_eq!(cluster.state().groups().refused, [Reason::UnknownTopic; 2]);
}

#[tokio::test]
async fn a_commit_for_a_partition_of_someone_else_says_so() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 10).await;
    let mut consumer = member(&client, manual());
    take(&mut consumer, 5).await;
    let mut second = member(&client, manual());
    // Both do what they have to until each knows of its share.
    let settling = async {
        while [&consumer, &second].map(|member| member.assignment().len()) != [1, 1] {
            let next = async {
                tokio::select! {
                    record = consumer.next() => record.map(drop).expect("a record"),
                    record = second.next() => record.map(drop).expect("a record"),
                }
            };
            let _ = timeout(Duration::from_millis(20), next).await;
        }
    };
    soon(settling).await;
    let own = consumer.assignment().remove(0);
    let other = second.assignment().remove(0);
    assert_ne!(own, other);
    let both = [OffsetCommit::new(own.clone(), 3), OffsetCommit::new(other, 3)];
    let error = soon(consumer.commit_offsets(&both)).await.expect_err("not its own");
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    assert_eq!(error.reason(), Some(Reason::PartitionNotOwned));
    assert_eq!(committed(&cluster, own.partition), None, "all or none");
    soon(consumer.commit_offsets(&[OffsetCommit::new(own.clone(), 3)]))
        .await
        .expect("it is still a member");
    assert_eq!(committed(&cluster, own.partition), Some(3));
}
