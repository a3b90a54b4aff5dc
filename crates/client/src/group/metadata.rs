//! A member of a group, as a transaction names it when it commits the group's offsets.

use std::sync::Arc;

use jangada_proto::v1;
use jangada_types::{ProducerEpoch, ProducerId, Reason};
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use super::coordinator::Coordinator;
use super::membership::MembershipView;
use super::position::OffsetCommit;
use crate::error::ClientError;
use crate::wire_error::Failure;

/// How many offsets a request may have.
const OFFSETS_MAX: usize = 10_000;

/// Who commits offsets in a transaction: a group, a member of it, and the member's epoch. A member that lost its partitions since is
/// refused (KIP-447).
#[derive(Clone)]
pub struct GroupMetadata {
    pub(crate) group: Arc<str>,
    member_id: Arc<str>,
    epoch: i64,
    /// The membership, whose epoch moves when other members come and go.
    live: Option<Live>,
}

#[derive(Clone)]
struct Live {
    view: watch::Receiver<MembershipView>,
    /// The number of losses under which the partitions are owned.
    losses: u64,
    /// Notified to send a heartbeat at once.
    heartbeat: Arc<Notify>,
}

impl GroupMetadata {
    /// A member that another client keeps.
    pub fn of_member(group: impl Into<Arc<str>>, member_id: impl Into<Arc<str>>, epoch: i64) -> Self {
        Self {
            group: group.into(),
            member_id: member_id.into(),
            epoch,
            live: None,
        }
    }

    /// A caller that is no member: only while the group has none.
    pub fn outside(group: impl Into<Arc<str>>) -> Self {
        Self::of_member(group, "", 0)
    }

    pub(super) fn of_consumer(
        (group, member_id): (Arc<str>, Arc<str>),
        seen: &MembershipView,
        view: watch::Receiver<MembershipView>,
        heartbeat: Arc<Notify>,
    ) -> Self {
        let live = Live {
            view,
            losses: seen.losses,
            heartbeat,
        };
        Self {
            group,
            member_id,
            epoch: seen.epoch,
            live: Some(live),
        }
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The epoch to commit under now; none when the membership was lost.
    fn epoch_now(&self) -> Option<i64> {
        let Some(live) = &self.live else {
            return Some(self.epoch);
        };
        let view = live.view.borrow();
        (view.losses == live.losses && view.epoch != 0).then_some(view.epoch)
    }
}

impl std::fmt::Debug for GroupMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupMetadata")
            .field("group", &self.group)
            .field("member_id", &self.member_id)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Stages offsets for a transaction, until that succeeds, is refused, or the time is up.
pub(crate) async fn commit_in_transaction(
    coordinator: &Coordinator,
    group: &GroupMetadata,
    (transactional_id, (id, epoch)): (&Arc<str>, (ProducerId, ProducerEpoch)),
    offsets: &[OffsetCommit],
) -> Result<(), ClientError> {
    if let Some(bad) = offsets.iter().find(|commit| commit.offset < 0) {
        let text = format!("offset {} of {}: offsets begin at 0", bad.offset, bad.partition);
        return Err(ClientError::Config(text));
    }
    let transaction = v1::OffsetsTransaction {
        transactional_id: transactional_id.to_string(),
        producer_id: id.get(),
        producer_epoch: epoch.get().into(),
    };
    for offsets in offsets.chunks(OFFSETS_MAX) {
        stage(coordinator, group, &transaction, offsets).await?;
    }
    Ok(())
}

async fn stage(
    coordinator: &Coordinator,
    group: &GroupMetadata,
    transaction: &v1::OffsetsTransaction,
    offsets: &[OffsetCommit],
) -> Result<(), ClientError> {
    let context = format!("commit offsets of group {} in a transaction", group.group);
    let deadline = coordinator.deadline();
    loop {
        let Some(member_epoch) = group.epoch_now() else {
            let failure = Failure::local(
                tonic::Code::FailedPrecondition,
                "the member is no longer in the group",
                true,
            );
            return Err(ClientError::MembershipLost(failure.rejection(&context)));
        };
        let request = v1::CommitOffsetsRequest {
            group: group.group.to_string(),
            member_id: group.member_id.to_string(),
            member_epoch,
            offsets: offsets.iter().map(OffsetCommit::wire).collect(),
            transaction: Some(transaction.clone()),
        };
        let call = coordinator.call(deadline, |mut service| {
            let request = request.clone();
            async move { service.commit_offsets(request).await }
        });
        let failed = match call.await {
            Ok(_) => return Ok(()),
            Err(failed) => failed,
        };
        match (failed.failure.reason, &group.live) {
            // The heartbeat answer with the newer epoch is on its way. What the member still owns it may commit under that one.
            (Some(Reason::StaleMemberEpoch), Some(live)) => {
                live.heartbeat.notify_one();
                let mut view = live.view.clone();
                let newer = view.wait_for(|view| view.epoch != member_epoch || view.losses != live.losses);
                if timeout_at(deadline, newer).await.is_ok_and(|newer| newer.is_ok()) {
                    continue;
                }
                return Err(failed.into_error(&context));
            }
            (
                Some(
                    Reason::UnknownMember
                    | Reason::UnknownGroup
                    | Reason::FencedMemberEpoch
                    | Reason::FencedInstanceId
                    | Reason::StaleMemberEpoch,
                ),
                live,
            ) => {
                if let Some(live) = live {
                    live.heartbeat.notify_one();
                }
                return Err(ClientError::MembershipLost(failed.failure.rejection(&context)));
            }
            (Some(Reason::TransactionTimedOut), _) => {
                return Err(ClientError::TransactionTimedOut(failed.failure.rejection(&context)));
            }
            (Some(Reason::ProducerFenced | Reason::InvalidTransactionState), _) => {
                let cause = Arc::new(ClientError::Refused(failed.failure.rejection(&context)));
                return Err(ClientError::TransactionAborted { cause });
            }
            _ => return Err(failed.into_error(&context)),
        }
    }
}
