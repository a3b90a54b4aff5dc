//! Progress of long work, on stderr, and only on a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar over a known number of bytes; without one, a spinner that counts them.
pub fn bytes(total: Option<u64>, what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match total {
        Some(total) => {
            ProgressBar::new(total).with_style(style("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"))
        }
        None => ProgressBar::new_spinner().with_style(style("{spinner} {msg} {bytes} {bytes_per_sec}")),
    };
    shown(bar, what)
}

/// A spinner with a line that says what is waited for.
pub fn waiting(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    shown(
        ProgressBar::new_spinner().with_style(style("{spinner} {msg} ({elapsed})")),
        what,
    )
}

fn shown(bar: ProgressBar, what: &str) -> ProgressBar {
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid")
}
