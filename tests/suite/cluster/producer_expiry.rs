//! A partition forgets a producer that is silent for `produce.producer_expiration_ms`, and only such a one.

use std::time::{Duration, Instant};

use jangada_client::{ProducerConfig, ProducerRecord};
use jangada_proto::v1::InitProducerRequest;
use tonic::Code;

use crate::harness::raw::{self, Producer};
use crate::harness::{Cluster, Options};

const TOPIC: &str = "orders";

const EXPIRATION: Duration = Duration::from_millis(4_000);
/// Interval between two batches of the producer that is not silent.
const BREATH: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_silent_for_too_long_is_told_so() {
    let options = Options {
        // A clock counts at once here, also after the restart below.
        sections: format!(
            "[produce]\nproducer_expiration_ms = {}\n[retention]\nsteady_clock_ms = 0\n",
            EXPIRATION.as_millis()
        ),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let partition = raw::partition(TOPIC, 0);
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let silent = raw::new_producer(&mut log).await;
    let steady = raw::new_producer(&mut log).await;
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the settings are valid");
    let record = |value: &'static str| ProducerRecord::new(TOPIC).with_value(value);
    let sent = producer.send(record("of a client")).await.expect("it is taken");
    sent.await.expect("it is written");
    for sequence in 0..2 {
        let batch = raw::batch(Some(Producer { sequence, ..silent }), &[b"silent"]);
        raw::produce(&mut log, partition.clone(), batch)
            .await
            .expect("it is written");
    }

    // Time itself is what is tested: the one says something again and again, the other nothing.
    let since = Instant::now();
    let mut sequence = 0;
    while since.elapsed() < EXPIRATION + BREATH {
        let batch = raw::batch(Some(Producer { sequence, ..steady }), &[b"steady"]);
        let written = raw::produce(&mut log, partition.clone(), batch).await;
        assert!(!written.expect("it is known").duplicate);
        sequence += 1;
        tokio::time::sleep(BREATH).await;
    }
    let end = raw::end(&mut log, partition.clone()).await.expect("the leader answers");
    let late = || raw::batch(Some(Producer { sequence: 2, ..silent }), &[b"late"]);
    let refused = raw::produce(&mut log, partition.clone(), late()).await;
    let status = raw::assert_refused(refused, "UNKNOWN_PRODUCER", &[TOPIC, "new epoch"]);
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    // A gap in the sequences of a known producer is another error than an expired producer.
    let gap = raw::batch(
        Some(Producer {
            sequence: sequence + 1,
            ..steady
        }),
        &[b"gap"],
    );
    let refused = raw::produce(&mut log, partition.clone(), gap).await;
    raw::assert_refused(refused, "OUT_OF_ORDER_SEQUENCE", &[TOPIC]);
    assert_eq!(
        raw::end(&mut log, partition.clone()).await.expect("the leader answers"),
        end
    );
    // The client begins anew by itself.
    let sent = producer.send(record("of a client, late")).await.expect("it is taken");
    assert_eq!(sent.await.expect("it is written").offset, Some(end));

    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let refused = raw::produce(&mut log, partition.clone(), late()).await;
    raw::assert_refused(refused, "UNKNOWN_PRODUCER", &[TOPIC]);
    let next = InitProducerRequest {
        producer_id: Some(silent.id),
        producer_epoch: Some(silent.epoch.into()),
    };
    log.init_producer(next).await.expect("the next epoch is given");
    let anew = Producer {
        epoch: silent.epoch + 1,
        ..silent
    };
    let written = raw::produce(&mut log, partition, raw::batch(Some(anew), &[b"anew"])).await;
    assert_eq!(written.expect("it begins anew").base_offset, end + 1);
}
