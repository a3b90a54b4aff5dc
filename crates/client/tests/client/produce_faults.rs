//! Producing under faults.

use std::time::{Duration, Instant};

use futures::future::join_all;
use jangada_client::{ClientError, ProducerConfig, Reason};

use crate::fake::{Cluster, Error, Fault};
use crate::produce::{numbers, record, send, small_batches};

async fn all_delivered(deliveries: Vec<jangada_client::Delivery>) {
    for (index, delivered) in join_all(deliveries).await.into_iter().enumerate() {
        assert_eq!(delivered.expect("delivered").offset, Some(index as i64));
    }
}

fn quorum_timeout() -> Error {
    Error::unknown(Reason::QuorumTimeout)
}

#[tokio::test]
async fn a_busy_partition_is_tried_again_after_its_delay_and_in_order() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let delay = Duration::from_millis(300);
    let busy = Error {
        retry_delay: Some(delay),
        ..Error::definite(Reason::PartitionBusy)
    };
    cluster.script("t", 0, [Fault::Refuse(busy)]);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    let began = Instant::now();
    all_delivered(send(&producer, 0, 0..300).await).await;
    assert!(began.elapsed() >= delay);
    assert_eq!(cluster.values("t", 0), numbers(0..300));
}

#[tokio::test]
async fn a_hint_leads_to_the_new_leader_without_delay() {
    let cluster = Cluster::start(3);
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    producer
        .send(record(0, 0))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.move_leader("t", 0, 3);
    let deliveries = send(&producer, 0, 1..300).await;
    for delivered in join_all(deliveries).await {
        delivered.expect("delivered");
    }
    assert_eq!(cluster.values("t", 0), numbers(0..300));
}

#[tokio::test]
async fn without_a_hint_the_metadata_lead_there() {
    let cluster = Cluster::start(3);
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    producer
        .send(record(0, 0))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.state().partition("t", 0).hints = false;
    cluster.move_leader("t", 0, 2);
    producer
        .send(record(0, 1))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    assert_eq!(cluster.values("t", 0), numbers(0..2));
}

#[tokio::test]
async fn lost_answers_cost_nothing_and_double_nothing() {
    let cluster = Cluster::start(2);
    cluster.create_topic("t", 1);
    cluster.script(
        "t",
        0,
        [Fault::AppendThenCut, Fault::Cut, Fault::AppendThen(quorum_timeout())],
    );
    cluster.script("t", 0, [Fault::Refuse(quorum_timeout()), Fault::AppendThenCut]);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    all_delivered(send(&producer, 0, 0..500).await).await;
    assert_eq!(cluster.values("t", 0), numbers(0..500));
}

#[tokio::test]
async fn an_answer_that_got_lost_is_made_up_for_with_the_first_offset() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    cluster.script("t", 0, [Fault::AppendThenCut]);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    let delivered = producer
        .send(record(0, 0))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    assert!(delivered.duplicate);
    assert_eq!(delivered.offset, Some(0));
}

#[tokio::test]
async fn without_idempotence_a_lost_answer_gives_a_duplicate_but_no_disorder() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    cluster.script("t", 0, [Fault::AppendThenCut]);
    let config = ProducerConfig {
        idempotent: false,
        ..small_batches()
    };
    let producer = cluster.client().await.producer(config).expect("good settings");
    for delivered in join_all(send(&producer, 0, 0..200).await).await {
        delivered.expect("delivered");
    }
    let values = cluster.values("t", 0);
    assert!(values.len() > 200, "the first batch is there twice");
    let twice = values.len() - 200;
    assert_eq!(values[..twice], values[twice..2 * twice]);
    assert_eq!(values[twice..], numbers(0..200));
}

