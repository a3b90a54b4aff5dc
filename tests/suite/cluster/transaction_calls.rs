//! Calls about transactions below the client: what is refused and why, what a deleted partition leaves of a transaction, and which broker
//! answers for a client that talks to one.

use std::time::Duration;

use bytes::Bytes;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::list_offsets_request::Position;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::transaction_service_client::TransactionServiceClient;
use jangada_proto::v1::*;
use jangada_types::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Sequence};
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::golden_data::{archives, join, started_with};
use super::groups::topic_id;
use super::passed_on::{PassOn, Wishful};
use crate::harness::groups::offsets;
use crate::harness::{Cluster, WAIT, eventually, raw};

const TOPIC: &str = "ledger";
const PARTITIONS: u32 = 3;
const GROUP: &str = "tellers";
const ID: &str = "transfers";
/// The pause before a call is made again that its leader could not answer.
const RETRY: Duration = Duration::from_millis(50);

/// A client of one broker, which passes its calls on to whoever can answer them.
#[derive(Clone)]
pub(super) struct Caller {
    transactions: TransactionServiceClient<Wishful>,
    groups: GroupServiceClient<Wishful>,
    pub log: LogServiceClient<Wishful>,
}

/// A producer id with the epoch of a transaction.
pub(super) type Producer = (i64, i32);

impl Caller {
    pub async fn of(cluster: &Cluster, broker: u32) -> Self {
        let address = format!("http://{}", cluster.node(broker).addresses.public);
        let endpoint = Endpoint::from_shared(address).expect("an address");
        let channel: Channel = endpoint.connect().await.expect("it listens");
        Self {
            transactions: TransactionServiceClient::with_interceptor(channel.clone(), PassOn),
            groups: GroupServiceClient::with_interceptor(channel.clone(), PassOn),
            log: LogServiceClient::with_interceptor(channel, PassOn),
        }
    }

    pub async fn init(&mut self, id: &str) -> Result<Producer, Status> {
        let request = InitTransactionsRequest {
            transactional_id: id.to_owned(),
            timeout_ms: 60_000,
            ..InitTransactionsRequest::default()
        };
        let answer = self.transactions.init_transactions(request).await?.into_inner();
        Ok((answer.producer_id, answer.producer_epoch))
    }

    /// The broker that coordinates an id.
    pub async fn coordinator_of(&mut self, id: &str) -> u32 {
        let request = FindTransactionCoordinatorRequest {
            transactional_id: id.to_owned(),
        };
        let found = self.transactions.find_transaction_coordinator(request).await;
        found.expect("there is one").into_inner().broker_id
    }

    pub async fn end(&mut self, id: &str, producer: Producer, commit: bool) -> Result<Producer, Status> {
        let (next, is_visible) = self.try_end(id, producer, commit).await?;
        assert!(is_visible, "all brokers are there");
        Ok(next)
    }

    /// Ends a transaction; says also whether all that take part know its end.
    pub async fn try_end(
        &mut self,
        id: &str,
        (producer_id, producer_epoch): Producer,
        commit: bool,
    ) -> Result<(Producer, bool), Status> {
        let request = EndTransactionRequest {
            transactional_id: id.to_owned(),
            producer_id,
            producer_epoch,
            commit,
            early: false,
        };
        let answer = self.transactions.end_transaction(request).await?.into_inner();
        Ok(((answer.producer_id, answer.producer_epoch), answer.visible))
    }

    pub async fn describe(&mut self, id: &str) -> Result<TransactionState, Status> {
        let request = DescribeTransactionRequest {
            transactional_id: id.to_owned(),
        };
        let answer = self.transactions.describe_transaction(request).await?.into_inner();
        Ok(answer.transaction.expect("it is there"))
    }

    /// Writes a record in the producer's transaction, the first one to this partition.
    pub async fn write(&mut self, id: &str, producer: Producer, partition: TopicPartition) -> Result<i64, Status> {
        self.write_at(id, producer, partition, (0, "value")).await
    }

