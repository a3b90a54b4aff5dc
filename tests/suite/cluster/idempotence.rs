//! A batch that is sent twice lands once if it names its producer, and twice if not: so these tests can tell the
//! difference.

use jangada_proto::v1::{Acks, InitProducerRequest, ProduceStreamRequest};
use tokio_stream::iter;

use crate::harness::raw::{self, Producer};
use crate::harness::{Cluster, WAIT};

const TOPIC: &str = "orders";

/// A connection to the leader, and a new producer.
async fn begin(cluster: &Cluster) -> (raw::Log, Producer) {
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let producer = raw::new_producer(&mut log).await;
    (log, producer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_lands_once_and_is_told_its_offsets() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let (mut log, producer) = begin(&cluster).await;
    let batch = raw::batch(Some(producer), &[b"a", b"b"]);

    let first = raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone())
        .await
        .expect("it is written");
    assert_eq!((first.base_offset, first.last_offset, first.duplicate), (0, 1, false));
    let again = raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone())
        .await
        .expect("it is recognised");
    assert_eq!((again.base_offset, again.last_offset, again.duplicate), (0, 1, true));

    // The table is part of the partition: another leader has it, and so have all after their death.
    let victim = cluster.leader(TOPIC, 0).await;
    cluster.kill(victim);
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let after_failover = raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone())
        .await
        .expect("it is recognised");
    assert_eq!((after_failover.base_offset, after_failover.duplicate), (0, true));
    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let after_restart = raw::produce(&mut log, raw::partition(TOPIC, 0), batch)
        .await
        .expect("it is recognised");
    assert_eq!((after_restart.base_offset, after_restart.duplicate), (0, true));
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 2);

    beyond_the_last_five(&cluster).await;
    a_new_epoch_fences_the_old_one(&cluster).await;
    a_reply_cut_after_the_commit(&cluster).await;
}

async fn beyond_the_last_five(cluster: &Cluster) {
    let (mut log, producer) = begin(cluster).await;
    for sequence in 0..6 {
        let batch = raw::batch(Some(Producer { sequence, ..producer }), &[b"x"]);
        raw::produce(&mut log, raw::partition(TOPIC, 0), batch)
            .await
            .expect("it is written");
    }
    let end = cluster.high_watermark(TOPIC, 0).await;
    let forgotten = raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(Some(producer), &[b"x"])).await;
    raw::assert_refused(forgotten, "DUPLICATE_SEQUENCE", &[TOPIC]);
    let kept = raw::batch(
        Some(Producer {
            sequence: 1,
            ..producer
        }),
        &[b"x"],
    );
    let kept = raw::produce(&mut log, raw::partition(TOPIC, 0), kept)
        .await
        .expect("it is recognised");
    assert!(kept.duplicate);
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, end);
}

async fn a_new_epoch_fences_the_old_one(cluster: &Cluster) {
    let (mut log, old) = begin(cluster).await;
    raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(Some(old), &[b"old"]))
        .await
        .expect("it is written");
    let request = InitProducerRequest {
        producer_id: Some(old.id),
        producer_epoch: Some(old.epoch.into()),
    };
    let given = log
        .init_producer(request)
        .await
        .expect("the next epoch is given")
        .into_inner();
    assert_eq!(
        (given.producer_id, given.producer_epoch),
        (old.id, i32::from(old.epoch) + 1)
    );
    let new = Producer {
        epoch: old.epoch + 1,
        ..old
    };
    raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(Some(new), &[b"new"]))
        .await
        .expect("it is written");
    let end = cluster.high_watermark(TOPIC, 0).await;
    let late = raw::batch(Some(Producer { sequence: 1, ..old }), &[b"late"]);
    let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), late).await;
    raw::assert_refused(refused, "PRODUCER_FENCED", &[TOPIC]);
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, end);
}

/// The answer never arrives, though the batch is committed: the case in which a producer has to send again.
async fn a_reply_cut_after_the_commit(cluster: &Cluster) {
    let (mut log, producer) = begin(cluster).await;
    for (batch, copies) in [
        (raw::batch(Some(producer), &[b"once"]), 1),
        (raw::batch(None, &[b"twice"]), 2),
    ] {
        let before = cluster.high_watermark(TOPIC, 0).await;
        for _ in 0..2 {
            let request = ProduceStreamRequest {
                correlation_id: 1,
                partition: Some(raw::partition(TOPIC, 0)),
                acks: Acks::Quorum.into(),
                timeout_ms: 0,
                batch: batch.clone(),
                ..ProduceStreamRequest::default()
            };
            let answers = log.produce_stream(iter([request])).await.expect("the stream opens");
            cluster.grown(TOPIC, 0, before + 1).await;
            drop(answers);
        }
        // Behind both on the same leader, so that they are decided when it is answered.
        let marker = raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"marker"]));
        let marker = tokio::time::timeout(WAIT, marker)
            .await
            .expect("it is answered")
            .expect("it is written");
        assert_eq!(marker.base_offset - before, copies);
    }
}
