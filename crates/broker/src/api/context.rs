//! Who makes a call, on what connection, and until when the answer is of use.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::admission::Caller;

/// Goes with every call, also when it is passed on.
pub(crate) struct RequestContext {
    pub principal: Principal,
    /// What the client calls itself; for people, as anybody can say anything.
    pub client_id: Option<Box<str>>,
    /// The listener that the connection came in by.
    pub listener: Arc<str>,
    pub peer: SocketAddr,
    /// After it nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// What the connection holds of what all share.
    pub caller: Arc<Caller>,
}

/// Who is known to call. Nobody is asked yet, so everybody is the same one, as without authentication in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    Anonymous,
}

impl RequestContext {
    /// A call on a connection of a test.
    #[cfg(test)]
    pub fn by(caller: Arc<Caller>) -> Self {
        Self {
            principal: Principal::Anonymous,
            client_id: None,
            listener: "test".into(),
            peer: caller.peer(),
            deadline: None,
            caller,
        }
    }
}

impl std::fmt::Display for RequestContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.principal {
            Principal::Anonymous => f.write_str("ANONYMOUS")?,
        }
        write!(f, " at {} by listener {}", self.peer, self.listener)?;
        if let Some(client) = &self.client_id {
            write!(f, " ({client})")?;
        }
        match self.deadline {
            Some(deadline) => write!(f, ", waits {:?}", deadline.saturating_duration_since(Instant::now())),
            None => Ok(()),
        }
    }
}
