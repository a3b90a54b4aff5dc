//! The bytes of every command, every reply and the image. They are in logs and snapshots on disks: whatever else
//! changes, a later build must read these and give the same values.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use jangada_controller::{
    BrokerRegistration, CodecError, Command, ENDPOINTS_FEATURE_LEVEL, EXCHANGES_FEATURE_LEVEL, Endpoint, Endpoints,
    Image, QUEUES_FEATURE_LEVEL, RENEWAL_FEATURE_LEVEL, Rejection, Reply, RestoreError, SeedBroker,
};
use jangada_routing::{Binding, ExchangeKind, HeaderMatch, MatchMode};
use jangada_types::{BrokerId, ExchangeId, GroupId, Incarnation, ProducerEpoch, ProducerId, Reason};

use crate::exchanges::{bind, create_exchange, to_exchange, to_queue};
use crate::fixture::{
    Log, create, create_group, create_owned, delete, deleted, directory, firsts, replace, replica, seed, set_replicas,
    settings, topic_id,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn topic() -> jangada_types::TopicId {
    topic_id(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)
}

/// Two listeners, as of a broker with one for clients inside and one that other tools are told of.
fn endpoints() -> Endpoints {
    let endpoint = |listener: &str, protocol: &str, address: &str| {
        let (protocol, address) = (protocol.to_owned(), address.to_owned());
        (listener.to_owned(), Endpoint { protocol, address })
    };
    Endpoints::from_iter([endpoint("inside", "grpc", "c:3"), endpoint("http", "http", "d:4")])
}

fn commands() -> Vec<(Command, &'static str)> {
    let registration = BrokerRegistration {
        id: BrokerId(3),
        incarnation: Incarnation(2),
        directory: directory(0xd3),
        address: "a:1".to_owned(),
        internal_address: "b:2".to_owned(),
        rack: "r".to_owned(),
        feature_level: 1,
    };
    let seeds = vec![
        SeedBroker::from(BrokerRegistration {
            rack: "r".to_owned(),
            ..(*seed(1)).clone()
        }),
        seed(7),
    ];
    vec![
        (
            Command::FormCluster {
                cluster_id: "c1".to_owned(),
                brokers: seeds,
            },
            "01010a026331123308011a1001010101010101010101010101010101220b686f73742d313a393430302a0b686f73742d\
             313a393434303201723801123008071a1007070707070707070707070707070707220b686f73742d373a393430302a0b\
             686f73742d373a393434303801",
        ),
        (
            Command::RegisterBroker(registration.clone()),
            "0102080310021a10d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d32203613a312a03623a323201723801",
        ),
        (
            Command::RegisterEndpoints {
                registration: registration.clone(),
                endpoints: endpoints(),
            },
            "01100a25080310021a10d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d32203613a312a03623a32320172380112110a04687474\
             701204687474701a03643a3412130a06696e736964651204677270631a03633a33",
        ),
        (replace(3), "01030803"),
        (Command::RemoveBroker { broker: BrokerId(3) }, "010f0803"),
        (
            Command::CreateTopic {
                topic_id: topic(),
                name: "orders".to_owned(),
                config: settings(&[("retention.ms", "5"), ("segment.bytes", "65536")]),
                assignments: vec![vec![replica(1, 1), replica(300, 2)], firsts(&[2])],
            },
            "01040a1000112233445566778899aabbccddeeff12066f72646572731a110a0c726574656e74696f6e2e6d731201351a\
             160a0d7365676d656e742e627974657312053635353336220d0a04080110010a0508ac02100222060a0408021001",
        ),
        (
            Command::CreateCoordinator {
                topic_id: topic(),
                assignments: vec![vec![replica(1, 1), replica(300, 2)], firsts(&[2])],
            },
            "010b0a1000112233445566778899aabbccddeeff120d0a04080110010a0508ac02100212060a0408021001",
        ),
        (
            Command::AddPartitions {
                topic_id: topic(),
                existing: 300,
                assignments: vec![vec![replica(1, 1), replica(300, 2)], firsts(&[2])],
            },
            "010d0a1000112233445566778899aabbccddeeff10ac021a0d0a04080110010a0508ac0210021a060a0408021001",
        ),
        (Command::RaiseFeatureLevel { level: 300 }, "010c08ac02"),
        (
            Command::AlterTopic {
                topic_id: topic(),
                set: settings(&[("retention.ms", "5")]),
                unset: vec!["segment.bytes".to_owned(), "retention.bytes".to_owned()],
            },
            "01050a1000112233445566778899aabbccddeeff12110a0c726574656e74696f6e2e6d731201351a0d7365676d656e74\
             2e62797465731a0f726574656e74696f6e2e6279746573",
        ),
        (
            Command::DeleteTopic { topic_id: topic() },
            "01060a1000112233445566778899aabbccddeeff",
        ),
        (deleted(replica(2, 1), &[1, 300]), "01070a0408021001120301ac02"),
        (
            set_replicas(GroupId(7), firsts(&[3, 1])),
            "01080807120408031001120408011001",
        ),
        (
            Command::RenewReplica {
                group: GroupId(7),
                replica: replica(3, 1),
                checked: vec![],
            },
            "010e0807120408031001",
        ),
        (
            Command::RenewReplica {
                group: GroupId(7),
                replica: replica(3, 1),
                checked: firsts(&[3, 1]),
            },
            "010e08071204080310011a04080310011a0408011001",
        ),
        (Command::AllocateProducerIds { count: 1000 }, "010908e807"),
        (
            Command::BumpProducerEpoch {
                producer_id: ProducerId(1000),
                epoch: ProducerEpoch(-2),
            },
            "010a08e80710feffffffffffffffff01",
        ),
    ]
}

fn replies() -> Vec<(Reply, &'static str)> {
    let rejection = Rejection::new(Reason::TopicExists, "why")
        .with("actual", 2)
        .with("expected", 1);
    vec![
        (
            Reply::Rejected(rejection),
            "01010a0c544f5049435f45584953545312037768791a0b0a0661637475616c1201321a0d0a0865787065637465641201\
             31",
        ),
        (
            Reply::ClusterFormed {
                cluster_id: "c1".to_owned(),
            },
            "01020a026331",
        ),
        (
            Reply::BrokerRegistered {
                broker: BrokerId(3),
                incarnation: Incarnation(2),
            },
            "010308031002",
        ),
        (
            Reply::BrokerReplaced {
                broker: BrokerId(3),
                incarnation: Incarnation(2),
            },
            "010408031002",
        ),
        (
            Reply::TopicCreated {
                topic_id: topic(),
                first_group: GroupId(7),
                version: 300,
            },
            "01050a1000112233445566778899aabbccddeeff100718ac02",
        ),
        (Reply::FeatureLevelRaised { level: 300 }, "010c08ac02"),
        (Reply::BrokerRemoved { version: 300 }, "010e08ac02"),
        (Reply::TopicAltered { version: 300 }, "010608ac02"),
        (Reply::TopicDeleted { version: 300 }, "010708ac02"),
        (Reply::ReplicaDeleted { settled: 2 }, "01080802"),
        (Reply::ReplicasSet { version: 300 }, "010908ac02"),
        (
            Reply::ReplicaRenewed {
                replica: replica(3, 2),
                version: 300,
            },
            "010d0a040803100210ac02",
        ),
        (
            Reply::ProducerIds {
                first: ProducerId(1000),
                count: 1000,
            },
            "010a08e80710e807",
        ),
        (
            Reply::ProducerEpoch {
                producer_id: ProducerId(1000),
                epoch: ProducerEpoch(1),
            },
            "010b08e8071001",
        ),
    ]
}

/// An image with something in every field.
fn image() -> Image {
    let mut log = Log::formed(3);
    log.accept(&create(1, "kept", vec![firsts(&[1, 2]), firsts(&[3])]));
    log.accept(&create(2, "gone", vec![firsts(&[1, 3])]));
    log.accept(&Command::AlterTopic {
        topic_id: topic_id(1),
        set: settings(&[("retention.ms", "5")]),
        unset: vec![],
    });
    log.accept(&set_replicas(GroupId(1), firsts(&[1, 3])));
    log.accept(&delete(2));
    log.accept(&Command::AllocateProducerIds { count: 10 });
    log.accept(&replace(3));
    let rack = BrokerRegistration {
        rack: "r".to_owned(),
        ..crate::fixture::registration(4, 0, 4)
    };
    log.accept(&Command::RegisterBroker(rack));
    log.image
}

const IMAGE: &str = "\
    010a07636c757374657210091801200428f2073232080110011a1001010101010101010101010101010101220b686f73742d\
    313a393430302a0b686f73742d313a3934343038013232080210011a1002020202020202020202020202020202220b686f73\
    742d323a393430302a0b686f73742d323a3934343038013234080310011a1003030303030303030303030303030303220b68\
    6f73742d333a393430302a0b686f73742d333a39343430380140023235080410011a10040404040404040404040404040404\
    04220b686f73742d343a393430302a0b686f73742d343a3934343032017238013a590a100000000000000000000000000000\
    000112046b6570741a110a0c726574656e74696f6e2e6d73120135222208011204080110011204080310011a040802100120\
    012a04080110012a040802100122080802120408031001420e0803120408011001120408031001";

/// The same from before the image had the replicas that groups are created with.
const IMAGE_WITHOUT_FIRST: &str = "\
    010a07636c757374657210091801200428f2073232080110011a1001010101010101010101010101010101220b686f73742d\
    313a393430302a0b686f73742d313a3934343038013232080210011a1002020202020202020202020202020202220b686f73\
    742d323a393430302a0b686f73742d323a3934343038013234080310011a1003030303030303030303030303030303220b68\
    6f73742d333a393430302a0b686f73742d333a39343430380140023235080410011a10040404040404040404040404040404\
    04220b686f73742d343a393430302a0b686f73742d343a3934343032017238013a4d0a100000000000000000000000000000\
    000112046b6570741a110a0c726574656e74696f6e2e6d73120135221608011204080110011204080310011a040802100120\
    0122080802120408031001420e0803120408011001120408031001";

#[test]
fn commands_keep_their_bytes() {
    for (command, golden) in commands() {
        assert_eq!(hex(&command.encode()), golden, "{command:?}");
        assert_eq!(Command::decode(&unhex(golden)), Ok(command));
    }
}

#[test]
fn replies_keep_their_bytes() {
    for (reply, golden) in replies() {
        assert_eq!(hex(&reply.encode()), golden, "{reply:?}");
        assert_eq!(Reply::decode(&unhex(golden)), Ok(reply));
    }
}

#[test]
fn the_image_keeps_its_bytes() {
    assert_eq!(hex(&image().snapshot()), IMAGE);
    assert_eq!(Image::restore(&unhex(IMAGE)), Ok(image()));
}

#[test]
fn images_from_before_they_had_first_replicas_are_read_and_nobody_forms_their_groups_anew() {
    for (golden, group) in [(IMAGE_WITHOUT_FIRST, GroupId(1)), (RENEWED_WITHOUT_FIRST, GroupId(1))] {
        let image = Image::restore(&unhex(golden)).expect("it is read");
        assert_eq!(hex(&image.snapshot()), golden, "and kept");
        let partition = image.partition_of_group(group).expect("it is live");
        assert!(partition.is_reassigned && partition.first.is_empty());
        let mut replicas = partition.replicas.iter();
        assert!(replicas.all(|replica| partition.forms_with(*replica).is_none()));
    }
}

/// A broker's last incarnation is in the image only where it differs from the broker's own.
#[test]
fn the_image_with_a_renewed_replica_keeps_its_bytes() {
    let mut log = Log::formed_at(3, RENEWAL_FEATURE_LEVEL);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    log.accept(&Command::RenewReplica {
        group,
        replica: replica(2, 1),
        checked: vec![],
    });
    let image = log.image;
    assert_eq!(hex(&image.snapshot()), RENEWED);
    assert_eq!(Image::restore(&unhex(RENEWED)).as_ref(), Ok(&image));
}

const RENEWED: &str = "\
    010a07636c757374657210031805200228e8073232080110011a1001010101010101010101010101010101220b686f73742d\
    313a393430302a0b686f73742d313a3934343038053234080210011a1002020202020202020202020202020202220b686f73\
    742d323a393430302a0b686f73742d323a39343430380548023232080310011a100303030303030303030303030303030322\
    0b686f73742d333a393430302a0b686f73742d333a3934343038053a450a1000000000000000000000000000000001120161\
    222e08011204080110011204080210021204080310011a040802100120012a04080110012a04080210012a0408031001";

const RENEWED_WITHOUT_FIRST: &str = "\
    010a07636c757374657210031805200228e8073232080110011a1001010101010101010101010101010101220b686f73742d\
    313a393430302a0b686f73742d313a3934343038053234080210011a1002020202020202020202020202020202220b686f73\
    742d323a393430302a0b686f73742d323a39343430380548023232080310011a1003030303030303030303030303030303220b\
    686f73742d333a393430302a0b686f73742d333a3934343038053a330a10000000000000000000000000000000011201\
    61221c08011204080110011204080210021204080310011a04080210012001";

/// A broker's endpoints are in the image only where it has more than every broker has.
#[test]
fn the_image_with_endpoints_keeps_its_bytes() {
    let mut log = Log::formed_at(1, ENDPOINTS_FEATURE_LEVEL);
    log.accept(&Command::RegisterEndpoints {
        registration: BrokerRegistration {
            feature_level: ENDPOINTS_FEATURE_LEVEL,
            ..crate::fixture::registration(1, 1, 1)
        },
        endpoints: endpoints(),
    });
    let image = log.image;
    assert_eq!(hex(&image.snapshot()), WITH_ENDPOINTS);
    assert_eq!(Image::restore(&unhex(WITH_ENDPOINTS)).as_ref(), Ok(&image));
    let wrong = WITH_ENDPOINTS.replace(&hex(b"inside"), &hex(b"public"));
    let error = Image::restore(&unhex(&wrong)).unwrap_err();
    assert!(error.to_string().contains("public"), "{error}");
}

const WITH_ENDPOINTS: &str = "\
    010a07636c757374657210021806200128e807325a080110011a1001010101010101010101010101010101220b686f73742d\
    313a393430302a0b686f73742d313a39343430380652110a04687474701204687474701a03643a3452130a06696e73696465\
    1204677270631a03633a33";

/// An image without queues has the bytes that it had before there were any.
#[test]
fn the_image_with_queues_keeps_its_bytes() {
    let mut log = Log::formed_at(1, QUEUES_FEATURE_LEVEL);
    log.create(1, "t", &firsts(&[1]));
    log.accept(&create_owned(
        2,
        "own",
        &[("queue.message.max.bytes", "2048")],
        vec![firsts(&[1])],
    ));
    log.accept(&create_group(3, "grp", 1, &[("queue.paused", "true")]));
    let image = log.image;
    assert_eq!(hex(&image.snapshot()), WITH_QUEUES);
    assert_eq!(Image::restore(&unhex(WITH_QUEUES)).as_ref(), Ok(&image));
    for (from, to, expected) in [
        // The topic of the owned queue is the coordinator's.
        ("28025238", "28015238", "has kind Coordinator"),
        // The queue has another name than its topic.
        ("12036f776e22", "12036f776d22", "does not fit its topic"),
        // The queue begins in more partitions than there are.
        ("28033001", "28033002", "does not fit its topic"),
        // Two queues have one name.
        ("1203677270", "12036f776e", "share a name"),
    ] {
        assert!(WITH_QUEUES.contains(from), "{from}");
        let error = Image::restore(&unhex(&WITH_QUEUES.replacen(from, to, 1))).unwrap_err();
        assert!(error.to_string().contains(expected), "{from}: {error}");
    }
}

const WITH_QUEUES: &str = "\
    010a07636c757374657210041807200328e8073232080110011a1001010101010101010101010101010101220b686f73742d\
    313a393430302a0b686f73742d313a3934343038073a1f0a1000000000000000000000000000000001120174220808011204\
    080110013a520a100000000000000000000000000000000212036f776e1a190a116d61782e6d6573736167652e6279746573\
    1204323034381a120a0c726574656e74696f6e2e6d7312022d3122080802120408011001280252380a100000000000000000\
    000000000000000212036f776e221f0a1771756575652e6d6573736167652e6d61782e627974657312043230343852430a10\
    0000000000000000000000000000000312036772701a100000000000000000000000000000000122140a0c71756575652e70\
    617573656412047472756528033001";

/// An image without exchanges has the bytes that it had before there were any.
#[test]
fn the_image_with_exchanges_keeps_its_bytes() {
    let mut log = Log::formed_at(1, EXCHANGES_FEATURE_LEVEL);
    log.accept(&create_owned(2, "own", &[], vec![firsts(&[1])]));
    log.accept(&create_exchange(3, "hdr", ExchangeKind::Headers));
    log.accept(&Command::CreateExchange {
        exchange_id: ExchangeId(4),
        name: "out".to_owned(),
        exchange_kind: ExchangeKind::Topic,
        alternate: Some("else".to_owned()),
        is_internal: true,
        auto_delete: true,
    });
    let asked = HeaderMatch {
        mode: MatchMode::AnyWithX,
        headers: [(Arc::from("a"), None), (Arc::from("b"), Some(Bytes::from_static(b"1")))].into(),
    };
    let asking = Binding {
        headers: Some(Arc::new(asked)),
        ..to_queue(2, "k")
    };
    log.accept(&bind(3, &[asking]));
    log.accept(&bind(4, &[to_queue(2, "a.*"), to_exchange(3, "#")]));
    let image = log.image;
    assert_eq!(hex(&image.snapshot()), WITH_EXCHANGES);
    assert_eq!(Image::restore(&unhex(WITH_EXCHANGES)).as_ref(), Ok(&image));
    for (from, to, expected) in [
        // Both exchanges have one name.
        ("12036f757418", "120368647218", "share a name"),
        // A binding of the second one leads to an exchange that is not there.
        ("00031a0123", "00051a0123", "is not there or does not fit"),
        // The second one is of headers, and its bindings ask for none.
        ("18032204", "18042204", "is not there or does not fit"),
        // It is of a kind that nobody knows.
        ("18032204", "18052204", "unknown kind 5"),
    ] {
        assert!(WITH_EXCHANGES.contains(from), "{from}");
        let error = Image::restore(&unhex(&WITH_EXCHANGES.replacen(from, to, 1))).unwrap_err();
        assert!(error.to_string().contains(expected), "{from}: {error}");
    }
}

const WITH_EXCHANGES: &str = "\
    010a07636c757374657210061809200228e8073232080110011a1001010101010101010101010101010101220b686f73742d\
    313a393430302a0b686f73742d313a3934343038093a370a100000000000000000000000000000000212036f776e1a120a0c\
    726574656e74696f6e2e6d7312022d3122080801120408011001280252170a10000000000000000000000000000000021203\
    6f776e5a410a1000000000000000000000000000000003120368647218043a260a1000000000000000000000000000000002\
    1a016b220f080412030a016112060a01621201315a530a100000000000000000000000000000000412036f75741803220465\
    6c7365280130013a170a10000000000000000000000000000000021a03612e2a3a1512100000000000000000000000000000\
    00031a0123";

#[test]
fn a_later_version_is_named() {
    let error = Command::decode(&[2, 6]).unwrap_err();
    let known = 1;
    let (what, version) = ("command", 2);
    assert_eq!(error, CodecError::UnknownVersion { what, version, known });
    assert!(error.to_string().contains("version 2"), "{error}");
    let error = Image::restore(&[9]).unwrap_err();
    assert!(error.to_string().contains("version 9"), "{error}");
    assert!(matches!(
        Reply::decode(&[0, 1]),
        Err(CodecError::UnknownVersion { version: 0, .. })
    ));
}

#[test]
fn an_unknown_kind_is_named() {
    let error = Command::decode(&[1, 200, 1, 2]).unwrap_err();
    assert_eq!(
        error,
        CodecError::UnknownKind {
            what: "command",
            kind: 200
        }
    );
    assert!(error.to_string().contains("kind 200"), "{error}");
    assert_eq!(
        Reply::decode(&[1, 0]),
        Err(CodecError::UnknownKind { what: "reply", kind: 0 })
    );
}

#[test]
fn an_unknown_field_is_not_skipped() {
    let mut bytes = delete(1).encode().to_vec();
    bytes.extend([0x78, 1]);
    assert_eq!(
        Command::decode(&bytes),
        Err(CodecError::UnknownFields {
            what: "command DeleteTopic"
        })
    );
    let mut bytes = image().snapshot().to_vec();
    bytes.extend([0x78, 1]);
    let error = CodecError::UnknownFields { what: "image snapshot" };
    assert_eq!(Image::restore(&bytes), Err(RestoreError::Codec(error)));
}

#[test]
fn what_is_cut_off_is_refused() {
    for (command, _) in commands() {
        let bytes = command.encode();
        for length in 0..bytes.len() {
            // Bytes that end where a field ends decode as a command with other fields.
            assert_ne!(Command::decode(&bytes[..length]), Ok(command.clone()));
        }
    }
    assert!(matches!(Command::decode(&[]), Err(CodecError::Truncated { .. })));
    assert!(matches!(Command::decode(&[1]), Err(CodecError::Truncated { .. })));
    assert!(matches!(
        Image::restore(&[]),
        Err(RestoreError::Codec(CodecError::Truncated { .. }))
    ));
}

#[test]
fn an_id_of_another_length_is_refused() {
    // DeleteTopic and RegisterBroker with ids of two bytes.
    for bytes in [&[1, 6, 0x0a, 2, 1, 2][..], &[1, 2, 0x1a, 2, 1, 2]] {
        let error = Command::decode(bytes).unwrap_err();
        assert!(
            matches!(&error, CodecError::Malformed { detail, .. } if detail.contains("of 2 bytes")),
            "{error}"
        );
    }
}

#[test]
fn an_epoch_beyond_16_bits_is_refused() {
    // 32768 at field 2.
    let error = Command::decode(&[1, 10, 0x10, 0x80, 0x80, 0x02]).unwrap_err();
    assert!(
        matches!(&error, CodecError::Malformed { detail, .. } if detail.contains("32768")),
        "{error}"
    );
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let good = hex(&image().snapshot());
    let damage = |from: &str, to: &str| {
        assert_eq!(good.matches(from).count(), 1, "{from} in {good}");
        match Image::restore(&unhex(&good.replace(from, to))) {
            Err(RestoreError::Inconsistent { version, detail }) => {
                assert_eq!(version, 9);
                detail
            }
            other => panic!("not found: {other:?}"),
        }
    };
    for (from, to, expected) in [
        (
            "18012004",
            "18012003",
            "group 3 has a tombstone and is live, or was never given out",
        ),
        ("28f207", "28e707", "the next producer id is 999"),
        ("420e0803", "420e0801", "group 1 has a tombstone and is live"),
        (
            "420e0803120408011001",
            "420e0803120408011002",
            "the tombstone of group 3",
        ),
        (
            "22080802",
            "22080801",
            "partition 1 of topic \"kept\" has group 1, out of order",
        ),
        (
            "1a0408021001",
            "1a0408011001",
            "partition 0 of topic \"kept\" has replicas",
        ),
        ("38014002", "38014003", "broker 3.1 expects Some(3)"),
        ("32320802", "32320801", "there twice"),
    ] {
        let detail = damage(from, to);
        assert!(detail.contains(expected), "{detail}");
    }
}

#[test]
fn a_snapshot_in_which_two_topics_share_a_name_is_refused() {
    let mut log = Log::formed(1);
    log.create(1, "kept", &firsts(&[1]));
    log.create(2, "kepu", &firsts(&[1]));
    let bytes = hex(&log.image.snapshot()).replace("6b657075", "6b657074");
    let error = Image::restore(&unhex(&bytes)).unwrap_err();
    assert!(error.to_string().contains("share a name"), "{error}");
}
