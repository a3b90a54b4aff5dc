//! The bytes of every command and the state. They are in logs and snapshots on disks: whatever else
//! changes, a later build must read these and give the same values.

use std::fmt::Write;
use std::sync::Arc;

use jangada_coordinator::{
    Assignor, CodecError, Command, Epoch, Image, MemberSpec, OffsetCommit, PartitionSet, RemovalCause, Reply,
    RestoreError, SubscribedTopic, Subscription, TransactionRef, limits,
};
use jangada_machine::Machine;
use jangada_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId};

use crate::fixture::partition;

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

pub fn spec() -> MemberSpec {
    MemberSpec {
        instance_id: Some("i".into()),
        client_id: "c".into(),
        client_host: "h".into(),
        rack: "r".into(),
        subscription: Arc::new(Subscription::new(["t", "u"], Some("x.*"))),
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 300_000,
        assignor: Some(Assignor::Range),
    }
}

fn set(partitions: &[(u128, u32)]) -> PartitionSet {
    partitions.iter().map(|(topic, at)| partition(*topic, *at)).collect()
}

fn topics() -> Arc<[SubscribedTopic]> {
    let topic = |id, name: &str, partitions| SubscribedTopic {
        id: TopicId::from_u128(id),
        name: name.into(),
        partitions,
    };
    Arc::new([topic(1, "t", 3), topic(2, "u", 300)])
}

fn offsets() -> Vec<OffsetCommit> {
    let first = OffsetCommit {
        partition: partition(1, 0),
        offset: Offset(300),
        leader_epoch: Some(LeaderEpoch(0)),
        metadata: "note".into(),
    };
    let second = OffsetCommit {
        partition: partition(2, 7),
        leader_epoch: None,
        metadata: "".into(),
        ..first.clone()
    };
    vec![first, second]
}

/// A history in which every command has an effect.
fn commands() -> Vec<Command> {
    let group: Arc<str> = "g".into();
    let put = |member: &str, replaces: Option<&str>, version, instance: Option<&str>| Command::PutMember {
        group: group.clone(),
        member: member.into(),
        replaces: replaces.map(Arc::from),
        version,
        spec: MemberSpec {
            instance_id: instance.map(Arc::from),
            ..spec()
        },
    };
    let progress = |member: &str, version, epoch, assigned, revoking| Command::Progress {
        group: group.clone(),
        member: member.into(),
        version,
        assignment_epoch: Epoch(epoch),
        epoch: Epoch(2),
        assigned,
        revoking,
    };
    let target = |epoch, computed_at, targets: Vec<(&str, PartitionSet)>| Command::SetTarget {
        group: group.clone(),
        epoch: Epoch(epoch),
        computed_at,
        topics: topics(),
        topics_version: 9,
        targets: targets.into_iter().map(|(id, set)| (id.into(), set)).collect(),
        remembers: false,
    };
    let by_others = |name: &str| Command::CommitOffsets {
        group: name.into(),
        member: None,
        offsets: offsets(),
        at_ms: 1_000,
        topics_version: 9,
    };
    vec![
        put("a", None, 0, Some("i")),
        target(2, 1, vec![("a", set(&[(1, 0), (1, 2), (2, 7)]))]),
        progress("a", 1, 2, set(&[(1, 0), (1, 2), (2, 7)]), set(&[])),
        put("b", None, 0, None),
        Command::CommitOffsets {
            group: group.clone(),
            member: Some(("a".into(), Epoch(2))),
            offsets: offsets(),
            at_ms: 1_700_000_000_000,
            topics_version: 10,
        },
        target(3, 4, vec![("a", set(&[(1, 0)])), ("b", set(&[(1, 2)]))]),
        Command::SetAway {
            group: group.clone(),
            member: "a".into(),
            version: 3,
        },
        put("a2", Some("a"), 7, Some("i")),
        progress("a2", 8, 3, set(&[(1, 0)]), set(&[(1, 2), (2, 7)])),
        by_others("h"),
        Command::ForgetTopics {
            group: "h".into(),
            topics: vec![TopicId::from_u128(1)],
            topics_version: 11,
        },
        Command::DeleteOffsets {
            group: "h".into(),
            partitions: set(&[(2, 7)]),
        },
        Command::DeleteGroup { group: "h".into() },
        by_others("x"),
        Command::ExpireGroup {
            group: "x".into(),
            empty_since_ms: 1_000,
        },
        put("d", None, 0, None),
        Command::RemoveMembers {
            group: group.clone(),
            members: vec![("d".into(), 16)],
            cause: RemovalCause::SessionExpired,
            at_ms: 2_000,
        },
        by_others("y"),
    ]
}

