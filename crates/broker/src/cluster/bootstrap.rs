//! How a broker comes to belong to a cluster.
//!
//! ```text
//!  directory is bound to a cluster ------------------------------> start as its broker
//!  directory is new:
//!    some seed belongs to a cluster and takes joiners -----------> join it
//!    all seeds answer, all are new, and this has the lowest id --> form a cluster: bind the own directory, let all others adopt it
//!    otherwise --------------------------------------------------> wait to be adopted, ask again
//! ```
//!
//! Two clusters can never come to be: only the seed with the lowest broker id forms one, only after it reached all
//! seeds and none belonged to a cluster; it binds its own directory before it asks the first other one, and each
//! binds its directory before it answers. A seed that is killed at any step finds its directory bound or new when it
//! comes back, and goes on from there: tests let it die at each `failpoint`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::metadata_quorum::metadata_voter_count;
use jangada_controller::{Command, DirectoryId, Reply, SeedBroker};
use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::{AdoptRequest, JoinRequest, Member, ProbeRequest, ProbeResponse};
use jangada_replication::{FEATURE_LEVEL, PROTOCOL_MAX, PROTOCOL_MIN, check_protocol, transport};
use jangada_types::{BrokerId, Incarnation, ReplicaId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use super::directory::{DataDirectory, DirectoryError};
use super::failpoint;
use super::metadata::Metadata;
use crate::seams::IdSource;

/// Between two rounds of asking the seeds.
const ROUND: Duration = Duration::from_millis(200);
/// One seed's answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer that includes a proposal.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// All seeds begin with this incarnation.
const FIRST_INCARNATION: Incarnation = Incarnation(1);

/// A broker that cannot become part of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The cluster refused it.
    #[error("the cluster refused this broker: {0}")]
    Refused(String),
    /// A seed refused to say who it is, as it does to a broker without a protocol version in common.
    #[error("seed {seed} refused this broker: {message}")]
    RefusedBySeed {
        /// The seed's address.
        seed: String,
        /// What it said.
        message: String,
    },
    /// A seed is part of another cluster.
    #[error(
        "seed {seed} belongs to cluster {theirs}, this broker's data directory to {ours}: correct the seeds or data_dir"
    )]
    OtherCluster {
        /// The seed's address.
        seed: String,
        /// Its cluster.
        theirs: String,
        /// This broker's.
        ours: String,
    },
    /// A seed has other seeds.
    #[error("seed {seed} lists the seeds {theirs:?}, this broker {ours:?}: all must list the same")]
    OtherSeeds {
        /// The seed's address.
        seed: String,
        /// Its list.
        theirs: Vec<String>,
        /// This broker's.
        ours: Vec<String>,
    },
    /// Two brokers with one id.
    #[error("seed {seed} is broker {broker} too: every broker needs an id of its own")]
    SameId {
        /// The seed's address.
        seed: String,
        /// The id.
        broker: BrokerId,
    },
}

/// What the settings say of this broker.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub broker: BrokerId,
    pub address: String,
    pub internal_address: String,
    pub rack: String,
    /// Sorted.
    pub seeds: Vec<String>,
}

/// The data directory's part in the handshakes, shared with the internal service.
pub(crate) struct Bootstrap {
    pub local: Local,
    ids: Arc<dyn IdSource>,
    directory: Mutex<DataDirectory>,
    /// Changes when the directory is bound.
    bound: watch::Sender<Option<Bound>>,
    /// The metadata, once this broker is part of a cluster.
    pub metadata: watch::Sender<Option<Metadata>>,
}

/// The cluster that the directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub cluster_id: String,
    pub incarnation: Incarnation,
}

/// A reachable seed.
struct Seed {
    address: String,
    answer: ProbeResponse,
}

impl Bootstrap {
    pub fn new(local: Local, directory: DataDirectory, ids: Arc<dyn IdSource>) -> Self {
        let bound = bound_to(&directory);
        Self {
            local,
            ids,
            directory: Mutex::new(directory),
            bound: watch::Sender::new(bound),
            metadata: watch::Sender::new(None),
        }
    }

    /// The store that was there before must be there again.
    pub fn expect_store(&self) -> Result<(), DirectoryError> {
        self.directory.lock().expect_store()
    }

