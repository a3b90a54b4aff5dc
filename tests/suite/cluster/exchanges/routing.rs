//! Messages come to the queues that are bound for them: by all kinds of exchanges, over other ones, and without any.

use std::collections::BTreeMap;

use jangada_proto::v1::trace_hop::CameBy;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_to_the_queues_that_are_bound_for_them() {
    let cluster = Cluster::start(3).await;
    for queue in ["a", "b", "c", "d"] {
        create_queue(&cluster, queue, 3, &[]).await;
    }
    by_their_routing_key(&cluster).await;
    by_their_headers(&cluster).await;
    over_other_exchanges_and_once(&cluster).await;
    over_alternate_exchanges(&cluster).await;
    without_an_exchange(&cluster).await;
    with_what_they_were_published_with(&cluster).await;
    a_trace_says_the_same(&cluster).await;
}

async fn by_their_routing_key(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    for (name, kind) in [
        ("direct", ExchangeType::Direct),
        ("fanout", ExchangeType::Fanout),
        ("topic", ExchangeType::Topic),
    ] {
        first
            .create_exchange(exchange(name, kind))
            .await
            .expect("it is created");
    }
    bind(
        &mut first,
        "direct",
        vec![to_queue("a", "red"), to_queue("b", "red"), to_queue("c", "blue")],
    )
    .await;
    bind(&mut first, "fanout", vec![to_queue("a", "x"), to_queue("d", "")]).await;
    bind(
        &mut first,
        "topic",
        vec![
            to_queue("a", "orders.*.paid"),
            to_queue("b", "orders.#"),
            to_queue("c", "#.paid"),
            to_queue("d", "*"),
        ],
    )
    .await;
    for (exchange, key, expected) in [
        ("direct", "red", &["a", "b"][..]),
        ("direct", "blue", &["c"]),
        ("fanout", "whatever", &["a", "d"]),
        ("topic", "orders.eu.paid", &["a", "b", "c"]),
        ("topic", "orders", &["b", "d"]),
        ("topic", "paid", &["c", "d"]),
        ("topic", "orders.eu.berlin.paid", &["b", "c"]),
    ] {
        for id in 1..=3 {
            // Any broker routes alike as soon as the bindings were made.
            let sent = published_to(&mut service(cluster, id).await, exchange, message(key, key)).await;
            assert_eq!(sent, names(expected), "{exchange} {key}");
        }
    }
    let missed = publish(
        &mut first,
        request("direct", vec![message("green", ""), message("red", "last")]),
    )
    .await;
    assert_eq!(queues_of(&missed[0]), Err(("UNROUTABLE", "true")));
    assert_eq!(
        queues_of(&missed[1]),
        Ok(vec!["a", "b"]),
        "the other one is published: {missed:?}"
    );
    let bodies = bodies_in(cluster, "c", 3).await;
    let mut expected: Vec<&str> = ["blue", "orders.eu.paid", "paid", "orders.eu.berlin.paid"].repeat(3);
    expected.sort_unstable();
    assert_eq!(bodies, expected, "and what is said is so");
}

async fn by_their_headers(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    first
        .create_exchange(exchange("headers", ExchangeType::Headers))
        .await
        .expect("it is created");
    let asked = || vec![header("format", Some("pdf")), header("size", None)];
    let bindings = vec![
        by_headers("a", HeaderMatchMode::All, asked()),
        by_headers("b", HeaderMatchMode::Any, asked()),
        by_headers("c", HeaderMatchMode::Unspecified, vec![]),
        by_headers("d", HeaderMatchMode::AnyWithX, vec![header("x-urgent", None)]),
    ];
    bind(&mut first, "headers", bindings).await;
    for (headers, expected) in [
        (
            vec![header("format", Some("pdf")), header("size", Some("9"))],
            &["a", "b", "c"][..],
        ),
        (vec![header("format", Some("png")), header("size", None)], &["b", "c"]),
        (vec![header("format", Some("png"))], &["c"]),
        (vec![header("x-urgent", Some("yes"))], &["c", "d"]),
    ] {
        let mut sent = message("", "by headers");
        sent.message.as_mut().expect("it has one").headers = headers.clone();
        assert_eq!(
            published_to(&mut first, "headers", sent).await,
            names(expected),
            "{headers:?}"
        );
    }
}

async fn over_other_exchanges_and_once(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    for name in ["outer", "inner"] {
        let internal = name == "inner";
        let wanted = CreateExchangeRequest {
            internal,
            ..exchange(name, ExchangeType::Fanout)
        };
        first.create_exchange(wanted).await.expect("it is created");
    }
    bind(&mut first, "outer", vec![to_queue("a", ""), to_exchange("inner", "")]).await;
    // A circle, and a second way to the same queue.
    bind(
        &mut first,
        "inner",
        vec![to_queue("a", ""), to_queue("b", ""), to_exchange("outer", "")],
    )
    .await;
    assert_eq!(
        published_to(&mut first, "outer", message("", "round")).await,
        names(&["a", "b"])
    );
    let bodies = bodies_in(cluster, "a", 3).await;
    assert_eq!(bodies.iter().filter(|body| *body == "round").count(), 1);
    let inside = first.publish(request("inner", vec![message("", "")])).await;
    raw::assert_refused(inside, "EXCHANGE_INTERNAL", &["inner"]);
}