    /// Writes a record in the producer's transaction, with this sequence and value.
    pub async fn write_at(
        &mut self,
        id: &str,
        producer: Producer,
        partition: TopicPartition,
        (sequence, value): (i32, &str),
    ) -> Result<i64, Status> {
        let mut builder = BatchBuilder::new(Codec::None);
        builder
            .append(raw::now_ms(), None, Some(value.as_bytes()), [])
            .expect("it fits");
        let epoch = i16::try_from(producer.1).expect("an epoch");
        builder
            .producer(ProducerId(producer.0), ProducerEpoch(epoch), Sequence(sequence))
            .transactional();
        let request = ProduceRequest {
            partition: Some(partition),
            payload: Some(Payload::Batch(builder.build())),
            transactional_id: id.to_owned(),
            ..ProduceRequest::default()
        };
        self.log
            .produce(request)
            .await
            .map(|answer| answer.into_inner().base_offset)
    }

    /// Commits an offset of partition 0 in the producer's transaction.
    async fn stage(
        &mut self,
        id: &str,
        (producer_id, producer_epoch): Producer,
        topic: &Bytes,
        offset: i64,
    ) -> Result<(), Status> {
        let request = CommitOffsetsRequest {
            group: GROUP.to_owned(),
            offsets: offsets(topic, [(0, offset)]),
            transaction: Some(OffsetsTransaction {
                transactional_id: id.to_owned(),
                producer_id,
                producer_epoch,
            }),
            ..CommitOffsetsRequest::default()
        };
        self.groups.commit_offsets(request).await.map(drop)
    }

    /// The committed offsets of partitions of the topic, without those that there are none for.
    async fn fetch(&mut self, topic: &Bytes, partitions: &[u32], require_stable: bool) -> Result<Vec<i64>, Status> {
        let wanted = partitions.iter().map(|partition| TopicPartition {
            topic_id: topic.clone(),
            topic: String::new(),
            partition: *partition,
        });
        let request = FetchOffsetsRequest {
            group: GROUP.to_owned(),
            partitions: wanted.collect(),
            require_stable,
        };
        let answer = self.groups.fetch_offsets(request).await.map(Response::into_inner)?;
        let offsets = answer.offsets.into_iter().map(|offset| offset.offset);
        Ok(offsets.filter(|offset| *offset >= 0).collect())
    }

    pub async fn end_of(&mut self, partition: TopicPartition, isolation: Isolation) -> i64 {
        let request = ListOffsetsRequest {
            partition: Some(partition),
            position: Some(Position::Latest(true)),
            isolation: isolation.into(),
        };
        let until = Instant::now() + WAIT;
        loop {
            match self.log.list_offsets(request.clone()).await {
                Ok(answer) => return answer.into_inner().offset,
                // A leader that has just been alone does not answer before a quorum answers it.
                Err(status) if status.code() == Code::Unavailable && Instant::now() < until => sleep(RETRY).await,
                Err(status) => panic!("the leader answers: {status}"),
            }
        }
    }
}

async fn cluster() -> (Cluster, Bytes) {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let topic = topic_id(&cluster, TOPIC).await;
    (cluster, topic)
}

