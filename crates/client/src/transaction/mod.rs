//! Transactions: records of several partitions, offsets of groups, and messages of queues that are sent and acknowledged, which are seen
//! together or not at all.
//!
//! ```text
//! open() ── InitTransactions ──► Ready ── begin() ──► Open ── commit(), abort() ── EndTransaction ──► Ready, in the next epoch
//!                                  ▲                    │ no answer to the commit
//!                                  └──── resolve() ── Unresolved
//! ```
//!
//! Each transaction has an epoch of its own (KIP-890): the end of one gives that of the next, so nothing that is still under way of one
//! can come into another. A transaction in which something failed can only be aborted.

mod calls;
mod exactly_once;
mod options;
mod queues;
mod sequences;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use jangada_types::Reason;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;

use exactly_once::Gathered;
pub use exactly_once::{ExactlyOnceOptions, Processed};
pub use options::TransactionOptions;

use crate::attempts::CallFailed;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::group::{Coordinator, GroupMetadata, OffsetCommit, commit_in_transaction};
use crate::producer::{Delivery, Producer, ProducerRecord};
use calls::{Calls, Found, Identity};
use sequences::QueuesSentTo;

/// A producer whose records are parts of transactions, one at a time.
///
/// It has a transactional id, which names it over all its lives: whoever opens the id next fences this one, and aborts what it left open.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::{ProducerRecord, TransactionOptions, TransactionalProducer};
///
/// let mut producer = TransactionalProducer::open(&client, "transfers-1", TransactionOptions::default()).await?;
/// let transaction = producer.begin().await?;
/// transaction.send(ProducerRecord::new("debits").with_key("alice").with_value("10")).await?;
/// transaction.send(ProducerRecord::new("credits").with_key("bob").with_value("10")).await?;
/// // Both are seen, or neither.
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
pub struct TransactionalProducer {
    inner: Arc<Inner>,
}

struct Inner {
    id: Arc<str>,
    cluster: Arc<Cluster>,
    options: TransactionOptions,
    producer: Producer,
    calls: Calls,
    /// The coordinators of the groups that offsets were committed for.
    groups: Mutex<BTreeMap<Arc<str>, Arc<Coordinator>>>,
    /// Held by whoever ends a transaction: one that was dropped is aborted in the background, and the next one waits for that.
    state: Arc<tokio::sync::Mutex<State>>,
    /// The last transaction that is known to be committed.
    committed: Mutex<Option<Identity>>,
    /// What a call of `process` had read, and did not come to an end with.
    left: Mutex<Option<Gathered>>,
    /// Why no more could be read behind what such a call has committed, until that is told.
    read_error: Mutex<Option<ClientError>>,
    /// Where transactions are aborted that are dropped, perhaps outside of any runtime.
    runtime: Handle,
}

/// What comes next.
#[derive(Clone, Debug)]
enum State {
    /// A transaction may begin under this identity.
    Ready(Identity),
    /// The identity was used, and the next one is not known: the coordinator is asked before the next transaction begins. It aborts what
    /// it may have open.
    Used(Identity),
    /// Whether the transaction was committed is not known.
    Unresolved(Identity, ClientError),
    /// Another producer has the id.
    Fenced(ClientError),
}

/// A transaction that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// All partitions and groups know: who reads them from now on sees it. False: they will, whatever fails.
    pub visible: bool,
}

/// What became of a transaction whose outcome was not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// It is committed.
    Committed,
    /// It is aborted: nothing of it is seen.
    Aborted,
}

