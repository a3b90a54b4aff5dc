//! Exchanges and bindings: creation, deletion, binding, and what goes with what.

use std::sync::Arc;

use bytes::Bytes;
use jangada_controller::admission::exchanges::{
    CreateExchange, DestinationName, NewBinding, NewExchange, validate_bind, validate_create_exchange,
    validate_delete_exchange, validate_unbind,
};
use jangada_controller::{Command, EXCHANGES_FEATURE_LEVEL, Image, QUEUES_FEATURE_LEVEL, Rejection, Reply};
use jangada_routing::{Binding, Destination, ExchangeKind, HeaderMatch, MatchMode};
use jangada_types::limits::{
    BINDINGS_PER_EXCHANGE_MAX, BINDINGS_PER_REQUEST_MAX, EXCHANGES_MAX, EXCHANGES_PER_MESSAGE_MAX,
};
use jangada_types::{ExchangeId, QueueId, Reason};

use crate::fixture::{Log, create_group, create_owned, delete_queue, firsts};

const DIRECT: ExchangeKind = ExchangeKind::Direct;
const FANOUT: ExchangeKind = ExchangeKind::Fanout;
const TOPIC: ExchangeKind = ExchangeKind::Topic;

/// A broker that knows exchanges, and queues `q1` to `q3` with the ids 1 to 3.
fn log() -> Log {
    let mut log = Log::formed_at(1, EXCHANGES_FEATURE_LEVEL);
    for id in 1..=3 {
        log.accept(&create_owned(id, &format!("q{id}"), &[], vec![firsts(&[1])]));
    }
    log
}

pub fn create_exchange(id: u128, name: &str, kind: ExchangeKind) -> Command {
    Command::CreateExchange {
        exchange_id: ExchangeId(id),
        name: name.to_owned(),
        exchange_kind: kind,
        alternate: None,
        is_internal: false,
        auto_delete: false,
    }
}

fn with_alternate(command: Command, to: &str) -> Command {
    let mut command = command;
    if let Command::CreateExchange { alternate, .. } = &mut command {
        *alternate = Some(to.to_owned());
    }
    command
}

fn auto_deleted(command: Command) -> Command {
    let mut command = command;
    if let Command::CreateExchange { auto_delete, .. } = &mut command {
        *auto_delete = true;
    }
    command
}

pub fn to_queue(queue: u128, key: &str) -> Binding {
    Binding {
        destination: Destination::Queue(QueueId(queue)),
        routing_key: Arc::from(key),
        headers: None,
    }
}

pub fn to_exchange(exchange: u128, key: &str) -> Binding {
    Binding {
        destination: Destination::Exchange(ExchangeId(exchange)),
        ..to_queue(0, key)
    }
}

pub fn bind(exchange: u128, bindings: &[Binding]) -> Command {
    Command::Bind {
        exchange_id: ExchangeId(exchange),
        bindings: bindings.to_vec(),
    }
}

fn unbind(exchange: u128, bindings: &[Binding]) -> Command {
    Command::Unbind {
        exchange_id: ExchangeId(exchange),
        bindings: bindings.to_vec(),
    }
}

fn delete_exchange(exchange: u128, if_unused: bool) -> Command {
    Command::DeleteExchange {
        exchange_id: ExchangeId(exchange),
        if_unused,
    }
}

fn names(image: &Image) -> Vec<&str> {
    image
        .exchange_table()
        .by_name()
        .map(|exchange| &*exchange.name)
        .collect()
}

fn bindings_of(image: &Image, name: &str) -> usize {
    image
        .exchange_table()
        .named(name)
        .expect("the exchange is there")
        .bindings
        .len()
}

/// What follows from the exchanges is as if it had been made of them anew.
fn assert_restores(image: &Image) {
    assert_eq!(Image::restore(&image.snapshot()).as_ref(), Ok(image));
}

