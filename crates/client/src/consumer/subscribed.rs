//! Topics that are read as a whole: which partitions were added to them.
//!
//! The metadata tells. A consumer may have no other need to refresh it, so a task does when it is older than
//! `metadata_max_age`.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::metadata::{Image, TopicMetadata};
use crate::notice::Notice;

pub(super) struct Subscribed {
    cluster: Arc<Cluster>,
    topics: Vec<Followed>,
    image: watch::Receiver<Arc<Image>>,
    refreshes: JoinHandle<()>,
}

/// A topic, and how many of its partitions are read.
pub(super) struct Followed {
    pub topic: Arc<TopicMetadata>,
    pub partitions: u32,
}

impl Subscribed {
    /// Must be called within a tokio runtime.
    pub fn new(cluster: &Arc<Cluster>, topics: Vec<Followed>) -> Self {
        let mut image = cluster.metadata.subscribe();
        // The metadata may have changed since the topics were looked up.
        image.mark_changed();
        Self {
            cluster: cluster.clone(),
            topics,
            image,
            refreshes: tokio::spawn(refresh(cluster.clone())),
        }
    }

    /// Partitions that were added since the last call.
    pub fn added(&mut self) -> Vec<(Arc<TopicMetadata>, Range<u32>)> {
        let mut added = Vec::new();
        if !self.image.has_changed().unwrap_or(false) {
            return added;
        }
        let image = self.image.borrow_and_update().clone();
        for known in &mut self.topics {
            // A topic that was deleted and created again is another topic.
            let newest = image.topic(&known.topic.name);
            let Some(newest) = newest.filter(|newest| newest.id == known.topic.id) else {
                continue;
            };
            let partitions = known.partitions..newest.partitions.len() as u32;
            if partitions.is_empty() {
                continue;
            }
            known.partitions = partitions.end;
            self.cluster.notices.publish(&Notice::PartitionsAdded {
                topic: newest.name.clone(),
                partitions: partitions.clone().collect(),
            });
            added.push((newest.clone(), partitions));
        }
        added
    }

    /// Returns when [`added`](Self::added) is worth a call; never without topics.
    pub async fn changed(subscribed: &mut Option<Self>) {
        if let Some(subscribed) = subscribed
            && subscribed.image.changed().await.is_ok()
        {
            // `added` is to see the change, too.
            subscribed.image.mark_changed();
            return;
        }
        std::future::pending().await
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.refreshes.abort();
    }
}

/// Refreshes the metadata whenever it is older than `metadata_max_age`, forever.
async fn refresh(cluster: Arc<Cluster>) {
    let mut seen = cluster.metadata.image().refreshes;
    loop {
        sleep(cluster.config.metadata_max_age).await;
        // When no broker answers, the fetchers report it.
        let _ = cluster.metadata.refresh(seen).await;
        seen = cluster.metadata.image().refreshes;
    }
}
