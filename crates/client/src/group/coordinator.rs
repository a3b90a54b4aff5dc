//! Calls to the broker that coordinates a group or a transactional id, as it moves.
//!
//! Any broker can name the coordinator. The answer is kept until a call shows that it is no longer true.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_proto::v1;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::transaction_service_client::TransactionServiceClient;
use jangada_types::Reason;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::asked::{Answer, Asked};
use crate::attempts::{Attempts, CallFailed};
use crate::backoff::Backoff;
use crate::channels::RESPONSE_BYTES_MAX;
use crate::cluster::Cluster;
use crate::notice::{Next, Notices};
use crate::wire_error::{Disposition, Failure};

/// Timeout of asking one broker for a group's coordinator.
const FIND_TIMEOUT: Duration = Duration::from_secs(6);

pub(crate) struct Coordinator {
    cluster: Arc<Cluster>,
    kind: Coordinated,
    /// The group's name, or the transactional id.
    name: Arc<str>,
    address: Mutex<Option<Arc<str>>>,
}

/// What a coordinator coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coordinated {
    Group,
    TransactionalId,
}

/// A failed attempt.
pub(crate) struct FailedAttempt {
    pub failure: Failure,
    /// Whether the broker named another coordinator, which may be asked at once.
    pub redirected: bool,
}

impl Coordinator {
    pub fn new(cluster: Arc<Cluster>, group: Arc<str>) -> Self {
        Self {
            cluster,
            kind: Coordinated::Group,
            name: group,
            address: Mutex::default(),
        }
    }

    /// The coordinator of a transactional id.
    pub fn of_transactions(cluster: Arc<Cluster>, id: Arc<str>) -> Self {
        Self {
            kind: Coordinated::TransactionalId,
            ..Self::new(cluster, id)
        }
    }

    /// The group's name.
    pub fn group(&self) -> &Arc<str> {
        &self.name
    }

    pub fn notices(&self) -> &Notices {
        &self.cluster.notices
    }

    /// The time at which a call that begins now is given up.
    pub fn deadline(&self) -> Instant {
        self.cluster.deadline()
    }