#[test]
fn an_exchange_has_bindings_until_they_or_it_or_their_queue_go() {
    let mut log = log();
    let reply = log.accept(&create_exchange(1, "orders", TOPIC));
    let exchange_id = ExchangeId(1);
    assert_eq!(
        reply,
        Reply::ExchangeCreated {
            exchange_id,
            version: 5
        }
    );
    assert_eq!(log.image.feature_level(), EXCHANGES_FEATURE_LEVEL);
    let wanted = [to_queue(1, "a.*"), to_queue(1, "#"), to_queue(2, "b"), to_queue(2, "b")];
    assert_eq!(log.accept(&bind(1, &wanted)), Reply::Bound { added: 3, version: 6 });
    assert_eq!(log.accept(&bind(1, &wanted)), Reply::Bound { added: 0, version: 7 });
    let table = log.image.exchange_table();
    assert_eq!((table.bindings(), table.bytes()), (3, 3 * 64 + 5));
    let sources = |queue| table.sources(Destination::Queue(QueueId(queue))).count();
    assert_eq!((sources(1), sources(2), sources(3)), (1, 1, 0));
    assert_restores(&log.image);

    let some = [to_queue(1, "#"), to_queue(3, "never")];
    assert_eq!(log.accept(&unbind(1, &some)), Reply::Unbound { removed: 1, version: 8 });
    assert_restores(&log.image);
    log.accept(&delete_queue(2));
    assert_eq!(bindings_of(&log.image, "orders"), 1);
    assert_restores(&log.image);

    let rejection = log.reject(&delete_exchange(1, true));
    assert_eq!(rejection.reason, Reason::ExchangeInUse);
    assert!(rejection.message.contains("has 1 bindings"), "{rejection}");
    log.accept(&delete_exchange(1, false));
    assert_eq!(log.image.exchange_table().bindings(), 0);
    assert_restores(&log.image);
    for command in [bind(1, &wanted), unbind(1, &wanted), delete_exchange(1, false)] {
        assert_eq!(log.reject(&command).reason, Reason::UnknownExchange);
    }
    log.accept(&create_exchange(2, "orders", DIRECT));
    log.accept(&delete_exchange(2, true));
}

#[test]
fn bindings_lead_to_what_is_there_and_takes_messages() {
    let mut log = log();
    log.create(9, "topic", &firsts(&[1]));
    log.accept(&create_group(8, "reader", 9, &[]));
    log.accept(&create_exchange(1, "orders", TOPIC));
    let mut judge = |bindings: &[Binding]| log.reject(&bind(1, bindings));
    assert_eq!(
        judge(&[to_queue(1, "a"), to_queue(7, "a")]).reason,
        Reason::UnknownQueue
    );
    assert_eq!(judge(&[to_exchange(7, "a")]).reason, Reason::UnknownExchange);
    let rejection = judge(&[to_queue(8, "a")]);
    assert_eq!(rejection.reason, Reason::WrongQueueKind);
    assert!(rejection.message.contains("\"reader\" reads a topic"), "{rejection}");
    assert_eq!(judge(&[to_queue(1, "a*")]).reason, Reason::InvalidBinding);
    assert_eq!(judge(&[]).reason, Reason::InvalidRequest);
    let many: Vec<_> = (0..=BINDINGS_PER_REQUEST_MAX)
        .map(|key| to_queue(1, &key.to_string()))
        .collect();
    let rejection = judge(&many);
    assert_eq!(rejection.reason, Reason::InvalidRequest);
    assert!(rejection.message.contains("1001 bindings"), "{rejection}");
    let asking = Binding {
        headers: Some(Arc::new(HeaderMatch {
            mode: MatchMode::Any,
            headers: [(Arc::from("a"), Some(Bytes::from_static(b"1")))].into(),
        })),
        ..to_queue(1, "")
    };
    assert_eq!(judge(std::slice::from_ref(&asking)).reason, Reason::InvalidBinding);
    log.accept(&create_exchange(2, "by-header", ExchangeKind::Headers));
    log.accept(&bind(2, &[asking]));
    assert_restores(&log.image);
}

#[test]
fn names_are_of_one_exchange_and_a_queue_may_have_them_too() {
    let mut log = log();
    log.accept(&create_exchange(1, "q1", FANOUT));
    let rejection = log.reject(&create_exchange(2, "q1", FANOUT));
    assert_eq!(rejection.reason, Reason::ExchangeExists);
    assert_eq!(
        rejection.metadata["exchange_id"],
        ExchangeId(1).to_string(),
        "a repeated proposal finds its id"
    );
    assert_eq!(
        log.reject(&create_exchange(1, "other", FANOUT)).reason,
        Reason::InvalidRequest
    );
    assert_eq!(
        log.reject(&create_exchange(0, "other", FANOUT)).reason,
        Reason::InvalidRequest
    );
    for name in ["", "amq.mine", "a b"] {
        assert_eq!(
            log.reject(&create_exchange(2, name, FANOUT)).reason,
            Reason::InvalidExchangeName
        );
    }
    // AMQP's own come into being when somebody needs one, as they are to be, and stay.
    assert_eq!(
        log.reject(&create_exchange(2, "amq.topic", FANOUT)).reason,
        Reason::InvalidExchangeName
    );
    let odd = auto_deleted(create_exchange(2, "amq.topic", TOPIC));
    assert_eq!(log.reject(&odd).reason, Reason::InvalidExchangeName);
    log.accept(&create_exchange(2, "amq.topic", TOPIC));
    assert_eq!(
        log.reject(&delete_exchange(2, true)).reason,
        Reason::InvalidExchangeName
    );
}

