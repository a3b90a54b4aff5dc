//! Properties that hold after any sequence of commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_controller::{
    BrokerRegistration, Command, DirectoryId, Endpoint, Endpoints, Image, QueueKind, QueueStart, Reply, SeedBroker,
    TopicKind,
};
use jangada_routing::{Binding, Destination, ExchangeKind, HeaderMatch, MatchMode};
use jangada_types::{
    BrokerId, ExchangeId, GroupId, Incarnation, PartitionIndex, ProducerEpoch, ProducerId, QueueId, ReplicaId, TopicId,
};
use proptest::prelude::*;

use crate::fixture::{directory, same_but_version, seed, seed_at};

/// Small spaces, so that commands meet: brokers 0 to 5, of which 1 to 3 are seeds.
fn broker() -> impl Strategy<Value = BrokerId> {
    (0u32..6).prop_map(BrokerId)
}

/// Any replica id, mostly one that was current at some time.
fn replica() -> impl Strategy<Value = ReplicaId> {
    (1u32..5, prop_oneof![6 => Just(1u32), 3 => Just(2), 1 => 0u32..9])
        .prop_map(|(broker, incarnation)| ReplicaId::new(BrokerId(broker), Incarnation(incarnation)))
}

fn replicas() -> impl Strategy<Value = Vec<ReplicaId>> {
    prop::collection::vec(replica(), 0..4)
}

fn topic() -> impl Strategy<Value = TopicId> {
    (0u128..8).prop_map(TopicId::from_u128)
}

fn group() -> impl Strategy<Value = GroupId> {
    prop_oneof![20 => 0u64..20, 1 => Just(u64::MAX)].prop_map(GroupId)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-e]", 1 => Just("__a".to_owned()), 1 => ".{0,3}"]
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![9 => "[a-c]:[1-9]", 1 => ".{0,3}"]
}

fn config() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof![6 => Just("retention.ms"), 6 => Just("segment.bytes"), 1 => Just("unknown")];
    let value = prop_oneof![8 => Just("100000"), 1 => Just("x")];
    prop::collection::btree_map(key.prop_map(str::to_owned), value.prop_map(str::to_owned), 0..3)
}

fn queue() -> impl Strategy<Value = QueueId> {
    (0u128..8).prop_map(QueueId)
}

