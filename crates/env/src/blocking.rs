//! Where work is done that blocks: reads from disk, encoding of large states. It must not hold up the runtime's workers, on which
//! heartbeats and votes run.

use std::fmt;

/// How such work is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On the blocking threads of the tokio runtime that the caller is on.
    Threads,
    /// By the caller, at once. Of a simulation, in which nothing blocks and no thread may decide what comes first.
    Inline,
}

/// The work was not finished: it panicked, or the runtime stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished(String);

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfinished {}

impl Blocking {
    /// Starts `work`, and waits until it has ended. It goes on if the caller stops waiting.
    ///
    /// # Errors
    /// It panicked, or the runtime stops and has not begun with it.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unfinished> {
        match self {
            Self::Threads => {
                let running = tokio::task::spawn_blocking(work);
                running.await.map_err(|error| Unfinished(error.to_string()))
            }
            Self::Inline => Ok(work()),
        }
    }

    /// Starts `work` without waiting for it. Inline, it is over when this returns.
    pub fn start(self, work: impl FnOnce() + Send + 'static) {
        match self {
            Self::Threads => drop(tokio::task::spawn_blocking(work)),
            Self::Inline => work(),
        }
    }

    /// How many pieces of work can be under way at once without sharing a processor.
    pub fn processors(self) -> usize {
        match self {
            Self::Threads => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Inline => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_or_here() {
        let here = thread::current().id();
        let elsewhere = Blocking::Threads.run(|| thread::current().id()).await;
        assert_ne!(elsewhere.expect("it does not panic"), here);
        let inline = Blocking::Inline.run(|| thread::current().id()).await;
        assert_eq!(inline.expect("it does not panic"), here);
    }

    #[tokio::test]
    async fn work_that_panics_on_a_thread_is_told_of() {
        let unfinished = Blocking::Threads.run(|| panic!("on purpose")).await;
        let unfinished = unfinished.expect_err("it panicked").to_string();
        assert!(unfinished.contains("on purpose"), "{unfinished}");
    }
}
