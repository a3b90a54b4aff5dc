//! Exchanges with a log, with real brokers: a hundred queues over one log, what fan-out to them writes, and what they have when leaders are
//! killed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_proto::v1::exchange_service_client::ExchangeServiceClient;
use jangada_proto::v1::publish_result::Result as Outcome;
use jangada_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_proto::v1::settle_item::Settlement;
use jangada_proto::v1::{
    self, BindRequest, Binding, CreateExchangeRequest, CreateQueueRequest, DeleteExchangeRequest, DeleteQueueRequest,
    DescribeQueueRequest, ExchangeLog, ExchangeType, PublishMessage, PublishRequest, QueueCounts, QueueMessage,
    ReceiveRequest, SendRequest, SettleItem, SettleRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Cluster, Scrape, WAIT, eventually};

/// Messages of one request, and bytes of each.
const AT_ONCE: usize = 100;
const BODY_BYTES: usize = 1_024;

/// One broker's services.
#[derive(Clone)]
struct Services {
    exchanges: ExchangeServiceClient<Channel>,
    queues: QueueAdminServiceClient<Channel>,
    messages: QueueServiceClient<Channel>,
}

impl Services {
    async fn of(cluster: &Cluster, broker: u32) -> Option<Self> {
        let address = format!("http://{}", cluster.node(broker).addresses.public);
        let channel = Channel::from_shared(address)
            .expect("an address")
            .connect()
            .await
            .ok()?;
        Some(Self {
            exchanges: ExchangeServiceClient::new(channel.clone()),
            queues: QueueAdminServiceClient::new(channel.clone()),
            messages: QueueServiceClient::new(channel),
        })
    }

    async fn create_exchange(&mut self, name: &str, r#type: ExchangeType, replicas: u32) -> Result<(), Status> {
        let log = ExchangeLog {
            partitions: 1,
            replicas,
            ..ExchangeLog::default()
        };
        let request = CreateExchangeRequest {
            name: name.to_owned(),
            r#type: r#type.into(),
            log: Some(log),
            ..CreateExchangeRequest::default()
        };
        self.exchanges.create_exchange(request).await.map(drop)
    }

    async fn create_view(&mut self, name: &str, exchange: &str) -> Result<(), Status> {
        let request = CreateQueueRequest {
            name: name.to_owned(),
            exchange: exchange.to_owned(),
            if_not_exists: true,
            ..CreateQueueRequest::default()
        };
        self.queues.create_queue(request).await.map(drop)
    }

    async fn publish(
        &mut self,
        exchange: &str,
        messages: impl IntoIterator<Item = (String, Bytes)>,
    ) -> Result<Vec<Outcome>, Status> {
        let message = |(routing_key, body)| PublishMessage {
            routing_key,
            message: Some(QueueMessage {
                body,
                ..QueueMessage::default()
            }),
            mandatory: true,
        };
        let request = PublishRequest {
            exchange: exchange.to_owned(),
            messages: messages.into_iter().map(message).collect(),
            ..PublishRequest::default()
        };
        let results = self.exchanges.publish(request).await?.into_inner().results;
        Ok(results
            .into_iter()
            .map(|result| result.result.expect("it has one"))
            .collect())
    }

