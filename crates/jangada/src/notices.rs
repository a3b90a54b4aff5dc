//! Writes the client's notices to stderr.
//!
//! The client calls from its own tasks, which must not wait for a slow reader of stderr: a thread writes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jangada_client::{Notice, OnNotice};

use crate::note::note;

/// Most lines that may wait to be written; further ones are only counted.
const WAITING_MAX: usize = 256;

/// Timeout of writing the last lines at the end of a command, and the interval at which that is checked.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
const FLUSH_POLL_INTERVAL: Duration = Duration::from_millis(10);

static PRINTER: OnceLock<SyncSender<Line>> = OnceLock::new();

/// Number of lines that found no room since that was last reported.
static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

enum Line {
    Text(String),
    /// Answered when all lines before it are written.
    Written(SyncSender<()>),
}

/// An observer that writes notices to stderr.
pub fn on_stderr() -> OnNotice {
    OnNotice::new(|notice| {
        // A batch that is given up is the command's own result.
        if matches!(notice, Notice::GivenUp { .. }) {
            return;
        }
        let severity = if notice.is_info() { "note" } else { "warning" };
        if printer().try_send(Line::Text(format!("{severity}: {notice}"))).is_err() {
            DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Waits until the lines so far are written, if stderr is read.
pub fn settle() {
    if let Some(printer) = PRINTER.get() {
        let (written, waiting) = sync_channel(1);
        let until = Instant::now() + FLUSH_TIMEOUT;
        let mut line = Line::Written(written);
        while let Err(TrySendError::Full(again)) = printer.try_send(line) {
            if Instant::now() >= until {
                return;
            }
            sleep(FLUSH_POLL_INTERVAL);
            line = again;
        }
        let _ = waiting.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn printer() -> &'static SyncSender<Line> {
    PRINTER.get_or_init(|| {
        let (sender, lines) = sync_channel(WAITING_MAX);
        std::thread::spawn(move || print(&lines, &DROPPED_LINES, note));
        sender
    })
}

/// Writes lines as they come, and, whenever it has caught up, how many were dropped.
fn print(lines: &Receiver<Line>, dropped: &AtomicU64, mut write: impl FnMut(&str)) {
    loop {
        let line = lines.try_recv();
        if matches!(line, Err(_) | Ok(Line::Written(_))) {
            match dropped.swap(0, Ordering::Relaxed) {
                0 => {}
                1 => write("warning: 1 more notice is left out: stderr is read too slowly"),
                more => write(&format!(
                    "warning: {more} more notices are left out: stderr is read too slowly"
                )),
            }
        }
        let Ok(line) = line.or_else(|_| lines.recv()) else {
            return;
        };
        match line {
            Line::Text(text) => write(&text),
            Line::Written(written) => drop(written.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_found_no_room_are_counted_behind_those_that_did() {
        let (sender, lines) = sync_channel(4);
        let dropped = AtomicU64::new(3);
        for line in ["a", "b"] {
            sender.try_send(Line::Text(line.to_owned())).expect("there is room");
        }
        let (written, waiting) = sync_channel(1);
        sender.try_send(Line::Written(written)).expect("there is room");
        sender.try_send(Line::Text("c".to_owned())).expect("there is room");
        drop(sender);
        let mut told = Vec::new();
        print(&lines, &dropped, |line| told.push(line.to_owned()));
        waiting.try_recv().expect("it is answered");
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[2].contains("3 more notices are left out"), "{told:?}");
        assert_eq!(told[3], "c");
    }
}
