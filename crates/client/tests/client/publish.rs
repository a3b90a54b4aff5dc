//! Publishers: what is gathered into one request, what is published again, and what is not.

use std::time::Duration;

use jangada_client::{
    ClientError, ExchangeKind, NewExchange, Publication, Publisher, PublisherConfig, QueueMessage, QueueProducerConfig,
    Reason,
};

use crate::fake::{Cluster, Error, PublishFault};
use crate::group::{soon, until};

/// A cluster with exchange "e", which has queues `one` and `two` for key "both", and `one` for key "one"; and a publisher.
async fn publisher(brokers: u32, config: PublisherConfig) -> (Cluster, Publisher) {
    let cluster = Cluster::start(brokers);
    let client = cluster.client().await;
    let exchange = NewExchange::new("e", ExchangeKind::Topic);
    client.admin().create_exchange(exchange).await.expect("created");
    let queues = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut state = cluster.state();
    state
        .exchanges
        .routes
        .insert("both".to_owned(), queues(&["one", "two"]));
    state.exchanges.routes.insert("one".to_owned(), queues(&["one"]));
    drop(state);
    (cluster, client.publisher(config).expect("the settings are right"))
}

fn message(key: &str, body: &str) -> Publication {
    Publication::new("e", key, QueueMessage::new(body.to_owned()))
}

fn identified(key: &str) -> Publication {
    Publication::new("e", key, QueueMessage::new("x").with_message_id("id"))
}

/// The bodies of each call that published.
fn calls(cluster: &Cluster) -> Vec<Vec<String>> {
    let state = cluster.state();
    let bodies = |request: &jangada_proto::v1::PublishRequest| {
        let bodies = request.messages.iter().map(|message| {
            let body = message.message.as_ref().expect("it has a message").body.clone();
            String::from_utf8(body.to_vec()).expect("it is text")
        });
        bodies.collect()
    };
    state.exchanges.published.iter().map(bodies).collect()
}

fn in_doubt() -> PublisherConfig {
    PublisherConfig {
        publish_in_doubt: true,
        ..PublisherConfig::default()
    }
}

#[tokio::test]
async fn a_message_is_told_where_it_is_or_why_it_is_nowhere() {
    let (cluster, publisher) = publisher(2, PublisherConfig::default()).await;
    let places = soon(publisher.publish(message("both", "a"))).await.expect("published");
    let queues: Vec<_> = places.iter().map(|place| place.queue.as_str()).collect();
    assert_eq!(queues, ["one", "two"]);
    let nowhere = soon(publisher.publish(message("none", "b")))
        .await
        .expect("it is dropped");
    assert_eq!(nowhere, []);
    let error = soon(publisher.publish(message("none", "c").mandatory())).await;
    let error = error.expect_err("no queue is bound");
    assert!(error.is_definite() && !error.is_retryable());
    assert_eq!(error.reason(), Some(Reason::Unroutable));
    match &error {
        ClientError::Unroutable { exchange, routing_key } => assert_eq!((&**exchange, &**routing_key), ("e", "none")),
        error => panic!("{error}"),
    }
    let elsewhere = Publication::new("gone", "k", QueueMessage::new("d"));
    let error = soon(publisher.publish(elsewhere)).await.expect_err("there is none");
    assert!(
        matches!(&error, ClientError::UnknownExchange { exchange } if **exchange == *"gone"),
        "{error}"
    );
    assert_eq!(calls(&cluster).len(), 4, "nothing is tried again");
}

