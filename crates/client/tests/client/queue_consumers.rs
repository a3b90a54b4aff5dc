//! Consumers of queues, with brokers that a test plays.

use std::time::Duration;

use bytes::Bytes;
use jangada_client::{QueueConsumer, QueueConsumerConfig, QueueDelivery};
use jangada_proto::v1;
use jangada_proto::v1::consume_request::Message as Says;
use jangada_proto::v1::consume_response::Message as Hears;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::fake::{Cluster, Opened};

pub const WAIT: Duration = Duration::from_secs(20);
pub const PREFETCH: u32 = 4;

/// A consumer of queue "q", and the streams that it opens. The leaders of its partitions are as in these answers.
pub async fn consumer(cluster: &Cluster, leaders: &[&[u32]]) -> (QueueConsumer, mpsc::UnboundedReceiver<Opened>) {
    let (opened, streams) = mpsc::unbounded_channel();
    cluster.state().queue.leaders = leaders.iter().map(|leaders| leaders.to_vec()).collect();
    cluster.state().queue.opened = Some(opened);
    let config = QueueConsumerConfig {
        prefetch: PREFETCH,
        ..QueueConsumerConfig::default()
    };
    let consumer = cluster.client().await.queue_consumer("q", config).await;
    (consumer.expect("the queue is there"), streams)
}

/// The stream that a consumer opens next, which serves these partitions.
pub async fn stream(streams: &mut mpsc::UnboundedReceiver<Opened>, partitions: &[u32]) -> Opened {
    let stream = timeout(WAIT, streams.recv()).await.expect("it opens one");
    let stream = stream.expect("the brokers live");
    stream.serves(partitions);
    stream
}

impl Opened {
    fn tell(&self, message: Hears) {
        let response = v1::ConsumeResponse { message: Some(message) };
        self.hears.send(Ok(response)).expect("the consumer listens");
    }

    fn serves(&self, partitions: &[u32]) {
        self.tell(Hears::Started(v1::ConsumeStarted {
            queue_id: vec![8; 16].into(),
            partitions: partitions.to_vec(),
        }));
    }

    pub fn deliver(&self, partition: u32, number: u8) {
        let message = v1::ReceivedMessage {
            token: token(partition, number),
            partition,
            offset: number.into(),
            body: Some(Bytes::copy_from_slice(&[number])),
            lease_left_ms: 3_600_000,
            deliveries: 1,
            ..v1::ReceivedMessage::default()
        };
        let messages = vec![message];
        self.tell(Hears::Messages(v1::ConsumeMessages { messages }));
    }

    /// Takes what the consumer says, settles all that it settles, until it has granted so many messages more.
    pub async fn granted(&mut self, credit: u32) {
        let mut granted = 0;
        while granted < credit {
            match self.said().await {
                Says::Credit(more) => granted += more,
                Says::Settle(settle) => self.settled(&settle),
                Says::Start(_) => panic!("it has begun"),
            }
        }
        assert_eq!(granted, credit);
    }

    pub async fn said(&mut self) -> Says {
        let said = timeout(WAIT, self.says.message()).await.expect("it says something");
        let said = said.expect("its stream is open").expect("it goes on");
        said.message.expect("it says what")
    }

    fn settled(&self, settle: &v1::ConsumeSettle) {
        let done = v1::settle_result::Result::Settled(v1::Settled::Done.into());
        let done = v1::SettleResult { result: Some(done) };
        self.tell(Hears::Settled(v1::ConsumeSettled {
            correlation_id: settle.correlation_id,
            results: vec![done; settle.items.len()],
        }));
    }
}

pub fn token(partition: u32, number: u8) -> Bytes {
    vec![partition as u8, number].into()
}

pub async fn next(consumer: &mut QueueConsumer, number: u8) -> QueueDelivery {
    let message = timeout(WAIT, consumer.next()).await.expect("one comes");
    let message = message.expect("the brokers are there");
    assert_eq!(message.body.as_deref(), Some(&[number][..]));
    message
}

#[tokio::test]
async fn a_partition_that_its_leader_does_not_serve_is_looked_for() {
    let cluster = Cluster::start(2);
    // The first answer is of before a change of the leader.
    let (mut consumer, mut streams) = consumer(&cluster, &[&[1, 1], &[1, 2]]).await;
    let first = stream(&mut streams, &[0]).await;
    let second = stream(&mut streams, &[1]).await;
    assert_eq!((first.broker, second.broker), (1, 2));
    second.deliver(1, 7);
    next(&mut consumer, 7).await;
}

