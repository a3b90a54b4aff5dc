//! Bad requests about queues, from outside: each is refused with its reason and what to do, and changes nothing.

mod in_transactions;
mod rows;

use jangada_client::{
    QueueCounts, QueueMessage, QueueProducerConfig, ReceiveOptions, TransactionOptions, TransactionalProducer,
};
use jangada_proto::v1;
use jangada_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_proto::v1::send_result::Result as Sent;
use jangada_proto::v1::settle_result::Result as Settled;
use tonic::Status;
use tonic::transport::Channel;

use self::rows::{acks, of_messages, of_settings, of_tokens, sealed};
use super::queues::create_queue;
use crate::harness::groups::Coordinator;
use crate::harness::{Cluster, WAIT, eventually, raw};

/// What is asked, all of it of queue "jobs" unless it says otherwise.
enum Asks {
    Send(v1::SendRequest),
    Receive(v1::ReceiveRequest),
    Settle(v1::SettleRequest),
    Cancel(v1::CancelRequest),
    Peek(v1::PeekRequest),
    Schedule(v1::PutScheduleRequest),
    Create(v1::CreateQueueRequest),
    Alter(v1::AlterQueueRequest),
    Join(v1::HeartbeatRequest),
}

/// The services of one broker.
struct Broker {
    messages: QueueServiceClient<Channel>,
    admin: QueueAdminServiceClient<Channel>,
    group: Coordinator,
}

impl Broker {
    async fn of(cluster: &Cluster) -> Broker {
        let address = format!("http://{}", cluster.node(1).addresses.public);
        let messages = QueueServiceClient::connect(address.clone()).await.expect("it serves");
        let admin = QueueAdminServiceClient::connect(address).await.expect("it serves");
        Broker {
            messages: messages.max_encoding_message_size(64 << 20),
            admin,
            group: Coordinator::new(cluster.brokers(), "workers"),
        }
    }

    /// The reason and the message of the refusal.
    async fn refusal(&mut self, asks: Asks) -> (String, String) {
        let refused: Result<(), Status> = match asks {
            Asks::Send(request) => match self.messages.send(request).await {
                Ok(sent) => {
                    let mut refused = sent.into_inner().results.into_iter().map(|result| match result.result {
                        Some(Sent::Error(error)) => (error.reason, error.message),
                        other => (format!("{other:?}"), String::new()),
                    });
                    return refused.next().expect("a result for each message");
                }
                Err(status) => Err(status),
            },
            Asks::Receive(request) => self.messages.receive(request).await.map(drop),
            Asks::Settle(request) => match self.messages.settle(request).await {
                Ok(settled) => {
                    let mut refused = settled
                        .into_inner()
                        .results
                        .into_iter()
                        .map(|result| match result.result {
                            Some(Settled::Error(error)) => (error.reason, error.message),
                            other => (format!("{other:?}"), String::new()),
                        });
                    return refused.next().expect("a result for each item");
                }
                Err(status) => Err(status),
            },
            Asks::Cancel(request) => self.messages.cancel(request).await.map(drop),
            Asks::Peek(request) => self.messages.peek(request).await.map(drop),
            Asks::Schedule(request) => self.admin.put_schedule(request).await.map(drop),
            Asks::Create(request) => self.admin.create_queue(request).await.map(drop),
            Asks::Alter(request) => self.admin.alter_queue(request).await.map(drop),
            Asks::Join(request) => self.group.heartbeat(request).await.map(drop),
        };
        match refused {
            Ok(()) => ("nothing".to_owned(), "it was taken".to_owned()),
            Err(status) => (raw::reason(&status), status.message().to_owned()),
        }
    }
}

/// What there is of each queue, and what was set.
async fn everything(cluster: &Cluster) -> Option<Vec<String>> {
    let admin = cluster.admin().await;
    let mut all = Vec::new();
    for queue in admin.list_queues().await.ok()? {
        let described = admin.describe_queue(&queue.name).await.ok()?;
        for depth in described.partitions {
            let QueueCounts {
                ready,
                delayed,
                leased,
                waiting,
                dead,
                tally,
                ..
            } = depth.counts?;
            all.push(format!(
                "{ready} {delayed} {leased} {waiting} {dead} {} sent",
                tally.sent
            ));
        }
        all.push(format!("{:?} {:?}", described.queue, described.config));
        all.push(format!("{:?}", admin.list_schedules(&queue.name).await.ok()?));
    }
    Some(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_with_their_reason_and_change_nothing() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "others", 1, &[]).await;
    create_queue(&cluster, "jobs", 2, &["queue.dead.letter.topic=others"]).await;
    create_queue(&cluster, "urgent", 1, &["queue.priorities=3"]).await;
    create_queue(&cluster, "ordered", 1, &["queue.order=key"]).await;
    create_queue(&cluster, "deduped", 1, &["queue.dedup=id"]).await;
    let client = cluster.client().await;
    // So that there is a transactional id, and a shard that has it.
    let opened = TransactionalProducer::open(&client, in_transactions::ID, TransactionOptions::default()).await;
    let _producer = opened.expect("the id is free to take");
    let mut tokens = Vec::new();
    for queue in ["jobs", "others"] {
        let producer = client
            .queue_producer(queue, QueueProducerConfig::default())
            .await
            .expect("it is there");
        for sent in producer
            .send_batch(vec![QueueMessage::new("a"), QueueMessage::new("b")])
            .await
        {
            sent.expect("it is sent");
        }
        let options = ReceiveOptions {
            messages: 1,
            wait: WAIT,
            lease: Some(std::time::Duration::from_secs(3_600)),
            ..ReceiveOptions::default()
        };
        let received = client.queue(queue).receive(options).await.expect("a broker answers");
        tokens.push(received[0].token.0.clone());
    }
    let before = eventually("all leaders answer", WAIT, || everything(&cluster)).await;
    let mut broker = Broker::of(&cluster).await;
    let rows = [
        of_messages(),
        of_tokens(&tokens[0], &tokens[1]),
        of_settings(),
        in_transactions::rows(&tokens[0]),
    ];
    let mut wrong = Vec::new();
    for (what, asks, expected, named) in rows.into_iter().flatten() {
        let (reason, text) = broker.refusal(asks).await;
        let missing: Vec<_> = named.iter().filter(|name| !text.contains(**name)).collect();
        if reason != expected || !missing.is_empty() {
            wrong.push(format!("{what}: {reason} {text:?}, not {expected} with {missing:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Deliveries that were never made are nobody's: that is an answer, and no error.
    for future in [
        sealed(&tokens[0], |bytes| {
            bytes[9..17].copy_from_slice(&(u64::MAX >> 1).to_be_bytes())
        }),
        sealed(&tokens[0], |bytes| {
            bytes[17..25].copy_from_slice(&u64::MAX.to_be_bytes())
        }),
    ] {
        let Asks::Settle(request) = acks(vec![future]) else {
            unreachable!("it settles")
        };
        let settled = broker
            .messages
            .settle(request)
            .await
            .expect("it is a token")
            .into_inner();
        let settled = settled
            .results
            .into_iter()
            .map(|result| result.result)
            .collect::<Vec<_>>();
        let lost = v1::settle_result::Result::Settled(v1::Settled::LeaseLost.into());
        assert_eq!(settled, [Some(lost)]);
    }
    let after = eventually("all leaders answer", WAIT, || everything(&cluster)).await;
    assert_eq!(after, before, "nothing has changed");
}
