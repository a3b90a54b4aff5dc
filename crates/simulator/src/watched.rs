//! Sees to it that a simulation ends, and that one which fails shows how far it came.
//!
//! A task that never waits, because it waits for time in a loop, stops the clock of everybody for good. No timer of the simulation can
//! find that, so a thread looks at the system's clock; it takes no part in what happens.

use std::process::abort;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, Builder};
use std::time::Duration;

use crate::trace::Trace;

/// A simulation while it runs.
pub(crate) struct Watched {
    trace: Trace,
    _ends: SyncSender<()>,
}

impl Watched {
    /// The simulation may last so long, of the system's time.
    pub fn begin(trace: &Trace, seed: u64, real_max: Duration) -> Self {
        let (ends, ended) = sync_channel(0);
        let shown = trace.clone();
        let watch = move || {
            if ended.recv_timeout(real_max) == Err(RecvTimeoutError::Timeout) {
                shown.show_end();
                give_up(seed, real_max);
            }
        };
        let watching = Builder::new().name("watch".to_owned()).spawn(watch);
        watching.expect("the system has a thread");
        Self {
            trace: trace.clone(),
            _ends: ends,
        }
    }
}

#[allow(clippy::print_stderr, reason = "it is the message of the test that fails")]
fn give_up(seed: u64, real_max: Duration) -> ! {
    eprintln!(
        "the simulation of seed {seed} has not ended after {real_max:?}; does a task wait for time without sleeping?"
    );
    abort()
}

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            self.trace.show_end();
        }
    }
}
