//! Exchanges from outside: created, described, bound, traced and deleted at any broker, and messages that are published to them.

mod bad_input;
mod outcomes;
mod routing;

use std::collections::BTreeSet;

use jangada_proto::v1::binding::Destination;
use jangada_proto::v1::exchange_service_client::ExchangeServiceClient;
use jangada_proto::v1::publish_result::Result as Published;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_proto::v1::*;
use tonic::transport::Channel;

use super::golden_data::{archives, join, started_with};
use super::queues::create_queue;
use crate::harness::{Cluster, Scrape, WAIT, eventually, raw};

/// A broker's exchange service.
pub(super) type Exchanges = ExchangeServiceClient<Channel>;

pub(super) async fn service(cluster: &Cluster, id: u32) -> Exchanges {
    let address = format!("http://{}", cluster.node(id).addresses.public);
    ExchangeServiceClient::connect(address).await.expect("it listens")
}

pub(super) fn exchange(name: &str, kind: ExchangeType) -> CreateExchangeRequest {
    CreateExchangeRequest {
        name: name.to_owned(),
        r#type: kind.into(),
        ..CreateExchangeRequest::default()
    }
}

pub(super) fn to_queue(queue: &str, routing_key: &str) -> Binding {
    Binding {
        destination: Some(Destination::Queue(queue.to_owned())),
        routing_key: routing_key.to_owned(),
        headers: None,
    }
}

fn to_exchange(exchange: &str, routing_key: &str) -> Binding {
    Binding {
        destination: Some(Destination::Exchange(exchange.to_owned())),
        ..to_queue("", routing_key)
    }
}

fn header(key: &str, value: Option<&'static str>) -> RecordHeader {
    RecordHeader {
        key: key.to_owned(),
        value: value.map(|value| value.as_bytes().into()),
    }
}

fn by_headers(queue: &str, mode: HeaderMatchMode, headers: Vec<RecordHeader>) -> Binding {
    Binding {
        headers: Some(HeaderMatch {
            mode: mode.into(),
            headers,
        }),
        ..to_queue(queue, "")
    }
}

pub(super) async fn bind(service: &mut Exchanges, name: &str, bindings: Vec<Binding>) {
    let request = BindRequest {
        name: name.to_owned(),
        bindings,
    };
    service.bind(request).await.expect("they are bound");
}

pub(super) fn message(routing_key: &str, body: &str) -> PublishMessage {
    PublishMessage {
        routing_key: routing_key.to_owned(),
        message: Some(QueueMessage {
            body: body.to_owned().into(),
            ..QueueMessage::default()
        }),
        mandatory: true,
    }
}

fn request(exchange: &str, messages: Vec<PublishMessage>) -> PublishRequest {
    PublishRequest {
        exchange: exchange.to_owned(),
        messages,
        ..PublishRequest::default()
    }
}

/// Of each message what became of it.
async fn publish(service: &mut Exchanges, request: PublishRequest) -> Vec<Published> {
    let count = request.messages.len();
    let answer = service
        .publish(request)
        .await
        .expect("the call is answered")
        .into_inner();
    assert_eq!(answer.results.len(), count);
    let results = answer.results.into_iter();
    results.map(|result| result.result.expect("it is set")).collect()
}

/// The queues that have a message, by name, or the reason why not all have it, with `definite`.
fn queues_of(published: &Published) -> Result<Vec<&str>, (&str, &str)> {
    match published {
        Published::Published(published) => {
            let mut queues: Vec<&str> = published.places.iter().map(|place| place.queue.as_str()).collect();
            queues.sort_unstable();
            Ok(queues)
        }
        Published::Error(error) => Err((&error.reason, &error.metadata["definite"])),
    }
}

/// Publishes one message, and says which queues have it.
async fn published_to(service: &mut Exchanges, exchange: &str, message: PublishMessage) -> BTreeSet<String> {
    let published = publish(service, request(exchange, vec![message])).await;
    let queues = queues_of(&published[0]).unwrap_or_else(|error| panic!("{error:?}: {published:?}"));
    queues.into_iter().map(str::to_owned).collect()
}

fn names(queues: &[&str]) -> BTreeSet<String> {
    queues.iter().map(|queue| (*queue).to_owned()).collect()
}

/// The messages that a queue has, by partition, in their order.
pub(super) async fn messages_in(cluster: &Cluster, queue: &str, partitions: u32) -> Vec<Vec<ReceivedMessage>> {
    let mut all = Vec::new();
    for partition in 0..partitions {
        let what = format!("partition {partition} of {queue} is shown");
        let peeked = eventually(&what, WAIT, || peek(cluster, queue, partition));
        all.push(peeked.await);
    }
    all
}

