//! Checks before a command is proposed.

use std::collections::{BTreeMap, BTreeSet};

use jangada_controller::admission::{
    CreateTopic, NewTopic, place_partitions, place_topic, validate_add_partitions, validate_alter_topic,
    validate_bump_producer_epoch, validate_create_topic, validate_delete_topic, validate_replace_broker,
    validate_replicas_per_broker,
};
use jangada_controller::{Command, FEATURE_LEVEL, Image};
use jangada_types::limits::PARTITIONS_PER_TOPIC_MAX;
use jangada_types::{BrokerId, ProducerEpoch, ProducerId, Reason};

use crate::fixture::{Log, delete, firsts, registration, replace, settings, topic_id};

const NO_SETTINGS: &BTreeMap<String, String> = &BTreeMap::new();

fn wanted(name: &str) -> NewTopic<'_> {
    NewTopic {
        name,
        partitions: 6,
        replicas: 3,
        config: NO_SETTINGS,
        if_not_exists: false,
    }
}

fn refusal(image: &Image, wanted: NewTopic<'_>) -> Reason {
    validate_create_topic(image, &wanted).unwrap_err().reason
}

#[test]
fn what_is_admitted_and_placed_is_applied() {
    let mut log = Log::formed(3);
    assert_eq!(
        validate_create_topic(&log.image, &wanted("orders")),
        Ok(CreateTopic::Create)
    );
    let command = place_topic(&wanted("orders"), &log.image.broker_views(), topic_id(1), 5).unwrap();
    log.accept(&command);
    assert_eq!(log.image.topic_named("orders").unwrap().partitions.len(), 6);
    let set = settings(&[("retention.ms", "5")]);
    let alter = validate_alter_topic(&log.image, "orders", &set, &[]).unwrap();
    log.accept(&alter);
    assert_eq!(log.image.topic_named("orders").unwrap().config, set);
    assert_eq!(validate_delete_topic(&log.image, "orders"), Ok(delete(1)));
}

#[test]
fn each_bad_request_has_its_reason() {
    let mut log = Log::formed(3);
    log.create(1, "orders", &firsts(&[1]));
    let bad_config = settings(&[("retention.ms", "soon")]);
    let good = wanted("others");
    assert_eq!(refusal(&log.image, wanted("a/b")), Reason::InvalidTopicName);
    assert_eq!(refusal(&log.image, wanted("orders")), Reason::TopicExists);
    assert_eq!(
        refusal(&log.image, NewTopic { partitions: 0, ..good }),
        Reason::InvalidPartitions
    );
    assert_eq!(
        refusal(
            &log.image,
            NewTopic {
                partitions: 10_001,
                ..good
            }
        ),
        Reason::InvalidPartitions
    );
    assert_eq!(
        refusal(&log.image, NewTopic { replicas: 0, ..good }),
        Reason::InvalidReplicas
    );
    assert_eq!(
        refusal(&log.image, NewTopic { replicas: 4, ..good }),
        Reason::InvalidReplicas
    );
    assert_eq!(
        refusal(
            &log.image,
            NewTopic {
                config: &bad_config,
                ..good
            }
        ),
        Reason::InvalidConfig
    );

    let alter = |name, set, unset: &[&str]| {
        let unset: Vec<String> = unset.iter().map(|key| (*key).to_owned()).collect();
        validate_alter_topic(&log.image, name, set, &unset).unwrap_err().reason
    };
    assert_eq!(alter("nothing", NO_SETTINGS, &["retention.ms"]), Reason::UnknownTopic);
    assert_eq!(alter("orders", NO_SETTINGS, &[]), Reason::InvalidRequest);
    assert_eq!(alter("orders", &bad_config, &[]), Reason::InvalidConfig);
    assert_eq!(alter("orders", NO_SETTINGS, &["no.such.key"]), Reason::InvalidConfig);
    assert_eq!(
        validate_delete_topic(&log.image, "nothing").unwrap_err().reason,
        Reason::UnknownTopic
    );
}

#[test]
fn a_topic_that_exists_is_fine_when_asked_for_so() {
    let mut log = Log::formed(1);
    log.create(1, "orders", &firsts(&[1]));
    let again = NewTopic {
        if_not_exists: true,
        ..wanted("orders")
    };
    let topic = log.image.topic_named("orders").unwrap().clone();
    assert_eq!(
        validate_create_topic(&log.image, &again),
        Ok(CreateTopic::Exists(topic))
    );
}

