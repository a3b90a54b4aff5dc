//! Queues: creation, alteration, deletion, and what they mean for topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::admission::{
    CreateQueue, CreateTopic, NewQueue, NewTopic, QueueSource, place_queue, validate_alter_queue,
    validate_create_queue, validate_create_topic, validate_delete_topic, validate_replicas_per_broker,
};
use jangada_controller::{Command, Image, QUEUES_FEATURE_LEVEL, QueueKind, QueueStart, Reply, TopicKind};
use jangada_types::limits::{QUEUES_MAX, QUEUES_PER_TOPIC_MAX};
use jangada_types::{QueueId, Reason};

use crate::fixture::{
    Log, alter_queue, create, create_group, create_owned, delete, delete_queue, firsts, register, settings, topic_id,
};

/// Three brokers that know queues.
fn log() -> Log {
    Log::formed_at(3, QUEUES_FEATURE_LEVEL)
}

/// An owned queue of one partition.
fn owned(id: u128, name: &str, config: &[(&str, &str)]) -> Command {
    create_owned(id, name, config, vec![firsts(&[1, 2, 3])])
}

#[test]
fn an_owned_queue_comes_with_a_topic_of_its_name_and_goes_with_it() {
    let mut log = log();
    let reply = log.accept(&owned(7, "jobs", &[("queue.message.max.bytes", "2048")]));
    let created = Reply::QueueCreated {
        queue_id: QueueId(7),
        topic_id: topic_id(7),
        version: 2,
    };
    assert_eq!(reply, created);
    let queue = Arc::clone(log.image.queue_by_name("jobs").unwrap());
    assert_eq!((queue.kind, queue.topic_id), (QueueKind::Owned, topic_id(7)));
    let topic = log.image.topic_named("jobs").unwrap();
    assert_eq!((topic.kind, topic.id), (TopicKind::Queue, topic_id(7)));
    let config = topic.settings().unwrap();
    assert_eq!((config.retention_ms, config.max_batch_bytes), (None, 2048));
    let of_topic: Vec<_> = log.image.queues_of(topic.id).map(|queue| queue.id).collect();
    assert_eq!(of_topic, [QueueId(7)]);
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));

    log.accept(&delete_queue(7));
    assert!(log.image.queue_by_name("jobs").is_none() && log.image.topic_named("jobs").is_none());
    assert_eq!(log.image.queues_of(topic_id(7)).count(), 0);
    assert_eq!(log.owing(), [(1, firsts(&[1, 2, 3]))]);
    assert_eq!(log.reject(&delete_queue(7)).reason, Reason::UnknownQueue);
    log.accept(&owned(8, "jobs", &[]));
}

#[test]
fn a_group_queue_reads_a_topic_and_leaves_it_there() {
    let mut log = log();
    log.accept(&create(1, "orders", vec![firsts(&[1]), firsts(&[2])]));
    log.accept(&Command::CreateGroupQueue {
        queue_id: QueueId(7),
        name: "billing".to_owned(),
        topic_id: topic_id(1),
        start: QueueStart::Timestamp(5),
        config: settings(&[("queue.lease.ms", "100")]),
    });
    log.accept(&Command::AddPartitions {
        topic_id: topic_id(1),
        existing: 2,
        assignments: vec![firsts(&[3])],
    });
    let queue = log.image.queue(QueueId(7)).unwrap();
    let (start, partitions) = (QueueStart::Timestamp(5), 2);
    assert_eq!(queue.kind, QueueKind::Group { start, partitions });
    assert_eq!(queue.settings().unwrap().lease_ms, 100);
    log.accept(&create_group(8, "mail", 1, &[]));
    let of_topic: Vec<_> = log.image.queues_of(topic_id(1)).map(|queue| &*queue.name).collect();
    assert_eq!(of_topic, ["billing", "mail"]);
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));

    let rejection = log.reject(&delete(1));
    assert_eq!(rejection.reason, Reason::TopicHasQueues);
    assert!(rejection.message.contains("billing, mail"), "{rejection}");
    let compacted = |policy| Command::AlterTopic {
        topic_id: topic_id(1),
        set: settings(&[("cleanup.policy", policy)]),
        unset: vec![],
    };
    for policy in ["compact", "compact,delete"] {
        let rejection = log.reject(&compacted(policy));
        assert_eq!(rejection.reason, Reason::InvalidConfig);
        assert!(rejection.message.contains("is read by queues"), "{rejection}");
    }
    log.accept(&delete_queue(7));
    log.accept(&delete_queue(8));
    assert!(log.image.topic(topic_id(1)).is_some());
    log.accept(&compacted("compact"));
    let rejection = log.reject(&create_group(9, "late", 1, &[]));
    assert_eq!(rejection.reason, Reason::InvalidConfig);
    assert!(rejection.message.contains("which is compacted"), "{rejection}");
    log.accept(&compacted("delete"));
    log.accept(&create_group(9, "late", 1, &[]));
    log.accept(&delete_queue(9));
    log.accept(&delete(1));
}

