//! Gets the producer's id and epochs. One request is under way at a time; lanes that need its outcome wait for it
//! together.

use futures::FutureExt as _;
use jangada_proto::v1;
use jangada_types::{ProducerEpoch, ProducerId, Reason};

use super::super::identity::Identity;
use super::{Driver, FinishedJob};
use crate::cluster::{Cluster, Repeat};
use crate::error::ClientError;
use crate::wire_error::{Disposition, Failure};

impl Driver {
    pub(super) fn await_identity(&mut self, id: u64, stale: Option<Identity>) {
        let under_way = !self.awaiting_identity.is_empty();
        if !self.awaiting_identity.contains(&id) {
            self.awaiting_identity.push(id);
        }
        if !under_way {
            let cluster = self.shared.cluster.clone();
            self.jobs
                .push(async move { FinishedJob::Identified(identify(&cluster, stale).await) }.boxed());
        }
    }

    pub(super) fn on_identified(&mut self, identified: Result<(ProducerId, ProducerEpoch), Failure>) {
        let waiting = std::mem::take(&mut self.awaiting_identity);
        match identified {
            Ok((id, epoch)) => {
                let generation = self.identity.map_or(0, |before| before.generation + 1);
                tracing::debug!(producer_id = %id, epoch = %epoch, "the producer has an identity");
                self.identity = Some(Identity { generation, id, epoch });
            }
            Err(failure) if failure.disposition() == Disposition::Refuse => {
                return self.fail(&ClientError::Refused(failure.rejection("get a producer id")), |_| None);
            }
            // The lanes are pumped below and ask again; meanwhile the delivery timeout runs.
            Err(failure) => {
                for id in &waiting {
                    if let Some(state) = self.lanes.get_mut(id) {
                        state.last_failure = Some(failure.clone());
                    }
                }
            }
        }
        for id in waiting {
            self.pump(id);
        }
    }
}

/// A producer id with an epoch: the next epoch of a stale one, or a new id.
///
/// When an answer with the next epoch got lost, the broker may refuse to give another one; then a new id has to do, which cannot
/// fence what is still under way.
async fn identify(cluster: &Cluster, stale: Option<Identity>) -> Result<(ProducerId, ProducerEpoch), Failure> {
    let bump = stale.filter(|stale| stale.epoch.get() < i16::MAX);
    let ask = |request: v1::InitProducerRequest| async move {
        let call = cluster.call_any("get a producer id", Repeat::Hedged, |channel| {
            let mut service = v1::log_service_client::LogServiceClient::new(channel);
            async move { service.init_producer(request).await }
        });
        call.await.map_err(|failed| failed.failure)
    };
    let next = v1::InitProducerRequest {
        producer_id: bump.map(|stale| stale.id.get()),
        producer_epoch: bump.map(|stale| stale.epoch.get().into()),
    };
    let answer = match ask(next).await {
        Err(failure) if bump.is_some() && failure.disposition() == Disposition::Refuse => {
            tracing::warn!(
                error = failure.message,
                "no next epoch; going on under a new producer id"
            );
            ask(v1::InitProducerRequest::default()).await?
        }
        answer => answer?,
    };
    let epoch = i16::try_from(answer.producer_epoch).ok().filter(|epoch| *epoch >= 0);
    match epoch {
        Some(epoch) if answer.producer_id >= 0 => Ok((ProducerId(answer.producer_id), ProducerEpoch(epoch))),
        _ => {
            let message = format!(
                "producer id {} with epoch {}",
                answer.producer_id, answer.producer_epoch
            );
            let mut failure = Failure::local(tonic::Code::InvalidArgument, message, true);
            failure.reason = Some(Reason::InvalidRequest);
            Err(failure)
        }
    }
}
