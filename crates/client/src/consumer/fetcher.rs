//! One partition's fetch stream, kept alive: a task that reads from the leader, wherever it is, from the next offset on.
//!
//! Credit: the broker may send `window` bytes more than the consumer has taken. Of each response the bytes are held until the
//! consumer takes them; then they are granted anew, a quarter of the window at a time, so that grants are few.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jangada_proto::v1;
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_types::Reason;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::config::OffsetReset;
use super::inbox::{FetchSession, Fetched, Inbox, Window};
use crate::backoff::Backoff;
use crate::channels::StreamChannel;
use crate::cluster::{Cluster, log_service};
use crate::error::ClientError;
use crate::isolation::Isolation;
use crate::metadata::{LeaderLookup, TopicMetadata};
use crate::notice::{Next, Notice, PositionReset, Trouble};
use crate::offset_at::OffsetAt;
use crate::wire_error::{Disposition, Failure};

/// Capacity of the queue of grants to the stream. Grants are few and small; one that finds the queue full is made up
/// for by the next.
const GRANTS_QUEUED: usize = 8;

/// A stream that stays open for this long counts as working even without data.
const STREAM_STABLE_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Fetcher {
    pub cluster: Arc<Cluster>,
    pub topic: Arc<TopicMetadata>,
    pub partition: u32,
    pub session: FetchSession,
    pub inbox: Arc<Inbox>,
    pub window: Arc<Window>,
    pub max_bytes: u32,
    pub offset_reset: OffsetReset,
    pub isolation: Isolation,
    /// The group whose member reads, if one does.
    pub group: Option<Arc<str>>,
    /// The next offset to fetch.
    pub next_offset: i64,
    /// The partition was added while its topic was read: it begins with its first record, wherever that is by now.
    pub is_added: bool,
    /// The trouble "fetching fails", open while it does.
    pub trouble: Trouble,
}

/// The reasons for leaving a stream.
enum Left {
    Failed(Failure),
    /// Another broker leads the partition by now.
    LeaderMoved,
}

/// A stream to the partition's leader.
struct Opened {
    stream: Streaming<v1::FetchStreamResponse>,
    grants: mpsc::Sender<v1::FetchStreamRequest>,
    /// The epoch of the leader that the stream leads to.
    epoch: u32,
    /// Keeps the stream counted on its connection while it is open.
    _connection: Arc<StreamChannel>,
}