    /// From now on the store must be there.
    pub fn store_opened(&self) -> Result<(), DirectoryError> {
        failpoint::reached("bootstrap.store-made");
        self.directory.lock().store_opened()?;
        failpoint::reached("bootstrap.store-remembered");
        Ok(())
    }

    /// Where the store is.
    pub fn store_path(&self) -> std::path::PathBuf {
        self.directory.lock().store_path()
    }

    fn directory_id(&self) -> DirectoryId {
        self.directory.lock().id()
    }

    fn bind(&self, cluster_id: &str, incarnation: Incarnation) -> Result<Bound, DirectoryError> {
        let mut directory = self.directory.lock();
        directory.bind(cluster_id, incarnation)?;
        let bound = bound_to(&directory).expect("just bound");
        self.bound.send_replace(Some(bound.clone()));
        Ok(bound)
    }

    fn member(&self) -> Member {
        let directory = self.directory.lock();
        Member {
            broker_id: self.local.broker.get(),
            incarnation: directory.incarnation().get(),
            internal_address: self.local.internal_address.clone(),
            address: self.local.address.clone(),
            rack: self.local.rack.clone(),
            directory_id: directory.id().as_bytes().to_vec().into(),
            feature_level: FEATURE_LEVEL,
        }
    }

    /// Answers what this broker is.
    pub fn answer_probe(&self, request: &ProbeRequest) -> Result<ProbeResponse, Status> {
        check_protocol(request.protocol_min, request.protocol_max)?;
        let me = self.member();
        let ready = self
            .metadata
            .borrow()
            .as_ref()
            .is_some_and(|metadata| metadata.image().cluster_id().is_some());
        Ok(ProbeResponse {
            broker_id: me.broker_id,
            cluster_id: self
                .bound
                .borrow()
                .as_ref()
                .map(|bound| bound.cluster_id.clone())
                .unwrap_or_default(),
            seeds: self.local.seeds.clone(),
            internal_address: me.internal_address,
            address: me.address,
            rack: me.rack,
            ready,
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            incarnation: me.incarnation,
            directory_id: me.directory_id,
            feature_level: FEATURE_LEVEL,
        })
    }

    /// Adopts the cluster that the seed with the lowest id forms; answers with the cluster that this broker belongs
    /// to afterwards.
    pub fn adopt(&self, request: &AdoptRequest) -> Result<String, Status> {
        if request.broker_id >= self.local.broker.get() {
            return Err(Status::failed_precondition(format!(
                "broker {} does not have the lowest id: broker {} has a lower one",
                request.broker_id, self.local.broker
            )));
        }
        let bound = self.bound.borrow().clone();
        match bound {
            Some(bound) => Ok(bound.cluster_id),
            None => {
                let bound = self
                    .bind(&request.cluster_id, FIRST_INCARNATION)
                    .map_err(|error| Status::internal(error.to_string()))?;
                failpoint::reached("bootstrap.adopted");
                tracing::info!(cluster = %bound.cluster_id, by = request.broker_id, "adopted a new cluster");
                Ok(bound.cluster_id)
            }
        }
    }

    /// Finds the cluster to belong to, or makes it. Returns when the directory is bound. Waits as long as it takes: a
    /// seed may start hours later.
    pub async fn find_cluster(&self) -> Result<Bound, BootstrapError> {
        let mut bound = self.bound.subscribe();
        let mut told = false;
        loop {
            if let Some(bound) = bound.borrow_and_update().clone() {
                return Ok(bound);
            }
            failpoint::reached("bootstrap.directory-made");
            let seeds = self.probe_seeds().await?;
            if seeds.len() == self.local.seeds.len() {
                failpoint::reached("bootstrap.probed");
            }
            if let Some(seed) = seeds.iter().find(|seed| seed.answer.ready) {
                match self.join(&seed.address).await? {
                    Some(bound) => return Ok(bound),
                    None => tracing::debug!(seed = %seed.address, "joining did not work out; trying again"),
                }
            } else if self.may_form(&seeds) {
                let cluster_id = self.ids.new_id().to_string();
                tracing::info!(cluster = %cluster_id, "forming a new cluster");
                let bound = self.bind(&cluster_id, FIRST_INCARNATION)?;
                failpoint::reached("bootstrap.bound");
                return Ok(bound);
            }
            if !told {
                told = true;
                let missing = self.local.seeds.len().saturating_sub(seeds.len());
                tracing::info!(
                    reached = seeds.len(),
                    missing,
                    "waiting for the seeds to form a cluster"
                );
            }
            // Adopted meanwhile, or time for another round.
            let _ = tokio::time::timeout(ROUND, bound.changed()).await;
        }
    }

