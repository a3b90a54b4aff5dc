//! Exchanges with a log, and the queues that are views over it: creation, binding, deletion, and what may lead where.

use jangada_controller::admission::exchanges::{
    CreateExchange, NewExchange, NewLog, place_exchange, validate_create_exchange,
};
use jangada_controller::admission::{CreateQueue, NewQueue, QueueSource, place_queue, validate_create_queue};
use jangada_controller::{BrokerView, Command, EXCHANGES_FEATURE_LEVEL, Image, QueueKind, Reply, TopicKind};
use jangada_routing::ExchangeKind;
use jangada_types::limits::{BINDINGS_PER_EXCHANGE_MAX, VIEWS_PER_EXCHANGE_MAX};
use jangada_types::{ExchangeId, QueueId, Reason};

use crate::exchanges::{bind, create_exchange, to_exchange, to_queue};
use crate::fixture::{Log, create_owned, delete, delete_queue, firsts, settings};

const FANOUT: ExchangeKind = ExchangeKind::Fanout;
const TOPIC: ExchangeKind = ExchangeKind::Topic;

fn with_log(id: u128, name: &str, exchange_kind: ExchangeKind) -> Command {
    Command::CreateLoggedExchange {
        exchange_id: ExchangeId(id),
        name: name.to_owned(),
        exchange_kind,
        alternate: None,
        is_internal: false,
        config: settings(&[("retention.bytes", "1048576")]),
        assignments: vec![firsts(&[1]), firsts(&[1])],
    }
}

fn view(id: u128, name: &str, exchange: u128) -> Command {
    Command::CreateBoundQueue {
        queue_id: QueueId(id),
        name: name.to_owned(),
        exchange_id: ExchangeId(exchange),
        config: settings(&[("queue.attempts.max", "7")]),
    }
}

fn unbind(exchange: u128, bindings: &[jangada_routing::Binding]) -> Command {
    Command::Unbind {
        exchange_id: ExchangeId(exchange),
        bindings: bindings.to_vec(),
    }
}

fn delete_exchange(exchange: u128) -> Command {
    Command::DeleteExchange {
        exchange_id: ExchangeId(exchange),
        if_unused: false,
    }
}

fn bindings(image: &Image, exchange: u128) -> usize {
    let exchange = image.exchange_table().get(ExchangeId(exchange));
    exchange.expect("it is there").bindings.len()
}

/// A broker with a fanout exchange 1 and a topic exchange 2 that have logs, and a queue 9 with one of its own.
fn log() -> Log {
    let mut log = Log::formed_at(1, EXCHANGES_FEATURE_LEVEL);
    log.accept(&with_log(1, "all", FANOUT));
    log.accept(&with_log(2, "some", TOPIC));
    log.accept(&create_owned(9, "own", &[], vec![firsts(&[1])]));
    log
}

#[test]
fn an_exchange_with_a_log_has_a_topic_until_it_goes() {
    let mut log = log();
    let topic = log.image.exchange_log(ExchangeId(1)).expect("it has a log").clone();
    assert_eq!((topic.kind, &*topic.name), (TopicKind::Exchange, "__exchange.all"));
    assert_eq!(topic.partitions.len(), 2);
    assert_eq!(
        topic.settings().expect("they were judged").retention_bytes,
        Some(1 << 20)
    );
    assert_eq!(log.reject(&delete(1)).reason, Reason::InvalidTopicName);

    let reply = log.accept(&view(11, "view", 1));
    let (queue_id, topic_id, version) = (QueueId(11), topic.id, log.image.version());
    let created = Reply::QueueCreated {
        queue_id,
        topic_id,
        version,
    };
    assert_eq!(reply, created);
    let queue = log.image.queue(queue_id).expect("it is there");
    assert_eq!((queue.kind, queue.topic_id), (QueueKind::Bound, topic_id));
    assert_eq!(queue.settings().expect("they were judged").attempts_max, Some(7));
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));

    let rejection = log.reject(&delete_exchange(1));
    assert_eq!(rejection.reason, Reason::ExchangeInUse);
    assert!(rejection.message.contains("1 queues are views"), "{rejection}");
    log.accept(&delete_queue(11));
    assert_eq!(bindings(&log.image, 1), 0);
    log.accept(&delete_exchange(1));
    assert!(log.image.topic(topic_id).is_none());
    assert_eq!(log.image.tombstones().len(), 2, "its partitions are to be deleted");
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));
}

