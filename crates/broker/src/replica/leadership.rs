//! Why a replica does not answer, in words, for all kinds of groups: who leads instead, what became of a proposal or of
//! a read.
//!
//! Only the leader answers, and only once it is ready.

use std::time::Duration;

use jangada_replication::{ProposeError, ReadError};
use jangada_storage::StoreError;
use jangada_types::{BrokerId, LeaderEpoch, Reason};

use super::hosted::Hosted;
use crate::error::RequestError;

/// After this time a client should look for the leader again.
pub(crate) const LEADER_RETRY: Duration = Duration::from_millis(50);

/// No broker is known that leads the group; `title` says which.
pub(super) fn no_leader_known(title: &str) -> RequestError {
    let message = format!("{title}: no leader is known; an election may be under way");
    RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY)
}

/// Another broker leads the group.
pub(super) fn led_by(title: &str, (leader, term): (BrokerId, u64), here: BrokerId) -> RequestError {
    let message = format!("{title}: broker {leader} leads it, not broker {here}");
    RequestError::new(Reason::NotLeader, message)
        .with("leader_id", leader)
        .with("leader_epoch", term)
        .retry_after(LEADER_RETRY)
}

impl Hosted {
    /// The leader epoch, if this replica leads and is ready.
    pub fn leader_epoch(&self) -> Result<LeaderEpoch, RequestError> {
        let status = self.group.status();
        match status.ready {
            true => Ok(LeaderEpoch::from_term(status.term)),
            false => Err(self.not_leader()),
        }
    }

    /// Why this replica does not answer now.
    pub fn not_leader(&self) -> RequestError {
        let status = self.group.status();
        let is_elected = status.leading && !status.ready && !self.check_quorum.is_lost();
        match status.leader {
            _ if is_elected => self.not_ready(),
            _ if status.leading => self.no_quorum(),
            // It leads no more, as far as it knows, and knows no other leader.
            Some(leader) if leader == self.group.replica() => no_leader_known(&self.title),
            Some(leader) => led_by(&self.title, (leader.broker, status.term), self.group.replica().broker),
            None => no_leader_known(&self.title),
        }
    }

    /// This broker believes that it leads, and no quorum confirms it.
    pub fn no_quorum(&self) -> RequestError {
        let message = format!(
            "{}: no quorum answers this broker; another one may lead it by now",
            self.title
        );
        RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY)
    }

    fn not_ready(&self) -> RequestError {
        let message = format!(
            "{}: this broker was just elected and is not ready yet: try again after a moment",
            self.title
        );
        RequestError::new(self.kind.not_ready, message).retry_after(LEADER_RETRY)
    }

    /// What became of a command.
    pub fn propose_error(&self, error: &ProposeError) -> RequestError {
        match error {
            ProposeError::NotLeader(_) => {
                if self.group.status().leading {
                    self.check_quorum.refused();
                }
                self.not_leader()
            }
            ProposeError::Timeout => RequestError::new(
                Reason::QuorumTimeout,
                format!(
                    "{}: no quorum answered within the time given; the outcome is unknown",
                    self.title
                ),
            )
            .unknown(),
            ProposeError::OtherMachine { .. } => {
                RequestError::new(Reason::Internal, format!("{}: {error}", self.title))
            }
            ProposeError::Discarded | ProposeError::Refused(_) | ProposeError::Stopped(_) => {
                RequestError::new(Reason::LeaderNotAvailable, format!("{}: {error}", self.title))
                    .unknown()
                    .retry_after(LEADER_RETRY)
            }
        }
    }

    /// Why something that is stored was not read.
    pub fn store_error(&self, cause: &StoreError) -> RequestError {
        let title = &self.title;
        match cause {
            StoreError::Damaged { what, .. } => {
                let message = format!("{title}: this replica's data is damaged: {what}");
                RequestError::new(Reason::DataCorrupted, message).retry_after(LEADER_RETRY)
            }
            cause => RequestError::new(Reason::Internal, format!("{title}: reading failed: {cause}")),
        }
    }

    /// Why no quorum confirmed a read.
    pub fn read_error(&self, error: &ReadError) -> RequestError {
        match error {
            ReadError::NotLeader(_) => self.not_leader(),
            ReadError::Timeout => RequestError::new(
                Reason::QuorumTimeout,
                format!("{}: no quorum confirmed the read", self.title),
            )
            .retry_after(LEADER_RETRY),
        }
    }

    /// Returns when a quorum has confirmed that this replica leads, and everything is applied that was committed anywhere
    /// before the call. Ends early when the leader's quorum is lost meanwhile.
    pub async fn confirm_lead(&self, timeout: Duration) -> Result<(), ReadError> {
        tokio::select! {
            confirmed = self.group.confirm_read(timeout) => confirmed,
            () = self.check_quorum.lost() => Err(ReadError::NotLeader(None)),
        }
    }
}
