//! Forming the cluster; brokers that join, come back, and are replaced.

use jangada_controller::{
    BrokerRegistration, Command, CommandKind, DirectoryId, ENDPOINTS_FEATURE_LEVEL, Endpoint, Endpoints, FEATURE_LEVEL,
    Image, Reply,
};
use jangada_types::{BrokerId, GroupId, Incarnation, Reason};

use crate::fixture::{
    Log, create, delete, deleted, directory, firsts, register, registration, replace, replica, seed, seed_at,
    set_replicas, topic_id,
};

fn form(cluster_id: &str, ids: &[u32]) -> Command {
    Command::FormCluster {
        cluster_id: cluster_id.to_owned(),
        brokers: ids.iter().copied().map(seed).collect(),
    }
}

fn registered(broker: u32, incarnation: u32) -> Reply {
    Reply::BrokerRegistered {
        broker: BrokerId(broker),
        incarnation: Incarnation(incarnation),
    }
}

#[test]
fn nothing_happens_before_the_cluster_is_formed() {
    let mut log = Log::empty();
    for command in [register(1, 0, 1), replace(1), delete(1), deleted(replica(1, 1), &[1])] {
        assert_eq!(log.reject(&command).reason, Reason::NotReady);
    }
    assert_eq!(log.image.cluster_id(), None);
}

#[test]
fn forming_gives_every_seed_its_first_incarnation() {
    let log = Log::formed(3);
    assert_eq!(log.image.cluster_id(), Some("cluster"));
    assert_eq!(log.image.feature_level(), 1);
    let brokers: Vec<_> = log.image.brokers().map(|broker| broker.replica().to_string()).collect();
    assert_eq!(brokers, ["1.1", "2.1", "3.1"]);
    assert_eq!(log.image.broker(BrokerId(2)).unwrap().internal_address, "host-2:9440");
}

#[test]
fn there_is_one_cluster_however_often_it_is_formed() {
    let mut log = Log::formed(3);
    log.accept(&form("cluster", &[1]));
    assert_eq!(log.image.brokers().len(), 3);
    let rejection = log.reject(&form("another", &[1, 2, 3]));
    assert_eq!(rejection.metadata["expected"], "cluster");
    assert_eq!(rejection.metadata["actual"], "another");
}

#[test]
fn seeds_that_make_no_cluster_are_rejected() {
    let mut log = Log::empty();
    log.reject(&form("", &[1]));
    log.reject(&form("two words", &[1]));
    log.reject(&form("cluster", &[]));
    log.reject(&form("cluster", &[1, 2, 1]));
    let nobody = BrokerRegistration {
        id: BrokerId(0),
        ..(*seed(1)).clone()
    };
    let brokers = vec![nobody.into()];
    let cluster_id = "cluster".to_owned();
    log.reject(&Command::FormCluster { cluster_id, brokers });
    assert_eq!(log.image.brokers().len(), 0);
}

#[test]
fn the_cluster_begins_at_the_lowest_feature_level_of_its_seeds_and_refuses_what_is_below() {
    let mut log = Log::empty();
    let brokers = [(1, 3), (2, 2)].map(|(id, feature_level)| seed_at(id, feature_level));
    let cluster_id = "cluster".to_owned();
    let brokers = brokers.to_vec();
    log.accept(&Command::FormCluster { cluster_id, brokers });
    assert_eq!(log.image.feature_level(), 2);
    let rejection = log.reject(&register(3, 0, 3));
    assert!(rejection.message.contains("upgrade the broker"), "{rejection}");
}

#[test]
fn a_new_broker_joins_with_incarnation_1() {
    let mut log = Log::formed(1);
    assert_eq!(log.accept(&register(7, 0, 7)), registered(7, 1));
    assert_eq!(log.image.replica_of(BrokerId(7)), Some(replica(7, 1)));
}

#[test]
fn a_broker_that_comes_back_with_its_data_may_have_new_addresses_and_another_rack() {
    let mut log = Log::formed(3);
    let moved = BrokerRegistration {
        address: "new:1".to_owned(),
        internal_address: "new:2".to_owned(),
        rack: "b".to_owned(),
        feature_level: 2,
        ..registration(2, 1, 2)
    };
    assert_eq!(log.accept(&Command::RegisterBroker(moved)), registered(2, 1));
    let broker = log.image.broker(BrokerId(2)).unwrap();
    assert_eq!((&*broker.address, &*broker.internal_address), ("new:1", "new:2"));
    assert_eq!((&*broker.rack, broker.feature_level), ("b", 2));
}