    /// Makes one attempt, at the broker that is believed to be the coordinator.
    pub async fn attempt<T, F>(
        &self,
        within: Duration,
        call: impl FnOnce(GroupServiceClient<Channel>) -> F,
    ) -> Result<T, FailedAttempt>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempt_on(within, |channel| call(group_service(channel))).await
    }

    async fn attempt_on<T, F>(&self, within: Duration, call: impl FnOnce(Channel) -> F) -> Result<T, FailedAttempt>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let not_found = |failure| FailedAttempt {
            failure,
            redirected: false,
        };
        let known = self.address.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = match known {
            Some(address) => address,
            None => self.find(within).await.map_err(not_found)?,
        };
        let answer = self.cluster.metadata.attempt(&address, within, call).await;
        answer.map_err(|failure| FailedAttempt {
            redirected: self.update(&address, &failure),
            failure,
        })
    }

    /// Makes a call that may be repeated at will, until it succeeds, is refused, or the time is up.
    pub async fn call<T, F>(
        &self,
        deadline: Instant,
        call: impl Fn(GroupServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.call_on(deadline, |channel| call(group_service(channel))).await
    }

    /// Likewise, a call about a transactional id.
    pub async fn call_transactions<T, F>(
        &self,
        deadline: Instant,
        call: impl Fn(TransactionServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.call_on(deadline, |channel| call(transaction_service(channel)))
            .await
    }

    async fn call_on<T, F>(&self, deadline: Instant, call: impl Fn(Channel) -> F + Sync) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let answer = Answer::default();
        self.ask(deadline, &|channel| answer.of(call(channel))).await?;
        Ok(answer.taken())
    }

    /// [`call_on`](Self::call_on) without the type of the answer.
    fn ask<'a>(
        &'a self,
        deadline: Instant,
        call: &'a (dyn Fn(Channel) -> Asked<'a> + Sync),
    ) -> BoxFuture<'a, Result<(), CallFailed>> {
        Box::pin(async move {
            let mut backoff = Backoff::new(&self.cluster.env.random);
            let mut attempts = Attempts::default();
            let what = format!("a call to the coordinator of {self}");
            let mut trouble = self.cluster.notices.trouble(what.into(), None);
            loop {
                let within = self
                    .cluster
                    .config
                    .request_timeout
                    .min(deadline.saturating_duration_since(Instant::now()));
                let FailedAttempt { failure, redirected } = match self.attempt_on(within, call).await {
                    Ok(()) => {
                        trouble.works();
                        return Ok(());
                    }
                    Err(missed) => missed,
                };
                let refused = attempts.failed(&failure) == Disposition::Refuse;
                let delay = pause(&mut backoff, &failure, redirected);
                if refused || Instant::now() + delay >= deadline {
                    return Err(attempts.give_up(failure));
                }
                trouble.failed(&failure, Next::until(deadline, delay));
                sleep(delay).await;
            }
        })
    }

    async fn find(&self, within: Duration) -> Result<Arc<str>, Failure> {
        let (metadata, within) = (&self.cluster.metadata, within.min(FIND_TIMEOUT));
        let (broker, address) = match self.kind {
            Coordinated::Group => {
                let find = |channel| {
                    let request = v1::FindCoordinatorRequest {
                        group: self.name.to_string(),
                    };
                    let mut service = group_service(channel);
                    async move { service.find_coordinator(request).await }
                };
                let found = metadata.first_answer(within, find).await?;
                (found.broker_id, found.address)
            }
            Coordinated::TransactionalId => {
                let find = |channel| {
                    let request = v1::FindTransactionCoordinatorRequest {
                        transactional_id: self.name.to_string(),
                    };
                    let mut service = transaction_service(channel);
                    async move { service.find_transaction_coordinator(request).await }
                };
                let found = metadata.first_answer(within, find).await?;
                (found.broker_id, found.address)
            }
        };
        tracing::debug!(of = %self, broker, address, "found the coordinator");
        let address: Arc<str> = address.into();
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.clone());
        Ok(address)
    }

    /// Updates the believed coordinator after a failure. Returns whether the failure named another broker.
    fn update(&self, asked: &Arc<str>, failure: &Failure) -> bool {
        let told = match failure.reason {
            Some(Reason::NotLeader) => failure.leader_hint().and_then(|hint| {
                let known = || {
                    let image = self.cluster.metadata.image();
                    image.brokers.get(&hint.broker).map(|broker| broker.address.clone())
                };
                hint.address.map(Arc::from).or_else(known)
            }),
            // The coordinator is the right one, though not able to answer yet or refusing.
            Some(
                Reason::NotReady
                | Reason::GroupChanged
                | Reason::BrokerBusy
                | Reason::ConcurrentTransactions
                | Reason::UnstableOffsets,
            ) => return false,
            _ if failure.disposition() == Disposition::Refuse => return false,
            _ => None,
        };
        let told = told.filter(|address| address != asked);
        let redirected = told.is_some();
        let mut address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        // A concurrent call may have found the new coordinator meanwhile.
        if address.as_ref() == Some(asked) {
            *address = told;
        }
        redirected
    }
}

/// How long to wait after a failed attempt: not at all for the first broker that another one names.
pub(crate) fn pause(backoff: &mut Backoff, failure: &Failure, redirected: bool) -> Duration {
    let first = backoff.is_reset();
    let delay = backoff.next(failure.retry_delay);
    if redirected && first { Duration::ZERO } else { delay }
}

pub(crate) fn group_service(channel: Channel) -> GroupServiceClient<Channel> {
    GroupServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

pub(crate) fn transaction_service(channel: Channel) -> TransactionServiceClient<Channel> {
    TransactionServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

impl std::fmt::Display for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Coordinated::Group => write!(f, "group {}", self.name),
            Coordinated::TransactionalId => write!(f, "transactional id {}", self.name),
        }
    }
}