/// Who goes on before an offset that a transaction may yet commit does its work again (KIP-447).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_a_transaction_may_yet_commit_are_not_stable() {
    let (cluster, topic) = cluster().await;
    let mut caller = Caller::of(&cluster, 1).await;
    let mut producer = caller.init(ID).await.expect("the id is free");
    assert_eq!(caller.fetch(&topic, &[0], true).await.expect("nothing is open"), [0; 0]);
    for (commits, offset, before, after) in [(true, 7, None, Some(7)), (false, 9, Some(7), Some(7))] {
        caller
            .stage(ID, producer, &topic, offset)
            .await
            .expect("nobody is in the group");
        for wanted in [&[0][..], &[]] {
            let refused = caller.fetch(&topic, wanted, true).await;
            let refused = raw::assert_refused(refused, "UNSTABLE_OFFSETS", &[GROUP]);
            assert_eq!(raw::detail(&refused, "definite").as_deref(), Some("true"));
        }
        // Another partition, and who does not ask.
        assert_eq!(
            caller.fetch(&topic, &[1], true).await.expect("that one is stable"),
            [0; 0]
        );
        assert_eq!(
            caller.fetch(&topic, &[0], false).await.expect("as it is"),
            Vec::from_iter(before)
        );
        // Nor is the group deleted under the transaction.
        let delete = DeleteGroupRequest {
            group: GROUP.to_owned(),
        };
        raw::assert_refused(caller.groups.delete_group(delete).await, "UNSTABLE_OFFSETS", &[GROUP]);
        producer = caller.end(ID, producer, commits).await.expect("it is open");
        assert_eq!(
            caller.fetch(&topic, &[0], true).await.expect("it is decided"),
            Vec::from_iter(after)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_an_epoch_that_has_ended_are_staged_for_nobody() {
    let (cluster, topic) = cluster().await;
    let mut caller = Caller::of(&cluster, 1).await;
    let first = caller.init(ID).await.expect("the id is free");
    caller.stage(ID, first, &topic, 3).await.expect("it is open");
    let second = caller.end(ID, first, true).await.expect("it is open");
    let ended = caller.stage(ID, first, &topic, 4).await;
    raw::assert_refused(ended, "INVALID_TRANSACTION_STATE", &[ID]);
    // Another process takes the id, with an open transaction of the one before.
    caller.stage(ID, second, &topic, 5).await.expect("it is the next one");
    let third = caller.init(ID).await.expect("what was open is aborted");
    for producer in [first, second] {
        let fenced = caller.stage(ID, producer, &topic, 6).await;
        raw::assert_refused(fenced, "PRODUCER_FENCED", &[ID]);
    }
    let stranger = caller.stage("another", third, &topic, 6).await;
    raw::assert_refused(stranger, "UNKNOWN_TRANSACTIONAL_ID", &["another"]);
    assert_eq!(caller.fetch(&topic, &[0], true).await.expect("nothing is open"), [3]);
    caller.stage(ID, third, &topic, 8).await.expect("it has the id");
    caller.end(ID, third, true).await.expect("it is open");
    assert_eq!(caller.fetch(&topic, &[0], true).await.expect("nothing is open"), [8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_ends_though_a_partition_of_it_was_deleted() {
    const OTHER: &str = "doomed";
    let (cluster, _) = cluster().await;
    for commits in [true, false] {
        cluster.create_topic(OTHER, 1, 3).await;
        let mut caller = Caller::of(&cluster, 1).await;
        let producer = caller.init(ID).await.expect("it may be taken");
        caller
            .write(ID, producer, raw::partition(OTHER, 0))
            .await
            .expect("it is written");
        caller
            .write(ID, producer, raw::partition(TOPIC, 0))
            .await
            .expect("it is written");
        assert_eq!(caller.describe(ID).await.expect("it is there").partitions.len(), 2);
        let topic = topic_id(&cluster, OTHER).await;
        cluster.admin().await.delete_topic(OTHER).await.expect("it is deleted");
        let gone = TopicPartition {
            topic_id: topic,
            topic: String::new(),
            partition: 0,
        };
        eventually("no broker has it", WAIT, || {
            let (cluster, gone, producer) = (&cluster, gone.clone(), producer);
            async move {
                for broker in cluster.ids() {
                    let refused = Caller::of(cluster, broker)
                        .await
                        .write(ID, producer, gone.clone())
                        .await;
                    if raw::reason(&refused.err()?) != "UNKNOWN_TOPIC" {
                        return None;
                    }
                }
                Some(())
            }
        })
        .await;
        // Seen in all partitions, so it asks no marker of the one that is gone.
        let next = caller.end(ID, producer, commits).await.expect("it is open");
        let partition = || raw::partition(TOPIC, 0);
        let (stable, end) = (
            caller.end_of(partition(), Isolation::Committed).await,
            caller.end_of(partition(), Isolation::Uncommitted).await,
        );
        assert_eq!(stable, end, "nothing is open");
        // It is complete when the next one begins, or a moment later.
        let described = eventually("it is complete", WAIT, || {
            let mut caller = caller.clone();
            async move {
                let described = caller.describe(ID).await.expect("it is there");
                described.partitions.is_empty().then_some(described)
            }
        })
        .await;
        assert_eq!(described.last_committed, commits);
        assert_eq!(described.last_producer_id, Some(producer.0));
        caller.write(ID, next, partition()).await.expect("the next one begins");
        caller.end(ID, next, true).await.expect("it is open");
    }
}

/// A partition that joined a transaction, and took nothing of it, learns of its end all the same: a batch that is late, and for which its
/// leader needs no coordinator any more, would be open for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_comes_after_the_end_of_its_transaction_opens_nothing() {
    let (cluster, _) = cluster().await;
    let mut caller = Caller::of(&cluster, 1).await;
    let partition = || raw::partition(TOPIC, 0);
    let mut producer = caller.init(ID).await.expect("the id is free");
    for (commits, end) in [(true, 0), (false, 2)] {
        let gap = caller.write_at(ID, producer, partition(), (7, "gap")).await;
        gap.expect_err("it is not the first of its producer's epoch");
        let described = caller.describe(ID).await.expect("it is there");
        assert_eq!(described.partitions.len(), 1, "it is a part of the transaction");
        let next = caller.end(ID, producer, commits).await.expect("it is open");
        caller.write(ID, producer, partition()).await.expect_err("it is over");
        for isolation in [Isolation::Committed, Isolation::Uncommitted] {
            assert_eq!(caller.end_of(partition(), isolation).await, end, "nothing was opened");
        }
        assert_eq!(
            caller.write(ID, next, partition()).await.expect("it is the next one"),
            end
        );
        producer = caller.end(ID, next, true).await.expect("it is open");
    }
}

/// Each call, through each broker, about ids that each broker coordinates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_broker_passes_calls_on_to_whoever_coordinates() {
    let (cluster, topic) = cluster().await;
    let mut first = Caller::of(&cluster, 1).await;
    let mut ids = std::collections::BTreeMap::new();
    for nth in 0..1_000 {
        let id = format!("id-{nth}");
        ids.entry(first.coordinator_of(&id).await).or_insert(id);
        if ids.len() == cluster.ids().len() {
            break;
        }
    }
    assert_eq!(ids.len(), cluster.ids().len(), "shards are spread: {ids:?}");
    let mut stored = 0;
    for (coordinator, id) in &ids {
        for entrance in cluster.ids() {
            let mut caller = Caller::of(&cluster, entrance).await;
            let producer = caller.init(id).await.expect("it is passed on");
            for partition in 0..PARTITIONS {
                let offset = caller.write(id, producer, raw::partition(TOPIC, partition)).await;
                assert_eq!(
                    offset.expect("it is passed on"),
                    stored,
                    "{entrance} {coordinator} {partition}"
                );
            }
            caller
                .stage(id, producer, &topic, stored)
                .await
                .expect("it is passed on");
            let described = caller.describe(id).await.expect("it is passed on");
            assert_eq!((&*described.state, described.coordinator_id), ("Ongoing", *coordinator));
            assert_eq!((described.partitions.len(), described.groups.len()), (3, 1));
            let request = DescribeProducersRequest {
                partition: Some(raw::partition(TOPIC, 1)),
            };
            let producers = caller.transactions.describe_producers(request).await;
            let producers = producers.expect("it is passed on").into_inner().producers;
            let open = producers.iter().find(|known| known.transaction_first_offset.is_some());
            assert_eq!(
                open.map(|known| (known.producer_id, known.producer_epoch)),
                Some(producer)
            );
            let request = AbortTransactionRequest {
                transactional_id: id.clone(),
            };
            match entrance {
                // Its markers are written without anybody who waits for them.
                1 => {
                    let aborted = caller.transactions.abort_transaction(request).await;
                    assert!(aborted.expect("it is passed on").into_inner().aborted);
                    let refused = caller.end(id, producer, true).await;
                    raw::assert_refused(refused, "TRANSACTION_TIMED_OUT", &[id]);
                    caller.end(id, producer, false).await.expect("it goes on");
                }
                _ => drop(caller.end(id, producer, true).await.expect("it is passed on")),
            }
            stored += 2;
        }
    }
    let committed = first.fetch(&topic, &[0], true).await.expect("nothing is open");
    assert_eq!(committed, [stored - 2], "the last one was committed");
    // Who follows leaders is sent to them.
    for (coordinator, id) in &ids {
        for broker in cluster.ids() {
            let address = format!("http://{}", cluster.node(broker).addresses.public);
            let mut following = TransactionServiceClient::connect(address).await.expect("it listens");
            let request = DescribeTransactionRequest {
                transactional_id: id.clone(),
            };
            let answer = following.describe_transaction(request).await;
            match broker == *coordinator {
                true => drop(answer.expect("it coordinates")),
                false => {
                    let refused = raw::assert_refused(answer, "NOT_LEADER", &[]);
                    assert_eq!(raw::detail(&refused, "leader_id"), Some(coordinator.to_string()));
                }
            }
        }
    }
}

/// A replica of an older build would stop at a command that it does not know, for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_wait_for_every_broker() {
    const TOO_OLD: u32 = jangada_types::feature_level::TRANSACTIONS_FEATURE_LEVEL - 1;
    let (_, oldest) = archives().pop_first().expect("the first is part of the tree");
    let cluster = started_with(&oldest).await;
    let mut caller = Caller::of(&cluster, 1).await;
    // Before there is another broker that would be given a part of it.
    caller.coordinator_of(ID).await;
    join(&cluster, TOO_OLD).await.expect("the cluster is at level 1");
    let named = ["broker 2", &format!("feature level {TOO_OLD}"), "upgrade"];
    let refused = raw::assert_refused(caller.init(ID).await, "NOT_READY", &named);
    assert_eq!(raw::detail(&refused, "definite").as_deref(), Some("true"));
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let given = raw::new_producer(&mut log).await;
    let producer = (given.id, i32::from(given.epoch));
    let partition = || raw::partition("golden", 1);
    let end = caller.end_of(partition(), Isolation::Uncommitted).await;
    let refused = caller.write(ID, producer, partition()).await;
    raw::assert_refused(refused, "NOT_READY", &named);
    let topic = topic_id(&cluster, "golden").await;
    let refused = caller.stage(ID, producer, &topic, 1).await;
    raw::assert_refused(refused, "UNKNOWN_TRANSACTIONAL_ID", &[ID]);
    raw::assert_refused(caller.end(ID, producer, true).await, "UNKNOWN_TRANSACTIONAL_ID", &[ID]);
    let listed = caller
        .transactions
        .list_transactions(ListTransactionsRequest::default())
        .await;
    assert_eq!(listed.expect("it answers").into_inner().transactions, []);
    assert_eq!(
        caller.end_of(partition(), Isolation::Uncommitted).await,
        end,
        "nothing was written"
    );

    join(&cluster, TOO_OLD + 1).await.expect("it is newer than before");
    let producer = eventually("all brokers are new enough", WAIT, || {
        let cluster = &cluster;
        async move { Caller::of(cluster, 1).await.init(ID).await.ok() }
    })
    .await;
    assert_eq!(
        caller.write(ID, producer, partition()).await.expect("it is written"),
        end
    );
    caller.end(ID, producer, true).await.expect("it is open");
    let refused = join(&cluster, TOO_OLD).await.expect_err("it would not know");
    assert!(refused.message().contains("upgrade"), "{refused:?}");
}
