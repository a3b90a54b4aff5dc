//! Consumer groups below the client: calls that follow the coordinator, and members that only heartbeat and commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::{
    CommitOffsetsRequest, DescribeGroupRequest, DescribeGroupResponse, FetchOffsetsRequest, FindCoordinatorRequest,
    HeartbeatRequest, HeartbeatResponse, PartitionOffset, PartitionSet, Subscription, TopicPartition, TopicPartitions,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{WAIT, raw};

/// Reasons that a client retries, at the coordinator at that time.
const RETRYABLE: [&str; 8] = [
    "",
    "NOT_LEADER",
    "NOT_READY",
    "LEADER_NOT_AVAILABLE",
    "SHUTTING_DOWN",
    "GROUP_CHANGED",
    "QUORUM_TIMEOUT",
    "STORE_FENCED",
];

/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(6);

/// Delay between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

pub type Client = GroupServiceClient<Channel>;

/// A connection to one broker's group service.
pub fn at(address: &str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    Client::new(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
}

/// Calls about one group, sent to its coordinator.
#[derive(Clone)]
pub struct Coordinator {
    brokers: Arc<Vec<String>>,
    group: String,
    known: Option<(u32, Client)>,
}

impl Coordinator {
    pub fn new(brokers: Vec<String>, group: &str) -> Coordinator {
        Coordinator {
            brokers: Arc::new(brokers),
            group: group.to_owned(),
            known: None,
        }
    }

    /// The broker that coordinates the group, and a connection to it.
    pub async fn find(&mut self) -> (u32, Client) {
        if let Some(known) = &self.known {
            return known.clone();
        }
        let deadline = Instant::now() + WAIT;
        loop {
            for broker in self.brokers.iter() {
                let group = self.group.clone();
                let mut request = Request::new(FindCoordinatorRequest { group });
                request.set_timeout(CALL_TIMEOUT);
                if let Ok(found) = at(broker).find_coordinator(request).await {
                    let found = found.into_inner();
                    let known = (found.broker_id, at(&found.address));
                    self.known = Some(known.clone());
                    return known;
                }
            }
            assert!(
                Instant::now() < deadline,
                "no coordinator of {} within {WAIT:?}",
                self.group
            );
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Makes a call, which is retried while the coordinator changes.
    pub async fn call<T, F>(&mut self, mut call: impl FnMut(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + WAIT;
        loop {
            let (_, client) = self.find().await;
            let error = match tokio::time::timeout(CALL_TIMEOUT, call(client)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(error)) => error,
                Err(_) => Status::deadline_exceeded("no answer"),
            };
            if !RETRYABLE.contains(&raw::reason(&error).as_str()) || Instant::now() >= deadline {
                return Err(error);
            }
            self.known = None;
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    pub async fn heartbeat(&mut self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status> {
        self.call(|mut client| {
            let request = request.clone();
            async move { client.heartbeat(request).await }
        })
        .await
    }

    pub async fn commit(&mut self, request: CommitOffsetsRequest) -> Result<(), Status> {
        self.call(|mut client| {
            let request = request.clone();
            async move { client.commit_offsets(request).await }
        })
        .await
        .map(drop)
    }

    pub async fn describe(&mut self) -> Result<DescribeGroupResponse, Status> {
        let group = self.group.clone();
        self.call(|mut client| {
            let group = group.clone();
            async move { client.describe_group(DescribeGroupRequest { group }).await }
        })
        .await
    }

    /// All committed offsets of one topic, by partition.
    pub async fn offsets(&mut self) -> BTreeMap<u32, i64> {
        let group = self.group.clone();
        let fetched = self
            .call(|mut client| {
                let group = group.clone();
                let partitions = Vec::new();
                async move {
                    client
                        .fetch_offsets(FetchOffsetsRequest {
                            group,
                            partitions,
                            ..Default::default()
                        })
                        .await
                }
            })
            .await
            .expect("offsets can be read");
        let rows = fetched.offsets.into_iter();
        rows.map(|row| {
            (
                row.partition.map_or(u32::MAX, |partition| partition.partition),
                row.offset,
            )
        })
        .collect()
    }
}

/// Offsets to commit for partitions of a topic.
pub fn offsets(topic: &Bytes, rows: impl IntoIterator<Item = (u32, i64)>) -> Vec<PartitionOffset> {
    let row = |(partition, offset)| PartitionOffset {
        added: false,
        partition: Some(TopicPartition {
            topic_id: topic.clone(),
            topic: String::new(),
            partition,
        }),
        offset,
        ..PartitionOffset::default()
    };
    rows.into_iter().map(row).collect()
}

/// The history of a member.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub epoch: i64,
    pub owned: BTreeSet<u32>,
    /// Number of times that it joined.
    pub joins: u32,
    /// Errors that are not expected.
    pub errors: Vec<String>,
}

/// A member of a group on one topic: a task that heartbeats as it is told, and takes and gives up partitions at once.
pub struct Member {
    pub id: String,
    pub seen: Arc<Mutex<Seen>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Member {
    /// Joins and goes on until it is told to leave.
    pub fn start(coordinator: Coordinator, id: &str, topic: &str, session: Duration) -> Member {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopping) = watch::channel(false);
        let request = HeartbeatRequest {
            group: coordinator.group.clone(),
            member_id: id.to_owned(),
            client_id: "test".to_owned(),
            session_timeout_ms: u32::try_from(session.as_millis()).expect("a session is short"),
            ..HeartbeatRequest::default()
        };
        let task = tokio::spawn(run(coordinator, request, topic.to_owned(), seen.clone(), stopping));
        Member {
            id: id.to_owned(),
            seen,
            stop,
            task,
        }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("no panic").clone()
    }

    pub fn owned(&self) -> BTreeSet<u32> {
        self.seen().owned
    }

    /// Leaves the group; returns when the coordinator knows.
    pub async fn leave(self) {
        self.stop.send_replace(true);
        self.task.await.expect("a member ends well");
    }

    /// Stops without leaving the group.
    pub fn vanish(self) {
        self.task.abort();
    }
}

async fn run(
    mut coordinator: Coordinator,
    mut request: HeartbeatRequest,
    topic: String,
    seen: Arc<Mutex<Seen>>,
    mut stopping: watch::Receiver<bool>,
) {
    let subscription = Subscription {
        topics: vec![topic],
        pattern: String::new(),
    };
    let mut topic_id = Bytes::new();
    loop {
        request.subscription = (request.member_epoch == 0).then(|| subscription.clone());
        let owned = seen.lock().expect("no panic").owned.clone();
        request.owned = (request.member_epoch > 0).then(|| partitions(&topic_id, owned));
        let pause = match coordinator.heartbeat(request.clone()).await {
            Ok(answer) => {
                let mut seen = seen.lock().expect("no panic");
                seen.joins += u32::from(request.member_epoch == 0);
                request.member_epoch = answer.member_epoch;
                request.assignment_version = answer.assignment_version;
                seen.epoch = answer.member_epoch;
                let mut pause = Duration::from_millis(answer.heartbeat_interval_ms.into());
                if let Some(assignment) = answer.assignment {
                    let indexes = assignment.topics.iter().flat_map(|topic| &topic.partitions);
                    let assigned: BTreeSet<u32> = indexes.copied().collect();
                    if !seen.owned.is_subset(&assigned) {
                        pause = Duration::ZERO;
                    }
                    topic_id = assignment
                        .topics
                        .first()
                        .map_or(topic_id, |topic| topic.topic_id.clone());
                    seen.owned = assigned;
                }
                pause
            }
            Err(error) => {
                let mut seen = seen.lock().expect("no panic");
                seen.errors
                    .push(format!("{}: {}", raw::reason(&error), error.message()));
                seen.owned.clear();
                request.member_epoch = 0;
                request.assignment_version = 0;
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|stopping| *stopping) => break,
        }
    }
    request.member_epoch = -1;
    request.owned = None;
    request.subscription = None;
    coordinator.heartbeat(request).await.expect("a member can leave");
    seen.lock().expect("no panic").owned.clear();
}

fn partitions(topic: &Bytes, owned: BTreeSet<u32>) -> PartitionSet {
    let topics = TopicPartitions {
        topic_id: topic.clone(),
        topic: String::new(),
        partitions: owned.into_iter().collect(),
    };
    PartitionSet {
        topics: if topics.partitions.is_empty() {
            Vec::new()
        } else {
            vec![topics]
        },
    }
}