#[test]
fn a_target_that_is_remembered_is_a_kind_of_its_own() {
    let target = |remembers| Command::SetTarget {
        group: "g".into(),
        epoch: Epoch(2),
        computed_at: 1,
        topics: topics(),
        topics_version: 9,
        targets: vec![("a".into(), set(&[(1, 0)]))],
        remembers,
    };
    let (plain, remembered) = (target(false).encode(), target(true).encode());
    assert_eq!(
        (plain[..2].to_vec(), remembered[..2].to_vec()),
        (vec![1, 2], vec![1, 11])
    );
    assert_eq!(plain[2..], remembered[2..]);
    assert_eq!(Command::decode(&remembered), Ok(target(true)));
}

fn image() -> Image {
    let mut image = Image::new();
    for (index, command) in (1..).zip(commands()) {
        let reply = image.apply(index, &command);
        assert!(matches!(reply, Reply::Applied { .. }), "{command:?}: {reply:?}");
    }
    image
}

const COMMANDS: &[&str] = &[
    "01010a01671201612a260a01691201631a01682201722a01742a01753203782e2a38c8df0240e0a7124a0572616e6765",
    "01020a01671002180122170a1000000000000000000000000000000001120174180322180a1000000000000000000000\
     00000000000212017518ac02280932320a016112160a10000000000000000000000000000000011202000212150a1000\
     000000000000000000000000000002120107",
    "01030a016712016118012002280232160a10000000000000000000000000000000011202000232150a10000000000000\
     00000000000000000002120107",
    "01010a01671201622a231201631a01682201722a01742a01753203782e2a38c8df0240e0a7124a0572616e6765",
    "01060a016712050a016110021a1d0a100000000000000000000000000000000118ac0220002a046e6f74651a170a1000\
     000000000000000000000000000002100718ac022080d095ffbc31280a",
    "01020a01671003180422170a1000000000000000000000000000000001120174180322180a1000000000000000000000\
     00000000000212017518ac022809321a0a016112150a1000000000000000000000000000000001120100321a0a016212\
     150a1000000000000000000000000000000001120102",
    "01040a016712050a01611003",
    "01010a0167120261321a016120072a260a01691201631a01682201722a01742a01753203782e2a38c8df0240e0a7124a\
     0572616e6765",
    "01030a01671202613218082003280232150a10000000000000000000000000000000011201003a150a10000000000000\
     000000000000000000011201023a150a1000000000000000000000000000000002120107",
    "01060a01681a1d0a100000000000000000000000000000000118ac0220002a046e6f74651a170a100000000000000000\
     0000000000000002100718ac0220e8072809",
    "01080a0168121000000000000000000000000000000001180b",
    "01070a016812150a1000000000000000000000000000000002120107",
    "01090a0168",
    "01060a01781a1d0a100000000000000000000000000000000118ac0220002a046e6f74651a170a100000000000000000\
     0000000000000002100718ac0220e8072809",
    "010a0a017810e807",
    "01010a01671201642a231201631a01682201722a01742a01753203782e2a38c8df0240e0a7124a0572616e6765",
    "01050a016712050a01641010180220d00f",
    "01060a01791a1d0a100000000000000000000000000000000118ac0220002a046e6f74651a170a100000000000000000\
     0000000000000002100718ac0220e8072809",
];

const IMAGE: &str = "\
    010812100b1ad6020a01671004180320112a86010a02613212260a01691201631a01682201722a01742a01753203782e\
    2a38c8df0240e0a7124a0572616e67651809200228013a1e0a1000000000000000000000000000000001120200021a02\
    0202220200013a1b0a10000000000000000000000000000000021201071a010222010142150a10000000000000000000\
    000000000000011201002a450a016212231201631a01682201722a01742a01753203782e2a38c8df0240e0a7124a0572\
    616e676518042002280242150a100000000000000000000000000000000112010232170a100000000000000000000000\
    0000000001120174180332180a100000000000000000000000000000000212017518ac023a260a100000000000000000\
    0000000000000001121210ac02180022046e6f74652880d095ffbc313a200a1000000000000000000000000000000002\
    120c080710ac022880d095ffbc311a4c0a0179100118013a220a1000000000000000000000000000000001120e10ac02\
    180022046e6f746528e8073a1c0a10000000000000000000000000000000021208080710ac0228e80740e807";

#[test]
fn commands_keep_their_bytes() {
    let commands = commands();
    let actual: Vec<String> = commands.iter().map(|command| hex(&command.encode())).collect();
    assert_eq!(actual, COMMANDS);
    for (command, golden) in commands.into_iter().zip(COMMANDS) {
        assert_eq!(Command::decode(&unhex(golden)), Ok(command));
    }
}

#[test]
fn the_state_keeps_its_bytes() {
    assert_eq!(hex(&image().snapshot()), IMAGE);
    let mut pieces = Vec::new();
    Machine::encode_into(&image(), &mut |piece| pieces.push(piece));
    assert_eq!(hex(&pieces.concat()), IMAGE);
    assert_eq!(Image::restore(&unhex(IMAGE)), Ok(image()));
}