#[test]
fn an_exchange_that_is_to_go_with_its_last_binding_does_and_takes_others_along() {
    let mut log = log();
    log.accept(&auto_deleted(create_exchange(1, "a", FANOUT)));
    log.accept(&auto_deleted(create_exchange(2, "b", FANOUT)));
    log.accept(&create_exchange(3, "stays", FANOUT));
    assert_eq!(
        names(&log.image),
        ["a", "b", "stays"],
        "one that never had bindings stays"
    );
    log.accept(&bind(2, &[to_queue(1, ""), to_queue(2, "")]));
    log.accept(&bind(1, &[to_exchange(2, "")]));
    log.accept(&bind(3, &[to_exchange(1, ""), to_exchange(2, "")]));
    log.accept(&unbind(2, &[to_queue(2, "")]));
    assert_eq!(names(&log.image), ["a", "b", "stays"]);
    log.accept(&delete_queue(1));
    assert_eq!(names(&log.image), ["stays"]);
    assert_eq!(log.image.exchange_table().bindings(), 0);
    assert_restores(&log.image);

    // Two that only lead to each other keep each other.
    log.accept(&auto_deleted(create_exchange(4, "c", FANOUT)));
    log.accept(&auto_deleted(create_exchange(5, "d", FANOUT)));
    log.accept(&bind(4, &[to_exchange(5, ""), to_exchange(4, "")]));
    log.accept(&bind(5, &[to_exchange(4, "")]));
    log.accept(&delete_exchange(4, false));
    assert_eq!(names(&log.image), ["stays"]);
    assert_restores(&log.image);
}

#[test]
fn what_is_unroutable_never_comes_back() {
    let mut log = log();
    let refused = |rejection: Rejection| {
        assert_eq!(rejection.reason, Reason::InvalidRequest);
        assert!(rejection.message.contains("would come back"), "{rejection}");
    };
    refused(log.reject(&with_alternate(create_exchange(1, "a", FANOUT), "a")));
    // The alternate exchange need not be there yet.
    log.accept(&with_alternate(create_exchange(1, "a", FANOUT), "b"));
    log.accept(&with_alternate(create_exchange(2, "b", FANOUT), "c"));
    refused(log.reject(&with_alternate(create_exchange(3, "c", FANOUT), "a")));
    log.accept(&with_alternate(create_exchange(3, "c", FANOUT), "d"));
    let rejection = log.reject(&with_alternate(create_exchange(4, "d", FANOUT), "e f"));
    assert_eq!(rejection.reason, Reason::InvalidRequest);
    // Bindings may lead back: a message passes each exchange once.
    log.accept(&bind(3, &[to_exchange(1, ""), to_exchange(3, "")]));
    assert_restores(&log.image);
}

#[test]
fn a_message_passes_few_exchanges() {
    let mut log = log();
    let most = EXCHANGES_PER_MESSAGE_MAX as u128;
    for id in 1..=most + 2 {
        log.accept(&create_exchange(id, &format!("e{id}"), FANOUT));
    }
    for id in 1..most {
        log.accept(&bind(id, &[to_exchange(id + 1, "")]));
    }
    // In a circle they are no more than they were.
    log.accept(&bind(most, &[to_exchange(1, "")]));
    for (from, to) in [(most, most + 1), (most + 2, 1), (3, most + 2)] {
        let rejection = log.reject(&bind(from, &[to_queue(1, ""), to_exchange(to, "")]));
        assert_eq!(rejection.reason, Reason::InvalidBinding);
        assert!(rejection.message.contains("more than 64 exchanges"), "{rejection}");
    }
    // The alternate exchange counts, also when it is created after the one that names it.
    log.accept(&unbind(most, &[to_exchange(1, "")]));
    log.accept(&with_alternate(create_exchange(200, "begin", FANOUT), "later"));
    log.accept(&bind(200, &[to_exchange(2, "")]));
    let rejection = log.reject(&create_exchange(201, "later", FANOUT));
    assert!(
        rejection.message.contains("\"begin\" could pass more than 64"),
        "{rejection}"
    );
}

