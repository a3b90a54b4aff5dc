//! Keeps the image fresh. Only topics that this client uses are asked for. One refresh runs at a time; a caller that
//! comes while one runs takes its result if it succeeds, and otherwise that of the next refresh, which all waiting
//! callers share. A broker that does not answer soon does not hold the others up: the next one is asked meanwhile.
//!
//! The cache knows the brokers, so all calls to a broker, or to any broker, are made here.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_env::Network;
use jangada_proto::v1;
use jangada_types::{Reason, TopicId};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::image::Image;
use crate::attempts::Attempts;
use crate::channels::{Channels, RESPONSE_BYTES_MAX, StreamChannel};
use crate::config::ClientConfig;
use crate::notice::{Notice, Notices};
use crate::wire_error::{Failure, LeaderHint};

/// How long a broker may take before the next one is asked as well. They answer from memory.
const HEDGE_AFTER: Duration = Duration::from_millis(250);

/// Timeout of one broker's answer. A broker waits up to 5 s for a metadata version that it does not have yet.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// What [`MetadataCache::ask_in_turn`] does after a failure.
pub(crate) enum OnFailure {
    /// Ask another broker, after this delay.
    Ask(Duration),
    /// Ask no other broker; but wait for those that were asked and have not answered, as they may know more.
    Wait,
    GiveUp,
}

pub(crate) struct MetadataCache {
    seeds: Vec<Arc<str>>,
    notices: Arc<Notices>,
    channels: Channels,
    image: watch::Sender<Arc<Image>>,
    /// Topics that this client has used.
    wanted: Mutex<BTreeSet<Arc<str>>>,
    /// Least metadata version that an answer must have: set by changes that this client made, so that it sees them
    /// itself.
    min_version: AtomicU64,
    /// Number of refreshes that were begun.
    attempts: AtomicU64,
    /// Held during a refresh. It holds the number of the last refresh that ended, and why it failed.
    refreshing: tokio::sync::Mutex<(u64, Option<Failure>)>,
    /// Moves on with each refresh, so that a broker that is cut off from the others is not asked again and again.
    next_broker: AtomicUsize,
}

impl MetadataCache {
    pub fn new(config: &ClientConfig, network: &Network, notices: Arc<Notices>) -> Self {
        Self {
            notices,
            seeds: config
                .brokers
                .iter()
                .map(|address| Arc::from(address.as_str()))
                .collect(),
            channels: Channels::new(config, network.clone()),
            image: watch::Sender::new(Arc::default()),
            wanted: Mutex::default(),
            min_version: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            refreshing: tokio::sync::Mutex::default(),
            next_broker: AtomicUsize::new(0),
        }
    }

    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Changes with every refresh and hint.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Image>> {
        self.image.subscribe()
    }

    /// Makes later refreshes ask for this topic, too.
    pub fn want(&self, topic: &Arc<str>) {
        self.wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(topic.clone());
    }

    /// Makes later refreshes leave this topic out: one that does not exist any more is not asked for forever.
    pub fn forget(&self, topic: &str) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// Requires this metadata version of later answers, after a change to the cluster.
    pub fn require_version(&self, version: u64) {
        self.min_version.fetch_max(version, Ordering::Relaxed);
    }

    /// The newest metadata that this client has heard of.
    pub fn min_version(&self) -> u64 {
        self.min_version.load(Ordering::Relaxed)
    }

    /// Takes over the leader that a broker named. Returns whether that was news.
    pub fn apply_hint(&self, topic: TopicId, partition: u32, hint: &LeaderHint) -> bool {
        self.image
            .send_if_modified(|image| match image.with_leader(topic, partition, hint) {
                Some(changed) => {
                    *image = Arc::new(changed);
                    true
                }
                None => false,
            })
    }

    /// Addresses to ask, the next one in turn first: brokers that are alive, then the others, then the seeds that are
    /// neither. A broker that is cut off believes that only itself is alive: when fewer than a majority are alive, all
    /// take turns, or it would be asked forever.
    pub fn candidates(&self) -> Vec<Arc<str>> {
        let image = self.image();
        let majority_is_alive = 2 * image.brokers.values().filter(|b| b.alive).count() > image.brokers.len();
        let mut alive: Vec<_> = image
            .brokers
            .values()
            .filter(|b| b.alive || !majority_is_alive)
            .map(|b| b.address.clone())
            .collect();
        if alive.is_empty() {
            alive = self.seeds.clone();
        }
        let turn = self.next_broker.fetch_add(1, Ordering::Relaxed) % alive.len();
        alive.rotate_left(turn);
        let others = image
            .brokers
            .values()
            .filter(|b| !b.alive)
            .map(|b| &b.address)
            .chain(&self.seeds);
        for address in others {
            if !alive.contains(address) {
                alive.push(address.clone());
            }
        }
        alive
    }

