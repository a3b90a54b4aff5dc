//! Topics: creation, growth, alteration, deletion.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::{COORDINATOR_TOPIC, Command, FEATURE_LEVEL, Image, Reply, TopicKind};
use jangada_types::limits::PARTITIONS_PER_TOPIC_MAX;
use jangada_types::{BrokerId, GroupId, PartitionIndex, Reason, ReplicaId};

use crate::fixture::{Log, create, delete, firsts, register, registration, replica, settings, topic_id};

fn alter(id: u128, set: &[(&str, &str)], unset: &[&str]) -> Command {
    Command::AlterTopic {
        topic_id: topic_id(id),
        set: settings(set),
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
    }
}

#[test]
fn a_created_topic_is_found_by_name_id_and_group() {
    let mut log = Log::formed(3);
    log.create(9, "before", &firsts(&[1]));
    let reply = log.accept(&create(
        1,
        "orders",
        vec![firsts(&[1, 2]), firsts(&[2, 3]), firsts(&[3, 1])],
    ));
    let created = Reply::TopicCreated {
        topic_id: topic_id(1),
        first_group: GroupId(2),
        version: 3,
    };
    assert_eq!(reply, created);

    let image = &log.image;
    let topic = image.topic_named("orders").unwrap();
    assert!(Arc::ptr_eq(topic, image.topic(topic_id(1)).unwrap()));
    let found = image.partition_of_group(GroupId(4)).unwrap();
    assert_eq!((&*found.topic.name, found.index), ("orders", PartitionIndex(2)));
    assert_eq!(found.replicas, firsts(&[3, 1]));
    assert_eq!(
        image.partition(topic_id(1), PartitionIndex(2)).unwrap().group,
        GroupId(4)
    );
    assert!(image.partition(topic_id(1), PartitionIndex(3)).is_none());
    for unknown in [GroupId::METADATA, GroupId(5), GroupId::NODE] {
        assert!(image.partition_of_group(unknown).is_none());
    }
    let of_first: Vec<_> = image
        .partitions_of(BrokerId(1))
        .map(|(partition, _)| partition.group.get())
        .collect();
    assert_eq!(of_first, [2, 4, 1], "by topic id");
    let names: Vec<_> = image.topics_by_name().map(|topic| &*topic.name).collect();
    assert_eq!(names, ["before", "orders"]);
    assert_eq!(image.partition_count(), 4);
}

#[test]
fn a_name_is_given_once() {
    let mut log = Log::formed(1);
    log.create(1, "orders", &firsts(&[1]));
    let rejection = log.reject(&create(2, "orders", vec![firsts(&[1])]));
    assert_eq!(rejection.reason, Reason::TopicExists);
    assert_eq!(rejection.metadata["topic_id"], topic_id(1).to_string());
}

#[test]
fn a_creation_that_was_applied_twice_finds_its_own_id() {
    let mut log = Log::formed(1);
    let command = create(1, "orders", vec![firsts(&[1])]);
    log.accept(&command);
    assert_eq!(log.reject(&command).metadata["topic_id"], topic_id(1).to_string());
}

#[test]
fn a_topic_id_is_given_once() {
    let mut log = Log::formed(1);
    log.create(1, "orders", &firsts(&[1]));
    assert_eq!(
        log.reject(&create(1, "others", vec![firsts(&[1])])).reason,
        Reason::InvalidRequest
    );
    assert_eq!(
        log.reject(&create(0, "others", vec![firsts(&[1])])).reason,
        Reason::InvalidRequest
    );
}

#[test]
fn a_name_that_is_not_allowed_is_rejected() {
    let mut log = Log::formed(1);
    for name in ["", ".", "..", "a b", "__internal", &"x".repeat(250)] {
        assert_eq!(
            log.reject(&create(1, name, vec![firsts(&[1])])).reason,
            Reason::InvalidTopicName
        );
    }
}

