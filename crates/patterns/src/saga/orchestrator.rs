//! Runs sagas: takes in what comes, appends what follows from it, and does what is to be done then.
//!
//! ```text
//! queue TOPIC.inbox ──► message: start, reply, due, retry, abort
//!                          │ 1 the machine decides on the saga's stream; the events are appended if nobody was first
//!                          │ 2 commands go to the steps' queues, timers come back as delayed messages
//!                          ▼ 3 the message is acknowledged
//! ```
//!
//! A process that dies before 1 has done nothing. One that dies between 1 and 3 leaves the message: it comes again, whatever it brings
//! about then, and everything that is outstanding is done again, which is harmless, as commands have idempotence keys and timers may
//! come twice.

use std::sync::Arc;
use std::time::Duration;

use jangada_client::{
    Client, Env, Handled, NewQueue, NewSchedule, QueueConsumerConfig, ReceivedMessage, ScheduleTiming, Verdict, Worker,
};

use super::machine::{At, Input, Output};
use super::message::ToSaga;
use super::senders::{Senders, message_of};
use super::state::Saga;
use crate::error::PatternError;
use crate::eventsource::{ExecuteError, Repository, RepositoryOptions};

/// What is so long overdue is looked after by the sweep: its message was lost, by a purge perhaps.
const OVERDUE_MS: u64 = 5_000;
/// How often the sweep comes.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Messages of one consumer that are at hand for each that is worked on.
const PREFETCH: u32 = 2;

/// The name of the queue from which the orchestrators of a topic work.
pub fn inbox_of(topic: &str) -> String {
    format!("{topic}.inbox")
}

/// An orchestrator. As many processes as wanted run one for the same topic; each message goes to one of them, and the streams' expected
/// offsets keep them from deciding on the same state twice.
pub struct Orchestrator {
    client: Client,
    inner: Arc<Inner>,
}

struct Inner {
    repository: Repository<Saga>,
    senders: Senders,
    inbox: String,
    env: Env,
}

impl Orchestrator {
    /// Creates the topic of the sagas' streams, the queue of the orchestrators, and the schedule that has them look for what is overdue,
    /// unless they are there. The queues of the steps are their workers' to create.
    ///
    /// # Errors
    /// What creating a topic, a queue and a schedule may fail with.
    pub async fn create(client: &Client, topic: &str, (partitions, replicas): (u32, u32)) -> Result<(), PatternError> {
        Repository::<Saga>::create(client, topic, None, (partitions, replicas)).await?;
        let inbox = inbox_of(topic);
        let mut queue = NewQueue::new(&inbox, partitions, replicas);
        queue.if_not_exists = true;
        // What an orchestrator cannot do now it does later: nothing of a saga is ever given up by the queue.
        let settings = [
            ("queue.attempts.max", "none"),
            ("queue.lease.ms", "30000"),
            ("queue.retry.max.ms", "10000"),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        queue.config.extend(settings);
        client.admin().create_queue(queue).await?;
        let sweep = message_of("the sweep", &ToSaga::Sweep)?;
        let schedule = NewSchedule::new("sweep", ScheduleTiming::Every(SWEEP_INTERVAL), sweep);
        client.admin().put_schedule(&inbox, &schedule).await?;
        Ok(())
    }

    /// Reads the sagas of a topic. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The errors of [`Repository::open`].
    pub async fn open(client: &Client, topic: &str, options: RepositoryOptions) -> Result<Self, PatternError> {
        let env = options.env.clone();
        let inner = Inner {
            repository: Repository::open(client, topic, options).await?,
            senders: Senders::new(client),
            inbox: inbox_of(topic),
            env,
        };
        Ok(Self {
            client: client.clone(),
            inner: Arc::new(inner),
        })
    }

    /// The streams of the sagas.
    pub fn sagas(&self) -> &Repository<Saga> {
        &self.inner.repository
    }

    /// Works on so many messages at once until `stop` is ready; then ends what it has begun.
    ///
    /// # Errors
    /// The errors of [`Worker::run`].
    pub async fn run(&self, concurrency: u32, stop: impl Future<Output = ()>) -> Result<Handled, PatternError> {
        let config = QueueConsumerConfig {
            prefetch: concurrency.saturating_mul(PREFETCH),
            ..QueueConsumerConfig::default()
        };
        let worker = Worker::new(&self.client, &*self.inner.inbox).with_config(config);
        let stopped = worker.stop_handle();
        let inner = &self.inner;
        let run = worker.run(concurrency, |message| async move { inner.handle(&message).await });
        let mut run = std::pin::pin!(run);
        tokio::select! {
            ended = &mut run => Ok(ended?),
            () = stop => {
                stopped.stop();
                Ok(run.await?)
            }
        }
    }
}

impl Inner {
    async fn handle(&self, message: &ReceivedMessage) -> Verdict {
        let to_saga: ToSaga = match serde_json::from_slice(message.body.as_deref().unwrap_or_default()) {
            Ok(to_saga) => to_saga,
            Err(error) => return Verdict::Reject(format!("it is no message to a saga: {error}")),
        };
        let is_repeated = message.deliveries > 1;
        let now_ms = u64::try_from(self.env.clock.now_ms()).unwrap_or(0);
        let (saga, input) = match to_saga {
            ToSaga::Start {
                saga,
                definition,
                input,
            } => match definition.check_for(&saga) {
                Ok(()) => (saga, Input::Start { definition, input }),
                Err(error) => return Verdict::Reject(error.to_string()),
            },
            ToSaga::Reply(reply) => (reply.saga.clone(), Input::Reply(reply)),
            ToSaga::Due { saga, at_ms } => (saga, Input::Due(at_ms)),
            ToSaga::Retry { saga } => (saga, Input::Retry),
            ToSaga::Abort { saga, reason } => (saga, Input::Abort(reason)),
            ToSaga::Sweep => return self.sweep(now_ms).await,
        };
        self.take(&saga, At { now_ms, input }, is_repeated).await
    }

