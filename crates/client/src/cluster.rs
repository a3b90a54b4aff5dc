//! The part that producer, consumer and admin share: the metadata, and calls with retry.
//!
//! A call to a partition's leader follows the leader as it moves. A call to any broker goes to the next one when a
//! broker cannot be reached or cannot answer; a call that changes nothing does so already while a broker is silent.
//! Both make no further attempt after `retry_timeout`; the first kind ends then even while it waits for an answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_env::Env;
use jangada_proto::v1;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_types::Reason;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::asked::{Answer, Asked};
use crate::attempts::{Attempts, CallFailed};
use crate::backoff::Backoff;
use crate::channels::RESPONSE_BYTES_MAX;
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::metadata::{LeaderLookup, MetadataCache, OnFailure, TopicMetadata};
use crate::notice::{Next, Notices};
use crate::wire_error::{Disposition, Failure};

/// Delay after which the next broker is asked as well while one is silent, for calls that may be made at two brokers at
/// once.
const HEDGE_AFTER: Duration = Duration::from_millis(500);

pub(crate) struct Cluster {
    pub config: ClientConfig,
    pub env: Env,
    pub metadata: MetadataCache,
    pub notices: Arc<Notices>,
}

/// The failures of a call after which it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// The call changes nothing that others see: while a broker is silent the next one may be asked as well.
    Hedged,
    /// The call may be repeated after any failure: making it twice has the effect of making it once.
    Always,
    /// The call is repeated only when the attempt certainly had no effect.
    IfDefinite,
}

impl Cluster {
    pub fn new(config: ClientConfig, env: Env) -> Self {
        let notices = Arc::new(Notices::new(config.on_notice.clone()));
        let metadata = MetadataCache::new(&config, &env.network, notices.clone());
        Self {
            config,
            env,
            metadata,
            notices,
        }
    }

    /// Asks for metadata until a broker answers.
    pub async fn bootstrap(&self) -> Result<(), ClientError> {
        let deadline = self.deadline();
        let mut backoff = Backoff::new(&self.env.random);
        let mut attempts = Attempts::default();
        let context: Arc<str> = format!("connect to {}", self.config.brokers.join(", ")).into();
        let mut trouble = self.notices.trouble(context.clone(), None);
        loop {
            let Err(failure) = self.refresh(0, deadline).await else {
                trouble.works();
                return Ok(());
            };
            attempts.failed(&failure);
            let delay = backoff.next(failure.retry_delay);
            if Instant::now() + delay >= deadline {
                let failed = attempts.give_up(failure);
                return Err(ClientError::Unavailable(failed.failure.rejection(&context)));
            }
            // No broker answers: a user who has just typed the address wants to know at once.
            let next = Next {
                at_once: true,
                ..Next::until(deadline, delay)
            };
            trouble.failed(&failure, next);
            sleep(delay).await;
        }
    }

    /// A topic by name, from the cache if it is there.
    pub async fn topic(&self, name: &Arc<str>) -> Result<Arc<TopicMetadata>, ClientError> {
        self.metadata.want(name);
        let deadline = self.deadline();
        let mut backoff = Backoff::new(&self.env.random);
        let mut attempts = Attempts::default();
        let context: Arc<str> = format!("look up topic {name}").into();
        let mut trouble = self.notices.trouble(context.clone(), None);
        loop {
            let image = self.metadata.image();
            if let Some(topic) = image.topic(name) {
                return Ok(topic.clone());
            }
            let refreshed = self.refresh(image.refreshes, deadline).await;
            let image = self.metadata.image();
            let failure = match refreshed {
                Ok(()) => match image.topic(name) {
                    Some(topic) => {
                        trouble.works();
                        return Ok(topic.clone());
                    }
                    None if image.was_asked_for(name) => {
                        self.metadata.forget(name);
                        return Err(ClientError::UnknownTopic { topic: name.clone() });
                    }
                    // The broker that answered lags behind what this client has seen, or was asked before the topic was
                    // wanted.
                    None => Failure::from_brokers(Reason::NotReady, "the brokers that answer know too little yet"),
                },
                Err(failure) => failure,
            };
            attempts.failed(&failure);
            let delay = backoff.next(failure.retry_delay);
            if Instant::now() + delay >= deadline {
                let failed = attempts.give_up(failure);
                return Err(ClientError::Unavailable(failed.failure.rejection(&context)));
            }
            trouble.failed(&failure, Next::until(deadline, delay));
            sleep(delay).await;
        }
    }