#[test]
fn assignments_are_judged_again() {
    let mut log = Log::formed(2);
    let mut judge = |assignments| log.reject(&create(1, "orders", assignments)).reason;
    assert_eq!(judge(vec![]), Reason::InvalidPartitions);
    let too_many = vec![firsts(&[1]); PARTITIONS_PER_TOPIC_MAX as usize + 1];
    assert_eq!(judge(too_many), Reason::InvalidPartitions);
    assert_eq!(judge(vec![firsts(&[1]), vec![]]), Reason::InvalidReplicas);
    assert_eq!(judge(vec![firsts(&[1, 2, 1])]), Reason::InvalidReplicas);
    assert_eq!(judge(vec![vec![replica(1, 2)]]), Reason::InvalidReplicas);
    assert_eq!(judge(vec![firsts(&[1, 3])]), Reason::UnknownBroker);
}

#[test]
fn settings_are_judged_again() {
    let mut log = Log::formed(1);
    for config in [
        ("no.such.key", "1"),
        ("retention.ms", "soon"),
        ("cleanup.policy", "compress"),
    ] {
        let command = Command::CreateTopic {
            topic_id: topic_id(1),
            name: "orders".to_owned(),
            config: settings(&[config]),
            assignments: vec![firsts(&[1])],
        };
        let rejection = log.reject(&command);
        assert_eq!(rejection.reason, Reason::InvalidConfig);
        assert!(rejection.message.contains(config.0), "{rejection}");
    }
}

#[test]
fn an_alteration_sets_and_unsets_all_or_nothing() {
    let mut log = Log::formed(1);
    log.create(1, "orders", &firsts(&[1]));
    log.accept(&alter(1, &[("retention.ms", "1000"), ("retention.bytes", "5")], &[]));
    log.accept(&alter(1, &[("retention.bytes", "6")], &["retention.ms"]));
    let topic = log.image.topic(topic_id(1)).unwrap();
    assert_eq!(topic.config, settings(&[("retention.bytes", "6")]));
    assert_eq!(topic.settings().unwrap().retention_bytes, Some(6));

    let mut judge = |set: &[_], unset: &[_]| log.reject(&alter(1, set, unset)).reason;
    assert_eq!(
        judge(&[("retention.ms", "1"), ("segment.bytes", "1")], &[]),
        Reason::InvalidConfig
    );
    assert_eq!(judge(&[("retention.ms", "1")], &["no.such.key"]), Reason::InvalidConfig);
    assert_eq!(
        judge(&[("retention.ms", "1")], &["retention.ms"]),
        Reason::InvalidConfig
    );
    assert_eq!(log.reject(&alter(2, &[], &[])).reason, Reason::UnknownTopic);
}

#[test]
fn a_topic_that_is_created_again_is_another_topic() {
    let mut log = Log::formed(2);
    log.accept(&create(1, "orders", vec![firsts(&[1, 2]), firsts(&[2])]));
    log.accept(&delete(1));
    assert!(log.image.topic_named("orders").is_none());
    assert!(log.image.partition_of_group(GroupId(1)).is_none());
    assert_eq!(log.owing(), [(1, firsts(&[1, 2])), (2, firsts(&[2]))]);
    assert_eq!(log.reject(&delete(1)).reason, Reason::UnknownTopic);
    assert_eq!(
        log.create(2, "orders", &firsts(&[1])),
        GroupId(3),
        "groups are never used again"
    );
    assert_eq!(log.owing().len(), 2, "the old topic's data is still to be deleted");
}

#[test]
fn an_index_is_applied_once() {
    let mut log = Log::formed(1);
    log.create(1, "orders", &firsts(&[1]));
    let before = log.image.clone();
    let again = log.image.apply(log.index, &delete(1));
    assert_eq!(again.into_result().unwrap_err().reason, Reason::Internal);
    assert_eq!(log.image, before);
}

#[test]
fn a_published_image_shares_what_did_not_change() {
    let mut log = Log::formed(1);
    let assignments = vec![firsts(&[1]); PARTITIONS_PER_TOPIC_MAX as usize];
    log.accept(&create(1, "large", assignments));
    let published: Arc<Image> = Arc::new(log.image.clone());
    log.create(2, "small", &firsts(&[1]));
    log.accept(&register(2, 0, 2));
    assert!(published.topic_named("small").is_none());
    assert!(Arc::ptr_eq(
        published.topic(topic_id(1)).unwrap(),
        log.image.topic(topic_id(1)).unwrap()
    ));
}

