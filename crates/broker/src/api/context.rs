//! Who makes a call, on what connection, and until when the answer is of use.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jangada_types::BrokerId;
use tokio::time::Instant;

use crate::quota::Caller;

/// Goes with every call, also when it is passed on.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub principal: Principal,
    /// What the client calls itself; for people, as anybody can say anything.
    pub client_id: Option<Arc<str>>,
    /// The listener that the connection came in by.
    pub listener: Arc<str>,
    pub peer: SocketAddr,
    /// After it nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// What the connection holds of what all share.
    pub caller: Arc<Caller>,
    pub route: Route,
}

/// What becomes of a call that only another broker can answer: the leader of a partition, the coordinator of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// The client is told which broker that is, and goes there.
    Follow,
    /// This broker passes the call on, for a client that cannot go there.
    PassOn,
    /// Another broker has passed the call on to this one, which answers it itself or refuses it. None: a broker that is too old to say
    /// which one it is.
    Passed(Option<BrokerId>),
}

impl Route {
    /// Their names in requests, of those that a client can ask for.
    pub const NAMES: [(&'static str, Self); 2] = [("follow", Self::Follow), ("pass-on", Self::PassOn)];

    /// Of what any broker has always taken for clients: passed on unless it was.
    #[must_use]
    pub fn or_pass_on(self) -> Self {
        match self {
            Self::Follow | Self::PassOn => Self::PassOn,
            Self::Passed(from) => Self::Passed(from),
        }
    }
}

/// Who is known to call. Nobody is asked yet, so everybody is the same one, as without authentication in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    Anonymous,
}

impl Principal {
    /// What it is called when a call is passed on.
    pub fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "ANONYMOUS",
        }
    }

    /// The principal of that name; none if this build knows none.
    pub fn of_name(name: &str) -> Option<Self> {
        (name == Self::Anonymous.name()).then_some(Self::Anonymous)
    }
}

impl RequestContext {
    /// How long the answer is of use, and no longer than this.
    pub fn time_left(&self, most: Duration) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.map_or(most, |deadline| most.min(left(deadline)))
    }

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
            route: Route::Follow,
        }
    }
}

impl std::fmt::Display for RequestContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} at {} by listener {}",
            self.principal.name(),
            self.peer,
            self.listener
        )?;
        if let Route::Passed(Some(from)) = self.route {
            write!(f, " of broker {from}")?;
        }
        if let Some(client) = &self.client_id {
            write!(f, " ({client})")?;
        }
        match self.deadline {
            Some(deadline) => write!(f, ", waits {:?}", deadline.saturating_duration_since(Instant::now())),
            None => Ok(()),
        }
    }
}
