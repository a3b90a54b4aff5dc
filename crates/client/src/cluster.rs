//! What producer, consumer and admin share: the connections, the metadata, and calls with retry.
//!
//! A call to a partition's leader follows the leader as it moves. A call to any broker goes to the next one when one cannot be
//! reached or is not able; one that changes nothing does so already while a broker is silent. Both make no further attempt after
//! `retry_timeout`; the first ends then, whatever it waits for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_proto::v1;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_types::Reason;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::backoff::Backoff;
use crate::channels::{Channels, RESPONSE_BYTES_MAX};
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::metadata::{LeaderLookup, MetadataCache, TopicMetadata};
use crate::wire_error::{Disposition, Failure};

/// How long a broker may be silent before the next one is asked as well, where a call may be made at two at once.
const HEDGE_AFTER: Duration = Duration::from_millis(500);

pub(crate) struct Cluster {
    pub config: ClientConfig,
    pub channels: Arc<Channels>,
    pub metadata: MetadataCache,
}

/// Which failures of a call are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing that anyone sees: while a broker is silent the next one may be asked as well.
    Hedged,
    /// Doing it twice is as good as once.
    Always,
    /// Only when the attempt certainly had no effect.
    IfDefinite,
}

/// A call that was not answered with success, and whether an attempt before may have had its effect.
pub(crate) struct CallFailed {
    pub failure: Failure,
    pub in_doubt: bool,
}

impl Cluster {
    pub fn new(config: ClientConfig) -> Self {
        let channels = Arc::new(Channels::new(&config));
        let metadata = MetadataCache::new(&config, channels.clone());
        Self {
            config,
            channels,
            metadata,
        }
    }

