//! The metadata group on this broker: the image that its commands are folded into, and the handle that proposes them.
//!
//! Every broker holds a replica (a voter or a learner), so each has the whole image in memory. A command that is
//! proposed elsewhere than at the leader is passed on to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_controller::{Command, Image, Reply, admission};
use jangada_machine::{Effects, Machine, Retention};
use jangada_proto::internal::ProposeMetadataRequest;
use jangada_replication::transport::dialer::CallError;
use jangada_replication::{OpenError, ProposeError, Publisher, Registry, StateImage, transport};
use jangada_types::{BrokerId, GroupId, LogPosition, Reason};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::RequestError;
use crate::listener::Protocol;
use crate::replica::{Front, Hosted, Kind, ReplicaName, Replicas};

/// The metadata group, among the kinds of hosted groups. There is one.
const KIND: Kind = Kind {
    noun: "",
    not_ready: Reason::LeaderNotAvailable,
    replicas_min: 1,
    without_quorum: "nothing can be created or changed",
    is_vital: true,
};
/// Until when a command is tried again, elections included. With one try more it is less than the 10 s that a client waits.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How far above the version that this broker has may lie that is waited for. A new broker lacks many, and gets them at once with a
/// snapshot.
const VERSIONS_AHEAD_MAX: u64 = 1 << 24;
/// Between two tries while no leader is known.
const RETRY: Duration = Duration::from_millis(50);
/// One try at one leader.
const TRY_TIMEOUT: Duration = Duration::from_secs(4);

/// Holds the image that the metadata group's commands are folded into, and shows it to the rest of the broker.
pub(crate) struct MetadataPublisher {
    image: Image,
    published: watch::Sender<Arc<Image>>,
}

impl MetadataPublisher {
    /// The publisher, and the image that it publishes.
    pub fn new() -> (Self, watch::Receiver<Arc<Image>>) {
        let (published, watched) = watch::channel(Arc::new(Image::new()));
        let image = Image::new();
        (Self { image, published }, watched)
    }
}

impl Publisher for MetadataPublisher {
    type Machine = Image;

    fn apply(&mut self, at: LogPosition, command: Command, effects: &mut Effects) -> Reply {
        Machine::apply(&mut self.image, at, &command, effects)
    }

    fn publish(&mut self) {
        if self.published.borrow().version() != self.image.version() {
            self.published.send_replace(Arc::new(self.image.clone()));
        }
    }

    fn snapshot(&self) -> Bytes {
        self.image.snapshot()
    }

    fn image(&self) -> StateImage {
        StateImage::shared(self.image.clone())
    }

    fn replace(&mut self, image: Image) {
        self.image = image;
    }

    fn retention(&self) -> Retention {
        self.image.retention()
    }
}

/// The metadata as the rest of the broker uses it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metadata {
    pub registry: Arc<Registry>,
    pub hosted: Arc<Hosted>,
    image: watch::Receiver<Arc<Image>>,
}

impl Front for Metadata {}

impl Metadata {
    pub fn new(registry: Arc<Registry>, hosted: Arc<Hosted>, image: watch::Receiver<Arc<Image>>) -> Self {
        Self {
            registry,
            hosted,
            image,
        }
    }

    /// Opens this broker's replica of the metadata group.
    pub async fn open(replicas: &Replicas, registry: &Arc<Registry>) -> Result<Arc<Self>, OpenError> {
        let (publisher, image) = MetadataPublisher::new();
        let name = ReplicaName {
            topic: "metadata".into(),
            index: None,
        };
        let id = (GroupId::METADATA, registry.local_replica());
        let front = |hosted| Self::new(registry.clone(), hosted, image);
        replicas.open(id, (&KIND, name), publisher.erased(), front).await
    }

