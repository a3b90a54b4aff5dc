//! Records on their way: sent one after another by one process, each answered when it is.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use jangada_check::Pending;
use jangada_check::call::{self, Call, Reply, Sent};
use jangada_client::{Client, ClientError, Delivery, Producer, ProducerConfig, ProducerRecord};
use tokio::time::{Instant, sleep_until, timeout};

use super::records::watch;
use crate::play::stage::Stage;

/// When a record must be settled that was given up after its delivery timeout: that much later.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// Records of one producer that are on their way.
pub struct Outbox {
    stage: Stage,
    process: u32,
    producer: Producer,
    delivery_timeout: Duration,
    waiting: FuturesUnordered<LocalBoxFuture<'static, ()>>,
}

impl Outbox {
    /// A new process with a producer of this client. None: the settings are wrong, which is told.
    pub fn of(stage: &Stage, client: &Client, config: ProducerConfig) -> Option<Self> {
        let delivery_timeout = config.delivery_timeout;
        match client.producer(config) {
            Ok(producer) => Some(Self {
                stage: stage.clone(),
                process: stage.process(),
                producer,
                delivery_timeout,
                waiting: FuturesUnordered::new(),
            }),
            Err(error) => {
                stage.report(format!("no producer: {error}"));
                None
            }
        }
    }

    /// A new process with an idempotent producer of a client of this name, whose records are given up after so long. None: the stage is
    /// over.
    pub async fn connect(stage: &Stage, name: &str, delivery_timeout: Duration) -> Option<Self> {
        let client = stage.until_over(stage.connect(name)).await?;
        let config = ProducerConfig {
            delivery_timeout,
            ..ProducerConfig::default()
        };
        Self::of(stage, &client, config)
    }

    /// Sends a record, or gives it up when the stage is over before it is taken.
    pub async fn send(&mut self, call: call::Send, record: ProducerRecord) {
        // A producer without an id may have sent it twice, and does not tell.
        let attempts = if call.idempotent { 1 } else { 2 };
        let pending = self.stage.recorder.invoke(self.process, Call::Send(call));
        let producer = self.producer.clone();
        let sending = async move { producer.send(record).await };
        match self.stage.until_over(sending).await {
            Some(Ok(delivery)) => {
                let settling = settle(self.stage.clone(), pending, delivery, attempts);
                self.waiting.push(settling.map(drop).boxed_local());
            }
            // It was not taken.
            Some(Err(error)) => {
                watch(&self.stage, &error);
                pending.fail();
            }
            // A call that is dropped before it returns has no effect.
            None => pending.fail(),
        }
    }

    /// Waits until no more than so many are on their way, or the stage is over.
    pub async fn settle_to(&mut self, left: usize) {
        let stage = self.stage.clone();
        let settled = async {
            while self.waiting.len() > left {
                self.waiting.next().await;
            }
        };
        stage.until_over(settled).await;
    }

    /// Pauses so long, while answers are taken as they come.
    pub async fn pause(&mut self, how_long: Duration) {
        let until = Instant::now() + how_long;
        while Instant::now() < until && !self.stage.is_over() {
            tokio::select! {
                biased;
                Some(()) = self.waiting.next() => {}
                () = self.stage.over() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Waits for all answers. None may take longer than the delivery timeout and a little, whatever goes wrong.
    pub async fn close(mut self) {
        let bound = self.delivery_timeout + SETTLED_AFTER;
        let settled = async { while self.waiting.next().await.is_some() {} };
        if timeout(bound, settled).await.is_err() {
            let left = self.waiting.len();
            self.stage.report(format!(
                "{left} records are neither stored nor given up after {bound:?}"
            ));
        }
    }
}

/// Waits for the outcome of a record and records it. Gives the offset of one that is stored.
pub async fn settle(
    stage: Stage,
    pending: Pending,
    delivery: Delivery,
    attempts: u32,
) -> Result<Option<i64>, ClientError> {
    match delivery.await {
        Ok(metadata) => {
            match metadata.offset {
                Some(offset) => pending.ok(Reply::Sent(Sent { offset, attempts })),
                // The leader has taken it, and may lose it.
                None => pending.unknown(),
            }
            Ok(metadata.offset)
        }
        Err(error) => {
            watch(&stage, &error);
            match error.is_definite() {
                true => pending.fail(),
                false => pending.unknown(),
            }
            Err(error)
        }
    }
}