fn queue_config() -> impl Strategy<Value = BTreeMap<String, String>> {
    let setting = prop_oneof![
        4 => name().prop_map(|name| ("queue.dead.letter.topic", name)),
        1 => Just(("queue.paused", "true".to_owned())),
        1 => "[1-3]".prop_map(|value| ("queue.priorities", value)),
        1 => Just(("queue.message.max.bytes", "2048".to_owned())),
        1 => "(none|key)".prop_map(|value| ("queue.order", value)),
        1 => Just(("unknown", "x".to_owned())),
    ];
    prop::collection::vec(setting, 0..3)
        .prop_map(|set| set.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn start() -> impl Strategy<Value = QueueStart> {
    (-2i64..2).prop_map(|number| QueueStart::of_number(number).expect("a number of a start"))
}

fn exchange() -> impl Strategy<Value = ExchangeId> {
    (0u128..5).prop_map(ExchangeId)
}

fn bindings() -> impl Strategy<Value = Vec<Binding>> {
    let destination = prop_oneof![
        3 => queue().prop_map(Destination::Queue),
        2 => exchange().prop_map(Destination::Exchange),
    ];
    let asked = "[a-b]".prop_map(|name: String| HeaderMatch {
        mode: MatchMode::All,
        headers: BTreeMap::from([(Arc::from(name), None)]),
    });
    let binding =
        (destination, "[ab#]|a#", prop::option::weighted(0.2, asked)).prop_map(|(destination, key, headers)| Binding {
            destination,
            routing_key: Arc::from(key),
            headers: headers.map(Arc::new),
        });
    prop::collection::vec(binding, 0..4)
}

fn registration() -> impl Strategy<Value = BrokerRegistration> {
    (broker(), 0u32..4, 0u8..6, address(), "[ab]?", 0u32..10).prop_map(
        |(id, incarnation, number, address, rack, level)| BrokerRegistration {
            id,
            incarnation: Incarnation(incarnation),
            directory: directory(number),
            internal_address: address.clone(),
            address,
            rack,
            feature_level: level,
        },
    )
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let listener = prop_oneof![6 => Just("inside"), 6 => Just("outside"), 1 => Just("public"), 1 => Just("")];
    let endpoint = address().prop_map(|address| Endpoint {
        protocol: "grpc".to_owned(),
        address,
    });
    prop::collection::btree_map(listener.prop_map(str::to_owned), endpoint, 0..3).prop_map(Endpoints::from_iter)
}

fn seeds() -> impl Strategy<Value = Vec<SeedBroker>> {
    prop_oneof![4 => Just((1..=3).map(seed).collect()), 1 => prop::collection::vec((0u32..4).prop_map(seed), 0..4)]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        1 => ("[a-b]?", seeds()).prop_map(|(cluster_id, brokers)| Command::FormCluster { cluster_id, brokers }),
        6 => registration().prop_map(Command::RegisterBroker),
        6 => (registration(), endpoints())
            .prop_map(|(registration, endpoints)| Command::RegisterEndpoints { registration, endpoints }),
        1 => (0u32..10).prop_map(|level| Command::RaiseFeatureLevel { level }),
        3 => broker().prop_map(|broker| Command::ReplaceBroker { broker }),
        2 => broker().prop_map(|broker| Command::RemoveBroker { broker }),
        9 => (topic(), name(), config(), prop::collection::vec(replicas(), 0..4)).prop_map(
            |(topic_id, name, config, assignments)| Command::CreateTopic { topic_id, name, config, assignments }
        ),
        6 => (topic(), 0u32..5, prop::collection::vec(replicas(), 0..3)).prop_map(
            |(topic_id, existing, assignments)| Command::AddPartitions { topic_id, existing, assignments }
        ),
        2 => (topic(), config(), prop::collection::vec(config(), 0..2)).prop_map(|(topic_id, set, unset)| {
            let unset = unset.into_iter().flatten().map(|(key, _)| key).collect();
            Command::AlterTopic { topic_id, set, unset }
        }),
        4 => topic().prop_map(|topic_id| Command::DeleteTopic { topic_id }),
        6 => (queue(), name(), queue_config(), prop::collection::vec(replicas(), 0..3)).prop_map(
            |(queue_id, name, config, assignments)| Command::CreateOwnedQueue { queue_id, name, config, assignments }
        ),
        6 => (queue(), name(), topic(), start(), queue_config()).prop_map(
            |(queue_id, name, topic_id, start, config)| Command::CreateGroupQueue { queue_id, name, topic_id, start, config }
        ),
        4 => (queue(), queue_config(), prop::collection::vec(queue_config(), 0..2)).prop_map(|(queue_id, set, unset)| {
            let unset = unset.into_iter().flatten().map(|(key, _)| key).collect();
            Command::AlterQueue { queue_id, set, unset }
        }),
        3 => queue().prop_map(|queue_id| Command::DeleteQueue { queue_id }),
        1 => (queue(), 1_000u64..1_003).prop_map(|(queue_id, expires_ms)| Command::ExpireQueue { queue_id, expires_ms }),
        6 => (exchange(), name(), 0usize..4, prop::option::of(name()), any::<[bool; 2]>()).prop_map(
            |(exchange_id, name, kind, alternate, [is_internal, auto_delete])| Command::CreateExchange {
                exchange_id, name, exchange_kind: ExchangeKind::ALL[kind], alternate, is_internal, auto_delete
            }
        ),
        3 => (exchange(), any::<bool>()).prop_map(|(exchange_id, if_unused)| Command::DeleteExchange { exchange_id, if_unused }),
        6 => (exchange(), name(), 0usize..4, prop::option::of(name()), config(), prop::collection::vec(replicas(), 0..3)).prop_map(
            |(exchange_id, name, kind, alternate, config, assignments)| Command::CreateLoggedExchange {
                exchange_id, name, exchange_kind: ExchangeKind::ALL[kind], alternate, is_internal: false, config, assignments
            }
        ),
        6 => (queue(), name(), exchange(), queue_config()).prop_map(
            |(queue_id, name, exchange_id, config)| Command::CreateBoundQueue { queue_id, name, exchange_id, config }
        ),
        9 => (exchange(), bindings()).prop_map(|(exchange_id, bindings)| Command::Bind { exchange_id, bindings }),
        4 => (exchange(), bindings()).prop_map(|(exchange_id, bindings)| Command::Unbind { exchange_id, bindings }),
        6 => (replica(), prop::collection::vec(group(), 0..6)).prop_map(|(replica, groups)| {
            Command::ReplicaDeleted { replica, groups }
        }),
        6 => (group(), replicas()).prop_map(|(group, replicas)| Command::SetReplicas { group, replicas }),
        6 => (group(), replica(), prop_oneof![3 => Just(Vec::new()), 1 => replicas()])
            .prop_map(|(group, replica, checked)| Command::RenewReplica { group, replica, checked }),
        1 => prop_oneof![Just(0u32), Just(u32::MAX), 1u32..100].prop_map(|count| Command::AllocateProducerIds { count }),
        1 => (990i64..1100, prop_oneof![Just(i16::MAX), any::<i16>()]).prop_map(|(id, epoch)| {
            Command::BumpProducerEpoch { producer_id: ProducerId(id), epoch: ProducerEpoch(epoch) }
        }),
    ]
}

/// Begins with a formed cluster most of the time, and with a few good topics.
fn history() -> impl Strategy<Value = Vec<Command>> {
    let cluster_id = "cluster".to_owned();
    let brokers = (1..=4).map(|id| seed_at(id, 9)).collect();
    let form = Command::FormCluster { cluster_id, brokers };
    let distinct = prop::sample::subsequence(vec![1u32, 2, 3, 4], 1..=3).prop_shuffle();
    let list = distinct.prop_map(|ids| {
        ids.into_iter()
            .map(|id| ReplicaId::new(BrokerId(id), Incarnation(1)))
            .collect()
    });
    let topics = prop::collection::vec(prop::collection::vec(list, 1..4), 0..4).prop_map(|topics| {
        let create = |(number, assignments): (u128, Vec<Vec<ReplicaId>>)| Command::CreateTopic {
            topic_id: TopicId::from_u128(number),
            name: format!("t{number}"),
            config: BTreeMap::new(),
            assignments,
        };
        (1..).zip(topics).map(create).collect::<Vec<_>>()
    });
    (
        prop::bool::weighted(0.95),
        topics,
        prop::collection::vec(command(), 0..60),
    )
        .prop_map(move |(formed, topics, rest)| {
            let first = formed.then(|| form.clone());
            first.into_iter().chain(topics).chain(rest).collect()
        })
}

/// The invariants, from what the public interface shows.
fn assert_invariants(image: &Image) {
    let mut names = BTreeSet::new();
    let mut groups = BTreeSet::new();
    for topic in image.topics() {
        assert!(names.insert(&topic.name), "two topics have the name {}", topic.name);
        assert_eq!(image.topic_named(&topic.name).map(|found| found.id), Some(topic.id));
        assert!(!topic.partitions.is_empty());
        topic.settings().expect("settings were judged");
    }
    assert_eq!(image.topics_by_name().count(), names.len());
    assert_queues(image);
    assert_exchanges(image);
    for partition in image.partitions() {
        assert!(
            groups.insert(partition.group),
            "group {} is there twice",
            partition.group
        );
        assert!(partition.group != GroupId::METADATA && partition.group != GroupId::NODE);
        let found = image
            .partition_of_group(partition.group)
            .expect("a live group is found");
        assert_eq!((found.topic.id, found.index), (partition.topic.id, partition.index));
        assert!(!partition.replicas.is_empty());
        let all: Vec<_> = partition.replicas.iter().chain(&partition.leaving).collect();
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "a replica is there twice: {all:?}");
        let brokers: BTreeSet<_> = partition.replicas.iter().map(|replica| replica.broker).collect();
        assert_eq!(
            brokers.len(),
            partition.replicas.len(),
            "a broker is there twice: {all:?}"
        );
        assert!(
            all.iter().all(|replica| image.is_current(**replica)),
            "a stale replica: {all:?}"
        );
    }
    for (group, tombstone) in image.tombstones() {
        assert!(!groups.contains(&group), "group {group} is live and has a tombstone");
        assert!(image.partition_of_group(group).is_none());
        assert!(!tombstone.replicas.is_empty());
    }
}

