//! A command that was handed to Raft, with what it holds (room in a budget) until Raft lets go of it: also when its caller
//! no longer waits for the answer, since the command takes memory until then.

use std::time::Duration;

use jangada_machine::Machine;
use jangada_replication::{Applied, Group, Proposal, ProposeError};

/// Raft answers when a command is applied, or never will be here.
pub(crate) const UNTIL_ANSWERED: Duration = Duration::from_secs(u32::MAX as u64);

/// A proposal with what it holds, a `T`. The reply will be an `R`.
pub(crate) struct InflightProposal<R: Send + 'static, T: Send + 'static>(Option<(Proposal<R>, T)>);

impl<R: Send + 'static, T: Send + 'static> InflightProposal<R, T> {
    /// Returns when the command has its place in the log's order. `M` is the group's machine.
    pub async fn submit<M>(group: &Group, command: M::Command, held: T) -> Result<Self, ProposeError>
    where
        M: Machine<Reply = R>,
    {
        let proposal = group.submit::<M>(command).await?;
        Ok(Self(Some((proposal, held))))
    }

    /// Waits until it is applied.
    pub async fn applied(mut self, timeout: Duration) -> Result<Applied<R>, ProposeError> {
        let (proposal, _) = self.0.as_mut().expect("it is taken out below, or when dropped");
        let applied = proposal.applied(timeout).await;
        if !matches!(applied, Err(ProposeError::Timeout)) {
            self.0 = None;
        }
        applied
    }
}

impl<R: Send + 'static, T: Send + 'static> Drop for InflightProposal<R, T> {
    /// Nobody waits for it any more, and Raft has it still.
    fn drop(&mut self) {
        if let Some((mut proposal, held)) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = proposal.applied(UNTIL_ANSWERED).await;
                drop(held);
            });
        }
    }
}
