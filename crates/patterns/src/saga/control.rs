//! Starting sagas, looking at them, and helping those that are stuck: what a program and the command line do.

use std::time::Duration;

use jangada_client::{Client, ConsumerConfig, QueueProducer, QueueProducerConfig, StartAt};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::definition::Definition;
use super::machine::{At, Input, Refusal};
use super::message::ToSaga;
use super::orchestrator::inbox_of;
use super::senders::message_of;
use super::state::{Event, Phase, Saga};
use crate::error::PatternError;
use crate::eventsource::{Aggregate as _, Committed, Repository, RepositoryOptions};

/// How often one that waits looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Asks the orchestrators of a topic to start a saga, and returns when the message is in their queue: [`Sagas::wait_over`] tells how it
/// ended. One topic may have sagas of many definitions.
///
/// An id that was started before goes on as it is, whatever the new definition and input are, so whoever does not know whether it was sent
/// sends it again. The workers' keys are made of it: where sagas of several topics have steps of one name with the same workers, their ids
/// must differ, or the second saga gets the effects of the first.
///
/// # Errors
/// [`PatternError::Config`] for a definition that cannot be carried out, or an id that is too long for it; what [`QueueProducer::send`] may
/// fail with.
pub async fn start(
    inbox: &QueueProducer,
    saga: impl Into<String>,
    definition: &Definition,
    input: Value,
) -> Result<(), PatternError> {
    let saga = saga.into();
    definition
        .check_for(&saga)
        .map_err(|error| PatternError::Config(error.to_string()))?;
    let message_id = saga.clone();
    let message = ToSaga::Start {
        saga,
        definition: definition.clone(),
        input,
    };
    inbox
        .send(message_of("the start of a saga", &message)?.with_message_id(message_id))
        .await?;
    Ok(())
}

/// The producer that [`start`] wants.
///
/// # Errors
/// [`ClientError::UnknownQueue`](jangada_client::ClientError::UnknownQueue): no orchestrator was ever created for the topic.
pub async fn inbox(client: &Client, topic: &str) -> Result<QueueProducer, PatternError> {
    Ok(client
        .queue_producer(inbox_of(topic), QueueProducerConfig::default())
        .await?)
}

/// The sagas of a topic, as one who looks at them has read them.
pub struct Sagas {
    client: Client,
    topic: String,
    repository: Repository<Saga>,
}

/// A saga in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaSummary {
    /// The id of the saga.
    pub id: String,
    /// The name of its definition.
    pub kind: String,
    /// Where it is.
    pub phase: Phase,
    /// The name of the step at which it is stuck. `None`: it goes its way.
    pub stuck: Option<String>,
    /// Number of steps that are done and not undone.
    pub done: usize,
    /// Number of all its steps.
    pub steps: usize,
    /// Why it turned back. `None`: it did not.
    pub reason: Option<String>,
}

/// An event of a saga with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When it was appended, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The offset of its commit.
    pub offset: i64,
    /// What happened to the saga.
    pub event: Event,
}

impl Sagas {
    /// Reads the sagas of a topic up to where it ends now, and follows it.
    ///
    /// # Errors
    /// The errors of [`Repository::open`].
    pub async fn open(client: &Client, topic: &str) -> Result<Self, PatternError> {
        Ok(Self {
            client: client.clone(),
            topic: topic.to_owned(),
            repository: Repository::open(client, topic, RepositoryOptions::default()).await?,
        })
    }

    /// All sagas, in the order of their ids.
    pub fn list(&self) -> Vec<SagaSummary> {
        self.repository
            .read_all(|sagas| sagas.map(|(id, stream)| summary(id, &stream.state)).collect())
    }

    /// A saga as it is. `None`: there is none with this id.
    pub fn get(&self, saga: &str) -> Option<Saga> {
        let found = self.repository.read(saga, |stream| stream.state.clone());
        (found.phase != Phase::Unknown).then_some(found)
    }

    /// What happened to a saga, in its order.
    ///
    /// # Errors
    /// [`PatternError::Client`], [`PatternError::Unreadable`].
    pub async fn history(&self, saga: &str) -> Result<Vec<Happened>, PatternError> {
        let mut consumer = self.client.consumer(ConsumerConfig::default())?;
        let partition = self.repository.partition_of(saga);
        consumer
            .assign(vec![(&*self.topic, partition, StartAt::Earliest)])
            .await?;
        let ends = consumer.end_offsets().await?;
        let mut history = Vec::new();
        while !consumer.reached(&ends) {
            let records = consumer.next_batch().await?;
            for record in records
                .iter()
                .filter(|record| record.key.as_deref() == Some(saga.as_bytes()))
            {
                let Committed {
                    timestamp_ms,
                    offset,
                    commit,
                    ..
                } = Committed::read(record)?;
                history.extend(commit.events.into_iter().map(|event| Happened {
                    timestamp_ms,
                    offset,
                    event,
                }));
            }
        }
        Ok(history)
    }

