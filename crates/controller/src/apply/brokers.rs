//! Forming the cluster; brokers that join, come back, and are replaced.
//!
//! ```text
//!                 registers, empty             ReplaceBroker              registers, empty
//!   unknown ----------------------> 1, current -------------> 1, given up -----------------> 2, current
//!                                    |  registers with 1: new addresses     registers with 1: rejected
//!                                    |  registers, empty: rejected
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_types::planted::{self, Bug};
use jangada_types::{BrokerId, Incarnation, Reason, Rejection, ReplicaId};

use crate::command::CommandKind;
use crate::endpoints::Endpoints;
use crate::image::{Broker, Image, RemovedBroker, Tombstone};
use crate::registration::{BrokerRegistration, SeedBroker};
use crate::reply::Reply;
use crate::rules;

const FIRST: Incarnation = Incarnation(1);

impl Image {
    pub(super) fn form_cluster(&mut self, cluster_id: &str, seeds: &[SeedBroker]) -> Result<Reply, Rejection> {
        let formed = Reply::ClusterFormed {
            cluster_id: cluster_id.to_owned(),
        };
        match self.cluster_id() {
            Some(existing) if existing == cluster_id => return Ok(formed),
            Some(existing) => {
                return Err(refused(format!("the cluster was formed already, as {existing}"))
                    .with("expected", existing)
                    .with("actual", cluster_id));
            }
            None => {}
        }
        rules::cluster_id(cluster_id)?;
        let Some(feature_level) = seeds.iter().map(|seed| seed.feature_level).min() else {
            return Err(refused("a cluster needs at least one seed"));
        };
        let mut brokers = BTreeMap::new();
        for seed in seeds {
            rules::registration(seed)?;
            let broker = Broker {
                registration: BrokerRegistration {
                    incarnation: FIRST,
                    ..(**seed).clone()
                },
                endpoints: Endpoints::default(),
                expected_incarnation: None,
                last_incarnation: FIRST,
            };
            if brokers.insert(seed.id, broker).is_some() {
                return Err(refused(format!(
                    "broker {} is twice among the seeds: give each broker an id of its own",
                    seed.id
                )));
            }
        }
        self.cluster_id = Arc::from(cluster_id);
        self.feature_level = feature_level;
        self.brokers = Arc::new(brokers);
        Ok(formed)
    }

    pub(super) fn raise_feature_level(&mut self, level: u32) -> Result<Reply, Rejection> {
        rules::all_have_level(self, level)?;
        self.feature_level = self.feature_level.max(level);
        Ok(Reply::FeatureLevelRaised {
            level: self.feature_level,
        })
    }

    /// Accepted only at the feature level of this command, which is no lower than that of any broker.
    pub(super) fn register_endpoints(
        &mut self,
        registration: &BrokerRegistration,
        endpoints: &Endpoints,
    ) -> Result<Reply, Rejection> {
        rules::cluster_has_level(self, CommandKind::RegisterEndpoints.since())?;
        rules::endpoints(registration.id, endpoints)?;
        self.register_broker(registration, endpoints)
    }

    pub(super) fn register_broker(
        &mut self,
        registration: &BrokerRegistration,
        endpoints: &Endpoints,
    ) -> Result<Reply, Rejection> {
        rules::registration(registration)?;
        let id = registration.id;
        if registration.feature_level < self.feature_level {
            return Err(refused(format!(
                "broker {id} has feature level {}, the cluster is at {}: upgrade the broker",
                registration.feature_level, self.feature_level
            ))
            .with("expected", self.feature_level)
            .with("actual", registration.feature_level));
        }
        let incarnation = self.judge_incarnation(registration)?;
        let previous = self.broker(id).cloned();
        let last_incarnation = match &previous {
            Some(previous) if previous.incarnation == incarnation => previous.last_incarnation,
            _ => incarnation,
        };
        let broker = Broker {
            registration: BrokerRegistration {
                incarnation,
                ..registration.clone()
            },
            endpoints: endpoints.clone(),
            expected_incarnation: None,
            last_incarnation,
        };
        let current = broker.replica();
        Arc::make_mut(&mut self.brokers).insert(id, broker);
        if self.was_removed(id) {
            Arc::make_mut(&mut self.removed).remove(&id);
        }
        if previous.is_some_and(|previous| previous.incarnation != incarnation) {
            self.hand_over(current);
        }
        Ok(Reply::BrokerRegistered {
            broker: id,
            incarnation,
        })
    }

