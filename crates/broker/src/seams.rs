//! What the broker takes from the world besides disk and network, as seams: the wall clock and randomness. Who needs
//! them gets them through its constructor, so that a simulation can give others.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub trait WallClock: Send + Sync + 'static {
    /// Now.
    fn now_ms(&self) -> i64;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A clock before 1970 is set wrong; time stamps then are too.
            Err(_) => 0,
        }
    }
}

/// Where new ids come from: of data directories, clusters and topics.
pub trait IdSource: Send + Sync + 'static {
    /// 128 bits that nobody had before (a random UUID, RFC 9562).
    fn new_id(&self) -> uuid::Uuid;
}

/// The system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn new_id(&self) -> uuid::Uuid {
        uuid::Uuid::new_v4()
    }
}

/// All of them.
#[derive(Clone)]
pub struct Seams {
    /// The wall clock.
    pub clock: Arc<dyn WallClock>,
    /// New ids.
    pub ids: Arc<dyn IdSource>,
}

impl Seams {
    /// Those of a real broker.
    pub fn of_system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        }
    }
}