    /// The log service of a broker.
    pub fn log_service(&self, address: &str) -> Result<LogServiceClient<Channel>, Failure> {
        let channel = self.channels.get(address)?;
        Ok(LogServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX))
    }

    /// Asks for metadata until a broker answers.
    pub async fn bootstrap(&self) -> Result<(), ClientError> {
        let deadline = self.deadline();
        let mut backoff = Backoff::new();
        loop {
            let Err(failure) = self.refresh(0, deadline).await else {
                return Ok(());
            };
            let delay = backoff.next(failure.retry_delay);
            if Instant::now() + delay >= deadline {
                let context = format!("connect to {}", self.config.brokers.join(", "));
                return Err(ClientError::Unavailable(failure.rejection(&context)));
            }
            sleep(delay).await;
        }
    }

    /// A topic by name, from the cache if it is there.
    pub async fn topic(&self, name: &Arc<str>) -> Result<Arc<TopicMetadata>, ClientError> {
        self.metadata.want(name);
        let deadline = self.deadline();
        let mut backoff = Backoff::new();
        loop {
            let image = self.metadata.image();
            if let Some(topic) = image.topic(name) {
                return Ok(topic.clone());
            }
            let refreshed = self.refresh(image.refreshes, deadline).await;
            let image = self.metadata.image();
            let failure = match refreshed {
                Ok(()) => match image.topic(name) {
                    Some(topic) => return Ok(topic.clone()),
                    None if image.was_asked_for(name) => {
                        self.metadata.forget(name);
                        return Err(ClientError::UnknownTopic { topic: name.clone() });
                    }
                    // By a broker that lags behind what this client has seen, or before the name was wanted.
                    None => Failure::local(Code::Unavailable, "the brokers that answer know too little yet", true),
                },
                Err(failure) => failure,
            };
            let delay = backoff.next(failure.retry_delay);
            if Instant::now() + delay >= deadline {
                return Err(ClientError::Unavailable(
                    failure.rejection(&format!("look up topic {name}")),
                ));
            }
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

    /// A call to a partition's leader that may be repeated at will.
    pub async fn call_leader<T, F>(
        &self,
        what: &str,
        topic: &TopicMetadata,
        partition: u32,
        call: impl Fn(LogServiceClient<Channel>, v1::TopicPartition) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let context = format!("{what} {}[{partition}]", topic.name);
        let target = v1::TopicPartition {
            topic_id: topic.id_bytes(),
            topic: String::new(),
            partition,
        };
        let deadline = self.deadline();
        let mut backoff = Backoff::new();
        loop {
            let image = self.metadata.image();
            let answer = match image.leader(topic.id, partition) {
                LeaderLookup::Missing => {
                    return Err(ClientError::UnknownTopic {
                        topic: topic.name.clone(),
                    });
                }
                LeaderLookup::Unknown { .. } => Err(Failure::local(
                    Code::Unavailable,
                    "the partition has no known leader",
                    true,
                )),
                LeaderLookup::Known { address, .. } => match self.log_service(&address) {
                    Ok(service) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        attempt(self.config.request_timeout.min(left), call(service, target.clone())).await
                    }
                    Err(failure) => Err(failure),
                },
            };
            let failure = match answer {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let gone = failure.reason == Some(Reason::UnknownTopic);
            if failure.disposition() == Disposition::Refuse && !gone {
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
                return Err(failure.into_error(&context));
            }
            if !told {
                // When no broker answers, the next attempt will tell.
                let _ = self.refresh(image.refreshes, deadline).await;
            }
            sleep(delay).await;
        }
    }

    /// A call that any broker takes.
    pub async fn call_any<T, F>(&self, repeat: Repeat, call: impl Fn(Channel) -> F) -> Result<T, CallFailed>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_any_within(self.config.request_timeout, repeat, call).await
    }

    /// A call that any broker takes, and each attempt of which may take that long.
    pub async fn call_any_within<T, F>(
        &self,
        within: Duration,
        repeat: Repeat,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, CallFailed>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline();
        let mut backoff = Backoff::new();
        let mut in_doubt = false;
        let mut candidates = Vec::new().into_iter();
        let ask = async |address: Arc<str>| {
            let attempt = match self.channels.get(&address) {
                Ok(channel) => attempt(within, call(channel)).await,
                Err(failure) => Err(failure),
            };
            (address, attempt)
        };
        let mut asked = FuturesUnordered::new();
        let mut refusal = None;
        loop {
            if let Some(failure) = refusal {
                // Whoever refused may know less than one that has not answered yet.
                return match asked.next().await {
                    Some((_, Ok(answer))) => Ok(answer),
                    Some((_, Err(_))) => {
                        refusal = Some(failure);
                        continue;
                    }
                    None => Err(CallFailed { failure, in_doubt }),
                };
            }
            let address = match candidates.next() {
                Some(address) => address,
                None => {
                    candidates = self.metadata.candidates().into_iter();
                    candidates.next().expect("a client has at least one broker to ask")
                }
            };
            asked.push(ask(address));
            let may_hedge = repeat == Repeat::Hedged && candidates.len() > 0;
            let answered = if may_hedge {
                timeout(HEDGE_AFTER, asked.next()).await
            } else {
                Ok(asked.next().await)
            };
            let Ok(answered) = answered else {
                // It may be cut off, and silent until its time is over.
                continue;
            };
            let (address, attempt) = answered.expect("one was asked");
            let failure = match attempt {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = match failure.disposition() {
                Disposition::Retry => true,
                Disposition::Unknown => {
                    in_doubt = true;
                    repeat != Repeat::IfDefinite
                }
                Disposition::Refuse => {
                    refusal = Some(failure);
                    continue;
                }
            };
            // The others are asked without delay; a whole round without success is followed by one.
            let delay = if candidates.len() == 0 {
                backoff.next(failure.retry_delay)
            } else {
                Duration::ZERO
            };
            if !again || Instant::now() + delay >= deadline {
                return Err(CallFailed { failure, in_doubt });
            }
            tracing::debug!(%address, error = failure.message, "asking another broker");
            sleep(delay).await;
        }
    }

    /// When a call that begins now is given up.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.config.retry_timeout
    }
}

/// One attempt of a call.
pub(crate) async fn attempt<T>(
    within: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match timeout(within, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Failure::timeout(within)),
    }
}

impl CallFailed {
    /// As a caller sees it.
    pub fn into_error(self, context: &str) -> ClientError {
        // A refusal says nothing about the attempts before it.
        if self.in_doubt {
            ClientError::OutcomeUnknown(self.failure.rejection(context))
        } else {
            self.failure.into_error(context)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What the caller gets when the first broker answers so after a while and the second refuses at once.
    async fn hedged(first: Result<u32, Status>) -> Result<u32, CallFailed> {
        let cluster = Cluster::new(ClientConfig::new(["127.0.0.1:1", "127.0.0.1:2"]));
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
        cluster.call_any(Repeat::Hedged, call).await
    }

    #[tokio::test]
    async fn a_refusal_counts_when_no_other_broker_says_otherwise() {
        let answer = hedged(Ok(7)).await;
        assert!(answer.is_ok_and(|answer| answer == 7), "the first one knew more");
        let failed = hedged(Err(Status::unavailable("it goes"))).await.err();
        let failed = failed.expect("nobody did it");
        assert_eq!(failed.failure.message, "no such producer");
    }
}