#[test]
fn a_fanout_exchange_leads_to_all_of_its_views_and_others_where_they_are_bound() {
    let mut log = log();
    log.accept(&view(11, "a", 1));
    log.accept(&view(12, "b", 2));
    assert_eq!((bindings(&log.image, 1), bindings(&log.image, 2)), (1, 0));
    // What is there is left as it is.
    log.accept(&bind(1, &[to_queue(11, ""), to_queue(11, "more")]));
    assert_eq!(bindings(&log.image, 1), 2);
    log.accept(&unbind(1, &[to_queue(11, "more")]));
    let rejection = log.reject(&unbind(1, &[to_queue(11, "")]));
    assert_eq!(rejection.reason, Reason::InvalidBinding);
    assert!(rejection.message.contains("Delete the queue instead"), "{rejection}");
    log.accept(&bind(2, &[to_queue(12, "a.*"), to_queue(12, "b")]));
    log.accept(&unbind(2, &[to_queue(12, "b")]));
    assert_eq!(bindings(&log.image, 2), 1);
    // One without a log is not bound for ever.
    log.accept(&create_exchange(3, "plain", FANOUT));
    log.accept(&bind(3, &[to_queue(9, "")]));
    log.accept(&unbind(3, &[to_queue(9, "")]));
}

#[test]
fn an_exchange_with_a_log_leads_to_its_own_views_alone() {
    let mut log = log();
    log.accept(&create_exchange(3, "plain", TOPIC));
    log.accept(&view(11, "a", 1));
    log.accept(&view(12, "b", 2));
    for (exchange, queue, what) in [
        (2, 9, "views over it alone"),
        (2, 11, "the log of another exchange"),
        (3, 11, "bind this exchange to that one"),
    ] {
        let rejection = log.reject(&bind(exchange, &[to_queue(queue, "k")]));
        assert_eq!(rejection.reason, Reason::WrongQueueKind);
        assert!(rejection.message.contains(what), "{rejection}");
    }
    let rejection = log.reject(&bind(2, &[to_exchange(3, "k")]));
    assert_eq!(rejection.reason, Reason::InvalidBinding);
    // Others lead to it.
    log.accept(&bind(3, &[to_exchange(1, "k"), to_exchange(2, "k")]));
    let rejection = log.reject(&view(13, "c", 3));
    assert_eq!(rejection.reason, Reason::WrongQueueKind);
    assert!(rejection.message.contains("has no log"), "{rejection}");
    assert_eq!(log.reject(&view(13, "c", 7)).reason, Reason::UnknownExchange);
    assert_eq!(log.reject(&view(13, "own", 1)).reason, Reason::QueueExists);
    let odd = Command::CreateBoundQueue {
        queue_id: QueueId(13),
        name: "c".to_owned(),
        exchange_id: ExchangeId(1),
        config: settings(&[("queue.priorities", "3")]),
    };
    assert_eq!(log.reject(&odd).reason, Reason::InvalidConfig);
}

#[test]
fn the_log_has_some_settings_and_the_exchange_some_properties() {
    let mut log = log();
    let mut odd = with_log(5, "e", FANOUT);
    if let Command::CreateLoggedExchange { config, .. } = &mut odd {
        config.insert("cleanup.policy".to_owned(), "compact".to_owned());
    }
    let rejection = log.reject(&odd);
    assert_eq!(rejection.reason, Reason::InvalidConfig);
    assert!(rejection.message.contains("\"cleanup.policy\""), "{rejection}");
    for name in ["amq.fanout", &"e".repeat(240)] {
        let reason = log.reject(&with_log(5, name, FANOUT)).reason;
        assert_eq!(reason, Reason::InvalidExchangeName);
    }
    assert_eq!(log.reject(&with_log(5, "all", FANOUT)).reason, Reason::ExchangeExists);
    assert_eq!(
        log.reject(&with_log(9, "e", FANOUT)).reason,
        Reason::InvalidRequest,
        "the id of a topic"
    );
}

