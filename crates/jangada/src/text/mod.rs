//! Records as text: lines in, lines, JSON or formatted text out. Pure: bytes in, bytes out.

pub mod encoding;
pub mod format;
pub mod jsonl;
pub mod lines;