impl TransactionalProducer {
    /// Begins a life of the transactional id. Earlier ones are fenced, and a transaction that they left open is aborted. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Config`]; [`ClientError::Refused`] for an id or a timeout that the brokers do not take;
    /// [`ClientError::Unavailable`] and [`ClientError::OutcomeUnknown`] after trying for as long as `retry_timeout`.
    pub async fn open(
        client: &Client,
        transactional_id: impl Into<Arc<str>>,
        options: TransactionOptions,
    ) -> Result<Self, ClientError> {
        options.check()?;
        let (id, cluster) = (transactional_id.into(), client.cluster());
        let calls = Calls::new(cluster.clone(), id.clone());
        let first = calls.init(options.timeout, None).await;
        let first = first.map_err(|failed| failed.into_error(&calls.context("begin a life")))?;
        let producer = Producer::start_as(cluster.clone(), options.producer.clone(), Some(id.clone()))?;
        let inner = Inner {
            id,
            cluster,
            options,
            producer,
            calls,
            groups: Mutex::default(),
            state: Arc::new(tokio::sync::Mutex::new(State::Ready(first))),
            committed: Mutex::default(),
            left: Mutex::default(),
            read_error: Mutex::default(),
            runtime: Handle::current(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The transactional id.
    pub fn transactional_id(&self) -> &str {
        &self.inner.id
    }

    /// Begins a transaction. That costs no call, unless the one before ended without a clear answer.
    ///
    /// # Errors
    /// [`ClientError::TransactionUnknown`] until the last one is [resolved](Self::resolve); [`ClientError::ProducerFenced`]: another
    /// producer has opened the id, and this one must end; [`ClientError::Unavailable`] when the coordinator does not answer.
    pub async fn begin(&mut self) -> Result<Transaction<'_>, ClientError> {
        let mut state = self.inner.state.clone().lock_owned().await;
        let identity = self.inner.identity(&mut state).await?;
        // Whatever happens to the transaction, its identity is not used for another one.
        *state = State::Used(identity);
        self.inner.producer.begin(identity);
        Ok(Transaction {
            inner: self.inner.clone(),
            identity,
            ends: Some(state),
            queues: QueuesSentTo::default(),
            _one_at_a_time: PhantomData,
        })
    }

    /// Finds out what became of the last transaction, after [`ClientError::TransactionUnknown`]. If its end has not come to the
    /// coordinator it is sent again.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] and [`ClientError::OutcomeUnknown`] when the coordinator does not answer: call it again.
    /// [`ClientError::TransactionUnknown`] when nobody can tell any more: another producer has the id and has ended transactions of its own
    /// since. [`ClientError::Config`] when no outcome is unknown.
    pub async fn resolve(&mut self) -> Result<TransactionOutcome, ClientError> {
        let inner = &self.inner;
        let mut state = inner.state.clone().lock_owned().await;
        let State::Unresolved(identity, unknown) = state.clone() else {
            return Err(ClientError::Config("no transaction is unresolved".to_owned()));
        };
        let outcome = match inner.calls.find(identity).await? {
            Found::Committed => TransactionOutcome::Committed,
            Found::Aborted => TransactionOutcome::Aborted,
            Found::Open => match inner.calls.end(identity, true, inner.options.early).await {
                Ok((next, _)) => {
                    inner.note_committed(identity);
                    *state = State::Ready(next);
                    return Ok(TransactionOutcome::Committed);
                }
                Err(failed) if is_lost(&failed) => TransactionOutcome::Aborted,
                // The next call finds what has become of it.
                Err(failed) => {
                    let rejection = failed.failure.rejection(&inner.calls.context("commit the transaction"));
                    return Err(ClientError::OutcomeUnknown(rejection));
                }
            },
            Found::Unknown => return Err(unknown),
        };
        if outcome == TransactionOutcome::Committed {
            inner.note_committed(identity);
        }
        *state = State::Used(identity);
        Ok(outcome)
    }

    /// Ends the producer. A transaction that was dropped is aborted first.
    pub async fn close(self) {
        drop(self.inner.state.lock().await);
        self.inner.producer.clone().close().await;
    }
}

impl Inner {
    /// The identity of the transaction that begins now.
    async fn identity(&self, state: &mut State) -> Result<Identity, ClientError> {
        let used = match state {
            State::Ready(identity) => return Ok(*identity),
            State::Fenced(error) | State::Unresolved(_, error) => return Err(error.clone()),
            State::Used(identity) => *identity,
        };
        match self.calls.init(self.options.timeout, Some(used)).await {
            Ok(identity) => {
                *state = State::Ready(identity);
                Ok(identity)
            }
            Err(failed) => {
                let error = self.error("go on with the next transaction", failed);
                if let ClientError::ProducerFenced { .. } = error {
                    *state = State::Fenced(error.clone());
                }
                Err(error)
            }
        }
    }

    fn error(&self, what: &str, failed: CallFailed) -> ClientError {
        let context = self.calls.context(what);
        match failed.failure.reason {
            Some(Reason::ProducerFenced) => ClientError::ProducerFenced {
                definite: !failed.in_doubt,
                rejection: failed.failure.rejection(&context),
            },
            _ => failed.into_error(&context),
        }
    }

    /// After the coordinator refused an epoch: tells whether the transaction's time was over, or another producer has the id. In the first
    /// case the producer goes on under a new epoch.
    async fn why_over(&self, state: &mut State, failed: CallFailed) -> ClientError {
        let rejection = failed.failure.rejection(&self.calls.context("end the transaction"));
        match self.identity(state).await {
            Ok(_) => ClientError::TransactionTimedOut(rejection),
            Err(error @ ClientError::ProducerFenced { .. }) => error,
            // The next transaction asks again.
            Err(_) => ClientError::TransactionAborted {
                cause: Arc::new(ClientError::Refused(rejection)),
            },
        }
    }

    fn note_committed(&self, identity: Identity) {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Whether this was the last transaction that is known to be committed.
    fn was_committed(&self, identity: Identity) -> bool {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) == Some(identity)
    }

    fn group(&self, name: &Arc<str>) -> Arc<Coordinator> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let known = groups.entry(name.clone());
        known
            .or_insert_with(|| Arc::new(Coordinator::new(self.cluster.clone(), name.clone())))
            .clone()
    }

    /// Aborts the transaction of this identity, which is not to be used any more. Returns why it was aborted before, if it was.
    async fn abort(&self, identity: Identity, state: &mut State) -> Result<Option<ClientError>, ClientError> {
        let aborted = ClientError::Config("the transaction was aborted by its caller".to_owned());
        let cause = Arc::new(aborted);
        self.producer.discard(ClientError::TransactionAborted { cause }).await;
        match self.calls.end(identity, false, self.options.early).await {
            Ok((next, _)) => {
                *state = State::Ready(next);
                Ok(None)
            }
            Err(failed) if is_over(&failed) => match self.why_over(state, failed).await {
                error @ ClientError::ProducerFenced { .. } => Err(error),
                over => Ok(Some(over)),
            },
            Err(failed) => Err(self.error("abort the transaction", failed)),
        }
    }
}

/// The error of a transaction that failed as its time was over, or its epoch was fenced, if no other producer did that.
fn timed_out(error: ClientError) -> ClientError {
    if let ClientError::TransactionAborted { cause } = &error
        && let ClientError::ProducerFenced { rejection, .. }
        | ClientError::Refused(rejection)
        | ClientError::TransactionTimedOut(rejection) = &**cause
        && let Some(Reason::ProducerFenced | Reason::TransactionTimedOut) = rejection.reason
    {
        return ClientError::TransactionTimedOut(rejection.clone());
    }
    error
}

/// Whether the coordinator says that the transaction is over: another epoch has begun.
fn is_over(failed: &CallFailed) -> bool {
    let over = [
        Reason::ProducerFenced,
        Reason::InvalidTransactionState,
        Reason::UnknownTransactionalId,
        Reason::TransactionTimedOut,
    ];
    failed.failure.reason.is_some_and(|reason| over.contains(&reason))
}

/// Whether the coordinator says for certain that the transaction was not committed, and is over. That its time was over it says of this
/// transaction and no other, so an earlier copy of the call has not committed it either.
fn is_lost(failed: &CallFailed) -> bool {
    is_over(failed) && (!failed.in_doubt || failed.failure.reason == Some(Reason::TransactionTimedOut))
}

/// An open transaction. It ends by [`commit`](Self::commit) or [`abort`](Self::abort); one that is dropped is aborted in the background,
/// and the next one waits for that.
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'p> {
    inner: Arc<Inner>,
    identity: Identity,
    /// The right to say how it ended; none once that is said.
    ends: Option<OwnedMutexGuard<State>>,
    /// The queues that it sends to.
    queues: QueuesSentTo,
    _one_at_a_time: PhantomData<&'p mut TransactionalProducer>,
}

