//! A consumer that takes no more than its handler can do.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, pending};
use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_client::{Client, ClientError, ConsumedRecord, Env, GroupConsumer, OffsetCommit, Reason};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::attempts::{Attempts, Ended};
use super::config::{Failure, FlowConfig};
use super::members::Members;
use super::rate::TokenBucket;
use crate::error::PatternError;

/// How often the state is looked at while partitions are paused.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a flow is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowState {
    /// Records that are taken and not finished.
    pub under_way: usize,
    /// Records that are in work, or wait between attempts.
    pub in_work: usize,
    /// Partitions are paused: as much is under way as may be, or the breaker is open.
    pub is_paused: bool,
    /// The breaker is open.
    pub is_broken: bool,
    /// What it has done so far.
    pub tally: FlowTally,
}

/// What a flow has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTally {
    /// Records that the handler has handled.
    pub handled: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Records that became dead letters.
    pub dead: u64,
    /// How often partitions were paused.
    pub pauses: u64,
}

/// A member of a consumer group with bounded concurrency, order by key, a rate and a circuit breaker.
///
/// ```no_run
/// # async fn store(record: &jangada_client::ConsumedRecord) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_patterns::PatternError> {
/// use jangada_client::Env;
/// use jangada_patterns::flow::{BreakerConfig, Flow, FlowConfig};
///
/// let mut config = FlowConfig::new("warehouse", ["orders"]);
/// config.concurrency = 16;
/// config.rate = Some((500.0, 50));
/// config.breaker = Some(BreakerConfig::default());
/// let flow = Flow::start(&client, config, Env::system())?;
/// let until = async { tokio::signal::ctrl_c().await.ok(); };
/// let tally = flow.run(until, |record| async move { Ok(store(&record).await?) }).await?;
/// println!("{} records were handled", tally.handled);
/// # Ok(())
/// # }
/// ```
pub struct Flow {
    consumer: GroupConsumer,
    config: FlowConfig,
    members: Members,
    env: Env,
    state: watch::Sender<FlowState>,
}

impl Flow {
    /// Joins the group. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`PatternError::Config`] and those of [`Client::group_consumer_with`].
    pub fn start(client: &Client, config: FlowConfig, env: Env) -> Result<Self, PatternError> {
        let members = Members::default();
        let consumer = client.group_consumer_with(config.checked()?, Arc::new(members.clone()))?;
        Ok(Self {
            consumer,
            config,
            members,
            env,
            state: watch::Sender::default(),
        })
    }

    /// What it is doing, as it changes.
    pub fn watch(&self) -> watch::Receiver<FlowState> {
        self.state.subscribe()
    }

    /// Handles records until `stop` ends. Then what has begun is ended, without further attempts, what is finished is committed, and the
    /// group is left.
    ///
    /// The handler is called with one record at a time of each key, for at most `concurrency` at once, in the caller's task.
    ///
    /// # Errors
    /// [`PatternError::Handler`] when a record failed as often as it may and there are no dead letters; [`PatternError::Client`] for what
    /// no retry mends. What is finished is committed all the same.
    pub async fn run<H, F>(self, stop: impl Future<Output = ()>, handler: H) -> Result<FlowTally, PatternError>
    where
        H: Fn(Arc<ConsumedRecord>) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        let now = Instant::now();
        let attempts = Attempts::new(&self.config, &self.members, &self.env);
        let mut run = Run {
            attempts: &attempts,
            state: &self.state,
            bucket: self.config.rate.map(|(rate, burst)| TokenBucket::new(rate, burst, now)),
            has_token: false,
            begin_at: None,
            paused: BTreeSet::new(),
            is_paused: false,
            tally: FlowTally::default(),
        };
        let mut consumer = self.consumer;
        let ended = run.run(&mut consumer, stop, &handler).await;
        run.show();
        let committed = match self.members.to_commit() {
            Some((handle, commits)) => handle.commit_offsets(&commits).await,
            None => Ok(()),
        };
        let closed = consumer.close().await;
        ended?;
        committed.or_else(unless_lost)?;
        closed.or_else(unless_lost)?;
        Ok(run.tally)
    }
}

/// What a member could not commit as it lost its partitions comes again: that is what at least once means.
fn unless_lost(error: ClientError) -> Result<(), ClientError> {
    let is_lost = matches!(error, ClientError::MembershipLost(_)) || error.reason() == Some(Reason::PartitionNotOwned);
    if is_lost { Ok(()) } else { Err(error) }
}

/// Waits for ever without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

type Committing = BoxFuture<'static, (Vec<OffsetCommit>, Result<(), ClientError>)>;

/// A flow that runs.
struct Run<'f> {
    attempts: &'f Attempts<'f>,
    state: &'f watch::Sender<FlowState>,
    bucket: Option<TokenBucket>,
    /// The rate lets a record begin, and none has as yet.
    has_token: bool,
    /// When the rate lets the next record begin; none: now.
    begin_at: Option<Instant>,
    /// Partitions that are paused, by topic and index.
    paused: BTreeSet<(Arc<str>, u32)>,
    is_paused: bool,
    tally: FlowTally,
}

