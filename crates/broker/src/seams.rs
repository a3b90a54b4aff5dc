//! What the broker takes from the world besides disk and network, as seams: the wall clock and randomness. Who needs
//! them gets them through its constructor, so that a simulation can give others.

use std::path::PathBuf;
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

/// For tests only: the system's clock, off by as many milliseconds as a file says at the moment. The variable
/// `JANGADA_CLOCK_OFFSET_FILE` names it when the broker starts; while there is no such file the clock is right.
struct OffsetClock {
    offset_ms: PathBuf,
}

impl WallClock for OffsetClock {
    fn now_ms(&self) -> i64 {
        let text = std::fs::read_to_string(&self.offset_ms).unwrap_or_default();
        SystemClock.now_ms() + text.trim().parse::<i64>().unwrap_or(0)
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
        let clock: Arc<dyn WallClock> = match std::env::var_os("JANGADA_CLOCK_OFFSET_FILE") {
            None => Arc::new(SystemClock),
            Some(file) => {
                tracing::warn!(?file, "the wall clock is off by what a file says: this is for tests");
                Arc::new(OffsetClock { offset_ms: file.into() })
            }
        };
        Self {
            clock,
            ids: Arc::new(RandomIds),
        }
    }
}