#[test]
fn a_known_broker_with_an_empty_directory_is_told_what_to_do() {
    let mut log = Log::formed(3);
    let rejection = log.reject(&register(2, 0, 9));
    assert_eq!(rejection.reason, Reason::InvalidRequest);
    assert!(
        rejection
            .message
            .contains("its data directory is empty: restore the directory"),
        "{rejection}"
    );
    assert!(
        rejection.message.contains("`jangada cluster replace-broker 2`"),
        "{rejection}"
    );
    assert_eq!(rejection.metadata["expected"], "1");
    assert_eq!(rejection.metadata["actual"], "0");
}

#[test]
fn a_registration_whose_answer_was_lost_can_be_sent_again() {
    let mut log = Log::formed(1);
    assert_eq!(log.accept(&register(2, 0, 20)), registered(2, 1));
    assert_eq!(log.accept(&register(2, 0, 20)), registered(2, 1));
    log.accept(&replace(2));
    assert_eq!(log.accept(&register(2, 0, 21)), registered(2, 2));
    assert_eq!(log.accept(&register(2, 0, 21)), registered(2, 2));
}

#[test]
fn two_directories_can_not_be_the_same_broker() {
    let mut log = Log::formed(3);
    let rejection = log.reject(&register(2, 1, 9));
    assert!(
        rejection.message.contains("another process runs under its id"),
        "{rejection}"
    );
}

#[test]
fn data_of_another_cluster_is_refused() {
    let mut log = Log::formed(2);
    assert_eq!(log.reject(&register(3, 1, 3)).reason, Reason::UnknownBroker);
    let rejection = log.reject(&register(2, 5, 2));
    assert!(rejection.message.contains("another cluster"), "{rejection}");
}

/// The registration of a broker with one more listener, in a cluster at the level that knows it.
fn with_listener(listener: &str, protocol: &str, address: &str) -> Command {
    let endpoint = Endpoint {
        protocol: protocol.to_owned(),
        address: address.to_owned(),
    };
    Command::RegisterEndpoints {
        registration: BrokerRegistration {
            feature_level: ENDPOINTS_FEATURE_LEVEL,
            ..registration(2, 1, 2)
        },
        endpoints: Endpoints::from_iter([(listener.to_owned(), endpoint)]),
    }
}

#[test]
fn clients_of_a_listener_are_told_its_addresses_and_the_public_ones_of_brokers_without_it() {
    let mut log = Log::formed_at(3, ENDPOINTS_FEATURE_LEVEL);
    assert_eq!(log.accept(&with_listener("inside", "grpc", "in-2:1")), registered(2, 1));
    let at = |log: &Log, id: u32, listener: &str| {
        log.image
            .broker(BrokerId(id))
            .unwrap()
            .address_at(listener, "grpc")
            .to_owned()
    };
    assert_eq!(at(&log, 2, "inside"), "in-2:1");
    let broker = log.image.broker(BrokerId(2)).unwrap();
    assert_eq!(broker.address_at("inside", "internal"), "host-2:9400");
    assert_eq!(at(&log, 2, "public"), "host-2:9400");
    assert_eq!(at(&log, 2, "outside"), "host-2:9400");
    assert_eq!(at(&log, 3, "inside"), "host-3:9400");
    assert_eq!(Image::restore(&log.image.snapshot()).as_ref(), Ok(&log.image));

    // The broker starts without that listener.
    let without = BrokerRegistration {
        feature_level: ENDPOINTS_FEATURE_LEVEL,
        ..registration(2, 1, 2)
    };
    log.accept(&Command::RegisterBroker(without));
    assert_eq!(at(&log, 2, "inside"), "host-2:9400");
}

#[test]
fn listeners_are_registered_only_once_the_cluster_is_at_their_level() {
    let mut log = Log::formed_at(3, ENDPOINTS_FEATURE_LEVEL - 1);
    let refused = log.reject(&with_listener("inside", "grpc", "in-2:1"));
    assert_eq!(refused.reason, Reason::NotReady);
    for id in 1..=3 {
        let upgraded = BrokerRegistration {
            feature_level: ENDPOINTS_FEATURE_LEVEL,
            ..registration(id, 1, id as u8)
        };
        log.accept(&Command::RegisterBroker(upgraded));
    }
    log.reject(&with_listener("inside", "grpc", "in-2:1"));
    log.accept(&Command::RaiseFeatureLevel {
        level: ENDPOINTS_FEATURE_LEVEL,
    });
    log.accept(&with_listener("inside", "grpc", "in-2:1"));
}