impl Run<'_> {
    async fn run<H, F>(
        &mut self,
        consumer: &mut GroupConsumer,
        stop: impl Future<Output = ()>,
        handler: &H,
    ) -> Result<(), PatternError>
    where
        H: Fn(Arc<ConsumedRecord>) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        let mut stop = pin!(stop.fuse());
        let attempts = self.attempts;
        let mut working = FuturesUnordered::new();
        let mut committing: Option<Committing> = None;
        let mut commit_at = Instant::now() + attempts.config.commit_interval;
        let mut failed = loop {
            while working.len() < attempts.config.concurrency && self.may_begin() {
                let Some((lane, taken)) = attempts.members.begin() else {
                    break;
                };
                self.has_token = false;
                working.push(attempts.work(lane, taken, handler));
            }
            self.steer(consumer)?;
            self.show();
            tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                Some(ended) = working.next(), if !working.is_empty() => if let Err(error) = self.count(ended) {
                    break Err(error);
                },
                (commits, committed) = async { committing.as_mut().expect("it is there").await }, if committing.is_some() => {
                    committing = None;
                    match committed.or_else(unless_lost) {
                        Ok(()) => attempts.members.work().progress.committed(&commits),
                        Err(error) if error.is_retryable() => tracing::warn!(%error, "offsets are committed later"),
                        Err(error) => break Err(error.into()),
                    }
                }
                () = sleep_until(commit_at) => {
                    commit_at = Instant::now() + attempts.config.commit_interval;
                    if committing.is_none() && let Some((handle, commits)) = attempts.members.to_commit() {
                        committing = Some(async move {
                            let committed = handle.commit_offsets(&commits).await;
                            (commits, committed)
                        }.boxed());
                    }
                }
                () = until(self.begin_at) => self.begin_at = None,
                () = sleep(LOOK_INTERVAL), if self.is_paused => {}
                record = consumer.next() => match record {
                    Ok(record) => {
                        // One that came back meanwhile is not paused any more.
                        self.paused.remove(&(record.topic.clone(), record.partition));
                        attempts.members.push(record);
                    }
                    Err(error) if error.is_retryable() => tracing::warn!(%error, "a partition is tried again"),
                    Err(error) => break Err(error.into()),
                },
            }
        };
        attempts.stop();
        while let Some(ended) = working.next().await {
            failed = failed.and(self.count(ended));
        }
        if let Some(committing) = committing {
            let (commits, committed) = committing.await;
            if committed.is_ok() {
                attempts.members.work().progress.committed(&commits);
            }
        }
        failed
    }

    /// Whether the rate lets a record begin now.
    fn may_begin(&mut self) -> bool {
        let Some(bucket) = self.bucket.as_mut().filter(|_| !self.has_token) else {
            return true;
        };
        let now = Instant::now();
        match bucket.take(now) {
            Ok(()) => self.has_token = true,
            Err(wait) => self.begin_at = Some(now + wait),
        }
        self.has_token
    }

    fn count(&mut self, ended: Ended) -> Result<(), PatternError> {
        match ended {
            Ended::Handled => self.tally.handled += 1,
            Ended::Dead => self.tally.dead += 1,
            Ended::Left => {}
            Ended::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Pauses and resumes partitions by what is under way.
    fn steer(&mut self, consumer: &mut GroupConsumer) -> Result<(), PatternError> {
        let attempts = self.attempts;
        let under_way = attempts.members.work().progress.under_way();
        let most = attempts.config.in_flight_max;
        let is_broken = attempts.is_broken();
        let pauses = is_broken || under_way >= if self.is_paused { most.div_ceil(2) } else { most };
        if !pauses && !self.is_paused {
            return Ok(());
        }
        let owned = consumer.assignment();
        self.tally.pauses += u64::from(pauses && !self.is_paused);
        self.is_paused = pauses;
        if pauses {
            self.paused.retain(|(topic, partition)| {
                owned
                    .iter()
                    .any(|owned| owned.topic == *topic && owned.partition == *partition)
            });
            for partition in owned {
                if self.paused.insert((partition.topic.clone(), partition.partition)) {
                    consumer.pause(&partition.topic, partition.partition)?;
                }
            }
        } else {
            self.paused.clear();
            for partition in owned {
                consumer.resume(&partition.topic, partition.partition)?;
            }
        }
        Ok(())
    }

    fn show(&mut self) {
        let attempts = self.attempts;
        self.tally.failed_attempts = attempts.failed();
        let (under_way, in_work) = {
            let work = attempts.members.work();
            (work.progress.under_way(), work.lanes.in_work())
        };
        let now = FlowState {
            under_way,
            in_work,
            is_paused: self.is_paused,
            is_broken: attempts.is_broken(),
            tally: self.tally,
        };
        self.state
            .send_if_modified(|state| std::mem::replace(state, now) != now);
    }
}