async fn peek(cluster: &Cluster, queue: &str, partition: u32) -> Option<Vec<ReceivedMessage>> {
    let address = format!("http://{}", cluster.node(1).addresses.public);
    let mut service = QueueServiceClient::connect(address).await.ok()?;
    let mut messages = Vec::new();
    let mut from_offset = 0;
    loop {
        let request = PeekRequest {
            queue: queue.to_owned(),
            partition,
            from_offset,
            limit: 1_000,
            ..PeekRequest::default()
        };
        let shown = service.peek(request).await.ok()?.into_inner();
        messages.extend(shown.messages.into_iter().filter_map(|shown| shown.message));
        match shown.next_offset {
            0 => return Some(messages),
            next => from_offset = next,
        }
    }
}

pub(super) fn body(message: &ReceivedMessage) -> String {
    let body = message.body.clone().expect("it was published with a body");
    String::from_utf8(body.to_vec()).expect("it is text")
}

/// The bodies in a queue, ascending.
async fn bodies_in(cluster: &Cluster, queue: &str, partitions: u32) -> Vec<String> {
    let messages = messages_in(cluster, queue, partitions).await;
    let mut bodies: Vec<String> = messages.iter().flatten().map(body).collect();
    bodies.sort();
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_come_change_and_go_at_any_broker() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 2, &[]).await;
    create_queue(&cluster, "audit", 1, &[]).await;
    an_exchange_is_known_everywhere_at_once(&cluster).await;
    bindings_are_shown_and_taken_away(&cluster).await;
    what_amqp_says_is_always_there_is_made_when_it_is_needed(&cluster).await;
    a_deleted_queue_takes_its_bindings_along(&cluster).await;
    an_exchange_may_go_with_its_last_binding(&cluster).await;
}