    /// The image as of now.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// The image as it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.image.clone()
    }

    /// Waits until this broker's image has at least this version. Not for one that no cluster has.
    pub async fn wait_for_version(&self, version: u64, timeout: Duration) -> Result<Arc<Image>, RequestError> {
        let mut image = self.image.clone();
        let known = image.borrow().version();
        if version > known.saturating_add(VERSIONS_AHEAD_MAX) {
            let message = format!(
                "version {version} of the metadata is asked for, and this broker's has {known}: send a version that an \
                 answer of this cluster named"
            );
            return Err(RequestError::new(Reason::InvalidRequest, message).with("actual", version));
        }
        match tokio::time::timeout(timeout, image.wait_for(|image| image.version() >= version)).await {
            Ok(Ok(image)) => Ok(image.clone()),
            _ => Err(RequestError::new(
                Reason::NotReady,
                format!(
                    "this broker's metadata has version {}, not {version} yet",
                    self.image.borrow().version()
                ),
            )
            .retry_after(RETRY)),
        }
    }

    /// Proposes a command, wherever the leader is, and waits until it is applied there and here.
    ///
    /// Commands may be sent again after an unknown outcome, so each of them is made so that this does no harm; where
    /// it shows (a topic that exists already), the error says that the outcome is unknown.
    pub async fn propose(&self, command: &Command) -> Result<(Reply, u64), RequestError> {
        let deadline = Instant::now() + TIMEOUT;
        let mut unknown = false;
        loop {
            let error = match self.propose_once(command.clone(), false).await {
                Ok((reply, version)) => {
                    // Also of one that is refused: whoever asks why looks at the metadata here.
                    let seen = self.wait_for_version(version, TIMEOUT).await;
                    let reply = reply.into_result().map_err(|rejection| {
                        let error = RequestError::from(rejection);
                        if unknown { error.unknown() } else { error }
                    })?;
                    // It has taken effect, though this broker may not see it in time.
                    seen.map_err(RequestError::unknown)?;
                    return Ok((reply, version));
                }
                Err(error) => error,
            };
            unknown |= !error.definite;
            if Instant::now() >= deadline {
                return Err(if unknown { error.unknown() } else { error });
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Makes sure that every broker of the cluster knows what is to be used, now and from now on.
    pub async fn require_feature_level(&self, level: u32) -> Result<(), RequestError> {
        if let Some(raise) = admission::validate_raise_feature_level(&self.image(), level)? {
            self.propose(&raise).await?;
            tracing::info!(level, "raised the cluster's feature level");
        }
        Ok(())
    }

    /// An error that names a leader, with the address at which clients of this listener reach it.
    pub fn with_leader_address(&self, error: RequestError, listener: &str) -> RequestError {
        let leader = error.metadata.get("leader_id").and_then(|id| id.parse().ok());
        let image = self.image();
        match leader.and_then(|leader| image.broker(BrokerId(leader))) {
            Some(broker) => error.with("leader_address", broker.address_at(listener, Protocol::Grpc.name())),
            None => error,
        }
    }

    /// A client does not look for the metadata's leader: for it each failure is one to find it.
    fn propose_error(&self, error: &ProposeError) -> RequestError {
        let refused = self.hosted.propose_error(error);
        RequestError {
            reason: Reason::LeaderNotAvailable,
            message: format!("{}: {error}", self.hosted.title),
            definite: error.is_definite(),
            metadata: BTreeMap::new(),
            ..refused.retry_after(RETRY)
        }
    }

    /// One try: here, or passed on to the leader unless it was passed on already.
    pub async fn propose_once(&self, command: Command, forwarded: bool) -> Result<(Reply, u64), RequestError> {
        let group = &self.hosted.group;
        if group.status().leading || forwarded {
            let proposed = group.propose::<Image>(command, TRY_TIMEOUT).await;
            return proposed
                .map(|applied| (applied.reply, applied.position.index + 1))
                .map_err(|error| self.propose_error(&error));
        }
        let leader = self
            .registry
            .leaders()
            .get(GroupId::METADATA)
            .and_then(|leader| leader.broker);
        let no_leader = || {
            RequestError::new(
                Reason::LeaderNotAvailable,
                "no leader of the metadata is known; an election may be under way",
            )
            .retry_after(RETRY)
        };
        let leader = leader.ok_or_else(no_leader)?;
        let address = self.registry.peer_address(leader).ok_or_else(no_leader)?;
        let unreachable = |cause: String| {
            RequestError::new(
                Reason::LeaderNotAvailable,
                format!("broker {leader}, which leads the metadata: {cause}"),
            )
            .retry_after(RETRY)
        };
        let request = ProposeMetadataRequest {
            hello: Some(self.registry.hello(leader)),
            command: command.encode(),
            forwarded: true,
        };
        let ask = |channel| async move { transport::internal_client(channel).propose_metadata(request).await };
        let answer = self.registry.dialer().call(&address, TRY_TIMEOUT, ask).await;
        let answer = answer.map_err(|error| match has_no_effect(&error) {
            true => unreachable(error.to_string()),
            false => unreachable(error.to_string()).unknown(),
        })?;
        let reply = Reply::decode(&answer.reply)
            .map_err(|error| RequestError::new(Reason::Internal, error.to_string()).unknown())?;
        Ok((reply, answer.version))
    }
}

/// The leader tells definite errors apart by their code alone.
fn has_no_effect(error: &CallError) -> bool {
    match error {
        CallError::NotSent(_) => true,
        CallError::Silent(_) => false,
        CallError::Failed(status) => status.code() == tonic::Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jangada_controller::{BrokerRegistration, DirectoryId};
    use jangada_types::Incarnation;

    use super::*;
    use crate::testing::Alone;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_applied_and_is_not_seen_here_in_time_is_no_definite_failure() {
        let Alone { registry, .. } = Alone::start();
        let replicas = Replicas::new(registry.clone(), TIMEOUT);
        let opened = Metadata::open(&replicas, &registry).await.expect("it is new");
        let (hosted, image) = (opened.hosted.clone(), opened.watch());
        let group = hosted.group.clone();
        let alone = BTreeSet::from([registry.local_replica()]);
        group.initialize(&alone).await.expect("it is new");
        let mut status = group.watch();
        let ready = status.wait_for(|status| status.ready);
        let ready = tokio::time::timeout(TIMEOUT, ready).await.expect("it elects itself");
        drop(ready.expect("the group is open"));
        // An image that never moves, and of which that is known at once.
        let (_, frozen) = watch::channel(Arc::new(Image::new()));
        let metadata = Metadata::new(registry.clone(), hosted, frozen);

        let seed = BrokerRegistration {
            id: BrokerId(1),
            incarnation: Incarnation(0),
            directory: DirectoryId::new([1; 16]),
            address: "127.0.0.1:1".to_owned(),
            internal_address: "127.0.0.1:2".to_owned(),
            rack: String::new(),
            feature_level: 1,
        };
        let command = Command::FormCluster {
            cluster_id: "one".to_owned(),
            brokers: vec![seed.into()],
        };
        let error = metadata.propose(&command).await.expect_err("it is not seen here");
        assert_eq!((error.reason, error.definite), (Reason::NotReady, false), "{error}");
        let version = image.borrow().version();
        assert!(version > 0, "it has taken effect: version {version}");
        registry.shutdown().await;
    }
}
