//! What the client tells of what it does by itself, on stderr.
//!
//! The client calls from its own tasks, which must not wait for somebody to read stderr: a thread writes.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use jangada_client::{Notice, OnNotice};

use crate::output::note;

/// Lines that may wait to be written; more are not told.
const WAITING_MAX: usize = 256;

/// How long the end of a command waits for the last lines.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

static PRINTER: OnceLock<SyncSender<Line>> = OnceLock::new();

enum Line {
    Text(String),
    /// Answered when everything before is written.
    Written(SyncSender<()>),
}

/// An observer that writes notices to stderr.
pub fn on_stderr() -> OnNotice {
    OnNotice::new(|notice| {
        // Whatever is given up is the command's own result.
        if matches!(notice, Notice::GivenUp { .. }) {
            return;
        }
        let severity = if notice.is_info() { "note" } else { "warning" };
        let _ = printer().try_send(Line::Text(format!("{severity}: {notice}")));
    })
}

/// Waits until what was told is written, if somebody reads it.
pub fn settle() {
    if let Some(printer) = PRINTER.get() {
        let (written, waiting) = sync_channel(1);
        if printer.try_send(Line::Written(written)).is_ok() {
            let _ = waiting.recv_timeout(WRITTEN_WITHIN);
        }
    }
}

fn printer() -> &'static SyncSender<Line> {
    PRINTER.get_or_init(|| {
        let (sender, lines) = sync_channel(WAITING_MAX);
        std::thread::spawn(move || print(&lines));
        sender
    })
}

fn print(lines: &Receiver<Line>) {
    for line in lines {
        match line {
            Line::Text(text) => note(&text),
            Line::Written(written) => drop(written.try_send(())),
        }
    }
}