#[test]
fn a_listener_with_a_bad_name_protocol_or_address_is_refused() {
    let mut log = Log::formed_at(3, ENDPOINTS_FEATURE_LEVEL);
    for (listener, protocol, address) in [
        ("", "grpc", "a:1"),
        ("9", "grpc", "a:1"),
        ("Inside", "grpc", "a:1"),
        ("public", "grpc", "a:1"),
        ("internal", "internal", "a:1"),
        ("inside", "", "a:1"),
        ("inside", "grpc", ""),
        ("inside", "grpc", "a b:1"),
    ] {
        let refused = log.reject(&with_listener(listener, protocol, address));
        assert_eq!(
            refused.reason,
            Reason::InvalidRequest,
            "{listener:?} {protocol:?} {address:?}"
        );
    }
    // A protocol that only later builds know.
    log.accept(&with_listener("inside", "amqp", "a:1"));
}

#[test]
fn a_registration_with_bad_fields_is_refused() {
    let good = || registration(1, 1, 1);
    let nobody = BrokerRegistration {
        id: BrokerId(0),
        ..good()
    };
    let homeless = BrokerRegistration {
        directory: DirectoryId::default(),
        ..good()
    };
    let unreachable = BrokerRegistration {
        address: String::new(),
        ..good()
    };
    let garbled = BrokerRegistration {
        internal_address: "host 1:9440".to_owned(),
        ..good()
    };
    let long = BrokerRegistration {
        rack: "r".repeat(256),
        ..good()
    };
    let levelless = BrokerRegistration {
        feature_level: 0,
        ..good()
    };
    let mut log = Log::formed(1);
    for bad in [nobody, homeless, unreachable, garbled, long, levelless] {
        assert_eq!(log.reject(&Command::RegisterBroker(bad)).reason, Reason::InvalidRequest);
    }
}

#[test]
fn a_replaced_broker_comes_back_empty_and_its_partitions_take_its_new_incarnation() {
    let mut log = Log::formed(3);
    let kept = log.create(1, "kept", &firsts(&[2, 1]));
    let elsewhere = log.create(2, "elsewhere", &firsts(&[3, 1]));

    let replaced = Reply::BrokerReplaced {
        broker: BrokerId(2),
        incarnation: Incarnation(2),
    };
    assert_eq!(log.accept(&replace(2)), replaced);
    assert_eq!(log.accept(&replace(2)), replaced, "once more changes nothing");
    assert_eq!(log.replicas(kept), firsts(&[2, 1]), "until it is back");
    assert!(log.image.broker(BrokerId(2)).unwrap().is_awaiting_replacement());

    let untouched = log.image.topic(topic_id(2)).unwrap().clone();
    assert_eq!(log.accept(&register(2, 0, 22)), registered(2, 2));
    assert_eq!(log.replicas(kept), [replica(2, 2), replica(1, 1)]);
    assert_eq!(log.replicas(elsewhere), firsts(&[3, 1]));
    assert!(std::sync::Arc::ptr_eq(
        &untouched,
        log.image.topic(topic_id(2)).unwrap()
    ));
    let broker = log.image.broker(BrokerId(2)).unwrap();
    assert_eq!((broker.directory, broker.expected_incarnation), (directory(22), None));

    assert_eq!(log.accept(&register(2, 2, 22)), registered(2, 2), "restart");
    log.reject(&create(3, "late", vec![firsts(&[2, 1])]));
}

#[test]
fn the_old_incarnation_is_refused_from_the_replacement_on() {
    let mut log = Log::formed(3);
    log.accept(&replace(2));
    let rejection = log.reject(&register(2, 1, 2));
    assert!(
        rejection.message.contains("start it with an empty data directory"),
        "{rejection}"
    );
    assert_eq!(rejection.metadata["expected"], "2");
    log.accept(&register(2, 0, 22));
    let rejection = log.reject(&register(2, 1, 2));
    assert!(
        rejection.message.contains("given up when it was replaced"),
        "{rejection}"
    );
    log.reject(&register(2, 0, 2));
}

#[test]
fn what_a_lost_disk_owed_is_no_longer_owed() {
    let mut log = Log::formed(3);
    let moved = log.create(1, "moved", &firsts(&[1, 2]));
    log.create(2, "deleted", &firsts(&[2, 3]));
    log.create(3, "alone", &firsts(&[2]));
    log.accept(&set_replicas(moved, firsts(&[1, 3])));
    log.accept(&delete(2));
    log.accept(&delete(3));
    assert_eq!(log.owing(), [(2, firsts(&[2, 3])), (3, firsts(&[2]))]);
    log.accept(&replace(2));
    log.accept(&register(2, 0, 22));
    assert_eq!(log.owing(), [(2, firsts(&[3]))]);
    assert_eq!(log.leaving(moved), []);
    assert_eq!(
        log.image.tombstones_of(BrokerId(3)).collect::<Vec<_>>(),
        [(GroupId(2), replica(3, 1))]
    );
}

