//! Runs work that would block the runtime's workers, on which heartbeats and votes run: reads from disk, and decompressing,
//! compressing and checking batches. It runs on the runtime's blocking threads, a bounded number of pieces at once.

use std::sync::Arc;

use jangada_env::Blocking;
use jangada_types::Reason;
use tokio::sync::Semaphore;

use crate::error::RequestError;

/// Work on fewer bytes than this takes less time than handing it to another thread, unless it decompresses.
pub(crate) const SMALL_BYTES: usize = 64 * 1024;

/// A bound on how much work runs at once. Clones share it.
#[derive(Clone)]
pub(crate) struct Pool {
    blocking: Blocking,
    permits: Arc<Semaphore>,
}

impl Pool {
    pub fn new(at_once: usize, blocking: Blocking) -> Self {
        Self {
            blocking,
            permits: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// A pool that runs one piece of work per CPU at once.
    pub fn per_cpu(blocking: Blocking) -> Self {
        Self::new(blocking.processors(), blocking)
    }

    /// Waits for a permit and runs `work`. When this future is dropped, work that has begun goes on, and holds its permit until it
    /// ends.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, RequestError> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.expect("the pool is never closed");
        let running = self.blocking.run(move || {
            let _permit = permit;
            work()
        });
        running.await.map_err(|error| {
            RequestError::new(Reason::Internal, format!("a task on the blocking pool failed: {error}"))
        })
    }
}
