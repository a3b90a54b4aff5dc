//! Consumers of a queue: by `receive`, and by streams.

use std::time::Duration;

use jangada_client::{
    Queue, QueueConsumer, QueueConsumerConfig, QueueDelivery, ReceiveOptions, ReceivedMessage, Settled, Settlement,
};
use jangada_env::Random;
use tokio::time::timeout;

use super::caller::Caller;
use super::draw::{millis, number, one_of, percent};
use super::plan::{Habit, Habits, habit};
use crate::play::stage::Stage;

/// A stream is waited for so long before the stage is looked at again.
const LOOK: Duration = Duration::from_millis(300);
/// A consumer that takes leave waits so long, at most.
const LEAVE_MAX: Duration = Duration::from_secs(6);
/// The least lease of a stream.
const STREAM_LEASE_MIN: Duration = Duration::from_secs(1);

/// How a queue is consumed.
#[derive(Clone, Debug)]
pub(crate) struct Consuming {
    pub queue: String,
    pub lease: Duration,
    pub habits: Habits,
    /// Of this partition alone; none: of any.
    pub partition: Option<u32>,
}

/// Receives messages and settles them by habit, until the stage is over.
pub(crate) async fn receive(stage: Stage, name: String, how: Consuming) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, &name)).await else {
        return;
    };
    let queue = caller.client.queue(how.queue.as_str());
    while !stage.is_over() {
        let options = ReceiveOptions {
            messages: number(&random, 1..5) as u32,
            wait: millis(&random, 0..800),
            lease: Some(how.lease),
            partition: how.partition,
            ..ReceiveOptions::default()
        };
        let messages = caller.receive(&queue, options).await;
        if messages.is_empty() {
            stage.pause(millis(&random, 50..300)).await;
        }
        for message in messages {
            stage.pause(millis(&random, 0..40)).await;
            if stage.is_over() || !treat(&caller, &queue, &how, &message, &random).await {
                // Whatever else it has goes out when its lease is over.
                caller.dies();
                break;
            }
        }
    }
}

/// Does with a message what its habit says. False: the consumer dies.
async fn treat(caller: &Caller, queue: &Queue, how: &Consuming, message: &ReceivedMessage, random: &Random) -> bool {
    let (stage, lease) = (&caller.stage, how.lease);
    match habit(&how.habits, random) {
        Habit::Die => return false,
        Habit::Slow => stage.pause(lease.mul_f64(0.6)).await,
        Habit::Late => stage.pause(lease + millis(random, 0..1_000)).await,
        Habit::Extend => {
            stage.pause(lease.mul_f64(0.5)).await;
            let longer = Settlement::Extend { lease: Some(lease) };
            if caller.settle(queue, message, longer).await == Some(Settled::Done) {
                stage.pause(lease.mul_f64(0.6)).await;
            }
        }
        at_once => {
            let settlement = at_once.settlement(random).unwrap_or(Settlement::Ack);
            caller.settle(queue, message, settlement).await;
            return true;
        }
    }
    caller.settle(queue, message, Settlement::Ack).await;
    true
}

/// Consumes by streams, one consumer after another, until the stage is over.
pub(crate) async fn stream(stage: Stage, name: String, how: Consuming) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, &name)).await else {
        return;
    };
    while !stage.is_over() {
        let config = QueueConsumerConfig {
            prefetch: one_of(&random, &[1, 3, 16]),
            lease: percent(&random, 50).then(|| how.lease.max(STREAM_LEASE_MIN)),
            extend_for: one_of(&random, &[Duration::ZERO, Duration::from_secs(3_600)]),
            ..QueueConsumerConfig::default()
        };
        let Some(opened) = stage
            .until_over(caller.client.queue_consumer(how.queue.as_str(), config))
            .await
        else {
            return;
        };
        match opened {
            Ok(consumer) => live(&caller, consumer, &how, &random).await,
            Err(error) => {
                stage.note(&format!("no consumer of {}: {error}", how.queue));
                stage.pause(millis(&random, 100..600)).await;
            }
        }
        caller.dies();
    }
}

/// The life of one consumer.
async fn live(caller: &Caller, mut consumer: QueueConsumer, how: &Consuming, random: &Random) {
    let stage = &caller.stage;
    let until = stage.sim.now() + millis(random, 1_000..6_000);
    // What it works on for long.
    let mut kept: Vec<QueueDelivery> = Vec::new();
    while !stage.is_over() && stage.sim.now() < until {
        let delivery = match timeout(LOOK, consumer.next()).await {
            Ok(Ok(delivery)) => delivery,
            Ok(Err(error)) if error.is_retryable() => continue,
            Ok(Err(error)) => {
                stage.note(&format!("the consumer of {} has ended: {error}", how.queue));
                break;
            }
            Err(_) => continue,
        };
        caller.came(&how.queue, &delivery);
        match habit(&how.habits, random) {
            Habit::Die => {
                // What is dropped is given back.
                drop(consumer);
                return;
            }
            Habit::Slow | Habit::Late => kept.push(delivery),
            Habit::Extend => {
                let lease = how.lease.max(STREAM_LEASE_MIN);
                if delivery.extend(lease).await.is_ok() {
                    caller.settle_delivery(&how.queue, delivery, Settlement::Ack).await;
                }
            }
            at_once => {
                let settlement = at_once.settlement(random).unwrap_or(Settlement::Ack);
                caller.settle_delivery(&how.queue, delivery, settlement).await;
            }
        }
    }
    let is_orderly = percent(random, 50);
    if is_orderly {
        for delivery in kept.drain(..) {
            caller.settle_delivery(&how.queue, delivery, Settlement::Ack).await;
        }
    }
    drop(kept);
    match percent(random, 50) {
        true => drop(timeout(LEAVE_MAX, consumer.close()).await),
        false => drop(consumer),
    }
}
