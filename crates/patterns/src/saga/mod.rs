//! Sagas: steps in several services that are all done, or all undone, by an orchestrator whose state is a stream of events.
//!
//! ```text
//!                   queue TOPIC.inbox                  queues of the steps
//! start() ──► start ──►┌──────────────┐── do flight ──► serve(): handler, with a Ledger ──► reply ─┐
//!  timers ──► due   ──►│ Orchestrator │── do hotel  ──► ...                                        │
//!  CLI    ──► retry ──►│  (machine)   │── undo ...                                                 │
//!             reply ──►└──────────────┘◄───────────────────────────────────────────────────────────┘
//!                        │ events, with the expected offset
//!                        ▼
//!                   topic TOPIC: one stream for each saga
//! ```
//!
//! - [`Definition`], [`Step`]: the steps, those that are out at the same time, time-outs and retries.
//! - [`Saga`]: the state, folded from [`Event`]s; [`Input`] comes to it, [`Output`] is to be done then. Pure, an
//!   [`Aggregate`](crate::eventsource::Aggregate).
//! - [`Orchestrator`]: any number of processes, which may die at any time.
//! - [`serve()`]: the worker of a step. [`Ledger`]: at most one effect for each idempotence key.
//! - [`start`], [`Sagas`]: starting, looking, retrying, aborting.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use jangada_client::{Client, ClientConfig, NewQueue, Worker};
//! use jangada_patterns::eventsource::RepositoryOptions;
//! use jangada_patterns::saga::{self, Definition, Orchestrator, Outcome, Phase, Retry, Sagas, Step};
//! use serde_json::json;
//!
//! fn trip() -> Definition {
//!     let retry = Retry { attempts: 4, first_ms: 500, most_ms: 5_000 };
//!     Definition::new("trip")
//!         .then(Step::new("flight", "flight").with_timeout(Duration::from_secs(20)).with_retry(retry))
//!         .then_all([Step::new("hotel", "hotel"), Step::new("car", "car")]) // at the same time
//!         .then(Step::new("mail", "mail").without_undo().sticks())
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:9400", "127.0.0.1:9401", "127.0.0.1:9402"])).await?;
//! Orchestrator::create(&client, "trips", (2, 3)).await?;
//! for step in ["flight", "hotel", "car", "mail"] {
//!     let mut queue = NewQueue::new(step, 2, 3);
//!     queue.if_not_exists = true;
//!     client.admin().create_queue(queue).await?;
//! }
//!
//! // A process of its own, or several.
//! let orchestrator = Orchestrator::open(&client, "trips", RepositoryOptions::default()).await?;
//! tokio::spawn(async move { orchestrator.run(8, std::future::pending()).await });
//!
//! // A worker of its own for each step; this one has no effect, so it needs no ledger.
//! let mails = client.clone();
//! tokio::spawn(async move {
//!     let worker = Worker::new(&mails, "mail");
//!     saga::serve(&mails, worker, 8, |command| async move { Outcome::Done(json!({ "seat": command.results["flight"] })) }).await
//! });
//!
//! let inbox = saga::inbox(&client, "trips").await?;
//! saga::start(&inbox, "trip-7", &trip(), json!({ "traveller": "Ana" })).await?;
//! let sagas = Sagas::open(&client, "trips").await?;
//! let ended = sagas.wait_over("trip-7", Duration::from_secs(120)).await?;
//! println!("completed: {}, {:?}", ended.phase == Phase::Completed, ended.turned_back);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantee
//! - A saga that was started ends: completed with all its steps done, or compensated with everything undone that it ever sent and that can
//!   be undone. One that can do neither is stuck, and says at which step.
//! - It undoes in the reverse order of the definition, one step after the other.
//! - All commands of a step have one key. With a [`Ledger`] that is kept together with the effect there is at most one effect, and none
//!   after its undoing, whatever comes twice or late.
//! - What is sent follows from what is in the log: any orchestrator goes on where another one died.
//!
//! # What can fail
//! - **No isolation** (Garcia-Molina and Salem): others see the effects of steps before the saga has ended. Let a step reserve, and the
//!   last one confirm, where that matters.
//! - An effect outside of topics and databases (a mail, a call) is made at most once only if that system takes the key itself.
//! - A key is `SAGA/STEP`. Sagas of two topics with one id, and steps of one name at one worker, would have one effect: ids are unique
//!   among all sagas that share a worker.
//! - A step whose undoing is refused, or fails as often as it may, leaves the saga stuck: `jangada saga ls --stuck`, then mend it, and
//!   `jangada saga retry`.
//! - The states of all sagas of a topic are in the memory of each orchestrator: begin a new topic when there are too many.
//! - Time-outs go by the clocks of the orchestrators and of the inbox's leader; a clock that is ahead makes attempts come early, which
//!   costs attempts, not correctness.
//!
//! # Where it comes from
//! Garcia-Molina and Salem, "Sagas" (SIGMOD 1987). Richardson, "Microservices Patterns" (2018), chapter 4, has the orchestrator over
//! messages. That an undoing must bar what comes after it: Seata's TCC mode calls
//! the three cases idempotence, empty rollback and suspension.

mod control;
mod definition;
mod ledger;
mod machine;
mod message;
mod orchestrator;
mod senders;
mod state;
mod worker;

pub use control::{Happened, SagaSummary, Sagas, inbox, start};
pub use definition::{BadDefinition, Definition, Exhausted, Retry, STEP_TIME_MAX_MS, Step};
pub use ledger::{Effect, Judgement, Ledger};
pub use machine::{At, Input, Output, Refusal};
pub use message::{Outcome, Reply, StepCommand, ToSaga, Way};
pub use orchestrator::{Orchestrator, inbox_of};
pub use state::{Event, Leg, Phase, Place, Saga, StepState};
pub use worker::serve;