#[test]
fn a_name_belongs_to_one_queue_or_topic() {
    let mut log = log();
    log.create(1, "orders", &firsts(&[1]));
    log.accept(&owned(2, "jobs", &[]));
    log.accept(&create_group(3, "billing", 1, &[]));
    let mut judge = |command: &Command| log.reject(command).reason;
    assert_eq!(judge(&owned(9, "orders", &[])), Reason::TopicExists);
    assert_eq!(judge(&create_group(9, "orders", 1, &[])), Reason::TopicExists);
    for name in ["jobs", "billing"] {
        assert_eq!(judge(&owned(9, name, &[])), Reason::QueueExists);
        assert_eq!(judge(&create_group(9, name, 1, &[])), Reason::QueueExists);
        assert_eq!(judge(&create(9, name, vec![firsts(&[1])])), Reason::QueueExists);
    }
    for name in ["", "a b", "__q", ".."] {
        assert_eq!(judge(&owned(9, name, &[])), Reason::InvalidQueueName);
    }
    let again = log.reject(&owned(2, "jobs", &[]));
    assert_eq!(
        again.metadata["queue_id"],
        QueueId(2).to_string(),
        "a repeated proposal finds its id"
    );
}

#[test]
fn an_id_is_given_once() {
    let mut log = log();
    log.create(1, "orders", &firsts(&[1]));
    log.accept(&create_group(2, "billing", 1, &[]));
    let mut judge = |command: &Command| log.reject(command).reason;
    assert_eq!(judge(&owned(0, "a", &[])), Reason::InvalidRequest);
    assert_eq!(judge(&owned(1, "a", &[])), Reason::InvalidRequest, "a topic has it");
    assert_eq!(judge(&owned(2, "a", &[])), Reason::InvalidRequest, "a queue has it");
    assert_eq!(judge(&create_group(2, "a", 1, &[])), Reason::InvalidRequest);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut log = log();
    log.create(1, "orders", &firsts(&[1]));
    log.accept(&owned(2, "jobs", &[]));
    let mut judge = |command: &Command| log.reject(command).reason;
    assert_eq!(judge(&create_group(9, "a", 5, &[])), Reason::UnknownTopic);
    assert_eq!(judge(&create_group(9, "a", 2, &[])), Reason::WrongQueueKind);
    assert_eq!(judge(&create_owned(9, "a", &[], vec![])), Reason::InvalidPartitions);
    assert_eq!(
        judge(&create_owned(9, "a", &[], vec![firsts(&[4])])),
        Reason::UnknownBroker
    );
    assert_eq!(judge(&owned(9, "a", &[("queue.lease", "1")])), Reason::InvalidConfig);
    assert_eq!(
        judge(&owned(9, "a", &[("queue.hold.bytes", "1")])),
        Reason::InvalidConfig
    );
    assert_eq!(
        judge(&create_group(9, "a", 1, &[("queue.delay.ms", "1")])),
        Reason::InvalidConfig
    );
    assert_eq!(judge(&alter_queue(9, &[], &[])), Reason::UnknownQueue);
}

#[test]
fn the_topic_of_a_queue_is_not_changed_by_itself() {
    let mut log = log();
    log.accept(&owned(2, "jobs", &[]));
    let alter = Command::AlterTopic {
        topic_id: topic_id(2),
        set: settings(&[("retention.ms", "5")]),
        unset: vec![],
    };
    let add = Command::AddPartitions {
        topic_id: topic_id(2),
        existing: 1,
        assignments: vec![firsts(&[1])],
    };
    for command in [delete(2), alter, add] {
        let rejection = log.reject(&command);
        assert_eq!(rejection.reason, Reason::WrongQueueKind);
        assert!(rejection.message.contains("\"jobs\" is a queue"), "{rejection}");
    }
}

