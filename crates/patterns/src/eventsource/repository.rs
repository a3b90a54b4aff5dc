//! Loads streams by their keys, and appends to them what commands bring about.

use std::sync::Arc;
use std::time::Duration;

use jangada_client::{
    Client, ClientError, Condition, Env, NewTopic, OffsetAt, Producer, ProducerConfig, ProducerRecord,
};
use jangada_types::partition_for_key;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::aggregate::{Aggregate, Decision, Stream};
use super::reader::Reader;
use super::snapshots;
use crate::backoff::Backoff;
use crate::error::PatternError;

/// How a [`Repository`] reads and writes.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// The topic with snapshots to begin with. `None`, the default: the whole log is read.
    pub snapshots: Option<String>,
    /// Of each stream so many ids of its newest commits are remembered: a command that comes again after more than so many others of its
    /// stream is done again. Default: 1,000.
    pub remember: usize,
    /// How often a command is decided anew, as another one was first or an answer was lost. Default: 20.
    pub attempts: u32,
    /// The waits between these attempts. Default: 5 ms up to 500 ms.
    pub backoff: Backoff,
    /// How long a command may take in all. Default: 60 s.
    pub timeout: Duration,
    /// Producers that share the keys: one has one commit of a partition under way at a time. Default: 4.
    pub producers: usize,
    /// How commits are sent.
    pub producer: ProducerConfig,
    /// The clock and chance.
    pub env: Env,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self {
            snapshots: None,
            remember: 1_000,
            attempts: 20,
            backoff: Backoff {
                first: Duration::from_millis(5),
                most: Duration::from_millis(500),
            },
            timeout: Duration::from_secs(60),
            producers: 4,
            producer: ProducerConfig::default(),
            env: Env::system(),
        }
    }
}

/// What became of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed<E> {
    /// The partition of the stream.
    pub partition: u32,
    /// The offset of the last commit of the stream that counted: that of the command, if it brought about anything. A projection that has
    /// [come behind it](super::SqliteReader::wait_for) shows what the command did. `None`: the stream has none.
    pub offset: Option<i64>,
    /// What happened. Empty: nothing was to be done, or it was done before.
    pub events: Vec<E>,
    /// A command with this id was done before.
    pub is_repeated: bool,
    /// How often it was decided; 1: nobody came between.
    pub attempts: u32,
}

/// Why a command has not happened, or may not have.
#[derive(Debug, Error)]
pub enum ExecuteError<R> {
    /// The aggregate refuses it, by a state that was current after it was asked for. It has not happened.
    #[error("{0}")]
    Refused(R),
    /// Other commands of the stream were first each time. It has not happened: try later.
    #[error("other commands of {key:?} were first {attempts} times; try again later")]
    Conflict {
        /// The key of the stream.
        key: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The log could not be written or read. Whether it has happened is not known when the error is not definite; a command with an id can
    /// be given again.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl<R> From<ClientError> for ExecuteError<R> {
    fn from(error: ClientError) -> Self {
        Self::Pattern(error.into())
    }
}

/// The streams of one kind of aggregate, in one topic: each is the records of one key.
///
/// It keeps the states of all streams in memory, as new as the log, and appends with the offset that the key's last record is expected to
/// have ([`Condition::KeyOffset`]): of two commands that were decided on the same state one is appended, and the other one is decided
/// anew. Clones share the states and the producers.
pub struct Repository<A> {
    shared: Arc<Shared<A>>,
}

impl<A> Clone for Repository<A> {
    fn clone(&self) -> Self {
        let shared = self.shared.clone();
        Self { shared }
    }
}

pub(super) struct Shared<A> {
    pub client: Client,
    pub reader: Reader<A>,
    producers: Vec<Producer>,
    options: RepositoryOptions,
    topic: Arc<str>,
    partitions: u32,
}

impl<A: Aggregate> Repository<A> {
    /// Creates the topic of streams, and that of snapshots if one is given, unless they are there. Keys belong to their partitions, so the
    /// number of these never changes; the log is kept for ever.
    ///
    /// # Errors
    /// What creating a topic may fail with.
    pub async fn create(
        client: &Client,
        topic: &str,
        snapshots: Option<&str>,
        (partitions, replicas): (u32, u32),
    ) -> Result<(), PatternError> {
        let mut log = NewTopic::new(topic, partitions, replicas);
        log.config = settings(&[("key.index.enable", "true"), ("retention.ms", "-1")]);
        log.if_not_exists = true;
        client.admin().create_topic(log).await?;
        if let Some(snapshots) = snapshots {
            // One partition: a position must not be read before the snapshots that it is about.
            let mut topic = NewTopic::new(snapshots, 1, replicas);
            topic.config = settings(&[("cleanup.policy", "compact")]);
            topic.if_not_exists = true;
            client.admin().create_topic(topic).await?;
        }
        Ok(())
    }

