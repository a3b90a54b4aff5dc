//! The fold: one command, one image, one reply. Total and deterministic: the same commands at the same indexes give
//! the same image on every replica, and no command that can be decoded makes it panic. The proposer's checks are made
//! again, since other commands may have come in between.
//!
//! Each command is judged first and changes the image after, so a rejected one changes nothing but the version.
//!
//! How a command is folded never changes within a feature level. That includes the rules of names and settings in
//! `jangada-types`.

mod brokers;
mod exchanges;
mod producers;
mod queues;
mod replicas;
mod topics;

use std::sync::Arc;

use jangada_routing::Exchange;
use jangada_types::{Reason, Rejection};

use crate::command::Command;
use crate::endpoints::Endpoints;
use crate::image::Image;
use crate::reply::Reply;

impl Image {
    /// Applies the command at `index` of group 0's log. `index` is above that of every command before; it becomes the
    /// version.
    pub fn apply(&mut self, index: u64, command: &Command) -> Reply {
        self.try_apply(index, command).unwrap_or_else(Reply::Rejected)
    }

    fn try_apply(&mut self, index: u64, command: &Command) -> Result<Reply, Rejection> {
        if index <= self.version {
            return Err(Rejection::new(
                Reason::Internal,
                format!(
                    "log index {index} came to a metadata image that is at {} already",
                    self.version
                ),
            ));
        }
        self.version = index;
        if self.cluster_id().is_none() && !matches!(command, Command::FormCluster { .. }) {
            return Err(Rejection::new(
                Reason::NotReady,
                "the cluster is not formed yet: wait until one of its seeds has reached all others",
            ));
        }
        match command {
            Command::FormCluster { cluster_id, brokers } => self.form_cluster(cluster_id, brokers),
            Command::RegisterBroker(registration) => self.register_broker(registration, &Endpoints::default()),
            Command::RegisterEndpoints {
                registration,
                endpoints,
            } => self.register_endpoints(registration, endpoints),
            Command::ReplaceBroker { broker } => self.replace_broker(*broker),
            Command::RemoveBroker { broker } => self.remove_broker(*broker),
            Command::CreateTopic {
                topic_id,
                name,
                config,
                assignments,
            } => self.create_topic(*topic_id, name, config, assignments),
            Command::CreateCoordinator { topic_id, assignments } => self.create_coordinator(*topic_id, assignments),
            Command::AddPartitions {
                topic_id,
                existing,
                assignments,
            } => self.add_partitions(*topic_id, *existing, assignments),
            Command::RaiseFeatureLevel { level } => self.raise_feature_level(*level),
            Command::AlterTopic { topic_id, set, unset } => self.alter_topic(*topic_id, set, unset),
            Command::DeleteTopic { topic_id } => self.delete_topic(*topic_id),
            Command::CreateOwnedQueue {
                queue_id,
                name,
                config,
                assignments,
            } => self.create_owned_queue(*queue_id, name, config, assignments),
            Command::CreateGroupQueue {
                queue_id,
                name,
                topic_id,
                start,
                config,
            } => self.create_group_queue(*queue_id, name, *topic_id, *start, config),
            Command::AlterQueue { queue_id, set, unset } => self.alter_queue(*queue_id, set, unset),
            Command::DeleteQueue { queue_id } => self.delete_queue(*queue_id),
            Command::ExpireQueue { queue_id, expires_ms } => self.expire_queue(*queue_id, *expires_ms),
            Command::CreateExchange {
                exchange_id,
                name,
                exchange_kind,
                alternate,
                is_internal,
                auto_delete,
            } => self.create_exchange(Exchange {
                id: *exchange_id,
                name: name.as_str().into(),
                kind: *exchange_kind,
                alternate: alternate.as_deref().map(Into::into),
                is_internal: *is_internal,
                auto_delete: *auto_delete,
                bindings: Arc::default(),
            }),
            Command::CreateLoggedExchange {
                exchange_id,
                name,
                exchange_kind,
                alternate,
                is_internal,
                config,
                assignments,
            } => {
                let exchange = Exchange {
                    id: *exchange_id,
                    name: name.as_str().into(),
                    kind: *exchange_kind,
                    alternate: alternate.as_deref().map(Into::into),
                    is_internal: *is_internal,
                    auto_delete: false,
                    bindings: Arc::default(),
                };
                self.create_logged_exchange(exchange, config, assignments)
            }
            Command::CreateBoundQueue {
                queue_id,
                name,
                exchange_id,
                config,
            } => self.create_bound_queue(*queue_id, name, *exchange_id, config),
            Command::DeleteExchange { exchange_id, if_unused } => self.delete_exchange(*exchange_id, *if_unused),
            Command::Bind { exchange_id, bindings } => self.bind(*exchange_id, bindings),
            Command::Unbind { exchange_id, bindings } => self.unbind(*exchange_id, bindings),
            Command::ReplicaDeleted { replica, groups } => Ok(self.replica_deleted(*replica, groups)),
            Command::SetReplicas { group, replicas } => self.set_replicas(*group, replicas),
            Command::RenewReplica {
                group,
                replica,
                checked,
            } => self.renew_replica(*group, *replica, checked),
            Command::AllocateProducerIds { count } => self.allocate_producer_ids(*count),
            Command::BumpProducerEpoch { producer_id, epoch } => self.bump_producer_epoch(*producer_id, *epoch),
        }
    }
}
