//! What happened in a simulation, line by line, each with the time at which it did: what brokers and clients log, when a message
//! was sent, and what a test notes.

use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Lines of the trace that a simulation which fails shows.
const LINES_SHOWN: usize = 40;

/// The lines that were written so far. Clones are the same trace.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    /// The simulation is over: what its tasks still do while they are dropped has no time.
    is_over: bool,
}

impl Written {
    fn add(&mut self, bytes: &[u8]) {
        if !self.is_over {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

impl Trace {
    /// Adds a line.
    pub(crate) fn note(&self, began: Instant, text: fmt::Arguments<'_>) {
        let line = format!("{} {text}\n", passed(began));
        self.0.lock().add(line.as_bytes());
    }

    /// Nothing is added any more.
    pub(crate) fn end(&self) {
        self.0.lock().is_over = true;
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        let written = self.0.lock();
        String::from_utf8_lossy(&written.bytes)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Shows the last lines, for a simulation that has failed.
    #[allow(clippy::print_stderr, reason = "it belongs to the message of the test that fails")]
    pub(crate) fn show_end(&self) {
        let lines = self.lines();
        let end = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        eprintln!("the end of the trace:\n{}", end.join("\n"));
    }

    /// The first line in which two traces differ, of each what it has there, and its number.
    pub fn first_difference(&self, other: &Self) -> Option<(usize, String, String)> {
        let (mine, others) = (self.lines(), other.lines());
        let at = |lines: &[String], line: usize| lines.get(line).cloned().unwrap_or_else(|| "(the end)".to_owned());
        let differs = |line: &usize| mine.get(*line) != others.get(*line);
        let line = (0..mine.len().max(others.len())).find(differs)?;
        Some((line + 1, at(&mine, line), at(&others, line)))
    }
}

fn passed(began: Instant) -> String {
    format!("{:>9.3}", began.elapsed().as_secs_f64())
}

/// Time in the log of a simulation.
pub(crate) struct Since(pub Instant);

impl FormatTime for Since {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&passed(self.0))
    }
}

impl<'a> MakeWriter<'a> for Trace {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        Lines(self.clone())
    }
}

/// Writes log lines to a trace.
pub struct Lines(Trace);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