    /// Reads the streams up to where the log ends now, from the snapshots if there are any, and follows it from then on. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`PatternError::Client`]; [`PatternError::Unreadable`] for a record that is no commit of this aggregate.
    pub async fn open(client: &Client, topic: &str, options: RepositoryOptions) -> Result<Self, PatternError> {
        let begin = match &options.snapshots {
            Some(snapshots) => snapshots::read(client, snapshots, topic).await?,
            None => Default::default(),
        };
        let partitions = client.topic(topic).await?.partitions.len() as u32;
        let reader = Reader::open(client, topic, options.remember, begin).await?;
        let producers = (0..options.producers.max(1)).map(|_| client.producer(options.producer.clone()));
        let shared = Shared {
            client: client.clone(),
            reader,
            producers: producers.collect::<Result<_, _>>()?,
            topic: topic.into(),
            options,
            partitions,
        };
        let shared = Arc::new(shared);
        Ok(Self { shared })
    }

    pub(super) fn shared(&self) -> &Arc<Shared<A>> {
        &self.shared
    }

    /// Looks at a stream as it was read so far; one without commits is the default. The call holds up the reading, so let it be short.
    pub fn read<T>(&self, key: &str, look: impl FnOnce(&Stream<A>) -> T) -> T {
        match self.shared.reader.streams().by_key.get(key) {
            Some(stream) => look(stream),
            None => look(&Stream::default()),
        }
    }

    /// Looks at all streams as they were read so far, in the order of their keys. The call holds up the reading.
    pub fn read_all<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = (&str, &Stream<A>)>) -> T) -> T {
        let streams = self.shared.reader.streams();
        let mut all = streams.by_key.iter().map(|(key, stream)| (&**key, stream));
        look(&mut all)
    }

    /// Of each partition the offset below which everything is read.
    pub fn positions(&self) -> std::collections::BTreeMap<u32, i64> {
        self.shared.reader.positions()
    }

    /// Waits until everything below an offset of a partition is read: of a command's commit that is its offset + 1.
    ///
    /// # Errors
    /// [`PatternError::Late`] after the time that a command may take; [`PatternError::Unreadable`] when reading has ended.
    pub async fn wait_for(&self, partition: u32, offset: i64) -> Result<(), PatternError> {
        let until = Instant::now() + self.shared.options.timeout;
        self.shared.reader.wait_for(partition, offset, until).await
    }

    /// The partition of a key.
    pub fn partition_of(&self, key: &str) -> u32 {
        partition_for_key(key.as_bytes(), self.shared.partitions).0
    }

    /// Waits until a stream is read as far as it goes now.
    ///
    /// # Errors
    /// The errors of [`wait_for`](Self::wait_for), and [`PatternError::Client`] when the partition's leader does not answer.
    pub async fn refresh(&self, key: &str) -> Result<(), PatternError> {
        let until = Instant::now() + self.shared.options.timeout;
        self.refresh_until(self.partition_of(key), until).await
    }

    async fn refresh_until(&self, partition: u32, until: Instant) -> Result<(), PatternError> {
        let shared = &self.shared;
        let end = shared
            .client
            .list_offsets(&shared.topic, partition, OffsetAt::Latest)
            .await?;
        shared.reader.wait_for(partition, end.offset.unwrap_or(0), until).await
    }

    /// Decides on a command, and appends what it brings about, all of it or nothing. When another command of the stream was first, or an
    /// answer was lost, it is decided anew on the new state.
    ///
    /// The id says which command it is: one that was done is not done again, as far as the stream [remembers](RepositoryOptions::remember).
    /// An empty id is none; then the aggregate itself has to see that a command was done, for an answer that is lost makes it come again.
    ///
    /// A [`read`](Self::read) of this repository sees what the command did when this has returned; others do after
    /// [`wait_for`](Self::wait_for), a projection after its own.
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub async fn execute(
        &self,
        key: &str,
        id: &str,
        command: &A::Command,
    ) -> Result<Executed<A::Event>, ExecuteError<A::Refusal>> {
        let shared = &*self.shared;
        let partition = self.partition_of(key);
        let until = Instant::now() + shared.options.timeout;
        // Whether the stream was read up to an end that it had after this call began.
        let mut is_current = false;
        let mut attempts = 0;
        let mut unknown = None;
        loop {
            let (decision, last) = self.read(key, |stream| (stream.decide(id, command), stream.last));
            let done = |events, offset, is_repeated| Executed {
                partition,
                offset,
                events,
                is_repeated,
                attempts: attempts + 1,
            };
            let (expected, commit) = match decision {
                Ok(Decision::Known) => return Ok(done(Vec::new(), last, true)),
                Ok(Decision::Append(expected, commit)) => (expected, commit),
                // An old state may say so, and nothing else would notice.
                Ok(Decision::Nothing) | Err(_) if !is_current => {
                    self.refresh_until(partition, until).await?;
                    is_current = true;
                    continue;
                }
                Ok(Decision::Nothing) => return Ok(done(Vec::new(), last, false)),
                Err(refusal) => return Err(ExecuteError::Refused(refusal)),
            };
            let value = serde_json::to_vec(&commit).map_err(|error| PatternError::Unreadable {
                what: format!("the commit of {key:?}"),
                why: error.to_string(),
            })?;
            let record = ProducerRecord::new(shared.topic.clone())
                .with_partition(partition)
                .with_key(key.to_owned())
                .with_value(value);
            let producer = &shared.producers[key_share(key, shared.producers.len())];
            let sent = match producer.send_if(record, Condition::KeyOffset(expected)).await {
                Ok(delivery) => delivery.await,
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok(sent) => {
                    // What was appended under the condition follows the state that it was decided on.
                    if let Some(offset) = sent.offset {
                        let mut streams = shared.reader.streams_mut();
                        if streams.by_key.get(key).and_then(|stream| stream.last) == expected {
                            streams.apply(key, offset, &commit);
                        }
                    }
                    return Ok(done(commit.events, sent.offset, false));
                }
                Err(error) => error,
            };
            attempts += 1;
            if attempts >= shared.options.attempts || Instant::now() >= until {
                return Err(last_error(
                    (key, attempts),
                    error,
                    unknown.filter(|(at, _)| *at == expected),
                ));
            }
            let caught_up = match error {
                ClientError::ConditionFailed { actual, .. } => {
                    shared.reader.wait_for(partition, actual + 1, until).await
                }
                error if error.is_retryable() || !error.is_definite() => {
                    tracing::warn!(%error, %key, "a commit is tried again");
                    if !error.is_definite() {
                        unknown = Some((expected, error));
                    }
                    self.refresh_until(partition, until).await
                }
                error => return Err(error.into()),
            };
            if let Err(failed) = caught_up {
                // The command may have happened, whatever the reading failed with.
                return Err(unknown.map_or(failed, |(_, unknown)| unknown.into()).into());
            }
            is_current = true;
            if attempts > 1 {
                sleep(shared.options.backoff.delay(attempts - 2, &shared.options.env)).await;
            }
        }
    }

    /// Waits until all that was sent is answered, and ends. Other clones get errors from then on.
    pub async fn close(self) {
        for producer in &self.shared.producers {
            producer.clone().close().await;
        }
    }
}