    /// The incarnation that the broker has from this registration on.
    fn judge_incarnation(&self, registration: &BrokerRegistration) -> Result<Incarnation, Rejection> {
        let id = registration.id;
        let claimed = registration.incarnation;
        let is_empty = claimed.get() == 0;
        let Some(known) = self.broker(id) else {
            if let Some(removed) = self.removed.get(&id) {
                return judge_return(registration, removed);
            }
            if is_empty {
                return Ok(FIRST);
            }
            return Err(Rejection::new(
                Reason::UnknownBroker,
                format!(
                    "broker {id} has data of incarnation {claimed}, and this cluster knows no broker {id}: its data directory is of \
                     another cluster; give it the right directory, or an empty one"
                ),
            ));
        };
        let refuse = |what: String| {
            Err(refused(what)
                .with("expected", known.expected_incarnation.unwrap_or(known.last_incarnation))
                .with("actual", claimed))
        };
        match known.expected_incarnation {
            Some(expected) if is_empty => Ok(expected),
            Some(expected) => refuse(format!(
                "broker {id} was replaced: its replicas of incarnation {claimed} are given up; start it with an empty data \
                 directory to come back as incarnation {expected}"
            )),
            // The answer to its first registration was lost: nothing was written under the incarnation yet.
            None if is_empty && registration.directory == known.directory => Ok(known.incarnation),
            None if is_empty => refuse(format!(
                "broker {id} is known with incarnation {}, and its data directory is empty: restore the directory, or, if its data is \
                 lost, give up its replicas with `jangada cluster replace-broker {id}` and start it again",
                known.incarnation
            )),
            None if claimed == known.incarnation && registration.directory == known.directory => Ok(claimed),
            None if claimed == known.incarnation => refuse(format!(
                "broker {id} has data directory {}, and incarnation {claimed} is in {}: another process runs under its id, or it \
                 was given a wrong directory",
                registration.directory, known.directory
            )),
            None if claimed < known.incarnation => refuse(format!(
                "broker {id} has data of incarnation {claimed}, which was given up when it was replaced; it is {} now: start it \
                 with the directory of that one",
                known.incarnation
            )),
            None => refuse(format!(
                "broker {id} has data of incarnation {claimed}, and this cluster knows it as {}: its data directory is of another \
                 cluster; give it the right one",
                known.incarnation
            )),
        }
    }

    /// Hands the replicas of a broker that came back empty over to its new incarnation: the partitions have that in
    /// place of the ids that its replicas had. The deletions that those owed are gone with its disk.
    fn hand_over(&mut self, current: ReplicaId) {
        let is_previous = |replica: &ReplicaId| replica.broker == current.broker && *replica != current;
        let names = |list: &[ReplicaId]| list.iter().any(is_previous);
        let affected: Vec<_> = self
            .topics()
            .filter(|topic| topic.partitions.iter().any(|p| names(&p.replicas) || names(&p.leaving)))
            .map(|topic| topic.id)
            .collect();
        for id in affected {
            let topic = Arc::make_mut(&mut self.topics)
                .get_mut(&id)
                .expect("the id was read from the map");
            for partition in &mut Arc::make_mut(topic).partitions {
                if names(&partition.replicas) {
                    let of_now = |replica: &ReplicaId| if is_previous(replica) { current } else { *replica };
                    partition.reassign(partition.replicas.iter().map(of_now).collect());
                }
                partition.leaving.retain(|replica| !is_previous(replica));
            }
        }
        if self.tombstones_of(current.broker).next().is_some() {
            Arc::make_mut(&mut self.tombstones).retain(|_, tombstone| {
                let owing = Arc::clone(&tombstone.replicas);
                for previous in owing.iter().copied().filter(is_previous) {
                    *tombstone = tombstone.without(previous);
                }
                !tombstone.replicas.is_empty()
            });
        }
    }

    pub(super) fn remove_broker(&mut self, id: BrokerId) -> Result<Reply, Rejection> {
        let version = self.version;
        if self.was_removed(id) {
            return Ok(Reply::BrokerRemoved { version });
        }
        rules::may_remove(self, id)?;
        let known = rules::broker(self, id)?;
        let removed = RemovedBroker {
            incarnation: known.expected_incarnation.unwrap_or(known.incarnation),
            directory: known.directory,
        };
        self.feature_level = self.feature_level.max(CommandKind::RemoveBroker.since());
        Arc::make_mut(&mut self.brokers).remove(&id);
        Arc::make_mut(&mut self.removed).insert(id, removed);
        Ok(Reply::BrokerRemoved { version })
    }

    pub(super) fn replace_broker(&mut self, id: BrokerId) -> Result<Reply, Rejection> {
        let known = rules::broker(self, id)?;
        let incarnation = match known.expected_incarnation {
            Some(expected) => expected,
            None => {
                let next = match planted::is(Bug::EmptyBrokerIsTheOldOne) {
                    true => known.incarnation,
                    false => rules::next_incarnation(known)?,
                };
                let brokers = Arc::make_mut(&mut self.brokers);
                let broker = brokers.get_mut(&id).expect("the broker was found above");
                broker.expected_incarnation = Some(next);
                next
            }
        };
        Ok(Reply::BrokerReplaced {
            broker: id,
            incarnation,
        })
    }
}

/// The incarnation of a broker that comes back after it was taken out.
fn judge_return(registration: &BrokerRegistration, removed: &RemovedBroker) -> Result<Incarnation, Rejection> {
    let id = registration.id;
    if registration.incarnation.get() != 0 || registration.directory == removed.directory {
        return Err(refused(format!(
            "broker {id} was taken out of the cluster: it may join anew with an empty data directory"
        )));
    }
    let next = removed.incarnation.get().checked_add(1).map(Incarnation);
    next.ok_or_else(|| {
        refused(format!(
            "broker {id} has used up its incarnations: give the machine another broker id"
        ))
    })
}

fn refused(message: impl Into<String>) -> Rejection {
    Rejection::new(Reason::InvalidRequest, message)
}

impl Tombstone {
    /// The tombstone without one of the replicas.
    pub(super) fn without(&self, replica: ReplicaId) -> Self {
        Self {
            replicas: self
                .replicas
                .iter()
                .copied()
                .filter(|owing| *owing != replica)
                .collect(),
        }
    }
}