#[test]
fn growth_is_admitted_placed_and_applied() {
    let mut log = Log::formed(3);
    for id in 1..=3 {
        let mut registration = registration(id, 1, id.try_into().unwrap());
        registration.feature_level = FEATURE_LEVEL;
        log.accept(&Command::RegisterBroker(registration));
    }
    log.accept(&place_topic(&wanted("orders"), &log.image.broker_views(), topic_id(1), 5).unwrap());
    assert_eq!(
        validate_add_partitions(&log.image, "orders", 6),
        Ok(None),
        "it has as many"
    );
    let topic = validate_add_partitions(&log.image, "orders", 9)
        .unwrap()
        .expect("three are missing");
    let command = place_partitions(topic, 9, &log.image.broker_views(), 7).unwrap();
    log.accept(&command);
    let topic = log.image.topic_named("orders").unwrap();
    assert_eq!(topic.partitions.len(), 9);
    let added = &topic.partitions[6..];
    let leaders: BTreeSet<_> = added.iter().map(|partition| partition.replicas[0]).collect();
    assert_eq!(leaders.len(), 3, "they are spread like those of a new topic");
    assert!(added.iter().all(|partition| partition.replicas.len() == 3));

    let judge = |name, total| validate_add_partitions(&log.image, name, total).unwrap_err();
    let fewer = judge("orders", 8);
    assert_eq!(fewer.reason, Reason::InvalidPartitions);
    assert!(fewer.message.contains("can't be taken away"), "{fewer}");
    assert_eq!(judge("orders", 0).reason, Reason::InvalidPartitions);
    assert_eq!(
        judge("orders", PARTITIONS_PER_TOPIC_MAX + 1).reason,
        Reason::InvalidPartitions
    );
    assert_eq!(judge("others", 1).reason, Reason::UnknownTopic);
    let two = &log.image.broker_views()[..2];
    assert_eq!(
        place_partitions(topic, 12, two, 7).unwrap_err().reason,
        Reason::InvalidReplicas
    );
}

#[test]
fn too_few_live_brokers_are_named() {
    let log = Log::formed(3);
    let live = &log.image.broker_views()[..2];
    let rejection = place_topic(&wanted("orders"), live, topic_id(1), 5).unwrap_err();
    assert_eq!(rejection.reason, Reason::InvalidReplicas);
    assert!(
        rejection.message.contains("\"orders\"") && rejection.message.contains("3 brokers"),
        "{rejection}"
    );
}

#[test]
fn a_broker_that_runs_is_not_replaced() {
    let log = Log::formed(3);
    let judge = |broker, is_alive| validate_replace_broker(&log.image, BrokerId(broker), is_alive);
    assert_eq!(judge(2, false), Ok(replace(2)));
    assert_eq!(judge(2, true).unwrap_err().reason, Reason::InvalidRequest);
    assert_eq!(judge(9, false).unwrap_err().reason, Reason::UnknownBroker);
}

#[test]
fn a_producer_that_was_never_given_out_is_not_bumped() {
    let mut log = Log::formed(1);
    log.accept(&Command::AllocateProducerIds { count: 1 });
    let judge = |id, epoch| validate_bump_producer_epoch(&log.image, ProducerId(id), ProducerEpoch(epoch));
    let command = Command::BumpProducerEpoch {
        producer_id: ProducerId(1000),
        epoch: ProducerEpoch(4),
    };
    assert_eq!(judge(1000, 4), Ok(command));
    assert_eq!(judge(1001, 4).unwrap_err().reason, Reason::UnknownProducer);
    assert_eq!(judge(1000, -1).unwrap_err().reason, Reason::InvalidRequest);
}

#[test]
fn a_topic_that_would_give_a_broker_too_many_replicas_is_refused_by_name() {
    let log = Log::formed(3);
    let views = log.image.broker_views();
    let command = place_topic(&wanted("orders"), &views, topic_id(1), 5).unwrap();
    let Command::CreateTopic { assignments, .. } = &command else {
        panic!("{command:?}");
    };
    let most = views.iter().map(|view| {
        assignments
            .iter()
            .flatten()
            .filter(|replica| **replica == view.replica)
            .count()
    });
    let most = u32::try_from(most.max().unwrap()).unwrap();
    validate_replicas_per_broker(&command, &views, most).unwrap();
    let rejection = validate_replicas_per_broker(&command, &views, most - 1).unwrap_err();
    assert_eq!(rejection.reason, Reason::TooManyReplicas);
    for words in [
        "broker ",
        "has 0 replicas",
        "cluster.replicas_per_broker_max",
        "delete topics",
    ] {
        assert!(rejection.message.contains(words), "{}", rejection.message);
    }
}