/// Each queue has its topic and each topic of a queue its queue, no name is there twice, and no dead letter comes back.
fn assert_queues(image: &Image) {
    assert_eq!(image.queues_by_name().count(), image.queues().len());
    for queue in image.queues() {
        let name = &*queue.name;
        queue.settings().expect("settings were judged");
        assert_eq!(image.queue_by_name(name).map(|found| found.id), Some(queue.id));
        let topic = image.topic(queue.topic_id).expect("the queue's topic is there");
        assert!(image.queues_of(topic.id).any(|found| found.id == queue.id));
        match queue.kind {
            QueueKind::Owned => {
                assert_eq!(
                    (topic.kind, &*topic.name, topic.id),
                    (TopicKind::Queue, name, queue.id.own_topic())
                );
            }
            QueueKind::Group { .. } => {
                assert!(
                    topic.kind == TopicKind::Log && image.topic_named(name).is_none(),
                    "{queue:?}"
                );
            }
            QueueKind::Bound => {
                let exchange = image.exchange_of_log(topic).expect("its exchange is there");
                assert!(image.topic_named(name).is_none(), "{queue:?}");
                // What is published to a fanout exchange is for all of its queues.
                let sources: Vec<_> = image.exchange_table().sources(Destination::Queue(queue.id)).collect();
                assert!(sources.iter().all(|source| source.id == exchange.id), "{queue:?}");
                assert!(exchange.kind != ExchangeKind::Fanout || sources.len() == 1, "{queue:?}");
            }
        }
    }
    for topic in image.topics().filter(|topic| topic.kind == TopicKind::Exchange) {
        let exchange = image.exchange_of_log(topic).expect("no log outlives its exchange");
        assert_eq!(image.exchange_log(exchange.id).map(|log| log.id), Some(topic.id));
        assert_eq!(*topic.name, format!("__exchange.{}", exchange.name));
        assert!(!exchange.auto_delete);
    }
    for topic in image.topics().filter(|topic| topic.kind == TopicKind::Queue) {
        assert_eq!(image.queues_of(topic.id).count(), 1, "{topic:?}");
    }
    // Each name on the way of dead letters is visited at most once, or the way leads back.
    for queue in image.queues() {
        let first = image.topic(queue.topic_id).map(|topic| topic.name.to_string());
        let mut ways = vec![vec![first.expect("the queue's topic is there")]];
        while let Some(way) = ways.pop() {
            let Some(topic) = image.topic_named(way.last().expect("a way has a name")) else {
                continue;
            };
            let onward = image
                .queues_of(topic.id)
                .filter_map(|queue| queue.config.get("queue.dead.letter.topic"));
            for next in onward.filter(|next| !next.is_empty()) {
                assert!(!way.contains(next), "dead letters go in a circle: {way:?} and {next}");
                ways.push(way.iter().chain([next]).cloned().collect());
            }
        }
    }
}