#[tokio::test]
async fn a_killed_leader_costs_nothing() {
    let mut cluster = Cluster::start(3);
    cluster.create_topic("t", 3);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    let mut deliveries = Vec::new();
    for round in 0..20 {
        for partition in 0..3 {
            deliveries.extend(send(&producer, partition, round * 50..(round + 1) * 50).await);
        }
        if round == 5 {
            cluster.kill(1);
        }
        if round == 12 {
            cluster.kill(2);
        }
    }
    for delivered in join_all(deliveries).await {
        delivered.expect("delivered");
    }
    for partition in 0..3 {
        assert_eq!(cluster.values("t", partition), numbers(0..1000));
    }
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_left_when_another_one_is_elected() {
    let cluster = Cluster::start(3);
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    producer
        .send(record(0, 0))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.freeze(1);
    let began = Instant::now();
    let deliveries = send(&producer, 0, 1..200).await;
    cluster.move_leader("t", 0, 2);
    for delivered in join_all(deliveries).await {
        delivered.expect("delivered");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    cluster.thaw();
    assert_eq!(cluster.values("t", 0), numbers(0..200));
}

#[tokio::test]
async fn a_refused_batch_fails_alone() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let producer = client.producer(small_batches()).expect("good settings");
    producer
        .send(record(0, "first"))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.script("t", 0, [Fault::Refuse(Error::definite(Reason::InvalidBatch))]);
    let outcomes = join_all(send(&producer, 0, 0..300).await).await;
    let refused = outcomes.iter().take_while(|outcome| outcome.is_err()).count();
    assert!(refused >= 1);
    for outcome in &outcomes[..refused] {
        let error = outcome.as_ref().expect_err("refused");
        assert!(
            matches!(error, ClientError::Refused(_)) && error.is_definite(),
            "{error}"
        );
        assert_eq!(error.reason(), Some(Reason::InvalidBatch));
    }
    assert!(outcomes[refused..].iter().all(Result::is_ok));
    assert_eq!(cluster.values("t", 0)[1..], numbers(refused as u32..300));
    let attempts = cluster.state().partition("t", 0).attempts.clone();
    assert_eq!(
        attempts.last().expect("many").producer_epoch.get(),
        1,
        "the ones behind it went under the next epoch"
    );
    assert!(
        attempts
            .iter()
            .any(|attempt| attempt.producer_epoch.get() == 1 && attempt.base_sequence.get() == 0)
    );
}

#[tokio::test]
async fn when_time_is_over_it_is_told_whether_the_outcome_is_known() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 3);
    let config = ProducerConfig {
        delivery_timeout: Duration::from_millis(700),
        ..small_batches()
    };
    let client = cluster.client().await;
    let producer = client.producer(config).expect("good settings");
    cluster.script(
        "t",
        0,
        (0..100).map(|_| Fault::Refuse(Error::definite(Reason::PartitionBusy))),
    );
    cluster.script("t", 1, [Fault::AppendThenSilence]);
    cluster.script("t", 2, (0..100).map(|_| Fault::Refuse(quorum_timeout())));
    let mut errors = Vec::new();
    for partition in 0..3 {
        errors.push(producer.send(record(partition, partition)).await.expect("taken"));
    }
    let errors: Vec<ClientError> = join_all(errors)
        .await
        .into_iter()
        .map(|o| o.expect_err("its time is over"))
        .collect();
    assert!(matches!(errors[0], ClientError::Unavailable(_)), "{}", errors[0]);
    assert_eq!(errors[0].reason(), Some(Reason::PartitionBusy));
    assert!(matches!(errors[1], ClientError::OutcomeUnknown(_)), "{}", errors[1]);
    assert!(matches!(errors[2], ClientError::OutcomeUnknown(_)), "{}", errors[2]);
    // And the partitions go on, under another epoch.
    for partition in 0..3 {
        cluster.state().partition("t", partition).faults.clear();
        let delivered = producer
            .send(record(partition, "next"))
            .await
            .expect("taken")
            .await
            .expect("delivered");
        assert!(!delivered.duplicate);
    }
    assert_eq!(cluster.values("t", 0), ["next"]);
    assert_eq!(cluster.values("t", 1), ["1", "next"]);
    assert_eq!(cluster.values("t", 2), ["next"]);
}

#[tokio::test]
async fn what_never_left_is_definitely_absent() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    cluster.state().partition("t", 0).leader = 0;
    let config = ProducerConfig {
        delivery_timeout: Duration::from_millis(300),
        ..small_batches()
    };
    let producer = cluster.client().await.producer(config).expect("good settings");
    let error = producer
        .send(record(0, 0))
        .await
        .expect("taken")
        .await
        .expect_err("no leader");
    assert!(
        matches!(error, ClientError::Unavailable(_)) && error.is_definite(),
        "{error}"
    );
    assert_eq!(error.reason(), Some(Reason::LeaderNotAvailable), "{error}");
    assert!(error.to_string().contains("t[0]"), "{error}");
}

