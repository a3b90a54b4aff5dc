//! Work that must not hold up the runtime's workers, on which heartbeats and votes run: reading from disk, unpacking,
//! packing and checking batches. It runs on the runtime's blocking threads, a bounded number at once.

use std::sync::Arc;

use jangada_types::Reason;
use tokio::sync::Semaphore;

use crate::error::RequestError;

/// Work on fewer bytes than this takes less time than handing it over, unless it unpacks.
pub(crate) const SMALL_BYTES: usize = 64 * 1024;

/// See the module text. Clones share the bound.
#[derive(Clone)]
pub(crate) struct Pool {
    permits: Arc<Semaphore>,
}

impl Pool {
    pub fn new(at_once: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// One piece of work for each processor at once.
    pub fn of_processors() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Runs `work` when it is its turn. It goes on when the caller stops waiting, and counts until it has ended.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, RequestError> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.expect("the pool is never closed");
        let running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        running
            .await
            .map_err(|error| RequestError::new(Reason::Internal, format!("work was not finished: {error}")))
    }
}
