//! The admin service, as far as the tests use it.

use std::collections::BTreeMap;

use jangada_proto::v1;
use jangada_types::Reason;
use tonic::{Request, Response, Status};

use super::{Broker, Error, Partition, State};

impl Broker {
    /// Does the work unless the test's script says otherwise.
    fn admin<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<Response<T>, Status> {
        let mut state = self.shared.lock();
        state.admin_calls += 1;
        match state.admin_faults.pop_front() {
            Some((false, status)) => Err(status),
            Some((true, status)) => {
                drop(work(&mut state));
                Err(status)
            }
            None => work(&mut state).map(Response::new).map_err(|error| error.status()),
        }
    }

    /// Returns when topics have leaders.
    async fn leaders(&self) {
        let mut changes = self.shared.changes.subscribe();
        if self.shared.lock().leaderless {
            self.shared.lock().awaiting_leaders += 1;
        }
        while self.shared.lock().leaderless {
            changes.changed().await.expect("the cluster lives");
        }
    }
}

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for Broker {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let created = self.admin(|state| {
            let exists = state.topics.contains_key(&request.name);
            if exists && !request.if_not_exists {
                return Err(Error::definite(Reason::TopicExists));
            }
            if !exists {
                let config: BTreeMap<_, _> = request.config.into_iter().collect();
                let partitions = (0..request.partitions).map(|_| Partition::new(1)).collect();
                state.create(&request.name, partitions, request.replicas, config);
            }
            let topic_id = state.topics[&request.name].id.as_bytes().to_vec().into();
            Ok(v1::CreateTopicResponse {
                topic_id,
                created: !exists,
                version: state.version,
                ..v1::CreateTopicResponse::default()
            })
        })?;
        self.leaders().await;
        Ok(created)
    }

    async fn list_topics(&self, _: Request<v1::ListTopicsRequest>) -> Result<Response<v1::ListTopicsResponse>, Status> {
        self.admin(|state| {
            let topics = state.topics.iter().map(|(name, topic)| v1::TopicSummary {
                name: name.clone(),
                topic_id: topic.id.as_bytes().to_vec().into(),
                partitions: topic.partitions.len() as u32,
                replicas: topic.replicas,
            });
            Ok(v1::ListTopicsResponse {
                topics: topics.collect(),
            })
        })
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let name = request.into_inner().name;
        self.admin(|state| {
            let topic = state.topics.get(&name).ok_or(Error::definite(Reason::UnknownTopic))?;
            let topic_id: bytes::Bytes = topic.id.as_bytes().to_vec().into();
            let config = topic.config.iter().map(|(key, value)| v1::ConfigEntry {
                key: key.clone(),
                value: value.clone(),
                is_set: true,
                ..v1::ConfigEntry::default()
            });
            let partitions = (0..)
                .zip(&topic.partitions)
                .map(|(index, partition)| v1::PartitionState {
                    topic: name.clone(),
                    topic_id: topic_id.clone(),
                    partition: index,
                    leader_id: partition.leader,
                    high_watermark: -1,
                    ..v1::PartitionState::default()
                });
            Ok(v1::DescribeTopicResponse {
                name: name.clone(),
                replicas: topic.replicas,
                config: config.collect(),
                partitions: partitions.collect(),
                topic_id: topic_id.clone(),
            })
        })
    }

    async fn alter_topic(&self, _: Request<v1::AlterTopicRequest>) -> Result<Response<v1::AlterTopicResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let v1::CreatePartitionsRequest { name, total, topic_id } = request.into_inner();
        self.admin(|state| {
            let name = state.named(&topic_id, name)?;
            let topic = state.topics.get_mut(&name).expect("named");
            topic.partitions.resize_with(total as usize, || Partition::new(1));
            state.version += 1;
            Ok(v1::CreatePartitionsResponse { version: state.version })
        })
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let v1::DeleteTopicRequest { name, topic_id } = request.into_inner();
        self.admin(|state| {
            let name = state.named(&topic_id, name)?;
            state.topics.remove(&name).expect("named");
            state.version += 1;
            let version = state.version;
            if std::mem::take(&mut state.recreates) {
                state.create(&name, vec![Partition::new(1)], 1, BTreeMap::new());
            }
            Ok(v1::DeleteTopicResponse { version })
        })
    }

    async fn trim_partition(
        &self,
        _: Request<v1::TrimPartitionRequest>,
    ) -> Result<Response<v1::TrimPartitionResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        self.admin(|state| {
            let version = state.version;
            Ok(v1::DescribeClusterResponse {
                version,
                controller_id: 0,
                ..v1::DescribeClusterResponse::default()
            })
        })
    }

    async fn describe_partitions(
        &self,
        _: Request<v1::DescribePartitionsRequest>,
    ) -> Result<Response<v1::DescribePartitionsResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn remove_broker(
        &self,
        _: Request<v1::RemoveBrokerRequest>,
    ) -> Result<Response<v1::RemoveBrokerResponse>, Status> {
        self.admin(|_| Ok(v1::RemoveBrokerResponse { version: 9 }))
    }

    async fn replace_broker(
        &self,
        _: Request<v1::ReplaceBrokerRequest>,
    ) -> Result<Response<v1::ReplaceBrokerResponse>, Status> {
        self.admin(|_| Ok(v1::ReplaceBrokerResponse { incarnation: 2 }))
    }
}