#[tokio::test]
async fn messages_of_an_order_key_go_one_request_after_the_other_and_are_gathered_meanwhile() {
    let (cluster, publisher) = publisher(1, PublisherConfig::default()).await;
    cluster.freeze(1);
    let ordered = |body: String| message("one", &body).with_order_key("o");
    let mut waiting = vec![Box::pin(
        publisher.enqueue(ordered("0".to_owned())).await.expect("taken"),
    )];
    until("the first is on its way", || calls(&cluster).len() == 1).await;
    for number in 1..10 {
        waiting.push(Box::pin(
            publisher.enqueue(ordered(number.to_string())).await.expect("taken"),
        ));
    }
    // Another order key has a request of its own.
    let other = message("one", "other").with_order_key("p");
    let other = publisher.enqueue(other).await.expect("taken");
    until("it does not wait for the first key", || calls(&cluster).len() == 2).await;
    assert_eq!(calls(&cluster)[1], ["other"]);
    cluster.thaw();
    for published in waiting {
        soon(published).await.expect("published");
    }
    soon(other).await.expect("published");
    let expected: Vec<String> = (1..10).map(|number| number.to_string()).collect();
    assert_eq!(calls(&cluster)[2..], [expected]);
    let keys = cluster.state().exchanges.published.clone();
    let keys: Vec<&[u8]> = keys.iter().map(|request| &request.order_key[..]).collect();
    assert_eq!(keys, [&b"o"[..], b"p", b"o"]);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_made_in_parts_and_in_order() {
    let (cluster, publisher) = publisher(1, PublisherConfig::default()).await;
    let too_large = || PublishFault::Refuse(Error::definite(Reason::BatchTooLarge));
    cluster
        .state()
        .exchanges
        .faults
        .extend([PublishFault::Some(Vec::new()), too_large(), too_large()]);
    cluster.freeze(1);
    let ordered = |body: String| message("one", &body).with_order_key("o");
    let mut waiting = vec![Box::pin(
        publisher.enqueue(ordered("0".to_owned())).await.expect("taken"),
    )];
    until("the first is on its way", || calls(&cluster).len() == 1).await;
    for number in 1..9 {
        waiting.push(Box::pin(
            publisher.enqueue(ordered(number.to_string())).await.expect("taken"),
        ));
    }
    cluster.thaw();
    for published in waiting {
        soon(published).await.expect("published");
    }
    let calls = calls(&cluster);
    assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [1, 8, 4, 2, 2, 2, 2]);
    let published: Vec<String> = calls[3..].concat();
    let expected: Vec<String> = (1..9).map(|number| number.to_string()).collect();
    assert_eq!(published, expected);
}

#[tokio::test]
async fn messages_without_an_order_go_in_a_few_requests_at_a_time() {
    let (cluster, publisher) = publisher(1, PublisherConfig::default()).await;
    cluster.freeze(1);
    let mut waiting = Vec::new();
    for number in 0..4 {
        let taken = publisher.enqueue(message("one", &number.to_string())).await;
        waiting.push(Box::pin(taken.expect("taken")));
        until("it is on its way", || calls(&cluster).len() == number + 1).await;
    }
    for number in 4..100 {
        let taken = publisher.enqueue(message("one", &number.to_string())).await;
        waiting.push(Box::pin(taken.expect("taken")));
    }
    cluster.thaw();
    for published in waiting {
        soon(published).await.expect("published");
    }
    let calls = calls(&cluster);
    assert_eq!(calls.iter().map(Vec::len).sum::<usize>(), 100);
    assert!(calls.len() <= 8, "{calls:?}");
}

#[tokio::test]
async fn what_is_refused_for_the_moment_is_published_again_and_nothing_else_is() {
    let (cluster, publisher) = publisher(2, PublisherConfig::default()).await;
    let full = Error::definite(Reason::QueueFull);
    let too_large = Error::definite(Reason::RecordTooLarge).with("queue", "one");
    cluster
        .state()
        .exchanges
        .faults
        .extend([PublishFault::Some(vec![(1, full), (2, too_large)])]);
    let all = ["a", "b", "c"].map(|body| message("one", body).with_order_key("o"));
    let mut results = soon(publisher.publish_batch(all.into())).await.into_iter();
    assert_eq!(results.next().expect("a").expect("published").len(), 1);
    assert_eq!(results.next().expect("b").expect("published").len(), 1);
    let error = results.next().expect("c").expect_err("the queue does not take it");
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    let rejection = error.rejection().expect("the broker's answer");
    assert_eq!(rejection.metadata.get("queue").map(String::as_str), Some("one"));
    assert_eq!(calls(&cluster), [vec!["a", "b", "c"], vec!["b"]]);
}

