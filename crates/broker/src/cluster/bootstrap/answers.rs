//! What this broker answers to others that look for a cluster, form one, or join its own.

use jangada_controller::{Command, Reply};
use jangada_proto::internal::{AdoptRequest, JoinRequest, JoinResponse, ProbeRequest, ProbeResponse};
use jangada_replication::{Cause, PROTOCOL_MAX, PROTOCOL_MIN, check_protocol};
use tonic::Status;

use super::member::{member_of, registration_of};
use super::state::{Bootstrap, FIRST_INCARNATION};
use crate::cluster::failpoint;
use crate::cluster::metadata::Metadata;

/// Bytes of a cluster's id.
const CLUSTER_ID_BYTES_MAX: usize = 64;
/// Bytes of what a joining broker says of itself, each; the metadata's own bounds are less.
const FIELD_BYTES_MAX: usize = 1024;

impl Bootstrap {
    /// Answers what this broker is.
    pub fn answer_probe(&self, request: &ProbeRequest) -> Result<ProbeResponse, Status> {
        check_protocol(request.protocol_min, request.protocol_max)?;
        let me = member_of(&self.registration());
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
            feature_level: me.feature_level,
        })
    }

    /// Adopts the cluster that the seed with the lowest id forms; answers with the cluster that this broker belongs
    /// to afterwards.
    pub fn adopt(&self, request: &AdoptRequest) -> Result<String, Status> {
        if request.broker_id == 0 || request.broker_id >= self.local.broker.get() {
            return Err(Status::failed_precondition(format!(
                "broker {} does not have the lowest id: broker {} has a lower one",
                request.broker_id, self.local.broker
            )));
        }
        let id = &request.cluster_id;
        if id.is_empty() || id.len() > CLUSTER_ID_BYTES_MAX || !id.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Status::invalid_argument("the cluster's id is none"));
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
}

/// Lets a broker in, or says why not. Called at any broker of the cluster.
pub(crate) async fn admit(metadata: &Metadata, request: JoinRequest) -> Result<JoinResponse, Status> {
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
    // What the metadata would refuse for its size does not even get into its log.
    let fields = [&member.address, &member.internal_address, &member.rack];
    if fields.iter().any(|field| field.len() > FIELD_BYTES_MAX) {
        metadata.registry.rejections().count(Cause::Malformed);
        return Err(Status::invalid_argument(format!(
            "a field of more than {FIELD_BYTES_MAX} bytes"
        )));
    }
    match metadata
        .propose(&Command::RegisterBroker(registration_of(&member)))
        .await
    {
        Ok((Reply::BrokerRegistered { incarnation, .. }, _)) => {
            failpoint::reached("bootstrap.admitted");
            let image = metadata.image();
            let members = image.brokers().map(|broker| member_of(broker)).collect();
            Ok(JoinResponse {
                cluster_id,
                incarnation: incarnation.get(),
                members,
            })
        }
        Ok((other, _)) => Err(Status::internal(format!("not the reply to a registration: {other:?}"))),
        Err(error) if error.definite && error.retry_delay.is_none() => Err(Status::failed_precondition(error.message)),
        Err(error) => Err(Status::unavailable(error.message)),
    }
}
