//! Notes for people on stderr.

use std::io::{self, Write as _};

/// Prints a note for the person at the terminal; never data. Stderr may be closed (`2>&1 | head`): that is no failure,
/// and `eprintln!` would panic.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