    /// Takes what is there, and acknowledges it: the bodies. An attempt that is made again gets what it got before.
    async fn take(&mut self, queue: &str, (session, attempt_id): (u64, u64)) -> Result<Vec<Bytes>, Status> {
        let request = ReceiveRequest {
            queue: queue.to_owned(),
            max_messages: 1_000,
            wait_ms: 200,
            session,
            attempt_id,
            ..ReceiveRequest::default()
        };
        let messages = self.messages.receive(request).await?.into_inner().messages;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let items = messages.iter().map(|message| SettleItem {
            token: message.token.clone(),
            settlement: Some(Settlement::Ack(v1::Ack {})),
        });
        let settle = SettleRequest {
            queue: queue.to_owned(),
            items: items.collect(),
            ..SettleRequest::default()
        };
        // They are ours until their lease is over, whoever leads meanwhile.
        let until = Instant::now() + WAIT;
        while let Err(status) = self.messages.settle(settle.clone()).await {
            if status.code() != Code::Unavailable || Instant::now() > until {
                return Err(status);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(messages
            .into_iter()
            .map(|message| message.body.unwrap_or_default())
            .collect())
    }

    /// Whether a queue has nothing that could come. A receive may be answered empty while what it was granted too late goes back.
    async fn is_empty(&mut self, queue: &str) -> bool {
        let request = DescribeQueueRequest {
            name: queue.to_owned(),
            ..DescribeQueueRequest::default()
        };
        let Ok(described) = self.queues.describe_queue(request).await else {
            return false;
        };
        let mut partitions = described.into_inner().partitions.into_iter();
        partitions.all(|depth| {
            let left = |counts: QueueCounts| counts.ready + counts.delayed + counts.leased + counts.waiting;
            depth.counts.map(left) == Some(0)
        })
    }

    /// All that is in a queue, by number, each as often as it came.
    async fn take_all(&mut self, queue: &str) -> BTreeMap<u64, u32> {
        let mut taken = BTreeMap::new();
        let mut is_done = false;
        let until = Instant::now() + WAIT;
        let (session, mut attempt) = (rand::random_range(1..u64::MAX), 1);
        while !is_done {
            let bodies = match self.take(queue, (session, attempt)).await {
                Ok(bodies) => bodies,
                // A leader that was just elected has not opened the queue.
                Err(status) if status.code() == Code::Unavailable && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(status) => panic!("queue {queue} gives nothing: {status}"),
            };
            is_done = bodies.is_empty() && self.is_empty(queue).await;
            assert!(
                is_done || Instant::now() < until,
                "queue {queue} does not come to its end"
            );
            attempt += 1;
            for body in bodies {
                let number = u64::from_be_bytes(body[..8].try_into().expect("it begins with a number"));
                *taken.entry(number).or_default() += 1;
            }
        }
        taken
    }
}

fn body(number: u64) -> Bytes {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(BODY_BYTES, b'.');
    body.into()
}

async fn written(cluster: &Cluster) -> f64 {
    let mut written = 0.0;
    for broker in cluster.ids() {
        let scrape = Scrape::of(cluster, broker).await;
        written += scrape
            .sum("jangada_store_written_bytes_total", &[])
            .expect("it is there");
    }
    written
}

/// What publishing so many messages to an exchange with so many views writes, bytes.
async fn writes(cluster: &Cluster, views: u32, messages: u64) -> f64 {
    let mut services = Services::of(cluster, 1).await.expect("it serves");
    let exchange = format!("to-{views}");
    let created = services.create_exchange(&exchange, ExchangeType::Fanout, 3).await;
    created.expect("it is created");
    for number in 0..views {
        let view = format!("{exchange}-{number}");
        services.create_view(&view, &exchange).await.expect("it is created");
    }
    let before = written(cluster).await;
    for first in (0..messages).step_by(AT_ONCE) {
        let batch = (first..first + AT_ONCE as u64).map(|number| (String::new(), body(number)));
        let outcomes = services.publish(&exchange, batch).await.expect("it is published");
        assert!(
            outcomes.iter().all(|outcome| matches!(outcome, Outcome::Published(_))),
            "{outcomes:?}"
        );
    }
    let wrote = written(cluster).await - before;
    let mut counts = BTreeSet::new();
    for number in 0..views {
        let taken = services.take_all(&format!("{exchange}-{number}")).await;
        assert!(taken.values().all(|times| *times == 1), "queue {number} got some twice");
        counts.insert(taken.len() as u64);
    }
    assert_eq!(counts, BTreeSet::from([messages]), "each queue got all");
    wrote
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fan_out_to_a_hundred_queues_writes_what_fan_out_to_one_does() {
    let cluster = Cluster::start(3).await;
    let messages = 2_000;
    let one = writes(&cluster, 1, messages).await;
    let hundred = writes(&cluster, 100, messages).await;
    let share = hundred / one;
    println!(
        "{messages} messages of {BODY_BYTES} bytes, on three brokers: to one queue {one} bytes, to 100 {hundred}: {share:.3}"
    );
    assert!(one > (messages as usize * BODY_BYTES) as f64, "{one}");
    assert!(share <= 1.2, "{share}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_in_all_of_its_queues_or_in_none_while_leaders_are_killed() {
    const VIEWS: u32 = 100;
    let mut cluster = Cluster::start(3).await;
    let mut services = Services::of(&cluster, 1).await.expect("it serves");
    services
        .create_exchange("all", ExchangeType::Fanout, 3)
        .await
        .expect("it is created");
    for number in 0..VIEWS {
        services
            .create_view(&format!("v{number}"), "all")
            .await
            .expect("it is created");
    }
    let (mut confirmed, mut refused, mut unknown) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut next = 0;
    for kill in 0..4 {
        let victim = cluster.leader("__exchange.all", 0).await;
        let publisher = cluster
            .ids()
            .into_iter()
            .find(|id| *id != victim)
            .expect("there are three");
        let mut services = Services::of(&cluster, publisher).await.expect("it serves");
        let publishing = tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for round in 0..40_u64 {
                let first = next + round * 10;
                let batch = (first..first + 10).map(|number| (String::new(), body(number)));
                outcomes.push((first, services.publish("all", batch).await));
            }
            outcomes
        });
        // The moment of the kill is chance: it is to hit an append at every step of its way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..400))).await;
        cluster.kill(victim);
        for (first, outcomes) in publishing.await.expect("it has not panicked") {
            for at in 0..10 {
                let number = first + at;
                match outcomes.as_ref().map(|outcomes| &outcomes[at as usize]) {
                    Ok(Outcome::Published(_)) => confirmed.insert(number),
                    Ok(Outcome::Error(error)) if is_definite(error) => refused.insert(number),
                    Ok(Outcome::Error(_)) | Err(_) => unknown.insert(number),
                };
            }
        }
        next += 400;
        cluster.restart(victim);
        cluster.healthy().await;
        assert!(kill < 4);
    }
    let mut services = Services::of(&cluster, 1).await.expect("it serves");
    let mut first: Option<BTreeSet<u64>> = None;
    for number in 0..VIEWS {
        let taken = services.take_all(&format!("v{number}")).await;
        assert!(taken.values().all(|times| *times == 1), "queue {number} got some twice");
        let numbers: BTreeSet<u64> = taken.into_keys().collect();
        let expected = first.get_or_insert_with(|| numbers.clone());
        assert_eq!(*expected, numbers, "queue {number} has others than queue 0");
    }
    let has = first.expect("there are queues");
    assert!(
        confirmed.is_subset(&has),
        "lost: {:?}",
        confirmed.difference(&has).collect::<Vec<_>>()
    );
    assert!(
        refused.is_disjoint(&has),
        "refused, and there: {:?}",
        refused.intersection(&has).collect::<Vec<_>>()
    );
    println!(
        "4 leaders killed, {} messages confirmed, {} refused, {} of unknown outcome of which {} are there; all in each of {VIEWS} queues \
         or in none",
        confirmed.len(),
        refused.len(),
        unknown.len(),
        unknown.intersection(&has).count()
    );
    assert!(confirmed.len() > 400, "{} were confirmed", confirmed.len());
}

fn is_definite(error: &v1::Error) -> bool {
    error.metadata.get("definite").map(String::as_str) != Some("false")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_a_topic_exchange_with_a_log_gets_what_matches_and_nothing_else() {
    let cluster = Cluster::start(1).await;
    let mut services = Services::of(&cluster, 1).await.expect("it serves");
    services
        .create_exchange("some", ExchangeType::Topic, 1)
        .await
        .expect("it is created");
    for number in 0..40 {
        let view = format!("s{number}");
        services.create_view(&view, "some").await.expect("it is created");
        // Each tenth message, all of even numbers, or all.
        let pattern = match number {
            0..20 => format!("*.{}.#", number % 10),
            20..30 => "even.#".to_owned(),
            _ => "#".to_owned(),
        };
        let binding = Binding {
            destination: Some(v1::binding::Destination::Queue(view)),
            routing_key: pattern,
            headers: None,
        };
        let request = BindRequest {
            name: "some".to_owned(),
            bindings: vec![binding],
        };
        services.exchanges.bind(request).await.expect("it is bound");
    }
    let key = |number: u64| {
        format!(
            "{}.{}",
            if number.is_multiple_of(2) { "even" } else { "odd" },
            number % 10
        )
    };
    for first in (0..1_000).step_by(AT_ONCE) {
        let batch = (first..first + AT_ONCE as u64).map(|number| (key(number), body(number)));
        let outcomes = services.publish("some", batch).await.expect("it is published");
        assert!(
            outcomes.iter().all(|outcome| matches!(outcome, Outcome::Published(_))),
            "{outcomes:?}"
        );
    }
    for queue in 0..40 {
        let taken = services.take_all(&format!("s{queue}")).await;
        let matches = |number: &u64| match queue {
            0..20 => number % 10 == queue % 10,
            20..30 => number.is_multiple_of(2),
            _ => true,
        };
        let expected: BTreeMap<u64, u32> = (0..1_000).filter(matches).map(|number| (number, 1)).collect();
        assert_eq!(taken, expected, "queue {queue}");
    }
    // Nothing is left: what is for others is done in each.
    eventually("no queue has a message", WAIT, || async {
        let admin = cluster.admin().await;
        for queue in 0..40 {
            let described = admin.describe_queue(&format!("s{queue}")).await.ok()?;
            let depth = described.partitions.first()?;
            if depth.counts.as_ref()?.ready > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_with_a_log_and_its_queues_belong_together() {
    let cluster = Cluster::start(1).await;
    let mut services = Services::of(&cluster, 1).await.expect("it serves");
    services
        .create_exchange("all", ExchangeType::Fanout, 1)
        .await
        .expect("it is created");
    services.create_view("v", "all").await.expect("it is created");
    let refused = |status: Status, word: &str| assert!(status.message().contains(word), "{status:?}");
    let send = SendRequest {
        queue: "v".to_owned(),
        messages: vec![QueueMessage::default()],
        ..SendRequest::default()
    };
    refused(
        services.messages.send(send).await.expect_err("it takes none"),
        "view over the log",
    );
    let delayed = PublishMessage {
        message: Some(QueueMessage {
            due: Some(v1::queue_message::Due::DelayMs(1_000)),
            ..QueueMessage::default()
        }),
        ..PublishMessage::default()
    };
    let request = PublishRequest {
        exchange: "all".to_owned(),
        messages: vec![delayed],
        ..PublishRequest::default()
    };
    let results = services
        .exchanges
        .publish(request)
        .await
        .expect("it is answered")
        .into_inner()
        .results;
    assert!(
        matches!(&results[0].result, Some(Outcome::Error(error)) if error.message.contains("a delay")),
        "{results:?}"
    );
    let delete = || DeleteExchangeRequest {
        name: "all".to_owned(),
        if_unused: false,
    };
    refused(
        services
            .exchanges
            .delete_exchange(delete())
            .await
            .expect_err("it has a view"),
        "delete those queues first",
    );
    let queue = DeleteQueueRequest {
        name: "v".to_owned(),
        ..DeleteQueueRequest::default()
    };
    services.queues.delete_queue(queue).await.expect("it is deleted");
    services
        .exchanges
        .delete_exchange(delete())
        .await
        .expect("it is deleted");
}
