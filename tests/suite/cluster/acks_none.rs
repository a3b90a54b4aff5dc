//! `acks = none`: an answer without an offset, and the record arrives all the same; or it is refused, or counted as lost.

use std::time::{Duration, Instant};

use jangada_client::{Acks as ClientAcks, ClientError, ProducerConfig, ProducerRecord};
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{Acks, ProduceStreamRequest, RecordForm};
use tonic::Code;

use crate::harness::{Cluster, Scrape, WAIT, eventually, raw};

const TOPIC: &str = "orders";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_answered_without_an_offset_and_arrives() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let partition = raw::partition(TOPIC, 0);
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let batch = raw::batch(None, &[b"one call", b"of two"]);
    let answer = raw::produce_with(&mut log, partition.clone(), Acks::None.into(), 0, batch)
        .await
        .expect("it is admitted");
    assert_eq!((answer.base_offset, answer.last_offset), (-1, -1));
    assert_eq!((answer.append_time_ms, answer.duplicate), (-1, false));
    cluster.grown(TOPIC, 0, 2).await;

    on_a_stream_beside_one_that_waits_for_the_quorum(&mut log).await;
    cluster.grown(TOPIC, 0, 4).await;
    refused_for_idempotent_batches(&mut log).await;
    through_the_client(&cluster).await;
    cluster.grown(TOPIC, 0, 5).await;
    cluster
        .cli_with(&["produce", TOPIC, "--acks", "none"], b"a line\n".to_vec())
        .await
        .expect(0)
        .names(&["1 records were taken", "nobody says whether they are kept"]);
    cluster.grown(TOPIC, 0, 6).await;

    let fetched = raw::fetch(&mut log, partition, 0, RecordForm::Plain)
        .await
        .expect("its leader serves");
    let values: Vec<&[u8]> = fetched.records.iter().filter_map(|r| r.value.as_deref()).collect();
    let expected: [&[u8]; 6] = [
        b"one call",
        b"of two",
        b"streamed",
        b"waited for",
        b"of a client",
        b"a line",
    ];
    assert_eq!(values, expected);
}

async fn on_a_stream_beside_one_that_waits_for_the_quorum(log: &mut raw::Log) {
    let requests = [(Acks::None, &b"streamed"[..]), (Acks::Quorum, b"waited for")];
    let requests = (1..)
        .zip(requests)
        .map(|(correlation_id, (acks, value))| ProduceStreamRequest {
            correlation_id,
            partition: Some(raw::partition(TOPIC, 0)),
            acks: acks.into(),
            timeout_ms: 0,
            batch: raw::batch(None, &[value]),
            ..ProduceStreamRequest::default()
        });
    let answers = raw::produce_stream(log, requests.collect()).await;
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer.result {
            Some(StreamResult::Ok(ok)) => (answer.correlation_id, ok.base_offset),
            other => panic!("refused: {other:?}"),
        })
        .collect();
    assert_eq!(answers, [(1, -1), (2, 3)]);
}

async fn refused_for_idempotent_batches(log: &mut raw::Log) {
    let producer = raw::new_producer(log).await;
    let batch = raw::batch(Some(producer), &[b"neither"]);
    let refused = raw::produce_with(log, raw::partition(TOPIC, 0), Acks::None.into(), 0, batch.clone()).await;
    let status = raw::assert_refused(refused, "ACKS_NONE_IDEMPOTENT", &["ACKS_QUORUM", "producer id"]);
    assert_eq!(status.code(), Code::FailedPrecondition);
    let request = ProduceStreamRequest {
        correlation_id: 9,
        partition: Some(raw::partition(TOPIC, 0)),
        acks: Acks::None.into(),
        timeout_ms: 0,
        batch,
        ..ProduceStreamRequest::default()
    };
    let error = refused_on_a_stream(log, request).await;
    assert_eq!(error.reason, "ACKS_NONE_IDEMPOTENT");
    let unknown = raw::produce_with(log, raw::partition(TOPIC, 0), 7, 0, raw::batch(None, &[b"neither"])).await;
    raw::assert_refused(unknown, "INVALID_REQUEST", &["acks 7"]);
}

