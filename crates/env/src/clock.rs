//! The wall clock: what people call the time. It may be set, and jump; whatever measures how long something takes reads the
//! runtime's clock (`tokio::time::Instant`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub trait WallClock: Send + Sync + 'static {
    /// The time now, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A clock before 1970 is set wrong; time stamps then are too.
            Err(_) => 0,
        }
    }
}

/// For tests only: the system's clock, off by as many milliseconds as a file says at the moment. The variable
/// `JANGADA_CLOCK_OFFSET_FILE` names it when the program starts; while there is no such file the clock is right.
struct OffsetClock {
    offset_ms: PathBuf,
}

impl WallClock for OffsetClock {
    fn now_ms(&self) -> i64 {
        let text = std::fs::read_to_string(&self.offset_ms).unwrap_or_default();
        SystemClock.now_ms() + text.trim().parse::<i64>().unwrap_or(0)
    }
}

/// The system's clock, or what a test makes of it.
pub(crate) fn system() -> Arc<dyn WallClock> {
    match std::env::var_os("JANGADA_CLOCK_OFFSET_FILE") {
        None => Arc::new(SystemClock),
        Some(file) => {
            tracing::warn!(?file, "the wall clock is off by what a file says: this is for tests");
            Arc::new(OffsetClock { offset_ms: file.into() })
        }
    }
}