async fn over_alternate_exchanges(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    let wanted = CreateExchangeRequest {
        alternate: "rest".to_owned(),
        ..exchange("picky", ExchangeType::Direct)
    };
    first
        .create_exchange(wanted)
        .await
        .expect("its alternate one need not be there");
    bind(&mut first, "picky", vec![to_queue("a", "known")]).await;
    let nowhere = publish(&mut first, request("picky", vec![message("unknown", "")])).await;
    assert_eq!(queues_of(&nowhere[0]), Err(("UNROUTABLE", "true")));
    let circle = CreateExchangeRequest {
        alternate: "picky".to_owned(),
        ..exchange("rest", ExchangeType::Fanout)
    };
    raw::assert_refused(
        first.create_exchange(circle).await,
        "INVALID_REQUEST",
        &["rest", "picky", "come back"],
    );
    first
        .create_exchange(exchange("rest", ExchangeType::Fanout))
        .await
        .expect("it is created");
    bind(&mut first, "rest", vec![to_queue("d", "")]).await;
    assert_eq!(
        published_to(&mut first, "picky", message("unknown", "")).await,
        names(&["d"])
    );
    assert_eq!(
        published_to(&mut first, "picky", message("known", "")).await,
        names(&["a"])
    );
}

async fn without_an_exchange(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    assert_eq!(
        published_to(&mut first, "", message("b", "by name")).await,
        names(&["b"])
    );
    let missed = publish(&mut first, request("", vec![message("no such queue", "")])).await;
    assert_eq!(queues_of(&missed[0]), Err(("UNROUTABLE", "true")));
}

async fn with_what_they_were_published_with(cluster: &Cluster) {
    let mut first = service(cluster, 1).await;
    create_queue(cluster, "seen", 1, &[]).await;
    bind(&mut first, "topic", vec![to_queue("seen", "seen.#")]).await;
    let mut sent = message("seen.once", "with headers");
    let inner = sent.message.as_mut().expect("it has one");
    inner.headers = vec![header("mine", Some("1"))];
    inner.message_id = Some("id-1".to_owned());
    published_to(&mut first, "topic", sent).await;
    published_to(&mut first, "", message("seen", "plain")).await;
    let seen = messages_in(cluster, "seen", 1).await.remove(0);
    let headers = |message: &ReceivedMessage| {
        let headers = message.headers.iter();
        let headers = headers.map(|header| (header.key.clone(), header.value.clone().expect("it has one").to_vec()));
        headers.collect::<BTreeMap<_, _>>()
    };
    let with = headers(&seen[0]);
    for (key, value) in [
        ("mine", "1"),
        ("jangada-exchange", "topic"),
        ("jangada-routing-key", "seen.once"),
    ] {
        assert_eq!(
            with.get(key).map(Vec::as_slice),
            Some(value.as_bytes()),
            "{key}: {with:?}"
        );
    }
    assert_eq!(seen[0].message_id, Some("id-1".to_owned()));
    assert!(
        seen[1].headers.is_empty(),
        "the queue says where it was published: {seen:?}"
    );
}

async fn a_trace_says_the_same(cluster: &Cluster) {
    let mut second = service(cluster, 2).await;
    let mut trace = async |name: &str, routing_key: &str| {
        let request = TraceMessageRequest {
            name: name.to_owned(),
            routing_key: routing_key.to_owned(),
            headers: vec![],
        };
        second
            .trace_message(request)
            .await
            .expect("it is answered")
            .into_inner()
    };
    let traced = trace("picky", "unknown").await;
    assert_eq!(traced.queues, ["d"]);
    let [picky, rest] = &traced.hops[..] else {
        panic!("{traced:?}");
    };
    assert_eq!(
        (picky.exchange.as_str(), picky.came_by, picky.matched_count),
        ("picky", None, 0)
    );
    assert_eq!(
        (rest.exchange.as_str(), rest.came_by),
        ("rest", Some(CameBy::AlternateOf(0)))
    );
    assert_eq!(rest.matched, [to_queue("d", "")]);
    let traced = trace("topic", "orders.eu.paid").await;
    assert_eq!(
        traced.queues.iter().cloned().collect::<BTreeSet<_>>(),
        names(&["a", "b", "c"])
    );
    assert_eq!((traced.hops[0].matched_count, traced.hops[0].matched.len()), (3, 3));
    let traced = trace("", "b").await;
    assert_eq!((traced.queues, traced.hops[0].matched.len()), (vec!["b".to_owned()], 1));
    assert!(trace("", "nothing").await.queues.is_empty());
}