#[tokio::test]
async fn a_message_that_comes_again_from_another_stream_takes_its_credit_and_gives_the_others_back() {
    let cluster = Cluster::start(2);
    let (mut consumer, mut streams) = consumer(&cluster, &[&[1, 2, 1], &[2, 2, 1]]).await;
    let (mut one, mut two) = match stream(&mut streams, &[]).await {
        first if first.broker == 1 => (first, stream(&mut streams, &[]).await),
        second => (stream(&mut streams, &[]).await, second),
    };
    one.serves(&[0, 2]);
    two.serves(&[1]);
    assert_eq!((one.start.credit, two.start.credit), (PREFETCH, PREFETCH));
    one.deliver(0, 1);
    one.deliver(0, 2);
    let held = [next(&mut consumer, 1).await, next(&mut consumer, 2).await];
    // Partition 0 goes to the other broker, which has a stream, and does not know what the consumer holds.
    one.tell(Hears::Moved(v1::ConsumeMoved {
        partition: 0,
        leader_id: 2,
    }));
    // Behind it on the same stream: when this has come the consumer settles no more there.
    one.deliver(2, 9);
    let _of_another_partition = next(&mut consumer, 9).await;
    two.serves(&[0, 1]);
    for number in [1, 2, 3] {
        two.deliver(0, number);
    }
    let third = next(&mut consumer, 3).await;
    one.granted(2).await;
    let [first, second] = held;
    let settled = tokio::spawn(async move {
        for message in [first, second, third] {
            message.ack().await.expect("it is settled");
        }
    });
    two.granted(3).await;
    settled.await.expect("it has not panicked");
}

#[tokio::test]
async fn a_message_that_was_acknowledged_while_it_was_on_its_way_again_is_not_handed_out() {
    let cluster = Cluster::start(2);
    let (mut consumer, mut streams) = consumer(&cluster, &[&[1], &[2]]).await;
    let one = stream(&mut streams, &[0]).await;
    one.deliver(0, 1);
    let message = next(&mut consumer, 1).await;
    drop(one);
    let mut two = stream(&mut streams, &[0]).await;
    assert_eq!(two.broker, 2);
    assert_eq!(two.start.holds, [token(0, 1)]);
    assert_eq!(two.start.credit, PREFETCH - 1);
    let acknowledged = tokio::spawn(message.ack());
    two.granted(1).await;
    acknowledged.await.expect("it has not panicked").expect("it is settled");
    // It was sent before the leader knew of the acknowledgement.
    two.deliver(0, 1);
    two.deliver(0, 2);
    next(&mut consumer, 2).await;
    two.granted(1).await;
}

#[tokio::test]
async fn a_consumer_says_that_consumers_have_as_many_messages_as_they_may() {
    let cluster = Cluster::start(2);
    let (consumer, mut streams) = consumer(&cluster, &[&[1, 2]]).await;
    let (one, two) = match stream(&mut streams, &[]).await {
        first if first.broker == 1 => (first, stream(&mut streams, &[]).await),
        second => (stream(&mut streams, &[]).await, second),
    };
    one.serves(&[0]);
    two.serves(&[1]);
    let says = |stream: &Opened, partition: u32, in_flight_full: u32| {
        stream.tell(Hears::InFlightFull(v1::ConsumeInFlightFull {
            partition,
            in_flight_full,
        }));
    };
    let becomes = async |expected: Option<u32>| {
        let becomes = async {
            loop {
                let changed = consumer.in_flight_full_changed();
                if consumer.in_flight_full() == expected {
                    return;
                }
                changed.await;
            }
        };
        timeout(WAIT, becomes).await.expect("it hears so");
    };
    assert_eq!(consumer.in_flight_full(), None);
    says(&one, 0, 10_000);
    becomes(Some(10_000)).await;
    says(&two, 1, 100_000);
    becomes(Some(100_000)).await;
    // What a stream has said ends with it.
    drop(two);
    becomes(Some(10_000)).await;
    says(&one, 0, 0);
    becomes(None).await;
}

#[tokio::test]
async fn a_consumer_that_takes_leave_waits_for_no_broker_that_has_answered() {
    let cluster = Cluster::start(2);
    let (mut consumer, mut streams) = consumer(&cluster, &[&[1, 2]]).await;
    let (mut one, mut two) = match stream(&mut streams, &[]).await {
        first if first.broker == 1 => (first, stream(&mut streams, &[]).await),
        second => (stream(&mut streams, &[]).await, second),
    };
    one.serves(&[0]);
    two.serves(&[1]);
    one.deliver(0, 1);
    drop(next(&mut consumer, 1).await);
    one.granted(1).await;
    let closing = tokio::spawn(consumer.close());
    for stream in [&mut one, &mut two] {
        let said = timeout(WAIT, stream.says.message()).await.expect("it takes leave");
        assert_eq!(said.expect("its stream is open"), None);
    }
    drop((one, two));
    timeout(Duration::from_secs(4), closing)
        .await
        .expect("nothing is waited for")
        .expect("it does not panic");
}
