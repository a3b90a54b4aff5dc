//! A redrive of dead letters that is under way.

use std::sync::Arc;

use bytes::Bytes;
use jangada_proto::v1;
use tokio::time::{Instant, sleep};
use tonic::Streaming;

use super::dead_letters::{Redrive, RedriveProgress};
use super::queues::{queue_error, service};
use crate::attempts::CallFailed;
use crate::backoff::Backoff;
use crate::cluster::{Cluster, Repeat};
use crate::error::ClientError;
use crate::wire_error::{Disposition, Failure};

/// A redrive of dead letters. It goes on while [`next`](Self::next) is called, and ends when it is dropped: what went out stays out.
pub struct Redriving {
    cluster: Arc<Cluster>,
    queue_id: Bytes,
    context: String,
    wanted: Redrive,
    progress: RedriveProgress,
    /// What was done before the call that is open.
    before: (u64, u64),
    call: Option<Streaming<v1::RedriveDeadResponse>>,
    /// A step was told.
    has_begun: bool,
    is_over: bool,
}

impl Redriving {
    pub(super) fn new(cluster: Arc<Cluster>, queue: &str, queue_id: Bytes, wanted: Redrive) -> Self {
        let progress = RedriveProgress {
            left: wanted.places.clone(),
            ..RedriveProgress::default()
        };
        Self {
            cluster,
            queue_id,
            context: format!("redrive dead letters of queue {queue}"),
            wanted,
            progress,
            before: (0, 0),
            call: None,
            has_begun: false,
            is_over: false,
        }
    }

    /// How far it is. After an error a new redrive goes on from `left`.
    pub fn progress(&self) -> &RedriveProgress {
        &self.progress
    }

    /// Waits for a step. `None`: all is done. When a broker fails another one goes on, for up to `retry_timeout` without a step; letters of
    /// the step that was under way may then be missing in the count.
    ///
    /// # Errors
    /// [`ClientError::Refused`], and what else no retry mends.
    pub async fn next(&mut self) -> Option<Result<RedriveProgress, ClientError>> {
        if self.is_over {
            return None;
        }
        let step = self.step().await;
        self.is_over = !matches!(step, Ok(Some(_)));
        step.transpose()
    }

    async fn step(&mut self) -> Result<Option<RedriveProgress>, ClientError> {
        let mut backoff = Backoff::new(&self.cluster.env.random);
        let deadline = Instant::now() + self.cluster.config.retry_timeout;
        loop {
            let call = match self.call.take() {
                Some(call) => call,
                None => Self::open(&self.cluster, self.request(), &self.context).await?,
            };
            let failure = match self.call.insert(call).message().await {
                Ok(Some(said)) => {
                    self.progress = RedriveProgress::from_wire(self.before, said);
                    self.has_begun = true;
                    return Ok(Some(self.progress.clone()));
                }
                Ok(None) => return Ok(None),
                Err(status) => Failure::from(status),
            };
            self.call = None;
            self.before = (self.progress.messages, self.progress.refused);
            if self.has_begun && self.progress.left.is_empty() {
                // All is done, and only the end of the call was lost.
                return Ok(None);
            }
            let delay = backoff.next(failure.retry_delay);
            if failure.disposition() == Disposition::Refuse || Instant::now() + delay >= deadline {
                let in_doubt = failure.disposition() == Disposition::Unknown;
                return Err(queue_error(CallFailed { failure, in_doubt }, &self.context));
            }
            sleep(delay).await;
        }
    }

    fn request(&self) -> v1::RedriveDeadRequest {
        let places = self.progress.left.iter().map(|(partition, offset)| v1::DeadPlace {
            partition: *partition,
            offset: *offset,
        });
        v1::RedriveDeadRequest {
            queue_id: self.queue_id.clone(),
            places: places.collect(),
            filter: Some(self.wanted.filter.wire()),
            rate: self.wanted.rate,
            dry_run: self.wanted.dry_run,
            ..v1::RedriveDeadRequest::default()
        }
    }

    async fn open(
        cluster: &Cluster,
        request: v1::RedriveDeadRequest,
        context: &str,
    ) -> Result<Streaming<v1::RedriveDeadResponse>, ClientError> {
        // To begin twice does no harm: what went out is not dead any more.
        let opened = cluster.call_any(context, Repeat::Always, |channel| {
            let request = request.clone();
            async move { service(channel).redrive_dead(request).await }
        });
        opened.await.map_err(|failed| queue_error(failed, context))
    }
}