#[test]
fn views_are_as_many_as_a_partition_has_slots() {
    let mut log = log();
    for id in 0..VIEWS_PER_EXCHANGE_MAX as u128 {
        log.accept(&view(100 + id, &format!("v{id}"), 1));
    }
    let rejection = log.reject(&view(99, "one-more", 1));
    assert_eq!(rejection.reason, Reason::TooManyQueues);
    assert_eq!(bindings(&log.image, 1), VIEWS_PER_EXCHANGE_MAX);
    const { assert!(VIEWS_PER_EXCHANGE_MAX < BINDINGS_PER_EXCHANGE_MAX) };
    log.accept(&view(99, "of-the-other", 2));
}

#[test]
fn admission_places_the_log_and_gives_it_bounds() {
    let mut log = log();
    let config = settings(&[("retention.ms", "5000")]);
    let new_log = NewLog {
        partitions: 3,
        replicas: 1,
        config: &config,
    };
    let wanted = NewExchange {
        name: "e",
        kind: TOPIC,
        alternate: None,
        is_internal: false,
        auto_delete: false,
        if_not_exists: true,
        log: Some(new_log),
    };
    let judged = validate_create_exchange(&log.image, &wanted, ExchangeId(5));
    assert_eq!(judged, Ok(CreateExchange::Place));
    let brokers = [BrokerView {
        replica: firsts(&[1])[0],
        rack: String::new(),
        replicas: 0,
        leaders: 0,
    }];
    let command = place_exchange(&wanted, &new_log, &brokers, ExchangeId(5), 1).expect("there is a broker");
    log.accept(&command);
    let topic = log.image.exchange_log(ExchangeId(5)).expect("it has a log");
    let settings = topic.settings().expect("they were judged");
    assert_eq!(
        (settings.retention_ms, settings.retention_bytes),
        (Some(5_000), Some(10 << 30))
    );
    assert_eq!(topic.partitions.len(), 3);
    let again = validate_create_exchange(&log.image, &wanted, ExchangeId(6));
    assert!(matches!(again, Ok(CreateExchange::Exists(exchange)) if exchange.id == ExchangeId(5)));
    let plain = NewExchange { log: None, ..wanted };
    let differs = validate_create_exchange(&log.image, &plain, ExchangeId(6)).expect_err("it has a log");
    assert_eq!(differs.reason, Reason::ExchangeExists);
    assert!(differs.message.contains("with log true, not false"), "{differs}");
    let goes = NewExchange {
        name: "f",
        auto_delete: true,
        ..wanted
    };
    let refused = validate_create_exchange(&log.image, &goes, ExchangeId(6)).expect_err("it stays");
    assert_eq!(refused.reason, Reason::InvalidRequest);
    let many = NewExchange {
        name: "f",
        log: Some(NewLog { replicas: 2, ..new_log }),
        ..wanted
    };
    let refused = validate_create_exchange(&log.image, &many, ExchangeId(6)).expect_err("there is one broker");
    assert_eq!(refused.reason, Reason::InvalidReplicas);
}

#[test]
fn a_view_is_created_by_the_name_of_its_exchange() {
    let mut log = log();
    let (none, all) = (
        settings(&[]),
        log.image
            .exchange_table()
            .get(ExchangeId(1))
            .expect("it is there")
            .clone(),
    );
    let wanted = NewQueue {
        name: "view",
        source: QueueSource::Exchange(&all),
        config: &none,
        if_not_exists: true,
    };
    assert_eq!(validate_create_queue(&log.image, &wanted), Ok(CreateQueue::Create));
    log.accept(&place_queue(&wanted, &[], QueueId(11), 1).expect("nothing is to be placed"));
    let again = validate_create_queue(&log.image, &wanted);
    assert!(matches!(again, Ok(CreateQueue::Exists(queue)) if queue.id == QueueId(11)));
    let other = log
        .image
        .exchange_table()
        .get(ExchangeId(2))
        .expect("it is there")
        .clone();
    let of_other = NewQueue {
        source: QueueSource::Exchange(&other),
        ..wanted
    };
    let refused = validate_create_queue(&log.image, &of_other).expect_err("it is over another log");
    assert_eq!(refused.reason, Reason::WrongQueueKind);
}