/// A history behind [`commands`] in which offsets are staged and transactions end.
fn transactions() -> Vec<Command> {
    let transaction = |producer: i64, epoch: i16, seq: u64| TransactionRef {
        producer_id: ProducerId(producer),
        epoch: ProducerEpoch(epoch),
        seq,
    };
    let stage = |name: &str, member: Option<(&str, u32)>, transaction, offsets| Command::StageOffsets {
        group: name.into(),
        member: member.map(|(id, epoch)| (id.into(), Epoch(epoch))),
        transaction,
        offsets,
        at_ms: 3_000,
        topics_version: 12,
    };
    let end = |name: &str, transaction, is_commit| Command::EndStaged {
        group: name.into(),
        transaction,
        is_commit,
        at_ms: 4_000,
    };
    let mine = offsets().into_iter().take(1).collect();
    vec![
        stage("g", Some(("a2", 2)), transaction(300, 1, 7), mine),
        stage("y", None, transaction(300, 1, 7), offsets()),
        stage("z", None, transaction(5, 0, 1), offsets()),
        end("y", transaction(300, 2, 7), true),
        end("z", transaction(5, 1, 1), false),
        end("none", transaction(6, 32_767, 2), true),
        stage("z", None, transaction(5, 1, 2), offsets()),
    ]
}

const TRANSACTIONS: &[&str] = &[
    "010c0a016712060a02613210021a0708ac0210011807221d0a100000000000000000000000000000000118ac0220002a\
     046e6f746528b817300c",
    "010c0a01791a0708ac0210011807221d0a100000000000000000000000000000000118ac0220002a046e6f746522170a\
     1000000000000000000000000000000002100718ac0228b817300c",
    "010c0a017a1a0408051801221d0a100000000000000000000000000000000118ac0220002a046e6f746522170a100000\
     0000000000000000000000000002100718ac0228b817300c",
    "010d0a0179120708ac0210021807180120a01f",
    "010d0a017a120608051001180120a01f",
    "010d0a046e6f6e651208080610ffff011802180120a01f",
    "010c0a017a1a06080510011802221d0a100000000000000000000000000000000118ac0220002a046e6f746522170a10\
     00000000000000000000000000000002100718ac0228b817300c",
];

const IMAGE_WITH_TRANSACTIONS: &str = "\
    010819100c1a86030a01671004180320112a86010a02613212260a01691201631a01682201722a01742a01753203782e\
    2a38c8df0240e0a7124a0572616e67651809200228013a1e0a1000000000000000000000000000000001120200021a02\
    0202220200013a1b0a10000000000000000000000000000000021201071a010222010142150a10000000000000000000\
    000000000000011201002a450a016212231201631a01682201722a01742a01753203782e2a38c8df0240e0a7124a0572\
    616e676518042002280242150a100000000000000000000000000000000112010232170a100000000000000000000000\
    0000000001120174180332180a100000000000000000000000000000000212017518ac023a260a100000000000000000\
    0000000000000001121210ac02180022046e6f74652880d095ffbc313a200a1000000000000000000000000000000002\
    120c080710ac022880d095ffbc314a2e08ac021001180720b8172a220a1000000000000000000000000000000001120e\
    10ac02180022046e6f746528b8171a4c0a0179100118013a220a1000000000000000000000000000000001120e10ac02\
    180022046e6f746528a01f3a1c0a10000000000000000000000000000000021208080710ac0228a01f40a01f1a570a01\
    7a1001180140b9174a4b08051001180220b8172a220a1000000000000000000000000000000001120e10ac0218002204\
    6e6f746528b8172a1c0a10000000000000000000000000000000021208080710ac0228b8172208080510011801201722\
    0a080610ffff0118022018220908ac02100218072016";

#[test]
fn commands_and_state_of_transactions_keep_their_bytes() {
    let commands = transactions();
    let actual: Vec<String> = commands.iter().map(|command| hex(&command.encode())).collect();
    assert_eq!(actual, TRANSACTIONS);
    let mut image = image();
    let first = image.version() + 1;
    let bytes = (first..).zip(&commands).map(|(index, command)| {
        let reply = image.apply(index, command);
        assert!(matches!(reply, Reply::Applied { .. }), "{command:?}: {reply:?}");
        [image.size().offsets, image.size().others]
    });
    assert_eq!(bytes.collect::<Vec<_>>(), BYTES_OF_TRANSACTIONS);
    assert_eq!(hex(&image.snapshot()), IMAGE_WITH_TRANSACTIONS);
    let mut pieces = Vec::new();
    Machine::encode_into(&image, &mut |piece| pieces.push(piece));
    assert_eq!(hex(&pieces.concat()), IMAGE_WITH_TRANSACTIONS);
    assert_eq!(Image::restore(&unhex(IMAGE_WITH_TRANSACTIONS)), Ok(image));
}