impl Transaction<'_> {
    /// Puts a record into its partition's batch, as [`Producer::send`](crate::Producer::send) does. Its [`Delivery`] need not be awaited:
    /// [`commit`](Self::commit) waits for all, and fails if one did.
    ///
    /// # Errors
    /// The errors of [`Producer::send`](crate::Producer::send); [`ClientError::TransactionAborted`] after something in the transaction
    /// failed.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ClientError> {
        self.inner.producer.send(record).await
    }

    /// Sends the gathered records without lingering, and waits until the outcome of everything sent before is known, as
    /// [`Producer::flush`](crate::Producer::flush) does.
    pub async fn flush(&self) {
        self.inner.producer.flush().await;
    }

    /// Makes offsets of a group part of the transaction, all or none: they are committed when it is. The group's member and its epoch
    /// are checked (KIP-447), so that a member that lost its partitions cannot commit for them. When this fails the transaction can only be
    /// aborted.
    ///
    /// # Errors
    /// [`ClientError::MembershipLost`]: abort, the records are another member's now. [`ClientError::Refused`] with
    /// `PARTITION_NOT_OWNED`, likewise. [`ClientError::TransactionAborted`], [`ClientError::TransactionTimedOut`],
    /// [`ClientError::Unavailable`], [`ClientError::OutcomeUnknown`]: abort.
    pub async fn commit_offsets(&self, group: &GroupMetadata, offsets: &[OffsetCommit]) -> Result<(), ClientError> {
        if let Some(error) = self.inner.producer.failure() {
            return Err(error);
        }
        let coordinator = self.inner.group(&group.group);
        let staged = commit_in_transaction(&coordinator, group, (&self.inner.id, self.identity), offsets).await;
        if let Err(error) = &staged {
            // Records without the offsets that belong to them would be made again.
            self.inner.producer.fail(error.clone());
        }
        staged
    }

    /// Waits until all records are stored, and commits.
    ///
    /// # Errors
    /// [`ClientError::TransactionAborted`] when a record was not stored, and [`ClientError::TransactionTimedOut`]: nothing of the
    /// transaction will be seen, begin another one. [`ClientError::ProducerFenced`]: likewise, and this producer must end.
    /// [`ClientError::TransactionUnknown`]: [`resolve`](TransactionalProducer::resolve) it.
    pub async fn commit(mut self) -> Result<Committed, ClientError> {
        let inner = self.inner.clone();
        inner.producer.flush().await;
        if let Some(error) = inner.producer.failure() {
            // The abort may find out why it failed: its time was over, or another producer has the id.
            let identity = self.identity;
            let state = self.ends.as_mut().expect("it has not ended");
            let aborted = inner.abort(identity, state).await;
            self.ends = None;
            return Err(match aborted {
                // The coordinator still takes it for this life's: so what fenced it was its own abort.
                Ok(None) => timed_out(error),
                Ok(Some(why @ ClientError::TransactionTimedOut(_))) | Err(why @ ClientError::ProducerFenced { .. }) => {
                    why
                }
                _ => error,
            });
        }
        let state = self.ends.as_mut().expect("it has not ended");
        // Until there is an answer nobody knows, also if this call is dropped.
        let unknown = |failed: &CallFailed| {
            ClientError::TransactionUnknown(failed.failure.rejection(&inner.calls.context("commit the transaction")))
        };
        let not_asked = CallFailed {
            failure: crate::wire_error::Failure::local(tonic::Code::Cancelled, "the commit was not waited for", false),
            in_doubt: true,
        };
        **state = State::Unresolved(self.identity, unknown(&not_asked));
        let ended = inner.calls.end(self.identity, true, inner.options.early).await;
        let committed = match ended {
            Ok((next, visible)) => {
                inner.note_committed(self.identity);
                **state = State::Ready(next);
                Ok(Committed { visible })
            }
            Err(failed) if is_lost(&failed) => {
                **state = State::Used(self.identity);
                Err(inner.why_over(state, failed).await)
            }
            Err(failed) => {
                let error = unknown(&failed);
                **state = State::Unresolved(self.identity, error.clone());
                Err(error)
            }
        };
        self.ends = None;
        committed
    }

    /// Drops what is not sent, and aborts: nothing of the transaction will be seen.
    ///
    /// # Errors
    /// [`ClientError::ProducerFenced`]: this producer must end. When the coordinator does not answer, it aborts the transaction when the
    /// next one begins, or when its time is over.
    pub async fn abort(mut self) -> Result<(), ClientError> {
        let inner = self.inner.clone();
        let identity = self.identity;
        let state = self.ends.as_mut().expect("it has not ended");
        let aborted = inner.abort(identity, state).await;
        self.ends = None;
        aborted.map(drop)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        let Some(mut state) = self.ends.take() else { return };
        // A commit that was under way is resolved by the caller, not undone.
        if !matches!(*state, State::Used(_)) {
            return;
        }
        let (inner, identity) = (self.inner.clone(), self.identity);
        inner.runtime.clone().spawn(async move {
            if let Err(error) = inner.abort(identity, &mut state).await {
                tracing::warn!(id = %inner.id, %error, "a transaction that was dropped is not aborted yet");
            }
        });
    }
}