#[test]
fn a_cluster_has_bounds() {
    let mut log = log();
    log.accept(&create_exchange(1, "orders", TOPIC));
    let mut number = 0;
    for _ in 0..BINDINGS_PER_EXCHANGE_MAX / BINDINGS_PER_REQUEST_MAX {
        let bindings: Vec<_> = (number..number + BINDINGS_PER_REQUEST_MAX)
            .map(|key| to_queue(1, &key.to_string()))
            .collect();
        log.accept(&bind(1, &bindings));
        number += BINDINGS_PER_REQUEST_MAX;
    }
    let rejection = log.reject(&bind(1, &[to_queue(1, "one more")]));
    assert_eq!(rejection.reason, Reason::TooManyBindings);
    assert_eq!(rejection.metadata["limit"], BINDINGS_PER_EXCHANGE_MAX.to_string());
    log.accept(&bind(1, &[to_queue(1, "0")]));
    for id in 2..=EXCHANGES_MAX as u128 {
        log.accept(&create_exchange(id, &format!("e{id}"), DIRECT));
    }
    let rejection = log.reject(&create_exchange(1 << 20, "one-more", DIRECT));
    assert_eq!(rejection.reason, Reason::TooManyExchanges);
    assert!(rejection.message.contains("10000 exchanges"), "{rejection}");
}

#[test]
fn an_older_broker_is_named() {
    let mut log = Log::formed_at(1, QUEUES_FEATURE_LEVEL);
    let rejection = log.reject(&create_exchange(1, "orders", TOPIC));
    assert_eq!(rejection.reason, Reason::NotReady);
    assert!(
        rejection.message.contains("feature level 7, this needs 9"),
        "{rejection}"
    );
}

fn wanted(name: &str) -> NewExchange<'_> {
    NewExchange {
        name,
        kind: TOPIC,
        alternate: None,
        is_internal: false,
        auto_delete: false,
        if_not_exists: true,
        log: None,
    }
}

#[test]
fn admission_says_what_apply_says_and_takes_names() {
    let mut log = log();
    let id = ExchangeId(1);
    let created = validate_create_exchange(&log.image, &wanted("orders"), id).unwrap();
    assert_eq!(created, CreateExchange::Create(create_exchange(1, "orders", TOPIC)));
    log.accept(&create_exchange(1, "orders", TOPIC));
    let exists = validate_create_exchange(&log.image, &wanted("orders"), ExchangeId(2)).unwrap();
    assert!(matches!(exists, CreateExchange::Exists(exchange) if exchange.id == id));
    for (differs, word) in [
        (
            NewExchange {
                kind: FANOUT,
                ..wanted("orders")
            },
            "kind topic, not fanout",
        ),
        (
            NewExchange {
                alternate: Some("x"),
                ..wanted("orders")
            },
            "alternate exchange none, not \"x\"",
        ),
        (
            NewExchange {
                is_internal: true,
                ..wanted("orders")
            },
            "internal false, not true",
        ),
        (
            NewExchange {
                auto_delete: true,
                ..wanted("orders")
            },
            "auto-delete false, not true",
        ),
        (
            NewExchange {
                if_not_exists: false,
                ..wanted("orders")
            },
            "choose another name",
        ),
    ] {
        let rejection = validate_create_exchange(&log.image, &differs, ExchangeId(2)).unwrap_err();
        assert_eq!(rejection.reason, Reason::ExchangeExists);
        assert!(rejection.message.contains(word), "{rejection}");
    }

    let binding = |destination, routing_key| NewBinding {
        destination,
        routing_key,
        headers: None,
    };
    let (q1, orders) = (DestinationName::Queue("q1"), DestinationName::Exchange("orders"));
    let bindings = [binding(q1, "a.#"), binding(orders, "b")];
    let expected = [to_queue(1, "a.#"), to_exchange(1, "b")];
    assert_eq!(validate_bind(&log.image, "orders", &bindings), Ok(bind(1, &expected)));
    assert_eq!(
        validate_unbind(&log.image, "orders", &bindings),
        Ok(unbind(1, &expected))
    );
    let reason = |judged: Result<Command, Rejection>| judged.unwrap_err().reason;
    let image = &log.image;
    assert_eq!(reason(validate_bind(image, "none", &bindings)), Reason::UnknownExchange);
    assert_eq!(reason(validate_unbind(image, "orders", &[])), Reason::InvalidRequest);
    let unknown = [binding(DestinationName::Queue("none"), "")];
    assert_eq!(reason(validate_bind(image, "orders", &unknown)), Reason::UnknownQueue);
    assert_eq!(reason(validate_unbind(image, "orders", &unknown)), Reason::UnknownQueue);
    let unknown = [binding(DestinationName::Exchange("none"), "")];
    assert_eq!(
        reason(validate_bind(image, "orders", &unknown)),
        Reason::UnknownExchange
    );
    assert_eq!(
        reason(validate_bind(image, "orders", &[binding(q1, "a*")])),
        Reason::InvalidBinding
    );
    assert_eq!(
        validate_delete_exchange(image, "orders", true),
        Ok(delete_exchange(1, true))
    );
    assert_eq!(
        reason(validate_delete_exchange(image, "none", false)),
        Reason::UnknownExchange
    );
}