#[test]
fn the_largest_topic_survives_the_snapshot() {
    let mut log = Log::formed(3);
    let command = Command::CreateTopic {
        topic_id: topic_id(1),
        name: "large".to_owned(),
        config: BTreeMap::new(),
        assignments: vec![firsts(&[1, 2, 3]); PARTITIONS_PER_TOPIC_MAX as usize],
    };
    assert_eq!(Command::decode(&command.encode()).unwrap(), command);
    log.accept(&command);
    assert_eq!(Image::restore(&log.image.snapshot()).unwrap(), log.image);
}

fn coordinator(id: u128) -> Command {
    Command::CreateCoordinator {
        topic_id: topic_id(id),
        assignments: vec![firsts(&[1, 2]), firsts(&[2, 1])],
    }
}

/// Two brokers of this build.
fn upgraded() -> Log {
    let mut log = Log::formed(2);
    for id in [1, 2] {
        let mut registration = registration(id, 1, id.try_into().unwrap());
        registration.feature_level = FEATURE_LEVEL;
        log.accept(&Command::RegisterBroker(registration));
    }
    log
}

fn add(id: u128, existing: u32, assignments: Vec<Vec<ReplicaId>>) -> Command {
    Command::AddPartitions {
        topic_id: topic_id(id),
        existing,
        assignments,
    }
}

/// The topic's groups, each found again by its id.
fn groups(image: &Image, id: u128) -> Vec<u64> {
    let topic = image.topic(topic_id(id)).expect("the topic is there");
    let found = topic.indexed().map(|(index, partition)| {
        let found = image.partition_of_group(partition.group).expect("the group is live");
        assert_eq!((found.topic.id, found.index), (topic.id, index));
        partition.group.get()
    });
    found.collect()
}

#[test]
fn a_topic_grows_beside_others_and_its_groups_are_found() {
    let mut log = upgraded();
    log.accept(&create(1, "orders", vec![firsts(&[1]), firsts(&[2])]));
    log.accept(&add(1, 2, vec![firsts(&[1, 2])]));
    assert_eq!(groups(&log.image, 1), [1, 2, 3], "the groups may go on without a gap");
    log.create(2, "between", &firsts(&[1]));
    let reply = log.accept(&add(1, 3, vec![firsts(&[2]), firsts(&[1])]));
    assert_eq!(reply, Reply::TopicAltered { version: log.index });
    assert_eq!(groups(&log.image, 1), [1, 2, 3, 5, 6]);
    assert_eq!(groups(&log.image, 2), [4]);
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));

    log.accept(&delete(2));
    assert!(log.image.partition_of_group(GroupId(4)).is_none());
    assert_eq!(groups(&log.image, 1), [1, 2, 3, 5, 6]);
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));

    log.accept(&delete(1));
    let owing: Vec<u64> = log.owing().into_iter().map(|(group, _)| group).collect();
    assert_eq!(owing, [1, 2, 3, 4, 5, 6]);
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));
}

#[test]
fn growth_is_judged_again() {
    let mut log = upgraded();
    log.create(1, "orders", &firsts(&[1]));
    let growth = add(1, 1, vec![firsts(&[1])]);
    log.accept(&growth);
    let again = log.reject(&growth);
    assert_eq!(
        again.reason,
        Reason::InvalidPartitions,
        "a proposal applied twice adds once"
    );
    assert_eq!((&*again.metadata["expected"], &*again.metadata["actual"]), ("1", "2"));
    let mut judge = |command| log.reject(&command).reason;
    assert_eq!(judge(add(1, 2, vec![])), Reason::InvalidPartitions);
    let too_many = vec![firsts(&[1]); PARTITIONS_PER_TOPIC_MAX as usize - 1];
    assert_eq!(judge(add(1, 2, too_many)), Reason::InvalidPartitions);
    assert_eq!(judge(add(1, 2, vec![vec![]])), Reason::InvalidReplicas);
    assert_eq!(judge(add(1, 2, vec![vec![replica(1, 2)]])), Reason::InvalidReplicas);
    assert_eq!(judge(add(2, 1, vec![firsts(&[1])])), Reason::UnknownTopic);
}

