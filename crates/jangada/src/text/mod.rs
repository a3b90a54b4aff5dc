//! Records as text: reads lines and JSON, writes lines, JSON and formatted text. Pure: bytes in, bytes out.

pub mod encoding;
pub mod format;
pub mod jsonl;
pub mod lines;
pub mod queue_jsonl;