#[test]
fn an_alteration_sets_and_unsets_all_or_nothing() {
    let mut log = log();
    log.accept(&owned(2, "jobs", &[("queue.priorities", "3")]));
    let topic = Arc::clone(log.image.topic(topic_id(2)).unwrap());
    let set = [("queue.paused", "true"), ("queue.priorities", "4")];
    assert_eq!(
        log.accept(&alter_queue(2, &set, &[])),
        Reply::QueueAltered { version: log.index }
    );
    assert_eq!(log.image.queue(QueueId(2)).unwrap().config, settings(&set));
    assert!(
        Arc::ptr_eq(&topic, log.image.topic(topic_id(2)).unwrap()),
        "the topic has nothing to look at"
    );
    log.accept(&alter_queue(
        2,
        &[("queue.message.max.bytes", "4096")],
        &["queue.paused"],
    ));
    assert_eq!(
        log.image
            .topic(topic_id(2))
            .unwrap()
            .settings()
            .unwrap()
            .max_batch_bytes,
        4096
    );
    assert!(!log.image.queue(QueueId(2)).unwrap().settings().unwrap().is_paused);

    let mut judge = |set: &[_], unset: &[_]| log.reject(&alter_queue(2, set, unset));
    for (set, unset, named) in [
        (
            &[("queue.lease.ms", "1"), ("queue.ttl.ms", "0")][..],
            &[][..],
            "queue.ttl.ms",
        ),
        (&[("queue.lease.ms", "1")], &["queue.lease"], "queue.lease"),
        (&[("queue.lease.ms", "1")], &["queue.lease.ms"], "both set and unset"),
        (&[("queue.order", "key")], &["queue.priorities"], "queue.order is none"),
        (&[("queue.priorities", "3")], &[], "queue.priorities is 4"),
        (&[], &["queue.priorities"], "queue.priorities is 4"),
        (&[("queue.hold.bytes", "3")], &[], "queue.hold.bytes"),
    ] {
        let rejection = judge(set, unset);
        assert_eq!(rejection.reason, Reason::InvalidConfig);
        assert!(
            rejection.message.contains(named) && rejection.message.contains("\"jobs\""),
            "{rejection}"
        );
    }
    log.accept(&owned(3, "plain", &[]));
    let rejection = log.reject(&alter_queue(3, &[("queue.priorities", "2")], &[]));
    assert!(rejection.message.contains("created with 1"), "{rejection}");
}

#[test]
fn an_unused_queue_stays_if_its_setting_is_another_one_by_now() {
    const EXPIRES: &str = "queue.expires.ms";
    let mut log = log();
    log.accept(&owned(2, "jobs", &[(EXPIRES, "5000")]));
    let expire = |expires_ms| Command::ExpireQueue {
        queue_id: QueueId(2),
        expires_ms,
    };
    let rejection = log.reject(&expire(4_000));
    assert_eq!(rejection.reason, Reason::ConditionFailed);
    assert!(rejection.message.contains("\"jobs\" stays"), "{rejection}");
    log.accept(&alter_queue(2, &[], &[EXPIRES]));
    assert_eq!(log.reject(&expire(5_000)).reason, Reason::ConditionFailed);
    log.accept(&alter_queue(2, &[(EXPIRES, "5000")], &[]));
    assert_eq!(log.accept(&expire(5_000)), Reply::QueueDeleted { version: log.index });
    assert!(log.image.queue_by_name("jobs").is_none() && log.image.topic_named("jobs").is_none());
    assert_eq!(log.reject(&expire(5_000)).reason, Reason::UnknownQueue);
}

#[test]
fn dead_letters_never_come_back() {
    const TO: &str = "queue.dead.letter.topic";
    let mut log = log();
    log.create(1, "orders", &firsts(&[1]));
    log.create(2, "trash", &firsts(&[1]));
    log.accept(&create_group(3, "billing", 1, &[(TO, "trash")]));
    log.accept(&owned(4, "retry", &[(TO, "orders")]));
    let mut judge = |command: &Command| {
        let rejection = log.reject(command);
        assert_eq!(rejection.reason, Reason::InvalidConfig);
        rejection.message
    };
    assert!(judge(&owned(9, "self", &[(TO, "self")])).contains("queue itself"));
    assert!(judge(&create_group(9, "g", 1, &[(TO, "orders")])).contains("queue itself"));
    assert!(judge(&owned(9, "a", &[(TO, "nowhere")])).contains("create it first"));
    assert!(judge(&owned(9, "a", &[(TO, "billing")])).contains("reads a topic"));
    // orders -> trash -> retry -> orders
    let message = judge(&create_group(9, "g", 2, &[(TO, "retry")]));
    assert!(message.contains("through queue \"billing\""), "{message}");
    assert!(judge(&alter_queue(3, &[(TO, "retry")], &[])).contains("through queue \"retry\""));

    // The target goes, and another queue has its name: names are followed.
    log.accept(&delete(2));
    let rejection = log.reject(&owned(5, "trash", &[(TO, "retry")]));
    assert!(rejection.message.contains("through queue \"billing\""), "{rejection}");
    log.accept(&owned(5, "trash", &[]));
    log.accept(&alter_queue(4, &[(TO, "")], &[]));
    log.accept(&alter_queue(5, &[(TO, "retry")], &[]));
}