async fn through_the_client(cluster: &Cluster) {
    let client = cluster.client().await;
    let contradiction = ProducerConfig {
        acks: ClientAcks::None,
        ..ProducerConfig::default()
    };
    let refused = client.producer(contradiction.clone()).map(drop);
    let Err(ClientError::Config(message)) = refused else {
        panic!("an idempotent producer without acknowledgements: {refused:?}");
    };
    assert!(message.contains("idempotent"), "{message}");
    let producer = client.producer(ProducerConfig {
        idempotent: false,
        ..contradiction
    });
    let record = ProducerRecord::new(TOPIC).with_value("of a client");
    let sent = producer
        .expect("the settings are valid")
        .send(record)
        .await
        .expect("it is taken");
    assert_eq!(sent.await.expect("it is admitted").offset, None);
}

/// Longer than a leader needs to notice that no follower answers.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_answers_says_so_and_counts_what_it_lost() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let followers: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    for follower in &followers {
        cluster.pause(*follower);
    }
    let began = Instant::now();
    let (mut taken, mut refused) = (0, 0);
    let mut send = async || {
        let batch = raw::batch(None, &[b"into the void"]);
        // A batch without a waiting client is given up soon, too.
        raw::produce_with(&mut log, raw::partition(TOPIC, 0), Acks::None.into(), 1_000, batch).await
    };
    while refused == 0 {
        assert!(
            began.elapsed() < NOTICED_TIMEOUT,
            "{taken} batches were taken, and none refused"
        );
        match send().await {
            Ok(_) => taken += 1,
            Err(status) => {
                raw::assert_refused(Err::<(), _>(status), "LEADER_NOT_AVAILABLE", &["no quorum answers"]);
                refused += 1;
            }
        }
    }
    println!("{taken} taken before the first refusal, after {:?}", began.elapsed());
    for _ in 0..100 {
        raw::assert_refused(send().await, "LEADER_NOT_AVAILABLE", &["no quorum answers"]);
        refused += 1;
    }
    on_a_stream_nothing_is_taken(&mut log).await;
    refused += 1;
    let lost = async || {
        let scrape = Scrape::of(&cluster, leader).await;
        let of = |reason| scrape.sum("jangada_request_errors_total", &[("reason", reason)]);
        let counted = of("LEADER_NOT_AVAILABLE").unwrap_or(0.0) + of("QUORUM_TIMEOUT").unwrap_or(0.0);
        counted - f64::from(refused)
    };
    eventually("what is lost is counted and told", WAIT, || async {
        let log = cluster.node(leader).log();
        let is_told = log.contains("batches with acks none, which were acknowledged");
        (lost().await > 0.0 && is_told).then_some(())
    })
    .await;
    for follower in &followers {
        cluster.resume(*follower);
    }
    cluster.in_sync().await;
    // The batches in flight are appended or given up, one after the other.
    let (end, lost) = eventually("each batch that was taken is there or counted", WAIT, || async {
        let (end, lost) = (cluster.high_watermark(TOPIC, 0).await, lost().await);
        (end as f64 + lost >= f64::from(taken)).then_some((end, lost))
    })
    .await;
    println!("{taken} taken, {end} in the log, {lost} counted as lost or unknown");
    // The quorum is there again, and what is taken arrives.
    let leader = cluster.leader(TOPIC, 0).await;
    let log = raw::log(&cluster.node(leader).addresses.public).await;
    eventually("it is taken again", WAIT, || {
        let mut log = log.clone();
        async move {
            let batch = raw::batch(None, &[b"heard"]);
            let answer = raw::produce_with(&mut log, raw::partition(TOPIC, 0), Acks::None.into(), 0, batch).await;
            answer.ok()
        }
    })
    .await;
    cluster.grown(TOPIC, 0, end + 1).await;
}

/// The only answer of a stream, which is an error.
async fn refused_on_a_stream(log: &mut raw::Log, request: ProduceStreamRequest) -> jangada_proto::v1::Error {
    let mut answers = raw::produce_stream(log, vec![request]).await;
    match answers.pop().and_then(|answer| answer.result) {
        Some(StreamResult::Error(error)) if answers.is_empty() => error,
        other => panic!("not refused alone: {other:?} after {answers:?}"),
    }
}

async fn on_a_stream_nothing_is_taken(log: &mut raw::Log) {
    let request = ProduceStreamRequest {
        correlation_id: 1,
        partition: Some(raw::partition(TOPIC, 0)),
        acks: Acks::None.into(),
        batch: raw::batch(None, &[b"into the void"]),
        ..ProduceStreamRequest::default()
    };
    let error = refused_on_a_stream(log, request).await;
    assert_eq!(error.reason, "LEADER_NOT_AVAILABLE");
}