impl Fetcher {
    /// Runs until the partition is gone, an error needs the consumer's decision, or the task is aborted.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(&self.cluster.env.random);
        let mut failing_since = None;
        let mut others_answer = false;
        loop {
            let seen = self.cluster.metadata.image().refreshes;
            let before = self.next_offset;
            let failure = match self.read().await {
                Ok(()) => return,
                Err(Left::LeaderMoved) => continue,
                Err(Left::Failed(failure)) if others_answer => failure.of_last_leader(),
                Err(Left::Failed(failure)) => failure,
            };
            if self.next_offset != before {
                backoff.reset();
                failing_since = None;
            }
            tracing::debug!(
                topic = %self.topic.name, partition = self.partition, offset = self.next_offset, reason = ?failure.reason,
                error = failure.message, "a fetch stream ended"
            );
            if failure.reason == Some(Reason::OffsetOutOfRange) {
                match self.out_of_range(&failure).await {
                    Ok(()) => continue,
                    // Fetching was tried for `retry_timeout`: the consumer gets the error while the attempts go on.
                    Err(error) if error.is_retryable() => {
                        self.deliver(Fetched::Failed(error));
                        continue;
                    }
                    Err(error) => return self.deliver(Fetched::Failed(error)),
                }
            }
            let gone = matches!(failure.reason, Some(Reason::UnknownTopic | Reason::UnknownPartition));
            if failure.disposition() == Disposition::Refuse && !gone {
                return self.deliver(Fetched::Failed(failure.into_error(&self.context())));
            }
            let told = failure
                .leader_hint()
                .is_some_and(|hint| self.cluster.metadata.apply_hint(self.topic.id, self.partition, &hint));
            if told && backoff.is_reset() {
                // The named leader is asked at once, but only once: two brokers that name each other are asked at
                // intervals.
                let _ = backoff.next(None);
                continue;
            }
            let since = *failing_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.cluster.config.retry_timeout {
                // The consumer gets the error while the attempts go on.
                let error = ClientError::Unavailable(failure.rejection(&self.context()));
                self.deliver(Fetched::Failed(error));
                failing_since = None;
            }
            let pause = backoff.next(failure.retry_delay);
            let next = Next {
                next_try: pause,
                ..Next::default()
            };
            self.trouble.failed(&failure, next);
            let (refreshed, ()) = tokio::join!(self.cluster.metadata.refresh(seen), sleep(pause));
            others_answer = refreshed.is_ok();
            if self.cluster.metadata.image().leader(self.topic.id, self.partition) == LeaderLookup::Missing {
                return self.deliver(Fetched::Failed(ClientError::UnknownTopic {
                    topic: self.topic.name.clone(),
                }));
            }
        }
    }

    fn context(&self) -> String {
        format!("fetch from {}[{}]", self.topic.name, self.partition)
    }

    fn deliver(&self, fetched: Fetched) {
        self.inbox.put(self.session, fetched);
    }

    /// One stream, from opening to its end.
    async fn read(&mut self) -> Result<(), Left> {
        // Grants begin anew with the stream: what is held now is not under way.
        let mut credit = loop {
            match self.window.size_bytes() - self.window.held_bytes() {
                credit if credit > 0 => break credit,
                _ => self.window.released().await,
            }
        };
        // Subscribed before the leader is looked up, so that no later change is missed.
        let mut images = self.cluster.metadata.subscribe();
        let Opened {
            mut stream,
            grants,
            epoch,
            _connection,
        } = self.open(credit).await.map_err(Left::Failed)?;
        // A stream may end with an error as soon as it is open.
        let works_at = Instant::now() + STREAM_STABLE_AFTER;
        loop {
            tokio::select! {
                () = sleep_until(works_at), if self.trouble.is_open() => self.trouble.works(),
                response = stream.message() => {
                    let response = response.map_err(|status| Left::Failed(status.into()))?;
                    let ended = || Left::Failed(Failure::local(Code::Unavailable, "the broker ended the stream", true));
                    let fetch = response.and_then(|response| response.fetch).ok_or_else(ended)?;
                    // Below zero when the response exceeded the credit by a batch; the broker counts it in the same
                    // way.
                    credit -= fetch.batches.len() as i64;
                    self.take(fetch).map_err(Left::Failed)?;
                }
                () = self.window.released() => {}
                Ok(()) = images.changed() => {
                    let leader = images.borrow_and_update().leader(self.topic.id, self.partition);
                    if matches!(leader, LeaderLookup::Known { epoch: newer, .. } if newer > epoch) {
                        return Err(Left::LeaderMoved);
                    }
                }
            }
            // Bytes that are neither held nor granted may be granted; they are saved up, so that grants are few.
            let size = self.window.size_bytes();
            let free = size - self.window.held_bytes() - credit;
            let grant = || v1::FetchStreamRequest {
                message: Some(Message::CreditBytes(free as u64)),
            };
            if free >= size / 4 && grants.try_send(grant()).is_ok() {
                credit += free;
            }
        }
    }

    async fn open(&self, credit: i64) -> Result<Opened, Failure> {
        let (address, epoch) = match self.cluster.metadata.image().leader(self.topic.id, self.partition) {
            LeaderLookup::Known { address, epoch, .. } => (address, epoch),
            LeaderLookup::Unknown { .. } | LeaderLookup::Missing => return Err(Failure::no_leader()),
        };
        let (grants, receiver) = mpsc::channel(GRANTS_QUEUED);
        let start = v1::FetchStreamStart {
            partition: Some(v1::TopicPartition {
                topic_id: self.topic.id_bytes(),
                topic: String::new(),
                partition: self.partition,
            }),
            offset: self.next_offset,
            max_bytes: self.max_bytes,
            form: v1::RecordForm::Raw.into(),
            leader_epoch: None,
            credit_bytes: credit as u64,
            isolation: self.isolation.wire(),
            // What is not to be seen is left out here, so that missing batches are noticed.
            aborted_list: true,
        };
        let first = v1::FetchStreamRequest {
            message: Some(Message::Start(start)),
        };
        grants.try_send(first).expect("the channel is empty");
        let within = self.cluster.config.connect_timeout + Duration::from_secs(1);
        let open = |channel| {
            let mut service = log_service(channel);
            async move { service.fetch_stream(ReceiverStream::new(receiver)).await }
        };
        let (stream, connection) = self.cluster.metadata.open_stream(&address, within, open).await?;
        Ok(Opened {
            stream,
            grants,
            epoch,
            _connection: connection,
        })
    }

    /// Takes a response, which must begin where the last one ended.
    fn take(&mut self, fetch: v1::FetchResponse) -> Result<(), Failure> {
        self.window
            .high_watermark
            .fetch_max(fetch.high_watermark, Ordering::Relaxed);
        if fetch.next_offset < self.next_offset {
            let message = format!(
                "the broker went back from offset {} to {}",
                self.next_offset, fetch.next_offset
            );
            return Err(Failure::local(Code::DataLoss, message, true));
        }
        // A broker may pass over offsets of which it has nothing to send.
        if fetch.batches.is_empty() && fetch.next_offset == self.next_offset {
            return Ok(());
        }
        self.trouble.works();
        self.is_added = false;
        let first_offset = self.next_offset;
        self.next_offset = fetch.next_offset;
        self.window.hold(fetch.batches.len() as i64);
        self.deliver(Fetched::Batches {
            batches: fetch.batches,
            first_offset,
            next_offset: fetch.next_offset,
            high_watermark: fetch.high_watermark,
            aborted: fetch.aborted,
            compacted: fetch.compacted,
        });
        Ok(())
    }

    /// Handles an offset that is not there, as the settings say.
    async fn out_of_range(&mut self, failure: &Failure) -> Result<(), ClientError> {
        let bound = |keys: [&str; 2]| keys.into_iter().find_map(|key| failure.number(key));
        let low = match bound(["log_start_offset", "expected"]) {
            Some(offset) => offset,
            None => self.list(OffsetAt::Earliest).await?,
        };
        let high = match bound(["high_watermark", "limit"]) {
            Some(offset) => offset,
            None => self.list(OffsetAt::Latest).await?,
        };
        let policy = match std::mem::take(&mut self.is_added) {
            true => OffsetReset::Earliest,
            false => self.offset_reset,
        };
        let to = match policy {
            OffsetReset::Earliest => low,
            OffsetReset::Latest => high,
            OffsetReset::Error => {
                return Err(ClientError::OffsetOutOfRange {
                    topic: self.topic.name.clone(),
                    partition: self.partition,
                    offset: self.next_offset,
                    log_start_offset: low,
                    high_watermark: high,
                });
            }
        };
        let reset = Notice::PositionReset(PositionReset {
            group: self.group.clone(),
            topic: self.topic.name.clone(),
            partition: self.partition,
            from: self.next_offset,
            to,
            log_start_offset: low,
            high_watermark: high,
            policy,
        });
        self.cluster.notices.publish(&reset);
        self.next_offset = to;
        self.deliver(Fetched::Moved { to });
        Ok(())
    }

    async fn list(&self, at: OffsetAt) -> Result<i64, ClientError> {
        let at = (at, self.isolation);
        let found = self.cluster.list_offsets(&self.topic, self.partition, at).await?;
        Ok(found.offset.unwrap_or(0))
    }
}