#[tokio::test]
async fn a_whole_request_that_is_refused_for_the_moment_is_made_again() {
    let (cluster, publisher) = publisher(2, PublisherConfig::default()).await;
    let busy = Error::definite(Reason::BrokerBusy);
    cluster.state().exchanges.faults.push_back(PublishFault::Refuse(busy));
    soon(publisher.publish(message("both", "a"))).await.expect("published");
    assert_eq!(calls(&cluster), [vec!["a"], vec!["a"]]);
}

#[tokio::test]
async fn a_message_whose_outcome_is_not_known_is_not_published_again_unasked() {
    for (config, publication) in [
        (PublisherConfig::default(), identified("both")),
        // Without an id no queue can recognize it.
        (in_doubt(), message("both", "x")),
    ] {
        let (cluster, publisher) = publisher(2, config).await;
        cluster.state().exchanges.faults.push_back(PublishFault::Lose);
        let error = soon(publisher.publish(publication)).await.expect_err("it is not known");
        assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
        assert_eq!(calls(&cluster).len(), 1);
    }
}

#[tokio::test]
async fn a_message_with_an_id_is_published_again_if_its_publisher_says_so() {
    let (cluster, publisher) = publisher(2, in_doubt()).await;
    // One queue has it, and the other one was full.
    let halfway = Error::unknown(Reason::QueueFull).with("queue", "two");
    cluster
        .state()
        .exchanges
        .faults
        .extend([PublishFault::Lose, PublishFault::Some(vec![(0, halfway)])]);
    let places = soon(publisher.publish(identified("both"))).await.expect("published");
    assert_eq!(places.len(), 2);
    let ids = cluster.state().exchanges.published.clone();
    let ids = ids.iter().map(|request| request.messages[0].message.clone());
    let ids: Vec<_> = ids.map(|message| message.expect("a message").message_id).collect();
    assert_eq!(ids, vec![Some("id".to_owned()); 3]);
}

#[tokio::test]
async fn a_message_that_a_queue_will_never_take_is_not_published_again_and_stays_in_doubt() {
    let (cluster, publisher) = publisher(2, in_doubt()).await;
    let halfway = Error::unknown(Reason::RecordTooLarge).with("queue", "two");
    cluster
        .state()
        .exchanges
        .faults
        .push_back(PublishFault::Some(vec![(0, halfway)]));
    let error = soon(publisher.publish(identified("both"))).await;
    let error = error.expect_err("one queue does not take it");
    assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
    assert_eq!(error.reason(), Some(Reason::RecordTooLarge));
    assert_eq!(calls(&cluster).len(), 1);
}

#[tokio::test]
async fn what_an_attempt_before_may_have_published_is_not_called_unroutable() {
    let (cluster, publisher) = publisher(2, in_doubt()).await;
    let unroutable = Error::definite(Reason::Unroutable);
    cluster
        .state()
        .exchanges
        .faults
        .extend([PublishFault::Lose, PublishFault::Some(vec![(0, unroutable)])]);
    let error = soon(publisher.publish(identified("one").mandatory())).await;
    let error = error.expect_err("it has no queue any more");
    assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
    assert_eq!(error.reason(), Some(Reason::Unroutable));
}

#[tokio::test]
async fn a_message_that_is_refused_for_too_long_is_nowhere() {
    let config = PublisherConfig {
        sending: QueueProducerConfig {
            send_timeout: Duration::from_millis(300),
            ..QueueProducerConfig::default()
        },
        ..PublisherConfig::default()
    };
    let (cluster, publisher) = publisher(1, config).await;
    let full = |_| PublishFault::Some(vec![(0, Error::definite(Reason::QueueFull))]);
    cluster.state().exchanges.faults.extend((0..1_000).map(full));
    let error = soon(publisher.publish(message("one", "a"))).await;
    let error = error.expect_err("the queue is full");
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert_eq!(error.reason(), Some(Reason::QueueFull));
    assert!(calls(&cluster).len() > 1, "it was tried again");
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let cluster = Cluster::start(1);
    let config = PublisherConfig {
        sending: QueueProducerConfig {
            batch_bytes: 0,
            ..QueueProducerConfig::default()
        },
        ..PublisherConfig::default()
    };
    let error = cluster.client().await.publisher(config).map(drop);
    assert!(matches!(error, Err(ClientError::Config(_))));
}