    /// Only the seed with the lowest id, only when all seeds answered and none belongs to a cluster.
    fn may_form(&self, seeds: &[Seed]) -> bool {
        seeds.len() == self.local.seeds.len()
            && seeds.iter().all(|seed| seed.answer.cluster_id.is_empty())
            && seeds.iter().map(|seed| seed.answer.broker_id).min() == Some(self.local.broker.get())
            && self.local.seeds.contains(&self.local.internal_address)
    }

    /// Asks all seeds at once, this broker among them.
    async fn probe_seeds(&self) -> Result<Vec<Seed>, BootstrapError> {
        let probes = self
            .local
            .seeds
            .iter()
            .map(|address| async move { (address, self.probe(address).await) });
        let mut seeds = Vec::new();
        for (address, answer) in futures::future::join_all(probes).await {
            match answer {
                Ok(answer) => seeds.push(Seed {
                    address: address.clone(),
                    answer,
                }),
                // A new broker would wait for this seed for ever. One of a cluster may do without it.
                Err(status) if status.code() == tonic::Code::FailedPrecondition && self.bound.borrow().is_none() => {
                    return Err(BootstrapError::RefusedBySeed {
                        seed: address.clone(),
                        message: status.message().to_owned(),
                    });
                }
                Err(status) => tracing::debug!(seed = %address, %status, "not reached"),
            }
        }
        let ours = self.bound.borrow().as_ref().map(|bound| bound.cluster_id.clone());
        for Seed { address, answer } in &seeds {
            let theirs = &answer.cluster_id;
            if let Some(ours) = ours.as_ref().filter(|ours| !theirs.is_empty() && *ours != theirs) {
                return Err(BootstrapError::OtherCluster {
                    seed: address.clone(),
                    theirs: theirs.clone(),
                    ours: ours.clone(),
                });
            }
            if theirs.is_empty() && ours.is_none() && answer.seeds != self.local.seeds {
                return Err(BootstrapError::OtherSeeds {
                    seed: address.clone(),
                    theirs: answer.seeds.clone(),
                    ours: self.local.seeds.clone(),
                });
            }
            if answer.broker_id == self.local.broker.get() && *answer.directory_id != self.directory_id().as_bytes()[..]
            {
                return Err(BootstrapError::SameId {
                    seed: address.clone(),
                    broker: self.local.broker,
                });
            }
        }
        Ok(seeds)
    }