    /// Takes in one input of a saga.
    async fn take(&self, saga: &str, at: At, is_repeated: bool) -> Verdict {
        // The machine sees by itself what it had before, so the commits need no ids.
        let (events, is_repeated, verdict) = match self.repository.execute(saga, "", &at).await {
            Ok(executed) => (executed.events, is_repeated || executed.attempts > 1, Verdict::Ack),
            // A wish that was granted before is refused when it comes again, and so is one whose append was not answered.
            Err(ExecuteError::Refused(refusal)) => (Vec::new(), true, Verdict::Reject(refusal.to_string())),
            Err(error) => {
                tracing::warn!(%saga, %error, "a message of a saga comes again");
                return Verdict::Nack(None);
            }
        };
        let state = self.repository.read(saga, |stream| stream.state.clone());
        let outputs = state.to_put_out(&events, is_repeated);
        match self.put_out(saga, &state, outputs).await {
            Ok(()) => verdict,
            Err(error) => {
                tracing::warn!(%saga, %error, "commands of a saga are sent again");
                Verdict::Nack(None)
            }
        }
    }

    async fn put_out(&self, id: &str, saga: &Saga, outputs: Vec<Output>) -> Result<(), PatternError> {
        for output in outputs {
            match output {
                Output::Command { step, way, attempt } => {
                    let command = saga.command(id, (step, way, attempt), &self.inbox);
                    let name = format!("{}/{}/{attempt}", command.key, way.as_str());
                    let message = message_of(&name, &command)?.with_message_id(name);
                    self.senders.send(&saga.definition.steps[step].queue, message).await?;
                }
                Output::Timer(at_ms) => {
                    let saga = id.to_owned();
                    let message = message_of("a timer", &ToSaga::Due { saga, at_ms })?;
                    self.senders.send(&self.inbox, message.deliver_at(at_ms)).await?;
                }
            }
        }
        Ok(())
    }

    /// Looks after all sagas of which something is overdue.
    async fn sweep(&self, now_ms: u64) -> Verdict {
        let overdue = |saga: &Saga| {
            saga.next_due_ms()
                .is_some_and(|due| due.saturating_add(OVERDUE_MS) < now_ms)
        };
        let sagas: Vec<String> = self.repository.read_all(|sagas| {
            let overdue = sagas.filter(|(_, stream)| overdue(&stream.state));
            overdue.map(|(id, _)| id.to_owned()).collect()
        });
        for saga in sagas {
            let input = Input::Tick;
            tracing::warn!(%saga, "something of a saga is overdue");
            // The next sweep comes to what fails now.
            let _ = self.take(&saga, At { now_ms, input }, true).await;
        }
        Verdict::Ack
    }
}
