//! The connection is cut after a batch is committed and before its answer is through. The client sends it again: without idempotence it is
//! there twice, which shows that the rig does what it says, and with idempotence once.

use std::time::Duration;

use jangada_client::{ProducerConfig, ProducerRecord};
use jangada_proto::v1::RecordForm;

use crate::harness::{Cluster, Options, WAIT, eventually, raw};

const TOPIC: &str = "orders";

const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_reply_gives_a_duplicate_only_without_idempotence() {
    let options = Options {
        proxied: true,
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let leader = cluster.leader(TOPIC, 0).await;
    // Past the proxy: what the leader has is seen whatever the producer is told.
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let client = cluster.client().await;
    for (idempotent, copies) in [(true, 1), (false, 2)] {
        let config = ProducerConfig {
            idempotent,
            linger: Duration::ZERO,
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).expect("the settings are valid");
        for round in 0..ROUNDS {
            let value = format!("idempotent {idempotent}, round {round}");
            println!("{value}");
            // It opens the connection, and gives the producer its id.
            let record = ProducerRecord::new(TOPIC).with_value("before");
            let sent = producer.send(record).await.expect("it is taken");
            let before = sent.await.expect("it is written").offset.expect("a quorum has it") + 1;

            cluster.proxy(leader).lose_answers();
            let record = ProducerRecord::new(TOPIC).with_value(value.clone());
            let mut sent = producer.send(record).await.expect("it is taken");
            eventually("the batch is committed", WAIT, || {
                let mut log = log.clone();
                async move {
                    let end = raw::end(&mut log, raw::partition(TOPIC, 0)).await.ok()?;
                    (end > before).then_some(())
                }
            })
            .await;
            assert!(sent.try_result().is_none(), "the answer got through");
            cluster.proxy(leader).cut();
            let delivered = (&mut sent).await.expect("it is sent again");
            assert_eq!(delivered.offset, Some(before + copies - 1));
            assert_eq!(delivered.duplicate, idempotent);

            let fetched = raw::fetch(&mut log, raw::partition(TOPIC, 0), before, RecordForm::Plain)
                .await
                .expect("its leader serves");
            let found: Vec<String> = fetched
                .records
                .iter()
                .map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned())
                .collect();
            assert_eq!(found, vec![value; usize::try_from(copies).expect("few")]);
        }
        producer.close().await;
    }
}