    async fn probe(&self, address: &str) -> Result<ProbeResponse, Status> {
        let request = ProbeRequest {
            seeds: self.local.seeds.clone(),
            broker_id: self.local.broker.get(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        };
        let probe = async { Ok(connect(address).await?.probe(request).await?.into_inner()) };
        tokio::time::timeout(PROBE_TIMEOUT, probe)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
    }

    /// Asks a broker of a cluster for membership. `None`: not now.
    async fn join(&self, address: &str) -> Result<Option<Bound>, BootstrapError> {
        let request = JoinRequest {
            cluster_id: String::new(),
            member: Some(self.member()),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        };
        let join = async { Ok::<_, Status>(connect(address).await?.join(request).await?.into_inner()) };
        match tokio::time::timeout(JOIN_TIMEOUT, join).await {
            Ok(Ok(response)) => {
                tracing::info!(cluster = %response.cluster_id, incarnation = response.incarnation, "joined");
                failpoint::reached("bootstrap.joined");
                let bound = self.bind(&response.cluster_id, Incarnation(response.incarnation))?;
                failpoint::reached("bootstrap.join-bound");
                Ok(Some(bound))
            }
            Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                Err(BootstrapError::Refused(status.message().to_owned()))
            }
            Ok(Err(status)) => {
                tracing::warn!(seed = %address, %status, "could not join");
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    /// Makes the cluster's first entries, if it is this broker's to do: lets the others adopt it, forms the metadata
    /// group, proposes the first command. Also finds the other brokers while the image does not name them yet.
    /// Returns when the image does.
    pub async fn complete(&self, metadata: &Metadata) -> Result<(), BootstrapError> {
        // Seeds of another cluster, or other brokers with this id, are noticed before anything is served.
        self.probe_seeds().await?;
        let mut image = metadata.watch();
        let bound = self
            .bound
            .borrow()
            .clone()
            .expect("the directory is bound before the metadata group is opened");
        while image.borrow_and_update().cluster_id().is_none() {
            let seeds = self.probe_seeds().await?;
            let addresses: HashMap<BrokerId, String> = seeds
                .iter()
                .map(|seed| (BrokerId(seed.answer.broker_id), seed.answer.internal_address.clone()))
                .collect();
            metadata.registry.set_peers(&addresses);
            let first = seeds.iter().map(|seed| seed.answer.broker_id).min() == Some(self.local.broker.get());
            if first && seeds.len() == self.local.seeds.len() && bound.incarnation == FIRST_INCARNATION {
                self.form(metadata, &bound, &seeds).await;
            }
            let _ = tokio::time::timeout(ROUND, image.changed()).await;
        }
        failpoint::reached("bootstrap.completed");
        Ok(())
    }

    /// Every step may be done again after a crash.
    async fn form(&self, metadata: &Metadata, bound: &Bound, seeds: &[Seed]) {
        let brokers: BTreeMap<BrokerId, SeedBroker> = seeds
            .iter()
            .map(|seed| (BrokerId(seed.answer.broker_id), seed_broker(&seed.answer)))
            .collect();
        for seed in seeds
            .iter()
            .filter(|seed| seed.answer.broker_id != self.local.broker.get())
        {
            let members = seeds.iter().map(|seed| member_of(&seed.answer)).collect();
            let request = AdoptRequest {
                cluster_id: bound.cluster_id.clone(),
                broker_id: self.local.broker.get(),
                members,
            };
            let adopt = async { Ok::<_, Status>(connect(&seed.address).await?.adopt(request).await?.into_inner()) };
            match tokio::time::timeout(PROBE_TIMEOUT, adopt).await {
                Ok(Ok(response)) if response.cluster_id == bound.cluster_id => {
                    failpoint::reached("bootstrap.one-adopted");
                }
                other => {
                    tracing::warn!(seed = %seed.address, ?other, "has not adopted the new cluster yet");
                    return;
                }
            }
        }
        failpoint::reached("bootstrap.all-adopted");
        let voters: BTreeSet<ReplicaId> = brokers
            .keys()
            .take(metadata_voter_count(brokers.len()))
            .map(|&broker| ReplicaId {
                broker,
                incarnation: FIRST_INCARNATION,
            })
            .collect();
        if let Err(error) = metadata.group.initialize(&voters).await {
            tracing::warn!(%error, "the metadata group could not be formed yet");
            return;
        }
        failpoint::reached("bootstrap.initialized");
        let command = Command::FormCluster {
            cluster_id: bound.cluster_id.clone(),
            brokers: brokers.into_values().collect(),
        };
        match metadata.propose(&command).await {
            Ok(_) => {
                failpoint::reached("bootstrap.formed");
                tracing::info!(cluster = %bound.cluster_id, "the cluster is formed");
            }
            Err(error) => tracing::warn!(%error, "the cluster is not formed yet"),
        }
    }

    /// Tells the cluster that this broker is back, with its addresses as they are now. Refused for a broker that was
    /// replaced meanwhile.
    pub async fn register(&self, metadata: &Metadata) -> Result<(), BootstrapError> {
        tokio::select! {
            registered = self.propose_registration(metadata) => registered,
            error = self.keep_finding_peers(metadata) => Err(error),
        }
    }

    /// Keeps the transport's addresses as good as can be while the metadata's leader is not reached: those of the
    /// image as it was saved, and over them what the seeds say of themselves now. Ends only with an error.
    async fn keep_finding_peers(&self, metadata: &Metadata) -> BootstrapError {
        metadata.registry.set_peers(&addresses(metadata));
        loop {
            let seeds = match self.probe_seeds().await {
                Ok(seeds) => seeds,
                Err(error) => return error,
            };
            let mut found = addresses(metadata);
            found.extend(
                seeds
                    .into_iter()
                    .map(|seed| (BrokerId(seed.answer.broker_id), seed.answer.internal_address)),
            );
            metadata.registry.set_peers(&found);
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn propose_registration(&self, metadata: &Metadata) -> Result<(), BootstrapError> {
        let member = self.member();
        loop {
            match metadata.propose(&registration(&member)).await {
                Ok(_) => {
                    failpoint::reached("bootstrap.registered");
                    return Ok(());
                }
                Err(error) if error.definite && error.retry_delay.is_none() => {
                    return Err(BootstrapError::Refused(error.message));
                }
                Err(error) => tracing::info!(%error, "waiting for the cluster's metadata"),
            }
        }
    }
}

/// Lets a broker in, or says why not. Called at any broker of the cluster.
pub(crate) async fn admit(
    metadata: &Metadata,
    request: JoinRequest,
) -> Result<jangada_proto::internal::JoinResponse, Status> {
    check_protocol(request.protocol_min, request.protocol_max)?;
    let cluster_id = metadata.registry.identity().cluster_id.clone();
    if !request.cluster_id.is_empty() && request.cluster_id != cluster_id {
        return Err(Status::failed_precondition(format!(
            "WRONG_CLUSTER: this is cluster {cluster_id}, the caller belongs to {}",
            request.cluster_id
        )));
    }
    let member = request
        .member
        .ok_or_else(|| Status::invalid_argument("the member is missing"))?;
    match metadata.propose(&registration(&member)).await {
        Ok((Reply::BrokerRegistered { incarnation, .. }, _)) => {
            failpoint::reached("bootstrap.admitted");
            let image = metadata.image();
            let members = image.brokers().map(|broker| Member {
                broker_id: broker.id.get(),
                incarnation: broker.incarnation.get(),
                internal_address: broker.internal_address.clone(),
                address: broker.address.clone(),
                rack: broker.rack.clone(),
                directory_id: broker.directory.as_bytes().to_vec().into(),
                feature_level: broker.feature_level,
            });
            Ok(jangada_proto::internal::JoinResponse {
                cluster_id,
                incarnation: incarnation.get(),
                members: members.collect(),
            })
        }
        Ok((other, _)) => Err(Status::internal(format!("not the reply to a registration: {other:?}"))),
        Err(error) if error.definite && error.retry_delay.is_none() => Err(Status::failed_precondition(error.message)),
        Err(error) => Err(Status::unavailable(error.message)),
    }
}

fn registration(member: &Member) -> Command {
    Command::RegisterBroker(jangada_controller::BrokerRegistration {
        broker: BrokerId(member.broker_id),
        incarnation: Incarnation(member.incarnation),
        directory: DirectoryId::from_slice(&member.directory_id).unwrap_or_default(),
        address: member.address.clone(),
        internal_address: member.internal_address.clone(),
        rack: member.rack.clone(),
        feature_level: member.feature_level,
    })
}

fn bound_to(directory: &DataDirectory) -> Option<Bound> {
    directory.cluster_id().map(|id| Bound {
        cluster_id: id.to_owned(),
        incarnation: directory.incarnation(),
    })
}

fn seed_broker(answer: &ProbeResponse) -> SeedBroker {
    SeedBroker {
        broker: BrokerId(answer.broker_id),
        directory: DirectoryId::from_slice(&answer.directory_id).unwrap_or_default(),
        address: answer.address.clone(),
        internal_address: answer.internal_address.clone(),
        rack: answer.rack.clone(),
        feature_level: answer.feature_level,
    }
}

fn member_of(answer: &ProbeResponse) -> Member {
    Member {
        broker_id: answer.broker_id,
        incarnation: FIRST_INCARNATION.get(),
        internal_address: answer.internal_address.clone(),
        address: answer.address.clone(),
        rack: answer.rack.clone(),
        directory_id: answer.directory_id.clone(),
        feature_level: answer.feature_level,
    }
}

async fn connect(address: &str) -> Result<InternalServiceClient<Channel>, Status> {
    let endpoint = transport::endpoint(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(InternalServiceClient::new(channel))
}

/// Ids of the brokers as a shared set of addresses for the transport.
pub(crate) fn addresses(metadata: &Metadata) -> HashMap<BrokerId, String> {
    metadata
        .image()
        .brokers()
        .map(|broker| (broker.id, broker.internal_address.clone()))
        .collect()
}
