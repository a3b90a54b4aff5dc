//! Orders of a shop: keyed records of one topic, written until they are told to stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jangada_client::{ProducerConfig, ProducerRecord};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Cluster, WAIT};

/// Interval between two orders.
const SEND_INTERVAL: Duration = Duration::from_millis(2);

/// Number of customers; each is a key, and so has its partition.
const CUSTOMERS: u64 = 500;

/// Most orders whose answers have not been taken yet.
const UNANSWERED_MAX: usize = 20_000;

/// Key and value by partition and offset.
pub type Written = BTreeMap<(u32, i64), (String, String)>;

/// A writer at work.
pub struct Orders {
    stop: watch::Sender<bool>,
    next: Arc<AtomicU64>,
    written: Arc<Mutex<Written>>,
    writer: JoinHandle<()>,
}

fn order(number: u64) -> (String, String) {
    let customer = number * 7919 % CUSTOMERS;
    let (sku, quantity) = (number * 31 % 977, 1 + number % 4);
    let price = 199 + number * 17 % 9_800;
    let total = quantity * price;
    let line = format!(r#"{{"sku":"SKU-{sku:05}","quantity":{quantity},"cents":{price}}}"#);
    let value = format!(r#"{{"order":{number},"customer":{customer},"lines":[{line}],"total":{total}}}"#);
    (format!("customer-{customer:04}"), value)
}

/// The number of an order, from its value.
pub fn number_of(value: &str) -> u64 {
    let order: serde_json::Value = serde_json::from_str(value).expect("an order");
    order["order"].as_u64().expect("its number")
}

impl Orders {
    /// Begins to write.
    pub async fn start(cluster: &Cluster, topic: &str) -> Orders {
        let config = ProducerConfig {
            linger: Duration::from_millis(1),
            ..ProducerConfig::default()
        };
        let producer = cluster.client().await.producer(config).expect("the settings are valid");
        let (stop, mut stopping) = watch::channel(false);
        let (sent, mut waiting) = mpsc::channel(UNANSWERED_MAX);
        let next = Arc::new(AtomicU64::new(0));
        let topic: Arc<str> = topic.into();
        let numbers = next.clone();
        let sending = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SEND_INTERVAL);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stopping.changed() => return,
                }
                let (key, value) = order(numbers.fetch_add(1, Ordering::SeqCst));
                let record = ProducerRecord::new(topic.clone());
                let record = record.with_key(key.clone()).with_value(value.clone());
                let delivery = producer.send(record).await.expect("the producer takes it");
                sent.send((key, value, delivery)).await.expect("somebody waits for it");
            }
        });
        let written: Arc<Mutex<Written>> = Arc::default();
        let writer = tokio::spawn({
            let written = written.clone();
            async move {
                while let Some((key, value, delivery)) = waiting.recv().await {
                    let at = delivery.await.expect("it is written");
                    let offset = at.offset.expect("a quorum was asked for");
                    let before = written
                        .lock()
                        .expect("no panic")
                        .insert((at.partition, offset), (key, value));
                    assert_eq!(before, None, "two records at offset {offset}");
                }
                sending.await.expect("it was told to stop");
            }
        });
        Orders {
            stop,
            next,
            written,
            writer,
        }
    }

    /// The number of the next order: those that are sent from now on have this one or a higher one.
    pub fn next_number(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Ends it when all is acknowledged; returns what was written.
    pub async fn stop(self) -> Written {
        self.stop.send_replace(true);
        tokio::time::timeout(WAIT, self.writer)
            .await
            .expect("all is answered")
            .expect("the writer did not fail");
        std::mem::take(&mut self.written.lock().expect("no panic"))
    }
}
