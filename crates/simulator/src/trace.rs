//! What happened in a simulation, line by line, each with the time at which it did: what brokers and clients log, when a message
//! was sent, and what a test notes.
//!
//! Thousands of simulations in a row need only know whether two of them were the same: then no line is kept, nothing is logged, and what
//! is sent and noted goes into a hash. That is made in either case, from the same.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::clock::Time;
use crate::current::{Who, with_current};

/// Lines of the trace that a simulation which fails shows.
const LINES_SHOWN: usize = 40;
/// A prime (FNV-1a's, for 64 bits), by which the hash is multiplied.
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// Where the hash begins (FNV-1a's).
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// What of a simulation is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceMode {
    /// All lines are kept.
    #[default]
    Kept,
    /// Only the hash of what is sent and noted. Nothing is logged.
    Hashed,
}

/// The lines that were written so far. Clones are the same trace.
#[derive(Clone)]
pub struct Trace {
    time: Arc<Time>,
    mode: TraceMode,
    written: Arc<Mutex<Written>>,
}

struct Written {
    bytes: Vec<u8>,
    hash: u64,
    /// What the play does, in its own words.
    hint: String,
    /// The simulation is over: what its tasks still do while they are dropped has no time.
    is_over: bool,
}

impl Written {
    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(PRIME).rotate_left(29);
    }
}

/// Mixes text into the hash as it is written.
struct Mixing<'a>(&'a mut Written);

impl fmt::Write for Mixing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Byte by byte, since the pieces of a text may be cut in another way.
        text.bytes().for_each(|byte| self.0.mix(byte.into()));
        Ok(())
    }
}

impl Trace {
    pub(crate) fn new(time: Arc<Time>, mode: TraceMode) -> Self {
        let written = Written {
            bytes: Vec::new(),
            hash: BASIS,
            hint: String::new(),
            is_over: false,
        };
        Self {
            time,
            mode,
            written: Arc::new(Mutex::new(written)),
        }
    }

    /// Adds a line.
    pub(crate) fn note(&self, text: fmt::Arguments<'_>) {
        self.add(text, |written| {
            let _ = Mixing(written).write_fmt(text);
        });
    }

    /// Adds a line about something that a few numbers tell as well.
    pub(crate) fn event(&self, numbers: &[u64], text: fmt::Arguments<'_>) {
        self.add(text, |written| numbers.iter().for_each(|number| written.mix(*number)));
    }

    fn add(&self, text: fmt::Arguments<'_>, mix: impl FnOnce(&mut Written)) {
        if with_current(|who| who.is_some_and(Who::is_dead)) {
            return;
        }
        let now = self.time.now();
        let mut written = self.written.lock();
        if written.is_over {
            return;
        }
        written.mix(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        mix(&mut written);
        if self.mode == TraceMode::Kept {
            let line = format!("{} {text}\n", passed(now));
            written.bytes.extend_from_slice(line.as_bytes());
        }
    }

    /// What is shown first when the simulation does not end.
    pub(crate) fn set_hint(&self, hint: String) {
        self.written.lock().hint = hint;
    }

    /// Nothing is added any more.
    pub(crate) fn end(&self) {
        self.written.lock().is_over = true;
    }

    /// An order-dependent hash of what was sent and noted, with its times. It is the same whether lines are kept or not.
    pub fn hash(&self) -> u64 {
        self.written.lock().hash
    }

    /// All lines so far; none if they are not kept.
    pub fn lines(&self) -> Vec<String> {
        let written = self.written.lock();
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
        let hint = self.written.lock().hint.clone();
        let now = passed(self.time.now());
        eprintln!("at {now}, {hint}; the end of the trace:\n{}", end.join("\n"));
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

fn passed(now: Duration) -> String {
    format!("{:>9.3}", now.as_secs_f64())
}

/// Time in the log of a simulation, and whose turn it is.
pub(crate) struct Since(pub Arc<Time>);

impl FormatTime for Since {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&passed(self.0.now()))?;
        with_current(|who| match who {
            Some(who) => write!(writer, " {}", who.name),
            None => Ok(()),
        })
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
        let is_dead = with_current(|who| who.is_some_and(Who::is_dead));
        let mut written = self.0.written.lock();
        if !is_dead && !written.is_over {
            written.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
