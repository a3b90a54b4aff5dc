//! Who belongs to the cluster, for the internal listener: as the metadata says, and where that is behind, as other brokers
//! say.
//!
//! A broker that was away may be called by one that joined meanwhile, and may need it to catch up: the newcomer may lead the
//! metadata. So a stranger that calls is asked after at those that are known, and let in when one of them knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_controller::{Broker, Image};
use jangada_proto::internal::ListBrokersRequest;
use jangada_proto::internal::forward_request::Call;
use jangada_proto::internal::forward_response::Answer;
use jangada_replication::{Registry, Roster, Standing};
use jangada_types::{BrokerId, GroupId, Incarnation};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::forward::forward;

/// The largest number of strangers that are asked after at once. A further caller is refused until there is room.
const STRANGERS_MAX: usize = 64;
/// How long one broker may take for its answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The roster by this broker's image, and by what other brokers say of strangers.
pub(crate) struct ImageRoster {
    image: watch::Receiver<Arc<Image>>,
    /// The registry, which has this roster.
    registry: Weak<Registry>,
    callers: Mutex<Callers>,
    called: Notify,
}

/// Brokers that the image here does not have, with the incarnations under which they called.
#[derive(Default)]
struct Callers {
    unknown: BTreeMap<BrokerId, Incarnation>,
    /// Another broker's image has them.
    introduced: BTreeMap<BrokerId, Incarnation>,
}

impl ImageRoster {
    /// Spawns the task that asks after strangers; it ends when the image is gone.
    pub fn new(image: watch::Receiver<Arc<Image>>, registry: Weak<Registry>) -> Arc<Self> {
        let roster = Arc::new(Self {
            image,
            registry,
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
            let Some(registry) = self.registry.upgrade() else {
                return;
            };
            let asked = image.brokers().map(|broker| known_by(&registry, broker));
            let answers = futures::future::join_all(asked).await;
            let known: BTreeSet<BrokerId> = answers.into_iter().flatten().collect();
            {
                let mut callers = self.callers.lock();
                let unknown = std::mem::take(&mut callers.unknown);
                for (broker, incarnation) in unknown.into_iter().filter(|(broker, _)| known.contains(broker)) {
                    tracing::info!(%broker, "other brokers know this caller");
                    callers.introduced.insert(broker, incarnation);
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn is_introduced(&self, image: &Image, broker: BrokerId) -> bool {
        let callers = self.callers.lock();
        let introduced = callers.introduced.get(&broker);
        introduced.is_some_and(|incarnation| !is_gone(image, broker, *incarnation))
    }
}

/// Whether a broker was taken out under this incarnation. A higher one is news that has not come here yet: it joined anew.
fn is_gone(image: &Image, broker: BrokerId, incarnation: Incarnation) -> bool {
    image
        .removed_incarnation(broker)
        .is_some_and(|removed| incarnation <= removed)
}

async fn image_is_gone(mut image: watch::Receiver<Arc<Image>>) {
    while image.changed().await.is_ok() {}
}

/// The brokers that another one knows of; none if it does not answer.
async fn known_by(registry: &Registry, broker: &Broker) -> Vec<BrokerId> {
    let question = Call::ListBrokers(ListBrokersRequest {});
    match forward(registry, broker, None, question, ASK_TIMEOUT).await {
        Ok(Answer::ListBrokers(known)) => known.broker_ids.into_iter().map(BrokerId).collect(),
        _ => Vec::new(),
    }
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
            None if is_gone(&image, broker, incarnation) => Standing::Removed(format!(
                "broker {broker} was taken out of the cluster: stop it; it may join anew with an empty data directory"
            )),
            None if self.is_introduced(&image, broker) => Standing::Member,
            None => {
                let mut callers = self.callers.lock();
                if callers.unknown.len() < STRANGERS_MAX {
                    callers.unknown.insert(broker, incarnation);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster of brokers 1 to 3, of which 2 was taken out.
    fn without_the_second() -> Arc<Image> {
        use jangada_controller::{BrokerRegistration, Command, DirectoryId, Reply, SeedBroker};

        let seed = |id: u32| {
            SeedBroker::from(BrokerRegistration {
                id: BrokerId(id),
                incarnation: Incarnation(0),
                directory: DirectoryId::new([id as u8; 16]),
                address: format!("127.0.0.1:{id}"),
                internal_address: format!("127.0.0.1:1{id}"),
                rack: String::new(),
                feature_level: jangada_types::FEATURE_LEVEL,
            })
        };
        let mut image = Image::new();
        let commands = [
            Command::FormCluster {
                cluster_id: "tests".to_owned(),
                brokers: [1, 2, 3].map(seed).to_vec(),
            },
            Command::RemoveBroker { broker: BrokerId(2) },
        ];
        for (index, command) in (1..).zip(&commands) {
            let reply = image.apply(index, command);
            assert!(!matches!(reply, Reply::Rejected(_)), "{reply:?}");
        }
        Arc::new(image)
    }

    #[tokio::test]
    async fn a_broker_that_joined_anew_is_not_told_that_it_was_taken_out() {
        let image = without_the_second();
        let gone = image.removed_incarnation(BrokerId(2)).expect("it was taken out");
        let (_image, watched) = watch::channel(image);
        let roster = ImageRoster::new(watched, Weak::new());
        let standing = |incarnation| roster.standing(BrokerId(2), incarnation);
        assert!(matches!(standing(gone), Standing::Removed(_)), "{:?}", standing(gone));
        let anew = Incarnation(gone.get() + 1);
        assert!(
            matches!(standing(anew), Standing::Stranger(_)),
            "the metadata here are behind: {:?}",
            standing(anew)
        );
        roster.callers.lock().introduced.insert(BrokerId(2), anew);
        assert!(matches!(standing(anew), Standing::Member));
        assert!(matches!(standing(gone), Standing::Removed(_)));
    }
}