async fn an_exchange_is_known_everywhere_at_once(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    let wanted = CreateExchangeRequest {
        alternate: "unrouted".to_owned(),
        ..exchange("orders", ExchangeType::Topic)
    };
    let created = first
        .create_exchange(wanted.clone())
        .await
        .expect("it is created")
        .into_inner();
    assert!(created.created && created.exchange_id.len() == 16);
    for id in 1..=3 {
        // Without a wait: it was created when all knew it.
        let listed = service(cluster, id).await.list_exchanges(ListExchangesRequest {}).await;
        let listed = listed.expect("it is answered").into_inner();
        assert!(listed.version >= created.version);
        let [found] = &listed.exchanges[..] else {
            panic!("broker {id} knows {listed:?}");
        };
        assert_eq!(found.exchange_id, created.exchange_id);
        assert_eq!((found.name.as_str(), found.alternate.as_str()), ("orders", "unrouted"));
        assert_eq!((found.r#type(), found.bindings), (ExchangeType::Topic, 0));
    }
    let again = first.create_exchange(wanted.clone()).await;
    raw::assert_refused(again, "EXCHANGE_EXISTS", &["orders"]);
    let again = CreateExchangeRequest {
        if_not_exists: true,
        ..wanted.clone()
    };
    let again = service(cluster, 2).await.create_exchange(again).await;
    let again = again.expect("it is as it is wanted").into_inner();
    assert!(!again.created && again.exchange_id == created.exchange_id);
    let other = CreateExchangeRequest {
        if_not_exists: true,
        ..exchange("orders", ExchangeType::Direct)
    };
    raw::assert_refused(
        first.create_exchange(other).await,
        "EXCHANGE_EXISTS",
        &["direct", "topic"],
    );
}

async fn bindings_are_shown_and_taken_away(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    first
        .create_exchange(exchange("all", ExchangeType::Fanout))
        .await
        .expect("it is created");
    let bindings = vec![
        to_queue("jobs", "orders.#"),
        to_queue("audit", "*.paid"),
        to_exchange("all", "#"),
    ];
    for (id, _) in (1..=3).zip(0..2) {
        // The second time nothing changes.
        bind(&mut service(cluster, id).await, "orders", bindings.clone()).await;
    }
    for id in 1..=3 {
        let asked = DescribeExchangeRequest {
            name: "orders".to_owned(),
            skip_bindings: 0,
        };
        let described = service(cluster, id).await.describe_exchange(asked).await;
        let described = described.expect("it is there").into_inner();
        assert_eq!(described.exchange.expect("it is set").bindings, 3);
        let sorted = |bindings: &[Binding]| {
            let bindings = bindings.iter().map(|binding| format!("{binding:?}"));
            bindings.collect::<BTreeSet<_>>()
        };
        assert_eq!(sorted(&described.bindings), sorted(&bindings));
        let asked = DescribeExchangeRequest {
            name: "all".to_owned(),
            skip_bindings: 0,
        };
        let all = service(cluster, id).await.describe_exchange(asked).await;
        assert_eq!(all.expect("it is there").into_inner().bound_from, ["orders"]);
    }
    let rest = DescribeExchangeRequest {
        name: "orders".to_owned(),
        skip_bindings: 2,
    };
    let rest = first.describe_exchange(rest).await.expect("it is there").into_inner();
    assert_eq!(rest.bindings.len(), 1);
    let in_use = DeleteExchangeRequest {
        name: "orders".to_owned(),
        if_unused: true,
    };
    raw::assert_refused(first.delete_exchange(in_use).await, "EXCHANGE_IN_USE", &["3 bindings"]);
    let taken = BindRequest {
        name: "orders".to_owned(),
        bindings: vec![to_queue("audit", "*.paid"), to_queue("audit", "never bound")],
    };
    first.unbind(taken).await.expect("what is not there is left out");
    let asked = DescribeExchangeRequest {
        name: "orders".to_owned(),
        skip_bindings: 0,
    };
    let left = service(cluster, 3).await.describe_exchange(asked.clone()).await;
    assert_eq!(left.expect("it is there").into_inner().bindings.len(), 2);
    for name in ["orders", "all"] {
        let request = DeleteExchangeRequest {
            name: name.to_owned(),
            if_unused: false,
        };
        first.delete_exchange(request).await.expect("it is deleted");
    }
    let gone = service(cluster, 2).await.describe_exchange(asked).await;
    raw::assert_refused(gone, "UNKNOWN_EXCHANGE", &["orders"]);
}

async fn what_amqp_says_is_always_there_is_made_when_it_is_needed(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    let listed = first
        .list_exchanges(ListExchangesRequest {})
        .await
        .expect("it is answered");
    assert!(listed.into_inner().exchanges.is_empty());
    bind(
        &mut first,
        "amq.topic",
        vec![to_queue("jobs", "a.*"), to_exchange("amq.fanout", "b.#")],
    )
    .await;
    let sent = published_to(&mut service(cluster, 2).await, "amq.topic", message("a.b", "one")).await;
    assert_eq!(sent, names(&["jobs"]));
    let dropped = PublishMessage {
        mandatory: false,
        ..message("x", "nowhere")
    };
    assert_eq!(published_to(&mut first, "amq.direct", dropped).await, names(&[]));
    let listed = first
        .list_exchanges(ListExchangesRequest {})
        .await
        .expect("it is answered");
    let listed = listed.into_inner().exchanges;
    let found: Vec<&str> = listed.iter().map(|exchange| exchange.name.as_str()).collect();
    assert_eq!(found, ["amq.direct", "amq.fanout", "amq.topic"]);
    let request = DeleteExchangeRequest {
        name: "amq.topic".to_owned(),
        if_unused: false,
    };
    raw::assert_refused(
        first.delete_exchange(request).await,
        "INVALID_EXCHANGE_NAME",
        &["stays"],
    );
    let unknown = first.create_exchange(exchange("amq.mine", ExchangeType::Topic)).await;
    raw::assert_refused(unknown, "INVALID_EXCHANGE_NAME", &["AMQP"]);
}

async fn a_deleted_queue_takes_its_bindings_along(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    create_queue(cluster, "short", 1, &[]).await;
    first
        .create_exchange(exchange("both", ExchangeType::Fanout))
        .await
        .expect("it is created");
    bind(&mut first, "both", vec![to_queue("short", ""), to_queue("jobs", "")]).await;
    assert_eq!(
        published_to(&mut first, "both", message("", "two")).await,
        names(&["jobs", "short"])
    );
    cluster.cli(&["queue", "rm", "short", "--yes"]).await.expect(0);
    eventually("the binding is gone at the broker that is asked", WAIT, || async {
        // Until it knows that, the queue refuses.
        let left = publish(
            &mut service(cluster, 1).await,
            request("both", vec![message("", "three")]),
        )
        .await;
        (queues_of(&left[0]) == Ok(vec!["jobs"])).then_some(())
    })
    .await;
}

async fn an_exchange_may_go_with_its_last_binding(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    let wanted = CreateExchangeRequest {
        auto_delete: true,
        ..exchange("passing", ExchangeType::Direct)
    };
    first.create_exchange(wanted).await.expect("it is created");
    let bindings = BindRequest {
        name: "passing".to_owned(),
        bindings: vec![to_queue("jobs", "a")],
    };
    first
        .bind(bindings.clone())
        .await
        .expect("it stays until it has had a binding");
    first.unbind(bindings).await.expect("it is taken away");
    let gone = service(cluster, 3)
        .await
        .publish(request("passing", vec![message("a", "late")]))
        .await;
    raw::assert_refused(gone, "UNKNOWN_EXCHANGE", &["passing"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_counted() {
    let cluster = Cluster::start(1).await;
    for queue in ["a", "b"] {
        cluster
            .cli(&["queue", "create", queue, "--partitions", "1", "--replicas", "1"])
            .await
            .expect(0);
    }
    let mut first = service(&cluster, 1).await;
    let wanted = CreateExchangeRequest {
        alternate: "rest".to_owned(),
        ..exchange("orders", ExchangeType::Direct)
    };
    first.create_exchange(wanted).await.expect("it is created");
    first
        .create_exchange(exchange("rest", ExchangeType::Direct))
        .await
        .expect("it is created");
    bind(&mut first, "orders", vec![to_queue("a", "x"), to_queue("b", "x")]).await;
    bind(&mut first, "rest", vec![to_queue("b", "y")]).await;
    let optional = |key: &str| PublishMessage {
        mandatory: false,
        ..message(key, "")
    };
    let messages = vec![
        message("x", ""),
        message("y", ""),
        message("z", ""),
        optional("z"),
        optional("z"),
    ];
    publish(&mut first, request("orders", messages)).await;
    publish(&mut first, request("", vec![message("a", "")])).await;
    let scrape = Scrape::of(&cluster, 1).await;
    let of = |exchange| [("exchange", exchange)];
    assert_eq!(scrape.value("jangada_exchange_messages_total", &of("orders")), 5.0);
    assert_eq!(scrape.value("jangada_exchange_messages_total", &of("(default)")), 1.0);
    assert_eq!(scrape.value("jangada_exchange_copies_total", &of("orders")), 3.0);
    for (outcome, expected) in [("alternate", 1.0), ("refused", 1.0), ("dropped", 2.0)] {
        let labels = [("exchange", "orders"), ("outcome", outcome)];
        assert_eq!(
            scrape.value("jangada_exchange_unroutable_messages_total", &labels),
            expected,
            "{outcome}"
        );
    }
    let compiled = scrape.value("jangada_router_compile_duration_seconds_count", &[]);
    assert!((1.0..=4.0).contains(&compiled), "not for each message: {compiled}");
    let delete = DeleteExchangeRequest {
        name: "orders".to_owned(),
        if_unused: false,
    };
    first.delete_exchange(delete).await.expect("it is deleted");
    let scrape = Scrape::of(&cluster, 1).await;
    assert_eq!(scrape.sum("jangada_exchange_messages_total", &of("orders")), None);
}

/// A broker of an older build would stop at the commands, for good; and it may not join once there are exchanges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_wait_for_every_broker() {
    const LEVEL: u32 = 9;
    let oldest = archives().remove(&1).expect("the first is part of the tree");
    let cluster = started_with(&oldest).await;
    join(&cluster, LEVEL - 1)
        .await
        .expect("the cluster is below that level");
    let mut first = service(&cluster, 1).await;
    let wanted = exchange("orders", ExchangeType::Topic);
    let refused = first.create_exchange(wanted.clone()).await;
    let status = raw::assert_refused(refused, "NOT_READY", &["broker 2", "feature level 8", "upgrade"]);
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    let refused = first.publish(request("amq.topic", vec![message("a", "")])).await;
    raw::assert_refused(refused, "NOT_READY", &["broker 2"]);
    let refused = first.publish(request("orders", vec![message("a", "")])).await;
    raw::assert_refused(refused, "UNKNOWN_EXCHANGE", &["orders"]);
    join(&cluster, LEVEL).await.expect("it is newer than before");
    eventually("all brokers are new enough", WAIT, || {
        let (mut first, wanted) = (first.clone(), wanted.clone());
        async move {
            match first.create_exchange(wanted).await {
                Ok(_) => Some(()),
                // Created before, and done after its time.
                Err(status) => (raw::reason(&status) == "EXCHANGE_EXISTS").then_some(()),
            }
        }
    })
    .await;
    let refused = join(&cluster, LEVEL - 1).await.expect_err("it does not know exchanges");
    assert!(refused.message().contains("upgrade"), "{refused:?}");
}