    /// Refreshes the image, unless that has been done since the caller saw `seen`, or a later attempt
    /// than this call has failed.
    pub async fn refresh(&self, seen: u64) -> Result<(), Failure> {
        let before = self.attempts.load(Ordering::Relaxed);
        let mut last = self.refreshing.lock().await;
        if self.image.borrow().refreshes > seen {
            return Ok(());
        }
        if let (number, Some(failure)) = &*last
            && *number > before
        {
            return Err(failure.clone());
        }
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let refreshed = self.refresh_now().await;
        *last = (number, refreshed.as_ref().err().cloned());
        refreshed
    }

    async fn refresh_now(&self) -> Result<(), Failure> {
        let asked = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = v1::GetMetadataRequest {
            topics: asked.iter().map(|name| name.to_string()).collect(),
            // A request without any names would ask for all topics; the nil id is no topic's.
            topic_ids: if asked.is_empty() {
                vec![Bytes::from_static(&[0; 16])]
            } else {
                Vec::new()
            },
            min_version: self.min_version(),
        };
        let answer = match self.ask(&request).await {
            // No broker has that version. A cluster that was made anew counts versions from the beginning, and would
            // never reach it.
            Err(failure) if failure.reason == Some(Reason::NotReady) && request.min_version > 0 => {
                request.min_version = 0;
                let answer = self.ask(&request).await?;
                if !self.image.borrow().is_of_another_cluster(&answer) {
                    return Err(failure);
                }
                answer
            }
            answer => answer?,
        };
        let before = self.image();
        if before.is_of_another_cluster(&answer) {
            self.notices.publish(&Notice::ClusterChanged {
                before: before.cluster_id.clone(),
                now: answer.cluster_id.clone(),
            });
            self.min_version.store(0, Ordering::Relaxed);
        }
        self.image
            .send_modify(|image| *image = Arc::new(image.merged(answer, &asked)));
        Ok(())
    }

    async fn ask(&self, request: &v1::GetMetadataRequest) -> Result<v1::GetMetadataResponse, Failure> {
        self.first_answer(ANSWER_TIMEOUT, |channel| {
            let mut service = v1::metadata_service_client::MetadataServiceClient::new(channel)
                .max_decoding_message_size(RESPONSE_BYTES_MAX);
            let request = request.clone();
            async move { service.get_metadata(request).await }
        })
        .await
    }

    /// The first answer of any broker to a question that each of them answers at once; when all failed, the last
    /// failure.
    pub async fn first_answer<T, F>(&self, within: Duration, call: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut attempts = Attempts::default();
        let judge = |failure: &Failure, is_last: bool| {
            attempts.failed(failure);
            if is_last {
                OnFailure::Wait
            } else {
                OnFailure::Ask(Duration::ZERO)
            }
        };
        let answer = self.ask_in_turn(within, HEDGE_AFTER, call, judge).await;
        answer.map_err(|last| attempts.give_up(last).failure)
    }

    /// Asks one broker after the other until one answers, each with the timeout `within`: the next one when one fails,
    /// or is silent for longer than `hedge_after` while others have not been asked. After a failure `judge` decides
    /// what comes next; its second argument says whether all were asked, in which case the round begins again. An error
    /// is the last failure.
    pub async fn ask_in_turn<T, F>(
        &self,
        within: Duration,
        hedge_after: Duration,
        call: impl Fn(Channel) -> F,
        mut judge: impl FnMut(&Failure, bool) -> OnFailure,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let ask = async |address: Arc<str>| self.attempt(&address, within, &call).await;
        let mut candidates = Vec::<Arc<str>>::new().into_iter();
        let mut asked = FuturesUnordered::new();
        let mut last = None;
        let mut is_over = false;
        loop {
            if !is_over {
                if candidates.len() == 0 {
                    candidates = self.candidates().into_iter();
                }
                let address = candidates.next().expect("a client has at least one broker to ask");
                asked.push(ask(address));
            }
            let answered = if !is_over && candidates.len() > 0 {
                timeout(hedge_after, asked.next()).await
            } else {
                Ok(asked.next().await)
            };
            match answered {
                Ok(Some(Ok(answer))) => return Ok(answer),
                Ok(Some(Err(failure))) => {
                    match judge(&failure, candidates.len() == 0) {
                        _ if is_over => {}
                        OnFailure::Ask(delay) => sleep(delay).await,
                        OnFailure::Wait => is_over = true,
                        OnFailure::GiveUp => return Err(failure),
                    }
                    last = Some(failure);
                }
                Ok(None) => return Err(last.expect("one was asked")),
                // The broker may be cut off, and stay silent until its timeout.
                Err(_) => {}
            }
        }
    }

