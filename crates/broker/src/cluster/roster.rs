//! Who belongs to the cluster, for the internal listener: as the metadata says, and where that is behind, as other brokers
//! say.
//!
//! A broker that was away may be called by one that joined meanwhile, and may need it to catch up: the newcomer may lead the
//! metadata. So a stranger that calls is asked after at those that are known, and let in when one of them knows it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::Image;
use jangada_proto::v1::GetMetadataRequest;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_replication::{Roster, Standing};
use jangada_types::{BrokerId, GroupId, Incarnation};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tonic::transport::Endpoint;

/// Strangers that are asked after at once; who calls beyond is refused until there is room.
const STRANGERS_MAX: usize = 64;
/// One broker's answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// See the module text.
pub(crate) struct ImageRoster {
    image: watch::Receiver<Arc<Image>>,
    callers: Mutex<Callers>,
    called: Notify,
}

/// Brokers that the image here does not have.
#[derive(Default)]
struct Callers {
    unknown: BTreeSet<BrokerId>,
    /// Another broker's image has them.
    introduced: BTreeSet<BrokerId>,
}

impl ImageRoster {
    /// Spawns the task that asks after strangers; it ends when the image is gone.
    pub fn new(image: watch::Receiver<Arc<Image>>) -> Arc<Self> {
        let roster = Arc::new(Self {
            image,
            callers: Mutex::default(),
            called: Notify::new(),
        });
        tokio::spawn(roster.clone().ask_after_strangers());
        roster
    }

    async fn ask_after_strangers(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.called.notified() => {}
                () = image_is_gone(self.image.clone()) => return,
            }
            let image = self.image.borrow().clone();
            let asked = image.brokers().map(|broker| known_by(broker.address.clone()));
            let answers = futures::future::join_all(asked).await;
            let known: BTreeSet<BrokerId> = answers.into_iter().flatten().collect();
            {
                let mut callers = self.callers.lock();
                let met: Vec<BrokerId> = callers.unknown.intersection(&known).copied().collect();
                for broker in &met {
                    tracing::info!(%broker, "other brokers know this caller");
                }
                callers.introduced.extend(met);
                callers.unknown.clear();
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn is_introduced(&self, image: &Image, broker: BrokerId) -> bool {
        self.callers.lock().introduced.contains(&broker) && !image.was_removed(broker)
    }
}

async fn image_is_gone(mut image: watch::Receiver<Arc<Image>>) {
    while image.changed().await.is_ok() {}
}

/// The brokers that the one at this address knows of; none if it does not answer.
async fn known_by(address: String) -> Vec<BrokerId> {
    let asked = async {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .ok()?
            .connect()
            .await
            .ok()?;
        let mut client = MetadataServiceClient::new(channel);
        let metadata = client
            .get_metadata(GetMetadataRequest::default())
            .await
            .ok()?
            .into_inner();
        Some(
            metadata
                .brokers
                .into_iter()
                .map(|broker| BrokerId(broker.broker_id))
                .collect(),
        )
    };
    let answer = tokio::time::timeout(ASK_TIMEOUT, asked).await;
    answer.ok().flatten().unwrap_or_default()
}

impl Roster for ImageRoster {
    fn standing(&self, broker: BrokerId, incarnation: Incarnation) -> Standing {
        let image = self.image.borrow().clone();
        if image.cluster_id().is_none() {
            return Standing::Member;
        }
        match image.broker(broker) {
            // A higher one is news that has not come here yet.
            Some(known) if incarnation >= known.incarnation => Standing::Member,
            Some(known) => Standing::Stranger(format!(
                "broker {broker} comes as incarnation {incarnation}, which was given up when it was replaced: it is {} now",
                known.incarnation
            )),
            None if image.was_removed(broker) => Standing::Removed(format!(
                "broker {broker} was taken out of the cluster: stop it; it may join anew with an empty data directory"
            )),
            None if self.is_introduced(&image, broker) => Standing::Member,
            None => {
                let mut callers = self.callers.lock();
                if callers.unknown.len() < STRANGERS_MAX {
                    callers.unknown.insert(broker);
                    self.called.notify_one();
                }
                Standing::Stranger(format!(
                    "this cluster has no broker {broker} that is known here: it has to join first"
                ))
            }
        }
    }

    fn is_known(&self, broker: BrokerId) -> bool {
        let image = self.image.borrow();
        image.cluster_id().is_none() || image.broker(broker).is_some() || self.is_introduced(&image, broker)
    }

    fn has_part(&self, group: GroupId, broker: BrokerId) -> bool {
        let image = self.image.borrow();
        let Some(partition) = image.partition_of_group(group) else {
            // The metadata group, or one that is new or gone: whether it is here is asked elsewhere.
            return true;
        };
        let mut replicas = partition.replicas.iter().chain(&partition.leaving);
        replicas.any(|replica| replica.broker == broker)
    }

    fn newest_group(&self) -> GroupId {
        self.image.borrow().newest_group()
    }
}
