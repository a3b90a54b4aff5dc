//! Work queues while disks are full: messages are refused, and acknowledgements taken.

use std::time::Duration;

use jangada_client::{BrokerId, QueueMessage, QueueProducerConfig, Reason, ReceiveOptions, Settled, Settlement};

use super::queues::create_queue;
use crate::harness::{Cluster, Options, SmallDisk, WAIT, eventually, skipped};

const QUEUE: &str = "jobs";
const DISK_BYTES: u64 = 256 * 1024 * 1024;
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// More than half of the reserve: acknowledgements are taken there.
const LEFT_BYTES: u64 = RESERVE_BYTES * 3 / 4;
/// The node with the small disk.
const POOR: u32 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_messages_and_takes_acknowledgements() {
    let disk = match SmallDisk::mount(DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => {
            let why = format!("it takes a file system of its own, which only root may mount: {why}");
            return skipped("a_full_disk_refuses_messages_and_takes_acknowledgements", &why);
        }
    };
    let options = Options {
        stopped: true,
        sections: "[cluster]\npreferred_leader_after_ms = 0".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    super::disk_full::give_disk(&cluster, &disk);
    cluster.start_all();
    cluster.healthy().await;
    create_queue(&cluster, QUEUE, 1, &[]).await;
    let admin = cluster.admin().await;
    let led = admin.transfer_leader(QUEUE, 0, BrokerId(POOR)).await;
    assert_eq!(led.expect("all are in sync").id, BrokerId(POOR));
    let client = cluster.client().await;
    let config = QueueProducerConfig {
        send_timeout: Duration::from_millis(500),
        ..QueueProducerConfig::default()
    };
    let producer = client.queue_producer(QUEUE, config).await.expect("the queue is there");
    for number in 0..10_u32 {
        producer
            .send(QueueMessage::new(number.to_string()))
            .await
            .expect("there is space");
    }
    let options = ReceiveOptions {
        messages: 10,
        wait: Duration::from_secs(10),
        ..ReceiveOptions::default()
    };
    let got = client
        .queue(QUEUE)
        .receive(options.clone())
        .await
        .expect("its leader answers");
    assert_eq!(got.len(), 10);
    disk.fill(LEFT_BYTES);
    let refused = eventually("the node looks at its disk", WAIT, || async {
        producer.send(QueueMessage::new("meanwhile")).await.err()
    })
    .await;
    assert_eq!(refused.reason(), Some(Reason::DiskFull), "{refused}");
    let items = got
        .into_iter()
        .map(|message| (message.token, Settlement::Ack))
        .collect();
    let settled = client
        .queue(QUEUE)
        .settle(items)
        .await
        .expect("acknowledgements are taken");
    assert!(settled.iter().all(|settled| *settled == Settled::Done), "{settled:?}");
    disk.empty();
    eventually("there is space again", WAIT, || async {
        producer.send(QueueMessage::new("after")).await.ok()
    })
    .await;
}