#[test]
fn queues_wait_for_brokers_that_do_not_know_them_and_keep_them_out() {
    let mut old = Log::formed_at(3, QUEUES_FEATURE_LEVEL - 1);
    old.create(1, "orders", &firsts(&[1]));
    for command in [owned(2, "jobs", &[]), create_group(2, "billing", 1, &[])] {
        let rejection = old.reject(&command);
        assert_eq!(rejection.reason, Reason::NotReady);
        assert!(rejection.message.contains("upgrade"), "{rejection}");
        let mut log = log();
        log.create(1, "orders", &firsts(&[1]));
        log.accept(&command);
        assert_eq!(log.image.feature_level(), QUEUES_FEATURE_LEVEL);
        assert!(log.reject(&register(4, 0, 4)).message.contains("upgrade"));
    }
}

#[test]
fn a_topic_and_a_cluster_have_so_many_queues() {
    let mut log = log();
    log.create(1, "orders", &firsts(&[1]));
    let queues = u128::try_from(QUEUES_PER_TOPIC_MAX).unwrap();
    for id in 0..queues {
        log.accept(&create_group(100 + id, &format!("g{id}"), 1, &[]));
    }
    let rejection = log.reject(&create_group(9, "more", 1, &[]));
    assert_eq!(rejection.reason, Reason::TooManyQueues);
    assert!(rejection.message.contains("\"orders\""), "{rejection}");
    for id in u32::try_from(QUEUES_PER_TOPIC_MAX).unwrap()..u32::try_from(QUEUES_MAX).unwrap() {
        log.accept(&owned(1_000 + u128::from(id), &format!("q{id}"), &[]));
    }
    let rejection = log.reject(&owned(9, "more", &[]));
    assert_eq!(rejection.reason, Reason::TooManyQueues);
    assert!(rejection.message.contains("the cluster has 10000"), "{rejection}");
}

#[test]
fn what_is_admitted_and_placed_is_applied() {
    let mut log = log();
    let (config, none) = (settings(&[("queue.order", "key")]), BTreeMap::new());
    log.create(1, "orders", &firsts(&[1]));
    let own = NewQueue {
        name: "jobs",
        source: QueueSource::Own {
            partitions: 4,
            replicas: 3,
        },
        config: &config,
        if_not_exists: true,
    };
    assert_eq!(validate_create_queue(&log.image, &own), Ok(CreateQueue::Create));
    let brokers = log.image.broker_views();
    let command = place_queue(&own, &brokers, QueueId(7), 5).unwrap();
    let rejection = validate_replicas_per_broker(&command, &brokers, 3).unwrap_err();
    assert_eq!(rejection.reason, Reason::TooManyReplicas);
    log.accept(&command);
    let topic = Arc::clone(log.image.topic_named("orders").unwrap());
    let group = NewQueue {
        name: "billing",
        source: QueueSource::Topic {
            topic: &topic,
            start: QueueStart::Latest,
        },
        config: &none,
        if_not_exists: true,
    };
    log.accept(&place_queue(&group, &[], QueueId(8), 5).unwrap());
    for wanted in [own, group] {
        let exists = validate_create_queue(&log.image, &wanted).unwrap();
        assert!(matches!(exists, CreateQueue::Exists(queue) if &*queue.name == wanted.name));
        let strict = NewQueue {
            if_not_exists: false,
            ..wanted
        };
        let rejection = validate_create_queue(&log.image, &strict).unwrap_err();
        assert_eq!(rejection.reason, Reason::QueueExists);
    }
    for (name, source) in [("jobs", group.source), ("billing", own.source)] {
        let wanted = NewQueue { name, source, ..own };
        let rejection = validate_create_queue(&log.image, &wanted).unwrap_err();
        assert_eq!(rejection.reason, Reason::WrongQueueKind);
    }

    let queue = Arc::clone(log.image.queue_by_name("jobs").unwrap());
    let set = settings(&[("queue.paused", "true")]);
    log.accept(&validate_alter_queue(&log.image, &queue, &set, &[]).unwrap());
    let nothing = validate_alter_queue(&log.image, &queue, &none, &[]).unwrap_err();
    assert_eq!(nothing.reason, Reason::InvalidRequest);
    let deletion = |name| validate_delete_topic(&log.image, name).unwrap_err().reason;
    assert_eq!(deletion("jobs"), Reason::WrongQueueKind);
    assert_eq!(deletion("orders"), Reason::TopicHasQueues);
}

#[test]
fn a_topic_is_not_found_in_the_place_of_a_queue() {
    let mut log = log();
    let none = BTreeMap::new();
    log.accept(&owned(2, "jobs", &[]));
    let wanted = NewTopic {
        name: "jobs",
        partitions: 1,
        replicas: 1,
        config: &none,
        if_not_exists: true,
    };
    let judged: Result<CreateTopic, _> = validate_create_topic(&log.image, &wanted);
    assert_eq!(judged.unwrap_err().reason, Reason::QueueExists);
}