    /// Makes one attempt of a call, at one broker. An error that is not the broker's own answer names its address.
    pub async fn attempt<T, F>(
        &self,
        address: &str,
        within: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempt_on(self.channels.for_calls(address)?, address, within, call)
            .await
    }

    /// One attempt to open a stream, which counts as open for as long as its channel is held.
    pub async fn open_stream<T, F>(
        &self,
        address: &str,
        within: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<(T, Arc<StreamChannel>), Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let connection = self.channels.for_stream(address)?;
        let stream = self.attempt_on(connection.channel(), address, within, call).await?;
        Ok((stream, connection))
    }

    async fn attempt_on<T, F>(
        &self,
        channel: Channel,
        address: &str,
        within: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let waits = || format!("waiting for an answer of {}", self.name_of(address));
        let answer = timeout(within, call(channel));
        // The answer itself shows that the wait is over.
        let answer = self.notices.waiting(waits, |_| false, answer);
        let mut failure = match answer.await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => Failure::from(status),
            Err(_) => Failure::timeout(within),
        };
        if failure.reason.is_none() {
            failure.message = format!("{}: {}", self.name_of(address), failure.message);
        }
        tracing::debug!(%address, error = failure.message, "an attempt failed");
        Err(failure)
    }

    fn name_of(&self, address: &str) -> String {
        let image = self.image();
        let known = image.brokers.iter().find(|(_, broker)| *broker.address == *address);
        match known {
            Some((id, _)) => format!("broker {id} at {address}"),
            None => format!("the broker at {address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_share_a_failure() {
        let config = ClientConfig::new(["127.0.0.1:1"]);
        let cache = MetadataCache::new(
            &config,
            &Network::System,
            Arc::new(Notices::new(config.on_notice.clone())),
        );
        let asked = join_all((0..40).map(|_| cache.refresh(0))).await;
        assert!(asked.iter().all(Result::is_err));
        // Callers that came during the first round took the result of the second, which began after they came.
        assert_eq!(cache.next_broker.load(Ordering::Relaxed), 2);
        cache.refresh(0).await.expect_err("nobody is there");
        assert_eq!(
            cache.next_broker.load(Ordering::Relaxed),
            3,
            "an old failure says nothing about now"
        );
    }

    /// A cache that knows three brokers, of which these are alive.
    fn knowing(alive: &[u32]) -> MetadataCache {
        let config = ClientConfig::new(["127.0.0.1:1"]);
        let cache = MetadataCache::new(
            &config,
            &Network::System,
            Arc::new(Notices::new(config.on_notice.clone())),
        );
        let broker = |broker_id| v1::Broker {
            broker_id,
            address: format!("127.0.0.1:{broker_id}"),
            alive: alive.contains(&broker_id),
            ..v1::Broker::default()
        };
        let answer = v1::GetMetadataResponse {
            brokers: (1..=3).map(broker).collect(),
            ..v1::GetMetadataResponse::default()
        };
        cache
            .image
            .send_modify(|image| *image = Arc::new(image.merged(answer, &BTreeSet::new())));
        cache
    }

    /// The brokers that a cache asks first in its next three refreshes, when these of three are alive.
    fn first_asked(alive: &[u32]) -> Vec<String> {
        let cache = knowing(alive);
        let mut first: Vec<String> = (0..3).map(|_| cache.candidates()[0].to_string()).collect();
        first.sort_unstable();
        first.dedup();
        first
    }

    #[test]
    fn all_take_turns_when_a_broker_calls_only_itself_alive() {
        assert_eq!(first_asked(&[1, 3]), ["127.0.0.1:1", "127.0.0.1:3"]);
        assert_eq!(first_asked(&[3]), ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        assert_eq!(first_asked(&[]), ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    #[tokio::test]
    async fn a_broker_that_cannot_be_reached_is_named() {
        let cache = knowing(&[1, 2]);
        let ask = async |address: &str| {
            let call = |channel: Channel| async move {
                let mut service = v1::metadata_service_client::MetadataServiceClient::new(channel);
                service.get_metadata(v1::GetMetadataRequest::default()).await
            };
            let failure = cache.attempt(address, ANSWER_TIMEOUT, call).await;
            failure.expect_err("nobody is there").message
        };
        let known = ask("127.0.0.1:3").await;
        assert!(known.starts_with("broker 3 at 127.0.0.1:3: "), "{known}");
        let seed = ask("127.0.0.1:4").await;
        assert!(seed.starts_with("the broker at 127.0.0.1:4: "), "{seed}");
    }
}