    /// Has what is stuck or waits of a saga tried again now, with all its attempts.
    ///
    /// # Errors
    /// [`PatternError::Config`] with the reason why that is refused; [`PatternError::Late`] when no orchestrator takes it within `within`.
    pub async fn retry(&self, saga: &str, within: Duration) -> Result<Saga, PatternError> {
        let message = ToSaga::Retry { saga: saga.to_owned() };
        self.ask(saga, (Input::Retry, message), within).await
    }

    /// Has a saga turn back, and undo what it has begun.
    ///
    /// # Errors
    /// The errors of [`retry`](Self::retry).
    pub async fn abort(&self, saga: &str, reason: &str, within: Duration) -> Result<Saga, PatternError> {
        let (id, because) = (saga.to_owned(), reason.to_owned());
        let message = ToSaga::Abort {
            saga: id,
            reason: because,
        };
        self.ask(saga, (Input::Abort(reason.to_owned()), message), within).await
    }

    /// Sends what the machine would not refuse, and waits until the saga has changed.
    async fn ask(&self, saga: &str, (input, message): (Input, ToSaga), within: Duration) -> Result<Saga, PatternError> {
        self.repository.refresh(saga).await?;
        let stream = |saga: &str| {
            self.repository
                .read(saga, |stream| (stream.state.clone(), stream.version))
        };
        let (state, version) = stream(saga);
        let refused = |refusal: Refusal| PatternError::Config(format!("saga {saga:?}: {refusal}"));
        state.handle(&At { now_ms: 0, input }).map_err(refused)?;
        let producer = inbox(&self.client, &self.topic).await?;
        producer.send(message_of("a wish", &message)?).await?;
        let until = Instant::now() + within;
        loop {
            match stream(saga) {
                (state, now) if now > version => return Ok(state),
                _ if Instant::now() >= until => {
                    let what = format!("no orchestrator of {:?} took what was sent to {saga:?}", self.topic);
                    return Err(PatternError::Late { what });
                }
                _ => sleep(LOOK_INTERVAL).await,
            }
        }
    }

    /// Waits until a saga is over: [`Completed`](Phase::Completed) or [`Compensated`](Phase::Compensated). One that is stuck is not.
    ///
    /// # Errors
    /// [`PatternError::Late`] with where it is after `within`.
    pub async fn wait_over(&self, saga: &str, within: Duration) -> Result<Saga, PatternError> {
        let until = Instant::now() + within;
        loop {
            let state = self.repository.read(saga, |stream| {
                let is_over = stream.state.phase.is_over();
                (is_over || Instant::now() >= until).then(|| stream.state.clone())
            });
            match state {
                Some(state) if state.phase.is_over() => return Ok(state),
                Some(state) => return Err(not_over(saga, &state)),
                None => sleep(LOOK_INTERVAL).await,
            }
        }
    }
}

/// The error of one who has waited for the end of a saga.
fn not_over(id: &str, saga: &Saga) -> PatternError {
    let phase = saga.phase.as_str();
    let what = match saga.stuck {
        Some(step) => format!(
            "saga {id:?} is {phase}, stuck at step {:?}, and did not end",
            saga.definition.steps[step].name
        ),
        None => format!("saga {id:?} is {phase} and did not end"),
    };
    PatternError::Late { what }
}

fn summary(id: &str, saga: &Saga) -> SagaSummary {
    use super::state::Place;
    let name = |step: usize| saga.definition.steps[step].name.clone();
    let done = saga.steps.iter();
    let done = done.filter(|step| step.doing.place == Place::Done && step.undoing.place != Place::Done);
    SagaSummary {
        id: id.to_owned(),
        kind: saga.definition.name.clone(),
        phase: saga.phase,
        stuck: saga.stuck.map(name),
        done: done.count(),
        steps: saga.steps.len(),
        reason: saga.turned_back.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::Step;

    #[test]
    fn who_waited_is_told_where_a_saga_is_stuck() {
        let mut saga = Saga {
            definition: Definition::new("trip").then(Step::new("flight", "flights")),
            phase: Phase::Forward,
            ..Saga::default()
        };
        assert_eq!(
            not_over("a", &saga).to_string(),
            "saga \"a\" is forward and did not end in time"
        );
        saga.stuck = Some(0);
        let stuck = not_over("a", &saga).to_string();
        assert!(stuck.contains("stuck at step \"flight\""), "{stuck}");
    }
}