/// What is said of a command after its last attempt, of which an earlier one on the same state may have ended without an answer.
fn last_error<R>(
    (key, attempts): (&str, u32),
    error: ClientError,
    unknown: Option<(Option<i64>, ClientError)>,
) -> ExecuteError<R> {
    match (error, unknown) {
        // Who was first may be the command itself.
        (ClientError::ConditionFailed { .. }, Some((_, unknown))) => unknown.into(),
        (ClientError::ConditionFailed { .. }, None) => {
            let key = key.to_owned();
            ExecuteError::Conflict { key, attempts }
        }
        (error, _) => error.into(),
    }
}

/// Which of so many producers has the key: always the same one.
fn key_share(key: &str, producers: usize) -> usize {
    let sum = key.bytes().fold(0_usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(byte))
    });
    // The lower bits decide on the partition, too.
    (sum >> 3) % producers
}

fn settings(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_conflict_with_ones_own_lost_append_is_not_called_one() {
        let rejection = Arc::new(jangada_client::Rejection {
            context: "produce".to_owned(),
            // UNAVAILABLE, as gRPC numbers it.
            code: 14.into(),
            reason: None,
            message: "no answer".to_owned(),
            retry_delay: None,
            metadata: BTreeMap::new(),
        });
        let conflict = || ClientError::ConditionFailed {
            definite: true,
            actual: 7,
            rejection: rejection.clone(),
        };
        let lost = || ClientError::OutcomeUnknown(rejection.clone());
        let said = |error, unknown| last_error::<Infallible>(("k", 3), error, unknown);
        assert!(matches!(
            said(conflict(), None),
            ExecuteError::Conflict { attempts: 3, .. }
        ));
        let unknown = said(conflict(), Some((Some(5), lost())));
        assert!(matches!(unknown, ExecuteError::Pattern(PatternError::Client(error)) if !error.is_definite()));
        let last = said(lost(), None);
        assert!(matches!(last, ExecuteError::Pattern(PatternError::Client(error)) if !error.is_definite()));
    }
}
