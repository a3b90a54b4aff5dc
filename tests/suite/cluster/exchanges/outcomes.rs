//! What becomes of messages in their queues: refused by one, in their order, and recognized again.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_a_queue_does_not_take_is_refused_by_its_name() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "open", 1, &[]).await;
    create_queue(&cluster, "full", 1, &["queue.max.messages=2"]).await;
    create_queue(&cluster, "small", 1, &["queue.message.max.bytes=2048"]).await;
    let mut first = service(&cluster, 1).await;
    first
        .create_exchange(exchange("all", ExchangeType::Fanout))
        .await
        .expect("it is created");
    bind(&mut first, "all", vec![to_queue("open", ""), to_queue("small", "")]).await;
    let large = "x".repeat(4_096);
    let mut keyed = message("", "it has a key");
    keyed.message.as_mut().expect("it has one").key = Some("k".into());
    let missing = PublishMessage {
        message: None,
        ..message("", "")
    };
    let messages = vec![
        message("", "one"),
        message("", &large),
        keyed,
        missing,
        message("", "two"),
    ];
    let published = publish(&mut first, request("all", messages)).await;
    let both: Vec<BTreeSet<&str>> = [0, 4]
        .map(|at| {
            queues_of(&published[at])
                .expect("it is published")
                .into_iter()
                .collect()
        })
        .to_vec();
    assert!(
        both.iter().all(|queues| *queues == BTreeSet::from(["open", "small"])),
        "{published:?}"
    );
    assert_eq!(queues_of(&published[1]), Err(("RECORD_TOO_LARGE", "true")));
    assert_eq!(queues_of(&published[2]), Err(("INVALID_REQUEST", "true")));
    assert_eq!(queues_of(&published[3]), Err(("INVALID_REQUEST", "true")));
    let Published::Error(error) = &published[1] else {
        panic!("it is too large");
    };
    assert_eq!(error.metadata["queue"], "small");
    // What one queue does not take is in none.
    assert_eq!(bodies_in(&cluster, "open", 1).await, ["one", "two"]);

    bind(&mut first, "all", vec![to_queue("full", "")]).await;
    let two = publish(
        &mut first,
        request("all", vec![message("", "three"), message("", "four")]),
    )
    .await;
    assert!(
        two.iter()
            .all(|published| queues_of(published).is_ok_and(|queues| queues.len() == 3)),
        "{two:?}"
    );
    let refused = publish(&mut first, request("all", vec![message("", "five")])).await;
    let Published::Error(error) = &refused[0] else {
        panic!("one of its queues is full: {refused:?}");
    };
    assert_eq!(
        (error.reason.as_str(), error.metadata["queue"].as_str()),
        ("QUEUE_FULL", "full")
    );
    assert_eq!(error.metadata["definite"], "false", "the others have it: {error:?}");
    assert_eq!(
        bodies_in(&cluster, "open", 1).await,
        ["five", "four", "one", "three", "two"]
    );
    assert_eq!(bodies_in(&cluster, "full", 1).await, ["four", "three"]);
    let alone = publish(&mut first, request("", vec![message("full", "six")])).await;
    assert_eq!(queues_of(&alone[0]), Err(("QUEUE_FULL", "true")), "no queue has it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_with_one_order_key_keep_their_order_and_are_recognized_again() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "left", 3, &["queue.dedup=id"]).await;
    create_queue(&cluster, "right", 5, &[]).await;
    let mut services = Vec::new();
    for id in 1..=3 {
        services.push(service(&cluster, id).await);
    }
    services[0]
        .create_exchange(exchange("both", ExchangeType::Fanout))
        .await
        .expect("it is created");
    bind(
        &mut services[0],
        "both",
        vec![to_queue("left", ""), to_queue("right", "")],
    )
    .await;
    let ordered = |messages: std::ops::Range<usize>| {
        let messages = messages.map(|number| {
            let mut sent = message("", &format!("{number:03}"));
            sent.message.as_mut().expect("it has one").message_id = Some(format!("id-{number}"));
            sent
        });
        PublishRequest {
            order_key: "channel-7".into(),
            ..request("both", messages.collect())
        }
    };
    for (call, at) in (0..30).zip((0..3).cycle()) {
        let published = publish(&mut services[at], ordered(call * 10..call * 10 + 10)).await;
        assert!(
            published.iter().all(|published| queues_of(published).is_ok()),
            "{published:?}"
        );
    }
    let again = publish(&mut services[1], ordered(0..10)).await;
    for published in &again {
        let Published::Published(published) = published else {
            panic!("it is there: {again:?}");
        };
        for place in &published.places {
            let is_again = place.sent.expect("it is set").duplicate;
            assert_eq!(is_again, place.queue == "left", "{place:?}");
        }
    }
    let expected: Vec<String> = (0..300).map(|number| format!("{number:03}")).collect();
    for (queue, partitions) in [("left", 3), ("right", 5)] {
        let messages = messages_in(&cluster, queue, partitions).await;
        let with: Vec<&Vec<ReceivedMessage>> = messages.iter().filter(|messages| !messages.is_empty()).collect();
        let [messages] = with[..] else {
            panic!("{queue} has them in {} partitions", with.len());
        };
        let bodies: Vec<String> = messages.iter().map(body).collect();
        assert_eq!(bodies[..300], expected, "{queue}");
    }
}