/// The size of the offsets, and of what has no bound in bytes, after each of these commands.
const BYTES_OF_TRANSACTIONS: [[u64; 2]; 7] = [
    [428, 808],
    [632, 808],
    [836, 1128],
    [632, 1176],
    [428, 1224],
    [428, 1272],
    [632, 1272],
];

#[test]
fn the_numbers_that_apply_judges_by_keep_their_values() {
    // Replicas that disagree about a limit take different commands: changing one is a change of the format.
    assert_eq!(limits::GROUPS_MAX, 20_000);
    assert_eq!(limits::MEMBERS_PER_GROUP_MAX, 1_000);
    assert_eq!(limits::OFFSETS_PER_GROUP_MAX, 100_000);
    assert_eq!(limits::ENDED_PRODUCERS_MAX, 50_000);
    assert_eq!(limits::OFFSETS_BYTES_MAX, 256 << 20);
    assert_eq!(limits::MEMBERS_BYTES_MAX, 128 << 20);
    assert_eq!(limits::TARGETS_BYTES_MAX, 128 << 20);
    // The size that each part of the state counts for.
    let mut image = Image::new();
    let bytes = (1..).zip(commands()).map(|(index, command)| {
        image.apply(index, &command);
        let size = image.size();
        [size.offsets, size.members, size.targets, size.others]
    });
    assert_eq!(bytes.collect::<Vec<_>>(), BYTES);
}

/// The size of the state after each command: offsets, members, targets, and the rest without a bound in bytes.
const BYTES: [[u64; 4]; 18] = [
    [0, 146, 0, 320],
    [0, 146, 186, 320],
    [0, 146, 186, 488],
    [0, 291, 186, 488],
    [148, 291, 186, 488],
    [148, 291, 146, 488],
    [148, 291, 146, 488],
    [148, 292, 146, 488],
    [148, 292, 146, 488],
    [296, 292, 146, 808],
    [220, 292, 146, 808],
    [148, 292, 146, 808],
    [148, 292, 146, 488],
    [296, 292, 146, 808],
    [148, 292, 146, 488],
    [148, 437, 146, 488],
    [148, 292, 146, 488],
    [296, 292, 146, 808],
];

#[test]
fn limits_of_requests_may_differ_from_build_to_build() {
    let text = "x".repeat(300);
    let put = Command::PutMember {
        group: text.as_str().into(),
        member: text.as_str().into(),
        replaces: None,
        version: 0,
        spec: MemberSpec {
            session_timeout_ms: limits::SESSION_TIMEOUT_MS_MAX + 1,
            client_id: text.as_str().into(),
            ..spec()
        },
    };
    let commit = Command::CommitOffsets {
        group: "h".into(),
        member: None,
        offsets: (0..=limits::OFFSETS_PER_COMMIT_MAX as u32)
            .map(|at| OffsetCommit {
                partition: partition(1, at),
                metadata: "x".repeat(limits::OFFSET_METADATA_BYTES_MAX + 1).into(),
                ..offsets()[0].clone()
            })
            .collect(),
        at_ms: 1_000,
        topics_version: 9,
    };
    let mut image = Image::new();
    for (index, command) in (1..).zip([put, commit]) {
        let reply = image.apply(index, &command);
        assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
    }
    assert_eq!(Image::restore(&image.snapshot()), Ok(image));
}

#[test]
fn what_a_newer_build_wrote_is_named() {
    let (what, version, known) = ("command", 2, 1);
    assert_eq!(
        Command::decode(&[2, 6]),
        Err(CodecError::UnknownVersion { what, version, known })
    );
    assert_eq!(
        Command::decode(&[1, 200]),
        Err(CodecError::UnknownKind { what, kind: 200 })
    );
    assert!(matches!(
        Image::restore(&[9]),
        Err(RestoreError::Codec(CodecError::UnknownVersion { .. }))
    ));
    let mut bytes = commands()[0].encode().to_vec();
    bytes.extend([0x78, 1]);
    assert!(matches!(Command::decode(&bytes), Err(CodecError::UnknownFields { .. })));
    let mut bytes = image().snapshot().to_vec();
    bytes.extend([0x78, 1]);
    assert!(matches!(
        Image::restore(&bytes),
        Err(RestoreError::Codec(CodecError::UnknownFields { .. }))
    ));
}

#[test]
fn what_is_cut_off_is_refused() {
    for command in commands() {
        let bytes = command.encode();
        for length in 0..bytes.len() {
            // Bytes that end where a field ends decode as a command with other fields.
            assert_ne!(Command::decode(&bytes[..length]), Ok(command.clone()));
        }
    }
}
