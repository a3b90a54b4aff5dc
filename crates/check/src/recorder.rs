//! Recording of a history by the tasks of a test.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use crate::call::{Call, Reply};
use crate::format::{self, Event};
use crate::history::operation::Outcome;
use crate::history::{History, Moment};
use crate::names::OperationId;
use crate::note::Note;

/// Nanoseconds on one monotonic clock, for example of a runtime's or a simulation's time since the start.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where the lines of a history go as it is recorded.
type Output = Box<dyn Write + Send>;

/// Records what several tasks call and are answered. A clone is another handle to the same recording. An event takes about a
/// microsecond under one lock, which also decides the order of events.
#[derive(Clone)]
pub struct Recorder {
    clock: Clock,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    history: History,
    /// How many histories were taken out before this one.
    taken_out: u64,
    index: u64,
    last_ns: u64,
    processes: u32,
    output: Option<Output>,
    write_error: Option<std::io::Error>,
}

/// A call that waits for its answer. One that is dropped has no known outcome, as when its task dies.
#[must_use = "a call that is dropped has an unknown outcome"]
pub struct Pending {
    recorder: Recorder,
    process: u32,
    id: OperationId,
    /// Which history it is in.
    of_history: u64,
    index: u64,
    is_answered: bool,
}

impl Recorder {
    /// A recording that has nothing yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            inner: Arc::default(),
        }
    }

    /// A recording that also writes each event as a line, so that the history of a test that dies is there.
    pub fn with_output(clock: Clock, output: impl Write + Send + 'static) -> Self {
        let inner = Inner {
            output: Some(Box::new(output)),
            ..Inner::default()
        };
        Self {
            clock,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// A number that no other process of this recording has.
    pub fn process(&self) -> u32 {
        let mut inner = self.lock();
        inner.processes += 1;
        inner.processes - 1
    }

    /// Records that a process calls something. To be called before the call is on its way.
    pub fn invoke(&self, process: u32, call: Call) -> Pending {
        let mut inner = self.lock();
        let at = inner.moment(&self.clock);
        inner.write(at, &Event::Invoke(process, &call));
        let id = inner
            .history
            .invoke(at, process, call)
            .expect("the recorder numbers events in order");
        Pending {
            recorder: self.clone(),
            process,
            id,
            of_history: inner.taken_out,
            index: at.index,
            is_answered: false,
        }
    }

    /// Records what is no call.
    ///
    /// # Panics
    /// The note is about a process, and none is given.
    pub fn note(&self, process: Option<u32>, note: Note) {
        let mut inner = self.lock();
        let at = inner.moment(&self.clock);
        inner.write(at, &Event::Note(process, &note));
        inner
            .history
            .note(at, process, note)
            .expect("the note names its process");
    }

    /// The history so far. What is called later begins another one; answers to what was called before belong to none, and are only written
    /// to the output.
    ///
    /// # Errors
    /// An event could not be written to the output.
    pub fn finish(&self) -> std::io::Result<History> {
        let mut inner = self.lock();
        if let Some(error) = inner.write_error.take() {
            return Err(error);
        }
        if let Some(output) = &mut inner.output {
            output.flush()?;
        }
        inner.taken_out += 1;
        Ok(std::mem::take(&mut inner.history))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A task that panicked has failed its test; what it recorded is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn moment(&mut self, clock: &Clock) -> Moment {
        // The clock is read under the lock, so times rise with the index even if it is not monotonic.
        self.last_ns = self.last_ns.max(clock());
        let index = self.index;
        self.index += 1;
        Moment {
            index,
            time_ns: self.last_ns,
        }
    }

    fn write(&mut self, at: Moment, event: &Event<'_>) {
        if self.write_error.is_some() {
            return;
        }
        if let Some(output) = &mut self.output
            && let Err(error) = format::write(output, at, event)
        {
            self.write_error = Some(error);
        }
    }
}

impl Pending {
    /// Records that the call has taken effect.
    ///
    /// # Panics
    /// The answer is of another kind of call.
    pub fn ok(mut self, reply: Reply) {
        let mut inner = self.recorder.lock();
        let at = inner.moment(&self.recorder.clock);
        inner.write(at, &Event::Ok(self.process, self.index, &reply));
        let added = match inner.taken_out == self.of_history {
            true => inner.history.ok(at, self.id, reply),
            false => Ok(()),
        };
        drop(inner);
        self.is_answered = true;
        added.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Records that the call has no effect, now or ever.
    pub fn fail(mut self) {
        self.end(Outcome::Failed);
    }

    /// Records that nobody knows what became of the call.
    pub fn unknown(mut self) {
        self.end(Outcome::Unknown);
    }

    fn end(&mut self, outcome: Outcome) {
        let mut inner = self.recorder.lock();
        let at = inner.moment(&self.recorder.clock);
        inner.write(at, &Event::Failed(self.process, self.index, outcome));
        let added = match outcome {
            _ if inner.taken_out != self.of_history => Ok(()),
            Outcome::Failed => inner.history.fail(at, self.id),
            _ => inner.history.unknown(at, self.id),
        };
        drop(inner);
        self.is_answered = true;
        // It is in its history, and has no other answer.
        debug_assert!(added.is_ok(), "{added:?}");
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_answered {
            self.end(Outcome::Unknown);
        }
    }
}