    /// Asks for metadata as [`MetadataCache::refresh`] does, until the deadline.
    pub async fn refresh(&self, seen: u64, deadline: Instant) -> Result<(), Failure> {
        let refreshed = timeout_at(deadline, self.metadata.refresh(seen)).await;
        refreshed.unwrap_or_else(|_| {
            let message = "no broker answers with metadata in time";
            Err(Failure::local(Code::Unavailable, message, true))
        })
    }

    /// A topic and a check that it has the partition.
    pub async fn partition(&self, name: &Arc<str>, partition: u32) -> Result<Arc<TopicMetadata>, ClientError> {
        let topic = self.topic(name).await?;
        let partitions = topic.partitions.len() as u32;
        if partition >= partitions {
            return Err(ClientError::UnknownPartition {
                topic: name.clone(),
                partition,
                partitions,
            });
        }
        Ok(topic)
    }

    /// A call to a partition's leader that changes nothing.
    pub async fn call_leader<T, F>(
        &self,
        what: &str,
        topic: &TopicMetadata,
        partition: u32,
        call: impl Fn(LogServiceClient<Channel>, v1::TopicPartition) -> F + Sync,
    ) -> Result<T, ClientError>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let call = |channel, target| call(log_service(channel), target);
        self.call_leader_on(what, topic, partition, call).await
    }

    /// Likewise, a call to any of its services.
    pub async fn call_leader_on<T, F>(
        &self,
        what: &str,
        topic: &TopicMetadata,
        partition: u32,
        call: impl Fn(Channel, v1::TopicPartition) -> F + Sync,
    ) -> Result<T, ClientError>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let answer = Answer::default();
        let call = |channel| {
            let target = v1::TopicPartition {
                topic_id: topic.id_bytes(),
                topic: String::new(),
                partition,
            };
            answer.of(call(channel, target))
        };
        self.ask_leader(what, topic, partition, &call).await?;
        Ok(answer.taken())
    }

    /// [`call_leader_on`](Self::call_leader_on) without the type of the answer.
    fn ask_leader<'a>(
        &'a self,
        what: &'a str,
        topic: &'a TopicMetadata,
        partition: u32,
        call: &'a (dyn Fn(Channel) -> Asked<'a> + Sync),
    ) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move {
            let context = format!("{what} {}[{partition}]", topic.name);
            let deadline = self.deadline();
            let mut backoff = Backoff::new(&self.env.random);
            let mut attempts = Attempts::default();
            let mut trouble = self
                .notices
                .trouble(format!("{what} {}", topic.name).into(), Some(partition));
            let mut others_answer = false;
            loop {
                let image = self.metadata.image();
                let answer = match image.leader(topic.id, partition) {
                    LeaderLookup::Missing => {
                        return Err(ClientError::UnknownTopic {
                            topic: topic.name.clone(),
                        });
                    }
                    LeaderLookup::Unknown { .. } => Err(Failure::no_leader()),
                    LeaderLookup::Known { address, .. } => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        let within = self.config.request_timeout.min(left);
                        self.metadata.attempt(&address, within, call).await
                    }
                };
                let failure = match answer {
                    Ok(answer) => {
                        trouble.works();
                        return Ok(answer);
                    }
                    Err(failure) if others_answer => failure.of_last_leader(),
                    Err(failure) => failure,
                };
                // Unless the metadata confirms that the topic is gone, the broker only lags behind.
                let gone = failure.reason == Some(Reason::UnknownTopic);
                if !gone && attempts.failed(&failure) == Disposition::Refuse {
                    return Err(failure.into_error(&context));
                }
                let told = failure
                    .leader_hint()
                    .is_some_and(|hint| self.metadata.apply_hint(topic.id, partition, &hint));
                let delay = if told && backoff.is_reset() {
                    Duration::ZERO
                } else {
                    backoff.next(failure.retry_delay)
                };
                if Instant::now() + delay >= deadline {
                    return Err(attempts.give_up(failure).without_effect().into_error(&context));
                }
                trouble.failed(&failure, Next::until(deadline, delay));
                if !told {
                    others_answer = self.refresh(image.refreshes, deadline).await.is_ok();
                }
                sleep(delay).await;
            }
        })
    }

    /// A call that any broker takes.
    pub async fn call_any<T, F>(
        &self,
        what: &str,
        repeat: Repeat,
        call: impl Fn(Channel) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.call_any_within(self.config.request_timeout, what, repeat, call)
            .await
    }

    /// A call that any broker takes, with a timeout of its own for each attempt.
    pub async fn call_any_within<T, F>(
        &self,
        within: Duration,
        what: &str,
        repeat: Repeat,
        call: impl Fn(Channel) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let answer = Answer::default();
        self.ask_any(within, what, repeat, &|channel| answer.of(call(channel)))
            .await?;
        Ok(answer.taken())
    }

    /// [`call_any_within`](Self::call_any_within) without the type of the answer.
    fn ask_any<'a>(
        &'a self,
        within: Duration,
        what: &'a str,
        repeat: Repeat,
        call: &'a (dyn Fn(Channel) -> Asked<'a> + Sync),
    ) -> BoxFuture<'a, Result<(), CallFailed>> {
        Box::pin(async move {
            let is_hedged = repeat == Repeat::Hedged;
            let hedge_after = if is_hedged { HEDGE_AFTER } else { Duration::MAX };
            let deadline = self.deadline();
            let mut backoff = Backoff::new(&self.env.random);
            let mut attempts = Attempts::default();
            let mut trouble = self.notices.trouble(what.into(), None);
            let judge = |failure: &Failure, is_last: bool| {
                let again = match attempts.failed(failure) {
                    Disposition::Retry => true,
                    Disposition::Unknown => repeat != Repeat::IfDefinite,
                    // The broker that refused may know less than one that has not answered yet.
                    Disposition::Refuse => return OnFailure::Wait,
                };
                // The next broker is asked without delay; there is a delay only after a whole round of failures.
                let delay = if is_last {
                    backoff.next(failure.retry_delay)
                } else {
                    Duration::ZERO
                };
                if !again || Instant::now() + delay >= deadline {
                    return OnFailure::GiveUp;
                }
                trouble.failed(failure, Next::until(deadline, delay));
                OnFailure::Ask(delay)
            };
            let answer = self.metadata.ask_in_turn(within, hedge_after, call, judge).await;
            if answer.is_ok() {
                trouble.works();
            }
            answer.map_err(|last| {
                let failed = attempts.give_up(last);
                if is_hedged { failed.without_effect() } else { failed }
            })
        })
    }

    /// The time at which a call that begins now is given up.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.config.retry_timeout
    }
}

/// A client of a broker's log service.
pub(crate) fn log_service(channel: Channel) -> LogServiceClient<Channel> {
    LogServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The outcome of a hedged call when the first broker answers with `first` after a while and the second refuses at
    /// once.
    async fn hedged(first: Result<u32, Status>) -> Result<u32, CallFailed> {
        let cluster = Cluster::new(ClientConfig::new(["127.0.0.1:1", "127.0.0.1:2"]), Env::system());
        let asked = AtomicUsize::new(0);
        let call = |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let first = first.clone();
            async move {
                if number > 0 {
                    return Err(Status::failed_precondition("no such producer"));
                }
                sleep(HEDGE_AFTER * 2).await;
                first.map(Response::new)
            }
        };
        cluster.call_any("test", Repeat::Hedged, call).await
    }

    #[tokio::test]
    async fn a_refusal_counts_when_no_other_broker_says_otherwise() {
        let answer = hedged(Ok(7)).await;
        assert!(answer.is_ok_and(|answer| answer == 7), "the first one knew more");
        let failed = hedged(Err(Status::unavailable("it goes"))).await.err();
        let failed = failed.expect("nobody did it");
        assert!(failed.failure.message.ends_with("no such producer"), "{failed:?}");
    }
}
