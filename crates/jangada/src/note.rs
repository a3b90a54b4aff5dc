//! Notes for people on stderr.

use std::io::{self, Write as _};

/// A note for the person at the terminal; never data. Nobody may be there (`2>&1 | head`): that is no failure, and `eprintln!` would
/// panic.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