#[test]
fn neither_the_coordinator_nor_a_topic_with_a_key_index_grows() {
    let mut log = upgraded();
    log.accept(&coordinator(7));
    assert_eq!(
        log.reject(&add(7, 2, vec![firsts(&[1])])).reason,
        Reason::InvalidTopicName
    );
    log.create(1, "orders", &firsts(&[1]));
    log.accept(&alter(1, &[("key.index.enable", "true")], &[]));
    let rejection = log.reject(&add(1, 1, vec![firsts(&[1])]));
    assert_eq!(rejection.reason, Reason::InvalidPartitions);
    assert!(rejection.message.contains("key.index.enable"), "{rejection}");
}

#[test]
fn growth_waits_for_brokers_that_do_not_know_it_and_keeps_them_out() {
    let mut log = Log::formed(2);
    log.create(1, "orders", &firsts(&[1]));
    assert_eq!(log.reject(&add(1, 1, vec![firsts(&[1])])).reason, Reason::NotReady);
    let mut log = upgraded();
    log.create(1, "orders", &firsts(&[1]));
    log.accept(&add(1, 1, vec![firsts(&[1])]));
    assert!(log.reject(&register(3, 0, 3)).message.contains("upgrade"));
}

#[test]
fn the_first_coordinator_wins_and_everybody_learns_of_it() {
    let mut log = upgraded();
    let Reply::TopicCreated { first_group, .. } = log.accept(&coordinator(7)) else {
        panic!("a topic was created");
    };
    let Reply::TopicCreated {
        topic_id: id,
        first_group: again,
        ..
    } = log.accept(&coordinator(8))
    else {
        panic!("the topic is named");
    };
    assert_eq!((id, again), (topic_id(7), first_group));
    let topic = log.image.coordinator().unwrap();
    assert_eq!((topic.kind, &*topic.name), (TopicKind::Coordinator, COORDINATOR_TOPIC));
    assert_eq!(topic.partitions.len(), 2);
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));
}

#[test]
fn the_coordinator_is_not_for_users() {
    let mut log = upgraded();
    log.accept(&coordinator(7));
    for command in [delete(7), alter(7, &[("retention.ms", "5")], &[])] {
        let rejection = log.reject(&command);
        assert_eq!(rejection.reason, Reason::InvalidTopicName);
        assert!(rejection.message.contains("internal"), "{rejection}");
    }
}

#[test]
fn the_coordinator_waits_for_brokers_that_do_not_know_it_and_keeps_them_out() {
    let mut log = Log::formed(2);
    let rejection = log.reject(&coordinator(7));
    assert_eq!(rejection.reason, Reason::NotReady);
    assert!(
        rejection.message.contains("broker 1") && rejection.message.contains("upgrade"),
        "{rejection}"
    );
    let mut log = upgraded();
    log.accept(&coordinator(7));
    assert_eq!(log.image.feature_level(), 2);
    assert!(log.reject(&register(3, 0, 3)).message.contains("upgrade"));
}

#[test]
fn the_feature_level_is_raised_when_every_broker_has_it_and_never_lowered() {
    let raise = |level| Command::RaiseFeatureLevel { level };
    let mut log = Log::formed(2);
    log.accept(&raise(1));
    let mut registration = registration(1, 1, 1);
    registration.feature_level = 2;
    log.accept(&Command::RegisterBroker(registration));
    let rejection = log.reject(&raise(2));
    assert_eq!(rejection.reason, Reason::NotReady);
    assert!(
        rejection.message.contains("broker 2") && rejection.message.contains("upgrade"),
        "{rejection}"
    );
    assert_eq!(log.image.feature_level(), 1);
    let mut log = upgraded();
    log.accept(&raise(2));
    assert_eq!(log.image.feature_level(), 2);
    assert_eq!(log.accept(&raise(1)), Reply::FeatureLevelRaised { level: 2 });
    assert_eq!(log.image.feature_level(), 2);
    assert!(log.reject(&register(3, 0, 3)).message.contains("upgrade"));
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));
}