/// No name is there twice, what bindings lead to is there and has them among its sources, and what follows from the bindings fits them.
fn assert_exchanges(image: &Image) {
    let table = image.exchange_table();
    assert_eq!(image.exchange_table().by_name().count(), image.exchanges().len());
    let mut sources = BTreeSet::new();
    let (mut bindings, mut bytes) = (0, 0);
    for exchange in image.exchanges() {
        assert_eq!(table.named(&exchange.name).map(|found| found.id), Some(exchange.id));
        for binding in &*exchange.bindings {
            match binding.destination {
                Destination::Queue(id) => {
                    let queue = image.queue(id).expect("the queue is there");
                    match image.exchange_log(exchange.id) {
                        None => assert_eq!(queue.kind, QueueKind::Owned, "{exchange:?}"),
                        Some(log) => assert_eq!((queue.kind, queue.topic_id), (QueueKind::Bound, log.id)),
                    }
                }
                Destination::Exchange(id) => {
                    assert!(table.get(id).is_some(), "{exchange:?}");
                    assert!(image.exchange_log(exchange.id).is_none(), "{exchange:?}");
                }
            }
            assert_eq!(binding.headers.is_some(), exchange.kind == ExchangeKind::Headers);
            sources.insert((binding.destination, exchange.id));
            (bindings, bytes) = (bindings + 1, bytes + binding.bytes());
        }
        let mut way = vec![&*exchange.name];
        while let Some(next) = table
            .named(way[way.len() - 1])
            .and_then(|exchange| exchange.alternate.as_deref())
        {
            assert!(
                !way.contains(&next),
                "alternate exchanges go in a circle: {way:?} and {next}"
            );
            way.push(next);
        }
    }
    assert_eq!((table.bindings(), table.bytes()), (bindings, bytes));
    let queues = image.queues().map(|queue| Destination::Queue(queue.id));
    let exchanges = image.exchanges().map(|exchange| Destination::Exchange(exchange.id));
    let found = queues
        .chain(exchanges)
        .flat_map(|to| table.sources(to).map(move |exchange| (to, exchange.id)));
    assert_eq!(found.collect::<BTreeSet<_>>(), sources);
}