#[tokio::test]
async fn errors_of_the_sequence_are_told_apart() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 3);
    let client = cluster.client().await;
    let producer = client.producer(small_batches()).expect("good settings");
    for partition in 0..3 {
        producer
            .send(record(partition, 0))
            .await
            .expect("taken")
            .await
            .expect("delivered");
    }
    let refuse = |reason| Fault::Refuse(Error::definite(reason));
    cluster.script(
        "t",
        0,
        [Fault::AppendThen(quorum_timeout()), refuse(Reason::DuplicateSequence)],
    );
    cluster.script(
        "t",
        1,
        [Fault::Refuse(quorum_timeout()), refuse(Reason::UnknownProducer)],
    );
    cluster.script("t", 2, [refuse(Reason::OutOfOrderSequence)]);
    let mut errors = Vec::new();
    for partition in 0..3 {
        errors.push(
            producer
                .send(record(partition, 1))
                .await
                .expect("taken")
                .await
                .expect_err("scripted"),
        );
    }
    assert!(matches!(errors[0], ClientError::DuplicateSequence(_)), "{}", errors[0]);
    assert!(
        matches!(errors[1], ClientError::UnknownProducer { definite: false, .. }),
        "{}",
        errors[1]
    );
    assert!(matches!(errors[2], ClientError::OutOfOrderSequence(_)), "{}", errors[2]);
    for partition in 0..3 {
        producer
            .send(record(partition, 2))
            .await
            .expect("taken")
            .await
            .expect("the partition goes on");
    }
    assert_eq!(cluster.values("t", 0), ["0", "1", "2"]);
    assert_eq!(cluster.values("t", 1), ["0", "2"]);
}

#[tokio::test]
async fn a_producer_that_was_forgotten_begins_anew() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    producer
        .send(record(0, 0))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.state().partition("t", 0).forget_producers();
    producer
        .send(record(0, 1))
        .await
        .expect("taken")
        .await
        .expect("under the next epoch");
    assert_eq!(cluster.values("t", 0), numbers(0..2));
}

#[tokio::test]
async fn a_fenced_producer_ends() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    producer
        .send(record(0, 0))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.script("t", 0, [Fault::Refuse(Error::definite(Reason::ProducerFenced))]);
    let error = producer
        .send(record(0, 1))
        .await
        .expect("taken")
        .await
        .expect_err("fenced");
    assert!(
        matches!(error, ClientError::ProducerFenced { definite: true, .. }),
        "{error}"
    );
    let error = producer.send(record(0, 2)).await.expect_err("it has ended");
    assert!(matches!(error, ClientError::ProducerFenced { .. }), "{error}");
    producer.close().await;
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_its_namesake_is_another() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    producer
        .send(record(0, "old"))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.delete_topic("t");
    let error = producer
        .send(record(0, "lost"))
        .await
        .expect("taken")
        .await
        .expect_err("it is gone");
    assert!(matches!(error, ClientError::UnknownTopic { .. }), "{error}");
    assert!(matches!(
        producer.send(record(0, "lost")).await,
        Err(ClientError::UnknownTopic { .. })
    ));
    cluster.create_topic("t", 1);
    producer
        .send(record(0, "new"))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    assert_eq!(cluster.values("t", 0), ["new"]);
}

#[tokio::test]
async fn a_runtime_that_ends_answers_every_delivery() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let config = cluster.config();
    let (deliveries, runtime) = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let deliveries = runtime.block_on(async {
            let client = jangada_client::Client::connect(config).await.expect("connected");
            let config = ProducerConfig {
                linger: Duration::from_secs(60),
                ..ProducerConfig::default()
            };
            send(&client.producer(config).expect("good settings"), 0, 0..1).await
        });
        (deliveries, runtime)
    })
    .join()
    .expect("no panic");
    runtime.shutdown_background();
    let answered = tokio::time::timeout(Duration::from_secs(5), join_all(deliveries)).await;
    answered.expect("every delivery is answered");
}