#[test]
fn an_unknown_broker_can_not_be_replaced() {
    let mut log = Log::formed(1);
    assert_eq!(log.reject(&replace(9)).reason, Reason::UnknownBroker);
}

/// The registration of a broker whose build knows everything, with this data directory.
fn of_today(id: u32, incarnation: u32, directory_number: u8) -> Command {
    Command::RegisterBroker(BrokerRegistration {
        feature_level: FEATURE_LEVEL,
        ..registration(id, incarnation, directory_number)
    })
}

fn remove(id: u32) -> Command {
    Command::RemoveBroker { broker: BrokerId(id) }
}

/// Three brokers of this build, and a stranger of an old build.
fn with_a_stranger() -> Log {
    let mut log = Log::formed(3);
    for id in 1..=3 {
        log.accept(&of_today(id, 1, u8::try_from(id).unwrap()));
    }
    assert_eq!(log.accept(&register(77, 0, 77)), registered(77, 1));
    log
}

#[test]
fn a_broker_without_replicas_is_taken_out_and_does_not_come_back_by_itself() {
    let mut log = with_a_stranger();
    assert!(matches!(log.accept(&remove(77)), Reply::BrokerRemoved { .. }));
    assert!(log.image.broker(BrokerId(77)).is_none() && log.image.was_removed(BrokerId(77)));
    assert!(
        matches!(log.accept(&remove(77)), Reply::BrokerRemoved { .. }),
        "once more changes nothing"
    );
    assert_eq!(
        log.image.feature_level(),
        CommandKind::RemoveBroker.since(),
        "no broker may join that cannot read it"
    );
    for comes_back in [of_today(77, 1, 77), of_today(77, 0, 77)] {
        let rejection = log.reject(&comes_back);
        assert!(
            rejection.message.contains("was taken out of the cluster"),
            "{rejection}"
        );
    }
    assert_eq!(
        log.accept(&of_today(77, 0, 78)),
        registered(77, 2),
        "with an empty directory it is another one"
    );
    assert!(!log.image.was_removed(BrokerId(77)));
    let restored = Image::restore(&log.image.snapshot()).unwrap();
    assert_eq!(restored, log.image);
}

#[test]
fn what_was_taken_out_is_remembered_in_a_snapshot() {
    let mut log = with_a_stranger();
    log.accept(&remove(77));
    let mut restored = Image::restore(&log.image.snapshot()).unwrap();
    assert_eq!(restored, log.image);
    let version = restored.version();
    let reply = restored.apply(version + 1, &of_today(77, 1, 77));
    assert!(matches!(reply, Reply::Rejected(_)), "{reply:?}");
}

#[test]
fn a_broker_with_replicas_or_that_others_need_stays() {
    let mut log = with_a_stranger();
    assert_eq!(log.reject(&remove(9)).reason, Reason::UnknownBroker);
    let group = log.create(1, "kept", &firsts(&[2, 1]));
    let rejection = log.reject(&remove(2));
    assert!(
        rejection.message.contains("partition 0 of topic \"kept\""),
        "{rejection}"
    );
    log.accept(&set_replicas(group, firsts(&[1, 3])));
    log.reject(&remove(2));
    log.accept(&deleted(replica(2, 1), &[group.get()]));
    log.create(2, "gone", &firsts(&[2]));
    log.accept(&delete(2));
    let rejection = log.reject(&remove(2));
    assert!(rejection.message.contains("whose topic was deleted"), "{rejection}");
    log.accept(&remove(77));
    let mut alone = Log::formed(1);
    alone.accept(&of_today(1, 1, 1));
    assert!(alone.reject(&remove(1)).message.contains("only one"));
}

#[test]
fn a_broker_is_taken_out_only_when_all_others_know_that() {
    let mut log = Log::formed(3);
    for id in [1, 2] {
        log.accept(&of_today(id, 1, u8::try_from(id).unwrap()));
    }
    log.accept(&of_today(77, 0, 77));
    assert_eq!(
        log.reject(&remove(77)).reason,
        Reason::NotReady,
        "broker 3 is of an old build"
    );
}