/// The replicas that hold data, as far as the image knows.
fn holders(image: &Image) -> BTreeSet<(GroupId, ReplicaId)> {
    let live = image.partitions().flat_map(|p| {
        p.partition
            .replicas
            .iter()
            .chain(&p.partition.leaving)
            .map(move |replica| (p.group, *replica))
    });
    let dead = image
        .tombstones()
        .flat_map(|(group, tombstone)| tombstone.replicas.iter().map(move |r| (group, *r)));
    live.chain(dead).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A renewed replica gets an id that no replica and no broker had before; repeating the command gives the same one.
    #[test]
    fn a_renewed_replica_has_an_id_that_nobody_had(history in history()) {
        let mut image = Image::new();
        for (index, command) in (1..).zip(&history) {
            let before = image.clone();
            let reply = image.apply(index, command);
            let (Command::RenewReplica { group, replica: old, checked }, Reply::ReplicaRenewed { replica, .. }) = (command, &reply)
            else {
                continue;
            };
            let last = |image: &Image| image.broker(old.broker).map(|broker| broker.last_incarnation);
            let was_sent_again = before.partition_of_group(*group).is_some_and(|p| p.replicas.contains(replica));
            if was_sent_again {
                prop_assert_eq!(last(&before), last(&image));
            } else {
                // One replica at a time, and of the list that was checked.
                let was = |p: &jangada_controller::PartitionRef<'_>| {
                    p.leaving.is_empty() && (checked.is_empty() || *checked == p.replicas)
                };
                prop_assert!(before.partition_of_group(*group).is_some_and(|p| was(&p)));
                prop_assert!(last(&before) < Some(replica.incarnation));
                prop_assert_eq!(last(&image), Some(replica.incarnation));
            }
            let partition = image.partition_of_group(*group).expect("it is live");
            prop_assert!(partition.leaving.contains(old) && !partition.replicas.contains(old));
            prop_assert!(partition.replicas.len() >= 3);
        }
    }

    #[test]
    fn invariants_hold_and_rejections_change_nothing(history in history()) {
        let mut image = Image::new();
        let mut places: BTreeMap<GroupId, (TopicId, PartitionIndex)> = BTreeMap::new();
        for (index, command) in (1..).zip(&history) {
            let before = image.clone();
            let reply = image.apply(index, command);
            prop_assert_eq!(image.version(), index);
            assert_invariants(&image);
            if matches!(reply, Reply::Rejected(_)) {
                prop_assert!(same_but_version(&before, &image));
            }
            for partition in image.partitions() {
                let place = (partition.topic.id, partition.index);
                prop_assert_eq!(*places.entry(partition.group).or_insert(place), place, "a group was used again");
            }
            prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    /// Data is forgotten only when its holder reported its deletion, or came back with an empty disk.
    #[test]
    fn no_data_is_forgotten(history in history()) {
        let mut image = Image::new();
        for (index, command) in (1..).zip(&history) {
            let before = holders(&image);
            let reply = image.apply(index, command);
            let after = holders(&image);
            for (group, replica) in before.difference(&after) {
                let explained = match (command, &reply) {
                    (Command::ReplicaDeleted { replica: by, groups }, _) => by == replica && groups.contains(group),
                    (_, Reply::BrokerRegistered { broker, incarnation }) => {
                        *broker == replica.broker && *incarnation > replica.incarnation
                    }
                    _ => false,
                };
                prop_assert!(explained, "{command:?} made group {group} on {replica} forgotten");
            }
        }
    }

    #[test]
    fn a_snapshot_anywhere_changes_nothing(history in history(), at in any::<prop::sample::Index>()) {
        let at = at.index(history.len() + 1);
        let mut image = Image::new();
        let mut restored = Image::new();
        for (index, command) in (1..).zip(&history) {
            if index as usize == at {
                restored = Image::restore(&image.snapshot()).expect("a snapshot can be restored");
                prop_assert_eq!(&restored, &image);
            }
            let reply = image.apply(index, command);
            if index as usize >= at {
                prop_assert_eq!(restored.apply(index, command), reply);
            } else {
                restored = image.clone();
            }
        }
        prop_assert_eq!(&restored, &image);
        prop_assert_eq!(restored.snapshot(), image.snapshot());
    }

    /// Replays the encoded log, as a replica does after a restart.
    #[test]
    fn a_replay_gives_the_same_image(history in history()) {
        let log: Vec<_> = history.iter().map(Command::encode).collect();
        let (mut first, mut second) = (Image::new(), Image::new());
        for (index, bytes) in (1..).zip(&log) {
            let command = Command::decode(bytes).expect("what was encoded can be decoded");
            prop_assert_eq!(&command, &history[index as usize - 1]);
            prop_assert_eq!(first.apply(index, &command), second.apply(index, &command));
        }
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(first.snapshot(), second.snapshot());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), version: bool) {
        let mut bytes = bytes;
        if version && let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        if let Ok(command) = Command::decode(&bytes) {
            Image::new().apply(1, &command);
            prop_assert_eq!(command.encode().to_vec(), bytes.clone());
        }
        let _ = Reply::decode(&bytes);
        let _ = Image::restore(&bytes);
    }

    /// Flipped bytes of real encodings get further than random ones.
    #[test]
    fn damaged_commands_are_read_or_refused(
        history in history(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut image = Image::new();
        for (index, command) in (1..).zip(&history) {
            let mut bytes = command.encode().to_vec();
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Ok(command) = Command::decode(&bytes) {
                image.apply(index, &command);
                assert_invariants(&image);
            }
        }
        let mut snapshot = image.snapshot().to_vec();
        for (at, value) in &flips {
            let at = at.index(snapshot.len());
            snapshot[at] = *value;
        }
        if let Ok(image) = Image::restore(&snapshot) {
            assert_invariants_but_settings(&image);
        }
    }
}

/// A damaged snapshot may hold a setting that apply would have refused: settings are judged when they are used.
fn assert_invariants_but_settings(image: &Image) {
    let groups: BTreeSet<_> = image.partitions().map(|partition| partition.group).collect();
    assert_eq!(groups.len(), image.partition_count());
    assert!(image.tombstones().all(|(group, _)| !groups.contains(&group)));
    let current = |replica: &ReplicaId| image.is_current(*replica);
    assert!(
        image
            .partitions()
            .all(|p| !p.replicas.is_empty() && p.replicas.iter().all(current))
    );
}

#[test]
fn a_directory_id_reads_as_hexadecimal() {
    let id = DirectoryId::from_slice(&[0xab; 16]).expect("16 bytes");
    assert_eq!(id.to_string(), "ab".repeat(16));
    assert_eq!(DirectoryId::from_slice(&[0; 15]), None);
}
