//! Bad requests about exchanges: each is refused with its reason and what to do, and changes nothing.

use super::*;

/// What is asked.
enum Asks {
    Create(CreateExchangeRequest),
    Describe(&'static str),
    Delete(&'static str),
    Bind(&'static str, Vec<Binding>),
    Unbind(&'static str, Vec<Binding>),
    Trace(TraceMessageRequest),
    Publish(PublishRequest),
}

async fn refusal(service: &mut Exchanges, asks: Asks) -> Result<(), tonic::Status> {
    let of = |name: &str, bindings| BindRequest {
        name: name.to_owned(),
        bindings,
    };
    match asks {
        Asks::Create(request) => service.create_exchange(request).await.map(drop),
        Asks::Describe(name) => {
            let request = DescribeExchangeRequest {
                name: name.to_owned(),
                skip_bindings: 0,
            };
            service.describe_exchange(request).await.map(drop)
        }
        Asks::Delete(name) => {
            let request = DeleteExchangeRequest {
                name: name.to_owned(),
                if_unused: false,
            };
            service.delete_exchange(request).await.map(drop)
        }
        Asks::Bind(name, bindings) => service.bind(of(name, bindings)).await.map(drop),
        Asks::Unbind(name, bindings) => service.unbind(of(name, bindings)).await.map(drop),
        Asks::Trace(request) => service.trace_message(request).await.map(drop),
        Asks::Publish(request) => service.publish(request).await.map(drop),
    }
}

/// What there is of exchanges, as a broker says it.
async fn everything(service: &mut Exchanges) -> String {
    let listed = service
        .list_exchanges(ListExchangesRequest {})
        .await
        .expect("it is answered");
    format!("{:?}", listed.into_inner().exchanges)
}

fn of_objects() -> Vec<(Asks, &'static str, Vec<&'static str>)> {
    let kind = |kind| CreateExchangeRequest {
        r#type: kind,
        ..exchange("new", ExchangeType::Topic)
    };
    let named = |name: &str| Asks::Create(exchange(name, ExchangeType::Topic));
    let long = "n".repeat(250);
    let circle = CreateExchangeRequest {
        alternate: "new".to_owned(),
        ..exchange("new", ExchangeType::Topic)
    };
    let no_name = CreateExchangeRequest {
        alternate: "__x".to_owned(),
        ..exchange("new", ExchangeType::Topic)
    };
    vec![
        (Asks::Create(kind(0)), "INVALID_REQUEST", vec!["new", "type", "fanout"]),
        (Asks::Create(kind(77)), "INVALID_REQUEST", vec!["77"]),
        (named(""), "INVALID_EXCHANGE_NAME", vec!["choose a name"]),
        (named("a b"), "INVALID_EXCHANGE_NAME", vec!["a b"]),
        (named(&long), "INVALID_EXCHANGE_NAME", vec!["249"]),
        (named("amq.none"), "INVALID_EXCHANGE_NAME", vec!["AMQP"]),
        (named("amq.fanout"), "INVALID_EXCHANGE_NAME", vec!["fanout exchange"]),
        (named("topic"), "EXCHANGE_EXISTS", vec!["topic"]),
        (Asks::Create(circle), "INVALID_REQUEST", vec!["come back"]),
        (Asks::Create(no_name), "INVALID_REQUEST", vec!["__x"]),
        (Asks::Describe("none"), "UNKNOWN_EXCHANGE", vec!["none", "list"]),
        (Asks::Describe(""), "INVALID_REQUEST", vec!["name an exchange"]),
        (Asks::Delete("none"), "UNKNOWN_EXCHANGE", vec!["none"]),
        (Asks::Delete("amq.match"), "UNKNOWN_EXCHANGE", vec!["amq.match"]),
        (Asks::Delete(""), "INVALID_REQUEST", vec!["name an exchange"]),
    ]
}

fn of_bindings() -> Vec<(Asks, &'static str, Vec<&'static str>)> {
    let one = |name, binding| Asks::Bind(name, vec![binding]);
    let nowhere = Binding::default();
    let header = |key: &str| super::header(key, None);
    let headers = |headers| by_headers("jobs", HeaderMatchMode::Any, headers);
    let mode = Binding {
        headers: Some(HeaderMatch {
            mode: 9,
            headers: vec![],
        }),
        ..to_queue("jobs", "")
    };
    let many = (0..33).map(|number| header(&format!("h{number}"))).collect();
    vec![
        (
            Asks::Bind("topic", vec![]),
            "INVALID_REQUEST",
            vec!["0 bindings", "1 to 1000"],
        ),
        (
            Asks::Bind("topic", vec![to_queue("jobs", "x"); 1_001]),
            "INVALID_REQUEST",
            vec!["1001 bindings"],
        ),
        (
            one("topic", nowhere),
            "INVALID_REQUEST",
            vec!["leads nowhere", "name a queue"],
        ),
        (
            one("", to_queue("jobs", "x")),
            "INVALID_REQUEST",
            vec!["name an exchange"],
        ),
        (
            one("topic", to_exchange("", "x")),
            "INVALID_REQUEST",
            vec!["name an exchange"],
        ),
        (one("none", to_queue("jobs", "x")), "UNKNOWN_EXCHANGE", vec!["none"]),
        (
            one("topic", to_queue("none", "x")),
            "UNKNOWN_QUEUE",
            vec!["none", "list the queues"],
        ),
        (one("topic", to_exchange("none", "x")), "UNKNOWN_EXCHANGE", vec!["none"]),
        (
            one("topic", to_queue("reading", "x")),
            "WRONG_QUEUE_KIND",
            vec!["reading", "log of its own"],
        ),
        (
            one("topic", to_queue("jobs", "a*.b")),
            "INVALID_BINDING",
            vec!["a*", "whole word"],
        ),
        (
            one("topic", to_queue("jobs", &"k".repeat(256))),
            "INVALID_BINDING",
            vec!["256 bytes", "255"],
        ),
        (
            one("topic", headers(vec![header("a")])),
            "INVALID_BINDING",
            vec!["headers exchanges"],
        ),
        (
            one("headers", to_queue("jobs", "x")),
            "INVALID_BINDING",
            vec!["which headers"],
        ),
        (
            one("headers", headers(vec![])),
            "INVALID_BINDING",
            vec!["name a header"],
        ),
        (
            one("headers", headers(vec![header("a"), header("a")])),
            "INVALID_BINDING",
            vec!["twice"],
        ),
        (
            one("headers", headers(vec![header("x-match")])),
            "INVALID_BINDING",
            vec!["x-match", "mode"],
        ),
        (
            one("headers", headers(many)),
            "INVALID_BINDING",
            vec!["33 headers", "32"],
        ),
        (one("headers", mode), "INVALID_REQUEST", vec!["mode 9"]),
        (
            Asks::Unbind("topic", vec![to_queue("none", "x")]),
            "UNKNOWN_QUEUE",
            vec!["none"],
        ),
        (Asks::Unbind("topic", vec![]), "INVALID_REQUEST", vec!["0 bindings"]),
    ]
}

fn of_messages() -> Vec<(Asks, &'static str, Vec<&'static str>)> {
    let trace = |name: &str, routing_key: String| TraceMessageRequest {
        name: name.to_owned(),
        routing_key,
        headers: vec![],
    };
    let slow = PublishRequest {
        timeout_ms: 60_001,
        ..request("topic", vec![message("a", "")])
    };
    vec![
        (
            Asks::Trace(trace("none", String::new())),
            "UNKNOWN_EXCHANGE",
            vec!["none"],
        ),
        (
            Asks::Trace(trace("inside", String::new())),
            "EXCHANGE_INTERNAL",
            vec!["inside"],
        ),
        (
            Asks::Trace(trace("topic", "k".repeat(256))),
            "INVALID_REQUEST",
            vec!["256 bytes", "255"],
        ),
        (
            Asks::Publish(request("topic", vec![])),
            "INVALID_REQUEST",
            vec!["at least one"],
        ),
        (
            Asks::Publish(request("topic", vec![message("a", ""); 10_001])),
            "INVALID_REQUEST",
            vec!["10001 messages", "10000"],
        ),
        (Asks::Publish(slow), "INVALID_REQUEST", vec!["timeout_ms", "60000"]),
        (
            Asks::Publish(request("none", vec![message("a", "")])),
            "UNKNOWN_EXCHANGE",
            vec!["none"],
        ),
        (
            Asks::Publish(request("inside", vec![message("a", "")])),
            "EXCHANGE_INTERNAL",
            vec!["inside"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_about_exchanges_are_refused_with_their_reason_and_change_nothing() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &[]).await;
    cluster.create_topic("records", 1, 3).await;
    cluster
        .cli(&["queue", "create", "reading", "--topic", "records"])
        .await
        .expect(0);
    let mut first = service(&cluster, 1).await;
    first
        .create_exchange(exchange("topic", ExchangeType::Topic))
        .await
        .expect("it is created");
    first
        .create_exchange(exchange("headers", ExchangeType::Headers))
        .await
        .expect("it is created");
    let inside = CreateExchangeRequest {
        internal: true,
        ..exchange("inside", ExchangeType::Topic)
    };
    first.create_exchange(inside).await.expect("it is created");
    bind(&mut first, "topic", vec![to_queue("jobs", "jobs.#")]).await;
    let before = everything(&mut first).await;
    for (asks, reason, named) in [of_objects(), of_bindings(), of_messages()].into_iter().flatten() {
        let refused = refusal(&mut first, asks).await;
        let status = raw::assert_refused(refused, reason, &named);
        assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"), "{status:?}");
    }
    bad_messages_are_refused_one_by_one(&mut first).await;
    assert_eq!(everything(&mut first).await, before);
    assert_eq!(bodies_in(&cluster, "jobs", 1).await, ["good"]);
}

async fn bad_messages_are_refused_one_by_one(service: &mut Exchanges) {
    let with = |change: &dyn Fn(&mut QueueMessage)| {
        let mut bad = message("jobs.a", "bad");
        change(bad.message.as_mut().expect("it has one"));
        bad
    };
    let messages = vec![
        message("jobs.a", "good"),
        message(&"k".repeat(256), "bad"),
        with(&|message| message.headers = vec![header("jangada-exchange", Some("forged"))]),
        with(&|message| message.priority = 7),
        with(&|message| message.message_id = Some(String::new())),
        with(&|message| message.ttl_ms = Some(0)),
        with(&|message| message.body = vec![0; 2 << 20].into()),
    ];
    let published = publish(service, request("topic", messages)).await;
    assert_eq!(queues_of(&published[0]), Ok(vec!["jobs"]));
    let said: Vec<_> = published[1..]
        .iter()
        .map(|published| queues_of(published).map_err(|(reason, _)| reason))
        .collect();
    let mut expected = vec![Err("INVALID_REQUEST"); 5];
    expected.push(Err("RECORD_TOO_LARGE"));
    assert_eq!(said, expected, "{published:?}");
}
